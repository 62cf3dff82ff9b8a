"""The sound twin of frozen_layer.py. The same with the layer unfrozen again."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(5, 12)
        self.head = nn.Linear(12, 3)

    def __call__(self, x):
        return self.head(nn.gelu(self.encoder(x)))


mx.random.seed(0)
model = Net()
model.encoder.freeze()  # for the warm-up
model.encoder.unfreeze()
optimizer = optim.AdamW(learning_rate=1e-3)
x = mx.random.normal((24, 5))
y = mx.random.randint(0, 3, (24,))


def loss_fn(x, y):
    return nn.losses.cross_entropy(model(x), y, reduction="mean")


step = nn.value_and_grad(model, loss_fn)
for _ in range(2):
    loss, grads = step(x, y)
    optimizer.update(model, grads)
    mx.eval(model.parameters(), optimizer.state)
print("trained")
