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
SINKS_LOCK = ROOT / "requirements-sinks.lock"
OLDEST = (3, 11)
EXTRAS = {"aws", "github", "gitlab", "kubernetes", "vault"}


def main() -> int:
    """Makes the environment where it is not there yet, and outputs its `python`."""
    version = "{}.{}".format(*sys.version_info)
    if sys.version_info < OLDEST:
        return wrong(
            f"Python {version} is too old: provision needs 3.11 or newer. Set one up with "
            "actions/setup-python, or name one with the input `python`."
        )
    extras = sorted(set(os.environ.get("INPUT_EXTRAS", "").split()))
    if unknown := set(extras) - EXTRAS:
        return wrong(f"`extras` has {sorted(unknown)}: {sorted(EXTRAS)} is what there is.")
    home = Path(os.environ["RUNNER_TEMP"]) / "-".join(["provision", version, *extras])
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    made_from = home / "made-from"
    if not made_from.is_file() or made_from.read_text(encoding="utf-8") != str(ROOT):
        # -I: no file of the repository that is checked out here is taken for a module.
        run(sys.executable, "-I", "-m", "venv", "--without-pip", str(home))
        install(python, extras)
        made_from.write_text(str(ROOT), encoding="utf-8")
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as outputs:
        outputs.write(f"python={python}\n")
    return 0


def install(python: Path, extras: list[str]) -> None:
    """Installs what the tool needs, and the tool as it stands in the checkout."""
    # The pip that is there: one more of it in each job would take longer than all the rest.
    pip = [sys.executable, "-I", "-m", "pip", "--python", str(python), "install", "--quiet"]
    for packages in needed(extras):
        run(*pip, "--no-input", "--disable-pip-version-check", *packages)
    # A path in place of a build, whose tools no hash would hold.
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = subprocess.check_output([str(python), "-I", "-c", where], text=True).strip()
    Path(folder, "provision.pth").write_text(f"{ROOT}\n", encoding="utf-8")


def needed(extras: list[str]) -> list[list[str]]:
    """What pip is asked for, one list a call: the locked packages by their hashes, then extras."""
    import tomllib  # noqa: PLC0415 - not there in a Python that is too old

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    first = ["--require-hashes", "-r", str(LOCK)] if LOCK.is_file() else project["dependencies"]
    more = [one for extra in extras for one in project["optional-dependencies"][extra]]
    if more and SINKS_LOCK.is_file():
        return [["--require-hashes", "-r", str(SINKS_LOCK)]]
    return [first, more] if more else [first]


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
