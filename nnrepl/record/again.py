"""Again: what happens inside of a call that MLX runs by itself, where the call is one that was recorded before.

Where a compiled function is repeated, none of the program's lines runs: what happens inside is what happened then, on
the values of now (`InsideAgain`). Where a run follows a tape, it is what the tape has (`InsideFollowed`). Nothing of it
is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import mlx.core as mx

from nnrepl.record.caller import Caller
from nnrepl.record.quiet import set_random_state
from nnrepl.record.region import Region
from nnrepl.record.vjp import Rule
from nnrepl.tape import (
    Activation,
    BackwardOp,
    Bindings,
    DrawnKey,
    Gradient,
    Inside,
    Leaf,
    Op,
    Pass,
    Tangent,
    Value,
    sketch_of,
)  # fmt: skip

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_RANDOM_STATE: Any = mx.random.state


class Repeating(Protocol):
    """One more run of recorded ops (`nnrepl.record.repeat.Repetition`, which describes these)."""

    recorder: Recorder
    made: dict[Op, Op]

    def image(self, value: Value) -> Value: ...
    def images(self, values: Iterable[Value]) -> tuple[Value, ...]: ...
    def put(self, value: Value, new: Value) -> None: ...
    def scope(self, old: Activation | None) -> Activation | None: ...
    def again(self, old: Op) -> Op: ...
    def draw_anew(self, op: Op) -> None: ...
    def variables(self, position: int) -> None: ...


class InsideAgain:
    """Repeats what happened inside of one call.

    Args:
        repetition: The repetition of the compiled function.
        op: The op of the call, in the earlier run.
    """

    def __init__(self, repetition: Repeating, op: Op) -> None:
        self._repetition = repetition
        self._recorder = repetition.recorder
        self._notes = repetition.recorder.tape.notes
        self._pass = self._notes.calls[op]
        self._passes: dict[Pass, Inside] = {}

    def run(self, within: Pass, draws: bool) -> Inside:
        """Put its ops on the tape again.

        Args:
            within: The pass around it.
            draws: Whether random numbers are drawn anew.
        """
        recorder, state, count = self._recorder, _RANDOM_STATE[0], self._recorder.draws
        found = self._begin(self._pass, within)
        for op in self._pass.ops:
            self._op(op, draws)
        for old, new in self._passes.items():
            assert isinstance(old, Inside)
            self._end(old, new)
        if _RANDOM_STATE[0] is not state:  # the call itself draws them again
            set_random_state(state)
            recorder.draws = count
        return found

    def _begin(self, old: Inside, within: Pass) -> Inside:
        image, tape = self._repetition.image, self._recorder.tape
        shift = len(tape) - old.start
        new = self._passes[old] = replace(
            old, tape=tape, number=within.number, within=within, start=old.start + shift, end=old.end + shift,
            # What these hold is filled in by `_end`: the values that it speaks of are not there yet.
            backward=old.backward + shift, scope=self._repetition.scope(old.scope), axes={}, grads={},
        )  # fmt: skip
        leaves = []
        for leaf in old.leaves:
            assert leaf.origin is not None
            origin = image(leaf.origin)
            # No array: a mapped tracer never has numbers (`vmap_trace` in mlx/transforms.cpp makes it without any).
            twin = Leaf(tape, None, leaf.kind, leaf.label, origin)
            self._notes.sketches[twin] = sketch_of(origin)
            self._repetition.put(leaf, twin)
            leaves.append(twin)
        new.leaves = tuple(leaves)
        self._notes.entered.update(dict.fromkeys(leaves, new))
        return new

    def _op(self, old: Op, draws: bool) -> None:
        repetition, tape = self._repetition, self._recorder.tape
        pass_ = self._passes.get(old.pass_)
        if pass_ is None:
            assert isinstance(old.pass_, Inside)
            assert old.pass_.within is not None
            pass_ = self._begin(old.pass_, self._passes[old.pass_.within])
        new = repetition.again(old)
        if draws and any(isinstance(one, DrawnKey) for one in (*new.args, *new.kwargs.values())):
            repetition.draw_anew(new)
        new.pass_ = pass_
        new.outputs = tuple([self._value(new, value) for value in old.outputs])
        repetition.made[old] = new
        repetition.variables(old.position)
        new.position = len(tape.ops)
        tape.ops.append(new)
        if old in self._notes.calls:
            self._notes.calls[new] = self._passes[self._notes.calls[old]]

    def _value(self, op: Op, old: Value) -> Value:
        """Return what stands for a value, not computed: it has the same shape."""
        image = self._repetition.image
        if old.gradient_of is not None:
            new: Value = Gradient(op, old.slot, None, image(old.gradient_of))
        elif old.tangent_of is not None:
            new = Tangent(op, old.slot, None, image(old.tangent_of))
        else:
            new = Value(op, old.slot, None)
        self._notes.sketches[new] = sketch_of(old)
        self._repetition.put(old, new)
        return new

    def _end(self, old: Inside, new: Inside) -> None:
        image, images = self._repetition.image, self._repetition.images
        new.loss = None if old.loss is None else image(old.loss)
        new.wrt, new.given = images(old.wrt), images(old.given)
        new.roots = tuple([(image(root), image(start)) for root, start in old.roots])
        new.grads.update((image(value), list(images(grads))) for value, grads in old.grads.items())
        new.axes.update((image(value), axis) for value, axis in old.axes.items())
        new.results = tuple([(image(value), slot) for value, slot in old.results])
        for op in new.ops:
            levels = self._notes.mapped.get(op, ())
            if old in levels:
                self._notes.mapped[op] = tuple([new if level is old else level for level in levels])


class InsideFollowed:
    """Puts the ops inside of a call on the tape as they were when it was made before, with what the variables held.

    Args:
        expected: The ops that the run is to make.
        bindings: What the variables held on the tape that has them.
        copy: Gives the same op in a pass, at a position.
        scope, lasti: From where the call is made now.
    """

    def __init__(
        self,
        recorder: Recorder,
        expected: Sequence[Op],
        bindings: Bindings,
        copy: Callable[[Op, Pass, int], Op],
        scope: Activation | None,
        lasti: int,
    ) -> None:
        self._recorder = recorder
        self._expected = expected
        self._bindings = bindings
        self._copy = copy
        self._scope, self._lasti = scope, lasti
        self._passes: dict[Pass, Inside] = {}
        self._twins: dict[Op, Op] = {}
        self._caller = Caller(None, None, -1)

    def run(self) -> Inside | None:
        """Do it. Returns what is on the tape now; None if nothing was there."""
        recorder, expected = self._recorder, self._expected
        tape, around = recorder.tape, recorder.pass_
        at = start = len(tape)
        if around is None or at >= len(expected) or not expected[at].inner:
            return None
        pass_ = expected[at].pass_
        # What comes first may lie in a call within the one that is made here.
        while isinstance(pass_.within, Inside):
            pass_ = pass_.within
        self._caller = Caller(pass_.scope, self._scope, self._lasti)
        while at < len(expected) and expected[at].inner:
            self._op(expected[at], around)
            at += 1
        # A run that follows a tape has none of the function's frames: they are told from those that ran then.
        self._variables(expected[start].position, start, at - start)
        return next((pass_ for pass_ in self._passes.values() if pass_.within is around), None)

    def _op(self, old: Op, around: Pass) -> None:
        notes, tape = self._recorder.tape.notes, self._recorder.tape
        twin = self._twins[old] = self._copy(old, self._pass(old.pass_, around), len(tape))
        twin.scope = self._caller.scope(old.scope)
        _refer(twin, self._twins)
        if old in notes.calls:
            notes.calls[twin] = self._passes[notes.calls[old]]
        if old in notes.mapped:
            notes.mapped[twin] = tuple([self._passes.get(level, level) for level in notes.mapped[old]])
        tape.ops.append(twin)

    def _pass(self, old: Pass, around: Pass) -> Pass:
        if not isinstance(old, Inside) or old.within is None:
            return around
        if old not in self._passes:
            tape = self._recorder.tape
            shift = len(tape) - old.start
            self._passes[old] = replace(
                old, tape=tape, within=self._pass(old.within, around), start=old.start + shift, end=old.end + shift,
                backward=old.backward + shift, scope=self._caller.scope(old.scope),
            )  # fmt: skip
        return self._passes[old]

    def _variables(self, before: int, now: int, count: int) -> None:
        """Note that what the variables of the calls inside held, from a position of the tape before, holds from one of
        this."""
        old, new = self._bindings, self._recorder.tape.bindings
        for position, scope, name, thing in old.log[old.first_from(before) :]:
            if position > before + count:
                break
            made = self._caller.made(scope)
            if made is not None:
                new.note(position - before + now, made, name, thing)
                new.seen[made] = now + count


def _refer(op: Op, twins: Mapping[Op, Op]) -> None:
    """Let an op that differentiates others speak of those that stand for them now."""
    if isinstance(op, BackwardOp) and op.of is not None:
        op.of = twins.get(op.of, op.of)
    rule = op.args[0] if op.args else None
    if type(rule) is Rule:
        now: Any = Rule(twins.get(rule.op, rule.op), rule.inputs, rule.wanted, rule.outputs, rule.continued)
    elif type(rule) is Region:
        now = replace(rule, ops=tuple([(twins.get(one, one), slots) for one, slots in rule.ops]))
    else:
        return
    op.args = (now, *op.args[1:])
