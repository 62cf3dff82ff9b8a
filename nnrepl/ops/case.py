"""Case: one call of an op, as its arithmetic needs it: operands with names and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.ops.entry import Entry
from nnrepl.ops.expression import Node, quantity
from nnrepl.ops.numbers import element, ravel

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


def _operands(given: Any) -> Iterator[Operand]:
    if isinstance(given, Operand):
        yield given
    elif isinstance(given, list):
        for one in given:
            yield from _operands(one)


def epsilon_of(*dtypes: mx.Dtype) -> float:
    """Return the coarsest precision among some dtypes, and what MLX's kernels add: a few units in the last place."""
    found = [EPSILON[dtype] for dtype in dtypes if dtype in EPSILON]
    if mx.float32 in dtypes and may_take_tf32():
        found.append(_TF32)
    return 4 * max(found, default=0.0)


def may_take_tf32() -> bool:
    """Whether MLX may take products of float32 in TF32, which has ten bits after the point (MLX_ENABLE_TF32)."""
    return bool(mx.default_device().type == mx.DeviceType.gpu)


_TF32 = 4.9e-4
