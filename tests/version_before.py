"""What a version writes, so that the next one can be compared with it.

    PYTHONPATH=tests python -m version_before

writes `recordings/version-before/`: for each example the exit code, the JSON and the plan file of
the version that runs it, and the state of the embedded workspaces that they follow from.
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

from provisioner.cli import main
from provisioner.sandbox import Dialect, Sandbox

HERE = Path(__file__).parent
EXAMPLES = HERE / "examples" / "valid"
RECORDINGS = HERE / "recordings" / "version-before"

NOON = datetime(2027, 3, 1, 12, tzinfo=UTC)
"""When it is: moments of one hour count as equal."""

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
"""Commands that change nothing, in a workspace in which each kind of action is to be done."""

_ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_MOMENT = re.compile(r"\b(\d{4}-\d\d-\d\dT\d\d):\d\d:\d\d(?:\.\d+)?Z")
_SENTENCES = frozenset({"message", "hint", "remedy", "notes"})
"""Of a document: what is told to people, who are told better by each version."""


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run a command in a folder at noon; return its exit code and stdout."""
    before, stdout = Path.cwd(), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    os.chdir(folder)
    try:
        with (
            time_machine.travel(NOON, tick=True),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")),
        ):
            code = main([*arguments])
            stdout.seek(0)
            return code, stdout.read()
    finally:
        os.chdir(before)


def comparable(document: Any, known: frozenset[str] = frozenset()) -> Any:
    """Return a JSON document without its sentences, minutes and ids that are made by chance."""
    match document:
        case dict():
            return {
                name: comparable(value, known)
                for name, value in document.items()
                if name not in _SENTENCES
            }
        case list():
            return [comparable(value, known) for value in document]
        case str():
            text = _MOMENT.sub(r"\1:00:00Z", document)
            return _ID.sub(lambda found: found[0] if found[0] in known else "ID", text)
        case _:
            return document


def stage(folder: Path, workspace: str) -> frozenset[str]:
    """Fill a folder with manifests, sinks and the recorded state; return the ids of that."""
    (folder / "manifests").mkdir(parents=True)
    (folder / "secrets").mkdir()
    declared = ENVIRONMENT.replace("DIALECT", "" if workspace == "core" else workspace)
    (folder / "manifests" / "environments.yaml").write_text(declared)
    (folder / "manifests" / "keys.yaml").write_text(KEYS)
    state = folder / ".provision" / "shop.sqlite3"
    known = restore(state, workspace)
    with Sandbox(state, WORKSPACES[workspace]) as sandbox:
        held = next(key for key in sandbox.keys() if key.name == "svc-held")
        token = sandbox.token_of(held.id)
    (folder / "secrets" / "held.env").write_text(f"SVC_HELD={token}\n")
    return known


def restore(state: Path, workspace: str) -> frozenset[str]:
    """Write the recorded state of a workspace; return the ids in it."""
    dump = (RECORDINGS / f"{workspace}.sql").read_text()
    state.parent.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(state)) as database:
        database.executescript(dump)
    return frozenset(_ID.findall(dump))


def seed(workspace: str) -> None:
    """Write the state of a workspace in which each kind of action is to be done, as SQL."""
    with tempfile.TemporaryDirectory() as folder, time_machine.travel(NOON, tick=True):
        state = Path(folder) / "state"
        with Sandbox(state, WORKSPACES[workspace]) as sandbox:
            sandbox.seed(["svc-dated", "svc-lost", "svc-held", "svc-kept", "svc-gone", "ops-x"])
            sandbox.seed(["svc-due"], expires_at="2027-03-11T00:00:00.000Z")
            sandbox.seed(["svc-twice", "svc-twice"])
            sandbox.api_token  # noqa: B018 - its key is made when it is asked for
        with contextlib.closing(sqlite3.connect(state)) as database:
            dump = "\n".join(database.iterdump())
            version = database.execute("PRAGMA user_version").fetchone()[0]
    text = f"PRAGMA user_version = {version};\n{dump}\n"
    (RECORDINGS / f"{workspace}.sql").write_text(text)


def observed(folder: Path, workspace: str) -> dict[str, Any]:
    """Return what each command of `ACTIONS` answers."""
    known = stage(folder, workspace)
    answers = {}
    for command in ACTIONS:
        code, out = run(folder, *command)
        answers[" ".join(command)] = [code, comparable(json.loads(out), known)]
    return answers


def planned(folder: Path) -> dict[str, Any]:
    """Return what `plan` says of each valid example, on workspaces of one recorded state."""
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
    """Write all of it, in the words of this version."""
    shutil.rmtree(RECORDINGS, ignore_errors=True)
    RECORDINGS.mkdir(parents=True)
    for workspace in WORKSPACES:
        seed(workspace)
        with tempfile.TemporaryDirectory() as folder:
            _write(f"{workspace}.json", observed(Path(folder) / "all", workspace))
            root = Path(folder) / "file"
            stage(root, workspace)
            file = RECORDINGS / f"{workspace}.planfile.json"
            code, _ = run(root, "plan", "--prune", "--out", str(file))
            assert code == 0
    with tempfile.TemporaryDirectory() as folder:
        _write("examples.json", planned(Path(folder)))


def _write(name: str, document: object) -> None:
    (RECORDINGS / name).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    record()
    sys.exit()
