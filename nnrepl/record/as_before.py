"""As before: the program's own array objects hold what they held at a position, for a while.

What puts the world back to the entry of a call leaves out the numbers in tensors. A call changes some of them in place
all the same, by lines of the program's (`count += 1`) and by edits, which exchange what array objects hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import mlx.core as mx

from nnrepl.record.changing import changes_in_place
from nnrepl.record.objects import object_of, refill
from nnrepl.tape import Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_copy = mx.array.__copy__


@contextmanager
def as_before(recorder: Recorder, start: int) -> Iterator[None]:
    """Let array objects hold inside what they held before the op at a position; whatever is changed in place in there,
    they hold afterwards what they hold now."""
    changed = list(_changed_since(recorder, start))
    now = [(array, _copy(array)) for array, _ in changed]
    for array, before in changed:
        value = recorder.live[id(array)]
        if value.held is array:  # what the tape has of it stays what it is
            value.held = _copy(array)
            recorder.link(array, value)
        refill(array, before.array)
    try:
        with given_back():
            yield
    finally:
        for array, held in now:
            refill(array, held)


@contextmanager
def given_back() -> Iterator[None]:
    """Take back what is changed in place inside."""
    with changes_in_place() as written:
        try:
            yield
        finally:
            for array, held in written.values():
                refill(array, held)


def _changed_since(recorder: Recorder, start: int) -> Iterator[tuple[mx.array, Value]]:
    """Yield the array objects that have been changed in place since a position, and what they held there."""
    for key, value in recorder.live.copy().items():  # some may die meanwhile
        before = _before(value, start)
        array = None if before is value else object_of(recorder, key, value)
        if array is not None and (before.op is None or before.op.position < start):
            yield array, before


def _before(value: Value, start: int) -> Value:
    """Return what an array object that holds a value held before all changes of it since a position."""
    edits, op = value.tape.notes.edits, value.op
    while op is not None and op.position >= start and (op in edits or op.operation.in_place):
        value = edits[op] if op in edits else op.inputs[0]
        op = value.op
    return value
