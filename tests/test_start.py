"""The start: the prompt does not wait for what is not used yet."""

from __future__ import annotations

from collections import Counter

from tests.support import plain_python

SCRIPT = """
import sys
from nnrepl.cli import main
main(["--batch", "-c", "quit"])
print(*(name for name in sys.modules if name.startswith("nnrepl.")))
"""
MODULES = 237
"""What needs another one imports it in the function that uses it."""


def test_what_is_not_used_is_not_imported() -> None:
    done = plain_python("-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    rooms = Counter(name.split(".")[1] for name in names)
    assert len(names) <= MODULES, f"one that the prompt needs (a new module of commands) is counted in MODULES: {rooms}"
    assert not rooms.keys() & {"ops", "explain", "seen", "learn"}, rooms
    assert rooms["view"] <= 6
