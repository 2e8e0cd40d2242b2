"""The sink `file`: a variable of a dotenv file, a member of a JSON object, or a whole file.

A file is replaced completely or not at all, under a lock that writers in other processes wait for,
and only its owner may read it (mode 0600). A file that can be written but not replaced is written
in place. Windows has neither that lock nor that mode: there, only one process at a time may write a
file, and its folder must be closed to other users.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar

from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken
from provisioner.secret import Secret
from provisioner.sinks.file_locations import FILE_PATH, FileLocations, normalized, real_name
from provisioner.sinks.file_text import (
    FileFormat,
    FileText,
    effective_entry,
    with_values,
    without_value,
)
from provisioner.sinks.file_write import DiskFile, Folders, as_sink_errors, file_error
from provisioner.sinks.git import Git
from provisioner.sinks.kind import (
    DEFAULT_VARIABLE,
    VARIABLE,
    Option,
    SinkKind,
)
from provisioner.sinks.sink import Content, SinkFailure, StoredValue, UnusableError, unsuitable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from provisioner.errors.exceptions import SinkError
    from provisioner.sinks.kind import OptionValues

_TIMESTAMP_RESOLUTION = 100_000_000
"""Nanoseconds; more than any file system needs."""

_STREAM = re.compile(r"/dev/(?:std(?:in|out|err)|fd/.*)|/proc/.*")


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
        return normalized(self.path)

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

    @property
    def on_this_machine(self) -> bool:
        """Return whether the path is relative; an absolute one may be on a shared volume."""
        return not self.path.startswith("/")

    @property
    def removes(self) -> bool:
        """Return True: the sink can remove a token."""
        return True

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
        self._locations = FileLocations(self._root, declared)
        self._lock = threading.Lock()
        self._files: dict[tuple[Path, FileFormat], _File] = {}
        self.folders = folders or Folders()
        self.timestamp_resolution = timestamp_resolution
        self.git = Git(self._root)

    def sink(self, address: FileAddress) -> FileSink:
        """Open the sink of an address; symbolic links are followed now.

        Raises:
            SinkError: the path is not valid, or another address leads to the same variable of the
                same file.
        """
        with as_sink_errors(address):
            if "\0" in address.path:
                raise unsuitable("has a NUL character in its path", "Choose another.").error(
                    address
                )
            path = self._root / address.file
            real = Path(os.path.realpath(path))
            failure = self._locations.collision(address, real)
            if failure is not None:
                raise failure.error(address)
        with self._lock:
            if (real, address.format) not in self._files:
                self._files[real, address.format] = _File(real, path, address.format, self)
        return FileSink(address, self._files[real, address.format])


@dataclass(frozen=True, slots=True)
class FileSink:
    """One variable of a dotenv file, or one top-level member of a JSON object.

    If several lines assign a variable, the last one counts, as for every reader: bash,
    python-dotenv ("File format"), Node's dotenv ("FAQ"), Docker Compose ("Env file syntax").
    Everything else in the file is kept byte for byte.
    """

    address: FileAddress
    group: _File

    def check(self) -> None:
        """Check that the file can be written, has its format, and is not tracked by git.

        Raises:
            SinkError: the file certainly cannot hold a token, or not safely.
        """
        with as_sink_errors(self.address):
            self.group.check_usable()
            self.group.probe()
            self.group.value(self.address.variable)

    def read(self) -> Content:
        """Return the value of the variable; NoToken without the file, the variable or a value.

        Raises:
            SinkError: the file could not be read, or cannot hold the variable.
        """
        with as_sink_errors(self.address):
            return self.group.value(self.address.variable)

    def write(self, token: Secret) -> None:
        """Write the token to the file, and create missing folders.

        Raises:
            SinkError: the token was not written, or a power failure may lose it.
        """
        for error in self.group.write({self.address: token}).values():
            raise error

    def remove(self, token: Secret) -> bool:
        """Remove the variable from the file, which stays even if it becomes empty.

        Raises:
            SinkError: the token was not removed, or a power failure may bring it back.
        """
        with as_sink_errors(self.address):
            return self.group.remove(self.address.variable, token)


class _NotThisValueError(Exception):
    """A variable does not have the value that was to be removed, so its file stays as it is."""


class _File(DiskFile):
    """One file, for any number of variables and threads.

    Args:
        path: its path without symbolic links, so that a link stays and its target is replaced.
        declared_path: the path in the manifest, made absolute.
        file_format: the format of its text.
        files: the files of the run.
    """

    def __init__(
        self, path: Path, declared_path: Path, file_format: FileFormat, files: Files
    ) -> None:
        super().__init__(path, files.folders)
        self._declared_path = declared_path
        self._format = file_format
        self._files = files
        self._parse_lock = threading.Lock()
        self._parsed = FileText("", file_format, {})
        self._fingerprint: tuple[int, ...] = ()

    def value(self, variable: str) -> Content:
        """Return the value of a variable; NoToken without the file, the variable or a value."""
        return _value(self._current(), variable)

    def read(self, addresses: Collection[FileAddress]) -> Mapping[FileAddress, Content | SinkError]:
        """Return the values of some variables, from one reading of the file."""
        try:
            current = self._current()
        except (UnusableError, OSError) as error:
            return {address: file_error(address, error) for address in addresses}
        found: dict[FileAddress, Content | SinkError] = {}
        for address in addresses:
            try:
                found[address] = _value(current, address.variable)
            except UnusableError as error:
                found[address] = file_error(address, error)
        return found

    def write(self, tokens: Mapping[FileAddress, Secret]) -> Mapping[FileAddress, SinkError]:
        """Replace the values of some variables, or add them, with one writing of the file."""
        errors: dict[FileAddress, SinkError] = {}

        def new_content() -> bytes:
            errors.clear()
            text, refused = self._with_tokens(tokens)
            errors.update(refused)
            return text.encode("utf-8", "surrogateescape")

        try:
            self.check_usable()
            self.rewrite(new_content)
        except (UnusableError, OSError, UnicodeEncodeError) as error:
            return {address: file_error(address, error) for address in tokens} | errors
        return errors

    def remove(self, variable: str, token: Secret) -> bool:
        """Remove a variable if it has this value; return whether the value is gone."""
        self.check_usable()
        if isinstance(self.value(variable), NoToken):
            return True  # in particular, no folder is created
        with suppress(_NotThisValueError):
            self.rewrite(lambda: self._without_token(variable, token))
            return True
        return isinstance(self.value(variable), NoToken)

    def _without_token(self, variable: str, token: Secret) -> bytes:
        """Return the content of the file without a variable.

        Raises:
            _NotThisValueError: the variable has another value, or none.
        """
        new = without_value(self._parse(self._text()), variable, token.reveal())
        if new is None:
            raise _NotThisValueError
        with self._parse_lock:
            self._parsed, self._fingerprint = new, ()
        return new.text.encode("utf-8", "surrogateescape")

    def _with_tokens(
        self, tokens: Mapping[FileAddress, Secret]
    ) -> tuple[str, Mapping[FileAddress, SinkError]]:
        """Return the text with new values, and the errors of those that it cannot hold.

        Raises:
            UnusableError: it can hold none of them.
        """
        new = self._parse(self._text())
        errors: dict[FileAddress, SinkError] = {}
        try:
            new = with_values(new, {one.variable: token for one, token in tokens.items()})
        except UnusableError:
            for address, token in tokens.items():
                try:
                    new = with_values(new, {address.variable: token})
                except UnusableError as error:
                    errors[address] = file_error(address, error)
            if len(errors) == len(tokens):
                raise
        with self._parse_lock:
            self._parsed, self._fingerprint = new, ()
        return new.text, errors

    @cached_property
    def _publication_failure(self) -> SinkFailure | None:
        return self._files.git.publication_failure(self.path)

    def check_usable(self) -> None:
        """Raise if the file is not a regular one, or if git would publish it."""
        if self._publication_failure is not None:
            raise UnusableError(self._publication_failure)
        self._status()

    def _status(self) -> os.stat_result | None:
        """Return the status of the file; None if it does not exist yet."""
        try:
            status = self._declared_path.stat()
        except FileNotFoundError:
            return None
        is_stream = _STREAM.fullmatch(os.path.normpath(self._declared_path))
        if is_stream or not stat.S_ISREG(status.st_mode):
            raise UnusableError(unsuitable("is not a regular file", "Choose another path."))
        return status

    def _current(self) -> FileText:
        """Return the current text of the file; an unchanged file is read once."""
        with self._parse_lock:
            status = self._status()
            if status is None:
                return FileText("", self._format, {})
            times = (status.st_mtime_ns, status.st_ctime_ns)
            fingerprint = (status.st_dev, status.st_ino, status.st_size, *times)
            if self._fingerprint != fingerprint:
                self._fingerprint = ()
                self._parsed = self._parse(self._text())
                resolution = self._files.timestamp_resolution
                if abs(time.time_ns() - status.st_ctime_ns) > resolution:
                    self._fingerprint = fingerprint
            return self._parsed

    def _parse(self, text: str) -> FileText:
        """Parse a text, unless it is the one that was parsed last."""
        last = self._parsed
        return last if text == last.text else FileText.of(text, self._format)

    def _text(self) -> str:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return ""
        # A killed write in place may leave NULs at the end.
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _value(text: FileText, variable: str) -> Content:
    entry = effective_entry(text.entries.get(variable, ()), text.format)
    return StoredValue(Secret.received(entry.value)) if entry and entry.value else NoToken()


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
            FILE_PATH,
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
            "The format of the file: dotenv or json. The default is json for a path that ends "
            "in .json, and dotenv otherwise. It is required for a path that ends in .yaml, .yml, "
            ".toml, .ini or .xml.",
            choices=("dotenv", "json"),
        ),
    ),
    address=_address,
    connect=lambda context: (
        Files(context.root, (one for one in context.declared if isinstance(one, FileAddress))).sink
    ),
    aliases=lambda address, root: real_name(address.path, root),
)
