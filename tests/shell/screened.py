"""Screened: the program that is seen on the screens in tests/shell/screens. They hold its line numbers."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from nnrepl import trace
from tests.support import OpenSession


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 1)
        for layer in (self.first, self.second):
            layer.weight = mx.arange(layer.weight.size).reshape(layer.weight.shape) / 10 - 1
            layer.bias = mx.zeros(layer.bias.shape)

    def __call__(self, x: mx.array) -> mx.array:
        hidden = mx.maximum(self.first(x), 0)
        scores = (self.second(hidden) + mx.sum(hidden, axis=1, keepdims=True)) * 0.5 + mx.mean(hidden) - mx.max(hidden)
        return scores


def made() -> OpenSession:
    net = Net()

    def loss_fn(x: mx.array) -> mx.array:
        error = net(x) - 1
        return mx.mean(mx.square(error))

    return OpenSession(trace(loss_fn, mx.arange(12).reshape(3, 4) / 4, wrt=net))
