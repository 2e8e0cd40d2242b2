"""The browser and the audits that the tests of the HTML page use."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from audits import audit_of
from browser import CHROMIUM, Browser
from builders import NOW

__all__ = ["CHROMIUM", "NOW", "Browser", "audit_of"]
