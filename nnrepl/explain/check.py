"""Check: gradients against finite differences.

One op is checked by itself, on its own inputs, so that nothing else of a large model runs. Where the op allows it
everything is computed in float64, which MLX has on the CPU. The best step for a central difference is the cube root of
the precision (Press et al., Numerical Recipes, 5.7), and the precision is not known beforehand: some of MLX's functions
have float32 accuracy in float64 too. So several steps are tried; where two neighbours agree best the difference is
taken, and how far they disagree is how far it can be trusted.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from nnrepl.explain.elements import Index, unravel
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.session.errors import UserError
from nnrepl.session.session import Session
from nnrepl.tape import GRADIENT_PASS, Op, Pass, Value

_STEPS = {mx.float64: (1e-5, 1e-4, 1e-3, 1e-2), mx.float32: (1e-3, 5e-3, 2e-2, 5e-2)}
_ELEMENTS = 32
"""So many elements of a tensor are checked one by one: the largest gradients first, the rest evenly spread."""
_REPLAYED = 6

TOLERANCES = {mx.float16: 2e-2, mx.bfloat16: 1e-1, mx.float32: 2e-3, mx.float64: 1e-5}
"""How far a gradient may be off, relative to the largest: its own rounding, a thousandfold."""


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a gradient: what was computed, and what a finite difference gives.

    Attributes:
        left, right: The slopes to either side.
        doubt: How far differences with other steps disagree.
        jump: How far the two slopes are apart at least, whatever the step.
    """

    index: Index
    gradient: float
    difference: float
    left: float
    right: float
    doubt: float = 0.0
    jump: float = 0.0

    @property
    def error(self) -> float:
        """How far they are apart."""
        return abs(self.gradient - self.difference)


@dataclass(slots=True)
class Checked:
    """What the check of one gradient found.

    Attributes:
        value: The gradient.
        of: What it is the gradient of.
        elements: The elements that were checked.
        kinks: Those at which the slope jumps.
        undefined: Those next to which the function itself is not finite.
        wrong: Those that differ by more than their dtype explains.
        dtype: In which the differences were taken.
        scale: The largest element of the gradient.
    """

    value: Value
    of: Value
    elements: list[Element] = field(default_factory=list)
    kinks: list[Element] = field(default_factory=list)
    undefined: list[Element] = field(default_factory=list)
    wrong: list[Element] = field(default_factory=list)
    dtype: mx.Dtype = mx.float64
    scale: float = 0.0

    @property
    def worst(self) -> Element | None:
        """The element that is furthest off, kinks apart."""
        plain = [element for element in self.elements if element not in self.kinks and element not in self.undefined]
        return max(plain, key=lambda element: element.error, default=None)


Scalar = Callable[[mx.array], mx.array]


def check_op(session: Session, op: Op) -> tuple[list[Checked], int]:
    """Check every gradient that one backward op gives (or the backward op of a forward op).

    Raises:
        UserError: If no gradient was taken through it.
    """
    backward = op if op.of is not None else _backward_of(session, op)
    rule = rule_of(backward) if backward is not None else None
    if backward is None or rule is None:
        raise UserError(
            f"{op.label} {op.name} has no VJP on the tape: no gradient passes through it, or none was taken"
        )
    forward = rule.op
    if forward.operation.kind not in ("op", "edit"):
        raise UserError(f"{forward.label} {forward.name} cannot be checked by itself: it is not a plain op")
    look = Look(session)
    look.see([*backward.inputs, *backward.outputs])
    cotangents = upstream(backward)[: len(rule.outputs)]
    found = []
    for slot, gradient in zip(rule.wanted, _own_parts(backward)):
        of = rule.inputs[slot]
        if mx.issubdtype(of.dtype, mx.floating) and of.size:
            found.append(_compare(look, gradient, of, _projected(forward, of, rule.outputs, cotangents), _ELEMENTS))
    return found, look.ops


def _own_parts(backward: Op) -> Sequence[Value]:
    if backward.operation.kind == "accumulate":
        raise UserError(f"{backward.label} adds gradients; check the op before it")
    return backward.outputs


def _backward_of(session: Session, op: Op) -> Op | None:
    """The VJP of a forward op."""
    for later in session.tape.ops[op.position + 1 :]:
        if later.of is op and rule_of(later) is not None and later.operation.kind == "vjp":
            return later
        if later.part is not op.part:
            break
    return None


def _projected(
    forward: Op, of: Value, outputs: Sequence[int], cotangents: Sequence[Value]
) -> Callable[[mx.Dtype], Scalar]:
    """What the gradient is the gradient of: the op's result, weighed with the gradients that came in."""

    def at(dtype: mx.Dtype) -> Scalar:
        def run(array: mx.array) -> mx.array:
            results = forward.compute(
                lambda value: array if value.canonical is of.canonical else widened(value.array, dtype)
            )
            parts = [
                mx.sum(widened(results[slot], dtype) * widened(given.array, dtype))
                for slot, given in zip(outputs, cotangents)
            ]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            return total

        return run

    return at


def widened(array: mx.array, dtype: mx.Dtype) -> mx.array:
    """A float tensor in another float dtype; other tensors as they are."""
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array


def check_pass(session: Session, part: Pass, leaves: Sequence[Value]) -> tuple[list[Checked], int]:
    """Check whole gradients of a pass: the forward ops are computed again for each element, so only few are taken."""
    look = Look(session)
    look.see([value for leaf in leaves for value in (leaf, part.grads[leaf][-1])])
    found = [_compare(look, part.grads[leaf][-1], leaf, _replayed(part, leaf), _REPLAYED) for leaf in leaves]
    return found, look.ops


def _replayed(part: Pass, leaf: Value) -> Callable[[mx.Dtype], Scalar]:
    """The loss as a function of one leaf: the recorded forward ops on another tensor."""
    forward = [op for op in part.tape.ops[part.start : part.backward] if op.error is None]
    reached = {leaf}
    needed = []
    for op in forward:
        if any(value.canonical in reached for value in op.inputs):
            needed.append(op)
            reached.update(value.canonical for value in op.outputs)

    def at(dtype: mx.Dtype) -> Scalar:
        def run(array: mx.array) -> mx.array:
            now: dict[Value, mx.array] = {leaf: array}
            for op in needed:
                results = op.compute(
                    lambda value: now[value.canonical] if value.canonical in now else widened(value.array, dtype)
                )
                for value, result in zip(op.outputs, results):
                    now[value.canonical] = result
            roots = [(now[root.canonical], seed.array) for root, seed in part.roots if root.canonical in now]
            parts = [mx.sum(widened(root, dtype) * widened(seed, dtype)) for root, seed in roots]
            total = parts[0]
            for one in parts[1:]:
                total = total + one
            return total

        return run

    return at


def _compare(look: Look, gradient: Value, of: Value, make: Callable[[mx.Dtype], Scalar], count: int) -> Checked:
    found = Checked(gradient, of)
    found.scale = look.stat(gradient).peak
    places = _places(look, gradient, count)
    for dtype in (mx.float64, mx.float32):
        found.dtype = dtype
        try:
            rows = _differences(of, places, make(dtype), dtype)
            break
        except (ValueError, RuntimeError) as error:
            _settle()
            if dtype == mx.float32:
                raise UserError(f"{gradient.name} cannot be checked: {str(error).splitlines()[0]}") from None
    numbers = look.numbers([mx.take(gradient.array.flatten(), mx.array(places))])[0]
    tolerance = max(TOLERANCES.get(of.dtype, 2e-3), TOLERANCES[found.dtype])
    for at, number, row in zip(places, numbers, rows):
        element = _element(unravel(at, of.shape), float(number), row)
        found.elements.append(element)
        limit = tolerance * max(found.scale, abs(element.difference)) + 1e-12
        between = min(element.left, element.right) - limit <= number <= max(element.left, element.right) + limit
        if not math.isfinite(element.difference):
            found.undefined.append(element)
        elif element.jump > 20 * limit and between:
            found.kinks.append(element)
        elif not element.error <= limit + 3 * element.doubt:
            found.wrong.append(element)
    return found


def _element(index: Index, number: float, row: list[tuple[float, float]]) -> Element:
    """Choose among the steps: the two neighbours that agree best."""
    central = [(left + right) / 2 for left, right in row]
    at = min(range(len(central) - 1), key=lambda k: abs(central[k] - central[k + 1]))
    doubt = abs(central[at] - central[at + 1])
    jump = min(abs(left - right) for left, right in row)
    return Element(index, number, central[at + 1], *row[at + 1], doubt, jump)


def _settle() -> None:
    """Let the CPU's stream come to rest: an error in it may be raised a second time, at the next evaluation."""
    with contextlib.suppress(ValueError, RuntimeError):
        mx.synchronize(mx.default_stream(mx.Device(mx.DeviceType.cpu)))


def _places(look: Look, gradient: Value, count: int) -> list[int]:
    """The largest elements, and some that are evenly spread."""
    size = gradient.size
    if size <= count:
        return list(range(size))
    largest: list[int] = look.numbers([mx.argsort(-mx.abs(gradient.array.flatten().astype(mx.float32)))[: count // 2]])[
        0
    ]
    spread = range(0, size, max(size // (count // 2), 1))
    return sorted({*largest, *spread})[: 2 * count]


def _differences(of: Value, places: Sequence[int], run: Scalar, dtype: mx.Dtype) -> list[list[tuple[float, float]]]:
    """For each place and each step, the slope to the left and to the right."""
    with mx.stream(mx.cpu):
        base = of.array.astype(dtype)
        flat = base.flatten()
        here = run(base)
        mx.eval(here)  # what has no kernel for this dtype says so now, and once
        results: list[mx.array] = []
        for at in places:
            size = mx.maximum(mx.abs(flat[at]), mx.array(1.0, dtype))
            one = mx.reshape((mx.arange(flat.size) == at).astype(dtype), base.shape)
            for share in _STEPS[dtype]:
                step = share * size
                results.append(
                    mx.stack([(here - run(base - one * step)) / step, (run(base + one * step) - here) / step])
                )
        mx.eval(results)
        pairs: list[Any] = [result.tolist() for result in results]
        each = len(_STEPS[dtype])
        return [
            [(float(left), float(right)) for left, right in pairs[k * each : (k + 1) * each]]
            for k in range(len(places))
        ]


def pass_of(session: Session, value: Value) -> Pass | None:
    """The gradient pass that has a whole gradient of a value."""
    parts = [part for part in session.tape.passes if part.kind == GRADIENT_PASS and part.grads.get(value)]
    here = session.part
    return here if here in parts else (parts[-1] if parts else None)
