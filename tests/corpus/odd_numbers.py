"""Odd programs: dtypes, NaN and infinities, empty and zero-dimensional arrays, broadcasting, random numbers."""

from __future__ import annotations

import math

import mlx.core as mx

from tests.corpus.programs import called, differentiated


@differentiated((4, 3), (3,))
def mixed_precision(x, b):
    h = x.astype(mx.float16)
    g = h * b.astype(mx.float16)
    return (g.astype(mx.float32) * x + b).sum()


@differentiated((4, 3), (3,), dtype=mx.float16)
def float16(x, b):
    y = mx.softmax(x * b, axis=-1) + mx.tanh(x) * 0.5
    return (y * x).sum() + mx.logsumexp(y).astype(mx.float16)


@differentiated((4, 8), (8,), dtype=mx.bfloat16)
def bfloat16(x, w):
    y = mx.fast.rms_norm(x, w, 1e-5) + mx.fast.layer_norm(x, w, None, 1e-5)
    z = (y @ x.T).astype(mx.float32)
    return (z * z).mean().astype(mx.bfloat16) + y.sum()


@differentiated((4, 3))
def many_dtypes_in_one_expression(x):
    half, brain = x.astype(mx.float16), x.astype(mx.bfloat16)
    a = half + brain
    b = half * mx.array([1, 2, 3], dtype=mx.int8) + brain * mx.array(True)
    c = x * mx.arange(3, dtype=mx.uint16) - half + 1
    return (a.astype(mx.float32) * b).sum() + c.sum() + (half * 2.5).sum() + mx.matmul(half, brain.T).mean()


@differentiated((4, 3))
def loss_in_half_precision(x):
    return (x * x).astype(mx.float16).sum()


@differentiated((4, 3))
def casts_back_and_forth(x):
    y = x
    for dtype in (mx.float16, mx.float32, mx.bfloat16, mx.float32, mx.float16):
        y = y.astype(dtype) * 1.01 + y.astype(dtype)
    whole = (x * 10).astype(mx.int32)
    return (y * y).sum().astype(mx.float32) + (whole * x).sum() + mx.view(x, mx.int32).shape[0]


@differentiated((4, 3))
def complex_numbers(x):
    z = x + 1j * mx.sin(x)
    w = z * mx.conj(z) * mx.exp(z)
    return mx.real(w).sum() + mx.imag(w).sum() + mx.abs(z).sum()


@differentiated((4, 4))
def complex_matrices(x):
    z = x.astype(mx.complex64) * (1 + 2j) + 1j
    w = z @ z.T + mx.conj(z) / (z + 5)
    return mx.abs(w).sum() + w.real.mean() + w.imag[0, 0] + mx.real(mx.sum(z, axis=0) - mx.mean(z)).sum()


@differentiated((4, 3))
def integers(x):
    best = mx.argmax(x, axis=-1)
    one_hot = (mx.arange(3)[None] == best[:, None]).astype(mx.float32)
    return (one_hot * x).sum() + mx.floor(x).sum() + mx.sign(x).sum() + mx.isnan(x).sum()


@differentiated((4, 3))
def integer_paths(x):
    order = mx.stop_gradient(mx.argsort(mx.argsort(x, axis=0), axis=0))
    counts = mx.zeros((4,), dtype=mx.int32)
    for row in order.tolist():
        for rank in row:
            counts[rank] += 1
    bits = mx.bitwise_and(order, 1) | mx.left_shift(mx.array(1), order) ^ 3
    return (x * order).sum() + (counts * x[:, 0]).sum() + (bits % 4 * x).sum() + (order // 2 * x).sum()


@called()
def integers_only():
    a = mx.arange(12, dtype=mx.int32).reshape(3, 4)
    b = a.astype(mx.uint8) * 30
    results = [
        a // 5,
        a % 5,
        -a,
        a - 6,
        b + b,
        mx.bitwise_invert(a),
        a << 2,
        a >> 1,
        a & 3,
        a | 8,
        a ^ a.T[:3, :3].sum(),
    ]
    results += [a.max(), a.sum(), a.prod(), a.mean(), a.argmin(), mx.cumsum(a), mx.sort(-a), a.astype(mx.int64) * 2**40]
    results += [mx.array(2**31 - 1) + 1, mx.array([1, 2], mx.uint32) - 2, a == b, mx.logical_not(a), ~(a > 3), a.any()]
    return [*results, mx.view(a, mx.uint8).sum(), mx.power(a, 2), mx.divmod(a, 5), mx.abs(a - 5), mx.square(a)]


@differentiated((4, 3))
def nan_everywhere(x):
    return mx.sqrt(x * 0).sum() + (x / (x - x)).sum() + mx.log(x - x).sum()


@differentiated((4, 3))
def nan_and_infinity_in_the_data(x):
    holes = mx.where(mx.arange(3) == 1, mx.nan, x)
    ends = mx.where(mx.arange(3) == 2, -mx.inf, x * mx.inf)
    a = mx.softmax(mx.where(mx.arange(3) == 0, x, -mx.inf), axis=-1) * x
    b = mx.nan_to_num(holes, nan=1.0) * mx.nan_to_num(ends, posinf=2.0, neginf=-2.0)
    c = mx.where(mx.isnan(holes), 0.0, holes * x) + mx.maximum(holes, x) + mx.minimum(holes, x)
    return a.sum() + b.sum() + c.sum() + mx.logsumexp(ends) * 0 + holes.max() + mx.isfinite(ends).sum()


@differentiated((4, 3))
def where_with_a_nan_in_the_branch_not_taken(x):
    return mx.where(x > 0, mx.sqrt(x), x).sum() + mx.where(x > 0, mx.log(mx.where(x > 0, x, 1.0)), 0.0).sum()


@differentiated((3,))
def signed_zeros_and_tiny_numbers(x):
    zero = x * 0.0
    y = -zero * x + mx.abs(zero) + mx.sign(zero) + 1e-45 * x + x * 1e-38 * 1e-5
    return (y / (x + 1e-30)).sum() + mx.arctan2(zero, -zero).sum() + mx.power(mx.abs(zero), x * 0 + 1).sum()


@differentiated((3,))
def overflow(x):
    y = mx.exp(x * 100)
    z = (x * 1e30) * 1e30
    return mx.tanh(z).sum() + (y / (1 + y)).sum() + mx.logaddexp(x * 1000, -x * 1000).sum()


@differentiated((0, 3), (4, 3))
def empty_arrays(e, x):
    a = mx.concatenate([e, x, e], axis=0)
    b = (e * 2).sum() + e.sum(axis=0) @ x[0] + (e @ x.T).sum()
    return (a * x).sum() + b + x[:0].sum() + x[2:2, :].sum() + mx.zeros((0,)).sum()


@differentiated((4, 0))
def empty_inner_dimension(x):
    y = x @ mx.zeros((0, 5))
    return y.sum() + mx.tanh(x).sum() + x.reshape(0, 2).sum() + mx.ones((4, 5)).sum()


@differentiated((), (), (3,))
def zero_dimensional(a, b, x):
    y = a * b + a
    z = mx.array(2.0) * y - mx.array([b, a]).sum()
    c = mx.stack([a, b, z])
    return (c * x).sum() + a.reshape(1)[0] + x[0] * a + b.item() + mx.broadcast_to(a, (2, 2)).sum() + (a > b) * a


@differentiated((1,), (1, 1), (1, 1, 1))
def size_one_in_many_ranks(a, b, c):
    y = a + b * c - b / a
    return y.squeeze() + (a * c).sum() + (b @ b).squeeze() + mx.squeeze(c, 0)[0, 0] + a.item() * c.reshape(())


@differentiated((4, 1, 3), (5, 1), (3,), ())
def broadcasting_of_every_sort(x, y, z, s):
    a = x * y + z - s
    b = mx.maximum(x, y) / (1 + mx.abs(z)) ** s
    c = mx.where(y > 0, x, s) + mx.logaddexp(z, y[None]) * mx.broadcast_to(s, (4, 1, 1))
    d = mx.broadcast_to(z, (2, 5, 3)) * mx.broadcast_to(y, (5, 3)) + mx.expand_dims(x, (0, -1)).squeeze((0, -1))[0]
    return (a * b + c).sum() + (d * d).mean() + mx.arctan2(x, y).sum() + mx.remainder(x, y).sum()


@differentiated((3,))
def expanded_and_reduced(x):
    wide = mx.broadcast_to(x, (100, 100, 3))
    wide = wide * 2 + x
    return wide.mean() + (mx.repeat(x, 1000) * mx.tile(x, 1000)).sum() / 1000


@differentiated((4, 3))
def random_numbers(x):
    noisy = x * mx.random.bernoulli(0.5, x.shape) + mx.random.normal(x.shape) * x
    loc = mx.random.normal((4, 3), loc=x, scale=mx.abs(x))
    between = mx.random.uniform(low=x - 1, high=x + 1, shape=(4, 3)) * x
    return noisy.sum() + loc.sum() + between.sum() + mx.random.gumbel((4, 3)).sum() * x.sum()


@differentiated((4, 3))
def random_numbers_of_every_distribution(x):
    a = mx.random.truncated_normal(-1.0, 1.0, x.shape) + mx.random.laplace(x.shape) + mx.random.randint(0, 9, x.shape)
    b = mx.random.categorical(x, num_samples=2).sum() + mx.random.categorical(x, axis=0).sum()
    c = mx.random.permutation(x)[0] + mx.random.permutation(3)
    d = mx.random.multivariate_normal(mx.zeros((2,)), mx.eye(2), (3,), stream=mx.cpu)[:, 0]
    return (a * x).sum() + b * x[0, 0] + (c * d).sum() + (mx.random.bernoulli(mx.sigmoid(x)) * x).sum()


@differentiated((4, 3))
def random_keys(x):
    key = mx.random.key(5)
    first, second = mx.random.split(key)
    more = mx.random.split(second, 3)
    a = mx.random.normal(x.shape, key=first) * x + mx.random.uniform(shape=x.shape, key=more[0])
    return a.sum() + sum((mx.random.bernoulli(0.3, (3,), key=k) * x[0]).sum() for k in more)


@differentiated((4, 3))
def random_seed_inside(x):
    before = mx.random.normal((3,))
    mx.random.seed(11)
    a = mx.random.normal((3,))
    mx.random.seed(11)
    b = mx.random.normal((3,))
    state = mx.random.state[0]
    return (x * before).sum() + ((a - b) * x).sum() + state.size * x.mean() + mx.random.uniform() * x[0, 0]


@differentiated((100,))
def reparametrized_sampling(x):
    mean, log_scale = mx.split(x, 2)
    z = mean + mx.exp(0.5 * log_scale) * mx.random.normal((8, 50))
    penalty = -0.5 * (1 + log_scale - mean**2 - mx.exp(log_scale)).sum()
    soft = mx.softmax((x[:10] + mx.random.gumbel((10,))) / 0.5)
    return (z**2).mean() + penalty + (soft * mx.arange(10)).sum()


@called()
def constructors():
    x = mx.array([[1, 2.5], [3, 4]])
    made = [
        mx.array(3),
        mx.array(True),
        mx.array(2 + 1j),
        mx.array([]),
        mx.array([[], []]),
        mx.array((1, 2)),
        mx.array(x),
    ]
    made += [mx.zeros_like(x), mx.ones_like(x), mx.full((2, 2), x[0])]
    made += [
        mx.arange(1, 2, 0.25),
        mx.linspace(0, 1, 5),
        mx.eye(2, 3, k=1),
        mx.identity(2),
        mx.tri(3),
        mx.array(math.pi),
    ]
    made += [mx.zeros(3), mx.ones((2,), mx.float16), mx.array([x[0], x[1]]), mx.array([[x, x], [x, x]]), mx.hanning(4)]
    return [*made, mx.array([1, 2.0, 3]), mx.array(x, dtype=mx.int32), mx.hamming(4)]


@called((4, 3))
def comparisons_and_logic(x):
    y = x[::-1]
    made = [x == y, x != y, x < y, x <= 0, x > y, x >= 0, mx.logical_and(x > 0, y > 0), mx.logical_or(x > 0, y > 0)]
    made += [(x > 0) & (y > 0), (x > 0) | (y > 0), ~(x > 0), mx.isclose(x, y), mx.allclose(x, x), mx.array_equal(x, y)]
    return [
        *made,
        mx.isinf(x),
        mx.isposinf(x),
        mx.isneginf(x),
        mx.isfinite(x),
        x.all(),
        x.any(axis=0),
        mx.all(x > 9, axis=1),
    ]
