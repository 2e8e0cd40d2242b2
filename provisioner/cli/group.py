"""The commands by name: a line for `--help`, and where each is imported from when it runs."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "init": ("init", "Write a first environments.yaml and manifest."),
    "validate": ("validate", "Check manifests offline, without credentials."),
    "plan": ("plan", "Show what would change; change nothing."),
    "apply": ("apply", "Create the keys that are missing, deliver their tokens."),
    "list": ("list_keys", "List the keys that the environments really have."),
    "export": ("export", "Write a manifest of what a workspace holds, to adopt it."),
    "report": ("report", "Report expiry and hygiene of every live key; write nothing."),
    "doctor": ("doctor", "Examine credentials, permissions, limits and sinks; write nothing."),
    "rotate": ("rotate", "Give keys successors of the same name, now."),
    "revoke": ("revoke", "End live keys, now."),
    "token": ("token", "Mint a token of a live key into a file."),
    "create": ("create", "Post a JSON body of keys to one environment."),
    "schema": ("schema", "Print the JSON Schemas of the files and outputs."),
    "sandbox": ("sandbox", "Serve the embedded Twenty for other programs."),
    "completion": ("completion", "Print the completion script of a shell."),
}
"""Module and line of each command, in the order of a first use, not of the alphabet."""


class CommandGroup(click.Group):
    """Imports a command when it is asked for, and guesses at misspelt ones."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of a first use."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, line = COMMANDS[cmd_name]
        command: click.Command = getattr(
            import_module(f"provisioner.cli.commands.{module}"), module
        )
        command.short_help = line
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a guess at what was meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # noqa: PLC0415 - only for a misspelt command

            close = get_close_matches(args[0], COMMANDS, n=1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(error.message + guess, ctx) from None
