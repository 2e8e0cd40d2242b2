"""The plan of removing tokens from sinks that no manifest declares any more, or of revoked keys.

A token is removed only if it was read back or a receipt proves it, names the workspace, and belongs
to a key of the sink's own name or to a key that is no longer live there.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, assert_never

from provisioner.model.sink_content import ApiKeyToken, NotAToken, NoToken, Unavailable, Unreadable
from provisioner.plan.actions import Clean
from provisioner.plan.findings import LeftBehind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from provisioner.errors.problem import Place
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation, ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.plan.actions import CleanReason
    from provisioner.plan.findings import LeftBehindProblem
    from provisioner.plan.options import PlanOptions

    SinkContents = Mapping[Address, SinkContent]


class FormerSink(NamedTuple):
    """A sink that the manifests declared before, and that none of them declares now.

    Attributes:
        name: the name of its key; the present one if the key was renamed.
        names: that name, and those that the key had before.
        address: the address of the sink.
        clean: whether its declaration had `clean: true`, or the same kind of sink has it now.
        place: the position of the key in its manifest; None if no manifest declares it now.
    """

    name: str
    names: frozenset[str]
    address: Address
    clean: bool
    place: Place | None


def former_sinks(
    desired: Mapping[str, tuple[DesiredKey, ...]], previous: Mapping[str, tuple[DesiredKey, ...]]
) -> dict[str, tuple[FormerSink, ...]]:
    """Return the sinks that only the previous manifests declare, by environment.

    A place that any key of any environment declares now is in use, whatever it is called.

    Args:
        desired: the desired keys by environment.
        previous: the same of the previous manifests. Environments that exist only there are not
            looked at.
    """
    in_use: dict[tuple[str, ...], list[Address]] = defaultdict(list)
    for keys in desired.values():
        for key in keys:
            for address in key.deliver:
                in_use[address.neighbourhood].append(address)
    found: dict[str, tuple[FormerSink, ...]] = {}
    for environment, keys in desired.items():
        left = [
            (key, address)
            for key in previous.get(environment, ())
            for address in key.deliver
            if not any(address.may_be(one) for one in in_use.get(address.neighbourhood, ()))
        ]
        if left:
            found[environment] = tuple(_with_present_names(left, keys))
    return found


def _with_present_names(
    left: Iterable[tuple[DesiredKey, Address]], desired: Iterable[DesiredKey]
) -> Iterator[FormerSink]:
    """Yield former sinks with the names that their keys have now."""
    present: dict[str, DesiredKey] = {}
    for key in desired:
        present |= dict.fromkeys(key.moved_from, key)
    present |= {key.name: key for key in desired}
    for key, address in left:
        now = present.get(key.name)
        names = {key.name, *key.moved_from} | (set() if now is None else {now.name})
        kinds = () if now is None else (one.kind for one in now.clean)
        yield FormerSink(
            key.name if now is None else now.name,
            frozenset(names),
            address,
            address in key.clean or address.kind in kinds,
            None if now is None else now.place,
        )


def plan_former_sinks(
    former: Sequence[FormerSink],
    observation: Observation,
    options: PlanOptions,
    sink_contents: SinkContents,
) -> Iterator[Clean | LeftBehind]:
    """Yield the action or the finding for each former sink that may still hold its token.

    Args:
        former: the former sinks of the environment.
        observation: the observed state of its workspace.
        options: the options of the plan; names that they do not select are left out.
        sink_contents: the contents of the sinks; a missing address was not read.
    """
    live = {key.id.lower(): key for key in _live(observation)} if former else {}
    for sink in former:
        content = sink_contents.get(sink.address)
        if content is None or not options.selects(sink.name):
            continue
        token = _removable(content)
        if token is None:
            if isinstance(content, Unreadable | Unavailable):
                yield LeftBehind(sink.name, (), sink.address, "unreadable")
        elif not _is_foreign(token, observation):
            owner = live.get(token.key.lower())
            problem = _problem(sink, owner, observation.own_key, options)
            if problem is None:
                reason: CleanReason = "undeclared" if sink.place is None else "moved"
                yield Clean(sink.name, reason, token, sink.address, sink.place)
            else:
                yield LeftBehind(sink.name, (token.key,), sink.address, problem)


def plan_sinks_of_revoked(
    desired: Iterable[DesiredKey],
    revoked: Collection[str],
    observation: Observation,
    options: PlanOptions,
    sink_contents: SinkContents,
) -> Iterator[Clean]:
    """Yield the removals from the sinks of names whose last live key is revoked, or is gone.

    That includes a name whose keys an earlier run revoked without getting as far as its sinks.

    Args:
        desired: the desired keys of the names to revoke.
        revoked: the ids of the live keys that the run revokes.
        observation: the observed state of the workspace.
        options: the options of the plan.
        sink_contents: the contents of the sinks; a missing address was not read.
    """
    live = {key.id.lower(): key for key in _live(observation)}
    revoked = {id_.lower() for id_ in revoked}
    served = {key.name for id_, key in live.items() if id_ not in revoked}
    for key in desired:
        for address in sinks_to_clean(key, options):
            content = sink_contents.get(address)
            token = None if content is None else _removable(content)
            if (
                key.name not in served
                and address.removes
                and token is not None
                and not _is_foreign(token, observation)
                and (token.key.lower() in revoked or token.key.lower() not in live)
            ):
                yield Clean(
                    *(key.name, "revoked", token, address, key.place),
                    annotations=key.annotations,
                )


def sinks_to_clean(key: DesiredKey, options: PlanOptions) -> tuple[Address, ...]:
    """Return the sinks of a key from which its token is removed once the key is revoked."""
    return key.deliver if options.clean else key.clean


def _removable(content: SinkContent) -> ApiKeyToken | None:
    """Return the token that a sink is known to hold, or whose receipt it left; None without one."""
    match content:
        case ApiKeyToken():
            return content
        case NoToken(leftover=token):
            return token
        case Unreadable():
            return content.proven_token
        case NotAToken() | Unavailable():
            return None
        case _:
            assert_never(content)


def _problem(
    sink: FormerSink, owner: ObservedKey | None, own_key: str | None, options: PlanOptions
) -> LeftBehindProblem | None:
    """Return why a token of the workspace is not removed; None if it is.

    Args:
        sink: the sink that holds it.
        owner: its key; None if that is not live.
        own_key: the id of the key that the run is signed in with; None for other credentials.
        options: the options of the plan.
    """
    if owner is not None and owner.id == own_key:
        return "own_key"
    if owner is not None and owner.name not in sink.names:
        return "other_key"
    if not sink.address.removes:
        return "unable"
    return None if sink.clean or options.clean else "not_asked"


def _is_foreign(token: ApiKeyToken, observation: Observation) -> bool:
    """Return whether nothing shows that a token is of this workspace."""
    workspace = observation.workspace
    return (
        workspace is None or token.workspace is None or token.workspace.lower() != workspace.lower()
    )


def _live(observation: Observation) -> Iterator[ObservedKey]:
    return (key for key in observation.keys if key.live(observation.server_time))
