"""Lesson: the list of lessons, the head of one, and what asks for something."""

from __future__ import annotations

from collections.abc import Sequence

from rich.align import Align
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.view.prose import line, prose


@dataclass(frozen=True, slots=True)
class LessonRow:
    """A lesson in the list.

    Attributes:
        note: How far the user has come.
    """

    name: str
    title: str
    minutes: int
    note: str


def lessons_view(rows: Sequence[LessonRow]) -> RenderableType:
    """Return the lessons that there are."""
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(justify="right")
    grid.add_column()
    grid.add_column(justify="right", style="dim")
    grid.add_column(style="good")
    for row in rows:
        grid.add_row(Text(row.name, style="op.name"), row.title, f"{row.minutes} min", row.note)
    said = "learn 1 plays the first, learn my_lesson.md one of your own; help learn says more"
    return Group(grid, Text(said, style="hint"))


def head(name: str, title: str, at: int, parts: int) -> RenderableType:
    """Return the head of a lesson, and where one goes on in it."""
    shown = Text.assemble((f"Lesson {name}", "heading"), " · ", (title, "bold"))
    if not at:
        return shown
    return Group(shown, hint(f"going on at part {at + 1} of {parts}; learn again begins at its start"))


def formula(text: str, large: bool) -> RenderableType:
    """Return a formula that stands alone; large for a room."""
    if not large:
        return Padding(Text(text, style="bold"), (0, 0, 0, 4))
    return Panel(Align.center(Padding(Text(text, style="bold"), (1, 4))), style="bold")


def task_view(text: str) -> RenderableType:
    """Return a question, or a task."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row(Text("?", style="heading"), prose(text))
    return grid


def options(texts: Sequence[str]) -> RenderableType:
    """Return what there is to choose from."""
    grid = Table.grid(padding=(0, 1))
    for number, text in enumerate(texts, 1):
        grid.add_row(Text(f"   {number}.", style="op.name"), line(text))
    return grid


def hint(text: str, arrow: bool = False) -> RenderableType:
    """Return what one may type."""
    return Text(f"{'▸' if arrow else ' '} {text}", style="hint")
