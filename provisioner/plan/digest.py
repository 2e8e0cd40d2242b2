"""The digest of a plan: equal exactly where the same would be done."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, assert_never

from provisioner.plan.model import Create, Deliver, Planned, Revoke, Rotate, Unobserved, Update

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from provisioner.desired import DesiredKey
    from provisioner.plan.model import Action, EnvironmentPlan


def digest(plans: Iterable[EnvironmentPlan], desired: Mapping[str, tuple[DesiredKey, ...]]) -> str:
    """`sha256:` over URLs, workspaces, the desired keys as parsed, and the actions.

    Neither the order of files, keys and sinks nor comments, the time, estimates or dates counted
    from a duration take part: those are written as the manifest writes them.
    """
    content = sorted((_environment(plan, desired) for plan in plans), key=json.dumps)
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _environment(
    plan: EnvironmentPlan, desired: Mapping[str, tuple[DesiredKey, ...]]
) -> dict[str, object]:
    match plan:
        case Planned():
            seen: dict[str, object] = {
                "workspace": plan.workspace,
                "actions": sorted(map(_action, plan.actions), key=lambda entry: entry[1]),
            }
        case Unobserved(failure=failure):
            seen = {"error": failure.code}
        case _:
            assert_never(plan)
    keys = [
        (key.name, key.depth, key.role, key.expiry.written, sorted(map(repr, key.deliver)))
        for key in desired.get(plan.environment, ())
    ]
    wanted = sorted(keys, key=lambda entry: entry[0])
    return {"environment": plan.environment, "url": plan.url, "desired": wanted, **seen}


def _action(action: Action) -> tuple[str, str, *tuple[object, ...]]:
    """What is done and to which name, first, and then how."""
    blocked = action.blocked and action.blocked.code
    sinks = sorted(map(repr, action.sinks))
    match action:
        case Create():
            how = (action.depth, action.role, action.expires)
            return "create", action.name, *how, sinks, blocked
        case Update(changes=changes):
            what = [(one.what, one.wanted) for one in changes]
            return "update", action.name, action.key_id, what, sinks, blocked
        case Rotate(successor=made):
            how = (made.depth, made.role, made.expires)
            return "rotate", made.name, *how, action.predecessors, action.at_once, sinks, blocked
        case Deliver():
            return "deliver", action.name, action.key_id, sinks, blocked
        case Revoke():
            return "revoke", action.name, action.key_id, blocked
        case _:
            assert_never(action)
