"""The part of each server's GraphQL schema that the sandbox has, by dialect and endpoint.

Types and nullability follow the recordings: a refused `apiKeys` makes all of `data` null on core
(`137`) and only its own field on legacy (`127`); a refused `revokeApiKey` makes only its own
field null (core-2.21 `207`). Twenty's schemas have many more fields; the sandbox answers that
they are unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from provisioner.sandbox.dialect import Dialect

GRAPHQL = "/graphql"
METADATA = "/metadata"


def schema_text(dialect: Dialect, path: str, *, anonymous: bool) -> str:
    """Return the SDL of an endpoint for anonymous or authenticated callers.

    `/graphql` on legacy hides the workspace's own objects from anonymous callers (legacy `124`);
    `/graphql` on 2.21 has no API keys (core-2.21 `142`, `902`).
    """
    names: tuple[str, ...]
    match dialect:
        case Dialect.LEGACY:
            hidden = anonymous or path == METADATA
            names = ("legacy",) if hidden else ("legacy", "legacy-workspace")
        case Dialect.CORE_1:
            names = ("core",)
        case Dialect.CORE | Dialect.CORE_NEWEST if path == GRAPHQL:
            names = ("core-2-workspace",)
        case Dialect.CORE:
            names = ("core", "core-2")
        case Dialect.CORE_NEWEST:
            names = ("core", "core-2", "core-newest")
        case _:
            assert_never(dialect)
    folder = Path(__file__).parent
    return "\n".join((folder / f"{name}.graphql").read_text("ascii") for name in names)
