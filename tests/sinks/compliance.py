"""What every sink promises, as one suite: a test class of each kind inherits it with its stand."""

from __future__ import annotations

import logging
import threading
import traceback
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from provisioner.errors.exceptions import SinkError
from provisioner.secret import Secret
from provisioner.sinks.sink import Empty, StoredValue, WriteOnly

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from provisioner.sinks.sink import Sink

FIRST = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJjYW5hcnktMSJ9.first-canary-5f1c_-aaaaaaaaaaaaaaaaaaaaa"
SECOND = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJjYW5hcnktMiJ9.second-canary-9d2e_-bbbbbbbbbbbbbbbbbbbb"
WRITERS = 8


class Stand(ABC):
    """One real place, or a server that stands in for its vendor, with one container of places.

    Attributes:
        readable: whether the sink can be read back.
        credential: the secret that opens the place, where there is one; shown nowhere.
    """

    readable: bool = True
    credential: str | None = None

    @abstractmethod
    def sink(self, place: int = 0) -> Sink:
        """A sink as a new process would open it; places 0 to 9 share one container."""

    @abstractmethod
    def held(self, place: int = 0) -> str | None:
        """What the place holds, seen from the vendor's side; None where there is nothing."""

    @abstractmethod
    def strange_names(self) -> tuple[Sink, ...]:
        """Sinks of places whose names have blanks, accents, emoji, slashes, as far as allowed."""

    def denied(self) -> AbstractContextManager[None]:
        """Meanwhile the credential may neither read nor write; skip where nothing can."""
        pytest.skip("nothing here can refuse")

    def unreachable(self) -> AbstractContextManager[None]:
        """Meanwhile nothing answers."""
        pytest.skip("nothing here can be out of reach")

    def wrong_credential(self) -> AbstractContextManager[None]:
        """Meanwhile sinks are opened with a credential that is not right."""
        pytest.skip("there is no credential here")


class Compliance:
    """The promises. A subclass is called Test… and gives the fixture `stand`."""

    def test_a_prepared_sink_is_unchanged(self, stand: Stand) -> None:
        """Looking ahead finds nothing wrong with a sound place, and writes nothing."""
        stand.sink().check()
        assert stand.held() is None
        assert isinstance(stand.sink().read(), Empty if stand.readable else (Empty, WriteOnly))

    def test_what_is_written_is_there(self, stand: Stand) -> None:
        """A token arrives whole, where the vendor's own tools see it and a new process reads it."""
        stand.sink().check()
        stand.sink().write(Secret(FIRST))
        assert stand.held() == FIRST
        _assert_reads(stand, FIRST)

    def test_a_write_replaces(self, stand: Stand) -> None:
        """The last token written is the one that is there, by the same or another process."""
        sink = stand.sink()
        sink.write(Secret(FIRST))
        sink.write(Secret(SECOND))
        _assert_reads(stand, SECOND)
        stand.sink().write(Secret(FIRST))
        stand.sink().check()
        assert stand.held() == FIRST
        _assert_reads(stand, FIRST)

    def test_the_same_again_is_no_failure(self, stand: Stand) -> None:
        """Writing what is there already changes nothing that can be seen."""
        stand.sink().write(Secret(FIRST))
        stand.sink().write(Secret(FIRST))
        assert stand.held() == FIRST

    def test_neighbours_are_left_alone(self, stand: Stand) -> None:
        """Other places of the same container keep what they hold."""
        stand.sink(1).write(Secret(FIRST))
        stand.sink(0).write(Secret(SECOND))
        assert (stand.held(0), stand.held(1), stand.held(2)) == (SECOND, FIRST, None)

    def test_writers_at_once_lose_nothing(self, stand: Stand) -> None:
        """Processes that write different places of one container at once all succeed."""
        start = threading.Barrier(WRITERS)

        def write(place: int) -> None:
            sink = stand.sink(place)
            start.wait(30)
            sink.write(Secret(f"{FIRST}{place}"))

        with ThreadPoolExecutor(WRITERS) as threads:
            list(threads.map(write, range(WRITERS)))
        assert [stand.held(n) for n in range(WRITERS)] == [f"{FIRST}{n}" for n in range(WRITERS)]

    def test_writers_of_one_place_leave_one_of_their_tokens(self, stand: Stand) -> None:
        """Of processes that write one place at once one wins, and nobody's token is torn."""
        start = threading.Barrier(2)

        def write(token: str) -> None:
            sink = stand.sink()
            start.wait(30)
            sink.write(Secret(token))

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(write, (FIRST, SECOND)))
        assert stand.held() in (FIRST, SECOND)

    def test_strange_names_work(self, stand: Stand) -> None:
        """Names with blanks, accents and signs lead to places of their own."""
        sinks = stand.strange_names()
        for number, sink in enumerate(sinks):
            sink.check()
            sink.write(Secret(f"{FIRST}{number}"))
        if stand.readable:
            assert [_value(sink) for sink in sinks] == [f"{FIRST}{n}" for n in range(len(sinks))]

    def test_refused_permission_is_told(self, stand: Stand, caplog) -> None:
        """A place that may not be written fails as `sink_denied`, when prepared or written."""
        with stand.denied():
            _assert_fails(stand, caplog, {"sink_denied"}, stand.sink)

    def test_an_unreachable_sink_is_told(self, stand: Stand, caplog) -> None:
        """A place that does not answer fails as `sink_unavailable`, prepared, read or written."""
        with stand.unreachable():
            _assert_fails(stand, caplog, {"sink_unavailable"}, stand.sink)

    def test_a_wrong_credential_is_told(self, stand: Stand, caplog) -> None:
        """A credential that is not right fails as `sink_denied`."""
        with stand.wrong_credential():
            _assert_fails(stand, caplog, {"sink_denied"}, stand.sink)

    def test_a_failed_write_loses_nothing(self, stand: Stand) -> None:
        """After a write that failed the place holds what it held, and the next one succeeds."""
        stand.sink().write(Secret(FIRST))
        with stand.unreachable(), pytest.raises(SinkError):
            stand.sink().write(Secret(SECOND))
        assert stand.held() == FIRST
        stand.sink().write(Secret(SECOND))
        assert stand.held() == SECOND

    def test_an_update_time_is_the_time_of_the_write(self, stand: Stand) -> None:
        """A sink that tells when it was written tells the truth."""
        if stand.readable:
            pytest.skip("what can be read needs no time")
        before = datetime.now(UTC).replace(microsecond=0)
        stand.sink().write(Secret(FIRST))
        content = stand.sink().read()
        assert isinstance(content, WriteOnly)
        if content.updated_at is not None:
            assert before <= content.updated_at <= datetime.now(UTC)


def _value(sink: Sink) -> str:
    content = sink.read()
    assert isinstance(content, StoredValue)
    return content.value.reveal()


def _assert_reads(stand: Stand, token: str) -> None:
    content = stand.sink().read()
    if stand.readable:
        assert isinstance(content, StoredValue)
        assert content.value.reveal() == token
    else:
        assert isinstance(content, WriteOnly)


def _assert_fails(stand: Stand, caplog, codes: set[str], opened: Callable[[], Sink]) -> None:
    """The write fails with one of the codes; nothing secret in what is raised or logged."""
    caplog.set_level(logging.DEBUG)
    errors: list[SinkError] = []
    for step in ("check", "read", "write"):
        try:
            sink = opened()
            if step == "check":
                sink.check()
            elif step == "read":
                sink.read()
            else:
                sink.write(Secret(FIRST))
        except SinkError as error:
            errors.append(error)
            told = "".join(traceback.format_exception(error)) + error.message + error.remedy
            told += repr(error) + repr(sink)
            assert FIRST not in told
            assert stand.credential is None or stand.credential not in told
            last = step
    assert {error.code for error in errors} <= codes
    assert errors
    assert last == "write"
    assert all(error.message and error.remedy for error in errors)
    # What libraries log is masked where it is written out (tests/test_secret.py).
    ours = [one for one in caplog.records if one.name.startswith("provisioner")]
    assert not [one for one in ours if FIRST in one.getMessage()]
    assert stand.held() is None
