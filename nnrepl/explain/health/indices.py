"""Indices: places outside of their axis. MLX does not check them: what is read there is anything, or a crash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import Case, Finding
from nnrepl.session.births import unravel
from nnrepl.tape import Op, Value

_ALONG = ("take", "take_along_axis", "put_along_axis")


def outside(case: Case) -> Iterator[Finding]:
    """Indices that point outside of the axis that they count. Looks at nothing but the indices themselves."""
    for op in case.forward:
        for index, extent, axis in indexed(op):
            text = _outside(case, op, index, extent, axis)
            if text:
                case.unsafe = True
                yield Finding("index out of range", text, f"explain {op.label}", op)
                return  # what is computed from it is not worth a look


def indexed(op: Op) -> Iterator[tuple[Value, int, int]]:
    """The tensors that an op takes as places, each with the length and the number of the axis that they count."""
    if not op.inputs or not op.args or not isinstance(op.args[0], Value):
        return
    shape = op.args[0].shape
    if op.name in _ALONG:
        place: Any = op.args[1] if len(op.args) > 1 else op.kwargs.get("indices")
        at = {"put_along_axis": 3}.get(op.name, 2)
        axis = op.args[at] if len(op.args) > at else op.kwargs.get("axis")
        if isinstance(place, Value):
            if isinstance(axis, int) and shape:
                yield place, shape[axis], axis % len(shape)
            elif axis is None:
                size = op.args[0].size
                yield place, size, 0
    elif op.name == "getitem" and len(op.args) > 1:
        yield from _in_brackets(op.args[1], shape)


def _in_brackets(index: Any, shape: tuple[int, ...]) -> Iterator[tuple[Value, int, int]]:
    parts = list(index) if isinstance(index, tuple) else [index]
    used = sum(1 for part in parts if part is not None and part is not Ellipsis)
    axis = 0
    for part in parts:
        if part is None:
            continue
        if part is Ellipsis:
            axis += len(shape) - used
            continue
        if isinstance(part, Value):
            if part.dtype == mx.bool_ or axis >= len(shape):
                return
            yield part, shape[axis], axis
        axis += 1


def _outside(case: Case, op: Op, index: Value, extent: int, axis: int) -> str:
    """What to say about places that are outside; "" if none is."""
    if not index.size or not mx.issubdtype(index.dtype, mx.integer) or not case.look.can_see(index):
        return ""
    array = case.look.array(index).astype(mx.int64)
    bad = ((array >= extent) | (array < -extent)).flatten()
    count, first, largest = case.look.numbers([mx.sum(bad), mx.argmax(bad), mx.max(array)])
    if not count:
        return ""
    number = case.look.numbers([array.flatten()[first]])[0]
    where = words.place(op.source)
    table = op.args[0]
    return (
        f"{words.element(index.name, unravel(first, index.shape))} = {words.number(number)}, but axis {axis} of "
        f"{table.name} {tuple(table.shape)} has the places 0 to {extent - 1}: {op.label} {words.call(op)} ({where}) "
        f"reads outside of it, which MLX does not check ({count} of {index.size} indices; the largest is "
        f"{words.number(largest)})"
    )
