"""Blocks: functions that run twice, and what the user has typed in them.

The backward pass of a checkpoint runs its function again, and Python comes by each of its lines twice. Inside of a
nested gradient MLX does that by itself, and more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from nnrepl.classes import dataclass


@dataclass(frozen=True, slots=True)
class LineTwice:
    """A line of the user's in a block that runs twice.

    Attributes:
        after: How many ops of the block come before it.
        run: Runs it where the program stands.
        wait: Waits for the line of the program's before which it stands, and calls what it is given there; None where
            it stands before an op.
        inside: Whether that line lies inside of a call that MLX runs by itself.
    """

    after: int
    run: Callable[[], None]
    wait: Callable[[Callable[[], None]], None] | None
    inside: bool


@dataclass(frozen=True, slots=True)
class LineLater:
    """A line of the user's in a function that MLX runs again by itself.

    Attributes:
        run: Runs it where the program stands.
        wait: Waits for the line of the program's before which it stands, and calls what it is given there.
        leave: Waits no longer.
    """

    run: Callable[[], None]
    wait: Callable[[Callable[[], None]], None]
    leave: Callable[[], None]


class TwiceRun:
    """A function that runs, and that will run once more.

    Attributes:
        start: The position of its first op.
        by_mlx: Whether MLX will run it by itself, within a call.
        lines: What the user has typed in it, in order; `later` where MLX runs it.
    """

    def __init__(self, start: int, by_mlx: bool = False) -> None:
        self.start = start
        self.by_mlx = by_mlx
        self.lines: list[LineTwice] = []
        self.later: list[LineLater] = []


def note_line(
    blocks: Iterable[TwiceRun],
    position: int,
    run: Callable[[], None],
    wait: Callable[[Callable[[], None]], None] | None,
    inside: bool = False,
) -> None:
    """Note that a line of the user's runs at a position: the blocks that run now will come by it once more."""
    for block in blocks:
        if not block.by_mlx:
            block.lines.append(LineTwice(position - block.start, run, wait, inside))


@contextmanager
def having(lines: Iterable[LineLater]) -> Iterator[None]:
    """Run lines of the user's where the program comes by, inside: one after another, each once."""
    pending = list(lines)
    waited: list[LineLater] = []

    def wait() -> None:
        if pending:
            waited[:] = [pending.pop(0)]
            waited[0].wait(came)

    def came() -> None:
        waited[0].leave()
        waited[0].run()
        wait()

    wait()
    try:
        yield
    finally:
        for line in waited:
            line.leave()
