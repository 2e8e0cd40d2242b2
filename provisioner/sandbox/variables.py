"""Checks of the variables of a GraphQL request, with the texts of the recorded servers.

graphql-core words these errors differently from graphql-js and changes them between releases,
so the few kinds of types that the sandbox has are checked here.
"""

from __future__ import annotations

from dataclasses import dataclass
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

from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.rejected import is_uuid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphql import GraphQLSchema, OperationDefinitionNode

    from provisioner.model.workspace import Json
    from provisioner.sandbox.exchange import JsonObject


@dataclass(frozen=True, slots=True)
class InvalidVariable:
    """An invalid variable and its error.

    Attributes:
        value: the text that was sent in place of a UUID; its error has another form (`154`).
    """

    message: str
    value: str | None = None


def invalid_variables(
    schema: GraphQLSchema,
    operation: OperationDefinitionNode,
    values: JsonObject,
    dialect: Dialect,
) -> tuple[InvalidVariable, ...]:
    """Return all variables that do not match their types."""
    invalid: list[InvalidVariable] = []
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        # The document is valid, so the type exists and is an input type.
        type_ = cast("GraphQLInputType", type_from_ast(schema, definition.type))
        if name in values:
            invalid += _check_value(values[name], type_, dialect)
        elif isinstance(type_, GraphQLNonNull) and definition.default_value is None:
            invalid.append(
                InvalidVariable(
                    f'Variable "${name}" of required type "{print_ast(definition.type)}"'
                    " was not provided."
                )
            )
    return tuple(invalid)


def _check_value(
    value: Json, type_: GraphQLInputType, dialect: Dialect
) -> Iterator[InvalidVariable]:
    if isinstance(type_, GraphQLNonNull):
        if value is None:
            yield InvalidVariable(f'Expected non-nullable type "{type_}" not to be null.')
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
            yield InvalidVariable(f'Expected type "{type_.name}" to be an object.')
    else:
        yield from _check_scalar(value, type_.name, dialect)


def _check_object(
    value: JsonObject, type_: GraphQLInputObjectType, dialect: Dialect
) -> Iterator[InvalidVariable]:
    """Yield invalid and missing fields in the type's order, then unknown ones (legacy `139`)."""
    for name, field in type_.fields.items():
        if name in value:
            yield from _check_value(value[name], field.type, dialect)
        elif isinstance(field.type, GraphQLNonNull):
            yield InvalidVariable(
                f'Field "{name}" of required type "{field.type}" was not provided.'
            )
    for name in value:
        if name not in type_.fields:
            suggestions = suggestion_list(name, list(type_.fields))
            hint = f' Did you mean "{suggestions[0]}"?' if suggestions else ""
            yield InvalidVariable(f'Field "{name}" is not defined by type "{type_.name}".{hint}')


def _check_scalar(value: Json, name: str, dialect: Dialect) -> Iterator[InvalidVariable]:
    if name == "UUID" and not (isinstance(value, str) and is_uuid(value)):
        quoted = f": '{value}'" if dialect is Dialect.CORE else ""
        yield InvalidVariable(f"Invalid UUID{quoted}", value=str(value))
    elif name == "String" and not isinstance(value, str):
        yield InvalidVariable(f"String cannot represent a non string value: {value}")
    elif name == "Int" and (isinstance(value, bool) or not isinstance(value, int)):
        yield InvalidVariable(f"Int cannot represent non-integer value: {value}")
