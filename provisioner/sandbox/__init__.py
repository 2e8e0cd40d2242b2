"""The embedded Twenty: a real HTTP server that behaves like three recorded ones.

It is what `sandbox:` means in an environment, what `provision sandbox` runs, and what the
tests are held against. `tests/sandbox/test_contract.py` replays the recordings of the real
servers against it; what no recording covers says so where it is imitated.
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
