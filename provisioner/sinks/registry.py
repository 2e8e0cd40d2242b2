"""Opens the sink of an address; the sinks of one vendor share what is created at first use."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, assert_never, cast

from provisioner.errors.codes import Code
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
from provisioner.runtime.process import Processes
from provisioner.sinks.not_run import NotRun
from provisioner.sinks.sink import sink_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from provisioner.model.sink_address import Address
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.sinks.sink import Sink

_Vendor = TypeVar("_Vendor")

_NO_RESTRICTIONS = Restrictions()


class SinkRegistry:
    """The sinks of one run.

    The vendors' modules are imported on demand and not at the top: a run without a vendor needs
    neither its library nor the time to load it.

    Args:
        root: the folder that relative paths start from.
        environ: the environment variables with the credentials of the vendors.
        stop: ends the waits between two attempts.
        declared: every address in the manifests. They are compared when the first file is opened,
            because two of them may lead to the same file.
        restrictions: the sinks, hosts and programs that this run may use.
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
        self._processes = Processes()

    def open(self, address: Address) -> Sink:
        """Open the sink of an address.

        Raises:
            SinkError: its extra or its credential is missing, or this run may not open it.
        """
        if (error := self._refusal(address)) is not None:
            raise error
        program = None if self._restrictions.programs else self._program(address)
        return self._open(address) if program is None else NotRun(address, program)

    def refusals(self, addresses: Iterable[Address]) -> Iterator[RefusedError]:
        """Yield a refusal for each sink that this run may not open, without contacting it."""
        for address in addresses:
            if (error := self._refusal(address)) is not None:
                yield RefusedError.of(error.failure)

    def _refusal(self, address: Address) -> SinkError | None:
        """Return the error for a sink that the options of this run do not allow."""
        rules = self._restrictions
        if rules.sinks and not rules.allows_sink(address, *self._resolved_names(address)):
            return sink_error(
                Code.SINK_NOT_ALLOWED,
                f"{address} is not allowed by --allow-sink.",
                "Correct `deliver`, or add the sink to --allow-sink in the workflow.",
            )
        if rules.hosts and (server := self._server(address)) and not rules.allows_host(server):
            return sink_error(
                Code.HOST_NOT_ALLOWED,
                f"The server of {address} is not allowed by --allow-host.",
                "Correct the server's address, or add its host to --allow-host in the workflow.",
            )
        return None

    def _resolved_names(self, address: Address) -> tuple[str, ...]:
        """Return the path of a file in the root after resolving symbolic links, if it differs."""
        if not isinstance(address, FileAddress) or "\0" in address.path:
            return ()
        root = Path(os.path.realpath(self._root))
        path = Path(os.path.normpath(root / address.file))
        real = Path(os.path.realpath(path))
        if real == path or not path.is_relative_to(root):
            return ()
        return ((real.relative_to(root) if real.is_relative_to(root) else real).as_posix(),)

    def _server(self, address: Address) -> str:
        """Return the server of a sink; empty if it has none, or none that can be reached."""
        place = (type(address), address.region if isinstance(address, AwsAddress) else None)
        with self._lock:
            if place not in self._servers:
                self._servers[place] = _server_of(address, self._environ)
            return self._servers[place]

    def _program(self, address: Address) -> str | None:
        """Return the program that a sink, or its credential, needs; None if it needs none."""
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

    def _open(self, address: Address) -> Sink:  # noqa: PLR0911 - one for each vendor
        match address:
            case FileAddress():
                from provisioner.sinks.file import Files  # noqa: PLC0415 - see above

                return self._shared(Files, lambda: Files(self._root, self._file_addresses())).sink(
                    address
                )
            case CommandAddress():
                from provisioner.sinks.command import Commands  # noqa: PLC0415 - see above

                return self._shared(Commands, lambda: Commands(self._root, self._processes)).sink(
                    address
                )
            case VaultAddress():
                from provisioner.sinks.vault import VaultServer  # noqa: PLC0415 - see above

                return self._shared(
                    VaultServer, lambda: VaultServer(self._environ, sleep=self._wait)
                ).sink(address)
            case AwsAddress():
                from provisioner.sinks.aws import SecretsManager  # noqa: PLC0415 - see above

                manager = self._shared(SecretsManager, lambda: SecretsManager(self._environ))
                return manager.sink(address)
            case GithubAddress():
                from provisioner.sinks.github import Github  # noqa: PLC0415 - see above

                return self._shared(Github, lambda: Github(self._environ, self._wait)).sink(address)
            case GitlabAddress():
                from provisioner.sinks.gitlab import Gitlab  # noqa: PLC0415 - see above

                return self._shared(Gitlab, lambda: Gitlab(self._environ, self._wait)).sink(address)
            case KubernetesAddress():
                from provisioner.sinks.kubernetes import Kubernetes  # noqa: PLC0415 - see above

                return self._shared(
                    Kubernetes,
                    lambda: Kubernetes(self._environ, self._wait, processes=self._processes),
                ).sink(address)
            case _:
                assert_never(address)

    def _file_addresses(self) -> Iterator[FileAddress]:
        return (one for one in self._declared if isinstance(one, FileAddress))

    def close(self) -> None:
        """Kill the programs that sinks have left running, and start no more."""
        self._processes.close()

    def _shared(self, kind: type[_Vendor], create: Callable[[], _Vendor]) -> _Vendor:
        """Return what the sinks of a vendor share, and create it if that has not succeeded yet."""
        with self._lock:
            if kind not in self._vendors:
                self._vendors[kind] = create()
            return cast("_Vendor", self._vendors[kind])


def _server_of(address: Address, environ: Mapping[str, str]) -> str:
    """Return the server of a sink; empty if it has none, or none that can be reached."""
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
