"""The sound twin of dead_relu.py. The same with a bias that starts at zero."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.hidden.bias = mx.zeros((8,))
        self.out = nn.Linear(8, 1)

    def __call__(self, x):
        return self.out(nn.relu(self.hidden(x)))


mx.random.seed(0)
model = Net()
optimizer = optim.SGD(learning_rate=0.05)
x = mx.random.normal((32, 4))
y = mx.sum(x, axis=1, keepdims=True)


def loss_fn(x, y):
    return nn.losses.mse_loss(model(x), y)


step = nn.value_and_grad(model, loss_fn)
for _ in range(3):
    loss, grads = step(x, y)
    optimizer.update(model, grads)
    mx.eval(model.parameters(), optimizer.state)
print("trained")
