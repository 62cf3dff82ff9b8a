"""A training loop with much that a second run must find as the first did: Adam, dropout, batch norm, a counter."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm(8)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(8, 1)
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        h = nn.relu(self.norm(self.first(x)))
        return self.last(self.drop(h))


mx.random.seed(0)
model = Net()
optimizer = optim.Adam(learning_rate=0.05)
x = mx.random.normal((16, 4))
y = x.sum(axis=1, keepdims=True)


def loss_fn(model, x, y):
    return (model(x) - y).square().mean()


step = nn.value_and_grad(model, loss_fn)
for i in range(4):
    loss, grads = step(model, x, y)
    optimizer.update(model, grads)
    mx.eval(model.parameters(), optimizer.state)
    print(f"step {i}: loss {loss.item():.6f}, call {model.calls}")
