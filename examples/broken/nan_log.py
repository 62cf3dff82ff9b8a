"""The logarithm of a probability that has become 0."""

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
    shares = mx.softmax(logits, axis=-1)
    right = mx.take_along_axis(shares, y[:, None], axis=-1)
    return -mx.mean(mx.log(right))


step = nn.value_and_grad(model, loss_fn)
loss, grads = step(x, y)
optimizer.update(model, grads)
mx.eval(model.parameters())
print("trained")
