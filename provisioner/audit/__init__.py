"""The diagnosis: what each environment and its sinks let a run do, found by reading alone."""

from provisioner.audit.check import Check, CheckFailed, CheckName, CheckOk, CheckWarning, Diagnosis
from provisioner.audit.doctor import Doctor

__all__ = ["Check", "CheckFailed", "CheckName", "CheckOk", "CheckWarning", "Diagnosis", "Doctor"]
