"""Edits: changing a value is an op like any other, so gradients flow through it by ordinary calculus."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field
from itertools import count
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.bounds import outside
from nnrepl.record.custom import in_first_run, in_own_vjp
from nnrepl.record.intake import RECORDING
from nnrepl.record.rebuilt import exchange
from nnrepl.record.recorder import RECORD, Recorder
from nnrepl.tape import GRADIENT_PASS, RUN_PASS, Activation, Gradient, Leaf, Op, Operation, Pass, Tape, Value, outermost
from nnrepl.tape.passes import inside_of

_copy = mx.array.__copy__
_full = mx.full
_numbers = count(1)


class BadEdit(Exception):
    """A change that cannot be made; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one value.

    Attributes:
        target: What is changed.
        name: What it is called.
        text: As the user wrote it.
        position: Where on the old tape it takes effect: what comes from there on sees it.
        ops: The ops that compute the new value; the last one's result is it.
    """

    target: Value
    name: str
    text: str
    position: int
    ops: list[Op] = field(default_factory=list)

    @property
    def result(self) -> Value:
        """The new value."""
        return self.ops[-1].outputs[0]


def _same(array: mx.array) -> mx.array:
    return _copy(array)


TAKE = Operation("edit", _same, "edit", kind="edit")


def make_edit(
    recorder: Recorder,
    target: Value,
    name: str,
    text: str,
    position: int,
    compute: Callable[[], Any],
    caller: Activation | None = None,
) -> Edit:
    """Compute a new value for `target` under recording, on a piece of tape of its own.

    Args:
        compute: Gives the new value: an array, or a number for all elements. The arrays that it works on must
            be linked to their values.
        caller: In which call of the program's the change is made.

    Raises:
        BadEdit: If the result is no tensor that can stand there.
        Exception: Whatever `compute` raises.
    """
    with _apart(recorder, target.tape) as scratch:
        given = compute()
        result = _as_array(given, target, name)
        if result is not given:
            recorder.leaf(result, "constant", str(given))
        made = recorder.value_of(result, recorder.frame())
        op = made.op
        if op is None or op not in scratch.ops or made is target:
            op = Op(TAKE, (made,), {}, (made,))
            recorder.finish(op, _copy(made.array), recorder.frame())
        elif op is not scratch.ops[-1]:
            scratch.ops.remove(op)
            scratch.ops.append(op)
        with recorder.muted():
            found = outside(scratch.ops)
        if found is not None:
            raise BadEdit(found.said)
    first = {value: _in_first_run(target.tape, value) for made_op in scratch.ops for value in made_op.inputs}
    for made_op in scratch.ops:  # where a block runs twice, the edit stands in its first run
        made_op.args, made_op.kwargs = exchange(made_op.args, first), exchange(made_op.kwargs, first)
        made_op.inputs = tuple([first[value] for value in made_op.inputs])
    edit = Edit(target, name, text, position, list(scratch.ops))
    scope = Activation(caller, compile("pass", remember_source(text), "exec"), -1, None)
    for made_op in edit.ops:
        made_op.scope, made_op.lasti = scope, -2  # the whole line
    _become(edit, op)
    if caller is not None and _follows(target.tape, position):
        target.tape.notes.following.update(edit.ops)
    return edit


def _follows(tape: Tape, position: int) -> bool:
    """Whether the op before a position is the last of a gradient pass, and a line of the program's makes the next: what
    the program has done with the gradients in between, it has done with those of the pass."""
    if not 0 < position < len(tape):
        return False
    before, pass_ = tape.ops[position - 1].pass_, tape.ops[position].pass_
    return before.kind == GRADIENT_PASS and pass_ is not before


def _become(edit: Edit, op: Op) -> None:
    """Let the result of an op stand for the target of an edit."""
    tape = edit.target.tape
    result = op.outputs[0]
    of = edit.target.gradient_of
    if of is not None:
        result = Gradient(op, 0, result.held, of)
    op.outputs = (result, *op.outputs[1:])
    tape.notes.labels[result] = edit.name
    tape.notes.edits[op] = edit.target
    tape.notes.inserted.update(edit.ops)


def _as_array(result: Any, target: Value, name: str) -> mx.array:
    if isinstance(result, mx.array):
        return result
    if isinstance(result, (bool, int, float, complex)):
        integral = not mx.issubdtype(target.dtype, mx.inexact)
        if integral and isinstance(result, (float, complex)) and result != int(result.real):
            raise BadEdit(f"{name} is {str(target.dtype).removeprefix('mlx.core.')}; {result} is not a whole number")
        if target.dtype == mx.bool_ and result not in (0, 1):
            raise BadEdit(f"{name} is bool; {result} is neither True nor False")
        return _full(target.shape, result, target.dtype)
    kind = type(result).__name__
    other = (
        f"; mx.array of it can: {name} = mx.array(...)"
        if isinstance(result, (list, tuple)) or kind == "ndarray"
        else ""
    )
    raise BadEdit(f"{name} is a tensor; a {kind} cannot stand there{other}")


@contextmanager
def _apart(recorder: Recorder, tape: Tape) -> Iterator[Tape]:
    """Record on a piece of tape of its own."""
    scratch = tape.apart(tape.names)
    pass_ = Pass(scratch, -1, RUN_PASS, "edit", 0)
    before = recorder.tape, recorder.pass_, recorder.differentiating, recorder.listener, recorder.intake, recorder.mode
    indexing = list(recorder.indexing)
    try:
        recorder.tape, recorder.pass_, recorder.differentiating = scratch, pass_, 1
        recorder.listener, recorder.intake, recorder.mode = None, RECORDING, RECORD
        yield scratch
    finally:
        (
            recorder.tape, recorder.pass_, recorder.differentiating, recorder.listener, recorder.intake, recorder.mode,
        ) = before  # fmt: skip
        recorder.indexing[:] = indexing  # what is done here is looked at here, and may be refused


def remember_source(text: str) -> str:
    """Return a file name under which the text of an edit can be shown as the source of its ops."""
    filename = f"<edit {next(_numbers)}>"
    linecache.cache[filename] = (len(text), None, [text + "\n"], filename)
    return filename


def place_of(tape: Tape, target: Value, cursor: int | None = None) -> tuple[Value, int]:
    """Return what an edit of `target` really changes, and from where it takes effect.

    What is differentiated is changed where it enters, so that everything sees it; all else, from the cursor on (without
    a cursor, from where it was made): others may hold it by names of theirs, and have read it before.
    """
    held = target
    while True:
        entered = next((pass_ for pass_ in tape.passes if target in pass_.wrt), None)
        if entered is not None and target.origin is not None:
            if cursor is not None and cursor >= entered.end:  # its pass is over, and has taken it as it was
                return held, cursor  # a checkpoint's second run leaves its own objects in a module
            return target.origin, entered.start
        before = None if in_own_vjp(tape, cursor) else _before(tape, target, cursor)
        if before is None:
            break
        target, cursor = before
    if target.op is None:
        return target, 0 if cursor is None else before_call(tape, cursor)
    made = target.op.position + 1
    return target, before_call(tape, made if cursor is None else max(cursor, made))


def said_inside(name: str, pass_: Pass, where: str = "it lies") -> str:
    """Say that something cannot be changed in a pass that is what happened inside of a call (`where`: what does so)."""
    whole = outermost(pass_)
    call = "a call" if whole.call is None else f"{whole.call.label} ({whole.call.name})"
    before = whole.tape.ops[whole.start].label
    return (
        f"{name} cannot be changed here: {where} inside of {call}, which MLX runs by itself, as one op; change "
        f"what goes in, at {before} (goto {before}), or what comes out"
    )


def before_call(tape: Tape, position: int) -> int:
    """Return where a change takes effect that is made before the op at `position`: what happened inside of a call that
    MLX ran by itself lies before the call's own op, and takes the change as the call does."""
    inside = inside_of(tape.ops[position]) if position < len(tape) else None
    return position if inside is None else inside.start


def _before(tape: Tape, value: Value, cursor: int | None = None) -> tuple[Value, int | None] | None:
    """Return what a value of a second run is in the first, and where the cursor would be there; None if it is of
    none."""
    if isinstance(value, Leaf) and value.origin is not None and not any(value in pass_.wrt for pass_ in tape.passes):
        return value.origin, cursor
    return in_first_run(tape, value, cursor)


def _in_first_run(tape: Tape, value: Value) -> Value:
    while (before := _before(tape, value)) is not None:
        value = before[0]
    return value
