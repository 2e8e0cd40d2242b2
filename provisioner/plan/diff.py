"""The diff: desired and observed go in, a plan comes out; no I/O, the clock is an argument."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

from provisioner.errors.failure import Failure
from provisioner.model.expiry import due
from provisioner.model.globs import matches
from provisioner.model.observed import by_name
from provisioner.plan.actions import Create, Planned, Revoke, Rotate, Update
from provisioner.plan.estimate import estimate
from provisioner.plan.findings import Unmanaged
from provisioner.plan.lifecycle import Lifecycle, PlanClock
from provisioner.plan.options import PlanOptions
from provisioner.plan.revocations import revoke
from provisioner.plan.roles import RoleChoice
from provisioner.runtime.gc_pause import gc_paused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan.actions import Action, Reason
    from provisioner.plan.findings import Finding


SOON = timedelta(days=14)
"""A key that ends within this time is the finding `expiring`."""


_NO_OPTIONS = PlanOptions()


def to_read(
    desired: Iterable[DesiredKey], observation: Observation, options: PlanOptions = _NO_OPTIONS
) -> tuple[Address, ...]:
    """Return the sinks whose content decides which live key is the key, or needs a new token.

    Where all get new tokens that only matters where a name has several live keys.
    """
    live = Counter(key.name for key in observation.keys if key.live(observation.server_time))
    several = 1 if options.redeliver else 0
    return tuple(
        address
        for key in desired
        if key.deliver and live[key.name] > several and options.selects(key.name)
        for address in key.deliver
    )


@gc_paused()
def plan_environment(  # noqa: PLR0913 - all that a plan follows from
    environment: Environment,
    desired: Iterable[DesiredKey],
    observation: Observation,
    now: datetime,
    options: PlanOptions = _NO_OPTIONS,
    *,
    sink_contents: Mapping[Address, SinkContent] = MappingProxyType({}),
) -> Planned:
    """What turns the observed keys of one workspace into the desired ones.

    Args:
        environment: whose workspace was observed.
        desired: its desired keys, names unique, in the order of the manifests.
        observation: one look at the workspace.
        now: the moment of the plan, from which durations count.
        options: what else is asked for; all that they do not concern is left out.
        sink_contents: what the sinks of live keys hold; a missing address was not read.
    """
    server_time = observation.server_time
    there = by_name(key for key in observation.keys if options.selects(key.name))
    choose = RoleChoice(environment, observation.roles)
    clock = PlanClock(now, server_time, server_time + SOON, observation.ahead)
    lifecycle = Lifecycle(environment, choose, clock, options, sink_contents)
    expiries: dict[str, datetime] = {}
    actions: list[Action] = []
    ending: list[Revoke] = []
    kept: list[str] = []
    findings: list[Finding] = []
    wanted: set[str] = set()
    absent: list[str] = []
    for key in desired:
        name = key.name
        if not options.selects(name):
            continue
        wanted.add(name)
        written = key.expiry.written
        if written not in expiries:
            expiries[written] = due(key.expiry, now)
        same_name = there.get(name, ())
        live = [one for one in same_name if one.live(server_time)]
        if not live and options.rotate:
            absent.append(name)
            continue
        if not live:
            reason: Reason = "dead" if same_name else "missing"
            actions.append(choose.create(key, reason, expiries[written], server_time))
            continue
        found, told = lifecycle.of(key, live, expiries[written])
        found = [_sparing(one, observation.own_key) for one in found]
        revokes = [one for one in found if isinstance(one, Revoke)]
        if len(revokes) == len(found):
            kept.append(name)
        actions += [one for one in found if not isinstance(one, Revoke)]
        ending += revokes
        findings += told
    for name in () if options.rotate else sorted(there.keys() - wanted):
        live = [one for one in there[name] if one.live(server_time)]
        if options.prune and matches(name, environment.owns):
            ending += [revoke(one, "undeclared") for one in live]
        elif live:
            findings.append(Unmanaged(name, tuple(one.id for one in live)))
    return Planned(
        environment=environment.name,
        url=environment.url,
        generation=observation.generation,
        workspace=observation.workspace,
        actions=(*actions, *(one for one in ending if one.key_id != observation.own_key)),
        kept=tuple(kept),
        findings=tuple(findings),
        notes=(
            *choose.notes(),
            *_nowhere(actions),
            *_moved(actions),
            *(f"{name!r} has no live key: `provision apply` makes it" for name in absent),
            *_own(ending, observation.own_key),
        ),
        estimate=estimate(environment.limits, observation, actions),
    )


def _sparing(action: Action, own_key: str | None) -> Action:
    """The action, blocked where it would lock this very run out of the workspace."""
    if own_key is None:
        return action
    told = f"{action.name!r} ({own_key}) is the key that this run is signed in with. "
    match action:
        case Rotate(at_once=True, successor=successor, predecessors=ids) if own_key in ids:
            why = Failure("own_key", f"{told}Rotate it without --now, or with another credential.")
            return action._replace(successor=successor._replace(blocked=why))
        case Update(key_id=key_id, role_id=role_id) if key_id == own_key and role_id is not None:
            why = Failure("own_key", f"{told}Give it another role with another credential.")
            return action._replace(blocked=why)
        case _:
            return action


def _own(ending: list[Revoke], own_key: str | None) -> Iterable[str]:
    """What people should know of the key that opens the workspace, which never ends itself."""
    for one in ending:
        if one.key_id == own_key:
            yield f"{one.name!r} is the key that this run is signed in with, and is not revoked"


def _nowhere(actions: list[Action]) -> Iterable[str]:
    """What people should know of keys that are made and whose tokens go nowhere."""
    made = (action for action in actions if isinstance(action, Create | Rotate))
    count = sum(not action.sinks and action.blocked is None for action in made)
    if count:
        yield (
            f"no sink takes the token{'s' if count != 1 else ''} of {count} "
            f"key{'s' if count != 1 else ''}: name one under `deliver`, or mint a token with "
            "`provision token NAME --to FILE`"
        )


def _moved(actions: list[Action]) -> Iterable[str]:
    """What people should know of the tokens of keys whose end moves."""
    moved = [one for one in actions if isinstance(one, Update) and one.sets_expiry]
    count = sum(one.blocked is None for one in moved)
    if count:
        yield (
            f"tokens of {count} key{'s' if count != 1 else ''} that are out keep the end that they "
            "were minted with: a later end needs a new token, which its sinks get, if it has any, "
            "and with an earlier one a server before 2.x takes the old token until its own end"
        )
