"""`provision create`."""

from __future__ import annotations

import sys
from contextlib import suppress

import click
from click.core import ParameterSource

from provisioner.cli.command_help import DocumentedCommand, option
from provisioner.cli.exit_codes import INCOMPLETE
from provisioner.cli.options import OutputOptions, Selection, add_one_environment, add_output
from provisioner.cli.signals import Signals, stoppable


@click.command(cls=DocumentedCommand)
@option("--depth [0|1|2]", "Return the created keys with relations up to this depth.", default="1")
@option(
    "--body FILE",
    "Read a JSON object or array of records from this file instead of standard input.",
    type=click.Path(allow_dash=True, readable=False),
)
@add_one_environment
@add_output()
@stoppable
def create(
    selection: Selection, depth: str, body: str | None, output: OutputOptions, signals: Signals
) -> int:
    """Create keys from a JSON body in one environment.

    This is for scripts that supply their own list of keys. The list is not compared with the
    existing keys. A record has a name and an expiresAt. It may also have a revokedAt and a role
    (a label or an id), or a roleId. Without one it gets the environment's role. The created
    records are printed in the same shape as the body. Each request is sent once and never
    retried.

    Examples:
        # Create the keys listed in a JSON file:
        $ provision create --environment staging --body keys.json

        # Create the keys that another program lists:
        $ ./list-keys | provision create --environment staging
    """
    import logging

    from provisioner.cli.console import Console
    from provisioner.cli.run import prepare, reconciler_of
    from provisioner.cli.watch import watching
    from provisioner.execution import StepsSettled
    from provisioner.model.key import depth_of
    from provisioner.operations.bulk_create import create_records, notes
    from provisioner.operations.request_body import read_body
    from provisioner.runtime.cancellation import STOPPED
    from provisioner.runtime.log_context import bind

    console = Console(output)
    depth_source = click.get_current_context().get_parameter_source("depth")
    with console.problems_as_data():
        # Another program may be slow to write the body, or a person is typing it.
        console.area.hide()
        with signals.default_handling():
            piped = _piped() if body is None else b""
        prepared = prepare(selection, keys_matter=False, one=True)
        with signals.default_handling():
            request = read_body(_read(body, piped), body or "-")
    (target,) = prepared.environments
    with bind(environment=target.name):
        with (
            watching(console, prepared.environments) as watch,
            reconciler_of(prepared, signals.stop, watch, watch) as reconciler,
        ):
            workspace = reconciler.open(target)
            if workspace is None:
                console.print_failure(STOPPED)
                return signals.exit_code or INCOMPLETE
            chosen = depth_source is not ParameterSource.DEFAULT
            for note in notes(workspace, target, request, depth_chosen=chosen):
                logging.getLogger("provisioner").warning("%s: %s", target.name, note)
            watch.status.begin(target.name, len(request.records))
            created = create_records(
                workspace,
                target,
                request,
                depth=depth_of(int(depth)),
                stop=signals.stop,
                on_progress=lambda count: watch(StepsSettled(target.name, "create", count)),
            )
        if created.output is not None:
            console.print_json(created.output)
        for failure in created.failures:
            console.print_failure(failure)
    return signals.exit_code or (INCOMPLETE if created.failures else 0)


def _piped() -> bytes:
    """Return what another program writes to standard input.

    Raises:
        click.UsageError: nothing is written there.
    """
    data = b""
    if sys.stdin is not None and not sys.stdin.isatty():
        with suppress(OSError):
            data = sys.stdin.buffer.read()
    if not data.strip():
        raise click.UsageError("Missing option '--body', and standard input is empty.")
    return data


def _read(name: str | None, piped: bytes) -> str:
    """Return the text of a file, or of standard input for `-`; of what was piped without a name.

    Raises:
        InvalidInputError: if it cannot be read.
    """
    from pathlib import Path

    from provisioner.errors.codes import Code
    from provisioner.errors.exceptions import InvalidInputError
    from provisioner.errors.problem import Place, Problem

    try:
        if name is None:
            data = piped
        elif name != "-":
            data = Path(name).read_bytes()
        else:
            data = sys.stdin.buffer.read() if sys.stdin else b""
        return data.decode("utf-8-sig")
    except OSError as error:
        reason = f"The body cannot be read: {error.strerror}."
    except UnicodeDecodeError:
        reason = "The body is not UTF-8."
    raise InvalidInputError((Problem(Place(name or "-"), Code.BODY_INVALID, reason),))
