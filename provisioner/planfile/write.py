"""A plan to the text of a plan file: the plan as published, and what it follows from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from provisioner import __version__
from provisioner.model.expiry import format_moment
from provisioner.plan import Create, Planned, Rotate, Unobserved, Update, sealed, wanted
from provisioner.runtime.gc_pause import gc_paused
from provisioner.secret import hidden

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import Observation
    from provisioner.plan import EnvironmentPlan, Plan, PlanOptions
    from provisioner.planfile.model import Document, PlanFileInput

FORMAT = "provision/planfile/v1"

_NEVER_MASKED = frozenset({"environment", "url"})
"""By what an environment is known again, as manifests in git have it."""


def unwritable(plan: Plan) -> str | None:
    """Why a plan is not to be written, in a few words; None where it is.

    What could not be looked at can be no part of what is reviewed. A key that cannot be made is.
    """
    lost = [part for part in plan.environments if isinstance(part, Unobserved)]
    if not lost:
        return None
    first = f"{lost[0].environment} could not be looked at ({lost[0].failure.code})"
    return first if len(lost) == 1 else f"{first}, nor could {len(lost) - 1} more"


@gc_paused()
def document(plan_input: PlanFileInput) -> Document:
    """`provision/planfile/v1`, without its checksum and without any secret of this process."""
    looks = {environment.name: (environment, look) for environment, look in plan_input.seen}
    asked = plan_input.asked
    return {
        "format": FORMAT,
        "created_at": plan_input.published["created_at"],
        "digest": plan_input.published["digest"],
        "version": __version__,
        "options": {
            "environments": list(asked.environments) or None,
            "only": list(asked.only),
            "prune": asked.prune,
            "dedupe": asked.dedupe,
            "redeliver": asked.redeliver,
            "max_revoke": asked.max_revoke,
            "allow_protected": asked.allow_protected,
        },
        "environments": [
            _hidden(
                entry,
                _grounds(part, looks.get(part.environment), plan_input.desired, asked.options),
            )
            for part, entry in zip(
                plan_input.plan.environments, _entries(plan_input.published), strict=True
            )
        ],
    }


def text(document: Document) -> str:
    """The text of a plan file: one line of ASCII."""
    content = {name: part for name, part in document.items() if name != "checksum"}
    # The format comes first, by which a plan file is known at a glance.
    head = {"format": content["format"], "checksum": sealed(content)}
    return json.dumps(head | content) + "\n"


def _hidden(entry: Document, grounds: Document) -> Document:
    """An environment without any secret of this process; the options hold none."""
    return {
        name: value if name in _NEVER_MASKED else hidden(value)
        for name, value in (entry | grounds).items()
    }


def begins_as_ours(head: str) -> bool:
    """Whether a text begins as a plan file does, or is empty: what may be written over."""
    return not head or head.startswith('{"format": "provision/planfile/')


def _entries(published: Document) -> list[Document]:
    entries = published["environments"]
    assert isinstance(entries, list)  # noqa: S101 - for the type checker: it is a plan/v1
    return entries


def _grounds(
    part: EnvironmentPlan,
    look: tuple[Environment, Observation] | None,
    desired: Mapping[str, tuple[DesiredKey, ...]],
    options: PlanOptions,
) -> Document:
    """What the plan of one environment follows from."""
    keys = [wanted(key) for key in sorted(desired.get(part.environment, ()), key=_name)]
    grounds: Document = {"desired_digest": sealed(keys), "desired": keys}
    if look is None or not isinstance(part, Planned):
        none: Document = {"workspace": None, "observed_at": None, "owns": [], "role": None}
        return grounds | none | {"roles": {}, "observed": []}
    environment, observation = look
    live = (key for key in observation.keys if key.live(observation.server_time))
    found = sorted(
        (key for key in live if options.selects(key.name)), key=lambda key: (key.name, key.id)
    )
    return grounds | {
        "workspace": part.workspace,
        "observed_at": format_moment(observation.server_time),
        "owns": list(environment.owns),
        "role": environment.role,
        "roles": _roles(part),
        "observed": [
            {
                "id": key.id,
                "name": key.name,
                "expires_at": format_moment(key.expires_at),
                "role": key.role,
            }
            for key in found
        ],
    }


def _name(key: DesiredKey) -> str:
    return key.name


def _roles(part: Planned) -> dict[str, str]:
    """The ids of the roles that are given, by the role as written."""
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
