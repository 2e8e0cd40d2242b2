"""Twenty's wire, known here alone: one interface over both generations of servers."""

from provisioner.twenty.connect import connect
from provisioner.twenty.workspace import Created, NewKey, NotCreated, Outcome, Unknown, Workspace

__all__ = [
    "Created",
    "NewKey",
    "NotCreated",
    "Outcome",
    "Unknown",
    "Workspace",
    "connect",
]
