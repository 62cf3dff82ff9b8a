"""Patterns: what a few ops together are called: the mean squared error, gradient descent."""

from __future__ import annotations

from nnrepl.explain import words
from nnrepl.tape import UPDATE_PASS, Op, Value


def known_by_name(op: Op) -> list[str]:
    """Return what the op completes, if that has a name."""
    found = [_squared_error(op), _absolute_error(op), _descent(op), _entropy(op)]
    return [text for text in found if text]


def _made_by(value: object, *names: str) -> Op | None:
    op = value.op if isinstance(value, Value) else None
    return op if op is not None and op.name in names else None


def _operands(op: Op) -> tuple[object, object] | None:
    """Return the two sides of `a − b`."""
    args = op.args if len(op.args) == 2 else ()
    if len(args) != 2:
        return None
    return (args[1], args[0]) if op.operation.spelling.startswith("__r") else (args[0], args[1])


def _difference(value: object) -> str:
    """`z2 and y_true`, if a value is their difference."""
    op = _made_by(value, "subtract")
    sides = _operands(op) if op is not None else None
    if sides is None or not all(isinstance(side, Value) for side in sides):
        return ""
    return " and ".join(words.name(side) for side in sides if isinstance(side, Value))


def _squared_error(op: Op) -> str:
    if op.name not in ("mean", "sum") or not op.inputs:
        return ""
    square = _made_by(op.inputs[0], "square", "power", "multiply")
    if square is None or not square.inputs:
        return ""
    if square.name == "power" and square.args[1:] not in ((2,), (2.0,)):
        return ""
    if square.name == "multiply" and (len(square.inputs) != 2 or square.inputs[0] is not square.inputs[1]):
        return ""
    sides = _difference(square.inputs[0])
    kind = "mean squared error" if op.name == "mean" else "sum of squared errors"
    return f"With the ops before it this is the {kind} of {sides}." if sides else ""


def _absolute_error(op: Op) -> str:
    size = _made_by(op.inputs[0], "abs") if op.name == "mean" and op.inputs else None
    sides = _difference(size.inputs[0]) if size is not None else ""
    return f"With the ops before it this is the mean absolute error of {sides}." if sides else ""


def _descent(op: Op) -> str:
    """`w − lr · ∂L/∂w`, in an optimizer or by hand."""
    sides = _operands(op) if op.name == "subtract" else None
    step = _made_by(sides[1], "multiply") if sides is not None else None
    if step is None or sides is None or not isinstance(sides[0], Value):
        return ""
    gradient = next((value for value in step.inputs if value.gradient_of is not None), None)
    if gradient is None or gradient.shape != sides[0].shape:
        return ""
    where = "of the optimizer" if op.pass_.kind == UPDATE_PASS else "by hand"
    return f"This is a step of gradient descent, {where}: against {gradient.name}, times the learning rate."


def _entropy(op: Op) -> str:
    """`logsumexp(logits) − logits[target]`."""
    sides = _operands(op) if op.name == "subtract" else None
    total = _made_by(sides[0], "logsumexp") if sides is not None else None
    if total is None or sides is None:
        return ""
    picked = sides[1]
    while (moved := _made_by(picked, "squeeze", "reshape", "flatten")) is not None:
        picked = moved.inputs[0]
    score = _made_by(picked, "take_along_axis", "getitem", "take")
    if score is None or score.inputs[0].canonical is not total.inputs[0].canonical:
        return ""
    return f"This is the cross-entropy of {words.name(total.inputs[0])}: −ln of the share of the right answer."
