"""Revocations: the action that revokes a live key, and the plan of `provision revoke`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.plan.actions import Planned, Revoke
from provisioner.plan.cleaning import plan_sinks_of_revoked
from provisioner.plan.estimate import estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan.actions import RevokeReason
    from provisioner.plan.options import PlanOptions


def revoke(observed: ObservedKey, reason: RevokeReason, key: DesiredKey | None = None) -> Revoke:
    """Return the action that revokes one live key."""
    return Revoke(
        name=observed.name,
        reason=reason,
        key_id=observed.id,
        expires_at=observed.expires_at,
        role=observed.role,
        place=None if key is None else key.place,
        annotations=None if key is None else key.annotations,
    )


def plan_revocations(
    environment: Environment,
    desired: Iterable[DesiredKey],
    observation: Observation,
    options: PlanOptions,
    sink_contents: Mapping[Address, SinkContent],
) -> Planned:
    """Plan the revocation of the live keys whose names or ids `options.revoke` lists.

    Args:
        environment: the environment of the workspace.
        desired: its desired keys, for the positions of revoked keys in the manifests.
        observation: the observed state of the workspace.
        options: the keys to revoke, and the globs that limit them.
        sink_contents: the contents of the sinks that lose the token of a revoked key.
    """
    declared = {key.name: key for key in desired}
    requested = [one for one in observation.keys if _requested(one, observation, options)]
    actions = tuple(
        revoke(one, "asked", declared.get(one.name))._replace(
            blocked=_refusal(environment, observation, one)
        )
        for one in sorted(requested, key=lambda one: (one.name, one.creation_order))
    )
    names = requested_names(observation, options)
    removals = plan_sinks_of_revoked(
        [key for name, key in declared.items() if name in names],
        {one.key_id for one in actions if one.blocked is None},
        observation,
        options,
        sink_contents,
    )
    notes = (
        f"{one.place.file} line {one.place.line} still declares {one.name!r}; "
        "the next `apply` will create it again"
        for one in actions
        if one.blocked is None and one.place is not None
    )
    return Planned(
        environment=environment.name,
        url=environment.url,
        generation=observation.generation,
        workspace=observation.workspace,
        actions=(*actions, *removals),
        kept=(),
        findings=(),
        notes=tuple(dict.fromkeys(notes)),
        estimate=estimate(environment.limits, observation, actions),
    )


def requested_names(observation: Observation, options: PlanOptions) -> frozenset[str]:
    """Return the names that `options.revoke` lists, and those of the live keys whose ids it lists.

    A name may have no live key any more.
    """
    found = (one.name for one in observation.keys if _requested(one, observation, options))
    return frozenset((*filter(options.selects, options.revoke), *found))


def _requested(key: ObservedKey, observation: Observation, options: PlanOptions) -> bool:
    """Return whether a key is live, and is listed by its name or its id."""
    if not key.live(observation.server_time) or not options.selects(key.name):
        return False
    ids = (one.lower() for one in options.revoke)
    return key.name in options.revoke or key.id.lower() in ids


def _refusal(
    environment: Environment, observation: Observation, key: ObservedKey
) -> Failure | None:
    """Return why a key cannot be revoked; None if it can."""
    if key.id == observation.own_key:
        return Failure(
            Code.OWN_KEY,
            f"This run is signed in with {key.name!r} ({key.id}). "
            "Use another credential to revoke it.",
        )
    if environment.ignores_key(key.name):
        return Failure(
            Code.NAME_IGNORED,
            f"{key.name!r} matches a pattern under `ignore` in {environment.name}, so it is never "
            "touched. Narrow the pattern, or revoke the key in Twenty.",
        )
    if not environment.owns_key(key.name):
        return Failure(
            Code.NOT_OWNED,
            f"{key.name!r} matches no pattern under `owns` in {environment.name}. Add a pattern, "
            "or revoke the key in Twenty.",
        )
    return None
