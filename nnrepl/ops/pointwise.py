"""Pointwise: ops that are computed element by element, or row by row: their one writing is the text.

The text of the formula and of each slope is read (`nnrepl.ops.reader`) and that is what is run here on tensors, and
computed with numbers in `nnrepl.ops.worked`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import ELEMENTWISE, WHOLE, Entry, Row, Run, Slope, enter
from nnrepl.ops.execute import Over, run
from nnrepl.ops.expression import Node
from nnrepl.ops.reader import Formula, parse
from nnrepl.ops.traits import Trait

ALONE = Row(lambda bound, rank: [])
"""Each element for itself."""


def along(bound: Mapping[str, Any], rank: int) -> list[int]:
    """Return the axes of an op's option `axis`: all, if it is None."""
    axis = bound.get("axis")
    wanted = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    return sorted({at % rank for at in wanted}) if rank else []


def last(bound: Mapping[str, Any], rank: int) -> list[int]:
    """Return the last axis."""
    return [rank - 1] if rank else []


def signature(parameters: str) -> inspect.Signature:
    """Read `a, b` or `a, axis=None` as the signature of a function."""
    namespace: dict[str, Any] = {"mx": mx}
    exec(f"def function({parameters}): pass", namespace)
    return inspect.signature(namespace["function"])


def pointwise(
    name: str, text: str, slopes: Mapping[str, str], words: str, *, parameters: str = "a", row: Row = ALONE,
    kind: str = ELEMENTWISE, valid: str = "", traits: Iterable[Trait] = (),
    forward: Run | None = None, source: str = "",
) -> None:  # fmt: skip
    """Enter an op whose formula and slopes are computed from their texts, as `described` takes it."""
    enter(described(name, text, slopes, words, parameters=parameters, row=row, kind=kind, valid=valid, traits=traits,
                    forward=forward, source=source))  # fmt: skip


def described(
    name: str, text: str, slopes: Mapping[str, str], words: str, *, parameters: str = "a", row: Row = ALONE,
    kind: str = ELEMENTWISE, valid: str = "", traits: Iterable[Trait] = (),
    forward: Run | None = None, source: str = "",
) -> Entry:  # fmt: skip
    """Return the entry of an op whose formula and slopes are computed from their texts.

    Args:
        slopes: By parameter, the gradient with respect to it: `{"a": "g · b"}`.
        parameters: What the op takes, as in a `def`.
        forward: The formula taken apart into textbook ops, for `into`; by default the text is run.
    """
    written = signature(parameters)
    run_text = forward or _forward(text, written, row)
    backward = {symbol: Slope(slope, _slope(slope, written, row)) for symbol, slope in slopes.items()}
    return Entry(name, text, words, run_text, backward, kind, valid, frozenset(traits), row, source)


def whole(
    name: str, parameters: str, text: str, words: str, run: Run, slopes: dict[str, Slope] | None = None,
    valid: str = "", kind: str = WHOLE, traits: Iterable[Trait] = (),
) -> None:  # fmt: skip
    """Enter an op that is not taken apart: its rule in English, what it takes, and MLX's own function."""
    written = signature(parameters)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return run(*args, **kwargs)

    forward.__signature__ = written  # type: ignore[attr-defined]
    enter(Entry(name, text, words, forward, slopes or {}, kind, valid, frozenset(traits)))


def _bound(written: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    bound = written.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def _forward(text: str, written: inspect.Signature, row: Row) -> Run:
    def forward(*args: Any, **kwargs: Any) -> mx.array:
        return run_text(text, row, _bound(written, args, kwargs))

    forward.__signature__ = written  # type: ignore[attr-defined]
    return forward


def _slope(text: str, written: inspect.Signature, row: Row) -> Run:
    def slope(g: mx.array, y: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        return run_slope(text, row, g, y, _bound(written, args, kwargs))

    return slope


def run_text(text: str, row: Row, bound: Mapping[str, Any]) -> mx.array:
    """Return a formula on the arguments of an op."""
    if row.running and bound.get("axis") is None:
        bound = {**bound, "a": bound["a"].flatten()}
    rank = _rank(bound)
    axes = row.axes(bound, rank)
    formula = formula_of(text, bound)
    known = _arguments(row, bound, axes)
    result = mx.array(run(formula, known, _over(row, bound, axes)))
    if row.reduces and axes and not bound.get("keepdims", False):
        result = mx.squeeze(result, axes)
    return result


def run_slope(text: str, row: Row, g: mx.array, y: mx.array, bound: Mapping[str, Any]) -> mx.array:
    """Return the gradient of one argument, before the sum over what was broadcast."""
    if row.running and bound.get("axis") is None and bound["a"].ndim > 1:
        a = bound["a"]
        return run_slope(text, row, g, y, {**bound, "a": a.flatten(), "axis": 0}).reshape(a.shape)
    rank = _rank(bound)
    axes = row.axes(bound, rank)
    if row.reduces and axes and not bound.get("keepdims", False):
        g, y = mx.expand_dims(g, axes), mx.expand_dims(y, axes)
    known = {**_arguments(row, bound, axes), "g": g, "y": y}
    formula = conjugated(formula_of(text, bound), [name for name, given in known.items() if _is_complex(given)])
    result = mx.array(run(formula, known, _over(row, bound, axes, backward=True)))
    if row.reduces:
        result = mx.broadcast_to(result, mx.broadcast_shapes(result.shape, *_shapes(known)))
    return result


def formula_of(text: str, bound: Mapping[str, Any]) -> Formula:
    """Read a formula as it is in a call, without what stands for nothing there or changes nothing: no weight, no upper
    limit, a factor `alpha` = 1, a term `ddof` = 0."""
    formula = parse(text)
    idle = [name for name, given in bound.items() if _is_idle(name, given) and _is_only_added(formula, name)]
    return formula.without({*(name for name, given in bound.items() if given is None), *idle})


def _is_idle(name: str, given: Any) -> bool:
    if not isinstance(given, (int, float)):
        return False
    return given == 1 if name in _FACTORS else given == 0 and name in _TERMS


def _is_only_added(formula: Formula, name: str) -> bool:
    """Whether a symbol is a factor or a term wherever it stands: in |d| < beta a beta of 1 does count."""
    trees = (formula.main, *(node for _, node in formula.where))
    return all(
        node.kind in ("sum", "product", "matrix")
        for tree in trees
        for node in tree.walk()
        if any(part.kind == "symbol" and part.text == name for part in node.parts)
    )


_FACTORS = ("alpha", "beta", "scale")
_TERMS = ("ddof",)


def _is_complex(given: Any) -> bool:
    return isinstance(given, complex) or (isinstance(given, mx.array) and given.dtype == mx.complex64)


def conjugated(formula: Formula, symbols: Sequence[str]) -> Formula:
    """Return a slope for complex numbers: MLX multiplies the gradient with the conjugate of the slope.

    Args:
        symbols: Which of its symbols are complex.
    """
    trees = [formula.main, *(node for _, node in formula.where)]
    if not set(symbols) - {"g"} or any(_knows_complex(tree) for tree in trees):
        return formula

    def change(node: Node) -> Node | None:
        if node.kind == "symbol" and node.text in symbols and node.text != "g":
            return Node("call", (node,), "conj")
        return None

    return Formula(formula.main.mapped(change), tuple((name, node.mapped(change)) for name, node in formula.where))


def _knows_complex(node: Node) -> bool:
    """Whether a slope was written with complex numbers in mind, or has no derivative in the complex sense."""
    own = node.kind in ("abs", "bracket") or (node.kind == "call" and node.text in ("sign", "Re", "Im", "conj"))
    return own or (node.kind == "number" and isinstance(node.value, complex)) or any(map(_knows_complex, node.parts))


def _rank(bound: Mapping[str, Any]) -> int:
    return max((len(shape) for shape in _shapes(bound)), default=0)


def _shapes(bound: Mapping[str, Any]) -> list[tuple[int, ...]]:
    return [given.shape for given in bound.values() if isinstance(given, mx.array)]


def _arguments(row: Row, bound: Mapping[str, Any], axes: Sequence[int]) -> dict[str, Any]:
    """Return what an op was called with, one number for a row with its axes back; `n`: how many numbers a row has, `j`:
    their places."""
    known = dict(bound)
    if row.whole:
        for symbol, given in bound.items():
            if isinstance(given, mx.array) and symbol not in row.whole:
                known[symbol] = mx.expand_dims(given, list(axes))
    shapes = _shapes(known)
    whole = mx.broadcast_shapes(*shapes) if shapes else ()
    known["n"] = math.prod(whole[at] for at in axes)
    if len(axes) == 1:
        known["j"] = mx.arange(whole[axes[0]]).reshape([-1, *[1] * (len(whole) - 1 - axes[0])])
    return known


def _over(row: Row, bound: Mapping[str, Any], axes: Sequence[int], backward: bool = False) -> Over:
    if row.running:
        return _running(bound, axes, backward)

    def over(sign: str, a: mx.array) -> mx.array:
        if not axes:
            return mx.ones_like(a) if sign == "Π other" else a
        return _REDUCE[sign](a, list(axes))

    return over


def _running(bound: Mapping[str, Any], axes: Sequence[int], backward: bool) -> Over:
    reverse = bool(bound.get("reverse", False)) != backward
    inclusive = bool(bound.get("inclusive", True))

    def over(sign: str, a: mx.array) -> mx.array:
        found: mx.array = _SCAN[sign](a, axis=axes[0], reverse=reverse, inclusive=inclusive)
        return found

    return over


def _others(a: mx.array, axes: list[int]) -> mx.array:
    """At each place, the product of all the others of its row."""
    rest = [at for at in range(a.ndim) if at not in axes]
    order = [*rest, *axes]
    turned = mx.transpose(a, order)
    rows = turned.reshape([*turned.shape[: len(rest)], -1])
    count = rows.shape[-1]
    spread = mx.broadcast_to(rows[..., None, :], (*rows.shape, count))
    own = mx.eye(count).astype(mx.bool_)
    products = mx.prod(mx.where(own, mx.ones_like(spread), spread), axis=-1)
    return mx.transpose(products.reshape(turned.shape), sorted(range(a.ndim), key=order.__getitem__))


_REDUCE: dict[str, Callable[[mx.array, list[int]], mx.array]] = {
    "Σ": lambda a, axes: mx.sum(a, axis=axes, keepdims=True),
    "Π": lambda a, axes: mx.prod(a, axis=axes, keepdims=True),
    "Π other": _others,
    "mean": lambda a, axes: mx.mean(a, axis=axes, keepdims=True),
    "max": lambda a, axes: mx.max(a, axis=axes, keepdims=True),
    "min": lambda a, axes: mx.min(a, axis=axes, keepdims=True),
}
_SCAN: dict[str, Any] = {
    "Σ": lambda a, **how: mx.cumsum(a, **how), "Π": lambda a, **how: mx.cumprod(a, **how),
    "max": lambda a, **how: mx.cummax(a, **how), "min": lambda a, **how: mx.cummin(a, **how),
}  # fmt: skip
