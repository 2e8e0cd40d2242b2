"""The sink `github`: GitHub Actions secrets of repositories, environments and organisations.

Sources: "REST API endpoints for GitHub Actions Secrets", "Encrypting secrets for the REST API",
"Using secrets in GitHub Actions" (names), "REST API endpoints for repositories" (archived), "Rate
limits for the REST API", "Best practices for using the REST API", "gh help environment"
(variables).
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken, Unreadable
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret
from provisioner.sinks.http import (
    Api,
    Once,
    Reply,
    header_credential,
    route_of,
    segment,
    unexpected_status,
)
from provisioner.sinks.kind import DEFAULT_VARIABLE, NO_DOTS, Allowed, Option, SinkKind
from provisioner.sinks.sink import Content, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.sinks.kind import OptionValues

_PAGE_SIZE = 100
_STALE_KEY_STATUSES = (400, 422)  # the answers to a write with an outdated `key_id`


@dataclass(frozen=True, slots=True)
class GithubAddress(Address):
    """A GitHub Actions secret of a repository, an environment of it, or an organization.

    Attributes:
        owner: the organization or user.
        repository: None for a secret of the organization.
        environment: an environment of the repository; None for a secret of the repository.
    """

    kind: ClassVar[str] = "github"
    owner: str
    secret: str
    repository: str | None = None
    environment: str | None = None

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place; GitHub ignores case in all of these names."""
        parts = (self.owner, self.repository or "", self.environment or "", self.secret)
        return ("github", *(part.lower() for part in parts))

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the repository or organization."""
        return (f"{self.owner}/{self.repository}" if self.repository else self.owner,)

    def __str__(self) -> str:
        where = f" of {self.environment}" if self.environment else ""
        return f"github {self.targets[0]} {self.secret}{where}"


class _PublicKey(NamedTuple):
    key_id: str
    text: str


class Github:
    """The secrets that one token may write.

    Relies on: a secret cannot be read back, only the time of its last write; a `PUT` replaces it
    completely, including the `visibility` of an organisation's secret; each repository, environment
    and organisation has its own public key ("REST API endpoints for GitHub Actions Secrets").

    Args:
        environment: `GH_TOKEN` or `GITHUB_TOKEN`, and `GITHUB_API_URL`. `GH_HOST` takes precedence
            and names another server; an Enterprise Server uses `GH_ENTERPRISE_TOKEN` or
            `GITHUB_ENTERPRISE_TOKEN`.
        wait: waits for a number of seconds.
    """

    def __init__(
        self, environment: Mapping[str, str], wait: Callable[[float], None] = time.sleep
    ) -> None:
        base, variables = _server(environment)
        token = next(filter(None, map(environment.get, variables)), "").strip()
        credential = header_credential(
            "Authorization",
            f"Bearer {token}" if token else "",
            f"Set {variables[0]} to a token that may write the secret.",
        )
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        # "Best practices for using the REST API": send requests that change something one by one.
        route = route_of(base, environment)
        self.api = Api(route, credential, headers, wait, serial_writes=True)
        self.keys: Once[_PublicKey] = Once()
        self.archived: Once[bool] = Once()

    def sink(self, address: GithubAddress) -> GithubSecret:
        """Return the sink of an address; nothing is sent yet."""
        return GithubSecret(self, address)


class GithubSecret:
    """One secret; created by `Github`."""

    def __init__(self, github: Github, address: GithubAddress) -> None:
        self._github = github
        self._api = github.api
        self._address = address
        self._container = _container(address)
        self._path = f"{self._container}/secrets/{segment(address.secret)}"

    def check(self) -> None:
        """Read the key that secrets are encrypted with, and whether the repository is archived.

        GitHub does not show whether the token may write the secret.
        """
        self._encrypt(Secret(""), self._key())
        self._get()
        if self._address.repository is None:
            return
        repository = _repository(self._address.owner, self._address.repository)
        if self._github.archived.get(repository, lambda: self._is_archived(repository)):
            remedy = "Unarchive the repository, or choose another sink."
            raise self._error(Code.SINK_UNSUITABLE, "the repository is archived", remedy)

    def read(self) -> Content:
        """Return NoToken, or the time when the secret last changed.

        An organisation's secret also changes when other repositories may see it ("REST API
        endpoints for GitHub Actions Secrets", "Set selected repositories").
        """
        found = self._get()
        if found is None:
            return NoToken()
        server_time = _parse_time(found.body.get("updated_at"))
        updated_at = None if server_time is None else server_time - found.clock_skew
        return Unreadable(updated_at, only_writes=self._address.repository is not None)

    def write(self, token: Secret) -> None:
        """Encrypt and write the token; an organisation's secret keeps its visibility."""
        visibility = {} if self._address.repository else self._visibility()
        key = self._key()
        reply = self._put(token, key, visibility)
        if reply.status in _STALE_KEY_STATUSES:
            self._github.keys.forget(self._container, key)
            reply = self._put(token, self._key(), visibility)
        if reply.status not in (201, 204):
            raise unexpected_status(self._address, reply)

    def _put(self, token: Secret, key: _PublicKey, visibility: Mapping[str, Any]) -> Reply:
        encrypted = self._encrypt(token, key)
        body = {"encrypted_value": encrypted, "key_id": key.key_id, **visibility}
        return self._api.call(self._address, "PUT", self._path, body)

    def _get(self) -> Reply | None:
        return self._api.find(self._address, self._path)

    def _visibility(self) -> dict[str, Any]:
        """Return the current visibility; a new secret is for private repositories."""
        secret = self._get()
        visibility = secret.body.get("visibility", "private") if secret else "private"
        if visibility != "selected":
            return {"visibility": visibility}
        repositories: list[int] = []
        page, total = 0, 1
        while len(repositories) < total:
            page += 1
            path = f"{self._path}/repositories?per_page={_PAGE_SIZE}&page={page}"
            match self._api.call(self._address, "GET", path).body:
                case {"total_count": int(total), "repositories": list(found)} if found or not total:
                    repositories += [one["id"] for one in found]
                case _:  # a write with an incomplete list would hide the secret from the others
                    reason = "GitHub does not list all repositories that can access it"
                    remedy = "Grant the token permission to read these repositories."
                    raise self._error(Code.SINK_DENIED, reason, remedy)
        return {"visibility": visibility, "selected_repository_ids": repositories}

    def _key(self) -> _PublicKey:
        return self._github.keys.get(self._container, self._read_key)

    def _read_key(self) -> _PublicKey:
        found = self._api.find(self._address, f"{self._container}/secrets/public-key")
        if found is not None:
            match found.body:
                case {"key_id": str(key_id), "key": str(text)}:
                    return _PublicKey(key_id, text)
                case _:
                    raise unexpected_status(self._address, found)
        reason = (
            "its repository, environment or organisation does not exist, or the token has no access"
        )
        remedy = "Check the names, and that the token may read secrets there."
        raise self._error(Code.SINK_MISSING, reason, remedy)

    def _encrypt(self, token: Secret, key: _PublicKey) -> str:
        try:
            from nacl.exceptions import CryptoError  # noqa: PLC0415 - an extra
            from nacl.public import PublicKey, SealedBox  # noqa: PLC0415 - as above
        except ImportError:
            reason, remedy = "PyNaCl is not installed", extra_remedy("github")
            raise self._error(Code.SINK_EXTRA_MISSING, reason, remedy) from None
        try:
            box = SealedBox(PublicKey(base64.b64decode(key.text)))
            return base64.b64encode(box.encrypt(token.reveal().encode())).decode()
        except (ValueError, CryptoError):
            reason = "the public key from GitHub is not valid"
            remedy = "Check that GITHUB_API_URL or GH_HOST is the address of GitHub."
            raise self._error(Code.SINK_UNAVAILABLE, reason, remedy) from None

    def _is_archived(self, repository: str) -> bool:
        """Return whether GitHub reports the repository as archived; no access counts as no."""
        try:
            found = self._api.find(self._address, repository)
        except SinkError:
            return False
        return found is not None and found.body.get("archived") is True

    def _error(self, code: Code, reason: str, remedy: str) -> SinkError:
        return unusable(code, reason, remedy).error(self._address)


def _server(environment: Mapping[str, str]) -> tuple[str, tuple[str, str]]:
    """Return the address of the API, and the variables that may contain the token for it."""
    default_variables = ("GH_TOKEN", "GITHUB_TOKEN")
    host = environment.get("GH_HOST", "").lower()
    if not host or host == "github.com":
        url = "" if host else environment.get("GITHUB_API_URL", "")
        return (url or "https://api.github.com").rstrip("/"), default_variables
    if host.endswith(".ghe.com"):
        return f"https://api.{host}", default_variables
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


def _parse_time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return None


def _address(values: OptionValues) -> GithubAddress:
    owner, _, repository = values.text("github").partition("/")
    secret = values.text("secret", values.variable)
    environment = values.optional("environment")
    if environment and not repository:
        values.reject("environment", "an organisation has no environments", "OWNER/REPOSITORY")
    return GithubAddress(owner, secret, repository or None, environment)


_PART = rf"{NO_DOTS}[A-Za-z0-9_.-]+"

SINK = SinkKind(
    title="GitHub",
    description="An Actions secret in a repository, in one of its environments, or in an "
    "organisation.",
    options=(
        Option(
            "github",
            "Repository or organisation",
            "A repository as OWNER/REPOSITORY, or an organisation.",
            Allowed(re.compile(rf"{_PART}(?:/{_PART})?"), "OWNER/REPOSITORY, or an organisation"),
            examples=("acme/billing", "acme"),
        ),
        Option(
            "secret",
            "Secret",
            f"The name of the secret. {DEFAULT_VARIABLE}",
            # GitHub docs, "Naming your secrets"
            Allowed(
                re.compile(r"(?!(?i:GITHUB_))[A-Za-z_][A-Za-z0-9_]*"),
                "letters, digits and _, not starting with a digit or GITHUB_",
            ),
            examples=("TWENTY_KEY",),
        ),
        Option(
            "environment",
            "Environment of the repository",
            "The environment of the repository that contains the secret. By default, the "
            "secret is in the repository itself.",
            examples=("production",),
        ),
    ),
    address=_address,
    connect=lambda context: Github(context.environ, context.wait).sink,
    server_of=lambda environ, _: _server(environ)[0],
)
