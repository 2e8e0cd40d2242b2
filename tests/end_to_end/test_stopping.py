"""Runs that are told to stop: real processes, real signals, a server that holds its answers."""

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
from programs import until_begun, until_over

from provisioner import schemas
from provisioner.sandbox import Dialect, Exchange, Request, Response, Sandbox, json_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
PARALLEL = 2
GRACE = 5.0
AT_ONCE = 3.0
"""Seconds in which a process surely ends that waits for nothing; most of them are the machine's."""

HEARD = 0.5
"""Seconds in which a process surely hears a signal; nothing tells from outside that it did."""


def creates(request: Request | Exchange) -> int:
    """How many keys a request may make."""
    if request.path.startswith("/rest/batch"):
        return len(json.loads(request.body))
    return request.body.count(b":createApiKey(")


class Server:
    """The embedded Twenty, whose answers to chosen requests can be held.

    Args:
        dialect: the server to be.
        holds: which requests wait until `let_go`, before they are handled.
        commits: whether they are handled first and only their answers wait.
    """

    def __init__(
        self,
        dialect: Dialect,
        holds: Callable[[Request], object] = lambda _: False,
        *,
        commits: bool = False,
    ) -> None:
        self._holds = holds
        self._commits = commits
        self._free = threading.Event()
        self._sink_contents = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self.begun: list[tuple[float, Request]] = []
        self.sandbox = Sandbox(None, dialect, around=self._around)

    def _around(self, request: Request, inner: Callable[[Request], Response]) -> Response:
        self.begun.append((time.monotonic(), request))
        if self._free.is_set() or not self._holds(request):
            return inner(request)
        answer = inner(request) if self._commits else None
        self._sink_contents.release()
        self._free.wait(30)
        answer = answer or inner(request)
        self._done.release()
        return answer

    def held(self, count: int) -> None:
        """Waits until so many requests are held."""
        for _ in range(count):
            assert self._sink_contents.acquire(timeout=30)

    def let_go(self, count: int = 0) -> None:
        """Answers what is held and holds nothing more; waits until so many were handled."""
        self._free.set()
        for _ in range(count):
            assert self._done.acquire(timeout=30)

    def creates_since(self, moment: float) -> list[Request]:
        return [request for at, request in self.begun if at > moment and creates(request)]

    def live(self) -> Counter[str]:
        return Counter(key.name for key in self.sandbox.keys() if key.revoked_at is None)

    def __enter__(self) -> Self:
        self.sandbox.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self.sandbox.stop()


@dataclass
class Run:
    """A process of the command."""

    process: subprocess.Popen[str]
    told: float = field(default=0.0)

    def tell(self, number: int) -> float:
        """Sends a signal; the moment of the first one counts."""
        now = time.monotonic()
        self.told = self.told or now
        self.process.send_signal(number)
        return now

    def end(self) -> tuple[int, str, str, float]:
        """Exit code, stdout, stderr, and seconds since the first signal."""
        out, err = self.process.communicate(timeout=30)
        assert "Traceback" not in err
        return self.process.returncode, out, err, time.monotonic() - self.told


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts commands for the keys of one server; ends what is left of them with the test."""
    running: list[subprocess.Popen[str]] = []
    folder = tmp_path / "manifests"
    folder.mkdir()

    def start_(server: Server, names: list[str], *arguments: str, **more: int) -> Run:
        stdin = more.pop("stdin", subprocess.DEVNULL)
        auth = {"session_token": "${TOKEN}"}
        limits = {"parallel": PARALLEL, "batch": 2} | more
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

    yield start_
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["apply", "create"])
def test_a_signal_while_the_report_is_printed_does_not_cut_it_short(
    start, tmp_path, monkeypatch, command, unbuffered
) -> None:
    """A slow reader gets all of it, whether Python buffers or not."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    names = names_of(1000)
    body = [{"name": name, "expiresAt": "2031-01-01T00:00:00.000Z"} for name in names]
    (tmp_path / "body.json").write_text(json.dumps(body))
    options = {"apply": ["--format", "json"], "create": ["--body", str(tmp_path / "body.json")]}
    with Server(Dialect.LEGACY, lambda _: False) as server:
        run = start(server, names, command, *options[command], batch=60)
        assert run.process.stdout is not None
        until_full(run.process.stdout.fileno())
        run.tell(signal.SIGTERM)
        time.sleep(HEARD)
        found, out, _, _ = run.end()
        assert found == 143
        document = json.loads(out)
        records = document if command == "create" else document["environments"][0]["results"]
        assert [one["name"] for one in records] == names


def names_of(count: int) -> list[str]:
    return [f"svc-{number:04d}" for number in range(count)]


def until_full(pipe: int) -> None:
    """Waits until a pipe that nobody reads takes no more."""
    size = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
    end = time.monotonic() + 30
    while struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0] < size:
        assert time.monotonic() < end
        time.sleep(0.01)


def valid(name: str, text: str) -> Any:
    document = json.loads(text)
    Draft202012Validator(
        schemas.load(name), format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)
    return document


def results(text: str) -> dict[str, Any]:
    """The results of the one environment of a run, by name."""
    [environment] = valid("result", text)["environments"]
    assert environment["error"] is None
    counted = Counter(one["status"] for one in environment["results"])
    summary = environment["summary"]
    assert summary["created"] == counted["done"]
    assert (summary["failed"], summary["skipped"]) == (counted["failed"], counted["skipped"])
    return {one["name"]: one for one in environment["results"]}


def names_for(dialect: Dialect) -> list[str]:
    """As many as are several requests: of 2 keys, of 20, of one."""
    return [f"svc-{number:02d}" for number in range(62 if dialect is Dialect.CORE_1 else 12)]


SIZES = {Dialect.LEGACY: 2, Dialect.CORE_1: 20, Dialect.CORE: 1}
FIRST = {Dialect.LEGACY: 0, Dialect.CORE_1: 2, Dialect.CORE: 2}
"""Keys of which core is asked whether it takes several; no others are in flight meanwhile."""


def in_bulk(dialect: Dialect) -> Callable[[Request], bool]:
    """Which requests make keys, several at a time, once that is known."""
    asked = [f"svc-{number:02d}".encode() for number in range(FIRST[dialect])]

    def matches(request: Request) -> bool:
        alone = not any(name in request.body for name in asked)
        return creates(request) == SIZES[dialect] and alone

    return matches


def converges(server: Server, start: Callable[..., Run], names: list[str]) -> None:
    """A later run finishes the work, and the one after it finds nothing to do."""
    server.let_go()
    before = server.live()
    run = start(server, names, "apply", "--format", "json")
    code, out, err, _ = run.end()
    assert code == 0, (out, err)
    assert set(results(out)) == set(names) - set(before)
    assert server.live() == Counter(names)
    moment = time.monotonic()
    assert start(server, names, "apply").end()[0] == 0
    assert server.creates_since(moment) == []


# while looking


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE])
def test_a_look_that_hangs_is_left_at_once(start, number, code, dialect) -> None:
    """Nothing was begun, so nothing is waited for; the document says what was not looked at."""
    with Server(dialect, lambda _: True) as server:
        run = start(server, ["a"], "apply", "--format", "json")
        server.held(1)
        run.tell(number)
        found, out, err, seconds = run.end()
        assert found == code
        assert seconds < AT_ONCE
        [environment] = valid("result", out)["environments"]
        assert environment["error"]["code"] == "stopped"
        assert environment["results"] == []
        assert "Traceback" not in err
        assert not any(creates(request) for _, request in server.begun)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("command", ["plan", "list", "apply"])
def test_every_command_that_looks_says_what_it_did_not_see(
    start, number, code, form, command
) -> None:
    """The code of the signal before that of the incomplete, data on stdout, a reason somewhere."""
    with Server(Dialect.CORE, lambda request: b"{apiKeys{" in request.body) as server:
        run = start(server, ["a"], command, "--format", form)
        server.held(1)
        run.tell(number)
        found, out, err, seconds = run.end()
        assert found == code
        assert seconds < AT_ONCE
        if form == "text":
            assert "stopped: The run was told to stop" in (err if command == "list" else out)
        elif command == "list":
            assert valid("keys", out) == []
            assert "stopped: " in err
        else:
            [environment] = valid("plan" if command == "plan" else "result", out)["environments"]
            assert environment["error"]["code"] == "stopped"


def test_a_wait_that_the_server_ordered_ends_with_the_signal_while_looking(start) -> None:
    """`Retry-After: 60` to the first read keeps no cancelled job for a minute."""
    told = threading.Event()

    def slow(_: Request) -> Response:
        told.set()
        return json_answer(429, {"messages": ["no"]}, headers=(("Retry-After", "60"),))

    with answering(Dialect.CORE, lambda _: True, slow) as server:
        run = start(server, ["a"], "plan", "--format", "json")
        assert told.wait(30)
        time.sleep(HEARD)
        run.tell(signal.SIGTERM)
        found, out, _, seconds = run.end()
        assert (found, seconds < AT_ONCE) == (143, True)
        assert valid("plan", out)["environments"][0]["error"]["code"] == "stopped"


def answering(
    dialect: Dialect, which: Callable[[Request], object], say: Callable[[Request], Response]
) -> Server:
    """A server that answers chosen requests by itself, without handling them."""

    class Answering(Server):
        def _around(self, request: Request, inner: Callable[[Request], Response]) -> Response:
            if self._free.is_set() or not which(request):
                return super()._around(request, inner)
            self.begun.append((time.monotonic(), request))
            return say(request)

    return Answering(dialect)


# while creating


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("dialect", Dialect)
def test_what_is_in_flight_is_finished_and_the_rest_is_not_begun(
    start, number, code, dialect
) -> None:
    """After the signal no create goes out; held ones are `done` with their ids, others skipped."""
    names = names_for(dialect)
    with Server(dialect, in_bulk(dialect)) as server:
        run = start(server, names, "apply", "--format", "json")
        server.held(PARALLEL)
        moment = run.tell(number)
        time.sleep(HEARD)
        server.let_go(PARALLEL)
        found, out, _, seconds = run.end()
        assert found == code
        assert seconds < GRACE
        assert server.creates_since(moment) == []
        reported = results(out)
        assert set(reported) == set(names)
        made = {key.name: key.id for key in server.sandbox.keys()}
        assert len(made) == FIRST[dialect] + PARALLEL * SIZES[dialect] < len(names)
        done = {name: one["id"] for name, one in reported.items() if one["status"] == "done"}
        assert done == made
        assert all(reported[name]["record"]["id"] == id_ for name, id_ in made.items())
        others = [one for name, one in reported.items() if name not in made]
        assert {(one["status"], one["error"]["code"]) for one in others} == {("skipped", "stopped")}
        converges(server, start, names)


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_people_are_told_what_was_done_and_what_was_left(start, number, code) -> None:
    """The text of a stopped run has the same outcomes as its document."""
    names = names_for(Dialect.CORE)
    with Server(Dialect.CORE, in_bulk(Dialect.CORE)) as server:
        run = start(server, names, "apply")
        server.held(PARALLEL)
        run.tell(number)
        time.sleep(HEARD)
        server.let_go(PARALLEL)
        found, out, err, _ = run.end()
        assert found == code
        assert [line.split()[2:5] for line in err.splitlines()] == [["no", "sink", "takes"]]
        made = {key.name for key in server.sandbox.keys()}
        lines = {line.split()[1]: line for line in out.splitlines() if line.startswith("  + ")}
        assert set(lines) == made
        skipped = [line for line in out.splitlines() if line.endswith("  skipped")]
        assert {line.split()[0] for line in skipped} == set(names) - made
        left = len(names) - len(made)
        assert f"Incomplete: {len(made)} created, 0 as declared, {left} skipped (stopped)." in out


@pytest.mark.parametrize(
    ("dialect", "commits"),
    [(Dialect.LEGACY, False), (Dialect.LEGACY, True), (Dialect.CORE_1, True)]
    + [(Dialect.CORE, False), (Dialect.CORE, True)],
)
def test_a_request_that_outlives_the_grace_is_reported_as_unknown(start, dialect, commits) -> None:
    """The process ends with the grace, says which keys may exist, and a later run converges."""
    names = names_for(dialect)
    with Server(dialect, in_bulk(dialect), commits=commits) as server:
        run = start(server, names, "apply", "--format", "json")
        server.held(PARALLEL)
        run.tell(signal.SIGINT)
        found, out, _, seconds = run.end()
        assert found == 130
        assert GRACE - 0.5 < seconds < GRACE + AT_ONCE
        reported = results(out)
        held = [request for _, request in server.begun if in_bulk(dialect)(request)]
        in_flight = {name for name in names for one in held if name.encode() in one.body}
        assert len(held) == PARALLEL
        unknown = {name for name, one in reported.items() if one["status"] == "failed"}
        assert unknown == in_flight
        assert {reported[name]["error"]["code"] for name in unknown} == {"outcome_unknown"}
        rest = [one for one in reported.values() if one["status"] == "skipped"]
        assert rest
        assert {one["error"]["code"] for one in rest} == {"stopped"}
        server.let_go(PARALLEL)
        converges(server, start, names)


def test_a_second_signal_of_the_pipeline_changes_nothing(start) -> None:
    """A cancelled job gets SIGINT and then SIGTERM: still in order, by the code of the first."""
    names = names_for(Dialect.CORE)
    with Server(Dialect.CORE, in_bulk(Dialect.CORE)) as server:
        run = start(server, names, "apply", "--format", "json")
        server.held(PARALLEL)
        moment = run.tell(signal.SIGINT)
        time.sleep(0.5)
        run.tell(signal.SIGTERM)
        time.sleep(HEARD)
        server.let_go(PARALLEL)
        code, out, _, _ = run.end()
        assert code == 130
        assert server.creates_since(moment) == []
        statuses = Counter(one["status"] for one in results(out).values())
        done = FIRST[Dialect.CORE] + PARALLEL
        assert statuses == {"done": done, "skipped": len(names) - done}


@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE])
def test_a_third_signal_ends_the_process_at_once(start, dialect) -> None:
    """Whoever asks three times does not want to wait; what a request did, the next run finds."""
    names = names_for(dialect)
    with Server(dialect, in_bulk(dialect)) as server:
        run = start(server, names, "apply", "--format", "json")
        server.held(PARALLEL)
        for number in (signal.SIGINT, signal.SIGTERM):
            run.tell(number)
            time.sleep(HEARD)
        assert run.process.poll() is None
        last = run.tell(signal.SIGTERM)
        code, out, _, _ = run.end()
        assert (code, out) == (143, "")
        assert time.monotonic() - last < AT_ONCE
        server.let_go(PARALLEL)
        converges(server, start, names)


@pytest.mark.parametrize("dialect", Dialect)
def test_a_wait_that_the_server_ordered_ends_with_the_signal(start, dialect) -> None:
    """`Retry-After: 60` to every create: nothing was made, and the process does not stay for it."""
    told = threading.Event()

    def slow(_: Request) -> Response:
        told.set()
        return json_answer(429, {"messages": ["no"]}, headers=(("Retry-After", "60"),))

    names = names_for(dialect)
    with answering(dialect, creates, slow) as server:
        run = start(server, names, "apply", "--format", "json")
        assert told.wait(30)
        time.sleep(HEARD)
        moment = run.tell(signal.SIGINT)
        code, out, _, seconds = run.end()
        assert code == 130
        assert seconds < AT_ONCE
        assert server.creates_since(moment) == []
        reported = results(out)
        assert {one["status"] for one in reported.values()} == {"skipped"}
        assert {one["error"]["code"] for one in reported.values()} == {"stopped"}
        assert server.live() == Counter()


@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE])
def test_a_create_that_waits_for_its_turn_is_not_begun_after_the_signal(start, dialect) -> None:
    """Under a declared limit: what had not left yet is skipped at once, and not `unknown`."""
    names = names_for(dialect)
    burst = 4 + FIRST[dialect]
    with Server(dialect) as server:
        options = ("apply", "--format", "json")
        run = start(server, names, *options, requests_per_minute=burst)
        while len(server.begun) < burst:
            assert run.process.poll() is None
            time.sleep(0.01)
        time.sleep(HEARD)
        moment = run.tell(signal.SIGTERM)
        code, out, _, seconds = run.end()
        assert code == 143
        assert server.creates_since(moment) == []
        made = {key.name: key.id for key in server.sandbox.keys()}
        reported = results(out)
        done = {name: one["id"] for name, one in reported.items() if one["status"] == "done"}
        assert done == made != {}
        others = [one for name, one in reported.items() if name not in made]
        assert {(one["status"], one["error"]["code"]) for one in others} == {("skipped", "stopped")}
        assert seconds < GRACE + AT_ONCE


@pytest.mark.parametrize("dialect", Dialect)
def test_a_signal_ends_the_search_for_a_lost_create(start, dialect) -> None:
    """Between two looks: no create follows, one last look settles, what it shows is reported."""
    lost = threading.Semaphore(0)
    looked = threading.Semaphore(0)

    class Losing(Server):
        def _around(self, request: Request, inner: Callable[[Request], Response]) -> Response:
            if creates(request) and not self._free.is_set():
                self.begun.append((time.monotonic(), request))
                lost.release()
                raise ConnectionError
            answer = super()._around(request, inner)
            looked.release()
            return answer

    names = ["a", "b", "c"]
    with Losing(dialect) as server:
        run = start(server, names, "apply", "--format", "json")
        assert lost.acquire(timeout=30)
        while looked.acquire(blocking=False):
            pass
        assert looked.acquire(timeout=30)
        moment = run.tell(signal.SIGTERM)
        code, out, _, seconds = run.end()
        assert code == 143
        assert seconds < GRACE + AT_ONCE
        assert len(server.creates_since(moment + HEARD)) == 0
        reported = results(out)
        assert {one["status"] for one in reported.values()} <= {"failed", "skipped"}
        failed = [one for one in reported.values() if one["status"] == "failed"]
        assert {one["error"]["code"] for one in failed} == {"outcome_unknown"}
        converges(server, start, names)


# create


RECORD = {"name": "x", "expiresAt": "2031-01-01T00:00:00Z"}


def body_for(server: Server, count: int) -> list[dict[str, str]]:
    legacy = server.sandbox.dialect is Dialect.LEGACY
    role = {} if legacy else {"roleId": server.sandbox.role("Admin").id}
    return [RECORD | role | {"name": f"svc-{number:02d}"} for number in range(count)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("dialect", [Dialect.LEGACY, Dialect.CORE])
def test_create_finishes_what_it_has_begun(start, tmp_path, number, code, dialect) -> None:
    """The records that were made are printed, every other one is named with its reason."""
    with Server(dialect, in_bulk(dialect)) as server:
        file = tmp_path / "body.json"
        file.write_text(json.dumps(body_for(server, 12)))
        run = start(server, ["unused"], "create", "--body", str(file))
        server.held(PARALLEL)
        moment = run.tell(number)
        time.sleep(HEARD)
        server.let_go(PARALLEL)
        found, out, err, seconds = run.end()
        assert (found, seconds < GRACE) == (code, True)
        assert server.creates_since(moment) == []
        made = {key.id for key in server.sandbox.keys()}
        assert {one["id"] for one in json.loads(out)} == made
        assert len(made) == FIRST[dialect] + PARALLEL * SIZES[dialect] < 12
        *lines, last = err.splitlines()
        assert last == 'Run "provision explain stopped" to learn more.'
        assert len(lines) == 12 - len(made)
        assert all(line.startswith("stopped: ") for line in lines)


@pytest.mark.parametrize("single", [True, False])
def test_create_says_which_record_may_exist(start, tmp_path, single) -> None:
    """A request that outlives the grace: `outcome_unknown` for it, and the process has ended."""
    with Server(Dialect.LEGACY, in_bulk(Dialect.LEGACY) if not single else creates) as server:
        file = tmp_path / "body.json"
        body = body_for(server, 12)
        file.write_text(json.dumps(body[0] if single else body))
        run = start(server, ["unused"], "create", "--body", str(file))
        server.held(1 if single else PARALLEL)
        run.tell(signal.SIGINT)
        code, out, err, seconds = run.end()
        assert code == 130
        assert GRACE - 0.5 < seconds < GRACE + AT_ONCE
        *lines, last = err.splitlines()
        assert last.startswith('Run "provision explain ')
        codes = Counter(line.partition(":")[0] for line in lines)
        if single:
            assert (out, codes) == ("", {"outcome_unknown": 1})
        else:
            assert json.loads(out) == []
            assert codes == {"outcome_unknown": 2 * PARALLEL, "stopped": 12 - 2 * PARALLEL}


def test_create_is_stopped_while_it_connects(start, tmp_path) -> None:
    """A server that hangs at the first read is left at once, and nothing was made."""
    with Server(Dialect.CORE, lambda _: True) as server:
        file = tmp_path / "body.json"
        file.write_text(json.dumps(body_for(server, 1)))
        run = start(server, ["unused"], "create", "--body", str(file))
        server.held(1)
        run.tell(signal.SIGTERM)
        code, out, err, seconds = run.end()
        assert (code, out) == (143, "")
        assert err.startswith("stopped: ")
        assert seconds < AT_ONCE


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
def test_a_check_that_runs_ends_with_the_command(tmp_path, command) -> None:
    """A program that hangs is not left behind by a command that was told to stop."""
    (tmp_path / "manifests").mkdir()
    shop = "version: 1\nenvironments: {shop: {url: 'sandbox:', role: Admin}}\n"
    (tmp_path / "manifests" / "environments.yaml").write_text(shop)
    (tmp_path / "manifests" / "keys.yaml").write_text(CHECKED)
    (tmp_path / "check.sh").write_text(CHECK)
    program = [sys.executable, "-m", "provisioner"]
    subprocess.run([*program, "apply", "-q"], cwd=tmp_path, check=True, timeout=60)
    (tmp_path / "slow").touch()
    process = subprocess.Popen([*program, command], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        assert until_begun(tmp_path / "pid")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    finally:
        process.kill()
        process.wait()
    assert until_over(tmp_path / "pid")


# --- The first moments ---------------------------------------------------------------------------

TOLD = """\
import os, random, signal, sys, threading, time
place, number, within = os.environ["TELL"].split()
def tell(*_):
    time.sleep(random.Random(int(os.environ["SEED"])).uniform(0, float(within)))
    os.kill(os.getpid(), int(number))
def hook(event, arguments):
    global place
    if place and event in ("open", "import") and str(arguments[0]).endswith(place):
        place = ""
        tell() if float(within) == 0 else threading.Thread(target=tell, daemon=True).start()
sys.addaudithook(hook)
"""
"""What a process runs first: it gets a signal as it opens a file, or imports a module."""

FIRST_MOMENTS = {
    "imports": "provisioner.cli.console",
    "environments": "manifests/environments.yaml",
    "manifests": "manifests/keys.yaml",
    "look": "provisioner.twenty.legacy",
}

EARLY = {
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
"""Commands that go to servers, and the schema of what they print."""


def early(
    tmp_path: Path, server: Server, words: str, place: str, number: int, **more: str
) -> tuple[int, str, str]:
    """What a process says that gets a signal at a place of its way."""
    (tmp_path / "sitecustomize.py").write_text(TOLD)
    folder = tmp_path / "manifests"
    folder.mkdir(exist_ok=True)
    real = f"url: '{server.sandbox.url}', auth: {{session_token: '${{TOKEN}}'}}, role: Admin"
    (folder / "environments.yaml").write_text(
        f"version: 1\nenvironments:\n  shop: {{{real}, owns: ['*']}}\n"
    )
    (folder / "keys.yaml").write_text(
        "version: 1\nenvironment: shop\ndefaults: {expires: 90d}\n"
        f"keys: [{{name: a, deliver: [{{file: a.env}}]}}{more.pop('keys', '')}]\n"
    )
    (tmp_path / "body.json").write_text(json.dumps(body_for(server, 1)))
    within = more.pop("within", "0")
    done = subprocess.run(
        [sys.executable, "-m", "provisioner", *words.format(tmp=tmp_path).split()],
        env=os.environ
        | {"TOKEN": server.sandbox.session_token(), "PYTHONPATH": str(tmp_path)}
        | {"TELL": f"{place} {number} {within}", "SEED": "0"}
        | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


MEETINGS = [
    *(("apply", moment) for moment in FIRST_MOMENTS),
    *zip((one for one in EARLY if one != "apply"), itertools.cycle(FIRST_MOMENTS), strict=False),
]


@pytest.mark.parametrize(("words", "moment"), MEETINGS)
def test_a_signal_in_the_first_moments_still_gives_a_report(tmp_path, words, moment) -> None:
    """While modules or manifests are read: every environment is told as stopped, nothing is made.

    The thread that hears the signal may be later than a first look, which is left then.
    """
    number, code = SIGNALS[len(words) % 2]
    with Server(Dialect.CORE, lambda _: True) as server:
        schema = EARLY[words]
        form = "--format json" if schema else ""
        found, out, err = early(tmp_path, server, f"{words} {form}", FIRST_MOMENTS[moment], number)
        assert found == code, err
        assert server.live() == Counter()
    assert not (tmp_path / "token").exists()
    if not schema:
        assert (out, "stopped: The run was told to stop" in err) == ("", True)
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


def test_a_report_and_the_events_of_a_run_that_was_stopped_early_are_whole(tmp_path) -> None:
    """They end with the code of the process, in every form."""
    with Server(Dialect.CORE, lambda _: True) as server:
        words = "apply --report markdown=run.md --report json=run.json --events events"
        place = FIRST_MOMENTS["manifests"]
        code, out, _ = early(tmp_path, server, words, place, signal.SIGTERM)
    assert code == 143
    verdict = "Incomplete: 0 created, 0 as declared, 1 environment not reached."
    assert out.splitlines()[-1] == verdict
    assert f"## {verdict}" in (tmp_path / "run.md").read_text()
    [environment] = json.loads((tmp_path / "run.json").read_text())["environments"]
    assert environment["error"]["code"] == "stopped"
    last = json.loads((tmp_path / "events").read_text().splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("run_ended", 143)


@pytest.mark.parametrize("form", ["json", "text"])
def test_problems_that_a_stopped_run_meets_are_told_with_the_code_of_the_signal(
    tmp_path, form
) -> None:
    """The order of exit codes holds: 143 before 3."""
    with Server(Dialect.CORE) as server:
        words = f"apply --format {form} --events events"
        place = FIRST_MOMENTS["environments"]
        keys = ", {name: a}"
        code, out, err = early(tmp_path, server, words, place, signal.SIGTERM, keys=keys)
        assert (code, server.begun) == (143, [])
    assert "name_duplicate" in err
    if form == "json":
        Draft202012Validator(schemas.load("problems")).validate(json.loads(out))
    last = json.loads((tmp_path / "events").read_text().splitlines()[-1])
    assert last["exit_code"] == 143


@pytest.mark.parametrize("seed", range(int(os.environ.get("EARLY", "4"))))
def test_a_signal_at_any_moment_of_the_first_300_ms_gives_a_whole_report(tmp_path, seed) -> None:
    """At random, from the first line of the command on, before a server that answers nothing."""
    with Server(Dialect.CORE, lambda _: True) as server:
        place = FIRST_MOMENTS["imports"]
        code, out, err = early(
            tmp_path,
            server,
            "apply --format json",
            place,
            signal.SIGTERM,
            within="0.3",
            SEED=str(seed),
        )
    assert code == 143, err
    document = json.loads(out)
    Draft202012Validator(schemas.load("result")).validate(document)
    assert [one["error"]["code"] for one in document["environments"]] == ["stopped"]


def test_a_body_that_somebody_types_can_be_left(start) -> None:
    """Ctrl-C while `create` reads its standard input ends it at once."""
    with Server(Dialect.CORE) as server:
        ours, theirs = os.pipe()
        run = start(server, ["unused"], "create", "--body", "-", stdin=ours)
        os.write(theirs, b"[")
        while int.from_bytes(fcntl.ioctl(ours, termios.FIONREAD, b"\0" * 4), sys.byteorder):
            time.sleep(0.01)
        run.tell(signal.SIGINT)
        code, out, err, seconds = run.end()
        os.close(ours)
        os.close(theirs)
        assert (code, out, err.strip()) == (130, "", "interrupted")
        assert seconds < AT_ONCE
        assert server.begun == []


STUCK = """
import socket, sys, threading
from provisioner.runtime.executor import ThreadExecutor

listener = socket.create_server(("127.0.0.1", 0))
connection = socket.create_connection(listener.getsockname())
begun = threading.Event()

def read():
    begun.set()
    connection.recv(1)

threads = ThreadExecutor(2)
threads.submit(read)
threads.submit(read)
begun.wait(5)
threads.shutdown(wait=False, cancel_futures=True)
print("told", flush=True)
sys.exit(7)
"""


def test_a_process_ends_though_a_thread_is_stuck_in_a_read() -> None:
    """A server that never answers keeps no process alive, and the exit code is the program's."""
    command = [sys.executable, "-c", STUCK]
    started = time.monotonic()
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (7, "told\n", "")
    assert time.monotonic() - started < 5
