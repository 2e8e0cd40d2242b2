"""`provision help`."""

from __future__ import annotations

import click

from provisioner.cli.command_help import DocumentedCommand
from provisioner.cli.completion_items import command_names


@click.command("help", cls=DocumentedCommand)
@click.argument("command", required=False, shell_complete=command_names)
def show_help(command: str | None) -> None:
    """Show the help page of a command.

    Without COMMAND, list all commands. The text is the same as that of `provision COMMAND
    --help`.

    Examples:
        # List all commands:
        $ provision help

        # Show the options of one command (the same as `provision apply --help`):
        $ provision help apply
    """
    root = click.get_current_context().find_root()
    if command is None:
        click.echo(root.get_help())
        return
    assert isinstance(root.command, click.Group)  # noqa: S101 - for the type checker
    _, found, _ = root.command.resolve_command(root, [command])
    assert found is not None  # noqa: S101 - for the type checker
    with click.Context(found, info_name=command, parent=root) as context:
        click.echo(context.get_help())
