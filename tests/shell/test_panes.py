"""A pane of the full screen under the keys and the mouse: what is seen, what is marked, and what a line stands for."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from prompt_toolkit.application import Application
from prompt_toolkit.application.current import set_app
from prompt_toolkit.data_structures import Point
from prompt_toolkit.input import DummyInput
from prompt_toolkit.layout import Layout, VSplit, Window
from prompt_toolkit.mouse_events import MouseButton, MouseEvent, MouseEventType
from prompt_toolkit.output import DummyOutput
from rich.text import Text

from nnrepl.shell.panes import Pane
from nnrepl.view.content import Content, Flow, Item, Part
from nnrepl.view.theme import DARK

HEIGHT, WIDTH, WHEEL = 5, 20, 3


def part(at: int) -> Part:
    return Part(Text(f"line {at}"), Item(f"click {at}", f"enter {at}", f"stop {at}", f"until {at}"))


class Numbered:
    """As many lines as there are, each with its number."""

    key = None

    def __init__(self, lines: int, home: int, chosen: int) -> None:
        self._lines, self._home, self._chosen = lines, home, chosen

    def count(self, width: int) -> int | None:
        return self._lines

    def home(self, count: int, height: int) -> int:
        return self._home

    def chosen(self) -> int:
        return self._chosen

    def parts(self, first: int, width: int, height: int, right: int) -> Sequence[Part]:
        return [part(at) for at in range(first, min(first + height, self._lines))]


class Hands:
    """A pane with the focus, or without it, and a model of where one is in it.

    Attributes:
        mark, first: The line that is marked, and the first one that is seen.
    """

    def __init__(self, content: Content, lines: int, mark: int, first: int) -> None:
        self.ran: list[str] = []
        self.pane = Pane(lambda: content, lambda: DARK, True, self.ran.append)
        other = Pane(lambda: None, lambda: DARK, True)
        self.windows = Window(self.pane), Window(other)
        self.app: Application[None] = Application(
            layout=Layout(VSplit(self.windows)), input=DummyInput(), output=DummyOutput()
        )
        self.lines, self.mark, self.first = lines, mark, first

    def press(self, key: str) -> None:
        (binding,) = [one for one in self.pane.get_key_bindings().bindings if one.keys == (key,)]
        binding.handler(None)  # type: ignore[arg-type]

    def mouse(self, kind: MouseEventType, row: int = 0) -> object:
        event = MouseEvent(Point(0, row), kind, MouseButton.LEFT, frozenset())
        return self.pane.mouse_handler(event)

    def keep_in_view(self) -> None:
        self.mark = max(min(self.mark, self.lines - 1), 0)
        self.first = min(max(self.first, self.mark - HEIGHT + 1), self.mark)

    def check(self, focused: bool = True) -> None:
        """What is seen is a piece of what there is; one line of it is marked, from edge to edge, if that is in view."""
        content = self.pane.create_content(WIDTH, HEIGHT)
        shown = [content.get_line(at) for at in range(content.line_count)]
        texts = ["".join(piece[1] for piece in line) for line in shown]
        wanted = range(self.first, min(self.first + HEIGHT, self.lines))
        assert [text.rstrip() for text in texts] == [f"line {at}" for at in wanted]
        marked = [at for at, line in zip(wanted, shown) if all("class:marked" in piece[0] for piece in line)]
        assert marked == [at for at in wanted if focused and at == self.mark]
        assert all(len(texts[at - self.first]) == WIDTH for at in marked)


KINDS = ["numbered", "flow", "tail"]


def opened(kind: str, lines: int, chosen: int = 0, home: int = 0) -> Hands:
    if kind == "numbered":
        last = max(lines - HEIGHT, 0)
        hands = Hands(Numbered(lines, home, chosen), lines, chosen, min(home, last))
    else:
        tail = kind == "tail"
        content = Flow([part(at) for at in range(lines)], tail=tail)
        hands = Hands(content, lines, lines - 1 if tail else 0, max(lines - HEIGHT, 0) if tail else 0)
    hands.keep_in_view()
    return hands


@pytest.mark.parametrize("kind", KINDS)
def test_a_pane_follows_the_hands(kind: str) -> None:
    """Random keys, wheel and clicks against a model of the window."""
    dice = random.Random(kind)
    for lines in (1, HEIGHT - 1, HEIGHT, 23):
        hands = opened(kind, lines, dice.randrange(lines), dice.randrange(lines))
        with set_app(hands.app):
            hands.check()
            for _ in range(40):
                what = dice.choice(
                    ["up", "down", "home", "end", "pageup", "pagedown", "wheel", "wheel up", "click", "key"]
                )
                steps = {"up": -1, "down": 1, "home": -99, "end": 99, "pageup": 1 - HEIGHT, "pagedown": HEIGHT - 1}
                if what in steps:
                    hands.press(what)
                    hands.mark += steps[what]
                    hands.keep_in_view()
                elif what.startswith("wheel"):
                    up = what == "wheel up"
                    assert hands.mouse(MouseEventType.SCROLL_UP if up else MouseEventType.SCROLL_DOWN) is None
                    hands.first = max(min(hands.first + (-WHEEL if up else WHEEL), lines - HEIGHT), 0)
                elif what == "click":
                    row = dice.randrange(HEIGHT)
                    hands.mouse(MouseEventType.MOUSE_UP, row)
                    if row < min(HEIGHT, lines):
                        hands.mark = hands.first + row
                        assert hands.ran.pop() == f"click {hands.mark}"
                elif hands.first <= hands.mark < hands.first + HEIGHT:
                    key, does = dice.choice([("c-m", "enter"), (" ", "click"), ("b", "stop"), ("t", "until")])
                    hands.press(key)
                    assert hands.ran.pop() == f"{does} {hands.mark}"
                assert not hands.ran
                hands.check()


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_focus_no_line_is_marked_and_the_place_is_kept(kind: str) -> None:
    hands = opened(kind, 23, 2, 0)
    with set_app(hands.app):
        hands.check()
        hands.press("pagedown")
        hands.mark += HEIGHT - 1
        hands.keep_in_view()
        hands.check()
        hands.app.layout.focus(hands.windows[1])
        hands.check(focused=False)
        hands.app.layout.focus(hands.windows[0])
        hands.check()


def test_a_key_does_nothing_where_the_marked_line_is_out_of_sight() -> None:
    hands = opened("numbered", 23, 2)
    with set_app(hands.app):
        hands.check()
        for _ in range(4):
            hands.mouse(MouseEventType.SCROLL_DOWN)
            hands.pane.create_content(WIDTH, HEIGHT)
        hands.press("b")
    assert hands.ran == []


def test_a_line_without_an_item_leads_where_its_text_says() -> None:
    content = Flow([Part(Text("like 3#12 at net.py:7")), Part(Text("nothing"))])
    hands = Hands(content, 2, 0, 0)
    with set_app(hands.app):
        hands.pane.create_content(40, HEIGHT)
        hands.press("c-m")
        hands.press("b")  # a breakpoint is for what is known to be an op
        hands.mouse(MouseEventType.MOUSE_UP, 1)
        event = MouseEvent(Point(15, 0), MouseEventType.MOUSE_UP, MouseButton.LEFT, frozenset())
        hands.pane.mouse_handler(event)
    assert hands.ran == ["goto 3#12", "list net.py:7"]
