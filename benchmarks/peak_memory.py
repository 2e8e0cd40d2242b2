"""Peak memory and time of the whole process of `provision plan` for 100 000 keys.

In addition to load, validate and diff (`load_validate_diff.py`), this includes the HTTP client, the
list of keys, the digest and the document on stdout, and the server if it is the embedded Twenty.
"""

from __future__ import annotations

import sys

from _manifests import environment, name, reconciler
from _process import Programs
from _report import quick, table
from _served import Served

_COUNT, _QUICK_COUNT = 100_000, 1_000
_PRESENT = 50_000
"""Maximum number of keys in one response; the client refuses more as hostile."""


def main() -> int:
    """Measure and print; there is no requirement."""
    count = _QUICK_COUNT if quick(__doc__) else _COUNT
    rows: list[tuple[object, ...]] = []
    with Programs() as programs, Served("core") as served:
        manifests = programs.folder / "manifests"
        reconciler(manifests, count)
        few = programs.folder / "few"
        reconciler(few, 1_000)
        programs.provision("plan", few)  # compiles the imports
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
