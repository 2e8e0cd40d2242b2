"""`provision list`."""

from __future__ import annotations

import click

from provisioner.cli.command_help import DocumentedCommand
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.options import OutputOptions, Selection, add_output, add_selection
from provisioner.cli.signals import Signals, stoppable
from provisioner.errors.codes import Code


@click.command("list", cls=DocumentedCommand)
@add_selection(revokes=False)
@add_output("text", "json", times=True)
@stoppable
def list_keys(selection: Selection, output: OutputOptions, signals: Signals) -> int:
    """List the keys in each environment.

    Only environments.yaml is needed. Revoked keys are listed if the server returns them, which
    only the legacy generation does.

    Examples:
        # List the keys in all environments:
        $ provision list

        # List some keys in production as JSON:
        $ provision list --environment production --only 'svc-*' --format json
    """
    from functools import partial

    from provisioner.cli.console import Console
    from provisioner.cli.run import early_exit_code, prepare, reconciler_of
    from provisioner.cli.watch import watching
    from provisioner.errors.failure import Failure
    from provisioner.model.globs import matches
    from provisioner.plan import Unobserved
    from provisioner.reconcile.guards import guard_workspaces
    from provisioner.render.json import key_document
    from provisioner.render.keys import keys_text, keys_view

    console = Console(output)
    with console.problems_as_data():
        prepared = prepare(selection, keys_matter=False)
    with (
        watching(console, prepared.environments) as watch,
        reconciler_of(prepared, signals.stop, watch, watch) as reconciler,
    ):
        observed = reconciler.with_revoked(reconciler.observe())
    rows = [
        (one.environment.name, key, one.observation.server_time)
        for one in observed
        if not isinstance(one, Unobserved)
        for key in sorted(one.observation.keys, key=lambda one: (one.name, one.creation_order))
        if not selection.only or matches(key.name, selection.only)
    ]
    if console.json:
        console.print_json([key_document(*row) for row in rows])
    else:
        console.print_view(partial(keys_view, rows), partial(keys_text, rows))
    if selection.only and selection.shard is None and not rows:
        message = f"No key matches --only {' '.join(selection.only)}."
        console.print_failure(Failure(Code.NOTHING_SELECTED, message))
    failures = [one for one in observed if isinstance(one, Unobserved)]
    for failed in failures:
        console.print_failure(failed.failure, failed.environment)
    code = early_exit_code(signals, guard_workspaces(observed), observed)
    return code or (INCOMPLETE if failures else 0)
