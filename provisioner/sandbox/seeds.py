"""The roles of a new workspace, which has no API keys.

They are the roles of the recorded servers: legacy `154`, core-1 `219` `910` `918`, core-2.21
`214` `910` `918`. "Integrations" is ours: examples need
a role other than Admin.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from provisioner.model.workspace import Json
    from provisioner.sandbox.dialect import Dialect
    from provisioner.sandbox.exchange import JsonObject

ADMIN = "Admin"
MEMBER = "Member"
GUEST = "Guest"

API_KEYS_FLAG = "API_KEYS_AND_WEBHOOKS"
ROLES_FLAG = "ROLES"


@dataclass(frozen=True, slots=True)
class SeededRole:
    """One role.

    Attributes:
        wire: the role as GraphQL returns it, by field name.
    """

    wire: JsonObject

    @property
    def id(self) -> str:
        """The role's UUID."""
        return str(self.wire["id"])

    @property
    def label(self) -> str:
        """The name that users see."""
        return str(self.wire["label"])

    @property
    def assignable(self) -> bool:
        """True if the role can be assigned to API keys."""
        return self.wire["canBeAssignedToApiKeys"] is True

    def permits(self, flag: str) -> bool:
        """Return whether the role has a settings permission."""
        flags = self.wire["permissionFlags"]
        return self.wire["canUpdateAllSettings"] is True or (
            isinstance(flags, list)
            and any(isinstance(entry, dict) and entry["flag"] == flag for entry in flags)
        )


def role(  # noqa: PLR0913  # one argument for each permission
    label: str,
    *,
    settings: bool = False,
    records: bool = False,
    users: bool = True,
    api_keys: bool = False,
    editable: bool = True,
    icon: str = "IconUser",
    flags: Iterable[str] = (),
    **more: Json,
) -> SeededRole:
    """Return a new role with a random id; `more` are further fields as GraphQL returns them."""
    return SeededRole(
        {
            "id": str(uuid.uuid4()),
            "universalIdentifier": str(uuid.uuid4()),
            "label": label,
            "description": f"{label} role",
            "icon": icon,
            "isEditable": editable,
            "canBeAssignedToUsers": users,
            "canBeAssignedToAgents": not users,
            "canBeAssignedToApiKeys": api_keys,
            "canUpdateAllSettings": settings,
            "canAccessAllTools": settings,
            "canReadAllObjectRecords": records,
            "canUpdateAllObjectRecords": records,
            "canSoftDeleteAllObjectRecords": records,
            "canDestroyAllObjectRecords": records,
            "permissionFlags": permission_flags(flags),
            "objectPermissions": [],
            "fieldPermissions": [],
            **more,
        }
    )


def permission_flags(flags: Iterable[str]) -> Json:
    """Return settings permissions as the field `permissionFlags` of a role."""
    return [{"id": str(uuid.uuid4()), "flag": flag} for flag in flags]


def roles_of(dialect: Dialect) -> tuple[SeededRole, ...]:
    """Return the roles of a new workspace, in the order in which the recorded servers list them."""
    entries = json.loads(Path(__file__).with_name("roles.json").read_text("ascii"))
    return tuple(role(**entry) for entry in entries[dialect.recorded])
