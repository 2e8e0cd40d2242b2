"""The checks of a workspace and its credential."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, assert_never

from provisioner.audit.check import (
    Check,
    CheckFailed,
    CheckName,
    CheckOk,
    CheckWarning,
)
from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.errors.pluralize import pluralize
from provisioner.model.environment import ApiToken, SessionToken, SignIn
from provisioner.model.expiry import CLOCK_TOLERANCE, format_timestamp
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.plan.findings import EXPIRING_WITHIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.errors.exceptions import ProvisionError
    from provisioner.model.environment import Environment, Generation, Limits
    from provisioner.model.observed import Observation, Role, Roles
    from provisioner.twenty.workspace import Capabilities


_MISMATCHES = (Code.WORKSPACE_MISMATCH, Code.WORKSPACE_UNKNOWN, Code.AUTH_MISSING)
"""Errors that are found before any request to the server."""


def checks_of_error(environment: Environment, error: ProvisionError) -> Iterator[Check]:
    """Yield the failed check of an unusable workspace; a server that refuses was reached."""
    check = _check_of(error.code)
    if check != "reached" and error.code not in _MISMATCHES:
        yield _reached(environment)
    yield CheckFailed(check, error.failure)


def _check_of(code: Code) -> CheckName:
    """Return the check that an error of a workspace belongs to."""
    if code in _MISMATCHES or code == Code.SIGN_IN_FAILED or code.startswith("credential_"):
        return "credential"
    if code in (Code.UNEXPECTED_ANSWER, Code.REJECTED):
        return "generation"
    return "keys" if code == Code.PERMISSION_DENIED else "reached"


def checks_of_server(
    environment: Environment, observation: Observation, capabilities: Capabilities
) -> Iterator[Check]:
    """Yield the checks of a workspace that was observed."""
    session = _is_session(environment, capabilities)
    yield _reached(environment)
    yield CheckOk("generation", _release(observation.generation, capabilities))
    yield _credential(environment, observation, capabilities, session=session)
    live = sum(key.live(observation.server_time) for key in observation.keys)
    yield CheckOk("keys", f"{pluralize(len(observation.keys), 'key')} listed, {live} live.")
    yield _roles(environment, observation.roles)
    yield _writes(observation, capabilities, session=session)
    yield _clock(observation)
    yield _limits(environment.limits, capabilities)


def _reached(environment: Environment) -> CheckOk:
    server = "The embedded Twenty" if environment.embedded else environment.url
    return CheckOk("reached", f"{server} answers.")


def _release(generation: Generation, capabilities: Capabilities) -> str:
    match generation, capabilities.release:
        case "legacy", _:
            return "Legacy: Twenty up to 1.2."
        case "core", None:
            return "Core: Twenty 1.3 or later; its responses do not show whether it is 1.x or 2.x."
        case "core", release:
            return f"Core: Twenty {release}."
        case _:
            assert_never(generation)


def _is_session(environment: Environment, capabilities: Capabilities) -> bool:
    """Return whether the credential is a user's, by its claims or else by its declaration."""
    kind = None if capabilities.claims is None else capabilities.claims.kind
    if kind in ("API_KEY", "ACCESS"):
        return kind == "ACCESS"
    return not isinstance(environment.credential, ApiToken)


def _credential(
    environment: Environment, observation: Observation, capabilities: Capabilities, *, session: bool
) -> Check:
    """Check the kind, the expiry and the workspace of the credential."""
    expires_at = None if capabilities.claims is None else capabilities.claims.expires_at
    match environment.credential:
        case None:
            kind, expires_at = "Session of the embedded Twenty", None
        case SignIn():
            kind = "Email and password"
            if expires_at:
                kind += f", with a session until {format_timestamp(expires_at)} that is renewed"
            expires_at = None
        case ApiToken() | SessionToken():
            kind = "Session token" if session else "API key token"
            kind += (
                f", expires at {format_timestamp(expires_at)}" if expires_at else ", expiry unknown"
            )
        case _:
            assert_never(environment.credential)
    workspace = _workspace_text(environment, observation.workspace)
    if expires_at is None or expires_at - observation.server_time > EXPIRING_WITHIN:
        return CheckOk("credential", f"{kind}; {workspace}.")
    alternative = ", or sign in with an email and a password" if session else ""
    return CheckWarning(
        "credential",
        f"{kind}, within {EXPIRING_WITHIN.days} days; {workspace}.",
        f"Before then, replace the token that `auth` reads{alternative}.",
    )


def _workspace_text(environment: Environment, workspace: str | None) -> str:
    if workspace is None:
        return "workspace unknown"
    if environment.workspace is not None:
        return f"workspace {workspace}, as pinned"
    hint = "" if environment.embedded else ", not pinned with `workspace`"
    return f"workspace {workspace}{hint}"


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def _roles(environment: Environment, roles: Roles) -> Check:
    """Check which roles keys can have, and whether the environment's role is one of them."""
    role = environment.role
    match roles:
        case NoRoles():
            ignored = "" if role is None else f"; the environment's role {role!r} is ignored"
            return CheckOk("roles", f"API keys have no roles before Twenty 1.3{ignored}.")
        case HiddenRoles():
            remedy = "Give the credential's role the permission for roles, or write role ids."
            message = "This credential cannot read roles, so a role must be written as an id"
            if role is None or _UUID.fullmatch(role):
                return CheckWarning("roles", f"{message}.", remedy)
            message = f"{message}; {role!r} is not an id."
            return CheckFailed("roles", Failure(Code.ROLE_UNKNOWN, message, remedy))
        case KnownRoles(roles=known):
            return _known_roles(role, known)
        case _:
            assert_never(roles)


def _known_roles(role: str | None, roles: tuple[Role, ...]) -> Check:
    labels = ", ".join(sorted(repr(one.label) for one in roles if one.assignable))
    if not labels:
        message = "No role can be assigned to API keys."
        remedy = "Make a role assignable to API keys in Twenty's settings."
        return CheckFailed("roles", Failure(Code.ROLE_NOT_ASSIGNABLE, message, remedy))
    offer = f"API keys can have {labels}"
    if role is None:
        return CheckOk("roles", f"{offer}; the environment sets no role.")
    matching = [one for one in roles if role == one.id] or [
        one for one in roles if role == one.label
    ]
    named = f"environment's role {role!r}"
    if len(matching) != 1:
        problem = "does not exist" if not matching else "is the label of several roles"
        remedy = "Set `role` to the label or id of one of these."
        return CheckFailed(
            "roles", Failure(Code.ROLE_UNKNOWN, f"The {named} {problem}; {offer}.", remedy)
        )
    if not matching[0].assignable:
        message = f"The {named} cannot be assigned to API keys; {offer}."
        remedy = "Make it assignable to API keys in Twenty's settings, or set another role."
        return CheckFailed("roles", Failure(Code.ROLE_NOT_ASSIGNABLE, message, remedy))
    return CheckOk("roles", f"{offer}; the {named} is one of them.")


_SESSION = "Give `auth` an email and a password, or a session_token."


def _writes(  # noqa: PLR0911 - one for each result
    observation: Observation, capabilities: Capabilities, *, session: bool
) -> Check:
    """Check whether the credential can write keys (docs/twenty-api.md, "Generations")."""
    if observation.generation == "legacy":
        return CheckOk(
            "writes",
            "Any credential for the workspace can create keys; whether this one can mint tokens "
            "cannot be checked without minting one.",
        )
    if not session and capabilities.release == "2.x":
        message = "Twenty 2.x lets only a signed-in user write keys, not an API key."
        return CheckFailed("writes", Failure(Code.SESSION_REQUIRED, message, _SESSION))
    grant = "Give the credential's role the permission for API keys and webhooks."
    match capabilities.permitted:
        case False:
            message = "The credential's role does not have the permission for API keys."
            return CheckFailed("writes", Failure(Code.PERMISSION_DENIED, message, grant))
        case None:
            message = "Unknown: the server does not show the permissions of the credential's role."
            return CheckWarning("writes", message, grant)
        case True:
            pass
    if not session and capabilities.release is None:
        message = "Unknown: Twenty 1.x lets an API key write keys, but 2.x does not."
        return CheckWarning("writes", message, _SESSION)
    if capabilities.release != "1.x" and isinstance(observation.roles, HiddenRoles):
        return CheckWarning(
            "writes",
            "Allowed on 2.21; in later releases, creating keys also requires the permission "
            "for roles.",
            "Give the credential's role the permission for roles.",
        )
    return CheckOk("writes", "The credential's role has the permission for API keys.")


def _clock(observation: Observation) -> Check:
    """Check the clocks: durations count from this machine's, the server's decides what is live."""
    ahead = observation.server_ahead
    if ahead is None:
        return CheckWarning(
            "clock",
            "The server sends no Date header, so this machine's clock decides which keys are live.",
            "Configure the proxy in front of the server to pass on the Date header.",
        )
    if abs(ahead) <= CLOCK_TOLERANCE:
        message = "This machine's clock and the server's differ by at most a minute."
        return CheckOk("clock", message)
    seconds = round(ahead.total_seconds())
    direction = "behind" if seconds > 0 else "ahead of"
    return CheckFailed(
        "clock",
        Failure(
            Code.CLOCK_OFF,
            f"This machine's clock is {abs(seconds)} s {direction} the server's, and durations "
            "are counted from it.",
            "Synchronize the clock of this machine or of the server with a time server.",
        ),
    )


def _limits(limits: Limits, capabilities: Capabilities) -> Check:
    """Compare the declared rate with the limit that the server reports."""
    declared = limits.requests_per_minute
    if declared is None:
        rate = (
            "requests_per_minute is not set: the first throttled request sets the rate (hosted "
            "Twenty "
            "allows 50 to 100 a minute)"
        )
    else:
        rate = f"{pluralize(declared, 'request')} a minute"
    reported = "reports no limit" if capabilities.limit is None else f"allows {capabilities.limit}"
    message = f"{rate}, {limits.parallel} in parallel; the server {reported}."
    if declared is None or capabilities.limit is None or declared <= capabilities.limit:
        return CheckOk("limits", message)
    return CheckWarning(
        "limits", message, f"Set `requests_per_minute` to {capabilities.limit} or less."
    )
