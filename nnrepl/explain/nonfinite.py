"""Nonfinite: where NaN and ∞ come from: the first op that made one out of ordinary numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.answer import Answer, Evidence
from nnrepl.explain.entry import entry_for
from nnrepl.explain.look import Look
from nnrepl.explain.paths import upstream
from nnrepl.session.session import Session
from nnrepl.tape import Op, Pass, Value

LARGEST = {mx.float16: 65504.0, mx.bfloat16: 3.39e38, mx.float32: 3.40e38}
"""The largest number of each dtype (IEEE 754)."""

_ON_PURPOSE = ("array", "full", "where", "log", "zeros", "ones")


@dataclass(frozen=True, slots=True)
class Origin:
    """The op that made a non-finite number, in which output, and at which element (flat)."""

    op: Op
    value: Value
    at: int


def why_nonfinite(session: Session) -> Answer:
    """`why nan`: look through what has been recorded, pass by pass, in order of execution."""
    look = Look(session)
    for part in _passes(session):
        origin = first_origin(look, [op for op in part.ops if op.error is None])
        if origin is not None:
            return _answer(look, origin, "")
    return Answer("Every number that was looked at is finite.", ops=look.ops)


def _passes(session: Session) -> list[Pass]:
    """The pass of the cursor first if it has one, then all in order."""
    return [part for part in session.tape.passes if len(part)]


def why_nonfinite_value(session: Session, value: Value) -> Answer:
    """`why z is nan`: only what leads to one value."""
    look = Look(session)
    stat = look.stat(value)
    if stat.is_finite:
        return Answer(f"{value.name} is finite: {stat.size} ordinary numbers, the largest {words.number(stat.peak)}.",
                      ops=look.ops)  # fmt: skip
    origin = first_origin(look, ancestors(value))
    if origin is None:
        return Answer(f"{value.name} came in with non-finite numbers; no op on the tape made them.", ops=look.ops)
    return _answer(look, origin, f"{value.name} has {_amount(stat.nans, stat.infs, stat.size)}: ")


def _amount(nans: int, infs: int, size: int) -> str:
    parts = [f"{count} {name}" for count, name in ((nans, "NaN"), (infs, "∞")) if count]
    return f"{' and '.join(parts)} among {size} numbers"


def ancestors(value: Value) -> list[Op]:
    """The ops that a value comes from, in order of execution."""
    found: set[Op] = set()
    stack = [value]
    while stack:
        op = stack.pop().op
        if op is not None and op not in found:
            found.add(op)
            stack.extend(op.inputs)
    return sorted(found, key=lambda op: op.position)


def first_origin(look: Look, ops: list[Op]) -> Origin | None:
    """The first op with non-finite outputs and finite inputs. An ∞ on purpose (a mask) only counts if a NaN, or an
    ∞ that nobody meant, comes of it."""
    values = [value for op in ops for value in (*op.inputs, *op.outputs) if _can(value)]
    look.stats(values)
    infinite: Origin | None = None
    for op in ops:
        outputs = [value for value in op.outputs if _can(value)]
        bad = next((value for value in outputs if not look.stat(value).is_finite), None)
        if bad is None:
            continue
        taken = look.stats(value for value in op.inputs if _can(value))
        nan = look.stat(bad).nans > 0
        if any(stat.nans for stat in taken.values()):
            continue
        if any(stat.infs for stat in taken.values()) and not nan:
            continue
        origin = Origin(op, bad, _first_bad(look, bad))
        if nan and infinite is not None and any(stat.infs for stat in taken.values()):
            return infinite if _leads(infinite.op, op) and not _is_mask(infinite.op) else origin
        if nan:
            return origin
        if infinite is None and not _is_mask(op):
            infinite = origin
    return infinite if infinite is not None and _matters(look, infinite, ops) else None


def _can(value: Value) -> bool:
    return mx.issubdtype(value.dtype, mx.inexact)


def _is_mask(op: Op) -> bool:
    """An ∞ that the program wrote on purpose: a literal, or one that `where` put in."""
    return op.name in ("array", "full", "where", "astype") or op.name.startswith("random.")


def _leads(op: Op, later: Op) -> bool:
    return any(before is op for value in later.inputs for before in ancestors(value))


def _matters(look: Look, origin: Origin, ops: list[Op]) -> bool:
    """Whether an ∞ reaches the loss or a gradient; one that a later op makes finite again (exp(−∞) = 0) is meant."""
    part = origin.op.part
    ends = [part.loss] if part.loss is not None else list(ops[-1].outputs)
    ends.extend(grads[-1] for leaf in part.wrt if (grads := part.grads.get(leaf)))
    return any(not look.stat(end).is_finite for end in ends if _can(end))


def _first_bad(look: Look, value: Value) -> int:
    bad = ~mx.isfinite(value.array.flatten())
    nan = mx.isnan(value.array.flatten())
    at_nan, at_bad, any_nan = look.numbers([mx.argmax(nan), mx.argmax(bad), mx.any(nan)])
    return int(at_nan if any_nan else at_bad)


def unravel(at: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A flat place as an index."""
    index: list[int] = []
    for extent in reversed(shape):
        index.append(at % extent if extent else 0)
        at //= extent or 1
    return tuple(reversed(index))


def _answer(look: Look, origin: Origin, head: str) -> Answer:
    op, value = origin.op, origin.value
    stat = look.stat(value)
    index = unravel(origin.at, value.shape)
    number = look.numbers([value.array.flatten()[origin.at]])[0]
    where = words.place(op.source)
    forward = op.of
    did = f"the VJP of {words.call(forward)}" if forward is not None else words.call(op)
    first = "the first op that made one out of finite numbers is" if look.ops >= 0 else ""
    answer = Answer(f"{head}{first} {op.label}, {did}" + (f" ({where})" if where else "") + ".", op)
    if not head:
        answer.headline = answer.headline[:1].upper() + answer.headline[1:]
    broken = _broken(look, op, value, index)
    answer.reasons.append(
        f"{words.element(value.name, index)} = {broken.sum or ''}{' = ' if broken.sum else ''}{words.number(number)}"
        f"   ({_amount(stat.nans, stat.infs, stat.size)})"
    )
    answer.reasons.append(broken.rule)
    answer.evidence = [Evidence(name, text) for name, text in broken.operands]
    answer.advice = broken.advice
    answer.ops = look.ops
    return answer


@dataclass(slots=True)
class Broken:
    """Which rule was broken, by what, and what would prevent it."""

    rule: str
    sum: str = ""
    operands: tuple[tuple[str, str], ...] = ()
    advice: str = ""


def operand_at(look: Look, value: Value, index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[str, Any]:
    """The element of a broadcast operand that belongs to an element of the result, with its name."""
    own = index[len(shape) - len(value.shape) :] if len(value.shape) <= len(shape) else index
    if len(own) != len(value.shape):
        return value.name, None
    own = tuple(0 if extent == 1 else at for at, extent in zip(own, value.shape))
    if any(at >= extent for at, extent in zip(own, value.shape)):
        return value.name, None
    number = look.numbers([value.array[own] if own else value.array])[0]
    return words.element(value.name, own), number


def _broken(look: Look, op: Op, value: Value, index: tuple[int, ...]) -> Broken:
    forward = op.of or op
    result = value.shape if op.of is None else forward.outputs[0].shape
    pairs: list[tuple[str, Any]] = []
    arguments = [arg for arg in forward.args if not isinstance(arg, (mx.Dtype, tuple, list))]
    if forward.operation.spelling.startswith("__r"):
        arguments.reverse()
    for arg in arguments:
        if isinstance(arg, Value):
            look.see([arg])
            pairs.append(operand_at(look, arg, index, result))
        elif isinstance(arg, (int, float)):
            pairs.append((words.number(arg), arg))
    known = [(name, number) for name, number in pairs if number is not None]
    numbers = [number for _, number in known]
    operands = tuple((name, words.number(number)) for name, number in known if name != words.number(number))
    if op.of is not None:
        gradient = upstream(op)[0]
        name, number = operand_at(look, gradient, index, gradient.shape)
        if number is not None:
            operands = (*operands, (name, words.number(number)))
        rule, advice = _backward_rule(forward, numbers, number)
    else:
        rule, advice = _forward_rule(look, forward, numbers, value)
    entry = entry_for(op)
    text = ""
    if op.of is None and entry is not None and numbers and entry.kind == "elementwise":
        symbols = dict(zip(entry.symbols, (words.factor(number) for number in numbers)))
        text = words.substitute(entry.text, symbols)
    return Broken(rule, text, operands, advice)


def _forward_rule(look: Look, op: Op, numbers: list[Any], value: Value) -> tuple[str, str]:
    """The rule that a forward op broke, and what would prevent it."""
    name = op.name
    first = numbers[0] if numbers else None
    second = numbers[1] if len(numbers) > 1 else None
    dtype = words.operand(value.dtype)
    operand = next((taken.name for taken in op.inputs), "it")
    if name in ("log", "log2", "log10") and first is not None and first <= 0:
        what = "The logarithm of 0 is −∞." if first == 0 else "There is no logarithm of a negative number."
        advice = (
            f"Keep it above 0: mx.log(mx.maximum({operand}, 1e-7)), or compute it from logits "
            f"(nn.log_softmax, logsumexp)."
        )
        return what, advice
    if name == "log1p" and first is not None and first <= -1:
        return "ln(1 + a) has no value for a ≤ −1.", "Keep it above −1."
    if name in ("divide", "reciprocal", "remainder"):
        below = first if name == "reciprocal" else second
        if below == 0:
            zero = "0 divided by 0 is no number." if first == 0 and name == "divide" else "A number divided by 0 is ∞."
            return (
                zero,
                f"Keep the denominator away from 0: add a small number (1e-8), or {operand} only where it is not 0.",
            )
    if name in ("sqrt", "rsqrt") and first is not None and first <= 0:
        if first < 0:
            return "There is no square root of a negative number.", "Take mx.maximum(…, 0) first."
        return "1 / √0 is ∞.", "Add a small number before the root: mx.rsqrt(… + 1e-6)."
    if name == "power":
        return f"This power has no finite value in {dtype}.", "Check the base (negative, or 0) and the exponent."
    if name in ("arccos", "arcsin", "arctanh", "erfinv", "arccosh"):
        return f"{name} has no finite value there.", "Clip it to the allowed range, a little inside of its ends."
    if first is not None and name in ("subtract", "add") and second is not None and _inf(first) and _inf(second):
        return "∞ − ∞ is no number.", "Find where the ∞ comes from."
    if name == "multiply" and second is not None and (_inf(first) or _inf(second)):
        return "0 · ∞ is no number.", "Mask with mx.where instead of multiplying by 0."
    if name in ("softmax", "logsumexp"):
        return ("A whole row of −∞ (or an ∞) went in: its shares would be 0/0.",
                "Leave at least one position of each row unmasked, or mask with a large negative number.")  # fmt: skip
    return _overflow(look, op, value)


def _overflow(look: Look, op: Op, value: Value) -> tuple[str, str]:
    dtype = words.operand(value.dtype)
    limit = LARGEST.get(value.dtype)
    if limit is None:
        return "The result is not finite.", ""
    if op.name == "exp":
        bound = {mx.float16: "11.09", mx.float32: "88.72", mx.bfloat16: "88.72"}.get(value.dtype, "")
        rule = f"exp overflows in {dtype} beyond {bound}: the largest number there is {words.number(limit)}."
        return rule, "Take the largest element out first (softmax and logsumexp do), or clip what goes in."
    largest = max((look.stat(taken).peak for taken in op.inputs if _can(taken)), default=0.0)
    rule = (
        f"It overflows {dtype}, whose largest number is {words.number(limit)}; the largest that went in is "
        f"{words.number(largest)}."
    )
    wider = "float32" if value.dtype == mx.float16 else "smaller numbers (a lower learning rate, clipped gradients)"
    return rule, f"Use {wider}{', or bfloat16, here' if value.dtype == mx.float16 else ''}."


def _inf(number: Any) -> bool:
    return isinstance(number, float) and number in (float("inf"), float("-inf"))


def _backward_rule(op: Op, numbers: list[Any], upstream_number: Any) -> tuple[str, str]:
    """The rule that a VJP broke, although its forward op gave finite numbers."""
    name = op.name
    operand = next((taken.name for taken in op.inputs), "x")
    first = numbers[0] if numbers else None
    zero = upstream_number == 0
    times = " 0 · ∞ is no number." if zero else ""
    if name in ("sqrt", "linalg.norm", "std", "abs") or (name == "power" and first == 0):
        what = {"sqrt": f"The slope of √a is 1 / (2·√a), which is infinite at a = 0.{times}",
                "linalg.norm": "The slope of a length is a / ‖a‖: 0 / 0 for a vector of zeros.",
                "std": "The slope of a standard deviation divides by it: 0 / 0 where all numbers are the same."}.get(
                    name, f"The slope of a power below 1 is infinite at a = 0.{times}")  # fmt: skip
        return what, f"Keep it away from 0: mx.sqrt({operand} + 1e-8), in both branches if a where() chooses."
    if name in ("log", "divide", "reciprocal", "rsqrt", "log2", "log10"):
        return (f"Its slope divides by a number that is 0 or almost 0.{times}",
                f"Keep {operand} away from 0 before this op; where() afterwards does not help, because 0 · ∞ is "
                f"NaN.")  # fmt: skip
    if name in ("exp", "square", "power", "sinh", "cosh"):
        return f"The slope overflows.{times}", "Clip what goes in."
    if name in ("arccos", "arcsin", "arctanh"):
        return f"Its slope is infinite at the ends of its range.{times}", "Clip a little inside of −1 and 1."
    return "The local factor times the gradient that came in is not finite.", "explain this op shows the numbers."
