"""Quiet: the program's functions are called once more, and nobody is to notice."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx

from nnrepl.record.recorder import MUTED, current

_copy, _setitem, _tolist = mx.array.__copy__, mx.array.__setitem__, mx.array.tolist
_seed = mx.random.seed
_RANDOM_STATE: Any = mx.random.state


@contextlib.contextmanager
def exchanged(places: Sequence[tuple[mx.array, mx.array]]) -> Iterator[None]:
    """Let the program's own array objects hold other arrays for a while: that reaches every closure,
    module and list in which they lie."""
    # What is assigned to an array object replaces what it is: only another object still has what it was.
    before = [(thing, _copy(thing)) for thing, _ in places]
    given = [(thing, _copy(array)) for thing, array in places]
    try:
        for thing, array in given:
            _setitem(thing, Ellipsis, array)
        yield
    finally:
        for thing, array in before:
            _setitem(thing, Ellipsis, array)


@contextlib.contextmanager
def quietly(state: mx.array | None = None) -> Iterator[None]:
    """Call a function of the program's once more: nothing is recorded or printed, and random numbers are
    drawn from `state`."""
    recorder = current()
    before = None if recorder is None else recorder.mode
    if recorder is not None:
        recorder.mode = MUTED
    nowhere = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace")
    _QUIET.append(nowhere)
    try:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), _random(state):
            yield
    finally:
        _QUIET.pop()
        if recorder is not None and before is not None:
            recorder.mode = before


_QUIET: list[io.TextIOWrapper] = []


def is_quiet() -> bool:
    """Whether a function of the program's is called once more: what it writes to a stream that it has kept (as loggers
    and progress bars do) is not to be shown either."""
    return bool(_QUIET)


@contextlib.contextmanager
def _random(state: mx.array | None) -> Iterator[None]:
    """Draw the random numbers of an earlier moment, and leave the global state as it is."""
    if state is None:
        yield
        return
    now = _RANDOM_STATE[0]
    set_random_state(state)
    try:
        yield
    finally:
        set_random_state(now)


def set_random_state(state: mx.array) -> None:
    """Put MLX's random state (of this thread) to what it was: a key is the two halves of its seed."""
    halves: Any = _tolist(state)
    high, low = halves
    _seed((high << 32) | low)
