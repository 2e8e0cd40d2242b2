"""File descriptors of this process: the limit raised, what is left of them, and running out."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import ExitStack, suppress

from provisioner.errors.exceptions import WorkspaceError

if sys.platform != "win32":
    import resource

_ENOUGH = 65_536
"""Descriptors that no run needs more of; programs that close all of theirs take long with more."""

_FOR_ALL = 64
"""Descriptors for what is not of one environment: files, logs, the sockets of sinks."""

_SHOWN = ("/proc/self/fd", "/dev/fd")
_SPENT = frozenset({errno.EMFILE, errno.ENFILE})
_CHAIN = 20


def raise_limit() -> None:
    """Raise the soft limit to the hard one, where that gives more."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return
    with suppress(OSError, ValueError):  # macOS allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def room_for(each: int) -> int:
    """Return how many that need so many descriptors each have room at once; at least one."""
    if sys.platform == "win32":
        return _ENOUGH
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _ENOUGH
    return max(1, (soft - _open() - _FOR_ALL) // each)


def none_left(environment: str) -> WorkspaceError:
    """Return the error of an environment for which no descriptor was left."""
    return WorkspaceError(
        "unreachable",
        f"{environment} cannot be reached: this process may open no more files and connections.",
        remedy="Raise that limit (`ulimit -n`), or work on fewer environments at once.",
    )


def left(wanted: int) -> bool:
    """Return whether so many descriptors are left now, for those whose errors do not tell."""
    with ExitStack() as stack:
        try:
            for _ in range(wanted):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return not spent(error)
    return True


def spent(error: BaseException) -> bool:
    """Return whether an error, or one that led to it, says that no descriptor was left."""
    seen: list[BaseException] = [error]
    for one in seen:
        if isinstance(one, OSError) and one.errno in _SPENT:
            return True
        # The libraries below keep the first error as an argument or an attribute.
        more = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        seen += [each for each in more if isinstance(each, BaseException) and each not in seen]
        if len(seen) > _CHAIN:
            break
    return any(f"[Errno {number}]" in str(error) for number in _SPENT)


def _open() -> int:
    for folder in _SHOWN:
        with suppress(OSError):
            return len(os.listdir(folder))  # noqa: PTH208 - a count, not paths
    return 0
