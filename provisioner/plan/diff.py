"""The diff: compares desired and observed keys; a pure function with the clock as an argument."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from provisioner.errors.pluralize import pluralize
from provisioner.model.observed import by_name
from provisioner.plan.actions import (
    Action,
    Clean,
    Create,
    CreatesKey,
    Planned,
    Revoke,
    Upcoming,
    Update,
)
from provisioner.plan.cleaning import plan_former_sinks, sinks_to_clean
from provisioner.plan.estimate import estimate
from provisioner.plan.findings import Unmanaged
from provisioner.plan.lifecycle import Lifecycle
from provisioner.plan.moves import former_names, name_of_live_keys
from provisioner.plan.options import PlanOptions
from provisioner.plan.revocations import plan_revocations, requested_names, revoke
from provisioner.plan.roles import RoleChoice
from provisioner.runtime.gc_pause import gc_paused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from typing import TypeVar

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan.cleaning import FormerSink
    from provisioner.plan.lifecycle import Step

    Key = TypeVar("Key", DesiredKey, ObservedKey)


_NO_OPTIONS = PlanOptions()


def selected_keys(
    desired: Mapping[str, tuple[DesiredKey, ...]], options: PlanOptions
) -> Mapping[str, tuple[DesiredKey, ...]]:
    """Return the desired keys of every environment that a plan with these options is about."""
    if options.revoke:
        return {}
    return {environment: tuple(_selected(keys, options)) for environment, keys in desired.items()}


def sinks_to_read(
    desired: Iterable[DesiredKey],
    observation: Observation,
    options: PlanOptions = _NO_OPTIONS,
    former: Sequence[FormerSink] = (),
) -> tuple[Address, ...]:
    """Return the sinks whose content decides which live key is current, or needs a new token.

    With `redeliver` every sink gets a new token, so only names with several live keys matter. The
    sinks from which a token may be removed are read too.

    Args:
        desired: the desired keys of the environment.
        observation: the observed state of its workspace.
        options: the options of the plan.
        former: the sinks that only the previous manifests declare.
    """
    if options.revoke:
        names = requested_names(observation, options)
        return tuple(
            address
            for key in desired
            if key.name in names
            for address in sinks_to_clean(key, options)
        )
    live = Counter(key.name for key in observation.keys if key.live(observation.server_time))
    min_exclusive = 1 if options.redeliver else 0
    current = (
        address
        for key in _selected(desired, options)
        if key.deliver and live[name_of_live_keys(key, live)] > min_exclusive
        for address in key.deliver
    )
    left = (one.address for one in former if not options.rotate and options.selects(one.name))
    return (*current, *left)


@gc_paused()
def plan_environment(  # noqa: PLR0913 - all inputs of a plan
    environment: Environment,
    desired: Sequence[DesiredKey],
    observation: Observation,
    now: datetime,
    options: PlanOptions = _NO_OPTIONS,
    *,
    sink_contents: Mapping[Address, SinkContent] = MappingProxyType({}),
    former: Sequence[FormerSink] = (),
) -> Planned:
    """Plan how to turn the observed keys of one workspace into the desired ones.

    Args:
        environment: the environment of the workspace.
        desired: its desired keys with unique names, in the order of the manifests.
        observation: the observed state of the workspace.
        now: the time of the plan, from which durations count.
        options: the options of the plan; names that they do not select are left out.
        sink_contents: the contents of the sinks of live keys; a missing address was not read.
        former: the sinks that only the previous manifests declare.
    """
    if options.revoke:
        return plan_revocations(environment, desired, observation, options, sink_contents)
    server_time = observation.server_time
    selected = tuple(_not_ignored(_selected(desired, options), environment))
    observed = _not_ignored(observed_keys(observation, selected, options), environment)
    known = {one.name for one in observed}
    live = by_name(one for one in observed if one.live(server_time))
    roles = RoleChoice(environment, observation, now)
    lifecycle = Lifecycle(environment, observation, roles, options, sink_contents)
    declared: list[str] = []
    steps: list[Step] = []
    absent: list[str] = []
    for key in selected:
        name = key.name
        declared.append(name)
        if key.moved_from and not options.rotate:
            move = lifecycle.plan_move(key, live)
            steps += move.steps
            if move.blocked:
                continue
            if move.live:
                live[name] = list(move.live)
        if name in live:
            steps += lifecycle.plan_key(key, live[name])
        elif options.rotate:
            absent.append(_absent(key, live))
        else:
            steps.append(roles.create(key, "dead" if name in known else "missing"))
    if not options.rotate:
        undeclared = live.keys() - set(declared) - former_names(desired)
        steps += _undeclared(
            environment, {name: live[name] for name in sorted(undeclared)}, options
        )
        steps += plan_former_sinks(former, observation, options, sink_contents)
    actions = [
        one for one in steps if isinstance(one, Action) and not isinstance(one, Revoke | Clean)
    ]
    revocations = [one for one in steps if isinstance(one, Revoke)]
    removals = [one for one in steps if isinstance(one, Clean)]
    findings = [one for one in steps if not isinstance(one, Action | Upcoming)]
    changed = {one.name for one in actions if not isinstance(one, Create)}
    own_key = observation.own_key
    return Planned(
        environment=environment.name,
        url=environment.url,
        generation=observation.generation,
        workspace=observation.workspace,
        actions=(*actions, *(one for one in revocations if one.key_id != own_key), *removals),
        kept=tuple(name for name in declared if name in live and name not in changed),
        findings=tuple(findings),
        notes=(
            *roles.notes(),
            *_notes(actions),
            *absent,
            *(
                f"{one.name!r} is not revoked, because this run is signed in with it"
                for one in revocations
                if one.key_id == own_key
            ),
        ),
        estimate=estimate(environment.limits, observation, actions),
        upcoming=tuple(one for one in steps if isinstance(one, Upcoming)),
    )


def observed_keys(
    observation: Observation, selected: Iterable[DesiredKey], options: PlanOptions
) -> Iterable[ObservedKey]:
    """Return the observed keys that a plan is about: those of its names, also of former ones.

    Args:
        observation: the observed state of the workspace.
        selected: the desired keys that the plan includes.
        options: the options of the plan.
    """
    if not options.only and not options.rotate:
        return observation.keys
    former = former_names(selected)
    return [key for key in observation.keys if options.selects(key.name) or key.name in former]


def _undeclared(
    environment: Environment, live: Mapping[str, list[ObservedKey]], options: PlanOptions
) -> Iterator[Step]:
    """Yield the revocations of keys whose names no manifest declares, or the finding about them."""
    for name, keys in live.items():
        if options.prune and environment.owns_key(name):
            yield from (revoke(one, "undeclared") for one in keys)
        else:
            yield Unmanaged(name, tuple(one.id for one in keys))


def _absent(key: DesiredKey, live: Mapping[str, object]) -> str:
    """Return the note about a key to rotate that has no live key of its name."""
    name = name_of_live_keys(key, live)
    if name != key.name:
        return f"{key.name!r} is still named {name!r}; run `provision apply` to rename it first"
    return f"{name!r} has no live key; run `provision apply` to create it"


def _selected(keys: Iterable[DesiredKey], options: PlanOptions) -> Iterable[DesiredKey]:
    """Return the desired keys that the options of the plan select."""
    if not options.only and not options.rotate:
        return keys
    return [key for key in keys if options.selects(key.name)]


def _not_ignored(keys: Iterable[Key], environment: Environment) -> Iterable[Key]:
    if not environment.ignore:
        return keys
    return [key for key in keys if not environment.ignores_key(key.name)]


def _notes(actions: Iterable[Action]) -> Iterator[str]:
    """Yield the warnings about new keys without a sink, and about tokens already issued."""
    possible = [action for action in actions if action.blocked is None]
    count = sum(isinstance(one, CreatesKey) and not one.sinks for one in possible)
    if count:
        yield (
            f"no sink receives the token{'s' if count != 1 else ''} for {pluralize(count, 'key')}; "
            "add one under `deliver`, or mint a token with `provision token NAME --to FILE`"
        )
    if any(isinstance(one, Update) and one.sets_expiry for one in possible):
        yield (
            "Tokens already issued keep their expiry. Extended keys get a new token; before Twenty "
            "2.x, the old token of a shortened key works until it expires."
        )
