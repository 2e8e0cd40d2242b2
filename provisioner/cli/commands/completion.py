"""`provision completion`."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands, options and names in a shell.

    Names of environments and keys come from the manifests; nothing is sent. In ~/.bashrc or
    ~/.zshrc: eval "$(provision completion bash)", or zsh. For fish, write it to
    ~/.config/fish/completions/provision.fish.
    """
    from click.shell_completion import (  # noqa: PLC0415 - keeps --help fast
        ShellComplete,
        get_completion_class,
    )

    kind = get_completion_class(shell)
    if kind is None:  # pragma: no cover - click knows the three
        raise click.BadParameter(f"click has no completion for {shell}.")
    root = click.get_current_context().find_root().command
    made = kind(root, {}, "provision", "_PROVISION_COMPLETE")
    # Not the method of its own kind: that of bash starts a bash to ask for its version.
    click.echo(ShellComplete.source(made), nl=False)
