"""A sink behind a program that this run may not start: nothing is known of it, nothing written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.sinks.sink import Content, WriteOnly, failed

if TYPE_CHECKING:
    from provisioner.errors.exceptions import SinkError
    from provisioner.model.sink_address import Address
    from provisioner.secret import Secret


class NotRun:
    """The sink of an address whose program is not run.

    Args:
        address: of the sink.
        program: what would be run.
    """

    def __init__(self, address: Address, program: str) -> None:
        self._address = address
        self._program = program

    def check(self) -> None:
        """Raise: a token cannot be delivered by this run."""
        raise self._not_run()

    def read(self) -> Content:
        """Return that the content is unknown."""
        return WriteOnly()

    def write(self, token: Secret) -> None:
        """Raise: a token cannot be delivered by this run."""
        del token
        raise self._not_run()

    def _not_run(self) -> SinkError:
        return failed(
            "program_not_run",
            f"{self._program} was not run for a {self._address.place[0]} sink because of "
            "--no-programs, so what the sink holds is unknown.",
            "Run without --no-programs where the manifests were reviewed.",
        )
