"""What a terminal shows: the pictures of commands, on a real pseudo-terminal and in any width."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from unicodedata import normalize

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.audit.check import Check, Diagnosis
from provisioner.audit.key_audit import AuditInput, audit
from provisioner.cli.console import Console
from provisioner.cli.options import OutputOptions
from provisioner.cli.show import show_audit, show_diagnoses, show_plan, show_result
from provisioner.cli.terminal import fit, lay_out, wrap
from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.execution import CreatedByAnotherRun, Done, Executed, Failed, RunResult, Skipped
from provisioner.plan import Change, Drift, Estimate, Expiring, Unobserved
from provisioner.render.keys import keys_view
from provisioner.render.outcome.text import plan_text
from provisioner.render.outcome.view import plan_view
from provisioner.render.report import ReportInput
from provisioner.render.text import COLOUR, PLAIN
from provisioner.render.times import UTC_TIMES, Times
from provisioner.secret import Secret
from tests.builders import (
    DAY,
    DIGEST,
    END,
    NOW,
    create,
    deliver,
    desired_key,
    environment_with,
    file_sink,
    observation_with,
    observed_key,
    part_with,
    plan_with,
    rename,
    revoke,
    rotate,
    update,
    vault_sink,
)
from tests.terminal import SECOND_CELL, screen_of, terminal_as_stdout

RED = "\x1b[31m"
KEY_ID = "9f1c2b7e-5a60-4a0e-8a55-0d5f5c1f2a10"
ROLE_UNKNOWN = Failure(
    Code.ROLE_UNKNOWN,
    "The role 'Nobody' does not exist in this workspace.",
    "Choose one of: Admin, Integrations, Worker.",
)
UNREACHABLE = Failure(
    Code.UNREACHABLE,
    "Cannot reach europe (crm.example.com:443): nothing is listening at that address.",
    "Check `url`, the network and that the server is running.",
)
EUROPE = Unobserved("europe", "https://europe.crm.example.com", UNREACHABLE)

ACTIONS = (
    create("svc-billing", file_sink("secrets/shop.env", "SVC_BILLING")),
    create("svc-請求書-東京", file_sink("secrets/shop.env", "SVC_TOKYO")),
    create("svc-🚀-deploy", vault_sink("twenty/deploy"), expires_at=NOW + timedelta(hours=31)),
    update("svc-reports", changes=update().changes),
    rotate(create("svc-etl-eu")),
    deliver("svc-mail", vault_sink("twenty/mail")),
    revoke("svc-old", key_id=KEY_ID),
    create("svc-shop", role="Nobody", blocked=ROLE_UNKNOWN),
    create("svc-till", role="Nobody", blocked=ROLE_UNKNOWN),
)

PLAN = plan_with(
    part_with(
        *ACTIONS,
        kept=("a",) * 14,
        findings=(
            Drift("svc-x", (KEY_ID,), "role", "Admin", "Worker", "not_owned"),
            Expiring("svc-y", (KEY_ID,), "2026-11-28T04:00:00Z"),
        ),
        estimate=Estimate(9, 1.2),
    ),
    part_with(environment="staging", url="sandbox:", kept=("a", "b")),
    part_with(environment="production-eu", kept=("a",)),
    EUROPE,
)

ENVIRONMENT = environment_with(owns=("*",))
AUDIT = audit(
    (
        AuditInput(
            ENVIRONMENT,
            (desired_key("svc-billing"), desired_key("svc-請求書-東京"), desired_key("svc-gone")),
            observation_with(
                observed_key("svc-billing", expires_at=NOW + 5 * DAY),
                observed_key("svc-請求書-東京"),
                observed_key("by-hand", expires_at=NOW + timedelta(days=36_500)),
            ),
            {},
        ),
        EUROPE,
    ),
    NOW,
    timedelta(days=14),
)

DIAGNOSES = (
    Diagnosis(
        "shop",
        "https://crm.example.com",
        "core",
        (
            Check("reached", "ok", "The server responds in 12 ms."),
            Check("roles", "not_checked", "The manifests have problems."),
            Check(
                "credential",
                "failed",
                "The credential was not accepted.",
                "Check that TWENTY_TOKEN is the token of a key that has not expired.",
                Code.CREDENTIAL_EXPIRED,
            ),
        ),
    ),
)


def output_with(**changes):
    """Return the options of text output with these values."""
    output = OutputOptions(
        quiet=False, log_level="warning", log_format="text", color="auto", format="text"
    )
    return output._replace(**changes)


@pytest.fixture
def picture(monkeypatch):
    """Return a function that shows something on a real terminal and returns its text."""
    monkeypatch.setattr("provisioner.cli.console.set_up_log", lambda *_: None)

    def take(show, columns, **changes):
        with (
            click.Context(click.Command("x"), obj=[]),
            terminal_as_stdout(monkeypatch, columns) as terminal,
        ):
            show(Console(output_with(**changes)))
        return terminal.text

    return take


RESULT = RunResult(
    NOW,
    DIGEST,
    (
        Executed(
            part_with(*ACTIONS[:5], kept=("a",)),
            (
                Done(ACTIONS[0], KEY_ID, None),
                CreatedByAnotherRun(ACTIONS[1], KEY_ID, None),
                Failed(ACTIONS[2], ROLE_UNKNOWN),
                Skipped(ACTIONS[3], Failure(Code.STOPPED, "The run was stopped.")),
                Done(ACTIONS[4], KEY_ID, None),
            ),
        ),
    ),
)

SHOW = {
    "plan": partial(show_plan, PLAN),
    "apply": partial(show_result, RESULT),
    "report": partial(show_audit, ReportInput(NOW, outcome=AUDIT), AUDIT),
    "doctor": partial(show_diagnoses, DIAGNOSES),
}

PICTURES = Path(__file__).parent / "pictures"
"""The text of each picture; to accept a change, delete the file and run the test twice."""


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", SHOW)
def test_the_picture_of_a_command(picture, command, columns) -> None:
    """On a real terminal of this width, a command shows exactly the text of its picture."""
    file = PICTURES / f"{command}-{columns}.txt"
    shown = picture(SHOW[command], columns)
    if not file.exists():
        file.write_text(shown, encoding="utf-8")
        pytest.fail(f"{file.name} was written; look at it")
    assert shown == file.read_text(encoding="utf-8")


NAMES = (
    *("svc-{}-billing", "svc-{}-請求書-東京", "svc-{}-🚀-deploy", "svc-{}-배송", "svc-{}-👍🏽"),
    *("svc-{}-🇩🇪", "svc-{}-cafe\u0301", "svc-{}-отчёт", "svc {} with spaces", "svc-{}-❤\ufe0f"),
    "svc-{}-an-integration-with-a-name-that-somebody-chose-in-a-hurry-eu-west-1",
)
MANY = plan_with(
    part_with(
        *(create(NAMES[n % len(NAMES)].format(n), file_sink(variable=f"V{n}")) for n in range(500)),
        estimate=Estimate(9, 1.2),
    )
)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_500_keys_stay_in_their_columns(columns) -> None:
    """With CJK, emoji and combining names, columns stay aligned and words stay whole."""
    written = lay_out(plan_view(MANY, UTC_TIMES), columns, PLAIN)
    lines = screen_of(written.replace("\n", "\r\n"), columns)
    # A line that is too wide would be two lines of the screen.
    assert len(lines) == written.count("\n")
    expiries = [line.index("in 90 days") for line in lines if "in 90 days" in line]
    assert (len(expiries), len(set(expiries))) == (500, 1)
    shown = "\n".join(lines).replace(SECOND_CELL, "")
    whole = re.sub(r"(?<=-)\n +", "", shown)
    for action in MANY.environments[0].actions:
        # The emulator drops the variation selector.
        assert normalize("NFC", action.name).replace("\ufe0f", "") in whole


def test_a_long_name_takes_a_line_of_its_own() -> None:
    """One long name among many does not take the room of what the others show."""
    actions = [create(f"svc-{n}") for n in range(20)]
    long = "svc-" + "-".join(["integration"] * 7)
    with_long = plan_with(part_with(*actions, create(long)))
    lines = lay_out(plan_view(with_long, UTC_TIMES), 60, PLAIN).splitlines()
    before = lay_out(plan_view(plan_with(part_with(*actions)), UTC_TIMES), 60, PLAIN).splitlines()
    assert lines[:22] == before[:22]
    assert "".join(line.strip() for line in lines[23:25]) == long


def test_an_address_is_never_divided() -> None:
    """A word without spaces stays whole, even if the terminal has to wrap it."""
    url = "https://crm.example.com/" + "a" * 90
    assert wrap(f"Check {url} now.", 60, 60) == ["Check", url, "now."]


def test_a_number_is_never_divided_from_its_unit() -> None:
    """`0.6 s` and `31 h` stay together at the end of a line."""
    assert wrap("About 4 requests and 0.6 s.", 25, 25) == ["About 4 requests and", "0.6 s."]
    assert wrap("It ends in 31 h or 2 weeks.", 14, 14) == ["It ends in", "31 h or 2", "weeks."]


@given(st.text(st.sampled_from("ab c東🚀"), max_size=60), st.integers(1, 30))
def test_wrapping_loses_nothing(text, width) -> None:
    """The lines are the words of the text, in order, and only a single word is too wide."""
    lines = wrap(text, width, width)
    assert " ".join(lines).split() == text.split()
    for line in lines:
        assert " " not in line.strip() or sum(1 + (one in "東🚀") for one in line) <= width


def test_red_is_a_failure_and_nothing_else() -> None:
    """A plan that revokes has no red; a blocked action and an unread environment have."""
    fine = plan_with(part_with(*ACTIONS[:7], findings=PLAN.environments[0].findings))
    assert RED not in lay_out(plan_view(fine, UTC_TIMES), 80, COLOUR)
    for bad in (plan_with(part_with(ACTIONS[7])), plan_with(EUROPE)):
        assert RED in lay_out(plan_view(bad, UTC_TIMES), 80, COLOUR)


def test_each_kind_of_action_has_the_colour_of_its_meaning() -> None:
    """Green is a gain, cyan a change, magenta a loss; the words beside the mark say the same."""
    text = lay_out(plan_view(plan_with(part_with(*ACTIONS[2:7])), UTC_TIMES), 80, COLOUR)
    painted = re.findall(r"\x1b\[(3\d)m(\w+)\x1b", text)
    assert [(int(colour), word) for colour, word in painted] == [
        *((32, "create"), (36, "update"), (36, "rotate"), (32, "deliver"), (35, "revoke"))
    ]


def test_without_colour_the_layout_stays(picture, monkeypatch) -> None:
    """NO_COLOR, or `--color never`, removes the colours and nothing else."""
    assert picture(SHOW["plan"], 80, color="never") == picture(SHOW["plan"], 80)


def test_a_secret_is_masked_although_a_line_break_would_divide_it() -> None:
    """A message that repeats a password with spaces never shows a part of it."""
    secret = Secret("correct horse battery staple " * 3 + "end")
    failure = Failure(Code.UNREACHABLE, f"The server said: {secret.reveal()}.")
    for columns in range(20, 120, 7):
        text = lay_out(
            plan_view(plan_with(Unobserved("x", "sandbox:", failure)), UTC_TIMES), columns, PLAIN
        )
        assert "horse" not in text


def test_messages_on_stderr_are_divided_only_on_a_terminal(monkeypatch) -> None:
    """A message of several lines on a terminal is one line in a pipe or a log."""
    message = f"{EUROPE.environment}: {UNREACHABLE.code}: {UNREACHABLE.text}"
    assert fit(message, None) == message
    with terminal_as_stdout(monkeypatch, 60):
        assert fit(message, sys.stdout).splitlines() == [
            "europe: unreachable: Cannot reach europe",
            "  (crm.example.com:443): nothing is listening at that",
            "  address. Check `url`, the network and that the server is",
            "  running.",
        ]
        monkeypatch.setenv("TERM", "dumb")
        assert fit(message, sys.stdout) == message


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (90 * DAY - timedelta(milliseconds=400), "in 90 days (2027-02-21)"),
        (timedelta(hours=5), "in 5 h (2026-11-23 09:00 UTC)"),
        (timedelta(hours=47), "in 47 h (2026-11-25 03:00 UTC)"),
        (timedelta(seconds=100), "in 2 min (2026-11-23 04:01:40 UTC)"),
        (timedelta(seconds=20), "in 1 min (2026-11-23 04:00:20 UTC)"),
        (-3 * DAY, "3 days ago (2026-11-20)"),
        (549 * DAY, "in 549 days (2028-05-25)"),
        (4000 * DAY, "in 11 years (2037-11-05)"),
        (timedelta(days=36_500), "never"),
    ],
)
def test_an_expiry_is_told_as_people_think(distance, text) -> None:
    """The distance comes first, then the date, and within two days the time."""
    assert UTC_TIMES.distance(NOW + distance, NOW) == text


def test_local_time_is_used_only_where_it_is_asked_for(picture, monkeypatch) -> None:
    """`--time local` changes the dates on a terminal and in a pipe; the default is UTC."""
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        late = plan_with(part_with(create(expires_at=END.replace(hour=20))))
        assert "in 91 days (2027-02-21)" in picture(partial(show_plan, late), 80)
        assert "in 91 days (2027-02-22)" in picture(partial(show_plan, late), 80, time="local")
        assert "expires 2027-02-21T20:00:00Z" in plan_text(late, PLAIN)
        assert "expires 2027-02-22T09:00:00+13:00" in plan_text(late, PLAIN, Times(local=True))
        assert Times(local=True).shortest("2027-02-21T20:00:05Z") == "2027-02-22 09:00:05 NZDT"
        assert Times(local=True).date(datetime.max.replace(tzinfo=UTC)) == "9999-12-31"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("name", ["log-2026-13-01T00:00:00Z", "2026-01-01T00:00:00Z"])
def test_a_name_or_role_that_looks_like_a_time_is_shown_as_it_is(picture, name: str) -> None:
    """Only expiries are written for people; a name with a month 13 is no error either."""
    changes = (Change("role", name, "Worker"), Change("expires", "2026-12-31T00:00:00Z", "90d"))
    findings = (Drift(name, (KEY_ID,), "role", name, "Worker", "not_owned"),)
    part = part_with(rename(old_name=name), update("svc-b", changes=changes), findings=findings)
    shown = " ".join(picture(partial(show_plan, plan_with(part)), 200).split())
    assert f"from {name}" in shown
    assert f"role {name} -> Worker, expires 2026-12-31 -> 90d" in shown
    assert f"Role is {name}, but" in shown


def test_a_quiet_terminal_shows_nothing_if_all_is_well(picture) -> None:
    """`report --quiet` and `doctor --quiet` print no heading and no summary for healthy keys."""
    calm = replace(AUDIT, environments=(replace(AUDIT.observed[0], keys=(), missing=()),))
    report = ReportInput(NOW, outcome=calm, quiet=True)
    assert picture(partial(show_audit, report, calm), 80, quiet=True) == "\n"
    healthy = (replace(DIAGNOSES[0], checks=DIAGNOSES[0].checks[:1]),)
    assert picture(partial(show_diagnoses, healthy), 80, quiet=True) == "\n"


def test_the_list_of_keys_is_a_table_for_each_environment() -> None:
    """Dead keys are listed with their state, and the summary counts each state."""
    keys = [
        ("shop", observed_key("svc-a", id=KEY_ID), NOW),
        ("shop", observed_key("svc-b", expires_at=NOW - DAY, role=None), NOW),
        ("till", observed_key("svc-c", revoked_at=NOW), NOW),
    ]
    assert lay_out(keys_view(keys, UTC_TIMES), 60, PLAIN) == (
        "shop\n"
        "    NAME   STATE    EXPIRES                          ROLE\n"
        "    svc-a  live     in 90 days (2027-02-21)          Worker\n"
        "    svc-b  expired  24 h ago (2026-11-22 04:00 UTC)\n"
        "\n"
        "till\n"
        "    NAME   STATE    EXPIRES                          ROLE\n"
        "    svc-c  revoked  in 90 days (2027-02-21)          Worker\n"
        "\n"
        "Not shown in 60 columns: id.\n"
        "3 keys in 2 environments: 1 live, 1 expired and 1 revoked.\n"
    )


def test_the_sample_in_the_documentation_is_real() -> None:
    """docs/commands.md shows what a terminal of 80 columns shows."""
    part = part_with(
        create("svc-billing"),
        rotate(create("svc-etl-eu"), reason="due"),
        revoke("svc-old", key_id=KEY_ID),
        environment="production",
        kept=("a",) * 14,
        estimate=Estimate(8, 0.9),
    )
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    sample = page.partition("## Text on a terminal")[2].split("```")[1].removeprefix("text\n")
    assert sample == lay_out(plan_view(plan_with(part), UTC_TIMES), 80, PLAIN)
