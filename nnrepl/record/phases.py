"""Phases: to which pass an op belongs that stands outside of any transform of ours."""

from __future__ import annotations

from typing import Any

from nnrepl.record.stack import is_module
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Activation, Op, Pass, Value

_MODULE_BASE = "mlx/nn/layers/base.py"


def starts(op: Op) -> bool:
    """Whether an op at the top level is the first of a forward pass: it reads a Module's parameter."""
    scope = op.scope
    if scope is None or not is_module(scope.owner) or scope.code.co_filename.endswith(_MODULE_BASE):
        return False
    arrays = [value.held for value in op.inputs]
    reads = any(part is array for part in dict.values(scope.owner) for array in arrays)
    within: Any = scope
    while reads and within is not None:
        reads = within.code.co_name != "__init__"
        within = within.parent
    return reads


def feeds_update(value: Value, scope: Activation | None, current: Pass | None) -> bool:
    """Whether an op on this value, at the top level, belongs to an update written by hand: it works on a
    gradient, or goes on, in the same function, with what was made of one."""
    op = value.op
    if op is None:
        return False
    if op.part.kind == GRADIENT_PASS:
        return op.position >= op.part.backward
    if op.part.kind != UPDATE_PASS or current is None or op.part.number != current.number:
        return False
    if scope is None or op.scope is None:
        return False
    return op.scope.code is scope.code


def title(op: Op, kind: str) -> str:
    """What a pass is called that begins with an op outside of any transform of ours."""
    scope = op.scope
    if scope is None:
        return ""
    if kind == UPDATE_PASS and scope.updating:
        owner = next((step.owner for step in scope.path() if step.updating and step.owner is not None), None)
        return type(owner).__name__ if owner is not None else scope.code.co_qualname
    return scope.path()[0].code.co_qualname
