"""Patterns: what a few ops together are called: the mean squared error, gradient descent."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.look import Look
from nnrepl.ops import Trait, has
from nnrepl.tape import UPDATE_PASS, Op, Value
from nnrepl.tape.claims import Claim


def known_by_name(look: Look, op: Op) -> Iterator[Claim[str]]:
    """Yield what the op completes, if that has a name: held against the numbers."""
    yield from _squared_error(look, op)
    yield from _absolute_error(look, op)
    yield from _descent(look, op)
    yield from _entropy(look, op)


def _is_close(look: Look, found: mx.array, value: Value) -> bool:
    """Whether some numbers are a tensor's, but for rounding."""
    off = {mx.float16: 2e-2, mx.bfloat16: 1e-1}.get(value.dtype, 1e-3)
    array = look.array(value)
    return bool(look.numbers([mx.allclose(found.astype(mx.float32), array.astype(mx.float32), rtol=off, atol=1e-6)])[0])


def _seen(look: Look, *values: object) -> bool:
    """Whether the numbers of all can be had, real ones."""
    return all(isinstance(one, Value) and look.can_see(one) and mx.issubdtype(one.dtype, mx.floating)
               for one in values)  # fmt: skip


def _made_by(value: object, *traits: Trait) -> Op | None:
    op = value.op if isinstance(value, Value) else None
    return op if op is not None and has(op.name, *traits) else None


def _operands(op: Op) -> tuple[object, object] | None:
    """Return the two sides of `a − b`."""
    args = op.args if len(op.args) == 2 else ()
    if len(args) != 2:
        return None
    return (args[1], args[0]) if op.operation.spelling.startswith("__r") else (args[0], args[1])


def _difference(value: object) -> tuple[Value, Value] | None:
    """Return the two tensors of which a value is the difference; None if it is none."""
    op = _made_by(value, Trait.DIFFERENCE)
    sides = _operands(op) if op is not None else None
    if sides is None or not isinstance(sides[0], Value) or not isinstance(sides[1], Value):
        return None
    return sides[0], sides[1]


def _squared_error(look: Look, op: Op) -> Iterator[Claim[str]]:
    square = (
        _made_by(op.inputs[0], Trait.SQUARES, Trait.RAISES, Trait.MULTIPLIES)
        if has(op.name, Trait.AVERAGES, Trait.TOTALS) and op.inputs
        else None
    )
    sides = _difference(square.inputs[0]) if square is not None and square.inputs else None
    if sides is None:
        return
    a, b = sides
    reduce = mx.mean if has(op.name, Trait.AVERAGES) else mx.sum
    kind = "mean squared error" if has(op.name, Trait.AVERAGES) else "sum of squared errors"

    def holds() -> bool:
        if not _seen(look, a, b) or op.outputs[0].size != 1:
            return False
        off = look.array(a).astype(mx.float32) - look.array(b).astype(mx.float32)
        return _is_close(look, reduce(mx.square(off)), op.outputs[0])

    yield Claim("explain: squared error", holds, lambda: (
        f"With the ops before it this is the {kind} of {words.name(a)} and {words.name(b)}."))  # fmt: skip


def _absolute_error(look: Look, op: Op) -> Iterator[Claim[str]]:
    size = _made_by(op.inputs[0], Trait.SIZE) if has(op.name, Trait.AVERAGES) and op.inputs else None
    sides = _difference(size.inputs[0]) if size is not None else None
    if sides is None:
        return
    a, b = sides

    def holds() -> bool:
        if not _seen(look, a, b) or op.outputs[0].size != 1:
            return False
        off = look.array(a).astype(mx.float32) - look.array(b).astype(mx.float32)
        return _is_close(look, mx.mean(mx.abs(off)), op.outputs[0])

    yield Claim("explain: absolute error", holds, lambda: (
        f"With the ops before it this is the mean absolute error of {words.name(a)} and {words.name(b)}."
    ))  # fmt: skip


def _descent(look: Look, op: Op) -> Iterator[Claim[str]]:
    """`w − lr · ∂L/∂w`, in an optimizer or by hand: with one number, above 0, for all elements."""
    sides = _operands(op) if has(op.name, Trait.DIFFERENCE) else None
    step = _made_by(sides[1], Trait.MULTIPLIES) if sides is not None else None
    if step is None or sides is None or not isinstance(sides[0], Value):
        return
    gradient = next((value for value in step.inputs if value.gradient_of is not None), None)
    if gradient is None or gradient.shape != sides[0].shape:
        return
    rate = next((arg for arg in step.args if arg is not gradient), None)

    def holds() -> bool:
        if isinstance(rate, Value):
            return rate.size == 1 and _seen(look, rate) and look.numbers([look.array(rate).flatten()])[0][0] > 0
        return isinstance(rate, (int, float)) and rate > 0

    where = "of the optimizer" if op.pass_.kind == UPDATE_PASS else "by hand"
    yield Claim("explain: descent", holds, lambda: (
        f"This is a step of gradient descent, {where}: against {gradient.name}, times the learning rate."
    ))  # fmt: skip


def _entropy(look: Look, op: Op) -> Iterator[Claim[str]]:
    """`logsumexp(logits) − logits[target]`."""
    sides = _operands(op) if has(op.name, Trait.DIFFERENCE) else None
    total = _made_by(sides[0], Trait.LOG_SUM) if sides is not None else None
    if total is None or sides is None:
        return
    picked = sides[1]
    while (moved := _made_by(picked, Trait.ARRANGES)) is not None:
        picked = moved.inputs[0]
    score = _made_by(picked, Trait.PICKS)
    if score is None or score.inputs[0].canonical is not total.inputs[0].canonical:
        return
    logits, made = total.inputs[0], op.outputs[0]

    def holds() -> bool:
        """Look whether each number is −ln of a share of its row."""
        if not _seen(look, logits, made) or made.size * logits.shape[-1] != logits.size:
            return False
        shares = mx.softmax(look.array(logits).astype(mx.float32), axis=-1).reshape(made.size, -1)
        mine = mx.exp(-look.array(made).astype(mx.float32)).reshape(made.size, 1)
        return bool(look.numbers([mx.all(mx.min(mx.abs(shares - mine), axis=-1) < 1e-2)])[0])

    yield Claim("explain: cross-entropy", holds, lambda: (
        f"This is the cross-entropy of {words.name(logits)}: −ln of the share of the right answer."))  # fmt: skip
