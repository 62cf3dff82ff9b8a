"""Own numbers: factors of the program's own that are out of all proportion, and terms that are lost in a sum."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import NOTE, Check, Checkup, Finding, findings
from nnrepl.installed import is_library
from nnrepl.record.data import Data
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim

_FAR = 1e8
"""float32 has seven digits: beyond this factor one number no longer counts beside another."""


def factors(case: Checkup) -> Iterator[Finding]:
    """Find a number in the program by which something that is learned is multiplied or divided, and which is larger
    than 1e8 or smaller than 1e-8."""
    told: set[str] = set()
    for op in case.forward:
        factor = _factor(case, op)
        if factor is None or 1 / _FAR < factor < _FAR:
            continue
        if is_library(op.source.file) or words.spot(op) in told:
            continue
        told.add(words.spot(op))
        yield from findings(_is_far(case, op, factor), "own number", f"explain {op.label}", op, NOTE)


def _is_far(case: Checkup, op: Op, factor: float) -> Claim[str]:
    """Claim by what number of the program's own an op multiplies what is learned."""

    def holds() -> bool:
        return _factor(case, op) == factor and not 1 / _FAR < factor < _FAR

    learned = next(taken for taken in op.inputs if _is_learned(case, taken))
    large = factor > 1
    by = words.number(float(f"{factor if large else 1 / factor:.6g}"))
    return Claim("finding: own number", holds, lambda: (
        f"{op.label} {words.call(op)} ({words.spot(op)}) makes {words.name(learned)}, which is learned, "
        f"{by} times as {'large' if large else 'small'}: is that number meant?"))  # fmt: skip


def _factor(case: Checkup, op: Op) -> float | None:
    """Return the size of the number by which an op multiplies what is learned; None if it does nothing of the kind."""
    if op.name not in ("multiply", "divide") or len(op.args) != 2 or len(op.outputs) != 1:
        return None
    number = [_number(case, arg) for arg in op.args]
    learned = [isinstance(arg, Value) and _is_learned(case, arg) for arg in op.args]
    at = 0 if number[0] is not None else 1
    size = abs(number[at] or 0)
    if not size or not learned[1 - at]:
        return None
    if op.name == "multiply":
        return size
    below = 0 if op.operation.spelling.startswith("__r") else 1
    return 1 / size if at == below else None  # 1 / x is no multiple of x


def _number(case: Checkup, arg: object) -> float | None:
    """Return a number that stands in the program: in a call, or as a tensor that no op made."""
    if isinstance(arg, Value):
        written = arg.kind == "constant" if arg.op is None else arg.op.operation.kind == "data"
        arg = case.look.array(arg).item() if written and arg.size == 1 and case.look.can_see(arg) else None
    if isinstance(arg, Data) and arg.array.size == 1:
        arg = arg.array.item()
    return float(arg) if isinstance(arg, (int, float)) and not isinstance(arg, bool) else None


def _is_learned(case: Checkup, value: Value) -> bool:
    return bool(case.pass_.grads.get(value.canonical))


def absorbed(case: Checkup) -> Iterator[Finding]:
    """Find a sum that is the same with and without what is learned in it: that is too small beside the rest."""
    sums = [(op, term, rest) for op in case.forward for term, rest in _terms(case, op)]
    if case.broken or not sums:
        return
    stats = case.look.stats([value for op, term, _ in sums for value in (*term, op.outputs[0])])
    sums = [(op, term, rest) for op, term, rest in sums if stats[op.outputs[0]].is_finite
            and all(stats[one].peak and stats[one].is_finite for one in term)]  # fmt: skip
    case.look.see([rest for _, _, rest in sums if isinstance(rest, Value)])
    lost = case.look.same([(op.outputs[0].array, _array(rest)) for op, _, rest in sums])
    told: set[str] = set()
    for (op, term, rest), same in zip(sums, lost):
        if same and words.spot(op) not in told:
            told.add(words.spot(op))
            yield from findings(_is_absorbed(case, op, term, rest), "lost in a sum", f"explain {op.label}", op, NOTE)


_Rest = Value | float
"""The other term of a sum: a tensor, or a number that stands in the program."""


def _array(rest: _Rest) -> mx.array | float:
    return rest.array if isinstance(rest, Value) else rest


def _terms(case: Checkup, op: Op) -> Iterator[tuple[list[Value], _Rest]]:
    """Yield what is learned among the terms of a sum of two (the factors of a product), with the other one."""
    if op.name not in ("add", "subtract", "addmm") or len(op.outputs) != 1 or not op.outputs[0].size:
        return
    if any(one.refusal or not one.size or not is_inexact(one) for one in (*op.inputs, *op.outputs)):
        return
    first, *others = op.args
    if op.name == "addmm":
        if len(others) == 2 and isinstance(first, Value) and any(_is_learned(case, one) for one in others):
            yield list(others), first
        return
    backwards = op.operation.spelling.startswith("__r")
    for term, rest in ((first, *others), (*others, first)) if len(others) == 1 else ():
        other = rest if isinstance(rest, (Value, float)) else _number(case, rest)
        if other is None or not isinstance(term, Value) or not _is_learned(case, term):
            continue
        if op.name == "add" or (term is first) == backwards:  # what is taken off
            yield [term], other


def _is_absorbed(case: Checkup, op: Op, term: list[Value], rest: _Rest) -> Claim[str]:
    """Claim that a sum is one of its terms to the last digit, although the other is not 0."""

    def holds() -> bool:
        case.look.see([*op.inputs, *op.outputs])
        differs = mx.any(op.outputs[0].array != _array(rest))
        moved, *there = case.look.numbers([differs, *(mx.any(one.array != 0) for one in term)])
        return not moved and all(there)

    what = " @ ".join(words.name(one) for one in term)
    size = "" if len(term) > 1 else f" (the largest is {words.number(case.look.stat(term[0]).peak)} in size)"
    made = term[0].op
    by = f", made by {made.label} {words.call(made)} ({words.spot(made)})," if made is not None else ""
    return Claim("finding: lost in a sum", holds, lambda: (
        f"{op.label} {words.call(op)} ({words.spot(op)}) is {words.operand(rest)} to the last digit: {what}{size}{by} "
        "is too small to change it"))  # fmt: skip


CHECKS: list[Check] = [factors, absorbed]
