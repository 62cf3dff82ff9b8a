"""Odd programs: arithmetic, shapes, reductions, linear algebra, and the fused operations."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from tests.corpus.programs import differentiated


@differentiated((4, 3), (3, 5))
def basic(x, w):
    return mx.sum(mx.tanh(x @ w) ** 2)


@differentiated((4, 3), (4, 3))
def many_uses(x, y):
    a = x * y
    b = a + x
    c = mx.exp(b) * x
    d = c / (1 + mx.abs(x))
    return (d * a * b).mean() + (x * x * x).sum()


@differentiated((4, 3), (3,))
def broadcast_interleaved(x, b):
    y = mx.maximum(b, x * b)
    z = y * b + mx.minimum(b, y)
    return (z * x + b).sum()


@differentiated((4, 3))
def calls_that_do_nothing(x):
    y = x.reshape(4, 3)
    z = y.astype(mx.float32)
    w = mx.broadcast_to(z, (4, 3))
    return (x * y + z * w * x + mx.sin(y)).sum()


@differentiated((4, 3))
def same_array_twice(x):
    return (x * x + mx.matmul(x, x.T).sum() + mx.where(x > 0, x, x) + mx.maximum(x, x)).sum()


@differentiated((4, 3))
def iterated(x):
    total = 0
    for row in x:
        total = total + mx.sin(row) * x[0]
    return total.sum()


@differentiated((12, 3))
def iterated_and_unpacked(x):
    total = 0
    for number, row in enumerate(x):
        total = total + mx.sin(row) * (number + 1)
    a, b, *_ = x
    return total.sum() + (a * b).sum()


@differentiated((4, 3), (4, 3))
def iterated_in_step(x, y):
    return sum((a * b).sum() for a, b in zip(x, y)) + mx.stack(list(reversed(list(x))))[0].sum()


@differentiated((3,), (3,))
def constructed_from_arrays(x, y):
    m = mx.array([x, y])
    k = mx.array([[x[0], y[1]], [x[2], y[2] * 2]])
    z = mx.array(x)
    return (m * m).sum() + mx.exp(k).sum() + (z * x).sum()


@differentiated((3,))
def constructed_with_dtype(x):
    half = mx.array(x, dtype=mx.float16)
    whole = mx.array([x[0], 2.0, x[2] * 3], dtype=mx.float32)
    return (whole * x).sum() + half.astype(mx.float32).sum()


@differentiated((4, 6))
def splits(x):
    a, b = mx.split(x, 2, axis=1)
    c, _, e = mx.split(b, 3, axis=1)
    rows = mx.unstack(x, axis=0)
    return (a * b).sum() + (c * e).sum() + (rows[0] * rows[2]).sum()


@differentiated((4, 6))
def split_half_unused(x):
    a, _ = mx.split(x, 2, axis=1)
    return (a * x[:, :3]).sum()


@differentiated((4, 7))
def split_at_indices(x):
    a, b, c = mx.split(x, [2, 5], axis=-1)
    d, e = x.split(2, axis=0)
    return (a * c).sum() + mx.tanh(b).sum() + (d * e * d).sum()


@differentiated((4,), (3,))
def meshgrid(x, y):
    a, b = mx.meshgrid(x, y)
    return (a * b + mx.sin(a)).sum()


@differentiated((4, 1), (1, 3))
def broadcast_arrays(x, y):
    a, b = mx.broadcast_arrays(x, y)
    return (a * b * a).sum()


@differentiated((4, 3))
def reductions(x):
    first = x.var() + x.std() + mx.logsumexp(x) + x.max() + x.min() + x.prod()
    return first + mx.linalg.norm(x) + mx.median(x)


@differentiated((2, 3, 4))
def reductions_over_axes(x):
    a = x.sum(axis=(0, 2)) * x.mean(axis=[0, 2]) + x.max(axis=(0, 2)) - x.min(axis=(-1, 0))
    b = x.var(axis=1, keepdims=True, ddof=1) + x.std(axis=-1, keepdims=True).sum(axis=1, keepdims=True)
    return a.sum() + (b * x).sum() + x.prod(axis=1).sum() + mx.logsumexp(x, axis=(0, 1)).sum()


@differentiated((3, 4))
def ties_in_reductions(x):
    flat = mx.round(x)
    doubled = mx.concatenate([x, x], axis=1)
    return doubled.max(axis=1).sum() + doubled.min() + flat.max() * x.sum() + mx.maximum(x, mx.array(x)).sum()


@differentiated((4, 3))
def softmaxes(x):
    return (mx.softmax(x, axis=-1) * mx.softmax(x, axis=0) * x).sum() + mx.softmax(x, axis=-1, precise=True)[0, 0]


@differentiated((2, 4, 6), (6,), (6,))
def norms(x, w, b):
    y = mx.fast.layer_norm(x, w, b, 1e-5)
    z = mx.fast.rms_norm(x + y, w, 1e-5)
    return (y * z * x).sum()


@differentiated((2, 4, 6))
def norms_without_weights(x):
    y = mx.fast.layer_norm(x, None, None, 1e-5)
    z = mx.fast.rms_norm(x, None, 1e-5)
    return (y * z * x + mx.fast.rms_norm(y, mx.ones((6,)), 1e-5)).sum()


@differentiated((4, 3), (3,))
def norm_with_its_own_input_as_weight(x, w):
    y = x * w
    v = mx.var(x, axis=0)
    z = y * v + x
    u = mx.fast.rms_norm(x, mx.mean(x * w, axis=0), 1e-5)
    return (z * u * x).sum() + x.sum()


@differentiated((1, 2, 4, 8))
def rope(x):
    a = mx.fast.rope(x, 8, traditional=False, base=10000.0, scale=1.0, offset=2)
    b = mx.fast.rope(x, 8, traditional=True, base=1000.0, scale=1.0, offset=0)
    return (a * b * x).sum()


@differentiated((2, 2, 4, 8))
def rope_with_offsets_and_frequencies(x):
    a = mx.fast.rope(x, 4, traditional=False, base=100.0, scale=0.5, offset=mx.array([1, 3]))
    b = mx.fast.rope(x, 8, traditional=False, base=None, scale=1.0, offset=0, freqs=mx.array([1.0, 2.0, 4.0, 8.0]))
    return (a * b).sum()


@differentiated((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8))
def attention(q, k, v):
    out = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.35, mask="causal")
    return (out * q).sum()


@differentiated((1, 4, 4, 8))
def attention_to_itself(x):
    q = x * 2
    k = mx.tanh(x)
    mask = mx.triu(mx.full((4, 4), -1e9), 1)
    out = mx.fast.scaled_dot_product_attention(q, k[:, :2], x[:, 2:], scale=0.35, mask=mask)
    return (out * x).sum()


@differentiated((1, 2, 4, 8), (4, 4), (2,))
def attention_with_learned_mask_and_sinks(x, mask, sinks):
    y = mx.fast.scaled_dot_product_attention(x, x, x, scale=0.35, mask=mask)
    z = mx.fast.scaled_dot_product_attention(x, y, x, scale=0.35, mask=mask > 0, sinks=sinks)
    return (y * z).sum()


@differentiated((2, 8, 3), (5, 3, 3))
def conv_1d(x, w):
    return (mx.conv1d(x, w, padding=1) ** 2).sum() + x.sum()


@differentiated((2, 8, 8, 3), (4, 3, 3, 3))
def conv_2d(x, w):
    return mx.tanh(mx.conv2d(x, w, stride=2, padding=1)).sum()


@differentiated((2, 4, 4, 3), (5, 3, 3, 3))
def conv_transposed(x, w):
    return (mx.conv_transpose2d(x, w, stride=2) ** 2).mean()


@differentiated((1, 6, 6, 4), (4, 3, 3, 2), (4, 3, 3, 3, 4))
def conv_groups_dilation_and_depth(x, w, deep):
    a = mx.conv2d(x, w, groups=2, dilation=2)
    b = mx.conv_general(x[:, None] * mx.ones((1, 3, 1, 1, 1)), deep, padding=1, stride=(1, 2, 2), flip=True)
    return (a * a).sum() + mx.tanh(b).mean() + mx.convolve(x[0, 0, :, 0], w[0, 0, :, 0]).sum()


@differentiated((4, 3), (3,))
def addmm(x, c):
    w = x.T * 2
    y = mx.addmm(x @ x.T, x, w, alpha=0.5, beta=2.0)
    z = mx.addmm(c, x.T @ x, x.T @ x)
    return y.sum() + (z * c).sum()


@differentiated((4, 3), (3, 4))
def einsum(x, w):
    a = mx.einsum("ij,jk->ik", x, w).sum() + mx.einsum("ij,ji->", x, w)
    return a + (mx.inner(x, x) * mx.outer(x[:, 0], w[0])).sum() + mx.tensordot(x, w, 1).mean()


@differentiated((2, 3, 4), (2, 4, 5))
def matmuls_of_many_ranks(x, w):
    a = x @ w
    b = x[0] @ w
    c = x[0, 0] @ w[0]
    d = w[0, :, 0] @ x[0, 0]
    return (a * b).sum() + (c * c).sum() + d + (x[0] @ w[0, :, 1]).sum()


@differentiated((2, 3, 4))
def segmented_and_masked_matmul(x):
    a = mx.gather_mm(x, x.swapaxes(1, 2), mx.array([0, 1, 1]), mx.array([1, 1, 0]))
    mask = mx.array([[True, False], [True, True]])
    b = mx.block_masked_mm(mx.tile(x[0], (22, 16)), mx.tile(x[0].T, (16, 22)), 64, mask_out=mask)
    return (a * a).sum() + (b * b).mean()


@differentiated((4, 3))
def sorting(x):
    s = mx.sort(x, axis=0)
    order = mx.stop_gradient(mx.argsort(x, axis=0))
    t = mx.take_along_axis(x, order, axis=0)
    k = mx.topk(x, 2, axis=-1)
    return (s * t).sum() + k.sum() + mx.partition(x, 1, axis=0).sum()


@differentiated((4, 3))
def cumulative(x):
    a = (mx.cumsum(x, axis=0) * mx.cumprod(x, axis=1)).sum() + mx.cummax(x, axis=0).sum()
    b = mx.cumsum(x, axis=1, reverse=True, inclusive=False) * mx.cummin(x, axis=1, reverse=True)
    return a + mx.logcumsumexp(x, axis=0).sum() + b.sum()


@differentiated((10, 4))
def embedding(w):
    tokens = mx.array([[1, 2], [3, 1]])
    return (w[tokens] * mx.take(w, tokens, axis=0) * w[0]).sum()


@differentiated((4, 5, 6))
def indexing_of_every_sort(x):
    a = x[1] * x[-1] + x[..., 2][0, :, None] + x[0, 1, 2]
    b = x[:, 1:4:2, ::-1].sum() + x[None, 0, ..., None].mean() + x[mx.array(1)].sum()
    c = x[mx.array([0, 3]), mx.array([1, 2])].sum() + x[:, mx.array([[0, 1], [1, 1]]), 2].sum()
    d = x[1, mx.array([0, 1, 1]), ::3].sum() + x[..., mx.stop_gradient(x[0, 0].argmax())].sum() + x[3:1:-1, None].mean()
    return a.sum() + b + c + d + x.flatten()[5:100:7].sum()


@differentiated((4, 6))
def takes(x):
    a = mx.take(x, mx.array([0, 0, 3]), axis=0) * mx.take(x, 2, axis=1)[None, :1]
    b = mx.take(x, mx.array([1, 5, 7])) + mx.take_along_axis(x, mx.array([[1, 2, 1]]), axis=1)[0]
    return (a.sum(axis=1) * b).sum()


@differentiated((4, 3))
def where_and_clip(x):
    y = mx.where(x > 0, x * 2, mx.where(x < -1, x * x, x))
    return y.sum() + mx.clip(x, -0.5, 0.5).sum() + mx.abs(x).sum() + mx.clip(x, None, x * 0.5).sum()


@differentiated((4, 3))
def gradients_stopped(x):
    y = mx.stop_gradient(x * 2) * x
    z = mx.stop_gradient(x)
    return (y * z).sum()


@differentiated((4, 3))
def gradients_stopped_everywhere(x):
    centered = x - mx.stop_gradient(x.mean())
    quantized = centered + mx.stop_gradient(mx.round(centered) - centered)
    twice = mx.stop_gradient(mx.stop_gradient(quantized)) * quantized
    scale = mx.stop_gradient(mx.abs(x).max())
    return (twice / scale).sum() + mx.stop_gradient(x.sum()) * 0 + mx.softmax(x - mx.stop_gradient(x.max())).max()


@differentiated((4, 3), (4, 3))
def disconnected(x, y):
    return (x * x).sum()


@differentiated((4, 3), (4, 3))
def disconnected_by_stop_gradient(x, y):
    return (x * mx.stop_gradient(y)).sum()


@differentiated((4, 3), (4, 3))
def disconnected_by_rounding_and_comparing(x, y):
    return (mx.floor(x) + (y > x) + mx.sign(y) * 2 + mx.argmax(y, axis=-1, keepdims=True)).sum()


@differentiated((4, 3))
def constant_loss(x):
    return mx.array(3.0) + mx.ones((2,)).sum()


@differentiated((3, 3))
def linalg(x):
    a = x @ x.T + 3 * mx.eye(3)
    with mx.stream(mx.cpu):
        inverse = mx.linalg.inv(mx.stop_gradient(a))
        return (inverse @ a).sum() + mx.linalg.norm(a) + mx.linalg.cross(x, x[::-1]).sum()


@differentiated((3, 3))
def linalg_norms(x):
    norms = mx.linalg.norm(x, ord=1) * mx.linalg.norm(x, ord="fro") + mx.linalg.norm(x, ord=float("inf"))
    return norms + mx.linalg.norm(x, axis=1).sum() + mx.linalg.norm(x, ord=3, axis=0, keepdims=True).sum()


@differentiated((3, 3))
def linalg_factorizations_on_a_stream(x):
    a = mx.stop_gradient(x @ x.T + 3 * mx.eye(3))
    with mx.stream(mx.cpu):
        root = mx.linalg.cholesky(a)
    values, vectors = mx.linalg.eigh(a, stream=mx.cpu)
    q, r = mx.linalg.qr(a, stream=mx.cpu)
    u, s, v = mx.linalg.svd(a, stream=mx.cpu)
    return (x @ root @ vectors @ q @ u @ v).sum() + (x * values * s).sum() + (r * x).sum()


@differentiated((3, 3))
def linalg_without_a_gradient(x):
    return mx.linalg.inv(x @ x.T + mx.eye(3), stream=mx.cpu).sum()


@differentiated((3, 4))
def indices_without_a_gradient(x):
    return mx.take_along_axis(x, mx.argsort(x, axis=0), axis=0).sum()


@differentiated((8,))
def fourier(x):
    f = mx.fft.rfft(x)
    g = mx.fft.irfft(f * f)
    return mx.abs(f).sum() + (g * x).sum()


@differentiated((4, 6))
def fourier_in_two_dimensions(x):
    f = mx.fft.fft2(x)
    g = mx.fft.ifftn(mx.fft.fftshift(f), axes=(0, 1))
    return mx.real(g * mx.conj(f)).sum() + mx.abs(mx.fft.rfft2(x)).mean()


@differentiated((5, 4, 3))
def shapes(x):
    y = x.transpose(2, 0, 1).swapaxes(0, 1).moveaxis(0, 2)
    y = mx.expand_dims(y, 0).squeeze(0)
    z = y.flatten()[::2]
    r = mx.repeat(x, 2, axis=0)[::3]
    p = mx.pad(x, ((1, 1), (0, 0), (2, 0)))
    total = (z * z).sum() + (r * r).sum() + mx.tile(x, (1, 2, 1)).sum() + (p * p).sum()
    total = total + mx.roll(x, 1, axis=0)[0].sum() + mx.flip(x, 0).sum() + x.mT.sum() + mx.diagonal(x).sum()
    return total + (mx.as_strided(x, (3, 3), (1, 2)) ** 2).sum()


@differentiated((2, 3, 4))
def more_shapes(x):
    a = mx.unflatten(mx.flatten(x, 0, 1), 0, (3, 2)) * x.reshape(3, 2, -1)
    b = mx.atleast_3d(x[0, 0])[0].T * mx.broadcast_to(x[0, :1, :1], (1, 4))
    c = mx.pad(x, 1, mode="edge")[:, 1:-1] * mx.pad(x, [(1, 1), (0, 0), (1, 1)], constant_values=2.0)
    return (a * a).sum() + b.sum() + (c * c).sum() + mx.contiguous(x.T).sum()


@differentiated((4, 4))
def matrices(x):
    return mx.tril(x).sum() + mx.triu(x * x, 1).sum() + mx.diag(x).sum() + mx.trace(x @ x) + mx.kron(x, x).mean()


@differentiated((4, 3))
def concatenated(x):
    a = mx.concatenate([x, x * 2, mx.sin(x)], axis=1)
    b = mx.stack([x, x, x], axis=1).reshape(4, 9)
    return (a * b).sum() + mx.concatenate([x]).sum()


@differentiated((6, 2))
def concatenated_by_the_hundred(x):
    parts = [x * number for number in range(150)]
    grid = mx.stack([mx.concatenate(parts[at::3], axis=0) for at in range(3)])
    rows = mx.concatenate([row[None] for row in grid[0]] * 2)
    return mx.tanh(grid * 0.01).sum() + (rows * rows).mean()


@differentiated((4, 3))
def functions_of_one_number(x):
    a = mx.abs(x) + 0.1
    first = mx.log(a) + mx.log2(a) + mx.log10(a) + mx.log1p(a) + mx.sqrt(a) + mx.rsqrt(a) + mx.reciprocal(a)
    second = mx.expm1(a) + mx.erf(a) + mx.sigmoid(a) + mx.logaddexp(a, x) + mx.arctan2(a, x) + mx.power(a, x)
    third = mx.square(a) + mx.arcsinh(a) + mx.cosh(a) + mx.tan(x) + mx.arctan(x) + mx.sinh(x) + mx.arccosh(a + 1)
    fourth = mx.arcsin(mx.tanh(x)) + mx.arccos(mx.tanh(x)) + mx.arctanh(mx.tanh(x)) + mx.erfinv(mx.tanh(x))
    return (first + second + third + fourth + mx.degrees(x) * mx.radians(x) + mx.remainder(x, a)).sum()


@differentiated((4, 3))
def arithmetic_with_python_numbers(x):
    y = 2 * x + 1 - x / 3 + (1 / (2 + mx.abs(x))) ** 2 - (-x) % 2 + x // 1
    return (
        y.sum() + (3 - x).sum() + (2**x).sum() + (7 // (x * x + 1)).sum() + (5 % (x * x + 1)).sum() + (+1.5 - -x).sum()
    )


@differentiated((3, 4, 8))
def activations_in_a_row(x):
    for activation in (nn.gelu, nn.silu, nn.softplus, nn.mish, nn.selu, nn.hardswish, nn.log_softmax):
        x = activation(x) + x
    return x.mean()


@differentiated((4, 3))
def various(x):
    rows = mx.atleast_2d(x[0], x[1])
    quotient, rest = mx.divmod(x, 2.0)
    return sum((a * a).sum() for a in rows) + rest.sum() + quotient.sum() + mx.nan_to_num(x).sum()


@differentiated((64, 64))
def quantized_matmul(x):
    w, scales, biases = mx.quantize(mx.random.normal((64, 64)), group_size=32, bits=4)
    y = mx.quantized_matmul(x, w, scales, biases, transpose=True, group_size=32, bits=4)
    back = mx.dequantize(w, scales, biases, group_size=32, bits=4)
    return (y * y).sum() * 1e-3 + (back * x).mean()


@differentiated((4, 3))
def gathered_matmul(x):
    w = mx.ones((2, 3, 5))
    which = mx.array([0, 1, 0, 1])
    return mx.gather_mm(x[:, None, :], w, rhs_indices=which).sum() + x.sum()


@differentiated((4, 3))
def loss_is_an_alias(x):
    return x.sum().reshape(())


@differentiated(())
def loss_is_the_argument(x):
    return x


@differentiated((4, 3))
def branches_that_meet(x):
    a = x[0]
    b = x[1]
    c = a * b
    d = mx.concatenate([a, b, c])
    e, f, g = mx.split(d, 3)
    return (e * f + g * a * b * c).sum()


@differentiated((4, 3))
def deep_chain(x):
    y = x
    for _ in range(300):
        y = mx.sin(y) + x * 0.01
    return y.sum()


@differentiated((3,))
def wide_fan(x):
    leaves = [mx.sin(x * number) for number in range(200)]
    while len(leaves) > 1:
        leaves = [a * 0.5 + b for a, b in zip(leaves[::2], leaves[1::2])] + ([leaves[-1]] if len(leaves) % 2 else [])
    return (leaves[0] * x).sum()
