"""The interface of a sink, whatever its kind."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import NoToken, Unreadable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import ApiKeyToken
    from provisioner.secret import Secret

A = TypeVar("A", bound="Address")


@dataclass(frozen=True, slots=True)
class StoredValue:
    """The content of a sink, which may or may not be a token."""

    value: Secret


Content = NoToken | StoredValue | Unreadable
"""The content of a sink, with the token itself."""


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


@runtime_checkable
class RemovingSink(Sink, Protocol):
    """A sink that can remove the token that it holds."""

    def remove(self, token: Secret) -> bool:
        """Remove a token from the sink if it still holds it, and change nothing else there.

        Returns:
            True if the token is no longer in the sink; False if the sink holds something else,
            which was left.

        Raises:
            SinkError: the token was not removed, or may not have been.
        """
        ...


@runtime_checkable
class ReceiptedSink(Sink, Protocol):
    """A write-only sink with a receipt, by which it can remove the token that was delivered."""

    def remove_delivered(self, token: ApiKeyToken) -> bool:
        """Remove the token and its receipt, if the receipt proves that the sink still holds it.

        Args:
            token: the claims of the token.

        Returns:
            True if the token is no longer in the sink; False if the receipt does not prove that
            the sink holds this token, which was left.

        Raises:
            SinkError: the token or its receipt was not removed, or may not have been.
        """
        ...


class SinkGroup(Protocol[A]):
    """Sinks that are parts of one whole, which is read and written at once, such as a file.

    Its methods may be called from several threads.
    """

    def read(self, addresses: Collection[A]) -> Mapping[A, Content | SinkError]:
        """Return the current content of sinks of the group, or why it could not be read."""
        ...

    def write(self, tokens: Mapping[A, Secret]) -> Mapping[A, SinkError]:
        """Replace the tokens in sinks of the group.

        Returns:
            The error of each sink whose token was not written, or may not have been.
        """
        ...


@runtime_checkable
class GroupedSink(Sink, Protocol):
    """A sink that is cheaper to write together with the others of its group."""

    @property
    def group(self) -> SinkGroup[Any]:
        """Return the group, the same object for each of its sinks."""
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


class SinkFailure(NamedTuple):
    """The reason why a sink cannot be used, whichever its address.

    Attributes:
        reason: the rest of a sentence that begins with the sink's address.
        transient: True if a repeat may succeed; a write may have been executed nevertheless.
        retry_after: seconds that the server asks to wait before a repeat.
    """

    code: Code
    reason: str
    remedy: str
    transient: bool = False
    retry_after: float = 0.0

    def error(self, address: Address | str) -> SinkError:
        """Return the error of one sink."""
        return sink_error(self.code, f"{address} {self.reason}.", self.remedy)


unsuitable = partial(SinkFailure, Code.SINK_UNSUITABLE)
"""The failure of a sink that cannot hold a token, whatever the permissions."""


def unusable(code: Code, reason: str, remedy: str) -> SinkFailure:
    """Return the failure of a sink of a server; the reason says what is wrong, as a clause."""
    return SinkFailure(code, f"cannot be used: {reason}", remedy)


class UnusableError(Exception):
    """Something that sinks share cannot be used: a file, or the configuration of a server."""

    def __init__(self, failure: SinkFailure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


@contextmanager
def naming(address: Address) -> Iterator[None]:
    """Turn an `UnusableError` into the error of one sink."""
    try:
        yield
    except UnusableError as error:
        failure = error.failure
    else:
        return
    raise failure.error(address)
