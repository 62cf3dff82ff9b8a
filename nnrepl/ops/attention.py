"""Attention and positions, in one op each.

Sources: mlx/fast.cpp (the fallbacks of rope and scaled_dot_product_attention); Vaswani et al. 2017;
Su et al. 2021 (RoPE).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import mlx.core as mx

from nnrepl.ops.bilinear import product_of, sum_of
from nnrepl.ops.case import MOST, Case, Index, Operand, epsilon_of
from nnrepl.ops.entry import Slope, backwards, formula, forwards, said
from nnrepl.ops.evaluated import Defined, Definition, Line, NumberRow, holds
from nnrepl.ops.expression import Node, quantity
from nnrepl.ops.numbers import element, number
from nnrepl.ops.traits import Trait


def _slope_of(forward: Any, which: int) -> Any:
    """Return the gradient of one argument, through the textbook ops that the formula consists of."""

    def run(g: mx.array, y: Any, *args: Any, **kwargs: Any) -> mx.array:
        given = list(args)

        def partly(part: mx.array) -> mx.array:
            given[which] = part
            result: mx.array = forward(*given, **kwargs)
            return result

        return mx.vjp(partly, [args[which]], [g.astype(args[which].dtype)])[1][0]

    return run


def _slope_by_name(forward: Any, name: str) -> Any:
    """Return the same for an argument that is given by name."""

    def run(g: mx.array, y: Any, *args: Any, **kwargs: Any) -> mx.array:
        part = kwargs[name]
        return mx.vjp(lambda part: forward(*args, **{**kwargs, name: part}), [part], [g])[1][0]

    return run


# -- positions ---------------------------------------------------------------------------------------------------------


def _rope(
    x: mx.array, dims: int, *, traditional: bool, base: float | None, scale: float, offset: Any, freqs: Any = None
) -> mx.array:
    length = x.shape[-2]
    start = offset if isinstance(offset, mx.array) else mx.array(offset)
    start = mx.reshape(start, (-1, *[1] * (x.ndim - 2))) if start.ndim else start
    positions = (mx.arange(length, dtype=mx.float32) + start) * scale
    if freqs is None:
        half = dims // 2
        freqs = mx.exp(mx.arange(0, half, dtype=mx.float32) * (mx.log(mx.array(float(base or 1))) / half))
    theta = positions[..., None] / freqs
    cos, sin = mx.cos(theta), mx.sin(theta)
    turned, rest = (x, None) if dims == x.shape[-1] else mx.split(x, [dims], axis=-1)
    if traditional:
        pairs = mx.unflatten(turned, -1, (-1, 2))
        a, b = pairs[..., 0], pairs[..., 1]
    else:
        a, b = mx.split(turned, 2, axis=-1)
    first = a * cos - b * sin
    second = a * sin + b * cos
    result = (
        mx.flatten(mx.stack([first, second], axis=-1), -2) if traditional else mx.concatenate([first, second], axis=-1)
    )
    result = result.astype(x.dtype)
    return result if rest is None else mx.concatenate([result, rest], axis=-1)


formula(
    "fast.rope", "pairs (a, b) of {x} turned by θ:  (a·cos θ − b·sin θ, a·sin θ + b·cos θ)",
    "Turns pairs of numbers by an angle θ = position · scale / base^(2k/dims) that grows with the position, so that "
    "attention can tell how far apart two positions are. Backwards: the gradient is turned back by the same angle.",
    slopes={"x": Slope("{g}, turned back by −θ", _slope_of(_rope, 0))}, source="Su et al. 2021, RoFormer",
)(_rope)  # fmt: skip


def _turn(case: Case, index: Index) -> tuple[Index, bool, Node, Defined] | None:
    """Return the other number of a pair, whether ours is the first, θ, and how θ is computed."""
    bound = case.bound
    x, dims, at = case.operand("x"), bound["dims"], index[-1]
    if at >= dims:
        return None
    half = dims // 2
    first = at % 2 == 0 if bound["traditional"] else at < half
    k = at // 2 if bound["traditional"] else at % half
    other = at + (1 if first else -1) * (1 if bound["traditional"] else half)
    offset = bound["offset"]
    if isinstance(offset, Operand):
        offset = offset.at((index[0],) if offset.shape and offset.size > 1 else (0,) * len(offset.shape))
    position, scale = offset + index[-2], float(bound["scale"])
    freqs = bound.get("freqs")
    if isinstance(freqs, Operand):
        below = freqs.node((k,))
    else:
        power = Node("product", (quantity("2k", 2 * k), quantity("dims", dims)), "·/")
        below = Node("power", (quantity("base", float(bound["base"] or 1)), power))
    turn = Node("product", (quantity("position", position), quantity("scale", scale), below), "··/")
    line = Defined("θ", turn)
    theta = line.value
    assert len(index) == len(x.shape)
    return (*index[:-1], other), first, quantity("θ", theta, 1e-6 * abs(theta)), line


def _turned(own: Node, other: Node, theta: Node, minus: bool) -> Node:
    """`own · cos θ ∓ other · sin θ`."""
    cos, sin = Node("call", (theta,), "cos"), Node("call", (theta,), "sin")
    return Node("sum", (product_of(own, cos), product_of(other, sin)), "+−" if minus else "++")


@forwards("fast.rope")
def _rope_forward(case: Case, slot: int, index: Index) -> Line | None:
    found = _turn(case, index)
    x = case.operand("x")
    left = element(case.y[0].name, index)
    if found is None:
        return Line(left, x.node(index), remark="beyond dims: not turned")
    other, first, theta, line = found
    x.want([index, other])
    return Line(left, _turned(x.node(index), x.node(other), theta, minus=first), (line,))


@backwards("fast.rope")
def _rope_backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    given = case.g[0]
    if symbol != "x" or given is None:
        return None
    found = _turn(case, index)
    if found is None:
        return Line(left, given.node(index), remark="beyond dims: not turned")
    other, first, theta, line = found
    return Line(left, _turned(given.node(index), given.node(other), theta, minus=not first), (line,))


# -- attention ---------------------------------------------------------------------------------------------------------


def _attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Any = None, sinks: Any = None) -> mx.array:
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = mx.repeat(k, groups, axis=1), mx.repeat(v, groups, axis=1)
    scores = mx.matmul(q * scale, mx.swapaxes(k, -1, -2))
    if isinstance(mask, str):
        rows, columns = scores.shape[-2:]
        mask = mx.arange(columns - rows, columns)[:, None] >= mx.arange(columns)[None]
    if mask is not None and mask.dtype == mx.bool_:
        scores = mx.where(mask, scores, mx.array(float("-inf"), scores.dtype))
    elif mask is not None:
        scores = scores + mask
    if sinks is not None:
        extra = mx.broadcast_to(mx.reshape(sinks, (1, -1, 1, 1)), (*scores.shape[:-1], 1))
        scores = mx.concatenate([extra, scores], axis=-1)
    weights = mx.softmax(scores, axis=-1, precise=True)
    if sinks is not None:
        weights = mx.split(weights, [1], axis=-1)[1]
    return mx.matmul(weights, v)


formula(
    "fast.scaled_dot_product_attention", "softmax({scale} · {q} @ {k}ᵀ, masked) @ {v}",
    "Each position asks (q) all positions (k) how much they matter, turns the answers into shares p that add up to 1, "
    "and takes the average of what they say (v) by these shares. Backwards: gP is how the loss changes with a share p, "
    "gS how it changes with a score; as in softmax, a share counts as far as it beats the average.",
    slopes={"q": Slope("{scale} · gS @ {k},  gS = p · (gP − Σ gP · p),  gP = {g} @ {v}ᵀ", _slope_of(_attention, 0)),
            "k": Slope("{scale} · gSᵀ @ {q},  gS = p · (gP − Σ gP · p),  gP = {g} @ {v}ᵀ", _slope_of(_attention, 1)),
            "v": Slope("pᵀ @ {g}", _slope_of(_attention, 2)),
            "mask": Slope("gS = p · (gP − Σ gP · p),  gP = {g} @ {v}ᵀ", _slope_by_name(_attention, "mask")),
            "sinks": Slope("the part of gS at the sinks", _slope_by_name(_attention, "sinks"))},
    traits=(Trait.ATTENDS, Trait.SHARES, Trait.SATURATES, Trait.SWALLOWS),
    source="Vaswani et al. 2017, Attention Is All You Need",
)(_attention)  # fmt: skip
said(
    "fast.scaled_dot_product_attention",
    v="Backwards: what a position says (v) gets the gradient of each position that listened, by the share p that it "
    "gave.",
)


def _array(given: Any) -> Any:
    return given.array if isinstance(given, Operand) else given


def _scores(case: Case, batch: int, head: int) -> mx.array:
    """Return the masked scores of one head, in float32: (queries, keys)."""
    q, k = case.operand("q"), case.operand("k")
    group = q.shape[1] // k.shape[1]
    rows = q.array[batch, head].astype(mx.float32)
    columns = k.array[batch, head // group].astype(mx.float32)
    scores: mx.array = float(case.bound["scale"]) * (rows @ columns.T)
    mask = _array(case.bound["mask"])
    if isinstance(mask, str):
        count, length = scores.shape
        mask = mx.arange(length - count, length)[:, None] >= mx.arange(length)[None]
    if mask is None:
        return scores
    if mask.ndim == 4:
        mask = mask[min(batch, mask.shape[0] - 1), min(head, mask.shape[1] - 1)]
    elif mask.ndim == 3:
        mask = mask[min(head, mask.shape[0] - 1)]
    if mask.dtype == mx.bool_:
        return mx.where(mask, scores, -math.inf)
    return mx.add(scores, mask.astype(mx.float32))


def _shares(case: Case, batch: int, head: int) -> mx.array:
    scores = _scores(case, batch, head)
    sinks = _array(case.bound["sinks"])
    if sinks is not None:
        extra = mx.broadcast_to(sinks[head].astype(mx.float32), (scores.shape[0], 1))
        return mx.softmax(mx.concatenate([extra, scores], axis=-1), axis=-1)[:, 1:]
    return mx.softmax(scores, axis=-1)


def _rough(case: Case, value: float, size: float = 1.0) -> float:
    """How far an intermediate number of the op may be off: it is computed here in float32, there in its own dtype."""
    coarse = {mx.float16: 4e-3, mx.bfloat16: 3e-2}.get(case.operand("q").dtype, 4e-6)
    return coarse * (abs(value) + 0.1 * size)


def _asked(case: Case, batch: int, head: int, i: str, j: str) -> str:
    """How a score is made, in symbols: `0.5 · q[0,1,2,:]·k[0,1,j,:]`, with what the mask does to it."""
    q, k, mask = case.operand("q"), case.operand("k"), case.bound["mask"]
    own = head // (q.shape[1] // k.shape[1])
    asked = f"{number(float(case.bound['scale']))} · {q.name}[{batch},{head},{i},:]·{k.name}[{batch},{own},{j},:]"
    if mask is None:
        return asked
    adds = isinstance(mask, Operand) and mask.dtype != mx.bool_
    return f"{asked} + {mask.name}" if adds else f"{asked}, −∞ where masked"


def _one_score(case: Case, batch: int, head: int, i: int, j: int, score: float) -> list[Defined]:
    """Return how one score comes about, number by number; nothing where the mask has changed it."""
    q, k = case.operand("q"), case.operand("k")
    own = head // (q.shape[1] // k.shape[1])
    places = [((batch, head, i, at), (batch, own, j, at)) for at in range(q.shape[-1])]
    q.want([place for place, _ in places])
    k.want([place for _, place in places])
    terms = [product_of(q.node(left), k.node(right)) for left, right in places]
    scale = Node("number", text=number(float(case.bound["scale"])), value=float(case.bound["scale"]))
    node = product_of(scale, Node("series", tuple(terms), "Σ"))
    if not holds(node, score, epsilon_of(q.dtype, k.dtype), mx.float32):
        return []
    return [Defined(f"s[{i},{j}]", node)]


@forwards("fast.scaled_dot_product_attention")
def _attention_forward(case: Case, slot: int, index: Index) -> Line | None:
    batch, head, i, d = index
    q, k, v = case.operand("q"), case.operand("k"), case.operand("v")
    if k.shape[-2] > MOST:
        return None
    own = head // (q.shape[1] // k.shape[1])
    scores: Any = _scores(case, batch, head)[i].tolist()
    shares: Any = _shares(case, batch, head)[i].tolist()
    places = [(batch, own, j, d) for j in range(k.shape[-2])]
    v.want(places)
    terms = [
        product_of(quantity(element("p", (i, j)), p, _rough(case, p)), v.node(place))
        for j, (p, place) in enumerate(zip(shares, places))
    ]
    sinks = "" if case.bound["sinks"] is None else ", with the sink among them"
    most = max(range(len(shares)), key=lambda j: shares[j] if shares[j] == shares[j] else -1)
    before: tuple[Definition, ...] = (
        NumberRow(f"s[{i},j]", scores, _asked(case, batch, head, str(i), "j"), f"the scores of position {i}"),
        *_one_score(case, batch, head, i, most, scores[most]),
        NumberRow(f"p[{i},:]", shares, f"softmax(s[{i},:])", f"its shares, exp(s) / Σ exp(s){sinks}"),
    )
    return Line(element(case.y[0].name, index), sum_of(terms), before)


@backwards("fast.scaled_dot_product_attention")
def _attention_backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    q, k, given = case.operand("q"), case.operand("k"), case.g[0]
    if given is None or symbol not in ("q", "k", "v"):
        return None
    group = q.shape[1] // k.shape[1]
    batch, head = index[:2]
    heads = [head] if symbol == "q" else list(range(head * group, head * group + group))
    if q.shape[-2] * len(heads) > MOST or k.shape[-2] > MOST:
        return None
    if symbol == "v":
        return _values_backward(case, left, index, heads)
    asks = symbol == "q"
    other, own = (k if asks else q), index[2]
    terms: list[Node] = []
    before: list[Definition] = []
    for one in heads:
        within = f"{one}," if len(heads) > 1 else ""
        shares, through, average, signals = _signals(case, batch, one)
        numbers: Any = (signals[own] if asks else signals[:, own]).tolist()
        before += _how_signals(case, batch, one, own, asks, within, (shares, through, average, signals))
        places = [(batch, one // group if asks else one, at, index[3]) for at in range(other.shape[-2])]
        other.want(places)
        size = max((abs(x) for x in numbers), default=0.0)
        for at, (x, place) in enumerate(zip(numbers, places)):
            name = f"gS[{within}{own},{at}]" if asks else f"gS[{within}{at},{own}]"
            terms.append(product_of(quantity(name, x, _rough(case, x, size)), other.node(place)))
    scale = quantity("scale", float(case.bound["scale"]))
    return Line(left, product_of(scale, Node("series", tuple(terms), "Σ")), tuple(before))


Signals = tuple[mx.array, mx.array, mx.array, mx.array]


def _signals(case: Case, batch: int, head: int) -> Signals:
    """Return, of one head and in float32, its shares, what reaches these, the average of that for each query, and what
    reaches the scores: (queries, keys), of the average (queries,)."""
    given, v = case.g[0], case.operand("v")
    assert given is not None
    group = case.operand("q").shape[1] // v.shape[1]
    p = _shares(case, batch, head)
    through = given.array[batch, head].astype(mx.float32) @ v.array[batch, head // group].astype(mx.float32).T
    average = mx.sum(through * p, axis=-1)
    return p, through, average, p * (through - average[:, None])


def _how_signals(
    case: Case, batch: int, head: int, own: int, asks: bool, within: str, signals: Signals
) -> Iterator[Definition]:
    """Yield what reaches the scores of one query (`asks`), or those of all queries with one key, step by step."""
    given, v = case.g[0], case.operand("v")
    assert given is not None
    group = case.operand("q").shape[1] // v.shape[1]
    shares, through, average, scores = signals
    i, j = (str(own), "j") if asks else ("i", str(own))
    at = f"{within}{i},{j}"

    def row(array: mx.array) -> list[float]:
        return cast("list[float]", (array[own] if asks else array[:, own]).tolist())

    whose = f"the shares that position {own} gave" if asks else f"the share that position i gave to position {own}"
    yield NumberRow(f"p[{at}]", row(shares), remark=whose)
    yield NumberRow(
        f"gP[{at}]", row(through), f"{given.name}[{batch},{head},{i},:]·{v.name}[{batch},{head // group},{j},:]"
    )
    if asks:
        mean = quantity(f"Σ gP[{within}{own},:] · p[{within}{own},:]", cast("float", average[own].item()))
        yield Defined("avg", mean)
    else:
        means = cast("list[float]", average.tolist())
        yield NumberRow(f"avg[{within}i]", means, f"Σ gP[{within}i,:] · p[{within}i,:]")
    yield NumberRow(f"gS[{at}]", row(scores), f"p[{at}] · (gP[{at}] − avg{'' if asks else f'[{within}i]'})")


def _values_backward(case: Case, left: str, index: Index, heads: list[int]) -> Line:
    """Return what position j said gets, from each position that listened, its gradient times the share that it gave."""
    batch, _, j, d = index
    given = case.g[0]
    assert given is not None
    terms: list[Node] = []
    before: list[Definition] = []
    for head in heads:
        within = f"{head}," if len(heads) > 1 else ""
        shares: Any = _shares(case, batch, head)[:, j].tolist()
        places = [(batch, head, i, d) for i in range(given.shape[-2])]
        given.want(places)
        whose = f"the share that position i gave to position {j}"
        before.append(NumberRow(f"p[{within}i,{j}]", shares, remark=whose))
        terms.extend(
            product_of(quantity(f"p[{within}{i},{j}]", p, _rough(case, p)), given.node(at))
            for i, (p, at) in enumerate(zip(shares, places))
        )
    return Line(left, sum_of(terms), tuple(before))
