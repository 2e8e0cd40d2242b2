"""The interface to one sink, whatever kind it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from provisioner.errors.exceptions import SinkError

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.model.sink_address import Address
    from provisioner.secret import Secret

SinkCode = Literal[
    "sink_unavailable",
    "sink_denied",
    "sink_missing",
    "sink_unsuitable",
    "sink_extra_missing",
    "sink_failed",
    "sink_not_allowed",
    "host_not_allowed",
    "program_not_run",
]
"""Why a sink cannot be used: it cannot be reached or is out of order; the credential is missing,
refused or may not do this; the place is not there; the place cannot hold a token safely; the
extra is not installed; a write did not come to what it was to come to; the run may not open it,
not speak to its server, or not run its program."""


@dataclass(frozen=True, slots=True)
class Empty:
    """The sink was looked into, and no token is there."""


@dataclass(frozen=True, slots=True)
class StoredValue:
    """What the sink holds, whether it is a token or not."""

    value: Secret


@dataclass(frozen=True, slots=True)
class WriteOnly:
    """What the sink holds cannot be read back.

    Attributes:
        updated_at: when it last changed, by this machine's clock as far as the sink's `Date`
            corrects its own; None where not even that is told.
        only_writes: whether nothing but a write of the value moves that time.
    """

    updated_at: datetime | None = None
    only_writes: bool = True


Content = Empty | StoredValue | WriteOnly


class Sink(Protocol):
    """One place that holds one token; its methods may be called from several threads."""

    def check(self) -> None:
        """Looks, as far as that goes without writing, whether a token can be delivered.

        Raises:
            SinkError: when it certainly cannot.
        """
        ...

    def read(self) -> Content:
        """What the sink holds now.

        Raises:
            SinkError: when a sink that can be read could not be.
        """
        ...

    def write(self, token: Secret) -> None:
        """Puts a token in the place of what is there; nothing else in the sink is changed.

        Raises:
            SinkError: when it was not written, or may not have been.
        """
        ...


class OpenSink(Protocol):
    """Opens sinks; may be called from several threads."""

    def __call__(self, address: Address) -> Sink:
        """The sink of an address.

        Raises:
            SinkError: when there is no way to it, as without its vendor's library.
        """
        ...


def failed(code: SinkCode, message: str, remedy: str) -> SinkError:
    """The error of a sink.

    Args:
        code: what kind of failure it is.
        message: one sentence that names the sink and what happened, without anything that came
            back from a vendor or a program unless it cannot hold a secret.
        remedy: one sentence that says what to do.
    """
    return SinkError(code, message, remedy=remedy)
