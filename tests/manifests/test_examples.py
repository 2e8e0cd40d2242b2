"""Each example file gives exactly the problems or the keys that are written with it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from builders import NOW

from provisioner.errors.codes import PROBLEM_CODES
from provisioner.errors.problem import Problem
from provisioner.manifests import load, resolve
from provisioner.schemas import load as load_schema

pytestmark = pytest.mark.fast

DOCS = Path(__file__).parents[2] / "docs" / "manifests.md"
EXAMPLES = Path(__file__).parents[1] / "examples"
INVALID = EXAMPLES / "invalid"
SECRET = "hunter2secret"
SECRET_NUMBER = "20190503"
_HEADER = re.compile(r"# (expect|variable|keys): (.*)")


def cases(folder: Path) -> list[Path]:
    """Return the example files of a directory, which must not be empty."""
    found = sorted(path for path in folder.iterdir() if path.suffix in {".yaml", ".json"})
    assert found, f"no examples in {folder}"
    return found


def by_name(path: Path) -> str:
    return path.stem


def header(path: Path, word: str) -> list[str]:
    """Return the values of a word in the comments of an example, or in the file next to it."""
    beside = path.with_name(f"{path.name}.expected")
    if word == "expect" and beside.exists():
        return beside.read_text().splitlines()
    found = map(_HEADER.fullmatch, path.read_bytes().decode(errors="replace").split("\n"))
    return [match[2] for match in found if match is not None and match[1] == word]


def reported(problems: tuple[Problem, ...], file: str) -> list[str]:
    """Return each code with its line and column, and with its file if that is another one."""
    return [
        f"{problem.code} {f'{name}:' if name != file else ''}{place.line}:{place.column}"
        for problem in problems
        for place in [problem.place]
        for name in [Path(place.file).name]
    ]


def assert_presentable(problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        assert problem.code in PROBLEM_CODES
        assert SECRET not in str(problem)
        assert SECRET_NUMBER not in str(problem)
        assert problem.message.isprintable()
        assert len(problem.message) < 400


@pytest.mark.parametrize("path", cases(INVALID / "manifests"), ids=by_name)
def test_an_invalid_manifest_gives_exactly_its_problems(path: Path, tmp_path: Path) -> None:
    """Every problem has the expected code, line and column, and there are no others."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    shutil.copy(EXAMPLES / "environments.yaml", directory)
    shutil.copy(path, directory / "case.yaml")
    manifests = load(directory, now=NOW)
    assert reported(manifests.problems, "case.yaml") == header(path, "expect")
    assert_presentable(manifests.problems)
    assert manifests.desired == {}


@pytest.mark.parametrize("path", cases(INVALID / "environments"), ids=by_name)
def test_invalid_environments_give_exactly_their_problems(path: Path, tmp_path: Path) -> None:
    """Problems are found offline if possible, otherwise in a run; no message shows a secret."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    shutil.copy(path, directory / "environments.yaml")
    manifests = load(directory)
    problems = manifests.problems
    assert bool(problems) is not path.stem.startswith("run_")
    if not problems:
        variables = dict(line.split("=", 1) for line in header(path, "variable"))
        assert len(manifests.environments) == 1
        _, found = resolve(manifests.environments, variables, manifests.root)
        problems = tuple(sorted(found, key=lambda problem: problem.place))
    assert reported(problems, "environments.yaml") == header(path, "expect")
    assert_presentable(problems)
    assert SECRET not in repr(manifests)


def test_there_are_enough_invalid_examples() -> None:
    """There are at least sixty manifests, and an example of every code about file contents."""
    manifests, environments = cases(INVALID / "manifests"), cases(INVALID / "environments")
    assert len(manifests) >= 60
    shown = {
        line.split()[0] for path in [*manifests, *environments] for line in header(path, "expect")
    }
    of_other_commands = {"file_unread", "body_invalid", "record_invalid"}
    of_files_and_folders = {
        "manifests_missing",
        "environments_missing",
        "environments_misnamed",
        "file_unreadable",
        "file_too_large",
        "too_many_problems",
    }
    assert shown == set(PROBLEM_CODES) - {"name_alike"} - of_other_commands - of_files_and_folders


@pytest.mark.parametrize("path", cases(EXAMPLES / "valid"), ids=by_name)
def test_a_valid_manifest_gives_exactly_its_keys(path: Path, tmp_path: Path) -> None:
    """Defaults, matrices and placeholders give the keys in the file next to the example."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    shutil.copy(EXAMPLES / "environments.yaml", directory)
    shutil.copy(path, directory / "case.yaml")
    manifests = load(directory, now=NOW)
    assert manifests.problems == ()
    assert [
        f"{key.environment} {key.name} depth={key.depth} expires={key.expiry.written}"
        f" role={key.role} {key.place.line}:{key.place.column}"
        f"{f' rotate={key.rotation.written}' if key.rotation else ''}"
        f"{' protect' if key.protect else ''}"
        f"{' was ' if key.moved_from else ''}{', '.join(key.moved_from)}"
        f"{''.join(f' -> {address}' for address in key.deliver)}"
        for keys in manifests.desired.values()
        for key in keys
    ] == path.with_name(f"{path.name}.keys").read_text().splitlines()


def test_the_documentation_shows_real_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files in docs/manifests.md give exactly the output below them."""
    shown = dict(
        re.findall(
            r"^<!-- (\S+) -->\n```\w+\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL
        )
    )
    (tmp_path / "manifests").mkdir()
    for name in ("manifests/environments.yaml", "manifests/services.yaml"):
        (tmp_path / name).write_text(shown[name])
    monkeypatch.chdir(tmp_path)
    assert [*map(str, load(Path("manifests")).problems)] == shown["problems"].splitlines()


def test_the_examples_of_the_documentation_are_valid(tmp_path: Path) -> None:
    """A reader can copy them."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    environments, manifest = re.findall(
        r"^```yaml\n(# yaml-language-server.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL
    )
    (directory / "environments.yaml").write_text(environments)
    (directory / "services.yaml").write_text(manifest)
    manifests = load(directory, now=NOW)
    assert manifests.problems == ()
    assert {name: len(keys) for name, keys in manifests.desired.items()} == {
        "development": 0,
        "staging": 5,
        "production": 5,
    }


@pytest.mark.parametrize("name", ["manifest", "environments"])
def test_every_property_explains_itself_in_an_editor(name: str) -> None:
    """Every key of both files has a title and a description."""
    schema = load_schema(name)
    seen = 0

    def walk(node: dict) -> None:
        nonlocal seen
        for key, part in node.get("properties", {}).items():
            whole = part
            if "$ref" in part:
                whole = schema["$defs"][part["$ref"].removeprefix("#/$defs/")] | part
            assert whole.get("title"), key
            assert whole.get("description", "").endswith("."), key
            seen += 1
        if "properties" in node:
            assert node["additionalProperties"] is False
        for value in node.values():
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, dict):
                    walk(part)

    walk(schema)
    assert seen > 10
    json.dumps(schema)
