"""The guards: costly mistakes are refused for all environments, before the first write."""

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
    GuardOverrides,
    Planned,
    PlanOptions,
    Revoke,
    Unobserved,
    plan_environment,
)
from provisioner.reconcile.guards import (
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
OVERRIDES = GuardOverrides(max_revoke=9)
SINK = file_sink()


def key(name: str, number: int = 1, **changes: Any) -> ObservedKey:
    """Return a key as a legacy server lists it, without a role."""
    return observed_key(name, number, **({"role": None, "role_id": None} | changes))


def many(count: int) -> list[ObservedKey]:
    return [key(f"svc-{number}") for number in range(count)]


def observe(keys: Iterable[ObservedKey], ahead: timedelta | None = None) -> Observation:
    return observation_with(*keys, roles=NoRoles(), server_ahead=ahead)


def refusal_codes(
    keys: Iterable[ObservedKey],
    desired: tuple[DesiredKey, ...] = (desired_key("svc-wanted"),),
    environment: Environment = SHOP,
    *,
    options: PlanOptions = PRUNE,
    ahead: timedelta | None = None,
    alter: Callable[[Planned], Planned] = lambda planned: planned,
    **overrides: Any,
) -> list[str]:
    """Return the codes of the refusals of a plan."""
    observation = observe(keys, ahead)
    plan = alter(plan_environment(environment, desired, observation, NOW, options))
    return [
        error.code
        for error in refusals(environment, desired, observation, plan, GuardOverrides(**overrides))
    ]


@pytest.mark.parametrize(
    ("live", "revoked", "refused"),
    [(100, 30, False), (100, 31, True), (4, 3, False), (4, 4, True), (9, 3, False), (11, 4, True)],
)
def test_a_run_may_revoke_three_in_ten_owned_keys_and_always_three(live, revoked, refused) -> None:
    """The share is of the owned live keys, rounded down; three may always be revoked."""
    desired = tuple(desired_key(f"svc-{number}") for number in range(revoked, live))
    assert refusal_codes(many(live), desired or (desired_key("svc-other"),)) == (
        ["too_many_revocations"] if refused else []
    )


def test_dead_and_foreign_keys_do_not_raise_the_limit() -> None:
    """Only live owned keys count, without ignored ones: with ten others, 4 is too many."""
    others = [key(f"their-{number}") for number in range(10)]
    dead = [key(f"svc-dead-{number}", revoked_at=NOW) for number in range(10)]
    old = [key(f"svc-old-{number}", expires_at=NOW) for number in range(10)]
    desired = tuple(desired_key(f"svc-{number}") for number in range(4, 10))
    assert refusal_codes([*many(10), *others, *dead, *old], desired) == ["too_many_revocations"]
    assert refusal_codes([*many(10), *others, *dead, *old], (*desired, desired_key("svc-3"))) == []
    ignored = [key(f"svc-ignored-{number}") for number in range(10)]
    shop = replace(SHOP, ignore=("svc-ignored-*",))
    assert refusal_codes([*many(10), *ignored], desired, shop) == ["too_many_revocations"]


@pytest.mark.parametrize(
    ("guards", "max_revoke", "refused"),
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
def test_guards_set_the_limit_and_max_revoke_overrides_it(guards, max_revoke, refused) -> None:
    """5 of 10 owned keys are to be revoked; the limit is a share, a number, or --max-revoke."""
    desired = tuple(desired_key(f"svc-{number}") for number in range(5))
    shop = replace(SHOP, guards=guards)
    assert refusal_codes(many(10), desired, shop, max_revoke=max_revoke) == (
        ["too_many_revocations"] if refused else []
    )


@given(st.integers(0, 100), st.integers(0, 10_000))
def test_a_share_allows_three_or_its_part_and_0_percent_allows_none(percent, live) -> None:
    """It is never less than three except for 0 %, and never more than that part of all keys."""
    most = Guards(Share(percent)).revocation_limit(live)
    assert most == (max(3, live * percent // 100) if percent else 0)
    assert most <= max(3, live)


def test_an_environment_whose_manifests_all_vanished_loses_no_key() -> None:
    """No option overrides this: it is a wrong -m, or a deleted folder."""
    assert refusal_codes(many(1), ()) == ["manifests_vanished"]
    assert refusal_codes(many(1), (), max_revoke=100, allow_protected=True) == [
        "manifests_vanished"
    ]
    assert refusal_codes(many(1), (), options=PlanOptions()) == []
    assert refusal_codes([key("their")], ()) == []


def test_protected_keys_are_revoked_only_with_allow_protected() -> None:
    """This holds for a protected key, and for any key of a protected environment."""
    twins = [key("svc-a", 1), key("svc-a", 2)]
    desired = (desired_key("svc-a", protect=True),)
    assert refusal_codes(twins, desired, options=PlanOptions(dedupe=True)) == ["protected"]
    assert (
        refusal_codes(twins, desired, options=PlanOptions(dedupe=True), allow_protected=True) == []
    )
    assert refusal_codes(twins, (desired_key("svc-a"),), options=PlanOptions(dedupe=True)) == []
    safe = replace(SHOP, protect=True)
    assert refusal_codes(many(1), environment=safe) == ["protected"]
    assert refusal_codes(many(1), environment=safe, allow_protected=True) == []
    assert refusal_codes([key("svc-wanted")], environment=safe) == []


@pytest.mark.parametrize("direction", [1, -1])
def test_clocks_more_than_a_minute_apart_refuse_any_change(direction) -> None:
    """Expiries are set by our clock and judged by the server's; a run without changes goes on."""
    assert refusal_codes([], ahead=direction * timedelta(seconds=61)) == ["clock_off"]
    assert refusal_codes([], ahead=direction * timedelta(seconds=60)) == []
    assert refusal_codes([key("svc-wanted")], ahead=direction * timedelta(days=1)) == []


def test_a_requested_revocation_is_not_refused_because_of_a_clock() -> None:
    """`revoke` sets no expiry, and nobody can correct the clock of a server that is not theirs."""
    observation = observe(many(1), timedelta(hours=1))
    plan = plan_environment(SHOP, (), observation, NOW, PlanOptions(revoke=frozenset({"svc-0"})))
    assert len(plan.unblocked) == 1
    assert [*refusals(SHOP, (), observation, plan, GuardOverrides())] == []


def test_all_reasons_against_a_run_are_one_refusal() -> None:
    """It has the code of the first reason, and counts the sixth and later ones."""
    reasons = [RefusedError(f"code_{n}", f"Because {n}.", remedy=f"Fix {n}.") for n in range(7)]
    assert combine_refusals([]) is None
    assert combine_refusals(reasons[:1]) is reasons[0]
    both = combine_refusals(reasons[:2])
    assert both is not None
    assert (both.code, both.message) == ("code_0", "Because 0. Fix 0. Because 1. Fix 1.")
    many_more = combine_refusals(reasons)
    assert many_more is not None
    assert many_more.message.endswith("Because 4. Fix 4. And 2 more reasons.")
    five = combine_refusals(reasons[:5])
    assert five is not None
    assert five.message.endswith("Fix 4.")


def test_all_reasons_against_a_plan_are_reported() -> None:
    """They are reported together, so that nobody finds the next one only after fixing the first."""
    codes = refusal_codes(many(4), (), replace(SHOP, protect=True), ahead=timedelta(hours=1))
    assert codes == ["clock_off", "manifests_vanished", "too_many_revocations", "protected"]


def test_blocked_actions_do_not_count() -> None:
    """The plan does not carry them out, so they need no permission."""

    def block(planned: Planned) -> Planned:
        why = Failure("not_owned", "No.")
        actions = [one._replace(blocked=why) for one in planned.actions if isinstance(one, Revoke)]
        assert len(actions) == 4
        return replace(planned, actions=tuple(actions))

    assert refusal_codes(many(4)) == ["too_many_revocations"]
    assert refusal_codes(many(4), alter=block) == []


def test_predecessors_whose_successor_is_delivered_need_no_permission() -> None:
    """Nobody loses access by their revocation, so neither the limit nor a protection applies."""
    safe = replace(SHOP, guards=Guards(0), protect=True)

    def supersede(planned: Planned) -> Planned:
        actions = [one for one in planned.actions if isinstance(one, Revoke)]
        assert len(actions) == 4
        return replace(planned, actions=tuple(one._replace(reason="superseded") for one in actions))

    assert refusal_codes(many(4), environment=safe) == ["too_many_revocations", "protected"]
    assert refusal_codes(many(4), environment=safe, alter=supersede) == []


def test_of_several_older_keys_of_a_rotated_name_only_the_newest_is_its_predecessor() -> None:
    """No rotation created the others, so they need permission; the newest does not."""
    rotated = (desired_key("svc-a", rotation=rotation_with(49 * DAY, DAY, "49d"), deliver=(SINK,)),)
    keys = [key("svc-a", number, created_at=NOW - (9 - number) * DAY) for number in range(4)]
    keys = [replace(one, expires_at=NOW + (5 + 15 * n) * DAY) for n, one in enumerate(keys)]
    observation = observe(keys)
    sink_contents = {SINK: ApiKeyToken(keys[3].id, None)}
    safe = replace(SHOP, guards=Guards(1), protect=True)
    plan = plan_environment(
        safe, rotated, observation, NOW, PlanOptions(), sink_contents=sink_contents
    )
    assert len(plan.unblocked) == 3
    found = [error.code for error in refusals(safe, rotated, observation, plan, GuardOverrides())]
    assert found == ["too_many_revocations", "protected"]
    two = observe(keys[2:])
    plan = plan_environment(safe, rotated, two, NOW, PlanOptions(), sink_contents=sink_contents)
    assert len(plan.unblocked) == 1
    assert [*refusals(safe, rotated, two, plan, GuardOverrides())] == []


def test_a_refusal_gives_numbers_and_says_what_to_do() -> None:
    """It has the difference of the clocks, the counts, the first name and the number of others."""
    observation = observe(many(4), timedelta(seconds=90))
    safe = replace(SHOP, protect=True, guards=Guards(1))
    plan = plan_environment(safe, (), observation, NOW, PRUNE)
    clock, vanished, too_many, protected = refusals(safe, (), observation, plan, GuardOverrides())
    assert (clock.message, clock.remedy) == (
        "The clocks of this machine and of shop are 90 s apart.",
        "Correct the wrong clock: the expiry of new keys depends on it.",
    )
    assert (vanished.message, vanished.remedy) == (
        "The manifests no longer declare any keys for shop, and 4 of its keys would be revoked.",
        "Check -m and the manifests; to revoke the keys, use `provision revoke`.",
    )
    assert (too_many.message, too_many.remedy) == (
        "4 keys in shop would be revoked, but the limit is 1.",
        "Check the plan; if this is intended, use --max-revoke 4.",
    )
    assert (protected.message, protected.remedy) == (
        "'svc-0' and 3 more in shop are protected but would be revoked.",
        "If this is intended, use --allow-protected.",
    )
    two, one = (
        [
            *refusals(
                safe, (), observe(many(4)), replace(plan, actions=plan.actions[:count]), OVERRIDES
            )
        ]
        for count in (2, 1)
    )
    assert two[-1].message == "'svc-0' and 1 more in shop are protected but would be revoked."
    assert one[-1].message == "'svc-0' in shop is protected but would be revoked."


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (PlanOptions(prune=True, only=("x*",)), True),
        (PlanOptions(dedupe=True, only=("x*", "y*")), True),
        (PlanOptions(only=("x*",)), False),
        (PlanOptions(prune=True), False),
        (PlanOptions(prune=True, only=("svc-0",)), False),
        (PlanOptions(prune=True, only=("svc-wanted",)), False),
    ],
)
def test_globs_that_match_nothing_refuse_a_run_that_may_revoke(options, refused) -> None:
    """They match neither a live key nor a desired one, so the refusal names the globs."""
    plan = plan_environment(SHOP, (desired_key("svc-wanted"),), observe(many(2)), NOW, options)
    away = Unobserved("away", "https://a", Failure("unreachable", "No."))
    for plans in ((plan,), (away, plan)):
        found = nothing_selected(plans, options)
        assert (found is not None) is refused
        if found is not None:
            assert (found.code, f"--only {' '.join(options.only)}." in str(found)) == (
                "nothing_selected",
                True,
            )
    assert nothing_selected((away,), options) is None


@pytest.mark.parametrize("at_once", [True, False])
def test_predecessors_that_are_revoked_at_once_count(at_once) -> None:
    """`rotate --now` of four keys of four counts as much as revoking them."""
    shop = replace(SHOP, guards=Guards(3))
    desired = tuple(desired_key(f"svc-{number}") for number in range(4))

    def rotate_all(planned: Planned) -> Planned:
        found = plan_environment(shop, desired, observe([]), NOW, PlanOptions()).unblocked
        rotates = tuple(
            rotate(one, predecessors=(f"id-{one.name}-1",), at_once=at_once) for one in found
        )
        return replace(planned, actions=rotates)

    assert refusal_codes(many(4), desired, shop, alter=rotate_all) == (
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


def observed_at(
    name: str, url: str, workspace: str | None, *keys: ObservedKey
) -> tuple[Environment, Observation]:
    environment = replace(SHOP, name=name, url=url)
    return environment, replace(observe(keys), workspace=workspace)


def shared_names(*observed: tuple[Environment, Observation]) -> list[tuple[str, ...]]:
    return [names for names, _ in shared_workspaces(observed)]


@pytest.mark.parametrize("url", LOOPBACK)
def test_seeded_workspaces_of_one_server_are_the_same_however_it_is_written(url) -> None:
    """All spellings of an address lead to the same keys."""
    assert shared_names(observed_at("a", LOOPBACK[0], SEEDED), observed_at("b", url, SEEDED)) == [
        ("a", "b")
    ]


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
def test_seeded_workspaces_of_other_servers_are_different(url) -> None:
    """Every development server has the same id, so several of them are a valid setup."""
    assert (
        shared_names(observed_at("a", LOOPBACK[0], SEEDED), observed_at("b", url, SEEDED.upper()))
        == []
    )
    assert shared_names(observed_at("a", LOOPBACK[0], "w"), observed_at("b", url, "w")) == [
        ("a", "b")
    ]


@pytest.mark.parametrize(
    ("url", "other", "same"),
    [
        ("https://crm.test", "https://CRM.test:443/", True),
        ("http://crm.test", "http://crm.test.:80", True),
        ("http://crm.test", "https://crm.test", False),
        ("https://crm.test", "https://crm.test:444", False),
        ("http://crm.test", "http://crm.test:81", False),
        ("https://crm.test:80", "http://crm.test", True),
        ("sandbox:", "sandbox:", True),
        ("sandbox:", "https://crm.test", False),
    ],
)
def test_an_address_without_a_port_has_the_port_of_its_scheme(url, other, same) -> None:
    """`https` is 443 and `http` is 80, as in every client; the embedded Twenty has no host."""
    assert shared_names(observed_at("a", url, SEEDED), observed_at("b", other, SEEDED)) == (
        [("a", "b")] if same else []
    )


def test_an_id_that_is_not_seeded_is_one_workspace_at_any_address() -> None:
    """It has two names of one server, or is a copy that would follow the same manifests."""
    far, near = "https://crm.example.com", "https://crm.internal:8443"
    assert shared_names(
        observed_at("a", far, "W-1"), observed_at("b", near, "w-1"), observed_at("c", far, "w-2")
    ) == [("a", "b")]
    assert (
        shared_names(
            observed_at("a", far, None), observed_at("b", far, None), observed_at("c", far, "w")
        )
        == []
    )
    [(names, error)] = shared_workspaces([observed_at("a", far, "w"), observed_at("b", near, "w")])
    assert (names, error.code, error.exit_code) == (("a", "b"), "workspace_shared", 5)
    assert error.message == "a and b point to the same workspace, w."
    assert error.remedy.endswith("copies of one workspace, select them one at a time with -e.")


def test_seeded_workspaces_that_list_the_same_key_are_the_same() -> None:
    """DNS names say nothing, but a key that was created exists in no other workspace."""
    one, two = "http://twenty:3000", "https://crm.test"
    created = key("svc-a")
    assert shared_names(
        observed_at("a", one, SEEDED, created), observed_at("b", two, SEEDED, created)
    ) == [("a", "b")]
    for other in (
        replace(created, created_at=created.created_at + timedelta(milliseconds=1)),
        replace(created, id="another"),
    ):
        assert (
            shared_names(
                observed_at("a", one, SEEDED, created), observed_at("b", two, SEEDED, other)
            )
            == []
        )
    seeded = replace(created, id="20202020-aaaa-4d02-bf25-6aeccf7ea419")
    assert (
        shared_names(observed_at("a", one, SEEDED, seeded), observed_at("b", two, SEEDED, seeded))
        == []
    )


def test_all_names_of_one_workspace_are_reported_together() -> None:
    """This holds even if two of them are connected only through a third."""
    first, second = key("svc-a"), key("svc-b")
    observed = (
        observed_at("a", "http://a:1", SEEDED, first),
        observed_at("b", "http://b:1", SEEDED, second),
        observed_at("c", "http://c:1", SEEDED),
        observed_at("d", "http://d:1", SEEDED, first, second),
    )
    assert shared_names(*observed) == [("a", "b", "d")]
