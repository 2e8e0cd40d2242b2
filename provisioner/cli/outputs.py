"""The outputs of a command other than stdout and stderr: reports, events, and GitHub Actions."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner import __version__
from provisioner.cli import github_actions
from provisioner.cli.console import output_error
from provisioner.cli.event_file import EventFile
from provisioner.cli.exit_codes import INTERRUPTED, UNEXPECTED, USAGE
from provisioner.cli.output_file import is_stream, open_output, write_all
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import (
    InvalidInputError,
    OutputError,
    ProvisionError,
    WrongUsageError,
)
from provisioner.execution import RunEnded, RunStarted
from provisioner.render.formats import render
from provisioner.render.report import ReportInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import BinaryIO

    from provisioner.cli.console import Console
    from provisioner.cli.notify import AfterRun
    from provisioner.cli.options import OutputTargets
    from provisioner.cli.signals import Signals
    from provisioner.errors.failure import Failure
    from provisioner.execution import Emit, Event, RunResult
    from provisioner.model.environment import Environment
    from provisioner.plan import Plan
    from provisioner.render.report import Outcome, ShardLabel


class Outputs:
    """The report files, the events and the GitHub Actions runner of one command.

    Attributes:
        exit_code: the exit code of the command, as far as it is known.

    Args:
        command: the name of the command.
        console: the console of the command.
        reports: the format and the open file of each report, by path.
        events: the file of events, or None.
        ci: True to write to the runner, if there is one.
    """

    def __init__(
        self,
        command: str,
        console: Console,
        reports: Mapping[str, tuple[str, BinaryIO]],
        events: EventFile | None,
        *,
        ci: bool,
    ) -> None:
        self._command = command
        self._console = console
        self._reports = reports
        self._in_ci = ci and github_actions.in_github_actions()
        unmanaged = console.output.unmanaged
        self._report = ReportInput(datetime.now(UTC), unmanaged=unmanaged)
        self._started = False
        self._stdout_error: OutputError | None = None
        self._refusal: Failure | None = None
        self._outcome: Outcome | None = None
        self._after_run: AfterRun | None = None
        self._listeners: list[Emit] = [] if events is None else [events.emit]
        self.exit_code = UNEXPECTED

    def emit(self, event: Event, /) -> None:
        """Pass an event on to the file of events, and to all who listen."""
        for listener in self._listeners:
            listener(event)

    def listen(self, listener: Emit) -> None:
        """Pass all later events on to this one too."""
        self._listeners.append(listener)

    @contextmanager
    def problems(self) -> Iterator[None]:
        """Report problems that end the command, in each format that was requested."""
        try:
            yield
        except InvalidInputError as error:
            report = from_root(ReportInput(datetime.now(UTC), error.sources, error.problems))
            # Problems as text are printed on stderr when the command ends.
            if self._console.output.format != "text":
                with self.printing():
                    self._console.print_report(report)
            self.write_reports(report)
            raise

    def start(
        self,
        sources: tuple[str, ...],
        environments: Iterable[Environment] = (),
        shard: ShardLabel | None = None,
    ) -> None:
        """Emit that the run starts, once the manifests are valid."""
        self._report = replace(
            self._report, created_at=datetime.now(UTC), files=sources, shard=shard
        )
        self._started = True
        names = tuple(one.name for one in environments)
        self.emit(RunStarted(self._command, __version__, names))

    @contextmanager
    def printing(self) -> Iterator[None]:
        """Keep an error of stdout until the reports are written, so that they are not lost."""
        try:
            yield
        except OutputError as error:
            self._stdout_error = error

    def report_outcome(
        self,
        outcome: Plan | RunResult,
        *,
        changes: int,
        refusal: ProvisionError | None = None,
        plan_file: str | None = None,
    ) -> None:
        """Report a plan or its result, and set the outputs of the step.

        Args:
            outcome: the plan or the result.
            changes: the number of actions of the plan that can be carried out.
            refusal: the reason why none of them may be carried out.
            plan_file: the path of the plan file, if one was written.

        Raises:
            OutputError: as `write_reports`.
        """
        self._refusal = None if refusal is None else refusal.failure
        if self._in_ci:
            values = {"changes": "true" if changes else "false", "digest": outcome.digest}
            if plan_file is not None:
                values["plan-file"] = plan_file
            github_actions.set_outputs(values)
        report = replace(self._report, outcome=outcome, refusal=self._refusal)
        self.write_reports(from_root(report) if self._reports or self._in_ci else report)

    def write_reports(self, report: ReportInput) -> None:
        """Write the report files, and the summary of the step.

        Raises:
            OutputError: if a report, or stdout before it, could not be written; the other reports
                are written.
        """
        self._outcome = report.outcome
        if self._in_ci:
            if report.outcome is not None or report.problems:
                github_actions.append_summary(render(report, "markdown"))
            if report.entries and self._console.output.format != "github":
                # The runner reads commands from stderr too, and stdout may be data.
                self._console.print_commands(render(report, "github"))
        failed = None
        for file, (format_, stream) in self._reports.items():
            text = render(report, format_)
            if is_stream(file):
                text = github_actions.without_commands(text, format_)
            try:
                write_all(stream, text.encode())
            except BrokenPipeError:
                pass  # the reader has gone, as may happen on stdout
            except OSError as error:
                failed = failed or output_error(error, f"report {file!r}")
        if failed := failed or self._stdout_error:
            raise failed

    def finish(self, exit_code: int) -> int:
        """Set the exit code of the run, and return it."""
        self.exit_code = exit_code
        return exit_code

    def notify_with(self, after_run: AfterRun, *, wanted: bool) -> None:
        """Tell the targets of `notify` when the run ends, if the command line wants that."""
        self._after_run = after_run if wanted else None

    def close(self, failure: Failure | None = None) -> None:
        """Emit that the run ended, and tell the targets of `notify`.

        Args:
            failure: the error that ended the command.
        """
        if not self._started:
            self.start(())
        self.emit(RunEnded(self.exit_code, self._refusal))
        if self._after_run is not None:
            self._after_run.tell(self._outcome, self.exit_code, self._refusal or failure)


@contextmanager
def open_outputs(
    command: str,
    output_targets: OutputTargets,
    console: Console,
    signals: Signals | None = None,
    *,
    other_files: tuple[Path, ...] = (),
) -> Iterator[Outputs]:
    """Open the outputs of a command before it does anything.

    Args:
        command: the name of the command.
        output_targets: the files to write.
        console: the console of the command.
        signals: the signals that the command catches, if any.
        other_files: files that the command itself reads or writes.

    Raises:
        WrongUsageError: if a file cannot be written, or is given for two outputs.
    """
    events = output_targets.events
    event_files = () if events is None or events.startswith("/dev/") else (events,)
    report_files = tuple(file for _, file in output_targets.reports)
    _require_distinct(*map(str, other_files), *event_files, *report_files)
    with ExitStack() as stack:
        reports = {
            file: (format_, stack.enter_context(open_output(file, "--report")))
            for format_, file in output_targets.reports
        }
        event_file = None
        if events is not None:
            event_file = EventFile(events, console.run_id)
            if is_stream(events):
                console.area.close()
            stack.callback(event_file.close)
        outputs = Outputs(command, console, reports, event_file, ci=output_targets.ci)
        failure = None
        try:
            yield outputs
        except BaseException as error:
            match error:
                case ProvisionError():
                    failure = error.failure
                    signal_code = signals.exit_code if signals else None
                    outputs.exit_code = signal_code or error.exit_code
                case click.UsageError():
                    outputs.exit_code = USAGE
                case Exception() if not isinstance(error, click.Abort):
                    outputs.exit_code = UNEXPECTED
                case _:
                    outputs.exit_code = INTERRUPTED
            raise
        finally:
            outputs.close(failure)


def _require_distinct(*files: str) -> None:
    """Raise if two of the paths are one file, because one output would be lost."""
    paths: set[str] = set()
    for file in files:
        if (path := os.path.realpath(file)) in paths:
            raise WrongUsageError(
                Code.REPORT_UNWRITABLE,
                f"{file!r} is given for two outputs.",
                remedy="Use different files for --report, --events and the plan. "
                "Nothing was changed.",
            )
        paths.add(path)


def from_root(report: ReportInput) -> ReportInput:
    """Return a report with the paths of manifests from the root of the repository, if below it."""
    try:
        here = os.path.realpath(os.curdir)
    except FileNotFoundError:  # the working directory is gone
        return report
    variables = map(os.environ.get, ("GITHUB_WORKSPACE", "CI_PROJECT_DIR"))
    root = os.path.realpath(next(filter(None, variables), here))

    def path_of(file: str) -> str:
        absolute = Path(here, file)
        path = Path(os.path.realpath(absolute.parent), absolute.name)
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else file

    return report.relocated(path_of)
