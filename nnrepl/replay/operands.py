"""Operands: what an expression had read before an edit gave a name another tensor is the old one, up to its end."""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record import segments as sources
from nnrepl.record.intake import RECORDING, Intake
from nnrepl.record.renamed import PATHS, operand_nodes
from nnrepl.tape import Operation

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


@dataclass(slots=True)
class _Pending:
    """A call that is in the middle of an expression.

    Attributes:
        span: The expression.
        new: What reads the new tensor in it, as text; "" where nothing does.
        seen: How far in it the call has come since. What is made there once more is in another turn of a loop in it
            (a comprehension), and has been read anew.
    """

    span: sources.Span
    new: str
    seen: int = -1


class Operands:
    """What calls in the middle of an expression had read before an edit took effect.

    Args:
        other: Gives what is to be taken where the old tensor had been read.
        is_new: Whether a path in a call reads the new one, in another spelling (`grads[k]`).
    """

    def __init__(self, other: Callable[[Any], Any], is_new: Callable[[FrameType, str], bool]) -> None:
        self._other = other
        self._is_new = is_new
        self._pending: dict[FrameType, _Pending] = {}

    def note(self, frame: FrameType, new: str) -> None:
        """Note that a call is in the middle of an expression, in which `new` reads the new tensor."""
        span = expression_of(frame)
        if span is not None:
            self._pending[frame] = _Pending(span, new)

    def are_left(self, frames: list[FrameType]) -> bool:
        """Whether any of the calls that run now is still in that expression."""
        running = {
            frame: pending
            for frame, pending in self._pending.items()
            if frame in frames and expression_of(frame) == pending.span
        }
        self._pending = running
        return bool(running)

    def taken(self, operation: Operation, args: tuple[Any, ...], frame: FrameType) -> tuple[Any, ...]:
        """Return the arguments of an op: what an expression had read from elsewhere before the exchange is the old
        one."""
        pending = self._pending.get(frame)
        if pending is None:
            return args
        if expression_of(frame) != pending.span:
            del self._pending[frame]
            return args
        if frame.f_lasti <= pending.seen:
            return args
        pending.seen = frame.f_lasti
        node = sources.node_at(frame.f_code, sources.span_of(frame.f_code, frame.f_lasti))
        nodes = operand_nodes(node, operation, len(args))
        return tuple([self._before(arg, frame, node, pending.new) for arg, node in zip(args, nodes)])

    def _parts_before(self, arg: Any, frame: FrameType, node: ast.List | ast.Tuple, new: str) -> Any:
        """Return a list or tuple of arguments (`mx.stack([k, s])`) with its parts as they were read."""
        starred = [at for at, part in enumerate(node.elts) if isinstance(part, ast.Starred)]
        parts: list[ast.expr] = [*node.elts]
        if starred:
            part = node.elts[starred[0]]
            assert isinstance(part, ast.Starred)
            parts[starred[0] : starred[0] + 1] = [part.value] * (len(arg) - len(parts) + 1)
        if len(starred) > 1 or len(parts) != len(arg):
            return arg
        found = [self._before(item, frame, part, new) for item, part in zip(arg, parts)]
        return arg if all([a is b for a, b in zip(arg, found)]) else type(arg)(found)

    def _before(self, arg: Any, frame: FrameType, node: ast.expr | None, new: str) -> Any:
        """Return an argument as it was read: what a call has given that keeps a tensor (a cache) is the old one, unless
        it has been handed the new one."""
        if type(arg) in (list, tuple) and isinstance(node, (ast.List, ast.Tuple)):
            return self._parts_before(arg, frame, node, new)
        other = self._other(arg) if isinstance(arg, mx.array) else arg
        if other is arg or not isinstance(node, (*PATHS, ast.Call)):
            return arg
        if isinstance(node, ast.Call):
            return (
                arg if any(isinstance(part, PATHS) and ast.unparse(part) == new for part in ast.walk(node)) else other
            )
        text = ast.unparse(node)
        return arg if text == new or self._is_new(frame, text) else other


class StillTaken(Intake["Recorder"]):
    """The intake of a run that has done again all that its tape has, and stands in the middle of an expression."""

    follows = True

    def __init__(self, left: Operands) -> None:
        self._operands = left

    def enter(self, recorder: Recorder, calling: bool = False, due: bool = True) -> None:
        if not self._operands.are_left(recorder.stack.frames()):
            recorder.intake = RECORDING

    def taken(self, operation: Operation, args: tuple[Any, ...], frame: FrameType) -> tuple[Any, ...]:
        return self._operands.taken(operation, args, frame)


def expression_of(frame: FrameType) -> sources.Span | None:
    """Return the whole expression in which a call stands; None if its source is not known."""
    return sources.expression_around(frame.f_code, frame.f_lasti)


def tree_of(frame: FrameType, span: sources.Span) -> ast.AST | None:
    """Return an expression of a call's as a tree."""
    return sources.node_at(frame.f_code, span)


def reads_later(frame: FrameType, text: str) -> bool:
    """Whether an expression reads a variable, if at all, after the call in it that is being made has returned."""
    span = expression_of(frame)
    tree = None if span is None else tree_of(frame, span)
    if tree is None:
        return False
    _, line, _, column = sources.span_of(frame.f_code, frame.f_lasti)
    read = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == text]
    return all((node.lineno, node.col_offset) >= (line, column) for node in read)


def reads(frame: FrameType, text: str) -> bool:
    """Whether the call that a function is making reads a variable or a path: what else stands in its expression is
    not handed on."""
    span = expression_of(frame)
    tree = tree_of(frame, sources.span_of(frame.f_code, frame.f_lasti))
    if tree is None and span is not None:
        tree = tree_of(frame, span)
    return tree is not None and _has(tree, text)


def shows(frame: FrameType, text: str) -> bool:
    """Whether an expression puts a variable or a path into a list, tuple, dict or set that it writes out."""
    span = expression_of(frame)
    tree = None if span is None else tree_of(frame, span)
    return tree is not None and any(
        isinstance(node, (ast.List, ast.Tuple, ast.Dict, ast.Set)) and _has(node, text) for node in ast.walk(tree)
    )


def _has(tree: ast.AST, text: str) -> bool:
    return any(
        isinstance(node, PATHS) and isinstance(node.ctx, ast.Load) and ast.unparse(node) == text
        for node in ast.walk(tree)
    )
