"""Where a command speaks: data on stdout, everything else on stderr, colour where it shows."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from provisioner.cli.explain_hint import remember_codes
from provisioner.cli.github_actions import without_commands
from provisioner.cli.log import logs_json, set_up_log
from provisioner.cli.run_id import new_run_id
from provisioner.cli.standard_streams import lead_nowhere
from provisioner.errors.exceptions import InvalidInputError, OutputError
from provisioner.render.json import as_json, problems_document
from provisioner.render.text import COLOUR, PLAIN, Palette, visible
from provisioner.runtime.log_context import extra
from provisioner.secret import NO_WORD, masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.cli.options import OutputOptions
    from provisioner.errors.failure import Failure
    from provisioner.render.formats import OutputFormat, ReportInput
    from provisioner.runtime.log_context import LogContext

_LOG = logging.getLogger("provisioner")


class Console:
    """The two streams of a command and how to write on them.

    Attributes:
        run_id: of this run, in all that it tells programs about itself.
    """

    def __init__(self, output: OutputOptions) -> None:
        self.output = output
        self.run_id = new_run_id()
        set_up_log(output.log_level, output.log_format, self.run_id)

    @property
    def json(self) -> bool:
        """Whether the data on stdout is JSON."""
        return self.output.format == "json"

    @property
    def palette(self) -> Palette:
        """The colours of text on stdout."""
        return COLOUR if _coloured(self.output.color, sys.stdout) else PLAIN

    @property
    def error_palette(self) -> Palette:
        """The colours of text on stderr."""
        return COLOUR if _coloured(self.output.color, sys.stderr) else PLAIN

    def document(self, document: object) -> None:
        """Writes a JSON document on stdout.

        Raises:
            OutputError: as `text`.
        """
        _write(sys.stdout, without_commands(as_json(document), "json"))

    def show_report(self, told: ReportInput, form: OutputFormat) -> None:
        """Writes what a run has to tell on stdout, in a form of its own.

        Raises:
            OutputError: as `text`.
        """
        # Only here: its forms need YAML, without which an error is still told.
        from provisioner.render.formats import render  # noqa: PLC0415 - as said above

        _write(sys.stdout, without_commands(render(told, form, self.palette), form))

    @contextmanager
    def problems_as_data(self) -> Iterator[None]:
        """With JSON, problems that end the command are its data too."""
        try:
            yield
        except InvalidInputError as error:
            if self.json:
                self.document(problems_document(error.problems))
            raise

    def text(self, text: str) -> None:
        """Writes text on stdout, as it is but for secrets that no word of it can be by chance.

        Raises:
            OutputError: when stdout takes no more, but for a reader that went away.
        """
        shown = masked(text, shortest=NO_WORD)
        _write(sys.stdout, without_commands(shown, self.output.format))

    def aside(self, text: str) -> None:
        """Writes text on stderr, for people alone; where they cannot be told, work goes on.

        Where the log is JSON, each line becomes one of it, whatever its least level.
        """
        if logs_json():
            for line in text.splitlines():
                _LOG.log(max(logging.WARNING, _LOG.getEffectiveLevel()), "%s", line)
            return
        with suppress(OutputError):
            _write(sys.stderr, without_commands(masked(text)))

    def commands(self, text: str) -> None:
        """Writes what is meant for a runner that reads along on stderr, whatever the log is."""
        with suppress(OutputError):
            _write(sys.stderr, masked(text))

    def failed(self, failure: Failure, environment: str | None = None) -> None:
        """Tells on stderr what could not be done; a line of the log where that is JSON.

        Args:
            failure: of a key, or of an environment.
            environment: where it was, in a command that has several.
        """
        if logs_json():
            subject: LogContext = {"code": failure.code}
            if environment is not None:
                subject["environment"] = environment
            _LOG.error("%s", failure.message, extra=extra(**subject))
        else:
            remember_codes([failure.code])
            place = "" if environment is None else f"{environment}: "
            self.aside(visible(f"{place}{failure.code}: {failure.message}") + "\n")

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        """A bar on stderr while keys are created on a terminal; elsewhere nothing."""
        shown = sys.stderr and sys.stderr.isatty() and not logs_json()
        if total == 0 or self.output.quiet or not shown:
            yield lambda _: None
            return
        # Only here: rich takes as long to import as the rest of a small run.
        from rich.console import Console as RichConsole  # noqa: PLC0415 - as said above
        from rich.progress import (  # noqa: PLC0415 - as said above
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        no_color = not _coloured(self.output.color, sys.stderr)
        stderr = RichConsole(stderr=True, no_color=no_color)
        with Progress(*columns, TimeRemainingColumn(), console=stderr, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # closed before we began
        return
    encoding = stream.encoding or "utf-8"
    rest = memoryview(text.encode(encoding, "backslashreplace"))
    try:
        stream.flush()
        while rest:
            # An unbuffered stream writes less than it was given when a signal comes in between.
            rest = rest[stream.buffer.write(rest) or 0 :]
        stream.flush()
    except BrokenPipeError:
        # The reader has seen enough (`| head`); the work and its exit code go on.
        lead_nowhere(stream)
    except OSError as error:
        raise lost_output(error) from None


def lost_output(error: OSError) -> OutputError:
    """Stdout that takes no more, as the error of a command."""
    return OutputError(
        "output_failed",
        f"The output could not be written: {error.strerror}.",
        remedy="What was done is done; `provision list` shows what is there.",
    )


def _coloured(choice: str, stream: TextIO | None) -> bool:
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return bool(stream and stream.isatty()) and os.environ.get("TERM") != "dumb"
