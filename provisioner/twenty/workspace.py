"""Names that moved to `provisioner.model.workspace`."""

from provisioner.model.workspace import (
    IN_FLIGHT,
    WITH_PERMISSIONS,
    Capabilities,
    Created,
    CreateObserver,
    NewKey,
    NotCreated,
    NotSent,
    Outcome,
    Record,
    Release,
    Unknown,
    UnknownReason,
    Workspace,
    outcome_unknown,
)

__all__ = [
    "IN_FLIGHT",
    "WITH_PERMISSIONS",
    "Capabilities",
    "CreateObserver",
    "Created",
    "NewKey",
    "NotCreated",
    "NotSent",
    "Outcome",
    "Record",
    "Release",
    "Unknown",
    "UnknownReason",
    "Workspace",
    "outcome_unknown",
]
