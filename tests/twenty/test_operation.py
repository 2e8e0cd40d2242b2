"""Operations: what a request is called in the log, and what kind of work it is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from provisioner.model.workspace import NewKey
from provisioner.twenty import auth, core, core_bulk_create, server_workspace
from provisioner.twenty.legacy import FIRST_PAGE
from provisioner.twenty.operation import Operation, operation_of

pytestmark = pytest.mark.fast

NEW = NewKey(id="i", name='a "{" b', expires_at="2030-01-01T00:00:00.000Z", depth=2, role_id="r")
MINT = server_workspace._mint("1b{}()", datetime(2030, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("document", "operation"),
    [
        (core_bulk_create._document((NEW,))[0], Operation("createApiKey", "create")),
        (core_bulk_create._document((NEW,) * 20)[0], Operation("createApiKey x20", "create", 20)),
        (f"mutation{{{MINT}}}", Operation("generateApiKeyToken", "mint")),
        (f"mutation{{m0:{MINT} m1:{MINT}}}", Operation("generateApiKeyToken x2", "mint", 2)),
        (core._LIST % ("id name", "getRoles"), Operation("apiKeys+getRoles", "list")),
        (core._REVOKE, Operation("revokeApiKey", "change")),
        (core._UPDATE, Operation("updateApiKey", "change")),
        (core._ASSIGN, Operation("assignRoleToApiKey", "change")),
        (core._PERMISSIONS, Operation("getRoles", None)),
        (server_workspace._PROBE, Operation("currentWorkspace", "prove")),
        (auth._LOGIN, Operation("getLoginTokenFromCredentials", None)),
        ("not a document", Operation("", None)),
    ],
)
def test_a_document_is_called_by_its_fields(document: str, operation: Operation) -> None:
    """The log names what GraphQL is asked for, without aliases, arguments and selections."""
    assert operation_of("POST", "/metadata", {"query": document, "variables": {}}) == operation


@pytest.mark.parametrize(
    ("method", "path", "body", "operation"),
    [
        ("GET", FIRST_PAGE, None, Operation("", "list")),
        ("POST", "/rest/batch/apiKeys?depth=1", [{}, {}, {}], Operation("", "create", 3)),
        ("PATCH", "/rest/apiKeys/1", {"revokedAt": "x"}, Operation("", "change")),
    ],
)
def test_a_path_of_rest_needs_no_name(method, path, body, operation) -> None:
    """Only the kind of work and the number of keys are read from a REST request."""
    assert operation_of(method, path, body) == operation
