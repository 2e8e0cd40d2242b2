"""GitHub Actions secrets: of repositories, of their environments and of organisations.

Sources: "REST API endpoints for GitHub Actions Secrets", "Encrypting secrets for the REST API",
"Using secrets in GitHub Actions" (names), "REST API endpoints for repositories" (archived),
"Rate limits for the REST API", "Best practices for using the REST API",
"gh help environment" (variables).
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from provisioner.errors.exceptions import SinkError
from provisioner.secret import Secret
from provisioner.sinks.http import Api, Grant, Once, Reply, route_of, segment, unexpected
from provisioner.sinks.sink import Content, Empty, WriteOnly, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.model.sink_address import Address, GithubAddress

_NAME = re.compile(r"(?!GITHUB_)[A-Z_][A-Z0-9_]*", re.ASCII | re.IGNORECASE)
_OWNER = re.compile(r"[A-Z0-9_.-]+", re.ASCII | re.IGNORECASE)
_PAGE = 100
_OTHER_KEY = (400, 422)  # what a write is answered whose `key_id` is not that of today's key


@dataclass(frozen=True, slots=True)
class _PublicKey:
    key_id: str
    text: str


class Github:
    """The secrets that one token may write.

    Relies on: a secret cannot be read back, only when it was written; a `PUT` sets it whole, an
    organisation's also its `visibility`; a public key for each repository, environment and
    organisation ("REST API endpoints for GitHub Actions Secrets").

    Args:
        environment: `GH_TOKEN` or `GITHUB_TOKEN`, and `GITHUB_API_URL`; `GH_HOST` names another
            server before it, with `GH_ENTERPRISE_TOKEN` or `GITHUB_ENTERPRISE_TOKEN` where that
            is an Enterprise Server.
        wait: waits so many seconds.
    """

    def __init__(
        self, environment: Mapping[str, str], wait: Callable[[float], None] = time.sleep
    ) -> None:
        base, self._variables = _server(environment)
        token = next(filter(None, map(environment.get, self._variables)), "").strip()
        self._token = Secret(f"Bearer {token}") if token else None
        fixed = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        # "Best practices for using the REST API": requests that change something, one by one.
        self._api = Api(route_of(base, environment), self._grant, fixed, wait, one_write=True)
        self._keys: Once[_PublicKey] = Once()
        self._archived: Once[bool] = Once()

    def sink(self, address: GithubAddress) -> GithubSecret:
        """The sink of an address; nothing is sent yet."""
        return GithubSecret(self._api, self._keys, self._archived, address)

    def _grant(self, address: Address) -> Grant:
        if self._token is None:
            raise failed(
                "sink_denied",
                f"{address} cannot be used: there is no token for GitHub.",
                f"Set {self._variables[0]} to a token that may write the secret.",
            )
        return Grant({"Authorization": self._token})


class GithubSecret:
    """One secret; made by `Github`."""

    def __init__(
        self, api: Api, keys: Once[_PublicKey], archived: Once[bool], address: GithubAddress
    ) -> None:
        self._api = api
        self._keys = keys
        self._archived = archived
        self._address = address
        self._container = _container(address)
        self._path = f"{self._container}/secrets/{segment(address.secret)}"

    def check(self) -> None:
        """Reads the key that secrets are sealed with, and whether the repository is archived.

        That its secrets may be written is not told otherwise.
        """
        self._check_names()
        self._seal(Secret(""), self._key())
        self._get()
        self._refuse_archived()

    def read(self) -> Content:
        """Nothing, or when the secret last changed.

        An organisation's secret also changes when other repositories may see it ("REST API
        endpoints for GitHub Actions Secrets", "Set selected repositories").
        """
        reply = self._get()
        if reply.status != 200:  # noqa: PLR2004 - found
            return Empty()
        moment = _moment(reply.body.get("updated_at"))
        ours = None if moment is None else moment - reply.ahead
        return WriteOnly(ours, only_writes=self._address.repository is not None)

    def write(self, token: Secret) -> None:
        """Seals the token for GitHub; of an organisation's secret it keeps who may see it."""
        visibility = {} if self._address.repository else self._visibility()
        key = self._key()
        reply = self._put(token, key, visibility)
        if reply.status in _OTHER_KEY:
            self._keys.forget(self._container, key)
            reply = self._put(token, self._key(), visibility)
        if reply.status not in (201, 204):
            raise unexpected(self._address, reply)

    def _put(self, token: Secret, key: _PublicKey, visibility: Mapping[str, Any]) -> Reply:
        sealed = self._seal(token, key)
        body = {"encrypted_value": sealed, "key_id": key.key_id, **visibility}
        return self._api.call(self._address, "PUT", self._path, body)

    def _get(self) -> Reply:
        reply = self._api.call(self._address, "GET", self._path)
        if reply.status not in (200, 404):
            raise unexpected(self._address, reply)
        return reply

    def _visibility(self) -> dict[str, Any]:
        """As it is; of a new secret the private repositories see it."""
        seen = self._get().body.get("visibility", "private")
        if seen != "selected":
            return {"visibility": seen}
        chosen: list[int] = []
        page, total = 0, 1
        while len(chosen) < total:
            page += 1
            path = f"{self._path}/repositories?per_page={_PAGE}&page={page}"
            match self._api.call(self._address, "GET", path).body:
                case {"total_count": int(total), "repositories": list(found)} if found or not total:
                    chosen += [one["id"] for one in found]
                case _:  # a write with less would take the secret away from the others
                    raise failed(
                        "sink_denied",
                        f"{self._address} cannot be used: GitHub does not show all repositories "
                        "that see it.",
                        "Give the token the right to read them.",
                    )
        return {"visibility": seen, "selected_repository_ids": chosen}

    def _key(self) -> _PublicKey:
        return self._keys.get(self._container, self._read_key)

    def _read_key(self) -> _PublicKey:
        reply = self._api.call(self._address, "GET", f"{self._container}/secrets/public-key")
        match reply.body:
            case {"key_id": str(key_id), "key": str(text)} if reply.status == 200:  # noqa: PLR2004 - found
                return _PublicKey(key_id, text)
        if reply.status != 404:  # noqa: PLR2004 - not found
            raise unexpected(self._address, reply)
        raise failed(
            "sink_missing",
            f"{self._address} cannot be used: GitHub does not show its place to this token.",
            "Check the names, and that the token may read secrets there.",
        )

    def _seal(self, token: Secret, key: _PublicKey) -> str:
        try:
            from nacl.exceptions import CryptoError  # noqa: PLC0415 - an extra
            from nacl.public import PublicKey, SealedBox  # noqa: PLC0415 - as above
        except ImportError:
            raise failed(
                "sink_extra_missing",
                f"{self._address} cannot be used: PyNaCl is not installed.",
                "Install twenty-provisioner[github].",
            ) from None
        try:
            box = SealedBox(PublicKey(base64.b64decode(key.text)))
            return base64.b64encode(box.encrypt(token.reveal().encode())).decode()
        except (ValueError, CryptoError):
            raise failed(
                "sink_unavailable",
                f"{self._address} cannot be used: GitHub shows a key that seals nothing.",
                "Check that GITHUB_API_URL or GH_HOST names GitHub.",
            ) from None

    def _refuse_archived(self) -> None:
        if self._address.repository is None:
            return
        repository = _repository(self._address.owner, self._address.repository)
        if self._archived.get(repository, lambda: self._is_archived(repository)):
            raise failed(
                "sink_unsuitable",
                f"{self._address} cannot be used: the repository is archived.",
                "Unarchive the repository, or deliver elsewhere.",
            )

    def _is_archived(self, repository: str) -> bool:
        """Return whether GitHub says so; a token for secrets may not be shown the repository."""
        try:
            reply = self._api.call(self._address, "GET", repository)
        except SinkError:
            return False
        return reply.status == 200 and reply.body.get("archived") is True  # noqa: PLR2004 - found

    def _check_names(self) -> None:
        address = self._address
        owners = [address.owner, *filter(None, [address.repository])]
        if _NAME.fullmatch(address.secret) and all(map(_OWNER.fullmatch, owners)):
            return
        raise failed(
            "sink_unsuitable",
            f"{address} cannot be used: GitHub takes no such name.",
            "Name the secret with A to Z, 0 to 9 and _, neither beginning with a digit nor with "
            "GITHUB_.",
        )


def server_of(environment: Mapping[str, str]) -> str:
    """Return the address of the interface."""
    return _server(environment)[0]


def _server(environment: Mapping[str, str]) -> tuple[str, tuple[str, str]]:
    """The address of the interface, and the variables that may hold the token for it."""
    usual = ("GH_TOKEN", "GITHUB_TOKEN")
    host = environment.get("GH_HOST", "").lower()
    if not host or host == "github.com":
        url = "" if host else environment.get("GITHUB_API_URL", "")
        return (url or "https://api.github.com").rstrip("/"), usual
    if host.endswith(".ghe.com"):
        return f"https://api.{host}", usual
    return f"https://{host}/api/v3", ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN")


def _repository(owner: str, name: str) -> str:
    return f"/repos/{segment(owner)}/{segment(name)}"


def _container(address: GithubAddress) -> str:
    if address.repository is None:
        return f"/orgs/{segment(address.owner)}/actions"
    repository = _repository(address.owner, address.repository)
    if address.environment is None:
        return f"{repository}/actions"
    return f"{repository}/environments/{segment(address.environment)}"


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return None
