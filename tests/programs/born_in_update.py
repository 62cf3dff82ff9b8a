"""A rule for updates that divides by zero where a gradient is zero: NaN in the second update."""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

mx.random.seed(1)
model = nn.Linear(3, 2)
step = nn.value_and_grad(model, lambda x: mx.mean(model(x) ** 2))


def rule(p, g):
    return p - 0.1 * g / mx.sqrt(g * g)


for number in range(3):
    x = mx.random.normal((4, 3))
    if number == 1:
        x[:, 1] = 0.0
    loss, grads = step(x)
    model.update(tree_map(rule, model.trainable_parameters(), grads))
    mx.eval(model.parameters())
