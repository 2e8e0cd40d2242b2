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
from provisioner.secret import MASK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from provisioner.plan import Plan
    from provisioner.planfile.model import (
        ActionEntry,
        EnvironmentEntry,
        ObservedEntry,
        PlanFile,
        PlanFileInput,
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
    unobserved = _unobserved(plan_input.proposal.plan)
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
    message = f"{name}, created at {created_at}, is out of date: {listed}{more}."
    return StalePlanError(Code.PLAN_STALE, message, remedy=_PLAN_AGAIN)


def was_edited(reviewed: PlanFile, plan_input: PlanFileInput) -> bool:
    """Return whether the actions in a plan file differ from those of its digest.

    Args:
        reviewed: a plan file.
        plan_input: the current plan, which has the same digest.
    """
    shown, current = reviewed.environments, parse_document(document(plan_input)).environments
    return shown.keys() != current.keys() or any(
        (entry["url"], entry["workspace"]) != (current[name]["url"], current[name]["workspace"])
        or _actions_differ(entry["actions"], current[name]["actions"])
        for name, entry in shown.items()
    )


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


# --- Actions ---


def _identity(action: ActionEntry) -> tuple[object, ...]:
    """Return the fields that decide whether two actions are the same; the reason does not."""
    kind, ids = action["action"], tuple(sorted(action["ids"]))
    if kind == "revoke":
        return kind, ids, _error(action)
    if kind in {"rename", "clean"}:
        return kind, action["name"], ids, action.get("sink"), _error(action)
    sets = {"expires"} if kind == "deliver" else {"expires", "role"}
    if kind == "update":
        sets = {change["what"] for change in action["changes"]}
    expires_at = action["expires_at"] if "expires" in sets else None
    role = action["role"] if "role" in sets else None
    sinks = tuple(sorted(action["sinks"]))
    return kind, action["name"], ids, expires_at, role, sinks, _error(action)


def _identities(actions: Iterable[ActionEntry]) -> set[tuple[object, ...]]:
    return set(map(_identity, actions))


def _error(action: ActionEntry) -> str | None:
    """Return the code of the failure that blocks an action; None if it is not blocked."""
    return action["error"]["code"] if "error" in action else None


def _by_name(actions: Iterable[ActionEntry]) -> dict[str, list[ActionEntry]]:
    groups: dict[str, list[ActionEntry]] = defaultdict(list)
    for action in actions:
        groups[action["name"]].append(action)
    return groups


def _actions_differ(shown: Iterable[ActionEntry], current: Iterable[ActionEntry]) -> bool:
    """Return whether the shown actions are not exactly those of the current plan.

    A text that is masked on one machine may not be on another, so masked actions are compared only
    by kind and ids.
    """
    before, after = (
        {(one["name"], _identity(one)): one for one in actions} for actions in (shown, current)
    )
    removed = [before[key] for key in before.keys() - after.keys()]
    added = [after[key] for key in after.keys() - before.keys()]
    if removed and (all(map(_masked, removed)) or all(map(_masked, added))):
        kinds_removed, kinds_added = (
            {(one["action"], tuple(sorted(one["ids"]))) for one in actions}
            for actions in (removed, added)
        )
        return kinds_removed != kinds_added
    return bool(removed or added)


def _masked(action: ActionEntry) -> bool:
    """Return whether one of its texts was masked as a secret when the file was written."""
    return any(
        MASK in text
        for text in (action["name"], *action["sinks"], action["role"] or "", action.get("sink", ""))
    )


# --- A plan that was applied ---


def _applied(then: PlanFile, now: PlanFile) -> bool:
    """Return whether all possible actions are done, and nothing else changed."""
    before, after = then.environments, now.environments
    return before.keys() == after.keys() and all(
        _environment_applied(before[name], after[name]) for name in before
    )


def _environment_applied(then: EnvironmentEntry, now: EnvironmentEntry) -> bool:
    inputs, inputs_now = (
        (each["url"], each["workspace"], each["error"], each["desired"]) for each in (then, now)
    )
    if inputs != inputs_now:
        return False
    keys_then = {key["id"]: key for key in then["observed"]}
    keys_now = {key["id"]: key for key in now["observed"]}
    # The expiry distinguishes the planned key from one that someone else created.
    new = {
        (key["name"], key["expires_at"])
        for id_, key in keys_now.items()
        if key != keys_then.get(id_)
    }

    def done(action: ActionEntry) -> bool:
        if action["action"] in {"create", "rotate"}:
            return (action["name"], action["expires_at"]) in new
        if action["action"] == "rename":
            return all(
                id_ in keys_now and keys_now[id_]["name"] == action["name"] for id_ in action["ids"]
            )
        return action["action"] != "revoke" or keys_now.keys().isdisjoint(action["ids"])

    remaining = _by_name(now["actions"])
    for name, actions in _by_name(then["actions"]).items():
        if all(_error(one) is not None for one in actions):
            if _identities(actions) != _identities(remaining.pop(name, ())):
                return False
        elif not all(map(done, actions)):
            return False
    return not remaining


# --- The list of changes ---


def _changes(then: PlanFile, now: PlanFile) -> Iterator[str]:
    """Yield at least one change, each a sentence without a full stop."""
    before, after = then.environments, now.environments
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
    then: EnvironmentEntry | None, now: EnvironmentEntry | None
) -> Iterator[str]:
    if now is None or then is None:
        yield f"the environment was {'added' if then is None else 'removed'}"
        return
    if then["url"] != now["url"]:
        yield f"its url changed from {then['url']} to {now['url']}"
    if now["error"] is not None:
        yield f"it could not be observed ({now['error']['code']})"
        return
    if then["workspace"] != now["workspace"]:
        yield f"its workspace changed from {then['workspace']} to {now['workspace']}"
    if then["generation"] != now["generation"]:
        yield f"its generation changed from {then['generation']} to {now['generation']}"
    edited = dict(_manifest_changes(then, now))
    yield from (f"the manifests {change}" for change in edited.values())
    # In another workspace everything differs, and the list would name each of its keys.
    if (then["workspace"], then["generation"]) == (now["workspace"], now["generation"]):
        yield from _role_changes(then["roles"], now["roles"])
        yield from _action_changes(then, now, edited.keys())


def _manifest_changes(then: EnvironmentEntry, now: EnvironmentEntry) -> Iterator[tuple[str, str]]:
    """Yield the name of each key whose declaration changed, and the change."""
    before, after = ({str(key["name"]): key for key in each["desired"]} for each in (then, now))
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield name, f"no longer declare {name!r}"
        elif name not in before:
            yield name, f"now declare {name!r}"
        elif before[name] != after[name]:
            fields = (
                field if field == "sinks" else f"{field} {_from_to(old, new)}"
                for field in (before[name] | after[name])
                for old, new in ((before[name].get(field), after[name].get(field)),)
                if old != new
            )
            yield name, f"changed {name!r}: {', '.join(fields)}"


def _role_changes(then: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    for role in sorted(then.keys() & now.keys()):
        if then[role] != now[role]:
            yield f"the id of role {role!r} changed from {then[role]} to {now[role]}"


def _action_changes(
    then: EnvironmentEntry, now: EnvironmentEntry, edited: AbstractSet[str]
) -> Iterator[str]:
    """Yield the changed actions of keys whose declaration did not change, with the cause."""
    before, after = _by_name(then["actions"]), _by_name(now["actions"])
    for name in sorted((before.keys() | after.keys()) - edited):
        old, new = before.get(name, []), after.get(name, [])
        if _identities(old) != _identities(new):
            cause = (
                ", ".join(_key_changes({name, *_old_names(old), *_old_names(new)}, then, now))
                or _consequence(old, new)
                or _environment_settings(then, now)
                or "has different actions"
            )
            yield f"{name!r} {cause} (planned: {_kinds(old)}; now: {_kinds(new)})"


def _old_names(actions: Iterable[ActionEntry]) -> Iterator[str]:
    return (action["old_name"] for action in actions if "old_name" in action)


def _key_changes(
    names: AbstractSet[str], then: EnvironmentEntry, now: EnvironmentEntry
) -> Iterator[str]:
    """Yield the changes of the live keys of a name, and of its former names."""
    before, after = (
        {key["id"]: key for key in each["observed"] if key["name"] in names} for each in (then, now)
    )
    for id_ in sorted(before.keys() - after.keys()):
        yield _gone(before[id_], now)
    added = sorted(after.keys() - before.keys())
    if added:
        what = "has another live key" if before else "now exists"
        yield f"{what} ({', '.join(added)})"
    for id_ in sorted(before.keys() & after.keys()):
        old, new = before[id_], after[id_]
        if old["name"] != new["name"]:
            yield f"({id_}) was renamed to {new['name']!r}"
        if old["expires_at"] != new["expires_at"]:
            change = _from_to(old["expires_at"], new["expires_at"])
            yield f"({id_}) had its expiry changed {change}"
        if old["role"] != new["role"]:
            yield f"({id_}) had its role changed {_from_to(old['role'], new['role'])}"


def _gone(key: ObservedEntry, now: EnvironmentEntry) -> str:
    new_name = next((each["name"] for each in now["observed"] if each["id"] == key["id"]), None)
    if new_name is not None:
        return f"({key['id']}) was renamed to {new_name!r}"
    if now["observed_at"] is not None and key["expires_at"] <= now["observed_at"]:
        return f"({key['id']}) expired at {key['expires_at']}"
    return f"({key['id']}) was revoked or deleted"


def _consequence(  # noqa: PLR0911 - one a cause
    old: Iterable[ActionEntry], new: Iterable[ActionEntry]
) -> str | None:
    """Return the cause that the actions themselves show, if the keys did not change."""
    identities = _identities(old)
    added = [one for one in new if _identity(one) not in identities]
    error = next(filter(None, map(_error, added)), None)
    if error is not None:
        return f"is now blocked: {error}"
    if {one["action"] for one in added} & {one["action"] for one in old if _error(one)}:
        return "is no longer blocked"
    if not added and any(one["action"] == "deliver" for one in old):
        return "has been delivered"
    for one in added:
        match one["action"], one["reason"]:
            case "deliver", reason:
                return f"must be delivered again: {reason.replace('_', ' ')}"
            case "rotate", _:
                return "is now due for rotation"
            case "revoke", "superseded":
                return "has a successor whose overlap is over"
            case _:
                continue
    return None


def _environment_settings(then: EnvironmentEntry, now: EnvironmentEntry) -> str | None:
    """Return the change in environments.yaml that affects keys without any other change."""
    if then["owns"] != now["owns"]:
        return f"is affected by `owns`, which changed {_from_to(then['owns'], now['owns'])}"
    ignored, ignored_now = then.get("ignore", []), now.get("ignore", [])
    if ignored != ignored_now:
        return f"is affected by `ignore`, which changed {_from_to(ignored, ignored_now)}"
    if then["role"] != now["role"]:
        change = _from_to(then["role"], now["role"])
        return f"takes its role from the environment, which changed {change}"
    return None


def _kinds(actions: Iterable[ActionEntry]) -> str:
    return ", ".join(one["action"] for one in actions) or "no change"


def _from_to(old: object, new: object) -> str:
    return f"from {_shown(old)} to {_shown(new)}"


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
