"""`provision merge`."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli import options
from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.render.formats import formats_of


@click.command(cls=DocumentedCommand)
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE..."
)
@option(
    "--detailed-exitcode",
    "Exit with code 2 if a plan has changes, or if a report has keys that are due or missing.",
)
@options.unmanaged_option
@options.add_output(*formats_of("report"), times=True)
@options.add_output_targets(is_run=False)
def merge(
    files: tuple[Path, ...],
    output: options.OutputOptions,
    output_targets: options.OutputTargets,
    *,
    detailed_exitcode: bool,
) -> int:
    """Join the JSON of shards into one plan, result or report.

    Each FILE is the JSON that `plan`, `apply`, `rotate`, `revoke`, `report` or `doctor` wrote with
    `--shard K/N`. Print what one run of all environments would have printed, and exit with its
    code. A missing shard counts as an environment that could not be reached. This works offline.

    Examples:
        # Show the result of all shards, and exit with the code of one run:
        $ provision merge shard-*.json

        # Write one JSON result:
        $ provision merge shard-1.json shard-2.json --format json
    """
    from provisioner.cli.console import Console
    from provisioner.cli.merge_shards import exit_code_of, read_files, show
    from provisioner.cli.outputs import open_outputs

    console = Console(output)
    other_files = tuple(dict.fromkeys(files))
    with open_outputs("merge", output_targets, console, other_files=other_files) as outputs:
        with outputs.problems():
            joined = read_files(files, console)
        if output_targets.reports and isinstance(joined.merged.outcome, tuple):
            raise click.UsageError("--report cannot show provision/doctor/v1. Use --format json.")
        show(joined, console, outputs)
        return outputs.finish(exit_code_of(joined, detailed=detailed_exitcode))
