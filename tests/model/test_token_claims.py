"""A token is read without trust: what is whole says what it is for, and nothing raises."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from builders import END
from hypothesis import given
from hypothesis import strategies as st

from provisioner import secret
from provisioner.model.token_claims import TokenClaims, claims_of
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.fast

KEY = "2f1c5a3e-7d0b-4b53-8d6c-0a9b1c2d3e4f"
WORKSPACE = "20202020-1c25-4d02-bf25-6aeccf7ea419"
SAID = {"sub": WORKSPACE, "workspaceId": WORKSPACE, "type": "API_KEY", "jti": KEY}
LENGTHS = {"HS256": 43, "HS384": 64, "HS512": 86, "ES256": 86}
ALGORITHMS = pytest.mark.parametrize("algorithm", LENGTHS)


@pytest.fixture(autouse=True, scope="module")
def forgotten() -> Iterator[None]:
    """What is wrapped here is masked in no other test: much of it is part of every text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secret, "_KNOWN", secret._Known())
        yield


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(claims: Any, algorithm: str = "HS256", signature: str | None = None) -> str:
    sealed = "x" * LENGTHS.get(algorithm, 40) if signature is None else signature
    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims)}.{sealed}"


def said(text: str) -> TokenClaims | None:
    return claims_of(Secret(text))


@ALGORITHMS
def test_a_token_says_its_workspace_its_key_its_kind_and_its_end(algorithm: str) -> None:
    """Whatever algorithm of Twenty signed it, HS256 as well as ES256."""
    moment = int(END.timestamp())
    found = said(token(SAID | {"exp": moment, "iat": moment - 9}, algorithm))
    issued = END - timedelta(seconds=9)
    assert found == TokenClaims(
        workspace=WORKSPACE, key=KEY, kind="API_KEY", expires_at=END, issued_at=issued
    )


@ALGORITHMS
def test_a_token_that_was_cut_short_anywhere_says_nothing(algorithm: str) -> None:
    """Half a token in a sink is no token of its key, however little is missing, nor is more."""
    whole = token(SAID, algorithm)
    assert said(whole) is not None
    assert [end for end in range(len(whole)) if said(whole[:end]) is not None] == []
    assert said(whole + "x") is None


def test_a_signature_of_an_algorithm_that_is_not_known_may_have_any_length_but_none() -> None:
    """A later Twenty may sign in another way; without any signature it is no token."""
    assert said(token(SAID, "EdDSA", "xy")) is not None
    assert said(token(SAID, "none", "")) is None
    assert said(f"{part({'typ': 'JWT'})}.{part(SAID)}.abc") is not None
    assert said(f"{part({'alg': ['HS256']})}.{part(SAID)}.abc") is not None


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "junk",
        "not-a-token-at-all",
        "abc.def.ghi",
        f"{part({})}.{part(SAID)}",
        f"{part({})}.{part(SAID)}.",
        f"{part({})}.{part(SAID)}.a.b",
        f"{part({})}.{part(SAID)}.a b",
        f"{part({})}.{part(SAID)}.abc\n",
        f"{part({})}.{part(SAID)}.\u00e9",
        f"\u00e9.{part(SAID)}.abc",
        f"\ud800.{part(SAID)}.abc",
        f"{part({})}.\ud800.abc",
        f"{part(b'{{')}.{part(SAID)}.abc",
        f"{part({})}.{part(b'{{')}.abc",
        f"{part(b'')}.{part(SAID)}.abc",
        f"{part({})}.{part(bytes([0xFF, 0xFE, 0x80]))}.abc",
        f"A.{part(SAID)}.abc",
        f"{part({})}.{part(SAID)}..abc",
        f"{part({})}..{part(SAID)}.abc",
        f"{part({})}.{part(SAID)}=.abc",
        f"Bearer {part({})}.{part(SAID)}",
    ],
)
def test_what_is_no_token_says_nothing(text: str) -> None:
    """Junk, broken parts, missing and surplus ones."""
    assert said(text) is None


@ALGORITHMS
@pytest.mark.parametrize("stray", ["\n", " ", "*", ".", "=", "\u00e9"])
def test_a_token_with_a_stray_sign_anywhere_says_nothing(algorithm: str, stray: str) -> None:
    """As one that was wrapped into lines: no server takes it, so it is not whole."""
    whole = token(SAID, algorithm)
    spoilt = (whole[:at] + stray + whole[at:] for at in range(len(whole) + 1))
    assert [text for text in spoilt if said(text) is not None] == []


@pytest.mark.parametrize("value", [None, True, 7, "text", [SAID], [[SAID]]])
def test_a_part_that_is_no_object_makes_no_token(value: Any) -> None:
    """In the place of the header as well as of the claims."""
    assert said(f"{part(value)}.{part(SAID)}.abc") is None
    assert said(f"{part({})}.{part(value)}.abc") is None


def test_a_part_that_is_nested_too_deep_makes_no_token() -> None:
    """No recursion error comes out of what someone put into a sink."""
    deep = b"[" * 100_000 + b"]" * 100_000
    for nested in (deep, b'{"a":' + deep + b"}"):
        assert said(f"{part({})}.{part(nested)}.abc") is None
        assert said(f"{part(nested)}.{part(SAID)}.abc") is None


@pytest.mark.parametrize(
    ("written", "ends"),
    [
        ("1", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ("1803182400", END),
        ("1803182400.0", END),
        ("253402300799", datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("253402300800", None),
        ("-1e300", None),
        ("1e400", None),
        ("-1e400", None),
        ("NaN", None),
        ("1" + "0" * 400, None),
        ("null", None),
        ('"1803182400"', None),
        ("[1]", None),
    ],
)
def test_an_end_beyond_the_calendar_is_none_and_so_is_one_that_is_no_number(
    written: str, ends: datetime | None
) -> None:
    """Twenty's `never` is 100 years; a token without an end that can be told never ends."""
    assert int(END.timestamp()) == 1803182400
    claims = json.dumps(SAID)[:-1] + f', "exp": {written}}}'
    found = said(f"{part({})}.{part(claims.encode())}.abc")
    assert found is not None
    assert (found.expires_at, found.key) == (ends, KEY)


def test_a_number_that_python_refuses_to_read_makes_no_token() -> None:
    """Thousands of digits are no JSON that anyone signed."""
    claims = '{"exp": 1' + "0" * 5000 + "}"
    assert said(f"{part({})}.{part(claims.encode())}.abc") is None


def test_a_token_without_claims_of_a_key_says_so() -> None:
    """Claims that are missing, or no text, are None."""
    nothing = TokenClaims(workspace=None, key=None, kind=None, expires_at=None, issued_at=None)
    assert said(token({})) == nothing
    assert said(token({"workspaceId": 1, "jti": [KEY], "type": {}, "exp": None})) == nothing


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
CLAIMS = st.dictionaries(st.sampled_from([*SAID, "exp", "alg"]), JSON)


@given(st.text(st.characters()) | st.text("eyJ.=-_ \n"))
def test_no_text_makes_it_raise(text: str) -> None:
    """Whatever stands in a sink, it is a token or it is none."""
    found = said(text)
    assert found is None or text.count(".") == 2


@given(header=CLAIMS | JSON, claims=CLAIMS | JSON, signature=st.text(max_size=90))
def test_no_claims_make_it_raise(header: Any, claims: Any, signature: str) -> None:
    """Only two objects and a signature are a token; its claims are text or nothing."""
    found = said(f"{part(header)}.{part(claims)}.{signature}")
    if found is not None:
        assert isinstance(header, dict)
        assert isinstance(claims, dict)
        assert signature
        texts = [claims.get(name) for name in ("workspaceId", "jti", "type")]
        expected = [one if isinstance(one, str) else None for one in texts]
        assert [found.workspace, found.key, found.kind] == expected


@ALGORITHMS
@given(data=st.data())
def test_what_a_token_says_is_what_was_signed(algorithm: str, data: st.DataObject) -> None:
    """For every key, workspace, kind and moment, cut to whole tokens."""
    texts = st.text(st.characters(codec="utf-8"))
    moment = data.draw(st.integers(0, 253402300799))
    claims = data.draw(st.fixed_dictionaries(dict.fromkeys(("workspaceId", "jti", "type"), texts)))
    whole = token(claims | {"exp": moment, "iat": moment}, algorithm)
    ends = datetime.fromtimestamp(moment, UTC)
    assert said(whole) == TokenClaims(
        claims["workspaceId"], claims["jti"], claims["type"], ends, ends
    )
    assert said(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
