"""Recorder: writes down what the program calls, as it calls it.

This is the hot path: an op may cost a few microseconds. Names and places are code objects and offsets until asked for.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.adopt import adopt
from nnrepl.record.bounds import INDEXING
from nnrepl.record.handing_back import ARITHMETIC, lend
from nnrepl.record.intake import RECORDING, Intake
from nnrepl.record.leavings import Block, Leavings
from nnrepl.record.listener import Exchanging, Listener, Mirrored, Switching, Touching, Traced
from nnrepl.record.objects import Slot, hand_out
from nnrepl.record.phases import feeds_update, starts, title
from nnrepl.record.runs_twice import TwiceRun
from nnrepl.record.stack import Stack
from nnrepl.record.watch import BindingWatch
from nnrepl.tape import (
    GRADIENT_PASS,
    RUN_PASS,
    SETUP_PASS,
    UPDATE_PASS,
    DrawnKey,
    Leaf,
    Mark,
    Op,
    Operation,
    Pass,
    Tape,
    Value,
    arrays_of,
    is_evaluated,
)  # fmt: skip
from nnrepl.tape.collector import Collector, wake

RECORD, OPAQUE, MUTED, NATIVE = 0, 1, 2, 3
_NO_KWARGS: dict[str, Any] = {}

_array, _copy = mx.array, mx.array.__copy__
_RANDOM_STATE: Any = mx.random.state
_PLAIN = frozenset((
    int, float, bool, str, complex, type(None), mx.Dtype, mx.Stream, mx.Device, mx.DeviceType, type(Ellipsis),
))  # fmt: skip


class Recorder:
    """Writes the program's ops onto a tape.

    Args:
        tape: Where to write.
        strict: Whether everything the program has should have been recorded (a script from its start), so
            that an unknown array is a hole; otherwise an array that existed before is taken as captured.
        base: The frame of nnrepl's own that runs the program.

    Attributes:
        mode: RECORD; OPAQUE inside a transform that MLX runs by itself; MUTED while nnrepl itself computes; NATIVE
            where only calls are noticed (see `nnrepl.record.native`).
        live: The value that each living array object holds, by `id`. Arrays may die at any moment at which Python
            collects garbage, and their entries with them: go through a `copy()`, which is made in one piece.
        pass_: The pass that is being recorded.
        differentiating: How many transforms of ours are running (0 at the top level of the program).
        running_back: Whether MLX takes gradients for the program's backward pass.
        blocks_passed: In a run that follows a tape: the functions in calls that may run once more.
        captured: In OPAQUE mode, the recorded values that were touched.
        overwrites: In OPAQUE mode, the recorded arrays that were changed in place, by `id`, and what they held.
        leavings: What the program has kept of what was made inside of calls that MLX ran by itself.
        forced: In OPAQUE mode, whether something was evaluated.
        closed: Whether the recording is over; wrappers that live on then do nothing.
        compiling: Whether MLX would compile (the program may have switched that off).
        intake: What is asked before anything is computed: whether a tape has it.
        made_before: What transforms had returned before the recording began, and how it is called, by `id`.
        tracing: The compiled functions that are being recorded for the first time, outermost first.
        sweeps: The backward passes that are running, outermost first.
        repeating: In how many compiled functions ops are repeated, of which none of the program's lines runs.
        indexing: Ops that take places which have not been looked at yet; `told` where something was found.
        mirrors: The second runs of checkpoints that are being recorded and have changes to make.
        blocks: The first runs of checkpoints that are being recorded, outermost first.
        overwritten: Values whose array object was changed in place for an edit.
        draws: Since what the random draws are counted, and how many there were.
        watch: Notes what the program's variables hold.
        inside: What writes down the call that MLX runs by itself, where its function runs now.
        levels: Switches between recording ops and noticing calls; None before anything is installed.
        native_until: Where on the tape ops are recorded again that follow closed calls; 0: it has none.
        older: Lazy arrays that are made of nothing that has been recorded since then, by `id`.
        collector: Keeps Python's garbage collector off the tape.
        customized: Custom functions and what was set as their `vjp`, `jvp`, `vmap`, by `id`.
        unified: Leaves that entered anew in a run along a tape, and which value of that each one is.
    """

    def __init__(self, tape: Tape, *, strict: bool, base: FrameType | None = None) -> None:
        self.tape = tape
        self.strict = strict
        self.mode = RECORD
        self.thread = get_ident()
        self.live: dict[int, Value] = {}
        self.guards: dict[int, weakref.ref[mx.array]] = {}
        self.watch = BindingWatch(self)
        self.stack = Stack(base, self.watch)
        self.pass_: Pass | None = None
        self.differentiating = self.repeating = self.native_until = 0
        self.blocks_passed: dict[Op, dict[int, Block]] = {}
        self.older: dict[int, weakref.ref[mx.array]] = {}
        self.captured: dict[Value, mx.array] = {}
        self.overwrites: dict[int, tuple[mx.array, Value]] = {}
        self.leavings = Leavings()
        self.listener: Listener | None = None
        self.started = self.closed = self.running_back = self.forced = False
        self.stream: Any = None
        self.compiling = True
        self.customized: dict[int, tuple[Any, set[Any]]] = {}
        self.intake: Intake[Recorder] = RECORDING
        self.sweeps: list[Exchanging] = []
        self.indexing: list[Op] = []
        self.told: set[tuple[Any, int]] = set()
        self.mirrors: list[Mirrored] = []
        self.blocks: list[TwiceRun] = []
        self.tracing: list[Traced] = []
        self.made_before: dict[int, tuple[Any, Callable[..., Any]]] = {}
        self.overwritten: list[tuple[Value, mx.array]] = []
        self.draws: tuple[Any, int] = ("start", 0)
        self.levels: Switching | None = None
        self.inside: Touching | None = None
        self.collector = Collector()
        self.unified: dict[Value, Value] = {}
        self._update: Pass | None = None

    # -- ops -------------------------------------------------------------------------------------------

    def call(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType) -> Any:
        """Run an operation for the program and write it down. Returns what MLX returned."""
        intake = self.intake
        follows = intake.follows
        if follows:
            intake.enter(self)
            args = intake.taken(operation, args, frame)
        inputs: list[Value] = []
        template: list[Any] = []
        only_arrays, live = True, self.live
        for arg in args:
            if type(arg) is _array:
                value = live.get(id(arg))
                if value is None:
                    value = adopt(self, arg, frame)
                if self.inside is not None:
                    self.inside.touch(value, arg)
                inputs.append(value)
                template.append(value)
            else:
                only_arrays = False
                template.append(arg if type(arg) in _PLAIN else self.scan(arg, inputs, frame))
        names = {key: self.scan(arg, inputs, frame) for key, arg in kwargs.items()} if kwargs else _NO_KWARGS
        taken = tuple(template)
        # One tuple for both where they are the same: a long tape has millions of these.
        op = Op(operation, taken, names, taken if only_arrays and not kwargs else tuple(inputs))
        if follows:
            twin = intake.given(self, op, frame)
            if twin is not None:
                return hand_out(self, twin)
        try:
            result = operation.run(*args, **kwargs)
        except Exception as error:
            self.fail(op, error, frame)
            raise
        # `live` goes by identity: this value holds the object, so no other gets its `id`; else `link` guards.
        if type(result) is _array:  # as in `finish`, without one more call: it is the usual case
            value = Value(op, 0, result)
            op.outputs = (value,)
            live[id(result)] = value
            self.put(op, frame)
            if operation.name in ARITHMETIC:
                lend(self, op, result)
        else:
            self.finish(op, result, frame)
        return result

    def finish(self, op: Op, result: Any, frame: FrameType) -> None:
        """Give an op its outputs and its place, and put it on the tape."""
        if type(result) is _array:
            value = Value(op, 0, result)
            op.outputs = (value,)
            self.live[id(result)] = value
        else:
            outputs = []
            for slot, array in enumerate(arrays_of(result)):
                value = Value(op, slot, array)
                outputs.append(value)
                self.live[id(array)] = value
            if not outputs:
                return
            op.outputs = tuple(outputs)
            slots = iter(range(len(outputs)))
            self.tape.notes.structures[op] = trees.rebuild(result, lambda _: Slot(next(slots)))
        self.put(op, frame)

    def put(self, op: Op, frame: FrameType) -> None:
        """Put an op on the tape, at the place where `frame` stands."""
        stack = self.stack
        if frame is stack.frame:
            self.watch.see(frame)
        else:
            frame = self.stand(frame)
        op.scope = stack.scope
        op.lasti = frame.f_lasti
        if self.stream is not None:
            self.tape.notes.streams[op] = self.stream
        self.place(op)

    def place(self, op: Op) -> None:
        """Put an op on the tape whose scope is known; at the top level of the program, the listener is told."""
        ops = self.tape.ops
        op.position = len(ops)
        if op.operation.name in INDEXING:
            self.indexing.append(op)
        if self.differentiating or self.inside is not None:
            op.pass_ = self.pass_  # type: ignore[assignment]
            ops.append(op)
            if self.intake.follows:
                self.intake.passed(self)
            return
        op.pass_ = self.top_level(op)
        ops.append(op)
        op.pass_.end = len(ops)
        if op.position >= self.collector.due:
            self.collector.rest(op.position)
        if self.listener is not None:
            self.listener.op_recorded(op)
        elif self.intake.follows:  # in a call that is made again nobody else tells what the user does between two ops
            self.intake.passed(self)

    def stand(self, frame: FrameType) -> FrameType:
        """Note in which call the program stands, in this frame, and what its variables hold. Returns the
        frame, or the program's own that called into nnrepl."""
        stack = self.stack
        if frame is not stack.frame:
            stack.enter(frame := stack.program_frame(frame))
        else:
            self.watch.see(frame)
        return frame

    def fail(self, op: Op, error: Exception, frame: FrameType) -> None:
        """Put an op on the tape that raised."""
        if op.inputs or not isinstance(error, TypeError):
            self.tape.notes.errors[op] = error
            self.put(op, frame)

    def scan(self, arg: Any, inputs: list[Value], frame: FrameType) -> Any:
        """Return an argument with its arrays replaced by Values, which are added to `inputs`. Containers are copied:
        the program may change them later."""
        kind = type(arg)
        if kind in _PLAIN:
            return arg
        if kind is _array:
            value = self.live.get(id(arg))
            if value is None:
                value = adopt(self, arg, frame)
            if self.inside is not None:
                self.inside.touch(value, arg)
            inputs.append(value)
            return value
        if kind is list or kind is tuple:
            parts = [self.scan(item, inputs, frame) for item in arg]
            return parts if kind is list else tuple(parts)
        if kind is slice:
            return slice(*(self.scan(end, inputs, frame) for end in (arg.start, arg.stop, arg.step)))
        if isinstance(arg, dict):  # a Module is one
            return {key: self.scan(item, inputs, frame) for key, item in dict.items(arg)}
        if isinstance(arg, (list, tuple)):
            return [self.scan(item, inputs, frame) for item in arg]
        # NumPy's arrays: the program may write into them later.
        return arg.copy() if hasattr(arg, "__array_interface__") and hasattr(arg, "copy") else arg

    # -- arrays that change, appear, or are handed over ------------------------------------------------

    def value_of(self, array: mx.array, frame: FrameType) -> Value:
        """Return the value that an array object holds now."""
        value = self.live.get(id(array)) or adopt(self, array, frame)
        if self.inside is not None:
            self.inside.touch(value, array)
        return value

    def leaf(self, array: mx.array, kind: str, label: str | None, origin: Value | None = None) -> Leaf:
        """Enter an array as a leaf of the tape."""
        value = Leaf(self.tape, array, kind, label, origin)
        self.live[id(array)] = value
        if self.inside is not None and not is_evaluated(array):
            self.inside.own.add(value)
        return value

    def link(self, array: mx.array, value: Value) -> None:
        """Take one more Python object as a handle on a value; it is forgotten when it dies."""
        key = id(array)
        self.live[key] = value  # no value holds this object: when it dies, Python gives its id to another one
        self.guards[key] = weakref.ref(array, lambda _: self._gone(key))

    def _gone(self, key: int) -> None:
        self.guards.pop(key, None)
        self.live.pop(key, None)

    def change(self, array: mx.array, frame: FrameType) -> Value:
        """Announce that an array object is about to change in place: what the tape holds of it becomes a
        copy that shares the old buffer. Returns the old value."""
        value = self.value_of(array, frame)
        if value.held is array:
            value.held = _copy(array)
        if self.inside is not None:
            self.inside.change(value, array)
        return value

    def handle(self, value: Value) -> mx.array:
        """Return a new Python object for a value, linked to it. In a re-run it has the content that an edit further on
        gives to it."""
        array = _copy(self.content(value).array)
        self.link(array, value)
        return array

    def content(self, value: Value) -> Value:
        """Return what the program is to hold where the tape has a value."""
        return self.intake.content(value)

    def drop(self, value: Value) -> None:
        """Let go of a value's array; the program's own object, if it lives on, stays linked."""
        held = value.held
        if held is not None and self.live.get(id(held)) is value:
            self.link(held, value)
        value.forget()

    def shared(self) -> set[Value]:
        """Return the values for which the program holds array objects of its own, beside the tape's."""
        live = self.live
        return {live[key] for key in list(self.guards) if key in live}

    @staticmethod
    def frame() -> FrameType:
        """Return a frame of nnrepl's own, for ops that no line of the program made."""
        return sys._getframe()

    # -- marks, phases, passes --------------------------------------------------------------------------

    def mark(self, how: str, args: tuple[Any, ...], frame: FrameType) -> None:
        """Note that the program forces an evaluation."""
        live = self.live
        values = tuple([value for array in arrays_of(args) if (value := live.get(id(array))) is not None])
        frame = self.stack.program_frame(frame)
        scope = self.stack.enter(frame)
        # To look at variables must not keep MLX from writing a result over an operand (`is_donatable`, mlx/array.h).
        if how.endswith("eval"):
            self.watch.settle()
            self.watch.loosen()
        self.tape.marks.append(Mark(len(self.tape), how, values, scope, frame.f_lasti))
        if self.levels is not None and not self.differentiating:
            self.levels.forced(scope, frame)

    def drawn(self) -> DrawnKey:
        """Return the key that the next random op will draw from the global state."""
        since, count = self.draws
        self.draws = (since, count + 1)
        return DrawnKey(_RANDOM_STATE[0], self.draws)

    def seeded(self, since: Any) -> None:
        """Note that the random state was set to something new."""
        self.draws = (since, 0)

    def relink(self, now: dict[Value, Value]) -> None:
        """Let the program's array objects stand for other values (of the same content)."""
        for key, value in self.live.copy().items():
            if value not in now:
                continue
            held = value.held
            if held is not None and id(held) == key:
                self.link(held, now[value])  # the new value holds another object: this one may die
            else:
                self.live[key] = now[value]

    def unify(self, found: Value, expected: Value) -> None:
        """Note that a leaf that entered anew is one of the tape along which the program runs."""
        self.unified[found] = expected
        self.relink({found: expected})

    def top_level(self, op: Op) -> Pass:
        """Find, or open, the pass of an op outside of any transform of ours, and with it its phase."""
        scope = op.scope
        pass_ = self.pass_
        known = self.intake.pass_kind(op) if self.intake.follows else None
        if known is not None:
            kind = known
        elif (scope is not None and scope.updating) or feeds_update(op, pass_, self.tape.passes):
            kind = UPDATE_PASS
        else:
            kind = RUN_PASS if self.started or starts(op) else SETUP_PASS
        if kind != SETUP_PASS:
            self.start()  # with an update, where no Module and no gradient call came before it (evolution strategies)
        if pass_ is None or pass_.kind != kind:
            pass_ = self.open_pass(kind, title(op, kind))
            pass_.scope, pass_.lasti = scope, op.lasti
        if kind == UPDATE_PASS and pass_ is not self._update and scope is not None and scope.updating:
            pass_.title, self._update = title(op, kind), pass_  # gradients may have been clipped before, or summed up
        return pass_

    def start(self) -> None:
        """Note that the first forward pass begins here: what was recorded so far is setup."""
        if not self.started:
            self.started = True
            self.tape.origin = len(self.tape)

    def open_pass(self, kind: str, title: str) -> Pass:
        """Close the pass that is being recorded and begin another."""
        self.close_pass()
        if kind in (GRADIENT_PASS, UPDATE_PASS):
            self.watch.settle(begins=kind == GRADIENT_PASS)
        passes = self.tape.passes
        number = 0 if kind == SETUP_PASS else passes[-1].number + 1 if passes else 1
        self.pass_ = Pass(self.tape, number, kind, title, start=len(self.tape), end=len(self.tape))
        self.pass_.backward = len(self.tape)
        passes.append(self.pass_)
        return self.pass_

    def close_pass(self) -> None:
        """Note that the pass that is being recorded has ended."""
        if self.pass_ is not None:
            if self.pass_.kind in (GRADIENT_PASS, UPDATE_PASS):
                self.watch.settle()
            self.pass_.open = False
            self.pass_.end = len(self.tape)
            self.pass_ = None

    def over(self) -> None:
        """Note that the program has ended: what its variables and models held at its end is noted."""
        if self.levels is not None:
            self.levels.over()
        self.watch.over()
        self.stack.release(rests=True)

    @contextmanager
    def muted(self) -> Iterator[None]:
        """While nnrepl itself computes, nothing is recorded."""
        before, self.mode = self.mode, MUTED
        try:
            yield
        finally:
            self.mode = before


_installed: list[Recorder] = []


def current() -> Recorder | None:
    """Return the recorder that is installed, if one is."""
    return _installed[-1] if _installed else None


def here() -> Recorder | None:
    """Return the installed recorder, if it follows this thread."""
    recorder = _installed[-1] if _installed else None
    return recorder if recorder is not None and get_ident() == recorder.thread else None


def ready() -> Recorder | None:
    """Return the installed recorder if it would record a call made here and now."""
    recorder = here()
    return recorder if recorder is not None and recorder.mode == RECORD else None


@contextmanager
def aside(recorder: Recorder) -> Iterator[None]:
    """While this lasts a recorder is not the current one, though it goes on later."""
    at = _installed.index(recorder)
    del _installed[at]
    try:
        yield
    finally:
        _installed.insert(at, recorder)


@contextmanager
def installed(recorder: Recorder) -> Iterator[None]:
    """Make a recorder the current one, and close it at the end."""
    _installed.append(recorder)
    try:
        yield
    finally:
        _installed.pop()
        recorder.closed = True
        recorder.mode = MUTED
        recorder.close_pass()
        recorder.stack.end()
        wake()
