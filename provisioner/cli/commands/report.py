"""`provision report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.exit_codes import CHANGES, INCOMPLETE
from provisioner.cli.options import (
    OutputOptions,
    OutputTargets,
    Selection,
    add_notify,
    add_output,
    add_selection,
)
from provisioner.cli.signals import Signals, stoppable
from provisioner.errors.codes import Code
from provisioner.render.formats import formats_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import timedelta

    from provisioner.plan import Unobserved
    from provisioner.reconcile.proposal import ObservedEnvironment, SinkContents


def _duration(
    context: click.Context, option: click.Parameter, text: str | None
) -> timedelta | None:
    from provisioner.model.expiry import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", context, option) from None


@click.command(cls=DocumentedCommand)
@option(
    "--expiring-within DURATION",
    "Exit with code 2 if a key is missing, or is due within this time, such as 36h, 14d or 12w.",
    callback=_duration,
)
@option(
    "--to FILE",
    "Write the report to this file, completely or not at all, instead of stdout.",
    name="file",
    type=click.Path(path_type=Path),
)
@add_selection(revokes=False)
@add_output(*formats_of("report"), times=True)
@add_notify
@stoppable
def report(  # noqa: PLR0913 - one for each part of a command line
    selection: Selection,
    expiring_within: timedelta | None,
    file: Path | None,
    output: OutputOptions,
    *,
    notify: bool,
    signals: Signals,
) -> int:
    """Report when keys expire and which ones need attention.

    Read every environment and the sinks of its declared keys, without changing anything. For
    each live key, show when it expires, whether its token is in its sinks, and what needs
    attention. Exit with code 4 if an environment cannot be read.

    Examples:
        # Exit with code 2 if a key expires within two weeks:
        $ provision report --expiring-within 14d

        # Write metrics for the textfile collector of node_exporter:
        $ provision report --format openmetrics --to /var/lib/node_exporter/keys.prom
    """
    from provisioner.audit.key_audit import AuditInput, audit
    from provisioner.cli.console import Console
    from provisioner.cli.notify import AfterRun
    from provisioner.cli.outputs import open_outputs
    from provisioner.cli.run import early_exit_code, prepare, reconciler_of
    from provisioner.cli.show import show_audit
    from provisioner.cli.watch import watching
    from provisioner.errors.exceptions import RefusedError
    from provisioner.errors.failure import Failure
    from provisioner.plan import PlanOptions, Unobserved
    from provisioner.plan.findings import EXPIRING_WITHIN
    from provisioner.reconcile.guards import guard_workspaces
    from provisioner.render.report import ReportInput

    console = Console(output)
    with open_outputs("report", OutputTargets((), ci=False), console, signals) as outputs:
        with console.problems_as_data():
            prepared = prepare(selection)
        outputs.start(prepared.manifests.sources, prepared.environments)
        after_run = AfterRun("report", console.run_id, prepared, signals.stop)
        outputs.notify_with(after_run, wanted=notify)
        request = prepared.request(PlanOptions(only=selection.only))
        with (
            watching(console, prepared.environments) as watch,
            reconciler_of(prepared, signals.stop, watch, watch) as reconciler,
        ):
            observed = reconciler.observe()
            outcomes = reconciler.read_key_sinks(observed, request)
        _warn_of_unavailable(outcomes)
        inputs = (
            one
            if isinstance(one, Unobserved)
            else AuditInput(
                one[0].environment,
                request.desired.get(one[0].environment.name, ()),
                one[0].observation,
                one[1],
            )
            for one in outcomes
        )
        within = expiring_within or EXPIRING_WITHIN
        fleet_audit = audit(inputs, prepared.now, within, selection.only)
        content = ReportInput(
            prepared.now, outcome=fleet_audit, quiet=output.quiet, shard=prepared.shard_label()
        )
        outputs.write_reports(content)
        if file is None or str(file) == "-":
            show_audit(content, fleet_audit, console)
        else:
            console.write_report(content, file)
        for one in fleet_audit.unobserved:
            console.print_failure(one.failure, one.environment)
        code = early_exit_code(signals, guard_workspaces(observed), outcomes)
        if code is not None:
            return outputs.finish(code)
        empty = not any(one.keys or one.missing for one in fleet_audit.observed)
        if selection.only and selection.shard is None and empty:
            message = f"No key matches --only {' '.join(selection.only)}."
            if expiring_within is not None and not fleet_audit.unobserved:
                raise RefusedError(Code.NOTHING_SELECTED, message, remedy="Correct the glob.")
            console.print_failure(Failure(Code.NOTHING_SELECTED, message))
        if fleet_audit.unobserved:
            return outputs.finish(INCOMPLETE)
        overdue = fleet_audit.due or fleet_audit.missing
        return outputs.finish(CHANGES if expiring_within is not None and overdue else 0)


def _warn_of_unavailable(
    outcomes: Iterable[tuple[ObservedEnvironment, SinkContents] | Unobserved],
) -> None:
    """Log how many sinks could not be read."""
    import logging

    from provisioner.errors.pluralize import pluralize
    from provisioner.model.sink_content import Unavailable
    from provisioner.plan import Unobserved

    read = [one for one in outcomes if not isinstance(one, Unobserved)]
    found = [content for _, contents in read for content in contents.values()]
    if unavailable := sum(isinstance(one, Unavailable) for one in found):
        logging.getLogger("provisioner").warning(
            "%s could not be read; `provision doctor` shows why", pluralize(unavailable, "sink")
        )
