"""`provision rotate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provisioner.cli.completion_items import key_names
from provisioner.cli.options import (
    add_guard_options,
    add_output_options,
    add_output_targets,
    add_selection,
)
from provisioner.cli.stoppable import stoppable

if TYPE_CHECKING:
    from provisioner.cli.options import GuardOptions, OutputOptions, OutputTargets, Selection
    from provisioner.cli.signals import Signals


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…", shell_complete=key_names)
@add_selection(revokes=True)
@add_output_options("text", "json", "markdown")
@add_output_targets(events=True)
@add_guard_options
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
    output: OutputOptions,
    output_targets: OutputTargets,
    guard_options: GuardOptions,
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
    from provisioner.cli.execute import SelectedNames, carry_out  # noqa: PLC0415 - keeps --help fast
    from provisioner.plan import PlanOptions  # noqa: PLC0415 - as above

    options = PlanOptions(only=selection.only, rotate=frozenset(names), at_once=at_once)
    return carry_out(
        "rotate",
        selection,
        output,
        output_targets,
        lambda reconciler, prepared: reconciler.plan(
            prepared.manifests.desired, prepared.now, options, guard_options.overrides()
        ),
        signals=signals,
        yes=yes,
        named=SelectedNames(names, "declared"),
    )
