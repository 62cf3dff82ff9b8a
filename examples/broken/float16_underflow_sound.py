"""The sound twin of float16_underflow.py. The same with the loss scaled up, and the gradients down again."""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

SCALE = 4096.0
mx.random.seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
model.set_dtype(mx.float16)
x = mx.random.normal((64, 8)).astype(mx.float16)
y = x * 0.9


def loss_fn(x, y):
    return mx.mean(mx.square(0.001 * (model(x) - y))) * SCALE


step = nn.value_and_grad(model, loss_fn)
loss, grads = step(x, y)
wide = tree_map(lambda g: g.astype(mx.float32) / SCALE, grads)
model.update(tree_map(lambda w, g: (w.astype(mx.float32) - 1e4 * g).astype(mx.float16), model.parameters(), wide))
mx.eval(model.parameters())
print("trained")
