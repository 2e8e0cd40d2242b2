"""The files of `merge`: read and joined, shown in the chosen format, and their exit code."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, assert_never

import click

from provisioner.audit.key_audit import FleetAudit
from provisioner.cli.exit_codes import (
    CHANGES,
    INCOMPLETE,
    INTERRUPTED,
    INVALID,
    UNEXPECTED,
    most_serious,
)
from provisioner.cli.show import show_audit, show_diagnoses, show_plan, show_result
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import (
    InvalidInputError,
    RefusedError,
    StalePlanError,
    WorkspaceError,
    WrongUsageError,
)
from provisioner.errors.failure import Failure
from provisioner.execution import Executed, RunResult
from provisioner.manifests.text import read_bytes, reason
from provisioner.plan import Plan
from provisioner.planfile.read import MAX_BYTES
from provisioner.render.doctor import diagnosis_document
from provisioner.render.formats import formats_of
from provisioner.render.report import ReportInput
from provisioner.render.shards import (
    Kind,
    Merged,
    ShardOutput,
    UnreadableShard,
    conflict,
    failures,
    merge,
    read_shard,
)
from provisioner.render.text import PLAIN, problems_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from provisioner.cli.console import Console
    from provisioner.cli.outputs import Outputs
    from provisioner.errors.problem import Problem
    from provisioner.model.shard import Shard

_STALE = frozenset(
    {
        Code.PLAN_INVALID,
        Code.PLAN_STALE,
        Code.PLAN_APPLIED,
        Code.PLAN_UNCONFIRMED,
        Code.DIGEST_DIFFERS,
    }
)
"""Refusals of a plan that is not the reviewed one."""

_MAX_NAMED = 10
"""Missing shards that one message names."""

_REMEDY = "Give the JSON files that the shards of one run wrote, each once."


class Joined(NamedTuple):
    """The outcome of all shards, and what else decides the exit code.

    Attributes:
        shards: the outputs that were read.
        problems: the problems that shards printed instead.
    """

    merged: Merged
    shards: tuple[ShardOutput, ...]
    problems: tuple[Problem, ...]


def read_files(files: Iterable[Path], console: Console) -> Joined:
    """Read and join the outputs of shards.

    Raises:
        WrongUsageError: if a file cannot be read or is not the output of a shard, or if they are
            not of one run.
        InvalidInputError: if all that could be read are problems.
        WorkspaceError: if nothing could be read.
    """
    shards: list[ShardOutput] = []
    problems: dict[Problem, None] = {}
    for file in files:
        match _read(file):
            case ShardOutput() as shard:
                shards.append(shard)
            case UnreadableShard(problem=problem, cut_off=True):
                message = f"{file.as_posix()} {problem}."
                console.print_failure(Failure(Code.SHARD_MISSING, message))
            case UnreadableShard(problem=problem):
                raise _invalid(f"{file.as_posix()} {problem}.")
            case found:
                problems |= dict.fromkeys(found)
    if not shards and problems:
        raise InvalidInputError(tuple(problems))
    if not shards:
        raise WorkspaceError(
            Code.SHARD_MISSING, "No file has the output of a shard.", remedy="Run them again."
        )
    if (reason := conflict(shards)) is not None:
        raise _invalid(reason)
    return Joined(merge(shards, datetime.now(UTC)), tuple(shards), tuple(problems))


def _read(file: Path) -> ShardOutput | tuple[Problem, ...] | UnreadableShard:
    try:
        data = read_bytes(file, MAX_BYTES)
    except OSError as error:
        raise _invalid(f"{file.as_posix()} cannot be read: {reason(error)}.") from None
    if data is None:
        return UnreadableShard(f"is larger than {MAX_BYTES // 2**20} MiB")
    return read_shard(data)


def _invalid(message: str) -> WrongUsageError:
    return WrongUsageError(Code.SHARD_INVALID, message, remedy=_REMEDY)


def show(joined: Joined, console: Console, outputs: Outputs) -> None:
    """Print the outcome as its own command does, and write the reports.

    Raises:
        UsageError: if the format cannot show it.
    """
    outcome, failure, missing = joined.merged
    refusal = None if failure is None else RefusedError.of(failure)
    _require_format(joined.shards[0].kind, console.output.format)
    match outcome:
        case Plan():
            with outputs.printing():
                show_plan(outcome, console, refusal)
            outputs.report_outcome(outcome, changes=outcome.changes, refusal=refusal)
        case RunResult():
            results = (one.results for one in outcome.environments if isinstance(one, Executed))
            with outputs.printing():
                show_result(outcome, console, refusal)
            outputs.report_outcome(outcome, changes=sum(map(len, results)), refusal=refusal)
        case FleetAudit():
            report = ReportInput(outcome.created_at, outcome=outcome, quiet=console.output.quiet)
            with outputs.printing():
                show_audit(report, outcome, console)
            outputs.write_reports(report)
        case tuple():
            if console.json:
                console.print_json(diagnosis_document(outcome))
            else:
                show_diagnoses(outcome, console)
        case _:
            assert_never(outcome)
    if failure is not None:
        console.print_failure(failure)
    if missing:
        console.print_failure(_missing(missing))
    if joined.problems:
        console.print_stderr(problems_text(joined.problems, PLAIN))


def _require_format(kind: Kind, format_: str) -> None:
    formats = ("text", "json") if kind == "doctor" else formats_of(kind)
    if format_ not in formats:
        raise click.UsageError(
            f"--format {format_} cannot show provision/{kind}/v1. Choose from {', '.join(formats)}."
        )


def _missing(shards: tuple[Shard, ...]) -> Failure:
    named = ", ".join(map(str, shards[:_MAX_NAMED]))
    more = f" and {len(shards) - _MAX_NAMED} more" if len(shards) > _MAX_NAMED else ""
    several = len(shards) > 1
    subject = f"shards {named}{more} are" if several else f"shard {named} is"
    remedy = f"Run {'them' if several else 'it'} again, and merge all files."
    return Failure(Code.SHARD_MISSING, f"The output of {subject} missing.", remedy)


def exit_code_of(joined: Joined, *, detailed: bool) -> int:
    """Return the exit code that one run of all environments would have had.

    Args:
        joined: the outcome of all shards.
        detailed: True for code 2 if a plan has changes, or a report has keys that are due.
    """
    outcome = joined.merged.outcome
    codes = [INVALID] if joined.problems else []
    codes += [
        (StalePlanError if one.refusal.code in _STALE else RefusedError).exit_code
        for one in joined.shards
        if one.refusal is not None
    ]
    if isinstance(outcome, tuple):
        codes += [INCOMPLETE] if any(one.failed for one in outcome) else []
        return most_serious(codes)
    found = {failure.code for failure in failures(outcome)}
    codes += [UNEXPECTED] if Code.INTERNAL_ERROR in found else []
    # The JSON does not say which signal it was.
    codes += [INTERRUPTED] if Code.STOPPED in found else []
    match outcome:
        case Plan(incomplete=incomplete):
            changes = bool(outcome.changes)
        case RunResult(incomplete=incomplete):
            changes = False
        case FleetAudit(unobserved=unobserved):
            incomplete, changes = bool(unobserved), bool(outcome.due or outcome.missing)
        case _:
            assert_never(outcome)
    codes += [INCOMPLETE] if incomplete else []
    codes += [CHANGES] if detailed and changes else []
    return most_serious(codes)
