"""The plan file on disk: written by `plan --out`, read and held to by `apply`."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from provisioner.cli.run import prepare
from provisioner.errors.exceptions import InvalidInputError, StalePlanError, WrongUsageError
from provisioner.manifests import load
from provisioner.manifests.text import read_bytes, reason
from provisioner.plan import selected_keys
from provisioner.planfile import (
    MAX_BYTES,
    PlanFileInput,
    SavedOptions,
    UnreadablePlanFile,
    document,
    may_overwrite,
    read,
    stale_plan,
    text,
    was_edited,
    why_unwritable,
)
from provisioner.render.json import plan_document
from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.cli.console import Console
    from provisioner.cli.options import GuardOptions, PlanFlags, Selection
    from provisioner.cli.run import Prepared
    from provisioner.plan import Plan
    from provisioner.planfile import PlanFile
    from provisioner.reconcile.reconciler import Reconciler

_HEAD = 64
"""Bytes by which a plan file is known."""

_CARRIED = {
    "environment": "--environment",
    "only": "--only",
    "prune": "--prune",
    "dedupe": "--dedupe",
    "redeliver": "--redeliver",
    "max_revoke": "--max-revoke",
    "allow_protected": "--allow-protected",
}
"""Options that a plan file carries, by the name of the parameter."""


def asked_of(
    selection: Selection, plan_flags: PlanFlags, guard_options: GuardOptions
) -> SavedOptions:
    """What a run is asked for beside the manifests, as a plan file carries it."""
    return SavedOptions(
        environments=selection.environments,
        only=selection.only,
        prune=plan_flags.prune,
        dedupe=plan_flags.dedupe,
        redeliver=plan_flags.redeliver,
        max_revoke=guard_options.max_revoke,
        allow_protected=guard_options.allow_protected,
    )


def check_free(file: Path) -> None:
    """Raises where something stands that is no plan file, which is not written over."""
    if str(file) == "-":
        raise click.UsageError("A plan is written to a file: name one with --out.")
    if not os.path.lexists(file):
        return
    try:
        ours = file.is_file() and may_overwrite(_head_of(file))
    except OSError as error:
        raise _not_writable(file, error) from None
    if not ours:
        raise WrongUsageError(
            "file_exists",
            f"{file.as_posix()} exists already, and is no plan file, which alone is replaced.",
            remedy="Name another file with --out.",
        )


def plan_input_of(
    made: Plan, asked: SavedOptions, reconciler: Reconciler, prepared: Prepared
) -> PlanFileInput:
    """A plan that the fleet made, and what it follows from."""
    desired = selected_keys(prepared.manifests.desired, asked.plan_options)
    return PlanFileInput(made, plan_document(made), asked, reconciler.observations, desired)


def keep(file: Path, plan_input: PlanFileInput, console: Console) -> None:
    """Writes the plan file, whole or not at all, and says so with its digest.

    Raises:
        WrongUsageError: when it cannot be written; an earlier plan file stays as it was.
    """
    try:
        _replace(Path(os.path.realpath(file)), text(document(plan_input)))
    except OSError as error:
        raise _not_writable(file, error) from None
    if not console.output.quiet:
        console.aside(f"wrote {visible(file.as_posix())}, {plan_input.plan.digest}\n")


def drop(file: Path, why: str, console: Console) -> None:
    """Says why no plan file is written, and takes away an earlier one: it is not of this plan."""
    try:
        Path(os.path.realpath(file)).unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(file, error) from None
    console.aside(f"{visible(file.as_posix())} is not written: {visible(why)}.\n")


def why_not_kept(made: Plan, reconciler: Reconciler, *, stopped: bool) -> str | None:
    """Why a plan cannot be reviewed as it is, None where it can."""
    if stopped:
        return "the run was stopped"
    if reconciler.internal_error is not None:
        return "a bug was met"
    if reconciler.refusal is not None:
        return f"the plan is refused ({reconciler.refusal.code})"
    return why_unwritable(made)


def _load_plan(file: Path) -> PlanFile:
    """Reads a plan file.

    Raises:
        WrongUsageError: when it cannot be opened.
        StalePlanError: when it is no plan file, or none that can be used.
    """
    shown = file.as_posix()
    try:
        data = read_bytes(file, MAX_BYTES)
    except OSError as error:
        raise WrongUsageError(
            "plan_unreadable",
            f"{shown} cannot be read: {reason(error)}.",
            remedy="Name a file that `provision plan --out` wrote.",
        ) from None
    if data is None:
        raise StalePlanError(
            "plan_invalid",
            f"{shown} is no plan file: it has more than {MAX_BYTES // 2**20} MiB.",
            remedy="Name a file that `provision plan --out` wrote.",
        )
    found = read(data, datetime.now(UTC))
    if isinstance(found, UnreadablePlanFile):
        raise StalePlanError(found.code, f"{shown} {found.problem}.", remedy=found.remedy)
    return found


def check_alone(context: click.Context) -> None:
    """Raises where an option is given on the command line that a plan file carries."""
    for parameter, option in _CARRIED.items():
        if context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option} stands in the plan file: leave it out beside one.")


def _check_variables(carried: SavedOptions, given: SavedOptions) -> None:
    """Raises where a variable says something else than the plan file.

    One that says the same is let pass: it may be set for every command of a pipeline.
    """
    theirs, ours = _by_parameter(carried), _by_parameter(given)
    for parameter, option in _CARRIED.items():
        variable = f"PROVISION_{parameter.upper()}"
        if os.environ.get(variable) and theirs[parameter] != ours[parameter]:
            raise click.UsageError(
                f"{variable} says something else than the plan file, which carries its own "
                f"{option}. Unset it, or plan with it."
            )


def _check_digest(file: Path, reviewed: PlanFile, digest: str | None) -> None:
    """Raises where the plan file is not the one of the digest that was passed on."""
    if digest is not None and digest != reviewed.digest:
        raise StalePlanError(
            "digest_differs",
            f"The digest of {file.as_posix()} is {reviewed.digest}, and not {digest}.",
            remedy="This is not the plan that was reviewed: pass on the one that was.",
        )


def _selection_of(selection: Selection, reviewed: PlanFile) -> Selection:
    """What to work on: of the plan file what it carries, the rest as given."""
    asked = reviewed.options
    return selection._replace(environments=asked.environments, only=asked.only)


@contextmanager
def _after_manifests(selection: Selection) -> Iterator[None]:
    """Has what is wrong with the manifests told first: no plan file would mend that."""
    try:
        yield
    except StalePlanError:
        found = load(selection.manifests, environments=selection.restrictions.environments)
        if found.problems:
            raise InvalidInputError(found.problems, sources=found.sources) from None
        raise


@contextmanager
def _environments_gone(file: Path) -> Iterator[None]:
    """Has an environment that the plan file names and no manifest any more be what moved."""
    try:
        yield
    except WrongUsageError as error:
        if error.code != "environment_unknown":
            raise
        raise StalePlanError(
            "plan_stale",
            f"{file.as_posix()} does not hold any more: {error.message}",
            remedy="Plan anew, and review that.",
        ) from None


class PlanOnDisk:
    """The plan file of one `apply`: read, held to what was passed on beside it, and planned again.

    Args:
        file: as it was typed.
        digest: of the reviewed plan, where it was passed on.
        given: what variables ask for beside the file.
    """

    def __init__(self, file: Path, digest: str | None, given: SavedOptions) -> None:
        self._file = file
        self._digest = digest
        self._given = given
        self._reviewed: PlanFile | None = None

    def prepare(self, selection: Selection) -> Prepared:
        """Loads the manifests for what the file carries.

        Raises:
            InvalidInputError: when anything is wrong in manifests, variables or secret files.
            WrongUsageError: when the file cannot be opened.
            UsageError: when a variable says something else than the file.
            StalePlanError: when it is none that can be used, or of another digest.
        """
        with _after_manifests(selection):
            reviewed = _load_plan(self._file)
            _check_digest(self._file, reviewed, self._digest)
        _check_variables(reviewed.options, self._given)
        self._reviewed = reviewed
        with _environments_gone(self._file):
            return prepare(_selection_of(selection, reviewed))

    def plan(self, reconciler: Reconciler, prepared: Prepared) -> Plan:
        """Plans as the file was planned; what is not the same plan is refused by the fleet."""
        reviewed, name = self._reviewed, self._file.as_posix()
        assert reviewed is not None  # noqa: S101 - for the type checker: it was prepared
        desired, asked = prepared.manifests.desired, reviewed.options
        made = reconciler.plan(
            desired, reviewed.created_at, asked.plan_options, asked.guard_overrides
        )
        plan_input = plan_input_of(made, asked, reconciler, prepared)
        if made.digest != reviewed.digest:
            reconciler.refuse(stale_plan(name, reviewed, plan_input))
        elif was_edited(reviewed, plan_input):
            reconciler.refuse(
                StalePlanError(
                    "plan_invalid",
                    f"{name} shows other actions than its digest stands for: it was edited.",
                    remedy="Write it anew with `provision plan --out`.",
                )
            )
        return made


def _by_parameter(asked: SavedOptions) -> dict[str, object]:
    return {
        "environment": frozenset(asked.environments),
        "only": frozenset(asked.only),
        "prune": asked.prune,
        "dedupe": asked.dedupe,
        "redeliver": asked.redeliver,
        "max_revoke": asked.max_revoke,
        "allow_protected": asked.allow_protected,
    }


def _head_of(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_HEAD).decode(errors="replace")


def _not_writable(file: Path, error: OSError) -> WrongUsageError:
    return WrongUsageError(
        "not_writable",
        f"{file.as_posix()} cannot be written: {reason(error)}.",
        remedy="Name a file that you may write with --out.",
    )


def _replace(file: Path, content: str) -> None:
    """Writes a file beside and puts it in place; readable as files are, no secret is in it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{secrets.token_hex(8)}.plan")
    try:
        with beside.open("x", encoding="ascii") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
