"""Many sinks asked side by side: what they hold, and which of them could not take a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, assert_never

from provisioner.errors.exceptions import SinkError
from provisioner.errors.failure import Failure, failure_of
from provisioner.model.sink_content import ApiKeyToken, NotAToken, NoToken, Unavailable, Unreadable
from provisioner.model.token_claims import claims_of
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
from provisioner.sinks.sink import Empty, StoredValue, WriteOnly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import OpenSink

_SIDE_BY_SIDE = 8

_Found = TypeVar("_Found")


def read_all(
    addresses: Iterable[Address], open_sink: OpenSink, stop: Cancellation
) -> dict[Address, SinkContent]:
    """What each sink holds, without the tokens themselves.

    Args:
        addresses: of the sinks.
        open_sink: opens one of them.
        stop: once it is asked for, no sink is asked any more.
    """

    def read(address: Address) -> SinkContent:
        try:
            content = open_sink(address).read()
        except SinkError as error:
            return Unavailable(failure_of(error))
        match content:
            case Empty():
                return NoToken()
            case WriteOnly(updated_at=updated_at, only_writes=only_writes):
                return Unreadable(updated_at, only_writes)
            case StoredValue(value=value):
                claims = claims_of(value)
                if claims is None or claims.key is None:
                    return NotAToken()
                return ApiKeyToken(claims.key, claims.expires_at, claims.issued_at)
            case _:
                assert_never(content)

    return _each(addresses, read, stop, Unavailable(STOPPED))


def check_all(
    addresses: Iterable[Address], open_sink: OpenSink, stop: Cancellation
) -> dict[Address, Failure]:
    """Why sinks could not take a token, as far as that can be seen without writing.

    Returns:
        A failure for each address that has one.
    """

    def failure(address: Address) -> Failure | None:
        try:
            open_sink(address).check()
        except SinkError as error:
            return failure_of(error)
        return None

    found: dict[Address, Failure | None] = _each(addresses, failure, stop, STOPPED)
    return {address: why for address, why in found.items() if why is not None}


def _each(
    addresses: Iterable[Address],
    ask: Callable[[Address], _Found],
    stop: Cancellation,
    stopped: _Found,
) -> dict[Address, _Found]:
    wanted = tuple(dict.fromkeys(addresses))
    if not wanted:
        return {}
    with ThreadExecutor(_SIDE_BY_SIDE) as threads:
        found = threads.map(lambda one: stopped if stop.asked else ask(one), wanted)
        return dict(zip(wanted, found, strict=True))
