"""Norms: the sizes of arrays, many at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from nnrepl.record.batches import total

_SMALL = 256


def norms(arrays: list[mx.array]) -> list[float]:
    """Return the Euclidean norms of arrays of floats, in their own size: squares neither overflow nor vanish."""
    found = {at: _small_norm(array) for at, array in enumerate(arrays) if array.size <= _SMALL}
    parts: list[tuple[mx.array, mx.array]] = []
    for at, array in enumerate(arrays):
        if at in found:
            continue
        sizes = mx.abs(array)
        sizes = sizes if sizes.dtype == mx.float64 else sizes.astype(mx.float32)
        top = mx.max(sizes)
        scale = mx.where(mx.logical_and(top > 0, mx.isfinite(top)), top, mx.ones_like(top))
        parts.append((scale, mx.sqrt(total(mx.square(sizes / scale)))))
    mx.eval(parts)
    large = iter([as_float(scale) * as_float(norm) for scale, norm in parts])
    return [found[at] if at in found else next(large) for at in range(len(arrays))]


def _small_norm(array: mx.array) -> float:
    """In Python, which costs less than MLX's calls."""
    numbers = list(_flat(array.tolist()))
    return math.nan if any(map(math.isnan, numbers)) else math.hypot(*numbers)


def _flat(tree: Any) -> Iterator[float]:
    if isinstance(tree, list):
        for item in tree:
            yield from _flat(item)
    else:
        yield abs(tree)


def as_float(array: mx.array) -> float:
    """Return the one number that an array holds."""
    scalar: Any = array.item()
    return float(scalar)
