"""The policy check of a desired key: the same rules for `validate`, plans and reports; no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.errors.codes import Code
from provisioner.model.expiry import ExpiresAfter, ExpiresAt, ExpiresNever
from provisioner.model.globs import matches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from provisioner.model.environment import Policy
    from provisioner.model.expiry import Expiry
    from provisioner.model.key import DesiredKey

PolicyCode = Literal[
    Code.POLICY_LIFETIME,
    Code.POLICY_ROTATION,
    Code.POLICY_ROLE,
    Code.POLICY_NAME,
    Code.POLICY_SINK,
    Code.POLICY_SINK_FORBIDDEN,
]
"""The rule of a policy that a key breaks."""


def breaches(
    policy: Policy, key: DesiredKey, *, role: str | None, now: datetime | None
) -> Iterator[PolicyCode]:
    """Yield the rules that a key breaks, in the order of the codes.

    Args:
        policy: the policy of the key's environment.
        key: the desired key.
        role: the role set on the key, in its manifest or in the environment; None if unknown,
            which breaks no rule.
        now: the start of the lifetime of a key with a fixed date; None skips the check of dates.
    """
    if policy.max_lifetime is not None and _exceeds(key.expiry, policy.max_lifetime, now):
        yield Code.POLICY_LIFETIME
    if policy.rotation and key.rotation is None:
        yield Code.POLICY_ROTATION
    if policy.roles and role is not None and role not in policy.roles:
        yield Code.POLICY_ROLE
    if policy.names and not matches(key.name, policy.names):
        yield Code.POLICY_NAME
    if policy.sinks and not any(address.kind in policy.sinks for address in key.deliver):
        yield Code.POLICY_SINK
    if any(address.kind in policy.forbidden_sinks for address in key.deliver):
        yield Code.POLICY_SINK_FORBIDDEN


def _exceeds(expiry: Expiry, max_lifetime: timedelta, now: datetime | None) -> bool:
    """Return whether a key created now would live longer than allowed."""
    match expiry:
        case ExpiresAt(timestamp=timestamp):
            return now is not None and timestamp - now > max_lifetime
        case ExpiresAfter(lifetime=lifetime):
            return lifetime > max_lifetime
        case ExpiresNever():
            return True
        case _:
            assert_never(expiry)
