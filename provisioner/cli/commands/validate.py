"""`provision validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from provisioner.cli.exit_codes import INVALID
from provisioner.cli.options import (
    environments_option,
    manifests_option,
    output_options,
    telling_options,
)

if TYPE_CHECKING:
    from provisioner.cli.options import Output, Telling
    from provisioner.render.formats import Form


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@manifests_option
@environments_option
@output_options("text", "json", "markdown", "github", "gitlab", "junit", "sarif")
@telling_options(events=False)
def validate(
    paths: tuple[Path, ...],
    manifests: Path,
    environments_file: Path | None,
    output: Output,
    telling: Telling,
) -> int:
    """Check manifests offline, without credentials.

    Looks at no variable and sends nothing. A PATH is a directory of manifests, or a file in one:
    then its whole directory is read and the problems of that file are shown.
    """
    import logging  # noqa: PLC0415 - as below
    from datetime import UTC, datetime  # noqa: PLC0415 - keeps --help fast

    from provisioner.cli.check_manifests import check  # noqa: PLC0415 - as above
    from provisioner.cli.console import Console  # noqa: PLC0415 - as above
    from provisioner.cli.outputs import outlets  # noqa: PLC0415 - as above

    console = Console(output)
    with outlets("validate", telling, console) as out:
        checked = check(paths or (manifests,), datetime.now(UTC), environments_file)
        for warning in checked.warnings:
            logging.getLogger("provisioner").warning("%s", warning)
        told = out.examined(checked.files, checked.problems, checked.summary, checked.warnings)
        if output.format != "text" or checked.problems or not output.quiet:
            with out.shown():
                console.tell(told, cast("Form", output.format))
        out.report(told)
    return INVALID if checked.problems else 0
