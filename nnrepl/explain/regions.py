"""Regions: the elements of a tensor that count, followed through ops that only move numbers."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from nnrepl.explain.look import Look
from nnrepl.ops import Trait, has
from nnrepl.session.births import filler, is_inexact
from nnrepl.tape import Op, Value

Mask = mx.array
"""Which elements count: booleans in the shape of the tensor."""


def moves(op: Op) -> bool:
    """Whether an op only moves numbers: each element of its result is one of an operand's."""
    return has(op.name, Trait.ARRANGES, Trait.PICKS, Trait.JOINS, Trait.REPEATS, Trait.CONVERTS)


def backwards(
    look: Look, op: Op, value: Value, mask: Mask | None, inputs: Sequence[Value], whatever: bool = False
) -> dict[Value, Mask]:
    """Which elements of some inputs the marked elements of a result are made of, for an op that is linear in them;
    {} if it cannot be told.

    Args:
        mask: The elements of `value`, an output of `op`, that are marked; None for all.
        whatever: Ask which have a share in them whatever the other inputs hold: for sums of products.
    """
    if not inputs:
        return {}
    if has(op.name, Trait.CONVERTS) and len(inputs) == 1 and inputs[0].shape == value.shape:
        return {inputs[0]: mx.ones(value.shape, dtype=mx.bool_) if mask is None else mask}  # `stop_gradient` has no vjp
    look.see(op.inputs)
    marked = mx.ones(value.shape) if mask is None else mask.astype(mx.float32)

    def run(*arrays: mx.array) -> mx.array:
        given = dict(zip(inputs, arrays))

        def array(taken: Value) -> mx.array:
            if taken in given:
                return given[taken]
            return filler(taken) if whatever and is_inexact(taken) else taken.array

        made = op.compute(array)
        return made[value.slot if value.slot < len(made) else 0]

    try:
        parts = mx.vjp(run, [taken.array for taken in inputs], [marked.astype(value.dtype)])[1]
    except (ValueError, RuntimeError, TypeError):
        return {}
    return {taken: part != 0 for taken, part in zip(inputs, parts)}


def reduced(op: Op, mask: Mask, shape: tuple[int, ...]) -> Mask | None:
    """Which elements of the result of an op that reduces marked elements of its operand go into; None where that cannot
    be told."""
    known = {name: value for name, value in op.kwargs.items() if name in ("axis", "keepdims")}
    try:
        found = mx.any(mask, *op.args[1:3], **known)
    except (ValueError, TypeError):
        return None
    return found if found.shape == shape else None


def within(mask: Mask | None, array: mx.array) -> mx.array:
    """Return a tensor with 0 (or False) where it does not count."""
    return array if mask is None else mx.where(mask, array, mx.zeros_like(array))


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
