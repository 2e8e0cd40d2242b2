"""The digest of a plan: equal exactly where the same would be done."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, assert_never

from provisioner.model.expiry import format_moment
from provisioner.model.sink_address import (
    AwsAddress,
    CommandAddress,
    FileAddress,
    GithubAddress,
    GitlabAddress,
    KubernetesAddress,
    VaultAddress,
)
from provisioner.plan.actions import Create, Deliver, Planned, Revoke, Rotate, Unobserved, Update

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from provisioner.model.key import DesiredKey
    from provisioner.model.sink_address import Address
    from provisioner.plan.actions import Action, EnvironmentPlan


def digest(plans: Iterable[EnvironmentPlan], desired: Mapping[str, tuple[DesiredKey, ...]]) -> str:
    """`sha256:` over URLs, workspaces, the desired keys as parsed, and the actions.

    Neither the order of files, keys and sinks nor comments, the time, estimates or dates counted
    from a duration take part: those are written as the manifest writes them.
    """
    content = [_environment(plan, desired.get(plan.environment, ())) for plan in plans]
    return json_digest(sorted(content, key=json.dumps))


def json_digest(content: object) -> str:
    """`sha256:` over a JSON value, however its text is written."""
    text = json.dumps(content, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def desired_key_json(key: DesiredKey) -> dict[str, object]:
    """All of a desired key that counts, as JSON; equal however and wherever it is written."""
    return {
        "name": key.name,
        "depth": key.depth,
        "role": key.role,
        "expires": key.expiry.written,
        "rotate": None if key.rotation is None else key.rotation.written,
        "protect": key.protect,
        "sinks": _sinks(key.deliver),
    }


def _environment(plan: EnvironmentPlan, desired: Iterable[DesiredKey]) -> dict[str, object]:
    match plan:
        case Planned():
            seen: dict[str, object] = {
                "workspace": plan.workspace,
                "actions": sorted(map(_action, plan.actions), key=json.dumps),
            }
        case Unobserved(failure=failure):
            seen = {"error": failure.code}
        case _:
            assert_never(plan)
    keys = [desired_key_json(key) for key in sorted(desired, key=lambda key: key.name)]
    return {"environment": plan.environment, "url": plan.url, "desired": keys, **seen}


def _action(action: Action) -> tuple[object, ...]:
    """What is done and to which name, first, and then how."""
    blocked = action.blocked and action.blocked.code
    sinks = _sinks(action.sinks)
    match action:
        case Create():
            return "create", action.name, *_create_fields(action), sinks, blocked
        case Update(changes=changes):
            what = [(one.field, one.desired) for one in changes]
            return "update", action.name, action.key_id, what, action.role_id, sinks, blocked
        case Rotate(successor=made):
            ids = sorted(action.predecessors)
            return "rotate", made.name, *_create_fields(made), ids, action.at_once, sinks, blocked
        case Deliver():
            # The end of the key that is there: that of its new token, and no date of the plan's.
            expires_at = format_moment(action.expires_at)
            return "deliver", action.name, action.key_id, expires_at, sinks, blocked
        case Revoke():
            return "revoke", action.name, action.key_id, blocked
        case _:
            assert_never(action)


def _create_fields(create: Create) -> tuple[object, ...]:
    """How a key is made; a role by its id too, because a label may come to mean another one."""
    return create.depth, create.role, create.role_id, create.expires


def _sinks(addresses: Iterable[Address]) -> list[dict[str, object]]:
    """Every part of each address, in an order of its own."""
    return sorted(map(_address, addresses), key=json.dumps)


def _address(address: Address) -> dict[str, object]:  # noqa: PLR0911 - one for each kind
    """Write out every part of an address: plan files hold digests over these very names."""
    match address:
        case FileAddress(path, variable, file_format):
            return {"kind": "file", "path": path, "variable": variable, "format": file_format}
        case CommandAddress(argv, check):
            return {"kind": "command", "argv": argv, "check": check}
        case VaultAddress(mount, path, field):
            return {"kind": "vault", "mount": mount, "path": path, "field": field}
        case AwsAddress(secret, region):
            return {"kind": "aws", "secret": secret, "region": region}
        case GithubAddress():
            return {
                "kind": "github",
                "owner": address.owner,
                "secret": address.secret,
                "repository": address.repository,
                "environment": address.environment,
            }
        case GitlabAddress(project, variable):
            return {"kind": "gitlab", "project": project, "variable": variable}
        case KubernetesAddress(namespace, secret, key):
            return {"kind": "kubernetes", "namespace": namespace, "secret": secret, "key": key}
        case _:
            assert_never(address)
