"""The event stream: every line is valid, and another program can show the run from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from builders import create, part_with
from jsonschema import Draft202012Validator

from provisioner import __version__, schemas
from provisioner.cli import main
from provisioner.cli.event_file import EventFile
from provisioner.errors.failure import Failure
from provisioner.execution import Done, Event, Executed, Failed, RunEnded
from provisioner.execution.progress import Progress

LINE = Draft202012Validator(
    schemas.load("events"), format_checker=Draft202012Validator.FORMAT_CHECKER
)
RESULT = Draft202012Validator(schemas.load("result"))

ENVIRONMENTS = "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin, owns: ['*']}\n"


@dataclass
class EnvironmentView:
    """The state of one environment for a program that reads only the events."""

    planned: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    running: set[tuple[str, str]] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    finished: bool = False


PAST = {
    "create": "created",
    "update": "updated",
    "rename": "renamed",
    "rotate": "rotated",
    "deliver": "delivered",
    "revoke": "revoked",
    "clean": "cleaned",
}


def replay(  # noqa: C901, PLR0912 - a case for each event
    lines: list[dict[str, Any]],
) -> tuple[dict[str, EnvironmentView], int]:
    """Return the state of every environment, and the exit code, from the events alone."""
    views: defaultdict[str, EnvironmentView] = defaultdict(EnvironmentView)
    for event in lines:
        one = views[event["environment"]] if "environment" in event else None
        match event["event"]:
            case "run_started":
                for name in event["environments"]:
                    views[name].finished = False
            case "environment_observed":
                assert one is not None
            case "plan_made":
                for part in event["environments"]:
                    views[part["environment"]].planned = part["summary"]
                    views[part["environment"]].counts["kept"] += part["summary"]["keep"]
            case "action_begun":
                assert not one.finished
                one.running.add((event["action"], event["name"]))
            case "steps_settled":
                one.steps += event["steps"]
            case "action_ended":
                assert not one.finished
                one.running.discard((event["action"], event["name"]))
                status = event["status"]
                if event["made_elsewhere"]:
                    one.counts["kept"] += 1
                elif status == "done" or event["made"]:
                    one.counts[PAST[event["action"]]] += 1
                one.counts["undelivered"] += event["undelivered"]
                one.counts[status] += status != "done"
            case "environment_finished":
                assert one.running == set()
                one.finished = True
            case "run_ended":
                return dict(views), event["exit_code"]
            case other:
                raise AssertionError(other)
    raise AssertionError("the stream has no last event")


def read_events(file: Path) -> list[dict[str, Any]]:
    """Return the lines of the stream of one run, each validated, in the order of their numbers."""
    text = file.read_text()
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        LINE.validate(line)
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert len({line["run"] for line in lines}) == 1
    assert lines[0]["event"] == "run_started"
    assert lines[-1]["event"] == "run_ended"
    return lines


def check_agreement(lines: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """Check that the events lead to the result: counts, and each action's status, id and error."""
    RESULT.validate(result)
    views, _ = replay(lines)
    ended = [line for line in lines if line["event"] == "action_ended"]
    for part in result["environments"]:
        name = part["environment"]
        assert views[name].finished
        counts = views[name].counts
        assert {word: counts[word] for word in part["summary"]} == part["summary"]
        keys = ("action", "name", "ids", "status", "id", "error")
        from_events = [
            {key: line[key] for key in keys} for line in ended if line["environment"] == name
        ]
        from_result = [{key: one[key] for key in keys} for one in part["results"]]
        assert sorted(map(str, from_events)) == sorted(map(str, from_result))
        [finished] = [
            line
            for line in lines
            if line["event"] == "environment_finished" and line["environment"] == name
        ]
        assert (finished["summary"], finished["error"]) == (part["summary"], part["error"])


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Return a function that runs a command beside manifests: exit code, stdout, stderr."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "environments.yaml").write_text(ENVIRONMENTS)
    monkeypatch.chdir(tmp_path)

    def run_(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run_


@pytest.fixture
def apply(run, tmp_path):
    """Return a function that applies a list of keys and compares the events with the result."""

    def apply_(keys: str, *arguments: str, command: str = "apply") -> list[dict[str, Any]]:
        head = "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\n"
        (tmp_path / "manifests" / "keys.yaml").write_text(f"{head}keys: {keys}\n")
        words = command.split()
        code, out, _ = run(*words, "--format", "json", "--events", "events", *arguments)
        lines = read_events(tmp_path / "events")
        assert replay(lines)[1] == code
        check_agreement(lines, json.loads(out))
        return lines

    return apply_


def count_events(lines: list[dict[str, Any]]) -> Counter[str]:
    return Counter(line["event"] for line in lines)


def test_a_whole_life_can_be_replayed_from_its_events(apply) -> None:
    """Created, kept, delivered, updated, rotated, revoked: the counts are those of the result."""
    sink = "deliver: [{file: out.env}]"
    lines = apply(f"[{{name: a}}, {{name: b, {sink}}}]")
    assert count_events(lines) == {
        "run_started": 1,
        "environment_observed": 1,
        "plan_made": 1,
        "action_begun": 2,
        "steps_settled": 3,
        "action_ended": 2,
        "environment_finished": 1,
        "run_ended": 1,
    }
    settled = [(one["step"], one["steps"]) for one in lines if one["event"] == "steps_settled"]
    assert sorted(settled) == [("create", 1), ("create", 1), ("deliver", 1)]
    assert lines[0]["command"] == "apply"
    assert lines[0]["version"] == __version__
    lines = apply(f"[{{name: a, expires: 2099-01-01}}, {{name: b, {sink}}}]", "--redeliver")
    assert {line["action"] for line in lines if "action" in line} == {"update", "deliver"}
    lines = apply(f"[{{name: b, {sink}}}]", command="rotate b --now")
    assert [line["action"] for line in lines if line["event"] == "action_ended"] == ["rotate"]
    lines = apply(f"[{{name: b, {sink}}}]", "--prune")
    begun = [line for line in lines if line["event"] == "action_begun"]
    assert [(line["action"], line["name"]) for line in begun] == [("revoke", "a")]
    lines = apply(f"[{{name: b, {sink}}}]")
    assert count_events(lines)["action_ended"] == 0


def test_an_action_starts_before_it_ends_and_does_both_once(apply) -> None:
    """An action that is shown as running has not ended, and none runs twice."""
    lines = apply("[{name: 'k-{part}', matrix: {part: [a, b, c, d, e, f, g]}}]")
    events: defaultdict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line["event"].startswith("action_"):
            events[line["name"]].append(line["event"])
    assert len(events) == 7
    assert set(map(tuple, events.values())) == {("action_begun", "action_ended")}


def test_a_blocked_action_ends_without_having_started(apply, tmp_path) -> None:
    """A blocked key and one whose sink fails are failed in both, and the exit code is 4."""
    (tmp_path / "taken").mkdir()
    lines = apply("[{name: a, role: Nobody}, {name: b, deliver: [{file: taken}]}, {name: c}]")
    ended = {line["name"]: line for line in lines if line["event"] == "action_ended"}
    assert {name: line["status"] for name, line in ended.items()} == {
        "a": "failed",
        "b": "failed",
        "c": "done",
    }
    assert ended["a"]["error"]["code"] == "role_unknown"
    begun = {line["name"] for line in lines if line["event"] == "action_begun"}
    assert "a" not in begun
    assert lines[-1]["exit_code"] == 4


def test_a_run_that_a_guard_refuses_ends_every_action(apply) -> None:
    """Every action is skipped, in the events as in the result, and the exit code is 5."""
    apply("[{name: 'k-{part}', matrix: {part: [a, b, c, d, e, f]}}]")
    lines = apply("[{name: z}]", "--prune")
    ended = [line for line in lines if line["event"] == "action_ended"]
    assert len(ended) == 7
    assert {(line["status"], line["error"]["code"]) for line in ended} == {
        ("skipped", "too_many_revocations")
    }
    assert lines[-1]["exit_code"] == 5


def test_an_environment_that_cannot_be_reached_has_events(apply, tmp_path) -> None:
    """Its error takes the place of its observation and of its result."""
    far = "  far: {url: 'http://127.0.0.1:1', insecure: true, auth: {token: '${T}'}}\n"
    (tmp_path / "manifests" / "environments.yaml").write_text(ENVIRONMENTS + far)
    os.environ["T"] = "a-token-of-nobody"
    try:
        lines = apply("[{name: a}]")
    finally:
        del os.environ["T"]
    of_far = [line for line in lines if line.get("environment") == "far"]
    assert [line["event"] for line in of_far] == ["environment_observed", "environment_finished"]
    assert {line["error"]["code"] for line in of_far} == {"unreachable"}
    assert lines[-1]["exit_code"] == 4


def test_a_plan_has_events_too(run, tmp_path) -> None:
    """They show what was observed and planned; no action starts."""
    (tmp_path / "manifests" / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\nkeys: [{name: a, expires: 9d}]\n"
    )
    code, out, _ = run("plan", "--format", "json", "--detailed-exitcode", "--events", "events")
    lines = read_events(tmp_path / "events")
    names = ["run_started", "environment_observed", "plan_made", "run_ended"]
    assert [line["event"] for line in lines] == names
    assert lines[1]["requests"] > 0
    assert (lines[1]["keys"], lines[1]["generation"]) == (0, "core")
    plan = json.loads(out)
    assert lines[2]["digest"] == plan["digest"]
    assert lines[2]["environments"][0]["summary"] == plan["environments"][0]["summary"]
    assert (lines[3]["exit_code"], code) == (2, 2)


@pytest.mark.parametrize(("text", "code"), [("keys: 1\n", 3), (None, 64)])
def test_a_run_that_does_not_start_has_a_first_and_a_last_event(run, tmp_path, text, code) -> None:
    """After problems or wrong usage, the last line has the exit code of the process."""
    arguments = [] if text else ["-e", "nowhere"]
    (tmp_path / "manifests" / "keys.yaml").write_text(
        text or "version: 1\nenvironment: dev\nkeys: [{name: a, expires: 9d}]\n"
    )
    assert run("apply", "--events", "events", *arguments)[0] == code
    lines = read_events(tmp_path / "events")
    assert [line["event"] for line in lines] == ["run_started", "run_ended"]
    assert lines[0]["environments"] == []
    assert lines[1]["exit_code"] == code


def test_wrong_usage_of_a_plan_file_ends_the_events_with_its_exit_code(
    run, tmp_path, monkeypatch
) -> None:
    """The last line and the process agree."""
    assert run("plan", "--out", "p.json")[0] == 0
    monkeypatch.setenv("PROVISION_ONLY", "zzz")
    code, _, _ = run("apply", "p.json", "--events", "e.jsonl")
    assert code == 64
    assert read_events(tmp_path / "e.jsonl")[-1]["exit_code"] == 64


def test_events_are_written_as_they_happen(tmp_path, run) -> None:
    """A reader of a pipe sees the plan before the keys are created."""
    (tmp_path / "manifests" / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\nkeys:\n"
        "- {name: a, expires: 9d, deliver: [{command: [sh, -c, 'read x <gate; cat >got']}]}\n"
    )
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "gate")
    command = [sys.executable, "-m", "provisioner", "apply", "--events", "pipe"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        with (tmp_path / "pipe").open() as pipe:
            seen = []
            for line in pipe:
                seen.append(json.loads(line)["event"])
                if seen[-1] == "steps_settled" and seen.count("steps_settled") == 1:
                    # The key is created; its delivery waits until this line has been read.
                    assert "action_ended" not in seen
                    assert process.poll() is None
                    (tmp_path / "gate").write_text("go\n")
        assert process.wait(60) == 0
    assert seen[-3:] == ["action_ended", "environment_finished", "run_ended"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_ends_the_events_and_not_the_run(run, tmp_path) -> None:
    """It gives one warning, and the key is created."""
    (tmp_path / "manifests" / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\nkeys: [{name: a, expires: 9d}]\n"
    )
    code, out, err = run("apply", "--events", "/dev/full")
    assert code == 0
    assert "1 created" in out
    assert err.count("warning: cannot write events to /dev/full: ") == 1


def test_a_reader_that_goes_away_ends_the_events_and_not_the_run(run, tmp_path) -> None:
    """It gives one warning, and the key is created."""
    (tmp_path / "manifests" / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\nkeys: [{name: a, expires: 9d}]\n"
    )
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: (tmp_path / "pipe").open().close())
    reader.start()
    code, out, err = run("apply", "--events", "pipe")
    reader.join()
    assert code == 0
    assert "1 created" in out
    assert err.count("warning: cannot write events to pipe: ") == 1


def test_a_reader_that_reads_nothing_does_not_delay_the_run(tmp_path, caplog) -> None:
    """A full pipe is waited for only at the end, and only for a limited time."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    events = EventFile(str(tmp_path / "pipe"), "f" * 32, timeout=0.05)
    for _ in range(3_000):
        events.emit(RunEnded(0))
    events.close()
    assert "the remaining events are lost" in caplog.text
    os.close(reader)


def test_events_after_the_end_are_dropped() -> None:
    """A thread that was left behind may finish its key; the result does not include it either."""
    action = create("a")
    planned = part_with(action, environment="dev", url="sandbox:")
    emitted: list[Event] = []
    progress = Progress(planned, emitted.append)
    failure = Failure("outcome_unknown", "")
    progress.start(action, failure)
    failed = Executed(planned, (Failed(action, failure),))
    assert progress.close() == failed
    before = list(emitted)
    assert [type(one).__name__ for one in before] == [
        "ActionBegun",
        "ActionEnded",
        "EnvironmentFinished",
    ]
    progress.start(action, failure)
    progress.count("create")
    progress.finish(Done(action, "id", None))
    assert progress.close() == failed
    assert emitted == before


def test_stderr_takes_events(tmp_path, run) -> None:
    """`/dev/stderr` is the stream of the process, with or without a terminal."""
    (tmp_path / "manifests" / "keys.yaml").write_text(
        "version: 1\nenvironment: dev\nkeys: [{name: a, expires: 9d}]\n"
    )
    command = [sys.executable, "-m", "provisioner", "plan", "--events", "/dev/stderr"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3, 4]
    assert "Plan: 1 to create" in done.stdout


def test_every_event_has_its_schema() -> None:
    """The schema is closed: a line of another kind, or with one more field, is not valid."""
    names = {one["properties"]["event"]["const"] for one in schemas.load("events")["oneOf"]}
    assert len(names) == 8
    valid = {
        "seq": 1,
        "time": "2026-11-23T04:00:00.000Z",
        "run": "84bdf360cda340f0aebc5aafb7fbfb71",
        "event": "run_ended",
        "exit_code": 0,
        "refusal": None,
    }
    LINE.validate(valid)
    assert not LINE.is_valid(valid | {"more": 1})
    assert not LINE.is_valid(valid | {"event": "other"})
