"""`provision plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provisioner.cli.options import output_options, selection_options

if TYPE_CHECKING:
    from provisioner.cli.options import Output, Selection

_CHANGES = 2
_INCOMPLETE = 4


@click.command()
@selection_options
@output_options("text", "json")
@click.option(
    "--detailed-exitcode",
    is_flag=True,
    envvar="PROVISION_DETAILED_EXITCODE",
    help="Exit with 2 when there are changes.",
)
def plan(selection: Selection, output: Output, *, detailed_exitcode: bool) -> int:
    """Show what would change; change nothing.

    Looks at every environment and compares its keys with the manifests. Exits with 4 when an
    environment could not be looked at or a key cannot be made.
    """
    from provisioner.cli.console import Console  # noqa: PLC0415 - keeps --help fast
    from provisioner.cli.reconcile import fleet_of, prepare  # noqa: PLC0415 - as above
    from provisioner.cli.show import show_plan  # noqa: PLC0415 - as above

    console = Console(output)
    with console.problems_as_data():
        prepared = prepare(selection)
    with fleet_of(prepared) as fleet:
        made = fleet.plan(prepared.manifests.desired, prepared.now, selection.only)
        refusal = fleet.refusal
    show_plan(made, console)
    if refusal is not None:
        raise refusal
    if made.incomplete:
        return _INCOMPLETE
    return _CHANGES if detailed_exitcode and made.changes else 0
