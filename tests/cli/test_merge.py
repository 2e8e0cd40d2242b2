"""`merge`: one outcome and one exit code out of the files of shards."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from builders import NOW, create, part_with, plan_with
from jsonschema import Draft202012Validator

from provisioner import schemas
from provisioner.audit.check import Check, Diagnosis
from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.errors.problem import Place, Problem
from provisioner.model.shard import Shard
from provisioner.plan import Unobserved
from provisioner.render.doctor import diagnosis_document
from provisioner.render.formats import render
from provisioner.render.json import as_json
from provisioner.render.report import ReportInput, ShardLabel
from provisioner.render.shards import labelled

if TYPE_CHECKING:
    from pathlib import Path

    from provisioner.plan import EnvironmentPlan

pytestmark = pytest.mark.fast

POSITIONS = {"away": 0, "shop": 1, "bare": 2}
IDLE, CHANGED = part_with(environment="bare"), part_with(create())


def failure(code: Code) -> Failure:
    return Failure(code, "Something happened.")


def unobserved(code: Code) -> Unobserved:
    return Unobserved("away", "https://away", failure(code))


def plan_of(
    number: int, *parts: EnvironmentPlan, total: int = 2, refusal: Code | None = None
) -> str:
    """Return the JSON of a plan of a shard."""
    report = ReportInput(
        NOW,
        outcome=plan_with(*parts),
        refusal=None if refusal is None else failure(refusal),
        shard=ShardLabel(Shard(number, total), POSITIONS, {}),
    )
    text = render(report, "json")
    Draft202012Validator(schemas.load("plan")).validate(json.loads(text))
    return text


PROBLEMS = render(
    ReportInput(NOW, problems=(Problem(Place("m/a.yaml", 3, 5), Code.EXPIRY_INVALID, "No."),)),
    "json",
)


@pytest.fixture
def merge(tmp_path: Path, run):
    """Return a function that merges files with these texts."""

    def merge_(*texts: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        files = [tmp_path / f"{number}.json" for number, _ in enumerate(texts)]
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        result: tuple[int, str, str] = run("merge", *files, *options)
        return result

    return merge_


@pytest.mark.parametrize(
    ("code", "texts"),
    [
        (0, (plan_of(1, IDLE), plan_of(2))),
        (0, (plan_of(1, IDLE), plan_of(2, CHANGED))),
        (4, (plan_of(1, IDLE), plan_of(2, unobserved(Code.UNREACHABLE)))),
        (4, (plan_of(1, part_with(create(blocked=failure(Code.ROLE_MISSING)))), plan_of(2))),
        (4, (plan_of(2, IDLE),)),
        (4, (plan_of(2, IDLE), "")),
        (4, (plan_of(2, IDLE), plan_of(1, CHANGED)[:-9])),
        (5, (plan_of(1, unobserved(Code.UNREACHABLE)), plan_of(2, refusal=Code.PROTECTED))),
        (6, (plan_of(1, refusal=Code.PROTECTED), plan_of(2, refusal=Code.PLAN_STALE))),
        (3, (plan_of(1, refusal=Code.PLAN_STALE), PROBLEMS)),
        (3, (PROBLEMS, PROBLEMS)),
        (130, (plan_of(1, unobserved(Code.STOPPED)), PROBLEMS)),
        (1, (plan_of(1, unobserved(Code.INTERNAL_ERROR)), plan_of(2, refusal=Code.PROTECTED))),
    ],
)
def test_the_exit_code_is_that_of_one_run(merge, code, texts) -> None:
    """The first of 1, 130, 3, 6, 5, 4 and 0 that any shard has; JSON is that of one run."""
    found, out, err = merge(*texts, options=("--format", "json"))
    assert found == code, err
    document = json.loads(out)
    name = "problems" if document["format"] == "provision/problems/v1" else "plan"
    Draft202012Validator(schemas.load(name)).validate(document)
    assert document.keys().isdisjoint({"shard", "merge"})


def test_the_missing_shards_are_named(merge) -> None:
    """On stderr, and in the outcome itself, as environments that were not reached."""
    code, out, err = merge(plan_of(2, IDLE, total=4), plan_of(3, total=4))
    assert code == 4
    assert "shard_missing: The output of shards 1/4, 4/4 are missing. Run them again" in err
    assert "Run it again with --shard 1/4." in out
    assert out.endswith("Plan: 0 to create, 0 to keep, 2 environments not reached.\n")


def test_environments_are_in_the_order_of_the_manifests(merge) -> None:
    """Whatever the order of the files is."""
    texts = plan_of(2, CHANGED), plan_of(1, unobserved(Code.UNREACHABLE), IDLE)
    for order in (texts, texts[::-1]):
        _, out, _ = merge(*order, options=("--format", "json"))
        names = [one["environment"] for one in json.loads(out)["environments"]]
        assert names == ["away", "shop", "bare"]


def test_detailed_exitcode_shows_changes(merge) -> None:
    """As `plan --detailed-exitcode` does for one run; more serious codes come first."""
    option = ("--detailed-exitcode",)
    assert merge(plan_of(1, IDLE), plan_of(2), options=option)[0] == 0
    assert merge(plan_of(1, IDLE), plan_of(2, CHANGED), options=option)[0] == 2
    assert merge(plan_of(1, CHANGED), options=option)[0] == 4


def diagnosis(number: int, environment: str, *checks: Check) -> str:
    document = diagnosis_document([Diagnosis(environment, "https://x", "core", checks)])
    return as_json(labelled(document, ShardLabel(Shard(number, 2), POSITIONS, {})))


FINE = diagnosis(1, "shop", Check("reached", "ok", "Answers."))


def test_diagnoses_are_merged(merge) -> None:
    """As text and JSON, the formats of `doctor`; a failed check exits with 4."""
    bad = diagnosis(2, "away", Check.failed("reached", failure(Code.UNREACHABLE)))
    code, out, _ = merge(FINE, bad)
    assert (code, out.startswith("away")) == (4, True)
    assert "Doctor: 2 environments, 1 ok, 1 failed." in out
    code, out, _ = merge(FINE, bad, options=("--format", "json"))
    Draft202012Validator(schemas.load("doctor")).validate(json.loads(out))
    code, out, err = merge(FINE, bad, options=("--format", "markdown"))
    assert (code, out) == (64, "")
    code, out, _ = merge(FINE, bad, options=("--report", f"json={os.devnull}"))
    assert (code, out) == (64, "")
    assert "--format markdown cannot show provision/doctor/v1. Choose from text, json." in err


UNSHARDED = render(ReportInput(NOW, outcome=plan_with(IDLE)), "json")


@pytest.mark.parametrize(
    ("message", "texts"),
    [
        ("Several files are shard 1/2.", (plan_of(1, IDLE), plan_of(1, CHANGED))),
        ("One file is shard 1/2, and another is shard 2/3", (plan_of(1), plan_of(2, total=3))),
        ("One file is provision/plan/v1, and another provision/doctor/v1.", (plan_of(1), FINE)),
        ("The files have the same environment", (plan_of(1, IDLE), plan_of(2, IDLE))),
        ("is of a run without --shard.", (plan_of(1), UNSHARDED)),
        ("is not a plan, a result, a report or a diagnosis.", (plan_of(1), "[]")),
        ("does not follow its schema", ('{"format": "provision/plan/v1"}',)),
    ],
)
def test_files_that_are_not_shards_of_one_run_are_wrong_usage(merge, message, texts) -> None:
    """Nothing is printed, because it would be the outcome of no run."""
    code, out, err = merge(*texts)
    assert (code, out) == (64, "")
    assert "shard_invalid: " in err
    assert message in err


def test_a_file_that_does_not_exist_is_wrong_usage(run, tmp_path) -> None:
    """It is most likely a typing error, unlike a file that a run left empty."""
    code, _, err = run("merge", tmp_path / "nope.json")
    assert (code, "nope.json cannot be read: no such file" in err) == (64, True)
    (tmp_path / "empty.json").write_text("")
    code, out, err = run("merge", tmp_path / "empty.json")
    assert (code, out) == (4, "")
    assert "shard_missing: No file has the output of a shard." in err
