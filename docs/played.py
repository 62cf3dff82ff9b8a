"""What a page of the documentation types at nnrepl's prompt is typed at it, and what it shows is what was shown.

A block is played where a comment above it says on what: `<!-- played: examples/lessons/sick.py -->` begins a session,
`<!-- goes on -->` goes on with it. A block that shows answers shows all of them, line by line; one without only has
commands that work. `python -m tests.test_docs` writes the answers anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from docs.make import Picture, log_of
from nnrepl.shell.prompts import PROMPT

WIDTH = 100

_BLOCK = re.compile(
    r"(?:<!-- (?P<how>played: (?P<program>\S+)|goes on) -->\n+)?(?P<fence>```console\n)(?P<rows>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_COMMENT = re.compile(r" {3,}#.*$")


@dataclass
class Block:
    """Some lines of a page.

    Attributes:
        rows: As they stand there, without the fence.
        shown: For each command in them, what it showed; filled by `play`.
    """

    rows: list[str]
    shown: list[list[str]] = field(default_factory=list)

    @property
    def typed(self) -> list[str]:
        """The commands, without what is said of them."""
        return [_COMMENT.sub("", row.removeprefix(PROMPT)).strip() for row in self.rows if row.startswith(PROMPT)]

    @property
    def tells(self) -> bool:
        """Whether answers stand in it."""
        return any(row.strip() and not row.startswith((PROMPT, "$ ")) for row in self.rows)

    def rewritten(self) -> list[str]:
        """Return it with its answers as they are."""
        if not self.tells:
            return self.rows
        shown = iter(self.shown)
        rows: list[str] = []
        for row in self.rows:
            if row.startswith("$ "):
                rows.append(row)
            elif row.startswith(PROMPT):
                rows += [row, *next(shown)]
        return rows


@dataclass
class Session:
    """Blocks that belong together."""

    program: str
    blocks: list[Block]

    def play(self) -> bool:
        """Type what they type. Returns whether every command worked."""
        lines = tuple(line for block in self.blocks for line in block.typed)
        log, failed = log_of(Picture(self.program, lines, len(lines), WIDTH))
        entries = [entry for entry in log.entries if entry.typed]
        shown: list[list[str]] = []
        at = 0
        for number, line in enumerate(lines):
            if at >= len(entries) or entries[at].typed != line:
                return False
            shown.append(entries[at].plain())
            at += 1
            while len(entries) - at > len(lines) - number - 1 and entries[at].typed == line:
                shown[-1] += entries[at].plain()  # a step was opened for it, and it ran again
                at += 1
        told = iter(shown)
        for block in self.blocks:
            block.shown = [next(told) for _ in block.typed]
        return not failed


def sessions(path: Path) -> tuple[list[Session], list[str]]:
    """Return the sessions of a page, and the blocks with commands of which nothing says on what they are played."""
    found: list[Session] = []
    loose: list[str] = []
    for match in _BLOCK.finditer(path.read_text(encoding="utf-8")):
        block = Block(match["rows"].splitlines())
        if match["program"]:
            found.append(Session(match["program"], [block]))
        elif match["how"] and found:
            found[-1].blocks.append(block)
        elif block.typed:
            loose.append(match["rows"])
    return found, loose


def rewritten(path: Path) -> tuple[str, bool]:
    """Return a page with its answers as they are, and whether every command in it worked."""
    text = path.read_text(encoding="utf-8")
    found, _ = sessions(path)
    worked = all([session.play() for session in found])
    blocks = iter([block for session in found for block in session.blocks])

    def one(match: re.Match[str]) -> str:
        if not match["how"]:
            return match[0]
        rows = "".join(f"{row}\n" for row in next(blocks).rewritten())
        return match[0].replace(match["fence"] + match["rows"], match["fence"] + rows)

    return _BLOCK.sub(one, text), worked
