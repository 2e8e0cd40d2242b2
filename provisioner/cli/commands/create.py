"""`provision create`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from provisioner.cli.command_help import DocumentedCommand, Example
from provisioner.cli.completion_items import files
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.options import (
    Selection,
    add_output_options,
    add_restrictions,
    manifests_option,
    one_environment_option,
)
from provisioner.cli.stoppable import stoppable

if TYPE_CHECKING:
    from pathlib import Path

    from provisioner.cli.options import OutputOptions
    from provisioner.cli.signals import Signals
    from provisioner.model.restrictions import Restrictions


@click.command(
    cls=DocumentedCommand,
    examples=(
        Example(
            "Create the keys of a JSON file:",
            "provision create --environment staging --body keys.json",
        ),
        Example(
            "Create the keys of a list that another program prints:",
            "./list-keys | provision create --environment staging --body -",
        ),
    ),
)
@click.option(
    "--depth",
    type=click.Choice(["0", "1", "2"]),
    default="1",
    show_default=True,
    envvar="PROVISION_DEPTH",
    help="Return created keys with this much of their relations.",
)
@click.option(
    "--body",
    required=True,
    envvar="PROVISION_BODY",
    metavar="FILE",
    shell_complete=files,
    help="Read a JSON object or array of records from this file; - is standard input.",
)
@manifests_option
@one_environment_option
@add_restrictions
@add_output_options()
@stoppable
def create(  # noqa: PLR0913 - what there is to say of a body
    manifests: Path,
    environment: str | None,
    depth: str,
    body: str,
    output: OutputOptions,
    *,
    signals: Signals,
    restrictions: Restrictions,
) -> int:
    """Create keys from a JSON body in one environment.

    For scripts that bring their own list: nothing is compared with existing keys. A record has a
    name and an expiresAt, and may have a revokedAt and, on the core generation, a roleId. The
    created records are printed in the shape of the body. Each request is sent once and never
    repeated.
    """
    from provisioner.cli.body_source import read_source  # noqa: PLC0415 - as above
    from provisioner.cli.console import Console  # noqa: PLC0415 - as above
    from provisioner.cli.run import prepare, reconciler_of  # noqa: PLC0415 - as above
    from provisioner.model.key import depth_of  # noqa: PLC0415 - as above
    from provisioner.operations.bulk_create import create_records  # noqa: PLC0415 - keeps --help fast
    from provisioner.runtime.cancellation import STOPPED  # noqa: PLC0415 - as above
    from provisioner.runtime.log_context import bind  # noqa: PLC0415 - as above

    console = Console(output)
    selection = Selection(manifests, (environment,) if environment else ())
    selection = selection._replace(restrictions=restrictions)
    with console.problems_as_data():
        prepared = prepare(selection, keys_matter=False, one=True)
        with signals.let_through():  # somebody may be typing it
            source = read_source(body, sys.stdin)
    (where,) = prepared.environments
    with bind(environment=where.name):
        with (
            reconciler_of(prepared, signals.stop) as reconciler,
            console.progress(len(source.records), "creating keys") as on_progress,
        ):
            workspace = reconciler.open(where)
            made = None
            if workspace is not None:
                depth_asked = depth_of(int(depth))
                made = create_records(workspace, source, depth_asked, signals.stop, on_progress)
        if made is None:
            console.failed(STOPPED)
            return signals.exit_code or INCOMPLETE
        if made.output is not None:
            console.document(made.output)
        for failure in made.failures:
            console.failed(failure)
    if signals.exit_code is not None:
        return signals.exit_code
    return INCOMPLETE if made.failures else 0
