"""Problems have git's line numbers, whatever characters come before them."""

from __future__ import annotations

import random
import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

from provisioner.manifests import load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENVIRONMENTS = 'version: 1\nenvironments: {production: {url: "sandbox:"}}\n'
HEAD = "version: 1\nenvironment: production\n"


STRANGE = [
    *("\x85", "\u2028", "\u2029", "\v", "\f", "\x1c", "\x1e", "\r", "\u200b", "\u00ad", "\u202e"),
    *("\ufeff", "\U000f0000", "🗼", "e\u0301", "\t", "word", "é"),
]


def strange_texts(count: int) -> Iterator[tuple[str, str]]:
    """Yield manifests with strange characters in comments and texts, and one unknown key."""
    dice = random.Random(20261128)
    for _ in range(count):
        end = dice.choice(["\n", "\r\n"])
        kind = dice.choice([STRANGE[:3], STRANGE[:3] + STRANGE[8:], STRANGE])

        def words(kind: list[str] = kind) -> str:
            return "".join(dice.choice([*kind, " ", "a"]) for _ in range(dice.randrange(9)))

        lines = [*HEAD.splitlines(), "keys:"]
        for number in range(dice.randrange(1, 6)):
            lines += [f"# {words()}", f"  - name: svc-{number} # {words()}", "    expires: 90d"]
            forms = [f"x{words()}x", f'"{words()}\\L\\U000F0000"', f"'{words()}'"]
            lines += [f"    description: {dice.choice(forms)}"]
        wrong = dice.choice([i for i, line in enumerate(lines) if line.startswith("    expires")])
        lines.insert(wrong, f"    zzz: '{words()}'")
        yield end.join(lines) + dice.choice(["", end]), "zzz"


def shown_by_git(file: Path, text: str) -> dict[int, str]:
    """Return the lines that contain a text, by their numbers in `git grep -n`."""
    command = ["git", "grep", "--no-index", "-n", "-a", "-h", "-F", "-e", text, "--", file.name]
    found = subprocess.run(command, cwd=file.parent, capture_output=True, check=False).stdout
    return {
        int(number): line.decode()
        for number, _, line in (line.partition(b":") for line in found.split(b"\n") if line)
    }


def test_a_problem_has_the_line_number_of_git(tmp_path: Path) -> None:
    """For 200 texts the line and column are git's, or the problem names the character."""
    refused = Counter[str]()
    file = tmp_path / "a.yaml"
    (tmp_path / "environments.yaml").write_text(ENVIRONMENTS)
    for content, wrong in strange_texts(200):
        file.write_bytes(content.encode())
        (problem,) = load(tmp_path).problems
        if problem.code == "unknown_key":
            ((number, line),) = shown_by_git(file, wrong).items()
            assert (problem.place.line, problem.place.column) == (number, line.index(wrong) + 1)
            continue
        assert problem.code in ("yaml_syntax", "file_line_ends"), problem
        (code,) = re.findall(r"U\+([0-9A-F]{4,6})", problem.message)
        char = chr(int(code, 16))
        assert char in "\v\f\x1c\x1e\r", problem
        refused[char] += 1
        line = shown_by_git(file, char)[problem.place.line]
        assert line[problem.place.column - 1] == char
    assert sum(refused.values()) < 100
    assert len(refused) == len("\v\f\x1c\x1e\r")
