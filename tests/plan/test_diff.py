"""The diff is a pure function of desired keys, observed keys and the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from builders import (
    ADMIN,
    GUEST,
    NOW,
    WORKER,
    desired_key,
    environment_with,
    limits_with,
    observation_with,
    observed_key,
    plan_with,
    role_with,
)
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors.failure import Failure
from provisioner.model.observed import (
    HiddenRoles,
    KnownRoles,
    NoRoles,
    Observation,
    ObservedKey,
    Roles,
)
from provisioner.plan import (
    DeliveryUnknown,
    Drift,
    Duplicate,
    Expiring,
    Planned,
    PlanOptions,
    Unmanaged,
    Unobserved,
    digest,
    plan_environment,
)
from provisioner.sinks.command import CommandAddress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.model.key import DesiredKey

pytestmark = pytest.mark.fast

SHOP = environment_with(role="Worker")
ROLES = KnownRoles((WORKER, ADMIN, GUEST))


def observe(*keys: ObservedKey, roles: Roles = ROLES, server_time: datetime = NOW) -> Observation:
    return observation_with(*keys, roles=roles, server_time=server_time, requests=2)


def planned(
    desired: Iterable[DesiredKey], observed: Observation, *, only: tuple[str, ...] = ()
) -> Planned:
    return plan_environment(SHOP, desired, observed, NOW, PlanOptions(only=only))


def test_a_missing_key_is_created_as_its_manifest_says() -> None:
    """The action has the name, depth, role and position, and an expiry counted from the plan."""
    [action] = planned([desired_key("a", depth=2, role="Admin")], observe()).actions
    assert (action.name, action.reason, action.depth) == ("a", "missing", 2)
    assert action.expires == "90d"
    assert (action.role, action.role_id, action.blocked) == ("Admin", ADMIN.id, None)
    assert action.expires_at == NOW + timedelta(days=90)
    assert action.place.line == 7


def test_a_live_key_is_kept_and_a_dead_one_created_again() -> None:
    """Revoked and expired keys do not satisfy a manifest; the server's clock decides."""
    observed = observe(
        observed_key("live"),
        observed_key("revoked", revoked_at=NOW),
        observed_key("expired", expires_at=NOW),
        observed_key("by-its-clock", expires_at=NOW + timedelta(hours=1)),
        server_time=NOW + timedelta(hours=2),
    )
    names = ["live", "revoked", "expired", "by-its-clock"]
    plan = planned([desired_key(name) for name in names], observed)
    assert plan.kept == ("live",)
    assert [(one.name, one.reason) for one in plan.actions] == [
        (name, "dead") for name in names[1:]
    ]


def test_names_are_compared_by_code_points() -> None:
    """Names that differ only in case or unicode normalization are different names."""
    observed = observe(observed_key("Key"), observed_key("e\u0301"))
    assert [
        one.name for one in planned([desired_key("key"), desired_key("\u00e9")], observed).actions
    ] == [
        "key",
        "\u00e9",
    ]


@pytest.mark.parametrize("roles", [ROLES, NoRoles()])
def test_a_plan_has_the_workspace_it_is_for(roles: Roles) -> None:
    """Environment, url, generation and workspace id are as observed."""
    observed = observe(roles=roles)
    plan = planned([], observed)
    assert (plan.environment, plan.url) == ("shop", "https://crm.example.com")
    assert (plan.generation, plan.workspace) == (observed.generation, "w")


def test_live_keys_that_no_manifest_lists_are_unmanaged() -> None:
    """There is one finding for each name; dead keys do not count."""
    observed = observe(
        observed_key("x", 1),
        observed_key("x", 2),
        observed_key("gone", revoked_at=NOW),
        observed_key("a"),
    )
    plan = planned([desired_key("a")], observed)
    assert plan.findings == (Unmanaged("x", ("id-x-1", "id-x-2")),)
    assert plan.actions == ()


def test_ignored_keys_are_neither_reported_nor_touched() -> None:
    """Not even if they are owned, declared or named; the others are as without `ignore`."""
    shop = environment_with(owns=("*",), ignore=("zap-*", "personal"))
    observed = observe(*map(observed_key, ("zap-1", "zap-2", "ZAP-1", "personal", "a")))
    desired = [desired_key("a"), desired_key("zap-2", expiry="2029-01-01"), desired_key("zap-3")]

    def plan(*, prune: bool = False, revoke: frozenset[str] = frozenset()) -> Planned:
        options = PlanOptions(prune=prune, revoke=revoke)
        return plan_environment(shop, desired, observed, NOW, options)

    assert plan().findings == (Unmanaged("ZAP-1", ("id-ZAP-1-1",)),)
    assert (plan().actions, plan().kept) == ((), ("a",))
    assert [one.name for one in plan(prune=True).actions] == ["ZAP-1"]
    named = plan(revoke=frozenset({"zap-1", "id-personal-1", "ZAP-1"}))
    assert [(one.name, one.blocked and one.blocked.code) for one in named.actions] == [
        ("ZAP-1", None),
        ("personal", "name_ignored"),
        ("zap-1", "name_ignored"),
    ]


def test_several_live_keys_of_a_name_are_a_duplicate_with_the_oldest_first() -> None:
    """The ids are in the order of creation, then of the ids."""
    older = observed_key("a", 5, created_at=NOW - timedelta(days=9))
    observed = observe(observed_key("a", 2), older, observed_key("a", 1))
    [finding] = planned([desired_key("a")], observed).findings
    assert finding == Duplicate("a", (older.id, "id-a-1", "id-a-2"), older.id, "not_owned")
    [finding] = planned(
        [desired_key("a")], observe(observed_key("a", 2), observed_key("a", 1))
    ).findings
    assert finding == Duplicate("a", ("id-a-1", "id-a-2"), "id-a-1", "not_owned")


def test_findings_of_declared_names_come_before_those_of_other_names() -> None:
    """The first are in the order of the manifests, the others by name."""
    observed = observe(
        observed_key("y"),
        observed_key("x"),
        *(observed_key(name, number) for name in "ab" for number in (1, 2)),
    )
    found = planned([desired_key("b"), desired_key("a")], observed).findings
    assert [one.name for one in found] == ["b", "a", "x", "y"]


def test_drift_of_a_fixed_expiry_is_detected_to_the_second() -> None:
    """Milliseconds identify a run and are not drift; a second is."""
    expiry = datetime(2027, 6, 30, tzinfo=UTC)
    desired = [desired_key("a", expiry="2027-06-30")]
    same = observe(observed_key("a", expires_at=expiry + timedelta(milliseconds=417)))
    assert planned(desired, same).findings == ()
    other = observe(observed_key("a", expires_at=expiry + timedelta(seconds=1)))
    [finding] = planned(desired, other).findings
    assert finding == Drift(
        "a", ("id-a-1",), "expires", "2027-06-30T00:00:01Z", "2027-06-30T00:00:00Z", "not_owned"
    )


def test_a_shortened_duration_is_reported_and_changes_no_live_key() -> None:
    """A key created with a longer lifetime is a finding; any other key keeps its expiry."""
    far = observe(observed_key("a", expires_at=NOW + timedelta(days=30, seconds=1)))
    [finding] = planned([desired_key("a", expiry="30d")], far).findings
    assert isinstance(finding, Drift)
    assert finding.field == "expires"
    near = observe(observed_key("a", expires_at=NOW + timedelta(days=30)))
    assert planned([desired_key("a", expiry="30d")], near).findings == ()


@pytest.mark.parametrize("written", ["Admin", ADMIN.id])
def test_drift_of_a_role_has_the_actual_and_the_desired_one(written: str) -> None:
    """A label or an id that the key does not have is drift."""
    [finding] = planned([desired_key("a", role=written)], observe(observed_key("a"))).findings
    assert finding == Drift("a", ("id-a-1",), "role", "Worker", written, "not_owned")
    assert planned([desired_key("a", role=WORKER.id)], observe(observed_key("a"))).findings == ()


def test_roles_that_cannot_be_read_do_not_drift() -> None:
    """The role of the key is unknown, or it has none on legacy."""
    for roles in (HiddenRoles(), NoRoles()):
        bare = observe(observed_key("a", role=None, role_id=None), roles=roles)
        assert planned([desired_key("a", role=ADMIN.id)], bare).findings == ()


def test_the_actual_role_is_none_if_the_key_has_none() -> None:
    """`from` is null in the report."""
    [finding] = planned(
        [desired_key("a")], observe(observed_key("a", role=None, role_id=None))
    ).findings
    assert finding == Drift("a", ("id-a-1",), "role", None, "Worker", "not_owned")


def test_a_key_that_expires_within_14_days_is_a_finding() -> None:
    """The expiry of the current key counts, by the server's clock."""
    in_14_days = NOW + timedelta(days=14)
    assert planned(
        [desired_key("a")], observe(observed_key("a", expires_at=in_14_days))
    ).findings == (Expiring("a", ("id-a-1",), "2026-12-07T04:00:00Z"),)
    a_second_later = observed_key("a", 2, expires_at=in_14_days + timedelta(seconds=1))
    assert planned([desired_key("a")], observe(a_second_later)).findings == ()
    two_keys = observe(observed_key("a", 1, expires_at=in_14_days), a_second_later)
    ids = ("id-a-1", "id-a-2")
    assert planned([desired_key("a")], two_keys).findings == (
        Duplicate("a", ids, "id-a-1", "not_owned"),
        Expiring("a", ids, "2026-12-07T04:00:00Z"),
    )


ASSIGNABLE = "Roles that keys can have: 'Admin', 'Worker'."
NO_ROLES = "Roles that keys can have: none."
AN_ID = "a role id (this credential cannot read roles)."
NO_ROLE = (
    "'a' has no role, and keys in shop need one. Set `role:` on the key, in the manifest's "
    "defaults or in the environment to "
)
UNSEEN = (
    "This credential cannot read the roles of shop, so the role 'Worker' of 'a' cannot be looked "
    "up. Give the credential's role the permission to read roles, or write the role's id."
)
SAME_LABEL = KnownRoles((WORKER, role_with("Worker", 2)))
IDS = f"Write one of the ids {WORKER.id}, {ADMIN.id}."


@pytest.mark.parametrize(
    ("role", "roles", "code", "message"),
    [
        (
            "worker",
            ROLES,
            "role_unknown",
            f"The role 'worker' of 'a' does not exist in shop. {ASSIGNABLE}",
        ),
        (
            "Guest",
            ROLES,
            "role_not_assignable",
            f"The role 'Guest' of 'a' cannot be assigned to API keys in shop. {ASSIGNABLE}",
        ),
        (
            "x",
            KnownRoles((GUEST,)),
            "role_unknown",
            f"The role 'x' of 'a' does not exist in shop. {NO_ROLES}",
        ),
        (
            "Worker",
            SAME_LABEL,
            "role_unknown",
            f"The role 'Worker' of 'a' is ambiguous in shop. {IDS}",
        ),
        ("Worker", HiddenRoles(), "role_unknown", UNSEEN),
        (None, ROLES, "role_missing", f"{NO_ROLE}one of 'Admin', 'Worker'."),
        (None, HiddenRoles(), "role_missing", f"{NO_ROLE}{AN_ID}"),
    ],
)
def test_a_wrong_role_fails_only_its_key_and_says_what_to_write(
    role: str | None, roles: Roles, code: str, message: str
) -> None:
    """The failure names the key, the environment and the roles that keys can have."""
    shop = environment_with()
    keys = [desired_key("a", role=role), desired_key("b", role=role)]
    bad, other = plan_environment(shop, keys, observe(roles=roles), NOW).actions
    assert (bad.role, bad.role_id, bad.blocked) == (role, None, Failure(code, message))
    assert other.blocked == Failure(code, message.replace("'a'", "'b'"))


def test_a_wrong_role_does_not_affect_other_keys() -> None:
    """Valid roles are found by label and by id, any number of times."""
    roles = ["Nobody", None, "Admin", "Admin", ADMIN.id]
    desired = [desired_key(f"key-{number}", role=role) for number, role in enumerate(roles)]
    bad, *good = planned(desired, observe()).actions
    assert bad.blocked is not None
    assert [one.blocked for one in good] == [None] * 4
    assert [one.role_id for one in good] == [WORKER.id, ADMIN.id, ADMIN.id, ADMIN.id]


def test_roles_with_the_same_label_are_distinguished_by_id() -> None:
    """An ambiguous label is refused with the ids; an id is not ambiguous."""
    twin = role_with("Worker", 4)
    observed = observe(roles=KnownRoles((WORKER, twin)))
    by_label, by_id = planned([desired_key("a"), desired_key("b", role=twin.id)], observed).actions
    assert by_label.blocked is not None
    assert twin.id in by_label.blocked.text
    assert by_id.role_id == twin.id


def test_a_key_without_any_role_is_blocked_on_core_and_fine_on_legacy() -> None:
    """`role_missing` only occurs on the core generation."""
    shop = environment_with()
    [action] = plan_environment(shop, [desired_key("a")], observe(), NOW).actions
    assert action.blocked is not None
    assert action.blocked.code == "role_missing"
    legacy = plan_environment(shop, [desired_key("a")], observe(roles=NoRoles()), NOW)
    assert legacy.actions[0].blocked is None
    assert not [note for note in legacy.notes if "role" in note]
    assert legacy.actions[0].role is None


def test_legacy_ignores_roles_with_a_note() -> None:
    """The note has the number of keys with a role."""
    plan = planned([desired_key("a", role="Admin"), desired_key("b")], observe(roles=NoRoles()))
    assert [one.role_id for one in plan.actions] == [None, None]
    rest = "are ignored: before Twenty 1.3, keys have no roles"
    assert plan.notes[0] == f"the roles of 2 keys {rest}"
    one = planned([desired_key("a")], observe(roles=NoRoles()))
    assert one.notes[0] == f"the roles of 1 key {rest}"


def test_hidden_roles_accept_ids_and_refuse_labels() -> None:
    """If roles cannot be read, an id is used unchecked; a label cannot be looked up."""
    observed = observe(roles=HiddenRoles())
    for id_ in (
        ADMIN.id,
        "abcdef01-2345-6789-abcd-ef0123456789",
        "ABCDEF01-2345-6789-ABCD-EF0123456789",
    ):
        [by_id] = planned([desired_key("a", role=id_)], observed).actions
        assert (by_id.role_id, by_id.blocked) == (id_, None)
    for label in ("Worker", "abc", f"{ADMIN.id}0", "X" + ADMIN.id[1:], "g" + ADMIN.id[1:]):
        [by_label] = planned([desired_key("a", role=label)], observed).actions
        assert by_label.blocked is not None
        assert by_label.blocked.code == "role_unknown"
    [note] = planned([], observed).notes
    assert note == (
        "this credential cannot read roles, so a role must be written as an id and role drift is "
        "not detected"
    )


def test_an_expiry_in_the_past_blocks_only_its_key() -> None:
    """`expiry_past` names the manifest and the line; the current second is in the past."""
    desired = [desired_key("a", expiry="2026-11-23T04:00:00Z"), desired_key("b")]
    past, fine = planned(desired, observe()).actions
    assert past.blocked == Failure(
        "expiry_past",
        "'a' would expire at 2026-11-23T04:00:00Z, which is in the past. "
        "Write a later date in manifests/a.yaml line 7.",
    )
    assert fine.blocked is None
    before = planned(desired, observe(server_time=NOW - timedelta(seconds=1)))
    assert before.actions[0].blocked is None


def test_only_limits_actions_and_findings() -> None:
    """Names that no glob matches are neither created nor reported; globs are case-sensitive."""
    observed = observe(observed_key("svc-old"), observed_key("other"))
    desired = [desired_key(name) for name in ("web", "svc-a", "SVC-b", "svc-c")]
    plan = planned(desired, observed, only=("svc-*",))
    assert [one.name for one in plan.actions] == ["svc-a", "svc-c"]
    assert plan.findings == (Unmanaged("svc-old", ("id-svc-old-1",)),)


@pytest.mark.parametrize(
    ("roles", "depths", "requests"),
    [
        (NoRoles(), {0: 20, 1: 57, 2: 60}, 2 + 3 + 1),
        (NoRoles(), {0: 61}, 2 + 2 + 1),
        (NoRoles(), {0: 1001}, 2 + 17 + 2),
        (NoRoles(), {}, 2),
        (ROLES, {0: 20, 1: 57, 2: 60}, 2 + 137 + 1 + 1 + 1),
        (ROLES, {0: 1}, 2 + 1 + 1),
        (ROLES, {}, 2),
    ],
)
def test_the_estimate_counts_the_requests_of_a_run_without_failures(
    roles: Roles, depths: dict[int, int], requests: int
) -> None:
    """Batches on legacy; on core a request a key, one for permissions, one to test bulk creates.

    Reads after the creates: pages of 1000 on legacy, one request on core, none without creates.
    """
    desired = [
        desired_key(f"k{d}-{n}", depth=d) for d, count in depths.items() for n in range(count)
    ]
    assert planned(desired, observe(roles=roles)).estimate.requests == requests


def test_the_estimate_follows_the_declared_rate() -> None:
    """After the first burst, only that many requests are sent in a minute."""
    shop = environment_with(url="x", role="Worker", limits=limits_with(requests_per_minute=10))
    plan = plan_environment(shop, [desired_key(f"k{n}") for n in range(68)], observe(), NOW)
    assert plan.estimate.seconds == 372.0


NAMES = st.sampled_from([f"name-{n}" for n in range(6)])
KEYS = st.lists(
    st.builds(
        observed_key,
        NAMES,
        st.integers(1, 10**6),
        revoked_at=st.sampled_from([None, NOW]),
        expires_at=st.sampled_from([NOW, NOW + timedelta(days=1), NOW + timedelta(days=99)]),
    ),
    max_size=12,
    unique_by=lambda one: one.id,
)


@given(desired=st.lists(NAMES, unique=True), observed=KEYS)
def test_every_desired_key_is_either_kept_or_created(
    desired: list[str], observed: list[ObservedKey]
) -> None:
    """Each name appears once, in the order of the manifests; without a live key it is created."""
    plan = planned([desired_key(name) for name in desired], observe(*observed))
    live = {one.name for one in observed if one.live(NOW)}
    assert [one.name for one in plan.actions] == [name for name in desired if name not in live]
    assert list(plan.kept) == [name for name in desired if name in live]
    unmanaged = {one.name for one in plan.findings if isinstance(one, Unmanaged)}
    assert unmanaged == live - set(desired)


@given(desired=st.lists(NAMES, unique=True), observed=KEYS, seed=st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_the_list(
    desired: list[str], observed: list[ObservedKey], seed: object
) -> None:
    """Core lists keys in no fixed order; the plan is the same for every order."""
    shuffled = list(observed)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    keys = [desired_key(name) for name in desired]
    assert planned(keys, observe(*observed)) == planned(keys, observe(*shuffled))


@given(desired=st.lists(NAMES, unique=True), observed=KEYS)
def test_after_a_plan_is_applied_the_next_plan_is_empty(
    desired: list[str], observed: list[ObservedKey]
) -> None:
    """Creating the planned keys leaves no action."""
    keys = [desired_key(name) for name in desired]
    first = planned(keys, observe(*observed))
    created = [observed_key(one.name, 10**7, expires_at=one.expires_at) for one in first.actions]
    assert planned(keys, observe(*observed, *created)).actions == ()


def test_the_digest_covers_the_actions_and_nothing_else() -> None:
    """Names, depths, roles, expiries, urls and workspaces count; time, positions, order do not."""

    def of(*keys: DesiredKey, now: datetime = NOW, url: str = SHOP.url) -> str:
        shop = environment_with(url=url, role="Worker")
        return digest((plan_environment(shop, keys, observe(), now),), {"shop": keys})

    a, b = desired_key("a"), desired_key("b")
    first = of(a, b)
    assert first.startswith("sha256:")
    assert of(b, a) == first
    assert of(a, b, now=NOW + timedelta(days=1)) == first
    assert of(desired_key("a", line=99), b) == first
    different = [
        of(a),
        of(a, desired_key("c")),
        of(a, desired_key("b", depth=2)),
        of(a, desired_key("b", role="Admin")),
        of(a, desired_key("b", expiry="91d")),
        of(a, b, url="https://other.example.com"),
        digest((Unobserved("shop", SHOP.url, Failure("timeout", "x")),), {"shop": (a, b)}),
    ]
    assert len({first, *different}) == len(different) + 1


def test_a_plan_knows_whether_it_has_changes_and_is_complete() -> None:
    """`changes` counts actions; blocked keys and unobserved environments are incomplete."""
    complete = planned([desired_key("a")], observe())
    blocked = planned([desired_key("a", role="Nobody")], observe())
    unobserved = Unobserved("shop", SHOP.url, Failure("timeout", "x"))
    assert (plan_with(complete).changes, plan_with(complete).incomplete) == (1, False)
    assert plan_with(blocked).incomplete
    assert plan_with(blocked).changes == 0
    assert plan_with(unobserved).incomplete
    assert plan_with(unobserved).changes == 0


def test_findings_have_a_message_with_advice() -> None:
    """Each message has what a person needs to act on it."""
    assert Unmanaged("a", ("1",)).message == "1 live key; no manifest lists this name"
    shared = "2 live keys share this name; 1 is the current one, and the others get no token."
    ids = ("1", "2")
    assert Duplicate("a", ids, "1", "owned").message == (
        f"{shared} Run `provision apply --dedupe` to revoke them."
    )
    assert Duplicate("a", ids, "1", "not_owned").message == (
        f"{shared} `owns` does not match the name, so --dedupe cannot revoke them."
    )
    assert Duplicate("a b", ids, "1", "owned", rotated=True).message == (
        f"{shared} If an interrupted `provision rotate 'a b'` created one of them, run that "
        "command again; otherwise run `provision apply --dedupe` to revoke them."
    )
    assert Duplicate("a", ids, "2", "superseded").message == (
        "2 live keys share this name; 2 is the current one. "
        "The others are its predecessors, and the rotation revokes them."
    )
    unknown = DeliveryUnknown("a", ("2",), (CommandAddress(("store",)),), ("1",))
    assert unknown.message == (
        "Delivery of its token to command store cannot be verified, so the older key 1 is kept "
        "until it expires. Use --redeliver to deliver a new token, and `provision revoke 1` to "
        "revoke the older key."
    )
    assert Drift("a", ("1",), "role", None, "Admin", "not_owned").message == (
        "Role is none, but the manifest says Admin. "
        "It is not changed because `owns` does not match the name."
    )
    long = Drift("a", ("1",), "expires", "2126-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "lifetime")
    assert long.message == (
        "Expires at 2126-01-01T00:00:00Z, later than a key created now would. A shorter lifetime "
        "does not change live keys; run `provision rotate` to create a successor."
    )
    assert "within 14 days" in Expiring("a", ("1",), "2026-12-01T00:00:00Z").message
