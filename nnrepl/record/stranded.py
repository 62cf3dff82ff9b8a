"""Stranded: what a compiled function leaves elsewhere than in what it returns, and in its `outputs`.

MLX runs a compiled function once, on tracers: arrays without numbers (`compile_trace` in mlx/compile.cpp). What it puts
into a model that is not among its `outputs`, or into a list, stays there and can never be evaluated ("Attempting to
eval an array without a primitive"). While recording the function runs on ordinary arrays. So those that are left get
MLX's own tracers for a content when it is over: the program fails where it would fail in plain Python.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.leavings import marked
from nnrepl.record.objects import object_of, refill
from nnrepl.record.strays import native, raw
from nnrepl.tape import Tracer, Value, inside_of

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder
    from nnrepl.record.tracing import Tracing

_compile, _zeros = map(raw, (mx.compile, mx.zeros))
_copy = mx.array.__copy__
_OF_OURS = 3
"""So many references has an object that only the tape holds: its value's, and two here."""


def strand(
    recorder: Recorder, tracing: Tracing, before: Collection[int], handed: Collection[int], function: str
) -> None:
    """Leave tracers where a function that has been traced has left arrays.

    Args:
        before: The `id` of the array objects that there were when it began.
        handed: That of those which its `outputs` hold: they get what it gives.
        function: What it is called.
    """
    left = [(key, value) for key, value in recorder.live.copy().items()
            if key not in handed and (key not in before or tracing.has_made(value))]  # fmt: skip
    depending = tracing.depending([value for _, value in left])
    holding: dict[int, set[Value]] = {}
    for op in recorder.tape.ops[tracing.start :]:  # what goes in and out of a nested call may be one object within it
        for one in (*op.inputs, *op.outputs):
            holding.setdefault(id(one.held), set()).add(one)
    stranded: dict[int, Value] = {}
    for key, value in left:
        array = object_of(recorder, key, value) if value in depending else None
        if array is None or (value.held is array and sys.getrefcount(array) <= _OF_OURS):
            continue
        for one in {value, *holding.get(key, ())}:
            if one.held is array:  # what the tape has of it stays what it is
                one.held = _copy(array)
        stranded[key] = _within(value)
        refill(array, _tracer(array))
        recorder.link(array, Tracer(recorder.tape, array, value.label, function))
        recorder.watch.changed(array, value)
    # What an edit has put into one of them is not taken out again: it is nothing that the program goes on with.
    recorder.overwritten[:] = [one for one in recorder.overwritten if id(one[1]) not in stranded]
    recorder.tape.bindings.know(tracing.start, stranded)  # of what it held before, the object tells no longer


def _within(value: Value) -> Value:
    """Return what a nested call has left as it is within that: there the variable was given it."""
    op = value.op
    inside = None if op is None else inside_of(op)
    if op is None or inside is None:
        return value
    run: Any = op.operation.run
    marks = getattr(run, "marks", [])
    at = value.slot - (len(op.outputs) - len(marks))
    mark = marks[at] if at >= 0 else None
    return value if mark is None else marked(inside, mark) or value


def _tracer(like: mx.array) -> mx.array:
    """Return an array of the same shape and dtype that MLX can never evaluate."""
    kept: list[mx.array] = []
    native(_compile(kept.append))(_zeros(like.shape, like.dtype))
    return kept[0]
