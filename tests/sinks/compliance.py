"""The promises of every sink, as one suite. The test class of each kind inherits it."""

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
from provisioner.model.sink_content import NoToken, Unreadable
from provisioner.secret import Secret
from provisioner.sinks.sink import RemovingSink, StoredValue

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from provisioner.sinks.sink import Sink

FIRST = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJjYW5hcnktMSJ9.first-canary-5f1c_-aaaaaaaaaaaaaaaaaaaaa"
SECOND = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJjYW5hcnktMiJ9.second-canary-9d2e_-bbbbbbbbbbbbbbbbbbbb"
WRITERS = 8


class Backend(ABC):
    """A real place, or a server that imitates a vendor, with one container of places.

    Attributes:
        readable: whether the sink can be read back.
        compares: whether a removal compares and removes in one step.
        credential: the secret that opens the place, if there is one; it must never be shown.
    """

    readable: bool = True
    compares: bool = True
    credential: str | None = None

    @abstractmethod
    def sink(self, place: int = 0) -> Sink:
        """Open a sink as a new process would; places 0 to 9 share one container."""

    @abstractmethod
    def stored(self, place: int = 0) -> str | None:
        """Return the content of a place as the vendor sees it; None if there is none."""

    @abstractmethod
    def strange_names(self) -> tuple[Sink, ...]:
        """Return sinks whose names have spaces, accents, emoji and slashes, as far as allowed."""

    def denied(self) -> AbstractContextManager[None]:
        """Refuse reading and writing with this credential for a while; skip if nothing can."""
        pytest.skip("this sink has no permissions")

    def unreachable(self) -> AbstractContextManager[None]:
        """Leave every request unanswered for a while."""
        pytest.skip("this sink cannot be unreachable")

    def wrong_credential(self) -> AbstractContextManager[None]:
        """Open sinks with a wrong credential for a while."""
        pytest.skip("this sink has no credential")


class Compliance:
    """The promises. A subclass is called Test… and provides the fixture `backend`."""

    def test_check_changes_nothing(self, backend: Backend) -> None:
        """A check finds no problem with a working place, and writes nothing."""
        backend.sink().check()
        assert backend.stored() is None
        assert isinstance(
            backend.sink().read(), NoToken if backend.readable else (NoToken, Unreadable)
        )

    def test_a_written_token_is_stored(self, backend: Backend) -> None:
        """A token arrives complete: the vendor's own tools see it, and a new process reads it."""
        backend.sink().check()
        backend.sink().write(Secret(FIRST))
        assert backend.stored() == FIRST
        _assert_reads(backend, FIRST)

    def test_a_write_replaces(self, backend: Backend) -> None:
        """The last token written is stored, whether the same or another process wrote it."""
        sink = backend.sink()
        sink.write(Secret(FIRST))
        sink.write(Secret(SECOND))
        _assert_reads(backend, SECOND)
        backend.sink().write(Secret(FIRST))
        backend.sink().check()
        assert backend.stored() == FIRST
        _assert_reads(backend, FIRST)

    def test_a_repeated_write_succeeds(self, backend: Backend) -> None:
        """Writing the stored token again has no visible effect."""
        backend.sink().write(Secret(FIRST))
        backend.sink().write(Secret(FIRST))
        assert backend.stored() == FIRST

    def test_neighbours_are_unchanged(self, backend: Backend) -> None:
        """Other places in the same container keep their content."""
        backend.sink(1).write(Secret(FIRST))
        backend.sink(0).write(Secret(SECOND))
        assert (backend.stored(0), backend.stored(1), backend.stored(2)) == (SECOND, FIRST, None)

    def test_concurrent_writers_lose_nothing(self, backend: Backend) -> None:
        """Processes that write different places of one container at the same time all succeed."""
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
        """If processes write one place at the same time, one complete token remains."""
        start = threading.Barrier(2)

        def write(token: str) -> None:
            sink = backend.sink()
            start.wait(30)
            sink.write(Secret(token))

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(write, (FIRST, SECOND)))
        assert backend.stored() in (FIRST, SECOND)

    def test_strange_names_work(self, backend: Backend) -> None:
        """Names with spaces, accents and special characters lead to separate places."""
        sinks = backend.strange_names()
        for number, sink in enumerate(sinks):
            sink.check()
            sink.write(Secret(f"{FIRST}{number}"))
        if backend.readable:
            assert [_value(sink) for sink in sinks] == [f"{FIRST}{n}" for n in range(len(sinks))]

    def test_a_missing_permission_is_reported(self, backend: Backend, caplog) -> None:
        """A place that may not be written fails with `sink_denied`, at the check or the write."""
        with backend.denied():
            _assert_fails(backend, caplog, {"sink_denied"}, backend.sink)

    def test_an_unreachable_sink_is_reported(self, backend: Backend, caplog) -> None:
        """A place that does not answer fails with `sink_unavailable` in every step."""
        with backend.unreachable():
            _assert_fails(backend, caplog, {"sink_unavailable"}, backend.sink)

    def test_a_wrong_credential_is_reported(self, backend: Backend, caplog) -> None:
        """A wrong credential fails with `sink_denied`."""
        with backend.wrong_credential():
            _assert_fails(backend, caplog, {"sink_denied"}, backend.sink)

    def test_a_failed_write_loses_nothing(self, backend: Backend) -> None:
        """After a failed write the place keeps its content, and the next write succeeds."""
        backend.sink().write(Secret(FIRST))
        with backend.unreachable(), pytest.raises(SinkError):
            backend.sink().write(Secret(SECOND))
        assert backend.stored() == FIRST
        backend.sink().write(Secret(SECOND))
        assert backend.stored() == SECOND

    def test_only_the_token_itself_is_removed(self, backend: Backend) -> None:
        """A token is removed if the sink holds it; its neighbours and any other value stay."""
        for place in (0, 1):
            backend.sink(place).write(Secret(FIRST))
        sink = _removing(backend)
        assert not sink.remove(Secret(SECOND))
        assert backend.stored() == FIRST
        assert sink.remove(Secret(FIRST))
        assert (backend.stored(0), backend.stored(1)) == (None, FIRST)
        assert isinstance(backend.sink().read(), NoToken)
        assert sink.remove(Secret(FIRST))
        assert _removing(backend, 2).remove(Secret(FIRST))
        assert (backend.stored(1), backend.stored(2)) == (FIRST, None)

    def test_a_token_written_during_a_removal_stays(self, backend: Backend) -> None:
        """If one process removes a token while another replaces it, the new token remains."""
        if not backend.compares:
            pytest.skip("this sink cannot compare and remove in one step")
        start = threading.Barrier(2)
        backend.sink().write(Secret(FIRST))
        remover, writer = _removing(backend), backend.sink()

        def remove() -> None:
            start.wait(30)
            remover.remove(Secret(FIRST))

        def write() -> None:
            start.wait(30)
            writer.write(Secret(SECOND))

        with ThreadPoolExecutor(2) as threads:
            for done in (threads.submit(remove), threads.submit(write)):
                done.result()
        assert backend.stored() == SECOND

    def test_a_failed_removal_loses_nothing(self, backend: Backend) -> None:
        """A removal that fails says why, without the token, and the next one succeeds."""
        _removing(backend)
        backend.sink().write(Secret(FIRST))
        with backend.unreachable(), pytest.raises(SinkError) as caught:
            _removing(backend).remove(Secret(FIRST))
        assert caught.value.code == "sink_unavailable"
        assert FIRST not in caught.value.message + caught.value.remedy
        assert backend.stored() == FIRST
        assert _removing(backend).remove(Secret(FIRST))
        assert backend.stored() is None

    def test_an_update_time_is_the_time_of_the_write(self, backend: Backend) -> None:
        """The update time that a sink reports is the time of the write."""
        if backend.readable:
            pytest.skip("a readable sink needs no update time")
        before = datetime.now(UTC).replace(microsecond=0)
        backend.sink().write(Secret(FIRST))
        content = backend.sink().read()
        assert isinstance(content, Unreadable)
        if content.updated_at is not None:
            assert before <= content.updated_at <= datetime.now(UTC)


def _removing(backend: Backend, place: int = 0) -> RemovingSink:
    sink = backend.sink(place)
    if not isinstance(sink, RemovingSink):
        pytest.skip("this sink cannot remove a token")
    return sink


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
        assert isinstance(content, Unreadable)


def _assert_fails(backend: Backend, caplog, codes: set[str], open_sink: Callable[[], Sink]) -> None:
    """Assert that the write fails with one of the codes, and that no secret is raised or logged."""
    caplog.set_level(logging.DEBUG)
    errors: list[SinkError] = []
    for step in ("check", "read", "write"):
        try:
            sink = open_sink()
            if step == "check":
                sink.check()
            elif step == "read":
                sink.read()
            else:
                sink.write(Secret(FIRST))
        except SinkError as error:
            errors.append(error)
            shown = "".join(traceback.format_exception(error)) + error.message + error.remedy
            shown += repr(error) + repr(sink)
            assert FIRST not in shown
            assert backend.credential is None or backend.credential not in shown
            failed_step = step
    assert {error.code for error in errors} <= codes
    assert errors
    assert failed_step == "write"
    assert all(error.message and error.remedy for error in errors)
    # The log messages of libraries are masked when they are written (tests/test_secret.py).
    own = [record for record in caplog.records if record.name.startswith("provisioner")]
    assert not [record for record in own if FIRST in record.getMessage()]
    assert backend.stored() is None
