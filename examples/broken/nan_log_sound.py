"""The sound twin of nan_log.py. The same loss computed from the logits."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

mx.random.seed(1)
model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
optimizer = optim.SGD(learning_rate=1e-3)
x = mx.random.normal((6, 3)) * 500
y = mx.array([0, 1, 2, 3, 0, 1])


def loss_fn(x, y):
    logits = model(x)
    surprise = mx.logsumexp(logits, axis=-1, keepdims=True) - logits
    return mx.mean(mx.take_along_axis(surprise, y[:, None], axis=-1)) / 500


step = nn.value_and_grad(model, loss_fn)
loss, grads = step(x, y)
optimizer.update(model, grads)
mx.eval(model.parameters())
print("trained")
