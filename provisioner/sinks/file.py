"""The sink `file`: a variable of a dotenv file, a member of a JSON object, or a whole file.

A file is replaced completely or not at all, under a lock that writers in other processes wait for,
and only its owner may read it (mode 0600). A file that can be written but not replaced is written
in place. Windows has neither that lock nor that mode: there, only one process at a time may write a
file, and its folder must be closed to other users.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar

from provisioner.errors.codes import Code
from provisioner.model.sink_address import Address
from provisioner.secret import Secret
from provisioner.sinks.file_entry import InvalidTextError
from provisioner.sinks.file_text import (
    Entries,
    FileFormat,
    check_name,
    effective_entry,
    entries_of,
    with_value,
)
from provisioner.sinks.file_write import DiskFile, FileError, FileFailure, Folders, file_failure
from provisioner.sinks.git import Git
from provisioner.sinks.kind import (
    CLEAN,
    DEFAULT_VARIABLE,
    NO_DOTS,
    VARIABLE,
    Allowed,
    Option,
    SinkKind,
)
from provisioner.sinks.sink import Content, Empty, StoredValue, sink_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from provisioner.errors.exceptions import SinkError
    from provisioner.sinks.kind import OptionValues

_TIMESTAMP_RESOLUTION = 100_000_000
"""Nanoseconds; more than any file system needs."""

_STREAM = re.compile(r"/dev/(?:std(?:in|out|err)|fd/.*)|/proc/.*")

_NUL = FileFailure(Code.SINK_UNSUITABLE, "has a NUL character in its path", "Choose another path.")
_NOT_A_FILE = FileFailure(
    Code.SINK_UNSUITABLE, "is not a regular file", "Choose the path of a file."
)


@dataclass(frozen=True, slots=True)
class FileAddress(Address):
    """A variable of a dotenv file, a member of a JSON object, or a whole file.

    Attributes:
        path: as written; a relative one starts at the parent of the manifests directory.
        variable: empty for a `bare` file, which contains only a token.
    """

    kind: ClassVar[str] = "file"
    path: str
    variable: str
    format: FileFormat = "dotenv"

    @property
    def file(self) -> str:
        """Return the normalized path; it does not resolve links or the root directory."""
        normal = posixpath.normpath(self.path)
        # POSIX lets each system decide on two leading slashes; here they count as one.
        return f"/{normal.lstrip('/')}" if normal.startswith("/") else normal

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place."""
        return ("file", self.file, self.variable)

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the path."""
        return (self.file,)

    @property
    def shared_file(self) -> tuple[str, str]:
        """Return the path and the format."""
        return (self.file, self.format)

    def __str__(self) -> str:
        return f"file {self.path} {self.variable}".rstrip()


class Files:
    """The files of one run. Addresses of the same file share what was found out about it.

    Args:
        root: the folder that relative paths start from; `~` has no special meaning.
        declared: every address that this run or another one may deliver a token to.
        folders: the folders of the files.
        timestamp_resolution: the nanoseconds within which a file may change twice without a new
            timestamp.
    """

    def __init__(
        self,
        root: Path,
        declared: Iterable[FileAddress] = (),
        *,
        folders: Folders | None = None,
        timestamp_resolution: int = _TIMESTAMP_RESOLUTION,
    ) -> None:
        self._root = root.absolute()
        self._shared_locations = _shared_locations(self._root, declared)
        self._lock = threading.Lock()
        self._files: dict[tuple[Path, FileFormat], _File] = {}
        self._folders = folders or Folders()
        self._resolution = timestamp_resolution
        self._git = Git(self._root)

    def sink(self, address: FileAddress) -> FileSink:
        """Open the sink of an address; symbolic links are followed now.

        Raises:
            SinkError: the path or the variable name is not valid, or another address leads to the
                same variable of the same file.
        """
        with _as_sink_errors(address):
            if "\0" in address.path:
                raise FileError(_NUL)
            check_name(address.variable, address.format)
            path = self._root / address.file
            real = Path(os.path.realpath(path))
            for other in self._shared_locations.get((str(real), address.variable), ()):
                if other.place != address.place:
                    raise FileError(_shared_location_failure(other))
        with self._lock:
            file = self._files.get((real, address.format))
            if file is None:
                disk = DiskFile(real, self._folders)
                file = _File(
                    path,
                    real,
                    address.format,
                    disk,
                    self._git,
                    timestamp_resolution=self._resolution,
                )
                self._files[real, address.format] = file
        return FileSink(address, file)


class FileSink:
    """One variable of a dotenv file, or one top-level member of a JSON object.

    If several lines assign a variable, the last one counts, as for every reader: bash,
    python-dotenv ("File format"), Node's dotenv ("FAQ"), Docker Compose ("Env file syntax").
    Everything else in the file is kept byte for byte.
    """

    def __init__(self, address: FileAddress, file: _File) -> None:
        self._address = address
        self._file = file

    def check(self) -> None:
        """Check that the file can be written, has its format, and is not tracked by git.

        Raises:
            SinkError: the file certainly cannot hold a token, or not safely.
        """
        with _as_sink_errors(self._address):
            self._file.check()
            self._file.value(self._address.variable)

    def read(self) -> Content:
        """Return the value of the variable; Empty without the file, the variable or a value.

        Raises:
            SinkError: the file could not be read, or cannot hold the variable.
        """
        with _as_sink_errors(self._address):
            value = self._file.value(self._address.variable)
        return StoredValue(Secret.received(value)) if value else Empty()

    def write(self, token: Secret) -> None:
        """Write the token to the file, and create missing folders.

        Raises:
            SinkError: the token was not written, or a power failure may lose it.
        """
        with _as_sink_errors(self._address):
            self._file.set_value(self._address.variable, token)


def _shared_locations(
    root: Path, declared: Iterable[FileAddress]
) -> dict[tuple[str, str], tuple[FileAddress, ...]]:
    """Return the variables, by real path, that several addresses reach by symbolic links."""
    first: dict[tuple[str, str], FileAddress] = {}
    shared: dict[tuple[str, str], tuple[FileAddress, ...]] = {}
    folders: dict[str, str] = {}
    for address in declared:
        folder, name = os.path.split(os.path.join(root, address.file))  # noqa: PTH118 - for many
        try:
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            real = os.path.join(folders[folder], name)  # noqa: PTH118 - as above
            if os.path.islink(real):  # noqa: PTH114 - as above
                real = os.path.realpath(real)
        except ValueError:  # not a valid path, which opening its sink reports
            continue
        place = (real, address.variable)
        other = first.setdefault(place, address)
        if other is not address and other.place != address.place:
            shared[place] = (*shared.get(place, (other,)), address)
    return shared


def _shared_location_failure(other: FileAddress) -> FileFailure:
    return FileFailure(
        Code.SINK_UNSUITABLE,
        f"leads to the same place as {other} through a symbolic link",
        "Give each key its own file or variable.",
    )


@contextmanager
def _as_sink_errors(address: FileAddress) -> Iterator[None]:
    """Turn the errors of a file into errors of one of its sinks."""
    try:
        yield
    except FileError as error:
        raise _to_sink_error(address, error.failure) from None
    except InvalidTextError as error:
        raise sink_error(Code.SINK_UNSUITABLE, f"{address} {error.reason}.", error.remedy) from None
    except OSError as error:
        raise _to_sink_error(address, file_failure(error)) from None
    except UnicodeEncodeError:
        message = f"{str(address)!a} has a path or a value that cannot be encoded."
        raise sink_error(Code.SINK_UNSUITABLE, message, "Choose another path.") from None


def _to_sink_error(address: FileAddress, failure: FileFailure) -> SinkError:
    return sink_error(failure.code, f"{address} {failure.reason}.", failure.remedy)


class _File:
    """One file, for any number of variables and threads.

    Args:
        declared_path: the path in the manifest, made absolute.
        path: the same path without symbolic links, so that a link stays and its target is replaced.
        file_format: the format of its text.
        disk: the same file on the disk.
        git: finds out whether git would publish the file.
        timestamp_resolution: the nanoseconds within which it may change twice without a new
            timestamp.
    """

    def __init__(  # noqa: PLR0913 - everything that its variables share
        self,
        declared_path: Path,
        path: Path,
        file_format: FileFormat,
        disk: DiskFile,
        git: Git,
        *,
        timestamp_resolution: int,
    ) -> None:
        self._declared_path = declared_path
        self._path = path
        self._format = file_format
        self._disk = disk
        self._git = git
        self._resolution = timestamp_resolution
        self._probe_lock = threading.Lock()
        self._probed = False
        self._probe_failure: FileFailure | None = None
        self._parse_lock = threading.Lock()
        self._parsed: _ParsedFile | None = None

    def check(self) -> None:
        """Try, once a run, what a write will do, without leaving anything behind."""
        self._check_not_published()
        self._status()
        with self._probe_lock:
            if not self._probed:
                self._probe_failure = self._probe()
                self._probed = True
        if self._probe_failure is not None:
            raise FileError(self._probe_failure)

    def _probe(self) -> FileFailure | None:
        try:
            self._disk.probe()
        except FileError as error:
            return error.failure
        except OSError as error:
            return file_failure(error)
        return None

    def value(self, variable: str) -> str:
        """Return the value of a variable, empty without it; an unchanged file is parsed once."""
        entry = effective_entry(self.current_entries().get(variable, ()), self._format)
        return "" if entry is None else entry.value

    def set_value(self, variable: str, value: Secret) -> None:
        """Replace the value of a variable, or add the variable."""
        self._check_not_published()
        self._status()

        def new_content() -> bytes:
            text = with_value(self._text(), variable, value, self._format)
            return text.encode("utf-8", "surrogateescape")

        self._disk.rewrite(new_content)

    @cached_property
    def _publication_failure(self) -> FileFailure | None:
        return self._git.publication_failure(self._path)

    def _check_not_published(self) -> None:
        if self._publication_failure is not None:
            raise FileError(self._publication_failure)

    def _status(self) -> os.stat_result | None:
        """Return the status of the file; None if it does not exist yet."""
        try:
            status = self._declared_path.stat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode) or _STREAM.fullmatch(
            os.path.normpath(self._declared_path)
        ):
            raise FileError(_NOT_A_FILE)
        return status

    def current_entries(self) -> Entries:
        """Return the current entries of each variable of the file."""
        with self._parse_lock:
            status = self._status()
            if status is None:
                return {}
            times = (status.st_mtime_ns, status.st_ctime_ns)
            fingerprint = (status.st_dev, status.st_ino, status.st_size, *times)
            if self._parsed is None or self._parsed.fingerprint != fingerprint:
                parsed = _ParsedFile(fingerprint, entries_of(self._text(), self._format))
                is_stable = abs(time.time_ns() - status.st_ctime_ns) > self._resolution
                self._parsed = parsed if is_stable else None
                return parsed.entries
            return self._parsed.entries

    def _text(self) -> str:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return ""
        # A killed write in place may leave NULs at the end.
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class _ParsedFile:
    """The entries of a file, and a fingerprint that tells whether it has changed since."""

    fingerprint: tuple[int, ...]
    entries: Entries


def _aliases(address: FileAddress, root: Path) -> tuple[str, ...]:
    """Return the path of a file in the root after resolving symbolic links, if it differs."""
    if "\0" in address.path:
        return ()
    root = Path(os.path.realpath(root))
    path = Path(os.path.normpath(root / address.file))
    real = Path(os.path.realpath(path))
    if real == path or not path.is_relative_to(root):
        return ()
    return ((real.relative_to(root) if real.is_relative_to(root) else real).as_posix(),)


_OTHER_FORMATS = frozenset({".yaml", ".yml", ".toml", ".ini", ".xml"})
"""Suffixes of file formats that a sink cannot write."""


def _address(values: OptionValues) -> FileAddress:
    path = values.text("file")
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _OTHER_FORMATS and not values.optional("format"):
        values.reject(
            "file",
            f"`file` ends in {suffix}, which is neither dotenv nor JSON",
            "a path that ends in .env or .json, or add `format: dotenv` if that is what you mean",
        )
    if values.text("format", "json" if suffix == ".json" else "dotenv") == "json":
        return FileAddress(path, values.text("variable", values.variable), "json")
    return FileAddress(path, values.text("variable", values.variable, VARIABLE))


SINK = SinkKind(
    title="File",
    description="A variable in a dotenv file, or a member of a JSON object.",
    options=(
        Option(
            "file",
            "File",
            "The path of the file. Relative paths start at the parent of the manifests directory.",
            Allowed(
                re.compile(rf"(?:{CLEAN}*/)?{NO_DOTS}(?:(?!/){CLEAN})+"),
                "the path of a file, without control characters",
            ),
            examples=("secrets/{environment}.env",),
            is_path=True,
        ),
        Option(
            "variable",
            "Variable",
            f"The variable or member that contains the token. {DEFAULT_VARIABLE}",
            examples=("SVC_BILLING",),
        ),
        Option(
            "format",
            "Format",
            "The format of the file: dotenv or json. By default json for a path that ends in "
            ".json, and dotenv otherwise. Required for a path that ends in .yaml, .yml, .toml, "
            ".ini or .xml.",
            choices=("dotenv", "json"),
        ),
    ),
    address=_address,
    connect=lambda context: (
        Files(context.root, (one for one in context.declared if isinstance(one, FileAddress))).sink
    ),
    aliases=_aliases,
)
