"""Record what the public API of a real n8n answers about credentials; README.md has the command."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from real_n8n import N8n, call, free_port, prepared_home

API = "/api/v1/credentials"
FIELDS = {"domain": "crm.acme.example", "apiKey": "old"}
TWENTY = {"name": "Twenty", "type": "twentyApi", "data": FIELDS}
CREDENTIALS = (
    ("twenty", "twentyApi", FIELDS),
    ("twin", "twentyApi", FIELDS),
    ("strict", "strictApi", FIELDS),
    ("bearer", "httpBearerAuth", {"token": "old"}),
    ("header", "httpHeaderAuth", {"name": "Authorization", "value": "old"}),
)

SCOPES = {
    "all": tuple(f"credential:{one}" for one in ("create", "list", "read", "update", "delete")),
    "list-only": ("credential:list",),
    "update-only": ("credential:update",),
}
"""The API keys of the recordings and their scopes for credentials."""


class Recorder:
    """Sends requests, and keeps them with their answers; secrets and paths become placeholders."""

    def __init__(self, n8n: N8n, keys: dict[str, str], lines: list[dict]) -> None:
        self._n8n = n8n
        self._keys = keys
        self._lines = lines

    def send(self, name: str, method: str, path: str, body=None, *, key="all", note="") -> dict:
        headers = {"X-N8N-API-KEY": self._keys[key]} if key else {}
        answer = call(f"{self._n8n.url}{path}", method, body, headers)
        request = {"method": method, "path": path, "key": key}
        if body is not None:
            request["body"] = body
        kept = self.keep(name, request, answer, note)
        return kept if isinstance(kept, dict) else {}

    def keep(self, name: str, request: dict, answer: tuple[int, dict, str], note="") -> object:
        status, headers, text = answer
        content_type = headers["Content-Type"]
        is_json = (content_type or "").startswith("application/json")
        body = json.loads(text) if is_json else text[:160]
        received = {"status": status, "content_type": content_type, "body": body}
        line = {"name": name, "server": f"n8n {self._n8n.version}"}
        if note:
            line["note"] = note
        self._lines.append(self._scrub(line | {"request": request, "response": received}))
        return body

    def stored(self, name: str, note: str, ids: dict[str, str]) -> None:
        """Keep what n8n's own command line says is stored, which its API never shows."""
        stored = self._n8n.stored()
        found = {label: stored.get(id_) for label, id_ in ids.items()}
        line = {
            "name": name,
            "server": f"n8n {self._n8n.version}",
            "note": note,
            "ids": ids,
            "stored": found,
        }
        self._lines.append(self._scrub(line))

    def _scrub(self, line: dict) -> dict:
        text = json.dumps(line)
        for label, key in self._keys.items():
            text = text.replace(key, f"<KEY:{label}>")
        text = text.replace(self._n8n.url, "<URL>")
        return json.loads(text)


def record(folder: Path, output: Path) -> None:
    """Record what the public API answers, for every request that the sink sends and some more."""
    home = prepared_home()
    lines: list[dict] = []
    keys = {"wrong": "not-a-key"}
    try:
        n8n = N8n(folder, home, free_port())
        with n8n.running():
            n8n.set_up()
            keys |= {label: n8n.api_key(label, scopes) for label, scopes in SCOPES.items()}
            recorder = Recorder(n8n, keys, lines)
            if n8n.starting:
                any_request = {"method": "POST", "path": "/rest/owner/setup", "key": None}
                recorder.keep("starting", any_request, n8n.starting, "any request while n8n starts")
            record_credentials(recorder)
        n8n = N8n(folder, home, free_port(), N8N_PUBLIC_API_DISABLED="true")
        with n8n.running():
            recorder = Recorder(n8n, keys, lines)
            recorder.send("disabled", "GET", API, note="N8N_PUBLIC_API_DISABLED=true")
    finally:
        output.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        shutil.rmtree(home)


def record_credentials(recorder: Recorder) -> None:
    send = recorder.send
    send("list-empty", "GET", API)
    for key in (None, "wrong", "update-only"):
        send(f"list-{key or 'no-key'}", "GET", API, key=key)
    for kind in ("twentyApi", "strictApi", "httpBearerAuth", "httpHeaderAuth", "nothingApi"):
        send(f"schema-{kind}", "GET", f"{API}/schema/{kind}")
    send("schema-list-only", "GET", f"{API}/schema/twentyApi", key="list-only")
    send("schema-wrong", "GET", f"{API}/schema/twentyApi", key="wrong")

    send("create-unknown-type", "POST", API, {"name": "a", "type": "nothingApi", "data": {}})
    body = {"name": "Twenty", "type": "strictApi", "data": {"apiKey": "old"}}
    send("create-without-domain", "POST", API, body)
    send("create-list-only", "POST", API, TWENTY, key="list-only")
    ids = {}
    for kind, type_, data in CREDENTIALS:
        body = {"name": "Twenty", "type": type_, "data": data}
        ids[kind] = send(f"create-{kind}", "POST", API, body).get("id")
        if ids[kind] is None:  # before 2.36 the type wants this field, or one that excludes it
            body["data"] = data | {"allowedHttpRequestDomains": "all"}
            ids[kind] = send(f"create-{kind}-whole", "POST", API, body)["id"]
    twenty = ids["twenty"]
    time.sleep(1.1)
    send("list", "GET", API)
    send("list-limit", "GET", f"{API}?limit=2")
    first = send("list-page", "GET", f"{API}?limit=1")
    if first.get("nextCursor"):
        send("list-next-page", "GET", f"{API}?limit=1&cursor={first['nextCursor']}")
    send("get", "GET", f"{API}/{twenty}")
    send("get-unknown", "GET", f"{API}/provision-check")

    partial = {"isPartialData": True}
    unknown = f"{API}/provision-check"
    send("probe-twenty", "PATCH", unknown, partial | {"type": "twentyApi", "data": {"apiKey": "x"}})
    send("probe-strict", "PATCH", unknown, partial | {"type": "strictApi", "data": {"apiKey": "x"}})
    send(
        "probe-bearer",
        "PATCH",
        unknown,
        partial | {"type": "httpBearerAuth", "data": {"token": ""}},
    )
    send("probe-field", "PATCH", unknown, partial | {"type": "twentyApi", "data": {"nothing": "x"}})
    send("probe-list-only", "PATCH", unknown, partial | {"data": {"apiKey": "x"}}, key="list-only")
    send("probe-wrong", "PATCH", unknown, partial | {"data": {"apiKey": "x"}}, key="wrong")
    send("put", "PUT", f"{API}/{twenty}", partial | {"data": {"apiKey": "x"}})

    del ids["twin"]
    record_updates(recorder, ids)


def record_updates(recorder: Recorder, ids: dict[str, str]) -> None:
    send = recorder.send
    twenty, strict, bearer, header = ids.values()
    partial = {"isPartialData": True}
    recorder.stored("stored-first", "before any update", ids)
    update = partial | {"data": {"apiKey": "new"}}
    send("update-list-only", "PATCH", f"{API}/{twenty}", update, key="list-only")
    send("update-wrong", "PATCH", f"{API}/{twenty}", update, key="wrong")
    send("update-partial", "PATCH", f"{API}/{twenty}", update)
    send("update-strict-partial", "PATCH", f"{API}/{strict}", update)
    send("update-bearer-partial", "PATCH", f"{API}/{bearer}", partial | {"data": {"token": "new"}})
    send("update-header-partial", "PATCH", f"{API}/{header}", partial | {"data": {"value": "new"}})
    recorder.stored("stored-partial", "after the updates with isPartialData", ids)
    send("update-only", "PATCH", f"{API}/{twenty}", update, key="update-only")
    send("update-unknown-field", "PATCH", f"{API}/{twenty}", partial | {"data": {"nothing": "x"}})
    send("update-number", "PATCH", f"{API}/{twenty}", partial | {"data": {"apiKey": 1}})
    send("update-whole-short", "PATCH", f"{API}/{twenty}", {"data": {"apiKey": "newer"}})
    send("update-whole-strict", "PATCH", f"{API}/{strict}", {"data": {"apiKey": "newer"}})
    send("update-whole-bearer", "PATCH", f"{API}/{bearer}", {"data": {"token": "newer"}})
    send("update-whole-header", "PATCH", f"{API}/{header}", {"data": {"value": "newer"}})
    recorder.stored("stored-whole", "after the updates without isPartialData", ids)
    time.sleep(1.1)
    send("update-name", "PATCH", f"{API}/{twenty}", {"name": "Twenty 2"})
    send("list-renamed", "GET", API, note="a new name moves updatedAt")
    send("get-list-only", "GET", f"{API}/{twenty}", key="list-only")
    send("unknown-path", "GET", "/api/v1/nothing")
    send("outside", "GET", "/nothing", key=None)
    send("delete", "DELETE", f"{API}/{twenty}")
    send("delete-again", "DELETE", f"{API}/{twenty}")
    send("update-deleted", "PATCH", f"{API}/{twenty}", update)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where `npm install n8n` was run")
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    record(options.folder, options.output)
