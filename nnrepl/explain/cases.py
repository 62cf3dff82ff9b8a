"""Cases: an op of the tape as `nnrepl.ops` wants it for its arithmetic: operands with names and numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.elements import Index
from nnrepl.explain.known import Entry, bind
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.ops.case import Case, Operand
from nnrepl.tape import Inside, Op, Value


class Names:
    """What the values of one explanation are called: each name stands for one value.

    A program uses a name again and again, `x = x @ w`; where two values of an explanation have one name, each that was
    made by an op is called by it, `x@12` (a part of a gradient, `#12`): addresses that every command understands.
    """

    def __init__(
        self, values: Iterable[Value], own: Iterable[Value], taker: Op | None = None, inside: Iterable[Op] = ()
    ) -> None:
        """Look which names stand for several of these values.

        Args:
            values: All that the explanation is about.
            own: Those that it explains.
            taker: The op that takes some of them.
            inside: The ops of a module that is explained as a whole: its variables go without its path.
        """
        self._own = set(own)
        self._inside = set(inside)
        self._bare: dict[str, str] = {}
        self._known: dict[Value, str] = {}
        self._taker, self._taken = taker, set(() if taker is None else taker.inputs)
        holders: dict[str, set[Value]] = {}
        listed = list(values)
        outer = {self._plain(value) for value in listed if value.op not in self._inside}
        for value in listed if self._inside else ():
            name = self._plain(value)
            if value.op in self._inside and name.rpartition(".")[2] not in outer and not name.endswith("ᵀ"):
                self._bare[name] = name.rpartition(".")[2]
        for value in listed:
            holders.setdefault(self._plain(value), set()).add(value.canonical)
        self._shared = {name for name, held in holders.items() if len(held) > 1}
        self._seeds = {self._plain(one) for one in listed if one.gradient_of is not None and one.op is None}

    def __call__(self, value: Value) -> str:
        """Return the name of a value."""
        name = self._plain(value)
        if name not in self._shared or value.op is None or name.startswith("#"):
            return name
        if (of := value.gradient_of) is not None:
            if value in self._own and name in self._seeds and of.op is not None:
                return f"{name}@{of.op.label.removeprefix('#')}"  # `loss = loss / 3`: the seed is another loss's
            return name if value in self._own else _number(value)
        if value.label is not None or name.endswith("ᵀ"):
            return _number(value)
        return f"{name}@{value.op.label.removeprefix('#')}"

    def _plain(self, value: Value) -> str:
        name = self._known.get(value)
        if name is None:  # it is asked for again and again, and looked for in all that the program holds
            name = self._known[value] = self._looked_up(value)
        return self._bare.get(name, name) if value.op in self._inside else name

    def _looked_up(self, value: Value) -> str:
        if value.op is not None and value.op.pass_.adds_to(value) is not None:
            return _number(value)  # ∂L/∂x is the sum of all its parts
        taken = value in self._taken or value.gradient_of is not None
        return words.name(value, self._taker if taken else None)


def _number(value: Value) -> str:
    """`#12`, or `#12.1` for another output of op #12."""
    assert value.op is not None
    return f"{value.op.label}.{value.slot}" if value.slot else value.op.label


def names_for(op: Op) -> Names:
    """Return the names of all values that take part in an op."""
    return named_by(Names, op)


AnyNames = TypeVar("AnyNames", bound=Names)


def named_by(kind: type[AnyNames], op: Op) -> AnyNames:
    """Return the names of all values that take part in an op, written in a way of their own."""
    forward = op.of
    more = (*forward.inputs, *forward.outputs) if forward is not None else ()
    return kind([*op.inputs, *op.outputs, *more], op.outputs, forward or op)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of each `vmap` around an op, of which the outermost comes first: of one its formula speaks."""

    levels: Sequence[Inside] = ()
    numbers: Sequence[int] = ()

    def axes(self, value: Value) -> Iterator[tuple[int, int]]:
        """Yield at which axis of a tensor the samples lie, and which is meant."""
        for level, number in zip(self.levels, self.numbers):
            if value in level.axes:
                yield level.axes[value], number


ALL = Sample()
"""No sample: outside of a `vmap` an op takes its tensors whole."""


def sample_of(op: Op, value: Value, index: Index) -> tuple[Sample, Index]:
    """Return to which sample an element of a result belongs, and its place in there."""
    levels, place = op.tape.notes.mapped.get(op, ()), list(index)
    numbers = [place.pop(level.axes[value]) for level in levels]
    return Sample(levels, numbers), tuple(place)


def operand(look: Look, value: Value, names: Callable[[Value], str], sample: Sample = ALL) -> Operand:
    """Return a value as an operand; it is evaluated when its numbers are asked for. Of a sample it is called `x[0]`."""
    axes = list(sample.axes(value))
    name, shape = names(value), list(value.shape)
    for axis, number in axes:
        name += f"[{':,' * axis}{number}]"
        shape.pop(axis)

    def read() -> mx.array:
        array = look.array(value)
        for axis, number in axes:
            array = mx.take(array, number, axis)
        return array

    return Operand(name, shape, value.dtype, read, value.canonical)


def case_of(look: Look, op: Op, entry: Entry, names: Names, sample: Sample = ALL) -> Case:
    """Return a forward op, or the forward op that a backward op differentiates with the gradients that came in."""
    forward = op.of or op
    operands = {value.canonical: operand(look, value, names, sample) for value in forward.inputs}

    def part(given: Any) -> Any:
        if isinstance(given, Value):
            return operands[given.canonical]
        if isinstance(given, (list, tuple)):
            return [part(item) for item in given]
        return given

    def compute(lookup: Callable[[Operand], mx.array]) -> list[mx.array]:
        run = forward.once if sample.levels else forward.compute
        return run(lambda value: lookup(operands[value.canonical]))

    bound = {symbol: part(given) for symbol, given in bind(entry, forward).items()}
    case = Case(entry, bound, [operand(look, value, names, sample) for value in forward.outputs],
                compute=None if forward.refusal else compute)  # fmt: skip
    rule = rule_of(op)
    if op.of is not None and rule is not None:
        case.g = [None] * len(forward.outputs)
        for slot, given in zip(rule.outputs, upstream(op)):
            case.g[slot] = operand(look, given, names, sample)
    return case
