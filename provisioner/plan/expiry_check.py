"""Whether a key may be given an end, by the server's clock and the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.failure import Failure
from provisioner.model.expiry import ExpiresAt, format_moment
from provisioner.model.policy import breaches

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey


def validate_expiry(
    environment: Environment, key: DesiredKey, expires_at: datetime, server_time: datetime
) -> Failure | None:
    """Why a key cannot be given an end; None where it can.

    Durations were held to the policy when the manifests were read; a date counts from the run.
    """
    where = f"{key.place.file} line {key.place.line}"
    if expires_at.replace(microsecond=0) <= server_time:
        return Failure(
            "expiry_past",
            f"{key.name!r} would end at {format_moment(expires_at)}, which has passed. "
            f"Write a later date in {where}.",
        )
    policy = environment.policy
    if policy is None or not isinstance(key.expiry, ExpiresAt):
        return None
    if "policy_lifetime" in breaches(policy, key, role=None, now=server_time):
        return Failure(
            "policy_lifetime",
            f"{key.name!r} would end at {format_moment(expires_at)}, and the policy of "
            f"{environment.name} does not let it live that long. Write an earlier date in {where}.",
        )
    return None
