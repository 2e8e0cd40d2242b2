"""Secrets are masked in all output."""

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


def test_a_secret_is_only_visible_when_revealed() -> None:
    """Printing or formatting it, a dataclass with it and an error about it show a mask."""
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


def test_secrets_are_equal_if_their_values_are() -> None:
    """Two environments with one password share its check."""
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
    assert Secret("a") != "a"


def _encodings(value: str) -> dict[str, str]:
    """Return a value in the encodings of requests, logs and tracebacks."""
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
def test_a_secret_is_masked_in_every_encoding(value: str, beside: str) -> None:
    """No encoding of a secret survives in a masked text, but the surrounding text does."""
    Secret(value)
    for name, encoded in _encodings(value).items():
        shown = masked(f"{beside} <{encoded}> {beside}")
        assert encoded not in shown, name
        assert MASK in shown, name


@pytest.mark.parametrize("max_scanned_forms", [0, 200])
@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=4, max_size=9), max_size=4))
def test_only_secrets_are_masked(max_scanned_forms: int, text: str, values: list[str]) -> None:
    """Other text is unchanged, even between overlapping secrets, for few secrets or many."""
    known = _Known(max_scanned_forms)
    for value in values:
        known.add(value)
    secret = {
        place
        for value in values
        for start in range(len(text))
        if text.startswith(value, start)
        for place in range(start, start + len(value))
    }
    kept = "".join(char for place, char in enumerate(text) if place not in secret)
    assert known.mask(text, 4).replace(MASK, "") == kept


@pytest.mark.parametrize("scheme", ["Bearer", "basic", "Token"])
def test_a_secret_is_masked_without_its_scheme(scheme: str) -> None:
    """A server may echo only the value of a header."""
    Secret(f"{scheme} {scheme}-canary-1f2e")
    assert masked(f"unknown token {scheme}-canary-1f2e") == f"unknown token {MASK}"


def test_a_short_secret_is_not_masked_in_data() -> None:
    """It could be a common word; a long secret in the same text is masked."""
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
def test_a_value_from_outside_is_only_masked_if_it_is_a_token(value: str) -> None:
    """Otherwise a server could choose which text the reports hide."""
    secret = Secret.received(value)
    assert secret.reveal() == value
    assert value not in repr(secret)
    assert masked(f"a {value} b") == f"a {value} b"


def test_a_token_from_outside_is_masked() -> None:
    """It is masked like any other secret."""
    token = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJjYW5hcnkifQ.c2lnbmF0dXJl"
    Secret.received(token)
    assert masked(f"a {token} b") == f"a {MASK} b"


def test_each_string_of_a_document_is_masked_on_its_own() -> None:
    """No secret can change the structure of a document."""
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
