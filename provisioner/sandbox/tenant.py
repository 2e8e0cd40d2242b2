"""One workspace of a server, and how it is set up."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provisioner.sandbox import tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from provisioner.sandbox.store import Store


class SignInRefusal(enum.Enum):
    """A reason to refuse every sign-in with a password; the value is the server's text.

    None is recorded; texts and codes are those of the server's source.
    """

    CAPTCHA = "Invalid Captcha, please try another device"
    EMAIL_NOT_VERIFIED = "Email is not verified"
    NOT_A_MEMBER = "User is not a member of the workspace"
    PASSWORD_DISABLED = "Email/Password auth is not enabled for this workspace"  # noqa: S105  # a text
    WRONG_METHOD = "Incorrect login method"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a workspace, which its administrator made.

    Attributes:
        name: the name that users see.
        origin: the web address that a sign-in must name, such as `https://crm.example.com`; None
            to accept any.
        refusal: the reason to refuse sign-ins with a password.
        totp_secret: the base32 secret of the second factor that every user has; None for none.
        serves_bare_list: whether a core server has `/rest/apiKeys` beside `/rest/metadata/apiKeys`.
    """

    name: str = "Sandbox"
    origin: str | None = None
    refusal: SignInRefusal | None = None
    totp_secret: str | None = None
    serves_bare_list: bool = True


@dataclass(slots=True)
class Tenant:
    """One workspace of a server.

    Attributes:
        session_seconds: the lifetime of the access token that a sign-in returns.
        url: the address of the server.
    """

    store: Store
    settings: Settings
    session_seconds: float
    url: str = ""


def tenant_of(tenants: Sequence[Tenant], token: str, otherwise: Tenant) -> Tenant:
    """Return the workspace that a token names, or another one."""
    if len(tenants) == 1:
        return tenants[0]
    name = tokens.workspace_of(token)
    return next((tenant for tenant in tenants if tenant.store.workspace_id == name), otherwise)
