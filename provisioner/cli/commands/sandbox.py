"""`provision sandbox`."""

from __future__ import annotations

from pathlib import Path

import click

_DIALECTS = ("core", "core-1", "legacy")


@click.command()
@click.argument("dialect", type=click.Choice(_DIALECTS), default="core")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    envvar="PROVISION_PORT",
    help="Loopback port; 0 takes a free one.",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(".provision/served.sqlite3"),
    show_default=True,
    envvar="PROVISION_FILE",
    help="Where its workspace is kept.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="PROVISION_FORMAT",
    help="Form of the address and credentials on stdout.",
)
def sandbox(dialect: str, port: int, file: Path, format_: str) -> int:
    """Serve the embedded Twenty for other programs, until it is interrupted.

    Speaks the API-key part of Twenty as 2.21 (core), 1.10 (core-1) or 0.60 (legacy) does, on a
    loopback port, and prints its address and credentials. They open nothing but this sandbox,
    which is for trying things out and keeps no secret.
    """
    import json  # noqa: PLC0415 - keeps --help fast

    from provisioner.cli.signals import Signals  # noqa: PLC0415 - as above
    from provisioner.errors.exceptions import WorkspaceError, WrongUsageError  # noqa: PLC0415 - as above
    from provisioner.sandbox import Dialect, Sandbox  # noqa: PLC0415 - as above

    signals = Signals()
    try:
        with signals.caught(), Sandbox(file, Dialect(dialect), port=port) as server:
            facts = {
                "url": server.url,
                "dialect": dialect,
                "email": server.email,
                "password": server.password,
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
        raise WrongUsageError("not_servable", error.message, remedy=error.remedy) from None
    except OSError as error:
        raise WrongUsageError(
            "not_servable",
            f"The sandbox cannot be served: {error.strerror or error}.",
            remedy="Choose another --port or --file.",
        ) from None
    return signals.exit_code or 0
