"""Installs provision from the action's own checkout, into an environment of this job.

Written for the Python of any runner, so that one that is too old is told so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
OLDEST = (3, 11)


def main() -> int:
    """Makes the environment where it is not there yet, and outputs its `python`."""
    version = "{}.{}".format(*sys.version_info)
    if sys.version_info < OLDEST:
        return wrong(
            f"Python {version} is too old: provision needs 3.11 or newer. Set one up with "
            "actions/setup-python, or name one with the input `python`."
        )
    extras = sorted(set(os.environ.get("INPUT_EXTRAS", "").split()))
    if not all(extra.isalnum() for extra in extras):
        return wrong("`extras` takes names with blanks between them.")
    home = Path(os.environ["RUNNER_TEMP"]) / "-".join(["provision", version, *extras])
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    made_from = home / "made-from"
    if not made_from.is_file() or made_from.read_text(encoding="utf-8") != str(ROOT):
        # -I: no file of the repository that is checked out here is taken for a module.
        run(sys.executable, "-I", "-m", "venv", str(home))
        install(python, extras)
        made_from.write_text(str(ROOT), encoding="utf-8")
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.write(f"python={python}\n")
    return 0


def install(python: Path, extras: list[str]) -> None:
    """Installs the locked packages by their hashes, and the tool as it stands in the checkout."""
    pip = [str(python), "-I", "-m", "pip", "install", "--quiet", "--no-input"]
    pip.append("--disable-pip-version-check")
    if not LOCK.is_file():
        run(*pip, f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT))
        return
    run(*pip, "--require-hashes", "-r", str(LOCK))
    # A path in place of a build, whose tools no hash would hold.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([str(python), "-I", "-c", where], text=True).strip()
    Path(packages, "provision.pth").write_text(f"{ROOT}\n", encoding="utf-8")


def run(*command: str) -> None:
    """Runs one program, whose failure is that of the step."""
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(wrong(f"{' '.join(command)} ended with {done.returncode}."))


def wrong(message: str) -> int:
    """Tells why the step fails."""
    print(f"::error title=provision::{message}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
