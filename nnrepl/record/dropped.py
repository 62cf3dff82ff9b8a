"""Dropped: steps that were recorded op by op become closed ones, on the tape on which they lie.

A long run whose ops are recorded would grow for ever: its tensors go, its ops stay. So the oldest steps become what
they would be if they had run natively: one closed op a call, with its loss, its place and its number. They are opened
as those are, by running the program again.

What later steps take of them comes in as a leaf, as it does where ops are recorded after a native step. All else of
them is taken apart: an op and its values hold each other, and Python's collector is kept off the tape.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from nnrepl.installed import is_mlx
from nnrepl.record.closed_losses import loss_value
from nnrepl.record.closing import Call, spans
from nnrepl.record.objects import another
from nnrepl.record.rebuilt import exchange
from nnrepl.tape import (
    GRADIENT_PASS,
    UPDATE_PASS,
    Activation,
    ClosedOp,
    Inside,
    Leaf,
    Mark,
    Op,
    Pass,
    Remnant,
    Step,
    Tape,
    Value,
)  # fmt: skip
from nnrepl.tape.native_run import MadeCall

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


def together(tape: Tape, number: int) -> tuple[int, int]:
    """Return the first and the last of the steps that a recorded step can be closed with alone: one compiled call may
    have made several."""
    step, made, numbers = tape.steps[number - 1], tape.made, [number, number]
    for way, position in enumerate((step.start, step.end)):
        before = bisect_right(made, position - 1, key=_start_of)
        if before and made[before - 1].end > position:
            call = made[before - 1]
            numbers[way] = tape.steps.number_at((call.start, call.end - 1)[way])
    return numbers[0], numbers[1]


def calls_of(tape: Tape, first: int, last: int) -> list[MadeCall] | None:
    """Return the calls of which recorded steps would consist if they had run natively; None if they have to stay."""
    steps = tape.steps[first - 1 : last]
    start, end = steps[0].start, steps[-1].end
    traced = bisect_right(tape.traced, start - 1)
    # A compiled function is repeated from the ops of its first call.
    if not steps[-1].is_over or any([at < end for at in tape.traced[traced : traced + 1]]):
        return None
    calls = tape.made[
        bisect_right(tape.made, start - 1, key=_start_of) : bisect_right(tape.made, end - 1, key=_start_of)
    ]
    calls = sorted([*calls, *(call for step in steps for call in _updates(step, calls))], key=_start_of)
    passes = [pass_ for step in steps for pass_ in step.passes]
    kinds = [one.kind for call in calls for one in call.calls]
    gradients = len({pass_ for pass_ in passes if pass_.kind == GRADIENT_PASS})
    if not kinds.count(GRADIENT_PASS) == gradients > 0 or not all([call.calls for call in calls]):
        return None
    return None if any([pass_.error is not None or pass_.open for pass_ in passes]) else calls


def may_begin(tape: Tape, position: int) -> bool:
    """Whether the weights are there which the first gradient call after a position takes; a quick look."""
    at = bisect_right(tape.passes, position - 1, key=lambda pass_: pass_.start)
    first = next((pass_ for pass_ in tape.passes[at : at + _SOON] if pass_.kind == GRADIENT_PASS), None)
    if first is None:
        return False
    return all([leaf.held is not None or (leaf.origin is not None and leaf.origin.held is not None)
                for leaf in first.wrt])  # fmt: skip


_SOON = 8


def _updates(step: Step, calls: list[MadeCall]) -> Iterator[MadeCall]:
    """Yield the calls of optimizers' updates in a step that are none of some calls, nor lie in them: while ops are
    recorded, only these tell of them."""
    found: dict[Activation, list[int]] = {}
    for pass_ in step.passes:
        for op in pass_.ops if pass_.kind == UPDATE_PASS else ():
            scope = op.scope
            if scope is None or not scope.updating or any([call.start <= op.position < call.end for call in calls]):
                continue
            while (parent := scope.parent) is not None and parent.updating:
                scope = parent
            found.setdefault(scope, []).append(op.position)
    for outermost, places in found.items():
        around, lasti = outermost.parent, outermost.lasti
        while around is not None and is_mlx(around.code.co_filename):
            lasti, around = around.lasti, around.parent
        call = Call(UPDATE_PASS, type(outermost.owner).__name__)
        yield MadeCall(places[0], places[-1] + 1, (call,), around, lasti)


Change = Callable[[], None]
"""Makes a part of a change that has been worked out, in which nothing can fail."""


class Dropping:
    """Makes some steps of a recorder's tape closed ones.

    Args:
        start: Where the first call begins that is to be closed, or what comes after one that is closed.
        calls: The calls, up to the last of a step.
        end: Where what is not seen after them ends, as between two closed calls; 0: where they end.

    Attributes:
        start, end: Which stretch of the tape is replaced; `by` how much longer it becomes: a negative number.
        gone: The ops in it.
        spare: What stands for values that variables hold where it ends, and no later op takes.
    """

    def __init__(self, recorder: Recorder, start: int, calls: Sequence[MadeCall], end: int = 0) -> None:
        self.recorder = recorder
        self.tape = recorder.tape
        self.calls = calls
        self.start, self.end = start, end or calls[-1].end
        self._late = self.end > calls[-1].end
        self.gone = set(self.tape.ops[start : self.end])
        self.now: dict[Value, Value] = {}
        self.spare: list[Remnant] = []
        self._origins: dict[Leaf, Value] = {}
        self._closed: list[ClosedOp] = []
        self._old: set[Pass] = set()
        self._begins: list[int] = []
        self._ends: list[int] = []
        self.by = sum([len(call.calls) for call in calls]) - (self.end - start)
        self.before = self.fewer = 0
        self._stands: dict[Pass, Pass] = {}

    def lacks(self) -> bool:
        """Whether something that later ops take of it has been let go of: then they could not be computed again."""
        for value in chain.from_iterable([op.inputs for op in self.tape.ops[self.end :]]):
            origin = value.origin
            if value.op in self.gone and value.held is None:
                return True
            if value.held is None and origin is not None and origin.op in self.gone and origin.held is None:
                return True
        return False

    def moved(self, position: int) -> int:
        """Where a position lies once the steps are closed."""
        if position >= self.end:
            return position + self.by
        if position <= self.start:
            return position
        at = bisect_right(self._ends, position)
        return self._begins[at] if at < len(self._begins) else self.end + self.by

    def stands_for(self, pass_: Pass) -> Pass:
        """Return what stands for a pass now."""
        return self._stands.get(pass_, self._closed[-1].pass_ if pass_ in self._old else pass_)

    def run(self) -> None:
        """Do it. All that may fail comes first, so that an error leaves the tape as it was."""
        tape = self.tape
        self._close()
        later = tape.ops[self.end :]
        passes = list(dict.fromkeys([*(op.pass_ for op in later), *_after(tape, self.end)]))
        taken = [new for op in later if (new := self._taken_over(op)) is not None]
        for pass_ in passes:
            self._keep_leaves(pass_)
        marks, holes = [*_kept(self, tape.marks)], [*_kept(self, tape.holes)]
        held = self.recorder.watch.holders()
        bindings, noted = tape.bindings.cut(self.start, self.end, self.moved, self.remnant, held)
        swap = [
            self._moving(later, passes),
            bindings,
            self._entering(later, passes),
            self._relinking(),
            self._forgetting(later, passes, noted),
        ]
        spans = [*self._spans()]
        for op, args, kwargs, inputs in taken:
            op.args, op.kwargs, op.inputs = args, kwargs, inputs
        self._note_images()
        tape.marks[:], tape.holes[:] = marks, holes
        tape.spans += spans
        for change in swap:
            change()

    # -- what takes its place --------------------------------------------------------------------------------

    def _close(self) -> None:
        """Make the closed ops."""
        tape = self.tape
        inside = [pass_ for pass_ in tape.passes if self.start <= pass_.start < self.end and len(pass_)]
        waiting = [pass_ for pass_ in inside if pass_.kind in (GRADIENT_PASS, UPDATE_PASS)]
        losses: list[tuple[ClosedOp, Value]] = []
        for at, call in enumerate(self.calls):
            before = next((pass_.number for pass_ in reversed(inside) if pass_.start < call.end), 0)
            for one in call.calls:
                old = next((pass_ for pass_ in waiting if pass_.kind == one.kind and pass_.start < call.end), None)
                if old is not None:
                    del waiting[: waiting.index(old) + 1]
                self._begins.append(self.start + len(self._closed))
                self._ends.append(call.end if old is None or one is call.calls[-1] else old.end)
                op = self._closed_op(call, one, old, before)
                if old is not None and one.kind == GRADIENT_PASS:
                    op.pass_.by_hand = self._is_by_hand(at, old)
                    if old.loss is not None:
                        losses.append((op, old.loss))
        for op, loss in losses:  # as natively: one that is not evaluated keeps all that it is made of
            if loss.evaluated and loss.size == 1:
                self.now[loss] = op.pass_.loss = loss_value(op, loss.array)
                op.outputs = (op.pass_.loss,)

    def _closed_op(self, call: MadeCall, one: Call, old: Pass | None, number: int) -> ClosedOp:
        position = self.start + len(self._closed)
        scope, lasti = call.scope, call.lasti
        if one.scope is not None and self.recorder.levels is not None:
            scope, lasti = self.recorder.levels.within(one, scope, lasti), one.lasti
        pass_ = Pass(self.tape, number if old is None else old.number, one.kind, one.title, position, position + 1,
                     position + 1, gives_loss="" if old is None else old.gives_loss, scope=scope, lasti=lasti,
                     code=one.code, open=False)  # fmt: skip
        op = ClosedOp(one.kind, one.title, pass_)
        self._closed.append(op)
        if old is not None:
            self._stands[old] = pass_
        return op

    def _is_by_hand(self, at: int, old: Pass) -> bool:
        """Whether weights are updated by hand after a gradient call, before the next call."""
        end = self.calls[at + 1].start if at + 1 < len(self.calls) else old.step.end
        updates = [pass_ for pass_ in old.step.updates if self.calls[at].end <= pass_.start < end]
        by_call = [call for call in self.calls if any(one.kind == UPDATE_PASS for one in call.calls)]
        return any(all(call.end <= pass_.start or call.start >= pass_.end for call in by_call) for pass_ in updates)

    # -- what later steps take -------------------------------------------------------------------------------

    def image(self, value: Value) -> Value:
        """Return what stands for a value: a leaf for one that was made in what is closed now."""
        if value.op is None:
            if isinstance(value, Leaf) and value.origin is not None:
                self._origins[value] = self.image(value.origin)
            return value
        if value.op not in self.gone:
            return value
        found = self.now.get(value)
        if found is None:
            held = None if value.held is None else another(value.held)
            found = self.now[value] = Remnant(self.tape, held, value.label, value.op.pass_.step.number)
        return found

    def remnant(self, value: Value) -> Value:
        """Return what stands for a value that no later op may take: a variable holds it, or it was evaluated."""
        known = value in self.now
        found = self.image(value)
        if not known and isinstance(found, Remnant) and found is not value:
            self.spare.append(found)
        return found

    def _note_images(self) -> None:
        """Note what stands for what: what leaves continue is another value now."""
        notes = self.tape.notes
        for value, found in self.now.items():
            if isinstance(found, Leaf):
                notes.from_closed.add(found)
                if value.held is None:
                    notes.carry_value(value, found)
        for leaf, origin in self._origins.items():
            if leaf.origin is not origin and leaf.label is not None:
                notes.labels.setdefault(origin, leaf.label)
            leaf.origin = origin

    def _taken_over(self, op: Op) -> tuple[Op, Any, dict[str, Any], tuple[Value, ...]] | None:
        """Return an op, and what it is to take; None if that is what it takes."""
        images = tuple([self.image(value) for value in op.inputs])
        if not any([new is not old for new, old in zip(images, op.inputs)]):
            return None
        return op, exchange(op.args, self.now), exchange(op.kwargs, self.now) if op.kwargs else op.kwargs, images

    def _keep_leaves(self, pass_: Pass) -> None:
        for leaf in chain(pass_.wrt, pass_.handed, pass_.leaves if isinstance(pass_, Inside) else ()):
            self.image(leaf)

    # -- the tape --------------------------------------------------------------------------------------------

    def _moving(self, later: list[Op], passes: list[Pass]) -> Change:
        """Return what puts closed ops in the place of those that are closed, and moves what comes after them."""
        tape, start, end, closed, moved, by = self.tape, self.start, self.end, self._closed, self.moved, self.by
        before = [pass_ for pass_ in tape.passes if pass_.start < start]
        old = [pass_ for pass_ in tape.passes[len(before) :] if pass_.start < end and pass_.end <= end]
        after = tape.passes[len(before) + len(old) :]
        self._old = {*old, *(op.pass_ for op in self.gone)}.difference(passes)
        self.before, self.fewer = len(before), len(old) - len(closed)
        all_passes = [*before, *(op.pass_ for op in closed), *after]
        compiled = [(moved(a), moved(b)) for a, b in tape.compiled if not start <= a < end]
        late = {moved(at) for at in tape.late if not start <= at < end} | ({end + by} if self._late else set())
        made = [call if call.start < start else call.moved(by) for call in tape.made if not start <= call.start < end]
        traced = [moved(at) for at in tape.traced]
        opened = [step if step.start < start else step.moved(by) for step in tape.opened]
        passed = {line: list(dict.fromkeys(map(moved, places))) for line, places in tape.passed.items()}
        steps = tape.steps.cut(start, self, self.fewer, self.before)

        def move() -> None:
            steps()
            tape.ops[start:end] = closed
            for op in later:
                op.position += by
            for pass_ in passes:
                pass_.start, pass_.end = max(pass_.start, end) + by, pass_.end + by
                pass_.backward += by
            tape.passes[:], tape.compiled[:], tape.made[:] = all_passes, compiled, made
            tape.traced[:], tape.opened[:], tape.late = traced, opened, late
            tape.passed.update(passed)
            tape.kept.recount()
            tape.forget_consumers()

        return move

    def _entering(self, later: list[Op], passes: list[Pass]) -> Change:
        """Return what notes where leaves have come in that stay."""
        taken = [value for op in later for value in op.inputs]
        taken += [leaf for pass_ in passes for leaf in chain(pass_.wrt, pass_.handed)]
        leaves = {*taken, *_continued(taken), *self.recorder.live.copy().values(), *self._origins}
        entered = {leaf: self.moved(leaf.entered) for leaf in leaves if isinstance(leaf, Leaf)}
        entered |= {leaf: self.moved(self.end) for leaf in self.now.values() if isinstance(leaf, Leaf)}

        def enter() -> None:
            for leaf, at in entered.items():
                leaf.entered = at

        return enter

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Yield the steps that one call has made."""
        number_at = self.tape.steps.number_at
        for call in self.calls:
            first, last = number_at(call.start), number_at(call.end - 1)
            if spans(call.calls) and first != last:
                yield first, last

    def _relinking(self) -> Change:
        """Return what notes what variables hold, and of which values the program holds the tensors."""
        recorder = self.recorder
        until = max(recorder.native_until, self.moved(self.end))
        kept = {key: left for key, left in recorder.leavings.kept.items() if left[1].op not in self.gone}
        unified = {new: old for new, old in recorder.unified.items() if old.op not in self.gone}

        def relink() -> None:
            recorder.native_until, recorder.unified = until, unified
            recorder.leavings.kept = kept
            recorder.watch.renewed(self.now)
            for key, value in recorder.live.copy().items():
                found = self.now.get(value)
                if found is not None and value.held is not None and id(value.held) == key:
                    recorder.link(value.held, found)
                elif found is not None:
                    recorder.live[key] = found
                elif isinstance(value, Leaf) and value.origin is not None and value.origin.op in self.gone:
                    value.origin = None  # no later op takes it
                elif value.op in self.gone:  # the program may still have it: where an op takes it, it comes in
                    recorder.live.pop(key, None)
                    recorder.guards.pop(key, None)

        return relink

    def _forgetting(self, later: list[Op], passes: list[Pass], noted: list[Value]) -> Change:
        """Return what takes apart what has been closed."""
        recorder, notes, closed = self.recorder, self.tape.notes, self._closed[-1]
        leaves = self._left_alone(later, passes, noted)
        values = [value for op in self.gone for value in op.outputs]

        def forget() -> None:
            alone = {leaf: None if leaf.held is None else another(leaf.held) for leaf in leaves}
            for leaf in leaves:
                recorder.drop(leaf)
            for value in recorder.live.copy().values():
                if isinstance(value, Leaf) and value in alone:  # what the program still holds may be taken again
                    value.held = alone.pop(value)
                    notes.dropped.discard(value)
            notes.forget(self.gone, [*values, *alone])
            for leaf in alone:
                leaf.origin = leaf.gradient_of = leaf.bound = None
            for value in values:
                found = self.now.get(value)
                value.op, value.bound = closed, None
                value.held = None if found is None else found.held
            for op in self.gone:
                op.inputs = op.outputs = op.args = ()
                op.kwargs = {}
            for pass_ in self._old:
                pass_.wrt = pass_.handed = pass_.roots = pass_.given = ()
                pass_.grads, pass_.loss, pass_.returned = {}, None, None
            recorder.collector.due = max(recorder.collector.due + self.by, 0)

        return forget

    def _left_alone(self, later: list[Op], passes: list[Pass], noted: list[Value]) -> list[Leaf]:
        """Return the leaves that only what is closed has taken."""
        tape = self.tape
        older = tape.notes.from_closed  # what variables held where a step had ended
        leaves: set[Value] = {leaf for pass_ in self._old for leaf in chain(pass_.wrt, pass_.handed, *pass_.roots)}
        leaves.update([value for op in self.gone for value in op.inputs])
        leaves.update(older, [*_continued(leaves)])
        staying = [value for op in chain(tape.ops[: self.start], later) for value in op.inputs]
        others = (pass_ for pass_ in chain(tape.passes, passes) if pass_ not in self._old)
        staying += [leaf for pass_ in others for leaf in chain(pass_.wrt, pass_.handed)]
        leaves.difference_update(staying, _continued(staying), [value for value in noted if value not in older])
        return [leaf for leaf in leaves if isinstance(leaf, Leaf)]


def _continued(values: Iterable[Value]) -> Iterator[Value]:
    """Yield what leaves continue, and what that continues."""
    for value in values:
        while isinstance(value, Leaf) and value.origin is not None:
            value = value.origin
            yield value


def _kept(cut: Dropping, marks: Sequence[Any]) -> Iterator[Any]:
    """Yield the marks, or the holes, that stay, where they lie now."""
    for mark in marks:
        if mark.position >= cut.end:
            more = {"values": tuple(map(cut.remnant, mark.values))} if isinstance(mark, Mark) else {}
            yield replace(mark, position=mark.position + cut.by, **more)
        elif mark.position <= cut.start:
            yield mark


def _start_of(call: MadeCall) -> int:
    return call.start


def _after(tape: Tape, position: int) -> Iterator[Pass]:
    return (pass_ for pass_ in tape.passes if pass_.end > position or pass_.start >= position)
