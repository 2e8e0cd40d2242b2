"""The HTML page of a report: what it contains, and how a browser shows it."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from audits import AUDITS, audit_of, declared, live, malicious, observe
from browser import CHROMIUM, Browser
from builders import DAY, NOW, file_sink

from provisioner.audit.key_audit import audit
from provisioner.model.sink_content import ApiKeyToken
from provisioner.render.audit.due_weeks import due_weeks
from provisioner.render.formats import render
from provisioner.render.report import ReportInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from provisioner.audit.key_audit import FleetAudit


def audit_html(found: FleetAudit) -> str:
    return render(ReportInput(NOW, outcome=found), "html")


class Balanced(HTMLParser):
    """Checks that every element is closed in its place, and that nothing is fetched."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.words: list[str] = []
        self.ids: set[str | None] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in {"src", "srcset", "action", "data", "xlink:href"}
            if name == "id":
                assert value not in self.ids
                self.ids.add(value)
            elif name == "href":
                assert (value or "").startswith("#")
                self.links.add((value or "")[1:])
        if tag not in {"meta", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("found", [*AUDITS.values(), audit_of(2000)], ids=[*AUDITS, "many"])
def test_the_page_is_well_formed_and_self_contained(found) -> None:
    """It is ASCII without links to elsewhere and images, and only its own script may run."""
    page = audit_html(found)
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert parser.links <= parser.ids
    assert not {"link", "img", "iframe", "object", "form", "base"} & set(parser.seen)
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
    assert f'Content-Security-Policy" content="{policy}' in page
    assert not re.search(r"url\((?!#hatch\))|@import|expression", page)
    assert page.isascii()
    assert parser.seen.get("svg", 0) == (1 if found.observed else 0)
    rows = sum(len(one.keys) for one in found.observed)
    assert parser.seen.get("tr", 0) == rows + sum(bool(one.keys) for one in found.observed)


def test_names_are_text_on_the_page() -> None:
    """A name of a key from a server is never markup."""
    parser = Balanced()
    parser.feed(audit_html(malicious()))
    assert "<script>alert(1)</script>" in "".join(parser.words)


def test_the_timeline_counts_every_key() -> None:
    """The bars with their tooltips and the boxes of later keys add up to all keys."""
    found = audit_of(2000)
    page = audit_html(found)
    in_bars = sum(map(int, re.findall(r"days from now: (\d+) keys?:", page)))
    later = sum(map(int, re.findall(r">(\d+) keys? expiring more than 52 weeks", page)))
    assert in_bars + later == sum(len(one.keys) for one in found.observed)
    assert later > 0
    due = {
        (one.environment, key.days_left // 7)
        for one in found.observed
        for key in one.keys
        if key.due
    }
    assert page.count('class="bar due"') == page.count('<text class="sign"') == len(due) > 0


def test_many_environments_share_one_lane() -> None:
    """A page of a thousand workspaces does not start with a thousand lanes."""
    assert audit_html(audit_of(24, 12)).count('<text class="lane"') == 12
    assert audit_html(audit_of(26, 13)).count('<text class="lane"') == 1


def test_pending_revocations_say_which_key_and_when() -> None:
    """The predecessor of a delivered key is revoked when the overlap is over."""
    page = re.sub(r"<[^>]*>", "", audit_html(AUDITS["rotating"]))
    revocation = "revokes 9f1c2d3e-788b-46ff-94d8-2f9cd657a73c of svc in 24 h"
    assert f"{revocation}, when its overlap is over (2026-11-24 04:00 UTC)" in page
    assert "revokes" not in audit_html(AUDITS["some"])


# What is due by week


def weeks_of(*keys: Any, desired: tuple[Any, ...] = ()) -> list[tuple[str, list[str], list[str]]]:
    """Return the days of each entry, and the names of its keys to rotate and that expire."""
    weeks, _ = due_weeks(audit([observe(*keys, desired=desired)], NOW, 14 * DAY))
    return [
        (
            "now" if week.overdue else f"{week.first:%m-%d} {week.last:%m-%d}",
            [one.key.name for one in week.rotate],
            [one.key.name for one in week.expire],
        )
        for week in weeks
    ]


def test_a_key_is_due_in_the_week_of_its_rotation_or_expiry() -> None:
    """An overdue rotation is due now, and consecutive weeks without a key are one entry."""
    keys = (live("soon", 6.99), live("next", 7), live("late", 10), live("rotates", 60))
    desired = (
        *map(declared, ("soon", "next")),
        declared("late", before=11),
        declared("rotates", before=30),
    )
    assert weeks_of(*keys, desired=desired) == [
        ("now", ["late"], []),
        ("11-23 11-29", [], ["soon"]),
        ("11-30 12-06", [], ["next"]),
        ("12-07 12-20", [], []),
        ("12-21 12-27", ["rotates"], []),
        ("12-28 02-21", [], []),
    ]


def test_a_key_that_nobody_needs_is_not_due() -> None:
    """A successor replaces it, or no sink has its token; a key beyond the weeks is counted."""
    old = live(days_left=9, age=80)
    new = live(days_left=87, age=3, run_marker=0.417 / 86_400 * DAY)
    spare = live("dup", days_left=3, age=9)
    kept = live("dup", days_left=89, age=3)
    sink = file_sink()
    desired = (declared("svc", before=14), declared("dup", sink))
    keys, contents = (old, new, spare, kept, live("later", 91)), {sink: ApiKeyToken(kept.id, None)}
    observed = observe(*keys, desired=desired, sink_contents=contents)
    weeks, later = due_weeks(audit([observed], NOW, 14 * DAY))
    assert {one.key.id for week in weeks for one in week.keys} == {new.id, kept.id}
    assert later == 1


# A browser

ROWS = (
    "[...document.querySelectorAll('.keys tbody tr')].filter((one) => one.getClientRects().length)"
)
NAMES = f"{ROWS}.map((one) => one.cells[0].firstChild.textContent)"
OVERFLOWING = """(() => {
  const width = document.documentElement.clientWidth;
  return [...document.querySelectorAll("main *")]
    .filter((one) => !one.closest("svg") && one.getBoundingClientRect().right > width + 0.5)
    .map((one) => one.outerHTML.slice(0, 200));
})()"""
"""The elements that extend beyond the window."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return one browser for all tests of this module."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with Browser() as started:
        yield started


@pytest.fixture
def show(browser, tmp_path) -> Callable[..., None]:
    """Return a function that loads the page of an audit."""

    def show_(found: FleetAudit, width: int, **changes: bool) -> None:
        file = tmp_path / "report.html"
        file.write_text(audit_html(found))
        browser.open(file, width, **changes)

    return show_


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_beyond_the_window(browser, show, width) -> None:
    """Names of 300 characters without a space wrap, in the lists too, at every width."""
    long = "a" * 150 + "\N{GRINNING FACE}" * 75 + "\N{HEBREW LETTER ALEF}" * 75
    sinks = (file_sink("secrets/" + "b" * 300), file_sink("a.env", "V" * 300))
    keys = (live(long, 3, role="r" * 300), *(live(f"{number}-{long}", 2) for number in range(6)))
    desired = (declared(long, *sinks), declared("missing-" + long))
    extreme = observe(*keys, desired=desired, name="e" * 64)
    for found in (audit([extreme], NOW, 14 * DAY), malicious(), audit_of(120), AUDITS["none"]):
        show(found, width)
        size = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        assert browser.evaluate(size) == [width, width]
        assert browser.evaluate(OVERFLOWING) == []
        assert browser.evaluate(f"{ROWS}.length") == found.keys


def test_a_page_without_scripts_shows_everything_and_filters(browser, show) -> None:
    """The search and the sorting, which need the script, are not shown."""
    found = audit_of(120)
    show(found, 390, scripts=False)
    assert browser.evaluate(f"{ROWS}.length") == found.keys
    assert browser.evaluate("document.querySelectorAll('button').length") == 0
    assert browser.evaluate("document.getElementById('tools').getClientRects().length") == 0
    for mark, count in (("due", found.due), ("unmanaged", found.notes["unmanaged"])):
        browser.evaluate(f"document.getElementById('show-{mark}').click()")
        assert browser.evaluate(f"{ROWS}.length") == count > 0


def test_the_script_searches_and_sorts(browser, show) -> None:
    """Every word must be found in a key or its environment; the keyboard sorts too."""
    found = audit_of(120)
    show(found, 1280)
    shown = "document.getElementById('shown').textContent"
    assert browser.evaluate(shown) == f"{found.keys} keys"
    first = found.observed[0]
    names = [key.name for key in first.keys]
    table = f"{NAMES}.slice(0, {len(names)})"
    assert browser.evaluate(table) == names
    head = "document.querySelector('.keys th')"
    browser.evaluate(f"{head}.querySelector('button').focus()")
    by_number = sorted(names, key=lambda name: int(name.removeprefix("svc-")))
    for state, order in (("ascending", by_number), ("descending", by_number[::-1])):
        for kind in ("rawKeyDown", "char", "keyUp"):
            enter = {"key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13}
            browser.call("Input.dispatchKeyEvent", type=kind, **enter)
        assert browser.evaluate(f"{head}.getAttribute('aria-sort')") == state
        assert browser.evaluate(table) == order
    browser.evaluate("document.getElementById('search').focus()")
    browser.call("Input.insertText", text="SHOP-0 unmanaged")
    wanted = {key.name for key in first.keys if "unmanaged" in key.notes}
    browser.evaluate(
        f"new Promise((done) => {{ const look = () => {shown}.includes(' of ') ? done() :"
        " setTimeout(look, 10); look(); })"
    )
    assert browser.evaluate(shown) == f"{len(wanted)} of {found.keys} keys"
    assert set(browser.evaluate(NAMES)) == wanted
