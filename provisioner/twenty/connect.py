"""From an environment to its workspace: the generation is found by one read, never guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.errors.exceptions import RefusedError
from provisioner.twenty.auth import token_source_for
from provisioner.twenty.client import Client
from provisioner.twenty.core import CoreWorkspace
from provisioner.twenty.legacy import FIRST_PAGE, LegacyWorkspace, shows_core
from provisioner.twenty.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.model.environment import Credential, Environment
    from provisioner.runtime.cancellation import Cancellation
    from provisioner.twenty.answers import Answer
    from provisioner.twenty.workspace import Workspace


def connect(  # noqa: PLR0913 - what there is to say of a workspace
    environment: Environment,
    address: str,
    credential: Credential,
    stop: Cancellation,
    *,
    others_wait: bool = False,
    released: Callable[[], None] | None = None,
) -> Workspace:
    """The workspace of an environment, signed in to and with its generation known.

    Args:
        environment: its limits, headers, pin and declared generation.
        address: where its server listens; the embedded one's differs from its url.
        credential: what opens it.
        stop: once it is asked for, no key is begun.
        others_wait: whether other environments write nothing before this one has been observed.
        released: called whenever connections that nothing uses were closed.

    Raises:
        WorkspaceError: when the server cannot be reached or does not let us in.
        RefusedError: when the credential belongs to another workspace than the pinned one.
    """
    transport = Transport(environment, address, stop, others_wait=others_wait, released=released)
    try:
        client = Client(transport, token_source_for(credential, transport))
        _hold_pin(environment, client)
        return _of_generation(environment, client)
    except BaseException:
        transport.close()
        raise


def _of_generation(environment: Environment, client: Client) -> Workspace:
    match environment.generation:
        case "legacy":
            return LegacyWorkspace(client, environment.limits)
        case "core":
            return CoreWorkspace(client, environment.limits)
        case None:
            answer = client.read(FIRST_PAGE)
            if _shows_legacy(answer):
                return LegacyWorkspace(client, environment.limits, answer)
            if shows_core(answer):
                return CoreWorkspace(client, environment.limits)
            raise client.refused(answer)
        case _:
            assert_never(environment.generation)


def _shows_legacy(answer: Answer) -> bool:
    """An object with `data.apiKeys` (legacy-0.60 `910-list-detect`)."""
    return answer.ok and answer.data is not None and "apiKeys" in answer.data


def _hold_pin(environment: Environment, client: Client) -> None:
    """Compares the pinned workspace with the one in the credential's own claims."""
    if environment.workspace is None:
        return
    actual = client.workspace()
    if actual is None:
        raise RefusedError(
            "workspace_unknown",
            f"{environment.name} is pinned to workspace {environment.workspace}, and its "
            "credential does not show which workspace it belongs to.",
            remedy="Use a token of Twenty itself, or remove the pin.",
        )
    if actual.lower() != environment.workspace.lower():
        raise RefusedError(
            "workspace_mismatch",
            f"{environment.name} is pinned to workspace {environment.workspace}, and its "
            f"credential belongs to {actual}.",
            remedy="Use a credential of the pinned workspace, or correct the pin.",
        )
