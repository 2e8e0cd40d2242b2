"""Live keys are updated, rotated, delivered and revoked: which ones, when, in which order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    ADMIN,
    DAY,
    NOW,
    SECOND,
    WORKER,
    desired_key,
    environment_with,
    file_sink,
    observation_with,
    observed_key,
    part_with,
    plan_with,
    policy_with,
    rotation_with,
)
from hypothesis import given
from hypothesis import strategies as st
from model_server import ModelServer, Row
from model_server import token as signed

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.errors.failure import Failure
from provisioner.execution import (
    ActionBegun,
    ActionEnded,
    Done,
    Failed,
    Skipped,
    Unfinished,
)
from provisioner.execution.results import EXPIRY_PENDING, OLD_KEY_PENDING
from provisioner.model.expiry import format_timestamp, parse_expiry
from provisioner.model.globs import matches
from provisioner.model.key import Annotations
from provisioner.model.observed import HiddenRoles, KnownRoles, ObservedKey
from provisioner.model.sink_content import (
    ApiKeyToken,
    NotAToken,
    NoToken,
    SinkContent,
    Unavailable,
    Unreadable,
)
from provisioner.plan import (
    Change,
    Create,
    Deliver,
    Drift,
    Duplicate,
    Expiring,
    Planned,
    PlanOptions,
    Revoke,
    Rotate,
    Unmanaged,
    Update,
    delivers_too_early,
    plan_environment,
)
from provisioner.runtime.cancellation import STOPPED
from provisioner.secret import Secret
from provisioner.sinks.file import FileAddress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provisioner.execution import Result
    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey

pytestmark = pytest.mark.fast

SHOP = environment_with(role="Worker", owns=("svc-*",))
ROLES = KnownRoles((WORKER, ADMIN))
SINK = file_sink()
OTHER = file_sink("b.env", "B")
ROTATED = rotation_with()
RUN_MARKER = timedelta(milliseconds=417)
IN_90_DAYS = NOW + 90 * DAY + RUN_MARKER
FAILURE = Failure("sink_unavailable", "No.")


def desired(name: str = "svc-a", expiry: str = "90d", **changes: Any) -> DesiredKey:
    return desired_key(name, SINK, expiry=expiry, **changes)


def key(number: int = 1, name: str = "svc-a", **changes: Any) -> ObservedKey:
    created = NOW - 30 * DAY + number * DAY
    fields = {"id": f"{name}-{number}", "expires_at": IN_90_DAYS, "created_at": created}
    return observed_key(name, **(fields | changes))


def successive(age: timedelta = 5 * DAY, name: str = "svc-a") -> tuple[ObservedKey, ObservedKey]:
    """Return a key and the successor that was created at this age, when the key was due."""
    created = NOW - age
    old = key(1, name, created_at=created - 80 * DAY, expires_at=created + ROTATED.before)
    return old, key(2, name, created_at=created, expires_at=created + 90 * DAY + RUN_MARKER)


def planned(
    declared: Sequence[DesiredKey],
    observed: Sequence[ObservedKey],
    sink_contents: Mapping[FileAddress, SinkContent] | None = None,
    *,
    environment: Environment = SHOP,
    own_key: str | None = None,
    **options: Any,
) -> Planned:
    observation = observation_with(*observed, roles=ROLES, own_key=own_key)
    return plan_environment(
        environment,
        declared,
        observation,
        NOW,
        PlanOptions(**options),
        sink_contents=dict(sink_contents or {}),
    )


def token(of: ObservedKey) -> ApiKeyToken:
    return ApiKeyToken(of.id, of.expires_at.replace(microsecond=0))


def revoked(plan: Planned) -> list[tuple[str, str]]:
    return [(one.key_id, one.reason) for one in plan.actions if isinstance(one, Revoke)]


def test_a_changed_expiry_updates_the_key_and_delivers_a_new_token() -> None:
    """The change is shown, the milliseconds of the run are kept, and the sinks are written once."""
    one = key()
    declared = desired(expiry="2027-06-30")
    plan = planned([declared], [one], {SINK: token(one)})
    [update] = plan.actions
    assert isinstance(update, Update)
    assert update.changes == (Change("expires", "2027-02-21T04:00:00Z", "2027-06-30T00:00:00Z"),)
    assert update.expires_at == datetime(2027, 6, 30, 0, 0, 0, 417_000, tzinfo=UTC)
    assert (update.key_id, update.sets_expiry, update.role_id) == (one.id, True, None)
    assert (update.sinks, update.blocked) == ((SINK,), None)
    assert (update.reason, update.depth, update.place) == ("drift", 1, declared.place)
    assert (update.role, plan.kept) == ("Worker", ())


def test_every_action_says_what_the_manifest_says_about_its_key() -> None:
    """Whatever is done with the key; of a key that no manifest declares nobody says anything."""
    about = Annotations("Nightly export", "team-a", "OPS-7")
    noted, rotated = desired(annotations=about), desired(annotations=about, rotation=ROTATED)
    old, new = successive()
    due = key(expires_at=NOW + DAY)
    plans = (
        planned([noted], []),
        planned([noted._replace(expiry=parse_expiry("2029-01-01"))], [key()], {SINK: token(key())}),
        planned([noted], [key()], {SINK: NoToken()}),
        planned([rotated], [due], {SINK: token(due)}),
        planned([rotated], [old, new], {SINK: token(new)}),
        planned([noted], [key(1), key(2)], {SINK: token(key(1))}, dedupe=True),
        planned([noted], [key()], revoke=frozenset({"svc-a"})),
    )
    assert [(type(one), one.annotations) for plan in plans for one in plan.actions] == [
        (Create, about),
        (Update, about),
        (Deliver, about),
        (Rotate, about),
        (Revoke, about),
        (Revoke, about),
        (Revoke, about),
    ]
    [pruned] = planned([], [key()], prune=True).actions
    assert pruned.annotations is None


def test_a_changed_role_is_assigned_and_needs_no_new_token() -> None:
    """The key has the role, not the token; a key without a role gets it too."""
    for was, role_id in (("Worker", WORKER.id), (None, None)):
        one = key(role=was, role_id=role_id)
        [update] = planned([desired(role="Admin")], [one], {SINK: token(one)}).actions
        assert isinstance(update, Update)
        assert update.changes == (Change("role", was, "Admin"),)
        assert (update.role, update.role_id, update.sets_expiry) == ("Admin", ADMIN.id, False)
        assert update.sinks == ()
        assert update.expires_at == one.expires_at


def test_a_changed_role_does_not_prevent_a_delivery() -> None:
    """There is one action for the role and one for the token of the same key."""
    update, deliver = planned([desired(role="Admin")], [key()], {SINK: NoToken()}).actions
    assert isinstance(update, Update)
    assert isinstance(deliver, Deliver)
    assert update.key_id == deliver.key_id


def test_a_sink_gets_one_token_with_a_new_expiry_and_another_if_that_is_blocked() -> None:
    """The update delivers its token; a blocked update does not prevent a delivery."""
    [update] = planned([desired(expiry="2027-06-30")], [key()], {SINK: NoToken()}).actions
    assert isinstance(update, Update)
    blocked, deliver = planned(
        [desired(expiry="2026-11-23T04:00:00Z")], [key()], {SINK: NoToken()}
    ).actions
    assert isinstance(blocked, Update)
    assert isinstance(deliver, Deliver)
    assert deliver.reason == "token_missing"


def test_dedupe_delivers_a_token_of_the_kept_key_to_write_only_sinks() -> None:
    """They may hold the token of a revoked key; sinks that can be read keep good tokens."""
    duplicates = [key(1), key(2)]
    declared = [desired(deliver=(SINK, OTHER))]
    for other, delivered in ((Unreadable(NOW), 1), (token(duplicates[0]), 0)):
        sink_contents = {SINK: token(duplicates[0]), OTHER: other}
        plan = planned(declared, duplicates, sink_contents, dedupe=True)
        assert revoked(plan) == [("svc-a-2", "duplicate")]
        [revocation] = [one for one in plan.actions if isinstance(one, Revoke)]
        assert (revocation.role, revocation.place) == ("Worker", declared[0].place)
        found = [one for one in plan.actions if isinstance(one, Deliver)]
        assert [one.key_id for one in found] == ["svc-a-1"] * delivered
        assert planned(declared, duplicates, sink_contents).actions == ()


def test_a_key_that_is_not_owned_is_reported_and_never_changed() -> None:
    """Both differences are findings, and the key is kept."""
    one = key(name="their")
    declared = desired("their", "2027-06-30", role="Admin", deliver=())
    plan = planned([declared], [one])
    assert plan.actions == ()
    assert {one.field for one in plan.findings if isinstance(one, Drift)} == {"expires", "role"}
    assert plan.kept == ("their",)


def test_an_expiry_in_the_past_changes_nothing() -> None:
    """A live key never gets an expiry in the past; the action is blocked and says why."""
    [update] = planned([desired(expiry="2026-11-23T04:00:00Z")], [key()]).actions
    assert update.blocked is not None
    assert update.blocked.code == "expiry_past"


def test_a_date_beyond_the_policy_creates_and_updates_nothing() -> None:
    """The lifetime of a date counts from the run, to the second."""
    longest = replace(SHOP, policy=policy_with(max_lifetime=30 * DAY))
    for observed in ((), (key(),)):
        for seconds, code in ((0, None), (1, "policy_lifetime")):
            date = format_timestamp(NOW + 30 * DAY + seconds * SECOND)
            [action] = planned([desired(expiry=date)], observed, environment=longest).actions
            assert isinstance(action, Update if observed else Create)
            assert (action.blocked and action.blocked.code) == code


def test_a_plan_warns_that_issued_tokens_keep_their_expiry() -> None:
    """The note appears only if an expiry changes."""
    start = "Tokens already issued keep their expiry."
    updated = planned([desired(expiry="2027-06-30")], [key()])
    past = planned([desired(expiry="2026-11-23T04:00:00Z")], [key()])
    role = planned([desired(role="Admin")], [key()])
    counts = [sum(note.startswith(start) for note in one.notes) for one in (updated, past, role)]
    assert counts == [1, 0, 0]


def test_a_plan_warns_when_a_successor_has_no_sink() -> None:
    """A rotation without a sink is carried out with a warning."""
    due = key(expires_at=NOW + DAY)
    notes = planned([desired(rotation=ROTATED, deliver=())], [due]).notes
    assert [note[:41] for note in notes] == ["no sink receives the token for 1 key; add"]


@pytest.mark.parametrize("rotation", [None, ROTATED])
def test_a_duration_changes_no_live_key(rotation) -> None:
    """A shorter duration is a finding, a longer one is not."""
    one = key()
    plan = planned([desired(expiry="30d", rotation=rotation)], [one], {SINK: token(one)})
    assert plan.actions == ()
    actual, latest = "2027-02-21T04:00:00Z", "2026-12-23T04:00:00Z"
    assert plan.findings == (Drift("svc-a", ("svc-a-1",), "expires", actual, latest, "lifetime"),)
    plan = planned([desired(expiry="180d", rotation=rotation)], [one], {SINK: token(one)})
    assert (plan.actions, plan.findings) == ((), ())


def test_a_key_is_due_to_the_second_when_it_expires_within_before() -> None:
    """The server's clock decides."""
    for end, due in ((NOW + 10 * DAY, True), (NOW + 10 * DAY + SECOND, False)):
        one = key(expires_at=end)
        plan = planned([desired(rotation=ROTATED)], [one], {SINK: token(one)})
        assert [type(action) for action in plan.actions] == [Rotate] * due


def test_a_successor_is_created_like_any_key_and_delivered_to_every_sink() -> None:
    """It has the full lifetime and the role of the manifest; the old key stays live."""
    one = key(expires_at=NOW + DAY)
    declared = desired(rotation=ROTATED, role="Admin", deliver=(SINK, OTHER))
    plan = planned([declared], [one], {SINK: token(one), OTHER: NoToken()})
    [rotate] = [action for action in plan.actions if isinstance(action, Rotate)]
    assert (rotate.reason, rotate.predecessors, rotate.at_once) == ("due", (one.id,), False)
    assert (rotate.expires_at, rotate.sinks) == (NOW + 90 * DAY, (SINK, OTHER))
    assert rotate.successor.role_id == ADMIN.id
    assert not any(isinstance(action, Deliver) for action in plan.actions)
    assert revoked(plan) == []


@pytest.mark.parametrize("sink_contents", [True, False])
def test_the_current_key_decides_whether_a_name_is_due(sink_contents) -> None:
    """There is always a live token; the older key is revoked only after a proven delivery."""
    old, new = successive()
    new = replace(new, expires_at=NOW + DAY)
    found: SinkContent = token(new) if sink_contents else Unreadable(None)
    plan = planned([desired(rotation=ROTATED, expiry="6d")], [old, new], {SINK: found})
    rotate = plan.actions[0]
    assert isinstance(rotate, Rotate)
    ids = (old.id, new.id) if sink_contents else (old.id,)
    assert (rotate.reason, rotate.predecessors) == ("due", ids)
    assert revoked(plan) == ([(old.id, "superseded")] if sink_contents else [])


def test_more_than_one_predecessor_is_a_finding() -> None:
    """One predecessor is normal; several are kept because a delivery cannot be verified."""
    oldest, old = successive(9 * DAY)
    old = replace(old, expires_at=NOW + 9 * DAY + RUN_MARKER)
    new = key(3, created_at=NOW - DAY, expires_at=NOW + 89 * DAY + RUN_MARKER)
    for observed, findings in (((old, new), ()), ((oldest, old, new), (("svc-a-1", "svc-a-2"),))):
        plan = planned([desired(rotation=ROTATED)], observed, {SINK: token(new)})
        assert plan.actions == ()
        ids = tuple(one.id for one in observed)
        expected = (Duplicate("svc-a", ids, new.id, "superseded", rotated=True) for _ in findings)
        assert plan.findings == tuple(expected)


def test_the_overlap_starts_when_the_last_sink_got_its_token() -> None:
    """The time comes from the token or from the sink."""
    old, new = successive(9 * DAY)
    declared = desired(rotation=ROTATED, deliver=(SINK, OTHER))
    early, late, latest = NOW - 8 * DAY, NOW - 2 * DAY, NOW - 2 * DAY + SECOND
    for second, revokes in ((early, True), (late, True), (latest, False)):
        for found in (replace(token(new), issued_at=second), Unreadable(second)):
            sink_contents = {SINK: replace(token(new), issued_at=early), OTHER: found}
            assert bool(revoked(planned([declared], [old, new], sink_contents))) is revokes


def test_a_predecessor_whose_token_is_in_use_is_reported_before_it_expires() -> None:
    """Its successor lives longer, but no sink has that token yet."""
    old, new = successive(8 * DAY)
    plan = planned([desired(rotation=ROTATED)], [old, new], {SINK: token(old)})
    [expiring] = [one for one in plan.findings if isinstance(one, Expiring)]
    assert expiring.expires_at == format_timestamp(old.expires_at)
    delivered = planned([desired(rotation=ROTATED)], [old, new], {SINK: token(new)})
    assert not any(isinstance(one, Expiring) for one in delivered.findings)


def test_a_blocked_successor_does_not_prevent_a_delivery() -> None:
    """The live key stays in use until its expiry, which is a finding."""
    one = key(1, expires_at=NOW + DAY)
    declared = desired(rotation=ROTATED, role="Nobody")
    plan = planned([declared], [one], {SINK: NoToken()})
    unblocked = {type(action): action.blocked is None for action in plan.actions}
    assert unblocked == {Update: False, Rotate: False, Deliver: True}
    assert [type(finding) for finding in plan.findings] == [Expiring]
    results = ModelServer(rows=[Row.of(one)]).run(*plan.actions)
    assert [type(result) for result in results] == [Failed, Failed, Done]


def test_the_old_role_of_a_predecessor_is_a_finding() -> None:
    """The successor gets the new role; the older key keeps the old one until it is revoked."""
    old, new = (replace(one, role="Admin", role_id=ADMIN.id) for one in successive())
    plan = planned([desired(rotation=ROTATED)], [old, new], {SINK: token(new)})
    assert [(one.key_id, type(one)) for one in plan.actions if isinstance(one, Update)] == [
        (new.id, Update)
    ]
    [drift] = [one for one in plan.findings if isinstance(one, Drift)]
    assert drift == Drift("svc-a", (old.id,), "role", "Admin", "Worker", "rotated")
    assert "already has a successor" in drift.message


@pytest.mark.parametrize("roles", [HiddenRoles(), KnownRoles(())])
def test_an_expiry_is_updated_even_if_roles_are_unknown(roles) -> None:
    """The update does not change the role."""
    one = key(1, role=None, role_id=None)
    observation = observation_with(one, roles=roles)
    declared = desired(expiry="2027-06-30", role=None)
    environment = replace(SHOP, role=None)
    [update] = plan_environment(
        environment, [declared], observation, NOW, PlanOptions(), sink_contents={}
    ).actions
    assert isinstance(update, Update)
    assert update.blocked is None


def test_an_update_of_the_expiry_keeps_the_label_of_the_role() -> None:
    """The manifest writes the role as an id."""
    [update] = planned([desired(expiry="2027-06-30", role=WORKER.id)], [key(1)]).actions
    assert isinstance(update, Update)
    assert (update.role, update.role_id) == ("Worker", None)


def test_all_drift_that_is_not_changed_is_reported() -> None:
    """A lifetime does not shorten live keys, and the role of a foreign key is not changed."""
    one = key(1, "other", role="Admin", role_id=ADMIN.id, expires_at=NOW + 200 * DAY)
    plan = planned([desired("other", "90d", deliver=())], [one])
    assert [(one.field, one.reason) for one in plan.findings if isinstance(one, Drift)] == [
        ("expires", "lifetime"),
        ("role", "not_owned"),
    ]


def test_a_dated_write_only_sink_is_not_written_again_when_predecessors_are_revoked() -> None:
    """Its timestamp proves that it has the token of the successor."""
    old, new = successive()
    sink_contents = {SINK: Unreadable(new.created_at + DAY)}
    [action] = planned([desired(rotation=ROTATED)], [old, new], sink_contents).actions
    assert isinstance(action, Revoke)
    assert (action.key_id, action.reason) == (old.id, "superseded")
    assert action.place == desired().place


@pytest.mark.parametrize(
    ("age", "name", "sink_contents", "too_early"),
    [
        (4.9, "svc-a", None, True),
        (5.0, "svc-a", None, False),
        (-1.0, "svc-a", None, True),
        (0.0, "svc-b", None, False),
        (0.0, "svc-a", "good", False),
    ],
    ids=["young", "old", "of this second", "alone", "delivered"],
)
def test_a_key_that_another_run_may_revoke_is_not_delivered_yet(
    age, name, sink_contents, too_early
) -> None:
    """It is one of several of its name, was just created, and the plan delivers its token."""
    first, second = successive(timedelta(seconds=age), name)
    first = replace(first, name="svc-a", created_at=first.created_at - DAY)
    observation = observation_with(first, second, roles=KnownRoles((WORKER,)))
    declared = [desired(name, rotation=ROTATED)]
    holds: SinkContent = token(second) if sink_contents else NoToken()
    plan = plan_environment(
        SHOP, declared, observation, NOW, PlanOptions(), sink_contents={SINK: holds}
    )
    assert delivers_too_early(plan, observation) == too_early
    dead = replace(observation, keys=(replace(first, revoked_at=NOW), second))
    plan = plan_environment(SHOP, declared, dead, NOW, PlanOptions(), sink_contents={SINK: holds})
    assert not delivers_too_early(plan, dead)


def test_the_expiry_of_the_token_in_use_counts_even_beside_a_later_key() -> None:
    """If no sink can be read, the expiry of the oldest key counts."""
    short, long = key(1, expires_at=NOW + DAY), key(2)
    for sink_contents, reported in (
        (token(short), True),
        (token(long), False),
        (Unreadable(NOW), True),
    ):
        findings = planned([desired()], [short, long], {SINK: sink_contents}).findings
        assert any(isinstance(one, Expiring) for one in findings) is reported


def test_no_action_locks_the_run_out() -> None:
    """The key that the run is signed in with keeps its role, and `--now` does not revoke it."""
    signed_in = "This run is signed in with 'svc-a' (svc-a-1)."
    [role] = planned([desired(role="Admin")], [key()], own_key="svc-a-1").actions
    assert role.blocked == Failure(
        Code.OWN_KEY, f"{signed_in} Use another credential to change its role."
    )
    [end] = planned([desired(expiry="2027-06-30")], [key()], own_key="svc-a-1").actions
    assert end.blocked is None
    options = {"rotate": frozenset({"svc-a"}), "own_key": "svc-a-1"}
    [now] = planned([desired(rotation=ROTATED)], [key()], at_once=True, **options).actions
    assert isinstance(now, Rotate)
    assert now.blocked == Failure(
        Code.OWN_KEY, f"{signed_in} Rotate it without --now, or use another credential."
    )
    [with_overlap] = planned([desired(rotation=ROTATED)], [key()], **options).actions
    assert with_overlap.blocked is None


@pytest.mark.parametrize(
    ("age", "revokes"), [(2 * DAY, True), (2 * DAY - SECOND, False), (9 * DAY, True)]
)
def test_predecessors_are_revoked_when_the_overlap_is_over(age, revokes) -> None:
    """It counts from the create of the successor, to the second."""
    old, new = successive(age)
    plan = planned([desired(rotation=ROTATED)], [old, new], {SINK: token(new)})
    assert revoked(plan) == ([(old.id, "superseded")] if revokes else [])
    assert plan.kept == ("svc-a",)


OLD, NEW = successive()
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("sink_contents", "revokes"),
    [
        (token(NEW), True),
        (ApiKeyToken("SVC-A-2", None), True),
        (token(OLD), False),
        (ApiKeyToken("svc-a-2", NEW.expires_at - timedelta(minutes=2)), False),
        (NoToken(), False),
        (NotAToken(), False),
        (Unavailable(FAILURE), False),
        (Unreadable(None), False),
        (Unreadable(NEW.created_at - SECOND), False),
        (Unreadable(NEW.created_at + MINUTE), False),
        (Unreadable(NEW.created_at + MINUTE + SECOND), True),
        (Unreadable(NOW, only_writes=False), False),
    ],
)
def test_predecessors_are_revoked_only_after_every_delivery_is_proven(
    sink_contents, revokes
) -> None:
    """A timestamp proves a write if it is more than a minute after the create."""
    declared = desired(rotation=ROTATED, deliver=(SINK, OTHER))
    for sinks in (
        {SINK: sink_contents, OTHER: token(NEW)},
        {SINK: token(NEW), OTHER: sink_contents},
    ):
        assert bool(revoked(planned([declared], [OLD, NEW], sinks))) is revokes


def test_a_rotation_does_not_revoke_a_key_that_is_not_owned() -> None:
    """Such manifests are refused, and a plan would not do it either."""
    old, new = successive(name="their")
    declared = [desired("their", rotation=ROTATED)]
    assert revoked(planned(declared, [old, new], {SINK: token(new)})) == []


def test_without_a_sink_no_predecessor_is_revoked() -> None:
    """Nobody has the token of its successor."""
    assert revoked(planned([desired(rotation=ROTATED, deliver=())], successive())) == []


def test_a_run_that_was_killed_before_its_delivery_is_finished() -> None:
    """The successor is delivered, and the old key stays live until the next run."""
    old, new = successive()
    plan = planned([desired(rotation=ROTATED)], [old, new], {SINK: token(old)})
    [deliver] = plan.actions
    assert isinstance(deliver, Deliver)
    assert (deliver.key_id, deliver.reason) == (new.id, "token_dead")


def test_a_rotation_does_not_revoke_duplicates() -> None:
    """A second successor of a killed run is a finding, and only --dedupe revokes it."""
    old, new = successive()
    second = replace(new, id="svc-a-3", created_at=new.created_at + SECOND)
    observed = [old, new, second]
    declared, sink_contents = [desired(rotation=ROTATED)], {SINK: token(new)}
    plan = planned(declared, observed, sink_contents)
    assert revoked(plan) == [(old.id, "superseded")]
    ids = tuple(one.id for one in observed)
    assert plan.findings == (Duplicate("svc-a", ids, new.id, "owned", rotated=True),)
    plan = planned(declared, observed, sink_contents, dedupe=True)
    assert revoked(plan) == [(second.id, "duplicate"), (old.id, "superseded")]


def test_prune_revokes_owned_live_keys_that_no_manifest_declares() -> None:
    """It revokes every live key with that name, only on request, and only where `owns` matches."""
    observed = [
        key(1, "svc-old"),
        key(2, "svc-old"),
        key(1, "svc-dead", revoked_at=NOW),
        key(1, "Svc-a"),
        key(1, "their"),
        key(1),
    ]
    sinks = {SINK: token(key(1))}
    plan = planned([desired()], observed, sinks, prune=True)
    assert revoked(plan) == [("svc-old-1", "undeclared"), ("svc-old-2", "undeclared")]
    assert {one.name for one in plan.findings} == {"Svc-a", "their"}
    plan = planned([desired()], observed, sinks)
    assert revoked(plan) == []
    assert {one.name for one in plan.findings if isinstance(one, Unmanaged)} == {
        "svc-old",
        "Svc-a",
        "their",
    }
    assert revoked(planned([desired()], observed, sinks, prune=True, only=("svc-a",))) == []
    nothing = environment_with(role="Worker")
    assert revoked(planned([desired()], observed, sinks, prune=True, environment=nothing)) == []


@pytest.mark.parametrize("options", [{"prune": True}, {"dedupe": True}, {}])
def test_the_key_that_the_run_is_signed_in_with_is_never_revoked(options) -> None:
    """A note says so; it may be undeclared, a duplicate or a predecessor."""
    rotation = None if options else ROTATED
    declared = [desired("svc-else")] if "prune" in options else [desired(rotation=rotation)]
    own, other = successive()
    sinks = {SINK: token(other)}
    assert (own.id, "superseded") in revoked(planned(declared, [own, other], sinks)) or options
    plan = planned(declared, [own, other], sinks, own_key=own.id, **options)
    assert own.id not in [id_ for id_, _ in revoked(plan)]
    assert any("signed in with" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("sink_contents", "kept"),
    [
        ({SINK: token(key(2))}, 2),
        ({SINK: NoToken()}, 1),
        ({SINK: token(key(9))}, 1),
        ({SINK: NotAToken()}, 1),
        ({SINK: NoToken(), OTHER: token(key(3))}, 3),
    ],
)
def test_dedupe_keeps_the_delivered_key_or_else_the_oldest(sink_contents, kept) -> None:
    """The others are revoked, and sinks without a token of the kept key get one."""
    keys = [key(1), key(2), key(3)]
    declared = desired(deliver=tuple(sink_contents))
    plan = planned([declared], keys, sink_contents, dedupe=True)
    revoked_ids = [id_ for id_, reason in revoked(plan) if reason == "duplicate"]
    assert revoked_ids == [one.id for one in keys if one.id != f"svc-a-{kept}"]
    for action in plan.actions:
        if isinstance(action, Deliver):
            assert action.key_id == f"svc-a-{kept}"
    written = {sink for action in plan.actions for sink in action.sinks}
    assert written == {
        sink for sink, found in sink_contents.items() if found != token(keys[kept - 1])
    }


def test_duplicates_are_a_finding_unless_dedupe_can_revoke_them() -> None:
    """Without the option, or outside `owns`, all of them stay live."""
    for name, options in (("svc-a", {}), ("their", {"dedupe": True})):
        keys = [key(1, name), key(2, name)]
        plan = planned([desired(name)], keys, {SINK: token(keys[0])}, **options)
        assert plan.actions == ()
        assert plan.findings == (
            Duplicate(
                name,
                (keys[0].id, keys[1].id),
                keys[0].id,
                "owned" if matches(name, SHOP.owns) else "not_owned",
            ),
        )


NAMES = ("svc-a", "svc-b", "their")


@st.composite
def worlds(
    draw: st.DrawFn,
) -> tuple[list[DesiredKey], list[ObservedKey], dict[Any, SinkContent], Any]:
    declared: list[DesiredKey] = []
    observed: list[ObservedKey] = []
    sink_contents: dict[Any, SinkContent] = {}
    hours = st.integers(0, 100 * 24).map(lambda count: timedelta(hours=count))
    for name in NAMES:
        keys = [
            key(
                number,
                name,
                expires_at=NOW - 2 * DAY + draw(hours),
                created_at=NOW - draw(hours),
                revoked_at=draw(st.sampled_from((None, None, None, NOW))),
            )
            for number in range(draw(st.integers(0, 3)))
        ]
        observed += keys
        if not draw(st.booleans()):
            continue
        sinks = (FileAddress(f"{name}.env", "A"), FileAddress(f"{name}.env", "B"))
        deliver = sinks[: draw(st.integers(0, 2))]
        fixed = (
            NoToken(),
            NotAToken(),
            Unavailable(FAILURE),
            Unreadable(None),
            Unreadable(NOW - DAY),
        )
        for sink in deliver:
            sink_contents[sink] = draw(
                st.sampled_from((*fixed, *map(token, keys), *map(token, keys)))
            )
        rotated = name != "their" and draw(st.booleans())
        expiry = draw(st.sampled_from(("90d", "20d") if rotated else ("90d", "2027-01-01")))
        declared.append(
            desired(name, expiry, deliver=deliver, rotation=ROTATED if rotated else None)
        )
    flags = {flag: draw(st.booleans()) for flag in ("prune", "dedupe", "redeliver")}
    return declared, observed, sink_contents, flags


def replaced(
    newer: ObservedKey,
    older: ObservedKey,
    declared: DesiredKey,
    sink_contents: Mapping[Any, SinkContent],
) -> bool:
    """Return whether a key replaced another one that was due, is delivered, and old enough."""
    for sink in declared.deliver:
        found = sink_contents[sink]
        dated = isinstance(found, Unreadable) and found.updated_at is not None
        proven = dated and found.updated_at > newer.created_at + MINUTE
        if not proven and not (isinstance(found, ApiKeyToken) and found.key == newer.id):
            return False
    due = older.expires_at - ROTATED.before <= newer.created_at
    return due and newer.created_at + ROTATED.overlap <= NOW


@given(worlds(), st.sampled_from((None, "svc-a-0", "svc-b-1")))
def test_no_plan_revokes_a_key_that_must_be_kept(world, own_key) -> None:
    """Only live owned keys are revoked, never our own; a declared name keeps a delivered one."""
    declared, observed, sink_contents, options = world
    plan = planned(declared, observed, sink_contents, own_key=own_key, **options)
    by_name = {one.name: one for one in declared}
    live = {one.id: one for one in observed if one.live(NOW)}
    revoked_ids = dict(revoked(plan))
    assert len(revoked_ids) == len(revoked(plan))
    for id_, reason in revoked_ids.items():
        name = live[id_].name
        assert matches(name, SHOP.owns)
        assert id_ != own_key
        if reason == "undeclared":
            assert name not in by_name
            assert options["prune"]
            continue
        left = [one for one in live.values() if one.name == name and one.id not in revoked_ids]
        assert left
        if reason == "superseded":
            newer = [one for one in left if one.creation_order > live[id_].creation_order]
            assert by_name[name].rotation is not None
            assert by_name[name].deliver
            assert any(replaced(one, live[id_], by_name[name], sink_contents) for one in newer)
        else:
            assert (reason, options["dedupe"]) == ("duplicate", True)
    for action in plan.actions:
        if isinstance(action, Rotate):
            same = {one.id for one in live.values() if one.name == action.name}
            assert set(action.predecessors) <= same
            assert not set(action.predecessors) & {
                id_ for id_, reason in revoked_ids.items() if reason == "duplicate"
            }
        if isinstance(action, Update):
            assert matches(action.name, SHOP.owns)
        if isinstance(action, Deliver | Update):
            assert action.key_id in live
            assert action.key_id not in revoked_ids


def requested_rotation(declared: DesiredKey, *observed: ObservedKey, now: bool = False) -> Rotate:
    sink_contents = dict.fromkeys(declared.deliver, token(observed[0]))
    options = {"rotate": frozenset({declared.name}), "at_once": now}
    [rotate] = planned([desired("svc-z"), declared], observed, sink_contents, **options).actions
    assert isinstance(rotate, Rotate)
    return rotate


@pytest.mark.parametrize("now", [True, False])
def test_a_requested_successor_replaces_all_live_keys_of_its_name(now) -> None:
    """It expires like a key created now, and the plan has no other action."""
    rotate = requested_rotation(desired(rotation=ROTATED), key(1), now=now)
    assert (rotate.reason, rotate.predecessors, rotate.at_once) == ("asked", ("svc-a-1",), now)
    assert (rotate.expires_at, rotate.blocked) == (NOW + 90 * DAY, None)
    assert (rotate.depth, rotate.sinks) == (1, (SINK,))
    several = requested_rotation(desired(rotation=ROTATED), key(1), key(2), now=True)
    assert (several.predecessors, several.blocked) == (("svc-a-1", "svc-a-2"), None)
    assert rotate.predecessor_expires_at == (None if now else NOW + ROTATED.before + RUN_MARKER)
    soon = requested_rotation(
        desired(rotation=ROTATED), key(1, expires_at=NOW + ROTATED.before), now=now
    )
    assert soon.predecessor_expires_at is None
    assert planned([desired()], [], rotate=frozenset({"svc-a"})).actions == ()


@pytest.mark.parametrize(
    ("declared", "observed", "code", "message", "remedy", "works_at_once"),
    [
        (
            desired("their", rotation=ROTATED),
            (key(1, "their"),),
            Code.NOT_OWNED,
            (
                "'their' matches no pattern under `owns` in shop, so its current key could not be "
                "revoked. Add a pattern."
            ),
            "",
            False,
        ),
        (
            desired(rotation=ROTATED, deliver=()),
            (key(1),),
            Code.ROTATION_UNDELIVERED,
            "'svc-a' has no sink that its successor's token could be delivered to.",
            "Add one under `deliver`.",
            False,
        ),
        (
            desired(rotation=ROTATED),
            (OLD, NEW),
            Code.ROTATION_RUNNING,
            (
                "The last rotation of 'svc-a' is not finished: 2 keys with that name are live. "
                "Run `provision apply` after 2026-11-20T04:00:00Z to revoke the older ones, or "
                "use --now."
            ),
            "",
            True,
        ),
        (
            desired(),
            (key(1),),
            Code.ROTATION_UNSAID,
            (
                "'svc-a' has no `rotate`, so nothing determines when to revoke the old key. "
                "Add one, or use --now."
            ),
            "",
            True,
        ),
    ],
)
def test_a_successor_whose_predecessor_could_not_be_revoked_is_not_created(
    declared, observed, code, message, remedy, works_at_once
) -> None:
    """Each reason has the name; `--now` needs no rotation, but ownership and a sink."""
    failure = Failure(code, message, remedy)
    assert requested_rotation(declared, *observed).blocked == failure
    at_once = requested_rotation(declared, *observed, now=True).blocked
    assert at_once == (None if works_at_once else failure)


@pytest.mark.parametrize("now", [True, False])
def test_a_successor_that_could_not_be_created_blocks_its_rotation(now) -> None:
    """An unknown role is found before anything is revoked, with and without `--now`."""
    declared = desired(rotation=ROTATED, role="Nobody")
    blocked = requested_rotation(declared, key(1), now=now).blocked
    assert blocked is not None
    assert blocked.code == "role_unknown"
    assert "'svc-a'" in blocked.text


def test_a_requested_rotation_leaves_every_other_key_alone() -> None:
    """Only the requested name has an action, though the others are live, declared and owned."""
    declared = [desired(rotation=ROTATED), desired("svc-b", rotation=ROTATED)]
    plan = planned(declared, [key(), key(1, "svc-b")], rotate=frozenset({"svc-a"}))
    [rotate] = plan.actions
    assert isinstance(rotate, Rotate)
    assert (rotate.name, rotate.successor.reason) == ("svc-a", "missing")


def revocations_of(
    *names: str, observed: Sequence[ObservedKey], own_key: str | None = None, **options: Any
) -> list[tuple[str, Failure | None]]:
    """Return the ids that a revocation includes, and what blocks them."""
    observation = observation_with(*observed, roles=ROLES, own_key=own_key)
    options["revoke"] = frozenset(names)
    plan = plan_environment(SHOP, (), observation, NOW, PlanOptions(**options))
    assert all(isinstance(one, Revoke) and one.reason == "asked" for one in plan.actions)
    assert (plan.kept, plan.findings, plan.workspace) == ((), (), "w")
    assert (plan.environment, plan.url, plan.generation) == ("shop", SHOP.url, "core")
    assert plan.estimate.requests >= 1
    return [(one.key_id, one.blocked) for one in plan.actions if isinstance(one, Revoke)]


def test_revoke_takes_names_and_ids_of_live_keys() -> None:
    """They are in order of name and age; dead and unselected keys are left out."""
    observed = [key(2, "svc-b"), key(2), key(1), key(3, revoked_at=NOW), key(1, "svc-c")]
    assert revocations_of("svc-a", "svc-b-2", observed=observed) == [
        ("svc-a-1", None),
        ("svc-a-2", None),
        ("svc-b-2", None),
    ]
    assert revocations_of("svc-a", "svc-b", observed=observed, only=("*-b",)) == [("svc-b-2", None)]


def test_revoking_a_declared_key_warns_that_it_will_be_created_again() -> None:
    """The action has the position too; a key that is kept has no note."""
    observation = observation_with(key(1), key(2), key(1, "their"), key(1, "svc-z"), roles=ROLES)
    declared = [desired(), desired("their")]
    options = PlanOptions(revoke=frozenset({"svc-a", "their", "svc-z"}))
    plan = plan_environment(SHOP, declared, observation, NOW, options)
    [note] = plan.notes
    assert note == (
        "manifests/a.yaml line 7 still declares 'svc-a'; the next `apply` will create it again"
    )
    places = {one.name: one.place for one in plan.actions}
    assert places == {"svc-a": declared[0].place, "their": declared[1].place, "svc-z": None}


def test_revoke_is_blocked_for_its_own_key_and_for_foreign_keys() -> None:
    """Both are shown as blocked, with what to do instead, and other keys are revoked."""
    observed = [key(1, "their"), key(1), key(2)]
    assert revocations_of("svc-a", "their", observed=observed, own_key="svc-a-2") == [
        ("svc-a-1", None),
        (
            "svc-a-2",
            Failure(
                Code.OWN_KEY,
                "This run is signed in with 'svc-a' (svc-a-2). "
                "Use another credential to revoke it.",
            ),
        ),
        (
            "their-1",
            Failure(
                Code.NOT_OWNED,
                "'their' matches no pattern under `owns` in shop. Add a pattern, or revoke the "
                "key in Twenty.",
            ),
        ),
    ]


def rotation_of(*, at_once: bool) -> Rotate:
    one = key(1, expires_at=NOW + DAY)
    [rotate] = planned([desired(rotation=ROTATED)], [one], {SINK: token(one)}).actions
    assert isinstance(rotate, Rotate)
    return rotate._replace(at_once=at_once)


def test_keys_are_revoked_only_after_their_replacements_are_delivered() -> None:
    """Keys are created, tokens delivered, then expiries changed and keys revoked."""
    [update] = planned(
        [desired("svc-b", "2027-06-30", deliver=(OTHER,))], [key(1, "svc-b")]
    ).actions
    [prune] = planned([], [key(1, "svc-old")], prune=True).actions
    server = ModelServer()
    plan = part_with(prune, rotation_of(at_once=True), update)
    results = server.run(*plan.actions)
    assert [type(one) for one in results] == [Done] * 3
    events = [event for event in server.told if event not in ("wait", "look", "answer svc-a")]
    first_mint = events.index("mint id-svc-a")
    assert (events[0], first_mint) == ("create svc-a", events.index("prove id-svc-a") - 1)
    assert events.index("write file b.env B") < events.index("move svc-b-1 2027-06-30")
    assert set(events[-2:]) == {"revoke svc-old-1", "revoke svc-a-1"}
    assert {"write file a.env A", "write file b.env B"} <= set(events[:-2])
    assert server.settled == plan_with(plan).steps == 6
    finished = [event.result for event in server.heard if isinstance(event, ActionEnded)]
    assert sorted(map(repr, finished)) == sorted(map(repr, results))
    assert {event.environment for event in server.heard if isinstance(event, ActionEnded)} == {
        "shop"
    }


@pytest.mark.parametrize("expires_at", [NOW + DAY, IN_90_DAYS], ids=["due", "lost"])
@pytest.mark.parametrize("refused", ["assign", "mint", ""])
def test_each_action_on_a_name_has_its_own_result(expires_at, refused) -> None:
    """A role changes beside a rotation, or beside the delivery of a lost token."""
    one = key(1, role="Admin", role_id=ADMIN.id, expires_at=expires_at)
    sink_contents: SinkContent = token(one) if expires_at < IN_90_DAYS else NoToken()
    plan = planned([desired(rotation=ROTATED)], [one], {SINK: sink_contents})
    assert {type(action) for action in plan.actions} == {
        Update,
        Rotate if expires_at < IN_90_DAYS else Deliver,
    }
    server = ModelServer(refuses=frozenset({refused}), rows=[Row.of(one)])
    results = server.run(*plan.actions)
    assert sum(isinstance(one, Done) for one in results) == (1 if refused else 2)
    begun = [event.action for event in server.heard if isinstance(event, ActionBegun)]
    finished = [event.result for event in server.heard if isinstance(event, ActionEnded)]
    assert sorted(map(repr, begun)) == sorted(map(repr, plan.actions))
    assert sorted(map(repr, finished)) == sorted(map(repr, results))
    assert server.settled == plan_with(plan).steps
    failed = [one.failure.code for one in results if not isinstance(one, Done)]
    assert failed == (["rejected"] if refused else [])


def test_a_rotation_with_an_overlap_revokes_nothing() -> None:
    """A later run revokes the predecessor."""
    server = ModelServer()
    [result] = server.run(rotation_of(at_once=False))
    assert isinstance(result, Done)
    assert not any(event.startswith("revoke") for event in server.told)


@pytest.mark.parametrize("refused", ["create", "mint", "prove", "write"])
def test_a_successor_that_is_not_delivered_revokes_no_predecessor(refused) -> None:
    """The old token keeps working, also with `--now` and after any failure."""
    server = ModelServer(refuses=frozenset({refused}))
    if refused == "create":
        with pytest.raises(WorkspaceError):
            server.run(rotation_of(at_once=True))
    else:
        [result] = server.run(rotation_of(at_once=True))
        assert isinstance(result, Unfinished)
        assert result.id == "id-svc-a"
        assert result.failure.text.endswith("run `provision rotate --now svc-a`.")
    assert any(event.startswith(refused) for event in server.told)
    assert not any(event.startswith("revoke") for event in server.told)


@pytest.mark.parametrize("accepts_revoked", [False, True])
def test_the_old_token_of_a_sink_is_verified_to_be_dead(accepts_revoked) -> None:
    """With `--now` the run sends a request with it, which fails if the server accepts it."""
    sink_contents = {SINK: signed("svc-a-1", IN_90_DAYS), OTHER: Secret("no token at all")}
    server = ModelServer(undead=accepts_revoked, tokens=sink_contents)
    rotate = rotation_of(at_once=True)
    rotate = rotate._replace(successor=rotate.successor._replace(sinks=(SINK, OTHER)))
    [result] = server.run(rotate)
    assert server.told.index("revoke svc-a-1") < server.told.index("prove svc-a-1")
    assert result.id == "id-svc-a"
    assert isinstance(result, Unfinished if accepts_revoked else Done)
    if isinstance(result, Unfinished):
        text = "The key svc-a-1 was revoked, but the server still accepts its token."
        assert result.failure.code == "token_alive"
        assert result.failure.text.startswith(f"{text} Check the key in Twenty.")


def test_a_duplicate_is_revoked_only_after_the_kept_key_is_delivered() -> None:
    """Only deliveries of its own name count."""
    duplicates = [key(1), key(2)]
    others = [key(1, "svc-b"), key(2, "svc-b")]
    declared = [desired(deliver=(SINK,)), desired("svc-b", deliver=(OTHER,))]
    sink_contents: dict[FileAddress, SinkContent] = {SINK: NoToken(), OTHER: NoToken()}
    plan = planned(declared, [*duplicates, *others], sink_contents, dedupe=True)
    server = ModelServer(refuses=frozenset({"write file a.env A"}))
    results = {(type(one.action), one.action.name): one for one in server.run(*plan.actions)}
    assert isinstance(results[Revoke, "svc-b"], Done)
    kept = results[Revoke, "svc-a"]
    assert isinstance(kept, Failed)
    assert kept.failure.code == "not_delivered"
    assert [event for event in server.told if event.startswith("revoke")] == ["revoke svc-b-2"]


def test_actions_left_by_a_bug_fail_and_actions_left_by_a_stop_are_skipped() -> None:
    """None of these actions was started."""
    changes = planned([desired(expiry="2027-06-30")], [key()], {SINK: NoToken()}).actions
    roles = planned([desired("svc-b", role="Admin")], [key(1, "svc-b")]).actions
    prune = planned([], [key(1, "svc-old")], prune=True).actions
    rotate = rotation_of(at_once=True)
    rotate = rotate._replace(successor=rotate.successor._replace(name="svc-r"))
    plan = part_with(*changes, *roles, rotate, *prune)
    remaining = ModelServer().execution(*plan.actions).context.progress.executed(FAILURE).results
    assert [(type(one), one.action) for one in remaining] == [(Failed, one) for one in plan.actions]
    assert {one.failure for one in remaining if isinstance(one, Failed)} == {FAILURE}
    stopped = ModelServer()
    stopped.stop.request()
    assert stopped.run(*plan.actions) == tuple(Skipped(one, STOPPED) for one in plan.actions)
    assert stopped.events == []


def test_a_revocation_in_flight_has_an_unknown_outcome() -> None:
    """A run that must end then claims neither that the key is live nor that it is revoked."""
    results: list[Result] = []
    server = ModelServer()
    execution = server.execution(*planned([], [key(1, "svc-old")], prune=True).actions)
    server.watch = lambda: (
        results.extend(execution.context.progress.executed().results) if server.revoked else None
    )
    execution.run()
    [during] = results
    assert isinstance(during, Failed)
    assert during.failure.code == "outcome_unknown"
    assert [type(one) for one in execution.context.progress.executed().results] == [Done]


def test_an_update_in_flight_has_an_unknown_outcome() -> None:
    """A role is being assigned, an expiry set, or the second of both is pending."""
    results: list[Result] = []
    plan = planned([desired(expiry="2027-06-30", role="Admin")], [key()])
    server = ModelServer()
    execution = server.execution(*plan.actions)
    server.watch = lambda: results.extend(execution.context.progress.executed().results)
    execution.run()
    by_event = {
        event.partition(" ")[0]: one for event, one in zip(server.told, results, strict=True)
    }
    for step, code in (
        ("assign", "outcome_unknown"),
        ("mint", "stopped"),
        ("move", "outcome_unknown"),
    ):
        one = by_event[step]
        assert isinstance(one, Failed | Unfinished)
        assert one.failure.code == code


def test_a_predecessor_that_cannot_be_revoked_is_reported() -> None:
    """After several attempts the successor is kept, and the action is unfinished."""
    server = ModelServer(refuses=frozenset({"revoke"}))
    [result] = server.run(rotation_of(at_once=True))
    assert isinstance(result, Unfinished)
    assert (result.id, result.failure.code) == ("id-svc-a", "rejected")
    assert server.told.count("revoke svc-a-1") > 1


def test_a_failed_update_is_unfinished_and_does_not_stop_others() -> None:
    """Its token is delivered, and the next run still sees the old expiry."""
    declared = [desired("svc-a", "2027-06-30"), desired("svc-b", "2027-06-30", deliver=(OTHER,))]
    plan = planned(declared, [key(1), key(1, "svc-b")])
    server = ModelServer(refuses=frozenset({"move svc-a-1 2027-06-30"}))
    failed, done = server.run(*plan.actions)
    assert isinstance(failed, Unfinished)
    assert (failed.id, failed.failure.code) == ("svc-a-1", "rejected")
    assert isinstance(done, Done)
    assert server.settled == 4


@pytest.mark.parametrize("refused", ["mint", "prove", "write"])
def test_an_expiry_is_not_changed_before_its_token_is_delivered(refused) -> None:
    """A later run cannot see a missing token in a write-only sink, but it sees the expiry."""
    [update] = planned([desired(expiry="2027-06-30")], [key()]).actions
    server = ModelServer(refuses=frozenset({refused}))
    [result] = server.run(update)
    assert isinstance(result, Failed)
    assert any(event.startswith(refused) for event in server.told)
    assert not any(event.startswith("move") for event in server.told)


def test_a_refused_role_delivers_nothing_and_changes_no_expiry() -> None:
    """The whole update fails with the server's reason."""
    plan = planned([desired(expiry="2027-06-30", role="Admin")], [key()])
    server = ModelServer(refuses=frozenset({"assign"}))
    [result] = server.run(*plan.actions)
    assert isinstance(result, Failed)
    assert result.failure.code == "rejected"
    assert server.told == ["assign svc-a-1 Admin"]
    assert server.settled == 1


def test_a_role_is_assigned_and_nothing_is_minted() -> None:
    """Issued tokens keep working with the new role."""
    one = key()
    plan = planned([desired(role="Admin")], [one], {SINK: token(one)})
    server = ModelServer()
    [result] = server.run(*plan.actions)
    assert isinstance(result, Done)
    assert server.told == ["assign svc-a-1 Admin"]


@pytest.mark.parametrize("at", ["mint svc-a-1", "write file a.env A", "move svc-a-1 2027-06-30"])
def test_a_stop_before_the_revocations_revokes_nothing(at) -> None:
    """Started actions are finished, and the keys to revoke stay live."""
    [update] = planned([desired(expiry="2027-06-30")], [key()]).actions
    [prune] = planned([], [key(1, "svc-old")], prune=True).actions
    server = ModelServer(stop_at=at)
    changed, pruned = server.run(update, prune)
    assert pruned == Skipped(prune, STOPPED)
    assert isinstance(changed, Done if at.startswith("move") else Unfinished)
    if isinstance(changed, Unfinished):
        assert changed == Unfinished(
            update, "svc-a-1", None, EXPIRY_PENDING, created=False, delivered=True
        )
    assert not any(event.startswith("revoke") for event in server.told)


def test_a_stop_after_the_delivery_of_a_successor_says_that_the_old_key_is_left() -> None:
    """The successor is delivered, and the result has its id and says what was not done."""
    action = rotation_of(at_once=True)
    server = ModelServer(stop_at="write file a.env A")
    [result] = server.run(action)
    assert isinstance(result, Unfinished)
    assert (result.id, result.delivered) == ("id-svc-a", True)
    assert result.failure.code == OLD_KEY_PENDING.code
    assert result.failure.text.startswith(OLD_KEY_PENDING.text)
    assert server.revoked == []


def test_a_stop_after_a_role_was_assigned_leaves_the_expiry_to_the_next_run() -> None:
    """The token is not delivered, so the key keeps its expiry, and the result says so."""
    [action] = planned([desired(expiry="2027-06-30", role="Admin")], [key()]).actions
    server = ModelServer(stop_at="assign svc-a-1 Admin")
    assert server.run(action) == (Failed(action, EXPIRY_PENDING),)
    assert server.told == ["assign svc-a-1 Admin"]


def test_a_stop_during_the_revocations_only_finishes_those_in_flight() -> None:
    """Finished actions are done, and those not started are skipped."""
    keys = [key(1, f"svc-{number}") for number in range(60)]
    plan = planned([], keys, prune=True)
    server = ModelServer(rows=[Row.of(one) for one in keys])
    server.watch = lambda: server.stop.request() if len(server.revoked) == 3 else None
    results = server.run(*plan.actions)
    done = {one.id for one in results if isinstance(one, Done)}
    skipped = [one for one in results if isinstance(one, Skipped)]
    assert done == server.ended
    assert 3 <= len(done) <= 3 + 8
    assert len(done) + len(skipped) == 60
    assert {one.failure for one in skipped} == {STOPPED}
    begun = [event for event in server.heard if isinstance(event, ActionBegun)]
    assert len(begun) == len(done) == server.settled


def test_each_revocation_is_reported_at_once() -> None:
    """The events do not wait for the others, so they show the progress."""
    keys = [key(1, f"svc-{number}") for number in range(30)]
    plan = planned([], keys, prune=True)
    server = ModelServer(rows=[Row.of(one) for one in keys])
    finished: list[int] = []
    server.watch = lambda: finished.append(
        sum(isinstance(event, ActionEnded) for event in server.heard)
    )
    server.run(*plan.actions)
    assert len(finished) == 30
    assert finished[-1] >= 30 - 8


def test_a_failed_revocation_does_not_stop_others() -> None:
    """Only that one fails, with the server's reason."""
    plan = planned([], [key(1, "svc-x"), key(1, "svc-y")], prune=True)
    server = ModelServer(refuses=frozenset({"revoke svc-x-1"}))
    failed, done = server.run(*plan.actions)
    assert isinstance(failed, Failed)
    assert failed.failure.code == "rejected"
    assert isinstance(done, Done)
    assert server.told.count("revoke svc-y-1") == 1
    assert server.settled == plan_with(plan).steps == 2


def test_a_bug_in_one_update_does_not_stop_others(monkeypatch) -> None:
    """The others are done, and the bug ends the execution afterwards."""
    names = [f"svc-{number}" for number in range(5)]
    observed = [key(1, name, role="Admin", role_id=ADMIN.id) for name in names]
    plan = planned([desired(name, deliver=()) for name in names], observed)
    server = ModelServer(rows=[Row.of(one) for one in observed])
    assign = server.assign_role

    def broken(key_id: str, role_id: str) -> None:
        if key_id == "svc-0-1":
            raise ZeroDivisionError
        assign(key_id, role_id)

    monkeypatch.setattr(server, "assign_role", broken)
    execution = server.execution(*plan.actions)
    with pytest.raises(ZeroDivisionError):
        execution.run()
    results = execution.context.progress.close(FAILURE).results
    assert [type(one) for one in results] == [Failed, *[Done] * 4]


def test_a_role_that_appears_on_a_second_read_is_not_assigned() -> None:
    """Another run may be creating a key without a role; one more read serves all such keys."""
    bare = [key(1, name, role=None, role_id=None) for name in ("svc-a", "svc-b", "svc-c")]
    declared = [desired(name, deliver=()) for name in ("svc-a", "svc-b", "svc-c")]
    server = ModelServer(
        rows=[Row.of(key()), Row.of(key(1, "svc-b", role="Admin", role_id=ADMIN.id))]
    )
    results = server.run(*planned(declared, bare).actions)
    assert [type(one) for one in results] == [Done] * 3
    assert server.told[:2] == ["wait", "look"]
    assert sorted(server.told[2:]) == ["assign svc-b-1 Worker", "assign svc-c-1 Worker"]
