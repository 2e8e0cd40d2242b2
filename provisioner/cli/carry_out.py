"""How `apply`, `rotate` and `revoke` go on from a plan: shown, asked for, carried out, reported."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from provisioner.cli.console import Console
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.reconcile import fleet_of, prepare
from provisioner.cli.show import agreed, announce, show_result, warn_of_nothing
from provisioner.cli.signals import Signals
from provisioner.plan import Planned, Revoke

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.cli.options import Output, Selection
    from provisioner.cli.reconcile import Prepared
    from provisioner.fleet import Fleet
    from provisioner.plan import Plan


def carry_out(
    selection: Selection,
    output: Output,
    planned: Callable[[Fleet, Prepared], Plan],
    *,
    yes: bool,
    named: tuple[str, ...] = (),
) -> int:
    """Plans, asks where that is needed, carries out and reports; returns the exit code.

    Args:
        selection: what to work on.
        output: how to speak.
        planned: makes the plan.
        yes: whether nothing is asked.
        named: names and ids that the plan has to be about.
    """
    console = Console(output)
    signals = Signals()
    with console.problems_as_data():
        prepared = prepare(selection)
    with ExitStack() as stack:
        with signals.caught():
            fleet = stack.enter_context(fleet_of(prepared, signals.stop))
            made = planned(fleet, prepared)
        warn_of_nothing(made, selection)
        unknown = _not_met(named, made)
        for name in unknown:
            console.aside(f"key_missing: No key {name!r} is there to be worked on.\n")
        going_on = fleet.refusal is not None or yes or signals.stop.asked
        if not going_on and not agreed(made, prepared, console):
            return INCOMPLETE if made.incomplete or unknown else 0
        with signals.caught():
            if fleet.refusal is None:
                announce(made)
            with console.progress(made.steps, "keys and tokens") as settled:
                result = fleet.apply(made, settled)
            show_result(result, console)
            ending = fleet.surprise or fleet.refusal
            stack.close()
    if fleet.surprise is None and signals.exit_code is not None:
        return signals.exit_code
    if ending is not None:
        raise ending
    return INCOMPLETE if result.incomplete or unknown else 0


def _not_met(named: tuple[str, ...], plan: Plan) -> list[str]:
    """The names and ids that no action of the plan is about."""
    parts = [part for part in plan.environments if isinstance(part, Planned)]
    actions = [action for part in parts for action in part.actions]
    met = {action.name for action in actions}
    met |= {action.key_id for action in actions if isinstance(action, Revoke)}
    return [name for name in named if name not in met]
