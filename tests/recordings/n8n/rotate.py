"""Rotate a key that a workflow of a real n8n uses; README.md has the command.

A workflow sends a request to the embedded Twenty with the key in a credential of n8n. Between the
two, a server on loopback notes which key each request carries and what Twenty answers.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from real_n8n import N8n, call, free_port, prepared_home

ENVIRONMENTS = """\
version: 1
environments:
  demo:
    url: ${TWENTY_URL}
    auth: {session_token: "${TWENTY_SESSION}"}
    role: Admin
    owns: ["svc-*"]
"""

KEYS = """\
version: 1
environment: demo
keys:
  - name: svc-n8n
    expires: %s
    rotate: {before: %s, overlap: 1h}
    deliver:
      - n8n: Twenty
        type: twentyApi
        field: apiKey
"""


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Observer:
    """A server that passes requests on to Twenty, and notes the id of the key in each of them."""

    def __init__(self, twenty: str) -> None:
        seen = self.seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                authorization = self.headers.get("Authorization", "")
                status, _, body = call(twenty + self.path, headers={"Authorization": authorization})
                seen.append((key_of(authorization), status))
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


def key_of(authorization: str) -> str:
    try:
        claims = authorization.split(".")[1]
        return json.loads(base64.urlsafe_b64decode(claims + "=="))["jti"]
    except (IndexError, KeyError, ValueError):
        return f"no key: {len(authorization)} characters"


def workflow(url: str) -> dict:
    """Return a workflow: a webhook, and a request with the predefined type of credential."""
    hook = {"httpMethod": "GET", "path": "twenty", "responseMode": "lastNode", "options": {}}
    request = {
        "url": f"{url}/rest/metadata/apiKeys",
        "authentication": "predefinedCredentialType",
        "nodeCredentialType": "twentyApi",
        "options": {},
    }
    return {
        "name": "Ask Twenty",
        "settings": {},
        "nodes": [
            node("Webhook", "webhook", 2, hook) | {"webhookId": "twenty"},
            node("Ask", "httpRequest", 4.2, request),
        ],
        "connections": {"Webhook": {"main": [[{"node": "Ask", "type": "main", "index": 0}]]}},
    }


def node(name: str, kind: str, version: float, parameters: dict) -> dict:
    return {
        "id": name,
        "name": name,
        "type": f"n8n-nodes-base.{kind}",
        "typeVersion": version,
        "position": [0, 0],
        "parameters": parameters,
    }


def rotate(folder: Path) -> None:
    home = prepared_home()
    sandbox = subprocess.Popen(
        ["provision", "sandbox", "--port", "0", "--file", home / "twenty", "--format", "json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    n8n = N8n(folder, home, free_port())
    try:
        twenty = json.loads(sandbox.stdout.readline())
        with n8n.running():
            show(n8n, home, twenty)
    finally:
        sandbox.terminate()
        sandbox.wait(30)
        shutil.rmtree(home)


def show(n8n: N8n, home: Path, twenty: dict) -> None:
    n8n.set_up()
    admin = n8n.api_key("setup", ("credential:create", "workflow:create", "workflow:activate"))
    observer = Observer(twenty["url"])
    api = Api(n8n.url, admin)
    data = {"domain": "crm.acme.example", "apiKey": "none yet"}
    body = {"name": "Twenty", "type": "twentyApi", "data": data}
    credential = api.post("/credentials", body)["id"]
    ask = workflow(observer.url)
    ask["nodes"][1]["credentials"] = {"twentyApi": {"id": credential, "name": "Twenty"}}
    made = api.post("/workflows", ask)["id"]
    api.post(f"/workflows/{made}/activate", {})
    variables = {
        "N8N_URL": n8n.url,
        "N8N_API_KEY": n8n.api_key("provision", ("credential:list", "credential:update")),
        "TWENTY_URL": twenty["url"],
        "TWENTY_SESSION": twenty["session_token"],
    }
    run = Run(n8n, home, variables, observer)
    run.step("before any run")
    run.step("apply: the first key", "apply", expires="10d", before="1d")
    run.step("apply: the key is due", "apply", expires="90d", before="20d")
    run.step("rotate --now: the old keys are revoked", "rotate", "svc-n8n", "--now", "--yes")
    domain = n8n.stored()[credential]["domain"]
    say(f"\nstored in n8n beside the key: domain {domain}")


class Api:
    def __init__(self, url: str, key: str) -> None:
        self._url = f"{url}/api/v1"
        self._key = key

    def post(self, path: str, body: dict) -> dict:
        status, _, text = call(f"{self._url}{path}", "POST", body, {"X-N8N-API-KEY": self._key})
        if status >= 300:
            sys.exit(f"n8n refuses {path}: {status} {text[:500]}")
        return json.loads(text)


class Run:
    def __init__(self, n8n: N8n, home: Path, variables: dict, observer: Observer) -> None:
        self._hook = f"{n8n.url}/webhook/twenty"
        self._environment = os.environ | variables
        self._folder = home / "run"
        self._observer = observer
        (self._folder / "manifests").mkdir(parents=True)
        (self._folder / "manifests" / "environments.yaml").write_text(ENVIRONMENTS)

    def step(self, title: str, *command: str, expires: str = "90d", before: str = "20d") -> None:
        """Run `provision`, then the workflow, and print which key the workflow sent."""
        say(f"\n# {title}")
        if command:
            keys = KEYS % (expires, before)
            (self._folder / "manifests" / "keys.yaml").write_text(keys)
            subprocess.run(
                ["provision", *command], cwd=self._folder, env=self._environment, check=True
            )
        for _ in range(60):
            status, _, body = call(self._hook)
            if status != 404:
                break
            time.sleep(1)  # n8n has not registered the webhook yet
        if not self._observer.seen:
            sys.exit(f"the workflow sent no request: {status} {body[:500]}")
        key, answer = self._observer.seen[-1]
        say(f"workflow: {status}; sent key {key}; Twenty answered {answer}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where `npm install n8n` was run")
    rotate(parser.parse_args().folder)
