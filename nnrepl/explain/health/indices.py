"""Indices: places outside of their axis. MLX does not check them: what is read there is anything, or a crash."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import Checkup, Finding, findings
from nnrepl.ops.numbers import unravel
from nnrepl.record.bounds import TakenPlaces, places
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim


def outside(case: Checkup) -> Iterator[Finding]:
    """Find indices that point outside of the axis that they count. Looks at nothing but the indices themselves."""
    for op in case.forward:
        for place in places(op):
            claim = _outside(case, op, place) if isinstance(place.index, Value) else None
            if claim is not None:
                case.unsafe = True
                yield from findings(claim, "index out of range", f"explain {op.label}", op)
                return  # what is computed from it is not worth a look


def _outside(case: Checkup, op: Op, place: TakenPlaces) -> Claim[str] | None:
    """Return what to say about places that are outside; None if none is."""
    index: Value = place.index
    if not index.size or not mx.issubdtype(index.dtype, mx.integer) or not case.look.can_see(index):
        return None
    array = case.look.array(index).astype(mx.int64)
    bad = ((array >= place.extent) | (array < place.lowest)).flatten()
    count, first, largest = case.look.numbers([mx.sum(bad), mx.argmax(bad), mx.max(array)])
    if not count:
        return None
    number = case.look.numbers([array.flatten()[first]])[0]
    where = words.place(op.source)
    axis = "" if place.axis is None else f"axis {place.axis} of "
    return Claim("finding: index out of range", lambda: not place.lowest <= number < place.extent, lambda: (
        f"{words.element(index.name, unravel(first, index.shape))} = {words.number(number)}, but {axis}"
        f"{place.table.name} {place.said}: {op.label} {words.call(op)} ({where}) "
        f"reads outside of it, which MLX does not check ({count} of {index.size} indices; the largest is "
        f"{words.number(largest)})"))  # fmt: skip
