"""`provision revoke`."""

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
@click.argument("names", nargs=-1, required=True, metavar="NAME|ID…", shell_complete=key_names)
@selection_options(revokes=True)
@output_options("text", "json", "markdown")
@telling_options(events=True)
@guard_options
@click.option("--yes", is_flag=True, envvar="PROVISION_YES", help="Do not ask on a terminal.")
@stoppable
def revoke(  # noqa: PLR0913 - what there is to say of a revocation
    names: tuple[str, ...],
    selection: Selection,
    output: Output,
    telling: Telling,
    leaving: Leaving,
    *,
    signals: Signals,
    yes: bool,
) -> int:
    """End live keys, now.

    Each by its name, which ends all live keys of that name in every environment (-e keeps to
    one), or by its id. Only keys that the `owns` of their environment match, and never the one
    that this run is signed in with. A key that a manifest declares is made anew by the next
    `apply`.
    """
    from provisioner.cli.execute import Named, carry_out  # noqa: PLC0415 - keeps --help fast
    from provisioner.plan import Wishes  # noqa: PLC0415 - as above

    if not all(names):
        raise click.UsageError("A NAME is empty: a variable may not be set. Name an id instead.")
    asked = frozenset(names)
    wishes = Wishes(only=selection.only)
    return carry_out(
        "revoke",
        selection,
        output,
        telling,
        lambda fleet, prepared: fleet.plan_revocations(
            prepared.manifests.desired, prepared.now, asked, wishes, leaving.leave()
        ),
        signals=signals,
        yes=yes,
        named=Named(names, "live"),
    )
