"""`provision init`."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import click

from provisioner.cli.command_help import DocumentedCommand
from provisioner.cli.options import new_manifests_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=DocumentedCommand)
@new_manifests_option
def init(manifests: Path) -> int:
    """Write a starter environments.yaml, manifest and pipeline.

    The example works immediately with the embedded Twenty. If the git remote is on GitHub or
    GitLab, a pipeline file plans and applies the manifests there. The JSON Schemas that editors
    use and a .gitignore for tokens are written too. Existing files are never overwritten.

    Examples:
        # Write example files to ./manifests:
        $ provision init

        # Write them to another directory:
        $ provision init --manifests ops/api-keys
    """
    import shlex

    from provisioner.cli.pipeline_file import NoPipelineFile, PipelineFile, pipeline_file
    from provisioner.cli.starter_files import write_first_files

    pipeline = pipeline_file(manifests)
    written = write_first_files(manifests, pipeline)
    for path in written:
        click.echo(f"wrote {path.as_posix()}")
    match pipeline:
        case NoPipelineFile(reason):
            click.echo(
                f"No pipeline file was written, because {reason} (docs/pipelines.md).", err=True
            )
        case PipelineFile(path, include=str(include)) if path not in written:
            click.echo(
                f"{path.as_posix()} exists. To run provision there, add this include to it:\n"
            )
            click.echo(include, nl=False)
        case PipelineFile(path) if path not in written:
            click.echo(f"{path.as_posix()} exists and was kept.", err=True)
        case PipelineFile(path, to_replace=str(reference)):
            click.echo(
                f"In {path.as_posix()}, replace {reference} with your copy of provision "
                "(docs/adopting.md).",
                err=True,
            )
        case PipelineFile():
            pass
        case _:
            assert_never(pipeline)
    option = "" if manifests.as_posix() == "manifests" else f" -m {shlex.quote(str(manifests))}"
    click.echo(f"Next: provision plan{option}\n      provision apply{option}", err=True)
    return 0
