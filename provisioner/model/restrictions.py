"""Restrictions on the hosts, programs and sinks of a run, whatever its manifests say.

The manifests of a pull request cannot be trusted. These rules come from the command line, which
the pull request cannot change; they only restrict, and by default they restrict nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from provisioner.model.globs import matches

if TYPE_CHECKING:
    from pathlib import Path

    from provisioner.model.sink_address import Address


@dataclass(frozen=True, slots=True)
class SinkRule:
    """A rule for the sinks that a run may open.

    Attributes:
        kind: the kind of sink, as in `deliver`.
        glob: matched against the value of that kind in `deliver`; for `command`, against its
            programs.
    """

    kind: str
    glob: str = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restrictions:
    """The restrictions of one run.

    Attributes:
        environments: read instead of the environments.yaml in the manifests directory.
        against: the reviewed manifests; the run uses only the servers, sinks and programs
            that they name.
        hosts: globs of hosts, or of `host:port`; empty allows all hosts.
        programs: whether to run programs that manifests or the configuration of a sink name.
        sinks: the sinks that may be opened; empty allows all.
    """

    environments: Path | None = None
    against: Path | None = None
    hosts: tuple[str, ...] = ()
    programs: bool = True
    sinks: tuple[SinkRule, ...] = ()

    def allows_host(self, url: str) -> bool:
        """Return whether a run may connect to this URL; it always may to the embedded Twenty."""
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
            address: the address of the sink.
            also: other names of the target, which must be allowed too.
        """
        if not self.sinks:
            return True
        globs = tuple(rule.glob for rule in self.sinks if rule.kind == address.kind)
        return all(_matches_rule(name, globs) for name in (*address.targets, *also))


def _matches_rule(name: str, globs: tuple[str, ...]) -> bool:
    """Return whether a glob matches the name; a name with `..` is matched only by `*`."""
    leaves_folder = any(part in {".", ".."} for part in name.split("/")[1:])
    return any(glob == "*" or (not leaves_folder and fnmatchcase(name, glob)) for glob in globs)
