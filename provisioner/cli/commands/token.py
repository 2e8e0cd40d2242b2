"""`provision token`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, Example
from provisioner.cli.completion_items import key_names
from provisioner.cli.options import (
    Selection,
    add_output_options,
    add_restrictions,
    manifests_option,
    one_environment_option,
)
from provisioner.cli.stoppable import stoppable

if TYPE_CHECKING:
    from provisioner.cli.options import OutputOptions
    from provisioner.cli.signals import Signals
    from provisioner.model.restrictions import Restrictions


@click.command(
    cls=DocumentedCommand,
    examples=(
        Example(
            "Write a token for a key to a file:",
            "provision token svc-billing --environment staging --to billing.token",
        ),
        Example(
            "Do the same in a script, without output:",
            "provision token svc-billing --to billing.token --quiet",
        ),
    ),
)
@click.argument("name", shell_complete=key_names)
@click.option(
    "--to",
    "file",
    required=True,
    type=click.Path(path_type=Path),
    envvar="PROVISION_TO",
    metavar="FILE",
    help="Write the token to this file, which will contain nothing else.",
)
@manifests_option
@one_environment_option
@add_restrictions
@add_output_options()
@stoppable
def token(  # noqa: PLR0913 - one for each part of a command line
    name: str,
    manifests: Path,
    environment: str | None,
    file: Path,
    output: OutputOptions,
    *,
    signals: Signals,
    restrictions: Restrictions,
) -> int:
    """Mint a token for a live key and write it to a file.

    Use this for a key that has no sink, or to get an additional token: earlier tokens stay
    valid. The token is checked, then written to FILE, which only the current user can read
    (mode 0600). It is never printed.
    """
    from provisioner.cli.console import Console
    from provisioner.cli.run import prepare, reconciler_of
    from provisioner.model.expiry import format_timestamp
    from provisioner.operations.mint_token import deliver_token
    from provisioner.render.text import visible
    from provisioner.runtime.cancellation import STOPPED
    from provisioner.runtime.log_context import bind
    from provisioner.sinks.file import FileAddress, Files

    if str(file) == "-":
        raise click.UsageError("A token is never printed. Name a file with --to.")
    console = Console(output)
    selection = Selection(manifests, (environment,) if environment else ())
    selection = selection._replace(restrictions=restrictions)
    prepared = prepare(selection, keys_matter=False, one=True)
    (target,) = prepared.environments
    context = bind(environment=target.name, key=name)
    with context, reconciler_of(prepared, signals.stop) as reconciler:
        address = FileAddress(str(file), "", "bare")
        sink = Files(Path.cwd()).sink(address)
        desired = prepared.manifests.desired.get(target.name, ())
        declared = next((one for one in desired if one.name == name), None)
        workspace = reconciler.open(target)
        key = (
            None
            if workspace is None
            else deliver_token(
                workspace,
                name,
                sink,
                address,
                desired_key=declared,
                read_sinks=reconciler.read_sinks,
            )
        )
        if key is None:
            console.print_failure(STOPPED)
        elif not output.quiet:
            expires_at = format_timestamp(key.expires_at)
            console.print_text(
                f"wrote {file}: token of {visible(name)} ({key.id}), expires {expires_at}\n"
            )
    return signals.exit_code or 0
