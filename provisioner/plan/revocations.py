"""Revocations: the action that ends a live key, and the plan of keys named for revocation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.failure import Failure
from provisioner.model.globs import matches
from provisioner.plan.actions import Planned, Revoke
from provisioner.plan.estimate import estimate
from provisioner.plan.options import PlanOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.plan.actions import RevokeReason

_NO_OPTIONS = PlanOptions()


def revoke(observed: ObservedKey, reason: RevokeReason, key: DesiredKey | None = None) -> Revoke:
    """Return the action that revokes one live key."""
    return Revoke(
        name=observed.name,
        reason=reason,
        key_id=observed.id,
        expires_at=observed.expires_at,
        role=observed.role,
        place=None if key is None else key.place,
    )


def plan_revocations(
    environment: Environment,
    observation: Observation,
    names_or_ids: frozenset[str],
    options: PlanOptions = _NO_OPTIONS,
    desired: Iterable[DesiredKey] = (),
) -> Planned:
    """The end of live keys that someone names, each by its name or its id.

    Args:
        environment: whose workspace was observed.
        observation: one look at the workspace.
        asked: names and ids.
        options: what bounds the plan.
        desired: its desired keys, for where a manifest names a key that is to end.
    """
    wanted = {key.name: key for key in desired}
    ids = {one.lower() for one in names_or_ids}
    live = [one for one in observation.keys if one.live(observation.server_time)]
    named = [one for one in live if one.name in names_or_ids or one.id.lower() in ids]
    chosen = [one for one in named if options.selects(one.name)]
    actions = tuple(
        revoke(one, "asked", wanted.get(one.name))._replace(
            blocked=_refusal(environment, observation, one)
        )
        for one in sorted(chosen, key=lambda one: (one.name, one.creation_order))
    )
    return Planned(
        environment=environment.name,
        url=environment.url,
        generation=observation.generation,
        workspace=observation.workspace,
        actions=actions,
        kept=(),
        findings=(),
        notes=tuple(_recreate_notes(actions)),
        estimate=estimate(environment.limits, observation, actions),
    )


def _recreate_notes(actions: Iterable[Revoke]) -> Iterable[str]:
    """What people should know of keys that end and that a manifest goes on to name."""
    places = {
        one.name: one.place for one in actions if one.blocked is None and one.place is not None
    }
    for name, place in places.items():
        yield (
            f"{place.file} line {place.line} goes on to name {name!r}: unless that is removed, the "
            "next `apply` makes it anew"
        )


def _refusal(
    environment: Environment, observation: Observation, key: ObservedKey
) -> Failure | None:
    """Why a key must not be revoked."""
    if key.id == observation.own_key:
        return Failure(
            "own_key",
            f"{key.name!r} ({key.id}) is the key that this run is signed in with. Use another "
            "credential to revoke it.",
        )
    if not matches(key.name, environment.owns):
        return Failure(
            "not_owned",
            f"{key.name!r} matches no pattern under `owns` of {environment.name}. Add a pattern, "
            "or revoke the key in Twenty.",
        )
    return None
