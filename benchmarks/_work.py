"""The tasks that `load_validate_diff.py` measures in fresh processes: `_work.py TASK MANIFESTS`.

Prints a JSON object with the CPU time of each part of the task in seconds, without imports, and the
maximum resident memory in MB of 10**6 bytes, with imports.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import process_time
from typing import Any

import yaml
from _manifests import ENVIRONMENT, ROLE, expiry_date, name

from provisioner import schemas
from provisioner.manifests import document, load
from provisioner.manifests.schema import published, reference
from provisioner.model.environment import Environment
from provisioner.model.observed import KnownRoles, Observation, ObservedKey, Role
from provisioner.plan import plan_environment

Parts = tuple[float, ...]
"""CPU time of each part of a task, in seconds."""

_BYTES_PER_KIB = 1024
_NOW = datetime(2026, 11, 23, tzinfo=UTC)
_ROLE = Role(str(uuid.uuid4()), ROLE, assignable=True)


def events(manifests: Path) -> Parts:
    """Run the bare event loop of libyaml, which ignores all events."""
    started = process_time()
    for file in sorted(manifests.glob("*.yaml")):
        loader = yaml.CSafeLoader(file.read_text(encoding="utf-8"))
        while not isinstance(loader.get_event(), yaml.StreamEndEvent):
            pass
    return (process_time() - started,)


def none_observed(manifests: Path) -> Parts:
    """Load, validate and compare with an empty workspace: every key is an action."""
    return _load_and_diff(manifests, everything=False)


def all_observed(manifests: Path) -> Parts:
    """Do the same against a workspace with every key; building these keys is not measured."""
    return _load_and_diff(manifests, everything=True)


def fast_check(manifests: Path) -> Parts:
    """Check every manifest with jsonschema-rs, as a run does."""
    check = published("manifest").check()
    roots = _roots(manifests)
    started = process_time()
    if not all(check(root) for root in roots):
        raise SystemExit("the check rejects a manifest")
    return (process_time() - started,)


def jsonschema_check(manifests: Path) -> Parts:
    """Check every manifest with jsonschema."""
    validator = reference(schemas.load("manifest"))
    roots = _roots(manifests)
    started = process_time()
    if not all(validator.is_valid(root) for root in roots):
        raise SystemExit("jsonschema rejects a manifest")
    return (process_time() - started,)


TASKS = {
    "events": events,
    "none": none_observed,
    "all": all_observed,
    "jsonschema-rs": fast_check,
    "jsonschema": jsonschema_check,
}


def main() -> None:
    """Do one task and print its time and memory."""
    task, manifests = sys.argv[1:]
    parts = TASKS[task](Path(manifests))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _BYTES_PER_KIB / 1e6
    print(json.dumps({"parts": parts, "peak": peak}))


def _load_and_diff(manifests: Path, *, everything: bool) -> Parts:
    started = process_time()
    loaded = load(manifests, now=_NOW)
    loading = process_time() - started
    if loaded.problems:
        raise SystemExit(str(loaded.problems[0]))
    desired = loaded.desired[ENVIRONMENT]
    present = len(desired) if everything else 0
    observation = Observation(
        generation="core",
        workspace=None,
        keys=_observed(present),
        roles=KnownRoles((_ROLE,)),
        server_time=_NOW,
        requests=2,
    )
    environment = Environment(name=ENVIRONMENT, url="https://crm.example.com", role=ROLE)
    started = process_time()
    planned = plan_environment(environment, desired, observation, _NOW)
    diffing = process_time() - started
    if (len(planned.actions), len(planned.kept)) != (len(desired) - present, present):
        raise SystemExit("the plan is not the expected one")
    return loading, diffing


def _observed(count: int) -> tuple[ObservedKey, ...]:
    """Return the keys of a fleet as core lists them: shuffled, and without shared objects."""
    keys = [
        ObservedKey(
            id=str(uuid.uuid4()),
            name=name(number),
            expires_at=datetime.fromisoformat(f"{expiry_date(number)}T00:00:00.417+00:00"),
            revoked_at=None,
            created_at=_NOW - timedelta(seconds=count - number),
            role=_ROLE.label,
            role_id=_ROLE.id,
        )
        for number in range(count)
    ]
    random.Random(count).shuffle(keys)
    return tuple(keys)


def _roots(manifests: Path) -> list[Any]:
    """Return the parsed manifests, before they are checked."""
    documents = [
        document.read(file.read_text(encoding="utf-8"), file.name, dates=frozenset({"expires"}))[0]
        for file in sorted(manifests.glob("team-*.yaml"))
    ]
    return [one.root for one in documents if one is not None]


if __name__ == "__main__":
    main()
