"""Rules: how people go wrong with single ops, forwards and backwards. `wrong_products` has those of matrix products."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.elements import named, unravel
from nnrepl.explain.paths import upstream
from nnrepl.learn.mistakes import FEW, GuessedElement, Mistake, number_of, rule
from nnrepl.session.expressions import aside

# -- forward ---------------------------------------------------------------------------------------------------------


@rule("add")
def _add(case: GuessedElement) -> Iterator[Mistake]:
    operands = case.operands()
    if len(operands) == 2:
        (a, x), (b, y) = operands
        yield Mistake(x, f"You forgot to add {b}.")
        yield Mistake(y, f"That is {b} alone; {a} belongs to it.")
        yield Mistake(x - y, f"{b} is added, not subtracted.")


@rule("subtract")
def _subtract(case: GuessedElement) -> Iterator[Mistake]:
    operands = case.operands()
    if len(operands) != 2:
        return
    (a, x), (b, y) = operands
    if case.op.phase == "update":
        yield Mistake(x + y, f"That goes up the slope. The step goes against it: {a} − {b}.")
    yield Mistake(x + y, f"{b} is subtracted, not added.")
    yield Mistake(y - x, f"The other way round: {a} − {b}.")
    yield Mistake(x, f"You forgot to subtract {b}.")
    yield Mistake(y, f"That is {b} alone.")


@rule("multiply")
def _multiply(case: GuessedElement) -> Iterator[Mistake]:
    operands = case.operands()
    if len(operands) == 2:
        (a, x), (b, y) = operands
        yield Mistake(x, f"You forgot the factor {b}.")
        yield Mistake(y, f"You forgot the factor {a}.")
        yield Mistake(x + y, f"{a} and {b} are multiplied, not added.")


@rule("divide")
def _divide(case: GuessedElement) -> Iterator[Mistake]:
    operands = case.operands()
    if len(operands) == 2:
        (a, x), (b, y) = operands
        yield Mistake(x, f"You forgot to divide by {b}.")
        yield Mistake(x * y, f"It is divided by {b}, not multiplied.")
        if x:
            yield Mistake(y / x, f"The other way round: {a} / {b}.")


@rule("maximum")
def _maximum(case: GuessedElement) -> Iterator[Mistake]:
    operands = case.operands()
    if len(operands) == 2:
        if len(case.op.inputs) == 2:
            yield Mistake(min(x for _, x in operands), "That is the smaller of the two; it is the larger.")
        for a, x in operands:
            if x < 0:
                yield Mistake(-x, f"{a} is negative: ReLU makes 0 of it, not its absolute value.")


@rule("square")
def _square(case: GuessedElement) -> Iterator[Mistake]:
    for a, x in case.operands()[:1]:
        yield Mistake(2 * x, f"That is {a} doubled; squared it is {a} · {a}.")
        yield Mistake(-x * x, "A square is never negative.")


@rule("mean")
def _mean(case: GuessedElement) -> Iterator[Mistake]:
    count = case.op.inputs[0].size // max(case.value.size, 1)
    if count > 1:
        yield Mistake(case.right * count, f"That is the sum; the mean is divided by their number, {count}.")
        yield Mistake(case.right / count, f"That is divided by {count} twice.")


@rule("sum")
def _sum(case: GuessedElement) -> Iterator[Mistake]:
    count = case.op.inputs[0].size // max(case.value.size, 1)
    if count > 1:
        yield Mistake(case.right / count, "That is the mean; the sum is not divided.")


@rule("mean", "sum")
def _some_of_it(case: GuessedElement) -> Iterator[Mistake]:
    taken = case.op.inputs[0]
    if case.value.size == 1 and 1 < taken.size <= FEW:
        share = taken.size if case.op.name == "mean" else 1
        for place in range(taken.size):
            index = unravel(place, taken.shape)
            number = case.at(taken, index)
            yield Mistake(case.right - number / share, f"You forgot {named(taken, index)} in the sum.")
            yield Mistake(number, f"That is {named(taken, index)} alone.")


@rule("softmax")
def _softmax(case: GuessedElement) -> Iterator[Mistake]:
    taken = case.op.inputs[0]
    axis = int(case.op.kwargs.get("axis", case.op.args[1] if len(case.op.args) > 1 else -1) or -1) % len(taken.shape)
    x = case.at(taken, case.index)
    with aside():
        wide = case.look.array(taken).astype(mx.float32)
        if abs(x) < 80:
            power = number_of(mx.exp(wide[case.index]))
            yield Mistake(power, f"That is e to the power of {named(taken, case.index)}; it is still to be divided by "
                                 "the sum of all these powers.")  # fmt: skip
        first = tuple(0 if k == axis else at for k, at in enumerate(case.index))
        total = number_of(wide.sum(axis, keepdims=True)[first])
        if total:
            yield Mistake(x / total, "That divides the numbers themselves; softmax takes e to the power of each first.")
        if len(taken.shape) > 1:
            other = number_of(mx.softmax(wide, axis=axis - 1)[case.index])
            yield Mistake(other, "That adds up to 1 along the wrong axis.")
    yield Mistake(1.0 / taken.shape[axis], "That is what each would get if all were equal.")


@rule("log")
def _log(case: GuessedElement) -> Iterator[Mistake]:
    for a, x in case.operands()[:1]:
        if x > 0:
            yield Mistake(
                case.right / 2.302585092994046, f"That is the logarithm of {a} to base 10; here it is to base e."
            )


# -- backward --------------------------------------------------------------------------------------------------------


@rule("vjp of mean")
def _mean_back(case: GuessedElement) -> Iterator[Mistake]:
    count = case.value.size
    if count > 1:
        yield Mistake(case.right * count, f"Each of the {count} has only its share, 1/{count}, in the mean.")


@rule("vjp of square")
def _square_back(case: GuessedElement) -> Iterator[Mistake]:
    yield Mistake(case.right / 2, "The slope of x² is 2·x: the 2 is missing.")
    of = case.value.gradient_of
    if of is not None:
        yield Mistake(2 * case.at(of, case.index), "That is 2·x alone, without what comes in.")


@rule("vjp of maximum")
def _maximum_back(case: GuessedElement) -> Iterator[Mistake]:
    for gradient in upstream(case.op):
        if not case.right and tuple(gradient.shape) == tuple(case.value.shape):
            name = words.name(case.op.of.inputs[0]) if case.op.of is not None else "its input"
            said = f"ReLU lets a gradient through only where {name} is positive; here it is not."
            yield Mistake(case.at(gradient, case.index), said)
