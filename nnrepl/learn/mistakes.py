"""Mistakes: the wrong answers that people give, made from the mathematics of the op that gives the right one.

For one element of a tensor: what one gets with the wrong sign, at another place, before this op, without the mean, with
one product forgotten. A mistake in what goes into an op is carried through it, so that `(error - y)²` made with a
forgotten bias is known as well. So they work on any program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.elements import broadcast_index, named, number_at, unravel
from nnrepl.explain.look import Look
from nnrepl.explain.paths import upstream
from nnrepl.learn.answers import near
from nnrepl.session.expressions import aside
from nnrepl.tape import Op, Value

Index = tuple[int, ...]
DEPTH = 2
"""Through how many ops a mistake is carried."""
FEW = 16
"""Up to how many elements those at other places are looked for."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A wrong answer.

    Attributes:
        value: What one answers then.
        said: What it is.
    """

    value: Any
    said: str


Rule = Callable[["GuessedElement"], Iterator[Mistake]]
RULES: dict[str, list[Rule]] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule for ops of these names; `vjp of square` for the backward ops of one."""

    def enter(found: Rule) -> Rule:
        for name in names:
            RULES.setdefault(name, []).append(found)
        return found

    return enter


@dataclass(slots=True)
class GuessedElement:
    """One element of what an op gives, and what it is made of."""

    look: Look
    value: Value
    index: Index
    right: float

    @property
    def op(self) -> Op:
        """The op that made the value."""
        assert self.value.op is not None
        return self.value.op

    def at(self, value: Value, index: Index) -> float:
        """Return a number of another tensor."""
        return float(number_at(self.look, value, index))

    def same_place(self, value: Value) -> Index | None:
        """Return the element of an operand that belongs to this one; None where its shape tells nothing."""
        own, whole = tuple(value.shape), tuple(self.value.shape)
        if len(own) > len(whole) or any(a not in (1, b) for a, b in zip(own[::-1], whole[::-1])):
            return None
        return broadcast_index(self.index, own)

    def operands(self) -> list[tuple[str, float]]:
        """Return the operands of an op that works place by place, with their names: numbers of the program as well."""
        found: list[tuple[str, float]] = []
        for arg in self.op.args:
            if isinstance(arg, Value):
                index = self.same_place(arg)
                if index is None:
                    return []
                found.append((named(arg, index), self.at(arg, index)))
            elif isinstance(arg, (int, float)) and not isinstance(arg, bool):
                found.append((words.number(arg), float(arg)))
        return found


def mistakes(look: Look, value: Value, index: Index) -> list[Mistake]:
    """Return the wrong answers for one element, the likelier first; none is the right one, and no two are the same
    number."""
    right = float(number_at(look, value, index))
    kept: list[Mistake] = []
    for found in _all(GuessedElement(look, value, index, right), DEPTH):
        differs = abs(found.value) < float("inf") and not near(found.value, right) and not near(right, found.value)
        if differs and not any(near(found.value, other.value) for other in kept):
            kept.append(found)
    return kept


def _all(case: GuessedElement, depth: int) -> Iterator[Mistake]:
    if case.right:
        yield Mistake(-case.right, "The size is right; look at the sign.")
    if case.value.op is not None:
        yield from _by_rules(case)
        if depth > 1:
            yield from _carried(case, depth)
    yield from _elsewhere(case)
    for factor, said in ((2.0, "twice as much as it should be"), (0.5, "half of it"), (10.0, "ten times as much"),
                         (0.1, "a tenth of it")):  # fmt: skip
        yield Mistake(factor * case.right, f"That is {said}.")


def _by_rules(case: GuessedElement) -> Iterator[Mistake]:
    for found in RULES.get(case.op.name, ()):
        yield from found(case)
    if case.op.of is not None:
        yield from _backward(case)
    yield from _before(case)


def _carried(case: GuessedElement, depth: int) -> Iterator[Mistake]:
    """Yield the mistakes in an input, as they come out of the op."""
    if case.op.operation.kind not in ("op", "edit"):
        return
    for taken in dict.fromkeys(case.op.inputs):
        index = (0,) * len(taken.shape) if taken.size == 1 else case.same_place(taken)
        if index is None or taken.op is None or taken.refusal or taken.op.phase != case.op.phase:
            continue
        inner = GuessedElement(case.look, taken, index, case.at(taken, index))
        for found in _all_of_input(inner, depth - 1):
            number = _with(case, taken, index, found.value)
            if number is not None:
                yield Mistake(number, found.said)


def _all_of_input(case: GuessedElement, depth: int) -> Iterator[Mistake]:
    """Yield what goes wrong in an input: not its sign alone, and not another place."""
    yield from _by_rules(case)
    if depth > 1:
        yield from _carried(case, depth)


def _with(case: GuessedElement, taken: Value, index: Index, number: float) -> float | None:
    """Return what the op would give with another number in one of its inputs."""
    with aside():
        array = mx.array(case.look.array(taken))
        if index:
            array[index] = number
        else:
            array = mx.array(number, dtype=array.dtype)
        outputs = case.op.compute(lambda value: array if value is taken else case.look.array(value))
        result = outputs[case.value.slot]
        if tuple(result.shape) != tuple(case.value.shape):
            return None
        return number_of(result[case.index] if case.index else result)


def number_of(array: mx.array) -> float:
    """Return the number of a tensor that has one."""
    single: Any = array.item()
    return float(single)


def _elsewhere(case: GuessedElement) -> Iterator[Mistake]:
    """Yield the other elements of the same tensor, row and column exchanged first."""
    shape = tuple(case.value.shape)
    size = case.value.size
    if not 1 < size <= FEW:
        return
    asked = named(case.value, case.index)
    if len(case.index) == 2:
        turned = (case.index[1], case.index[0])
        if turned != case.index and all(at < extent for at, extent in zip(turned, shape)):
            said = f"Row and column are the wrong way round: that is {named(case.value, turned)}."
            yield Mistake(case.at(case.value, turned), said)
    for place in range(size):
        index = unravel(place, shape)
        if index != case.index:
            said = f"That is {named(case.value, index)}; asked is {asked}, and one counts from 0."
            yield Mistake(case.at(case.value, index), said)


_AFTER = {
    "maximum": "ReLU is still to come", "softmax": "softmax is still to come", "log": "the logarithm is still to come",
    "exp": "e to the power of it is still to come", "square": "it is still to be squared",
    "sqrt": "the root is still to come", "tanh": "tanh is still to come", "sigmoid": "the sigmoid is still to come",
}  # fmt: skip


def _before(case: GuessedElement) -> Iterator[Mistake]:
    """Yield what goes into an op, at the same place, is taken for what comes out."""
    if case.op.of is not None:
        return
    for taken in dict.fromkeys(case.op.inputs):
        index = case.same_place(taken) if tuple(taken.shape) == tuple(case.value.shape) else None
        if index is None:
            continue
        left = _AFTER.get(case.op.name) or f"what {words.call(case.op)} does is still to come"
        yield Mistake(case.at(taken, index), f"That is {named(taken, index)}; {left}.")


def _backward(case: GuessedElement) -> Iterator[Mistake]:
    """Yield the two factors of a link of the chain rule, each taken for their product."""
    for gradient in upstream(case.op):
        if tuple(gradient.shape) == tuple(case.value.shape):
            came = case.at(gradient, case.index)
            name = named(gradient, case.index)
            yield Mistake(came, f"That is {name}, what comes in; the local factor is still to be multiplied.")
            if came and case.right:
                yield Mistake(case.right / came, f"That is the local factor alone; times {name}, what comes in.")
    of = case.value.gradient_of
    if of is not None and tuple(of.shape) == tuple(case.value.shape):
        yield Mistake(case.at(of, case.index), f"That is {named(of, case.index)} itself, not its gradient.")
