"""JSON documents without secrets, each by its schema in `schemas/`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from provisioner.model.expiry import format_timestamp
from provisioner.model.key import Annotations
from provisioner.secret import masked_document

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from provisioner.errors.failure import Failure
    from provisioner.errors.problem import Problem
    from provisioner.model.observed import ObservedKey

Document = dict[str, object]


def as_json(document: object) -> str:
    """Return a document as JSON text, with secrets masked, in ASCII so that any stdout takes it."""
    return json.dumps(masked_document(document), indent=2) + "\n"


def failure_document(failure: Failure | None) -> Document | None:
    """Return the code and the text of a failure; None if there is none."""
    return None if failure is None else {"code": failure.code, "message": failure.text}


def annotations_document(annotations: Annotations | None) -> Document:
    """Return the description, the owner and the ticket of a key; each is null if it has none."""
    return (annotations or Annotations())._asdict()


def problems_document(problems: Iterable[Problem]) -> Document:
    """Return the document `provision/problems/v1`."""
    return {
        "format": "provision/problems/v1",
        "problems": [
            {
                "file": problem.place.file,
                "line": problem.place.line,
                "column": problem.place.column,
                "code": problem.code,
                "message": problem.message,
            }
            for problem in problems
        ],
    }


def key_document(environment: str, key: ObservedKey, now: datetime) -> Document:
    """Return one entry of `list --format json`; `now` is the server's time."""
    return {
        "environment": environment,
        "id": key.id,
        "name": key.name,
        "live": key.live(now),
        "expires_at": format_timestamp(key.expires_at),
        "revoked_at": None if key.revoked_at is None else format_timestamp(key.revoked_at),
        "created_at": format_timestamp(key.created_at),
        "role": key.role,
    }
