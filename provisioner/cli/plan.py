"""`provision plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provisioner.cli.exit_codes import CHANGES, INCOMPLETE
from provisioner.cli.options import (
    guard_options,
    output_options,
    reconciling_options,
    selection_options,
)

if TYPE_CHECKING:
    from provisioner.cli.options import Leaving, Output, Reconciling, Selection


@click.command()
@selection_options
@output_options("text", "json")
@click.option(
    "--detailed-exitcode",
    is_flag=True,
    envvar="PROVISION_DETAILED_EXITCODE",
    help="Exit with 2 when there are changes.",
)
@reconciling_options
@guard_options
def plan(
    selection: Selection,
    output: Output,
    reconciling: Reconciling,
    leaving: Leaving,
    *,
    detailed_exitcode: bool,
) -> int:
    """Show what would change; change nothing.

    Looks at every environment and compares its keys with the manifests, and what the sinks hold
    with the keys. Exits with 4 when an environment could not be looked at, a key cannot be made
    or its token not be delivered.
    """
    from provisioner.cli.console import Console  # noqa: PLC0415 - keeps --help fast
    from provisioner.cli.reconcile import fleet_of, prepare, wishes_of  # noqa: PLC0415 - as above
    from provisioner.cli.show import show_plan, warn_of_nothing  # noqa: PLC0415 - as above
    from provisioner.cli.signals import Signals  # noqa: PLC0415 - as above

    console = Console(output)
    signals = Signals()
    with console.problems_as_data():
        prepared = prepare(selection)
    with signals.caught():
        with fleet_of(prepared, signals.stop) as fleet:
            desired = prepared.manifests.desired
            wishes = wishes_of(selection, reconciling)
            made = fleet.plan(desired, prepared.now, wishes, leaving.leave())
        show_plan(made, console)
    warn_of_nothing(made, selection)
    # Asked last and once: a thread of a run that was stopped may meet a bug until now.
    surprise = fleet.surprise
    if surprise is None and signals.exit_code is not None:
        return signals.exit_code
    if (ending := surprise or fleet.refusal) is not None:
        raise ending
    if made.incomplete:
        return INCOMPLETE
    return CHANGES if detailed_exitcode and made.changes else 0
