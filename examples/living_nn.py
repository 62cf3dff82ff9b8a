"""A network of two layers that learns, with numbers small enough to follow by hand.

The same network as `simple_nn.py`: two inputs, three hidden units with ReLU, one output, a squared error. Here two of
the three hidden units are alive: gradients flow, and each step of gradient descent makes the loss smaller. In nnrepl,

    learn 1

is a lesson on it.
"""

import mlx.core as mx
import mlx.nn as nn


class SimpleNN(nn.Module):
    """x -> ReLU(x @ weights1 + bias1) @ weights2 + bias2."""

    def __init__(self):
        super().__init__()
        self.weights1 = mx.array([[0.5, -1.0, 0.25], [0.25, -0.5, 0.5]])
        self.bias1 = mx.array([0.5, 0.5, -0.25])
        self.weights2 = mx.array([[1.0], [1.0], [-0.5]])
        self.bias2 = mx.array([0.25])

    def __call__(self, x):
        z1 = mx.matmul(x, self.weights1) + self.bias1
        a1 = mx.maximum(z1, 0)
        z2 = mx.matmul(a1, self.weights2) + self.bias2
        return z2


def mse_loss(y_pred, y_true):
    return mx.mean(mx.square(y_pred - y_true))


model = SimpleNN()

x = mx.array([[1.0, 2.0]])
y_true = mx.array([[3.0]])


def loss_fn(x, y_true):
    return mse_loss(model(x), y_true)


learning_rate = 0.02
for _ in range(6):
    loss, grads = nn.value_and_grad(model, loss_fn)(x, y_true)
    print("loss:", loss.item())
    for name in grads:
        model[name] = model[name] - learning_rate * grads[name]
