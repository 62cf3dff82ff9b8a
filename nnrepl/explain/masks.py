"""Masks: parameters that hold −∞ to mask with, which an update moves along with the weights."""

from __future__ import annotations

import mlx.core as mx

from nnrepl.explain.look import Look
from nnrepl.ops import Trait, has
from nnrepl.record.updated import subject_of
from nnrepl.session.births import is_inexact
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Value

_FOLLOWED = 12
_MOVES = (Trait.ARRANGES, Trait.CONVERTS, Trait.PICKS, Trait.REPEATS, Trait.BROADCASTS)


def is_mask(look: Look, leaf: Value) -> bool:
    """Whether a parameter masks: its numbers that are none are −∞, and all that takes it makes shares of it."""
    if not is_inexact(leaf) or not look.can_see(leaf) or look.finite([leaf])[leaf]:
        return False
    array = look.array(leaf)
    some, others = look.numbers([mx.any(array == -mx.inf), mx.any(mx.isnan(array) | (array == mx.inf))])
    return bool(some) and not others and _only_masks(look, leaf)


def _only_masks(look: Look, leaf: Value) -> bool:
    """Whether each way from a tensor, moved or added to something, leads to a softmax, or to an attention's mask."""
    stack, seen, arrived = [leaf], {leaf}, False
    while stack and len(seen) < _FOLLOWED:
        value = stack.pop()
        for user in look.session.tape.consumers(value):
            if user.pass_.kind != GRADIENT_PASS or user.phase != "forward":
                continue
            if has(user.name, Trait.SHARES) or (has(user.name, Trait.ATTENDS) and value not in user.inputs[:3]):
                arrived = True
            elif not has(user.name, *_MOVES) or len(user.outputs) != 1:
                return False
            elif user.outputs[0] not in seen:
                seen.add(user.outputs[0])
                stack.append(user.outputs[0])
    return arrived and not stack


def is_of_mask(look: Look, value: Value) -> bool:
    """Whether what an update made is −∞ only where the mask is for which it works, and NaN nowhere."""
    op = value.op
    leaf = subject_of(op) if op is not None and op.pass_.kind == UPDATE_PASS and op.scope is not None else None
    if leaf is None or leaf.shape != value.shape or not is_mask(look, leaf):
        return False
    made, masked = look.array(value), look.array(leaf) == -mx.inf
    return not look.numbers([mx.any(mx.isnan(made) | (~mx.isfinite(made) & ~masked))])[0]
