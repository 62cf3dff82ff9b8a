"""Weighed: what shares are multiplied with, and along which axes that is added up."""

from __future__ import annotations

from collections.abc import Iterator

from nnrepl.ops import Trait, has
from nnrepl.tape import Value


def summed_over(shares: Value) -> list[int]:
    """Return the axes of shares along which what they weigh is added up: `(shares[..., None] * rows).sum(axis=0)`."""
    rank = len(shares.shape)
    found: set[int] = set()
    for product in _products(shares):
        size = len(product.shape)
        for op in product.consumers:
            axes = op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None)
            if not has(op.name, Trait.TOTALS, Trait.AVERAGES) or axes is None:
                continue
            over = {one % size for one in ([axes] if isinstance(axes, int) else axes)} & set(range(rank))
            if len(over) < rank:  # a sum of all that there is tells none of the axes apart
                found |= over
    return sorted(found)


def _products(shares: Value) -> Iterator[Value]:
    """Yield what shares are multiplied with, where axes were at most added behind theirs."""
    stack = [shares]
    while stack:
        value = stack.pop()
        for user in value.consumers:
            if user.of is not None or len(user.outputs) != 1:
                continue
            made = user.outputs[0]
            if not all(one in (1, other) for one, other in zip(shares.shape, made.shape)):
                continue
            if has(user.name, Trait.MULTIPLIES) and len(made.shape) == len(value.shape):
                yield made
            elif has(user.name, Trait.ARRANGES, Trait.PICKS, Trait.CONVERTS) and made.size == value.size:
                stack.append(made)
