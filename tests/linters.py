"""Programs that check files: validators of published schemas, and auditors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def problems_of(*command: object) -> str:
    """Run a program; return its output if it found a problem, else nothing."""
    program = Path(sys.executable).with_name(str(command[0]))
    process = subprocess.run(
        [program, *map(str, command[1:])], capture_output=True, text=True, timeout=60, check=False
    )
    return process.stdout + process.stderr if process.returncode else ""
