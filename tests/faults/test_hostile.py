"""A hostile server can make a run fail, but nothing else.

Each case is a real process against a raw socket. The process ends with an exit code of
docs/errors.md and a message, within 10 seconds and 200 MB. It sends its credential to no other
host and does not show it, and its output has no control characters. `docs/security.md` lists the
limits of the defaults.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import unicodedata
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hostile import (
    IMPATIENT,
    LIMIT_MEGABYTES,
    LIMIT_SECONDS,
    PATIENT,
    WORKSPACE,
    Completed,
    HostileRequest,
    HostileServer,
    Workdir,
    token,
)

from provisioner.errors.exceptions import SinkError
from provisioner.http_client.exchange import Route
from provisioner.sinks import http, vault
from provisioner.sinks.github import GithubAddress
from provisioner.sinks.vault import VaultAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

TOKEN = token(jti="20202020-0000-4000-8000-00000000cafe", exp=4102444800)
HEAD = b"HTTP/1.1 200 OK\r\n"
JSON_HEAD = HEAD + b"Content-Type: application/json\r\n"
CHUNKED = JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MIB = 1 << 20
ID = "20202020-0000-4000-8000-{:012x}"


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    return Workdir(tmp_path, TOKEN)


def secret_parts(secret: str) -> set[str]:
    """Return the secret and its recognizable parts, plain and encoded."""
    found = {secret, quote(secret, safe=""), *secret.rsplit(".", 1), secret[: len(secret) // 2]}
    for offset in range(3):
        packed = base64.b64encode(bytes(offset) + secret.encode()).decode()
        found.add(packed[8:-8])
    return found


def check_run(ran: Completed, secret: str = TOKEN) -> Completed:
    """Check what must be true for every run, whatever the server did; return the run."""
    assert ran.seconds < LIMIT_SECONDS
    assert ran.megabytes < LIMIT_MEGABYTES
    assert "Traceback" not in ran.err
    assert "This is a bug" not in ran.err
    assert not [piece for piece in secret_parts(secret) if piece in ran.output]
    assert control_characters(ran.output) == set()
    return ran


def control_characters(text: str) -> set[str]:
    """Return the control characters of a text, also those that change the text direction."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {character for character in {*text} if unicodedata.category(character) in kinds} - {"\n"}


# Hostile answers to any request


def drips_head(request: HostileRequest) -> None:
    request.send(HEAD)
    request.send_forever(b"X", every=0.05)


def drips_lines(request: HostileRequest) -> None:
    request.send(HEAD)
    request.send_forever(b"X-A: b\r\n", every=0.05)


def drips_status(request: HostileRequest) -> None:
    request.send_forever(b"H", every=0.05)


def drips_body(request: HostileRequest) -> None:
    request.send(JSON_HEAD + b"Content-Length: 100000\r\n\r\n")
    request.send_forever(b" ", every=0.05)


def drips_chunks(request: HostileRequest) -> None:
    request.send(CHUNKED)
    request.send_forever(b"1\r\n \r\n", every=0.05)


def drips_trailers(request: HostileRequest) -> None:
    request.send(CHUNKED + b"2\r\n[]\r\n0\r\n")
    request.send_forever(b"X-A: b\r\n", every=0.05)


def continues(request: HostileRequest) -> None:
    request.send_forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def continues_slowly(request: HostileRequest) -> None:
    request.send_forever(b"HTTP/1.1 100 Continue\r\n\r\n", every=0.05)


def never(request: HostileRequest) -> None:
    request.stopped.wait(30)


def closes(_: HostileRequest) -> None:
    pass


def endless(request: HostileRequest) -> None:
    request.send(JSON_HEAD + b"\r\n")
    request.send_forever(b" " * MIB)


def endless_with_length(request: HostileRequest) -> None:
    request.send(JSON_HEAD + b"Content-Length: 99999999999999\r\n\r\n")
    request.send_forever(b" " * MIB)


def endless_chunks(request: HostileRequest) -> None:
    request.send(CHUNKED)
    request.send_forever(b"100000\r\n" + b" " * MIB + b"\r\n")


def endless_small_chunks(request: HostileRequest) -> None:
    request.send(CHUNKED)
    request.send_forever(b"1\r\n \r\n" * 10_000)


def endless_chunk_size(request: HostileRequest) -> None:
    request.send(CHUNKED)
    request.send_forever(b"0" * MIB)


def endless_trailers(request: HostileRequest) -> None:
    request.send(CHUNKED + b"2\r\n[]\r\n0\r\n")
    request.send_forever(b"X-A: b\r\n" * 10_000)


def long_header(request: HostileRequest) -> None:
    request.send(HEAD + b"X-A: " + b"a" * 10 * MIB + b"\r\nContent-Length: 2\r\n\r\n[]")


def long_status(request: HostileRequest) -> None:
    request.send(b"HTTP/1.1 200 " + b"a" * 10 * MIB + b"\r\n\r\n[]")


def many_headers(request: HostileRequest) -> None:
    request.send(HEAD + b"X-A: b\r\n" * 100_000 + b"Content-Length: 2\r\n\r\n[]")


def large_headers(request: HostileRequest) -> None:
    """Send as many and as long headers as Python accepts."""
    request.send(
        HEAD + (b"X-A: " + b" ;=," * 16_000 + b"\r\n") * 98 + b"Content-Length: 1\r\n\r\n!"
    )


def cookies(request: HostileRequest) -> None:
    """Send cookies with dates that make parsers backtrack, endless names and foreign hosts."""
    lines = [
        "a=b; expires=" + " " * 60_000 + "x",
        "a=b; expires=1-" + "a" * 60_000 + "-1",
        "=;" * 30_000,
        'a="' + "\\" * 60_000,
        "session=hostile; Domain=.127.0.0.1; Path=/; Max-Age=99999999999999999999",
    ]
    request.answer(b"!", headers=tuple(("Set-Cookie", line) for line in lines * 18))


def bomb(encodings: str, packed: bytes) -> Callable[[HostileRequest], None]:
    return lambda request: request.answer(packed, headers=(("Content-Encoding", encodings),))


GZIP = gzip.compress(b" " * MIB, 9) * 200
"""200 MiB in 200 gzip members."""


def deflated() -> bytes:
    """Return 200 MiB of repeated, independent deflate blocks."""
    packer = zlib.compressobj(9)
    first = packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + (packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)) * 199


def endless_bomb(request: HostileRequest) -> None:
    request.send(JSON_HEAD + b"Content-Encoding: gzip\r\n\r\n")
    request.send_forever(GZIP)


def packed_as(encoding: str, body: bytes) -> Callable[[HostileRequest], None]:
    return lambda request: request.answer(body, headers=(("Content-Encoding", encoding),))


def empty_blocks(request: HostileRequest) -> None:
    """Send endless compressed bytes that decompress to nothing."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    request.send(JSON_HEAD + b"Content-Encoding: gzip\r\n\r\n" + packer.flush(zlib.Z_SYNC_FLUSH))
    request.send_forever(b"\x00\x00\x00\xff\xff" * 100_000)


def lying_length(length: str, body: bytes) -> Callable[[HostileRequest], None]:
    def behave(request: HostileRequest) -> None:
        request.send(JSON_HEAD + f"Content-Length: {length}\r\n\r\n".encode() + body)

    return behave


def raw(data: bytes) -> Callable[[HostileRequest], None]:
    return lambda request: request.send(data)


def answers(
    body: bytes | object, status: int = 200, **headers: str
) -> Callable[[HostileRequest], None]:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return lambda request: request.answer(body, status, named)


TIMEOUT, LOST, UNEXPECTED = "timeout: ", "connection_lost: ", "unexpected_answer: "

WIRE: dict[str, tuple[Callable[[HostileRequest], None], str]] = {
    "no answer": (never, TIMEOUT),
    "closed at once": (closes, LOST),
    "status line drips": (drips_status, TIMEOUT),
    "one header drips": (drips_head, TIMEOUT),
    "headers drip": (drips_lines, TIMEOUT),
    "body drips": (drips_body, TIMEOUT),
    "chunks drip": (drips_chunks, TIMEOUT),
    "trailers drip": (drips_trailers, TIMEOUT),
    "continues slowly": (continues_slowly, TIMEOUT),
    "continues for ever": (continues, f"{TIMEOUT}|{UNEXPECTED}"),
    "endless body": (endless, f"{TIMEOUT}|{UNEXPECTED}"),
    "endless body with a length": (endless_with_length, f"{TIMEOUT}|{UNEXPECTED}"),
    "endless chunks": (endless_chunks, f"{TIMEOUT}|{UNEXPECTED}"),
    "endless small chunks": (endless_small_chunks, f"{TIMEOUT}|{UNEXPECTED}"),
    "endless size of a chunk": (endless_chunk_size, LOST),
    "endless trailers": (endless_trailers, f"{TIMEOUT}|{UNEXPECTED}"),
    "10 MB header": (long_header, LOST),
    "10 MB status line": (long_status, LOST),
    "100 000 headers": (many_headers, LOST),
    "6 MB of headers": (large_headers, UNEXPECTED),
    "cookies": (cookies, UNEXPECTED),
    "gzip bomb": (bomb("gzip", GZIP), UNEXPECTED),
    "endless gzip bomb": (endless_bomb, f"{TIMEOUT}|{UNEXPECTED}"),
    "gzip that unpacks to nothing": (empty_blocks, f"{TIMEOUT}|{UNEXPECTED}"),
    "gzip in gzip": (bomb("gzip, gzip", gzip.compress(GZIP)), UNEXPECTED),
    "gzip in gzip in gzip": (
        bomb("gzip,gzip,gzip", gzip.compress(gzip.compress(GZIP))),
        UNEXPECTED,
    ),
    "deflate bomb": (bomb("deflate", deflated()), UNEXPECTED),
    "raw deflate": (packed_as("deflate", b"\x00" * 1000), LOST),
    "br": (packed_as("br", b"\x8b\x03\x80\x03" * 1000), UNEXPECTED),
    "zstd with a window of 2 GB": (packed_as("zstd", b"\x28\xb5\x2f\xfd\x00\xa8[]"), UNEXPECTED),
    "a hundred encodings": (packed_as(", ".join(["gzip"] * 100), b"[]"), UNEXPECTED),
    "length too long": (lying_length("1000", b"[]"), LOST),
    "length too short": (lying_length("1", b"[]"), UNEXPECTED),
    "two lengths": (lying_length("2, 3", b"[]"), LOST),
    "invalid length": (lying_length("-1", b'{"data":'), UNEXPECTED),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.2\r\n" * 1000), LOST),
    "HTTP/0.9": (raw(b"<html>hello</html>"), LOST),
    "invalid status": (raw(b"HTTP/1.1 99999 X\r\n\r\n"), LOST),
    "zeros": (raw(bytes(5 * MIB)), LOST),
    "HTML": (answers(b"<html>" + b"<p>" * 100_000), UNEXPECTED),
    "asks to wait 30 years": (answers({}, 429, Retry_After="1000000000"), "rate_limited: "),
    "asks to wait until 9999": (
        answers({}, 429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"),
        "rate_limited: ",
    ),
    "asks to wait by its body": (answers({"retryAfterSeconds": 1e308}, 429), "rate_limited: "),
    "asks to wait less than nothing": (answers(b"", 500, Retry_After="-5"), "server_error: "),
}
COMMANDS = ("plan", "list", "doctor", "apply", "report", "export")
PARALLEL_CASES = 3
"""The number of cases that one test runs in parallel; they mostly wait."""


def timeout_for(expected: str) -> str:
    """Return a short timeout only where the case expects that answers never end."""
    return IMPATIENT if TIMEOUT in expected else PATIENT


def run_cases(check: Callable[[str, Workdir], None], cases: Iterable[str], folder: Path) -> None:
    """Check cases in parallel, each in its own folder.

    Raises:
        ExceptionGroup: the errors of the failed cases.
    """

    def entry(number: int, case: str) -> Exception | None:
        (folder / str(number)).mkdir()
        try:
            check(case, Workdir(folder / str(number), TOKEN))
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - all are raised below
            error.add_note(f"in the case: {case}")
            return error
        return None

    with ThreadPoolExecutor(PARALLEL_CASES) as pool:
        failed = [error for error in pool.map(entry, count(), cases) if error is not None]
    if failed:
        raise ExceptionGroup(f"{len(failed)} cases", failed)


def in_groups(cases: Iterable[str]) -> Any:
    """Return a decorator that parametrizes a test with groups of cases."""
    names = [*cases]
    groups = [
        names[start : start + PARALLEL_CASES] for start in range(0, len(names), PARALLEL_CASES)
    ]
    return pytest.mark.parametrize("cases", groups, ids=[group[0] for group in groups])


@in_groups(WIRE)
def test_no_answer_holds_a_run_or_fills_its_memory(tmp_path: Path, cases: list[str]) -> None:
    """A run exits with 4 and an expected code within the limits, whatever the server sends."""

    def check(case: str, workdir: Workdir) -> None:
        behave, expected = WIRE[case]
        # The commands take turns, because a case takes long; they use the same transport.
        command = COMMANDS[[*WIRE].index(case) % len(COMMANDS)]
        with HostileServer(behave) as server:
            # A response that is refused for its content must not lose a race against the timeout.
            workdir.write_manifests(server.url, timeout=timeout_for(expected))
            ran = check_run(workdir.run(command, "--log-level", "debug"))
            assert ran.code == 4
            # `doctor` words its remedies differently.
            assert command == "doctor" or re.search(expected, ran.output)
            assert server.received
            assert all(f"Bearer {TOKEN}".encode() in entry for entry in server.received)

    run_cases(check, cases, tmp_path)


# Lists of keys that are JSON


def key(number: int = 0, **changes: object) -> dict[str, object]:
    return {
        "id": ID.format(number),
        "name": f"key-{number}",
        "expiresAt": "2031-01-01T00:00:00.000Z",
        "revokedAt": None,
        "createdAt": "2026-01-01T00:00:00.000Z",
        "updatedAt": "2026-01-01T00:00:00.000Z",
    } | changes


ROLE = {"id": ID.format(99), "label": "Admin", "canBeAssignedToApiKeys": True, "apiKeys": []}


def core(keys: object, roles: object = (ROLE,), **run_cases: object) -> dict[str, object]:
    """Return the core generation's answer to the read of keys and roles."""
    return {"data": {"apiKeys": keys, "getRoles": roles}, **run_cases}


def text_of(document: object, **replaced: str) -> bytes:
    """Return JSON whose placeholders are replaced by text that json.dumps would not write."""
    text = json.dumps(document)
    for placeholder, text_ in replaced.items():
        text = text.replace(f'"{placeholder}"', text_)
    return text.encode()


NAMES = {
    "CSI": "\x1b[2J\x1b[1;1H\x1b[31mowned",
    "title": "\x1b]0;owned\x07",
    "OSC 8": "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "OSC 52": "\x1b]52;c;cm0gLXJmIC8=\x07",
    "C1": "\x9b2J\x9d0;owned\x9c\x90q\x9c",
    "bidi": "svc-\u202egnillib\u202c \u2066x\u2069 \u200f",
    "invisible": "svc\u200b-\u2060one\ufeff \U000e0041\u00ad",
    "lines": "a\nwarning: all is well\r\x0b\x0c\x85\u2028\u2029b",
    "erasing": "a\b\b\b\b\x7f\x00b\x0eshifted",
    "workflow": "::add-mask::x\n::error::owned\n##[group]x",
    "markup": "<script>alert(1)</script>|[x](https://evil.example)`x`{{x}}",
    "long": "n" * 90_000,
}
EVIL = [key(number, name=name) for number, name in enumerate(NAMES.values())]

EXTREMES = [
    key(0, createdAt="0001-01-01T00:00:00Z", expiresAt="9999-12-31T23:59:59.999Z"),
    key(1, createdAt="9999-12-31T23:59:59Z", expiresAt="0001-01-01T00:00:00Z"),
    key(2, name="svc-one", createdAt="0001-01-01T00:00:00Z", expiresAt="+275760-09-13T00:00:00Z"),
    key(3, name="svc-one", createdAt="9999-12-31T23:59:59Z", revokedAt="0001-01-01T00:00:00Z"),
]

LISTS: dict[str, tuple[bytes | object, str]] = {
    "deep": (b"[" * 100_000, UNEXPECTED),
    "deep objects": (b'{"data":' * 100_000, UNEXPECTED),
    "deep within a record": (
        text_of(core([key(0, x="X")]), X="[" * 500 + "]" * 500),
        UNEXPECTED,
    ),
    "a million small objects": (b"[" + b"{}," * 1_000_000 + b"{}]", UNEXPECTED),
    "a million objects of one": (b'[{"a":0}' + b',{"a":0}' * 1_400_000 + b"]", UNEXPECTED),
    "six million numbers": (b"[0" + b",0" * (6 * MIB - 2) + b"]", UNEXPECTED),
    "as many values as are read": (b"[0" + b',{"ab":"cd"}' * 249_000 + b"]", UNEXPECTED),
    "one text of 11 MB with one wide character": (
        text_of(core([key(0, name="X")]), X='"' + "n" * (11 * MIB) + "\U0001f512" + '"'),
        UNEXPECTED,
    ),
    "a huge number": (text_of(core([], totalCount="X"), X="9" * 5_000_000), UNEXPECTED),
    "a huge exponent": (text_of(core([key(0, name="X")]), X="1e999999999"), UNEXPECTED),
    "NaN": (text_of(core([key(0, expiresAt="X")]), X="NaN"), UNEXPECTED),
    "one half of a surrogate pair": (text_of(core([key(0, name="X")]), X='"\\ud83d"'), UNEXPECTED),
    "the same in bytes": (text_of(core([])) + b' "\xed\xa0\xbd"', UNEXPECTED),
    "no UTF-8": (text_of(core([key(0, name="X")])).replace(b'"X"', b'"\xff\xfe"'), UNEXPECTED),
    "UTF-32": (json.dumps(core([])).encode("utf-32"), UNEXPECTED),
    "id that is a number": (core([key(0, id=7)]), UNEXPECTED),
    "id that is a path": (core([key(0, id="../../rest/webhooks")]), UNEXPECTED),
    "id that is two dots": (core([key(0, id="..")]), UNEXPECTED),
    "id that draws": (core([key(0, id="\x1b[2J")]), UNEXPECTED),
    "id that is empty": (core([key(0, id="")]), UNEXPECTED),
    "id of a megabyte": (core([key(0, id="a" * MIB)]), UNEXPECTED),
    "name that is an object": (core([key(0, name={"a": 1})]), UNEXPECTED),
    "name of a megabyte": (core([key(0, name="a" * MIB)]), UNEXPECTED),
    "invalid date": (core([key(0, expiresAt="9" * MIB)]), UNEXPECTED),
    "roles that are a text": (core([], "x" * MIB), UNEXPECTED),
    "role of a megabyte": (core([], [ROLE | {"label": "a" * MIB}]), UNEXPECTED),
    "a role's key that is a path": (core([], [ROLE | {"apiKeys": [{"id": "../x"}]}]), UNEXPECTED),
    "200 000 errors": ({"errors": [{"message": "\x1b]0;x\x07"}] * 200_000}, "rejected: "),
    "an error of 9 MB": (
        text_of({"errors": [{"message": "X"}]}, X='"' + "\x9b2J" * (9 * MIB // 4) + '"'),
        "rejected: ",
    ),
    "errors that are everything": ({"errors": [None, 1, [], {"message": {"a": []}}]}, "rejected: "),
    "the credential in an error": ({"errors": [{"message": f"no: {TOKEN}"}]}, "rejected: "),
    "the credential ten thousand times": ({"errors": [{"message": TOKEN * 10_000}]}, "rejected: "),
    "most of the credential": (
        {"errors": [{"message": f"{TOKEN[:-9]} {TOKEN[:99]}"}]},
        "rejected: ",
    ),
    "the credential in other clothes": (
        {"errors": [{"message": base64.b64encode(f"x{TOKEN}".encode()).decode()}]},
        "rejected: ",
    ),
    "the same id twice": (core([key(0), key(0, name="svc-one")]), ""),
    "keys twice in an object": (
        text_of(core(["X"]), X=json.dumps(key(0))[:-1] + ', "id": "other"}'),
        "",
    ),
    "names that draw": (core(EVIL), ""),
    "labels that draw": (
        core(
            [],
            [
                ROLE | {"label": name[:999], "id": ID.format(n)}
                for n, name in enumerate(NAMES.values())
            ],
        ),
        "",
    ),
    "50 000 roles": (
        lambda: core(
            [], [ROLE | {"label": f"role {n}", "id": ID.format(n)} for n in range(50_000)]
        ),
        "",
    ),
    "50 000 keys": (lambda: core([key(number) for number in range(50_000)]), ""),
    "50 000 keys of one name": (lambda: core([key(n, name="svc-one") for n in range(50_000)]), ""),
    "the ends of time": (core(EXTREMES), ""),
}


@in_groups(LISTS)
def test_no_list_harms(tmp_path: Path, cases: list[str]) -> None:
    """A list is refused with its code, or shown without doing harm."""

    def check(case: str, workdir: Workdir) -> None:
        written, expected = LISTS[case]
        body = written() if callable(written) else written
        command = ("plan", "list", "report")[[*LISTS].index(case) % 3]
        with HostileServer(
            answers(body, Date=format_datetime(datetime.now(UTC), usegmt=True))
        ) as server:
            workdir.write_manifests(server.url, generation="core")
            ran = check_run(workdir.run(command, "--log-level", "debug"))
            if not expected:
                again = check_run(workdir.run("plan", "--format", "json", "--log-format", "json"))
                json.loads(again.out)
                assert all(json.loads(line) for line in again.err.splitlines())
        assert ran.code in ((4,) if expected else (0, 4, 5))
        assert expected in ran.output

    run_cases(check, cases, tmp_path)


DATES = {
    "none": "",
    "no date": "yesterday \x1b[2J",
    "the first": "Mon, 01 Jan 0001 00:00:00 GMT",
    "before the first": "Mon, 01 Jan 0001 00:00:00 +2359",
    "the last": "Fri, 31 Dec 9999 23:59:59 GMT",
    "after the last": "Fri, 31 Dec 9999 23:59:59 -2359",
    "an impossible day": "Mon, 99 Foo 99999999999999999999 99:99:99 GMT",
    "ten thousand digits": "Mon, 01 Jan " + "9" * 10_000 + " 00:00:00 GMT",
}


@in_groups(DATES)
def test_no_date_of_a_server_harms(tmp_path: Path, cases: list[str]) -> None:
    """A wrong date stops the run through the clock guard; an invalid one is ignored."""

    def check(case: str, workdir: Workdir) -> None:
        keys = [key(0, name="svc-one"), *EXTREMES[:2]]
        with HostileServer(answers(core(keys), Date=DATES[case])) as server:
            workdir.write_manifests(
                server.url, ({"name": "svc-one"},), generation="core", owns=["*"]
            )
            command = (("plan", "--prune"), ("report",))[[*DATES].index(case) % 2]
            ran = check_run(workdir.run(*command, "--log-level", "debug"))
            assert ran.code in (0, 5)
            assert ran.code == 0 or "clock_off: " in ran.err

    run_cases(check, cases, tmp_path)


# Lists in pages


def page(number: int, size: int = 60, total: str = "1000000000", **info: object) -> bytes:
    page_info = {"hasNextPage": True, "startCursor": "", "endCursor": f"c{number}"} | info
    document = (
        f'{{"data": {{"apiKeys": %s}}, "pageInfo": {json.dumps(page_info)}, "totalCount": {total}}}'
    )
    return document.encode() % keys_of(size).replace(b"4000-8000", b"%04d-8000" % number)


@cache
def keys_of(size: int) -> bytes:
    return json.dumps([key(number) for number in range(size)]).encode()


def pages(make: Callable[[int], object], seconds: float = 0.0) -> Callable[[HostileRequest], None]:
    numbers = count()

    def behave(request: HostileRequest) -> None:
        time.sleep(seconds)
        request.answer(make(next(numbers)))

    return behave


PAGES: dict[str, tuple[Callable[[HostileRequest], None], str]] = {
    "pages of one key, each new": (pages(lambda n: page(n, 1)), f"{UNEXPECTED}|{TIMEOUT}"),
    "names without end, each new": (
        pages(lambda n: page(n, 100).replace(b'"name": "', b'"name": "' + b"n" * 90_000)),
        UNEXPECTED,
    ),
    "large pages, each new": (pages(lambda n: page(n, 20_000)), UNEXPECTED),
    "pages of one key, each slow": (pages(lambda n: page(n, 1), 0.1), TIMEOUT),
    "the same page": (answers(page(0)), UNEXPECTED),
    "the same keys, new cursors": (pages(lambda n: page(0, endCursor=f"c{n}")), UNEXPECTED),
    "new keys, the same cursor": (pages(lambda n: page(n, endCursor="c")), UNEXPECTED),
    "a cursor of a megabyte": (pages(lambda n: page(n, endCursor="c" * MIB)), UNEXPECTED),
    "a cursor that is a path": (
        pages(lambda n: page(n, 10_000, endCursor=f"../{n}\r\nX: y&#?")),
        UNEXPECTED,
    ),
    "a cursor that is a list": (pages(lambda n: page(n, endCursor=[])), UNEXPECTED),
    "a total that lies": (pages(lambda n: page(n, hasNextPage=False)), UNEXPECTED),
    "a total of ten thousand digits": (
        pages(lambda n: page(n, total="9" * 4_000, hasNextPage=False)),
        UNEXPECTED,
    ),
    "no word of a next page": (pages(lambda n: page(n, hasNextPage="no")), UNEXPECTED),
}


@in_groups(PAGES)
def test_no_list_goes_on_for_ever(tmp_path: Path, cases: list[str]) -> None:
    """Circular and endless cursors end with an error code, not when memory runs out."""

    def check(case: str, workdir: Workdir) -> None:
        behave, expected = PAGES[case]
        with HostileServer(behave) as server:
            workdir.write_manifests(server.url, generation="legacy", timeout=timeout_for(expected))
            ran = check_run(workdir.run("plan", "--log-level", "error"))
            assert (ran.code, bool(re.search(expected, ran.out))) == (4, True)
            assert all(
                entry.startswith(b"GET /rest/apiKeys?limit=1000") for entry in server.received
            )

    run_cases(check, cases, tmp_path)


# Redirects


def redirects(status: int, location: str) -> Callable[[HostileRequest], None]:
    """Return a behaviour that redirects to a location."""

    def behave(request: HostileRequest) -> None:
        request.send(f"HTTP/1.1 {status} X\r\nLocation: {location}\r\n".encode("latin-1"))
        request.send(b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")

    return behave


def redirects_to(status: int, target: list[str]) -> Callable[[HostileRequest], None]:
    """Return the same for a location that is only known later."""
    return lambda request: redirects(status, *target)(request)  # noqa: PLW0108 - it is empty so far


REDIRECTS = {
    "301 to another port": (301, "{trap}/rest/apiKeys"),
    "302 to another host": (302, "http://localhost:{port}/"),
    "303 to another name": (303, "http://evil.example/"),
    "307 with the body": (307, "{trap}/metadata"),
    "308 for good": (308, "{trap}/metadata"),
    "to another scheme": (302, "https://127.0.0.1:{port}/"),
    "to a file": (302, "file:///etc/passwd"),
    "to no scheme": (307, "//127.0.0.1:{port}/"),
    "to data": (302, "data:application/json,[]"),
    "to itself for ever": (302, "{self}/rest/apiKeys?limit=1000&depth=0"),
    "to a password": (302, "http://user:{secret}@127.0.0.1:{port}/"),
    "with the credential in the query": (302, "{trap}/?token={secret}"),
    "with the credential in the path": (302, "{trap}/{secret}/{secret}"),
    "with most of the credential in the path": (302, "{trap}/{most}"),
    "to what draws": (302, "{trap}/\x1b[2J\x9b2J\x1b]0;owned\x07"),
    "to a megabyte": (302, "{trap}/" + "a" * 60_000),
    "to nothing": (302, ""),
    "to no address": (302, "http://[::1"),
    "300 to many": (300, "{trap}/"),
    "304 to none": (304, "{trap}/"),
}


@in_groups(REDIRECTS)
def test_no_redirect_gets_the_credential(tmp_path: Path, cases: list[str]) -> None:
    """Only the declared address gets requests, and secrets in a location are not shown."""

    def check(case: str, workdir: Workdir) -> None:
        status, location = REDIRECTS[case]
        target: list[str] = []
        with (
            HostileServer(answers({"data": {}})) as trap,
            HostileServer(redirects_to(status, target)) as server,
        ):
            values = {"trap": trap.url, "port": trap.port, "self": server.url, "secret": TOKEN}
            target.append(location.format(**values, most=TOKEN[:-9]))
            workdir.write_manifests(server.url)
            command = ("plan", "doctor", "apply")[[*REDIRECTS].index(case) % 3]
            ran = check_run(workdir.run(command, "--log-level", "debug"))
            assert ran.code == 4
            assert trap.received == []
            assert len(server.received) <= 4

    run_cases(check, cases, tmp_path)


@pytest.mark.parametrize("status", [302, 307, 308])
def test_no_redirect_gets_the_password(workdir: Workdir, status: int) -> None:
    """A 307 would have the client repeat the sign-in, with the password, elsewhere."""
    workdir.variables = {"MAIL": "mail-canary@example.com", "WORD": "passwordCanary+/ü"}
    with (
        HostileServer(answers({})) as trap,
        HostileServer(redirects(status, f"{trap.url}/metadata")) as server,
    ):
        workdir.write_manifests(server.url, auth={"email": "${MAIL}", "password": "${WORD}"})
        ran = check_run(workdir.run("plan", "--log-level", "debug"), "passwordCanary+/ü")
        assert ran.code == 4
        assert "Canary" not in ran.output
        assert "canary@" not in ran.output
        assert (trap.received, len(server.received)) == ([], 1)


SIGN_INS: dict[str, object] = {
    "the password in the error": {"errors": [{"message": "no: mail-canary@e.com passwordCanary"}]},
    "a login token of a megabyte": {
        "data": {"getLoginTokenFromCredentials": {"loginToken": {"token": "a" * MIB}}}
    },
    "a login token of a megabyte of characters with many encodings": {
        "data": {"getLoginTokenFromCredentials": {"loginToken": {"token": "'<&" * (3 * MIB)}}}
    },
    "a login token that is text of a report": {
        "data": {"getLoginTokenFromCredentials": {"loginToken": {"token": "sign_in_failed: "}}}
    },
    "a login token that draws": {
        "data": {"getLoginTokenFromCredentials": {"loginToken": {"token": "\x1b[2J\r\nX: y"}}}
    },
    "a session that no header carries": {
        "data": {
            "getLoginTokenFromCredentials": {"loginToken": {"token": "login"}},
            "getAuthTokensFromLoginToken": {
                "tokens": {
                    "accessOrWorkspaceAgnosticToken": {
                        "token": "ü\r\nX-Evil: sessionCanary",
                        "expiresAt": "0001-01-01T00:00:00Z",
                    }
                }
            },
        }
    },
}


@in_groups(SIGN_INS)
def test_no_answer_to_a_sign_in_harms(tmp_path: Path, cases: list[str]) -> None:
    """Echoed or invented secrets in answers to a sign-in are not shown, even at level debug."""

    def check(case: str, workdir: Workdir) -> None:
        workdir.variables = {"MAIL": "mail-canary@e.com", "WORD": "passwordCanary"}
        with HostileServer(answers(SIGN_INS[case])) as server:
            sign_in = {"email": "${MAIL}", "password": "${WORD}"}
            workdir.write_manifests(server.url, auth=sign_in)
            ran = check_run(workdir.run("list", "--log-level", "debug"), "passwordCanary")
            assert ran.code == 4
            assert not re.search("[cC]anary", ran.output)
            assert re.search("sign_in_failed: |unexpected_answer: ", ran.output)
            assert not any(
                b"\r\nX-Evil" in entry or b"\r\nX: y" in entry for entry in server.received
            )

    run_cases(check, cases, tmp_path)


# Creates and tokens


def shop(
    create: Callable[[HostileRequest], object], mint: Callable[[HostileRequest], object]
) -> Any:
    """Return a behaviour that stores a key on each create, whatever it answers."""
    created_keys: list[bytes] = []

    def behave(request: HostileRequest) -> None:
        if b"createApiKey" in request.body:
            expires_at = re.search(r'"expiresAt": ?"([^"]+)"', request.text)
            created_keys.append(
                json.dumps(
                    key(1, name="svc-one", expiresAt=expires_at[1] if expires_at else "")
                ).encode()
            )
            create(request)
        elif b"generateApiKeyToken" in request.body:
            mint(request)
        elif b"universalIdentifier" in request.body:  # 1.x, which lets an API key write
            field = 'Cannot query field "universalIdentifier" on type "Role".'
            request.answer({"errors": [{"message": field}]})
        elif b"currentWorkspace" in request.body:
            request.answer({"data": {"currentWorkspace": {"id": WORKSPACE}}})
        else:
            keys = [json.loads(entry) for entry in created_keys]
            role = ROLE | {"apiKeys": [{"id": entry["id"]} for entry in keys]}
            request.answer(core(keys, [role]))

    return behave


def created(**changes: object) -> Callable[[HostileRequest], None]:
    return answers({"data": {"k0": key(1, name="svc-one") | changes}})


def minted(value: object) -> Callable[[HostileRequest], None]:
    return answers({"data": {"generateApiKeyToken": {"token": value}}})


REFUSED, WRONG = minted(""), token(jti=ID.format(2), exp=4102444800)
CREATES: dict[
    str, tuple[Callable[[HostileRequest], object], Callable[[HostileRequest], object], str]
] = {
    "the create is closed": (closes, REFUSED, ""),
    "the create drips": (drips_lines, REFUSED, ""),
    "the create never ends": (endless, REFUSED, ""),
    "the create is a bomb": (bomb("gzip", GZIP), REFUSED, ""),
    "the create shows a path": (created(id="../../x"), REFUSED, ""),
    "the create shows a megabyte": (created(x="a" * MIB), REFUSED, ""),
    "the create draws": (created(description="\x1b[2J\x9b2J"), REFUSED, ""),
    "a token for another key": (created(), minted(WRONG), "token_refused"),
    "a token that ended": (created(), minted(token(jti=ID.format(1), exp=1)), "token_refused"),
    "a token that is a list": (created(), minted(["a"]), "unexpected_answer"),
    "a token of two lines": (created(), minted("a\r\nX-Evil: 1\nB=2"), ""),
    "a token of a megabyte": (created(), minted("a" * MIB), "token_refused"),
    "a token that is our own": (created(), minted(TOKEN), "token_refused"),
}


@in_groups(CREATES)
def test_no_answer_to_a_create_or_a_mint_harms(tmp_path: Path, cases: list[str]) -> None:
    """The created key is found by reading the list; a token of another key is not delivered."""

    def check(case: str, workdir: Workdir) -> None:
        create, mint, expected = CREATES[case]
        sink = {"file": "out.env", "variable": "KEY"}
        with HostileServer(shop(create, mint)) as server:
            workdir.write_manifests(
                server.url,
                ({"name": "svc-one", "deliver": [sink]},),
                generation="core",
            )
            ran = check_run(workdir.run("apply", "--log-level", "debug"))
            assert ran.code == 4
            assert expected in ran.output
            assert not (workdir.folder / "out.env").exists()
            assert sum(b"createApiKey" in entry for entry in server.received) == 1
            assert not any(b"\r\nX-Evil" in entry for entry in server.received)

    run_cases(check, cases, tmp_path)


# A terminal


def on_terminal(workdir: Workdir, *arguments: str) -> bytes:
    """Return the output of a command on its own terminal."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "provisioner", *arguments],
        cwd=workdir.folder,
        env=workdir.environment() | {"TERM": "xterm-256color", "COLUMNS": "100"},
        stdin=child,
        stdout=child,
        stderr=child,
    ):
        os.close(child)
        written = bytearray()
        deadline = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < deadline and select.select([parent], [], [], LIMIT_SECONDS)[0]:
            try:
                written += os.read(parent, 65536)
            except OSError:  # no process has the terminal open any more
                break
    os.close(parent)
    return bytes(written)


OWN_SEQUENCES = re.compile(r"\x1b\[[0-9;]*[mG]|\r\x1b\[[0-9]+A\x1b\[J")
"""What the program itself writes: colours, positions of columns, and what erases its own lines."""


@pytest.mark.parametrize(
    "arguments",
    [("plan",), ("list",), ("report",), ("doctor",), ("apply", "--yes"), ("export",)]
    + [("plan", "--log-format", "json", "--log-level", "debug"), ("revoke", *NAMES.values())],
    ids=" ".join,
)
def test_nothing_is_drawn_on_a_terminal(workdir: Workdir, arguments: tuple[str, ...]) -> None:
    """Control characters in names, labels, ids and errors are escaped, not sent to a terminal."""
    workdir.secret = "eyJshort"
    roles = [
        ROLE | {"id": ID.format(n), "label": name[:200]} for n, name in enumerate(NAMES.values())
    ]
    roles[0] |= {"apiKeys": [{"id": entry["id"]} for entry in EVIL]}
    errors = [{"message": name[:200]} for name in NAMES.values()]

    def behave(request: HostileRequest) -> None:
        is_write = b"createApiKey" in request.body or b"revoke" in request.body
        request.answer({"errors": errors} if is_write else core(EVIL, roles))

    with HostileServer(behave) as server:
        workdir.write_manifests(
            server.url, generation="core", owns=["*"], role=NAMES["C1"][:3].strip("\x9b")
        )
        arguments = tuple(entry for entry in arguments if "\x00" not in entry)
        written = on_terminal(workdir, *arguments).decode()
    assert len(written) > 100
    assert control_characters(OWN_SEQUENCES.sub("", written).replace("\r\n", "\n")) == set()


# Sinks that speak HTTP

SINKS: dict[str, tuple[Callable[[HostileRequest], None], str]] = {
    "endless body": (endless, "sink_unavailable"),
    "endless chunks": (endless_chunks, "sink_unavailable"),
    "10 MB header": (long_header, "sink_unavailable"),
    "bomb": (bomb("gzip", GZIP), "sink_unavailable"),
    "bomb in a bomb": (bomb("gzip, gzip", gzip.compress(GZIP)), "sink_unavailable"),
    "small objects": (answers(b"[" + b"{}," * 1_000_000 + b"{}]"), "sink_unavailable"),
    "deep": (answers(b"[" * 100_000), "sink_unavailable"),
    "redirect": (redirects(307, "http://127.0.0.1:1/"), "sink_unavailable"),
    "draws": (answers({"errors": ["\x1b[2J\x9b2J"]}, 400), "sink_"),
    "waits": (answers({}, 429, Retry_After="1000000000"), "sink_unavailable"),
}


@in_groups(SINKS)
def test_no_sink_harms(tmp_path: Path, cases: list[str]) -> None:
    """A hostile GitLab or Vault makes the plan of a key fail, and nothing else."""

    def check(case: str, workdir: Workdir) -> None:
        behave, expected = SINKS[case]
        secret = "sinkCanary0123456789abcdef"
        with HostileServer(behave) as server:
            workdir.variables = {
                "VAULT_ADDR": server.url,
                "VAULT_TOKEN": secret,
                "GITLAB_API_URL": f"{server.url}/api/v4",
                "GITLAB_TOKEN": secret,
            }
            sinks = [{"gitlab": "acme/billing", "variable": "KEY"}, {"vault": "secret/twenty/one"}]
            sink = sinks[[*SINKS].index(case) % 2]
            workdir.write_manifests("sandbox:", ({"name": "svc-one", "deliver": [sink]},))
            ran = check_run(workdir.run("plan", "--log-level", "debug"), secret)
            assert (ran.code, expected in ran.output) == (4, True)
            assert all(secret.encode() in entry for entry in server.received)

    run_cases(check, cases, tmp_path)


DRIPS = (drips_head, drips_lines, drips_body, drips_chunks, drips_trailers, continues_slowly, never)


@pytest.mark.parametrize("sink", ["gitlab", "vault"])
@pytest.mark.parametrize("behave", DRIPS, ids=[entry.__name__ for entry in DRIPS])
def test_no_sink_holds_a_run(behave: Any, sink: str) -> None:
    """An answer that drips or hangs is abandoned after its limit (30 seconds, here 0.1)."""
    timeouts = (1.0, 0.1)
    with HostileServer(behave) as server:
        variables = {"VAULT_ADDR": server.url, "VAULT_TOKEN": "t"}
        started = time.monotonic()
        if sink == "vault":
            vault_server = vault.VaultServer(variables, sleep=lambda _: None, timeout=timeouts)
            call: Any = vault_server.sink(VaultAddress("secret", "one", "token")).check
        else:
            route, waits = Route(server.url), list[float]()
            api = http.Api(
                route, lambda _: http.Credential({}), {}, waits.append, timeouts=timeouts
            )
            call = partial(api.call, GithubAddress("acme", "KEY"), "GET", "/")
        with pytest.raises(SinkError) as caught:
            call()
        assert caught.value.code == "sink_unavailable"
        assert time.monotonic() - started < 5
