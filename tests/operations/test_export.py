"""What a workspace holds becomes a manifest, and the plan with that manifest changes nothing."""

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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import yaml
from builders import NOW, environment_with, observation_with, observed_key, role_with
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provisioner import secret
from provisioner.cli import main
from provisioner.manifests import characters, document, load, text
from provisioner.manifests.schema import published
from provisioner.model.observed import (
    HiddenRoles,
    KnownRoles,
    NoRoles,
    Observation,
    ObservedKey,
    Role,
)
from provisioner.operations.export import export
from provisioner.plan import Expiring, Unmanaged, plan_environment
from provisioner.sandbox import ApiKey, Dialect, Sandbox, role
from provisioner.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provisioner.manifests import Manifests
    from provisioner.model.observed import Roles
    from provisioner.sandbox import Request, Response

DIALECTS = pytest.mark.parametrize("dialect", tuple(Dialect))
LATER = datetime(2031, 1, 1, 0, 0, 0, 417_000, tzinfo=UTC)
FAR = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

STRANGE = (
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
"""Names that a manifest can hold, and that a careless one would not."""

UNFIT = {
    "": "is empty",
    " ": "is empty",
    "\u2003": "is empty",
    " a": "blanks at its ends",
    "a\u00a0": "blanks at its ends",
    "a\tb": "control characters",
    "a\nkeys: []": "control characters",
    "a\x00b": "control characters",
    "a\x7fb": "control characters",
    "a\x85b": "control characters",
    "a\u2028b": "control characters",
    "a" * 1001: "too long",
    "{" * 501: "too long",
    "a\u200b" * 501: "too long",
    "e\u0301": "composed form (NFC)",
    **dict.fromkeys(("👩\u200d💻", "\ufeffa", "a\u202eb", "a\u00a0b", "a\u200b"), "cannot be seen"),
}
"""Names that no manifest can hold, and what is said of each."""

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
    """A manifests directory with one embedded Twenty, `dev`, and nothing else."""

    def place_(dialect: Dialect = Dialect.CORE, more: str = "") -> Path:
        return directory(tmp_path, f"dev: {{url: 'sandbox:{dialect}'{more}}}")

    return place_


def directory(parent: Path, environment: str) -> Path:
    folder = parent / "manifests"
    folder.mkdir()
    (folder / "environments.yaml").write_text(f"version: 1\nenvironments:\n  {environment}\n")
    return folder


def held(folder: Path, dialect: Dialect = Dialect.CORE) -> Sandbox:
    """The embedded Twenty of `dev`, to be filled."""
    file = folder.parent / ".provision" / "dev.sqlite3"
    file.parent.mkdir(exist_ok=True)
    return Sandbox(file, dialect)


def observed(name: str, role: Role | None = None, end: datetime = LATER) -> ObservedKey:
    label, role_id = (None, None) if role is None else (role.label, role.id)
    shown = {"role": label, "role_id": role_id}
    return observed_key(name, id=str(uuid4()), expires_at=end, **shown)


def seen(keys: Iterable[ObservedKey], roles: Roles | None = None) -> Observation:
    return observation_with(*keys, workspace=None, roles=roles or KnownRoles(ROLES))


def loaded(manifest: str) -> Manifests:
    with tempfile.TemporaryDirectory() as parent:
        folder = directory(Path(parent), "dev: {url: 'sandbox:'}")
        (folder / "keys.yaml").write_text(manifest, encoding="utf-8")
        return load(folder, now=NOW)


def comments(manifest: str) -> list[str]:
    return [line for line in manifest.splitlines() if line.startswith("# left out: ")]


# The plan with it changes nothing

signs = st.one_of(
    st.characters(),
    st.characters(exclude_categories=("Cs", "Cc")),
    st.sampled_from("{}\"'\\:#-&*!%@`|>?,[]~= \t\n\r\x00\x85\u2028\ufeff"),
)
names = st.one_of(
    st.text(signs, max_size=12),
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs")), min_size=1, max_size=12),
    st.from_regex(document._AMBIGUOUS, fullmatch=True),
    st.sampled_from(sorted(document._WORDS)),
    st.sampled_from((*STRANGE, *UNFIT, "svc", "svc")),
)
ends = st.one_of(
    st.just(FAR),
    st.datetimes(datetime(2026, 11, 24), datetime(9999, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    roles = draw(st.sampled_from([KnownRoles(ROLES), HiddenRoles(), NoRoles()]))
    known = isinstance(roles, KnownRoles)
    of_key = st.sampled_from((*ROLES, ROLES[0], None)) if known else st.none()
    return seen(draw(st.lists(st.builds(observed, names, of_key, ends), max_size=25)), roles)


@given(observation=observations())
@example(observation=seen([observed(name, ROLES[0]) for name in (*STRANGE, *UNFIT, "\udc80")]))
@settings(max_examples=200)
def test_the_plan_with_what_was_exported_is_empty(observation: Observation) -> None:
    """Whatever the names, ends and roles: no problem, no action, no drift; each key told once."""
    exported = export("dev", observation)
    by_name: dict[str, list[ObservedKey]] = {}
    for key in observation.keys:
        by_name.setdefault(key.name, []).append(key)
    fit = published("manifest").check("key")
    wanted = [
        name
        for name, (key, *others) in sorted(by_name.items())
        if not others
        and fit({"name": name.replace("{", "{{").replace("}", "}}")})
        and not any("\ud800" <= sign <= "\udfff" for sign in name)
        and characters.advice("", name) is None
        and (key.role is not None or not isinstance(observation.roles, KnownRoles))
    ]
    assert (exported.keys, exported.fits) == (len(wanted), True)
    assert exported.left_out == len(observation.keys) - len(wanted)
    told = comments(exported.text)
    assert len(told) == len(by_name) - len(wanted)
    ids = {key.id for key in observation.keys if key.name not in wanted}
    assert {one for one in ids if sum(one in line for line in told) == 1} == ids
    if not wanted:
        return
    manifests = loaded(exported.text)
    assert manifests.problems == ()
    desired = manifests.desired["dev"]
    assert [key.name for key in desired] == wanted
    environment = environment_with(name="dev", url="sandbox:", role="Admin")
    planned = plan_environment(environment, desired, observation, NOW)
    assert planned.actions == ()
    assert list(planned.kept) == wanted
    assert {type(finding) for finding in planned.findings} <= {Unmanaged, Expiring}


@given(
    keys=st.lists(
        st.tuples(
            st.one_of(
                names.filter(lambda name: not any("\ud800" <= sign <= "\udfff" for sign in name)),
                st.sampled_from(STRANGE),
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
def test_the_commands_agree_for_any_names(keys: Any, dialect: Dialect) -> None:
    """`export`, `validate` and `plan --detailed-exitcode`, over the wire of each dialect: 0."""
    with tempfile.TemporaryDirectory() as parent:
        folder = directory(Path(parent), f"dev: {{url: 'sandbox:{dialect}', role: Integrations}}")
        with held(folder, dialect) as sandbox:
            sandbox.seed(["always"])
            for number, label in enumerate(["no", "Same", "Same", 'a: "b"']):
                sandbox.put_role(role(label, api_keys=number != 3))
            put(sandbox, keys)
        manifests = exported_and_planned(folder)
        assert "always" in {key.name for key in manifests.desired["dev"]}


def put(sandbox: Sandbox, keys: Iterable[tuple[str, datetime, int]]) -> None:
    """Adds keys of those names, ends and roles by number; as many as there are at one time."""
    rows = []
    roles = sandbox.roles()
    for name, end, number in keys:
        moment = f"{end:%Y-%m-%dT%H:%M:%S}.{end.microsecond // 1000:03}Z"
        role_id = roles[number % len(roles)].id
        rows.append(
            ApiKey(
                id=str(uuid4()),
                name=name,
                expires_at=moment,
                created_at="2026-01-01T00:00:00.000Z",
                updated_at="2026-01-01T00:00:00.000Z",
                role_id=None if sandbox.dialect is Dialect.LEGACY else role_id,
            )
        )
    sandbox.put(*rows)


def exported_and_planned(folder: Path) -> Manifests:
    """Exports `dev` and holds the plan against it; what was loaded."""
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
def test_a_large_workspace_is_adopted_without_a_change(place, dialect) -> None:
    """2 325 keys with strange names among them, of several roles and ends: the plan is empty."""
    folder = place(dialect)
    made = random.Random(2325)
    signs = "abc {}\"'\\:#-~=%@🔑é日本0123"
    wanted = {*STRANGE, *(f"svc-{number:04}" for number in range(1500))}
    while len(wanted) < 2325:
        name = "".join(made.choices(signs, k=made.randint(1, 40)))
        wanted |= {name} if name == name.strip() else set()
    start = datetime(2027, 6, 1)  # noqa: DTZ001 - the server's own text has the zone
    with held(folder, dialect) as sandbox:
        spans = (timedelta(seconds=made.randrange(10**9)) for _ in wanted)
        put(
            sandbox, zip(sorted(wanted), (start + span for span in spans), range(2325), strict=True)
        )
        sandbox.seed([*UNFIT, "svc", "svc"])
        sandbox.seed(["was-revoked"], revoked_at="2026-01-01T00:00:00.000Z")
        sandbox.seed(["has-expired"], expires_at="2026-01-01T00:00:00.000Z")
    desired = exported_and_planned(folder).desired["dev"]
    assert [key.name for key in desired] == sorted(wanted)
    assert len(comments((folder / "all.yaml").read_text())) == len(UNFIT) + 1


# What is written


def test_a_manifest_says_where_and_when_it_comes_from_and_what_most_keys_share() -> None:
    """Byte for byte: names plain where they can be, the role of most keys in `defaults`."""
    admin, no = ROLES[:2]
    keys = [
        observed("svc-mail", admin),
        observed("Nightly export", no, FAR),
        observed("{a}: #1", admin),
    ]
    assert (
        export("production", seen(keys)).text
        == """\
# yaml-language-server: $schema=../schemas/manifest.schema.json
# The live keys of production at 2026-11-23T04:00:00Z, written by `provision export`.
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


def test_no_role_is_a_default_that_most_keys_do_not_have() -> None:
    """With as many of another role each key names its own."""
    shown = export("dev", seen([observed("a", ROLES[0]), observed("b", ROLES[1])])).text
    assert "defaults:" not in shown
    assert ("role: Admin\n" in shown, 'role: "no"\n' in shown) == (True, True)


def test_a_role_is_written_as_its_id_where_its_label_would_not_do() -> None:
    """Labels of several roles, of blanks, of half or unseen characters, one that is an id."""
    manifests = loaded(export("dev", seen([observed(one.id, one) for one in ROLES])).text)
    assert manifests.problems == ()
    as_ids = {key.name for key in manifests.desired["dev"] if key.role == key.name}
    assert as_ids == {ROLES[index].id for index in (3, 4, 5, 8, 11, 12)}


def test_roles_that_are_hidden_are_a_comment_and_those_that_are_not_there_are_none() -> None:
    """Without roles to see nothing is written of them; on legacy nothing needs to be said."""
    hidden = export("dev", seen([observed("a")], HiddenRoles())).text
    assert "\n# Its roles are hidden from the credential, so that none is written.\n" in hidden
    legacy = export("dev", seen([observed("a")], NoRoles())).text
    assert (" role: " in hidden, "role" in legacy) == (False, False)


@pytest.mark.parametrize(("name", "why"), [*UNFIT.items(), ("\ud800", "half a character")])
def test_a_name_that_no_manifest_can_hold_is_a_comment_of_one_line(name: str, why: str) -> None:
    """With the id and the reason, and nothing in it ends the comment or is too long to read."""
    key = observed(name, ROLES[0])
    exported = export("dev", seen([key, observed("fine", ROLES[0])]))
    [comment] = comments(exported.text)
    assert f" ({key.id}): " in comment
    assert comment.endswith(why)
    assert comment.isprintable()
    assert len(comment) < 800
    assert (exported.keys, exported.left_out) == (1, 1)
    assert [one.name for one in loaded(exported.text).desired["dev"]] == ["fine"]


def test_live_keys_of_one_name_are_left_out_with_all_their_ids() -> None:
    """Nobody can tell which of them is in use; dead ones of the name do not count."""
    twins = [observed("twin", ROLES[0]), observed("twin", ROLES[1])]
    dead = observed("single", ROLES[0], NOW)
    exported = export("dev", seen([*twins, dead, observed("single", ROLES[0])]))
    [comment] = comments(exported.text)
    assert all(key.id in comment for key in twins)
    assert comment.endswith("several live keys have this name")
    assert (exported.keys, exported.left_out) == (1, 2)
    assert dead.id not in exported.text


def test_a_key_without_a_role_is_left_out_where_keys_have_roles() -> None:
    """It could get one from `defaults` or from the environment, and that would be a change."""
    [comment] = comments(export("dev", seen([observed("a")])).text)
    assert comment.endswith("it has no role that a manifest could name")


def test_the_name_of_the_environment_is_quoted_like_any_other_word() -> None:
    """`no` and `1.0` are names of environments too."""
    for name in ("no", "1.0"):
        lines = export(name, seen([])).text.splitlines()
        assert f'environment: "{name}"' in lines


def test_a_secret_of_the_run_is_in_no_manifest(monkeypatch, run, place) -> None:
    """A key called by the e-mail of the sign-in is left out, not written in another spelling."""
    monkeypatch.setattr(secret, "_KNOWN", secret._Known())
    email = Secret("someone@shop.example")
    folder = place()
    with held(folder) as sandbox:
        sandbox.seed([f"zapier of {email.reveal()}", f"{'x' * 90}{email.reveal()}", "fine"])
    code, out, err = run("export", "-m", folder)
    assert (code, "2 live keys left out" in err) == (0, True)
    assert "someone" not in out + err
    assert [line for line in comments(out) if "holds a secret of this run" in line] == comments(out)
    assert [key.name for key in loaded(out).desired["dev"]] == ["fine"]


@pytest.mark.parametrize("beside", [-1, 0, 1])
@pytest.mark.parametrize("roles", [(None,), ROLES[:1], ROLES[:2], (*ROLES[:1], *ROLES[:2])])
def test_what_fits_is_what_can_be_loaded(monkeypatch, tmp_path, roles, beside) -> None:
    """The limits of values and of bytes are the loader's own, to the last one."""
    look = seen(
        (observed(f"key-é-{one}", roles[one % len(roles)]) for one in range(12)),
        NoRoles() if roles == (None,) else KnownRoles(ROLES),
    )
    manifest = export("dev", look).text
    file = tmp_path / "keys.yaml"
    file.write_text(manifest, encoding="utf-8")
    values, size = sum(1 for _ in yaml.parse(manifest)), len(manifest.encode())
    for module, name, exact in ((document, "MAX_EVENTS", values), (text, "MAX_BYTES", size)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, exact + beside)
            fits = export("dev", look).fits
            content = text.read(file, "f")
            faults = document.read(content, "f")[1] if isinstance(content, str) else [content]
        assert fits == (beside >= 0)
        assert [fault.code for fault in faults] == ([] if fits else ["file_too_large"])


# The command


def test_a_manifest_goes_to_stdout_and_notes_go_to_stderr(run, place) -> None:
    """So that `> file` is as good as `--to`; what is left out is counted, in JSON lines too."""
    folder = place()
    with held(folder) as sandbox:
        sandbox.seed(["a", "b", "twin", "twin"])
    code, out, err = run("export", "-m", folder, "-q")
    assert (code, len(loaded(out).desired["dev"])) == (0, 2)
    assert err == "warning: dev: 2 live keys left out, with a comment each\n"
    assert run("export", "-m", folder, "--to", "-")[1].splitlines()[2:] == out.splitlines()[2:]
    _, _, err = run("export", "-m", folder, "--log-format", "json")
    assert json.loads(err)["message"] == "dev: 2 live keys left out, with a comment each"
    assert sorted(path.name for path in folder.iterdir()) == ["environments.yaml"]


def test_a_new_file_is_for_this_user_alone_and_whole(run, place, monkeypatch) -> None:
    """Mode 0600 whatever the umask; folders on the way are made; nothing else is left there."""
    folder = place()
    with held(folder) as sandbox:
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
def test_nothing_that_exists_is_overwritten(run, place, what) -> None:
    """Neither a file nor a folder nor a link that leads nowhere: 64, and nothing was asked."""
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


def test_a_file_that_appears_meanwhile_is_not_overwritten(run, tmp_path, monkeypatch) -> None:
    """Another run may write the same file while this one looks at the workspace."""
    file = tmp_path / "keys.yaml"

    def meanwhile(request: Request, inner: Callable[[Request], Response]) -> Response:
        file.write_text("mine")
        return inner(request)

    with Sandbox(None, around=meanwhile) as sandbox:
        monkeypatch.setenv("TOKEN", sandbox.session_token())
        sandbox.seed(["a"])
        code, _, err = run("export", "-m", served(sandbox, tmp_path), "--to", file)
    assert (code, err.split(":")[0], file.read_text()) == (64, "file_exists", "mine")
    assert {path.name for path in tmp_path.iterdir()} == {"keys.yaml", "manifests"}


def test_a_file_that_cannot_be_written_is_wrong_usage(run, place) -> None:
    """The way to it leads through a file: 64, with what to name instead."""
    folder = place()
    with held(folder) as sandbox:
        sandbox.seed(["a"])
    code, out, err = run("export", "-m", folder, "--to", folder / "environments.yaml" / "keys.yaml")
    assert (code, out, err.split(":")[0], "--to" in err) == (64, "", "not_writable", True)


def test_only_bounds_what_is_written(run, place) -> None:
    """Globs, several and by their variable too; other keys are neither written nor told of."""
    folder = place()
    with held(folder) as sandbox:
        sandbox.seed(["svc-a", "svc-b", "app", "App", "twin", "twin"])
    _, out, err = run("export", "-m", folder, "--only", "svc-*", "--only", "a??")
    assert [key.name for key in loaded(out).desired["dev"]] == ["app", "svc-a", "svc-b"]
    assert (comments(out), err) == ([], "")


def test_one_environment_is_named_where_there_are_several(run, place) -> None:
    """64 without; with `-e` it is that one, whatever the other needs."""
    folder = place()
    text_ = (folder / "environments.yaml").read_text()
    (folder / "environments.yaml").write_text(
        f"{text_}  real: {{url: 'https://crm.example.com', auth: {{token: '${{NOT_SET}}'}}}}\n"
    )
    code, _, err = run("export", "-m", folder)
    assert (code, err.split(":")[0]) == (64, "environment_unnamed")
    with held(folder) as sandbox:
        sandbox.seed(["a"])
    assert run("export", "-m", folder, "-e", "dev")[0] == 0
    code, _, err = run("export", "-m", folder, "-e", "real")
    assert (code, "variable_missing" in err) == (3, True)


def test_problems_of_other_manifests_do_not_matter(run, place) -> None:
    """Who adopts keys may be in the middle of writing manifests."""
    folder = place()
    (folder / "half.yaml").write_text("version: 1\n")
    with held(folder) as sandbox:
        sandbox.seed(["a"])
    assert run("export", "-m", folder)[0] == 0


def test_without_a_key_there_is_no_manifest(run, place) -> None:
    """A manifest needs a key: 4, and no file, also where all keys had to be left out."""
    folder = place()
    file = folder / "keys.yaml"
    code, out, err = run("export", "-m", folder, "--to", file)
    assert (code, out, err.split(":")[0], file.exists()) == (4, "", "key_missing", False)
    with held(folder) as sandbox:
        sandbox.seed(["twin", "twin"])
    assert run("export", "-m", folder)[0] == run("export", "-m", folder, "--only", "a*")[0] == 4


def test_what_one_manifest_cannot_hold_is_wrong_usage(run, place, monkeypatch) -> None:
    """More than `load` takes is not written: 64, and `--only` is the way."""
    folder = place()
    with held(folder) as sandbox:
        sandbox.seed(f"{number:03}-{'x' * 900}" for number in range(20))
    monkeypatch.setattr(text, "MAX_BYTES", 10_000)
    file = folder / "keys.yaml"
    code, out, err = run("export", "-m", folder, "--to", file)
    assert (code, out, err.split(":")[0], file.exists()) == (64, "", "file_too_large", False)
    assert "--only" in err
    assert run("export", "-m", folder, "--only", "00*", "--to", file)[0] == 0
    assert load(folder).problems == ()


def test_a_workspace_that_cannot_be_seen_gives_no_manifest(run, tmp_path, monkeypatch) -> None:
    """Down: 4. Another workspace than the pinned one: 5. Half of the keys is never written."""
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


def test_a_bug_is_told_as_one(place, monkeypatch, capsys) -> None:
    """1, with how to report it, and nothing on stdout."""
    monkeypatch.setattr("provisioner.twenty.core.CoreWorkspace.observe", None)
    assert main(["export", "-m", str(place())]) == 1
    out, err = capsys.readouterr()
    assert (out, "This is a bug of provision" in err) == ("", True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_look(tmp_path, number, code) -> None:
    """The code of the signal, the reason on stderr, no manifest and no file."""
    asked, go_on = threading.Event(), threading.Event()

    def hold(request: Request, inner: Callable[[Request], Response]) -> Response:
        asked.set()
        go_on.wait(30)
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
            assert asked.wait(30)
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
            go_on.set()
    assert (process.returncode, out, err.split(":")[0]) == (code, "", "stopped")
    assert not file.exists()
