"""`provision completion`."""

from __future__ import annotations

import click

from provisioner.cli.command_help import DocumentedCommand


@click.command(cls=DocumentedCommand)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    The script completes commands, options, and the names of environments and keys. It reads
    these names from the manifests and sends no requests. For zsh, add
    `eval "$(provision completion zsh)"` to ~/.zshrc.

    Examples:
        # Enable completion in bash; add this line to ~/.bashrc:
        $ eval "$(provision completion bash)"

        # Enable completion in fish:
        $ provision completion fish > ~/.config/fish/completions/provision.fish
    """
    from click.shell_completion import ShellComplete, get_completion_class

    shell_class = get_completion_class(shell)
    assert shell_class is not None  # noqa: S101 - for the type checker: click knows the three
    root = click.get_current_context().find_root().command
    completion_ = shell_class(root, {}, "provision", "_PROVISION_COMPLETE")
    # Not `completion_.source()`: the method of bash starts a bash to ask for its version.
    click.echo(ShellComplete.source(completion_), nl=False)
