"""Plans and results in the chosen format, and the question before a change."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, assert_never

import click

from provisioner.cli.log import logs_json
from provisioner.plan import Clean, Create, Deliver, Planned, Rename, Revoke, Rotate, Update
from provisioner.render.audit.view import audit_view
from provisioner.render.doctor import diagnosis_text, diagnosis_view
from provisioner.render.formats.text import audit_text
from provisioner.render.outcome.text import plan_text, result_text
from provisioner.render.outcome.view import plan_view, result_view
from provisioner.render.report import ReportInput
from provisioner.render.text import visible
from provisioner.runtime.log_context import extra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.audit.check import Diagnosis
    from provisioner.audit.key_audit import FleetAudit
    from provisioner.cli.console import Console
    from provisioner.cli.options import Selection
    from provisioner.cli.run import Prepared
    from provisioner.errors.exceptions import RefusedError
    from provisioner.execution import RunResult
    from provisioner.plan import Plan
    from provisioner.render.report import ShardLabel

_LOG = logging.getLogger("provisioner")


def show_plan(
    plan: Plan,
    console: Console,
    refusal: RefusedError | None = None,
    shard: ShardLabel | None = None,
) -> None:
    """Print a plan; every format except text includes the reason if it is refused."""
    if console.output.format != "text":
        _print_report(plan, console, refusal, shard)
    elif not console.output.quiet or plan.changes or plan.incomplete:
        unmanaged = console.output.unmanaged
        console.print_view(
            partial(plan_view, plan, unmanaged=unmanaged),
            partial(plan_text, plan, unmanaged=unmanaged),
        )


def show_result(
    result: RunResult,
    console: Console,
    refusal: RefusedError | None = None,
    shard: ShardLabel | None = None,
) -> None:
    """Print the result of a plan; with a refusal, that nothing was done."""
    if console.output.format != "text":
        _print_report(result, console, refusal, shard)
    elif not console.output.quiet or result.incomplete:
        # The reason of a refusal is printed on stderr when the command ends.
        refused, unmanaged = refusal is not None, console.output.unmanaged
        console.print_view(
            partial(result_view, result, refused=refused, unmanaged=unmanaged),
            partial(result_text, result, refused=refused, unmanaged=unmanaged),
        )


def show_audit(report: ReportInput, audit: FleetAudit, console: Console) -> None:
    """Print an audit, which is the outcome of the report."""
    quiet = console.output.quiet
    if console.output.format != "text":
        console.print_report(report)
    else:
        console.print_view(
            partial(audit_view, audit, quiet=quiet), partial(audit_text, audit, quiet=quiet)
        )


def show_diagnoses(diagnoses: Sequence[Diagnosis], console: Console) -> None:
    """Print the diagnoses of environments as text; nothing if it is quiet and all is well."""
    quiet = console.output.quiet
    console.print_view(
        lambda _: diagnosis_view(diagnoses, quiet=quiet),
        lambda palette, _: diagnosis_text(diagnoses, palette, quiet=quiet),
    )


def _print_report(
    outcome: Plan | RunResult,
    console: Console,
    refusal: RefusedError | None,
    shard: ShardLabel | None,
) -> None:
    failure = refusal.failure if refusal else None
    report = ReportInput(
        outcome.created_at,
        outcome=outcome,
        refusal=failure,
        shard=shard,
        unmanaged=console.output.unmanaged,
    )
    console.print_report(report)


def environments_to_confirm(plan: Plan, prepared: Prepared) -> tuple[str, ...]:
    """Return the real environments that would change, if there is a terminal to ask on."""
    embedded = {one.name for one in prepared.environments if one.embedded}
    real = [
        part.environment
        for part in plan.environments
        if isinstance(part, Planned)
        and part.environment not in embedded
        and any(action.blocked is None for action in part.actions)
    ]
    # A stream is None if it was closed before the program started.
    terminal = all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr))
    return tuple(real) if terminal else ()


def confirm(plan: Plan, environments: tuple[str, ...], console: Console) -> bool:
    """Show the plan, ask for confirmation, and return the answer."""
    unmanaged = console.output.unmanaged
    console.print_view(
        partial(plan_view, plan, unmanaged=unmanaged),
        partial(plan_text, plan, unmanaged=unmanaged),
        err=True,
    )
    question = f"Apply this to {', '.join(environments)}?"
    if click.confirm(question, default=False, err=True):
        return True
    console.print_stderr("Nothing was changed.\n")
    return False


def announce_revocations(plan: Plan, console: Console) -> None:
    """Name on stderr each key to be revoked and token to be removed, whatever the log level is."""
    level = max(logging.WARNING, _LOG.getEffectiveLevel())
    for part in plan.environments:
        for action in part.unblocked if isinstance(part, Planned) else ():
            name = action.name
            match action:
                case Revoke(key_id=key_id, reason=reason):
                    text = f"revoking {name} ({key_id}), {reason}"
                case Rotate(at_once=True, predecessors=ids):
                    text = f"revoking {name} ({', '.join(ids)}) once its successor is delivered"
                case Clean(sink=sink, key_id=key_id):
                    text = f"removing the token of {name} ({key_id}) from {sink}"
                case Create() | Update() | Rename() | Rotate() | Deliver():
                    continue
                case _:
                    assert_never(action)
            message = f"{part.environment}: {text}"
            if level == logging.WARNING or logs_json():
                context = extra(environment=part.environment, key=name)
                _LOG.log(level, "%s", message, extra=context)
            else:
                console.print_stderr(f"{visible(message)}\n")


def log_notes(plan: Plan, selection: Selection) -> None:
    """Log the notes of a plan, and a warning if --only matches no key, most likely a typing error.

    Called before anything is asked or done.
    """
    planned = [part for part in plan.environments if isinstance(part, Planned)]
    for part in planned:
        for note in part.notes:
            context = extra(environment=part.environment)
            _LOG.warning("%s: %s", part.environment, note, extra=context)
    if selection.only and planned and not any(part.actions or part.kept for part in planned):
        _LOG.warning("no key matches --only %s", " ".join(selection.only))
