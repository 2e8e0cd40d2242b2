"""Tokens are parsed without trust: an intact one has claims, and no input raises."""

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
CLAIM_VALUES = {"sub": WORKSPACE, "workspaceId": WORKSPACE, "type": "API_KEY", "jti": KEY}
LENGTHS = {"HS256": 43, "HS384": 64, "HS512": 86, "ES256": 86}
ALGORITHMS = pytest.mark.parametrize("algorithm", LENGTHS)


@pytest.fixture(autouse=True, scope="module")
def fresh_secrets() -> Iterator[None]:
    """Restore the known secrets: those of this module are parts of many texts of other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secret, "_KNOWN", secret._Known())
        yield


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(claims: Any, algorithm: str = "HS256", signature: str | None = None) -> str:
    signed = "x" * LENGTHS.get(algorithm, 40) if signature is None else signature
    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims)}.{signed}"


def claims_in(text: str) -> TokenClaims | None:
    return claims_of(Secret(text))


@ALGORITHMS
def test_a_token_has_claims_for_workspace_key_kind_and_expiry(algorithm: str) -> None:
    """The algorithm that Twenty signed it with makes no difference."""
    timestamp = int(END.timestamp())
    found = claims_in(token(CLAIM_VALUES | {"exp": timestamp, "iat": timestamp - 9}, algorithm))
    issued = END - timedelta(seconds=9)
    assert found == TokenClaims(
        workspace=WORKSPACE, key=KEY, kind="API_KEY", expires_at=END, issued_at=issued
    )


@pytest.mark.parametrize(("kid", "expected"), [("a", "a"), (None, None), (7, None), (["a"], None)])
def test_the_header_names_the_signing_key(kid: Any, expected: str | None) -> None:
    """Tokens of the newest servers do; anything but a text is no name."""
    header = {"alg": "HS256", "typ": "JWT", "kid": kid}
    found = claims_in(f"{part(header)}.{part(CLAIM_VALUES)}.{'x' * 43}")
    assert found is not None
    assert found.signing_key == expected


@ALGORITHMS
def test_a_truncated_token_has_no_claims(algorithm: str) -> None:
    """A token in a sink is invalid if any character is missing or added."""
    whole = token(CLAIM_VALUES, algorithm)
    assert claims_in(whole) is not None
    assert [end for end in range(len(whole)) if claims_in(whole[:end]) is not None] == []
    assert claims_in(whole + "x") is None


def test_a_signature_of_an_unknown_algorithm_may_have_any_length_except_zero() -> None:
    """A later Twenty may sign in another way; without a signature it is not a token."""
    assert claims_in(token(CLAIM_VALUES, "EdDSA", "xy")) is not None
    assert claims_in(token(CLAIM_VALUES, "none", "")) is None
    assert claims_in(f"{part({'typ': 'JWT'})}.{part(CLAIM_VALUES)}.abc") is not None
    assert claims_in(f"{part({'alg': ['HS256']})}.{part(CLAIM_VALUES)}.abc") is not None


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
        f"{part({})}.{part(CLAIM_VALUES)}",
        f"{part({})}.{part(CLAIM_VALUES)}.",
        f"{part({})}.{part(CLAIM_VALUES)}.a.b",
        f"{part({})}.{part(CLAIM_VALUES)}.a b",
        f"{part({})}.{part(CLAIM_VALUES)}.abc\n",
        f"{part({})}.{part(CLAIM_VALUES)}.\u00e9",
        f"\u00e9.{part(CLAIM_VALUES)}.abc",
        f"\ud800.{part(CLAIM_VALUES)}.abc",
        f"{part({})}.\ud800.abc",
        f"{part(b'{{')}.{part(CLAIM_VALUES)}.abc",
        f"{part({})}.{part(b'{{')}.abc",
        f"{part(b'')}.{part(CLAIM_VALUES)}.abc",
        f"{part({})}.{part(bytes([0xFF, 0xFE, 0x80]))}.abc",
        f"A.{part(CLAIM_VALUES)}.abc",
        f"{part({})}.{part(CLAIM_VALUES)}..abc",
        f"{part({})}..{part(CLAIM_VALUES)}.abc",
        f"{part({})}.{part(CLAIM_VALUES)}=.abc",
        f"Bearer {part({})}.{part(CLAIM_VALUES)}",
    ],
)
def test_an_invalid_token_has_no_claims(text: str) -> None:
    """Junk, and broken, missing or surplus parts give no claims."""
    assert claims_in(text) is None


@ALGORITHMS
@pytest.mark.parametrize("stray", ["\n", " ", "*", ".", "=", "\u00e9"])
def test_a_token_with_a_stray_character_has_no_claims(algorithm: str, stray: str) -> None:
    """A server would refuse it, for example a token that was wrapped into lines."""
    whole = token(CLAIM_VALUES, algorithm)
    modified = (whole[:at] + stray + whole[at:] for at in range(len(whole) + 1))
    assert [text for text in modified if claims_in(text) is not None] == []


@pytest.mark.parametrize("value", [None, True, 7, "text", [CLAIM_VALUES], [[CLAIM_VALUES]]])
def test_a_part_that_is_not_an_object_makes_the_token_invalid(value: Any) -> None:
    """This applies to the header and to the claims."""
    assert claims_in(f"{part(value)}.{part(CLAIM_VALUES)}.abc") is None
    assert claims_in(f"{part({})}.{part(value)}.abc") is None


def test_a_part_that_is_nested_too_deeply_makes_the_token_invalid() -> None:
    """The value of a sink never causes a recursion error."""
    deep = b"[" * 100_000 + b"]" * 100_000
    for nested in (deep, b'{"a":' + deep + b"}"):
        assert claims_in(f"{part({})}.{part(nested)}.abc") is None
        assert claims_in(f"{part(nested)}.{part(CLAIM_VALUES)}.abc") is None


@pytest.mark.parametrize(
    ("written", "expires_at"),
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
def test_an_expiry_that_is_not_a_number_or_beyond_the_calendar_is_none(
    written: str, expires_at: datetime | None
) -> None:
    """Twenty's `never` is 100 years; a token without a readable expiry never expires."""
    assert int(END.timestamp()) == 1803182400
    claims = json.dumps(CLAIM_VALUES)[:-1] + f', "exp": {written}}}'
    found = claims_in(f"{part({})}.{part(claims.encode())}.abc")
    assert found is not None
    assert (found.expires_at, found.key) == (expires_at, KEY)


def test_a_number_that_python_refuses_to_parse_makes_the_token_invalid() -> None:
    """Nobody signs JSON with numbers of thousands of digits."""
    claims = '{"exp": 1' + "0" * 5000 + "}"
    assert claims_in(f"{part({})}.{part(claims.encode())}.abc") is None


def test_missing_claims_are_none() -> None:
    """Claims that are missing or not a text are None."""
    nothing = TokenClaims(workspace=None, key=None, kind=None, expires_at=None, issued_at=None)
    assert claims_in(token({})) == nothing
    assert claims_in(token({"workspaceId": 1, "jti": [KEY], "type": {}, "exp": None})) == nothing


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
CLAIMS = st.dictionaries(st.sampled_from([*CLAIM_VALUES, "exp", "alg"]), JSON)


@given(st.text(st.characters()) | st.text("eyJ.=-_ \n"))
def test_no_text_raises(text: str) -> None:
    """Any text in a sink is either a token or not."""
    found = claims_in(text)
    assert found is None or text.count(".") == 2


@given(header=CLAIMS | JSON, claims=CLAIMS | JSON, signature=st.text(max_size=90))
def test_no_claims_raise(header: Any, claims: Any, signature: str) -> None:
    """Only two objects and a signature are a token; its claims are texts or None."""
    found = claims_in(f"{part(header)}.{part(claims)}.{signature}")
    if found is not None:
        assert isinstance(header, dict)
        assert isinstance(claims, dict)
        assert signature
        texts = [claims.get(name) for name in ("workspaceId", "jti", "type")]
        expected = [one if isinstance(one, str) else None for one in texts]
        assert [found.workspace, found.key, found.kind] == expected


@ALGORITHMS
@given(data=st.data())
def test_the_claims_are_those_that_were_signed(algorithm: str, data: st.DataObject) -> None:
    """This holds for every key, workspace, kind and time, and only for the whole token."""
    texts = st.text(st.characters(codec="utf-8"))
    timestamp = data.draw(st.integers(0, 253402300799))
    claims = data.draw(st.fixed_dictionaries(dict.fromkeys(("workspaceId", "jti", "type"), texts)))
    whole = token(claims | {"exp": timestamp, "iat": timestamp}, algorithm)
    expires_at = datetime.fromtimestamp(timestamp, UTC)
    assert claims_in(whole) == TokenClaims(
        claims["workspaceId"], claims["jti"], claims["type"], expires_at, expires_at
    )
    assert claims_in(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
