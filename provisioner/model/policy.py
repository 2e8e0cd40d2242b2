"""The policy check of a desired key: the same rules for `validate`, plans and reports; no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.model.expiry import ExpiresAfter, ExpiresAt, ExpiresNever
from provisioner.model.globs import matches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from provisioner.model.environment import Policy
    from provisioner.model.expiry import Expiry
    from provisioner.model.key import DesiredKey

PolicyCode = Literal[
    "policy_lifetime",
    "policy_rotation",
    "policy_role",
    "policy_name",
    "policy_sink",
    "policy_sink_forbidden",
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
        yield "policy_lifetime"
    if policy.rotation and key.rotation is None:
        yield "policy_rotation"
    if policy.roles and role is not None and role not in policy.roles:
        yield "policy_role"
    if policy.names and not matches(key.name, policy.names):
        yield "policy_name"
    if policy.sinks and not any(address.place[0] in policy.sinks for address in key.deliver):
        yield "policy_sink"
    if any(address.place[0] in policy.forbidden_sinks for address in key.deliver):
        yield "policy_sink_forbidden"


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
