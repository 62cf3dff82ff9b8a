"""Events: what `catch` stops at. Each event knows where it may happen, what has to be evaluated to be sure, and
what there is to tell about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.batches import of_one_size, rows
from nnrepl.record.needs import needs
from nnrepl.session.findings import Finding, Forced, Raised, Stretched, Test, Vanished, birth, source_of
from nnrepl.session.questions import Question
from nnrepl.tape import SETUP, BackwardOp, Op, Tape, Value


class Catcher(Protocol):
    """Finds one kind of event.

    Attributes:
        evaluates: Whether it looks at numbers; if it does not, `question` gives None.
    """

    evaluates: bool

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        """Where it may happen."""

    def question(self, tape: Tape, position: int) -> Question | None:
        """Return what has to be evaluated to be sure."""

    def finding(self, tape: Tape, position: int) -> Finding:
        """Return what there is to tell, where nothing had to be evaluated."""


def _ops(tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
    end = min(end, len(tape))
    return iter(range(end - 1, start - 1, -1) if reverse else range(start, end))


class _Flags(dict[Value, bool]):
    """One yes or no for each value, once it has been evaluated: asked once, and of all that have been since the last
    time.

    Args:
        reduce: Gives one bool for each row.
    """

    def __init__(self, reduce: Callable[[mx.array], mx.array]) -> None:
        self._reduce = reduce
        self._asked: dict[Value, None] = {}

    def ask(self, values: list[Value]) -> list[Value]:
        """Return the values among some that have to be evaluated first."""
        new = [value for value in values if value not in self]
        self._asked.update(dict.fromkeys(new))
        return new

    def __missing__(self, value: Value) -> bool:
        there = [value, *(other for other in self._asked if other is not value and other.evaluated)]
        for group in of_one_size(there):
            flags: Any = self._reduce(rows(group)).tolist()
            self.update(zip(group, flags))
        self._asked = {other: None for other in self._asked if other not in self}
        return self[value]


class _Floating(dict[Value, bool]):
    """Whether a value has numbers of which one may be none: of an op's result each op asks that takes it."""

    def __missing__(self, value: Value) -> bool:
        found = self[value] = _floating(value)
        return found


class _Sight:
    """Sees numbers of values that have been evaluated, or can be."""

    def see(self, values: Iterable[Value]) -> None:
        """As `births.Sight`."""
        mx.eval([value.array for value in values])

    def numbers(self, arrays: Sequence[mx.array]) -> list[Any]:
        """As `births.Sight`."""
        mx.eval(arrays)
        return [array.tolist() for array in arrays]

    def finite(self, values: Iterable[Value]) -> dict[Value, bool]:
        """As `births.Sight`."""
        wanted = list(values)
        return dict(zip(wanted, self.numbers([mx.all(mx.isfinite(value.array)) for value in wanted])))


class Births:
    """An op whose result has bad numbers although its inputs have none; a leaf that brings some along."""

    evaluates = True

    def __init__(self, what: str, test: Test) -> None:
        self._what = what
        self._test = test
        self._flags = _Flags(lambda rows: mx.any(test(rows), axis=1))
        self._floating = _Floating()

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        ops, floating = tape.ops, self._floating
        return (at for at in _ops(tape, start, end, reverse) if any([floating[value] for value in ops[at].outputs]))

    def question(self, tape: Tape, position: int) -> Question:
        op, floating = tape.ops[position], self._floating
        outputs = [value for value in op.outputs if floating[value]]
        inputs = [value for value in dict.fromkeys(op.inputs) if floating[value]]
        values = self._flags.ask([*outputs, *inputs])
        return Question(values, (), lambda: self._answer(tape, op, inputs, outputs))

    def _answer(self, tape: Tape, op: Op, inputs: list[Value], outputs: list[Value]) -> Finding | Literal[False]:
        bad = [value for value in inputs if self._flags[value]]
        for value in bad:
            if _was_there(value, op) and _first_user(tape, value) is op:
                return birth(self._what, self._test, op, value)
        for value in outputs if op.operation.kind != "data" or op.phase != SETUP else ():  # told where it is used
            if not self._flags[value]:
                continue
            if not bad:
                return birth(self._what, self._test, op, value)
            places = self._apart(op, value, bad)
            if places is not None:
                return birth(self._what, self._test, op, value, places)
        return False

    def _apart(self, op: Op, value: Value, bad: list[Value]) -> mx.array | None:
        """Where an op has made a bad number out of good ones, although its operands hold bad ones, from which others
        are made; None where it has not, or where that cannot be told."""
        from nnrepl.ops import ELEMENTWISE, ENTRIES
        from nnrepl.session.births import follow

        if op.operation.kind not in ("op", "vjp", "accumulate"):
            return None
        born = self._test(value.array)
        entry = ENTRIES.get(op.name)
        if entry is not None and entry.kind == ELEMENTWISE and op.operation.kind == "op":
            for taken in bad:
                born = born & ~mx.broadcast_to(self._test(taken.array), value.shape)
        else:
            born = born & self._without(op, value, bad)
        found, first = _Sight().numbers([mx.any(born), mx.argmax(born)])
        if not found:
            return None
        made = follow(_Sight(), value, int(first))
        return born if made.op is op and made.value is value else None

    def _without(self, op: Op, value: Value, bad: list[Value]) -> mx.array:
        """Where the result of an op is bad as well if good numbers stand in the place of all bad ones."""
        from nnrepl.session.births import filler

        def given(taken: Value) -> mx.array:
            array = taken.array
            return mx.where(self._test(array), filler(taken), array) if taken in bad else array

        try:
            places = self._test(op.compute(given)[value.slot])
            mx.eval(places)
        except (ValueError, TypeError, RuntimeError):  # an op that minds what its numbers are
            return mx.array(False)
        return places

    def finding(self, tape: Tape, position: int) -> Finding:
        raise NotImplementedError


class ZeroGradients:
    """A backward op that is given a gradient and gives zeros."""

    evaluates = True

    def __init__(self) -> None:
        self._flags = _Flags(lambda rows: mx.all(rows == 0, axis=1))

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        ops = tape.ops
        return (at for at in _ops(tape, start, end, reverse) if isinstance(ops[at], BackwardOp) and _zeroable(ops[at]))

    def question(self, tape: Tape, position: int) -> Question:
        op = tape.ops[position]
        given = [value for value in dict.fromkeys(op.inputs) if value.gradient_of is not None and _floating(value)]
        values = self._flags.ask([*_zeroable(op), *given])
        return Question(values, (), lambda: self._answer(op, given))

    def _answer(self, op: Op, given: list[Value]) -> Finding | Literal[False]:
        alive = [value for value in given if not self._flags[value]]
        if alive or not given:
            for value in _zeroable(op):
                if self._flags[value]:
                    others = [taken for taken in dict.fromkeys(needs(op)) if taken.gradient_of is None]
                    return Vanished(op, value, tuple(alive), tuple(others))
        return False

    def finding(self, tape: Tape, position: int) -> Finding:
        raise NotImplementedError


class Certain:
    """An event that the tape alone tells."""

    evaluates = False

    def question(self, tape: Tape, position: int) -> Question | None:
        return None


class Exceptions(Certain):
    """An op that raised, or the end of a pass in which the program itself did."""

    def _all(self, tape: Tape) -> dict[int, Raised]:
        found: dict[int, Raised] = {}
        for op, error in list(tape.notes.errors.items()):
            if op.position < len(tape) and tape.ops[op.position] is op:
                found[op.position] = Raised(error, op)
        known = [raised.error for raised in found.values()]
        for pass_ in tape.passes:
            if pass_.error is not None and not any(pass_.error is error for error in known):
                found.setdefault(pass_.end, Raised(pass_.error, None))
        return found

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        return iter(sorted([at for at in self._all(tape) if start <= at < end], reverse=reverse))

    def finding(self, tape: Tape, position: int) -> Finding:
        return self._all(tape)[position]


class Evaluations(Certain):
    """The program forced an evaluation."""

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        found = {mark.position for mark in tape.marks if start <= mark.position < end}
        return iter(sorted(found, reverse=reverse))

    def finding(self, tape: Tape, position: int) -> Finding:
        return Forced(tuple([mark for mark in tape.marks if mark.position == position]))


class Shapes(Certain):
    """Operands that were broadcast against each other: the result is larger than either."""

    def positions(self, tape: Tape, start: int, end: int, reverse: bool) -> Iterator[int]:
        ops = tape.ops
        return (at for at in _ops(tape, start, end, reverse) if _stretched(ops[at]))

    def finding(self, tape: Tape, position: int) -> Finding:
        return Stretched(tape.ops[position])


def _stretched(op: Op) -> bool:
    from nnrepl.ops import Trait, has

    if len(op.inputs) < 2 or len(op.outputs) != 1 or isinstance(op, BackwardOp) or has(op.name, Trait.PRODUCT):
        return False
    shape = op.outputs[0].shape
    shapes = [value.shape for value in op.inputs]
    if shape in shapes or len(shape) != max(map(len, shapes)):
        return False
    wide = [(1,) * (len(shape) - len(one)) + tuple(one) for one in shapes]
    extents = [set(column) - {1} for column in zip(*wide)]
    return all(found == ({extent} - {1}) for found, extent in zip(extents, shape))


def _first_user(tape: Tape, value: Value) -> Op | None:
    """Return the first op after the setup that takes a value."""
    return next((user for user in tape.consumers(value) if user.phase != SETUP), None)


def _was_there(value: Value, op: Op) -> bool:
    """Whether a value that an op takes was there before the first forward pass, or comes from outside."""
    maker = source_of(value).op
    return op.phase != SETUP and (maker is None or maker.phase == SETUP)


def _floating(value: Value) -> bool:
    return value.size > 0 and mx.issubdtype(value.dtype, mx.inexact)


def _zeroable(op: Op) -> list[Value]:
    return [value for value in op.outputs if value.gradient_of is not None and _floating(value)]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that `catch` stops at: all that is known about it, in one place.

    Attributes:
        words: When it happens, as the list of stops says it.
        make: What finds it. What it finds is a `Finding`, for each of which the view has a picture.
    """

    words: str
    make: Callable[[], Catcher]


EVENTS: dict[str, Event] = {
    "nan": Event("an op makes a NaN out of inputs that have none", lambda: Births("NaN", mx.isnan)),
    "inf": Event("an op makes an Inf out of inputs that have none", lambda: Births("Inf", mx.isinf)),
    "exception": Event("an op, or a pass, raises an exception, also where the program handles it", Exceptions),
    "zero-grad": Event("a gradient that is not zero goes into an op, and zeros come out", ZeroGradients),
    "sync": Event("the program forces an evaluation", Evaluations),
    "shape": Event("two operands stretch each other to a shape that neither has", Shapes),
}
"""Every event by its name. A new one is one entry here, and a picture in `view/stop_list.py` if it finds a new kind."""
