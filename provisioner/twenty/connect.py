"""Open the workspace of an environment: one read finds the generation, nothing is guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import RefusedError
from provisioner.model.activity import Connected, ignore_activity
from provisioner.model.environment import SignIn
from provisioner.twenty.answers import generation_of, lacks_list
from provisioner.twenty.client import Client
from provisioner.twenty.core import CORE_LIST, CoreWorkspace
from provisioner.twenty.legacy import FIRST_PAGE, LegacyWorkspace
from provisioner.twenty.sign_ins import SignIns
from provisioner.twenty.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from provisioner.http_client.network import Network
    from provisioner.model.activity import CredentialKind, OnActivity
    from provisioner.model.environment import Credential, Environment
    from provisioner.model.workspace import Workspace
    from provisioner.runtime.cancellation import Cancellation


def connect(  # noqa: PLR0913 - all a workspace needs
    environment: Environment,
    address: str,
    credential: Credential,
    stop: Cancellation,
    *,
    others_wait: bool = False,
    on_idle_closed: Callable[[], None] | None = None,
    sign_ins: SignIns | None = None,
    network: Network | None = None,
    on_activity: OnActivity = ignore_activity,
) -> Workspace:
    """Return the workspace of an environment, signed in to and with its generation known.

    Args:
        environment: its limits, headers, pin and declared generation.
        address: of its server; that of the embedded Twenty differs from the environment's URL.
        credential: to sign in with.
        stop: once a stop is requested, no key is sent.
        others_wait: whether other environments write nothing before this one is observed.
        on_idle_closed: called whenever idle connections were closed.
        sign_ins: those of the run; None for a run of only this environment.
        network: what the clients of the run share, likewise.
        on_activity: receives what the environment does.

    Raises:
        WorkspaceError: the server cannot be reached or refuses the credential.
        RefusedError: the credential belongs to another workspace than the pinned one.
    """
    transport = Transport(
        environment,
        address,
        stop,
        others_wait=others_wait,
        on_idle_closed=on_idle_closed,
        network=network,
        on_activity=on_activity,
    )
    try:
        if isinstance(credential, SignIn):
            sign_ins = sign_ins or SignIns(stop)
            client = Client(transport, sign_ins.session(transport, credential, environment))
        else:
            client = Client(transport, credential.token)
        if environment.workspace is not None:
            _check_pin(environment.name, environment.workspace, client)
        workspace = _of_generation(environment, client)
    except BaseException:
        transport.close()
        raise
    kind = _kind_of(credential, client)
    on_activity(Connected(environment.name, address, workspace.generation, kind))
    return workspace


def _kind_of(credential: Credential, client: Client) -> CredentialKind:
    if isinstance(credential, SignIn):
        return "password"
    claims = client.claims()
    return "session" if claims is not None and claims.kind == "ACCESS" else "api_key"


def _of_generation(environment: Environment, client: Client) -> Workspace:
    generation, first_page = environment.generation, None
    if generation is None:
        first_page = client.request("GET", FIRST_PAGE, is_list=True)
        generation = generation_of(first_page)
        if generation is None and lacks_list(first_page):
            answer = client.request("GET", CORE_LIST, is_list=True)
            generation = "core" if generation_of(answer) == "core" else None
            first_page = first_page if lacks_list(answer) else answer
        if generation is None:
            raise client.refusal(first_page)
    match generation:
        case "legacy":
            return LegacyWorkspace(client, environment.limits, first_page)
        case "core":
            return CoreWorkspace(client, environment.limits)
        case _:
            assert_never(generation)


def _check_pin(environment: str, pinned: str, client: Client) -> None:
    """Compare the pinned workspace with the one in the credential's claims."""
    claims = client.claims()
    actual = None if claims is None else claims.workspace
    if actual is None:
        code, problem = Code.WORKSPACE_UNKNOWN, "does not show which workspace it belongs to"
        remedy = "Use a token issued by Twenty, or remove the pin."
    elif actual.lower() == pinned.lower():
        return
    else:
        code, problem = Code.WORKSPACE_MISMATCH, f"belongs to {actual}"
        remedy = "Use a credential of the pinned workspace, or correct the pin."
    message = f"{environment} is pinned to workspace {pinned}, but its credential {problem}."
    raise RefusedError(code, message, remedy=remedy)
