"""`/graphql` and `/metadata`: graphql-core runs the documents, errors are worded as recorded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    build_schema,
    execute_sync,
    get_operation_ast,
    parse,
    validate,
)

from provisioner.sandbox import graphql_core, graphql_legacy, rest, sdl
from provisioner.sandbox.access import Anonymous, Caller, Refused
from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.exchange import JsonObject, Request, Response, json_answer
from provisioner.sandbox.graphql_call import Call, token_refused
from provisioner.sandbox.rejected import RejectedError
from provisioner.sandbox.store import UnusableError
from provisioner.sandbox.variables import InvalidVariable, invalid_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.model.workspace import Json
    from provisioner.sandbox.graphql_call import Info
    from provisioner.sandbox.store import Store

_MAX_ROOT_FIELDS = 10
"""The limit of 2.21 (`184-gql-12-distinct-roots`)."""


_PYTHON_NAMES = {
    "apiKeyId": "key_id",
    "expiresAt": "expires_at",
    "id": "key_id",
    "input": "fields",
    "loginToken": "login_token",
    "roleId": "role_id",
}
"""The names of the arguments in the resolvers."""


@dataclass(frozen=True, slots=True)
class GraphQLRequest:
    """The document, the variables and the operation name of a GraphQL request."""

    text: str
    variables: JsonObject
    operation: str | None


class _InvalidRequestError(RejectedError):
    """A request whose answer has only errors, and no `data`.

    Args:
        errors: the errors, or their messages.
        status: of the answer.
    """

    def __init__(self, *errors: JsonObject | str, status: int = 400) -> None:
        super().__init__("", status=status)
        self._errors: list[Json] = [
            {"message": error} if isinstance(error, str) else error for error in errors
        ]

    def body(self) -> JsonObject:
        """Return the body of the answer."""
        return {"errors": self._errors}


class Endpoint:
    """A path that answers GraphQL requests."""

    def __init__(self, store: Store, path: str, session_seconds: float) -> None:
        self._store = store
        self._session_seconds = session_seconds
        self._dialect = store.dialect
        self._schema = _schema(store.dialect, path, anonymous=False)
        self._anonymous = _schema(store.dialect, path, anonymous=True)

    def answer(self, caller: Caller, request: Request) -> Response:
        """Answer one request.

        Raises:
            RejectedError: no part of the document was run.
        """
        query = _read_request(request)
        if isinstance(caller, Refused):
            # The middleware answers before GraphQL runs: no `data` (`135`, `212`).
            errors: list[Json] = [token_refused(caller, self._dialect)]
            return json_answer(200, {"errors": errors}, without_charset=True)
        schema = self._anonymous if isinstance(caller, Anonymous) else self._schema
        document = _parse_and_validate(schema, query.text, self._dialect)
        operation = get_operation_ast(document, query.operation)
        if operation is None:  # core-1 `187-gql-two-operations`
            raise _InvalidRequestError("Could not determine what operation to execute.")
        invalid = invalid_variables(schema, operation, query.variables, self._dialect)
        if invalid:
            raise _InvalidRequestError(*map(self._variable_error, invalid))
        call = Call(self._store, caller, self._session_seconds)
        return self._run(schema, document, query, call)

    def _run(
        self, schema: GraphQLSchema, document: DocumentNode, query: GraphQLRequest, call: Call
    ) -> Response:
        result = execute_sync(
            schema,
            document,
            context_value=call,
            variable_values=query.variables,
            operation_name=query.operation,
            field_resolver=_field,
        )
        body: JsonObject = {"data": result.data}
        if result.errors:
            causes = [error.original_error for error in result.errors]
            unusable = next((cause for cause in causes if isinstance(cause, UnusableError)), None)
            if unusable is not None and not any((result.data or {}).values()):
                raise unusable
            # Execution errors have no path and no location (`134`, `153`).
            errors: list[Json] = [
                {
                    "message": error.message,
                    "extensions": error.extensions or self._unexpected_extensions(),
                }
                for error in result.errors
            ]
            body = {"errors": errors, **body}
        return json_answer(200, body)

    def _unexpected_extensions(self) -> JsonObject:
        """Return the extensions of an unexpected error, such as a forbidden null (legacy `905`)."""
        if self._dialect is Dialect.LEGACY:
            return {"code": "INTERNAL_SERVER_ERROR"}
        return {"code": "INTERNAL_SERVER_ERROR", "userFriendlyMessage": "An error occurred."}

    def _variable_error(self, variable: InvalidVariable) -> JsonObject:
        """Return the error for an invalid variable (`152`, `154`, legacy `138`)."""
        if self._dialect is Dialect.LEGACY:
            return {"message": variable.message, "extensions": {"code": "BAD_USER_INPUT"}}
        extensions: JsonObject = {
            "http": {"status": 400},
            "code": "BAD_USER_INPUT" if variable.value is None else "GRAPHQL_VALIDATION_FAILED",
            "userFriendlyMessage": "An error occurred.",
        }
        if variable.value is not None:
            extensions["value"] = variable.value
        return {"message": variable.message, "extensions": extensions}


def endpoints_of(store: Store, session_seconds: float) -> Mapping[str, Endpoint]:
    """Return the endpoints of a workspace by path."""
    return {path: Endpoint(store, path, session_seconds) for path in (sdl.GRAPHQL, sdl.METADATA)}


@cache
def _schema(dialect: Dialect, path: str, *, anonymous: bool) -> GraphQLSchema:
    schema = build_schema(sdl.schema_text(dialect, path, anonymous=anonymous))
    resolvers = graphql_legacy if dialect is Dialect.LEGACY else graphql_core
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
    if dialect is Dialect.CORE:
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


def _read_request(request: Request) -> GraphQLRequest:
    if request.method == "GET":  # `188-gql-GET`
        return GraphQLRequest(request.query.get("query", ""), {}, None)
    body = rest.read_body(request)
    if isinstance(body.value, list):  # `185-gql-batch-array`
        raise _InvalidRequestError("Batching is not supported.")
    value = body.value if isinstance(body.value, dict) else {}
    text, variables = value.get("query"), value.get("variables")
    operation = value.get("operationName")
    if not isinstance(text, str):  # not recorded
        raise _InvalidRequestError("Must provide query string.")
    return GraphQLRequest(
        text,
        variables if isinstance(variables, dict) else {},
        operation if isinstance(operation, str) else None,
    )


def _field(source: Mapping[str, Json], info: Info) -> Json:
    return source.get(info.field_name)
