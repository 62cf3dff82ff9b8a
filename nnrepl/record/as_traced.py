"""As traced: a later call of a compiled function whose source runs once more, in the world of its first call.

What is repeated is what the first call did, with what it found then: a cache that was empty, a counter at 0. Where
the source has to run because the user gives a tensor another value in it, it must find the same, or it would do
something else; what it does to the program's own things is no part of a repeated call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.tape import Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

PutBack = Callable[[], None]


def kept_world(recorder: Recorder, *reached: Any) -> PutBack | None:
    """Return what puts back all that a function can reach, where it is traced in a run in which one of its later calls
    may need that; None where none will, or where not all can be put back."""
    if recorder.listener is None or not recorder.intake.has_line(recorder, sys.maxsize, passing=True):
        return None
    return recorder.listener.remember(reached)


@contextmanager
def world_of(
    recorder: Recorder, world: PutBack | None, count: int, captured: tuple[Any, Sequence[Value]], *reached: Any
) -> Iterator[bool]:
    """Have all as the first call found it, but for what is captured, which a later call is given; and afterwards as it
    is now. Yields whether that is so.

    Args:
        world: What puts that back.
        count: How many ops the first call made.
        captured: The `inputs` of the compiled function, and what they are now.
    """
    wanted = world is not None and recorder.intake.has_line(recorder, count, passing=True)
    now = recorder.listener.remember(reached) if wanted and recorder.listener is not None else None
    if world is None or now is None:
        yield False
        return
    world()
    try:
        _fill(captured[0], map(recorder.handle, captured[1]))
        yield True
    finally:
        now()


def _fill(tree: Any, arrays: Iterator[mx.array]) -> None:
    """Put arrays into a captured tree; the random state in it is treated apart."""
    if tree is not None:
        trees.fill(tree, lambda _: next(arrays))
