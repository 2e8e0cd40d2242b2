"""The embedded Twenty: an HTTP server that behaves like three recorded Twenty servers.

An environment with `url: "sandbox:"` uses it, `provision sandbox` runs it, and the tests run
against it. `tests/sandbox/test_contract.py` replays the recordings of the real servers against
it. Code that imitates unrecorded behaviour says so in a comment.
"""

from provisioner.sandbox.dialect import Dialect, dialect_of
from provisioner.sandbox.embedded import OWN_KEY, Sandbox
from provisioner.sandbox.exchange import Around, Exchange, Json, Request, Response, json_answer
from provisioner.sandbox.front import Front
from provisioner.sandbox.seeds import API_KEYS_FLAG, ROLES_FLAG, SeededRole, role
from provisioner.sandbox.store import LOCK_WAIT, ApiKey, User

__all__ = [
    "API_KEYS_FLAG",
    "LOCK_WAIT",
    "OWN_KEY",
    "ROLES_FLAG",
    "ApiKey",
    "Around",
    "Dialect",
    "Exchange",
    "Front",
    "Json",
    "Request",
    "Response",
    "Sandbox",
    "SeededRole",
    "User",
    "dialect_of",
    "json_answer",
    "role",
]
