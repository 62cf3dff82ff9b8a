"""One of two branches is passed through argmax, so nothing before it learns."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.branch = nn.Linear(6, 4)
        self.out = nn.Linear(4, 1)

    def __call__(self, x):
        scores = self.gate(x)
        chosen = mx.argmax(scores, axis=-1, keepdims=True) == mx.arange(4)
        mixed = mx.where(chosen, self.branch(x), 0.0)
        return self.out(mixed)


mx.random.seed(0)
model = Net()
optimizer = optim.SGD(learning_rate=0.05)
x = mx.random.normal((32, 6))
y = mx.random.normal((32, 1))


def loss_fn(x, y):
    return nn.losses.mse_loss(model(x), y)


step = nn.value_and_grad(model, loss_fn)
loss, grads = step(x, y)
optimizer.update(model, grads)
mx.eval(model.parameters())
print("trained")
