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
    pass_: Pass | None = None if made is None else made.pass_
    while isinstance(pass_, Inside) and pass_.loss is None:
        pass_ = pass_.within
    if not isinstance(pass_, Inside) or len(pass_.roots) != 1 or pass_.loss is None:
        return GRADIENT_SIGN
    return f"∂{pass_.loss.name}/∂"


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
