"""The sink `github`: GitHub Actions secrets of repositories, environments and organisations.

Sources: "REST API endpoints for GitHub Actions Secrets", "Encrypting secrets for the REST API",
"Using secrets in GitHub Actions" (names), "Variables" (names), "REST API endpoints for
repositories" (archived), "Rate limits for the REST API", "Best practices for using the REST API",
"gh help environment" (variables).
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, assert_never

from provisioner.errors.codes import Code
from provisioner.errors.exceptions import SinkError
from provisioner.errors.failure import Failure
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken, Unreadable
from provisioner.runtime.source import extra_remedy
from provisioner.secret import Secret
from provisioner.sinks.github_receipt import GithubReceipt, Variables
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
from provisioner.sinks.receipt import WrittenReceipt
from provisioner.sinks.sink import Content, StoredValue, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.model.sink_content import ApiKeyToken
    from provisioner.sinks.kind import OptionValues

_PAGE_SIZE = 100
_FIRST_YEAR, _LAST_YEAR = 1970, 9000
_STALE_KEY_STATUSES = (400, 422)  # the answers to a write with an outdated `key_id`


@dataclass(frozen=True, slots=True)
class GithubAddress(Address):
    """A GitHub Actions secret of a repository, an environment of it, or an organization.

    Attributes:
        owner: the organization or user.
        repository: None for a secret of the organization.
        environment: an environment of the repository; None for a secret of the repository.
        receipt: the name of the variable with the receipt; empty for no receipt, None for the
            default name.
    """

    kind: ClassVar[str] = "github"
    owner: str
    secret: str
    repository: str | None = None
    environment: str | None = None
    receipt: str | None = None

    @property
    def receipt_name(self) -> str:
        """Return the name of the variable with the receipt; empty if there is to be none."""
        return f"{self.secret}_RECEIPT" if self.receipt is None else self.receipt

    @property
    def removes(self) -> bool:
        """Return whether there is a receipt, which shows what the secret holds."""
        return bool(self.receipt_name)

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place; GitHub ignores case in all of these names."""
        return self._place("github", self.secret)

    @property
    def digest_parts(self) -> dict[str, object]:
        """Return every part; without a receipt of another name as in versions without receipts."""
        return {
            name: part
            for name, part in super(GithubAddress, self).digest_parts.items()
            if name != "receipt" or part is not None
        }

    @property
    def receipt_place(self) -> tuple[str, ...] | None:
        """Return the identity of the variable with the receipt; None without one."""
        return self._place("github variable", self.receipt_name) if self.receipt_name else None

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the repository or organization."""
        return (f"{self.owner}/{self.repository}" if self.repository else self.owner,)

    def _place(self, kind: str, name: str) -> tuple[str, ...]:
        parts = (self.owner, self.repository or "", self.environment or "", name)
        return (kind, *(part.lower() for part in parts))

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
        self.variables = Variables(self.api)

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
        self._receipt = (
            GithubReceipt(
                *(github.variables, address, self._container),
                *(address.receipt_name, address.secret),
            )
            if address.receipt_name
            else None
        )

    def check(self) -> None:
        """Read what a write needs: the key to encrypt with, the variable with the receipt.

        Whether the token may write the secret is not shown, but an archived repository is refused.
        """
        self._encrypt(Secret(""), self._key())
        self._get()
        if self._address.repository is not None:
            repository = _repository(self._address.owner, self._address.repository)
            if self._github.archived.get(repository, lambda: self._is_archived(repository)):
                remedy = "Unarchive the repository, or choose another sink."
                raise self._error(Code.SINK_UNSUITABLE, "the repository is archived", remedy)
        if self._receipt is not None:
            self._receipt.check()

    def read(self) -> Content:
        """Return NoToken, or the time when the secret last changed and what its receipt says.

        An organisation's secret also changes when other repositories may see it ("REST API
        endpoints for GitHub Actions Secrets", "Set selected repositories").
        """
        found = self._get()
        if found is None:
            left = self._receipt and self._receipt.find()
            return NoToken(left.token if isinstance(left, WrittenReceipt) else None)
        only_writes = self._address.repository is not None
        server_time = _parse_time(found.body.get("updated_at"))
        if server_time is None:
            return Unreadable(None, only_writes)
        content = Unreadable(server_time - found.clock_skew, only_writes)
        if self._receipt is None:
            return content
        receipt = self._receipt.read(server_time, only_writes=only_writes)
        if isinstance(receipt, Failure):
            return replace(content, no_receipt=receipt)
        return replace(content, receipt=receipt)

    def write(self, token: Secret) -> None:
        """Encrypt and write the token, and its receipt; the secret keeps its visibility."""
        visibility = {} if self._address.repository else self._visibility()
        key = self._key()
        void = None if self._receipt is None else self._receipt.make_void(visibility)
        reply = self._put(token, key, visibility)
        if reply.status in _STALE_KEY_STATUSES:
            self._github.keys.forget(self._container, key)
            reply = self._put(token, self._key(), visibility)
        if reply.status not in (201, 204):
            raise unexpected_status(self._address, reply)
        if self._receipt is not None and void is not None:
            self._receipt.confirm(void, token, self._written_at(reply), visibility)

    def remove_delivered(self, token: ApiKeyToken) -> bool:
        """Delete the secret if its receipt proves that it holds the token, then the receipt.

        The API cannot make the deletion depend on the receipt, which is therefore read right
        before. A receipt without its secret is what a run that ended in between has left.
        """
        content = self.read()
        match content:
            case NoToken(leftover=held):
                pass
            case Unreadable():
                held = content.proven_token
            case StoredValue():
                return False
            case _:
                assert_never(content)
        if self._receipt is None or held is None or not held.has_claims_of(token):
            return isinstance(content, NoToken)
        if not isinstance(content, NoToken):
            reply = self._api.call(self._address, "DELETE", self._path)
            if reply.status not in (204, 404):  # deleted now, or before by another run
                raise unexpected_status(self._address, reply)
        self._receipt.delete()
        return True

    def _written_at(self, reply: Reply) -> datetime | None:
        """Return when the secret was written, if GitHub answered that write; None if later.

        Both times are of GitHub's clock, in whole seconds: no write is later than its answer.
        """
        secret = self._get()
        updated_at = None if secret is None else _parse_time(secret.body.get("updated_at"))
        if updated_at is None or reply.server_time is None:
            return None
        return updated_at if updated_at.replace(microsecond=0) <= reply.server_time else None

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
    """Return a time of GitHub; None for one that is not valid or cannot be a time of a write."""
    try:
        time = datetime.fromisoformat(str(text)).astimezone(UTC)
    except (OverflowError, ValueError):
        return None
    return time if _FIRST_YEAR <= time.year <= _LAST_YEAR else None


def _address(values: OptionValues) -> GithubAddress:
    owner, _, repository = values.text("github").partition("/")
    secret = values.text("secret", values.variable)
    environment = values.optional("environment")
    receipt = "" if values.is_off("receipt") else values.optional("receipt")
    if environment and not repository:
        values.reject("environment", "an organisation has no environments", "OWNER/REPOSITORY")
    return GithubAddress(owner, secret, repository or None, environment, receipt)


# GitHub docs, "Naming your secrets" and "Naming conventions for configuration variables"
_NAME = Allowed(
    re.compile(r"(?!(?i:GITHUB_))[A-Za-z_][A-Za-z0-9_]*"),
    "letters, digits and _, not starting with a digit or GITHUB_",
)
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
            _NAME,
            examples=("TWENTY_KEY",),
        ),
        Option(
            "environment",
            "Environment of the repository",
            "The environment of the repository that contains the secret. By default, the "
            "secret is in the repository itself.",
            examples=("production",),
        ),
        Option(
            "receipt",
            "Receipt",
            "The name of the Actions variable beside the secret that says which key was delivered. "
            "The default is the name of the secret, followed by _RECEIPT. Write `false` for none.",
            _NAME,
            examples=("TWENTY_KEY_RECEIPT", False),
            can_be_off=True,
        ),
    ),
    address=_address,
    connect=lambda context: Github(context.environ, context.wait).sink,
    server_of=lambda environ, _: _server(environ)[0],
)
