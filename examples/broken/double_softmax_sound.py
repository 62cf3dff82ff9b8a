"""The sound twin of double_softmax.py. The same with a model that gives logits."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

mx.random.seed(0)
model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 4))
optimizer = optim.Adam(learning_rate=1e-3)
x = mx.random.normal((24, 5))
y = mx.random.randint(0, 4, (24,))


def loss_fn(x, y):
    return nn.losses.cross_entropy(model(x), y, reduction="mean")


step = nn.value_and_grad(model, loss_fn)
loss, grads = step(x, y)
optimizer.update(model, grads)
mx.eval(model.parameters(), optimizer.state)
print("trained")
