"""Regions: the elements of a tensor that count, followed through ops that only move numbers."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from nnrepl.explain.look import Look
from nnrepl.ops import Trait, has
from nnrepl.tape import Op, Value

Mask = mx.array
"""Which elements count: booleans in the shape of the tensor."""


def moves(op: Op) -> bool:
    """Whether an op only moves numbers: each element of its result is one of an operand's."""
    return has(op.name, Trait.ARRANGES, Trait.PICKS, Trait.JOINS, Trait.REPEATS, Trait.CONVERTS)


def backwards(look: Look, op: Op, value: Value, mask: Mask | None, inputs: Sequence[Value]) -> dict[Value, Mask]:
    """Which elements of some inputs the marked elements of a result are made of, for an op that is linear in them;
    {} if it cannot be told.

    Args:
        mask: The elements of `value`, an output of `op`, that are marked; None for all.
    """
    if not inputs:
        return {}
    if has(op.name, Trait.CONVERTS) and len(inputs) == 1 and inputs[0].shape == value.shape:
        return {inputs[0]: mx.ones(value.shape, dtype=mx.bool_) if mask is None else mask}  # `stop_gradient` has no vjp
    look.see(op.inputs)
    marked = mx.ones(value.shape) if mask is None else mask.astype(mx.float32)

    def run(*arrays: mx.array) -> mx.array:
        given = dict(zip(inputs, arrays))
        return op.compute(lambda taken: given.get(taken, taken.array))[value.slot]

    try:
        parts = mx.vjp(run, [taken.array for taken in inputs], [marked.astype(value.dtype)])[1]
    except (ValueError, RuntimeError, TypeError):
        return {}
    return {taken: part != 0 for taken, part in zip(inputs, parts)}


def is_zero_on(look: Look, value: Value, mask: Mask) -> bool:
    """Whether a tensor is 0 at all marked places."""
    return not look.numbers([mx.any((look.array(value) != 0) & mask)])[0]


def places(look: Look, mask: Mask | None) -> int:
    """How many elements are marked."""
    return 0 if mask is None else int(look.numbers([mx.sum(mask)])[0])


def counting(look: Look, mask: Mask | None) -> str:
    """Return how many places count: `the place that counts`."""
    count = places(look, mask)
    return "the place that counts" if count == 1 else f"the {count} places that count"
