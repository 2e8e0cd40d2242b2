"""How a command ends when something went wrong: what, where, and what to do."""

from __future__ import annotations

import logging
import platform
import sys
import traceback

import click

from provisioner import __version__
from provisioner.cli.log_lines import logs_json
from provisioner.errors import InvalidInputError, ProvisionError
from provisioner.failure import failure_of
from provisioner.report.text import PLAIN, problems_text, visible
from provisioner.secret import masked
from provisioner.subject import about

_LOG = logging.getLogger("provisioner")


def tell(error: Exception) -> int:
    """Says on stderr why the command ended, and returns its exit code."""
    match error:
        case InvalidInputError() if logs_json():
            for one in error.problems:
                _LOG.error("%s: %s", one.place, one.message, extra=about(code=one.code))
            return error.exit_code
        case InvalidInputError():
            click.echo(masked(problems_text(error.problems, PLAIN)), err=True, nl=False)
            return error.exit_code
        case ProvisionError() if logs_json():
            _LOG.error("%s", failure_of(error).message, extra=about(code=error.slug))
            return error.exit_code
        case ProvisionError():
            told = f"{error.slug}: {visible(error.message)} {visible(error.remedy)}"
            click.echo(masked(told), err=True)
            return error.exit_code
        case _:
            where = "".join(traceback.format_tb(error.__traceback__))
            told = (
                f"{where}{type(error).__name__}\n\nThis is a bug of provision {__version__} "
                f"(Python {platform.python_version()}, {sys.platform}). Please report it with "
                "the lines above; they hold no values of variables."
            )
            if logs_json():
                _LOG.critical("%s", told, extra=about(code="internal_error"))
            else:
                click.echo(told, err=True)
            return 1
