"""Functions and files of `provisioner` that run until one key is created and delivered to a file.

`provision apply` runs in this process against a served Twenty, so that the sandbox does not count.
A function counts once, however often it runs; comprehensions count as part of their function.
`--list` prints every function.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from inspect import CO_NEWLOCALS
from pathlib import Path
from typing import TYPE_CHECKING

from _manifests import ENVIRONMENT, TOKEN_VARIABLE, environment
from _process import Programs
from _report import Requirement, table, verdict
from _served import DIALECTS, Served

import provisioner
from provisioner.cli import main as provision

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType, FrameType

_PACKAGE = f"{Path(provisioner.__file__).parent}{os.sep}"
_COMPREHENSIONS = frozenset({"<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>"})
_MAX_FUNCTIONS, _MAX_FILES = 450, 60
_KEY = f"""\
version: 1
environment: {ENVIRONMENT}
keys: [{{name: svc-billing, expires: 90d, deliver: [{{file: secrets/shop.env}}]}}]
"""


def main() -> int:
    """Count and print; return 1 if one key takes too many functions or files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print every function")
    parser.add_argument("--quick", action="store_true", help="run only one dialect")
    options = parser.parse_args()
    rows = []
    functions = files = 0
    for dialect in DIALECTS[-1:] if options.quick else DIALECTS:
        codes = _functions_of_apply(dialect)
        counted = (len(codes), len({code.co_filename for code in codes}))
        rows.append((dialect, *counted))
        functions, files = max(functions, counted[0]), max(files, counted[1])
        if options.list:
            _print(codes)
    table("one key with one file sink", ("dialect", "functions", "files"), rows)
    required = (
        Requirement("functions", functions, _MAX_FUNCTIONS),
        Requirement("files", files, _MAX_FILES),
    )
    return verdict(required, smoke=options.quick)


def _functions_of_apply(dialect: str) -> set[CodeType]:
    """Return the functions that ran in one `apply`."""
    codes: set[CodeType] = set()

    def remember(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code not in codes and code.co_filename.startswith(_PACKAGE):
            codes.add(code)

    with Programs() as programs, Served(dialect) as served:
        manifests = programs.folder / "manifests"
        environment(manifests, served.facts.url)
        (manifests / "keys.yaml").write_text(_KEY)
        os.environ[TOKEN_VARIABLE] = served.facts.token
        threading.setprofile(remember)
        sys.setprofile(remember)
        try:
            code = provision(["apply", "-q", "-m", str(manifests)])
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        assert code == 0, f"apply exited with code {code}"
        assert (programs.folder / "secrets" / "shop.env").is_file()
    return {code for code in codes if _counts(code)}


def _counts(code: CodeType) -> bool:
    """Return whether a code object is a function, and not a module, class or comprehension."""
    return bool(code.co_flags & CO_NEWLOCALS) and code.co_name not in _COMPREHENSIONS


def _print(codes: Iterable[CodeType]) -> None:
    for code in sorted(codes, key=lambda one: (one.co_filename, one.co_firstlineno)):
        print(
            f"  {code.co_filename.removeprefix(_PACKAGE)}:{code.co_firstlineno} {code.co_qualname}"
        )


if __name__ == "__main__":
    sys.exit(main())
