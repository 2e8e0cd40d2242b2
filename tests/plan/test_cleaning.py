"""Only a token of the sink's own key, or of none that is live, is planned to be removed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    DAY,
    NOW,
    api_key_token,
    command_sink,
    desired_key,
    environment_with,
    file_sink,
    former_sink,
    github_sink,
    observation_with,
    observed_key,
    vault_sink,
)

from provisioner.errors.failure import Failure
from provisioner.model.sink_content import NotAToken, NoToken, Receipt, Unavailable, Unreadable
from provisioner.plan import (
    Clean,
    FormerSink,
    LeftBehind,
    Planned,
    PlanOptions,
    Revoke,
    Rotate,
    former_sinks,
    plan_environment,
    sinks_to_read,
)
from provisioner.sinks.aws import AwsAddress
from provisioner.sinks.gitlab import GitlabAddress

if TYPE_CHECKING:
    from provisioner.model.sink_address import Address

pytestmark = pytest.mark.fast

OLD, NEW = file_sink("old.env"), file_sink("new.env")
KEY = observed_key()
DEAD = api_key_token("id-of-a-revoked-key")
NO_OPTIONS = PlanOptions()


def planned(
    content: Any,
    *observed: Any,
    former: FormerSink | None = None,
    options: PlanOptions = NO_OPTIONS,
    **observation: Any,
) -> Planned:
    sink = former or former_sink()
    return plan_environment(
        environment_with(owns=("svc-*",)),
        (),
        observation_with(*observed, **observation),
        NOW,
        options,
        sink_contents={sink.address: content},
        former=(sink,),
    )


def cleans(part: Planned) -> list[Clean]:
    return [one for one in part.actions if isinstance(one, Clean)]


def left(part: Planned) -> list[str]:
    return [one.problem for one in part.findings if isinstance(one, LeftBehind)]


# Which sinks are left behind


def declared(*sinks: Any, name: str = "svc-a", **changes: Any) -> dict[str, Any]:
    return {"shop": (desired_key(name, *sinks, **changes),)}


def test_a_sink_that_nobody_declares_any_more_is_a_former_one() -> None:
    """It belongs to its key, whether that is still declared or not."""
    place = desired_key().place
    expected = former_sink(sink=OLD, clean=False)
    assert former_sinks({"shop": ()}, declared(OLD)) == {"shop": (expected,)}
    assert former_sinks(declared(NEW), declared(OLD)) == {"shop": (expected._replace(place=place),)}
    assert former_sinks(declared(OLD), declared(OLD)) == {}
    assert former_sinks({}, declared(OLD)) == {}  # its environment is not declared any more


@pytest.mark.parametrize("environment", ["shop", "another"])
def test_a_place_that_any_key_uses_is_not_left_behind(environment: str) -> None:
    """Whatever its name and its environment; another way to write the place is the same one."""
    used = desired_key("svc-other", file_sink("./old.env"))
    assert former_sinks({"shop": (), environment: (used,)}, declared(OLD)) == {}


@pytest.mark.parametrize(
    ("before", "now", "is_former"),
    [
        (AwsAddress("a"), AwsAddress("a", "eu-central-1"), False),
        (AwsAddress("a", "eu-central-1"), AwsAddress("a"), False),
        (AwsAddress("a", "eu-central-1"), AwsAddress("a", "us-east-1"), True),
        (AwsAddress("a"), AwsAddress("b"), True),
        (GitlabAddress("acme/shop", "A"), GitlabAddress("Acme/Shop", "A"), False),
        (GitlabAddress("acme/shop", "A"), GitlabAddress("42", "A"), False),
        (GitlabAddress("41", "A"), GitlabAddress("42", "A"), True),
        (GitlabAddress("acme/shop", "A"), GitlabAddress("acme/shop", "B"), True),
        (vault_sink("a"), vault_sink("a", field="other"), True),
        (file_sink("a.json", format="json"), file_sink("a.json"), False),
    ],
)
def test_an_address_that_may_be_the_same_place_is_not_left_behind(before, now, is_former) -> None:
    """A part that only the configuration decides might be equal."""
    assert bool(former_sinks(declared(now), declared(before))) is is_former


@pytest.mark.parametrize(
    ("before", "now", "clean"),
    [
        ((OLD,), (), True),
        ((), (NEW,), True),
        ((), (vault_sink(),), False),
        ((), (), False),
    ],
)
def test_clean_counts_where_it_was_written_or_is_now(before, now, clean: bool) -> None:
    """The old declaration says it, or the new one of a sink of the same kind."""
    present = declared(NEW, vault_sink(), clean=now)
    [former] = former_sinks(present, declared(OLD, clean=before))["shop"]
    assert former.clean is clean


def test_a_renamed_key_has_its_new_name() -> None:
    """The token may be of a key with either name."""
    present = declared(NEW, name="svc-new", moved_from=("svc-a",))
    [former] = former_sinks(present, declared(OLD))["shop"]
    assert (former.name, former.names) == ("svc-new", {"svc-a", "svc-new"})
    for name in ("svc-a", "svc-new"):
        content = api_key_token(f"id-{name}-1")
        sink = former._replace(clean=True)
        assert len(cleans(planned(content, observed_key(name), former=sink))) == 1


# What is removed


@pytest.mark.parametrize("asked", ["in the manifest", "on the command line"])
def test_the_token_of_the_own_key_is_removed_if_asked(asked: str) -> None:
    """The reason says whether the key is still declared."""
    options = PlanOptions(clean=asked == "on the command line")
    sink = former_sink(clean=asked == "in the manifest")
    part = planned(api_key_token(), KEY, former=sink, options=options)
    [action] = cleans(part)
    assert (action.reason, action.token, action.sink) == ("undeclared", api_key_token(), OLD)
    moved = sink._replace(place=desired_key().place)
    [action] = cleans(planned(api_key_token(), KEY, former=moved, options=options))
    assert (action.reason, action.place) == ("moved", moved.place)
    assert left(part) == []


@pytest.mark.parametrize("token", [DEAD, api_key_token("ID-SVC-A-1")])
def test_a_dead_token_and_an_id_in_capitals_are_removed(token) -> None:
    """A revoked key is not listed, and ids are compared without regard to case."""
    assert len(cleans(planned(token, KEY))) == 1


def test_the_token_of_an_expired_key_is_removed() -> None:
    """Whatever the name of that key: it opens nothing."""
    expired = observed_key("svc-b", expires_at=NOW - DAY)
    assert len(cleans(planned(api_key_token("id-svc-b-1"), expired))) == 1


@pytest.mark.parametrize(
    "content",
    [
        NoToken(),
        NotAToken(),
        replace(DEAD, workspace="another"),
        replace(DEAD, workspace=None),
    ],
)
def test_what_is_not_of_this_workspace_is_neither_removed_nor_reported(content) -> None:
    """Nothing shows that this tool has delivered it."""
    part = planned(content, KEY, options=PlanOptions(clean=True))
    assert (cleans(part), left(part)) == ([], [])


def test_nothing_is_removed_if_the_credential_names_no_workspace() -> None:
    """A token cannot be compared then."""
    part = planned(api_key_token(), KEY, workspace=None, options=PlanOptions(clean=True))
    assert (cleans(part), left(part)) == ([], [])


DOWN = Unavailable(Failure("sink_unavailable", "It is down."))
UNPROVEN = Unreadable(receipt=Receipt(DEAD, proven=False))
PROVEN = Unreadable(receipt=Receipt(DEAD))


@pytest.mark.parametrize("content", [PROVEN, NoToken(DEAD)], ids=["a secret", "only its receipt"])
def test_a_token_that_a_receipt_proves_is_removed(content) -> None:
    """So is a receipt that a run left behind when it was killed."""
    part = planned(content, KEY, former=former_sink(sink=github_sink()))
    assert [(one.token, one.sink) for one in cleans(part)] == [(DEAD, github_sink())]
    part = planned(content, KEY, former=former_sink(sink=github_sink(receipt="")))
    assert left(part) == ["unable"]


@pytest.mark.parametrize(
    ("content", "sink", "problem"),
    [
        (api_key_token(), former_sink(clean=False), "not_asked"),
        (api_key_token(), former_sink(sink=command_sink()), "unable"),
        (Unreadable(), former_sink(sink=github_sink()), "unreadable"),
        (Unreadable(receipt=Receipt()), former_sink(sink=github_sink()), "unreadable"),
        (UNPROVEN, former_sink(sink=github_sink()), "unreadable"),
        (DOWN, former_sink(), "unreadable"),
        (api_key_token("id-svc-b-1"), former_sink(), "other_key"),
        (api_key_token("id-own-1"), former_sink("own"), "own_key"),
    ],
)
def test_what_stays_is_reported_with_its_reason(content, sink: FormerSink, problem: str) -> None:
    """The message names the sink and says what to do."""
    observed = (KEY, observed_key("svc-b"), observed_key("own"))
    part = planned(content, *observed, former=sink, own_key="id-own-1")
    assert (cleans(part), left(part)) == ([], [problem])
    [finding] = (one for one in part.findings if isinstance(one, LeftBehind))
    assert str(sink.address) in finding.message
    assert finding.message.endswith(".")
    assert finding.ids == ((content.key,) if hasattr(content, "key") else ())


def test_removals_come_last_and_only_for_selected_names() -> None:
    """--only limits them like every other action; a rotation on request has none."""
    part = planned(api_key_token(), KEY, options=PlanOptions(prune=True))
    assert [type(one) for one in part.actions] == [Revoke, Clean]
    assert planned(api_key_token(), KEY, options=PlanOptions(only=("svc-b",))).actions == ()
    part = planned(api_key_token(), KEY, options=PlanOptions(rotate=frozenset({"svc-a"})))
    assert not any(isinstance(one, Clean | Rotate) for one in part.actions)


def test_former_sinks_are_read_if_they_matter() -> None:
    """Those of other names are not opened."""
    observation, former = observation_with(KEY), (former_sink(),)
    assert sinks_to_read((), observation, NO_OPTIONS, former) == (OLD,)
    for options in (PlanOptions(only=("b",)), PlanOptions(rotate=frozenset({"svc-a"}))):
        assert sinks_to_read((), observation, options, former) == ()


# provision revoke


def revoked(
    *observed: Any, asked: str = "svc-a", contents: Any = None, clean: bool = False, **key: Any
) -> tuple[tuple[Address, ...], list[tuple[str, str]]]:
    """Return the sinks that are read, and the actions with their keys."""
    options = PlanOptions(revoke=frozenset({asked}), clean=clean)
    desired = (desired_key("svc-a", NEW, github_sink(), **{"clean": (NEW,), **key}),)
    observation = observation_with(*observed)
    part = plan_environment(
        environment_with(owns=("svc-*",)),
        desired,
        observation,
        NOW,
        options,
        sink_contents={NEW: contents or api_key_token(), github_sink(): Unreadable()},
    )
    actions = [(type(one).__name__, one.key_id) for one in part.actions]  # type: ignore[union-attr]
    return sinks_to_read(desired, observation, options), actions


def test_the_sinks_of_a_revoked_key_are_cleaned() -> None:
    """By its name or its id; of the sinks with the option, or of all that can."""
    for asked in ("svc-a", KEY.id):
        read, actions = revoked(KEY, asked=asked)
        assert read == (NEW,)
        assert actions == [("Revoke", KEY.id), ("Clean", KEY.id)]
    read, actions = revoked(KEY, clean=True)
    assert read == (NEW, github_sink())
    assert actions == [("Revoke", KEY.id), ("Clean", KEY.id)]
    assert revoked(KEY, clean=False)[0] == (NEW,)


def test_a_revocation_that_got_no_further_is_finished() -> None:
    """No key of the name is live any more, and its sink holds a dead token."""
    assert revoked(contents=DEAD) == ((NEW,), [("Clean", DEAD.key)])


def test_what_another_live_key_needs_stays() -> None:
    """Another key of the name, or one of another name."""
    other = observed_key(number=2)
    assert revoked(KEY, other, asked=KEY.id)[1] == [("Revoke", KEY.id)]
    foreign = observed_key("svc-b")
    assert revoked(KEY, foreign, contents=api_key_token(foreign.id))[1] == [("Revoke", KEY.id)]
    assert revoked(KEY, contents=replace(DEAD, workspace="another"))[1] == [("Revoke", KEY.id)]
    assert revoked(KEY, contents=NotAToken())[1] == [("Revoke", KEY.id)]


def test_a_key_that_may_not_be_revoked_keeps_its_token() -> None:
    """The revocation is blocked, so the key stays live."""
    options = PlanOptions(revoke=frozenset({"other"}), clean=True)
    part = plan_environment(
        environment_with(owns=("svc-*",)),
        (desired_key("other", NEW),),
        observation_with(observed_key("other")),
        NOW,
        options,
        sink_contents={NEW: api_key_token("id-other-1")},
    )
    [action] = part.actions
    assert action.blocked is not None
