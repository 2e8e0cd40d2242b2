"""The servers that the embedded Twenty can behave like, and the questions on which they differ."""

from __future__ import annotations

import enum

SCHEME = "sandbox:"


class Dialect(enum.StrEnum):
    """A server; all but the newest have files in `tests/recordings/`."""

    LEGACY = "legacy"
    """About 0.60: apiKey is a workspace object (`legacy-0.60.jsonl`)."""
    CORE_1 = "core-1"
    """1.10: core API keys, and an API-key token may write (`core-1.jsonl`)."""
    CORE = "core"
    """2.21: core API keys, and only a user session may write (`core-2.21.jsonl`)."""
    CORE_NEWEST = "core-newest"
    """About 2.38 to 2.47: like 2.21, with the changes in `docs/twenty-api.md`. Not recorded."""

    @property
    def recorded(self) -> Dialect:
        """The recorded server whose roles, texts and limits this one has."""
        return Dialect.CORE if self is Dialect.CORE_NEWEST else self

    @property
    def keeps_core_keys(self) -> bool:
        """Keys are no workspace objects, and have roles."""
        return self is not Dialect.LEGACY

    @property
    def needs_session_to_write(self) -> bool:
        """Keys are changed only for a user session, and read only with the permission."""
        return self.recorded is Dialect.CORE

    @property
    def reads_expiry_of_row(self) -> bool:
        """A token is refused once its key has expired, whatever the token says."""
        return self.recorded is Dialect.CORE

    @property
    def checks_role_of_new_key(self) -> bool:
        """A new key needs a role that can be assigned to keys."""
        return self.recorded is Dialect.CORE

    @property
    def limits_documents(self) -> bool:
        """A GraphQL document may not have many root fields, nor one of them twice."""
        return self.recorded is Dialect.CORE

    @property
    def has_texts_of_2(self) -> bool:
        """Errors have the texts of 2.21."""
        return self.recorded is Dialect.CORE

    @property
    def pages_core_list(self) -> bool:
        """`/rest/metadata/apiKeys` is listed in pages."""
        return self is Dialect.CORE_NEWEST

    @property
    def needs_roles_to_create(self) -> bool:
        """Creating a key and assigning a role need the permission for roles too."""
        return self is Dialect.CORE_NEWEST

    @property
    def unrevokes_by_rest(self) -> bool:
        """`revokedAt: null` undoes a revocation by REST too; by GraphQL it does on all cores."""
        return self is Dialect.CORE_NEWEST

    @property
    def names_signing_key(self) -> bool:
        """The header of a token names the key that signed it."""
        return self is Dialect.CORE_NEWEST

    @property
    def limits_levels(self) -> bool:
        """A GraphQL document may not be nested deeply."""
        return self is Dialect.CORE_NEWEST


def dialect_of(url: str) -> Dialect:
    """Return the dialect of `sandbox:` (2.21), or of `sandbox:` and the value of a `Dialect`.

    Raises:
        ValueError: the URL is none of these; the message lists them.
    """
    name = url.removeprefix(SCHEME)
    if name != url:
        if not name:
            return Dialect.CORE
        if name in set(Dialect):
            return Dialect(name)
    choices = ", ".join(f"{SCHEME}{dialect}" for dialect in Dialect)
    raise ValueError(f"{url!r} is not a valid sandbox URL. Use {SCHEME}, {choices}.")
