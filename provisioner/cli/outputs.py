"""Where a command speaks beside its two streams: report files, events, and a pipeline's runner."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from provisioner import __version__
from provisioner.cli.event_file import EventFile
from provisioner.cli.exit_codes import INTERRUPTED, UNEXPECTED, USAGE
from provisioner.cli.github_actions import Runner, without_commands
from provisioner.cli.output_file import is_stream, open_output, write_all
from provisioner.errors.exceptions import (
    InvalidInputError,
    OutputError,
    ProvisionError,
    WrongUsageError,
)
from provisioner.errors.failure import failure_of
from provisioner.execution import PlanMade, RunEnded, RunStarted, ignore
from provisioner.render.formats import ReportInput, render
from provisioner.render.problems import ValidationResult, problems_github

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
    from provisioner.render.formats import OutputFormat


class Outputs:
    """The report files, the events and the runner of one command.

    Attributes:
        tell: is told what happens.

    Args:
        command: its name.
        console: where it speaks first of all.
        reports: the form of each report and its open file.
        events: where events go, if anywhere.
        ci: whether a runner that is there is told anything.
    """

    def __init__(
        self,
        command: str,
        console: Console,
        reports: Mapping[str, tuple[OutputFormat, BinaryIO]],
        events: EventFile | None,
        *,
        ci: bool,
    ) -> None:
        runner = Runner(os.environ)
        self._command = command
        self._console = console
        self._reports = reports
        self._runner = runner if ci and runner.there else None
        self._examined = ValidationResult((), (), datetime.now(UTC))
        self._started = False
        self._lost: OutputError | None = None
        self._refusal: Failure | None = None
        self.tell: Emit = ignore if events is None else events.emit
        self.exit_code = UNEXPECTED

    @contextmanager
    def problems(self) -> Iterator[None]:
        """Problems that end the command go wherever they were asked for, stdout among it."""
        try:
            yield
        except InvalidInputError as error:
            told = self.examined(error.sources, error.problems)
            form = cast("OutputFormat", self._console.output.format)
            # As text they are told on stderr, where the command ends.
            if form != "text":
                with self.shown():
                    self._console.show_report(told, form)
            self.report(told)
            raise

    def begun(self, sources: tuple[str, ...], environments: Iterable[Environment]) -> None:
        """Tells that the manifests are sound and the run begins."""
        self._examined = _examined(sources, ())
        self._start(tuple(one.name for one in environments))

    def examined(
        self,
        files: tuple[str, ...],
        problems: tuple[Problem, ...],
        summary: str = "",
        warnings: tuple[Problem, ...] = (),
    ) -> ReportInput:
        """What there is to tell of manifests alone."""
        self._examined = _examined(files, problems, warnings)
        return ReportInput(self._examined, summary)

    def planned(self, plan: Plan) -> None:
        """Tells that a plan is made."""
        self.tell(PlanMade(plan))

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows on stdout what `outcome` reports next, which is not lost where stdout fails."""
        try:
            yield
        except OutputError as error:
            self._lost = error

    def outcome(
        self,
        outcome: Plan | RunResult,
        *,
        changes: int,
        refusal: ProvisionError | None = None,
        plan_file: str | None = None,
    ) -> None:
        """Reports a plan, or what became of it, and tells the runner.

        Args:
            outcome: the one or the other.
            changes: how many actions the plan has that can be done.
            refusal: why none of them may be.
            plan_file: where the plan was written, if it was.

        Raises:
            OutputError: as `report`.
        """
        self._refusal = None if refusal is None else failure_of(refusal)
        if self._runner is not None:
            values = {"changes": "true" if changes else "false", "digest": outcome.digest}
            if plan_file is not None:
                values["plan-file"] = plan_file
            self._runner.put_out(values)
        self.report(ReportInput(self._examined, outcome=outcome, refusal=self._refusal))

    def report(self, told: ReportInput) -> None:
        """Writes the reports, and the summary of the step.

        Raises:
            OutputError: when a report, or stdout before it, takes no more; the others are written
                all the same.
        """
        if self._runner is not None:
            if told.outcome is not None or told.validation.problems:
                self._runner.summarize(render(told, "markdown"))
            if told.validation.entries and self._console.output.format != "github":
                # The runner reads commands from stderr too, and stdout may be data.
                self._console.commands(problems_github(told.validation))
        failed = None
        for file, (form, stream) in self._reports.items():
            try:
                text = render(told, form)
                write_all(
                    stream, (without_commands(text, form) if is_stream(file) else text).encode()
                )
            except BrokenPipeError:
                pass  # the reader has seen enough, as on stdout
            except OSError as error:
                failed = failed or (file, error.strerror)
        if failed is not None:
            file, reason = failed
            raise OutputError(
                "output_failed",
                f"The report {file!r} could not be written: {reason}.",
                remedy="What was done is done; `provision list` shows what is there.",
            )
        if self._lost is not None:
            raise self._lost

    def finish(self, exit_code: int) -> int:
        """The exit code, which is that of the run."""
        self.exit_code = exit_code
        return exit_code

    def close(self) -> None:
        """Tells that the run is over."""
        self._start(())
        self.tell(RunEnded(self.exit_code, self._refusal))

    def _start(self, environments: tuple[str, ...]) -> None:
        if not self._started:
            self._started = True
            self.tell(RunStarted(self._command, __version__, environments))


@contextmanager
def open_outputs(
    command: str,
    output_targets: OutputTargets,
    console: Console,
    signals: Signals | None = None,
    *,
    taken: tuple[Path, ...] = (),
) -> Iterator[Outputs]:
    """What a command speaks by, opened before anything is done.

    Args:
        command: its name.
        output_targets: where it speaks beside its two streams.
        console: where it speaks first of all.
        signals: those that were caught, where it catches any.
        taken: files that the command itself reads or writes.

    Raises:
        WrongUsageError: when a file cannot be written, or two reports are to be one.
    """
    with ExitStack() as stack:
        reports: dict[str, tuple[OutputFormat, BinaryIO]] = {}
        events = output_targets.events
        beside = () if events is None or events.startswith("/dev/") else (events,)
        _check_apart([*map(str, taken), *beside, *(file for _, file in output_targets.reports)])
        for form, file in output_targets.reports:
            reports[file] = form, stack.enter_context(open_output(file, "--report"))
        event_file = None
        if events is not None:
            event_file = EventFile(events, console.run_id)
            stack.callback(event_file.close)
        opened = Outputs(command, console, reports, event_file, ci=output_targets.ci)
        try:
            yield opened
        except ProvisionError as error:
            told = None if signals is None else signals.exit_code
            opened.exit_code = error.exit_code if told is None else told
            raise
        except click.UsageError:
            opened.exit_code = USAGE
            raise
        except click.Abort:
            opened.exit_code = INTERRUPTED
            raise
        except Exception:
            opened.exit_code = UNEXPECTED
            raise
        except BaseException:
            opened.exit_code = INTERRUPTED
            raise
        finally:
            opened.close()


def _check_apart(files: list[str]) -> None:
    """Raises where two of them are one file, of which one would be lost."""
    seen: set[str] = set()
    for file in files:
        place = os.path.realpath(file)
        if place in seen:
            raise WrongUsageError(
                "report_unwritable",
                f"{file!r} cannot be two things at once.",
                remedy="Give each --report, --events and the plan a file. Nothing was done.",
            )
        seen.add(place)


def _examined(
    files: Iterable[str], problems: Iterable[Problem], warnings: Iterable[Problem] = ()
) -> ValidationResult:
    variables = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")
    try:
        here = os.path.realpath(os.curdir)
        root = os.path.realpath(next(filter(None, map(os.environ.get, variables)), here))
    except FileNotFoundError:  # no place that a path could count from
        return ValidationResult(tuple(files), tuple(problems), datetime.now(UTC), tuple(warnings))

    def placed(file: str) -> str:
        """The path from the root of the repository; as it is where the file is not below it."""
        absolute = Path(here, file)
        path = Path(os.path.realpath(absolute.parent), absolute.name)
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else file

    def moved(place: Place) -> Place:
        return place._replace(file=placed(place.file))

    def all_moved(found: Iterable[Problem]) -> tuple[Problem, ...]:
        return tuple(
            replace(one, place=moved(one.place), related=one.related and moved(one.related))
            for one in found
        )

    return ValidationResult(
        tuple(map(placed, files)), all_moved(problems), datetime.now(UTC), all_moved(warnings)
    )
