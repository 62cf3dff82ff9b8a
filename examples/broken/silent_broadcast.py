"""(N, 1) predictions minus (N,) targets: every row is compared with every other one."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

mx.random.seed(0)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = optim.Adam(learning_rate=1e-3)
x = mx.random.normal((32, 4))
y = mx.sin(mx.sum(x, axis=1))


def loss_fn(x, y):
    predicted = model(x)
    return mx.mean(mx.square(predicted - y))


step = nn.value_and_grad(model, loss_fn)
for _ in range(2):
    loss, grads = step(x, y)
    optimizer.update(model, grads)
    mx.eval(model.parameters(), optimizer.state)
print("trained")
