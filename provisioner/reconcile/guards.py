"""Guards: checks of all plans of a run, before the first write, against costly mistakes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, assert_never
from urllib.parse import urlsplit

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import RefusedError
from provisioner.errors.pluralize import pluralize
from provisioner.http_client.loopback import canonical
from provisioner.model.expiry import CLOCK_TOLERANCE
from provisioner.plan import (
    Clean,
    Create,
    Deliver,
    Planned,
    Rename,
    Revoke,
    Rotate,
    Unobserved,
    Update,
)
from provisioner.reconcile.proposal import ObservedEnvironment, PlannedEnvironment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.plan import EnvironmentPlan, GuardOverrides, PlanOptions
    from provisioner.reconcile.proposal import PlanRequest

_SEEDED = "20202020-"
"""The prefix of the ids that every development server is seeded with."""

_MAX_REASONS = 5
"""Reasons that one message lists."""


def guard(
    observed: Iterable[ObservedEnvironment | Unobserved],
    planned: Iterable[PlannedEnvironment | Unobserved],
    request: PlanRequest,
) -> RefusedError | None:
    """Return why a run is refused: the reasons against its workspaces, or else its plans, or None.

    Args:
        observed: the environments as they were observed.
        planned: their plans.
        request: the desired keys, the options and the overrides of the run.
    """
    refusal = guard_workspaces(observed)
    if refusal is not None:
        return refusal
    plans = [one for one in planned if isinstance(one, PlannedEnvironment)]
    reasons = [
        reason
        for (environment, _, observation), plan in plans
        for reason in refusals(
            environment,
            request.desired.get(environment.name, ()),
            observation,
            plan,
            request.overrides,
        )
    ]
    refusal = combine_refusals(reasons)
    if refusal is not None or request.sharded:
        return refusal
    return nothing_selected([plan for _, plan in plans], request.options)


def guard_workspaces(
    observed: Iterable[ObservedEnvironment | Unobserved],
) -> RefusedError | None:
    """Return why the workspaces themselves are wrong; None if each is right and no two the same."""
    wrong: list[RefusedError] = []
    pairs: list[tuple[Environment, Observation]] = []
    for one in observed:
        match one:
            case ObservedEnvironment(environment, _, observation):
                pairs.append((environment, observation))
            case Unobserved(refusal=refusal):
                wrong += [] if refusal is None else [refusal]
            case _:
                assert_never(one)
    return combine_refusals([*wrong, *(error for _, error in shared_workspaces(pairs))])


def refusals(
    environment: Environment,
    desired: tuple[DesiredKey, ...],
    observation: Observation,
    planned: Planned,
    overrides: GuardOverrides,
) -> Iterator[RefusedError]:
    """Yield the reasons why the plan of one environment must not be carried out.

    Args:
        environment: the environment.
        desired: all of its desired keys, including those that the plan does not select.
        observation: the observation that the plan is based on.
        planned: the plan.
        overrides: the guards that the run may override.
    """
    reasons = (
        _clocks_differ(environment, observation, planned),
        _manifests_vanished(environment, desired, planned),
        _too_many_revocations(environment, observation, planned, overrides),
        _protected_keys(environment, desired, planned, overrides),
    )
    return filter(None, reasons)


def _clocks_differ(
    environment: Environment, observation: Observation, planned: Planned
) -> RefusedError | None:
    """Refuse to set expiries by a clock that is not the server's; `revoke` sets none."""
    only_requested = all(
        isinstance(one, Clean) or (isinstance(one, Revoke) and one.reason == "asked")
        for one in planned.unblocked
    )
    ahead = observation.server_ahead
    if only_requested or ahead is None or abs(ahead) <= CLOCK_TOLERANCE:
        return None
    return RefusedError(
        Code.CLOCK_OFF,
        f"The clocks of this machine and of {environment.name} are "
        f"{abs(ahead).total_seconds():.0f} s apart.",
        remedy="Correct the wrong clock: the expiry of new keys depends on it.",
    )


def _manifests_vanished(
    environment: Environment, desired: tuple[DesiredKey, ...], planned: Planned
) -> RefusedError | None:
    """Refuse to prune or clean an environment that has no desired keys, as with a wrong -m."""
    undeclared = {
        type(one)
        for one in planned.unblocked
        if isinstance(one, Revoke | Clean) and one.reason == "undeclared"
    }
    if desired or not undeclared:
        return None
    consequence, remedy = "the tokens of its keys would be removed from their sinks", ""
    if Revoke in undeclared:
        consequence = f"{len(_revoked_names(planned))} of its keys would be revoked"
        remedy = "; to revoke the keys, use `provision revoke`"
    return RefusedError(
        Code.MANIFESTS_VANISHED,
        f"The manifests no longer declare any keys for {environment.name}, and {consequence}.",
        remedy=f"Check -m and the manifests{remedy}.",
    )


def _too_many_revocations(
    environment: Environment, observation: Observation, planned: Planned, overrides: GuardOverrides
) -> RefusedError | None:
    """Refuse to revoke more keys than the limit."""
    revoked = len(_revoked_names(planned))
    if not revoked:
        return None
    limit = overrides.max_revoke
    if limit is None:
        owned = sum(
            key.live(observation.server_time) and environment.owns_key(key.name)
            for key in observation.keys
        )
        limit = environment.guards.revocation_limit(owned)
    if revoked <= limit:
        return None
    return RefusedError(
        Code.TOO_MANY_REVOCATIONS,
        f"{pluralize(revoked, 'key')} in {environment.name} would be revoked, but the limit is "
        f"{limit}.",
        remedy=f"Check the plan; if this is intended, use --max-revoke {revoked}.",
    )


def _protected_keys(
    environment: Environment,
    desired: tuple[DesiredKey, ...],
    planned: Planned,
    overrides: GuardOverrides,
) -> RefusedError | None:
    """Refuse to revoke keys that their manifest or their environment protects."""
    names = set(_revoked_names(planned).values())
    if not environment.protect:
        names &= {key.name for key in desired if key.protect}
    if overrides.allow_protected or not names:
        return None
    others = len(names) - 1
    subject = (
        f"and {others} more in {environment.name} are" if others else f"in {environment.name} is"
    )
    return RefusedError(
        Code.PROTECTED,
        f"{min(names)!r} {subject} protected but would be revoked.",
        remedy="If this is intended, use --allow-protected.",
    )


def _revoked_names(planned: Planned) -> dict[str, str]:
    """Return the names, by id, of the revoked keys that the guards count.

    The predecessor in a rotation does not count: its successor is delivered, so nobody loses
    access. Of several older keys of a name only the newest is the predecessor; the others count.
    """
    names: dict[str, str] = {}
    predecessors: dict[str, str] = {}
    for action in planned.unblocked:
        match action:
            case Revoke(key_id=key_id, name=name, reason=reason):
                names[key_id] = name
                if reason == "superseded":
                    predecessors[name] = key_id
            case Rotate(at_once=True, predecessors=ids):
                names |= dict.fromkeys(ids, action.name)
            case Create() | Update() | Rename() | Deliver() | Rotate() | Clean():
                pass
            case _:
                assert_never(action)
    return {id_: name for id_, name in names.items() if predecessors.get(name) != id_}


def shared_workspaces(
    observed: Sequence[tuple[Environment, Observation]],
) -> Iterator[tuple[tuple[str, ...], RefusedError]]:
    """Yield the environments that share a workspace, and the error: they would fight over its keys.

    Environments whose workspaces have the same id share it, whatever their addresses are: a server
    has many. Only development servers are all seeded with the same id; those share a workspace if
    they have the same address or list the same key.

    Args:
        observed: each environment with the observation of its workspace.
    """
    by_id: dict[str, list[tuple[Environment, Observation]]] = defaultdict(list)
    for environment, observation in observed:
        if observation.workspace is not None:
            by_id[observation.workspace.lower()].append((environment, observation))
    for id_, same_id in by_id.items():
        for shared in _group_by_server(same_id) if id_.startswith(_SEEDED) else [same_id]:
            if len(shared) > 1:
                names = tuple(environment.name for environment, _ in shared)
                error = RefusedError(
                    Code.WORKSPACE_SHARED,
                    f"{' and '.join(names)} point to the same workspace, {shared[0][1].workspace}.",
                    remedy="Point each at its own workspace, or merge them into one environment; "
                    "if they are copies of one workspace, select them one at a time with -e.",
                )
                yield names, error


def _group_by_server(
    same_id: Sequence[tuple[Environment, Observation]],
) -> list[list[tuple[Environment, Observation]]]:
    """Group environments with a seeded id by the addresses or keys that they have in common."""
    groups: list[tuple[set[object], list[int]]] = []
    for number, (environment, observation) in enumerate(same_id):
        features: set[object] = {_server(environment.url), *_unseeded_keys(observation)}
        joined = [group for group in groups if not group[0].isdisjoint(features)]
        groups = [group for group in groups if group[0].isdisjoint(features)]
        numbers = [one for _, members in joined for one in members]
        groups.append((features.union(*(other for other, _ in joined)), [*numbers, number]))
    return [[same_id[number] for number in sorted(numbers)] for _, numbers in groups]


def _unseeded_keys(observation: Observation) -> frozenset[tuple[str, datetime]]:
    """Return the keys that only one workspace can have, because they were not seeded."""
    return frozenset(
        (key.id.lower(), key.created_at)
        for key in observation.keys
        if not key.id.lower().startswith(_SEEDED)
    )


def _server(url: str) -> tuple[str | None, int | None]:
    """Return the canonical host and port of a URL."""
    parts = urlsplit(url)
    host = None if parts.hostname is None else canonical(parts.hostname)
    return host, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def combine_refusals(reasons: Sequence[RefusedError]) -> RefusedError | None:
    """Combine all reasons against a run into one error with the first one's code; None if none."""
    if len(reasons) < 2:  # noqa: PLR2004 - a single reason needs no combining
        return next(iter(reasons), None)
    texts = [one.failure.text for one in reasons[:_MAX_REASONS]]
    more = len(reasons) - _MAX_REASONS
    return RefusedError(
        reasons[0].code,
        " ".join(texts) + (f" And {pluralize(more, 'more reason')}." if more > 0 else ""),
    )


def nothing_selected(plans: Iterable[EnvironmentPlan], options: PlanOptions) -> RefusedError | None:
    """Return the error for a run that may revoke keys if its globs match no key; else None."""
    planned = [part for part in plans if isinstance(part, Planned)]
    matched = any(part.actions or part.kept or part.findings for part in planned)
    if not (options.prune or options.dedupe) or not options.only or not planned or matched:
        return None
    return RefusedError(
        Code.NOTHING_SELECTED,
        f"No key matches --only {' '.join(options.only)}.",
        remedy="Correct the glob: in a run that may revoke keys, it must match at least one key.",
    )
