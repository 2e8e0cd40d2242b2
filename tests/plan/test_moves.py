"""Former names of keys: which live keys are renamed, and what else is planned for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
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
from hypothesis import example, given
from hypothesis import strategies as st

from provisioner.model.observed import NoRoles
from provisioner.model.sink_content import ApiKeyToken, NoToken
from provisioner.plan import (
    Create,
    Deliver,
    MovedConflict,
    Planned,
    PlanOptions,
    Rename,
    Revoke,
    Rotate,
    Unmanaged,
    Update,
    plan_environment,
    sinks_to_read,
)

if TYPE_CHECKING:
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent

pytestmark = pytest.mark.fast

SHOP = environment_with(owns=("svc-*", "old-*"))
FILE = file_sink()
MOVED = desired_key("svc-a", moved_from=("old-a",))
CHAIN = desired_key("svc-a", moved_from=("old-b", "old-a"))
ROTATED = desired_key("svc-a", FILE, moved_from=("old-a",), rotation=rotation_with())
MARKER = timedelta(milliseconds=417)

PREDECESSOR = observed_key("old-a", 1, created_at=NOW - 81 * DAY, expires_at=NOW + 9 * DAY + MARKER)
SUCCESSOR = observed_key("old-a", 2, created_at=NOW - DAY, expires_at=NOW + 89 * DAY + MARKER)


def plan(
    *keys: ObservedKey,
    desired: tuple[DesiredKey, ...] = (MOVED,),
    contents: dict[Address, SinkContent] | None = None,
    owns: tuple[str, ...] = SHOP.owns,
    **options: object,
) -> Planned:
    """Return the plan of a legacy workspace with these keys."""
    return plan_environment(
        replace(SHOP, owns=owns),
        desired,
        observation_with(*keys, roles=NoRoles()),
        NOW,
        PlanOptions(**options),  # type: ignore[arg-type]
        sink_contents=contents or {},
    )


def renames(planned: Planned) -> list[tuple[str, str, str]]:
    return [
        (one.key_id, one.old_name, one.name) for one in planned.actions if isinstance(one, Rename)
    ]


def after(planned: Planned, *keys: ObservedKey) -> list[ObservedKey]:
    """Return the keys of a workspace once the renames of a plan are done."""
    names = {one.key_id: one.name for one in planned.unblocked if isinstance(one, Rename)}
    return [replace(key, name=names.get(key.id, key.name)) for key in keys]


def conflicts(planned: Planned) -> list[MovedConflict]:
    return [one for one in planned.findings if isinstance(one, MovedConflict)]


def test_a_key_with_a_former_name_is_renamed_and_nothing_is_created() -> None:
    """The key is neither unmanaged nor kept, and the next plan keeps it."""
    key = observed_key("old-a")
    planned = plan(key)
    assert renames(planned) == [("id-old-a-1", "old-a", "svc-a")]
    assert (len(planned.actions), planned.kept, planned.findings) == (1, (), ())
    assert planned.actions[0].reason == "moved"
    following = plan(*after(planned, key))
    assert (following.actions, following.kept, following.findings) == ((), ("svc-a",), ())


@pytest.mark.parametrize(
    "dead", [observed_key("old-a", expires_at=NOW), observed_key("old-a", revoked_at=NOW), None]
)
def test_a_move_without_a_live_key_of_the_former_name_does_nothing(dead) -> None:
    """The block may stay for ever: a key of the new name is created or kept as usual."""
    keys = () if dead is None else (dead,)
    [action] = plan(*keys).actions
    assert isinstance(action, Create)
    assert action.reason == "missing"
    assert plan(*keys, observed_key("svc-a")).kept == ("svc-a",)


def test_a_dead_key_of_the_new_name_does_not_stop_a_rename() -> None:
    """Only live keys have a name."""
    expired = observed_key("svc-a", expires_at=NOW)
    assert renames(plan(expired, observed_key("old-a"))) == [("id-old-a-1", "old-a", "svc-a")]


def test_a_key_is_found_under_any_of_its_former_names() -> None:
    """The last former name comes first, and what has an earlier one is a conflict."""
    assert renames(plan(observed_key("old-a"), desired=(CHAIN,))) == [
        ("id-old-a-1", "old-a", "svc-a")
    ]
    both = plan(observed_key("old-a"), observed_key("old-b"), desired=(CHAIN,))
    assert renames(both) == [("id-old-b-1", "old-b", "svc-a")]
    assert conflicts(both) == [MovedConflict("svc-a", ("id-old-a-1",), ("old-a",))]


@pytest.mark.parametrize("options", [{}, {"prune": True}, {"dedupe": True}])
def test_keys_of_both_names_are_a_finding_and_stay_as_they_are(options) -> None:
    """No rename makes two keys of one name, and no option revokes a key that a move names."""
    planned = plan(observed_key("old-a"), observed_key("svc-a"), **options)
    assert (planned.actions, planned.kept) == ((), ("svc-a",))
    assert planned.findings == (MovedConflict("svc-a", ("id-old-a-1",), ("old-a",)),)
    assert "id-old-a-1" in planned.findings[0].message


def test_of_several_keys_of_the_former_name_only_the_current_one_is_renamed() -> None:
    """Rule 0 decides, with what the sinks hold; the others are named now and in the next plan."""
    keys = [observed_key("old-a", number) for number in (1, 2, 3)]
    desired = (desired_key("svc-a", FILE, moved_from=("old-a",)),)
    held: dict[Address, SinkContent] = {FILE: ApiKeyToken("id-old-a-2", None)}
    assert sinks_to_read(desired, observation_with(*keys)) == (FILE,)
    for contents, current in (({}, 1), (held, 2)):
        planned = plan(*keys, desired=desired, contents=contents)
        others = tuple(f"id-old-a-{number}" for number in (1, 2, 3) if number != current)
        assert renames(planned) == [(f"id-old-a-{current}", "old-a", "svc-a")]
        assert conflicts(planned) == [MovedConflict("svc-a", others, ("old-a",))]
        following = plan(*after(planned, *keys), desired=desired, contents=contents)
        assert conflicts(following) == conflicts(planned)
        assert renames(following) == []


@pytest.mark.parametrize(
    ("owns", "message"),
    [
        (("svc-*",), "'old-a' matches no pattern"),
        (("old-*",), "'svc-a' matches no pattern"),
        ((), "'old-a' and 'svc-a' match no pattern"),
    ],
)
def test_a_key_is_renamed_only_if_both_names_are_owned(owns, message) -> None:
    """The rename is blocked, and nothing is created or changed under the new name either."""
    desired = (desired_key("svc-a", FILE, moved_from=("old-a",), expiry="2027-06-30"),)
    planned = plan(observed_key("old-a"), desired=desired, owns=owns)
    [action] = planned.actions
    assert isinstance(action, Rename)
    assert action.blocked is not None
    assert action.blocked.code == "not_owned"
    assert action.blocked.message.startswith(message)
    assert (planned.kept, planned.findings) == ((), ())


def test_the_key_of_the_run_itself_may_be_renamed() -> None:
    """Its token keeps working."""
    key = observed_key("old-a")
    planned = plan_environment(
        SHOP, (MOVED,), observation_with(key, roles=NoRoles(), own_key=key.id), NOW
    )
    assert [one.blocked for one in planned.actions] == [None]


def test_everything_else_is_planned_as_for_a_key_of_the_new_name() -> None:
    """The same run changes its expiry, and delivers to a sink whose address has the new name."""
    key = observed_key("old-a")
    fixed = (desired_key("svc-a", FILE, expiry="2027-06-30", moved_from=("old-a",)),)
    first, second = plan(key, desired=fixed).actions
    assert isinstance(first, Rename)
    assert isinstance(second, Update)
    assert (second.name, second.key_id) == ("svc-a", key.id)
    delivered = (desired_key("svc-a", FILE, moved_from=("old-a",)),)
    first, second = plan(key, desired=delivered, contents={FILE: NoToken()}).actions
    assert isinstance(second, Deliver)
    assert (second.name, second.key_id) == ("svc-a", key.id)
    held: dict[Address, SinkContent] = {FILE: ApiKeyToken(key.id, None)}
    assert len(plan(key, desired=delivered, contents=held).actions) == 1


def test_only_selects_by_the_new_name() -> None:
    """A glob of the former name selects nothing, not even with --prune."""
    keys = (observed_key("old-a"), observed_key("old-b"))
    assert len(renames(plan(*keys, only=("svc-a",)))) == 1
    assert plan(*keys, only=("svc-a",)).findings == ()
    other = plan(*keys, only=("old-a",), prune=True)
    assert (other.actions, other.findings) == ((), ())
    everything = plan(*keys, prune=True)
    assert [one.name for one in everything.actions if isinstance(one, Revoke)] == ["old-b"]
    assert plan(*keys).findings == (Unmanaged("old-b", ("id-old-b-1",)),)


def test_a_rotation_on_request_waits_for_the_rename() -> None:
    """`rotate NAME` does nothing else, so it says what to run first."""
    planned = plan(observed_key("old-a"), desired=(ROTATED,), rotate=frozenset({"svc-a"}))
    assert planned.actions == ()
    assert "still named 'old-a'" in planned.notes[-1]


HELD: dict[Address, SinkContent] = {FILE: ApiKeyToken(SUCCESSOR.id, None, SUCCESSOR.created_at)}


def test_a_rotation_goes_on_under_the_new_name() -> None:
    """The current key is renamed first, then its predecessor, which is revoked when it is due."""
    keys = (PREDECESSOR, SUCCESSOR)
    planned = plan(*keys, desired=(ROTATED,), contents=HELD)
    assert [id_ for id_, _, _ in renames(planned)] == [SUCCESSOR.id, PREDECESSOR.id]
    assert len(planned.actions) == 2
    over = [
        replace(one, created_at=one.created_at - 2 * DAY, expires_at=one.expires_at - 2 * DAY)
        for one in keys
    ]
    held: dict[Address, SinkContent] = {FILE: ApiKeyToken(SUCCESSOR.id, None, over[1].created_at)}
    *_, last = plan(*over, desired=(ROTATED,), contents=held).actions
    assert isinstance(last, Revoke)
    assert (last.name, last.reason, last.key_id) == ("svc-a", "superseded", PREDECESSOR.id)


def test_renames_of_a_rotation_that_were_interrupted_are_finished() -> None:
    """The predecessor of a current key that has the new name is no conflict."""
    half = (PREDECESSOR, replace(SUCCESSOR, name="svc-a"))
    planned = plan(*half, desired=(ROTATED,), contents=HELD)
    assert renames(planned) == [(PREDECESSOR.id, "old-a", "svc-a")]
    assert conflicts(planned) == []
    # Nothing shows that a key of the new name is older than, and replaced by, one of the old name.
    swapped = (replace(PREDECESSOR, name="svc-a"), SUCCESSOR)
    assert renames(plan(*swapped, desired=(ROTATED,), contents=HELD)) == []


def test_a_key_that_is_due_is_renamed_before_it_gets_a_successor() -> None:
    """The successor of the renamed key has the new name too."""
    due = replace(PREDECESSOR, expires_at=NOW + 9 * DAY + MARKER)
    first, second = plan(due, desired=(ROTATED,), contents={FILE: NoToken()}).actions
    assert isinstance(first, Rename)
    assert isinstance(second, Rotate)
    assert (second.name, second.predecessors) == ("svc-a", (due.id,))


def seen(number: int, name: str, days: int, left: int) -> ObservedKey:
    """Return a key that was created so many days ago, and expires so many days after that."""
    created_at = NOW - days * DAY
    return observed_key(
        name, number, created_at=created_at, expires_at=created_at + left * DAY + MARKER
    )


NAMES = ("old-a", "old-b", "svc-a", "svc-b")
observed = st.lists(
    st.builds(
        seen,
        st.integers(1, 10**6),
        st.sampled_from(NAMES),
        st.integers(0, 120),
        st.sampled_from((30, 90)),
    ),
    max_size=5,
    unique_by=lambda key: key.id,
)


@given(observed, st.booleans(), st.booleans(), st.booleans())
@example(
    keys=[seen(1, "old-a", 0, 30), seen(1, "old-b", 0, 30), seen(2, "old-b", 20, 30)],
    rotated=True,
    prune=False,
    dedupe=False,
)
def test_whatever_the_workspace_has_renames_converge(
    keys: list[ObservedKey], rotated: bool, prune: bool, dedupe: bool
) -> None:
    """A second plan renames nothing; no rename joins strangers, and none creates a key."""
    rotation = rotation_with() if rotated else None
    desired = (CHAIN._replace(rotation=rotation), desired_key("svc-b", rotation=rotation))
    planned = plan(*keys, desired=desired, prune=prune, dedupe=dedupe)
    moved = renames(planned)
    live = [key for key in keys if key.expires_at > NOW]
    taken = {key.name for key in live} & {"old-a", "old-b", "svc-a"}
    assert bool(moved) or not taken or "svc-a" in taken
    assert not (
        taken and any(isinstance(one, Create) and one.name == "svc-a" for one in planned.actions)
    )
    assert rotated or len(moved) <= 1
    assert all(
        one.name not in ("old-a", "old-b") for one in planned.actions if isinstance(one, Revoke)
    )
    following = plan(*after(planned, *keys), desired=desired, prune=prune, dedupe=dedupe)
    assert renames(following) == []
    if moved:
        former = {key.id for key in live if key.name in ("old-a", "old-b")}
        named = {id_ for one in conflicts(planned) for id_ in one.ids}
        assert former == named | {id_ for id_, _, _ in moved}
    # A run that is killed between the renames is finished by the next one.
    for done in range(len(moved)):
        ids = {id_ for id_, _, _ in moved[:done]}
        half = [replace(key, name="svc-a") if key.id in ids else key for key in keys]
        again = plan(*half, desired=desired, prune=prune, dedupe=dedupe)
        assert renames(again) == moved[done:]
