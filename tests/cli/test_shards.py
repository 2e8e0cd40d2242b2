"""`--shard`: the environments of a run, from the command line or the variables of a pipeline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import pytest

from provisioner.cli import provision
from provisioner.model.shard import Shard

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = (
    *("CI_NODE_INDEX", "CI_NODE_TOTAL", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
    *("BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT"),
    *("CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL"),
)
NAMES = ("ada", "bob", "cyd", "dan")


@pytest.fixture(autouse=True)
def no_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with four environments; each has a key, and `ada` one more."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    declared = {name: {"url": "sandbox:", "role": "Admin", "owns": ["*"]} for name in NAMES}
    (folder / "environments.yaml").write_text(json.dumps({"version": 1, "environments": declared}))
    sink = "secrets/{environment}.env"
    (folder / "keys.yaml").write_text(
        f"version: 1\nenvironments: [{', '.join(NAMES)}]\n"
        f"defaults: {{expires: 2035-01-01, deliver: [{{file: '{sink}'}}]}}\nkeys: [{{name: a}}]\n"
    )
    (folder / "more.yaml").write_text(
        "version: 1\nenvironment: ada\nkeys: [{name: only-ada, expires: 2035-01-01}]\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shard_with(name: str) -> Shard:
    """Return the one of two shards that an environment belongs to."""
    return next(one for one in (Shard(1, 2), Shard(2, 2)) if one.contains(name))


def other(shard: Shard) -> Shard:
    return Shard(3 - shard.number, 2)


def shard_option(*arguments: str) -> Any:
    command = provision.get_command(click.Context(provision), "list")
    assert command is not None
    with command.make_context("list", list(arguments)) as context:
        return context.params["shard"]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("number", "total", "first"),
    [
        ("CI_NODE_INDEX", "CI_NODE_TOTAL", 1),
        ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", 0),
        ("BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT", 0),
        ("CIRCLE_NODE_INDEX", "CIRCLE_NODE_TOTAL", 0),
    ],
)
def test_auto_reads_the_variables_of_each_system(number, total, first, monkeypatch) -> None:
    """GitLab counts its jobs from 1, the others from 0."""
    monkeypatch.setenv(total, "3")
    for index in range(3):
        monkeypatch.setenv(number, str(first + index))
        assert shard_option("--shard", "auto") == Shard(index + 1, 3)
    monkeypatch.setenv("PROVISION_SHARD", "auto")
    assert shard_option() == Shard(3, 3)
    monkeypatch.setenv(number, str(first + 3))
    with pytest.raises(click.BadParameter, match=f"{number}={first + 3} and {total}=3"):
        shard_option()
    monkeypatch.delenv(total)
    with pytest.raises(click.BadParameter, match=rf"{total} is not\. Set it"):
        shard_option()


@pytest.mark.fast
def test_a_shard_that_is_not_clear_is_wrong_usage(monkeypatch) -> None:
    """No variables, or those of two systems that differ, name no shard."""
    with pytest.raises(click.BadParameter, match=r"No variables name a shard.*use --shard K/N"):
        shard_option("--shard", "auto")
    monkeypatch.setenv("CI_NODE_TOTAL", "1")  # GitLab sets only this without `parallel`
    with pytest.raises(click.BadParameter, match="No variables name a shard"):
        shard_option("--shard", "auto")
    for name, value in zip(VARIABLES[:4], ("1", "4", "1", "4"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(click.BadParameter, match=r"several shards: 1/4 \(GitLab\) and 2/4"):
        shard_option("--shard", "auto")
    monkeypatch.setenv("PROVISION_SHARD", "")
    with pytest.raises(click.BadParameter, match="write K/N"):
        shard_option()


@pytest.mark.fast
@pytest.mark.parametrize("shard", ["4/3", "0/3", "1/0", "x"])
def test_an_invalid_shard_exits_with_64(shard, run) -> None:
    """The message says how to write one."""
    code, out, err = run("apply", "--shard", shard)
    assert (code, out) == (64, "")
    assert "write K/N with K from 1 to N" in err


def test_shards_divide_the_selected_environments(run, fleet) -> None:
    """Each is in one shard; JSON says which shard it is, and is unchanged without --shard."""
    found = []
    for number in (1, 2):
        code, out, _ = run("doctor", "--shard", f"{number}/2", "--format", "json")
        document = json.loads(out)
        assert (code, document["shard"]) == (0, f"{number}/2")
        names = [one["environment"] for one in document["environments"]]
        assert [NAMES[one["position"]] for one in document["merge"]] == names
        found += names
    assert sorted(found) == sorted(NAMES)
    mine = shard_with("ada")
    code, out, err = run("list", "-e", "ada", "--shard", other(mine), "--format", "json")
    assert (code, out, err) == (0, "[]\n", f"warning: shard {other(mine)} has no environments\n")
    code, out, _ = run("doctor", "-e", "ada", "--format", "json")
    assert json.loads(out).keys() == {"format", "environments"}


def test_a_plan_file_of_a_shard_is_applied_as_it_is(run, fleet, monkeypatch) -> None:
    """It carries its shard, also an empty one, and the result is of the same shard."""
    mine = shard_with("ada")
    for shard in (mine, other(mine)):
        assert run("plan", "-e", "ada", "--shard", shard, "--out", "plan.json")[0] == 0
        code, _, err = run("apply", "plan.json", "--shard", shard)
        assert (code, "--shard cannot be used with a plan file" in err) == (64, True)
        monkeypatch.setenv("PROVISION_SHARD", str(other(shard)))
        code, _, err = run("apply", "plan.json")
        assert (code, "PROVISION_SHARD differs from the --shard" in err) == (64, True)
        monkeypatch.setenv("PROVISION_SHARD", str(shard))
        code, out, _ = run("apply", "plan.json", "--format", "json")
        result = json.loads(out)
        assert (code, result["shard"]) == (0, str(shard))
        created = sum(one["summary"]["created"] for one in result["environments"])
        assert created == (2 if shard == mine else 0)
        monkeypatch.delenv("PROVISION_SHARD")


def test_a_shard_without_a_selected_key_is_not_an_error(run, fleet) -> None:
    """Another shard may have it; a name that nothing declares is still refused."""
    elsewhere = ("--shard", other(shard_with("ada")))
    assert run("apply", *elsewhere)[0] == 0
    for command in (
        ("apply", "--prune", "--only", "only-*"),
        ("report", "--expiring-within", "1d", "--only", "only-*"),
        ("rotate", "only-ada"),
        ("revoke", "only-ada"),
    ):
        code, _, err = run(*command, *elsewhere)
        assert code == 0, err
    code, _, err = run("rotate", "nobody", *elsewhere)
    assert (code, "No manifest declares 'nobody'" in err) == (64, True)
