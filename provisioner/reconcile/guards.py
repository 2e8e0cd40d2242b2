"""What a run must not do by mistake: looked at for all environments, before the first write."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from provisioner.errors.exceptions import RefusedError
from provisioner.errors.pluralize import pluralize
from provisioner.http_client.loopback import canonical
from provisioner.model.expiry import CLOCKS_APART
from provisioner.model.globs import matches
from provisioner.plan import Planned, Revoke, Rotate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.plan import EnvironmentPlan, PlanOptions

_SEEDED = "20202020-"
"""How the ids begin that a development server is seeded with, the same on every one."""

_TOLD = 5
"""Reasons that one message gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardOverrides:
    """What a run was told that it may do.

    Attributes:
        max_revoke: keys that it may revoke in each environment; None leaves it to the
            environment's guards.
        protected: whether it may revoke what is protected.
    """

    max_revoke: int | None = None
    allow_protected: bool = False


def refusals(
    environment: Environment,
    desired: tuple[DesiredKey, ...],
    observation: Observation,
    planned: Planned,
    overrides: GuardOverrides,
) -> Iterator[RefusedError]:
    """Why the plan of one environment must not be carried out.

    Args:
        environment: whose plan it is.
        desired: all of its desired keys, whatever bounds the plan.
        observation: the look that the plan follows from.
        planned: the plan.
        overrides: what the run was told that it may do.
    """
    name = environment.name
    ending = tuple(_ending(planned))
    asked = all(isinstance(one, Revoke) and one.reason == "asked" for one in planned.unblocked)
    if not asked and observation.ahead is not None:
        apart = abs(observation.ahead)
        if apart > CLOCKS_APART:
            yield RefusedError(
                "clock_off",
                f"This machine's clock and that of {name} are {apart.total_seconds():.0f} s apart.",
                remedy="Set the clock that is wrong: ends of keys are counted by it.",
            )
    if not ending:
        return
    undeclared = (one for one in planned.unblocked if isinstance(one, Revoke))
    if not desired and any(one.reason == "undeclared" for one in undeclared):
        yield RefusedError(
            "manifests_vanished",
            f"No manifest names {name} any more, and {len(ending)} of its keys would be revoked.",
            remedy="Check -m and the manifests; to end the keys, use `provision revoke`.",
        )
    owned = sum(
        key.live(observation.server_time) and matches(key.name, environment.owns)
        for key in observation.keys
    )
    most = environment.guards.limit(owned) if overrides.max_revoke is None else overrides.max_revoke
    lost = _lost(ending)
    if len(lost) > most:
        yield RefusedError(
            "too_many_revocations",
            f"{len(lost)} keys of {name} would be revoked, and at most {most} may be.",
            remedy=f"Look at the plan; if it is meant, use --max-revoke {len(lost)}.",
        )
    if overrides.allow_protected:
        return
    guarded = {key.name for key in desired if key.protect}
    held = sorted(each for each in set(lost.values()) if environment.protect or each in guarded)
    if held:
        alone = len(held) == 1
        are = f"in {name} is" if alone else f"and {len(held) - 1} more in {name} are"
        yield RefusedError(
            "protected",
            f"{held[0]!r} {are} protected, and would be revoked.",
            remedy="If it is meant, use --allow-protected.",
        )


def shared_workspaces(
    seen: Sequence[tuple[Environment, Observation]],
) -> Iterator[tuple[tuple[str, ...], RefusedError]]:
    """Yield the environments of one workspace, which would fight over its keys, and why not.

    Workspaces of one id are one, whatever the addresses are: a server has many. Only development
    servers share an id that they are seeded with; of those the address decides, and a key in both.

    Args:
        seen: each environment with the look at its workspace.
    """
    same_id: dict[str, list[tuple[Environment, Observation]]] = defaultdict(list)
    for environment, observation in seen:
        if observation.workspace is not None:
            same_id[observation.workspace.lower()].append((environment, observation))
    for id_, group in same_id.items():
        for shared in _told_apart(group) if id_.startswith(_SEEDED) else [group]:
            if len(shared) > 1:
                names = tuple(environment.name for environment, _ in shared)
                told = " and ".join(names)
                error = RefusedError(
                    "workspace_shared",
                    f"{told} turn out to be one workspace, {shared[0][1].workspace}.",
                    remedy="Point each at a workspace of its own, or merge them into one; copies of"
                    " one workspace are run one at a time, with -e.",
                )
                yield names, error


def _told_apart(
    group: Sequence[tuple[Environment, Observation]],
) -> list[list[tuple[Environment, Observation]]]:
    """Those of one seeded id, together where they have an address or a key in common."""
    joined = list(range(len(group)))

    def first(number: int) -> int:
        while joined[number] != number:
            number = joined[number]
        return number

    seen: dict[object, int] = {}
    for number, (environment, observation) in enumerate(group):
        for mark in (_server(environment.url), *_grown(observation)):
            joined[first(number)] = first(seen.setdefault(mark, number))
    found: dict[int, list[tuple[Environment, Observation]]] = defaultdict(list)
    for number, one in enumerate(group):
        found[first(number)].append(one)
    return list(found.values())


def _grown(observation: Observation) -> frozenset[tuple[str, datetime]]:
    """The keys that no other workspace has: those that were not seeded."""
    return frozenset(
        (key.id.lower(), key.created_at)
        for key in observation.keys
        if not key.id.lower().startswith(_SEEDED)
    )


def _server(url: str) -> tuple[str | None, int | None]:
    """Host and port of a url, however they are written."""
    parts = urlsplit(url)
    host = None if parts.hostname is None else canonical(parts.hostname)
    return host, parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def combine_refusals(found: Sequence[RefusedError]) -> RefusedError | None:
    """All that speaks against a run as one, named by the first; None where nothing does."""
    if len(found) < 2:  # noqa: PLR2004 - one speaks for itself
        return next(iter(found), None)
    told = [f"{one.message} {one.remedy}" for one in found[:_TOLD]]
    more = len(found) - _TOLD
    return RefusedError(
        found[0].code,
        " ".join(told) + (f" And {pluralize(more, 'more reason')}." if more > 0 else ""),
    )


def nothing_selected(plans: Iterable[EnvironmentPlan], options: PlanOptions) -> RefusedError | None:
    """Why a run that may revoke must not go on where its globs match nothing at all."""
    planned = [part for part in plans if isinstance(part, Planned)]
    met = any(part.actions or part.kept or part.findings for part in planned)
    if not (options.prune or options.dedupe) or not options.only or not planned or met:
        return None
    return RefusedError(
        "nothing_selected",
        f"No key matches --only {' '.join(options.only)}.",
        remedy="Correct the glob: a run that may revoke does not go on by a guess.",
    )


def _lost(ending: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """The names of the keys that leave is needed for, by their ids.

    All but the predecessor of each name in a rotation, whose successor is delivered, so that nobody
    is cut off. Of several the newest is the predecessor; older ones are of no rotation.
    """
    spared = {name: id_ for id_, name, reason in ending if reason == "superseded"}
    return {id_: name for id_, name, _ in ending if spared.get(name) != id_}


def _ending(planned: Planned) -> Iterator[tuple[str, str, str]]:
    """The id and name of every key that the plan revokes, and why."""
    for action in planned.unblocked:
        match action:
            case Revoke(key_id=key_id, name=name, reason=reason):
                yield key_id, name, reason
            case Rotate(at_once=True, predecessors=ids):
                for key_id in ids:
                    yield key_id, action.name, "replaced"
            case _:
                pass
