"""One key's token handed over to a file, on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.exceptions import WorkspaceError
from provisioner.execution import mint
from provisioner.model.token_claims import claims_of
from provisioner.plan import tell_apart
from provisioner.sinks.sink import StoredValue, sink_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_address import Address, FileAddress
    from provisioner.model.sink_content import SinkContent
    from provisioner.sinks.sink import Sink
    from provisioner.twenty.workspace import Workspace


def deliver_token(  # noqa: PLR0913 - what a token by hand follows from
    workspace: Workspace,
    name: str,
    sink: Sink,
    address: FileAddress,
    *,
    wanted: DesiredKey | None,
    look_into: Callable[[Iterable[Address]], Mapping[Address, SinkContent]],
) -> ObservedKey:
    """Mints a token of a live key and writes it to a file that holds nothing else.

    Args:
        workspace: of the key.
        name: of the key.
        sink: the file.
        address: of the file, for messages.
        wanted: the desired key of that name; None where no manifest has one.
        look_into: says what its sinks hold, which tells several live keys apart as in a plan.

    Returns:
        The key.

    Raises:
        WorkspaceError: when there is no such key, or no token of it.
        SinkError: when the file cannot hold a token, or holds something else.
    """
    sink.check()
    content = sink.read()
    look = workspace.observe()
    same_name = [key for key in look.keys if key.name == name]
    live = [key for key in same_name if key.live(look.server_time)]
    if not live:
        raise WorkspaceError(
            "key_missing",
            f"There is no live key {name!r}.",
            remedy="`provision list` shows the keys that are there.",
        )
    if isinstance(content, StoredValue):
        claims = claims_of(content.value)
        if claims is None or claims.key not in {key.id for key in same_name}:
            raise sink_error(
                "sink_unsuitable",
                f"{address} is there and holds something that is no token of {name!r}.",
                "Name a file that is not there yet.",
            )
    live.sort(key=lambda one: one.creation_order)
    sink_contents = look_into(wanted.deliver) if wanted is not None and len(live) > 1 else {}
    key = tell_apart(wanted, live, sink_contents.values()).current
    sink.write(mint(workspace, key.id, key.expires_at))
    return key
