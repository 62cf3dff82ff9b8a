"""Giving way: the operands of an update, where only the tape holds them, are MLX's to write over.

In plain Python nothing but the lazy graph holds them when the program evaluates, and the result is laid out as the
operand that MLX writes over (see `handing_back`). Which one that is, and with it the last bits of every product to
come, also depends on whether a weight is still waited for by what was lazy: so it is left to MLX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nnrepl.record.handing_back import compute, duplicate, is_arithmetic, let_go
from nnrepl.record.objects import another
from nnrepl.tape import Leaf, is_evaluated

if TYPE_CHECKING:
    from nnrepl.record.ledger import Ledger
    from nnrepl.tape import Op, Tape, Value


def give_way(recorder: Ledger, looking: bool = False, unseen: bool = False) -> None:
    """Let go of the operands of updates before they are evaluated, where only nnrepl holds them. What an op makes of
    others can be made again; of a weight a copy is kept.

    Args:
        looking: Whether it is the user who looks, before the program evaluates. The program holds the weight for some
            lines yet. If nothing waits for it any more, it is what will be written over, and the result lies as it
            does: as it lies where nothing is written over.
        unseen: Whether nobody will see when the program evaluates them: it runs natively from here on.

    A weight that is lazy itself, since the program evaluates only its losses, is left until it comes to that.
    """
    notes = recorder.tape.notes
    waiting = [op for op in notes.updates if (made := op.outputs[0].held) is not None and not is_evaluated(made)]
    notes.updates = []
    for op in waiting:
        shape = op.outputs[0].shape
        operands = [value for value in dict.fromkeys(op.inputs) if value.held is not None and value.shape == shape]
        weights = [value for value in operands if not (is_arithmetic(value) and _goes_with(value, op))]
        if looking:
            notes.updates.append(op)
            if not all([_is_awaited(recorder, value, op) for value in weights]):
                continue
        elif not (unseen or all([is_evaluated(value.array) for value in weights]) or op in _asked_for(recorder.tape)):
            notes.updates.append(op)
            continue
        for operand in operands:
            if operand not in weights and not is_evaluated(operand.array):
                let_go(recorder, operand)
            elif operand not in weights or not looking:
                _free(recorder, operand)


def _asked_for(tape: Tape) -> set[Op]:
    """Return the ops that MLX is about to do for the program."""
    found: set[Op] = set()
    pending = list(tape.marks[-1].values) if tape.marks else []
    while pending:
        value = pending.pop()
        op = value.op
        if op is None:
            pending += [value.origin] if value.origin is not None else []
        elif op not in found and not value.evaluated:
            found.add(op)
            pending += op.inputs
    return found


def _goes_with(value: Value, update: Op) -> bool:
    """Whether a value is made on the way to an update."""
    return value.op is not None and value.op.pass_ is update.pass_


def _is_awaited(recorder: Ledger, value: Value, update: Op) -> bool:
    """Whether an op beside an update takes a value that the program has not evaluated."""
    tape = recorder.tape
    since = tape.marks[-1].position if tape.marks else 0
    same = _same(recorder, value)
    return any([op is not update and not same.isdisjoint(op.inputs) for op in tape.ops[since:]])


def _same(recorder: Ledger, value: Value) -> set[Value]:
    """Return a value with what it continues, and what continues it in gradient calls."""
    same = {value}
    while value.origin is not None:
        value = value.origin
        same.add(value)
    for op in recorder.tape.ops[_since(value) :]:
        if op.position == op.pass_.start:
            same.update([leaf for leaf in op.pass_.wrt if leaf.origin in same])
    return same


def _since(value: Value) -> int:
    """Return from which position on ops can take a value."""
    if isinstance(value, Leaf):
        return value.entered
    return 0 if value.op is None else value.op.position + 1


def _free(recorder: Ledger, value: Value) -> None:
    """Let go of a value, of all that is the same, and of what may be a view of it; hold a copy where it has been
    evaluated, else the ops make it again."""
    from nnrepl.ops import Trait, has

    same, kept = _same(recorder, value), None
    if value.evaluated:
        kept = duplicate(value.array)
        compute([kept])
    elif not is_arithmetic(value):
        return
    for op in recorder.tape.ops[min(map(_since, same)) :]:
        if not same.isdisjoint(op.inputs) and has(op.name, Trait.ARRANGES, Trait.CONVERTS, Trait.PICKS):
            for output in op.outputs:
                if output.held is not None:
                    let_go(recorder, output)
    for one in same:
        if one.held is not None:
            let_go(recorder, one)
            one.held = None if kept is None else another(kept)
