"""The digest of a plan: equal for two plans exactly if they do the same."""

from __future__ import annotations

import hashlib
import json
from operator import attrgetter
from typing import TYPE_CHECKING, assert_never

from provisioner.model.expiry import format_timestamp
from provisioner.plan.actions import (
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_address import Address
    from provisioner.plan.actions import Action, EnvironmentPlan


def digest(plans: Iterable[EnvironmentPlan], desired: Mapping[str, tuple[DesiredKey, ...]]) -> str:
    """Return `sha256:` over URLs, workspaces, the desired keys as parsed, and the actions.

    The order of files, keys and sinks, comments, the time and estimates have no effect. A duration
    counts as written, not as the date that follows from it.
    """
    return digest_of(digest_content(plan, desired.get(plan.environment, ())) for plan in plans)


def digest_of(contents: Iterable[object]) -> str:
    """Return the digest of a plan whose environments have these contents, in any order."""
    return json_digest(sorted(contents, key=json.dumps))


def json_digest(content: object) -> str:
    """Return `sha256:` over a JSON value, independent of its formatting."""
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def desired_key_json(key: DesiredKey) -> dict[str, object]:
    """Return a desired key as JSON, without its position or formatting in the manifest."""
    return {
        "name": key.name,
        "depth": key.depth,
        "role": key.role,
        "expires": key.expiry.written,
        "rotate": None if key.rotation is None else key.rotation.written,
        "protect": key.protect,
        "sinks": _sinks(key.deliver),
        # Absent otherwise, as in the digests of versions that had no moves.
        **({"moved_from": list(key.moved_from)} if key.moved_from else {}),
    }


def digest_content(plan: EnvironmentPlan, desired: Iterable[DesiredKey]) -> dict[str, object]:
    """Return what the digest of a plan covers of one environment, as JSON."""
    match plan:
        case Planned():
            state: dict[str, object] = {
                "workspace": plan.workspace,
                "actions": sorted(map(_action, plan.actions), key=json.dumps),
            }
        case Unobserved(failure=failure):
            state = {"error": failure.code}
        case _:
            assert_never(plan)
    keys = [desired_key_json(key) for key in sorted(desired, key=attrgetter("name"))]
    return {"environment": plan.environment, "url": plan.url, "desired": keys, **state}


def _action(action: Action) -> tuple[object, ...]:  # noqa: PLR0911 - one a kind
    """Return the kind and the name of an action, then the fields that define it."""
    blocked = action.blocked and action.blocked.code
    sinks = _sinks(action.sinks)
    match action:
        case Create():
            return "create", action.name, *_create_fields(action), sinks, blocked
        case Update(changes=changes):
            fields = [(one.field, one.desired) for one in changes]
            return "update", action.name, action.key_id, fields, action.role_id, sinks, blocked
        case Rename():
            return "rename", action.name, action.old_name, action.key_id, blocked
        case Rotate(successor=successor):
            ids = sorted(action.predecessors)
            create = _create_fields(successor)
            return "rotate", successor.name, *create, ids, action.at_once, sinks, blocked
        case Deliver():
            # A fixed date, the expiry of the live key; it does not depend on the time of the plan.
            expires_at = format_timestamp(action.expires_at)
            return "deliver", action.name, action.key_id, expires_at, sinks, blocked
        case Revoke():
            return "revoke", action.name, action.key_id, blocked
        case Clean(sink=sink):
            return "clean", action.name, action.key_id, _sinks((sink,)), blocked
        case _:
            assert_never(action)


def _create_fields(create: Create) -> tuple[object, ...]:
    """Return the fields of a create; with the role's id, as a label may move to another role."""
    return create.depth, create.role, create.role_id, create.expires


def _sinks(addresses: Iterable[Address]) -> list[dict[str, object]]:
    """Return every part of each address, with its kind, sorted."""
    return sorted(map(_address_parts, addresses), key=json.dumps)


def _address_parts(address: Address) -> dict[str, object]:
    return {"kind": address.kind} | address.digest_parts
