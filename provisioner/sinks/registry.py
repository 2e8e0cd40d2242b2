"""Makes the sink of an address; what a vendor's sinks share is made once, when first needed."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, assert_never, cast

from provisioner.errors.exceptions import RefusedError, SinkError
from provisioner.model.restrictions import Restrictions
from provisioner.model.sink_address import (
    AwsAddress,
    CommandAddress,
    FileAddress,
    GithubAddress,
    GitlabAddress,
    KubernetesAddress,
    VaultAddress,
)
from provisioner.sinks.not_run import NotRun
from provisioner.sinks.sink import failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from provisioner.model.sink_address import Address
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.command import Commands
    from provisioner.sinks.sink import Sink

_Vendor = TypeVar("_Vendor")

_NO_RESTRICTIONS = Restrictions()


class SinkRegistry:
    """Opens the sinks of one run.

    Vendors are imported here and not at the top: a run without one needs neither its library nor
    the time to load it.

    Args:
        root: where relative paths stand.
        environ: the variables that vendors' credentials come from.
        stop: ends the waits between two tries.
        declared: every address of the manifests, looked at when the first file is opened: two of
            them may be one file.
        restrictions: what this run may open.
    """

    def __init__(
        self,
        root: Path,
        environ: Mapping[str, str],
        stop: Cancellation,
        declared: Iterable[Address] = (),
        restrictions: Restrictions = _NO_RESTRICTIONS,
    ) -> None:
        self._root = root
        self._environ = environ
        self._wait = stop.sleep
        self._declared = declared
        self._restrictions = restrictions
        self._servers: dict[tuple[type, str | None], str] = {}
        self._lock = threading.Lock()
        self._vendors: dict[type, object] = {}
        self._closing: list[Callable[[], None]] = []

    def open(self, address: Address) -> Sink:
        """The sink of an address.

        Raises:
            SinkError: when its extra or its credential is missing, or the run may not open it.
        """
        if (why := self._forbidden(address)) is not None:
            raise why
        program = None if self._restrictions.programs else self._program(address)
        return self._opened(address) if program is None else NotRun(address, program)

    def refusals(self, addresses: Iterable[Address]) -> Iterator[RefusedError]:
        """Yield why sinks may not be opened; nothing is read from them or sent to them."""
        for address in addresses:
            if (why := self._forbidden(address)) is not None:
                yield RefusedError(why.code, why.message, remedy=why.remedy)

    def _forbidden(self, address: Address) -> SinkError | None:
        """Why the run may not open a sink, as its workflow says."""
        rules = self._restrictions
        if rules.sinks and not rules.allows_sink(address, *self._real_names(address)):
            return failed(
                "sink_not_allowed",
                f"{address} is not among the sinks that this run may open.",
                "Correct `deliver`, or have the workflow allow it with --allow-sink.",
            )
        if rules.hosts and (server := self._server(address)) and not rules.allows_host(server):
            return failed(
                "host_not_allowed",
                f"{address} is on a server that this run may not speak to.",
                "Correct the server, or have the workflow allow its host with --allow-host.",
            )
        return None

    def _real_names(self, address: Address) -> tuple[str, ...]:
        """Where a file in the root leads to by the symbolic links of the checkout."""
        if not isinstance(address, FileAddress) or "\0" in address.path:
            return ()
        root = Path(os.path.realpath(self._root))
        path = Path(os.path.normpath(root / address.file))
        real = Path(os.path.realpath(path))
        if real == path or not path.is_relative_to(root):
            return ()
        return ((real.relative_to(root) if real.is_relative_to(root) else real).as_posix(),)

    def _server(self, address: Address) -> str:
        """The server of a sink; empty where it has none, or none that can be reached."""
        place = (type(address), address.region if isinstance(address, AwsAddress) else None)
        with self._lock:
            if place not in self._servers:
                self._servers[place] = _server_of(address, self._environ)
            return self._servers[place]

    def _program(self, address: Address) -> str | None:
        """The program that a sink runs, or that its credential comes from; None without one."""
        match address:
            case CommandAddress(argv=argv):
                return argv[0]
            case KubernetesAddress():
                from provisioner.sinks.kubernetes import program_of  # noqa: PLC0415 - see above

                return program_of(self._environ)
            case AwsAddress():
                from provisioner.sinks.aws import program_of as process  # noqa: PLC0415 - see above

                return process()
            case _:
                return None

    def _opened(self, address: Address) -> Sink:  # noqa: PLR0911 - one for each vendor
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
        self._closing.append(commands.close)
        return commands

    def close(self) -> None:
        """Ends what sinks have left running, where a stop left them no more time."""
        for end in self._closing:
            end()

    def _vendor(self, kind: type[_Vendor], make: Callable[[], _Vendor]) -> _Vendor:
        """What all sinks of a vendor share; one that cannot be made is tried again."""
        with self._lock:
            if kind not in self._vendors:
                self._vendors[kind] = make()
            return cast("_Vendor", self._vendors[kind])


def _server_of(address: Address, environ: Mapping[str, str]) -> str:
    match address:
        case FileAddress() | CommandAddress():
            return ""
        case VaultAddress():
            from provisioner.sinks import vault  # noqa: PLC0415 - see above

            return vault.server_of(environ)
        case AwsAddress(region=region):
            from provisioner.sinks import aws  # noqa: PLC0415 - see above

            return aws.server_of(environ, region)
        case GithubAddress():
            from provisioner.sinks import github  # noqa: PLC0415 - see above

            return github.server_of(environ)
        case GitlabAddress():
            from provisioner.sinks import gitlab  # noqa: PLC0415 - see above

            return gitlab.server_of(environ)
        case KubernetesAddress():
            from provisioner.sinks import kubernetes  # noqa: PLC0415 - see above

            return kubernetes.server_of(environ)
        case _:
            assert_never(address)
