"""The source that the installer recorded, and the commands that are made from it."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from provisioner.runtime.source import (
    Commit,
    Repository,
    extra_remedy,
    installed_source,
    parse_repository,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.fast

REVISION = "89abcdef" * 5
GIT = {"vcs": "git", "commit_id": REVISION}
DIGEST = "0f" * 32
REPOSITORY = Repository("github.com", "tools/provision")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that records how the tool was installed, as installers do."""
    folder = tmp_path / "twenty_provisioner-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: twenty-provisioner\nVersion: 1")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    def record(document: object, *, installer: str = "pip", marker: str | None = None) -> None:
        (folder / "direct_url.json").write_text(
            document if isinstance(document, str) else json.dumps(document)
        )
        (folder / "INSTALLER").write_text(f"{installer}\n")
        if marker is not None:
            (tmp_path / marker).touch()

    return record


@pytest.mark.parametrize(
    ("url", "repository"),
    [
        ("https://github.com/acme/keys.git", ("github.com", "acme/keys")),
        ("https://u:p@GitHub.com:443/acme/keys/", ("github.com", "acme/keys")),
        ("ssh://git@gitlab.example:2222/a/b/c", ("gitlab.example", "a/b/c")),
        ("git@github.com-work:acme/keys.git", ("github.com-work", "acme/keys")),
        ("host.example:keys", ("host.example", "keys")),
        ("file:///srv/keys.git", None),
        ("/srv/keys.git", None),
        ("../keys", None),
        ("C:\\keys", None),
        ("https://[broken/keys", None),
        ("", None),
    ],
)
def test_addresses_of_git_are_understood(url: str, repository: tuple[str, str] | None) -> None:
    """URLs and the short form of ssh name a server; a path or a drive does not."""
    assert parse_repository(url) == repository


@pytest.mark.parametrize(
    ("document", "address", "commit"),
    [
        (
            {"url": "https://github.com/tools/provision.git", "vcs_info": GIT},
            f"git+https://github.com/tools/provision.git@{REVISION}",
            Commit(REPOSITORY, REVISION),
        ),
        (
            {
                "url": "https://robot:s3cret@github.com/tools/provision?token=s3cret#s3cret",
                "vcs_info": GIT | {"requested_revision": "v1.2.0"},
            },
            f"git+https://github.com/tools/provision@{REVISION}",
            Commit(REPOSITORY, REVISION, "v1.2.0"),
        ),
        (
            {
                "url": "ssh://git:s3cret@github.com/tools/provision",
                "vcs_info": GIT | {"requested_revision": "main"},
            },
            f"git+ssh://git@github.com/tools/provision@{REVISION}",
            Commit(REPOSITORY, REVISION),
        ),
        (
            {"url": "file:///srv/a b/$(x)`y`", "vcs_info": GIT},
            f"git+file:///srv/a%20b/%24%28x%29%60y%60@{REVISION}",
            None,
        ),
        ({"url": "file:///srv/clone", "dir_info": {"editable": True}}, "file:///srv/clone", None),
        (
            {
                "url": "https://u:s3cret@host.example/t-1-py3-none-any.whl?sig=s3cret",
                "archive_info": {"hashes": {"sha256": DIGEST}},
            },
            f"https://host.example/t-1-py3-none-any.whl#sha256={DIGEST}",
            None,
        ),
        ({"url": "file:///t-1.tar.gz", "archive_info": {}}, "file:///t-1.tar.gz", None),
    ],
)
def test_each_kind_of_source_becomes_one_requirement(
    installed, document: dict[str, object], address: str, commit: Commit | None
) -> None:
    """It is pinned, pip's own library parses it, and no credential is in it."""
    installed(document)
    assert installed_source() == (address, commit)
    remedy = extra_remedy("aws")
    assert "s3cret" not in remedy
    *command, requirement = shlex.split(remedy.removesuffix("."))[3:]
    assert command == ["pip", "install"]
    parsed = Requirement(requirement)
    assert (parsed.name, parsed.extras, parsed.url) == ("twenty-provisioner", {"aws"}, address)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "[]",
        "{}",
        {"url": "https://[broken", "dir_info": {}},
        {"url": "https://h.example/x", "vcs_info": {"vcs": "hg", "commit_id": "1"}},
    ],
)
def test_an_unknown_source_leads_to_the_repository(installed, document: object) -> None:
    """No command names the distribution, because an index would decide what it is."""
    installed(document)
    assert installed_source() is None
    remedy = extra_remedy("socks")
    assert "twenty-provisioner" not in remedy
    assert all(word in remedy for word in ("repository", "`socks`", "docs/adopting.md"))


@pytest.mark.parametrize(
    ("installer", "marker", "command"),
    [
        ("pip", None, "pip install"),
        ("uv", None, "uv pip install"),
        ("pip", "pipx_metadata.json", "pipx install --force"),
        ("uv", "uv-receipt.toml", "uv tool install --force"),
    ],
)
def test_the_command_is_that_of_the_installer(
    installed, installer: str, marker: str | None, command: str
) -> None:
    """An application of pipx or uv is installed again, because pip cannot reach into it."""
    installed({"url": "file:///x", "dir_info": {}}, installer=installer, marker=marker)
    expected = f'Install it with {command} "twenty-provisioner[dask] @ file:///x".'
    assert extra_remedy("dask") == expected
