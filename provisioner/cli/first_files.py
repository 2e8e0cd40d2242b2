"""The files that `init` writes, which are a working example with comments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner import schemas
from provisioner.errors import WrongUsageError

if TYPE_CHECKING:
    from pathlib import Path

_ENVIRONMENTS = """\
# yaml-language-server: $schema=../schemas/environments.schema.json
# The workspaces that the manifests in this directory speak of.
version: 1
environments:
  development:
    url: "sandbox:"          # the embedded Twenty: needs no server and no credentials
    role: Integrations       # the role of keys that name none

  # A real workspace. Secrets come from variables, or from files named by token_file and
  # password_file; they are never written here.
  # production:
  #   url: https://crm.example.com
  #   auth: {email: "${TWENTY_EMAIL}", password: "${TWENTY_PASSWORD}"}
  #   role: Integrations
"""

_MANIFEST = """\
# yaml-language-server: $schema=../schemas/manifest.schema.json
# API keys that should exist. `provision apply` creates those that are missing.
version: 1
environments: [development]
depth: 1                     # how much of a created key is reported: 0, 1 or 2
defaults:
  expires: 90d               # a date, a date-time, hours, days or weeks, or never
  # deliver:                 # where the tokens go; git has to ignore the file
  #   - file: secrets/{environment}.env
keys:
  - name: svc-billing
    description: Nightly billing export
  - name: "svc-{service}-{region}"
    matrix: {service: [etl, mail], region: [eu, us]}
    expires: 26w
"""


def write_first_files(manifests: Path) -> tuple[Path, ...]:
    """Writes the example, and the schemas that its comments point to.

    Args:
        manifests: the directory to begin; schemas go to `schemas/` beside it.

    Returns:
        What was written.

    Raises:
        WrongUsageError: when one of the two files exists already, or nothing can be written.
    """
    own = {
        manifests / "environments.yaml": _ENVIRONMENTS,
        manifests / "keys.yaml": _MANIFEST,
    }
    for path in own:
        if path.exists():
            raise WrongUsageError(
                "file_exists",
                f"{path.as_posix()} exists already, and init overwrites nothing.",
                remedy="Name another directory with -m.",
            )
    beside = manifests.parent / "schemas"
    for name in ("environments", "manifest"):
        path = beside / f"{name}.schema.json"
        if not path.exists():
            own[path] = schemas.text(name)
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
