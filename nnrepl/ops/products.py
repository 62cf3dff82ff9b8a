"""Products: sums of products of matrices and their relatives, and quantized ones."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import PRODUCTS, Slope, formula, unbroadcast
from nnrepl.ops.traits import Trait


def _matrices(a: mx.array, b: mx.array) -> tuple[mx.array, mx.array]:
    """Vectors as matrices of one row or one column."""
    return a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b


def _cotangent(g: mx.array, a: mx.array, b: mx.array) -> mx.array:
    if a.ndim == 1:
        g = mx.expand_dims(g, -1 if b.ndim == 1 else -2)
    return mx.expand_dims(g, -1) if b.ndim == 1 else g


def _matmul_a(g: mx.array, y: Any, a: mx.array, b: mx.array) -> mx.array:
    left, right = _matrices(a, b)
    return unbroadcast(_cotangent(g, a, b) @ mx.swapaxes(right, -1, -2), left.shape).reshape(a.shape)


def _matmul_b(g: mx.array, y: Any, a: mx.array, b: mx.array) -> mx.array:
    left, right = _matrices(a, b)
    return unbroadcast(mx.swapaxes(left, -1, -2) @ _cotangent(g, a, b), right.shape).reshape(b.shape)


@formula("matmul", "a @ b", "Each number is a row of the left times a column of the right, added up: y[i,j] = "
                            "Σₖ a[i,k] · "
         "b[k,j]. Each side's gradient is the gradient times the other side, turned over.",
         PRODUCTS, {"a": Slope("g @ bᵀ", _matmul_a), "b": Slope("aᵀ @ g", _matmul_b)},
         traits=(Trait.PRODUCT,))  # fmt: skip
def _matmul(a: mx.array, b: mx.array) -> mx.array:
    left, right = _matrices(a, b)
    products = left[..., :, :, None] * right[..., None, :, :]
    y = mx.sum(products, axis=-2)
    y = mx.squeeze(y, -1) if b.ndim == 1 else y
    return mx.squeeze(y, -1 if b.ndim == 1 else -2) if a.ndim == 1 else y


def _addmm_c(g: mx.array, y: Any, c: Any, a: Any, b: Any, alpha: float = 1.0, beta: float = 1.0) -> mx.array:
    return unbroadcast(g * beta, c.shape)


def _addmm_a(g: mx.array, y: Any, c: Any, a: mx.array, b: mx.array, alpha: float = 1.0, beta: float = 1.0) -> mx.array:
    return _matmul_a(g * alpha, y, a, b)


def _addmm_b(g: mx.array, y: Any, c: Any, a: mx.array, b: mx.array, alpha: float = 1.0, beta: float = 1.0) -> mx.array:
    return _matmul_b(g * alpha, y, a, b)


@formula("addmm", "alpha · (a @ b) + beta · c", "A matrix product and a sum in one: a linear layer with its bias.",
         PRODUCTS, {"c": Slope("beta · g", _addmm_c), "a": Slope("alpha · g @ bᵀ", _addmm_a),
                    "b": Slope("alpha · aᵀ @ g", _addmm_b)}, traits=(Trait.PRODUCT,))  # fmt: skip
def _addmm(c: mx.array, a: mx.array, b: mx.array, alpha: float = 1.0, beta: float = 1.0) -> mx.array:
    product = mx.matmul(a, b)
    product = product if alpha == 1 else alpha * product
    offset = c if beta == 1 else beta * c
    return product + offset


@formula("inner", "a @ bᵀ", "Rows of the left times rows of the right.", traits=(Trait.PRODUCT,))
def _inner(a: mx.array, b: mx.array) -> mx.array:
    return mx.matmul(a, mx.swapaxes(b, -1, -2)) if b.ndim > 1 else mx.sum(a * b, axis=-1)


@formula("outer", "a[i] · b[j]", "Every number of the left times every number of the right.", traits=(Trait.PRODUCT,))
def _outer(a: mx.array, b: mx.array) -> mx.array:
    return a.flatten()[:, None] * b.flatten()[None]


@formula(
    "tensordot", "Σ a · b over the named axes", "Multiplies and adds up along pairs of axes.", traits=(Trait.PRODUCT,)
)
def _tensordot(a: mx.array, b: mx.array, axes: Any = 2) -> mx.array:
    if isinstance(axes, int):
        left, right = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    else:
        left, right = [[side] if isinstance(side, int) else list(side) for side in axes]
        left, right = [at % a.ndim for at in left], [at % b.ndim for at in right]
    keep_a = [at for at in range(a.ndim) if at not in left]
    keep_b = [at for at in range(b.ndim) if at not in right]
    rows = mx.transpose(a, keep_a + left)
    columns = mx.transpose(b, right + keep_b)
    count = 1
    for at in left:
        count *= a.shape[at]
    product = mx.reshape(rows, (-1, count)) @ mx.reshape(columns, (count, -1))
    return mx.reshape(product, [a.shape[at] for at in keep_a] + [b.shape[at] for at in keep_b])


@formula("einsum", "Σ over the letters that are not in the result", "Multiplies along named axes, and adds up "
    "along those "
         "that the result does not have.", traits=(Trait.PRODUCT,))  # fmt: skip
def _einsum(subscripts: str, *operands: mx.array) -> mx.array:
    taken, _, result = subscripts.replace(" ", "").partition("->")
    terms = taken.split(",")
    if "->" not in subscripts:
        result = "".join(sorted(letter for letter in set(taken) - {","} if taken.count(letter) == 1))
    if "." in subscripts:
        return mx.einsum(subscripts, *operands)
    letters = list(result) + sorted(set(taken) - set(result) - {","})
    product: Any = 1
    for term, operand in zip(terms, operands):
        product = product * _spread_letters(operand, term, letters)
    extra = list(range(len(result), len(letters)))
    return mx.sum(product, axis=extra) if extra else product


def _spread_letters(operand: mx.array, term: str, letters: list[str]) -> mx.array:
    """An operand with an axis for every letter, in order."""
    while len(set(term)) < len(term):
        twice = next(letter for letter in term if term.count(letter) > 1)
        first, second = [at for at, letter in enumerate(term) if letter == twice][:2]
        operand = mx.diagonal(operand, 0, first, second)
        term = "".join(letter for at, letter in enumerate(term) if at not in (first, second)) + twice
    order = sorted(range(len(term)), key=lambda at: letters.index(term[at]))
    operand = mx.transpose(operand, order)
    return mx.expand_dims(operand, [at for at, letter in enumerate(letters) if letter not in term])


@formula("gather_mm", "a[i] @ b[j]", "Matrix products of chosen pairs of matrices: each token with the weights of its "
         "expert. The gradient of a matrix that was chosen several times is the sum over its uses.",
         traits=(Trait.PRODUCT, Trait.PICKS))  # fmt: skip
def _gather_mm(
    a: mx.array, b: mx.array, lhs_indices: Any = None, rhs_indices: Any = None, sorted_indices: bool = False
) -> mx.array:
    left, right = _chosen(a, lhs_indices), _chosen(b, rhs_indices)
    return mx.matmul(left, right)


def _chosen(matrices: mx.array, indices: Any) -> mx.array:
    """The matrices that the indices name, as if all batch axes were one."""
    if indices is None:
        return matrices
    rows, columns = matrices.shape[-2:]
    flat = mx.reshape(matrices, (-1, rows, columns))
    return mx.take(flat, indices, axis=0)


# -- quantized -----------------------------------------------------------------------------------------------------


def unpack(w: mx.array, bits: int) -> mx.array:
    """The whole numbers that lie packed in 32-bit words, `bits` each (the lowest first)."""
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


@formula("dequantize", "scale · q + bias, one scale and bias a group",
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
    """The gradient of the groups' scales or biases: through the dequantized weights."""

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


@formula("quantized_matmul", "x @ dequantize(w)ᵀ", "A matrix product with weights of a few bits, which are made into "
         "ordinary numbers on the way. The weights themselves get no gradient.",
         slopes={"x": Slope("g @ dequantize(w)", _quantized_slope),
                 "scales": Slope("Σ over its group of (gᵀ @ x) · q", _group_slope("scales")),
                 "biases": Slope("Σ over its group of gᵀ @ x", _group_slope("biases"))},
         traits=(Trait.PRODUCT, Trait.QUANTIZED))  # fmt: skip
def _quantized_matmul(
    x: mx.array, w: mx.array, scales: mx.array, biases: Any = None, transpose: bool = True,
    group_size: Any = None, bits: Any = None, mode: str = "affine",
) -> mx.array:  # fmt: skip
    weights = mx.dequantize(w, scales, biases, group_size, bits, mode, dtype=x.dtype)
    return mx.matmul(x, mx.swapaxes(weights, -1, -2) if transpose else weights)


@formula("gather_qmm", "x[i] @ dequantize(w[j])ᵀ", "A quantized matrix product of chosen pairs of matrices.",
         traits=(Trait.PRODUCT, Trait.PICKS, Trait.QUANTIZED))  # fmt: skip
def _gather_qmm(
    x: mx.array, w: mx.array, scales: mx.array, biases: Any = None, lhs_indices: Any = None, rhs_indices: Any = None,
    transpose: bool = True, group_size: Any = None, bits: Any = None, mode: str = "affine",
    sorted_indices: bool = False,
) -> mx.array:  # fmt: skip
    weights = mx.dequantize(w, scales, biases, group_size, bits, mode, dtype=x.dtype)
    weights = mx.swapaxes(weights, -1, -2) if transpose else weights
    return mx.matmul(_chosen(x, lhs_indices), _chosen(weights, rhs_indices))


@formula("hadamard_transform", "scale · H @ a", "Multiplies with a matrix of ones and minus ones, whose rows "
                                                "are at right "
         "angles.")  # fmt: skip
def _hadamard(a: mx.array, scale: float | None = None) -> mx.array:
    n = a.shape[-1]
    power = n & -n
    if n != power:
        return mx.hadamard_transform(a, scale)
    h = mx.array([[1.0]], a.dtype)
    while h.shape[0] < n:
        h = mx.concatenate([mx.concatenate([h, h], axis=1), mx.concatenate([h, -h], axis=1)], axis=0)
    return mx.matmul(a, h) * (n**-0.5 if scale is None else scale)
