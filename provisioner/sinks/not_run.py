"""A sink whose program this run may not start: its content is unknown, and nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.sinks.sink import Content, WriteOnly, sink_error

if TYPE_CHECKING:
    from provisioner.errors.exceptions import SinkError
    from provisioner.model.sink_address import Address
    from provisioner.secret import Secret


class NotRun:
    """The sink of an address whose program is not run.

    Args:
        address: the address of the sink.
        program: the name of the program that a run would start.
    """

    def __init__(self, address: Address, program: str) -> None:
        self._address = address
        self._program = program

    def check(self) -> None:
        """Raise, because this run cannot deliver a token here."""
        raise self._not_run()

    def read(self) -> Content:
        """Return that the content is unknown."""
        return WriteOnly()

    def write(self, token: Secret) -> None:
        """Raise, because this run cannot deliver a token here."""
        del token
        raise self._not_run()

    def _not_run(self) -> SinkError:
        return sink_error(
            Code.PROGRAM_NOT_RUN,
            f"The content of a {self._address.kind} sink is unknown: {self._program} was not "
            "run because of --no-programs.",
            "Review the manifests, then run without --no-programs.",
        )
