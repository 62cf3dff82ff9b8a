"""Every command is typed for its result: in a transcript, or in the test that is named here."""

from __future__ import annotations

import re

from nnrepl.commands import load_all
from nnrepl.commands.table import TABLE
from tests.shell.test_transcripts import TRANSCRIPTS, split
from tests.support import ROOT

ELSEWHERE = {
    "compare": "tests/session/test_reference.py",
    "edit": "tests/programs/test_load.py",
    "examples": "tests/programs/test_load.py",
    "learn": "tests/learn/test_lessons.py",
    "load": "tests/programs/test_load.py",
    "reload": "tests/programs/test_reload.py",
    "save": "tests/programs/test_saved.py",
    "source": "tests/shell/test_muscle_memory.py",
}
"""What writes or reads files, or needs a program that is being changed."""


def test_every_command_is_typed() -> None:
    load_all()
    typed: set[str] = set()
    for path in TRANSCRIPTS.glob("*.txt"):
        lines = split(path.read_text(encoding="utf-8"))[1].splitlines()
        typed |= {words[0] for line in lines for words in (line.split(),) if words}
    never = {command.names[0] for command in TABLE.commands if not typed.intersection(command.names)}
    assert never == ELSEWHERE.keys()
    for name, file in ELSEWHERE.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"(\"|\\n){name}( |\")", text), f"{file} does not type {name}"
