"""Precision: a half-precision model that one float32 operand turns to float32."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import NOTE, WARNING, Check, Checkup, Finding, findings
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import Leaf, Op, Value
from nnrepl.tape.claims import Claim

_HALF = (mx.float16, mx.bfloat16)
_FEW = 3


def widened(case: Checkup) -> Iterator[Finding]:
    """Find the first op in which a half-precision tensor meets one in float32 that nobody made so on purpose."""
    weights = [leaf for leaf in case.pass_.wrt if mx.issubdtype(leaf.dtype, mx.floating)]
    if 2 * sum(leaf.dtype in _HALF for leaf in weights) <= len(weights):
        return
    for op in case.forward:
        pair = _meeting(op)
        if pair is None or _on_purpose(pair[1]):
            continue
        half, wide = pair
        behind = _wide_behind(case, op)
        if len(behind) < _FEW:
            continue
        works = any(has(one.name, Trait.PRODUCT) for one in behind)
        level = NOTE if (isinstance(wide, Leaf) and wide.kind == "parameter") or not works else WARNING
        yield from findings(_turned(op, half, wide, behind), "runs in float32", f"explain {op.label}", op, level)
        return


def _turned(op: Op, half: Value, wide: Value, behind: list[Op]) -> Claim[str]:
    """Claim that one operand makes so many ops give float32: by the dtypes of what each of them gives."""
    given = [one for each in behind for one in each.outputs[:1]]
    return Claim("finding: runs in float32", lambda: all(one.dtype == mx.float32 for one in given), lambda: (
        f"{op.label} {words.call(op)} ({words.place(op.source)}) takes {words.name(half)} in {words.dtype(half.dtype)} "
        f"and {words.name(wide)} in float32, so its result is float32, and with it that of {len(behind)} ops of this "
        f"forward pass; {words.name(wide)}.astype({words.dtype(half.dtype)}) keeps it small"))  # fmt: skip


def _meeting(op: Op) -> tuple[Value, Value] | None:
    """Return the half-precision operand of an op with a float32 result, and the float32 one."""
    if not op.outputs or op.outputs[0].dtype != mx.float32 or has(op.name, Trait.CONVERTS):
        return None
    half = next((taken for taken in op.inputs if taken.dtype in _HALF), None)
    wide = next((taken for taken in op.inputs if taken.dtype == mx.float32), None)
    return None if half is None or wide is None else (half, wide)


def _on_purpose(wide: Value) -> bool:
    """Whether a conversion of numbers stands behind the float32 operand; that of a mask or of indices has no digits to
    keep."""
    stack, seen = [wide], {wide}
    while stack and len(seen) < 500:
        op = stack.pop().op
        if op is None:
            continue
        if op.name == "astype" and is_inexact(op.inputs[0]):
            return True
        for taken in op.inputs:
            if taken not in seen:
                seen.add(taken)
                stack.append(taken)
    return False


def _wide_behind(case: Checkup, first: Op) -> list[Op]:
    """Return the forward ops that give float32 because of one: what it makes goes into them, and no other op makes it
    so."""
    wide = set(first.outputs)
    found = [first]
    for op in case.forward:
        turned = op.position > first.position and op.outputs and op.outputs[0].dtype == mx.float32
        if turned and any(taken in wide for taken in op.inputs):
            wide.update(op.outputs)
            found.append(op)
    return found


CHECKS: list[Check] = [widened]
