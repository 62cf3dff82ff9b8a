"""Picks: where a loss takes the logit, or the logarithm of the share, of each target; and which layer made that."""

from __future__ import annotations

from collections.abc import Iterator

from nnrepl.classes import dataclass
from nnrepl.explain.broken import is_log_of_shares, is_of_shares
from nnrepl.explain.health.report import Checkup
from nnrepl.explain.health.shares import maker, one_hot
from nnrepl.tape import Op, Value


@dataclass(frozen=True, slots=True)
class Pick:
    """A number for each target.

    Attributes:
        op: What picks it.
        logits: From what.
        axis: The axis of the classes.
        sign: 1 where the number grows with the share of the target, -1 where it falls.
    """

    op: Op
    logits: Value
    axis: int
    sign: int


def picked(case: Checkup) -> Iterator[Pick]:
    """Yield the picks of a pass: by an index along an axis of logits whose softmax is taken, by a table of single
    ones, by MLX's fused loss."""
    for op in case.forward:
        if op.name == "fast.cross_entropy":
            yield Pick(op, op.inputs[0], len(op.inputs[0].shape) - 1, -1)
        elif op.name == "take_along_axis" and len(op.inputs) == 2 and _is_of_classes(op.inputs[0]):
            along = op.kwargs.get("axis", op.args[2] if len(op.args) > 2 else None)
            if isinstance(along, int) and op.inputs[1].shape[along] == 1:
                yield Pick(op, op.inputs[0], along % len(op.inputs[0].shape), 1)
        elif op.name == "multiply" and len(op.inputs) == 2 and op.inputs[0].shape == op.inputs[1].shape:
            for hot, logits in (op.inputs, op.inputs[::-1]):
                axis = one_hot(case, hot) if _is_of_classes(logits) else None
                if axis is not None:
                    yield Pick(op, logits, axis, 1)


def _is_of_classes(value: Value) -> bool:
    """Whether a tensor is a log-softmax, the logarithm of shares, or logits without their largest."""
    op = maker(value)
    if op is None:
        return False
    if op.name == "log":
        shares = maker(op.inputs[0])
        return shares is not None and shares.name == "softmax"
    return is_log_of_shares(op) or is_of_shares(op)
