"""A classifier that trains well for a while, and whose loss then becomes NaN."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

mx.random.seed(0)
x = mx.random.normal((32, 2))
label = (x[:, 0] + x[:, 1] > 0).astype(mx.float32)
model = nn.Linear(2, 1)
optimizer = optim.SGD(learning_rate=16.0)


def loss_fn(model, x, label):
    score = model(x)[:, 0]
    p = mx.sigmoid(score)
    is_one = label * mx.log(p)
    is_zero = (1 - label) * mx.log(1 - p)
    return -mx.mean(is_one + is_zero)


for _ in range(14):
    loss, grads = nn.value_and_grad(model, loss_fn)(model, x, label)
    optimizer.update(model, grads)
    print("loss:", loss.item())
