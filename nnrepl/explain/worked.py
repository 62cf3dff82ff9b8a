"""Worked: the arithmetic of one element of a forward op, with the real numbers plugged in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from nnrepl.explain import sums, words
from nnrepl.explain.elements import Index, broadcast_index, named, number_at, numbers_at, ravel, unravel
from nnrepl.explain.entry import ELEMENTWISE, FIXED, MOVE, Entry, bind
from nnrepl.explain.look import Look
from nnrepl.tape import Op, Value


def forward_lines(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    """How one element of a result was computed; empty where only `into` can tell."""
    worker = _WORKERS.get(entry.name)
    if worker is not None:
        return worker(look, op, entry, value, index)
    if entry.kind == MOVE:
        return _moved(look, op, entry, value, index)
    if entry.kind in (ELEMENTWISE, FIXED) and entry.forward is not None and _aligned(op, entry, value):
        return _elementwise(look, op, entry, value, index)
    return []


def result_at(look: Look, value: Value, index: Index) -> float:
    """The number that an op has computed."""
    number = number_at(look, value, index)
    return number if isinstance(number, complex) else float(number)  # type: ignore[return-value]


def _aligned(op: Op, entry: Entry, value: Value) -> bool:
    """Whether every operand can be broadcast to the result: then elements belong together by place."""
    for given in bind(entry, op).values():
        if isinstance(given, Value):
            own, whole = given.shape, value.shape
            if len(own) > len(whole) or any(m not in (1, n) for m, n in zip(reversed(own), reversed(whole))):
                return False
    return bool(op.inputs)


def symbols_at(look: Look, op: Op, entry: Entry, index: Index) -> tuple[dict[str, str], dict[str, str]]:
    """What each symbol of an elementwise formula is at one element: as a name, and as a number."""
    symbolic, numeric = {}, {}
    for symbol, given in bind(entry, op).items():
        if isinstance(given, Value):
            own = broadcast_index(index, given.shape)
            symbolic[symbol] = named(given, own)
            numeric[symbol] = words.factor(number_at(look, given, own))
        elif isinstance(given, (bool, int, float)):
            symbolic[symbol] = words.number(given)
            numeric[symbol] = words.factor(given)
        elif isinstance(given, mx.Dtype):
            symbolic[symbol] = numeric[symbol] = words.dtype(given)
    return symbolic, numeric


def _elementwise(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    symbolic, numeric = symbols_at(look, op, entry, index)
    text = entry.text
    left = named(value, index)
    result = words.number(number_at(look, value, index))
    plugged = words.substitute(text, numeric)
    symbols = words.substitute(text, symbolic)
    if plugged.strip("()") == result.strip("()"):
        return [f"{left} = {symbols} = {result}"]
    return [f"{left} = {symbols}", f"= {plugged}", f"= {result}"]


# -- numbers that are only moved -----------------------------------------------------------------------------------


def origins(op: Op, look: Look) -> tuple[list[mx.array], list[tuple[int, Value]]]:
    """Where the numbers of a move came from: every input's elements are numbered, and moved by the op itself.

    Returns the numbers at each place of each output (0: no input's), and from where on each input is numbered.
    """
    start = 1 << 20
    starts: list[tuple[int, Value]] = []
    numbered: dict[Value, mx.array] = {}
    for taken in dict.fromkeys(op.inputs):
        if mx.issubdtype(taken.dtype, mx.inexact) or len(set(op.inputs)) == 1:
            numbered[taken] = mx.reshape(mx.arange(start, start + taken.size), taken.shape)
            starts.append((start, taken))
            start += taken.size
    moved = op.compute(lambda taken: numbered[taken] if taken in numbered else look.array(taken))
    return moved, starts


def source_of(code: int, starts: list[tuple[int, Value]]) -> tuple[Value, Index] | None:
    """The input and the element that a number of `origins` stands for."""
    for start, taken in starts:
        if start <= code < start + taken.size:
            return taken, unravel(code - start, taken.shape)
    return None


def _moved(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    moved, starts = origins(op, look)
    at = moved[value.slot]
    code = int(look.numbers([at[index] if index else at])[0])
    found = source_of(code, starts)
    left, result = named(value, index), words.number(number_at(look, value, index))
    if found is None:
        return [f"{left} = {result}   (it comes from no tensor: a filling)"]
    return [f"{left} = {named(*found)} = {result}   (moved, not changed)"]


# -- sums of products ----------------------------------------------------------------------------------------------


def _row_and_column(a: Value, b: Value, index: Index, k: int) -> tuple[Index, Index]:
    """The elements of two matrices (or vectors, or stacks of matrices) that meet in one product."""
    rows = index[: len(index) - (0 if len(b.shape) == 1 else 1)]
    row = () if len(a.shape) == 1 else rows[-1:]
    column = () if len(b.shape) == 1 else index[-1:]
    batch = index[: len(index) - len(row) - len(column)]
    left = broadcast_index(batch, a.shape[:-2]) if len(a.shape) > 2 else ()
    right = broadcast_index(batch, b.shape[:-2]) if len(b.shape) > 2 else ()
    return (*left, *row, k), (*right, k, *column)


def meeting(look: Look, a: Value, b: Value, index: Index) -> tuple[list[Index], list[Index], list[float], list[float]]:
    """The row of `a` and the column of `b` that meet in an element of `a @ b`."""
    length = a.shape[-1]
    pairs = [_row_and_column(a, b, index, k) for k in range(length)]
    left, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return (
        left,
        right,
        numbers_at(look, a, [ravel(place, a.shape) for place in left]),
        numbers_at(look, b, [ravel(place, b.shape) for place in right]),
    )


def _matmul(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    bound = bind(entry, op)
    a, b = bound["a"], bound["b"]
    left, right, xs, ys = meeting(look, a, b, index)
    products = [x * y for x, y in zip(xs, ys)]

    def term(at: int) -> sums.Term:
        return sums.product([named(a, left[at]), named(b, right[at])], [xs[at], ys[at]])

    return sums.lines(named(value, index), len(xs), term, products, result_at(look, value, index))


def _addmm(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    bound = bind(entry, op)
    a, b, c = bound["a"], bound["b"], bound["c"]
    alpha, beta = float(bound["alpha"]), float(bound["beta"])
    left, right, xs, ys = meeting(look, a, b, index)
    own = broadcast_index(index, c.shape)
    offset = float(number_at(look, c, own))
    products = [alpha * x * y for x, y in zip(xs, ys)] + [beta * offset]

    def term(at: int) -> sums.Term:
        scale = alpha if at < len(xs) else beta
        names, values = ([], []) if scale == 1 else ([words.number(scale)], [scale])
        if at < len(xs):
            return sums.product([*names, named(a, left[at]), named(b, right[at])], [*values, xs[at], ys[at]])
        return sums.product([*names, named(c, own)], [*values, offset])

    return sums.lines(named(value, index), len(products), term, products, result_at(look, value, index))


def reduced(value: Value, taken: Value, axis: Any, keepdims: bool, index: Index) -> list[Index]:
    """The elements that a reduction made into one."""
    count = len(taken.shape)
    wanted = range(count) if axis is None else [axis] if isinstance(axis, int) else axis
    axes = sorted(at % count for at in wanted) if count else []
    rest = list(index)
    if not keepdims:
        for at in axes:
            rest.insert(at, 0)
    elements = [tuple(rest)]
    for at in axes:
        elements = [(*one[:at], step, *one[at + 1 :]) for one in elements for step in range(taken.shape[at])]
    return sorted(elements)


def gathered(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> tuple[Value, list[Index], list[float]]:
    """The input of a reduction, and the elements and numbers that became one."""
    bound = bind(entry, op)
    taken = bound["a"]
    keepdims = bool(bound.get("keepdims", False)) or entry.name == "softmax"
    kept = index if entry.name != "softmax" else _without(index, bound.get("axis"), taken)
    elements = reduced(value, taken, bound.get("axis"), keepdims, kept)
    numbers = numbers_at(look, taken, [ravel(one, taken.shape) for one in elements])
    return taken, elements, [float(number) for number in numbers]


def _without(index: Index, axis: Any, taken: Value) -> Index:
    wanted = range(len(taken.shape)) if axis is None else [axis] if isinstance(axis, int) else axis
    axes = {at % len(taken.shape) for at in wanted}
    return tuple(0 if at in axes else step for at, step in enumerate(index))


def _sum(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    taken, elements, numbers = gathered(look, op, entry, value, index)

    def term(at: int) -> sums.Term:
        return sums.Term(named(taken, elements[at]), words.factor(numbers[at]), numbers[at])

    return sums.lines(named(value, index), len(numbers), term, numbers, result_at(look, value, index))


def _mean(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    taken, elements, numbers = gathered(look, op, entry, value, index)
    result = result_at(look, value, index)

    def term(at: int) -> sums.Term:
        return sums.Term(named(taken, elements[at]), words.factor(numbers[at]), numbers[at])

    n = len(numbers)
    whole = sums.lines("", n, term, numbers, result * n)
    left = named(value, index)
    if len(whole) < 3:
        return [f"{left} = 1/{n} · {whole[0].removeprefix(' = ')}"]
    symbols, plugged = whole[0].removeprefix(" = "), whole[1].removeprefix("= ")
    return [
        f"{left} = 1/{n} · ({symbols})",
        f"= 1/{n} · ({plugged})",
        f"= 1/{n} · {words.factor(result * n)} = {words.number(result)}",
    ]


def _extreme(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    taken, elements, numbers = gathered(look, op, entry, value, index)
    result = result_at(look, value, index)
    shown = ", ".join(words.number(number) for number in numbers[:6]) + (", …" if len(numbers) > 6 else "")
    at = next((place for place, number in enumerate(numbers) if number == result), 0)
    return [
        f"{named(value, index)} = {entry.name}({shown})",
        f"= {named(taken, elements[at])} = {words.number(result)}",
    ]


def _softmax(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    taken, _elements, numbers = gathered(look, op, entry, value, index)
    own = float(number_at(look, taken, index))
    m = max(numbers)
    powers = [math.exp(number - m) if number > -math.inf else 0.0 for number in numbers]
    kept = sums.largest(powers)
    rest = len(powers) - len(kept)
    total = sum(powers)
    below = " + ".join(words.number(powers[at]) for at in kept)
    if rest:
        below += f" + {words.number(total - sum(powers[at] for at in kept))}"
    left = named(value, index)
    return [
        f"{left} = exp({named(taken, index)} − m) / Σ exp({words.name(taken)} − m),  m = {words.number(m)}, the "
        f"largest of {len(numbers)}",
        f"= exp({words.factor(own)} − {words.factor(m)}) / ({below})",
        f"= {words.number(math.exp(own - m) if own > -math.inf else 0.0)} / {words.number(total)}",
        f"= {words.number(result_at(look, value, index))}",
    ]


def _logsumexp(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    taken, _elements, numbers = gathered(look, op, entry, value, index)
    m = max(numbers)
    powers = [math.exp(number - m) if number > -math.inf else 0.0 for number in numbers]
    kept = sums.largest(powers)
    inside = " + ".join(f"exp({words.factor(numbers[at])} − {words.factor(m)})" for at in kept)
    rest = len(powers) - len(kept)
    if rest:
        inside += f" + {words.number(sum(powers) - sum(powers[at] for at in kept))}"
    return [
        f"{named(value, index)} = m + ln Σ exp({words.name(taken)} − m),  m = {words.number(m)}, the largest of "
        f"{len(numbers)}",
        f"= {words.number(m)} + ln({inside})",
        f"= {words.number(m)} + ln({words.number(sum(powers))}) = {words.number(result_at(look, value, index))}",
    ]


def _spread(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    """A variance or a standard deviation."""
    taken, _elements, numbers = gathered(look, op, entry, value, index)
    n, less = len(numbers), int(bind(entry, op).get("ddof", 0))
    mu = sum(numbers) / n
    squares = [(number - mu) ** 2 for number in numbers]

    def term(at: int) -> sums.Term:
        return sums.Term("", f"({words.number(numbers[at])} − {words.factor(mu)})²", squares[at])

    result = result_at(look, value, index)
    total = sum(squares)
    inside = sums.lines("", n, term, squares, total)[1].removeprefix("= ")
    root = "√" if entry.name == "std" else ""
    return [
        f"μ = 1/{n} · Σ {words.name(taken)} = {words.number(mu)}",
        f"{named(value, index)} = {root}(1/{n - less} · ({inside}))",
        f"= {root}(1/{n - less} · {words.number(total)}) = {words.number(result)}",
    ]


def _row_norm(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    """layer_norm and rms_norm: one row, its mean and spread, then the element."""
    bound = bind(entry, op)
    taken, weight, bias, eps = bound["x"], bound["weight"], bound.get("bias"), float(bound["eps"])
    row = [(*index[:-1], at) for at in range(taken.shape[-1])]
    numbers = [float(n) for n in numbers_at(look, taken, [ravel(one, taken.shape) for one in row])]
    n = len(numbers)
    own = numbers[index[-1]]
    centered = entry.name == "fast.layer_norm"
    mu = sum(numbers) / n if centered else 0.0
    square = sum((number - mu) ** 2 for number in numbers) / n
    x = named(taken, index)
    lines = [f"μ = mean of the {n} numbers of the row = {words.number(mu)}"] if centered else []
    kind = "σ² = mean (x − μ)²" if centered else "mean of the squares"
    lines.append(f"{kind} of the row = {words.number(square)}")
    top = f"({x} − μ)" if centered else x
    symbols = f"{top} / √({'σ²' if centered else 'mean square'} + {words.number(eps)})"
    plugged = f"({words.number(own)} − {words.factor(mu)})" if centered else words.factor(own)
    plugged += f" / √({words.number(square)} + {words.number(eps)})"
    for part, sign in ((weight, "·"), (bias, "+")):
        if isinstance(part, Value):
            at = index[-1:]
            symbols += f" {sign} {named(part, at)}"
            plugged += f" {sign} {words.factor(number_at(look, part, at))}"
    return [*lines, f"{named(value, index)} = {symbols}", f"= {plugged}",
            f"= {words.number(result_at(look, value, index))}"]  # fmt: skip


def _norm(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    bound = bind(entry, op)
    if bound.get("ord") not in (None, 2, 2.0, "fro", "f"):
        return []
    taken, elements, numbers = gathered(look, op, entry, value, index)
    squares = [number * number for number in numbers]

    def term(at: int) -> sums.Term:
        return sums.Term(f"{named(taken, elements[at])}²", f"{words.factor(numbers[at])}²", squares[at])

    result = result_at(look, value, index)
    whole = sums.lines("", len(numbers), term, squares, result * result)
    if len(whole) < 3:
        return []
    return [f"{named(value, index)} = √({whole[0].removeprefix(' = ')})", f"= √({whole[1].removeprefix('= ')})",
            f"= {words.number(result)}"]  # fmt: skip


def linear_in(look: Look, op: Op, taken: Value, value: Value, index: Index) -> mx.array:
    """How much one element of a result changes with each element of an input: a row of the Jacobian, by MLX's VJP."""
    look.see(op.inputs)
    one = mx.zeros((value.size,), value.dtype)
    one[ravel(index, value.shape)] = 1
    cotangents = [
        mx.reshape(one, value.shape) if output is value else mx.zeros(output.shape, output.dtype)
        for output in op.outputs
    ]

    def run(array: mx.array) -> list[mx.array]:
        return op.compute(lambda other: array if other is taken else other.array)

    return mx.vjp(run, [taken.array], cotangents)[1][0]


def _by_jacobian(symbol: str, weight: str) -> Callable[[Look, Op, Entry, Value, Index], list[str]]:
    """An op that is a sum of products of `symbol` and something else: a convolution, a quantized product."""

    def worker(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
        taken = bind(entry, op)[symbol]
        row = linear_in(look, op, taken, value, index)
        places, weights = look.numbers([mx.argsort(-mx.abs(row.flatten()))[:400], row.flatten()])
        used = sorted(at for at in places if weights[at] != 0)
        xs = [float(number) for number in numbers_at(look, taken, used)]
        products = [x * weights[at] for x, at in zip(xs, used)]

        def term(at: int) -> sums.Term:
            where = unravel(used[at], taken.shape)
            return sums.product([named(taken, where), weight], [xs[at], weights[used[at]]])

        return sums.lines(named(value, index), len(products), term, products, result_at(look, value, index))

    return worker


def _where(look: Look, op: Op, entry: Entry, value: Value, index: Index) -> list[str]:
    bound = bind(entry, op)
    chosen = (
        number_at(look, bound["c"], broadcast_index(index, bound["c"].shape))
        if isinstance(bound["c"], Value)
        else bound["c"]
    )
    side = bound["a"] if chosen else bound["b"]
    source = named(side, broadcast_index(index, side.shape)) if isinstance(side, Value) else words.number(side)
    condition = named(bound["c"], broadcast_index(index, bound["c"].shape)) if isinstance(bound["c"], Value) else "it"
    result = words.number(number_at(look, value, index))
    return [f"{condition} is {'true' if chosen else 'false'}, so  {named(value, index)} = {source} = {result}"]


Worker = Callable[[Look, Op, Entry, Value, Index], list[str]]
_WORKERS: dict[str, Worker] = {
    "matmul": _matmul, "addmm": _addmm, "sum": _sum, "mean": _mean, "max": _extreme, "min": _extreme,
    "softmax": _softmax, "logsumexp": _logsumexp, "var": _spread, "std": _spread, "linalg.norm": _norm,
    "fast.layer_norm": _row_norm, "fast.rms_norm": _row_norm, "where": _where,
    "quantized_matmul": _by_jacobian("x", "w"), "gather_mm": _by_jacobian("a", "b"),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv_general", "conv_transpose1d", "conv_transpose2d",
                     "conv_transpose3d"), _by_jacobian("x", "w")),
}  # fmt: skip
