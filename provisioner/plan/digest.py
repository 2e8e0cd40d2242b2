"""The digest of a plan: equal exactly where the same would be done."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, assert_never

from provisioner.plan.model import Planned, Unobserved

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from provisioner.desired import DesiredKey
    from provisioner.plan.model import EnvironmentPlan


def digest(plans: Iterable[EnvironmentPlan], desired: Mapping[str, tuple[DesiredKey, ...]]) -> str:
    """`sha256:` over URLs, workspaces, the desired keys as parsed, and the actions.

    Neither the order of files and keys nor comments, the time, estimates or dates counted from
    a duration take part: those are written as the manifest writes them.
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
                "actions": sorted(
                    [
                        ("create", a.name, a.depth, a.role, a.expires, a.blocked and a.blocked.code)
                        for a in plan.actions
                    ],
                    key=lambda entry: entry[1],
                ),
            }
        case Unobserved(failure=failure):
            seen = {"error": failure.code}
        case _:
            assert_never(plan)
    keys = [
        (key.name, key.depth, key.role, key.expiry.written)
        for key in desired.get(plan.environment, ())
    ]
    wanted = sorted(keys, key=lambda entry: entry[0])
    return {"environment": plan.environment, "url": plan.url, "desired": wanted, **seen}
