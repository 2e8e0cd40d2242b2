"""Plan files: what was reviewed is what is applied, or nothing is, and the reason is told."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import processes
import pytest
import time_machine
from builders import (
    NOW,
    command_sink,
    desired_key,
    environment_with,
    file_sink,
    observation_with,
    observed_key,
    plan_with,
    role_with,
    rotation_with,
    vault_sink,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from provisioner import schemas
from provisioner.errors.failure import Failure
from provisioner.model.observed import KnownRoles, NoRoles, ObservedKey
from provisioner.model.sink_content import ApiKeyToken, NotAToken, NoToken, Unavailable
from provisioner.plan import (
    PlanOptions,
    Revoke,
    Unobserved,
    digest,
    plan_environment,
    sealed,
    selected_keys,
)
from provisioner.planfile import (
    PlanFile,
    PlanFileInput,
    SavedOptions,
    UnreadablePlanFile,
    document,
    edited,
    not_as_reviewed,
    not_of_digest,
    read,
    text,
)
from provisioner.planfile.read import parsed
from provisioner.render.json import plan_document
from provisioner.sandbox import ApiKey, Dialect, Sandbox
from provisioner.sandbox import role as sandbox_role
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.errors.exceptions import StalePlanError
    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey

# --- Two machines --------------------------------------------------------------------------------

ENVIRONMENTS = """\
version: 1
environments:
  shop:
    url: URL
    auth: {session_token: "${TOKEN}"}
    owns: ["svc-*"]
    role: Admin
"""
KEYS = """\
version: 1
environment: shop
keys:
  - {name: svc-new, expires: 90d, role: Integrations, deliver: [{file: SHARED/new.env}]}
  - {name: svc-dated, expires: 2031-06-01}
  - name: svc-due
    expires: 90d
    rotate: {before: 30d, overlap: 48h}
    deliver: [{file: SHARED/due.env}]
  - {name: svc-lost, expires: 2031-01-01, deliver: [{file: SHARED/lost.env}]}
  - {name: svc-held, expires: 2031-01-01, deliver: [{file: SHARED/held.env}]}
  - {name: svc-kept, expires: 2031-01-01}
"""
KINDS = ["create", "update", "rotate", "deliver", "revoke"]


def within(days: float) -> str:
    return f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%S.000Z}"


def provision(root: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process of the command, somewhere else than its manifests."""
    command, *rest = map(str, arguments)
    return processes.provision(
        *(command, "-m", root / "manifests", *rest), cwd="/", env={**os.environ, **variables}
    )


@dataclass
class Stage:
    """A workspace in which each kind of action is to be done, and the reviewed plan of that."""

    sandbox: Sandbox
    root: Path
    rows: tuple[ApiKey, ...] = ()
    ready: dict[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def shared(self) -> Path:
        return self.root / "shared"

    @property
    def file(self) -> Path:
        return self.root / "plan.json"

    @property
    def plan(self) -> Any:
        return json.loads(self.file.read_text())

    @property
    def variables(self) -> dict[str, str]:
        return {"TOKEN": self.sandbox.session_token(seconds=3600)}

    def build(self, *options: str) -> None:
        """Writes the manifests, fills the workspace, plans."""
        self.shared.mkdir(parents=True)
        (self.root / "manifests").mkdir()
        here = {"URL": self.sandbox.url, "SHARED": self.shared.as_posix()}
        for name, content in (("environments", ENVIRONMENTS), ("keys", KEYS)):
            for word, meant in here.items():
                content = content.replace(word, meant)  # noqa: PLW2901 - it grows
            (self.root / "manifests" / f"{name}.yaml").write_text(content)
        names = ["svc-dated", "svc-lost", "svc-held", "svc-kept", "svc-gone", "ops-theirs"]
        self.sandbox.seed(names)
        self.sandbox.seed(["svc-due"], expires_at=within(days=10))
        self.hold("held")
        planned = provision(
            self.root, "plan", "--prune", "--out", self.file, *options, **self.variables
        )
        assert planned.returncode == 0, planned.stderr
        self.rows = self.sandbox.keys()
        self.ready = self.sinks()
        actions = self.plan["environments"][0]["actions"]
        assert sorted(one["action"] for one in actions) == sorted(KINDS)

    def reset(self) -> None:
        """The workspace and the sinks as they were when the plan was made."""
        self.sandbox.forget()
        self.sandbox.put(*self.rows)
        for file in self.shared.iterdir():
            file.unlink()
        for name, content in self.ready.items():
            (self.shared / name).write_bytes(content)

    def sinks(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.shared.iterdir()}

    def key(self, name: str) -> ApiKey:
        return next(key for key in self.sandbox.keys() if key.name == name)

    def change(self, which: str, **columns: str | None) -> None:
        """Someone changes a key by hand."""
        self.sandbox.put(dataclasses.replace(self.key(which), **columns))

    def hold(self, name: str) -> None:
        """A sink gets a good token of its key."""
        token = self.sandbox.token_of(self.key(f"svc-{name}").id)
        (self.shared / f"{name}.env").write_text(f"SVC_{name.upper()}={token}\n")

    def copied(self, root: Path) -> Path:
        """Another machine: the manifests and the plan file, and nothing else."""
        shutil.copytree(self.root / "manifests", root / "manifests")
        shutil.copy(self.file, root / "plan.json")
        return root

    def apply(self, root: Path, *arguments: str, **variables: str) -> tuple[int, Any, str]:
        done = provision(
            root,
            *("apply", root / "plan.json", "--format", "json", *arguments),
            **{**self.variables, **variables},
        )
        document = json.loads(done.stdout) if done.stdout else None
        if document is not None:
            valid("result", document)
        assert "Traceback" not in done.stderr
        return done.returncode, document, done.stderr


def valid(name: str, document: Any) -> Any:
    Draft202012Validator(
        schemas.load(name), format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)
    return document


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Dialect], Stage]]:
    """One stage a dialect, planned once and set back before each use."""
    made: dict[Dialect, Stage] = {}
    with ExitStack() as stack:

        def stage(dialect: Dialect) -> Stage:
            if dialect not in made:
                root = tmp_path_factory.mktemp(str(dialect))
                sandbox = stack.enter_context(Sandbox(root / "twenty.sqlite3", dialect))
                made[dialect] = Stage(sandbox, root)
                made[dialect].build()
            made[dialect].reset()
            return made[dialect]

        yield stage


def edit(root: Path, old: str, new: str, file: str = "keys") -> None:
    path = root / "manifests" / f"{file}.yaml"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def told_of(actions: list[Any]) -> list[Any]:
    """What of actions must be as reviewed: all but where the manifest says so."""
    skipped = {"manifest", "line", "status", "id", "record", "error"}
    return [{name: part for name, part in one.items() if name not in skipped} for one in actions]


CORE, CORE_1, LEGACY = Dialect.CORE, Dialect.CORE_1, Dialect.LEGACY

# What becomes of the workspace, of its sinks and then of the manifests between plan and apply: on
# which server, what happens, and what the refusal has to say.
MOVES: dict[str, tuple[Dialect, Callable[[Stage, Path], object], str]] = {
    "a key is made by hand": (
        LEGACY,
        lambda stage, _: stage.sandbox.seed(["svc-new"]),
        "'svc-new' is there meanwhile",
    ),
    "a key that was to be revoked is": (
        CORE_1,
        lambda stage, _: stage.change("svc-gone", revoked_at=within(0)),
        "was revoked or deleted meanwhile (to be done was revoke and is nothing)",
    ),
    "a kept key is deleted": (
        LEGACY,
        lambda stage, _: stage.sandbox.forget([stage.key("svc-kept").id]),
        "was revoked or deleted meanwhile (to be done was nothing and is create)",
    ),
    "a kept key has ended": (
        CORE,
        lambda stage, _: stage.change("svc-kept", expires_at=within(-1)),
        "'svc-kept' ",
    ),
    "the end of a kept key is moved": (
        CORE_1,
        lambda stage, _: stage.change("svc-kept", expires_at="2032-01-01T00:00:00.000Z"),
        "ended at 2031-01-01T00:00:00Z and now ends at 2032-01-01T00:00:00Z",
    ),
    "the end that was to be moved is": (
        LEGACY,
        lambda stage, _: stage.change("svc-dated", expires_at="2031-06-01T00:00:00.000Z"),
        "now ends at 2031-06-01T00:00:00Z (to be done was update and is nothing)",
    ),
    "a kept key has another role": (
        CORE,
        lambda stage, _: stage.change("svc-kept", role_id=stage.sandbox.role("Integrations").id),
        "had the role Admin and has Integrations",
    ),
    "a key that is due has a successor": (
        CORE_1,
        lambda stage, _: stage.sandbox.seed(["svc-due"], expires_at=f"{within(days=90)[:-4]}417Z"),
        "'svc-due' has another live key meanwhile",
    ),
    "another owned key that no manifest wants": (
        CORE,
        lambda stage, _: stage.sandbox.seed(["svc-more"]),
        "'svc-more' is there meanwhile",
    ),
    "a key is renamed": (
        LEGACY,
        lambda stage, _: stage.change("svc-gone", name="ops-gone"),
        "was renamed to 'ops-gone'",
    ),
    "a missing token is delivered": (
        CORE,
        lambda stage, _: stage.hold("lost"),
        "'svc-lost' has been delivered meanwhile",
    ),
    "a sink loses its token": (
        CORE_1,
        lambda stage, _: (stage.shared / "held.env").unlink(),
        "'svc-held' is not delivered as it was: token missing",
    ),
    "a sink holds something else": (
        LEGACY,
        lambda stage, _: (stage.shared / "held.env").write_text("SVC_HELD=password\n"),
        "'svc-held' is not delivered as it was: token invalid",
    ),
    "a role that is not there": (
        CORE,
        lambda _, root: edit(root, "role: Admin", "role: Nobody", "environments"),
        "'svc-due' cannot be done any more: role_unknown",
    ),
}  # fmt: skip

EDITS: dict[str, tuple[Dialect, Callable[[Stage, Path], object], str]] = {
    "the manifests ask for one more": (
        CORE,
        lambda _, root: edit(root, "keys:\n", "keys:\n  - {name: svc-x, expires: 9d}\n"),
        "the manifests ask for 'svc-x', and did not",
    ),
    "the manifests ask for one less": (
        CORE_1,
        lambda _, root: edit(root, "  - {name: svc-dated, expires: 2031-06-01}\n", ""),
        "the manifests do not ask for 'svc-dated' any more",
    ),
    "a lifetime": (
        LEGACY,
        lambda _, root: edit(root, "svc-new, expires: 90d", "svc-new, expires: 91d"),
        "'svc-new' otherwise: expires 90d is now 91d",
    ),
    "the depth": (
        CORE,
        lambda _, root: edit(root, "keys:\n", "depth: 2\nkeys:\n"),
        "'svc-new' otherwise: depth 1 is now 2",
    ),
    "a sink": (
        CORE_1,
        lambda _, root: edit(root, "new.env", "newer.env"),
        "'svc-new' otherwise: sinks",
    ),
    "the format of a sink": (
        LEGACY,
        lambda _, root: edit(root, "lost.env}", "lost.env, format: json}"),
        "'svc-lost' otherwise: sinks",
    ),
    "a rotation": (
        CORE,
        lambda _, root: edit(root, "overlap: 48h", "overlap: 24h"),
        "'svc-due' otherwise: rotate",
    ),
    "a protection": (
        CORE_1,
        lambda _, root: edit(root, "svc-kept, ", "svc-kept, protect: true, "),
        "'svc-kept' otherwise: protect False is now True",
    ),
    "what is owned": (
        LEGACY,
        lambda _, root: edit(root, '["svc-*"]', '["svc-d*"]', "environments"),
        "'svc-gone' is owned otherwise: `owns` was [svc-*] and is [svc-d*]",
    ),
    "the role of the environment": (
        CORE,
        lambda _, root: edit(root, "role: Admin", "role: Integrations", "environments"),
        "was Admin",
    ),
    "another environment": (
        CORE_1,
        lambda _, root: edit(root, "ments:\n", "ments:\n  b: {url: 'sandbox:'}\n", "environments"),
        "b: the environment is declared, and was not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("move", MOVES)
def test_what_moved_between_plan_and_apply_is_refused_by_name(
    move: str, stages: Callable[[Dialect], Stage], tmp_path: Path
) -> None:
    """Exit 6, what moved stands on stderr and in the result, and nothing was changed anywhere."""
    dialect, happen, reason = MOVES[move]
    stage = stages(dialect)
    root = stage.copied(tmp_path)
    happen(stage, root)
    refused(stage, reason, lambda: stage.apply(root))


@pytest.mark.parametrize("move", EDITS)
def test_manifests_that_moved_between_plan_and_apply_are_refused_by_name(
    move: str, stages: Callable[[Dialect], Stage], tmp_path: Path, run, monkeypatch
) -> None:
    """As what moved in the workspace."""
    dialect, happen, reason = EDITS[move]
    stage = stages(dialect)
    root = stage.copied(tmp_path)
    happen(stage, root)
    monkeypatch.setenv("TOKEN", stage.variables["TOKEN"])

    def apply() -> tuple[int, Any, str]:
        manifests, file = root / "manifests", root / "plan.json"
        code, out, err = run("apply", file, "-m", manifests, "--format", "json")
        return code, valid("result", json.loads(out)), err

    refused(stage, reason, apply)


def refused(stage: Stage, reason: str, apply: Callable[[], tuple[int, Any, str]]) -> None:
    before = stage.sandbox.keys(), stage.sinks()
    code, result, err = apply()
    assert (code, err.count("plan_stale: ")) == (6, 1), err
    assert reason in err
    assert (stage.sandbox.keys(), stage.sinks()) == before
    results = [one for part in result["environments"] for one in part["results"]]
    assert {one["status"] for one in results} <= {"skipped"}
    assert {one["error"]["code"] for one in results} <= {"plan_stale"}


def comments(root: Path) -> None:
    """Other lines, another order, Windows line ends, another file: nothing that counts."""
    path = root / "manifests" / "keys.yaml"
    head, _, keys = path.read_text().partition("keys:\n")
    first, *others = keys.split("  - ")[1:]
    moved = "".join(f"  - {each}" for each in (*others, first))
    path.unlink()
    content = f"# moved\n{head}\n\nkeys:\n{moved}".replace("svc-kept,", "svc-kept, description: x,")
    (path.parent / "other.yml").write_bytes(content.replace("\n", "\r\n").encode())


HARMLESS: dict[str, tuple[Dialect, Callable[[Stage, Path], object]]] = {
    "nothing": (CORE_1, lambda *_: None),
    "comments and order": (LEGACY, lambda _, root: comments(root)),
    "another unmanaged key": (CORE, lambda stage, _: stage.sandbox.seed(["ops-more"])),
    "an unmanaged key is gone": (
        CORE_1,
        lambda stage, _: stage.sandbox.forget([stage.key("ops-theirs").id]),
    ),
    "limits": (
        CORE,
        lambda _, root: edit(root, "    role", "    limits: {batch: 2}\n    role", "environments"),
    ),
    "the variable says the same": (LEGACY, lambda *_: None),
}  # fmt: skip


@pytest.mark.parametrize("move", HARMLESS)
def test_what_changes_no_action_lets_the_plan_be_applied_as_it_is(
    move: str, stages: Callable[[Dialect], Stage], tmp_path: Path
) -> None:
    """On another machine each action is done as it was reviewed, and a second time is refused."""
    dialect, happen = HARMLESS[move]
    stage = stages(dialect)
    root = stage.copied(tmp_path)
    happen(stage, root)
    variables = {"PROVISION_PRUNE": "1"} if "variable" in move else {}
    code, result, err = stage.apply(root, **variables)
    assert code == 0, err
    [reviewed], [done] = stage.plan["environments"], result["environments"]
    assert (result["digest"], result["created_at"]) == (
        stage.plan["digest"],
        stage.plan["created_at"],
    )
    order = {"key": lambda one: one["name"]}
    assert sorted(told_of(done["results"]), **order) == sorted(
        told_of(reviewed["actions"]), **order
    )
    assert {one["status"] for one in done["results"]} == {"done"}
    ends = {one["name"]: one["expires_at"] for one in reviewed["actions"]}
    live = [key for key in stage.sandbox.keys() if not key.revoked_at and not key.deleted_at]
    made = [key for key in live if key.id not in {row.id for row in stage.rows}]
    ours = {key.name: f"{key.expires_at[:19]}Z" for key in made if not key.name.startswith("ops-")}
    assert ours == {name: ends[name] for name in ("svc-new", "svc-due")}
    assert "svc-gone" not in {key.name for key in live}
    before = stage.sandbox.keys(), stage.sinks()
    code, _, err = stage.apply(root)
    assert (code, "plan_applied: " in err) == (6, True), err
    assert (stage.sandbox.keys(), stage.sinks()) == before


def test_a_role_of_the_same_label_that_is_another_one_is_refused(tmp_path: Path) -> None:
    """A label is what people review; the id says which role it was."""
    with Sandbox(tmp_path / "twenty.sqlite3", Dialect.CORE) as sandbox:
        stage = Stage(sandbox, tmp_path / "first")
        stage.build()
        old = sandbox.role("Integrations")
        sandbox.put_role(dataclasses.replace(old, wire={**old.wire, "label": "Former"}))
        new = sandbox_role("Integrations", api_keys=True, settings=True)
        sandbox.put_role(new)
        code, _, err = stage.apply(stage.copied(tmp_path / "second"))
        assert code == 6
        assert f"the role 'Integrations' is another one, {new.id}, and was {old.id}" in err
        assert sandbox.keys() == stage.rows


def test_the_file_follows_its_schema_and_holds_no_secret(
    stages: Callable[[Dialect], Stage], tmp_path: Path
) -> None:
    """Neither the credential nor a token in a sink; readable by others, for it is handed on."""
    stage = stages(CORE)
    valid("planfile", stage.plan)
    raw = stage.file.read_text()
    held = (stage.shared / "held.env").read_text().partition("=")[2].strip()
    assert held.count(".") == 2
    for secret in (held, stage.sandbox.password, stage.sandbox.email, "Bearer"):
        assert secret not in raw
    # Someone who names a key by the very token of the run does not get it published.
    token = stage.variables["TOKEN"]
    stage.sandbox.seed([token])
    root, variables = stage.copied(tmp_path), {"TOKEN": token}
    (root / "plan.json").unlink()
    planned = provision(root, "plan", "--prune", "--out", root / "plan.json", **variables)
    assert planned.returncode == 0, planned.stderr
    raw = (root / "plan.json").read_text()
    assert token not in raw
    assert "***" in raw
    valid("planfile", json.loads(raw))
    assert stage.apply(root, **variables)[0] == 0


# --- The embedded Twenty, in this process --------------------------------------------------------

EMBEDDED = "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin, owns: ['*']}\n"
TWO = "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys: [{name: a}, {name: b}]\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "environments.yaml").write_text(EMBEDDED)
    (folder / "keys.yaml").write_text(TWO)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"


def test_the_format_of_a_file_sink_is_part_of_the_digest(run, small) -> None:
    """The format that counts, whether `format` or the path says it."""

    def of(sink: str) -> str:
        (small / "keys.yaml").write_text(
            TWO.replace("{name: a}", f"{{name: a, deliver: [{{file: {sink}, variable: A}}]}}")
        )
        code, out, _ = run("plan", "-m", small, "--format", "json")
        assert code == 0
        return json.loads(out)["digest"]

    assert of("a.json") == of("a.json, format: json")
    assert of("a.json") != of("a.json, format: dotenv")
    assert of("a.txt") == of("a.txt, format: dotenv")
    assert of("a.txt") != of("a.txt, format: json")


def test_durations_count_from_the_plan_that_is_applied(run, small, file, tmp_path) -> None:
    """A key that is made two days later ends when the reviewed plan said."""
    with time_machine.travel(NOW, tick=True) as traveller:
        assert run("plan", "-m", small, "--out", file)[0] == 0
        traveller.shift(timedelta(days=2))
        assert run("apply", file, "-m", small)[0] == 0
    reviewed = json.loads(file.read_text())
    ends = {one["expires_at"] for one in reviewed["environments"][0]["actions"]}
    assert ends == {"2027-02-21T04:00:00Z"}
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        assert {key.expires_at[:19] for key in sandbox.keys()} == {"2027-02-21T04:00:00"}


def test_a_plan_whose_keys_would_have_ended_is_refused(run, small, file) -> None:
    """An old plan file makes no key that is dead from the start."""
    with time_machine.travel(NOW, tick=True) as traveller:
        assert run("plan", "-m", small, "--out", file)[0] == 0
        traveller.shift(timedelta(days=91))
        code, _, err = run("apply", file, "-m", small)
        assert (code, "'a' cannot be done any more: expiry_past" in err) == (6, True)


def test_a_plan_of_another_workspace_is_refused(run, small, file, tmp_path) -> None:
    """The embedded Twenty of another directory has the same url, and is another workspace."""
    assert run("plan", "-m", small, "--out", file)[0] == 0
    shutil.copytree(small, tmp_path / "elsewhere" / "manifests")
    code, _, err = run("apply", file, "-m", tmp_path / "elsewhere" / "manifests")
    assert code == 6
    assert "dev: it is another workspace, " in err
    with Sandbox(tmp_path / "elsewhere" / ".provision" / "dev.sqlite3") as sandbox:
        assert sandbox.keys() == ()


def test_a_plan_that_changes_nothing_can_be_applied(run, small, file) -> None:
    """Twice, too: there is nothing that could be done twice."""
    assert run("apply", "-m", small)[0] == 0
    assert run("plan", "-m", small, "--out", file)[0] == 0
    assert [run("apply", file, "-m", small)[0] for _ in range(2)] == [0, 0]


def test_an_environment_that_is_not_declared_any_more_is_named(run, small, file) -> None:
    """Whether the plan was of all environments or of this one."""
    both = EMBEDDED + "  lab: {url: 'sandbox:core-1', role: Admin}\n"
    (small / "environments.yaml").write_text(both)
    for options in ((), ("-e", "lab")):
        assert run("plan", "-m", small, "--out", file, *options)[0] == 0
        (small / "environments.yaml").write_text(EMBEDDED)
        code, _, err = run("apply", file, "-m", small)
        assert (code, "plan_stale: " in err, "lab" in err) == (6, True, True)
        (small / "environments.yaml").write_text(both)


def test_keys_that_the_plan_is_not_about_may_move(run, small, file) -> None:
    """With `--only` neither their manifests nor their keys are part of what was reviewed."""
    assert run("plan", "-m", small, "--only", "a", "--out", file)[0] == 0
    (small / "keys.yaml").write_text(TWO.replace("{name: b}", "{name: b, expires: 9d}"))
    code, out, _ = run("apply", file, "-m", small, "--format", "json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)["environments"][0]["results"]] == ["a"]


@pytest.mark.parametrize(
    "option",
    [
        *(("-e", "dev"), ("--only", "a"), ("--prune",), ("--dedupe",), ("--redeliver",)),
        *(("--max-revoke", "3"), ("--allow-protected",)),
    ],
)
def test_what_a_plan_file_carries_is_wrong_usage_beside_it(run, small, file, option) -> None:
    """Also where it says the same: the file is what was reviewed."""
    assert run("plan", "-m", small, "--out", file, *option)[0] == 0
    code, out, err = run("apply", file, "-m", small, *option)
    assert (code, out) == (64, "")
    assert "cannot be used with a plan file" in err
    assert run("apply", file, "-m", small)[0] == 0


def test_a_variable_that_says_something_else_is_wrong_usage(run, small, file, monkeypatch) -> None:
    """One that says the same is let pass, for it may be set for all commands of a pipeline."""
    assert run("plan", "-m", small, "-e", "dev", "--out", file)[0] == 0
    monkeypatch.setenv("PROVISION_PRUNE", "1")
    code, _, err = run("apply", file, "-m", small)
    assert (code, "PROVISION_PRUNE" in err) == (64, True)
    monkeypatch.setenv("PROVISION_PRUNE", "0")
    monkeypatch.setenv("PROVISION_ENVIRONMENT", "dev")
    assert run("apply", file, "-m", small)[0] == 0


def test_the_options_of_the_plan_are_those_of_the_apply(run, small, file, tmp_path) -> None:
    """What guards were told is carried too: the file alone is enough to revoke."""
    (tmp_path / ".provision").mkdir()
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        sandbox.seed(["old-1", "old-2"])
    dev = EMBEDDED.replace("owns:", "protect: true, guards: {max_revoke: 0}, owns:")
    (small / "environments.yaml").write_text(dev)
    told = ("--prune", "--max-revoke", "2", "--allow-protected", "--only", "old-*")
    assert run("plan", "-m", small, "--out", file, *told)[0] == 0
    code, out, err = run("apply", file, "-m", small, "--format", "json")
    assert code == 0, err
    [part] = json.loads(out)["environments"]
    assert part["summary"]["revoked"] == 2
    assert part["summary"]["created"] == 0


def test_a_plan_that_cannot_be_reviewed_is_not_written(run, small, file, tmp_path) -> None:
    """Refused, or with an environment that is not reached: no file, and an earlier one is gone."""
    assert run("plan", "-m", small, "--out", file)[0] == 0
    (tmp_path / ".provision").mkdir(exist_ok=True)
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        sandbox.seed([f"old-{number}" for number in range(9)])
    code, _, err = run("plan", "-m", small, "--prune", "--out", file)
    assert (code, "is not written: the plan is refused (too_many_revocations)" in err) == (5, True)
    assert not file.exists()
    dead = "  dead: {url: 'http://127.0.0.1:9', auth: {token: '${T}'}}\n"
    (small / "environments.yaml").write_text(EMBEDDED + dead)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T", "x" * 40)
        code, _, err = run("plan", "-m", small, "--out", file)
    assert code == 4
    assert "is not written: dead could not be looked at (" in err
    assert not file.exists()


def test_a_plan_that_was_stopped_is_not_written(small, file) -> None:
    """Half a look is no plan that someone could agree to."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        there = f"  there: {{url: '{url}', auth: {{session_token: '${{T}}'}}}}\n"
        (small / "environments.yaml").write_text(EMBEDDED + there)
        process = subprocess.Popen(
            [sys.executable, "-m", "provisioner", "plan", "-m", str(small), "--out", str(file)],
            env={**os.environ, "T": "x" * 40},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        with process, silent.accept()[0]:
            process.terminate()
            _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "is not written: the run was stopped" in err
    assert not file.exists()


def test_a_plan_with_keys_that_cannot_be_made_is_written_and_applied(run, small, file) -> None:
    """The others are made; both exit with 4."""
    (small / "keys.yaml").write_text(TWO.replace("{name: b}", "{name: b, role: Nobody}"))
    assert run("plan", "-m", small, "--out", file)[0] == 4
    code, out, _ = run("apply", file, "-m", small, "--format", "json")
    assert code == 4
    [part] = json.loads(out)["environments"]
    assert {one["name"]: one["status"] for one in part["results"]} == {"a": "done", "b": "failed"}


def test_a_server_that_is_down_confirms_nothing(run, small, file, tmp_path, monkeypatch) -> None:
    """What cannot be looked at is not told as moved; nothing is done and it can be tried again."""
    state = tmp_path / "twenty.sqlite3"
    with Sandbox(state) as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        there = f"  there: {{url: '{sandbox.url}', auth: {{session_token: '${{T}}'}}}}\n"
        (small / "environments.yaml").write_text(EMBEDDED + there)
        monkeypatch.setenv("T", sandbox.session_token(seconds=3600))
        assert run("plan", "-m", small, "--out", file)[0] == 0
    code, _, err = run("apply", file, "-m", small)
    assert (code, "plan_unconfirmed: there could not be looked at: " in err) == (6, True)
    planned = json.loads(file.read_text())["digest"]
    code, _, err = run("apply", "-m", small, "--digest", planned)
    assert (code, "plan_unconfirmed: there could not be looked at: " in err) == (6, True)
    with Sandbox(state, port=port):
        assert run("apply", file, "-m", small)[0] == 0


def test_a_digest_alone_is_held_to(run, small, file) -> None:
    """Applied where the plan has it, else 6; beside a plan file both have to agree."""
    _, out, _ = run("plan", "-m", small, "--format", "json")
    planned = json.loads(out)["digest"]
    assert run("plan", "-m", small, "--out", file)[0] == 0
    other = f"sha256:{'0' * 64}"
    code, _, err = run("apply", "-m", small, "--digest", other)
    assert (code, f"the digest is {planned}, and not {other}" in err) == (6, True)
    code, out, err = run("apply", file, "-m", small, "--digest", other)
    assert (code, out, f"is {planned}, not {other}" in err) == (6, "", True)
    assert run("list", "-m", small)[1] == "no keys\n"
    assert run("apply", "-m", small, "--digest", planned)[0] == 0
    assert run("list", "-m", small)[1] != "no keys\n"
    code, _, err = run("apply", file, "-m", small, "--digest", planned)
    # The keys of the apply in between end as its own moment has it, which may be the file's.
    assert (code, err.startswith(("plan_applied: ", "plan_stale: "))) == (6, True)


@pytest.mark.parametrize(
    "given", ["", "sha256:", "abc", f"sha256:{'A' * 64}", f" sha256:{'a' * 64}"]
)
def test_a_digest_that_is_none_is_wrong_usage(run, small, monkeypatch, given) -> None:
    """An empty one above all, as of a variable that a pipeline lost: nothing goes on unchecked."""
    assert run("apply", "-m", small, "--digest", given)[0] == 64
    monkeypatch.setenv("PROVISION_DIGEST", given)
    assert run("apply", "-m", small)[0] == 64
    assert run("list", "-m", small)[1] == "no keys\n"


def test_only_a_plan_file_is_written_over(run, small, file, tmp_path) -> None:
    """A manifest, a folder, a device stay as they are, and nothing is sent before that is known."""
    manifest = small / "keys.yaml"
    for target in (manifest, small, Path("/dev/null")):
        code, out, err = run("plan", "-m", small, "--out", target)
        assert (code, out, "file_exists: " in err) == (64, "", True)
    assert manifest.read_text() == TWO
    assert run("plan", "-m", small, "--out", "-")[0] == 64
    assert not (tmp_path / ".provision").exists()
    file.write_text("")
    link = tmp_path / "deep" / "link.json"
    link.parent.mkdir()
    link.symlink_to(file)
    assert [run("plan", "-m", small, "--out", link)[0] for _ in range(2)] == [0, 0]
    assert link.is_symlink()
    assert run("apply", file, "-m", small)[0] == 0


def test_a_plan_file_that_cannot_be_written_is_told_and_leaves_nothing(
    run, small, tmp_path
) -> None:
    """A folder that is a file, a full disk: exit 64, the plan is shown, no half of a file stays."""
    (tmp_path / "a").write_text("")
    code, out, err = run("plan", "-m", small, "--out", tmp_path / "a" / "plan.json")
    assert (code, "2 to create" in out, "not_writable: " in err) == (64, True, True)
    with pytest.MonkeyPatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        code, _, err = run("plan", "-m", small, "--out", tmp_path / "b" / "plan.json")
    assert (code, "no space left on device" in err) == (64, True)
    assert list((tmp_path / "b").iterdir()) == []


def test_invalid_manifests_are_told_before_a_plan_file_that_is_none(run, small, tmp_path) -> None:
    """Exit 3 comes before 6: what is wrong there no other plan file would mend."""
    file = tmp_path / "bad.json"
    file.write_text("[]")
    assert run("apply", file, "-m", small)[0] == 6
    (small / "more.yaml").write_text("[")
    assert run("apply", file, "-m", small)[0] == 3


def test_a_large_file_that_begins_otherwise_is_not_read_on(run, small, tmp_path) -> None:
    """Millions of values are nothing that a plan file could hold by chance."""
    file = tmp_path / "bad.json"
    file.write_bytes(b'{"x":[' + b"{}," * 2**20 + b"{}]}")
    code, _, err = run("apply", file, "-m", small)
    assert (code, "is no plan file" in err) == (6, True)


def test_a_variable_that_is_empty_is_none_beside_a_plan_file(run, small, tmp_path) -> None:
    """As a pipeline sets those that it has no value for; those that bound a run never are."""
    file = tmp_path / "plan.json"
    assert run("plan", "-m", small, "-e", "dev", "--out", file)[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVISION_ENVIRONMENT", "")
        assert run("apply", file, "-m", small)[0] == 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVISION_PRUNE", "")
        assert run("apply", file, "-m", small)[0] == 0


# --- Files that are none -------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_wrong_usage(run, small, tmp_path) -> None:
    """As any path that is typed wrong; a folder is no file either."""
    for path in (tmp_path / "none.json", small):
        code, out, err = run("apply", path, "-m", small)
        assert (code, out, "plan_unreadable: " in err, str(path) in err) == (64, "", True, True)


def test_a_foreign_or_damaged_file_is_named_and_nothing_is_sent(run, small, file, tmp_path) -> None:
    """Each with what is wrong with it, before any manifest is read."""
    assert run("plan", "-m", small, "--out", file)[0] == 0
    good = file.read_text()
    _, printed, _ = run("plan", "-m", small, "--format", "json")
    shutil.rmtree(tmp_path / ".provision")
    later = json.loads(good) | {"created_at": "2999-01-01T00:00:00Z"}
    bad = {
        "": "it is not JSON",
        "version: 1": "it is not JSON",
        "[" * 100_000: "is no plan file",
        "[]": "is no plan file",
        '{"format": 1}': "is no plan file",
        printed: "is no plan file but what `plan --format json` prints",
        good[:-20]: "it is not JSON",
        good.replace("90d", "99d"): "was changed or damaged since it was written",
        good.replace("planfile/v1", "planfile/v2"): "as provision/planfile/v2",
        resealed(later): "which has not come yet",
        resealed(json.loads(good) | {"more": 1}): "is damaged: the top breaks the rule",
    }
    for content, why in bad.items():
        file.write_text(content)
        code, out, err = run("apply", file, "-m", small)
        assert (code, out) == (6, ""), err
        assert file.as_posix() in err
        assert why in err
        assert ("plan_newer: " in err) == ("v2" in why)
    assert not (tmp_path / ".provision").exists()


def resealed(document: dict[str, Any]) -> str:
    """A plan file whose checksum is right, whatever it says."""
    content = {name: part for name, part in document.items() if name != "checksum"}
    return json.dumps({"checksum": sealed(content), **content})


def test_a_file_that_shows_other_actions_than_it_stands_for_is_refused(
    run, small, file, tmp_path
) -> None:
    """Nothing is done that a reviewer does not see there, whatever digest stands beside it."""
    assert run("plan", "-m", small, "--out", file)[0] == 0
    good = json.loads(file.read_text())
    digest = good["digest"]
    [environment] = good["environments"]
    [first, *others] = environment["actions"]
    for actions in (
        others,
        [first | {"name": "new-other"}, *others],
        [first | {"expires_at": "2030-01-01T00:00:00Z"}, *others],
        [first | {"sinks": ["file elsewhere.env A"]}, *others],
        [],
    ):
        file.write_text(resealed(good | {"environments": [environment | {"actions": actions}]}))
        code, out, err = run("apply", file, "-m", small, "--digest", digest, "--format", "json")
        assert (code, "plan_invalid: " in err, "it was edited" in err) == (6, True, True)
        assert valid("result", json.loads(out))["refusal"]["code"] == "plan_invalid"
    for changes in ({"url": "https://crm.example.com"}, {"workspace": "another"}):
        file.write_text(resealed(good | {"environments": [environment | changes]}))
        code, _, err = run("apply", file, "-m", small, "--digest", digest)
        assert (code, "plan_invalid: " in err) == (6, True)
    file.write_text(resealed(good))
    assert run("apply", file, "-m", small, "--digest", digest)[0] == 0


def test_a_file_that_calls_a_key_that_ends_otherwise_is_refused() -> None:
    """Its id alone tells a reviewer nothing."""
    one = made(keys=(key(1, "sa"),), asked=SavedOptions(prune=True))
    assert [type(action) for action in one.plan.environments[0].actions] == [Revoke]
    content = document(one)
    [environment] = content["environments"]
    [revoke] = environment["actions"]
    content["environments"] = [environment | {"actions": [revoke | {"name": "old-test"}]}]
    found = read(text(content).encode(), MOMENT)
    assert isinstance(found, PlanFile)
    assert edited(found, one)
    assert not edited(loaded(one), one)


def test_an_end_that_somebody_moved_makes_no_change_of_a_role_an_edited_one() -> None:
    """It is not given by it."""
    first, now = (
        made(
            desired_key("sa", role="Worker"),
            keys=(key(1, "sa", expires_at=MOMENT + timedelta(days=days)),),
        )
        for days in (60, 50)
    )
    assert first.plan.changes == 1
    assert first.plan.digest == now.plan.digest
    assert not edited(loaded(first), now)


def test_what_is_masked_on_one_machine_alone_makes_no_file_an_edited_one() -> None:
    """A variable of the one job may be a word of the other's plan."""
    one = made(desired_key("acme-production-eu-1"))
    before = loaded(one)
    Secret("acme-production-eu-1")
    assert loaded(one) != before
    assert not edited(before, one)


def test_a_header_that_is_the_name_of_an_environment_hides_none(
    run, file, tmp_path, monkeypatch
) -> None:
    """A plan file says on what it is applied, whatever is taken for a secret."""
    name = "acme-production-eu-1"
    monkeypatch.setenv("TENANT", name)
    folder = tmp_path / "manifests"
    folder.mkdir()
    with Sandbox(None, Dialect.CORE) as sandbox:
        monkeypatch.setenv("TOKEN", sandbox.session_token())
        (folder / "environments.yaml").write_text(
            f"version: 1\nenvironments: {{{name}: {{url: {sandbox.url}, role: Admin, "
            "auth: {session_token: '${TOKEN}'}, headers: {X-Tenant: '${TENANT}'}}}\n"
        )
        (folder / "keys.yaml").write_text(
            f"version: 1\nenvironment: {name}\nkeys: [{{name: a, expires: 90d}}]\n"
        )
        assert run("plan", "-m", folder, "-e", name, "--out", file)[0] == 0
        assert json.loads(file.read_text())["options"]["environments"] == [name]
        code, _, err = run("apply", file, "-m", folder, "--yes")
        assert code == 0, err
        code, _, err = run("apply", file, "-m", folder, "--yes")
        assert (code, "plan_applied: " in err) == (6, True)


# --- Any plan ------------------------------------------------------------------------------------

MOMENT = NOW + timedelta(milliseconds=250)
SHOP = environment_with(role="Admin", owns=("s*",))
ROLES = KnownRoles((role_with("Admin", id="r-1"), role_with("Worker", id="r-2")))
ADDRESSES = (
    file_sink(),
    file_sink("a.json", format="json"),
    command_sink(check=("check",)),
    vault_sink(),
)
DOWN = Failure("sink_unavailable", "The vault is down.")
NAMES = st.sampled_from(["sa", "sb", "sc", "other", "s\x1b[2J", "s\u2028\U0001f511", "s" * 300])


def key(number: int, name: str, **changes: Any) -> ObservedKey:
    fields = {
        "id": f"id-{number}",
        "expires_at": MOMENT + timedelta(days=60),
        "created_at": MOMENT - timedelta(days=30),
        "role": "Admin",
        "role_id": "r-1",
    }
    return observed_key(name, **(fields | changes))


WANTED = st.builds(
    desired_key,
    NAMES,
    expiry=st.sampled_from(["90d", "never", "2027-06-30", "2020-01-01"]),
    depth=st.sampled_from([0, 1, 2]),
    role=st.sampled_from([None, "Worker", "Nobody"]),
    deliver=st.lists(st.sampled_from(ADDRESSES), unique=True, max_size=3).map(tuple),
    rotation=st.sampled_from(
        [None, rotation_with(timedelta(days=70), timedelta(days=2), "70d 2d")]
    ),
    protect=st.booleans(),
)
LOOKS = st.lists(st.tuples(NAMES, st.integers(-5, 100)), max_size=6)
ASKED = st.builds(
    SavedOptions,
    environments=st.sampled_from([(), ("shop",)]),
    only=st.sampled_from([(), ("s*",), ("sa", "sb")]),
    prune=st.booleans(),
    dedupe=st.booleans(),
    redeliver=st.booleans(),
    max_revoke=st.sampled_from([None, 0, 7]),
    allow_protected=st.booleans(),
)


PLAIN = SavedOptions()


def against(draft: PlanFileInput, then: PlanFile) -> StalePlanError | None:
    """What `apply FILE` says of a plan file when it makes this plan."""
    same = draft.plan.digest == then.digest
    return None if same else not_as_reviewed("plan.json", then, draft)


def made(
    *wanted: DesiredKey,
    keys: tuple[ObservedKey, ...] = (),
    asked: SavedOptions = PLAIN,
    shop: Environment = SHOP,
    roles: Any = ROLES,
    later: timedelta = timedelta(),
    held: Any = None,
) -> PlanFileInput:
    look = observation_with(
        *keys, workspace="w-1", roles=roles, server_time=MOMENT + later, requests=2
    )
    part = plan_environment(shop, wanted, look, MOMENT, asked.options, sink_contents=held or {})
    about = dict(selected_keys({"shop": tuple(wanted)}, asked.options))
    plan = plan_with(part, created_at=MOMENT, digest=digest((part,), about))
    return PlanFileInput(plan, plan_document(plan), asked, ((shop, look),), about)


@st.composite
def plans(draw: st.DrawFn, asked: st.SearchStrategy[SavedOptions] = ASKED) -> PlanFileInput:
    wanted = draw(st.lists(WANTED, unique_by=lambda one: one.name, max_size=4))
    keys = tuple(
        key(number, name, expires_at=MOMENT + timedelta(days=days))
        for number, (name, days) in enumerate(draw(LOOKS))
    )
    roles = draw(st.sampled_from([ROLES, NoRoles()]))
    holdings = st.sampled_from(
        [NoToken(), NotAToken(), ApiKeyToken("id-0", None), Unavailable(DOWN)]
    )
    held = draw(st.dictionaries(st.sampled_from(ADDRESSES), holdings))
    shop = dataclasses.replace(SHOP, owns=draw(st.sampled_from([("s*",), ("sa",), ()])))
    return made(*wanted, keys=keys, asked=draw(asked), shop=shop, roles=roles, held=held)


PAIRS = ASKED.flatmap(lambda asked: st.tuples(*(plans(st.just(asked)),) * 2))


SCHEMA = Draft202012Validator(
    schemas.load("planfile"), format_checker=Draft202012Validator.FORMAT_CHECKER
)


def loaded(one: PlanFileInput) -> PlanFile:
    found = read(text(document(one)).encode(), MOMENT)
    assert isinstance(found, PlanFile), found
    return found


@settings(max_examples=60)
@given(plans())
def test_what_is_written_is_read_again(one: PlanFileInput) -> None:
    """Any plan: it keeps to the schema, comes back whole, and holds against itself."""
    raw = text(document(one))
    SCHEMA.validate(json.loads(raw))
    assert raw.isascii()
    found = loaded(one)
    assert found == parsed(document(one))
    assert (found.digest, found.asked) == (one.plan.digest, one.asked)
    assert found.created_at == MOMENT.replace(microsecond=0)
    assert against(one, found) is None
    assert not edited(found, one)


@settings(max_examples=80)
@given(PAIRS)
def test_another_plan_is_refused_with_a_reason_of_bounded_length(
    pair: tuple[PlanFileInput, PlanFileInput],
) -> None:
    """Where and only where the digests differ; never without something that moved."""
    one, two = pair
    why = against(two, loaded(one))
    assert (why is None) == (one.plan.digest == two.plan.digest)
    if why is not None:
        assert why.exit_code == 6
        assert len(why.message) < 4000
        assert "its digest is not" not in why.message
        assert "is handled otherwise" not in why.message


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_file_is_told_from_a_whole_one(data: st.DataObject) -> None:
    """Bytes changed, lost or added: it says the same as before, or it is not read at all."""
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        if not raw:
            break
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert", "end"])):
            case "change":
                raw[at] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 9))]
            case "insert":
                raw[at:at] = data.draw(st.binary(max_size=9))
            case _:
                del raw[at + 1 :]
    found = read(bytes(raw), MOMENT)
    assert isinstance(found, UnreadablePlanFile) or found == read(GOOD, MOMENT)


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=100)
@given(st.data())
def test_a_forged_file_never_breaks_the_command(data: st.DataObject) -> None:
    """Whatever stands in it under a right checksum: refused, or a plan that is compared."""
    forged = json.loads(GOOD)
    node: Any = forged
    while True:
        place = data.draw(
            st.sampled_from(list(node) if isinstance(node, dict) else range(len(node)))
        )
        inner = node[place]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        node = inner
    node[place] = data.draw(WILD)
    found = read(resealed(forged).encode(), MOMENT)
    if isinstance(found, PlanFile):
        assert SCHEMA.is_valid(json.loads(resealed(forged)))
        other = made(desired_key("else"))
        assert against(other, found) is not None
    else:
        assert found.why


@settings(max_examples=60)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_no_plan_file(raw: bytes) -> None:
    """And no exception."""
    assert isinstance(read(raw, MOMENT), UnreadablePlanFile)


GOOD = text(
    document(
        made(
            desired_key("sa", deliver=ADDRESSES),
            desired_key("sb", expiry="2027-06-30"),
            keys=(key(1, "sb"), key(2, "sold")),
            asked=SavedOptions(prune=True, only=("s*",)),
        )
    )
).encode()


# --- What the time alone moves -------------------------------------------------------------------


def reason(then: PlanFileInput, now: PlanFileInput) -> str:
    why = against(now, loaded(then))
    assert why is not None
    return why.message


def test_time_alone_makes_a_plan_stale_and_is_named() -> None:
    """A key ends, a rotation falls due, an overlap is over: nobody moved anything."""
    soon = key(1, "sa", expires_at=MOMENT + timedelta(days=1))
    later = timedelta(days=2)
    told = reason(
        made(desired_key("sa"), keys=(soon,)), made(desired_key("sa"), keys=(soon,), later=later)
    )
    assert (
        "'sa' (id-1) has ended at 2026-11-24T04:00:00Z (to be done was nothing and is create)"
        in told
    )
    rotated = desired_key(
        "sa", deliver=ADDRESSES[:1], rotation=rotation_with(timedelta(days=59), later, "59d 2d")
    )
    held = {ADDRESSES[0]: ApiKeyToken("id-1", None)}
    before = made(rotated, keys=(key(1, "sa"),), held=held)
    after = made(rotated, keys=(key(1, "sa"),), held=held, later=later)
    assert "'sa' is due for its successor meanwhile" in reason(before, after)
    rotated = rotated._replace(rotation=rotation_with(timedelta(days=9), later, "9d 2d"))
    old = key(
        2, "sa", created_at=MOMENT - timedelta(days=50), expires_at=MOMENT + timedelta(days=9)
    )
    both = (old, key(1, "sa", created_at=MOMENT))
    before = made(rotated, keys=both, held=held)
    after = made(rotated, keys=both, held=held, later=later)
    assert "'sa' has been followed by its successor for its overlap" in reason(before, after)


def test_what_can_be_done_again_is_named() -> None:
    """A key that was planned as one that cannot be made, and whose role is there now."""
    wanted = desired_key("sa", role="Worker")
    before = made(wanted, roles=KnownRoles(ROLES.roles[:1]))
    assert "'sa' can be done now, and could not" in reason(before, made(wanted))
    assert "'sa' cannot be done any more: role_unknown" in reason(
        made(wanted), made(wanted, roles=KnownRoles(ROLES.roles[:1]))
    )


def test_a_plan_of_another_version_says_so_where_nothing_else_moved() -> None:
    """A digest that another version computes otherwise is not told as a move."""
    one = made(desired_key("sa"))
    other = dataclasses.replace(loaded(one), version="0.0.1", digest=f"sha256:{'0' * 64}")
    told = not_as_reviewed("plan.json", other, one).message
    assert "it was made by provision 0.0.1, and this is" in told
    same = dataclasses.replace(other, version=loaded(one).version)
    told = not_as_reviewed("plan.json", same, one).message
    assert "its digest is not that of a plan made now" in told


def test_many_moves_are_counted_and_no_environment_is_hidden_by_another() -> None:
    """Eight are told, the first of each environment before the second of any."""
    many = tuple(desired_key(f"s{number:03}") for number in range(300))
    parts = [Unobserved("lost", "https://lost", Failure("timeout", "x"))]
    one, two = made(*many), made(*many[:5], keys=(key(1, "s001"),))
    plan = dataclasses.replace(two.plan, environments=(*two.plan.environments, *parts), digest="x")
    now = dataclasses.replace(two, plan=plan, published=plan_document(plan))
    told = not_as_reviewed("p", loaded(one), now)
    assert told.code == "plan_stale"
    assert "lost: the environment is declared, and was not" in told.message
    assert told.message.endswith("and 289 more.")
    assert told.message.count("; ") == 8


def test_the_digest_of_a_plan_says_all_that_is_reviewed() -> None:
    """Rotation, protection, the role's id and the end of a delivered token change it."""
    rotation = rotation_with(timedelta(days=70), timedelta(days=2), "70d 2d")
    address = ADDRESSES[:1]
    lost = {address[0]: NoToken()}
    other = KnownRoles((role_with("Admin", id="r-9"),))
    moved = key(1, "sa", expires_at=MOMENT + timedelta(days=61))
    every = [
        made(desired_key("sa")),
        made(desired_key("sa", rotation=rotation)),
        made(desired_key("sa", rotation=dataclasses.replace(rotation, written="70d 3d"))),
        made(desired_key("sa", protect=True)),
        made(desired_key("sa"), roles=other),
        made(desired_key("sa", deliver=address), keys=(key(1, "sa"),), held=lost),
        made(desired_key("sa", deliver=address), keys=(moved,), held=lost),
    ]
    digests = [one.plan.digest for one in every]
    assert len(set(digests)) == len(digests)
    assert not_of_digest(digests[0], every[0].plan) is None
    told = not_of_digest(digests[1], every[0].plan)
    assert told is not None
    assert (told.code, told.exit_code) == ("digest_differs", 6)


def test_a_role_that_is_called_otherwise_changes_no_move_of_an_end() -> None:
    """It is not given: the same is done, and the file that shows its old name was not edited."""
    one = key(1, "sa")
    renamed = KnownRoles((role_with("Owner", id="r-1"), ROLES.roles[1]))
    shop = dataclasses.replace(SHOP, role="r-1")
    first = made(desired_key("sa", expiry="2027-06-30"), keys=(one,), shop=shop)
    now = made(
        desired_key("sa", expiry="2027-06-30"),
        keys=(dataclasses.replace(one, role="Owner"),),
        roles=renamed,
        shop=shop,
    )
    assert first.plan.changes == 1
    assert first.plan.digest == now.plan.digest
    assert not edited(loaded(first), now)


def test_secrets_are_masked_in_a_file_that_is_whole_all_the_same() -> None:
    """Its checksum is of what stands there, so that the mask is no damage."""
    Secret("a-secret-of-thirty-signs-or-so")
    one = made(desired_key("sa"), keys=(key(1, "sa a-secret-of-thirty-signs-or-so"),))
    raw = text(document(one))
    assert "thirty" not in raw
    found = read(raw.encode(), MOMENT)
    assert isinstance(found, PlanFile)
    assert against(one, found) is None
    assert PlanOptions() == SavedOptions().options
