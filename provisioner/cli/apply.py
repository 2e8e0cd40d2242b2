"""`provision apply`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provisioner.cli.options import (
    guard_options,
    output_options,
    reconciling_options,
    selection_options,
    telling_options,
)

if TYPE_CHECKING:
    from provisioner.cli.options import Leaving, Output, Reconciling, Selection, Telling


@click.command()
@selection_options
@output_options("text", "json", "markdown")
@telling_options(events=True)
@click.option("--yes", is_flag=True, envvar="PROVISION_YES", help="Do not ask on a terminal.")
@reconciling_options
@guard_options
def apply(  # noqa: PLR0913 - what there is to say of a run
    selection: Selection,
    output: Output,
    telling: Telling,
    reconciling: Reconciling,
    leaving: Leaving,
    *,
    yes: bool,
) -> int:
    """Create the keys that are missing, and deliver the tokens that are.

    Looks at every environment, compares its keys with the manifests, creates the missing ones
    with the depth of their manifest, and delivers a token of each to its sinks. A sink that lost
    its token gets a new one. Without a terminal nothing asks; on one, `apply` shows the plan and
    asks before it changes anything but the embedded Twenty.
    """
    from provisioner.cli.carry_out import carry_out  # noqa: PLC0415 - keeps --help fast
    from provisioner.cli.reconcile import wishes_of  # noqa: PLC0415 - as above

    wishes = wishes_of(selection, reconciling)
    return carry_out(
        "apply",
        selection,
        output,
        telling,
        lambda fleet, prepared: fleet.plan(
            prepared.manifests.desired, prepared.now, wishes, leaving.leave()
        ),
        yes=yes,
    )
