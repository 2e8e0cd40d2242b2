"""`provision doctor`."""

from __future__ import annotations

import click

from provisioner.cli.command_help import DocumentedCommand
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.options import OutputOptions, Selection, add_output, add_selection
from provisioner.cli.signals import Signals, stoppable


@click.command(cls=DocumentedCommand)
@add_selection(revokes=False)
@add_output("text", "json")
@stoppable
def doctor(selection: Selection, output: OutputOptions, signals: Signals) -> int:
    """Check credentials, permissions, limits and sinks.

    Show what works and what to fix in each environment, without changing anything. Only
    environments.yaml is needed. If the manifests are valid, the sinks of their keys are checked
    too. Exit with code 4 if a check fails.

    Examples:
        # Check all environments and their sinks:
        $ provision doctor

        # Check production, and show only what needs attention:
        $ provision doctor --environment production --quiet
    """
    from provisioner.audit.doctor import Doctor
    from provisioner.cli.console import Console
    from provisioner.cli.notify import AfterRun
    from provisioner.cli.run import open_backends, prepare
    from provisioner.cli.show import show_diagnoses
    from provisioner.cli.watch import watching
    from provisioner.render.doctor import diagnosis_document
    from provisioner.render.shards import labelled

    console = Console(output)
    with console.problems_as_data():
        prepared = prepare(selection, keys_matter=False)
    manifests = prepared.manifests
    with (
        watching(console, prepared.environments) as watch,
        open_backends(prepared, signals.stop, on_activity=watch) as (connect, open_sink, executor),
    ):
        examiner = Doctor(connect, open_sink, executor, signals.stop, watch)
        desired = None if manifests.problems else manifests.desired
        diagnoses = examiner.examine(prepared.environments, desired, selection.only)
    AfterRun("doctor", console.run_id, prepared, signals.stop).check()
    if console.json:
        document = diagnosis_document(diagnoses)
        shard = prepared.shard_label()
        console.print_json(document if shard is None else labelled(document, shard))
    else:
        show_diagnoses(diagnoses, console)
    if examiner.internal_error is not None:
        raise examiner.internal_error
    return signals.exit_code or (INCOMPLETE if any(one.failed for one in diagnoses) else 0)
