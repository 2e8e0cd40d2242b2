"""The most memory and the time of `provision plan` for 100 000 keys, the whole process.

Beyond load, validate and diff (`load_validate_diff.py`) this has the HTTP client, the list of
keys, the digest and the document on stdout; with the embedded Twenty also that server itself.
"""

from __future__ import annotations

import sys

from _manifests import environment, name, reconciler
from _process import Programs
from _report import quick, table
from _served import Served

_COUNT, _QUICK_COUNT = 100_000, 1_000
_PRESENT = 50_000
"""Keys that one answer may hold; more than that is taken for a server that means harm."""


def main() -> int:
    """Measures and prints; no requirement is held to this."""
    count = _QUICK_COUNT if quick(__doc__) else _COUNT
    rows: list[tuple[object, ...]] = []
    with Programs() as programs, Served("core") as served:
        manifests = programs.folder / "manifests"
        reconciler(manifests, count)
        few = programs.folder / "few"
        reconciler(few, 1_000)
        programs.provision("plan", few)  # compiles what it imports
        for server, present, form in (
            ("embedded", 0, "text"),
            ("embedded", 0, "json"),
            ("apart", 0, "text"),
            ("apart", 0, "json"),
            ("apart", min(count, _PRESENT), "text"),
        ):
            if server == "apart":
                environment(manifests, served.facts.url)
                served.reset(name(number) for number in range(present))
            token = served.facts.token
            ran = programs.provision("plan", manifests, "--format", form, token=token)
            rows.append((server, present, form, ran.seconds, ran.peak))
    table(
        f"provision plan for {count} keys",
        ("server", "present", "format", "seconds", "peak MB"),
        rows,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
