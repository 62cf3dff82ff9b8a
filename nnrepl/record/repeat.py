"""Repeat: put ops that were recorded once on the tape again, on other inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.tape import GRADIENT_PASS, Activation, BackwardOp, DrawnKey, Gradient, Leaf, Op, Pass, Value

_copy, _uniform = mx.array.__copy__, mx.random.uniform

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


class Caller:
    """Gives the calls in which ops were made another caller: a compiled function is called from many places.

    Args:
        old: The call from which the ops were made.
        new: The call from which they are made now, and where in it.
    """

    def __init__(self, old: Activation | None, new: Activation | None, lasti: int) -> None:
        self._lasti = lasti
        self._known: dict[Activation | None, Activation | None] = {old: new}
        self._new = new

    def scope(self, old: Activation | None) -> Activation | None:
        """The call that stands for `old`."""
        known = self._known
        missing: list[Activation] = []
        step = old
        while step not in known and step is not None:
            missing.append(step)
            step = step.parent
        if step not in known:
            return old  # not made from there
        for made in reversed(missing):
            parent = known[made.parent]
            lasti = self._lasti if parent is self._new else made.lasti
            known[made] = Activation(parent, made.code, lasti, made.owner, made.updating, made.variables)
        return known[old]


def repeat(recorder: Recorder, ops: list[Op], now: dict[Value, Value], caller: Caller, draws: bool = False) -> None:
    """Put `ops` on the tape again, pass by pass.

    Args:
        recorder: Writes on its tape.
        ops: Ops of earlier passes, in order.
        now: Which value stands for which old one; the new results are added to it.
        caller: From where the ops are made now.
        draws: Whether random numbers are drawn anew from the global state; else they are those of the ops.
    """
    again: dict[Op, Op] = {}
    copies: dict[Pass, Pass] = {}
    for op in ops:
        part = copies.get(op.part)
        if part is None:
            part = copies[op.part] = _open(recorder, op.part)
            _enter_leaves(recorder, op.part, now)
        inputs = tuple([now.get(value, value) for value in op.inputs])
        args, kwargs = exchange(op.args, now), exchange(op.kwargs, now)
        if op.of is None:
            new = Op(op.operation, args, kwargs, inputs)
        else:
            new = BackwardOp(op.operation, args, kwargs, inputs, again.get(op.of, op.of))
        new.scope, new.lasti, new.part = caller.scope(op.scope), op.lasti, part
        if op in recorder.tape.streams:
            recorder.tape.streams[new] = recorder.tape.streams[op]
        recorder.intake.enter(recorder)
        if not _known(recorder, new, op, now):
            new.outputs = _outputs(recorder, op, new, now, draws)
        new.position = len(recorder.tape.ops)
        recorder.tape.ops.append(new)
        again[op] = new
    for old, part in copies.items():
        _close(recorder, old, part, now, again)


def _known(recorder: Recorder, new: Op, op: Op, now: dict[Value, Value]) -> bool:
    """Whether an op has its results already, in a run that follows a tape."""
    gradients = [value.gradient_of for value in op.outputs if value.gradient_of is not None]
    if not recorder.intake.repeated(recorder, new, [now.get(value, value) for value in gradients]):
        return False
    now.update(zip(op.outputs, new.outputs))
    return True


def _enter_leaves(recorder: Recorder, old: Pass, now: dict[Value, Value]) -> None:
    """The leaves with which a pass began come from other values now."""
    for leaf in old.wrt:
        origin = leaf.origin
        if origin is not None and origin in now and isinstance(leaf, Leaf):
            array = _copy(now[origin].array)
            now[leaf] = recorder.leaf(array, leaf.kind, leaf.label, now[origin])


def exchange(part: Any, now: dict[Value, Value]) -> Any:
    """An argument with other Values in it."""
    kind = type(part)
    if isinstance(part, Value):
        return now.get(part, part)
    if kind is list or kind is tuple:
        return kind([exchange(item, now) for item in part])
    if kind is dict:
        return {key: exchange(item, now) for key, item in part.items()}
    if kind is slice:
        return slice(exchange(part.start, now), exchange(part.stop, now), exchange(part.step, now))
    return part


def _outputs(recorder: Recorder, old: Op, new: Op, now: dict[Value, Value], draws: bool) -> tuple[Value, ...]:
    outputs = []
    if draws:
        _draw_anew(recorder, new)
    with recorder.muted():
        arrays = new.compute()
    for before, array in zip(old.outputs, arrays):
        if before.gradient_of is None:
            value = Value(new, before.slot, array)
        else:
            value = Gradient(new, before.slot, array, now.get(before.gradient_of, before.gradient_of))
        tape = recorder.tape
        if before in tape.labels:
            tape.labels[value] = tape.labels[before]
        if before in tape.aliases:
            tape.aliases[value] = now.get(tape.aliases[before], tape.aliases[before])
        recorder.live[id(array)] = value
        now[before] = value
        outputs.append(value)
    return tuple(outputs)


def _draw_anew(recorder: Recorder, op: Op) -> None:
    """Let a random op take its key from the global state, which moves on as if the op had drawn it."""
    if not any(isinstance(part, DrawnKey) for part in (*op.args, *op.kwargs.values())):
        return
    key = recorder.drawn()
    op.args = tuple([key if isinstance(part, DrawnKey) else part for part in op.args])
    op.kwargs = {name: key if isinstance(part, DrawnKey) else part for name, part in op.kwargs.items()}
    with recorder.muted():
        _uniform()


def _open(recorder: Recorder, old: Pass) -> Pass:
    if old.kind == GRADIENT_PASS:
        recorder.start()
    part = recorder.open_pass(old.kind, old.title)
    part.scope, part.lasti = old.scope, old.lasti
    return part


def _close(recorder: Recorder, old: Pass, part: Pass, now: dict[Value, Value], again: dict[Op, Op]) -> None:
    part.open = False
    part.end = (
        len(recorder.tape)
        if part is recorder.part
        else max(op.position + 1 for op in again.values() if op.part is part)
    )
    part.backward = min(
        (op.position for op in again.values() if op.part is part and op.of is not None), default=part.end
    )
    part.wrt = tuple(now.get(value, value) for value in old.wrt)
    part.roots = tuple((now.get(root, root), now.get(start, start)) for root, start in old.roots)
    part.loss = None if old.loss is None else now.get(old.loss, old.loss)
    for value, grads in old.grads.items():
        part.grads[now.get(value, value)] = [now.get(gradient, gradient) for gradient in grads]
    if part is recorder.part:
        recorder.part = None
