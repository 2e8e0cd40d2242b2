"""The files that `init` writes, which are a working example with comments."""

from __future__ import annotations

import json
import os
from pathlib import Path

from provisioner import schemas
from provisioner.errors.exceptions import WrongUsageError
from provisioner.manifests import ENVIRONMENTS

_ADDRESS = "{schemas}"

_ENVIRONMENTS = """\
# yaml-language-server: $schema={schemas}/environments.schema.json
# The workspaces that the manifests in this directory speak of.
version: 1
environments:
  development:
    url: "sandbox:"          # the embedded Twenty: needs no server and no credentials
    role: Integrations       # the role of keys that name none
    owns: ["svc-*"]          # only keys of these names may ever be changed or revoked

  # A real workspace. Secrets come from variables, or from files named by token_file and
  # password_file; they are never written here.
  # production:
  #   url: https://crm.example.com
  #   auth: {email: "${TWENTY_EMAIL}", password: "${TWENTY_PASSWORD}"}
  #   role: Integrations
  #   owns: ["svc-*"]
"""

_MANIFEST = """\
# yaml-language-server: $schema={schemas}/manifest.schema.json
# API keys that should exist. `provision apply` creates those that are missing.
version: 1
environments: [development]
depth: 1                     # how much of a created key is reported: 0, 1 or 2
defaults:
  expires: 90d               # a date, a date-time, hours, days or weeks, or never
  deliver:                   # where the tokens go; git has to ignore the file
    - file: secrets/{environment}.env
keys:
  - name: svc-billing
    description: Nightly billing export
  - name: "svc-{service}-{region}"
    matrix: {service: [etl, mail], region: [eu, us]}
    expires: 26w
"""


_IGNORED = """\
# Written by provision: where the embedded Twenty keeps its keys, and tokens that are delivered.
/.provision/
/secrets/
"""

_ALL_IGNORED = "# Written by provision: tokens that are delivered.\n*\n"
"""For the folder of tokens itself, where somebody else's .gitignore is not touched."""


def write_first_files(manifests: Path) -> tuple[Path, ...]:
    """Writes the example, the schemas that its comments point to, and a .gitignore where none is.

    Args:
        manifests: the directory to begin; schemas go to `schemas/` beside it, or in it where it
            is the working directory itself.

    Returns:
        What was written.

    Raises:
        WrongUsageError: when one of the two files exists already, another program's schema has the
            name of ours, or nothing can be written.
    """
    beside = manifests.parent / "schemas"
    # What editors read it relative to is the file that it stands in.
    address = Path(os.path.relpath(beside, manifests)).as_posix()
    own = {
        manifests / ENVIRONMENTS: _ENVIRONMENTS.replace(_ADDRESS, address),
        manifests / "keys.yaml": _MANIFEST.replace(_ADDRESS, address),
    }
    for path in own:
        if os.path.lexists(path):
            raise WrongUsageError(
                "file_exists",
                f"{path.as_posix()} exists already, and init overwrites nothing.",
                remedy="Name another directory with -m.",
            )
    if not os.path.lexists(ignored := manifests.parent / ".gitignore"):
        own[ignored] = _IGNORED
    elif not os.path.lexists(ignored := manifests.parent / "secrets" / ".gitignore"):
        own[ignored] = _ALL_IGNORED
    for name in ("environments", "manifest"):
        path = beside / f"{name}.schema.json"
        if not os.path.lexists(path):
            own[path] = schemas.text(name)
        elif not _is_ours(path, name):
            raise WrongUsageError(
                "file_exists",
                f"{path.as_posix()} exists already and is no schema of provision.",
                remedy="Name a directory in another place with -m, such as keys/manifests.",
            )
    try:
        for path, text in own.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WrongUsageError(
            "not_writable",
            f"{error.filename} cannot be written: {error.strerror}.",
            remedy="Choose a directory that you may write to with -m.",
        ) from None
    return tuple(own)


def _is_ours(path: Path, name: str) -> bool:
    """Whether a file is this schema, in whatever version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    own = schemas.load(name)["$id"].rpartition(":")[0]
    return isinstance(found, dict) and str(found.get("$id")).rpartition(":")[0] == own
