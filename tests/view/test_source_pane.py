"""The pane of the source: the lines of the file around an op, what is marked in them, and what a line stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.text import Text

import nnrepl
from nnrepl.tape import Op
from nnrepl.view.source_pane import SourcePane
from tests.support import loaded

PROGRAM = """\
import mlx.core as mx
x = mx.ones((2,))
mx.exp(x)
def f(h):
    if True:
        return (h *
                mx.sin(h))
f(x)
"""
MARKED = {
    "ones": {2: "mx.ones((2,))"}, "exp": {3: "mx.exp(x)"}, "sin": {7: "mx.sin(h)"},
    "multiply": {6: "h *", 7: "                mx.sin(h)"},
}  # fmt: skip


def opened(path: Path, stops: tuple[str, ...] = ()) -> dict[str, tuple[Op, SourcePane]]:
    with nnrepl.recording() as recorded:
        loaded(path, PROGRAM)
    return {op.name: (op, SourcePane(op, {3: [1], 7: [2, 3]}, (), stops, "dark")) for op in recorded.tape.ops}


@pytest.mark.parametrize("width", [44, 60, 100])
def test_the_piece_that_an_op_comes_from_is_marked_and_no_other(tmp_path: Path, width: int) -> None:
    written = PROGRAM.splitlines()
    panes = opened(tmp_path / "program.py")
    assert panes.keys() == MARKED.keys()
    for name, (_, pane) in panes.items():
        assert pane.count(width) == len(written)
        parts = pane.parts(0, width, 50, 0)
        marked: dict[int, str] = {}
        for number, part in enumerate(parts, 1):
            shown = part.shown
            assert isinstance(shown, Text)
            assert shown.plain.rstrip().endswith(written[number - 1].rstrip()), shown.plain
            assert ("▶" in shown.plain) == (number == min(MARKED[name]))
            assert int(shown.plain[2:].split()[0]) == number
            for span in shown.spans:
                if span.style == "source.segment":
                    marked[number] = shown.plain[span.start : span.end]
        assert {at: text.strip() for at, text in marked.items()} == {
            at: text.strip() for at, text in MARKED[name].items()
        }


def test_breakpoints_and_ops_stand_beside_the_lines(tmp_path: Path) -> None:
    _, pane = opened(tmp_path / "program.py", ("program.py:3", "program.py:99"))["sin"]
    parts = pane.parts(1, 60, 3, 0)
    texts = [str(part.shown) for part in parts]
    assert len(texts) == 3
    assert [text.startswith("●") for text in texts] == [False, True, False]
    assert ["#1" in text for text in texts] == [False, True, False]
    assert pane.parts(50, 60, 3, 0) == []
    assert pane.chosen() == 6
    assert pane.home(8, 3) <= 6 < pane.home(8, 3) + 3
