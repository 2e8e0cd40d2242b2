"""Checks of the variables of a GraphQL request, with the texts of the recorded servers.

graphql-core words these errors differently from graphql-js and changes them between releases,
so the few kinds of types that the sandbox has are checked here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from graphql import (
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLNonNull,
    print_ast,
    type_from_ast,
)
from graphql.pyutils import suggestion_list

from provisioner.sandbox.rejected import is_uuid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphql import GraphQLSchema, OperationDefinitionNode

    from provisioner.model.workspace import Json
    from provisioner.sandbox.dialect import Dialect
    from provisioner.sandbox.exchange import JsonObject


Invalid = tuple[str, str | None]
"""An error, and the text that was sent in place of a UUID, whose error has another form (`154`)."""


def invalid_variables(
    schema: GraphQLSchema,
    operation: OperationDefinitionNode,
    values: JsonObject,
    dialect: Dialect,
) -> Iterator[Invalid]:
    """Yield an error for each variable that does not match its type."""
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        # The document is valid, so the type exists and is an input type.
        type_ = cast("GraphQLInputType", type_from_ast(schema, definition.type))
        if name in values:
            yield from _check_value(values[name], type_, dialect)
        elif isinstance(type_, GraphQLNonNull) and definition.default_value is None:
            type_name = print_ast(definition.type)
            yield f'Variable "${name}" of required type "{type_name}" was not provided.', None


def _check_value(value: Json, type_: GraphQLInputType, dialect: Dialect) -> Iterator[Invalid]:
    if isinstance(type_, GraphQLNonNull):
        if value is None:
            yield f'Expected non-nullable type "{type_}" not to be null.', None
            return
        type_ = type_.of_type
    if value is None:
        return
    if isinstance(type_, GraphQLList):
        for element in value if isinstance(value, list) else (value,):
            yield from _check_value(element, type_.of_type, dialect)
    elif isinstance(type_, GraphQLInputObjectType):
        if isinstance(value, dict):
            yield from _check_object(value, type_, dialect)
        else:
            yield f'Expected type "{type_.name}" to be an object.', None
    else:
        yield from _check_scalar(value, type_.name, dialect)


def _check_object(
    value: JsonObject, type_: GraphQLInputObjectType, dialect: Dialect
) -> Iterator[Invalid]:
    """Yield invalid and missing fields in the type's order, then unknown ones (legacy `139`)."""
    for name, field in type_.fields.items():
        if name in value:
            yield from _check_value(value[name], field.type, dialect)
        elif isinstance(field.type, GraphQLNonNull):
            yield f'Field "{name}" of required type "{field.type}" was not provided.', None
    for name in value:
        if name not in type_.fields:
            suggestions = suggestion_list(name, list(type_.fields))
            hint = f' Did you mean "{suggestions[0]}"?' if suggestions else ""
            yield f'Field "{name}" is not defined by type "{type_.name}".{hint}', None


def _check_scalar(value: Json, name: str, dialect: Dialect) -> Iterator[Invalid]:
    if name == "UUID" and not (isinstance(value, str) and is_uuid(value)):
        quoted = f": '{value}'" if dialect.has_texts_of_2 else ""
        yield f"Invalid UUID{quoted}", str(value)
    elif name == "String" and not isinstance(value, str):
        yield f"String cannot represent a non string value: {value}", None
    elif name == "Int" and (isinstance(value, bool) or not isinstance(value, int)):
        yield f"Int cannot represent non-integer value: {value}", None
