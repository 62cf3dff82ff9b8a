"""A small network learns one wave of the sine, with Adam."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


class Net(nn.Module):
    """x -> Linear -> tanh -> Linear."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(1, 8)
        self.last = nn.Linear(8, 1)

    def __call__(self, x):
        hidden = mx.tanh(self.first(x))
        return self.last(hidden)


def loss_fn(model, x, y):
    return mx.mean(mx.square(model(x) - y))


mx.random.seed(3)
model = Net()
optimizer = optim.Adam(learning_rate=0.02, bias_correction=True)
x = mx.linspace(-3.0, 3.0, 24)[:, None]
y = mx.sin(x)
loss_and_grad = nn.value_and_grad(model, loss_fn)

for _ in range(60):
    loss, grads = loss_and_grad(model, x, y)
    optimizer.update(model, grads)
    mx.eval(model, optimizer.state)

print("loss:", loss.item())
