"""The addresses of sinks, one class for each kind, as `deliver` in a manifest writes them.

An address says where a token goes, not how; `provisioner.sinks` opens the sink. Every placeholder
is filled in, so two keys with the same `place` would overwrite each other's token.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class FileAddress:
    """A variable of a dotenv file, a member of a JSON object, or a whole file.

    Attributes:
        path: as written; a relative one starts at the parent of the manifests directory.
        variable: empty for a `bare` file, which contains only a token.
    """

    path: str
    variable: str
    format: Literal["dotenv", "json", "bare"] = "dotenv"

    @property
    def file(self) -> str:
        """Return the normalized path; it does not resolve links or the root directory."""
        normal = posixpath.normpath(self.path)
        # POSIX lets each system decide on two leading slashes; here they count as one.
        return f"/{normal.lstrip('/')}" if normal.startswith("/") else normal

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place, which can hold only one token."""
        return ("file", self.file, self.variable)

    def __str__(self) -> str:
        return f"file {self.path} {self.variable}".rstrip()


@dataclass(frozen=True, slots=True)
class CommandAddress:
    """A program that takes the token on its standard input.

    Attributes:
        argv: the program and its arguments, run without a shell.
        check: a program that prints the stored token, or nothing if there is none; empty if the
            sink has no such program.
    """

    argv: tuple[str, ...]
    check: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place, which can hold only one token."""
        return ("command", *self.argv)

    def __str__(self) -> str:
        return f"command {' '.join(self.argv)}"


@dataclass(frozen=True, slots=True)
class VaultAddress:
    """A field of a secret in a KV version 2 engine of HashiCorp Vault or OpenBao.

    Attributes:
        path: the path of the secret in the engine, without the mount of the engine.
    """

    mount: str
    path: str
    field: str = "token"

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place, which can hold only one token."""
        return ("vault", self.mount, self.path, self.field)

    def __str__(self) -> str:
        return f"vault {self.mount}/{self.path} {self.field}"


@dataclass(frozen=True, slots=True)
class AwsAddress:
    """A secret of AWS Secrets Manager; its text is the token.

    Attributes:
        region: None for the region of the AWS configuration.
    """

    secret: str
    region: str | None = None

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place, which can hold only one token."""
        return ("aws", self.region or "", self.secret)

    def __str__(self) -> str:
        return f"aws {self.secret}" + (f" in {self.region}" if self.region else "")


@dataclass(frozen=True, slots=True)
class GithubAddress:
    """A GitHub Actions secret of a repository, an environment of it, or an organization.

    Attributes:
        owner: the organization or user.
        repository: None for a secret of the organization.
        environment: an environment of the repository; None for a secret of the repository.
    """

    owner: str
    secret: str
    repository: str | None = None
    environment: str | None = None

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place; GitHub ignores case in all of these names."""
        parts = (self.owner, self.repository or "", self.environment or "", self.secret)
        return ("github", *(part.lower() for part in parts))

    def __str__(self) -> str:
        owner = f"{self.owner}/{self.repository}" if self.repository else self.owner
        where = f" of {self.environment}" if self.environment else ""
        return f"github {owner} {self.secret}{where}"


@dataclass(frozen=True, slots=True)
class GitlabAddress:
    """A CI/CD variable of a GitLab project or group, for all its environments.

    Attributes:
        project: the path of the project, or of the group if no project has that path.
    """

    project: str
    variable: str

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place; GitLab ignores case in paths."""
        return ("gitlab", self.project.lower(), self.variable)

    def __str__(self) -> str:
        return f"gitlab {self.project} {self.variable}"


@dataclass(frozen=True, slots=True)
class KubernetesAddress:
    """A key of a Kubernetes Secret."""

    namespace: str
    secret: str
    key: str = "token"

    @property
    def place(self) -> tuple[str, ...]:
        """Return the identity of the place, which can hold only one token."""
        return ("kubernetes", self.namespace, self.secret, self.key)

    def __str__(self) -> str:
        return f"kubernetes {self.namespace}/{self.secret} {self.key}"


Address = (
    FileAddress
    | CommandAddress
    | VaultAddress
    | AwsAddress
    | GithubAddress
    | GitlabAddress
    | KubernetesAddress
)
"""The address of a sink; equal addresses are the same place."""
