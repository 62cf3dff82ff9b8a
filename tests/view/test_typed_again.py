"""What is said of typed cells that are taken back, that run again, or that come after an edit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nnrepl.timeline.typed_cells import Cell
from nnrepl.view.timeline_tree import again_text, below_text, news_text, taken_text


def cells(*texts: str) -> tuple[Cell, ...]:
    return tuple(Cell(number, text, (), frozenset()) for number, text in enumerate(texts, 3))


def test_cells_are_called_by_their_numbers_and_the_first_line_of_the_first() -> None:
    one, more = cells("a = 1"), cells("for i in range(3):\n    step()", "b = 2")
    assert str(taken_text(one)) == "prompt 3 is taken back: a = 1"
    assert str(taken_text(more)) == "prompt 3, 4 are taken back: for i in range(3): ..."
    assert str(again_text(one)) == "prompt 3 again: a = 1"
    assert str(again_text(more)) == "prompt 3, 4 again: for i in range(3): ..."


@pytest.mark.parametrize(("count", "said"), [(0, None), (1, "prompt 3"), (3, "prompt 3 to 5")])
def test_what_was_typed_below_an_edit_runs_again(count: int, said: str | None) -> None:
    timeline: Any = SimpleNamespace(below=cells(*["a = 1"] * count))
    found = below_text(timeline)
    assert (found and str(found)) == (said and f"continue runs what was typed below it again: {said}")


@pytest.mark.parametrize("once", [True, False])
def test_what_a_line_is_said_to_have_done_and_what_it_could_not(once: bool) -> None:
    code = SimpleNamespace(text="x.append(1)", once=once, said=("x is longer", "not y"))
    timeline: Any = SimpleNamespace(number=2, code=code, lost=lambda: [SimpleNamespace(text="w = 3")])
    text = news_text(timeline, False)
    first, *others = str(text).splitlines()
    assert first == f"timeline 2: x.append(1){'; from here on the program runs with it' if once else ''}"
    assert others == ["x is longer", "not y", "w = 3 lay further on and is not made again here"]
    warned = ["".join(str(text)[span.start : span.end]).strip() for span in text.spans if span.style == "warning"]
    assert warned == others[1:]
