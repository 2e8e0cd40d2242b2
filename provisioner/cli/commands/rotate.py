"""`provision rotate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provisioner.cli.completion_items import key_names
from provisioner.cli.options import (
    guard_options,
    output_options,
    selection_options,
    telling_options,
)
from provisioner.cli.stoppable import stoppable

if TYPE_CHECKING:
    from provisioner.cli.options import Leaving, Output, Selection, Telling
    from provisioner.cli.signals import Signals


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…", shell_complete=key_names)
@selection_options(revokes=True)
@output_options("text", "json", "markdown")
@telling_options(events=True)
@guard_options
@click.option(
    "--now",
    "at_once",
    is_flag=True,
    envvar="PROVISION_NOW",
    help="Revoke the old keys as soon as the new tokens are delivered: for a leaked key.",
)
@click.option("--yes", is_flag=True, envvar="PROVISION_YES", help="Do not ask on a terminal.")
@stoppable
def rotate(  # noqa: PLR0913 - what there is to say of a rotation
    names: tuple[str, ...],
    selection: Selection,
    output: Output,
    telling: Telling,
    leaving: Leaving,
    *,
    signals: Signals,
    at_once: bool,
    yes: bool,
) -> int:
    """Give keys successors of the same name, now.

    Each NAME has to be declared, owned, and delivered somewhere. The successor is made, its token
    is proven and delivered, and the old key is revoked when the overlap of its `rotate` is over,
    by a later `apply`; with --now as soon as the delivery is done. This is done in every
    environment that has the name: -e keeps to one.
    """
    from provisioner.cli.execute import Named, carry_out  # noqa: PLC0415 - keeps --help fast
    from provisioner.plan import Wishes  # noqa: PLC0415 - as above

    wishes = Wishes(only=selection.only, rotate=frozenset(names), at_once=at_once)
    return carry_out(
        "rotate",
        selection,
        output,
        telling,
        lambda fleet, prepared: fleet.plan(
            prepared.manifests.desired, prepared.now, wishes, leaving.leave()
        ),
        signals=signals,
        yes=yes,
        named=Named(names, "declared"),
    )
