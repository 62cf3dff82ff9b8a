"""Assigned paths: what the line of an edit assigns to, where that leads in the program, and whether it is there yet."""

from __future__ import annotations

import ast
import linecache
from collections import deque
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from nnrepl.tape import Leaf, Op, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


def target_of(op: Op) -> ast.expr | None:
    """Return what an edit assigns to, if it gives a name another tensor (`k = ...`, `self.k = ...`, `cache["k"] = ...`)
    and does not change one in place (`k *= 2`)."""
    line = _line_of(op)
    if not isinstance(line, ast.Assign) or len(line.targets) != 1:
        return None
    target = line.targets[0]
    return target if _is_path(target) else None


def changed_in_place(op: Op) -> list[ast.expr]:
    """Return what an edit may change in place, as paths: `k` for `k *= 2` and `k[0] = 1`, `c["k"]` or `c` for `c["k"]
    *= 2`."""
    line = _line_of(op)
    if isinstance(line, ast.AugAssign):
        target: ast.expr = line.target
        found = [target]
    elif isinstance(line, ast.Assign) and len(line.targets) == 1:
        target = line.targets[0]
        found = []
    else:
        return []
    if isinstance(target, ast.Subscript):
        found.append(target.value)
    return [path for path in found if _is_path(path)]


def _line_of(op: Op) -> ast.stmt | None:
    """Return the line of an edit that was typed."""
    if op.scope is None or op.scope.parent is None:
        return None
    try:
        body = ast.parse("".join(linecache.getlines(op.scope.code.co_filename))).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return body[0] if len(body) == 1 else None


def _is_key(node: ast.expr) -> bool:
    """Whether a key is written out: `"k"`, `0`, `-1`."""
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    return isinstance(node.operand if negative else node, ast.Constant)  # type: ignore[attr-defined]


def _is_path(node: ast.expr) -> bool:
    """Whether an expression leads from a variable over attributes and constant keys."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        if isinstance(node, ast.Subscript) and not _is_key(node.slice):
            return False
        node = node.value
    return isinstance(node, ast.Name)


def root_of(target: ast.expr | None) -> str:
    """Return the variable with which a path begins."""
    while isinstance(target, (ast.Attribute, ast.Subscript)):
        target = target.value
    return target.id if isinstance(target, ast.Name) else ""


def walk(thing: Any, target: ast.expr | None, frame: FrameType | None = None) -> tuple[Any, Any, Any]:
    """Follow a path from what its variable holds: the last container, the key in it, and what is there (None if it
    does not lead there). In a call, keys may be variables."""
    steps: list[ast.Attribute | ast.Subscript] = []
    while isinstance(target, (ast.Attribute, ast.Subscript)):
        steps.insert(0, target)
        target = target.value
    container: Any = None
    key: Any = None
    for step in steps:
        container = thing
        try:
            if isinstance(step, ast.Attribute):
                key = step.attr
                thing = getattr(container, key)
            else:
                key = _key(step.slice, frame)
                thing = container[key]
                if type(key) is int and key < 0 and isinstance(container, (list, tuple, deque)):
                    # `xs[-1]` and `xs[2]` are one entry.
                    key += len(container)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            return None, None, None
    return container, key, thing


def _key(node: ast.expr, frame: FrameType | None) -> Any:
    """Return a key that is written out, or that a variable of a call holds. Raises ValueError for others."""
    if frame is None or not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    own = frame.f_locals
    return own[node.id] if node.id in own else frame.f_globals[node.id]


def waits(recorder: Recorder, op: Op, edits: Mapping[Op, Value], calling: bool) -> bool:
    """Whether an edit cannot be made yet: a function of whose variables it changes one is about to be called, or it
    changes what a backward pass begins with (`grad(loss)`) that has not begun."""
    target = edits.get(op)
    if isinstance(target, Leaf) and target.kind == "seed":
        return not recorder.sweeps
    return calling and lies_inside(recorder, op)


def lies_inside(recorder: Recorder, op: Op) -> bool:
    """Whether an edit gives another tensor to a variable in a function that does not run yet, or changes one that it
    is about to be handed."""
    variable = isinstance(target_of(op), ast.Name) or any(isinstance(path, ast.Name) for path in changed_in_place(op))
    return variable and lies_deeper(recorder, op)


def lies_deeper(recorder: Recorder, op: Op) -> bool:
    """Whether an edit lies in a function of which no call is running."""
    if op.scope is None or op.scope.parent is None:
        return False
    path, frames = op.scope.parent.path(), recorder.stack.frames()
    return len(path) > len(frames) and all(step.code is frame.f_code for step, frame in zip(path, frames))
