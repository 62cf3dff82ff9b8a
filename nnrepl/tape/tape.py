"""Tape: the ops of a run, in order of execution."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from threading import get_ident
from typing import Any, Protocol, overload

import mlx.core as mx

from nnrepl.tape.bindings import Bindings
from nnrepl.tape.collector import let_go
from nnrepl.tape.face import Face
from nnrepl.tape.native_run import MadeCall, NativeRun, OpenedStep, count_calls
from nnrepl.tape.notes import Notes
from nnrepl.tape.op import ClosedOp, Op
from nnrepl.tape.origins import Source
from nnrepl.tape.passes import Hole, Mark, Pass
from nnrepl.tape.steps import Steps
from nnrepl.tape.turns import Turns
from nnrepl.tape.value import Value

_copy = mx.array.__copy__
_FEW_SCANS, _LONG = 8, 4096


class Namer(Protocol):
    """Who knows what things are called: resolved when shown, not when recorded.

    A tape and its names need each other: whoever makes names makes their tape (`ProgramNames`).
    """

    def name(self, value: Value) -> str: ...
    def name_at(self, value: Value, op: Op) -> str: ...
    def module(self, op: Op) -> str: ...
    def path_in(self, root: Any, module: Any, position: int) -> str | None: ...
    def source(self, op: Op) -> Source: ...
    def now(self, value: Value) -> mx.array | None: ...


class Tape:
    """The ops of a run, numbered within each training step: `#12`, `30#12`, `setup#3`.

    Args:
        names: Resolves names and places.
        notes: What is known already, where the tape shares ops and values with others; None: nothing.

    Attributes:
        ops: The ops in order of execution.
        passes: The passes in order.
        marks: Where the program forced an evaluation, in order.
        holes: Arrays that entered from nowhere.
        origin: The position of the first step's first op; what lies before it is setup.
        steps: The training steps, without the setup.
        here: The number of the step in which the user stands (0: the setup); its ops are `#n` without more.
        names: Resolves names and places.
        notes: What is known about its ops and values. All timelines share it; all else is this tape's own.
        compiled: Where compiled functions ran that the program had called: the first op, and after the last.
        late: Where ops are recorded again in the middle of what ran natively: what came just before was not recorded.
        spans: Calls that ran natively as a whole and reach over several steps: the first and the last of these.
        retraced: The steps in which MLX traced a compiled function while they ran natively.
        bindings: What the program's variables held.
        passed: Where the program came to lines that make no op, by file and line, as far as that was looked for: the
            positions of the ops that came next.
        kept: What is kept of the run that wrote it, as far as that was native.
        opened: The steps that have been opened, those that were looked at last behind the others.
        made: The calls that have been recorded op by op, and may become closed ones.
        traced: Where compiled functions were recorded for the first time.
        turns: The turns of the program's loops, as long as it makes no gradient call.
    """

    def __init__(self, names: Namer, notes: Notes | None = None) -> None:
        self.ops: list[Op] = []
        self.passes: list[Pass] = []
        self.marks: list[Mark] = []
        self.holes: list[Hole] = []
        self.origin = 0
        self.names = names
        self.notes = Notes() if notes is None else notes
        self.compiled: list[tuple[int, int]] = []
        self.late: set[int] = set()
        self.retraced: set[int] = set()
        self.spans: list[tuple[int, int]] = []
        self.bindings = Bindings()
        self.passed: dict[tuple[str, int], list[int]] = {}
        self.kept = NativeRun()
        self.opened: list[OpenedStep] = []
        self.made: list[MadeCall] = []
        self.traced: list[int] = []
        self.turns = Turns()
        self.steps = Steps(self)
        self.here = 1
        self._consumers: dict[Value, list[Op]] = {}
        self._consumers_known = 0
        self._scanned: dict[Value, tuple[int, tuple[Op, ...]]] = {}

    def __len__(self) -> int:
        return len(self.ops)

    @property
    def closed(self) -> bool:
        """Whether calls lie on it that ran natively and have not been opened."""
        ops = self.ops
        return any(isinstance(ops[pass_.start], ClosedOp) for pass_ in self.passes if len(pass_) == 1)

    def whole(self, steps: Iterable[int]) -> frozenset[int]:
        """Return some steps with all those that can be opened with them alone, since one call made them."""
        wanted = frozenset(steps)
        spans = [range(first, last + 1) for first, last in self.spans]
        return wanted.union(*[span for span in spans if not wanted.isdisjoint(span)])

    def fork(self, position: int, names: Namer) -> Tape:
        """Return a new tape that shares everything before `position`: the ops, the values, what is noted about them,
        and the passes before are the same objects. Costs time in what it shares."""
        let_go()  # this one may be, from here on
        twin = self.apart(names)
        twin.ops = self.ops[:position]
        twin.bindings = self.bindings.fork(position)
        before = [pass_ for pass_ in self.passes if pass_.start < position and len(pass_)]
        twin.passes = [pass_ if pass_.end <= position else replace(pass_, end=position) for pass_ in before]
        twin.marks = [mark for mark in self.marks if mark.position < position]
        twin.kept = self.kept.before(count_calls(before) - 1)
        twin.opened = [step for step in self.opened if step.end <= position]
        twin.made = [call for call in self.made if call.end <= position]
        twin.traced = [at for at in self.traced if at < position]
        twin.turns = self.turns.before(position)
        twin.compiled = [span for span in self.compiled if span[1] <= position]
        twin.spans = [span for span in self.spans if span[1] <= len(twin.steps)]
        twin.late = {at for at in self.late if at < position}
        for line, passed in self.passed.items():
            twin.passed[line] = [at for at in passed if at <= position]
        twin.holes = [hole for hole in self.holes if hole.position < position]
        return twin

    def grown(self, names: Namer, position: int | None) -> Tape:
        """Return a new tape for a run along this one: from a position on (see `fork`), or, with None, from its first op
        on, where all is noted again that is not of ops and values."""
        let_go()  # this one may be, from here on
        return self.apart(names) if position is None else self.fork(position, names)

    def apart(self, names: Namer) -> Tape:
        """Return a new tape with nothing on it, for ops that take this one's values: what is noted is the same
        object."""
        twin = Tape(names, self.notes)
        twin.origin, twin.here = self.origin, self.here
        return twin

    def stand(self, position: int) -> None:
        """Note that the user stands at a position: the ops of its step are called `#n` from now on."""
        self.here = self.steps.number_at(min(position, max(len(self.ops) - 1, 0)))

    def label(self, position: int) -> str:
        """Return the address of an op: `#12` in the step in which the user stands, else `30#12` or `setup#3`."""
        step = self.steps.at(position)
        number = f"#{position - step.start + 1}"
        if step.number == self.here:
            return number
        return f"{step.number or 'setup'}{number}"

    def position(self, index: int, step: int | None = None) -> int | None:
        """Return the position of op number `index` of a step (0: the setup; None: where the user stands).

        Returns None where the tape has no such step, and a position after the step's end where it is shorter.
        """
        start = self.steps.start_of(self.here if step is None else step)
        return None if start is None else start + index - 1

    def at(self, index: int, step: int | None = None) -> Op:
        """Op number `index` of a step (0: the setup; None: where the user stands).

        Raises:
            IndexError: If there is none.
        """
        position = self.position(index, step)
        number = self.here if step is None else step
        if position is None or index < 1 or position >= len(self.ops) or self.steps.number_at(position) != number:
            raise IndexError(f"there is no op {'' if number == self.here else number or 'setup'}#{index}")
        return self.ops[position]

    def pass_at(self, position: int) -> Pass | None:
        """Return the pass in which `position` lies (the last one, after the end); None on an empty tape."""
        if not self.passes:
            return None
        found = bisect_right(self.passes, position, key=_start_of)
        return self.passes[max(found - 1, 0)]

    def consumers(self, value: Value) -> tuple[Op, ...]:
        """Return the ops that take `value` as an input, in order. Who asks for one or two on a long tape does not wait
        until all are known."""
        length = len(self.ops)
        if self._scanned.get(value, (0, ()))[0] == length:  # one answer asks several times
            return self._scanned[value][1]
        if len(self._scanned) < _FEW_SCANS and length - self._consumers_known > _LONG:
            found = tuple([op for op in self.ops[self._behind(value) :] if value in op.inputs])
            self._scanned[value] = length, found
            return found
        for op in self.ops[self._consumers_known :]:
            for taken in dict.fromkeys(op.inputs):
                self._consumers.setdefault(taken, []).append(op)
        self._consumers_known = len(self.ops)
        return tuple(self._consumers.get(value, ()))

    def forget_consumers(self) -> None:
        """Note that ops lie elsewhere than they did: who takes what is looked for anew."""
        self._consumers, self._consumers_known, self._scanned = {}, 0, {}

    def _behind(self, value: Value) -> int:
        """From which position on ops can take a value."""
        op = value.op
        if op is None or not op.position < len(self.ops) or self.ops[op.position] is not op:
            return 0
        return op.position + 1

    def rebuild(self, value: Value) -> mx.array:
        """Make the array of a dropped value again from its op, and from as much before it as was dropped."""
        pending = [value]
        while pending:
            wanted = pending[-1]
            if wanted.held is not None:
                pending.pop()
                continue
            op = wanted.op
            if op is None and wanted.origin is not None:  # another handle on the value that it continues
                if wanted.origin.held is None:
                    pending.append(wanted.origin)
                    continue
                self.notes.restored.append(wanted)
                wanted.held = _copy(wanted.origin.held)
                pending.pop()
                continue
            if op is None:
                raise LookupError(f"{wanted.name} was dropped and no op can make it again")
            missing = [taken for taken in op.inputs if taken.held is None]
            if missing:
                pending.extend(missing)
                continue
            for output, array in zip(op.outputs, op.compute(), strict=True):
                if output.held is None:
                    if output.dropped:
                        self.notes.restored.append(output)
                    output.held = array
            pending.pop()
        assert value.held is not None
        return value.held


def _start_of(pass_: Pass) -> int:
    return pass_.start


class OpSequence(Face, Sequence[Op]):
    """A read-only view of the ops of a tape: what `trace.ops` is."""

    def __init__(self, tape: Tape) -> None:
        self._ops = tape.ops[:]

    @overload
    def __getitem__(self, index: int) -> Op: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Op]: ...
    def __getitem__(self, index: int | slice) -> Op | Sequence[Op]:
        return self._ops[index]

    def __len__(self) -> int:
        return len(self._ops)

    def __repr__(self) -> str:
        return f"<{len(self)} ops>"


# -- waiting -----------------------------------------------------------------------------------------------

# Where a program runs natively and nothing but the user can stop it, what is noted of a call is a few words. They
# become ops and passes when anybody asks the tape for those: so a step costs less while it runs, and no tape is ever
# seen without them.


class WaitingTape(Tape):
    """A tape of which the ops and passes are not all there yet. Whoever asks for them makes it a tape like any other.

    Attributes:
        arrive: Puts there what is not there yet.
        thread: The one in which that can be done; others see what is there.
    """

    arrive: Callable[[Tape], None]
    thread: int

    # They are attributes of a tape: nobody pays for a call of a property where nothing waits.
    @property
    def ops(self) -> Any:  # type: ignore[override]
        """The ops in order of execution."""
        return self._all()["ops"]

    @property
    def passes(self) -> Any:  # type: ignore[override]
        """The passes in order."""
        return self._all()["passes"]

    def _all(self) -> dict[str, Any]:
        if get_ident() == self.thread:
            self.__class__ = Tape  # type: ignore[assignment]
            self.arrive(self)
        return vars(self)


def wait(tape: Tape, arrive: Callable[[Tape], None]) -> None:
    """Have what is not on a tape yet put there when somebody looks at it."""
    tape.__class__ = WaitingTape
    assert isinstance(tape, WaitingTape)
    tape.arrive, tape.thread = arrive, get_ident()
