"""What a workspace and its credential let a run do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, assert_never

from provisioner.audit.check import (
    Check,
    CheckFailed,
    CheckName,
    CheckOk,
    CheckWarning,
    failed_check,
)
from provisioner.errors.pluralize import pluralize
from provisioner.model.environment import ApiToken, SessionToken, SignIn
from provisioner.model.expiry import CLOCK_TOLERANCE, format_moment
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.plan.diff import EXPIRING_WITHIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.errors.exceptions import ProvisionError
    from provisioner.model.environment import Environment, Generation, Limits
    from provisioner.model.observed import Observation, Role, Roles
    from provisioner.twenty.workspace import Capabilities


_MISMATCHES = ("workspace_mismatch", "workspace_unknown", "auth_missing")
"""What is known before the server was asked for anything."""


def checks_of_error(environment: Environment, error: ProvisionError) -> Iterator[Check]:
    """What a workspace that cannot be used is broken by; whoever refuses was reached."""
    concern = _check_of(error.code)
    if concern != "reached" and error.code not in _MISMATCHES:
        yield _reached(environment)
    yield failed_check(concern, error)


def _check_of(code: str) -> CheckName:
    """The check that an error of a whole workspace belongs to."""
    if code in _MISMATCHES or code == "sign_in_failed" or code.startswith("credential_"):
        return "credential"
    if code in ("unexpected_answer", "rejected"):
        return "generation"
    return "keys" if code == "permission_denied" else "reached"


def checks_of_server(
    environment: Environment, observation: Observation, capabilities: Capabilities
) -> Iterator[Check]:
    """The checks of a workspace that could be looked at."""
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
    what = "The embedded Twenty" if environment.embedded else environment.url
    return CheckOk("reached", f"{what} answers.")


def _release(generation: Generation, capabilities: Capabilities) -> str:
    match generation, capabilities.release:
        case "legacy", _:
            return "Legacy: Twenty up to 1.2."
        case "core", None:
            return "Core: Twenty 1.3 or later; its answers do not tell whether 1.x or 2.x."
        case "core", release:
            return f"Core: Twenty {release}."
        case _:
            assert_never(generation)


def _is_session(environment: Environment, capabilities: Capabilities) -> bool:
    """Whether the credential is a user's: by its own claims, else by how it is declared."""
    kind = None if capabilities.claims is None else capabilities.claims.kind
    if kind in ("API_KEY", "ACCESS"):
        return kind == "ACCESS"
    return not isinstance(environment.credential, ApiToken)


def _credential(
    environment: Environment, observation: Observation, capabilities: Capabilities, *, session: bool
) -> Check:
    """What opens the workspace, until when, and which workspace that is."""
    expires_at = None if capabilities.claims is None else capabilities.claims.expires_at
    match environment.credential:
        case None:
            kind, expires_at = "The embedded Twenty's own session", None
        case SignIn():
            kind = "A sign-in with e-mail and password"
            kind += (
                f" (its session until {format_moment(expires_at)} is renewed)" if expires_at else ""
            )
            expires_at = None
        case ApiToken() | SessionToken():
            kind = "A user's session token" if session else "The token of an API key"
            kind += f" until {format_moment(expires_at)}" if expires_at else " that shows no end"
        case _:
            assert_never(environment.credential)
    message = f"{kind}, {_workspace_text(environment, observation.workspace)}."
    if expires_at is None or expires_at - observation.server_time > EXPIRING_WITHIN:
        return CheckOk("credential", message)
    renewed = "Sign in with an email and a password, which needs no new token, or put a new one"
    remedy = f"{renewed if session else 'Put a new token'} where `auth` names it, before that."
    return CheckWarning(
        "credential", f"{message} It ends within {EXPIRING_WITHIN.days} days.", remedy
    )


def _workspace_text(environment: Environment, workspace: str | None) -> str:
    if workspace is None:
        return "which does not show its workspace"
    if environment.workspace is not None:
        return f"of workspace {workspace}, as pinned"
    hint = "" if environment.embedded else ", which `workspace` does not pin"
    return f"of workspace {workspace}{hint}"


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def _roles(environment: Environment, roles: Roles) -> Check:
    """Whether keys can be given roles, the environment's own among them."""
    role = environment.role
    match roles:
        case NoRoles():
            ignored = "" if role is None else f", so the environment's role {role!r} is ignored"
            return CheckOk("roles", f"Keys of this generation have none{ignored}.")
        case HiddenRoles():
            remedy = "Give the role of the credential the permission for roles, or write ids."
            message = (
                "They are hidden from this credential, so that a role must be written as an id"
            )
            if role is None or _UUID.fullmatch(role):
                return CheckWarning("roles", f"{message}.", remedy)
            return CheckFailed(
                "roles", "role_unknown", f"{message}, which {role!r} is not.", remedy
            )
        case KnownRoles(roles=known):
            return _known_roles(role, known)
        case _:
            assert_never(roles)


def _known_roles(role: str | None, roles: tuple[Role, ...]) -> Check:
    labels = ", ".join(sorted(repr(one.label) for one in roles if one.assignable))
    allow = "Allow API keys to have it in Twenty's settings, or write another role."
    if not labels:
        return CheckFailed("roles", "role_not_assignable", "API keys may have none of them.", allow)
    offer = f"API keys may have {labels}"
    if role is None:
        return CheckOk("roles", f"{offer}; the environment has no role of its own.")
    found = [one for one in roles if role == one.id] or [one for one in roles if role == one.label]
    named = f"environment's role {role!r}"
    if len(found) != 1:
        what = "is not there" if not found else "is the label of several"
        remedy = "Write the label or the id of one of these as `role`."
        return CheckFailed("roles", "role_unknown", f"The {named} {what}; {offer}.", remedy)
    if not found[0].assignable:
        message = f"API keys may not have the {named}; {offer}."
        return CheckFailed("roles", "role_not_assignable", message, allow)
    return CheckOk("roles", f"{offer}; the {named} is one of them.")


_SESSION = "Give `auth` an email and a password, or a session_token."


def _writes(  # noqa: PLR0911 - one for each meaning
    observation: Observation, capabilities: Capabilities, *, session: bool
) -> Check:
    """Who may write, by generation (docs/twenty-api.md, "Generations")."""
    if observation.generation == "legacy":
        return CheckOk(
            "writes",
            "Keys may be made with any credential of the workspace; no read tells whether tokens "
            "may be minted.",
        )
    if not session and capabilities.release == "2.x":
        message = "Twenty 2.x lets only a signed-in user write keys, not an API key."
        return CheckFailed("writes", "session_required", message, _SESSION)
    permit = "Give the role of the credential the permission for API keys and webhooks."
    match capabilities.permitted:
        case False:
            message = "The role of the credential has no permission for API keys."
            return CheckFailed("writes", "permission_denied", message, permit)
        case None:
            message = "Not known: the server does not tell what the role of the credential may do."
            return CheckWarning("writes", message, permit)
        case True:
            pass
    if not session and capabilities.release is None:
        message = "Not known: Twenty 1.x lets an API key write keys, 2.x does not."
        return CheckWarning("writes", message, _SESSION)
    if capabilities.release != "1.x" and isinstance(observation.roles, HiddenRoles):
        return CheckWarning(
            "writes",
            "Allowed by 2.21; later releases create keys only with the permission for roles.",
            "Give the role of the credential the permission for roles.",
        )
    return CheckOk("writes", "The role of the credential has the permission for API keys.")


def _clock(observation: Observation) -> Check:
    """Durations count from our clock, and the server's judges what is live."""
    ahead = observation.server_ahead
    if ahead is None:
        return CheckWarning(
            "clock",
            "The server sends no Date, so that our clock judges which keys are live.",
            "Have the proxy in front pass the Date header on.",
        )
    if abs(ahead) <= CLOCK_TOLERANCE:
        return CheckOk("clock", "Ours and the server's agree to the minute.")
    seconds = round(ahead.total_seconds())
    way = "behind" if seconds > 0 else "ahead of"
    return CheckFailed(
        "clock",
        "clock_off",
        f"Ours is {abs(seconds)} s {way} the server's, and durations count from ours.",
        "Have this machine, or the server, set its clock by a time server.",
    )


def _limits(limits: Limits, capabilities: Capabilities) -> Check:
    """The pace that is declared, held against what the server says of its own."""
    declared = limits.requests_per_minute
    if declared is None:
        paced = (
            "No requests_per_minute: the first throttling sets the pace (hosted Twenty allows 50 "
            "to 100 a minute)"
        )
    else:
        paced = f"{pluralize(declared, 'request')} a minute"
    told = (
        "the server names no limit"
        if capabilities.limit is None
        else f"it allows {capabilities.limit}"
    )
    message = f"{paced}, {limits.parallel} at once; {told}."
    if declared is None or capabilities.limit is None or declared <= capabilities.limit:
        return CheckOk("limits", message)
    return CheckWarning(
        "limits", message, f"Write `requests_per_minute: {capabilities.limit}` or less."
    )
