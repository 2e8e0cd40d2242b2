"""The roles of a new workspace, which has no API keys.

They are the roles of the recorded servers: legacy `154`, core-1 `219` `910` `918`, core-2.21
`214` `910` `918`. "Integrations" is ours: examples need a role other than Admin.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from provisioner.sandbox.dialect import Dialect

if TYPE_CHECKING:
    from provisioner.model.workspace import Json
    from provisioner.sandbox.exchange import JsonObject

ADMIN = "Admin"
MEMBER = "Member"
GUEST = "Guest"
INTEGRATIONS = "Integrations"

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
    flags: tuple[str, ...] = (),
) -> SeededRole:
    """Return a new role with a random id."""
    return SeededRole(
        {
            "id": _id(),
            "universalIdentifier": _id(),
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
        }
    )


def permission_flags(flags: tuple[str, ...]) -> Json:
    """Return settings permissions as the field `permissionFlags` of a role."""
    return [{"id": _id(), "flag": flag} for flag in flags]


def roles_of(dialect: Dialect) -> tuple[SeededRole, ...]:
    """Return the roles of a new workspace, in the order in which the recorded servers list them."""
    admin = role(
        ADMIN, settings=True, records=True, api_keys=True, editable=False, icon="IconUserCog"
    )
    member = role(MEMBER, records=True)
    guest = role(GUEST)
    integrations = role(INTEGRATIONS, records=True, users=False, api_keys=True, icon="IconPlug")
    match dialect:
        case Dialect.LEGACY:
            return (guest, member, admin)
        case Dialect.CORE_1:
            manager = role("Workflow Manager", users=False, flags=("WORKFLOWS",))
            navigator = role("Data Navigator", users=False)
            manipulator = role("Data Manipulator", users=False)
            restricted = role("Object-restricted", settings=True, api_keys=True)
            restricted.wire["objectPermissions"] = [
                {"objectMetadataId": _id(), "canReadObjectRecords": readable}
                for readable in (False, True)
            ]
            restricted.wire["fieldPermissions"] = [{"id": _id()}, {"id": _id()}]
            return (manager, navigator, manipulator, admin, guest, restricted, member, integrations)
        case Dialect.CORE:
            return (admin, member, role("Restricted", api_keys=True), integrations)
        case _:
            assert_never(dialect)


def _id() -> str:
    return str(uuid.uuid4())
