"""Secrets hide."""

import base64
import json
import traceback
from html import escape
from urllib.parse import quote, quote_plus

import pytest
from builders import environment_with
from hypothesis import given
from hypothesis import strategies as st

from provisioner.model.environment import ApiToken, SignIn
from provisioner.secret import MASK, Secret, _Known, masked, masked_document

pytestmark = pytest.mark.fast

CANARY = "canary-5f1c"


def test_a_secret_shows_itself_nowhere_but_when_revealed() -> None:
    """Printing, formatting, holding it in a dataclass or failing with it shows a mask."""
    secret = Secret(CANARY)
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r:>20}", "%s" % secret]  # noqa: UP031
    shown += [repr(ApiToken(secret)), repr(SignIn(secret, secret))]
    shown += [
        str(ValueError(secret)),
        repr(environment_with(name="a", url="b", headers=(("x", secret),))),
    ]
    try:
        int(secret)  # type: ignore[call-overload]
    except TypeError:
        shown.append(traceback.format_exc())
    assert not [text for text in shown if CANARY in text]
    assert secret.reveal() == CANARY


def _ways(value: str) -> dict[str, str]:
    """A value as it turns up in requests, logs and tracebacks."""
    raw = value.encode()
    return {
        "plain": value,
        "url": quote(value, safe=""),
        "path": quote(value),
        "form": quote_plus(value),
        "json": json.dumps({"token": value}),
        "json, unicode": json.dumps({"token": value}, ensure_ascii=False),
        "json in json": json.dumps(json.dumps({"token": value})),
        "repr": repr({"token": value}),
        "bytes": repr(raw),
        "basic": base64.b64encode(b"user:" + raw).decode(),
        "base64": base64.b64encode(raw).decode(),
        "base64, offset 1": base64.b64encode(b"x" + raw + b"yz").decode(),
        "HTML": escape(value),
        "XML": escape(value, quote=False),
        "HTML in ASCII": escape(value).encode("ascii", "xmlcharrefreplace").decode(),
        "references": "".join(
            char if char.isalnum() or char in " -" else f"&#{ord(char)};" for char in value
        ),
        "base64, offset 2": base64.urlsafe_b64encode(b"xy" + raw + b"z").decode(),
    }


@given(st.text(st.characters(codec="utf-8"), min_size=12, max_size=60), st.text(max_size=20))
def test_a_secret_is_masked_whatever_way_it_is_written(value: str, beside: str) -> None:
    """No way of writing a secret survives in a masked text, and the text beside it does."""
    Secret(value)
    for way, written in _ways(value).items():
        shown = masked(f"{beside} <{written}> {beside}")
        assert written not in shown, way
        assert MASK in shown, way


@pytest.mark.parametrize("few", [0, 200])
@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=4, max_size=9), max_size=4))
def test_nothing_but_secrets_is_masked(few: int, text: str, values: list[str]) -> None:
    """What is no part of a secret stays, where secrets overlap too, few of them or many."""
    known = _Known(few)
    for value in values:
        known.add(value)
    hidden = {
        place
        for value in values
        for start in range(len(text))
        if text.startswith(value, start)
        for place in range(start, start + len(value))
    }
    kept = "".join(sign for place, sign in enumerate(text) if place not in hidden)
    assert known.mask(text, 4).replace(MASK, "") == kept


@pytest.mark.parametrize("scheme", ["Bearer", "basic", "Token"])
def test_a_secret_is_known_without_the_scheme_before_it(scheme: str) -> None:
    """A server that echoes the value of a header alone tells nothing either."""
    Secret(f"{scheme} {scheme}-canary-1f2e")
    assert masked(f"unknown token {scheme}-canary-1f2e") == f"unknown token {MASK}"


def test_a_short_secret_stays_in_data() -> None:
    """A text that asks for long secrets alone keeps a short one, which may be a word of it."""
    Secret("production-9")
    Secret("production-token-0123456789")
    shown = masked("production-9 production-token-0123456789", min_length=16)
    assert shown == f"production-9 {MASK}"


FOREIGN = (
    "svc-payments-critical",
    '"environments": [',
    '"]}, {"action": "revoke", "name": "',
    "a.b.c",
    "eyJ" + "a" * 20_000 + ".b.c",
)


@pytest.mark.parametrize("value", FOREIGN)
def test_what_a_server_or_a_sink_brings_hides_nothing_but_a_token(value: str) -> None:
    """They would choose what no report shows, and break the form of those that it is a part of."""
    secret = Secret.received(value)
    assert secret.reveal() == value
    assert value not in repr(secret)
    assert masked(f"a {value} b") == f"a {value} b"


def test_a_token_that_a_server_or_a_sink_brings_is_masked() -> None:
    """As any other."""
    token = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJjYW5hcnkifQ.c2lnbmF0dXJl"
    Secret.received(token)
    assert masked(f"a {token} b") == f"a {MASK} b"


def test_a_document_is_masked_text_by_text() -> None:
    """Whatever a secret is, a document stays one, and whoever wrote it keeps its structure."""
    Secret('"], "actions": ["')
    Secret("a-secret-of-the-user")
    document = {
        "actions": ["a", 'x"], "actions": ["y', {"a-secret-of-the-user": 1.5}],
        "none": None,
        "environments": ({"name": "a-secret-of-the-user"}, True),
    }
    assert masked_document(document) == {
        "actions": ["a", f"x{MASK}y", {MASK: 1.5}],
        "none": None,
        "environments": [{"name": MASK}, True],
    }
