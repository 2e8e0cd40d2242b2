"""`provision help`."""

from __future__ import annotations

import click

from provisioner.cli.command_help import DocumentedCommand, Example
from provisioner.cli.completion_items import command_names
from provisioner.cli.group import CommandGroup


@click.command(
    "help",
    cls=DocumentedCommand,
    examples=(
        Example("List all commands:", "provision help"),
        Example(
            "Show the options of one command (the same as `provision apply --help`):",
            "provision help apply",
        ),
    ),
)
@click.argument("command", required=False, shell_complete=command_names)
def show_help(command: str | None) -> None:
    """Show the help page of a command.

    Without COMMAND, list all commands. The text is the same as that of `provision COMMAND
    --help`.
    """
    root = click.get_current_context().find_root()
    if command is None:
        click.echo(root.get_help())
        return
    assert isinstance(root.command, CommandGroup)  # noqa: S101 - for the type checker
    found = root.command.require_command(root, command)
    with click.Context(found, info_name=command, parent=root) as context:
        click.echo(context.get_help())
