"""`provision validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.exit_codes import INVALID
from provisioner.cli.options import manifests_option, output_options

if TYPE_CHECKING:
    from provisioner.cli.options import Output


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@manifests_option
@output_options("text", "json")
def validate(paths: tuple[Path, ...], manifests: Path, output: Output) -> int:
    """Check manifests offline, without credentials.

    Looks at no variable and sends nothing. A PATH is a directory of manifests, or a file in one:
    then its whole directory is read and the problems of that file are shown.
    """
    from datetime import UTC, datetime  # noqa: PLC0415 - keeps --help fast

    from provisioner.cli.checking import check  # noqa: PLC0415 - as above
    from provisioner.cli.console import Console  # noqa: PLC0415 - as above
    from provisioner.report.documents import problems_document  # noqa: PLC0415 - as above
    from provisioner.report.text import problems_text  # noqa: PLC0415 - as above

    console = Console(output)
    checked = check(paths or (manifests,), datetime.now(UTC))
    if console.json:
        console.document(problems_document(checked.problems))
    elif checked.problems:
        console.text(problems_text(checked.problems, console.palette))
    elif not output.quiet:
        console.text(f"{checked.summary}\n")
    return INVALID if checked.problems else 0
