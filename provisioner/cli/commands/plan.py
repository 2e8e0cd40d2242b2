"""`provision plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli import options
from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.exit_codes import CHANGES, INCOMPLETE
from provisioner.cli.signals import Signals, stoppable

if TYPE_CHECKING:
    from provisioner.plan import GuardOverrides, PlanOptions


@click.command(cls=DocumentedCommand)
@option("--detailed-exitcode", "Exit with code 2 if there are changes.")
@option(
    "--out FILE",
    "Also write the plan to a file, for `provision apply FILE`.",
    name="file",
    type=click.Path(path_type=Path),
)
@options.add_plan_flags
@options.unmanaged_option
@options.add_run_options
@stoppable
def plan(  # noqa: PLR0913 - one for each part of a command line
    selection: options.Selection,
    output: options.OutputOptions,
    output_targets: options.OutputTargets,
    options: PlanOptions,
    overrides: GuardOverrides,
    *,
    signals: Signals,
    detailed_exitcode: bool,
    file: Path | None,
) -> int:
    """Show what apply would change, and change nothing.

    Read the keys in every environment and the content of their sinks, and compare them with the
    manifests. Exit with code 4 if an environment cannot be read, if a key cannot be created or
    if its token cannot be delivered.

    With --out, also write the plan to a file, which `provision apply FILE` carries out. No file
    is written if the plan is refused or an environment cannot be read.

    Examples:
        # Show what apply would change in production:
        $ provision plan --environment production

        # Write the plan to a file for review:
        $ provision plan --out plan.json
    """
    from provisioner.cli import plan_file
    from provisioner.cli.console import Console
    from provisioner.cli.notify import AfterRun
    from provisioner.cli.outputs import open_outputs
    from provisioner.cli.run import early_exit_code, pipeline_of, prepare
    from provisioner.cli.show import log_notes, show_plan
    from provisioner.cli.watch import watching
    from provisioner.errors.exceptions import WrongUsageError
    from provisioner.execution import PlanMade
    from provisioner.planfile.model import PlanFileInput
    from provisioner.render.outcome.json import plan_document

    console = Console(output)
    if file is not None:
        plan_file.require_writable(file)
    other_files = () if file is None else (file,)
    with open_outputs("plan", output_targets, console, signals, other_files=other_files) as outputs:
        with outputs.problems():
            prepared = prepare(selection)
        request = prepared.request(options, overrides)
        shard = prepared.shard_label(request)
        outputs.start(prepared.manifests.sources, prepared.environments, shard)
        after_run = AfterRun("plan", console.run_id, prepared, signals.stop)
        outputs.notify_with(after_run, wanted=output_targets.notify)
        with (
            watching(console, prepared.environments) as watch,
            pipeline_of(prepared, signals.stop, outputs.emit, watch) as pipeline,
        ):
            outputs.listen(watch)
            proposal = pipeline.propose(request)
        new_plan, refusal = proposal.plan, proposal.refusal
        outputs.emit(PlanMade(new_plan))
        log_notes(new_plan, selection)
        with outputs.printing():
            show_plan(new_plan, console, refusal, shard)
        written = write_error = None
        if file is not None:
            content = PlanFileInput(
                proposal,
                request,
                selection.environments,
                plan_document(new_plan),
                selection.shard,
                None if prepared.previous is None else prepared.previous.source,
            )
            try:
                if plan_file.write(file, content, console, stopped=signals.exit_code is not None):
                    written = file.as_posix()
            except WrongUsageError as error:
                write_error = error
        outputs.report_outcome(
            new_plan, changes=new_plan.changes, refusal=refusal, plan_file=written
        )
        if write_error is not None:
            console.print_failure(write_error.failure)
        code = early_exit_code(signals, refusal, new_plan.environments)
        if code is not None:
            return outputs.finish(code)
        if write_error is not None:
            return outputs.finish(write_error.exit_code)
        if new_plan.incomplete:
            return outputs.finish(INCOMPLETE)
        return outputs.finish(CHANGES if detailed_exitcode and new_plan.changes else 0)
