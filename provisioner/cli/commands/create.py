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
            "Create the keys listed in a JSON file:",
            "provision create --environment staging --body keys.json",
        ),
        Example(
            "Create the keys that another program lists:",
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
    help="Return created keys with relations up to this depth.",
)
@click.option(
    "--body",
    required=True,
    envvar="PROVISION_BODY",
    metavar="FILE",
    shell_complete=files,
    help="Read a JSON object or array of records from this file; - means standard input.",
)
@manifests_option
@one_environment_option
@add_restrictions
@add_output_options()
@stoppable
def create(  # noqa: PLR0913 - one for each part of a command line
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

    This is for scripts that supply their own list: nothing is compared with existing keys. A
    record has a name and an expiresAt. It may also have a revokedAt and, with the core
    generation, a roleId. The created records are printed in the same shape as the body. Each
    request is sent once and never retried.
    """
    from provisioner.cli.body_source import read_source
    from provisioner.cli.console import Console
    from provisioner.cli.run import prepare, reconciler_of
    from provisioner.model.key import depth_of
    from provisioner.operations.bulk_create import create_records
    from provisioner.runtime.cancellation import STOPPED
    from provisioner.runtime.log_context import bind

    console = Console(output)
    selection = Selection(manifests, (environment,) if environment else ())
    selection = selection._replace(restrictions=restrictions)
    with console.problems_as_data():
        prepared = prepare(selection, keys_matter=False, one=True)
        with signals.default_handling():  # a person may be typing the body
            request = read_source(body, sys.stdin)
    (target,) = prepared.environments
    with bind(environment=target.name):
        with (
            reconciler_of(prepared, signals.stop) as reconciler,
            console.progress(len(request.records), "creating keys") as on_progress,
        ):
            workspace = reconciler.open(target)
            created = None
            if workspace is not None:
                created = create_records(
                    workspace, request, depth_of(int(depth)), signals.stop, on_progress
                )
        if created is None:
            console.print_failure(STOPPED)
            return signals.exit_code or INCOMPLETE
        if created.output is not None:
            console.print_json(created.output)
        for failure in created.failures:
            console.print_failure(failure)
    if signals.exit_code is not None:
        return signals.exit_code
    return INCOMPLETE if created.failures else 0
