"""What becomes of live keys: changed, followed, ended; who may be, when, and in which order."""

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
from provisioner.model.expiry import format_moment
from provisioner.model.globs import matches
from provisioner.model.observed import HiddenRoles, KnownRoles, ObservedKey
from provisioner.model.sink_address import FileAddress
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
    plan_environment,
    plan_revocations,
    premature,
)
from provisioner.runtime.cancellation import STOPPED
from provisioner.secret import Secret

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
MARK = timedelta(milliseconds=417)
FAR = NOW + 90 * DAY + MARK
WHY = Failure("sink_unavailable", "No.")


def desired(name: str = "svc-a", expiry: str = "90d", **changes: Any) -> DesiredKey:
    return desired_key(name, SINK, expiry=expiry, **changes)


def key(number: int = 1, name: str = "svc-a", **changes: Any) -> ObservedKey:
    made = NOW - 30 * DAY + number * DAY
    fields = {"id": f"{name}-{number}", "expires_at": FAR, "created_at": made}
    return observed_key(name, **(fields | changes))


def successive(age: timedelta = 5 * DAY, name: str = "svc-a") -> tuple[ObservedKey, ObservedKey]:
    """A key, and the successor that was made when it was due, so long ago."""
    made = NOW - age
    old = key(1, name, created_at=made - 80 * DAY, expires_at=made + ROTATED.before)
    return old, key(2, name, created_at=made, expires_at=made + 90 * DAY + MARK)


def planned(
    wanted: Sequence[DesiredKey],
    seen: Sequence[ObservedKey],
    sink_contents: Mapping[FileAddress, SinkContent] | None = None,
    *,
    environment: Environment = SHOP,
    own_key: str | None = None,
    **options: Any,
) -> Planned:
    look = observation_with(*seen, roles=ROLES, own_key=own_key)
    return plan_environment(
        environment,
        wanted,
        look,
        NOW,
        PlanOptions(**options),
        sink_contents=dict(sink_contents or {}),
    )


def token(of: ObservedKey) -> ApiKeyToken:
    return ApiKeyToken(of.id, of.expires_at.replace(microsecond=0))


def revoked(plan: Planned) -> list[tuple[str, str]]:
    return [(one.key_id, one.reason) for one in plan.actions if isinstance(one, Revoke)]


def test_a_changed_end_moves_the_key_and_delivers_a_token_with_the_new_one() -> None:
    """From and to are shown, the run's mark stays, and the sinks are written once."""
    one = key()
    wanted = desired(expiry="2027-06-30")
    plan = planned([wanted], [one], {SINK: token(one)})
    [update] = plan.actions
    assert isinstance(update, Update)
    assert update.changes == (Change("expires", "2027-02-21T04:00:00Z", "2027-06-30T00:00:00Z"),)
    assert update.expires_at == datetime(2027, 6, 30, 0, 0, 0, 417_000, tzinfo=UTC)
    assert (update.key_id, update.sets_expiry, update.role_id) == (one.id, True, None)
    assert (update.sinks, update.blocked) == ((SINK,), None)
    assert (update.reason, update.depth, update.place) == ("drift", 1, wanted.place)
    assert (update.role, plan.kept) == ("Worker", ())


def test_a_changed_role_is_assigned_and_needs_no_new_token() -> None:
    """A role is the key's, not the token's; a key without one gets it."""
    for was, role_id in (("Worker", WORKER.id), (None, None)):
        one = key(role=was, role_id=role_id)
        [update] = planned([desired(role="Admin")], [one], {SINK: token(one)}).actions
        assert isinstance(update, Update)
        assert update.changes == (Change("role", was, "Admin"),)
        assert (update.role, update.role_id, update.sets_expiry) == ("Admin", ADMIN.id, False)
        assert update.sinks == ()
        assert update.expires_at == one.expires_at


def test_a_sink_is_healed_beside_a_changed_role() -> None:
    """One action for the role and one for the token, of the same key."""
    update, deliver = planned([desired(role="Admin")], [key()], {SINK: NoToken()}).actions
    assert isinstance(update, Update)
    assert isinstance(deliver, Deliver)
    assert update.key_id == deliver.key_id


def test_a_sink_gets_one_token_beside_a_changed_end_and_its_own_where_that_is_blocked() -> None:
    """The change brings the token with it; one that cannot be made does not keep it away."""
    [update] = planned([desired(expiry="2027-06-30")], [key()], {SINK: NoToken()}).actions
    assert isinstance(update, Update)
    blocked, deliver = planned(
        [desired(expiry="2026-11-23T04:00:00Z")], [key()], {SINK: NoToken()}
    ).actions
    assert isinstance(blocked, Update)
    assert isinstance(deliver, Deliver)
    assert deliver.reason == "token_missing"


def test_deduping_gives_sinks_that_cannot_be_read_a_token_of_the_key_that_stays() -> None:
    """Nobody knows whose token they hold, so that all its sinks get one; else good ones stay."""
    twins = [key(1), key(2)]
    wanted = [desired(deliver=(SINK, OTHER))]
    for other, delivered in ((Unreadable(NOW), 1), (token(twins[0]), 0)):
        sink_contents = {SINK: token(twins[0]), OTHER: other}
        plan = planned(wanted, twins, sink_contents, dedupe=True)
        assert revoked(plan) == [("svc-a-2", "duplicate")]
        [ended] = [one for one in plan.actions if isinstance(one, Revoke)]
        assert (ended.role, ended.place) == ("Worker", wanted[0].place)
        found = [one for one in plan.actions if isinstance(one, Deliver)]
        assert [one.key_id for one in found] == ["svc-a-1"] * delivered
        assert planned(wanted, twins, sink_contents).actions == ()


def test_what_is_not_owned_is_told_and_never_changed() -> None:
    """Both differences are findings; without one the key is kept."""
    one = key(name="their")
    wanted = desired("their", "2027-06-30", role="Admin", deliver=())
    plan = planned([wanted], [one])
    assert plan.actions == ()
    assert {one.what for one in plan.findings if isinstance(one, Drift)} == {"expires", "role"}
    assert plan.kept == ("their",)


def test_an_end_that_has_passed_changes_nothing() -> None:
    """A live key is never moved into the past; the action is blocked and says why."""
    [update] = planned([desired(expiry="2026-11-23T04:00:00Z")], [key()]).actions
    assert update.blocked is not None
    assert update.blocked.code == "expiry_past"


def test_a_date_further_away_than_the_policy_allows_makes_and_moves_nothing() -> None:
    """A date counts from the run; one that is near enough is taken to the second."""
    longest = replace(SHOP, policy=policy_with(max_lifetime=30 * DAY))
    for seen in ((), (key(),)):
        for seconds, code in ((0, None), (1, "policy_lifetime")):
            date = format_moment(NOW + 30 * DAY + seconds * SECOND)
            [action] = planned([desired(expiry=date)], seen, environment=longest).actions
            assert isinstance(action, Update if seen else Create)
            assert (action.blocked and action.blocked.code) == code


def test_a_plan_says_what_becomes_of_tokens_that_are_out() -> None:
    """Where an end moves, and nowhere else."""
    said = "tokens of 1 key that are out keep the end that they were minted with"
    moved = planned([desired(expiry="2027-06-30")], [key()])
    past = planned([desired(expiry="2026-11-23T04:00:00Z")], [key()])
    role = planned([desired(role="Admin")], [key()])
    told = [sum(note.startswith(said) for note in one.notes) for one in (moved, past, role)]
    assert told == [1, 0, 0]


def test_a_plan_says_when_nobody_gets_the_token_of_a_successor() -> None:
    """A rotation without a sink is carried out, and is told of."""
    due = key(expires_at=NOW + DAY)
    notes = planned([desired(rotation=ROTATED, deliver=())], [due]).notes
    assert [note[:37] for note in notes] == ["no sink takes the token of 1 key: name"[:37]]


@pytest.mark.parametrize("rotation", [None, ROTATED])
def test_a_duration_moves_no_live_key(rotation) -> None:
    """A shorter one is a finding, a longer one nothing at all."""
    one = key()
    plan = planned([desired(expiry="30d", rotation=rotation)], [one], {SINK: token(one)})
    assert plan.actions == ()
    was, wanted = "2027-02-21T04:00:00Z", "2026-12-23T04:00:00Z"
    assert plan.findings == (Drift("svc-a", ("svc-a-1",), "expires", was, wanted, "lifetime"),)
    plan = planned([desired(expiry="180d", rotation=rotation)], [one], {SINK: token(one)})
    assert (plan.actions, plan.findings) == ((), ())


def test_a_key_is_due_when_it_ends_within_before_and_no_second_earlier() -> None:
    """By the server's clock."""
    for end, due in ((NOW + 10 * DAY, True), (NOW + 10 * DAY + SECOND, False)):
        one = key(expires_at=end)
        plan = planned([desired(rotation=ROTATED)], [one], {SINK: token(one)})
        assert [type(action) for action in plan.actions] == [Rotate] * due


def test_a_successor_is_made_like_any_key_and_delivered_everywhere() -> None:
    """Whole lifetime, own role, every sink; the old key is named and lives on."""
    one = key(expires_at=NOW + DAY)
    wanted = desired(rotation=ROTATED, role="Admin", deliver=(SINK, OTHER))
    plan = planned([wanted], [one], {SINK: token(one), OTHER: NoToken()})
    [rotate] = [action for action in plan.actions if isinstance(action, Rotate)]
    assert (rotate.reason, rotate.predecessors, rotate.at_once) == ("due", (one.id,), False)
    assert (rotate.expires_at, rotate.sinks) == (NOW + 90 * DAY, (SINK, OTHER))
    assert rotate.successor.role_id == ADMIN.id
    assert not any(isinstance(action, Deliver) for action in plan.actions)
    assert revoked(plan) == []


@pytest.mark.parametrize("sink_contents", [True, False])
def test_a_name_is_due_by_its_key_whatever_lives_on_beside_it(sink_contents) -> None:
    """No moment is left without a token; the older one ends if it may, and lives on if not."""
    old, new = successive()
    new = replace(new, expires_at=NOW + DAY)
    found: SinkContent = token(new) if sink_contents else Unreadable(None)
    plan = planned([desired(rotation=ROTATED, expiry="6d")], [old, new], {SINK: found})
    rotate = plan.actions[0]
    assert isinstance(rotate, Rotate)
    ids = (old.id, new.id) if sink_contents else (old.id,)
    assert (rotate.reason, rotate.predecessors) == ("due", ids)
    assert revoked(plan) == ([(old.id, "superseded")] if sink_contents else [])


def test_more_than_one_predecessor_is_told() -> None:
    """One is as it should be; more of them wait for an evidence that does not come."""
    oldest, old = successive(9 * DAY)
    old = replace(old, expires_at=NOW + 9 * DAY + MARK)
    new = key(3, created_at=NOW - DAY, expires_at=NOW + 89 * DAY + MARK)
    for seen, findings in (((old, new), ()), ((oldest, old, new), (("svc-a-1", "svc-a-2"),))):
        plan = planned([desired(rotation=ROTATED)], seen, {SINK: token(new)})
        assert plan.actions == ()
        ids = tuple(one.id for one in seen)
        told = (Duplicate("svc-a", ids, new.id, "superseded", rotated=True) for _ in findings)
        assert plan.findings == tuple(told)


def test_a_sink_that_got_its_token_late_has_the_whole_overlap() -> None:
    """By what the token or the sink tells; the last of several sinks counts."""
    old, new = successive(9 * DAY)
    wanted = desired(rotation=ROTATED, deliver=(SINK, OTHER))
    early, late, latest = NOW - 8 * DAY, NOW - 2 * DAY, NOW - 2 * DAY + SECOND
    for second, ends in ((early, True), (late, True), (latest, False)):
        for found in (replace(token(new), issued_at=second), Unreadable(second)):
            sink_contents = {SINK: replace(token(new), issued_at=early), OTHER: found}
            assert bool(revoked(planned([wanted], [old, new], sink_contents))) is ends


def test_a_predecessor_that_a_sink_still_holds_is_told_before_it_ends() -> None:
    """Its successor lives long, and nobody has that one's token yet."""
    old, new = successive(8 * DAY)
    plan = planned([desired(rotation=ROTATED)], [old, new], {SINK: token(old)})
    [ends] = [one for one in plan.findings if isinstance(one, Expiring)]
    assert ends.expires_at == format_moment(old.expires_at)
    later = planned([desired(rotation=ROTATED)], [old, new], {SINK: token(new)})
    assert not any(isinstance(one, Expiring) for one in later.findings)


def test_a_successor_that_cannot_be_made_keeps_no_sink_from_being_healed() -> None:
    """The live key serves on meanwhile, and its end is told."""
    one = key(1, expires_at=NOW + DAY)
    wanted = desired(rotation=ROTATED, role="Nobody")
    plan = planned([wanted], [one], {SINK: NoToken()})
    told = {type(action): action.blocked is None for action in plan.actions}
    assert told == {Update: False, Rotate: False, Deliver: True}
    assert [type(finding) for finding in plan.findings] == [Expiring]
    results = ModelServer(rows=[Row.of(one)]).run(*plan.actions)
    assert [type(result) for result in results] == [Failed, Failed, Done]


def test_a_role_that_a_predecessor_keeps_is_told() -> None:
    """The successor gets the role, and the older key has the old one until it ends."""
    old, new = (replace(one, role="Admin", role_id=ADMIN.id) for one in successive())
    plan = planned([desired(rotation=ROTATED)], [old, new], {SINK: token(new)})
    assert [(one.key_id, type(one)) for one in plan.actions if isinstance(one, Update)] == [
        (new.id, Update)
    ]
    [drift] = [one for one in plan.findings if isinstance(one, Drift)]
    assert drift == Drift("svc-a", (old.id,), "role", "Admin", "Worker", "rotated")
    assert "its rotation ends the key" in drift.message


@pytest.mark.parametrize("roles", [HiddenRoles(), KnownRoles(())])
def test_an_end_is_moved_whatever_is_known_of_roles(roles) -> None:
    """No role is touched by it."""
    one = key(1, role=None, role_id=None)
    look = observation_with(one, roles=roles)
    wanted = desired(expiry="2027-06-30", role=None)
    environment = replace(SHOP, role=None)
    [update] = plan_environment(
        environment, [wanted], look, NOW, PlanOptions(), sink_contents={}
    ).actions
    assert isinstance(update, Update)
    assert update.blocked is None


def test_a_moved_end_leaves_the_role_as_the_workspace_calls_it() -> None:
    """Though the manifest writes it as an id."""
    [update] = planned([desired(expiry="2027-06-30", role=WORKER.id)], [key(1)]).actions
    assert isinstance(update, Update)
    assert (update.role, update.role_id) == ("Worker", None)


def test_all_that_drifts_and_stays_is_told() -> None:
    """A lifetime that shortens no live key, and a role that is not owned."""
    one = key(1, "other", role="Admin", role_id=ADMIN.id, expires_at=NOW + 200 * DAY)
    plan = planned([desired("other", "90d", deliver=())], [one])
    assert [(one.what, one.stays) for one in plan.findings if isinstance(one, Drift)] == [
        ("expires", "lifetime"),
        ("role", "not_owned"),
    ]


def test_a_sink_that_tells_when_it_was_written_gets_nothing_new_when_predecessors_end() -> None:
    """It has the token of the successor since then, as far as anybody can know."""
    old, new = successive()
    told = {SINK: Unreadable(new.created_at + DAY)}
    [action] = planned([desired(rotation=ROTATED)], [old, new], told).actions
    assert isinstance(action, Revoke)
    assert (action.key_id, action.reason) == (old.id, "superseded")
    assert action.place == desired().place


@pytest.mark.parametrize(
    ("age", "name", "sink_contents", "early"),
    [
        (4.9, "svc-a", None, True),
        (5.0, "svc-a", None, False),
        (-1.0, "svc-a", None, True),
        (0.0, "svc-b", None, False),
        (0.0, "svc-a", "good", False),
    ],
    ids=["young", "old", "of this second", "alone", "delivered"],
)
def test_a_key_that_may_give_way_is_not_delivered_yet(age, name, sink_contents, early) -> None:
    """One of several of its name, only just made, and a token of it would go out."""
    first, second = successive(timedelta(seconds=age), name)
    first = replace(first, name="svc-a", created_at=first.created_at - DAY)
    look = observation_with(first, second, roles=KnownRoles((WORKER,)))
    wanted = [desired(name, rotation=ROTATED)]
    holds: SinkContent = token(second) if sink_contents else NoToken()
    plan = plan_environment(SHOP, wanted, look, NOW, PlanOptions(), sink_contents={SINK: holds})
    assert premature(plan, look) == early
    dead = replace(look, keys=(replace(first, revoked_at=NOW), second))
    plan = plan_environment(SHOP, wanted, dead, NOW, PlanOptions(), sink_contents={SINK: holds})
    assert not premature(plan, dead)


def test_the_end_of_what_a_sink_holds_is_told_though_a_later_twin_lives() -> None:
    """Where no sink tells, the key of the name counts, which is the oldest."""
    short, long = key(1, expires_at=NOW + DAY), key(2)
    for sink_contents, told in (
        (token(short), True),
        (token(long), False),
        (Unreadable(NOW), True),
    ):
        findings = planned([desired()], [short, long], {SINK: sink_contents}).findings
        assert any(isinstance(one, Expiring) for one in findings) is told


def test_no_action_locks_the_run_out() -> None:
    """The key that it is signed in with keeps its role, and is not ended by `--now`."""
    [role] = planned([desired(role="Admin")], [key()], own_key="svc-a-1").actions
    assert role.blocked is not None
    assert role.blocked.code == "own_key"
    [end] = planned([desired(expiry="2027-06-30")], [key()], own_key="svc-a-1").actions
    assert end.blocked is None
    options = {"rotate": frozenset({"svc-a"}), "own_key": "svc-a-1"}
    [now] = planned([desired(rotation=ROTATED)], [key()], at_once=True, **options).actions
    assert isinstance(now, Rotate)
    assert now.blocked is not None
    assert now.blocked.code == "own_key"
    [later] = planned([desired(rotation=ROTATED)], [key()], **options).actions
    assert later.blocked is None


@pytest.mark.parametrize(
    ("age", "ends"), [(2 * DAY, True), (2 * DAY - SECOND, False), (9 * DAY, True)]
)
def test_predecessors_end_when_the_overlap_is_over(age, ends) -> None:
    """Counted from when the successor was made, to the second."""
    old, new = successive(age)
    plan = planned([desired(rotation=ROTATED)], [old, new], {SINK: token(new)})
    assert revoked(plan) == ([(old.id, "superseded")] if ends else [])
    assert plan.kept == ("svc-a",)


OLD, NEW = successive()
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("sink_contents", "ends"),
    [
        (token(NEW), True),
        (ApiKeyToken("SVC-A-2", None), True),
        (token(OLD), False),
        (ApiKeyToken("svc-a-2", NEW.expires_at - timedelta(minutes=2)), False),
        (NoToken(), False),
        (NotAToken(), False),
        (Unavailable(WHY), False),
        (Unreadable(None), False),
        (Unreadable(NEW.created_at - SECOND), False),
        (Unreadable(NEW.created_at + MINUTE), False),
        (Unreadable(NEW.created_at + MINUTE + SECOND), True),
        (Unreadable(NOW, only_writes=False), False),
    ],
)
def test_predecessors_end_only_when_every_sink_is_proven_to_have_the_successor(
    sink_contents, ends
) -> None:
    """A time proves it that only a write moves, later than the minute by which clocks differ."""
    wanted = desired(rotation=ROTATED, deliver=(SINK, OTHER))
    for sinks in (
        {SINK: sink_contents, OTHER: token(NEW)},
        {SINK: token(NEW), OTHER: sink_contents},
    ):
        assert bool(revoked(planned([wanted], [OLD, NEW], sinks))) is ends


def test_what_is_not_owned_ends_by_no_rotation() -> None:
    """Manifests that want it are refused; a plan would not do it all the same."""
    old, new = successive(name="their")
    wanted = [desired("their", rotation=ROTATED)]
    assert revoked(planned(wanted, [old, new], {SINK: token(new)})) == []


def test_without_a_sink_no_predecessor_ends() -> None:
    """Nobody has the token of its successor."""
    assert revoked(planned([desired(rotation=ROTATED, deliver=())], successive())) == []


def test_a_run_that_died_before_it_delivered_is_finished() -> None:
    """The successor is the one that sinks get, and the old one lives until the next look."""
    old, new = successive()
    plan = planned([desired(rotation=ROTATED)], [old, new], {SINK: token(old)})
    [deliver] = plan.actions
    assert isinstance(deliver, Deliver)
    assert (deliver.key_id, deliver.reason) == (new.id, "token_dead")


def test_what_is_no_predecessor_ends_with_no_rotation() -> None:
    """A twin that a killed run left is a finding beside the key, and ends by --dedupe alone."""
    old, new = successive()
    twin = replace(new, id="svc-a-3", created_at=new.created_at + SECOND)
    seen = [old, new, twin]
    wanted, sink_contents = [desired(rotation=ROTATED)], {SINK: token(new)}
    plan = planned(wanted, seen, sink_contents)
    assert revoked(plan) == [(old.id, "superseded")]
    ids = tuple(one.id for one in seen)
    assert plan.findings == (Duplicate("svc-a", ids, new.id, "owned", rotated=True),)
    plan = planned(wanted, seen, sink_contents, dedupe=True)
    assert revoked(plan) == [(twin.id, "duplicate"), (old.id, "superseded")]


def test_prune_ends_live_keys_that_no_manifest_wants_within_owns() -> None:
    """Every live key of such a name; never without being asked, and never anybody else's."""
    seen = [
        key(1, "svc-old"),
        key(2, "svc-old"),
        key(1, "svc-dead", revoked_at=NOW),
        key(1, "Svc-a"),
        key(1, "their"),
        key(1),
    ]
    sinks = {SINK: token(key(1))}
    plan = planned([desired()], seen, sinks, prune=True)
    assert revoked(plan) == [("svc-old-1", "undeclared"), ("svc-old-2", "undeclared")]
    assert {one.name for one in plan.findings} == {"Svc-a", "their"}
    plan = planned([desired()], seen, sinks)
    assert revoked(plan) == []
    assert {one.name for one in plan.findings if isinstance(one, Unmanaged)} == {
        "svc-old",
        "Svc-a",
        "their",
    }
    assert revoked(planned([desired()], seen, sinks, prune=True, only=("svc-a",))) == []
    nothing = environment_with(role="Worker")
    assert revoked(planned([desired()], seen, sinks, prune=True, environment=nothing)) == []


@pytest.mark.parametrize("options", [{"prune": True}, {"dedupe": True}, {}])
def test_the_key_that_opens_the_workspace_is_never_revoked(options) -> None:
    """Neither as undeclared, nor as a duplicate, nor as a predecessor; a note says so."""
    rotation = None if options else ROTATED
    wanted = [desired("svc-else")] if "prune" in options else [desired(rotation=rotation)]
    own, other = successive()
    sinks = {SINK: token(other)}
    assert (own.id, "superseded") in revoked(planned(wanted, [own, other], sinks)) or options
    plan = planned(wanted, [own, other], sinks, own_key=own.id, **options)
    assert own.id not in [id_ for id_, _ in revoked(plan)]
    assert any("signed in with" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("sink_contents", "stays"),
    [
        ({SINK: token(key(2))}, 2),
        ({SINK: NoToken()}, 1),
        ({SINK: token(key(9))}, 1),
        ({SINK: NotAToken()}, 1),
        ({SINK: NoToken(), OTHER: token(key(3))}, 3),
    ],
)
def test_dedupe_keeps_the_key_whose_token_is_out_and_else_the_oldest(sink_contents, stays) -> None:
    """The others end, and the sinks get a token of the one that stays where they lack it."""
    keys = [key(1), key(2), key(3)]
    wanted = desired(deliver=tuple(sink_contents))
    plan = planned([wanted], keys, sink_contents, dedupe=True)
    ended = [id_ for id_, reason in revoked(plan) if reason == "duplicate"]
    assert ended == [one.id for one in keys if one.id != f"svc-a-{stays}"]
    for action in plan.actions:
        if isinstance(action, Deliver):
            assert action.key_id == f"svc-a-{stays}"
    written = {sink for action in plan.actions for sink in action.sinks}
    assert written == {
        sink for sink, found in sink_contents.items() if found != token(keys[stays - 1])
    }


def test_duplicates_are_a_finding_unless_dedupe_may_end_them() -> None:
    """Without being asked, or outside `owns`, all of them live on."""
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
    wanted: list[DesiredKey] = []
    seen: list[ObservedKey] = []
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
        seen += keys
        if not draw(st.booleans()):
            continue
        sinks = (FileAddress(f"{name}.env", "A"), FileAddress(f"{name}.env", "B"))
        deliver = sinks[: draw(st.integers(0, 2))]
        fixed = (NoToken(), NotAToken(), Unavailable(WHY), Unreadable(None), Unreadable(NOW - DAY))
        for sink in deliver:
            sink_contents[sink] = draw(
                st.sampled_from((*fixed, *map(token, keys), *map(token, keys)))
            )
        rotated = name != "their" and draw(st.booleans())
        expiry = draw(st.sampled_from(("90d", "20d") if rotated else ("90d", "2027-01-01")))
        wanted.append(desired(name, expiry, deliver=deliver, rotation=ROTATED if rotated else None))
    flags = {flag: draw(st.booleans()) for flag in ("prune", "dedupe", "redeliver")}
    return wanted, seen, sink_contents, flags


def follows(
    newer: ObservedKey,
    older: ObservedKey,
    wanted: DesiredKey,
    sink_contents: Mapping[Any, SinkContent],
) -> bool:
    """Whether a key took over from another one that was due, is delivered, and old enough."""
    for sink in wanted.deliver:
        found = sink_contents[sink]
        told = isinstance(found, Unreadable) and found.updated_at is not None
        dated = told and found.updated_at > newer.created_at + MINUTE
        if not dated and not (isinstance(found, ApiKeyToken) and found.key == newer.id):
            return False
    due = older.expires_at - ROTATED.before <= newer.created_at
    return due and newer.created_at + ROTATED.overlap <= NOW


@given(worlds(), st.sampled_from((None, "svc-a-0", "svc-b-1")))
def test_whatever_is_there_nothing_ends_that_must_not(world, own_key) -> None:
    """Only live owned keys end, never our own; a wanted name keeps one that its sinks know."""
    wanted, seen, sink_contents, options = world
    plan = planned(wanted, seen, sink_contents, own_key=own_key, **options)
    by_name = {one.name: one for one in wanted}
    live = {one.id: one for one in seen if one.live(NOW)}
    ended = dict(revoked(plan))
    assert len(ended) == len(revoked(plan))
    for id_, reason in ended.items():
        name = live[id_].name
        assert matches(name, SHOP.owns)
        assert id_ != own_key
        if reason == "undeclared":
            assert name not in by_name
            assert options["prune"]
            continue
        left = [one for one in live.values() if one.name == name and one.id not in ended]
        assert left
        if reason == "superseded":
            newer = [one for one in left if one.seniority > live[id_].seniority]
            assert by_name[name].rotation is not None
            assert by_name[name].deliver
            assert any(follows(one, live[id_], by_name[name], sink_contents) for one in newer)
        else:
            assert (reason, options["dedupe"]) == ("duplicate", True)
    for action in plan.actions:
        if isinstance(action, Rotate):
            same = {one.id for one in live.values() if one.name == action.name}
            assert set(action.predecessors) <= same
            assert not set(action.predecessors) & {
                id_ for id_, reason in ended.items() if reason == "duplicate"
            }
        if isinstance(action, Update):
            assert matches(action.name, SHOP.owns)
        if isinstance(action, Deliver | Update):
            assert action.key_id in live
            assert action.key_id not in ended


def asked(wanted: DesiredKey, *seen: ObservedKey, now: bool = False) -> Rotate:
    sink_contents = dict.fromkeys(wanted.deliver, token(seen[0]))
    options = {"rotate": frozenset({wanted.name}), "at_once": now}
    [rotate] = planned([desired("svc-z"), wanted], seen, sink_contents, **options).actions
    assert isinstance(rotate, Rotate)
    return rotate


@pytest.mark.parametrize("now", [True, False])
def test_a_successor_that_is_asked_for_follows_all_live_keys_of_its_name(now) -> None:
    """It ends as a key that is made now, and nothing else of the plan is done."""
    rotate = asked(desired(rotation=ROTATED), key(1), now=now)
    assert (rotate.reason, rotate.predecessors, rotate.at_once) == ("asked", ("svc-a-1",), now)
    assert (rotate.expires_at, rotate.blocked) == (NOW + 90 * DAY, None)
    assert (rotate.depth, rotate.sinks) == (1, (SINK,))
    leaked = asked(desired(rotation=ROTATED), key(1), key(2), now=True)
    assert (leaked.predecessors, leaked.blocked) == (("svc-a-1", "svc-a-2"), None)
    assert rotate.due_at == (None if now else NOW + ROTATED.before + MARK)
    soon = asked(desired(rotation=ROTATED), key(1, expires_at=NOW + ROTATED.before), now=now)
    assert soon.due_at is None
    assert planned([desired()], [], rotate=frozenset({"svc-a"})).actions == ()


@pytest.mark.parametrize(
    ("wanted", "seen", "code"),
    [
        (desired("their", rotation=ROTATED), (key(1, "their"),), "not_owned"),
        (desired(rotation=ROTATED, deliver=()), (key(1),), "rotation_undelivered"),
        (desired(rotation=ROTATED), (OLD, NEW), "rotation_running"),
        (desired(), (key(1),), "rotation_unsaid"),
        (desired(rotation=ROTATED, role="Nobody"), (key(1),), "role_unknown"),
    ],
)
def test_a_successor_whose_predecessor_could_not_end_is_not_made(wanted, seen, code) -> None:
    """Each case has its reason, with the name; `--now` needs no rotation, but owner and sink."""
    blocked = asked(wanted, *seen).blocked
    assert blocked is not None
    assert blocked.code == code
    assert repr(wanted.name) in blocked.message
    at_once = asked(wanted, *seen, now=True).blocked
    if code == "rotation_running":
        assert "`apply` after 2026-11-20T04:00:00Z ends" in blocked.message
    hastens = code in ("rotation_running", "rotation_unsaid")
    assert (at_once is None) is hastens


def ends_of(
    *names: str, seen: Sequence[ObservedKey], own_key: str | None = None, **options: Any
) -> list[tuple[str, str | None]]:
    """The ids that a revocation is about, and what stands in its way."""
    look = observation_with(*seen, roles=ROLES, own_key=own_key)
    plan = plan_revocations(SHOP, look, frozenset(names), PlanOptions(**options))
    assert all(isinstance(one, Revoke) and one.reason == "asked" for one in plan.actions)
    assert (plan.kept, plan.findings, plan.workspace) == ((), (), "w")
    assert (plan.environment, plan.url, plan.generation) == ("shop", SHOP.url, "core")
    assert plan.estimate.requests >= 1
    return [
        (one.key_id, one.blocked and one.blocked.code)
        for one in plan.actions
        if isinstance(one, Revoke)
    ]


def test_revoke_ends_the_live_keys_of_a_name_or_the_one_of_an_id() -> None:
    """In order of name and age; what is dead, bounded away or not named stays."""
    seen = [key(2, "svc-b"), key(2), key(1), key(3, revoked_at=NOW), key(1, "svc-c")]
    assert ends_of("svc-a", "svc-b-2", seen=seen) == [
        ("svc-a-1", None),
        ("svc-a-2", None),
        ("svc-b-2", None),
    ]
    assert ends_of("svc-a", "svc-b", seen=seen, only=("*-b",)) == [("svc-b-2", None)]


def test_revoking_what_a_manifest_names_says_that_it_is_made_anew() -> None:
    """With the place, which the action has too; not of what stays."""
    look = observation_with(key(1), key(2), key(1, "their"), key(1, "svc-z"), roles=ROLES)
    wanted = [desired(), desired("their")]
    names = frozenset({"svc-a", "their", "svc-z"})
    plan = plan_revocations(SHOP, look, names, desired=wanted)
    [note] = plan.notes
    assert note == (
        "manifests/a.yaml line 7 goes on to name 'svc-a': unless that is removed, the next `apply` "
        "makes it anew"
    )
    places = {one.name: one.place for one in plan.actions}
    assert places == {"svc-a": wanted[0].place, "their": wanted[1].place, "svc-z": None}


def test_revoke_ends_neither_its_own_key_nor_what_is_not_owned() -> None:
    """Both are shown, blocked, and keep no other key."""
    seen = [key(1, "their"), key(1), key(2)]
    assert ends_of("svc-a", "their", seen=seen, own_key="svc-a-2") == [
        ("svc-a-1", None),
        ("svc-a-2", "own_key"),
        ("their-1", "not_owned"),
    ]


def rotation_of(*, at_once: bool) -> Rotate:
    one = key(1, expires_at=NOW + DAY)
    [rotate] = planned([desired(rotation=ROTATED)], [one], {SINK: token(one)}).actions
    assert isinstance(rotate, Rotate)
    return rotate._replace(at_once=at_once)


def test_nothing_ends_before_what_takes_its_place_is_delivered() -> None:
    """Keys are made, then tokens delivered, and only then ends moved and keys revoked."""
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
    ended = [event.result for event in server.heard if isinstance(event, ActionEnded)]
    assert sorted(map(repr, ended)) == sorted(map(repr, results))
    assert {event.environment for event in server.heard if isinstance(event, ActionEnded)} == {
        "shop"
    }


@pytest.mark.parametrize("ends", [NOW + DAY, FAR], ids=["due", "lost"])
@pytest.mark.parametrize("refused", ["assign", "mint", ""])
def test_each_action_on_a_name_is_told_as_it_ended(ends, refused) -> None:
    """A role that is changed beside a successor, or beside a token that a sink lost."""
    one = key(1, role="Admin", role_id=ADMIN.id, expires_at=ends)
    sink_contents: SinkContent = token(one) if ends < FAR else NoToken()
    plan = planned([desired(rotation=ROTATED)], [one], {SINK: sink_contents})
    assert {type(action) for action in plan.actions} == {Update, Rotate if ends < FAR else Deliver}
    server = ModelServer(refuses=frozenset({refused}), rows=[Row.of(one)])
    results = server.run(*plan.actions)
    assert sum(isinstance(one, Done) for one in results) == (1 if refused else 2)
    begun = [event.action for event in server.heard if isinstance(event, ActionBegun)]
    ended = [event.result for event in server.heard if isinstance(event, ActionEnded)]
    assert sorted(map(repr, begun)) == sorted(map(repr, plan.actions))
    assert sorted(map(repr, ended)) == sorted(map(repr, results))
    assert server.settled == plan_with(plan).steps
    failed = [one.failure.code for one in results if not isinstance(one, Done)]
    assert failed == (["rejected"] if refused else [])


def test_a_rotation_with_an_overlap_revokes_nothing() -> None:
    """The predecessor lives on until a later run."""
    server = ModelServer()
    [result] = server.run(rotation_of(at_once=False))
    assert isinstance(result, Done)
    assert not any(event.startswith("revoke") for event in server.told)


@pytest.mark.parametrize("refused", ["create", "mint", "prove", "write"])
def test_a_successor_that_is_not_delivered_ends_no_predecessor(refused) -> None:
    """Not even with `--now`: whatever fails, the old token goes on working."""
    server = ModelServer(refuses=frozenset({refused}))
    if refused == "create":
        with pytest.raises(WorkspaceError):
            server.run(rotation_of(at_once=True))
    else:
        [result] = server.run(rotation_of(at_once=True))
        assert isinstance(result, Unfinished)
        assert result.id == "id-svc-a"
        assert result.failure.message.endswith("run `provision rotate --now svc-a`.")
    assert any(event.startswith(refused) for event in server.told)
    assert not any(event.startswith("revoke") for event in server.told)


@pytest.mark.parametrize("undead", [False, True])
def test_the_token_that_a_sink_held_is_proven_dead(undead) -> None:
    """With `--now`, by a read with it; where the server still takes it, that is no success."""
    sink_contents = {SINK: signed("svc-a-1", FAR), OTHER: Secret("no token at all")}
    server = ModelServer(undead=undead, tokens=sink_contents)
    rotate = rotation_of(at_once=True)
    rotate = rotate._replace(successor=rotate.successor._replace(sinks=(SINK, OTHER)))
    [result] = server.run(rotate)
    assert server.told.index("revoke svc-a-1") < server.told.index("prove svc-a-1")
    assert result.id == "id-svc-a"
    assert isinstance(result, Unfinished if undead else Done)
    if isinstance(result, Unfinished):
        assert result.failure.code == "token_alive"
        assert result.failure.message.startswith(
            "The key svc-a-1 was revoked, but the server still accepts its token."
        )


def test_a_surplus_key_ends_only_when_the_token_of_the_one_that_stays_is_delivered() -> None:
    """Of its own name, that is; what nobody waits for ends at once."""
    twins = [key(1), key(2)]
    others = [key(1, "svc-b"), key(2, "svc-b")]
    wanted = [desired(deliver=(SINK,)), desired("svc-b", deliver=(OTHER,))]
    sink_contents: dict[FileAddress, SinkContent] = {SINK: NoToken(), OTHER: NoToken()}
    plan = planned(wanted, [*twins, *others], sink_contents, dedupe=True)
    server = ModelServer(refuses=frozenset({"write file a.env A"}))
    results = {(type(one.action), one.action.name): one for one in server.run(*plan.actions)}
    assert isinstance(results[Revoke, "svc-b"], Done)
    stays = results[Revoke, "svc-a"]
    assert isinstance(stays, Failed)
    assert stays.failure.code == "not_delivered"
    assert [event for event in server.told if event.startswith("revoke")] == ["revoke svc-b-2"]


def test_what_a_bug_leaves_open_fails_with_it_and_what_a_stop_does_is_skipped() -> None:
    """Each action for itself: nothing of it was begun."""
    changes = planned([desired(expiry="2027-06-30")], [key()], {SINK: NoToken()}).actions
    roles = planned([desired("svc-b", role="Admin")], [key(1, "svc-b")]).actions
    prune = planned([], [key(1, "svc-old")], prune=True).actions
    rotate = rotation_of(at_once=True)
    rotate = rotate._replace(successor=rotate.successor._replace(name="svc-r"))
    plan = part_with(*changes, *roles, rotate, *prune)
    open_ = ModelServer().execution(*plan.actions).result(WHY).results
    assert [(type(one), one.action) for one in open_] == [(Failed, one) for one in plan.actions]
    assert {one.failure for one in open_ if isinstance(one, Failed)} == {WHY}
    stopped = ModelServer()
    stopped.stop.ask()
    assert stopped.run(*plan.actions) == tuple(Skipped(one, STOPPED) for one in plan.actions)
    assert stopped.events == []


def test_a_revocation_under_way_is_of_unknown_outcome() -> None:
    """A run that has to end meanwhile does not say that the key lives, nor that it ended."""
    seen: list[Result] = []
    server = ModelServer()
    execution = server.execution(*planned([], [key(1, "svc-old")], prune=True).actions)
    server.watch = lambda: seen.extend(execution.result().results) if server.revoked else None
    execution.run()
    [during] = seen
    assert isinstance(during, Failed)
    assert during.failure.code == "outcome_unknown"
    assert [type(one) for one in execution.result().results] == [Done]


def test_a_change_under_way_is_of_unknown_outcome() -> None:
    """The same while a role is assigned, an end moved, or the second of both is still to come."""
    seen: list[Result] = []
    plan = planned([desired(expiry="2027-06-30", role="Admin")], [key()])
    server = ModelServer()
    execution = server.execution(*plan.actions)
    server.watch = lambda: seen.extend(execution.result().results)
    execution.run()
    told = {event.partition(" ")[0]: one for event, one in zip(server.told, seen, strict=True)}
    for step, code in (
        ("assign", "outcome_unknown"),
        ("mint", "stopped"),
        ("move", "outcome_unknown"),
    ):
        one = told[step]
        assert isinstance(one, Failed | Unfinished)
        assert one.failure.code == code


def test_a_predecessor_that_cannot_be_revoked_is_told() -> None:
    """After several tries; the successor stands, and the action is not done."""
    server = ModelServer(refuses=frozenset({"revoke"}))
    [result] = server.run(rotation_of(at_once=True))
    assert isinstance(result, Unfinished)
    assert (result.id, result.failure.code) == ("id-svc-a", "rejected")
    assert server.told.count("revoke svc-a-1") > 1


def test_a_change_that_fails_is_unfinished_and_keeps_nobody_else() -> None:
    """Its token is out, and the next run sees an end that is not yet moved."""
    wanted = [desired("svc-a", "2027-06-30"), desired("svc-b", "2027-06-30", deliver=(OTHER,))]
    plan = planned(wanted, [key(1), key(1, "svc-b")])
    server = ModelServer(refuses=frozenset({"move svc-a-1 2027-06-30"}))
    failed, done = server.run(*plan.actions)
    assert isinstance(failed, Unfinished)
    assert (failed.id, failed.failure.code) == ("svc-a-1", "rejected")
    assert isinstance(done, Done)
    assert server.settled == 4


@pytest.mark.parametrize("refused", ["mint", "prove", "write"])
def test_an_end_is_not_moved_before_its_token_is_delivered(refused) -> None:
    """No later run could see that a sink which tells nothing lacks it, but each sees the end."""
    [update] = planned([desired(expiry="2027-06-30")], [key()]).actions
    server = ModelServer(refuses=frozenset({refused}))
    [result] = server.run(update)
    assert isinstance(result, Failed)
    assert any(event.startswith(refused) for event in server.told)
    assert not any(event.startswith("move") for event in server.told)


def test_a_role_that_is_refused_delivers_nothing_and_moves_no_end() -> None:
    """The change as a whole has failed, with the server's reason."""
    plan = planned([desired(expiry="2027-06-30", role="Admin")], [key()])
    server = ModelServer(refuses=frozenset({"assign"}))
    [result] = server.run(*plan.actions)
    assert isinstance(result, Failed)
    assert result.failure.code == "rejected"
    assert server.told == ["assign svc-a-1 Admin"]
    assert server.settled == 1


def test_a_role_is_assigned_and_nothing_is_minted() -> None:
    """The tokens that are out go on working with the new role."""
    one = key()
    plan = planned([desired(role="Admin")], [one], {SINK: token(one)})
    server = ModelServer()
    [result] = server.run(*plan.actions)
    assert isinstance(result, Done)
    assert server.told == ["assign svc-a-1 Admin"]


@pytest.mark.parametrize("at", ["mint svc-a-1", "write file a.env A", "move svc-a-1 2027-06-30"])
def test_a_stop_before_the_revoking_revokes_nothing(at) -> None:
    """What has begun is finished, and what would end lives on."""
    [update] = planned([desired(expiry="2027-06-30")], [key()]).actions
    [prune] = planned([], [key(1, "svc-old")], prune=True).actions
    server = ModelServer(stop_at=at)
    changed, ended = server.run(update, prune)
    assert ended == Skipped(prune, STOPPED)
    assert isinstance(changed, Done if at.startswith("move") else Unfinished)
    if isinstance(changed, Unfinished):
        assert changed.failure.message.endswith("The next run changes it.")
    assert not any(event.startswith("revoke") for event in server.told)


def test_a_stop_amid_the_revoking_ends_no_more_than_what_is_in_flight() -> None:
    """What has ended is done, and what was not begun is skipped and lives on."""
    keys = [key(1, f"svc-{number}") for number in range(60)]
    plan = planned([], keys, prune=True)
    server = ModelServer(rows=[Row.of(one) for one in keys])
    server.watch = lambda: server.stop.ask() if len(server.revoked) == 3 else None
    results = server.run(*plan.actions)
    done = {one.id for one in results if isinstance(one, Done)}
    skipped = [one for one in results if isinstance(one, Skipped)]
    assert done == server.ended
    assert 3 <= len(done) <= 3 + 8
    assert len(done) + len(skipped) == 60
    assert {one.failure for one in skipped} == {STOPPED}
    begun = [event for event in server.heard if isinstance(event, ActionBegun)]
    assert len(begun) == len(done) == server.settled


def test_each_key_that_ended_is_told_of_at_once() -> None:
    """Not when all have: whoever watches sees how far it is."""
    keys = [key(1, f"svc-{number}") for number in range(30)]
    plan = planned([], keys, prune=True)
    server = ModelServer(rows=[Row.of(one) for one in keys])
    ended: list[int] = []
    server.watch = lambda: ended.append(
        sum(isinstance(event, ActionEnded) for event in server.heard)
    )
    server.run(*plan.actions)
    assert len(ended) == 30
    assert ended[-1] >= 30 - 8


def test_one_key_that_cannot_be_revoked_keeps_no_other() -> None:
    """It alone has failed, with the server's own reason."""
    plan = planned([], [key(1, "svc-x"), key(1, "svc-y")], prune=True)
    server = ModelServer(refuses=frozenset({"revoke svc-x-1"}))
    failed, done = server.run(*plan.actions)
    assert isinstance(failed, Failed)
    assert failed.failure.code == "rejected"
    assert isinstance(done, Done)
    assert server.told.count("revoke svc-y-1") == 1
    assert server.settled == plan_with(plan).steps == 2


def test_a_bug_in_one_change_keeps_nobody_elses(monkeypatch) -> None:
    """The others are done, and the bug ends the execution afterwards."""
    names = [f"svc-{number}" for number in range(5)]
    seen = [key(1, name, role="Admin", role_id=ADMIN.id) for name in names]
    plan = planned([desired(name, deliver=()) for name in names], seen)
    server = ModelServer(rows=[Row.of(one) for one in seen])
    assign = server.assign_role

    def broken(key_id: str, role_id: str) -> None:
        if key_id == "svc-0-1":
            raise ZeroDivisionError
        assign(key_id, role_id)

    monkeypatch.setattr(server, "assign_role", broken)
    execution = server.execution(*plan.actions)
    with pytest.raises(ZeroDivisionError):
        execution.run()
    results = execution.finish(WHY).results
    assert [type(one) for one in results] == [Failed, *[Done] * 4]


def test_a_role_that_appears_while_the_run_looks_again_is_not_assigned() -> None:
    """A key without a role may be one that another run is just making; one look serves all."""
    bare = [key(1, name, role=None, role_id=None) for name in ("svc-a", "svc-b", "svc-c")]
    wanted = [desired(name, deliver=()) for name in ("svc-a", "svc-b", "svc-c")]
    server = ModelServer(
        rows=[Row.of(key()), Row.of(key(1, "svc-b", role="Admin", role_id=ADMIN.id))]
    )
    results = server.run(*planned(wanted, bare).actions)
    assert [type(one) for one in results] == [Done] * 3
    assert server.told[:2] == ["wait", "look"]
    assert sorted(server.told[2:]) == ["assign svc-b-1 Worker", "assign svc-c-1 Worker"]
