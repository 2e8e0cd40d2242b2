"""The HTML page of `provision report` for 20 000 keys in a headless Chromium, at three widths.

The first paint is the browser's own entry for it, counted from the start of the navigation. The
page fits if it is no wider than the window. Filtering and searching are measured in the page.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from _browser import CHROMIUM, NOW, Browser, audit_of
from _report import Requirement, quick, table, verdict

from provisioner.render.formats import render
from provisioner.render.report import ReportInput

_COUNT, _QUICK_COUNT = 20_050, 500
"""A few of these have expired, so that 20 000 are live."""
_WIDTHS = (390, 768, 1280)
_MOST_SECONDS = 2.0

_FIRST_PAINT = """new Promise((done) => new PerformanceObserver((seen) =>
  done(seen.getEntries()[0].startTime)).observe({type: "paint", buffered: true}))"""
_SIZE = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
_FILTER = """new Promise((done) => {
  const start = performance.now();
  document.getElementById("show-due").click();
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})"""
_SORT = """new Promise((done) => {
  const start = performance.now();
  document.querySelector(".keys th button")?.click();
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})"""


def main() -> int:
    """Measure and print; return 1 if the page is wider than a window or is painted late."""
    smoke = quick(__doc__)
    if CHROMIUM is None:
        print("skipped: there is no chromium or google-chrome in PATH")
        return 0
    count = _QUICK_COUNT if smoke else _COUNT
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as folder, Browser() as browser:
        for environments in (1, 10, 500):
            audit = audit_of(count, environments)
            started = time.process_time()
            page = render(ReportInput(NOW, outcome=audit), "html")
            built = time.process_time() - started
            file = Path(folder, "report.html")
            file.write_text(page, encoding="ascii")
            for width in _WIDTHS:
                started = time.perf_counter()
                browser.open(file, width)
                loaded = time.perf_counter() - started
                paint = browser.evaluate(_FIRST_PAINT) / 1000
                scroll, client = browser.evaluate(_SIZE)
                times = (browser.evaluate(one) / 1000 for one in (_FILTER, _SORT))
                rows.append(
                    (
                        *(audit.keys, environments, len(page) / 1e6, built, width),
                        *(scroll, client, paint, loaded, *times),
                    )
                )
    table(
        "the page of a report",
        (
            *("keys", "environments", "MB", "build CPU s", "width"),
            *("scrollWidth", "clientWidth", "first paint s", "loaded s", "filter s", "sort s"),
        ),
        rows,
    )
    wider = max(int(str(row[5])) - int(str(row[6])) for row in rows)
    slowest = max(float(str(row[7])) for row in rows)
    requirements = [
        Requirement("pixels that the page is wider than the window", wider, 0),
        Requirement("first paint, in seconds", slowest, _MOST_SECONDS),
    ]
    return verdict(requirements, smoke=smoke)


if __name__ == "__main__":
    sys.exit(main())
