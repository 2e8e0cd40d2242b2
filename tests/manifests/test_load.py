"""A directory is loaded without exceptions, however hostile its files are."""

import gc
import json
import os
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from builders import policy_with
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from provisioner.errors.codes import PROBLEM_CODES
from provisioner.errors.problem import Place
from provisioner.manifests import Manifests, characters, document, keys, load, resolve, text
from provisioner.model.key import Annotations, DesiredKey
from provisioner.sinks.aws import AwsAddress
from provisioner.sinks.azure import AzureAddress
from provisioner.sinks.command import CommandAddress
from provisioner.sinks.file import FileAddress
from provisioner.sinks.gcp import GcpAddress
from provisioner.sinks.github import GithubAddress
from provisioner.sinks.gitlab import GitlabAddress
from provisioner.sinks.kubernetes import KubernetesAddress
from provisioner.sinks.vault import VaultAddress

pytestmark = pytest.mark.fast
WITH_FIFOS = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFOs")

ENVIRONMENTS = (
    'version: 1\nenvironments:\n  production: {url: "sandbox:"}\n  staging: {url: "sandbox:"}\n'
)
HEAD = "version: 1\nenvironment: production\n"
ONE = f"{HEAD}keys:\n  - {{name: svc-a, expires: 90d}}\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a manifests directory with these files."""

    def write(files: dict[str, str | bytes], *, environments: str | None = ENVIRONMENTS) -> Path:
        directory = tmp_path / "manifests"
        directory.mkdir(exist_ok=True)
        if environments is not None:
            files = {"environments.yaml": environments, **files}
        for name, content in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return directory

    return write


def reported(manifests: Manifests) -> list[str]:
    return [
        f"{Path(p.place.file).relative_to(manifests.directory)}:{p.place.line}:{p.place.column}"
        f" {p.code}"
        for p in manifests.problems
    ]


def names(manifests: Manifests, environment: str = "production") -> list[str]:
    return [key.name for key in manifests.desired.get(environment, ())]


def manifest(*named: str) -> str:
    return f"{HEAD}defaults: {{expires: 90d}}\nkeys: {json.dumps([{'name': n} for n in named])}\n"


# Files


def test_every_yaml_file_below_the_directory_is_a_manifest(write: Write) -> None:
    """Both suffixes are read recursively, in the order of paths; hidden and other files are not."""
    directory = write(
        {
            "b.yaml": manifest("b"),
            "a/z.yml": manifest("z"),
            "a/b/c.yaml": manifest("c"),
            "looks.yaml/in.yaml": manifest("in"),
            ".hidden.yaml": "[",
            ".git/x.yaml": "[",
            "a/.cache/x.yaml": "[",
            "README.md": "[",
            "x.yaml~": "[",
        }
    )
    manifests = load(directory)
    assert reported(manifests) == []
    assert names(manifests) == ["c", "z", "b", "in"]
    assert [Path(source).relative_to(directory).as_posix() for source in manifests.sources] == [
        "environments.yaml", "a/b/c.yaml", "a/z.yml", "b.yaml", "looks.yaml/in.yaml",
    ]  # fmt: skip


def test_linked_files_are_read_and_linked_directories_are_not(write: Write, tmp_path: Path) -> None:
    """Kubernetes mounts files as links; a linked directory could be a loop."""
    directory = write({"a.yaml": manifest("a")})
    (tmp_path / "elsewhere.yaml").write_text(manifest("linked"))
    (directory / "linked.yaml").symlink_to(tmp_path / "elsewhere.yaml")
    (directory / "circle").symlink_to(directory)
    (directory / "folder.yaml").symlink_to(directory)
    manifests = load(directory)
    assert reported(manifests) == []
    assert names(manifests) == ["a", "linked"]


def test_places_are_what_the_user_would_type(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are relative if the directory was given as relative; `root` is absolute."""
    directory = write({"team/x.yaml": "- 1\n"})
    monkeypatch.chdir(directory.parent)
    manifests = load(Path("manifests"))
    assert manifests.problems[0].place == Place("manifests/team/x.yaml", 1, 1)
    assert manifests.root == directory.parent
    monkeypatch.chdir(directory)
    manifests = load(Path())
    assert manifests.problems[0].place == Place("team/x.yaml", 1, 1)
    assert manifests.root == directory.parent


def test_without_a_directory_there_is_one_problem(tmp_path: Path) -> None:
    """A directory that is missing or is a file gives one problem with advice."""
    (tmp_path / "file").write_text("")
    for name, state in (("none", "does not exist"), ("file", "is not a directory")):
        (problem,) = load(tmp_path / name).problems
        assert (problem.code, problem.place) == (
            "manifests_missing",
            Place(str(tmp_path / name)),
        )
        assert state in problem.message
        assert "provision init" in problem.message


def test_a_missing_environments_file_says_how_to_get_one(write: Write) -> None:
    """The advice is `provision init`, or to rename a file with the other suffix."""
    directory = write({"a.yaml": ONE}, environments=None)
    (problem,) = load(directory).problems
    assert (problem.code, Path(problem.place.file).name) == (
        "environments_missing",
        "environments.yaml",
    )
    assert "provision init" in problem.message
    write({"environments.yml": ENVIRONMENTS}, environments=None)
    (problem,) = load(directory).problems
    assert problem.code == "environments_missing"
    assert "rename" in problem.message
    assert reported(load(write({}))) == ["environments.yml:1:1 environments_misnamed"]


def test_no_manifest_at_all_is_not_a_problem(write: Write) -> None:
    """Guards decide later about an empty directory."""
    manifests = load(write({}))
    assert (manifests.problems, manifests.desired) == ((), {"production": (), "staging": ()})
    assert [environment.name for environment in manifests.environments] == [
        "production",
        "staging",
    ]


@pytest.mark.parametrize(
    "broken", ["environments: [", "version: 1\n", "[]", "version: 1\nenvironments: {no: {}}"]
)
def test_no_environment_is_unknown_if_the_environments_file_is_invalid(
    write: Write, broken: str
) -> None:
    """An invalid environments file does not make every manifest invalid."""
    codes = {problem.code for problem in load(write({"a.yaml": ONE}, environments=broken)).problems}
    assert codes
    assert "environment_unknown" not in codes


def test_an_environment_with_a_problem_is_still_known(write: Write) -> None:
    """Its manifests have no problem of their own."""
    broken = ENVIRONMENTS.replace('production: {url: "sandbox:"}', "production: {url: 7}")
    assert reported(load(write({"a.yaml": ONE}, environments=broken))) == [
        "environments.yaml:3:21 yaml_surprise"
    ]


# Several manifests


def test_a_name_is_declared_once_in_all_files(write: Write) -> None:
    """Twice in one environment is a problem with both places; once in each of two is not."""
    both = manifest("svc-b").replace(
        "environment: production", "environments: [staging, production]"
    )
    directory = write(
        {
            "a.yaml": manifest("svc-a", "svc-b"),
            "b.yaml": manifest("svc-a").replace("production", "staging"),
            "c.yaml": both,
        }
    )
    (problem,) = load(directory).problems
    assert problem.code == "name_duplicate"
    assert problem.place == Place(str(directory / "c.yaml"), 4, 17)
    assert problem.related == Place(str(directory / "a.yaml"), 4, 36)
    assert "production" in problem.message
    assert "a.yaml line 4" in problem.message


def test_each_manifest_has_its_own_depth_and_defaults(write: Write) -> None:
    """Several manifests for one environment do not affect each other."""
    manifests = load(
        write(
            {
                "a.yaml": f"{HEAD}depth: 0\ndefaults: {{expires: 1d, role: A}}\nkeys: [name: a]\n",
                "b.yaml": f"{HEAD}depth: 2\nkeys: [{{name: b, expires: 2d}}]\n",
                "c.yaml": f"{HEAD}defaults: {{expires: 3d}}\nkeys: [{{name: c, role: C}}]\n",
            }
        )
    )
    assert [
        (key.name, key.depth, key.expiry.written, key.role)
        for key in manifests.desired["production"]
    ] == [("a", 0, "1d", "A"), ("b", 2, "2d", None), ("c", 1, "3d", "C")]


def test_notes_for_people_are_filled_in(write: Write) -> None:
    """Placeholders get the values of each key, other braces stay, and equal notes are shared."""
    noted = (
        "version: 1\nenvironments: [production, staging]\n"
        "defaults: {expires: 90d, owner: 'team-{environment}', ticket: OPS-7}\nkeys:\n"
        "  - name: 'svc-{service}'\n    matrix: {service: [etl, mail]}\n"
        "    owner: team-a\n"
        "    description: 'Job {service} of {name}, not {{service}} or {other}'\n"
        "  - name: svc-b\n"
    )
    constant = (
        f"{HEAD}defaults: {{expires: 90d, owner: team-c}}\nkeys: [{{name: c}}, {{name: d}}]\n"
    )
    loaded = load(write({"a.yaml": noted, "b.yaml": constant, "c.yaml": manifest("e", "f")}))
    assert loaded.problems == ()
    found = {key.name: key.annotations for key in loaded.desired["production"]}
    description = "Job etl of svc-etl, not {service} or {other}"
    assert found["svc-etl"] == Annotations(description, "team-a", "OPS-7")
    assert found["svc-b"] == Annotations(None, "team-production", "OPS-7")
    assert found["c"] == Annotations(owner="team-c")
    assert found["c"] is found["d"]
    assert (found["e"], found["f"]) == (None, None)
    assert loaded.desired["staging"][-1].annotations == Annotations(None, "team-staging", "OPS-7")


def test_problems_come_in_the_order_of_files_and_lines(write: Write) -> None:
    """Problems of the environments file come first, then all others by path, line and column."""
    directory = write(
        {
            "a.yaml": f"{HEAD}depth: 7\nkeys:\n  - name: b\n  - {{name: b, expires: 1d, x: 1}}\n",
            "A.yaml": "",
            "z/z.yaml": "]",
        },
        environments="version: 2\nenvironments: {production: {}}\n",
    )
    assert reported(load(directory)) == [
        "environments.yaml:1:10 invalid_value",
        "environments.yaml:2:28 missing_key",
        "A.yaml:1:1 file_empty",
        "a.yaml:3:8 depth_invalid",
        "a.yaml:5:5 expiry_missing",
        "a.yaml:6:28 unknown_key",
        "z/z.yaml:1:1 yaml_syntax",
    ]


def test_nothing_is_desired_if_there_is_a_problem(write: Write) -> None:
    """A part of the keys is never mistaken for all of them."""
    manifests = load(write({"a.yaml": ONE, "b.yaml": "]"}))
    assert dict(manifests.desired) == {}


def test_an_expiry_is_past_only_with_a_clock(write: Write) -> None:
    """`validate` passes the time; `plan` and `apply` fail only that key later."""
    directory = write({"a.yaml": ONE.replace("90d", "2020-01-01")})
    assert names(load(directory)) == ["svc-a"]
    assert reported(load(directory, now=datetime(2019, 12, 31, tzinfo=UTC))) == []
    assert reported(load(directory, now=datetime(2020, 1, 1, tzinfo=UTC))) == [
        "a.yaml:4:28 expiry_past"
    ]


def test_too_many_keys_are_refused_before_they_are_expanded(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit holds for a manifest, a matrix, and all files and environments together."""
    monkeypatch.setattr(keys, "MAX_KEYS", 3)
    matrix = f"{HEAD}keys: [{{name: 'm-{{k}}', expires: 1d, matrix: {{k: [a, b]}}}}]\n"
    assert reported(load(write({"a.yaml": manifest("a", "b", "c")}))) == []
    assert reported(load(write({"b.yaml": manifest("d")}))) == ["b.yaml:1:1 matrix_too_large"]
    twice = manifest("a", "b").replace(
        "environment: production", "environments: [staging, production]"
    )
    assert (
        reported(load(write({"a.yaml": twice, "b.yaml": "{}"})))[0] == "a.yaml:1:1 matrix_too_large"
    )
    write({"a.yaml": manifest("a", "b"), "b.yaml": matrix})
    assert reported(load(write({}))) == ["b.yaml:3:8 matrix_too_large"]


# Requirements of environments

POLICY = """\
version: 1
policy:
  max_lifetime: 100d
  roles: [Reader]
  names: "svc-*"
  sinks: [vault, file]
environments:
  production:
    url: "sandbox:"
    policy: {max_lifetime: 200d, names: [svc-*, "$$*"], rotation: required}
    owns: [svc-*]
  staging:
    url: "sandbox:"
    role: Admin
    policy: {roles: any, sinks: optional}
  open:
    url: "sandbox:"
    policy: {max_lifetime: never, roles: any, names: "*", sinks: optional, rotation: optional}
  common: {url: "sandbox:"}
"""


def manifest_for(environments: str, **key: object) -> str:
    entry = {"name": "svc-a", "expires": "90d", **key}
    return f"version: 1\nenvironments: {environments}\nkeys: {json.dumps([entry])}\n"


def test_the_policy_of_an_environment_overrides_rule_by_rule(write: Write) -> None:
    """Its other rules are those of the file; each rule can be turned off."""
    directory = write({}, environments=POLICY)
    declared = {each.name: each.policy for each in load(directory).environments}
    policies = {name: each.policy for name, each in declared.items() if each is not None}
    assert policies == {
        "production": policy_with(
            max_lifetime=timedelta(days=200),
            rotation=True,
            roles=("Reader",),
            names=("svc-*", "$*"),
            sinks=("vault", "file"),
        ),
        "staging": policy_with(max_lifetime=timedelta(days=100), names=("svc-*",)),
        "open": policy_with(names=("*",)),
        "common": policy_with(
            max_lifetime=timedelta(days=100),
            roles=("Reader",),
            names=("svc-*",),
            sinks=("vault", "file"),
        ),
    }


def test_a_key_is_checked_against_the_policy_of_each_environment(write: Write) -> None:
    """There is one problem for each rule, at the name, with the place of the first broken rule."""
    text = manifest_for(
        "[production, staging, open, common]", expires="never", deliver=[{"aws": "a"}]
    )
    directory = write({"a.yaml": text.replace('"a"}', '"{environment}"}')}, environments=POLICY)
    manifests = load(directory)
    assert {problem.place for problem in manifests.problems} == {
        Place(str(directory / "a.yaml"), 3, 17)
    }
    environments = str(directory / "environments.yaml")
    whose = [
        re.findall(r"policy of (.*?) (?:allows|requires)", p.message) for p in manifests.problems
    ]
    assert [
        (p.code, p.related, *one) for p, one in zip(manifests.problems, whose, strict=True)
    ] == [
        ("policy_lifetime", Place(environments, 3, 3), "staging (and 2 other environments)"),
        ("policy_rotation", Place(environments, 10, 57), "production"),
        ("policy_sink", Place(environments, 6, 3), "production (and 1 other environment)"),
    ]
    for part in ("environments.yaml line 3", "100d", '"svc-a"', '"never"'):
        assert part in manifests.problems[0].message


FORBIDDING = """\
version: 1
policy:
  sinks: {forbid: [command, file]}
environments:
  common: {url: "sandbox:"}
  demanding: {url: "sandbox:", policy: {sinks: [vault]}}
  both: {url: "sandbox:", policy: {sinks: {require: [vault], forbid: [command]}}}
  open: {url: "sandbox:", policy: {sinks: {forbid: []}}}
"""


def test_a_policy_forbids_kinds_of_sinks(write: Write) -> None:
    """A kind that the file forbids stays forbidden until an environment overrides it."""
    text = manifest_for(
        "[common, demanding, both, open]", expires="1d", deliver=[{"file": "{environment}.env"}]
    )
    manifests = load(write({"a.yaml": text}, environments=FORBIDDING))
    assert [(p.code, p.related.line) for p in manifests.problems] == [
        ("policy_sink", 6),
        ("policy_sink_forbidden", 3),
    ]
    missing, forbidden = (p.message for p in manifests.problems)
    assert "the policy of demanding (and 1 other environment) requires a sink" in missing
    assert 'the policy of common (and 1 other environment) forbids the sink "file"' in forbidden


@pytest.mark.parametrize(
    ("key", "defaults", "code"),
    [
        ({}, {}, "policy_role"),
        ({"role": "Reader"}, {}, None),
        ({}, {"role": "Reader"}, None),
        ({"role": "Admin"}, {"role": "Reader"}, "policy_role"),
        ({"role": "reader"}, {}, "policy_role"),
    ],
)
def test_the_nearest_role_is_checked(
    write: Write, key: dict, defaults: dict, code: str | None
) -> None:
    """It is the role of the key, of `defaults` or of the environment, in this order."""
    environments = (
        "version: 1\nenvironments:\n  production:\n    url: 'sandbox:'\n    role: Admin\n"
        "    policy: {roles: [Reader]}\n"
    )
    text = manifest_for("[production]", **key) + f"defaults: {json.dumps(defaults)}\n"
    problems = load(write({"a.yaml": text}, environments=environments)).problems
    assert [problem.code for problem in problems] == ([] if code is None else [code])


def test_a_key_without_a_role_breaks_no_policy(write: Write) -> None:
    """Keys of the legacy generation have no role."""
    environments = ENVIRONMENTS.replace("{url", "{policy: {roles: [A]}, url")
    assert reported(load(write({"a.yaml": ONE}, environments=environments))) == []


def test_a_date_is_checked_against_the_policy_from_now(write: Write) -> None:
    """A date needs the current time; a duration does not."""
    environments = ENVIRONMENTS.replace("{url", "{policy: {max_lifetime: 10d}, url")
    directory = write({"a.yaml": ONE.replace("90d", "2027-01-11")}, environments=environments)
    assert reported(load(directory)) == []
    assert reported(load(directory, now=datetime(2027, 1, 1, tzinfo=UTC))) == []
    late = load(directory, now=datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert reported(late) == ["a.yaml:4:12 policy_lifetime"]
    directory = write({"a.yaml": ONE}, environments=environments)
    assert reported(load(directory)) == ["a.yaml:4:12 policy_lifetime"]


ROTATED = manifest_for("[production]", rotate={"before": "14d"})


@pytest.mark.parametrize(
    ("owns", "codes"),
    [
        ("[svc-*]", []),
        ("[x, 'svc-?']", []),
        ("[SVC-*]", ["rotation_unowned"]),
        ("[]", ["rotation_unowned"]),
        ("['svc']", ["rotation_unowned"]),
        ("['$$svc-*']", ["rotation_unowned"]),
        ("['${PREFIX}-*']", []),
        ("[x, '${PREFIX:-x}']", []),
    ],
)
def test_a_rotated_key_must_be_owned(write: Write, owns: str, codes: list[str]) -> None:
    """`owns` without a variable is checked offline, and the problem refers to it."""
    environments = (
        f"version: 1\nenvironments:\n  production:\n    url: 'sandbox:'\n    owns: {owns}\n"
    )
    directory = write({"a.yaml": ROTATED}, environments=environments)
    problems = load(directory).problems
    assert [problem.code for problem in problems] == codes
    where = Place(str(directory / "environments.yaml"), *((3, 3) if owns == "[]" else (5, 12)))
    assert all(problem.related == where for problem in problems if "[" in owns[:1])


def test_a_declared_key_must_not_be_ignored(write: Write) -> None:
    """The problem is at the key, or at the glob if it matches several keys."""
    environments = (
        "version: 1\nenvironments:\n  production:\n    url: 'sandbox:'\n    owns: ['*']\n"
        "    ignore: [x, 'svc-*', '${OTHER}']\n"
    )
    one = load(write({"a.yaml": manifest("a", "svc-b")}, environments=environments))
    assert reported(one) == ["a.yaml:4:32 name_ignored"]
    assert (one.problems[0].related or one.problems[0].place).line == 6
    assert one.problems[0].message == (
        'production ignores "svc-b", so it would never be created or changed: rename the key, or '
        'narrow "svc-*" under `ignore` (environments.yaml line 6)'
    )
    two = load(write({"a.yaml": manifest("svc-a", "svc-b")}, environments=environments))
    assert reported(two) == ["environments.yaml:6:17 name_ignored"]
    later = load(write({"a.yaml": manifest("a", "b")}, environments=environments))
    assert later.problems == ()
    found = [
        problem.code
        for value in ("c", "[ab]")
        for problem in resolve(later.environments, {"OTHER": value}, Path(), later.desired)[1]
    ]
    assert found == ["name_ignored"]


def test_rules_with_variables_are_checked_in_a_run(write: Write) -> None:
    """These are `owns` and the role of the environment."""
    environments = (
        "version: 1\nenvironments:\n  production:\n    url: 'sandbox:'\n"
        "    owns: ['${PREFIX}-*']\n    role: ${ROLE}\n    policy: {roles: [Reader]}\n"
    )
    manifests = load(write({"a.yaml": ROTATED}, environments=environments))
    assert reported(manifests) == []
    keys_of_production = manifests.desired["production"]

    def found(desired: tuple[DesiredKey, ...] = keys_of_production, **values: str) -> list[str]:
        keys = {"production": desired}
        environments, problems = resolve(manifests.environments, values, manifests.root, keys)
        return [problem.code for problem in problems] or [one.name for one in environments]

    assert found(PREFIX="svc", ROLE="Reader") == ["production"]
    assert found(PREFIX="etl", ROLE="Reader") == ["rotation_unowned"]
    assert found(PREFIX="svc", ROLE="Admin") == ["policy_role"]
    assert found((), PREFIX="etl", ROLE="Admin") == ["production"]
    assert found(PREFIX="etl") == ["variable_missing"]


def test_an_invalid_environment_has_no_requirements(write: Write) -> None:
    """Only its own problem is reported, because its policy may change with the fix."""
    environments = ENVIRONMENTS.replace("{url", "{policy: {names: x, sinks: []}, url", 1)
    assert reported(load(write({"a.yaml": ROTATED}, environments=environments))) == [
        "environments.yaml:3:42 invalid_value"
    ]
    environments = f"{ENVIRONMENTS}policy: {{names: x, roles: []}}\n"
    assert reported(load(write({"a.yaml": ONE}, environments=environments))) == [
        "environments.yaml:5:27 invalid_value"
    ]


def test_messages_stay_short_however_long_a_policy_is(write: Write) -> None:
    """A message shows the first items of a list."""
    listed = json.dumps([f"role-{n}-{'x' * 200}" for n in range(100)])
    environments = ENVIRONMENTS.replace("{url", f"{{policy: {{roles: {listed}}}, url")
    text = manifest_for("[production]", role="y" * 500)
    (problem,) = load(write({"a.yaml": text}, environments=environments)).problems
    assert "role-2" in problem.message
    assert "role-3" not in problem.message
    assert len(problem.message) < 450


def test_a_mistake_in_the_default_rotation_is_reported_once(write: Write) -> None:
    """The number of keys and environments does not matter."""
    environments = ENVIRONMENTS.replace("{url", "{owns: ['*'], url")
    text = manifest("a", "b").replace("90d}", "90d, rotate: {before: 90d}}")
    text = text.replace("environment: production", "environments: [staging, production]")
    directory = write({"a.yaml": text}, environments=environments)
    (problem,) = load(directory).problems
    assert (problem.code, problem.place) == (
        "rotation_expiry",
        Place(str(directory / "a.yaml"), 3, 34),
    )
    assert problem.related == Place(str(directory / "a.yaml"), 3, 21)


# Delivery


def delivering(deliver: list[dict], /, *named: str, **key: object) -> str:
    listed = [{"name": name, **key} for name in named]
    defaults = json.dumps({"expires": "90d", "deliver": deliver}, ensure_ascii=False)
    return f"{HEAD}defaults: {defaults}\nkeys: {json.dumps(listed, ensure_ascii=False)}\n"


def test_every_kind_of_sink_becomes_its_address(write: Write) -> None:
    """All options are used, and the defaults of those that have one."""
    deliver = [
        {"file": "a/{name}.env", "variable": "A"},
        {"file": "a.json", "format": "json"},
        {"command": ["set", "{name}", ""], "check": ["get", "{environment}"]},
        {"command": ["set"]},
        {"vault": "kv/a/{name}", "field": "f"},
        {"vault": "kv/b"},
        {"aws": "a/{environment}", "region": "eu-central-1"},
        {"aws": "b"},
        {"github": "acme/x", "secret": "A", "environment": "e"},
        {"github": "acme"},
        {"gitlab": "acme/group/x", "variable": "A"},
        {"gitlab": "acme"},
        {"kubernetes": "n/s.t", "key": "k"},
        {"kubernetes": "n/s"},
        {"gcp": "acme-prod/{environment}"},
        {"azure": "acme.vault.azure.cn/a-{environment}"},
    ]
    manifests = load(write({"a.yaml": delivering(deliver, "1-é.b")}))
    assert reported(manifests) == []
    (key,) = manifests.desired["production"]
    assert key.deliver == (
        FileAddress("a/1-é.b.env", "A"),
        FileAddress("a.json", "_1___B", "json"),
        CommandAddress(("set", "1-é.b", ""), ("get", "production")),
        CommandAddress(("set",)),
        VaultAddress("kv", "a/1-é.b", "f"),
        VaultAddress("kv", "b"),
        AwsAddress("a/production", "eu-central-1"),
        AwsAddress("b"),
        GithubAddress("acme", "A", "x", "e"),
        GithubAddress("acme", "_1___B"),
        GitlabAddress("acme/group/x", "A"),
        GitlabAddress("acme", "_1___B"),
        KubernetesAddress("n", "s.t", "k"),
        KubernetesAddress("n", "s"),
        GcpAddress("acme-prod", "production"),
        AzureAddress("acme.vault.azure.cn", "a-production"),
    )


@pytest.mark.parametrize(
    ("sink", "option", "most"),
    [
        ({}, "aws", 512),
        ({}, "file", 4096),
        ({"gitlab": "acme"}, "variable", 255),
        ({"kubernetes": "n/s"}, "key", 253),
        ({"kubernetes": "n/{}"}, "kubernetes", 253),
        ({"kubernetes": "{}/s"}, "kubernetes", 63),
    ],
)
def test_the_limits_of_vendors_are_checked(
    write: Write, sink: dict, option: str, most: int
) -> None:
    """The longest value is accepted, and one more character is not."""

    def of(length: int) -> str:
        value = str(sink.get(option, "{}")).replace("{}", "a" * length)
        return delivering([{**sink, option: value}], "svc-a")

    assert reported(load(write({"a.yaml": of(most)}))) == []
    assert [p.code for p in load(write({"a.yaml": of(most + 1)})).problems] == ["sink_invalid"]


def test_one_place_has_one_token_in_all_files(write: Write) -> None:
    """Paths are compared after normalization; both keys are named with environment and place."""
    directory = write(
        {
            "a.yaml": delivering([{"file": "a.env", "variable": "A"}], "svc-a"),
            "b.yaml": delivering([{"file": "./x/../a.env", "variable": "A"}], "svc-b").replace(
                "production", "staging"
            ),
            "c.yaml": delivering([{"file": "a.env", "variable": "B"}], "svc-c"),
        }
    )
    (problem,) = load(directory).problems
    assert problem.code == "sink_collision"
    assert problem.place == Place(str(directory / "b.yaml"), 3, 42)
    assert problem.related == Place(str(directory / "a.yaml"), 4, 17)
    for part in ('"svc-b" in staging', '"svc-a" in production', "a.yaml line 4", "{environment}"):
        assert part in problem.message


@pytest.mark.parametrize("paths", [(["a"], ["a", "b", "c"]), (["a", "b", "c"], ["a"])])
def test_a_place_inside_another_one_is_a_collision(
    write: Write, paths: tuple[list[str], list[str]]
) -> None:
    """A token would replace the mapping with the other one; places beside each other are fine."""
    names = ("svc-a", "svc-b")
    sinks = [{"sops": "a.yaml", "path": path} for path in paths]
    files = {f"{n}.yaml": delivering([one], n) for n, one in zip(names, sinks, strict=True)}
    beside = [{"sops": "a.yaml", "path": ["b", "a"]}, {"sops": "b.yaml", "path": ["a", "b"]}]
    directory = write(files | {"c.yaml": delivering(beside, "svc-c")})
    (problem,) = load(directory).problems
    assert (problem.code, problem.place.file) == ("sink_collision", str(directory / "svc-b.yaml"))
    assert problem.related == Place(str(directory / "svc-a.yaml"), 4, 17)
    assert '"svc-b" in production' in problem.message
    assert '"svc-a" in production' in problem.message


def test_two_sinks_of_a_key_inside_each_other_are_a_collision(write: Write) -> None:
    """It is not a conflict of two keys, so only the sink is named."""
    sinks = [{"sops": "a.yaml", "path": ["a", "b"]}, {"sops": "./a.yaml", "path": ["a"]}]
    (problem,) = load(write({"a.yaml": delivering(sinks, "svc-a")})).problems
    assert problem.code == "sink_collision"
    assert "another sink of" in problem.message


def test_a_sink_that_is_listed_twice_is_reported_as_such(write: Write) -> None:
    """It is not a conflict of two keys, so a placeholder would not help."""
    twice = [{"aws": "{name}"}, {"aws": "svc-a"}]
    (problem,) = load(write({"a.yaml": delivering(twice, "svc-a")})).problems
    assert problem.code == "sink_collision"
    assert "listed twice" in problem.message


def test_a_file_has_one_format_in_all_files(write: Write) -> None:
    """A dotenv file cannot be JSON for another variable."""
    json_too = [{"file": "./a.env", "variable": "B", "format": "json"}]
    directory = write(
        {
            "a.yaml": delivering([{"file": "a.env", "variable": "A"}], "svc-a"),
            "b.yaml": delivering(json_too, "svc-b"),
        }
    )
    (problem,) = load(directory).problems
    assert (problem.code, problem.related) == (
        "sink_collision",
        Place(str(directory / "a.yaml"), 4, 17),
    )
    assert "dotenv" in problem.message


def test_a_mistake_in_a_default_is_reported_once(write: Write) -> None:
    """The number of keys does not matter, and keys with a list of their own are not affected."""
    deliver = [{"aws": "a"}, {"file": "{name}.env"}, {"vault": "{region}/x"}]
    other = delivering([{"aws": "a"}], "svc-own", deliver=[])
    directory = write(
        {"a.yaml": delivering(deliver, *(f"team/{n}" for n in range(100))), "b.yaml": other}
    )
    assert reported(load(directory)) == [
        "a.yaml:3:42 sink_collision",
        "a.yaml:3:65 sink_invalid",
        "a.yaml:3:90 placeholder_unknown",
    ]


@pytest.mark.large
def test_a_default_costs_little_for_many_keys(write: Write) -> None:
    """It is parsed once and filled in for each key."""
    named = [f"svc-{number}" for number in range(20_000)]
    plain = write({"a.yaml": manifest(*named)})
    start = time.process_time()
    assert reported(load(plain)) == []
    usual = time.process_time() - start
    directory = write({"a.yaml": delivering([{"file": "{environment}.env"}], *named)})
    assert load_within(5 * usual + 0.5, directory) == []


# Hostile files


def load_within(seconds: float, directory: Path) -> list[str]:
    start = time.process_time()
    found = reported(load(directory))
    assert time.process_time() - start < seconds
    return found


def test_deep_nesting_does_not_crash_the_process(write: Write) -> None:
    """50 000 brackets crash older versions of libyaml; here they are a problem."""
    directory = write({"a.yaml": "[" * 50_000, "b.yaml": "- " * 50_000, "c.yaml": "{a: " * 50_000})
    first, *others = load_within(2, directory)
    # From 0.2.6, libyaml reads ahead over brackets and refuses level 1000 itself.
    assert first in ("a.yaml:1:65 yaml_too_deep", "a.yaml:1:1001 yaml_too_deep")
    assert others == ["b.yaml:1:129 yaml_too_deep", "c.yaml:1:257 yaml_too_deep"]


def test_sixty_four_levels_are_read(write: Write) -> None:
    """One more level is too deep."""
    directory = write({"a.yaml": "[" * 64 + "]" * 64, "b.yaml": "[" * 65 + "]" * 65})
    assert reported(load(directory)) == ["a.yaml:1:1 wrong_type", "b.yaml:1:65 yaml_too_deep"]


@pytest.mark.large
def test_an_alias_bomb_stays_small(write: Write) -> None:
    """Nothing is expanded, and the number of problems is limited to ten thousand."""
    lines = ['a0: &a0 "x"']
    lines += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]" for n in range(1000)]
    found = load_within(2, write({"a.yaml": "\n".join(lines)}))
    assert len(found) == 10_001
    assert found[-1].endswith("too_many_problems")


@pytest.mark.parametrize(
    "content",
    [
        "- 1\n" * 200_000,
        f"{HEAD}keys:\n" + "- 1\n" * 200_000,
        HEAD + "".join(f"k{n}: 1\n" for n in range(100_000)),
        f"{HEAD}keys: [{{name: {'{a}' * 100_000}}}]\n",
        f"{HEAD}keys: [{{name: a, matrix: {{{', '.join(f'a{n}: [b]' for n in range(25_000))}}}}}]",
        f"version: 1\nenvironments: [{', '.join(f'e{n}' for n in range(50_000))}]\nkeys: [a]\n",
    ],
    ids=["list", "keys", "unknown", "placeholders", "axes", "environments"],
)
@pytest.mark.large
def test_wide_files_are_read_in_time(write: Write, content: str) -> None:
    """The number of problems and the time are limited, however much is wrong."""
    found = load_within(15, write({"a.yaml": content}))
    assert 1 <= len(found) <= 20_002


@pytest.mark.parametrize("body", ['{url: "sandbox:"}', "7", "{url: $}"])
@pytest.mark.large
def test_there_are_at_most_ten_thousand_environments(write: Write, body: str) -> None:
    """More are refused, in time that does not grow with their square."""
    listed = "".join(f"  e{n}: {body}\n" for n in range(12_000))
    found = load_within(15, write({}, environments=f"version: 1\nenvironments:\n{listed}"))
    assert "environments.yaml:3:3 invalid_value" in found
    assert len(found) <= 10_001


def test_columns_are_counted_after_a_byte_order_mark(write: Write) -> None:
    """Editors do not show it, so it is not a column."""
    directory = write({"a.yaml": "\ufeffx: ]", "b.yaml": f"\ufeff{ONE.replace('1', '2', 1)}"})
    assert reported(load(directory)) == ["a.yaml:1:4 yaml_syntax", "b.yaml:1:10 invalid_value"]


@pytest.mark.large
def test_a_huge_file_is_not_read(write: Write) -> None:
    """A file with one byte more than 16 MiB is refused, and reading stops there."""
    directory = write({"a.yaml": b"#" * (text.MAX_BYTES + 1), "b.yaml": b"#" * text.MAX_BYTES})
    assert load_within(2, directory) == ["a.yaml:1:1 file_too_large", "b.yaml:1:1 file_empty"]


def test_a_file_with_too_many_values_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen MiB of `[],` would take a gigabyte, so the number of values is limited too."""
    monkeypatch.setattr(document, "MAX_EVENTS", 1000)
    directory = write({"a.yaml": f"{HEAD}keys: [{'[],' * 1000}]\n"})
    assert reported(load(directory)) == ["a.yaml:3:1493 file_too_large"]


@WITH_FIFOS
def test_only_regular_files_are_read(write: Write) -> None:
    """A FIFO without a writer does not block the run, and a broken link is reported."""
    directory = write({})
    os.mkfifo(directory / "fifo.yaml")
    (directory / "broken.yaml").symlink_to("nowhere")
    (directory / "device.yaml").symlink_to("/dev/zero")
    manifests = load(directory)
    assert reported(manifests) == [
        "broken.yaml:1:1 file_unreadable",
        "device.yaml:1:1 file_unreadable",
        "fifo.yaml:1:1 file_unreadable",
    ]
    assert "no such file" in manifests.problems[0].message
    assert "not a regular file" in manifests.problems[2].message


@WITH_FIFOS
@pytest.mark.parametrize("name", ["environments.yaml", "a.yaml"])
def test_a_fifo_for_any_file_is_a_problem(write: Write, name: str) -> None:
    """This includes the environments file."""
    directory = write({"a.yaml": ONE})
    (directory / name).unlink()
    os.mkfifo(directory / name)
    assert reported(load(directory)) == [f"{name}:1:1 file_unreadable"]


def test_a_file_that_cannot_be_opened_is_a_problem(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing permissions are simulated, because root may read everything."""
    directory = write({"a.yaml": ONE, "b.yaml": ONE.replace("svc-a", "svc-b"), "c/c.yaml": ONE})
    real_open, real_scan = os.open, os.scandir

    def refuse(path: Path) -> None:
        if Path(path).name in {"a.yaml", "c"}:
            raise PermissionError(13, "Permission denied")

    def open_(path: Path, flags: int) -> int:
        refuse(path)
        return real_open(path, flags)

    def scan(path: Path) -> object:
        refuse(path)
        return real_scan(path)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "scandir", scan)
    manifests = load(directory)
    assert reported(manifests) == ["a.yaml:1:1 file_unreadable", "c:1:1 file_unreadable"]
    assert all("permission denied" in problem.message for problem in manifests.problems)


@pytest.mark.skipif(
    getattr(os, "geteuid", int)() == 0, reason="root, and everyone on Windows, may read everything"
)
def test_a_file_without_permission_is_a_problem(write: Write) -> None:
    """The same with real file modes."""
    directory = write({"a.yaml": ONE})
    (directory / "a.yaml").chmod(0)
    assert reported(load(directory)) == ["a.yaml:1:1 file_unreadable"]


def test_a_file_name_that_is_not_utf_8_can_be_shown(write: Write) -> None:
    """Its bytes are replaced, so printing the problem cannot fail."""
    directory = write({})
    Path(os.fsdecode(os.fsencode(directory) + b"/\xff.yaml")).write_text("]")
    (problem,) = load(directory).problems
    assert problem.place.file.endswith("/�.yaml")
    str(problem).encode()


def test_one_wrong_key_among_many_costs_no_more_than_one(write: Write) -> None:
    """Only the keys that the fast check rejects are passed to jsonschema."""
    listed = [f"  - {{name: svc-{n}, expires: 90d}}\n" for n in range(20_000)]
    good = write({"a.yaml": f"{HEAD}keys:\n{''.join(listed)}"})
    start = time.process_time()
    assert reported(load(good)) == []
    usual = time.process_time() - start
    listed[15_000] = "  - {nam: svc, expires: 90d}\n"
    bad = write({"a.yaml": f"{HEAD}keys:\n{''.join(listed)}"})
    start = time.process_time()
    assert reported(load(bad)) == ["a.yaml:15004:5 missing_key", "a.yaml:15004:6 unknown_key"]
    assert time.process_time() - start < 2 * usual + 0.5


def test_the_garbage_collector_is_left_as_it_was(write: Write) -> None:
    """It is off while documents are read, and restored to its state afterwards."""
    directory = write({"a.yaml": ONE})
    assert gc.isenabled()
    load(directory)
    assert gc.isenabled()
    gc.disable()
    try:
        load(directory)
        assert not gc.isenabled()
    finally:
        gc.enable()


# Line breaks


@pytest.mark.parametrize("char", ["\x85", "\u2028", "\u2029"])
def test_line_breaks_of_yaml_1_1_are_text(write: Write, char: str) -> None:
    """They end no comment and no text, and their substitutes do not change other characters."""
    content = f"# one{char}two: [\n{HEAD}keys:\n  - name: svc-a\n    expires: 90d\n"
    assert reported(load(write({"a.yaml": content}))) == []
    for written in (f"a{char}b\U000f0000", f'"a{char}b\U000f0000"', f"'a{char}b\\U000F0000'"):
        found, problems = document.read(f"x: {written}\nz: 1\n", "a.yaml")
        assert found is not None
        assert isinstance(found.root, dict)
        assert problems == []
        assert found.root["x"] == written.strip("\"'")
        assert found.place(found.root.key_position("z")) == Place("a.yaml", 2, 1)
    found, _ = document.read(f'x: "a{char}\\U000F0000"\n', "a.yaml")
    assert found is not None
    assert found.root == {"x": f"a{char}\U000f0000"}


def test_a_single_carriage_return_is_refused(write: Write) -> None:
    """It is a line break in YAML but not in git, so no line number would be right for both."""
    (problem,) = load(write({"a.yaml": "version: 1\r\nkeys:\r  - 1\n"})).problems
    assert (problem.code, problem.place.line, problem.place.column) == ("file_line_ends", 2, 6)
    assert "U+000D" in problem.message


# Common mistakes

MANIFEST = f"{HEAD}defaults: {{expires: 90d}}\n"
COLON = "a colon and a space are missing"
VARIABLE = 'inside {…} or […], put variables in quotes: "${NAME}"'


@pytest.mark.parametrize(
    ("content", "places", "words"),
    [
        ("x: {token: ${TOKEN}}\n", "1:12 yaml_syntax", VARIABLE),
        ("x: [a, ${TOKEN}]\n", "1:8 yaml_syntax", VARIABLE),
        ("x: {url: https://${HOST:-a}/}\n", "1:18 yaml_syntax", VARIABLE),
        ("x: {name: svc-{service}}\n", "1:15 yaml_syntax", "text that contains a brace"),
        ("keys:\n\t- name: a\n", "2:1 yaml_syntax", "indent with spaces instead of this tab"),
        ("keys:\n  - name: a\n  \tx: b\n", "3:3 yaml_syntax", "indent with spaces instead of"),
        ("keys:\n  -\tname: a\n    x: b\n", "2:4 yaml_syntax", "indent with spaces instead"),
        ("a: 1\n<<<<<<< H\nb: 1\n=======\nb: 2\n>>>>>>> x\n", "2:1 yaml_syntax", "`<<<<<<<` ma"),
        ("a: x\n=======\nb: 2\n", "2:1 yaml_syntax", "`=======` marks a merge conflict"),
        ("a: 1\r\n=======\r\nb: 2\r\n", "2:1 yaml_syntax", "`=======` marks a merge conflict"),
        ("a: 1\n>>>>>>> topic\n", "2:1 yaml_syntax", "`>>>>>>>` marks a merge conflict"),
        ("version 1\nenvironment: production\n", "1:1 yaml_syntax", COLON),
        ("version: 1\nenvironment production\nkeys: []\n", "2:1 yaml_syntax", COLON),
        ("version: 1\nenvironment:production\nkeys: []\n", "2:1 yaml_syntax", COLON),
        ("keys\n  - name: a\n", "1:1 yaml_syntax", COLON),
        ("keys:\n  - name svc-a\n    # c\n\n    expires: 90d\n", "2:5 yaml_syntax", COLON),
        ("keys:\n  - name: a\n    expires 90d\n\n  - name: b\n", "3:5 yaml_syntax", COLON),
        ("defaults\n  expires: 90d\nkeys: []\n", "1:1 yaml_syntax", COLON),
        ("keys:\n  - name: a: b\n", "2:12 yaml_syntax", "put text with a colon in quotes"),
        ("keys:\n  - name: a\n      x: b\n", "3:7 yaml_syntax", "begin it in the same column"),
        ("keys:\n  - name: a\n\n   # c\n   x: b\n", "5:4 yaml_syntax", "in the same column"),
        ("keys:\n- name: 'a'\n    x: b\n", "3:5 yaml_syntax", "in the same column"),
        ("keys:\n  - name: a\n x: b\n", "3:2 yaml_syntax", "in the same column"),
        ("keys:\n  - name: 'it's'\n    x: b\n", "2:15 yaml_syntax", "after the closing quote"),
        ('keys:\n  - name: "a" b\n    x: b\n', "2:15 yaml_syntax", "after the closing quote"),
        ("keys:\n  - name: {a} b\n    x: b\n", "2:15 yaml_syntax", "starts with a brace in quotes"),
        (f"{MANIFEST}keys: [{{name: a, deliver: [s3: b]}}]\n", "4:28 sink_invalid",
         "there is no sink `s3`: use one of `file`, `command`"),
        (f"{MANIFEST}keys: [{{name: a, deliver: [fil: b]}}]\n", "4:28 sink_invalid",
         "there is no sink `fil`: did you mean `file`?"),
        (f"{MANIFEST}keys: [{{name: a, deliver: [{{file: b.env, clean: yes}}]}}]\n",
         "4:49 invalid_value", "`clean` is `yes`: write true or false"),
        (f"{MANIFEST}keys: [{{name a}}]\n", "4:8 missing_key 4:9 unknown_key", "after `name`"),
        (f"{HEAD}defaults:\n  expires: 1d\n  keys:\n    - name: a\n", "5:3 unknown_key",
         "`keys` is unknown here: move it to the top of the manifest"),
    ],
)  # fmt: skip
def test_a_common_mistake_is_reported_at_its_line(
    write: Write, content: str, places: str, words: str
) -> None:
    """The message describes the mistake, and the place is where it was made."""
    manifests = load(write({"a.yaml": content}))
    assert " ".join(one.removeprefix("a.yaml:") for one in reported(manifests)) == places
    assert words in manifests.problems[-1].message


def test_equal_signs_in_a_comment_or_text_are_no_merge_marker(write: Write) -> None:
    """Only what git writes at the start of a line is a marker."""
    text = f"# ======= <<<<<<< a\n{ONE}    # =======\n"
    text += (
        "  - name: svc-b\n    expires: 90d\n    description: |\n      =======\n      <<<<<<< a\n"
    )
    assert reported(load(write({"a.yaml": text}))) == []


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("defaults: {expires: 90d}\nkeys: [name: 'svc-${HOME}']\n", "4:14"),
        ("keys: [{name: a, expires: '${HOME:-90d}'}]\n", "3:27"),
        ("keys: [{name: a, expires: 90d, role: '${HOME}'}]\n", "3:38"),
        ("defaults: {expires: 90d, role: '${HOME}'}\nkeys: [name: a]\n", "3:32"),
        ("keys: [{name: 'a{x}', expires: 9d, matrix: {x: [b, '${HOME}']}}]\n", "3:52"),
        ("keys: [{name: a, expires: 9d, deliver: [{file: '${HOME}/x'}]}]\n", "3:48"),
        ("keys: [{name: a, expires: 9d, deliver: [{command: [sh, '${HOME:?x}']}]}]\n", "3:56"),
    ],
)
def test_a_variable_in_a_manifest_is_named(write: Write, content: str, place: str) -> None:
    """Only environments.yaml can use variables, so that a manifest is what was reviewed."""
    (problem,) = load(write({"a.yaml": HEAD + content})).problems
    assert f"{problem.place.line}:{problem.place.column}" == place
    assert problem.code == "variable_invalid"
    assert (
        "`${HOME}` is a variable, and only environments.yaml can use variables" in problem.message
    )


def test_a_variable_in_place_of_an_environment_is_named(write: Write) -> None:
    """The name of an environment is like any other value."""
    text = ONE.replace("production", "${HOME}")
    assert reported(load(write({"a.yaml": text}))) == ["a.yaml:2:14 variable_invalid"]


# The format of a file


@pytest.mark.parametrize(
    ("sink", "form"),
    [
        ({"file": "a.json"}, "json"),
        ({"file": "a/B.JSON"}, "json"),
        ({"file": "a.json", "format": "dotenv"}, "dotenv"),
        ({"file": "{name}.json"}, "json"),
        ({"file": "json"}, "dotenv"),
        ({"file": ".env"}, "dotenv"),
        ({"file": "a.txt"}, "dotenv"),
        ({"file": "a.env", "format": "json"}, "json"),
        ({"file": "a.toml", "format": "dotenv"}, "dotenv"),
    ],
)
def test_the_suffix_of_a_file_sets_its_format(write: Write, sink: dict, form: str) -> None:
    """.json means JSON and everything else dotenv, unless `format` is written."""
    manifests = load(write({"a.yaml": delivering([sink], "a")}))
    assert reported(manifests) == []
    ((address,),) = [key.deliver for key in manifests.desired["production"]]
    assert isinstance(address, FileAddress)
    assert address.format == form


@pytest.mark.parametrize("ending", ["yaml", "yml", "toml", "ini", "xml", "YAML"])
def test_a_suffix_of_another_format_needs_a_format(write: Write, ending: str) -> None:
    """The message says what to write."""
    (problem,) = load(write({"a.yaml": delivering([{"file": f"a.{ending}"}], "a")})).problems
    assert problem.code == "sink_invalid"
    assert f"ends in .{ending.lower()}" in problem.message
    assert "format: dotenv" in problem.message


# Invisible characters

INVISIBLE = {
    "a\u200bb": "U+200B (zero width space)",
    "a\u202eb": "U+202E (right-to-left override)",
    "a\u2066b": "U+2066 (left-to-right isolate)",
    "a\u00adb": "U+00AD (soft hyphen)",
    "a\ufeffb": "U+FEFF (zero width no-break space)",
    "a\ufe0fb": "U+FE0F (variation selector-16)",
    "a\U000e0041b": "U+E0041 (tag latin capital letter a)",
    "a\u3164b": "U+3164 (hangul filler)",
    "a\u00a0b": "U+00A0 (no-break space)",
    "a\u3000b": "U+3000 (ideographic space)",
    "cafe\u0301": '(NFC): write "caf\\u00e9"',
}


@pytest.mark.parametrize("name", INVISIBLE, ids=ascii)
@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("defaults: {{expires: 9d}}\nkeys: [name: '{}']\n", "4:14"),
        ("keys: [{{name: a, expires: 9d, role: '{}'}}]\n", "3:37"),
        ("defaults: {{expires: 9d, role: '{}'}}\nkeys: [name: a]\n", "3:31"),
        ("keys: [{{name: 'a{{x}}', expires: 9d, matrix: {{x: ['{}']}}}}]\n", "3:49"),
    ],
)
def test_an_invisible_character_is_a_problem(
    write: Write, name: str, content: str, place: str
) -> None:
    """The message names it and shows the text in ASCII, with escapes."""
    (problem,) = load(write({"a.yaml": HEAD + content.format(name)})).problems
    assert f"{problem.place.line}:{problem.place.column}" == place
    assert problem.code == "character_unseen"
    assert INVISIBLE[name] in problem.message
    assert ascii(name)[1:-1].replace("\\x", "\\u00") in problem.message
    assert problem.message.isascii()


def test_globs_and_roles_of_environments_have_no_invisible_characters(write: Write) -> None:
    """A glob with one would match no key, and a role no role."""
    environments = (
        "version: 1\npolicy: {names: ['*\u200b'], roles: ['a\u200b']}\nenvironments:\n"
        "  production: {url: 'sandbox:', owns: ['svc-\u200b*'], role: 'Ad\u00admin'}\n"
    )
    assert reported(load(write({}, environments=environments))) == [
        "environments.yaml:2:18 character_unseen",
        "environments.yaml:2:33 character_unseen",
        "environments.yaml:4:40 character_unseen",
        "environments.yaml:4:57 character_unseen",
    ]


# Arbitrary input

relaxed = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
yamlish = st.lists(
    st.one_of(
        st.sampled_from(
            ["version", "keys", "name", ": ", ":", "\n", "\n  ", "- ", "[", "]", "{", "}", ", ",
             '"', "'", "&a ", "*a", "!t ", "<<", "---\n", "...\n", "|\n ", ">-\n ", "#", "? ", "%",
             "no", "1", "~", "2027-01-01", "é", "🗼", "\r\n", "\t", "\x85", "\u2028", "\ufeff",
             "\x00", "environment", "production", "matrix", "expires", "${", "@", "\\u",
             "rotate", "before", "policy", "names",
             "environments", "deliver", "defaults", "file", "command", "github",
             "url", "auth", "token"]
        ),
        st.text(max_size=3),
    ),
    max_size=40,
).map("".join)  # fmt: skip


def assert_well_reported(manifests: Manifests, contents: dict[str, str]) -> None:
    for problem in manifests.problems:
        assert problem.code in PROBLEM_CODES
        assert problem.message
        lines = contents[Path(problem.place.file).name].removeprefix("\ufeff").split("\n")
        line, column = problem.place.line, problem.place.column
        assert 1 <= line <= len(lines), problem
        assert 1 <= column <= len(lines[line - 1]) + 1, problem


@relaxed
@given(content=yamlish, name=st.sampled_from(["a.yaml", "environments.yaml"]))
@example(content="a: [", name="a.yaml")
@example(content='"abc', name="a.yaml")
@example(content="x: 1\n\x85? ", name="a.yaml")
@example(content="&a", name="a.yaml")
@example(content="key:\n  - [\n", name="a.yaml")
@example(content="? version", name="a.yaml")
def test_no_text_raises_and_every_place_is_in_the_file(
    write: Write, content: str, name: str
) -> None:
    """For any file `load` returns problems, whose places are inside the file."""
    content = content.encode(errors="replace").decode()
    manifests = load(write({"a.yaml": ONE, name: content}))
    assert_well_reported(manifests, {"a.yaml": ONE, name: content})


@relaxed
@given(content=st.binary(max_size=200))
@example(content=b"\xff\xfe")
@example(content=b"\xef\xbb\xbf\xef\xbb\xbf")
@example(content=b"a: b\n\xc3")
def test_no_bytes_raise(write: Write, content: bytes) -> None:
    """The same holds for files that are not text."""
    manifests = load(write({"a.yaml": content}))
    assert manifests.problems
    assert_well_reported(manifests, {"a.yaml": content.decode(errors="replace")})


@relaxed
@given(data=st.data(), form=st.sampled_from(["dotenv", "json"]))
def test_any_name_has_a_variable(write: Write, data: st.DataObject, form: str) -> None:
    """The variable that is made from a name is valid in a dotenv file."""
    escaped = data.draw(printable).replace("{", "{{").replace("}", "}}")
    sink = {"file": "a", "format": form}
    manifests = load(write({"a.yaml": delivering([sink], escaped)}))
    assert reported(manifests) == []
    ((address,),) = [key.deliver for key in manifests.desired["production"]]
    assert isinstance(address, FileAddress)
    assert re.fullmatch(r"[A-Z_][A-Z0-9_]*", address.variable)


printable = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn", "Co"]),
    min_size=1,
    max_size=12,
).filter(lambda name: name == name.strip() and characters.advice("", name) is None)
entries = st.lists(
    st.fixed_dictionaries(
        {"name": printable, "expires": st.sampled_from(["90d", "P12W", "never"])},
        optional={"role": printable, "description": printable},
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda key: key["name"],
)


@relaxed
@given(entries=entries, depth=st.integers(0, 2), form=st.sampled_from(["json", "block", "flow"]))
def test_what_is_written_is_what_is_desired(
    write: Write, entries: list[dict], depth: int, form: str
) -> None:
    """Any keys that another library writes as YAML or JSON are read back unchanged."""
    if form != "json":
        # PyYAML writes `y` and `1e3` without quotes, because it reads them as text.
        assume(
            all(
                isinstance(document.resolve(value), str)
                for key in entries
                for value in key.values()
            )
        )
    braced = [{**key, "name": key["name"].replace("{", "{{").replace("}", "}}")} for key in entries]
    content = {"version": 1, "environment": "production", "depth": depth, "keys": braced}
    if form == "json":
        dumped = json.dumps(content, ensure_ascii=False)
    else:
        dumped = yaml.safe_dump(content, allow_unicode=True, default_flow_style=form == "flow")
    manifests = load(write({"a.yaml": dumped}))
    assert reported(manifests) == []
    assert [
        (key.name, key.expiry.written, key.role, key.depth)
        for key in manifests.desired["production"]
    ] == [(key["name"], key["expires"], key.get("role"), depth) for key in entries]
