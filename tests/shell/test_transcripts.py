"""Transcripts: what a person types and what they see, as the specification of the shell.

Each file in tests/transcripts is a session: `$ nnrepl ARGUMENTS`, then the screen. The lines after the prompt
`(nnrepl) ` (and `... `, where a block goes on) are typed. `python -m tests.shell.test_transcripts FILE ...` writes a
file anew from its commands; read the difference before you keep it.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.support import PROMPT, ROOT, nnrepl_cli

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts"


def split(text: str) -> tuple[list[str], str]:
    """The arguments and the typed lines of a transcript."""
    first, _, rest = text.partition("\n")
    arguments = shlex.split(first.removeprefix("$ nnrepl"))
    typed: list[str] = []
    inside = False
    for line in rest.splitlines():
        prompt = PROMPT.match(line)
        if prompt is not None:
            typed.append(line[prompt.end() :])
        elif inside and (further := re.match(r" +\.\.\. ?", line)) is not None:
            typed.append(line[further.end() :])
            continue
        inside = prompt is not None
    return arguments, "\n".join(typed) + "\n"


def play(text: str) -> str:
    """Run a transcript's commands; the whole session as it looks now."""
    arguments, typed = split(text)
    result = nnrepl_cli(*arguments, stdin=typed)
    assert not result.stderr, result.stderr
    return f"{text.partition(chr(10))[0]}\n{tidy(result.stdout)}"


def tidy(screen: str) -> str:
    """Without what differs from machine to machine: versions, the path of the checkout, blanks at line ends."""
    screen = re.sub(r"^nnrepl \S+ · mlx \S+ on \w+", "nnrepl VERSION · mlx VERSION on cpu", screen, flags=re.MULTILINE)
    screen = screen.replace(f"{ROOT}/", "")
    return "\n".join(line.rstrip() for line in screen.splitlines()) + "\n"


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    expected = path.read_text(encoding="utf-8")
    assert play(expected) == expected


if __name__ == "__main__":
    for name in sys.argv[1:]:
        file = Path(name)
        file.write_text(play(file.read_text(encoding="utf-8")), encoding="utf-8")
