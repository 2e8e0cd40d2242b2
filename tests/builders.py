"""The values that tests are made of: each whole by default, and every field open to a keyword.

A test names what its promise hangs on and nothing else. That is why a value of the product is made
here and nowhere else: a field that it gets, and that every construction must give, is given once.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from provisioner.errors.problem import Place
from provisioner.model.environment import Environment, Limits, Policy
from provisioner.model.expiry import parse_expiry
from provisioner.model.key import DesiredKey, Rotation
from provisioner.model.observed import KnownRoles, NoRoles, Observation, ObservedKey, Role
from provisioner.model.sink_address import CommandAddress, FileAddress, GithubAddress, VaultAddress
from provisioner.plan import (
    Change,
    Create,
    Deliver,
    Estimate,
    Plan,
    Planned,
    Revoke,
    Rotate,
    Unobserved,
    Update,
)

if TYPE_CHECKING:
    from provisioner.model.expiry import Expiry
    from provisioner.model.observed import Roles
    from provisioner.model.sink_address import Address
    from provisioner.plan import Action

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
NOW = datetime(2026, 11, 23, 4, tzinfo=UTC)
"""The moment of every plan, by all clocks."""

END = NOW + 90 * DAY
"""The end of a key for 90 days that is made now."""

URL = "https://crm.example.com"
DIGEST = f"sha256:{'0' * 64}"

# Where tokens go


def file_sink(path: str = "a.env", variable: str = "A", **changes: Any) -> FileAddress:
    """A variable of a dotenv file."""
    return replace(FileAddress(path, variable), **changes)


def vault_sink(path: str = "a", **changes: Any) -> VaultAddress:
    """A field of a secret in Vault, which can be read back."""
    return replace(VaultAddress("secret", path), **changes)


def github_sink(secret: str = "A", **changes: Any) -> GithubAddress:
    """A secret of a repository at GitHub, which cannot be read back."""
    return replace(GithubAddress("acme", secret, "billing"), **changes)


def command_sink(*argv: str, **changes: Any) -> CommandAddress:
    """A program that takes a token, and that has no check."""
    return replace(CommandAddress(argv or ("store", "a")), **changes)


# What is asked for


def limits_with(**changes: Any) -> Limits:
    """What a server may be asked for."""
    return Limits(**changes)


def policy_with(**changes: Any) -> Policy:
    """A policy of these rules."""
    return Policy(**changes)


def environment_with(**changes: Any) -> Environment:
    """`shop`, which owns no key and has no role, credential or policy."""
    return replace(Environment(name="shop", url=URL), **changes)


def rotation_with(
    before: timedelta = 10 * DAY, overlap: timedelta = 2 * DAY, written: str = "10d, 48h"
) -> Rotation:
    """A successor ten days before the end, and both for two days."""
    return Rotation(before, overlap, written)


def desired_key(
    name: str = "svc-a",
    *sinks: Address,
    expiry: str | Expiry = "90d",
    line: int = 7,
    **changes: Any,
) -> DesiredKey:
    """A key that a manifest asks for on a line, for 90 days, delivered to these sinks."""
    key = DesiredKey(
        environment="shop",
        name=name,
        depth=1,
        expiry=parse_expiry(expiry) if isinstance(expiry, str) else expiry,
        role=None,
        place=Place("manifests/a.yaml", line, 3),
        deliver=sinks,
    )
    return key._replace(**changes)


# What is there


def role_with(label: str = "Worker", number: int = 1, **changes: Any) -> Role:
    """A role that keys may have; the number is in its id."""
    n = str(number)
    id_ = f"{n * 8}-{n * 4}-4{n * 3}-8{n * 3}-{n * 12}"
    return replace(Role(id_, label, assignable=True), **changes)


WORKER = role_with()
ADMIN = role_with("Admin", 2)
GUEST = role_with("Guest", 3, assignable=False)


def observed_key(name: str = "svc-a", number: int = 1, **changes: Any) -> ObservedKey:
    """A live key for 90 days, made yesterday; of one name the lower number is the older."""
    key = ObservedKey(
        id=f"id-{name}-{number}",
        name=name,
        expires_at=END,
        revoked_at=None,
        created_at=NOW - DAY + number * SECOND,
        role=WORKER.label,
        role_id=WORKER.id,
    )
    return replace(key, **changes)


def observation_with(*keys: ObservedKey, roles: Roles | None = None, **changes: Any) -> Observation:
    """One look at these keys; it is one at a legacy server where there are no roles."""
    look = Observation(
        generation="legacy" if isinstance(roles, NoRoles) else "core",
        workspace="w",
        keys=keys,
        roles=roles or KnownRoles(()),
        server_time=NOW,
        requests=1,
    )
    return replace(look, **changes)


# What is to be done


def create(name: str = "svc-a", *sinks: Address, **changes: Any) -> Create:
    """A key to be made, for these sinks."""
    action = Create(
        name=name,
        reason="missing",
        depth=0,
        expires_at=END,
        expires="90d",
        role="Worker",
        role_id="role-1",
        place=Place("manifests/a.yaml", 7, 3),
        sinks=sinks,
    )
    return action._replace(**changes)


def deliver(name: str = "svc-a", *sinks: Address, **changes: Any) -> Deliver:
    """A token for the key `old-…` of that name, for these sinks."""
    action = Deliver(
        name=name,
        reason="token_missing",
        depth=0,
        expires_at=END,
        role="Worker",
        key_id=f"old-{name}",
        sinks=sinks,
        place=Place("manifests/a.yaml", 8, 3),
    )
    return action._replace(**changes)


def update(name: str = "svc-a", *sinks: Address, **changes: Any) -> Update:
    """A later end for the key `old-…` of that name, told to these sinks."""
    action = Update(
        name=name,
        reason="drift",
        depth=0,
        expires_at=END,
        role="Worker",
        key_id=f"old-{name}",
        changes=(Change("expires", "2026-12-31T00:00:00Z", "90d"),),
        sets_expiry=True,
        role_id=None,
        place=Place("manifests/a.yaml", 9, 3),
        sinks=sinks,
    )
    return action._replace(**changes)


def rotate(successor: Create | None = None, **changes: Any) -> Rotate:
    """A successor, asked for, of the key `old-…` of its name."""
    made = successor or create()
    action = Rotate(reason="asked", successor=made, predecessors=(f"old-{made.name}",))
    return action._replace(**changes)


def revoke(name: str = "svc-a", **changes: Any) -> Revoke:
    """The end of the key `old-…` of a name that no manifest has."""
    action = Revoke(
        name=name,
        reason="undeclared",
        key_id=f"old-{name}",
        expires_at=END,
        role="Worker",
        place=None,
    )
    return action._replace(**changes)


def part_with(*actions: Action, **changes: Any) -> Planned:
    """The plan of `shop`: these actions, and nothing that is kept or told."""
    part = Planned(
        environment="shop",
        url=URL,
        generation="core",
        workspace="w",
        actions=actions,
        kept=(),
        findings=(),
        notes=(),
        estimate=Estimate(0, 0.0),
    )
    return replace(part, **changes)


def plan_with(*parts: Planned | Unobserved, **changes: Any) -> Plan:
    """The plan of a run over these environments."""
    return replace(Plan(created_at=NOW, digest=DIGEST, environments=parts), **changes)
