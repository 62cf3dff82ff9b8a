"""Differences: slopes of a function by finite differences, with a bound of what they can be wrong by.

The best step for a central difference balances the noise of the function against its curvature (Press et al.,
Numerical Recipes, 5.7). The noise is not known beforehand: many of MLX's functions have float32 accuracy in float64
too, and a loss may be rounded to float32 on its way. So it is measured, from the higher differences of a few
neighbouring values (Moré & Wild 2011, Estimating computational noise).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass

Scalar = Callable[[mx.array], mx.array]
"""A number as a function of a tensor."""


@dataclass(frozen=True, slots=True)
class CentralDifference:
    """A slope by central differences.

    Attributes:
        value: The slope.
        left, right: The slopes to either side.
        doubt: How far the slope may be off: noise, and what another step says.
        jump: How far the slopes to either side are apart beyond what curvature explains: a kink.
        step: How far the function was moved to either side.
    """

    value: float
    left: float
    right: float
    doubt: float
    jump: float
    step: float = 0.0


@dataclass(slots=True)
class Neighbourhood:
    """A function around a tensor.

    Attributes:
        run: The function, of a tensor of `shape`.
        flat: The tensor, flat, in the dtype of the computation.
        shape: Its shape.
        noise: By how much values of the function are off, measured.
        here: The function's value.
        evaluations: How often the function was computed.
        smooth: The same function with its kinks taken out; None where that is not known.
    """

    run: Scalar
    flat: mx.array
    shape: tuple[int, ...]
    noise: float = 0.0
    here: float = 0.0
    evaluations: int = field(default=0)
    smooth: Neighbourhood | None = None

    def beside(self, run: Scalar) -> Neighbourhood:
        """Another function of the same tensor, which has the same value here and is as noisy."""
        return Neighbourhood(run, self.flat, self.shape, self.noise, self.here)

    def measure(self) -> None:
        """Find the noise.

        Raises:
            ValueError, RuntimeError: If the function cannot be computed in this dtype.
        """
        self.here = self._at(self.flat)
        single = self.flat.dtype == mx.float32
        least = (6e-8 if single else 2e-15) * abs(self.here)
        step = (1e-3 if single else 1e-5) / math.sqrt(max(self.flat.size, 1))
        # To one side only: at 0 itself there may be a kink.
        values = [self._at(self.flat + (k + 1) * step * self.signs(0)) for k in range(7)]
        if all(value == _single(value) for value in [self.here, *values]):
            least = max(least, 6e-8 * abs(self.here))  # the loss is rounded to float32
        row, norm = values, 1.0
        for order in range(1, 5):
            row = [after - before for before, after in itertools.pairwise(row)]
            norm = math.comb(2 * order, order)
        found = math.sqrt(sum(value * value for value in row) / len(row) / norm)
        self.noise = max(least, 2 * found) if math.isfinite(found) else math.inf

    def signs(self, number: int) -> mx.array:
        """Return a random direction: 1 or −1 for each element."""
        draw = mx.random.bernoulli(0.5, (self.flat.size,), key=mx.random.key(number))
        return (draw.astype(mx.float32) * 2 - 1).astype(self.flat.dtype)

    def along(self, direction: mx.array, length: float = 1.0, enough: float = 0.0) -> CentralDifference:
        """Return the slope along a direction. Larger steps are tried as long as they leave less doubt.

        Args:
            length: How long the direction is: the first step is the shorter.
            enough: With so much doubt no better step is looked for.
        """
        relative = self.noise / max(abs(self.here), 1e-30)
        step = min(max(relative ** (1 / 3), 1e-5), 3e-2) / length
        best = self._central(direction, step)
        while best.doubt > enough and (step := 4 * step) < 0.1:
            found = self._central(direction, step)
            if not found.doubt < best.doubt:
                break
            best = found
        return best

    def _central(self, direction: mx.array, step: float) -> CentralDifference:
        slopes = []
        for size in (step, 2 * step):
            left = (self.here - self._at(self.flat - size * direction)) / size
            right = (self._at(self.flat + size * direction) - self.here) / size
            slopes.append((left, right))
        (left, right), (far_left, far_right) = slopes
        value, other = (left + right) / 2, (far_left + far_right) / 2
        bend, far_bend = right - left, far_right - far_left
        noise = 2 * self.noise / step
        # Curvature bends twice as much over twice the step; a kink as much as before.
        jump = max(abs(2 * bend - far_bend) - 4 * noise, 0.0)
        return CentralDifference(value, left, right, abs(value - other) + noise, jump, step)

    def element(self, at: int, enough: float = 0.0) -> CentralDifference:
        """Return the slope along one element."""
        own: Any = self.flat[at].item()
        size = max(abs(own), 1.0)
        one = (mx.arange(self.flat.size) == at).astype(self.flat.dtype)
        found = self.along(one * size, enough=enough * size)
        return CentralDifference(
            found.value / size, found.left / size, found.right / size, found.doubt / size, found.jump / size,
            found.step * size,
        )  # fmt: skip

    def stays(self, at: int, gradient: float, slope: CentralDifference, limit: float) -> bool | None:
        """Whether the difference between a gradient and a slope along one element stays when the step is made
        smaller. Kinks that lie inside of the step (a ReLU here and there) make one that shrinks with it; a wrong
        gradient is wrong at every step. None where the noise of smaller steps hides it.

        Args:
            limit: By how much the gradient may be off in any case.
        """
        one = (mx.arange(self.flat.size) == at).astype(self.flat.dtype)
        first = abs(gradient - slope.value)
        step, told = slope.step, None
        while (step := step / 3) > 0 and 2 * self.noise / step < first / 6:
            left = abs(gradient - self._central(one, step).value)
            if left <= limit + 3 * self.noise / step:
                return False
            told = left > first / 2
        return told

    def fades(self, at: int, gradient: float, slope: CentralDifference, off: float) -> bool:
        """Whether the difference between a gradient and a slope along one element all but goes away when the step is
        made larger: rounding on the way, which the noise that was measured does not show, weighs less then."""
        one = (mx.arange(self.flat.size) == at).astype(self.flat.dtype)
        step = slope.step
        while (step := 4 * step) < 0.1:
            found = self._central(one, step)
            if abs(gradient - found.value) < off / 8:
                return True
        return False

    def _at(self, flat: mx.array) -> float:
        self.evaluations += 1
        value: Any = self.run(mx.reshape(flat, self.shape)).item()
        return float(value)


def _single(value: float) -> float:
    """Return a number rounded to float32."""
    rounded: Any = mx.array(value, mx.float32).item() if math.isfinite(value) else value
    return float(rounded)


_MOST = 3
"""So many elements at which a gradient is wrong are looked for."""


def suspects(function: Neighbourhood, gradient: mx.array, allowed: Callable[[mx.array], float]) -> list[int]:
    """Return the elements at which a gradient is wrong, found by halving: all elements together along a random
    direction, and, where that does not agree, one half and the other.

    Args:
        gradient: The gradient, flat.
        allowed: By how much a part of the gradient may be off along a direction: of the mask of the part.
    """
    count = function.flat.size
    signs = function.signs(1)
    wide = gradient.astype(function.flat.dtype)
    found: list[int] = []
    pending = [(0, count)]
    while pending and len(found) < _MOST:
        start, end = pending.pop()
        places = mx.arange(count)
        mask = ((places >= start) & (places < end)).astype(function.flat.dtype)
        direction = signs * mask
        room = allowed(mask)
        slope = function.along(direction, math.sqrt(end - start), 0.1 * room)
        expected: Any = mx.sum(wide * direction).item()
        room += 3 * slope.doubt + slope.jump
        if not abs(slope.value - float(expected)) > room:
            continue
        if end - start == 1:
            found.append(start)
        else:
            middle = (start + end) // 2
            pending += [(start, middle), (middle, end)]
    return sorted(found)


def spread(gradient: mx.array, count: int) -> list[int]:
    """Return the places of the largest elements of a flat gradient, and some that are evenly spread."""
    size = gradient.size
    if size <= count:
        return list(range(size))
    order: Any = mx.argsort(-mx.abs(gradient.astype(mx.float32)))[: count // 2].tolist()
    even: Sequence[int] = range(0, size, max(size // (count // 2), 1))
    return sorted({*order, *even})[: 2 * count]
