"""Programs that several tests of explanations ask about."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

import nnrepl
from nnrepl.tape import Tape

X = mx.sin(mx.arange(12.0)).reshape(4, 3) + 0.1
Change = Callable[[mx.array], mx.array]


class Branched(nn.Module):
    """A layer, and something that is done to what it gives, beside the way on which it learns anyway."""

    def __init__(self, branch: Change) -> None:
        super().__init__()
        mx.random.seed(3)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.branch = branch

    def __call__(self, x: mx.array) -> mx.array:
        x = mx.sin(self.first(x))
        return self.second(x + self.branch(x * 2))


def four_steps(loss: Callable[[mx.array, int], mx.array]) -> Tape:
    """Record four steps by hand of a loss that knows which one it is in."""
    w = mx.array([1.0, -2.0, 0.5])
    with nnrepl.recording() as tape:
        for turn in range(4):
            value, grad = mx.value_and_grad(loss)(w, turn)
            w = w - 0.01 * grad
            mx.eval(value, w)
    return tape
