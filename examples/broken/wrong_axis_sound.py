"""The sound twin of wrong_axis.py. The same over the classes."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

mx.random.seed(0)
model = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Linear(16, 4))
optimizer = optim.Adam(learning_rate=1e-3)
x = mx.random.normal((24, 5))
y = mx.random.randint(0, 4, (24,))


def loss_fn(x, y):
    shares = mx.softmax(model(x), axis=-1)
    right = mx.take_along_axis(shares, y[:, None], axis=-1)
    return -mx.mean(mx.log(right))


step = nn.value_and_grad(model, loss_fn)
loss, grads = step(x, y)
optimizer.update(model, grads)
mx.eval(model.parameters(), optimizer.state)
print("trained")
