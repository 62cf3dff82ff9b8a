"""What the program prints is shown once, however often it runs again: on both streams, through loggers and progress
bars that keep their stream, from `finally:` blocks on unwinding."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from nnrepl.programs.printed import Printed, PrintedPiece
from nnrepl.record.names import ProgramNames
from nnrepl.tape import Tape
from tests.support import nnrepl_cli, plain_python, script_python

PROGRAM = """
import atexit, builtins, json, logging, os, sys
import mlx.core as mx
logging.basicConfig(level=logging.INFO, format="LOG %(message)s")
named = logging.getLogger("named")
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(logging.Formatter("LOG %(name)s %(message)s"))
named.addHandler(handler); named.propagate = False
first, dumps = print, json.dumps
builtins.print = lambda *words, **options: first(words[0], "and", *words[1:], **options)
json.dumps = lambda thing: "+" + dumps(thing)
json.come = lambda times=2 if hasattr(json, "come") else 1: f"run {times} "
os.environ["RUNS"] = os.environ.get("RUNS", "") + "x"
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
        named.info(f"step {i} " + json.come() + json.dumps(i) + os.environ["RUNS"])
        bar.tick(i)
    finally:
        print("OUT finally", i)
print("OUT end")
"""
AT_EXIT = """
atexit.register(first, "OUT bye")
atexit.register(first, "OUT good")
atexit.register(len); atexit.unregister(len)
"""
LOSSES = PROGRAM.replace('print("OUT step", i)', 'print("OUT loss", l.item())')
WALKS = {
    "in the pass": ["until b", "s", "b = b * 1", "back", "a = a * 1", "undo", "c"],
    "from the start": ["next pass 2", "back 3", "w = w * 1", "rn pass", "w = w * 1", "undo", "step 30", "c"],
    "at the end": ["c", "goto pass 3", "w = w * 1"],
    "to the end again": ["c", "goto pass 3", "w = w * 1", "c", "undo", "goto b", "b = b * 1", "c"],
    "another end": ["next pass 2", "w = w * 1", "goto end", "c", "timeline 1", "a = a * 1", "c", "timeline 1", "c"],
    "a step before one that is not over": ["goto step 3", "s", "goto step 2", "c"],
    "behind the end": ["next pass 4", "timelines", "goto pass 1", "w = w * 1", "undo", "c", "goto start", "redo"],
}


@pytest.mark.parametrize("walk", WALKS)
def test_each_line_once(walk: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM + AT_EXIT)
    plain = plain_python(str(path))
    result = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in [*WALKS[walk], "q"]))
    for expected, found in ((plain.stdout, result.stdout), (plain.stderr, result.stderr)):
        wanted = Counter(_said(expected))
        assert Counter(_said(found)) == wanted, result.stdout + result.stderr


TRACED = """
import logging, sys
import mlx.core as mx
logging.basicConfig(format="LOG %(message)s")
kept = sys.stdout
@mx.compile
def f(x):
    sys.stderr.write("ERR traced\\n"); kept.write("OUT kept\\n"); sys.stdout.buffer.flush(); logging.warning("traced")
    return x * 2 + 1
w = mx.array([1.0, 2.0]) + 1
mx.eval(w)
for i in range(4):
    w = w + f(w)
    print("OUT", i, w.tolist())
"""


def test_a_function_that_is_traced_once_more_is_quiet_on_both_streams_and_on_those_that_were_kept(
    tmp_path: Path,
) -> None:
    path = tmp_path / "program.py"
    path.write_text(TRACED)
    plain, result = plain_python(str(path)), nnrepl_cli("--plain", str(path), stdin="goto #5\nc\nq\n")
    assert _said(result.stdout) == _said(plain.stdout)
    assert _said(result.stderr) == _said(plain.stderr)


def test_a_timeline_that_prints_something_else_is_shown_from_the_edit_on(tmp_path: Path) -> None:
    """What it prints is shown, once, wherever the user goes: also the lines that another timeline has printed."""
    path = tmp_path / "program.py"
    path.write_text(LOSSES)
    walk = ["c", "goto pass 3", "w = w * 2", "goto start", "undo", "redo", "c", "timeline 1", "c", "q"]
    result = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in walk))
    plain = _said(script_python(path))
    path.write_text(LOSSES.replace("    try:\n", "    w = w * 2 if i == 1 else w\n    try:\n"))
    twin = _said(script_python(path))
    assert twin[:5] == plain[:5]  # what is printed at the entry of the second pass lies before its first op
    assert _said(result.stdout) == plain + twin[5:]


def test_a_line_that_waits_is_not_lost_with_an_edit(tmp_path: Path) -> None:
    """What the first timeline printed beyond the cursor is shown when that comes by, whatever another one did."""
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    plain = plain_python(str(path))
    for edit in ("a = a * 2", "a = a + mx.ones((7,))", "a = a * 2; undo"):
        walk = ["until b", *edit.split("; ", 1), *([] if edit.endswith("undo") else ["timeline 1"]), "next 2", "c", "q"]
        result = nnrepl_cli("--plain", str(path), stdin="".join(f"{line}\n" for line in walk))
        for expected, found in ((plain.stdout, result.stdout), (plain.stderr, result.stderr)):
            assert Counter(_said(found)) == Counter(_said(expected)), (edit, result.stdout)


def test_another_line_of_a_timeline_is_shown(tmp_path: Path) -> None:
    """Where an edit makes the program print something else, that is new."""
    path = tmp_path / "program.py"
    path.write_text(
        PROGRAM.replace('print("ERR in loss", file=sys.stderr)', 'print("OUT", b.sum().item(), file=sys.stdout)')
    )
    result = nnrepl_cli("--plain", str(path), stdin="step 4\nback 3\na = a * 2\nq\n")
    assert re.findall(r"^OUT and \d.*", result.stdout, re.MULTILINE) == ["OUT and 7.0", "OUT and 12.0"]


def test_the_beginning_of_a_line_is_shown_with_its_end_also_where_a_step_was_opened_between() -> None:
    """A timeline's line begins as that of another one, which is withheld; then the program runs along the timeline."""
    first, edited, along = (Tape(ProgramNames()) for _ in range(3))
    printed = Printed()
    stdout = object()

    def prints(tape: Tape, position: int, data: bytes) -> bytes:
        pieces = printed.passing(tape, [stdout]).fresh(PrintedPiece(position, stdout, data))
        return b"".join(piece.data for piece in pieces)

    assert prints(first, 3, b"OUT 4 is 5\n") == b"OUT 4 is 5\n"
    printed.begin_again(edited, first, 2, 2, [stdout])
    assert prints(edited, 3, b"OUT 4 ") == b""
    printed.begin_again(along, edited, sys.maxsize, sys.maxsize, [stdout], along=True)
    assert prints(along, 4, b"is 6\n") == b"OUT 4 is 6\n"


def _said(text: str) -> list[str]:
    return re.findall(r"^\r?(?:OUT|ERR|LOG|BAR) .*", text, re.MULTILINE)
