"""Who takes a value: asked of a long tape once, or again and again."""

from __future__ import annotations

import mlx.core as mx

import nnrepl


def test_consumers_are_the_same_before_all_are_known() -> None:
    def long(x: mx.array) -> mx.array:
        y = x * 2
        for _ in range(5000):
            y = y + x
        return y * y + x

    trace = nnrepl.trace(long, mx.ones((2,)))
    tape = trace.ops[0].tape
    values = [trace.ops[0].inputs[0], *(trace.ops[at].outputs[0] for at in (0, 1, 2500, len(trace.ops) - 2))]
    scanned = [tape.consumers(value) for value in values]
    for op in trace.ops[3:20]:
        tape.consumers(op.outputs[0])
    assert tape._consumers_known == len(tape), "now all are known"
    assert [tape.consumers(value) for value in values] == scanned
    assert len(scanned[0]) == 5002
