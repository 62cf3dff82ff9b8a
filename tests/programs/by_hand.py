"""Softmax, layer norm, attention and cross-entropy, small enough to be worked out by hand."""

import mlx.core as mx
import mlx.nn as nn


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.out = nn.Linear(3, 3)
        self.out.weight = mx.array([[1.0, 0.0, -1.0], [0.5, 1.0, 0.0], [0.0, -0.5, 2.0]])
        self.out.bias = mx.array([0.0, 0.25, -0.25])

    def __call__(self, x):
        h = self.norm(x)
        q = k = v = h[None, None]
        seen = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5, mask="causal")
        return self.out(seen[0, 0])


def loss_fn(model, x, words):
    logits = model(x)
    return nn.losses.cross_entropy(logits, words, reduction="mean")


model = Reader()
x = mx.array([[1.0, 2.0, 3.0], [2.0, 0.0, 1.0]])
words = mx.array([0, 2])
loss, grads = nn.value_and_grad(model, loss_fn)(model, x, words)
mx.eval(loss, grads)
print(loss.item())


def shared(scores):
    shares = mx.softmax(scores, axis=-1)
    return (shares * mx.array([1.0, 0.0, 2.0])).sum()


print(mx.grad(shared)(mx.array([[1.0, 2.0, 0.5]])))
