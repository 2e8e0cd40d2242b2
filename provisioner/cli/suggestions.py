"""The suggestions for commands that `provision` does not have, and other programs do."""

from __future__ import annotations

from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_APPLY = "To create missing keys and deliver their tokens, use `provision apply`."
_INIT = (
    "To start a project, use `provision init`. To add a key, declare it in a manifest and use "
    "`provision apply`."
)
_CREDENTIALS = (
    "There is no sign-in: credentials come from environments.yaml, which names variables or "
    "files. To check them, use `provision doctor`."
)
_REVOKE = (
    "To revoke keys by name, use `provision revoke`. To revoke keys that no manifest declares, "
    "use `provision apply --prune`."
)
_SHOW = (
    "To see what would change, use `provision plan`; to list keys, `provision list`; to see when "
    "they expire, `provision report`."
)
_CHECK = (
    "To check manifests offline, use `provision validate`. To check credentials and sinks, use "
    "`provision doctor`."
)
_LIST = "To list the keys in each environment, use `provision list`."
_EXPORT = "To write a manifest for existing keys, use `provision export`."

FAMILIAR: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("destroy", "delete", "remove", "rm"), _REVOKE),
        "diff": "To see what would change, use `provision plan`.",
        **dict.fromkeys(("status", "show"), _SHOW),
        **dict.fromkeys(("login", "auth"), _CREDENTIALS),
        "check": _CHECK,
        "import": _EXPORT,
        **dict.fromkeys(("new", "add"), _INIT),
        "ls": _LIST,
        "get": f"To write a token to a file, use `provision token`. {_LIST}",
        **dict.fromkeys(("run", "deploy", "up", "sync"), _APPLY),
        "version": "To see the version, use `provision --version`.",
    }
)
"""The commands of other programs, and which of ours does that."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question that names the closest known word, or an empty text."""
    close = get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def suggest_command(name: str, commands: Iterable[str]) -> str:
    """Return what to use instead of a command that does not exist, or an empty text."""
    return FAMILIAR.get(name.lower()) or did_you_mean(name, commands)
