"""README: its sessions are tested transcripts, and it lists every command.

`python -m tests.test_readme` writes these parts anew.
"""

from __future__ import annotations

import re

from nnrepl.commands import load_all
from nnrepl.commands.table import TABLE
from tests.support import ROOT

README = ROOT / "README.md"


def command_table() -> str:
    """Every command, one row each, straight from the table."""
    load_all()
    rows = ["| command | what it does |", "| --- | --- |"]
    for command in TABLE.commands:
        names = ", ".join(f"`{name}`" for name in command.names)
        grammar = f" {command.grammar.name}".replace("|", "\\|") if command.grammar.name else ""
        rows.append(f"| {names}{grammar} | {command.summary} |")
    return "\n".join(rows)


def session(name: str) -> str:
    """A transcript that README shows."""
    return "```\n" + (ROOT / f"tests/transcripts/{name}.txt").read_text(encoding="utf-8") + "```"


def rewritten(text: str) -> str:
    """README with these parts as they should be."""
    sessions = [(f"transcript: {name}", session(name)) for name in ("readme", "repl")]
    for start, part in (*sessions, ("commands", command_table())):
        pattern = re.compile(rf"(<!-- {re.escape(start)} -->\n)(?:.*?\n)??(<!-- end -->)", re.DOTALL)
        assert pattern.search(text), start
        text = pattern.sub(lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text)
    return text


def test_readme_shows_the_transcript_and_every_command() -> None:
    text = README.read_text(encoding="utf-8")
    assert rewritten(text) == text


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
