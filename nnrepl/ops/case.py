"""Case: one call of an op, as its arithmetic needs it: operands with names and numbers; and lines that were checked.

A line of arithmetic is shown only if it comes to the number that MLX has, as closely as rounding allows
(`expression.Node.at`). What does not is not shown.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from nnrepl.ops.entry import Entry
from nnrepl.ops.expression import Node, largest, literal, quantity
from nnrepl.ops.numbers import element, number, ravel
from nnrepl.ops.scalars import Bounded

Index = tuple[int, ...]

MOST = 40_000
"""Sums of more terms than this are not computed again term by term."""

EPSILON = {mx.float16: 9.8e-4, mx.bfloat16: 7.9e-3, mx.float32: 1.2e-7, mx.complex64: 2.4e-7, mx.float64: 2.3e-16}
SMALLEST = {mx.float16: 6.2e-5}
"""The relative precision of each dtype; and below what size a number loses digits (other dtypes: 1.2e-38)."""


class Operand:
    """One tensor of a call: what it is called here, and its numbers, which are read when they are wanted."""

    def __init__(
        self, name: str, shape: Sequence[int], dtype: mx.Dtype, read: Callable[[], mx.array], token: object = None
    ) -> None:
        self.name = name
        self.shape = tuple(shape)
        self.dtype = dtype
        self._read = read
        self._token = token
        self._known: dict[int, Any] = {}

    def holds(self, token: object) -> bool:
        """Whether it was made for this."""
        return self._token is token

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def array(self) -> mx.array:
        """The tensor."""
        return self._read()

    def want(self, places: Sequence[Index]) -> None:
        """Read several numbers in one go."""
        flat = [at for at in dict.fromkeys(ravel(place, self.shape) for place in places) if at not in self._known]
        if flat:
            found: Any = mx.take(self.array.flatten(), mx.array(flat)).tolist()
            self._known.update(zip(flat, found))

    def at(self, place: Index) -> Any:
        """One number."""
        at = ravel(place, self.shape)
        if at not in self._known:
            self.want([place])
        return self._known[at]

    def own(self, place: Index) -> Index:
        """Return the element that is meant at a place of the tensor to which it was broadcast."""
        mine = place[len(place) - len(self.shape) :] if self.shape else ()
        return tuple(0 if extent == 1 else at for at, extent in zip(mine, self.shape))

    def node(self, place: Index) -> Node:
        """Return the element that is meant at a place, with its name and its number."""
        own = self.own(place)
        return quantity(element(self.name, own), self.at(own))

    def row(self, place: Index, axes: Sequence[int], rank: int, span: str = ":") -> str:
        """How the row is written to which a place belongs: `x[0,:]`; the part of it that counts, `x[0,:3]`."""
        own, extra = self.own(place), rank - len(self.shape)
        parts = [span if at + extra in axes and self.shape[at] != 1 else str(step) for at, step in enumerate(own)]
        return f"{self.name}[{','.join(parts)}]" if parts else self.name


@dataclass
class Case:
    """One call of an op, as far as its arithmetic needs it.

    Attributes:
        entry: What is known about the op.
        bound: What each symbol of its formula is: an Operand, a number, None, or several of them.
        y: Its results.
        g: The gradient of each result; None where it has none, or in the forward pass.
        compute: The op again, on the arrays that a function gives for its operands.
    """

    entry: Entry
    bound: dict[str, Any]
    y: list[Operand]
    g: list[Operand | None] = field(default_factory=list)
    compute: Callable[[Callable[[Operand], mx.array]], list[mx.array]] | None = None

    def operands(self) -> list[Operand]:
        """Return the tensors that go in, each once."""
        found: list[Operand] = []
        for given in self.bound.values():
            found.extend(_operands(given))
        return list(dict.fromkeys(found))

    def names(self) -> set[str]:
        """Return what the tensors that take part are called."""
        return {one.name for one in (*self.operands(), *self.y, *self.g) if one is not None}

    def operand(self, symbol: str) -> Operand:
        """Return the tensor of a symbol."""
        found = self.bound[symbol]
        assert isinstance(found, Operand)
        return found


@dataclass(frozen=True, slots=True)
class Line:
    """What a computation comes to, and how it is written.

    Attributes:
        left: What is computed.
        node: The computation.
        before: Lines that define what occurs in it.
        remark: What is said after it.
        epsilon: The precision in which the op computes, where it is coarser than that of its result.
        gives: What it comes to, where that is not the element itself but what it was made to fulfil.
    """

    left: str
    node: Node
    before: tuple[str, ...] = ()
    epsilon: float = 0.0
    remark: str = ""
    gives: Any = None


def _operands(given: Any) -> Iterator[Operand]:
    if isinstance(given, Operand):
        yield given
    elif isinstance(given, list):
        for one in given:
            yield from _operands(one)


def epsilon_of(*dtypes: mx.Dtype) -> float:
    """Return the coarsest precision among some dtypes, and what MLX's kernels add: a few units in the last place.

    On a GPU products of float32 may be taken in TF32, which has ten bits after the point (MLX_ENABLE_TF32).
    """
    found = [EPSILON[dtype] for dtype in dtypes if dtype in EPSILON]
    if mx.float32 in dtypes and mx.default_device().type == mx.DeviceType.gpu:
        found.append(_TF32)
    return 4 * max(found, default=0.0)


_TF32 = 4.9e-4


def holds(node: Node, result: Any, epsilon: float, dtype: mx.Dtype) -> bool:
    """Whether a computation gives MLX's number, up to rounding."""
    try:
        found = node.at(epsilon)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        return False
    return agrees(found, result, epsilon, dtype)


def agrees(found: Bounded, result: Any, epsilon: float, dtype: mx.Dtype) -> bool:
    """Whether a number is MLX's, up to rounding."""
    value: Any = found.value
    if isinstance(result, bool) or isinstance(value, bool):
        return bool(value) == bool(result)
    if value != value or result != result:
        return bool(value != value and result != result)
    if not math.isfinite(abs(result)):
        largest: float = {mx.float16: 65504.0, mx.bfloat16: 3.38e38}.get(dtype, 3.4e38)
        same_side: bool = (value > 0) == (result > 0)
        return bool(value == result) or (bool(abs(value) >= largest) and same_side)
    room = found.error + epsilon * abs(result) + SMALLEST.get(dtype, 1.2e-38)
    return bool(abs(value - result) <= room)


@dataclass(frozen=True, slots=True)
class Worked:
    """The computation of one element that came to the number that MLX has.

    Attributes:
        line: The computation.
        result: MLX's number.
    """

    line: Line
    result: Any

    def lines(self) -> list[str]:
        """Write it out: symbols, numbers, sums and functions done, MLX's number."""
        lines = written(self.line, self.result)
        return [*lines[:-1], f"{lines[-1]}   ({self.line.remark})"] if self.line.remark else lines

    def numbers(self, most: int) -> str:
        """Its numbers in one line, of a long sum the `most` largest terms: `1·(−0.8041) + 2·(−0.7895)`."""
        return shortened(self.line.node, most).plugged()


def worked_out(line: Line | None, target: Operand, index: Index) -> Worked | None:
    """Return a computation of one element of a tensor; None if it does not come to the number that MLX has."""
    if line is None:
        return None
    result = target.at(index) if line.gives is None else line.gives
    fits = holds(line.node, result, max(line.epsilon, epsilon_of(target.dtype)), target.dtype)
    return Worked(line, result) if fits else None


def checked(line: Line | None, target: Operand, index: Index) -> list[str]:
    """Return a computation of one element of a tensor, written out; empty if it does not come to the number that MLX
    has."""
    found = worked_out(line, target, index)
    return [] if found is None else found.lines()


def shortened(node: Node, most: int) -> Node:
    """Return a computation in which of each long sum only the largest terms are left, with how many more there are."""

    def change(part: Node) -> Node | None:
        if part.kind != "series" or part.text != "Σ" or len(part.parts) <= most + 1:
            return None
        terms = part.parts
        values = [term.at(0.0).value for term in terms]
        kept = largest(values, most)
        rest = sum(values[at] for at in {*range(len(terms))} - {*kept})
        more = Node("number", text=f"({len(terms) - len(kept)} more: {number(rest)})", value=rest)
        return Node("series", (*(terms[at].mapped(change) for at in kept), more), "Σ")

    return node.mapped(change)


def written(line: Line, result: Any) -> list[str]:
    """Return the lines of a computation: symbols, numbers, sums and functions done, MLX's number."""
    end = number(result)
    stages = [line.node.write(), line.node.plugged(), collapsed(line.node).plugged()]
    shown = [stages[0]]
    shown += [stage for before, stage in itertools.pairwise(stages) if stage not in (before, end, f"({end})")]
    sign = "≈" if _is_rounded(line.node, result) else "="
    if len(shown) == 1:
        last = "" if shown[0] == end else f" {sign} {end}"
        return [*line.before, f"{line.left} = {shown[0]}{last}"]
    return [*line.before, f"{line.left} = {shown[0]}", *(f"= {stage}" for stage in shown[1:]), f"{sign} {end}"]


_VISIBLE = 1e-3


def _is_rounded(node: Node, result: Any) -> bool:
    """Whether MLX's number is visibly another than what its terms come to: an op in half precision rounds on the way,
    and what is left of a sum that cancels is rounding."""
    value = node.at(0.0).value
    if isinstance(value, bool) or isinstance(result, bool) or not math.isfinite(abs(value)):
        return False
    return bool(math.isfinite(abs(result)) and abs(value - result) > _VISIBLE * max(abs(value), abs(result)))


def collapsed(node: Node) -> Node:
    """Return the same with its functions, brackets and inner sums done."""

    def change(part: Node) -> Node | None:
        if part is node and node.kind in ("series", "sum", "product", "negative"):
            return None
        if part.kind in ("series", "bracket", "call", "root", "abs", "floor", "ceil", "power"):
            return literal(part.at(0.0).value)
        return None

    return node.mapped(change)
