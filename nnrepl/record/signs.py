"""Signs: how gradients are written, and what is said of values that have none of their own."""

from __future__ import annotations

from nnrepl.tape import Inside, Pass, Value

GRADIENT_SIGN = "∂L/∂"


def sign_of(gradient: Value) -> str:
    """What stands before the name of a value for one of its gradients: `∂L/∂`; inside of a call that differentiates
    something of its own `∂u/∂`, with what that is."""
    of = gradient.gradient_of
    made = gradient.op or (None if of is None else of.op)
    part: Pass | None = None if made is None else made.part
    while isinstance(part, Inside) and part.loss is None:
        part = part.within
    if not isinstance(part, Inside) or len(part.roots) != 1 or part.loss is None:
        return GRADIENT_SIGN
    return f"∂{part.loss.name}/∂"


def lies_inside(inside: Inside) -> str:
    """Why nothing is known of how the loss depends on what happened inside of a call."""
    call = inside.call
    whose = "a call" if call is None else f"{call.label} ({call.name})"
    return f"it lies inside of {whose}, which MLX runs and differentiates by itself, as one op"
