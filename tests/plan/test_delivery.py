"""Deliveries depend only on the contents of sinks and on the live keys."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    NOW,
    SECOND,
    WORKER,
    command_sink,
    deliver,
    desired_key,
    environment_with,
    file_sink,
    github_sink,
    limits_with,
    observation_with,
    observed_key,
    plan_with,
    rotation_with,
    vault_sink,
)
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from provisioner import schemas
from provisioner.errors.failure import Failure
from provisioner.errors.problem import Place
from provisioner.model.observed import KnownRoles, NoRoles, Observation, ObservedKey, Roles
from provisioner.model.sink_content import ApiKeyToken, NotAToken, NoToken, Unavailable, Unreadable
from provisioner.plan import (
    Create,
    Deliver,
    DeliveryUnknown,
    Drift,
    Duplicate,
    Expiring,
    Plan,
    Planned,
    PlanOptions,
    Rotate,
    Unmanaged,
    Unobserved,
    block_actions,
    digest,
    plan_environment,
    sinks_to_check,
    sinks_to_read,
)
from provisioner.plan.delivery import holds_good_token
from provisioner.render.outcome.json import plan_document
from provisioner.render.outcome.rows import plan_summary
from provisioner.render.outcome.text import plan_text
from provisioner.render.text import PLAIN
from provisioner.sinks.aws import AwsAddress
from provisioner.sinks.command import CommandAddress
from provisioner.sinks.file import FileAddress
from provisioner.sinks.github import GithubAddress
from provisioner.sinks.gitlab import GitlabAddress
from provisioner.sinks.kubernetes import KubernetesAddress
from provisioner.sinks.vault import VaultAddress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan import Action

pytestmark = pytest.mark.fast

CREATED_AT = NOW - timedelta(days=1)
EXPIRES_AT = NOW + timedelta(days=90, milliseconds=417)
SHOP = environment_with(role="Worker")
ROLES = KnownRoles((WORKER,))

FILE = file_sink("secrets/shop.env")
VAULT = vault_sink("shop/a")
GITHUB = github_sink()
COMMAND = command_sink()
DOWN = Failure(
    "sink_unavailable", "vault secret/shop/a token did not answer. Run the command again."
)
DENIED = Failure("sink_denied", "github acme/billing A is refused. Check the token.")


def key(name: str, number: int = 1, **changes: Any) -> ObservedKey:
    return observed_key(name, number, **({"expires_at": EXPIRES_AT} | changes))


def observe(*keys: ObservedKey, roles: Roles = ROLES, server_time: datetime = NOW) -> Observation:
    return observation_with(*keys, roles=roles, server_time=server_time, requests=2)


def planned(
    declared: Iterable[DesiredKey],
    observed: Observation,
    sink_contents: Mapping[Address, SinkContent] | None = None,
    *,
    redeliver: bool = False,
    only: tuple[str, ...] = (),
) -> Planned:
    options = PlanOptions(only=only, redeliver=redeliver)
    return plan_environment(
        SHOP, declared, observed, NOW, options, sink_contents=sink_contents or {}
    )


def delivery_of(
    sink_contents: SinkContent, *, observed: ObservedKey | None = None, redeliver: bool = False
) -> Action | None:
    """Return the action for one live key with one sink; None if it is kept, without a finding."""
    plan = planned(
        [desired_key("a", FILE)],
        observe(observed or key("a")),
        {FILE: sink_contents},
        redeliver=redeliver,
    )
    assert plan.kept == (() if plan.actions else ("a",))
    assert plan.findings == ()
    return plan.actions[0] if plan.actions else None


# --- Reasons -------------------------------------------------------------------------------------

MINUTE = timedelta(seconds=60)


@pytest.mark.parametrize(
    ("sink_contents", "reason", "blocked"),
    [
        (NoToken(), "token_missing", None),
        (NotAToken(), "token_invalid", None),
        (ApiKeyToken("id-b-1", None), "token_dead", None),
        (ApiKeyToken("id-a-1", EXPIRES_AT - MINUTE - SECOND), "token_expiring", None),
        (Unreadable(CREATED_AT - MINUTE), "token_outdated", None),
        (Unavailable(DOWN), "sink_unusable", DOWN),
    ],
)
def test_a_sink_without_a_good_token_gets_a_token_of_the_live_key(
    sink_contents: SinkContent, reason: str, blocked: Failure | None
) -> None:
    """The action has the id, expiry and role of the live key, and the position in the manifest."""
    observed = key("a", role="Admin", role_id="other")
    plan = planned([desired_key("a", FILE, depth=2)], observe(observed), {FILE: sink_contents})
    assert plan.kept == ()
    assert plan.actions == (
        deliver(
            "a",
            FILE,
            reason=reason,
            depth=2,
            expires_at=EXPIRES_AT,
            role="Admin",
            key_id="id-a-1",
            place=Place("manifests/a.yaml", 7, 3),
            blocked=blocked,
        ),
    )


@pytest.mark.parametrize(
    "sink_contents",
    [
        ApiKeyToken("id-a-1", None),
        ApiKeyToken("id-a-1", EXPIRES_AT),
        ApiKeyToken("id-a-1", EXPIRES_AT.replace(microsecond=0)),
        ApiKeyToken("id-a-1", EXPIRES_AT + timedelta(days=9)),
        ApiKeyToken("ID-A-1", None),
        Unreadable(CREATED_AT + SECOND - MINUTE),
        Unreadable(NOW),
    ],
)
def test_a_sink_with_a_good_token_is_not_written(sink_contents: SinkContent) -> None:
    """Ids are compared without case, and a token that never expires outlives its key."""
    assert delivery_of(sink_contents) is None
    assert delivery_of(sink_contents, observed=key("a", id="Id-A-1")) is None


@pytest.mark.parametrize(
    ("sink_contents", "good"),
    [
        (ApiKeyToken("ID-A-1", EXPIRES_AT), True),
        (ApiKeyToken("id-a-1", EXPIRES_AT - MINUTE - SECOND), False),
        (ApiKeyToken("id-b-1", EXPIRES_AT), False),
        (NoToken(), False),
        (NotAToken(), False),
        (Unavailable(DOWN), False),
        (Unreadable(None), False),
        (Unreadable(CREATED_AT + SECOND - MINUTE), True),
        (Unreadable(NOW, only_writes=False), False),
        (Unreadable(CREATED_AT - MINUTE), False),
    ],
)
def test_a_token_is_good_only_if_that_is_known(sink_contents: SinkContent, good: bool) -> None:
    """A report says `yes` for a sink only if its content or timestamp shows a good token."""
    assert holds_good_token(sink_contents, key("a")) is good


def test_a_token_may_expire_60_seconds_before_its_key_and_no_earlier() -> None:
    """The token's expiry is in whole seconds; the key's has milliseconds."""
    last = EXPIRES_AT - MINUTE
    assert delivery_of(ApiKeyToken("id-a-1", last)) is None
    early = delivery_of(ApiKeyToken("id-a-1", last - timedelta(microseconds=1)))
    assert early is not None
    assert early.reason == "token_expiring"


def test_a_timestamp_may_be_a_minute_before_the_create_as_clocks_may_differ() -> None:
    """A sink that has not changed since the create does not hold a token of the key."""
    created = key("a", created_at=CREATED_AT + timedelta(milliseconds=900))
    timestamp = created.created_at - MINUTE
    assert delivery_of(Unreadable(timestamp), observed=created) is None
    unclear = Unreadable(timestamp, only_writes=False)
    assert planned([desired_key("a", FILE)], observe(created), {FILE: unclear}).actions == ()
    for only_writes in (True, False):
        before = delivery_of(
            Unreadable(timestamp - timedelta(microseconds=1), only_writes), observed=created
        )
        assert before is not None
        assert before.reason == "token_outdated"


@pytest.mark.parametrize("seconds", [-50, 0, 50])
def test_the_timestamps_of_sinks_and_keys_are_compared_by_the_same_clock(seconds) -> None:
    """This machine's clock dates the sink, the server's clock dates the keys."""
    ahead = timedelta(seconds=seconds)
    observed = replace(observe(key("a")), server_ahead=ahead)
    created = CREATED_AT + SECOND - ahead  # by our clock
    for early, reasons in ((MINUTE, []), (MINUTE + SECOND, ["token_outdated"])):
        plan = planned([desired_key("a", GITHUB)], observed, {GITHUB: Unreadable(created - early)})
        assert [one.reason for one in plan.actions] == reasons


@pytest.mark.parametrize(
    "sink_contents",
    [
        ApiKeyToken("id-a-1", EXPIRES_AT),
        NoToken(),
        Unreadable(None),
        Unreadable(NOW),
        Unavailable(DOWN),
    ],
)
def test_redeliver_replaces_every_token(
    sink_contents: SinkContent,
) -> None:
    """The reason is the option; a sink that could not be read does not block it."""
    action = delivery_of(sink_contents, redeliver=True)
    assert isinstance(action, Deliver)
    assert (action.reason, action.sinks, action.blocked) == ("redeliver", (FILE,), None)
    unseen = planned([desired_key("a", FILE, VAULT)], observe(key("a")), redeliver=True)
    assert [one.sinks for one in unseen.actions] == [(FILE, VAULT)]
    assert unseen.findings == ()


# --- Several sinks, several keys -----------------------------------------------------------------


def test_of_several_sinks_only_those_without_a_good_token_are_written() -> None:
    """They are in the order of the manifest; the reason is that of the first."""
    sink_contents = {
        FILE: ApiKeyToken("id-a-1", None),
        VAULT: NotAToken(),
        GITHUB: Unreadable(NOW),
        COMMAND: NoToken(),
    }
    [action] = planned(
        [desired_key("a", FILE, VAULT, GITHUB, COMMAND)], observe(key("a")), sink_contents
    ).actions
    assert (action.sinks, action.reason) == ((VAULT, COMMAND), "token_invalid")
    [action] = planned(
        [desired_key("a", COMMAND, GITHUB, VAULT, FILE)], observe(key("a")), sink_contents
    ).actions
    assert (action.sinks, action.reason) == ((COMMAND, VAULT), "token_missing")


def test_a_sink_that_cannot_be_read_blocks_its_key_with_its_failure() -> None:
    """The first of several failures counts, even if another sink gave the reason."""
    sink_contents = {FILE: NoToken(), VAULT: Unavailable(DOWN), GITHUB: Unavailable(DENIED)}
    declared = [desired_key("a", FILE, VAULT, GITHUB), desired_key("b", GITHUB, VAULT)]
    first, second = planned(declared, observe(key("a"), key("b")), sink_contents).actions
    assert (first.reason, first.sinks) == ("token_missing", (FILE, VAULT, GITHUB))
    assert (first.blocked, second.blocked) == (DOWN, DENIED)
    assert second.reason == "sink_unusable"
    sink_contents = {FILE: ApiKeyToken("id-a-1", None), VAULT: Unavailable(DOWN)}
    [action] = planned([desired_key("a", FILE, VAULT)], observe(key("a")), sink_contents).actions
    assert (action.sinks, action.blocked) == ((VAULT,), DOWN)


def test_a_token_of_any_live_key_of_the_name_is_good() -> None:
    """It must last as long as its own key; a new token is of the delivered or the oldest key."""
    oldest = key("a", 1)
    second = key("a", 2, expires_at=NOW + timedelta(days=30))
    dead = key("a", 3, revoked_at=NOW)
    declared, observed = [desired_key("a", FILE)], observe(dead, second, oldest)

    def found(sink_contents: SinkContent) -> list[tuple[str, str]]:
        return [
            (one.reason, one.key_id)
            for one in planned(declared, observed, {FILE: sink_contents}).actions
            if isinstance(one, Deliver)
        ]

    assert found(ApiKeyToken(oldest.id, EXPIRES_AT)) == []
    assert found(ApiKeyToken(second.id, second.expires_at)) == []
    assert found(ApiKeyToken(second.id, second.expires_at - MINUTE - SECOND)) == [
        ("token_expiring", second.id)
    ]
    assert found(ApiKeyToken(oldest.id, second.expires_at)) == [("token_expiring", oldest.id)]
    assert found(ApiKeyToken(dead.id, EXPIRES_AT)) == [("token_dead", oldest.id)]
    assert found(Unreadable(oldest.created_at)) == []
    early = oldest.created_at - MINUTE - SECOND
    assert found(Unreadable(early)) == [("token_outdated", oldest.id)]


def test_a_key_that_is_created_again_is_delivered_to_all_its_sinks() -> None:
    """The tokens of a dead key in the sinks do not matter."""
    dead = key("a", revoked_at=NOW)
    sink_contents = {FILE: ApiKeyToken(dead.id, EXPIRES_AT), VAULT: Unavailable(DOWN)}
    plan = planned([desired_key("a", FILE, VAULT)], observe(dead), sink_contents)
    [action] = plan.actions
    assert isinstance(action, Create)
    assert (action.reason, action.sinks, action.blocked) == ("dead", (FILE, VAULT), None)
    assert plan.findings == ()


def test_a_live_key_without_sinks_is_kept_even_with_redeliver() -> None:
    """There is no sink to deliver to."""
    plan = planned([desired_key("a")], observe(key("a")), redeliver=True)
    assert (plan.actions, plan.kept, plan.notes) == ((), ("a",), ())


# --- Unknown contents ----------------------------------------------------------------------------


def test_a_sink_of_unknown_content_is_a_finding_and_no_action() -> None:
    """This includes a sink that was not read, and one whose timestamp other changes move."""
    declared = [desired_key("a", COMMAND, GITHUB, VAULT, FILE)]
    sink_contents = {
        COMMAND: Unreadable(None),
        GITHUB: Unreadable(NOW),
        VAULT: Unreadable(NOW, only_writes=False),
    }
    plan = planned(declared, observe(key("a"), key("a", 2)), sink_contents)
    assert (plan.actions, plan.kept) == ((), ("a",))
    unknown = DeliveryUnknown("a", ("id-a-1",), (COMMAND, VAULT, FILE))
    ids = ("id-a-1", "id-a-2")
    assert plan.findings == (Duplicate("a", ids, "id-a-1", "not_owned"), unknown)
    assert unknown.message == (
        f"Delivery of its token to command store a, {VAULT}, file secrets/shop.env A cannot be "
        "verified. "
        "Use --redeliver to deliver a new token."
    )


def test_a_key_may_have_a_delivery_and_a_finding() -> None:
    """Each of them names its own sinks."""
    sink_contents = {COMMAND: Unreadable(None), FILE: NoToken()}
    plan = planned([desired_key("a", COMMAND, FILE)], observe(key("a")), sink_contents)
    assert [one.sinks for one in plan.actions] == [(FILE,)]
    assert plan.findings == (DeliveryUnknown("a", ("id-a-1",), (COMMAND,)),)


# --- Order ---------------------------------------------------------------------------------------


def test_actions_kept_keys_and_findings_are_in_the_order_of_the_manifests() -> None:
    """Creates and deliveries are mixed; each key has duplicate, drift, expiry, then delivery."""
    soon = NOW + timedelta(days=7)
    observed = observe(
        key("stranger"),
        key("kept-2"),
        key("late", 1, expires_at=soon, role="Admin", role_id="x"),
        key("late", 2, expires_at=soon),
        key("lost"),
        key("kept-1"),
        key("unknown"),
    )
    file = {name: FileAddress("a.env", name.upper()) for name in ("lost", "kept-1", "kept-2")}
    declared = [
        desired_key("kept-2", file["kept-2"]),
        desired_key("new-2"),
        desired_key("unknown", COMMAND),
        desired_key("lost", file["lost"]),
        desired_key("late", VAULT, expiry="2027-06-30"),
        desired_key("new-1", GITHUB),
        desired_key("kept-1", file["kept-1"]),
    ]
    sink_contents = {
        file["kept-1"]: ApiKeyToken("id-kept-1-1", EXPIRES_AT),
        file["kept-2"]: ApiKeyToken("id-kept-2-1", EXPIRES_AT),
        file["lost"]: NoToken(),
        VAULT: Unreadable(None),
    }
    plan = planned(declared, observed, sink_contents)
    assert [one.name for one in plan.actions] == ["new-2", "lost", "new-1"]
    assert plan.kept == ("kept-2", "unknown", "late", "kept-1")
    assert [(type(one), one.name) for one in plan.findings] == [
        (DeliveryUnknown, "unknown"),
        (Duplicate, "late"),
        (Drift, "late"),
        (Drift, "late"),
        (Expiring, "late"),
        (DeliveryUnknown, "late"),
        (Unmanaged, "stranger"),
    ]


# --- Sinks to read and to check ------------------------------------------------------------------


def test_only_sinks_of_live_keys_are_read() -> None:
    """They are in the order of the manifests; the server's clock decides which keys are live."""
    declared = [
        desired_key("a", FILE, VAULT),
        desired_key("none"),
        desired_key("missing", COMMAND),
        desired_key("dead", AwsAddress("dead")),
        desired_key("over", AwsAddress("over")),
        desired_key("b", GITHUB),
    ]
    keys = [key("b"), key("a"), key("a", 2, revoked_at=NOW), key("dead", revoked_at=NOW)]
    keys += [key("none"), key("over", expires_at=NOW + SECOND), key("stranger")]
    assert sinks_to_read(declared, observe(*keys, server_time=NOW + SECOND)) == (
        FILE,
        VAULT,
        GITHUB,
    )
    assert sinks_to_read(declared, observe(*keys)) == (FILE, VAULT, AwsAddress("over"), GITHUB)
    assert sinks_to_read(declared, observe()) == ()


def test_only_limits_the_sinks_to_read_and_to_write() -> None:
    """Sinks of names that no glob matches are not read; globs are case-sensitive."""
    declared = [desired_key("svc-a", FILE), desired_key("SVC-b", GITHUB), desired_key("web", VAULT)]
    observed = observe(key("svc-a"), key("SVC-b"), key("web"))
    assert sinks_to_read(declared, observed, PlanOptions(only=("svc-*", "w?b"))) == (FILE, VAULT)
    assert sinks_to_read(declared, observed, PlanOptions(only=("x",))) == ()
    sink_contents = dict.fromkeys((FILE, GITHUB, VAULT), NoToken())
    assert [
        one.name for one in planned(declared, observed, sink_contents, only=("svc-*",)).actions
    ] == ["svc-a"]
    second_plan = planned(declared, observed, only=("SVC-*",), redeliver=True)
    assert [one.name for one in second_plan.actions] == ["SVC-b"]


def test_sinks_that_will_be_written_are_checked() -> None:
    """Those of creates and deliveries are, and those of blocked actions are not."""
    declared = [
        desired_key("new", FILE, VAULT),
        desired_key("odd", AwsAddress("odd"), role="Nobody"),
        desired_key("live", COMMAND, GITHUB),
        desired_key("closed", GitlabAddress("acme/web", "A")),
    ]
    sink_contents = {
        COMMAND: NoToken(),
        GITHUB: Unreadable(NOW),
        declared[3].deliver[0]: Unavailable(DOWN),
    }
    plan = planned(declared, observe(key("live"), key("closed")), sink_contents)
    assert sinks_to_check(plan) == (FILE, VAULT, COMMAND)


def test_a_sink_that_cannot_take_a_token_blocks_only_its_keys() -> None:
    """The failure is that of the first such sink; a blocked action keeps its failure."""
    declared = [
        desired_key("new", FILE, VAULT, GITHUB),
        desired_key("odd", VAULT, role="Nobody"),
        desired_key("live", VAULT),
        desired_key("free", COMMAND),
        desired_key("kept"),
    ]
    plan = planned(declared, observe(key("live"), key("kept")), {VAULT: NoToken()})
    blocked = block_actions(plan, {GITHUB: DENIED, VAULT: DOWN})
    assert [one.blocked and one.blocked.code for one in blocked.actions] == [
        "sink_unavailable",
        "role_unknown",
        "sink_unavailable",
        None,
    ]
    assert blocked.actions[0].blocked == DOWN
    assert [one._replace(blocked=None) for one in blocked.actions] == [
        one._replace(blocked=None) for one in plan.actions
    ]
    assert replace(blocked, actions=plan.actions) == plan
    assert block_actions(plan, {}) == plan
    assert block_actions(plan, {AwsAddress("other"): DENIED}) == plan


@pytest.mark.parametrize(
    ("requested", "unavailable", "proceeds"),
    [(False, (VAULT,), True), (False, (VAULT, FILE), False), (True, (VAULT,), False)],
)
def test_an_unavailable_sink_does_not_block_a_due_rotation(
    requested, unavailable, proceeds
) -> None:
    """The old key expires in any case; a requested rotation needs all its sinks."""
    rotation = rotation_with()
    declared = desired_key("a", FILE, VAULT)._replace(rotation=rotation)
    old = key("a", expires_at=NOW + timedelta(days=5))
    environment = replace(SHOP, owns=("*",))
    options = PlanOptions(rotate=frozenset({"a"}) if requested else frozenset())
    sink_contents = {FILE: ApiKeyToken(old.id, None), VAULT: Unavailable(DOWN)}
    plan = plan_environment(
        environment, [declared], observe(old), NOW, options, sink_contents=sink_contents
    )
    part = block_actions(plan, dict.fromkeys(unavailable, DOWN))
    [rotate] = part.actions
    assert isinstance(rotate, Rotate)
    assert (rotate.blocked is None) == proceeds
    assert any("sink_unavailable: vault" in note for note in part.notes) == proceeds


# --- Notes and estimates -------------------------------------------------------------------------


def test_new_keys_without_a_sink_are_noted() -> None:
    """Live keys, blocked keys and keys with a sink do not count."""

    def notes(*declared: DesiredKey) -> tuple[str, ...]:
        return planned(declared, observe(key("there"))).notes

    rest = "add one under `deliver`, or mint a token with `provision token NAME --to FILE`"
    fine = (desired_key("a", FILE), desired_key("there"), desired_key("odd", role="Nobody"))
    assert notes(*fine) == ()
    assert notes(desired_key("b"), *fine) == (f"no sink receives the token for 1 key; {rest}",)
    assert notes(desired_key("b"), desired_key("c"), *fine) == (
        f"no sink receives the tokens for 2 keys; {rest}",
    )


def test_changes_count_actions_and_steps_count_their_parts() -> None:
    """A create and its delivery are a step each; blocked actions do not count."""
    declared = [
        desired_key("bare"),
        desired_key("new", FILE, GITHUB),
        desired_key("live", VAULT),
        desired_key("odd", role="Nobody"),
        desired_key("kept"),
    ]
    part = planned(declared, observe(key("live"), key("kept")), {VAULT: NoToken()})
    unobserved = Unobserved("lab", "https://lab.example.com", DOWN)
    assert (plan_with(part, unobserved, part).changes, plan_with(part).changes) == (6, 3)
    assert (plan_with(part, unobserved, part).steps, plan_with(part).steps) == (8, 4)
    closed = block_actions(part, {VAULT: DOWN, FILE: DOWN})
    assert (plan_with(closed).changes, plan_with(closed).steps) == (1, 1)
    assert plan_summary(part) == {
        "create": 2,
        "update": 0,
        "rename": 0,
        "rotate": 0,
        "deliver": 1,
        "revoke": 0,
        "clean": 0,
        "keep": 1,
        "findings": 0,
    }
    assert [plan_summary(closed)[kind] for kind in ("create", "deliver")] == [1, 0]


@pytest.mark.parametrize("roles", [ROLES, NoRoles()])
def test_a_delivery_takes_two_requests_however_many_sinks_it_has(roles: Roles) -> None:
    """One mints and one verifies the token, 0.05 s each; a blocked delivery takes none.

    On legacy, one request mints the tokens of 20 deliveries.
    """

    def cost(*declared: DesiredKey, sink_contents: SinkContent | None = None) -> tuple[int, float]:
        found = dict.fromkeys((FILE, VAULT), sink_contents or NoToken())
        observed = observe(key("live-1"), key("live-2"), roles=roles)
        part = planned(declared, observed, found)
        return part.estimate.requests, part.estimate.seconds

    assert cost() == (2, 0.1)
    assert cost(desired_key("live-1", FILE), sink_contents=Unreadable(None)) == (2, 0.1)
    assert cost(desired_key("live-1", FILE), sink_contents=Unavailable(DOWN)) == (2, 0.1)
    assert cost(desired_key("live-1", FILE, VAULT)) == (4, 0.2)
    both = cost(desired_key("live-1", FILE), desired_key("live-2", VAULT))
    assert both == ((5, 0.25) if roles == NoRoles() else (6, 0.3))
    many = cost(*(desired_key(f"new-{number}", FILE) for number in range(21)))[0]
    without = cost(*(desired_key(f"new-{number}") for number in range(21)))[0]
    assert many - without == 21 + (2 if roles == NoRoles() else 21)
    requests, seconds = cost(desired_key("new"))
    more, longer = cost(desired_key("new", FILE, VAULT))
    assert (more - requests, round(longer - seconds, 9)) == (2, 0.1)


def test_deliveries_count_against_the_declared_rate() -> None:
    """After the first burst, only that many requests are sent in a minute."""
    shop = replace(SHOP, limits=limits_with(requests_per_minute=10))
    declared = [desired_key(f"k{n}", FileAddress("a.env", f"K{n}")) for n in range(34)]
    observed = observe(*(key(one.name) for one in declared))
    part = plan_environment(shop, declared, observed, NOW, PlanOptions(redeliver=True))
    assert part.estimate.requests == 70
    assert part.estimate.seconds == 360.0


# --- The digest ----------------------------------------------------------------------------------


def digest_of(
    *declared: DesiredKey, sink_contents: Mapping[Address, SinkContent] | None = None
) -> str:
    part = planned(declared, observe(key("live")), sink_contents)
    return digest((part,), {"shop": declared})


def test_the_digest_covers_the_sinks() -> None:
    """Every part of an address and every sink counts; the order of keys and sinks does not."""
    other = desired_key("b", VAULT)
    first = digest_of(desired_key("a", FILE, COMMAND), other)
    assert digest_of(other, desired_key("a", FILE, COMMAND)) == first
    assert digest_of(other, desired_key("a", COMMAND, FILE)) == first
    different = [
        digest_of(desired_key("a", FILE), other),
        digest_of(desired_key("a"), other),
        digest_of(desired_key("a", FILE, COMMAND), desired_key("b")),
        digest_of(desired_key("a", FILE, VAULT), desired_key("b", COMMAND)),
        digest_of(desired_key("a", FileAddress(FILE.path, "B"), COMMAND), other),
        digest_of(desired_key("a", FileAddress("other.env", "A"), COMMAND), other),
        digest_of(desired_key("a", FileAddress(FILE.path, "A", "json"), COMMAND), other),
        digest_of(desired_key("a", FILE, CommandAddress(("store", "a"), ("check",))), other),
        digest_of(desired_key("a", FILE, CommandAddress(("store a",))), other),
        digest_of(
            desired_key("a", FILE, COMMAND), desired_key("b", VaultAddress("secret", "shop", "a"))
        ),
    ]
    assert len({first, *different}) == len(different) + 1


def test_the_digest_covers_the_sinks_of_kept_keys() -> None:
    """A review covers them even if the plan has no action for the key."""

    def of(*declared: DesiredKey) -> str:
        good = ApiKeyToken("id-live-1", None)
        sink_contents = {address: good for one in declared for address in one.deliver}
        part = planned(declared, observe(key("live")), sink_contents)
        assert part.actions == ()
        return digest((part, Unobserved("lab", "https://lab", DOWN)), {"shop": declared})

    first = of(desired_key("live", FILE, VAULT))
    assert of(desired_key("live", VAULT, FILE)) == first
    different = [
        of(),
        of(desired_key("live")),
        of(desired_key("live", FILE)),
        of(desired_key("live", FileAddress(FILE.path, "A", "json"), VAULT)),
    ]
    assert len({first, *different}) == len(different) + 1


def test_the_digest_covers_deliveries() -> None:
    """Sinks, keys and failures count; reasons do not."""
    declared = desired_key("live", FILE, VAULT)

    def of(file: SinkContent, vault: SinkContent) -> str:
        return digest_of(declared, sink_contents={FILE: file, VAULT: vault})

    good = ApiKeyToken("id-live-1", None)
    first = of(NoToken(), good)
    assert of(NotAToken(), good) == first
    assert of(NoToken(), Unreadable(NOW)) == first
    second = planned([declared], observe(key("live", 2)), {FILE: NoToken(), VAULT: Unreadable(NOW)})
    different = [
        of(good, good),
        of(good, NoToken()),
        of(NoToken(), NoToken()),
        of(Unavailable(DOWN), good),
        of(Unavailable(DENIED), good),
        digest((second,), {"shop": (declared,)}),
    ]
    assert len({first, *different}) == len(different) + 1


# --- Documents and text --------------------------------------------------------------------------


def full_plan() -> Plan:
    """Return a plan with creates, deliveries, a blocked delivery and a finding."""
    bare = desired_key("bare", line=1)
    new = desired_key("new", FILE, KubernetesAddress("web", "tokens"), line=2)
    empty = desired_key("lost\x1b[2J", VaultAddress("secret", "a\x1b[2J"), line=3)
    closed = desired_key("closed", GITHUB, line=4)
    blind = desired_key("blind", COMMAND, line=5)
    observed = observe(*(key(one.name) for one in (empty, closed, blind)))
    sink_contents = {
        empty.deliver[0]: NoToken(),
        GITHUB: Unavailable(DENIED),
        COMMAND: Unreadable(None),
    }
    declared = (bare, new, empty, closed, blind)
    part = planned(declared, observed, sink_contents)
    return plan_with(part, digest=digest((part,), {"shop": declared}))


def test_the_document_of_a_plan_with_deliveries_follows_its_schema() -> None:
    """It has the sinks of each token, and why a delivery is blocked."""
    document = json.loads(json.dumps(plan_document(full_plan())))
    Draft202012Validator(
        schemas.load("plan"), format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)
    [environment] = document["environments"]
    bare, new, empty, closed = environment["actions"]
    assert (bare["action"], bare["sinks"]) == ("create", [])
    assert new["sinks"] == ["file secrets/shop.env A", "kubernetes web/tokens token"]
    assert empty == {
        "action": "deliver",
        "name": "lost\x1b[2J",
        "reason": "token_missing",
        "depth": 1,
        "expires_at": "2027-02-21T04:00:00Z",
        "role": "Worker",
        "manifest": "manifests/a.yaml",
        "line": 3,
        "sinks": ["vault secret/a\x1b[2J token"],
        "ids": ["id-lost\x1b[2J-1"],
        **dict.fromkeys(("description", "owner", "ticket")),
    }
    assert closed["error"] == {"code": DENIED.code, "message": DENIED.message}
    assert environment["summary"] == {
        "create": 2,
        "update": 0,
        "rename": 0,
        "rotate": 0,
        "deliver": 1,
        "revoke": 0,
        "clean": 0,
        "keep": 1,
        "findings": 1,
    }
    assert environment["findings"] == [
        {
            "finding": "delivery_unknown",
            "name": "blind",
            "ids": ["id-blind-1"],
            "message": "Delivery of its token to command store a cannot be verified. "
            "Use --redeliver to deliver a new token.",
        }
    ]


def test_the_text_of_a_plan_shows_the_sinks_of_each_token() -> None:
    """Deliveries have their own mark and reason; control characters are escaped."""
    lines = plan_text(full_plan(), PLAIN).splitlines()
    assert [line[:5] for line in lines if line.startswith("  ") and line[2] in "+>!=?"] == [
        "  + b",
        "  + n",
        "  > l",
        "  ! c",
        "  = 1",
        "  ? d",
    ]
    found = {line.split()[1]: " ".join(line.split()[2:]) for line in lines[1:5]}
    expires = "expires 2027-02-21T04:00:00Z role Worker"
    assert found == {
        "bare": f"depth 1 {expires} no sink manifests/a.yaml:1",
        "new": f"depth 1 {expires} file secrets/shop.env A, kubernetes web/tokens token "
        "manifests/a.yaml:2",
        "lost\\x1b[2J": f"deliver, token missing {expires} vault secret/a\\x1b[2J token "
        "manifests/a.yaml:3",
        "closed": f"deliver, sink unusable {expires} github acme/billing A manifests/a.yaml:4",
    }
    assert lines[5] == f"    sink_denied: {DENIED.message}"
    assert "Plan: 2 to create, 1 to deliver, 1 to keep, 1 blocked, 1 finding." in (lines[-1])
    only = planned([desired_key("live", FILE)], observe(key("live")), {FILE: NoToken()})
    assert plan_text(plan_with(only), PLAIN).splitlines()[-1] == (
        "Plan: 0 to create, 1 to deliver, 0 to keep. About 4 requests and 0.2 s."
    )


def test_a_plan_without_sinks_has_no_column_for_them() -> None:
    """The output is the same as before sinks existed."""
    part = planned([desired_key("a"), desired_key("b")], observe())
    text = plan_text(plan_with(part), PLAIN)
    assert "sink" not in text
    assert "deliver" not in text


# --- Any contents of sinks -----------------------------------------------------------------------

NAMES = [f"name-{number}" for number in range(4)]
KINDS = ("file", "vault", "github", "command")


def sinks_of(name: str, kinds: Iterable[str]) -> tuple[Address, ...]:
    """Return the sinks of a key: two can be read, one has a timestamp, one is write-only."""
    sinks: dict[str, Address] = {
        "file": FileAddress("a.env", name),
        "vault": VaultAddress("secret", name),
        "github": GithubAddress("acme", name),
        "command": CommandAddress(("store", name)),
    }
    return tuple(sinks[kind] for kind in kinds)


TIMESTAMPS = st.sampled_from(
    [
        CREATED_AT - MINUTE,
        CREATED_AT + SECOND,
        NOW,
        EXPIRES_AT - MINUTE - SECOND,
        EXPIRES_AT - MINUTE,
        EXPIRES_AT,
    ]
)
IDS = st.sampled_from([f"id-{name}-{number}" for name in NAMES for number in (1, 2, 3)])
FAULTY = st.sampled_from([NoToken(), NotAToken(), Unavailable(DOWN)])
CONTENTS = {
    "file": FAULTY | st.builds(ApiKeyToken, IDS, st.none() | TIMESTAMPS),
    "vault": FAULTY | st.builds(ApiKeyToken, IDS.map(str.upper), st.none() | TIMESTAMPS),
    "github": st.sampled_from([NoToken(), Unavailable(DENIED)]) | st.builds(Unreadable, TIMESTAMPS),
    "command": st.just(Unreadable(None)),
}


@st.composite
def worlds(
    draw: st.DrawFn,
) -> tuple[list[DesiredKey], list[ObservedKey], dict[Address, SinkContent]]:
    """Draw desired keys with sinks, keys of their names, and the contents of the sinks."""
    declared: list[DesiredKey] = []
    sink_contents: dict[Address, SinkContent] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        kinds = draw(st.lists(st.sampled_from(KINDS), unique=True))
        declared.append(desired_key(name, *sinks_of(name, kinds)))
        sink_contents |= {
            address: draw(CONTENTS[kind])
            for kind, address in zip(kinds, declared[-1].deliver, strict=True)
        }
    observed = draw(
        st.lists(
            st.builds(
                key,
                st.sampled_from(NAMES),
                st.integers(1, 3),
                revoked_at=st.sampled_from([None, None, NOW]),
                expires_at=st.sampled_from([NOW, EXPIRES_AT - timedelta(days=1), EXPIRES_AT]),
            ),
            max_size=9,
            unique_by=lambda one: one.id,
        )
    )
    return declared, observed, sink_contents


def key_of(
    declared: DesiredKey, live: list[ObservedKey], sink_contents: Mapping[Address, SinkContent]
) -> ObservedKey:
    """Return the newest key whose token a sink holds, or else the oldest."""
    found = [sink_contents[sink] for sink in declared.deliver]
    token_ids = {one.key.lower() for one in found if isinstance(one, ApiKeyToken)}
    return next((one for one in reversed(live) if one.id in token_ids), live[0])


def is_good(sink_contents: SinkContent, live: list[ObservedKey], key: ObservedKey) -> bool:
    """Return whether a token is good, as the docs define it, in an independent implementation."""
    if isinstance(sink_contents, ApiKeyToken):
        expiries = {one.id.lower(): one.expires_at for one in live}
        key_expires_at = expiries.get(sink_contents.key.lower())
        never = datetime.max.replace(tzinfo=UTC)
        return (
            key_expires_at is not None
            and (key_expires_at - (sink_contents.expires_at or never)) <= MINUTE
        )
    if isinstance(sink_contents, Unreadable):
        return (
            sink_contents.updated_at is None or sink_contents.updated_at >= key.created_at - MINUTE
        )
    return False


def live_of(name: str, observed: list[ObservedKey]) -> list[ObservedKey]:
    found = [one for one in observed if one.name == name and one.live(NOW)]
    return sorted(found, key=lambda one: (one.created_at, one.id))


@given(world=worlds())
def test_a_good_token_is_never_replaced_and_every_other_is(world: Any) -> None:
    """Each sink is checked; every desired key is kept or has one action."""
    declared, observed, sink_contents = world
    plan = planned(declared, observe(*observed), sink_contents)
    actions = {one.name: one for one in plan.actions}
    assert len(actions) == len(plan.actions)
    assert {*actions} | {*plan.kept} == {one.name for one in declared}
    assert not {*actions} & {*plan.kept}
    for one in declared:
        live = live_of(one.name, observed)
        action = actions.get(one.name)
        if not live:
            assert isinstance(action, Create)
            assert action.sinks == one.deliver
            continue
        current = key_of(one, live, sink_contents)
        to_write = tuple(
            sink for sink in one.deliver if not is_good(sink_contents[sink], live, current)
        )
        assert (action.sinks if action else ()) == to_write
        if isinstance(action, Deliver):
            assert (action.key_id, action.expires_at) == (current.id, current.expires_at)
            unusable = any(isinstance(sink_contents[sink], Unavailable) for sink in to_write)
            assert (action.blocked is not None) == unusable


@given(world=worlds(), redeliver=st.booleans())
def test_after_deliveries_the_next_plan_delivers_nothing(world: Any, redeliver: bool) -> None:
    """The next plan has only the blocked actions, and after `--redeliver` none."""
    declared, observed, sink_contents = world
    first = planned(declared, observe(*observed), sink_contents, redeliver=redeliver)
    after = dict(sink_contents)
    for action in first.unblocked:
        if isinstance(action, Create):
            created = key(action.name, 9, created_at=NOW, expires_at=action.expires_at)
            observed = [*observed, created]
        else:
            created = next(one for one in observed if one.id == action.key_id)
        token = ApiKeyToken(created.id, created.expires_at.replace(microsecond=0))
        for sink in action.sinks:
            match sink:
                case FileAddress() | VaultAddress():
                    after[sink] = token
                case GithubAddress():
                    after[sink] = Unreadable(NOW)
                case _:
                    assert after[sink] == Unreadable(None)
    second_plan = planned(declared, observe(*observed), after)
    blocked = [one for one in first.actions if one.blocked is not None]
    assert list(second_plan.actions) == blocked
    assert not (redeliver and blocked)


@given(world=worlds())
def test_a_plan_needs_only_the_sinks_that_are_read(world: Any) -> None:
    """The contents of other sinks make no difference."""
    declared, observed, sink_contents = world
    needed = set(sinks_to_read(declared, observe(*observed)))
    read = {address: found for address, found in sink_contents.items() if address in needed}
    assert planned(declared, observe(*observed), read) == planned(
        declared, observe(*observed), sink_contents
    )
