"""How `apply`, `rotate` and `revoke` go on from a plan: shown, asked for, carried out, reported."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from provisioner.cli.console import Console
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.outputs import open_outputs
from provisioner.cli.run import ended_early, prepare, reconciler_of
from provisioner.cli.show import agreed, announce, note, show_result, to_ask_about, warn_of_nothing
from provisioner.errors.exceptions import StalePlanError, WrongUsageError
from provisioner.errors.failure import Failure
from provisioner.plan import Planned, Revoke, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from provisioner.cli.options import OutputOptions, OutputTargets, Selection
    from provisioner.cli.run import Prepared
    from provisioner.cli.signals import Signals
    from provisioner.plan import Plan
    from provisioner.reconcile.reconciler import Reconciler


def carry_out(  # noqa: PLR0913 - what there is to say of a run
    command: str,
    selection: Selection,
    output: OutputOptions,
    output_targets: OutputTargets,
    planned: Callable[[Reconciler, Prepared], Plan],
    *,
    signals: Signals,
    yes: bool,
    named: SelectedNames | None = None,
    preparing: Callable[[], Prepared] | None = None,
    taken: tuple[Path, ...] = (),
) -> int:
    """Plans, asks where that is needed, carries out and reports; returns the exit code.

    Args:
        command: its name.
        selection: what to work on.
        output: how to speak.
        output_targets: where else to speak.
        planned: makes the plan.
        signals: caught while this goes on.
        yes: whether nothing is asked.
        named: what the plan has to be about; None for whatever it is about.
        preparing: loads the manifests otherwise than as selected.
        taken: files that the command reads besides.
    """
    console = Console(output)
    with (
        open_outputs(command, output_targets, console, signals, taken=taken) as out,
        ExitStack() as stack,
    ):
        with out.problems():
            prepared = prepare(selection) if preparing is None else preparing()
        if named is not None:
            named.check(prepared.names)
        out.begun(prepared.manifests.sources, prepared.environments)
        reconciler = stack.enter_context(reconciler_of(prepared, signals.stop, out.tell))
        made = planned(reconciler, prepared)
        out.planned(made)
        note(made)
        warn_of_nothing(made, prepared.selection)
        unknown: tuple[str, ...] = ()
        if named is not None and not signals.stop.asked:
            unknown = named.not_met(made)
            for name in unknown:
                console.failed(Failure("key_missing", named.missing(name, prepared.names)))
            if unknown == named.names and not made.incomplete and reconciler.refusal is None:
                out.outcome(made, changes=made.changes)
                return out.finish(INCOMPLETE)
        going_on = reconciler.refusal is not None or yes or signals.stop.asked
        asking = () if going_on else to_ask_about(made, prepared)
        if asking:
            with signals.let_through():
                agrees = agreed(made, asking, console)
            if not agrees:
                out.outcome(made, changes=made.changes)
                return out.finish(INCOMPLETE if made.incomplete or unknown else 0)
            shown, made = made, planned(reconciler, prepared)
            out.planned(made)
            _hold_to(shown, made, reconciler)
        if reconciler.refusal is None:
            announce(made, console)
        with console.progress(made.steps, "keys and tokens") as on_progress:
            result = reconciler.apply(made, on_progress)
        with out.shown():
            show_result(result, console, reconciler.refusal)
        out.outcome(result, changes=made.changes, refusal=reconciler.refusal)
        stack.close()
        code = ended_early(reconciler, signals)
        if code is not None:
            return out.finish(code)
        return out.finish(INCOMPLETE if result.incomplete or unknown else 0)


def _hold_to(shown: Plan, now: Plan, reconciler: Reconciler) -> None:
    """Refuses a plan that was made anew after a question and moved: that may have stood for hours.

    An environment that cannot be looked at any more is no move: nothing is done there.
    """
    seen = {part.environment for part in now.environments if isinstance(part, Planned)}
    then, anew = (
        digest((part for part in plan.environments if part.environment in seen), {})
        for plan in (shown, now)
    )
    if then != anew and reconciler.refusal is None:
        reconciler.refuse(
            StalePlanError(
                "plan_stale",
                "What would be done is no longer what you were shown.",
                remedy="Run again, and look at the new plan.",
            )
        )


@dataclass(frozen=True, slots=True)
class SelectedNames:
    """Keys that someone names.

    Attributes:
        names: names, or ids too.
        what: the kind of key that they have to be.
    """

    names: tuple[str, ...]
    what: Literal["declared", "live"]

    def not_met(self, plan: Plan) -> tuple[str, ...]:
        """The names and ids that no action of the plan is about."""
        parts = [part for part in plan.environments if isinstance(part, Planned)]
        actions = [action for part in parts for action in part.actions]
        met = {action.name for action in actions}
        ids = {action.key_id.lower() for action in actions if isinstance(action, Revoke)}
        return tuple(name for name in self.names if name not in met and name.lower() not in ids)

    def check(self, declared: Collection[str]) -> None:
        """Raise where a name has to be declared and is not, so that no part of a list is done.

        Raises:
            WrongUsageError: with what may have been meant.
        """
        unknown = tuple(name for name in self.names if name not in declared)
        if self.what == "live" or not unknown:
            return
        guesses = tuple(dict.fromkeys(filter(None, (_guess(one, declared) for one in unknown))))
        raise WrongUsageError(
            "key_missing",
            f"No manifest names {' or '.join(map(repr, unknown))} in the environments of this run.",
            remedy=" ".join(guesses) or "Check the names, -m and -e.",
        )

    def missing(self, name: str, declared: Collection[str]) -> str:
        """Why no action is about a name, and what may have been meant."""
        if name in declared and self.what == "live":
            return f"{name!r} has no live key: there is nothing to revoke."
        if name in declared:
            return f"{name!r} has no live key: `provision apply` makes it."
        guess = _guess(name, declared) or "`provision list` shows the live ones."
        return f"There is no live key {name!r}. {guess}"


def _guess(name: str, declared: Collection[str]) -> str | None:
    """What may have been meant by a name that is not there."""
    if set(name) & set("*?["):
        return "Names are taken as they are, and not as globs."
    close = get_close_matches(name, declared, n=1)
    return f"Did you mean {close[0]!r}?" if close else None
