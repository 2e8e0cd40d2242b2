"""Checks the variables of a GraphQL request, with the texts of the recorded servers.

graphql-core words these refusals differently from graphql-js, and differently from one
release to the next, so the few kinds of types that the sandbox has are checked here.
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
from provisioner.sandbox.keys_core import is_uuid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphql import GraphQLSchema, OperationDefinitionNode

    from provisioner.sandbox.exchange import Json, JsonObject


@dataclass(frozen=True, slots=True)
class BadVariable:
    """One refusal.

    Attributes:
        value: what was sent in place of a UUID, which has its own kind of refusal (`154`).
    """

    message: str
    value: str | None = None


def bad_variables(
    schema: GraphQLSchema,
    operation: OperationDefinitionNode,
    values: JsonObject,
    dialect: Dialect,
) -> tuple[BadVariable, ...]:
    """Every variable that does not fit its type."""
    found: list[BadVariable] = []
    for definition in operation.variable_definitions or ():
        name = definition.variable.name.value
        # The validation of the document has seen to it that the type is there and fits.
        type_ = cast("GraphQLInputType", type_from_ast(schema, definition.type))
        if name in values:
            found += _misfits(values[name], type_, dialect)
        elif isinstance(type_, GraphQLNonNull) and definition.default_value is None:
            found.append(
                BadVariable(
                    f'Variable "${name}" of required type "{print_ast(definition.type)}"'
                    " was not provided."
                )
            )
    return tuple(found)


def _misfits(value: Json, type_: GraphQLInputType, dialect: Dialect) -> Iterator[BadVariable]:
    if isinstance(type_, GraphQLNonNull):
        if value is None:
            yield BadVariable(f'Expected non-nullable type "{type_}" not to be null.')
            return
        type_ = type_.of_type
    if value is None:
        return
    if isinstance(type_, GraphQLList):
        for element in value if isinstance(value, list) else (value,):
            yield from _misfits(element, type_.of_type, dialect)
    elif isinstance(type_, GraphQLInputObjectType):
        if isinstance(value, dict):
            yield from _object_misfits(value, type_, dialect)
        else:
            yield BadVariable(f'Expected type "{type_.name}" to be an object.')
    else:
        yield from _scalar_misfits(value, type_.name, dialect)


def _object_misfits(
    value: JsonObject, type_: GraphQLInputObjectType, dialect: Dialect
) -> Iterator[BadVariable]:
    """Wrong and missing fields in the order of the type, then unknown ones (legacy `139`)."""
    for name, field in type_.fields.items():
        if name in value:
            yield from _misfits(value[name], field.type, dialect)
        elif isinstance(field.type, GraphQLNonNull):
            yield BadVariable(f'Field "{name}" of required type "{field.type}" was not provided.')
    for name in value:
        if name not in type_.fields:
            near = suggestion_list(name, list(type_.fields))
            hint = f' Did you mean "{near[0]}"?' if near else ""
            yield BadVariable(f'Field "{name}" is not defined by type "{type_.name}".{hint}')


def _scalar_misfits(value: Json, name: str, dialect: Dialect) -> Iterator[BadVariable]:
    if name == "UUID" and not (isinstance(value, str) and is_uuid(value)):
        shown = f": '{value}'" if dialect is Dialect.CORE else ""
        yield BadVariable(f"Invalid UUID{shown}", value=str(value))
    elif name == "String" and not isinstance(value, str):
        yield BadVariable(f"String cannot represent a non string value: {value}")
    elif name == "Int" and (isinstance(value, bool) or not isinstance(value, int)):
        yield BadVariable(f"Int cannot represent non-integer value: {value}")
