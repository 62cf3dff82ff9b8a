"""Blocks: functions that run twice, and what the user has typed in them.

The backward pass of a checkpoint runs its function again, and Python comes by each of its lines twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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


class TwiceRun:
    """A function that runs, and that will run once more.

    Attributes:
        start: The position of its first op.
        lines: What the user has typed in it, in order.
    """

    def __init__(self, start: int) -> None:
        self.start = start
        self.lines: list[LineTwice] = []


def note_line(
    blocks: Iterable[TwiceRun],
    position: int,
    run: Callable[[], None],
    wait: Callable[[Callable[[], None]], None] | None,
    inside: bool = False,
) -> None:
    """Note that a line of the user's runs at a position: the blocks that run now will come by it once more."""
    for block in blocks:
        block.lines.append(LineTwice(position - block.start, run, wait, inside))
