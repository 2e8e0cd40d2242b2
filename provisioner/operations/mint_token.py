"""The operation of `provision token`: mint a token of one key and write it to a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError
from provisioner.execution import mint
from provisioner.model.token_claims import claims_of
from provisioner.plan import classify_live_keys
from provisioner.sinks.sink import StoredValue, sink_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from provisioner.model.key import DesiredKey
    from provisioner.model.observed import ObservedKey
    from provisioner.model.sink_address import Address
    from provisioner.model.sink_content import SinkContent
    from provisioner.model.workspace import Workspace
    from provisioner.sinks.sink import Sink


def deliver_token(  # noqa: PLR0913 - everything that a manual token depends on
    workspace: Workspace,
    name: str,
    sink: Sink,
    address: Address,
    *,
    desired_key: DesiredKey | None,
    read_sinks: Callable[[Iterable[Address]], Mapping[Address, SinkContent]],
) -> ObservedKey:
    """Mint a token for a live key and write it to a file that contains nothing else.

    Args:
        workspace: the workspace of the key.
        name: the name of the key.
        sink: the file.
        address: the address of the file, for messages.
        desired_key: the declared key with this name; None if no manifest declares it.
        read_sinks: returns the content of sinks, which identifies the current key among several
            live ones, as in a plan.

    Returns:
        The key.

    Raises:
        WorkspaceError: if no live key has the name, or its token cannot be minted.
        SinkError: if the file cannot hold a token, or contains something else.
    """
    sink.check()
    content = sink.read()
    observation = workspace.observe()
    same_name = [key for key in observation.keys if key.name == name]
    live = [key for key in same_name if key.live(observation.server_time)]
    if not live:
        raise WorkspaceError(
            Code.KEY_MISSING,
            f"There is no live key {name!r}.",
            remedy="Run `provision list` to see the live keys.",
        )
    if isinstance(content, StoredValue):
        claims = claims_of(content.value)
        id_ = "" if claims is None else claims.key or ""
        known = id_.lower() in {key.id.lower() for key in same_name}
        if not known and not _was_named(workspace, id_, name):
            raise sink_error(
                Code.SINK_UNSUITABLE,
                f"{address} already exists and does not contain a token for {name!r}.",
                "Choose a file that does not exist yet.",
            )
    live.sort(key=lambda one: one.creation_order)
    sink_contents = (
        read_sinks(desired_key.deliver) if desired_key is not None and len(live) > 1 else {}
    )
    key = classify_live_keys(desired_key, live, sink_contents.values()).current
    sink.write(mint(workspace, key.id, key.expires_at))
    return key


def _was_named(workspace: Workspace, key_id: str, name: str) -> bool:
    """Return whether a key that no list has, since it is revoked, has a name."""
    record = workspace.records({key_id: 0}).get(key_id) if key_id else None
    return record is not None and record.get("name") == name
