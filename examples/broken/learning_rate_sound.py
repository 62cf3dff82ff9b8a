"""The sound twin of learning_rate.py. The same with an ordinary one."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

mx.random.seed(0)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = optim.Adam(learning_rate=0.005)
x = mx.random.normal((32, 4))
y = mx.sum(x, axis=1, keepdims=True)


def loss_fn(x, y):
    return nn.losses.mse_loss(model(x), y)


step = nn.value_and_grad(model, loss_fn)
for _ in range(2):
    loss, grads = step(x, y)
    optimizer.update(model, grads)
    mx.eval(model.parameters(), optimizer.state)
print("trained")
