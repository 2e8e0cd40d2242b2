"""The values that go into the HTTP client and come out of it; they need none of its libraries.

A JSON text of a server is bounded in what it becomes in memory.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.errors.codes import Code

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
_MAX_WAIT = 1e9
_FIRST_YEAR, _LAST_YEAR = 1970, 9000
_MAX_VALUES = 500_000
"""Values in one JSON text; an object of a few bytes takes a hundred times as many in memory."""

_MAX_DEPTH = 64
"""Nesting levels of one JSON text, as in manifests; deeper ones could not be written again."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""A decoded JSON value."""

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def ca_path_of(environment: Mapping[str, str]) -> str | None:
    """Return the path of the CA certificates that the usual variables name; None without one."""
    return next(filter(None, map(environment.get, _CA_VARIABLES)), None)


@dataclass(frozen=True, slots=True)
class Route:
    """The address of a server, and how to verify it.

    Attributes:
        base: `http(s)://host[:port][/prefix]`.
        ca_path: the path of a PEM file, or of a folder of them; None for the default CA
            certificates.
        ca_pem: the same as PEM text.
        client_cert_path: the path of a certificate with its chain to show, as PEM.
        client_key_path: the path of its private key; None if `client_cert_path` has it too.
        server_name: the name in the certificate, if it is not the host name of `base`.
        verify: whether to verify the certificate.
        proxy: the URL of a proxy; None for the proxy of the process environment, empty for none.
        url_setting: what names the server, for advice.
        ca_setting: what names the CA certificates, for advice.
        client_cert_setting: what names the client certificate, for advice.
    """

    base: str
    ca_path: str | None = None
    ca_pem: str | None = None
    client_cert_path: str | None = None
    client_key_path: str | None = None
    server_name: str | None = None
    verify: bool = True
    proxy: str | None = None
    url_setting: str = "the address"
    ca_setting: str = "REQUESTS_CA_BUNDLE"
    client_cert_setting: str = "the client certificate"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete answer.

    Attributes:
        body: unpacked; it may contain secrets.
        received_at: by our own clock.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    received_at: datetime

    @property
    def server_time(self) -> datetime | None:
        """Return the server's `Date`, to the second; None for one that no expiry can follow."""
        time = _parse_date(self.headers.get("Date"))
        return time if time is not None and _FIRST_YEAR <= time.year <= _LAST_YEAR else None

    @property
    def retry_after(self) -> float | None:
        """Return the seconds that the server asks to wait; None without a valid number or date."""
        header = self.headers.get("Retry-After", "")
        if _SECONDS.fullmatch(header.strip()):
            return min(float(header), _MAX_WAIT)
        if (date := _parse_date(header)) is None:
            return None
        return max(0.0, (date - (self.server_time or self.received_at)).total_seconds())


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No complete answer came back.

    Attributes:
        code: what is wrong, as an environment reports it.
        reason: a clause, with nothing from the request or the answer.
        remedy: one sentence that says what to do.
        sent: whether the server may have handled the request.
        lasting: whether a later attempt will fail too.
        again: whether connecting again at once may help, because the attempt took no time.
    """

    code: Code
    reason: str
    remedy: str = (
        "Run the command again; if it fails again, check the logs of the server and of any proxy."
    )
    sent: bool = False
    lasting: bool = False
    again: bool = False


def _parse_date(header: str | None) -> datetime | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - `validate` reads no answers

    try:
        return parsedate_to_datetime(header).astimezone(UTC) if header else None
    except (ValueError, OverflowError):
        return None


def json_of(raw: bytes, max_values: int = _MAX_VALUES) -> Json:
    """Return the value of a JSON text in UTF-8.

    Raises:
        ValueError: the text is not JSON, has more than `max_values` values, is nested too deep, or
            has a string that is not valid Unicode.
    """
    if sum(map(raw.count, (b"{", b"[", b","))) > max_values:
        raise ValueError("too many values")
    try:
        value: Json = json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if b"\\ud" in raw or b"\\uD" in raw:
        json.dumps(value, ensure_ascii=False).encode()  # raises for half a surrogate pair
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
