"""`provision schema`."""

from __future__ import annotations

import click

from provisioner.cli.command_help import DocumentedCommand
from provisioner.cli.completion_items import schema_names


@click.command(cls=DocumentedCommand)
@click.argument("name", required=False, shell_complete=schema_names)
def schema(name: str | None) -> None:
    """Print a JSON Schema, or list the names of all schemas.

    The schemas follow JSON Schema draft 2020-12.

    \b
    Files that you write:          environments, manifest
    Files that provision writes:   planfile
    Results with --format json:    plan, result, problems, keys, doctor, report
    Lines of --events:             events
    Lines of --log-format json:    log
    Messages after a run:          notification

    Examples:
        # List the names of all schemas:
        $ provision schema

        # Print the schema for manifests:
        $ provision schema manifest
    """  # noqa: D301 - click keeps the lines of a paragraph that starts with a backspace
    from provisioner import schemas

    if name is None:
        click.echo("\n".join(schemas.NAMES))
    elif name in schemas.NAMES:
        click.echo(schemas.text(name), nl=False)
    else:
        raise click.BadParameter(
            f"{name!r} is not a schema. Choose from {', '.join(schemas.NAMES)}."
        )
