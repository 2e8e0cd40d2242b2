"""The public API of n8n for credentials, which answers as the recordings of real versions show.

Refusals are the recorded answers themselves; README.md in `tests/recordings/n8n` says how they were
recorded. Successes have the recorded shape.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tls_server import HttpRequest, HttpResponse, TlsServer

RECORDINGS = Path(__file__).parents[1] / "recordings" / "n8n"
LENIENT = (2, 36)
"""The first version that demands no required fields of an update of some fields."""


def recorded(version: str) -> dict[str, dict[str, Any]]:
    """Return the lines of a recording by their names."""
    file = RECORDINGS / f"{version}.jsonl"
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {line["name"]: line for line in lines}


class N8nServer(TlsServer):
    """An n8n with one API key.

    Attributes:
        version: one of the recorded versions.
        allowed: whether the API key may list and update.
        credentials: each credential with its data, the oldest first.
    """

    def __init__(self, version: str, **options: Any) -> None:
        super().__init__(**options)
        self.version = version
        self.key = "n8n-credentialCanary-0123"
        self.allowed = True
        self.credentials: list[dict[str, Any]] = []
        self._recorded = recorded(version)
        self._is_old = tuple(map(int, version.split(".")[:2])) < LENIENT

    def add(self, id_: str, name: str, type_: str = "twentyApi", /, **data: str) -> dict[str, Any]:
        now = timestamp()
        credential = {
            "id": id_,
            "name": name,
            "type": type_,
            "createdAt": now,
            "updatedAt": now,
            "data": data,
        }
        self.credentials.append(credential)
        return credential

    def replay(self, name: str) -> HttpResponse:
        """Return a recorded answer."""
        answer = self._recorded[name]["response"]
        body = answer["body"]
        headers = {"Content-Type": answer["content_type"]}
        return HttpResponse(
            answer["status"], body.encode() if isinstance(body, str) else body, headers
        )

    def answer(self, request: HttpRequest) -> HttpResponse:
        if request.names[:3] != ("api", "v1", "credentials"):
            return self.replay("outside")
        if request.headers.get("X-N8N-API-KEY") != self.key:
            return self.replay("list-wrong")
        match request.method, *request.names[3:]:
            case "GET", "schema", type_:
                known = f"schema-{type_}" in self._recorded
                return self.replay(f"schema-{type_}" if known else "schema-nothingApi")
            case ["GET"]:
                return self._list(request) if self.allowed else self.replay("list-update-only")
            case "PATCH", id_:
                return self._update(id_, request.body)
            case _:
                return self.replay("put")

    def _list(self, request: HttpRequest) -> HttpResponse:
        query = request.query
        limit, offset = int(query.get("limit", 100)), 0
        if cursor := query.get("cursor"):
            limit, offset = json.loads(base64.b64decode(cursor)).values()
        newest_first = self.credentials[::-1]
        page = [
            {name: value for name, value in one.items() if name != "data"} | {"shared": []}
            for one in newest_first[offset : offset + limit]
        ]
        cursor = None
        if offset + limit < len(newest_first):
            after = {"limit": limit, "offset": offset + limit}
            cursor = base64.b64encode(json.dumps(after).encode()).decode()
        return HttpResponse(200, {"data": page, "nextCursor": cursor})

    def _update(self, id_: str, body: dict[str, Any]) -> HttpResponse:
        if not self.allowed:
            return self.replay("probe-list-only")
        found = next((one for one in self.credentials if one["id"] == id_), None)
        refusal = self._refusal(body.get("type") or (found and found["type"]), body)
        if found is None:
            return refusal if self._is_old and refusal else self.replay("update-deleted")
        if refusal:
            return refusal
        data = found["data"] if body.get("isPartialData") or "data" not in body else {}
        found |= {"name": body.get("name", found["name"]), "updatedAt": timestamp()}
        found["data"] = data | body.get("data", {})
        shown = {name: value for name, value in found.items() if name != "data"}
        return HttpResponse(200, shown)

    def _refusal(self, type_: str | None, body: dict[str, Any]) -> HttpResponse | None:
        """Return the recorded answer to data that does not follow the schema of its type."""
        schema = self._recorded.get(f"schema-{type_}")
        if schema is None:
            return self.replay("create-unknown-type") if type_ else None
        rules, data = schema["response"]["body"], body.get("data", {})
        complete = self._is_old or not body.get("isPartialData")
        if not set(data) <= set(rules["properties"]):
            return self.replay("update-unknown-field")
        if not all(isinstance(value, str) for value in data.values()):
            return self.replay("update-number")
        if "data" in body and complete and not set(rules["required"]) <= set(data):
            return self.replay("update-whole-strict")
        return (
            self.replay("probe-twenty")
            if "data" in body and complete and "allOf" in rules
            else None
        )


def timestamp() -> str:
    """Return the current time as n8n writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
