"""The command from the outside: streams, exit codes and files."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from jsonschema import Draft202012Validator
from sandbox_control import ApiKey, Dialect, Sandbox, json_answer

from provisioner import __version__, schemas
from provisioner.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandbox_control import Around, Request, Response

    from provisioner.runtime.cancellation import Cancellation

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "manifests"

ENVIRONMENTS = "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n"
KEYS = "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys: [{name: a}, {name: b}]\n"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes files of a manifests directory."""

    def write_(**files: str) -> Path:
        folder = tmp_path / "manifests"
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / f"{name}.yaml").write_text(text)
        return folder

    return write_


@pytest.fixture
def small(write: Callable[..., Path]) -> Path:
    return write(environments=ENVIRONMENTS, keys=KEYS)


def valid(name: str, text: str) -> Any:
    document = json.loads(text)
    Draft202012Validator(
        schemas.load(name), format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)
    return document


def copy_examples(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    for file in EXAMPLES.glob("*.yaml"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def hint(*codes: str) -> str:
    """Return the last line on stderr after errors with these codes."""
    return f'Run "provision explain {" ".join(codes)}" to learn more.'


def within(days: int) -> str:
    """Return the time that many days from now, in the format of Twenty."""
    return f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%S.000Z}"


# The first README command


def test_the_examples_are_created_once_and_never_again(run, tmp_path) -> None:
    """The first run creates keys in three environments; the second changes nothing."""
    folder = copy_examples(tmp_path)
    code, out, _ = run("apply", "-m", folder, "--format", "json")
    document = valid("result", out)
    assert code == 0
    results = {one["environment"]: one["results"] for one in document["environments"]}
    assert set(results) == {"development", "staging", "production"}
    everything = [one for found in results.values() for one in found]
    assert len(everything) >= 10
    assert {one["status"] for one in everything} == {"done"}
    assert {one["depth"] for one in everything} == {0, 1, 2}
    assert {one["generation"] for one in document["environments"]} == {"core", "legacy"}
    assert all(one["record"]["id"] == one["id"] for one in everything)
    code, out, _ = run("apply", "-m", folder, "--format", "json")
    again = valid("result", out)
    assert code == 0
    assert [one["results"] for one in again["environments"]] == [[], [], []]
    assert sum(one["summary"]["kept"] for one in again["environments"]) == len(everything)
    code, out, _ = run("plan", "-m", folder, "--detailed-exitcode")
    assert (code, "Plan: 0 to create" in out) == (0, True)
    state = sorted(path.name for path in (tmp_path / ".provision").iterdir())
    assert state == [".gitignore"] + [f"{name}.sqlite3" for name in sorted(results)]
    assert (tmp_path / ".provision" / ".gitignore").read_text().strip() == "*"


def test_the_records_come_back_at_the_depth_of_their_manifest(run, tmp_path) -> None:
    """Depth 0 returns no role, 1 the role, 2 its permissions too; legacy never returns a role."""
    _, out, _ = run("apply", "-m", copy_examples(tmp_path), "--format", "json")
    for environment in json.loads(out)["environments"]:
        for one in environment["results"]:
            role = one["record"].get("role", {})
            deep = environment["generation"] == "core"
            assert bool(role) == (deep and one["depth"] >= 1)
            assert ("permissionFlags" in role) == (deep and one["depth"] == 2)


# plan


def test_plan_changes_nothing_and_its_json_follows_the_schema(run, small, tmp_path) -> None:
    """Two plans have the same digest, and the workspace stays empty."""
    code, out, _ = run("plan", "-m", small, "--format", "json")
    first = valid("plan", out)
    assert code == 0
    [environment] = first["environments"]
    assert environment["summary"]["create"] == len(environment["actions"]) == 2
    action = environment["actions"][0]
    assert set(action) == {"action", "name", "reason", "depth", "expires_at", "role"} | {
        "manifest",
        "line",
        "sinks",
        "ids",
        "description",
        "owner",
        "ticket",
    }
    assert action["manifest"] == (small / "keys.yaml").as_posix()
    assert action["line"] == 4
    second = valid("plan", run("plan", "-m", small, "--format", "json")[1])
    assert second["digest"] == first["digest"]
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        assert sandbox.keys() == ()


def test_detailed_exitcode_shows_whether_there_are_changes(run, small) -> None:
    """The code is 2 with changes and 0 without; without the option it is 0 in both cases."""
    assert run("plan", "-m", small)[0] == 0
    assert run("plan", "-m", small, "--detailed-exitcode")[0] == 2
    assert run("apply", "-m", small)[0] == 0
    assert run("plan", "-m", small, "--detailed-exitcode")[0] == 0


def test_a_plan_shows_findings_with_from_and_to(run, small, tmp_path) -> None:
    """Unmanaged, duplicate, drifted and expiring keys appear in text and in JSON."""
    (small / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\nkeys:\n"
        "  - {name: dated, expires: 2030-01-01, role: Integrations}\n"
        "  - {name: twice, expires: 3650d}\n  - {name: soon, expires: 90d}\n"
    )
    (tmp_path / ".provision").mkdir()
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        sandbox.seed(["dated", "twice", "twice", "stranger\x1b[2J"])
        sandbox.seed(["soon"], expires_at=within(days=7))
    code, out, _ = run("plan", "-m", small, "--format", "json")
    [environment] = valid("plan", out)["environments"]
    assert code == 0
    kinds = {(one["finding"], one["name"]) for one in environment["findings"]}
    assert kinds == {("drift", "dated"), ("duplicate", "twice"), ("expiring", "soon")} | {
        ("unmanaged", "stranger\x1b[2J")
    }
    drifts = [one for one in environment["findings"] if one["finding"] == "drift"]
    assert {(one["from"], one["to"]) for one in drifts} >= {
        ("2031-01-01T00:00:00Z", "2030-01-01T00:00:00Z"),
        ("Admin", "Integrations"),
    }
    text = run("plan", "-m", small, "--unmanaged")[1]
    assert "? drift" in text
    assert "? unmanaged  stranger\\x1b" in text
    assert "\x1b" not in text


def test_a_key_that_cannot_be_created_does_not_stop_others(run, small) -> None:
    """A past date and an unknown role fail only their own keys; the exit code is 4."""
    (small / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys:\n  - {name: good}\n"
        "  - {name: old, expires: 2020-01-01}\n  - {name: odd, role: Nobody}\n"
    )
    code, out, _ = run("plan", "-m", small, "--format", "json")
    [environment] = valid("plan", out)["environments"]
    assert code == 4
    errors = {one["name"]: one.get("error", {}).get("code") for one in environment["actions"]}
    assert errors == {"good": None, "old": "expiry_past", "odd": "role_unknown"}
    code, out, _ = run("plan", "-m", small)
    assert "Plan: 1 to create, 0 to keep, 2 blocked." in out
    assert "! old" in out
    code, out, _ = run("apply", "-m", small, "--format", "json")
    [environment] = valid("result", out)["environments"]
    assert code == 4
    assert environment["summary"]["created"] == 1
    assert environment["summary"]["failed"] == 2
    code, out, _ = run("apply", "-m", small)
    assert code == 4
    assert "! old" in out
    assert "Incomplete: 0 created, 1 kept, 2 failed." in out


def test_only_limits_what_is_created(run, small) -> None:
    """`--only` leaves every other name as it is."""
    code, out, _ = run("apply", "-m", small, "--only", "a*", "--format", "json")
    [environment] = json.loads(out)["environments"]
    assert (code, [one["name"] for one in environment["results"]]) == (0, ["a"])


def test_an_environment_without_keys_says_so(run, write) -> None:
    """An environment for which nothing is declared is not an error, and is listed."""
    code, out, _ = run("plan", "-m", write(environments=ENVIRONMENTS))
    assert (code, "= nothing to do" in out) == (0, True)


# apply


def test_one_environment_down_does_not_stop_the_others(run, write, serve, monkeypatch) -> None:
    """The working environment is finished, the exit code is 4, and each error has a remedy."""
    served = serve(Dialect.CORE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("GOOD", served.sandbox.session_token())
    monkeypatch.setenv("BAD", "abc.def.ghi")
    folder = write(
        environments=f"""\
version: 1
environments:
  down: {{url: "http://127.0.0.1:{port}", auth: {{session_token: "${{GOOD}}"}}, role: Admin}}
  locked: {{url: "{served.sandbox.url}", auth: {{token: "${{BAD}}"}}, role: Admin}}
  fine: {{url: "{served.sandbox.url}", auth: {{session_token: "${{GOOD}}"}}, role: Admin}}
""",
        keys=KEYS.replace("environment: dev", "environments: [down, locked, fine]"),
    )
    code, out, _ = run("apply", "-m", folder, "--format", "json")
    document = valid("result", out)
    assert code == 4
    found = {one["environment"]: one for one in document["environments"]}
    assert found["fine"]["summary"]["created"] == 2
    assert found["down"]["error"]["code"] == "unreachable"
    assert found["locked"]["error"]["code"] == "credential_invalid"
    assert all(found[name]["results"] == [] for name in ("down", "locked"))
    assert "Check `url`" in found["down"]["error"]["message"]
    assert "`auth`" in found["locked"]["error"]["message"]
    assert "abc.def.ghi" not in out
    code, out, _ = run("apply", "-m", folder)
    assert code == 4
    assert "2 environments not reached" in out
    code, out, err = run("list", "-m", folder, "--format", "json")
    assert code == 4
    assert len(valid("keys", out)) == 2
    assert "unreachable" in err


def test_a_guard_changes_nothing_anywhere(run, write, serve, monkeypatch) -> None:
    """A wrong pinned workspace, or one workspace declared twice, stops every environment."""
    served = serve(Dialect.CORE)
    other = "20202020-1c25-4d02-bf25-6aeccf7ea419"
    monkeypatch.setenv("TOKEN", served.sandbox.session_token())
    real = f'url: "{served.sandbox.url}", auth: {{session_token: "${{TOKEN}}"}}, role: Admin'
    begin = f"version: 1\nenvironments:\n  one: {{{real}"
    pinned = f"{begin}, workspace: {other}}}\n  two: {{url: 'sandbox:', role: Admin}}\n"
    twice = f"{begin}}}\n  two: {{{real}}}\n"
    keys = KEYS.replace("environment: dev", "environments: [one, two]")
    for text, refusal in ((pinned, "workspace_mismatch"), (twice, "workspace_shared")):
        folder = write(environments=text, keys=keys)
        events = folder.parent / "events"
        code, out, err = run("apply", "-m", folder, "--format", "json", "--events", events)
        assert code == 5
        assert refusal in err
        document = valid("result", out)
        assert document["refusal"]["code"] == refusal
        assert err.endswith(f"{refusal}: {document['refusal']['message']}\n{hint(refusal)}\n")
        last = json.loads(events.read_text().splitlines()[-1])
        assert (last["event"], last["refusal"]) == ("run_ended", document["refusal"])
        results = [r for one in document["environments"] for r in one["results"]]
        assert results
        assert {one["status"] for one in results} == {"skipped"}
        assert {one["error"]["code"] for one in results} == {refusal}
        assert served.sandbox.keys() == ()
        code, out, _ = run("apply", "-m", folder)
        assert (code, "skipped" in out) == (5, True)
        report = folder.parent / "report.json"
        code, out, _ = run("plan", "-m", folder, "--format", "json", f"--report=json={report}")
        assert (code, valid("plan", out)["refusal"]) == (5, document["refusal"])
        assert json.loads(report.read_text()) == json.loads(out)
        assert run("list", "-m", folder)[0] == 5


def test_refusal_is_null_in_a_plan_and_a_result_that_are_not_refused(run, small) -> None:
    """The field is always present, so that programs can rely on it."""
    assert valid("plan", run("plan", "-m", small, "--format", "json")[1])["refusal"] is None
    assert valid("result", run("apply", "-m", small, "--format", "json")[1])["refusal"] is None


def test_a_refusal_without_any_action_is_in_the_result(run, small) -> None:
    """Without an action, only `refusal` shows it."""
    words = ("--only", "nomatch", "--prune", "-m", small, "--format", "json")
    for command, schema in (("plan", "plan"), ("apply", "result")):
        code, out, _ = run(command, *words)
        document = valid(schema, out)
        assert (code, document["refusal"]["code"]) == (5, "nothing_selected")
        [environment] = document["environments"]
        assert environment["actions" if command == "plan" else "results"] == []


def test_only_actions_that_mint_a_token_show_a_missing_sink(run, write) -> None:
    """A changed role and a revocation do not mention sinks."""
    environments = ENVIRONMENTS.replace("Admin}", "Admin, owns: ['*']}")
    keys = "version: 1\nenvironment: dev\ndefaults: {expires: 2031-01-01}\nkeys:\n"
    kept = "  - {name: kept, deliver: [{file: out.env}]%s}\n"
    folder = write(environments=environments, keys=f"{keys}{kept % ''}  - {{name: old}}\n")
    assert run("apply", "-m", folder)[0] == 0
    with Sandbox(folder.parent / ".provision" / "dev.sqlite3", Dialect.CORE) as sandbox:
        other = next(one for one in sandbox.roles() if one.assignable and one.label != "Admin")
    new = "  - {name: new}\n  - {name: sunk, deliver: [{file: out.env}]}\n"
    write(keys=f"{keys}{kept % f', role: {other.label}'}{new}")
    code, out, _ = run("plan", "-m", folder, "--prune")
    lines = {line.split()[1]: line for line in out.splitlines() if line.startswith("  ")}
    assert code == 0
    lacks_sink = {name: "no sink" in line for name, line in lines.items()}
    assert lacks_sink == {"kept": False, "new": True, "sunk": False, "old": False}
    _, page, _ = run("plan", "-m", folder, "--prune", "--format", "markdown")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    [head] = [row for row in rows if "sinks" in row]
    cells = [[re.sub("</?code>", "", cell) for cell in row] for row in rows[rows.index(head) + 2 :]]
    sinks = {row[2]: row[head.index("sinks")] for row in cells}
    assert sinks == {"kept": "", "new": "no sink", "sunk": "file out.env SUNK", "old": ""}


def test_notes_of_a_legacy_workspace_go_to_the_log(run, write) -> None:
    """Ignored roles are reported on stderr, as text or as JSON lines."""
    folder = write(
        environments="version: 1\nenvironments:\n  dev: {url: 'sandbox:legacy'}\n",
        keys=KEYS.replace("{name: a}", "{name: a, role: Admin}"),
    )
    _, _, err = run("plan", "-m", folder)
    assert "warning: dev: the roles of 1 key are ignored" in err
    _, _, err = run("plan", "-m", folder, "--log-format", "json")
    roles, sinks = map(json.loads, err.splitlines())
    assert (roles["level"], "1 key are ignored" in roles["message"]) == ("warning", True)
    assert (sinks["level"], "no sink receives" in sinks["message"]) == ("warning", True)
    _, _, err = run("apply", "-m", folder, "--log-level", "debug", "--quiet")
    assert "POST /rest/batch/apiKeys?depth=1 -> 201" in err


def test_quiet_prints_only_warnings_and_errors(run, small) -> None:
    """A successful run with -q prints no text."""
    assert run("apply", "-m", small, "-q")[:2] == (0, "")
    assert run("plan", "-m", small, "-q")[:2] == (0, "")
    assert run("validate", "-m", small, "-q")[:2] == (0, "")


class Terminal(io.TextIOWrapper):
    """A stream that pretends to be a terminal."""

    def __init__(self, typed: str = "") -> None:
        super().__init__(io.BytesIO(typed.encode()), encoding="utf-8", write_through=True)

    def getvalue(self) -> str:
        return self.buffer.getvalue().decode()

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Terminal]:
    """Return a function that makes stdin and stderr a terminal with typed input."""

    def make(typed: str) -> Terminal:
        err = Terminal()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr("sys.stdin", Terminal(typed))
        monkeypatch.setattr("sys.stderr", err)
        return err

    return make


def test_a_terminal_is_asked_before_a_real_workspace_changes(
    write, serve, monkeypatch, terminal, capsys
) -> None:
    """The question names the real environments; `--yes`, or none of them, skips it."""
    served = serve(Dialect.CORE)
    monkeypatch.setenv("TOKEN", served.sandbox.session_token())
    folder = write(
        environments=f"{ENVIRONMENTS}  real: {{url: '{served.sandbox.url}', "
        "auth: {session_token: '${TOKEN}'}, role: Admin}\n",
        keys=KEYS.replace("environment: dev", "environments: [dev, real]"),
    )
    err = terminal("n\n")
    assert main(["apply", "-m", str(folder)]) == 0
    assert "Apply this to real?" in err.getvalue()
    assert "Plan: create 4 keys in 2 environments." in err.getvalue()
    assert "Nothing was changed" in err.getvalue()
    assert served.sandbox.keys() == ()
    err = terminal("")
    assert main(["apply", "-m", str(folder), "-e", "dev"]) == 0
    assert "Apply" not in err.getvalue()
    err = terminal("y\n")
    assert main(["apply", "-m", str(folder), "--only", "a"]) == 0
    assert [key.name for key in served.sandbox.keys()] == ["a"]
    err = terminal("")
    assert main(["apply", "-m", str(folder), "--yes"]) == 0
    assert len(served.sandbox.keys()) == 2
    assert "of 2 environments" in err.getvalue()
    err = terminal("y\n")
    (folder / "keys.yaml").write_text(KEYS.replace("dev", "real").replace("name: a", "name: b2"))
    confirm = click.confirm

    def confirm_after_a_change(*words: Any, **more: Any) -> bool:
        served.sandbox.seed(["b2"])
        return confirm(*words, **more)

    with monkeypatch.context() as patch:
        patch.setattr("click.confirm", confirm_after_a_change)
        assert main(["apply", "-m", str(folder)]) == 6
    assert "plan_stale: The plan has changed since it was shown." in err.getvalue()
    assert len(served.sandbox.keys()) == 3
    (folder / "keys.yaml").write_text(KEYS.replace("dev", "real").replace("name: a", "name: b3"))
    err = terminal("y\n")
    assert main(["apply", "-m", str(folder)]) == 0
    assert "b3" in {key.name for key in served.sandbox.keys()}
    err = terminal("")
    (folder / "keys.yaml").write_text(KEYS.replace("dev", "real").replace("name: a", "name: c"))
    assert main(["apply", "-m", str(folder)]) == 130
    assert "interrupted" in err.getvalue()
    capsys.readouterr()


def test_colour_follows_option_variables_and_terminal(run, small, monkeypatch) -> None:
    """--color always and never win; NO_COLOR and FORCE_COLOR matter for auto."""
    assert "\x1b[" not in run("plan", "-m", small)[1]
    assert "\x1b[32m" in run("plan", "-m", small, "--color", "always")[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[32m" in run("plan", "-m", small)[1]
    assert "\x1b[" not in run("plan", "-m", small, "--color", "never")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run("plan", "-m", small)[1]


# conflicts and failures


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch, hurried: type[Cancellation]) -> None:
    """Make commands of this process wait a fiftieth of the time."""
    monkeypatch.setattr("provisioner.runtime.cancellation.Cancellation", hurried)


def is_create(request: Request) -> bool:
    return request.path.startswith("/rest/batch") or b":createApiKey(" in request.body


def is_revoke(request: Request) -> bool:
    return request.method == "PATCH" or b"revokeApiKey(" in request.body


@pytest.fixture
def shop(write, serve, monkeypatch) -> Callable[..., tuple[Path, Any]]:
    """Return a function that starts a server behind an interceptor and writes manifests for it."""

    def make(dialect: Dialect, around: Around, names: Iterable[str] = "ab") -> tuple[Path, Any]:
        served = serve(dialect, around=around)
        monkeypatch.setenv("TOKEN", served.sandbox.session_token())
        role = "" if dialect is Dialect.LEGACY else ", role: Admin"
        keys = ", ".join(f"{{name: {name}}}" for name in names)
        folder = write(
            environments="version: 1\nenvironments:\n  shop: {limits: {parallel: 1, batch: 1}, "
            f"url: '{served.sandbox.url}', auth: {{session_token: '${{TOKEN}}'}}{role}}}\n",
            keys=f"version: 1\nenvironment: shop\ndefaults: {{expires: 90d}}\nkeys: [{keys}]\n",
        )
        return folder, served

    return make


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("dialect", Dialect)
def test_a_key_that_is_found_after_a_lost_answer_may_have_no_record(run, shop, dialect) -> None:
    """If its record cannot be read either, the key is done, with the id of the live key."""
    lost = iter([True])

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        if is_create(request) and request.body.count(b"createApiKey(") < 2 and next(lost, False):
            inner(request)
            raise ConnectionError
        if b"apiKey(input" in request.body or request.path.startswith("/rest/apiKeys/"):
            raise ConnectionError
        return inner(request)

    folder, served = shop(dialect, around, "a")
    code, out, _ = run("apply", "-m", folder, "--format", "json")
    [environment] = valid("result", out)["environments"]
    [key] = served.sandbox.keys()
    [result] = environment["results"]
    assert (code, result["status"], result["id"]) == (0, "done", key.id)
    assert result["record"] is None
    assert environment["summary"]["created"] == 1


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("revocable", [True, False])
def test_the_key_that_another_run_created_first_stays(run, shop, dialect, revocable) -> None:
    """Our key is revoked and the result has the id of theirs; a failed revocation is an error."""
    theirs: list[ApiKey] = []

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        if is_revoke(request) and not revocable:
            raise ConnectionError
        if is_create(request) and not theirs:
            admin = None if dialect is Dialect.LEGACY else served.sandbox.role("Admin").id
            theirs.append(stranger("a", admin))
            served.sandbox.put(*theirs)
        return inner(request)

    folder, served = shop(dialect, around)
    code, out, _ = run("apply", "-m", folder, "--format", "json")
    [environment] = valid("result", out)["environments"]
    results = {one["name"]: one for one in environment["results"]}
    live = {key.id: key.name for key in served.sandbox.keys() if key.revoked_at is None}
    assert results["b"]["status"] == "done"
    if revocable:
        assert code == 0
        assert (results["a"]["status"], results["a"]["id"]) == ("done", theirs[0].id)
        assert results["a"]["record"]["id"] == theirs[0].id
        assert (environment["summary"]["created"], environment["summary"]["kept"]) == (1, 1)
        assert sorted(live.values()) == ["a", "b"]
        assert live[theirs[0].id] == "a"
    else:
        assert code == 4
        assert results["a"]["error"]["code"] == "duplicate_left"
        [loser] = [id_ for id_, name in live.items() if name == "a" and id_ != theirs[0].id]
        assert loser in results["a"]["error"]["message"]
        assert theirs[0].id in results["a"]["error"]["message"]


def stranger(name: str, role_id: str | None) -> ApiKey:
    """Return a key that another run created a moment ago."""
    return ApiKey(
        id="00000000-0000-4000-8000-000000000001",
        name=name,
        expires_at="2031-01-01T00:00:00.000Z",
        revoked_at=None,
        created_at="2026-01-01T00:00:00.000Z",
        updated_at="2026-01-01T00:00:00.000Z",
        role_id=role_id,
    )


@pytest.mark.usefixtures("hurry")
def test_text_shows_a_key_that_another_run_created(run, shop) -> None:
    """It counts as declared, not as created or failed."""
    first = iter([True])

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        if is_create(request) and next(first, False):
            served.sandbox.put(stranger("a", None))
        return inner(request)

    folder, served = shop(Dialect.LEGACY, around)
    code, out, _ = run("apply", "-m", folder)
    assert code == 0
    [line] = [line for line in out.splitlines() if "created by another run" in line]
    assert line.startswith("  = a ")
    assert "Done: 1 created, 1 kept." in out


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("dialect", Dialect)
def test_lost_creates_are_reported_for_each_key(run, shop, dialect) -> None:
    """A key that was sent has `outcome_unknown`, a key that was not has `server_error`."""

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        return json_answer(500, {}) if is_create(request) else inner(request)

    names = [f"k{number}" for number in range(120)]
    folder, served = shop(dialect, around, names)
    code, out, _ = run("apply", "-m", folder, "--format", "json")
    [environment] = valid("result", out)["environments"]
    assert code == 4
    assert {one["status"] for one in environment["results"]} == {"failed"}
    codes = Counter(one["error"]["code"] for one in environment["results"])
    assert set(codes) == {"outcome_unknown", "server_error"}
    sent = {name for name in names for one in served.writes() if f'"{name}"'.encode() in one.body}
    assert codes["outcome_unknown"] == len(sent)
    assert served.sandbox.keys() == ()


def undeliverable(write, tmp_path, count: int) -> tuple[Path, Path]:
    """Write manifests of keys with a program as their sink, and the program, which fails."""
    sink = {"command": ["./deliver", "{name}"]}
    keys = [{"name": f"k-{number:02}", "deliver": [sink]} for number in range(count)]
    manifest = {"version": 1, "environment": "dev", "defaults": {"expires": "90d"}, "keys": keys}
    folder = write(environments=ENVIRONMENTS, keys=json.dumps(manifest))
    program = tmp_path / "deliver"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    return folder, program


def test_a_created_key_counts_as_created_even_if_its_token_is_not_delivered(
    run, write, tmp_path
) -> None:
    """It counts as created and as failed, in text, Markdown, JSON and events."""
    folder, program = undeliverable(write, tmp_path, 3)
    files = [f"--report={form}={tmp_path / form}" for form in ("json", "markdown")]
    code, out, _ = run("apply", "-m", folder, *files, "--events", tmp_path / "events")
    assert code == 4
    verdict = "Incomplete: 3 created (3 undelivered), 0 kept, 3 failed."
    assert out.splitlines()[-1] == verdict
    page = (tmp_path / "markdown").read_text()
    assert f"## {verdict}" in page
    head, _, row = [line for line in page.splitlines() if line.startswith("|")][:3]
    counts = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert (counts["created"], counts["undelivered"], counts["failed"]) == ("3", "3", "3")
    [environment] = valid("result", (tmp_path / "json").read_text())["environments"]
    summary = environment["summary"]
    assert {word for word, count in summary.items() if count} == {
        "created",
        "undelivered",
        "failed",
    }
    assert {summary[word] for word in ("created", "undelivered", "failed")} == {3}
    ended = [
        event
        for event in map(json.loads, (tmp_path / "events").read_text().splitlines())
        if event["event"] == "action_ended"
    ]
    assert {(one["status"], one["made"], one["undelivered"]) for one in ended} == {
        ("failed", True, True)
    }
    # A key that is only delivered was not created by this run.
    code, out, _ = run("apply", "-m", folder, "--redeliver", "--format", "json")
    [environment] = valid("result", out)["environments"]
    assert [environment["summary"][word] for word in ("created", "undelivered", "failed")] == [
        0,
        0,
        3,
    ]
    program.write_text("#!/bin/sh\ncat > /dev/null\n")
    code, out, _ = run("apply", "-m", folder, "--redeliver")
    assert (code, out.splitlines()[-1]) == (0, "Done: 0 created, 3 delivered, 0 kept.")


def test_a_successor_counts_as_rotated_even_if_its_token_is_not_delivered(
    run, write, tmp_path
) -> None:
    """The old key stays live."""
    folder, program = undeliverable(write, tmp_path, 1)
    (folder / "environments.yaml").write_text(ENVIRONMENTS.replace("Admin}", "Admin, owns: ['*']}"))
    program.write_text("#!/bin/sh\ncat > /dev/null\n")
    assert run("apply", "-m", folder)[0] == 0
    program.write_text("#!/bin/sh\nexit 1\n")
    code, out, _ = run("rotate", "k-00", "--now", "-m", folder)
    assert code == 4
    assert out.splitlines()[-1] == (
        "Incomplete: 0 created, 1 rotated (1 undelivered), 0 kept, 1 failed."
    )
    code, out, _ = run("rotate", "k-00", "--now", "-m", folder, "--format", "json")
    [environment] = valid("result", out)["environments"]
    assert [environment["summary"][word] for word in ("rotated", "undelivered")] == [1, 1]


def test_an_interrupted_run_reports_how_many_keys_it_created(
    write, tmp_path, serve, monkeypatch
) -> None:
    """After Ctrl-C during the first mint, every created key is counted."""
    minting, over = threading.Event(), threading.Event()

    def around(request: Request, inner: Callable[[Request], Response]) -> Response:
        if b"generateApiKeyToken" in request.body:
            minting.set()
            over.wait(60)
        return inner(request)

    folder, _ = undeliverable(write, tmp_path, 18)
    served = serve(Dialect.CORE, around=around)
    monkeypatch.setenv("TOKEN", served.sandbox.session_token())
    (folder / "environments.yaml").write_text(
        "version: 1\nenvironments:\n  dev: {role: Admin, "
        f"url: '{served.sandbox.url}', auth: {{session_token: '${{TOKEN}}'}}}}\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "provisioner", "apply", "-m", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert minting.wait(20)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        over.set()
    assert process.returncode == 130
    assert len(served.sandbox.keys()) == 18
    assert out.splitlines()[-1] == ("Incomplete: 18 created (18 undelivered), 0 kept, 18 failed.")


# bad input


@pytest.mark.parametrize(
    ("words", "names", "remedy"),
    [
        ("c", "'c'", "Check the names, -m and -e."),
        ("a svc-alpah", "'svc-alpah'", "Did you mean 'svc-alpha'?"),
        ("zz svc-*", "'zz' or 'svc-*'", "Write exact names; this command does not expand globs."),
        ("svc-alpha -e other", "'svc-alpha'", "Check the names, -m and -e."),
    ],
)
def test_rotating_an_undeclared_name_is_wrong_usage_and_sends_nothing(
    run, shop, words, names, remedy
) -> None:
    """No part of the list is rotated, and nothing is asked."""
    folder, served = shop(Dialect.CORE, lambda request, inner: inner(request), ("a", "svc-alpha"))
    with (folder / "environments.yaml").open("a") as stream:
        stream.write("  other: {url: 'sandbox:', role: Admin}\n")
    events = folder.parent / "events"
    where = ("-m", folder, "--format", "json", "--events", events)
    code, out, err = run("rotate", *words.split(), "--now", *where)
    message = f"No manifest declares {names} in the selected environments. {remedy}"
    assert (code, out, err) == (64, "", f"key_missing: {message}\n{hint('key_missing')}\n")
    assert served.journal == []
    last = json.loads(events.read_text().splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("run_ended", 64)
    assert not (folder.parent / ".provision").exists()


def test_rotating_a_declared_key_that_does_not_exist_is_incomplete(run, shop) -> None:
    """Only reading the workspace shows that there is no key."""
    folder, served = shop(Dialect.CORE, lambda request, inner: inner(request))
    code, _, err = run("rotate", "a", "--now", "-m", folder)
    assert (code, err.splitlines()[-2:]) == (
        4,
        ["key_missing: 'a' has no live key: `provision apply` creates it.", hint("key_missing")],
    )
    assert served.writes() == []


def test_revoking_a_name_without_a_live_key_suggests_another(run, small) -> None:
    """It is incomplete and not wrong usage, because only the workspace knows its live keys."""
    for name, message in (
        ("c", "There is no live key 'c'. `provision list` shows the live keys."),
        ("aa", "There is no live key 'aa'. Did you mean 'a'?"),
        ("a*", "There is no live key 'a*'. Write exact names; this command does not expand globs."),
        ("a", "'a' has no live key: there is nothing to revoke."),
    ):
        code, _, err = run("revoke", name, "-m", small)
        assert code == 4
        assert err.splitlines()[-2:] == [f"key_missing: {message}", hint("key_missing")]


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_all_problems_are_reported_and_nothing_is_sent(run, small, tmp_path, command) -> None:
    """The exit code is 3; problems are on stderr with their place, and in JSON on stdout."""
    (small / "keys.yaml").write_text("version: 1\nenvironment: devv\nkeys: [{name: 7}]\n")
    code, out, err = run(command, "-m", small)
    assert (code, out) == (3, "")
    assert f"{(small / 'keys.yaml').as_posix()}:2:14: environment_unknown:" in err
    assert "Did you mean" in err or "did you mean" in err
    code, out, _ = run(command, "-m", small, "--format", "json")
    document = valid("problems", out)
    assert code == 3
    assert len(document["problems"]) >= 2
    assert not (tmp_path / ".provision").exists()


def test_a_missing_variable_is_a_problem_of_the_selected_environments(run, write) -> None:
    """Only selected environments need their variables; validate needs none."""
    folder = write(
        environments=ENVIRONMENTS
        + '  far: {url: "https://crm.example.com", auth: {token: "${FAR_TOKEN}"}}\n',
        keys=KEYS,
    )
    assert run("validate", "-m", folder)[0] == 0
    assert run("plan", "-m", folder, "-e", "dev")[0] == 0
    code, _, err = run("plan", "-m", folder)
    assert code == 3
    assert "FAR_TOKEN" in err
    assert "environments.yaml:4:" in err


def test_an_unknown_environment_is_wrong_usage_with_a_suggestion(run, small) -> None:
    """The exit code is 64, and the message names the closest environment or all of them."""
    code, _, err = run("plan", "-m", small, "-e", "deb")
    assert (code, "Did you mean 'dev'?" in err) == (64, True)
    code, _, err = run("plan", "-m", small, "-e", "zzz")
    assert (code, "The declared environments are dev." in err) == (64, True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["aply"], "Did you mean 'apply'?"),
        (["zzz"], "No such command 'zzz'"),
        (["plan", "--nope"], "No such option"),
        (["plan", "--format", "xml"], "xml"),
        (["plan", "--parallel", "0"], "0"),
        (["create"], "--body"),
        (["schema", "nope"], "manifest"),
    ],
)
def test_wrong_usage_exits_with_64_and_shows_what_is_valid(run, arguments, word) -> None:
    """This holds for commands, options and values that do not exist."""
    code, out, err = run(*arguments)
    assert (code, out) == (64, "")
    assert word in err


def test_a_missing_manifests_directory_suggests_init(run, tmp_path) -> None:
    """A wrong -m is a problem, not a run without environments."""
    code, _, err = run("apply", "-m", tmp_path / "gone")
    assert (code, "manifests_missing" in err, "provision init" in err) == (3, True, True)


def test_options_read_their_variables_and_the_command_line_wins(run, small, monkeypatch) -> None:
    """Pipelines set PROVISION_<OPTION>."""
    monkeypatch.setenv("PROVISION_MANIFESTS", str(small))
    monkeypatch.setenv("PROVISION_FORMAT", "json")
    monkeypatch.setenv("PROVISION_ENVIRONMENT", "dev")
    monkeypatch.setenv("PROVISION_ONLY", "a")
    monkeypatch.setenv("PROVISION_PARALLEL", "2")
    code, out, _ = run("plan")
    assert code == 0
    assert [one["name"] for one in valid("plan", out)["environments"][0]["actions"]] == ["a"]
    assert run("plan", "--format", "text")[1].startswith("dev")


@pytest.mark.parametrize("empty", ["", " ", " \t\n"])
@pytest.mark.parametrize("words", ["apply --prune", "plan", "rotate svc-a", "revoke svc-a"])
def test_an_option_that_limits_a_run_must_not_be_empty(
    run, shop, words, empty, monkeypatch
) -> None:
    """A pipeline step that lost a value does not widen the run to all keys."""
    folder, served = shop(Dialect.CORE, lambda request, inner: inner(request), ("svc-a",))
    command = [*words.split(), "-m", folder]
    for option in ("--environment", "--only"):
        variable = f"PROVISION_{option.strip('-').upper()}"
        for more in (["--only=svc-b"] if option == "--environment" else ["-e", "shop"], []):
            code, out, err = run(*command, option, empty, *more)
            assert (code, out, "A value is empty" in err) == (64, "", True)
            with monkeypatch.context() as patch:
                patch.setenv(variable, empty)
                code, out, err = run(*command, *more)
                assert (code, out, f"{variable} is empty" in err) == (64, "", True)
    assert served.journal == []
    # The option wins over the variable.
    monkeypatch.setenv("PROVISION_ENVIRONMENT", empty)
    monkeypatch.setenv("PROVISION_ONLY", empty)
    assert run("plan", "-e", "shop", "--only", "svc-a", "-m", folder)[0] == 0
    # What writes nothing works on all.
    for command in ("list", "doctor", "report", "validate"):
        assert run(command, "-m", folder)[0] == 0


def test_a_glob_that_matches_nothing_is_a_warning(run, small) -> None:
    """A typing error in --only does not look like a finished job."""
    for command in ("plan", "apply"):
        code, _, err = run(command, "-m", small, "--only", "nomatch*")
        assert code == 0
        assert "no key matches --only nomatch*" in err


def test_a_bug_in_one_environment_does_not_stop_the_others(run, write, monkeypatch) -> None:
    """The report is printed before the bug, which exits with 1, at reading or creating."""
    from provisioner.twenty.core import CoreWorkspace
    from provisioner.twenty.legacy import LegacyWorkspace

    folder = write(
        environments=ENVIRONMENTS + "  old: {url: 'sandbox:legacy'}\n",
        keys=KEYS.replace("environment: dev", "environments: [dev, old]"),
    )

    def broken(*_: object) -> None:
        raise RuntimeError

    for method in ("observe", "create_many"):
        with monkeypatch.context() as patch:
            patch.setattr(LegacyWorkspace, method, broken)
            code = main(["apply", "-m", str(folder), "--format", "json"])
        assert code == 1
    monkeypatch.setattr(CoreWorkspace, "observe", broken)
    assert main(["plan", "-m", str(folder)]) == 1
    assert main(["list", "-m", str(folder)]) == 1


def test_the_report_of_a_run_with_a_bug_is_complete(write, monkeypatch, capsys) -> None:
    """One environment is done; the one with the bug has `internal_error`."""
    from provisioner.twenty.legacy import LegacyWorkspace

    folder = write(
        environments=ENVIRONMENTS + "  old: {url: 'sandbox:legacy'}\n",
        keys=KEYS.replace("environment: dev", "environments: [dev, old]"),
    )
    monkeypatch.setattr(LegacyWorkspace, "create_many", None)
    assert main(["apply", "-m", str(folder), "--format", "json"]) == 1
    out, err = capsys.readouterr()
    found = {one["environment"]: one for one in valid("result", out)["environments"]}
    assert found["dev"]["summary"]["created"] == 2
    assert {one["error"]["code"] for one in found["old"]["results"]} == {"internal_error"}
    assert "This is a bug in provision" in err


# validate


def test_validate_checks_directories_and_single_files(run, small, tmp_path, monkeypatch) -> None:
    """A file is read with its directory, and only its own problems are shown."""
    code, out, _ = run("validate", small)
    assert (code, out) == (0, "2 keys in 1 environment, no problems.\n")
    bad = small / "team" / "bad.yaml"
    bad.parent.mkdir()
    bad.write_text(KEYS.replace("{name: a}", "{nam: a}"))
    assert run("validate", small / "keys.yaml")[0] == 3  # both files declare b
    bad.write_text("version: 1\nenvironment: dev\nkeys: [{name: c, expire: 1d}]\n")
    assert run("validate", small / "keys.yaml")[0] == 0
    code, out, _ = run("validate", bad, "--format", "json")
    document = valid("problems", out)
    assert code == 3
    assert [one["code"] for one in document["problems"]] == ["unknown_key"]
    assert run("validate", small, bad)[0] == 3
    (small / "notes.txt").write_text("version: 7")
    code, out, _ = run("validate", small / "notes.txt", "--format", "json")
    assert code == 3
    assert [one["code"] for one in valid("problems", out)["problems"]] == ["file_unread"]
    monkeypatch.chdir(small / "team")
    assert run("validate", "bad.yaml")[0] == 3
    bad.write_text("version: 1\nenvironment: dev\nkeys: [{name: c, expires: 1d}]\n")
    assert run("validate", "bad.yaml")[0] == 0
    lonely = tmp_path / "lonely.yaml"
    lonely.write_text(KEYS)
    assert run("validate", lonely)[0] == 3


def test_validate_without_any_manifest_is_a_problem(run, write, tmp_path) -> None:
    """A wrong directory in a pipeline is never a success."""
    (tmp_path / "empty").mkdir()
    for words, code in (
        (["-m", tmp_path / "gone"], "manifests_missing"),
        ([tmp_path / "gone"], "manifests_missing"),
        ([tmp_path / "gone" / "keys.yaml"], "manifests_missing"),
        ([tmp_path / "empty"], "environments_missing"),
    ):
        exit_code, out, _ = run("validate", *words, "--format", "json")
        found = [one["code"] for one in valid("problems", out)["problems"]]
        assert (exit_code, found) == (3, [code]), words
    folder = write(environments=ENVIRONMENTS)
    (folder / ".hidden.yaml").write_text(KEYS)
    (folder / "notes.txt").write_text(KEYS)
    for path in (folder, folder / "environments.yaml"):
        exit_code, out, _ = run("validate", path, "--format", "json")
        [problem] = valid("problems", out)["problems"]
        assert (exit_code, problem["code"]) == (3, "manifests_missing")
        assert problem["file"] == (folder / "environments.yaml").as_posix()
        assert run("validate", path)[0] == 3
    # What needs no manifest goes on without one, and a plan says what it has to do.
    for command in ("list", "doctor", "plan"):
        assert run(command, "-m", folder)[0] == 0
    assert run("export", "-m", folder)[0] == 4  # there is no key
    write(environments=ENVIRONMENTS + "  dev: {}\n")
    exit_code, out, _ = run("validate", folder, "--format", "json")
    found = {one["code"] for one in valid("problems", out)["problems"]}
    assert (exit_code, len(found)) == (3, 2)
    assert "manifests_missing" in found
    team = folder / "team"
    team.mkdir()
    (team / "keys.yml").write_text(KEYS)
    write(environments=ENVIRONMENTS)
    assert run("validate", folder)[0] == 0


def test_validate_finds_expiries_that_have_passed(run, small) -> None:
    """In `validate` an old date is a problem; in plan and apply it fails only its key."""
    (small / "keys.yaml").write_text(KEYS.replace("90d", "2020-01-01"))
    code, out, _ = run("validate", "-m", small)
    assert (code, "expiry_past" in out) == (3, True)


# list


def test_list_shows_existing_keys(run, small, tmp_path) -> None:
    """It shows which keys are revoked or expired, as a table and as JSON, and obeys --only."""
    (small / "environments.yaml").write_text(ENVIRONMENTS.replace("sandbox:", "sandbox:legacy"))
    assert run("list", "-m", small)[:2] == (0, "no keys\n")
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3", Dialect.LEGACY) as sandbox:
        sandbox.seed(["x", "y"])
        sandbox.seed(["dead"], revoked_at="2026-01-01T00:00:00.000Z")
        sandbox.seed(["past"], expires_at="2020-01-01T00:00:00.000Z")
    code, out, _ = run("list", "-m", small, "--format", "json")
    found = {one["name"]: one for one in valid("keys", out)}
    assert code == 0
    assert {name: one["live"] for name, one in found.items()} == {
        "x": True,
        "y": True,
        "dead": False,
        "past": False,
    }
    assert found["dead"]["revoked_at"] == "2026-01-01T00:00:00Z"
    text = run("list", "-m", small)[1]
    assert "revoked" in text
    assert "expired" in text
    assert len(json.loads(run("list", "-m", small, "--only", "x", "--format", "json")[1])) == 1


def test_list_needs_only_environments(run, small) -> None:
    """A broken manifest does not stop it; a broken environments.yaml does."""
    (small / "keys.yaml").write_text("version: 2")
    assert run("list", "-m", small)[0] == 0
    (small / "environments.yaml").write_text("version: 2")
    assert run("list", "-m", small)[0] == 3


# create


@pytest.mark.parametrize("dialect", ["core", "core-1", "legacy"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_create_prints_the_records_in_the_shape_of_the_body(
    run, small, tmp_path, dialect, depth
) -> None:
    """An object returns an object, an array an array, as the server returned them."""
    (small / "environments.yaml").write_text(ENVIRONMENTS.replace("sandbox:", f"sandbox:{dialect}"))
    run("plan", "-m", small)
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3", Dialect(dialect)) as sandbox:
        role = {} if dialect == "legacy" else {"roleId": sandbox.role("Admin").id}
    record = {"name": "x", "expiresAt": "2031-01-01T00:00:00Z"} | role
    body = tmp_path / "body.json"
    body.write_text(json.dumps(record))
    code, out, _ = run("create", "-m", small, "--body", body, "--depth", depth)
    created = json.loads(out)
    assert code == 0
    assert created["name"] == "x"
    assert ("role" in created) == (depth > 0 and dialect != "legacy")
    body.write_text(json.dumps([record, record | {"name": "y"}]))
    code, out, _ = run("create", "-m", small, "-e", "dev", "--body", body, "--depth", depth)
    assert (code, [one["name"] for one in json.loads(out)]) == (0, ["x", "y"])


SEED_BODY = """\
[
  {"name": "Api Key name", "expiresAt": "2031-07-03T12:28:59.208Z"},
  {"name": "svc-seed", "expiresAt": "2031-01-01T00:00:00Z", "revokedAt": null},
  {"name": "svc-gone", "expiresAt": "2031-01-01T00:00:00Z", "revokedAt": "2026-01-01T00:00:00Z"}
]
"""
"""The body of a node that posts to `/rest/batch/apiKeys?depth=N`: it names no role."""


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make a text the standard input of the next command."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_one_body_creates_keys_on_every_generation(run, small, monkeypatch, dialect, depth) -> None:
    """`create -e dev --depth 1 < body.json` works everywhere, with the environment's role.

    Where all depths return the same, one line says so, however many records there are.
    """
    (small / "environments.yaml").write_text(ENVIRONMENTS.replace("sandbox:", f"sandbox:{dialect}"))
    type_in(monkeypatch, SEED_BODY)
    code, out, err = run("create", "-m", small, "-e", "dev", "--depth", depth)
    created = json.loads(out)
    assert (code, [one["name"] for one in created]) == (
        0,
        [one["name"] for one in json.loads(SEED_BODY)],
    )
    _, listed, _ = run("list", "-m", small, "--format", "json")
    has_roles = dialect is not Dialect.LEGACY
    assert {one["role"] for one in json.loads(listed)} == {"Admin" if has_roles else None}
    assert all(("role" in one) == (has_roles and depth > 0) for one in created)
    ignored = ["depths 0, 1 and 2 return the same", "the roles of 3 keys are ignored"]
    assert [err.count(one) for one in ignored] == ([0, 0] if has_roles else [1, 1])
    assert len(err.splitlines()) == (0 if has_roles else 2)


def test_create_says_nothing_about_a_depth_that_nobody_chose(run, small, monkeypatch) -> None:
    """Without --depth there is no note about depths."""
    (small / "environments.yaml").write_text(
        "version: 1\nenvironments: {dev: {url: 'sandbox:legacy'}}\n"
    )
    type_in(monkeypatch, SEED_BODY)
    code, _, err = run("create", "-m", small)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("written", ["label", "id"])
def test_a_record_may_name_its_role(run, small, tmp_path, written) -> None:
    """`role` is a label or an id; it precedes the environment's, and `roleId` is sent as it is."""
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        role = sandbox.role("Integrations")
    record = {"expiresAt": "2031-01-01T00:00:00Z"}
    body = [
        record | {"name": "a", "role": role.label if written == "label" else role.id},
        record | {"name": "b", "roleId": role.id},
        record | {"name": "c"},
    ]
    (tmp_path / "body.json").write_text(json.dumps(body))
    code, out, _ = run("create", "-m", small, "--body", tmp_path / "body.json")
    labels = [one["role"]["label"] for one in json.loads(out)]
    assert (code, labels) == (0, ["Integrations", "Integrations", "Admin"])


@pytest.mark.parametrize(
    ("role", "code", "words"),
    [
        ("Adnim", "role_unknown", "Roles that keys can have: 'Admin', "),
        ("Member", "role_not_assignable", "cannot be assigned"),
    ],
)
def test_a_role_that_cannot_be_given_creates_no_key(
    run, small, tmp_path, role, code, words
) -> None:
    """Each record with a wrong role is reported at its place, and nothing is created."""
    record = {"expiresAt": "2031-01-01T00:00:00Z"}
    body = [record | {"name": "a"}, record | {"name": "b", "role": role}]
    (tmp_path / "body.json").write_text(json.dumps(body))
    found, out, err = run("create", "-m", small, "--body", tmp_path / "body.json")
    assert (found, json.loads(out)) == (4, [])
    assert f"{code}: {tmp_path}/body.json:1:" in err
    assert words in err
    assert json.loads(run("list", "-m", small, "--format", "json")[1]) == []


@pytest.mark.parametrize("terminal", [True, False])
def test_create_without_a_body_is_wrong_usage(run, small, monkeypatch, terminal) -> None:
    """Nobody waits for a terminal or an empty standard input that was not asked for."""
    type_in(monkeypatch, "{" if terminal else "\n")
    monkeypatch.setattr("sys.stdin.isatty", lambda: terminal)
    code, out, err = run("create", "-m", small)
    assert (code, out, "Missing option '--body'" in err) == (64, "", True)


def test_create_reads_standard_input(run, small, monkeypatch) -> None:
    """`--body -` is standard input."""
    (small / "environments.yaml").write_text(ENVIRONMENTS.replace("sandbox:", "sandbox:legacy"))
    raw = io.BytesIO(b'\xef\xbb\xbf[{"name": "x", "expiresAt": "2031-01-01T00:00:00Z"}]')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(raw))
    code, out, _ = run("create", "-m", small, "--body", "-")
    assert (code, json.loads(out)[0]["name"]) == (0, "x")


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        ("{", 3, "body.json:1:2: body_invalid"),
        ('[{"name": ""}]', 3, "body.json:1:2: record_invalid"),
        ('{"name": "x", "expiresAt": "2031-01-01T00:00:00Z"}', 4, "role_missing"),
        (
            (
                '[{"name": "x", "expiresAt": "2031-01-01T00:00:00Z"},\n'
                '{"name": "y", "expiresAt": "2031-01-01T00:00:00Z"}]'
            ),
            4,
            "body.json:2:1: 'y'",
        ),
        (
            '{"name": "x", "expiresAt": "2031-01-01T00:00:00Z", "roleId": "zzz"}',
            4,
            "rejected",
        ),
    ],
)
def test_create_with_a_bad_body_is_a_clear_error(run, small, tmp_path, body, code, word) -> None:
    """Errors of JSON, records and roles have a place and a remedy; stdout has no records."""
    (small / "environments.yaml").write_text(ENVIRONMENTS.replace(", role: Admin", ""))
    file = tmp_path / "body.json"
    file.write_text(body)
    found, out, err = run("create", "-m", small, "--body", file)
    assert found == code
    assert word in err
    if code == 3:
        assert valid("problems", out)["problems"]


def test_create_reports_wrong_arguments(run, small, tmp_path, monkeypatch) -> None:
    """It reports a bad depth, a bad body, a missing credential and a missing environment."""
    assert run("create", "-m", small, "--body", "x", "--depth", "3")[0] == 64
    code, _, err = run("create", "-m", small, "--body", tmp_path / "gone.json")
    assert (code, "No such file" in err) == (3, True)
    (tmp_path / "latin.json").write_bytes(b'{"name": "\xe4"}')
    code, _, err = run("create", "-m", small, "--body", tmp_path / "latin.json")
    assert (code, "UTF-8" in err) == (3, True)
    monkeypatch.delenv("FAR_TOKEN", raising=False)
    (small / "environments.yaml").write_text(
        ENVIRONMENTS + '  far: {url: "https://crm.example.com", auth: {token: "${FAR_TOKEN}"}}\n'
    )
    (tmp_path / "b.json").write_text('{"name": "x", "expiresAt": "2031-01-01T00:00:00Z"}')
    code, _, err = run("create", "-m", small, "-e", "far", "--body", tmp_path / "b.json")
    assert (code, "FAR_TOKEN" in err) == (3, True)
    monkeypatch.setenv("FAR_TOKEN", "t.o.k")
    code, _, err = run("create", "-m", small, "--body", tmp_path / "b.json")
    assert (code, "-e: dev, far" in err) == (64, True)


def test_create_on_legacy_refuses_roles_and_reports_a_rate_limit(
    run, write, scripted, answer, tmp_path, monkeypatch
) -> None:
    """A role is refused before anything is sent; endless throttling is `rate_limited`."""
    monkeypatch.setenv("TOKEN", "t.o.k")
    server = scripted(answer(429, "{}", Retry_After="3600"), answer(500, "{}"))
    folder = write(
        environments=f'version: 1\nenvironments:\n  dev: {{url: "{server.url}", '
        'auth: {token: "${TOKEN}"}, generation: legacy}\n'
    )
    body = tmp_path / "body.json"
    body.write_text('{"name": "x", "expiresAt": "2031-01-01T00:00:00Z", "roleId": "r"}')
    code, _, err = run("create", "-m", folder, "--body", body)
    assert (code, "role_unsupported" in err, server.requests) == (4, True, [])
    body.write_text('{"name": "x", "expiresAt": "2031-01-01T00:00:00Z"}')
    code, out, err = run("create", "-m", folder, "--body", body)
    assert (code, out, "rate_limited" in err) == (4, "", True)
    code, _, err = run("create", "-m", folder, "--body", body)
    assert (code, "outcome_unknown" in err) == (4, True)
    assert len(server.requests) == 2


# names that look alike


@pytest.mark.parametrize(
    "other", ["SVC-a", "svc-\u0430", "svc-\uff41", "\u0455vc-a", "svc\u2011a", "svc-\u03b1"]
)
def test_a_name_that_looks_like_another_is_a_warning(run, tmp_path, other) -> None:
    """A difference only by case or alphabet is a warning with both places."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "environments.yaml").write_text("version: 1\nenvironments: {d: {url: 'sandbox:'}}\n")
    (folder / "a.yaml").write_text(
        "version: 1\nenvironment: d\ndefaults: {expires: 9d}\nkeys:\n  - name: svc-a\n"
        f"  - name: svc-b\n  - name: '{other}'\n",
        encoding="utf-8",
    )
    code, out, err = run("validate", "-m", folder)
    assert (code, "3 keys in 1 environment, no problems." in out) == (0, True)
    assert err.count("name_alike") == 1
    assert f"{folder}/a.yaml:7:11: name_alike: " in err
    assert f'looks like "svc-a" in d, declared in {folder}/a.yaml line 5: rename one' in err
    assert err.isascii()


# init and schema


def test_the_files_of_init_work_at_once(run, tmp_path) -> None:
    """The example is valid and can be applied, and the schemas that it names exist."""
    folder = tmp_path / "new place" / "manifests"
    code, out, err = run("init", "-m", folder)
    assert (code, out.count("wrote ")) == (0, 5)
    assert "provision plan -m" in err
    for name in ("environments", "manifest"):
        assert (folder.parent / "schemas" / f"{name}.schema.json").is_file()
    ignored = folder.parent / ".gitignore"
    assert {"/secrets/", "/.provision/"} <= set(ignored.read_text().splitlines())
    assert run("validate", "-m", folder)[0] == 0
    assert run("apply", "-m", folder)[0] == 0
    code, _, err = run("init", "-m", folder)
    assert (code, "never overwrites a file" in err) == (64, True)
    ignored.write_text("mine\n")
    assert run("init", "-m", folder.parent / "others")[0] == 0
    assert ignored.read_text() == "mine\n"
    assert "*" in (folder.parent / "secrets" / ".gitignore").read_text().splitlines()
    file = tmp_path / "file"
    file.write_text("")
    code, _, err = run("init", "-m", file / "manifests")
    assert (code, "not_writable" in err) == (64, True)


def test_keys_of_init_can_be_rotated_and_revoked(run, tmp_path) -> None:
    """The environment of the example owns all keys of its manifest."""
    folder = tmp_path / "manifests"
    assert run("init", "-m", folder)[0] == 0
    assert run("apply", "-m", folder)[0] == 0
    for name in ("svc-billing", "svc-etl-eu"):
        code, out, err = run("rotate", "-m", folder, name, "--now")
        assert code == 0, (out, err)
    code, out, err = run("revoke", "-m", folder, "svc-billing", "svc-mail-us")
    assert code == 0, (out, err)
    tokens = (tmp_path / "secrets" / "development.env").read_text()
    assert tokens.count("=eyJ") == 5
    out = run("list", "-m", folder)[1]
    assert ("svc-billing" in out, "svc-mail-us" in out, "svc-mail-eu" in out) == (
        False,
        False,
        True,
    )


def test_schemas_are_printed_as_published(run) -> None:
    """Without a name their names are printed, with one the text of the file."""
    code, out, _ = run("schema")
    assert (code, tuple(out.split())) == (0, schemas.NAMES)
    for name in schemas.NAMES:
        text = (ROOT / "schemas" / f"{name}.schema.json").read_text()
        assert run("schema", name)[1] == text
        Draft202012Validator.check_schema(json.loads(text))


# real processes


def provision(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "provisioner", *map(str, arguments)]
    options |= {"capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(command, check=False, **options)


def test_the_command_as_a_process(small) -> None:
    """A process prints its version, uses both streams, and returns exit codes."""
    assert provision("--version").stdout == f"provision {__version__}\n"
    done = provision("apply", "-m", small)
    assert done.returncode == 0
    [note] = done.stderr.splitlines()
    assert note.startswith("warning: dev: no sink receives the tokens")
    assert "Done: 2 created" in done.stdout
    assert provision("nope").returncode == 64
    short = provision("plan", "-m", small, env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert short.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [("apply -e dev", 0), ("list", 0), ("--help", 0), ("schema result", 0), ("apply -e odd", 4)],
)
def test_a_closed_pipe_does_not_change_the_exit_code(small, arguments, code) -> None:
    """With `| true` the command still does its work and returns its exit code."""
    (small / "environments.yaml").write_text(ENVIRONMENTS + "  odd: {url: 'sandbox:'}\n")
    (small / "odd.yaml").write_text(KEYS.replace("dev", "odd"))
    command = f"'{sys.executable}' -m provisioner {arguments} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=small.parent,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


@pytest.mark.parametrize("redirect", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_stop_a_run(small, redirect) -> None:
    """Without stdin, stdout or stderr, keys are created all the same."""
    command = f"exec '{sys.executable}' -m provisioner apply -m '{small}' {redirect}"
    done = subprocess.run(["bash", "-c", command], check=False, timeout=60)
    assert done.returncode == 0


def test_a_full_disk_is_reported(small) -> None:
    """The keys are created; the lost report is an error, not a bug."""
    command = f"'{sys.executable}' -m provisioner apply -m '{small}' >/dev/full"
    done = subprocess.run(
        ["bash", "-c", command], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "output_failed" in done.stderr
    assert "bug" not in done.stderr


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_narrow_encoding_keeps_the_report(small, form) -> None:
    """Names that the terminal cannot show are escaped, and JSON stays valid."""
    (small / "keys.yaml").write_text(KEYS.replace("name: a", 'name: "k\U0001f511"'), "utf-8")
    narrow = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = provision("apply", "-m", small, "--format", form, env=narrow)
    assert done.returncode == 0
    if form == "json":
        names = [one["name"] for one in json.loads(done.stdout)["environments"][0]["results"]]
        assert names == ["k\U0001f511", "b"]
    else:
        assert r"k\U0001f511" in done.stdout


def test_head_ends_the_command_without_a_message(small) -> None:
    """With `| head` there is no error and no traceback."""
    command = f"'{sys.executable}' -m provisioner schema result | head -1"
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, check=False, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.strip() == "{"


HEAVY = ("yaml", "jsonschema", "jinja2", "urllib3", "rich", "graphql", "provisioner.sandbox")


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        *((["--help"], ()), (["plan", "--help"], ()), (["help", "plan"], ())),
        *((["explain", "plan_stale"], ()), (["validate", "-q"], ("yaml",))),
    ],
)
def test_a_command_imports_only_what_it_needs(small, arguments, needed) -> None:
    """Start-up stays fast because heavy libraries are not imported."""
    program = (
        "import sys; from provisioner.cli import main; code = main(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=small.parent,
    )
    assert not (set(HEAVY) - set(needed)) & set(done.stderr.split())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_sandbox_is_served_until_a_signal(tmp_path, number, code) -> None:
    """`provision sandbox` prints its address, answers, and exits with the code of the signal."""
    import requests

    command = [sys.executable, "-m", "provisioner", "sandbox", "core-1", "--format", "json"]
    command += ["--file", str(tmp_path / "state" / "s.sqlite3")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert facts["dialect"] == "core-1"
        token = {"Authorization": f"Bearer {facts['session_token']}"}
        with requests.Session() as session:
            got = session.get(f"{facts['url']}/rest/apiKeys", headers=token, timeout=10)
        assert got.json() == []
        process.send_signal(number)
        assert process.wait(20) == code


def test_the_sandbox_in_text_and_on_a_taken_port(tmp_path) -> None:
    """Facts are aligned on stdout; a port that is in use is an error without a traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = provision("sandbox", "--port", port, "--file", tmp_path / "s" / "a.sqlite3")
    assert "Traceback" not in done.stderr
    assert "not_servable" in done.stderr
    assert done.returncode == 64
    command = [sys.executable, "-m", "provisioner", "sandbox", "legacy"]
    command += ["--file", str(tmp_path / "t" / "b.sqlite3")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("url:           http://127.0.0.1:")
        process.terminate()
        assert process.wait(20) == 143


def test_a_bug_asks_for_a_report(run, small, monkeypatch, capsys) -> None:
    """An unexpected error exits with 1, and its message contains no values of variables."""
    from provisioner.cli import check_manifests

    value = "canary"

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(value)

    monkeypatch.setattr(check_manifests, "load", broken)
    assert main(["validate", "-m", str(small)]) == 1
    err = capsys.readouterr().err
    assert "This is a bug in provision" in err
    assert "RuntimeError" in err
    assert "canary" not in err


def test_an_unusable_state_file_fails_only_its_environment(run, small, tmp_path) -> None:
    """A file of another dialect, or a folder in its place, exits with 4."""
    state = tmp_path / ".provision" / "dev.sqlite3"
    state.parent.mkdir()
    state.mkdir()
    code, out, _ = run("plan", "-m", small)
    assert (code, "dev.sqlite3" in out) == (4, True)
    state.rmdir()
    with Sandbox(state, Dialect.LEGACY):
        pass
    code, out, _ = run("plan", "-m", small, "--format", "json")
    assert code == 4
    assert valid("plan", out)["environments"][0]["error"]["code"] == "sandbox_unusable"
