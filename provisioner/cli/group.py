"""The commands by name: the summary that `--help` shows, and the module that defines each."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from provisioner.cli.command_help import split_examples, write_examples

COMMANDS = {
    "init": ("init", "Write a starter environments.yaml and manifest."),
    "validate": ("validate", "Check manifests offline, without credentials."),
    "plan": ("plan", "Show what apply would change, and change nothing."),
    "apply": ("apply", "Create missing keys and deliver their tokens."),
    "list": ("list_keys", "List the keys in each environment."),
    "export": ("export", "Write a manifest for the keys in a workspace."),
    "report": ("report", "Report when keys expire and which need attention."),
    "doctor": ("doctor", "Check credentials, permissions, limits and sinks."),
    "rotate": ("rotate", "Replace keys immediately with successors of the same name."),
    "revoke": ("revoke", "Revoke live keys immediately."),
    "token": ("token", "Mint a token for a live key and write it to a file."),
    "create": ("create", "Create keys from a JSON body in one environment."),
    "schema": ("schema", "Print a JSON Schema, or list the names of all schemas."),
    "sandbox": ("sandbox", "Run the embedded Twenty as a server for other programs."),
    "help": ("show_help", "Show the help page of a command."),
    "explain": ("explain", "Explain an error, finding or exit code."),
    "completion": ("completion", "Print the completion script for a shell."),
}
"""Module and summary of each command, in the order of first use."""


class CommandGroup(click.Group):
    """The group of all commands; it imports a command when that is run."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.help, self._examples = split_examples(self.help)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of first use."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of that name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, summary = COMMANDS[cmd_name]
        command: click.Command = getattr(
            import_module(f"provisioner.cli.commands.{module}"), module
        )
        command.short_help = summary
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, without importing any, and the options of the program itself."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])
        click.Command.format_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, and where to read on."""
        write_examples(formatter, self._examples)
        super().format_epilog(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve the command as click does, and suggest one for an unknown name."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchOption:
            raise
        except click.UsageError:
            from provisioner.cli.suggestions import suggest_command

            message = f"No such command {args[0]!r}. {suggest_command(args[0], COMMANDS)}"
            raise click.UsageError(message.rstrip(), ctx) from None
