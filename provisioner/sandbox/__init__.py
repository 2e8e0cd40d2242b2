"""The embedded Twenty: an HTTP server that behaves like three recorded servers and the newest one.

An environment with `url: "sandbox:"` uses it, `provision sandbox` runs it, and the tests run
against it. `tests/sandbox/test_contract.py` replays the recordings of the real servers against
it. Code that imitates unrecorded behaviour says so in a comment.
"""

from provisioner.sandbox.dialect import Dialect, dialect_of
from provisioner.sandbox.embedded import Sandbox
from provisioner.sandbox.server import Front
from provisioner.sandbox.store import LOCK_WAIT

__all__ = ["LOCK_WAIT", "Dialect", "Front", "Sandbox", "dialect_of"]
