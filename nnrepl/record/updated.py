"""Updated: which parameter an op of an update works for, and what it makes of it."""

from __future__ import annotations

from collections.abc import Iterator

from nnrepl.record import segments as sources
from nnrepl.tape import UPDATE_PASS, Leaf, Op, Value


def subject_of(op: Op) -> Value | None:
    """Return the parameter that an op of an update works for."""
    scope = op.scope
    for other in op.pass_.ops if scope is not None and scope.code.co_name == "apply_single" else (op,):
        if other.scope is not scope:
            continue
        for value in other.inputs:
            subject = value.gradient_of or value
            if isinstance(subject, Leaf) and subject.kind == "parameter":
                return subject
    return None


def state_name(op: Op, name: str) -> str | None:
    """`state["v"]` in an optimizer's update, by the path of the parameter that it belongs to."""
    if op.pass_.kind != UPDATE_PASS or op.scope is None:
        return None
    name = sources.stored(op.scope.code, name) or name
    if not name.startswith("state."):
        return None
    subject = subject_of(op)
    return None if subject is None else f"{subject.name}.{name.removeprefix('state.')}"


def changed_in_state(value: Value, key: object) -> list[str]:
    """Return what a result of an optimizer's update is called that lies in its state by a key, where no variable has
    held it: Lion says `state["m"] = b2 * m + ...`."""
    op = value.op
    if op is None or op.scope is None or op.scope.code.co_name != "apply_single" or weight_before(value) is not None:
        return []
    name = state_name(op, f"state.{key}")
    return [] if name is None else [name]


def weight_before(value: Value) -> Value | None:
    """Return the parameter that an update has made a value of: the leaf that was differentiated; None where a value is
    no such result."""
    op = value.op
    if op is None or op.pass_.kind != UPDATE_PASS or op.scope is None:
        return None
    subject = subject_of(op)
    if subject is None:
        return None
    span = sources.span_of(op.scope.code, op.lasti)
    returned = any(use.returned for use in sources.uses_of(op.scope.code, span))
    if not op.scope.updating:  # by hand: what is made of a gradient alone (a sum, a mean of some) is no weight
        direct = any(taken is subject for taken in op.inputs) and _works_on_gradient(op, subject)
        returned = direct and (returned or all(user.pass_ is not op.pass_ for user in value.consumers))
    return subject if returned else None


def weight_names(value: Value) -> Iterator[str]:
    """Yield what a result of an update is called: as the weight that it is now."""
    subject = weight_before(value)
    if subject is not None:
        yield subject.name


def _works_on_gradient(op: Op, subject: Value) -> bool:
    """Whether an op takes the gradient of a parameter, or what one op made of it."""
    made = [value for taken in op.inputs if taken.op is not None for value in taken.op.inputs]
    return any(value.gradient_of is subject for value in (*op.inputs, *made))
