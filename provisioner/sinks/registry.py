"""The kinds of sinks, and the sinks of one run."""

from __future__ import annotations

import threading
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import RefusedError, SinkError
from provisioner.model.restrictions import Restrictions
from provisioner.model.sink_content import Unreadable
from provisioner.sinks.kind import SinkContext
from provisioner.sinks.sink import Content, sink_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from provisioner.model.environment import Environment
    from provisioner.model.sink_address import Address
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.secret import Secret
    from provisioner.sinks.kind import SinkKind
    from provisioner.sinks.sink import Sink

KINDS = (
    "file",
    "command",
    "vault",
    "aws",
    "ssm",
    "github",
    "gitlab",
    "kubernetes",
    "gcp",
    "azure",
    "sops",
    "n8n",
    "twenty",
)
"""The kinds of sinks, each the name of its module; `.ci/schemas` writes them to the schemas."""

_NO_RESTRICTIONS = Restrictions()


@cache
def kind_of(name: str) -> SinkKind[Address]:
    """Return a kind of sink.

    Its module is imported now: a run without this kind needs neither the libraries of the vendor
    nor the time to load them.
    """
    return cast("SinkKind[Address]", import_module(f"provisioner.sinks.{name}").SINK)


class SinkRegistry:
    """The sinks of one run; those of one kind share what is created at first use.

    Args:
        root: the folder that relative paths start from.
        environ: the environment variables with the credentials of the vendors.
        stop: ends the waits between two attempts.
        declared: every address in the manifests. They are compared when the first file is opened,
            because two of them may lead to the same file.
        restrictions: the sinks, hosts and programs that this run may use.
        environments: the environments of the run.
    """

    def __init__(  # noqa: PLR0913 - everything that sinks use of a run
        self,
        root: Path,
        environ: Mapping[str, str],
        stop: Cancellation,
        declared: Iterable[Address] = (),
        *,
        restrictions: Restrictions = _NO_RESTRICTIONS,
        environments: Iterable[Environment] = (),
    ) -> None:
        from provisioner.runtime.process import Processes  # noqa: PLC0415 - `validate` runs nothing

        self._processes = Processes()
        urls = {one.name: one.url for one in environments}
        self._context = SinkContext(root, environ, stop.sleep, self._processes, declared, urls)
        self._restrictions = restrictions
        self._lock = threading.Lock()
        self._servers: dict[tuple[str, str | None], str] = {}
        self._open_sinks: dict[str, Callable[[Address], Sink]] = {}

    def open(self, address: Address) -> Sink:
        """Open the sink of an address.

        Raises:
            SinkError: its extra or its credential is missing, or this run may not open it.
        """
        if (error := self._refusal(address)) is not None:
            raise error
        kind = kind_of(address.kind)
        if not self._restrictions.programs:
            program = kind.program_of(address, self._context.environ)
            if program is not None:
                return _NotRun(address.kind, program)
        with self._lock:
            if address.kind not in self._open_sinks:
                self._open_sinks[address.kind] = kind.connect(self._context)
        return self._open_sinks[address.kind](address)

    def refusals(self, addresses: Iterable[Address]) -> Iterator[RefusedError]:
        """Yield a refusal for each sink that this run may not open, without contacting it."""
        for address in addresses:
            if (error := self._refusal(address)) is not None:
                yield RefusedError.of(error.failure)

    def _refusal(self, address: Address) -> SinkError | None:
        """Return the error for a sink that the options of this run do not allow."""
        rules = self._restrictions
        if rules.sinks:
            aliases = kind_of(address.kind).aliases(address, self._context.root)
            if not rules.allows_sink(address, *aliases):
                remedy = (
                    "Correct `deliver` or `auth`, or add the sink to --allow-sink in the workflow."
                )
                message = f"{address} is not allowed by --allow-sink."
                return sink_error(Code.SINK_NOT_ALLOWED, message, remedy)
        if rules.hosts and (server := self._server(address)) and not rules.allows_host(server):
            message = f"The server of {address} is not allowed by --allow-host."
            remedy = (
                "Correct the server's address, or add its host to --allow-host in the workflow."
            )
            return sink_error(Code.HOST_NOT_ALLOWED, message, remedy)
        return None

    def _server(self, address: Address) -> str:
        """Return the server of a sink; empty if it has none, or none that can be reached."""
        place = (address.kind, address.server)
        with self._lock:
            if place not in self._servers:
                server_of = kind_of(address.kind).server_of
                self._servers[place] = server_of(self._context.environ, address.server)
            return self._servers[place]

    def close(self) -> None:
        """Kill the programs that sinks have left running, and start no more."""
        self._processes.close()


class _NotRun:
    """A sink whose program this run may not start: nothing is written."""

    def __init__(self, kind: str, program: str) -> None:
        self._error = sink_error(
            Code.PROGRAM_NOT_RUN,
            f"The content of the {kind} sink is unknown: {program} was not run because of "
            "--no-programs.",
            "Review the manifests, then run without --no-programs.",
        )

    def check(self) -> None:
        raise self._error

    def read(self) -> Content:
        return Unreadable()

    def write(self, token: Secret) -> None:
        del token
        raise self._error
