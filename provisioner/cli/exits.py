"""How a command ends when something went wrong: what, where, and what to do."""

from __future__ import annotations

import errno
import logging
import os
import platform
import sys
import traceback
from contextlib import suppress

import click

from provisioner import __version__
from provisioner.cli.console import lost_output
from provisioner.cli.exit_codes import UNEXPECTED
from provisioner.cli.explain_hint import remember_codes
from provisioner.cli.github_actions import without_commands
from provisioner.cli.log import logs_json
from provisioner.errors.exceptions import (
    InvalidInputError,
    ProvisionError,
    WorkspaceError,
    WrongUsageError,
)
from provisioner.errors.failure import failure_of
from provisioner.render.text import PLAIN, problems_text, visible
from provisioner.runtime.file_descriptors import spent
from provisioner.runtime.log_context import extra
from provisioner.secret import masked

_LOG = logging.getLogger("provisioner")


_OUTPUT_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What the device behind stdout says, which has no file name, when click writes on it."""


def report_error(error: Exception) -> int:
    """Says on stderr why the command ended, and returns its exit code."""
    match error:
        case FileNotFoundError() if not _stands_somewhere():
            error = WrongUsageError(
                "directory_gone",
                "The working directory is not there any more.",
                remedy="Change to one that is.",
            )
        case OSError() if spent(error):
            error = WorkspaceError(
                "unreachable",
                "This process may not open another file or connection.",
                remedy="Raise the limit on open files (`ulimit -n`).",
            )
        case OSError(filename=None) if error.errno in _OUTPUT_LOST:
            error = lost_output(error)
    with suppress(OSError):  # where nobody can be told, the exit code still tells
        _say(error)
    return error.exit_code if isinstance(error, ProvisionError) else UNEXPECTED


def _stands_somewhere() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - asked whether there is one
    except FileNotFoundError:
        return False
    return True


def _say(error: Exception) -> None:
    match error:
        case InvalidInputError() if logs_json():
            for one in error.problems:
                _LOG.error("%s: %s", one.place, one.message, extra=extra(code=one.code))
        case InvalidInputError():
            told = masked(problems_text(error.problems, PLAIN))
            remember_codes(one.code for one in error.problems)
            click.echo(without_commands(told), err=True, nl=False)
        case ProvisionError() if logs_json():
            _LOG.error("%s", failure_of(error).message, extra=extra(code=error.code))
        case ProvisionError():
            remember_codes([error.code])
            told = f"{error.code}: {visible(error.message)} {visible(error.remedy)}"
            click.echo(without_commands(masked(told)), err=True)
        case _:
            where = "".join(traceback.format_tb(error.__traceback__))
            told = (
                f"{where}{type(error).__name__}\n\nThis is a bug of provision {__version__} "
                f"(Python {platform.python_version()}, {sys.platform}). Please report it with "
                "the lines above; they hold no values of variables."
            )
            if logs_json():
                _LOG.critical("%s", told, extra=extra(code="internal_error"))
            else:
                click.echo(told, err=True)
