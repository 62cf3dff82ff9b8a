"""What a notebook shows: styles as CSS, blanks only where they can be seen, pictures of what a tensor holds."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest
from rich.segment import ControlType, Segment
from rich.style import Style
from rich.text import Text

from nnrepl.view import html
from nnrepl.view.heatmap import matrix_of, shrunk


@pytest.mark.parametrize(
    ("style", "css"),
    [
        (None, ""),
        ("", ""),
        ("default", ""),
        ("red", "color:var(--nr1)"),
        ("bright_red", "color:var(--nr1)"),
        ("bright_black", "color:var(--nr8)"),
        ("white on black", "color:var(--nr7);background:var(--nr0)"),
        ("bright_white", "color:var(--nr0)"),
        ("#102030", "color:#102030"),
        ("bold italic underline", "font-weight:bold;font-style:italic;text-decoration:underline"),
        ("reverse", "color:var(--jp-layout-color0,canvas);background:var(--nr0)"),
        ("red on blue reverse", "color:var(--nr4);background:var(--nr1)"),
    ],
)
def test_a_style_as_css(style: str | None, css: str) -> None:
    assert html._css(None if style is None else Style.parse(style)) == css


def test_pieces_of_a_line() -> None:
    def span(text: str, style: str = "") -> str:
        return html._span(Segment(text, Style.parse(style)))

    assert span("a < b") == "a &lt; b"
    assert span("x", "red") == '<span style="color:var(--nr1)">x</span>'
    assert span("  ", "red") == "  ", "nobody sees the colour of a blank"
    assert span("  ", "on red") == '<span style="background:var(--nr1)">  </span>'
    assert span(" ", "underline") == '<span style="text-decoration:underline"> </span>'
    assert html._span(Segment("\a", None, [(ControlType.BELL,)])) == ""
    assert html.rendered(Text("ab c  \nd"), width=4) == "<pre>ab c\nd</pre>"


def test_the_matrix_that_is_drawn() -> None:
    cube = mx.arange(24).reshape(2, 3, 4)
    matrix, which = matrix_of(cube)
    assert (matrix.tolist(), which) == (cube[0].tolist(), "[0], the first of 2")
    assert matrix_of(cube[:1])[1] == "", "there is no other"
    assert matrix_of(cube.reshape(2, 3, 2, 2))[1] == "[0, 0], the first of 6"
    matrix, which = matrix_of(mx.array([3 + 4j, 0]))
    assert (matrix.tolist(), which) == ([[5.0, 0.0]], "")
    assert matrix_of(mx.array(2.0))[0].tolist() == [[2.0]]


def test_a_large_matrix_is_shown_by_the_means_of_blocks() -> None:
    matrix = mx.arange(12.0).reshape(3, 4)
    assert shrunk(matrix, 3, 4) == matrix.tolist()
    assert shrunk(matrix, 3, 2) == [[0.5, 2.5], [4.5, 6.5], [8.5, 10.5]]
    assert shrunk(matrix, 2, 4) == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert shrunk(matrix, 1, 1) == [[5.5]]
    assert shrunk(mx.array([[1.0, 2.0, 3.0]]), 5, 2) == [[1.0, 2.5]]
    assert math.isnan(shrunk(mx.array([[1.0, math.nan]]), 1, 1)[0][0])


def test_a_picture_tells_its_size_and_its_scale() -> None:
    assert html.picture(mx.array([1.0])) == ""
    shown = html.picture(mx.arange(6.0).reshape(2, 3))
    assert "2 by 3 cells, 0 to 5" in shown
    assert "the first of" not in shown
    assert "[0], the first of 2" in html.picture(mx.arange(8.0).reshape(2, 2, 2))
    assert "128 by 256 cells" in html.picture(mx.zeros((200, 300)))
