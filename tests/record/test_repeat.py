"""Compiled functions: what is repeated stands where it is called now."""

from __future__ import annotations

import ast

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.record.quiet import quietly
from nnrepl.record.renamed import operand_nodes
from tests.support import assert_same_bits


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


def test_what_is_cut_out_is_the_same_when_it_is_repeated() -> None:
    function = mx.compile(lambda x: x[1:4:2] * 2)
    trace = nnrepl.trace(lambda x: (function(x), function(x + 1)), mx.arange(5.0))
    taken = [op.args[1] for op in trace.ops if op.name == "getitem"]
    assert taken == [slice(1, 4, 2)] * 2


def test_what_mlx_traced_before_is_recorded_where_its_source_gives_the_same() -> None:
    """MLX traces a function a second time in its second call; then it runs no line of it any more."""
    counted, factor = [0], [2.0]

    def scaled(x: mx.array) -> mx.array:
        counted[0] += 1
        return mx.sin(x) * factor[0]

    function, x = mx.compile(scaled), mx.ones((2,))
    function(x), function(x)
    before = counted[0]
    assert [op.name for op in nnrepl.trace(lambda x: function(x).sum(), x).ops] == ["sin", "multiply", "sum"]
    assert counted[0] == before + 1  # it ran once more, recorded; what looking took is put back
    factor[0] = 3.0
    frozen = nnrepl.trace(lambda x: function(x).sum(), x)
    assert [op.name.split()[0] for op in frozen.ops] == ["compile", "sum"]
    assert_same_bits(frozen.value, mx.sum(mx.sin(x) * 2.0))


@pytest.mark.parametrize(
    ("written", "operands"),
    [
        ("2 < a", ["a", "2"]),  # called as `a > 2`
        ("a <= 2", ["a", "2"]),
        ("2 - a", ["a", "2"]),  # and this as `a.__rsub__(2)`
        ("a - 2", ["a", "2"]),
        ("a.to[0].add(b)", ["a.to[0]", "b"]),
        ("mx.add(a, b)", ["a", "b"]),
        ("a.add(b)", ["a", "b"]),
        ("a.at[0].add(b)", ["a", "b"]),
        ("a[0].add(b)", ["a[0]", "b"]),
        ("add(*both)", ["*both", None]),
        ("makers[0](b)", ["b", None]),
        ("a + b", ["a", "b"]),
        ("a[b]", ["a", None]),
        ("-a", ["a", None]),
    ],
)
def test_what_stands_in_the_source_for_the_operands_of_a_call(written: str, operands: list[str | None]) -> None:
    node = ast.parse(written, mode="eval").body
    made = nnrepl.trace(lambda a: eval(written) if "2" in written else a + a, mx.ones(1)).ops[0].operation
    found = [None if one is None else ast.unparse(one) for one in operand_nodes(node, made, 2)]
    assert found == operands


def test_who_draws_as_of_then_leaves_the_random_state_of_now() -> None:
    mx.random.seed(3)
    then = mx.array(mx.random.state[0])
    drawn, now = mx.random.normal((2,)), mx.array(mx.random.state[0])
    with quietly(then):
        again = mx.random.normal((2,))
    assert_same_bits(again, drawn)
    assert_same_bits(mx.random.state[0], now)
