"""The plan file on disk: written by `plan --out`, read and carried out by `apply`."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from provisioner.cli.execute import Job
from provisioner.cli.run import prepare
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import InvalidInputError, StalePlanError, WrongUsageError
from provisioner.manifests import load
from provisioner.manifests.text import read_bytes
from provisioner.manifests.text import reason as reason_of
from provisioner.planfile.compare import stale_plan, was_edited
from provisioner.planfile.model import PlanFileInput
from provisioner.planfile.read import MAX_BYTES, UnreadablePlanFile, read
from provisioner.planfile.write import document, may_overwrite, text, why_unwritable
from provisioner.render.outcome.json import plan_document
from provisioner.render.text import visible
from provisioner.runtime.atomic_write import write_atomically

if TYPE_CHECKING:
    from provisioner.cli.console import Console
    from provisioner.cli.options import Selection
    from provisioner.planfile.model import PlanFile
    from provisioner.reconcile.proposal import Proposal

_HEAD_BYTES = 64
"""Bytes at the start that identify a plan file."""


def require_writable(file: Path) -> None:
    """Raise if the file exists and is not a plan file, because it would be overwritten."""
    if str(file) == "-":
        raise click.UsageError("A plan cannot be written to stdout. Specify a file with --out.")
    if not os.path.lexists(file):
        return
    try:
        is_plan_file = file.is_file()
        if is_plan_file:
            with file.open("rb") as stream:
                is_plan_file = may_overwrite(stream.read(_HEAD_BYTES))
    except OSError as error:
        raise _not_writable(file, error) from None
    if not is_plan_file:
        raise WrongUsageError(
            Code.FILE_EXISTS,
            f"{file.as_posix()} already exists and is not a plan file.",
            remedy="Choose another file with --out.",
        )


def write(file: Path, content: PlanFileInput, console: Console, *, stopped: bool) -> bool:
    """Write the plan file atomically and print its digest, and return whether it was written.

    Nothing is written if the plan must not be applied; an earlier file, which is of another plan,
    is removed then.

    Raises:
        WrongUsageError: if it cannot be written; an earlier plan file stays as it was.
    """
    plan, refusal = content.proposal.plan, content.proposal.refusal
    reason = why_unwritable(plan)
    if refusal is not None:
        reason = f"the plan was refused ({refusal.code})"
    if stopped:
        reason = "the run was stopped"
    path, shown = Path(os.path.realpath(file)), visible(file.as_posix())
    try:
        if reason is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            data = text(document(content)).encode("ascii")
            write_atomically(path, data, mode=0o666, secret=False)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(file, error) from None
    if reason is not None:
        console.print_stderr(f"{shown} was not written: {visible(reason)}.\n")
    elif not console.output.quiet:
        console.print_stderr(f"wrote {shown}, {plan.digest}\n")
    return reason is None


def _load_plan(file: Path, digest: str | None) -> PlanFile:
    """Read a plan file.

    Raises:
        WrongUsageError: if it cannot be opened.
        StalePlanError: if it is not a plan file that can be used, or has another digest.
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
    if digest is not None and digest != found.digest:
        raise StalePlanError(
            Code.DIGEST_DIFFERS,
            f"The digest of {path} is {found.digest}, not {digest}.",
            remedy="Use the plan file that was reviewed.",
        )
    return found


def _refuse_other_options(reviewed: PlanFile, context: click.Context) -> None:
    """Raise if the command line has an option of the plan file, or a variable another value.

    The same value is accepted of a variable, which may be set for every command of a pipeline.
    """
    saved = {
        "environment": reviewed.selected,
        "shard": reviewed.shard,
        "only": reviewed.options.only,
        "prune": reviewed.options.prune,
        "dedupe": reviewed.options.dedupe,
        "redeliver": reviewed.options.redeliver,
        "clean": reviewed.options.clean,
        "previous": reviewed.previous,
        "max_revoke": reviewed.overrides.max_revoke,
        "allow_protected": reviewed.overrides.allow_protected,
    }
    for parameter, value in saved.items():
        current, source = context.params[parameter], context.get_parameter_source(parameter)
        option = f"--{parameter.replace('_', '-')}"
        if source is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{option} cannot be used with a plan file, which already sets it."
            )
        if parameter == "previous":
            continue  # the file names the commit that the variable meant then
        same = set(current) == set(value) if isinstance(value, tuple) else current == value
        if source is ParameterSource.ENVIRONMENT and not same:
            raise click.UsageError(
                f"PROVISION_{parameter.upper()} differs from the {option} in the plan file. Unset "
                "it, or make a new plan with it."
            )


def load_job(file: Path, digest: str | None, selection: Selection, context: click.Context) -> Job:
    """Read a plan file, and load the manifests for its selection.

    Args:
        file: the path as it was typed.
        digest: the digest that the command line names, or None.
        selection: the selection of the command line.
        context: the other options of the command line, and variables.

    Returns:
        The job to make the plan again as of the file's time; it objects if that is not the same.

    Raises:
        InvalidInputError: if manifests, variables or secret files have problems.
        WrongUsageError: if the file cannot be opened.
        UsageError: if an option or variable sets what the file sets.
        StalePlanError: if the file cannot be used, or has another digest.
    """
    path = file.as_posix()
    try:
        reviewed = _load_plan(file, digest)
    except StalePlanError:
        # Problems of the manifests come first: a new plan would not solve them.
        manifests = load(selection.manifests, environments=selection.restrictions.environments)
        if manifests.problems:
            raise InvalidInputError(manifests.problems, sources=manifests.sources) from None
        raise
    _refuse_other_options(reviewed, context)
    options, selected = reviewed.options, reviewed.selected
    try:
        prepared = prepare(
            selection._replace(
                environments=selected,
                only=options.only,
                shard=reviewed.shard,
                previous=reviewed.previous,
            )
        )
    except WrongUsageError as error:
        if error.code != Code.ENVIRONMENT_UNKNOWN:
            raise
        # An environment that is no longer declared is a change since the plan.
        raise StalePlanError(
            Code.PLAN_STALE,
            f"{path} is out of date: {error.message}",
            remedy="Make a new plan and review it.",
        ) from None
    shard = reviewed.shard
    request = prepared.request(options, reviewed.overrides)._replace(now=reviewed.created_at)

    def objection(proposal: Proposal) -> StalePlanError | None:
        plan = proposal.plan
        current = PlanFileInput(
            proposal, request, selected, plan_document(plan), shard, reviewed.previous
        )
        if plan.digest != reviewed.digest:
            return stale_plan(path, reviewed, current)
        if was_edited(reviewed, current):
            return StalePlanError(
                Code.PLAN_INVALID,
                f"The actions in {path} do not match its digest, so it was edited.",
                remedy="Write it again with `provision plan --out`.",
            )
        return None

    return Job(prepared, request, objection)


def _not_writable(file: Path, error: OSError) -> WrongUsageError:
    return WrongUsageError(
        Code.NOT_WRITABLE,
        f"{file.as_posix()} cannot be written: {reason_of(error)}.",
        remedy="Use --out with a file that you can write to.",
    )
