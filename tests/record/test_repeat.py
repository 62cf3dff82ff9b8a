"""Compiled functions: what is repeated stands where it is called now."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

import nnrepl


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def __call__(self, x: mx.array) -> mx.array:
        return nn.gelu(self.linear(x))


def test_an_activation_belongs_to_the_module_that_calls_it() -> None:
    model = nn.Sequential(Block(), Block())
    trace = nnrepl.trace(lambda x: model(x), mx.ones((1, 2)))
    assert [op.module for op in trace.ops if op.name == "erf"] == ["layers.0", "layers.1"]


def test_calls_on_two_lines_stand_on_two_lines() -> None:
    function = mx.compile(lambda x: mx.sin(x))

    def twice(x: mx.array) -> mx.array:
        a = function(x)
        b = function(a)
        return b

    trace = nnrepl.trace(twice, mx.ones((2,)))
    first, second = (op.scope for op in trace.ops)
    assert first is not None
    assert second is not None
    assert first.parent is second.parent
    assert first.lasti < second.lasti
    assert [op.outputs[0].name for op in trace.ops] == ["a", "b"]
