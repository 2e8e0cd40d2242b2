"""The JSON of shards, read back: every format shows the same as the run itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from builders import (
    ADMIN,
    DAY,
    NOW,
    api_key_token,
    clean,
    create,
    deliver,
    desired_key,
    environment_with,
    file_sink,
    observation_with,
    observed_key,
    part_with,
    plan_with,
    rename,
    revoke,
    rotate,
    rotation_with,
    update,
)

from provisioner.audit.key_audit import AuditInput, audit
from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.execution import (
    CreatedByAnotherRun,
    Done,
    Executed,
    Failed,
    RunResult,
    Skipped,
    Unfinished,
)
from provisioner.model.key import Annotations
from provisioner.model.observed import KnownRoles, NoRoles
from provisioner.model.shard import Shard
from provisioner.model.sink_content import ApiKeyToken
from provisioner.plan import (
    DeliveryUnknown,
    Drift,
    Duplicate,
    Estimate,
    Expiring,
    LeftBehind,
    MovedConflict,
    Plan,
    Unmanaged,
    Unobserved,
    Upcoming,
    digest,
)
from provisioner.render.formats import render
from provisioner.render.report import ReportInput, ShardLabel
from provisioner.render.shards import Merged, ShardOutput, UnreadableShard, merge, read_shard

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.fast

FAILURE = Failure(Code.PERMISSION_DENIED, "Not allowed.", "Ask for it.")
SINK = file_sink()
ABOUT = Annotations("Nightly\nexport", "team-a", "OPS-7")
ACTIONS = (
    create("svc-a", SINK, annotations=ABOUT),
    create("svc-b", blocked=FAILURE, annotations=Annotations(owner="team-b")),
    update("svc-c", SINK, annotations=ABOUT),
    rename("svc-g", annotations=ABOUT),
    rename("svc-g", key_id="older", blocked=FAILURE),
    rotate(create("svc-d", SINK, annotations=ABOUT)),
    deliver("svc-e", SINK, annotations=ABOUT),
    revoke("svc-f", annotations=ABOUT),
    revoke("svc-g"),
    clean("svc-f", annotations=ABOUT),
    clean("svc-h", file_sink("x.env"), token=api_key_token(expires_at=None), blocked=FAILURE),
)
FINDINGS = (
    Unmanaged("old", ("1", "2")),
    Duplicate("svc-a", ("1", "2"), "1", "owned", rotated=True),
    MovedConflict("svc-b", ("1",), ("a", "b")),
    Drift("svc-b", ("1",), "role", None, "Admin", "not_owned"),
    Expiring("svc-c", ("1",), "2026-12-01T00:00:00Z"),
    DeliveryUnknown("svc-d", ("1",), (SINK,), ("2",)),
    LeftBehind("svc-h", (), SINK, "unreadable"),
)
LATER = (
    Upcoming("svc-d", "old-svc-d", None, 48, None, "delivery"),
    Upcoming("svc-h", "1", NOW, 240, 7),
    Upcoming("svc-i", "2", None, 24, None, "proof"),
    *(Upcoming(f"svc-{number}", "2", NOW + 5 * DAY, 240, 120) for number in range(10)),
)
PARTS = (
    part_with(
        *ACTIONS, findings=FINDINGS, notes=("Roles are ignored.",), kept=("x", "y"), upcoming=LATER
    ),
    Unobserved("away", "https://away", Failure(Code.UNREACHABLE, "No server.")),
    part_with(environment="empty", generation="legacy", estimate=Estimate(3, 1.25)),
)
DESIRED = {"shop": (desired_key("svc-a", SINK), desired_key("svc-b"))}
POSITIONS = {"shop": 0, "away": 1, "empty": 2}


def in_shards(outcome: Plan | RunResult, refusal: Failure | None = None) -> list[str]:
    """Return the JSON of three shards, which have one environment each, the last first."""
    texts = []
    for number, part in reversed([*enumerate(outcome.environments, 1)]):
        label = ShardLabel(Shard(number, 3), POSITIONS, DESIRED)
        report = ReportInput(
            NOW,
            outcome=replace(outcome, environments=(part,)),
            refusal=refusal if number == 1 else None,
            shard=label,
        )
        texts.append(render(report, "json"))
    return texts


def merged(texts: Sequence[str]) -> Merged:
    shards = [read_shard(text.encode()) for text in texts]
    return merge([one for one in shards if isinstance(one, ShardOutput)], NOW)


def assert_same(outcome: Plan | RunResult) -> None:
    """Assert that every format shows the merged shards as it shows one run."""
    found = merged(in_shards(outcome)).outcome
    assert not isinstance(found, tuple)
    for name in ("json", "text", "markdown"):
        one_run, shards = (render(ReportInput(NOW, outcome=one), name) for one in (outcome, found))
        assert shards == one_run


def test_the_plans_of_shards_are_the_plan_of_one_run() -> None:
    """All actions, findings, failures, notes and the digest are as in one run."""
    assert_same(plan_with(*PARTS, digest=digest(PARTS, DESIRED)))


def test_the_results_of_shards_are_the_result_of_one_run() -> None:
    """All outcomes of actions, and the counts of each environment, are as in one run."""
    record = {"id": "1"}
    created, rotated = create("svc-a", SINK), rotate(create("svc-d", SINK), at_once=True)
    results = (
        Done(created, "1", record),
        CreatedByAnotherRun(created, "2", None),
        CreatedByAnotherRun(rotated, "2", record),
        Unfinished(created, "3", record, FAILURE),
        Unfinished(rotated, "3", record, FAILURE, delivered=True),
        Unfinished(rotated, "3", record, FAILURE, created=False),
        Unfinished(update("svc-c", SINK), "4", None, FAILURE, created=False),
        Done(update("svc-c"), "4", None),
        Done(deliver("svc-e", SINK), "old-svc-e", None),
        Done(revoke("svc-f"), "old-svc-f", record),
        Done(rename("svc-g"), "old-svc-g", None),
        Done(clean("svc-f"), "old-svc-f", None),
        Skipped(clean("svc-f"), FAILURE),
        Failed(create("svc-b"), FAILURE),
        Failed(revoke("svc-f", blocked=FAILURE), FAILURE),
        Skipped(deliver("svc-e", SINK), FAILURE),
    )
    planned = replace(PARTS[0], actions=tuple(one.action for one in results))
    plans = (planned, *PARTS[1:])
    parts = (Executed(planned, results, upcoming=LATER), PARTS[1], Executed(PARTS[2], ()))
    assert_same(RunResult(NOW, digest(plans, DESIRED), parts))


def test_the_reports_of_shards_are_the_report_of_one_run() -> None:
    """A key that has full access in environments of different shards is noted in both."""
    old = observed_key("svc-b", created_at=NOW - 80 * DAY, expires_at=NOW + 9 * DAY)
    successive = (old, observed_key("svc-b", 2))
    inputs = [
        AuditInput(
            environment_with(name=name, owns=("*",)),
            (desired_key("svc-b", SINK, rotation=rotation_with(), annotations=ABOUT),),
            observation_with(observed_key("svc-a", role="Admin"), *successive, roles=roles),
            {SINK: ApiKeyToken(successive[1].id, None)},
        )
        for name, roles in (("shop", KnownRoles((ADMIN,))), ("empty", NoRoles()))
    ]
    down = Unobserved("away", "https://away", Failure(Code.UNREACHABLE, "No server."))
    texts = [
        render(
            ReportInput(
                NOW,
                outcome=audit([one], NOW, 20 * DAY),
                shard=ShardLabel(Shard(number, 3), POSITIONS, {}),
            ),
            "json",
        )
        for number, one in enumerate([inputs[1], down, inputs[0]], 1)
    ]
    found = merged(texts).outcome
    assert not isinstance(found, tuple)
    whole = audit([inputs[0], down, inputs[1]], NOW, 20 * DAY)
    assert whole.notes["shared_admin"] == 2
    assert len(whole.observed[0].upcoming) == 1
    for name in ("json", "text", "markdown", "html", "openmetrics", "ics"):
        one_run, shards = (render(ReportInput(NOW, outcome=one), name) for one in (whole, found))
        assert shards == one_run


def test_a_missing_shard_is_an_environment_that_was_not_observed() -> None:
    """Every format shows it, and the outcome is incomplete."""
    found = merged(in_shards(plan_with(*PARTS))[1:])
    assert found.missing == (Shard(3, 3),)
    assert isinstance(found.outcome, Plan)
    assert found.outcome.incomplete
    for name in ("json", "text", "markdown"):
        assert "shard 3/3" in render(ReportInput(NOW, outcome=found.outcome), name)


def test_a_refusal_says_which_shard_was_refused() -> None:
    """The guards of a shard see its own environments only."""
    refusal = Failure(Code.PROTECTED, "'svc-f' is protected.", "Use --allow-protected.")
    found = merged(in_shards(plan_with(*PARTS), refusal))
    assert found.refusal == Failure(Code.PROTECTED, f"Shard 1/3 was refused: {refusal.text}")


@pytest.mark.parametrize(
    "change",
    [
        {"shard": "4/3"},
        {"shard": "one"},
        {"merge": []},
        {"merge": [{"position": 0}]},
        {"created_at": "yesterday"},
        {"format": "provision/plan/v2"},
    ],
)
def test_a_changed_file_is_not_read(change) -> None:
    """It is a value with the reason, whatever is wrong."""
    document = json.loads(in_shards(plan_with(*PARTS))[0])
    assert isinstance(read_shard(json.dumps(document).encode()), ShardOutput)
    found = read_shard(json.dumps(document | change).encode())
    assert isinstance(found, UnreadableShard)
    assert not found.cut_off
