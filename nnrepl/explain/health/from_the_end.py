"""From the end: rows of a table of weights that are taken by a negative number, as `ids - 1` gives for the first."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import NOTE, Check, Checkup, Finding, findings
from nnrepl.ops.numbers import unravel
from nnrepl.record.bounds import TakenPlaces, places
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim


def from_the_end(case: Checkup) -> Iterator[Finding]:
    """Find weights that are looked up at places below 0: those are counted from the end."""
    told: set[Value] = set()
    weights = {leaf.canonical for leaf in case.pass_.wrt}
    for op in case.forward:
        for place in places(op):
            index = place.index
            if not isinstance(index, Value) or index in told or place.table.canonical not in weights:
                continue
            told.add(index)
            found = _below_zero(case, index)
            if found is not None:
                claim = _counts_back(case, op, place, *found)
                yield from findings(claim, "from the end", f"explain {op.label}", op, NOTE)


def _below_zero(case: Checkup, index: Value) -> tuple[int, int, int, int] | None:
    """Return how many places are below 0, which is the first, and the least and the largest of all; None of none."""
    if not index.size or not mx.issubdtype(index.dtype, mx.signedinteger) or not case.look.can_see(index):
        return None
    array = case.look.array(index).flatten()
    below = array < 0
    count, first, least, most = case.look.numbers([mx.sum(below), mx.argmax(below), mx.min(array), mx.max(array)])
    return (int(count), int(first), int(least), int(most)) if count and most >= 0 else None


def _counts_back(
    case: Checkup, op: Op, place: TakenPlaces, count: int, first: int, least: int, most: int
) -> Claim[str]:
    """Claim that some of the places that are taken are below 0."""
    index: Value = place.index

    def holds() -> bool:
        return bool(case.look.numbers([mx.sum(case.look.array(index) < 0)])[0] == count)

    def said() -> str:
        number = int(case.look.numbers([case.look.array(index).flatten()[first]])[0])
        return (
            f"{words.element(index.name, unravel(first, index.shape))} = {words.number(number)}: {op.label} "
            f"{words.call(op)} ({words.spot(op)}) counts it from the end and takes place {place.extent + number} of "
            f"{place.extent} ({count} of {index.size} are below 0; they go from {words.number(least)} to "
            f"{words.number(most)})"
        )

    return Claim("finding: from the end", holds, said)


CHECKS: list[Check] = [from_the_end]
