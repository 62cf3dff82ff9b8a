"""The update goes along the gradient instead of against it."""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

mx.random.seed(0)
model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
x = mx.random.normal((32, 4))
y = mx.sum(x, axis=1, keepdims=True)


def loss_fn(x, y):
    return nn.losses.mse_loss(model(x), y)


step = nn.value_and_grad(model, loss_fn)
for _ in range(2):
    loss, grads = step(x, y)
    model.update(tree_map(lambda w, g: w + 0.05 * g, model.parameters(), grads))
    mx.eval(model.parameters())
print("trained")
