"""What is otherwise than it was when a plan was made: in the manifests, and in the workspaces.

The digest decides whether a plan still holds, and what the plan file shows has to be what the
digest stands for. What moved is worked out for people, from what the plan file says and from what a
file of the new plan would say.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from provisioner.errors.exceptions import StalePlanError
from provisioner.model.expiry import format_moment
from provisioner.plan import Unobserved
from provisioner.planfile.read import parse_document
from provisioner.planfile.write import document

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from provisioner.plan import Plan
    from provisioner.planfile.model import (
        PlanFile,
        PlanFileInput,
        SavedAction,
        SavedEnvironment,
        SavedKey,
        SavedObserved,
    )

_MAX_CHANGES = 8
"""Moves that are told, of which there may be thousands."""

_MAX_LENGTH = 300
_PLAN_AGAIN = (
    "Plan anew, and review that. Where an apply of this file was interrupted, the new plan holds "
    "what it left."
)
_RETRY = "Nothing tells whether the plan still holds: apply it again when that works."


def stale_plan(name: str, then: PlanFile, plan_input: PlanFileInput) -> StalePlanError:
    """Why a plan of another digest must not be carried out in place of the reviewed one.

    Args:
        name: of the plan file.
        then: the reviewed plan.
        plan_input: the plan made now, as of the moment of the reviewed one.
    """
    now = parse_document(document(plan_input))
    lost = _unobserved(plan_input.plan)
    moves = tuple(_changes(then, now))
    if lost and len(moves) == len(lost):
        return StalePlanError("plan_unconfirmed", f"{lost[0]}.", remedy=_RETRY)
    if _applied(then, now):
        return StalePlanError(
            "plan_applied",
            f"All that {name} would do is done: it has been applied already, as it seems.",
            remedy="There is nothing left to do.",
        )
    told = "; ".join(move[:_MAX_LENGTH] for move in moves[:_MAX_CHANGES])
    more = f"; and {len(moves) - _MAX_CHANGES} more" if len(moves) > _MAX_CHANGES else ""
    made_at = format_moment(then.created_at)
    return StalePlanError(
        "plan_stale", f"{name}, made at {made_at}, does not hold any more: {told}{more}.",
        remedy=_PLAN_AGAIN,
    )  # fmt: skip


def was_edited(then: PlanFile, plan_input: PlanFileInput) -> bool:
    """Whether a plan file shows something else than its digest stands for.

    Args:
        then: a plan file.
        plan_input: the plan of the same digest that was made now.
    """
    shown = {each.name: each for each in then.environments}
    made = {each.name: each for each in parse_document(document(plan_input)).environments}
    return shown.keys() != made.keys() or any(
        (each.url, each.workspace) != (made[name].url, made[name].workspace)
        or _actions_differ(each.actions, made[name].actions)
        for name, each in shown.items()
    )


def _actions_differ(shown: Iterable[SavedAction], made: Iterable[SavedAction]) -> bool:
    """Whether actions are shown that are not done, or the other way round.

    What is masked on one machine need not be on another: of that the ids and the kind count.
    """
    before, after = ({one.reviewed: one for one in actions} for actions in (shown, made))
    odd = [before[key] for key in before.keys() - after.keys()]
    even = [after[key] for key in after.keys() - before.keys()]
    if odd and (all(one.masked for one in odd) or all(one.masked for one in even)):
        return {(one.kind, one.ids) for one in odd} != {(one.kind, one.ids) for one in even}
    return bool(odd or even)


def digest_mismatch(digest: str, made: Plan) -> StalePlanError | None:
    """Why a plan must not be carried out where only the digest of the reviewed one is known."""
    if made.digest == digest:
        return None
    lost = _unobserved(made)
    if lost:
        return StalePlanError("plan_unconfirmed", f"{lost[0]}.", remedy=_RETRY)
    return StalePlanError(
        "digest_differs",
        f"Something else would be done than was reviewed: the digest is {made.digest}, and "
        f"not {digest}.",
        remedy="Plan anew, and review that; `provision apply FILE` says what moved.",
    )


def _unobserved(made: Plan) -> list[str]:
    return [
        f"{part.environment} could not be looked at: {part.failure.code}: {part.failure.message}"
        for part in made.environments
        if isinstance(part, Unobserved)
    ]


def _applied(then: PlanFile, now: PlanFile) -> bool:
    """Whether all that could be done is done, and nothing besides moved."""
    before = {each.name: each for each in then.environments}
    after = {each.name: each for each in now.environments}
    return before.keys() == after.keys() and all(
        _environment_applied(before[name], after[name]) for name in before
    )


def _environment_applied(then: SavedEnvironment, now: SavedEnvironment) -> bool:
    """The same of one environment."""
    grounds = ((each.url, each.workspace, each.error, each.desired) for each in (then, now))
    if len(set(grounds)) > 1:
        return False
    # One that another hand made in between has another end.
    new = {(key.name, key.expires_at) for key in set(now.observed) - set(then.observed)}
    ids = {key.id for key in now.observed}
    left = dict(_by_name(now.actions))
    for name, actions in _by_name(then.actions).items():
        if all(one.error is not None for one in actions):
            if _identities(actions) != _identities(left.pop(name, ())):
                return False
            continue
        for one in actions:
            match one.kind:
                case "create" | "rotate" if (name, one.expires_at) not in new:
                    return False
                case "revoke" if not ids.isdisjoint(one.ids):
                    return False
                case _:
                    pass
    return not left


def _identities(actions: Iterable[SavedAction]) -> frozenset[tuple[object, ...]]:
    """What is to be done, by all that counts."""
    return frozenset(one.identity for one in actions)


def _changes(then: PlanFile, now: PlanFile) -> Iterator[str]:
    """What moved, one sentence each without its full stop; one at least."""
    before = {each.name: each for each in then.environments}
    after = {each.name: each for each in now.environments}
    moves = [
        [f"{name}: {move}" for move in _environment_changes(before.get(name), after.get(name))]
        for name in sorted(before.keys() | after.keys())
    ]
    # The first of each environment, then the second: none is hidden by the many of another.
    yield from filter(None, chain.from_iterable(zip_longest(*moves)))
    found = any(moves)
    if not found and then.version != now.version:
        yield f"it was made by provision {then.version}, and this is {now.version}"
    elif not found:
        yield "its digest is not that of a plan made now"


def _environment_changes(
    then: SavedEnvironment | None, now: SavedEnvironment | None
) -> Iterator[str]:
    if now is None or then is None:
        told = "is declared, and was not" if then is None else "is not declared any more"
        yield f"the environment {told}"
        return
    if then.url != now.url:
        yield f"its url was {then.url} and is {now.url}"
    if now.error is not None:
        yield f"it could not be looked at ({now.error})"
        return
    if then.workspace != now.workspace:
        yield f"it is another workspace, {now.workspace}, and was {then.workspace}"
    if then.generation != now.generation:
        yield f"its generation was {then.generation} and is {now.generation}"
    edited = dict(_manifest_changes(then, now))
    yield from (f"the manifests {told}" for told in edited.values())
    # Of another workspace or server nothing is the same, and each of its keys would be told.
    if (then.workspace, then.generation) == (now.workspace, now.generation):
        yield from _action_changes(then, now, frozenset(edited))


def _manifest_changes(then: SavedEnvironment, now: SavedEnvironment) -> Iterator[tuple[str, str]]:
    """What the manifests ask for otherwise, by the name of the key."""
    before = {key.name: key for key in then.desired}
    after = {key.name: key for key in now.desired}
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield name, f"do not ask for {name!r} any more"
        elif name not in before:
            yield name, f"ask for {name!r}, and did not"
        elif before[name] != after[name]:
            yield (
                name,
                f"ask for {name!r} otherwise: {', '.join(_changed_fields(before[name], after[name]))}",
            )


def _changed_fields(then: SavedKey, now: SavedKey) -> Iterator[str]:
    for part, was, is_ in zip(then._fields, then, now, strict=True):
        if was != is_:
            yield part if part == "sinks" else f"{part} {_shown(was)} is now {_shown(is_)}"


def _action_changes(
    then: SavedEnvironment, now: SavedEnvironment, edited: frozenset[str]
) -> Iterator[str]:
    """Actions that are otherwise though their keys are wanted as before, and why."""
    for role in sorted(then.roles.keys() & now.roles.keys()):
        if then.roles[role] != now.roles[role]:
            yield f"the role {role!r} is another one, {now.roles[role]}, and was {then.roles[role]}"
    before, after = _by_name(then.actions), _by_name(now.actions)
    for name in sorted((before.keys() | after.keys()) - edited):
        was, is_ = before.get(name, ()), after.get(name, ())
        if _identities(was) != _identities(is_):
            cause = (
                _key_changes(name, then, now)
                or _consequence(was, is_)
                or _environment_settings(then, now)
            )
            effect = f"to be done was {_kinds(was)} and is {_kinds(is_)}"
            yield f"{name!r} {cause or 'is handled otherwise'} ({effect})"


def _key_changes(name: str, then: SavedEnvironment, now: SavedEnvironment) -> str | None:
    """What became of the live keys of a name, None where they are as they were."""
    before = {key.id: key for key in then.observed if key.name == name}
    after = {key.id: key for key in now.observed if key.name == name}
    found = [_gone(before[id_], now) for id_ in sorted(before.keys() - after.keys())]
    new = sorted(after.keys() - before.keys())
    if new:
        which = f"is there meanwhile ({', '.join(new)})"
        found.append(which if not before else f"has another live key meanwhile ({', '.join(new)})")
    for id_ in sorted(before.keys() & after.keys()):
        was, is_ = before[id_], after[id_]
        if was.expires_at != is_.expires_at:
            found.append(f"({id_}) ended at {was.expires_at} and now ends at {is_.expires_at}")
        if was.role != is_.role:
            found.append(f"({id_}) had the role {_shown(was.role)} and has {_shown(is_.role)}")
    return ", ".join(found) or None


def _gone(key: SavedObserved, now: SavedEnvironment) -> str:
    other = next((each.name for each in now.observed if each.id == key.id), None)
    if other is not None:
        return f"({key.id}) was renamed to {other!r}"
    if now.observed_at is not None and key.expires_at <= now.observed_at:
        return f"({key.id}) has ended at {key.expires_at}"
    return f"({key.id}) was revoked or deleted meanwhile"


def _consequence(was: tuple[SavedAction, ...], is_: tuple[SavedAction, ...]) -> str | None:
    """What the actions themselves tell, where the keys are as they were."""
    before = _identities(was)
    new = [one for one in is_ if one.identity not in before]
    blocked = next((one.error for one in new if one.error is not None), None)
    if blocked is not None:
        return f"cannot be done any more: {blocked}"
    if {one.kind for one in new} & {one.kind for one in was if one.error is not None}:
        return "can be done now, and could not"
    if not new and any(one.kind == "deliver" for one in was):
        return "has been delivered meanwhile"
    return next(filter(None, map(_new_reason, new)), None)


def _new_reason(action: SavedAction) -> str | None:
    """Why an action is to be done that was not, where that tells what happened."""
    match action.kind, action.reason:
        case "deliver", reason:
            return f"is not delivered as it was: {reason.replace('_', ' ')}"
        case "rotate", _:
            return "is due for its successor meanwhile"
        case "revoke", "superseded":
            return "has been followed by its successor for its overlap"
        case _:
            return None


def _environment_settings(then: SavedEnvironment, now: SavedEnvironment) -> str | None:
    """What environments.yaml says otherwise, which decides over keys that nothing else touched."""
    if then.owns != now.owns:
        return f"is owned otherwise: `owns` was {_shown(then.owns)} and is {_shown(now.owns)}"
    if then.role != now.role:
        return f"names no role, and that of the environment was {_shown(then.role)}"
    return None


def _by_name(actions: Iterable[SavedAction]) -> Mapping[str, tuple[SavedAction, ...]]:
    found: dict[str, tuple[SavedAction, ...]] = defaultdict(tuple)
    for action in actions:
        found[action.name] += (action,)
    return found


def _kinds(actions: tuple[SavedAction, ...]) -> str:
    return ", ".join(one.kind for one in actions) or "nothing"


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case tuple():
            return f"[{', '.join(map(str, value))}]"
        case _:
            return str(value)
