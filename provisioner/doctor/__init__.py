"""The diagnosis: what each environment and its sinks let a run do, found by reading alone."""

from provisioner.doctor.check import Broken, Check, CheckName, Diagnosis, Doubtful, Fine
from provisioner.doctor.doctor import Doctor

__all__ = ["Broken", "Check", "CheckName", "Diagnosis", "Doctor", "Doubtful", "Fine"]
