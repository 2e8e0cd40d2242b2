"""Which of several live keys of a name is the key: rule 0, case by case and over all cases."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from builders import (
    DAY,
    NOW,
    WORKER,
    desired_key,
    environment_with,
    file_sink,
    github_sink,
    observation_with,
    observed_key,
    rotation_with,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from provisioner.model.expiry import ExpiresAfter, ExpiresAt
from provisioner.model.observed import KnownRoles, ObservedKey
from provisioner.model.sink_address import GithubAddress
from provisioner.model.sink_content import ApiKeyToken, NoToken, Unreadable
from provisioner.plan import (
    Deliver,
    Duplicate,
    Revoke,
    Rotate,
    classify_live_keys,
    plan_environment,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan import Planned

pytestmark = pytest.mark.fast

MARK = timedelta(milliseconds=417)
SHOP = environment_with(owns=("svc-*",))
FILE = file_sink()
OTHER = file_sink("b.env", "B")
GITHUB = github_sink()
WANTED = desired_key("svc-a", FILE, role="Worker", rotation=rotation_with())
PLAIN = WANTED._replace(rotation=None)


def key(id_: str, made: float, ends: float, *, mark: timedelta = MARK) -> ObservedKey:
    """A key that was made and that ends so many days from now."""
    return observed_key(id=id_, expires_at=NOW + ends * DAY + mark, created_at=NOW + made * DAY)


REVIEWED = key("reviewed", -30, 60)
"""Delivered, and not due for long."""

DUE = key("due", -85, 5)
"""Due for its successor since five days."""

SUCCESSOR = key("successor", -4, 86)
"""Made by a run for the one that was due."""

BY_HAND = key("by-hand", -4, 1500, mark=timedelta(0))
"""Made by a person, four days ago."""


def apart(
    live: Sequence[ObservedKey], *sink_contents: SinkContent, wanted: DesiredKey | None = WANTED
) -> tuple[str, list[str], list[str]]:
    """The ids of the key, of its predecessors and of duplicates."""
    found = classify_live_keys(
        wanted, sorted(live, key=lambda one: one.creation_order), sink_contents
    )
    return (
        found.current.id,
        [one.id for one in found.predecessors],
        [one.id for one in found.duplicates],
    )


def planned(
    seen: Sequence[ObservedKey],
    *sink_contents: SinkContent,
    wanted: DesiredKey = WANTED,
    at: datetime = NOW,
) -> Planned:
    look = observation_with(*seen, roles=KnownRoles((WORKER,)), server_time=at)
    return plan_environment(
        SHOP,
        [wanted],
        look,
        at,
        sink_contents=dict(zip(wanted.deliver, sink_contents, strict=True)),
    )


@pytest.mark.parametrize("wanted", [WANTED, PLAIN, None])
@pytest.mark.parametrize(
    "sink_contents", [ApiKeyToken("REVIEWED", None), NoToken(), Unreadable(NOW)]
)
def test_a_key_made_by_hand_displaces_nothing(wanted, sink_contents) -> None:
    """Whatever is known of the sink, and whether the name is rotated, plain or in no manifest."""
    live = (REVIEWED, BY_HAND)
    assert apart(live, sink_contents, wanted=wanted) == ("reviewed", [], ["by-hand"])


def test_the_newest_key_that_is_shown_to_be_delivered_is_the_key() -> None:
    """In any sink; what is older is no predecessor where it was not due."""
    live = (REVIEWED, BY_HAND)
    for wanted in (WANTED, PLAIN):
        shown = apart(
            live, ApiKeyToken("reviewed", None), ApiKeyToken("by-hand", None), wanted=wanted
        )
        assert shown == ("by-hand", [], ["reviewed"])


def test_a_successor_follows_the_key_that_was_due_when_it_was_made() -> None:
    """Delivered or not: then it is to be delivered."""
    for sink_contents in (
        ApiKeyToken("due", None),
        ApiKeyToken("successor", None),
        NoToken(),
        Unreadable(NOW),
    ):
        assert apart((DUE, SUCCESSOR), sink_contents) == ("successor", ["due"], [])
    assert apart((DUE, SUCCESSOR), wanted=PLAIN) == ("due", [], ["successor"])


def test_a_key_made_by_hand_while_another_is_due_is_no_successor() -> None:
    """It has no milliseconds of a run, or an end that no plan since then would have counted."""
    odd = key("odd", -4, 30)
    early = key("early", -4, 84.9)
    for one in (BY_HAND, odd, early):
        assert apart((DUE, one), ApiKeyToken("due", None)) == ("due", [], [one.id])
        assert apart((DUE, one, SUCCESSOR)) == ("successor", ["due"], [one.id])


def test_a_successor_is_known_by_the_lifetime_before_a_change_of_the_manifest_too() -> None:
    """What the older key lives counts as well as what the manifest says now, in whole hours."""
    shorter = WANTED._replace(expiry=ExpiresAfter(30 * DAY, "30d"))
    assert apart((DUE, SUCCESSOR), wanted=shorter) == ("successor", ["due"], [])
    odd = replace(DUE, created_at=DUE.created_at + timedelta(minutes=30))
    assert apart((odd, SUCCESSOR), wanted=shorter) == ("due", [], ["successor"])
    new = key("new", -4, 26)
    assert apart((DUE, new), wanted=shorter) == ("new", ["due"], [])
    assert apart((DUE, new)) == ("due", [], ["new"])


@pytest.mark.parametrize(("seconds", "follows"), [(0, True), (60, True), (61, False)])
def test_due_counts_within_the_minute_by_which_clocks_may_differ(seconds, follows) -> None:
    """The key is dated by the server, its end by the machine that made it."""
    older = replace(DUE, expires_at=SUCCESSOR.created_at + timedelta(days=10, seconds=seconds))
    found = apart((older, SUCCESSOR))
    assert found == (("successor", ["due"], []) if follows else ("due", [], ["successor"]))


def test_the_twin_of_a_successor_is_a_duplicate() -> None:
    """The first of two that were made for one key follows it; the other was not due for."""
    twin = replace(SUCCESSOR, id="twin", created_at=SUCCESSOR.created_at + timedelta(seconds=1))
    assert apart((DUE, SUCCESSOR, twin), ApiKeyToken("due", None)) == (
        "successor", ["due"], ["twin"],
    )  # fmt: skip
    assert apart((DUE, SUCCESSOR, twin), ApiKeyToken("twin", None)) == (
        "twin",
        ["due"],
        ["successor"],
    )


def test_a_key_that_was_there_before_the_manifest_is_adopted() -> None:
    """The only live key of a name is the key, whoever made it, and a run delivers its token."""
    assert apart((BY_HAND,)) == ("by-hand", [], [])
    [action] = planned([BY_HAND], NoToken()).actions
    assert isinstance(action, Deliver)
    assert action.key_id == "by-hand"


def test_a_key_made_by_hand_lives_on_when_the_reviewed_one_is_followed() -> None:
    """It is older than the successor, was never the key, and so no predecessor of it."""
    live = (replace(DUE, created_at=NOW - 86 * DAY), replace(BY_HAND, created_at=NOW - 20 * DAY))
    found = apart((*live, SUCCESSOR), ApiKeyToken("successor", None))
    assert found == ("successor", ["due"], ["by-hand"])
    plan = planned((*live, SUCCESSOR), ApiKeyToken("successor", None))
    assert [one.key_id for one in plan.actions if isinstance(one, Revoke)] == ["due"]
    assert [type(one) for one in plan.findings] == [Duplicate]


def test_of_several_older_keys_that_were_due_those_of_a_run_are_the_predecessors() -> None:
    """One made by hand that is about to end is none beside them; alone it ends in its place."""
    brief = key("brief", -10, 1)
    assert apart((DUE, brief, SUCCESSOR), ApiKeyToken("successor", None)) == (
        "successor", ["due"], ["brief"],
    )  # fmt: skip
    assert apart((brief, SUCCESSOR), ApiKeyToken("successor", None)) == ("successor", ["brief"], [])
    dated = WANTED._replace(expiry=ExpiresAt(NOW + 90 * DAY, "2027-02-21"))
    odd = (replace(DUE, expires_at=NOW + 5 * DAY), brief, SUCCESSOR)
    for wanted in (dated, WANTED):
        found = apart(odd, ApiKeyToken("successor", None), wanted=wanted)
        assert found == ("successor", ["due", "brief"], [])


def test_a_key_rotated_on_request_is_a_finding_until_it_counts_as_due() -> None:
    """Killed before the delivery it says what to do; delivered, the old key has an earlier end."""
    asked = key("asked", -3, 87)
    plan = planned((REVIEWED, asked), ApiKeyToken("reviewed", None))
    assert plan.actions == ()
    [finding] = plan.findings
    assert isinstance(finding, Duplicate)
    assert "`provision rotate svc-a`" in finding.message
    marked = replace(REVIEWED, expires_at=NOW - 3 * DAY + 10 * DAY + MARK)
    for sink_contents in (ApiKeyToken("asked", None), Unreadable(NOW - 2.5 * DAY)):
        plan = planned((marked, asked), sink_contents)
        assert [one.key_id for one in plan.actions if isinstance(one, Revoke)] == ["reviewed"]


@pytest.mark.parametrize("hours", [-50, -1, 0, 1, 50])
def test_a_key_made_by_hand_is_reported_and_never_delivered(hours) -> None:
    """The week of the attack: by hand beside a reviewed key, and then two days and more go by."""
    at = NOW + timedelta(hours=hours)
    for sink_contents in (ApiKeyToken("reviewed", None), Unreadable(NOW - 20 * DAY)):
        plan = planned((REVIEWED, BY_HAND), sink_contents, at=at)
        assert plan.actions == ()
        assert plan.kept == ("svc-a",)
        [finding] = plan.findings
        assert isinstance(finding, Duplicate)
        assert (finding.key_id, finding.ids) == ("reviewed", ("reviewed", "by-hand"))


@pytest.mark.parametrize(
    ("minutes", "reason"), [(0, None), (9.9, None), (10.1, "token_unproven"), (2950, None)]
)
def test_a_time_within_the_minute_is_made_clear_by_another_write(minutes, reason) -> None:
    """Not by the run right after; and where no key waits for it nothing is written at all."""
    made = NOW - timedelta(minutes=minutes)
    old = replace(DUE, created_at=made - 80 * DAY, expires_at=made + 10 * DAY)
    new = replace(SUCCESSOR, created_at=made, expires_at=made + 90 * DAY + MARK)
    wanted = WANTED._replace(deliver=(GITHUB,))
    written = made + (timedelta(minutes=30) if minutes > 100 else timedelta(seconds=2))
    plan = planned((old, new), Unreadable(written), wanted=wanted)
    delivered = [one for one in plan.actions if isinstance(one, Deliver)]
    assert [(one.reason, one.key_id) for one in delivered] == [(reason, "successor")] * bool(reason)
    assert any(isinstance(one, Revoke) for one in plan.actions) is (minutes > 100)
    assert planned((new,), Unreadable(written), wanted=wanted).actions == ()


def test_a_time_that_proves_no_write_keeps_the_old_key_and_the_plan_says_so() -> None:
    """An organisation's secret: a later run ends nothing for it, and names both keys."""
    wanted = WANTED._replace(deliver=(GithubAddress("acme", "A"),))
    plan = planned((DUE, SUCCESSOR), Unreadable(NOW, only_writes=False), wanted=wanted)
    assert plan.actions == ()
    told = [one.message for one in plan.findings]
    assert any("the older key due stays until it expires" in one for one in told)
    plan = planned((SUCCESSOR,), Unreadable(NOW, only_writes=False), wanted=wanted)
    assert plan.findings == ()


ENDS = st.one_of(st.floats(-2, 100), st.sampled_from((86.0, 5.0, 60.0)))
KEYS = st.builds(
    lambda made, ends, mark: (made, ends, mark),
    st.floats(-100, 0),
    ENDS,
    st.sampled_from((timedelta(0), MARK)),
)


@given(
    st.lists(KEYS, min_size=1, max_size=5),
    st.lists(st.sampled_from(("k0", "k1", "k2", "gone", "")), max_size=2),
    st.sampled_from((WANTED, PLAIN)),
)
def test_whatever_lives_one_key_is_the_key_and_the_rest_has_one_place(drawn, shown, wanted) -> None:
    """No newer key displaces one that a sink holds, unless that one was due when it was made."""
    live = [key(f"k{number}", *one[:2], mark=one[2]) for number, one in enumerate(drawn)]
    live = [one for one in live if one.live(NOW)]
    assume(live)
    sink_contents = [ApiKeyToken(one, None) if one else NoToken() for one in shown]
    current, predecessors, duplicates = apart(live, *sink_contents, wanted=wanted)
    assert sorted([current, *predecessors, *duplicates]) == sorted(one.id for one in live)
    by_id = {one.id: one for one in live}
    ordered = sorted(live, key=lambda one: one.creation_order)
    delivered = [one for one in ordered if one.id in shown]
    start = delivered[-1] if delivered else ordered[0]
    if current != start.id:
        assert wanted.rotation is not None
        assert by_id[current].creation_order > start.creation_order
        due = start.expires_at - wanted.rotation.before
        assert due <= by_id[current].created_at + timedelta(minutes=1)
        assert by_id[current].expires_at.microsecond
    for one in predecessors:
        assert by_id[one].creation_order < by_id[current].creation_order
    if wanted is PLAIN:
        assert predecessors == []


def test_a_name_that_is_due_gets_a_successor_whatever_lives_beside_it() -> None:
    """A key made by hand that lives long is no reason to let the reviewed one end."""
    long = key("long", -1, 3000, mark=timedelta(0))
    plan = planned((DUE, long), ApiKeyToken("due", None))
    [rotate] = plan.actions
    assert isinstance(rotate, Rotate)
    assert rotate.predecessors == ("due",)
