"""The Dockerfile: what it promises, what a linter says, and the image where there is a builder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def instructions():
    """Each instruction with its arguments as one line, comments left out."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def of(name):
    return [arguments for instruction, arguments in instructions() if instruction == name]


def test_hadolint_finds_nothing():
    """The linter of Dockerfiles has no finding, not even a hint."""
    program = Path(sys.executable).with_name("hadolint")
    command = [program, "--failure-threshold", "style", "Dockerfile"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_both_stages_stand_on_one_image_pinned_by_digest():
    """Both stages have the same pinned base, and the last one does not touch pip."""
    stages = [stage.partition(" AS ")[0] for stage in of("FROM")]
    assert len(stages) == 2
    assert len(set(stages)) == 1
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", stages[0])
    last = instructions()[-1 - [name for name, _ in reversed(instructions())].index("FROM") :]
    assert "pip" not in " ".join(arguments for _, arguments in last)


def test_nothing_is_fetched_but_locked_packages():
    """No file comes from an address, no system package is installed, and pip holds to hashes."""
    assert of("ADD") == []
    commands = [
        command.split() for line in of("RUN") for command in line.split("&&") if command.strip()
    ]
    assert not [words for words in commands if words[0] in ("apt-get", "curl", "wget", "apk")]
    (install,) = [words for words in commands if words[0].endswith("pip")]
    assert install[-3:] == ["--require-hashes", "-r", "/requirements.lock"]


def test_it_runs_as_nobody_in_particular():
    """The last user is a number that is not root, so that Kubernetes can hold to runAsNonRoot."""
    names = [name for name, _ in instructions()]
    assert re.fullmatch(r"([1-9]\d+):\1", of("USER")[-1])
    after = names[len(names) - names[::-1].index("USER") :]
    assert after == ["WORKDIR", "ENTRYPOINT", "CMD"]
    assert of("ENTRYPOINT") == ['["provision"]']


def test_no_secret_and_no_history_goes_into_a_build():
    """Only what is named is sent to the builder: no .git, manifests, .env, secrets or keys."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert sent == {*("LICENSE", "docs/errors.md", "provisioner", "requirements.lock", "schemas")}
    assert not re.search("(?i)token|secret|password", "\n".join([*of("ARG"), *of("ENV")]))


@pytest.mark.skipif(
    os.environ.get("IMAGE") != "build",
    reason="the image is built with IMAGE=build, which needs a Docker daemon and its registry",
)
def test_the_image_is_built_and_plans():
    """The image is made, is small, and plans the example with a read-only root as any user."""
    subprocess.run(["docker", "build", "--tag", "provision:test", "."], cwd=ROOT, check=True)
    size = subprocess.check_output(
        ["docker", "image", "inspect", "--format", "{{.Size}}", "provision:test"], text=True
    )
    assert int(size) < 250_000_000
    words = "docker run --rm --read-only --tmpfs /work:uid=10001 provision:test init"
    subprocess.run(shlex.split(words), check=True, timeout=60)
