"""Attention with one head over four tokens, opened: who looks at whom."""

import math

import mlx.core as mx
import mlx.nn as nn


class Attention(nn.Module):
    """Four tokens of four numbers each; none looks at those after it."""

    def __init__(self):
        super().__init__()
        self.query = mx.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.0, 0.0]])
        self.key = mx.array([[2.0, 0.0], [0.0, 2.0], [1.0, -1.0], [0.0, 0.0]])
        self.value = mx.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 1.0]])

    def __call__(self, tokens):
        q = tokens @ self.query
        k = tokens @ self.key
        v = tokens @ self.value
        scores = q @ k.T / math.sqrt(q.shape[-1])
        ahead = mx.triu(mx.full((4, 4), -math.inf), k=1)
        masked = scores + ahead
        weights = mx.softmax(masked, axis=-1)
        return weights @ v


def loss_fn(model, tokens, wanted):
    mixed = model(tokens)
    return mx.mean(mx.square(mixed - wanted))


model = Attention()
tokens = mx.array([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
wanted = mx.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])

loss, grads = nn.value_and_grad(model, loss_fn)(model, tokens, wanted)
print("loss:", loss.item())
