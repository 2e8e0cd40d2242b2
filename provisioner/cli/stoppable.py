"""Commands that stop in an orderly way when a signal arrives, even during their imports."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., int]


def stoppable(command: Command) -> Command:
    """Catch signals while a command runs; the command gets them as its argument `signals`.

    An error after a signal is reported, and the exit code is that of the signal. An unexpected
    exception takes precedence over both.
    """

    @wraps(command)
    def run_stoppable(**arguments: object) -> int:
        from provisioner.cli.signals import Signals
        from provisioner.errors.exceptions import ProvisionError

        signals = Signals()
        with signals.caught():
            try:
                return command(signals=signals, **arguments)
            except ProvisionError as error:
                if signals.exit_code is None:
                    raise
                from provisioner.cli.exits import report_error

                report_error(error, click.get_current_context().obj)
                return signals.exit_code

    return run_stoppable
