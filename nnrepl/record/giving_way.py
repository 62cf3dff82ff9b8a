"""Giving way: the operands of an update, where only the tape holds them, are MLX's to write over.

In plain Python nothing but the lazy graph holds them when the program evaluates, and the result is laid out as the
operand that MLX writes over (see `handing_back`). Which one that is, and with it the last bits of every product to
come, also depends on whether a weight is still waited for by what was lazy: so it is left to MLX.
"""

from __future__ import annotations

import gc
import types
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.handing_back import HOLDERS, compute, duplicate, is_arithmetic, let_go
from nnrepl.record.objects import another, object_of, refill
from nnrepl.tape import Leaf, is_evaluated

if TYPE_CHECKING:
    from nnrepl.record.ledger import Ledger
    from nnrepl.tape import Op, Value

_AROUND = 2_000
"""So many things around a weight are looked at before it counts as held."""


def give_way(recorder: Ledger, looking: bool = False) -> None:
    """Let go of the operands of updates before they are evaluated, where only nnrepl holds them. What an op makes of
    others can be made again; of a weight a copy is kept.

    Args:
        looking: Whether it is the user who looks, before the program evaluates. The program holds the weight for some
            lines yet. If nothing waits for it any more, it is what will be written over, and the result lies as it
            does: as it lies where nothing is written over.
    """
    notes = recorder.tape.notes
    waiting = [op for op in notes.updates if (made := op.outputs[0].held) is not None and not is_evaluated(made)]
    notes.updates = waiting if looking else []
    for op in waiting:
        shape = op.outputs[0].shape
        operands = [value for value in dict.fromkeys(op.inputs) if value.held is not None and value.shape == shape]
        if looking and not all([is_arithmetic(value) or _is_awaited(recorder, value, op) for value in operands]):
            continue
        for operand in operands:
            temporary = is_arithmetic(operand)
            if not is_evaluated(operand.array):
                if temporary:
                    let_go(recorder, operand)
            elif temporary or not looking:
                _copy_out(recorder, operand)


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


def _copy_out(recorder: Ledger, value: Value) -> None:
    """Hold a copy of a value, and of all that is the same; let go of what may be a view of it."""
    from nnrepl.ops import Trait, has

    same = _same(recorder, value)
    kept, objects, copies = duplicate(value.array), _objects(recorder, same) if HOLDERS else [], []
    for holder in HOLDERS:
        copies += [copy for array in objects if (copy := holder.copy_of(array)) is not None]
    if copies:
        if _is_reached(objects):
            return
        for array in (*objects, *copies):
            refill(array, kept)
    compute([kept, *objects, *copies])
    for op in recorder.tape.ops[min(map(_since, same)) :]:
        if not same.isdisjoint(op.inputs) and has(op.name, Trait.ARRANGES, Trait.CONVERTS, Trait.PICKS):
            for output in op.outputs:
                if output.held is not None:
                    let_go(recorder, output)
    for one in same:
        held = one.held
        if held is not None:
            if recorder.live.get(id(held)) is one:
                recorder.link(held, one)
            one.held = another(kept)


def _objects(recorder: Ledger, values: set[Value]) -> list[mx.array]:
    """Return the program's array objects that stand for some values."""
    known = [(key, value) for key, value in recorder.live.copy().items() if value in values]
    return [array for key, value in known if (array := object_of(recorder, key, value)) is not None]


def _is_reached(objects: list[mx.array]) -> bool:
    """Whether the program still reaches one of its array objects, by another way than through nnrepl. Asked only where
    a restart point holds them too, since the collector goes through all that there is for each step of the way."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()  # what is frozen is not looked through
    try:
        return _leads_out(objects)
    finally:
        if frozen:
            gc.freeze()


def _leads_out(objects: list[mx.array]) -> bool:
    """Whether a way from some array objects, from what holds them to what holds that, ends in the program."""
    level: list[Any] = list(objects)
    seen = {id(objects)}
    while level:
        seen |= {id(level), *map(id, level)}
        holders = [thing for thing in gc.get_referrers(*level) if id(thing) not in seen]
        if len(seen) > _AROUND or any(map(_is_the_programs, holders)):
            return True
        level = [thing for thing in holders if not _is_ours(thing)]
        del holders  # it would be found to hold them, too
    return False


def _is_ours(thing: Any) -> bool:
    """Whether something is nnrepl's own."""
    if isinstance(thing, types.FrameType):
        return str(thing.f_globals.get("__name__", "")).partition(".")[0] == "nnrepl"
    module = thing.__module__ if isinstance(thing, types.FunctionType) else type(thing).__module__
    return str(module).partition(".")[0] == "nnrepl"


def _is_the_programs(thing: Any) -> bool:
    """Whether something is a place from which a program holds what it holds."""
    if isinstance(thing, types.FrameType):
        return not _is_ours(thing)
    return isinstance(thing, (types.ModuleType, type)) or (isinstance(thing, dict) and "__builtins__" in thing)
