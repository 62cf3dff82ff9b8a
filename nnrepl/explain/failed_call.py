"""Errors: what disagrees in a call that failed: the operands, how they came to be so, and what likely was meant."""

from __future__ import annotations

import os
import traceback

from nnrepl.explain import words
from nnrepl.explain.answer import Cause, Evidence
from nnrepl.ops import Trait, has
from nnrepl.session.errors import UserError
from nnrepl.session.reading import Reading
from nnrepl.tape import Leaf, Op, Value


def why_error(session: Reading) -> Cause:
    """Explain the op that raised: the last one on the tape.

    Raises:
        UserError: If nothing failed.
    """
    errors = session.tape.notes.errors
    if not errors:
        return _of_the_program(session)
    op, error = list(errors.items())[-1]
    said = str(error).splitlines()[0][:200] if str(error) else ""
    where = words.place(op.source)
    root = op.of or op
    did = f"the VJP of {words.call(root)}" if op.of is not None else words.call(op)
    answer = Cause(f"{op.label}, {did} ({where}), raised {type(error).__name__}: {said}", op)
    operands = list(dict.fromkeys(value for value in root.inputs))
    answer.evidence = [
        Evidence(value.name, f"{tuple(value.shape)} {words.operand(value.dtype)}, {history(value)}")
        for value in operands
    ]
    reason, advice = _disagreement(root, operands)
    if reason:
        answer.reasons.append(reason)
    answer.advice = advice
    return answer


def _of_the_program(session: Reading) -> Cause:
    """Return what the program itself raised in a gradient call, where no op failed."""
    pass_ = next((pass_ for pass_ in reversed(session.tape.passes) if pass_.error is not None), None)
    if pass_ is None or pass_.error is None:
        raise UserError("no op on the tape has failed")
    error = pass_.error
    said = str(error).splitlines()[0][:200] if str(error) else ""
    lines = traceback.extract_tb(error.__traceback__)
    where = f" ({os.path.basename(lines[-1].filename)}:{lines[-1].lineno})" if lines else ""
    last = f"; the last op before it is {pass_.ops[-1].label} {pass_.ops[-1].name}" if len(pass_) else ""
    return Cause(f"{pass_.address} ended with {type(error).__name__}{where}: {said}",
                  reasons=[f"No op failed: what ran between the ops raised it{last}."])  # fmt: skip


def history(value: Value) -> str:
    """How a value came to its shape, through the ops that made or changed it: `x (3, 4) → reshape → (12,)`."""
    steps: list[str] = []
    at = value
    while at.op is not None and len(steps) < 4:
        op = at.op
        steps.append(f"{tuple(at.shape)} from {op.label} {words.call(op)}, {words.place(op.source)}")
        same = [taken for taken in op.inputs if taken.shape != at.shape]
        if not same or not has(op.name, Trait.ARRANGES, Trait.PICKS):
            break
        at = same[0]
    if not steps:
        kind = at.kind if isinstance(at, Leaf) else ""
        return {"parameter": "a parameter", "input": "an input"}.get(kind, kind or "from outside")
    return "; ".join(steps)


def _disagreement(op: Op, operands: list[Value]) -> tuple[str, str]:
    pair = [arg for arg in op.args if isinstance(arg, Value)]
    if op.name == "matmul" and len(pair) == 2:
        return _matmul(*(reversed(pair) if op.operation.spelling.startswith("__r") else pair))
    if op.name == "addmm" and len(pair) == 3:
        return _matmul(pair[1], pair[2])
    if has(op.name, Trait.BROADCASTS) and len(pair) >= 2:
        return _broadcast(pair[-2], pair[-1])
    if op.name in ("concatenate", "stack") and len(operands) > 1:
        shapes = ", ".join(str(tuple(value.shape)) for value in operands[:4])
        return f"All but the axis along which they are joined must agree: {shapes}.", ""
    if op.name == "reshape" and operands:
        return f"{operands[0].name} has {operands[0].size} elements, and the new shape must have as many.", ""
    return "", ""


def _matmul(a: Value, b: Value) -> tuple[str, str]:
    left, right = tuple(a.shape), tuple(b.shape)
    if not left or not right:
        return "A number without axes cannot be multiplied as a matrix.", "Use * for it."
    inner_b = right[-2] if len(right) > 1 else right[0]
    if left[-1] == inner_b:
        return f"The leading axes disagree: {left[:-2]} and {right[:-2]}.", ""
    reason = (
        f"The last axis of {a.name} ({left[-1]}) must be as long as the "
        f"{'second to last ' if len(right) > 1 else ''}axis of "
        f"{b.name} ({inner_b}): each row of the left meets a column of the right."
    )
    for x, y, said in (
        (left, _turned(right), f"A transpose is probably missing: {a.name} @ {_transposed(b)}"),
        (_turned(left), right, f"A transpose is probably missing: {_transposed(a)} @ {b.name}"),
        (right, left, f"The operands may be in the wrong order: {b.name} @ {a.name}"),
    ):
        if _fits(x, y):
            return reason, f"{said} is {x} @ {y}."
    size = 1
    for extent in left[1:]:
        size *= extent
    if size == inner_b:
        return (
            reason,
            f"{a.name} probably has to be flattened first: {a.name}.reshape({left[0]}, -1) is ({left[0]}, {size}).",
        )
    return reason, f"One of them has the wrong size: {b.name} expects {inner_b} numbers in a row and gets {left[-1]}."


def _turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape with its last two axes exchanged."""
    return (*shape[:-2], shape[-1], shape[-2]) if len(shape) > 1 else shape


def _transposed(value: Value) -> str:
    return f"{value.name}.T" if len(value.shape) == 2 else f"{value.name}.swapaxes(-1, -2)"


def _fits(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Whether two shapes can be multiplied as matrices."""
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        return False
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(left[:-2]), reversed(right[:-2])))


def _broadcast(a: Value, b: Value) -> tuple[str, str]:
    left, right = tuple(a.shape), tuple(b.shape)
    for back, (m, n) in enumerate(zip(reversed(left), reversed(right)), 1):
        if m != n and 1 not in (m, n):
            reason = (
                f"Counted from the right, axis {-back} is {m} in {a.name} and {n} in {b.name}; they must "
                f"agree, or one be 1."
            )
            if len(left) == 2 and right == left[:1]:
                return reason, f"{b.name}[:, None] would give each row its own number: {left} and ({right[0]}, 1)."
            if len(right) == 2 and left == right[:1]:
                return reason, f"{a.name}[:, None] would give each row its own number."
            if left == right[::-1]:
                return reason, f"A transpose is probably missing: {a.name}.T is {right}."
            return reason, ""
    return "", ""
