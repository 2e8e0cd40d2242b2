"""The report: the audit of each key, its four formats, its exit codes; and that it only reads."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, get_args

import pytest
from audits import AUDITS, audit_of, declared, live, malicious, observe
from builders import (
    DAY,
    NOW,
    file_sink,
    policy_with,
)
from jsonschema import Draft202012Validator

from provisioner import schemas
from provisioner.audit.key_audit import AuditInput, Note, audit
from provisioner.cli import main
from provisioner.errors.failure import Failure
from provisioner.model.observed import HiddenRoles, NoRoles
from provisioner.model.sink_content import ApiKeyToken, NoToken, Unavailable, Unreadable
from provisioner.render.audit.rows import NOTE_MEANINGS
from provisioner.render.formats import render
from provisioner.render.formats.json import audit_document
from provisioner.render.formats.markdown import audit_markdown
from provisioner.render.formats.text import audit_text
from provisioner.render.report import ReportInput
from provisioner.render.text import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


RUN_MARKER = timedelta(milliseconds=417)
SINK = file_sink("secrets/shop.env")
OTHER = file_sink("secrets/shop.env", "B")


def notes(*inputs: AuditInput, days: float = 14) -> dict[str, tuple[Note, ...]]:
    """Return the notes of each key by its id."""
    found = audit(inputs, NOW, days * DAY)
    return {key.id: key.notes for one in found.observed for key in one.keys}


# Notes


def test_a_key_without_problems_has_no_note() -> None:
    """Its age and remaining time are whole days by the server's clock."""
    key = live(days_left=59.9, age=30.5)
    sink_contents = {SINK: ApiKeyToken(key.id, key.expires_at)}
    desired = (declared("svc", SINK, before=14),)
    [one] = audit(
        [observe(key, desired=desired, sink_contents=sink_contents)], NOW, 14 * DAY
    ).observed
    [found] = one.keys
    assert (found.age_days, found.days_left, found.declared, found.delivery) == (
        30,
        59,
        True,
        "yes",
    )
    assert found.rotation == key.expires_at - 14 * DAY
    assert (found.notes, found.due, one.due, one.missing) == ((), False, 0, ())


def test_dead_keys_are_left_out_and_their_declared_names_are_missing() -> None:
    """A name is missing if all its keys are dead, but not if another one is live."""
    dead = live("gone", -1)
    desired = (declared("svc"), declared("gone"))
    found = audit([observe(dead, live(), live("svc", -3), desired=desired)], NOW, DAY)
    [one] = found.observed
    assert [key.name for key in one.keys] == ["svc"]
    assert (one.missing, found.missing, found.due) == (("gone",), 1, 0)


def test_a_key_has_its_sinks_and_the_place_of_its_manifest() -> None:
    """An undeclared key has neither."""
    keys = live("both"), live("bare", 61), live("odd", 62)
    desired = (declared("both", SINK, OTHER), declared("bare"))
    found = audit([observe(*keys, desired=desired)], NOW, DAY)
    entries = audit_document(found)["environments"][0]["keys"]
    place = ("manifests/a.yaml", 7)
    assert [(one["manifest"], one["line"], one["sinks"]) for one in entries] == [
        (*place, ["file secrets/shop.env A", "file secrets/shop.env B"]),
        (*place, []),
        (None, None, []),
    ]


@pytest.mark.parametrize(("days_left", "is_expiring"), [(14, True), (14.001, False), (0.1, True)])
def test_a_key_that_expires_within_the_given_time_has_a_note(days_left, is_expiring) -> None:
    """It may be declared or not; the limit is exact."""
    for desired in ((), (declared(),)):
        [found] = notes(observe(live(days_left=days_left), desired=desired)).values()
        assert ("expiring" in found) == is_expiring


def test_a_key_whose_successor_is_live_is_not_expiring() -> None:
    """If both expire soon, or the successor is not delivered, one of them has the note."""
    old, new = live(days_left=2, age=80), live(days_left=80, age=1, run_marker=RUN_MARKER)
    desired = (declared(before=14),)
    assert notes(observe(old, new, desired=desired)) == {old.id: ("superseded",), new.id: ()}
    sink_contents = {SINK: ApiKeyToken(old.id, None)}
    undelivered = (declared("svc", SINK, before=14),)
    assert notes(observe(old, new, desired=undelivered, sink_contents=sink_contents)) == {
        old.id: ("expiring", "superseded"),
        new.id: ("undelivered",),
    }
    short = replace(new, expires_at=NOW + 5 * DAY + RUN_MARKER)
    desired = (declared(before=14, expiry="6d"),)
    assert notes(observe(old, short, desired=desired)) == {
        old.id: ("superseded",),
        short.id: ("expiring", "rotation_due"),
    }


@pytest.mark.parametrize(("days_left", "due"), [(35, True), (35.0005, False)])
def test_a_rotation_is_due_at_the_exact_time(days_left, due) -> None:
    """The current key decides, as in a plan."""
    key, desired = (
        live(days_left=days_left, run_marker=RUN_MARKER),
        (declared(before=35 + RUN_MARKER / DAY, expiry="65d"),),
    )
    assert notes(observe(key, desired=desired)) == {key.id: ("rotation_due",) if due else ()}
    older = live(days_left=3, age=50)
    assert notes(observe(older, key, desired=desired)) == {
        key.id: ("rotation_due",) if due else (),
        older.id: ("superseded",),
    }


def test_the_key_whose_token_is_in_a_sink_is_expiring() -> None:
    """A later duplicate that no sink holds does not help."""
    first, later = live(days_left=2, age=9), live(days_left=80, age=3)
    desired = (declared("svc", SINK),)
    contents = {SINK: ApiKeyToken(first.id.upper(), None)}
    assert notes(observe(first, later, desired=desired, sink_contents=contents)) == {
        first.id: ("expiring", "duplicate"),
        later.id: ("duplicate",),
    }
    contents = {SINK: ApiKeyToken(later.id, None)}
    assert notes(observe(first, later, desired=desired, sink_contents=contents))[first.id] == (
        "duplicate",
    )


def test_a_key_that_expires_in_more_than_fifty_years_never_expires() -> None:
    """Twenty's `never` is 100 years."""
    keys = live("a", 36_500), live("b", 50 * 365)
    desired = (declared("a"), declared("b"))
    assert [*notes(observe(*keys, desired=desired)).values()] == [(), ("never_expires",)]


def test_a_lifetime_beyond_the_policy_has_a_note_except_for_clock_differences() -> None:
    """This machine's clock sets the expiry, the server's clock dates the create."""
    policy = policy_with(max_lifetime=90 * DAY)
    fine = live("a", 60, age=30.0005)
    long = live("b", 60, age=30.01)
    desired = (declared("a"), declared("b"))
    assert notes(observe(fine, long, desired=desired, policy=policy)) == {
        fine.id: (),
        long.id: ("too_long",),
    }
    assert notes(observe(long, desired=desired))[long.id] == ()


def test_only_declared_names_have_duplicates() -> None:
    """Both keys have the note; two keys of an undeclared name are only unmanaged."""
    old, new = live(age=9), live(age=3)
    assert set(notes(observe(old, new, desired=(declared(),))).values()) == {("duplicate",)}
    assert set(notes(observe(old, new)).values()) == {("unmanaged",)}


def test_a_key_that_will_be_renamed_is_declared() -> None:
    """It is listed under the name that it has, and its new name is not missing."""
    moved = (declared("new", SINK)._replace(moved_from=("svc",)),)
    observed = observe(live(), desired=moved, sink_contents={SINK: NoToken()})
    for only in ((), ("new",)):
        [one] = audit([observed], NOW, DAY, only).observed
        assert [(key.name, key.declared, key.delivery) for key in one.keys] == [("svc", True, "no")]
        assert one.missing == ()


@pytest.mark.parametrize(
    ("first", "second", "delivery", "note"),
    [
        (ApiKeyToken("id-svc-30", None), ApiKeyToken("ID-SVC-30", None), "yes", ()),
        (ApiKeyToken("id-svc-30", None), NoToken(), "no", ("undelivered",)),
        (ApiKeyToken("id-svc-30", None), ApiKeyToken("another", None), "no", ("undelivered",)),
        (ApiKeyToken("id-svc-30", None), Unreadable(None), "unknown", ("delivery_unknown",)),
        (
            Unreadable(NOW),
            Unavailable(Failure("sink_denied", "no")),
            "unknown",
            ("delivery_unknown",),
        ),
        (Unreadable(NOW), Unreadable(NOW - 40 * DAY), "no", ("undelivered",)),
        (
            Unreadable(NOW),
            Unreadable(NOW, only_writes=False),
            "unknown",
            ("delivery_unknown",),
        ),
        (
            Unreadable(NOW),
            Unreadable(NOW - 40 * DAY, only_writes=False),
            "no",
            ("undelivered",),
        ),
        (NoToken(), Unreadable(None), "no", ("undelivered",)),
    ],
)
def test_a_token_is_delivered_when_every_sink_has_it(first, second, delivery, note) -> None:
    """A sink without it counts more than a sink of unknown content."""
    sink_contents = {SINK: first, OTHER: second}
    observed = observe(live(), desired=(declared("svc", SINK, OTHER),), sink_contents=sink_contents)
    [one] = audit([observed], NOW, DAY).observed
    assert [(key.delivery, key.notes) for key in one.keys] == [(delivery, note)]


def test_a_declared_key_without_a_sink_says_so_in_every_format() -> None:
    """It needs no attention; nothing is known of a key that no manifest declares."""
    found = audit([observe(live(), live("odd"), desired=(declared(),))], NOW, DAY)
    [one] = found.observed
    assert {key.name: (key.delivery, key.notes) for key in one.keys} == {
        "svc": ("no_sink", ()),
        "odd": ("none", ("unmanaged",)),
    }
    keys = audit_document(found)["environments"][0]["keys"]
    assert {key["name"]: key["delivered"] for key in keys} == {"svc": "no_sink", "odd": "none"}
    assert re.search(r"= svc .*  no sink  ", audit_text(found, PLAIN, quiet=False))
    assert re.search(r"<code>svc</code> .*\| no sink \|", audit_markdown(found))
    assert "<small>no sink</small>" in render(ReportInput(NOW, outcome=found), "html")


def test_a_token_of_a_duplicate_is_delivered_but_one_of_a_predecessor_is_not() -> None:
    """With a rotation only the token of the newest key counts."""
    old, new = live(age=9), live(age=3)
    sink_contents = {SINK: ApiKeyToken(new.id, None)}
    assert notes(
        observe(old, new, desired=(declared("svc", SINK),), sink_contents=sink_contents)
    ) == {
        old.id: ("duplicate",),
        new.id: ("duplicate",),
    }
    sink_contents = {SINK: ApiKeyToken(old.id, None)}
    old, new = live(days_left=9, age=9), live(days_left=87, age=3, run_marker=RUN_MARKER)
    assert notes(
        observe(old, new, desired=(declared("svc", SINK, before=14),), sink_contents=sink_contents),
        days=5,
    ) == {
        old.id: ("superseded",),
        new.id: ("undelivered",),
    }


def test_a_name_that_is_admin_in_two_environments_has_a_note_in_both() -> None:
    """On core the label is Admin in any case; on legacy every key is."""
    first = observe(live("a", role="ADMIN"), live("b"), live("c", role="Admin"), name="one")
    second = observe(
        live("a", role=None, id="2a"), live("b", role=None, id="2b"), name="two", roles=NoRoles()
    )
    third = observe(live("c", role=None, id="3c"), name="three", roles=HiddenRoles())
    found = notes(first, second, third)
    assert {key for key, key_notes in found.items() if "shared_admin" in key_notes} == {
        "id-a-30",
        "2a",
    }


def test_only_limits_keys_and_missing_names() -> None:
    """Other names do not appear anywhere."""
    found = audit([observe(live("a"), live("b"), desired=(declared("c"),))], NOW, DAY, only=("a*",))
    [one] = found.observed
    assert ([key.name for key in one.keys], one.missing) == (["a"], ())


def test_ignored_keys_are_left_out() -> None:
    """They have no row and no note, and do not make a name of another environment shared."""
    here, there = (
        observe(live("a"), live("zap-1", role="Admin"), name=name, ignore=ignore)
        for name, ignore in (("shop", ("zap-*",)), ("other", ()))
    )
    found = audit([here, there], NOW, DAY)
    assert [[key.name for key in one.keys] for one in found.observed] == [["a"], ["a", "zap-1"]]
    assert found.notes["shared_admin"] == 0


def test_the_schema_lists_all_notes_and_each_has_a_description() -> None:
    """Programs and readers meet no other note."""
    schema = schemas.load("report")
    assert schema["$defs"]["note"]["enum"] == [*get_args(Note)] == [*NOTE_MEANINGS]
    assert [*schema["$defs"]["summary"]["properties"]["notes"]["properties"]] == [*get_args(Note)]


# Formats


@pytest.mark.parametrize("found", AUDITS.values(), ids=AUDITS)
def test_json_follows_the_schema(found) -> None:
    """Every audit is a valid document."""
    document = audit_document(found)
    errors = Draft202012Validator(schemas.load("report")).iter_errors(document)
    assert [error.message for error in errors] == []


def test_text_has_a_line_for_each_key_and_no_control_characters() -> None:
    """Due keys are marked, and with -q only keys with a note are shown."""
    text = audit_text(malicious(), PLAIN, quiet=False)
    assert re.search(r"^  ! </td>.*\\x1b\[31m\\u202e\\nend", text, re.MULTILINE)
    assert "unreachable" in text
    assert all(char.isprintable() or char == "\n" for char in text)
    assert text.endswith("1 due within 14 days, 1 missing, 1 environment not reached.\n")
    calm = audit([observe(live(), desired=(declared(),))], NOW, DAY)
    assert "  = svc" in audit_text(calm, PLAIN, quiet=False)
    assert audit_text(calm, PLAIN, quiet=True) == ""
    mixed = audit([observe(live(), live("odd"), desired=(declared(),))], NOW, DAY)
    assert re.findall(r"^  [!?=] (\w+)", audit_text(mixed, PLAIN, quiet=True), re.MULTILINE) == [
        "odd"
    ]


def test_markdown_has_a_row_for_each_key_and_escapes_names() -> None:
    """2 000 keys are tables of twelve cells; keys without a note are in a folded section."""
    rows = [line for line in audit_markdown(malicious()).splitlines() if line.startswith("|")]
    assert len(rows) == 6
    assert all(row.count("|") == 13 for row in rows)
    for row in rows[2::3]:
        bare = re.sub(r"</?code>|<br>|&#\d+;|\*\*!\*\*", "", row)
        assert not re.search(r"[<>`*_\[\]@&]", bare)
    many = audit_markdown(audit_of(2000))
    rows = [line for line in many.splitlines() if line.startswith("| ") and "<code>" in line]
    listed = sum(len(one.keys) for one in audit_of(2000).observed)
    assert len(rows) == listed > 1900
    assert many.count("<details>") == many.count("</details>") == 3


@pytest.mark.large
def test_markdown_fits_into_a_step_summary() -> None:
    """The limit is 1 MiB; omitted keys are counted, and keys with a note are omitted last."""
    page = audit_markdown(audit_of(30_000, name="svc-{}-" + "<ä" * 40))
    assert 900_000 < len(page.encode()) < 1 << 20
    assert "more keys, not shown here." in page
    assert page.count("<details>") == page.count("</details>") == 3
    many = audit_markdown(audit_of(3_000, environments=1_500))
    assert len(many.encode()) < 1 << 20
    assert "more environments, not shown here." in many


# The command


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Return a directory with an embedded Twenty of two keys, both delivered to files."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "environments.yaml").write_text(
        "version: 1\nenvironments:\n  shop: {url: 'sandbox:', role: Integrations}\n"
    )
    (folder / "keys.yaml").write_text(
        "version: 1\nenvironment: shop\ndefaults: {expires: 90d, deliver: [{file: s.env}]}\n"
        "keys: [{name: svc-a}, {name: svc-b, expires: never}]\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command: exit code, stdout, stderr."""

    def run_(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_


def test_the_command_reports_keys_and_writes_nothing(here, run) -> None:
    """After an apply all keys are delivered; the report changes no file."""
    assert run("apply")[0] == 0

    def files() -> dict[str, bytes]:
        return {one.name: one.read_bytes() for one in here.iterdir() if one.is_file()}

    before = files()
    code, out, err = run("report", "--format", "json")
    assert (code, err, files()) == (0, "", before)
    [shop] = json.loads(out)["environments"]
    assert [(key["name"], key["delivered"], key["notes"]) for key in shop["keys"]] == [
        ("svc-a", "yes", []),
        ("svc-b", "yes", ["never_expires"]),
    ]
    (here / "s.env").write_text("")
    (here / "manifests" / "keys.yaml").write_text(
        "version: 1\nenvironment: shop\ndefaults: {expires: 90d, deliver: [{file: s.env}]}\n"
        "keys: [{name: svc-a}]\n"
    )
    [shop] = json.loads(run("report", "--format", "json")[1])["environments"]
    assert [key["notes"] for key in shop["keys"]] == [
        ["undelivered"],
        ["never_expires", "unmanaged"],
    ]


def test_each_format_is_printed(here, run) -> None:
    """Text is the default; no format contains a token."""
    run("apply")
    token = re.findall(r"=(\S{40,})", (here / "s.env").read_text())[0]
    starts = {"text": "shop  sandbox:", "markdown": "# API keys", "html": "<!doctype html>"}
    for form, start in starts.items():
        code, out, _ = run("report", "--format", form)
        assert (code, out.startswith(start), token in out) == (0, True, False)
    assert run("report")[1].startswith(starts["text"])


def test_expiring_within_exits_with_2_when_anything_is_due(here, run) -> None:
    """90 days are due within 13 weeks but not 12; without the option it never exits with 2."""
    assert run("report", "--expiring-within", "1h")[0] == 2  # nothing is there yet: missing
    run("apply")
    assert run("report", "--expiring-within", "12w")[0] == 0
    code, out, _ = run("report", "--expiring-within", "P91D")
    assert (code, "  ! svc-a" in out, "2 keys in 1 environment, 1 due within 91 days" in out) == (
        2,
        True,
        True,
    )
    assert run("report", "--expiring-within", "P91D", "--only", "svc-b")[0] == 0
    assert run("report")[0] == 0


@pytest.mark.parametrize("text", ["1y", "0d", "-3d", "soon", ""])
def test_an_invalid_duration_is_wrong_usage(here, run, text) -> None:
    """The message says what to write."""
    code, _, err = run("report", "--expiring-within", text)
    assert (code, "--expiring-within" in err) == (64, True)


def test_an_unreachable_environment_does_not_hide_the_others(here, run, scripted) -> None:
    """Exit code 4 comes before 2; the failure is in the report and on stderr."""
    run("apply")
    server = scripted()
    (here / "manifests" / "environments.yaml").write_text(
        "version: 1\nenvironments:\n  shop: {url: 'sandbox:', role: Integrations}\n"
        f"  away: {{url: '{server.url}', auth: {{token_file: token}}, limits: {{timeout: 1s}}}}\n"
    )
    (here / "token").write_text("e30.e30.e30")
    (here / "token").chmod(0o600)
    code, out, err = run("report", "--format", "json", "--expiring-within", "91d")
    document = json.loads(out)
    Draft202012Validator(schemas.load("report")).validate(document)
    shop, away = document["environments"]
    assert (code, shop["summary"]["due"], away["keys"], away["summary"]) == (4, 1, [], None)
    assert away["error"]["code"] in err


def test_a_sink_that_cannot_be_read_is_a_note_and_a_warning(here, run) -> None:
    """The rest of the report is complete."""
    run("apply")
    (here / "s.env").unlink()
    (here / "s.env").mkdir()
    code, out, err = run("report", "--format", "json")
    [shop] = json.loads(out)["environments"]
    assert code == 0
    assert all("delivery_unknown" in key["notes"] for key in shop["keys"])
    assert "2 sinks could not be read" in err
