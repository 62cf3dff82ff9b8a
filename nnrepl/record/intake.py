"""Intake: what the recorder asks before it computes anything.

A first run computes everything: that is `Intake`. A run that follows a tape is given what the tape has: that is
`nnrepl.replay.replay.Replay`, of which the recorder knows nothing but this interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Generic, Protocol, TypeVar

import mlx.core as mx

from nnrepl.tape import Activation, BackwardOp, ClosedOp, Inside, Leaf, Op, Operation, Tape, Value
from nnrepl.tape.native_run import SUFFIXES, file_of
from nnrepl.tape.steps import is_due


class Entering(Protocol):
    """What the first run asks of a recorder (`nnrepl.record.recorder.Recorder`, which describes both)."""

    tape: Tape

    def leaf(self, array: mx.array, kind: str, label: str | None, origin: Value | None = None) -> Leaf: ...


class Transforming(Protocol):
    """One of MLX's transforms and what it was given (`nnrepl.record.opaque.Transform`, which describes these)."""

    real: Callable[..., Any]
    original: Callable[..., Any]
    fun: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


R = TypeVar("R", bound=Entering)
"""The recorder: what follows a tape asks more of it than the first run does."""


class Unwinding(BaseException):
    """Ends the program from within, at the wish of the user or because it cannot go on as it should. It is
    no Exception, so that programs do not catch it."""


class Intake(Generic[R]):
    """Where results come from: here, from computing them.

    Attributes:
        follows: Whether the run follows a tape.
        opens: Whether that tape has closed calls, among which others are recorded.
        pending: What takes in what comes once all of that tape has been done again, if it is not to be taken as it is.
    """

    follows = False
    opens = False
    pending: Intake[R] | None = None

    def enter(self, recorder: R, calling: bool = False, due: bool = True) -> None:
        """Note that the program is about to make an op: what the user put in before it takes effect, and only then its
        arguments may be looked at.

        Args:
            calling: Whether it is about to call a function, which will make the op.
            due: Whether it makes the op now; where a call has only come to its end, what the program does next is not
                known.
        """

    def taken(self, operation: Operation, args: tuple[Any, ...], frame: FrameType) -> tuple[Any, ...]:
        """Return what an op is to take where the program calls it with `args` from `frame`."""
        return args

    def passed(self, recorder: R) -> None:
        """Note that an op inside a gradient call has been put on the tape."""

    def has_line(self, recorder: R, count: int, passing: bool = False) -> bool:
        """Whether a line of the user's is to run among the next ops, so many of them: then Python has to come by.

        Args:
            passing: Whether only one counts that changes a tensor in its call, and nothing else.
        """
        return False

    def refuse(self, why: str) -> None:
        """Hear why what the user has typed cannot stand where it has run."""

    def given(self, recorder: R, op: Op, frame: FrameType) -> Op | None:
        """Return the op that stands on the tape now for `op`, with its results; None where it must be computed.

        Raises:
            Unwinding: If the run does not follow the tape.
            Exception: What the recorded op raised.
        """
        return None

    def is_made(self, value: Value) -> bool:
        """Whether a value was made in this run: if it has its numbers, it is the program that has evaluated it."""
        return True

    def has_inside(self, recorder: R) -> bool:
        """Whether what happens inside of a call that is about to be made is on the tape already."""
        return False

    def inside(self, recorder: R, scope: Activation | None, lasti: int) -> Inside | None:
        """Return what the tape has of the inside of a call, put before it: the call has been made from a place, and
        nothing of that was recorded."""
        return None

    def repeated(self, recorder: R, op: Op, of: Sequence[Value]) -> bool:
        """Whether an op that a compiled function repeats has its outputs already.

        Args:
            of: What they are the gradients of, in a backward pass.
        """
        return False

    def swept(self, recorder: R, op: BackwardOp, of: Sequence[Value]) -> bool:
        """Whether a backward op has its outputs already, the gradients of `of`. Raises what the recorded op raised."""
        return False

    def disconnected(self, recorder: R, number: int, zeros: mx.array, label: str) -> Value:
        """Return what stands for the `number`th gradient of a gradient call, where none flows: zeros."""
        return recorder.leaf(zeros, "constant", label)

    def closed(self, recorder: R, op: ClosedOp) -> None:
        """Note that a call has run natively and is on the tape."""

    def read(self, recorder: R, how: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return what the program is told that reads a tensor natively, or has MLX evaluate it.

        Args:
            how: By what: `array.item`; `original` is MLX's.
        """
        if how in SUFFIXES:
            return self.write(recorder, how, original, args, kwargs)
        answer = original(*args, **kwargs)
        recorder.tape.kept.tell(how, answer)
        return answer

    def asked(self, recorder: R, how: str, answer: Any) -> Any:
        """Return what the program is told that reads a tensor while ops are recorded. Its step may be closed later, and
        a run be led through it, in which it has to be told the same."""
        recorder.tape.kept.tell(how, answer)
        return answer

    def write(self, recorder: R, how: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Have MLX write tensors into a file."""
        answer = original(*args, **kwargs)
        recorder.tape.kept.wrote(file_of(how, args))
        return answer

    def differentiated(self, transform: Transforming) -> Callable[..., Any]:
        """Return what calls natively what one of MLX's transforms made for gradients."""
        return transform.real

    def updating(self, update: Callable[..., Any]) -> Callable[..., Any]:
        """Return what stands natively for the method of an optimizer that updates the weights."""
        return update

    def wakes(self, recorder: R) -> None:
        """Note that ops are recorded from here on, where the program has run natively."""

    def left(self, recorder: R) -> None:
        """Note that a call has been recorded op by op that would be a closed op if it had run natively."""

    def awake(self, recorder: R) -> None:
        """Note that a call is about to be recorded that would end a stretch of the program that runs natively."""

    def turns(self, recorder: R, evaluations: int, since: int) -> bool | None:
        """Whether a closed turn of the setup ends with an evaluation, the how manyth of the run, that began with
        another: True if the next one is closed as well, False if it is recorded, None if it does not end."""
        return is_due(evaluations, since) or None

    def edited_in_place(self, value: Value) -> bool:
        """Whether an edit has put `value` into a container of the program's, or into the object that lies there."""
        return False

    def content(self, value: Value) -> Value:
        """Return what the program is to hold where the tape has `value`."""
        return value

    def pass_kind(self, op: Op) -> str | None:
        """Return the kind of pass to which an op at the top level belongs, where that is known from a tape."""
        return None

    def leaf(self, recorder: R, number: int, array: mx.array, kind: str, label: str, origin: Value) -> Leaf | Value:
        """Return the leaf number `number` of a gradient pass, which continues `origin`."""
        return recorder.leaf(array, kind, label, origin)

    def seed(self, recorder: R, number: int, array: mx.array, of: Value) -> Value:
        """Return the gradient from which the backward pass starts at its root number `number`, which is `of`."""
        value = recorder.leaf(array, "seed", "∂L/∂L")
        value.gradient_of = of
        return value

    def gradient(self, recorder: R, value: Value) -> mx.array:
        """Return a gradient as an array for the program."""
        return value.array


RECORDING: Intake[Any] = Intake()
"""The intake of every first run."""
