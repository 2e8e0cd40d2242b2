"""The plan file on disk: written by `plan --out`, read and carried out by `apply`."""

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
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import InvalidInputError, StalePlanError, WrongUsageError
from provisioner.manifests import load
from provisioner.manifests.text import read_bytes
from provisioner.manifests.text import reason as reason_of
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
from provisioner.render.outcome.json import plan_document
from provisioner.render.text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.cli.console import Console
    from provisioner.cli.options import GuardOptions, PlanFlags, Selection
    from provisioner.cli.run import Prepared
    from provisioner.plan import Plan
    from provisioner.planfile import PlanFile
    from provisioner.reconcile.reconciler import Reconciler

_HEAD_BYTES = 64
"""Bytes at the start that identify a plan file."""

_SAVED_OPTIONS = {
    "environment": "--environment",
    "only": "--only",
    "prune": "--prune",
    "dedupe": "--dedupe",
    "redeliver": "--redeliver",
    "max_revoke": "--max-revoke",
    "allow_protected": "--allow-protected",
}
"""The options that a plan file contains, by the name of the parameter."""


def saved_options(
    selection: Selection, plan_flags: PlanFlags, guard_options: GuardOptions
) -> SavedOptions:
    """Return the options of a run that a plan file contains."""
    return SavedOptions(
        environments=selection.environments,
        only=selection.only,
        prune=plan_flags.prune,
        dedupe=plan_flags.dedupe,
        redeliver=plan_flags.redeliver,
        max_revoke=guard_options.max_revoke,
        allow_protected=guard_options.allow_protected,
    )


def require_writable(file: Path) -> None:
    """Raise if the file exists and is not a plan file, because it would be overwritten."""
    if str(file) == "-":
        raise click.UsageError("A plan cannot be written to stdout. Name a file with --out.")
    if not os.path.lexists(file):
        return
    try:
        is_plan_file = file.is_file() and may_overwrite(_head_of(file))
    except OSError as error:
        raise _not_writable(file, error) from None
    if not is_plan_file:
        raise WrongUsageError(
            Code.FILE_EXISTS,
            f"{file.as_posix()} already exists and is not a plan file.",
            remedy="Name another file with --out.",
        )


def plan_input_of(
    plan: Plan, saved: SavedOptions, reconciler: Reconciler, prepared: Prepared
) -> PlanFileInput:
    """Return a plan with everything that it was made from, as a plan file contains it."""
    desired = selected_keys(prepared.manifests.desired, saved.plan_options)
    return PlanFileInput(plan, plan_document(plan), saved, reconciler.observations, desired)


def write(file: Path, plan_input: PlanFileInput, console: Console) -> None:
    """Write the plan file atomically, and print its digest.

    Raises:
        WrongUsageError: if it cannot be written; an earlier plan file stays as it was.
    """
    try:
        _replace(Path(os.path.realpath(file)), text(document(plan_input)))
    except OSError as error:
        raise _not_writable(file, error) from None
    if not console.output.quiet:
        console.print_stderr(f"wrote {visible(file.as_posix())}, {plan_input.plan.digest}\n")


def remove_earlier(file: Path, reason: str, console: Console) -> None:
    """Print why no plan file is written, and remove an earlier one, which is of another plan."""
    try:
        Path(os.path.realpath(file)).unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(file, error) from None
    console.print_stderr(f"{visible(file.as_posix())} was not written: {visible(reason)}.\n")


def reason_not_to_write(plan: Plan, reconciler: Reconciler, *, stopped: bool) -> str | None:
    """Return why a plan must not be written to a file, or None."""
    if stopped:
        return "the run was stopped"
    if reconciler.internal_error is not None:
        return "there was an internal error"
    if reconciler.refusal is not None:
        return f"the plan was refused ({reconciler.refusal.code})"
    return why_unwritable(plan)


def _load_plan(file: Path) -> PlanFile:
    """Read a plan file.

    Raises:
        WrongUsageError: if it cannot be opened.
        StalePlanError: if it is not a plan file, or not one that can be used.
    """
    path = file.as_posix()
    try:
        data = read_bytes(file, MAX_BYTES)
    except OSError as error:
        raise WrongUsageError(
            Code.PLAN_UNREADABLE,
            f"{path} cannot be read: {reason_of(error)}.",
            remedy="Specify a file that `provision plan --out` wrote.",
        ) from None
    if data is None:
        raise StalePlanError(
            Code.PLAN_INVALID,
            f"{path} is not a plan file: it is larger than {MAX_BYTES // 2**20} MiB.",
            remedy="Specify a file that `provision plan --out` wrote.",
        )
    found = read(data, datetime.now(UTC))
    if isinstance(found, UnreadablePlanFile):
        raise StalePlanError(found.code, f"{path} {found.problem}.", remedy=found.remedy)
    return found


def refuse_saved_options(context: click.Context) -> None:
    """Raise if the command line has an option that the plan file already contains."""
    for parameter, option in _SAVED_OPTIONS.items():
        if context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option} cannot be used with a plan file, which already sets it."
            )


def _check_variables(saved: SavedOptions, current: SavedOptions) -> None:
    """Raise if a variable has another value than the plan file.

    The same value is accepted: the variable may be set for every command of a pipeline.
    """
    saved_values, current_values = _by_parameter(saved), _by_parameter(current)
    for parameter, option in _SAVED_OPTIONS.items():
        variable = f"PROVISION_{parameter.upper()}"
        if os.environ.get(variable) and saved_values[parameter] != current_values[parameter]:
            raise click.UsageError(
                f"{variable} differs from the {option} in the plan file. Unset it, or make a new "
                "plan with it."
            )


def _check_digest(file: Path, reviewed: PlanFile, digest: str | None) -> None:
    """Raise if the plan file does not have the digest that the command line names."""
    if digest is not None and digest != reviewed.digest:
        raise StalePlanError(
            Code.DIGEST_DIFFERS,
            f"The digest of {file.as_posix()} is {reviewed.digest}, not {digest}.",
            remedy="Use the plan file that was reviewed.",
        )


def _selection_of(selection: Selection, reviewed: PlanFile) -> Selection:
    """Return the selection with the environments and globs of the plan file."""
    saved = reviewed.options
    return selection._replace(environments=saved.environments, only=saved.only)


@contextmanager
def _problems_of_manifests_first(selection: Selection) -> Iterator[None]:
    """Report problems of the manifests instead of a stale plan: a new plan would not help."""
    try:
        yield
    except StalePlanError:
        manifests = load(selection.manifests, environments=selection.restrictions.environments)
        if manifests.problems:
            raise InvalidInputError(manifests.problems, sources=manifests.sources) from None
        raise


@contextmanager
def _unknown_environment_is_stale(file: Path) -> Iterator[None]:
    """Report an environment that is no longer declared as a change since the plan."""
    try:
        yield
    except WrongUsageError as error:
        if error.code != Code.ENVIRONMENT_UNKNOWN:
            raise
        raise StalePlanError(
            Code.PLAN_STALE,
            f"{file.as_posix()} is out of date: {error.message}",
            remedy="Make a new plan and review it.",
        ) from None


class PlanOnDisk:
    """The plan file of an `apply`: read, checked, and compared with a plan made now.

    Args:
        file: the path as it was typed.
        digest: the digest that the command line names, or None.
        current: the options of the command line and of variables.
    """

    def __init__(self, file: Path, digest: str | None, current: SavedOptions) -> None:
        self._file = file
        self._digest = digest
        self._current = current
        self._reviewed: PlanFile | None = None

    def prepare(self, selection: Selection) -> Prepared:
        """Read the plan file, and load the manifests for its selection.

        Raises:
            InvalidInputError: if manifests, variables or secret files have problems.
            WrongUsageError: if the file cannot be opened.
            UsageError: if a variable has another value than the file.
            StalePlanError: if the file cannot be used, or has another digest.
        """
        with _problems_of_manifests_first(selection):
            reviewed = _load_plan(self._file)
            _check_digest(self._file, reviewed, self._digest)
        _check_variables(reviewed.options, self._current)
        self._reviewed = reviewed
        with _unknown_environment_is_stale(self._file):
            return prepare(_selection_of(selection, reviewed))

    def plan(self, reconciler: Reconciler, prepared: Prepared) -> Plan:
        """Make the plan again as of the file's time, and refuse it if it is not the same."""
        reviewed, path = self._reviewed, self._file.as_posix()
        assert reviewed is not None  # noqa: S101 - for the type checker: set by `prepare`
        desired, saved = prepared.manifests.desired, reviewed.options
        plan = reconciler.plan(
            desired, reviewed.created_at, saved.plan_options, saved.guard_overrides
        )
        plan_input = plan_input_of(plan, saved, reconciler, prepared)
        if plan.digest != reviewed.digest:
            reconciler.refuse(stale_plan(path, reviewed, plan_input))
        elif was_edited(reviewed, plan_input):
            reconciler.refuse(
                StalePlanError(
                    Code.PLAN_INVALID,
                    f"The actions in {path} do not match its digest: it was edited.",
                    remedy="Write it again with `provision plan --out`.",
                )
            )
        return plan


def _by_parameter(saved: SavedOptions) -> dict[str, object]:
    return {
        "environment": frozenset(saved.environments),
        "only": frozenset(saved.only),
        "prune": saved.prune,
        "dedupe": saved.dedupe,
        "redeliver": saved.redeliver,
        "max_revoke": saved.max_revoke,
        "allow_protected": saved.allow_protected,
    }


def _head_of(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_HEAD_BYTES).decode(errors="replace")


def _not_writable(file: Path, error: OSError) -> WrongUsageError:
    return WrongUsageError(
        Code.NOT_WRITABLE,
        f"{file.as_posix()} cannot be written: {reason_of(error)}.",
        remedy="Use --out with a file that you can write.",
    )


def _replace(file: Path, content: str) -> None:
    """Write a temporary file and rename it; the mode is the default, it contains no secret."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{secrets.token_hex(8)}.plan")
    try:
        with temporary.open("x", encoding="ascii") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
