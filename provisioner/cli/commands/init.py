"""`provision init`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand
from provisioner.cli.options import new_manifests_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=DocumentedCommand)
@new_manifests_option
def init(manifests: Path) -> int:
    """Write a starter environments.yaml and manifest.

    The example works immediately with the embedded Twenty. The JSON Schemas that editors use
    and a .gitignore for tokens are written next to the directory. Existing files are never
    overwritten.

    Examples:
        # Write example files to ./manifests:
        $ provision init

        # Write them to another directory:
        $ provision init --manifests ops/api-keys
    """
    import shlex

    from provisioner.cli.starter_files import write_first_files

    for path in write_first_files(manifests):
        click.echo(f"wrote {path.as_posix()}")
    option = "" if manifests.as_posix() == "manifests" else f" -m {shlex.quote(str(manifests))}"
    click.echo(f"Next: provision plan{option}", err=True)
    return 0
