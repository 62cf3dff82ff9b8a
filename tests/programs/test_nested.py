"""A program that calls nnrepl itself runs under nnrepl as it does under Python."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from tests.support import nnrepl_cli, script_python

PROGRAM = """
import mlx.core as mx, nnrepl
def f(w):
    h = w * mx.random.uniform()
    return h.sum()
mx.random.seed(1)
w = mx.ones(3)
trace = nnrepl.trace(f, w, wrt=0)
print("VALUE", trace.value.item(), trace.grads.tolist(), trace.set("h", lambda h: h * 3).value.item())
with nnrepl.recording() as tape:
    y = mx.sin(mx.ones(2)).sum()
print("OPS", len(tape.ops), y.item())
for i in range(2):
    loss, g = mx.value_and_grad(f)(w)
    w = w - g
    print("LOSS", loss.item())
"""


def test_a_program_that_records_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "nested.py"
    path.write_text(PROGRAM)
    plain = script_python(path, own_prompt=True)
    assert nnrepl_cli("--batch", "-c", "continue", str(path)).stdout == plain
    edited = nnrepl_cli("--plain", str(path), stdin="until step 2\nw = w * 2\nc\nq\n").stdout
    twin = PROGRAM.replace("    loss, g", "    if i == 1: w = w * 2\n    loss, g")
    path.write_text(twin)
    assert script_python(path, own_prompt=True).splitlines()[-1] in edited


def test_a_recording_inside_of_one() -> None:
    with nnrepl.recording() as outer:
        a = mx.ones(2) * 2
        trace = nnrepl.trace(lambda w: (w * w).sum(), a, wrt=0)
        b = a + 1
    assert [op.name for op in outer.ops] == ["ones", "multiply", "add"]
    assert trace.grads.tolist() == [4, 4]
    assert b.tolist() == [3, 3]
    with pytest.raises(ZeroDivisionError), nnrepl.recording():
        nnrepl.trace(lambda w: w / (1 // 0), a)
    assert type(mx.add).__name__ == "nb_func"
