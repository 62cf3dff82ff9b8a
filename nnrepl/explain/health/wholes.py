"""Wholes: small whole numbers that went around: 100 − 128 is 228 in uint8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.ops.numbers import unravel
from nnrepl.session.expressions import aside
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim

_RANGES = {mx.uint8: (0, 255), mx.int8: (-128, 127), mx.uint16: (0, 65535), mx.int16: (-32768, 32767)}
"""Programs that draw numbers of their own, or hash, go around in 32 and 64 bits, and mean it."""


def around(case: Checkup) -> Iterator[Finding]:
    """Find the first op of small whole numbers whose result does not fit, and from which floats are made."""
    ops = [*case.prepared, *case.forward]
    for op in ops:
        if op.name not in ("add", "subtract", "multiply", "negative") or not _becomes_float(ops, op):
            continue
        claim = _around(case, op)
        if claim is not None:
            yield from findings(claim, "went around", f"explain {op.label}", op)
            return


def _becomes_float(ops: list[Op], op: Op) -> bool:
    if not op.outputs or op.outputs[0].dtype not in _RANGES or op.error is not None:
        return False
    made = {op.outputs[0]}
    for later in ops:
        if later.position > op.position and any(taken in made for taken in later.inputs):
            if any(mx.issubdtype(value.dtype, mx.floating) for value in later.outputs):
                return True
            made.update(later.outputs)
    return False


def _around(case: Checkup, op: Op) -> Claim[str] | None:
    """Return what to say about numbers that are not what they would be with more bits; None if all are."""
    result = op.outputs[0]
    seen = [*op.inputs, result]
    if not result.size or not all(case.look.can_see(value) for value in seen):
        return None
    case.look.see(seen)
    with aside():
        sides = [(one.array if isinstance(one, Value) else mx.array(one)).astype(mx.int64) for one in _sides(op)]
        exact = _exact(op.name, sides)
        wrong = (exact != result.array.astype(mx.int64)).flatten()
        count, first = case.look.numbers([mx.sum(wrong), mx.argmax(wrong)])
        if not count:
            return None
        index = unravel(first, result.shape)
        wanted, has = case.look.numbers([exact.flatten()[first], result.array.flatten()[first]])
    low, high = _RANGES[result.dtype]
    kind = words.dtype(result.dtype)
    return Claim("finding: went around", lambda: not low <= wanted <= high, lambda: (
        f"{op.label} {words.call(op)} ({words.place(op.source)}) is {kind}, which holds {words.number(low)} to "
        f"{high}: {words.element(words.name(result), index)} would be {words.number(wanted)} and is "
        f"{words.number(has)} ({count} of {result.size} numbers went around). Turn what goes in to float32 "
        "first"))  # fmt: skip


def _sides(op: Op) -> list[Any]:
    sides = [*op.args]
    return sides[::-1] if op.operation.spelling.startswith("__r") else sides


def _exact(name: str, sides: list[mx.array]) -> mx.array:
    if name == "negative":
        return -sides[0]
    a, b = sides
    return a + b if name == "add" else a - b if name == "subtract" else a * b


CHECKS: list[Check] = [around]
