"""Other tape: what is where on the tape of another timeline, and why an edit cannot stay on one."""

from __future__ import annotations

from nnrepl.tape import Op, Tape


def refusal(old: Tape, new: Tape, position: int) -> str | None:
    """Why an edit cannot stay: the op that takes it raises, and nothing had been wrong before."""
    part = new.passes[-1] if new.passes else None
    if part is None or part.error is None or (old.passes and old.passes[-1].error is not None):
        return None
    op = new.ops[-1]
    changed = {value for edit in new.ops[position:] if edit in new.notes.edits for value in edit.outputs}
    changed.update([leaf for leaf in part.wrt if leaf.origin in changed])
    if op.error is None or changed.isdisjoint(op.inputs):
        return None
    return f"{op.label} {op.name} refuses it ({str(op.error).splitlines()[0]})"


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
    """Whether an op comes from a user: an edit, or the gradient of one."""
    return op in tape.notes.inserted or (op.of is not None and op.of in tape.notes.inserted)
