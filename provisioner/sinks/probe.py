"""Reading and checking many sinks in parallel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import ApiKeyToken, NotAToken, Unavailable
from provisioner.model.token_claims import claims_of
from provisioner.runtime.cancellation import STOPPED
from provisioner.runtime.executor import ThreadExecutor
from provisioner.sinks.sink import StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provisioner.errors.failure import Failure
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.model.token_claims import TokenClaims
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.secret import Secret
    from provisioner.sinks.sink import Content, OpenSink

_PARALLEL = 8

_Result = TypeVar("_Result")


def read_all(
    addresses: Iterable[Address],
    open_sink: OpenSink,
    stop: Cancellation,
    prove: Callable[[Secret, TokenClaims], Failure | None] | None = None,
) -> dict[Address, SinkContent]:
    """Return the content of each sink, without the tokens themselves.

    Args:
        addresses: the addresses of the sinks.
        open_sink: opens one of them.
        stop: after a stop, no further sink is read.
        prove: returns why a token does not work; None to go by its claims.
    """

    def read(address: Address) -> SinkContent:
        if stop.requested:
            return Unavailable(STOPPED)
        try:
            content = open_sink(address).read()
        except SinkError as error:
            return Unavailable(error.failure)
        found = content_of(content)
        if prove is None or not isinstance(content, StoredValue):
            return found
        claims = claims_of(content.value)
        if claims is None or not isinstance(found, ApiKeyToken):
            return found
        failure = prove(content.value, claims)
        if failure is not None and failure.code is not Code.TOKEN_REFUSED:
            return Unavailable(failure)
        return replace(found, accepted=failure is None)

    return _each(addresses, read)


def content_of(content: Content) -> SinkContent:
    """Return the content of a sink without the token itself."""
    if not isinstance(content, StoredValue):
        return content
    claims = claims_of(content.value)
    if claims is None or claims.key is None:
        return NotAToken()
    return ApiKeyToken(claims.key, claims.expires_at, claims.issued_at, workspace=claims.workspace)


def check_all(
    addresses: Iterable[Address], open_sink: OpenSink, stop: Cancellation
) -> dict[Address, Failure]:
    """Return the sinks that cannot take a token, as far as a check without writing can show.

    Args:
        addresses: the addresses of the sinks.
        open_sink: opens one of them.
        stop: after a stop, no further sink is checked.

    Returns:
        The failure of each address that has one.
    """

    def check(address: Address) -> Failure | None:
        if stop.requested:
            return STOPPED
        try:
            open_sink(address).check()
        except SinkError as error:
            return error.failure
        return None

    failures = _each(addresses, check)
    return {address: failure for address, failure in failures.items() if failure is not None}


def _each(
    addresses: Iterable[Address], visit: Callable[[Address], _Result]
) -> dict[Address, _Result]:
    unique = tuple(dict.fromkeys(addresses))
    if not unique:
        return {}
    with ThreadExecutor(_PARALLEL) as threads:
        return dict(zip(unique, threads.map(visit, unique), strict=True))
