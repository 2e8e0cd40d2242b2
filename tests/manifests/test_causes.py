"""One mistake is one problem, at the line that has to change, and the others are counted."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builders import NOW

from provisioner.cli.check_manifests import check
from provisioner.errors.problem import Place, Problem
from provisioner.manifests import COUNTS, Manifests, keys, load, look_alikes, resolve
from provisioner.render.report import ReportInput

if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[..., Path]

pytestmark = pytest.mark.fast

FORTY = [f"svc-{number}" for number in range(40)]
OTHERS = "and 39 other keys"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes manifests; by default three environments `a`, `b` and `c` with the same settings."""

    def write(*manifests: str, each: str = "", environments: str = "") -> Path:
        directory = tmp_path / "manifests"
        directory.mkdir(exist_ok=True)
        listed = "".join(f"  {name}: {{url: 'sandbox:'{each}}}\n" for name in "abc")
        text = environments or f"version: 1\nenvironments:\n{listed}"
        (directory / "environments.yaml").write_text(text)
        for number, manifest in enumerate(manifests, 1):
            (directory / f"{number}.yaml").write_text(manifest)
        return directory

    return write


def manifest(
    *names: str, environments: str = "[a]", defaults: dict | None = None, **every: Any
) -> str:
    """Return a manifest with each default and each key on a line of its own.

    Args:
        names: of the keys.
        environments: that the keys are for.
        defaults: of the keys; an expiry is added.
        every: what every key has beside its name.
    """
    lines = ["version: 1", f"environments: {environments}", "defaults:"]
    defaults = {"expires": "90d", **(defaults or {})}
    for word, value in defaults.items():
        if value is None:
            continue
        if word == "deliver":
            lines += ["  deliver:", *(f"    - {json.dumps(sink)}" for sink in value)]
        else:
            lines.append(f"  {word}: {json.dumps(value)}")
    lines += ["keys:", *(f"  - {json.dumps({'name': name, **every})}" for name in names)]
    return "\n".join(lines) + "\n"


def found(directory: Path) -> list[str]:
    return places(load(directory, now=NOW).problems)


def places(problems: tuple[Problem, ...]) -> list[str]:
    return [f"{Path(p.place.file).stem}:{p.place.line} {p.code}" for p in problems]


def only(directory: Path) -> Problem:
    (problem,) = load(directory, now=NOW).problems
    return problem


# Defaults

VAULT = {"vault": "s/{environment}/{name}"}
OWNS = ", owns: ['svc-*']"

DEFAULTS: dict[str, tuple[str, dict, str, str]] = {
    # settings of each environment; defaults; the place and code of the problem; the first key
    "expires": (", policy: {max_lifetime: 30d}", {}, "1:4 policy_lifetime", '"svc-0"'),
    "never": (", policy: {max_lifetime: 30d}", {"expires": "never"}, "1:4 policy_lifetime", ""),
    "date": (", policy: {max_lifetime: 30d}", {"expires": "2199-01-01"}, "1:4 policy_lifetime", ""),
    "past": ("", {"expires": "2020-01-01"}, "1:4 expiry_past", '"svc-0"'),
    "role": (", policy: {roles: [A]}", {"role": "B"}, "1:5 policy_role", '"svc-0"'),
    "no rotation": (
        ", policy: {rotation: required}", {"rotate": "never"}, "1:5 policy_rotation", '"svc-0"'
    ),
    "forbidden sink": (
        ", policy: {sinks: {forbid: [command]}}",
        {"deliver": [VAULT, {"command": ["set", "{environment}", "{name}"]}]},
        "1:7 policy_sink_forbidden",
        '"svc-0"',
    ),
    "other sink": (
        ", policy: {sinks: [aws]}", {"deliver": [VAULT]}, "1:6 policy_sink", '"svc-0"'
    ),
    "rotation": (OWNS, {"rotate": {"before": "90d"}}, "1:5 rotation_expiry", '"svc-0"'),
    "unowned": (
        ", owns: ['etl-*']", {"rotate": {"before": "1d"}}, "1:5 rotation_unowned", '"svc-0"'
    ),
    "unknown placeholder": (
        "", {"deliver": [VAULT, {"aws": "{region}"}]}, "1:7 placeholder_unknown", '"svc-0"'
    ),
    "lone brace": ("", {"deliver": [{"aws": "{"}]}, "1:6 placeholder_invalid", '"svc-0"'),
    "variable": ("", {"deliver": [{"file": "${HOME}"}]}, "1:6 variable_invalid", '"svc-0"'),
    "value": ("", {"deliver": [VAULT, {"aws": "a b"}]}, "1:7 sink_invalid", '"svc-0"'),
    "program": ("", {"deliver": [{"command": ["\0"]}]}, "1:6 sink_invalid", '"svc-0"'),
    "ending": ("", {"deliver": [{"file": "{name}.toml"}]}, "1:6 sink_invalid", '"svc-0"'),
}  # fmt: skip


@pytest.mark.parametrize("case", DEFAULTS)
@pytest.mark.parametrize("environments", ["[a]", "[a, b, c]"])
def test_a_mistake_in_defaults_is_one_problem(write: Write, case: str, environments: str) -> None:
    """It is reported at its line, with the first key and the number of others."""
    each, defaults, expected, name = DEFAULTS[case]
    text = manifest(*FORTY, environments=environments, defaults=defaults)
    problem = only(write(text, each=each))
    assert places((problem,)) == [expected]
    assert OTHERS in problem.message
    assert name in problem.message
    counted = problem.code.startswith("policy_") or problem.code == "rotation_unowned"
    several = counted and environments != "[a]"
    assert ("and 2 other environments" in problem.message) is several
    assert len(problem.message) < 400


@pytest.mark.parametrize("environments", ["[a]", "[a, b, c]"])
def test_names_that_do_not_fit_a_default_are_one_problem(write: Write, environments: str) -> None:
    """A path out of its folder, and a name that no secret can have."""
    bad = [f"team/{number}" for number in range(40)]
    text = manifest(*bad, environments=environments, defaults={"deliver": [{"file": "{name}.env"}]})
    problem = only(write(text))
    assert places((problem,)) == ["1:6 sink_invalid"]
    assert '(for "team/0" and 39 other keys)' in problem.message
    bad = [f"github-{number}" for number in range(40)]
    deliver = [VAULT, {"github": "acme/{environment}"}]
    text = manifest(*bad, environments=environments, defaults={"deliver": deliver})
    problem = only(write(text))
    assert places((problem,)) == ["1:7 sink_invalid"]
    assert '(for "github-0" and 39 other keys)' in problem.message


def test_keys_that_collide_because_of_a_default_are_one_problem(write: Write) -> None:
    """Two keys are named, and the others are counted."""
    text = manifest(*FORTY, defaults={"deliver": [VAULT, {"aws": "a"}]})
    problem = only(write(text))
    assert places((problem,)) == ["1:7 sink_collision"]
    assert '"svc-1" (and 38 other keys) in a would overwrite the' in problem.message
    assert 'token of "svc-0" in a' in problem.message
    text = manifest(*FORTY, defaults={"deliver": [{"aws": "{name}"}]}, environments="[a, b, c]")
    problem = only(write(text))
    assert places((problem,)) == ["1:6 sink_collision"]
    assert '"svc-0" (and 39 other keys) in b (and 1 other environment) would' in problem.message


def test_a_default_that_gives_a_file_another_format_is_one_problem(write: Write) -> None:
    """The key that has the first format is named with its line."""
    first = manifest("first", defaults={"deliver": [{"file": "a.env"}]})
    other = manifest(*FORTY, defaults={"deliver": [{"file": "a.env", "format": "json"}]})
    problem = only(write(first, other))
    assert places((problem,)) == ["2:6 sink_collision"]
    assert f'json for "svc-0" ({OTHERS})' in problem.message
    assert '"first" in a' in problem.message


@pytest.mark.parametrize(
    ("each", "code", "defaults"),
    [
        ("", "expiry_missing", {"expires": None}),
        (", policy: {rotation: required}", "policy_rotation", {}),
        (", policy: {sinks: [vault]}", "policy_sink", {}),
    ],
)
def test_what_defaults_lack_is_one_problem(
    write: Write, each: str, code: str, defaults: dict
) -> None:
    """It has no line of its own, so it is reported at the first key that lacks it."""
    text = manifest(*FORTY, defaults={**defaults, "role": "A"}, environments="[a, b, c]")
    problem = only(write(text, each=each))
    assert problem.code == code
    assert problem.place.line == text[: text.index("svc-0")].count("\n") + 1
    assert f'"svc-0" ({OTHERS})' in problem.message
    assert found(write(text, text.replace("svc", "etl"), each=each)) == [
        f"1:{problem.place.line} {code}",
        f"2:{problem.place.line} {code}",
    ]


# Environments


@pytest.mark.parametrize("environments", ["[a]", "[a, b, c]"])
def test_an_environment_that_owns_nothing_is_one_problem(write: Write, environments: str) -> None:
    """At its own line, whatever manifests the keys are in and whether they inherit `rotate`."""
    rotate = {"before": "1d"}
    own = manifest(*FORTY[:20], environments=environments, rotate=rotate)
    inherited = manifest(*FORTY[20:], environments=environments, defaults={"rotate": rotate})
    directory = write(own, inherited)
    problem = only(directory)
    assert places((problem,)) == ["environments:3 rotation_unowned"]
    assert f'"svc-0" ({OTHERS})' in problem.message
    several = "a (and 2 other environments) does" in problem.message
    assert several is (environments != "[a]")
    for file in ("1.yaml", "2.yaml"):
        assert check([directory / file], NOW).problems == (problem,)


def test_a_role_of_an_environment_that_its_policy_forbids_is_one_problem(write: Write) -> None:
    """At the line of the role, for the keys of all manifests that name none."""
    directory = write(
        manifest(*FORTY[:39]),
        manifest("svc-own", defaults={"role": "A"}),
        manifest(FORTY[39], "svc-good", defaults={"role": "A"}).replace(
            '"svc-39"', '"svc-39", "role": "B"'
        ),
        manifest("svc-last"),
        environments="version: 1\nenvironments:\n  a:\n    url: 'sandbox:'\n    role: B\n"
        "    policy: {roles: [A]}\n",
    )
    own = "3:7 policy_role"
    assert found(directory) == ["environments:5 policy_role", own]
    problem, _ = load(directory).problems
    assert f'"svc-0" ({OTHERS})' in problem.message
    assert problem.also_in == {str(directory / "1.yaml"), str(directory / "4.yaml")}
    for file, expected in (("1", 1), ("2", 0), ("3", 1), ("4", 1)):
        assert len(check([directory / f"{file}.yaml"], NOW).problems) == expected


def test_commands_that_need_no_keys_are_not_stopped_by_them(write: Write) -> None:
    """A problem of keys at the line of an environment is no problem of the file."""
    directory = write(manifest("svc-a", "svc-b", rotate={"before": "1d"}))
    manifests = load(directory)
    assert places(manifests.problems) == ["environments:3 rotation_unowned"]
    assert manifests.problems_of_environments == ()


# Keys in several environments

OWN: dict[str, tuple[str, dict]] = {
    "policy_lifetime": (", policy: {max_lifetime: 30d}", {"expires": "90d"}),
    "policy_rotation": (", policy: {rotation: required}", {"rotate": "never"}),
    "policy_role": (", policy: {roles: [A]}", {"role": "B"}),
    "policy_name": (", policy: {names: 'etl-*'}", {}),
    "policy_sink": (", policy: {sinks: [vault]}", {"deliver": []}),
    "policy_sink_forbidden": (", policy: {sinks: {forbid: [vault]}}", {"deliver": [VAULT]}),
    "rotation_unowned": (", owns: ['etl-*']", {"rotate": {"before": "1d"}}),
}


@pytest.mark.parametrize("code", OWN)
def test_a_key_of_several_environments_is_one_problem_at_its_own_line(
    write: Write, code: str
) -> None:
    """The first environment is named, and the others are counted; two keys are two problems."""
    each, key = OWN[code]
    text = manifest("svc", "svc-{environment}", environments="[a, b, c]", **key)
    directory = write(text, each=each)
    assert found(directory) == [f"1:6 {code}", f"1:7 {code}"]
    for problem in load(directory).problems:
        assert "a (and 2 other environments)" in problem.message
        assert "other key" not in problem.message


def test_a_rotated_key_in_environments_that_own_nothing_is_one_problem(write: Write) -> None:
    """A single key that is affected is reported at its own line."""
    text = manifest("svc-a", environments="[a, b, c]", defaults={"rotate": {"before": "1d"}})
    problem = only(write(text))
    assert places((problem,)) == ["1:7 rotation_unowned"]
    assert 'a (and 2 other environments) does not own "svc-a", so' in problem.message


def test_one_unowned_name_among_many_is_reported_at_its_own_line(write: Write) -> None:
    """The default is fine for the others."""
    text = manifest(*FORTY, "other", environments="[a, b]", defaults={"rotate": {"before": "1d"}})
    problem = only(write(text, each=OWNS))
    assert places((problem,)) == ["1:47 rotation_unowned"]
    assert 'a (and 1 other environment) does not own "other", so' in problem.message


def test_a_name_that_is_used_twice_is_one_problem_for_all_environments(write: Write) -> None:
    """The line of the first is named once."""
    problem = only(write(manifest("svc-a", "svc-a", environments="[a, b, c]")))
    assert places((problem,)) == ["1:7 name_duplicate"]
    assert '"svc-a" is declared twice in a (and 2 other environments), first' in problem.message


def test_a_sink_that_ignores_the_environment_is_one_problem(write: Write) -> None:
    """All three environments of the key would write to the same place."""
    problem = only(write(manifest("svc-a", environments="[a, b, c]", deliver=[{"aws": "a"}])))
    assert places((problem,)) == ["1:6 sink_collision"]
    assert '"svc-a" in b (and 1 other environment) would overwrite' in problem.message
    assert 'token of "svc-a" in a' in problem.message


def test_the_strictest_environment_is_the_one_that_is_named(write: Write) -> None:
    """The advice is right for all environments."""
    directory = write(
        manifest(*FORTY, environments="[a, b, c]", defaults={"role": "X"}),
        environments="version: 1\nenvironments:\n"
        "  a: {url: 'sandbox:', policy: {max_lifetime: 60d, roles: [A, B, C]}}\n"
        "  b: {url: 'sandbox:', policy: {max_lifetime: 30d, roles: [C, B]}}\n"
        "  c: {url: 'sandbox:', policy: {max_lifetime: 45d, roles: [B, D]}}\n",
    )
    lifetime, role = load(directory).problems
    assert "the policy of b (and 2 other environments)" in lifetime.message
    assert "write `expires: 30d` or less" in lifetime.message
    assert lifetime.related == Place(str(directory / "environments.yaml"), 4, 33)
    assert "the policy of a (and 2 other environments)" in role.message
    assert role.message.endswith('write one of "B"')


# Matrix


def axis(count: int, prefix: str = "") -> dict:
    return {"x": [f"{prefix}{number}" for number in range(count)]}


@pytest.mark.parametrize("environments", ["[a]", "[a, b, c]"])
@pytest.mark.parametrize("code", OWN)
def test_a_mistake_in_a_matrix_is_one_problem(write: Write, code: str, environments: str) -> None:
    """At the name of the key that has it, with the number of its other names."""
    each, key = OWN[code]
    text = manifest("svc-{x}", environments=environments, matrix=axis(40), **key)
    problem = only(write(text, each=each))
    assert places((problem,)) == [f"1:6 {code}"]
    assert f'"svc-0" ({OTHERS})' in problem.message


@pytest.mark.parametrize("environments", ["[a]", "[a, b, c]"])
def test_two_matrices_that_give_the_same_names_are_one_problem(
    write: Write, environments: str
) -> None:
    """Also where each environment has names of its own."""
    for name in ("svc-{x}", "svc-{environment}-{x}"):
        text = manifest(name, name, environments=environments, matrix=axis(40))
        problem = only(write(text))
        assert places((problem,)) == ["1:7 name_duplicate"]
        assert OTHERS in problem.message
        assert ("and 2 other environments" in problem.message) is (environments != "[a]")


@pytest.mark.parametrize("environments", ["[a]", "[a, b, c]"])
def test_axes_that_run_into_each_other_are_one_problem(write: Write, environments: str) -> None:
    """The first two combinations are shown, and the other names are counted."""
    matrix = {"x": ["1", "11", "111"], "y": ["1", "11", "111"]}
    problem = only(write(manifest("svc-{x}{y}", environments=environments, matrix=matrix)))
    assert places((problem,)) == ["1:6 matrix_collision"]
    assert '"11", "1" both give the name "svc-111" (and 3 other keys)' in problem.message


def test_faults_of_a_matrix_are_counted_for_its_sinks(write: Write) -> None:
    """Values that a sink cannot have, and names that share a place."""
    text = manifest("svc-{x}", matrix=axis(40, "a "), deliver=[{"aws": "{x}"}])
    problem = only(write(text))
    assert places((problem,)) == ["1:6 sink_invalid"]
    assert f'(for "svc-a 0" {OTHERS})' in problem.message
    problem = only(write(manifest("svc-{x}", matrix=axis(40), deliver=[{"aws": "x"}])))
    assert places((problem,)) == ["1:6 sink_collision"]
    assert '"svc-1" (and 38 other keys) in a would overwrite' in problem.message


def test_an_expiry_or_rotation_of_a_matrix_counts_its_keys(write: Write) -> None:
    """Each is one line, and each of the names has it."""
    text = manifest("svc-{x}", matrix=axis(40), expires="2020-01-01")
    problem = only(write(text, each=OWNS))
    assert (problem.code, f'(for "svc-0" {OTHERS})' in problem.message) == ("expiry_past", True)
    text = manifest("svc-{x}", matrix=axis(40), rotate={"before": "90d"})
    problem = only(write(text, each=OWNS))
    assert (problem.code, f'(for "svc-0" {OTHERS})' in problem.message) == ("rotation_expiry", True)


@pytest.mark.parametrize("environments", ["[a]", "[a, b, c]"])
def test_names_of_a_matrix_that_look_alike_are_one_warning(write: Write, environments: str) -> None:
    """One for each line that has to change, whatever its environments."""
    for name in ("svc-{x}", "svc-{environment}-{x}"):
        other = name.replace("svc", "SVC")
        text = manifest(name, other, environments=environments, matrix=axis(40))
        (warning,) = look_alikes(load(write(text)))
        assert places((warning,)) == ["1:7 name_alike"]
        assert f"({OTHERS}) looks like" in warning.message
        assert ("in a (and 2 other environments), " in warning.message) is (environments != "[a]")


# Separate causes


@pytest.mark.parametrize("environments", ["[a]", "[a, b, c]"])
def test_two_causes_are_two_problems(write: Write, environments: str) -> None:
    """A default and a key of its own, two defaults, two codes, two manifests."""
    policy = ", policy: {max_lifetime: 30d, roles: [A]}"
    text = manifest(*FORTY, environments=environments, defaults={"role": "A"})
    own = text + '  - {"name": "own", "expires": "60d"}\n'
    assert found(write(own, each=policy)) == ["1:4 policy_lifetime", "1:47 policy_lifetime"]
    default, key = (problem.message for problem in load(write(own, each=policy)).problems)
    assert OTHERS in default
    assert "other key" not in key
    both = manifest(*FORTY, environments=environments, defaults={"role": "B"})
    assert found(write(both, each=policy)) == ["1:4 policy_lifetime", "1:5 policy_role"]
    other = text.replace("svc-", "etl-")
    directory = write(text, other, each=policy)
    assert found(directory) == ["1:4 policy_lifetime", "2:4 policy_lifetime"]
    assert all(OTHERS in problem.message for problem in load(directory).problems)


def test_two_mistakes_in_one_text_are_two_problems(write: Write) -> None:
    """Unknown placeholders are separate mistakes, in a default and in a name."""
    text = manifest(*FORTY, defaults={"deliver": [{"vault": "s/{regoin}/{nam}/{nam}"}]})
    assert found(write(text)) == ["1:6 placeholder_unknown"] * 2
    messages = [problem.message for problem in load(write(text)).problems]
    assert ["regoin" in message for message in messages] == [True, False]
    assert all(f'"svc-0" ({OTHERS})' in message for message in messages)
    assert found(write(manifest("{a}{b}{b}{"))) == [
        "1:6 placeholder_invalid",
        "1:6 placeholder_unknown",
        "1:6 placeholder_unknown",
    ]


def test_keys_with_mistakes_of_their_own_are_a_problem_each(write: Write) -> None:
    """Forty lines have to change."""
    text = manifest(*FORTY, environments="[a, b, c]", expires="60d")
    assert len(found(write(text, each=", policy: {max_lifetime: 30d}"))) == 40
    assert len(found(write(manifest(*FORTY, expires="2020-01-01")))) == 40


def test_a_key_without_a_name_of_its_own_is_counted(write: Write) -> None:
    """Where its name is wrong or no environment is known, it inherits the mistake all the same."""
    text = manifest(*FORTY[:39], "{", defaults={"expires": "2020-01-01"})
    assert [OTHERS in problem.message for problem in load(write(text), now=NOW).problems] == [
        *(True, False),
    ]
    text = manifest(*FORTY, environments="[d]", defaults={"expires": "2020-01-01"})
    unknown, past = load(write(text), now=NOW).problems
    assert (unknown.code, past.code) == ("environment_unknown", "expiry_past")
    assert OTHERS in past.message


def test_too_many_keys_in_all_manifests_are_one_problem(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first manifest or key that goes beyond the limit."""
    monkeypatch.setattr(keys, "MAX_KEYS", 50)
    manifests = [manifest(*(f"{file}-{name}" for name in FORTY)) for file in range(4)]
    directory = write(*manifests)
    assert found(directory) == ["2:1 matrix_too_large"]
    text = manifest("a-{x}", "b-{x}", "c-{x}", matrix=axis(40))
    for file in ("2.yaml", "3.yaml", "4.yaml"):
        (directory / file).unlink()
    assert found(write(text)) == ["1:7 matrix_too_large"]


# Runs


def resolved(manifests: Manifests, root: Path, **variables: str) -> tuple[Problem, ...]:
    _, problems = resolve(manifests.environments, variables, root, manifests.desired)
    return problems


def several(settings: str) -> str:
    return "version: 1\nenvironments:\n" + "".join(
        f"  {name}: {{url: https://{name}.example.com, {settings}}}\n" for name in "abc"
    )


TOKEN = "auth: {token: '${TOKEN}'}"


def test_a_variable_that_several_environments_lack_is_one_problem(
    write: Write, tmp_path: Path
) -> None:
    """At its first place, with the number of other environments; two variables are two problems."""
    manifests = load(write(environments=several("auth: {email: '${USER}', password: '${WORD}'}")))
    problems = resolved(manifests, tmp_path)
    assert places(problems) == ["environments:3 variable_missing"] * 2
    assert [problem.message for problem in problems] == [
        f"the variable {name} is not set (in a and 2 other environments)"
        for name in ("USER", "WORD")
    ]
    (problem,) = resolve(manifests.environments[1:2], {"USER": "u"}, tmp_path)[1]
    assert places((problem,)) == ["environments:4 variable_missing"]
    assert problem.message == "the variable WORD is not set"


def test_a_variable_that_is_used_twice_is_missing_once(write: Write, tmp_path: Path) -> None:
    """The message that one of its places has is the one that is shown."""
    text = several(f"{TOKEN}, headers: {{X-Key: '${{TOKEN:?ask the platform team}}'}}")
    (problem,) = resolved(load(write(environments=text)), tmp_path)
    assert places((problem,)) == ["environments:3 variable_missing"]
    assert problem.message == (
        "the variable TOKEN is not set: ask the platform team (in a and 2 other environments)"
    )


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (TOKEN, "auth_invalid"),
        (f"{TOKEN}, role: '${{VALUE}}'", "invalid_value"),
        (f"{TOKEN}, generation: '${{VALUE}}'", "invalid_value"),
        (f"{TOKEN}, limits: {{batch: '${{VALUE}}'}}", "invalid_value"),
        (f"{TOKEN}, headers: {{X-Team: '${{VALUE}}'}}", "header_invalid"),
        ("auth: {token_file: secrets/token}", "secret_file_unreadable"),
        ("auth: {token_file: '${VALUE:-x}'}", "secret_file_unreadable"),
        (f"{TOKEN}, ca_file: ca.pem", "ca_file_unreadable"),
    ],
)
def test_a_value_that_several_environments_share_is_one_problem(
    write: Write, tmp_path: Path, settings: str, code: str
) -> None:
    """A bad variable or file is bad wherever it is used."""
    variables = {"TOKEN": "a b" if settings == TOKEN else "t", "VALUE": " \n"}
    problems = resolved(load(write(environments=several(settings))), tmp_path, **variables)
    assert places(problems) == [f"environments:3 {code}"]
    assert problems[0].message.endswith(" (in a and 2 other environments)")


def test_a_url_that_several_environments_share_is_one_problem(write: Write, tmp_path: Path) -> None:
    """The variable is what has to change."""
    text = several(TOKEN)
    for name in "abc":
        text = text.replace(f"https://{name}.example.com", "'${URL}'")
    problems = resolved(load(write(environments=text)), tmp_path, URL="crm", TOKEN="t")
    assert places(problems) == ["environments:3 url_invalid"]


def test_keys_that_a_variable_affects_are_one_problem(write: Write, tmp_path: Path) -> None:
    """`owns` and `role` with variables, at their line, for all keys of all their environments."""
    settings = f"{TOKEN}, owns: ['${{PREFIX}}-*'], role: '${{ROLE}}', policy: {{roles: [A]}}"
    text = manifest("svc-{environment}", *FORTY[1:], environments="[a, b, c]")
    text = text.replace('  expires: "90d"', '  expires: "90d"\n  rotate: {before: 1d}')
    manifests = load(write(text, environments=several(settings)))
    assert manifests.problems == ()
    known = {"PREFIX": "svc", "ROLE": "A", "TOKEN": "t"}
    assert resolved(manifests, tmp_path, **known) == ()
    for variables, code in (
        ({"PREFIX": "etl"}, "rotation_unowned"),
        ({"ROLE": "B"}, "policy_role"),
    ):
        problems = resolved(manifests, tmp_path, **{**known, **variables})
        assert places(problems) == [f"environments:3 {code}"]
        for part in ("a (and 2 other environments)", f'"svc-a" ({OTHERS})'):
            assert part in problems[0].message
        assert '"B"' not in problems[0].message


# Reports


@pytest.mark.parametrize("form", ["text", "json", "markdown", "github", "gitlab", "junit", "sarif"])
def test_every_report_counts_one(write: Write, run: Callable[..., Any], form: str) -> None:
    """`validate` gives all formats the same problems."""
    text = manifest(*FORTY, environments="[a, b, c]")
    directory = write(text, each=", policy: {max_lifetime: 30d}")
    code, out, _ = run("validate", "-m", directory, "--format", form)
    assert code == 3
    assert out.count("and 39 other keys") == 1
    match form:
        case "json":
            (problem,) = json.loads(out)["problems"]
            assert (problem["code"], problem["line"]) == ("policy_lifetime", 4)
        case "github":
            assert len(out.splitlines()) == 1
        case "gitlab":
            assert len(json.loads(out)) == 1
        case "junit":
            assert 'message="1 problem in ' in out
        case "sarif":
            assert len(json.loads(out)["runs"][0]["results"]) == 1


def test_a_problem_is_the_same_when_a_key_or_an_environment_is_added(write: Write) -> None:
    """Its fingerprint, by which a report knows it again, does not depend on the counts."""
    prints = set()
    for names, environments in ((FORTY[:1], "[a]"), (FORTY[:2], "[a]"), (FORTY, "[a, b, c]")):
        text = manifest(
            *names, environments=environments, deliver=[{"aws": "a{environment}{name}"}]
        )
        problem = only(write(text, each=", policy: {max_lifetime: 30d}"))
        prints |= {one[2] for one in ReportInput(NOW, (), (problem,)).fingerprinted}
    assert len(prints) == 1
    for counted in (' (for "a" and 1 other key)', " (in a and 2 other environments)"):
        assert COUNTS.sub("", f"x{counted}: y") == "x: y"


@pytest.mark.large
def test_many_keys_of_one_mistake_cost_little(write: Write) -> None:
    """Time grows with the number of keys, not with its square."""
    spent = []
    for count in (5_000, 20_000):
        defaults = {"role": "B", "rotate": {"before": "90d"}, "deliver": [{"aws": "a"}]}
        text = manifest(*(f"svc-{n}" for n in range(count)), defaults=defaults)
        directory = write(text, each=f"{OWNS}, policy: {{max_lifetime: 30d, roles: [A]}}")
        start = time.process_time()
        assert found(directory) == [
            "1:4 policy_lifetime",
            "1:5 policy_role",
            "1:6 rotation_expiry",
            "1:8 sink_collision",
        ]
        spent.append(time.process_time() - start)
    assert spent[1] < 10 * spent[0] + 0.5


def test_the_documentation_shows_a_real_problem(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The message in docs/manifests.md that counts keys and environments, word for word."""
    names = ("staging", "production", "development")
    listed = "".join(f"  {name}: {{url: 'sandbox:'}}\n" for name in names)
    directory = write(
        environments="version: 1\npolicy:\n  names: 'svc-*'\n  max_lifetime: 30d\n"
        f"environments:\n{listed}"
    )
    text = manifest("svc-billing", *FORTY[1:], environments=f"[{', '.join(names)}]")
    (directory / "services.yaml").write_text(text.replace('"90d"', "90d"))
    monkeypatch.chdir(tmp_path)
    (problem,) = load(Path("manifests")).problems
    docs = (Path(__file__).parents[2] / "docs" / "manifests.md").read_text()
    assert f"\n{problem}\n" in docs
