"""The embedded Twenty as the tests use it, with a journal and rows changed directly."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from sandbox_control import (
    Dialect,
    Exchange,
    Request,
    Response,
    Sandbox,
    json_answer,
)

__all__ = ["Dialect", "Exchange", "Request", "Response", "Sandbox", "json_answer"]
