"""Broken: which rule of arithmetic an op broke where it made a number that is none, on the very numbers it had."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.known import entry_for
from nnrepl.explain.look import Look
from nnrepl.explain.paths import upstream
from nnrepl.explain.stuck import made_zero
from nnrepl.ops import Trait, has
from nnrepl.ops.reader import readable
from nnrepl.session.births import NAN, Birth, same_place, unravel
from nnrepl.tape import Op, Value

LARGEST = {mx.float16: 65504.0, mx.bfloat16: 3.39e38, mx.float32: 3.40e38}
"""The largest number of each dtype (IEEE 754)."""

Number = float | int | None


@dataclass(slots=True)
class Broken:
    """Which rule was broken, by what, and what would prevent it.

    Attributes:
        rule: In a sentence, "" where no rule could be shown to be broken.
        sum: The arithmetic of an op that works place by place: `ln(0)`.
        operands: What went in at that place, with its numbers.
        advice: What would prevent it, "" where nothing can be said for sure.
    """

    rule: str = ""
    sum: str = ""
    operands: tuple[tuple[str, str], ...] = ()
    advice: str = ""


def broken(look: Look, birth: Birth) -> Broken:
    """Return what happened in the op in which a number went bad."""
    op = birth.op
    assert op is not None
    forward = op.of or op
    result = birth.value.shape if op.of is None else forward.outputs[0].shape
    at = birth.at if op.of is None or birth.value.shape == result else None
    pairs = _operands(look, forward, result, at)
    numbers = [number for _, number in pairs]
    known = [(name, number) for name, number in pairs if number is not None and name != words.number(number)]
    operands = tuple((name, words.number(number)) for name, number in known)
    if op.of is None:
        rule, advice = _forward_rule(look, birth, forward, numbers)
        return Broken(rule, _arithmetic(op, numbers), operands, advice)
    given = upstream(op)[:1]
    came = _number(look, given[0], at) if given and at is not None and given[0].shape == result else None
    if came is not None:
        operands = (*operands, (words.element(given[0].name, unravel(at or 0, result)), words.number(came)))
    of = birth.value.gradient_of
    second = of is not None and len(forward.args) == 2 and of.canonical is getattr(forward.args[1], "canonical", None)
    rule, advice = _backward_rule(look, forward, numbers, came, second)
    if not rule:
        rule, advice = _overflow(look, birth, op, None)
    return Broken(rule, "", operands, advice)


def _operands(look: Look, op: Op, shape: tuple[int, ...], at: int | None) -> list[tuple[str, Number]]:
    """Return the numbers that an op of this kind pairs with one element of its result, with their names."""
    arguments = [arg for arg in op.args if not isinstance(arg, (mx.Dtype, tuple, list))]
    if op.operation.spelling.startswith("__r"):
        arguments.reverse()
    pairs: list[tuple[str, Number]] = []
    for arg in arguments:
        if isinstance(arg, Value):
            place = None if at is None else same_place(shape, at, arg.shape)
            name = arg.name if place is None else words.element(arg.name, unravel(place, arg.shape))
            pairs.append((name, None if place is None else _number(look, arg, place)))
        elif isinstance(arg, (int, float)) and not isinstance(arg, bool):
            pairs.append((words.number(arg), arg))
    return pairs


def _number(look: Look, value: Value, place: int) -> Number:
    if value.refusal or not value.size:
        return None
    found: Any = look.numbers([look.array(value).flatten()[place]])[0]
    return found if isinstance(found, (int, float)) else None


def _arithmetic(op: Op, numbers: list[Number]) -> str:
    entry = entry_for(op)
    if entry is None or not numbers or entry.kind != "elementwise" or None in numbers or not readable(entry.text):
        return ""
    return words.substitute(entry.text, dict(zip(entry.symbols, (words.factor(number) for number in numbers))))


def _forward_rule(look: Look, birth: Birth, op: Op, numbers: list[Number]) -> tuple[str, str]:
    """Return the rule that a forward op broke, held against its numbers, and what would prevent it."""
    name = op.name
    first, second = [*numbers, None, None][:2]
    operand = next((taken.name for taken in op.inputs), "it")
    if birth.constant is not None:
        return f"{words.number(birth.constant)} stands in the program.", ""
    if name in ("log", "log2", "log10") and first is not None and first <= 0:
        what = "The logarithm of 0 is −∞." if first == 0 else "There is no logarithm of a negative number."
        keep = f"mx.log(mx.maximum({operand}, 1e-7)), or compute it from logits (nn.log_softmax, logsumexp)."
        return what, f"Keep it above 0: {keep}"
    if name == "log1p" and first is not None and first <= -1:
        return "ln(1 + a) has no finite value for a ≤ −1.", "Keep it above −1."
    if name == "remainder" and second == 0:
        return "There is no remainder of a division by 0.", "Keep the divisor away from 0."
    if name in ("divide", "floor_divide", "reciprocal") and (first if name == "reciprocal" else second) == 0:
        zero = "0 divided by 0 is no number." if first == 0 and name != "reciprocal" else "A number divided by 0 is ∞."
        divisor = op.inputs[-1] if op.inputs else None
        place = None if divisor is None else same_place(birth.value.shape, birth.at, divisor.shape)
        if divisor is not None and divisor.op is not None and look.can_see(divisor) and place is not None:
            whole = look.stat(divisor).is_zero
            one = None if whole else mx.arange(divisor.size).reshape(divisor.shape) == place
            zero += f" {made_zero(look, divisor, one).text}"
        return zero, "Keep the denominator away from 0: add a small number (1e-8), or divide only where it is not 0."
    if name in ("sqrt", "rsqrt") and first is not None and first <= 0:
        if first < 0:
            return "There is no square root of a negative number.", "Take mx.maximum(…, 0) first."
        return "1 / √0 is ∞.", "Add a small number before the root: mx.rsqrt(… + 1e-6)."
    if name == "power" and first is not None and second is not None:
        if first == 0 and second < 0:
            return "A negative power of 0 is ∞.", "Keep the base away from 0."
        if first < 0 and birth.kind == NAN and math.isfinite(second) and second != int(second):
            return "A negative number has no power that is not whole.", "Keep the base above 0."
    if name in _RANGES and first is not None and not _RANGES[name](first):
        return f"{name} has no finite value there.", "Clip it to the allowed range, a little inside of its ends."
    if name in ("subtract", "add") and _infinite(first) and _infinite(second):
        if is_of_shares(op) and isinstance(first, float) and first < 0:
            return f"{_EMPTY_ROW} What is taken from it is −∞ as well, and −∞ − (−∞) is no number.", _LEAVE_ONE
        return "∞ − ∞ is no number.", ""
    if name == "multiply" and 0 in (first, second) and (_infinite(first) or _infinite(second)):
        return "0 · ∞ is no number.", "Mask with mx.where instead of multiplying by 0."
    if name == "divide" and _infinite(first) and _infinite(second):
        return "∞ / ∞ is no number.", ""
    if has(name, Trait.REDUCES) and all(not taken.size for taken in op.inputs):
        return f"There is nothing to take the {name} of: {operand} is empty.", ""
    if name in ("softmax", "logsumexp"):
        return _whole_row(look, birth, op)
    if name == "fast.scaled_dot_product_attention":
        empty = _nobody_to_attend_to(look, op)
        return empty if empty[0] else _scores(look, op)
    return _overflow(look, birth, op, first)


_EMPTY_ROW = "A whole row of −∞ went in."
_LEAVE_ONE = "Leave at least one position of each row unmasked, or mask with a large negative number."


def is_log_of_shares(op: Op) -> bool:
    """Whether an op takes from numbers the logarithm of the sum of their exponentials: a log-softmax by hand."""
    return _taken_out(op) == "logsumexp"


def is_of_shares(op: Op) -> bool:
    """Whether an op belongs to a softmax by hand: it takes from numbers the largest of their row, or ln Σ exp of it."""
    return _taken_out(op) in ("logsumexp", "max")


def _taken_out(op: Op) -> str:
    """Say what of a row an op takes from its numbers: "max", "logsumexp"; "" if nothing of the kind."""
    made = op.inputs[-1].op if op.name == "subtract" and len(op.inputs) == 2 else None
    while made is not None and made.inputs and (has(made.name, Trait.ARRANGES) or made.name == "stop_gradient"):
        made = made.inputs[0].op
    of_it = made is not None and made.inputs and made.inputs[0].canonical is op.inputs[0].canonical
    return made.name if made is not None and of_it else ""


def _nobody_to_attend_to(look: Look, op: Op) -> tuple[str, str]:
    """Whether the mask of an attention leaves some query without a key."""
    mask = op.kwargs.get("mask")
    if not isinstance(mask, Value) or not look.can_see(mask) or not mask.shape:
        return "", ""
    array = look.array(mask)
    closed = ~array if array.dtype == mx.bool_ else array == -mx.inf
    rows = mx.all(closed, axis=-1)
    count, first = look.numbers([mx.sum(rows), mx.argmax(rows.flatten())])
    if not count:
        return "", ""
    row = words.element(words.name(mask), unravel(int(first), (*mask.shape[:-1], 1)))
    return f"The mask leaves no key to the query of row {row.rpartition(',')[0]},:]: its shares are 0/0.", _LEAVE_ONE


_RANGES = {
    "arccos": lambda a: -1 <= a <= 1, "arcsin": lambda a: -1 <= a <= 1, "arctanh": lambda a: -1 < a < 1,
    "erfinv": lambda a: -1 < a < 1, "arccosh": lambda a: a >= 1,
}  # fmt: skip


def _whole_row(look: Look, birth: Birth, op: Op) -> tuple[str, str]:
    """Whether the row of the bad element holds nothing but −∞, or an ∞."""
    taken = op.inputs[0]
    axis = op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None)
    array = look.array(taken)
    if isinstance(axis, int) and birth.value.shape == taken.shape:
        index = list(unravel(birth.at, taken.shape))
        array = _line(array, index, axis)
    all_low, any_high = look.numbers([mx.all(array == -mx.inf), mx.any(array == mx.inf)])
    if all_low:
        return f"{_EMPTY_ROW} Its shares would be 0/0.", _LEAVE_ONE
    return ("An ∞ went in: its share would be ∞/∞.", "") if any_high else ("", "")


def _line(array: mx.array, index: list[int], axis: int) -> mx.array:
    places: list[Any] = list(index)
    places[axis] = slice(None)
    return array[tuple(places)]


def _overflow(look: Look, birth: Birth, op: Op, first: Number) -> tuple[str, str]:
    """Whether the number is only too large for its dtype: computed again in a wider one."""
    value = birth.value
    dtype, limit = words.dtype(value.dtype), LARGEST.get(value.dtype)
    if limit is None or birth.before is not None:
        return "", ""
    bound = 11.09 if value.dtype == mx.float16 else 88.72
    if op.name == "exp" and first is not None and first > bound:
        rule = f"exp overflows in {dtype} beyond {bound}: the largest number there is {words.number(limit)}."
        return rule, "Take the largest element out first (softmax and logsumexp do), or clip what goes in."
    wide = first if op.name == "astype" else _wider(look, birth, op)
    if wide is None or not math.isfinite(wide) or abs(wide) <= limit:
        return "", ""
    if op.name == "astype":
        return f"It overflows {dtype}, whose largest number is {words.number(limit)}.", ""
    exact = f"in {'float64' if value.dtype != mx.float16 else 'float32'} it would be {words.number(wide)}"
    rule = f"It overflows {dtype}, whose largest number is {words.number(limit)}: {exact}."
    if value.dtype == mx.float16:
        return rule, "Use float32 here" + (", or bfloat16." if abs(wide) < LARGEST[mx.bfloat16] else ".")
    return rule, ""


def _wider(look: Look, birth: Birth, op: Op) -> float | None:
    """Return the number as it would be in a wider dtype; None if it cannot be had."""
    wide = mx.float32 if birth.value.dtype == mx.float16 else mx.float64

    def widened(taken: Value) -> mx.array:
        return taken.array.astype(wide) if mx.issubdtype(taken.dtype, mx.floating) else taken.array

    look.see(op.inputs)
    found = _element(look, op, birth, widened)
    if (found is None or not math.isfinite(found)) and has(op.name, Trait.PRODUCT):
        # A product that MLX has in float32 only: of operands whose largest number is 1, and as many times larger.
        peaks = {taken: look.stat(taken).peak or 1.0 for taken in dict.fromkeys(op.inputs)}
        small = _element(look, op, birth, lambda taken: taken.array / peaks[taken])
        found = None if small is None else small * math.prod(peaks[taken] for taken in op.inputs)
    return found


def _element(look: Look, op: Op, birth: Birth, given: Callable[[Value], mx.array]) -> float | None:
    """Return the element at which a number went bad, of the op on other operands; None if the op refuses them."""
    try:
        with mx.stream(mx.cpu):
            result = op.compute(given)[birth.value.slot].flatten()[birth.at]
            found: Any = look.numbers([result])[0]
    except (ValueError, TypeError, RuntimeError, IndexError):
        return None
    return found if isinstance(found, float) else None


def _scores(look: Look, op: Op) -> tuple[str, str]:
    """Whether the scores of an attention overflow: queries and keys whose products are too large."""
    q, k = op.args[:2]
    limit = LARGEST.get(q.dtype)
    if limit is None or not all(look.stat(taken).is_finite for taken in (q, k)):
        return "", ""
    peaks = [look.stat(taken).peak or 1.0 for taken in (q, k)]
    left, right = (look.array(taken).astype(mx.float32) / peak for taken, peak in zip((q, k), peaks))
    right = mx.repeat(right, left.shape[1] // right.shape[1], axis=1)
    scale = float(op.kwargs.get("scale", 1.0))
    largest = look.numbers([mx.max(mx.abs(left @ mx.swapaxes(right, -1, -2)))])[0] * peaks[0] * peaks[1] * abs(scale)
    if largest <= limit:
        return "", ""
    return (f"The scores overflow {words.dtype(q.dtype)}, whose largest number is {words.number(limit)}: the largest "
            f"product of {words.name(q)} and {words.name(k)}, scaled, would be {words.number(largest)}.",
            "Normalize queries and keys, or make them smaller.")  # fmt: skip


def _infinite(number: Number) -> bool:
    return isinstance(number, float) and math.isinf(number)


_INFINITE_SLOPE = {
    "sqrt": ("The slope of √a is 1 / (2·√a), which is infinite at a = 0.", "mx.sqrt({} + 1e-8)"),
    "rsqrt": ("The slope of 1 / √a is infinite at a = 0.", "mx.rsqrt({} + 1e-8)"),
    "log": ("The slope of ln a is 1 / a, which is infinite at a = 0.", "mx.log(mx.maximum({}, 1e-7))"),
    "log2": ("The slope of log₂ a is infinite at a = 0.", "mx.log2(mx.maximum({}, 1e-7))"),
    "log10": ("The slope of log₁₀ a is infinite at a = 0.", "mx.log10(mx.maximum({}, 1e-7))"),
    "reciprocal": ("The slope of 1 / a is infinite at a = 0.", ""),
    "power": ("The slope of a power below 1 is infinite at a = 0.", ""),
}


def _backward_rule(
    look: Look, op: Op, numbers: list[Number], came: Number, by_exponent: bool = False
) -> tuple[str, str]:
    """Return the rule that a VJP broke although its forward op was given finite numbers.

    Args:
        by_exponent: Whether it is the gradient of the second operand.
    """
    name = op.name
    operand = next((taken.name for taken in op.inputs), "x")
    first, second = [*numbers, None, None][:2]
    times = " 0 · ∞ is no number." if came == 0 else ""
    if name == "power" and second == 0 and first == 0:
        return "The slope of a⁰ is 0 · a⁻¹, and 0 · ∞ is no number at a = 0.", f"Keep {operand} away from 0."
    if name == "power" and first is not None and first < 0 and by_exponent:
        return "The slope along the exponent is ln(a) · aᵇ, and there is no logarithm of a negative number.", ""
    if name in _INFINITE_SLOPE and first == 0 and (name != "power" or (second is not None and second < 1)):
        rule, keep = _INFINITE_SLOPE[name]
        where = "" if came != 0 else " Before this op: where() afterwards does not help, because 0 · ∞ is NaN."
        advice = f"Keep {operand} away from 0{': ' + keep.format(operand) if keep else ''}.{where}"
        return rule + times, advice
    if name == "fast.scaled_dot_product_attention":
        return _nobody_to_attend_to(look, op)
    if name == "divide" and second == 0:
        below = op.inputs[-1].name
        return f"The slope of a / b divides by b, which is 0.{times}", f"Keep {below} away from 0 before this op."
    if name in ("linalg.norm", "std") and not look.stat(op.outputs[0]).zeros:
        return "", ""
    if name == "linalg.norm":
        return "The slope of a length is a / ‖a‖: 0 / 0 for a vector of zeros.", f"Add a small number to {operand}."
    if name == "std":
        rule = "The slope of a standard deviation divides by it: 0 / 0 where all numbers are the same."
        return rule, "Take mx.sqrt(mx.var(…) + 1e-8)."
    if name == "arctan2" and first == second == 0:
        return (
            f"The point (0, 0) is seen under no angle: the slope there is 0/0.{times}",
            "Keep one of them away from 0.",
        )
    if name in ("arccos", "arcsin", "arctanh") and first is not None and abs(first) == 1:
        return f"Its slope is infinite at the ends of its range.{times}", "Clip a little inside of −1 and 1."
    return "", ""
