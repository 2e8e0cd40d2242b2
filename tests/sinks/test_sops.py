"""Places in files that SOPS has encrypted, against the real program."""

from __future__ import annotations

import re
import stat
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
from compliance import FIRST, SECOND, Backend, Compliance
from sops_program import (
    AGE_KEY,
    OTHER_AGE_KEY,
    decrypted,
    encrypted,
    install,
    program,
    value_at,
)

from provisioner.errors.exceptions import SinkError
from provisioner.model.restrictions import Restrictions
from provisioner.model.sink_content import NoToken, Unreadable
from provisioner.runtime.cancellation import Cancellation
from provisioner.runtime.process import Processes
from provisioner.secret import Secret
from provisioner.sinks import sops
from provisioner.sinks.file import FileAddress, Files
from provisioner.sinks.kind import OptionValues
from provisioner.sinks.registry import SinkRegistry
from provisioner.sinks.sink import StoredValue
from provisioner.sinks.sops import SINK, SopsAddress, SopsFiles, SopsSink

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from provisioner.sinks.sink import Sink

PLAIN = """\
# of the shop
other: secret
twenty:
    # inner
    svc: before
number: 1
list:
    - a
"""
SVC = SopsAddress("keys.yaml", ("twenty", "svc"))


@pytest.fixture
def environ(tmp_path) -> dict[str, str]:
    return install(tmp_path / "bin")


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_bytes(encrypted(PLAIN))
    return path


@pytest.fixture
def sink(tmp_path, environ) -> Callable[..., SopsSink]:
    """Return a function that opens a sink as a new process would."""

    def open_sink(*keys: str, path: str = "keys.yaml") -> SopsSink:
        files = SopsFiles(tmp_path, Processes(), environ)
        return files.sink(SopsAddress(path, keys or SVC.keys))

    return open_sink


class SopsBackend(Backend):
    credential = AGE_KEY

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.monkeypatch = monkeypatch
        self.environ = install(root / "bin")
        (root / "keys.yaml").write_bytes(encrypted(PLAIN))

    def _open(self, *keys: str) -> Sink:
        files = SopsFiles(self.root, Processes(), dict(self.environ))
        return files.sink(SopsAddress("keys.yaml", keys))

    def sink(self, place=0):
        return self._open("twenty", f"place-{place}")

    def stored(self, place=0):
        return value_at(self.root / "keys.yaml", "twenty", f"place-{place}")

    def strange_names(self):
        names = ("with space", "é", "🔑", "a/b.c", 'it\'s "quoted"', "]", "no", "1", "a: b", "\\")
        return tuple(self._open("twenty", name) for name in names)

    @contextmanager
    def denied(self):
        with self.monkeypatch.context() as patch:
            patch.delitem(self.environ, "SOPS_AGE_KEY")
            yield

    @contextmanager
    def wrong_credential(self):
        with self.monkeypatch.context() as patch:
            patch.setitem(self.environ, "SOPS_AGE_KEY", OTHER_AGE_KEY)
            yield

    @contextmanager
    def unreachable(self):
        """Let sops wait, as for a KMS that does not answer."""
        slow = self.root / "slow"
        slow.mkdir(exist_ok=True)
        (slow / "sops").write_text("#!/bin/sh\nread -r _ < /dev/zero\n")
        (slow / "sops").chmod(0o700)
        with self.monkeypatch.context() as patch:
            patch.setitem(self.environ, "PATH", str(slow))
            patch.setattr(sops, "_TIMEOUT", 0.1)
            yield


class TestSops(Compliance):
    @pytest.fixture
    def backend(self, tmp_path, monkeypatch) -> Backend:
        return SopsBackend(tmp_path, monkeypatch)


def _error_of(action: Callable[[], object]) -> SinkError:
    with pytest.raises(SinkError) as caught:
        action()
    assert FIRST not in f"{caught.value.message}{caught.value.remedy}"
    return caught.value


def _steps(opened: SopsSink) -> tuple[Callable[[], object], ...]:
    return (opened.check, lambda: opened.write(Secret(FIRST)))


def test_only_the_place_is_changed(file, sink) -> None:
    """Comments, neighbours, their ciphertext and the permissions of the file stay as they are."""
    file.chmod(0o644)
    before = file.read_text().splitlines()
    sink().write(Secret(FIRST))
    after = file.read_text().splitlines()
    changed = [old for old, new in zip(before, after, strict=True) if old != new]
    assert [line.split()[0] for line in changed] in (
        ["svc:", "lastmodified:", "mac:"],
        ["svc:", "mac:"],  # within the same second
    )
    assert decrypted(file, "yaml") == PLAIN.replace("before", FIRST)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("name", "file_format", "plain", "keys"),
    [
        ("a.json", "json", '{"other": 1}', ("twenty", "deep", "svc")),
        ("a.env", "dotenv", "# comment\nOTHER=1\n", ("SVC",)),
        ("a.yml", "yaml", "other: 1\ntwenty:\n", ("twenty", "svc")),
    ],
)
def test_each_format_takes_a_token(tmp_path, sink, name, file_format, plain, keys) -> None:
    """A token can be written, read and removed in each format; missing mappings are created."""
    (tmp_path / name).write_bytes(encrypted(plain, file_format))
    opened = sink(*keys, path=name)
    opened.check()
    assert opened.read() == NoToken()
    opened.write(Secret(FIRST))
    assert opened.read() == StoredValue(Secret(FIRST))
    assert FIRST not in (tmp_path / name).read_text()
    assert value_at(tmp_path / name, *keys) == FIRST
    assert opened.remove(Secret(FIRST))
    assert value_at(tmp_path / name, *keys) is None
    other = "OTHER" if file_format == "dotenv" else "other"
    assert value_at(tmp_path / name, other) in (1, "1")


def test_no_token_is_in_the_arguments_or_variables_of_sops(tmp_path, file, sink) -> None:
    """Other users of the machine could see it there."""
    real = tmp_path / "bin" / "sops"
    real.unlink()
    real.write_text(
        f'#!/bin/sh\n/usr/bin/env >> {tmp_path}/log\necho "$@" >> {tmp_path}/log\n'
        f'exec {program()} "$@"\n'
    )
    real.chmod(0o700)
    sink().write(Secret(FIRST))
    assert sink().remove(Secret(FIRST))
    log = (tmp_path / "log").read_text()
    assert "set --input-type yaml" in log
    assert FIRST not in log


def test_a_file_that_is_not_encrypted_is_refused(file, sink) -> None:
    """A token is never written in clear, and the file stays as it is."""
    file.write_text(PLAIN)
    for step in (*_steps(sink()), sink().read):
        error = _error_of(step)
        assert (error.code, "sops encrypt" in error.remedy) == ("sink_unsuitable", True)
    assert file.read_text() == PLAIN


@pytest.mark.parametrize(
    ("name", "plain"), [("a.json", '{"other": 1, "svc": "x"}'), ("a.env", "OTHER=1\nsvc=x\n")]
)
def test_the_sink_file_refuses_an_encrypted_file(tmp_path, name, plain) -> None:
    """Sops refuses a file that another program has changed, so all its secrets would be lost."""
    path = tmp_path / name
    path.write_bytes(before := encrypted(plain, "json" if name == "a.json" else "dotenv"))
    address = FileAddress(name, "svc", "json" if name == "a.json" else "dotenv")
    opened = Files(tmp_path).sink(address)
    steps = (opened.check, opened.read, lambda: opened.write(Secret(FIRST)))
    for step in (*steps, lambda: opened.remove(Secret("x"))):
        error = _error_of(step)
        assert (error.code, "`sops`" in error.remedy) == ("sink_unsuitable", True)
    assert path.read_bytes() == before


def test_a_place_that_sops_leaves_in_clear_is_refused(file, sink) -> None:
    """The rules in the file decide what is encrypted; a token elsewhere would be public."""
    file.write_bytes(before := encrypted(PLAIN, "yaml", "--encrypted-regex", "^other$"))
    for step in _steps(sink()):
        error = _error_of(step)
        assert (error.code, "encrypted_regex" in error.remedy) == ("sink_unsuitable", True)
    assert file.read_bytes() == before


def test_a_missing_file_is_not_created(tmp_path, sink) -> None:
    """Only its owner can say which keys encrypt it."""
    opened = sink(path="missing/keys.yaml")
    for step in (*_steps(opened), opened.read):
        error = _error_of(step)
        assert (error.code, "sops edit" in error.remedy) == ("sink_missing", True)
    assert not (tmp_path / "missing").exists()


def test_a_missing_program_is_reported(tmp_path, file, sink) -> None:
    """Without sops nothing is written."""
    before = file.read_bytes()
    (tmp_path / "bin" / "sops").unlink()
    for step in (*_steps(sink()), sink().read):
        error = _error_of(step)
        assert (error.code, "Install sops" in error.remedy) == ("sink_missing", True)
    assert file.read_bytes() == before


@pytest.mark.parametrize("keys", [("other", "svc"), ("list", "svc"), ("twenty",), ("list",)])
def test_other_values_are_never_replaced(file, sink, keys) -> None:
    """Sops would replace text above the place, or a whole mapping."""
    before = file.read_bytes()
    for step in _steps(sink(*keys)):
        assert _error_of(step).code == "sink_unsuitable"
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda text: re.sub(r"other: ENC.*", "other: changed", text),
        lambda text: re.sub(r"other: ENC.*\n", "", text),
    ],
)
def test_a_file_changed_without_sops_is_refused(file, sink, change) -> None:
    """Sops notices the change, and the error names it."""
    file.write_text(change(file.read_text()))
    for step in (*_steps(sink()), sink().read):
        error = _error_of(step)
        assert (error.code, "without sops" in error.message) == ("sink_unsuitable", True)


def test_a_file_that_sops_cannot_parse_is_reported(file, sink) -> None:
    """An unknown failure names the exit code, and how to see the message of sops."""
    file.write_text("{{{")
    error = _error_of(sink().read)
    assert (error.code, "exit code 1" in error.message) == ("sink_failed", True)
    assert "sops decrypt" in error.remedy


def test_a_change_by_somebody_else_is_kept(tmp_path, file, sink) -> None:
    """If the file is changed while sops works on a copy, the work starts again."""
    edited = encrypted(PLAIN.replace("secret", "edited"))
    (tmp_path / "edited").write_bytes(edited)
    real = tmp_path / "bin" / "sops"
    real.unlink()
    real.write_text(
        f'#!/bin/sh\ncd {tmp_path}\n[ "$1" = set ] && [ -e edited ] && /bin/mv edited {file}\n'
        f'exec {program()} "$@"\n'
    )
    real.chmod(0o700)
    sink().write(Secret(FIRST))
    assert (value_at(file, "other"), value_at(file, *SVC.keys)) == ("edited", FIRST)


def test_a_link_is_followed(tmp_path, file, sink) -> None:
    """The target of a symbolic link is replaced, and the link stays."""
    link = tmp_path / "link.yaml"
    link.symlink_to("keys.yaml")
    sink(path="link.yaml").write(Secret(FIRST))
    assert link.is_symlink()
    assert value_at(file, *SVC.keys) == FIRST


def test_two_paths_to_one_place_are_refused(tmp_path, file, environ) -> None:
    """Two keys whose tokens would overwrite each other are found before a token is minted."""
    (tmp_path / "link.yaml").symlink_to("keys.yaml")
    linked = SopsAddress("link.yaml", SVC.keys)
    files = SopsFiles(tmp_path, Processes(), environ, [SVC, linked])
    error = _error_of(lambda: files.sink(linked))
    assert str(SVC) in error.message


def test_tokens_of_one_file_are_written_together(tmp_path, file, environ) -> None:
    """The file is replaced once, and a place that cannot take a token fails only itself."""
    files = SopsFiles(tmp_path, Processes(), environ)
    bad = SopsAddress("keys.yaml", ("list",))
    good = [SopsAddress("keys.yaml", ("twenty", f"svc-{n}")) for n in range(3)]
    group = files.sink(bad).group
    errors = group.write({one: Secret(FIRST) for one in [*good[:1], bad, *good[1:]]})
    assert [one.code for one in errors.values()] == ["sink_unsuitable"]
    assert list(errors) == [bad]
    assert group.read(good) == {one: StoredValue(Secret(FIRST)) for one in good}
    assert value_at(file, "list") == ["a"]


def test_a_failed_write_never_leaves_the_placeholder_of_the_check(tmp_path, file, environ) -> None:
    """If a KMS fails right after the check of a place, the good token there stays."""
    real = tmp_path / "bin" / "sops"
    real.unlink()
    real.write_text(
        "#!/bin/sh\ndata=$(/bin/cat)\n"
        'case "$1 $* $data" in "set "*svc*FIRST*) exit 1 ;; esac\n'.replace("FIRST", FIRST)
        + f'printf %s "$data" | {program()} "$@"\n'
    )
    real.chmod(0o700)
    other = SopsAddress("keys.yaml", ("twenty", "other"))
    group = SopsFiles(tmp_path, Processes(), environ).sink(SVC).group
    assert list(group.write({SVC: Secret(FIRST), other: Secret(SECOND)})) == [SVC]
    assert (value_at(file, *SVC.keys), value_at(file, *other.keys)) == ("before", SECOND)


@pytest.mark.parametrize("nested_first", [False, True])
def test_a_place_inside_another_one_is_refused(tmp_path, file, environ, nested_first) -> None:
    """A token in `new` would replace the mapping that holds the one in `new.svc`, also via a link.

    No token is minted for either key, and tokens that are written together are compared too.
    """
    (tmp_path / "link.yaml").symlink_to("keys.yaml")
    outer, inner = SopsAddress("keys.yaml", ("new",)), SopsAddress("link.yaml", ("new", "svc"))
    declared = [inner, outer] if nested_first else [outer, inner]
    files = SopsFiles(tmp_path, Processes(), environ, [SVC, *declared])
    files.sink(SVC)
    for one, other in (declared, declared[::-1]):
        error = _error_of(partial(files.sink, one))
        assert (error.code, str(other) in error.message) == ("sink_unsuitable", True)
    group = SopsFiles(tmp_path, Processes(), environ).sink(outer).group
    assert list(group.write(dict.fromkeys(declared, Secret(FIRST)))) == declared[1:]
    assert group.read(declared[:1]) == {declared[0]: StoredValue(Secret(FIRST))}


def test_an_unchanged_file_is_decrypted_once(tmp_path, file, environ) -> None:
    """Reading many places of a file asks its KMS only once; a change is noticed."""
    files = SopsFiles(tmp_path, Processes(), environ)
    assert files.sink(SVC).read() == StoredValue(Secret("before"))
    environ["PATH"] = "/nonexistent"
    assert files.sink(SopsAddress("keys.yaml", ("other",))).read() == StoredValue(Secret("secret"))
    file.write_bytes(encrypted(PLAIN.replace("before", SECOND)))
    assert _error_of(files.sink(SVC).read).code == "sink_missing"


def test_no_programs_covers_sops(tmp_path, file, environ) -> None:
    """Reviewing a stranger's manifests starts no sops, whose file could name a server."""
    restrictions = Restrictions(programs=False)
    registry = SinkRegistry(tmp_path, environ, Cancellation(), [SVC], restrictions=restrictions)
    opened = registry.open(SVC)
    assert opened.read() == Unreadable()
    assert _error_of(opened.check).code == "program_not_run"


@pytest.mark.parametrize(
    ("path", "keys", "option"),
    [
        ("a.ini", ("a",), "sops"),
        ("a", ("a",), "sops"),
        ("a.env", ("a", "b"), "path"),
        ("a.env", ("a-b",), "path"),
        ("a.env", ("sops_mac",), "path"),
        ("a.yaml", ("sops", "a"), "path"),
        ("a.yaml", ("a[0]",), "path"),
        ("a.yaml", ("a\n",), "path"),
    ],
)
def test_an_impossible_place_is_rejected(path, keys, option) -> None:
    """`validate` reports a place that sops cannot set."""
    values = OptionValues(SINK, {"sops": (path,), "path": keys}, "svc-billing", "shop")
    SINK.address(values)
    assert [one.option for one in values.rejections] == [option]


def test_the_default_place_is_the_name_of_a_variable() -> None:
    """Without `path` the token is at the top of the file."""
    values = OptionValues(SINK, {"sops": ("a.env",)}, "svc-billing", "shop")
    assert SINK.address(values) == SopsAddress("a.env", ("SVC_BILLING",))
    assert not values.rejections
