"""Tokens on their way: what they cost, what heals, and what a failure leaves undone."""

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
    READ_BACK,
    Command,
    DotenvFile,
    Gitlab,
    Project,
    Ran,
    Vault,
    deliver_nothing_else,
    is_write,
    key_of,
    live,
    place,
    shop,
    works,
)
from files import NOBODY, require_mounts
from tls_server import HttpResponse

from provisioner.cli import main
from provisioner.sandbox import Dialect, Exchange, Request, Response, Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tls_server import HttpRequest

RACES = int(os.environ.get("RACES", "5"))
"""Races of two runs for one file; the dialects take turns."""

DIALECTS = pytest.mark.parametrize("dialect", Dialect)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def run(project: Project, monkeypatch, capsys) -> Callable[..., Ran]:
    """Runs a command in this process."""

    def run_(command: str, *arguments: str) -> Ran:
        with monkeypatch.context() as patch:
            for name, value in project.environ.items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = main([command, "-m", str(project.manifests), *arguments])
        return Ran(code, *capsys.readouterr())

    return run_


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
    **more: Any,
) -> None:
    of_manifest = {} if defaults is None else {"defaults": defaults}
    project.write(shop(sandbox, **more), {"shop": keys}, **of_manifest)
    project.environ["TOKEN"] = sandbox.session_token()


APART = ((-50, 0), (50, 0), (0, -50), (0, 50), (-25, 25), (25, -25))
"""Seconds by which the clocks of a run and of GitHub are ahead of Twenty's."""

TRAVELLING = """
import datetime, sys, time_machine
moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds={ours})
with time_machine.travel(moment, tick=True):
    from provisioner.cli import main
    sys.exit(main())
"""


@pytest.mark.parametrize(("ours", "theirs"), APART)
def test_a_run_right_after_a_complete_one_writes_nothing_whatever_the_clocks_say(
    ours: int, theirs: int, project: Project, stack: ExitStack
) -> None:
    """Within the minute that the clock guard allows; for each kind of sink, made and rotated."""
    dialect = list(Dialect)[(ours + theirs) % 3]
    journal: list[Exchange] = []
    sandbox = stack.enter_context(Sandbox(None, dialect, journal=journal))
    places = {kind: place(kind, stack, project.root) for kind in ALL_KINDS}
    github = places["github"].server
    github.clock_skew = timedelta(seconds=ours + theirs)
    keys = [(f"svc-{kind}", [one.item]) for kind, one in places.items()]
    organisation = {"github": "acme", "secret": "OF_ALL"}
    keys += [(f"due-{kind}", [one.item]) for kind, one in places.items()]
    keys += [("svc-all", [organisation]), ("due-all", [organisation | {"secret": "DUE"}])]
    soon = datetime.now(UTC) + timedelta(days=3)
    sandbox.seed([name for name, _ in keys if name.startswith("due-")], expires_at=f"{soon:%FT%T}Z")
    rotate = {"before": "10d", "overlap": "48h"}
    open_shop(project, sandbox, keys, owns=["*"], defaults={"expires": "90d", "rotate": rotate})
    for one in places.values():
        project.environ |= one.environ
    script = TRAVELLING.format(ours=ours)
    first = project.run("apply", "--format", "json", script=script)
    assert first.code == 0, first.err
    assert {one["action"] for one in first.results.values()} == {"create", "rotate"}
    written, sent = writes_of(github), len(journal)
    held = {name: places[kind].held(name) for kind, name in names_of(keys)}
    again = project.run("apply", "--format", "json", script=script)
    assert (again.code, again.results) == (0, {}), again.err
    assert not any(map(is_write, journal[sent:]))
    assert writes_of(github) == written
    assert {name: places[kind].held(name) for kind, name in names_of(keys)} == held


def names_of(keys: list[tuple[str, list[dict[str, Any]]]]) -> list[tuple[str, str]]:
    """The kind of sink and the name of each key, but of the organisation's."""
    return [(name.partition("-")[2], name) for name, _ in keys if not name.endswith("-all")]


def writes_of(server: Any) -> int:
    return sum(asked.method == "PUT" for asked in server.requests)


# What it costs, and in which order it goes


@DIALECTS
def test_a_new_key_costs_three_requests_on_core_and_two_and_its_batch_on_legacy(
    dialect: Dialect, project: Project, run
) -> None:
    """Beyond a constant: 3 a key on core, one less where a document creates many; 2 on legacy."""
    sent: dict[int, int] = {}
    batches: dict[int, int] = {}
    for count in (5, 25, 65):
        journal: list[Exchange] = []
        names = [f"svc-{number}" for number in range(count)]
        with Sandbox(None, dialect, journal=journal) as sandbox:
            sinks = DotenvFile(project.root)
            open_shop(project, sandbox, [(name, [sinks.item]) for name in names])
            assert run("apply").code == 0
            sent[count] = len(journal)
            batches[count] = sum(one.path.startswith("/rest/batch") for one in journal)
            deliver_nothing_else(sandbox, {name: sinks.held(name) for name in names})
    if dialect is Dialect.LEGACY:
        assert batches == {5: 1, 25: 1, 65: 2}
        # 65 keys fill a second page of the look that follows.
        assert sent[25] - sent[5] == 2 * 20
        assert sent[65] - sent[25] == 2 * 40 + 2
    else:
        assert sent[25] - sent[5] <= 3 * 20
        assert sent[65] - sent[25] <= 3 * 40


class Order:
    """Notes which tokens were accepted, and which were written, in the order of the events."""

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
def test_a_token_is_accepted_by_its_server_before_any_sink_is_given_it(
    dialect: Dialect, project: Project, run, stack, monkeypatch
) -> None:
    """The first thing that any token did was to open the workspace; then it was written."""
    order = Order()
    names = [f"svc-{number}" for number in range(6)]
    gitlab = Gitlab(stack)
    order.watch(gitlab, monkeypatch)
    project.environ |= gitlab.environ
    with Sandbox(None, dialect, around=order.around) as sandbox:
        open_shop(project, sandbox, [(name, [gitlab.item]) for name in names])
        assert run("apply").code == 0
    written = [token for event, token in order.events if event == "written"]
    assert len(set(written)) == len(written) == len(names)
    for token in written:
        assert order.events.index(("accepted", token)) < order.events.index(("written", token))


@DIALECTS
def test_a_token_that_its_server_does_not_accept_reaches_no_sink(
    dialect: Dialect, project: Project, run
) -> None:
    """A minted token of a key that is revoked at once fails as refused, and nothing is written."""

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        answer = inner(request)
        if b"generateApiKeyToken" in request.body:
            moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            ended = [_replaced(key, revoked_at=moment) for key in sandbox.keys()]
            sandbox.put(*ended)
        return answer

    sinks = DotenvFile(project.root)
    with Sandbox(None, dialect, around=around) as sandbox:
        open_shop(project, sandbox, [("svc", [sinks.item])])
        ran = run("apply", "--format", "json")
    assert ran.code == 4
    assert ran.results["svc"]["error"]["code"] == "token_refused"
    assert sinks.held("svc") is None


def _replaced(key: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(key, **changes)


# What heals


def minted(sandbox: Sandbox, key_id: str, ends: str) -> str:
    """A token by the server's own interface."""
    document = f'mutation{{generateApiKeyToken(apiKeyId:"{key_id}",expiresAt:"{ends}"){{token}}}}'
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
"""What happens to the token of each key by hand, and the reason that a plan gives for it."""

HEALING = [(kind, list(Dialect)[number % 3]) for number, kind in enumerate(READ_BACK)] + [
    ("dotenv", Dialect.CORE_1),
    ("dotenv", Dialect.CORE),
]


def damage(sandbox: Sandbox, sinks: Any, names: list[str]) -> None:
    ids = {key.name: key.id for key in sandbox.keys()}
    ends = {key.name: key.expires_at for key in sandbox.keys()}
    [revoked] = sandbox.seed(["svc-junk"], revoked_at="2026-01-01T00:00:00.000Z")
    early = (datetime.now(UTC) + timedelta(days=89)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    sinks.put("svc-removed", None)
    sinks.put("svc-junk", "not-a-token-at-all")
    sinks.put("svc-cut", sinks.held("svc-cut")[:-7])
    sinks.put("svc-of-a-revoked-key", sandbox.token_of(revoked))
    sinks.put("svc-of-another-key", minted(sandbox, ids["svc-kept"], ends["svc-kept"]))
    sinks.put("svc-ends-earlier", minted(sandbox, ids["svc-ends-earlier"], early))
    sinks.put("svc-other", minted(sandbox, ids["svc-other"], ends["svc-other"]))
    assert set(names) == {*DAMAGE, "svc-other", "svc-kept"}


@pytest.mark.parametrize(("kind", "dialect"), HEALING)
def test_what_is_damaged_by_hand_is_planned_and_healed_without_a_new_key(
    kind: str, dialect: Dialect, project: Project, run, stack
) -> None:
    """Each damage is an action with its reason; a good token, also another one, is left alone."""
    sinks = place(kind, stack, project.root)
    project.environ |= sinks.environ
    names = [*DAMAGE, "svc-other", "svc-kept"]
    with Sandbox(None, dialect) as sandbox:
        open_shop(project, sandbox, [(name, [sinks.item]) for name in names])
        assert run("apply").code == 0
        made = {key.id for key in sandbox.keys()}
        assert run("plan", "--detailed-exitcode").code == 0
        damage(sandbox, sinks, names)
        good = {name: sinks.held(name) for name in ("svc-other", "svc-kept")}

        planned = run("plan", "--detailed-exitcode", "--format", "json")
        assert planned.code == 2
        assert planned.actions == {name: ("deliver", why) for name, why in DAMAGE.items()}

        healed = run("apply", "--format", "json")
        assert healed.code == 0, healed
        assert {name: one["status"] for name, one in healed.results.items()} == dict.fromkeys(
            DAMAGE, "done"
        )
        assert {key.id for key in live(sandbox)} == made
        assert {name: sinks.held(name) for name in good} == good
        ids = {key.name: key.id for key in live(sandbox)}
        for name in names:
            assert key_of(sinks.held(name)) == ids[name], name
            assert works(sandbox, sinks.held(name)), name
        assert run("plan", "--detailed-exitcode").code == 0


@DIALECTS
def test_a_sink_that_tells_only_when_it_was_written_heals_by_that(
    dialect: Dialect, project: Project, run, stack
) -> None:
    """A secret older than its key, or removed, is written anew; one that is newer is left alone."""
    github = place("github", stack, project.root)
    project.environ |= github.environ
    names = ["svc-older", "svc-removed", "svc-newer"]
    with Sandbox(None, dialect) as sandbox:
        open_shop(project, sandbox, [(name, [github.item]) for name in names])
        assert run("apply").code == 0
        made = sandbox.keys()
        github.kept["SVC_OLDER"].updated_at -= timedelta(hours=1)
        github.put("svc-removed", None)
        newer = github.held("svc-newer")
        planned = run("plan", "--detailed-exitcode", "--format", "json")
        assert planned.code == 2
        assert planned.actions == {
            "svc-older": ("deliver", "token_outdated"),
            "svc-removed": ("deliver", "token_missing"),
        }
        assert run("apply").code == 0
        assert sandbox.keys() == made
        assert github.held("svc-newer") == newer
        deliver_nothing_else(sandbox, {name: github.held(name) for name in names})
        assert run("plan", "--detailed-exitcode").code == 0


# What a sink that fails costs


@pytest.mark.parametrize("trouble", ["denied", "down"])
@DIALECTS
def test_a_sink_that_cannot_be_used_blocks_its_own_keys_before_they_are_made(
    dialect: Dialect, trouble: str, project: Project, run, stack
) -> None:
    """Its keys fail and are not made; those of the other sink are made and delivered."""
    vault, file = Vault(stack), DotenvFile(project.root)
    project.environ |= vault.environ
    if trouble == "denied":
        vault.server.policies.clear()
    else:
        with Sandbox(None) as gone:
            project.environ["VAULT_ADDR"] = gone.url
    keys = [(f"svc-{number}", [(vault, file)[number % 2].item]) for number in range(6)]
    keys.append(("svc-both", [file.item, vault.item]))
    free = {"svc-1", "svc-3", "svc-5"}
    with Sandbox(None, dialect) as sandbox:
        open_shop(project, sandbox, keys)
        ran = run("apply", "--format", "json")
        assert ran.code == 4
        assert {name for name, one in ran.results.items() if one["status"] == "done"} == free
        code = "sink_denied" if trouble == "denied" else "sink_unavailable"
        failed = {n: one["error"]["code"] for n, one in ran.results.items() if n not in free}
        assert failed == dict.fromkeys(dict(keys).keys() - free, code)
        deliver_nothing_else(sandbox, {name: file.held(name) for name in free})
        assert file.held("svc-both") is None


@DIALECTS
def test_a_sink_that_fails_at_the_write_alone_leaves_a_key_that_the_next_run_delivers(
    dialect: Dialect, project: Project, run, stack
) -> None:
    """The result is failed with the id of the key that was made; the next run makes none."""
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
        made = {key.name: key.id for key in live(sandbox)}
        assert sorted(made) == ["svc-file", "svc-git"]
        told = {name: (one["status"], one["id"]) for name, one in ran.results.items()}
        assert told == {
            "svc-git": ("failed", made["svc-git"]),
            "svc-file": ("done", made["svc-file"]),
        }
        assert ran.results["svc-git"]["error"]["code"] == "sink_failed"
        assert ran.results["svc-git"]["record"]["id"] == made["svc-git"]

        gitlab.server.answer = inner
        again = run("apply", "--format", "json")
        assert again.code == 0
        assert [(name, one["action"]) for name, one in again.results.items()] == [
            ("svc-git", "deliver")
        ]
        held = {"svc-git": gitlab.held("svc-git"), "svc-file": file.held("svc-file")}
        deliver_nothing_else(sandbox, held)


@DIALECTS
def test_a_command_that_fails_fails_its_own_key_alone(
    dialect: Dialect, project: Project, run
) -> None:
    """One program of two ends with an error: its key is made and failed, the other is done."""
    broken = Command(project.root, "cat; cat >&2; exit 3", check="")
    sound = Command(project.root)
    with Sandbox(None, dialect) as sandbox:
        open_shop(project, sandbox, [("svc-a", [broken.item]), ("svc-b", [sound.item])])
        ran = run("apply", "--format", "json")
        assert ran.code == 4
        assert ran.results["svc-a"]["status"] == "failed"
        assert "exit code 3" in ran.results["svc-a"]["error"]["message"]
        assert ran.results["svc-b"]["status"] == "done"
        assert works(sandbox, sound.held("svc-b"))


# Two runs at once


class StartingLine:
    """Holds the first create of each of two runs until both have sent one."""

    def __init__(self) -> None:
        self._line = threading.Barrier(2)
        self._marks: set[bytes] = set()
        self._lock = threading.Lock()
        self.raced = False

    def __call__(self, request: Request, answer: Callable[[Request], Response]) -> Response:
        if request.method == "POST" and b"svc-" in request.body:
            # The end of the first key; the runs differ in its milliseconds.
            mark = request.body.partition(b'expiresAt": "')[2][:24]
            with self._lock:
                first = mark not in self._marks and len(self._marks) < 2
                self._marks.add(mark)
            if first:
                with suppress(threading.BrokenBarrierError):
                    self._line.wait(20.0)
                    self.raced = True
        return answer(request)


@pytest.mark.parametrize("race", range(RACES))
def test_two_runs_at_once_leave_the_tokens_of_the_keys_that_stay(
    race: int, project: Project
) -> None:
    """Both end well, each name has one live key, and one file has a working token of each."""
    names = [f"svc-{number:02d}" for number in range(12)]
    file = DotenvFile(project.root)
    line = StartingLine()
    with Sandbox(None, list(Dialect)[race % 3], around=line) as sandbox:
        open_shop(project, sandbox, [(name, [file.item]) for name in names])
        runs = [project.start("apply", "--format", "json") for _ in range(2)]
        reports = [one.communicate(timeout=90) for one in runs]
        assert line.raced
        assert [one.returncode for one in runs] == [0, 0], reports
        kept = {key.name: key.id for key in live(sandbox)}
        assert sorted(kept) == names
        assert len(live(sandbox)) == len(names)
        for name in names:
            assert key_of(file.held(name)) == kept[name]
            assert works(sandbox, file.held(name) or "")
    for out, _ in reports:
        [environment] = json.loads(out)["environments"]
        assert {one["id"]: one["name"] for one in environment["results"]}.items() <= {
            id_: name for name, id_ in kept.items()
        }.items()


@DIALECTS
def test_a_run_after_a_whole_one_mints_nothing(dialect: Dialect, project: Project, run) -> None:
    """Neither a key nor a token is made where every sink has its token."""
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


# Sinks that cannot be written


def minted_tokens(journal: list[Exchange]) -> int:
    return sum(b"generateApiKeyToken" in one.body for one in journal)


@DIALECTS
def test_two_keys_with_one_file_by_a_link_are_refused_before_the_first_mint(
    dialect: Dialect, project: Project, run
) -> None:
    """Neither key is made and neither token is minted; each names the other's address."""
    (project.root / "real").mkdir()
    (project.root / "link").symlink_to("real")
    journal: list[Exchange] = []
    keys = [(name, [{"file": f"{name}/keys.env", "variable": "KEY"}]) for name in ("real", "link")]
    with Sandbox(None, dialect, journal=journal) as sandbox:
        open_shop(project, sandbox, keys)
        for chosen in ((), ("--only", "real")):
            ran = run("apply", "--format", "json", *chosen)
            assert ran.code == 4
            told = ran.results["real"]["error"]
            assert told["code"] == "sink_unsuitable"
            assert "link/keys.env" in told["message"]
        assert not sandbox.keys()
        assert minted_tokens(journal) == 0
    assert list((project.root / "real").iterdir()) == []


RUNS = int(os.environ.get("RUNS", "3"))
"""Runs against a sink that cannot be written; the figure in docs/reliability.md is of 10."""

FULL = 'mount -t tmpfs -o size=64k none "$1"; head -c 65536 /dev/zero >"$1/ballast" || true'
READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"'


def keys_delivered_to(item: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(f"svc-{number}", [item]) for number in range(3)]


def nothing_is_made(
    sandbox: Sandbox, journal: list[Exchange], run: Callable[..., Ran], code: str, remedy: str
) -> None:
    """Each run ends with 4 and the remedy, and makes nothing; doctor says the same."""
    for _ in range(RUNS):
        ran = run("apply", "--format", "json")
        assert ran.code == 4
        assert {one["error"]["code"] for one in ran.results.values()} == {code}
        assert {one["status"] for one in ran.results.values()} == {"failed"}
        assert len(ran.results) == 3
        assert all(remedy in one["error"]["message"] for one in ran.results.values())
    assert not sandbox.keys()
    assert minted_tokens(journal) == 0
    examined = run("doctor")
    assert examined.code == 4
    assert remedy in f"{examined.out}{examined.err}"


def run_with(project: Project, mounts: str, folder: Path, *arguments: str) -> Ran:
    """Runs a command in a process with mounts of its own, made by a shell with `$1` a folder."""
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
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("mounts", "code", "remedy"),
    [
        (FULL, "sink_failed", "Free disk space"),
        (READ_ONLY, "sink_unsuitable", "writable file system"),
    ],
    ids=["full disk", "read-only folder"],
)
def test_a_folder_that_cannot_be_written_costs_no_token(
    project: Project, mounts: str, code: str, remedy: str
) -> None:
    """With a disk that is really full, and a mount that is really read-only."""
    (project.root / "secrets").mkdir()
    journal: list[Exchange] = []

    def run(*arguments: str) -> Ran:
        return run_with(project, mounts, project.root / "secrets", *arguments)

    with Sandbox(None, Dialect.CORE, journal=journal) as sandbox:
        open_shop(project, sandbox, keys_delivered_to(DotenvFile.item))
        nothing_is_made(sandbox, journal, run, code, remedy)
    assert list((project.root / "secrets").iterdir()) == []


@DIALECTS
def test_a_folder_without_locks_costs_no_token(
    dialect: Dialect, project: Project, run, monkeypatch
) -> None:
    """As on NFS without a lock service; no file system here is so."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    journal: list[Exchange] = []
    with Sandbox(None, dialect, journal=journal) as sandbox:
        open_shop(project, sandbox, keys_delivered_to(DotenvFile.item))
        nothing_is_made(sandbox, journal, run, "sink_unsuitable", "local disk")
    assert not (project.root / "secrets").exists()


def archive_github(sinks: Any) -> None:
    sinks.server.archived = {("acme", "billing")}


def archive_gitlab(sinks: Any) -> None:
    sinks.server.archived = {"acme/billing"}


def delete_namespace(sinks: Any) -> None:
    sinks.server.namespaces = set()


@DIALECTS
@pytest.mark.parametrize(
    ("kind", "closes", "code", "remedy"),
    [
        ("github", archive_github, "sink_unsuitable", "Unarchive the repository"),
        ("gitlab", archive_gitlab, "sink_unsuitable", "Unarchive the project"),
        ("kubernetes", delete_namespace, "sink_missing", "Create the namespace"),
    ],
)
def test_a_vendor_that_takes_nothing_costs_no_token(
    dialect: Dialect,
    project: Project,
    run,
    stack,
    kind: str,
    closes: Callable[[Any], None],
    code: str,
    remedy: str,
) -> None:
    """An archived repository, an archived project, a namespace that is not there."""
    sinks = place(kind, stack, project.root)
    closes(sinks)
    project.environ |= sinks.environ
    journal: list[Exchange] = []
    with Sandbox(None, dialect, journal=journal) as sandbox:
        open_shop(project, sandbox, keys_delivered_to(sinks.item))
        nothing_is_made(sandbox, journal, run, code, remedy)
    writes = {one.method for one in sinks.server.requests if not one.query.get("dryRun")}
    assert writes == {"GET"}


@DIALECTS
def test_a_token_by_hand_is_never_left_in_another_users_file(
    dialect: Dialect, project: Project, run
) -> None:
    """One that can be replaced is taken over; for one that cannot, no token is even minted."""
    if os.getuid() != 0:
        pytest.skip("only root may give files away")
    journal: list[Exchange] = []
    theirs, mounted = project.root / "theirs.token", project.root / "mounted.token"
    for file in (theirs, mounted, project.root / "host"):
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
        assert run("token", "svc", "--to", str(theirs)).code == 0
        assert works(sandbox, theirs.read_text())
    assert (project.root / "host").read_text() == ""
    assert (theirs.stat().st_uid, theirs.stat().st_mode & 0o777) == (0, 0o600)
