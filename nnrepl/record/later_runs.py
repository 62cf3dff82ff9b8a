"""Later runs: a function that MLX runs more than once within one call.

The backward pass of a checkpoint runs its function again, and in a nested gradient MLX does that by itself: once for
the nested gradient, and once more for each gradient that is taken of it. Python finds what its variables hold then: a
list that the first run has changed, a counter that goes on. So each run is written down, on a sheet of its own, and
where the call is made again each is what it was. The last of them are run by the sweep of the pass around: that takes
the gradients of what it has written down, and comes by there for the first time, as MLX would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

import mlx.core as mx

from nnrepl.record.frame_variables import first_argument
from nnrepl.record.leavings import Sheet, call_around, lies_in
from nnrepl.record.quiet import quietly
from nnrepl.record.recipe import Remaking, TransformRecipe
from nnrepl.record.recorder import Recorder
from nnrepl.record.runs_twice import LineLater, having
from nnrepl.record.stack import Stack
from nnrepl.record.watch import BindingWatch
from nnrepl.tape import Activation, Inside, Pass, Value

_RANDOM_STATE: Any = mx.random.state


class _Blind(BindingWatch):
    """Looks at no variables: what those of a later run hold is not asked for."""

    notes = native = False

    def enter(self, frame: FrameType) -> Any:
        return first_argument(frame)

    def belong(self, frame: FrameType, scope: Activation) -> None:
        pass

    def see(self, frame: FrameType) -> None:
        pass

    def leave(self, frame: FrameType) -> None:
        pass

    def release(self, rests: bool = False) -> None:
        pass


class WrittenRun(Protocol):
    """What has written down a run (`nnrepl.record.nested_calls.InsideRecording`, which describes these)."""

    recorder: Recorder
    recipe: TransformRecipe | None
    changed: dict[int, tuple[mx.array, Value]]

    @property
    def pass_(self) -> Inside: ...
    @property
    def later(self) -> list[Any]: ...
    def run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...
    def anew(self, around: Any) -> WrittenRun: ...
    def running(self) -> WrittenRun | None: ...
    def over(self) -> None: ...
    def change(self, value: Value, array: mx.array) -> None: ...
    def let_go(self) -> None: ...


class LaterRuns:
    """The further runs of the function of a call.

    Args:
        first: Has written down the first run.
        function: The program's function.
        recipe: What it did then.
        lines: What the user has typed in it.

    Attributes:
        recipes: What each run did, in order.
    """

    def __init__(
        self, first: WrittenRun, function: Callable[..., Any], recipe: TransformRecipe, lines: Sequence[LineLater]
    ) -> None:
        self._recorder = first.recorder
        self._first = first
        self._function = function
        self._recipe = recipe
        self._lines = lines
        self._states: list[mx.array | None] = []
        self.recipes: list[TransformRecipe] = []

    def run(self, number: int, given: Mapping[Any, mx.array], now: Remaking, args: Any, kwargs: Any) -> Any:
        """Do what the function does in run `number`, the first of them being 1, where the call is made again. The
        program's own function runs if its backward pass comes by here for the first time.

        Args:
            given: What the first run took besides its arguments.
            now: The time that the outermost call is made again.
        """
        # MLX differentiates a checkpoint by `vjp(fun, depends(primals, outputs), cotangents)` (`checkpoint` in
        # mlx/transforms.cpp): what runs again is the program's function, on arrays that have the same numbers.
        if number > len(self.recipes):
            if self._recorder.running_back and not self._recorder.repeating:
                return self.record(args, kwargs)
            recipe, state = (self.recipes or [self._recipe])[-1], None
        else:
            recipe, state = self.recipes[number - 1], self._states[number - 1]
        found = {value: given.get(value, now.arrays.get(value)) for value in recipe.captured}
        known = {value: array for value, array in found.items() if array is not None}
        if state is None or not now.over:  # while the call is made again numbers are drawn in its course
            return recipe.perform(known, {}, now, args, kwargs)
        with quietly(state):
            return recipe.perform(known, {}, now, args, kwargs)

    def record(self, args: Any, kwargs: Any) -> Any:
        """Run the program's function once more, as MLX does, and write that down. Returns what it returns."""
        recorder, state = self._recorder, _RANDOM_STATE[0]
        around, call = self._first.running(), call_around(self._first.pass_)
        with _sheet(recorder, recorder.pass_ if around is None else around.pass_, call):
            written = self._first.anew(around)
            with having(self._lines):
                result = written.run(self._function, args, kwargs)
            written.over()
            taken = recorder.captured
        recipe = written.recipe
        assert recipe is not None
        recipe.captured = tuple(taken)
        recorder.tape.notes.carried.update(taken.keys() - set(self._recipe.captured))
        self.recipes.append(recipe)
        self._states.append(state if _RANDOM_STATE[0] is not state else None)
        for value, array in taken.items():
            if around is not None or not lies_in(value, call):
                recorder.captured.setdefault(value, array)
        if around is None:
            call.swept.append(self._first.pass_.number_of_run)
            written.let_go()
            return result
        around.later.append(written)
        for array, value in written.changed.values():
            around.change(value, array)
        return result


@contextmanager
def _sheet(recorder: Recorder, within: Pass | None, call: Inside) -> Iterator[None]:
    """Write on a sheet for a while what belongs to a pass, and runs in a call."""
    before = recorder.tape, recorder.stack, recorder.watch, recorder.pass_, recorder.inside, recorder.captured
    mode, intake, blocks = recorder.mode, recorder.intake, recorder.blocks
    recorder.blocks = []  # those around it have run by now, with their lines
    recorder.tape = Sheet(recorder.tape, call)
    recorder.watch = _Blind(recorder)
    recorder.stack = Stack(recorder.stack.base, recorder.watch)
    recorder.pass_, recorder.captured = within, {}
    try:
        yield
    finally:
        recorder.tape, recorder.stack, recorder.watch, recorder.pass_, recorder.inside, recorder.captured = before
        recorder.mode, recorder.intake, recorder.blocks = mode, intake, blocks
