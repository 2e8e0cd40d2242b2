"""`provision rotate`."""

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
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=key_names)
@option(
    "--now",
    "Revoke the old keys as soon as the new tokens are delivered; use this for a leaked key.",
    name="at_once",
)
@option("--yes", "Do not ask for confirmation.")
@add_run_options
@stoppable
def rotate(  # noqa: PLR0913 - one for each part of a command line
    names: tuple[str, ...],
    selection: Selection,
    output: OutputOptions,
    output_targets: OutputTargets,
    overrides: GuardOverrides,
    *,
    signals: Signals,
    at_once: bool,
    yes: bool,
) -> int:
    """Replace keys immediately with successors of the same name.

    Each NAME must be declared in a manifest, match `owns` and have a sink. The successor is
    created, and its token is checked and delivered. A later `provision apply` revokes the old
    key once the overlap set in `rotate` is over. With --now, the old key is revoked as soon as
    the new token is delivered.

    Keys are rotated in every environment that has a key with that name, unless -e selects only
    some of them.

    Examples:
        # Replace a key; the old one stays valid during the overlap:
        $ provision rotate svc-billing --environment production

        # Replace a leaked key and revoke the old one at once:
        $ provision rotate svc-billing --now
    """
    from provisioner.cli.execute import Job, SelectedNames, carry_out
    from provisioner.cli.run import prepare
    from provisioner.plan import PlanOptions

    options = PlanOptions(only=selection.only, rotate=frozenset(names), at_once=at_once)
    return carry_out(
        "rotate",
        lambda: Job.now(prepare(selection), options, overrides),
        output,
        output_targets,
        signals=signals,
        yes=yes,
        selected_names=SelectedNames(names, "declared"),
    )
