"""Worked back: the arithmetic of one element of a gradient, with the real numbers plugged in."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.explain import sums, words
from nnrepl.explain.elements import (
    Index,
    broadcast_index,
    named,
    number_at,
    numbers_at,
    ravel,
    unravel,
)
from nnrepl.explain.entry import ELEMENTWISE, MOVE, Entry, arguments, bind, entry_for
from nnrepl.explain.local import symbol_of, without_ones
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.explain.worked import origins, result_at, symbols_at
from nnrepl.tape import Op, Value, fill


def backward_lines(look: Look, op: Op, gradient: Value, index: Index) -> list[str]:
    """How one element of a gradient was computed."""
    if op.operation.kind == "accumulate":
        return _accumulated(look, op, gradient, index)
    forward, of = op.of, gradient.gradient_of
    if forward is None or of is None:
        return []
    entry = entry_for(op)
    symbol = symbol_of(entry, forward, of) if entry is not None else None
    if entry is not None and symbol is not None and len(forward.outputs) == 1:
        if symbol in entry.slopes and entry.kind == ELEMENTWISE:
            return _elementwise(look, op, entry, symbol, gradient, index)
        if entry.name in ("matmul", "addmm") and _used_once(forward, of):
            found = _product(look, op, entry, symbol, gradient, index)
            if found:
                return found
        if entry.name in ("sum", "mean"):
            return _handed_out(look, op, entry, gradient, index)
    if entry is not None and entry.kind == MOVE:
        found = _put_back(look, op, gradient, index)
        if found:
            return found
    return by_jacobian(look, op, gradient, index)


def _used_once(forward: Op, of: Value) -> bool:
    return sum(value.canonical is of.canonical for value in forward.inputs) == 1


def _accumulated(look: Look, op: Op, gradient: Value, index: Index) -> list[str]:
    """Parts of a gradient that arrive on several ways are added."""
    total = result_at(look, gradient, index)
    if rule_of(op) is None:
        numbers = [float(number_at(look, part, index)) for part in op.inputs]
        names = [_part(part, index) for part in op.inputs]
        return [f"{named(gradient, index)} = {' + '.join(names)}",
                f"= {' + '.join(map(words.factor, numbers))} = {words.number(total)}"]  # fmt: skip
    far = upstream(op)[-1]
    before = float(number_at(look, far, index))
    return [f"{named(gradient, index)} = what had arrived ({_part(far, index)}) + the part of this op",
            f"= {words.factor(before)} + {words.factor(total - before)} = {words.number(total)}"]  # fmt: skip


def _part(value: Value, index: Index) -> str:
    made = f" from {value.op.label}" if value.op is not None else ""
    return f"{named(value, index)}{made}"


def _elementwise(look: Look, op: Op, entry: Entry, symbol: str, gradient: Value, index: Index) -> list[str]:
    forward = op.of
    assert forward is not None
    given, result = upstream(op)[0], forward.outputs[0]
    of = bind(entry, forward)[symbol]
    places = spread(index, of.shape, result.shape)
    total = result_at(look, gradient, index)
    upstreams = [float(number) for number in numbers_at(look, given, [ravel(at, result.shape) for at in places])]
    factors = _factors(look, forward, entry, symbol, places)
    products = [a * b for a, b in zip(upstreams, factors)]
    slope = without_ones(entry, forward, entry.slopes[symbol].text)

    def term(at: int) -> sums.Term:
        symbolic, numeric = symbols_at(look, forward, entry, places[at])
        symbolic |= {"g": named(given, places[at]), "y": named(result, places[at])}
        numeric |= {"g": words.factor(upstreams[at]),
                    "y": words.factor(number_at(look, result, places[at])) if "y" in slope else ""}  # fmt: skip
        return sums.Term(words.substitute(slope, symbolic), words.substitute(slope, numeric), products[at])

    lines = sums.lines(named(gradient, index), len(places), term, products, total)
    if len(places) == 1 and len(lines) == 3:
        factor = words.factor(factors[0])
        if "[" in slope or "σ" in slope:
            lines.insert(2, f"= {words.factor(upstreams[0])} · {factor}")
    return lines


def _factors(look: Look, forward: Op, entry: Entry, symbol: str, places: list[Index]) -> list[float]:
    """The local factors at some places."""
    result = forward.outputs[0]
    look.see([result, *forward.inputs])
    args, kwargs = arguments(forward)
    flat = mx.array([ravel(at, result.shape) for at in places])

    def at_places(value: Value) -> mx.array:
        if value.shape == result.shape or len(value.shape) <= len(result.shape):
            return mx.take(mx.broadcast_to(value.array, result.shape).flatten(), flat)
        return value.array

    ones = mx.ones((len(places),), result.dtype)
    factors = entry.slopes[symbol].run(
        ones, at_places(result), *(fill(arg, at_places) for arg in args),
        **{key: fill(arg, at_places) for key, arg in kwargs.items()},
    )  # fmt: skip
    found: list[Any] = look.numbers([mx.broadcast_to(factors, ones.shape)])[0]
    return [float(number) for number in found]


def spread(index: Index, own: tuple[int, ...], whole: tuple[int, ...]) -> list[Index]:
    """The elements of a result in which one element of a broadcast operand was used."""
    extra = len(whole) - len(own)
    places: list[Index] = [()]
    for axis, extent in enumerate(whole):
        at = axis - extra
        repeated = at < 0 or (own[at] == 1 and extent != 1)
        steps = range(extent) if repeated else [index[at]]
        places = [(*place, step) for place in places for step in steps]
    return places


def _product(look: Look, op: Op, entry: Entry, symbol: str, gradient: Value, index: Index) -> list[str]:
    """The gradient of a matrix: a sum of products of the gradient and the other matrix."""
    forward = op.of
    assert forward is not None
    bound = bind(entry, forward)
    given, a, b = upstream(op)[0], bound["a"], bound["b"]
    result = forward.outputs[0]
    total = result_at(look, gradient, index)
    scale = float(bound.get("alpha", 1.0))
    if symbol == "c":
        return by_jacobian(look, op, gradient, index)
    if len(a.shape) < 2 or len(b.shape) < 2:
        return []
    other = b if symbol == "a" else a
    pairs = _meetings(a.shape, b.shape, result.shape, symbol, index)
    gs = [float(n) for n in numbers_at(look, given, [ravel(place, result.shape) for place, _ in pairs])]
    os = [float(n) for n in numbers_at(look, other, [ravel(place, other.shape) for _, place in pairs])]
    products = [scale * g * o for g, o in zip(gs, os)]

    def term(at: int) -> sums.Term:
        place, own = pairs[at]
        names, values = [named(given, place), named(other, own)], [gs[at], os[at]]
        if symbol == "b":
            names, values = names[::-1], values[::-1]
        if scale != 1:
            names, values = [words.number(scale), *names], [scale, *values]
        return sums.product(names, values)

    return sums.lines(named(gradient, index), len(pairs), term, products, total)


def _meetings(
    a: tuple[int, ...], b: tuple[int, ...], y: tuple[int, ...], symbol: str, index: Index
) -> list[tuple[Index, Index]]:
    """Where an element of `a` (or `b`) took part in `a @ b`: in which result, and what it was multiplied by."""
    own = a if symbol == "a" else b
    batches = spread(index[:-2], own[:-2], y[:-2])
    found: list[tuple[Index, Index]] = []
    for batch in batches:
        if symbol == "a":
            i, k = index[-2:]
            found.extend(((*batch, i, j), (*broadcast_index(batch, b[:-2]), k, j)) for j in range(y[-1]))
        else:
            k, j = index[-2:]
            found.extend(((*batch, i, j), (*broadcast_index(batch, a[:-2]), i, k)) for i in range(y[-2]))
    return found


def _handed_out(look: Look, op: Op, entry: Entry, gradient: Value, index: Index) -> list[str]:
    """The gradient of a sum or a mean goes to every number that went in."""
    forward = op.of
    assert forward is not None
    given, taken, result = upstream(op)[0], forward.inputs[0], forward.outputs[0]
    bound = bind(entry, forward)
    axis, keepdims = bound.get("axis"), bool(bound.get("keepdims"))
    count = len(taken.shape)
    wanted = range(count) if axis is None else [axis] if isinstance(axis, int) else axis
    axes = {at % count for at in wanted} if count else set()
    place = tuple(0 if at in axes else step for at, step in enumerate(index) if keepdims or at not in axes)
    number = float(number_at(look, given, place))
    left, total = named(gradient, index), words.number(result_at(look, gradient, index))
    if entry.name == "sum":
        return [f"{left} = {named(given, place)} = {total}"]
    n = taken.size // max(result.size, 1)
    return [f"{left} = {named(given, place)} / {n} = {words.factor(number)} / {n} = {total}"]


def _put_back(look: Look, op: Op, gradient: Value, index: Index) -> list[str]:
    """The gradient of a number that was moved: the sum over the places to which it went."""
    forward, of = op.of, gradient.gradient_of
    rule = rule_of(op)
    assert forward is not None
    assert of is not None
    if rule is None:
        return []
    moved, starts = origins(forward, look)
    start = next((first for first, taken in starts if taken.canonical is of.canonical), None)
    if start is None:
        return []
    code = start + ravel(index, of.shape)
    total = result_at(look, gradient, index)
    terms: list[tuple[Value, Index, float]] = []
    for given, slot in zip(upstream(op), rule.outputs):
        flat = moved[slot].flatten()
        hits: Any = look.numbers([mx.argsort(flat != code)[: _count(look, flat, code)]])[0]
        numbers = numbers_at(look, given, hits)
        terms.extend((given, unravel(hit, given.shape), float(n)) for hit, n in zip(hits, numbers))
    left = named(gradient, index)
    if not terms:
        return [f"{left} = 0   (it was not taken: no gradient comes back)"]
    values = [term[2] for term in terms]

    def term(at: int) -> sums.Term:
        given, place, value = terms[at]
        return sums.Term(named(given, place), words.factor(value), value)

    return sums.lines(left, len(terms), term, values, total)


def _count(look: Look, flat: mx.array, code: int) -> int:
    return int(look.numbers([mx.sum(flat == code)])[0])


def by_jacobian(look: Look, op: Op, gradient: Value, index: Index) -> list[str]:
    """The chain rule with the op's numerical Jacobian: how much each element of the result changes with this one."""
    forward, of = op.of, gradient.gradient_of
    rule = rule_of(op)
    if forward is None or of is None or rule is None:
        return []
    slot = rule.outputs[0]
    result, given = forward.outputs[slot], upstream(op)[0]
    look.see([given, gradient])
    column = jacobian_column(look, forward, of, slot, index)
    flat = column.flatten()
    order, slopes = look.numbers([mx.argsort(-mx.abs(flat * given.array.flatten())), flat])
    used = [at for at in order if slopes[at] != 0][:400]
    gs = [float(n) for n in numbers_at(look, given, used)]
    products = [g * slopes[at] for g, at in zip(gs, used)]
    total = result_at(look, gradient, index)
    if not used:
        return [f"{named(gradient, index)} = 0   (no element of {words.name(result)} changes with it)"]
    d = words.element(words.name(of), index)

    def term(at: int) -> sums.Term:
        place = unravel(used[at], result.shape)
        return sums.product([named(given, place), f"∂{named(result, place)}/∂{d}"], [gs[at], slopes[used[at]]])

    return sums.lines(named(gradient, index), len(used), term, products, total)


def jacobian_column(look: Look, forward: Op, of: Value, slot: int, index: Index) -> mx.array:
    """How much each element of a result changes with one element of an input: by MLX's jvp, or where it has none, by
    a central difference with a step of the cube root of the precision."""
    look.see(forward.inputs)
    one = mx.zeros((of.size,), of.dtype)
    one[ravel(index, of.shape)] = 1
    tangent = mx.reshape(one, of.shape)
    taken = next(value for value in forward.inputs if value.canonical is of.canonical)

    def run(array: mx.array) -> list[mx.array]:
        return [forward.compute(lambda other: array if other.canonical is of.canonical else other.array)[slot]]

    try:
        column = mx.jvp(run, [taken.array], [tangent])[1][0]
        mx.eval(column)
    except (ValueError, RuntimeError):
        step = 1e-2
        column = (run(taken.array + step * tangent)[0] - run(taken.array - step * tangent)[0]) / (2 * step)
    return column.astype(mx.float32)
