"""Recipe: what the function of a call that MLX ran by itself did, to be done again on other arrays.

The backward pass differentiates such a call once more, and so does whoever asks for its numbers. The program's own
function may count its calls, keep what it made or change a statistic: it must not run again for that. So its ops are
made again, as they were recorded, and MLX transforms those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from functools import partial
from itertools import count
from typing import Any, Protocol

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record import trees
from nnrepl.record.objects import Slot, fill_slots
from nnrepl.tape import DrawnKey, Op, Value, fill

_copy = mx.array.__copy__
_eval, _stream = mx.eval, mx.stream
_FROM_OUTSIDE = ("captured", "parameter")


@dataclass(slots=True)
class Remaking:
    """One time that a call is made again.

    Attributes:
        carried: The values which functions that run more than once take in a later run.
        arrays: What was made of those by now.
        over: Whether the call has been made: what runs now, MLX runs for its gradients.
    """

    carried: set[Value]
    arrays: dict[Value, mx.array] = field(default_factory=lambda: dict(_TAKEN_LATER[-1]))
    over: bool = False

    def note(self, values: Iterable[Value], now: Mapping[Value, mx.array]) -> None:
        """Note what has been made of some values."""
        if self.carried:
            self.arrays.update((value, now[value]) for value in values if value in self.carried)


_TAKEN_LATER: list[Mapping[Value, mx.array]] = [{}]
"""What the functions of the call that is differentiated now take in the runs of that, innermost last."""


@contextmanager
def taking_later(values: Sequence[Value], arrays: Sequence[mx.array]) -> Iterator[None]:
    """Give what the functions of a call take in those runs that MLX makes when it is differentiated."""
    _TAKEN_LATER.append(dict(zip(values, arrays)))
    try:
        yield
    finally:
        _TAKEN_LATER.pop()


class RunsLater(Protocol):
    """The further runs of a function (`nnrepl.record.later_runs.LaterRuns`, which describes these)."""

    recipes: list[TransformRecipe]

    def run(self, number: int, given: Mapping[Value, mx.array], now: Remaking, args: Any, kwargs: Any) -> Any: ...
    def record(self, args: Any, kwargs: Any) -> Any: ...


class TransformRecipe:
    """The ops of one run of a function.

    Args:
        leaves: What stood for the arrays that MLX handed to it, in order.
        ops: Its ops, in order.
        evaluated: After how many of them the program evaluated what.
        result: What it returned, with the places of its arrays in `outputs`.
        outputs: Those.

    Attributes:
        ops: Its ops.
        captured: What it took besides, in order.
        kept: What it left in arrays that are not its own.
        later: What it does where MLX runs it more than once; None where it never does.
    """

    def __init__(
        self,
        leaves: Sequence[Value],
        ops: Sequence[Op],
        evaluated: Sequence[tuple[int, tuple[Value, ...]]],
        result: Any,
        outputs: Sequence[Value],
    ) -> None:
        self._leaves = leaves
        self.ops = ops
        self._evaluated = evaluated
        self._result = result
        self._outputs = outputs
        self.captured: tuple[Value, ...] = ()
        self.kept: tuple[Value, ...] = ()
        self.later: RunsLater | None = None

    @staticmethod
    def structure(result: Any) -> Any:
        """Return what a function returned, with places for its arrays."""
        slots = iter(range(len(trees.arrays(result))))
        return trees.rebuild(result, lambda _: Slot(next(slots)))

    def is_whole(self) -> bool:
        """Whether all that its ops take is known: it went in, was made, or has its numbers."""
        known = {*self._leaves, *self.captured}
        for op in self.ops:
            if any(value not in known and not _is_constant(value) for value in op.inputs):
                return False
            known.update(op.outputs)
        return all(value in known or _is_constant(value) or self.makes(value) for value in (*self._outputs, *self.kept))

    def makes(self, value: Value) -> bool:
        """Whether a value is one that went in, or that its ops make, or functions among them that run once more."""
        return value in self._leaves or any(value in op.outputs or _makes_later(op, value) for op in self.ops)

    def keeps(self, value: Value) -> bool:
        """Whether a value is one that its ops make; then it is given away as well from now on."""
        if not self.makes(value):
            return False
        if value not in self._leaves and not any(value in op.outputs for op in self.ops):
            value.tape.notes.carried.add(value)
        self.kept = (*self.kept, value)
        return True

    def function(self, captured: Sequence[mx.array], kept: dict[Value, mx.array], now: Remaking) -> Callable[..., Any]:
        """Return the function, for MLX to transform; random numbers are drawn from the state of now.

        Args:
            captured: What it takes besides its arguments.
            kept: Is given what it leaves in arrays that are not its own.
            now: The time that the outermost call is made again.
        """
        given = dict(zip(self.captured, captured))
        numbers = count()

        def run(*args: Any, **kwargs: Any) -> Any:
            number = next(numbers)
            if number and self.later is not None:
                return self.later.run(number, given, now, args, kwargs)
            return self.perform(given, kept, now, args, kwargs)

        return run

    def perform(
        self, given: Mapping[Value, mx.array], kept: dict[Value, mx.array], now: Remaking, args: Any, kwargs: Any
    ) -> Any:
        """Do what the function did. Returns what it returned.

        Args:
            given: What it takes besides its arguments.
            kept, now: As `function` takes them.
        """
        arrays = dict(given)
        arrays.update(zip(self._leaves, trees.arrays((args, kwargs))))
        now.note(arrays, arrays)
        self._make(arrays, now)
        kept.update((value, arrays[value]) for value in self.kept if value in arrays)
        return fill_slots(self._result, lambda slot: _copy(_found(self._outputs[slot], arrays)))

    def left(self, kept: Mapping[Value, mx.array], now: Remaking) -> list[mx.array]:
        """Return what it has left in arrays that are not its own, once the call is over: MLX may have run a function
        in it once more, behind its last line."""
        return [kept[value] if value in kept else _found(value, now.arrays) for value in self.kept]

    def _make(self, now: dict[Value, mx.array], remaking: Remaking) -> None:
        # Evaluated where the program did so: MLX may end gradients there (`nnrepl.record.cuts`).
        evaluated = iter(self._evaluated)
        at, values = next(evaluated, (-1, ()))
        for number, op in enumerate(self.ops):
            while at == number:
                _eval([_found(value, now) for value in values])
                at, values = next(evaluated, (-1, ()))
            now.update(zip(op.outputs, _made(op, now, remaking)))
            remaking.note(op.outputs, now)
        while at == len(self.ops):
            _eval([_found(value, now) for value in values])
            at, values = next(evaluated, (-1, ()))


def _is_constant(value: Value) -> bool:
    return value.op is None and value.held is not None and (value.evaluated or value.kind in _FROM_OUTSIDE)


def _found(value: Value, now: Mapping[Value, mx.array]) -> mx.array:
    array = now.get(value)
    return value.array if array is None else array


def _makes_later(op: Op, value: Value) -> bool:
    """Whether a function that runs more than once makes a value in a later run, in the call of an op."""
    recipe = getattr(op.operation.run, "recipe", None)
    if recipe is None:
        return False
    runs = () if recipe.later is None else recipe.later.recipes
    return any(run.makes(value) for run in runs) or any(_makes_later(inner, value) for inner in recipe.ops)


def _made(op: Op, now: Mapping[Value, mx.array], remaking: Remaking) -> list[mx.array]:
    """Make one op again."""
    run = op.operation.run
    args = [fill(_undrawn(part), lambda value: _found(value, now)) for part in op.args]
    kwargs = {key: fill(_undrawn(part), lambda value: _found(value, now)) for key, part in op.kwargs.items()}
    if op.operation.kind == "opaque":
        run = partial(run.again, now=remaking)  # type: ignore[attr-defined]
    stream = op.pass_.tape.notes.streams.get(op)
    if stream is None:
        return trees.arrays(run(*args, **kwargs))
    with _stream(stream):
        return trees.arrays(run(*args, **kwargs))


def _undrawn(part: Any) -> Any:
    # Without a key MLX draws one from its global state, which whoever makes the call again has put where it was.
    return None if type(part) is DrawnKey else part
