"""What the program prints is shown once, however often it runs again: on both streams, through loggers and progress
bars that keep their stream, from `finally:` blocks on unwinding."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support import nnrepl_cli, plain_python

PROGRAM = """
import logging, sys
import mlx.core as mx
logging.basicConfig(level=logging.INFO, format="LOG %(message)s")
class Bar:
    def __init__(self, file=sys.stderr): self.file = file
    def tick(self, n): self.file.write(f"\\rBAR {n}\\n")
bar = Bar()
w = mx.array([1.0, 2.0])
def loss(w):
    print("OUT in loss", flush=True)
    a = w * w
    b = a + 1
    print("ERR in loss", file=sys.stderr)
    return b.sum()
for i in range(3):
    try:
        l, g = mx.value_and_grad(loss)(w)
        w = w - 0.1 * g
        print("OUT step", i)
        logging.info(f"step {i}")
        bar.tick(i)
    finally:
        print("OUT finally", i)
print("OUT end")
"""
WALKS = {
    "in the pass": ["until b", "s", "b = b * 1", "back", "a = a * 1", "undo", "c"],
    "from the start": ["next pass 2", "back 3", "w = w * 1", "rn pass", "w = w * 1", "undo", "step 30", "c"],
    "at the end": ["c", "goto pass 3", "w = w * 1"],
    "behind the end": ["next pass 4", "timelines", "goto pass 1", "w = w * 1", "undo", "c", "goto start", "redo"],
}


@pytest.mark.parametrize("walk", WALKS)
def test_each_line_once(walk: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    plain = plain_python(str(path))
    result = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in [*WALKS[walk], "q"]))
    for expected, found in ((plain.stdout, result.stdout), (plain.stderr, result.stderr)):
        wanted = Counter(_said(expected))
        assert Counter(_said(found)) == wanted, result.stdout + result.stderr


def test_each_timeline_shows_its_own_lines(tmp_path: Path) -> None:
    """A timeline that has an edit and runs on is another run: what it prints from there on is shown, once."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    walk = ["c", "goto pass 3", "w = w * 1", "goto start", "undo", "redo", "c", "q"]
    result = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in walk))
    plain = Counter(_said(plain_python(str(path)).stdout))
    found = Counter(_said(result.stdout))
    assert found == plain + Counter(
        ["OUT step 1", "OUT finally 1", "OUT in loss", "OUT step 2", "OUT finally 2", "OUT end"]
    )


def test_another_line_of_a_timeline_is_shown(tmp_path: Path) -> None:
    """Where an edit makes the program print something else, that is new."""
    path = tmp_path / "program.py"
    path.write_text(
        PROGRAM.replace('print("ERR in loss", file=sys.stderr)', 'print("OUT", b.sum().item(), file=sys.stdout)')
    )
    result = nnrepl_cli("--plain", str(path), stdin="step 4\nback 3\na = a * 2\nq\n")
    assert re.findall(r"^OUT \d.*", result.stdout, re.MULTILINE) == ["OUT 7.0", "OUT 12.0"]


def _said(text: str) -> list[str]:
    return re.findall(r"^\r?(?:OUT|ERR|LOG|BAR) .*", text, re.MULTILINE)
