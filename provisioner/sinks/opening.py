"""Makes the sink of an address; what a vendor's sinks share is made once, when first needed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar, assert_never, cast

from provisioner.address import (
    AwsAddress,
    CommandAddress,
    FileAddress,
    GithubAddress,
    GitlabAddress,
    KubernetesAddress,
    VaultAddress,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from provisioner.address import Address
    from provisioner.sinks.command import Commands
    from provisioner.sinks.sink import Sink
    from provisioner.stop import Stop

_Vendor = TypeVar("_Vendor")


class Sinks:
    """Opens the sinks of one run.

    Vendors are imported here and not at the top: a run without one needs neither its library nor
    the time to load it.

    Args:
        root: where relative paths stand.
        environ: the variables that vendors' credentials come from.
        stop: ends the waits between two tries.
        declared: every address of the manifests, looked at when the first file is opened: two of
            them may be one file.
    """

    def __init__(
        self,
        root: Path,
        environ: Mapping[str, str],
        stop: Stop,
        declared: Iterable[Address] = (),
    ) -> None:
        self._root = root
        self._environ = environ
        self._wait = stop.sleep
        self._declared = declared
        self._lock = threading.Lock()
        self._vendors: dict[type, object] = {}
        self._at_end: list[Callable[[], None]] = []

    def open(self, address: Address) -> Sink:  # noqa: PLR0911 - one for each vendor
        """The sink of an address.

        Raises:
            SinkError: when its extra or its credential is missing.
        """
        match address:
            case FileAddress():
                from provisioner.sinks.file import Files  # noqa: PLC0415 - see above

                return self._vendor(Files, lambda: Files(self._root, self._files())).sink(address)
            case CommandAddress():
                from provisioner.sinks.command import Commands  # noqa: PLC0415 - see above

                return self._vendor(Commands, self._commands).sink(address)
            case VaultAddress():
                from provisioner.sinks.vault import VaultServer  # noqa: PLC0415 - see above

                return self._vendor(
                    VaultServer, lambda: VaultServer(self._environ, sleep=self._wait)
                ).sink(address)
            case AwsAddress():
                from provisioner.sinks.aws import SecretsManager  # noqa: PLC0415 - see above

                manager = self._vendor(SecretsManager, lambda: SecretsManager(self._environ))
                return manager.sink(address)
            case GithubAddress():
                from provisioner.sinks.github import Github  # noqa: PLC0415 - see above

                return self._vendor(Github, lambda: Github(self._environ, self._wait)).sink(address)
            case GitlabAddress():
                from provisioner.sinks.gitlab import Gitlab  # noqa: PLC0415 - see above

                return self._vendor(Gitlab, lambda: Gitlab(self._environ, self._wait)).sink(address)
            case KubernetesAddress():
                from provisioner.sinks.kubernetes import Kubernetes  # noqa: PLC0415 - see above

                return self._vendor(Kubernetes, lambda: Kubernetes(self._environ, self._wait)).sink(
                    address
                )
            case _:
                assert_never(address)

    def _files(self) -> Iterator[FileAddress]:
        return (one for one in self._declared if isinstance(one, FileAddress))

    def _commands(self) -> Commands:
        from provisioner.sinks.command import Commands  # noqa: PLC0415 - see above

        commands = Commands(self._root)
        self._at_end.append(commands.end)
        return commands

    def close(self) -> None:
        """Ends what sinks have left running, where a stop left them no more time."""
        for end in self._at_end:
            end()

    def _vendor(self, kind: type[_Vendor], make: Callable[[], _Vendor]) -> _Vendor:
        """What all sinks of a vendor share; one that cannot be made is tried again."""
        with self._lock:
            if kind not in self._vendors:
                self._vendors[kind] = make()
            return cast("_Vendor", self._vendors[kind])
