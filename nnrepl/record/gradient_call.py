"""Gradient call: one call of an outermost transform, as a pass of the tape: forward, then swept backwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

import mlx.core as mx

from nnrepl.record import titles, trees
from nnrepl.record.cuts import note_cuts
from nnrepl.record.intake import Unwinding
from nnrepl.record.recorder import Recorder
from nnrepl.record.sweep import Sweep, seed
from nnrepl.tape import GRADIENT_PASS, Activation, Pass, Value
from nnrepl.tape.collector import paused

_zeros_like = mx.zeros_like


class GradientCall:
    """One call of an outermost transform; it can be made again from the state in which it began.

    Args:
        fun: The program's function.
        given: Its arguments: with `fun`, what a second run must find as the first one did.
        frame: The program's frame that makes the call.
        body: Does it, on the pass that is open.

    Attributes:
        pass_: The pass of the last attempt.
        result: What the program gets; `error` if it gets an exception.
    """

    def __init__(
        self,
        recorder: Recorder,
        fun: Callable[..., Any],
        given: Any,
        frame: FrameType,
        body: Callable[[GradientCall], Any],
    ) -> None:
        self.recorder = recorder
        self.fun = fun
        self.given = given
        self.pass_: Pass
        self.result: Any = None
        self.error: BaseException | None = None
        frame = recorder.stack.program_frame(frame)  # `mx.compile(mx.value_and_grad(f))` is called on its behalf
        self._scope = recorder.stack.enter(frame)
        self._lasti = frame.f_lasti
        self._run = body

    def attempt(self) -> None:
        """Run the function and sweep backwards. What the program raises is kept in `error`.

        Raises:
            Diverged: If a re-run does not follow the tape.
        """
        recorder = self.recorder
        recorder.intake.enter(recorder, calling=True)
        pass_ = self._open()
        recorder.differentiating += 1
        self.result = self.error = None
        try:
            with paused():  # everything that a pass allocates stays on the tape
                self.result = self._run(self)
                recorder.intake.enter(recorder, due=False)
                pass_.returned = self._returned()
        except Unwinding:
            raise
        # Whatever it is, Ctrl-C too, the program gets it by `outcome`: the pass is closed, and looked at, before that.
        except BaseException as error:
            pass_.error = self.error = error
        finally:
            recorder.differentiating -= 1
            recorder.close_pass()
            # A function that raised was never swept: its backward pass is empty, and lies at its end.
            pass_.backward = min(pass_.backward, pass_.end)
            if pass_.end >= recorder.collector.due:
                recorder.collector.rest(pass_.end)

    def _open(self) -> Pass:
        recorder = self.recorder
        recorder.start()
        pass_ = self.pass_ = recorder.open_pass(GRADIENT_PASS, self._title())
        pass_.scope, pass_.lasti, pass_.code = self._scope, self._lasti, self._code()
        if recorder.levels is not None:
            recorder.levels.count(pass_)
        # Where its backward pass begins is known when the function has run: until then all of it is forward.
        pass_.backward = sys.maxsize
        return pass_

    def _title(self) -> str:
        return titles.title(self.fun)

    def _code(self) -> CodeType | None:
        return titles.code_of(self.fun)

    def _returned(self) -> tuple[Value, ...] | None:
        live = self.recorder.live
        found = (live.get(id(array)) for array in trees.arrays(self.result))
        return tuple(value for value in found if value is not None and value.gradient_of is None)

    def outcome(self) -> Any:
        """Return what the program gets: the result, or its exception."""
        if self.error is not None:
            raise self.error
        return self.result


def _no_python() -> None:
    """Make the calls that a repeated pass makes of the program's."""


class RepeatedPass(GradientCall):
    """A gradient pass of a compiled function in a later call: its ops are repeated, no Python of the program's runs."""

    def __init__(
        self,
        recorder: Recorder,
        old: Pass,
        scope: Activation | None,
        body: Callable[[GradientCall], Any],
        begin: Callable[[], None],
    ) -> None:
        """Stand for a call without a frame.

        Args:
            old: The pass that is repeated.
            body: Repeats its ops, on the pass that is open.
            begin: Puts the repetition back to where this pass began.
        """
        self.recorder = recorder
        self.fun = _no_python
        self.given = ()
        self.result = None
        self.error = None
        self._scope, self._lasti = scope, old.lasti
        self._old, self._run, self._begin = old, body, begin

    def attempt(self) -> None:
        """Repeat the pass from the state in which it began."""
        self._begin()
        super().attempt()

    def _title(self) -> str:
        return self._old.title

    def _code(self) -> CodeType | None:
        return self._old.code

    def _returned(self) -> tuple[Value, ...] | None:
        return None


def make_call(call: GradientCall) -> Any:
    """Make a call for the program, and let the listener look at it before the program goes on."""
    listener = call.recorder.listener
    if listener is not None:
        listener.pass_started(call)
    call.attempt()
    if listener is not None:
        listener.pass_recorded(call)
    return call.outcome()


def take_gradients(
    recorder: Recorder, pass_: Pass, roots: Sequence[tuple[Value, mx.array]], wrt: Sequence[Value]
) -> list[mx.array]:
    """Sweep backwards; the gradients as MLX would return them: zeros where none flows."""
    note_cuts(recorder.tape, pass_, recorder.intake.is_made)
    given = pass_.given = swept(recorder, pass_, roots, wrt)
    return [recorder.intake.gradient(recorder, gradient) for gradient in given]


def swept(
    recorder: Recorder, pass_: Pass, roots: Sequence[tuple[Value, mx.array]], wrt: Sequence[Value]
) -> tuple[Value, ...]:
    """Sweep backwards from some values with their cotangents. Returns a gradient for each of `wrt`."""
    sweep = Sweep(recorder, pass_, pass_.start, wrt)
    pass_.roots = tuple(
        (root, seed(recorder, root, cotangent, number)) for number, (root, cotangent) in enumerate(roots)
    )
    found = sweep.run(pass_.roots)
    # Zeros, as MLX has them (`zeros_like(primal, s)` at the end of `vjp`); the tape calls them disconnected.
    return tuple([found[leaf] if leaf in found else _disconnected(recorder, leaf, at) for at, leaf in enumerate(wrt)])


def _disconnected(recorder: Recorder, leaf: Value, number: int) -> Value:
    label = f"zeros for ∂L/∂{leaf.label}: disconnected"
    return recorder.intake.disconnected(recorder, number, _zeros_like(leaf.array), label)
