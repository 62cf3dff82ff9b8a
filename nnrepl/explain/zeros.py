"""Zeros: where the zeros of a tensor of the forward pass began."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.answer import Evidence
from nnrepl.explain.links import shown as in_short
from nnrepl.explain.look import Look
from nnrepl.explain.regions import Mask, backwards, counting, is_zero_on, moves
from nnrepl.explain.sameness import same_since
from nnrepl.explain.zero_reasons import Because, Reason, reasoned
from nnrepl.ops import Trait, has
from nnrepl.session.births import filler, is_inexact
from nnrepl.tape import Leaf, Op, Value
from nnrepl.tape.claims import Claim, Said, say_first


def shown(look: Look, values: list[Value]) -> list[Evidence]:
    """Tensors as evidence, each once."""
    return [Evidence(words.address(value), in_short(look, value)) for value in dict.fromkeys(values)]


Inside = Callable[[Look, Value], list[Said]]
"""Says where, inside of a call that MLX runs by itself, a gradient became 0 that is its result; [] if it is none. It
walks that gradient, which may end at another tensor that is 0: hence it is handed in, and stands a floor higher."""


def zero_value(look: Look, value: Value, inside: Inside, mask: Mask | None = None) -> Reason:
    """Where the zeros of a forward value began.

    Args:
        mask: The places that count and are 0; None for all.
    """
    for _ in range(1000):
        op = value.op
        if op is None:
            return _came_in(look, value, mask)
        before = _zeros_before(look, op, value, mask)
        if before is None:
            break
        value, mask = before
    assert value.op is not None
    return reasoned(_made_zero(look, value.op, value, inside, mask))


def _is_zero(look: Look, value: Value, mask: Mask | None) -> bool:
    """Look at the numbers themselves whether they are 0, where they count."""
    if not value.size:
        return False
    return is_zero_on(look, value, mask) if mask is not None else not look.numbers([mx.any(look.array(value) != 0)])[0]


def _came_in(look: Look, value: Value, mask: Mask | None) -> Reason:
    made = _since(look, value, mask)
    is_own = isinstance(value, Leaf) and value.kind == "parameter"
    where = f" at {counting(look, mask)}" if mask is not None else ""

    def is_zero() -> bool:
        return _is_zero(look, value, mask)

    def since() -> Because:
        assert made is not None
        return Because(f"{value.name} is 0{where} since {made.label} {words.call(made)} ({words.spot(made)}).",
                       shown(look, [value]), made, came=value)  # fmt: skip

    return reasoned([
        Claim("0: since", lambda: made is not None and is_zero(), since),
        Claim("0: parameter", lambda: is_own and is_zero(), lambda: Because(
            f"{value.name} is a parameter that is 0{where}.", shown(look, [value]), start=value, came=value)),
        Claim("0: came in", is_zero, lambda: Because(
            f"{value.name} is 0 as it came in{where}.", shown(look, [value]), came=value)),
    ])  # fmt: skip


def _since(look: Look, value: Value, mask: Mask | None) -> Op | None:
    """Return the op of an earlier pass that made a tensor 0, at the places that count, which was not 0 there before;
    None where it began with zeros, or where that cannot be told."""
    for made, before in versions(value):
        if before is None or not look.can_see(before):
            return None
        if not _is_zero(look, before, mask):
            return made
    return None


def versions(value: Value) -> Iterator[tuple[Op, Value | None]]:
    """Back through what earlier passes made of a tensor: each op, and the tensor that it changed; None where it made
    the tensor anew."""
    while value.origin is not None:
        value = value.origin
        made = value.op
        if made is None:
            continue
        before = next((taken for taken in made.inputs if taken.shape == value.shape and is_inexact(taken)), None)
        yield made, None if has(made.name, Trait.ZEROS) else before
        if before is None or has(made.name, Trait.ZEROS):
            return
        value = before


def _zeros_before(look: Look, op: Op, value: Value, mask: Mask | None) -> tuple[Value, Mask | None] | None:
    """Return the operand from which an op only hands zeros on; None if the op makes them."""
    floats = [taken for taken in dict.fromkeys(op.inputs) if taken.size and is_inexact(taken)]
    if moves(op):
        masks = backwards(look, op, value, mask, floats)
        counting = [taken for taken in floats if masks and look.numbers([mx.any(masks[taken])])[0]]
        if masks and counting and all(is_zero_on(look, taken, masks[taken]) for taken in counting):
            taken = counting[0]
            return taken, None if look.stat(taken).is_zero else masks[taken]
        return None
    if has(op.name, Trait.CHOOSES):
        alone = mask is None and has(op.name, Trait.REDUCES) and len(floats) == 1 and look.stat(floats[0]).is_zero
        return (floats[0], None) if alone else None  # the largest of zeros
    if mask is None:
        stats = look.stats(floats)
        dead = [taken for taken in floats if stats[taken].is_zero]
        if has(op.name, Trait.ADDS) and len(dead) < len(floats):
            factors = dead[1:] if has(op.name, Trait.PRODUCT) and dead[:1] == floats[:1] else []  # 0 + a @ 0
            return (factors[0], None) if factors else None
        adds = bool(dead) and has(op.name, Trait.ADDS)
        handing = _computed(look, dead) if adds else _enough(look, op, value, dead)
        return None if handing is None else (handing, None)
    same = [taken for taken in floats if taken.shape == value.shape and is_zero_on(look, taken, mask)]
    return (same[0], mask) if same and has(op.name, Trait.SCALES, Trait.NEGATES, Trait.SQUARES, Trait.SIZE) else None


def _enough(look: Look, op: Op, value: Value, dead: list[Value]) -> Value | None:
    """Return the first of an op's operands that are 0 with which the result is 0, whatever the others are; None if it
    is 0 with none of them: a norm of what is the same everywhere, with a bias of 0."""
    others = [taken for taken in dict.fromkeys(op.inputs) if is_inexact(taken)]
    if not dead or len(others) == 1:
        return dead[0] if dead else None
    look.see(op.inputs)
    tests = []
    for kept in dead:
        with_it = op.compute(lambda one: one.array if one is kept or one not in others else filler(one))  # noqa: B023
        tests.append(mx.all(with_it[value.slot] == 0))
    return next((kept for kept, is_zero in zip(dead, look.numbers(tests)) if is_zero), None)


_DEEP = 40


def _computed(look: Look, dead: list[Value]) -> Value:
    """Of the terms of a sum that are all 0 the one whose zeros were computed, rather than those with which the sum
    began; the one made last is asked first."""
    made = sorted(dead, key=lambda one: -(one.op.position if one.op is not None else -1))
    return next((one for one in made if not _began_as_zeros(look, one, 0)), made[0])


def _began_as_zeros(look: Look, value: Value, deep: int) -> bool:
    """Whether zeros lead back to a tensor that the program made so, or gave so."""
    while value.op is not None and not has(value.op.name, Trait.ZEROS) and deep < _DEEP:
        floats = [taken for taken in dict.fromkeys(value.op.inputs) if taken.size and is_inexact(taken)]
        dead = [taken for taken in floats if look.stat(taken).is_zero]
        if floats and len(dead) == len(floats) and has(value.op.name, Trait.ADDS):
            return all(_began_as_zeros(look, one, deep + 1) for one in dead)
        taken = _enough(look, value.op, value, dead)
        if taken is None:
            return not floats
        value, deep = taken, deep + 1
    return True


def _made_zero(look: Look, op: Op, value: Value, inside: Inside, mask: Mask | None) -> Iterator[Claim[Because]]:
    """Yield what may be said of an op that makes zeros, the most telling first."""
    where = words.spot(op)
    at = f" ({op.label}, {where})" if where else f" ({op.label})"
    made = f"{value.name} = {words.call(op)}"
    floats = [taken for taken in dict.fromkeys(op.inputs) if is_inexact(taken)]
    below = _below(look, op, value)

    def because(text: str) -> Because:
        is_start = has(op.name, Trait.ZEROS)
        return Because(text, shown(look, [*floats, value]), op, value if is_start else None)

    def is_zero() -> bool:
        return _is_zero(look, value, mask)

    yield Claim("0: at places", lambda: mask is not None and is_zero(), lambda: because(
        f"{made} is 0 at {counting(look, mask)}{at}."))  # fmt: skip
    yield Claim("0: below", lambda: bool(below) and is_zero(), lambda: because(f"{made} is 0 everywhere{at}: {below}."))
    yield Claim("0: made as zeros", lambda: has(op.name, Trait.ZEROS) and is_zero(), lambda: because(
        f"{value.name} was made as zeros{at}."))  # fmt: skip
    is_data = op.operation.kind == "data" or has(op.name, Trait.GIVEN)
    yield Claim("0: given", lambda: is_data and is_zero(), lambda: because(
        f"{value.name} is 0 as the program gave it{at}."))  # fmt: skip
    yield Claim("0: gives 0", is_zero, lambda: because(
        " ".join([f"{made} gives 0 everywhere{at}.", *_more(look, op, value, inside)])))  # fmt: skip


def _below(look: Look, op: Op, value: Value) -> str:
    """Say of a ReLU that nothing that goes in is above 0, in the numbers themselves; "" where that is not so."""
    given = [arg for arg in op.args if isinstance(arg, Value)]
    limit = next((arg for arg in op.args if not isinstance(arg, Value)), None)
    if not has(op.name, Trait.LARGER) or len(given) != 1 or limit != 0 or not given[0].size:
        return ""
    if look.numbers([mx.any(look.array(given[0]) > 0)])[0]:
        return ""
    units, rows = units_of(value.array)
    every = f" in every row of the batch ({rows})" if rows > 1 else ""
    return f"{given[0].name} ≤ {words.operand(limit)} in {units} of {units} units{every}"


def _more(look: Look, op: Op, value: Value, inside: Inside) -> list[Said]:
    """Return why an op gives 0 of numbers that are not all 0, where that can be told: a sentence at most."""
    equal = op.inputs[0] if has(op.name, Trait.DIFFERENCE) and op.inputs else None
    return (
        say_first([*_too_small(look, op, value), *_operands(look, op)])
        or (same_since(look, equal) if equal is not None else [])
        or inside(look, value)
    )


def _too_small(look: Look, op: Op, value: Value) -> Iterator[Claim[str]]:
    """Claim that a product is 0 only because half precision has no number so small."""
    if value.dtype not in (mx.float16, mx.bfloat16) or op.operation.kind != "op" or has(op.name, Trait.CONVERTS):
        return
    look.see(op.inputs)
    wide = op.compute(lambda taken: taken.array.astype(mx.float32) if is_inexact(taken) else taken.array)
    peak = look.numbers([mx.max(mx.abs(wide[value.slot].astype(mx.float32)))])[0]
    yield Claim("0: half precision", lambda: peak > 0, lambda: (
        f"In float32 its largest number would be {words.number(peak)}, too small for {words.dtype(value.dtype)}."
    ))  # fmt: skip


def _operands(look: Look, op: Op) -> Iterator[Claim[str]]:
    """Yield what may be claimed of the operands of an op that gives 0 of numbers that are not: in `1 - x` x is 1
    everywhere, in `where(c, x, 0)` c is false everywhere."""
    taken = [one for one in dict.fromkeys(op.inputs) if one.op is not None and one.size]
    if has(op.name, Trait.SWITCHES) and op.inputs and op.inputs[0].size and not is_inexact(op.inputs[0]):
        condition = op.inputs[0]
        some, every = look.numbers([mx.any(look.array(condition)), mx.all(look.array(condition))])
        yield Claim("0: one side", lambda: some == every, lambda: (
            f"{_told(condition)} is {'true' if every else 'false'} everywhere."))  # fmt: skip
    elif has(op.name, Trait.NORMALIZES) and taken:
        rows = look.array(taken[0])
        same = mx.max(rows, axis=-1) - mx.min(rows, axis=-1) <= 1e-6 * mx.max(mx.abs(rows))
        yield Claim("0: same along rows", lambda: bool(look.numbers([mx.all(same)])[0]), lambda: (
            f"{_told(taken[0])} is the same number all along each row."))  # fmt: skip
    elif has(op.name, Trait.DIVIDES) and has(op.name, Trait.SCALES) and len(op.inputs) == 2 and op.inputs[1].size:
        divisor = op.inputs[1]
        yield Claim("0: infinite divisor", lambda: look.stat(divisor).infs == divisor.size, lambda: (
            f"{_told(divisor)} is infinite{' everywhere' if divisor.size > 1 else ''}."))  # fmt: skip
    elif has(op.name, Trait.DIFFERENCE, Trait.SUM) and len(taken) == 1:
        low, high = look.numbers([mx.min(look.array(taken[0])), mx.max(look.array(taken[0]))])
        everywhere = " everywhere" if taken[0].size > 1 else ""
        yield Claim("0: one number", lambda: low == high, lambda: (
            f"{_told(taken[0])} is {words.number(low)}{everywhere}."))  # fmt: skip


def _told(value: Value) -> str:
    return words.name(value) if value.op is None else f"{words.made(value, value.op)},"


def units_of(array: mx.array) -> tuple[int, int]:
    """Return the units (the last axis) and rows (all others) of an activation."""
    if array.ndim < 2:
        return (array.size if array.ndim else 1), 0
    return array.shape[-1], array.size // array.shape[-1]
