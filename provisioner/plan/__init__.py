"""The plan: the actions that turn observed into desired, and what else is true."""

from provisioner.plan.delivery import SHORTER, block, to_prepare
from provisioner.plan.diff import plan_environment, plan_revocations, to_read
from provisioner.plan.digest import digest
from provisioner.plan.model import (
    Action,
    Change,
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
    Revoke,
    RevokeReason,
    Rotate,
    Unmanaged,
    Unobserved,
    Update,
)
from provisioner.plan.wishes import Wishes

__all__ = [
    "SHORTER",
    "Action",
    "Change",
    "Create",
    "Deliver",
    "DeliveryUnknown",
    "Drift",
    "Duplicate",
    "EnvironmentPlan",
    "Estimate",
    "Expiring",
    "Finding",
    "Plan",
    "Planned",
    "Revoke",
    "RevokeReason",
    "Rotate",
    "Unmanaged",
    "Unobserved",
    "Update",
    "Wishes",
    "block",
    "digest",
    "plan_environment",
    "plan_revocations",
    "to_prepare",
    "to_read",
]
