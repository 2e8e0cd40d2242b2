"""How a command ends when something went wrong: what, where, and what to do."""

from __future__ import annotations

import platform
import sys
import traceback

import click

from provisioner import __version__
from provisioner.errors import InvalidInputError, ProvisionError
from provisioner.report.text import PLAIN, problems_text, visible
from provisioner.secret import masked


def tell(error: Exception) -> int:
    """Says on stderr why the command ended, and returns its exit code."""
    match error:
        case InvalidInputError():
            click.echo(masked(problems_text(error.problems, PLAIN)), err=True, nl=False)
            return error.exit_code
        case ProvisionError():
            told = f"{error.slug}: {visible(error.message)} {visible(error.remedy)}"
            click.echo(masked(told), err=True)
            return error.exit_code
        case _:
            where = "".join(traceback.format_tb(error.__traceback__))
            click.echo(
                f"{where}{type(error).__name__}\n\nThis is a bug of provision {__version__} "
                f"(Python {platform.python_version()}, {sys.platform}). Please report it with "
                "the lines above; they hold no values of variables.",
                err=True,
            )
            return 1
