"""Doing: what the op at which one stops does: its formula in the program's names, and one element with numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import in_numbers as worked
from nnrepl.explain import words
from nnrepl.explain.cases import Names, named_by, names_for
from nnrepl.explain.elements import Index, named, telling
from nnrepl.explain.known import MOVE, Entry, bind, entry_for
from nnrepl.explain.local import symbol_of, written
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.ops import Trait, has
from nnrepl.ops.evaluated import Worked
from nnrepl.ops.numbers import element
from nnrepl.ops.reader import readable
from nnrepl.record.bounds import outside
from nnrepl.session.expressions import aside
from nnrepl.session.reading import Reading
from nnrepl.tape import Op, Value

LONGEST = 60
"""Formulas beyond this many characters give way to the call: `softmax(scores)`."""
SPELLED = 26
"""Results without a name are written out up to this length: `x @ weights1`."""
_TERMS = 4
"""Of a long sum, so many terms are written out."""
HEAVY = 1 << 17
"""One element is worked out where no tensor that takes part has more elements."""


@dataclass(frozen=True, slots=True)
class Equation:
    """One result of an op.

    Attributes:
        value: The result.
        left: What it is called; "" if it has no name.
        right: How it comes about: `(x @ weights1) + bias1`.
        element: Which element the numbers are of, `z1[0,1]`; "" for the only one.
        arithmetic: Its numbers, which were held against MLX's; None where they are not there, or nothing can be said.
        known: Whether the result has been computed.
    """

    value: Value
    left: str
    right: str
    element: str = ""
    arithmetic: Worked | None = None
    known: bool = False

    @property
    def number(self) -> str:
        """The element's number; "" where there are none."""
        return "" if self.arithmetic is None else words.number(self.arithmetic.result)


@dataclass(frozen=True, slots=True)
class Doing:
    """What an op does.

    Attributes:
        op: The op.
        through: For a backward op, the forward op that the gradient goes back through: `square(y_pred - y_true)`.
        equations: Its results, as far as there is something to say of them.
        is_asked: Whether the user is to say what comes out, its shape too.
    """

    op: Op
    through: str
    equations: tuple[Equation, ...]
    is_asked: bool = False

    @property
    def is_worked(self) -> bool:
        """Whether there are numbers."""
        return any(equation.arithmetic is not None for equation in self.equations)


def doing(session: Reading, op: Op, numbers: bool = True) -> Doing:
    """Return what an op does.

    Args:
        numbers: Whether to work out an element, where everything that takes part is there, or small enough to be
            looked at unasked.
    """
    entry, names = entry_for(op), named_by(Spelled, op)
    back = rule_of(op) is not None
    values = [value for value in op.outputs if not back or value.gradient_of is not None]
    is_asked = numbers and session.predicting
    look = _look(session, op) if numbers and not is_asked and op.error is None else None
    equations = [_equation(look, op, entry, names, value) for value in values[:MOST]]
    through = called(op.of, names) if back and op.of is not None else ""
    return Doing(op, through, tuple(equations), is_asked)


MOST = 3
"""Of an op with more results (a split), so many are shown."""


class Spelled(Names):
    """Names in which a short result without one is written out as the program computed it."""

    def __call__(self, value: Value) -> str:
        """Return the name of a value, or `x @ weights1`."""
        return self.plain(value) if value in self._own else spelled(value, self.plain(value))

    def plain(self, value: Value) -> str:
        """Return the name of a value, or its number."""
        return super().__call__(value)


def spelled(value: Value, name: str) -> str:
    """Return a value's name; one without is written out if that is short: `x @ weights1`."""
    op = value.op
    if not name.startswith("#") or op is None or op.of is not None or len(op.outputs) != 1:
        return name
    if has(op.name, Trait.CASTS) and op.inputs[0].dtype == value.dtype:  # it is what it was
        return spelled(op.inputs[0], op.called(op.inputs[0]))
    text = words.call(op).replace(" * ", " · ")
    return text if len(text) <= SPELLED and "#" not in text and text != op.name else name


def called(op: Op, names: Names) -> str:
    """Return a forward op with its operands: `square(y_pred - y_true)`, `(x @ weights1) + bias1`."""
    between = (op.operation.infix or op.name == "matmul") and len(op.args) == 2

    def one(value: Value) -> str:
        text = names(value)
        return f"({text})" if between and " " in text else text

    return words.call(op, one).replace(" * ", " · ")


def label_of(value: Value) -> str:
    """Return what a result is called: its name, or `#1  x @ weights1`."""
    text = spelled(value, value.name)
    label = text if text == value.name else f"{value.name}  {text}"
    return f"part of {label}" if value.gradient_of is not None and is_part(value) else label


# -- formulas ------------------------------------------------------------------------------------------------------


def _equation(look: Look | None, op: Op, entry: Entry | None, names: Spelled, value: Value) -> Equation:
    left = names.plain(value)
    right = _gradient(op, entry, names, value) if rule_of(op) is not None else _result(op, entry, names)
    if value.gradient_of is not None and is_part(value):
        left = f"part of {left}"
    left = "" if left.startswith("#") and left == op.label else left
    if look is None or (entry is None and op.operation.kind != "accumulate") or _without_rule(op):
        return Equation(value, left, right)
    if (entry is not None and entry.kind == MOVE) or not value.size:
        return Equation(value, left, right)
    place = _telling(look, op, value)
    at = "" if value.size == 1 else element(names_for(op)(value), place)
    return Equation(value, left, right, at, _worked(look, op, entry, value, place), value.evaluated)


def _worked(look: Look, op: Op, entry: Entry | None, value: Value, place: Index) -> Worked | None:
    names = names_for(op)
    if rule_of(op) is not None or op.operation.kind == "accumulate":
        return worked.backward(look, op, value, place, names)
    return None if entry is None else worked.forward(look, op, entry, value, place, names)


def in_numbers(look: Look, value: Value, index: Index) -> str:
    """`z1[0,1] = −2 + 0.5 = −1.5`: how one element comes about, in a line; "" where there is nothing to work out."""
    op = value.op
    if op is None or op.error is not None or value.size > HEAVY or _without_rule(op):
        return ""
    entry = entry_for(op)
    found = None if entry is not None and entry.kind == MOVE else _worked(look, op, entry, value, index)
    numbers = "" if found is None else found.numbers(_TERMS)
    if found is None or numbers == words.number(found.result):
        return ""
    name = names_for(op)(value)
    return f"{element(name, index) if value.size > 1 else name} = {numbers} = {words.number(found.result)}"


def _without_rule(op: Op) -> bool:
    """Whether it is a backward op of which only the results are known: of a tape that an older nnrepl saved."""
    return op.of is not None and rule_of(op) is None and op.operation.kind != "accumulate"


def _result(op: Op, entry: Entry | None, names: Spelled) -> str:
    if op.operation.kind == "accumulate":
        return " + ".join(_sides(op, names))
    if entry is not None and op.inputs and readable(entry.text) and op.operation.kind != "edit" and op.of is None:
        text = written(entry, op, entry.text, names)
        if len(text) <= LONGEST and ",  " not in text:
            return text
    return called(op, names)


def _sides(op: Op, names: Spelled) -> list[str]:
    """Return what is added up: the parts of a gradient, each by the op that made it."""
    found = [names.plain(value) for value in op.inputs]
    return found if len(set(found)) == len(found) else [_address(value) for value in op.inputs]


def _gradient(op: Op, entry: Entry | None, names: Spelled, value: Value) -> str:
    """How a gradient comes from the one that arrives: `∂L/∂a1 · [z1 > 0]`."""
    forward, of, rule = op.of, value.gradient_of, rule_of(op)
    if forward is None or of is None or rule is None:
        return ""
    given = upstream(op)[: len(rule.outputs)]
    arrives = " and ".join(names.plain(one) for one in given)
    texts = _slopes(entry, forward, of, names, arrives) if entry is not None and len(given) == 1 else []
    if not texts:
        return f"{arrives}, back through {forward.name}"
    so_far = [_address(one) for one in upstream(op)[len(rule.outputs) :] if one.gradient_of is of]
    summed = of.size < forward.outputs[0].size and entry is not None and entry.row is not None
    text = f"{'Σ ' if summed else ''}{' + '.join(texts)}"
    if len(text) > LONGEST or ",  " in text:
        text = f"{arrives}, back through {forward.name}"
    return " + ".join([*so_far, text])


def _slopes(entry: Entry, forward: Op, of: Value, names: Spelled, arrives: str) -> list[str]:
    """Return what an op does to the gradient that arrives, on each way in which it takes a value."""
    symbol = symbol_of(entry, forward, of)
    ways = [
        one
        for one, taken in bind(entry, forward).items()
        if isinstance(taken, Value) and taken.canonical is of.canonical and one in entry.slopes
    ]
    ways = ways or [symbol for symbol in [symbol] if symbol is not None and symbol in entry.slopes]
    return [written(entry, forward, entry.slopes[one].text, names, arrives) for one in ways]


def _address(value: Value) -> str:
    """Return a part of a gradient by the op that made it."""
    return value.name if value.op is None else value.op.label if not value.slot else f"{value.op.label}.{value.slot}"


def is_part(value: Value) -> bool:
    """Whether a gradient is only a part of a sum that is not complete with it."""
    op, of = value.op, value.gradient_of
    grads = op.pass_.grads.get(of.canonical, []) if of is not None and op is not None else []
    return len(grads) > 1 and grads[-1] is not value


# -- numbers -------------------------------------------------------------------------------------------------------


class _Ahead(Look):
    """Sees the results of an op as well before it has run: they are computed on the side, and the op stays lazy."""

    def __init__(self, session: Reading, op: Op) -> None:
        super().__init__(session)
        self._given: dict[Value, mx.array] = {}
        if not all(value.evaluated for value in op.outputs):
            with aside():
                self._given = dict(zip(op.outputs, op.compute(lambda value: value.array)))

    def see(self, values: Iterable[Value]) -> None:
        """Give values their numbers."""
        super().see(value for value in values if value not in self._given)

    def array(self, value: Value) -> mx.array:
        """Return the numbers of a value."""
        return self._given[value] if value in self._given else super().array(value)


def _look(session: Reading, op: Op) -> Look | None:
    """Something that sees all that takes part in an op; None if that is not there, and not small."""
    if not session.settings["peek"] or (entry_for(op) is None and op.operation.kind != "accumulate"):
        return None
    taken = _taken(op)
    if any(value.size > HEAVY or value.refusal for value in (*taken, *op.outputs)):
        return None
    if session.small(list(op.outputs)) and session.small(taken):
        session.evaluate(taken)
    elif not all(value.evaluated for value in taken):
        return None
    with aside():
        return _Ahead(session, op) if outside([op]) is None else None


def _taken(op: Op) -> list[Value]:
    forward = op.of
    more: Sequence[Value] = () if forward is None else (*forward.inputs, *forward.outputs)
    return list(dict.fromkeys((*op.inputs, *more)))


def _telling(look: Look, op: Op, value: Value) -> Index:
    """Return the element to be worked out; where all of a gradient is 0, the one at which the most comes in."""
    given = upstream(op) if op.phase == "backward" and rule_of(op) is not None else ()
    array = look.array(value)
    if given and given[0].shape == value.shape:
        with aside():
            if not look.numbers([mx.any(array != 0)])[0]:
                return telling(look, given[0])
    return telling(look, value)


__all__ = ["Doing", "Equation", "called", "doing", "in_numbers", "is_part", "label_of", "named", "spelled"]
