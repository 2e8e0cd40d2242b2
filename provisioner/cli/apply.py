"""`provision apply`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.options import output_options, redeliver_option, selection_options

if TYPE_CHECKING:
    from provisioner.cli.options import Output, Selection


@click.command()
@selection_options
@output_options("text", "json")
@click.option("--yes", is_flag=True, envvar="PROVISION_YES", help="Do not ask on a terminal.")
@redeliver_option
def apply(selection: Selection, output: Output, *, yes: bool, redeliver: bool) -> int:
    """Create the keys that are missing, and deliver the tokens that are.

    Looks at every environment, compares its keys with the manifests, creates the missing ones
    with the depth of their manifest, and delivers a token of each to its sinks. A sink that lost
    its token gets a new one. Without a terminal nothing asks; on one, `apply` shows the plan and
    asks before it changes anything but the embedded Twenty.
    """
    from provisioner.cli.console import Console  # noqa: PLC0415 - keeps --help fast
    from provisioner.cli.reconcile import fleet_of, prepare  # noqa: PLC0415 - as above
    from provisioner.cli.show import agreed, show_result, warn_of_nothing  # noqa: PLC0415 - as above
    from provisioner.cli.signals import Signals  # noqa: PLC0415 - as above

    console = Console(output)
    signals = Signals()
    with console.problems_as_data():
        prepared = prepare(selection)
    with ExitStack() as stack:
        with signals.caught():
            fleet = stack.enter_context(fleet_of(prepared, signals.stop))
            desired = prepared.manifests.desired
            made = fleet.plan(desired, prepared.now, selection.only, redeliver=redeliver)
        warn_of_nothing(made, selection)
        going_on = fleet.refusal is not None or yes or signals.stop.asked
        if not going_on and not agreed(made, prepared, console):
            return INCOMPLETE if made.incomplete else 0
        with signals.caught():
            with console.progress(made.steps, "keys and tokens") as settled:
                result = fleet.apply(made, settled)
            show_result(result, console)
            ending = fleet.surprise or fleet.refusal
            stack.close()
    if fleet.surprise is None and signals.exit_code is not None:
        return signals.exit_code
    if ending is not None:
        raise ending
    return INCOMPLETE if result.incomplete else 0
