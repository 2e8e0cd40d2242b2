"""The report: what is said of each key, in four forms; that it only reads; and its exit codes."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, get_args

import pytest
from builders import (
    DAY,
    NOW,
    desired_key,
    environment_with,
    file_sink,
    observation_with,
    observed_key,
    policy_with,
    rotation_with,
)
from jsonschema import Draft202012Validator

from provisioner import schemas
from provisioner.audit.key_audit import AuditInput, FleetAudit, Note, audit
from provisioner.cli import main
from provisioner.errors.failure import Failure
from provisioner.model.observed import HiddenRoles, NoRoles, ObservedKey
from provisioner.model.sink_address import FileAddress
from provisioner.model.sink_content import ApiKeyToken, NoToken, Unavailable, Unreadable
from provisioner.plan import Unobserved
from provisioner.render.audit import audit_document, audit_markdown, audit_page, audit_text
from provisioner.render.audit.labels import MEANINGS
from provisioner.render.text import PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from provisioner.model.key import DesiredKey

MARK = timedelta(milliseconds=417)
SINK = file_sink("secrets/shop.env")
OTHER = file_sink("secrets/shop.env", "B")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def live(name: str = "svc", left: float = 60, **changes: Any) -> ObservedKey:
    age = changes.pop("age", 30)
    end = NOW + left * DAY + changes.pop("mark", timedelta(0))
    fields: dict[str, Any] = {"id": f"id-{name}-{age}", "role": "Integrations"} | changes
    fields |= {"expires_at": end, "created_at": NOW - age * DAY}
    return observed_key(name, **fields)


def wanted(
    name: str = "svc", *deliver: FileAddress, before: float | None = None, expiry: str = "90d"
) -> DesiredKey:
    rotation = None if before is None else rotation_with(before * DAY, written="")
    return desired_key(name, *deliver, expiry=expiry, depth=0, rotation=rotation)


def look(*keys: ObservedKey, desired: tuple[DesiredKey, ...] = (), **changes: Any) -> AuditInput:
    environment = environment_with(
        name=changes.pop("name", "shop"),
        policy=changes.pop("policy", None),
    )
    sink_contents = changes.pop("sink_contents", {})
    observation = observation_with(*keys, **({"workspace": None} | changes))
    return AuditInput(environment, desired, observation, sink_contents)


def notes(*looks: AuditInput, days: float = 14) -> dict[str, tuple[Note, ...]]:
    """The notes by the id of each key."""
    found = audit(looks, NOW, days * DAY)
    return {key.id: key.notes for one in found.observed for key in one.keys}


# What is said of a key


def test_a_key_in_order_has_its_figures_and_no_note() -> None:
    """Age and rest are whole days by the server's clock."""
    key = live(left=59.9, age=30.5)
    sink_contents = {SINK: ApiKeyToken(key.id, key.expires_at)}
    desired = (wanted("svc", SINK, before=14),)
    [one] = audit([look(key, desired=desired, sink_contents=sink_contents)], NOW, 14 * DAY).observed
    [found] = one.keys
    assert (found.age, found.left, found.declared, found.delivery) == (30, 59, True, "yes")
    assert found.rotation == key.expires_at - 14 * DAY
    assert (found.notes, found.due, one.due, one.missing) == ((), False, 0, ())


def test_dead_keys_are_left_out_and_what_is_wanted_of_them_is_missing() -> None:
    """A name whose keys have all ended is told as missing, a dead twin of a live key is not."""
    dead = live("gone", -1)
    desired = (wanted("svc"), wanted("gone"))
    found = audit([look(dead, live(), live("svc", -3), desired=desired)], NOW, DAY)
    [one] = found.observed
    assert [key.name for key in one.keys] == ["svc"]
    assert (one.missing, found.missing, found.due) == (("gone",), 1, 0)


@pytest.mark.parametrize(("left", "expires"), [(14, True), (14.001, False), (0.1, True)])
def test_a_key_that_ends_within_the_time_is_expiring(left, expires) -> None:
    """Declared or not, to the very moment."""
    for desired in ((), (wanted(),)):
        [found] = notes(look(live(left=left), desired=desired)).values()
        assert ("expiring" in found) == expires


def test_of_several_keys_of_a_name_the_last_to_end_is_expiring() -> None:
    """A key whose successor lives on needs nobody; where both end, one of them is due."""
    old, new = live(left=2, age=80), live(left=80, age=1, mark=MARK)
    desired = (wanted(before=14),)
    assert notes(look(old, new, desired=desired)) == {old.id: ("superseded",), new.id: ()}
    sink_contents = {SINK: ApiKeyToken(old.id, None)}
    undelivered = (wanted("svc", SINK, before=14),)
    assert notes(look(old, new, desired=undelivered, sink_contents=sink_contents)) == {
        old.id: ("expiring", "superseded"),
        new.id: ("undelivered",),
    }
    short = replace(new, expires_at=NOW + 5 * DAY + MARK)
    desired = (wanted(before=14, expiry="6d"),)
    assert notes(look(old, short, desired=desired)) == {
        old.id: ("superseded",),
        short.id: ("expiring", "rotation_due"),
    }


@pytest.mark.parametrize(("left", "due"), [(35, True), (35.0005, False)])
def test_a_rotation_is_due_from_its_moment_on(left, due) -> None:
    """By the key of its name, as in a plan."""
    key, desired = live(left=left, mark=MARK), (wanted(before=35 + MARK / DAY, expiry="65d"),)
    assert notes(look(key, desired=desired)) == {key.id: ("rotation_due",) if due else ()}
    older = live(left=3, age=50)
    assert notes(look(older, key, desired=desired)) == {
        key.id: ("rotation_due",) if due else (),
        older.id: ("superseded",),
    }


def test_what_a_sink_holds_is_due_when_that_ends() -> None:
    """A later twin that nobody has the token of is no comfort."""
    first, later = live(left=2, age=9), live(left=80, age=3)
    desired = (wanted("svc", SINK),)
    told = {SINK: ApiKeyToken(first.id.upper(), None)}
    assert notes(look(first, later, desired=desired, sink_contents=told)) == {
        first.id: ("expiring", "duplicate"),
        later.id: ("duplicate",),
    }
    told = {SINK: ApiKeyToken(later.id, None)}
    assert notes(look(first, later, desired=desired, sink_contents=told))[first.id] == (
        "duplicate",
    )


def test_what_ends_in_more_than_fifty_years_never_expires() -> None:
    """Twenty writes 100 years for it."""
    keys = live("a", 36_500), live("b", 50 * 365)
    desired = (wanted("a"), wanted("b"))
    assert [*notes(look(*keys, desired=desired)).values()] == [(), ("never_expires",)]


def test_a_lifetime_over_the_policy_is_too_long_by_more_than_a_clock_may_differ() -> None:
    """The end was counted by our clock, the start by the server's; other environments may do it."""
    policy = policy_with(max_lifetime=90 * DAY)
    fine = live("a", 60, age=30.0005)
    long = live("b", 60, age=30.01)
    desired = (wanted("a"), wanted("b"))
    assert notes(look(fine, long, desired=desired, policy=policy)) == {
        fine.id: (),
        long.id: ("too_long",),
    }
    assert notes(look(long, desired=desired))[long.id] == ()


def test_duplicates_are_those_of_a_declared_name_without_rotation() -> None:
    """Both are told; two keys of a name that nobody declared are unmanaged and no more."""
    old, new = live(age=9), live(age=3)
    assert set(notes(look(old, new, desired=(wanted(),))).values()) == {("duplicate",)}
    assert set(notes(look(old, new)).values()) == {("unmanaged",)}


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
        (NoToken(), Unreadable(None), "no", ("undelivered",)),
    ],
)
def test_a_token_is_delivered_when_every_sink_has_it(first, second, delivery, note) -> None:
    """What lacks it outweighs what cannot be told."""
    sink_contents = {SINK: first, OTHER: second}
    seen = look(live(), desired=(wanted("svc", SINK, OTHER),), sink_contents=sink_contents)
    [one] = audit([seen], NOW, DAY).observed
    assert [(key.delivery, key.notes) for key in one.keys] == [(delivery, note)]


def test_a_token_of_a_twin_is_no_fault_but_one_of_a_predecessor_is() -> None:
    """Any key of a duplicated name will do; with rotation only the newest will."""
    old, new = live(age=9), live(age=3)
    sink_contents = {SINK: ApiKeyToken(new.id, None)}
    assert notes(look(old, new, desired=(wanted("svc", SINK),), sink_contents=sink_contents)) == {
        old.id: ("duplicate",),
        new.id: ("duplicate",),
    }
    sink_contents = {SINK: ApiKeyToken(old.id, None)}
    old, new = live(left=9, age=9), live(left=87, age=3, mark=MARK)
    assert notes(
        look(old, new, desired=(wanted("svc", SINK, before=14),), sink_contents=sink_contents),
        days=5,
    ) == {
        old.id: ("superseded",),
        new.id: ("undelivered",),
    }


def test_a_name_that_may_do_all_in_two_environments_is_told_in_both() -> None:
    """By the label Admin on core, whatever its case, and by any key on legacy."""
    first = look(live("a", role="ADMIN"), live("b"), live("c", role="Admin"), name="one")
    second = look(
        live("a", role=None, id="2a"), live("b", role=None, id="2b"), name="two", roles=NoRoles()
    )
    third = look(live("c", role=None, id="3c"), name="three", roles=HiddenRoles())
    found = notes(first, second, third)
    assert {key for key, said in found.items() if "shared_admin" in said} == {"id-a-30", "2a"}


def test_only_bounds_keys_and_missing_names() -> None:
    """What is not asked for is in no figure."""
    found = audit([look(live("a"), live("b"), desired=(wanted("c"),))], NOW, DAY, only=("a*",))
    [one] = found.observed
    assert ([key.name for key in one.keys], one.missing) == (["a"], ())


def test_the_closed_list_of_notes_is_in_the_schema_and_each_has_a_meaning() -> None:
    """A program meets no other note, and a reader none without a sentence."""
    schema = schemas.load("report")
    assert schema["$defs"]["note"]["enum"] == [*get_args(Note)] == [*MEANINGS]
    assert [*schema["$defs"]["summary"]["properties"]["notes"]["properties"]] == [*get_args(Note)]


# The forms of it

NASTY = "</td><script>alert(1)</script>|`*_[x](http://a.b) @all & \x1b[31m\u202e\nend"


def reconciler(count: int, environments: int = 3, *, name: str = "svc-{}") -> FleetAudit:
    """Some of every kind of key, in every environment."""
    looks: list[AuditInput | Unobserved] = []
    for place in range(environments):
        keys = [
            live(
                name.format(number),
                (number * 7 + 3) % 400 if number % 9 else 36_500,
                age=1 + number % 90,
                id=f"{number:08x}-788b-46ff-94d8-2f9cd657a73c",
                role="Admin" if number % 5 == 0 else "Integrations",
            )
            for number in range(place, count, environments)
        ]
        sinks = [FileAddress("secrets/shop.env", key.id) for key in keys]
        desired = tuple(
            wanted(key.name, sink) for key, sink in zip(keys, sinks, strict=True) if key.live(NOW)
        )[::2]
        sink_contents = {
            sink: ApiKeyToken(key.id, None) if number % 10 else NoToken()
            for number, (key, sink) in enumerate(zip(keys, sinks, strict=True))
        }
        looks.append(
            look(*keys, desired=desired, sink_contents=sink_contents, name=f"shop-{place}")
        )
    return audit(looks, NOW, 14 * DAY)


def nasty() -> FleetAudit:
    """Names as bad as a server may have them, and an environment that was not reached."""
    away = Unobserved("away", "https://b.example", Failure("unreachable", f"no {NASTY}"))
    seen = look(live(NASTY, 3, id=NASTY, role=NASTY), desired=(wanted(NASTY + "2"),))
    return audit([seen, away], NOW, 14 * DAY)


FLEETS = {
    "none": audit([], NOW, DAY),
    "one": reconciler(1, 1),
    "some": reconciler(21),
    "bad": nasty(),
}


@pytest.mark.parametrize("found", FLEETS.values(), ids=FLEETS)
def test_json_is_by_the_schema(found) -> None:
    """Every fleet makes a valid document."""
    document = audit_document(found)
    errors = Draft202012Validator(schemas.load("report")).iter_errors(document)
    assert [error.message for error in errors] == []


def test_text_has_a_line_for_each_key_and_draws_nothing() -> None:
    """What is due is marked; a name moves no cursor; quietly, only what has a note is left."""
    text = audit_text(nasty(), PLAIN, quiet=False)
    assert re.search(r"^  ! </td>.*\\x1b\[31m\\u202e\\nend", text, re.MULTILINE)
    assert "unreachable" in text
    assert all(char.isprintable() or char == "\n" for char in text)
    assert text.endswith("1 due within 14 days, 1 missing, 1 environment not reached.\n")
    calm = audit([look(live(), desired=(wanted(),))], NOW, DAY)
    assert "  = svc" in audit_text(calm, PLAIN, quiet=False)
    assert audit_text(calm, PLAIN, quiet=True) == ""
    mixed = audit([look(live(), live("odd"), desired=(wanted(),))], NOW, DAY)
    assert re.findall(r"^  [!?=] (\w+)", audit_text(mixed, PLAIN, quiet=True), re.MULTILINE) == [
        "odd"
    ]


def test_markdown_has_a_row_for_each_key_and_names_are_no_markup() -> None:
    """2 000 keys stay tables of ten cells; those without a note are folded away."""
    rows = [line for line in audit_markdown(nasty()).splitlines() if line.startswith("|")]
    assert len(rows) == 3
    assert all(row.count("|") == 11 for row in rows)
    bare = re.sub(r"</?code>|&#\d+;|\*\*!\*\*", "", rows[2])
    assert not re.search(r"[<>`*_\[\]@&]", bare)
    many = audit_markdown(reconciler(2000))
    rows = [line for line in many.splitlines() if line.startswith("| ") and "<code>" in line]
    listed = sum(len(one.keys) for one in reconciler(2000).observed)
    assert len(rows) == listed > 1900
    assert many.count("<details>") == many.count("</details>") == 3


def test_markdown_stays_below_what_a_step_summary_takes() -> None:
    """1 MiB; what does not fit is counted, and keys with a note go last."""
    told = audit_markdown(reconciler(30_000, name="svc-{}-" + "<ä" * 40))
    assert 900_000 < len(told.encode()) < 1 << 20
    assert "more keys, not shown here." in told
    assert told.count("<details>") == told.count("</details>") == 3
    many = audit_markdown(reconciler(3_000, environments=1_500))
    assert len(many.encode()) < 1 << 20
    assert "more environments, not shown here." in many


class Balanced(HTMLParser):
    """Every element that opens closes, in its place; nothing is fetched and nothing runs."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        for name, _ in attrs:
            assert not name.startswith("on"), name
            assert name not in {"src", "href", "srcset", "action", "data", "xlink:href"}
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("found", [*FLEETS.values(), reconciler(2000)], ids=[*FLEETS, "many"])
def test_the_page_is_balanced_and_needs_nothing_but_itself(found) -> None:
    """No script, no address, no picture; a policy that would forbid them; pure ASCII."""
    page = audit_page(found)
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert not {"script", "link", "img", "iframe", "object", "a", "form"} & set(parser.seen)
    assert (
        "Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'" in page
    )
    assert not re.search(r"url\((?!#hatch\))|@import|expression", page)
    assert page.isascii()
    assert parser.seen.get("svg", 0) == (1 if found.observed else 0)
    rows = sum(len(one.keys) for one in found.observed)
    assert parser.seen.get("tr", 0) == rows + sum(bool(one.keys) for one in found.observed)


def test_names_stand_on_the_page_as_text() -> None:
    """What a server calls a key is read, and never run or drawn."""
    parser = Balanced()
    parser.feed(audit_page(nasty()))
    assert "<script>alert(1)</script>" in "".join(parser.words)


def test_the_timeline_counts_every_key() -> None:
    """Bars, with their tooltips, and the boxes of what ends later add up to the fleet."""
    found = reconciler(2000)
    page = audit_page(found)
    in_bars = sum(map(int, re.findall(r"days from now: (\d+) keys?:", page)))
    later = sum(map(int, re.findall(r">(\d+) keys? later than 52 weeks", page)))
    assert in_bars + later == sum(len(one.keys) for one in found.observed)
    assert later > 0
    due = {
        (one.environment, key.left // 7) for one in found.observed for key in one.keys if key.due
    }
    assert page.count('class="bar due"') == page.count('<text class="sign"') == len(due) > 0


def test_many_environments_share_one_lane() -> None:
    """A page of a thousand workspaces does not begin with a thousand lanes."""
    assert audit_page(reconciler(24, 12)).count('<text class="lane"') == 12
    assert audit_page(reconciler(26, 13)).count('<text class="lane"') == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    "found", [reconciler(1, 1), nasty(), reconciler(400)], ids=["one", "bad", "many"]
)
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_the_page_without_scrolling_sideways(tmp_path, found, width) -> None:
    """In a frame as wide as a phone nothing but the tables' own boxes is wider than it."""
    page = html.escape(audit_page(found))
    measure = (
        "const page = f.contentDocument; document.title = ['measured',"
        "page.documentElement.scrollWidth - page.documentElement.clientWidth,"
        "page.querySelector('svg').getBoundingClientRect().width,"
        "page.querySelectorAll('tbody tr').length].join(' ')"
    )
    file = tmp_path / "frame.html"
    file.write_text(
        f'<iframe id="f" style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>'
        f"<script>onload = () => {{ {measure} }}</script>"
    )
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    over, drawn, rows = re.findall(r"<title>measured (\S+) (\S+) (\S+)</title>", shown)[0]
    assert int(over) == 0
    assert 0.75 * width < float(drawn) < width
    assert int(rows) == sum(len(one.keys) for one in found.observed)


# The command


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A directory with an embedded Twenty of two keys, both delivered to files."""
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
    """Runs a command; its exit code, stdout and stderr."""

    def run_(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_


def test_the_command_tells_what_is_there_and_writes_nothing(here, run) -> None:
    """After an apply all is delivered; a second report is the same, and so are the files."""
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


def test_each_form_is_printed(here, run) -> None:
    """Text by default, Markdown and a page where they are asked for; none holds a token."""
    run("apply")
    token = re.findall(r"=(\S{40,})", (here / "s.env").read_text())[0]
    starts = {"text": "shop  sandbox:", "markdown": "# API keys", "html": "<!doctype html>"}
    for form, start in starts.items():
        code, out, _ = run("report", "--format", form)
        assert (code, out.startswith(start), token in out) == (0, True, False)
    assert run("report")[1].startswith(starts["text"])


def test_expiring_within_exits_with_2_when_anything_is_due(here, run) -> None:
    """90 days are due within 13 weeks and not within 12; without the option nothing is 2."""
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
def test_what_is_no_duration_is_wrong_usage(here, run, text) -> None:
    """And it says what to write."""
    code, _, err = run("report", "--expiring-within", text)
    assert (code, "--expiring-within" in err) == (64, True)


def test_an_environment_out_of_reach_is_told_and_the_others_reported(here, run, scripted) -> None:
    """4, before 2; its failure stands in the report and on stderr."""
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


def test_a_sink_that_cannot_be_looked_into_is_a_note_and_a_warning(here, run) -> None:
    """The rest of the report is as good as ever."""
    run("apply")
    (here / "s.env").unlink()
    (here / "s.env").mkdir()
    code, out, err = run("report", "--format", "json")
    [shop] = json.loads(out)["environments"]
    assert code == 0
    assert all("delivery_unknown" in key["notes"] for key in shop["keys"])
    assert "2 sinks could not be read" in err
