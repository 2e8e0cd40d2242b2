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
from provisioner.cli.event_file import EventFile
from provisioner.cli.exit_codes import INTERRUPTED, UNEXPECTED, USAGE
from provisioner.cli.github_actions import Runner, without_commands
from provisioner.cli.output_file import is_stream, open_output, write_all
from provisioner.errors.codes import Code
from provisioner.errors.exceptions import (
    InvalidInputError,
    OutputError,
    ProvisionError,
    WrongUsageError,
)
from provisioner.execution import PlanMade, RunEnded, RunStarted, ignore
from provisioner.render.formats import render
from provisioner.render.report import ReportInput
from provisioner.render.validation_result import ValidationResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import BinaryIO

    from provisioner.cli.console import Console
    from provisioner.cli.options import OutputTargets
    from provisioner.cli.signals import Signals
    from provisioner.errors.failure import Failure
    from provisioner.errors.problem import Place, Problem
    from provisioner.execution import Emit, RunResult
    from provisioner.model.environment import Environment
    from provisioner.plan import Plan


class Outputs:
    """The report files, the events and the GitHub Actions runner of one command.

    Attributes:
        emit: the function that takes events.
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
        runner = Runner(os.environ)
        self._command = command
        self._console = console
        self._reports = reports
        self._runner = runner if ci and runner.present else None
        self._examined = ValidationResult((), (), datetime.now(UTC))
        self._started = False
        self._stdout_error: OutputError | None = None
        self._refusal: Failure | None = None
        self.emit: Emit = ignore if events is None else events.emit
        self.exit_code = UNEXPECTED

    @contextmanager
    def problems(self) -> Iterator[None]:
        """Report problems that end the command, in each format that was requested."""
        try:
            yield
        except InvalidInputError as error:
            report = self.report_input(error.sources, error.problems)
            format_ = self._console.output.format
            # Problems as text are printed on stderr when the command ends.
            if format_ != "text":
                with self.printing():
                    self._console.print_report(report, format_)
            self.write_reports(report)
            raise

    def start(self, sources: tuple[str, ...], environments: Iterable[Environment]) -> None:
        """Emit that the run starts, once the manifests are valid."""
        self._examined = _examined(sources, ())
        self._emit_start(tuple(one.name for one in environments))

    def report_input(
        self,
        files: tuple[str, ...],
        problems: tuple[Problem, ...],
        summary: str = "",
        warnings: tuple[Problem, ...] = (),
    ) -> ReportInput:
        """Return the content of a report about manifests only."""
        self._examined = _examined(files, problems, warnings)
        return ReportInput(self._examined, summary)

    def plan_made(self, plan: Plan) -> None:
        """Emit that the plan is made."""
        self.emit(PlanMade(plan))

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
        if self._runner is not None:
            values = {"changes": "true" if changes else "false", "digest": outcome.digest}
            if plan_file is not None:
                values["plan-file"] = plan_file
            self._runner.set_outputs(values)
        self.write_reports(ReportInput(self._examined, outcome=outcome, refusal=self._refusal))

    def write_reports(self, report: ReportInput) -> None:
        """Write the report files, and the summary of the step.

        Raises:
            OutputError: if a report, or stdout before it, could not be written; the other reports
                are written.
        """
        if self._runner is not None:
            if report.outcome is not None or report.validation.problems:
                self._runner.summarize(render(report, "markdown"))
            if report.validation.entries and self._console.output.format != "github":
                # The runner reads commands from stderr too, and stdout may be data.
                self._console.print_commands(render(report, "github"))
        failed = None
        for file, (format_, stream) in self._reports.items():
            try:
                text = render(report, format_)
                if is_stream(file):
                    text = without_commands(text, format_)
                write_all(stream, text.encode())
            except BrokenPipeError:
                pass  # the reader has gone, as may happen on stdout
            except OSError as error:
                failed = failed or (file, error.strerror)
        if failed is not None:
            file, reason = failed
            raise OutputError(
                Code.OUTPUT_FAILED,
                f"The report {file!r} could not be written: {reason}.",
                remedy="Changes already made stay in place; `provision list` shows the keys.",
            )
        if self._stdout_error is not None:
            raise self._stdout_error

    def finish(self, exit_code: int) -> int:
        """Set the exit code of the run, and return it."""
        self.exit_code = exit_code
        return exit_code

    def close(self) -> None:
        """Emit that the run ended."""
        self._emit_start(())
        self.emit(RunEnded(self.exit_code, self._refusal))

    def _emit_start(self, environments: tuple[str, ...]) -> None:
        if not self._started:
            self._started = True
            self.emit(RunStarted(self._command, __version__, environments))


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
    with ExitStack() as stack:
        reports: dict[str, tuple[str, BinaryIO]] = {}
        events = output_targets.events
        event_files = () if events is None or events.startswith("/dev/") else (events,)
        report_files = tuple(file for _, file in output_targets.reports)
        _require_distinct(*map(str, other_files), *event_files, *report_files)
        for format_, file in output_targets.reports:
            reports[file] = format_, stack.enter_context(open_output(file, "--report"))
        event_file = None
        if events is not None:
            event_file = EventFile(events, console.run_id)
            stack.callback(event_file.close)
        outputs = Outputs(command, console, reports, event_file, ci=output_targets.ci)
        try:
            yield outputs
        except ProvisionError as error:
            signal_code = None if signals is None else signals.exit_code
            outputs.exit_code = error.exit_code if signal_code is None else signal_code
            raise
        except click.UsageError:
            outputs.exit_code = USAGE
            raise
        except click.Abort:
            outputs.exit_code = INTERRUPTED
            raise
        except Exception:
            outputs.exit_code = UNEXPECTED
            raise
        except BaseException:
            outputs.exit_code = INTERRUPTED
            raise
        finally:
            outputs.close()


def _require_distinct(*files: str) -> None:
    """Raise if two of the paths are one file, because one output would be lost."""
    paths: set[str] = set()
    for file in files:
        path = os.path.realpath(file)
        if path in paths:
            raise WrongUsageError(
                Code.REPORT_UNWRITABLE,
                f"{file!r} is given for two outputs.",
                remedy="Use different files for --report, --events and the plan. "
                "Nothing was changed.",
            )
        paths.add(path)


def _examined(
    files: Iterable[str], problems: Iterable[Problem], warnings: Iterable[Problem] = ()
) -> ValidationResult:
    variables = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")
    try:
        here = os.path.realpath(os.curdir)
        root = os.path.realpath(next(filter(None, map(os.environ.get, variables)), here))
    except FileNotFoundError:  # the working directory is gone: leave the paths as they are
        return ValidationResult(tuple(files), tuple(problems), datetime.now(UTC), tuple(warnings))

    def from_root(file: str) -> str:
        """Return the path from the root of the repository; unchanged if it is not below it."""
        absolute = Path(here, file)
        path = Path(os.path.realpath(absolute.parent), absolute.name)
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else file

    def relocated(place: Place) -> Place:
        return place._replace(file=from_root(place.file))

    def all_relocated(found: Iterable[Problem]) -> tuple[Problem, ...]:
        return tuple(
            replace(one, place=relocated(one.place), related=one.related and relocated(one.related))
            for one in found
        )

    return ValidationResult(
        tuple(map(from_root, files)),
        all_relocated(problems),
        datetime.now(UTC),
        all_relocated(warnings),
    )
