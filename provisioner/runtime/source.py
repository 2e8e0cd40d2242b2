"""Where this tool comes from: the only place that names its repository and a version of it.

The name of the distribution never stands by itself in a command: on a package index, anyone could
register it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACEHOLDER = "acme/provision"
"""The repository that the documentation names, for the reader to replace."""

PLACEHOLDER_REVISION = "0123456789abcdef0123456789abcdef01234567"
"""The commit of that repository, to be replaced too."""

PLACEHOLDER_TAG = "v1.0.0"
"""The tag of that commit."""

_DISTRIBUTION = "twenty-provisioner"
_SCHEMES = ("https", "http", "ssh", "git")
_SCP = re.compile(r"(?:[^@/:]+@)?(?P<host>[^@/:]{2,}):(?!/)(?P<path>.+)")
"""The short form of an ssh address; a host of one letter would be a drive of Windows."""

_VERSION_TAG = re.compile(r"v?\d+(\.\d+){0,2}")
_SHA256 = re.compile("[0-9a-f]{64}")
_EXTRA_LIBRARY = re.compile(
    r"(?P<library>[\w.-]+).*; extra == ['\"](?P<extra>(?!test['\"])\w+)['\"]"
)
_PLAIN = "/%:@+~,=[]"
"""Characters of a URL that mean nothing to a shell between double quotes."""


class Repository(NamedTuple):
    """A repository on a server.

    Attributes:
        host: the name of the server, in lower case.
        path: the path of the repository there, such as `acme/provision`.
    """

    host: str
    path: str


class Commit(NamedTuple):
    """A commit of a repository on a server.

    Attributes:
        repository: the repository.
        revision: the id of the commit.
        tag: the version tag that was asked for; None without one.
    """

    repository: Repository
    revision: str
    tag: str | None = None


class Source(NamedTuple):
    """The place that this tool was installed from.

    Attributes:
        address: the address as pip takes it after `@`: of a repository with the commit, a
            directory, or an archive with its hash if that was recorded. It has no credentials.
        commit: the commit, if the tool was installed from a repository on a server.
    """

    address: str
    commit: Commit | None


def parse_repository(url: str) -> Repository | None:
    """Return the repository that an address of git names; None if it is not on a server."""
    if "://" in url:
        try:
            parts = urlsplit(url)
            host, path = parts.hostname, parts.path
        except ValueError:
            return None
        if parts.scheme not in _SCHEMES or not host:
            return None
    else:
        found = _SCP.fullmatch(url)
        if found is None:
            return None
        host, path = found["host"], found["path"]
    return Repository(host.lower(), path.strip("/").removesuffix(".git"))


def installed_source() -> Source | None:
    """Return the source that the installer recorded (PEP 610); None if it recorded none."""
    import json  # noqa: PLC0415 - only `init` and an error about a library need it
    from importlib import metadata  # noqa: PLC0415 - as above

    try:
        record = metadata.distribution(_DISTRIBUTION).read_text("direct_url.json")
        document = json.loads(record or "null")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    address = _public(document.get("url")) if isinstance(document, dict) else None
    if address is None:
        return None
    match document:
        case {"vcs_info": {"vcs": "git", "commit_id": str(revision), **others}}:
            repository = parse_repository(address)
            tag = _version_tag(others)
            commit = None if repository is None else Commit(repository, revision, tag)
            return Source(f"git+{address}@{revision}", commit)
        case {"archive_info": dict(archive)}:
            return Source(address + _hash_of(archive), None)
        case {"dir_info": dict()}:
            return Source(address, None)
        case _:
            return None


def extra_remedy(extra: str) -> str:
    """Return the advice to install the library of an extra, as a sentence.

    It is the command of the program that installed this tool, with the source that it came from.
    """
    source = installed_source()
    if source is None:
        return (
            f"Install the tool from its repository with the extra `{extra}`; the GitHub action "
            'does so if its input `extras` names it (docs/adopting.md, "Installing").'
        )
    extras = ",".join(sorted({extra, *_installed_extras()}))
    requirement = f"{_DISTRIBUTION}[{extras}] @ {source.address}"
    return f'Install it with {_installer()} "{requirement}".'


def _installed_extras() -> set[str]:
    """Return the extras whose libraries are installed, which a new installation must not lose."""
    from importlib import metadata  # noqa: PLC0415 - as in `installed_source`

    libraries: dict[str, list[str]] = {}
    for requirement in metadata.requires(_DISTRIBUTION) or ():
        if found := _EXTRA_LIBRARY.fullmatch(requirement):
            libraries.setdefault(found["extra"], []).append(_normal(found["library"]))
    installed = {_normal(one.name or "") for one in metadata.distributions()}
    return {extra for extra, names in libraries.items() if installed.issuperset(names)}


def _normal(library: str) -> str:
    """Return the name of a library as all its spellings have it."""
    return re.sub(r"[-_.]+", "-", library).lower()


def _installer() -> str:
    """Return the command that installed this tool, without what to install."""
    from importlib import metadata  # noqa: PLC0415 - as in `installed_source`

    if Path(sys.prefix, "pipx_metadata.json").is_file():
        return "pipx install --force"
    if Path(sys.prefix, "uv-receipt.toml").is_file():
        return "uv tool install --force"
    installer = metadata.distribution(_DISTRIBUTION).read_text("INSTALLER") or ""
    return "uv pip install" if installer.strip() == "uv" else "pip install"


def _public(url: object) -> str | None:
    """Return a URL without its password, query and fragment, which may be secret.

    The user of an ssh address stays, because the address does not work without it.
    """
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    user, at, server = parts.netloc.rpartition("@")
    kept = user.partition(":")[0] + at if parts.scheme == "ssh" else ""
    return f"{parts.scheme}://{kept}{server}{quote(parts.path, safe=_PLAIN)}"


def _hash_of(archive: Mapping[object, object]) -> str:
    """Return the fragment of a URL that pins an archive to its recorded hash, or nothing."""
    match archive:
        case {"hashes": {"sha256": str(digest)}} if _SHA256.fullmatch(digest):
            return f"#sha256={digest}"
        case _:
            return ""


def _version_tag(info: Mapping[object, object]) -> str | None:
    """Return the tag of a version that the user asked for; None for a branch or a commit."""
    match info.get("requested_revision"):
        case str(requested) if _VERSION_TAG.fullmatch(requested):
            return requested
        case _:
            return None
