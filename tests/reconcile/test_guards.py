"""What a run must not do by mistake: refused for all environments, before the first write."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    DAY,
    NOW,
    desired_key,
    environment_with,
    file_sink,
    observation_with,
    observed_key,
    rotate,
    rotation_with,
)
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors.exceptions import RefusedError
from provisioner.errors.failure import Failure
from provisioner.model.environment import Environment, Guards, Share
from provisioner.model.observed import NoRoles, Observation, ObservedKey
from provisioner.model.sink_content import ApiKeyToken
from provisioner.plan import (
    Planned,
    PlanOptions,
    Revoke,
    Unobserved,
    plan_environment,
    plan_revocations,
)
from provisioner.reconcile.guards import (
    GuardOverrides,
    combine_refusals,
    nothing_selected,
    refusals,
    shared_workspaces,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from provisioner.model.key import DesiredKey

pytestmark = pytest.mark.fast

SHOP = environment_with(owns=("svc-*",))
PRUNE = PlanOptions(prune=True)
WORD = GuardOverrides(max_revoke=9)
SINK = file_sink()


def key(name: str, number: int = 1, **changes: Any) -> ObservedKey:
    """As a legacy server has it, without a role."""
    return observed_key(name, number, **({"role": None, "role_id": None} | changes))


def many(count: int) -> list[ObservedKey]:
    return [key(f"svc-{number}") for number in range(count)]


def look_at(keys: Iterable[ObservedKey], ahead: timedelta | None = None) -> Observation:
    return observation_with(*keys, roles=NoRoles(), ahead=ahead)


def refused(
    seen: Iterable[ObservedKey],
    wanted: tuple[DesiredKey, ...] = (desired_key("svc-wanted"),),
    environment: Environment = SHOP,
    *,
    options: PlanOptions = PRUNE,
    ahead: timedelta | None = None,
    alter: Callable[[Planned], Planned] = lambda planned: planned,
    **overrides: Any,
) -> list[str]:
    """The slugs of what stops a run."""
    look = look_at(seen, ahead)
    plan = alter(plan_environment(environment, wanted, look, NOW, options))
    return [
        error.code
        for error in refusals(environment, wanted, look, plan, GuardOverrides(**overrides))
    ]


@pytest.mark.parametrize(
    ("live", "ending", "stops"),
    [(100, 30, False), (100, 31, True), (4, 3, False), (4, 4, True), (9, 3, False), (11, 4, True)],
)
def test_a_run_may_end_three_in_ten_owned_keys_but_always_three(live, ending, stops) -> None:
    """The share is of the owned live keys, rounded down; three may always end."""
    wanted = tuple(desired_key(f"svc-{number}") for number in range(ending, live))
    assert refused(many(live), wanted or (desired_key("svc-other"),)) == (
        ["too_many_revocations"] if stops else []
    )


def test_dead_and_foreign_keys_do_not_raise_what_may_end() -> None:
    """Only live keys that `owns` matches count: ten of each others and 4 of 10 are too many."""
    others = [key(f"their-{number}") for number in range(10)]
    dead = [key(f"svc-dead-{number}", revoked_at=NOW) for number in range(10)]
    old = [key(f"svc-old-{number}", expires_at=NOW) for number in range(10)]
    wanted = tuple(desired_key(f"svc-{number}") for number in range(4, 10))
    assert refused([*many(10), *others, *dead, *old], wanted) == ["too_many_revocations"]
    assert refused([*many(10), *others, *dead, *old], (*wanted, desired_key("svc-3"))) == []


@pytest.mark.parametrize(
    ("guards", "overrides", "stops"),
    [
        (Guards(Share(50)), None, False),
        (Guards(Share(40)), None, True),
        (Guards(Share(0)), None, True),
        (Guards(5), None, False),
        (Guards(4), None, True),
        (Guards(0), None, True),
        (Guards(0), 5, False),
        (Guards(Share(100)), 4, True),
        (Guards(Share(100)), 0, True),
    ],
)
def test_guards_say_how_many_and_max_revoke_overrides_them(guards, overrides, stops) -> None:
    """5 of 10 owned keys are to end: a share, a number, and the word of the one who runs it."""
    wanted = tuple(desired_key(f"svc-{number}") for number in range(5))
    shop = replace(SHOP, guards=guards)
    assert refused(many(10), wanted, shop, max_revoke=overrides) == (
        ["too_many_revocations"] if stops else []
    )


@given(st.integers(0, 100), st.integers(0, 10_000))
def test_a_share_allows_three_or_its_part_and_none_of_0_percent(percent, live) -> None:
    """Never less than three but for 0 %, never more than the part of them all."""
    most = Guards(Share(percent)).limit(live)
    assert most == (max(3, live * percent // 100) if percent else 0)
    assert most <= max(3, live)


def test_an_environment_all_of_whose_manifests_vanished_ends_nothing() -> None:
    """Not even with a word for so many keys: it is a wrong -m, or a deleted folder."""
    assert refused(many(1), ()) == ["manifests_vanished"]
    assert refused(many(1), (), max_revoke=100, allow_protected=True) == ["manifests_vanished"]
    assert refused(many(1), (), options=PlanOptions()) == []
    assert refused([key("their")], ()) == []


def test_what_is_protected_ends_with_a_word_for_it_alone() -> None:
    """A key that is protected, or any key of a protected environment."""
    twins = [key("svc-a", 1), key("svc-a", 2)]
    wanted = (desired_key("svc-a", protect=True),)
    assert refused(twins, wanted, options=PlanOptions(dedupe=True)) == ["protected"]
    assert refused(twins, wanted, options=PlanOptions(dedupe=True), allow_protected=True) == []
    assert refused(twins, (desired_key("svc-a"),), options=PlanOptions(dedupe=True)) == []
    safe = replace(SHOP, protect=True)
    assert refused(many(1), environment=safe) == ["protected"]
    assert refused(many(1), environment=safe, allow_protected=True) == []
    assert refused([key("svc-wanted")], environment=safe) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_clocks_more_than_a_minute_apart_stop_whatever_would_change(sign) -> None:
    """Ends are counted by ours and judged by the server's; what changes nothing may go on."""
    assert refused([], ahead=sign * timedelta(seconds=61)) == ["clock_off"]
    assert refused([], ahead=sign * timedelta(seconds=60)) == []
    assert refused([key("svc-wanted")], ahead=sign * timedelta(days=1)) == []


def test_an_emergency_is_stopped_by_no_clock() -> None:
    """`revoke` counts no end, and nobody can mend the clock of a server that is not theirs."""
    look = look_at(many(1), timedelta(hours=1))
    plan = plan_revocations(SHOP, look, frozenset({"svc-0"}))
    assert len(plan.unblocked) == 1
    assert [*refusals(SHOP, (), look, plan, GuardOverrides())] == []


def test_all_reasons_against_a_run_are_one_refusal() -> None:
    """Named by the first; the sixth and later ones are counted."""
    reasons = [RefusedError(f"slug_{n}", f"Because {n}.", remedy=f"Mend {n}.") for n in range(7)]
    assert combine_refusals([]) is None
    assert combine_refusals(reasons[:1]) is reasons[0]
    both = combine_refusals(reasons[:2])
    assert both is not None
    assert (both.code, both.message) == ("slug_0", "Because 0. Mend 0. Because 1. Mend 1.")
    many_more = combine_refusals(reasons)
    assert many_more is not None
    assert many_more.message.endswith("Because 4. Mend 4. And 2 more reasons.")
    five = combine_refusals(reasons[:5])
    assert five is not None
    assert five.message.endswith("Mend 4.")


def test_all_that_speaks_against_a_plan_is_told() -> None:
    """One after the other, so that nobody finds the next only when the first is mended."""
    slugs = refused(many(4), (), replace(SHOP, protect=True), ahead=timedelta(hours=1))
    assert slugs == ["clock_off", "manifests_vanished", "too_many_revocations", "protected"]


def test_blocked_actions_and_keys_that_live_on_for_an_overlap_do_not_count() -> None:
    """What a plan does not do needs no leave; a successor with an overlap ends nothing now."""

    def block(planned: Planned) -> Planned:
        why = Failure("not_owned", "No.")
        actions = [one._replace(blocked=why) for one in planned.actions if isinstance(one, Revoke)]
        assert len(actions) == 4
        return replace(planned, actions=tuple(actions))

    assert refused(many(4)) == ["too_many_revocations"]
    assert refused(many(4), alter=block) == []


def test_predecessors_whose_successor_is_delivered_need_no_leave() -> None:
    """Nobody is cut off by their end: neither a number nor a protection is for them."""
    safe = replace(SHOP, guards=Guards(0), protect=True)

    def supersede(planned: Planned) -> Planned:
        actions = [one for one in planned.actions if isinstance(one, Revoke)]
        assert len(actions) == 4
        return replace(planned, actions=tuple(one._replace(reason="superseded") for one in actions))

    assert refused(many(4), environment=safe) == ["too_many_revocations", "protected"]
    assert refused(many(4), environment=safe, alter=supersede) == []


def test_of_several_older_keys_of_a_rotated_name_one_is_its_predecessor() -> None:
    """The others were made by no rotation, and end by leave alone: the newest goes without."""
    rotated = (desired_key("svc-a", rotation=rotation_with(49 * DAY, DAY, "49d"), deliver=(SINK,)),)
    keys = [key("svc-a", number, created_at=NOW - (9 - number) * DAY) for number in range(4)]
    keys = [replace(one, expires_at=NOW + (5 + 15 * n) * DAY) for n, one in enumerate(keys)]
    look = look_at(keys)
    held = {SINK: ApiKeyToken(keys[3].id, None)}
    safe = replace(SHOP, guards=Guards(1), protect=True)
    plan = plan_environment(safe, rotated, look, NOW, PlanOptions(), sink_contents=held)
    assert len(plan.unblocked) == 3
    found = [error.code for error in refusals(safe, rotated, look, plan, GuardOverrides())]
    assert found == ["too_many_revocations", "protected"]
    two = look_at(keys[2:])
    plan = plan_environment(safe, rotated, two, NOW, PlanOptions(), sink_contents=held)
    assert len(plan.unblocked) == 1
    assert [*refusals(safe, rotated, two, plan, GuardOverrides())] == []


def test_a_refusal_says_how_much_and_what_to_do() -> None:
    """The clock's distance, the counts, the first name and how many more, and the way on."""
    look = look_at(many(4), timedelta(seconds=90))
    safe = replace(SHOP, protect=True, guards=Guards(1))
    plan = plan_environment(safe, (), look, NOW, PRUNE)
    clock, vanished, many_end, protected = refusals(safe, (), look, plan, GuardOverrides())
    assert (clock.message, clock.remedy) == (
        "This machine's clock and that of shop are 90 s apart.",
        "Set the clock that is wrong: ends of keys are counted by it.",
    )
    assert (vanished.message, vanished.remedy) == (
        "No manifest names shop any more, and 4 of its keys would be revoked.",
        "Check -m and the manifests; to end the keys, use `provision revoke`.",
    )
    assert (many_end.message, many_end.remedy) == (
        "4 keys of shop would be revoked, and at most 1 may be.",
        "Look at the plan; if it is meant, use --max-revoke 4.",
    )
    assert (protected.message, protected.remedy) == (
        "'svc-0' and 3 more in shop are protected, and would be revoked.",
        "If it is meant, use --allow-protected.",
    )
    two, one = (
        [*refusals(safe, (), look_at(many(4)), replace(plan, actions=plan.actions[:count]), WORD)]
        for count in (2, 1)
    )
    assert two[-1].message == "'svc-0' and 1 more in shop are protected, and would be revoked."
    assert one[-1].message == "'svc-0' in shop is protected, and would be revoked."


@pytest.mark.parametrize(
    ("options", "stops"),
    [
        (PlanOptions(prune=True, only=("x*",)), True),
        (PlanOptions(dedupe=True, only=("x*", "y*")), True),
        (PlanOptions(only=("x*",)), False),
        (PlanOptions(prune=True), False),
        (PlanOptions(prune=True, only=("svc-0",)), False),
        (PlanOptions(prune=True, only=("svc-wanted",)), False),
    ],
)
def test_globs_that_match_nothing_stop_a_run_that_may_revoke(options, stops) -> None:
    """Neither a live key nor a wanted one: the glob is wrong, and says so."""
    plan = plan_environment(SHOP, (desired_key("svc-wanted"),), look_at(many(2)), NOW, options)
    away = Unobserved("away", "https://a", Failure("unreachable", "No."))
    for plans in ((plan,), (away, plan)):
        found = nothing_selected(plans, options)
        assert (found is not None) is stops
        if found is not None:
            assert (found.code, f"--only {' '.join(options.only)}." in str(found)) == (
                "nothing_selected",
                True,
            )
    assert nothing_selected((away,), options) is None


@pytest.mark.parametrize("at_once", [True, False])
def test_predecessors_that_end_at_once_count(at_once) -> None:
    """`rotate --now` of four keys of four is as much as revoking them."""
    shop = replace(SHOP, guards=Guards(3))
    wanted = tuple(desired_key(f"svc-{number}") for number in range(4))

    def follow(planned: Planned) -> Planned:
        found = plan_environment(shop, wanted, look_at([]), NOW, PlanOptions()).unblocked
        rotates = tuple(
            rotate(one, predecessors=(f"id-{one.name}-1",), at_once=at_once) for one in found
        )
        return replace(planned, actions=rotates)

    assert refused(many(4), wanted, shop, alter=follow) == (
        ["too_many_revocations"] if at_once else []
    )


# --- One workspace twice -------------------------------------------------------------------------

SEEDED = "20202020-1c25-4d02-bf25-6aeccf7ea419"
LOOPBACK = (
    "http://127.0.0.1:3000",
    "http://127.1:3000",
    "http://0x7f.1:3000/",
    "http://0177.0.0.1:3000",
    "http://2130706433:3000",
    "http://LOCALHOST:3000/api",
    "http://localhost.:3000",
    "http://crm.localhost:3000",
    "http://[::1]:3000",
    "http://[0:0:0:0:0:0:0:1]:3000",
    "http://[::ffff:127.0.0.1]:3000",
    "http://0.0.0.0:3000",
    "http://[::]:3000",
)


def seen(
    name: str, url: str, workspace: str | None, *keys: ObservedKey
) -> tuple[Environment, Observation]:
    environment = replace(SHOP, name=name, url=url)
    return environment, replace(look_at(keys), workspace=workspace)


def shared(*looks: tuple[Environment, Observation]) -> list[tuple[str, ...]]:
    return [names for names, _ in shared_workspaces(looks)]


@pytest.mark.parametrize("url", LOOPBACK)
def test_seeded_workspaces_of_one_server_are_one_however_it_is_written(url) -> None:
    """An address has many spellings, and they all lead to the same keys."""
    assert shared(seen("a", LOOPBACK[0], SEEDED), seen("b", url, SEEDED)) == [("a", "b")]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:3001",
        "http://127.0.0.2:3000",
        "http://[::2]:3000",
        "http://192.168.0.7:3000",
        "http://twenty:3000",
        "http://localhost.example.com:3000",
        "https://127.0.0.1",
    ],
)
def test_seeded_workspaces_of_other_servers_are_others(url) -> None:
    """Every development server has the same id: several are one setting up, and no mistake."""
    assert shared(seen("a", LOOPBACK[0], SEEDED), seen("b", url, SEEDED.upper())) == []
    assert shared(seen("a", LOOPBACK[0], "w"), seen("b", url, "w")) == [("a", "b")]


def test_an_id_that_nobody_seeds_is_one_workspace_wherever_it_is() -> None:
    """Two names of one server, and a copy of it, which would follow the same manifests."""
    far, near = "https://crm.example.com", "https://crm.internal:8443"
    assert shared(seen("a", far, "W-1"), seen("b", near, "w-1"), seen("c", far, "w-2")) == [
        ("a", "b")
    ]
    assert shared(seen("a", far, None), seen("b", far, None), seen("c", far, "w")) == []
    [(names, error)] = shared_workspaces([seen("a", far, "w"), seen("b", near, "w")])
    assert (names, error.code, error.exit_code) == (("a", "b"), "workspace_shared", 5)
    assert error.message == "a and b turn out to be one workspace, w."
    assert error.remedy.endswith("copies of one workspace are run one at a time, with -e.")


def test_seeded_workspaces_that_list_the_same_key_are_one() -> None:
    """A name of DNS says nothing, and a key that was made is in no other workspace."""
    one, two = "http://twenty:3000", "https://crm.test"
    made = key("svc-a")
    assert shared(seen("a", one, SEEDED, made), seen("b", two, SEEDED, made)) == [("a", "b")]
    for other in (
        replace(made, created_at=made.created_at + timedelta(milliseconds=1)),
        replace(made, id="another"),
    ):
        assert shared(seen("a", one, SEEDED, made), seen("b", two, SEEDED, other)) == []
    seeded = replace(made, id="20202020-aaaa-4d02-bf25-6aeccf7ea419")
    assert shared(seen("a", one, SEEDED, seeded), seen("b", two, SEEDED, seeded)) == []


def test_all_names_of_one_workspace_are_told_together() -> None:
    """Also where two of them are one only by a third."""
    first, second = key("svc-a"), key("svc-b")
    looks = (
        seen("a", "http://a:1", SEEDED, first),
        seen("b", "http://b:1", SEEDED, second),
        seen("c", "http://c:1", SEEDED),
        seen("d", "http://d:1", SEEDED, first, second),
    )
    assert shared(*looks) == [("a", "b", "d")]
