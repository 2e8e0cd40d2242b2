"""The error that ends a command: its message on stderr, and its exit code."""

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
from provisioner.cli.console import output_error, print_failure, write_stderr
from provisioner.cli.exit_codes import UNEXPECTED
from provisioner.cli.log import logs_json
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import (
    InvalidInputError,
    ProvisionError,
    WorkspaceError,
    WrongUsageError,
)
from provisioner.render.text import PLAIN, problems_text
from provisioner.runtime.file_descriptors import is_out_of_descriptors
from provisioner.runtime.log_context import extra

_LOG = logging.getLogger("provisioner")


_STDOUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of the device behind stdout; they have no file name when click writes to it."""


def report_error(error: Exception, printed_codes: list[str]) -> int:
    """Print on stderr why the command failed, and return its exit code.

    Args:
        error: the error.
        printed_codes: the codes of errors printed as text, to which those of this one are added.
    """
    match error:
        case FileNotFoundError() if not _has_working_directory():
            error = WrongUsageError(
                Code.DIRECTORY_GONE,
                "The working directory no longer exists.",
                remedy="Change to a directory that exists.",
            )
        case OSError() if is_out_of_descriptors(error):
            error = WorkspaceError(
                Code.UNREACHABLE,
                "This process cannot open more files or connections.",
                remedy="Raise the limit on open files (`ulimit -n`).",
            )
        case OSError(filename=None) if error.errno in _STDOUT_ERRORS:
            error = output_error(error)
    match error:
        case InvalidInputError() if logs_json():
            for problem in error.problems:
                _LOG.error("%s: %s", problem.place, problem.message, extra=extra(code=problem.code))
        case InvalidInputError():
            printed_codes += [problem.code for problem in error.problems]
            write_stderr(problems_text(error.problems, PLAIN))
        case ProvisionError():
            print_failure(error.failure, printed_codes)
        case _:
            _print_bug(error)
    return error.exit_code if isinstance(error, ProvisionError) else UNEXPECTED


def _has_working_directory() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - fails if the directory was removed
    except FileNotFoundError:
        return False
    return True


def _print_bug(error: Exception) -> None:
    frames = "".join(traceback.format_tb(error.__traceback__))
    text = (
        f"{frames}{type(error).__name__}\n\nThis is a bug in provision {__version__} "
        f"(Python {platform.python_version()}, {sys.platform}). Please report it with "
        "the lines above; they contain no variable values."
    )
    if logs_json():
        _LOG.critical("%s", text, extra=extra(code=Code.INTERNAL_ERROR))
    else:
        with suppress(OSError):  # the exit code says what failed even if stderr is gone
            click.echo(text, err=True)
