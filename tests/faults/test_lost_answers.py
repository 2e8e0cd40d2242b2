"""Many keys, with 30 % of the answers lost after the commit, on every dialect.

500 keys lose them in all ways at once, and LOST_KEYS keys (120 by default) in each single way.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from builders import desired_key, environment_with
from laboratory import (
    BadGateway,
    ClosedAfter,
    Empty,
    Failed,
    HtmlPage,
    Laboratory,
    Truncated,
    Unavailable,
    seeded,
)
from sandbox_control import Dialect

from provisioner.execution import Done, Executed
from provisioner.model.environment import SessionToken
from provisioner.reconcile.connection import WorkspaceOpener
from provisioner.reconcile.proposal import PlanRequest
from provisioner.reconcile.reconciler import Reconciler
from provisioner.runtime.executor import ThreadExecutor
from provisioner.secret import Secret
from provisioner.sinks.registry import SinkRegistry

if TYPE_CHECKING:
    from pathlib import Path

    from laboratory import Fault

    from provisioner.execution import RunResult
    from provisioner.runtime.cancellation import Cancellation

KEYS_OF_ONE_WAY = int(os.environ.get("LOST_KEYS", "120"))
KEYS_OF_ALL_WAYS = 500
LOST = 0.3
# All faults that lose the answer to a committed request.
LOST_ANSWERS: tuple[Fault, ...] = (
    ClosedAfter(),
    Failed(),
    Failed(graphql_status=200),
    BadGateway(committed=True),
    Unavailable(committed=True, retry_after=0),
    Truncated(),
    HtmlPage(),
    Empty(),
)


def apply(names: list[str], laboratory: Laboratory, root: Path, stop: Cancellation) -> RunResult:
    environment = environment_with(
        url=laboratory.url,
        credential=SessionToken(Secret(laboratory.sandbox.session_token())),
    )
    role = None if laboratory.sandbox.dialect is Dialect.LEGACY else "Admin"
    desired = tuple(
        desired_key(
            name,
            depth=(0, 1, 2)[number % 3],
            role=role,
            line=number + 1,
        )
        for number, name in enumerate(names)
    )
    with closing(
        Reconciler(
            (environment,),
            WorkspaceOpener(root, stop),
            SinkRegistry(root, {}, stop).open,
            ThreadExecutor(1),
            stop,
        )
    ) as reconciler:
        proposal = reconciler.propose(PlanRequest({"shop": desired}, datetime.now(UTC)))
        result = reconciler.execute(proposal)
        assert not any(part.bug for part in result.environments), result
        return result


@pytest.mark.parametrize("fault", [*((entry,) for entry in LOST_ANSWERS), LOST_ANSWERS], ids=str)
@pytest.mark.parametrize("dialect", Dialect)
def test_lost_answers_neither_duplicate_nor_lose_a_key(
    dialect: Dialect, fault: tuple[Fault, ...], tmp_path: Path, hurried
) -> None:
    """The run creates each key exactly once, and the report has its id and record."""
    keys = KEYS_OF_ONE_WAY if len(fault) == 1 else KEYS_OF_ALL_WAYS
    names = [f"svc-{number:03d}" for number in range(keys)]
    with Laboratory(dialect, plan=seeded(7, LOST, fault)) as laboratory:
        result = apply(names, laboratory, tmp_path, hurried())
        lost, sent = len(laboratory.injected), laboratory.arrived
        rows = {key.id: key for key in laboratory.sandbox.keys()}
    assert lost > 0.2 * sent
    assert Counter(key.name for key in rows.values()) == Counter(names)
    assert all(key.revoked_at is None for key in rows.values())
    [environment_result] = result.environments
    assert isinstance(environment_result, Executed)
    assert len(environment_result.results) == keys
    for entry in environment_result.results:
        assert isinstance(entry, Done)
        assert rows[entry.id].name == entry.action.name
        assert entry.record is not None
        assert entry.record["id"] == entry.id
