"""Recipe: what the function of a call that MLX ran by itself did, to be done again on other arrays.

The backward pass differentiates such a call once more, and so does whoever asks for its numbers. The program's own
function may count its calls, keep what it made or change a statistic: it must not run again for that. So its ops are
made again, as they were recorded, and MLX transforms those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.objects import Slot, fill_slots
from nnrepl.tape import DrawnKey, Op, Value, fill

_copy = mx.array.__copy__
_eval, _stream = mx.eval, mx.stream
_FROM_OUTSIDE = ("captured", "parameter")


class TransformRecipe:
    """The ops of one run of a function.

    Args:
        leaves: What stood for the arrays that MLX handed to it, in order.
        ops: Its ops, in order.
        evaluated: After how many of them the program evaluated what.
        result: What it returned, with the places of its arrays in `outputs`.
        outputs: Those.

    Attributes:
        captured: What it took besides, in order.
        kept: What it left in arrays that are not its own.
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
        self._ops = ops
        self._evaluated = evaluated
        self._result = result
        self._outputs = outputs
        self.captured: tuple[Value, ...] = ()
        self.kept: tuple[Value, ...] = ()

    @staticmethod
    def structure(result: Any) -> Any:
        """Return what a function returned, with places for its arrays."""
        slots = iter(range(len(trees.arrays(result))))
        return trees.rebuild(result, lambda _: Slot(next(slots)))

    def is_whole(self) -> bool:
        """Whether all that its ops take is known: it went in, was made, or has its numbers."""
        known = {*self._leaves, *self.captured}
        for op in self._ops:
            if any(value not in known and not _is_constant(value) for value in op.inputs):
                return False
            known.update(op.outputs)
        return all(value in known or _is_constant(value) for value in (*self._outputs, *self.kept))

    def keeps(self, value: Value) -> bool:
        """Whether a value is one that its ops make; then it is given away as well from now on."""
        if not any(value in op.outputs for op in self._ops):
            return False
        self.kept = (*self.kept, value)
        return True

    def function(self, captured: Sequence[mx.array], kept: list[mx.array]) -> Callable[..., Any]:
        """Return the function, for MLX to transform; random numbers are drawn from the state of now.

        Args:
            captured: What it takes besides its arguments.
            kept: Is given what it leaves in arrays that are not its own.
        """

        def run(*args: Any, **kwargs: Any) -> Any:
            now = dict(zip(self.captured, captured))
            now.update(zip(self._leaves, trees.arrays((args, kwargs))))
            self._make(now)
            kept[:] = [_found(value, now) for value in self.kept]
            return fill_slots(self._result, lambda slot: _copy(_found(self._outputs[slot], now)))

        return run

    def _make(self, now: dict[Value, mx.array]) -> None:
        evaluated = iter(self._evaluated)
        at, values = next(evaluated, (-1, ()))
        for number, op in enumerate(self._ops):
            while at == number:
                _eval([_found(value, now) for value in values])
                at, values = next(evaluated, (-1, ()))
            now.update(zip(op.outputs, _made(op, now)))
        while at == len(self._ops):
            _eval([_found(value, now) for value in values])
            at, values = next(evaluated, (-1, ()))


def _is_constant(value: Value) -> bool:
    return value.op is None and value.held is not None and (value.evaluated or value.kind in _FROM_OUTSIDE)


def _found(value: Value, now: Mapping[Value, mx.array]) -> mx.array:
    array = now.get(value)
    return value.array if array is None else array


def _made(op: Op, now: Mapping[Value, mx.array]) -> list[mx.array]:
    """Make one op again."""
    run = op.operation.run
    args = [fill(_undrawn(part), lambda value: _found(value, now)) for part in op.args]
    kwargs = {key: fill(_undrawn(part), lambda value: _found(value, now)) for key, part in op.kwargs.items()}
    if op.operation.kind == "opaque":
        run = run.again  # type: ignore[attr-defined]
    stream = op.pass_.tape.notes.streams.get(op)
    if stream is None:
        return trees.arrays(run(*args, **kwargs))
    with _stream(stream):
        return trees.arrays(run(*args, **kwargs))


def _undrawn(part: Any) -> Any:
    return None if type(part) is DrawnKey else part
