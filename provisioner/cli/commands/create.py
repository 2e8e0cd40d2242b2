"""`provision create`."""

from __future__ import annotations

import sys

import click

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.options import OutputOptions, Selection, add_one_environment, add_output
from provisioner.cli.signals import Signals, stoppable


@click.command(cls=DocumentedCommand)
@option("--depth [0|1|2]", "Return the created keys with relations up to this depth.", default="1")
@option(
    "--body FILE",
    "Read a JSON object or array of records from this file; - means standard input.",
    required=True,
    type=click.Path(allow_dash=True, readable=False),
)
@add_one_environment
@add_output()
@stoppable
def create(
    selection: Selection, depth: str, body: str, output: OutputOptions, signals: Signals
) -> int:
    """Create keys from a JSON body in one environment.

    This is for scripts that supply their own list of keys. The list is not compared with the
    existing keys. A record has a name and an expiresAt. It may also have a revokedAt and, with
    the core generation, a roleId. The created records are printed in the same shape as the
    body. Each request is sent once and never retried.

    Examples:
        # Create the keys listed in a JSON file:
        $ provision create --environment staging --body keys.json

        # Create the keys that another program lists:
        $ ./list-keys | provision create --environment staging --body -
    """
    from provisioner.cli.console import Console
    from provisioner.cli.run import prepare, reconciler_of
    from provisioner.model.key import depth_of
    from provisioner.operations.bulk_create import create_records
    from provisioner.operations.request_body import read_body
    from provisioner.runtime.cancellation import STOPPED
    from provisioner.runtime.log_context import bind

    console = Console(output)
    with console.problems_as_data():
        prepared = prepare(selection, keys_matter=False, one=True)
        with signals.default_handling():  # a person may be typing the body
            request = read_body(_read(body), body)
    (target,) = prepared.environments
    with bind(environment=target.name):
        with (
            reconciler_of(prepared, signals.stop) as reconciler,
            console.progress(len(request.records), "creating keys") as on_progress,
        ):
            workspace = reconciler.open(target)
            if workspace is None:
                console.print_failure(STOPPED)
                return signals.exit_code or INCOMPLETE
            created = create_records(
                workspace, request, depth_of(int(depth)), signals.stop, on_progress
            )
        if created.output is not None:
            console.print_json(created.output)
        for failure in created.failures:
            console.print_failure(failure)
    return signals.exit_code or (INCOMPLETE if created.failures else 0)


def _read(name: str) -> str:
    """Return the text of a file, or of standard input for `-`.

    Raises:
        InvalidInputError: if it cannot be read.
    """
    from pathlib import Path

    from provisioner.errors.codes import Code
    from provisioner.errors.exceptions import InvalidInputError
    from provisioner.errors.problem import Place, Problem

    try:
        if name != "-":
            data = Path(name).read_bytes()
        else:
            data = sys.stdin.buffer.read() if sys.stdin else b""
        return data.decode("utf-8-sig")
    except OSError as error:
        reason = f"The body cannot be read: {error.strerror}."
    except UnicodeDecodeError:
        reason = "The body is not UTF-8."
    raise InvalidInputError((Problem(Place(name), Code.BODY_INVALID, reason),))
