"""What the workflow lets a run do, whatever its manifests say: hosts, programs and sinks.

The manifests of a pull request are a stranger's. These rules come from the command line, which is
not in the pull request; they only take away, and the value without any takes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, assert_never
from urllib.parse import urlsplit

from provisioner.model.globs import matches
from provisioner.model.sink_address import (
    AwsAddress,
    CommandAddress,
    FileAddress,
    GithubAddress,
    GitlabAddress,
    KubernetesAddress,
    VaultAddress,
)

if TYPE_CHECKING:
    from pathlib import Path

    from provisioner.model.environment import SinkKind
    from provisioner.model.sink_address import Address


@dataclass(frozen=True, slots=True)
class SinkRule:
    """Sinks that a run may open.

    Attributes:
        kind: as `deliver` writes it.
        glob: over what `deliver` writes behind the kind; of a `command` over its programs.
    """

    kind: SinkKind
    glob: str = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restrictions:
    """The rules of one run.

    Attributes:
        environments: read in place of the environments.yaml of the manifests directory.
        against: the manifests that a change goes to; what they do not reach is not reached.
        hosts: globs of hosts, or of `host:port`; empty allows every host.
        programs: whether programs run that manifests or the configuration of a sink name.
        sinks: the sinks that may be opened; empty allows every one.
    """

    environments: Path | None = None
    against: Path | None = None
    hosts: tuple[str, ...] = ()
    programs: bool = True
    sinks: tuple[SinkRule, ...] = ()

    def allows_host(self, url: str) -> bool:
        """Return whether the server of a URL may be spoken to; the embedded Twenty always may."""
        if not self.hosts or url.startswith("sandbox:"):
            return True
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            return False
        names = (host, f"{host}:{port or {'https': 443, 'http': 80}.get(parts.scheme)}")
        globs = tuple(glob.lower() for glob in self.hosts)
        return bool(host) and any(matches(name, globs) for name in names)

    def allows_sink(self, address: Address, *also: str) -> bool:
        """Return whether a sink may be opened.

        Args:
            address: of the sink.
            also: other names of what it writes, which have to be allowed too.
        """
        if not self.sinks:
            return True
        kind = address.place[0]
        globs = tuple(rule.glob for rule in self.sinks if rule.kind == kind)
        return all(_matches_rule(name, globs) for name in (*_names(address), *also))


def _matches_rule(name: str, globs: tuple[str, ...]) -> bool:
    """Whether a glob has the name; one that leaves its folder has only a glob for all."""
    leaves = any(part in {".", ".."} for part in name.split("/")[1:])
    return any(glob == "*" or (not leaves and fnmatchcase(name, glob)) for glob in globs)


def _names(address: Address) -> tuple[str, ...]:  # noqa: PLR0911 - one for each kind
    """The names that rules are held against."""
    match address:
        case FileAddress(file=file):
            return (file,)
        case CommandAddress(argv=argv, check=check):
            return (argv[0], check[0]) if check else (argv[0],)
        case VaultAddress(mount=mount, path=path):
            return (f"{mount}/{path}",)
        case AwsAddress(secret=secret):
            return (secret,)
        case GithubAddress(owner=owner, repository=repository):
            return (f"{owner}/{repository}" if repository else owner,)
        case GitlabAddress(project=project):
            return (project,)
        case KubernetesAddress(namespace=namespace, secret=secret):
            return (f"{namespace}/{secret}",)
        case _:
            assert_never(address)
