"""Commands that a signal ends in order, from their first moment on."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., int]


def stoppable(command: Command) -> Command:
    """Have signals caught while a command runs, the imports in its body included.

    The command gets them as its argument `signals`. What ends it after a signal is told, and the
    exit code is that of the signal; a bug goes before both.
    """

    @wraps(command)
    def caught(**arguments: object) -> int:
        from provisioner.cli.signals import Signals  # noqa: PLC0415 - keeps --help fast
        from provisioner.errors.exceptions import ProvisionError  # noqa: PLC0415 - as above

        signals = Signals()
        with signals.caught():
            try:
                return command(signals=signals, **arguments)
            except ProvisionError as error:
                if signals.exit_code is None:
                    raise
                from provisioner.cli.exits import report_error  # noqa: PLC0415 - only when it went wrong

                report_error(error)
                return signals.exit_code

    return caught
