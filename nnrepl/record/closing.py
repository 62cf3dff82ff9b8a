"""Closing: how calls that ran natively come to lie on the tape, each a closed op; at once, or when somebody looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import CodeType

from nnrepl.classes import dataclass
from nnrepl.record.numbering import Numbering
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Activation, ClosedOp, Pass, Tape, Value
from nnrepl.tape.tape import WaitingTape, wait


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
        gives_loss: How the program gets the loss, where it gets one: see `Pass`.
        by_hand: Whether the program updates weights by hand after them.

    Attributes:
        outputs: The loss, once it is kept.
    """

    __slots__ = ("by_hand", "calls", "gives_loss", "lasti", "outputs", "scope")

    def __init__(
        self, calls: Sequence[Call], scope: Activation | None, lasti: int, gives_loss: str, by_hand: bool = False
    ) -> None:
        self.calls = calls
        self.scope = scope
        self.lasti = lasti
        self.gives_loss = gives_loss
        self.by_hand = by_hand
        self.outputs: tuple[Value, ...] = ()


class WaitingCalls:
    """Calls that are noted and not on the tape yet.

    Args:
        put: Puts one on a tape.
    """

    def __init__(self, put: Callable[[Tape, NotedCalls], None]) -> None:
        self._put = put
        self._noted: deque[NotedCalls] = deque()
        self._gradients = 0
        self._counts = False  # whether gradient calls are among those that are noted

    def add(self, tape: Tape, noted: NotedCalls, gradients: int) -> None:
        """Note calls that have been made, so many gradient calls among them."""
        self._noted.append(noted)
        self._counts = self._counts or gradients > 0
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
                self._put(tape, noted.popleft())
        finally:
            self._counts = any(gradients_in(one.calls) for one in noted)
            if noted:
                wait(tape, self._arrive)


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


def note_span(tape: Tape, calls: Sequence[Call], passes: Sequence[Pass] = ()) -> None:
    """Note that calls on the tape were made at once in several steps: a compiled function takes gradients again after
    it has used them. It runs natively as a whole, or is recorded as a whole.

    Args:
        passes: What is on the tape of them; the last ones if it is not given.
    """
    if len(calls) > 1 and any([call.kind == GRADIENT_PASS for call in calls[1:]]):
        first, last = (passes[0], passes[-1]) if passes else (tape.passes[-len(calls)], tape.passes[-1])
        steps = first.step.number, last.step.number
        if steps[0] != steps[1]:
            tape.spans.append(steps)


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


_NO_GRADIENTS: dict[Value, list[Value]] = {}
"""Those of closed calls: one for all, since a long run has many."""
_OFFSETS: dict[int, int] = {}
"""The numbers that say where in their functions closed calls are made: each once."""
