"""Tokens in dotenv and JSON files: complete, private, and never in git."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from compliance import FIRST, SECOND, Backend, Compliance
from files import NOBODY, DiskBackend, as_user, locked
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_content import NoToken
from provisioner.secret import Secret
from provisioner.sinks import file_text, file_write
from provisioner.sinks.file import FileAddress, Files
from provisioner.sinks.file_text import (
    FileText,
    entries_of,
    quote_value,
    values_of,
    with_values,
    without_value,
)
from provisioner.sinks.file_write import Folders, LockWait
from provisioner.sinks.sink import RemovingSink, StoredValue, UnusableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.sinks.file_text import FileFormat
    from provisioner.sinks.sink import Sink, SinkGroup


class FileBackend(DiskBackend):
    def __init__(self, root: Path, file_format: str) -> None:
        super().__init__(root, root / "secrets" / f"shop.{file_format}")
        self.file_format = file_format

    def sink(self, place: int = 0) -> Sink:
        address = FileAddress(f"secrets/shop.{self.file_format}", f"KEY_{place}", self.file_format)
        return Files(self.root, folders=self.folders).sink(address)

    def stored(self, place: int = 0) -> str | None:
        with as_user(os.getuid()):
            if not self.path.exists():
                return None
            assert stat.S_IMODE(self.path.stat().st_mode) == 0o600
            if self.file_format == "json":
                return json.loads(self.path.read_text()).get(f"KEY_{place}")
            shell = f'. "$1"; printf %s "$KEY_{place}"'
            result = subprocess.run(
                ["sh", "-c", shell, "sh", self.path], stdout=subprocess.PIPE, check=True
            )
        return result.stdout.decode() or None

    def strange_names(self) -> tuple[Sink, ...]:
        paths = ("a b/ö.env", "'quoted' \"twice\".env", "-n.env", "line\nend.env", "*.env", "🗝.env")
        names = ("KEY", "lower.dots-dashes_9", "9")
        if self.file_format == "json":
            names += ("a b", "ключ", 'quote"', "", "back\\slash", "🗝")
        files = Files(self.root)
        addresses = [FileAddress(path, names[0], self.file_format) for path in paths]
        addresses += [FileAddress("names", name, self.file_format) for name in names]
        return tuple(files.sink(address) for address in addresses)


class TestDotenvFile(Compliance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return FileBackend(tmp_path, "dotenv")


class TestJsonFile(Compliance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return FileBackend(tmp_path, "json")


def sink_of(path: Path, variable: str = "KEY", file_format: str = "dotenv") -> Sink:
    return Files(path.parent).sink(FileAddress(path.name, variable, file_format))


def value_of(sink: Sink) -> str | None:
    content = sink.read()
    return content.value.reveal() if isinstance(content, StoredValue) else None


def error_of_check_and_write(sink: Sink, code: str) -> SinkError:
    """Return the error of the write, after the check failed with the same code."""
    with pytest.raises(SinkError) as checked:
        sink.check()
    with pytest.raises(SinkError) as written:
        sink.write(Secret(FIRST))
    assert checked.value.code == written.value.code == code
    assert written.value.remedy
    return written.value


# Removals


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("A=1\nKEY=t\nB=2\n", "A=1\nB=2\n"),
        ("# about KEY\nexport KEY='t'  # old\n\nB=2", "# about KEY\n\nB=2"),
        ("A=1\nKEY=t", "A=1\n"),
        ("KEY=t\r\nA=1\r\n", "A=1\r\n"),
        ("KEY=t\n", ""),
        ("KEY=theirs\nA=1\nKEY=t\n", "KEY=theirs\nA=1\n"),
        ("KEY=t\nA=1\nKEY=t\n", "A=1\n"),
        ("KEY=t\nKEY=theirs\n", None),
        ("KEY_2=t\nMY_KEY=t\n#KEY=t\n", None),
        ("KEY=\nA=t\n", None),
    ],
)
def test_only_the_line_of_the_variable_is_removed(before: str, after: str | None) -> None:
    """Comments, other variables and other values stay byte for byte."""
    found = without_value(FileText.of(before, "dotenv"), "KEY", "t")
    assert (found and found.text) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"KEY": "t", "A": 1}', '{ "A": 1}'),
        ('{"A": [1,2], "KEY" : "t" , "B": {}}', '{"A": [1,2] , "B": {}}'),
        ('{\n  "A": "x,}",\n  "KEY": "t"\n}\n', '{\n  "A": "x,}"\n}\n'),
        ('{\n  "KEY": "t"\n}\n', "{}\n"),
        ('{"KEY": "theirs", "A": "t"}', None),
        ('{"KEY": null}', None),
    ],
)
def test_only_the_member_is_removed(before: str, after: str | None) -> None:
    """The other members stay byte for byte, and the text stays a JSON object."""
    found = without_value(FileText.of(before, "json"), "KEY", "t")
    assert (found and found.text) == after


@pytest.mark.parametrize(
    ("before", "file_format"),
    [
        ('{"KEY": "t", "KEY": "t"}', "json"),
        ('{"KEY": {"a": "t"}}', "json"),
        ("KEY=t\nthis is no dotenv file\n", "dotenv"),
    ],
)
def test_a_text_that_would_be_damaged_is_left(before: str, file_format: FileFormat) -> None:
    """An ambiguous text, or one whose rest could not be read, keeps its token."""
    with pytest.raises(UnusableError):
        without_value(FileText.of(before, file_format), "KEY", "t")


def test_nothing_is_created_to_remove_a_token(tmp_path: Path) -> None:
    """Neither the file nor its folder appears."""
    sink = Files(tmp_path).sink(FileAddress("secrets/a.env", "KEY"))
    assert isinstance(sink, RemovingSink)
    assert sink.remove(Secret(FIRST))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_an_old_address_of_a_declared_file_is_refused(tmp_path: Path, link: str) -> None:
    """A path that no manifest declares any more may still lead to one that is declared."""
    new = FileAddress("new.env", "KEY")
    files = Files(tmp_path, (new,))
    files.sink(new).write(Secret(FIRST))
    old = tmp_path / "old.env"
    old.symlink_to("new.env") if link == "symbolic" else old.hardlink_to(tmp_path / "new.env")
    with pytest.raises(SinkError, match=r"leads to the same place as file new\.env KEY"):
        files.sink(FileAddress("old.env", "KEY"))
    assert value_of(files.sink(new)) == FIRST


# Texts of dotenv files


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"KEY=new\n"),
        (b"A=1\n", b"A=1\nKEY=new\n"),
        (b"A=1", b"A=1\nKEY=new\n"),
        (b"A=1\r\nB=2", b"A=1\r\nB=2\r\nKEY=new\r\n"),
        (b"# KEY=old\nMY_KEY=old\nKEY2=old\n", b"# KEY=old\nMY_KEY=old\nKEY2=old\nKEY=new\n"),
        (b"A=1\nKEY=old\nB=2", b"A=1\nKEY=new\nB=2"),
        (b"A=1\r\nKEY=old\r\nB=2\r\n", b"A=1\r\nKEY=new\r\nB=2\r\n"),
        (b"KEY=old", b"KEY=new"),
        (b"KEY=", b"KEY=new"),
        (b"KEY=\r\n", b"KEY=new\r\n"),
        (b"  export\tKEY = 'o l d' # why\n", b"  export\tKEY = new # why\n"),
        (b"KEY= # why\n", b"KEY=new # why\n"),
        (b"KEY=#old\n", b"KEY=new\n"),
        (b"KEY=old#er  \n", b"KEY=new\n"),
        (b'KEY="old"#er\n', b"KEY=new\n"),
        (b'KEY="o\nl\\"\nd" # why\nB=2\n', b"KEY=new # why\nB=2\n"),
        (b"KEY=1\nKEY=2\nB=3\n", b"KEY=1\nKEY=new\nB=3\n"),
        (b'A="\nKEY=inner\n"\nKEY=old\n', b'A="\nKEY=inner\n"\nKEY=new\n'),
        (b"A='\nKEY=inner\n'\n", b"A='\nKEY=inner\n'\nKEY=new\n"),
        (b"A=`\nKEY=inner\n`\n", b"A=`\nKEY=inner\n`\nKEY=new\n"),
        (b'A="never closed\nKEY=old\n', b'A="never closed\nKEY=new\n'),
        (b"A=\xff\xfe\n\xc3KEY=1\nKEY=\xff", b"A=\xff\xfe\n\xc3KEY=1\nKEY=new"),
        (b"\xef\xbb\xbfKEY=old\n", b"\xef\xbb\xbfKEY=old\nKEY=new\n"),
    ],
)
def test_one_assignment_of_a_dotenv_file_changes(tmp_path: Path, before: bytes, after: bytes):
    """The effective line gets the token, and all other bytes stay."""
    path = tmp_path / ".env"
    path.write_bytes(before)
    sink_of(path).write(Secret("new"))
    assert path.read_bytes() == after
    assert value_of(sink_of(path)) == "new"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("KEY=bare", "bare"),
        ("KEY=two words # and why", "two words"),
        ("KEY=fra#ment", "fra#ment"),
        ("KEY='a \"b\" \\n $c'", 'a "b" \\n $c'),
        ('KEY="a \\"b\\"\\n\\$c \\q"', 'a "b"\n$c \\q'),
        ("KEY=`a'b`", "a'b"),
        ("KEY='two\nlines'", "two\nlines"),
        ("KEY=first\nKEY=last\n", "last"),
        ("export KEY=old\r\n", "old"),
        ("KEY=", None),
        ("KEY=''", None),
        ("KEY", None),
        ("", None),
    ],
)
def test_a_dotenv_value_is_read_like_by_other_readers(tmp_path: Path, text: str, value: str | None):
    """It may be bare or quoted, with or without a comment; an empty value means no value."""
    path = tmp_path / ".env"
    path.write_bytes(text.encode())
    assert value_of(sink_of(path)) == value


def test_an_open_quote_swallows_nothing(tmp_path: Path) -> None:
    """A value that would close the quote of another line is refused, and the file stays."""
    path = tmp_path / ".env"
    path.write_text("A='\nKEY=old\n")
    with pytest.raises(SinkError) as error:
        sink_of(path).write(Secret("' #"))
    assert error.value.code == "sink_unsuitable"
    assert path.read_text() == "A='\nKEY=old\n"


VALUES = st.text(min_size=1).filter(lambda text: not re.search("[\0\ud800-\udfff]", text))
NAMES = st.sampled_from(["A", "B", "KEY", "KEY_2"])
LINES = st.one_of(
    st.binary(max_size=12),
    st.builds(
        lambda name, value: f"{name}={quote_value(value)}".encode(), NAMES, st.text("a'\"\\ #\n")
    ),
    st.sampled_from([b"", b"# KEY=x", b"export KEY=1", b"KEY='", b'A="', b" KEY = `"]),
)


def with_value(text: str, variable: str, value: Secret, file_format: FileFormat) -> str:
    return with_values(FileText.of(text, file_format), {variable: value}).text


@given(
    lines=st.lists(LINES, max_size=8),
    end=st.sampled_from([b"\n", b"\r\n"]),
    final=st.booleans(),
    value=VALUES,
)
def test_any_dotenv_text_keeps_its_other_bytes(lines, end, final, value) -> None:
    """In any file only one part changes and other variables keep their values, or it is refused."""
    text = (end.join(lines) + (end if final else b"")).decode("utf-8", "surrogateescape")
    try:
        before = entries_of(text, "dotenv")
    except UnusableError:
        is_other_format = re.search(r"(?m)^[\ufeff \t]*[{\[<-]", text)
        assigns = re.search(r"(?m)^[ \t]*(?:export[ \t]+)?[^\s=#'\"`]+[ \t]*=", text)
        assert "\0" in text or not assigns or is_other_format, "a dotenv file was refused"
        return
    try:
        new = with_value(text, "KEY", Secret(value), "dotenv")
    except UnusableError:
        assert re.search("['\"`]", text), "only an open quote may cause a refusal"
        return
    after = values_of(entries_of(new, "dotenv"))
    assert after.pop("KEY") == [*(one.value for one in before.get("KEY", ())[:-1]), value]
    assert after == {name: found for name, found in values_of(before).items() if name != "KEY"}
    if "KEY" in before:
        old = before["KEY"][-1]
        assert new.startswith(text[: old.start])
        assert new.endswith(text[old.end :])
        changed = new[old.start : len(new) - len(text) + old.end]
        assert changed == quote_value(value)
    else:
        assert new.startswith(text)
        assert new[len(text) :].strip("\r\n") == f"KEY={quote_value(value)}"


@given(value=VALUES)
def test_any_value_is_read_back_from_a_dotenv_file(value: str) -> None:
    """Quotes are written so that the same value is read, on a single line."""
    text = with_value("A=1\nKEY=old\nB=2\n", "KEY", Secret(value), "dotenv")
    assert text.count("\n") == 3
    found = values_of(entries_of(text, "dotenv"))
    assert found == {"A": ["1"], "KEY": [value], "B": ["2"]}


FOREIGN = {
    "json": '{"db": "postgres://x?a=b"}\n',
    "list": '[\n"a=b"\n]\n',
    "pem": "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrY=\n-----END EC PRIVATE KEY-----\n",
    "token": "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiIxIn0.c2lnbmF0dXJl\n",
    "yaml": "version: 1\nkeys:\n  - name: a\n",
    "database": "SQLite format 3\0=1\n",
    "html": "<a href=b>\n",
}


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_another_format_is_refused(tmp_path: Path, text: str) -> None:
    """Nothing is appended to a JSON file, a key or a manifest."""
    path = tmp_path / "other"
    path.write_text(text)
    for step in ("check", "read", "write"):
        sink = sink_of(path)
        with pytest.raises(SinkError) as error:
            {"check": sink.check, "read": sink.read, "write": partial(sink.write, Secret("x"))}[
                step
            ]()
        assert error.value.code == "sink_unsuitable"
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["", "\n", "# only this\n", "export\nNAME\n", "A=1\nB\n"])
def test_a_dotenv_file_without_values_is_accepted(tmp_path: Path, text: str) -> None:
    """A file with only comments and bare names is a dotenv file."""
    path = tmp_path / "a.env"
    path.write_text(text)
    sink_of(path).write(Secret("x"))
    assert path.read_text().startswith(text)


@pytest.mark.parametrize("spelled", ["nope/../a.env", "//{root}/a.env", "./a.env"])
def test_one_file_has_one_address_however_it_is_spelled(tmp_path: Path, spelled: str) -> None:
    """The path may lead through a missing folder, or have two slashes."""
    address = FileAddress(spelled.format(root=tmp_path), "KEY")
    straight = FileAddress("a.env", "KEY")
    files = Files(tmp_path)
    files.sink(address).write(Secret("x"))
    assert value_of(files.sink(address)) == value_of(files.sink(straight)) == "x"
    assert FileAddress("//x/y", "A").place == FileAddress("/x/y", "A").place


# Texts of JSON files


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "KEY": "new"\n}\n'),
        (" \n", '{\n  "KEY": "new"\n}\n'),
        ("{}", '{\n  "KEY": "new"\n}'),
        ('{"a":1}', '{"a":1,"KEY":"new"}'),
        ('{\n\t"a" : 1\n}\n', '{\n\t"a" : 1,\n\t"KEY" : "new"\n}\n'),
        ('{"KEY":"old","b":[]}', '{"KEY":"new","b":[]}'),
        ('{"KEY": null}', '{"KEY": "new"}'),
        ('{"K\\u0045Y": 1}', '{"K\\u0045Y": "new"}'),
        ('{"a": {"KEY": 1}, "b": "}"}', '{"a": {"KEY": 1}, "b": "}", "KEY": "new"}'),
        ('{"n": 1.10, "m": 1e400,\r\n "i": ', None),
    ],
)
def test_one_member_of_a_json_file_changes(tmp_path: Path, before: str, after: str | None) -> None:
    """The member gets the token in the file's own layout, and numbers stay exact."""
    if after is None:
        before += "9" * 6000 + "}"
        after = before[:-1] + ',\r\n "KEY": "new"}'
    path = tmp_path / "keys.json"
    path.write_bytes(before.encode())
    sink_of(path, file_format="json").write(Secret("new"))
    assert path.read_bytes() == after.encode()
    assert value_of(sink_of(path, file_format="json")) == "new"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '"KEY"',
        "{",
        '{"KEY": "a"} {}',
        '{"KEY": "a",}',
        '{"KEY": "secret", "KEY": "b"}',
        '{"KEY": {}}',
        '{"KEY": [1]}',
        '{"a": ' + "[" * 100_000 + "}",
        "KEY=secret",
    ],
)
def test_an_unsuitable_json_file_is_refused(tmp_path: Path, text: str) -> None:
    """A text that is not an object, or has the member twice or as a container, stays unchanged."""
    path = tmp_path / "keys.json"
    path.write_text(text)
    error = error_of_check_and_write(sink_of(path, file_format="json"), "sink_unsuitable")
    assert "secret" not in repr(error.args) + error.message
    assert path.read_text() == text
    with pytest.raises(SinkError):
        sink_of(path, file_format="json").read()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    members=st.dictionaries(st.text() | st.just("KEY"), JSON, max_size=6),
    indent=st.sampled_from([None, 0, 2, "\t"]),
    ascii_=st.booleans(),
    value=st.text(min_size=1),
)
def test_any_json_object_keeps_its_other_members(members, indent, ascii_, value) -> None:
    """Their values, their order and every character of their text stay the same."""
    text = json.dumps(members, indent=indent, ensure_ascii=ascii_)
    if isinstance(members.get("KEY"), list | dict):
        with pytest.raises(UnusableError):
            with_value(text, "KEY", Secret(value), "json")
        return
    new = with_value(text, "KEY", Secret(value), "json")
    assert list(json.loads(new).items()) == list((members | {"KEY": value}).items())
    before, after = entries_of(text, "json"), entries_of(new, "json")
    for name in members.keys() - {"KEY"}:
        old, new_entry = before[name][0], after[name][0]
        assert text[old.start : old.end] == new[new_entry.start : new_entry.end]
    if members:
        place = before["KEY"][0] if "KEY" in members else None
        start = place.start if place else before[list(members)[-1]][0].end
        assert new.startswith(text[:start])
        assert new.endswith(text[place.end if place else start :])


# Files


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o400, 0o755])
def test_an_existing_file_becomes_private(tmp_path: Path, mode: int) -> None:
    """Other users cannot read the file after a token is written to it."""
    path = tmp_path / ".env"
    path.touch()
    path.chmod(mode)
    sink_of(path).write(Secret(FIRST))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_read_only_folder_is_found_by_the_check() -> None:
    """The error comes before a token is minted that could not be delivered."""
    # Another user could not even open the folders of `tmp_path`.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        sink = Files(Path(name)).sink(FileAddress("new/keys.env", "KEY"))
        with as_user(os.getuid() or NOBODY), pytest.raises(SinkError) as error:
            sink.check()
    assert error.value.code == "sink_denied"


def test_missing_folders_are_created_private(tmp_path: Path) -> None:
    """The check creates none, and the write creates each of them with mode 0700."""
    sink = Files(tmp_path).sink(FileAddress("a/b/c.env", "KEY"))
    sink.check()
    assert list(tmp_path.iterdir()) == []
    sink.write(Secret(FIRST))
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")] == [0o700] * 2
    assert [one.name for one in (tmp_path / "a/b").iterdir()] == ["c.env"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, exists: bool) -> None:
    """A symbolic link is followed to its file, even if the file does not exist yet."""
    link, target = tmp_path / "link.env", tmp_path / "far" / "real.env"
    target.parent.mkdir()
    if exists:
        target.write_text("A=1\n")
    link.symlink_to("far/real.env")
    sink_of(link).check()
    sink_of(link).write(Secret(FIRST))
    assert link.is_symlink()
    assert target.read_text() == ("A=1\n" if exists else "") + f"KEY={FIRST}\n"
    assert not target.is_symlink()


LINKED = (
    FileAddress("real/a.env", "KEY"),
    FileAddress("folder/a.env", "KEY"),
    FileAddress("b.env", "KEY"),
    FileAddress("real/a.env", "OTHER"),
    FileAddress("c.env", "OTHER"),
    FileAddress("no\0folder/path", "KEY"),
    FileAddress("no\ud800path", "KEY"),
    FileAddress("real/new.env", "KEY"),
    FileAddress("folder/new.env", "KEY"),
)


def test_two_addresses_of_one_place_are_both_refused(tmp_path: Path) -> None:
    """Each error names another address; different files or variables are accepted."""
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "b.env").symlink_to("folder/a.env")
    files = Files(tmp_path, LINKED)
    others = {0: "folder/a.env", 1: "real/a.env", 2: "real/a.env", 7: "folder/", 8: "real/new.env"}
    for number, other in others.items():
        with pytest.raises(SinkError) as error:
            files.sink(LINKED[number])
        assert error.value.code == "sink_unsuitable"
        assert other in error.value.message
        assert "its own file" in error.value.remedy
    for accepted in (LINKED[3], LINKED[4]):
        files.sink(accepted).write(Secret(FIRST))
    for _ in range(2):
        same = FileAddress("./b.env", "KEY")
        Files(tmp_path, [same, FileAddress("x/../b.env", "KEY")]).sink(same).write(Secret(FIRST))


def test_links_are_resolved_in_one_pass(tmp_path: Path, monkeypatch) -> None:
    """Many addresses need one lookup for each folder."""
    resolved: list[str] = []
    inner = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: resolved.append(path) or inner(path))
    Files(tmp_path, (FileAddress(f"{n % 10}/{n}.env", "KEY") for n in range(10_000)))
    assert len(resolved) == 10


def make_folder(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    "create",
    [make_folder, make_fifo, make_socket, make_loop, make_device],
)
def test_only_a_regular_file_is_accepted(tmp_path: Path, create: Callable[[Path], None]) -> None:
    """A folder, pipe, socket, device or circular link is neither read nor written."""
    path = tmp_path / "not-a-file"
    create(path)
    error_of_check_and_write(sink_of(path), "sink_unsuitable")
    with pytest.raises(SinkError):
        sink_of(path).read()
    assert os.path.lexists(path)


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/../dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_refused(tmp_path: Path, path: str) -> None:
    """It may be a regular file, whose other content would be lost."""
    script = (
        "import sys; from pathlib import Path\n"
        "from provisioner.errors.exceptions import SinkError\n"
        "from provisioner.secret import Secret\n"
        "from provisioner.sinks.file import FileAddress, Files\n"
        "try: Files(Path()).sink(FileAddress(sys.argv[1], 'KEY')).write(Secret('token'))\n"
        "except SinkError as error: print(error.code)\n"
    )
    out = tmp_path / "out"
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", script, path], stdout=file, check=True)
    assert out.read_text() == "sink_unsuitable\n"


@pytest.mark.parametrize("path", ["no\0path", "no\ud800path", "x" * 300])
def test_an_invalid_path_is_refused(tmp_path: Path, path: str) -> None:
    """It is an error of the sink like any other."""
    with pytest.raises(SinkError) as error:
        Files(tmp_path).sink(FileAddress(path, "KEY")).write(Secret(FIRST))
    assert error.value.code == "sink_unsuitable"


def test_an_invalid_text_is_refused(tmp_path: Path) -> None:
    """A surrogate has no UTF-8 bytes, and the error does not contain the value."""
    with pytest.raises(SinkError) as error:
        sink_of(tmp_path / ".env").write(Secret("half\ud800"))
    assert error.value.code == "sink_unsuitable"
    assert "half" not in error.value.message
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """The path is not valid, and the file stays unchanged."""
    (tmp_path / "file").write_text("mine")
    sink = Files(tmp_path).sink(FileAddress("file/keys.env", "KEY"))
    error_of_check_and_write(sink, "sink_unsuitable")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_file_of_another_user_is_taken_over(tmp_path: Path) -> None:
    """No secret is left in a file that another user owns."""
    if os.getuid() != 0:
        pytest.skip("only root may give files away")
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    os.chown(path, NOBODY, NOBODY)
    sink_of(path).check()
    sink_of(path).write(Secret(FIRST))
    assert (path.stat().st_uid, path.stat().st_gid) == (0, 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == f"A=1\nKEY={FIRST}\n"


WRITES = (
    "import resource, sys; from pathlib import Path\n"
    "from provisioner.errors.exceptions import SinkError\n"
    "from provisioner.secret import Secret; from provisioner.sinks.file import FileAddress, Files\n"
    "path, limit, number, times = Path(sys.argv[1]), *map(int, sys.argv[2:])\n"
    "if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
    "sinks = [Files(path.parent).sink(FileAddress(path.name, f'KEY_{number}_{n}'))"
    " for n in range(times)]\n"
    "print('ready', flush=True)\n"
    "try:\n"
    "    for n, sink in enumerate(sinks): sink.write(Secret(f'token-{number}-{n}-' + 'x' * 400))\n"
    "except SinkError as error: print(error.code, '|', error.message)\n"
)


# Runs a writer in a new child process for each line of the input, and prints its signal.
FORKS = (
    "import os, sys; import provisioner.sinks.file\n"
    "for _ in sys.stdin:\n"
    "    if not (child := os.fork()): break\n"
    "    print(child, flush=True)\n"
    "    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)\n"
    "else: sys.exit()\n"
)


def test_a_disk_without_space_loses_nothing(tmp_path: Path) -> None:
    """An interrupted write fails, leaves the file unchanged, and creates no other file."""
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    result = subprocess.run(
        [sys.executable, "-c", WRITES, path, "200", "0", "1"], stdout=subprocess.PIPE, check=True
    )
    assert b"sink_failed | " in result.stdout
    assert os.strerror(errno.EFBIG).encode() in result.stdout
    assert path.read_text() == "A=1\n"
    assert [one.name for one in tmp_path.iterdir()] == [".env"]


# Many sinks, many writers


def test_an_unchanged_file_is_parsed_once(tmp_path: Path, monkeypatch) -> None:
    """Two thousand variables of one file, with different spellings of its path, are parsed once."""
    parsed: list[str] = []
    entries = file_text.entries_of
    monkeypatch.setattr(file_text, "entries_of", lambda *text: parsed.append("") or entries(*text))
    (tmp_path / "a").mkdir()
    path = tmp_path / "b.env"
    path.write_text("".join(f"KEY_{n}={n}\n" for n in range(2000)))
    (tmp_path / "link").symlink_to("b.env")
    files = Files(tmp_path, timestamp_resolution=-1)
    spellings = ("b.env", "./b.env", "a/../b.env", str(path), "link")
    sinks = [files.sink(FileAddress(spellings[n % 5], f"KEY_{n}")) for n in range(2000)]
    for sink in sinks:
        sink.check()
    assert [value_of(sink) for sink in sinks] == [str(n) for n in range(2000)]
    assert len(parsed) == 1
    path.write_text(path.read_text().replace("KEY_7=7\n", "KEY_7=8\n"))
    assert value_of(sinks[7]) == "8"
    path.write_text("KEY_7=8\n")
    assert isinstance(sinks[8].read(), NoToken)
    assert len(parsed) == 3


GROUPED = pytest.mark.parametrize("suffix", ["env", "json"])


def group_of(path: Path, *variables: str) -> tuple[SinkGroup[Any], list[FileAddress]]:
    files = Files(path.parent)
    file_format: FileFormat = "json" if path.suffix == ".json" else "dotenv"
    addresses = [FileAddress(path.name, variable, file_format) for variable in variables]
    return files.sink(addresses[0]).group, addresses


@GROUPED
def test_variables_of_one_file_are_written_and_read_together(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New and old ones, with one write and one read, and everything else in the file is kept."""
    path = tmp_path / f"a.{suffix}"
    others = {"OTHER": "kept", "KEY_1": "old"}
    lines = "".join(f"{name}={value}\n" for name, value in others.items())
    path.write_text(json.dumps(others) if suffix == "json" else f"# ours\n{lines}")
    group, addresses = group_of(path, "KEY_0", "KEY_1", "KEY_2")
    writes: list[Path] = []
    atomically = file_write.write_atomically
    monkeypatch.setattr(
        file_write,
        "write_atomically",
        lambda *of, **how: writes.append(of[0]) or atomically(*of, **how),
    )
    tokens = {address: Secret(f"token-{address.variable}") for address in addresses}
    assert group.write(tokens) == {}
    assert writes == [path]
    path.write_bytes(path.read_bytes().replace(b"kept", b"theirs"))
    assert group.read(addresses) == {one: StoredValue(token) for one, token in tokens.items()}
    values = {"OTHER": "theirs"} | {one.variable: tokens[one].reveal() for one in addresses}
    if suffix == "json":
        assert json.loads(path.read_text()) == values
    else:
        assert path.read_text().startswith("# ours\nOTHER=theirs\nKEY_1=token-KEY_1\n")
        assert {one.split("=")[0] for one in path.read_text().split()[2:]} == values.keys()


def test_a_variable_that_cannot_be_written_does_not_keep_others_from_it(tmp_path: Path) -> None:
    """Its own write and its own read fail; without another one the file is not changed."""
    path = tmp_path / "a.json"
    path.write_text('{"KEY_0": {"nested": 1}}')
    group, (nested, other) = group_of(path, "KEY_0", "KEY_1")
    [error] = group.write({nested: Secret("token-0"), other: Secret("token-1")}).values()
    assert "KEY_0 contains an object or an array" in error.failure.message
    assert json.loads(path.read_text()) == {"KEY_0": {"nested": 1}, "KEY_1": "token-1"}
    found = group.read([nested, other])
    assert isinstance(found[nested], SinkError)
    assert found[other] == StoredValue(Secret("token-1"))
    before = path.stat()
    assert group.write({nested: Secret("token-0")}).keys() == {nested}
    assert path.stat() == before


def test_a_file_that_cannot_be_written_fails_each_of_its_variables(tmp_path: Path) -> None:
    """Each error names its own sink."""
    path = tmp_path / "a.env"
    path.mkdir()
    group, addresses = group_of(path, "KEY_0", "KEY_1")
    errors = group.write({address: Secret("token-0") for address in addresses})
    assert [errors[one].failure.message.split(" is ")[0] for one in addresses] == [
        *map(str, addresses)
    ]
    assert group.read(addresses).keys() == set(addresses)


def test_a_quick_change_is_detected(tmp_path: Path) -> None:
    """A change of the same size right after a read is detected, within one timestamp."""
    path = tmp_path / ".env"
    path.write_text("KEY=0000\n")
    sink = sink_of(path)
    for number in range(200):
        path.write_text(f"KEY={number:04}\n")
        assert value_of(sink) == f"{number:04}"


def started(path: Path, number: int, times: int, limit: int = 0) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", WRITES, path, str(limit), str(number), str(times)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


WHOLE = re.compile(rb"# first\nA='\n1'\n(?:KEY_\d+_\d+=token-\d+-\d+-x{400}\n)*")


def assert_whole(path: Path) -> None:
    with path.open("rb") as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
        assert WHOLE.fullmatch(file.read())


def test_parallel_processes_lose_no_line(tmp_path: Path) -> None:
    """All lines arrive, and readers always see a complete file with mode 0600."""
    path = tmp_path / ".env"
    path.write_text("# first\nA='\n1'\n")
    path.chmod(0o600)
    processes = [started(path, number, 100) for number in range(2)]
    reads = 0
    while any(process.poll() is None for process in processes):
        assert_whole(path)
        reads += 1
    assert reads > 10
    assert [process.communicate()[0] for process in processes] == [b"", b""]
    text = path.read_text()
    for number in range(2):
        for n in range(100):
            assert f"KEY_{number}_{n}=token-{number}-{n}-{'x' * 400}\n" in text
    assert text.count("\n") == 203
    assert [one.name for one in tmp_path.iterdir()] == [".env"]


def test_a_killed_writer_leaves_a_complete_file(tmp_path: Path) -> None:
    """A kill at any time leaves one of the versions, and the next write removes leftovers."""
    path = tmp_path / ".env"
    path.write_text("# first\nA='\n1'\n")
    path.chmod(0o600)
    generator = random.Random(1)
    leftovers = 0
    forks = subprocess.Popen(
        [sys.executable, "-c", FORKS + WRITES, path, "0", "0", "1000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert forks.stdin is not None
    assert forks.stdout is not None
    for _ in range(50):
        forks.stdin.write(b"continue\n")
        forks.stdin.flush()
        child = int(forks.stdout.readline())
        assert forks.stdout.readline() == b"ready\n"
        threading.Event().wait(generator.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert forks.stdout.readline() == f"{signal.SIGKILL}\n".encode()
        assert_whole(path)
        for folder in set(tmp_path.iterdir()) - {path}:
            leftovers += 1
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            names = {one.name for one in folder.iterdir()}
            assert names <= {".gitignore", "new"}
            assert "new" not in names or (folder / ".gitignore").read_text() == "*\n"
    forks.communicate()
    assert leftovers > 0
    sink_of(path).write(Secret(FIRST))
    assert [one.name for one in tmp_path.iterdir()] == [".env"]


def test_a_writer_waits_for_the_lock(tmp_path: Path) -> None:
    """A lock that is released in time is not an error."""
    path = tmp_path / ".env"
    with locked(tmp_path):
        writer = threading.Thread(target=sink_of(path).write, args=(Secret(FIRST),))
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        assert not path.exists()
    writer.join(10)
    assert value_of(sink_of(path)) == FIRST


def test_a_writer_that_timed_out_keeps_no_lock(tmp_path: Path) -> None:
    """After a timeout the next writer can take the lock."""
    path = tmp_path / ".env"
    impatient = Files(tmp_path, folders=Folders(LockWait(0.1))).sink(FileAddress(".env", "KEY"))
    with locked(tmp_path):
        with pytest.raises(SinkError) as error:
            impatient.write(Secret(FIRST))
        assert error.value.code == "sink_unavailable"
    sink_of(path).write(Secret(SECOND))
    assert value_of(sink_of(path)) == SECOND


# Git


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run git in a new repository, without the configuration of any user."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    tree = tmp_path / "tree"

    def run(*arguments: str, folder: Path = tree) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@localhost")
        subprocess.run(
            ["git", *identity, "-C", folder, *arguments], check=True, stdout=subprocess.DEVNULL
        )

    tree.mkdir()
    run("init", "--quiet")
    return run


STRANGE = (
    "a b.env",
    "-q",
    "--.env",
    ":(top)x.env",
    ":!x.env",
    "*.env",
    "'\".env",
    "ö🗝.env",
    "line\nend.env",
    "new/folder/x.env",
)


@pytest.mark.usefixtures("git")
@pytest.mark.parametrize("name", STRANGE)
def test_what_git_would_publish_is_refused(tmp_path: Path, name: str) -> None:
    """A path in a work tree that is not ignored cannot hold a token, whatever its name."""
    sink = Files(tmp_path / "tree").sink(FileAddress(name, "KEY"))
    error = error_of_check_and_write(sink, "sink_unsuitable")
    assert ".gitignore" in error.remedy
    assert not (tmp_path / "tree" / name).exists()
    assert not (tmp_path / "tree" / "new").exists()


@pytest.mark.usefixtures("git")
@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("rule", ["/secrets/", "secrets/**", "*"])
def test_an_ignored_file_may_hold_tokens(tmp_path: Path, name: str, rule: str) -> None:
    """The ignored folder need not exist yet."""
    (tmp_path / "tree" / ".gitignore").write_text(f"{rule}\n")
    sink = Files(tmp_path / "tree").sink(FileAddress(f"secrets/{name}", "KEY"))
    sink.check()
    sink.write(Secret(FIRST))
    assert value_of(sink) == FIRST


def test_a_name_is_not_a_pattern(tmp_path: Path, git) -> None:
    """A name is never used as a pattern, neither for tracked nor for ignored files."""
    tree = tmp_path / "tree"
    (tree / "x.env").touch()
    git("add", "x.env")
    (tree / ".gitignore").write_text("\\*.txt\n")
    sink_of(tree / "*.txt").check()
    error_of_check_and_write(sink_of(tree / "y.txt"), "sink_unsuitable")
    error = error_of_check_and_write(sink_of(tree / "*.env"), "sink_unsuitable")
    assert "does not ignore" in error.message


def test_a_tracked_file_is_refused_though_ignored(tmp_path: Path, git) -> None:
    """Git continues to publish a tracked file."""
    tree = tmp_path / "tree"
    (tree / ".env").touch()
    git("add", ".env")
    (tree / ".gitignore").write_text(".env\n")
    error = error_of_check_and_write(sink_of(tree / ".env"), "sink_unsuitable")
    assert "git rm --cached" in error.remedy


def test_a_link_is_judged_by_its_target(tmp_path: Path, git) -> None:
    """A link out of the work tree is accepted, and a link into it is refused."""
    tree = tmp_path / "tree"
    (tree / "out.env").symlink_to(tmp_path / "far.env")
    git("add", "out.env")
    sink_of(tree / "out.env").check()
    sink_of(tree / "out.env").write(Secret("x"))
    assert (tmp_path / "far.env").read_text() == "KEY=x\n"
    (tmp_path / "in.env").symlink_to(tree / "x.env")
    error = error_of_check_and_write(sink_of(tmp_path / "in.env"), "sink_unsuitable")
    assert "does not ignore" in error.message


@pytest.mark.usefixtures("git")
def test_the_folder_of_git_itself_is_refused(tmp_path: Path) -> None:
    """A token must not be among the files of git."""
    path = tmp_path / "tree" / ".git" / "x.env"
    error = error_of_check_and_write(sink_of(path), "sink_unsuitable")
    assert "a .git folder" in error.message
    assert not path.exists()


def test_a_linked_work_tree_is_a_work_tree(tmp_path: Path, git) -> None:
    """In linked work trees and submodules `.git` is a file."""
    git("commit", "--quiet", "--allow-empty", "-m", "x")
    git("worktree", "add", "--quiet", str(tmp_path / "linked"))
    (tmp_path / "linked" / ".gitignore").write_text("ok.env\n")
    error = error_of_check_and_write(sink_of(tmp_path / "linked" / "x.env"), "sink_unsuitable")
    assert "does not ignore" in error.message
    allowed = sink_of(tmp_path / "linked" / "ok.env")
    allowed.check()
    allowed.write(Secret("x"))
    assert value_of(allowed) == "x"


@pytest.mark.parametrize(
    "variables",
    [
        {"GIT_DIR": "other/.git"},
        {"GIT_DIR": "other/.git", "GIT_WORK_TREE": "tree"},
        {"GIT_CEILING_DIRECTORIES": "."},
        {"GIT_CONFIG_PARAMETERS": "'core.worktree'='/'"},
    ],
)
def test_no_variable_leads_git_elsewhere(tmp_path: Path, git, monkeypatch, variables) -> None:
    """The variables of a hook, for example, would select another repository."""
    other = tmp_path / "other"
    other.mkdir()
    git("init", "--quiet", folder=other)
    (other / ".git" / "info" / "exclude").write_text("*\n")
    for name, value in variables.items():
        resolved = value if "=" in value else str(tmp_path / value)
        monkeypatch.setenv(name, resolved)
    error = error_of_check_and_write(sink_of(tmp_path / "tree" / "x.env"), "sink_unsuitable")
    assert ".gitignore" in error.remedy


@pytest.mark.usefixtures("git")
def test_a_repository_that_git_does_not_trust_is_refused(tmp_path: Path) -> None:
    """Without an answer of git the file is not accepted, whether it is ignored or not."""
    tree = tmp_path / "tree"
    (tree / ".gitignore").write_text("*\n")
    sink_of(tree / "x.env").check()
    if os.getuid() != 0:
        pytest.skip("only root may give a repository away")
    for path in (tree, tree / ".git"):
        os.chown(path, NOBODY, NOBODY)
    assert (
        "git check-ignore"
        in error_of_check_and_write(sink_of(tree / "x.env"), "sink_unsuitable").remedy
    )


@pytest.mark.usefixtures("git")
def test_a_git_that_does_not_run_is_an_error(tmp_path: Path, monkeypatch) -> None:
    """Git is installed, so the ignore files are not read instead."""
    (tmp_path / "git").write_bytes(b"\0")
    (tmp_path / "git").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "tree" / ".gitignore").write_text("*\n")
    error = error_of_check_and_write(sink_of(tmp_path / "tree" / "x.env"), "sink_unsuitable")
    assert "git check-ignore" in error.remedy


@pytest.fixture(params=["git", "files"])
def nested(request, tmp_path: Path, git, monkeypatch) -> Path:
    """Create a repository inside a work tree, for git itself and for the ignore files."""
    inner = tmp_path / "tree" / "inner"
    inner.mkdir()
    git("init", "--quiet", folder=inner)
    if request.param == "files":
        monkeypatch.setenv("PATH", str(tmp_path))
    return inner


def test_an_inner_repository_does_not_answer_for_the_outer_one(tmp_path: Path, nested) -> None:
    """A file that only the inner repository ignores is refused, whichever of its files says so."""
    tree = tmp_path / "tree"
    (nested / ".gitignore").write_text("*\n")
    (nested / "everything").write_text("*\n")
    with (nested / ".git" / "config").open("a") as config:
        config.write(f"[core]\n\texcludesFile = {nested / 'everything'}\n")
    sink = Files(tree).sink(FileAddress("inner/x.env", "KEY"))
    error = error_of_check_and_write(sink, "sink_unsuitable")
    assert "does not ignore that repository" in error.message
    assert not (nested / "x.env").exists()


def test_both_repositories_must_ignore_a_file(tmp_path: Path, nested) -> None:
    """The outer one must ignore the folder of the inner one, and the inner one the file."""
    tree = tmp_path / "tree"
    (tree / ".gitignore").write_text("/inner/\n")
    error = error_of_check_and_write(
        Files(tree).sink(FileAddress("inner/x.env", "KEY")), "sink_unsuitable"
    )
    assert "does not ignore it" in error.message
    (nested / ".gitignore").write_text("*.env\n")
    sink = Files(tree).sink(FileAddress("inner/x.env", "KEY"))
    sink.check()
    sink.write(Secret("x"))
    assert value_of(sink) == "x"


def test_an_inner_repository_runs_nothing_and_fetches_nothing(tmp_path: Path, git) -> None:
    """Its file system monitor, hooks, filters and remotes start no program."""
    inner, marker = tmp_path / "tree" / "inner", tmp_path / "marker"
    inner.mkdir()
    (tmp_path / "tree" / ".gitignore").write_text("/inner/\n")
    git("init", "--quiet", folder=inner)
    (inner / ".gitignore").write_text("*.env\n")
    git("add", ".gitignore", folder=inner)
    git("update-index", "--skip-worktree", ".gitignore", folder=inner)
    (inner / ".gitignore").unlink()
    for blob in (inner / ".git" / "objects").glob("??/*"):
        blob.unlink()
    run = tmp_path / "run"
    run.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    run.chmod(0o755)
    with (inner / ".git" / "config").open("a") as config:
        config.write(
            f"[core]\n\trepositoryformatversion = 1\n\tfsmonitor = {run}\n\tsshCommand = {run}\n"
            "[extensions]\n\tpartialClone = origin\n"
            '[remote "origin"]\n\turl = ssh://localhost/x\n\tpromisor = true\n'
            f'[diff]\n\texternal = {run}\n[filter "x"]\n\tclean = {run}\n\tsmudge = {run}\n'
        )
    (inner / ".gitattributes").write_text("* filter=x\n")
    error_of_check_and_write(
        Files(tmp_path / "tree").sink(FileAddress("inner/x.env", "KEY")), "sink_unsuitable"
    )
    assert not marker.exists()


@pytest.fixture
def without_git(tmp_path: Path, monkeypatch, caplog) -> Callable[[], int]:
    """Create a work tree on a machine without git; the result counts the warnings."""
    folder = tmp_path / "tree" / ".git" / "info"
    folder.mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    caplog.set_level(logging.WARNING, "provisioner")
    return lambda: ["git is not installed" in one.getMessage() for one in caplog.records].count(
        True
    )


def test_without_git_its_ignore_files_are_read(tmp_path: Path, without_git) -> None:
    """Ignored files can hold tokens, and one warning says what was not checked."""
    tree = tmp_path / "tree"
    (tree / ".gitignore").write_text("/secrets/\n!*.txt\n")
    (tree / ".git" / "info" / "exclude").write_text("*.env\n*.txt\n")
    files = Files(tree)
    for number, name in enumerate(("secrets/x", "secrets/new/x.txt", "x.env", "y.env")):
        sink = files.sink(FileAddress(name, "KEY"))
        sink.check()
        sink.write(Secret(f"{FIRST}{number}"))
        assert value_of(sink) == f"{FIRST}{number}"
    for name in ("x", "x.txt", "folder/secrets.txt"):
        error = error_of_check_and_write(files.sink(FileAddress(name, "KEY")), "sink_unsuitable")
        assert ".gitignore" in error.remedy
        assert not (tree / name).exists()
    assert without_git() == 1


def test_without_git_a_file_outside_work_trees_needs_no_warning(
    tmp_path: Path, without_git
) -> None:
    """There is nothing to check."""
    outside = sink_of(tmp_path / "x.env")
    outside.check()
    outside.write(Secret("x"))
    assert value_of(outside) == "x"
    assert without_git() == 0


def test_without_git_a_linked_work_tree_has_the_rules_of_its_repository(
    tmp_path: Path, without_git
) -> None:
    """Its `.git` file leads to the shared folder of its work trees, as in submodules."""
    shared = tmp_path / "tree" / ".git"
    (shared / "worktrees" / "linked").mkdir(parents=True)
    (shared / "worktrees" / "linked" / "commondir").write_text("../..\n")
    (shared / "modules" / "sub" / "info").mkdir(parents=True)
    (shared / "modules" / "sub" / "info" / "exclude").write_text("sub.env\n")
    (shared / "info" / "exclude").write_text("linked.env\n")
    for name, target in (
        ("linked", shared / "worktrees/linked"),
        ("sub", "../tree/.git/modules/sub"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".git").write_text(f"gitdir: {target}\n")
        sink_of(tmp_path / name / f"{name}.env").check()
        error_of_check_and_write(sink_of(tmp_path / name / "x.env"), "sink_unsuitable")


@pytest.mark.usefixtures("without_git")
def test_without_git_unusual_ignore_files_ignore_nothing(tmp_path: Path) -> None:
    """Git does not follow links to them, and a folder with their name has no rules."""
    tree = tmp_path / "tree"
    (tmp_path / "rules").write_text("*\n")
    (tree / ".gitignore").symlink_to("../rules")
    assert (
        "does not ignore"
        in error_of_check_and_write(sink_of(tree / "x"), "sink_unsuitable").message
    )
    (tree / ".gitignore").unlink()
    (tree / ".gitignore").mkdir()
    assert (
        "does not ignore"
        in error_of_check_and_write(sink_of(tree / "x"), "sink_unsuitable").message
    )
    assert (
        "does not ignore"
        in error_of_check_and_write(sink_of(tree / "x\ny"), "sink_unsuitable").message
    )


@pytest.mark.usefixtures("without_git")
def test_without_git_an_unreadable_ignore_file_is_an_error(monkeypatch) -> None:
    """It is unknown whether it ignores the file."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        (tree / ".git").mkdir()
        (tree / ".gitignore").write_text("*\n")
        (tree / ".gitignore").chmod(0)
        tree.chmod(0o777)
        with as_user(os.getuid() or NOBODY):
            error = error_of_check_and_write(sink_of(tree / "x.env"), "sink_unsuitable")
    assert "cannot be read" in error.message


def test_git_runs_once_for_a_file(tmp_path: Path, git, monkeypatch) -> None:
    """Many variables of the file are checked and written."""
    assert git
    calls = tmp_path / "calls"
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho x >> "{calls}"\nexec {shutil.which("git")} "$@"\n')
    wrapper.chmod(0o700)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    (tmp_path / "tree" / ".gitignore").write_text("*\n")
    files = Files(tmp_path / "tree")
    sinks = [files.sink(FileAddress("x.env", f"KEY_{n}")) for n in range(2000)]
    for sink in sinks:
        sink.check()
    sinks[0].write(Secret(FIRST))
    assert calls.read_text() == "x\n"


def test_leftovers_of_a_kill_are_invisible_to_git(tmp_path: Path, git) -> None:
    """If only the file itself is ignored, `git add` adds no copy of it."""
    tree = tmp_path / "tree"
    (tree / ".gitignore").write_text("/.env\n")
    for _ in range(50):
        process = started(tree / ".env", 0, 10_000)
        while process.poll() is None:
            if any(tree.glob(".provision-*/new")):
                process.kill()
                break
        process.communicate()
        if any(tree.glob(".provision-*/new")):
            break
    assert any(tree.glob(".provision-*/new"))
    git("add", "--all")
    result = subprocess.run(
        ["git", "-C", tree, "ls-files"], stdout=subprocess.PIPE, check=True, text=True
    )
    assert result.stdout.split() == [".gitignore"]
