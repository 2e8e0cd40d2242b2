"""Keys are checked against a policy, and the guard limits what one run may revoke."""

from datetime import datetime, timedelta
from typing import get_args

import pytest
from builders import NOW, desired_key, policy_with, rotation_with
from hypothesis import given
from hypothesis import strategies as st

from provisioner import schemas
from provisioner.cli.options import SINK_KINDS
from provisioner.model.environment import Guards, Policy, Share, SinkKind
from provisioner.model.expiry import NEVER, parse_duration, parse_expiry
from provisioner.model.key import DesiredKey
from provisioner.model.policy import PolicyCode, breaches
from provisioner.model.sink_address import Address, FileAddress, GithubAddress, VaultAddress

pytestmark = pytest.mark.fast

ROTATION = rotation_with(timedelta(days=14), timedelta(hours=48), "before 14d, overlap 48h")
YEAR = timedelta(days=365)
KEY = desired_key()


def broken(
    policy: Policy, key: DesiredKey, role: str | None = None, now: datetime | None = NOW
) -> list[PolicyCode]:
    return list(breaches(policy, key, role=role, now=now))


def test_a_policy_without_rules_allows_everything() -> None:
    """Even the worst key passes."""
    worst = KEY._replace(name="", expiry=parse_expiry("never"))
    assert broken(policy_with(), worst, "Admin") == []


def test_each_rule_is_checked_and_all_breaches_are_returned() -> None:
    """One key can break every rule, in the order of the codes."""
    policy = policy_with(
        max_lifetime=YEAR,
        rotation=True,
        roles=("A",),
        names=("svc-*",),
        sinks=("vault",),
        forbidden_sinks=("github",),
    )
    worst = KEY._replace(name="x", expiry=parse_expiry("never"), deliver=(GITHUB,))
    assert broken(policy, worst, "B") == list(get_args(PolicyCode))
    best = KEY._replace(rotation=ROTATION, deliver=(VaultAddress("secret", "a"),))
    assert broken(policy, best, "A") == []


@pytest.mark.parametrize(
    ("expires", "now", "kept"),
    [
        ("365d", NOW, True),
        ("8761h", NOW, False),
        ("2027-11-23T04:00:00Z", NOW, True),
        ("2027-11-23T04:00:01Z", NOW, False),
        ("2027-11-23T04:00:01Z", NOW + timedelta(seconds=1), True),
        ("2026-01-01", NOW, True),
        ("2999-01-01", None, True),
        ("366d", None, False),
        ("never", NOW, False),
        ("never", None, False),
    ],
)
def test_the_longest_lifetime_is_allowed_and_no_second_more(
    expires: str, now: datetime | None, kept: bool
) -> None:
    """Durations are compared as they are, dates from now or not at all, and `never` is too long."""
    key = KEY._replace(expiry=parse_expiry(expires))
    assert broken(policy_with(max_lifetime=YEAR), key, now=now) == (
        [] if kept else ["policy_lifetime"]
    )


def test_never_is_too_long_for_every_lifetime() -> None:
    """This includes a lifetime of a hundred years, which is as long."""
    key = KEY._replace(expiry=parse_expiry("never"))
    assert broken(policy_with(max_lifetime=NEVER), key) == ["policy_lifetime"]


@pytest.mark.parametrize(
    ("role", "kept"), [("A", True), ("B c", True), ("a", False), ("B", False), (None, True)]
)
def test_a_role_is_one_of_the_list_or_not_known(role: str | None, kept: bool) -> None:
    """Roles are compared as written; an unknown role is not checked."""
    assert broken(policy_with(roles=("A", "B c")), KEY, role) == ([] if kept else ["policy_role"])


@pytest.mark.parametrize(
    ("name", "kept"),
    [("svc-a", True), ("svc-", True), ("etl-1", True), ("etl-10", False), ("SVC-a", False)],
)
def test_a_name_matches_one_of_the_globs(name: str, kept: bool) -> None:
    """The whole name must match, including its case."""
    policy = policy_with(names=("svc-*", "etl-?"))
    assert broken(policy, KEY._replace(name=name)) == ([] if kept else ["policy_name"])


FILE, GITHUB = FileAddress("vault", "A"), GithubAddress("acme", "A")


@pytest.mark.parametrize(
    ("deliver", "kept"),
    [((), False), ((FILE,), False), ((GITHUB,), True), ((FILE, GITHUB), True)],
)
def test_one_sink_of_a_required_kind_is_enough(deliver: tuple[Address, ...], kept: bool) -> None:
    """Other sinks are allowed, and a file named like a kind does not count."""
    key = KEY._replace(deliver=deliver)
    assert broken(policy_with(sinks=("vault", "github")), key) == ([] if kept else ["policy_sink"])


@pytest.mark.parametrize(
    ("deliver", "kept"),
    [((), True), ((FILE,), False), ((GITHUB,), True), ((FILE, GITHUB), False)],
)
def test_a_sink_of_a_forbidden_kind_is_refused(deliver: tuple[Address, ...], kept: bool) -> None:
    """Other sinks of the key do not matter."""
    policy = policy_with(forbidden_sinks=("file", "command"))
    assert broken(policy, KEY._replace(deliver=deliver)) == (
        [] if kept else ["policy_sink_forbidden"]
    )


def test_the_kinds_of_sinks_are_those_of_the_schema() -> None:
    """`sinks` of a policy lists exactly the kinds of `deliver` in a manifest."""
    branches = schemas.load("manifest")["$defs"]["sink"]["anyOf"]
    definitions = schemas.load("environments")["$defs"]
    policy = definitions["policy"]["properties"]["sinks"]
    listed = definitions["sinkKind"]["enum"]
    assert [branch["$ref"].rpartition("/")[2] for branch in branches] == listed
    assert list(get_args(SinkKind)) == list(SINK_KINDS) == listed
    lists = [policy["anyOf"][1], *policy["anyOf"][2]["properties"].values()]
    assert [part["items"] for part in lists] == [{"$ref": "#/$defs/sinkKind"}] * 3


# The guard


@pytest.mark.parametrize(
    ("guards", "owned", "limit"),
    [
        (Guards(), 0, 3),
        (Guards(), 9, 3),
        (Guards(), 13, 3),
        (Guards(), 14, 4),
        (Guards(), 1000, 300),
        (Guards(Share(50)), 7, 3),
        (Guards(Share(50)), 8, 4),
        (Guards(Share(1)), 100, 3),
        (Guards(Share(100)), 100, 100),
        (Guards(Share(0)), 100, 0),
        (Guards(0), 100, 0),
        (Guards(1), 100, 1),
        (Guards(7), 2, 7),
    ],
)
def test_a_share_allows_three_and_a_number_is_exact(guards: Guards, owned: int, limit: int) -> None:
    """Shares are rounded down, but every share except zero allows three."""
    assert guards.revocation_limit(owned) == limit


@given(st.integers(1, 100), st.integers(0, 10**6))
def test_a_share_of_more_than_three_is_exact(percent: int, owned: int) -> None:
    """There are no rounding errors of floats, for any number of keys."""
    limit = Guards(Share(percent)).revocation_limit(owned)
    assert limit == 3 or (limit > 3 and 100 * limit <= percent * owned < 100 * (limit + 1))


# Durations


@pytest.mark.parametrize(
    ("text", "hours"), [("1h", 1), ("14d", 336), ("2w", 336), ("P14D", 336), ("36500d", 876_000)]
)
def test_durations_are_parsed_as_in_an_expiry(text: str, hours: int) -> None:
    """They range from an hour to a hundred years."""
    assert parse_duration(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "0h", "36501d", "never", "2027-06-30", "1m", "14", "14 d"])
def test_other_texts_are_not_durations(text: str) -> None:
    """Dates and `never` are refused, and the message has the text."""
    with pytest.raises(ValueError, match=f"^{text!r} is not"):
        parse_duration(text)
