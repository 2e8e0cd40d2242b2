"""The interface of a sink, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from provisioner.errors.exceptions import SinkError

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.errors.codes import Code
    from provisioner.model.sink_address import Address
    from provisioner.secret import Secret


@dataclass(frozen=True, slots=True)
class Empty:
    """The sink was read and contains no token."""


@dataclass(frozen=True, slots=True)
class StoredValue:
    """The content of a sink, which may or may not be a token."""

    value: Secret


@dataclass(frozen=True, slots=True)
class WriteOnly:
    """The content of a sink that cannot be read back.

    Attributes:
        updated_at: when the sink last changed, by the clock of this machine, corrected with the
            sink's `Date` header; None if the sink does not report it.
        only_writes: True if nothing except a write of the value changes that time.
    """

    updated_at: datetime | None = None
    only_writes: bool = True


Content = Empty | StoredValue | WriteOnly


class Sink(Protocol):
    """A place that holds one token. Its methods may be called from several threads."""

    def check(self) -> None:
        """Check, without writing anything, that a token can be delivered.

        Raises:
            SinkError: the sink certainly cannot take a token.
        """
        ...

    def read(self) -> Content:
        """Return the current content of the sink.

        Raises:
            SinkError: the sink is readable, but reading it failed.
        """
        ...

    def write(self, token: Secret) -> None:
        """Replace the token in the sink, and change nothing else there.

        Raises:
            SinkError: the token was not written, or may not have been.
        """
        ...


class OpenSink(Protocol):
    """A function that opens sinks. It may be called from several threads."""

    def __call__(self, address: Address) -> Sink:
        """Open the sink of an address.

        Raises:
            SinkError: the sink cannot be opened, for example because its vendor's library is
                missing.
        """
        ...


def sink_error(code: Code, message: str, remedy: str) -> SinkError:
    """Create the error of a sink.

    Args:
        code: the kind of failure.
        message: one sentence that names the sink and says what happened. It quotes the answer of a
            vendor or program only if that cannot contain a secret.
        remedy: one sentence that says what to do.
    """
    return SinkError(code, message, remedy=remedy)
