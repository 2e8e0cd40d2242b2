"""The commands by name: the summary that `--help` shows, and the module that defines each."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS = {
    "init": ("init", "Write a starter environments.yaml, manifest and pipeline."),
    "validate": ("validate", "Check manifests offline, without credentials."),
    "plan": ("plan", "Show what apply would change, and change nothing."),
    "apply": ("apply", "Create missing keys and deliver their tokens."),
    "list": ("list_keys", "List the keys in each environment."),
    "export": ("export", "Write manifests for keys that already exist."),
    "report": ("report", "Report when keys expire and which ones need attention."),
    "doctor": ("doctor", "Check credentials, permissions, limits and sinks."),
    "rotate": ("rotate", "Replace keys immediately with successors of the same name."),
    "revoke": ("revoke", "Revoke live keys immediately."),
    "merge": ("merge", "Join the JSON of shards into one plan, result or report."),
    "token": ("token", "Mint a token for a live key and write it to a file."),
    "create": ("create", "Create keys from a JSON body in one environment."),
    "schema": ("schema", "Print a JSON Schema, or list the names of all schemas."),
    "sandbox": ("sandbox", "Run the embedded Twenty as a server for other programs."),
    "help": ("show_help", "Show the help page of a command."),
    "explain": ("explain", "Explain an error, finding or exit code."),
    "completion": ("completion", "Print the completion script for a shell."),
}
"""Module and summary of each command, in the order of first use."""

_PAGE = """\
Usage: provision [OPTIONS] COMMAND [ARGS]...

  Manage the API keys of Twenty CRM workspaces with YAML manifests.

  Manifests in git list the keys that each environment should have. `provision
  apply` creates the missing ones. `provision plan` shows in advance what would
  change.

Commands:
{commands}

Options:
  -V, --version  Show the version and exit.
  -h, --help     Show this message and exit.

Examples:
  # Write the files of a first project, which works without a server:
  $ provision init

  # Create the keys that the manifest declares:
  $ provision apply

  Run `provision help COMMAND` to learn about a command, or `provision explain
  CODE` to learn about an error code."""
"""The help page of the program, wrapped here since click imports two libraries to wrap text."""


class CommandGroup(click.Group):
    """The group of all commands; it imports a command when that is run."""

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

    def get_help(self, ctx: click.Context) -> str:
        """Return the help page, without importing any command."""
        del ctx
        commands = [f"  {name:10}  {summary}" for name, (_, summary) in COMMANDS.items()]
        return _PAGE.format(commands="\n".join(commands))

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
