"""Execute: a formula's tree run on tensors, in plain MLX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from nnrepl.ops.expression import Node
from nnrepl.ops.reader import Formula

Over = Callable[[str, mx.array], mx.array]
"""`over("Σ", a)`: a sum, product, mean, max or min along the row, which keeps the axes."""


def run(formula: Formula, symbols: Mapping[str, Any], over: Over) -> Any:
    """Return a formula on tensors (and numbers), by the names of its symbols."""
    known = dict(symbols)
    for name, node in formula.where:
        known[name] = _run(node, known, over)
    return _run(formula.main, known, over)


def _run(node: Node, symbols: Mapping[str, Any], over: Over) -> Any:
    if node.kind == "number":
        return node.value
    if node.kind == "symbol":
        return symbols[node.text]
    if node.kind in ("sum", "product", "matrix"):
        return _chain(node, symbols, over)
    parts = [_run(part, symbols, over) for part in node.parts]
    if node.kind == "over":
        return over(node.text, parts[0])
    if node.kind == "compare":
        return _compared(node.text.split(), parts)
    if node.kind == "logic":
        return _logical(node.text, parts)
    if node.kind == "call":
        return _FUNCTIONS[node.text](*parts)
    return _KINDS[node.kind](*parts)


def _chain(node: Node, symbols: Mapping[str, Any], over: Over) -> Any:
    parts = [_run(part, symbols, over) for part in node.parts]
    if node.kind == "sum":
        parts = [_counted(part) for part in parts]
    result = parts[0] if node.text[0] in "+·" else -parts[0]
    for sign, part in zip(node.text[1:], parts[1:]):
        result = _SIGNS[sign](result, part)
    return result


def _counted(part: Any) -> Any:
    """Return a bracket in a sum counts as 1 or 0; MLX would add truths to truths."""
    return part.astype(mx.int32) if isinstance(part, mx.array) and part.dtype == mx.bool_ else part


def _compared(signs: list[str], parts: list[Any]) -> Any:
    results = [_COMPARED[sign](mx.array(a), b) for sign, a, b in zip(signs, parts, parts[1:])]
    return results[0] if len(results) == 1 else results[0] & results[1]


def _logical(sign: str, parts: list[Any]) -> Any:
    truths = [mx.array(part) != 0 for part in parts]
    if sign == "not":
        return ~truths[0]
    result = truths[0]
    for truth in truths[1:]:
        result = result & truth if sign == "and" else result | truth
    return result


def _larger(a: Any, b: Any) -> mx.array:
    """Return the larger of two; a NaN on either side stays."""
    a = mx.array(a)
    return mx.where(mx.isnan(a) | mx.isnan(mx.array(b)), mx.nan, mx.where(a > b, a, b)).astype((a + b).dtype)


def _smaller(a: Any, b: Any) -> mx.array:
    a = mx.array(a)
    return mx.where(mx.isnan(a) | mx.isnan(mx.array(b)), mx.nan, mx.where(a < b, a, b)).astype((a + b).dtype)


def _powered(a: Any, b: Any) -> Any:
    if b == 2 if isinstance(b, int) else False:
        return a * a
    return mx.array(a) ** b if not isinstance(a, mx.array) else a**b


def _negated(a: Any) -> Any:
    return 0 - a if isinstance(a, mx.array) and mx.issubdtype(a.dtype, mx.integer) else a * -1


def _picked(a: mx.array, index: mx.array) -> mx.array:
    return mx.take_along_axis(a, index, -1)


_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b, "−": lambda a, b: a - b, "·": lambda a, b: a * b, "/": lambda a, b: a / b,
    "@": lambda a, b: a @ b,
}  # fmt: skip
_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "<": lambda a, b: a < b, ">": lambda a, b: a > b, "≤": lambda a, b: a <= b, "≥": lambda a, b: a >= b,
    "=": lambda a, b: a == b, "≠": lambda a, b: a != b,
}  # fmt: skip
_KINDS: dict[str, Callable[..., Any]] = {
    "negative": _negated, "power": _powered, "root": lambda a: mx.sqrt(mx.array(a)), "abs": lambda a: mx.abs(a),
    "floor": lambda a: mx.floor(a), "ceil": lambda a: mx.ceil(a), "bracket": lambda a: a,
    "choice": lambda a, c, b: mx.where(c, a, b), "transposed": lambda a: mx.swapaxes(a, -1, -2), "pick": _picked,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": lambda a: mx.exp(a), "ln": lambda a: mx.log(a), "log₂": lambda a: mx.log2(a),
    "log₁₀": lambda a: mx.log10(a), "sin": lambda a: mx.sin(a), "cos": lambda a: mx.cos(a),
    "tan": lambda a: mx.tan(a), "sinh": lambda a: mx.sinh(a), "cosh": lambda a: mx.cosh(a),
    "tanh": lambda a: mx.tanh(a), "arcsin": lambda a: mx.arcsin(a), "arccos": lambda a: mx.arccos(a),
    "arctan": lambda a: mx.arctan(a), "arsinh": lambda a: mx.arcsinh(a), "arcosh": lambda a: mx.arccosh(a),
    "artanh": lambda a: mx.arctanh(a), "erf": lambda a: mx.erf(a), "erf⁻¹": lambda a: mx.erfinv(a),
    "sign": lambda a: mx.sign(a), "round": lambda a: mx.round(a), "max": _larger, "min": _smaller,
    "Re": lambda a: mx.real(a), "Im": lambda a: mx.imag(a), "conj": lambda a: mx.conj(a),
    "angle": lambda a, b: mx.arctan2(b, a),
}  # fmt: skip
