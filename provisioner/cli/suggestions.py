"""The suggestions for commands that `provision` does not have, and other programs do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.errors.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

_LIST = "To list the keys in each environment, use `provision list`."
_ANSWERS = {
    "destroy delete remove rm": "To revoke keys by name, use `provision revoke`. To revoke keys "
    "that no manifest declares, use `provision apply --prune`.",
    "diff": "To see what would change, use `provision plan`.",
    "status show": "To see what would change, use `provision plan`; to list keys, "
    "`provision list`; to see when they expire, `provision report`.",
    "login auth": "There is no sign-in: credentials come from environments.yaml, which names "
    "variables or files. To check them, use `provision doctor`.",
    "check": "To check manifests offline, use `provision validate`. To check credentials and "
    "sinks, use `provision doctor`.",
    "import": "To write a manifest for existing keys, use `provision export`.",
    "new add": "To start a project, use `provision init`. To add a key, declare it in a manifest "
    "and use `provision apply`.",
    "ls": _LIST,
    "get": f"To write a token to a file, use `provision token`. {_LIST}",
    "run deploy up sync": "To create missing keys and deliver their tokens, use `provision apply`.",
    "version": "To see the version, use `provision --version`.",
}

FAMILIAR = {name: answer for names, answer in _ANSWERS.items() for name in names.split()}
"""The commands of other programs, and which of ours does that."""


def suggest_command(name: str, commands: Iterable[str]) -> str:
    """Return what to use instead of a command that does not exist, or an empty text."""
    return FAMILIAR.get(name.lower()) or did_you_mean(name, commands)
