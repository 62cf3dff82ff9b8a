"""Phases: to which pass an op belongs that stands outside of any transform of ours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from nnrepl.record.stack import is_module
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Op, Pass, Value

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


def feeds_update(op: Op, current: Pass | None, passes: Sequence[Pass]) -> bool:
    """Whether an op at the top level belongs to an update written by hand: it works on a gradient, or goes on, in the
    same function, with what was made of one."""
    for value in op.inputs:
        maker = value.op
        if maker is None:
            if _is_given(value, passes):
                return True
            continue
        pass_ = maker.pass_
        if pass_.kind == GRADIENT_PASS:
            if maker.position >= pass_.backward:
                return True
        elif pass_.kind == UPDATE_PASS and current is not None and pass_.number == current.number:
            scope = op.scope
            if scope is not None and maker.scope is not None and maker.scope.code is scope.code:
                return True
    return False


def _is_given(value: Value, passes: Sequence[Pass]) -> bool:
    """Whether no op has made a gradient that the program got: zeros, where none flows."""
    since = takewhile(lambda pass_: pass_.kind != UPDATE_PASS or pass_ is passes[-1], reversed(passes))
    return any(value in pass_.given for pass_ in since if pass_.kind == GRADIENT_PASS)


def title(op: Op, kind: str) -> str:
    """Return what a pass is called that begins with an op outside of any transform of ours."""
    scope = op.scope
    if scope is None:
        return ""
    if kind == UPDATE_PASS and scope.updating:
        owner = next((step.owner for step in scope.path() if step.updating and step.owner is not None), None)
        return type(owner).__name__ if owner is not None else scope.code.co_qualname
    return scope.path()[0].code.co_qualname
