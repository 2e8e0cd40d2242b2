"""The plan: the actions that turn observed into desired, and what else is true."""

from provisioner.plan.actions import (
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
from provisioner.plan.delivery import SHORTER, block, premature, to_prepare
from provisioner.plan.diff import plan_environment, plan_revocations, to_read
from provisioner.plan.digest import digest, sealed, wanted
from provisioner.plan.options import Wishes, concerned
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
    "Planned",
    "Revoke",
    "RevokeReason",
    "Rotate",
    "Unmanaged",
    "Unobserved",
    "Update",
    "Wishes",
    "block",
    "concerned",
    "digest",
    "plan_environment",
    "plan_revocations",
    "premature",
    "sealed",
    "tell_apart",
    "to_prepare",
    "to_read",
    "wanted",
]
