"""`/graphql` and `/metadata`: graphql-core runs the documents, errors are worded as recorded."""

from __future__ import annotations

from collections import Counter
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLSchema,
    Node,
    OperationDefinitionNode,
    build_schema,
    execute_sync,
    get_operation_ast,
    parse,
    validate,
)

from provisioner.sandbox import graphql_core, graphql_legacy, rest, sdl
from provisioner.sandbox.access import ANONYMOUS, Refused
from provisioner.sandbox.exchange import JsonObject, Request, Response, json_answer
from provisioner.sandbox.graphql_call import ANY_ERROR, Call, token_refused
from provisioner.sandbox.rejected import RejectedError
from provisioner.sandbox.store import SandboxUnusableError
from provisioner.sandbox.variables import invalid_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.model.workspace import Json
    from provisioner.sandbox.dialect import Dialect
    from provisioner.sandbox.graphql_call import Info

PATHS = (sdl.GRAPHQL, sdl.METADATA)

_MAX_ROOT_FIELDS = 10
"""The limit of 2.21 (`184-gql-12-distinct-roots`)."""

_MAX_LEVELS = 10
"""The limit of the newest; the text of its error is from the server's source."""

_PYTHON_NAMES = {
    "apiKeyId": "key_id",
    "appToken": "app_token",
    "expiresAt": "expires_at",
    "id": "key_id",
    "input": "fields",
    "loginToken": "login_token",
    "refreshToken": "refresh_token",
    "roleId": "role_id",
}
"""The names of the arguments in the resolvers."""


class _InvalidRequestError(RejectedError):
    """A request whose answer has only errors, and no `data`."""

    def __init__(self, *errors: JsonObject, status: int = 400) -> None:
        super().__init__("", status=status)
        self._errors: list[Json] = [*errors]

    def body(self) -> JsonObject:
        """Return the body of the answer."""
        return {"errors": self._errors}


def answer(call: Call, request: Request) -> Response:
    """Answer a request to one of `PATHS`.

    Raises:
        RejectedError: no part of the document was run.
    """
    text, variables, operation_name = _read_request(request)
    caller, dialect = call.caller, call.dialect
    anonymous = caller == ANONYMOUS
    if isinstance(caller, Refused) and not anonymous:
        # The middleware answers before GraphQL runs: no `data` (`135`, `212`).
        return json_answer(200, {"errors": [token_refused(caller, dialect)]}, without_charset=True)
    schema = _schema(dialect, request.path, anonymous=anonymous)
    document = _parse_and_validate(schema, text, dialect)
    operation = get_operation_ast(document, operation_name)
    if operation is None:  # core-1 `187-gql-two-operations`
        raise _InvalidRequestError({"message": "Could not determine what operation to execute."})
    invalid = [
        _variable_error(message, value, dialect)
        for message, value in invalid_variables(schema, operation, variables, dialect)
    ]
    if invalid:
        raise _InvalidRequestError(*invalid)
    result = execute_sync(
        schema,
        document,
        context_value=call,
        variable_values=variables,
        operation_name=operation_name,
        field_resolver=_field,
    )
    if not result.errors:
        return json_answer(200, {"data": result.data})
    causes = [error.original_error for error in result.errors]
    unusable = next((cause for cause in causes if isinstance(cause, SandboxUnusableError)), None)
    if unusable is not None and not any((result.data or {}).values()):
        raise unusable
    # An unexpected error, such as a forbidden null (legacy `905`), has no extensions of its own.
    unexpected: JsonObject = {"code": "INTERNAL_SERVER_ERROR"}
    if dialect.keeps_core_keys:
        unexpected["userFriendlyMessage"] = ANY_ERROR
    # Execution errors have no path and no location (`134`, `153`).
    errors: list[Json] = [
        {"message": error.message, "extensions": error.extensions or unexpected}
        for error in result.errors
    ]
    return json_answer(200, {"errors": errors, "data": result.data})


def _variable_error(message: str, value: str | None, dialect: Dialect) -> JsonObject:
    """Return the error for an invalid variable (`152`, `154`, legacy `138`)."""
    if not dialect.keeps_core_keys:
        return {"message": message, "extensions": {"code": "BAD_USER_INPUT"}}
    extensions: JsonObject = {
        "http": {"status": 400},
        "code": "BAD_USER_INPUT" if value is None else "GRAPHQL_VALIDATION_FAILED",
        "userFriendlyMessage": ANY_ERROR,
    }
    if value is not None:
        extensions["value"] = value
    return {"message": message, "extensions": extensions}


@cache
def _schema(dialect: Dialect, path: str, *, anonymous: bool) -> GraphQLSchema:
    schema = build_schema(sdl.schema_text(dialect, path, anonymous=anonymous))
    resolvers = graphql_core if dialect.keeps_core_keys else graphql_legacy
    for name, resolve in resolvers.RESOLVERS.items():
        type_name, field_name = name.split(".")
        type_ = schema.type_map.get(type_name)
        fields = getattr(type_, "fields", {})
        if field_name in fields:
            fields[field_name].resolve = resolve
            for argument, out_name in _PYTHON_NAMES.items():
                if argument in fields[field_name].args:
                    fields[field_name].args[argument].out_name = out_name
    return schema


@lru_cache(maxsize=512)
def _parse_and_validate(schema: GraphQLSchema, text: str, dialect: Dialect) -> DocumentNode:
    """Return the parsed document.

    Raises:
        RejectedError: it is not valid.
    """
    try:
        document = parse(text)
    except GraphQLError as error:  # `187-gql-syntax-error`
        raise _InvalidRequestError(_document_error(error), status=200) from None
    if dialect.limits_levels:
        _check_levels(document)
    if dialect.limits_documents:
        _check_limits(document)
    if errors := validate(schema, document):
        raise _InvalidRequestError(*map(_document_error, errors), status=200)
    return document


def _check_limits(document: DocumentNode) -> None:
    """Raise the error for a document beyond one of the two limits that 2.21 checks first.

    All operations of the document count (`182`), fields in fragments do not (`180`). That is a
    gap in the server; it is imitated so that tests notice a client that relies on it.
    """
    roots = Counter(
        selection.name.value
        for operation in document.definitions
        if isinstance(operation, OperationDefinitionNode)
        for selection in operation.selection_set.selections
        if isinstance(selection, FieldNode)
    )
    repeated = next((name for name, count in roots.items() if count > 1), None)
    if repeated is not None:
        raise _limit_error(
            f'Duplicate root resolver: "{repeated}"',
            "UrzTjS",
            "Duplicate root resolver found. Each root resolver can only be called once per"
            " document.",
        )
    if len(roots) > _MAX_ROOT_FIELDS:
        raise _limit_error(
            f"Query too complex - Too many root resolvers requested: {len(roots)} - Maximum"
            f" allowed root resolvers: {_MAX_ROOT_FIELDS}",
            "4LVaa7",
            "The request is too complex to process. Please try reducing the amount of requested"
            " root resolvers.",
        )


def _check_levels(document: DocumentNode) -> None:
    """Raise the error for a document of too many levels; those in fragments do not count here."""
    levels = max(map(_levels, document.definitions), default=0)
    if levels > _MAX_LEVELS:
        text = (
            f"Query too complex - Too many nested fields requested: {levels} - Maximum allowed"
            f" nested fields: {_MAX_LEVELS}"
        )
        extensions: JsonObject = {"code": "BAD_USER_INPUT"}
        raise _InvalidRequestError({"message": text, "extensions": extensions}, status=200)


def _levels(node: Node) -> int:
    selections = getattr(getattr(node, "selection_set", None), "selections", ())
    return max(map(_levels, selections), default=0) + isinstance(node, FieldNode)


def _limit_error(message: str, text_id: str, friendly: str) -> RejectedError:
    extensions: JsonObject = {
        "userFriendlyMessage": {"id": text_id, "message": friendly},
        "code": "BAD_USER_INPUT",
    }
    return _InvalidRequestError({"message": message, "extensions": extensions}, status=200)


def _document_error(error: GraphQLError) -> JsonObject:
    """Return an error of the document with the double quotes of graphql-js."""
    return {
        "message": error.message.replace("'", '"'),
        "locations": [
            {"line": location.line, "column": location.column} for location in error.locations or ()
        ],
    }


def _read_request(request: Request) -> tuple[str, JsonObject, str | None]:
    """Return the document, its variables and the name of the operation to run."""
    if request.method == "GET":  # `188-gql-GET`
        return request.query.get("query", ""), {}, None
    body = rest.read_body(request)
    if not isinstance(body, dict):  # `185-gql-batch-array`
        raise _InvalidRequestError({"message": "Batching is not supported."})
    text, variables = body.get("query"), body.get("variables")
    operation = body.get("operationName")
    if not isinstance(text, str):  # not recorded
        raise _InvalidRequestError({"message": "Must provide query string."})
    return (
        text,
        variables if isinstance(variables, dict) else {},
        operation if isinstance(operation, str) else None,
    )


def _field(source: Mapping[str, Json], info: Info) -> Json:
    return source.get(info.field_name)
