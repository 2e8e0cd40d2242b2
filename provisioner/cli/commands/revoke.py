"""`provision revoke`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.completion_items import key_names
from provisioner.cli.options import OutputOptions, OutputTargets, Selection, add_run_options
from provisioner.cli.signals import Signals, stoppable

if TYPE_CHECKING:
    from provisioner.plan import GuardOverrides


@click.command(cls=DocumentedCommand)
@click.argument("names", nargs=-1, required=True, metavar="NAME|ID...", shell_complete=key_names)
@option("--yes", "Do not ask for confirmation.")
@option("--clean", "Also remove the tokens from all sinks of the keys.")
@add_run_options
@stoppable
def revoke(  # noqa: PLR0913 - one for each part of a command line
    names: tuple[str, ...],
    selection: Selection,
    output: OutputOptions,
    output_targets: OutputTargets,
    overrides: GuardOverrides,
    *,
    signals: Signals,
    yes: bool,
    clean: bool,
) -> int:
    """Revoke live keys immediately.

    Passing a name revokes all live keys with that name in every environment, unless -e selects
    only some of them. Passing an id revokes one key. Only keys that match the `owns` globs of
    their environment are revoked, and never the key that this run is signed in with. If a
    manifest declares a revoked key, the next `provision apply` creates it again. The token is
    removed from sinks with `clean: true`, or with --clean from all that can do that.

    Examples:
        # Revoke all live keys named svc-billing in staging:
        $ provision revoke svc-billing --environment staging

        # Revoke one key by its id:
        $ provision revoke 2a8c5ef5-788b-46ff-94d8-2f9cd657a73c
    """
    from provisioner.cli.execute import Job, SelectedNames, carry_out
    from provisioner.cli.run import prepare
    from provisioner.plan import PlanOptions

    if not all(names):
        raise click.UsageError(
            "A NAME is empty; check that its variable is set. To revoke a key without a name, "
            "use its id."
        )
    options = PlanOptions(only=selection.only, revoke=frozenset(names), clean=clean)
    return carry_out(
        "revoke",
        lambda: Job.now(prepare(selection), options, overrides),
        output,
        output_targets,
        signals=signals,
        yes=yes,
        selected_names=SelectedNames(names, "live"),
    )
