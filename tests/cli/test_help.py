"""The help pages: variables, examples, and the command's own options first."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from provisioner import __version__
from provisioner.cli import main, provision
from provisioner.cli.command_help import CommonOption, DocumentedCommand
from provisioner.cli.group import COMMANDS

pytestmark = pytest.mark.fast

ROOT = click.Context(provision, info_name="provision")


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def command_of(name: str) -> DocumentedCommand:
    command = provision.get_command(ROOT, name)
    assert isinstance(command, DocumentedCommand)
    return command


def page(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words, "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def headings(text: str) -> list[str]:
    return re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_page_has_its_sections_in_order_and_fits_80_columns(name, capsys) -> None:
    """The command's own options come before the common ones, then variables and examples."""
    text = page(capsys, name)
    options = [one for one in command_of(name).params if isinstance(one, click.Option)]
    common = [one for one in options if isinstance(one, CommonOption)]
    expected = ["Options"]
    expected += ["Common options"] if 0 < len(common) < len(options) else []
    expected += ["Environment variables"] if options else []
    assert headings(text) == [*expected, "Examples"]
    assert max(map(len, text.splitlines())) <= 80
    first, _, second = text.partition("\nCommon options:\n")
    for one in options:
        part = second if one in common and second else first
        assert re.search(rf"^  (-\w, )?{one.opts[-1]}\b", part, re.MULTILINE), one.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_page_names_every_variable(name, capsys) -> None:
    """Every option has a variable, and the page of its command names it."""
    section = page(capsys, name).partition("Environment variables:")[2].partition("Examples:")[0]
    variables = {one.envvar for one in command_of(name).params if isinstance(one, click.Option)}
    assert set(re.findall(r"PROVISION_\w+", section)) == variables


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_invocations_that_the_command_accepts(name, capsys, monkeypatch) -> None:
    """There are two, each explained, and each with options and arguments that exist."""
    monkeypatch.chdir("/")
    text = page(capsys, name).partition("Examples:\n")[2]
    shown = re.findall(r"^  # ([A-Z].*:)\n  \$ (.+)$", text, re.MULTILINE)
    assert len(shown) == len(text.strip().splitlines()) // 2 == 2
    for _, line in shown:
        [words] = re.findall(rf"provision {name}\b([^|<>)]*)", line)
        with command_of(name).make_context(name, shlex.split(words), parent=ROOT):
            pass


def test_the_page_of_the_program_lists_its_commands_and_shows_examples(capsys) -> None:
    """Commands come first; every line fits; the examples are commands that exist."""
    text = page(capsys)
    assert headings(text) == ["Commands", "Options", "Examples"]
    assert max(map(len, text.splitlines())) <= 80
    listed = re.findall(r"^  ([a-z]+)  +(.+)$", text, re.MULTILINE)
    assert [name for name, _ in listed] == list(COMMANDS)
    assert all(re.fullmatch(r"[A-Z].*\.", summary) for _, summary in listed)
    for option in provision.get_params(ROOT):
        assert all(words in text for words in option.get_help_record(ROOT))
    examples = re.findall(r"^  \$ provision (\w+)$", text, re.MULTILINE)
    assert len(examples) == 2
    assert set(examples) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_is_the_first_line_of_its_page(name, capsys) -> None:
    """The list of commands and the page of one say the same."""
    summary = COMMANDS[name][1]
    paragraph = page(capsys, name).split("\n\n")[1]
    assert " ".join(paragraph.split()) == summary


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version_has_two_options(option, run) -> None:
    """`-V` is short for `--version`."""
    assert run(option) == (0, f"provision {__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_the_option_print_the_same(name, capsys) -> None:
    """`provision help COMMAND` is `provision COMMAND --help`, also for `help` itself."""
    text = page(capsys, name)
    assert main(["help", name]) == 0
    assert capsys.readouterr() == (text, "")


def test_help_without_a_command_is_the_page_of_the_program(capsys) -> None:
    """`provision help` is `provision --help`."""
    text = page(capsys)
    assert main(["help"]) == 0
    assert capsys.readouterr() == (text, "")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("aply", "Did you mean 'apply'?"),
        ("destroy", "use `provision revoke`"),
        ("zzz", "No such command 'zzz'.\n"),
    ],
)
def test_help_for_an_unknown_command_suggests_one(name, suggestion, run) -> None:
    """The same answer as to `provision NAME`, with the same exit code."""
    code, out, err = run("help", name)
    assert (code, out, suggestion in err) == (64, "", True)
    assert run(name) == (code, out, err)


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_the_text_of_a_page_is_indented_by_two(capsys, name: str | None) -> None:
    """Every paragraph and every example begins in the same column."""
    text = page(capsys, *([name] if name else []))
    summary = text.partition("\n\n")[2].partition(":\n")[0]
    examples = text.partition("Examples:\n")[2]
    lines = [line for line in (summary + "\n" + examples).splitlines() if line.startswith(" ")]
    assert {len(line) - len(line.lstrip()) for line in lines} == {2}
