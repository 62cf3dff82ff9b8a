"""Samples: elementwise functions, reductions, shapes, indexing, products, convolutions, quantization."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from tests.record.sample import (
    Refusal,
    Sample,
    affine,
    b,
    bools,
    c,
    calls,
    f,
    index,
    ints,
    n,
    odd,
    p,
    quantized,
    square,
    w,
    x,
)

calls(
    "mx.abs mx.arcsinh mx.asinh mx.arctan mx.atan mx.ceil mx.cos mx.cosh mx.degrees mx.erf mx.exp mx.expm1 "
    "mx.floor mx.negative mx.positive mx.radians mx.reciprocal mx.sigmoid mx.sign mx.sin mx.sinh mx.square mx.tan "
    "mx.tanh mx.trunc mx.stop_gradient mx.conj mx.conjugate mx.real mx.round "
    "array.__abs__ array.__neg__ array.__pos__ array.abs array.cos array.exp array.reciprocal array.round "
    "array.sin array.square array.conj array.real",
    Sample(f(2, 3)),
)
calls("mx.exp mx.reciprocal mx.sigmoid mx.stop_gradient mx.round", Sample(f(3, dtype=mx.bfloat16)))
calls(
    "mx.arccos mx.acos mx.arcsin mx.asin mx.arctanh mx.atanh mx.erfinv mx.log mx.log10 mx.log1p mx.log2 mx.rsqrt "
    "mx.sqrt array.log array.log10 array.log1p array.log2 array.rsqrt array.sqrt",
    Sample(p(2, 3)),
)
calls("mx.log mx.sqrt mx.erfinv mx.arccos", Sample(odd))
calls("mx.arccosh mx.acosh", Sample(p(2, 3) + 1))
calls("mx.imag array.imag mx.conj mx.real array.conj array.real mx.abs", Sample(c(2, 3)))
calls("mx.isfinite mx.isinf mx.isnan mx.isneginf mx.isposinf", Sample(odd))
calls("mx.nan_to_num", Sample(odd), Sample(odd, nan=1.0, posinf=2.0, neginf=3.0))
calls("mx.logical_not", Sample(bools), Sample(f(3)))
calls("mx.bitwise_invert array.__invert__", Sample(ints), Sample(bools))
calls("mx.to_fp8", Sample(f(4)))
calls("mx.from_fp8", Sample(mx.to_fp8(f(4))), Sample(mx.to_fp8(f(4)), mx.float32))
calls("mx.astype array.astype", Sample(f(3), mx.float16), Sample(f(3), mx.float32), Sample(n(3), mx.float32))
calls("mx.view array.view", Sample(f(3), mx.int32), Sample(n(2, 2), mx.float32))
calls("mx.clip", Sample(x, -0.5, 0.5), Sample(x, f(3), None), Sample(x, f(2, 1), p(3) + 1))
calls("mx.where", Sample(bools, x, 0.0), Sample(bools, x, f(3)), Sample(bools, x, x))

calls(
    "mx.add mx.subtract mx.multiply mx.divide mx.maximum mx.minimum mx.arctan2 mx.atan2 mx.logaddexp mx.remainder "
    "mx.floor_divide mx.divmod "
    "array.__add__ array.__sub__ array.__mul__ array.__truediv__ array.__div__ array.__floordiv__ array.__mod__ "
    "array.__iadd__ array.__isub__ array.__imul__ array.__itruediv__ array.__ifloordiv__ array.__imod__ "
    "mx.equal mx.not_equal mx.greater mx.greater_equal mx.less mx.less_equal "
    "array.__eq__ array.__ne__ array.__gt__ array.__ge__ array.__lt__ array.__le__",
    Sample(f(2, 3), p(3)),
    Sample(x, x),
)
calls(
    "mx.subtract mx.divide mx.maximum array.__add__ array.__mul__ array.__truediv__ array.__iadd__ array.__isub__ "
    "array.__imul__ array.__itruediv__ array.__eq__",
    Sample(f(2, 3), f(2, 3)),
    Sample(f(2, 3), 2.0),
)
calls("mx.add", Sample(x, f(2, 1)), Sample(1.5, x), Sample(x, f(3, dtype=mx.float16)), Sample(x, x, stream=mx.cpu))
calls("array.__div__", Sample(x, f(3)))
calls(
    "array.__radd__ array.__rsub__ array.__rmul__ array.__rtruediv__ array.__rdiv__ array.__rfloordiv__ array.__rmod__",
    Sample(x, 2.0),
)
calls("mx.power mx.pow array.__pow__ array.__ipow__", Sample(p(2, 3), f(3)), Sample(x, 2), Sample(p(3), 0.5))
calls("array.__rpow__", Sample(x, 2.0))
calls(
    "mx.bitwise_and mx.bitwise_or mx.bitwise_xor array.__and__ array.__or__ array.__xor__ "
    "array.__iand__ array.__ior__ array.__ixor__",
    Sample(n(2, 3), n(3)),
    Sample(n(3), 5),
    Sample(b(3), b(3)),
)
calls(
    "mx.left_shift mx.right_shift mx.bitwise_left_shift mx.bitwise_right_shift array.__lshift__ array.__rshift__ "
    "array.__ilshift__ array.__irshift__",
    Sample(n(2, 3), n(3)),
    Sample(n(3), 2),
)
calls("mx.logical_and mx.logical_or mx.logical_xor", Sample(b(2, 3), b(3)), Sample(f(3), f(3)))
calls("mx.allclose mx.isclose mx.array_equal", Sample(f(3), f(3)), Sample(odd, odd, equal_nan=True))

calls(
    "mx.sum mx.mean mx.prod mx.max mx.min mx.var mx.std mx.logsumexp mx.median mx.minmax mx.all mx.any mx.argmax "
    "mx.argmin array.sum array.mean array.prod array.max array.min array.var array.std array.logsumexp array.all "
    "array.any array.argmax array.argmin",
    Sample(f(2, 3), axis=0, keepdims=True),
)
calls(
    "mx.sum mx.mean mx.prod mx.max mx.min mx.var mx.std mx.logsumexp mx.median mx.minmax",
    Sample(f(2, 3)),
    Sample(f(2, 3), axis=1),
)
calls("mx.var mx.std array.var array.std", Sample(f(2, 3), axis=(0, 1), ddof=1))
calls("mx.count_nonzero", Sample(bools), Sample(ints, axis=1))
calls(
    "mx.cumsum mx.cumprod mx.cumulative_sum mx.cumulative_prod mx.cummax mx.cummin mx.logcumsumexp "
    "array.cumsum array.cumprod array.cummax array.cummin array.logcumsumexp",
    Sample(f(2, 3), axis=0, reverse=True),
)
calls("mx.cumsum mx.cumprod mx.cummax mx.logcumsumexp", Sample(f(2, 3)), Sample(f(4), axis=0, inclusive=False))
calls("mx.softmax", Sample(x, axis=-1), Sample(x), Sample(f(2, 3, dtype=mx.float16), axis=(0, 1), precise=True))
calls("mx.sort mx.argsort", Sample(f(2, 5)), Sample(f(2, 5), axis=0), Sample(n(2, 3), axis=None))
calls("mx.partition mx.argpartition mx.topk", Sample(f(2, 5), 2), Sample(f(5, 2), 2, axis=0))
calls("mx.searchsorted", Sample(mx.sort(f(5)), f(3)), Sample(mx.sort(f(5)), f(3), side="right"))
calls(
    "mx.unique",
    Sample(n(6), size=4),
    Sample(f(4), size=5, return_index=True, return_inverse=True, return_counts=True, fill_value=f()),
)
calls("mx.trace mx.diagonal array.diagonal", Sample(square), Sample(f(2, 3, 4), 1, 0, 2))
calls("mx.diag array.diag", Sample(f(3)), Sample(square), Sample(square, k=1))
calls("mx.diff", Sample(f(2, 4)), Sample(f(4, 2), n=2, axis=0))

calls("mx.reshape array.reshape", Sample(x, (3, 2)), Sample(x, (2, 3)), Sample(x, (-1,)))
calls("array.reshape", Sample(x, 3, 2), Sample(x, [6]))
calls("mx.flatten array.flatten", Sample(f(2, 3, 2)), Sample(f(2, 3, 2), 1, 2), Sample(f(3)))
calls("mx.unflatten", Sample(f(2, 6), 1, (2, 3)))
calls("mx.squeeze array.squeeze", Sample(f(2, 1, 1)), Sample(f(2, 1, 1), axis=1), Sample(x))
calls("mx.expand_dims", Sample(x, 0), Sample(x, (0, 3)))
calls("mx.transpose mx.permute_dims array.transpose", Sample(x), Sample(f(2, 3, 4), (1, 2, 0)))
calls("array.transpose", Sample(f(2, 3, 4), 1, 2, 0))
calls("array.T array.mT mx.matrix_transpose", Sample(x))
calls("mx.swapaxes mx.moveaxis array.swapaxes array.moveaxis", Sample(f(2, 3, 4), 0, 2))
calls("mx.broadcast_to", Sample(f(3), (2, 3)), Sample(x, (2, 3)), Sample(2.0, (2, 3)))
calls("mx.broadcast_arrays", Sample(f(3, 1), f(1, 2)), Sample(x, f(3)))
calls("mx.meshgrid", Sample(f(2), f(3)), Sample(f(2), f(3), sparse=True, indexing="ij"))
calls("mx.concatenate mx.concat", Sample([f(2, 3), f(1, 3)]), Sample([x, x, f(2, 1)], axis=1))
calls("mx.stack", Sample([f(3), f(3)]), Sample([f(3), f(3)], axis=1))
calls("mx.unstack", Sample(x), Sample(x, axis=1))
calls("mx.split array.split", Sample(f(4, 2), 2), Sample(f(2, 5), [1, 3], axis=1))
calls("mx.repeat", Sample(x, 2), Sample(x, 2, axis=0))
calls("mx.tile", Sample(x, 2), Sample(x, (2, 1, 2)))
calls("mx.roll", Sample(x, 1), Sample(x, 2, 1), Sample(x, (1, 2), (0, 1)))
calls("mx.flip", Sample(x), Sample(x, axis=1))
calls(
    "mx.pad",
    Sample(x, 1),
    Sample(x, [(1, 0), (0, 2)], constant_values=f(), wrt=[0]),  # Pad::vjp reads past its gradients for the other
    *(Sample(f(3, 3), 1, mode) for mode in ("edge", "reflect", "symmetric")),
)
calls("mx.atleast_1d mx.atleast_2d mx.atleast_3d", Sample(f()), Sample(f(3), f()), Sample(f(2, 3)))
calls("mx.as_strided", Sample(f(6), (2, 2), (3, 1), 1), Sample(f(4), (3, 2), (1, 1)))
calls("mx.contiguous", Sample(x), Sample(x, allow_col_major=True))
calls("mx.tril mx.triu", Sample(square), Sample(f(2, 3), k=1))
calls("mx.depends", Sample(x, w), Sample([x, f(3)], [w, f(2)]))

# -- indexing --------------------------------------------------------------------------------------------------


def _assign(array: mx.array, where: Any, value: Any) -> mx.array:
    array[where] = value
    return array


def _update(how: str, array: mx.array, where: Any, value: Any) -> mx.array:
    return getattr(array.at[where], how)(value)


def _updates(*ways: str) -> list[Sample]:
    places = ((1, 2.0), ((slice(1, 3), 0), p(2)), (index(1, 1), p(3)))
    return [Sample(way, p(4, 3), where, value, via=_update) for way in ways for where, value in places]


calls(
    "array.__getitem__",
    *[
        Sample(f(4, 3), where)
        for where in (1, -1, slice(1, 3), slice(None, None, -2), (..., 0), (None, slice(2), 1), index(2, 0, 2))
    ],
)
calls(
    "array.__setitem__",
    Sample(f(4, 3), 1, 2.0, via=_assign),
    Sample(f(4, 3), slice(1, 3), f(3), via=_assign),
    Sample(f(4, 3), ..., f(4, 3), via=_assign),
    Sample(f(4, 3), (index(0, 2), 1), f(2), via=_assign),
    Sample(f(4, 3), b(4, 3), 0.0, via=_assign),
    Sample(x, 0, x, via=lambda array, where, other: _assign(array, where, other[1])),
)
calls("array.at", *_updates("add"))
calls("mx.ArrayAt", *_updates("add", "subtract", "multiply", "divide", "maximum", "minimum"))
calls("array.__iter__ mx.ArrayIterator", Sample(x, via=list), Sample(f(12, 2), via=list))
calls("mx.take", Sample(f(4, 3), index(0, 2), axis=0), Sample(f(4, 3), 1, axis=1), Sample(f(4), index([3, 0])))
calls("mx.take_along_axis", Sample(f(4, 3), index([0, 2, 1]), axis=0), Sample(f(4), index(1, 1), axis=None))
calls("mx.put_along_axis", Sample(f(3, 4), index([1], [0], [3]), f(3, 1), axis=1))
calls("mx.slice", Sample(f(3, 4), index(1, 1), (0, 1), (2, 2)))
calls("mx.slice_update", Sample(f(3, 4), f(2, 2), index(1, 1), (0, 1)))

# -- products, convolutions, quantization ----------------------------------------------------------------------

calls("mx.matmul array.__matmul__", Sample(x, w), Sample(f(2, 4, 3), w), Sample(f(3), w), Sample(w, w))
calls("array.__imatmul__", Sample(x, w))
calls("mx.addmm", Sample(f(2, 3), x, w), Sample(f(3), x, w, alpha=0.5, beta=2.0), Sample(w, w, w))
calls("mx.inner", Sample(f(2, 3), f(4, 3)), Sample(f(3), f(3)))
calls("mx.outer", Sample(f(2), f(3)))
calls("mx.vecdot", Sample(x, f(2, 3)), Sample(x, x, axis=0))
calls("mx.kron", Sample(f(2, 2), f(2, 3)))
calls("mx.tensordot", Sample(x, w, 1), Sample(x, f(3, 2), axes=[[0, 1], [1, 0]]))
calls("mx.einsum", Sample("ij,jk->ik", x, w), Sample("ij,ij,kj->k", x, x, w), Sample("ii", square))
calls(
    "mx.block_masked_mm",
    Sample(f(64, 32), f(32, 32), 32, mx.array([[True], [False]]), mx.array([[True], [True]]), mx.array([[True]])),
    Sample(f(32, 32), f(32, 32), 32, mx.ones((1, 1)), p(1, 1), p(1, 1)),
)
calls(
    "mx.gather_mm",
    Sample(f(2, 3, 4), f(3, 4, 2), mx.array([0, 1], mx.uint32), mx.array([2, 0], mx.uint32)),
    Sample(f(2, 1, 4), f(3, 4, 2), rhs_indices=mx.array([0, 2], mx.uint32), sorted_indices=True),
)
calls("mx.segmented_mm", Sample(f(3, 8), f(8, 2), mx.array([[0, 3], [3, 8]], mx.uint32)))
calls("mx.hadamard_transform", Sample(f(2, 4)), Sample(f(2, 4), scale=0.5))

calls("mx.conv1d mx.conv_general", Sample(f(1, 5, 2), f(3, 2, 2)), Sample(f(2, 6, 4), f(4, 3, 2), 2, 1, 1, groups=2))
calls("mx.conv2d mx.conv_general", Sample(f(1, 4, 4, 2), f(3, 2, 2, 2)), Sample(f(1, 5, 4, 2), f(1, 2, 2, 2), (2, 1)))
calls("mx.conv3d", Sample(f(1, 3, 3, 3, 2), f(2, 2, 2, 2, 2)))
calls(
    "mx.conv_general",
    Sample(f(1, 4, 4, 2), f(3, 2, 2, 2), padding=([1, 0], [0, 1]), kernel_dilation=2, input_dilation=(1, 2), flip=True),
)
calls("mx.conv_transpose1d", Sample(f(1, 3, 2), f(3, 2, 2)), Sample(f(1, 3, 2), f(3, 2, 2), 2, output_padding=1))
calls("mx.conv_transpose2d", Sample(f(1, 3, 3, 2), f(3, 2, 2, 2)), Sample(f(1, 3, 3, 2), f(3, 2, 2, 2), (2, 1), 1))
calls("mx.conv_transpose3d", Sample(f(1, 2, 2, 2, 2), f(2, 2, 2, 2, 2)))
calls("mx.convolve", Sample(f(5), f(3)), Sample(f(5), f(3), mode="same"), Sample(f(2), f(5), mode="valid"))

NO_KERNEL = Refusal("has no kernel for a CPU", "NYI")

calls("mx.quantize", Sample(f(2, 64), **affine), *(Sample(f(2, 32), mode=mode) for mode in ("mxfp4", "mxfp8", "nvfp4")))
calls(
    "mx.dequantize",
    Sample(*quantized(2, 64, **affine), **affine),
    Sample(*quantized(2, 32, mode="nvfp4"), mode="nvfp4", dtype=mx.float32),
)
calls(
    "mx.quantized_matmul",
    Sample(f(3, 64), *quantized(4, 64, **affine), **affine),
    Sample(f(3, 32), *quantized(32, 64, **affine), transpose=False, **affine),
    Sample(f(3, 32), *quantized(4, 32, mode="mxfp4"), mode="mxfp4"),
)
calls(
    "mx.gather_qmm",
    Sample(
        f(2, 1, 64),
        *quantized(3, 4, 64, **affine),
        lhs_indices=mx.array([0, 1], mx.uint32),
        rhs_indices=mx.array([2, 0], mx.uint32),
        **affine,
    ),
)
calls(
    "mx.qqmm",
    Sample(f(1, 32), *quantized(4, 32, mode="nvfp4"), mode="nvfp4"),
    Sample(f(2, 32), f(4, 32), refused=NO_KERNEL),
)
calls("mx.gather_qqmm", Sample(f(2, 1, 32), f(3, 4, 32), rhs_indices=mx.array([2, 0], mx.uint32), refused=NO_KERNEL))
