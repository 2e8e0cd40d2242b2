"""The check of an expiry against the server's clock and the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.model.expiry import ExpiresAt, format_timestamp
from provisioner.model.policy import breaches

if TYPE_CHECKING:
    from datetime import datetime

    from provisioner.model.environment import Environment
    from provisioner.model.key import DesiredKey


def validate_expiry(
    environment: Environment, key: DesiredKey, expires_at: datetime, server_time: datetime
) -> Failure | None:
    """Return why a key cannot have an expiry; None if it can.

    `provisioner.manifests` has already checked durations against the policy. The lifetime of a key
    with a fixed date depends on the time of the run, so it is checked here.
    """
    where = f"{key.place.file} line {key.place.line}"
    if expires_at.replace(microsecond=0) <= server_time:
        return Failure(
            Code.EXPIRY_PAST,
            f"{key.name!r} would expire at {format_timestamp(expires_at)}, which is in the past. "
            f"Write a later date in {where}.",
        )
    policy = environment.policy
    if policy is None or not isinstance(key.expiry, ExpiresAt):
        return None
    if Code.POLICY_LIFETIME in breaches(policy, key, role=None, now=server_time):
        return Failure(
            Code.POLICY_LIFETIME,
            f"{key.name!r} would expire at {format_timestamp(expires_at)}, later than the policy "
            f"of {environment.name} allows. Write an earlier date in {where}.",
        )
    return None
