"""A real n8n that runs for a while, for `record.py` and `rotate.py`; README.md has the commands.

Only the standard library is used. `NODE` may name another `node` than the one on the PATH.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

BROWSER = "provisioner-recording"
OWNER = {"email": "owner@acme.example", "firstName": "O", "lastName": "W"}
CUSTOM_TYPE = """\
class %(class)s {
  name = '%(name)s';
  displayName = '%(name)s';
  properties = ['domain', 'apiKey'].map((name) => (
    {displayName: name, name, type: 'string', required: %(required)s, default: ''}));
  authenticate = {type: 'generic', properties: {headers: {
    Authorization: '=Bearer {{$credentials.apiKey}}'}}};
}
module.exports = {%(class)s};
"""
"""A type of credential for Twenty with the fields that those of community nodes have."""


class N8n:
    """A running n8n, with an owner who is signed in.

    Attributes:
        url: its address.
        version: what its package says.
        starting: its answer to a request while it started.
    """

    def __init__(self, folder: Path, home: Path, port: int, **variables: str) -> None:
        package = folder / "node_modules" / "n8n"
        self.version = json.loads((package / "package.json").read_text())["version"]
        self.url = f"http://localhost:{port}"
        self._program = [os.environ.get("NODE", "node"), str(package / "bin" / "n8n")]
        self._environment = os.environ | {
            "N8N_USER_FOLDER": str(home),
            "N8N_PORT": str(port),
            "N8N_LISTEN_ADDRESS": "127.0.0.1",
            "N8N_DIAGNOSTICS_ENABLED": "false",
            "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
            "N8N_TEMPLATES_ENABLED": "false",
            "N8N_PERSONALIZATION_ENABLED": "false",
            "N8N_SECURE_COOKIE": "false",
            "N8N_RUNNERS_BROKER_PORT": str(free_port()),
            "N8N_CUSTOM_EXTENSIONS": str(home / "custom"),
            **variables,
        }
        self._cookie = ""
        self.starting: tuple[int, dict, str] | None = None

    @contextmanager
    def running(self):
        log = Path(self._environment["N8N_USER_FOLDER"]) / "n8n.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*self._program, "start"], env=self._environment, stdout=output, stderr=output
            )
        try:
            self._wait(process, log)
            yield self
        finally:
            process.terminate()
            process.wait(60)

    def _wait(self, process: subprocess.Popen, log: Path) -> None:
        """Wait until n8n answers with JSON: before, it answers 200 and that it is starting up."""
        for _ in range(2400):
            if process.poll() is not None:
                break
            with suppress(OSError):
                status, headers, text = call(f"{self.url}/rest/owner/setup", "POST", {})
                if text.startswith("{"):
                    return
                if status == 200:
                    self.starting = (status, headers, text)
            time.sleep(0.2)
        sys.exit(f"n8n did not start:\n{log.read_text()[-3000:]}")

    def cli(self, *arguments: str) -> str:
        """Run n8n's own command line on the same data."""
        done = subprocess.run(
            [*self._program, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def stored(self) -> dict[str, dict[str, str]]:
        """Return the data of each credential, which only n8n's own command line shows."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "credentials.json")
            self.cli("export:credentials", "--all", "--decrypted", f"--output={file}")
            return {one["id"]: one["data"] for one in json.loads(file.read_text())}

    def set_up(self) -> None:
        password = f"A1{secrets.token_hex(12)}"
        status, headers, body = self._rest("POST", "/owner/setup", OWNER | {"password": password})
        if status != 200:
            sys.exit(f"the owner was not set up: {status} {body[:500]}")
        self._cookie = headers["Set-Cookie"].partition(";")[0]

    def api_key(self, label: str, scopes: tuple[str, ...]) -> str:
        known = json.loads(self._rest("GET", "/api-keys/scopes")[2])["data"]
        wanted = [scope for scope in scopes if scope in known]
        body = {"label": label, "expiresAt": None, "scopes": wanted}
        status, _, answer = self._rest("POST", "/api-keys", body)
        if status != 200:
            sys.exit(f"no API key was made: {status} {answer[:500]}")
        return json.loads(answer)["data"]["rawApiKey"]

    def _rest(self, method: str, path: str, body=None):
        headers = {"Cookie": self._cookie, "browser-id": BROWSER}
        return call(f"{self.url}/rest{path}", method, body, headers)


def call(url: str, method: str = "GET", body=None, headers=None) -> tuple[int, dict, str]:
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    request.method = method
    for _ in range(120):
        try:
            with urlopen(request, timeout=120) as answer:
                return answer.status, answer.headers, answer.read().decode()
        except HTTPError as error:
            found = error.code, error.headers, error.read().decode()
        if found[0] != 503:
            break
        time.sleep(1)  # a busy n8n says that its database is not ready
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def prepared_home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="n8n-"))
    (home / "custom").mkdir()
    for name, required in (("TwentyApi", "false"), ("StrictApi", "true")):
        values = {"class": name, "name": f"{name[0].lower()}{name[1:]}", "required": required}
        (home / "custom" / f"{name}.credentials.js").write_text(CUSTOM_TYPE % values)
    return home
