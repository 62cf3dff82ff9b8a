"""Listener: who is told what a recorder does, and who takes part in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, Protocol

import mlx.core as mx

from nnrepl.record.closing import Call
from nnrepl.tape import Activation, ClosedOp, Inside, Op, Pass, Value


class RecordedCall(Protocol):
    """A gradient call while it is recorded (`nnrepl.record.gradient_call.GradientCall`, which describes these)."""

    fun: Callable[..., Any]
    given: Any
    pass_: Pass
    result: Any
    error: BaseException | None

    def attempt(self) -> None:
        """Run it, also once more from the state in which it began."""


class Listener(Protocol):
    """Who wants to know what happens: the session."""

    def op_recorded(self, op: Op) -> None:
        """Note that an op at the top level of the program was recorded; the program waits for its result."""

    def call_started(self) -> None:
        """Note that a compiled function is called at the top level of the program."""

    def call_comes(self, gradient: bool) -> None:
        """Note that the program is about to make a call at its top level that is recorded and may be closed later.

        Args:
            gradient: Whether it takes gradients.
        """

    def pass_started(self, call: RecordedCall) -> None:
        """Note that a gradient pass begins: nothing will be said until its end."""

    def pass_recorded(self, call: RecordedCall) -> None:
        """Note that a gradient pass was recorded to its end; the program waits for what it returns (or raises)."""

    def evaluation_forced(self) -> None:
        """Note that the program is about to force an evaluation at its top level; it waits."""

    def runs_natively(self, step: int) -> bool:
        """Whether a gradient call that is about to be made at the top level, in this step, is to run natively."""

    def remember(self, reached: tuple[Any, ...]) -> Callable[[], None] | None:
        """Return what puts back all that can be reached from some things, as it is now; None if not all can be put
        back."""

    def rests(self) -> bool:
        """Whether what the program does after an evaluation that it has forced is to run natively, as a stretch."""

    def evaluated_natively(self, count: int) -> None:
        """In such a stretch the program has forced an evaluation, the `count`-th of its own."""

    def may_run_natively(self) -> bool:
        """Whether calls may run natively, now or later."""

    def not_expected(self, pass_: Pass) -> None:
        """Note that natively, between a gradient call and the next one of the same function, weights have been changed
        by hand where they never were so far, or have not been where they always were."""

    def call_closed(self, op: ClosedOp) -> bool:
        """Note that a call has run natively. Returns whether what comes is to run natively as well."""

    def closed_call_started(self) -> None:
        """Note that a gradient call is about to be made natively."""

    def call_left(self) -> None:
        """Note that a call that may be closed has been recorded, and what is expected of a run along a tape is up to
        date."""

    def out_of_bounds(self, text: str) -> None:
        """Note that the program is about to evaluate what lies outside of a tensor, which MLX does not check."""


class Exchanging(Protocol):
    """A backward pass, in which a user may exchange values."""

    def exchange(self, old: Value, new: Value) -> None:
        """Take from `new` what was to be taken from `old`."""

    def image(self, value: Value) -> Value:
        """Return what stands for a value now."""


class KnowsChanges(Protocol):
    """Who knows what a change does. It is asked by an op in the call of the change's line, in the second run."""

    def waits(self, change: Op) -> bool:
        """Whether it is about a variable of a function that does not run yet."""

    def meant(self, change: Op, values: Sequence[Value]) -> Value:
        """Return the value that it is about, of several on all of which the first run had one tensor."""

    def effect(self, change: Op, target: Value) -> None:
        """Let a change of a value, which is on the tape, take effect."""


class Mirrored(Protocol):
    """A second run, in which the changes of the first one are made again."""

    def due(self, changes: KnowsChanges, calling: bool) -> None:
        """Make those that stand where the run stands now (see `Mirror`)."""

    def passed(self, due: bool = False) -> None:
        """Run the lines of the user's that stand where the run stands now; `due`: the op there is about to be made."""


class Traced(Protocol):
    """A compiled function that is recorded for the first time, while MLX would be tracing it.

    Attributes:
        typed: Whether a line of the user's has run in it, which is no part of the function.
    """

    typed: bool

    def depends(self, values: Iterable[Value]) -> bool:
        """Whether any of some values is or was made of a tracer."""


class Switching(Protocol):
    """What switches between recording ops and noticing calls (`nnrepl.record.native.Levels`)."""

    def forced(self, scope: Activation | None, frame: FrameType) -> None:
        """Note that the program has forced an evaluation at its top level, at a place."""

    def count(self, pass_: Pass) -> None:
        """Give a gradient pass its number."""

    def over(self) -> None:
        """Note that the program has ended."""

    def within(self, made: Call, scope: Activation | None, lasti: int) -> Activation | None:
        """Return in which call of a compiled function a call is made."""


class Touching(Protocol):
    """What writes down the function of a call that MLX runs by itself.

    Attributes:
        own: What came in while it runs.
        typed: Whether a line of the user's has run in it.
        pass_: What it is put in.
    """

    own: set[Value]
    typed: bool

    @property
    def pass_(self) -> Inside: ...

    def touch(self, value: Value, array: mx.array) -> None:
        """Note that the function takes a value, which an array holds."""

    def change(self, value: Value, array: mx.array) -> None:
        """Note that the function changes an array in place that holds a value."""

    def evaluate(self, arrays: Sequence[mx.array]) -> None:
        """Note that the program evaluates arrays in the function."""

    def read(self, values: tuple[Value, ...]) -> None:
        """Hear that values are evaluated in the function."""
