"""The plan: the actions that turn observed into desired, and what else is true."""

from provisioner.plan.actions import (
    Action,
    Change,
    Create,
    Deliver,
    EnvironmentPlan,
    Estimate,
    Plan,
    Planned,
    Revoke,
    RevokeReason,
    Rotate,
    Unobserved,
    Update,
)
from provisioner.plan.delivery import SHORTER, block, premature, to_prepare
from provisioner.plan.diff import plan_environment, to_read
from provisioner.plan.digest import digest, sealed, wanted
from provisioner.plan.findings import (
    DeliveryUnknown,
    Drift,
    Duplicate,
    Expiring,
    Finding,
    Unmanaged,
)
from provisioner.plan.options import PlanOptions, selected_keys
from provisioner.plan.revocations import plan_revocations
from provisioner.plan.rotation import LiveKeys, tell_apart

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
    "LiveKeys",
    "Plan",
    "PlanOptions",
    "Planned",
    "Revoke",
    "RevokeReason",
    "Rotate",
    "Unmanaged",
    "Unobserved",
    "Update",
    "block",
    "digest",
    "plan_environment",
    "plan_revocations",
    "premature",
    "sealed",
    "selected_keys",
    "tell_apart",
    "to_prepare",
    "to_read",
    "wanted",
]
