"""Restrictions for pull requests: hostile files in a checkout, with real processes and git."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import processes
import pytest

if TYPE_CHECKING:
    from pathlib import Path

CREDENTIAL = "credential-of-this-very-run"
RESTRICTED = (("plan",), ("doctor",), ("report",), ("apply", "--no-programs"))
"""The commands that a workflow runs for a pull request (for `auto`, see test_action.py)."""

ENVIRONMENTS = "version: 1\nenvironments:\n  dev: {url: 'sandbox:', role: Admin}\n"
KEYS = """\
version: 1
environment: dev
defaults: {{expires: 90d}}
keys:
  - name: a
    deliver: [{sink}]
"""


@dataclass(frozen=True)
class Checkout:
    """A checked-out pull request.

    Attributes:
        folder: the work tree.
        marker: a file that a forbidden program writes if it runs.
    """

    folder: Path
    marker: Path

    def write(self, sink: str, environments: str = ENVIRONMENTS) -> None:
        """Write the manifests of the pull request."""
        manifests = self.folder / "manifests"
        manifests.mkdir(exist_ok=True)
        (manifests / "environments.yaml").write_text(environments)
        (manifests / "keys.yaml").write_text(KEYS.format(sink=sink))

    def program(self, name: str, then: str = "") -> Path:
        """Write a program that writes its variables to the marker."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\nenv >> '{self.marker}'\n{then}\n")
        file.chmod(0o755)
        return file

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run provision at the root of the checkout, with a credential among its variables."""
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        env = {**own, "TWENTY_TOKEN": CREDENTIAL, **variables}
        return processes.provision(*arguments, cwd=self.folder, env=env, timeout=100)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Return a new work tree that ignores the files of its sinks."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "checkout"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    (folder / ".gitignore").write_text("*.env\n.provision/\n")
    return Checkout(folder, tmp_path / "marker")


# A bare repository in the folder of a sink


def bare_repository(checkout: Checkout, folder: str) -> None:
    """Create a bare repository whose configuration names a program as file system monitor."""
    repository = checkout.folder / folder
    subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], check=True)
    checkout.program(f"{folder}/monitor")
    (repository / "config").write_text(
        "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tworktree = .\n"
        "\tfsmonitor = ./monitor\n\thooksPath = .\n\texcludesFile = everything\n"
    )
    (repository / "everything").write_text("*\n")


@pytest.mark.parametrize("command", [*RESTRICTED, ("apply",)], ids=" ".join)
def test_a_bare_repository_in_the_folder_of_a_sink_runs_nothing(checkout, command):
    """Git does not run its `core.fsmonitor`, which would see all variables of the run."""
    bare_repository(checkout, "secrets")
    checkout.write("{file: secrets/a.env}")
    token = checkout.folder / "secrets" / "a.env"
    first = checkout.run(*command)
    assert first.returncode == 0, first.stdout + first.stderr
    assert not checkout.marker.exists(), checkout.marker.read_text()
    assert token.exists() == (command[0] == "apply")
    assert checkout.run("apply").returncode == 0  # a sink is only read if its key exists
    checkout.marker.unlink(missing_ok=True)
    process = checkout.run(*command)
    assert process.returncode == 0, process.stdout + process.stderr
    assert not checkout.marker.exists(), checkout.marker.read_text()


def test_a_bare_repository_cannot_ignore_a_file_for_the_checkout(checkout):
    """Its `core.excludesFile` is not used, so a token that git would track is not written."""
    bare_repository(checkout, "secrets")
    checkout.write("{file: secrets/a.txt}")
    process = checkout.run("apply")
    assert process.returncode == 4
    assert "does not ignore it" in process.stdout + process.stderr
    assert not (checkout.folder / "secrets" / "a.txt").exists()
    assert not checkout.marker.exists()


def test_a_repository_inside_the_checkout_runs_nothing(checkout):
    """Git does not run the `core.fsmonitor` of a repository inside the checkout either."""
    inner = checkout.folder / "secrets"
    subprocess.run(["git", "init", "--quiet", str(inner)], check=True)
    monitor = checkout.program("monitor")
    with (inner / ".git" / "config").open("a") as config:
        config.write(f"[core]\n\tfsmonitor = {monitor}\n")
    for folder, ignored in ((inner, "*.env\n"), (checkout.folder, "secrets\n")):
        (folder / ".gitignore").write_text(ignored)
    checkout.write("{file: secrets/a.env}")
    process = checkout.run("apply")
    assert process.returncode == 0, process.stdout + process.stderr
    assert not checkout.marker.exists(), checkout.marker.read_text()


def test_a_bare_repository_with_an_empty_git_folder_is_not_trusted(checkout):
    """It looks like a work tree, but its ignore rules are not used."""
    bare_repository(checkout, "secrets")
    (checkout.folder / "secrets" / ".git").mkdir()
    (checkout.folder / ".gitignore").write_text("secrets\n")
    checkout.write("{file: secrets/a.txt}")
    process = checkout.run("apply")
    assert process.returncode == 4, process.stdout + process.stderr
    assert "git cannot tell" in process.stdout + process.stderr
    assert not checkout.marker.exists(), checkout.marker.read_text()


def test_git_gets_no_variable_of_the_run(checkout, tmp_path):
    """Git gets only harmless variables, without the credentials of the run."""
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    arguments_file = tmp_path / "arguments"
    fake.write_text(
        f"#!/bin/sh\nenv > '{checkout.marker}'\necho \"$@\" > '{arguments_file}'\nexit 0\n"
    )
    fake.chmod(0o755)
    checkout.write("{file: secrets/a.env}")
    process = checkout.run("plan", PATH=f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    assert process.returncode == 0, process.stderr
    names = {line.partition("=")[0] for line in checkout.marker.read_text().splitlines()}
    ours = {"GIT_CEILING_DIRECTORIES", "GIT_ALLOW_PROTOCOL", "GIT_NO_LAZY_FETCH"}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH", "HOME", *ours}
    assert f"-c core.hooksPath={os.devnull}" in arguments_file.read_text()


def test_a_git_of_the_checkout_is_not_run(checkout):
    """An empty entry in `PATH` does not make the run use the pull request's own `git`."""
    checkout.program("git")
    checkout.write("{file: secrets/a.env}")
    process = checkout.run("plan", PATH=f"{os.pathsep}{os.environ['PATH']}")
    assert process.returncode == 0, process.stderr
    assert not checkout.marker.exists()


# What the workflow allows


ELSEWHERE = """\
version: 1
environments:
  dev: {{url: 'http://127.0.0.1:{port}', auth: {{{auth}}}, role: Admin}}
"""


@pytest.mark.parametrize("command", [*RESTRICTED, ("list",)], ids=" ".join)
@pytest.mark.parametrize("auth", ["token: '${TWENTY_TOKEN}'", "token_file: not-there"])
def test_a_changed_url_gets_no_credential(checkout, listener, command, auth):
    """If the workflow does not allow the host, no credential is read and nothing is sent."""
    checkout.write("{file: a.env}", ELSEWHERE.format(port=listener.port, auth=auth))
    process = checkout.run(*command, "--allow-host", "crm.example.com")
    assert process.returncode == 5, process.stderr
    assert "host_not_allowed" in process.stderr
    assert "manifests/environments.yaml line 3" in process.stderr
    assert listener.heard == []


@pytest.mark.parametrize(
    "command",
    [
        *(("rotate", "a"), ("revoke", "a"), ("export",)),
        *(("token", "a", "--to", "t"), ("create", "--body", "body.json")),
    ],
    ids=" ".join,
)
def test_every_command_that_opens_a_workspace_checks_the_host(checkout, listener, command):
    """Every command that opens a workspace obeys PROVISION_ALLOW_HOST."""
    auth = "token: '${TWENTY_TOKEN}'"
    checkout.write("{file: a.env}", ELSEWHERE.format(port=listener.port, auth=auth))
    (checkout.folder / "body.json").write_text("[]")
    process = checkout.run(*command, PROVISION_ALLOW_HOST="crm.example.com *.example.org")
    assert (process.returncode, "host_not_allowed" in process.stderr) == (5, True), process.stderr
    assert listener.heard == []


def test_an_allowed_host_is_reached(checkout, listener):
    """The same run with the right glob reaches the server, so the tests above can fail."""
    auth = "token: '${TWENTY_TOKEN}'"
    checkout.write("{file: a.env}", ELSEWHERE.format(port=listener.port, auth=auth))
    process = checkout.run("doctor", "--allow-host", f"127.0.*:{listener.port}")
    assert process.returncode == 4
    assert any(CREDENTIAL.encode() in request for request in listener.heard)


@pytest.mark.parametrize("command", RESTRICTED, ids=" ".join)
def test_the_environments_of_the_protected_branch_are_used(checkout, listener, tmp_path, command):
    """With `--environments`, the environments of the checkout are not read."""
    auth = "token: '${TWENTY_TOKEN}'"
    checkout.write("{file: a.env}", ELSEWHERE.format(port=listener.port, auth=auth))
    protected = tmp_path / "protected.yaml"
    protected.write_text(ENVIRONMENTS)
    process = checkout.run(*command, "--environments", str(protected))
    assert process.returncode == 0, process.stdout + process.stderr
    assert listener.heard == []
    lost = checkout.run(*command, "--environments", str(tmp_path / "lost.yaml"))
    assert (lost.returncode, "environments_missing" in lost.stdout + lost.stderr) == (3, True)


@pytest.mark.parametrize("command", RESTRICTED, ids=" ".join)
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ("auth: {token_file: lent}", "secret_file_unreadable"),
        ("auth: {email: '${WHO}', password_file: lent}", "secret_file_unreadable"),
        ("auth: {token: '${TWENTY_TOKEN}'}, ca_file: lent", "ca_file_unreadable"),
    ],
    ids=["token_file", "password_file", "ca_file"],
)
def test_protected_environments_do_not_read_files_of_the_checkout(
    checkout, listener, tmp_path, command, fields, code
):
    """Files of the checkout are not used as credentials or certificate authorities."""
    for folder in (checkout.folder, checkout.folder / "manifests"):
        folder.mkdir(exist_ok=True)
        (folder / "lent").write_text("of-the-pull-request")
    checkout.write("{file: a.env}")
    protected = tmp_path / "protected" / "environments.yaml"
    protected.parent.mkdir()
    url = f"http://127.0.0.1:{listener.port}"
    protected.write_text(f"version: 1\nenvironments: {{dev: {{url: '{url}', {fields}}}}}\n")
    variables = {"PROVISION_ENVIRONMENTS": "../protected/environments.yaml", "WHO": "a@b.example"}
    process = checkout.run(*command, **variables)
    assert (process.returncode, code in process.stderr) == (3, True), process.stderr
    assert listener.heard == []


def test_files_beside_the_protected_environments_are_read(checkout, listener, tmp_path):
    """Relative paths are relative to the folder of the protected file."""
    checkout.write("{file: a.env}")
    (checkout.folder / "token").write_text("of-the-pull-request")
    protected = tmp_path / "protected" / "environments.yaml"
    protected.parent.mkdir()
    protected.write_text(ELSEWHERE.format(port=listener.port, auth="token_file: token"))
    (protected.parent / "token").write_text(CREDENTIAL)
    process = checkout.run("doctor", "--environments", "../protected/environments.yaml")
    assert process.returncode == 4, process.stderr
    assert any(CREDENTIAL.encode() in request for request in listener.heard)
    assert not any(b"of-the-pull-request" in request for request in listener.heard)


def test_validate_reads_the_protected_environments(checkout, tmp_path):
    """`validate` uses the protected environments, like `plan`, not those of the pull request."""
    checkout.write("{file: a.env}", "version: 2\n")
    protected = tmp_path / "protected.yaml"
    protected.write_text(ENVIRONMENTS)
    assert checkout.run("validate").returncode == 3
    process = checkout.run("validate", "--environments", str(protected))
    assert (process.returncode, "1 key in 1 environment" in process.stdout) == (0, True), (
        process.stdout
    )
    single = checkout.run("validate", "manifests/keys.yaml", PROVISION_ENVIRONMENTS=str(protected))
    assert (single.returncode, "1 key in 1 environment" in single.stdout) == (0, True), (
        single.stdout
    )
    protected.write_text(ENVIRONMENTS.replace("dev:", "staging:"))
    lost = checkout.run("validate", "--environments", str(protected))
    assert (lost.returncode, "environment_unknown" in lost.stdout) == (3, True), lost.stdout
    assert checkout.run("validate", PROVISION_ENVIRONMENTS="").returncode == 64


@pytest.mark.parametrize("command", [*RESTRICTED, ("list",), ("export",)], ids=" ".join)
@pytest.mark.parametrize(
    "change", ["url", "notify", "check", "folder", "arguments", "line end", "problem"]
)
def test_a_change_that_reaches_something_new_is_refused(
    checkout, listener, tmp_path, command, change
):
    """A change that reaches something new is refused: no program runs, no credential is sent."""
    for name in ("take", "check"):
        checkout.program(name)
    base = tmp_path / "base"
    sink = "{command: [./take, '{name}']}"
    checkout.write(sink)
    shutil.copytree(checkout.folder / "manifests", base)
    manifest = checkout.folder / "manifests" / "keys.yaml"
    match change:
        case "url":
            auth = "token: '${TWENTY_TOKEN}'"
            checkout.write(sink, ELSEWHERE.format(port=listener.port, auth=auth))
        case "notify":
            hook = "[{webhook: '${HOOK:-}'}, {command: [./take]}]"
            (manifest.parent / "environments").mkdir()
            (manifest.parent / "environments" / "more.yaml").write_text(
                f"version: 1\nnotify: {hook}\nenvironments: {{other: {{url: 'sandbox:'}}}}\n"
            )
        case "check":
            checkout.write("{command: [./take], check: [./check]}")
        case "folder":
            (manifest.parent / "team").mkdir()
            other = KEYS.format(sink="{vault: secret/a}").replace("name: a", "name: b")
            (manifest.parent / "team" / "more.yml").write_text(other)
        case "arguments":
            manifest.write_text(manifest.read_text().replace("name: a", "name: b"))
        case "line end":
            # For YAML 1.1 the line ends here, and what follows is not valid YAML.
            checkout.write("{file: other.env}")
            manifest.write_text("# \x85]}: [\n" + manifest.read_text(), "utf-8")
        case _:
            manifest.write_text(manifest.read_text() + "  - {name: [\n")
    process = checkout.run(*command, "--against", str(base))
    if change == "problem" and command[0] not in {"list", "export", "doctor"}:
        assert process.returncode == 3
    else:
        assert (process.returncode, "change_unreviewed" in process.stderr) == (5, True), (
            process.stderr
        )
    assert listener.heard == []
    assert not checkout.marker.exists()


def test_a_change_that_reaches_nothing_new_is_planned(checkout, tmp_path):
    """A new key with a known sink, and one sink less, can be planned."""
    base = tmp_path / "base"
    checkout.write("{file: a.env}, {file: b.env}")
    assert checkout.run("plan", "--against", str(base)).returncode == 5
    shutil.copytree(checkout.folder / "manifests", base)
    more = KEYS.format(sink="{file: c.env}").replace("name: a", "name: z")
    (base / "more.yaml").write_text(more)
    manifest = checkout.folder / "manifests" / "keys.yaml"
    manifest.write_text(manifest.read_text() + "  - name: c\n")
    process = checkout.run("plan", PROVISION_AGAINST=str(base))
    assert (process.returncode, "2 to create" in process.stdout) == (0, True), process.stderr
    assert checkout.run("plan", PROVISION_AGAINST="").returncode == 64


@pytest.mark.parametrize("command", RESTRICTED, ids=" ".join)
def test_a_new_check_is_not_run(checkout, command):
    """Neither a new check nor its command is run, so nothing is delivered to it."""
    checkout.write("{command: [./take], check: [./check]}")
    applied = checkout.run("apply", "--no-programs")
    assert (applied.returncode, "program_not_run" in applied.stdout) == (4, True), applied.stdout
    checkout.program("take")
    checkout.program("check")
    process = checkout.run(*dict.fromkeys((*command, "--no-programs")), "--format", "json")
    assert not checkout.marker.exists()
    expected = "program_not_run" if command[0] in {"plan", "apply"} else "not run"
    assert process.returncode == (0 if command[0] in {"doctor", "report"} else 4), process.stderr
    assert expected in process.stdout or command == ("report",)


def test_the_check_of_a_live_key_is_unknown_and_not_run(checkout):
    """The check of a live key is not run; its sink is a `delivery_unknown` finding."""
    checkout.program("take", "cat > ../store")
    checkout.program("check", "cat ../store 2> /dev/null")
    checkout.write("{command: [./take], check: [./check]}")
    assert checkout.run("apply").returncode == 0
    assert checkout.marker.exists()
    checkout.marker.unlink()
    planned = checkout.run("plan", "--format", "json", PROVISION_NO_PROGRAMS="1")
    assert planned.returncode == 0, planned.stdout
    assert '"delivery_unknown"' in planned.stdout
    assert not checkout.marker.exists()


def test_the_credential_plugin_of_a_kubeconfig_is_not_run(checkout, listener):
    """With `--no-programs` a credential plugin is not run, and the cluster gets no request."""
    plugin = checkout.program("plugin")
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{listener.port}"}}],
        "users": [
            {
                "name": "u",
                "user": {
                    "exec": {
                        "apiVersion": "client.authentication.k8s.io/v1",
                        "command": str(plugin),
                    }
                },
            }
        ],
    }
    (checkout.folder / "kubeconfig").write_text(json.dumps(config))
    checkout.write("{kubernetes: shop/twenty}")
    variables = {"KUBECONFIG": str(checkout.folder / "kubeconfig")}
    for command in ("plan", "doctor", "report", "apply"):
        process = checkout.run(command, "--no-programs", **variables)
        assert process.returncode in {0, 4}, process.stderr
        assert not checkout.marker.exists(), command
    refused = checkout.run("plan", "--allow-host", "k8s.example.com", **variables)
    assert (refused.returncode, "host_not_allowed" in refused.stderr) == (5, True)
    assert listener.heard == []
    checkout.run("plan", **variables)
    assert checkout.marker.exists()


@pytest.mark.parametrize("file", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "HOME"])
def test_the_credential_process_of_aws_is_not_run(checkout, listener, tmp_path, file):
    """With `--no-programs` a `credential_process` of any file is not run; AWS gets no request."""
    program = checkout.program("process")
    folder = tmp_path / "home" / ".aws"
    folder.mkdir(parents=True)
    (folder / "config").write_text(f"[default]\ncredential_process = {program}\n")
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listener.port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "HOME": str(tmp_path / "home" if file == "HOME" else tmp_path),
    }
    if file != "HOME":
        variables[file] = str(folder / "config")
    checkout.write("{aws: a, region: eu-central-1}")
    for command in ("plan", "doctor", "report", "apply", "plan"):
        process = checkout.run(command, "--no-programs", **variables)
        assert process.returncode in {0, 4}, process.stderr
        assert ("program_not_run" in process.stdout) == (command in {"plan", "apply"})
        assert not checkout.marker.exists(), command
    assert listener.heard == []
    checkout.run("plan", **variables)
    assert checkout.marker.exists()


@pytest.mark.parametrize("command", RESTRICTED, ids=" ".join)
@pytest.mark.parametrize(
    ("sink", "variables"),
    [
        ("{vault: secret/a}", {"VAULT_ADDR": "URL", "VAULT_TOKEN": CREDENTIAL}),
        ("{github: acme/keys, secret: A}", {"GITHUB_API_URL": "URL", "GH_TOKEN": CREDENTIAL}),
        ("{gitlab: acme/keys, variable: A}", {"GITLAB_HOST": "URL", "GITLAB_TOKEN": CREDENTIAL}),
        (
            "{aws: a, region: eu-central-1}",
            {
                "AWS_ENDPOINT_URL": "URL",
                "AWS_ACCESS_KEY_ID": "x",
                "AWS_SECRET_ACCESS_KEY": CREDENTIAL,
            },
        ),
    ],
    ids=["vault", "github", "gitlab", "aws"],
)
def test_the_host_of_a_sink_is_checked(checkout, listener, command, sink, variables):
    """A sink on a forbidden host gets no request; the embedded Twenty is always allowed."""
    url = f"http://127.0.0.1:{listener.port}"
    checkout.write(sink)
    environment = {name: url if value == "URL" else value for name, value in variables.items()}
    process = checkout.run(*command, "--allow-host", "vault.example.com", **environment)
    assert (process.returncode, "host_not_allowed" in process.stderr) == (5, True), process.stderr
    assert listener.heard == []


@pytest.mark.parametrize("command", RESTRICTED, ids=" ".join)
@pytest.mark.parametrize(
    "sink",
    [
        "{command: [./take], check: [./check]}",
        "{file: other/a.env}",
        "{file: secrets/../other/a.env}",
        "{file: secrets/link.env}",
    ],
)
def test_a_forbidden_sink_is_not_opened(checkout, command, sink):
    """No program of a forbidden sink runs and no file is written, also through a link."""
    checkout.program("take")
    checkout.program("check")
    for folder in ("secrets", "other"):
        (checkout.folder / folder).mkdir()
    (checkout.folder / "secrets" / "link.env").symlink_to("../other/a.env")
    checkout.write(sink)
    process = checkout.run(*command, "--allow-sink", "file:secrets/*", "--allow-sink", "vault")
    assert (process.returncode, "sink_not_allowed" in process.stderr) == (5, True), process.stderr
    assert not checkout.marker.exists()
    assert list((checkout.folder / "other").iterdir()) == []


def test_an_allowed_sink_is_opened(checkout):
    """A sink is opened if one of several rules allows it."""
    checkout.write("{file: secrets/a.env}")
    process = checkout.run("apply", PROVISION_ALLOW_SINK="vault file:secrets/*")
    assert process.returncode == 0, process.stdout + process.stderr
    assert (checkout.folder / "secrets" / "a.env").exists()


@pytest.mark.parametrize(
    "name", ["ENVIRONMENTS", "AGAINST", "ALLOW_HOST", "NO_PROGRAMS", "ALLOW_SINK"]
)
def test_an_empty_variable_is_wrong_usage(checkout, name):
    """An empty variable, as from a lost setting, is refused instead of lifting a restriction."""
    checkout.write("{file: a.env}")
    process = checkout.run("plan", **{f"PROVISION_{name}": ""})
    assert process.returncode == 64
    assert f"PROVISION_{name} is empty" in process.stderr


@pytest.mark.parametrize("name", ["environments", "against", "allow-host"])
def test_an_empty_value_is_wrong_usage(checkout, name):
    """An empty value on the command line is refused too."""
    checkout.write("{file: a.env}")
    process = checkout.run("plan", f"--{name}", "")
    assert (process.returncode, "A value is empty" in process.stderr) == (64, True), process.stderr


@pytest.mark.parametrize("rule", ["", "files", "file:", ":x"])
def test_an_invalid_rule_is_wrong_usage(checkout, rule):
    """An invalid rule of `--allow-sink` is wrong usage."""
    checkout.write("{file: a.env}")
    assert checkout.run("plan", "--allow-sink", rule).returncode == 64


def test_a_plan_file_cannot_lift_the_restrictions_of_apply(checkout, tmp_path):
    """`apply` with a plan file obeys the restrictions of its own command line."""
    checkout.program("take")
    checkout.write("{command: [./take]}")
    plan = str(tmp_path / "plan.json")
    assert checkout.run("plan", "--out", plan).returncode == 0
    process = checkout.run("apply", plan, "--allow-sink", "vault")
    assert (process.returncode, "sink_not_allowed" in process.stderr) == (5, True), process.stderr
    assert checkout.run("apply", plan, "--no-programs").returncode in {4, 6}
    assert not checkout.marker.exists()
