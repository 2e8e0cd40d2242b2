"""The checks of a workspace and its credential."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, assert_never

from provisioner.audit.check import Check
from provisioner.errors.codes import Code
from provisioner.errors.pluralize import pluralize
from provisioner.model.environment import ApiToken, SessionToken, SignIn, StoredCredential
from provisioner.model.expiry import CLOCK_TOLERANCE, format_timestamp
from provisioner.model.globs import matches
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.model.uuids import is_uuid
from provisioner.plan import missing_rights
from provisioner.plan.findings import EXPIRING_WITHIN
from provisioner.plan.rights import is_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provisioner.audit.check import CheckName
    from provisioner.errors.exceptions import ProvisionError
    from provisioner.model.environment import Environment, Limits
    from provisioner.model.observed import Observation, Role, Roles
    from provisioner.model.workspace import Capabilities

_MISMATCHES = (
    Code.WORKSPACE_MISMATCH,
    Code.WORKSPACE_UNKNOWN,
    Code.AUTH_MISSING,
    Code.CREDENTIAL_UNREADABLE,
    Code.PROGRAM_NOT_RUN,
)
"""Errors that are found before any request to the server."""

_CHECK_OF_ERROR: dict[Code, CheckName] = {
    **dict.fromkeys(_MISMATCHES, "credential"),
    Code.SIGN_IN_FAILED: "credential",
    Code.UNEXPECTED_ANSWER: "generation",
    Code.REJECTED: "generation",
    Code.PERMISSION_DENIED: "keys",
}
"""The check that an error of a workspace belongs to, if it is not `reached`."""

_SIGN_IN = "Set an email and a password, or a session_token, in `auth`."
_GRANT = "Give the credential's role the permission for API keys and webhooks."


def checks_of_error(environment: Environment, error: ProvisionError) -> Iterator[Check]:
    """Yield the failed check of an unusable workspace; a server that refuses was reached."""
    check = _CHECK_OF_ERROR.get(error.code, "reached")
    if error.code.startswith("credential_"):
        check = "credential"
    if check != "reached" and error.code not in _MISMATCHES:
        yield _reached(environment)
    yield Check.failed(check, error.failure)


def checks_of_server(
    environment: Environment, observation: Observation, capabilities: Capabilities
) -> Iterator[Check]:
    """Yield the checks of a workspace that was observed."""
    session = is_session(environment, capabilities)
    if observation.generation == "legacy":
        release = "Legacy: Twenty up to 1.2."
    elif capabilities.release is None:
        release = "Core: Twenty 1.3 or later; its responses do not show whether it is 1.x or 2.x."
    else:
        release = f"Core: Twenty {capabilities.release}."
    yield _reached(environment)
    yield Check("generation", "ok", release)
    yield _credential(environment, observation, capabilities, session=session)
    yield Check("keys", "ok", _keys(environment, observation))
    yield _roles(environment.role, observation.roles)
    yield _writes(environment, observation, capabilities)
    yield _clock(observation)
    yield _limits(environment.limits, capabilities)


def _keys(environment: Environment, observation: Observation) -> str:
    """Return the numbers of keys, with those that `ignore` leaves out of plans and reports."""
    live = [key.name for key in observation.keys if key.live(observation.server_time)]
    listed = f"{pluralize(len(observation.keys), 'key')} listed, {len(live)} live"
    ignored = list(filter(environment.ignores_key, live))
    if not ignored:
        return f"{listed}."
    owned = sum(matches(name, environment.owns) for name in ignored)
    also = f", {owned} of them although `owns` matches too" if owned else ""
    return f"{listed}, {len(ignored)} ignored{also}."


def _reached(environment: Environment) -> Check:
    server = "The embedded Twenty" if environment.embedded else environment.url
    return Check("reached", "ok", f"{server} responds.")


def _credential(
    environment: Environment, observation: Observation, capabilities: Capabilities, *, session: bool
) -> Check:
    """Check the kind, the expiry and the workspace of the credential."""
    expires_at = None if capabilities.claims is None else capabilities.claims.expires_at
    timestamp = format_timestamp(expires_at) if expires_at else None
    match environment.credential:
        case None:
            kind, expires_at = "Session of the embedded Twenty", None
        case SignIn() | StoredCredential(secrets={"password": _}):
            kind, expires_at = "Email and password", None
            kind += f", with a renewable session until {timestamp}" if timestamp else ""
        case ApiToken() | SessionToken() | StoredCredential():
            kind = "Session token" if session else "API key token"
            kind += f", expires at {timestamp}" if timestamp else ", expiry unknown"
        case _:
            assert_never(environment.credential)
    if observation.workspace is None:
        workspace = "workspace unknown"
    else:
        pinned = "" if environment.embedded else ", not pinned with `workspace`"
        pinned = ", as pinned" if environment.workspace is not None else pinned
        workspace = f"workspace {observation.workspace}{pinned}"
    if expires_at is None or expires_at - observation.server_time > EXPIRING_WITHIN:
        return Check("credential", "ok", f"{kind}; {workspace}.")
    alternative = ", or sign in with an email and a password" if session else ""
    return Check(
        "credential",
        "warning",
        f"{kind}, within {EXPIRING_WITHIN.days} days; {workspace}.",
        f"Before then, replace the token that `auth` reads{alternative}.",
    )


def _roles(role: str | None, roles: Roles) -> Check:
    """Check which roles keys can have, and whether the environment's role is one of them."""
    match roles:
        case NoRoles():
            ignored = "" if role is None else f"; the environment's role {role!r} is ignored"
            return Check("roles", "ok", f"Before Twenty 1.3, API keys have no roles{ignored}.")
        case HiddenRoles():
            remedy = "Give the credential's role the permission for roles, or write role ids."
            message = "This credential cannot read roles, so a role must be written as an id"
            if role is None or is_uuid(role):
                return Check("roles", "warning", f"{message}.", remedy)
            message = f"{message}; {role!r} is not an id."
            return Check("roles", "failed", message, remedy, Code.ROLE_UNKNOWN)
        case KnownRoles(roles=known, complete=complete):
            return _known_roles(role, known, complete=complete)
        case _:
            assert_never(roles)


def _known_roles(role: str | None, roles: tuple[Role, ...], *, complete: bool) -> Check:
    labels = ", ".join(sorted(repr(one.label) for one in roles if one.assignable))
    if not labels:
        message = "No role can be assigned to API keys."
        remedy = "Make a role assignable to API keys in Twenty's settings."
        return Check("roles", "failed", message, remedy, Code.ROLE_NOT_ASSIGNABLE)
    offer = f"API keys can have {labels}"
    if role is None:
        return Check("roles", "ok", f"{offer}; the environment sets no role.")
    matching = [one for one in roles if role == one.id] or [
        one for one in roles if role == one.label
    ]
    named = f"environment's role {role!r}"
    if len(matching) != 1:
        problem = "is the label of several roles" if matching else "does not exist"
        problem += "" if matching or complete else " or cannot be assigned to API keys"
        message = f"The {named} {problem}; {offer}."
        remedy = "Set `role` to the label or id of one of these roles."
        return Check("roles", "failed", message, remedy, Code.ROLE_UNKNOWN)
    if not matching[0].assignable:
        message = f"The {named} cannot be assigned to API keys; {offer}."
        remedy = "Make it assignable to API keys in Twenty's settings, or set another role."
        return Check("roles", "failed", message, remedy, Code.ROLE_NOT_ASSIGNABLE)
    return Check("roles", "ok", f"{offer}; the {named} is one of them.")


def _writes(
    environment: Environment, observation: Observation, capabilities: Capabilities
) -> Check:
    """Check whether the credential can write keys (docs/twenty-api.md, "Generations")."""
    release, permitted = capabilities.release, capabilities.permitted
    failure = missing_rights(environment, observation, capabilities).first
    if failure is not None:
        return Check.failed("writes", failure)
    status: Literal["ok", "warning"] = "warning"
    if permitted is None:
        message = "Unknown: the server does not show the permissions of the credential's role."
        remedy = _GRANT
    elif isinstance(observation.roles, NoRoles):
        status, remedy = "ok", ""
        message = "The credential can create keys and mint tokens."
    elif release is None and not is_session(environment, capabilities):
        message = "Unknown: Twenty 1.x lets an API key write keys, but 2.x does not."
        remedy = _SIGN_IN
    elif release != "1.x" and isinstance(observation.roles, HiddenRoles):
        message = (
            "Allowed on 2.21; in later releases, creating keys also requires the permission "
            "for roles."
        )
        remedy = "Give the credential's role the permission for roles."
    else:
        status, remedy = "ok", ""
        message = "The credential's role has the permission for API keys."
    return Check("writes", status, message, remedy)


def _clock(observation: Observation) -> Check:
    """Check the clocks: durations count from this machine's, the server's decides what is live."""
    ahead = observation.server_ahead
    if ahead is None:
        return Check(
            "clock",
            "warning",
            "The server sends no Date header, so this machine's clock decides which keys are live.",
            "Configure the proxy in front of the server to pass on the Date header.",
        )
    if abs(ahead) <= CLOCK_TOLERANCE:
        message = "This machine's clock and the server's differ by at most a minute."
        return Check("clock", "ok", message)
    seconds = round(ahead.total_seconds())
    direction = "behind" if seconds > 0 else "ahead of"
    return Check(
        "clock",
        "failed",
        f"This machine's clock is {abs(seconds)} s {direction} the server's, so expiry "
        "times would be wrong.",
        "Synchronize the clock of this machine or of the server with a time server.",
        Code.CLOCK_OFF,
    )


def _limits(limits: Limits, capabilities: Capabilities) -> Check:
    """Compare the declared rate with the limit that the server reports."""
    declared, reported = limits.requests_per_minute, capabilities.limit
    if declared is None:
        rate = (
            "requests_per_minute is not set: the first throttling response sets the rate (hosted "
            "Twenty allows 50 to 100 a minute)"
        )
    else:
        rate = f"{pluralize(declared, 'request')} a minute"
    server = "reports no limit" if reported is None else f"allows {reported}"
    message = f"{rate}; at most {limits.parallel} in parallel; the server {server}."
    if declared is None or reported is None or declared <= reported:
        return Check("limits", "ok", message)
    remedy = f"Set `requests_per_minute` to {reported} or less."
    return Check("limits", "warning", message, remedy)
