"""Request bodies, paths and error formats that the REST APIs of all dialects share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from provisioner.sandbox.dialect import Dialect
from provisioner.sandbox.exchange import Request, Response, json_answer
from provisioner.sandbox.rejected import FrameworkError, RejectedError, is_uuid

if TYPE_CHECKING:
    from provisioner.model.workspace import Json
    from provisioner.sandbox.access import Refused


def read_body(request: Request) -> Json:
    """Return the object or array of a body; an empty object for no body or none sent as JSON.

    Raises:
        FrameworkError: the server's parser does not accept it.
    """
    if not request.body or request.content_type != "application/json":
        return {}
    try:
        text = request.body.decode()
        value: Json = json.loads(text)
    except UnicodeDecodeError:
        message = "Unexpected token '\N{REPLACEMENT CHARACTER}' in JSON"
        raise FrameworkError(message) from None
    except json.JSONDecodeError as error:
        raise FrameworkError(_v8_text(error)) from None
    if isinstance(value, dict | list):
        return value
    # The parser accepts only objects and arrays (legacy `040-rest-batch-null`).
    raise FrameworkError(_unexpected(text, len(text) - len(text.lstrip())))


def not_found(request: Request) -> FrameworkError:
    """Return the error for an unknown path (`220-root-unknown`)."""
    message = f"Cannot {request.method} {request.path or '/'}"
    return FrameworkError(message, status=404, error="Not Found")


def refused(refusal: Refused) -> Response:
    """Return the answer to a refused caller (`004`, `005`, `211`)."""
    error = RejectedError(refusal.message, error=refusal.error, status=refusal.status)
    return json_answer(refusal.status, error.body(), without_charset=True)


def check_depth(request: Request, allowed: tuple[int, ...]) -> None:
    """Raise the error for an invalid `depth`; an empty one counts as absent (legacy `026`)."""
    depth = request.query.get("depth", "")
    if depth and depth not in map(str, allowed):
        values = ", ".join(map(str, allowed))
        raise RejectedError(f"'depth={depth}' parameter invalid. Allowed values are {values}")


def read_limit(text: str, otherwise: int) -> float:
    """Return the size of a page; 0 counts as absent, fractions are allowed (legacy `082`, `093`).

    Raises:
        RejectedError: it is negative or no number.
    """
    try:
        limit = float(text or 0)
    except ValueError:
        limit = -1
    if not 0 <= limit < float("inf"):
        raise RejectedError(f"limit '{text}' is invalid. Should be an integer")
    return limit or otherwise


def check_path(request: Request, dialect: Dialect) -> None:
    """Raise the error for an invalid path."""
    match request.path.split("/")[2:]:
        case ["metadata", name, *_] if not dialect.has_texts_of_2:
            raise FrameworkError(
                f"Query path '{request.path}' invalid. Metadata path \"{name}\" does not exist."
                " Valid examples: /rest/metadata/fields or /rest/metadata/objects"
            )
        case ["batch", *_]:
            pass
        case [_, _, _, *_]:
            raise RejectedError(
                f"Query path '{request.path}' invalid. Valid examples: /rest/companies/id or"
                " /rest/companies or /rest/batch/companies"
            )
        case [_, key_id] if not is_uuid(key_id):
            raise RejectedError(f"'{key_id}' is not a valid UUID")
        case _:
            pass


def unknown_object(request: Request, dialect: Dialect) -> RejectedError:
    """Return the error for an unknown object (`109-rest-unknown-object`, legacy `108`)."""
    parts = request.path.split("/")[2:]
    name = parts[1] if parts[0] == "batch" and len(parts) > 1 else parts[0]
    similar = dialect is Dialect.LEGACY and name == "apiKey"
    hint = "Did you mean 'apiKeys'?" if similar else "eg: companies"
    return RejectedError(f"object '{name}' not found. {hint}")


def _v8_text(error: json.JSONDecodeError) -> str:
    """Return Node.js's text for the same error (recorded: `039`, legacy `041` and `056`)."""
    location = f"in JSON at position {error.pos} (line {error.lineno} column {error.colno})"
    if "property name" in error.msg:
        return f"Expected double-quoted property name {location}"
    if "Unterminated string" in error.msg:
        return f"Unterminated string {location}"
    if error.pos >= len(error.doc.rstrip()):
        return "Unexpected end of JSON input"
    return _unexpected(error.doc, error.pos)


def _unexpected(text: str, position: int) -> str:
    return f"Unexpected token '{text[position]}', \"{text}\" is not valid JSON"
