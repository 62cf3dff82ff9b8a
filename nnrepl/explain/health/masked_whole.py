"""Masked as a whole: rows of attention in which a mask hides every place: their shares are the same for all, and count
in the loss."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.ops import Trait, has
from nnrepl.ops.numbers import unravel
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim

_HIDDEN = -1e4
"""What is as low as this is no score, but what a mask puts there: -1e9, or the least number of a float16."""
_PLAIN = -1e3


def masked_whole(case: Checkup) -> Iterator[Finding]:
    """Find shares of rows that are masked as a whole, to which a gradient comes."""
    told: set[str] = set()
    for op in case.sharing:
        if case.broken or words.spot(op) in told:
            continue
        rows = _rows(case, op)
        if rows is None:
            continue
        count, first = case.look.numbers([mx.sum(rows), mx.argmax(mx.reshape(rows, (-1,)))])
        if count:
            told.add(words.spot(op))
            claim = _hides_all(case, op, int(count), rows.size, unravel(int(first), rows.shape))
            yield from findings(claim, "all masked", f"explain {op.label}", op)


def _rows(case: Checkup, op: Op) -> mx.array | None:
    """Return which rows of shares are masked as a whole and count in the loss; None if that cannot be told."""
    grads = case.pass_.grads.get(op.outputs[0].canonical)
    hiding, axis = _hiding(op)
    if not grads or hiding is None or not all(map(case.look.can_see, (hiding, grads[-1]))):
        return None
    scores = case.look.array(hiding)
    if scores.dtype == mx.bool_:
        hidden, plain = ~mx.any(scores, axis=axis), mx.any(scores)
    else:
        hidden, plain = mx.max(scores, axis=axis) <= _HIDDEN, mx.any(scores > _PLAIN)
    counting = mx.any(case.look.array(grads[-1]) != 0, axis=axis)
    return mx.broadcast_to(hidden, counting.shape) & counting & plain


def _hiding(op: Op) -> tuple[Value | None, int]:
    """Return what says which places of a row are hidden, the scores of a softmax or the mask of an attention, and the
    axis along which a row lies."""
    if has(op.name, Trait.ATTENDS):
        mask = op.kwargs.get("mask")
        return (mask if isinstance(mask, Value) else None), -1
    axis = op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None)
    return (op.inputs[0] if isinstance(axis, int) and op.inputs else None), axis if isinstance(axis, int) else -1


def _hides_all(case: Checkup, op: Op, count: int, among: int, first: tuple[int, ...]) -> Claim[str]:
    """Claim of how many rows all places are hidden although the loss depends on what is made of them."""

    def holds() -> bool:
        rows = _rows(case, op)
        return rows is not None and case.look.numbers([mx.sum(rows)]) == [count]

    rows = f"{words.counted(count, 'row')} of {among:,} (the first is {list(first)})"
    return Claim("finding: all masked", holds, lambda: (
        f"{op.label} {words.call(op)} ({words.spot(op)}): in {rows} the mask hides every place, so that all get a "
        "share, and the loss depends on what is made of that. Does the mask keep what it should hide, or is such a row "
        "empty?"))  # fmt: skip


CHECKS: list[Check] = [masked_whole]
