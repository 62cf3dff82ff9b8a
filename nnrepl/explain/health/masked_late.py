"""Masked late: shares that are masked after they were divided, so that those of a row that count no longer add up to
1."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.kept_out import made_by
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.ops import Trait, has
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim

_TAKEN = 1e-3
"""So much of a row has to be taken: what a mask of -1e9 has left is nothing."""


def masked_late(case: Checkup) -> Iterator[Finding]:
    """Find a softmax whose shares are multiplied with a mask of zeros and ones, and then weigh what a product adds
    up."""
    told: set[str] = set()
    for op in case.forward:
        if case.broken or not has(op.name, Trait.SHARES) or has(op.name, Trait.LOGARITHM) or len(op.outputs) != 1:
            continue
        for product in op.outputs[0].consumers:
            weighing = _weighs(product)
            if weighing is None or words.spot(product) in told:
                continue
            for mask in product.inputs:
                least = _least_row(case, op, product, mask)
                if least is not None:
                    told.add(words.spot(product))
                    yield from findings(
                        _takes_away(case, product, op, weighing, least),
                        "late mask",
                        f"explain {product.label}",
                        product,
                    )


def _weighs(product: Op) -> Op | None:
    """Return the product of matrices that takes what a multiplication gives, where nothing else does: what divides the
    rows again would."""
    if product.of is not None or not has(product.name, Trait.MULTIPLIES) or len(product.inputs) != 2:
        return None
    users = [user for user in product.outputs[0].consumers if user.of is None]
    if len(users) != 1 or not has(users[0].name, Trait.ROWS_BY_COLUMNS):
        return None
    return users[0] if users[0].inputs[0] is product.outputs[0] else None


def _least_row(case: Checkup, op: Op, product: Op, mask: Value) -> float | None:
    """Return the least sum of a row that a mask leaves something of; None where it is no mask, takes nothing, or was
    made of the shares, or by chance: a choice of experts, dropout."""
    shares, made = op.outputs[0], product.outputs[0]
    if mask is shares or not all(case.look.can_see(one) for one in (mask, shares, made)) or made.shape != shares.shape:
        return None
    before = made_by(op.pass_, [mask])
    if op in before or any(has(one.name, Trait.RANDOM) for one in before):
        return None
    axis = op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None)
    array = mx.broadcast_to(case.look.array(mask).astype(mx.float32), shares.shape)
    plain = mx.all((array == 0) | (array == 1))
    some = (mx.min(array, axis=axis) == 0) & (mx.max(array, axis=axis) == 1)
    least = mx.min(mx.where(some, _sums(case, made, op), 1.0))
    found = case.look.numbers([plain, mx.any(some), least])
    return float(found[2]) if found[0] and found[1] and found[2] < 1 - _TAKEN else None


def _sums(case: Checkup, value: Value, op: Op) -> mx.array:
    axis = op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None)
    return mx.sum(case.look.array(value).astype(mx.float32), axis=axis)


def _takes_away(case: Checkup, product: Op, op: Op, weighing: Op, least: float) -> Claim[str]:
    """Claim that a row of masked shares adds up to less than 1."""

    def holds() -> bool:
        return bool(case.look.numbers([mx.any(_sums(case, product.outputs[0], op) < 1 - _TAKEN)])[0])

    return Claim("finding: late mask", holds, lambda: (
        f"{product.label} {words.call(product)} ({words.spot(product)}) masks the shares of {op.label} {op.name} after "
        f"they were divided: what is left of a row adds up to as little as {words.number(least)}, and "
        f"{weighing.label} {weighing.name} weighs with that. Mask the scores before: mx.where(mask, scores, -mx.inf)"
    ))  # fmt: skip


CHECKS: list[Check] = [masked_late]
