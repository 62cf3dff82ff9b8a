"""Axes: those that were taken for others because they are as long: heads put together without being moved, classes
that lie along another axis than the one over which a loss counts."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.picks import picked
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.explain.health.shares import source
from nnrepl.ops import Trait, has
from nnrepl.session.expressions import aside
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Possibility

_PASSED = ("multiply", "divide", "fast.rope", "fast.rms_norm", "fast.layer_norm")
_ATTENTION = "fast.scaled_dot_product_attention"


def heads(case: Checkup) -> Iterator[Finding]:
    """Find a reshape of (…, heads, positions, d) into (…, positions, heads·d), or back, with no axis moved: it cuts
    positions into pieces."""
    told: set[str] = set()
    for op in case.forward:
        if op.name != "reshape" or not op.inputs or len(op.outputs) != 1 or words.spot(op) in told:
            continue
        taken, result = op.inputs[0], op.outputs[0]
        joined = _is_regrouped(taken.shape, result.shape) and taken.op is not None and _attends(taken.op)
        split = _is_regrouped(result.shape, taken.shape) and _from_a_layer(taken) and _is_attended(op, result)
        if joined or split:
            told.add(words.spot(op))
            yield from findings(_mixed(case, op, taken, result), "mixed positions", f"explain {op.label}", op)


def _is_regrouped(apart: tuple[int, ...], together: tuple[int, ...]) -> bool:
    """Whether shapes are (…, heads, positions, d) and (…, positions, heads·d), with several of each, and not as many
    heads as positions."""
    if len(apart) < 3 or len(together) != len(apart) - 1 or apart[:-3] != together[:-2]:
        return False
    count, length, width = apart[-3:]
    return min(count, length, width) > 1 and count != length and together[-2:] == (length, count * width)


def _attends(op: Op) -> bool:
    """Whether an op sums activations with shares: attention, or a product of two tensors that the pass has made."""
    return op.name == _ATTENTION or (
        op.name == "matmul" and all(source(taken) is None for taken in op.inputs) and len(op.inputs) == 2)  # fmt: skip


def _is_attended(op: Op, value: Value, depth: int = 4) -> bool:
    """Whether a tensor goes into attention, past changes of its shape, scales, norms and rotations."""
    for user in op.tape.consumers(value):
        if user.pass_ is not op.pass_ or user.phase != op.phase or user.error is not None:
            continue
        if _attends(user):
            return True
        goes_on = has(user.name, Trait.ARRANGES, Trait.CONVERTS) or user.name in _PASSED
        if depth and goes_on and any(_is_attended(op, made, depth - 1) for made in user.outputs):
            return True
    return False


def _mixed(case: Checkup, op: Op, taken: Value, result: Value) -> Claim[str]:
    """Claim which positions of what a reshape took are in the first row of what it makes: they are numbered, and moved
    as it moves them."""
    joins = len(taken.shape) > len(result.shape)
    count, length, _ = (taken if joins else result).shape[-3:]
    held = min(count, length) if joins else -(-length // count)

    def holds() -> bool:
        with aside():
            made = _moved(op, mx.broadcast_to(mx.arange(length)[:, None], taken.shape))
            first = made[..., 0, :] if joins else made[..., 0, :, :]
            return case.look.numbers([mx.min(first), mx.max(first)]) == [0, held - 1]

    shapes = f"{tuple(taken.shape)} as {tuple(result.shape)}"
    rows = f"positions 0 to {held - 1}" if held > 1 else "nothing but position 0"
    where, moved = ("position 0", "before it") if joins else ("head 0", "behind a reshape to (…, positions, heads, d)")
    return Possibility("finding: mixed positions", holds, lambda: (
        f"{op.label} {words.call(op)} ({words.spot(op)}) takes {shapes}, and moves no axis: {where} of its result "
        f"holds {rows} of {words.name(taken)}. A transpose(0, 2, 1, 3) {moved} is probably missing"))  # fmt: skip


def classes(case: Checkup) -> Iterator[Finding]:
    """Find a loss that counts over another axis than that along which a layer made its classes, where both are as
    long."""
    for pick in picked(case):
        found = _made_along(pick.logits)
        if found is None:
            continue
        layer, moves = found
        if moves and layer.outputs[0].shape[-1] == pick.logits.shape[pick.axis]:
            claim = _lie_elsewhere(case, pick.op, pick.logits, pick.axis, layer, moves)
            yield from findings(claim, "softmax axis", f"explain {moves[-1].label}", moves[-1])


def _lie_elsewhere(case: Checkup, user: Op, logits: Value, axis: int, layer: Op, moves: list[Op]) -> Claim[str]:
    """Claim that along an axis of logits there is one and the same unit of a layer: units are numbered, and moved as
    the program moved the logits."""
    made = layer.outputs[0]

    def holds() -> bool:
        with aside():
            units = mx.broadcast_to(mx.arange(made.shape[-1]), made.shape)
            for move in moves:
                units = _moved(move, units)
            same = mx.all(mx.min(units, axis=axis) == mx.max(units, axis=axis))
            return tuple(units.shape) == tuple(logits.shape) and bool(case.look.numbers([same])[0])

    last = moves[-1]
    return Claim("finding: classes elsewhere", holds, lambda: (
        f"{user.label} {user.name} ({words.spot(user)}) counts over axis {axis} of {tuple(logits.shape)}, but along "
        f"that axis there is one and the same unit of {layer.label} {words.call(layer)} ({words.spot(layer)}): "
        f"{last.label} {words.call(last)} ({words.spot(last)}) has moved its units to another axis, which is as "
        "long"))  # fmt: skip


def _moved(op: Op, array: mx.array) -> mx.array:
    """Return what an op makes of another array in the place of what it took first."""
    (made,) = op.once(lambda value: array if value is op.inputs[0] else value.array)
    return made


def _made_along(value: Value) -> tuple[Op, list[Op]] | None:
    """Return the layer (rows @ weight) that made a tensor and what has moved its axes since, in order, past what is
    added to each number or taken from it; None if no layer made it."""
    moves: list[Op] = []
    for _ in range(32):
        op = value.op
        if op is None or not op.inputs or op.error is not None:
            return None
        if has(op.name, Trait.PRODUCT):
            return (op, moves[::-1]) if _is_layer(op) else None
        if has(op.name, Trait.ARRANGES):
            moves.append(op)
            value = op.inputs[0]
            continue
        whole = [taken for taken in op.inputs if taken.shape == value.shape]
        if not has(op.name, Trait.CONVERTS) and op.name not in ("add", "subtract", "multiply", "divide"):
            return None
        if len(whole) != 1:
            return None
        value = whole[0]
    return None


def _is_layer(op: Op) -> bool:
    """Whether an op multiplies rows that the pass has made with a weight, which stands last."""
    return len(op.inputs) > 1 and source(op.inputs[-1]) is not None and len(op.outputs) == 1


def _from_a_layer(value: Value) -> bool:
    """Whether the last axis of a tensor holds units of a layer, or a part of them (q of q, k, v in one)."""
    while (op := value.op) is not None and has(op.name, Trait.PICKS) and op.inputs[0].shape[:-1] == value.shape[:-1]:
        value = op.inputs[0]
    found = _made_along(value)
    return found is not None and not found[1]


CHECKS: list[Check] = [heads, classes]
