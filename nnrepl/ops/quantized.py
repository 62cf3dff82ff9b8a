"""Quantized ops: products with weights of a few bits."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.bilinear import product_of, sum_of
from nnrepl.ops.case import Case, Index, Operand
from nnrepl.ops.entry import Slope, formula, forwards, reworded
from nnrepl.ops.evaluated import Defined, Line
from nnrepl.ops.expression import Node, literal, quantity
from nnrepl.ops.numbers import element
from nnrepl.ops.products import chosen
from nnrepl.ops.traits import Trait


def unpack(w: mx.array, bits: int) -> mx.array:
    """Return the whole numbers that lie packed in 32-bit words, `bits` each (the lowest first)."""
    if 32 % bits == 0:
        per_word = 32 // bits
        shifts = mx.arange(per_word, dtype=mx.uint32) * bits
        codes = mx.right_shift(w[..., None], shifts) & mx.array((1 << bits) - 1, mx.uint32)
        return mx.reshape(codes, (*w.shape[:-1], -1))
    places = mx.arange(w.shape[-1] * 32 // bits, dtype=mx.uint32) * bits
    word, shift = places // 32, places % 32
    following = mx.minimum(word + 1, w.shape[-1] - 1)
    low = mx.right_shift(mx.take(w, word, axis=-1), shift)
    high = mx.where(shift > 0, mx.left_shift(mx.take(w, following, axis=-1), (32 - shift) % 32), mx.array(0, mx.uint32))
    return (low | high) & mx.array((1 << bits) - 1, mx.uint32)


@formula("dequantize", "{scales} · q + {biases}, one scale and one bias a group; q: the whole numbers in {w}",
         "Numbers of a few bits become ordinary numbers again: each group of them has a scale and a bias.",
         traits=(Trait.QUANTIZED,))  # fmt: skip
def _dequantize(
    w: mx.array, scales: mx.array, biases: Any = None, group_size: Any = None, bits: Any = None,
    mode: str = "affine", global_scale: Any = None, dtype: Any = None,
) -> mx.array:  # fmt: skip
    if mode != "affine" or biases is None:
        return mx.dequantize(w, scales, biases, group_size, bits, mode, global_scale, dtype)
    q = unpack(w, bits or 4)
    size = group_size or 64
    groups = mx.reshape(q.astype(scales.dtype), (*q.shape[:-1], -1, size))
    numbers = groups * scales[..., None] + biases[..., None]
    return mx.reshape(numbers, q.shape).astype(dtype or scales.dtype)


def _quantized_slope(
    g: mx.array, y: Any, x: mx.array, w: mx.array, scales: mx.array, biases: Any = None, transpose: bool = True,
    group_size: Any = None, bits: Any = None, mode: str = "affine",
) -> mx.array:  # fmt: skip
    return mx.quantized_matmul(g, w, scales, biases, not transpose, group_size, bits, mode)


def _group_slope(name: str) -> Any:
    """Return the gradient of the groups' scales or biases: through the dequantized weights."""

    def run(
        g: mx.array, y: Any, x: mx.array, w: mx.array, scales: mx.array, biases: Any = None, transpose: bool = True,
        group_size: Any = None, bits: Any = None, mode: str = "affine",
    ) -> mx.array:  # fmt: skip
        given = {"scales": scales, "biases": biases}

        def partly(part: mx.array) -> mx.array:
            weights = _dequantize(w, **{**given, name: part}, group_size=group_size, bits=bits, mode=mode)
            return mx.matmul(x, mx.swapaxes(weights, -1, -2) if transpose else weights)

        return mx.vjp(partly, [given[name]], [g])[1][0]

    return run


@formula("quantized_matmul", "{x} @ dequantize({w})ᵀ",
         "A matrix product with weights of a few bits, which are made into ordinary numbers on the way. The weights "
         "themselves get no gradient.",
         slopes={"x": Slope("{g} @ dequantize({w})", _quantized_slope),
                 "scales": Slope("Σ over its group of ({g}ᵀ @ {x}) · q", _group_slope("scales")),
                 "biases": Slope("Σ over its group of {g}ᵀ @ {x}", _group_slope("biases"))},
         traits=(Trait.PRODUCT, Trait.QUANTIZED))  # fmt: skip
def _quantized_matmul(
    x: mx.array, w: mx.array, scales: mx.array, biases: Any = None, transpose: bool = True,
    group_size: Any = None, bits: Any = None, mode: str = "affine",
) -> mx.array:  # fmt: skip
    weights = mx.dequantize(w, scales, biases, group_size, bits, mode, dtype=x.dtype)
    return mx.matmul(x, mx.swapaxes(weights, -1, -2) if transpose else weights)


@formula("gather_qmm", "{x}[{lhs_indices}] @ dequantize({w}[{rhs_indices}])ᵀ",
         "A quantized matrix product of chosen pairs of matrices.",
         traits=(Trait.PRODUCT, Trait.PICKS, Trait.QUANTIZED))  # fmt: skip
def _gather_qmm(
    x: mx.array, w: mx.array, scales: mx.array, biases: Any = None, lhs_indices: Any = None, rhs_indices: Any = None,
    transpose: bool = True, group_size: Any = None, bits: Any = None, mode: str = "affine",
    sorted_indices: bool = False,
) -> mx.array:  # fmt: skip
    weights = mx.dequantize(w, scales, biases, group_size, bits, mode, dtype=x.dtype)
    weights = mx.swapaxes(weights, -1, -2) if transpose else weights
    return mx.matmul(chosen(x, lhs_indices), chosen(weights, rhs_indices))


for _name, _text in (("quantized_matmul", "{x} @ dequantize({w})"),
                     ("gather_qmm", "{x}[{lhs_indices}] @ dequantize({w}[{rhs_indices}])")):  # fmt: skip
    reworded(_name, lambda bound: not bound["transpose"], _text)
reworded("dequantize", lambda bound: bound["mode"] != "affine",
         "{scales} · q, one scale a group; q: the small numbers in {w}",
         "Numbers of a few bits become ordinary numbers again: each group of them has a scale.")  # fmt: skip


# -- worked out --------------------------------------------------------------------------------------------------------


def _weights(case: Case) -> mx.array | None:
    """Return the ordinary numbers of the quantized weights, as MLX makes them."""
    bound = case.bound
    names = ("w", "scales", "biases", "group_size", "bits", "mode")
    given = {name: bound[name].array if isinstance(bound[name], Operand) else bound[name] for name in names}
    weights: mx.array = mx.dequantize(*given.values())
    return weights


@forwards("quantized_matmul")
def _quantized_forward(case: Case, slot: int, index: Index) -> Line | None:
    """Return a row of x times a row (or column) of the dequantized weights."""
    x, weights = case.operand("x"), _weights(case)
    if weights is None or weights.ndim != 2:
        return None
    across = bool(case.bound["transpose"])
    row = weights[index[-1]] if across else weights[:, index[-1]]
    numbers: Any = row.astype(mx.float32).tolist()
    places = [(*index[:-1], k) for k in range(x.shape[-1])]
    x.want(places)
    name = f"dequantize({case.operand('w').name})"
    terms: list[Node] = []
    for k, (place, number) in enumerate(zip(places, numbers)):
        at = (index[-1], k) if across else (k, index[-1])
        terms.append(product_of(x.node(place), quantity(element(name, at), number)))
    return Line(element(case.y[0].name, index), sum_of(terms), epsilon=1e-3 if x.dtype == mx.float16 else 0.0)


@forwards("dequantize")
def _dequantize_forward(case: Case, slot: int, index: Index) -> Line | None:
    """One scale and one bias for each group."""
    bound = case.bound
    if bound["mode"] != "affine" or not isinstance(bound["biases"], Operand):
        return None
    w, size, bits = case.operand("w"), bound["group_size"] or 64, bound["bits"] or 4
    q: Any = unpack(w.array[index[:-1]], bits)[index[-1]].item()
    group = (*index[:-1], index[-1] // size)
    scale, bias = case.operand("scales").node(group), case.operand("biases").node(group)
    node = Node("sum", (product_of(scale, quantity("q", q)), bias), "++")
    where = Defined("q", literal(q), remark=f"number {index[-1]} of the row, {bits} bits each in {w.name}")
    return Line(element(case.y[0].name, index), node, (where,))
