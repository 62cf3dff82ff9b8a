"""Projected: the number whose gradient is the one that is checked, as a function of one tensor in a dtype of choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx

from nnrepl import ops
from nnrepl.explain.differences import Scalar
from nnrepl.explain.known import bind
from nnrepl.ops import Trait, has
from nnrepl.ops.case import may_take_tf32
from nnrepl.record.custom import Composite
from nnrepl.record.quiet import quietly
from nnrepl.tape import Op, Pass, Value


def projected(
    forward: Op, of: Value, outputs: Sequence[int], cotangents: Sequence[mx.array], composite: Composite | None = None
) -> Callable[[mx.Dtype], Scalar]:
    """Return what the gradient is the gradient of: the op's result, weighed with the gradients that came in."""

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
        if mx.issubdtype(result.dtype, mx.complexfloating):  # as MLX takes gradients: both parts count as numbers
            products = mx.real(result) * mx.real(given) + mx.imag(result) * mx.imag(given)
        else:
            products = widened(result, dtype) * widened(given, dtype)
        total = total + mx.sum(products.astype(dtype))
    return total


def widened(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """Return a float tensor in another float dtype; other tensors as they are."""
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array


def coarsest(values: Sequence[Value], ops: Iterable[Op]) -> mx.Dtype:
    """Return the dtype with the fewest digits in which some ops compute, given the tensors that take part. TF32 has
    as many bits after the point as float16."""
    kinds = {value.dtype for value in values}
    if mx.float32 in kinds and may_take_tf32() and any(map(_multiplies, ops)):
        kinds.add(mx.float16)
    return next((kind for kind in (mx.bfloat16, mx.float16, mx.float32) if kind in kinds), mx.float64)


def _multiplies(op: Op) -> bool:
    """Whether an op takes sums of products, or may, as what MLX runs by itself and what is a kernel of its own."""
    return has(op.name, Trait.PRODUCT, Trait.ATTENDS) or op.operation.kind in ("custom", "checkpoint", "opaque")


class Recomputed:
    """The loss as a function of one leaf: the recorded forward ops on another tensor.

    What no gradient passes is held fixed, as the gradient sees it: the results of `stop_gradient`, of comparisons, of
    steps. Otherwise a difference would see what the gradient is told not to see.
    """

    def __init__(self, pass_: Pass, leaf: Value) -> None:
        self.pass_, self.leaf = pass_, leaf
        reached = {leaf.canonical}
        self.needed: list[Op] = []
        self.fixed: list[Op] = []
        self.custom: list[Op] = []
        for op in pass_.forward:
            if op.error is not None or not any(value.canonical in reached for value in op.inputs):
                continue
            if _is_fixed(op):
                if has(op.name, Trait.STOPS):
                    self.fixed.append(op)
                continue
            self.needed.append(op)
            reached.update(value.canonical for value in op.outputs)
            if op.operation.kind == "custom":
                self.custom.append(op)
        self.taken = [value for op in self.needed for value in op.inputs if value.canonical not in reached]
        self.coarse = coarsest([leaf, *(value for op in self.needed for value in op.outputs)], self.needed)

    def smooth(self, dtype: mx.Dtype) -> Scalar:
        """Return the loss in a dtype, with every choice held as it was made: a ReLU that passed passes, the largest
        number of a pool stays the chosen one. It has the same gradient, and no kinks."""
        return self.at(dtype, held=True)

    def gradient(self) -> mx.array | None:
        """Return the gradient of the loss in float64, by the rules that the pass had: MLX's, and those of the program's
        own. None where they cannot be followed there."""
        with mx.stream(mx.cpu), quietly():
            try:
                leaf = self.leaf.array.astype(mx.float64)
                found: mx.array = mx.grad(self.at(mx.float64, native=True))(leaf)
                mx.eval(found)
            except (ValueError, RuntimeError, TypeError):
                return None
        return found

    def at(self, dtype: mx.Dtype, held: bool = False, native: bool = False) -> Scalar:
        """Return the loss in a dtype.

        Args:
            held: With every choice as it was made.
            native: With the program's own functions as wholes, so that their own rules are followed.
        """

        def run(array: mx.array) -> mx.array:
            now: dict[Value, mx.array] = {self.leaf.canonical: array}
            for op in self.needed:

                def lookup(value: Value) -> mx.array:
                    return now[value.canonical] if value.canonical in now else widened(value.array, dtype)

                chosen = _as_chosen(op, lookup) if held else None
                whole = op.args[0] if native and op.args else None
                run_again = partial(whole.native, op) if isinstance(whole, Composite) else op.compute
                results = run_again(lookup) if chosen is None else [chosen]
                for value, result in zip(op.outputs, results):
                    now[value.canonical] = result
            roots = [(now[root.canonical], seed.array) for root, seed in self.pass_.roots if root.canonical in now]
            return weighed(roots, dtype)

        return run

    def value(self) -> float:
        """Return the loss as the program had it, weighed as `at` weighs it."""
        reached = {self.leaf.canonical, *(value.canonical for op in self.needed for value in op.outputs)}
        roots = [(root.array, seed.array) for root, seed in self.pass_.roots if root.canonical in reached]
        with mx.stream(mx.cpu):
            found: Any = weighed(roots, mx.float64).item()
        return float(found)


def _as_chosen(op: Op, lookup: Callable[[Value], mx.array]) -> mx.array | None:
    """Return the result of an op that chooses, with the choice that it made on the recorded numbers; None for any
    other."""
    entry = ops.ENTRIES.get(op.name)
    choice = next((run for trait, run in _CHOICES.items() if ops.has(op.name, trait)), None)
    if entry is None or choice is None or op.operation.kind != "op" or len(op.outputs) != 1:
        return None
    bound = bind(entry, op)
    then = {name: given.array if isinstance(given, Value) else given for name, given in bound.items()}
    now = {name: lookup(given) if isinstance(given, Value) else given for name, given in bound.items()}
    return choice(then, now, op.outputs[0].array)


def _clipped(then: dict[str, Any], now: dict[str, Any], result: mx.array) -> mx.array:
    free = mx.array(True)
    if then.get("a_min") is not None:
        free = free & (then["a"] > then["a_min"])
    if then.get("a_max") is not None:
        free = free & (then["a"] < then["a_max"])
    return mx.where(free, now["a"], result)


def _largest(then: dict[str, Any], now: dict[str, Any], result: mx.array) -> mx.array:
    axis, keepdims = then.get("axis"), bool(then.get("keepdims"))
    whole = result if keepdims or axis is None else mx.expand_dims(result, axis)
    chosen = (then["a"] == whole).astype(now["a"].dtype)
    share = chosen / mx.sum(chosen, axis=axis, keepdims=True)
    return mx.sum(share * now["a"], axis=axis, keepdims=keepdims)


_CHOICES: dict[ops.Trait, Callable[[dict[str, Any], dict[str, Any], mx.array], mx.array]] = {
    ops.Trait.LARGER: lambda then, now, _: mx.where(then["a"] > then["b"], now["a"], now["b"]),
    ops.Trait.SMALLER: lambda then, now, _: mx.where(then["a"] < then["b"], now["a"], now["b"]),
    ops.Trait.SIZE: lambda then, now, _: mx.sign(then["a"]) * now["a"],
    ops.Trait.CLIPS: _clipped, ops.Trait.LARGEST: _largest, ops.Trait.SMALLEST: _largest,
}  # fmt: skip
"""As their VJPs choose, ties included."""


def _is_fixed(op: Op) -> bool:
    entry = ops.ENTRIES.get(op.name)
    if entry is not None and entry.kind == ops.FIXED and op.operation.kind == "op":
        return True
    return bool(op.outputs) and not any(mx.issubdtype(value.dtype, mx.inexact) for value in op.outputs)
