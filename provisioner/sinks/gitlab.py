"""The sink `gitlab`: CI/CD variables of GitLab projects and groups.

Sources: "Project-level CI/CD variables API", "Group-level Variables API", "Projects API"
(archived), "GitLab CI/CD variables" (masking, keys), the environment variables of `glab`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from provisioner.errors.codes import Code
from provisioner.model.sink_address import Address
from provisioner.model.sink_content import NoToken, Unreadable
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
from provisioner.sinks.sink import Content, StoredValue, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.errors.exceptions import SinkError
    from provisioner.http_client.exchange import Route

_ALL_ENVIRONMENTS = "*"
_QUERY = f"?filter[environment_scope]={segment(_ALL_ENVIRONMENTS)}"
_PROTECTION = {"masked": True, "protected": True, "raw": True}


@dataclass(frozen=True, slots=True)
class GitlabAddress(Address):
    """A CI/CD variable of a GitLab project or group, for all its environments.

    Attributes:
        project: the path of the project, or of the group if no project has that path.
    """

    kind: ClassVar[str] = "gitlab"
    project: str
    variable: str

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place; GitLab ignores case in paths."""
        return ("gitlab", self.project.lower(), self.variable)

    @property
    def targets(self) -> tuple[str, ...]:
        """Return the project or group."""
        return (self.project,)

    @property
    def neighbourhood(self) -> tuple[str, ...]:
        """Return the name of the variable."""
        return ("gitlab", self.variable)

    def may_be(self, other: Address) -> bool:
        """Return whether the paths are equal, or one of them may be the number of a project."""
        if not isinstance(other, GitlabAddress):
            return False
        return self.place == other.place or self.project.isdigit() != other.project.isdigit()

    @property
    def removes(self) -> bool:
        """Return True: the sink can remove a token."""
        return True

    def __str__(self) -> str:
        return f"gitlab {self.project} {self.variable}"


class _Container(NamedTuple):
    """A project or group.

    Attributes:
        path: its path in the API.
        archived: True if GitLab reports that nothing in it may be changed.
    """

    path: str
    archived: bool


class Gitlab:
    """The variables that one access token may write.

    Relies on: `filter[environment_scope]` selects one of the variables with the same key, but older
    servers ignore it for groups; a `hidden` variable has no value in the answer; a value that
    cannot be masked is refused with 400 ("Project-level CI/CD variables API").

    Args:
        environment: `GITLAB_TOKEN`, an access token of a user, project or group; the server from
            the first of `GITLAB_API_URL`, `GITLAB_HOST`, `GITLAB_URI`, `GL_HOST` and, in a
            pipeline, `CI_API_V4_URL`, or else gitlab.com.
        wait: waits for a number of seconds.
    """

    def __init__(
        self, environment: Mapping[str, str], wait: Callable[[float], None] = time.sleep
    ) -> None:
        credential = header_credential(
            "PRIVATE-TOKEN",
            environment.get("GITLAB_TOKEN", "").strip(),
            "Set GITLAB_TOKEN to an access token with the api scope.",
        )
        self._api = Api(_route(environment), credential, {"Accept": "application/json"}, wait)
        self._containers: Once[_Container] = Once()

    def sink(self, address: GitlabAddress) -> GitlabVariable:
        """Return the sink of an address; nothing is sent yet."""
        return GitlabVariable(self._api, self._containers, address)


class GitlabVariable:
    """One variable, for all environments; created by `Gitlab`."""

    def __init__(self, api: Api, containers: Once[_Container], address: GitlabAddress) -> None:
        self._api = api
        self._containers = containers
        self._address = address

    def check(self) -> None:
        """Read the variable, and whether its project is archived.

        GitLab does not show whether the token may write the variable.
        """
        if self._container.archived:
            remedy = "Unarchive the project, or choose another sink."
            raise self._error(Code.SINK_UNSUITABLE, "the project is archived", remedy)
        self._get()

    def read(self) -> Content:
        """Return the value; Unreadable if the variable is hidden."""
        reply = self._get()
        if reply is None:
            return NoToken()
        value = reply.body.get("value")
        return StoredValue(Secret.received(value)) if isinstance(value, str) else Unreadable()

    def write(self, token: Secret) -> None:
        """Create or update the variable, and make it masked and protected in any case."""
        reply = self._post(token) if self._get() is None else self._put(token)
        if _is_taken(reply):  # by another run, or by our own create whose answer was lost
            reply = self._put(token)
        if reply.status in (200, 201):
            return
        if "value" in _validation_errors(reply):
            remedy = "Choose another sink, because jobs would print the token."
            raise self._error(Code.SINK_UNSUITABLE, "GitLab cannot mask this token", remedy)
        raise unexpected_status(self._address, reply)

    def remove(self, token: Secret) -> bool:
        """Delete the variable for all environments; those for one environment stay.

        The API cannot make the deletion depend on the value, which is therefore read right before.
        """
        reply = self._get()
        if reply is not None:
            if reply.body.get("value") != token.reveal():
                return False
            reply = self._api.call(self._address, "DELETE", self._path)
            if reply.status not in (204, 404):  # deleted now, or before by another run
                raise unexpected_status(self._address, reply)
        return True

    def _get(self) -> Reply | None:
        """Return the variable for all environments; None without one."""
        reply = self._api.find(self._address, self._path)
        if reply is None:
            return None
        if reply.body.get("environment_scope", _ALL_ENVIRONMENTS) != _ALL_ENVIRONMENTS:
            reason = "this GitLab version confuses it with a variable for one environment"
            remedy = "Use another variable name, or a newer GitLab version."
            raise self._error(Code.SINK_UNSUITABLE, reason, remedy)
        return reply

    def _post(self, token: Secret) -> Reply:
        body = {"key": self._address.variable, "value": token.reveal(), "variable_type": "env_var"}
        path = f"{self._container.path}/variables"
        return self._api.call(self._address, "POST", path, {**body, **_PROTECTION})

    def _put(self, token: Secret) -> Reply:
        body = {"value": token.reveal(), **_PROTECTION}
        return self._api.call(self._address, "PUT", self._path, body)

    @property
    def _path(self) -> str:
        return f"{self._container.path}/variables/{segment(self._address.variable)}{_QUERY}"

    @property
    def _container(self) -> _Container:
        return self._containers.get(self._address.project, self._find_container)

    def _find_container(self) -> _Container:
        for kind in ("projects", "groups"):
            path = f"/{kind}/{segment(self._address.project)}"
            if (found := self._api.find(self._address, path)) is not None:
                return _Container(path, archived=found.body.get("archived") is True)
        reason = "the project or group does not exist, or the token has no access to it"
        remedy = "Check its path, and that the token belongs to a member."
        raise self._error(Code.SINK_MISSING, reason, remedy)

    def _error(self, code: Code, reason: str, remedy: str) -> SinkError:
        return unusable(code, reason, remedy).error(self._address)


def _validation_errors(reply: Reply) -> Mapping[str, Any]:
    """Return the refusals of GitLab, by the name of the attribute."""
    message = reply.body.get("message")
    return message if reply.status == 400 and isinstance(message, dict) else {}  # noqa: PLR2004 - refused


def _is_taken(reply: Reply) -> bool:
    return "taken" in str(_validation_errors(reply).get("key"))


def _route(environment: Mapping[str, str]) -> Route:
    """Return the route to the server that a variable names, or else to the one of the pipeline."""
    if url := environment.get("GITLAB_API_URL"):
        return route_of(url.rstrip("/"), environment)
    hosts = map(environment.get, ("GITLAB_HOST", "GITLAB_URI", "GL_HOST"))
    host = next(filter(None, hosts), None)
    if host is None and (url := environment.get("CI_API_V4_URL")):
        return route_of(url.rstrip("/"), environment)
    host = (host or "gitlab.com").rstrip("/")
    return route_of(f"{host if '://' in host else f'https://{host}'}/api/v4", environment)


_PART = rf"{NO_DOTS}[A-Za-z0-9_.-]+"

SINK = SinkKind(
    title="GitLab",
    description="A CI/CD variable in a GitLab project or group.",
    options=(
        Option(
            "gitlab",
            "Project or group",
            "The path of the project or group.",
            Allowed(
                re.compile(rf"{_PART}(?:/{_PART})*"),
                "the path of a project or group, such as acme/billing",
            ),
            examples=("acme/billing",),
        ),
        Option(
            "variable",
            "Variable",
            f"The name of the variable. {DEFAULT_VARIABLE}",
            # GitLab docs, "Project-level CI/CD variables API", `key`; shells allow no digit first
            Allowed(
                re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}"),
                "up to 255 letters, digits and _, not starting with a digit",
            ),
            examples=("TWENTY_KEY",),
        ),
    ),
    address=lambda values: GitlabAddress(
        values.text("gitlab"), values.text("variable", values.variable)
    ),
    connect=lambda context: Gitlab(context.environ, context.wait).sink,
    server_of=lambda environ, _: _route(environ).base,
)
