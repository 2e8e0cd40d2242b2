"""The documentation matches the code: codes, options, links, citations and examples."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml
from builders import limits_with
from jsonschema import Draft202012Validator

from provisioner import schemas
from provisioner.cli import provision, run, signals
from provisioner.errors import explanations
from provisioner.errors.codes import Code
from provisioner.execution import create
from provisioner.manifests import load
from provisioner.manifests.document import MAX_PROBLEMS
from provisioner.plan import Finding
from provisioner.plan.actions import CleanReason, DeliverReason, Reason, RevokeReason
from provisioner.runtime import cancellation, file_descriptors
from provisioner.twenty import core_bulk_create

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    sorted(
        path.relative_to(ROOT).as_posix()
        for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"))
    )
)
COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/provision apply",
    "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
)
NEVER_IN_JSON = {
    *("operations/bulk_create.py", "operations/mint_token.py", "operations/request_body.py"),
    "operations/notify.py",
    *("planfile/read.py", "cli", "manifests", "errors", "model", "render"),
}
"""Modules whose errors are only printed as text on stderr, or are problems of the input."""

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#{1,6}) (.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CITED = re.compile(r"`((?:legacy-0\.60|core-1|core-2\.21)(?:-more)?) ((?:\d{3}|[A-F]\d*)-[\w.-]+)`")
BARE = re.compile(r"`(\d{3})(-[A-Za-z][\w.-]*|-…)?`")


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page):
    """Return a page without its fenced blocks."""
    return FENCE.sub("", text(page))


def blocks(page, language):
    return [found[3] for found in FENCE.finditer(text(page)) if found[2] == language]


def anchors(page):
    """Return the anchors of a page's headings, as code hosts create them."""
    words = [re.sub(r"[^\w\- ]", "", title.lower()) for _, title in HEADING.findall(prose(page))]
    return {word.replace(" ", "-") for word in words}


def section(page, title):
    """Return the text under a heading, up to the next heading of its level."""
    pattern = rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)"
    found = re.search(pattern, text(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section {title!r}"
    return found[2]


def rows(table):
    """Return the cells of the rows of all tables in a text, without table heads."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [
        row
        for row, below in zip(cells, [*lines[1:], ""], strict=True)
        if not set("".join(row)) <= set("-|") and not below.startswith("|---")
    ]


def spans(cell):
    return re.findall(r"`([^`]+)`", cell)


def documented_codes():
    return re.findall(r"^### `(\w+)`$", text("docs/errors.md"), re.MULTILINE)


@cache
def recordings():
    found = {}
    for file in (ROOT / "tests" / "recordings").glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found[file.stem, entry["name"]] = entry["response"]
    return found


@cache
def sources():
    return {
        path.relative_to(ROOT / "provisioner").as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "provisioner").glob("**/*.py"))
    }


@cache
def named():
    """Return every code that a source file names, with the file."""
    return frozenset(
        (str(Code[node.attr]), file)
        for file, source in sources().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Code"
    )


def error_codes(name):
    return schemas.load(name)["$defs"]["errorCode"]["enum"]


def finding_kinds():
    names = (kind.__name__ for kind in get_args(Finding))
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in names}


def cli_commands():
    context = click.Context(provision)
    return {name: provision.get_command(context, name) for name in provision.list_commands(context)}


# Codes


def test_the_page_explains_every_code_in_the_order_of_the_enum():
    """docs/errors.md explains every code once, and no code that does not exist."""
    assert list(map(str, Code)) == documented_codes()


def test_every_code_is_used():
    """Each code is named in the source or in a schema of input files, or is a finding or reason."""
    unions = (Reason, DeliverReason, RevokeReason, CleanReason)
    values = {value for union in unions for value in get_args(union)} | finding_kinds() | {"due"}
    inputs = schemas.text("manifest") + schemas.text("environments")
    values |= set(re.findall(r'"x-(?:code|mistyped|repeated|too-many)": "(\w+)"', inputs))
    assert set(Code) == {code for code, _ in named()} | values


def test_no_paragraph_of_a_code_is_empty():
    """The heading of each code is followed by a sentence."""
    parts = re.split(r"^### `(\w+)`$", text("docs/errors.md"), flags=re.MULTILINE)[1:]
    for code, paragraph in zip(parts[::2], parts[1::2], strict=True):
        assert len(re.sub(r"^#.*", "", paragraph, flags=re.MULTILINE).split()) > 5, code


def test_the_program_explains_every_code():
    """`provision explain` knows each code, and each exit code, and nothing else."""
    exit_codes = {"0", "1", "2", "3", "4", "5", "6", "64", "130", "143"}
    assert set(explanations.load()) == {*Code, *exit_codes}


def test_schemas_publish_exactly_the_errors_that_can_occur():
    """A program that knows the `errorCode` enum meets no other code, and every one can occur."""
    can_occur = {code for code, file in named() if not NEVER_IN_JSON & {file, file.split("/")[0]}}
    can_occur -= {"token_invalid", "token_dead"}  # of `doctor`
    can_occur |= {"plan_invalid"}  # of an edited plan file, after the workspaces are observed
    can_occur |= {"shard_missing"}  # of `merge`
    assert set(error_codes("plan")) == can_occur


def test_plan_and_result_schemas_agree_on_errors_and_findings():
    """A plan and its result use the same definitions."""
    plan, result = (schemas.load(name)["$defs"] for name in ("plan", "result"))
    for part in ("errorCode", "finding", "error", "nullableError", "estimate"):
        assert plan[part] == result[part]


def test_the_schema_of_a_plan_file_extends_that_of_a_plan():
    """A program that reads plans can read the environments of a plan file."""
    plan, file = schemas.load("plan"), schemas.load("planfile")
    assert {**file["$defs"], "nullableError": plan["$defs"]["nullableError"]} == plan["$defs"]
    ours, theirs = (
        one["properties"]["environments"]["items"]["properties"] for one in (file, plan)
    )
    action, published = ours["actions"]["items"], theirs["actions"]["items"]
    # A file of the version before lacks the fields that this one adds.
    assert set(action["required"]) <= set(published["required"])
    action["required"] = published["required"]
    assert {name: ours[name] for name in theirs} == {
        **theirs,
        "error": ours["error"],
        "generation": ours["generation"],
        "summary": ours["summary"],
    }
    # A file of the version before lacks the counts that came since.
    required = ours["summary"]["required"]
    later = ["rename", "clean"]
    assert {**ours["summary"], "required": [*required, *later]} == {
        **theirs["summary"],
        "required": [*(one for one in theirs["summary"]["required"] if one not in later), *later],
    }


def test_schemas_publish_exactly_the_findings_and_reasons_of_the_code():
    """The enums in the schemas equal the unions in the code."""
    plan = schemas.load("plan")
    action = plan["properties"]["environments"]["items"]["properties"]["actions"]["items"]
    assert set(plan["$defs"]["finding"]["properties"]["finding"]["enum"]) == finding_kinds()
    unions = (Reason, DeliverReason, RevokeReason, CleanReason)
    reasons = {one for union in unions for one in get_args(union)} | {"due", "drift"}
    assert set(action["properties"]["reason"]["enum"]) == reasons


def test_the_exit_codes_of_the_readme_and_of_the_errors_page_agree():
    """Both tables list the same codes."""

    def codes(page):
        table = rows(section(page, "Exit codes"))
        return {int(code) for first, *_ in table for code in re.findall(r"\d+", first)}

    assert codes("README.md") == codes("docs/errors.md") == {0, 1, 2, 3, 4, 5, 6, 64, 130, 143}


def test_documented_numbers_of_stopping_and_observing_equal_the_code():
    """The grace period, the signals and the number of observations are as documented."""
    words = " ".join(text("docs/errors.md").split())
    assert f"has {cancellation.GRACE:g} seconds" in words
    assert (signals._SIGNALS_UNTIL_EXIT, "A third signal ends it at once" in words) == (3, True)
    assert (create.MAX_ATTEMPTS, "eight attempts" in words) == (8, True)
    assert f"up to {core_bulk_create._MAX_CREATES} per document" in text("docs/twenty-api.md")


# Schemas


@pytest.mark.parametrize("name", schemas.NAMES)
def test_schemas_are_valid_schemas(name):
    """Each published schema is a valid draft 2020-12 schema, and declares it."""
    schema = schemas.load(name)
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema)


def test_every_schema_file_is_published():
    """`provision schema` prints every schema in schemas/."""
    files = {path.name.removesuffix(".schema.json") for path in (ROOT / "schemas").iterdir()}
    assert files == set(schemas.NAMES)


def input_properties():
    for name in ("environments", "manifest"):
        document = schemas.load(name)
        todo = [("", document)]
        while todo:
            where, schema = todo.pop()
            for key, part in schema.get("properties", {}).items():
                yield pytest.param(document, key, part, id=f"{name}{where}/{key}")
            for word in ("properties", "$defs"):
                todo += [(f"{where}/{key}", part) for key, part in schema.get(word, {}).items()]
            for word in ("items", "additionalProperties"):
                if isinstance(schema.get(word), dict):
                    todo.append((f"{where}/*", schema[word]))


@pytest.mark.parametrize(("document", "key", "part"), tuple(input_properties()))
def test_every_key_of_the_input_files_is_described(document, key, part):
    """Editors show a description of every key of the two files, and docs/manifests.md has it."""
    target = document["$defs"][part["$ref"].rpartition("/")[2]] if "$ref" in part else {}
    assert part.get("description") or target.get("description")
    assert re.search(rf"`{key}\b", text("docs/manifests.md"))


# Commands and options


def test_readme_has_the_two_commands():
    """The README contains the commands that start the tool and its tests."""
    for command in COMMANDS:
        assert command in text("README.md").splitlines()


def test_every_command_is_listed():
    """The README and docs/commands.md list exactly the commands that exist."""
    names = set(cli_commands())
    readme = {
        span.split()[1] for row in rows(section("README.md", "Commands")) for span in spans(row[0])
    }
    page = text("docs/commands.md").partition("## Options")[0]
    assert readme == names
    assert {spans(row[0])[0].split()[0] for row in rows(page)} == names


def test_every_option_is_listed_with_its_variable_and_commands():
    """docs/commands.md lists exactly the options that exist, with variables and commands."""
    documented = set()
    for options, variable, commands, _ in rows(section("docs/commands.md", "Options")):
        names = frozenset(span.split()[0] for span in spans(options))
        documented |= {(names, *spans(variable), command) for command in spans(commands)}
    real = {
        (frozenset(parameter.opts), parameter.envvar, name)
        for name, command in cli_commands().items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
    }
    assert documented == real


def test_choices_and_defaults_of_options_are_listed():
    """The description of an option has its choices and its default."""
    table = {
        spans(row[0])[-1].split()[0]: row[3] for row in rows(section("docs/commands.md", "Options"))
    }
    for name, command in cli_commands().items():
        for parameter in command.params:
            if not isinstance(parameter, click.Option):
                continue
            words = spans(table[parameter.opts[-1]])
            if isinstance(parameter.type, click.Choice):
                assert set(parameter.type.choices) <= set(words), (name, parameter.name)
            if parameter.show_default:
                assert str(parameter.default) in words, (name, parameter.name)


def test_options_of_the_program_itself_are_listed():
    """`--help` and `--version` are documented."""
    for option in ("`-h`", "`--help`", "`provision --version`"):
        assert option in text("docs/commands.md")


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_examples_exist(page):
    """A copied example uses only commands and options that exist."""
    commands = cli_commands()
    examples = [block for language in ("sh", "console", "yaml") for block in blocks(page, language)]
    for block in examples:
        for words in re.findall(r"(?:^|[ /])provision( [^\n|&;]*)", block):
            name, *rest = shlex.split(words, comments=True)
            if name == "COMMAND":
                continue
            assert name in commands
            known = {opt for parameter in commands[name].params for opt in parameter.opts}
            assert {word for word in rest if re.match("--?[a-z]", word)} <= known


# Links and citations


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_resolve(page):
    """Every relative link leads to an existing file, and to an existing heading in it."""
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.resolve().relative_to(ROOT).as_posix()), target


@pytest.mark.parametrize("page", PAGES)
def test_cited_recordings_exist(page):
    """Every recording that a page cites is in tests/recordings/."""
    assert set(CITED.findall(text(page))) <= set(recordings())


def test_the_citations_are_found():
    """The pattern matches the citations on the page that has most of them."""
    assert len(set(CITED.findall(text("docs/twenty-api.md")))) > 80
    assert re.findall(r"`\S+ \d{3}-", CITED.sub("", text("docs/twenty-api.md"))) == []


def test_recordings_match_the_table_of_errors():
    """Each cited exchange has the status and the text in its row."""
    table = rows(section("docs/twenty-api.md", "Errors"))
    assert len(table) > 15
    for case, answer, shown in table:
        cited = CITED.findall(shown)
        assert cited, case
        for recording in cited:
            response = recordings()[recording]
            assert response["status"] == int(answer.split()[0]), (case, recording)
            assert all(span in response["body"] for span in spans(answer)), (case, recording)


def test_recordings_cited_in_the_source_exist():
    """Every recording that a docstring or comment cites exists, by name or number."""
    names = {name for _, name in recordings()}
    numbers = {name[:3] for name in names}
    cited = {
        (number, rest.removesuffix("…"))
        for source in sources().values()
        for number, rest in BARE.findall(source)
    }
    assert cited
    for number, rest in cited:
        assert number in numbers
        assert len(rest) < 2 or f"{number}{rest}" in names


def test_sections_cited_in_the_source_exist():
    """A docstring that refers to a section of a page refers to an existing one."""
    found = {
        reference
        for source in sources().values()
        for reference in re.findall(r'(docs/[\w-]+\.md), "([^"]+)"', source)
    }
    assert len(found) >= 5
    for page, title in found:
        section(page, title)


def test_no_page_contains_a_path_of_the_author_machine():
    """No page contains a home or work directory."""
    for page in PAGES:
        assert re.search(r"/(?:home|Users|work|root|tmp)/", text(page)) is None, page


# Examples


def errors_of(schema, example):
    return list(Draft202012Validator(schemas.load(schema)).iter_errors(example))


@pytest.mark.parametrize("page", PAGES)
def test_json_examples_are_valid(page):
    """Every JSON block parses; a complete output is valid by its schema."""
    names = ("plan", "result", "problems", "notification")
    by_format = {f"provision/{name}/v1": name for name in names}
    for block in blocks(page, "json"):
        example = json.loads(block)
        if isinstance(example, dict) and "format" in example:
            assert not errors_of(by_format[example["format"]], example)
        elif isinstance(example, list) and "environment" in example[0]:
            assert not errors_of("keys", example)
        elif "logger" in example:
            assert not errors_of("log", example)


def test_json_examples_are_found():
    """docs/commands.md shows a result, problems and a log line."""
    formats = {json.loads(block).get("format") for block in blocks("docs/commands.md", "json")}
    assert formats == {"provision/result/v1", "provision/problems/v1", None}


@pytest.mark.parametrize("page", PAGES)
def test_yaml_examples_are_yaml(page):
    """Every YAML block parses, including pipelines."""
    for block in blocks(page, "yaml"):
        assert yaml.safe_load(block) is not None


def test_manifests_of_the_readme_are_valid(tmp_path):
    """`validate` accepts a directory with the two example files."""
    for block in blocks("README.md", "yaml"):
        kind = re.search(r"schemas/(\w+)\.schema\.json", block)
        if kind:
            name = "environments.yaml" if kind[1] == "environments" else "keys.yaml"
            (tmp_path / name).write_text(block, encoding="utf-8")
    manifests = load(tmp_path)
    assert manifests.problems == ()
    assert {name: len(keys) for name, keys in manifests.desired.items()} == {
        "staging": 5,
        "production": 5,
    }


def test_the_pipeline_of_the_readme_sets_every_variable():
    """Its jobs get the variables of the example environments.yaml, and those of its sink."""
    environments, _, workflow, _ = blocks("README.md", "yaml")
    needed = {*re.findall(r"\$\{(\w+)\}", environments), "VAULT_ADDR", "VAULT_TOKEN"}
    variables = {
        name: set(step["env"])
        for name, job in yaml.safe_load(workflow)["jobs"].items()
        for step in job["steps"]
        if "env" in step
    }
    assert variables == {"plan": needed | {"PROVISION_ALLOW_HOST"}, "apply": needed}


def test_the_table_of_folders_equals_the_import_contract():
    """The page lists every folder, with the layer that lint-imports checks."""
    contracts = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    [layers] = [one["layers"] for one in contracts if one["id"] == "layers"]
    checked = {
        name.strip(): number for number, layer in enumerate(layers, 1) for name in layer.split("|")
    }
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", text("docs/architecture.md"), re.MULTILINE)
    assert {name: int(number) for number, name in rows} == checked
    assert [int(number) for number, _ in rows] == sorted(checked.values())


def test_every_file_on_the_architecture_page_exists():
    """A reader who follows the page opens an existing file."""
    named = re.findall(r"`([\w/*]+(?:\.py|/))`", text("docs/architecture.md"))
    assert len(named) > 20
    missing = [name for name in named if not [*(ROOT / "provisioner").glob(name), *ROOT.glob(name)]]
    assert missing == []


def test_documented_limits_equal_the_code():
    """The limit on problems of a file is as documented."""
    limit = f"{MAX_PROBLEMS:,}".replace(",", " ")
    assert f"A file has more than {limit} problems" in text("docs/errors.md")


def test_documented_numbers_of_open_files_equal_the_code():
    """The page on platforms has the number of file descriptors of the widest run."""
    page = " ".join(text("docs/platforms.md").split())
    assert f"{file_descriptors._LIMIT:,}".replace(",", " ") in page
    assert f"{file_descriptors._RESERVED} are kept for general use" in page
    others = run._MIN_SINK_DESCRIPTORS + run._SINK_DESCRIPTORS
    assert f"`limits.parallel` + {others} of them" in page
    assert f"or `limits.parallel` + {run._MIN_SINK_DESCRIPTORS} if no key of the run" in page
    assert f"takes {run._OBSERVE_DESCRIPTORS} ({run._EMBEDDED_DESCRIPTORS + 1} if" in page
    needed = (limits_with().parallel + others) * run._MAX_ENVIRONMENTS + file_descriptors._RESERVED
    [documented] = re.findall(r"a limit of about (\d+) is enough", page)
    assert needed < int(documented) < needed + 32
    assert f"all {run._MAX_ENVIRONMENTS} environments" in page


def test_the_help_of_schema_names_every_schema():
    """The help lists every schema that can be printed."""
    command = provision.get_command(click.Context(provision), "schema")
    shown = command.get_help(click.Context(command))
    assert [name for name in schemas.NAMES if not re.search(rf"\b{name}\b", shown)] == []
