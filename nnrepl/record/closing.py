"""Closing: how calls that ran natively come to lie on the tape, each a closed op; at once, or when somebody looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.caller import Caller
from nnrepl.record.kept_number import KeptNumber, number_of
from nnrepl.record.numbering import Numbering, State, Way
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Activation, ClosedOp, Operation, Pass, Tape, Value
from nnrepl.tape.tape import WaitingTape, wait

_new = object.__new__


@dataclass(frozen=True, slots=True)
class Call:
    """A call that may be closed.

    Attributes:
        kind: The kind of its pass.
        title: What is called; `code` that of the function that is differentiated.
        scope, lasti: Where in a compiled function it is made, as its first run showed it; None where no other call is
            around it.
        outer: Where that function was called from then.
    """

    kind: str
    title: str = ""
    code: CodeType | None = None
    scope: Activation | None = None
    lasti: int = -1
    outer: Activation | None = None


class NotedCalls:
    """Calls that were made at once (those in a compiled function are), of which nothing is on the tape yet.

    Args:
        calls: What they are.
        scope, lasti: Where the program made them.
        by_hand: Whether the program updates weights by hand after them.

    Attributes:
        gives_loss: How the program gets the loss, where it gets one: see `Pass`.
        loss: The loss, once it is kept: a tensor; its number once that has been read (`dtype`: of what kind it is
            then); what stands for it on the tape.
        op: The last gradient call among them, once they lie on the tape.
    """

    __slots__ = ("by_hand", "calls", "dtype", "gives_loss", "lasti", "loss", "op", "scope")

    def __init__(self, calls: Sequence[Call], scope: Activation | None, lasti: int, by_hand: bool) -> None:
        self.calls = calls
        self.scope = scope
        self.lasti = lasti
        self.gives_loss = ""
        self.by_hand = by_hand
        self.loss: Any = None
        self.dtype: mx.Dtype | None = None
        self.op: ClosedOp | None = None

    def read(self) -> None:
        """Keep the number of the loss, and let go of the tensor; one with axes stays."""
        loss = self.loss
        if isinstance(loss, KeptNumber):
            loss.read()
        elif not loss.ndim:
            self.loss, self.dtype = number_of(loss)

    def lies(self, op: ClosedOp) -> None:
        """Note that they lie on the tape, and which is the last gradient call among them."""
        self.op = op
        loss = self.loss
        if loss is not None:
            read, axes = self.dtype is not None, self.dtype is None and loss.ndim
            value = Value(op, 0, loss) if axes else KeptNumber(op, None if read else loss, loss, self.dtype)
            self.loss = op.pass_.loss = value
            op.outputs = (value,)


class WaitingCalls:
    """Calls that are noted and not on the tape yet.

    Args:
        put: Puts them on a tape, the first of them first, and takes off what lies there.
    """

    def __init__(self, put: Callable[[Tape, deque[NotedCalls]], None]) -> None:
        self._put = put
        self._noted: deque[NotedCalls] = deque()
        self._gradients = 0
        self._counts = False  # whether gradient calls are among those that are noted

    def add(self, tape: Tape, noted: NotedCalls, gradients: int) -> None:
        """Note calls that have been made, so many gradient calls among them."""
        self._noted.append(noted)
        if gradients:
            self._counts = True
        if type(tape) is not WaitingTape:
            wait(tape, self._arrive)

    def are_updated(self, tape: Tape) -> bool:
        """Whether weights have been updated after the last gradient call, or by it, on the tape or not."""
        if self._noted:
            last = self._noted[-1]
            return last.by_hand or last.calls[-1].kind == UPDATE_PASS
        return bool(tape.passes) and (tape.passes[-1].by_hand or tape.passes[-1].kind == UPDATE_PASS)

    def begins(self, tape: Tape, gradients: int) -> None:
        """Note that gradient calls are about to be made, so many at once: what the program is told from here on is
        kept under their number."""
        if not self._counts:  # where only an update is noted, the gradient call before it was none of these
            self._gradients = tape.kept.calls(tape.passes)
        tape.kept.begins(self._gradients)
        self._gradients += gradients

    def _arrive(self, tape: Tape) -> None:
        """Put on the tape what is noted. An interrupt may come between two of them, and then the rest waits on."""
        noted = self._noted
        try:
            while noted:
                self._put(tape, noted)
        finally:
            self._counts = any(gradients_in(one.calls) for one in noted)
            if noted:
                wait(tape, self._arrive)


_Row = tuple[str, str, Operation, "Activation | None", int, "CodeType | None", int, bool, bool]
"""What becomes of one call: its kind, its title, the operation of its op, where it is made, its code, by how much the
number of its pass is larger than the one before, whether weights are updated by hand after it, and whether it takes
gradients."""


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What becomes of calls that are noted, as calls before showed it that were made in the same place of a step.

    Attributes:
        key: What they were known by; it lives as long as this, and so nothing else has its identity.
        caller: Which gave calls of a compiled function their caller; None where none is around them.
        rows: What becomes of each.
        after: Where the last of them stands in its step.
        way: What comes next.
        update: What is expected to update weights after the last gradient call among them; None where there is none.
    """

    key: tuple[Way, Sequence[Call], Activation | None]
    caller: Caller | None
    rows: list[_Row]
    after: State
    way: Way
    update: str | None


class Arriving:
    """Puts calls on the tape that ran natively. Where they come in the same order as before, from the same places, all
    but their numbers is known: a long run has many of them.

    Args:
        numbering: Numbers their passes.
    """

    def __init__(self, numbering: Numbering) -> None:
        self._numbering = numbering
        self._caller: Caller | None = None
        self._patterns: dict[tuple[int, int, int, int], _Pattern] = {}

    def put_one(self, tape: Tape, made: Call, scope: Activation | None, lasti: int) -> ClosedOp:
        """Put a call on the tape that has been made from a place."""
        if made.scope is not None:
            scope, lasti = self.within(made, scope, lasti), made.lasti
        return put_closed(self._numbering, tape, made, scope, lasti)

    def put(self, tape: Tape, noted: deque[NotedCalls]) -> None:
        """Put calls on the tape that are noted, the first of them first, and take off what lies there."""
        while noted:
            self._put_as_before(tape, noted)
            if noted:
                self._put_anew(tape, noted.popleft())

    def _put_anew(self, tape: Tape, noted: NotedCalls) -> None:
        way, caller, count, last = self._numbering.way(tape), self._caller, len(tape.passes), None
        for made in noted.calls:
            op = self.put_one(tape, made, noted.scope, noted.lasti)
            if made.kind == GRADIENT_PASS:
                op.pass_.gives_loss, last = noted.gives_loss, op
        if last is not None:
            noted.lies(last)
        spans, after = note_span(tape, noted.calls), self._numbering.state
        within = any([made.scope is not None for made in noted.calls])
        if way is not None and after is not None and not spans and (caller is self._caller or not within):
            if len(self._patterns) >= _MANY:
                self._patterns.clear()
            key = way, noted.calls, noted.scope
            rows = [_row(pass_, earlier) for earlier, pass_ in zip(tape.passes[count - 1 :], tape.passes[count:])]
            update = None if last is None else after[2]
            found = id(way), id(noted.calls), id(noted.scope), noted.lasti
            self._patterns[found] = _Pattern(key, caller if within else None, rows, after, after[3], update)

    def _put_as_before(self, tape: Tape, noted: deque[NotedCalls]) -> None:
        """Put calls on the tape as long as it is known what becomes of them."""
        way, patterns, caller = self._numbering.way(tape), self._patterns, self._caller
        count, update, went = 0, None, None
        try:
            while noted and way is not None:
                one = noted[0]
                known = patterns.get((id(way), id(one.calls), id(one.scope), one.lasti))
                if known is None or (known.caller is not None and known.caller is not caller):
                    break
                noted.popleft()
                for row in known.rows:
                    op = _lay(tape, row, one.gives_loss)
                    if row[-1]:
                        last = op
                if known.update is not None:
                    one.lies(last)
                    update = known.update
                count += len(known.rows)
                way, went = known.way, (op.pass_, known.after)
        finally:  # also where the user interrupts: what has been put there is numbered on from
            if went is not None:
                self._numbering.went(*went, count, update)

    def within(self, made: Call, scope: Activation | None, lasti: int) -> Activation | None:
        """Return in which call of a compiled function a call is made. As long as that is called from one place, it is
        one call to the tape: no Python runs in it, so nothing tells one from the other."""
        caller = self._caller
        if caller is None or caller.is_other(made.outer, scope, lasti):
            caller = self._caller = Caller(made.outer, scope, lasti)
        return caller.scope(made.scope)


def _row(pass_: Pass, earlier: Pass) -> _Row:
    more, gradient = pass_.number - earlier.number, pass_.kind == GRADIENT_PASS
    operation = pass_.tape.ops[pass_.start].operation
    return (
        pass_.kind, pass_.title, operation, pass_.scope, pass_.lasti, pass_.code, more, pass_.by_hand, gradient,
    )  # fmt: skip


def _lay(tape: Tape, row: _Row, gives_loss: str) -> ClosedOp:
    """Put a call on the tape of which it is known what becomes of it."""
    kind, title, operation, scope, lasti, code, more, by_hand, gradient = row
    earlier = tape.passes[-1]
    # What the initializers of both do, without a call of them: half of what it cost, at each step of a long run.
    pass_: Pass = _new(Pass)
    start = earlier.end
    pass_.tape = tape
    pass_.number = earlier.number + more
    pass_.kind = kind
    pass_.title = title
    pass_.start = start
    pass_.end = pass_.backward = start + 1
    pass_.loss = pass_.error = pass_.returned = pass_.within = None
    pass_.gives_loss = gives_loss if gradient else ""
    pass_.wrt = pass_.handed = pass_.roots = pass_.given = ()
    pass_.grads = _NO_GRADIENTS
    pass_.scope = scope
    pass_.lasti = lasti
    pass_.code = code
    pass_.open = False
    pass_.turn = 0
    pass_.by_hand = by_hand
    op: ClosedOp = _new(ClosedOp)
    op.operation = operation
    op.args = op.inputs = op.outputs = ()
    op.kwargs = _NOTHING
    op.pass_ = pass_
    op.position = start
    op.scope = scope
    op.lasti = lasti
    tape.ops.append(op)
    tape.passes.append(pass_)
    return op


def put_closed(numbering: Numbering, tape: Tape, call: Call, scope: Activation | None, lasti: int) -> ClosedOp:
    """Put a closed op on the tape: a pass of its own."""
    passes, ops = tape.passes, tape.ops
    position = len(ops)
    if passes and passes[-1].end == position:
        position = passes[-1].end  # the same number once
    end = position + 1
    lasti = _OFFSETS.setdefault(lasti, lasti)
    pass_ = Pass(
        tape, 0, call.kind, call.title, position, end, end, gives_loss="", grads=_NO_GRADIENTS, scope=scope,
        lasti=lasti, code=call.code, open=False,
    )  # fmt: skip
    numbering.number(tape, pass_)
    op = ClosedOp(call.kind, call.title, pass_)
    ops.append(op)
    passes.append(pass_)
    return op


def note_span(tape: Tape, calls: Sequence[Call]) -> bool:
    """Note that calls on the tape, the last ones, were made at once in several steps: a compiled function takes
    gradients again after it has used them. It runs natively as a whole, or is recorded as a whole. Returns whether
    they may be such calls."""
    if not spans(calls):
        return False
    steps = [tape.passes[-count].step.number for count in (len(calls), 1)]
    if steps[0] != steps[1]:
        tape.spans.append((steps[0], steps[1]))
    return True


def spans(calls: Sequence[Call]) -> bool:
    """Whether calls that are made at once may lie in several steps."""
    return len(calls) > 1 and any([call.kind == GRADIENT_PASS for call in calls[1:]])


def gradients_in(calls: Sequence[Call]) -> int:
    """How many of some calls take gradients. They are made once, and asked for at each step."""
    known = _GRADIENTS.get(id(calls))
    if known is None or known[0] is not calls:
        if len(_GRADIENTS) >= _MANY:
            _GRADIENTS.clear()
        known = _GRADIENTS[id(calls)] = calls, sum([call.kind == GRADIENT_PASS for call in calls])
    return known[1]


_GRADIENTS: dict[int, tuple[Sequence[Call], int]] = {}
_MANY = 256


_NOTHING: dict[str, object] = {}
_NO_GRADIENTS: dict[Value, list[Value]] = {}
"""Those of closed calls: one for all, since a long run has many."""
_OFFSETS: dict[int, int] = {}
"""The numbers that say where in their functions closed calls are made: each once."""
