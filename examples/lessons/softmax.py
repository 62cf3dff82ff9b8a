"""Two small pictures, three classes: softmax and cross-entropy, one op at a time."""

import mlx.core as mx
import mlx.nn as nn


class Classifier(nn.Module):
    """x -> a score for each of three classes."""

    def __init__(self):
        super().__init__()
        self.weight = mx.array([[1.0, 0.5, -0.5], [0.5, 0.0, 1.0]])
        self.bias = mx.array([0.0, 0.5, -0.5])

    def __call__(self, x):
        return x @ self.weight + self.bias


def loss_fn(model, x, label):
    scores = model(x)
    p = mx.softmax(scores, axis=-1)
    picked = mx.take_along_axis(p, label[:, None], axis=-1)
    surprise = -mx.log(picked)
    return mx.mean(surprise)


model = Classifier()
x = mx.array([[1.0, 2.0], [2.0, -1.0]])
label = mx.array([0, 1])

for _ in range(10):
    loss, grads = nn.value_and_grad(model, loss_fn)(model, x, label)
    for name in grads:
        model[name] = model[name] - 0.5 * grads[name]
