"""Runs that are stopped: real processes, real signals, and a server that delays its answers."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pytest
from jsonschema import Draft202012Validator
from processes import Provision
from programs import wait_until_ended, wait_until_started
from sandbox_control import Dialect, Exchange, Request, Response, Sandbox, json_answer

from provisioner import schemas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
PARALLEL = 2
GRACE = 5.0
IMMEDIATE = 3.0
"""Seconds within which a process that waits for nothing ends, also on a slow machine."""

SIGNAL_HANDLED = 0.5
"""Seconds within which a process handles a signal, which cannot be observed from outside."""


def creates_in(request: Request | Exchange) -> int:
    """Return the number of keys that a request creates."""
    if request.path.startswith("/rest/batch"):
        return len(json.loads(request.body))
    return request.body.count(b":createApiKey(")


class Server:
    """An embedded Twenty that can delay its answers to chosen requests.

    Args:
        dialect: the dialect of the server.
        blocks: returns whether a request waits for `release` before it is handled.
        commits: true if these requests are handled first and only their answers wait.
    """

    def __init__(
        self,
        dialect: Dialect,
        blocks: Callable[[Request], object] = lambda _: False,
        *,
        commits: bool = False,
    ) -> None:
        self._blocks = blocks
        self._commits_first = commits
        self._released = threading.Event()
        self._blocked = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self.received: list[tuple[float, Request]] = []
        self.sandbox = Sandbox(None, dialect, around=self._around)

    def _around(self, request: Request, answer_request: Callable[[Request], Response]) -> Response:
        self.received.append((time.monotonic(), request))
        if self._released.is_set() or not self._blocks(request):
            return answer_request(request)
        answer = answer_request(request) if self._commits_first else None
        self._blocked.release()
        self._released.wait(30)
        answer = answer or answer_request(request)
        self._done.release()
        return answer

    def wait_until_blocked(self, count: int) -> None:
        """Wait until `count` requests are blocked."""
        for _ in range(count):
            assert self._blocked.acquire(timeout=30)

    def release(self, count: int = 0) -> None:
        """Answer the blocked requests and block no more; wait until `count` are handled."""
        self._released.set()
        for _ in range(count):
            assert self._done.acquire(timeout=30)

    def creates_since(self, since: float) -> list[Request]:
        return [request for at, request in self.received if at > since and creates_in(request)]

    def live(self) -> Counter[str]:
        return Counter(key.name for key in self.sandbox.keys() if key.revoked_at is None)

    def __enter__(self) -> Self:
        self.sandbox.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self.sandbox.stop()


@dataclass
class Run:
    """A process of the command."""

    process: subprocess.Popen[str]
    first_signal: float = field(default=0.0)

    def send_signal(self, number: int) -> float:
        """Send a signal and return the time; `result` counts from the first one."""
        now = time.monotonic()
        self.first_signal = self.first_signal or now
        self.process.send_signal(number)
        return now

    def result(self) -> tuple[int, str, str, float]:
        """Return the exit code, stdout, stderr, and the seconds since the first signal."""
        out, err = self.process.communicate(timeout=30)
        assert "Traceback" not in err
        return self.process.returncode, out, err, time.monotonic() - self.first_signal


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Return a function that starts commands for one server; kill the rest after the test."""
    running: list[subprocess.Popen[str]] = []
    folder = tmp_path / "manifests"
    folder.mkdir()

    def start_command(
        server: Server,
        names: list[str],
        *arguments: str,
        stdin: int = subprocess.DEVNULL,
        **more_limits: int,
    ) -> Run:
        auth = {"session_token": "${TOKEN}"}
        limits = {"parallel": PARALLEL, "batch": 2} | more_limits
        shop = {"url": server.sandbox.url, "auth": auth, "limits": limits}
        if server.sandbox.dialect is not Dialect.LEGACY:
            shop["role"] = "Admin"
        environments = {"version": 1, "environments": {"shop": shop}}
        keys: dict[str, Any] = {"version": 1, "environment": "shop", "depth": 1}
        keys |= {"defaults": {"expires": "90d"}, "keys": [{"name": name} for name in names]}
        (folder / "environments.yaml").write_text(json.dumps(environments))
        (folder / "keys.yaml").write_text(json.dumps(keys))
        command, *options = arguments
        process = Provision(
            *(command, "-m", folder, *options),
            env=os.environ | {"TOKEN": server.sandbox.session_token()},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return Run(process)

    yield start_command
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["apply", "create"])
def test_a_signal_does_not_truncate_the_report(
    start, tmp_path, monkeypatch, command, unbuffered
) -> None:
    """A slow reader gets the complete report, with and without Python's buffering."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    names = names_of(1000)
    body = [{"name": name, "expiresAt": "2031-01-01T00:00:00.000Z"} for name in names]
    (tmp_path / "body.json").write_text(json.dumps(body))
    options = {"apply": ["--format", "json"], "create": ["--body", str(tmp_path / "body.json")]}
    with Server(Dialect.LEGACY, lambda _: False) as server:
        run = start(server, names, command, *options[command], batch=60)
        assert run.process.stdout is not None
        until_full(run.process.stdout.fileno())
        run.send_signal(signal.SIGTERM)
        time.sleep(SIGNAL_HANDLED)
        exit_code, out, _, _ = run.result()
        assert exit_code == 143
        document = json.loads(out)
        records = document if command == "create" else document["environments"][0]["results"]
        assert [entry["name"] for entry in records] == names


def names_of(count: int) -> list[str]:
    return [f"svc-{number:04d}" for number in range(count)]


def until_full(pipe: int) -> None:
    """Wait until a pipe that nobody reads is full."""
    size = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    deadline = time.monotonic() + 30
    while struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0] < size:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def valid(name: str, text: str) -> Any:
    document = json.loads(text)
    Draft202012Validator(
        schemas.load(name), format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)
    return document


def results(text: str) -> dict[str, Any]:
    """Return the results of a run's only environment, by name."""
    [environment] = valid("result", text)["environments"]
    assert environment["error"] is None
    counted = Counter(entry["status"] for entry in environment["results"])
    summary = environment["summary"]
    assert summary["created"] == counted["done"]
    assert (summary["failed"], summary["skipped"]) == (counted["failed"], counted["skipped"])
    return {entry["name"]: entry for entry in environment["results"]}


def names_for(dialect: Dialect) -> list[str]:
    """Return enough names for several requests of 2 keys, 20 keys or one key."""
    return [f"svc-{number:02d}" for number in range(62 if dialect is Dialect.CORE_1 else 12)]


SIZES = {Dialect.LEGACY: 2, Dialect.CORE_1: 20, Dialect.CORE: 1, Dialect.CORE_NEWEST: 1}
PROBED = {Dialect.LEGACY: 0, Dialect.CORE_1: 2, Dialect.CORE: 2, Dialect.CORE_NEWEST: 2}
"""The keys with which a run finds out the batch size of core, before it sends the others."""


def in_bulk(dialect: Dialect) -> Callable[[Request], bool]:
    """Return a function that matches creates of full size, after the batch size is known."""
    probed = [f"svc-{number:02d}".encode() for number in range(PROBED[dialect])]

    def matches(request: Request) -> bool:
        only_others = not any(name in request.body for name in probed)
        return creates_in(request) == SIZES[dialect] and only_others

    return matches


def assert_converges(server: Server, start: Callable[..., Run], names: list[str]) -> None:
    """Assert that the next run creates the missing keys, and the one after that sends no create."""
    server.release()
    live_before = server.live()
    run = start(server, names, "apply", "--format", "json")
    code, out, err, _ = run.result()
    assert code == 0, (out, err)
    assert set(results(out)) == set(names) - set(live_before)
    assert server.live() == Counter(names)
    started_at = time.monotonic()
    assert start(server, names, "apply").result()[0] == 0
    assert server.creates_since(started_at) == []


# during the observation


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE])
def test_a_hanging_observation_is_abandoned_at_once(start, number, code, dialect) -> None:
    """The run does not wait for the answer; the document lists the environment as stopped."""
    with Server(dialect, lambda _: True) as server:
        run = start(server, ["a"], "apply", "--format", "json")
        server.wait_until_blocked(1)
        run.send_signal(number)
        exit_code, out, err, seconds = run.result()
        assert exit_code == code
        assert seconds < IMMEDIATE
        [environment] = valid("result", out)["environments"]
        assert environment["error"]["code"] == "stopped"
        assert environment["results"] == []
        assert "Traceback" not in err
        assert not any(creates_in(request) for _, request in server.received)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("command", ["plan", "list", "apply"])
def test_every_command_reports_what_it_could_not_read(start, number, code, form, command) -> None:
    """The exit code is that of the signal, stdout has the document, and the reason is printed."""
    with Server(Dialect.CORE, lambda request: b"{apiKeys{" in request.body) as server:
        run = start(server, ["a"], command, "--format", form)
        server.wait_until_blocked(1)
        run.send_signal(number)
        exit_code, out, err, seconds = run.result()
        assert exit_code == code
        assert seconds < IMMEDIATE
        if form == "text":
            assert "stopped: The run was stopped before" in (err if command == "list" else out)
        elif command == "list":
            assert valid("keys", out) == []
            assert "stopped: " in err
        else:
            [environment] = valid("plan" if command == "plan" else "result", out)["environments"]
            assert environment["error"]["code"] == "stopped"


def test_a_signal_ends_a_wait_for_retry_after_of_a_read(start) -> None:
    """A stopped run does not wait for the `Retry-After: 60` of the first read."""
    answered = threading.Event()

    def slow(_: Request) -> Response:
        answered.set()
        return json_answer(429, {"messages": ["no"]}, headers=(("Retry-After", "60"),))

    with answering(Dialect.CORE, lambda _: True, slow) as server:
        run = start(server, ["a"], "plan", "--format", "json")
        assert answered.wait(30)
        time.sleep(SIGNAL_HANDLED)
        run.send_signal(signal.SIGTERM)
        exit_code, out, _, seconds = run.result()
        assert (exit_code, seconds < IMMEDIATE) == (143, True)
        assert valid("plan", out)["environments"][0]["error"]["code"] == "stopped"


def answering(
    dialect: Dialect, which: Callable[[Request], object], answer: Callable[[Request], Response]
) -> Server:
    """Return a server that answers chosen requests with `answer` instead of handling them."""

    class Answering(Server):
        def _around(
            self, request: Request, answer_request: Callable[[Request], Response]
        ) -> Response:
            if self._released.is_set() or not which(request):
                return super()._around(request, answer_request)
            self.received.append((time.monotonic(), request))
            return answer(request)

    return Answering(dialect)


# while creating


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("dialect", Dialect)
def test_requests_in_progress_are_finished_and_the_rest_is_not_started(
    start, number, code, dialect
) -> None:
    """After a signal no create is sent; those in progress are `done`, the others skipped."""
    names = names_for(dialect)
    with Server(dialect, in_bulk(dialect)) as server:
        run = start(server, names, "apply", "--format", "json")
        server.wait_until_blocked(PARALLEL)
        signalled_at = run.send_signal(number)
        time.sleep(SIGNAL_HANDLED)
        server.release(PARALLEL)
        exit_code, out, _, seconds = run.result()
        assert exit_code == code
        assert seconds < GRACE
        assert server.creates_since(signalled_at) == []
        reported = results(out)
        assert set(reported) == set(names)
        created = {key.name: key.id for key in server.sandbox.keys()}
        assert len(created) == PROBED[dialect] + PARALLEL * SIZES[dialect] < len(names)
        done = {name: entry["id"] for name, entry in reported.items() if entry["status"] == "done"}
        assert done == created
        assert all(reported[name]["record"]["id"] == id_ for name, id_ in created.items())
        others = [entry for name, entry in reported.items() if name not in created]
        assert {(entry["status"], entry["error"]["code"]) for entry in others} == {
            ("skipped", "stopped")
        }
        assert_converges(server, start, names)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_the_text_report_shows_what_was_done_and_what_was_skipped(start, number, code) -> None:
    """The text report of a stopped run has the same results as the JSON document."""
    names = names_for(Dialect.CORE)
    with Server(Dialect.CORE, in_bulk(Dialect.CORE)) as server:
        run = start(server, names, "apply")
        server.wait_until_blocked(PARALLEL)
        run.send_signal(number)
        time.sleep(SIGNAL_HANDLED)
        server.release(PARALLEL)
        exit_code, out, err, _ = run.result()
        assert exit_code == code
        assert [line.split()[2:5] for line in err.splitlines()] == [["no", "sink", "receives"]]
        created = {key.name for key in server.sandbox.keys()}
        lines = {line.split()[1]: line for line in out.splitlines() if line.startswith("  + ")}
        assert set(lines) == created
        skipped = [line for line in out.splitlines() if line.endswith("  skipped")]
        assert {line.split()[0] for line in skipped} == set(names) - created
        skipped_count = len(names) - len(created)
        assert (
            f"Incomplete: {len(created)} created, 0 kept, {skipped_count} skipped (stopped)." in out
        )


@pytest.mark.parametrize(
    ("dialect", "commits"),
    [(Dialect.LEGACY, False), (Dialect.LEGACY, True), (Dialect.CORE_1, True)]
    + [(Dialect.CORE, False), (Dialect.CORE, True)],
)
def test_a_request_that_outlives_the_grace_is_reported_as_unknown(start, dialect, commits) -> None:
    """The process ends after the grace period and reports which keys may exist."""
    names = names_for(dialect)
    with Server(dialect, in_bulk(dialect), commits=commits) as server:
        run = start(server, names, "apply", "--format", "json")
        server.wait_until_blocked(PARALLEL)
        run.send_signal(signal.SIGINT)
        exit_code, out, _, seconds = run.result()
        assert exit_code == 130
        assert GRACE - 0.5 < seconds < GRACE + IMMEDIATE
        reported = results(out)
        blocked = [request for _, request in server.received if in_bulk(dialect)(request)]
        in_flight = {name for name in names for entry in blocked if name.encode() in entry.body}
        assert len(blocked) == PARALLEL
        unknown = {name for name, entry in reported.items() if entry["status"] == "failed"}
        assert unknown == in_flight
        assert {reported[name]["error"]["code"] for name in unknown} == {"outcome_unknown"}
        rest = [entry for entry in reported.values() if entry["status"] == "skipped"]
        assert rest
        assert {entry["error"]["code"] for entry in rest} == {"stopped"}
        server.release(PARALLEL)
        assert_converges(server, start, names)


def test_a_second_signal_changes_nothing(start) -> None:
    """After SIGINT and SIGTERM, as in a cancelled job, the run stops with the code of the first."""
    names = names_for(Dialect.CORE)
    with Server(Dialect.CORE, in_bulk(Dialect.CORE)) as server:
        run = start(server, names, "apply", "--format", "json")
        server.wait_until_blocked(PARALLEL)
        signalled_at = run.send_signal(signal.SIGINT)
        time.sleep(0.5)
        run.send_signal(signal.SIGTERM)
        time.sleep(SIGNAL_HANDLED)
        server.release(PARALLEL)
        code, out, _, _ = run.result()
        assert code == 130
        assert server.creates_since(signalled_at) == []
        statuses = Counter(entry["status"] for entry in results(out).values())
        done = PROBED[Dialect.CORE] + PARALLEL
        assert statuses == {"done": done, "skipped": len(names) - done}


@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE])
def test_a_third_signal_ends_the_process_at_once(start, dialect) -> None:
    """A third signal ends the process without a report; the next run finds what was created."""
    names = names_for(dialect)
    with Server(dialect, in_bulk(dialect)) as server:
        run = start(server, names, "apply", "--format", "json")
        server.wait_until_blocked(PARALLEL)
        for number in (signal.SIGINT, signal.SIGTERM):
            run.send_signal(number)
            time.sleep(SIGNAL_HANDLED)
        assert run.process.poll() is None
        last = run.send_signal(signal.SIGTERM)
        code, out, _, _ = run.result()
        assert (code, out) == (143, "")
        assert time.monotonic() - last < IMMEDIATE
        server.release(PARALLEL)
        assert_converges(server, start, names)


@pytest.mark.parametrize("dialect", Dialect)
def test_a_signal_ends_a_wait_for_retry_after_of_a_create(start, dialect) -> None:
    """A stopped run does not wait for the `Retry-After: 60` of its creates."""
    answered = threading.Event()

    def slow(_: Request) -> Response:
        answered.set()
        return json_answer(429, {"messages": ["no"]}, headers=(("Retry-After", "60"),))

    names = names_for(dialect)
    with answering(dialect, creates_in, slow) as server:
        run = start(server, names, "apply", "--format", "json")
        assert answered.wait(30)
        time.sleep(SIGNAL_HANDLED)
        signalled_at = run.send_signal(signal.SIGINT)
        code, out, _, seconds = run.result()
        assert code == 130
        assert seconds < IMMEDIATE
        assert server.creates_since(signalled_at) == []
        reported = results(out)
        assert {entry["status"] for entry in reported.values()} == {"skipped"}
        assert {entry["error"]["code"] for entry in reported.values()} == {"stopped"}
        assert server.live() == Counter()


@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE])
def test_a_create_that_waits_for_the_rate_is_not_sent_after_the_signal(start, dialect) -> None:
    """With a declared rate, creates that were not sent yet are skipped, not unknown."""
    names = names_for(dialect)
    burst = 4 + PROBED[dialect]
    with Server(dialect) as server:
        options = ("apply", "--format", "json")
        run = start(server, names, *options, requests_per_minute=burst)
        while len(server.received) < burst:
            assert run.process.poll() is None
            time.sleep(0.01)
        time.sleep(SIGNAL_HANDLED)
        signalled_at = run.send_signal(signal.SIGTERM)
        code, out, _, seconds = run.result()
        assert code == 143
        assert server.creates_since(signalled_at) == []
        created = {key.name: key.id for key in server.sandbox.keys()}
        reported = results(out)
        done = {name: entry["id"] for name, entry in reported.items() if entry["status"] == "done"}
        assert done == created != {}
        others = [entry for name, entry in reported.items() if name not in created]
        assert {(entry["status"], entry["error"]["code"]) for entry in others} == {
            ("skipped", "stopped")
        }
        assert seconds < GRACE + IMMEDIATE


@pytest.mark.parametrize("dialect", Dialect)
def test_a_signal_ends_the_search_for_a_lost_create(start, dialect) -> None:
    """A signal between two observations: no create follows, and a last observation is reported."""
    lost = threading.Semaphore(0)
    answered = threading.Semaphore(0)

    class Losing(Server):
        def _around(
            self, request: Request, answer_request: Callable[[Request], Response]
        ) -> Response:
            if creates_in(request) and not self._released.is_set():
                self.received.append((time.monotonic(), request))
                lost.release()
                raise ConnectionError
            answer = super()._around(request, answer_request)
            answered.release()
            return answer

    names = ["a", "b", "c"]
    with Losing(dialect) as server:
        run = start(server, names, "apply", "--format", "json")
        assert lost.acquire(timeout=30)
        while answered.acquire(blocking=False):
            pass
        assert answered.acquire(timeout=30)
        signalled_at = run.send_signal(signal.SIGTERM)
        code, out, _, seconds = run.result()
        assert code == 143
        assert seconds < GRACE + IMMEDIATE
        assert len(server.creates_since(signalled_at + SIGNAL_HANDLED)) == 0
        reported = results(out)
        assert {entry["status"] for entry in reported.values()} <= {"failed", "skipped"}
        failed = [entry for entry in reported.values() if entry["status"] == "failed"]
        assert {entry["error"]["code"] for entry in failed} == {"outcome_unknown"}
        assert_converges(server, start, names)


# create


RECORD = {"name": "x", "expiresAt": "2031-01-01T00:00:00Z"}


def body_for(server: Server, count: int) -> list[dict[str, str]]:
    legacy = server.sandbox.dialect is Dialect.LEGACY
    role = {} if legacy else {"roleId": server.sandbox.role("Admin").id}
    return [RECORD | role | {"name": f"svc-{number:02d}"} for number in range(count)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE])
def test_create_finishes_its_requests_in_progress(start, tmp_path, number, code, dialect) -> None:
    """The created records are printed, and every other record is listed with its reason."""
    with Server(dialect, in_bulk(dialect)) as server:
        file = tmp_path / "body.json"
        file.write_text(json.dumps(body_for(server, 12)))
        run = start(server, ["unused"], "create", "--body", str(file))
        server.wait_until_blocked(PARALLEL)
        signalled_at = run.send_signal(number)
        time.sleep(SIGNAL_HANDLED)
        server.release(PARALLEL)
        exit_code, out, err, seconds = run.result()
        assert (exit_code, seconds < GRACE) == (code, True)
        assert server.creates_since(signalled_at) == []
        created = {key.id for key in server.sandbox.keys()}
        assert {entry["id"] for entry in json.loads(out)} == created
        assert len(created) == PROBED[dialect] + PARALLEL * SIZES[dialect] < 12
        *lines, hint = err.splitlines()
        assert len(lines) == 12 - len(created)
        assert all(line.startswith("stopped: ") for line in lines)
        assert hint == 'Run "provision explain stopped" to learn more.'


@pytest.mark.parametrize("single", [True, False])
def test_create_reports_which_record_may_exist(start, tmp_path, single) -> None:
    """A request that outlives the grace period is `outcome_unknown`, and the process ends."""
    with Server(Dialect.LEGACY, in_bulk(Dialect.LEGACY) if not single else creates_in) as server:
        file = tmp_path / "body.json"
        body = body_for(server, 12)
        file.write_text(json.dumps(body[0] if single else body))
        run = start(server, ["unused"], "create", "--body", str(file))
        server.wait_until_blocked(1 if single else PARALLEL)
        run.send_signal(signal.SIGINT)
        code, out, err, seconds = run.result()
        assert code == 130
        assert GRACE - 0.5 < seconds < GRACE + IMMEDIATE
        codes = Counter(line.partition(": ")[0] for line in err.splitlines()[:-1])
        if single:
            assert (out, codes) == ("", {"outcome_unknown": 1})
        else:
            assert json.loads(out) == []
            assert codes == {"outcome_unknown": 2 * PARALLEL, "stopped": 12 - 2 * PARALLEL}


def test_create_is_stopped_while_it_connects(start, tmp_path) -> None:
    """`create` does not wait for a server that hangs at the first read, and creates nothing."""
    with Server(Dialect.CORE, lambda _: True) as server:
        file = tmp_path / "body.json"
        file.write_text(json.dumps(body_for(server, 1)))
        run = start(server, ["unused"], "create", "--body", str(file))
        server.wait_until_blocked(1)
        run.send_signal(signal.SIGTERM)
        code, out, err, seconds = run.result()
        assert (code, out) == (143, "")
        assert err.startswith("stopped: ")
        assert seconds < IMMEDIATE


CHECKED = """\
version: 1
environment: shop
defaults: {expires: 90d}
keys:
  - name: a
    deliver: [{command: [tee, token], check: [sh, check.sh]}]
"""
CHECK = """\
if [ -e slow ]; then echo $$ > pid; exec sleep 300; fi
if [ -e token ]; then cat token; fi
"""


@pytest.mark.parametrize("command", ["plan", "report", "doctor"])
def test_a_running_check_ends_with_the_command(tmp_path, command) -> None:
    """A stopped command also ends a check program that hangs."""
    (tmp_path / "manifests").mkdir()
    shop = "version: 1\nenvironments: {shop: {url: 'sandbox:', role: Admin}}\n"
    (tmp_path / "manifests" / "environments.yaml").write_text(shop)
    (tmp_path / "manifests" / "keys.yaml").write_text(CHECKED)
    (tmp_path / "check.sh").write_text(CHECK)
    program = [sys.executable, "-m", "provisioner"]
    subprocess.run([*program, "apply", "-q"], cwd=tmp_path, check=True, timeout=60)
    (tmp_path / "slow").touch()
    assert stop_at_the_pid(tmp_path, [*program, command]) == 143


PLUGIN = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": "sh",
    "args": ["-c", "echo $$ > pid; exec sleep 300"],
}


@pytest.mark.parametrize("command", ["plan", "doctor", "apply"])
def test_a_running_credential_plugin_ends_with_the_command(tmp_path, command) -> None:
    """A stopped command also ends a credential plugin of kubectl that hangs."""
    (tmp_path / "manifests").mkdir()
    shop = "version: 1\nenvironments: {shop: {url: 'sandbox:', role: Admin}}\n"
    (tmp_path / "manifests" / "environments.yaml").write_text(shop)
    keys = CHECKED.partition("    deliver")[0] + "    deliver: [{kubernetes: shop/twenty}]\n"
    (tmp_path / "manifests" / "keys.yaml").write_text(keys)
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {"exec": PLUGIN}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    environ = {**os.environ, "KUBECONFIG": "kubeconfig"}
    argv = [sys.executable, "-m", "provisioner", command]
    assert stop_at_the_pid(tmp_path, argv, environ) == 143


def stop_at_the_pid(folder: Path, argv: list[str], environ: dict[str, str] | None = None) -> int:
    """Terminate a command whose program has written its PID; both end. Return the exit code."""
    process = subprocess.Popen(argv, cwd=folder, env=environ, stdout=subprocess.DEVNULL)
    try:
        assert wait_until_started(folder / "pid")
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
    finally:
        process.kill()
        process.wait()
    assert wait_until_ended(folder / "pid")
    return code


# --- Signals at the start of a command -----------------------------------------------

SIGNAL_HOOK = """\
import os, random, signal, sys, threading, time
place, number, within = os.environ["SIGNAL"].split()
def send_signal(*_):
    time.sleep(random.Random(int(os.environ["SEED"])).uniform(0, float(within)))
    os.kill(os.getpid(), int(number))
def hook(event, arguments):
    global place
    if place and event in ("open", "import") and str(arguments[0]).endswith(place):
        place = ""
        if float(within) == 0:
            send_signal()
        else:
            threading.Thread(target=send_signal, daemon=True).start()
sys.addaudithook(hook)
"""
"""A hook at the start of a process: it sends a signal when a file is opened or imported."""

EARLY_STAGES = {
    "imports": "provisioner.cli.console",
    "environments": "manifests/environments.yaml",
    "manifests": "manifests/keys.yaml",
    "observation": "provisioner.twenty.legacy",
}

EARLY_COMMANDS = {
    "plan": "plan",
    "apply": "result",
    "rotate a": "result",
    "revoke a": "result",
    "list": "keys",
    "report": "report",
    "doctor": "doctor",
    "export": "",
    "token a --to {tmp}/token": "",
    "create --body {tmp}/body.json": "",
}
"""The commands that send requests to servers, with the schema of their output."""


def run_with_early_signal(
    tmp_path: Path, server: Server, command_line: str, path: str, number: int, **variables: str
) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of a process that gets a signal at a given path."""
    (tmp_path / "sitecustomize.py").write_text(SIGNAL_HOOK)
    folder = tmp_path / "manifests"
    folder.mkdir(exist_ok=True)
    real = f"url: '{server.sandbox.url}', auth: {{session_token: '${{TOKEN}}'}}, role: Admin"
    (folder / "environments.yaml").write_text(
        f"version: 1\nenvironments:\n  shop: {{{real}, owns: ['*']}}\n"
    )
    (folder / "keys.yaml").write_text(
        "version: 1\nenvironment: shop\ndefaults: {expires: 90d}\n"
        f"keys: [{{name: a, deliver: [{{file: a.env}}]}}{variables.pop('keys', '')}]\n"
    )
    (tmp_path / "body.json").write_text(json.dumps(body_for(server, 1)))
    within = variables.pop("within", "0")
    done = subprocess.run(
        [sys.executable, "-m", "provisioner", *command_line.format(tmp=tmp_path).split()],
        env=os.environ
        | {"TOKEN": server.sandbox.session_token(), "PYTHONPATH": str(tmp_path)}
        | {"SIGNAL": f"{path} {number} {within}", "SEED": "0"}
        | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


EARLY_CASES = [
    *(("apply", stage) for stage in EARLY_STAGES),
    *zip(
        (entry for entry in EARLY_COMMANDS if entry != "apply"),
        itertools.cycle(EARLY_STAGES),
        strict=False,
    ),
]


@pytest.mark.parametrize(("command_line", "stage"), EARLY_CASES)
def test_an_early_signal_still_gives_a_report(tmp_path, command_line, stage) -> None:
    """After a signal while modules or manifests are read, every environment is stopped.

    The thread that handles the signal may be slower than the start of the first observation,
    which is then abandoned.
    """
    number, code = SIGNALS[len(command_line) % 2]
    with Server(Dialect.CORE, lambda _: True) as server:
        schema = EARLY_COMMANDS[command_line]
        form = "--format json" if schema else ""
        exit_code, out, err = run_with_early_signal(
            tmp_path, server, f"{command_line} {form}", EARLY_STAGES[stage], number
        )
        assert exit_code == code, err
        assert server.live() == Counter()
    assert not (tmp_path / "token").exists()
    if not schema:
        assert (out, "stopped: The run was stopped before" in err) == ("", True)
        return
    document = json.loads(out)
    Draft202012Validator(schemas.load(schema)).validate(document)
    if schema == "keys":
        assert (document, "shop: stopped: " in err) == ([], True)
        return
    [environment] = document["environments"]
    assert environment["environment"] == "shop"
    if schema == "doctor":
        assert environment["checks"][0]["code"] == "stopped"
    else:
        assert environment["error"]["code"] == "stopped"
    assert "key_missing" not in err


def test_reports_and_events_of_an_early_stop_are_complete(tmp_path) -> None:
    """All reports and the last event of an early stop have the code of the process."""
    with Server(Dialect.CORE, lambda _: True) as server:
        command_line = "apply --report markdown=run.md --report json=run.json --events events"
        path = EARLY_STAGES["manifests"]
        code, out, _ = run_with_early_signal(tmp_path, server, command_line, path, signal.SIGTERM)
    assert code == 143
    verdict = "Incomplete: 0 created, 0 kept, 1 environment not reached."
    assert out.splitlines()[-1] == verdict
    assert f"## {verdict}" in (tmp_path / "run.md").read_text()
    [environment] = json.loads((tmp_path / "run.json").read_text())["environments"]
    assert environment["error"]["code"] == "stopped"
    last = json.loads((tmp_path / "events").read_text().splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("run_ended", 143)


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_stopped_run_reports_problems_with_the_code_of_the_signal(tmp_path, form) -> None:
    """143 comes before 3 in the order of exit codes."""
    with Server(Dialect.CORE) as server:
        command_line = f"apply --format {form} --events events"
        path = EARLY_STAGES["environments"]
        keys = ", {name: a}"
        code, out, err = run_with_early_signal(
            tmp_path, server, command_line, path, signal.SIGTERM, keys=keys
        )
        assert (code, server.received) == (143, [])
    assert "name_duplicate" in err
    if form == "json":
        Draft202012Validator(schemas.load("problems")).validate(json.loads(out))
    last = json.loads((tmp_path / "events").read_text().splitlines()[-1])
    assert last["exit_code"] == 143


@pytest.mark.parametrize("seed", range(int(os.environ.get("EARLY", "4"))))
def test_a_signal_in_the_first_300_ms_gives_a_complete_report(tmp_path, seed) -> None:
    """A signal at a random time gives a complete report, also if the server never answers."""
    with Server(Dialect.CORE, lambda _: True) as server:
        path = EARLY_STAGES["imports"]
        code, out, err = run_with_early_signal(
            tmp_path,
            server,
            "apply --format json",
            path,
            signal.SIGTERM,
            within="0.3",
            SEED=str(seed),
        )
    assert code == 143, err
    document = json.loads(out)
    Draft202012Validator(schemas.load("result")).validate(document)
    assert [entry["error"]["code"] for entry in document["environments"]] == ["stopped"]


def test_ctrl_c_ends_a_body_that_is_being_typed(start) -> None:
    """Ctrl-C while `create` reads standard input ends the command at once."""
    with Server(Dialect.CORE) as server:
        reader, writer = os.pipe()
        run = start(server, ["unused"], "create", "--body", "-", stdin=reader)
        os.write(writer, b"[")
        while int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, b"\0" * 4), sys.byteorder):
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        code, out, err, seconds = run.result()
        os.close(reader)
        os.close(writer)
        assert (code, out, err.strip()) == (130, "", "interrupted")
        assert seconds < IMMEDIATE
        assert server.received == []


STUCK = """
import socket, sys, threading
from provisioner.runtime.executor import ThreadExecutor

listener = socket.create_server(("127.0.0.1", 0))
connection = socket.create_connection(listener.getsockname())
started = threading.Event()

def read():
    started.set()
    connection.recv(1)

threads = ThreadExecutor(2)
threads.submit(read)
threads.submit(read)
started.wait(5)
threads.shutdown(wait=False, cancel_futures=True)
print("done", flush=True)
sys.exit(7)
"""


def test_a_stuck_thread_does_not_keep_a_process_alive() -> None:
    """A thread that waits for a server forever does not keep a process alive."""
    command = [sys.executable, "-c", STUCK]
    started = time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (7, "done\n", "")
    assert time.monotonic() - started < 5
