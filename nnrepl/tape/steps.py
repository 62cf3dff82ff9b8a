"""Step: one training step; Steps: the steps of a tape, told apart by where the program updates its weights.

A step is everything after one update up to and including the next one. What cannot be seen from the ops alone is
where a step ends if the program goes on in the same turn of its training loop (a second optimizer, an average of
the weights, an evaluation): such a turn is never cut in two, whoever calls what in it.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import field
from typing import TYPE_CHECKING, Protocol, overload

from nnrepl.classes import dataclass
from nnrepl.tape.origins import Activation
from nnrepl.tape.passes import GRADIENT_PASS, RUN_PASS, SETUP_PASS, UPDATE_PASS, Pass
from nnrepl.tape.turns import is_in_loop, leads

if TYPE_CHECKING:
    from nnrepl.tape.op import Op
    from nnrepl.tape.tape import Tape
    from nnrepl.tape.value import Value


@dataclass(eq=False, slots=True)
class Step:
    """A training step; number 0 is the setup.

    Attributes:
        tape: The tape it lies on.
        number: 0 for the setup, then 1, 2, ...
        start: The position of its first op.
        end: The position after its last op so far.
    """

    tape: Tape
    number: int
    start: int
    end: int

    @property
    def title(self) -> str:
        """`setup`, `step 30`."""
        return f"step {self.number}" if self.number else "setup"

    @property
    def passes(self) -> list[Pass]:
        """Its passes in order."""
        passes = self.tape.passes
        first = bisect_right(passes, self.start, key=_start_of) - 1
        last = bisect_right(passes, self.end - 1, key=_start_of)
        return [pass_ for pass_ in passes[max(first, 0) : last] if len(pass_) or pass_.open]

    @property
    def loss(self) -> Value | None:
        """What its last gradient call differentiated, None if it made none."""
        losses = [pass_.loss for pass_ in self.passes if pass_.kind == GRADIENT_PASS and pass_.loss is not None]
        return losses[-1] if losses else None

    @property
    def updates(self) -> list[Pass]:
        """The updates in it, in order; none yet where it is still going on."""
        passes = self.passes
        weights = {value for pass_ in passes for value in weights_of(pass_)}
        return [pass_ for pass_ in passes if is_update(pass_, weights)]

    @property
    def by_hand(self) -> bool:
        """Whether weights are updated by hand in it behind a closed call, where that is not on the tape."""
        return any(pass_.by_hand for pass_ in self.passes)

    @property
    def is_over(self) -> bool:
        """Whether weights have been updated in it."""
        return self.by_hand or bool(self.updates)

    def __len__(self) -> int:
        return self.end - self.start

    def __repr__(self) -> str:
        return f"<Step {self.number} {len(self)} ops>"


class Cutting(Protocol):
    """What makes a stretch of a tape shorter."""

    def moved(self, position: int) -> int:
        """Where a position will lie."""

    def stands_for(self, pass_: Pass) -> Pass:
        """Return what will stand for a pass."""


@dataclass(eq=False, slots=True)
class Steps(Sequence[Step]):
    """The steps of a tape, without its setup; found as far as the tape reaches when somebody asks."""

    tape: Tape
    _starts: list[int] = field(default_factory=list)
    _seen: int = 0
    _looked: int = 0
    _updated: Pass | None = None
    _last_by_hand: Op | None = None
    _weights: set[Value] = field(default_factory=set)

    @classmethod
    def known(cls, tape: Tape, starts: Sequence[int]) -> Steps:
        """Return the steps of a tape that grows no more, by the positions at which they begin."""
        return cls(tape, list(starts), _seen=sys.maxsize)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | list[Step]:
        self._look()
        if isinstance(index, slice):
            return [self._step(at) for at in range(len(self._starts))[index]]
        return self._step(range(len(self._starts))[index])

    def __len__(self) -> int:
        self._look()
        return len(self._starts)

    def __iter__(self) -> Iterator[Step]:
        return (self._step(at) for at in range(len(self)))

    def at(self, position: int) -> Step:
        """Return the step in which a position lies (the last one, after the end), or the setup (number 0)."""
        self._look()
        found = bisect_right(self._starts, position)
        return self._step(found - 1) if found else self.setup

    def number_at(self, position: int) -> int:
        """Return the number of the step in which a position lies."""
        self._look()
        return bisect_right(self._starts, position)

    def start_of(self, number: int) -> int | None:
        """Return the position at which a step (0: the setup) begins; None if the tape does not reach it."""
        self._look()
        if number == 0:
            return 0
        return self._starts[number - 1] if number <= len(self._starts) else None

    def coming(self, scope: Activation | None, lasti: int) -> int:
        """Return the number of the step in which a gradient call will be that is about to be made at a place."""
        self._look()
        self._look_back()
        updated, count = self._updated, len(self._starts)
        if updated is not None and not self._in_turn_of(updated, scope, lasti):
            return count + 1
        return max(count, 1)

    def differentiated(self) -> bool:
        """Whether the last step has made a gradient call."""
        self._look()
        start = self._starts[-1] if self._starts else 0
        for pass_ in reversed(self.tape.passes):
            if pass_.end <= start:
                return False
            if pass_.kind == GRADIENT_PASS:
                return True
        return False

    @property
    def setup(self) -> Step:
        """What was recorded before the first step."""
        self._look()
        return Step(self.tape, 0, 0, self._starts[0] if self._starts else len(self.tape))

    def cut(self, start: int, cutting: Cutting, fewer: int, before: int) -> Callable[[], None]:
        """Return what notes that a stretch of the tape becomes shorter, which begins and ends in steps that are over.

        Args:
            cutting: Where each position will lie, and what will stand for a pass.
            fewer: How many passes less there will be after so many (`before`).
        """
        self._look()
        moved = cutting.moved
        starts = [at if at <= start else moved(at) for at in self._starts]
        seen = max(self._seen - fewer, before) if self._seen > before else self._seen
        looked = moved(self._looked) if self._looked > start else self._looked
        updated = None if self._updated is None else cutting.stands_for(self._updated)

        def note() -> None:
            self._starts, self._seen, self._looked, self._updated = starts, seen, looked, updated

        return note

    def _step(self, at: int) -> Step:
        starts = self._starts
        end = starts[at + 1] if at + 1 < len(starts) else len(self.tape)
        return Step(self.tape, at + 1, starts[at], end)

    def _look(self) -> None:
        """Take in the passes that came since the last time. A pass that is being recorded is looked at again:
        whether it updates is known at its end."""
        if self._starts:
            self._starts[0] = self.tape.origin  # a change before the first op moves it
        passes, count = self.tape.passes, len(self.tape)
        while self._seen < len(passes):
            pass_ = passes[self._seen]
            self._look_back()
            if pass_.kind != SETUP_PASS and pass_.start < count:
                if not self._starts:
                    self._starts.append(self.tape.origin)
                if self._updated is not None:
                    self._cut(self._updated, pass_, count if pass_.open else pass_.end)
            if pass_.open:
                return
            self._end(pass_)
            self._seen += 1

    def _look_back(self) -> None:
        """See whether the last pass was a closed call behind which the program has updated weights by hand: that is
        known when it makes the next call."""
        last = self.tape.passes[self._seen - 1] if 0 < self._seen <= len(self.tape.passes) else None
        if last is not None and last.by_hand and (not self._starts or self._starts[-1] <= last.start):
            self._updated = last

    def _cut(self, update: Pass, pass_: Pass, end: int) -> None:
        """Find where a new step begins in a pass after an update, if it does. Ops at the top level may be of two
        turns of the training loop and still be one pass."""
        if pass_.kind == UPDATE_PASS:
            return
        ops = self.tape.ops
        places: list[tuple[int, Activation | None, int]]
        if pass_.kind == GRADIENT_PASS and pass_.scope is not None:
            places = [(pass_.start, pass_.scope, pass_.lasti)]
        else:
            last = pass_.start + 1 if pass_.kind == GRADIENT_PASS else end
            inserted = self.tape.notes.inserted  # what the user puts in belongs to what it stands behind
            fresh = [at for at in range(max(pass_.start, self._looked), last) if ops[at] not in inserted]
            places = [(at, ops[at].scope, ops[at].lasti) for at in fresh]
        self._looked = end
        for at, scope, lasti in places:
            if not self._in_turn_of(update, scope, lasti):
                self._starts.append(at)
                self._weights.clear()
                self._updated = None
                return

    def _in_turn_of(self, update: Pass, scope: Activation | None, lasti: int) -> bool:
        """Whether a place still belongs to the turn of the loop in which weights were updated. After a closed call that
        was by hand, somewhere after it, and the call may stand in a loop of its own (over micro-batches): where the
        lines of the update are is known from a step that was recorded."""
        last, by_hand = _last_of(update), self._last_by_hand
        if in_one_turn(last, scope, lasti):
            return True
        if not update.by_hand or by_hand is None or not _comes_after(last, scope, lasti):
            return False
        here, there = (scope, lasti), (by_hand.scope, by_hand.lasti)
        common, start, end = _common(*here, *there)
        return common is not None and (start == end or _in_one_turn(there, here) or _in_one_turn(here, there))

    def _end(self, pass_: Pass) -> None:
        self._weights.update(weights_of(pass_))
        if is_update(pass_, self._weights):
            self._updated = pass_
            last = _last_of(pass_)
            if last.operation.kind != "closed" and not (last.scope is not None and last.scope.updating):
                self._last_by_hand = last


def weights_of(pass_: Pass) -> Iterator[Value]:
    """Yield what a gradient call differentiated with respect to, as the program knows it and as the call does."""
    for leaf in pass_.wrt:
        yield leaf
        if leaf.origin is not None:
            yield leaf.origin


def is_update(pass_: Pass, weights: Set[Value]) -> bool:
    """Whether a pass changes weights: an optimizer's update, or arithmetic by hand on a weight and its gradient.
    Sums of gradients, their norm and the like are made between gradient calls as well, and are none.

    Args:
        weights: What the gradient calls of this step differentiated with respect to (see `weights_of`).
    """
    if pass_.kind != UPDATE_PASS:
        return False
    return any(
        op.operation.kind == "closed" or (op.scope is not None and op.scope.updating) or _reads(op, weights)
        for op in pass_.ops
        if op not in pass_.tape.notes.inserted
    )


def _last_of(pass_: Pass) -> Op:
    """Return the last op of the program's in a pass: what the user puts in after it stands at its end."""
    ops, inserted = pass_.ops, pass_.tape.notes.inserted
    return next((op for op in reversed(ops) if op not in inserted), ops[-1])


def _reads(op: Op, weights: Set[Value]) -> bool:
    return any(value in weights or (value.origin is not None and value.origin in weights) for value in op.inputs)


def in_one_turn(before: Op, scope: Activation | None, lasti: int) -> bool:
    """Whether the program came from an op to a later place within one turn of a loop.

    That is so if, in the innermost call that made both, control can come from the one to the other without a jump
    back, and this call or one of its callers stands in a loop. A function that is called anew is a new turn. A
    module's own lines run once: loops further out (a notebook's kernel, a test runner) are not the program's.

    Args:
        scope, lasti: The later place.
    """
    return _in_one_turn((before.scope, before.lasti), (scope, lasti))


Place = tuple["Activation | None", int]
"""A call, and where in it."""


def _in_one_turn(before: Place, after: Place) -> bool:
    common, start, end = _common(*before, *after)
    if common is None or start >= end or not leads(common.code, start, end):
        return False
    at = start
    while common is not None:
        if is_in_loop(common.code, at):
            return True
        at, common = common.lasti, None if common.code.co_name == "<module>" else common.parent
    return False


def _comes_after(before: Op, scope: Activation | None, lasti: int) -> bool:
    """Whether the program may have come from an op to a place without another turn of a loop in which both stand: it
    may have gone through other turns of one in which the op stands alone, and left that."""
    common, start, end = _common(before.scope, before.lasti, scope, lasti)
    return common is not None and start < end and leads(common.code, start, end, outwards=True)


def _common(
    one: Activation | None, one_lasti: int, other: Activation | None, other_lasti: int
) -> tuple[Activation | None, int, int]:
    """Return the innermost call from which two places were reached, and from where in it each was."""
    while one is not other:
        if one is None or other is None:
            return None, 0, 0
        if one.depth >= other.depth:
            one_lasti, one = one.lasti, one.parent
        else:
            other_lasti, other = other.lasti, other.parent
    return one, one_lasti, other_lasti


def _start_of(pass_: Pass) -> int:
    return pass_.start


def title_of(op: Op) -> str:
    """`step 30 · `, `turn 500 · ` of a program whose loops are told by their evaluations, or ""."""
    pass_ = op.pass_
    known = pass_.kind in (SETUP_PASS, RUN_PASS)
    number = pass_.tape.turns.number_at(op.position, pass_.tape.ops) if known else 0
    step = "" if pass_.kind == SETUP_PASS else f"{op.step.title} · "
    return f"{step}turn {number} · " if number else step


# -- turns -------------------------------------------------------------------------------------------------

# A program of which no forward pass has begun runs natively in stretches of its setup, each from one evaluation to
# another, and each is closed and opened by itself, as steps are. Such a turn has a number of its own, below those of
# all steps, which grows from turn to turn and is the same in each run.
_FIRST = -(1 << 40)
"""The number of a turn is this and how many evaluations the program had forced where it began."""
_FINE = 256


def number_of(evaluations: int) -> int:
    """Return the number of the turn that begins with an evaluation, which is the how manyth of the run."""
    return _FIRST + evaluations


def is_turn(number: int) -> bool:
    """Whether a number is that of a turn, not of a step."""
    return number < 0


def begins_with(number: int) -> int:
    """Return with the how manyth evaluation of the run a turn begins; 0 for a step."""
    return number - _FIRST if number < 0 else 0


def unit_at(tape: Tape, position: int) -> int:
    """Return the number of what is closed and opened as a whole and has a position in it: a turn of the setup, else a
    step."""
    if position < len(tape.ops):
        turn = tape.ops[position].pass_.turn
        if turn:
            return number_of(turn)
    opened = (step.number for step in tape.opened if step.number < 0 and step.start <= position < step.end)
    return next(opened, None) or tape.steps.number_at(position)


def span_of(tape: Tape, number: int) -> tuple[int, int]:
    """Return where a turn lies on a tape; nowhere, at its beginning, if it is not on it."""
    opened = (step for step in tape.opened if step.number == number)
    turn = begins_with(number)
    passes = (pass_ for pass_ in reversed(tape.passes) if pass_.turn == turn)
    found = next(opened, None) or next(passes, None)
    return (0, 0) if found is None else (found.start, found.end)


def unit(tape: Tape, number: int) -> Step:
    """Return the step of a number, 0 for the setup; a turn of that as if it were one."""
    if is_turn(number):
        return Step(tape, number, *span_of(tape, number))
    return tape.steps[number - 1] if number else tape.steps.setup


def earliest(since: int) -> int:
    """Return the first evaluation of the run with which a turn may end that began with another."""
    return since + since // _FINE + 1


def is_due(evaluations: int, since: int) -> bool:
    """Whether a turn that began with an evaluation of the run ends with another. Each may be a little longer than those
    before, so that a long run has few."""
    return evaluations - since > evaluations // _FINE
