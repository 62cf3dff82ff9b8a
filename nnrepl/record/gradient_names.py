"""Signs: how gradients are written, and what is said of values that have none of their own."""

from __future__ import annotations

import re

from nnrepl.tape import Inside, Pass, Value

GRADIENT_SIGN = "∂L/∂"
_SIGN = re.compile(r"∂[^/\s]+/∂")


def sign_of(gradient: Value) -> str:
    """Return what stands before the name of a value for one of its gradients: `∂L/∂`; inside of a call that
    differentiates something of its own `∂u/∂`, with what that is."""
    of = gradient.gradient_of
    made = gradient.op or (None if of is None else of.op)
    part: Pass | None = None if made is None else made.part
    while isinstance(part, Inside) and part.loss is None:
        part = part.within
    if not isinstance(part, Inside) or len(part.roots) != 1 or part.loss is None:
        return GRADIENT_SIGN
    return f"∂{part.loss.name}/∂"


def start_of(gradient: Value) -> str:
    """Return what is differentiated: the loss, or what a call inside differentiates."""
    sign = sign_of(gradient)
    return "the loss" if sign == GRADIENT_SIGN else sign[1:-2]


def without_sign(text: str) -> str | None:
    """`h` out of `∂L/∂h` or `∂u/∂h`; None where no sign of a gradient stands."""
    found = _SIGN.match(text)
    return None if found is None else text[found.end() :]


def lies_inside(inside: Inside) -> str:
    """Why nothing is known of how the loss depends on what happened inside of a call."""
    call = inside.call
    whose = "a call" if call is None else f"{call.label} ({call.name})"
    return f"it lies inside of {whose}, which MLX runs and differentiates by itself, as one op"
