"""Installs provision from the action's own checkout, into a virtual environment of this job.

This script also runs on an older Python, so that it can say that the version is too old.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
SINKS_LOCK = ROOT / "requirements-sinks.lock"
MIN_PYTHON = (3, 11)
EXTRAS = {"aws", "azure", "dask", "gcp", "github", "gitlab", "kubernetes", "socks", "vault"}


def main() -> int:
    """Create the virtual environment if it does not exist, and output the path of its Python."""
    version = "{}.{}".format(*sys.version_info)
    if sys.version_info < MIN_PYTHON:
        return fail(
            f"Python {version} is too old: provision needs 3.11 or newer. Install one with "
            "actions/setup-python, or name one in the input `python`."
        )
    extras = sorted(set(os.environ.get("INPUT_EXTRAS", "").split()))
    if unknown := sorted(set(extras) - EXTRAS):
        return fail(
            f"`extras` has unknown names: {', '.join(unknown)}. "
            f"Use any of {', '.join(sorted(EXTRAS))}."
        )
    home = Path(os.environ["RUNNER_TEMP"]) / "-".join(["provision", version, *extras])
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    installed_from = home / "installed-from"
    if not installed_from.is_file() or installed_from.read_text(encoding="utf-8") != str(ROOT):
        # -I keeps Python from importing files of the checked-out repository.
        run(sys.executable, "-I", "-m", "venv", "--without-pip", str(home))
        install(python, extras)
        installed_from.write_text(str(ROOT), encoding="utf-8")
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.write(f"python={python}\n")
    return 0


def install(python: Path, extras: list[str]) -> None:
    """Install the dependencies, and put the checkout on the module path."""
    # Use the runner's pip: installing pip into the environment would be the slowest step.
    pip = [sys.executable, "-I", "-m", "pip", "--python", str(python), "install", "--quiet"]
    for arguments in pip_arguments(extras):
        run(*pip, "--no-input", "--disable-pip-version-check", *arguments)
    # A build would need tools that no hash pins, so the checkout becomes a path.
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = subprocess.check_output([str(python), "-I", "-c", script], text=True).strip()
    Path(folder, "provision.pth").write_text(f"{ROOT}\n", encoding="utf-8")


def pip_arguments(extras: list[str]) -> list[list[str]]:
    """Return the packages for each call of pip: those of a lock by their hashes, then extras."""
    import tomllib  # noqa: PLC0415 - missing in a Python that is too old

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = ["--require-hashes", "-r", str(LOCK)] if LOCK.is_file() else project["dependencies"]
    more = [one for extra in extras for one in project["optional-dependencies"][extra]]
    if more and SINKS_LOCK.is_file():
        return [["--require-hashes", "-r", str(SINKS_LOCK)]]
    return [packages, more] if more else [packages]


def run(*command: str) -> None:
    """Run a program; if it fails, exit so that the step fails."""
    process = subprocess.run(command, check=False)
    if process.returncode:
        sys.exit(fail(f"{' '.join(command)} exited with code {process.returncode}."))


def fail(message: str) -> int:
    """Print an error annotation and return the exit code of the step."""
    print(f"::error title=provision::{message}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
