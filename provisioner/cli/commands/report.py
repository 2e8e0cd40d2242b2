"""`provision report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, Example
from provisioner.cli.exit_codes import CHANGES, INCOMPLETE
from provisioner.cli.options import add_output_options, add_selection
from provisioner.cli.stoppable import stoppable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from provisioner.audit.key_audit import FleetAudit
    from provisioner.cli.console import Console
    from provisioner.cli.options import OutputOptions, Selection
    from provisioner.cli.signals import Signals
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent


def _duration(
    context: click.Context, option: click.Parameter, text: str | None
) -> timedelta | None:
    from provisioner.model.expiry import parse_duration  # noqa: PLC0415 - keeps --help fast

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.", context, option) from None


@click.command(
    cls=DocumentedCommand,
    examples=(
        Example(
            "Exit with code 2 if a key expires within two weeks:",
            "provision report --expiring-within 14d",
        ),
        Example(
            "Write the report as one HTML page:", "provision report --format html > report.html"
        ),
    ),
)
@click.option(
    "--expiring-within",
    callback=_duration,
    envvar="PROVISION_EXPIRING_WITHIN",
    metavar="DURATION",
    help="Exit with code 2 if a key is missing, or is due within this time, such as "
    "36h, 14d or 12w.",
)
@add_selection(revokes=False)
@add_output_options("text", "json", "markdown", "html")
@stoppable
def report(
    selection: Selection, expiring_within: timedelta | None, output: OutputOptions, signals: Signals
) -> int:
    """Report when keys expire and which need attention.

    Reads every environment and the sinks of its declared keys, and changes nothing. Shows for
    each live key when it expires, whether its token is in its sinks, and what needs attention.
    Exits with code 4 if an environment cannot be read.
    """
    from provisioner.audit.key_audit import AuditInput, audit  # noqa: PLC0415 - as above
    from provisioner.cli.console import Console  # noqa: PLC0415 - keeps --help fast
    from provisioner.cli.run import ended_early, prepare, reconciler_of  # noqa: PLC0415 - as above
    from provisioner.errors.exceptions import RefusedError  # noqa: PLC0415 - as above
    from provisioner.errors.failure import Failure  # noqa: PLC0415 - as above
    from provisioner.model.observed import Observation  # noqa: PLC0415 - as above
    from provisioner.plan import PlanOptions  # noqa: PLC0415 - as above
    from provisioner.plan.diff import SOON  # noqa: PLC0415 - as above

    console = Console(output)
    with console.problems_as_data():
        prepared = prepare(selection)
    desired = prepared.manifests.desired
    with reconciler_of(prepared, signals.stop) as reconciler:
        seen = reconciler.observe()
        sink_contents = reconciler.survey(desired, PlanOptions(only=selection.only))
    _warn(sink_contents)
    looks = (
        AuditInput(environment, desired.get(environment.name, ()), look, sink_contents)
        if isinstance(look, Observation)
        else look
        for environment, look in seen
    )
    found = audit(looks, prepared.now, expiring_within or SOON, selection.only)
    _show(found, console)
    code = ended_early(reconciler, signals)
    if code is not None:
        return code
    empty = not any(one.keys or one.missing for one in found.observed)
    if selection.only and empty:
        told = f"No key matches --only {' '.join(selection.only)}."
        if expiring_within is not None and not found.unobserved:
            raise RefusedError("nothing_selected", told, remedy="Correct the glob.")
        console.failed(Failure("nothing_selected", told))
    if found.unobserved:
        return INCOMPLETE
    overdue = found.due or found.missing
    return CHANGES if expiring_within is not None and overdue else 0


def _warn(sink_contents: Mapping[Address, SinkContent]) -> None:
    """Says how many sinks nothing is known of."""
    import logging  # noqa: PLC0415 - keeps --help fast

    from provisioner.errors.pluralize import pluralize  # noqa: PLC0415 - as above
    from provisioner.model.sink_content import Unavailable  # noqa: PLC0415 - as above

    if unusable := sum(isinstance(one, Unavailable) for one in sink_contents.values()):
        logging.getLogger("provisioner").warning(
            "%s could not be looked into; `provision doctor` says why", pluralize(unusable, "sink")
        )


def _show(found: FleetAudit, console: Console) -> None:
    from provisioner.render.audit import (  # noqa: PLC0415 - keeps --help fast
        audit_document,
        audit_markdown,
        audit_page,
        audit_text,
    )

    match console.output.format:
        case "json":
            console.document(audit_document(found))
        case "markdown":
            console.text(audit_markdown(found))
        case "html":
            console.text(audit_page(found))
        case _:
            console.text(audit_text(found, console.palette, quiet=console.output.quiet))
    for one in found.unobserved:
        console.failed(one.failure, one.environment)
