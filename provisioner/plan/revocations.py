"""Revocations: the action that revokes a live key, and the plan of `provision revoke`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.plan.actions import Planned, Revoke
from provisioner.plan.estimate import estimate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey
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
) -> Planned:
    """Plan the revocation of the live keys whose names or ids `options.revoke` lists.

    Args:
        environment: the environment of the workspace.
        desired: its desired keys, for the positions of revoked keys in the manifests.
        observation: the observed state of the workspace.
        options: the keys to revoke, and the globs that limit them.
    """
    declared = {key.name: key for key in desired}
    ids = {one.lower() for one in options.revoke}
    requested = [
        one
        for one in observation.keys
        if one.live(observation.server_time)
        and (one.name in options.revoke or one.id.lower() in ids)
        and options.selects(one.name)
    ]
    actions = tuple(
        revoke(one, "asked", declared.get(one.name))._replace(
            blocked=_refusal(environment, observation, one)
        )
        for one in sorted(requested, key=lambda one: (one.name, one.creation_order))
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
        actions=actions,
        kept=(),
        findings=(),
        notes=tuple(dict.fromkeys(notes)),
        estimate=estimate(environment.limits, observation, actions),
    )


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
