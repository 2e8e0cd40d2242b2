"""Plans and results as the chosen format shows them, and the question before a change."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import click

from provisioner.cli.log import logs_json
from provisioner.errors.failure import failure_of
from provisioner.plan import Planned, Revoke, Rotate
from provisioner.render.json import plan_document, result_document
from provisioner.render.markdown import plan_markdown, result_markdown
from provisioner.render.text import plan_text, result_text, visible
from provisioner.runtime.log_context import extra

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.cli.console import Console
    from provisioner.cli.options import Selection
    from provisioner.cli.run import Prepared
    from provisioner.errors.exceptions import RefusedError
    from provisioner.execution import RunResult
    from provisioner.plan import Plan

_LOG = logging.getLogger("provisioner")


def show_plan(plan: Plan, console: Console, refusal: RefusedError | None = None) -> None:
    """Prints a plan; JSON and Markdown say too why none of it may be done."""
    why = None if refusal is None else failure_of(refusal)
    if console.json:
        console.document(plan_document(plan, why))
    elif console.output.format == "markdown":
        console.text(plan_markdown(plan, why))
    elif not console.output.quiet or plan.changes or plan.incomplete:
        console.text(plan_text(plan, console.palette))


def show_result(result: RunResult, console: Console, refusal: RefusedError | None = None) -> None:
    """Prints what became of a plan; with a refusal, that it is nothing."""
    why = None if refusal is None else failure_of(refusal)
    if console.json:
        console.document(result_document(result, why))
    elif console.output.format == "markdown":
        console.text(result_markdown(result, why))
    elif not console.output.quiet or result.incomplete:
        # Why it is refused is told on stderr, where the command ends.
        console.text(result_text(result, console.palette, refused=refusal is not None))


def to_ask_about(plan: Plan, prepared: Prepared) -> tuple[str, ...]:
    """The real environments that would change, where there is a terminal to ask on."""
    embedded = {one.name for one in prepared.environments if one.embedded}
    real = [
        part.environment
        for part in plan.environments
        if isinstance(part, Planned)
        and part.environment not in embedded
        and any(action.blocked is None for action in part.actions)
    ]
    # Either stream is None when it was closed before we began.
    terminal = all(stream and stream.isatty() for stream in (sys.stdin, sys.stderr))
    return tuple(real) if terminal else ()


def agreed(plan: Plan, environments: tuple[str, ...], console: Console) -> bool:
    """Shows the plan and asks whether to go on."""
    console.aside(plan_text(plan, console.error_palette))
    question = f"Apply this to {', '.join(environments)}?"
    if click.confirm(question, default=False, err=True):
        return True
    console.aside("Nothing was changed.\n")
    return False


def announce(plan: Plan, console: Console) -> None:
    """Says of every key that is about to end that it is: in the log, or where that is silent."""
    parts = [part for part in plan.environments if isinstance(part, Planned)]
    for place, name, told in ((part.environment, *one) for part in parts for one in _ending(part)):
        if _LOG.isEnabledFor(logging.WARNING) or logs_json():
            level = max(logging.WARNING, _LOG.getEffectiveLevel())
            about = extra(environment=place, key=name)
            _LOG.log(level, "%s: %s", place, told, extra=about)
        else:
            console.aside(f"{visible(f'{place}: {told}')}\n")


def _ending(part: Planned) -> Iterator[tuple[str, str]]:
    """The name of each key that is about to end, and how it does."""
    for action in part.unblocked:
        name = action.name
        match action:
            case Revoke(key_id=key_id, reason=reason):
                yield name, f"revoking {name} ({key_id}), {reason}"
            case Rotate(at_once=True, predecessors=ids):
                yield name, f"revoking {name} ({', '.join(ids)}) once its successor is delivered"
            case _:
                pass


def warn_of_nothing(plan: Plan, selection: Selection) -> None:
    """A glob that matches no name is more likely a typing error than meant."""
    planned = [part for part in plan.environments if isinstance(part, Planned)]
    if selection.only and planned and not any(part.actions or part.kept for part in planned):
        _LOG.warning("no key matches --only %s", " ".join(selection.only))


def note(plan: Plan) -> None:
    """Says what people should know of a plan besides, before anything is done or asked."""
    for part in plan.environments:
        for note in part.notes if isinstance(part, Planned) else ():
            about = extra(environment=part.environment)
            _LOG.warning("%s: %s", part.environment, note, extra=about)
