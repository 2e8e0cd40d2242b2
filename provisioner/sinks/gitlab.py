"""GitLab CI/CD variables of projects and groups.

Sources: "Project-level CI/CD variables API", "Group-level Variables API", "Projects API"
(archived), "GitLab CI/CD variables" (masking, keys), the environment variables of `glab`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provisioner.secret import Secret
from provisioner.sinks.http import Api, Grant, Once, Reply, Route, route_of, segment, unexpected
from provisioner.sinks.sink import Content, Empty, StoredValue, WriteOnly, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from provisioner.model.sink_address import Address, GitlabAddress

_KEY = re.compile(r"[A-Za-z0-9_]{1,255}", re.ASCII)
_EVERYWHERE = "*"
_QUERY = f"?filter[environment_scope]={segment(_EVERYWHERE)}"
_ON = {"masked": True, "protected": True, "raw": True}


@dataclass(frozen=True, slots=True)
class _Container:
    """A project or group.

    Attributes:
        path: below the interface.
        archived: whether GitLab says that nothing in it may be changed.
    """

    path: str
    archived: bool


class Gitlab:
    """The variables that one access token may write.

    Relies on: `filter[environment_scope]` tells the variables of one key apart, but older
    servers take no notice of it for groups; a `hidden` variable shows no value; a value that
    cannot be masked is refused with 400 ("Project-level CI/CD variables API").

    Args:
        environment: `GITLAB_TOKEN`, an access token of a user, project or group; the server from
            the first of `GITLAB_API_URL`, `GITLAB_HOST`, `GITLAB_URI`, `GL_HOST` and, in a
            pipeline, `CI_API_V4_URL`, else gitlab.com.
        wait: waits so many seconds.
    """

    def __init__(
        self, environment: Mapping[str, str], wait: Callable[[float], None] = time.sleep
    ) -> None:
        token = environment.get("GITLAB_TOKEN", "").strip()
        self._token = Secret(token) if token else None
        fixed = {"Accept": "application/json"}
        self._api = Api(_route(environment), self._grant, fixed, wait)
        self._containers: Once[_Container] = Once()

    def sink(self, address: GitlabAddress) -> GitlabVariable:
        """The sink of an address; nothing is sent yet."""
        return GitlabVariable(self._api, self._containers, address)

    def _grant(self, address: Address) -> Grant:
        if self._token is None:
            raise failed(
                "sink_denied",
                f"{address} cannot be used: there is no token for GitLab.",
                "Set GITLAB_TOKEN to an access token with the scope api.",
            )
        return Grant({"PRIVATE-TOKEN": self._token})


class GitlabVariable:
    """One variable, for all environments; made by `Gitlab`."""

    def __init__(self, api: Api, containers: Once[_Container], address: GitlabAddress) -> None:
        self._api = api
        self._containers = containers
        self._address = address

    def check(self) -> None:
        """Reads the variable, and whether its project is archived.

        Whether it may be written GitLab does not tell otherwise.
        """
        if not _KEY.fullmatch(self._address.variable):
            raise failed(
                "sink_unsuitable",
                f"{self._address} cannot be used: GitLab takes no such key.",
                "Name the variable with letters, digits and _, 255 at most.",
            )
        if self._container.archived:
            raise failed(
                "sink_unsuitable",
                f"{self._address} cannot be used: the project is archived.",
                "Unarchive the project, or deliver elsewhere.",
            )
        self._get()

    def read(self) -> Content:
        """The value, or that it is hidden."""
        reply = self._get()
        if reply is None:
            return Empty()
        value = reply.body.get("value")
        return StoredValue(Secret.received(value)) if isinstance(value, str) else WriteOnly()

    def write(self, token: Secret) -> None:
        """Creates or updates the variable, masked and protected whatever it was."""
        reply = self._post(token) if self._get() is None else self._put(token)
        if _taken(reply):  # by another run, or by a create of ours whose answer was lost
            reply = self._put(token)
        if reply.status in (200, 201):
            return
        if "value" in _complaints(reply):
            raise failed(
                "sink_unsuitable",
                f"{self._address} cannot be used: GitLab cannot mask this token.",
                "Deliver it elsewhere, since jobs would print it.",
            )
        raise unexpected(self._address, reply)

    def _get(self) -> Reply | None:
        """The variable for all environments; None where there is none."""
        reply = self._api.call(self._address, "GET", self._path)
        if reply.status == 404:  # noqa: PLR2004 - not found
            return None
        if reply.status != 200:  # noqa: PLR2004 - found
            raise unexpected(self._address, reply)
        if reply.body.get("environment_scope", _EVERYWHERE) != _EVERYWHERE:
            raise failed(
                "sink_unsuitable",
                f"{self._address} cannot be used: this GitLab cannot tell it from the variable of "
                "the same key for one environment.",
                "Use another key, or a newer GitLab.",
            )
        return reply

    def _post(self, token: Secret) -> Reply:
        body = {
            "key": self._address.variable,
            "value": token.reveal(),
            "variable_type": "env_var",
            **_ON,
        }
        return self._api.call(self._address, "POST", f"{self._container.path}/variables", body)

    def _put(self, token: Secret) -> Reply:
        return self._api.call(self._address, "PUT", self._path, {"value": token.reveal(), **_ON})

    @property
    def _path(self) -> str:
        return f"{self._container.path}/variables/{segment(self._address.variable)}{_QUERY}"

    @property
    def _container(self) -> _Container:
        return self._containers.get(self._address.project, self._find)

    def _find(self) -> _Container:
        for kind in ("projects", "groups"):
            path = f"/{kind}/{segment(self._address.project)}"
            reply = self._api.call(self._address, "GET", path)
            if reply.status == 200:  # noqa: PLR2004 - found
                return _Container(path, archived=reply.body.get("archived") is True)
            if reply.status != 404:  # noqa: PLR2004 - not found
                raise unexpected(self._address, reply)
        raise failed(
            "sink_missing",
            f"{self._address} cannot be used: GitLab shows this token no such project or group.",
            "Check its path, and that the token belongs to a member.",
        )


def _complaints(reply: Reply) -> Mapping[str, Any]:
    """What GitLab refuses, by the name of the attribute."""
    message = reply.body.get("message")
    return message if reply.status == 400 and isinstance(message, dict) else {}  # noqa: PLR2004 - refused


def _taken(reply: Reply) -> bool:
    return "taken" in str(_complaints(reply).get("key"))


def server_of(environment: Mapping[str, str]) -> str:
    """Return the address of the interface."""
    return _route(environment).base


def _route(environment: Mapping[str, str]) -> Route:
    """The server that someone names before the one whose pipeline this is."""
    if url := environment.get("GITLAB_API_URL"):
        return route_of(url.rstrip("/"), environment)
    hosts = map(environment.get, ("GITLAB_HOST", "GITLAB_URI", "GL_HOST"))
    host = next(filter(None, hosts), None)
    if host is None and (url := environment.get("CI_API_V4_URL")):
        return route_of(url.rstrip("/"), environment)
    host = (host or "gitlab.com").rstrip("/")
    return route_of(f"{host if '://' in host else f'https://{host}'}/api/v4", environment)
