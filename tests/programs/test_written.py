"""Files that a program writes are named before it writes them again."""

from __future__ import annotations

from pathlib import Path

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


def test_named_before_it_runs_again(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    shown = nnrepl_cli("--plain", str(path), stdin="c\ngoto step 2\nw = w * 1\nq\n", cwd=tmp_path).stdout
    assert "it writes its files again: log.txt, note.txt, w.npy\n" in shown
    before = nnrepl_cli("--plain", str(path), stdin="goto step 1\nw = w * 1\nq\n", cwd=tmp_path).stdout
    assert "writes its files" not in before, "only the pass ran again"
