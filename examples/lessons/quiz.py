"""A small network whose numbers are drawn anew each time: the questions about it never have the same answers twice.

One of its two hidden units is alive for both examples, the other for none. `quiz.py 7` draws those of seed 7.
"""

import random
import sys

import mlx.core as mx
import mlx.nn as nn

if sys.argv[1:] and sys.argv[1].isdigit():
    random.seed(int(sys.argv[1]))


def draw(rows, columns):
    return [[random.choice((-2, -1, 1, 2)) for _ in range(columns)] for _ in range(rows)]


def product(a, b):
    return [[sum(left * right for left, right in zip(row, column)) for column in zip(*b)] for row in a]


def drawn():
    """Inputs, weights and wanted answers of which one can do the arithmetic in the head."""
    while True:
        x, weights1, bias1 = draw(2, 2), draw(2, 2), draw(1, 2)
        weights2, bias2, wanted = draw(2, 1), draw(1, 1), draw(2, 1)
        z = [[a + b for a, b in zip(row, bias1[0])] for row in product(x, weights1)]
        answers = [row[0] * weights2[0][0] + bias2[0][0] for row in z]
        errors = [answer - want[0] for answer, want in zip(answers, wanted)]
        is_alive = all(row[0] > 0 > row[1] for row in z)
        if is_alive and z[0][0] != z[1][0] and errors[0] != errors[1] and all(0 < abs(error) < 6 for error in errors):
            return x, weights1, bias1[0], weights2, bias2[0], wanted


class Net(nn.Module):
    """x -> ReLU(x @ weights1 + bias1) @ weights2 + bias2."""

    def __init__(self, weights1, bias1, weights2, bias2):
        super().__init__()
        self.weights1 = mx.array(weights1, dtype=mx.float32)
        self.bias1 = mx.array(bias1, dtype=mx.float32)
        self.weights2 = mx.array(weights2, dtype=mx.float32)
        self.bias2 = mx.array(bias2, dtype=mx.float32)

    def __call__(self, x):
        z = x @ self.weights1 + self.bias1
        a = mx.maximum(z, 0)
        return a @ self.weights2 + self.bias2


def loss_fn(net, x, wanted):
    answer = net(x)
    error = answer - wanted
    return mx.mean(mx.square(error))


x, *weights, wanted = drawn()
net = Net(*weights)
x, wanted = mx.array(x, dtype=mx.float32), mx.array(wanted, dtype=mx.float32)

learning_rate = 0.1
loss, grads = nn.value_and_grad(net, loss_fn)(net, x, wanted)
for name in grads:
    net[name] = net[name] - learning_rate * grads[name]
