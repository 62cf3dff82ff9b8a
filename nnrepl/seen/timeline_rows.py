"""Timelines: the tree of them, each with its loss over the steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from nnrepl.classes import dataclass
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS
from nnrepl.timeline.timelines import Timeline, Timelines

MOST = 24
"""The loss is looked at in at most so many steps of a timeline."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A timeline in the tree.

    Attributes:
        timeline: The timeline.
        guide: The lines of the tree before it.
        is_current: Whether the user looks at it.
        losses: The loss at the end of each step; those that are too large to be computed unasked are left out.
        has_loss: Whether it has any loss, computed or not.
        as_of: The step whose loss is the last of them, where later steps have one that is not known; else 0.
    """

    timeline: Timeline
    guide: str
    is_current: bool
    losses: list[float]
    has_loss: bool
    as_of: int


def branches(session: Reading) -> list[Branch]:
    """Return the tree, as it is listed."""
    lines = session.timelines
    return [_branch(session, line, guide) for line, guide in _grown(lines, lines[1], "", "")]


def _branch(session: Reading, line: Timeline, guide: str) -> Branch:
    known = losses_of(session, line)
    calls = [pass_ for pass_ in line.tape.passes if pass_.kind == GRADIENT_PASS and not pass_.within]
    last = max((pass_.step.number for pass_ in calls if len(pass_)), default=0)
    as_of = max(known, default=0)
    has_loss = any(pass_.loss is not None for pass_ in line.tape.passes)
    current = line is session.timelines.current
    return Branch(line, guide, current, list(known.values()), has_loss, as_of if as_of < last else 0)


def _grown(lines: Timelines, timeline: Timeline, guide: str, below: str) -> Iterator[tuple[Timeline, str]]:
    """Yield the timelines as they are listed, each with the lines of the tree before it."""
    yield timeline, guide
    children = lines.children(timeline)
    for at, child in enumerate(children):
        is_last = at == len(children) - 1
        yield from _grown(lines, child, f"{below}{'└ ' if is_last else '├ '}", f"{below}{'  ' if is_last else '│ '}")


def losses_of(session: Reading, timeline: Timeline) -> dict[int, float]:
    """Return the loss at the end of each step of a timeline, by its number, of at most `MOST` steps."""
    last = {pass_.step.number: pass_.loss for pass_ in timeline.tape.passes if pass_.loss is not None}
    found = [(step, loss) for step, loss in spread(list(last.items()), MOST) if loss.size == 1]
    found = [(step, loss) for step, loss in found if loss.evaluated or session.small([loss])]
    session.evaluate([loss for _, loss in found])
    numbers: list[tuple[int, Any]] = [(step, loss.array.item()) for step, loss in found]
    return {step: float(loss.real if isinstance(loss, complex) else loss) for step, loss in numbers}


T = TypeVar("T")


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of some items, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[at * (len(items) - 1) // max(most - 1, 1)] for at in range(most)]
