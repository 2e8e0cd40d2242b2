"""`/graphql` and `/metadata`: documents run by graphql-core, refusals worded as recorded."""

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
from provisioner.sandbox.exchange import Json, JsonObject, Request, Response, json_answer
from provisioner.sandbox.graphql_call import Call, token_refused
from provisioner.sandbox.store import UnusableError
from provisioner.sandbox.variables import BadVariable, bad_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provisioner.sandbox.graphql_call import Info
    from provisioner.sandbox.workspace import SandboxWorkspace

_MOST_ROOTS = 10
"""Of 2.21 (`184-gql-12-distinct-roots`)."""


_PYTHON_NAMES = {
    "apiKeyId": "key_id",
    "expiresAt": "expires_at",
    "id": "key_id",
    "input": "fields",
    "loginToken": "login_token",
    "roleId": "role_id",
}
"""How the resolvers call the arguments."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a GraphQL request asks for."""

    text: str
    variables: JsonObject
    operation: str | None


class Endpoint:
    """One path that answers GraphQL."""

    def __init__(self, dialect: Dialect, path: str) -> None:
        self._dialect = dialect
        self._schema = _schema(dialect, path, anonymous=False)
        self._anonymous = _schema(dialect, path, anonymous=True)

    def answer(self, workspace: SandboxWorkspace, caller: Caller, request: Request) -> Response:
        """Answers one request."""
        question = _question(request)
        if isinstance(question, Response):
            return question
        if isinstance(caller, Refused):
            # The middleware answers before GraphQL begins: no `data` (`135`, `212`).
            return json_answer(200, {"errors": [token_refused(caller, self._dialect)]}, plain=True)
        schema = self._anonymous if isinstance(caller, Anonymous) else self._schema
        prepared = _prepare(schema, question.text, self._dialect)
        if not isinstance(prepared, DocumentNode):
            return json_answer(200, {"errors": [dict(error) for error in prepared]})
        operation = get_operation_ast(prepared, question.operation)
        if operation is None:  # core-1 `187-gql-two-operations`
            text = "Could not determine what operation to execute."
            return json_answer(400, {"errors": [{"message": text}]})
        misfits = bad_variables(schema, operation, question.variables, self._dialect)
        if misfits:
            errors: list[Json] = [self._misfit(misfit) for misfit in misfits]
            return json_answer(400, {"errors": errors})
        return self._run(schema, prepared, question, Call(workspace, caller))

    def _run(
        self, schema: GraphQLSchema, document: DocumentNode, question: Question, call: Call
    ) -> Response:
        result = execute_sync(
            schema,
            document,
            context_value=call,
            variable_values=question.variables,
            operation_name=question.operation,
            field_resolver=_field,
        )
        body: JsonObject = {"data": result.data}
        if result.errors:
            whys = [error.original_error for error in result.errors]
            unusable = next((why for why in whys if isinstance(why, UnusableError)), None)
            if unusable is not None and not any((result.data or {}).values()):
                raise unusable
            # Errors of the execution carry neither a path nor a place (`134`, `153`).
            errors: list[Json] = [
                {
                    "message": error.message,
                    "extensions": error.extensions or self._unexpected(),
                }
                for error in result.errors
            ]
            body = {"errors": errors, **body}
        return json_answer(200, body)

    def _unexpected(self) -> JsonObject:
        """The rest of a refusal that nobody worded, as a null where none may be (legacy `905`)."""
        if self._dialect is Dialect.LEGACY:
            return {"code": "INTERNAL_SERVER_ERROR"}
        return {"code": "INTERNAL_SERVER_ERROR", "userFriendlyMessage": "An error occurred."}

    def _misfit(self, misfit: BadVariable) -> JsonObject:
        """A variable that does not fit (`152`, `154`, legacy `138`)."""
        if self._dialect is Dialect.LEGACY:
            return {"message": misfit.message, "extensions": {"code": "BAD_USER_INPUT"}}
        extensions: JsonObject = {
            "http": {"status": 400},
            "code": "BAD_USER_INPUT" if misfit.value is None else "GRAPHQL_VALIDATION_FAILED",
            "userFriendlyMessage": "An error occurred.",
        }
        if misfit.value is not None:
            extensions["value"] = misfit.value
        return {"message": misfit.message, "extensions": extensions}


def endpoints_of(dialect: Dialect) -> Mapping[str, Endpoint]:
    """The endpoints of a dialect, by path."""
    return {path: Endpoint(dialect, path) for path in (sdl.GRAPHQL, sdl.METADATA)}


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
def _prepare(
    schema: GraphQLSchema, text: str, dialect: Dialect
) -> DocumentNode | tuple[JsonObject, ...]:
    """A document that may run, or the errors of the answer."""
    try:
        document = parse(text)
    except GraphQLError as error:  # `187-gql-syntax-error`
        return (_placed(error),)
    if dialect is Dialect.CORE:
        guarded = _guard(document)
        if guarded:
            return (guarded,)
    return tuple(_placed(error) for error in validate(schema, document)) or document


def _guard(document: DocumentNode) -> JsonObject | None:
    """The two limits of 2.21, which come before everything else.

    All operations of the document count (`182`), fields inside fragments do not (`180`): that
    is a hole of the server, imitated so that a client which used it would be seen.
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
        return _guarded(
            f'Duplicate root resolver: "{repeated}"',
            "UrzTjS",
            "Duplicate root resolver found. Each root resolver can only be called once per"
            " document.",
        )
    if len(roots) > _MOST_ROOTS:
        return _guarded(
            f"Query too complex - Too many root resolvers requested: {len(roots)} - Maximum"
            f" allowed root resolvers: {_MOST_ROOTS}",
            "4LVaa7",
            "The request is too complex to process. Please try reducing the amount of requested"
            " root resolvers.",
        )
    return None


def _guarded(message: str, text_id: str, friendly: str) -> JsonObject:
    return {
        "message": message,
        "extensions": {
            "userFriendlyMessage": {"id": text_id, "message": friendly},
            "code": "BAD_USER_INPUT",
        },
    }


def _placed(error: GraphQLError) -> JsonObject:
    """An error of the document, quoted as graphql-js quotes: graphql-core has single quotes."""
    return {
        "message": error.message.replace("'", '"'),
        "locations": [
            {"line": place.line, "column": place.column} for place in error.locations or ()
        ],
    }


def _question(request: Request) -> Question | Response:
    if request.method == "GET":  # `188-gql-GET`
        return Question(request.query.get("query", ""), {}, None)
    body = rest.read_body(request)
    if isinstance(body, Response):
        return body
    if isinstance(body.value, list):  # `185-gql-batch-array`
        return json_answer(400, {"errors": [{"message": "Batching is not supported."}]})
    value = body.value if isinstance(body.value, dict) else {}
    text, variables = value.get("query"), value.get("variables")
    operation = value.get("operationName")
    if not isinstance(text, str):  # not recorded
        return json_answer(400, {"errors": [{"message": "Must provide query string."}]})
    return Question(
        text,
        variables if isinstance(variables, dict) else {},
        operation if isinstance(operation, str) else None,
    )


def _field(source: Mapping[str, Json], info: Info) -> Json:
    return source.get(info.field_name)
