"""The plan of an exported manifest changes nothing."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import yaml
from builders import (
    NOW,
    desired_key,
    environment_with,
    observation_with,
    observed_key,
    role_with,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sandbox_control import ApiKey, Dialect, Sandbox, role

from provisioner import secret
from provisioner.cli import main
from provisioner.manifests import characters, document, load, resolve, text
from provisioner.manifests.schema import published
from provisioner.model.globs import literal
from provisioner.model.observed import (
    HiddenRoles,
    KnownRoles,
    NoRoles,
    Observation,
    ObservedKey,
    Role,
)
from provisioner.operations.export import ExportOptions, export
from provisioner.operations.proposal import MAX_GLOBS
from provisioner.plan import Expiring, Unmanaged, plan_environment
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandbox_control import Request, Response

    from provisioner.manifests import Manifests
    from provisioner.model.observed import Roles

DIALECTS = pytest.mark.parametrize("dialect", tuple(Dialect))
DEV = environment_with(name="dev", url="sandbox:")
LATER = datetime(2031, 1, 1, 0, 0, 0, 417_000, tzinfo=UTC)
FAR = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

UNUSUAL = (
    *("no", "y", "~", "null", "true", "1.0", "0x1F", "1_000", "-1", ".inf", "12:30:45", "=", "<<"),
    *("2027-01-01", "2027-01-01T00:00:00Z", "- x", "-", "---", "...", "a: b", "a:", "a #b", "#x"),
    *("&a", "*a", "!a", "%a", "@a", "`a", "|", ">", "?", "? a", ",", "[a]", "{a}", "}{", "{{a}}"),
    *("{", "}", "{environment}", "{name}", '"', "'", "''", 'a"b', "\\", "\\n", "a\\", "$a", "${A}"),
    *(
        "a  b",
        "a b",
        "a -b",
        "é",
        "日本",
        "🔑",
        "\ufffe",
    ),
    *("\ue000", "\U0010ffff", "<b>", "%s", "a" * 1000, "{" * 500, "Ωmega x"),
)
"""Valid names that careless quoting would break."""

INVALID = {
    "": "is empty",
    " ": "is empty",
    "\u2003": "is empty",
    " a": "leading or trailing spaces",
    "a\u00a0": "leading or trailing spaces",
    "a\tb": "control characters",
    "a\nkeys: []": "control characters",
    "a\x00b": "control characters",
    "a\x7fb": "control characters",
    "a\x85b": "control characters",
    "a\u2028b": "control characters",
    "a" * 1001: "too long",
    "{" * 501: "too long",
    "a\u200b" * 501: "too long",
    "e\u0301": "Unicode NFC",
    **dict.fromkeys(
        ("👩\u200d💻", "\ufeffa", "a\u202eb", "a\u00a0b", "a\u200b"), "invisible characters"
    ),
}
"""Names that no manifest can contain, with the reason in the comment."""

ROLES = tuple(
    role_with(label, id=f"00000000-0000-4000-8000-{number:012}")
    for number, label in enumerate(
        [
            "Admin",
            "no",
            "1.0",
            "Twice",
            "Twice",
            " ",
            "a: b #c",
            "a\nb",
            "\ud800",
            "{x}",
            '"',
            "👩\u200d💻",
        ]
    )
)
ROLES += (role_with(ROLES[0].id, id="00000000-0000-4000-8000-000000000099"),)


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Path]:
    """A manifests directory with only one embedded Twenty, `dev`."""

    def place_(dialect: Dialect = Dialect.CORE, more: str = "") -> Path:
        return directory(tmp_path, f"dev: {{url: 'sandbox:{dialect}'{more}}}")

    return place_


def directory(parent: Path, environment: str) -> Path:
    folder = parent / "manifests"
    folder.mkdir()
    (folder / "environments.yaml").write_text(f"version: 1\nenvironments:\n  {environment}\n")
    return folder


def sandbox_of(folder: Path, dialect: Dialect = Dialect.CORE) -> Sandbox:
    """Return the embedded Twenty of `dev`, to be filled."""
    file = folder.parent / ".provision" / "dev.sqlite3"
    file.parent.mkdir(exist_ok=True)
    return Sandbox(file, dialect)


def observed(name: str, role: Role | None = None, expires_at: datetime = LATER) -> ObservedKey:
    label, role_id = (None, None) if role is None else (role.label, role.id)
    fields = {"role": label, "role_id": role_id}
    return observed_key(name, id=str(uuid4()), expires_at=expires_at, **fields)


def observation_of(keys: Iterable[ObservedKey], roles: Roles | None = None) -> Observation:
    return observation_with(*keys, workspace=None, roles=roles or KnownRoles(ROLES))


def loaded(manifest: str) -> Manifests:
    with tempfile.TemporaryDirectory() as parent:
        folder = directory(Path(parent), "dev: {url: 'sandbox:'}")
        (folder / "keys.yaml").write_text(manifest, encoding="utf-8")
        return load(folder, now=NOW)


def comments(manifest: str) -> list[str]:
    return [line for line in manifest.splitlines() if line.startswith("# left out: ")]


# The plan of an exported manifest

letters = st.one_of(
    st.characters(),
    st.characters(exclude_categories=("Cs", "Cc")),
    st.sampled_from("{}\"'\\:#-&*!%@`|>?,[]~= \t\n\r\x00\x85\u2028\ufeff"),
)
names = st.one_of(
    st.text(letters, max_size=12),
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs")), min_size=1, max_size=12),
    st.from_regex(document._AMBIGUOUS, fullmatch=True),
    st.sampled_from(sorted(document._WORDS)),
    st.sampled_from((*UNUSUAL, *INVALID, "svc", "svc")),
)
expiries = st.one_of(
    st.just(FAR),
    st.datetimes(datetime(2026, 11, 24), datetime(9999, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    roles = draw(st.sampled_from([KnownRoles(ROLES), HiddenRoles(), NoRoles()]))
    known = isinstance(roles, KnownRoles)
    of_key = st.sampled_from((*ROLES, ROLES[0], None)) if known else st.none()
    return observation_of(
        draw(st.lists(st.builds(observed, names, of_key, expiries), max_size=25)), roles
    )


@given(observation=observations())
@example(
    observation=observation_of(
        [observed(name, ROLES[0]) for name in (*UNUSUAL, *INVALID, "\udc80")]
    )
)
@settings(max_examples=200)
def test_the_plan_of_an_exported_manifest_is_empty(observation: Observation) -> None:
    """There are no problems, actions or drift for any names; each key occurs once."""
    exported = export(DEV, observation)
    by_name: dict[str, list[ObservedKey]] = {}
    for key in observation.keys:
        by_name.setdefault(key.name, []).append(key)
    is_key = published("manifest").check("key")
    expected = [
        name
        for name, (key, *others) in sorted(by_name.items())
        if not others
        and is_key({"name": name.replace("{", "{{").replace("}", "}}")})
        and not any("\ud800" <= char <= "\udfff" for char in name)
        and characters.advice("", name) is None
        and (key.role is not None or not isinstance(observation.roles, KnownRoles))
    ]
    assert (exported.keys, exported.fits) == (len(expected), True)
    assert exported.left_out == len(observation.keys) - len(expected)
    lines = comments(exported.text)
    assert len(lines) == len(by_name) - len(expected)
    ids = {key.id for key in observation.keys if key.name not in expected}
    assert {one for one in ids if sum(one in line for line in lines) == 1} == ids
    if not expected:
        return
    manifests = loaded(exported.text)
    assert manifests.problems == ()
    desired = manifests.desired["dev"]
    assert [key.name for key in desired] == expected
    environment = environment_with(name="dev", url="sandbox:", role="Admin")
    planned = plan_environment(environment, desired, observation, NOW)
    assert planned.actions == ()
    assert list(planned.kept) == expected
    assert {type(finding) for finding in planned.findings} <= {Unmanaged, Expiring}


@given(
    keys=st.lists(
        st.tuples(
            st.one_of(
                names.filter(lambda name: not any("\ud800" <= char <= "\udfff" for char in name)),
                st.sampled_from(UNUSUAL),
            ),
            st.datetimes(datetime(2040, 1, 1), datetime(9999, 12, 31)),  # noqa: DTZ001 - as above
            st.integers(0, 7),
        ),
        min_size=5,
        max_size=60,
    ),
    dialect=st.sampled_from(tuple(Dialect)),
)
@settings(max_examples=15)
def test_an_exported_manifest_passes_the_other_commands(keys: Any, dialect: Dialect) -> None:
    """`export`, `validate` and `plan --detailed-exitcode` succeed, with both generations."""
    with tempfile.TemporaryDirectory() as parent:
        folder = directory(Path(parent), f"dev: {{url: 'sandbox:{dialect}', role: Integrations}}")
        with sandbox_of(folder, dialect) as sandbox:
            sandbox.seed(["always"])
            for number, label in enumerate(["no", "Same", "Same", 'a: "b"']):
                sandbox.put_role(role(label, api_keys=number != 3))
            put(sandbox, keys)
        manifests = exported_and_planned(folder)
        assert "always" in {key.name for key in manifests.desired["dev"]}


def put(sandbox: Sandbox, keys: Iterable[tuple[str, datetime, int]]) -> None:
    """Add keys with these names, expiries and role numbers, in one transaction."""
    rows = []
    roles = sandbox.roles()
    for name, expiry, number in keys:
        expires_at = f"{expiry:%Y-%m-%dT%H:%M:%S}.{expiry.microsecond // 1000:03}Z"
        role_id = roles[number % len(roles)].id
        rows.append(
            ApiKey(
                id=str(uuid4()),
                name=name,
                expires_at=expires_at,
                created_at="2026-01-01T00:00:00.000Z",
                updated_at="2026-01-01T00:00:00.000Z",
                role_id=None if sandbox.dialect is Dialect.LEGACY else role_id,
            )
        )
    sandbox.put(*rows)


def exported_and_planned(folder: Path) -> Manifests:
    """Export `dev`, check that its plan is empty, and return the loaded manifests."""
    assert main(["export", "-q", "-m", str(folder), "--to", str(folder / "all.yaml")]) == 0
    manifests = load(folder, now=datetime.now(UTC))
    assert manifests.problems == ()
    assert main(["validate", "-q", "-m", str(folder)]) == 0
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with redirect_stdout(stdout):
        code = main(["plan", "-m", str(folder), "--detailed-exitcode", "--format", "json"])
    assert code == 0
    stdout.seek(0)
    [environment] = json.load(stdout)["environments"]
    assert environment["actions"] == []
    assert environment["summary"]["keep"] == len(manifests.desired["dev"])
    assert {one["finding"] for one in environment["findings"]} <= {"unmanaged"}
    return manifests


@DIALECTS
@pytest.mark.large
def test_a_large_workspace_is_adopted_without_a_change(place, dialect) -> None:
    """The plan is empty for 2 325 keys with unusual names, several roles and expiries."""
    folder = place(dialect)
    rng = random.Random(2325)
    letters = "abc {}\"'\\:#-~=%@🔑é日本0123"
    key_names = {*UNUSUAL, *(f"svc-{number:04}" for number in range(1500))}
    while len(key_names) < 2325:
        name = "".join(rng.choices(letters, k=rng.randint(1, 40)))
        key_names |= {name} if name == name.strip() else set()
    start = datetime(2027, 6, 1)  # noqa: DTZ001 - the server's own text has the zone
    with sandbox_of(folder, dialect) as sandbox:
        spans = (timedelta(seconds=rng.randrange(10**9)) for _ in key_names)
        put(
            sandbox,
            zip(sorted(key_names), (start + span for span in spans), range(2325), strict=True),
        )
        sandbox.seed([*INVALID, "svc", "svc"])
        sandbox.seed(["was-revoked"], revoked_at="2026-01-01T00:00:00.000Z")
        sandbox.seed(["has-expired"], expires_at="2026-01-01T00:00:00.000Z")
    desired = exported_and_planned(folder).desired["dev"]
    assert [key.name for key in desired] == sorted(key_names)
    assert len(comments((folder / "all.yaml").read_text())) == len(INVALID) + 1


# The content of the manifest


def test_a_manifest_names_its_source_and_the_most_common_role() -> None:
    """Byte for byte: names unquoted if possible, the role of most keys in `defaults`."""
    admin, no = ROLES[:2]
    keys = [
        observed("svc-mail", admin),
        observed("Nightly export", no, FAR),
        observed("{a}: #1", admin),
    ]
    assert (
        export(environment_with(name="production"), observation_of(keys)).text
        == """\
# yaml-language-server: $schema=../schemas/manifest.schema.json
# The live keys in production at 2026-11-23T04:00:00Z, written by `provision export`.
# Proposed for production in environments.yaml, to be reviewed:
#     owns:
#       - Nightly export  # its name has no prefix
#       - svc-mail  # only 1 key starts with svc-
#       - "{a}: #1"  # only 1 key starts with {a}:
version: 1
environment: production
depth: 1
defaults:
  role: Admin
keys:
  - name: Nightly export
    expires: never
    role: "no"
  - name: svc-mail
    expires: 2031-01-01T00:00:00Z
  - name: "{{a}}: #1"
    expires: 2031-01-01T00:00:00Z
"""
    )


def test_a_role_that_most_keys_do_not_have_is_no_default() -> None:
    """When two roles are equally common, each key names its own."""
    shown = export(DEV, observation_of([observed("a", ROLES[0]), observed("b", ROLES[1])])).text
    assert "defaults:" not in shown
    assert ("role: Admin\n" in shown, 'role: "no"\n' in shown) == (True, True)


def test_a_role_is_written_as_its_id_if_its_label_is_not_usable() -> None:
    """Labels that are shared, blank, invisible, half a character, or the id of another role."""
    manifests = loaded(export(DEV, observation_of([observed(one.id, one) for one in ROLES])).text)
    assert manifests.problems == ()
    as_ids = {key.name for key in manifests.desired["dev"] if key.role == key.name}
    assert as_ids == {ROLES[index].id for index in (3, 4, 5, 8, 11, 12)}


def test_hidden_roles_are_a_comment() -> None:
    """No role is written if roles are hidden; on legacy no comment is needed."""
    hidden = export(DEV, observation_of([observed("a")], HiddenRoles())).text
    assert "\n# The credential cannot read roles, so no role is written.\n" in hidden
    legacy = export(DEV, observation_of([observed("a")], NoRoles())).text
    assert (" role: " in hidden, "role" in legacy) == (False, False)


@pytest.mark.parametrize(("name", "reason"), [*INVALID.items(), ("\ud800", "unpaired surrogate")])
def test_a_name_that_no_manifest_can_contain_is_a_one_line_comment(name: str, reason: str) -> None:
    """The comment has the id and the reason; the name cannot end it or make it too long."""
    key = observed(name, ROLES[0])
    exported = export(DEV, observation_of([key, observed("fine", ROLES[0])]))
    [comment] = comments(exported.text)
    assert f" ({key.id}): " in comment
    assert comment.endswith(reason)
    assert comment.isprintable()
    assert len(comment) < 800
    assert (exported.keys, exported.left_out) == (1, 1)
    assert [one.name for one in loaded(exported.text).desired["dev"]] == ["fine"]


def test_live_keys_with_the_same_name_are_left_out_with_all_ids() -> None:
    """Nothing shows which of them is in use; revoked and expired keys do not count."""
    twins = [observed("twin", ROLES[0]), observed("twin", ROLES[1])]
    dead = observed("single", ROLES[0], NOW)
    exported = export(DEV, observation_of([*twins, dead, observed("single", ROLES[0])]))
    [comment] = comments(exported.text)
    assert all(key.id in comment for key in twins)
    assert comment.endswith("several live keys have this name")
    assert (exported.keys, exported.left_out) == (1, 2)
    assert dead.id not in exported.text


def test_a_key_without_a_role_is_left_out_if_keys_have_roles() -> None:
    """It could get a role from `defaults` or the environment, which would be a change."""
    [comment] = comments(export(DEV, observation_of([observed("a")])).text)
    assert comment.endswith("the key has no role that a manifest can refer to")


def test_proposed_globs_are_valid_in_environments_yaml() -> None:
    """Without their comment signs, the lines give the environment `owns` for exactly these keys."""
    keys = [observed(name, ROLES[0]) for name in (*UNUSUAL, "a@b", "my ${A}")]
    lines = export(DEV, observation_of(keys)).text.splitlines()
    fields = [line.removeprefix("# ") for line in lines if line.startswith("#     ")]
    assert f"{' ' * 6}# and " in fields[fields.index("    ignore:") - 1]
    block = "\n".join(["version: 1", "environments:", "  dev:", "    url: 'sandbox:'", *fields])
    with tempfile.TemporaryDirectory() as parent:
        (Path(parent) / "environments.yaml").write_text(block + "\n", encoding="utf-8")
        manifests = load(Path(parent))
        assert manifests.problems == ()
        (environment,), problems = resolve(manifests.environments, {}, Path(parent))
    assert problems == ()
    assert len(environment.owns) == MAX_GLOBS
    assert set(environment.owns) <= {literal(name) for name in UNUSUAL}
    assert environment.ignore == ("@a", "a@b", "my ${A}")


def test_unmanaged_keys_are_those_of_the_plan(place) -> None:
    """`--unmanaged` writes what a plan reports as unmanaged; `owns` is proposed for no others."""
    keys = [observed(name, ROLES[0]) for name in ("svc-a", "svc-b", "svc-c", "svc-d", "old-1")]
    observation = observation_of(keys)
    desired = [desired_key(name, environment="dev") for name in ("svc-a", "svc-gone")]
    options = ExportOptions(unmanaged=True)
    exported = export(DEV, observation, desired, options)
    assert [key.name for key in loaded(exported.text).desired["dev"]] == [
        "old-1",
        "svc-b",
        "svc-c",
        "svc-d",
    ]
    assert '#       - "svc-*"  # 3 keys start with svc-\n' in exported.text
    only = export(DEV, observation, desired, options._replace(only=("svc-[ab]",)))
    assert [key.name for key in loaded(only.text).desired["dev"]] == ["svc-b"]
    assert "#       - svc-b  # only 1 key starts with svc-\n" in only.text
    owner = replace(DEV, owns=("svc-*", "old-*"))
    assert "Proposed" not in export(owner, observation, desired, options).text


def test_ignored_keys_are_not_even_a_comment() -> None:
    """No manifest may declare them."""
    keys = observation_of([observed("a"), observed("zap-1")], NoRoles())
    found = export(replace(DEV, ignore=("zap-*",)), keys)
    assert (found.keys, found.left_out, "zap" in found.text) == (1, 0, False)


def test_the_name_of_the_environment_is_quoted_if_necessary() -> None:
    """`no` and `1.0` are valid names of environments."""
    for name in ("no", "1.0"):
        lines = export(environment_with(name=name), observation_of([])).text.splitlines()
        assert f'environment: "{name}"' in lines


def test_a_secret_of_the_run_is_in_no_manifest(monkeypatch, run, place) -> None:
    """A key whose name contains the sign-in e-mail is left out, without its name."""
    monkeypatch.setattr(secret, "_KNOWN", secret._Known())
    email = Secret("someone@shop.example")
    folder = place()
    with sandbox_of(folder) as sandbox:
        sandbox.seed([f"zapier of {email.reveal()}", f"{'x' * 90}{email.reveal()}", "fine"])
    code, out, err = run("export", "-m", folder)
    assert (code, "2 live keys left out" in err) == (0, True)
    assert "someone" not in out + err
    assert all("contains a secret used in this run" in line for line in comments(out))
    assert [key.name for key in loaded(out).desired["dev"]] == ["fine"]


@pytest.mark.parametrize("beside", [-1, 0, 1])
@pytest.mark.parametrize("roles", [(None,), ROLES[:1], ROLES[:2], (*ROLES[:1], *ROLES[:2])])
def test_a_manifest_fits_exactly_if_it_can_be_loaded(monkeypatch, tmp_path, roles, beside) -> None:
    """The limits of values and bytes are exactly those of the loader."""
    observation = observation_of(
        (observed(f"key-é-{one}", roles[one % len(roles)]) for one in range(12)),
        NoRoles() if roles == (None,) else KnownRoles(ROLES),
    )
    manifest = export(DEV, observation).text
    file = tmp_path / "keys.yaml"
    file.write_text(manifest, encoding="utf-8")
    values, size = sum(1 for _ in yaml.parse(manifest)), len(manifest.encode())
    for module, name, exact in ((document, "MAX_EVENTS", values), (text, "MAX_BYTES", size)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, exact + beside)
            fits = export(DEV, observation).fits
            content = text.read(file, "f")
            problems = document.read(content, "f")[1] if isinstance(content, str) else [content]
        assert fits == (beside >= 0)
        assert [problem.code for problem in problems] == ([] if fits else ["file_too_large"])


# The command


def test_a_fleet_is_adopted_in_one_call(run, tmp_path) -> None:
    """A file for each of four servers; the plan of all is empty, and nothing is unmanaged then."""
    folder = directory(
        tmp_path,
        "\n  ".join(f"{one}: {{url: 'sandbox:{one}', role: Admin}}" for one in Dialect),
    )
    (folder / "declared.yaml").write_text(
        f"version: 1\nenvironments: [{', '.join(Dialect)}]\n"
        "defaults: {expires: never}\nkeys: [{name: svc-declared}]\n"
    )
    assert run("apply", "-q", "-m", folder)[0] == 0
    for dialect in Dialect:
        file = folder.parent / ".provision" / f"{dialect}.sqlite3"
        with Sandbox(file, dialect) as sandbox:
            sandbox.seed(["svc-mail", f"svc-of-{dialect}"])
    adopted = folder / "adopted"
    code, out, err = run("export", "-m", folder, "--unmanaged", "--to-dir", adopted)
    files = [adopted / f"{one}.yaml" for one in Dialect]
    assert (code, err) == (0, "")
    assert out == "".join(f"wrote {file.as_posix()}: 2 keys\n" for file in files)
    for file in files:
        content = file.read_text()
        assert content.startswith("# yaml-language-server: $schema=../../schemas/manifest.schema")
        assert "svc-declared" not in content
    code, out, _ = run("plan", "-m", folder, "--detailed-exitcode", "--format", "json")
    assert code == 0, out
    environments = json.loads(out)["environments"]
    assert [one["summary"]["keep"] for one in environments] == [3] * 4
    assert not any(one["findings"] for one in environments)
    code, _, err = run("export", "-m", folder, "--unmanaged", "--to-dir", tmp_path / "new")
    assert (code, err.split(":")[0]) == (4, "key_missing")
    assert not (tmp_path / "new").exists()
    # Checked for all environments before a workspace is read.
    code, out, err = run("export", "-m", folder, "-e", "core*", "--to-dir", adopted)
    assert (code, out, err.split(":")[0]) == (64, "", "file_exists")


def test_one_environment_that_fails_does_not_stop_the_others(run, place, monkeypatch) -> None:
    """Exit code 4, with the manifests of the others; one without keys has no file."""
    folder = place()
    environments = folder / "environments.yaml"
    environments.write_text(
        f"{environments.read_text()}  empty: {{url: 'sandbox:'}}\n"
        "  down: {url: 'http://127.0.0.1:9', auth: {token: '${TOKEN}'}}\n"
    )
    with sandbox_of(folder) as sandbox:
        sandbox.seed(["a"])
    monkeypatch.setenv("TOKEN", "t" * 20)
    code, out, err = run("export", "-m", folder, "--to-dir", folder / "new")
    assert (code, out) == (4, f"wrote {(folder / 'new' / 'dev.yaml').as_posix()}: 1 key\n")
    assert err.startswith("down: unreachable: ")
    assert [path.name for path in (folder / "new").iterdir()] == ["dev.yaml"]


def test_two_names_of_one_workspace_are_not_exported(run, tmp_path, monkeypatch) -> None:
    """Exit code 5 with both names: each would declare the keys of the other."""
    with Sandbox(None) as sandbox:
        sandbox.seed(["a"])
        monkeypatch.setenv("TOKEN", sandbox.session_token())
        folder = served(sandbox, tmp_path)
        environments = folder / "environments.yaml"
        content = environments.read_text()
        environments.write_text(content + content.splitlines()[-1].replace("dev", "twin") + "\n")
        code, out, err = run("export", "-m", folder, "--to-dir", tmp_path / "new")
    assert (code, out, err.split(":")[0]) == (5, "", "workspace_shared")
    assert "dev and twin" in err
    assert not (tmp_path / "new").exists()


def test_a_place_that_is_not_for_manifests_is_wrong_usage(run, place) -> None:
    """A file there would be read as environments; `--to` and `--to-dir` exclude each other."""
    folder = place()
    for option in (("--to-dir", "environments"), ("--to", "environments/a.yaml")):
        code, _, err = run("export", "-m", folder, option[0], folder / option[1])
        assert (code, "is for environments files" in err) == (64, True)
    code, _, err = run("export", "-m", folder, "--to", "a.yaml", "--to-dir", folder)
    assert (code, "either --to or --to-dir" in err) == (64, True)


def test_unmanaged_needs_valid_manifests(run, place) -> None:
    """A manifest with a problem may declare any key, so none is known to be unmanaged."""
    folder = place()
    (folder / "half.yaml").write_text("version: 1\n")
    assert run("export", "-m", folder, "--unmanaged")[0] == 3


def test_the_manifest_is_on_stdout_and_notes_are_on_stderr(run, place) -> None:
    """`> file` works like `--to`; stderr has the number of omitted keys, also as JSON lines."""
    folder = place()
    with sandbox_of(folder) as sandbox:
        sandbox.seed(["a", "b", "twin", "twin"])
    code, out, err = run("export", "-m", folder, "-q")
    assert (code, len(loaded(out).desired["dev"])) == (0, 2)
    assert err == "warning: dev: 2 live keys left out; the manifest says why\n"
    assert run("export", "-m", folder, "--to", "-")[1].splitlines()[2:] == out.splitlines()[2:]
    _, _, err = run("export", "-m", folder, "--log-format", "json")
    assert json.loads(err)["message"] == "dev: 2 live keys left out; the manifest says why"
    assert sorted(path.name for path in folder.iterdir()) == ["environments.yaml"]


def test_a_new_file_is_private_and_complete(run, place, monkeypatch) -> None:
    """Mode 0600 for any umask; parent folders are created and no temporary file is left."""
    folder = place()
    with sandbox_of(folder) as sandbox:
        sandbox.seed(["a"])
    file = folder / "team" / "adopted.yaml"
    before = os.umask(0)
    try:
        code, out, err = run("export", "-m", folder, "--to", file)
    finally:
        os.umask(before)
    assert (code, out, err) == (0, f"wrote {file.as_posix()}: 1 key\n", "")
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["adopted.yaml"]
    assert loaded(file.read_text()).problems == ()
    assert run("export", "-q", "-m", folder, "--to", folder / "again.yaml") == (0, "", "")


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_an_existing_path_is_never_overwritten(run, place, what) -> None:
    """A file, a folder or a dangling link: exit code 64, and no request is sent."""
    folder = place()
    file = folder / "keys.yaml"
    match what:
        case "file":
            file.write_text("mine")
        case "folder":
            file.mkdir()
        case _:
            file.symlink_to("nowhere")
    code, out, err = run("export", "-m", folder, "--to", file)
    assert (code, out) == (64, "")
    assert err.startswith("file_exists: ")
    assert "--to" in err
    assert what != "file" or file.read_text() == "mine"
    assert not (folder.parent / ".provision").exists()


def served(sandbox: Sandbox, tmp_path: Path, more: str = "") -> Path:
    return directory(
        tmp_path, f'dev: {{url: "{sandbox.url}", auth: {{session_token: "${{TOKEN}}"}}{more}}}'
    )


def test_a_file_that_appears_during_the_export_is_not_overwritten(
    run, tmp_path, monkeypatch
) -> None:
    """Another run may write the same file while this one observes the workspace."""
    file = tmp_path / "keys.yaml"

    def write_file(request: Request, inner: Callable[[Request], Response]) -> Response:
        file.write_text("mine")
        return inner(request)

    with Sandbox(None, around=write_file) as sandbox:
        monkeypatch.setenv("TOKEN", sandbox.session_token())
        sandbox.seed(["a"])
        code, _, err = run("export", "-m", served(sandbox, tmp_path), "--to", file)
    assert (code, err.split(":")[0], file.read_text()) == (64, "file_exists", "mine")
    assert {path.name for path in tmp_path.iterdir()} == {"keys.yaml", "manifests"}


def test_an_unwritable_path_is_wrong_usage(run, place) -> None:
    """A parent of the path is a file: exit code 64, with advice to choose another path."""
    folder = place()
    with sandbox_of(folder) as sandbox:
        sandbox.seed(["a"])
    code, out, err = run("export", "-m", folder, "--to", folder / "environments.yaml" / "keys.yaml")
    assert (code, out, err.split(":")[0], "--to" in err) == (64, "", "not_writable", True)


def test_only_selects_the_exported_keys(run, place) -> None:
    """Several globs; other keys are neither written nor mentioned."""
    folder = place()
    with sandbox_of(folder) as sandbox:
        sandbox.seed(["svc-a", "svc-b", "app", "App", "twin", "twin"])
    _, out, err = run("export", "-m", folder, "--only", "svc-*", "--only", "a??")
    assert [key.name for key in loaded(out).desired["dev"]] == ["app", "svc-a", "svc-b"]
    assert (comments(out), err) == ([], "")


def test_the_environment_is_required_if_there_are_several(run, place) -> None:
    """Exit code 64 without it; with `-e` the variables of other environments do not matter."""
    folder = place()
    text_ = (folder / "environments.yaml").read_text()
    (folder / "environments.yaml").write_text(
        f"{text_}  real: {{url: 'https://crm.example.com', auth: {{token: '${{NOT_SET}}'}}}}\n"
    )
    code, _, err = run("export", "-m", folder)
    assert (code, err.split(":")[0]) == (64, "environment_unnamed")
    with sandbox_of(folder) as sandbox:
        sandbox.seed(["a"])
    assert run("export", "-m", folder, "-e", "dev")[0] == 0
    code, _, err = run("export", "-m", folder, "-e", "real")
    assert (code, "variable_missing" in err) == (3, True)


def test_problems_of_other_manifests_do_not_matter(run, place) -> None:
    """Users who adopt keys may still be writing manifests."""
    folder = place()
    (folder / "half.yaml").write_text("version: 1\n")
    with sandbox_of(folder) as sandbox:
        sandbox.seed(["a"])
    assert run("export", "-m", folder)[0] == 0


def test_no_manifest_is_written_without_a_key(run, place) -> None:
    """Exit code 4 and no file, also if every key had to be left out."""
    folder = place()
    file = folder / "keys.yaml"
    code, out, err = run("export", "-m", folder, "--to", file)
    assert (code, out, err.split(":")[0], file.exists()) == (4, "", "key_missing", False)
    with sandbox_of(folder) as sandbox:
        sandbox.seed(["twin", "twin"])
    assert run("export", "-m", folder)[0] == run("export", "-m", folder, "--only", "a*")[0] == 4


def test_too_many_keys_for_one_manifest_are_wrong_usage(run, place, monkeypatch) -> None:
    """Exit code 64 if the manifest could not be loaded; the advice is to use `--only`."""
    folder = place()
    with sandbox_of(folder) as sandbox:
        sandbox.seed(f"{number:03}-{'x' * 900}" for number in range(20))
    monkeypatch.setattr(text, "MAX_BYTES", 25_000)
    file = folder / "keys.yaml"
    code, out, err = run("export", "-m", folder, "--to", file)
    assert (code, out, err.split(":")[0], file.exists()) == (64, "", "file_too_large", False)
    assert "--only" in err
    assert run("export", "-m", folder, "--only", "00*", "--to", file)[0] == 0
    assert load(folder).problems == ()


def test_a_workspace_that_cannot_be_observed_gives_no_manifest(run, tmp_path, monkeypatch) -> None:
    """Exit code 4 if it is down, 5 if it is another workspace; never a partial manifest."""
    with Sandbox(None) as sandbox:
        monkeypatch.setenv("TOKEN", sandbox.session_token())
        other = ", workspace: 20202020-1c25-4d02-bf25-6aeccf7ea419"
        folder = served(sandbox, tmp_path, other)
        code, out, err = run("export", "-m", folder)
        assert (code, out, err.split(":")[0]) == (5, "", "workspace_mismatch")
    environments = folder / "environments.yaml"
    environments.write_text(environments.read_text().replace(other, ""))
    code, out, err = run("export", "-m", folder)
    assert (code, out, err.split(":")[0]) == (4, "", "unreachable")


def test_a_bug_is_reported_as_one(place, monkeypatch, capsys) -> None:
    """Exit code 1, with how to report it, and nothing on stdout."""
    monkeypatch.setattr("provisioner.twenty.core.CoreWorkspace.observe", None)
    assert main(["export", "-m", str(place())]) == 1
    out, err = capsys.readouterr()
    assert (out, "This is a bug in provision" in err) == ("", True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_export(tmp_path, number, code) -> None:
    """The exit code is that of the signal, stderr has the reason, and no file is written."""
    requested, released = threading.Event(), threading.Event()

    def hold(request: Request, inner: Callable[[Request], Response]) -> Response:
        requested.set()
        released.wait(30)
        return inner(request)

    file = tmp_path / "keys.yaml"
    with Sandbox(None, around=hold) as sandbox:
        folder = served(sandbox, tmp_path)
        with subprocess.Popen(
            [sys.executable, "-m", "provisioner", "export", "-m", str(folder), "--to", str(file)],
            env={**os.environ, "TOKEN": sandbox.session_token()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert requested.wait(30)
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
            released.set()
    assert (process.returncode, out, err.split(":")[0]) == (code, "", "stopped")
    assert not file.exists()
