"""A program with a missing transpose."""

import mlx.core as mx


def f(x, w):
    h = mx.tanh(x)
    y = h @ w
    return y.sum()


x = mx.ones((2, 3))
w = mx.ones((4, 3))
print(mx.grad(f)(x, w))
