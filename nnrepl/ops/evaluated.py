"""Evaluated: what stands in an explanation, made from what it says and no string: each is evaluated where it is made.

A computation is shown only if it comes to the number that MLX has, as closely as rounding allows
(`expression.Node.at`): a `Worked` that does not cannot be made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.ops.case import SMALLEST, Index, Operand, epsilon_of
from nnrepl.ops.expression import Node, largest, literal
from nnrepl.ops.numbers import LISTED, listed, number
from nnrepl.ops.scalars import Bounded


class Disagrees(ArithmeticError):
    """A computation does not come to the number that MLX has."""


@dataclass(frozen=True, slots=True)
class Defined:
    """A name, and the computation that it stands for: `m = max(x[0,:]) = max(1, 3) = 3`.

    Attributes:
        left: The name.
        node: The computation.
        sign: "←" where the name stood for another number before.
        remark: What is said after it.
    """

    left: str
    node: Node
    sign: str = "="
    remark: str = ""

    @property
    def value(self) -> Any:
        """What it comes to."""
        return self.node.at(0.0).value

    def lines(self) -> list[str]:
        """Write it out, in one line where that is short."""
        told = _in_one(_stages(self.left, self.node, self.value, self.sign, is_brief=True))
        return [*told[:-1], f"{told[-1]}, {self.remark}"] if self.remark else told


def _in_one(lines: list[str]) -> list[str]:
    """Return lines as one, where that is short."""
    whole = " ".join(lines)
    return [whole] if len(whole) <= _WIDTH else lines


_WIDTH = 100
"""A definition up to this long is written in one line."""


@dataclass(frozen=True, slots=True)
class NumberRow:
    """Some numbers under one name: `p[0,:] = softmax(s[0,:]) = [0.5 0.5], its shares`.

    Attributes:
        left: The name.
        numbers: They themselves.
        how: How they are computed, in symbols.
        remark: What is said after them.
        mark: Which of many is shown; else the first are.
    """

    left: str
    numbers: Sequence[Any]
    how: str = ""
    remark: str = ""
    mark: int | None = None

    def lines(self) -> list[str]:
        """Write it out, of many the first."""
        how, count = f"{self.how} = " if self.how else "", len(self.numbers)
        shown = listed(self.numbers)
        if self.mark is not None and count > LISTED:
            shown = f"[… {number(self.numbers[self.mark])} at {self.mark} …], {count} in all"
        return [f"{self.left} = {how}{shown}{f', {self.remark}' if self.remark else ''}"]


@dataclass(frozen=True, slots=True)
class ReadNumber:
    """One number of a tensor: `tokens[0,1] = 4, so row 4 is taken`.

    Attributes:
        tensor: The tensor.
        place: Which of its elements.
        remark: What is said of the number.
    """

    tensor: Operand
    place: Index
    remark: str = ""

    def lines(self) -> list[str]:
        """Write it out."""
        node = self.tensor.node(self.place)
        return [f"{node.write()} = {node.plugged()}{f', {self.remark}' if self.remark else ''}"]


@dataclass(frozen=True, slots=True)
class NumberChange:
    """One number before a step and after it: `w[0] goes from 0.5 to 0.4`.

    Attributes:
        before, after: The tensor.
        place: Which of its elements.
    """

    before: Operand
    after: Operand
    place: Index

    def lines(self) -> list[str]:
        """Write it out."""
        node = self.before.node(self.place)
        return [f"{node.write()} goes from {node.plugged()} to {number(self.after.at(self.place))}"]


@dataclass(frozen=True, slots=True)
class Decided:
    """What decides where a formula has a choice: `x[0] > 0 is false, so`.

    Attributes:
        condition: The condition, with its numbers.
    """

    condition: Node

    def lines(self) -> list[str]:
        """Write it out, with the numbers where it has any."""
        truth = "true" if self.condition.at(0.0).value else "false"
        shown = self.condition.plugged()
        return [f"{self.condition.write() if shown in ('true', 'false') else shown} is {truth}, so"]


@dataclass(frozen=True, slots=True)
class OfItsRow:
    """Names that stand for another number in each row, where terms of several rows are added.

    Attributes:
        names: The names.
    """

    names: tuple[str, ...]

    def lines(self) -> list[str]:
        """Write it out."""
        return [
            f"{' and '.join(self.names)}: for each term {'that' if len(self.names) == 1 else 'those'} of its own row"
        ]


Definition: TypeAlias = Defined | NumberRow | ReadNumber | NumberChange | Decided | OfItsRow


@dataclass(frozen=True, slots=True)
class Line:
    """What a computation comes to, and how it is written.

    Attributes:
        left: What is computed.
        node: The computation.
        before: What occurs in it.
        remark: What is said after it.
        epsilon: The precision in which the op computes, where it is coarser than that of its result.
        gives: What it comes to, where that is not the element itself but what it was made to fulfil.
        sign: "←" where what is on the left had another number before.
        is_brief: Whether it is written in one line, where that is short.
    """

    left: str
    node: Node
    before: tuple[Definition, ...] = ()
    epsilon: float = 0.0
    remark: str = ""
    gives: Any = None
    sign: str = "="
    is_brief: bool = False


@dataclass(frozen=True, slots=True)
class Worked:
    """The computation of one element of a tensor. It comes to the number that MLX has, or cannot be made.

    Attributes:
        line: The computation.
        target, index: Of what it is.

    Raises:
        Disagrees: If it comes to another number.
    """

    line: Line
    target: Operand
    index: Index

    def __post_init__(self) -> None:
        """Hold the computation against MLX's number."""
        epsilon = max(self.line.epsilon, epsilon_of(self.target.dtype))
        if not holds(self.line.node, self.result, epsilon, self.target.dtype):
            raise Disagrees(f"{self.line.left} is {self.result}, and not {self.line.node.plugged()}")

    @property
    def result(self) -> Any:
        """MLX's number."""
        return self.target.at(self.index) if self.line.gives is None else self.line.gives

    def lines(self) -> list[str]:
        """Write it out: symbols, numbers, sums and functions done, MLX's number."""
        line = self.line
        told = _stages(line.left, line.node, self.result, line.sign, line.is_brief)
        told = _in_one(told) if line.is_brief else told
        told[-1:] = [f"{told[-1]}   ({line.remark})"] if line.remark else told[-1:]
        return [*(text for one in line.before for text in one.lines()), *told]

    def numbers(self, most: int) -> str:
        """Its numbers in one line, of a long sum the `most` largest terms: `1·(−0.8041) + 2·(−0.7895)`."""
        return shortened(self.line.node, most).plugged()


Evaluated: TypeAlias = Worked | Definition
"""What an explanation shows with numbers."""


def lines_of(evaluated: Sequence[Evaluated]) -> list[str]:
    """Write out several."""
    return [line for one in evaluated for line in one.lines()]


def worked_out(line: Line | None, target: Operand, index: Index) -> Worked | None:
    """Return a computation of one element of a tensor; None if it does not come to the number that MLX has."""
    if line is None:
        return None
    try:
        return Worked(line, target, index)
    except Disagrees:
        return None


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


def _stages(left: str, node: Node, result: Any, equals: str, is_brief: bool) -> list[str]:
    """Return a computation line by line: symbols, numbers, where it is not brief sums and functions done, what it
    comes to."""
    end = number(result)
    stages = [node.write(), node.plugged(), *([] if is_brief else [collapsed(node).plugged()])]
    shown = [stages[0]]
    shown += [stage for before, stage in itertools.pairwise(stages) if stage not in (before, end, f"({end})")]
    sign = "≈" if _is_rounded(node, result) else "="
    if len(shown) == 1:
        last = "" if shown[0] == end else f" {sign} {end}"
        return [f"{left} {equals} {shown[0]}{last}"]
    return [f"{left} {equals} {shown[0]}", *(f"= {stage}" for stage in shown[1:]), f"{sign} {end}"]


_VISIBLE = 1e-4
"""About one in the last of the digits that are shown."""


def _is_rounded(node: Node, result: Any) -> bool:
    """Whether MLX's number is visibly another than what its terms come to: an op in half precision rounds on the way,
    on a GPU products of float32 as well, and what is left of a sum that cancels is rounding."""
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
