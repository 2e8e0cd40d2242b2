"""The diff is a pure function of desired, observed and the clock."""

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
from provisioner.model.sink_address import CommandAddress
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

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.model.key import DesiredKey

pytestmark = pytest.mark.fast

SHOP = environment_with(role="Worker")
ROLES = KnownRoles((WORKER, ADMIN, GUEST))


def look(*keys: ObservedKey, roles: Roles = ROLES, at: datetime = NOW) -> Observation:
    return observation_with(*keys, roles=roles, server_time=at, requests=2)


def planned(
    wanted: Iterable[DesiredKey], seen: Observation, *, only: tuple[str, ...] = ()
) -> Planned:
    return plan_environment(SHOP, wanted, seen, NOW, PlanOptions(only=only))


def test_a_missing_key_is_created_with_what_its_manifest_says() -> None:
    """The action carries name, depth, role, place, and the end counted from the plan."""
    [action] = planned([desired_key("a", depth=2, role="Admin")], look()).actions
    assert (action.name, action.reason, action.depth) == ("a", "missing", 2)
    assert action.expires == "90d"
    assert (action.role, action.role_id, action.blocked) == ("Admin", ADMIN.id, None)
    assert action.expires_at == NOW + timedelta(days=90)
    assert action.place.line == 7


def test_a_live_key_is_kept_and_a_dead_one_made_anew() -> None:
    """Revoked and expired keys do not satisfy a manifest; the server's clock decides."""
    seen = look(
        observed_key("live"),
        observed_key("revoked", revoked_at=NOW),
        observed_key("expired", expires_at=NOW),
        observed_key("by-its-clock", expires_at=NOW + timedelta(hours=1)),
        at=NOW + timedelta(hours=2),
    )
    names = ["live", "revoked", "expired", "by-its-clock"]
    plan = planned([desired_key(name) for name in names], seen)
    assert plan.kept == ("live",)
    assert [(one.name, one.reason) for one in plan.actions] == [
        (name, "dead") for name in names[1:]
    ]


def test_names_are_compared_by_code_points() -> None:
    """Neither case nor unicode normalisation makes two names one."""
    seen = look(observed_key("Key"), observed_key("e\u0301"))
    assert [
        one.name for one in planned([desired_key("key"), desired_key("\u00e9")], seen).actions
    ] == [
        "key",
        "\u00e9",
    ]


@pytest.mark.parametrize("roles", [ROLES, NoRoles()])
def test_a_plan_says_which_workspace_it_is_for(roles: Roles) -> None:
    """Environment, url, generation and workspace id, as they were looked at."""
    seen = look(roles=roles)
    plan = planned([], seen)
    assert (plan.environment, plan.url) == ("shop", "https://crm.example.com")
    assert (plan.generation, plan.workspace) == (seen.generation, "w")


def test_live_keys_that_no_manifest_lists_are_unmanaged() -> None:
    """One finding a name, dead keys not among them."""
    seen = look(
        observed_key("x", 1),
        observed_key("x", 2),
        observed_key("gone", revoked_at=NOW),
        observed_key("a"),
    )
    plan = planned([desired_key("a")], seen)
    assert plan.findings == (Unmanaged("x", ("id-x-1", "id-x-2")),)
    assert plan.actions == ()


def test_several_live_keys_of_a_name_are_a_duplicate_with_the_oldest_first() -> None:
    """The first by createdAt, then id, leads the ids."""
    older = observed_key("a", 5, created_at=NOW - timedelta(days=9))
    seen = look(observed_key("a", 2), older, observed_key("a", 1))
    [finding] = planned([desired_key("a")], seen).findings
    assert finding == Duplicate("a", (older.id, "id-a-1", "id-a-2"), older.id, "not_owned")
    [finding] = planned(
        [desired_key("a")], look(observed_key("a", 2), observed_key("a", 1))
    ).findings
    assert finding == Duplicate("a", ("id-a-1", "id-a-2"), "id-a-1", "not_owned")


def test_findings_of_all_names_are_reported_those_of_wanted_ones_first() -> None:
    """In the order of the manifests, then what no manifest lists, by name."""
    seen = look(
        observed_key("y"),
        observed_key("x"),
        *(observed_key(name, number) for name in "ab" for number in (1, 2)),
    )
    found = planned([desired_key("b"), desired_key("a")], seen).findings
    assert [one.name for one in found] == ["b", "a", "x", "y"]


def test_drift_of_an_absolute_end_is_seen_to_the_second() -> None:
    """Milliseconds, the mark of a run, are no drift; a second is."""
    end = datetime(2027, 6, 30, tzinfo=UTC)
    wanted = [desired_key("a", expiry="2027-06-30")]
    same = look(observed_key("a", expires_at=end + timedelta(milliseconds=417)))
    assert planned(wanted, same).findings == ()
    other = look(observed_key("a", expires_at=end + timedelta(seconds=1)))
    [finding] = planned(wanted, other).findings
    assert finding == Drift(
        "a", ("id-a-1",), "expires", "2027-06-30T00:00:01Z", "2027-06-30T00:00:00Z", "not_owned"
    )


def test_a_shortened_duration_is_told_and_touches_no_live_key() -> None:
    """One that was made for longer than its manifest says now; any other keeps its end."""
    far = look(observed_key("a", expires_at=NOW + timedelta(days=30, seconds=1)))
    [finding] = planned([desired_key("a", expiry="30d")], far).findings
    assert isinstance(finding, Drift)
    assert finding.field == "expires"
    near = look(observed_key("a", expires_at=NOW + timedelta(days=30)))
    assert planned([desired_key("a", expiry="30d")], near).findings == ()


@pytest.mark.parametrize("written", ["Admin", ADMIN.id])
def test_drift_of_a_role_says_from_and_to(written: str) -> None:
    """A label or an id that the key does not have is drift."""
    [finding] = planned([desired_key("a", role=written)], look(observed_key("a"))).findings
    assert finding == Drift("a", ("id-a-1",), "role", "Worker", written, "not_owned")
    assert planned([desired_key("a", role=WORKER.id)], look(observed_key("a"))).findings == ()


def test_roles_that_cannot_be_seen_do_not_drift() -> None:
    """Whatever the manifest writes, what the key has is unknown, or nothing."""
    for roles in (HiddenRoles(), NoRoles()):
        bare = look(observed_key("a", role=None, role_id=None), roles=roles)
        assert planned([desired_key("a", role=ADMIN.id)], bare).findings == ()


def test_a_key_without_its_role_drifts_from_nothing() -> None:
    """`from` is null where the key has no role at all."""
    [finding] = planned(
        [desired_key("a")], look(observed_key("a", role=None, role_id=None))
    ).findings
    assert finding == Drift("a", ("id-a-1",), "role", None, "Worker", "not_owned")


def test_a_key_that_ends_within_14_days_is_expiring() -> None:
    """The end of the key of its name counts, by the server's clock."""
    soon = NOW + timedelta(days=14)
    assert planned([desired_key("a")], look(observed_key("a", expires_at=soon))).findings == (
        Expiring("a", ("id-a-1",), "2026-12-07T04:00:00Z"),
    )
    later = observed_key("a", 2, expires_at=soon + timedelta(seconds=1))
    assert planned([desired_key("a")], look(later)).findings == ()
    twins = look(observed_key("a", 1, expires_at=soon), later)
    ids = ("id-a-1", "id-a-2")
    assert planned([desired_key("a")], twins).findings == (
        Duplicate("a", ids, "id-a-1", "not_owned"),
        Expiring("a", ids, "2026-12-07T04:00:00Z"),
    )


ASKED = "in shop, asked for by 'a'. "
OFFER = "Roles for keys: 'Admin', 'Worker'."
NO_OFFER = "Roles for keys: none at all."
AN_ID = "as an id, because this credential cannot see them."
NO_ROLE = (
    "'a' names no role, and keys of shop need one. Write `role:` on the key, in the manifest's "
    "defaults or in the environment: "
)
UNSEEN = (
    "shop does not show its roles to this credential, so 'Worker' of 'a' cannot be looked up. "
    "Give the credential's role the permission to read roles, or write the role's id."
)
TWINS = KnownRoles((WORKER, role_with("Worker", 2)))
IDS = f"Write one of the ids {WORKER.id}, {ADMIN.id}."


@pytest.mark.parametrize(
    ("role", "roles", "code", "message"),
    [
        ("worker", ROLES, "role_unknown", f"There is no role 'worker' {ASKED}{OFFER}"),
        (
            "Guest",
            ROLES,
            "role_not_assignable",
            f"Keys may not have the role 'Guest' {ASKED}{OFFER}",
        ),
        ("x", KnownRoles((GUEST,)), "role_unknown", f"There is no role 'x' {ASKED}{NO_OFFER}"),
        ("Worker", TWINS, "role_unknown", f"Several roles are called 'Worker' {ASKED}{IDS}"),
        ("Worker", HiddenRoles(), "role_unknown", UNSEEN),
        (None, ROLES, "role_missing", f"{NO_ROLE}one of 'Admin', 'Worker'."),
        (None, HiddenRoles(), "role_missing", f"{NO_ROLE}{AN_ID}"),
    ],
)
def test_a_wrong_role_fails_its_key_alone_and_says_what_to_write(
    role: str | None, roles: Roles, code: str, message: str
) -> None:
    """The failure names the key, the environment and the roles that keys may have."""
    shop = environment_with()
    keys = [desired_key("a", role=role), desired_key("b", role=role)]
    bad, other = plan_environment(shop, keys, look(roles=roles), NOW).actions
    assert (bad.role, bad.role_id, bad.blocked) == (role, None, Failure(code, message))
    assert other.blocked == Failure(code, message.replace("'a'", "'b'"))


def test_a_wrong_role_leaves_the_other_keys_alone() -> None:
    """Right roles are found however often they are asked for, by label and by id."""
    roles = ["Nobody", None, "Admin", "Admin", ADMIN.id]
    wanted = [desired_key(f"key-{number}", role=role) for number, role in enumerate(roles)]
    bad, *good = planned(wanted, look()).actions
    assert bad.blocked is not None
    assert [one.blocked for one in good] == [None] * 4
    assert [one.role_id for one in good] == [WORKER.id, ADMIN.id, ADMIN.id, ADMIN.id]


def test_roles_of_one_label_are_told_apart_by_id() -> None:
    """An ambiguous label is refused with the ids; an id is not ambiguous."""
    twin = role_with("Worker", 4)
    seen = look(roles=KnownRoles((WORKER, twin)))
    by_label, by_id = planned([desired_key("a"), desired_key("b", role=twin.id)], seen).actions
    assert by_label.blocked is not None
    assert twin.id in by_label.blocked.message
    assert by_id.role_id == twin.id


def test_a_key_without_any_role_is_blocked_on_core_and_fine_on_legacy() -> None:
    """`role_missing` is a matter of the core generation alone."""
    shop = environment_with()
    [action] = plan_environment(shop, [desired_key("a")], look(), NOW).actions
    assert action.blocked is not None
    assert action.blocked.code == "role_missing"
    legacy = plan_environment(shop, [desired_key("a")], look(roles=NoRoles()), NOW)
    assert legacy.actions[0].blocked is None
    assert not [note for note in legacy.notes if "role" in note]
    assert legacy.actions[0].role is None


def test_legacy_ignores_roles_with_a_note() -> None:
    """The note says how many keys ask for a role."""
    plan = planned([desired_key("a", role="Admin"), desired_key("b")], look(roles=NoRoles()))
    assert [one.role_id for one in plan.actions] == [None, None]
    assert plan.notes[0] == "the roles of 2 keys are ignored: keys of this generation have none"
    one = planned([desired_key("a")], look(roles=NoRoles()))
    assert one.notes[0] == "the roles of 1 key are ignored: keys of this generation have none"


def test_hidden_roles_take_ids_and_refuse_labels() -> None:
    """Where roles cannot be seen an id is taken at its word; a label cannot be looked up."""
    seen = look(roles=HiddenRoles())
    for id_ in (
        ADMIN.id,
        "abcdef01-2345-6789-abcd-ef0123456789",
        "ABCDEF01-2345-6789-ABCD-EF0123456789",
    ):
        [by_id] = planned([desired_key("a", role=id_)], seen).actions
        assert (by_id.role_id, by_id.blocked) == (id_, None)
    for label in ("Worker", "abc", f"{ADMIN.id}0", "X" + ADMIN.id[1:], "g" + ADMIN.id[1:]):
        [by_label] = planned([desired_key("a", role=label)], seen).actions
        assert by_label.blocked is not None
        assert by_label.blocked.code == "role_unknown"
    [note] = planned([], seen).notes
    assert note == (
        "roles cannot be seen with this credential, so a role must be written as an id and drift "
        "of roles stays unknown"
    )


def test_an_end_that_has_passed_blocks_its_key_alone() -> None:
    """`expiry_past` names the manifest and the line; the very moment has passed."""
    wanted = [desired_key("a", expiry="2026-11-23T04:00:00Z"), desired_key("b")]
    old, fine = planned(wanted, look()).actions
    assert old.blocked == Failure(
        "expiry_past",
        "'a' would end at 2026-11-23T04:00:00Z, which has passed. "
        "Write a later date in manifests/a.yaml line 7.",
    )
    assert fine.blocked is None
    before = planned(wanted, look(at=NOW - timedelta(seconds=1)))
    assert before.actions[0].blocked is None


def test_only_bounds_actions_and_findings() -> None:
    """Names that no glob matches are neither created nor reported; globs mind the case."""
    seen = look(observed_key("svc-old"), observed_key("other"))
    wanted = [desired_key(name) for name in ("web", "svc-a", "SVC-b", "svc-c")]
    plan = planned(wanted, seen, only=("svc-*",))
    assert [one.name for one in plan.actions] == ["svc-a", "svc-c"]
    assert plan.findings == (Unmanaged("svc-old", ("id-svc-old-1",)),)


@pytest.mark.parametrize(
    ("roles", "depths", "requests"),
    [
        (NoRoles(), {0: 20, 1: 57, 2: 60}, 2 + 3 + 3),
        (NoRoles(), {0: 61}, 2 + 2 + 2),
        (NoRoles(), {}, 2),
        (ROLES, {0: 20, 1: 57, 2: 60}, 2 + 137 + 1 + 1 + 1),
        (ROLES, {0: 1}, 2 + 1 + 1),
        (ROLES, {}, 2),
    ],
)
def test_the_estimate_counts_the_requests_of_a_run_where_nothing_goes_wrong(
    roles: Roles, depths: dict[int, int], requests: int
) -> None:
    """Batches on legacy; on core a request a key, and two for permissions and for what it takes.

    A look after creating: pages of 60 on legacy, one request on core; none where nothing is made.
    """
    wanted = [
        desired_key(f"k{d}-{n}", depth=d) for d, count in depths.items() for n in range(count)
    ]
    assert planned(wanted, look(roles=roles)).estimate.requests == requests


def test_the_estimate_knows_the_declared_rate() -> None:
    """Beyond the first burst each minute lets so many through."""
    shop = environment_with(url="x", role="Worker", limits=limits_with(requests_per_minute=10))
    plan = plan_environment(shop, [desired_key(f"k{n}") for n in range(68)], look(), NOW)
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


@given(wanted=st.lists(NAMES, unique=True), seen=KEYS)
def test_every_desired_key_is_either_kept_or_created_and_nothing_else(
    wanted: list[str], seen: list[ObservedKey]
) -> None:
    """Each wanted name once, created exactly where no live key has it; order as written."""
    plan = planned([desired_key(name) for name in wanted], look(*seen))
    live = {one.name for one in seen if one.live(NOW)}
    assert [one.name for one in plan.actions] == [name for name in wanted if name not in live]
    assert list(plan.kept) == [name for name in wanted if name in live]
    unmanaged = {one.name for one in plan.findings if isinstance(one, Unmanaged)}
    assert unmanaged == live - set(wanted)


@given(wanted=st.lists(NAMES, unique=True), seen=KEYS, seed=st.randoms())
def test_the_plan_does_not_depend_on_the_order_of_the_list(
    wanted: list[str], seen: list[ObservedKey], seed: object
) -> None:
    """Core lists keys in no fixed order; the plan is the same for every order."""
    shuffled = list(seen)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]
    keys = [desired_key(name) for name in wanted]
    assert planned(keys, look(*seen)) == planned(keys, look(*shuffled))


@given(wanted=st.lists(NAMES, unique=True), seen=KEYS)
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(
    wanted: list[str], seen: list[ObservedKey]
) -> None:
    """Creating what the plan asks for makes the next plan empty."""
    keys = [desired_key(name) for name in wanted]
    first = planned(keys, look(*seen))
    made = [observed_key(one.name, 10**7, expires_at=one.expires_at) for one in first.actions]
    assert planned(keys, look(*seen, *made)).actions == ()


def test_the_digest_covers_what_would_be_done_and_nothing_else() -> None:
    """Not time, places or order; but names, depths, roles, expiries, urls and workspaces."""

    def of(*keys: DesiredKey, at: datetime = NOW, url: str = SHOP.url) -> str:
        shop = environment_with(url=url, role="Worker")
        return digest((plan_environment(shop, keys, look(), at),), {"shop": keys})

    a, b = desired_key("a"), desired_key("b")
    first = of(a, b)
    assert first.startswith("sha256:")
    assert of(b, a) == first
    assert of(a, b, at=NOW + timedelta(days=1)) == first
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


def test_a_plan_knows_whether_it_changes_anything_and_is_whole() -> None:
    """`changes` counts actions; blocked keys and unobserved environments are incomplete."""
    whole = planned([desired_key("a")], look())
    blocked = planned([desired_key("a", role="Nobody")], look())
    lost = Unobserved("shop", SHOP.url, Failure("timeout", "x"))
    assert (plan_with(whole).changes, plan_with(whole).incomplete) == (1, False)
    assert plan_with(blocked).incomplete
    assert plan_with(blocked).changes == 0
    assert plan_with(lost).incomplete
    assert plan_with(lost).changes == 0


def test_findings_say_what_they_mean() -> None:
    """Each finding's sentence holds what a person needs to act on it."""
    assert Unmanaged("a", ("1",)).message.startswith("1 live key of")
    shared = "2 live keys share this name; 1 counts as the key and the others"
    ids = ("1", "2")
    assert Duplicate("a", ids, "1", "owned").message == (
        f"{shared} are delivered nowhere; `provision apply --dedupe` revokes the others"
    )
    assert Duplicate("a", ids, "1", "not_owned").message == (
        f"{shared} are delivered nowhere; `owns` does not match the name, so --dedupe revokes none"
    )
    assert Duplicate("a b", ids, "1", "owned", rotated=True).message == (
        f"{shared} are delivered nowhere; if an interrupted `provision rotate 'a b'` made another, "
        "run that again; `provision apply --dedupe` revokes the others"
    )
    assert Duplicate("a", ids, "2", "superseded").message == (
        "2 live keys share this name; 2 counts as the key, and the others end with its rotation"
    )
    waiting = DeliveryUnknown("a", ("2",), (CommandAddress(("store",)),), ("1",))
    assert waiting.message == (
        "nothing proves that its token is in command store, so the older key 1 stays until it "
        "expires; --redeliver delivers a new token, and `provision revoke 1` ends the older key"
    )
    assert Drift("a", ("1",), "role", None, "Admin", "not_owned").message == (
        "role is none, the manifest says Admin; it stays, as `owns` does not match the name"
    )
    long = Drift("a", ("1",), "expires", "2126-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "lifetime")
    assert long.message == (
        "ends at 2126-01-01T00:00:00Z, later than a key that is made now; a lifetime shortens no "
        "live key, and `provision rotate` makes a successor"
    )
    assert "within 14 days" in Expiring("a", ("1",), "2026-12-01T00:00:00Z").message
