"""The plan: actions that turn the observed keys into the desired ones, and findings."""

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
from provisioner.plan.delivery import (
    EXPIRY_TOLERANCE,
    block_actions,
    delivers_too_early,
    sinks_to_check,
)
from provisioner.plan.diff import plan_environment, sinks_to_read
from provisioner.plan.digest import desired_key_json, digest, json_digest
from provisioner.plan.findings import (
    DeliveryUnknown,
    Drift,
    Duplicate,
    Expiring,
    Finding,
    Unmanaged,
)
from provisioner.plan.options import GuardOverrides, PlanOptions, selected_keys
from provisioner.plan.rotation import LiveKeys, classify_live_keys

__all__ = [
    "EXPIRY_TOLERANCE",
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
    "GuardOverrides",
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
    "block_actions",
    "classify_live_keys",
    "delivers_too_early",
    "desired_key_json",
    "digest",
    "json_digest",
    "plan_environment",
    "selected_keys",
    "sinks_to_check",
    "sinks_to_read",
]
