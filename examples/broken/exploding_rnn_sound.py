"""The sound twin of exploding_rnn.py. The same with a matrix of ordinary size."""

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


class RNN(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.inward = nn.Linear(3, width)
        self.again = mx.random.normal((width, width)) * 0.1
        self.out = nn.Linear(width, 1)

    def __call__(self, x):
        h = mx.zeros((x.shape[0], self.again.shape[0]))
        for t in range(x.shape[1]):
            h = self.inward(x[:, t]) + h @ self.again
        return self.out(h)


mx.random.seed(0)
model = RNN()
optimizer = optim.SGD(learning_rate=1e-3)
x = mx.random.normal((8, 30, 3))
y = mx.random.normal((8, 1))


def loss_fn(x, y):
    return nn.losses.mse_loss(model(x), y)


step = nn.value_and_grad(model, loss_fn)
loss, grads = step(x, y)
optimizer.update(model, grads)
mx.eval(model.parameters())
print("trained")
