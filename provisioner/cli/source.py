"""Where this tool comes from: the only place that names its repository and a version of it."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

PLACEHOLDER = "acme/provision"
"""The repository that the documentation names, for the reader to replace."""

PLACEHOLDER_REVISION = "0123456789abcdef0123456789abcdef01234567"
"""The commit of that repository, to be replaced too."""

_DISTRIBUTION = "twenty-provisioner"
_SCHEMES = ("https", "http", "ssh", "git")
_SCP = re.compile(r"(?:[^@/:]+@)?(?P<host>[^@/:]{2,}):(?!/)(?P<path>.+)")
"""The short form of an ssh address; a host of one letter would be a drive of Windows."""


class Repository(NamedTuple):
    """A repository on a server.

    Attributes:
        host: the name of the server, in lower case.
        path: the path of the repository there, such as `acme/provision`.
    """

    host: str
    path: str


class Source(NamedTuple):
    """The repository that this tool was installed from.

    Attributes:
        repository: the repository.
        revision: the commit.
    """

    repository: Repository
    revision: str


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
    """Return the source that pip recorded (PEP 610); None if it did not install from git."""
    import json
    from importlib import metadata

    try:
        record = metadata.distribution(_DISTRIBUTION).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
    match None if record is None else json.loads(record):
        case {"url": str(url), "vcs_info": {"vcs": "git", "commit_id": str(revision)}}:
            repository = parse_repository(url)
            return None if repository is None else Source(repository, revision)
        case _:
            return None
