"""A straight line through four points, found by gradient descent."""

import mlx.core as mx
import mlx.nn as nn


class Line(nn.Module):
    """x -> weight * x + bias."""

    def __init__(self):
        super().__init__()
        self.weight = mx.array([1.0])
        self.bias = mx.array([0.5])

    def __call__(self, x):
        return self.weight * x + self.bias


def loss_fn(line, x, y):
    guess = line(x)
    error = guess - y
    squared = mx.square(error)
    return mx.mean(squared)


line = Line()
x = mx.array([0.0, 1.0, 2.0, 3.0])
y = mx.array([1.0, 3.0, 2.0, 5.0])

for _ in range(20):
    loss, grads = nn.value_and_grad(line, loss_fn)(line, x, y)
    for name in grads:
        line[name] = line[name] - 0.1 * grads[name]
