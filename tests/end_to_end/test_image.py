"""The Dockerfile: its instructions, a linter, and the built image where Docker is available."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def instructions():
    """Return each instruction with its arguments as one line, without comments."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def arguments_of(name):
    return [arguments for instruction, arguments in instructions() if instruction == name]


def test_hadolint_finds_nothing():
    """The linter for Dockerfiles finds nothing, not even a style problem."""
    program = Path(sys.executable).with_name("hadolint")
    command = [program, "--failure-threshold", "style", "Dockerfile"]
    process = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (process.returncode, process.stdout) == (0, "")


def test_both_stages_use_one_image_pinned_by_digest():
    """Both stages have the same pinned base image, and the last one does not use pip."""
    stages = [stage.partition(" AS ")[0] for stage in arguments_of("FROM")]
    assert len(stages) == 2
    assert len(set(stages)) == 1
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", stages[0])
    last = instructions()[-1 - [name for name, _ in reversed(instructions())].index("FROM") :]
    assert "pip" not in " ".join(arguments for _, arguments in last)


def test_only_locked_packages_and_git_are_downloaded():
    """Pip requires hashes, apt installs only git, and nothing else downloads anything."""
    assert arguments_of("ADD") == []
    commands = [
        command.split()
        for line in arguments_of("RUN")
        for command in line.split("&&")
        if command.strip()
    ]
    assert not [arguments for arguments in commands if arguments[0] in ("curl", "wget", "apk")]
    (install,) = [arguments for arguments in commands if arguments[0].endswith("pip")]
    assert install[-3:] == ["--require-hashes", "-r", "/requirements-sinks.lock"]
    apt = [arguments[1:] for arguments in commands if arguments[0] == "apt-get"]
    assert apt == [["update"], ["install", "--yes", "--no-install-recommends", "git"]]


def test_it_runs_as_a_numeric_user():
    """The last user is a number other than root, so that Kubernetes can check runAsNonRoot."""
    names = [name for name, _ in instructions()]
    assert re.fullmatch(r"([1-9]\d+):\1", arguments_of("USER")[-1])
    after = names[len(names) - names[::-1].index("USER") :]
    assert after == ["WORKDIR", "ENTRYPOINT", "CMD"]
    assert arguments_of("ENTRYPOINT") == ['["provision"]']


def test_no_secret_or_history_is_sent_to_the_builder():
    """Only listed files are sent to the builder: no .git, manifests, .env, secrets or keys."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert sent == {
        *("LICENSE", "docs/errors.md", "provisioner", "requirements-sinks.lock", "schemas")
    }
    assert not re.search(
        "(?i)token|secret|password", "\n".join([*arguments_of("ARG"), *arguments_of("ENV")])
    )


@pytest.mark.skipif(
    os.environ.get("IMAGE") != "build",
    reason="the image is built with IMAGE=build, which needs a Docker daemon and its registry",
)
def test_the_image_can_be_built_and_runs(tmp_path: Path):
    """The image is small, and delivers to ignored files of a mounted checkout of any owner."""
    subprocess.run(["docker", "build", "--tag", "provision:test", "."], cwd=ROOT, check=True)
    size = subprocess.check_output(
        ["docker", "image", "inspect", "--format", "{{.Size}}", "provision:test"], text=True
    )
    assert int(size) < 350_000_000
    arguments = "docker run --rm --read-only --tmpfs /work:uid=10001 provision:test init"
    subprocess.run(shlex.split(arguments), check=True, timeout=60)
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    (tmp_path / ".gitignore").write_text("/secrets/\n/.provision/\n", encoding="utf-8")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    subprocess.run(["chmod", "--recursive", "a+rwX", tmp_path], check=True)  # as GitLab's runner
    arguments = f"docker run --rm --read-only --volume {tmp_path}:/work provision:test apply"
    subprocess.run(shlex.split(arguments), check=True, timeout=60)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "secrets").iterdir()} == {0o600}
    (tmp_path / ".gitignore").write_text("/.provision/\n", encoding="utf-8")
    process = subprocess.run(
        [*shlex.split(arguments), "--redeliver"], capture_output=True, text=True, check=False
    )
    assert (process.returncode, "does not ignore it" in process.stdout) == (4, True)
