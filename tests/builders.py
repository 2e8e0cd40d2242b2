"""Builders of the values that tests use, with a default for every field.

A test sets only the fields that matter to it. Tests create the product's values only through these
builders, so a new required field is added in one place.
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
from provisioner.model.sink_content import ApiKeyToken
from provisioner.plan import (
    Change,
    Clean,
    Create,
    Deliver,
    Estimate,
    FormerSink,
    Plan,
    Planned,
    Rename,
    Revoke,
    Rotate,
    Unobserved,
    Update,
)
from provisioner.sinks.command import CommandAddress
from provisioner.sinks.file import FileAddress
from provisioner.sinks.github import GithubAddress
from provisioner.sinks.vault import VaultAddress

if TYPE_CHECKING:
    from provisioner.model.expiry import Expiry
    from provisioner.model.observed import Roles
    from provisioner.model.sink_address import Address
    from provisioner.plan import Action

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
NOW = datetime(2026, 11, 23, 4, tzinfo=UTC)
"""The time of every plan; the clocks of servers agree."""

END = NOW + 90 * DAY
"""The expiry of a key for 90 days that is created now."""

URL = "https://crm.example.com"
DIGEST = f"sha256:{'0' * 64}"

# Sink addresses


def file_sink(path: str = "a.env", variable: str = "A", **changes: Any) -> FileAddress:
    """Return a variable of a dotenv file."""
    return replace(FileAddress(path, variable), **changes)


def vault_sink(path: str = "a", **changes: Any) -> VaultAddress:
    """Return a field of a secret in Vault, which can be read back."""
    return replace(VaultAddress("secret", path), **changes)


def github_sink(secret: str = "A", **changes: Any) -> GithubAddress:
    """Return a secret of a GitHub repository, which cannot be read back."""
    return replace(GithubAddress("acme", secret, "billing"), **changes)


def command_sink(*argv: str, **changes: Any) -> CommandAddress:
    """Return a program that receives a token and has no check."""
    return replace(CommandAddress(argv or ("store", "a")), **changes)


# Desired state


def limits_with(**changes: Any) -> Limits:
    """Return limits of a server with these values."""
    return Limits(**changes)


def policy_with(**changes: Any) -> Policy:
    """Return a policy with these rules."""
    return Policy(**changes)


def environment_with(**changes: Any) -> Environment:
    """Return `shop`, which owns no key and has no role, credential or policy."""
    return replace(Environment(name="shop", url=URL), **changes)


def rotation_with(
    before: timedelta = 10 * DAY, overlap: timedelta = 2 * DAY, written: str = "10d, 48h"
) -> Rotation:
    """Return a rotation ten days before the expiry, with an overlap of two days."""
    return Rotation(before, overlap, written)


def desired_key(
    name: str = "svc-a",
    *sinks: Address,
    expiry: str | Expiry = "90d",
    line: int = 7,
    **changes: Any,
) -> DesiredKey:
    """Return a key that a manifest declares on a line, for 90 days, delivered to these sinks."""
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


# Observed state


def role_with(label: str = "Worker", number: int = 1, **changes: Any) -> Role:
    """Return a role that keys may have; its id is made of the number."""
    digit = str(number)
    id_ = f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}"
    return replace(Role(id_, label, assignable=True), **changes)


WORKER = role_with()
ADMIN = role_with("Admin", 2)
GUEST = role_with("Guest", 3, assignable=False)


def observed_key(name: str = "svc-a", number: int = 1, **changes: Any) -> ObservedKey:
    """Return a live key, created yesterday; among keys of one name, the lower number is older."""
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
    """Return an observation of these keys, by a legacy server if `roles` is NoRoles."""
    observation = Observation(
        generation="legacy" if isinstance(roles, NoRoles) else "core",
        batches=isinstance(roles, NoRoles),
        workspace="w",
        keys=keys,
        roles=roles or KnownRoles(()),
        server_time=NOW,
        requests=1,
    )
    return replace(observation, **changes)


# Planned actions


def create(name: str = "svc-a", *sinks: Address, **changes: Any) -> Create:
    """Return the action that creates a key and delivers its token to these sinks."""
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
    """Return the action that delivers a token of the key `old-NAME` to these sinks."""
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
    """Return the action that extends the key `old-NAME` and delivers its token to these sinks."""
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


def rename(name: str = "svc-a", **changes: Any) -> Rename:
    """Return the action that gives the key `old-NAME` its name, in place of `former-NAME`."""
    action = Rename(
        name=name,
        old_name=f"former-{name}",
        reason="moved",
        depth=0,
        expires_at=END,
        role="Worker",
        key_id=f"old-{name}",
        place=Place("manifests/a.yaml", 10, 3),
    )
    return action._replace(**changes)


def rotate(successor: Create | None = None, **changes: Any) -> Rotate:
    """Return the action that replaces the key `old-NAME` by a successor, as requested."""
    created = successor or create()
    action = Rotate(reason="asked", successor=created, predecessors=(f"old-{created.name}",))
    return action._replace(**changes)


def revoke(name: str = "svc-a", **changes: Any) -> Revoke:
    """Return the action that revokes the key `old-NAME`, which no manifest declares."""
    action = Revoke(
        name=name,
        reason="undeclared",
        key_id=f"old-{name}",
        expires_at=END,
        role="Worker",
        place=None,
    )
    return action._replace(**changes)


def api_key_token(key_id: str = "id-svc-a-1", **changes: Any) -> ApiKeyToken:
    """Return a token of the observed workspace in a sink, as claims."""
    return replace(ApiKeyToken(key_id, END, NOW - DAY, workspace="w"), **changes)


def clean(name: str = "svc-a", sink: Address | None = None, **changes: Any) -> Clean:
    """Return the action that removes the token of the key `old-NAME` from a former sink."""
    action = Clean(
        name=name,
        reason="undeclared",
        token=api_key_token(f"old-{name}"),
        sink=sink or file_sink("old.env"),
        place=None,
    )
    return action._replace(**changes)


def former_sink(name: str = "svc-a", sink: Address | None = None, **changes: Any) -> FormerSink:
    """Return a sink that only the previous manifests declare, with `clean: true`."""
    former = FormerSink(
        name, frozenset({name}), sink or file_sink("old.env"), clean=True, place=None
    )
    return former._replace(**changes)


def part_with(*actions: Action, **changes: Any) -> Planned:
    """Return the plan of `shop`: these actions, no kept keys and no findings."""
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
    """Return the plan of a run over these environments."""
    return replace(Plan(created_at=NOW, digest=DIGEST, environments=parts), **changes)
