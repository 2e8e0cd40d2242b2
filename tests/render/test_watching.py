"""Metrics and the calendar of `report`: what other programs watch, valid by their own parsers."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from builders import (
    DAY,
    NOW,
    desired_key,
    environment_with,
    file_sink,
    observation_with,
    observed_key,
    rotation_with,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from icalendar import Calendar
from prometheus_client import parser as prometheus
from prometheus_client.openmetrics import parser as openmetrics

from provisioner.audit.key_audit import AuditInput, FleetAudit, audit
from provisioner.cli import main
from provisioner.cli.github_actions import without_commands
from provisioner.errors.failure import Failure
from provisioner.model.sink_content import ApiKeyToken, NoToken, Unreadable
from provisioner.plan import Unobserved
from provisioner.render.formats import render
from provisioner.render.report import ReportInput
from provisioner.render.text import visible
from provisioner.secret import Secret

if TYPE_CHECKING:
    from pathlib import Path

    from provisioner.model.observed import ObservedKey

Samples = dict[str, list[tuple[dict[str, str], float]]]

SINK = file_sink("keys.env")
TWO_WEEKS = str(-14 * DAY)
RUN_MARKER = timedelta(milliseconds=417)
NASTY = (
    'a"b\\c',
    "a\nb\r\nc",
    "ends in \\",
    'x"} 1',
    "# EOF",
    "BEGIN:VEVENT",
    "a;b,c:d",
    "\x1b[31mred",
    "\u202eleft",
    "𝓝𝓪𝓶𝓮" * 30,
    "##[add-mask]x",
    " " * 80 + "::add-mask::x" * 20,
)
names = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=120),
)


def live(
    name: str = "svc", days_left: float = 60, number: int = 1, **changes: object
) -> ObservedKey:
    fields: dict[str, object] = {"created_at": NOW - 30 * DAY, "expires_at": NOW + days_left * DAY}
    return observed_key(name, number, **(fields | changes))


def fleet() -> FleetAudit:
    """Return two environments that were read and one that was not."""
    shop = AuditInput(
        environment_with(name="shop"),
        (
            desired_key("svc-a", SINK, environment="shop", rotation=rotation_with(7 * DAY)),
            desired_key("svc-b", file_sink("b.env"), environment="shop"),
            desired_key("svc-c", environment="shop"),
            desired_key("svc-gone", environment="shop"),
        ),
        observation_with(
            live("svc-a", 5, 1),
            live("svc-b", 9, 2),
            live("svc-c", 80 * 365, 3),
            live("by-hand", 100, 4, role=None),
        ),
        {SINK: ApiKeyToken("id-svc-a-1", None), file_sink("b.env"): NoToken()},
    )
    empty = AuditInput(environment_with(name="empty"), (), observation_with(), {})
    down = Unobserved("down", "https://down.example.com", Failure("unreachable", "No, it is not."))
    return audit([shop, down, empty], NOW, 14 * DAY)


def named(*hostile: str) -> FleetAudit:
    keys = (live(name, 10 + index, index + 1, role=name) for index, name in enumerate(hostile))
    one = AuditInput(environment_with(name="shop"), (), observation_with(*keys), {})
    return audit([one], NOW, 14 * DAY)


def rendered(found: FleetAudit, name: str) -> str:
    return render(ReportInput(NOW, outcome=found), name)


def samples(text: str) -> Samples:
    """Return the samples by metric, which both parsers must read in the same way."""

    def found(families) -> Samples:
        return {
            one.name: [(sample.labels, sample.value) for sample in one.samples] for one in families
        }

    metrics = found(openmetrics.text_string_to_metric_families(text))
    assert found(prometheus.text_string_to_metric_families(text)) == metrics
    return metrics


def events(text: str) -> list[dict[str, str]]:
    """Return the properties of each event, with the trigger of its alarm."""
    calendar = Calendar.from_ical(text)
    for component in calendar.walk():
        assert component.errors == []
    assert calendar.to_ical().decode().count("BEGIN:VEVENT") == text.count("BEGIN:VEVENT")
    return [
        {
            **{name: str(event[name]) for name in ("UID", "SUMMARY", "DESCRIPTION", "URL")},
            "at": f"{event['DTSTART'].dt:%Y-%m-%d %H:%M %Z}",
            "categories": event["CATEGORIES"].to_ical().decode(),
            "alarm": ", ".join(str(alarm["TRIGGER"].dt) for alarm in event.walk("VALARM")),
        }
        for event in calendar.walk("VEVENT")
    ]


# Metrics


def test_metrics_show_each_key_and_environment() -> None:
    """Expiries and rotations are timestamps; an unread environment is down and has no keys."""
    found = samples(rendered(fleet(), "openmetrics"))

    def by_name(metric: str) -> dict[str, datetime]:
        return {
            labels["name"]: datetime.fromtimestamp(value, UTC)
            for labels, value in found[f"provision_key_{metric}_timestamp_seconds"]
        }

    def by_environment(metric: str) -> dict[str, float]:
        return {labels["environment"]: value for labels, value in found[f"provision_{metric}"]}

    assert by_name("expiry") == {
        "svc-a": NOW + 5 * DAY,
        "svc-b": NOW + 9 * DAY,
        "svc-c": NOW + 80 * 365 * DAY,
        "by-hand": NOW + 100 * DAY,
    }
    assert by_name("rotation_due") == {"svc-a": NOW - 2 * DAY}
    assert by_environment("environment_up") == {"shop": 1, "down": 0, "empty": 1}
    now = NOW.timestamp()
    assert by_environment("last_run_timestamp_seconds") == {"shop": now, "down": now, "empty": now}
    for metric, count in {
        "keys": 4,
        "keys_due": 2,
        "keys_missing": 1,
        "keys_unmanaged": 1,
        "keys_undelivered": 1,
        "keys_never_expires": 1,
    }.items():
        assert by_environment(metric) == {"shop": count, "empty": 0}
    due = {labels["name"]: value for labels, value in found["provision_key_due"]}
    assert due == {"svc-a": 1, "svc-b": 1, "svc-c": 0, "by-hand": 0}
    undelivered = {labels["name"]: value for labels, value in found["provision_key_undelivered"]}
    assert undelivered == {"svc-a": 0, "svc-b": 1}  # the others have no sink
    info = {labels.pop("name"): labels for labels, _ in found["provision_key_info"]}
    assert info["by-hand"]["state"] == "unmanaged"
    assert "down" not in {labels.get("environment") for labels in info.values()}


def test_delivery_that_is_unknown_has_no_value() -> None:
    """A sink that cannot be read gives neither 0 nor 1, so that no alert fires or ends by it."""
    key = desired_key("svc", SINK, environment="shop")
    one = AuditInput(
        environment_with(name="shop"), (key,), observation_with(live()), {SINK: Unreadable(None)}
    )
    found = samples(rendered(audit([one], NOW, 14 * DAY), "openmetrics"))
    assert "provision_key_undelivered" not in found
    assert [value for _, value in found["provision_keys_delivery_unknown"]] == [1]


@settings(max_examples=20)
@given(st.lists(names, min_size=1, max_size=4))
def test_metrics_are_valid_and_keep_names_whatever_they_are(hostile: list[str]) -> None:
    """Both parsers read back each name, also from the log of a step of GitHub Actions."""
    text = rendered(named(*hostile), "openmetrics")
    found = samples(text)["provision_key_expiry_timestamp_seconds"]
    assert [labels["name"] for labels, _ in found] == list(map(visible, hostile))


def test_an_id_that_a_server_lists_twice_is_one_value() -> None:
    """A repeated sample would make node_exporter reject the whole file."""
    found = samples(rendered(named("svc", "svc"), "openmetrics"))
    assert len(found["provision_key_expiry_timestamp_seconds"]) == 2
    one = AuditInput(
        environment_with(name="shop"), (), observation_with(live("svc"), live("svc", 61)), {}
    )
    found = samples(rendered(audit([one], NOW, 14 * DAY), "openmetrics"))
    assert len(found["provision_key_expiry_timestamp_seconds"]) == 1


def test_a_shard_without_environments_has_valid_metrics() -> None:
    """The file then has no value, and shards on one machine never have the same one."""
    assert rendered(audit([], NOW, 14 * DAY), "openmetrics") == "# EOF\n"
    for metric in samples(rendered(fleet(), "openmetrics")).values():
        assert all("environment" in labels for labels, _ in metric)


# The calendar


def test_the_calendar_has_an_event_for_each_key_that_expires_or_rotates() -> None:
    """People are reminded of what expires, and not of a rotation, which happens by itself."""
    found = {one["SUMMARY"]: one for one in events(rendered(fleet(), "ics"))}
    assert {
        summary: (one["at"], one["alarm"], one["categories"]) for summary, one in found.items()
    } == {
        "svc-a rotates (shop)": ("2026-11-21 04:00 UTC", "", "API keys,rotation,shop"),
        "svc-b expires (shop)": (
            "2026-12-02 04:00 UTC",
            TWO_WEEKS,
            "API keys,expiry,shop",
        ),
        "by-hand expires (shop)": (
            "2027-03-03 04:00 UTC",
            TWO_WEEKS,
            "API keys,expiry,shop",
        ),
    }
    assert "Expires: 2026-11-28" in found["svc-a rotates (shop)"]["DESCRIPTION"]
    assert "Note: no manifest declares its name" in found["by-hand expires (shop)"]["DESCRIPTION"]


def test_a_superseded_key_has_an_alarm_only_if_a_sink_has_its_token() -> None:
    """Nobody has to act on a key that a successor has replaced everywhere."""
    rotated = desired_key("svc", SINK, environment="shop", rotation=rotation_with(14 * DAY))
    old = live("svc", 2, 1, created_at=NOW - 80 * DAY)
    new = live("svc", 80, 2, created_at=NOW - DAY, expires_at=NOW + 80 * DAY + RUN_MARKER)
    for holder, alarm in ((new, ""), (old, TWO_WEEKS)):
        contents = {SINK: ApiKeyToken(holder.id, None)}
        one = AuditInput(environment_with(), (rotated,), observation_with(old, new), contents)
        found = events(rendered(audit([one], NOW, 14 * DAY), "ics"))
        assert [(event["SUMMARY"], event["alarm"]) for event in found] == [
            ("svc expires (shop)", alarm),
            ("svc rotates (shop)", ""),
        ]


@pytest.mark.parametrize("within", [30 * DAY, 1.5 * DAY])
def test_the_alarm_is_as_early_as_expiring_within(within: timedelta) -> None:
    """`--expiring-within` sets how long before the expiry people are reminded."""
    one = AuditInput(environment_with(name="shop"), (), observation_with(live()), {})
    (event,) = events(rendered(audit([one], NOW, within), "ics"))
    assert event["alarm"] == str(-within)


def test_an_event_is_the_same_in_every_run() -> None:
    """Its UID depends on the environment and the id only, so that calendars show no key twice."""

    def uids(found: FleetAudit) -> list[str]:
        return [one["UID"] for one in events(rendered(found, "ics"))]

    def one(environment: str, name: str, days_left: float, later: timedelta) -> FleetAudit:
        observed = observation_with(live(name, days_left, id="id-1"), server_time=NOW + later)
        there = AuditInput(environment_with(name=environment), (), observed, {})
        return audit([there], NOW + later, 14 * DAY)

    first = uids(one("shop", "svc", 60, timedelta(0)))
    assert first == uids(one("shop", "renamed", 90, 3 * DAY))
    assert first != uids(one("other", "svc", 60, timedelta(0)))


def test_a_calendar_without_keys_is_valid_and_says_what_was_not_read() -> None:
    """A calendar must have a component: the journal entry, which names what failed."""
    down = Unobserved("down", "https://down.example.com", Failure("unreachable", "It is off."))
    for found in (audit([], NOW, 14 * DAY), audit([down], NOW, 14 * DAY)):
        text = rendered(found, "ics")
        assert events(text) == []
        (journal,) = Calendar.from_ical(text).walk("VJOURNAL")
        assert journal.errors == []
        assert journal["DTSTAMP"].dt == journal["DTSTART"].dt == NOW
    assert "It is off." in journal["DESCRIPTION"]


@settings(max_examples=20)
@given(st.lists(names, min_size=1, max_size=3))
def test_the_calendar_is_valid_whatever_the_names_are(hostile: list[str]) -> None:
    """Lines have at most 75 octets and end in CRLF, and a name can add no line of its own."""
    text = rendered(named(*hostile), "ics")
    lines = text.encode().split(b"\r\n")
    assert lines.pop() == b""
    assert max(map(len, lines)) <= 75
    assert not any(b"\n" in line or b"\r" in line for line in lines)
    found = events(text)
    shown = list(map(visible, hostile))
    assert [one["SUMMARY"] for one in found] == [f"{one} expires (shop)" for one in shown]
    for one, event in zip(shown, found, strict=True):
        assert f"Role: {one}\n" in event["DESCRIPTION"]


def test_a_secret_that_two_lines_share_is_masked() -> None:
    """Masking comes before folding, which would split a secret so that nobody finds it."""
    secret = "a-password-that-is-longer-than-one-line-of-a-calendar-" * 2
    Secret(secret)
    text = rendered(named(f"svc {secret}"), "ics").replace("\r\n ", "")
    assert secret not in text
    assert "SUMMARY:svc *** expires (shop)" in text


# Streams and files


@pytest.mark.parametrize("name", ["openmetrics", "ics"])
def test_a_step_of_github_actions_finds_no_command(name: str, monkeypatch) -> None:
    """The runner obeys `##[` anywhere and `::` at the start of a line; the syntax stays valid."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    text = without_commands(rendered(named(*NASTY), name), name)
    assert "##[" not in text
    assert not any(line.strip().startswith("::") for line in text.splitlines())
    if name == "ics":
        assert len(events(text)) == len(NASTY)
    else:
        assert len(samples(text)["provision_key_expiry_timestamp_seconds"]) == len(NASTY)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """Return a project with one embedded environment, whose keys are not created yet."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "environments.yaml").write_text(
        "version: 1\nenvironments: {shop: {url: 'sandbox:', role: Integrations}}\n"
    )
    (folder / "keys.yaml").write_text(
        "version: 1\nenvironment: shop\ndefaults: {expires: 90d, deliver: [{file: s.env}]}\n"
        "keys: [{name: svc-ключ}]\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_report_is_written_to_a_file_completely_or_not_at_all(here, run) -> None:
    """`--to` replaces the file at once, for a program that reads it at any time; umask decides."""
    assert run("apply")[0] == 0
    file = here / "metrics" / "keys.prom"
    assert run("report", "--format", "openmetrics", "--to", file) == (0, "", f"wrote {file}\n")
    before = os.umask(0)
    os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~before
    found = samples(file.read_text())
    (labels, _), *_ = found["provision_key_expiry_timestamp_seconds"]
    assert labels["name"] == "svc-ключ"
    inode = file.stat().st_ino
    assert run("report", "-q", "--format", "ics", "--to", file) == (0, "", "")
    assert file.stat().st_ino != inode
    assert file.read_bytes().startswith(b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\n")
    assert [one.name for one in file.parent.iterdir()] == ["keys.prom"]
    # What cannot be written is an error, and a file that was there stays.
    code, _, err = run("report", "--to", file / "below")
    assert (code, "not_writable" in err) == (64, True)
    assert file.read_bytes().startswith(b"BEGIN:VCALENDAR")
    assert json.loads(run("report", "--format", "json", "--to", "-")[1])["summary"]["keys"] == 1


@pytest.mark.parametrize("form", ["openmetrics", "ics"])
def test_formats_for_programs_are_utf_8_on_any_stdout(form: str, here, monkeypatch) -> None:
    """Both standards demand UTF-8, and have no escape for what another encoding lacks."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["apply", "--quiet"]) == 0
    assert main(["report", "--format", form]) == 0
    assert "svc-ключ" in stdout.buffer.getvalue().decode().replace("\r\n ", "")
