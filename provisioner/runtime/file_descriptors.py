"""File descriptors of this process: their limit, how many are left, and the error for none left."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import ExitStack, suppress

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import WorkspaceError

if sys.platform != "win32":
    import resource

_LIMIT = 65_536
"""Descriptors that no run exceeds; some programs close all of theirs, which takes long for more."""

_RESERVED = 64
"""Descriptors that belong to no environment: files, logs, the sockets of sinks."""

_DESCRIPTOR_FOLDERS = ("/proc/self/fd", "/dev/fd")
_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE})
_MAX_ERRORS = 20


def raise_limit() -> None:
    """Raise the soft limit to the hard limit, if that is higher."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        target = _LIMIT if hard == resource.RLIM_INFINITY else min(hard, _LIMIT)
        if soft == resource.RLIM_INFINITY or soft >= target:
            return
        with suppress(OSError, ValueError):  # macOS may allow less than it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def max_parallel(each: int) -> int:
    """Return how many tasks that need `each` descriptors may run at once; at least one."""
    limit = _soft_limit()
    if limit is None:
        return _LIMIT
    in_use = 0
    for folder in _DESCRIPTOR_FOLDERS:
        with suppress(OSError):
            in_use = in_use or len(os.listdir(folder))  # noqa: PTH208 - only the count is needed
    return max(1, (limit - in_use - _RESERVED) // each)


def _soft_limit() -> int | None:
    """Return how many descriptors this process may have; None if nothing limits them."""
    if sys.platform != "win32":
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            return soft
    return None


def too_many_open_files(environment: str) -> WorkspaceError:
    """Return the error of an environment that got no file descriptor."""
    return WorkspaceError(
        Code.UNREACHABLE,
        f"Cannot reach {environment}: this process has reached its limit on open files.",
        remedy="Raise the limit (`ulimit -n`), or process fewer environments at once.",
    )


def can_open(count: int) -> bool:
    """Return whether `count` more descriptors can be opened.

    For libraries whose errors do not say that none was left.
    """
    with ExitStack() as stack:
        try:
            for _ in range(count):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return not is_out_of_descriptors(error)
    return True


def is_out_of_descriptors(error: BaseException) -> bool:
    """Return whether this error, or one that caused it, means that no descriptor was left."""
    errors: list[BaseException] = [error]
    for one in errors:
        if isinstance(one, OSError) and one.errno in _ERRNOS:
            return True
        # Libraries keep the first error as an argument or as `reason`.
        causes = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        new = [cause for cause in causes if isinstance(cause, BaseException)]
        errors += [cause for cause in new if cause not in errors]
        if len(errors) > _MAX_ERRORS:
            break
    return any(f"[Errno {number}]" in str(error) for number in _ERRNOS)
