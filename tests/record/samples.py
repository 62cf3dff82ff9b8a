"""Sample calls of everything in MLX that nnrepl records, by the callee's name in `nnrepl.record.catalog`.

A sample is what stands between the parentheses: `calls("mx.take", Sample(f(4, 3), index(0, 2), axis=0))` stands
for `mx.take(x, i, axis=0)`. The arrays among the arguments are its inputs. For a function that is new in MLX, add
a line to the group that it belongs to.
"""

from __future__ import annotations

import copy
import itertools
import operator
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from nnrepl.record import trees
from nnrepl.record.catalog import MODULES

_seeds = itertools.count(1)


class Sample:
    """One call of a callee.

    Args:
        args, kwargs: What the callee is called with; the arrays in it are the inputs.
        via: The function to call instead of the callee itself, where that is not how people write it.
        refused: For a call that cannot run everywhere: why, and what MLX says then.
        wrt: The numbers of the inputs to differentiate by: all that are not integers, unless MLX crashes.
    """

    def __init__(
        self,
        *args: Any,
        via: Callable[..., Any] | None = None,
        refused: Refusal | None = None,
        wrt: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self._tree = (args, kwargs)
        self._via = via
        self._inputs = list({id(array): array for array in trees.arrays(self._tree)}.values())
        mx.eval(self._inputs)
        self.refused = refused
        inexact = [at for at, array in enumerate(self._inputs) if mx.issubdtype(array.dtype, mx.inexact)]
        self.wrt = inexact if wrt is None else wrt

    def inputs(self) -> list[mx.array]:
        """The arrays that go in, as new objects: a call may change them in place."""
        return [copy.copy(array) for array in self._inputs]

    def function(self, key: str) -> Callable[..., Any]:
        """The call of the callee `key` as a function of the inputs. Everything is looked up when it runs."""
        place = {id(array): at for at, array in enumerate(self._inputs)}

        def call(*inputs: mx.array) -> Any:
            args, kwargs = trees.rebuild(self._tree, lambda array: inputs[place[id(array)]])
            return (self._via or _callee(key))(*args, **kwargs)

        return call


@dataclass(frozen=True)
class Refusal:
    """Why a call cannot run on some machines, and how MLX says so (a regular expression)."""

    reason: str
    message: str


def _callee(key: str) -> Callable[..., Any]:
    """What to call for a callee: a module's function, or a method, operator or property in its usual spelling."""
    holder, name = key.rsplit(".", 1)
    if holder != "array":
        return getattr(MODULES[holder], name)
    if hasattr(operator, name):
        return getattr(operator, name)
    if name.startswith("__r") and hasattr(operator, f"__{name[3:]}"):
        return lambda array, other: getattr(operator, f"__{name[3:]}")(other, array)

    def method(array: mx.array, *args: Any, **kwargs: Any) -> Any:
        found = getattr(array, name)
        return found(*args, **kwargs) if callable(found) else found

    return method


# -- arrays ----------------------------------------------------------------------------------------------------


def f(*shape: int, dtype: mx.Dtype = mx.float32) -> mx.array:
    """Random floats around zero."""
    return mx.random.normal(shape, key=mx.random.key(next(_seeds))).astype(dtype)


def p(*shape: int) -> mx.array:
    """Random floats between 0.1 and 0.9."""
    return mx.random.uniform(0.1, 0.9, shape, key=mx.random.key(next(_seeds)))


def n(*shape: int) -> mx.array:
    """Random integers from 1 to 8."""
    return mx.random.randint(1, 9, shape, key=mx.random.key(next(_seeds)))


def b(*shape: int) -> mx.array:
    """Random booleans."""
    return mx.random.bernoulli(0.5, shape, key=mx.random.key(next(_seeds)))


def c(*shape: int) -> mx.array:
    """Random complex numbers."""
    return f(*shape) + 1j * f(*shape)


def index(*numbers: Any) -> mx.array:
    """These indices."""
    return mx.array(numbers)


def key() -> mx.array:
    """A key for random functions."""
    return mx.random.key(next(_seeds))


def definite(size: int = 3) -> mx.array:
    """A symmetric, positive definite matrix."""
    matrix = f(size, size)
    return matrix @ matrix.T + size * mx.eye(size)


def quantized(*shape: int, **how: Any) -> list[mx.array]:
    """The parts of a quantized matrix."""
    return list(mx.quantize(f(*shape), **how))


x, w, square = f(2, 3), f(3, 3), f(3, 3)
ints, bools = n(2, 3), b(2, 3)
odd = mx.array([0.5, float("nan"), float("inf"), float("-inf"), -0.0])
affine = {"group_size": 32, "bits": 4}

_files = tempfile.TemporaryDirectory()
_npy, _safetensors, _mlxfn = (str(Path(_files.name) / name) for name in ("x.npy", "x.safetensors", "f.mlxfn"))
mx.save(_npy, x)
mx.save_safetensors(_safetensors, {"a": x, "b": w})
mx.export_function(_mlxfn, lambda a, b: mx.sin(a) @ b, x, w)


SAMPLES: dict[str, list[Sample]] = {}
"""Every sample, by the callee's name."""


def calls(names: str, *samples: Sample) -> None:
    """Add samples of one callee, or the same ones for several."""
    for name in names.split():
        SAMPLES.setdefault(name, []).extend(samples)


# -- elementwise, reductions, shapes ---------------------------------------------------------------------------

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

# -- mx.fast, mx.linalg (on the CPU: most of it has no kernel for a GPU), mx.fft -------------------------------

HEADS = f(1, 2, 3, 8)
CUDA_ONLY = Refusal("needs an NVIDIA GPU", "CUDA")
METAL_ONLY = Refusal("needs a Metal GPU", "Metal")


def _rope(*args: Any, traditional: bool = False, base: float | None = 10000.0, offset: Any = 0, **more: Any) -> Any:
    return mx.fast.rope(*args, traditional=traditional, base=base, scale=1.0, offset=offset, **more)


def _kernel(make: str, source: str, array: mx.array) -> list[mx.array]:
    kernel = getattr(mx.fast, make)(name="double_it", input_names=["inp"], output_names=["out"], source=source)
    return kernel(
        inputs=[array],
        template=[("T", mx.float32)],
        grid=(array.size, 1, 1),
        threadgroup=(array.size, 1, 1),
        output_shapes=[array.shape],
        output_dtypes=[array.dtype],
    )


calls("mx.fast.rms_norm", Sample(f(2, 8), f(8), 1e-5), Sample(f(2, 8), None, 1e-5))
calls("mx.fast.layer_norm", Sample(f(2, 8), f(8), f(8), 1e-5), Sample(f(2, 8), None, None, 1e-5))
calls(
    "mx.fast.rope",
    Sample(HEADS, 8, via=_rope),
    Sample(HEADS, 4, traditional=True, offset=2, via=_rope),
    Sample(HEADS, 8, offset=mx.array([3]), via=_rope),
    Sample(HEADS, 8, base=None, freqs=p(4), via=_rope),
)
calls(
    "mx.fast.scaled_dot_product_attention",
    Sample(HEADS, f(1, 2, 4, 8), f(1, 2, 4, 8), scale=0.3),
    Sample(HEADS, HEADS, HEADS, scale=0.3, mask="causal"),
    Sample(f(1, 4, 3, 8), HEADS, f(1, 2, 3, 8), scale=0.3, mask=b(3, 3)),
    Sample(HEADS, f(1, 2, 3, 8), f(1, 2, 3, 8), scale=0.3, mask=f(1, 2, 3, 3), sinks=f(2)),
)
calls("mx.fast.cross_entropy", Sample(f(2, 4), index(1, 3)))
calls("mx.fast.gated_delta_update", Sample(f(1, 3, 2, 32), f(1, 3, 2, 32), f(1, 3, 2, 32), p(1, 3, 2), p(1, 3, 2)))
calls(
    "mx.fast.metal_kernel",
    Sample(
        "metal_kernel",
        "uint elem = thread_position_in_grid.x; out[elem] = 2 * inp[elem];",
        f(4),
        via=_kernel,
        refused=METAL_ONLY,
    ),
)
calls(
    "mx.fast.cuda_kernel",
    Sample(
        "cuda_kernel",
        "auto elem = cooperative_groups::this_grid().thread_rank(); out[elem] = 2 * inp[elem];",
        f(4),
        via=_kernel,
        refused=CUDA_ONLY,
    ),
)
calls(
    "mx.fast.precompiled_cuda_kernel",
    Sample(
        name="double_it",
        compiled_source=bytes(8),
        inputs=[f(4)],
        output_shapes=[(4,)],
        output_dtypes=[mx.float32],
        scalars=[],
        grid=(4, 1, 1),
        threadgroup=(4, 1, 1),
        refused=CUDA_ONLY,
    ),
)

calls("mx.linalg.cholesky mx.linalg.eigh mx.linalg.eigvalsh", Sample(definite(), stream=mx.cpu))
calls("mx.linalg.cholesky", Sample(definite(), upper=True, stream=mx.cpu))
calls("mx.linalg.cholesky_inv", Sample(mx.linalg.cholesky(definite(), stream=mx.cpu), stream=mx.cpu))
calls(
    "mx.linalg.inv mx.linalg.pinv mx.linalg.det mx.linalg.slogdet mx.linalg.eig mx.linalg.eigvals mx.linalg.lu "
    "mx.linalg.lu_factor mx.linalg.qr mx.linalg.svd",
    Sample(f(3, 3), stream=mx.cpu),
    Sample(f(2, 2, 2), stream=mx.cpu),
)
calls("mx.linalg.svd", Sample(f(2, 3), compute_uv=False, stream=mx.cpu))
calls("mx.linalg.solve", Sample(square, f(3), stream=mx.cpu), Sample(square, f(3, 2), stream=mx.cpu))
calls(
    "mx.linalg.solve_triangular",
    Sample(mx.tril(definite()), f(3, 2), stream=mx.cpu),
    Sample(mx.triu(definite()), f(3), upper=True, stream=mx.cpu),
)
calls(
    "mx.linalg.tri_inv",
    Sample(mx.tril(definite()), stream=mx.cpu),
    Sample(mx.triu(definite()), upper=True, stream=mx.cpu),
)
calls("mx.linalg.cross", Sample(f(2, 3), f(2, 3)), Sample(f(2, 2), f(2, 2)))
calls(
    "mx.linalg.norm mx.matrix_norm",
    Sample(x),
    Sample(x, axis=1),
    Sample(x, ord=1, axis=0, keepdims=True),
    Sample(x, ord="fro"),
    Sample(square, ord="nuc", stream=mx.cpu),
    Sample(x, ord=float("inf")),
)

calls("mx.fft.fft mx.fft.ifft", Sample(c(4)), Sample(f(2, 5), n=4, axis=0), Sample(f(4), norm="ortho"))
calls("mx.fft.fft2 mx.fft.ifft2 mx.fft.fftn mx.fft.ifftn", Sample(c(2, 4)), Sample(f(2, 3, 4), axes=(0, 2)))
calls("mx.fft.rfft", Sample(f(4)), Sample(f(2, 5), n=6))
calls("mx.fft.rfft2 mx.fft.rfftn", Sample(f(4, 4)), Sample(f(2, 3, 4), axes=(0, 2)))
calls("mx.fft.irfft", Sample(c(3)), Sample(c(2, 4), n=6))
calls("mx.fft.irfft2 mx.fft.irfftn", Sample(c(4, 3)))
calls("mx.fft.fftshift mx.fft.ifftshift", Sample(f(2, 5)), Sample(f(2, 5), axes=1))
calls("mx.fft.fftfreq mx.fft.rfftfreq", Sample(5), Sample(4, d=0.5))
calls("mx.fft.stft", Sample(f(16), n_fft=8), Sample(f(2, 16), n_fft=8, hop_length=4, window=p(8), pad_mode="edge"))
calls("mx.fft.istft", Sample(c(5, 5), n_fft=8, hop_length=2), Sample(c(5, 4), n_fft=8, window=p(8), length=12))

# -- where arrays come from ------------------------------------------------------------------------------------

calls(
    "array.__init__",
    *[
        Sample(data, *dtype, via=lambda *given: mx.array(*given))
        for data, *dtype in (
            (2.0,),
            ([[1, 2], [3, 4]], mx.float32),
            (np.arange(3.0, dtype=np.float32),),
            (x,),
            (x, mx.float16),
            ([f(3), f(3)],),
            ([[f(), 1.0], [f(), 2.0]],),
        )
    ],
)
calls("mx.asarray", Sample(x), Sample(x, mx.float16), Sample([1.0, 2.0]), Sample([f(), f()]), Sample(np.ones(2)))
calls("mx.from_dlpack", Sample(np.arange(3, dtype=np.float32)), Sample(f(3)))
calls("mx.zeros mx.ones mx.empty", Sample((2, 3)), Sample(3, mx.int32))
calls("mx.zeros_like mx.ones_like mx.empty_like", Sample(x), Sample(x, mx.int32))
calls("mx.full", Sample((2,), 3.0), Sample((2, 3), f(3)), Sample((2, 3), f(), mx.float16))
calls("mx.full_like", Sample(x, 1.5), Sample(x, f()))
calls("mx.arange", Sample(5), Sample(0, 1, 0.25), Sample(4, dtype=mx.float32))
calls("mx.linspace", Sample(0, 1, 5))
calls("mx.eye mx.tri", Sample(3), Sample(2, 3, 1))
calls("mx.identity mx.bartlett mx.blackman mx.hamming mx.hanning", Sample(4))
calls("mx.load", Sample(_npy), Sample(_safetensors))

_SHAPED = [Sample((2, 3)), Sample((2, 3), key=key()), Sample([2], mx.float16, key=key())]

calls("mx.random.key", Sample(3))
calls("mx.random.split", Sample(key()), Sample(key(), 3))
calls("mx.random.normal mx.random.gumbel mx.random.laplace", *_SHAPED)
calls("mx.random.normal", Sample((2, 3), loc=f(3), scale=p(3)), Sample((3,), mx.float32, 1.0, 2.0, key()))
calls("mx.random.uniform", Sample(), Sample(shape=(2, 3), key=key()), Sample(f(3), p(3) + 3, (2, 3)))
calls("mx.random.bernoulli", Sample(), Sample(p(3)), Sample(p(3), (2, 3), key()))
calls("mx.random.randint", Sample(0, 9, (2, 3)), Sample(index(0, 5), index(5, 9), (3, 2), key=key()))
calls("mx.random.truncated_normal", Sample(-1.0, 1.0, (3,)), Sample(f(3) - 3, p(3) + 3, key=key()))
calls("mx.random.categorical", Sample(f(2, 4)), Sample(f(2, 4), num_samples=3, key=key()))
calls("mx.random.permutation", Sample(5), Sample(f(4, 2)), Sample(f(2, 4), axis=1, key=key()))
calls(
    "mx.random.multivariate_normal",
    Sample(f(3), definite(), (2,), stream=mx.cpu),
    Sample(f(3), definite(), key=key(), stream=mx.cpu),
)

ALONE = Refusal("needs a second process", "singleton")

calls(
    "mx.distributed.all_sum mx.distributed.all_max mx.distributed.all_min mx.distributed.all_gather "
    "mx.distributed.sum_scatter",
    Sample(f(3)),
)
calls("mx.distributed.send", Sample(f(3), 0, refused=ALONE))
calls("mx.distributed.recv", Sample((3,), mx.float32, 0, refused=ALONE))
calls("mx.distributed.recv_like", Sample(f(3), 0, refused=ALONE))

# -- functions of functions ------------------------------------------------------------------------------------


def _loss(a: mx.array, b: mx.array) -> mx.array:
    return mx.sum(mx.sin(a) @ b)


def _layer(a: mx.array, b: mx.array) -> mx.array:
    return mx.tanh(a @ b) + a


def _transformed(transform: str, fun: Callable[..., Any], *options: Any) -> Callable[..., Any]:
    return lambda *arrays: getattr(mx, transform)(fun, *options)(*arrays)


def _custom(a: mx.array, b: mx.array) -> mx.array:
    @mx.custom_function
    def double(a: mx.array, b: mx.array) -> mx.array:
        return a * b

    @double.vjp
    def double_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> Any:
        return cotangent * primals[1] * 2, cotangent * primals[0] * 3

    return double(a, b)


calls("mx.grad", Sample(x, w, via=_transformed("grad", _loss)), Sample(x, w, via=_transformed("grad", _loss, (0, 1))))
calls("mx.value_and_grad", Sample(x, w, via=_transformed("value_and_grad", _loss, [0, 1])))
calls("mx.vjp", Sample([x, w], [f(2, 3)], via=lambda primals, given: mx.vjp(_layer, primals, given)))
calls("mx.jvp", Sample([x, w], [f(2, 3), f(3, 3)], via=lambda primals, given: mx.jvp(_layer, primals, given)))
calls("mx.vmap", Sample(f(4, 2, 3), w, via=_transformed("vmap", _layer, (0, None))))
calls(
    "mx.compile",
    Sample(x, w, via=_transformed("compile", _layer)),
    Sample(x, w, via=lambda a, b: [layer(layer(a, b), b) for layer in [mx.compile(_layer)]]),
)
# made before recording begins
calls(
    "mx._gc_func",
    Sample(x, via=nn.gelu),
    Sample(x, w, via=mx.compile(_layer)),
    Sample(x, w, via=mx.compile(_layer, shapeless=True)),
    Sample(x, w, via=mx.value_and_grad(_loss, (0, 1))),
    Sample(f(4, 2, 3), w, via=mx.vmap(_layer, (0, None))),
    Sample(x, w, via=mx.checkpoint(_layer)),
)
calls("mx.checkpoint", Sample(x, w, via=_transformed("checkpoint", _layer)))
calls("mx.custom_function", Sample(x, f(2, 3), via=_custom))
calls("mx.import_function", Sample(x, w, via=lambda a, b: mx.import_function(_mlxfn)(a, b)))
