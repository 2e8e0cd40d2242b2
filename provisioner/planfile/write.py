"""Serialization of a plan as a plan file: the published plan and its inputs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from provisioner import __version__
from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import format_timestamp
from provisioner.plan import (
    Create,
    Rotate,
    Unobserved,
    Update,
    desired_key_json,
    json_digest,
    observed_keys,
    selected_keys,
)
from provisioner.runtime.gc_pause import gc_paused
from provisioner.secret import masked_document

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.model.key import DesiredKey
    from provisioner.plan import Action, Plan, PlanOptions
    from provisioner.planfile.model import Document, PlanFileInput
    from provisioner.reconcile.proposal import PlannedEnvironment

FORMAT = "provision/planfile/v1"

FIRST_BYTES = b'{"format": "provision/planfile/'
"""The first bytes of every plan file, of whatever version."""

_NEVER_MASKED = frozenset({"environment", "url"})
"""The fields that identify an environment; manifests in git contain them in clear text."""


def why_unwritable(plan: Plan) -> str | None:
    """Return briefly why a plan must not be saved; None if it can be.

    A review cannot cover an environment that was not observed. Blocked keys do not matter.
    """
    unobserved = [part for part in plan.environments if isinstance(part, Unobserved)]
    if not unobserved:
        return None
    first = f"{unobserved[0].environment} could not be observed ({unobserved[0].failure.code})"
    more = len(unobserved) - 1
    return f"{first}, and {pluralize(more, 'more environment')}" if more else first


@gc_paused()
def document(plan_input: PlanFileInput) -> Document:
    """Return `provision/planfile/v1` without its checksum, with all secrets masked."""
    proposal, request, selected, published, shard, previous = plan_input
    options, overrides = request.options, request.overrides
    desired = selected_keys(request.desired, options)
    environments: list[Document] = []
    # The published plan is JSON, whose schema says that this is a list of objects.
    entries = cast("list[Document]", published["environments"])
    for one, entry in zip(proposal.environments, entries, strict=True):
        keys = sorted(desired.get(str(entry["environment"]), ()), key=lambda key: key.name)
        keys_json = [desired_key_json(key) for key in keys]
        content = entry | {"desired_digest": json_digest(keys_json), "desired": keys_json}
        content |= _observed(one, desired.get(str(entry["environment"]), ()), options)
        environments.append(
            {
                field: value if field in _NEVER_MASKED else masked_document(value)
                for field, value in content.items()
            }
        )
    return {
        "format": FORMAT,
        "created_at": published["created_at"],
        "digest": published["digest"],
        "version": __version__,
        "options": {
            "environments": list(selected) or None,
            "only": list(options.only),
            "prune": options.prune,
            "dedupe": options.dedupe,
            "redeliver": options.redeliver,
            "max_revoke": overrides.max_revoke,
            "allow_protected": overrides.allow_protected,
            **({"clean": True} if options.clean else {}),
            **({} if previous is None else {"previous": previous}),
            **({} if shard is None else {"shard": str(shard)}),
        },
        "environments": environments,
    }


def text(document: Document) -> str:
    """Return the text of a plan file, one line of ASCII."""
    content = {name: part for name, part in document.items() if name != "checksum"}
    # The format comes first, to recognize a plan file by its first bytes.
    head = {"format": content["format"], "checksum": json_digest(content)}
    return json.dumps(head | content) + "\n"


def may_overwrite(head: bytes) -> bool:
    """Return whether a file may be overwritten: it is empty or starts like a plan file."""
    return not head or head.startswith(FIRST_BYTES)


def _observed(
    one: PlannedEnvironment | Unobserved, desired: Iterable[DesiredKey], options: PlanOptions
) -> Document:
    """Return the state of one environment that its plan is based on."""
    if isinstance(one, Unobserved):
        empty: Document = {"workspace": None, "observed_at": None, "owns": [], "ignore": []}
        return empty | {"role": None, "roles": {}, "observed": []}
    (environment, _, observation), planned = one
    live = [
        key
        for key in observed_keys(observation, desired, options)
        if key.live(observation.server_time)
    ]
    return {
        "workspace": planned.workspace,
        "observed_at": format_timestamp(observation.server_time),
        "owns": list(environment.owns),
        "ignore": list(environment.ignore),
        "role": environment.role,
        "roles": _roles(planned.actions),
        "observed": [
            {
                "id": key.id,
                "name": key.name,
                "expires_at": format_timestamp(key.expires_at),
                "role": key.role,
            }
            for key in sorted(live, key=lambda key: (key.name, key.id))
        ],
    }


def _roles(actions: Iterable[Action]) -> dict[str, str]:
    """Return the ids of the assigned roles, by the role as written."""
    assigning = [
        action.successor if isinstance(action, Rotate) else action
        for action in actions
        if isinstance(action, Create | Update | Rotate)
    ]
    return {one.role: one.role_id for one in assigning if one.role and one.role_id}
