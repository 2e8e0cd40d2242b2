"""What is delivered follows from what sinks hold and which keys are live, and nothing else."""

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
from provisioner.model.sink_address import (
    AwsAddress,
    CommandAddress,
    FileAddress,
    GithubAddress,
    GitlabAddress,
    KubernetesAddress,
    VaultAddress,
)
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
    block,
    digest,
    plan_environment,
    to_prepare,
    to_read,
)
from provisioner.render.json import plan_document, plan_summary
from provisioner.render.text import PLAIN, plan_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan import Action

pytestmark = pytest.mark.fast

MADE = NOW - timedelta(days=1)
ENDS = NOW + timedelta(days=90, milliseconds=417)
SHOP = environment_with(role="Worker")
ROLES = KnownRoles((WORKER,))

FILE = file_sink("secrets/shop.env")
VAULT = vault_sink("shop/a")
GITHUB = github_sink()
COMMAND = command_sink()
DOWN = Failure("sink_unavailable", "vault secret/shop/a token did not answer. Run again.")
DENIED = Failure("sink_denied", "github acme/billing A is refused. Check the token.")


def key(name: str, number: int = 1, **changes: Any) -> ObservedKey:
    return observed_key(name, number, **({"expires_at": ENDS} | changes))


def look(*keys: ObservedKey, roles: Roles = ROLES, at: datetime = NOW) -> Observation:
    return observation_with(*keys, roles=roles, server_time=at, requests=2)


def planned(
    wanted: Iterable[DesiredKey],
    seen: Observation,
    sink_contents: Mapping[Address, SinkContent] | None = None,
    *,
    redeliver: bool = False,
    only: tuple[str, ...] = (),
) -> Planned:
    options = PlanOptions(only=only, redeliver=redeliver)
    return plan_environment(SHOP, wanted, seen, NOW, options, sink_contents=sink_contents or {})


def delivery_of(
    sink_contents: SinkContent, *, seen: ObservedKey | None = None, redeliver: bool = False
) -> Action | None:
    """The action for one live key with one sink; None where it is kept, without a finding."""
    plan = planned(
        [desired_key("a", FILE)], look(seen or key("a")), {FILE: sink_contents}, redeliver=redeliver
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
        (ApiKeyToken("id-a-1", ENDS - MINUTE - SECOND), "token_expiring", None),
        (Unreadable(MADE - MINUTE), "token_outdated", None),
        (Unavailable(DOWN), "sink_unusable", DOWN),
    ],
)
def test_a_sink_without_a_good_token_gets_one_of_the_key_that_is_there(
    sink_contents: SinkContent, reason: str, blocked: Failure | None
) -> None:
    """The action has the key's own id, end and role, and the place in the manifest."""
    seen = key("a", role="Admin", role_id="other")
    plan = planned([desired_key("a", FILE, depth=2)], look(seen), {FILE: sink_contents})
    assert plan.kept == ()
    assert plan.actions == (
        deliver(
            "a",
            FILE,
            reason=reason,
            depth=2,
            expires_at=ENDS,
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
        ApiKeyToken("id-a-1", ENDS),
        ApiKeyToken("id-a-1", ENDS.replace(microsecond=0)),
        ApiKeyToken("id-a-1", ENDS + timedelta(days=9)),
        ApiKeyToken("ID-A-1", None),
        Unreadable(MADE + SECOND - MINUTE),
        Unreadable(NOW),
        Unreadable(NOW, only_writes=False),
    ],
)
def test_a_sink_with_a_good_token_is_left_alone(sink_contents: SinkContent) -> None:
    """Ids are compared without case, and a token that never ends outlives its key."""
    assert delivery_of(sink_contents) is None
    assert delivery_of(sink_contents, seen=key("a", id="Id-A-1")) is None


def test_a_token_may_end_60_seconds_before_its_key_and_no_moment_earlier() -> None:
    """Its own end is in whole seconds; the key's has milliseconds."""
    last = ENDS - MINUTE
    assert delivery_of(ApiKeyToken("id-a-1", last)) is None
    early = delivery_of(ApiKeyToken("id-a-1", last - timedelta(microseconds=1)))
    assert early is not None
    assert early.reason == "token_expiring"


def test_the_time_of_a_write_counts_beyond_the_minute_by_which_clocks_may_differ() -> None:
    """Whatever else moves it: what did not change since the key was made has no token of it."""
    made = key("a", created_at=MADE + timedelta(milliseconds=900))
    for only_writes in (True, False):
        moment = made.created_at - MINUTE
        assert delivery_of(Unreadable(moment, only_writes), seen=made) is None
        before = delivery_of(Unreadable(moment - timedelta(microseconds=1), only_writes), seen=made)
        assert before is not None
        assert before.reason == "token_outdated"


@pytest.mark.parametrize("apart", [-50, 0, 50])
def test_the_time_of_a_write_is_compared_by_one_clock(apart) -> None:
    """The sink's time comes by this machine's, and keys are dated by the server's."""
    ahead = timedelta(seconds=apart)
    seen = replace(look(key("a")), ahead=ahead)
    made = MADE + SECOND - ahead  # by our clock
    for early, reasons in ((MINUTE, []), (MINUTE + SECOND, ["token_outdated"])):
        plan = planned([desired_key("a", GITHUB)], seen, {GITHUB: Unreadable(made - early)})
        assert [one.reason for one in plan.actions] == reasons


@pytest.mark.parametrize(
    "sink_contents",
    [ApiKeyToken("id-a-1", ENDS), NoToken(), Unreadable(None), Unreadable(NOW), Unavailable(DOWN)],
)
def test_redelivering_asks_for_a_new_token_whatever_a_sink_holds(
    sink_contents: SinkContent,
) -> None:
    """The reason is that it was asked for; nothing is blocked by a look that was not needed."""
    action = delivery_of(sink_contents, redeliver=True)
    assert isinstance(action, Deliver)
    assert (action.reason, action.sinks, action.blocked) == ("redeliver", (FILE,), None)
    unseen = planned([desired_key("a", FILE, VAULT)], look(key("a")), redeliver=True)
    assert [one.sinks for one in unseen.actions] == [(FILE, VAULT)]
    assert unseen.findings == ()


# --- Several sinks, several keys -----------------------------------------------------------------


def test_of_several_sinks_only_those_without_a_good_token_are_written() -> None:
    """In the order of the manifest; the reason is that of the first."""
    sink_contents = {
        FILE: ApiKeyToken("id-a-1", None),
        VAULT: NotAToken(),
        GITHUB: Unreadable(NOW),
        COMMAND: NoToken(),
    }
    [action] = planned(
        [desired_key("a", FILE, VAULT, GITHUB, COMMAND)], look(key("a")), sink_contents
    ).actions
    assert (action.sinks, action.reason) == ((VAULT, COMMAND), "token_invalid")
    [action] = planned(
        [desired_key("a", COMMAND, GITHUB, VAULT, FILE)], look(key("a")), sink_contents
    ).actions
    assert (action.sinks, action.reason) == ((COMMAND, VAULT), "token_missing")


def test_a_sink_that_cannot_be_looked_into_blocks_its_key_with_its_own_failure() -> None:
    """Of several the first; also where another sink gave the reason, or holds a good token."""
    sink_contents = {FILE: NoToken(), VAULT: Unavailable(DOWN), GITHUB: Unavailable(DENIED)}
    wanted = [desired_key("a", FILE, VAULT, GITHUB), desired_key("b", GITHUB, VAULT)]
    first, second = planned(wanted, look(key("a"), key("b")), sink_contents).actions
    assert (first.reason, first.sinks) == ("token_missing", (FILE, VAULT, GITHUB))
    assert (first.blocked, second.blocked) == (DOWN, DENIED)
    assert second.reason == "sink_unusable"
    sink_contents = {FILE: ApiKeyToken("id-a-1", None), VAULT: Unavailable(DOWN)}
    [action] = planned([desired_key("a", FILE, VAULT)], look(key("a")), sink_contents).actions
    assert (action.sinks, action.blocked) == ((VAULT,), DOWN)


def test_a_token_of_any_live_key_of_the_name_is_good() -> None:
    """Measured by the end of its own key; a new one is minted for what is delivered, or oldest."""
    oldest = key("a", 1)
    twin = key("a", 2, expires_at=NOW + timedelta(days=30))
    dead = key("a", 3, revoked_at=NOW)
    wanted, seen = [desired_key("a", FILE)], look(dead, twin, oldest)

    def found(sink_contents: SinkContent) -> list[tuple[str, str]]:
        return [
            (one.reason, one.key_id)
            for one in planned(wanted, seen, {FILE: sink_contents}).actions
            if isinstance(one, Deliver)
        ]

    assert found(ApiKeyToken(oldest.id, ENDS)) == []
    assert found(ApiKeyToken(twin.id, twin.expires_at)) == []
    assert found(ApiKeyToken(twin.id, twin.expires_at - MINUTE - SECOND)) == [
        ("token_expiring", twin.id)
    ]
    assert found(ApiKeyToken(oldest.id, twin.expires_at)) == [("token_expiring", oldest.id)]
    assert found(ApiKeyToken(dead.id, ENDS)) == [("token_dead", oldest.id)]
    assert found(Unreadable(oldest.created_at)) == []
    early = oldest.created_at - MINUTE - SECOND
    assert found(Unreadable(early)) == [("token_outdated", oldest.id)]


def test_a_key_that_is_made_anew_gets_all_of_its_sinks_whatever_they_hold() -> None:
    """A create carries the sinks; what a dead key left in them is not asked for."""
    dead = key("a", revoked_at=NOW)
    sink_contents = {FILE: ApiKeyToken(dead.id, ENDS), VAULT: Unavailable(DOWN)}
    plan = planned([desired_key("a", FILE, VAULT)], look(dead), sink_contents)
    [action] = plan.actions
    assert isinstance(action, Create)
    assert (action.reason, action.sinks, action.blocked) == ("dead", (FILE, VAULT), None)
    assert plan.findings == ()


def test_a_live_key_without_sinks_is_kept_even_when_all_get_new_tokens() -> None:
    """There is nowhere to deliver to."""
    plan = planned([desired_key("a")], look(key("a")), redeliver=True)
    assert (plan.actions, plan.kept, plan.notes) == ((), ("a",), ())


# --- What nobody can know ------------------------------------------------------------------------


def test_a_sink_that_tells_nothing_is_a_finding_and_no_action() -> None:
    """Also one that nobody asked; a sink that tells when it was written is not among them."""
    wanted = [desired_key("a", COMMAND, GITHUB, FILE)]
    sink_contents = {COMMAND: Unreadable(None), GITHUB: Unreadable(NOW)}
    plan = planned(wanted, look(key("a"), key("a", 2)), sink_contents)
    assert (plan.actions, plan.kept) == ((), ("a",))
    unknown = DeliveryUnknown("a", ("id-a-1",), (COMMAND, FILE))
    ids = ("id-a-1", "id-a-2")
    assert plan.findings == (Duplicate("a", ids, "id-a-1", "not_owned"), unknown)
    assert unknown.message == (
        "nothing proves that its token is in command store a, file secrets/shop.env A; "
        "--redeliver delivers a new one"
    )


def test_a_key_may_have_a_delivery_and_a_finding() -> None:
    """Each for its own sinks."""
    sink_contents = {COMMAND: Unreadable(None), FILE: NoToken()}
    plan = planned([desired_key("a", COMMAND, FILE)], look(key("a")), sink_contents)
    assert [one.sinks for one in plan.actions] == [(FILE,)]
    assert plan.findings == (DeliveryUnknown("a", ("id-a-1",), (COMMAND,)),)


# --- Order ---------------------------------------------------------------------------------------


def test_actions_kept_keys_and_findings_stand_in_the_order_of_the_manifests() -> None:
    """Creates and deliveries mixed; of one key duplicate, drift, end, then its delivery."""
    soon = NOW + timedelta(days=7)
    seen = look(
        key("stranger"),
        key("kept-2"),
        key("late", 1, expires_at=soon, role="Admin", role_id="x"),
        key("late", 2, expires_at=soon),
        key("lost"),
        key("kept-1"),
        key("unknown"),
    )
    file = {name: FileAddress("a.env", name.upper()) for name in ("lost", "kept-1", "kept-2")}
    wanted = [
        desired_key("kept-2", file["kept-2"]),
        desired_key("new-2"),
        desired_key("unknown", COMMAND),
        desired_key("lost", file["lost"]),
        desired_key("late", VAULT, expiry="2027-06-30"),
        desired_key("new-1", GITHUB),
        desired_key("kept-1", file["kept-1"]),
    ]
    sink_contents = {
        file["kept-1"]: ApiKeyToken("id-kept-1-1", ENDS),
        file["kept-2"]: ApiKeyToken("id-kept-2-1", ENDS),
        file["lost"]: NoToken(),
        VAULT: Unreadable(None),
    }
    plan = planned(wanted, seen, sink_contents)
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


# --- Which sinks are asked -----------------------------------------------------------------------


def test_only_sinks_of_live_keys_are_read() -> None:
    """In the order of the manifests; what is live, the server's clock says."""
    wanted = [
        desired_key("a", FILE, VAULT),
        desired_key("none"),
        desired_key("missing", COMMAND),
        desired_key("dead", AwsAddress("dead")),
        desired_key("over", AwsAddress("over")),
        desired_key("b", GITHUB),
    ]
    keys = [key("b"), key("a"), key("a", 2, revoked_at=NOW), key("dead", revoked_at=NOW)]
    keys += [key("none"), key("over", expires_at=NOW + SECOND), key("stranger")]
    assert to_read(wanted, look(*keys, at=NOW + SECOND)) == (FILE, VAULT, GITHUB)
    assert to_read(wanted, look(*keys)) == (FILE, VAULT, AwsAddress("over"), GITHUB)
    assert to_read(wanted, look()) == ()


def test_only_bounds_what_is_read_and_what_is_delivered() -> None:
    """Sinks of names that no glob matches are not asked; globs mind the case."""
    wanted = [desired_key("svc-a", FILE), desired_key("SVC-b", GITHUB), desired_key("web", VAULT)]
    seen = look(key("svc-a"), key("SVC-b"), key("web"))
    assert to_read(wanted, seen, PlanOptions(only=("svc-*", "w?b"))) == (FILE, VAULT)
    assert to_read(wanted, seen, PlanOptions(only=("x",))) == ()
    sink_contents = dict.fromkeys((FILE, GITHUB, VAULT), NoToken())
    assert [one.name for one in planned(wanted, seen, sink_contents, only=("svc-*",)).actions] == [
        "svc-a"
    ]
    again = planned(wanted, seen, only=("SVC-*",), redeliver=True)
    assert [one.name for one in again.actions] == ["SVC-b"]


def test_sinks_that_will_be_written_are_looked_ahead_into() -> None:
    """Those of creates and of deliveries, and none of an action that is blocked already."""
    wanted = [
        desired_key("new", FILE, VAULT),
        desired_key("odd", AwsAddress("odd"), role="Nobody"),
        desired_key("live", COMMAND, GITHUB),
        desired_key("closed", GitlabAddress("acme/web", "A")),
    ]
    sink_contents = {
        COMMAND: NoToken(),
        GITHUB: Unreadable(NOW),
        wanted[3].deliver[0]: Unavailable(DOWN),
    }
    plan = planned(wanted, look(key("live"), key("closed")), sink_contents)
    assert to_prepare(plan) == (FILE, VAULT, COMMAND)


def test_a_sink_that_cannot_take_a_token_blocks_its_own_keys_alone() -> None:
    """With the first failure of its sinks; why an action was blocked before stays."""
    wanted = [
        desired_key("new", FILE, VAULT, GITHUB),
        desired_key("odd", VAULT, role="Nobody"),
        desired_key("live", VAULT),
        desired_key("free", COMMAND),
        desired_key("kept"),
    ]
    plan = planned(wanted, look(key("live"), key("kept")), {VAULT: NoToken()})
    blocked = block(plan, {GITHUB: DENIED, VAULT: DOWN})
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
    assert block(plan, {}) == plan
    assert block(plan, {AwsAddress("other"): DENIED}) == plan


@pytest.mark.parametrize(
    ("asked", "away", "goes_on"),
    [(False, (VAULT,), True), (False, (VAULT, FILE), False), (True, (VAULT,), False)],
)
def test_a_sink_that_is_away_keeps_no_successor_from_the_others(asked, away, goes_on) -> None:
    """The old key ends in time whatever is away; who asks for a successor gets it whole or not."""
    rotation = rotation_with()
    wanted = desired_key("a", FILE, VAULT)._replace(rotation=rotation)
    old = key("a", expires_at=NOW + timedelta(days=5))
    environment = replace(SHOP, owns=("*",))
    options = PlanOptions(rotate=frozenset({"a"}) if asked else frozenset())
    sink_contents = {FILE: ApiKeyToken(old.id, None), VAULT: Unavailable(DOWN)}
    plan = plan_environment(
        environment, [wanted], look(old), NOW, options, sink_contents=sink_contents
    )
    part = block(plan, dict.fromkeys(away, DOWN))
    [rotate] = part.actions
    assert isinstance(rotate, Rotate)
    assert (rotate.blocked is None) == goes_on
    assert any("sink_unavailable: vault" in note for note in part.notes) == goes_on


# --- What a plan says of itself ------------------------------------------------------------------


def test_keys_whose_tokens_go_nowhere_are_noted() -> None:
    """Those that are made; not those that are there, are blocked or have a sink."""

    def notes(*wanted: DesiredKey) -> tuple[str, ...]:
        return planned(wanted, look(key("there"))).notes

    rest = "name one under `deliver`, or mint a token with `provision token NAME --to FILE`"
    fine = (desired_key("a", FILE), desired_key("there"), desired_key("odd", role="Nobody"))
    assert notes(*fine) == ()
    assert notes(desired_key("b"), *fine) == (f"no sink takes the token of 1 key: {rest}",)
    assert notes(desired_key("b"), desired_key("c"), *fine) == (
        f"no sink takes the tokens of 2 keys: {rest}",
    )


def test_changes_count_actions_and_steps_count_what_they_take() -> None:
    """A create is a step, its delivery another; a delivery by itself is one; nothing blocked is."""
    wanted = [
        desired_key("bare"),
        desired_key("new", FILE, GITHUB),
        desired_key("live", VAULT),
        desired_key("odd", role="Nobody"),
        desired_key("kept"),
    ]
    part = planned(wanted, look(key("live"), key("kept")), {VAULT: NoToken()})
    lost = Unobserved("lab", "https://lab.example.com", DOWN)
    assert (plan_with(part, lost, part).changes, plan_with(part).changes) == (6, 3)
    assert (plan_with(part, lost, part).steps, plan_with(part).steps) == (8, 4)
    closed = block(part, {VAULT: DOWN, FILE: DOWN})
    assert (plan_with(closed).changes, plan_with(closed).steps) == (1, 1)
    assert plan_summary(part) == {
        "create": 2,
        "update": 0,
        "rotate": 0,
        "deliver": 1,
        "revoke": 0,
        "keep": 1,
        "findings": 0,
    }
    assert [plan_summary(closed)[kind] for kind in ("create", "deliver")] == [1, 0]


@pytest.mark.parametrize("roles", [ROLES, NoRoles()])
def test_a_delivery_takes_two_requests_however_many_sinks_it_has(roles: Roles) -> None:
    """One to mint and one to prove; 0.05 s each; none where nothing is delivered, or it cannot."""

    def cost(*wanted: DesiredKey, sink_contents: SinkContent | None = None) -> tuple[int, float]:
        found = dict.fromkeys((FILE, VAULT), sink_contents or NoToken())
        seen = look(key("live-1"), key("live-2"), roles=roles)
        part = planned(wanted, seen, found)
        return part.estimate.requests, part.estimate.seconds

    assert cost() == (2, 0.1)
    assert cost(desired_key("live-1", FILE), sink_contents=Unreadable(None)) == (2, 0.1)
    assert cost(desired_key("live-1", FILE), sink_contents=Unavailable(DOWN)) == (2, 0.1)
    assert cost(desired_key("live-1", FILE, VAULT)) == (4, 0.2)
    assert cost(desired_key("live-1", FILE), desired_key("live-2", VAULT)) == (6, 0.3)
    requests, seconds = cost(desired_key("new"))
    both, longer = cost(desired_key("new", FILE, VAULT))
    assert (both - requests, round(longer - seconds, 9)) == (2, 0.1)


def test_deliveries_count_against_the_declared_rate() -> None:
    """Beyond the first burst each minute lets so many through."""
    shop = replace(SHOP, limits=limits_with(requests_per_minute=10))
    wanted = [desired_key(f"k{n}", FileAddress("a.env", f"K{n}")) for n in range(34)]
    seen = look(*(key(one.name) for one in wanted))
    part = plan_environment(shop, wanted, seen, NOW, PlanOptions(redeliver=True))
    assert part.estimate.requests == 70
    assert part.estimate.seconds == 360.0


# --- The digest ----------------------------------------------------------------------------------


def digest_of(
    *wanted: DesiredKey, sink_contents: Mapping[Address, SinkContent] | None = None
) -> str:
    part = planned(wanted, look(key("live")), sink_contents)
    return digest((part,), {"shop": wanted})


def test_the_digest_covers_where_tokens_go() -> None:
    """Every part of an address, one sink more or less; not the order of keys or of sinks."""
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


def test_the_digest_covers_where_tokens_of_kept_keys_are() -> None:
    """A plan that does nothing for a key was reviewed with its sinks all the same."""

    def of(*wanted: DesiredKey) -> str:
        good = ApiKeyToken("id-live-1", None)
        sink_contents = {address: good for one in wanted for address in one.deliver}
        part = planned(wanted, look(key("live")), sink_contents)
        assert part.actions == ()
        return digest((part, Unobserved("lab", "https://lab", DOWN)), {"shop": wanted})

    first = of(desired_key("live", FILE, VAULT))
    assert of(desired_key("live", VAULT, FILE)) == first
    different = [
        of(),
        of(desired_key("live")),
        of(desired_key("live", FILE)),
        of(desired_key("live", FileAddress(FILE.path, "A", "json"), VAULT)),
    ]
    assert len({first, *different}) == len(different) + 1


def test_the_digest_covers_what_is_delivered() -> None:
    """To which sinks, for which key, and whether it can be; not why."""
    wanted = desired_key("live", FILE, VAULT)

    def of(file: SinkContent, vault: SinkContent) -> str:
        return digest_of(wanted, sink_contents={FILE: file, VAULT: vault})

    good = ApiKeyToken("id-live-1", None)
    first = of(NoToken(), good)
    assert of(NotAToken(), good) == first
    assert of(NoToken(), Unreadable(NOW)) == first
    twin = planned([wanted], look(key("live", 2)), {FILE: NoToken(), VAULT: Unreadable(NOW)})
    different = [
        of(good, good),
        of(good, NoToken()),
        of(NoToken(), NoToken()),
        of(Unavailable(DOWN), good),
        of(Unavailable(DENIED), good),
        digest((twin,), {"shop": (wanted,)}),
    ]
    assert len({first, *different}) == len(different) + 1


# --- Documents and text --------------------------------------------------------------------------


def full_plan() -> Plan:
    """A create with and without sinks, deliveries fine and blocked, and a finding."""
    bare = desired_key("bare", line=1)
    new = desired_key("new", FILE, KubernetesAddress("web", "tokens"), line=2)
    lost = desired_key("lost\x1b[2J", VaultAddress("secret", "a\x1b[2J"), line=3)
    closed = desired_key("closed", GITHUB, line=4)
    blind = desired_key("blind", COMMAND, line=5)
    seen = look(*(key(one.name) for one in (lost, closed, blind)))
    sink_contents = {
        lost.deliver[0]: NoToken(),
        GITHUB: Unavailable(DENIED),
        COMMAND: Unreadable(None),
    }
    wanted = (bare, new, lost, closed, blind)
    part = planned(wanted, seen, sink_contents)
    return plan_with(part, digest=digest((part,), {"shop": wanted}))


def test_the_document_of_a_plan_with_deliveries_follows_its_schema() -> None:
    """Where each token goes stands in it, and why a delivery cannot be done."""
    document = json.loads(json.dumps(plan_document(full_plan())))
    Draft202012Validator(
        schemas.load("plan"), format_checker=Draft202012Validator.FORMAT_CHECKER
    ).validate(document)
    [environment] = document["environments"]
    bare, new, lost, closed = environment["actions"]
    assert (bare["action"], bare["sinks"]) == ("create", [])
    assert new["sinks"] == ["file secrets/shop.env A", "kubernetes web/tokens token"]
    assert lost == {
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
    }
    assert closed["error"] == {"code": DENIED.code, "message": DENIED.message}
    assert environment["summary"] == {
        "create": 2,
        "update": 0,
        "rotate": 0,
        "deliver": 1,
        "revoke": 0,
        "keep": 1,
        "findings": 1,
    }
    assert environment["findings"] == [
        {
            "finding": "delivery_unknown",
            "name": "blind",
            "ids": ["id-blind-1"],
            "message": "nothing proves that its token is in command store a; --redeliver "
            "delivers a new one",
        }
    ]


def test_the_text_of_a_plan_shows_where_each_token_goes() -> None:
    """Deliveries have a mark and a reason of their own; nothing in it can draw on a terminal."""
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
    only = planned([desired_key("live", FILE)], look(key("live")), {FILE: NoToken()})
    assert plan_text(plan_with(only), PLAIN).splitlines()[-1] == (
        "Plan: 0 to create, 1 to deliver, 0 to keep. About 4 requests and 0.2 s."
    )


def test_a_plan_without_sinks_has_no_column_for_them() -> None:
    """Who does not use sinks sees what was there before."""
    part = planned([desired_key("a"), desired_key("b")], look())
    text = plan_text(plan_with(part), PLAIN)
    assert "sink" not in text
    assert "deliver" not in text


# --- Whatever sinks hold -------------------------------------------------------------------------

NAMES = [f"name-{number}" for number in range(4)]
KINDS = ("file", "vault", "github", "command")


def sinks_of(name: str, kinds: Iterable[str]) -> tuple[Address, ...]:
    """The sinks of a key: two can be read, one tells its time, one tells nothing."""
    sinks: dict[str, Address] = {
        "file": FileAddress("a.env", name),
        "vault": VaultAddress("secret", name),
        "github": GithubAddress("acme", name),
        "command": CommandAddress(("store", name)),
    }
    return tuple(sinks[kind] for kind in kinds)


MOMENTS = st.sampled_from(
    [MADE - MINUTE, MADE + SECOND, NOW, ENDS - MINUTE - SECOND, ENDS - MINUTE, ENDS]
)
IDS = st.sampled_from([f"id-{name}-{number}" for name in NAMES for number in (1, 2, 3)])
TOLD = st.sampled_from([NoToken(), NotAToken(), Unavailable(DOWN)])
HELD = {
    "file": TOLD | st.builds(ApiKeyToken, IDS, st.none() | MOMENTS),
    "vault": TOLD | st.builds(ApiKeyToken, IDS.map(str.upper), st.none() | MOMENTS),
    "github": st.sampled_from([NoToken(), Unavailable(DENIED)]) | st.builds(Unreadable, MOMENTS),
    "command": st.just(Unreadable(None)),
}


@st.composite
def worlds(
    draw: st.DrawFn,
) -> tuple[list[DesiredKey], list[ObservedKey], dict[Address, SinkContent]]:
    """Desired keys with some sinks, some live and dead keys of their names, and what sinks hold."""
    wanted: list[DesiredKey] = []
    sink_contents: dict[Address, SinkContent] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        kinds = draw(st.lists(st.sampled_from(KINDS), unique=True))
        wanted.append(desired_key(name, *sinks_of(name, kinds)))
        sink_contents |= {
            address: draw(HELD[kind])
            for kind, address in zip(kinds, wanted[-1].deliver, strict=True)
        }
    seen = draw(
        st.lists(
            st.builds(
                key,
                st.sampled_from(NAMES),
                st.integers(1, 3),
                revoked_at=st.sampled_from([None, None, NOW]),
                expires_at=st.sampled_from([NOW, ENDS - timedelta(days=1), ENDS]),
            ),
            max_size=9,
            unique_by=lambda one: one.id,
        )
    )
    return wanted, seen, sink_contents


def key_of(
    wanted: DesiredKey, live: list[ObservedKey], sink_contents: Mapping[Address, SinkContent]
) -> ObservedKey:
    """The newest key whose token a sink holds, or else the oldest."""
    found = [sink_contents[sink] for sink in wanted.deliver]
    shown = {one.key.lower() for one in found if isinstance(one, ApiKeyToken)}
    return next((one for one in reversed(live) if one.id in shown), live[0])


def is_good(sink_contents: SinkContent, live: list[ObservedKey], key: ObservedKey) -> bool:
    """What the docs promise of a good token, written once more in another way."""
    if isinstance(sink_contents, ApiKeyToken):
        ends = {one.id.lower(): one.expires_at for one in live}
        key_ends = ends.get(sink_contents.key.lower())
        never = datetime.max.replace(tzinfo=UTC)
        return key_ends is not None and (key_ends - (sink_contents.expires_at or never)) <= MINUTE
    if isinstance(sink_contents, Unreadable):
        return (
            sink_contents.updated_at is None or sink_contents.updated_at >= key.created_at - MINUTE
        )
    return False


def live_of(name: str, seen: list[ObservedKey]) -> list[ObservedKey]:
    found = [one for one in seen if one.name == name and one.live(NOW)]
    return sorted(found, key=lambda one: (one.created_at, one.id))


@given(world=worlds())
def test_a_good_token_is_never_replaced_and_every_other_is(world: Any) -> None:
    """Sink by sink; every desired key is kept or has one action, whatever its sinks hold."""
    wanted, seen, sink_contents = world
    plan = planned(wanted, look(*seen), sink_contents)
    actions = {one.name: one for one in plan.actions}
    assert len(actions) == len(plan.actions)
    assert {*actions} | {*plan.kept} == {one.name for one in wanted}
    assert not {*actions} & {*plan.kept}
    for one in wanted:
        live = live_of(one.name, seen)
        action = actions.get(one.name)
        if not live:
            assert isinstance(action, Create)
            assert action.sinks == one.deliver
            continue
        current = key_of(one, live, sink_contents)
        lacking = tuple(
            sink for sink in one.deliver if not is_good(sink_contents[sink], live, current)
        )
        assert (action.sinks if action else ()) == lacking
        if isinstance(action, Deliver):
            assert (action.key_id, action.expires_at) == (current.id, current.expires_at)
            unusable = any(isinstance(sink_contents[sink], Unavailable) for sink in lacking)
            assert (action.blocked is not None) == unusable


@given(world=worlds(), redeliver=st.booleans())
def test_a_plan_that_was_delivered_leaves_nothing_to_deliver(world: Any, redeliver: bool) -> None:
    """The next plan has only what was blocked, and after `--redeliver` nothing at all."""
    wanted, seen, sink_contents = world
    first = planned(wanted, look(*seen), sink_contents, redeliver=redeliver)
    after = dict(sink_contents)
    for action in first.unblocked:
        if isinstance(action, Create):
            made = key(action.name, 9, created_at=NOW, expires_at=action.expires_at)
            seen = [*seen, made]
        else:
            made = next(one for one in seen if one.id == action.key_id)
        token = ApiKeyToken(made.id, made.expires_at.replace(microsecond=0))
        for sink in action.sinks:
            match sink:
                case FileAddress() | VaultAddress():
                    after[sink] = token
                case GithubAddress():
                    after[sink] = Unreadable(NOW)
                case _:
                    assert after[sink] == Unreadable(None)
    again = planned(wanted, look(*seen), after)
    blocked = [one for one in first.actions if one.blocked is not None]
    assert list(again.actions) == blocked
    assert not (redeliver and blocked)


@given(world=worlds())
def test_what_is_read_is_what_a_plan_needs(world: Any) -> None:
    """Of sinks that are not read the plan asks nothing: what they hold makes no difference."""
    wanted, seen, sink_contents = world
    needed = set(to_read(wanted, look(*seen)))
    read = {address: found for address, found in sink_contents.items() if address in needed}
    assert planned(wanted, look(*seen), read) == planned(wanted, look(*seen), sink_contents)
