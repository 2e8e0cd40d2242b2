"""Serialization of a plan as a plan file: the published plan and its inputs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from provisioner import __version__
from provisioner.errors.pluralize import pluralize
from provisioner.model.expiry import format_timestamp
from provisioner.plan import (
    Create,
    Planned,
    Rotate,
    Unobserved,
    Update,
    desired_key_json,
    json_digest,
)
from provisioner.runtime.gc_pause import gc_paused
from provisioner.secret import masked_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.plan import EnvironmentPlan, Plan, PlanOptions
    from provisioner.planfile.model import Document, PlanFileInput

FORMAT = "provision/planfile/v1"

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
    observed = {one[0].name: one for one in plan_input.observations}
    options = plan_input.options
    return {
        "format": FORMAT,
        "created_at": plan_input.published["created_at"],
        "digest": plan_input.published["digest"],
        "version": __version__,
        "options": {
            "environments": list(options.environments) or None,
            "only": list(options.only),
            "prune": options.prune,
            "dedupe": options.dedupe,
            "redeliver": options.redeliver,
            "max_revoke": options.max_revoke,
            "allow_protected": options.allow_protected,
        },
        "environments": [
            _mask_entry(
                entry,
                _inputs(
                    part, observed.get(part.environment), plan_input.desired, options.plan_options
                ),
            )
            for part, entry in zip(
                plan_input.plan.environments, _entries(plan_input.published), strict=True
            )
        ],
    }


def text(document: Document) -> str:
    """Return the text of a plan file, one line of ASCII."""
    content = {name: part for name, part in document.items() if name != "checksum"}
    # The format comes first, to recognize a plan file by its first bytes.
    head = {"format": content["format"], "checksum": json_digest(content)}
    return json.dumps(head | content) + "\n"


def _mask_entry(entry: Document, inputs: Document) -> Document:
    """Return an environment with the secrets of this process masked; options contain none."""
    return {
        name: value if name in _NEVER_MASKED else masked_document(value)
        for name, value in (entry | inputs).items()
    }


def may_overwrite(head: str) -> bool:
    """Return whether a file may be overwritten: it is empty or starts like a plan file."""
    return not head or head.startswith('{"format": "provision/planfile/')


def _entries(published: Document) -> list[Document]:
    entries = published["environments"]
    assert isinstance(entries, list)  # noqa: S101 - for the type checker: always a list in plan/v1
    return entries


def _inputs(
    part: EnvironmentPlan,
    observed: tuple[Environment, Observation] | None,
    desired: Mapping[str, tuple[DesiredKey, ...]],
    options: PlanOptions,
) -> Document:
    """Return the inputs of the plan of one environment."""
    keys = [desired_key_json(key) for key in sorted(desired.get(part.environment, ()), key=_name)]
    inputs: Document = {"desired_digest": json_digest(keys), "desired": keys}
    if observed is None or not isinstance(part, Planned):
        empty: Document = {"workspace": None, "observed_at": None, "owns": [], "role": None}
        return inputs | empty | {"roles": {}, "observed": []}
    environment, observation = observed
    live = (key for key in observation.keys if key.live(observation.server_time))
    selected = sorted(
        (key for key in live if options.selects(key.name)), key=lambda key: (key.name, key.id)
    )
    return inputs | {
        "workspace": part.workspace,
        "observed_at": format_timestamp(observation.server_time),
        "owns": list(environment.owns),
        "role": environment.role,
        "roles": _roles(part),
        "observed": [
            {
                "id": key.id,
                "name": key.name,
                "expires_at": format_timestamp(key.expires_at),
                "role": key.role,
            }
            for key in selected
        ],
    }


def _name(key: DesiredKey) -> str:
    return key.name


def _roles(part: Planned) -> dict[str, str]:
    """Return the ids of the assigned roles, by the role as written."""
    roles: dict[str, str] = {}
    for action in part.actions:
        match action:
            case Create(role=str(role), role_id=str(role_id)):
                roles[role] = role_id
            case Rotate(successor=Create(role=str(role), role_id=str(role_id))):
                roles[role] = role_id
            case Update(role=str(role), role_id=str(role_id)):
                roles[role] = role_id
            case _:
                pass
    return roles
