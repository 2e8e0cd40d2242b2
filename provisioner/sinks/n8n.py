"""The sink `n8n`: one field of a credential in n8n.

Sources: the public API of n8n 2.8.4 and 2.40.7, recorded in `tests/recordings/n8n`.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import Unreadable
from provisioner.sinks.http import (
    Api,
    Once,
    Reply,
    header_credential,
    route_of,
    segment,
    unexpected_status,
)
from provisioner.sinks.kind import Allowed, Option, SinkKind
from provisioner.sinks.sink import Content, sink_error, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import timedelta

    from provisioner.http_client.exchange import HttpAnswer
    from provisioner.secret import Secret
    from provisioner.sinks.sink import SinkFailure

_PATH = "/api/v1/credentials"
_PAGE_SIZE = 250
_MAX_PAGES = 1000
_MAX_AGE = 5.0
"""Seconds for which sinks share a list of credentials."""

_NO_CREDENTIAL = "provision-check"
"""An id that no credential has: n8n makes ids of letters and digits only."""

_PLACEHOLDER = "placeholder"
_STARTING = b"n8n is starting up"
_OK, _BAD_REQUEST, _FORBIDDEN, _NOT_FOUND = 200, 400, 403, 404
_IDENTIFIER = Allowed(re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), "a name of letters, digits and _")


@dataclass(frozen=True, slots=True)
class N8nAddress(Address):
    """One field of a credential in n8n.

    Attributes:
        credential: its name or id.
        type: the name of its type, as in n8n's API.
        field: the field that holds the token.
    """

    kind: ClassVar[str] = "n8n"
    credential: str
    type: str
    field: str

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the name or id of the credential."""
        return (self.credential,)

    @property
    def shows_delivery(self) -> bool:
        """Return False: other changes of the credential hide that its token is missing."""
        return False

    def __str__(self) -> str:
        return f"n8n {self.credential} {self.field}"


class _Credential(NamedTuple):
    """A credential as n8n lists it, without its data.

    Attributes:
        updated_at: when it last changed, by the local clock; None if n8n does not report it.
    """

    id: str
    name: str
    type: str
    updated_at: datetime | None


class _Directory:
    """The credentials that n8n listed, and the declared addresses that lead to each field.

    Args:
        credentials: the credentials. One that is listed twice, because others changed between two
            pages, counts once.
        declared: every address in the manifests.
    """

    def __init__(
        self, credentials: Iterable[_Credential], declared: Iterable[N8nAddress] = ()
    ) -> None:
        self._by_id = {(one.type, one.id): one for one in credentials}
        self._by_name: dict[tuple[str, str], list[_Credential]] = {}
        for one in self._by_id.values():
            self._by_name.setdefault((one.type, one.name), []).append(one)
        self._declared: dict[tuple[str, str, str], list[N8nAddress]] = {}
        for address in declared:
            found = self.matching(address)
            if len(found) == 1:
                place = (found[0].type, found[0].id, address.field)
                self._declared.setdefault(place, []).append(address)

    def matching(self, address: N8nAddress) -> list[_Credential]:
        """Return the credentials of an address: the one with the id, else all with the name."""
        place = (address.type, address.credential)
        by_id = self._by_id.get(place)
        return self._by_name.get(place, []) if by_id is None else [by_id]

    def others(self, address: N8nAddress, credential: _Credential) -> list[N8nAddress]:
        """Return the other declared addresses that lead to the same field of a credential."""
        declared = self._declared.get((credential.type, credential.id, address.field), ())
        return [one for one in declared if one != address]


class _Listed(NamedTuple):
    """The outcome of one listing.

    Attributes:
        number: counts the listings of the run from 1.
        address: the sink that it was made for.
        ended_at: when it ended, by the monotonic clock.
    """

    number: int
    address: N8nAddress
    outcome: _Directory | SinkError
    ended_at: float


class _Credentials:
    """The list of credentials, shared by the sinks of a run while it is new enough.

    A list answers only one read of each address, and only if it was requested after the last write
    to that address. So a read never repeats what an earlier one showed.

    Args:
        declared: every address in the manifests.
    """

    def __init__(self, declared: Iterable[N8nAddress]) -> None:
        self._declared = tuple(dict.fromkeys(declared))
        self._lock = threading.Lock()
        self._last: _Listed | None = None
        self._first_usable: dict[N8nAddress, int] = {}

    def get(
        self,
        address: N8nAddress,
        load: Callable[[], Iterable[_Credential]],
        *,
        for_read: bool = False,
    ) -> _Directory:
        """Return the credentials.

        Args:
            address: the sink that needs them.
            load: requests the list.
            for_read: True if the sink reports when the credential changed.

        Raises:
            SinkError: the list cannot be loaded. All sinks that were waiting for it fail.
        """
        before = self._last
        with self._lock:
            listed = self._last
            first_usable = self._first_usable.get(address, 0) if for_read else 0
            if listed is None or listed.number < first_usable or not _is_shared(listed, before):
                listed = self._last = self._load(address, load)
            if for_read:
                self._first_usable[address] = listed.number + 1
        outcome = listed.outcome
        if isinstance(outcome, _Directory):
            return outcome
        message = f"{address}{outcome.message.removeprefix(str(listed.address))}"
        raise sink_error(outcome.code, message, outcome.remedy)

    def changed(self, address: N8nAddress) -> None:
        """Let the next read of an address request a new list."""
        with self._lock:
            self._first_usable[address] = 1 + (0 if self._last is None else self._last.number)

    def _load(self, address: N8nAddress, load: Callable[[], Iterable[_Credential]]) -> _Listed:
        outcome: _Directory | SinkError
        try:
            outcome = _Directory(load(), self._declared)
        except SinkError as error:
            outcome = error
        number = 1 if self._last is None else self._last.number + 1
        return _Listed(number, address, outcome, time.monotonic())


def _is_shared(listed: _Listed, before: _Listed | None) -> bool:
    """Return whether a listing is new enough for other sinks.

    Args:
        listed: the last listing.
        before: the last one when the sink began to wait. A failure counts only for those that
            waited for it.
    """
    failed_before = isinstance(listed.outcome, SinkError) and listed is before
    return not failed_before and time.monotonic() - listed.ended_at <= _MAX_AGE


class _Api(Api):
    """The public API of n8n, which answers every request with a text while it starts."""

    def failure_in(self, path: str, answer: HttpAnswer) -> SinkFailure | None:
        """Return a failure that is worth a repeat while n8n starts."""
        del path
        if not answer.body.startswith(_STARTING):
            return None
        failure = unusable(Code.SINK_UNAVAILABLE, "n8n is starting up", "Run the command again.")
        return failure._replace(transient=True)


class N8n:
    """The credentials of one n8n.

    Relies on: the data of a credential is never shown; a `PATCH` with `isPartialData` keeps the
    fields that it does not name; a `PATCH` of a credential that does not exist writes nothing.

    Args:
        environment: `N8N_URL`, the address of n8n, and `N8N_API_KEY`, an API key with the scopes
            `credential:list` and `credential:update`.
        wait: waits for a number of seconds.
        declared: every address in the manifests: a name and an id may lead to one credential.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        wait: Callable[[float], None] = time.sleep,
        declared: Iterable[N8nAddress] = (),
    ) -> None:
        credential = header_credential(
            "X-N8N-API-KEY",
            environment.get("N8N_API_KEY", "").strip(),
            "Set N8N_API_KEY to an API key with the scopes credential:list and credential:update.",
        )
        self.base = _base(environment)
        # n8n merges the new field into data that it read before, so updates must not overlap.
        self.api = _Api(
            route_of(self.base, environment),
            credential,
            {"Accept": "application/json"},
            wait,
            serial_writes=True,
        )
        self.credentials = _Credentials(declared)
        self.fields: Once[tuple[str, ...]] = Once()
        self.updatable: Once[None] = Once()

    def sink(self, address: N8nAddress) -> N8nField:
        """Return the sink of an address; nothing is sent yet."""
        return N8nField(self, address)


class N8nField:
    """One field of a credential; created by `N8n`."""

    def __init__(self, n8n: N8n, address: N8nAddress) -> None:
        self._n8n = n8n
        self._address = address

    def check(self) -> None:
        """Check, without writing, that the API key may update this field of the credential.

        The update is tried with an id that no credential has. n8n verifies the API key and, before
        2.36, the data first; it responds with 404 only if they are right.
        """
        self._find()
        address = self._address
        fields = self._n8n.fields.get(address.type, self._read_fields)
        if address.field not in fields:
            reason = f"credentials of type {address.type} have no text field {address.field}"
            remedy = f"Write another `field`: {', '.join(fields)}."
            raise self._error(Code.SINK_UNSUITABLE, reason, remedy)
        self._n8n.updatable.get((address.type, address.field), self._try_update)

    def read(self) -> Content:
        """Return when the credential last changed: this field, another one, or its name."""
        return Unreadable(self._find(for_read=True).updated_at, only_writes=False)

    def write(self, token: Secret) -> None:
        """Replace the field; the other fields of the credential stay."""
        found = self._find()
        try:
            reply = self._patch(found.id, {}, token.reveal())
        finally:
            self._n8n.credentials.changed(self._address)
        if reply.status == _NOT_FOUND:
            raise self._missing()
        if reply.status != _OK:
            raise self._refusal(reply)

    def _find(self, *, for_read: bool = False) -> _Credential:
        """Return the credential with this id, or the only one of the type with this name."""
        listed = self._n8n.credentials.get(self._address, self._list, for_read=for_read)
        found = listed.matching(self._address)
        if not found:
            raise self._missing()
        if len(found) > 1:
            ids = ", ".join(one.id for one in found)
            reason = f"{len(found)} credentials of type {self._address.type} have this name"
            raise self._error(Code.SINK_UNSUITABLE, reason, f"Write the id of one of them: {ids}.")
        for other in listed.others(self._address, found[0]):
            reason = f"it is the same credential as {other}"
            raise self._error(Code.SINK_UNSUITABLE, reason, "Give each key its own credential.")
        return found[0]

    def _list(self) -> Iterator[_Credential]:
        """Yield every credential.

        Raises:
            SinkError: n8n does not list them, or its list does not end.
        """
        after: set[str] = set()
        cursor = ""
        for _ in range(_MAX_PAGES):
            reply = self._call("GET", f"?limit={_PAGE_SIZE}{cursor}")
            page = _page(reply)
            if page is None:
                reason = f"n8n does not list credentials (HTTP status {reply.status})"
                remedy = "Use n8n 2.8 or later, with its public API enabled, and check N8N_URL."
                raise self._error(Code.SINK_UNAVAILABLE, reason, remedy)
            yield from page
            next_page = str(reply.body.get("nextCursor") or "")
            if not next_page:
                return
            if next_page in after:
                break
            after.add(next_page)
            cursor = f"&cursor={segment(next_page)}"
        reason = "n8n's list of credentials does not end"
        remedy = "Check N8N_URL, and any proxy before n8n."
        raise self._error(Code.SINK_UNAVAILABLE, reason, remedy)

    def _read_fields(self) -> tuple[str, ...]:
        """Return the fields of text that credentials of this type have."""
        reply = self._call("GET", f"/schema/{segment(self._address.type)}")
        match reply.body:
            case {"properties": dict(properties)} if reply.status == _OK:
                return tuple(
                    name
                    for name, schema in properties.items()
                    if isinstance(schema, dict) and schema.get("type") == "string"
                )
            case _:
                reason = f"n8n does not know the credential type {self._address.type}"
                remedy = "Correct `type`, or install the node that the type belongs to."
                raise self._error(Code.SINK_UNSUITABLE, reason, remedy)

    def _try_update(self) -> None:
        reply = self._patch(_NO_CREDENTIAL, {"type": self._address.type}, _PLACEHOLDER)
        if reply.status != _NOT_FOUND:
            raise self._refusal(reply)

    def _patch(self, credential: str, changes: Mapping[str, str], token: str) -> Reply:
        body = {**changes, "data": {self._address.field: token}, "isPartialData": True}
        return self._call("PATCH", f"/{segment(credential)}", body)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Reply:
        if not self._n8n.base:
            remedy = "Set it to the address of n8n, for example https://n8n.example.com."
            raise self._error(Code.SINK_MISSING, "N8N_URL is not set", remedy)
        denied = frozenset({_FORBIDDEN})
        address, path = self._address, f"{_PATH}{path}"
        reply = self._n8n.api.call(address, method, path, body, returned_statuses=denied)
        if reply.status == _FORBIDDEN:
            reason = "the API key or its user may not list or update credentials"
            remedy = "Give the key the scopes credential:list and credential:update."
            raise self._error(Code.SINK_DENIED, reason, remedy)
        return reply

    def _missing(self) -> SinkError:
        reason = f"n8n has no credential of type {self._address.type} with this name or id"
        remedy = "Create it in n8n with its other fields, or correct `n8n` and `type`."
        return self._error(Code.SINK_MISSING, reason, remedy)

    def _refusal(self, reply: Reply) -> SinkError:
        """Return the error for an update that n8n refuses."""
        if reply.status != _BAD_REQUEST:
            return unexpected_status(self._address, reply)
        reason = "n8n refuses to update this field without the others"
        remedy = "Use n8n 2.36 or later, or a type of credential in which no field is required."
        return self._error(Code.SINK_UNSUITABLE, reason, remedy)

    def _error(self, code: Code, reason: str, remedy: str) -> SinkError:
        return unusable(code, reason, remedy).error(self._address)


def _page(reply: Reply) -> list[_Credential] | None:
    """Return the credentials of a page; None if it is not one."""
    page = reply.body.get("data")
    if reply.status != _OK or not isinstance(page, list):
        return None
    credentials: list[_Credential] = []
    for listed in page:
        match listed:
            case {"id": str() | int() as id_, "name": str(name), "type": str(type_)}:
                changed = _local_time(listed.get("updatedAt"), reply.clock_skew)
                credentials.append(_Credential(str(id_), name, type_, changed))
            case _:
                return None
    return credentials


def _local_time(timestamp: object, clock_skew: timedelta) -> datetime | None:
    """Return a time of n8n by the local clock; None if it is not a time."""
    try:
        time_there = datetime.fromisoformat(str(timestamp)).astimezone(UTC)
        # The skew is exact to the second only.
        local_time = time_there.replace(microsecond=0) - clock_skew
    except (ValueError, OverflowError, OSError):
        return None
    # Others compare it with times around it, which the calendar must have.
    return local_time if MINYEAR < local_time.year < MAXYEAR else None


def _base(environment: Mapping[str, str]) -> str:
    """Return the address of n8n; empty if no variable names it."""
    return environment.get("N8N_URL", "").strip().rstrip("/").removesuffix("/api/v1")


SINK = SinkKind(
    title="n8n",
    description="One field of a credential in n8n.",
    options=(
        Option(
            "n8n",
            "Credential",
            "The name or id of a credential that exists in n8n.",
            examples=("Twenty {environment}",),
        ),
        Option(
            "type",
            "Type",
            "The type of the credential, as n8n's API names it.",
            _IDENTIFIER,
            default="twentyApi",
            examples=("httpBearerAuth",),
        ),
        Option(
            "field",
            "Field",
            "The field of the credential that holds the token.",
            _IDENTIFIER,
            default="apiKey",
            examples=("token",),
        ),
    ),
    address=lambda values: N8nAddress(
        values.text("n8n"), values.text("type"), values.text("field")
    ),
    connect=lambda context: (
        N8n(
            context.environ,
            context.wait,
            (one for one in context.declared if isinstance(one, N8nAddress)),
        ).sink
    ),
    server_of=lambda environ, _: _base(environ),
)
