"""Plots and lines of bars: where the points lie, what the axes say."""

from __future__ import annotations

import io
import math
import re

import mlx.core as mx
import mlx.nn as nn
import pytest
from rich.console import Console

import nnrepl
from nnrepl.seen.timeline_rows import spread
from nnrepl.view.histogram import counts
from nnrepl.view.plot import HEIGHT, Curve, Plot
from nnrepl.view.summary import summarize
from nnrepl.view.theme import DARK
from nnrepl.view.ticks import tick_text, ticks
from nnrepl.view.timeline_tree import sparkline
from tests.support import OpenSession


def screen(plot: Plot, width: int = 60) -> list[str]:
    return rendered(plot, width)


def rendered(view: object, width: int = 90) -> list[str]:
    console = Console(file=io.StringIO(), width=width, theme=DARK, highlight=False, markup=False)
    console.print(view)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def dots(line: str) -> list[int]:
    return [at for at, sign in enumerate(line) if 0x2800 < ord(sign) < 0x2900]


def test_a_curve_has_a_point_a_step_ticks_and_its_last_and_lowest_value() -> None:
    lines = screen(Plot([Curve("loss", [1, 2, 3, 4, 5], [6.0, 4.0, 1.0, 2.0, 2.5])]))
    assert "last 2.5000 (step 5)" in lines[0]
    assert "lowest 1 (step 3)" in " ".join(lines[:2])
    picture = [line for line in lines if "│" in line or "┤" in line]
    assert len(picture) == HEIGHT
    assert [line.split("┤")[0].strip() for line in picture if "┤" in line] == ["6", "5", "4", "3", "2", "1"]
    top, bottom = picture[0], picture[-1]
    assert dots(top)[0] == top.index("┤") + 1, "the first step is at the left"
    assert lines[-1].index("3") in dots(bottom), "the third of five steps is over its number"
    assert lines[-1].split() == ["step", "1", "2", "3", "4", "5"]
    assert all(len(line) <= 60 for line in lines)


def test_several_curves_are_told_apart_without_colour() -> None:
    lines = screen(Plot([Curve("a", [1, 2], [0.0, 1.0]), Curve("b", [1, 2, 3], [1.0, 0.0, 1.0])]))
    assert lines[0].startswith("1 a ")
    assert lines[1].startswith("2 b ")
    picture = "".join(line[line.index("│" if "│" in line else "┤") :] for line in lines if "│" in line or "┤" in line)
    assert set(picture) - set("│┤ ") == {"1", "2"}


def test_what_is_not_finite_is_a_gap_and_is_counted() -> None:
    lines = screen(Plot([Curve("loss", [1, 2, 3], [1.0, math.nan, 2.0])]))
    assert lines[-1] == "1 of 3 values of loss are not finite"
    assert len({at for line in lines for at in dots(line)}) == 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0551, 5.7993, [0, 2, 4, 6]), (-1.0, 1.0, [-1, -0.5, 0, 0.5, 1]), (3.0, 3.0, [1, 2, 3, 4, 5])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, 5) == pytest.approx(expected)
    assert tick_text(-0.35) == "-0.35"
    assert tick_text(2e-5) == "2e-5"


def test_a_line_of_bars_spans_its_values() -> None:
    assert sparkline([1.0, 1.0, 3.0]) == "▁▁█"
    assert sparkline([3.0, math.nan, 3.0])[1] == "×"
    assert sparkline([1e6, 1e3, 1.0])[1] not in "▁█", "a wide span is drawn by its logarithms"
    assert spread(list(range(100)), 5) == [0, 24, 49, 74, 99]


def test_timelines_lie_over_each_other_each_with_its_own_numbers() -> None:
    session = OpenSession(nnrepl.trace(lambda w: (w * w).sum(), mx.array([1.0, 2.0]), wrt=0))
    session.run("goto start")
    session.run("w = w * 3")
    session.run("goto end")
    lines = rendered(session.run("plot loss, w.max() 1 2"))
    assert [line.partition("   ")[0][2:] for line in lines[:4]] == [
        "loss in timeline 1", "loss in timeline 2", "w.max() in timeline 1", "w.max() in timeline 2",
    ]  # fmt: skip
    assert [re.search(r"last (\S+)", line)[1] for line in lines[:4]] == ["5", "45", "2", "6"]  # type: ignore[index]
    assert session.tape is session.changes.timelines.current.tape
    table = rendered(session.run("timelines"))
    assert re.fullmatch(r"  1  as it is .* to step 1 · backward  loss 5", table[0])
    assert re.fullmatch(r"▶ └ 2  w = w \* 3  before #\d .* to step 1 · backward  loss 45", table[1])


def test_several_names_side_by_side_and_one_step() -> None:
    """Also without a comma; and each of them has to be there."""

    def train(w: mx.array) -> mx.array:
        for _ in range(3):
            first, g = mx.value_and_grad(lambda w: (w * w).sum())(w)
            w = w - 0.1 * g
            second, g = mx.value_and_grad(lambda w: mx.exp(w).sum())(w)
            w = w - 0.1 * g
        return w + 0 * first + 0 * second

    session = OpenSession(nnrepl.trace(train, mx.array([1.0, 2.0])))
    session.run("goto end")
    for line in ("plot second first", "plot second, first", "plot second first * 2"):
        shown = [line.partition("   ")[0] for line in rendered(session.run(line))[:2]]
        assert [title.split()[1] for title in shown] == ["second", "first"], shown
    with pytest.raises(nnrepl.UserError, match="nothing here is called firs;"):
        session.run("plot second firs")
    with pytest.raises(nnrepl.UserError, match="with commas it is several expressions: first, second"):
        session.run("p first second")
    one = OpenSession(nnrepl.trace(lambda w: (w * w).sum(), mx.array([1.0, 2.0]), wrt=0))
    one.run("goto end")
    assert str(one.run("plot loss")) == "loss = 5 in step 1: a curve takes two steps"


def test_zero_begins_a_range_whatever_rounding_does() -> None:
    for low, high in (
        (-0.0049716394975966175, 0.00055),
        (-0.0027110421642334353, 0.00078),
        (-0.00819956199824651, 0.00088),
    ):
        for size in (16, 40, 100, 200):
            array = mx.array([low, high, *[0.0] * (size - 2)])
            found, edges, _ = counts(array, summarize(array))
            zero = min(range(len(edges)), key=lambda place: abs(edges[place]))
            assert sum(found[:zero]) == 1, edges


@pytest.mark.parametrize("width", [62, 80, 120])
def test_a_long_name_of_a_gradient_keeps_its_end(width: int) -> None:
    """Its weight is told from its bias, and no bar is longer than that of the largest."""
    inner = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 2))))
    model = nn.Sequential(nn.Sequential(nn.Sequential(inner)))
    session = OpenSession(nnrepl.trace(lambda x: model(x).square().sum(), mx.ones((1, 3)), wrt=model))
    session.run("goto end")
    console = Console(file=io.StringIO(), width=width, theme=DARK, highlight=False, markup=False)
    console.print(session.run("info gradients"))
    rows = console.file.getvalue().splitlines()[1:-1]  # type: ignore[attr-defined]
    assert len(rows) == 6
    assert all(re.match(r"∂L/∂\S+\.layers\.\d\.(weight|bias) +[\d.]+  [█▉▊▋▌▍▎▏]+", row) for row in rows), rows
    bars = [len(re.search(r"[█▉▊▋▌▍▎▏]+", row)[0]) for row in rows]  # type: ignore[index]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] >= 8
