"""`provision list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, Example
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.options import add_output_options, add_selection
from provisioner.cli.stoppable import stoppable

if TYPE_CHECKING:
    from provisioner.cli.options import OutputOptions, Selection
    from provisioner.cli.signals import Signals


@click.command(
    "list",
    cls=DocumentedCommand,
    examples=(
        Example("List the keys of all environments:", "provision list"),
        Example(
            "List some keys of production as JSON:",
            "provision list --environment production --only 'svc-*' --format json",
        ),
    ),
)
@add_selection(revokes=False)
@add_output_options("text", "json")
@stoppable
def list_keys(selection: Selection, output: OutputOptions, signals: Signals) -> int:
    """List the keys of each environment.

    Needs only environments.yaml. Revoked keys are listed where the server returns them, which
    only the legacy generation does.
    """
    from provisioner.cli.console import Console  # noqa: PLC0415 - keeps --help fast
    from provisioner.cli.run import ended_early, prepare, reconciler_of  # noqa: PLC0415 - as above
    from provisioner.errors.failure import Failure  # noqa: PLC0415 - as above
    from provisioner.model.globs import matches  # noqa: PLC0415 - as above
    from provisioner.model.observed import Observation  # noqa: PLC0415 - as above
    from provisioner.render.json import key_document  # noqa: PLC0415 - as above
    from provisioner.render.text import keys_text  # noqa: PLC0415 - as above

    console = Console(output)
    with console.problems_as_data():
        prepared = prepare(selection, keys_matter=False)
    with reconciler_of(prepared, signals.stop) as reconciler:
        seen = reconciler.observe()
    found = [
        (place.name, key, look.server_time)
        for place, look in seen
        if isinstance(look, Observation)
        for key in sorted(look.keys, key=lambda one: (one.name, one.creation_order))
        if not selection.only or matches(key.name, selection.only)
    ]
    if console.json:
        console.document([key_document(*one) for one in found])
    else:
        console.text(keys_text(found, console.palette))
    if selection.only and not found:
        told = f"No key matches --only {' '.join(selection.only)}."
        console.failed(Failure("nothing_selected", told))
    failures = [look for _, look in seen if not isinstance(look, Observation)]
    for failed in failures:
        console.failed(failed.failure, failed.environment)
    code = ended_early(reconciler, signals)
    if code is not None:
        return code
    return INCOMPLETE if failures else 0
