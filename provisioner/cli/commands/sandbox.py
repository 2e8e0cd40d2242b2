"""`provision sandbox`."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.signals import Signals, stoppable
from provisioner.errors.codes import Code


@click.command(cls=DocumentedCommand)
@click.argument(
    "dialect", type=click.Choice(["core", "core-newest", "core-1", "legacy"]), default="core"
)
@option(
    "--port PORT",
    "Listen on this loopback port; 0 picks a free one.",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=False,
)
@option(
    "--file FILE",
    "Keep the workspace in this file.",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(".provision/served.sqlite3"),
)
@option(
    "--format [text|json]",
    "Print the address and credentials in this format.",
    name="format_",
    default="text",
)
@stoppable
def sandbox(dialect: str, port: int, file: Path, format_: str, signals: Signals) -> int:
    """Run the embedded Twenty as a server for other programs.

    Respond to API-key requests on a loopback port as Twenty 2.21 (core), about 2.38 and later
    (core-newest), 1.10 (core-1) or 0.60 (legacy) would, and print the address and credentials.
    The server runs until it is interrupted. It is meant for trying things out: do not keep
    secrets in it.

    Examples:
        # Serve the API of Twenty 2.21 on a free port:
        $ provision sandbox

        # Serve the API of Twenty 0.60 on port 3000:
        $ provision sandbox legacy --port 3000
    """
    import json

    from provisioner.errors.exceptions import WorkspaceError, WrongUsageError
    from provisioner.sandbox import Dialect, Sandbox

    try:
        with Sandbox(file, Dialect(dialect), port=port) as server:
            facts = {
                "url": server.url,
                "dialect": dialect,
                "email": server.user().email,
                "password": server.user().password,
                "session_token": server.session_token(),
            }
            if format_ == "json":
                click.echo(json.dumps(facts))
            else:
                click.echo("".join(f"{name + ':':15}{value}\n" for name, value in facts.items()))
                click.echo("Serving until interrupted.", err=True)
            signals.stop.wait()
    except WorkspaceError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise WrongUsageError(Code.NOT_SERVABLE, error.message, remedy=error.remedy) from None
    except OSError as error:
        raise WrongUsageError(
            Code.NOT_SERVABLE,
            f"The sandbox cannot be started: {error.strerror or error}.",
            remedy="Choose another --port or --file.",
        ) from None
    return signals.exit_code or 0
