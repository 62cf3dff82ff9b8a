"""Lines of arithmetic that are too long: nothing is lost, nothing is too wide, they break where a reader would."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from nnrepl.view.equations import broken

SUM = "y[0] = " + " + ".join(f"(a[{at}] − μ)² · 权[{at}]" for at in range(12))
LINES = (
    SUM,
    "= " + "7" * 90,
    "μ = mean x[0,:] = 1/4 · (−0.3391 + 0.8077 + 0.7863 + 0.6013) = 0.4640",
    "x" * 130,
    "权" * 70,
    "",
)


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("width", [12, 24, 40, 71, 111])
def test_no_piece_is_too_wide_and_nothing_is_lost(line: str, width: int) -> None:
    pieces = broken(line, width)
    assert all(cell_len(piece) <= width for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(line.split())


def test_a_line_breaks_before_a_term_a_definition_and_its_result() -> None:
    second = broken(SUM, 60)[1]
    assert second.startswith(" " * len("y[0] = ") + "+ ")
    assert broken("y = (x − μ) / s · w + b,  μ = mean x,  s = √(mean (x − μ)²)", 42)[1].strip().startswith("s = ")
    assert broken(LINES[2], 68)[1].strip() == "= 0.4640"
    assert broken("g = (share of 1 − 1) · f, because t[3] = 1: 1 is right", 44)[1].strip()[0] not in "=+"
