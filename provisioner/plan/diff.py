"""The diff: compares desired and observed keys; a pure function with the clock as an argument."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import resolve_expiry
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


EXPIRING_WITHIN = timedelta(days=14)
"""The time before its expiry at which a key becomes an `expiring` finding."""


_NO_OPTIONS = PlanOptions()


def sinks_to_read(
    desired: Iterable[DesiredKey], observation: Observation, options: PlanOptions = _NO_OPTIONS
) -> tuple[Address, ...]:
    """Return the sinks whose content decides which live key is current, or needs a new token.

    With `redeliver` every sink gets a new token, so only names with several live keys matter.
    """
    live = Counter(key.name for key in observation.keys if key.live(observation.server_time))
    min_exclusive = 1 if options.redeliver else 0
    return tuple(
        address
        for key in desired
        if key.deliver and live[key.name] > min_exclusive and options.selects(key.name)
        for address in key.deliver
    )


@gc_paused()
def plan_environment(  # noqa: PLR0913 - all inputs of a plan
    environment: Environment,
    desired: Iterable[DesiredKey],
    observation: Observation,
    now: datetime,
    options: PlanOptions = _NO_OPTIONS,
    *,
    sink_contents: Mapping[Address, SinkContent] = MappingProxyType({}),
) -> Planned:
    """Plan how to turn the observed keys of one workspace into the desired ones.

    Args:
        environment: the environment of the workspace.
        desired: its desired keys with unique names, in the order of the manifests.
        observation: the observed state of the workspace.
        now: the time of the plan, from which durations count.
        options: the options of the plan; names that they do not select are left out.
        sink_contents: the contents of the sinks of live keys; a missing address was not read.
    """
    server_time = observation.server_time
    observed = by_name(key for key in observation.keys if options.selects(key.name))
    roles = RoleChoice(environment, observation.roles)
    clock = PlanClock(now, server_time, server_time + EXPIRING_WITHIN, observation.server_ahead)
    lifecycle = Lifecycle(environment, roles, clock, options, sink_contents)
    expiries: dict[str, datetime] = {}
    actions: list[Action] = []
    revocations: list[Revoke] = []
    kept: list[str] = []
    findings: list[Finding] = []
    desired_names: set[str] = set()
    without_live_key: list[str] = []
    for key in desired:
        name = key.name
        if not options.selects(name):
            continue
        desired_names.add(name)
        written = key.expiry.written
        if written not in expiries:
            expiries[written] = resolve_expiry(key.expiry, now)
        same_name = observed.get(name, ())
        live = [one for one in same_name if one.live(server_time)]
        if not live and options.rotate:
            without_live_key.append(name)
            continue
        if not live:
            reason: Reason = "dead" if same_name else "missing"
            actions.append(roles.create(key, reason, expiries[written], server_time))
            continue
        key_actions, key_findings = lifecycle.plan_key(key, live, expiries[written])
        key_actions = [_block_lockout(one, observation.own_key) for one in key_actions]
        key_revocations = [one for one in key_actions if isinstance(one, Revoke)]
        if len(key_revocations) == len(key_actions):
            kept.append(name)
        actions += [one for one in key_actions if not isinstance(one, Revoke)]
        revocations += key_revocations
        findings += key_findings
    for name in () if options.rotate else sorted(observed.keys() - desired_names):
        live = [one for one in observed[name] if one.live(server_time)]
        if options.prune and matches(name, environment.owns):
            revocations += [revoke(one, "undeclared") for one in live]
        elif live:
            findings.append(Unmanaged(name, tuple(one.id for one in live)))
    return Planned(
        environment=environment.name,
        url=environment.url,
        generation=observation.generation,
        workspace=observation.workspace,
        actions=(*actions, *(one for one in revocations if one.key_id != observation.own_key)),
        kept=tuple(kept),
        findings=tuple(findings),
        notes=(
            *roles.notes(),
            *_undelivered_notes(actions),
            *_expiry_notes(actions),
            *(
                f"{name!r} has no live key; run `provision apply` to create it"
                for name in without_live_key
            ),
            *_own_key_notes(revocations, observation.own_key),
        ),
        estimate=estimate(environment.limits, observation, actions),
    )


def _block_lockout(action: Action, own_key: str | None) -> Action:
    """Return the action, blocked if it would lock this run out of the workspace."""
    if own_key is None:
        return action
    reason = f"This run is signed in with {action.name!r} ({own_key})."
    match action:
        case Rotate(at_once=True, successor=successor, predecessors=ids) if own_key in ids:
            failure = Failure(
                Code.OWN_KEY, f"{reason} Rotate it without --now, or use another credential."
            )
            return action._replace(successor=successor._replace(blocked=failure))
        case Update(key_id=key_id, role_id=role_id) if key_id == own_key and role_id is not None:
            failure = Failure(Code.OWN_KEY, f"{reason} Use another credential to change its role.")
            return action._replace(blocked=failure)
        case _:
            return action


def _own_key_notes(revocations: list[Revoke], own_key: str | None) -> Iterable[str]:
    """Yield the warning that the key this run is signed in with is not revoked."""
    for one in revocations:
        if one.key_id == own_key:
            yield f"{one.name!r} is not revoked, because this run is signed in with it"


def _undelivered_notes(actions: list[Action]) -> Iterable[str]:
    """Yield the warning about new keys without a sink."""
    creates = (action for action in actions if isinstance(action, Create | Rotate))
    count = sum(not action.sinks and action.blocked is None for action in creates)
    if count:
        yield (
            f"no sink receives the token{'s' if count != 1 else ''} for {pluralize(count, 'key')}; "
            "add one under `deliver`, or mint a token with `provision token NAME --to FILE`"
        )


def _expiry_notes(actions: list[Action]) -> Iterable[str]:
    """Yield the warning that a new expiry does not change tokens already issued."""
    updates = (one for one in actions if isinstance(one, Update) and one.sets_expiry)
    if any(one.blocked is None for one in updates):
        yield (
            "Tokens already issued keep their expiry. Extended keys get a new token; before Twenty "
            "2.x, the old token of a shortened key works until it expires."
        )
