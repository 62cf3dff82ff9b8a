"""Made again: the op for whose result the program waits, after a line that was typed before it and done at once.

That op has read its operands already. Where its source names what the line has changed, it is computed once more on
what they are now, and the program gets that result: the line stands before it, as it would in the source.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import mlx.core as mx

from nnrepl.record import segments as sources
from nnrepl.record.frame_variables import namespace
from nnrepl.record.objects import deliver, object_of
from nnrepl.record.rebuilt import rebuilt
from nnrepl.record.recorder import Recorder
from nnrepl.record.renamed import PATHS, operand_nodes
from nnrepl.replay.divergence import CannotExchange, said_of
from nnrepl.session.typed_lines import running_frames
from nnrepl.tape import Op, Value


def awaited_results(recorder: Recorder, op: Op | None) -> list[mx.array]:
    """Return the array objects that the program is about to get of the last op; none where it cannot be made again: it
    has given something else than tensors, changed one in place, or failed."""
    if op is None or op.inner or op.operation.kind != "op" or op.operation.in_place:
        return []
    if op in recorder.tape.notes.errors:
        return []
    live = recorder.live.copy().items()
    found = [object_of(recorder, key, value) for key, value in live if value.op is op and value in op.outputs]
    return [array for array in found if array is not None]


def operands(recorder: Recorder, op: Op, names: frozenset[str]) -> dict[int, Any]:
    """Return which arguments of the last op its source names, by their numbers, and what they are now, as far as a line
    may change them that speaks of some names."""
    frame = _frame_of(op)
    if op.scope is None or frame is None:
        return {}
    with recorder.muted():
        return {at: recorder.scan(thing, [], frame) for at, thing in _operands(op, op.scope.code, frame, names)}


def make_again(
    recorder: Recorder, op: Op, results: list[mx.array], before: dict[int, Any], names: frozenset[str]
) -> None:
    """Make the last op once more.

    Args:
        results: What the program is about to get.
        before: What `operands` gave before the line was done.

    Raises:
        CannotExchange: If it fails.
    """
    now, frame = operands(recorder, op, names), _frame_of(op)
    args = [now.get(at, arg) if _is_same(before.get(at), arg) else arg for at, arg in enumerate(op.args)]
    inputs: list[Value] = []
    rebuilt((args, op.kwargs), lambda value: inputs.append(value) or value)  # type: ignore[func-returns-value]
    again = Op(op.operation, tuple(args), op.kwargs, tuple(inputs))
    again.scope, again.lasti, again.pass_ = op.scope, op.lasti, op.pass_
    notes = recorder.tape.notes
    notes.carry(op, again, {})
    standing = [(array, recorder.live[id(array)].slot) for array in results]
    try:
        made = again.compute()
    except Exception as error:  # whatever MLX raises: the program would meet it there
        raise CannotExchange(f"{op.label} {op.name} refuses it ({said_of(error)})") from None
    again.outputs = tuple([Value(again, old.slot, array) for old, array in zip(op.outputs, made)])
    for old, value in zip(op.outputs, again.outputs):
        notes.carry_value(old, value)
    for array, slot in standing:
        deliver(recorder, array, again.outputs[slot])
    notes.awaited |= {op, again}
    if frame is not None:
        recorder.put(again, frame)
    else:
        recorder.place(again)


def _frame_of(op: Op) -> FrameType | None:
    """Return the frame whose line makes an op, where it runs: in a repeated call of a compiled function none does."""
    return next((frame for frame in running_frames() if op.scope is not None and frame.f_code is op.scope.code), None)


def _operands(op: Op, code: CodeType, frame: FrameType, names: frozenset[str]) -> Iterator[tuple[int, Any]]:
    """Yield what the arguments are now that an op's source names, by their numbers."""
    local = namespace(frame)
    nodes = operand_nodes(sources.node_at(code, sources.span_of(code, op.lasti)), op.operation, len(op.args))
    for at, node in enumerate(nodes):
        parts = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]
        paths = [part for part in parts if isinstance(part, PATHS)]
        if node is None or len(paths) < len(parts):
            continue
        # To ask an attribute may do something; the line has to speak of what is asked.
        asked = [name.id for part in paths for name in ast.walk(part) if isinstance(name, ast.Name)]
        plain = not any(isinstance(inner, ast.Attribute) for part in paths for inner in ast.walk(part))
        if plain or not names.isdisjoint(asked):
            text = compile(ast.Expression(node), code.co_filename, "eval", dont_inherit=True)
            with contextlib.suppress(Exception):  # what cannot be read any more it has as before
                yield at, eval(text, frame.f_globals, local)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two arguments are the same values, or equal constants."""
    if one is other or type(one) is not type(other) or isinstance(one, Value):
        return one is other
    try:
        return bool(one == other)
    except Exception:  # an array of NumPy's has many answers
        return False
