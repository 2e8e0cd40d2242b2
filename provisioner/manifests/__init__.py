"""Manifests: YAML files to environments and desired keys, with the place of every problem.

`load` reads a directory offline and collects all problems; `resolve` then turns declarations into
environments with the variables of the run.
"""

from provisioner.manifests.causes import COUNTS
from provisioner.manifests.environments import (
    DeclaredEnvironment,
    resolve,
    secrets_declared,
    url_of,
    with_secrets,
)
from provisioner.manifests.load import (
    ENVIRONMENTS,
    ENVIRONMENTS_FOLDER,
    Manifests,
    environment_names,
    load,
    look_alikes,
)
from provisioner.manifests.notify import resolve_targets
from provisioner.manifests.previous import PreviousManifests, load_previous
from provisioner.manifests.reach import newly_reached

__all__ = [
    "COUNTS",
    "ENVIRONMENTS",
    "ENVIRONMENTS_FOLDER",
    "DeclaredEnvironment",
    "Manifests",
    "PreviousManifests",
    "environment_names",
    "load",
    "load_previous",
    "look_alikes",
    "newly_reached",
    "resolve",
    "resolve_targets",
    "secrets_declared",
    "url_of",
    "with_secrets",
]
