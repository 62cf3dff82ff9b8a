"""Gradients beside a row of a slide: as many as there is room for, each whole, and how many more there are."""

from __future__ import annotations

from rich.text import Text

from nnrepl.view.slide_text import BAR, _few, _whole, bar

PARTS = [Text(word) for word in ("one 1", "two 22", "three 333")]


def test_no_number_is_cut() -> None:
    whole = [(room, _whole(PARTS, room).plain) for room in (3, 12, 16, 17, 23, 24)]
    assert whole == [
        (3, "one 1  +2"),
        (12, "one 1  +2"),
        (16, "one 1  +2"),
        (17, "one 1  two 22  +1"),
        (23, "one 1  two 22  +1"),
        (24, "one 1  two 22  three 333"),
    ]


def test_five_are_shown_and_the_rest_is_counted() -> None:
    assert [part.plain for part in _few(PARTS)] == [part.plain for part in PARTS]
    assert [part.plain for part in _few([Text(str(at)) for at in range(5)])] == ["0", "1", "2", "3", "4"]
    assert [part.plain for part in _few([Text(str(at)) for at in range(7)])] == ["0", "1", "2", "3", "4", "+2"]


def test_a_bar_is_as_long_as_the_gradient_is_large() -> None:
    assert bar(1.0) == "█" * BAR
    assert [bar(share).rstrip() for share in (0, 1e-6, 0.5, 9 / 64)] == ["", "▏", "████", "█▏"]
    assert all(len(bar(share)) == BAR for share in (0, 0.3, 1))
