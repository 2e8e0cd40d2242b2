"""The comparison of a reviewed plan with the current one: changed manifests and workspaces.

The digests decide whether a plan is still valid, and the plan file must show the actions of its
digest. The list of changes is only for people: it compares the plan file with the file that the
current plan would have.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import StalePlanError
from provisioner.model.expiry import format_timestamp
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
"""The most changes that a message lists; there may be thousands."""

_MAX_LENGTH = 300
_PLAN_AGAIN = (
    "Plan again and review the new plan. If an apply of this file was interrupted, the new plan "
    "contains what is left."
)
_RETRY = (
    "It is unknown whether the plan is still valid; apply it again once the environment can be "
    "observed."
)


def stale_plan(name: str, reviewed: PlanFile, plan_input: PlanFileInput) -> StalePlanError:
    """Return the error for a current plan whose digest differs from the reviewed one.

    Args:
        name: the name of the plan file.
        reviewed: the reviewed plan.
        plan_input: the current plan, made as of the time of the reviewed one.
    """
    current = parse_document(document(plan_input))
    unobserved = _unobserved(plan_input.plan)
    changes = tuple(_changes(reviewed, current))
    if unobserved and len(changes) == len(unobserved):
        return StalePlanError(Code.PLAN_UNCONFIRMED, f"{unobserved[0]}.", remedy=_RETRY)
    if _applied(reviewed, current):
        return StalePlanError(
            Code.PLAN_APPLIED,
            f"{name} seems to have been applied already: all its changes have been made.",
            remedy="There is nothing left to do.",
        )
    listed = "; ".join(change[:_MAX_LENGTH] for change in changes[:_MAX_CHANGES])
    more = f"; and {len(changes) - _MAX_CHANGES} more" if len(changes) > _MAX_CHANGES else ""
    created_at = format_timestamp(reviewed.created_at)
    return StalePlanError(
        Code.PLAN_STALE, f"{name}, created at {created_at}, is out of date: {listed}{more}.",
        remedy=_PLAN_AGAIN,
    )  # fmt: skip


def was_edited(reviewed: PlanFile, plan_input: PlanFileInput) -> bool:
    """Return whether the actions in a plan file differ from those of its digest.

    Args:
        reviewed: a plan file.
        plan_input: the current plan, which has the same digest.
    """
    shown = {each.name: each for each in reviewed.environments}
    current = {each.name: each for each in parse_document(document(plan_input)).environments}
    return shown.keys() != current.keys() or any(
        (each.url, each.workspace) != (current[name].url, current[name].workspace)
        or _actions_differ(each.actions, current[name].actions)
        for name, each in shown.items()
    )


def _actions_differ(shown: Iterable[SavedAction], current: Iterable[SavedAction]) -> bool:
    """Return whether the shown actions are not exactly those of the current plan.

    A text that is masked on one machine may not be on another, so masked actions are compared only
    by kind and ids.
    """
    before, after = ({one.reviewed: one for one in actions} for actions in (shown, current))
    removed = [before[key] for key in before.keys() - after.keys()]
    added = [after[key] for key in after.keys() - before.keys()]
    if removed and (all(one.masked for one in removed) or all(one.masked for one in added)):
        return {(one.kind, one.ids) for one in removed} != {(one.kind, one.ids) for one in added}
    return bool(removed or added)


def digest_mismatch(digest: str, plan: Plan) -> StalePlanError | None:
    """Return the error for a plan that does not have the reviewed digest; None if it has it."""
    if plan.digest == digest:
        return None
    unobserved = _unobserved(plan)
    if unobserved:
        return StalePlanError(Code.PLAN_UNCONFIRMED, f"{unobserved[0]}.", remedy=_RETRY)
    return StalePlanError(
        Code.DIGEST_DIFFERS,
        f"The plan differs from the reviewed one: its digest is {plan.digest}, not {digest}.",
        remedy="Plan again and review the new plan; `provision apply FILE` lists the differences.",
    )


def _unobserved(plan: Plan) -> list[str]:
    return [
        f"{part.environment} could not be observed: {part.failure.code}: {part.failure.text}"
        for part in plan.environments
        if isinstance(part, Unobserved)
    ]


def _applied(then: PlanFile, now: PlanFile) -> bool:
    """Return whether all possible actions are done, and nothing else changed."""
    before = {each.name: each for each in then.environments}
    after = {each.name: each for each in now.environments}
    return before.keys() == after.keys() and all(
        _environment_applied(before[name], after[name]) for name in before
    )


def _environment_applied(then: SavedEnvironment, now: SavedEnvironment) -> bool:
    inputs = ((each.url, each.workspace, each.error, each.desired) for each in (then, now))
    if len(set(inputs)) > 1:
        return False
    # The expiry distinguishes the planned key from one that someone else created.
    new = {(key.name, key.expires_at) for key in set(now.observed) - set(then.observed)}
    ids = {key.id for key in now.observed}
    remaining = dict(_by_name(now.actions))
    for name, actions in _by_name(then.actions).items():
        if all(one.error is not None for one in actions):
            if _identities(actions) != _identities(remaining.pop(name, ())):
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
    return not remaining


def _identities(actions: Iterable[SavedAction]) -> frozenset[tuple[object, ...]]:
    return frozenset(one.identity for one in actions)


def _changes(then: PlanFile, now: PlanFile) -> Iterator[str]:
    """Yield at least one change, each a sentence without a full stop."""
    before = {each.name: each for each in then.environments}
    after = {each.name: each for each in now.environments}
    changes = [
        [f"{name}: {one}" for one in _environment_changes(before.get(name), after.get(name))]
        for name in sorted(before.keys() | after.keys())
    ]
    # The first change of each environment comes first, so that no environment hides another.
    yield from filter(None, chain.from_iterable(zip_longest(*changes)))
    found = any(changes)
    if not found and then.version != now.version:
        yield f"it was created by provision {then.version}, and this is provision {now.version}"
    elif not found:
        yield "its digest differs from the digest of the current plan"


def _environment_changes(
    then: SavedEnvironment | None, now: SavedEnvironment | None
) -> Iterator[str]:
    if now is None or then is None:
        yield f"the environment was {'added' if then is None else 'removed'}"
        return
    if then.url != now.url:
        yield f"its url changed from {then.url} to {now.url}"
    if now.error is not None:
        yield f"it could not be observed ({now.error})"
        return
    if then.workspace != now.workspace:
        yield f"its workspace changed from {then.workspace} to {now.workspace}"
    if then.generation != now.generation:
        yield f"its generation changed from {then.generation} to {now.generation}"
    edited = dict(_manifest_changes(then, now))
    yield from (f"the manifests {change}" for change in edited.values())
    # In another workspace everything differs, and the list would name each of its keys.
    if (then.workspace, then.generation) == (now.workspace, now.generation):
        yield from _action_changes(then, now, frozenset(edited))


def _manifest_changes(then: SavedEnvironment, now: SavedEnvironment) -> Iterator[tuple[str, str]]:
    """Yield the name of each key whose declaration changed, and the change."""
    before = {key.name: key for key in then.desired}
    after = {key.name: key for key in now.desired}
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield name, f"no longer declare {name!r}"
        elif name not in before:
            yield name, f"now declare {name!r}"
        elif before[name] != after[name]:
            yield name, f"changed {name!r}: {', '.join(_changed_fields(before[name], after[name]))}"


def _changed_fields(then: SavedKey, now: SavedKey) -> Iterator[str]:
    for field, old, new in zip(then._fields, then, now, strict=True):
        if old != new:
            yield field if field == "sinks" else f"{field} from {_shown(old)} to {_shown(new)}"


def _action_changes(
    then: SavedEnvironment, now: SavedEnvironment, edited: frozenset[str]
) -> Iterator[str]:
    """Yield the changed actions of keys whose declaration did not change, with the cause."""
    for role in sorted(then.roles.keys() & now.roles.keys()):
        if then.roles[role] != now.roles[role]:
            yield f"the id of role {role!r} changed from {then.roles[role]} to {now.roles[role]}"
    before, after = _by_name(then.actions), _by_name(now.actions)
    for name in sorted((before.keys() | after.keys()) - edited):
        old, new = before.get(name, ()), after.get(name, ())
        if _identities(old) != _identities(new):
            cause = (
                _key_changes(name, then, now)
                or _consequence(old, new)
                or _environment_settings(then, now)
            )
            effect = f"planned: {_kinds(old)}; now: {_kinds(new)}"
            yield f"{name!r} {cause or 'has other actions'} ({effect})"


def _key_changes(name: str, then: SavedEnvironment, now: SavedEnvironment) -> str | None:
    """Return the changes of the live keys of a name; None if there are none."""
    before = {key.id: key for key in then.observed if key.name == name}
    after = {key.id: key for key in now.observed if key.name == name}
    changes = [_gone(before[id_], now) for id_ in sorted(before.keys() - after.keys())]
    added = sorted(after.keys() - before.keys())
    if added:
        what = "has another live key" if before else "now exists"
        changes.append(f"{what} ({', '.join(added)})")
    for id_ in sorted(before.keys() & after.keys()):
        old, new = before[id_], after[id_]
        if old.expires_at != new.expires_at:
            changes.append(
                f"({id_}) had its expiry changed from {old.expires_at} to {new.expires_at}"
            )
        if old.role != new.role:
            changes.append(
                f"({id_}) had its role changed from {_shown(old.role)} to {_shown(new.role)}"
            )
    return ", ".join(changes) or None


def _gone(key: SavedObserved, now: SavedEnvironment) -> str:
    new_name = next((each.name for each in now.observed if each.id == key.id), None)
    if new_name is not None:
        return f"({key.id}) was renamed to {new_name!r}"
    if now.observed_at is not None and key.expires_at <= now.observed_at:
        return f"({key.id}) expired at {key.expires_at}"
    return f"({key.id}) was revoked or deleted"


def _consequence(old: tuple[SavedAction, ...], new: tuple[SavedAction, ...]) -> str | None:
    """Return the cause that the actions themselves show, if the keys did not change."""
    identities = _identities(old)
    added = [one for one in new if one.identity not in identities]
    error = next((one.error for one in added if one.error is not None), None)
    if error is not None:
        return f"is now blocked: {error}"
    if {one.kind for one in added} & {one.kind for one in old if one.error is not None}:
        return "is no longer blocked"
    if not added and any(one.kind == "deliver" for one in old):
        return "has been delivered"
    return next(filter(None, map(_new_reason, added)), None)


def _new_reason(action: SavedAction) -> str | None:
    """Return why an action is needed now, if its reason says what happened."""
    match action.kind, action.reason:
        case "deliver", reason:
            return f"must be delivered again: {reason.replace('_', ' ')}"
        case "rotate", _:
            return "is now due for rotation"
        case "revoke", "superseded":
            return "has a successor whose overlap is over"
        case _:
            return None


def _environment_settings(then: SavedEnvironment, now: SavedEnvironment) -> str | None:
    """Return the change in environments.yaml that affects keys without any other change."""
    if then.owns != now.owns:
        return (
            f"is affected by `owns`, which changed from {_shown(then.owns)} to {_shown(now.owns)}"
        )
    if then.role != now.role:
        change = f"changed from {_shown(then.role)} to {_shown(now.role)}"
        return f"takes its role from the environment, which {change}"
    return None


def _by_name(actions: Iterable[SavedAction]) -> Mapping[str, tuple[SavedAction, ...]]:
    groups: dict[str, tuple[SavedAction, ...]] = defaultdict(tuple)
    for action in actions:
        groups[action.name] += (action,)
    return groups


def _kinds(actions: tuple[SavedAction, ...]) -> str:
    return ", ".join(one.kind for one in actions) or "no change"


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case tuple():
            return f"[{', '.join(map(str, value))}]"
        case _:
            return str(value)
