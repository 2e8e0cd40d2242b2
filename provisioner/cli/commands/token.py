"""`provision token`."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.completion_items import key_names
from provisioner.cli.options import OutputOptions, Selection, add_one_environment, add_output
from provisioner.cli.signals import Signals, stoppable


@click.command(cls=DocumentedCommand)
@click.argument("name", shell_complete=key_names)
@option(
    "--to FILE",
    "Write the token to this file, which will contain nothing else.",
    name="file",
    required=True,
    type=click.Path(path_type=Path),
)
@add_one_environment
@add_output()
@stoppable
def token(
    name: str, selection: Selection, file: Path, output: OutputOptions, signals: Signals
) -> int:
    """Mint a token for a live key and write it to a file.

    Use this for a key that has no sink, or to get an additional token: earlier tokens stay
    valid. The token is checked and then written to FILE, which only the current user can read
    (mode 0600). It is never printed.

    Examples:
        # Write a token for a key to a file:
        $ provision token svc-billing --environment staging --to billing.token

        # Do the same in a script, without output:
        $ provision token svc-billing --to billing.token --quiet
    """
    from provisioner.cli.console import Console
    from provisioner.cli.run import prepare, reconciler_of
    from provisioner.cli.watch import watching
    from provisioner.model.expiry import format_timestamp
    from provisioner.operations.mint_token import deliver_token
    from provisioner.render.text import visible
    from provisioner.runtime.cancellation import STOPPED
    from provisioner.runtime.log_context import bind
    from provisioner.sinks.file import FileAddress, Files

    if str(file) == "-":
        raise click.UsageError("Tokens are never printed. Specify a file with --to.")
    console = Console(output)
    prepared = prepare(selection, keys_matter=False, one=True)
    (target,) = prepared.environments
    context = bind(environment=target.name, key=name)
    with (
        context,
        watching(console, prepared.environments) as watch,
        reconciler_of(prepared, signals.stop, watch, watch) as reconciler,
    ):
        address = FileAddress(str(file), "", "bare")
        sink = Files(Path.cwd()).sink(address)
        desired = prepared.manifests.desired.get(target.name, ())
        declared = next((one for one in desired if one.name == name), None)
        workspace = reconciler.open(target)
        if workspace is None:
            console.print_failure(STOPPED)
            return signals.exit_code or 0
        read_sinks = reconciler.read_sinks
        key = deliver_token(
            workspace, name, sink, address, desired_key=declared, read_sinks=read_sinks
        )
    if not output.quiet:
        token = f"token of {visible(name)} ({key.id}), expires {format_timestamp(key.expires_at)}"
        console.print_text(f"wrote {visible(str(file))}: {token}\n")
    return signals.exit_code or 0
