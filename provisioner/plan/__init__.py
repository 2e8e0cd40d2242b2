"""The plan: the actions that turn observed into desired, and what else is true."""

from provisioner.plan.delivery import SHORTER, Holdings, block, to_prepare
from provisioner.plan.diff import plan_environment, to_read
from provisioner.plan.digest import digest
from provisioner.plan.model import (
    Action,
    Create,
    Deliver,
    DeliveryUnknown,
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
    "SHORTER",
    "Action",
    "Create",
    "Deliver",
    "DeliveryUnknown",
    "Drift",
    "Duplicate",
    "EnvironmentPlan",
    "Estimate",
    "Expiring",
    "Finding",
    "Holdings",
    "Plan",
    "Planned",
    "Unmanaged",
    "Unobserved",
    "block",
    "digest",
    "plan_environment",
    "to_prepare",
    "to_read",
]
