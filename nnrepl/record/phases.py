"""Phases: to which pass an op belongs that stands outside of any transform of ours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Any

from nnrepl.installed import is_library
from nnrepl.record.stack import is_module
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Activation, Op, Pass, Value
from nnrepl.tape.steps import weights_of

_MODULE_BASE = "mlx/nn/layers/base.py"


def starts(op: Op) -> bool:
    """Whether an op at the top level is the first of a forward pass: it reads a Module's parameter."""
    scope = op.scope
    if scope is None or not is_module(scope.owner) or scope.code.co_filename.endswith(_MODULE_BASE):
        return False
    arrays = [value.held for value in op.inputs]
    reads = any(part is array for part in dict.values(scope.owner) for array in arrays)
    within: Any = scope
    # What a module computes from its own parameters as it is made is no forward pass yet.
    while reads and within is not None:
        reads = within.code.co_name != "__init__"
        within = within.parent
    return reads


def feeds_update(op: Op, current: Pass | None, passes: Sequence[Pass]) -> bool:
    """Whether an op at the top level belongs to an update written by hand: it works on a gradient, or on a sum of such,
    or goes on, in the same function, with what was made of one."""
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
        elif pass_.kind == UPDATE_PASS:
            goes_on = current is not None and pass_.number == current.number
            if goes_on and op.scope is not None and maker.scope is not None and _in_one(maker.scope, op.scope):
                return True
            if _is_of_gradients(maker, passes):
                return True
            if _is_of_this_step(pass_, passes) and _is_of_gradients(maker, passes, pass_):
                return True
    return False


def _in_one(one: Activation, other: Activation) -> bool:
    """Whether two calls are of the same function, or stand in the same: momentum and weights are often two lambdas of
    `tree_map` in it, and from the second step on nothing else tells that the one goes on with what the other made."""
    return one.code is other.code or _around(one).code is _around(other).code


def _around(scope: Activation) -> Activation:
    """Return the function in which a lambda or a comprehension stands; any other one is its own."""
    if not _is_part(scope):
        return scope
    while scope.parent is not None and (_is_part(scope) or is_library(scope.code.co_filename)):
        scope = scope.parent
    return scope


def _is_part(scope: Activation) -> bool:
    return scope.code.co_name in PARTS


PARTS = {"<lambda>", "<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
"""What Python calls functions that are a part of a line: they have no lines of their own."""
_NEAR, _FAR = 64, 256
"""So many passes, and so many ops, are looked at before what was made of gradients is taken for something else."""


def _is_of_gradients(op: Op, passes: Sequence[Pass], within: Pass | None = None) -> bool:
    """Whether an op of an update has made a sum of gradients by the same weights, or the like: these went not into it,
    and no other's gradients (as in the differences of L-BFGS).

    Args:
        within: The pass beyond which nothing is asked where what is made is momentum: it holds gradients of all steps.
    """
    pending, seen, weights, read = [op], {op}, set[Value](), set[Value]()
    by: list[list[Value]] = []
    while pending and len(seen) < _FAR:
        looked = pending.pop(0)
        if looked.scope is not None and looked.scope.updating:
            return False
        for value in looked.inputs:
            maker = value.op
            read.add(value)
            if maker in seen:
                continue
            pass_ = _giver(value, passes) if maker is None else maker.pass_
            if maker is not None:
                seen.add(maker)
            if pass_ is not None and pass_.kind == GRADIENT_PASS:
                weights.update(weights_of(pass_))
                by.append([leaf.oldest for leaf in pass_.wrt])
            elif maker is not None and maker.pass_.kind == UPDATE_PASS and (within is None or maker.pass_ is within):
                pending.append(maker)
        if not weights.isdisjoint(read) or (within is None and any(others != by[0] for others in by[1:])):
            return False
    return bool(weights) and not pending


def _is_given(value: Value, passes: Sequence[Pass]) -> bool:
    """Whether no op has made a gradient that the program got, in this step: zeros, where none flows."""
    differentiated = False
    for pass_ in reversed(passes):
        if pass_.kind == GRADIENT_PASS:
            differentiated = True
            if value in pass_.given:
                return True
        elif pass_.kind == UPDATE_PASS and differentiated:
            return False
    return False


def _is_of_this_step(update: Pass, passes: Sequence[Pass]) -> bool:
    """Whether no gradient call has come after an update: an op of something else may stand between its lines."""
    later = takewhile(lambda pass_: pass_.number != update.number, reversed(passes))
    return all(pass_.kind != GRADIENT_PASS for pass_ in later)


def _giver(value: Value, passes: Sequence[Pass]) -> Pass | None:
    """Return the gradient call, of the last ones, that gave zeros."""
    if value.kind != "constant":
        return None
    near = islice(reversed(passes), _NEAR)
    return next((pass_ for pass_ in near if pass_.kind == GRADIENT_PASS and value in pass_.given), None)


def title(op: Op, kind: str) -> str:
    """Return what a pass is called that begins with an op outside of any transform of ours."""
    scope = op.scope
    if scope is None:
        return ""
    if kind == UPDATE_PASS and scope.updating:
        owner = next((step.owner for step in scope.path() if step.updating and step.owner is not None), None)
        return type(owner).__name__ if owner is not None else scope.code.co_qualname
    return scope.path()[0].code.co_qualname
