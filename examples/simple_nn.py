"""A network of two layers whose every hidden unit is dead.

The network is the smallest that shows backpropagation: two inputs, three hidden units with ReLU, one
output, a squared error. With this seed every hidden unit receives a negative number, so ReLU passes
nothing on, and no gradient but that of the last bias is different from zero. Nothing complains: the
program runs, and does not learn. In nnrepl,

    why grad(weights1) == 0

tells what happened.
"""

import mlx.core as mx
import mlx.nn as nn


class SimpleNN(nn.Module):
    """x -> ReLU(x @ weights1 + bias1) @ weights2 + bias2."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int):
        super().__init__()
        self.weights1 = mx.random.uniform(-1, 1, (input_dim, hidden_dim))
        self.bias1 = mx.zeros((hidden_dim,))
        self.weights2 = mx.random.uniform(-1, 1, (hidden_dim, output_dim))
        self.bias2 = mx.zeros((output_dim,))

    def __call__(self, x):
        z1 = mx.matmul(x, self.weights1) + self.bias1
        a1 = mx.maximum(z1, 0)
        z2 = mx.matmul(a1, self.weights2) + self.bias2
        return z2


def mse_loss(y_pred, y_true):
    return mx.mean(mx.square(y_pred - y_true))


mx.random.seed(38)
model = SimpleNN(input_dim=2, hidden_dim=3, output_dim=1)

x = mx.array([[1.0, 2.0]])
y_true = mx.array([[3.0]])


def loss_fn(x, y_true):
    return mse_loss(model(x), y_true)


loss, grads = nn.value_and_grad(model, loss_fn)(x, y_true)

learning_rate = 0.1
model.update({name: model[name] - learning_rate * grads[name] for name in grads})

print("loss before:", loss.item())
print("loss after: ", loss_fn(x, y_true).item())
for name, gradient in grads.items():
    print(f"gradient of {name}:", gradient.tolist())
