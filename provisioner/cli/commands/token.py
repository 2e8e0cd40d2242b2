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
            "Write a token of a key to a file:",
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
    help="Write the token to this file, which holds nothing else.",
)
@manifests_option
@one_environment_option
@add_restrictions
@add_output_options()
@stoppable
def token(  # noqa: PLR0913 - what there is to say of a token
    name: str,
    manifests: Path,
    environment: str | None,
    file: Path,
    output: OutputOptions,
    *,
    signals: Signals,
    restrictions: Restrictions,
) -> int:
    """Mint a token of a live key and write it to a file.

    Use it for a key that has no sink, or to get one more token: earlier tokens stay valid. The
    token is checked, then written to FILE, which only the current user can read (mode 0600). It
    is never printed.
    """
    from provisioner.cli.console import Console  # noqa: PLC0415 - as above
    from provisioner.cli.run import prepare, reconciler_of  # noqa: PLC0415 - as above
    from provisioner.model.expiry import format_moment  # noqa: PLC0415 - as above
    from provisioner.model.sink_address import FileAddress  # noqa: PLC0415 - keeps --help fast
    from provisioner.operations.mint_token import deliver_token  # noqa: PLC0415 - as above
    from provisioner.render.text import visible  # noqa: PLC0415 - as above
    from provisioner.runtime.cancellation import STOPPED  # noqa: PLC0415 - as above
    from provisioner.runtime.log_context import bind  # noqa: PLC0415 - as above
    from provisioner.sinks.file import Files  # noqa: PLC0415 - as above

    if str(file) == "-":
        raise click.UsageError("A token is never printed: name a file with --to.")
    console = Console(output)
    selection = Selection(manifests, (environment,) if environment else ())
    selection = selection._replace(restrictions=restrictions)
    prepared = prepare(selection, keys_matter=False, one=True)
    (where,) = prepared.environments
    working = bind(environment=where.name, key=name)
    with working, reconciler_of(prepared, signals.stop) as reconciler:
        address = FileAddress(str(file), "", "bare")
        sink = Files(Path.cwd()).sink(address)
        desired = prepared.manifests.desired.get(where.name, ())
        wanted = next((one for one in desired if one.name == name), None)
        workspace = reconciler.open(where)
        key = (
            None
            if workspace is None
            else deliver_token(
                workspace, name, sink, address, wanted=wanted, look_into=reconciler.look_into
            )
        )
        if key is None:
            console.failed(STOPPED)
        elif not output.quiet:
            expires_at = format_moment(key.expires_at)
            console.text(
                f"{file} holds a token of {visible(name)} ({key.id}) until {expires_at}.\n"
            )
    return signals.exit_code or 0
