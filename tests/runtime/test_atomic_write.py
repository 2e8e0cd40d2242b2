"""Files that are written completely or not at all."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from provisioner.runtime.atomic_write import ForeignOwnerError, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.fast


def test_a_file_is_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    """The new content replaces the old one, and no temporary file remains."""
    file = tmp_path / "file"
    file.write_bytes(b"old")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert os.name == "nt" or stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_an_existing_file_can_be_kept(tmp_path: Path) -> None:
    """Without `replace` an existing file is an error and unchanged, and a new one is written."""
    file = tmp_path / "file"
    write_atomically(file, b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_atomically(file, b"second", replace=False)
    assert file.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask for groups")
def test_the_umask_restricts_the_mode(tmp_path: Path) -> None:
    """A file for everybody gets the permissions that the user's other files get."""
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"x", mode=0o666)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    """If the disk is full, the old content remains."""
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def fsync(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no user ids")
def test_another_owner_never_gets_the_content(tmp_path: Path, monkeypatch) -> None:
    """Where new files belong to another user, only data that is no secret is written."""
    monkeypatch.setattr(os, "geteuid", lambda: -1)
    with pytest.raises(ForeignOwnerError):
        write_atomically(tmp_path / "file", b"secret")
    assert list(tmp_path.iterdir()) == []
    write_atomically(tmp_path / "file", b"a plan", secret=False)
    assert (tmp_path / "file").read_bytes() == b"a plan"
