"""Surprise: cross-entropy as a whole with its numbers, forwards and backwards: the shares, −ln of the share of the
right answer, and shares less what is wanted. Shown only where it comes to the numbers that MLX has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.cases import operand
from nnrepl.explain.known import bind, entry_for
from nnrepl.explain.look import Look
from nnrepl.ops import Trait, has
from nnrepl.ops.bilinear import product_of
from nnrepl.ops.evaluated import Evaluated, Line, NumberRow, ReadNumber, worked_out
from nnrepl.ops.expression import Node, literal, quantity
from nnrepl.ops.layers import CROSS_ENTROPIES, Whole
from nnrepl.ops.numbers import element, number, unravel
from nnrepl.tape import Op, Pass, Value

_CLOSE = 1e-4
_COARSE = 2e-2
Called = Callable[[Value], str]
Place = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """A cross-entropy of `nn.losses`.

    Attributes:
        logits: The numbers before the softmax.
        targets: The right answers: their places along `axis`, or a share for each class.
        loss: The loss of each row, before weights and a mean.
        axis: Along which axis of the logits the classes lie.
        smoothing: What part of the wanted shares is spread over all classes.
    """

    logits: Value
    targets: Value
    loss: Value
    axis: int
    smoothing: float

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.logits.shape[self.axis]

    @property
    def by_place(self) -> bool:
        """Whether the targets are places, and not shares."""
        return self.targets.shape == self.loss.shape and self.targets.shape != self.logits.shape

    @property
    def rule(self) -> Whole:
        """What it computes: right answers by their places, by shares, or smoothed."""
        return CROSS_ENTROPIES["smoothed" if self.smoothing else "places" if self.by_place else "shares"]

    @property
    def rough(self) -> float:
        """How far a share computed here may be off from MLX's, in parts of it."""
        return _COARSE if self.logits.dtype in (mx.float16, mx.bfloat16) else _CLOSE

    def row(self, name: str, place: Place) -> str:
        """Return a row of the logits, or of targets of their shape: `logits[1,:]`."""
        steps = [*map(str, place)]
        steps.insert(self.axis, ":")
        return f"{name}[{','.join(steps)}]"

    def take(self, array: mx.array, place: Place) -> mx.array:
        """Return the numbers of a row, in float32."""
        row = mx.moveaxis(array, self.axis, -1)
        return (row[place] if place else row).astype(mx.float32)


def find(ops: Iterable[Op]) -> CrossEntropy | None:
    """Return the cross-entropy that the ops of a call make; None where they make something else."""
    own = list(ops)
    made = set(own)
    taken = [value for op in own for value in op.inputs if value.op not in made]
    floats = [value for value in taken if mx.issubdtype(value.dtype, mx.floating)]
    fused = next((op for op in own if has(op.name, Trait.SURPRISE)), None)
    if fused is not None:
        given, places = fused.inputs[:2]
        return _whole(given, places, fused.outputs[0], len(given.shape) - 1, 0.0)
    total = next((op for op in own if has(op.name, Trait.LOG_SUM) and has(op.name, Trait.REDUCES)), None)
    end = None if total is None else next(
        (op for op in own if has(op.name, Trait.DIFFERENCE) and op.inputs[:1] == (total.outputs[0],)),
        None)  # fmt: skip
    entry = None if total is None else entry_for(total)
    if total is None or end is None or entry is None:
        return None
    axis = bind(entry, total).get("axis")
    shape = total.inputs[0].shape
    logits = next((value for value in floats if value.shape == shape), None)
    if not isinstance(axis, int) or logits is None:
        return None
    axis %= len(shape)
    targets = _targets(own, taken, logits, end)
    smoothing = _smoothing(own)
    loss = end.outputs[0]
    if smoothing:
        loss = next((op.outputs[0] for op in own if has(op.name, Trait.SUM) and loss in op.inputs), loss)
    return None if targets is None else _whole(logits, targets, loss, axis, smoothing)


def _whole(logits: Value, targets: Value, loss: Value, axis: int, smoothing: float) -> CrossEntropy | None:
    if not loss.size or any(one.refusal for one in (logits, targets, loss)):
        return None
    return CrossEntropy(logits, targets, loss, axis, smoothing)


def _targets(own: list[Op], taken: list[Value], logits: Value, end: Op) -> Value | None:
    """Return the right answers: what picks from the logits, or is multiplied with them."""
    shape = end.outputs[0].shape
    if any(has(op.name, Trait.LOOKS_UP) for op in own):
        return next((v for v in taken if mx.issubdtype(v.dtype, mx.integer) and v.shape == shape), None)
    return next((v for v in taken if v is not logits and v.shape == logits.shape), None)


def _smoothing(own: list[Op]) -> float:
    """Return the number by which the mean of the logits is multiplied."""
    means = {value for op in own if has(op.name, Trait.AVERAGES) for value in op.outputs}
    turned = {value for op in own if has(op.name, Trait.NEGATES) and op.inputs[0] in means for value in op.outputs}
    for op in own:
        if has(op.name, Trait.MULTIPLIES) and op.inputs and op.inputs[0] in turned:
            return next((float(given) for given in op.args if isinstance(given, float)), 0.0)
    return 0.0


def around(pass_: Pass | None, logits: Value) -> CrossEntropy | None:
    """Return the cross-entropy of a pass that takes some logits; None where none does."""
    calls: dict[object, list[Op]] = {}
    for op in () if pass_ is None else pass_.forward:
        for step in op.scope.path() if op.scope is not None else ():
            if step.code.co_name == "cross_entropy" and step.code.co_filename.replace("\\", "/").endswith("losses.py"):
                calls.setdefault(step, []).append(op)
    found = (find(ops) for ops in calls.values())
    return next((one for one in found if one is not None and one.logits.canonical is logits.canonical), None)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The numbers of one row: its logits, their exponentials after the largest was taken out, shares, what is wanted,
    the right answer (−1: there is no single one), the loss."""

    row: list[float]
    exponentials: list[float]
    shares: list[float]
    wanted: list[float]
    target: int
    loss: float


def _numbers(look: Look, whole: CrossEntropy, place: Place) -> _Numbers | None:
    """Return the numbers of a row; None where they do not give MLX's loss."""
    look.see([whole.logits, whole.targets, whole.loss])
    row = whole.take(whole.logits.array, place)
    classes, target = whole.classes, -1
    if whole.by_place:
        at = whole.targets.array[place] if place else whole.targets.array
        target = int(look.numbers([at])[0])
        if not 0 <= target < classes:
            return None
        wanted = (mx.arange(classes) == target).astype(mx.float32)
    else:
        wanted = whole.take(whole.targets.array, place)
    wanted = (1 - whole.smoothing) * wanted + whole.smoothing / classes
    raised = mx.exp(row - mx.max(row))
    loss = (whole.loss.array[place] if place else whole.loss.array).astype(mx.float32)
    numbers = look.numbers([row, raised, mx.softmax(row), wanted, loss])
    found = _Numbers(numbers[0], numbers[1], numbers[2], numbers[3], target, numbers[4])
    terms = [-want * math.log(share) for want, share in zip(found.wanted, found.shares) if want and share > 0]
    half = whole.logits.dtype in (mx.float16, mx.bfloat16)
    return found if _same(sum(terms), found.loss, 1.0, _COARSE if half else _CLOSE) else None


def largest(look: Look, whole: CrossEntropy) -> Place:
    """Return the row with the largest loss."""
    look.see([whole.loss])
    return unravel(int(look.numbers([mx.argmax(whole.loss.array)])[0]), whole.loss.shape)


def forward(look: Look, whole: CrossEntropy, place: Place, called: Called = words.name) -> list[Evaluated]:
    """Return a row: its shares, and −ln of that of the right answer; nothing where that is not MLX's loss."""
    found = _numbers(look, whole, place)
    if found is None:
        return []
    row = whole.row(called(whole.logits), place)
    targets, loss = operand(look, whole.targets, called), operand(look, whole.loss, called)
    told: list[Evaluated] = [
        NumberRow(row, found.row),
        NumberRow(f"exp({row} − {number(max(found.row))})", found.exponentials,
                  remark=f"together {number(sum(found.exponentials))}"),
        NumberRow("shares", found.shares, f"softmax({row})"),
    ]  # fmt: skip
    share = [quantity(element("shares", (at,)), one, whole.rough * one) for at, one in enumerate(found.shares)]
    logarithms = [Node("call", (one,), "ln") for one in share]
    node = Node("negative", (logarithms[found.target],))
    if found.target >= 0:
        told.append(ReadNumber(targets, place, "the right answer"))
    if found.target < 0 or whole.smoothing:
        wanted, name = found.wanted, whole.row(called(whole.targets), place)
        if whole.smoothing:
            name = "wanted"
            spread = f"the right shares, {number(whole.smoothing)} of them spread evenly"
            told.append(NumberRow(name, wanted, spread))
        else:
            told.append(NumberRow(name, wanted))
        terms = tuple(product_of(literal(want), one) for want, one in zip(wanted, logarithms) if want)
        node = Node("negative", (Node("series", terms, "Σ", Node("symbol", text=f"Σ {name} · ln(shares)")),))
    left = element(called(whole.loss), place)
    ends = worked_out(Line(left, node, epsilon=whole.rough, is_brief=True), loss, place)
    return [] if ends is None else [*told, ends]


def backward(
    look: Look, whole: CrossEntropy, gradient: Value, arrives: Value, place: Place, called: Called = words.name
) -> list[Evaluated]:
    """One element of the gradient of the logits: its share, less what is wanted, times what arrives."""
    if arrives.shape != whole.loss.shape or gradient.shape != whole.logits.shape:
        return []
    column = place[whole.axis]
    row = (*place[: whole.axis], *place[whole.axis + 1 :])
    found = _numbers(look, whole, row)
    if found is None:
        return []
    name = element("shares", (column,))
    told: list[Evaluated] = [
        NumberRow("shares", found.shares, f"softmax({whole.row(called(whole.logits), row)})", mark=column)
    ]
    share = quantity(name, found.shares[column], whole.rough)
    node: Node = share
    targets = operand(look, whole.targets, called)
    if found.target < 0 or whole.smoothing:
        spread = quantity(f"wanted[{column}]", found.wanted[column])
        node = Node("sum", (share, targets.node(place) if found.target < 0 and not whole.smoothing else spread), "+−")
        if whole.smoothing:
            told.append(NumberRow("wanted", found.wanted, mark=column))
    else:
        right = column == found.target
        told.append(ReadNumber(targets, row, f"so class {column} is {'' if right else 'not '}the right answer"))
        node = Node("sum", (share, Node("number", text="1", value=1)), "+−") if right else share
    times = operand(look, arrives, called).node(row)
    line = Line(element(called(gradient), place), product_of(node, times), epsilon=whole.rough)
    ends = worked_out(line, operand(look, gradient, called), place)
    return [] if ends is None else [*told, ends]


def whole_backward(look: Look, whole: CrossEntropy, row: Place, called: Called = words.name) -> list[Evaluated]:
    """Return the gradient of the logits at the right answer of a row (the first class, where there is no single one);
    nothing where none has been taken."""
    grads = [] if whole.loss.op is None else whole.loss.op.tape.passes
    pairs = [
        (logits[-1], losses[-1]) for pass_ in grads
        if (logits := pass_.grads.get(whole.logits.canonical)) and (losses := pass_.grads.get(whole.loss.canonical))
    ]  # fmt: skip
    found = _numbers(look, whole, row)
    if not pairs or found is None:
        return []
    column = max(found.target, 0)
    place = (*row[: whole.axis], column, *row[whole.axis :])
    return backward(look, whole, *pairs[-1], place, called)


def _same(a: float, b: float, size: float, close: float) -> bool:
    return abs(a - b) <= close * max(abs(a), abs(b)) + 0.01 * close * size
