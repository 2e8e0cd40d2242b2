"""`provision sandbox`."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli.command_help import DocumentedCommand, Example
from provisioner.errors.codes import Code

_DIALECTS = ("core", "core-1", "legacy")


@click.command(
    cls=DocumentedCommand,
    examples=(
        Example("Serve the newest API on a free port:", "provision sandbox"),
        Example(
            "Serve the API of Twenty 0.60 on port 3000:", "provision sandbox legacy --port 3000"
        ),
    ),
)
@click.argument("dialect", type=click.Choice(_DIALECTS), default="core")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    envvar="PROVISION_PORT",
    help="Listen on this loopback port; 0 picks a free one.",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(".provision/served.sqlite3"),
    show_default=True,
    envvar="PROVISION_FILE",
    help="Keep the workspace in this file.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="PROVISION_FORMAT",
    help="Print the address and credentials in this format.",
)
def sandbox(dialect: str, port: int, file: Path, format_: str) -> int:
    """Run the embedded Twenty as a server for other programs.

    Respond to API-key requests on a loopback port as Twenty 2.21 (core), 1.10 (core-1) or 0.60
    (legacy) would, and print the address and credentials. The server runs until it is
    interrupted. It is meant for trying things out: do not keep secrets in it.
    """
    import json

    from provisioner.cli.signals import Signals
    from provisioner.errors.exceptions import WorkspaceError, WrongUsageError
    from provisioner.sandbox import Dialect, Sandbox

    signals = Signals()
    try:
        with signals.caught(), Sandbox(file, Dialect(dialect), port=port) as server:
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
