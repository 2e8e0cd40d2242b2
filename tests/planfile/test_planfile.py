"""Plan files: `apply` carries out the reviewed plan or nothing, and says why."""

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
from typing import TYPE_CHECKING, Any, NamedTuple

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
from sandbox_control import ApiKey, Dialect, Sandbox
from sandbox_control import role as sandbox_role

from provisioner import schemas
from provisioner.errors.failure import Failure
from provisioner.model.observed import KnownRoles, NoRoles, ObservedKey
from provisioner.model.sink_content import ApiKeyToken, NotAToken, NoToken, Unavailable
from provisioner.plan import (
    GuardOverrides,
    PlanOptions,
    Revoke,
    Unobserved,
    digest,
    json_digest,
    plan_environment,
    selected_keys,
)
from provisioner.planfile.compare import digest_mismatch, stale_plan, was_edited
from provisioner.planfile.model import PlanFile, PlanFileInput
from provisioner.planfile.read import UnreadablePlanFile, parse_document, read
from provisioner.planfile.write import document, text
from provisioner.reconcile.proposal import (
    ObservedEnvironment,
    PlannedEnvironment,
    PlanRequest,
    Proposal,
)
from provisioner.render.outcome.json import plan_document
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
    """Run the command in a process whose working directory is not that of the manifests."""
    command, *rest = map(str, arguments)
    return processes.provision(
        *(command, "-m", root / "manifests", *rest), cwd="/", env={**os.environ, **variables}
    )


@dataclass
class Stage:
    """A workspace that needs an action of each kind, and the reviewed plan for it."""

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
        """Write the manifests, fill the workspace, and plan."""
        self.shared.mkdir(parents=True)
        (self.root / "manifests").mkdir()
        here = {"URL": self.sandbox.url, "SHARED": self.shared.as_posix()}
        for name, content in (("environments", ENVIRONMENTS), ("keys", KEYS)):
            for placeholder, value in here.items():
                content = content.replace(placeholder, value)  # noqa: PLW2901 - replaced step by step
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
        """Restore the workspace and the sinks as they were for the plan."""
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
        """Change a key by hand."""
        self.sandbox.put(dataclasses.replace(self.key(which), **columns))

    def hold(self, name: str) -> None:
        """Write a good token of its key to a sink."""
        token = self.sandbox.token_of(self.key(f"svc-{name}").id)
        (self.shared / f"{name}.env").write_text(f"SVC_{name.upper()}={token}\n")

    def copied(self, root: Path) -> Path:
        """Copy only the manifests and the plan file, as for another machine."""
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
    """Return a function for the stage of a dialect, planned once and reset before each use."""
    built: dict[Dialect, Stage] = {}
    with ExitStack() as stack:

        def stage(dialect: Dialect) -> Stage:
            if dialect not in built:
                root = tmp_path_factory.mktemp(str(dialect))
                sandbox = stack.enter_context(Sandbox(root / "twenty.sqlite3", dialect))
                built[dialect] = Stage(sandbox, root)
                built[dialect].build()
            built[dialect].reset()
            return built[dialect]

        yield stage


def edit(root: Path, old: str, new: str, file: str = "keys") -> None:
    path = root / "manifests" / f"{file}.yaml"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def reviewed_fields(actions: list[Any]) -> list[Any]:
    """Return the fields of actions that must be as reviewed, without positions and results."""
    skipped = {"manifest", "line", "status", "id", "record", "error"}
    return [{name: part for name, part in one.items() if name not in skipped} for one in actions]


CORE, CORE_1, LEGACY = Dialect.CORE, Dialect.CORE_1, Dialect.LEGACY

# Changes of the workspace, its sinks and the manifests between plan and apply: the server, the
# change, and a part of the message.
CHANGES: dict[str, tuple[Dialect, Callable[[Stage, Path], object], str]] = {
    "a key is created by hand": (
        LEGACY,
        lambda stage, _: stage.sandbox.seed(["svc-new"]),
        "'svc-new' now exists (",
    ),
    "a planned revocation was done": (
        CORE_1,
        lambda stage, _: stage.change("svc-gone", revoked_at=within(0)),
        "was revoked or deleted (planned: revoke; now: no change)",
    ),
    "a kept key is deleted": (
        LEGACY,
        lambda stage, _: stage.sandbox.forget([stage.key("svc-kept").id]),
        "was revoked or deleted (planned: no change; now: create)",
    ),
    "a kept key expired": (
        CORE,
        lambda stage, _: stage.change("svc-kept", expires_at=within(-1)),
        "'svc-kept' ",
    ),
    "the expiry of a kept key changed": (
        CORE_1,
        lambda stage, _: stage.change("svc-kept", expires_at="2032-01-01T00:00:00.000Z"),
        "had its expiry changed from 2031-01-01T00:00:00Z to 2032-01-01T00:00:00Z",
    ),
    "a planned update of the expiry was done": (
        LEGACY,
        lambda stage, _: stage.change("svc-dated", expires_at="2031-06-01T00:00:00.000Z"),
        "to 2031-06-01T00:00:00Z (planned: update; now: no change)",
    ),
    "a kept key has another role": (
        CORE,
        lambda stage, _: stage.change("svc-kept", role_id=stage.sandbox.role("Integrations").id),
        "had its role changed from Admin to Integrations",
    ),
    "a due key has a successor": (
        CORE_1,
        lambda stage, _: stage.sandbox.seed(["svc-due"], expires_at=f"{within(days=90)[:-4]}417Z"),
        "'svc-due' has another live key (",
    ),
    "another owned key without a manifest": (
        CORE,
        lambda stage, _: stage.sandbox.seed(["svc-more"]),
        "'svc-more' now exists (",
    ),
    "a key is renamed": (
        LEGACY,
        lambda stage, _: stage.change("svc-gone", name="ops-gone"),
        "was renamed to 'ops-gone'",
    ),
    "a missing token was delivered": (
        CORE,
        lambda stage, _: stage.hold("lost"),
        "'svc-lost' has been delivered",
    ),
    "a sink loses its token": (
        CORE_1,
        lambda stage, _: (stage.shared / "held.env").unlink(),
        "'svc-held' must be delivered again: token missing",
    ),
    "a sink holds something else": (
        LEGACY,
        lambda stage, _: (stage.shared / "held.env").write_text("SVC_HELD=password\n"),
        "'svc-held' must be delivered again: token invalid",
    ),
    "a role that does not exist": (
        CORE,
        lambda _, root: edit(root, "role: Admin", "role: Nobody", "environments"),
        "'svc-due' is now blocked: role_unknown",
    ),
}  # fmt: skip

EDITS: dict[str, tuple[Dialect, Callable[[Stage, Path], object], str]] = {
    "the manifests declare another key": (
        CORE,
        lambda _, root: edit(root, "keys:\n", "keys:\n  - {name: svc-x, expires: 9d}\n"),
        "the manifests now declare 'svc-x'",
    ),
    "the manifests lack a key": (
        CORE_1,
        lambda _, root: edit(root, "  - {name: svc-dated, expires: 2031-06-01}\n", ""),
        "the manifests no longer declare 'svc-dated'",
    ),
    "a lifetime": (
        LEGACY,
        lambda _, root: edit(root, "svc-new, expires: 90d", "svc-new, expires: 91d"),
        "changed 'svc-new': expires from 90d to 91d",
    ),
    "the depth": (
        CORE,
        lambda _, root: edit(root, "keys:\n", "depth: 2\nkeys:\n"),
        "changed 'svc-new': depth from 1 to 2",
    ),
    "a sink": (
        CORE_1,
        lambda _, root: edit(root, "new.env", "newer.env"),
        "changed 'svc-new': sinks",
    ),
    "the format of a sink": (
        LEGACY,
        lambda _, root: edit(root, "lost.env}", "lost.env, format: json}"),
        "changed 'svc-lost': sinks",
    ),
    "a rotation": (
        CORE,
        lambda _, root: edit(root, "overlap: 48h", "overlap: 24h"),
        "changed 'svc-due': rotate",
    ),
    "a protection": (
        CORE_1,
        lambda _, root: edit(root, "svc-kept, ", "svc-kept, protect: true, "),
        "changed 'svc-kept': protect from False to True",
    ),
    "the owned names": (
        LEGACY,
        lambda _, root: edit(root, '["svc-*"]', '["svc-d*"]', "environments"),
        "'svc-gone' is affected by `owns`, which changed from [svc-*] to [svc-d*]",
    ),
    "the ignored names": (
        LEGACY,
        lambda _, root: edit(root, "owns:", "ignore: [svc-g*]\n    owns:", "environments"),
        "'svc-gone' is affected by `ignore`, which changed from [] to [svc-g*]",
    ),
    "the role of the environment": (
        CORE,
        lambda _, root: edit(root, "role: Admin", "role: Integrations", "environments"),
        "changed from Admin to Integrations",
    ),
    "another environment": (
        CORE_1,
        lambda _, root: edit(root, "ments:\n", "ments:\n  b: {url: 'sandbox:'}\n", "environments"),
        "b: the environment was added",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_the_workspace_between_plan_and_apply_is_refused(
    change: str, stages: Callable[[Dialect], Stage], tmp_path: Path
) -> None:
    """It exits with 6, names the change on stderr and in the result, and changes nothing."""
    dialect, apply_change, fragment = CHANGES[change]
    stage = stages(dialect)
    root = stage.copied(tmp_path)
    apply_change(stage, root)
    assert_refused(stage, fragment, lambda: stage.apply(root))


@pytest.mark.parametrize("change", EDITS)
def test_a_change_in_the_manifests_between_plan_and_apply_is_refused(
    change: str, stages: Callable[[Dialect], Stage], tmp_path: Path, run, monkeypatch
) -> None:
    """The result is the same as for a change in the workspace."""
    dialect, apply_change, fragment = EDITS[change]
    stage = stages(dialect)
    root = stage.copied(tmp_path)
    apply_change(stage, root)
    monkeypatch.setenv("TOKEN", stage.variables["TOKEN"])

    def apply() -> tuple[int, Any, str]:
        manifests, file = root / "manifests", root / "plan.json"
        code, out, err = run("apply", file, "-m", manifests, "--format", "json")
        return code, valid("result", json.loads(out)), err

    assert_refused(stage, fragment, apply)


def assert_refused(stage: Stage, fragment: str, apply: Callable[[], tuple[int, Any, str]]) -> None:
    before = stage.sandbox.keys(), stage.sinks()
    code, result, err = apply()
    assert (code, err.count("plan_stale: ")) == (6, 1), err
    assert fragment in err
    assert (stage.sandbox.keys(), stage.sinks()) == before
    results = [one for part in result["environments"] for one in part["results"]]
    assert {one["status"] for one in results} <= {"skipped"}
    assert {one["error"]["code"] for one in results} <= {"plan_stale"}


def comments(root: Path) -> None:
    """Change lines, order, line ends and the file name, which have no effect on the plan."""
    path = root / "manifests" / "keys.yaml"
    head, _, keys = path.read_text().partition("keys:\n")
    first, *others = keys.split("  - ")[1:]
    reordered = "".join(f"  - {each}" for each in (*others, first))
    path.unlink()
    content = f"# moved\n{head}\n\nkeys:\n{reordered}".replace(
        "svc-kept,", "svc-kept, description: x,"
    )
    (path.parent / "other.yml").write_bytes(content.replace("\n", "\r\n").encode())


HARMLESS: dict[str, tuple[Dialect, Callable[[Stage, Path], object]]] = {
    "nothing": (CORE_1, lambda *_: None),
    "comments and order": (LEGACY, lambda _, root: comments(root)),
    "another unmanaged key": (CORE, lambda stage, _: stage.sandbox.seed(["ops-more"])),
    "an unmanaged key was deleted": (
        CORE_1,
        lambda stage, _: stage.sandbox.forget([stage.key("ops-theirs").id]),
    ),
    "limits": (
        CORE,
        lambda _, root: edit(root, "    role", "    limits: {batch: 2}\n    role", "environments"),
    ),
    "a variable with the same value": (LEGACY, lambda *_: None),
}  # fmt: skip


@pytest.mark.parametrize("change", HARMLESS)
def test_a_plan_can_be_applied_after_changes_that_affect_no_action(
    change: str, stages: Callable[[Dialect], Stage], tmp_path: Path
) -> None:
    """Another machine applies it as reviewed, and refuses to apply it a second time."""
    dialect, apply_change = HARMLESS[change]
    stage = stages(dialect)
    root = stage.copied(tmp_path)
    apply_change(stage, root)
    variables = {"PROVISION_PRUNE": "1"} if "variable" in change else {}
    code, result, err = stage.apply(root, **variables)
    assert code == 0, err
    [reviewed], [done] = stage.plan["environments"], result["environments"]
    assert (result["digest"], result["created_at"]) == (
        stage.plan["digest"],
        stage.plan["created_at"],
    )
    order = {"key": lambda one: one["name"]}
    assert sorted(reviewed_fields(done["results"]), **order) == sorted(
        reviewed_fields(reviewed["actions"]), **order
    )
    assert {one["status"] for one in done["results"]} == {"done"}
    expiries = {one["name"]: one["expires_at"] for one in reviewed["actions"]}
    live = [key for key in stage.sandbox.keys() if not key.revoked_at and not key.deleted_at]
    created = [key for key in live if key.id not in {row.id for row in stage.rows}]
    ours = {
        key.name: f"{key.expires_at[:19]}Z" for key in created if not key.name.startswith("ops-")
    }
    assert ours == {name: expiries[name] for name in ("svc-new", "svc-due")}
    assert "svc-gone" not in {key.name for key in live}
    before = stage.sandbox.keys(), stage.sinks()
    code, _, err = stage.apply(root)
    assert (code, "plan_applied: " in err) == (6, True), err
    assert (stage.sandbox.keys(), stage.sinks()) == before


def test_a_different_role_with_the_same_label_is_refused(tmp_path: Path) -> None:
    """People review the label; the id identifies the role."""
    with Sandbox(tmp_path / "twenty.sqlite3", Dialect.CORE) as sandbox:
        stage = Stage(sandbox, tmp_path / "first")
        stage.build()
        old = sandbox.role("Integrations")
        sandbox.put_role(dataclasses.replace(old, wire={**old.wire, "label": "Former"}))
        new = sandbox_role("Integrations", api_keys=True, settings=True)
        sandbox.put_role(new)
        code, _, err = stage.apply(stage.copied(tmp_path / "second"))
        assert code == 6
        assert f"the id of role 'Integrations' changed from {old.id} to {new.id}" in err
        assert sandbox.keys() == stage.rows


def test_the_file_follows_its_schema_and_contains_no_secret(
    stages: Callable[[Dialect], Stage], tmp_path: Path
) -> None:
    """It contains neither the credential nor tokens, because others can read it."""
    stage = stages(CORE)
    valid("planfile", stage.plan)
    raw = stage.file.read_text()
    delivered = (stage.shared / "held.env").read_text().partition("=")[2].strip()
    assert delivered.count(".") == 2
    for secret in (delivered, stage.sandbox.password, stage.sandbox.email, "Bearer"):
        assert secret not in raw
    # A key whose name is the token of the run does not publish it.
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
    """The format counts whether it is set with `format` or by the path."""

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
    """A key that is created two days later has the expiry of the reviewed plan."""
    with time_machine.travel(NOW, tick=True) as traveller:
        assert run("plan", "-m", small, "--out", file)[0] == 0
        traveller.shift(timedelta(days=2))
        assert run("apply", file, "-m", small)[0] == 0
    reviewed = json.loads(file.read_text())
    expiries = {one["expires_at"] for one in reviewed["environments"][0]["actions"]}
    assert expiries == {"2027-02-21T04:00:00Z"}
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        assert {key.expires_at[:19] for key in sandbox.keys()} == {"2027-02-21T04:00:00"}


def test_a_plan_whose_keys_would_be_expired_is_refused(run, small, file) -> None:
    """An old plan file does not create dead keys."""
    with time_machine.travel(NOW, tick=True) as traveller:
        assert run("plan", "-m", small, "--out", file)[0] == 0
        traveller.shift(timedelta(days=91))
        code, _, err = run("apply", file, "-m", small)
        assert (code, "'a' is now blocked: expiry_past" in err) == (6, True)


def test_a_plan_of_another_workspace_is_refused(run, small, file, tmp_path) -> None:
    """The embedded Twenty of another directory has the same url, but is another workspace."""
    assert run("plan", "-m", small, "--out", file)[0] == 0
    shutil.copytree(small, tmp_path / "elsewhere" / "manifests")
    code, _, err = run("apply", file, "-m", tmp_path / "elsewhere" / "manifests")
    assert code == 6
    assert "dev: its workspace changed from " in err
    with Sandbox(tmp_path / "elsewhere" / ".provision" / "dev.sqlite3") as sandbox:
        assert sandbox.keys() == ()


def test_a_plan_without_changes_can_be_applied(run, small, file) -> None:
    """It can be applied twice, as it has nothing that could be done twice."""
    assert run("apply", "-m", small)[0] == 0
    assert run("plan", "-m", small, "--out", file)[0] == 0
    assert [run("apply", file, "-m", small)[0] for _ in range(2)] == [0, 0]


def test_an_environment_that_was_removed_is_named(run, small, file) -> None:
    """The plan is for all environments or for this one."""
    both = EMBEDDED + "  lab: {url: 'sandbox:core-1', role: Admin}\n"
    (small / "environments.yaml").write_text(both)
    for options in ((), ("-e", "lab")):
        assert run("plan", "-m", small, "--out", file, *options)[0] == 0
        (small / "environments.yaml").write_text(EMBEDDED)
        code, _, err = run("apply", file, "-m", small)
        assert (code, "plan_stale: " in err, "lab" in err) == (6, True, True)
        (small / "environments.yaml").write_text(both)


def test_keys_that_the_plan_does_not_select_may_change(run, small, file) -> None:
    """With `--only` neither their manifests nor the keys themselves are part of the review."""
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
def test_an_option_that_the_plan_file_contains_is_wrong_usage(run, small, file, option) -> None:
    """This applies to an equal value too, as the file is what was reviewed."""
    assert run("plan", "-m", small, "--out", file, *option)[0] == 0
    code, out, err = run("apply", file, "-m", small, *option)
    assert (code, out) == (64, "")
    assert "cannot be used with a plan file" in err
    assert run("apply", file, "-m", small)[0] == 0


def test_a_variable_that_contradicts_the_plan_file_is_wrong_usage(
    run, small, file, monkeypatch
) -> None:
    """An equal value is accepted, as it may be set for all commands of a pipeline."""
    assert run("plan", "-m", small, "-e", "dev", "--out", file)[0] == 0
    monkeypatch.setenv("PROVISION_PRUNE", "1")
    code, _, err = run("apply", file, "-m", small)
    assert (code, "PROVISION_PRUNE" in err) == (64, True)
    monkeypatch.setenv("PROVISION_PRUNE", "0")
    monkeypatch.setenv("PROVISION_ENVIRONMENT", "dev")
    assert run("apply", file, "-m", small)[0] == 0


def test_the_apply_uses_the_options_of_the_plan(run, small, file, tmp_path) -> None:
    """This includes the options of guards, so the file is enough to revoke keys."""
    (tmp_path / ".provision").mkdir()
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        sandbox.seed(["old-1", "old-2"])
    dev = EMBEDDED.replace("owns:", "protect: true, guards: {max_revoke: 0}, owns:")
    (small / "environments.yaml").write_text(dev)
    options = ("--prune", "--max-revoke", "2", "--allow-protected", "--only", "old-*")
    assert run("plan", "-m", small, "--out", file, *options)[0] == 0
    code, out, err = run("apply", file, "-m", small, "--format", "json")
    assert code == 0, err
    [part] = json.loads(out)["environments"]
    assert part["summary"]["revoked"] == 2
    assert part["summary"]["created"] == 0


def test_a_plan_that_cannot_be_reviewed_is_not_written(run, small, file, tmp_path) -> None:
    """It was refused or is incomplete, so there is no file, and an earlier one is deleted."""
    assert run("plan", "-m", small, "--out", file)[0] == 0
    (tmp_path / ".provision").mkdir(exist_ok=True)
    with Sandbox(tmp_path / ".provision" / "dev.sqlite3") as sandbox:
        sandbox.seed([f"old-{number}" for number in range(9)])
    code, _, err = run("plan", "-m", small, "--prune", "--out", file)
    assert (code, "was not written: the plan was refused (too_many_revocations)" in err) == (
        5,
        True,
    )
    assert not file.exists()
    dead = "  dead: {url: 'http://127.0.0.1:9', auth: {token: '${T}'}}\n"
    (small / "environments.yaml").write_text(EMBEDDED + dead)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T", "x" * 40)
        code, _, err = run("plan", "-m", small, "--out", file)
    assert code == 4
    assert "was not written: dead could not be observed (" in err
    assert not file.exists()


def test_a_plan_that_was_stopped_is_not_written(small, file) -> None:
    """Nobody can review an incomplete plan."""
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
    assert "was not written: the run was stopped" in err
    assert not file.exists()


def test_a_plan_with_blocked_keys_is_written_and_applied(run, small, file) -> None:
    """The other keys are created; both commands exit with 4."""
    (small / "keys.yaml").write_text(TWO.replace("{name: b}", "{name: b, role: Nobody}"))
    assert run("plan", "-m", small, "--out", file)[0] == 4
    code, out, _ = run("apply", file, "-m", small, "--format", "json")
    assert code == 4
    [part] = json.loads(out)["environments"]
    assert {one["name"]: one["status"] for one in part["results"]} == {"a": "done", "b": "failed"}


def test_a_plan_is_not_applied_while_a_server_is_down(
    run, small, file, tmp_path, monkeypatch
) -> None:
    """An environment that cannot be observed is not reported as changed, and a retry works."""
    state = tmp_path / "twenty.sqlite3"
    with Sandbox(state) as sandbox:
        port = int(sandbox.url.rpartition(":")[2])
        there = f"  there: {{url: '{sandbox.url}', auth: {{session_token: '${{T}}'}}}}\n"
        (small / "environments.yaml").write_text(EMBEDDED + there)
        monkeypatch.setenv("T", sandbox.session_token(seconds=3600))
        assert run("plan", "-m", small, "--out", file)[0] == 0
    code, _, err = run("apply", file, "-m", small)
    assert (code, "plan_unconfirmed: there could not be observed: " in err) == (6, True)
    planned = json.loads(file.read_text())["digest"]
    code, _, err = run("apply", "-m", small, "--digest", planned)
    assert (code, "plan_unconfirmed: there could not be observed: " in err) == (6, True)
    with Sandbox(state, port=port):
        assert run("apply", file, "-m", small)[0] == 0


def test_apply_refuses_a_plan_without_the_given_digest(run, small, file) -> None:
    """It exits with 6; a plan file and `--digest` must agree."""
    _, out, _ = run("plan", "-m", small, "--format", "json")
    planned = json.loads(out)["digest"]
    assert run("plan", "-m", small, "--out", file)[0] == 0
    other = f"sha256:{'0' * 64}"
    code, _, err = run("apply", "-m", small, "--digest", other)
    assert (code, f"digest is {planned}, not {other}" in err) == (6, True)
    code, out, err = run("apply", file, "-m", small, "--digest", other)
    assert (code, out, f"is {planned}, not {other}" in err) == (6, "", True)
    assert run("list", "-m", small)[1] == "no keys\n"
    assert run("apply", "-m", small, "--digest", planned)[0] == 0
    assert run("list", "-m", small)[1] != "no keys\n"
    code, _, err = run("apply", file, "-m", small, "--digest", planned)
    # The keys of the apply in between may have the expiry of the plan file or another one.
    assert (code, err.startswith(("plan_applied: ", "plan_stale: "))) == (6, True)


@pytest.mark.parametrize(
    "given", ["", "sha256:", "abc", f"sha256:{'A' * 64}", f" sha256:{'a' * 64}"]
)
def test_an_invalid_digest_is_wrong_usage(run, small, monkeypatch, given) -> None:
    """This matters most for an empty one, from a variable that a pipeline did not set."""
    assert run("apply", "-m", small, "--digest", given)[0] == 64
    monkeypatch.setenv("PROVISION_DIGEST", given)
    assert run("apply", "-m", small)[0] == 64
    assert run("list", "-m", small)[1] == "no keys\n"


def test_only_a_plan_file_is_overwritten(run, small, file, tmp_path) -> None:
    """Manifests, folders and devices are kept, and no request is sent before that is clear."""
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


def test_a_plan_file_that_cannot_be_written_is_an_error(run, small, tmp_path) -> None:
    """It exits with 64, shows the plan and leaves no partial file, for example on a full disk."""
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


def test_invalid_manifests_are_reported_before_an_invalid_plan_file(run, small, tmp_path) -> None:
    """Exit code 3 comes before 6, as another plan file would not fix the manifests."""
    file = tmp_path / "bad.json"
    file.write_text("[]")
    assert run("apply", file, "-m", small)[0] == 6
    (small / "more.yaml").write_text("[")
    assert run("apply", file, "-m", small)[0] == 3


def test_a_large_file_with_another_beginning_is_not_parsed(run, small, tmp_path) -> None:
    """A plan file never contains millions of values by accident."""
    file = tmp_path / "bad.json"
    file.write_bytes(b'{"x":[' + b"{}," * 2**20 + b"{}]}")
    code, _, err = run("apply", file, "-m", small)
    assert (code, "is not a plan file" in err) == (6, True)


def test_an_empty_variable_is_ignored_with_a_plan_file(run, small, tmp_path) -> None:
    """Pipelines set variables without a value to empty; those that limit a run are not ignored."""
    file = tmp_path / "plan.json"
    assert run("plan", "-m", small, "-e", "dev", "--out", file)[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVISION_ENVIRONMENT", "")
        assert run("apply", file, "-m", small)[0] == 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVISION_PRUNE", "")
        assert run("apply", file, "-m", small)[0] == 0


# --- Invalid files -------------------------------------------------------------------------------


def test_a_missing_file_is_wrong_usage(run, small, tmp_path) -> None:
    """It is an error like any wrong path; a folder is not a file either."""
    for path in (tmp_path / "none.json", small):
        code, out, err = run("apply", path, "-m", small)
        assert (code, out, "plan_unreadable: " in err, str(path) in err) == (64, "", True, True)


def test_a_foreign_or_damaged_file_is_named_and_no_request_is_sent(
    run, small, file, tmp_path
) -> None:
    """The message says what is wrong, before any manifest is read."""
    assert run("plan", "-m", small, "--out", file)[0] == 0
    valid_text = file.read_text()
    _, printed, _ = run("plan", "-m", small, "--format", "json")
    shutil.rmtree(tmp_path / ".provision")
    future = json.loads(valid_text) | {"created_at": "2999-01-01T00:00:00Z"}
    of_shard = json.loads(valid_text)
    of_shard["options"]["shard"] = "3/2"
    invalid = {
        "": "it is not JSON",
        "version: 1": "it is not JSON",
        "[" * 100_000: "is not a plan file",
        "[]": "is not a plan file",
        '{"format": 1}': "is not a plan file",
        printed: "is not a plan file but the output of `plan --format json`",
        valid_text[:-20]: "it is not JSON",
        valid_text.replace("90d", "99d"): "was changed or damaged after it was written",
        valid_text.replace("planfile/v1", "planfile/v2"): "in the format provision/planfile/v2",
        with_checksum(future): "which is in the future",
        with_checksum(
            json.loads(valid_text) | {"more": 1}
        ): "is damaged: the top level violates the",
        with_checksum(of_shard): "is damaged: 3/2 is not a shard",
    }
    for content, error in invalid.items():
        file.write_text(content)
        code, out, err = run("apply", file, "-m", small)
        assert (code, out) == (6, ""), err
        assert file.as_posix() in err
        assert error in err
        assert ("plan_newer: " in err) == ("v2" in error)
    assert not (tmp_path / ".provision").exists()


def with_checksum(document: dict[str, Any]) -> str:
    """Return a plan file with a correct checksum, whatever its content."""
    content = {name: part for name, part in document.items() if name != "checksum"}
    return json.dumps({"checksum": json_digest(content), **content})


def test_a_file_that_shows_other_actions_than_its_digest_is_refused(
    run, small, file, tmp_path
) -> None:
    """An apply does only what a reviewer sees in the file, with any digest beside it."""
    assert run("plan", "-m", small, "--out", file)[0] == 0
    plan = json.loads(file.read_text())
    digest = plan["digest"]
    [environment] = plan["environments"]
    [first, *others] = environment["actions"]
    for actions in (
        others,
        [first | {"name": "new-other"}, *others],
        [first | {"expires_at": "2030-01-01T00:00:00Z"}, *others],
        [first | {"sinks": ["file elsewhere.env A"]}, *others],
        [],
    ):
        file.write_text(
            with_checksum(plan | {"environments": [environment | {"actions": actions}]})
        )
        code, out, err = run("apply", file, "-m", small, "--digest", digest, "--format", "json")
        assert (code, "plan_invalid: " in err, "it was edited" in err) == (6, True, True)
        assert valid("result", json.loads(out))["refusal"]["code"] == "plan_invalid"
    for changes in ({"url": "https://crm.example.com"}, {"workspace": "another"}):
        file.write_text(with_checksum(plan | {"environments": [environment | changes]}))
        code, _, err = run("apply", file, "-m", small, "--digest", digest)
        assert (code, "plan_invalid: " in err) == (6, True)
    file.write_text(with_checksum(plan))
    assert run("apply", file, "-m", small, "--digest", digest)[0] == 0


def test_a_file_with_another_name_for_a_revoked_key_is_refused() -> None:
    """The id is not enough for a reviewer."""
    one = current_plan(keys=(key(1, "sa"),), options=PRUNE)
    assert [type(action) for action in one.proposal.plan.environments[0].actions] == [Revoke]
    content = document(one)
    [environment] = content["environments"]
    [revoke] = environment["actions"]
    content["environments"] = [environment | {"actions": [revoke | {"name": "old-test"}]}]
    found = read(text(content).encode(), TIMESTAMP)
    assert isinstance(found, PlanFile)
    assert was_edited(found, one)
    assert not was_edited(loaded(one), one)


def test_a_new_expiry_does_not_make_an_update_of_the_role_look_edited() -> None:
    """The update does not set the expiry."""
    first, now = (
        current_plan(
            desired_key("sa", role="Worker"),
            keys=(key(1, "sa", expires_at=TIMESTAMP + timedelta(days=days)),),
        )
        for days in (60, 50)
    )
    assert first.proposal.plan.changes == 1
    assert first.proposal.plan.digest == now.proposal.plan.digest
    assert not was_edited(loaded(first), now)


def test_masking_on_only_one_machine_does_not_make_a_file_look_edited() -> None:
    """A secret of one job may be a word in the plan of another."""
    one = current_plan(desired_key("acme-production-eu-1"))
    before = loaded(one)
    Secret("acme-production-eu-1")
    assert loaded(one) != before
    assert not was_edited(before, one)


def test_a_secret_equal_to_an_environment_name_does_not_mask_it(
    run, file, tmp_path, monkeypatch
) -> None:
    """A plan file always shows its environments."""
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

TIMESTAMP = NOW + timedelta(milliseconds=250)
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
        "expires_at": TIMESTAMP + timedelta(days=60),
        "created_at": TIMESTAMP - timedelta(days=30),
        "role": "Admin",
        "role_id": "r-1",
    }
    return observed_key(name, **(fields | changes))


DESIRED = st.builds(
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
OBSERVED = st.lists(st.tuples(NAMES | st.just("sold"), st.integers(-5, 100)), max_size=6)


class Options(NamedTuple):
    """The options of a run that a plan file contains."""

    selected: tuple[str, ...] = ()
    plan: PlanOptions = PlanOptions()
    overrides: GuardOverrides = GuardOverrides()


OPTIONS = st.builds(
    Options,
    st.sampled_from([(), ("shop",)]),
    st.builds(
        PlanOptions,
        only=st.sampled_from([(), ("s*",), ("sa", "sb")]),
        prune=st.booleans(),
        dedupe=st.booleans(),
        redeliver=st.booleans(),
    ),
    st.builds(
        GuardOverrides,
        max_revoke=st.sampled_from([None, 0, 7]),
        allow_protected=st.booleans(),
    ),
)


NO_OPTIONS = Options()
PRUNE = Options(plan=PlanOptions(prune=True))


def error_for(draft: PlanFileInput, then: PlanFile) -> StalePlanError | None:
    """Return the error of `apply FILE` for a plan file when this is the current plan."""
    same = draft.proposal.plan.digest == then.digest
    return None if same else stale_plan("plan.json", then, draft)


def current_plan(
    *desired: DesiredKey,
    keys: tuple[ObservedKey, ...] = (),
    options: Options = NO_OPTIONS,
    shop: Environment = SHOP,
    roles: Any = ROLES,
    elapsed: timedelta = timedelta(),
    contents: Any = None,
) -> PlanFileInput:
    observation = observation_with(
        *keys, workspace="w-1", roles=roles, server_time=TIMESTAMP + elapsed, requests=2
    )
    part = plan_environment(
        shop, desired, observation, TIMESTAMP, options.plan, sink_contents=contents or {}
    )
    request = PlanRequest({"shop": tuple(desired)}, TIMESTAMP, options.plan, options.overrides)
    selected = dict(selected_keys(request.desired, options.plan))
    plan = plan_with(part, created_at=TIMESTAMP, digest=digest((part,), selected))
    workspace: Any = None
    planned = PlannedEnvironment(ObservedEnvironment(shop, workspace, observation), part)
    proposal = Proposal(plan, (planned,))
    return PlanFileInput(proposal, request, options.selected, plan_document(plan))


@st.composite
def plans(draw: st.DrawFn, options: st.SearchStrategy[Options] = OPTIONS) -> PlanFileInput:
    desired = draw(st.lists(DESIRED, unique_by=lambda one: one.name, max_size=4))
    desired[:1] = [
        one._replace(moved_from=draw(st.sampled_from([(), ("sold",)]))) for one in desired[:1]
    ]
    keys = tuple(
        key(number, name, expires_at=TIMESTAMP + timedelta(days=days))
        for number, (name, days) in enumerate(draw(OBSERVED))
    )
    roles = draw(st.sampled_from([ROLES, NoRoles()]))
    sink_contents = st.sampled_from(
        [NoToken(), NotAToken(), ApiKeyToken("id-0", None), Unavailable(DOWN)]
    )
    contents = draw(st.dictionaries(st.sampled_from(ADDRESSES), sink_contents))
    shop = dataclasses.replace(SHOP, owns=draw(st.sampled_from([("s*",), ("sa",), ()])))
    return current_plan(
        *desired, keys=keys, options=draw(options), shop=shop, roles=roles, contents=contents
    )


PAIRS = OPTIONS.flatmap(lambda options: st.tuples(*(plans(st.just(options)),) * 2))


SCHEMA = Draft202012Validator(
    schemas.load("planfile"), format_checker=Draft202012Validator.FORMAT_CHECKER
)


def loaded(one: PlanFileInput) -> PlanFile:
    found = read(text(document(one)).encode(), TIMESTAMP)
    assert isinstance(found, PlanFile), found
    return found


@settings(max_examples=60)
@given(plans())
def test_any_plan_file_can_be_read_again(one: PlanFileInput) -> None:
    """It follows the schema, has the same content, and is valid for the same plan."""
    raw = text(document(one))
    SCHEMA.validate(json.loads(raw))
    assert raw.isascii()
    found = loaded(one)
    assert found == parse_document(document(one))
    assert found.digest == one.proposal.plan.digest
    options = Options(found.selected, found.options, found.overrides)
    assert options == Options(one.selected, one.request.options, one.request.overrides)
    assert found.created_at == TIMESTAMP.replace(microsecond=0)
    assert error_for(one, found) is None
    assert not was_edited(found, one)


@settings(max_examples=80)
@given(PAIRS)
def test_another_plan_is_refused_with_a_short_reason(
    pair: tuple[PlanFileInput, PlanFileInput],
) -> None:
    """It is refused exactly if the digests differ, and the reason names a change."""
    one, two = pair
    error = error_for(two, loaded(one))
    assert (error is None) == (one.proposal.plan.digest == two.proposal.plan.digest)
    if error is not None:
        assert error.exit_code == 6
        assert len(error.message) < 4000
        assert "its digest differs" not in error.message
        assert "has different actions" not in error.message


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_file_is_detected(data: st.DataObject) -> None:
    """Bytes are changed, lost or added: it has the same content as before, or is not read."""
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
    found = read(bytes(raw), TIMESTAMP)
    assert isinstance(found, UnreadablePlanFile) or found == read(GOOD, TIMESTAMP)


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=100)
@given(st.data())
def test_a_forged_file_never_breaks_the_command(data: st.DataObject) -> None:
    """A file with a correct checksum and any content is refused or compared."""
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
    found = read(with_checksum(forged).encode(), TIMESTAMP)
    if isinstance(found, PlanFile):
        assert SCHEMA.is_valid(json.loads(with_checksum(forged)))
        other = current_plan(desired_key("else"))
        assert error_for(other, found) is not None
    else:
        assert found.problem


@settings(max_examples=60)
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_random_bytes_are_not_a_plan_file(raw: bytes) -> None:
    """They raise no exception."""
    assert isinstance(read(raw, TIMESTAMP), UnreadablePlanFile)


GOOD = text(
    document(
        current_plan(
            desired_key("sa", deliver=ADDRESSES),
            desired_key("sb", expiry="2027-06-30"),
            keys=(key(1, "sb"), key(2, "sold")),
            options=Options(plan=PlanOptions(prune=True, only=("s*",))),
        )
    )
).encode()


# --- The passing of time -------------------------------------------------------------------------


def message_of(then: PlanFileInput, now: PlanFileInput) -> str:
    error = error_for(now, loaded(then))
    assert error is not None
    return error.message


def test_the_passing_of_time_can_make_a_plan_stale() -> None:
    """A key expires, a rotation becomes due, or an overlap is over."""
    soon = key(1, "sa", expires_at=TIMESTAMP + timedelta(days=1))
    elapsed = timedelta(days=2)
    message = message_of(
        current_plan(desired_key("sa"), keys=(soon,)),
        current_plan(desired_key("sa"), keys=(soon,), elapsed=elapsed),
    )
    assert (
        "'sa' (id-1) expired at 2026-11-24T04:00:00Z (planned: no change; now: create)" in message
    )
    rotated = desired_key(
        "sa", deliver=ADDRESSES[:1], rotation=rotation_with(timedelta(days=59), elapsed, "59d 2d")
    )
    contents = {ADDRESSES[0]: ApiKeyToken("id-1", None)}
    before = current_plan(rotated, keys=(key(1, "sa"),), contents=contents)
    after = current_plan(rotated, keys=(key(1, "sa"),), contents=contents, elapsed=elapsed)
    assert "'sa' is now due for rotation" in message_of(before, after)
    rotated = rotated._replace(rotation=rotation_with(timedelta(days=9), elapsed, "9d 2d"))
    old = key(
        2, "sa", created_at=TIMESTAMP - timedelta(days=50), expires_at=TIMESTAMP + timedelta(days=9)
    )
    both = (old, key(1, "sa", created_at=TIMESTAMP))
    before = current_plan(rotated, keys=both, contents=contents)
    after = current_plan(rotated, keys=both, contents=contents, elapsed=elapsed)
    assert "'sa' has a successor whose overlap is over" in message_of(before, after)


def test_a_key_that_is_renamed_before_the_plan_is_applied_makes_it_stale() -> None:
    """The message says who has which name now, or that the plan seems to have been applied."""
    moved = desired_key("sa", moved_from=("sold",))
    before = current_plan(moved, keys=(key(1, "sold"),))
    message = message_of(before, current_plan(moved, keys=(key(1, "other"),)))
    assert "'sa' (id-1) was renamed to 'other' (planned: rename; now: create)" in message
    applied = error_for(current_plan(moved, keys=(key(1, "sa"),)), loaded(before))
    assert applied is not None
    assert applied.code == "plan_applied"
    message = message_of(before, current_plan(moved, keys=(key(2, "sold"),)))
    assert "'sa' (id-1) was revoked or deleted, has another live key (id-2)" in message
    message = message_of(before, current_plan(desired_key("sa"), keys=(key(1, "sold"),)))
    assert "the manifests changed 'sa': moved_from from [sold] to none" in message
    only = Options(plan=PlanOptions(only=("sa",)))
    before = current_plan(moved, keys=(key(1, "sold"),), options=only)
    assert [one["id"] for one in loaded(before).environments["shop"]["observed"]] == ["id-1"]


def test_a_blocked_key_that_is_no_longer_blocked_is_named() -> None:
    """Its role did not exist at the time of the plan, and exists now."""
    desired = desired_key("sa", role="Worker")
    before = current_plan(desired, roles=KnownRoles(ROLES.roles[:1]))
    assert "'sa' is no longer blocked" in message_of(before, current_plan(desired))
    assert "'sa' is now blocked: role_unknown" in message_of(
        current_plan(desired), current_plan(desired, roles=KnownRoles(ROLES.roles[:1]))
    )


def test_another_version_is_named_if_nothing_else_changed() -> None:
    """A digest that another version computes differently is not reported as a change."""
    one = current_plan(desired_key("sa"))
    other = dataclasses.replace(loaded(one), version="0.0.1", digest=f"sha256:{'0' * 64}")
    message = stale_plan("plan.json", other, one).message
    assert "it was created by provision 0.0.1, and this is" in message
    same = dataclasses.replace(other, version=loaded(one).version)
    message = stale_plan("plan.json", same, one).message
    assert "its digest differs from the digest of the current plan" in message


def test_many_changes_are_counted_and_each_environment_is_named() -> None:
    """Eight are listed, the first of each environment before the second of any."""
    many = tuple(desired_key(f"s{number:03}") for number in range(300))
    parts = [Unobserved("lost", "https://lost", Failure("timeout", "x"))]
    one, two = current_plan(*many), current_plan(*many[:5], keys=(key(1, "s001"),))
    before = two.proposal.plan
    plan = dataclasses.replace(before, environments=(*before.environments, *parts), digest="x")
    proposal = Proposal(plan, (*two.proposal.environments, *parts))
    now = two._replace(proposal=proposal, published=plan_document(plan))
    error = stale_plan("p", loaded(one), now)
    assert error.code == "plan_stale"
    assert "lost: the environment was added" in error.message
    assert error.message.endswith("and 289 more.")
    assert error.message.count("; ") == 8


def test_the_digest_covers_everything_that_is_reviewed() -> None:
    """Rotation, protection, the role's id and the expiry of a delivered token change it."""
    rotation = rotation_with(timedelta(days=70), timedelta(days=2), "70d 2d")
    address = ADDRESSES[:1]
    lost = {address[0]: NoToken()}
    other = KnownRoles((role_with("Admin", id="r-9"),))
    extended = key(1, "sa", expires_at=TIMESTAMP + timedelta(days=61))
    plans_ = [
        current_plan(desired_key("sa")),
        current_plan(desired_key("sa", rotation=rotation)),
        current_plan(desired_key("sa", rotation=dataclasses.replace(rotation, written="70d 3d"))),
        current_plan(desired_key("sa", protect=True)),
        current_plan(desired_key("sa"), roles=other),
        current_plan(desired_key("sa", deliver=address), keys=(key(1, "sa"),), contents=lost),
        current_plan(desired_key("sa", deliver=address), keys=(extended,), contents=lost),
    ]
    digests = [one.proposal.plan.digest for one in plans_]
    assert len(set(digests)) == len(digests)
    assert digest_mismatch(digests[0], plans_[0].proposal.plan) is None
    error = digest_mismatch(digests[1], plans_[0].proposal.plan)
    assert error is not None
    assert (error.code, error.exit_code) == ("digest_differs", 6)


def test_a_renamed_role_does_not_make_an_update_of_the_expiry_look_edited() -> None:
    """The update does not set the role, so the file with the old name is still valid."""
    one = key(1, "sa")
    renamed = KnownRoles((role_with("Owner", id="r-1"), ROLES.roles[1]))
    shop = dataclasses.replace(SHOP, role="r-1")
    first = current_plan(desired_key("sa", expiry="2027-06-30"), keys=(one,), shop=shop)
    now = current_plan(
        desired_key("sa", expiry="2027-06-30"),
        keys=(dataclasses.replace(one, role="Owner"),),
        roles=renamed,
        shop=shop,
    )
    assert first.proposal.plan.changes == 1
    assert first.proposal.plan.digest == now.proposal.plan.digest
    assert not was_edited(loaded(first), now)


def test_masked_secrets_do_not_damage_a_file() -> None:
    """The checksum is computed after masking."""
    Secret("a-secret-of-thirty-letters-or-so")
    one = current_plan(desired_key("sa"), keys=(key(1, "sa a-secret-of-thirty-letters-or-so"),))
    raw = text(document(one))
    assert "thirty" not in raw
    found = read(raw.encode(), TIMESTAMP)
    assert isinstance(found, PlanFile)
    assert error_for(one, found) is None
