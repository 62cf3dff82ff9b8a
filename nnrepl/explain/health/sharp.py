"""Sharp: attention of which nearly every row looks at one place alone, and passes next to no gradient to its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import NOTE, WARNING, Check, Checkup, Finding, findings
from nnrepl.explain.health.shares import source
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim

_TOP = 0.99
"""A share that leaves next to nothing to the other places."""
_MOST = 0.9
"""Of so many of the rows that see several places one place has to have that: heads that copy are sharp in some rows."""
_ROWS, _PLACES, _WIDEST = 8, 4, 1024
_UNSEEN = -1e4
"""No score of a place that is seen lies below; masks add or put less."""


def sharp(case: Checkup) -> Iterator[Finding]:
    """Find attention whose shares are all at the ends of softmax; whether its scores were scaled decides how bad it
    is."""
    told: set[str] = set()
    for op in case.sharing:
        if case.broken or not _attends(op) or words.spot(op) in told or not all(map(case.look.can_see, op.inputs)):
            continue
        case.look.see([*op.inputs, *op.outputs])
        rows, ends = _rows(case, op)
        if rows >= _ROWS and ends > _MOST * rows:
            told.add(words.spot(op))
            level = NOTE if _is_scaled(op) else WARNING
            yield from findings(_look_at_one(case, op), "sharp attention", f"explain {op.label}", op, level)


def _attends(op: Op) -> bool:
    """Whether an op that shares out makes shares of places that rows are summed with, or is a whole attention."""
    if len(op.outputs) != 1:
        return False
    if has(op.name, Trait.ATTENDS):
        q, k, v = op.inputs[:3]
        return k is not v and v is not q and _PLACES <= k.shape[-2] <= _WIDEST
    made = op.outputs[0]
    if len(made.shape) < 2 or not _PLACES <= made.shape[-1] <= _WIDEST:
        return False
    users = [user for user in made.consumers if user.of is None]
    return any(has(user.name, Trait.ROWS_BY_COLUMNS) and user.inputs[0] is made and len(user.inputs) == 2
               and source(user.inputs[1]) is None for user in users)  # fmt: skip


def _rows(case: Checkup, op: Op) -> tuple[int, int]:
    """Return of how many rows several places are seen, and in how many of those one has all but a hundredth; none where
    an op cannot be run once more."""
    with aside():
        try:
            shares, seen = _shares(op)
        except (LookupError, UserError):  # a loaded tape cannot run all of MLX's ops
            return 0, 0
        several = mx.sum(seen, axis=-1) > 1
        ends = several & (mx.max(shares, axis=-1) > _TOP)
        rows, at_ends = case.look.numbers([mx.sum(several), mx.sum(ends)])
    return int(rows), int(at_ends)


def _shares(op: Op) -> tuple[mx.array, mx.array]:
    """Return the shares of an attention, and which places are seen. A whole attention tells its own, since single ones
    in the place of its values are what it sums, and with queries of 0 all that is seen has the same."""
    if not has(op.name, Trait.ATTENDS):
        return op.outputs[0].array, op.inputs[0].array > _UNSEEN
    q, k, v = op.inputs[:3]
    count = k.shape[-2]
    ones = mx.broadcast_to(mx.eye(count, dtype=v.dtype), (*v.shape[:-1], count))
    (shares,) = op.once(_instead({v: ones}))
    (even,) = op.once(_instead({v: ones, q: mx.zeros(q.shape, q.dtype)}))
    return shares, even > 0


def _instead(known: dict[Value, mx.array]) -> Callable[[Value], mx.array]:
    return lambda taken: known.get(taken, taken.array)


def _is_scaled(op: Op) -> bool:
    """Whether scores are scaled on their way from the product of queries and keys, or the queries before."""
    if has(op.name, Trait.ATTENDS):
        return op.kwargs.get("scale") != 1
    value = op.inputs[0]
    for _ in range(16):
        made = value.op
        if made is None or has(made.name, Trait.SCALES):
            return True
        if has(made.name, Trait.ROWS_BY_COLUMNS):
            return any(taken.op is not None and has(taken.op.name, Trait.SCALES) for taken in made.inputs)
        whole = [taken for taken in made.inputs if is_inexact(taken) and taken.shape == value.shape]
        moved = has(made.name, Trait.ARRANGES, Trait.CONVERTS)
        if not moved and len(whole) != 1:
            return True
        value = made.inputs[0] if moved else whole[0]
    return True


def _look_at_one(case: Checkup, op: Op) -> Claim[str]:
    """Claim in how many rows of an attention one place gets all but a hundredth."""
    rows, ends = _rows(case, op)
    width = op.inputs[0].shape[-1] if has(op.name, Trait.ATTENDS) else 0
    scale = "" if _is_scaled(op) else (
        f". Nothing scales its scores: 1 / √{width} is usual" if width else
        ". Nothing scales its scores: 1 / √d is usual, of keys that are d long")  # fmt: skip
    return Claim("finding: sharp attention", lambda: ends > _MOST * rows and _rows(case, op) == (rows, ends), lambda: (
        f"in {ends} of the {rows} rows of {op.label} {op.name} ({words.spot(op)}) that see several places one of them "
        f"has a share above {_TOP}, where softmax is flat: next to no gradient passes its scores{scale}"))  # fmt: skip


CHECKS: list[Check] = [sharp]
