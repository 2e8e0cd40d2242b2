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


class Backend(ABC):
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
    def stored(self, place: int = 0) -> str | None:
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

    def test_a_prepared_sink_is_unchanged(self, backend: Backend) -> None:
        """Looking ahead finds nothing wrong with a sound place, and writes nothing."""
        backend.sink().check()
        assert backend.stored() is None
        assert isinstance(backend.sink().read(), Empty if backend.readable else (Empty, WriteOnly))

    def test_what_is_written_is_there(self, backend: Backend) -> None:
        """A token arrives whole, where the vendor's own tools see it and a new process reads it."""
        backend.sink().check()
        backend.sink().write(Secret(FIRST))
        assert backend.stored() == FIRST
        _assert_reads(backend, FIRST)

    def test_a_write_replaces(self, backend: Backend) -> None:
        """The last token written is the one that is there, by the same or another process."""
        sink = backend.sink()
        sink.write(Secret(FIRST))
        sink.write(Secret(SECOND))
        _assert_reads(backend, SECOND)
        backend.sink().write(Secret(FIRST))
        backend.sink().check()
        assert backend.stored() == FIRST
        _assert_reads(backend, FIRST)

    def test_the_same_again_is_no_failure(self, backend: Backend) -> None:
        """Writing what is there already changes nothing that can be seen."""
        backend.sink().write(Secret(FIRST))
        backend.sink().write(Secret(FIRST))
        assert backend.stored() == FIRST

    def test_neighbours_are_left_alone(self, backend: Backend) -> None:
        """Other places of the same container keep what they hold."""
        backend.sink(1).write(Secret(FIRST))
        backend.sink(0).write(Secret(SECOND))
        assert (backend.stored(0), backend.stored(1), backend.stored(2)) == (SECOND, FIRST, None)

    def test_writers_at_once_lose_nothing(self, backend: Backend) -> None:
        """Processes that write different places of one container at once all succeed."""
        start = threading.Barrier(WRITERS)

        def write(place: int) -> None:
            sink = backend.sink(place)
            start.wait(30)
            sink.write(Secret(f"{FIRST}{place}"))

        with ThreadPoolExecutor(WRITERS) as threads:
            list(threads.map(write, range(WRITERS)))
        assert [backend.stored(n) for n in range(WRITERS)] == [
            f"{FIRST}{n}" for n in range(WRITERS)
        ]

    def test_writers_of_one_place_leave_one_of_their_tokens(self, backend: Backend) -> None:
        """Of processes that write one place at once one wins, and nobody's token is torn."""
        start = threading.Barrier(2)

        def write(token: str) -> None:
            sink = backend.sink()
            start.wait(30)
            sink.write(Secret(token))

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(write, (FIRST, SECOND)))
        assert backend.stored() in (FIRST, SECOND)

    def test_strange_names_work(self, backend: Backend) -> None:
        """Names with blanks, accents and signs lead to places of their own."""
        sinks = backend.strange_names()
        for number, sink in enumerate(sinks):
            sink.check()
            sink.write(Secret(f"{FIRST}{number}"))
        if backend.readable:
            assert [_value(sink) for sink in sinks] == [f"{FIRST}{n}" for n in range(len(sinks))]

    def test_refused_permission_is_told(self, backend: Backend, caplog) -> None:
        """A place that may not be written fails as `sink_denied`, when prepared or written."""
        with backend.denied():
            _assert_fails(backend, caplog, {"sink_denied"}, backend.sink)

    def test_an_unreachable_sink_is_told(self, backend: Backend, caplog) -> None:
        """A place that does not answer fails as `sink_unavailable`, prepared, read or written."""
        with backend.unreachable():
            _assert_fails(backend, caplog, {"sink_unavailable"}, backend.sink)

    def test_a_wrong_credential_is_told(self, backend: Backend, caplog) -> None:
        """A credential that is not right fails as `sink_denied`."""
        with backend.wrong_credential():
            _assert_fails(backend, caplog, {"sink_denied"}, backend.sink)

    def test_a_failed_write_loses_nothing(self, backend: Backend) -> None:
        """After a write that failed the place holds what it held, and the next one succeeds."""
        backend.sink().write(Secret(FIRST))
        with backend.unreachable(), pytest.raises(SinkError):
            backend.sink().write(Secret(SECOND))
        assert backend.stored() == FIRST
        backend.sink().write(Secret(SECOND))
        assert backend.stored() == SECOND

    def test_an_update_time_is_the_time_of_the_write(self, backend: Backend) -> None:
        """A sink that tells when it was written tells the truth."""
        if backend.readable:
            pytest.skip("what can be read needs no time")
        before = datetime.now(UTC).replace(microsecond=0)
        backend.sink().write(Secret(FIRST))
        content = backend.sink().read()
        assert isinstance(content, WriteOnly)
        if content.updated_at is not None:
            assert before <= content.updated_at <= datetime.now(UTC)


def _value(sink: Sink) -> str:
    content = sink.read()
    assert isinstance(content, StoredValue)
    return content.value.reveal()


def _assert_reads(backend: Backend, token: str) -> None:
    content = backend.sink().read()
    if backend.readable:
        assert isinstance(content, StoredValue)
        assert content.value.reveal() == token
    else:
        assert isinstance(content, WriteOnly)


def _assert_fails(backend: Backend, caplog, codes: set[str], opened: Callable[[], Sink]) -> None:
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
            assert backend.credential is None or backend.credential not in told
            last = step
    assert {error.code for error in errors} <= codes
    assert errors
    assert last == "write"
    assert all(error.message and error.remedy for error in errors)
    # What libraries log is masked where it is written out (tests/test_secret.py).
    ours = [one for one in caplog.records if one.name.startswith("provisioner")]
    assert not [one for one in ours if FIRST in one.getMessage()]
    assert backend.stored() is None
