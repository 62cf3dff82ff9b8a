"""Shuffling: inputs and targets whose rows were taken in another order each: one of the two was shuffled alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.health.kept_out import from_weights
from nnrepl.explain.health.picks import picked
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.ops import Trait, has
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Possibility

_FEW = 4
"""Of fewer rows nothing is said."""


@dataclass(frozen=True, slots=True)
class DataRows:
    """Rows of a data set.

    Attributes:
        value: The rows.
        root: The data set.
        numbers: Which of its rows they are.
    """

    value: Value
    root: Value
    numbers: list[int]


def apart(case: Checkup) -> Iterator[Finding]:
    """Find targets none of which are the rows of a data set that the inputs are of another, which has as many."""
    if case.broken:
        return
    inputs = _batches(case, _inputs(case))
    targets = _batches(case, _targets(case, from_weights(case))) if inputs else []
    for given in inputs:
        like = [one for one in targets if _go_together(given, one)]
        if like and not any(one.numbers == given.numbers for one in like):
            yield from findings(_lie_apart(case, given, like[0]), "rows apart", f"what {words.name(given.value)}")
            return


def _go_together(one: DataRows, other: DataRows) -> bool:
    """Whether two batches are as many rows of two data sets with as many; what lies so many rows later in each row is
    what comes next in a series."""
    if len(one.numbers) != len(other.numbers) or one.root.shape[0] != other.root.shape[0] or one.root is other.root:
        return False
    shifts = {a - b for a, b in zip(one.numbers, other.numbers)}
    return len(shifts) > 1 or shifts == {0}


def _inputs(case: Checkup) -> Iterator[Value]:
    """Yield what enters the pass and meets a weight: the rows of a layer, the places of a table."""
    weights = {leaf.canonical for leaf in case.pass_.wrt}
    for op in case.forward:
        if any(_is_weight(taken, weights) for taken in op.inputs):
            yield from (taken for taken in op.inputs if not _is_weight(taken, weights))


def _is_weight(value: Value, weights: set[Value]) -> bool:
    """Whether a tensor is a weight, or one that was only turned."""
    op = value.op
    if op is None:
        return value.canonical in weights
    turned = bool(op.inputs) and op.inputs[0].canonical in weights and has(op.name, Trait.ARRANGES)
    return turned or value.canonical in weights


def _targets(case: Checkup, learned: dict[Value, dict[Value, None]]) -> Iterator[Value]:
    """Yield what a loss holds against what was made of weights and data: places that are picked, what is taken from a
    prediction or multiplied with it."""
    weights = {leaf.canonical for leaf in case.pass_.wrt}
    yield from (pick.op.inputs[1] for pick in picked(case) if len(pick.op.inputs) > 1)
    for op in case.forward:
        if len(op.inputs) == 2 and has(op.name, Trait.DIFFERENCE, Trait.MULTIPLIES):
            for made, other in (op.inputs, op.inputs[::-1]):
                is_prediction = made.canonical in learned and not _is_weight(made, weights)
                if is_prediction and other.canonical not in learned and made.shape == other.shape:
                    yield other


def _batches(case: Checkup, values: Iterator[Value]) -> list[DataRows]:
    found = [_batch(case, value) for value in dict.fromkeys(values)]
    return [one for one in found if one is not None]


def _batch(case: Checkup, value: Value) -> DataRows | None:
    """Return which rows of what a tensor is, back through all that picks, moves, scales and shifts; None where that is
    not told, or no more than its own rows."""
    root, moves = _traced(value)
    if not root.shape or root.shape[0] < _FEW or not value.shape or value.shape[0] < _FEW:
        return None
    others = [taken for op in moves for taken in op.inputs[1:]]
    if not all(case.look.can_see(one) for one in others):
        return None
    case.look.see(others)
    with aside():
        rows = mx.arange(root.shape[0]).reshape(-1, *[1] * (len(root.shape) - 1))
        made = mx.broadcast_to(rows, root.shape)
        try:
            for op in reversed(moves):
                (made,) = op.once(_instead(op.inputs[0], made))
        except (LookupError, UserError):  # a loaded tape cannot run all of MLX's ops
            return None
        if made.shape[:1] != value.shape[:1] or not made.size:
            return None
        flat = made.reshape(made.shape[0], -1)
        low, high = case.look.numbers([mx.min(flat, axis=1), mx.max(flat, axis=1)])
    return DataRows(value, root, [int(one) for one in low]) if low == high else None


def _instead(value: Value, numbers: mx.array) -> Callable[[Value], mx.array]:
    """Return what gives other numbers for a tensor, and for all others their own."""
    return lambda taken: numbers if taken is value else taken.array


def _traced(value: Value) -> tuple[Value, list[Op]]:
    """Return the data set from which a tensor was taken, and what took it, the last first."""
    moves: list[Op] = []
    value = value.oldest
    for _ in range(_DEEP):
        op = value.op
        if op is None or op.error is not None or not op.inputs or len(op.outputs) != 1:
            break
        if has(op.name, Trait.CONVERTS) and op.inputs[0].shape == value.shape:
            value = op.inputs[0].oldest
        elif has(op.name, Trait.ARRANGES, Trait.PICKS):
            moves.append(op)
            value = op.inputs[0].oldest
        elif has(op.name, Trait.SCALES, Trait.ADDS) and (whole := _whole(op)) is not None:
            value = whole.oldest
        else:
            break
    return value, moves


def _whole(op: Op) -> Value | None:
    """Return the one operand with rows of its own; None where several have."""
    rows = op.outputs[0].shape
    whole = [taken for taken in op.inputs if taken.shape == rows]
    rest = [taken for taken in op.inputs if taken.shape != rows]
    spread = all(len(one.shape) < len(rows) or one.shape[0] == 1 for one in rest)
    return whole[0] if len(whole) == 1 and spread else None


def _lie_apart(case: Checkup, given: DataRows, wanted: DataRows) -> Possibility[str]:
    """Claim that rows of two batches are not the same rows of their data sets."""
    differ = [at for at, (a, b) in enumerate(zip(given.numbers, wanted.numbers)) if a != b]

    def holds() -> bool:
        again = [_batch(case, one.value) for one in (given, wanted)]
        pairs = zip(*(one.numbers if one is not None else [] for one in again))
        return bool(differ) and [at for at, (a, b) in enumerate(pairs) if a != b] == differ

    def said() -> str:
        at = differ[0]
        entered = (_entered(case, given.value), given.root, _entered(case, wanted.value), wanted.root)
        names = [words.name(one) for one in entered]
        return (f"row {at} of {names[0]} is row {given.numbers[at]} of {names[1]}, and row {at} of {names[2]}, with "
                f"which its answer is compared, row {wanted.numbers[at]} of {names[3]}: {len(differ)} of "
                f"{len(given.numbers)} rows are compared with those of others. Were they shuffled apart?")  # fmt: skip

    return Possibility("finding: rows apart", holds, said)


def _entered(case: Checkup, value: Value) -> Value:
    """Return what came into the pass of which it makes a tensor by moving its numbers."""
    while value.op is not None and value.op.pass_ is case.pass_ and value.op in _traced(value)[1][:1]:
        value = value.op.inputs[0]
    return value


_DEEP = 32

CHECKS: list[Check] = [apart]
