"""Points: the places that are single ops: a number, a phase, a pass, where a value is made, an operation."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from nnrepl.record.names import ProgramNames
from nnrepl.session.errors import UserError
from nnrepl.session.findings import source_of
from nnrepl.session.lookup import NUMBER
from nnrepl.session.place import Here, Place, ordered, passes_between, within
from nnrepl.tape import (
    BACKWARD,
    FORWARD,
    GRADIENT_PASS,
    PHASES,
    RUN_PASS,
    SETUP,
    SETUP_PASS,
    Activation,
    ClosedOp,
    Leaf,
    Op,
    Operation,
    Pass,
    Tape,
    Value,
)


def _counted(written: re.Match[str], what: str) -> int:
    """Return the number in `step 30`. Raises UserError if it is 0."""
    number = int(written[0].split()[1])
    if not number:
        raise UserError(f"{what} count from 1")
    return number


class Number(Place):
    """An op by its number in a step (0: the setup)."""

    kind, words = "op", "one op"
    form = NUMBER.pattern

    @classmethod
    def read(cls, written: re.Match[str], here: Here) -> Place:
        """`#12` in the step in which the user stands, `30#12`, `setup#3`."""
        tape, index = here.tape, int(written["number"])
        if not index:
            raise UserError("ops count from #1, in each step and in the setup")
        step = 0 if written["setup"] else int(written["step"]) if written["step"] else tape.here
        alone = step == tape.here and len(tape.steps) < 2 and not here.running
        return cls(f"#{index}" if alone else f"{step or 'setup'}#{index}", index, step)

    def __init__(self, title: str, index: int, step: int) -> None:
        super().__init__(title)
        self._index, self.step = index, step

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        at = tape.position(self._index, self.step)
        if at is None or at >= len(tape) or tape.steps.number_at(at) != self.step:
            return iter(())
        return ordered([at], start, end, reverse)

    def gone(self, tape: Tape) -> str:
        if any(True for _ in self.positions(tape, 0, len(tape))):
            return self.passed()
        if self.step >= len(tape.steps):
            return ""
        start, end = tape.steps.start_of(self.step), tape.steps.start_of(self.step + 1)
        closed = any(isinstance(op, ClosedOp) for op in tape.ops[start:end])
        return self.passed(f"step {self.step}") if closed else f"there is no op {self.title}"


class StepStart(Place):
    """The first op of a training step."""

    kind, words = "step", "where it begins"
    form = r"step \d{1,9}"
    whole = True

    @classmethod
    def read(cls, written: re.Match[str], here: Here) -> Place:
        """`step 30`."""
        return cls(_counted(written, "steps"))

    def __init__(self, number: int) -> None:
        super().__init__(f"step {number}")
        self.number = number

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        at = tape.steps.start_of(self.number)
        return ordered([] if at is None else [at], start, end, reverse)

    def holds(self, tape: Tape, at: int) -> bool:
        return at < len(tape) and tape.steps.number_at(at) == self.number

    def span(self, tape: Tape, start: int, end: int) -> tuple[int, int]:
        first, after = tape.steps.start_of(self.number), tape.steps.start_of(self.number + 1)
        if first is None:
            return end, end
        return max(start, first), end if after is None else min(end, after)

    def gone(self, tape: Tape) -> str:
        return self.passed() if self.number <= len(tape.steps) else ""

    def over(self, tape: Tape) -> bool:
        return self.number < len(tape.steps)


class TurnStart(Place):
    """The first op of a turn of the program's loops, where it takes no gradients by MLX (see `nnrepl.tape.turns`)."""

    kind, words = "turn", "where it begins"
    form = r"turn \d{1,9}"
    whole = True

    @classmethod
    def read(cls, written: re.Match[str], here: Here) -> Place:
        """`turn 500`."""
        return cls(_counted(written, "turns"))

    def __init__(self, number: int) -> None:
        super().__init__(f"turn {number}")
        self.number = number

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        at = tape.turns.start_of(self.number, tape.ops)
        return ordered([] if at is None else [at], start, end, reverse)

    def holds(self, tape: Tape, at: int) -> bool:
        return at < len(tape) and tape.turns.number_at(at, tape.ops) == self.number

    def span(self, tape: Tape, start: int, end: int) -> tuple[int, int]:
        first, after = (tape.turns.start_of(number, tape.ops) for number in (self.number, self.number + 1))
        if first is None:
            return end, end
        return max(start, first), end if after is None else min(end, max(after, first + 1))

    def gone(self, tape: Tape) -> str:
        if self.number <= len(tape.turns):
            return self.passed()
        return f"{self.title} was never reached: the program has taken gradients since" if tape.turns.is_over else ""

    def over(self, tape: Tape) -> bool:
        return self.number < len(tape.turns)


class Edge(Place):
    """The first op of the first forward pass, or the end of what is recorded."""

    kind, words = "edge", "one end"
    fixed = ("start", "end")
    form = "|".join(fixed)

    @classmethod
    def read(cls, written: re.Match[str], here: Here) -> Place:
        """`start`, `end`."""
        return cls(written[0])

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        first = tape.origin if tape.origin < len(tape) else 0
        return ordered([first if self.title == "start" else len(tape)], start, end, reverse)

    def span(self, tape: Tape, start: int, end: int) -> tuple[int, int]:
        if self.title != "start":
            return start, end
        first = next(self.positions(tape, 0, len(tape)), 0)
        return max(start, first), min(end, first + 1)

    def gone(self, tape: Tape) -> str:
        return self.passed() if self.title == "start" and len(tape) else ""


class Phase(Place):
    """The first op of each forward pass, backward pass, update, or of the setup."""

    kind, words = "phase", "where it begins"
    fixed = PHASES
    form = "|".join(fixed)
    whole = True

    @classmethod
    def read(cls, written: re.Match[str], here: Here) -> Place:
        """`forward`, `backward`, `update`, `setup`."""
        return cls(written[0])

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        found = []
        for pass_ in passes_between(tape, start, end):
            at = pass_.backward if self.title == BACKWARD and pass_.kind == GRADIENT_PASS else pass_.start
            if at < len(tape) and tape.ops[at].pass_.outermost is pass_ and tape.ops[at].outer_phase == self.title:
                found.append(at)
        return ordered(found, start, end, reverse)

    def gone(self, tape: Tape) -> str:
        return self.passed() if self.title == SETUP and tape.origin < len(tape) else ""

    def holds(self, tape: Tape, at: int) -> bool:
        return at < len(tape) and tape.ops[at].outer_phase == self.title


class PassStart(Place):
    """The first op of a pass."""

    kind, words = "pass", "where it begins"
    form = r"pass \d{1,9}"
    whole = True

    @classmethod
    def read(cls, written: re.Match[str], here: Here) -> Place:
        """`pass 7`."""
        return cls(_counted(written, "passes"))

    def __init__(self, number: int) -> None:
        super().__init__(f"pass {number}")
        self.number = number

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        passes = [pass_ for pass_ in passes_between(tape, start, end) if pass_.number == self.number]
        return ordered([pass_.start for pass_ in passes if pass_.start < len(tape)], start, end, reverse)

    def holds(self, tape: Tape, at: int) -> bool:
        return at < len(tape) and tape.ops[at].pass_.number == self.number

    def span(self, tape: Tape, start: int, end: int) -> tuple[int, int]:
        for pass_ in tape.passes:
            if pass_.number == self.number:
                return max(start, pass_.start), min(end, len(tape) if pass_.open else pass_.end)
        return start, end

    def gone(self, tape: Tape) -> str:
        last = tape.passes[-1].number if tape.passes else 0
        return self.passed() if self.number <= last else ""

    def over(self, tape: Tape) -> bool:
        return any(pass_.number == self.number and not pass_.open for pass_ in tape.passes)


class Written(Place):
    """The ops that make a value of some name, or a gradient with respect to one.

    Args:
        title: How it is spelled.
        name: The value's name; `loss` is what a pass differentiates where nothing is called so.
        names: Who knows what is called so.
        gradient: Whether its gradients are meant.
    """

    kind, words = "value", "where it is made"
    by_name = True

    def __init__(self, title: str, name: str, names: ProgramNames, gradient: bool = False) -> None:
        super().__init__(title)
        self.name = name
        self._names = names
        self._gradient = gradient

    @property
    def key(self) -> str:
        """`z1` or `grad(z1)`."""
        return f"grad({self.name})" if self._gradient else self.name

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        makers = [value.op for value in self.values(tape, start)]
        return ordered([op.position for op in makers if op is not None], start, end, reverse)

    def values(self, tape: Tape, start: int = 0) -> Iterator[Value]:
        """Every version of the value, or of its gradient (the parts of a sum count), that may be made from `start`
        on; and some others."""
        versions = self._names.versions(self.name)
        if not versions and self.name == "loss":
            passes = passes_between(tape, start, len(tape) + 1)
            versions = [(pass_.start, pass_.loss) for pass_ in passes if pass_.loss is not None]
        elif not self._gradient:
            versions = versions[bisect_left(versions, start, key=lambda version: version[0]) :]
        for position, value in versions:
            if not self._gradient:
                yield value
                continue
            pass_ = tape.pass_at(position if isinstance(value, Leaf) else position - 1)
            if pass_ is not None:
                yield from pass_.grads.get(value.canonical, ())

    def comes(self, tape: Tape, start: int = 0) -> Iterator[int]:
        """Return where a version of the value is there for the first time, from about `start` on: after the op that
        makes it, or where the program has put it in its place; with a pass that brings one, but not as it was there
        before."""
        if self._gradient:
            yield from (0 if value.op is None else value.op.position + 1 for value in self.values(tape))
            return
        versions = self._names.versions(self.name)
        if self.name == "loss":
            yield from _losses(tape, versions, start)
        last: Value | None = None
        for position, value in versions:
            new = not isinstance(value, Leaf) or last is None or source_of(value) is not source_of(last)
            if new and not (self.name == "loss" and _is_differentiated(value)):
                yield position
            last = value


def _losses(tape: Tape, versions: list[tuple[int, Value]], start: int) -> Iterator[int]:
    """Return where there is for the first time what is differentiated and called loss, from about `start` on. Inside of
    its pass it is called so before the program's variable has it."""
    for pass_ in passes_between(tape, start - 1, len(tape) + 1):
        loss = pass_.loss
        if loss is None or loss.op is None:
            continue
        before = (each for each in reversed(tape.passes) if each.start < pass_.start and each.code is pass_.code)
        if not versions or _is_called(pass_, versions) or _is_called(next(before, pass_), versions):
            yield loss.op.position + 1


def _is_called(pass_: Pass, versions: list[tuple[int, Value]]) -> bool:
    """Whether what a pass differentiates is one of the versions of a name."""
    later = versions[bisect_left(versions, pass_.start, key=lambda version: version[0]) :]
    return pass_.loss is not None and any(value.canonical is pass_.loss.canonical for _, value in later)


def _is_differentiated(value: Value) -> bool:
    pass_ = None if value.op is None else value.op.pass_
    return pass_ is not None and pass_.loss is not None and pass_.loss.canonical is value.canonical


class Called(Place):
    """The ops of an operation, and those that differentiate them."""

    kind, words = "operation", "an operation"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._known: dict[tuple[Operation, Operation], bool] = {}

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        for at in within(tape, start, end, reverse):
            if self.holds(tape, at):
                yield at

    def holds(self, tape: Tape, at: int) -> bool:
        if at >= len(tape):
            return False
        op = tape.ops[at]
        key = (op.operation, op.root.operation)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = operation_is(op, self.title)
        return found


class Within(Place):
    """A place within another one: those of its positions that the outer one holds."""

    def __init__(self, outer: Place, inner: Place) -> None:
        super().__init__(f"{outer.title} {inner.title}")
        self.kind, self.words, self.whole = inner.kind, inner.words, inner.whole
        self.outer, self.inner = outer, inner

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        start, end = self.outer.span(tape, start, end)
        for at in self.inner.positions(tape, start, end, reverse):
            if self.outer.holds(tape, at):
                yield at

    def holds(self, tape: Tape, at: int) -> bool:
        return self.outer.holds(tape, at) and self.inner.holds(tape, at)

    def frame(self, tape: Tape, at: int) -> Activation | None:
        return self.inner.frame(tape, at) or self.outer.frame(tape, at)

    def span(self, tape: Tape, start: int, end: int) -> tuple[int, int]:
        return self.inner.span(tape, *self.outer.span(tape, start, end))

    def gone(self, tape: Tape) -> str:
        if not self.outer.over(tape):
            return self.inner.gone(tape)
        start, end = self.outer.span(tape, 0, len(tape) + 1)
        found = next(self.positions(tape, start, end), None) is not None
        if found or any(isinstance(op, ClosedOp) for op in tape.ops[start:end]):
            return self.passed(self.title if found else self.outer.title)
        if self.inner.kind == "value":
            return f"nothing in {self.outer.title} is called {self.inner.title}"
        return f"{self.outer.title} has no {self.inner.title}"


class Condition(Place):
    """Where something may be true: at a place, or wherever one of its values has just been made.

    Args:
        text: The condition.
        place: Where it is asked; None for everywhere.
        made: What makes the values that it speaks of: it is asked after those ops. None for at `place` itself.
            Where there are none, it speaks of the program's variables alone.
    """

    kind, words = "condition", "where it becomes true"

    def __init__(self, text: str, place: Place | None, made: Sequence[Written] | None) -> None:
        super().__init__(text if place is None else f"{place.title}, {text}")
        self.condition = text
        self.place = place
        self._made = made
        self.by_name = bool(made) or (place is not None and place.by_name)

    @property
    def where(self) -> str:
        """The spelling of the place at which it is asked, "" for wherever its values are made."""
        return self.place.title if self.place is not None else ""

    def frame(self, tape: Tape, at: int) -> Activation | None:
        return None if self.place is None else self.place.frame(tape, at)

    def positions(self, tape: Tape, start: int, end: int, reverse: bool = False) -> Iterator[int]:
        if self._made is None:
            assert self.place is not None
            return self.place.positions(tape, start, end, reverse)
        if not self._made:
            return (at for at in within(tape, start, end, reverse) if _moves_on(tape, at))
        return ordered((at for made in self._made for at in made.comes(tape, start)), start, end, reverse)


def _moves_on(tape: Tape, at: int) -> bool:
    """Whether variables of the program can have another value at a position than at the one before."""
    op = tape.ops[at]
    return op.position == op.pass_.start or op.pass_.kind in (RUN_PASS, SETUP_PASS) or op.phase == FORWARD


def operation_is(op: Op, name: str) -> bool:
    """Whether an op, or the forward op that it differentiates, is an operation of that name."""
    call = op.root
    if call.operation.kind == "opaque" and call.operation.spelling == f"mx.{name}":  # `vmap`, `grad`
        return True
    return any(
        candidate in (name, f"vjp of {name}") or candidate.rpartition(".")[2] == name
        for candidate in (op.operation.name, op.root.operation.name)
    )


def operations(tape: Tape) -> set[str]:
    """Return the names of MLX's operations, and of those on a tape."""
    from nnrepl.record import catalog

    names = {catalog.operation(callee).name for callee in catalog.CALLEES if callee.treatment in ("op", "augmented")}
    return names | {op.operation.name for op in tape.ops}


def is_operation(name: str, tape: Tape) -> bool:
    """Whether MLX has an operation of that name, or the tape an op."""
    return any(known == name or known.rpartition(".")[2] == name for known in operations(tape)) or any(
        operation_is(op, name) for op in tape.ops
    )


WRITTEN: tuple[type[Place], ...] = (Number, StepStart, TurnStart, PassStart, Phase, Edge)
"""Those that are told by how they are written."""
