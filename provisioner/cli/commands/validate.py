"""`provision validate`."""

from __future__ import annotations

from pathlib import Path

import click

from provisioner.cli import options
from provisioner.cli.command_help import DocumentedCommand
from provisioner.cli.exit_codes import INVALID
from provisioner.render.formats import formats_of


@click.command(cls=DocumentedCommand)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@options.manifests_option
@options.environments_option
@options.add_output(*formats_of("problems"))
@options.add_output_targets(is_run=False)
def validate(
    paths: tuple[Path, ...],
    manifests: Path,
    environments_file: Path | None,
    output: options.OutputOptions,
    output_targets: options.OutputTargets,
) -> int:
    """Check manifests offline, without credentials.

    No variables are read, and no requests are sent. PATH is a manifests directory or a file in
    one. If PATH is a file, the whole directory is still read, but only problems in that file are
    reported.

    Examples:
        # Check all manifests in ./manifests:
        $ provision validate

        # Check one file, and print its problems in a format for code scanners:
        $ provision validate manifests/keys.yaml --format sarif
    """
    import logging
    from datetime import UTC, datetime

    from provisioner.cli.check_manifests import check
    from provisioner.cli.console import Console
    from provisioner.cli.outputs import from_root, open_outputs

    console = Console(output)
    with open_outputs("validate", output_targets, console) as outputs:
        checked = check(paths or (manifests,), datetime.now(UTC), environments_file)
        for warning in checked.warnings:
            logging.getLogger("provisioner").warning("%s", warning)
        report = from_root(checked)
        if output.format != "text" or checked.problems or not output.quiet:
            with outputs.printing():
                console.print_report(report)
        outputs.write_reports(report)
    return INVALID if checked.problems else 0
