"""Answers of servers, compared with every recorded error and the unrecorded ones of the docs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import NOW, URL
from hypothesis import given
from hypothesis import strategies as st

from provisioner.http_client.exchange import HttpAnswer
from provisioner.twenty import transport
from provisioner.twenty.answers import (
    NOT_JSON,
    Answer,
    Throttling,
    clean,
    decode,
    explain,
    refusal_code,
    session_ended,
    throttling,
)
from provisioner.twenty.rate_limit import Rate

pytestmark = pytest.mark.fast

NGINX = (
    "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n"
    "<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n"
    "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
"""The page that nginx sends if `limit_req` refuses a request, with its default settings."""

RECORDINGS = Path(__file__).parents[1] / "recordings"


def recorded(server: str, name: str) -> Answer:
    for line in (RECORDINGS / f"{server}.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        if entry["name"] == name:
            response = entry["response"]
            return answer(response["status"], response["body"])
    raise AssertionError(f"no recording {server} {name}")


def answer(status: int, body: str = "", **fields: object) -> Answer:
    decoded, beginning = decode(body.encode())
    fields = {"size": len(body), **fields}
    return Answer(status, decoded, beginning, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server", "name", "code"),
    [
        ("legacy-0.60", "001-rest-list-noauth", "credential_missing"),
        ("legacy-0.60", "002-rest-list-garbage-token", "credential_invalid"),
        ("legacy-0.60", "004-rest-list-expired-token", "credential_expired"),
        ("legacy-0.60", "163-rest-list-revoked-token", "credential_revoked"),
        ("legacy-0.60", "127-gql-list-member", "permission_denied"),
        ("legacy-0.60", "038-rest-batch-empty-array", "rejected"),
        ("legacy-0.60", "041-rest-batch-malformed-json", "rejected"),
        ("legacy-0.60", "053-rest-batch-client-id-again", "rejected"),
        ("core-1", "005-rest-metadata-list-garbage", "credential_invalid"),
        ("core-1", "134-gql-metadata-list-noauth", "credential_missing"),
        ("core-1", "135-gql-metadata-list-garbage", "credential_invalid"),
        ("core-1", "136-gql-metadata-list-expired", "credential_expired"),
        ("core-1", "137-gql-metadata-list-member", "permission_denied"),
        ("core-1", "217-gql-list-with-revoked-token", "credential_revoked"),
        ("core-1", "072-rest-batch-depth-0", "rejected"),
        ("core-1", "225-root-unknown", "rejected"),
        ("core-2.21", "005-rest-metadata-list-garbage", "credential_invalid"),
        ("core-2.21", "010-rest-metadata-list-member", "permission_denied"),
        ("core-2.21", "015-rest-metadata-create-apikey", "session_required"),
        ("core-2.21", "139-gql-metadata-create-apikey", "session_required"),
        ("core-2.21", "140-gql-metadata-create-member", "permission_denied"),
        ("core-2.21", "134-gql-metadata-list-noauth", "credential_missing"),
        ("core-2.21", "923-use-token-of-expired-row", "credential_expired"),
        ("core-2.21", "153-gql-create-unknown-role", "rejected"),
        ("core-2.21", "161-gql-create-unknown-field", "rejected"),
    ],
)
def test_a_recorded_error_has_one_meaning(server: str, name: str, code: str) -> None:
    """Texts and codes decide, whatever status a version sends with them."""
    found = recorded(server, name)
    assert refusal_code(found) == code
    failure = explain("shop", found)
    assert failure.code == code
    assert failure.message.startswith("shop ")
    assert failure.remedy.endswith(".")


RATE_LIMITED = (
    '{"errors":[{"message":"x","extensions":{"code":"RATE_LIMITED","retryAfterMs":%s}}],'
    '"data":null}'
)


@pytest.mark.parametrize(
    ("status", "body", "fields", "wait", "rate"),
    [
        (429, '{"messages":["Limit reached (100 tokens per 60000 ms)"]}', {}, None, Rate(100, 60)),
        (429, "<html>slow down</html>", {}, None, None),
        (429, "{}", {"retry_after": 7.0}, 7.0, None),
        (429, "{}", {"retry_after": 7.0, "rate_limit": 100}, 7.0, Rate(100, 60)),
        (429, '{"retryAfterSeconds": 2}', {"rate_limit": 50}, 2.0, Rate(50, 60)),
        (429, '{"messages":["Limit reached (9 tokens per 1000 ms)"]}', {"rate_limit": 100}, None)
        + (Rate(9, 1),),
        (429, "{}", {"rate_limit": 0}, None, None),
        (429, '{"retryAfterSeconds": 3}', {}, 3.0, None),
        (429, '{"retryAfterSeconds": 1%s}' % ("0" * 400), {}, 1e9, None),
        (429, '{"messages":["Limit reached (%s tokens per 1 ms)"]}' % ("9" * 400), {}, None, None),
        (200, '{"errors":[{"message":"x","extensions":{"code":"LIMIT_REACHED"}}]}', {}, None, None),
        (200, '{"errors":[{"message":"Too many requests."}],"data":null}', {}, None, None),
        (
            429,
            '{"error":"RATE_LIMITED","retryAfterSeconds":4}',
            {"rate_limit": 60},
            4.0,
            Rate(60, 60),
        ),
        (200, RATE_LIMITED % 1500, {}, 1.5, None),
        (200, RATE_LIMITED % '"soon"', {}, None, None),
        (503, "", {"retry_after": 1.0}, 1.0, None),
        (503, "", {"retry_after": 1.0, "rate_limit": 100}, 1.0, None),
        (503, "", {}, None, None),
        (503, "<html><center>nginx</center>", {}, None, None),
    ],
)
def test_throttling_is_recognized_in_every_form(
    status: int, body: str, fields: dict[str, float], wait: float | None, rate: Rate | None
) -> None:
    """429 with and without numbers, both texts of GraphQL, and any 503 (not recorded)."""
    found = answer(status, body, **fields)
    rate_limited = status != 503
    expected = Throttling(wait, rate, unhandled=rate_limited)
    assert throttling(found) == expected
    assert refusal_code(found) == ("rate_limited" if status != 503 else "server_error")


@pytest.mark.parametrize(
    ("header", "limit"),
    [("100", 100), (" 50 ", 50), ("100;w=60", None), ("-1", None), ("9" * 10, None), ("", None)],
)
def test_the_limit_is_read_from_its_header(header: str, limit: int | None) -> None:
    """The newest servers state their limit a minute; a value that is not a number is ignored."""
    headers = {"X-RateLimit-Limit": header, "Retry-After": "2"}
    received = HttpAnswer(429, headers, b"{}", NOW)
    found = transport._answer(received, 0.25, URL, is_list=False)
    assert (found.rate_limit, found.retry_after, found.duration) == (limit, 2.0, 0.25)
    received = HttpAnswer(429, {}, b"{}", NOW)
    assert transport._answer(received, 0.0, URL, is_list=False).rate_limit is None


@pytest.mark.parametrize(
    "server", ["nginx", "nginx/1.27.3", "nginx/1.18.0 (Ubuntu)", "openresty/1.21.4.1"]
)
@pytest.mark.parametrize("padding", ["", 6 * "<!-- a padding to disable MSIE -->\r\n"])
def test_the_page_of_nginx_is_a_refusal_before_twenty(server: str, padding: str) -> None:
    """`limit_req` answers 503 before it asks Twenty, so the request was never handled."""
    found = answer(503, NGINX.replace("nginx", server) + padding)
    assert throttling(found) == Throttling(None, None, unhandled=True)
    assert refusal_code(found) == "rate_limited"
    assert throttling(answer(502, NGINX)) is None
    assert not throttling(answer(503, f"x{NGINX}")).unhandled


def test_an_html_page_is_never_shown() -> None:
    """A message only says that the answer is an HTML page."""
    for page in (NGINX, "<!DOCTYPE html><html>canary", "<HTML lang=en>canary", " <body>canary"):
        message = explain("shop", answer(502, page)).message
        assert "HTML" in message
        assert "canary" not in message.lower()
        assert "<" not in message


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (NGINX, f'(502: an HTML page "503 Service Temporarily Unavailable" of {len(NGINX)} bytes)'),
        ("<html>" + "x" * 9000, "(502: an HTML page of 9006 bytes)"),
        ("<html><title> Down &amp;\n out </title>", '(502: an HTML page "Down & out" of 38 bytes)'),
        ("<!doctype html><title>" + "y" * 99, "(502: an HTML page of 121 bytes)"),
        ("<html><title>" + "z" * 99 + "</title>", f'"{"z" * 80}…" of 120 bytes'),
        ("<html><title>eyJhbGciOiJI.canary</title>", '(502: an HTML page "***" of 40 bytes)'),
    ],
)
def test_an_html_page_is_told_by_its_title_and_length(page: str, words: str) -> None:
    """One line says which page came, for whoever knows the proxy; a secret in it is masked."""
    message = explain("shop", answer(502, page)).message
    assert words in message
    assert "\n" not in message


_V8 = r"\n    at Guard.canActivate (/app/canary/guard.js:12:34)\n    at async /app/canary/x.js:1:2"
_JAVA = r"""\n\tat com.example.canary.Proxy.call(Proxy.java:81)"""
_PYTHON = r"""Traceback (most recent call last):\n  File \"/srv/canary.py\", line 3"""
_PAGE = "<!DOCTYPE html>\\n<html><body><h1>canary</h1></body></html>"
_STACK = f'{{"message": "Cannot read keys", "statusCode": 500, "stack": "TypeError: x{_V8}"}}'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (f'{{"messages": ["Cannot read keys{_V8}"]}}', "Cannot read keys"),
        (f'{{"messages": ["Cannot read keys{_JAVA}"]}}', "Cannot read keys"),
        (f'{{"messages": ["{_PYTHON}"]}}', "a stack trace"),
        (f'{{"errors": [{{"message": "Upstream said {_PAGE}"}}]}}', "Upstream said"),
        (f'{{"errors": [{{"message": "{_PAGE}"}}, {{"message": "b"}}]}}', "an HTML page; b"),
        (_STACK, "Cannot read keys"),
        (f'{{"stack": "TypeError: x{_V8}"}}', "TypeError: x"),
        (f'"{_PAGE}"', "an HTML page"),
        (f"TypeError: x{_V8}".replace(r"\n", "\n"), "TypeError: x"),
        ("Not found <pre>canary</pre>", "Not found"),
        ('{"messages": ["It ends at 12:30 (at 127.0.0.1:80)"]}', "at 12:30 (at 127.0.0.1:80)"),
        ('{"messages": ["a <b and c> d"]}', "a <b and c> d"),
    ],
)
def test_markup_and_stack_traces_never_reach_a_message(body: str, words: str) -> None:
    """Only the words before them are shown, wherever they are in the answer."""
    message = explain("shop", answer(500, body)).message
    assert words in message
    assert "canary" not in message


def test_the_error_for_a_request_that_is_too_large_names_the_limit_to_raise() -> None:
    """A 413 of any server counts, whatever its body."""
    failure = explain("shop", answer(413, "<html>"))
    assert (failure.code, "this size" in failure.message) == ("rejected", True)
    assert "client_max_body_size" in failure.remedy


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, '{"messages":["x"]}'),
        (200, '{"data":{"createApiKey":{"name":"Too many requests."}}}'),
        (400, '{"messages":["no limit here"]}'),
        (200, '{"data":{"a":{}},"errors":[{"message":"x","extensions":{"code":"LIMIT_REACHED"}}]}'),
    ],
)
def test_other_answers_are_not_throttling(status: int, body: str) -> None:
    """A failure without a wait, and data that only reads like the text, are not throttling."""
    assert throttling(answer(status, body)) is None


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (200, "<html>hello</html>", "unexpected_answer"),
        (200, "", "unexpected_answer"),
        (404, "<html>", "unexpected_answer"),
        (502, "<html>bad gateway</html>", "server_error"),
        (408, "", "server_error"),
        (400, '"bad request"', "rejected"),
        (200, '{"errors":[{}]}', "rejected"),
        (200, '{"errors":[7]}', "rejected"),
        (200, '{"errors":[]}', "unexpected_answer"),
        (200, '{"a": NaN}', "unexpected_answer"),
        (400, '{"message":"x","statusCode":400}', "rejected"),
        (401, "", "credential_invalid"),
    ],
)
def test_html_empty_and_incomplete_answers_are_errors(status: int, body: str, code: str) -> None:
    """An answer that cannot be read as one of Twenty is never a success."""
    assert refusal_code(answer(status, body)) == code


def test_a_redirect_is_reported_and_not_followed() -> None:
    """The message names the target, and the remedy is to set `url` to it."""
    failure = explain("shop", answer(302, location="https://login.example.com/x"))
    assert "https://login.example.com/x" in failure.message
    assert "url" in failure.remedy


def test_messages_have_no_escapes_and_a_maximum_length() -> None:
    """The words of a server cannot draw on the terminal, and long texts are cut."""
    found = answer(400, json.dumps({"messages": ["\x1b[2Jgone\r\n" + "x" * 9999]}))
    message = explain("shop", found).message
    assert "\x1b" not in message
    assert "\n" not in message
    assert len(message) < 500


def test_an_expired_session_differs_from_other_refusals() -> None:
    """Only a request that was refused before anything was done may be sent again."""
    assert session_ended(recorded("core-2.21", "136-gql-metadata-list-expired"))
    assert session_ended(recorded("legacy-0.60", "004-rest-list-expired-token"))
    assert not session_ended(recorded("core-2.21", "140-gql-metadata-create-member"))
    assert not session_ended(recorded("core-2.21", "138-gql-metadata-create"))
    both = '{"data":{"createApiKey":{"id":"1"}},"errors":[{"message":"Token has expired."}]}'
    assert not session_ended(answer(200, both))


@given(st.binary(max_size=200))
def test_any_body_is_decoded_or_unreadable(raw: bytes) -> None:
    """No body makes reading it fail, and the excerpt is printable."""
    answer = Answer(500, *decode(raw))
    assert answer.excerpt.isprintable()
    assert refusal_code(answer)


def test_a_body_that_is_nested_too_deep_is_unreadable() -> None:
    """Nesting beyond Python's own limit does not crash."""
    assert decode(b"[" * 500_000)[0] is NOT_JSON
    assert repr(NOT_JSON) == "NOT_JSON"
    assert clean("a\x00b\u202e") == "a b"
