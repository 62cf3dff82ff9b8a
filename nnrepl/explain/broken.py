"""Broken: which rule of arithmetic an op broke where it made a number that is none, on the very numbers it had."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from functools import partial
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.known import entry_for
from nnrepl.explain.look import Look
from nnrepl.explain.paths import upstream
from nnrepl.explain.stuck import made_zero
from nnrepl.ops import ENTRIES, Trait, has
from nnrepl.ops.entry import Pole
from nnrepl.ops.numbers import unravel
from nnrepl.ops.poles import LARGEST
from nnrepl.ops.reader import readable
from nnrepl.session.births import NAN, Birth, same_place
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Said, first_advised, joined

Number = float | int | None


@dataclass(frozen=True, slots=True)
class BrokenRule:
    """A rule that may have been broken, and what would prevent it ("" where nothing can be said)."""

    text: str
    advice: str = ""


@dataclass(slots=True)
class Broken:
    """Which rule was broken, by what, and what would prevent it.

    Attributes:
        rule: In sentences; [] where no rule could be shown to be broken.
        sum: The arithmetic of an op that works place by place: `ln(0)`.
        operands: What went in at that place, with its numbers.
        advice: What would prevent it, "" where nothing can be said for sure.
    """

    rule: list[Said] = field(default_factory=list)
    sum: str = ""
    operands: tuple[tuple[str, str], ...] = ()
    advice: Said = field(default_factory=Said)


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
        return _told(_forwards(look, birth, forward, numbers), _arithmetic(op, numbers), operands,
                     _divisor(look, forward, numbers, birth))  # fmt: skip
    given = upstream(op)[:1]
    came = _number(look, given[0], at) if given and at is not None and given[0].shape == result else None
    if came is not None:
        operands = (*operands, (words.element(given[0].name, unravel(at or 0, result)), words.number(came)))
    return _told(_backwards(look, birth, forward, numbers, came), "", operands, [])


def _told(claims: Iterable[Claim[BrokenRule]], arithmetic: str, operands: tuple[tuple[str, str], ...], more: list[Said]
          ) -> Broken:  # fmt: skip
    """Return the first rule that was broken, and what is to be done about it."""
    found = first_advised(claims)
    if found is None:
        return Broken([], arithmetic, operands)
    said, advice = found
    return Broken([joined([said], more)], arithmetic, operands, advice)


def _divisor(look: Look, op: Op, numbers: list[Number], birth: Birth) -> list[Said]:
    """Return where the zeros of a divisor began: all of them, where it is 0 everywhere, or the one that was divided
    by."""
    divisor = op.inputs[-1] if op.inputs and has(op.name, Trait.DIVIDES) else None
    if divisor is None or not numbers or numbers[-1] != 0 or divisor.op is None or not look.can_see(divisor):
        return []
    if look.stat(divisor).is_zero:
        return [made_zero(look, divisor).text]
    place = same_place(birth.value.shape, birth.at, divisor.shape)
    one = None if place is None else mx.arange(divisor.size).reshape(divisor.shape) == place
    return [] if one is None else [made_zero(look, divisor, one).text]


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


def _forwards(look: Look, birth: Birth, op: Op, numbers: list[Number]) -> Iterator[Claim[BrokenRule]]:
    """Yield the rules that a forward op may have broken, each with a check on its numbers."""
    operand = next((taken.name for taken in op.inputs), "it")
    stands = birth.constant
    yield Claim("why: a constant", lambda: stands is not None and not math.isfinite(stands), lambda: BrokenRule(
        f"{words.number(stands or 0.0)} stands in the program."))  # fmt: skip
    if stands is not None:
        return
    if is_of_shares(op):
        low = bool(numbers) and numbers[0] == -math.inf
        yield Claim("why: empty row of shares", lambda: low and birth.kind == NAN, lambda: BrokenRule(
            f"{_EMPTY_ROW} What is taken from it is −∞ as well, and −∞ − (−∞) is no number.", _LEAVE_ONE
        ))  # fmt: skip
    for pole in _poles(op):
        yield Claim("why: pole", partial(pole.where, numbers), partial(BrokenRule, pole.rule, _kept(pole, op, operand)))
    taken_none = bool(op.inputs) and not any(taken.size for taken in op.inputs)
    yield Claim("why: of nothing", lambda: has(op.name, Trait.REDUCES) and taken_none, lambda: BrokenRule(
        f"There is nothing to take the {op.name} of: {operand} is empty."))  # fmt: skip
    if has(op.name, Trait.ATTENDS):
        yield from (_nobody_to_attend_to(look, op), _scores(look, op))
    elif has(op.name, Trait.SHARES):
        yield from _whole_row(look, birth, op)
    else:
        yield from _overflow(look, birth, op, numbers)


def _kept(pole: Pole, op: Op, operand: str) -> str:
    """Return what would keep an op away from a pole; of float16, where 1e-8 is 0, with a number that is none."""
    half = any(taken.dtype == mx.float16 for taken in op.inputs)
    return pole.keep.replace("{}", operand).replace("{small}", "1e-4" if half else "1e-8")


def _poles(op: Op) -> tuple[Pole, ...]:
    entry = ENTRIES.get(op.name)
    return () if entry is None or op.operation.kind not in ("op", "edit") else entry.poles


_EMPTY_ROW = "A whole row of −∞ went in."
_LEAVE_ONE = "Leave at least one position of each row unmasked, or mask with a large negative number."


def is_log_of_shares(op: Op) -> bool:
    """Whether an op takes from numbers the logarithm of the sum of their exponentials: a log-softmax by hand."""
    return has(_taken_out(op), Trait.LOG_SUM)


def is_of_shares(op: Op) -> bool:
    """Whether an op belongs to a softmax by hand: it takes from numbers the largest of their row, or ln Σ exp of it."""
    return has(_taken_out(op), Trait.LOG_SUM, Trait.LARGEST)


def _taken_out(op: Op) -> str:
    """Return the op, by its name, whose one number of a row is taken from the row's numbers; "" if there is none."""
    made = op.inputs[-1].op if has(op.name, Trait.DIFFERENCE) and len(op.inputs) == 2 else None
    while made is not None and made.inputs and has(made.name, Trait.ARRANGES, Trait.STOPS):
        made = made.inputs[0].op
    of_it = made is not None and made.inputs and made.inputs[0].canonical is op.inputs[0].canonical
    return made.name if made is not None and of_it and has(made.name, Trait.REDUCES) else ""


def _nobody_to_attend_to(look: Look, op: Op) -> Claim[BrokenRule]:
    """Claim that the mask of an attention leaves some query without a key."""
    mask = op.kwargs.get("mask")
    has_mask = isinstance(mask, Value) and look.can_see(mask) and bool(mask.shape)

    def closed() -> mx.array:
        assert isinstance(mask, Value)
        array = look.array(mask)
        return mx.all(~array if array.dtype == mx.bool_ else array == -mx.inf, axis=-1)

    def rule() -> BrokenRule:
        assert isinstance(mask, Value)
        first = int(look.numbers([mx.argmax(closed().flatten())])[0])
        row = words.element(words.name(mask), unravel(first, (*mask.shape[:-1], 1)))
        row = row.rpartition(",")[0]
        return BrokenRule(f"The mask leaves no key to the query of row {row},:]: its shares are 0/0.", _LEAVE_ONE)

    return Claim("why: no key", lambda: has_mask and bool(look.numbers([mx.any(closed())])[0]), rule)


def _whole_row(look: Look, birth: Birth, op: Op) -> Iterator[Claim[BrokenRule]]:
    """Yield that the row of the bad element holds nothing but −∞, or that it has an ∞."""
    taken = op.inputs[0]
    axis = op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None)
    array = look.array(taken)
    if isinstance(axis, int) and birth.value.shape == taken.shape:
        index = list(unravel(birth.at, taken.shape))
        array = _line(array, index, axis)
    elif birth.value.shape == taken.shape[:-1]:  # each row has one number
        array = array[tuple(unravel(birth.at, birth.value.shape))]
    yield Claim("why: empty row", lambda: bool(look.numbers([mx.all(array == -mx.inf)])[0]), lambda: BrokenRule(
        f"{_EMPTY_ROW} Its shares would be 0/0.", _LEAVE_ONE))  # fmt: skip
    yield Claim("why: infinite share", lambda: bool(look.numbers([mx.any(array == mx.inf)])[0]), lambda: BrokenRule(
        "An ∞ went in: its share would be ∞/∞."))  # fmt: skip


def _line(array: mx.array, index: list[int], axis: int) -> mx.array:
    places: list[Any] = list(index)
    places[axis] = slice(None)
    return array[tuple(places)]


def _overflow(look: Look, birth: Birth, op: Op, numbers: list[Number]) -> Iterator[Claim[BrokenRule]]:
    """Yield that the number is only too large for its dtype: computed again in a wider one."""
    value = birth.value
    dtype, limit = words.dtype(value.dtype), LARGEST.get(value.dtype)
    if limit is None or birth.before is not None:
        return
    entry, first = ENTRIES.get(op.name), next(iter(numbers), None)
    bound = None if entry is None else entry.beyond.get(value.dtype)
    beyond = bound is not None and first is not None and first > bound
    yield Claim("why: overflows beyond", lambda: beyond, lambda: BrokenRule(
        f"{op.name} overflows in {dtype} beyond {bound}: the largest number there is {words.number(limit)}.",
        "Take the largest element out first (softmax and logsumexp do), or clip what goes in.",
    ))  # fmt: skip
    cast = has(op.name, Trait.CASTS)
    wide = first if cast else None if beyond else _wider(look, birth, op)
    too_large = wide is not None and math.isfinite(wide) and abs(wide) > limit
    said = f"It overflows {dtype}, whose largest number is {words.number(limit)}"
    half = value.dtype == mx.float16
    exact = f": in {'float32' if half else 'float64'} it would be {words.number(wide or 0.0)}"
    fits = ", or bfloat16." if wide is not None and abs(wide) < LARGEST[mx.bfloat16] else "."
    yield Claim("why: overflow", lambda: too_large, lambda: BrokenRule(
        f"{said}{'' if cast else exact}.",
        f"Use float32 here{fits}" if half and not cast else "",
    ))  # fmt: skip


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


def _scores(look: Look, op: Op) -> Claim[BrokenRule]:
    """Claim that the scores of an attention overflow: queries and keys whose products are too large."""
    q, k = op.args[:2]
    limit = LARGEST.get(q.dtype, math.inf)
    largest = _largest_score(look, op) if all(look.stat(taken).is_finite for taken in (q, k)) else 0.0
    return Claim("why: scores overflow", lambda: largest > limit, lambda: BrokenRule(
        f"The scores overflow {words.dtype(q.dtype)}, whose largest number is {words.number(limit)}: the largest "
        f"product of {words.name(q)} and {words.name(k)}, scaled, would be {words.number(largest)}.",
        "Normalize queries and keys, or make them smaller."))  # fmt: skip


def _largest_score(look: Look, op: Op) -> float:
    q, k = op.args[:2]
    peaks = [look.stat(taken).peak or 1.0 for taken in (q, k)]
    left, right = (look.array(taken).astype(mx.float32) / peak for taken, peak in zip((q, k), peaks))
    right = mx.repeat(right, left.shape[1] // right.shape[1], axis=1)
    scale = float(op.kwargs.get("scale", 1.0))
    found: float = look.numbers([mx.max(mx.abs(left @ mx.swapaxes(right, -1, -2)))])[0]
    return found * peaks[0] * peaks[1] * abs(scale)


def _backwards(look: Look, birth: Birth, op: Op, numbers: list[Number], came: Number) -> Iterator[Claim[BrokenRule]]:
    """Yield the rules that a VJP may have broken although its forward op was given finite numbers."""
    of = birth.value.gradient_of
    slot = next((at for at, arg in enumerate(op.args) if isinstance(arg, Value) and of is not None
                 and arg.canonical is of.canonical), None)  # fmt: skip
    operand = next((taken.name for taken in op.inputs), "x")
    times = " 0 · ∞ is no number." if came == 0 else ""
    late = " Before this op: where() afterwards does not help, because 0 · ∞ is NaN." if came == 0 else ""
    entry = ENTRIES.get(op.name)
    given = _row(look, op, of, birth) if has(op.name, Trait.REDUCES) else numbers
    for pole in () if entry is None else entry.steep:
        if pole.slot in (None, slot):
            more, after = (times, late if "{}" in pole.keep else "") if pole.times else ("", "")
            rule = partial(BrokenRule, pole.rule + more, _kept(pole, op, operand) + after)
            yield Claim("why: steep", partial(pole.where, given), rule)
    if has(op.name, Trait.ATTENDS):
        yield _nobody_to_attend_to(look, op)
    assert birth.op is not None
    yield from _overflow(look, birth, birth.op, [])


def _row(look: Look, op: Op, of: Value | None, birth: Birth) -> list[Number]:
    """Return the number at which a gradient went bad, and 0 if one of the numbers that rows became is 0 (else 1)."""
    taken, made = op.inputs[0], op.outputs[0]
    if of is None or of.shape != taken.shape or not (look.can_see(taken) and look.can_see(made)):
        return []
    return [_number(look, taken, birth.at), 0 if look.stat(made).zeros else 1]
