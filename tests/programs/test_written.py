"""Files that a program writes are named before it writes them again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from nnrepl.programs.written import WrittenFiles
from tests.support import nnrepl_cli

PROGRAM = """
import io, pathlib
import mlx.core as mx
assert open is io.open
w = mx.array([1.0, 2.0])
with open("log.txt", "w") as log:
    for i in range(3):
        l, g = mx.value_and_grad(lambda w: (w * w).sum())(w)
        w = w - 0.1 * g
        print(i, l.item(), file=log)
pathlib.Path("note.txt").write_text("x")
mx.save("w.npy", w)
assert open("note.txt").read() == "x"
"""


OTHERS = """
import os, sqlite3
import mlx.core as mx
os.makedirs("out/deep", exist_ok=True)
with open("part", "w") as file:
    file.write("x")
os.replace("part", "whole")
kept = sqlite3.connect("kept.db")
kept.execute("create table if not exists losses (number)")
kept.commit()
l, g = mx.value_and_grad(lambda w: (w * w).sum())(mx.array([1.0]))
"""


def test_other_ways_to_write(tmp_path: Path) -> None:
    """Folders that it makes, files put in another's place, and what a library opens itself."""
    path = tmp_path / "program.py"
    path.write_text(OTHERS)
    shown = nnrepl_cli("--plain", str(path), stdin="c\ngoto start\nw = w * 2\nq\n", cwd=tmp_path).stdout
    kept = ", kept.db" if sys.platform == "linux" else ""
    assert f"it writes its files again: out, out/deep, part, whole{kept}\n" in shown.replace(os.sep, "/")


def test_named_before_it_runs_again(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    shown = nnrepl_cli(
        "--plain", str(path), stdin="c\ngoto step 2\nw = w * 1\nundo\nw = w * 2\nq\n", cwd=tmp_path
    ).stdout
    assert shown.count("it writes its files again: log.txt, note.txt\n") == 1, "a look leaves w.npy as it is"
    assert shown.count("it writes its files again, and besides: w.npy\n") == 1, "they are named once"
    before = nnrepl_cli("--plain", str(path), stdin="goto step 1\nw = w * 1\nq\n", cwd=tmp_path).stdout
    assert "writes its files" not in before, "only the pass ran again"


def test_named_once(tmp_path: Path) -> None:
    files = WrittenFiles()
    with files.watching(lambda: True), open(tmp_path / "out.txt", "w"):
        pass
    assert files.warning(lambda path: path.endswith("out.txt")) == ""
    assert files.warning(lambda path: False).endswith("out.txt")
    assert files.warning(lambda path: False) == "it writes its files again"
