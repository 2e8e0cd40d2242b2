"""One entry of an environments file stands for many environments, and files are read together."""

from collections.abc import Callable
from pathlib import Path

import pytest

from provisioner.errors.problem import Problem
from provisioner.manifests import (
    Manifests,
    load,
    newly_reached,
    resolve,
    secrets_declared,
    with_secrets,
)
from provisioner.model.environment import ApiToken, Environment

pytestmark = pytest.mark.fast

FLEET = (
    'matrix: {customer: [acme, glo-bex]}, url: "https://{customer}.example.com", '
    'auth: {token: "${TOKEN_{customer}}"}'
)
KEYS = "version: 1\nenvironments: [%s]\nkeys: [{name: svc-a, expires: 90d}]\n"
VARIABLES = {"TOKEN_ACME": "a.b.c", "TOKEN_GLO_BEX": "d.e.f"}

Read = Callable[..., Manifests]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write a manifests directory with these entries and other files, and load it."""

    def read(*entries: str, **files: str) -> Manifests:
        listed = "".join(f"  {entry}\n" for entry in entries)
        files = {"environments.yaml": f"version: 1\nenvironments:\n{listed}", **files}
        for name, content in files.items():
            path = tmp_path / "manifests" / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(content)
        return load(tmp_path / "manifests")

    return read


def fleet(body: str = FLEET, name: str = "crm-{customer}") -> str:
    return f'"{name}": {{{body}}}'


def resolved(manifests: Manifests, **variables: str) -> list[Environment]:
    environments, problems = resolve(
        manifests.environments, {**VARIABLES, **variables}, manifests.environments_root
    )
    assert problems == ()
    return list(environments)


def places(problems: tuple[Problem, ...]) -> list[str]:
    return [
        f"{Path(one.place.file).name}:{one.place.line}:{one.place.column} {one.code}"
        for one in problems
    ]


def text_at(problem: Problem, entry: str) -> str:
    """Return the text of the first entry that starts at the place of a problem."""
    assert problem.place.line == 3
    return entry[problem.place.column - 3 :]


def test_a_matrix_gives_an_environment_for_every_value(read: Read) -> None:
    """Its values are filled into every text, also into the name of a variable, as capitals."""
    body = (
        f'{FLEET}, role: "Role {{customer}}", origin: "https://{{customer}}.example.org", '
        'owns: ["{customer}-*"], headers: {X-Customer: "{{{customer}}}"}, '
        'limits: {batch: "${BATCH_{customer}:-7}"}'
    )
    manifests = read(fleet(body))
    assert manifests.problems == ()
    acme, globex = resolved(manifests, BATCH_GLO_BEX="9")
    assert (acme.name, globex.name) == ("crm-acme", "crm-glo-bex")
    assert (acme.url, globex.url) == ("https://acme.example.com", "https://glo-bex.example.com")
    assert isinstance(globex.credential, ApiToken)
    assert globex.credential.token.reveal() == "d.e.f"
    assert (globex.role, globex.origin) == ("Role glo-bex", "https://glo-bex.example.org")
    assert globex.owns == ("glo-bex-*",)
    assert globex.headers[0][1].reveal() == "{glo-bex}"
    assert (acme.limits.batch, globex.limits.batch) == (7, 9)


def test_values_may_stand_in_a_file_of_their_own(read: Read) -> None:
    """It is found from the file that names it, and is neither a manifest nor read twice."""
    body = FLEET.replace("[acme, glo-bex]", "{file: %s}")
    manifests = read(
        fleet(body % "customers.yaml"),
        fleet(body % "customers.yaml", "two-{customer}"),
        **{
            "customers.yaml": "- acme\n- glo-bex\n",
            "environments/more.yaml": "version: 1\nenvironments:\n"
            f"  {fleet(body % 'list.yaml', 'more-{customer}')}\n"
            f"  {fleet(body % '../customers.yaml', 'out-{customer}')}\n",
            "environments/list.yaml": "[initech]\n",
            "keys.yaml": KEYS % "more-initech",
        },
    )
    assert manifests.problems == ()
    assert [one.name for one in manifests.environments] == [
        *(
            "crm-acme",
            "crm-glo-bex",
            "two-acme",
            "two-glo-bex",
            "more-initech",
            "out-acme",
            "out-glo-bex",
        )
    ]
    assert [Path(one).name for one in manifests.sources] == [
        *("environments.yaml", "list.yaml", "more.yaml", "customers.yaml"),
        "keys.yaml",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("- acme\n- acme\n", ["customers.yaml:2:3 matrix_collision"]),
        ("[]\n", ["customers.yaml:1:1 matrix_empty"]),
        ("acme: 1\n", ["customers.yaml:1:1 wrong_type"]),
        ("- no\n", ["customers.yaml:1:3 yaml_surprise"]),
        ("- a\n- b c\n- ..\n", [f"customers.yaml:{n}:3 environment_name_invalid" for n in (2, 3)]),
        ("- [\n", ["customers.yaml:2:1 yaml_syntax"]),
        (None, ["environments.yaml:3:48 file_unreadable"]),
    ],
)
def test_problems_of_a_list_are_reported_in_its_file(
    read: Read, content: str | None, expected: list[str]
) -> None:
    """They have their place as in any other file, and no name of the matrix is then unknown."""
    body = FLEET.replace("[acme, glo-bex]", "{file: customers.yaml}")
    files = {} if content is None else {"customers.yaml": content}
    manifests = read(fleet(body), **files, **{"keys.yaml": KEYS % "crm-acme"})
    assert places(manifests.problems) == expected
    assert manifests.problems_of_environments == manifests.problems


@pytest.mark.parametrize(
    ("name", "axes", "code", "at"),
    [
        ("crm-{customer}", "{}", "matrix_empty", "{}, url"),
        ("crm-{customer}", "{customer: []}", "matrix_empty", "[]}"),
        ("crm-{custmer}", "{customer: [a]}", "placeholder_unknown", '"crm-'),
        ("crm", "{customer: [a]}", "matrix_collision", "customer: [a]"),
        ("{a}{b}", "{a: [x, xy], b: [yz, z]}", "matrix_collision", '"{a}{b}"'),
        ("{a}", "{a: [-x]}", "environment_name_invalid", '"{a}"'),
        ("{a}", "{a: ['x/y']}", "environment_name_invalid", "'x/y'"),
        ("{a}", "{a: [a-b, a_b]}", "matrix_collision", "a: [a-b"),
        ("{a}{b}", "{a: {file: many.yaml}, b: {file: many.yaml}}", "matrix_too_large", "matrix:"),
    ],
)
def test_a_matrix_that_gives_no_names_is_a_problem(
    read: Read, name: str, axes: str, code: str, at: str
) -> None:
    """It is empty or too large, two names are equal or invalid, or two share a variable."""
    axis = "a" if "{a}" in name else "customer"
    body = f'matrix: {axes}, url: "https://x.example", auth: {{token: "${{T_{{{axis}}}}}"}}'
    many = {"many.yaml": "".join(f"- v{n}\n" for n in range(101))} if "many" in axes else {}
    (problem,) = read(fleet(body, name), **many).problems
    assert (problem.code, text_at(problem, fleet(body, name))[: len(at)]) == (code, at)


def test_a_mistake_in_an_entry_is_one_problem(read: Read) -> None:
    """The message names its first environment and counts the others; the place is the text."""
    body = FLEET.replace("https:", "http:").replace("${TOKEN_{customer}}", "{client}")
    insecure, unknown = read(fleet(body)).problems
    assert (insecure.code, unknown.code) == ("url_insecure", "placeholder_unknown")
    assert text_at(insecure, fleet(body)).startswith('"http://{customer}')
    assert "(in crm-acme and 1 other environment)" in insecure.message
    assert text_at(unknown, fleet(body)).startswith('"{client}"')
    (literal,) = read(fleet(FLEET.replace("${TOKEN_{customer}}", "{customer}"))).problems
    assert literal.code == "secret_literal"


def test_braces_are_text_without_a_matrix(read: Read) -> None:
    """What was valid before stays valid."""
    manifests = read("crm: {url: 'sandbox:', role: 'a {b} }}'}")
    assert resolved(manifests)[0].role == "a {b} }}"
    assert places(read("'crm-{a}': {url: 'sandbox:'}").problems) == [
        "environments.yaml:3:3 placeholder_unknown"
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("'crm-{customer}'", ["crm-acme", "crm-glo-bex"]),
        ("crm-acme, 'crm-*'", ["crm-acme", "crm-glo-bex"]),
        ("'*-a*'", ["crm-acme"]),
        ("dev, 'crm-glo-?ex'", ["crm-glo-bex", "dev"]),
    ],
)
def test_a_manifest_names_a_matrix_or_a_glob(read: Read, written: str, expected: list[str]) -> None:
    """The name as declared stands for all environments of a matrix."""
    manifests = read(fleet(), "dev: {url: 'sandbox:'}", **{"keys.yaml": KEYS % written})
    assert manifests.problems == ()
    assert sorted(name for name, keys in manifests.desired.items() if keys) == expected


@pytest.mark.parametrize("written", ["'crm-{client}'", "'x-*'", "crm"])
def test_a_name_without_an_environment_is_unknown(read: Read, written: str) -> None:
    """So is a glob that matches none."""
    manifests = read(fleet(), **{"keys.yaml": KEYS % written})
    assert places(manifests.problems) == ["keys.yaml:2:16 environment_unknown"]


def test_environments_files_are_read_together(read: Read, tmp_path: Path) -> None:
    """A name in two of them is a problem with both places; environments.yaml may be missing."""
    more = "version: 1\nenvironments:\n  eu: {url: 'sandbox:'}\n"
    files = {"environments/eu.yaml": more, "environments/us.yml": more.replace("eu", "us")}
    manifests = read("dev: {url: 'sandbox:'}", **files, **{"a/environments/k.yaml": KEYS % "eu"})
    assert manifests.problems == ()
    assert [one.name for one in manifests.environments] == ["dev", "eu", "us"]
    (twice,) = read("dev: {url: 'sandbox:'}", **{"environments/us.yml": more}).problems
    assert places((twice,)) == ["us.yml:3:3 environment_duplicate"]
    assert twice.related is not None
    assert twice.related.file.endswith("environments/eu.yaml")
    assert "line 3" in twice.message
    (tmp_path / "manifests" / "environments.yaml").unlink()
    (tmp_path / "manifests" / "environments" / "us.yml").unlink()
    assert load(tmp_path / "manifests").problems == ()


def test_the_policy_of_environments_yaml_holds_in_all_files(read: Read) -> None:
    """A rule at the top of another file overrides it in that file."""
    more = "version: 1\n%senvironments: {eu: {url: 'sandbox:'}}\n"
    policy = {
        "environments.yaml": "version: 1\npolicy: {max_lifetime: 30d}\n"
        "environments: {dev: {url: 'sandbox:'}}\n"
    }
    keys = {"keys.yaml": KEYS % "eu"}
    strict = read(**policy, **keys, **{"environments/eu.yaml": more % ""})
    assert places(strict.problems) == ["keys.yaml:3:15 policy_lifetime"]
    assert "(environments.yaml line 2)" in strict.problems[0].message
    own = more % "policy: {max_lifetime: never}\n"
    assert read(**policy, **keys, **{"environments/eu.yaml": own}).problems == ()


def test_a_given_environments_file_is_the_only_one(read: Read, tmp_path: Path) -> None:
    """The directory may come from a pull request, so its own environments files are not read."""
    more = "version: 1\nenvironments:\n  eu: {url: 'sandbox:'}\n"
    read("dev: {url: 'sandbox:'}", **{"environments/eu.yaml": more})
    (tmp_path / "protected.yaml").write_text(more.replace("eu", "safe"))
    manifests = load(tmp_path / "manifests", environments=tmp_path / "protected.yaml")
    assert [one.name for one in manifests.environments] == ["safe"]
    assert manifests.none_read


@pytest.mark.parametrize("file", ["../customers.yaml", "customers.txt", "linked.yaml"])
def test_a_list_is_in_the_manifests_directory(read: Read, tmp_path: Path, file: str) -> None:
    """Checks of pull requests compare the YAML files there, and a list decides on servers, too."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "customers.txt").write_text("- acme\n")
    (tmp_path / "customers.yaml").write_text("- acme\n")
    (tmp_path / "manifests" / "linked.yaml").symlink_to("../customers.yaml")
    (problem,) = read(fleet(FLEET.replace("[acme, glo-bex]", f"{{file: {file}}}"))).problems[:1]
    assert problem.code == "invalid_value"
    assert "in the manifests directory" in problem.message


@pytest.mark.parametrize("name", ["environments/eu.yaml", "customers.yaml"])
def test_a_change_of_any_environments_file_is_found(read: Read, tmp_path: Path, name: str) -> None:
    """Also one of a list of values, which decides where credentials are sent."""
    body = FLEET.replace("[acme, glo-bex]", "{file: customers.yaml}")
    more = "version: 1\nenvironments:\n  eu: {url: 'sandbox:'}\n"
    read(fleet(body), **{"environments/eu.yaml": more, "customers.yaml": "- acme\n"})
    (tmp_path / "manifests").rename(tmp_path / "base")
    read(fleet(body), **{"environments/eu.yaml": more, "customers.yaml": "- acme\n"})
    head, base = tmp_path / "manifests", tmp_path / "base"
    assert newly_reached(head, base) is None
    changed = head / name
    changed.write_text(changed.read_text() + "# changed\n")
    reason = newly_reached(head, base)
    assert reason is not None
    assert f"`{name}`" in reason


@pytest.mark.large
def test_ten_thousand_environments_load_in_linear_time(read: Read) -> None:
    """A matrix may have so many values, and each check is made once for each environment."""
    body = FLEET.replace("[acme, glo-bex]", "{file: customers.yaml}")
    many = "".join(f"- c{n}\n" for n in range(10_000))
    manifests = read(fleet(body), **{"customers.yaml": many, "keys.yaml": KEYS % "'crm-*'"})
    assert manifests.problems == ()
    assert len(manifests.desired) == 10_000


def test_a_worker_resolves_the_same_credentials(read: Read) -> None:
    """What travels names the variables and stores of one environment, and no value of either."""
    auth = (
        'auth: {email: "${TOKEN_{customer}}", password: {vault: "kv/{customer}"}}, '
        'headers: {X-Customer: "{customer}", X-Brace: "{{x}}"}'
    )
    body = FLEET.replace('auth: {token: "${TOKEN_{customer}}"}', auth)
    manifests = read(fleet(body))
    whole = resolved(manifests)
    environments, _ = resolve(
        manifests.environments, {}, manifests.environments_root, secrets=False
    )
    for declared, bare, expected in zip(manifests.environments, environments, whole, strict=True):
        assert (bare.credential, bare.headers) == (None, ())
        travels = secrets_declared(declared, bare)
        assert not any(value in travels for value in VARIABLES.values())
        assert with_secrets(bare, travels, VARIABLES, manifests.environments_root) == expected
