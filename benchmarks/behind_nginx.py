"""Refusals and wall time of `provision apply` behind the `limit_req` of a real nginx.

nginx refuses with its own 503 page, without `Retry-After` and without a number. Nothing is
declared, so the client learns the rate. The embedded Twenty is behind nginx. Skipped without nginx.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from _manifests import ENVIRONMENT, environment
from _process import Programs
from _report import Requirement, quick, table, verdict
from _sandbox import Dialect, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST_REFUSED = 0.08
"""Maximum share of the requests that nginx refuses."""

_CONFIGURATION = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    log_format status "$status";
    access_log {folder}/access.log status;
    limit_req_zone $binary_remote_addr zone=twenty:1m rate={rate};
    server {{
        listen 127.0.0.1:{port};
        location / {{
            limit_req zone=twenty burst={burst} nodelay;
            proxy_pass {url};
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A `limit_req` of nginx and the number of missing keys."""

    rate: str
    burst: int
    keys: int


_CASES = (
    Case("60r/m", 5, 30),
    Case("60r/m", 5, 90),
    Case("100r/m", 100, 135),
    Case("10r/s", 20, 90),
)
_QUICK = (Case("10r/s", 20, 30),)


def main() -> int:
    """Measure and print; return 1 if nginx refused too many requests."""
    smoke = quick(__doc__)
    program = shutil.which("nginx")
    if program is None:
        print("skipped: nginx is not installed (on Debian: apt-get install nginx-light)")
        return 0
    rows: list[tuple[object, ...]] = []
    requirements: list[Requirement] = []
    with Programs() as programs:
        for case in _QUICK if smoke else _CASES:
            requests, refused, seconds = _measure(case, programs, program)
            share = refused / requests
            name = f"{case.rate}, burst {case.burst}"
            rows.append((name, case.keys, requests, refused, 100 * share, seconds))
            requirements.append(
                Requirement(f"{name}, {case.keys} keys: share refused", share, _MOST_REFUSED)
            )
    table(
        "provision apply behind nginx, nothing declared, one run each",
        ("limit_req", "keys", "requests", "refused", "%", "seconds"),
        rows,
    )
    return verdict(requirements, smoke=smoke)


def _measure(case: Case, programs: Programs, program: str) -> tuple[int, int, float]:
    """Return the requests of one run, those that nginx refused, and the seconds of the process."""
    manifests = programs.folder / "manifests"
    with Sandbox(None, Dialect.CORE, session_seconds=86_400.0) as sandbox:
        token = sandbox.session_token()
        names = _write(manifests, sandbox.url, case.keys)
        programs.provision("plan", manifests, token=token)  # the first run compiles its imports
        with _nginx(case, programs.folder / "nginx", sandbox.url, program) as (url, log):
            _write(manifests, url, case.keys)
            seconds = programs.provision("apply", manifests, "--quiet", token=token).seconds
        created = [key.name for key in sandbox.keys()]  # noqa: SIM118 - not a mapping
    if sorted(created) != sorted(names):
        raise SystemExit(f"{case}: the keys are not those of the manifests")
    statuses = log.read_text().split()
    return len(statuses), statuses.count("503"), seconds


@contextmanager
def _nginx(case: Case, folder: Path, url: str, program: str) -> Iterator[tuple[str, Path]]:
    """Run nginx in front of a server; yield its URL, and its log of statuses."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = _CONFIGURATION.format(
        folder=folder, port=port, url=url, rate=case.rate, burst=case.burst
    )
    (folder / "nginx.conf").write_text(text)
    command = (program, "-p", str(folder), "-c", str(folder / "nginx.conf"))
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", folder / "access.log"
    finally:
        process.terminate()
        process.wait()


def _write(directory: Path, url: str, count: int) -> list[str]:
    """Write the manifests and return the names of the keys."""
    environment(directory, url)
    names = [f"svc-{number:03d}" for number in range(count)]
    head = ["version: 1", f"environment: {ENVIRONMENT}", "defaults: {expires: 90d}", "keys:"]
    lines = [*head, *(f"  - name: {name}" for name in names), ""]
    (directory / "services.yaml").write_text("\n".join(lines), encoding="utf-8")
    return names


if __name__ == "__main__":
    sys.exit(main())
