"""Projected: the number whose gradient is the one that is checked, as a function of one tensor in a dtype of choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from nnrepl import ops
from nnrepl.explain.differences import Scalar
from nnrepl.record.custom import Composite
from nnrepl.tape import Op, Pass, Value


def projected(
    forward: Op, of: Value, outputs: Sequence[int], cotangents: Sequence[mx.array], composite: Composite | None = None
) -> Callable[[mx.Dtype], Scalar]:
    """What the gradient is the gradient of: the op's result, weighed with the gradients that came in."""

    def at(dtype: mx.Dtype) -> Scalar:
        def run(array: mx.array) -> mx.array:
            def lookup(value: Value) -> mx.array:
                return array if value.canonical is of.canonical else widened(value.array, dtype)

            results = forward.compute(lookup) if composite is None else composite.native(forward, lookup)
            return weighed([(results[slot], given) for slot, given in zip(outputs, cotangents)], dtype)

        return run

    return at


def weighed(pairs: Sequence[tuple[mx.array, mx.array]], dtype: mx.Dtype) -> mx.array:
    total = mx.array(0.0, dtype)
    for result, given in pairs:
        total = total + mx.sum(widened(result, dtype) * widened(given, dtype))
    return total


def widened(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """A float tensor in another float dtype; other tensors as they are."""
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array


def coarsest(values: Sequence[Value]) -> mx.Dtype:
    """The dtype with the fewest digits among some tensors."""
    kinds = {value.dtype for value in values}
    return next((kind for kind in (mx.bfloat16, mx.float16, mx.float32) if kind in kinds), mx.float64)


class Recomputed:
    """The loss as a function of one leaf: the recorded forward ops on another tensor.

    What no gradient passes is held fixed, as the gradient sees it: the results of `stop_gradient`, of comparisons, of
    steps. Otherwise a difference would see what the gradient is told not to see.
    """

    def __init__(self, part: Pass, leaf: Value) -> None:
        self.part, self.leaf = part, leaf
        reached = {leaf.canonical}
        self.needed: list[Op] = []
        self.fixed: list[Op] = []
        self.custom: list[Op] = []
        for op in part.tape.ops[part.start : part.backward]:
            if op.error is not None or not any(value.canonical in reached for value in op.inputs):
                continue
            if _is_fixed(op):
                if op.name == "stop_gradient":
                    self.fixed.append(op)
                continue
            self.needed.append(op)
            reached.update(value.canonical for value in op.outputs)
            if op.operation.kind == "custom":
                self.custom.append(op)
        self.taken = [value for op in self.needed for value in op.inputs if value.canonical not in reached]
        self.coarse = coarsest([leaf, *(value for op in self.needed for value in op.outputs)])

    def at(self, dtype: mx.Dtype) -> Scalar:
        """The loss in a dtype."""

        def run(array: mx.array) -> mx.array:
            now: dict[Value, mx.array] = {self.leaf.canonical: array}
            for op in self.needed:
                results = op.compute(
                    lambda value: now[value.canonical] if value.canonical in now else widened(value.array, dtype)
                )
                for value, result in zip(op.outputs, results):
                    now[value.canonical] = result
            roots = [(now[root.canonical], seed.array) for root, seed in self.part.roots if root.canonical in now]
            return weighed(roots, dtype)

        return run

    def value(self) -> float:
        """The loss as the program had it, weighed as `at` weighs it."""
        reached = {self.leaf.canonical, *(value.canonical for op in self.needed for value in op.outputs)}
        roots = [(root.array, seed.array) for root, seed in self.part.roots if root.canonical in reached]
        with mx.stream(mx.cpu):
            found: Any = weighed(roots, mx.float64).item()
        return float(found)


def _is_fixed(op: Op) -> bool:
    entry = ops.ENTRIES.get(op.name)
    if entry is not None and entry.kind == ops.FIXED and op.operation.kind == "op":
        return True
    return bool(op.outputs) and not any(mx.issubdtype(value.dtype, mx.inexact) for value in op.outputs)
