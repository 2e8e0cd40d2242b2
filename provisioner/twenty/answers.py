"""The meaning of a server's answer, read from its texts and codes rather than from its status.

Twenty sends different statuses for the same error in different versions, and GraphQL answers nearly
everything with 200 (docs/twenty-api.md, "Errors").
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from html import unescape
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Required, TypedDict

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.http_client.exchange import json_of
from provisioner.secret import MASK, masked
from provisioner.twenty.rate_limit import Rate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from provisioner.model.environment import Generation
    from provisioner.model.workspace import Json

_MAX_QUOTE = 300
_MAX_TEXT = 8192
_MAX_ERRORS = 100
"""Error texts that are read of one answer: more than any document of ours has parts."""

_MAX_LIST_VALUES = 1_000_000
"""JSON values of the largest list that is read: 100 000 keys, and the keys of their roles."""

_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)*")
"""The beginning of every token of Twenty, also of one that was cut off or is not ours."""

_MAX_RETRY_AFTER = 1e9
_MINUTE = 60.0
_RATE_TEXT = re.compile(r"Limit reached \(([0-9]{1,9}) tokens per ([0-9]{1,9}) ms\)")
_RATE_LIMITED = ("Limit reached", "Too many requests")
_RATE_CODES = ("LIMIT_REACHED", "RATE_LIMITED")
_NGINX_BUSY = re.compile(
    r"<html>\s*<head><title>503 Service Temporarily Unavailable</title></head>\s*<body[^>]*>\s*"
    r"<center><h1>503 Service Temporarily Unavailable</h1></center>\s*"
    r"<hr><center>(nginx|openresty)(/[0-9.]+)?( \([A-Za-z]+\))?</center>"
)
"""The page that nginx sends itself if `limit_req` refuses a request.

Recorded from nginx 1.22.1 (`nginx_busy` in tests/sandbox_control.py), but not the name of a
distribution after the version. nginx refuses before it asks Twenty. A 503 from Twenty is passed on
unchanged, and a server that is gone gives 502 or 504.
"""

_MARKUP_OR_TRACE = re.compile(
    r"<(?:!doctype|!--|\?xml|/?(?:html|head|title|body|center|div|h[1-6]|p|pre|span|br|hr|script))\b"
    r"|Traceback \(most recent call last\)"
    r"|(?:(?<=\s)|(?<=\\n))at (?:async |new )*(?:"
    r"[^\s()]*(?: \[as \w+\])? ?\([^\s()]*:[0-9]+(?::[0-9]+)?\)"
    r"|(?:file:|node:|/)\S*:[0-9]+:[0-9]+)",
    re.IGNORECASE,
)
"""The start of an HTML page or a stack trace of JavaScript, Java or Python."""


_TITLE = re.compile(r"<title[^>]*>([^<]*)</title>", re.IGNORECASE)
_MAX_TITLE = 80


class NotJson:
    """A body that is not JSON: HTML from a proxy, empty, or cut off."""

    def __repr__(self) -> str:
        return "NOT_JSON"


NOT_JSON = NotJson()


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer of a server.

    Attributes:
        body: the decoded JSON, or NOT_JSON.
        beginning: the beginning of the body as it came; it may contain secrets.
        size: bytes of the whole body.
        server_time: the server's `Date`, to the second, if it sent one.
        ahead: how far the server's clock was ahead of ours when the answer came, to the second.
        retry_after: seconds that the server asks to wait, if it does.
        rate_limit: requests a minute that the server says it allows, if it does.
        duration: seconds from sending the request to the end of the answer.
        waited: seconds that the rate limit made the request wait before that.
        location: the target of a redirect.
        leaves_host: whether that is another host.
    """

    status: int
    body: Json | NotJson
    beginning: bytes = field(repr=False)
    size: int = 0
    server_time: datetime | None = None
    ahead: timedelta | None = None
    retry_after: float | None = None
    rate_limit: int | None = None
    duration: float = 0.0
    waited: float = 0.0
    location: str | None = None
    leaves_host: bool = False

    @property
    def ok(self) -> bool:
        """Return whether the status is a success."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def server_failed(self) -> bool:
        """Return whether the server itself, or a proxy in front of it, failed."""
        timed_out = self.status == HTTPStatus.REQUEST_TIMEOUT
        return timed_out or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def lost(self) -> bool:
        """Return whether the answer does not show the outcome: server error or not JSON."""
        return self.server_failed or (self.ok and self.body is NOT_JSON)

    @property
    def excerpt(self) -> str:
        """Return the beginning of the body as text, without control characters and secrets."""
        return redact(clean(self.beginning.decode("utf-8", "replace")))[:_MAX_QUOTE]

    @property
    def errors(self) -> tuple[str, ...]:
        """Return the error texts in the body, whatever its shape."""
        body = self.body
        if isinstance(body, str):
            return (_error_text(body),)
        if not isinstance(body, dict):
            return ()
        if isinstance(entries := body.get("errors"), list):
            texts = [e.get("message") if isinstance(e, dict) else None for e in entries]
        elif self.ok:
            return ()
        else:
            messages = body.get("messages")
            texts = messages if isinstance(messages, list) else [body.get("message")]
            texts = list(filter(None, texts))
        return tuple(map(_error_text, texts[:_MAX_ERRORS]))

    @property
    def code_holders(self) -> tuple[dict[str, Json], ...]:
        """Return the objects in which errors have codes: the body, and GraphQL's `extensions`."""
        if not isinstance(self.body, dict):
            return ()
        holders: list[Json] = [self.body]
        if isinstance(entries := self.body.get("errors"), list):
            holders += [e.get("extensions") for e in entries[:_MAX_ERRORS] if isinstance(e, dict)]
        return tuple(holder for holder in holders if isinstance(holder, dict))

    @property
    def codes(self) -> frozenset[str]:
        """Return the error codes in the body: `code`, `subCode` and `error`."""
        values = (
            holder.get(name)
            for holder in self.code_holders
            for name in ("code", "subCode", "error")
        )
        return frozenset(value for value in values if isinstance(value, str))

    @property
    def data(self) -> dict[str, Json] | None:
        """Return GraphQL's `data`; None if it is missing or null."""
        data = self.body.get("data") if isinstance(self.body, dict) else None
        return data if isinstance(data, dict) else None

    def result(self, *names: str) -> Json:
        """Return the value under these names in `data`; None if there is none."""
        value: Json = self.data
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def complete(self) -> bool:
        """Return whether GraphQL returned all of the data that was queried."""
        return self.ok and self.data is not None and not self.errors

    @property
    def execution_began(self) -> bool:
        """Return whether GraphQL began to run the document.

        Only then has the answer `data`, which may be null: a document that is refused before it
        runs has none (`135`, `165` of core-2.21; `185` of core-1 has null).
        """
        return isinstance(self.body, dict) and "data" in self.body

    @property
    def has_data(self) -> bool:
        """Return whether GraphQL returned any data, so something was done despite the errors."""
        return any(value is not None for value in (self.data or {}).values())

    def has_error(self, texts: tuple[str, ...]) -> bool:
        """Return whether one of the error texts begins with one of these texts."""
        return any(error.startswith(texts) for error in self.errors)

    @property
    def quote(self) -> str:
        """Return the server's own words for a message to people, short and without secrets."""
        if not self.errors and (page := html_page(self.beginning, self.size)):
            return page
        texts = self.errors or tuple(filter(None, (self.excerpt,)))
        words = redact("; ".join(_readable(text) for text in texts)) or "no body"
        return words if len(words) <= _MAX_QUOTE else words[:_MAX_QUOTE] + "…"


def clean(text: str) -> str:
    """Return text of a server without line breaks, control characters and terminal escapes."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


def decode(raw: bytes, *, is_list: bool = False) -> tuple[Json | NotJson, bytes]:
    """Return the JSON of a body, or NOT_JSON, and its beginning.

    Args:
        raw: the body.
        is_list: whether it may list all keys of a workspace.
    """
    beginning = raw[: _MAX_TEXT + 1]
    try:
        body: Json = json_of(raw, _MAX_LIST_VALUES) if is_list else json_of(raw)
    except ValueError:
        return NOT_JSON, beginning
    return body, beginning


def html_page(body: bytes, size: int) -> str:
    """Return in a few words that a body is an HTML page; empty if it is not.

    Args:
        body: the body, or its beginning.
        size: bytes of the whole body.
    """
    text = body[:_MAX_TEXT].decode("utf-8", "replace").lstrip()
    match = _MARKUP_OR_TRACE.match(text)
    if match is None or not match[0].startswith("<"):
        return ""
    title = _TITLE.search(text)
    words = redact(clean(" ".join(unescape(title[1]).split()))) if title else ""
    shown = words if len(words) <= _MAX_TITLE else f"{words[:_MAX_TITLE]}…"
    return f'an HTML page "{shown}" of {size} bytes' if shown else f"an HTML page of {size} bytes"


def _readable(text: str) -> str:
    """Return the text before an HTML page or a stack trace, or which of the two it is."""
    match = _MARKUP_OR_TRACE.search(text)
    if match is None:
        return text
    kind = "an HTML page" if match[0].startswith("<") else "a stack trace"
    return text[: match.start()].rstrip() or kind


def _error_text(text: Json) -> str:
    """Return the text of an error, up to the length that may be shown."""
    return clean(text[: _MAX_TEXT + 1]) if isinstance(text, str) else "an error without a message"


def redact(text: str) -> str:
    """Return the beginning of a server's text without secrets, which may fill all of it.

    A cut text may end inside a secret, and half a secret is not recognized as one. So the last part
    of a text that was cut is not shown either.
    """
    shown = _TOKEN.sub(MASK, masked(text[:_MAX_TEXT]))
    return shown if len(text) <= _MAX_TEXT else shown[: -_MAX_TEXT // 2]


@dataclass(frozen=True, slots=True)
class Throttling:
    """The refusal of a request because of the rate limit, or a 503.

    Attributes:
        wait: seconds that the server asks to wait, if it does.
        rate: the rate that the server says it allows, if it does.
        unhandled: whether the rate limit certainly refused the request before it was handled. A
            503 may come from a server that is down, or from a proxy whose server still handled it,
            unless it is nginx's own page.
    """

    wait: float | None
    rate: Rate | None
    unhandled: bool


def throttling(answer: Answer) -> Throttling | None:
    """Return how the request was throttled; None if it was not."""
    rate_limited = not answer.has_data and (
        answer.status == HTTPStatus.TOO_MANY_REQUESTS
        or not answer.codes.isdisjoint(_RATE_CODES)
        or answer.has_error(_RATE_LIMITED)
    )
    if not rate_limited and answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
        return None
    rate: Rate | None = None
    if match := next(filter(None, map(_RATE_TEXT.search, answer.errors)), None):
        rate = Rate(max(1, int(match[1])), max(1, int(match[2])) / 1000)
    elif rate_limited and answer.rate_limit:
        rate = Rate(answer.rate_limit, _MINUTE)
    wait = answer.retry_after
    if wait is None:
        wait = next(_stated_waits(answer), None)
    return Throttling(wait, rate, rate_limited or bool(_NGINX_BUSY.match(answer.excerpt)))


def _stated_waits(answer: Answer) -> Iterator[float]:
    """Yield the waits in a body, in seconds: REST states seconds, GraphQL milliseconds."""
    for holder in answer.code_holders:
        for name, unit in (("retryAfterSeconds", 1.0), ("retryAfterMs", 0.001)):
            stated = holder.get(name)
            if isinstance(stated, (int, float)) and stated >= 0:
                yield min(stated, _MAX_RETRY_AFTER / unit) * unit


def generation_of(answer: Answer) -> Generation | None:
    """Return the generation that answers legacy's list of keys like this; None if neither does.

    Legacy has `data.apiKeys` (legacy-0.60 `910-list-detect`), core a bare array (1.10 and 2.21
    `911-list-detect`) or a page of one (about 2.4x, not recorded).
    """
    if not answer.ok:
        return None
    if answer.result("apiKeys") is not None:
        return "legacy"
    entries = answer.body.get("data") if isinstance(answer.body, dict) else answer.body
    return "core" if isinstance(entries, list) else None


def lacks_list(answer: Answer) -> bool:
    """Return whether the server does not know the path of a list (core-1 `072`, `220`)."""
    return answer.status == HTTPStatus.NOT_FOUND or answer.has_error(
        ("object 'apiKeys' not found",)
    )


def refuses_several(answer: Answer) -> bool:
    """Return whether the server runs one field of a name in a document, so it ran none.

    2.x does (core-2.21 `165` to `173`, `A02-gql-mint-aliases-2`).
    """
    return answer.has_error(("Duplicate root resolver",))


def session_ended(answer: Answer) -> bool:
    """Return whether the credential was refused as expired or unknown, before anything was done."""
    return not answer.has_data and (
        answer.status == HTTPStatus.UNAUTHORIZED
        or "UNAUTHENTICATED" in answer.codes
        or answer.has_error(("Token has expired.",))
    )


class _Meaning(TypedDict, total=False):
    """One meaning of an answer that is not a success, an entry of `meanings.json`.

    Attributes:
        texts: beginnings of error texts with this meaning in every recorded version.
        codes: error codes with this meaning.
        problem: the rest of a sentence that begins with the name of the environment.
    """

    texts: list[str]
    codes: list[str]
    problem: Required[str]
    remedy: Required[str]


_MEANINGS: dict[Code, _Meaning] = {
    Code(code): meaning
    for code, meaning in json.loads(
        Path(__file__).with_name("meanings.json").read_text("ascii")
    ).items()
}
"""The meanings of failed answers (docs/twenty-api.md, "Errors"), in the order of precedence."""


def refusal_code(answer: Answer) -> Code:
    """Return why an answer is not a success; texts and codes count before statuses."""
    throttle = throttling(answer)
    if throttle is not None and throttle.unhandled:
        return Code.RATE_LIMITED
    if answer.status == HTTPStatus.PAYMENT_REQUIRED:
        return Code.CREDITS_SPENT
    codes = answer.codes
    for code, meaning in _MEANINGS.items():
        if answer.has_error(tuple(meaning.get("texts", ()))) or codes & {*meaning.get("codes", ())}:
            return code
    if session_ended(answer):
        return Code.CREDENTIAL_INVALID
    if answer.server_failed:
        return Code.SERVER_ERROR
    too_large = answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return Code.REJECTED if too_large or answer.errors else Code.UNEXPECTED_ANSWER


def is_transient(answer: Answer) -> bool:
    """Return whether a read may be sent again, because the server itself failed.

    GraphQL sends 200 and `INTERNAL_SERVER_ERROR` for errors that REST answers with 500.
    """
    failed = answer.ok and "INTERNAL_SERVER_ERROR" in answer.codes
    return answer.lost or (failed and refusal_code(answer) == Code.REJECTED)


def explain(environment: str, answer: Answer, *, quoted: bool = True) -> Failure:
    """Return what an answer that is not a success means, without any secret that it may echo.

    Args:
        environment: its name.
        answer: of its server.
        quoted: whether the message may quote the server.
    """
    code = refusal_code(answer)
    problem, remedy = _MEANINGS[code]["problem"], _MEANINGS[code]["remedy"]
    if code == Code.SANDBOX_UNUSABLE and len(answer.errors) > 1:
        return Failure(code, f"{environment}: {answer.errors[0]}", answer.errors[1])
    if answer.location is not None:
        problem = f"redirects to {answer.location}, which is not followed ({answer.status})"
        remedy = "Set `url` to the final address."
        if answer.leaves_host:
            problem += ": another host is usually the login page of a proxy"
            remedy = "Set `headers` to what the proxy asks for, or `url` if Twenty has moved."
        return Failure(code, f"{environment} {problem}.", remedy)
    if code == Code.REJECTED and answer.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        problem = "or a proxy in front of it does not accept requests of this size"
        remedy = "Raise the limit (nginx: client_max_body_size)."
    detail = f"{answer.status}: {answer.quote}" if quoted else f"{answer.status}"
    return Failure(code, f"{environment} {problem} ({detail}).", remedy)
