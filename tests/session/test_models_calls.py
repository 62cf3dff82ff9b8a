"""Variables of modules' calls, by the path from the variable that holds the model: never another model's."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.session.errors import UserError
from tests.support import OpenSession


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, 3)

    def __call__(self, x: mx.array) -> mx.array:
        h = self.first(x)
        return mx.tanh(h)


def test_two_models_with_the_same_path_are_told_apart() -> None:
    maker, judge = Net(2), Net(3)

    def loss(z: mx.array) -> mx.array:
        made = maker(z)
        return judge(made).sum()

    session = OpenSession(nnrepl.trace(loss, mx.array([[0.5, -1.5]]), wrt=0))
    session.goto("backward")
    made = mx.addmm(maker.first.bias, mx.array([[0.5, -1.5]]), maker.first.weight.T)
    seen = mx.addmm(judge.first.bias, mx.tanh(made), judge.first.weight.T)
    for name, array in (("maker", made), ("judge", seen)):
        assert session.lookup.by_words(f"{name}.first.x", session.cursor).array.tolist() == array.tolist()
    with pytest.raises(UserError, match=r"first.x is a variable of several models: maker.first.x, judge.first.x"):
        session.lookup.by_words("first.x", session.cursor)
