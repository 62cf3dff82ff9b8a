"""What one look at each op tells: no name on a tape is ruled out by it, and an unknown one takes no index."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.record.glance import Glance


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1)]
        self.scale = mx.array(2.0)

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = layer(x)
        return x * self.scale


def with_adam() -> nnrepl.Trace:
    net, opt = Net(), optim.Adam(1e-3)
    step = nn.value_and_grad(net, lambda x: mx.mean(mx.square(net(x))))

    def train(count: int) -> mx.array:
        for number in range(count):
            loss, grads = step(mx.ones((2, 2)) * number)
            opt.update(net, grads)
        return loss

    return nnrepl.trace(train, 2)


def with_dicts() -> nnrepl.Trace:
    params = {"w1": mx.ones((2, 2)), "inner": {"b": mx.zeros(2)}}

    def fn(params: dict[str, mx.array], *, shift: mx.array) -> mx.array:
        h = params["w1"] @ mx.ones(2) + params["inner"]["b"]  # type: ignore[index]
        total, more = mx.split(h + shift, 2)
        kept = {"z": total * 2, "list": [more, more + 1]}
        return (kept["z"] + kept["list"][1]).sum()

    return nnrepl.trace(fn, params, shift=mx.array(1.0), wrt=0)


@pytest.mark.parametrize("program", [with_adam, with_dicts])
def test_no_name_on_the_tape_is_ruled_out(program: object) -> None:
    trace = program()  # type: ignore[operator]
    glance = Glance(trace.tape)
    known = trace.names.known()
    assert len(known) > 5
    assert [name for name in known if not glance.may_be(name)] == []
    assert not glance.may_be("nope")


def test_an_unknown_name_takes_no_index() -> None:
    trace = with_adam()
    assert trace.names.versions("nope") == []
    assert not trace.names.indexed
    assert trace.names.versions("scale")
    assert trace.names.indexed


def test_a_leaf_is_found_by_its_array() -> None:
    trace = with_dicts()
    glance = Glance(trace.tape)
    leaves = {value for op in trace.tape.ops for value in op.inputs if value.op is None and value.held is not None}
    assert leaves
    assert all(glance.leaf_of(leaf.held) is leaf for leaf in leaves)
    assert glance.leaf_of(mx.ones(2)) is None
    trace.tape.notes.leaves.clear()  # which has the latest leaf of each array, of whatever timeline
    assert all(glance.leaf_of(leaf.held) is leaf for leaf in leaves)


def test_a_leaf_is_found_without_a_look_at_all_ops() -> None:
    def many(w: mx.array) -> mx.array:
        for _ in range(100):
            w = mx.tanh(w) + shift
        return w.sum()

    shift = mx.ones(3)
    trace = nnrepl.trace(many, mx.ones(3), wrt=0)
    glance = Glance(trace.tape)
    found = glance.leaf_of(shift)
    assert found is not None
    assert found.held is shift
    (leaf,) = trace.tape.passes[-1].wrt
    assert glance.leaf_of(leaf.held) is leaf
    assert glance._seen == 0
