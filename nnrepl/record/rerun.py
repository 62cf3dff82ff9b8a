"""Running again: the program's ops meet the tape, and get from it what is there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.guide import Unwinding, copy_op
from nnrepl.tape import SETUP_PASS, Gradient, Leaf, Op, Pass, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_copy = mx.array.__copy__
_setitem = mx.array.__setitem__
_imatmul, _ipow, _imul = mx.array.__imatmul__, mx.array.__ipow__, mx.array.__imul__
_zeros = mx.zeros


class CannotExchange(Unwinding):
    """An array object of the program's cannot take another shape or dtype."""


class Slot(int):
    """The place of an array in what an op returned."""


def _fill_slots(structure: Any, give: Callable[[int], mx.array]) -> Any:
    if isinstance(structure, Slot):
        return give(structure)
    if isinstance(structure, dict):
        return {key: _fill_slots(item, give) for key, item in structure.items()}
    if isinstance(structure, (list, tuple)):
        items = [_fill_slots(item, give) for item in structure]
        if isinstance(structure, list):
            return items
        return type(structure)(*items) if hasattr(structure, "_fields") else tuple(items)
    return structure


def recall(recorder: Recorder, op: Op, frame: FrameType) -> Op | None:
    """In a re-run: if `op` is one of the tape, put that on the new tape and return it; nothing is computed.

    Raises:
        Diverged: If the tape has another op here.
        Exception: What the recorded op raised.
    """
    guide = recorder.guide
    assert guide is not None
    if not guide.replaying(len(recorder.tape)):
        op.scope, op.lasti = recorder.stack.enter(frame), frame.f_lasti
        known = guide.same(op)
        if known is None:
            return None
        take_over(recorder, op, known)
        recorder.put(op, frame)
        return op
    old = guide.expect(recorder, op)
    twin = copy_op(old, old.part, 0)
    recorder.put(twin, frame)
    error = recorder.tape.errors.get(old)
    if error is not None:
        raise error
    return twin


def take_over(recorder: Recorder, op: Op, old: Op, of: Sequence[Value] = ()) -> None:
    """Give an op the results of an old one that computed the same: values of its own on the same arrays.

    Args:
        of: What they are the gradients of, in the backward pass.
    """
    tape, guide = recorder.tape, recorder.guide
    assert guide is not None
    outputs = []
    for slot, value in enumerate(old.outputs):
        held = None if value.held is None else _copy(value.held)
        twin = Gradient(op, slot, held, of[slot]) if of else Value(op, slot, held)
        if held is None:
            tape.sketches[twin] = (value.shape, value.dtype)
            if value in tape.dropped:
                tape.dropped.add(twin)
        if value in tape.labels:
            tape.labels[twin] = tape.labels[value]
        guide.was[twin] = value
        outputs.append(twin)
    op.outputs = tuple(outputs)
    if old in tape.structures:
        tape.structures[op] = tape.structures[old]


def hand_out(recorder: Recorder, op: Op) -> Any:
    """What a recorded op returned, with fresh handles on its values."""
    structure = recorder.tape.structures.get(op)
    if structure is None:
        return recorder.handle(op.outputs[0])
    return _fill_slots(structure, lambda slot: recorder.handle(op.outputs[slot]))


def seed(recorder: Recorder, number: int, array: mx.array) -> Value | None:
    """The gradient from which the backward pass of the run before started, if this one starts from the same."""
    part = None if recorder.guide is None else recorder.guide.old_pass(recorder.tape)
    if part is None or number >= len(part.roots):
        return None
    found = part.roots[number][1]
    return found if isinstance(found, Leaf) and (found.shape, found.dtype) == (array.shape, array.dtype) else None


def leaf(recorder: Recorder, number: int, origin: Value) -> Value | None:
    """The leaf number `number` of this pass in the run before, if it came from the same value."""
    guide = recorder.guide
    part = None if guide is None else guide.old_pass(recorder.tape)
    if guide is None or part is None or number >= len(part.wrt):
        return None
    found = part.wrt[number]
    return found if found.origin is guide.was.get(origin, origin) else None


def insert(recorder: Recorder) -> None:
    """Put the ops that a person inserted here on the tape, and let their results take effect."""
    while recorder.guide is not None:
        op = recorder.guide.inserted(len(recorder.tape.ops))
        if op is None:
            return
        part = recorder.part if recorder.part is not None else _reopened_pass(recorder)
        twin = copy_op(op, part, len(recorder.tape.ops))
        if recorder.started and part is not recorder.part and twin.position == recorder.tape.origin:
            recorder.tape.origin += 1  # what is changed before #1 is setup
        recorder.tape.ops.append(twin)
        for value in op.outputs:
            if value.op is op:
                value.op = twin
        if part is not recorder.part:
            part.end = len(recorder.tape.ops)
        target = recorder.tape.edits.get(op)
        if target is not None:
            exchange(recorder, target, op.outputs[0])


def _reopened_pass(recorder: Recorder) -> Pass:
    """The pass before the one that begins: what is inserted at its end belongs to it."""
    passes = recorder.tape.passes
    if not passes:
        part = recorder.open_pass(SETUP_PASS, "")
        recorder.part = None
        return part
    passes[-1] = replace(passes[-1], tape=recorder.tape)
    return passes[-1]


def exchange(recorder: Recorder, old: Value, new: Value) -> None:
    """From now on everything that held `old` holds `new`. Arrays that the program has had for longer are
    changed in place.

    Raises:
        CannotExchange: If one of them has another shape or dtype.
    """
    content = new if recorder.guide is None else recorder.guide.content(new)
    for key, value in list(recorder.live.items()):
        if value is old:
            array = object_of(recorder, key, old)
            if array is not None:
                _overwrite(recorder, array, old, content)
    recorder.relink({old: new})
    recorder.watch.restated(lambda array: recorder.live.get(id(array)) is new)
    for sweep in recorder.sweeps:
        sweep.exchange(old, new)


def refresh(recorder: Recorder) -> None:
    """Give the program's objects the content that they are to have on this timeline: at the entry of a pass some
    may hold what an edit further on, of another timeline, had made of them."""
    assert recorder.guide is not None
    edited = set(recorder.tape.edits.values())
    for key, value in list(recorder.live.items()):
        array = object_of(recorder, key, value) if value in edited else None
        if array is not None:
            refill(array, recorder.guide.content(value).array)


def object_of(recorder: Recorder, key: int, value: Value) -> mx.array | None:
    """The array object of the program's that is known under an `id`."""
    guard = recorder.guards.get(key)
    array = None if guard is None else guard()
    return value.held if array is None and id(value.held) == key else array


def _overwrite(recorder: Recorder, array: mx.array, old: Value, content: Value) -> None:
    same = array.shape == content.shape
    if array.dtype != content.dtype or not (same or mx.issubdtype(array.dtype, mx.floating)):
        raise CannotExchange(
            f"the program holds it as {array.shape} {array.dtype}, which cannot become {content.shape} {content.dtype}"
        )
    if old.held is array:
        old.held = _copy(array)
        recorder.overwritten.append((old, array))
    refill(array, content.array)


def refill(array: mx.array, content: mx.array) -> None:
    """Give an array object another content, of another shape if need be (if both are floats of one dtype):
    MLX's in-place operators write their result's shape into the object."""
    if array.shape == content.shape:
        _setitem(array, Ellipsis, content)
        return
    while array.ndim:
        _imatmul(array, _zeros((array.shape[-1],), array.dtype))
    _ipow(array, 0)  # 1, whatever it was
    _imul(array, content)


def deliver(recorder: Recorder, array: mx.array, value: Value) -> None:
    """Give an array object of the program's the content of a recorded value, in place."""
    holder = recorder.live.get(id(array))
    if holder is not None and holder.held is array:
        holder.held = _copy(array)
    source = value if recorder.guide is None else recorder.guide.content(value)
    _setitem(array, Ellipsis, source.array)
    recorder.link(array, value)
