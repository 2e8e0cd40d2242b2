"""`provision revoke`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.completion_items import key_names
from provisioner.cli.options import (
    add_guard_options,
    add_output_options,
    add_output_targets,
    add_selection,
)
from provisioner.cli.stoppable import stoppable
from provisioner.render.formats import formats_of

if TYPE_CHECKING:
    from provisioner.cli.options import GuardOptions, OutputOptions, OutputTargets, Selection
    from provisioner.cli.signals import Signals


@click.command(cls=DocumentedCommand)
@click.argument("names", nargs=-1, required=True, metavar="NAME|ID...", shell_complete=key_names)
@option("--yes", "Do not ask for confirmation.")
@add_guard_options
@add_selection(revokes=True)
@add_output_options(*formats_of("result"))
@add_output_targets(events=True)
@stoppable
def revoke(  # noqa: PLR0913 - one for each part of a command line
    names: tuple[str, ...],
    selection: Selection,
    output: OutputOptions,
    output_targets: OutputTargets,
    guard_options: GuardOptions,
    *,
    signals: Signals,
    yes: bool,
) -> int:
    """Revoke live keys immediately.

    Passing a name revokes all live keys with that name in every environment, unless -e selects
    some. Passing an id revokes one key. Only keys that match the `owns` globs of their
    environment are revoked, and never the key that this run is signed in with. If a manifest
    declares a revoked key, the next `provision apply` creates it again.

    Examples:
        # Revoke all live keys named svc-billing in staging:
        $ provision revoke svc-billing --environment staging

        # Revoke one key by its id:
        $ provision revoke 2a8c5ef5-788b-46ff-94d8-2f9cd657a73c
    """
    from provisioner.cli.execute import SelectedNames, carry_out
    from provisioner.plan import PlanOptions

    if not all(names):
        raise click.UsageError(
            "A NAME is empty; check that its variable is set. To revoke a key without a name, "
            "use its id."
        )
    names_or_ids = frozenset(names)
    options = PlanOptions(only=selection.only)
    return carry_out(
        "revoke",
        selection,
        output,
        output_targets,
        lambda reconciler, prepared: reconciler.plan_revocations(
            prepared.manifests.desired,
            prepared.now,
            names_or_ids,
            options,
            guard_options.overrides(),
        ),
        signals=signals,
        yes=yes,
        selected_names=SelectedNames(names, "live"),
    )
