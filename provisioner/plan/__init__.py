"""The plan: the actions that turn observed into desired, and what else is true."""

from provisioner.plan.diff import plan_environment
from provisioner.plan.digest import digest
from provisioner.plan.model import (
    Action,
    Create,
    Drift,
    Duplicate,
    EnvironmentPlan,
    Estimate,
    Expiring,
    Finding,
    Plan,
    Planned,
    Unmanaged,
    Unobserved,
)

__all__ = [
    "Action",
    "Create",
    "Drift",
    "Duplicate",
    "EnvironmentPlan",
    "Estimate",
    "Expiring",
    "Finding",
    "Plan",
    "Planned",
    "Unmanaged",
    "Unobserved",
    "digest",
    "plan_environment",
]
