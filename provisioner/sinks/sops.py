"""The sink `sops`: a place in a YAML, JSON or dotenv file that is encrypted by SOPS.

The program `sops` decrypts and encrypts; the file stays encrypted, and may be tracked by git. It is
replaced completely or not at all, as by the sink `file`.

Relies on sops 3.11.0, which was used for the tests: `sops set --value-stdin` (new in that version)
and `sops unset` change one place and keep comments and the ciphertext of all others; a wrong key
and a changed file have exit codes of their own, but a missing place and a file that is not
encrypted do not. `sops decrypt --extract` cannot tell a mapping from text, so the whole file is
decrypted.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import subprocess
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shutil import which
from typing import TYPE_CHECKING, ClassVar

from provisioner.errors.codes import Code
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken
from provisioner.secret import Secret
from provisioner.sinks.file_locations import (
    FILE_PATH,
    FileLocations,
    normalized,
    overlap,
    real_name,
)
from provisioner.sinks.file_write import DiskFile, Folders, LockWait, as_sink_errors, file_error
from provisioner.sinks.kind import CLEAN, DEFAULT_VARIABLE, VARIABLE, Allowed, Option, SinkKind
from provisioner.sinks.sink import Content, SinkFailure, StoredValue, UnusableError, unsuitable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from provisioner.errors.exceptions import SinkError
    from provisioner.runtime.process import Processes
    from provisioner.sinks.kind import OptionValues

_TIMEOUT = 60.0
"""Seconds for sops to finish; it may have to ask a KMS."""

_LOCK_WAIT = LockWait(first=60.0)
"""Longer than for other files, because sops runs once for each token of the file."""

_MAX_ATTEMPTS = 3
"""Attempts to change a file that somebody else changes at the same time."""

_FORMATS = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".env": "dotenv"}
"""The type of a file in sops, by the end of its path."""

_NOT_INSTALLED = SinkFailure(
    Code.SINK_MISSING,
    "needs the program sops, which is not installed",
    "Install sops 3.11 or later, or correct PATH.",
)
_NO_FILE = SinkFailure(
    Code.SINK_MISSING,
    "is in a file that does not exist",
    "Create the file with `sops edit`, which also chooses the keys that encrypt it.",
)
_NOT_A_FILE = unsuitable("is not in a regular file", "Choose another path.")
_NOT_ENCRYPTED = unsuitable(
    "is in a file that sops has not encrypted",
    "Encrypt the file with `sops encrypt --in-place`, or choose another one.",
)
_IN_CLEAR = unsuitable(
    "would not be encrypted, because of the rules in its file",
    "Choose another `path`, or change `encrypted_regex` or the like with `sops edit`.",
)
_BELOW_TEXT = unsuitable(
    "is below a value that is not a mapping", "Choose another `path`, or remove that value."
)
_NOT_TEXT = unsuitable(
    "is a mapping or a list, which a token would replace", "Choose another `path`."
)
_CHANGING = SinkFailure(
    Code.SINK_UNAVAILABLE,
    "is in a file that changes all the time",
    "Run the command again once nobody else changes the file.",
)
_NO_KEY = SinkFailure(
    Code.SINK_DENIED,
    "cannot be decrypted: sops finds no key for it",
    "Give sops a key that may decrypt the file, for example in SOPS_AGE_KEY_FILE, or the "
    "credential for its KMS.",
)
_TAMPERED = unsuitable(
    "is in a file that was changed without sops, which refuses to decrypt it",
    "Restore the file from git; `sops decrypt` shows what is wrong.",
)
_SLOW = SinkFailure(
    Code.SINK_UNAVAILABLE,
    f"cannot be used: sops did not finish within {_TIMEOUT:.0f} seconds",
    "Check that its KMS can be reached, and that it does not prompt for input.",
)
_FAILURES = {24: _TAMPERED, 25: _TAMPERED, 51: _TAMPERED, 52: _TAMPERED, 128: _NO_KEY}
"""The failures of exit codes (sops, `cmd/sops/codes`)."""


@dataclass(frozen=True, slots=True)
class SopsAddress(Address):
    """A place in a file that is encrypted by SOPS.

    Attributes:
        path: the path of the file as written; a relative one starts at the parent of the manifests
            directory.
        keys: the keys of the mappings that lead to the place, in the first document of the file.
    """

    kind: ClassVar[str] = "sops"
    path: str
    keys: tuple[str, ...]

    @property
    def file(self) -> str:
        """Return the normalized path; it does not resolve links or the root directory."""
        return normalized(self.path)

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place."""
        return ("sops", self.file, *self.keys)

    @property
    def containers(self) -> tuple[tuple[str, ...], ...]:
        """Return the places of the mappings that lead to this one."""
        return tuple(self.place[:end] for end in range(3, 2 + len(self.keys)))

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the path."""
        return (self.file,)

    @property
    def shared_file(self) -> tuple[str, str]:
        """Return the path and the format."""
        return (self.file, "sops")

    @property
    def on_this_machine(self) -> bool:
        """Return whether the path is relative; an absolute one may be on a shared volume."""
        return not self.path.startswith("/")

    @property
    def removes(self) -> bool:
        """Return True: the sink can remove a token."""
        return True

    def __str__(self) -> str:
        return f"sops {self.path} {'.'.join(self.keys)}"


class SopsFiles:
    """The files of one run. Addresses of the same file share what was found out about it.

    Args:
        root: the folder that relative paths start from.
        processes: the programs of the run.
        environ: the environment variables for sops.
        declared: every address that this run or another one may deliver a token to.
    """

    def __init__(
        self,
        root: Path,
        processes: Processes,
        environ: Mapping[str, str],
        declared: Iterable[SopsAddress] = (),
    ) -> None:
        self._root = root.absolute()
        self._sops = _Sops(processes, environ)
        self._locations = FileLocations(self._root, declared)
        self._folders = Folders(_LOCK_WAIT)
        self._lock = threading.Lock()
        self._files: dict[Path, _File] = {}

    def sink(self, address: SopsAddress) -> SopsSink:
        """Open the sink of an address; symbolic links are followed now.

        Raises:
            SinkError: another address leads to the same place of the same file, or to one that
                contains it or is inside it.
        """
        with as_sink_errors(address):
            path = Path(os.path.realpath(self._root / address.file))
            failure = self._locations.collision(address, path)
            if failure is not None:
                raise UnusableError(failure)
        with self._lock:
            if path not in self._files:
                self._files[path] = _File(path, self._folders, self._sops, _format(address.path))
        return SopsSink(address, self._files[path])


@dataclass(frozen=True, slots=True)
class SopsSink:
    """One place in a file. Everything else in the file is kept, comments too."""

    address: SopsAddress
    group: _File

    def check(self) -> None:
        """Check that sops can encrypt a value at the place, and that the file can be replaced.

        Raises:
            SinkError: the file certainly cannot hold a token, or not encrypted.
        """
        with as_sink_errors(self.address):
            self.group.check(self.address.keys)

    def read(self) -> Content:
        """Return the decrypted value; NoToken if there is none.

        Raises:
            SinkError: the file could not be read or decrypted.
        """
        with as_sink_errors(self.address):
            return _content(self.group.document(), self.address.keys)

    def write(self, token: Secret) -> None:
        """Encrypt the token at the place, and create missing mappings above it.

        Raises:
            SinkError: the token was not written, or a power failure may lose it.
        """
        for error in self.group.write({self.address: token}).values():
            raise error

    def remove(self, token: Secret) -> bool:
        """Remove the last key of the place; the mapping stays even if it becomes empty.

        Raises:
            SinkError: the token was not removed, or a power failure may bring it back.
        """
        with as_sink_errors(self.address):
            return self.group.remove(self.address.keys, token)


class _Sops:
    """The program sops. No token is in its arguments, and its messages are not shown."""

    def __init__(self, processes: Processes, environ: Mapping[str, str]) -> None:
        self._processes = processes
        self._environ = environ

    def run(self, folder: Path, *arguments: str, data: bytes = b"") -> bytes:
        """Return the output of a command.

        Args:
            folder: the folder to run it in, from which sops looks for its configuration.
            arguments: the command, and its arguments.
            data: its standard input.

        Raises:
            _ExitError: it failed.
            UnusableError: it cannot be run, or does not finish.
        """
        program = which("sops", path=self._environ.get("PATH"))
        if program is None or not Path(program).is_absolute():
            raise UnusableError(_NOT_INSTALLED)
        try:
            with self._processes.running(
                (program, *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=folder,
                environ=self._environ,
            ) as process:
                output, _ = process.communicate(data, _TIMEOUT)
        except subprocess.TimeoutExpired:
            raise UnusableError(_SLOW) from None
        except OSError as error:
            reason = f"cannot be used: sops cannot be started ({error.strerror})"
            remedy = "Check that `sops --version` works."
            raise UnusableError(SinkFailure(Code.SINK_FAILED, reason, remedy)) from None
        if process.returncode:
            raise _ExitError(process.returncode)
        return output


class _ExitError(Exception):
    """A command of sops failed, with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _NotThisValueError(Exception):
    """A place does not hold the value that was to be removed, so its file stays as it is."""


class _File(DiskFile):
    """One file, for any number of places and threads.

    Args:
        path: its path without symbolic links.
        folders: the folders of the run.
        sops: the program.
        file_format: the type of the file in sops.
    """

    def __init__(self, path: Path, folders: Folders, sops: _Sops, file_format: str) -> None:
        super().__init__(path, folders, keeps_mode=True)
        self._sops = sops
        self._types = ("--input-type", file_format, "--output-type", file_format)
        self._format = file_format
        self._lock_document = threading.Lock()
        self._document: Mapping[str, object] = {}
        self._fingerprint: tuple[int, ...] = ()
        self._encrypted: set[tuple[str, ...]] = set()

    def document(self) -> Mapping[str, object]:
        """Return the decrypted content; an unchanged file is decrypted once."""
        with self._lock_document:
            status = self._status()
            times = (status.st_mtime_ns, status.st_ctime_ns)
            fingerprint = (status.st_dev, status.st_ino, status.st_size, *times)
            if self._fingerprint != fingerprint:
                self._document = self._decrypt(self.path)
                self._fingerprint = fingerprint
            return self._document

    def check(self, keys: tuple[str, ...]) -> None:
        """Try what a write needs, with a placeholder and a copy of the file."""
        _content(self.document(), keys)
        self.probe()
        with self._copy() as copy:
            self._check_encrypts(copy, keys)

    def read(self, addresses: Collection[SopsAddress]) -> Mapping[SopsAddress, Content | SinkError]:
        """Return the values at some places, from one decryption of the file."""
        found: dict[SopsAddress, Content | SinkError] = {}
        for address in addresses:
            try:
                found[address] = _content(self.document(), address.keys)
            except (UnusableError, OSError) as error:
                found[address] = file_error(address, error)
        return found

    def write(self, tokens: Mapping[SopsAddress, Secret]) -> Mapping[SopsAddress, SinkError]:
        """Replace the values at some places, or add them, with one writing of the file."""
        errors: dict[SopsAddress, SinkError] = {}

        def change(copy: Path) -> None:
            errors.clear()
            document = self._decrypt(copy)
            done: list[SopsAddress] = []
            for address, token in tokens.items():
                try:
                    _content(document, address.keys)
                    _check_apart(address, done)
                    if address.keys not in self._encrypted:
                        self._check_encrypts(copy, address.keys)
                    self._set(copy, address.keys, token.reveal())
                    done.append(address)
                except UnusableError as error:
                    errors[address] = file_error(address, error)
                    if len(errors) == len(tokens):
                        raise

        try:
            self._rewrite(change)
        except (UnusableError, OSError) as error:
            return {address: file_error(address, error) for address in tokens} | errors
        return errors

    def remove(self, keys: tuple[str, ...], token: Secret) -> bool:
        """Remove a place if it has this value; return whether the value is gone."""
        content: list[Content] = []

        def change(copy: Path) -> None:
            content[:] = [_content(self._decrypt(copy), keys)]
            if content != [StoredValue(token)]:
                raise _NotThisValueError
            self._run(copy, "unset", *self._types, str(copy), _index(keys))

        with suppress(_NotThisValueError):
            self._rewrite(change)
            return True
        return content == [NoToken()]

    def _rewrite(self, change: Callable[[Path], None]) -> None:
        """Replace the file by a changed copy, unless somebody else has changed it meanwhile."""

        def new_content() -> bytes:
            for _ in range(_MAX_ATTEMPTS):
                before = self.path.read_bytes()
                with self._copy() as copy:
                    change(copy)
                    after = copy.read_bytes()
                if self.path.read_bytes() == before:
                    return after
            raise UnusableError(_CHANGING)

        self._status()  # in particular, no folder is created
        self.rewrite(new_content)
        self._fingerprint = ()

    def _status(self) -> os.stat_result:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise UnusableError(_NO_FILE) from None
        if not stat.S_ISREG(status.st_mode):
            raise UnusableError(_NOT_A_FILE)
        return status

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        """Copy the encrypted file to a private folder, because sops writes in place."""
        from tempfile import TemporaryDirectory  # noqa: PLC0415 - `validate` writes nothing

        with TemporaryDirectory(prefix="provision-") as folder:
            copy = Path(folder, "copy")
            copy.write_bytes(self.path.read_bytes())
            yield copy

    def _decrypt(self, path: Path) -> Mapping[str, object]:
        """Return the decrypted content of the file, or of a copy."""
        types = ("--input-type", self._format, "--output-type", "json")
        try:
            document = json.loads(self._run(path, "decrypt", *types, str(path)))
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise UnusableError(_unknown("prints no JSON object"))
        return document

    def _check_encrypts(self, copy: Path, keys: tuple[str, ...]) -> None:
        """Raise if sops leaves the value at a place in clear; the copy stays as it is."""
        before = copy.read_bytes()
        try:
            self._set(copy, keys, f"provision-check-{secrets.token_hex(8)}")
        finally:
            copy.write_bytes(before)
        self._encrypted.add(keys)

    def _set(self, copy: Path, keys: tuple[str, ...], value: str) -> None:
        """Set the value at a place of a copy, which is unchanged if that fails."""
        before = copy.read_bytes()
        command = ("set", *self._types, "--value-stdin", str(copy), _index(keys))
        try:
            self._run(copy, *command, data=json.dumps(value).encode())
            _check_hidden(copy, value)
        except UnusableError:
            copy.write_bytes(before)
            raise

    def _run(self, path: Path, *arguments: str, data: bytes = b"") -> bytes:
        """Return the output of a command about the file or a copy."""
        folder = self.path.parent
        try:
            return self._sops.run(folder, *arguments, data=data)
        except _ExitError as error:
            failure = _FAILURES.get(error.code)
            if failure is None:
                failure = _unknown(f"failed with exit code {error.code}")
                # A file that is not encrypted has no exit code of its own.
                with suppress(_ExitError, ValueError):
                    status = self._sops.run(folder, "filestatus", *self._types[:2], str(path))
                    if json.loads(status) == {"encrypted": False}:
                        failure = _NOT_ENCRYPTED
        raise UnusableError(failure)


def _check_apart(address: SopsAddress, others: Iterable[SopsAddress]) -> None:
    """Raise if a place of the same file is this one, contains it or is inside it."""
    for other in others:
        if all(one == another for one, another in zip(address.keys, other.keys, strict=False)):
            raise UnusableError(overlap(other))


def _check_hidden(copy: Path, value: str) -> None:
    if value.encode() in copy.read_bytes():
        raise UnusableError(_IN_CLEAR)


def _unknown(reason: str) -> SinkFailure:
    return SinkFailure(
        Code.SINK_FAILED,
        f"cannot be used: sops {reason}",
        "Run `sops decrypt` on the file by hand to see the message, and check that `sops "
        "--version` is 3.11 or later.",
    )


def _index(keys: tuple[str, ...]) -> str:
    """Return a place in the syntax of sops, which knows no escapes."""
    return "".join(f'["{key}"]' for key in keys)


def _content(document: Mapping[str, object], keys: tuple[str, ...]) -> Content:
    """Return the value at a place; NoToken if there is none.

    Raises:
        UnusableError: a token there would replace something that is no text.
    """
    value: object = document
    for key in keys:
        if value is None:
            return NoToken()
        if not isinstance(value, dict):
            raise UnusableError(_BELOW_TEXT)
        value = value.get(key)
    if isinstance(value, dict | list):
        raise UnusableError(_NOT_TEXT)
    if value is None or value == "":
        return NoToken()
    return StoredValue(Secret.received(value if isinstance(value, str) else json.dumps(value)))


def _format(path: str) -> str:
    return next(each for end, each in _FORMATS.items() if path.lower().endswith(end))


def _address(values: OptionValues) -> SopsAddress:
    path, keys = values.text("sops"), values.texts("path", values.variable)
    if not path.lower().endswith(tuple(_FORMATS)):
        reason = f"`sops` ends in {PurePosixPath(path).suffix or PurePosixPath(path).name}"
        values.reject("sops", reason, "a path that ends in .yaml, .yml, .json or .env")
    elif _format(path) == "dotenv" and not (len(keys) == 1 and VARIABLE.pattern.fullmatch(keys[0])):
        values.reject("path", "a dotenv file has no mappings", "a list of one name of a variable")
    if keys[0] == "sops" or (path.lower().endswith(".env") and keys[0].startswith("sops_")):
        values.reject("path", f"`{keys[0]}` is where sops keeps its own data", "another name")
    return SopsAddress(path, keys)


SINK = SinkKind(
    title="SOPS",
    description="A place in a file that is encrypted by SOPS, through the program sops.",
    options=(
        Option(
            "sops",
            "File",
            "The path of the encrypted file, which must exist and end in .yaml, .yml, .json or "
            ".env. Relative paths start at the parent of the manifests directory.",
            FILE_PATH,
            examples=("secrets/{environment}.yaml",),
            is_path=True,
        ),
        Option(
            "path",
            "Path",
            "The keys of the mappings that lead to the token in the file. " + DEFAULT_VARIABLE,
            # `sops set` splits a place at each bracket.
            Allowed(re.compile(rf"(?:(?!\[){CLEAN})+"), "a key without [ and control characters"),
            examples=(["twenty", "{name}"],),
            is_list=True,
        ),
    ),
    address=_address,
    connect=lambda context: (
        SopsFiles(
            context.root,
            context.processes,
            context.environ,
            (one for one in context.declared if isinstance(one, SopsAddress)),
        ).sink
    ),
    program_of=lambda _address, _environ: "sops",
    aliases=lambda address, root: real_name(address.path, root),
)
