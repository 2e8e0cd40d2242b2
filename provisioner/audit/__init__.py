"""The diagnosis: what each environment and its sinks let a run do, found by reading alone."""

from provisioner.audit.check import Broken, Check, CheckName, Diagnosis, Doubtful, Fine
from provisioner.audit.doctor import Doctor

__all__ = ["Broken", "Check", "CheckName", "Diagnosis", "Doctor", "Doubtful", "Fine"]
