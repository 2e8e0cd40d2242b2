"""`provision plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, Example
from provisioner.cli.exit_codes import CHANGES, INCOMPLETE
from provisioner.cli.options import (
    add_guard_options,
    add_output_options,
    add_output_targets,
    add_plan_flags,
    add_selection,
)
from provisioner.cli.stoppable import stoppable

if TYPE_CHECKING:
    from provisioner.cli.options import (
        GuardOptions,
        OutputOptions,
        OutputTargets,
        PlanFlags,
        Selection,
    )
    from provisioner.cli.signals import Signals


@click.command(
    cls=DocumentedCommand,
    examples=(
        Example(
            "Show what apply would change in production:", "provision plan --environment production"
        ),
        Example("Write the plan to a file for review:", "provision plan --out plan.json"),
    ),
)
@click.option(
    "--detailed-exitcode",
    is_flag=True,
    envvar="PROVISION_DETAILED_EXITCODE",
    help="Exit with code 2 if there are changes.",
)
@click.option(
    "--out",
    "file",
    type=click.Path(path_type=Path),
    envvar="PROVISION_OUT",
    metavar="FILE",
    help="Also write the plan to a file, for `provision apply FILE`.",
)
@add_plan_flags
@add_guard_options
@add_selection(revokes=True)
@add_output_options("text", "json", "markdown")
@add_output_targets(events=True)
@stoppable
def plan(  # noqa: PLR0913 - what there is to say of a plan
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

    Reads the keys of every environment and the content of their sinks, and compares them with
    the manifests. Exits with code 4 if an environment cannot be read, or if a key cannot be
    created or its token delivered.

    With --out, the plan is also written to a file, which `provision apply FILE` carries out. No
    file is written if the plan is refused or an environment cannot be read.
    """
    from provisioner.cli import plan_file  # noqa: PLC0415 - keeps --help fast
    from provisioner.cli.console import Console  # noqa: PLC0415 - as above
    from provisioner.cli.outputs import open_outputs  # noqa: PLC0415 - as above
    from provisioner.cli.run import ended_early, prepare, reconciler_of  # noqa: PLC0415 - as above
    from provisioner.cli.show import note, show_plan, warn_of_nothing  # noqa: PLC0415 - as above
    from provisioner.errors.exceptions import WrongUsageError  # noqa: PLC0415 - as above
    from provisioner.errors.failure import failure_of  # noqa: PLC0415 - as above

    console = Console(output)
    if file is not None:
        plan_file.check_free(file)
    asked = plan_file.asked_of(selection, plan_flags, guard_options)
    taken = () if file is None else (file,)
    with open_outputs("plan", output_targets, console, signals, taken=taken) as out:
        with out.problems():
            prepared = prepare(selection)
        out.begun(prepared.manifests.sources, prepared.environments)
        with reconciler_of(prepared, signals.stop, out.tell) as reconciler:
            desired = prepared.manifests.desired
            made = reconciler.plan(desired, prepared.now, asked.options, asked.overrides)
        out.planned(made)
        note(made)
        with out.shown():
            show_plan(made, console, reconciler.refusal)
        warn_of_nothing(made, selection)
        kept = lost = None
        if file is not None:
            stopped = signals.exit_code is not None
            why = plan_file.why_not_kept(made, reconciler, stopped=stopped)
            try:
                if why is None:
                    plan_file.keep(
                        file, plan_file.plan_input_of(made, asked, reconciler, prepared), console
                    )
                    kept = file.as_posix()
                else:
                    plan_file.drop(file, why, console)
            except WrongUsageError as error:
                lost = error
        out.outcome(made, changes=made.changes, refusal=reconciler.refusal, plan_file=kept)
        if lost is not None:
            console.failed(failure_of(lost))
        code = ended_early(reconciler, signals)
        if code is not None:
            return out.finish(code)
        if lost is not None:
            return out.finish(lost.exit_code)
        if made.incomplete:
            return out.finish(INCOMPLETE)
        return out.finish(CHANGES if detailed_exitcode and made.changes else 0)
