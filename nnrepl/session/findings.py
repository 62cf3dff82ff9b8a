"""Findings: what a watch or a catch found, exactly, as data that can be shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.tape import Mark, Op, Value

Test = Callable[[mx.array], mx.array]


@dataclass(frozen=True, slots=True)
class Origin:
    """An input of an op, and which part of it a result came from.

    Attributes:
        value: The input.
        index: The element, with None for an axis that counts as a whole; None for all of it.
        low, high: The smallest and largest number in that part (the same for one element).
        before: Where it is one element, and an Inf that an op made: what that was made from.
    """

    value: Value
    index: tuple[int | None, ...] | None
    low: Any
    high: Any
    before: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class WentBad:
    """Numbers that went bad in an op, or came into it bad.

    Attributes:
        what: How such a number is written: "NaN", "Inf".
        op: The op.
        value: Its output; an input that no op has made, where the numbers were bad from the start.
        index: The first bad element.
        number: What stands there.
        count: How many elements are bad.
        origins: What the element was made from.
        apart: Whether inputs of the op are bad as well, at places from which the element is not made.
        test: Tells such a number.
    """

    what: str
    op: Op
    value: Value
    index: tuple[int, ...]
    number: Any
    count: int
    origins: tuple[Origin, ...]
    apart: bool
    test: Test

    @property
    def is_bad(self) -> bool:
        """Whether the element is such a number."""
        array = self.value.array
        return bool(_number(self.test(array[self.index] if self.index else array)))

    @property
    def is_born(self) -> bool:
        """Whether it is such a number, and no input of the op holds one (in the parts that the element is made from,
        where other parts do)."""
        given = [value for value in dict.fromkeys(self.op.inputs) if _is_inexact(value)]
        parts = [one.value.array if one.index is None else one.value.array[_slices(one.index)] for one in self.origins]
        looked = parts if self.apart else [value.array for value in given]
        return self.is_bad and not any(_number(mx.any(self.test(array))) for array in looked)


@dataclass(frozen=True, slots=True)
class Vanished:
    """A gradient that became zero in an op.

    Attributes:
        op: The op.
        value: The gradient, all zeros.
        given: The gradients that went in, not all zeros.
        others: What else it was computed from.
    """

    op: Op
    value: Value
    given: tuple[Value, ...]
    others: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception, raised by an op or (None) by the program within a pass."""

    error: BaseException
    op: Op | None


@dataclass(frozen=True, slots=True)
class Forced:
    """Evaluations that the program forced before the op that comes next."""

    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Stretched:
    """An op whose operands were broadcast against each other."""

    op: Op


@dataclass(frozen=True, slots=True)
class Changed:
    """An expression that has another value than before.

    Attributes:
        text: The expression.
        op: The op that changed it, None where a new pass brought it.
        before, after: Its values; `before` is None where it had none.
    """

    text: str
    op: Op | None
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Failed:
    """A condition that could not be asked."""

    condition: str
    reason: str


Finding = WentBad | Vanished | Raised | Forced | Stretched | Changed | Failed
"""All that can be found; the view has one picture for each."""


def source_of(value: Value) -> Value:
    """Return the value that a leaf goes on with, the value itself if it is the first of its kind."""
    while value.op is None and value.origin is not None:
        value = value.origin
    return value


# -- births --------------------------------------------------------------------------------------------------


def birth(what: str, test: Test, op: Op, value: Value, places: mx.array | None = None) -> WentBad:
    """Tell which element of `value` went bad first, and from what. Evaluates the inputs of the op.

    Args:
        places: Where `value` went bad in this op; None for wherever it is bad.
    """
    mask = mx.flatten(test(value.array) if places is None else places)
    first = int(_number(mx.argmax(mask)))
    index = _unravel(first, value.shape)
    number = _number(value.array[index] if index else value.array)
    count = int(_number(mx.sum(mask)))
    origins = tuple(_origins(op, value, index, test, _DEPTH)) if value.op is op else ()
    return WentBad(what, op, value, index, number, count, origins, places is not None, test)


def _number(array: mx.array) -> Any:
    return array.item()


def _unravel(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    index: list[int] = []
    for extent in reversed(shape):
        index.append(flat % extent)
        flat //= extent
    return tuple(reversed(index))


_DEPTH = 3  # how many ops an Inf is followed back


def _origins(op: Op, value: Value, index: tuple[int, ...], test: Test, depth: int) -> Iterator[Origin]:
    """Yield the parts of the inputs that are enough to make the element bad: single elements if they are, else the row
    and the column of a product, else a row, else the whole inputs."""
    inputs = [taken for taken in dict.fromkeys(op.inputs) if _is_inexact(taken)]
    for choose in (_element, _factor, _row):
        chosen = {taken: choose(op, taken, index) for taken in inputs}
        if all(part is not None for part in chosen.values()) and _suffice(op, value, index, chosen, test):
            break
    else:
        chosen = dict.fromkeys(inputs)
    for taken, part in chosen.items():
        piece = taken.array if part is None else taken.array[_slices(part)]
        low, high = _number(mx.min(piece)), _number(mx.max(piece))
        before: tuple[Origin, ...] = ()
        if depth and taken.op is not None and part is not None and None not in part and abs(low) == math.inf:
            before = tuple(_origins(taken.op, taken, cast(tuple[int, ...], part), mx.isinf, depth - 1))
        yield Origin(taken, part, low, high, before)


def _is_inexact(value: Value) -> bool:
    return mx.issubdtype(value.dtype, mx.inexact) and value.size > 0


def _element(op: Op, taken: Value, index: tuple[int, ...]) -> tuple[int | None, ...] | None:
    """Return the element that broadcasting pairs with `index`; None if the shapes do not go together."""
    shape = taken.shape
    if len(shape) > len(index):
        return None
    paired = index[len(index) - len(shape) :]
    if any(extent != 1 and at >= extent for extent, at in zip(shape, paired)):
        return None
    return tuple([0 if extent == 1 else at for extent, at in zip(shape, paired)])


def _row(op: Op, taken: Value, index: tuple[int, ...]) -> tuple[int | None, ...] | None:
    """Return the row in which the element stands; of what has fewer numbers, the row that belongs to it."""
    if taken.shape and index and len(taken.shape) == len(index) + 1:  # the last axis was reduced
        part = _element_of(taken.shape[:-1], index)
        return None if part is None else (*part, None)
    paired = _element(op, taken, index)
    return (*paired[:-1], None) if paired else None


def _element_of(shape: tuple[int, ...], index: tuple[int, ...]) -> tuple[int, ...] | None:
    if any(extent != 1 and at >= extent for extent, at in zip(shape, index)):
        return None
    return tuple([0 if extent == 1 else at for extent, at in zip(shape, index)])


def _factor(op: Op, taken: Value, index: tuple[int, ...]) -> tuple[int | None, ...] | None:
    """Return the row of the first factor of a product, the column of the second."""
    if op.name != "matmul" or len(index) < 2 or len(op.inputs) != 2 or len(taken.shape) != len(index):
        return None
    before = _element_of(taken.shape[:-2], index[:-2])
    if before is None:
        return None
    return (*before, index[-2], None) if taken is op.inputs[0] else (*before, None, index[-1])


def _slices(part: tuple[int | None, ...]) -> tuple[Any, ...]:
    return tuple([slice(None) if at is None else at for at in part])


def _suffice(op: Op, value: Value, index: tuple[int, ...], chosen: dict[Value, Any], test: Test) -> bool:
    """Whether the element is bad as well when everything but the chosen parts is one: computed, not guessed."""
    if op.operation.kind not in ("op", "vjp", "accumulate"):
        return False

    def given(taken: Value) -> mx.array:
        part = chosen.get(taken)
        if part is None:
            return taken.array
        kept = mx.zeros(taken.shape, mx.bool_)
        kept[_slices(part)] = True
        return mx.where(kept, taken.array, mx.array(1, taken.dtype))

    try:
        again = op.compute(given)[value.slot]
        return bool(_number(test(again[index] if index else again)))
    except (ValueError, TypeError, RuntimeError):  # an op that minds what its numbers are (a factorization)
        return False
