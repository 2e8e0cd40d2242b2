"""What a server's answer means, read from its texts and codes rather than from its status.

Twenty says the same thing with different statuses in different versions, and GraphQL says
nearly everything with 200 (docs/twenty-api.md, "Errors").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from provisioner.http_client.bounded import json_of
from provisioner.secret import MASK, masked
from provisioner.twenty.rate_limit import Rate

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from provisioner.http_client.bounded import Json

_QUOTED = 300
_SEARCHED = 8192
_MOST_ERRORS = 100
"""Error texts of one answer that anyone looks at: more than any document of ours has parts."""

_VALUES_OF_A_LIST = 1_000_000
"""Values of a list of 100 000 keys, the most that one may have, and of the keys of their roles."""

_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)*")
"""How every token of Twenty begins, also one that was cut short or is not ours."""

_LONGEST = 1e9
_MINUTE = 60.0
_LIMIT_TEXT = re.compile(r"Limit reached \(([0-9]{1,9}) tokens per ([0-9]{1,9}) ms\)")
_THROTTLED_TEXTS = ("Limit reached", "Too many requests")
_NGINX_BUSY = re.compile(
    r"<html>\s*<head><title>503 Service Temporarily Unavailable</title></head>\s*<body[^>]*>\s*"
    r"<center><h1>503 Service Temporarily Unavailable</h1></center>\s*"
    r"<hr><center>(nginx|openresty)(/[0-9.]+)?</center>"
)
"""The page that nginx makes itself where `limit_req` refuses, before it asks Twenty (not recorded).

What Twenty answers with 503 is passed on as it is, and a server that is gone is a 502 or 504.
"""

_NOT_FOR_PEOPLE = re.compile(
    r"<(?:!doctype|!--|\?xml|/?(?:html|head|title|body|center|div|h[1-6]|p|pre|span|br|hr|script))\b"
    r"|Traceback \(most recent call last\)"
    r"|(?:(?<=\s)|(?<=\\n))at (?:async |new )*(?:"
    r"[^\s()]*(?: \[as \w+\])? ?\([^\s()]*:[0-9]+(?::[0-9]+)?\)"
    r"|(?:file:|node:|/)\S*:[0-9]+:[0-9]+)",
    re.IGNORECASE,
)
"""Where a page of HTML or a stack trace begins: of JavaScript, Java or Python."""
_STATUS_OK = 200
_STATUS_UNAUTHORIZED = 401
_STATUS_TOO_LARGE = 413
_STATUS_TOO_MANY = 429
_STATUS_UNAVAILABLE = 503
_SERVER_ERRORS = 500
_REQUEST_TIMEOUT = 408

# Texts that stand for one meaning in every recorded version (docs/twenty-api.md, "Errors").
_NO_CREDENTIAL = ("Missing authentication token", "Forbidden resource")
_EXPIRED = ("Token has expired.", "This API Key is expired")
_REVOKED = ("This API Key is revoked",)
_INVALID = ("Token invalid.", "No payload")
_SESSION_NEEDED = (
    "This endpoint requires a session access token",
    "This endpoint is not available to this caller",
)
_SANDBOX_UNUSABLE = "SANDBOX_UNUSABLE"
"""Said by the embedded Twenty alone, with one text of what is wrong and one of what to do."""

_NO_PERMISSION = (
    "Entity performing the request does not have permission",
    "User does not have permission",
)


class NotJson:
    """The body is not JSON: HTML from a proxy, nothing at all, or cut short."""

    def __repr__(self) -> str:
        return "UNREADABLE"


NOT_JSON = NotJson()


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer of a server.

    Attributes:
        body: the decoded JSON, or UNREADABLE.
        excerpt: the beginning of the body as text without control characters and secrets.
        moment: the server's `Date`, to the second, where it sent one.
        ahead: how far that was ahead of our clock when it came, to the second.
        retry_after: seconds that the server asks to wait, where it does.
        limit: requests a minute that the server says it allows, where it does.
        took: seconds from when the request left until the answer was whole.
        location: where a redirect points.
    """

    status: int
    body: Json | NotJson
    excerpt: str
    moment: datetime | None = None
    ahead: timedelta | None = None
    retry_after: float | None = None
    limit: int | None = None
    took: float = 0.0
    location: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is a success."""
        return _STATUS_OK <= self.status < 300  # noqa: PLR2004 - the end of the 2xx range

    @property
    def server_failed(self) -> bool:
        """Whether the server itself, or a proxy in front of it, gave up."""
        return self.status >= _SERVER_ERRORS or self.status == _REQUEST_TIMEOUT

    @property
    def lost(self) -> bool:
        """Whether what the request came to is not in it: a failed server, or no JSON."""
        return self.server_failed or (self.ok and self.body is NOT_JSON)

    @property
    def errors(self) -> tuple[str, ...]:
        """The error texts in the body, whatever shape they have."""
        body = self.body
        if isinstance(body, str):
            return (_said(body),)
        if not isinstance(body, dict):
            return ()
        if isinstance(found := body.get("errors"), list):
            return tuple(
                _said(entry.get("message") if isinstance(entry, dict) else None)
                for entry in found[:_MOST_ERRORS]
            )
        if self.ok:
            return ()
        messages = body.get("messages")
        texts = messages if isinstance(messages, list) else [body.get("message")]
        return tuple(_said(text) for text in texts[:_MOST_ERRORS] if text)

    @property
    def codes(self) -> frozenset[str]:
        """The error codes in the body: `code`, `error` and GraphQL's `extensions`."""
        found: set[str] = set()
        if isinstance(self.body, dict):
            holders: list[Json] = [self.body]
            if isinstance(entries := self.body.get("errors"), list):
                few = entries[:_MOST_ERRORS]
                holders += [e.get("extensions") for e in few if isinstance(e, dict)]
            for holder in holders:
                if isinstance(holder, dict):
                    values = (holder.get(name) for name in ("code", "subCode", "error"))
                    found.update(value for value in values if isinstance(value, str))
        return frozenset(found)

    @property
    def data(self) -> dict[str, Json] | None:
        """GraphQL's `data`, or None where it is missing or null."""
        data = self.body.get("data") if isinstance(self.body, dict) else None
        return data if isinstance(data, dict) else None

    @property
    def begun(self) -> bool:
        """Whether GraphQL began to carry out the document: only then is there any `data`, or null.

        What is refused before has none (`135`, `165` of core-2.21; `185` of core-1 has null).
        """
        return isinstance(self.body, dict) and "data" in self.body

    @property
    def holds_data(self) -> bool:
        """Whether GraphQL gave any data, so that something was done whatever the errors say."""
        return any(value is not None for value in (self.data or {}).values())

    @property
    def too_large(self) -> bool:
        """Whether a proxy or the server took the request for too large, before it handled it."""
        return self.status == _STATUS_TOO_LARGE

    def says(self, texts: tuple[str, ...]) -> bool:
        """Whether one of the error texts begins like one of these."""
        return any(error.startswith(texts) for error in self.errors)

    @property
    def quote(self) -> str:
        """The server's own words, short and without secrets, for a message to people."""
        texts = self.errors or ((self.excerpt,) if self.excerpt else ())
        words = shown("; ".join(_readable(text) for text in texts)) or "no body"
        return words if len(words) <= _QUOTED else words[:_QUOTED] + "…"


def clean(text: str) -> str:
    """Text of a server without line breaks, control characters and terminal escapes."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


def decode(raw: bytes, *, long: bool = False) -> tuple[Json | NotJson, str]:
    """Return a body's JSON, or UNREADABLE, and the beginning of its text.

    Args:
        raw: the body.
        long: whether it may list all keys of a workspace.
    """
    excerpt = shown(clean(raw[: _SEARCHED + 1].decode("utf-8", "replace")))[:_QUOTED]
    try:
        body: Json = json_of(raw, _VALUES_OF_A_LIST) if long else json_of(raw)
    except ValueError:
        return NOT_JSON, excerpt
    return body, excerpt


def _readable(text: str) -> str:
    """Return what stands before a page of HTML or a stack trace, or which of the two it is."""
    found = _NOT_FOR_PEOPLE.search(text)
    if found is None:
        return text
    kind = "a page of HTML" if found[0].startswith("<") else "a stack trace"
    return text[: found.start()].rstrip() or kind


def _said(text: Json) -> str:
    """An error's text, as much of it as may ever be shown."""
    return clean(text[: _SEARCHED + 1]) if isinstance(text, str) else "an error without a text"


def shown(text: str) -> str:
    """The beginning of a server's text without secrets, which may fill all of it.

    What is cut off may be the other half of a secret, and the half before it is not known as one:
    so of a text that is cut, the last part is not shown either.
    """
    begun = _TOKEN.sub(MASK, masked(text[:_SEARCHED]))
    return begun if len(text) <= _SEARCHED else begun[: -_SEARCHED // 2]


@dataclass(frozen=True, slots=True)
class Throttling:
    """A refusal of a request for its speed.

    Attributes:
        wait: seconds that the server asks for, where it does.
        rate: what the server says that it allows, where it does.
        unhandled: whether the request was certainly refused before it was handled. A 503 may
            come from a proxy whose server went on with it, unless it is nginx's own page.
        for_speed: whether it was refused for its speed, which a 503 does not say for certain.
    """

    wait: float | None
    rate: Rate | None
    unhandled: bool
    for_speed: bool = True


def throttling(answer: Answer) -> Throttling | None:
    """How the request was refused for its speed, or None where it was not."""
    for_speed = not answer.holds_data and (
        answer.status == _STATUS_TOO_MANY
        or "LIMIT_REACHED" in answer.codes
        or answer.says(_THROTTLED_TEXTS)
    )
    if not for_speed and answer.status != _STATUS_UNAVAILABLE:
        return None
    of_nginx = not for_speed and _NGINX_BUSY.match(answer.excerpt) is not None
    unhandled = for_speed or of_nginx
    found = next(filter(None, (_LIMIT_TEXT.search(text) for text in answer.errors)), None)
    rate: Rate | None = None
    if found:
        rate = Rate(max(1, int(found[1])), max(1, int(found[2])) / 1000)
    elif for_speed and answer.limit:
        rate = Rate(answer.limit, _MINUTE)
    wait = answer.retry_after
    if wait is None and isinstance(answer.body, dict):
        seconds = answer.body.get("retryAfterSeconds")
        if isinstance(seconds, (int, float)) and seconds >= 0:
            wait = float(min(seconds, _LONGEST))
    return Throttling(wait, rate, unhandled, for_speed=for_speed or of_nginx)


def session_ended(answer: Answer) -> bool:
    """Whether the credential was refused as expired or unknown, before anything was done."""
    return not answer.holds_data and (
        answer.status == _STATUS_UNAUTHORIZED
        or "UNAUTHENTICATED" in answer.codes
        or answer.says(("Token has expired.",))
    )


RefusalCode = Literal[
    "credential_missing",
    "credential_expired",
    "credential_revoked",
    "credential_invalid",
    "session_required",
    "permission_denied",
    "rate_limited",
    "server_error",
    "unexpected_answer",
    "rejected",
    "sandbox_unusable",
]


_SAID: tuple[tuple[tuple[str, ...], RefusalCode], ...] = (
    (_NO_CREDENTIAL, "credential_missing"),
    (_EXPIRED, "credential_expired"),
    (_REVOKED, "credential_revoked"),
    (_SESSION_NEEDED, "session_required"),
)


def refusal_code(answer: Answer) -> RefusalCode:  # noqa: PLR0911 - one line for each meaning
    """Why an answer that is no success is none; texts and codes before statuses."""
    slow = throttling(answer)
    if slow is not None and slow.unhandled:
        return "rate_limited"
    if _SANDBOX_UNUSABLE in answer.codes:
        return "sandbox_unusable"
    for texts, code in _SAID:
        if answer.says(texts):
            return code
    if "PERMISSION_DENIED" in answer.codes or answer.says(_NO_PERMISSION):
        return "permission_denied"
    if answer.says(_INVALID) or session_ended(answer):
        return "credential_invalid"
    if answer.server_failed:
        return "server_error"
    if answer.errors or answer.too_large:
        return "rejected"
    return "unexpected_answer"


def may_pass(answer: Answer) -> bool:
    """Whether what changes nothing may be sent again, because the server stumbled over itself.

    GraphQL says with 200 and `INTERNAL_SERVER_ERROR` what REST says with 500.
    """
    stumbled = answer.ok and "INTERNAL_SERVER_ERROR" in answer.codes
    return answer.lost or (stumbled and refusal_code(answer) == "rejected")


_ADVICE: dict[RefusalCode, tuple[str, str]] = {
    "credential_missing": (
        "got no credential from this request",
        "Check whether a proxy in front removes the Authorization header",
    ),
    "credential_expired": (
        "says that the credential has expired",
        "Put a new token into the variable or file that `auth` names",
    ),
    "credential_revoked": (
        "says that the API key of this credential is revoked",
        "Put the token of a live key into the variable or file that `auth` names",
    ),
    "credential_invalid": (
        "does not accept the credential",
        "Check that the variable or file that `auth` names holds a token of this very workspace",
    ),
    "session_required": (
        "lets only a signed-in user do this, not an API key",
        "Give `auth` an email and a password, or a session_token",
    ),
    "permission_denied": (
        "does not permit this to the role of the credential",
        "Give that role the permissions for API keys and webhooks and for roles",
    ),
    "rate_limited": (
        "goes on refusing requests for their speed",
        "Write limits.requests_per_minute for this environment, or run again later",
    ),
    "server_error": ("failed", "Run again; if it stays, look into the server's log"),
    "unexpected_answer": (
        "answered with something that Twenty does not say",
        "Check that `url` is the address of Twenty itself and that no proxy answers in its place",
    ),
    "sandbox_unusable": ("cannot use its file", "Free that file and run again"),
    "rejected": ("rejected the request", "The words in brackets are the server's own"),
}


def explain(environment: str, answer: Answer, words: str) -> tuple[RefusalCode, str, str]:
    """The code, what happened in which environment, and what to do about it.

    Args:
        environment: its name.
        answer: what it said.
        words: the server's own words, free of secrets, or empty to leave them out.
    """
    code = refusal_code(answer)
    happened, remedy = _ADVICE[code]
    if code == "sandbox_unusable" and len(answer.errors) > 1:
        return code, f"{environment}: {answer.errors[0]}", answer.errors[1]
    if answer.location is not None:
        happened = f"redirects to {answer.location}, which is not followed"
        remedy = "Write the final address as `url`"
    if answer.too_large:
        happened = "or a proxy in front of it takes no request of this size"
        remedy = "Raise that limit (nginx: client_max_body_size)"
    quoted = words and answer.location is None
    said = f"{answer.status}: {words}" if quoted else f"{answer.status}"
    return code, f"{environment} {happened} ({said}).", f"{remedy}."
