"""The console of a command: data on stdout, everything else on stderr, the last error too."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

import click

from provisioner import __version__
from provisioner.cli.exit_codes import UNEXPECTED
from provisioner.cli.github_actions import without_commands
from provisioner.cli.live_area import area_of
from provisioner.cli.log import logs_json, set_up_log
from provisioner.cli.output_file import discard_output, replace_file, write_all
from provisioner.cli.terminal import fit, lay_out, width_of
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import (
    InvalidInputError,
    OutputError,
    ProvisionError,
    WorkspaceError,
    WrongUsageError,
)
from provisioner.render.formats import FORMATS, render
from provisioner.render.json import as_json, problems_document
from provisioner.render.text import COLOUR, PLAIN, Palette, problems_text, visible
from provisioner.render.times import Times
from provisioner.runtime.file_descriptors import is_out_of_descriptors
from provisioner.runtime.log_context import extra
from provisioner.secret import MIN_DATA_LENGTH, masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from provisioner.cli.options import OutputOptions
    from provisioner.errors.failure import Failure
    from provisioner.render.report import ReportInput
    from provisioner.render.view import View
    from provisioner.runtime.log_context import LogContext

_LOG = logging.getLogger("provisioner")

_STDOUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of the device behind stdout; they have no file name when click writes to it."""

_ASCII_TICKS = str.maketrans("✓✗", "=!")
"""The symbols of checks in plain text, for encodings without ticks."""


class Console:
    """The two streams of a command, and methods to write to them.

    Attributes:
        run_id: the id of this run, which logs and events share.
        area: the lines that change while the command works.
    """

    def __init__(self, output: OutputOptions) -> None:
        self.output = output
        self._printed_codes: list[str] = click.get_current_context().obj
        self.run_id = os.urandom(16).hex()
        self.area = area_of(click.get_current_context())
        set_up_log(output.log_level, output.log_format, self.run_id, self.area)

    @property
    def json(self) -> bool:
        """Return whether the data on stdout is JSON."""
        return self.output.format == "json"

    @property
    def palette(self) -> Palette:
        """Return the colours of text on stdout."""
        return self.palette_of(sys.stdout)

    def palette_of(self, stream: TextIO | None) -> Palette:
        """Return the colours of text on a stream."""
        colours, variables = self.output.color, os.environ
        if colours == "auto":
            terminal = stream and stream.isatty() and variables.get("TERM") != "dumb"
            forced = variables.get("FORCE_COLOR") or terminal
            colours = "always" if forced and not variables.get("NO_COLOR") else "never"
        return COLOUR if colours == "always" else PLAIN

    def print_json(self, document: object) -> None:
        """Write a JSON document to stdout.

        Raises:
            OutputError: as `print_text`.
        """
        self._print(sys.stdout, without_commands(as_json(document), "json"))

    def print_report(self, report: ReportInput) -> None:
        """Write a report to stdout in the format of the output.

        Raises:
            OutputError: as `print_text`.
        """
        format_ = self.output.format
        text = without_commands(render(report, format_, self.palette), format_)
        self._print(sys.stdout, text, "utf-8" if FORMATS[format_].syntax == "lines" else None)

    def write_report(self, report: ReportInput, file: Path) -> None:
        """Write a report to a file in the format of the output, as `--to` says.

        Raises:
            WrongUsageError: if it cannot be written.
        """
        replace_file(file, render(report, self.output.format), "--to")
        if not self.output.quiet:
            self.print_stderr(f"wrote {visible(file.as_posix())}\n")

    def print_view(
        self,
        view: Callable[[Times], View],
        text: Callable[[Palette, Times], str],
        *,
        err: bool = False,
    ) -> None:
        """Write a view to stdout if that is a terminal, and plain text otherwise.

        Args:
            view: returns the view.
            text: returns the plain text.
            err: True to write to stderr.

        Raises:
            OutputError: as `print_text`.
        """
        stream = sys.stderr if err else sys.stdout
        width = None if err and logs_json() else width_of(stream)
        palette, times = self.palette_of(stream), Times(local=self.output.time == "local")
        shown = text(palette, times) if width is None else lay_out(view(times), width, palette)
        if stream is not None and not _has_ticks(stream):
            shown = shown.translate(_ASCII_TICKS)
        if not err:
            self.print_text(shown)
        elif width is None:
            self.print_stderr(shown)
        else:
            with self.area.paused():
                write_stderr(shown)

    @contextmanager
    def problems_as_data(self) -> Iterator[None]:
        """Write problems that end the command to stdout too, if the data there is JSON."""
        try:
            yield
        except InvalidInputError as error:
            if self.json:
                self.print_json(problems_document(error.problems))
            raise

    def print_text(self, text: str) -> None:
        """Write text to stdout, with secrets masked that are too long to be a word.

        Raises:
            OutputError: if stdout cannot be written; not if its reader has gone.
        """
        text = masked(text, min_length=MIN_DATA_LENGTH)
        self._print(sys.stdout, without_commands(text, self.output.format))

    def print_stderr(self, text: str) -> None:
        """Write text for people to stderr; an error of stderr is ignored.

        If the log is JSON, each line is logged, whatever the log level is.
        """
        if logs_json():
            for line in text.splitlines():
                _LOG.log(max(logging.WARNING, _LOG.getEffectiveLevel()), "%s", line)
        else:
            fitting = "".join(f"{fit(line, sys.stderr)}\n" for line in text.splitlines())
            with self.area.paused():
                write_stderr(fitting)

    def print_commands(self, text: str) -> None:
        """Write workflow commands for a CI runner to stderr, even if the log is JSON."""
        with suppress(OutputError):
            self._print(sys.stderr, masked(text))

    def print_failure(self, failure: Failure, environment: str | None = None) -> None:
        """Report a failure on stderr, as a log line if the log is JSON.

        Args:
            failure: the failure of a key or an environment.
            environment: the name of the environment, in a command that works on several.
        """
        with self.area.paused():
            print_failure(failure, self._printed_codes, environment)

    def _print(self, stream: TextIO | None, text: str, encoding: str | None = None) -> None:
        with self.area.paused():
            _write(stream, text, encoding)


def print_failure(
    failure: Failure, printed_codes: list[str], environment: str | None = None
) -> None:
    """Report a failure on stderr, and add its code to the printed ones if it is text."""
    if logs_json():
        context: LogContext = {"code": failure.code}
        if environment is not None:
            context["environment"] = environment
        _LOG.error("%s", failure.text, extra=extra(**context))
    else:
        printed_codes.append(failure.code)
        place = "" if environment is None else f"{environment}: "
        write_stderr(fit(visible(f"{place}{failure.code}: {failure.text}"), sys.stderr) + "\n")


def write_stderr(text: str) -> None:
    """Write text for people to stderr, even if the log is JSON; an error of stderr is ignored."""
    with suppress(OutputError):
        _write(sys.stderr, without_commands(masked(text)))


def _has_ticks(stream: TextIO) -> bool:
    """Return whether a stream can show the symbols of passed and failed checks."""
    try:
        "✓✗".encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _write(stream: TextIO | None, text: str, encoding: str | None = None) -> None:
    if stream is None:  # closed before the program started
        return
    encoding = encoding or stream.encoding or "utf-8"
    try:
        stream.flush()
        # An unbuffered stream may write only a part when a signal arrives.
        write_all(stream.buffer, text.encode(encoding, "backslashreplace"))
        stream.flush()
    except BrokenPipeError:
        # The reader has gone (`| head`); that changes neither the work nor the exit code.
        discard_output(stream)
    except OSError as error:
        raise output_error(error) from None


def output_error(error: OSError, name: str = "output") -> OutputError:
    """Return the error of a command whose stdout, or a file, cannot be written."""
    return OutputError(
        Code.OUTPUT_FAILED,
        f"The {name} could not be written: {error.strerror}.",
        remedy="Changes already made stay in place; `provision list` shows the keys.",
    )


def report_error(error: Exception, printed_codes: list[str]) -> int:
    """Print on stderr why the command failed, and return its exit code.

    Args:
        error: the error.
        printed_codes: the codes of errors printed as text, to which those of this one are added.
    """
    match error:
        case FileNotFoundError() if _working_directory_is_gone():
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
            text = problems_text(error.problems, PLAIN)
            write_stderr("".join(f"{fit(line, sys.stderr)}\n" for line in text.splitlines()))
        case ProvisionError():
            print_failure(error.failure, printed_codes)
        case _:
            _print_bug(error)
    return error.exit_code if isinstance(error, ProvisionError) else UNEXPECTED


def _working_directory_is_gone() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - fails if the directory was removed
    except FileNotFoundError:
        return True
    return False


def _print_bug(error: Exception) -> None:
    import platform

    frames = "".join(traceback.format_tb(error.__traceback__))
    text = (
        f"{frames}{type(error).__name__}\n\nThis is a bug in provision {__version__} "
        f"(Python {platform.python_version()}, {sys.platform}). Please report it with "
        "the lines above; they contain no variable values."
    )
    if logs_json():
        _LOG.critical("%s", text, extra=extra(code=Code.INTERNAL_ERROR))
    else:
        write_stderr(f"{text}\n")
