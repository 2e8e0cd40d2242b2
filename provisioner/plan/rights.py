"""The rights that a credential lacks for the actions of a plan, found out by reads only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.failure import Failure
from provisioner.model.observed import HiddenRoles, KnownRoles, NoRoles
from provisioner.plan.actions import Clean, Create, Deliver, Rename, Revoke, Rotate, Update

if TYPE_CHECKING:
    from provisioner.model.environment import Environment
    from provisioner.model.observed import Observation
    from provisioner.model.workspace import Capabilities
    from provisioner.plan.actions import Action, Planned

_SIGN_IN = "Set an email and a password, or a session_token, in `auth`."
_GRANT = "Give it the permission for {} in Twenty's settings, or use another credential."


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingRights:
    """The refusals to expect of a server; None where none is known.

    Attributes:
        session: of every change, because only signed-in users may write.
        write: of every change, because the role lacks the permission for API keys.
        grant: of creating keys and assigning roles.
        mint: of minting tokens.
    """

    session: Failure | None = None
    write: Failure | None = None
    grant: Failure | None = None
    mint: Failure | None = None

    @property
    def first(self) -> Failure | None:
        """Return the refusal that is met first."""
        return self.session or self.write or self.grant or self.mint


def is_session(environment: Environment, capabilities: Capabilities) -> bool:
    """Return whether the credential is a user's, by its claims or else by its declaration."""
    kind = None if capabilities.claims is None else capabilities.claims.kind
    if kind in ("API_KEY", "ACCESS"):
        return kind == "ACCESS"
    return not environment.has_api_token


def rights_in_doubt(environment: Environment, observation: Observation, planned: Planned) -> bool:
    """Return whether what was observed leaves open that the credential may do what is planned.

    A user who can read keys and all roles may do everything on core. Of legacy only minting is in
    doubt, as an API key may do everything there (docs/twenty-api.md, "Generations").
    """
    is_key = not observation.session and (
        observation.own_key is not None or environment.has_api_token
    )
    match observation.roles:
        case NoRoles():
            return not is_key and any(action.sinks for action in planned.unblocked)
        case KnownRoles(complete=True):
            return is_key and bool(planned.unblocked)
        case KnownRoles() | HiddenRoles():
            return bool(planned.unblocked)
        case _:
            assert_never(observation.roles)


def missing_rights(
    environment: Environment, observation: Observation, capabilities: Capabilities
) -> MissingRights:
    """Return the rights that a credential is known to lack."""
    session = write = grant = mint = None
    name, subject = environment.name, f"The role of the credential in {environment.name}"
    if capabilities.release == "2.x" and not is_session(environment, capabilities):
        problem = f"{name} runs Twenty 2.x, where only a signed-in user can write keys"
        session = Failure(Code.SESSION_REQUIRED, f"{problem}; an API key cannot.", _SIGN_IN)
    if capabilities.permitted is False:
        message = f"{subject} does not have the permission for API keys and webhooks"
        remedy = _GRANT.format("API keys and webhooks")
        if isinstance(observation.roles, NoRoles):
            message += ", which minting tokens requires"
            mint = Failure(Code.PERMISSION_DENIED, f"{message}.", remedy)
        else:
            write = Failure(Code.PERMISSION_DENIED, f"{message}.", remedy)
    if capabilities.may_grant is False:
        message = (
            f"{subject} does not have the permission for roles (ROLES), which creating keys and "
            "assigning roles require in this release."
        )
        grant = Failure(Code.PERMISSION_DENIED, message, _GRANT.format("roles"))
    return MissingRights(session=session, write=write, grant=grant, mint=mint)


def block_forbidden(planned: Planned, missing: MissingRights) -> Planned:
    """Block the actions that the server would refuse.

    An API key that only reads makes a good plan, which a signed-in user applies. So on 2.x the plan
    says so, and only its execution is refused. The rights of the user are not those of the key.
    """
    if missing.session is not None:
        notes = (*planned.notes, f"`apply` would be refused: {missing.session.text}")
        return replace(planned, notes=notes, unwritable=missing.session)
    actions = (_block(action, _refusal(action, missing)) for action in planned.actions)
    return planned.with_actions(actions)


def block_all(planned: Planned, failure: Failure) -> Planned:
    """Block every action for the same reason."""
    return planned.with_actions(_block(action, failure) for action in planned.actions)


def _refusal(action: Action, missing: MissingRights) -> Failure | None:
    """Return the refusal that an action would meet; None if none is known."""
    match action:
        case Create() | Rotate():
            refusal = missing.grant
        case Update(role_id=role_id):
            refusal = None if role_id is None else missing.grant
        case Rename() | Deliver() | Revoke():
            refusal = None
        case Clean():
            return None  # Twenty is not asked
        case _:
            assert_never(action)
    return missing.write or refusal or (missing.mint if action.sinks else None)


def _block(action: Action, failure: Failure | None) -> Action:
    if failure is None or action.blocked is not None:
        return action
    if isinstance(action, Rotate):
        return action._replace(successor=action.successor._replace(blocked=failure))
    return action._replace(blocked=failure)
