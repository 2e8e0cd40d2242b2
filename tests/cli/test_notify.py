"""After a run its targets are told, a secret is never among what they hear, and the run is as ever.

Against servers and programs of these tests, in this process.
"""

from __future__ import annotations

import json
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator
from programs import wait_until_ended

from provisioner import schemas
from provisioner.model.notify import HttpTarget, ProgramTarget
from provisioner.operations import notify
from provisioner.operations.notify import Notifier
from provisioner.runtime.cancellation import Cancellation
from provisioner.secret import Secret

if TYPE_CHECKING:
    from pathlib import Path

PATH = "/services/T0/B0/a-very-secret-path"
TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BROKEN = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
GONE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
SCHEMA = Draft202012Validator(schemas.load("notification"))


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Return a project with two keys for one embedded environment, and two targets."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    write_targets(tmp_path, '{slack: "${HOOK:-}"}, {command: [./tell]}')
    (folder / "keys.yaml").write_text(
        "version: 1\nenvironment: shop\ndefaults: {expires: 90d, deliver: [{file: s.env}]}\n"
        "keys: [{name: svc-a}, {name: svc-b}]\n"
    )
    tell = tmp_path / "tell"
    tell.write_text("#!/bin/sh\ncat > told.json\n")
    tell.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_targets(root: Path, targets: str, more: str = "") -> None:
    (root / "manifests" / "environments.yaml").write_text(
        f"version: 1\nnotify: [{targets}]\n"
        f"environments:\n  shop: {{url: 'sandbox:', role: Integrations}}\n{more}"
    )


def told(root: Path) -> dict[str, Any] | None:
    """Return what the program was told since the last call."""
    file = root / "told.json"
    if not file.exists():
        return None
    document: dict[str, Any] = json.loads(file.read_text())
    file.unlink()
    SCHEMA.validate(document)
    return document


def body(request: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.partition(b"\r\n\r\n")[2])
    return found


def test_targets_are_told_what_a_run_changed_and_not_that_nothing_did(
    here, run, scripted, monkeypatch
) -> None:
    """An apply tells the names of its keys once; the same apply again tells nobody."""
    server = scripted(OK)
    monkeypatch.setenv("HOOK", server.url + PATH)
    monkeypatch.setenv("CI_JOB_URL", "https://gitlab.example.com/-/jobs/1")
    code, out, err = run("apply", "--log-format", "json", "--log-level", "debug")
    assert code == 0
    document = told(here)
    assert document is not None
    assert (document["command"], document["reasons"]) == ("apply", ["changed"])
    assert document["run"] == json.loads(err.splitlines()[0])["run"]
    assert document["environments"][0]["changed"]["names"] == ["svc-a", "svc-b"]
    (request,) = server.requests
    assert request.startswith(f"POST {PATH} HTTP/1.1\r\n".encode())
    assert body(request) == {
        "text": "*provision apply*: keys changed (exit code 0)\n"
        "• shop: 2 changed (`svc-a`, `svc-b`)\n"
        "<https://gitlab.example.com/-/jobs/1|The run in the pipeline>"
    }
    tokens = TOKEN.findall((here / "s.env").read_text())
    assert len(tokens) == 2
    for secret in (*tokens, PATH.removeprefix("/")):
        assert secret not in json.dumps(document) + out + err
    assert not TOKEN.search(request.decode())
    assert run("apply")[0] == run("plan")[0] == run("report")[0] == 0
    assert (told(here), len(server.requests)) == (None, 1)


def test_what_is_due_or_failed_is_told_by_plan_and_report_too(here, run, monkeypatch) -> None:
    """A key that expires soon, a key that is missing, and an environment that cannot be read."""
    assert run("report")[0] == 0
    document = told(here)
    assert document is not None
    assert document["environments"][0]["due"] == {"count": 2, "names": ["svc-a", "svc-b"]}
    run("apply", "--no-notify")
    assert told(here) is None
    assert run("report", "--expiring-within", "100d")[0] == 2
    document = told(here)
    assert document is not None
    assert (document["reasons"], document["exit_code"]) == (["due"], 2)
    monkeypatch.setenv("PROVISION_NO_NOTIFY", "1")
    assert run("report", "--expiring-within", "100d")[0] == 2
    assert told(here) is None
    monkeypatch.delenv("PROVISION_NO_NOTIFY")
    write_targets(
        here, "{command: [./tell]}", "  away: {url: 'http://127.0.0.1:1', auth: {token_file: t}}\n"
    )
    (here / "t").write_text("e30.e30.e30")
    for command in ("plan", "apply", "report"):
        assert run(command, "--shard", "1/1")[0] == 4
        document = told(here)
        assert document is not None
        assert (document["reasons"], document["shard"]) == (["failed"], "1/1")
        (away,) = document["environments"]
        assert (away["environment"], away["error"]["code"]) == ("away", "unreachable")


def test_a_refused_run_tells_why(here, run) -> None:
    """The message of a guard is told, with the exit code 5."""
    write_targets(here, "{command: [./tell]}", "    owns: ['svc-*']\n".replace("    ", "  #"))
    run("apply", "--no-notify")
    text = (here / "manifests" / "environments.yaml").read_text()
    owned = text.replace("role: Integrations", "role: Integrations, owns: ['svc-*'], protect: true")
    (here / "manifests" / "environments.yaml").write_text(owned)
    assert run("revoke", "svc-a", "--yes")[0] == 5
    document = told(here)
    assert document is not None
    assert (document["command"], document["exit_code"]) == ("revoke", 5)
    assert document["error"]["code"] == "protected"


def test_invalid_manifests_tell_nobody(here, run) -> None:
    """The targets are part of the input, which has problems."""
    (here / "manifests" / "keys.yaml").write_text("version: 1\n")
    assert run("apply")[0] == 3
    assert told(here) is None


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ('{slack: "${HOOK}"}', "slack 127.0.0.1:{port} was not told: it responded with HTTP"),
        ('{webhook: "${UNSET}"}', "line 2 was not told: the variable UNSET is not set."),
        ("{command: [./missing]}", "command ./missing does not exist"),
        ("{command: ['false']}", "command false failed with exit code 1"),
    ],
)
def test_a_target_that_is_not_told_is_a_warning(
    here, run, scripted, monkeypatch, targets, reason
) -> None:
    """One line says which and why, without its address, and the exit code stays the same."""
    server = scripted(GONE)
    monkeypatch.setenv("HOOK", server.url + PATH)
    write_targets(here, targets)
    code, out, err = run("apply")
    assert (code, "Done: 2 created" in out) == (0, True)
    (line,) = err.splitlines()
    assert line.startswith("warning: not_notified: ")
    assert reason.replace("{port}", server.url.rpartition(":")[2]) in line
    assert PATH not in err
    assert len(server.requests) == ("slack" in targets)
    assert run("apply", "-q", "--log-level", "error") == (0, "", "")


@pytest.mark.parametrize("option", ["--allow-host", "--no-programs"])
def test_the_restrictions_of_a_run_hold_for_targets(
    here, run, scripted, monkeypatch, option
) -> None:
    """A pull request must not send anything to its own host, or run its own program."""
    server = scripted(OK)
    monkeypatch.setenv("HOOK", server.url + PATH)
    arguments = (option, "*.example.com") if option == "--allow-host" else (option,)
    code, _, err = run("apply", *arguments)
    assert code == 0
    (line,) = err.splitlines()
    assert f"was not told: {option} does not allow it" in line
    assert (told(here) is None) == (option == "--no-programs")
    assert bool(server.requests) == (option == "--no-programs")


def test_doctor_warns_of_targets_without_telling_them(here, run, scripted, monkeypatch) -> None:
    """A missing variable or program is found before it is needed."""
    run("apply", "--no-notify")
    server = scripted(OK)
    monkeypatch.setenv("HOOK", server.url + PATH)
    write_targets(here, '{slack: "${HOOK}"}, {webhook: "${UNSET}"}, {command: [./missing]}')
    code, _, err = run("doctor")
    assert (code, server.requests) == (0, [])
    unset, missing = err.splitlines()
    assert "the variable UNSET is not set" in unset
    assert "command ./missing does not exist" in missing


# The sender


def http_target(url: str) -> HttpTarget:
    return HttpTarget("webhook", Secret(url + PATH), url.partition("://")[2])


@pytest.mark.parametrize("first", [BROKEN, None])
def test_a_server_that_does_not_answer_is_asked_once_more(first, scripted, tmp_path) -> None:
    """The second request has the same body, so that a receiver can tell that it has it already."""
    server = scripted(first, OK)
    notifier = Notifier(tmp_path, Cancellation(), delay=0.0)
    assert notifier.tell([http_target(server.url)], {"run": "1"}, {}) == ()
    assert [body(one) for one in server.requests] == [{"run": "1"}] * 2


def test_a_server_that_stays_broken_is_asked_twice(scripted, tmp_path) -> None:
    """The failure names the last answer; a redirect would be another place and is not followed."""
    server = scripted(
        BROKEN, BROKEN, b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n"
    )
    for status, requests in ((503, 2), (302, 3)):
        notifier = Notifier(tmp_path, Cancellation(), delay=0.0)
        (failure,) = notifier.tell([http_target(server.url)], {}, {})
        assert f"HTTP status {status}" in failure.text
        assert len(server.requests) == requests


@pytest.mark.parametrize("stopped", [True, False])
def test_a_target_that_hangs_does_not_hold_the_run(
    stopped, scripted, tmp_path, monkeypatch
) -> None:
    """At the limit, or soon after a signal, the run goes on, and its program is killed."""
    monkeypatch.setattr(notify, "_PROGRAM_TIMEOUT", 600.0)
    never = threading.Event()
    server = scripted(never)
    stop = Cancellation()
    program = tmp_path / "hang"
    program.write_text("#!/bin/sh\necho $$ > pid.new && mv pid.new pid\nexec sleep 600\n")
    program.chmod(0o755)
    if stopped:
        stop.request()
    notifier = Notifier(tmp_path, stop, limit=600.0 if stopped else 1.0)
    failures = notifier.tell([http_target(server.url), ProgramTarget(("./hang",))], {}, {})
    never.set()
    assert [one.code for one in failures] == ["not_notified"] * 2
    assert all("did not answer in time" in one.text for one in failures)
    assert wait_until_ended(tmp_path / "pid")


def test_a_bug_in_telling_is_a_failure_of_the_target(monkeypatch, tmp_path) -> None:
    """Not even an unexpected exception ends the run, and its text is not shown."""

    def fail(*_: object) -> None:
        raise RuntimeError(PATH)

    monkeypatch.setattr(Notifier, "_post", fail)
    notifier = Notifier(tmp_path, Cancellation())
    (failure,) = notifier.tell([http_target("http://127.0.0.1:1")], {}, {})
    assert "an internal error (RuntimeError) prevented it" in failure.text
    assert PATH not in failure.text
