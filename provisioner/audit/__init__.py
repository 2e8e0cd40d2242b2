"""The diagnosis of environments and their sinks: read-only checks whether a run could succeed."""

from provisioner.audit.check import Check, CheckFailed, CheckName, CheckOk, CheckWarning, Diagnosis
from provisioner.audit.doctor import Doctor

__all__ = ["Check", "CheckFailed", "CheckName", "CheckOk", "CheckWarning", "Diagnosis", "Doctor"]
