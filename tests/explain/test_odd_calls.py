"""Calls at which a wrong formula would show, and that the samples of MLX's functions do not make, against MLX.

Found by breaking every function of `nnrepl/ops` at each operator, name and number, and looking at what nobody noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.explain.explained import explain
from nnrepl.ops import ENTRIES
from nnrepl.ops.quantized import unpack
from tests.explain.test_table import check, recorded
from tests.support import OpenSession

X = mx.sin(mx.arange(24.0)).reshape(2, 3, 4)
FLAGS = mx.array([[0, 2, 0], [0, -1, 0], [3, 1, 0]])

CALLS: dict[str, tuple[Callable[..., Any], tuple[mx.array, ...]]] = {
    "layer_norm": (lambda x, w, b: mx.fast.layer_norm(x, w, b, 0.5), (X, X[0, 0], X[0, 1])),
    "rms_norm": (lambda x, w: mx.fast.rms_norm(x, w, 0.5), (X, X[0, 0])),
    "any": (lambda a: mx.any(a, axis=0), (FLAGS,)),
    "all": (lambda a: mx.all(a, axis=1), (FLAGS,)),
    "all of none": (lambda a: mx.all(a), (FLAGS * 0 + 1,)),
    "divide by 0": (lambda a: a / 0, (X,)),
    "floor_divide by 0": (lambda a: a // 0, (X,)),
    "sum of flags": (lambda a: mx.sum(a > 0, axis=0, keepdims=True), (FLAGS,)),
    "sum of whole numbers": (lambda a: mx.sum(a, axis=0), (FLAGS,)),
    "transpose": (lambda a: mx.transpose(a), (X,)),
    "transpose by a list": (lambda a: mx.transpose(a, [1, 2, 0]), (X,)),
    "transpose by numbers": (lambda a: a.transpose(2, 0, 1), (X,)),
    "rope": (lambda x: mx.fast.rope(x, 2, traditional=True, base=50.0, scale=0.5, offset=3), (X,)),
    "arange": (lambda: mx.arange(3, 11, 2), ()),
    "arange of fractions": (lambda: mx.arange(1.5, -2.0, -0.5), ()),
    "hadamard": (lambda a: mx.hadamard_transform(a), (mx.sin(mx.arange(48.0)).reshape(2, 24),)),
    "hadamard of 20": (lambda a: mx.hadamard_transform(a, scale=0.5), (mx.cos(mx.arange(40.0)).reshape(1, 40),)),
    "put_along_axis": (
        lambda a, v: mx.put_along_axis(a, mx.array([[[1, 3]], [[2, 0]]]), v, axis=-1), (X, X[:, :1, :2] * 3),
    ),
    "put_along_axis flat": (lambda a, v: mx.put_along_axis(a, mx.array([5, 0, 23]), v, axis=None), (X, X[0, 0, :3])),
    "setitem": (lambda a, v: _set(a, v), (X, X[0, :2] * 2)),
    "conv_transpose": (
        lambda x, w: mx.conv_transpose1d(x, w, stride=2, padding=1, dilation=2, output_padding=1),
        (X, mx.cos(mx.arange(60.0)).reshape(5, 3, 4)),
    ),
    "conv_transpose cropped": (
        lambda x, w: mx.conv_transpose1d(x, w, stride=2, padding=2),
        (mx.sin(mx.arange(40.0)).reshape(1, 10, 4), mx.cos(mx.arange(24.0)).reshape(3, 2, 4)),
    ),
    "conv_general cropped": (
        lambda x, w: mx.conv_general(x, w, padding=([-1], [2]), flip=True),
        (mx.sin(mx.arange(80.0)).reshape(2, 10, 4), mx.cos(mx.arange(60.0)).reshape(5, 3, 4)),
    ),
    "conv_general apart": (
        lambda x, w: mx.conv_general(x, w, padding=([1], [-2]), kernel_dilation=2, input_dilation=3, stride=2),
        (mx.sin(mx.arange(80.0)).reshape(2, 10, 4), mx.cos(mx.arange(60.0)).reshape(5, 3, 4)),
    ),
    "cumsum flat": (lambda a: mx.cumsum(a), (X,)),
    "cumsum backwards": (lambda a: mx.cumsum(a, axis=1, reverse=True, inclusive=False), (X,)),
    "cummax from the end": (lambda a: mx.cummax(a, axis=-1, reverse=True), (X,)),
    "var over two axes": (lambda a: mx.var(a, axis=(0, 2), ddof=1), (X,)),
    "std": (lambda a: mx.std(a, axis=1, ddof=2, keepdims=True), (X,)),
}  # fmt: skip


def _set(a: mx.array, value: mx.array) -> mx.array:
    a = a * 1
    a[1, ::2] = value
    return a


@pytest.mark.parametrize("name", CALLS)
def test_a_formula_is_what_mlx_computes_at_an_odd_call(name: str) -> None:
    function, arrays = CALLS[name]
    mx.random.seed(5)
    assert any([check(op) for op in recorded(function, *arrays)])  # every op of the call is held against its formula


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_packed_numbers_are_unpacked_as_mlx_does(bits: int) -> None:
    """Quantized numbers lie across the borders of words where 32 is no multiple of their bits."""
    words, scales, biases = mx.quantize(mx.random.normal((4, 64)), group_size=32, bits=bits)
    whole = mx.dequantize(words, mx.ones_like(scales), mx.zeros_like(biases), group_size=32, bits=bits)
    assert mx.array_equal(unpack(words, bits).astype(mx.float32)[..., :64], whole).item()


def _sloped(name: str, run: Callable[[mx.array], mx.array], a: mx.array, *others: Any) -> None:
    """Hold a slope that MLX has no VJP for against differences."""
    y = run(a)
    g, step = mx.cos(mx.arange(float(y.size))).reshape(y.shape), mx.sin(mx.arange(float(a.size)) + 1).reshape(a.shape)
    ahead, behind = run(a + 1e-3 * step), run(a - 1e-3 * step)
    wanted = mx.sum(g * (ahead - behind)) / 2e-3
    found = mx.sum(ENTRIES[name].slopes["a"].run(g, y, a, *others) * step)
    assert mx.allclose(found, wanted, 2e-3, 1e-3).item(), (found, wanted)


def test_gradients_that_mlx_has_not_are_right() -> None:
    a = mx.array([[3.0, 1.0, 0.5], [0.2, -2.0, 0.3], [1.0, 0.4, 4.0]])
    b, column = mx.array([[1.0, 2.0], [0.5, -1.0], [2.0, 0.3]]), mx.array([1.0, -2.0, 0.5])
    cpu = mx.cpu
    _sloped("linalg.det", lambda a: mx.linalg.det(a, stream=cpu), a)
    _sloped("linalg.inv", lambda a: mx.linalg.inv(a, stream=cpu), a)
    _sloped("linalg.solve", lambda a: mx.linalg.solve(a, b, stream=cpu), a, b)
    _sloped("linalg.solve", lambda a: mx.linalg.solve(a, column, stream=cpu), a, column)


def _lines(function: Callable[..., mx.array], *arrays: mx.array, ask: str) -> list[str]:
    return explain(OpenSession(nnrepl.trace(function, *arrays, wrt=0)), ask).lines


def test_a_number_that_mlx_has_rounded_on_the_way_is_not_set_equal() -> None:
    mx.random.seed(3)
    q, k = (mx.random.normal((1, 2, 4, 8)).astype(mx.bfloat16) for _ in range(2))

    def attention(q: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(q, k, k * 2, scale=0.5, mask="causal").sum()

    lines = _lines(attention, q, ask="grad(q) at [0, 1, 3, 5]")
    assert lines[-2:] == ["= 0.5 · (−0.9018)", "≈ −0.4531"]
    assert _lines(attention, q.astype(mx.float32), ask="grad(q) at [0, 1, 3, 5]")[-1].startswith("= ")


def test_what_is_divided_by_a_zero_with_a_sign_has_that_sign() -> None:
    x = mx.array([-0.0, 0.0])
    for at, end in ((0, ["= 1 / (−0)", "= −∞"]), (1, ["= 1 / 0", "= ∞"])):
        assert _lines(lambda x: mx.sum(1 / x), x, ask=f"#1 at [{at}]")[-2:] == end
        assert _lines(lambda x: mx.sum(mx.log(x)), x, ask=f"grad(x) at [{at}]")[-2:] == end
