"""Delivery of tokens: the number of requests, the repair of damage, and the effect of failures."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import threading
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests
from delivering import (
    ALL_KINDS,
    LIBRARIES,
    READABLE,
    Command,
    Completed,
    DotenvFile,
    Gitlab,
    Project,
    Vault,
    assert_one_token_per_key,
    is_accepted,
    is_write,
    key_id_of,
    live_keys,
    shop,
    sink_fixture,
)
from files import NOBODY, require_mounts
from sandbox_control import Dialect, Exchange, Request, Response, Sandbox
from tls_server import HttpResponse

from provisioner.cli import main
from provisioner.execution import create
from provisioner.execution.token_flow import TokenFlow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tls_server import HttpRequest

RACES = int(os.environ.get("RACES", "5"))
"""The number of races of two runs for one file; the dialects alternate."""

DIALECTS = pytest.mark.parametrize("dialect", Dialect)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def run(project: Project, monkeypatch, capsys) -> Callable[..., Completed]:
    """Return a function that runs a command in this process."""

    def run_command(command: str, *arguments: str) -> Completed:
        with monkeypatch.context() as patch:
            for name, value in project.environ.items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = main([command, "-m", str(project.manifests), *arguments])
        return Completed(code, *capsys.readouterr())

    return run_command


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def open_shop(
    project: Project,
    sandbox: Sandbox,
    keys: list[tuple[str, list[dict[str, Any]]]],
    *,
    defaults: dict[str, Any] | None = None,
    **fields: Any,
) -> None:
    manifest_fields = {} if defaults is None else {"defaults": defaults}
    project.write(shop(sandbox, **fields), {"shop": keys}, **manifest_fields)
    project.environ["TOKEN"] = sandbox.session_token()


CLOCK_OFFSETS = ((-50, 0), (50, 0), (0, -50), (0, 50), (-25, 25), (25, -25))
"""Seconds by which the clocks of the run and of GitHub are ahead of Twenty's clock."""

SHIFTED_CLOCK = """
import datetime, sys, time_machine
moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds={ours})
with time_machine.travel(moment, tick=True):
    from provisioner.cli import main
    sys.exit(main())
"""


@pytest.mark.parametrize(("run_offset", "github_offset"), CLOCK_OFFSETS)
def test_a_run_right_after_another_writes_nothing_with_shifted_clocks(
    run_offset: int, github_offset: int, project: Project, stack: ExitStack
) -> None:
    """Clock differences within the allowed minute cause no second delivery, for any sink."""
    dialect = list(Dialect)[(run_offset + github_offset) % len(Dialect)]
    journal: list[Exchange] = []
    sandbox = stack.enter_context(Sandbox(None, dialect, journal=journal))
    places = {kind: sink_fixture(kind, stack, project.root) for kind in ALL_KINDS}
    github = places["github"].server
    github.clock_skew = timedelta(seconds=run_offset + github_offset)
    keys = [(f"svc-{kind}", [entry.item]) for kind, entry in places.items()]
    organisation = {"github": "acme", "secret": "OF_ALL"}
    keys += [(f"due-{kind}", [entry.item]) for kind, entry in places.items()]
    keys += [("svc-all", [organisation]), ("due-all", [organisation | {"secret": "DUE"}])]
    for kind, name in names_of(keys):
        places[kind].make_place(name)
    soon = datetime.now(UTC) + timedelta(days=3)
    sandbox.seed([name for name, _ in keys if name.startswith("due-")], expires_at=f"{soon:%FT%T}Z")
    rotate = {"before": "10d", "overlap": "48h"}
    open_shop(project, sandbox, keys, owns=["*"], defaults={"expires": "90d", "rotate": rotate})
    for entry in places.values():
        project.environ |= entry.environ
    script = SHIFTED_CLOCK.format(ours=run_offset)
    project.preload = LIBRARIES
    first = project.run("apply", "--format", "json", script=script)
    assert first.code == 0, first.err
    assert {entry["action"] for entry in first.results.values()} == {"create", "rotate"}
    written, sent = writes_of(github), len(journal)
    stored = {name: places[kind].stored(name) for kind, name in names_of(keys)}
    second = project.run("apply", "--format", "json", script=script)
    assert (second.code, second.results) == (0, {}), second.err
    assert not any(map(is_write, journal[sent:]))
    assert writes_of(github) == written
    assert {name: places[kind].stored(name) for kind, name in names_of(keys)} == stored


def names_of(keys: list[tuple[str, list[dict[str, Any]]]]) -> list[tuple[str, str]]:
    """Return the kind of sink and the name of each key, except those of the organisation."""
    return [(name.partition("-")[2], name) for name, _ in keys if not name.endswith("-all")]


def writes_of(server: Any) -> int:
    return sum(request.method == "PUT" for request in server.requests)


# The number and order of requests


MOST_REQUESTS = {Dialect.LEGACY: 24, Dialect.CORE_1: 27, Dialect.CORE: 66}
"""Requests for 20 new keys with a sink, with an API key, or with the sign-in on 2.x."""


@pytest.mark.parametrize("dialect", MOST_REQUESTS)
def test_the_number_of_requests_for_new_keys(
    dialect: Dialect, project: Project, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A further key costs its proof and its share of requests for 20 keys, or 3 on 2.x."""
    # On a busy machine a write takes long, after which the token is verified once more.
    monkeypatch.setattr(TokenFlow, "_reverify", lambda *_: None)
    sent: dict[int, int] = {}
    for count in (20, 60):
        journal: list[Exchange] = []
        names = [f"svc-{number}" for number in range(count)]
        with Sandbox(None, dialect, journal=journal) as sandbox:
            sinks = DotenvFile(project.root)
            auth = {"token": "${TOKEN}"}
            if dialect is Dialect.CORE:
                auth = {"email": "${EMAIL}", "password": "${PASSWORD}"}
            open_shop(project, sandbox, [(name, [sinks.item]) for name in names], auth=auth)
            project.environ |= {"EMAIL": sandbox.email, "PASSWORD": sandbox.password}
            project.environ["TOKEN"] = sandbox.token_of(sandbox.seed(["other"])[0])
            assert run("apply").code == 0
            # The sign-out at the end is not counted: servers before 2.33 do not have it.
            sent[count] = sum(b"signOut" not in entry.body for entry in journal)
            assert len({sinks.stored(name) for name in names} - {None}) == count
    assert sent[20] <= MOST_REQUESTS[dialect]
    most = {Dialect.LEGACY: 40 + 2, Dialect.CORE_1: 40 + 2 * 2, Dialect.CORE: 3 * 40}
    assert sent[60] - sent[20] <= most[dialect]


@pytest.mark.parametrize("name", ["old", "first"])
def test_no_token_waits_for_the_last_create(
    name: str, project: Project, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is settled gets its token while others are still being created."""
    monkeypatch.setattr(create, "_FIRST_EARLY_LOOK", 0.2)
    sinks = DotenvFile(project.root)
    delivered = threading.Event()

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        answer = inner(request)
        if b"currentWorkspace" in request.body and key_id_of(request.authorization[7:]) in ids():
            delivered.set()
        elif b'"last"' in request.body:
            assert delivered.wait(30)
        return answer

    def ids() -> set[str]:
        return {key.id for key in sandbox.keys() if key.name == name}

    with Sandbox(None, around=around) as sandbox:
        sandbox.seed(["old"])
        keys = [(key, [sinks.item]) for key in ("old", "first", "second", "last")]
        open_shop(project, sandbox, keys, owns=["*"], defaults={"expires": "90d"})
        ran = run("apply", "--redeliver")
        assert (ran.code, delivered.is_set()) == (0, True), ran.err
        assert is_accepted(sandbox, sinks.stored(name) or "")


def test_no_key_is_settled_early_while_another_run_is_at_work(
    project: Project, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last observation decides then, after a delay, which keys stay."""
    monkeypatch.setattr(create, "_FIRST_EARLY_LOOK", 0.1)
    sinks = DotenvFile(project.root)
    minted, looks = threading.Event(), threading.Semaphore(0)

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        if b"generateApiKeyToken" in request.body:
            minted.set()
        elif b'"first"' in request.body and not sandbox.keys():
            sandbox.seed(["second"])
        elif b'"last"' in request.body:
            for _ in range(4):  # at 0.1, 0.3 and 0.7 s, after the one of the plan
                assert looks.acquire(timeout=30)
            assert not minted.is_set()
        answer = inner(request)
        if b"getRoles" in request.body:
            looks.release()
        return answer

    with Sandbox(None, around=around) as sandbox:
        open_shop(project, sandbox, [(key, [sinks.item]) for key in ("first", "second", "last")])
        ran = run("apply")
        assert (ran.code, minted.is_set()) == (0, True), ran.err
        live = {key.name: key.id for key in live_keys(sandbox)}
        assert len(live_keys(sandbox)) == len(live) == 3
        assert {name: key_id_of(sinks.stored(name)) for name in live} == live


class EventLog:
    """A log of accepted and written tokens, in the order of the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def around(self, request: Request, inner: Callable[[Request], Response]) -> Response:
        answer = inner(request)
        if b'"errors"' not in answer.body:
            self.events.append(("accepted", request.authorization.removeprefix("Bearer ")))
        return answer

    def watch(self, gitlab: Gitlab, monkeypatch: pytest.MonkeyPatch) -> None:
        inner = gitlab.server.answer

        def answer(request: HttpRequest) -> HttpResponse:
            if request.method in ("POST", "PUT"):
                self.events.append(("written", request.body["value"]))
            return inner(request)

        monkeypatch.setattr(gitlab.server, "answer", answer)


@DIALECTS
def test_a_token_is_checked_before_it_is_delivered(
    dialect: Dialect, project: Project, run, stack, monkeypatch
) -> None:
    """Each token is accepted by the workspace before it is written to a sink."""
    log = EventLog()
    names = [f"svc-{number}" for number in range(6)]
    gitlab = Gitlab(stack)
    log.watch(gitlab, monkeypatch)
    project.environ |= gitlab.environ
    with Sandbox(None, dialect, around=log.around) as sandbox:
        open_shop(project, sandbox, [(name, [gitlab.item]) for name in names])
        assert run("apply").code == 0
    written = [token for event, token in log.events if event == "written"]
    assert len(set(written)) == len(written) == len(names)
    for token in written:
        assert log.events.index(("accepted", token)) < log.events.index(("written", token))


@DIALECTS
def test_a_refused_token_is_not_delivered(dialect: Dialect, project: Project, run) -> None:
    """The token of a key that is revoked after minting is `token_refused` and is not written."""

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        answer = inner(request)
        if b"generateApiKeyToken" in request.body:
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            revoked = [_replaced(key, revoked_at=now) for key in sandbox.keys()]
            sandbox.put(*revoked)
        return answer

    sinks = DotenvFile(project.root)
    with Sandbox(None, dialect, around=around) as sandbox:
        open_shop(project, sandbox, [("svc", [sinks.item])])
        ran = run("apply", "--format", "json")
    assert ran.code == 4
    assert ran.results["svc"]["error"]["code"] == "token_refused"
    assert sinks.stored("svc") is None


def _replaced(key: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(key, **changes)


# Repairs


def minted(sandbox: Sandbox, key_id: str, expires_at: str) -> str:
    """Return a token that the server minted in a request."""
    document = (
        f'mutation{{generateApiKeyToken(apiKeyId:"{key_id}",expiresAt:"{expires_at}"){{token}}}}'
    )
    answer = requests.post(
        f"{sandbox.url}/metadata",
        json={"query": document},
        headers={"Authorization": f"Bearer {sandbox.session_token()}"},
        timeout=30,
    )
    return answer.json()["data"]["generateApiKeyToken"]["token"]


DAMAGE = {
    "svc-removed": "token_missing",
    "svc-junk": "token_invalid",
    "svc-cut": "token_invalid",
    "svc-of-a-revoked-key": "token_dead",
    "svc-of-another-key": "token_dead",
    "svc-ends-earlier": "token_expiring",
}
"""The damage to the token of each key, and the reason in the plan that repairs it."""

HEALING = [(kind, list(Dialect)[number % len(Dialect)]) for number, kind in enumerate(READABLE)] + [
    ("dotenv", Dialect.CORE_1),
    ("dotenv", Dialect.CORE),
    ("dotenv", Dialect.CORE_NEWEST),
]


def damage(sandbox: Sandbox, sinks: Any, names: list[str]) -> None:
    ids = {key.name: key.id for key in sandbox.keys()}
    expiries = {key.name: key.expires_at for key in sandbox.keys()}
    [revoked] = sandbox.seed(["svc-junk"], revoked_at="2026-01-01T00:00:00.000Z")
    early = (datetime.now(UTC) + timedelta(days=89)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    sinks.put("svc-removed", None)
    sinks.put("svc-junk", "not-a-token-at-all")
    sinks.put("svc-cut", sinks.stored("svc-cut")[:-7])
    sinks.put("svc-of-a-revoked-key", sandbox.token_of(revoked))
    sinks.put("svc-of-another-key", minted(sandbox, ids["svc-kept"], expiries["svc-kept"]))
    sinks.put("svc-ends-earlier", minted(sandbox, ids["svc-ends-earlier"], early))
    sinks.put("svc-other", minted(sandbox, ids["svc-other"], expiries["svc-other"]))
    assert set(names) == {*DAMAGE, "svc-other", "svc-kept"}


@pytest.mark.parametrize(("kind", "dialect"), HEALING)
def test_damaged_tokens_are_repaired_without_a_new_key(
    kind: str, dialect: Dialect, project: Project, run, stack
) -> None:
    """Each damage is planned with its reason and repaired; every valid token is kept."""
    sinks = sink_fixture(kind, stack, project.root)
    project.environ |= sinks.environ
    names = [*DAMAGE, "svc-other", "svc-kept"]
    with Sandbox(None, dialect) as sandbox:
        open_shop(project, sandbox, [(name, [sinks.item]) for name in names])
        assert run("apply").code == 0
        created = {key.id for key in sandbox.keys()}
        assert run("plan", "--detailed-exitcode").code == 0
        damage(sandbox, sinks, names)
        good = {name: sinks.stored(name) for name in ("svc-other", "svc-kept")}

        planned = run("plan", "--detailed-exitcode", "--format", "json")
        assert planned.code == 2
        assert planned.actions == {name: ("deliver", reason) for name, reason in DAMAGE.items()}

        healed = run("apply", "--format", "json")
        assert healed.code == 0, healed
        assert {name: entry["status"] for name, entry in healed.results.items()} == dict.fromkeys(
            DAMAGE, "done"
        )
        assert {key.id for key in live_keys(sandbox)} == created
        assert {name: sinks.stored(name) for name in good} == good
        ids = {key.name: key.id for key in live_keys(sandbox)}
        for name in names:
            assert key_id_of(sinks.stored(name)) == ids[name], name
            assert is_accepted(sandbox, sinks.stored(name)), name
        assert run("plan", "--detailed-exitcode").code == 0


@DIALECTS
def test_a_write_only_sink_is_repaired_by_its_timestamps(
    dialect: Dialect, project: Project, run, stack
) -> None:
    """Without receipts, a secret that is removed or older than its key is written again."""
    github = sink_fixture("github", stack, project.root)
    project.environ |= github.environ
    names = ["svc-older", "svc-removed", "svc-newer"]
    item = github.item | {"receipt": False}
    with Sandbox(None, dialect) as sandbox:
        open_shop(project, sandbox, [(name, [item]) for name in names])
        assert run("apply").code == 0
        created = sandbox.keys()
        github.stored_secrets["SVC_OLDER"].updated_at -= timedelta(hours=1)
        github.put("svc-removed", None)
        newer = github.stored("svc-newer")
        planned = run("plan", "--detailed-exitcode", "--format", "json")
        assert planned.code == 2
        assert planned.actions == {
            "svc-older": ("deliver", "token_outdated"),
            "svc-removed": ("deliver", "token_missing"),
        }
        assert run("apply").code == 0
        assert sandbox.keys() == created
        assert github.stored("svc-newer") == newer
        assert_one_token_per_key(sandbox, {name: github.stored(name) for name in names})
        assert run("plan", "--detailed-exitcode").code == 0


# Failing sinks


@pytest.mark.parametrize("fault", ["denied", "down"])
@DIALECTS
def test_an_unusable_sink_blocks_only_its_own_keys(
    dialect: Dialect, fault: str, project: Project, run, stack
) -> None:
    """The keys of an unusable sink are not created; those of another sink are delivered."""
    vault, file = Vault(stack), DotenvFile(project.root)
    project.environ |= vault.environ
    if fault == "denied":
        vault.server.policies.clear()
    else:
        with Sandbox(None) as stopped:
            project.environ["VAULT_ADDR"] = stopped.url
    keys = [(f"svc-{number}", [(vault, file)[number % 2].item]) for number in range(6)]
    keys.append(("svc-both", [file.item, vault.item]))
    free = {"svc-1", "svc-3", "svc-5"}
    with Sandbox(None, dialect) as sandbox:
        open_shop(project, sandbox, keys)
        ran = run("apply", "--format", "json")
        assert ran.code == 4
        assert {name for name, entry in ran.results.items() if entry["status"] == "done"} == free
        code = "sink_denied" if fault == "denied" else "sink_unavailable"
        failed = {n: entry["error"]["code"] for n, entry in ran.results.items() if n not in free}
        assert failed == dict.fromkeys(dict(keys).keys() - free, code)
        assert_one_token_per_key(sandbox, {name: file.stored(name) for name in free})
        assert file.stored("svc-both") is None


@DIALECTS
def test_the_next_run_delivers_after_a_failed_write(
    dialect: Dialect, project: Project, run, stack
) -> None:
    """The failed result has the id of the created key; the next run only delivers its token."""
    gitlab, file = Gitlab(stack), DotenvFile(project.root)
    project.environ |= gitlab.environ
    keys = [("svc-git", [file.item | {"variable": "GIT"}, gitlab.item]), ("svc-file", [file.item])]
    inner = gitlab.server.answer

    def refusing(request: HttpRequest) -> HttpResponse:
        return HttpResponse(418, request.body) if request.method == "POST" else inner(request)

    with Sandbox(None, dialect) as sandbox:
        open_shop(project, sandbox, keys)
        gitlab.server.answer = refusing
        ran = run("apply", "--format", "json")
        assert ran.code == 4
        created = {key.name: key.id for key in live_keys(sandbox)}
        assert sorted(created) == ["svc-file", "svc-git"]
        reported = {name: (entry["status"], entry["id"]) for name, entry in ran.results.items()}
        assert reported == {
            "svc-git": ("failed", created["svc-git"]),
            "svc-file": ("done", created["svc-file"]),
        }
        assert ran.results["svc-git"]["error"]["code"] == "sink_failed"
        assert ran.results["svc-git"]["record"]["id"] == created["svc-git"]

        gitlab.server.answer = inner
        second = run("apply", "--format", "json")
        assert second.code == 0
        assert [(name, entry["action"]) for name, entry in second.results.items()] == [
            ("svc-git", "deliver")
        ]
        stored = {"svc-git": gitlab.stored("svc-git"), "svc-file": file.stored("svc-file")}
        assert_one_token_per_key(sandbox, stored)


@DIALECTS
def test_a_failing_command_fails_only_its_own_key(dialect: Dialect, project: Project, run) -> None:
    """If one of two programs fails, its key is created and failed, and the other key is done."""
    broken = Command(project.root, "cat; cat >&2; exit 3", check="")
    sound = Command(project.root)
    with Sandbox(None, dialect) as sandbox:
        open_shop(project, sandbox, [("svc-a", [broken.item]), ("svc-b", [sound.item])])
        ran = run("apply", "--format", "json")
        assert ran.code == 4
        assert ran.results["svc-a"]["status"] == "failed"
        assert "exit code 3" in ran.results["svc-a"]["error"]["message"]
        assert ran.results["svc-b"]["status"] == "done"
        assert is_accepted(sandbox, sound.stored("svc-b"))


# Two runs at once


class StartingLine:
    """A middleware that delays the first create of each of two runs until both have sent one."""

    def __init__(self) -> None:
        self._line = threading.Barrier(2)
        self._expiries: set[bytes] = set()
        self._lock = threading.Lock()
        self.raced = False

    def __call__(self, request: Request, answer: Callable[[Request], Response]) -> Response:
        if request.method == "POST" and b"svc-" in request.body:
            # The expiry of the first key, whose milliseconds differ between the runs.
            expiry = request.body.partition(b'expiresAt": "')[2][:24]
            with self._lock:
                first = expiry not in self._expiries and len(self._expiries) < 2
                self._expiries.add(expiry)
            if first:
                with suppress(threading.BrokenBarrierError):
                    self._line.wait(20.0)
                    self.raced = True
        return answer(request)


@pytest.mark.parametrize("race", range(RACES))
def test_two_runs_at_once_leave_the_tokens_of_the_live_keys(race: int, project: Project) -> None:
    """Both runs succeed, each name has one live key, and one file has a valid token of each."""
    names = [f"svc-{number:02d}" for number in range(12)]
    file = DotenvFile(project.root)
    line = StartingLine()
    with Sandbox(None, list(Dialect)[race % len(Dialect)], around=line) as sandbox:
        open_shop(project, sandbox, [(name, [file.item]) for name in names])
        runs = [project.start("apply", "--format", "json") for _ in range(2)]
        reports = [entry.communicate(timeout=90) for entry in runs]
        assert line.raced
        assert [entry.returncode for entry in runs] == [0, 0], reports
        winners = {key.name: key.id for key in live_keys(sandbox)}
        assert sorted(winners) == names
        assert len(live_keys(sandbox)) == len(names)
        for name in names:
            assert key_id_of(file.stored(name)) == winners[name]
            assert is_accepted(sandbox, file.stored(name) or "")
    for out, _ in reports:
        [environment] = json.loads(out)["environments"]
        assert {entry["id"]: entry["name"] for entry in environment["results"]}.items() <= {
            id_: name for name, id_ in winners.items()
        }.items()


@DIALECTS
def test_a_run_after_a_complete_one_mints_nothing(dialect: Dialect, project: Project, run) -> None:
    """If every sink has its token, a run creates no key and mints no token."""
    journal: list[Exchange] = []
    file = DotenvFile(project.root)
    with Sandbox(None, dialect, journal=journal) as sandbox:
        open_shop(project, sandbox, [(f"svc-{number}", [file.item]) for number in range(3)])
        assert run("apply").code == 0
        assert any(map(is_write, journal))
        journal.clear()
        assert run("apply").code == 0
    assert journal
    assert not any(map(is_write, journal))


# Unwritable sinks


def minted_tokens(journal: list[Exchange]) -> int:
    return sum(b"generateApiKeyToken" in entry.body for entry in journal)


@DIALECTS
def test_two_keys_with_one_file_by_a_link_are_refused_before_the_first_mint(
    dialect: Dialect, project: Project, run
) -> None:
    """Neither key is created and no token is minted; each error names the other address."""
    (project.root / "real").mkdir()
    (project.root / "link").symlink_to("real")
    journal: list[Exchange] = []
    keys = [(name, [{"file": f"{name}/keys.env", "variable": "KEY"}]) for name in ("real", "link")]
    with Sandbox(None, dialect, journal=journal) as sandbox:
        open_shop(project, sandbox, keys)
        for options in ((), ("--only", "real")):
            ran = run("apply", "--format", "json", *options)
            assert ran.code == 4
            reported = ran.results["real"]["error"]
            assert reported["code"] == "sink_unsuitable"
            assert "link/keys.env" in reported["message"]
        assert not sandbox.keys()
        assert minted_tokens(journal) == 0
    assert list((project.root / "real").iterdir()) == []


RUNS = int(os.environ.get("RUNS", "3"))
"""The number of runs against an unwritable sink; docs/reliability.md reports 10."""

FULL = 'mount -t tmpfs -o size=64k none "$1"; head -c 65536 /dev/zero >"$1/ballast" || true'
READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"'


def keys_delivered_to(item: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(f"svc-{number}", [item]) for number in range(3)]


def assert_nothing_is_created(
    sandbox: Sandbox, journal: list[Exchange], run: Callable[..., Completed], code: str, remedy: str
) -> None:
    """Assert that each run exits with 4 and the remedy and creates nothing, and doctor agrees."""
    for _ in range(RUNS):
        ran = run("apply", "--format", "json")
        assert ran.code == 4
        assert {entry["error"]["code"] for entry in ran.results.values()} == {code}
        assert {entry["status"] for entry in ran.results.values()} == {"failed"}
        assert len(ran.results) == 3
        assert all(remedy in entry["error"]["message"] for entry in ran.results.values())
    assert not sandbox.keys()
    assert minted_tokens(journal) == 0
    checked = run("doctor")
    assert checked.code == 4
    assert remedy in f"{checked.out}{checked.err}"


def run_with(project: Project, mounts: str, folder: Path, *arguments: str) -> Completed:
    """Run a command with its own mounts, which a shell script makes with the folder as `$1`."""
    require_mounts()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'set -e; {mounts}; shift; exec "$@"', "sh", str(folder)]
        + project.command(*arguments),
        env={**os.environ, **project.environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return Completed(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("mounts", "code", "remedy"),
    [
        (FULL, "sink_failed", "Free disk space"),
        (READ_ONLY, "sink_unsuitable", "writable file system"),
    ],
    ids=["full disk", "read-only folder"],
)
def test_an_unwritable_folder_costs_no_token(
    project: Project, mounts: str, code: str, remedy: str
) -> None:
    """A full disk and a read-only mount block the keys before any token is minted."""
    (project.root / "secrets").mkdir()
    journal: list[Exchange] = []

    def run(*arguments: str) -> Completed:
        return run_with(project, mounts, project.root / "secrets", *arguments)

    with Sandbox(None, Dialect.CORE, journal=journal) as sandbox:
        open_shop(project, sandbox, keys_delivered_to(DotenvFile.item))
        assert_nothing_is_created(sandbox, journal, run, code, remedy)
    assert list((project.root / "secrets").iterdir()) == []


@DIALECTS
def test_a_folder_without_locks_costs_no_token(
    dialect: Dialect, project: Project, run, monkeypatch
) -> None:
    """A file system without locks, as NFS may be (simulated), blocks the keys."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    journal: list[Exchange] = []
    with Sandbox(None, dialect, journal=journal) as sandbox:
        open_shop(project, sandbox, keys_delivered_to(DotenvFile.item))
        assert_nothing_is_created(sandbox, journal, run, "sink_unsuitable", "local disk")
    assert not (project.root / "secrets").exists()


def archive_github(sinks: Any) -> None:
    sinks.server.archived = {("acme", "billing")}


def archive_gitlab(sinks: Any) -> None:
    sinks.server.archived = {"acme/billing"}


def delete_namespace(sinks: Any) -> None:
    sinks.server.namespaces = set()


@DIALECTS
@pytest.mark.parametrize(
    ("kind", "break_sink", "code", "remedy"),
    [
        ("github", archive_github, "sink_unsuitable", "Unarchive the repository"),
        ("gitlab", archive_gitlab, "sink_unsuitable", "Unarchive the project"),
        ("kubernetes", delete_namespace, "sink_missing", "Create the namespace"),
    ],
)
def test_a_vendor_that_accepts_no_write_costs_no_token(
    dialect: Dialect,
    project: Project,
    run,
    stack,
    kind: str,
    break_sink: Callable[[Any], None],
    code: str,
    remedy: str,
) -> None:
    """An archived repository or project and a missing namespace block the keys."""
    sinks = sink_fixture(kind, stack, project.root)
    break_sink(sinks)
    project.environ |= sinks.environ
    journal: list[Exchange] = []
    with Sandbox(None, dialect, journal=journal) as sandbox:
        open_shop(project, sandbox, keys_delivered_to(sinks.item))
        assert_nothing_is_created(sandbox, journal, run, code, remedy)
    writes = {entry.method for entry in sinks.server.requests if not entry.query.get("dryRun")}
    assert writes == {"GET"}


@DIALECTS
def test_the_token_command_writes_no_file_of_another_user(
    dialect: Dialect, project: Project, run
) -> None:
    """Another user's file is replaced, or, if it cannot be, no token is minted."""
    if os.getuid() != 0:
        pytest.skip("only root may give files away")
    journal: list[Exchange] = []
    foreign, mounted = project.root / "theirs.token", project.root / "mounted.token"
    for file in (foreign, mounted, project.root / "host"):
        file.touch(0o666)
        os.chown(file, NOBODY, NOBODY)
    with Sandbox(None, dialect, journal=journal) as sandbox:
        open_shop(project, sandbox, [])
        sandbox.seed(["svc"])
        mount = 'mount --bind "$1/host" "$1/mounted.token"'
        ran = run_with(project, mount, project.root, "token", "svc", "--to", str(mounted))
        assert ran.code == 4
        assert "belongs to another user" in ran.err
        assert minted_tokens(journal) == 0
        assert run("token", "svc", "--to", str(foreign)).code == 0
        assert is_accepted(sandbox, foreign.read_text())
    assert (project.root / "host").read_text() == ""
    assert (foreign.stat().st_uid, foreign.stat().st_mode & 0o777) == (0, 0o600)
