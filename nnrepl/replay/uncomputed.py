"""Uncomputed: a program is led forward through steps that ran natively without computing anything.

Its Python runs again, so that counters, batches, keys and caches move as they did, and MLX builds its graphs; but what
gradient calls give are stand-ins, which have a shape and a dtype and no numbers. What the program reads it is told as
it was told before. Where a restart point was kept, the program's tensors are given their numbers again.

A stand-in is what MLX's `compile` has for an input while it traces: an array without a primitive. Whatever depends on
one cannot be evaluated, by no means, so that no number can come from it: MLX raises RuntimeError before it has computed
anything.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.intake import Intake, Transforming
from nnrepl.record.native_reads import EVALUATING
from nnrepl.record.objects import refill
from nnrepl.record.recorder import Recorder
from nnrepl.record.strays import native
from nnrepl.record.titles import message_of
from nnrepl.replay.divergence import CannotExchange, NotKept
from nnrepl.replay.keeping import Point, computes
from nnrepl.replay.reach import CannotReach, Reach
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Tape, arrays_of, is_evaluated
from nnrepl.tape.native_run import SUFFIXES, UNKEPT, Answer, count_calls, file_of
from nnrepl.tape.steps import unit_at

if TYPE_CHECKING:
    from nnrepl.replay.opening import Opening
    from nnrepl.replay.run import Run

_compile, _eval, _zeros, _stop = mx.compile, mx.eval, mx.zeros, mx.stop_gradient
_copy, _setitem = mx.array.__copy__, mx.array.__setitem__
_RUN_BACKWARD = frozenset(("custom", "checkpoint"))
"""The kinds of ops whose backward pass calls a function of the program's."""
_CUT = 8
_WITHOUT_NUMBERS = "array without a primitive"


class Forward:
    """Which gradient calls of a run along a tape compute nothing.

    Args:
        run: What runs again.

    Attributes:
        kept: What the run before has kept of what this one does again.
        skipping: Whether the program computes nothing now.
        skipped: How many calls have computed nothing so far.
    """

    def __init__(self, run: Run) -> None:
        old, whole = run.old, run.position >= len(run.old)
        before = [pass_ for pass_ in old.passes if pass_.start < run.position]
        self.kept = old.kept.before(sys.maxsize if whole else count_calls(before) - 1)
        self.skipping = False
        self.skipped = 0
        points = [point for point in self.kept.points if isinstance(point, Point)]
        self._points = points if run.forward and points and _can_stand() else []
        self._end = min(run.position, len(old))
        self._needed = _needed(old, run) if self._points else []
        self._plain = bool(self._points) and not any(op.operation.kind in _RUN_BACKWARD for op in old.ops)
        self._target: Point | None = None
        self._dead: list[mx.array] = []
        self._answers: Iterator[Answer] = iter(())

    def begins(self, recorder: Recorder, number: int) -> None:
        """Note that a gradient call is about to be made natively, after so many others.

        Raises NotKept through the program where it does not hold what it held.
        """
        if self._target is not None:
            if number >= self._target.number:
                self._arrive(recorder, self._target)
            elif self.skipped % _CUT == 0:
                self._cut(recorder)
        if self._target is None:
            self._target = self._ahead(number)
        self.skipping = self._target is not None
        if self.skipping:
            self.skipped += 1
            self._answers = iter(self.kept.told(number))

    def _ahead(self, number: int) -> Point | None:
        """Return the point to which the program may go from here without computing anything."""
        at = bisect_left(self._needed, number)
        if at == len(self._needed) or self._needed[at] <= number + 1:
            return None
        points = [point for point in self._points if number + 1 < point.number <= self._needed[at]]
        return points[-1] if points else None

    def differentiated(self, transform: Transforming) -> Callable[..., Any]:
        """Return what makes a gradient call natively: where nothing is computed, without a backward pass, unless that
        calls the program."""
        if not (self.skipping and self._plain):
            return transform.real
        return native(transform.original(_stopped(transform.fun), *transform.args, **transform.kwargs))

    def updating(self, update: Callable[..., Any]) -> Callable[..., Any]:
        """Return what updates the weights natively: where nothing is computed, MLX's own rules give stand-ins."""
        return _without_rule(update) if self.skipping else update

    def left(self, result: Any) -> None:
        """Note that a call has been made natively: where nothing is computed it has given stand-ins."""
        if self.skipping:
            for array in arrays_of(result):
                stand_in(array)

    def read(self, how: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Return what the program is told that reads a tensor. Raises NotKept through the program."""
        if not self.skipping:
            return original(*args, **kwargs)
        if how in EVALUATING:
            return None
        asked, answer = next(self._answers, ("", None))
        if asked != how or answer is UNKEPT:
            raise NotKept("the program read what has not been kept")
        return answer

    def writes(self, position: int, path: str) -> bool:
        """Whether the program, at a position of the old tape, has to write tensors into a file: not before the end of
        what it did before, if the file is as that has left it. Raises NotKept through the program where it would have
        to, and computes nothing."""
        if self.leaves(path) and position < self._end:
            return False
        if self.skipping:
            raise NotKept("the program writes a file")
        return True

    def leaves(self, path: str) -> bool:
        """Whether a file is not written again, if the program can be led on."""
        return bool(self._points) and self.kept.is_as_written(path)

    def failed(self, error: BaseException) -> bool:
        """Whether the program may have failed because it computes nothing here."""
        return bool(self.skipped) and (self.skipping or _WITHOUT_NUMBERS in message_of(error))

    def settle(self, recorder: Recorder) -> None:
        """Note that ops are recorded from here on, or that all has been done again. Raises NotKept through the program
        where it holds anything without its numbers."""
        if self.skipping or (self.skipped and self._stand_ins(recorder)):
            raise NotKept("the program holds a tensor that has not been kept")

    def _stand_ins(self, recorder: Recorder) -> list[mx.array]:
        with recorder.muted():
            arrays = _reach(recorder).arrays
            dead = set(map(id, self._dead))
            return [array for array in arrays if not (is_evaluated(array) or id(array) in dead or computes(array))]

    def _arrive(self, recorder: Recorder, point: Point) -> None:
        """Give the program's tensors the numbers that they had at a point."""
        with recorder.muted():
            reach = _reach(recorder)
            if not point.fits(reach):
                raise NotKept("the program holds other tensors than it held")
            self._dead, filled = [reach.arrays[at] for at in point.dead], []
            for array, held in zip(reach.arrays, point.arrays):
                if held is not None and not is_evaluated(array):
                    # The object is one that the program holds, so it stays. Written over as a whole, it lets go of the
                    # stand-ins from which it was made: what `refill` does to it would wait for them.
                    _setitem(array, Ellipsis, _zeros(array.shape, array.dtype))
                    refill(array, held)
                    filled.append(array)
            _eval(filled)
        self._target = None

    def _cut(self, recorder: Recorder) -> None:
        """Let no graph grow: what the program holds that depends on a stand-in is one from here on."""
        for array in self._stand_ins(recorder):
            stand_in(array)


class Led(Intake[Recorder]):
    """The intake of a run that may be led forward.

    Attributes:
        forward: What leads it.
        opening: Which steps it opens.
    """

    forward: Forward
    opening: Opening

    def refuse(self, why: str) -> None:
        raise CannotExchange(f"this line cannot be done here: {why}")

    def read(self, recorder: Recorder, how: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if how in SUFFIXES:
            return self.write(recorder, how, original, args, kwargs)
        return self.forward.read(how, original, args, kwargs)

    def asked(self, recorder: Recorder, how: str, answer: Any) -> Any:
        return answer  # the tape that is followed has it

    def write(self, recorder: Recorder, how: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.forward.writes(self.opening.before(len(recorder.tape)), file_of(how, args)):
            return super().write(recorder, how, original, args, kwargs)
        return None

    def differentiated(self, transform: Transforming) -> Callable[..., Any]:
        return self.forward.differentiated(transform)

    def updating(self, update: Callable[..., Any]) -> Callable[..., Any]:
        return self.forward.updating(update)

    def wakes(self, recorder: Recorder) -> None:
        self.forward.settle(recorder)


def _reach(recorder: Recorder) -> Reach:
    try:
        return Reach(recorder)
    except CannotReach as why:
        raise NotKept(str(why)) from None


def _needed(old: Tape, run: Run) -> list[int]:
    """Return the gradient calls, by how many came before them, up to the next of which the program needs its numbers:
    because something is recorded there, or was, or because the run ends there. Natively, what comes right after an
    opened step shows whether that gave what it had given."""
    needed: set[int] = set()
    number = -1
    for pass_ in old.passes:
        if pass_.start >= run.position:
            break
        opens = bool(run.opened) and unit_at(old, pass_.start) in run.opened
        closing = any(step.start <= pass_.start < step.end for step in run.closing)
        recorded = not closing and not (len(pass_) and isinstance(old.ops[pass_.start], ClosedOp))
        if opens or recorded:
            needed.add(number)  # it is recorded from the end of the last call before on
        number += pass_.kind == GRADIENT_PASS
        if opens or recorded:
            needed |= {number, number + 1} if opens else {number}
    return sorted({*needed, number})


def _stopped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function to which no gradient is led back: `vjp` (mlx/transforms.cpp) finds no way, and gives zeros
    without walking the graph."""

    def stopped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if isinstance(result, mx.array):
            return _stop(result)
        if type(result) in (tuple, list) and result and isinstance(result[0], mx.array):
            return type(result)([_stop(result[0]), *result[1:]])
        return result

    return stopped


def _without_rule(update: Callable[..., Any]) -> Callable[..., Any]:
    """Return an optimizer's method that updates, in which the rule for one parameter is not asked if it is MLX's."""

    def run(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        rule = getattr(type(optimizer), "apply_single", None)
        if not str(getattr(rule, "__module__", "")).startswith("mlx."):
            return update(optimizer, *args, **kwargs)
        own = vars(optimizer)
        # MLX's `apply_gradients` (mlx/optimizers/optimizers.py) asks for `self.apply_single`: the object's own first.
        own["apply_single"] = _ruled
        try:
            return update(optimizer, *args, **kwargs)
        finally:
            del own["apply_single"]

    return run


def _ruled(gradient: mx.array, parameter: mx.array, state: dict[str, Any]) -> mx.array:
    """Return what stands for a parameter that has been updated; its state is replaced likewise."""
    for name, held in state.items():
        if isinstance(held, mx.array):
            state[name] = _copy(_of(held.shape, held.dtype))  # an object of its own, into which the program may write
    return _copy(_of(parameter.shape, parameter.dtype))


_stand_ins: dict[tuple[tuple[int, ...], mx.Dtype], mx.array] = {}


def stand_in(array: mx.array) -> None:
    """Take the numbers from an array object: it has its shape and dtype."""
    if array.size:
        _setitem(array, Ellipsis, _of(array.shape, array.dtype))


def _of(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    known = _stand_ins.get((shape, dtype))
    if known is None:
        # A tracer of `compile` has a shape and no primitive (`compile_trace`, mlx/compile.cpp): what is made of it is
        # free, and whoever evaluates it is told so by MLX (`_WITHOUT_NUMBERS`) instead of getting wrong numbers.
        inside: list[mx.array] = []

        def note(array: mx.array) -> mx.array:
            inside.append(array)
            return array

        _compile(note)(_zeros(shape, dtype))
        known = _stand_ins[shape, dtype] = inside[0]
    return known


def _can_stand() -> bool:
    """Whether MLX's `compile` traces: it can be disabled."""
    return not computes(_of((1,), mx.float32))
