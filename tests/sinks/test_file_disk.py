"""Files that cannot be written or replaced: found by the check, or written in place."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from compliance import FIRST, SECOND, Backend, Compliance
from files import NOBODY, Step, as_user, locked, run_steps

from provisioner.errors.exceptions import SinkError
from provisioner.secret import Secret
from provisioner.sinks import file_write
from provisioner.sinks.file import FileAddress, Files
from provisioner.sinks.file_write import Folders, LockWait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.sinks.sink import Sink

OK = Step("ok", "", "")
FULL = 'mount -t tmpfs -o size=64k none "$1"\nhead -c 65536 /dev/zero >"$1/ballast" || true\n'
READ_ONLY = 'mount --bind "$1" "$1"\nmount -o remount,ro,bind "$1"\n'


def sink_of(path: Path) -> Sink:
    return Files(path.parent).sink(FileAddress(path.name, "KEY"))


def error_of_check_and_write(sink: Sink) -> SinkError:
    """Return the error of the check and of the write in one run, which are equal."""
    with pytest.raises(SinkError) as checked:
        sink.check()
    with pytest.raises(SinkError) as written:
        sink.write(Secret(FIRST))
    assert (checked.value.code, checked.value.message) == (
        written.value.code,
        written.value.message,
    )
    assert checked.value.remedy == written.value.remedy
    return checked.value


@pytest.fixture
def place() -> Iterator[Path]:
    """Provide a folder that other users can open, unlike those of `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


# The check finds files that cannot be written


@pytest.mark.parametrize("name", ["keys.env", "new/folder/keys.env"])
def test_a_full_disk_is_found_by_the_check(tmp_path: Path, name: str) -> None:
    """The folder need not exist yet; the remedy is to free disk space."""
    checked, written = run_steps(FULL, tmp_path, name, "check", FIRST)
    assert checked.code == written.code == "sink_failed"
    assert os.strerror(errno.ENOSPC) in checked.message
    assert "Free disk space" in checked.remedy


def test_a_disk_with_too_little_space_is_found_by_the_check(tmp_path: Path) -> None:
    """The probe is as large as the file will be, and leaves nothing behind."""
    mounts = (
        'mount -t tmpfs -o size=64k none "$1"\n'
        '{ printf A=; head -c 40000 /dev/zero | tr "\\0" x; echo; } >"$1/keys.env"\n'
    )
    checked, again, written = run_steps(mounts, tmp_path, "keys.env", "check", "check", FIRST)
    assert checked == again
    assert checked.code == written.code == "sink_failed"
    with_space = run_steps(
        'mount -t tmpfs -o size=64k none "$1"', tmp_path, "keys.env", "check", "check", FIRST
    )
    assert with_space == [OK] * 3


@pytest.mark.parametrize("name", ["keys.env", "new/folder/keys.env"])
def test_a_read_only_mount_is_found_by_the_check(tmp_path: Path, name: str) -> None:
    """The remedy is another path, not a permission."""
    (tmp_path / "other.env").touch()
    checked, written = run_steps(READ_ONLY, tmp_path, name, "check", FIRST)
    assert checked.code == written.code == "sink_unsuitable"
    assert "writable file system" in checked.remedy


def test_a_file_on_a_read_only_mount_is_found_by_the_check(tmp_path: Path) -> None:
    """It can neither be replaced nor written in place."""
    (tmp_path / "keys.env").write_text("A=1\n")
    checked, written = run_steps(READ_ONLY, tmp_path, "keys.env", "check", FIRST)
    assert checked.code == written.code == "sink_unsuitable"
    assert (tmp_path / "keys.env").read_text() == "A=1\n"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
@pytest.mark.parametrize("name", ["keys.env", "new/folder/keys.env"])
def test_a_folder_without_locks_is_found_by_the_check(
    tmp_path: Path, monkeypatch, number: int, name: str
) -> None:
    """NFS without a lock service and some container mounts behave like this simulation."""

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    error = error_of_check_and_write(Files(tmp_path).sink(FileAddress(name, "KEY")))
    assert error.code == "sink_unsuitable"
    assert "cannot be locked" in error.message
    assert "local disk" in error.remedy
    assert not (tmp_path / "keys.env").exists()


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (errno.EDQUOT, "sink_failed", "quota"),
        (errno.EMFILE, "sink_failed", "ulimit -n"),
        (errno.EIO, "sink_failed", "file system"),
    ],
)
def test_each_error_of_the_system_has_its_own_remedy(
    tmp_path: Path, monkeypatch, number: int, code: str, word: str
) -> None:
    """These errors cannot be caused on demand, so they are simulated when the bytes are written."""

    def fsync(_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    error = error_of_check_and_write(sink_of(tmp_path / "keys.env"))
    assert error.code == code
    assert word in error.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_changes_owners_is_refused(tmp_path: Path, monkeypatch) -> None:
    """On some NFS mounts the secret would be in another user's file."""
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    error = error_of_check_and_write(sink_of(tmp_path / "keys.env"))
    assert error.code == "sink_unsuitable"
    assert "another user" in error.message
    assert list(tmp_path.iterdir()) == []


def test_an_immutable_file_is_found_by_the_check(tmp_path: Path) -> None:
    """The remedy names the attribute, because the mode does not show it."""
    path = tmp_path / "keys.env"
    path.write_text("A=1\n")
    with immutable(path):
        error = error_of_check_and_write(sink_of(path))
    assert error.code == "sink_denied"
    assert "lsattr" in error.remedy
    assert path.read_text() == "A=1\n"


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    if shutil.which("chattr") is None:
        pytest.skip("chattr is not installed")
    if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
        pytest.skip("this user or file system makes nothing immutable")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


def test_a_folder_is_probed_once_a_run(tmp_path: Path, monkeypatch) -> None:
    """A thousand new files need one probe, and a larger existing file one more."""
    probes: list[int] = []
    inner = file_write.temporary_file
    monkeypatch.setattr(
        file_write,
        "temporary_file",
        lambda folder, data: probes.append(len(data)) or inner(folder, data),
    )
    files = Files(tmp_path)
    for number in range(1000):
        files.sink(FileAddress(f"new-{number % 7}/{number}.env", "KEY")).check()
    assert len(probes) == 1
    (tmp_path / "big.env").write_text("A=1\n" * 5000)
    for number in range(50):
        files.sink(FileAddress("big.env", f"KEY_{number}")).check()
    assert len(probes) == 2
    assert probes[1] > 20_000


def test_a_failed_folder_is_not_probed_again(tmp_path: Path, monkeypatch) -> None:
    """The error for one file also counts for the other files of the folder."""
    probes: list[object] = []

    def fsync(descriptor: object) -> None:
        probes.append(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    files = Files(tmp_path)
    for number in range(20):
        with pytest.raises(SinkError) as caught:
            files.sink(FileAddress(f"{number}.env", "KEY")).check()
        assert caught.value.code == "sink_failed"
    assert len(probes) == 1


def test_the_check_removes_leftovers(tmp_path: Path) -> None:
    """It removes what a killed process left, even if the folder of the file does not exist yet."""
    leftover = tmp_path / ".provision-abcdefgh.tmp"
    leftover.mkdir()
    (leftover / "new").write_text("token")
    Files(tmp_path).sink(FileAddress("new/keys.env", "KEY")).check()
    assert list(tmp_path.iterdir()) == []


# Locks


def test_a_locked_folder_is_waited_for_once_a_run(tmp_path: Path) -> None:
    """Later keys fail at once, and are written after the lock is released."""
    files = Files(tmp_path, folders=Folders(LockWait(0.5)))
    sinks = [files.sink(FileAddress(f"{n % 3}.env", f"KEY_{n}")) for n in range(30)]
    start = time.monotonic()
    with locked(tmp_path):
        for sink in sinks:
            assert error_of_check_and_write(sink).code == "sink_unavailable"
    assert 0.5 <= time.monotonic() - start < 10
    time.sleep(0.5)  # the abandoned thread gets the lock and releases it
    sinks[0].write(Secret(FIRST))
    assert (tmp_path / "0.env").read_text() == f"KEY_0={FIRST}\n"


def test_a_lock_that_was_free_in_between_is_waited_for_less(tmp_path: Path) -> None:
    """A process that takes it again and again does not cost ten seconds each time."""
    files = Files(tmp_path, folders=Folders(LockWait(first=3, after_timeout=0.1)))
    sink = files.sink(FileAddress("keys.env", "KEY"))
    with locked(tmp_path):
        assert error_of_check_and_write(sink).code == "sink_unavailable"
    time.sleep(0.5)
    start = time.monotonic()
    with locked(tmp_path), pytest.raises(SinkError):
        sink.write(Secret(FIRST))
    assert time.monotonic() - start < 3


def test_the_lock_of_a_parent_folder_does_not_block(tmp_path: Path) -> None:
    """If this command runs under a lock of the project, it can still create folders."""
    with locked(tmp_path):
        sink = Files(tmp_path).sink(FileAddress("new/keys.env", "KEY"))
        sink.check()
        assert list(tmp_path.iterdir()) == []
        sink.write(Secret(FIRST))
    assert (tmp_path / "new/keys.env").read_text() == f"KEY={FIRST}\n"


def test_the_owner_of_the_parent_lock_may_remove_the_probe(tmp_path: Path, monkeypatch) -> None:
    """A probe that is removed early is not an error."""
    probes: list[Path] = []

    @contextmanager
    def beside(folder: Path, _: bytes) -> Iterator[None]:
        probes.append(folder)
        raise FileNotFoundError(errno.ENOENT, str(folder))
        yield

    monkeypatch.setattr(file_write, "temporary_file", beside)
    with locked(tmp_path):
        Files(tmp_path).sink(FileAddress("new/keys.env", "KEY")).check()
    assert probes == [tmp_path]


# Files that can be written but not replaced


class InPlaceBackend(Backend):
    """Files of a user who may not write to their folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = Folders()
        self.path = root / "keys.env"

    def sink(self, place: int = 0) -> Sink:
        return Files(self.root, folders=self.folders).sink(FileAddress("keys.env", f"KEY_{place}"))

    def stored(self, place: int = 0) -> str | None:
        text = self.path.read_text()
        if text:
            assert stat.S_IMODE(self.path.stat().st_mode) in (0o600, 0o400)
        values = dict(line.split("=", 1) for line in text.splitlines())
        return values.get(f"KEY_{place}")

    def strange_names(self) -> tuple[Sink, ...]:
        files = Files(self.root)
        names = ("a b.env", "'ö' \"🗝\".env", "line\nend.env")
        return tuple(files.sink(FileAddress(name, "KEY")) for name in names)

    @contextmanager
    def denied(self) -> Iterator[None]:
        self.path.chmod(0o400)
        yield
        self.path.chmod(0o600)

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.folders = Folders(LockWait(0.1))
        with locked(self.path):
            yield
        self.folders = Folders()


class TestFileInPlace(Compliance):
    @pytest.fixture
    def backend(self, place: Path) -> Iterator[Backend]:
        backend = InPlaceBackend(place)
        user = os.getuid() or NOBODY
        for name in ("keys.env", "a b.env", "'ö' \"🗝\".env", "line\nend.env"):
            (place / name).touch(0o644)
            os.chown(place / name, user, -1)
        place.chmod(0o555)
        with as_user(user):
            yield backend
        place.chmod(0o755)


@pytest.mark.parametrize("mode", [0o555, 0o311])
def test_a_writable_file_in_a_read_only_folder_is_written_in_place(
    place: Path, caplog, mode: int
) -> None:
    """It becomes private to this user, and there is one warning."""
    path = place / "keys.env"
    path.write_text("A=1\nKEY=" + "x" * 500 + "\nB=2\n")
    path.chmod(0o644)
    os.chown(path, os.getuid() or NOBODY, -1)
    number = path.stat().st_ino
    place.chmod(0o111 if mode == 0o311 else mode)
    caplog.set_level(logging.WARNING, "provisioner")
    with as_user(os.getuid() or NOBODY):
        sink = sink_of(path)
        sink.check()
        assert path.stat().st_mode & 0o777 == 0o644
        for token in (FIRST, SECOND, FIRST * 20, FIRST):
            sink.write(Secret(token))
            assert path.read_text() == f"A=1\nKEY={token}\nB=2\n"
        sink.check()
    place.chmod(0o755)
    assert path.stat().st_ino == number
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in place.iterdir()] == ["keys.env"]
    [warning] = caplog.records
    assert "written in place: a reader may see a half-written file" in warning.getMessage()


@pytest.mark.parametrize("name", ["keys.env", "a b\tc\\040.env"])
def test_a_mounted_file_is_written_in_place(tmp_path: Path, name: str) -> None:
    """A file mounted into a container cannot be replaced by a rename, whatever its name."""
    (tmp_path / "host").write_text("A=1\n")
    (tmp_path / name).touch()
    mounts = f"mount --bind \"$1/host\" '{tmp_path / name}'"
    warned, checked, written, again = run_steps(mounts, tmp_path, name, "check", FIRST, SECOND)
    assert warned.code == "warning"
    assert "written in place" in warned.message
    assert checked == written == again == OK
    assert (tmp_path / "host").read_text() == f"A=1\nKEY={SECOND}\n"
    assert stat.S_IMODE((tmp_path / "host").stat().st_mode) == 0o600
    assert {one.name for one in tmp_path.iterdir()} == {"host", name}


def test_an_unlisted_mount_is_found_by_the_write(tmp_path: Path, monkeypatch) -> None:
    """If the system lists no mounts, a failed rename leads to a write in place."""
    path = tmp_path / "keys.env"
    path.write_text("A=1\n")
    number = path.stat().st_ino

    def replace(*_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(Path, "replace", replace)
    folders = Folders(mounts=tmp_path / "nothing")
    sink = Files(tmp_path, folders=folders).sink(FileAddress("keys.env", "KEY"))
    sink.check()
    sink.write(Secret(FIRST))
    assert path.read_text() == f"A=1\nKEY={FIRST}\n"
    assert path.stat().st_ino == number
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def windows(monkeypatch) -> None:
    """Take away what a write in place needs."""
    monkeypatch.setattr(sys, "platform", "win32")
    for name in ("geteuid", "fstatvfs", "fchmod", "pwrite", "posix_fallocate", "O_NOFOLLOW"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.delattr(fcntl, "flock")


def denied(*_: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.usefixtures("windows")
def test_windows_writes_no_file_in_place(tmp_path: Path, monkeypatch) -> None:
    """A file that another program has open there cannot be replaced, and is unchanged."""
    path = tmp_path / "keys.env"
    path.write_text("A=1\n")
    monkeypatch.setattr(Path, "replace", denied)
    sink = sink_of(path)
    sink.check()
    with pytest.raises(SinkError) as caught:
        sink.write(Secret(FIRST))
    assert caught.value.code == "sink_denied"
    assert path.read_text() == "A=1\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("windows")
def test_windows_finds_a_protected_folder_by_the_check(tmp_path: Path, monkeypatch) -> None:
    """A folder in which nothing can be created is refused there, even if the file is writable."""
    path = tmp_path / "keys.env"
    path.write_text("A=1\n")
    monkeypatch.setattr(os, "fsync", denied)
    assert error_of_check_and_write(sink_of(path)).code == "sink_denied"
    assert path.read_text() == "A=1\n"


def test_a_mounted_file_in_a_read_only_container_is_written(tmp_path: Path) -> None:
    """The mounted file is writable, though the folder around it is not."""
    (tmp_path / "host").write_text("")
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "keys.env").touch()
    mounts = f'{READ_ONLY}mount --bind "{tmp_path}/host" "$1/keys.env"'
    _, checked, written = run_steps(mounts, folder, "keys.env", "check", FIRST)
    assert checked == written == OK
    assert (tmp_path / "host").read_text() == f"KEY={FIRST}\n"


def test_a_full_disk_under_a_mounted_file_changes_nothing(tmp_path: Path) -> None:
    """The check finds it, and so does the write before the content is changed."""
    disk, app = tmp_path / "disk", tmp_path / "app"
    disk.mkdir()
    app.mkdir()
    (app / "keys.env").touch()
    text = "A=" + "x" * 4090
    mounts = (
        f'mount -t tmpfs -o size=64k none "{disk}"\n'
        f'echo {text} >"{disk}/keys.env"\n'
        f'head -c 65536 /dev/zero >"{disk}/ballast" 2>/dev/null || true\n'
        f'mount --bind "{disk}/keys.env" "$1/keys.env"\n'
    )
    # The mounted file can be read only in that process, so its content is copied out.
    mounts += 'root=$1\nshift\n"$@"\ncp "$root/keys.env" "$root/../after"\nset -- sh sh -c :'
    _, checked, written = run_steps(mounts, app, "keys.env", "check", FIRST * 8)
    assert checked.code == written.code == "sink_failed"
    assert "Free disk space" in checked.remedy
    assert (tmp_path / "after").read_text() == f"{text}\n"


def test_a_mounted_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """It cannot be replaced, so no secret is written to it."""
    host = tmp_path / "host"
    host.write_text("A=1\n")
    host.chmod(0o666)
    (tmp_path / "keys.env").touch()
    mounts = f'mount --bind "$1/host" "$1/keys.env"\nchown {NOBODY} "$1/host"'
    checked, written = run_steps(mounts, tmp_path, "keys.env", "check", FIRST)
    assert checked == written
    assert checked.code == "sink_unsuitable"
    assert "another user" in checked.message
    assert "chown" in checked.remedy
    assert host.read_text() == "A=1\n"


def test_another_users_file_in_a_sticky_folder_is_refused(place: Path) -> None:
    """In /tmp, for example, it cannot be replaced, and its owner could read the token."""
    if os.getuid() != 0:
        pytest.skip("only root may be two users")
    path = place / "keys.env"
    path.write_text("A=1\n")
    path.chmod(0o666)
    place.chmod(0o1777)
    with as_user(NOBODY):
        error = error_of_check_and_write(sink_of(path))
    assert error.code == "sink_unsuitable"
    assert "chown" in error.remedy
    assert path.read_text() == "A=1\n"
    assert path.stat().st_uid == 0


def test_an_own_file_in_a_sticky_folder_is_replaced(place: Path) -> None:
    """The sticky bit does not prevent that rename."""
    if os.getuid() != 0:
        pytest.skip("only root may be two users")
    place.chmod(0o1777)
    with as_user(NOBODY):
        (place / "keys.env").touch(0o400)
        number = (place / "keys.env").stat().st_ino
        sink_of(place / "keys.env").check()
        sink_of(place / "keys.env").write(Secret(FIRST))
        assert (place / "keys.env").stat().st_ino != number


def test_a_file_in_an_immutable_folder_is_written_in_place(tmp_path: Path) -> None:
    """No temporary file can be created in the folder."""
    path = tmp_path / "keys.env"
    path.touch()
    with immutable(tmp_path):
        sink_of(path).check()
        sink_of(path).write(Secret(FIRST))
    assert path.read_text() == f"KEY={FIRST}\n"


# Interrupted writes in place


@pytest.fixture
def in_place(tmp_path: Path, monkeypatch) -> Path:
    """Provide a file that is written in place."""
    path = tmp_path / "keys.env"
    path.write_text("A=1\nKEY=old\n")

    def refuse(_: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(file_write.DiskFile, "_check_not_mounted", refuse)
    return path


class KilledError(Exception):
    """A simulated end of the process."""


@pytest.mark.parametrize("at", ["pwrite", "ftruncate", "fsync"])
@pytest.mark.parametrize(("before", "token"), [("old", FIRST), ("x" * 900, FIRST)])
def test_a_killed_write_in_place_is_repaired_by_the_next(
    in_place: Path, monkeypatch, at: str, before: str, token: str
) -> None:
    """After a kill between any two steps, the next write accepts the file."""
    in_place.write_text(f"A=1\nKEY={before}\n")

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(os, at, killed)
        with pytest.raises(KilledError):
            sink_of(in_place).write(Secret(token))
    content = in_place.read_bytes()
    assert content.startswith(b"A=1\nKEY=")
    sink_of(in_place).check()
    sink_of(in_place).write(Secret(SECOND))
    assert in_place.read_text().rstrip("\n") == f"A=1\nKEY={SECOND}"


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, None])
def test_space_need_not_be_reserved(in_place: Path, monkeypatch, number: int | None) -> None:
    """Not every file system or operating system can reserve space."""

    def reserve(*_: object) -> None:
        raise OSError(number, "not here")

    if number is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", reserve)
    sink_of(in_place).write(Secret(FIRST))
    assert in_place.read_text() == f"A=1\nKEY={FIRST}\n"


def test_a_short_write_is_continued(in_place: Path, monkeypatch) -> None:
    """The rest of the bytes follows."""
    inner = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: inner(descriptor, data[:7], at))
    sink_of(in_place).write(Secret(FIRST))
    assert in_place.read_text() == f"A=1\nKEY={FIRST}\n"
