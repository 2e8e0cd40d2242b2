"""A server that means harm can refuse, and nothing else.

Each case is a real process against a raw socket: it ends with an exit code of docs/errors.md and a
message, within 10 seconds and 200 MB, its credential goes to no other host and is not shown, and
nothing that it writes acts on a terminal. `docs/security.md` says what the defaults make of this.
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
from hostile import LIMIT_MEGABYTES, LIMIT_SECONDS, Asked, Hostile, Place, Ran, token

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_address import GithubAddress, VaultAddress
from provisioner.sinks import http, vault

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
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, TOKEN)


def pieces(secret: str) -> set[str]:
    """The secret and its tell-tale parts, as they are and as they may be written."""
    found = {secret, quote(secret, safe=""), *secret.rsplit(".", 1), secret[: len(secret) // 2]}
    for offset in range(3):
        packed = base64.b64encode(bytes(offset) + secret.encode()).decode()
        found.add(packed[8:-8])
    return found


def held(ran: Ran, secret: str = TOKEN) -> Ran:
    """What holds of every run, whatever the server did."""
    assert ran.seconds < LIMIT_SECONDS
    assert ran.megabytes < LIMIT_MEGABYTES
    assert "Traceback" not in ran.err
    assert "This is a bug" not in ran.err
    assert not [piece for piece in pieces(secret) if piece in ran.said]
    assert drawn(ran.said) == set()
    return ran


def drawn(text: str) -> set[str]:
    """The signs of a text that a terminal acts on, or that turn the direction of what it shows."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {sign for sign in {*text} if unicodedata.category(sign) in kinds} - {"\n"}


# What any request is answered with


def drips_head(asked: Asked) -> None:
    asked.say(HEAD)
    asked.for_ever(b"X", every=0.05)


def drips_lines(asked: Asked) -> None:
    asked.say(HEAD)
    asked.for_ever(b"X-A: b\r\n", every=0.05)


def drips_status(asked: Asked) -> None:
    asked.for_ever(b"H", every=0.05)


def drips_body(asked: Asked) -> None:
    asked.say(JSON_HEAD + b"Content-Length: 100000\r\n\r\n")
    asked.for_ever(b" ", every=0.05)


def drips_chunks(asked: Asked) -> None:
    asked.say(CHUNKED)
    asked.for_ever(b"1\r\n \r\n", every=0.05)


def drips_trailers(asked: Asked) -> None:
    asked.say(CHUNKED + b"2\r\n[]\r\n0\r\n")
    asked.for_ever(b"X-A: b\r\n", every=0.05)


def continues(asked: Asked) -> None:
    asked.for_ever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def continues_slowly(asked: Asked) -> None:
    asked.for_ever(b"HTTP/1.1 100 Continue\r\n\r\n", every=0.05)


def never(asked: Asked) -> None:
    asked.over.wait(30)


def closes(_: Asked) -> None:
    pass


def endless(asked: Asked) -> None:
    asked.say(JSON_HEAD + b"\r\n")
    asked.for_ever(b" " * MIB)


def endless_with_length(asked: Asked) -> None:
    asked.say(JSON_HEAD + b"Content-Length: 99999999999999\r\n\r\n")
    asked.for_ever(b" " * MIB)


def endless_chunks(asked: Asked) -> None:
    asked.say(CHUNKED)
    asked.for_ever(b"100000\r\n" + b" " * MIB + b"\r\n")


def endless_small_chunks(asked: Asked) -> None:
    asked.say(CHUNKED)
    asked.for_ever(b"1\r\n \r\n" * 10_000)


def endless_chunk_size(asked: Asked) -> None:
    asked.say(CHUNKED)
    asked.for_ever(b"0" * MIB)


def endless_trailers(asked: Asked) -> None:
    asked.say(CHUNKED + b"2\r\n[]\r\n0\r\n")
    asked.for_ever(b"X-A: b\r\n" * 10_000)


def long_header(asked: Asked) -> None:
    asked.say(HEAD + b"X-A: " + b"a" * 10 * MIB + b"\r\nContent-Length: 2\r\n\r\n[]")


def long_status(asked: Asked) -> None:
    asked.say(b"HTTP/1.1 200 " + b"a" * 10 * MIB + b"\r\n\r\n[]")


def many_headers(asked: Asked) -> None:
    asked.say(HEAD + b"X-A: b\r\n" * 100_000 + b"Content-Length: 2\r\n\r\n[]")


def large_headers(asked: Asked) -> None:
    """As many and as long as Python takes."""
    asked.say(HEAD + (b"X-A: " + b" ;=," * 16_000 + b"\r\n") * 98 + b"Content-Length: 1\r\n\r\n!")


def cookies(asked: Asked) -> None:
    """Dates of cookies that backtrack, names without end, and ones for every other host."""
    lines = [
        "a=b; expires=" + " " * 60_000 + "x",
        "a=b; expires=1-" + "a" * 60_000 + "-1",
        "=;" * 30_000,
        'a="' + "\\" * 60_000,
        "session=hostile; Domain=.127.0.0.1; Path=/; Max-Age=99999999999999999999",
    ]
    asked.answer(b"!", headers=tuple(("Set-Cookie", line) for line in lines * 18))


def bomb(encodings: str, packed: bytes) -> Callable[[Asked], None]:
    return lambda asked: asked.answer(packed, headers=(("Content-Encoding", encodings),))


GZIP = gzip.compress(b" " * MIB, 9) * 200
"""200 MiB in as many members."""


def deflated() -> bytes:
    """200 MiB that repeat one block, of which none refers to another."""
    packer = zlib.compressobj(9)
    first = packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return first + (packer.compress(b" " * MIB) + packer.flush(zlib.Z_FULL_FLUSH)) * 199


def endless_bomb(asked: Asked) -> None:
    asked.say(JSON_HEAD + b"Content-Encoding: gzip\r\n\r\n")
    asked.for_ever(GZIP)


def packed_as(encoding: str, body: bytes) -> Callable[[Asked], None]:
    return lambda asked: asked.answer(body, headers=(("Content-Encoding", encoding),))


def empty_blocks(asked: Asked) -> None:
    """Packed bytes that unpack to nothing, for ever."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    asked.say(JSON_HEAD + b"Content-Encoding: gzip\r\n\r\n" + packer.flush(zlib.Z_SYNC_FLUSH))
    asked.for_ever(b"\x00\x00\x00\xff\xff" * 100_000)


def lying_length(length: str, body: bytes) -> Callable[[Asked], None]:
    def behave(asked: Asked) -> None:
        asked.say(JSON_HEAD + f"Content-Length: {length}\r\n\r\n".encode() + body)

    return behave


def raw(data: bytes) -> Callable[[Asked], None]:
    return lambda asked: asked.say(data)


def says(body: bytes | object, status: int = 200, **headers: str) -> Callable[[Asked], None]:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return lambda asked: asked.answer(body, status, named)


TIMEOUT, LOST, STRANGE = "timeout: ", "connection_lost: ", "unexpected_answer: "

WIRE: dict[str, tuple[Callable[[Asked], None], str]] = {
    "no answer": (never, TIMEOUT),
    "closed at once": (closes, LOST),
    "status line drips": (drips_status, TIMEOUT),
    "one header drips": (drips_head, TIMEOUT),
    "headers drip": (drips_lines, TIMEOUT),
    "body drips": (drips_body, TIMEOUT),
    "chunks drip": (drips_chunks, TIMEOUT),
    "trailers drip": (drips_trailers, TIMEOUT),
    "continues slowly": (continues_slowly, TIMEOUT),
    "continues for ever": (continues, f"{TIMEOUT}|{STRANGE}"),
    "endless body": (endless, f"{TIMEOUT}|{STRANGE}"),
    "endless body with a length": (endless_with_length, f"{TIMEOUT}|{STRANGE}"),
    "endless chunks": (endless_chunks, f"{TIMEOUT}|{STRANGE}"),
    "endless small chunks": (endless_small_chunks, f"{TIMEOUT}|{STRANGE}"),
    "endless size of a chunk": (endless_chunk_size, LOST),
    "endless trailers": (endless_trailers, f"{TIMEOUT}|{STRANGE}"),
    "10 MB header": (long_header, LOST),
    "10 MB status line": (long_status, LOST),
    "100 000 headers": (many_headers, LOST),
    "6 MB of headers": (large_headers, STRANGE),
    "cookies": (cookies, STRANGE),
    "gzip bomb": (bomb("gzip", GZIP), STRANGE),
    "endless gzip bomb": (endless_bomb, f"{TIMEOUT}|{STRANGE}"),
    "gzip that unpacks to nothing": (empty_blocks, f"{TIMEOUT}|{STRANGE}"),
    "gzip in gzip": (bomb("gzip, gzip", gzip.compress(GZIP)), STRANGE),
    "gzip in gzip in gzip": (bomb("gzip,gzip,gzip", gzip.compress(gzip.compress(GZIP))), STRANGE),
    "deflate bomb": (bomb("deflate", deflated()), STRANGE),
    "raw deflate": (packed_as("deflate", b"\x00" * 1000), LOST),
    "br": (packed_as("br", b"\x8b\x03\x80\x03" * 1000), STRANGE),
    "zstd with a window of 2 GB": (packed_as("zstd", b"\x28\xb5\x2f\xfd\x00\xa8[]"), STRANGE),
    "a hundred encodings": (packed_as(", ".join(["gzip"] * 100), b"[]"), STRANGE),
    "length too long": (lying_length("1000", b"[]"), LOST),
    "length too short": (lying_length("1", b"[]"), STRANGE),
    "two lengths": (lying_length("2, 3", b"[]"), LOST),
    "length that is none": (lying_length("-1", b'{"data":'), STRANGE),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.2\r\n" * 1000), LOST),
    "HTTP/0.9": (raw(b"<html>hello</html>"), LOST),
    "status that is none": (raw(b"HTTP/1.1 99999 X\r\n\r\n"), LOST),
    "zeros": (raw(bytes(5 * MIB)), LOST),
    "HTML": (says(b"<html>" + b"<p>" * 100_000), STRANGE),
    "asks to wait 30 years": (says({}, 429, Retry_After="1000000000"), "rate_limited: "),
    "asks to wait until 9999": (
        says({}, 429, Retry_After="Fri, 31 Dec 9999 23:59:59 GMT"),
        "rate_limited: ",
    ),
    "asks to wait by its body": (says({"retryAfterSeconds": 1e308}, 429), "rate_limited: "),
    "asks to wait less than nothing": (says(b"", 500, Retry_After="-5"), "server_error: "),
}
COMMANDS = ("plan", "list", "doctor", "apply", "report", "export")
BESIDE = 3
"""Cases of one test, which mostly wait; pytest runs several of those side by side too."""


def beside(check: Callable[[str, Place], None], cases: Iterable[str], folder: Path) -> None:
    """Checks cases at the same time, each in a folder of its own, and names those that failed."""

    def one(number: int, case: str) -> Exception | None:
        (folder / str(number)).mkdir()
        try:
            check(case, Place(folder / str(number), TOKEN))
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - told below, all of them
            error.add_note(f"in the case: {case}")
            return error
        return None

    with ThreadPoolExecutor(BESIDE) as pool:
        failed = [error for error in pool.map(one, count(), cases) if error is not None]
    if failed:
        raise ExceptionGroup(f"{len(failed)} cases", failed)


def in_groups(cases: Iterable[str]) -> Any:
    """The cases as parameters of tests, some in each."""
    names = [*cases]
    groups = [names[start : start + BESIDE] for start in range(0, len(names), BESIDE)]
    return pytest.mark.parametrize("cases", groups, ids=[group[0] for group in groups])


@in_groups(WIRE)
def test_no_answer_holds_a_run_or_fills_its_memory(tmp_path: Path, cases: list[str]) -> None:
    """Whatever comes in place of an answer: exit 4, one of the words for it, within the bounds."""

    def check(case: str, place: Place) -> None:
        behave, words = WIRE[case]
        # In turn, for one process takes the time of a case; all share the way to the server.
        command = COMMANDS[[*WIRE].index(case) % len(COMMANDS)]
        with Hostile(behave) as server:
            place.declare(server.url)
            ran = held(place.run(command, "--log-level", "debug"))
            assert ran.code == 4
            # `doctor` tells what to do in words of its own.
            assert command == "doctor" or re.search(words, ran.said)
            assert server.asked
            assert all(f"Bearer {TOKEN}".encode() in one for one in server.asked)

    beside(check, cases, tmp_path)


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


def core(keys: object, roles: object = (ROLE,), **beside: object) -> dict[str, object]:
    """The answer of the core generation to the one read of keys and roles."""
    return {"data": {"apiKeys": keys, "getRoles": roles}, **beside}


def text_of(document: object, **replaced: str) -> bytes:
    """JSON in which marks are replaced by what json.dumps does not write."""
    text = json.dumps(document)
    for mark, what in replaced.items():
        text = text.replace(f'"{mark}"', what)
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
    "deep": (b"[" * 100_000, STRANGE),
    "deep objects": (b'{"data":' * 100_000, STRANGE),
    "deep within a record": (
        text_of(core([key(0, x="X")]), X="[" * 500 + "]" * 500),
        STRANGE,
    ),
    "a million small objects": (b"[" + b"{}," * 1_000_000 + b"{}]", STRANGE),
    "a million objects of one": (b'[{"a":0}' + b',{"a":0}' * 1_400_000 + b"]", STRANGE),
    "six million numbers": (b"[0" + b",0" * (6 * MIB - 2) + b"]", STRANGE),
    "as many values as are read": (b"[0" + b',{"ab":"cd"}' * 249_000 + b"]", STRANGE),
    "one text of 11 MB with one wide sign": (
        text_of(core([key(0, name="X")]), X='"' + "n" * (11 * MIB) + "\U0001f512" + '"'),
        STRANGE,
    ),
    "a huge number": (text_of(core([], totalCount="X"), X="9" * 5_000_000), STRANGE),
    "a huge exponent": (text_of(core([key(0, name="X")]), X="1e999999999"), STRANGE),
    "NaN": (text_of(core([key(0, expiresAt="X")]), X="NaN"), STRANGE),
    "one half of a surrogate pair": (text_of(core([key(0, name="X")]), X='"\\ud83d"'), STRANGE),
    "the same in bytes": (text_of(core([])) + b' "\xed\xa0\xbd"', STRANGE),
    "no UTF-8": (text_of(core([key(0, name="X")])).replace(b'"X"', b'"\xff\xfe"'), STRANGE),
    "UTF-32": (json.dumps(core([])).encode("utf-32"), STRANGE),
    "id that is a number": (core([key(0, id=7)]), STRANGE),
    "id that is a path": (core([key(0, id="../../rest/webhooks")]), STRANGE),
    "id that is two dots": (core([key(0, id="..")]), STRANGE),
    "id that draws": (core([key(0, id="\x1b[2J")]), STRANGE),
    "id that is empty": (core([key(0, id="")]), STRANGE),
    "id of a megabyte": (core([key(0, id="a" * MIB)]), STRANGE),
    "name that is an object": (core([key(0, name={"a": 1})]), STRANGE),
    "name of a megabyte": (core([key(0, name="a" * MIB)]), STRANGE),
    "date that is none": (core([key(0, expiresAt="9" * MIB)]), STRANGE),
    "roles that are a text": (core([], "x" * MIB), STRANGE),
    "role of a megabyte": (core([], [ROLE | {"label": "a" * MIB}]), STRANGE),
    "a role's key that is a path": (core([], [ROLE | {"apiKeys": [{"id": "../x"}]}]), STRANGE),
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
        core([], [ROLE | {"label": f"role {n}", "id": ID.format(n)} for n in range(50_000)]),
        "",
    ),
    "50 000 keys": (core([key(number) for number in range(50_000)]), ""),
    "50 000 keys of one name": (core([key(n, name="svc-one") for n in range(50_000)]), ""),
    "the ends of time": (core(EXTREMES), ""),
}


@in_groups(LISTS)
def test_no_list_harms(tmp_path: Path, cases: list[str]) -> None:
    """A list is refused as a whole with its word, or what it says is told; harmless either way."""

    def check(case: str, place: Place) -> None:
        body, words = LISTS[case]
        command = ("plan", "list", "report")[[*LISTS].index(case) % 3]
        with Hostile(says(body, Date=format_datetime(datetime.now(UTC), usegmt=True))) as server:
            place.declare(server.url, generation="core", timeout="3s")
            ran = held(place.run(command, "--log-level", "debug"))
            if not words:
                again = held(place.run("plan", "--format", "json", "--log-format", "json"))
                json.loads(again.out)
                assert all(json.loads(line) for line in again.err.splitlines())
        assert ran.code in ((4,) if words else (0, 4, 5))
        assert words in ran.said

    beside(check, cases, tmp_path)


DATES = {
    "none": "",
    "no date": "yesterday \x1b[2J",
    "the first": "Mon, 01 Jan 0001 00:00:00 GMT",
    "before the first": "Mon, 01 Jan 0001 00:00:00 +2359",
    "the last": "Fri, 31 Dec 9999 23:59:59 GMT",
    "after the last": "Fri, 31 Dec 9999 23:59:59 -2359",
    "no such day": "Mon, 99 Foo 99999999999999999999 99:99:99 GMT",
    "ten thousand digits": "Mon, 01 Jan " + "9" * 10_000 + " 00:00:00 GMT",
}


@in_groups(DATES)
def test_no_date_of_a_server_harms(tmp_path: Path, cases: list[str]) -> None:
    """A clock that is far off is a guard's matter, one that is none is passed over."""

    def check(case: str, place: Place) -> None:
        keys = [key(0, name="svc-one"), *EXTREMES[:2]]
        with Hostile(says(core(keys), Date=DATES[case])) as server:
            place.declare(server.url, ({"name": "svc-one"},), generation="core", owns=["*"])
            command = (("plan", "--prune"), ("report",))[[*DATES].index(case) % 2]
            ran = held(place.run(*command, "--log-level", "debug"))
            assert ran.code in (0, 5)
            assert ran.code == 0 or "clock_off: " in ran.err

    beside(check, cases, tmp_path)


# Lists in pages


def page(number: int, size: int = 60, total: str = "1000000000", **info: object) -> bytes:
    shown = {"hasNextPage": True, "startCursor": "", "endCursor": f"c{number}"} | info
    told = f'{{"data": {{"apiKeys": %s}}, "pageInfo": {json.dumps(shown)}, "totalCount": {total}}}'
    return told.encode() % keys_of(size).replace(b"4000-8000", b"%04d-8000" % number)


@cache
def keys_of(size: int) -> bytes:
    return json.dumps([key(number) for number in range(size)]).encode()


def pages(make: Callable[[int], object], seconds: float = 0.0) -> Callable[[Asked], None]:
    numbers = count()

    def behave(asked: Asked) -> None:
        time.sleep(seconds)
        asked.answer(make(next(numbers)))

    return behave


PAGES: dict[str, tuple[Callable[[Asked], None], str]] = {
    "pages of one key, each new": (pages(lambda n: page(n, 1)), f"{STRANGE}|{TIMEOUT}"),
    "names without end, each new": (
        pages(lambda n: page(n, 100).replace(b'"name": "', b'"name": "' + b"n" * 90_000)),
        STRANGE,
    ),
    "large pages, each new": (pages(lambda n: page(n, 20_000)), STRANGE),
    "pages of one key, each slow": (pages(lambda n: page(n, 1), 0.1), TIMEOUT),
    "the same page": (says(page(0)), STRANGE),
    "the same keys, new cursors": (pages(lambda n: page(0, endCursor=f"c{n}")), STRANGE),
    "new keys, the same cursor": (pages(lambda n: page(n, endCursor="c")), STRANGE),
    "a cursor of a megabyte": (pages(lambda n: page(n, endCursor="c" * MIB)), STRANGE),
    "a cursor that is a path": (
        pages(lambda n: page(n, 10_000, endCursor=f"../{n}\r\nX: y&#?")),
        STRANGE,
    ),
    "a cursor that is a list": (pages(lambda n: page(n, endCursor=[])), STRANGE),
    "a total that lies": (pages(lambda n: page(n, hasNextPage=False)), STRANGE),
    "a total of ten thousand digits": (
        pages(lambda n: page(n, total="9" * 4_000, hasNextPage=False)),
        STRANGE,
    ),
    "no word of a next page": (pages(lambda n: page(n, hasNextPage="no")), STRANGE),
}


@in_groups(PAGES)
def test_no_list_goes_on_for_ever(tmp_path: Path, cases: list[str]) -> None:
    """Cursors that lead in a circle, or ever on, end with a word and not with the memory."""

    def check(case: str, place: Place) -> None:
        behave, words = PAGES[case]
        with Hostile(behave) as server:
            place.declare(server.url, generation="legacy", timeout="1s")
            ran = held(place.run("plan", "--log-level", "error"))
            assert (ran.code, bool(re.search(words, ran.out))) == (4, True)
            assert all(one.startswith(b"GET /rest/apiKeys?limit=60") for one in server.asked)

    beside(check, cases, tmp_path)


# Where the credential may not go


def onwards(status: int, location: str) -> Callable[[Asked], None]:
    """A redirect, with a body that never ends for those who read it on the way."""

    def behave(asked: Asked) -> None:
        asked.say(f"HTTP/1.1 {status} X\r\nLocation: {location}\r\n".encode("latin-1"))
        asked.say(b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")

    return behave


def onwards_to(status: int, target: list[str]) -> Callable[[Asked], None]:
    """The same, to where is known only once it runs."""
    return lambda asked: onwards(status, *target)(asked)  # noqa: PLW0108 - it is empty so far


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
    "to itself for ever": (302, "{self}/rest/apiKeys?limit=60&depth=0"),
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
    """Nobody but the declared address is ever called, and no secret of a target is told."""

    def check(case: str, place: Place) -> None:
        status, location = REDIRECTS[case]
        target: list[str] = []
        with (
            Hostile(says({"data": {}})) as trap,
            Hostile(onwards_to(status, target)) as server,
        ):
            values = {"trap": trap.url, "port": trap.port, "self": server.url, "secret": TOKEN}
            target.append(location.format(**values, most=TOKEN[:-9]))
            place.declare(server.url)
            command = ("plan", "doctor", "apply")[[*REDIRECTS].index(case) % 3]
            ran = held(place.run(command, "--log-level", "debug"))
            assert ran.code == 4
            assert trap.asked == []
            assert len(server.asked) <= 4

    beside(check, cases, tmp_path)


@pytest.mark.parametrize("status", [302, 307, 308])
def test_no_redirect_gets_the_password(place: Place, status: int) -> None:
    """The sign-in sends it in a body, which a 307 asks to send again elsewhere."""
    place.variables = {"MAIL": "mail-canary@example.com", "WORD": "passwordCanary+/ü"}
    with Hostile(says({})) as trap, Hostile(onwards(status, f"{trap.url}/metadata")) as server:
        place.declare(server.url, auth={"email": "${MAIL}", "password": "${WORD}"})
        ran = held(place.run("plan", "--log-level", "debug"), "passwordCanary+/ü")
        assert ran.code == 4
        assert "Canary" not in ran.said
        assert "canary@" not in ran.said
        assert (trap.asked, len(server.asked)) == ([], 1)


SIGN_INS: dict[str, object] = {
    "the password in the error": {"errors": [{"message": "no: mail-canary@e.com passwordCanary"}]},
    "a login token of a megabyte": {
        "data": {"getLoginTokenFromCredentials": {"loginToken": {"token": "a" * MIB}}}
    },
    "a login token of a megabyte of signs that are written in many ways": {
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
    """What is echoed or made up there is not shown, not even on the most talkative level."""

    def check(case: str, place: Place) -> None:
        place.variables = {"MAIL": "mail-canary@e.com", "WORD": "passwordCanary"}
        with Hostile(says(SIGN_INS[case])) as server:
            sign_in = {"email": "${MAIL}", "password": "${WORD}"}
            place.declare(server.url, auth=sign_in, timeout="5s")
            ran = held(place.run("list", "--log-level", "debug"), "passwordCanary")
            assert ran.code == 4
            assert not re.search("[cC]anary", ran.said)
            assert re.search("sign_in_failed: |unexpected_answer: ", ran.said)
            assert not any(b"\r\nX-Evil" in one or b"\r\nX: y" in one for one in server.asked)

    beside(check, cases, tmp_path)


# Creates and tokens


def shop(create: Callable[[Asked], object], mint: Callable[[Asked], object]) -> Any:
    """A workspace in which a key stands from its create on, whatever the answer to that was."""
    made: list[bytes] = []

    def behave(asked: Asked) -> None:
        if b"createApiKey" in asked.body:
            ends = re.search(r'"expiresAt": ?"([^"]+)"', asked.words)
            made.append(
                json.dumps(key(1, name="svc-one", expiresAt=ends[1] if ends else "")).encode()
            )
            create(asked)
        elif b"generateApiKeyToken" in asked.body:
            mint(asked)
        elif b"__typename" in asked.body:
            asked.answer({"data": {"__typename": "Query"}})
        else:
            keys = [json.loads(one) for one in made]
            role = ROLE | {"apiKeys": [{"id": one["id"]} for one in keys]}
            asked.answer(core(keys, [role]))

    return behave


def created(**changes: object) -> Callable[[Asked], None]:
    return says({"data": {"k0": key(1, name="svc-one") | changes}})


def minted(value: object) -> Callable[[Asked], None]:
    return says({"data": {"generateApiKeyToken": {"token": value}}})


REFUSED, WRONG = minted(""), token(jti=ID.format(2), exp=4102444800)
MAKING: dict[str, tuple[Callable[[Asked], object], Callable[[Asked], object], str]] = {
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


@in_groups(MAKING)
def test_no_answer_to_a_create_or_a_mint_harms(tmp_path: Path, cases: list[str]) -> None:
    """The key is found by looking; a token that is not the key's is delivered nowhere."""

    def check(case: str, place: Place) -> None:
        create, mint, word = MAKING[case]
        sink = {"file": "out.env", "variable": "KEY"}
        with Hostile(shop(create, mint)) as server:
            place.declare(
                server.url,
                ({"name": "svc-one", "deliver": [sink]},),
                generation="core",
            )
            ran = held(place.run("apply", "--log-level", "debug"))
            assert ran.code == 4
            assert word in ran.said
            assert not (place.folder / "out.env").exists()
            assert sum(b"createApiKey" in one for one in server.asked) == 1
            assert not any(b"\r\nX-Evil" in one for one in server.asked)

    beside(check, cases, tmp_path)


# A terminal


def on_terminal(place: Place, *arguments: str) -> bytes:
    """What a command writes on a terminal of its own."""
    mine, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "provisioner", *arguments],
        cwd=place.folder,
        env=place.environment() | {"TERM": "xterm-256color", "COLUMNS": "100"},
        stdin=its,
        stdout=its,
        stderr=its,
    ):
        os.close(its)
        written = bytearray()
        end = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < end and select.select([mine], [], [], LIMIT_SECONDS)[0]:
            try:
                written += os.read(mine, 65536)
            except OSError:  # the last one who had it open is gone
                break
    os.close(mine)
    return bytes(written)


OURS = re.compile(r"\x1b\[[0-9;]*m")
"""Colours, which are our own."""


@pytest.mark.parametrize(
    "arguments",
    [("plan",), ("list",), ("report",), ("doctor",), ("apply", "--yes"), ("export",)]
    + [("plan", "--log-format", "json", "--log-level", "debug"), ("revoke", *NAMES.values())],
    ids=" ".join,
)
def test_nothing_is_drawn_on_a_terminal(place: Place, arguments: tuple[str, ...]) -> None:
    """Names of keys, labels of roles, ids and errors that would draw are shown, not obeyed."""
    place.secret = "eyJshort"
    roles = [
        ROLE | {"id": ID.format(n), "label": name[:200]} for n, name in enumerate(NAMES.values())
    ]
    roles[0] |= {"apiKeys": [{"id": one["id"]} for one in EVIL]}
    errors = [{"message": name[:200]} for name in NAMES.values()]

    def behave(asked: Asked) -> None:
        wrong = b"createApiKey" in asked.body or b"revoke" in asked.body
        asked.answer({"errors": errors} if wrong else core(EVIL, roles))

    with Hostile(behave) as server:
        place.declare(server.url, generation="core", owns=["*"], role=NAMES["C1"][:3].strip("\x9b"))
        arguments = tuple(one for one in arguments if "\x00" not in one)
        shown = on_terminal(place, *arguments).decode()
    assert len(shown) > 100
    assert drawn(OURS.sub("", shown).replace("\r\n", "\n")) == set()


# Sinks that speak HTTP

SINKS: dict[str, tuple[Callable[[Asked], None], str]] = {
    "endless body": (endless, "sink_unavailable"),
    "endless chunks": (endless_chunks, "sink_unavailable"),
    "10 MB header": (long_header, "sink_unavailable"),
    "bomb": (bomb("gzip", GZIP), "sink_unavailable"),
    "bomb in a bomb": (bomb("gzip, gzip", gzip.compress(GZIP)), "sink_unavailable"),
    "small objects": (says(b"[" + b"{}," * 1_000_000 + b"{}]"), "sink_unavailable"),
    "deep": (says(b"[" * 100_000), "sink_unavailable"),
    "redirect": (onwards(307, "http://127.0.0.1:1/"), "sink_unavailable"),
    "draws": (says({"errors": ["\x1b[2J\x9b2J"]}, 400), "sink_"),
    "waits": (says({}, 429, Retry_After="1000000000"), "sink_unavailable"),
}


@in_groups(SINKS)
def test_no_sink_harms(tmp_path: Path, cases: list[str]) -> None:
    """GitLab and Vault on loopback, as a key is to be delivered: nothing is made for them."""

    def check(case: str, place: Place) -> None:
        behave, word = SINKS[case]
        secret = "sinkCanary0123456789abcdef"
        with Hostile(behave) as server:
            place.variables = {
                "VAULT_ADDR": server.url,
                "VAULT_TOKEN": secret,
                "GITLAB_API_URL": f"{server.url}/api/v4",
                "GITLAB_TOKEN": secret,
            }
            sinks = [{"gitlab": "acme/billing", "variable": "KEY"}, {"vault": "secret/twenty/one"}]
            sink = sinks[[*SINKS].index(case) % 2]
            place.declare("sandbox:", ({"name": "svc-one", "deliver": [sink]},), timeout="30s")
            ran = held(place.run("plan", "--log-level", "debug"), secret)
            assert (ran.code, word in ran.said) == (4, True)
            assert all(secret.encode() in one for one in server.asked)

    beside(check, cases, tmp_path)


DRIPS = (drips_head, drips_lines, drips_body, drips_chunks, drips_trailers, continues_slowly, never)


@pytest.mark.parametrize("sink", ["gitlab", "vault"])
@pytest.mark.parametrize("behave", DRIPS, ids=[one.__name__ for one in DRIPS])
def test_no_sink_holds_a_run(behave: Any, sink: str) -> None:
    """One answer has 30 seconds, here a tenth of one, however it drips."""
    soon = (1.0, 0.1)
    with Hostile(behave) as server:
        variables = {"VAULT_ADDR": server.url, "VAULT_TOKEN": "t"}
        started = time.monotonic()
        if sink == "vault":
            told = vault.VaultServer(variables, sleep=lambda _: None, timeout=soon)
            ask: Any = told.sink(VaultAddress("secret", "one", "token")).check
        else:
            route, waits = http.Route(server.url), list[float]()
            api = http.Api(route, lambda _: http.Credential({}), {}, waits.append, timeouts=soon)
            ask = partial(api.call, GithubAddress("acme", "KEY"), "GET", "/")
        with pytest.raises(SinkError) as caught:
            ask()
        assert caught.value.code == "sink_unavailable"
        assert time.monotonic() - started < 5
