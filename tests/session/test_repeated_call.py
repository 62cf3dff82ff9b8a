"""A line under `set_trace` that names a variable of a compiled function in a later call: its lines do not run there."""

from __future__ import annotations

from pathlib import Path

from tests.support import script_python

PROGRAM = """\
import mlx.core as mx, nnrepl
w = mx.array([1.0, 2.0])
@mx.compile
def f(x):
    h = x * 2
    return mx.sum(h * h)
nnrepl.set_trace()
for i in range(2):
    y = f(w * (i + 1))
    print("result", y.item())
"""


def test_a_line_in_a_later_call_is_told_why_it_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "later.py"
    path.write_text(PROGRAM)
    typed = "break later.py:5\nc\nc\ns\nh = h * 10\nclear\nc\n"
    shown = " ".join(script_python(path, stdin=typed, own_prompt=True).split())
    assert "hit 2 times" in shown
    assert "h is a variable of f, which is compiled: this call repeats the ops of its first one" in shown
    assert "result 20.0" in shown
    assert "result 80.0" in shown
