"""The loss is finite, the gradient is not: the slope of a square root at 0 is infinite, and where() does not help."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

mx.random.seed(2)
model = nn.Linear(4, 3)
optimizer = optim.SGD(learning_rate=0.01)
x = mx.random.normal((5, 4))
x[2] = 0


def loss_fn(x):
    squares = mx.sum(mx.square(x @ model.weight.T), axis=-1)
    length = mx.sqrt(squares)
    return mx.mean(mx.where(squares > 0, length, 0.0)) + mx.mean(mx.square(model(x)))


step = nn.value_and_grad(model, loss_fn)
loss, grads = step(x)
optimizer.update(model, grads)
mx.eval(model.parameters())
print("loss is finite:", bool(mx.isfinite(loss).item()))
