"""Other tape: what is where on the tape of another timeline, and why an edit cannot be made or stay."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from nnrepl.session.errors import UserError
from nnrepl.tape import Op, Tape, Value


def check_kind(value: Value, name: str, new: Any) -> None:
    """MLX would cut 0.5 down to 0 without a word."""
    if mx.issubdtype(value.dtype, mx.inexact):
        return
    fraction = isinstance(new, float) and not new.is_integer()
    if fraction or (isinstance(new, mx.array) and mx.issubdtype(new.dtype, mx.inexact)):
        kind = str(value.dtype).removeprefix("mlx.core.")
        shown = new if fraction else f"a tensor of {str(new.dtype).removeprefix('mlx.core.')}"
        raise UserError(f"{name} is {kind}; {shown} does not fit into it without loss")


def refusal(old: Tape, new: Tape, position: int) -> str | None:
    """Why an edit cannot stay: the op that takes it raises, and nothing had been wrong before."""
    pass_ = new.passes[-1] if new.passes else None
    if pass_ is None or pass_.error is None or (old.passes and old.passes[-1].error is not None):
        return None
    op = new.ops[-1]
    changed = {value for edit in new.ops[position:] if edit in new.notes.edits for value in edit.outputs}
    changed.update([leaf for leaf in pass_.wrt if leaf.origin in changed])
    if op.error is None or changed.isdisjoint(op.inputs):
        return None
    return f"{op.label} {op.name} refuses it ({str(op.error).splitlines()[0]})"


def left_out(tape: Tape, position: int, cursor: int) -> int:
    """How many ops of the user's lie between a position and the cursor: a run from there makes them no more."""
    return sum(op in tape.notes.inserted or op in tape.notes.typed for op in tape.ops[position:cursor])


def same_place(old: Tape, cursor: int, new: Tape) -> int:
    """Where the cursor is on another tape: before the op that is as many ops of the program's from the start."""
    if cursor >= len(old):
        return len(new)
    begins, start, end = 0, 0, len(new)
    if old.closed or new.closed:  # of closed steps nobody knows how many ops they have
        number = old.steps.number_at(cursor)
        if number > len(new.steps):
            return len(new)
        begins, there = old.steps.start_of(number) or 0, new.steps.at(new.steps.start_of(number) or 0)
        start, end = there.start, there.end
    wanted = sum(not _inserted(op, old) for op in old.ops[begins:cursor])
    for at, op in enumerate(new.ops[start:end], start):
        if _inserted(op, new):
            continue
        if not wanted:
            return at
        wanted -= 1
    return end


def _inserted(op: Op, tape: Tape) -> bool:
    """Whether an op comes from a user: an edit, what a typed line makes, or the gradient of one."""
    notes, made = tape.notes, op if op.of is None else op.of
    return op in notes.inserted or made in notes.inserted or made in notes.typed
