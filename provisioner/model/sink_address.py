"""Where a token is delivered, as a manifest writes it: the address of each kind of sink.

An address says where and nothing of how; `provisioner.sinks` opens what stands there. Every
placeholder is filled in, so that two keys with one `place` would overwrite each other's token.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class FileAddress:
    """One variable of a dotenv file, one member of a JSON object, or a whole file.

    Attributes:
        path: as written; a relative one stands at the parent of the manifests directory.
        variable: empty for a `bare` file, which holds a token and nothing else.
    """

    path: str
    variable: str
    format: Literal["dotenv", "json", "bare"] = "dotenv"

    @property
    def file(self) -> str:
        """The path without detours, equal for all ways to write it but links and the root."""
        normal = posixpath.normpath(self.path)
        # POSIX leaves two leading slashes to each system; here they are one.
        return f"/{normal.lstrip('/')}" if normal.startswith("/") else normal

    @property
    def place(self) -> tuple[str, ...]:
        """What can hold one token only."""
        return ("file", self.file, self.variable)

    def __str__(self) -> str:
        return f"file {self.path} {self.variable}".rstrip()


@dataclass(frozen=True, slots=True)
class CommandAddress:
    """A program that takes the token on its standard input.

    Attributes:
        argv: the program and its arguments, run without a shell.
        check: a program that prints the token, and nothing where there is none; empty for none.
    """

    argv: tuple[str, ...]
    check: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, ...]:
        """What can hold one token only."""
        return ("command", *self.argv)

    def __str__(self) -> str:
        return f"command {' '.join(self.argv)}"


@dataclass(frozen=True, slots=True)
class VaultAddress:
    """One field of a secret in a KV version 2 engine of HashiCorp Vault or OpenBao.

    Attributes:
        path: of the secret in the engine, without the engine's mount.
    """

    mount: str
    path: str
    field: str = "token"

    @property
    def place(self) -> tuple[str, ...]:
        """What can hold one token only."""
        return ("vault", self.mount, self.path, self.field)

    def __str__(self) -> str:
        return f"vault {self.mount}/{self.path} {self.field}"


@dataclass(frozen=True, slots=True)
class AwsAddress:
    """A secret of AWS Secrets Manager, whose text is the token.

    Attributes:
        region: None for the one that the AWS configuration names.
    """

    secret: str
    region: str | None = None

    @property
    def place(self) -> tuple[str, ...]:
        """What can hold one token only."""
        return ("aws", self.region or "", self.secret)

    def __str__(self) -> str:
        return f"aws {self.secret}" + (f" in {self.region}" if self.region else "")


@dataclass(frozen=True, slots=True)
class GithubAddress:
    """A GitHub Actions secret of a repository, of one of its environments or an organisation.

    Attributes:
        owner: the organisation or user.
        repository: None for a secret of the organisation.
        environment: of the repository, None for the repository's own secret.
    """

    owner: str
    secret: str
    repository: str | None = None
    environment: str | None = None

    @property
    def place(self) -> tuple[str, ...]:
        """What can hold one token only; GitHub knows no case in any of these."""
        parts = (self.owner, self.repository or "", self.environment or "", self.secret)
        return ("github", *(part.lower() for part in parts))

    def __str__(self) -> str:
        owner = f"{self.owner}/{self.repository}" if self.repository else self.owner
        where = f" of {self.environment}" if self.environment else ""
        return f"github {owner} {self.secret}{where}"


@dataclass(frozen=True, slots=True)
class GitlabAddress:
    """A CI/CD variable of a GitLab project or group, for all of its environments.

    Attributes:
        project: the path of the project, or of the group where no project has it.
    """

    project: str
    variable: str

    @property
    def place(self) -> tuple[str, ...]:
        """What can hold one token only; GitLab knows no case in paths."""
        return ("gitlab", self.project.lower(), self.variable)

    def __str__(self) -> str:
        return f"gitlab {self.project} {self.variable}"


@dataclass(frozen=True, slots=True)
class KubernetesAddress:
    """One key of a Kubernetes Secret."""

    namespace: str
    secret: str
    key: str = "token"

    @property
    def place(self) -> tuple[str, ...]:
        """What can hold one token only."""
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
"""Where one key's token goes; equal addresses are one place."""
