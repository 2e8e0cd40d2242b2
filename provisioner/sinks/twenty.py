"""The sink `twenty`: a remote in the configuration of Twenty's own command line.

The file is replaced completely or not at all, as by the sink `file`, and everything else in it is
kept. Its structure is not recorded (docs/twenty-api.md, "The command line of Twenty").
"""

from __future__ import annotations

import json
import logging
import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from provisioner.http_client.exchange import json_of
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken
from provisioner.secret import Secret
from provisioner.sinks.file_write import DiskFile, Folders, file_failure
from provisioner.sinks.git import Git
from provisioner.sinks.kind import Option, SinkKind
from provisioner.sinks.sink import (
    Content,
    SinkFailure,
    StoredValue,
    UnusableError,
    naming,
    unsuitable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from provisioner.http_client.exchange import Json
    from provisioner.sinks.kind import OptionValues

_LOG = logging.getLogger(__name__)

_VERSION = 1
_SESSION = "twentyCLIAccessToken"
"""The member of a remote that is used instead of its key."""

_CORRECT = "Correct the file, or move it away."
_NO_HOME = unsuitable(
    "cannot be used: there is no ~/.twenty/config.json, because HOME is not set",
    "Set HOME.",
)
_NO_ADDRESS = unsuitable(
    "cannot be used: the embedded Twenty has no address after the run",
    "Choose another sink for this environment, or serve it with `provision sandbox`.",
)


@dataclass(frozen=True, slots=True)
class TwentyAddress(Address):
    """A remote of Twenty's command line.

    Attributes:
        environment: the name of the environment whose URL the remote gets.
    """

    kind: ClassVar[str] = "twenty"
    remote: str
    environment: str

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place; environments share the file."""
        return ("twenty", self.remote)

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the name of the remote."""
        return (self.remote,)

    @property
    def on_this_machine(self) -> bool:
        """Return True: the remotes are in the home directory."""
        return True

    def __str__(self) -> str:
        return f"twenty {self.remote}"


class Remotes:
    """The remotes of one run, which share a file.

    Args:
        root: the folder of the run.
        environ: the variable `HOME`; without it, the home directory of the user counts.
        urls: the URL of each environment.
        folders: the folders of files.
    """

    def __init__(
        self,
        root: Path,
        environ: Mapping[str, str],
        urls: Mapping[str, str],
        folders: Folders | None = None,
    ) -> None:
        self._urls = urls
        self._config: _Config | None = None
        home = environ.get("HOME")
        with suppress(RuntimeError):  # no HOME, and a user without an account, as in containers
            home = str(Path.home()) if home is None else home
        if home:
            # The folder may be a link, as in a container; the file itself may not.
            folder = Path(os.path.realpath(Path(home, ".twenty")))
            self._config = _Config(folder / "config.json", folders or Folders(), Git(root))

    def sink(self, address: TwentyAddress) -> Remote:
        """Open a remote.

        Raises:
            SinkError: there is no home directory, or the environment has no lasting URL.
        """
        url = self._urls.get(address.environment, "")
        with naming(address):
            if self._config is None:
                raise UnusableError(_NO_HOME)
            if not url.startswith("http"):
                raise UnusableError(_NO_ADDRESS)
        return Remote(address, url, self._config)


class Remote:
    """One remote: its `apiUrl` and its `apiKey`."""

    def __init__(self, address: TwentyAddress, url: str, config: _Config) -> None:
        self._address = address
        self._url = url
        self._config = config

    def check(self) -> None:
        """Check that the file can be written, and warn of a session that is used instead.

        Raises:
            SinkError: the file certainly cannot hold a token, or not safely.
        """
        with self._errors():
            remote = self._remote(self._config.document())
            self._config.check()
        if remote.get(_SESSION):
            self._config.warn_of_session(self._address)

    def read(self) -> Content:
        """Return the key; NoToken without one, or if the remote is of another server.

        Raises:
            SinkError: the file cannot be read, or has another structure.
        """
        with self._errors():
            remote = self._remote(self._config.document())
            token = remote.get("apiKey") or ""
            if not isinstance(token, str):
                raise UnusableError(unsuitable("has an apiKey that is not text", _CORRECT))
        is_delivered = token and remote.get("apiUrl") == self._url
        return StoredValue(Secret.received(token)) if is_delivered else NoToken()

    def write(self, token: Secret) -> None:
        """Write the URL and the key, and create a missing file.

        Raises:
            SinkError: the key was not written, or a power failure may lose it.
        """

        def new_content() -> bytes:
            document = self._config.document()
            new = {"apiUrl": self._url, "apiKey": token.reveal()}
            # Each level is looked up first, so that a file of another structure stays as it is.
            remote = self._remote(document) | new
            remotes = _object(document, "remotes") | {self._address.remote: remote}
            document = document or {"version": _VERSION, "defaultRemote": self._address.remote}
            text = json.dumps(document | {"remotes": remotes}, indent=2, ensure_ascii=False)
            return f"{text}\n".encode()

        with self._errors():
            self._config.rewrite(new_content)

    def _remote(self, document: dict[str, Json]) -> dict[str, Json]:
        return _object(_object(document, "remotes"), self._address.remote)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the errors of the file into errors of this remote."""
        try:
            yield
        except UnusableError as error:
            failure = error.failure
        except OSError as error:
            failure = file_failure(error)
        else:
            return
        raise failure.error(f"{self._address} in {self._config.path}")


class _Config(DiskFile):
    """The file with all remotes."""

    def __init__(self, path: Path, folders: Folders, git: Git) -> None:
        super().__init__(path, folders)
        self._git = git
        self._with_session: set[TwentyAddress] = set()

    def check(self) -> None:
        """Try what a write will do, without leaving anything behind."""
        self._check_private()
        self.probe()

    def rewrite(self, new_content: Callable[[], bytes]) -> None:
        self._check_private()
        super().rewrite(new_content)

    def document(self) -> dict[str, Json]:
        """Return the content; an empty object without a file."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return {}
        if not stat.S_ISREG(status.st_mode):
            reason = "is a symbolic link" if self.path.is_symlink() else "is not a regular file"
            raise UnusableError(unsuitable(reason, "Put a file in its place."))
        # A killed write in place may leave NULs at the end.
        data = self.path.read_bytes().rstrip(b"\0")
        try:
            document = json_of(data) if data.strip() else {}
            json.dumps(document, allow_nan=False)  # a number may be too large to be written again
        except ValueError:
            raise UnusableError(unsuitable("is in a file that is not JSON", _CORRECT)) from None
        if not isinstance(document, dict):
            raise UnusableError(unsuitable("is in a file that is not a JSON object", _CORRECT))
        if document.get("version", _VERSION) != _VERSION:
            reason = f"is in a file of another version than {_VERSION}"
            raise UnusableError(unsuitable(reason, "Use another sink."))
        return document

    def warn_of_session(self, address: TwentyAddress) -> None:
        """Warn once a run that a signed-in session is used instead of the key."""
        if address not in self._with_session:
            self._with_session.add(address)
            _LOG.warning(
                "%s has a %s in %s, which is used instead of the delivered key: sign out there, or "
                "choose another remote",
                address,
                _SESSION,
                self.path,
            )

    @cached_property
    def _publication_failure(self) -> SinkFailure | None:
        return self._git.publication_failure(self.path)

    def _check_private(self) -> None:
        if self._publication_failure is not None:
            raise UnusableError(self._publication_failure)


def _object(document: dict[str, Json], name: str) -> dict[str, Json]:
    """Return a member that is an object; an empty one if there is none."""
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnusableError(unsuitable(f"has a {name!r} that is not a JSON object", _CORRECT))
    return value


def _address(values: OptionValues) -> TwentyAddress:
    return TwentyAddress(values.text("twenty"), values.environment)


SINK = SinkKind(
    title="Twenty",
    description="A remote of Twenty's own command line, in ~/.twenty/config.json.",
    options=(
        Option(
            "twenty",
            "Twenty",
            "The name of the remote. It gets the environment's `url` and the token.",
            examples=("{environment}",),
        ),
    ),
    address=_address,
    connect=lambda context: Remotes(context.root, context.environ, context.urls).sink,
)
