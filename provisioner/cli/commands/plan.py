"""`provision plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.exit_codes import CHANGES, INCOMPLETE
from provisioner.cli.options import (
    add_guard_options,
    add_output_options,
    add_output_targets,
    add_plan_flags,
    add_selection,
)
from provisioner.cli.stoppable import stoppable
from provisioner.render.formats import formats_of

if TYPE_CHECKING:
    from provisioner.cli.options import (
        GuardOptions,
        OutputOptions,
        OutputTargets,
        PlanFlags,
        Selection,
    )
    from provisioner.cli.signals import Signals


@click.command(cls=DocumentedCommand)
@option("--detailed-exitcode", "Exit with code 2 if there are changes.")
@option(
    "--out FILE",
    "Also write the plan to a file, for `provision apply FILE`.",
    name="file",
    type=click.Path(path_type=Path),
)
@add_plan_flags
@add_guard_options
@add_selection(revokes=True)
@add_output_options(*formats_of("plan"))
@add_output_targets(events=True)
@stoppable
def plan(  # noqa: PLR0913 - one for each part of a command line
    selection: Selection,
    output: OutputOptions,
    output_targets: OutputTargets,
    plan_flags: PlanFlags,
    guard_options: GuardOptions,
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
    from provisioner.cli.outputs import open_outputs
    from provisioner.cli.run import early_exit_code, prepare, reconciler_of
    from provisioner.cli.show import (
        log_notes,
        show_plan,
        warn_if_nothing_selected,
    )
    from provisioner.errors.exceptions import WrongUsageError

    console = Console(output)
    if file is not None:
        plan_file.require_writable(file)
    saved = plan_file.saved_options(selection, plan_flags, guard_options)
    other_files = () if file is None else (file,)
    with open_outputs("plan", output_targets, console, signals, other_files=other_files) as outputs:
        with outputs.problems():
            prepared = prepare(selection)
        outputs.start(prepared.manifests.sources, prepared.environments)
        with reconciler_of(prepared, signals.stop, outputs.emit) as reconciler:
            desired = prepared.manifests.desired
            new_plan = reconciler.plan(
                desired, prepared.now, saved.plan_options, saved.guard_overrides
            )
        outputs.plan_made(new_plan)
        log_notes(new_plan)
        with outputs.printing():
            show_plan(new_plan, console, reconciler.refusal)
        warn_if_nothing_selected(new_plan, selection)
        written = write_error = None
        if file is not None:
            stopped = signals.exit_code is not None
            reason = plan_file.reason_not_to_write(new_plan, reconciler, stopped=stopped)
            try:
                if reason is None:
                    plan_input = plan_file.plan_input_of(new_plan, saved, reconciler, prepared)
                    plan_file.write(file, plan_input, console)
                    written = file.as_posix()
                else:
                    plan_file.remove_earlier(file, reason, console)
            except WrongUsageError as error:
                write_error = error
        outputs.report_outcome(
            new_plan, changes=new_plan.changes, refusal=reconciler.refusal, plan_file=written
        )
        if write_error is not None:
            console.print_failure(write_error.failure)
        code = early_exit_code(reconciler, signals)
        if code is not None:
            return outputs.finish(code)
        if write_error is not None:
            return outputs.finish(write_error.exit_code)
        if new_plan.incomplete:
            return outputs.finish(INCOMPLETE)
        return outputs.finish(CHANGES if detailed_exitcode and new_plan.changes else 0)
