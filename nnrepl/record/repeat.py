"""Repeat: put ops that were recorded once on the tape again, on other inputs.

What a compiled function has recorded is repeated whenever it is called: op by op, pass by pass, as if its Python had
run again. Changes that the user made in one call are no part of the next: there the forward ops are those of the
program, and where that touches a gradient pass, its backward pass is swept anew.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from operator import is_
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.again import InsideAgain
from nnrepl.record.caller import Caller
from nnrepl.record.drawn_again import draw_anew, drawn_inside, draws_inside
from nnrepl.record.gradient_call import GradientCall, RepeatedPass, make_call, swept
from nnrepl.record.rebuilt import exchange, rebuilt
from nnrepl.record.recorder import MUTED, Recorder
from nnrepl.record.region import Region
from nnrepl.record.renamed import NameChange, read_elsewhere
from nnrepl.record.sweep import seed
from nnrepl.record.vjp import Rule
from nnrepl.tape import GRADIENT_PASS, Activation, BackwardOp, Gradient, Holder, Inside, Leaf, Op, Pass, Value

_copy = mx.array.__copy__
_PLAIN = frozenset((int, float, bool, str, type(None), mx.Dtype))


@dataclass(frozen=True, slots=True)
class RepeatedMoment:
    """A moment of a repetition.

    Attributes:
        now: Which value stands for which one of the earlier run.
        made: Which op stands for which.
        renamed: Of which a name has been given another.
    """

    now: dict[Value, Value]
    made: dict[Op, Op]
    renamed: dict[Value, NameChange]


class Repeatable:
    """The constant part of an op's arguments that has Values in it."""

    def repeated(self, repetition: Repetition) -> Any:
        """Return the same for the values of a repetition."""
        raise NotImplementedError

    def repeat_backward(self, earlier: Any, repetition: Repetition) -> None:
        """Note that the backward pass of an `earlier` one has been repeated."""


class Repetition:
    """One more run of recorded ops.

    Args:
        recorder: Writes on its tape.
        now: Which value stands for which one of the earlier run; what is made is added to it.
        caller: From where the ops are made now.
        draws: Whether random numbers are drawn anew from the global state; else they are those of the ops.
        holds: Whether containers of the program's may have changed in the earlier run.
        arguments: What the function is given now.

    Attributes:
        ops: Those of the earlier run.
        made: Which op stands for which.
        arguments: What the function is given now: arrays of its own, in which what it does is not seen outside.
    """

    def __init__(
        self,
        recorder: Recorder,
        now: dict[Value, Value],
        caller: Caller,
        draws: bool,
        holds: bool,
        arguments: Sequence[Value] = (),
    ) -> None:
        self.recorder = recorder
        self.now = now
        self.ops: tuple[Op, ...] = ()
        self.made: dict[Op, Op] = {}
        self.arguments = frozenset(arguments)
        self._caller = caller
        self._draws = draws
        self._noted = self._noted_holds = 0
        self._holds = len(recorder.tape.bindings.holds) if holds else 0
        self._noted_at = self._from = sys.maxsize
        self._restated: dict[Holder, None] = {}
        self._renamed: dict[Value, NameChange] = {}
        self._at = -1
        self._next: Op | None = None
        self._in_place: dict[Value, Value] = {}
        self._results: dict[Value, list[Value]] = {}
        for value, new in now.items():
            self._results.setdefault(new, []).append(value)

    def run(self, ops: Iterable[Op], loose: bool = False) -> None:
        """Put ops of an earlier run on the tape again.

        Args:
            loose: Whether they were or are some of a gradient pass, and none of them is one.
        """
        recorder, self.ops = self.recorder, tuple(ops)
        recorder.sweeps.append(self)
        recorder.repeating += 1
        try:
            inserted = recorder.tape.notes.inserted
            for pass_, among in groupby([op for op in self.ops if not op.inner], key=_pass_of):
                stretch = list(among)
                # A change at the very start stands at the end of the pass before, of which nothing is repeated.
                if not loose and pass_.kind == GRADIENT_PASS and any([op not in inserted for op in stretch]):
                    self._gradient_pass(pass_, stretch)
                else:
                    for op in stretch:
                        self.op(op, recorder.pass_ if recorder.differentiating else None)
            if self.made:
                self.variables(max(op.position for op in self.made) + 1, over=True)
        finally:
            recorder.repeating -= 1
            recorder.sweeps.remove(self)

    def exchange(self, old: Value, new: Value) -> None:
        """Note that the user has changed a value: what is made from here on takes the new one."""
        standing = self.standing_for(old)  # what no other stands for stands for itself
        for value in standing:
            self.put(value, new)

    def rename(self, old: Value, scope: Activation | None, target: str, is_variable: bool) -> None:
        """Note that the value that is exchanged next is so under one name only: what is read by another stays."""
        for value in self.standing_for(old):
            self._renamed[value] = NameChange(self._earlier(scope), target, is_variable, old, self._at)

    def change_in_place(self, old: Value) -> None:
        """Note that the value that is exchanged next is changed in place: whoever holds it sees that."""
        self._in_place.update(dict.fromkeys(self.standing_for(old), old))

    def standing_for(self, value: Value) -> list[Value]:
        """Return the values of the earlier run for which one stands."""
        # Those that have got another one since, or in what has been gone back from, are not for it any more.
        found = dict.fromkeys(self._results.get(value, ()))
        return [old for old in found if self.now.get(old) is value] or [value]

    def _earlier(self, scope: Activation | None) -> Activation | None:
        """Return the call of the earlier run for which one stands in which the op lies that comes next."""
        then = None if self._next is None else self._next.scope
        here = self._caller.scope(then)
        while scope is not None and here is not None and then is not None and here.depth > scope.depth:
            here, then = here.parent, then.parent
        return then if scope is not None and then is not None and then.code is scope.code else scope

    def held_elsewhere(self, value: Value) -> Value:
        """Return what a container holds that held a value in the earlier run."""
        renamed = self._renamed.get(value)
        return self.image(value) if renamed is None or not renamed.is_variable else renamed.old

    def standing(self) -> RepeatedMoment:
        """Return what stands for what at this moment."""
        return RepeatedMoment(dict(self.now), dict(self.made), dict(self._renamed))

    def stand(self, standing: RepeatedMoment) -> None:
        """Go back to an earlier moment."""
        self.now, self.made, self._renamed = dict(standing.now), dict(standing.made), dict(standing.renamed)

    def put(self, value: Value, new: Value) -> None:
        """From now on `new` stands for a value of the earlier run."""
        self.now[value] = new
        self._results.setdefault(new, []).append(value)

    def stretch(self, ops: Sequence[Op], given: Iterable[tuple[Value, Value]], results: Sequence[Value]) -> list[Value]:
        """Repeat some ops of a backward pass that is swept anew, on given values. Returns what stands for `results`."""
        for old, new in given:
            self.put(old, new)
        for op in ops:
            if not op.inner:
                self.op(op, self.recorder.pass_)
        self.recorder.intake.enter(self.recorder)
        return list(self.images(results))

    # -- values and arguments ------------------------------------------------------------------------------

    def image(self, value: Value) -> Value:
        """Return what stands for a value of the earlier run. A leaf that came from another value comes from the one
        that stands for that."""
        known = self.now.get(value)
        if known is not None:
            return known
        if not isinstance(value, Leaf) or value.origin is None:
            return value
        origin = self.image(value.origin)
        if origin is value.origin:
            return value
        leaf = self.recorder.leaf(_copy(origin.array), value.kind, value.label, origin)
        self.recorder.tape.notes.carry_value(value, leaf, self.image)
        self.put(value, leaf)
        return leaf

    def images(self, values: Iterable[Value]) -> tuple[Value, ...]:
        """Return what stands for some values."""
        return tuple(map(self.image, values))

    def _argument(self, part: Any) -> Any:
        kind = type(part)
        if kind is Value or kind is Gradient:  # the usual cases first
            return self.now.get(part) or self.image(part)
        if kind in _PLAIN:
            return part
        if kind is Rule:
            inputs, op = self.images(part.inputs), self.made.get(part.op, part.op)
            return Rule(op, inputs, part.wanted, part.outputs, part.continued)
        if kind is Region:
            ops = tuple([(self.made.get(op, op), slots) for op, slots in part.ops])
            return replace(
                part, value=self.image(part.value), ops=ops, outputs=self.images(part.outputs),
                given=self.images(part.given),
            )  # fmt: skip
        return part.repeated(self) if isinstance(part, Repeatable) else rebuilt(part, self.image)

    # -- ops -----------------------------------------------------------------------------------------------

    def op(self, old: Op, pass_: Pass | None = None) -> None:
        """Put one op on the tape again.

        Args:
            pass_: The gradient pass that is open; None at the top level of the program.
        """
        recorder = self.recorder
        tape = recorder.tape
        self._at, self._next = old.position, old
        if recorder.intake.follows:
            recorder.intake.enter(recorder)
        if old in tape.notes.inserted:  # a change that was made in the earlier run is made no more
            target = tape.notes.edits.get(old)
            if target is not None:
                self.put(old.outputs[0], self.image(target))
            self._from = min(self._from, old.position)
            return
        inside = self._inside(old, recorder.pass_ if pass_ is None else pass_)
        new = self.again(old)
        if inside is not None:
            tape.notes.calls[new] = inside
        new.pass_ = old.pass_ if pass_ is None else pass_
        if self._draws:
            draw_anew(recorder, new)
        if not self._known(new, old):
            self._compute(new, old)
        self.made[old] = new
        for before, value in zip(old.outputs, new.outputs):
            self.put(before, value)
        self.variables(old.position)
        recorder.place(new)

    def _inside(self, old: Op, within: Pass | None) -> Inside | None:
        """Return what happened inside of a call, once that lies on the tape before its op; None of another op."""
        recorder = self.recorder
        if old not in recorder.tape.notes.calls:
            return None
        if not recorder.differentiating:
            call = self.again(old)
            call.position = len(recorder.tape)
            within = recorder.top_level(call)
        if within is None:
            return None
        if recorder.intake.has_inside(recorder):
            return recorder.intake.inside(recorder, self.scope(old.scope), old.lasti)
        return InsideAgain(self, old).run(within, self._draws)

    def scope(self, old: Activation | None) -> Activation | None:
        """Return the call that stands for one of the earlier run."""
        return self._caller.scope(old)

    def draw_anew(self, op: Op) -> None:
        """Let a random op take its key from the global state."""
        draw_anew(self.recorder, op)

    def variables(self, position: int, over: bool = False) -> None:
        """Note what the variables of the repeated calls hold here, and the containers of the program's: what they held
        at a position of the earlier run."""
        bindings = self.recorder.tape.bindings
        here, log, holds = len(self.recorder.tape.ops), bindings.log, bindings.holds
        # What was noted where a change was made holds at the op after it.
        start, self._from = min(self._from, position), sys.maxsize
        if not self._noted_at < position:  # the first one, or the repetition has gone back
            self._noted, self._noted_holds = bindings.first_from(start), bindings.first_hold_from(start)
        self._noted_at = position
        while self._noted < len(log) and log[self._noted][0] <= position:
            at, scope, name, thing = log[self._noted]
            self._noted += 1
            made = self._caller.made(scope) if at >= start else None
            if made is not None:
                bindings.note(here, made, name, self._held(thing))
                bindings.seen[made] = here
        while self._noted_holds < min(self._holds, len(holds)) and holds[self._noted_holds][0] <= position:
            at, holder, entries, count = holds[self._noted_holds]
            self._noted_holds += 1
            if at >= start and not over:  # when all is repeated, containers hold what they hold
                self._restate(here, holder, entries if isinstance(entries, dict) else dict(enumerate(entries[:count])))

    def _restate(self, here: int, holder: Holder, then: dict[Any, Any]) -> None:
        """Note that a container holds here, of tensors, what stands for those that it held in the earlier run. It does
        not really, as none of the program's own lines runs: once all is repeated, it is looked at again."""
        bindings = self.recorder.tape.bindings
        now = bindings.contents(holder, here)
        if not isinstance(now, (dict, list)):
            return
        held = dict(now) if isinstance(now, dict) else dict(enumerate(now))
        tensors = {key: self._held(thing) for key, thing in then.items() if isinstance(thing, Value) and key in held}
        if any([held[key] is not value for key, value in tensors.items()]):
            self._restated[holder] = None
            held.update(tensors)
            bindings.hold(here, holder, held if isinstance(now, dict) else list(held.values()))

    def over(self) -> None:
        """All is repeated, and the program has what it gave: its containers hold what they hold."""
        self.recorder.watch.look_again(self._restated)

    def _held(self, thing: Any) -> Any:
        return self.now.get(thing, thing) if isinstance(thing, Value) else thing

    def again(self, old: Op) -> Op:
        """Return the same op on the values of now."""
        new = self._again(old)
        if self._renamed and old.of is None and not self._renamed.keys().isdisjoint(old.inputs):
            others = read_elsewhere(old, self._renamed)
            inputs: list[Value] = []
            new.args = tuple([others.get(at, part) for at, part in enumerate(new.args)])
            rebuilt((new.args, new.kwargs), lambda value: inputs.append(value) or value)  # type: ignore[func-returns-value]
            new.inputs = tuple(inputs)
        return new

    def _again(self, old: Op) -> Op:
        args = tuple([self._argument(part) for part in old.args])
        kwargs = {key: self._argument(part) for key, part in old.kwargs.items()} if old.kwargs else old.kwargs
        same = len(old.inputs) == len(old.args) and all(map(is_, old.inputs, old.args))
        inputs = args if same else self.images(old.inputs)
        of = old.of
        if of is None:
            new = Op(old.operation, args, kwargs, inputs)
        else:
            new = BackwardOp(old.operation, args, kwargs, inputs, self.made.get(of, of))
        new.scope, new.lasti = self._caller.scope(old.scope), old.lasti
        self.recorder.tape.notes.carry(old, new, self.made)
        return new

    def _known(self, new: Op, old: Op) -> bool:
        """Whether an op has its results already, in a run that follows a tape."""
        if not self.recorder.intake.follows:
            return False
        inputs = new.inputs
        gradients = [value.gradient_of for value in old.outputs if value.gradient_of is not None]
        if not self.recorder.intake.repeated(self.recorder, new, self.images(gradients)):
            return False
        entered = {mine: theirs for mine, theirs in zip(inputs, new.inputs) if mine is not theirs}
        for mine, theirs in entered.items():  # a leaf that entered anew is the one of the tape
            self.exchange(mine, theirs)
        new.args, new.kwargs = exchange(new.args, entered), exchange(new.kwargs, entered)
        return True

    def _compute(self, new: Op, old: Op) -> None:
        """Give an op its outputs."""
        recorder, notes = self.recorder, self.recorder.tape.notes
        before, recorder.mode = recorder.mode, MUTED
        try:
            arrays = drawn_inside(recorder, new) if self._draws and draws_inside(new) else new.compute()
        finally:
            recorder.mode = before
        outputs: list[Value] = []
        for earlier, array in zip(old.outputs, arrays):
            if earlier.gradient_of is None:
                value = Value(new, earlier.slot, array)
            else:
                value = Gradient(new, earlier.slot, array, self.image(earlier.gradient_of))
            notes.carry_value(earlier, value, self.image)
            recorder.live[id(array)] = value
            outputs.append(value)
        new.outputs = tuple(outputs)

    # -- gradient passes -----------------------------------------------------------------------------------

    def _gradient_pass(self, old: Pass, ops: list[Op]) -> None:
        """Repeat a gradient pass, as one that the user can stop in and change."""
        began = self.standing()

        def body(call: GradientCall) -> RepeatedMoment:
            self._repeat_pass(old, call.pass_, ops)
            return self.standing()

        scope = self._caller.scope(old.scope)
        self.stand(make_call(RepeatedPass(self.recorder, old, scope, body, lambda: self.stand(began))))

    def _repeat_pass(self, old: Pass, pass_: Pass, ops: Sequence[Op]) -> None:
        """Repeat the ops of a gradient pass, on the pass that is open."""
        recorder = self.recorder
        pass_.wrt = tuple([self._leaf(leaf, number) for number, leaf in enumerate(old.wrt)])
        changed = set(self._in_place)
        forward = [op for op in ops if op.position < old.backward]
        for op in forward:
            self.op(op, pass_)
        recorder.intake.enter(recorder)
        self._hand_out(old, changed)
        pass_.loss, pass_.gives_loss = None if old.loss is None else self.image(old.loss), old.gives_loss
        pass_.backward = len(recorder.tape)
        if self._is_changed(forward, ops) or any(
            op in recorder.tape.notes.inserted for op in pass_.tape.ops[pass_.start :]
        ):
            roots = [(self.image(root), self._cotangent(start)) for root, start in old.roots]
            pass_.given = swept(recorder, pass_, roots, pass_.wrt)
        else:
            self._backward(old, pass_, ops[len(forward) :])
        for before, value in zip(old.given, pass_.given):
            self.put(before, value)
        for op in ops[len(forward) :]:  # what comes after the pass took what was changed there: it takes what is now
            target = recorder.tape.notes.edits.get(op)
            if target in self.now:
                self.put(op.outputs[0], self.image(target))

    def _hand_out(self, old: Pass, before: Collection[Value]) -> None:
        """Let containers that the function was given hold what its arguments have been changed to in place, as where
        its Python runs, which gets arrays of its own; variables outside hold what they held.

        Args:
            before: What had been changed before it began.
        """
        for value, held in list(self._in_place.items()):
            if value in before:
                continue
            origin = value.origin if value in old.wrt else value
            if origin is not None and (origin is not value or value in old.handed):
                held = held if origin is value else self.image(origin)
                self._renamed[origin] = NameChange(old.scope, "", False, held, self._at)
                self.put(origin, self.image(value))

    def _is_changed(self, forward: Sequence[Op], ops: Sequence[Op]) -> bool:
        """Whether the backward pass is not simply that of the earlier run: because that had changes in it, or
        because one here has made a value of another kind."""
        if any(op in self.recorder.tape.notes.inserted for op in ops):
            return True
        if not self.recorder.intake.follows:
            return False
        pairs = [pair for op in forward for pair in zip(op.outputs, self.images(op.outputs))]
        return any(a.dtype != b.dtype or len(a.shape) != len(b.shape) for a, b in pairs)

    def _leaf(self, old: Value, number: int) -> Value:
        """Return a leaf with respect to which gradients are taken."""
        recorder = self.recorder
        origin = self.image(old.origin) if old.origin is not None else old
        leaf = recorder.intake.leaf(recorder, number, _copy(origin.array), old.kind, old.label or "", origin)
        self.put(old, leaf)
        return leaf

    def _cotangent(self, old: Value) -> mx.array:
        """Return what a sweep starts from, as an array: known to the recorder where an op made it."""
        value = self.image(old)
        if value.kind == "seed":
            return _copy(value.array)
        return self.recorder.handle(value)

    def _backward(self, old: Pass, pass_: Pass, ops: Sequence[Op]) -> None:
        """Repeat the backward ops as they were."""
        recorder = self.recorder
        pass_.roots = tuple(
            [(self.image(root), self._seed(root, start, at)) for at, (root, start) in enumerate(old.roots)]
        )
        for op in ops:
            self.op(op, pass_)
        recorder.intake.enter(recorder)
        for value, grads in old.grads.items():
            made = [
                self.made[gradient.op].outputs[gradient.slot] if gradient.op in self.made else self.image(gradient)
                for gradient in grads
            ]
            pass_.grads[self.image(value)] = list(dict.fromkeys([*made, self.image(grads[-1])]))
        pass_.given = self.images(old.given)
        for old_op, new in list(self.made.items()):
            if new.pass_ is pass_ and new.args and isinstance(new.args[0], Repeatable):
                new.args[0].repeat_backward(old_op.args[0], self)

    def _seed(self, root: Value, start: Value, number: int) -> Value:
        value = seed(self.recorder, self.image(root), self._cotangent(start), number)
        self.put(start, value)
        return value


def _pass_of(op: Op) -> Pass:
    return op.pass_
