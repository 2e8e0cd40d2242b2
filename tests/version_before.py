"""Records the output of this version, so that the next version can be compared with it.

    PYTHONPATH=tests python -m version_before

writes `recordings/version-before/`: the state of embedded workspaces, and for each of them the
exit codes, the JSON and the plan file that this version writes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import time_machine
from sandbox_control import Dialect, Sandbox

from provisioner.cli import main

HERE = Path(__file__).parent
EXAMPLES = HERE / "examples" / "valid"
RECORDINGS = HERE / "recordings" / "version-before"

NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)
"""The time of all runs; timestamps within one hour count as equal."""

WORKSPACES = {"core": Dialect.CORE, "core-1": Dialect.CORE_1, "legacy": Dialect.LEGACY}

ENVIRONMENT = """\
version: 1
environments:
  shop:
    url: "sandbox:DIALECT"
    owns: ["svc-*"]
    role: Admin
"""
KEYS = """\
version: 1
environment: shop
depth: 2
keys:
  - {name: svc-new, expires: 90d, role: Integrations, deliver: [{file: secrets/new.env}]}
  - {name: svc-dated, expires: 2031-06-01}
  - name: svc-due
    expires: 90d
    rotate: {before: 30d, overlap: 48h}
    deliver: [{file: secrets/due.json, format: json}]
  - {name: svc-lost, expires: 2031-01-01, deliver: [{file: secrets/lost.env}]}
  - {name: svc-held, expires: 2031-01-01, deliver: [{file: secrets/held.env}], protect: true}
  - {name: svc-kept, expires: 2031-01-01}
  - {name: svc-twice, expires: 2031-01-01}
  - {name: svc-far, expires: 90d, deliver: [{command: [cat]}]}
"""

ACTIONS = (
    ("plan", "--prune", "--format", "json", "--detailed-exitcode"),
    ("plan", "--dedupe", "--only", "svc-[a-k]*", "--format", "json"),
    ("plan", "--redeliver", "--format", "json"),
    ("list", "--format", "json"),
    ("report", "--format", "json"),
)
"""Read-only commands, run on a workspace that needs every kind of action."""

_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_TIMESTAMP = re.compile(r"\b(\d{4}-\d\d-\d\dT\d\d):\d\d:\d\d(?:\.\d+)?Z")
_ADDED = frozenset({"description", "owner", "ticket", "upcoming"})
"""Fields that this version adds."""

_ADDED_TO_REPORT = frozenset({"sinks", "manifest", "line"})
"""The same for the keys of a report."""

_SENTENCES = frozenset({"message", "hint", "remedy", "notes"})
"""Fields with texts for people, whose wording may change between versions."""


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run a command in a folder at noon; return its exit code and stdout."""
    before, stdout = Path.cwd(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    os.chdir(folder)
    try:
        with (
            time_machine.travel(NOW, tick=True),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")),
        ):
            code = main([*arguments])
            stdout.seek(0)
            return code, stdout.read()
    finally:
        os.chdir(before)


def comparable(document: Any, known: frozenset[str] = frozenset()) -> Any:
    """Return a JSON document without texts for people, minutes and random ids."""
    match document:
        case dict():
            unknown = _SENTENCES | _ADDED
            if "rotation_at" in document:
                unknown |= _ADDED_TO_REPORT
            return {
                name: comparable(value, known)
                for name, value in document.items()
                if name not in unknown
            }
        case list():
            return [comparable(value, known) for value in document]
        case "no_sink":
            return "none"  # the value of `delivered` before this version
        case str():
            text = _TIMESTAMP.sub(r"\1:00:00Z", document)
            return _ID.sub(lambda found: found[0] if found[0] in known else "ID", text)
        case _:
            return document


def stage(folder: Path, workspace: str) -> frozenset[str]:
    """Write manifests, sinks and the recorded state to a folder; return the recorded ids."""
    (folder / "manifests").mkdir(parents=True)
    (folder / "secrets").mkdir()
    declared = ENVIRONMENT.replace("DIALECT", "" if workspace == "core" else workspace)
    (folder / "manifests" / "environments.yaml").write_text(declared)
    (folder / "manifests" / "keys.yaml").write_text(KEYS)
    state = folder / ".provision" / "shop.sqlite3"
    known = restore(state, workspace)
    with Sandbox(state, WORKSPACES[workspace]) as sandbox:
        key = next(key for key in sandbox.keys() if key.name == "svc-held")
        token = sandbox.token_of(key.id)
    (folder / "secrets" / "held.env").write_text(f"SVC_HELD={token}\n")
    return known


def restore(state: Path, workspace: str) -> frozenset[str]:
    """Write the recorded state of a workspace to a file; return the ids in it."""
    dump = (RECORDINGS / f"{workspace}.sql").read_text()
    state.parent.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(state)) as database:
        database.executescript(dump)
    return frozenset(_ID.findall(dump))


def seed(workspace: str) -> None:
    """Record, as SQL, the state of a workspace that needs every kind of action."""
    with tempfile.TemporaryDirectory() as folder, time_machine.travel(NOW, tick=True):
        state = Path(folder) / "state"
        with Sandbox(state, WORKSPACES[workspace]) as sandbox:
            sandbox.seed(["svc-dated", "svc-lost", "svc-held", "svc-kept", "svc-gone", "ops-x"])
            sandbox.seed(["svc-due"], expires_at="2027-03-11T00:00:00.000Z")
            sandbox.seed(["svc-twice", "svc-twice"])
        with contextlib.closing(sqlite3.connect(state)) as database:
            dump = "\n".join(database.iterdump())
            version = database.execute("PRAGMA user_version").fetchone()[0]
    text = f"PRAGMA user_version = {version};\n{dump}\n"
    (RECORDINGS / f"{workspace}.sql").write_text(text)


def record_commands(folder: Path, workspace: str) -> dict[str, Any]:
    """Return the exit code and the JSON of each command in `ACTIONS`."""
    known = stage(folder, workspace)
    answers = {}
    for command in ACTIONS:
        code, out = run(folder, *command)
        answers[" ".join(command)] = [code, comparable(json.loads(out), known)]
    return answers


def record_plans(folder: Path) -> dict[str, Any]:
    """Return exit code and JSON of `plan` for each valid example, on one recorded state."""
    answers = {}
    names = ("staging", "production", "rotated", "strict")
    declared = {name: {"url": "sandbox:", "role": "Admin", "owns": ["svc-*"]} for name in names}
    environments = json.dumps({"version": 1, "environments": declared})
    for example in sorted(EXAMPLES.iterdir()):
        if example.suffix not in {".yaml", ".json"}:
            continue
        root = folder / example.name
        (root / "manifests").mkdir(parents=True)
        (root / "manifests" / "environments.yaml").write_text(environments)
        shutil.copy(example, root / "manifests")
        for name in names:
            known = restore(root / ".provision" / f"{name}.sqlite3", "core")
        code, out = run(root, "plan", "--format", "json", "--no-programs")
        answers[example.name] = [code, comparable(json.loads(out), known)]
    return answers


def record() -> None:
    """Write all recordings with this version."""
    shutil.rmtree(RECORDINGS, ignore_errors=True)
    RECORDINGS.mkdir(parents=True)
    for workspace in WORKSPACES:
        seed(workspace)
        with tempfile.TemporaryDirectory() as folder:
            _write(f"{workspace}.json", record_commands(Path(folder) / "all", workspace))
            root = Path(folder) / "file"
            stage(root, workspace)
            file = RECORDINGS / f"{workspace}.planfile.json"
            code, _ = run(root, "plan", "--prune", "--out", str(file))
            assert code == 0
    with tempfile.TemporaryDirectory() as folder:
        _write("examples.json", record_plans(Path(folder)))


def _write(name: str, document: object) -> None:
    (RECORDINGS / name).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    record()
    sys.exit()
