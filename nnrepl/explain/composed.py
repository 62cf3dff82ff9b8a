"""Composed: one number of a call out of several ops, as one expression in the names that the program gave."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nnrepl.explain.cases import Names, case_of, operand
from nnrepl.explain.elements import Index
from nnrepl.explain.known import Entry, entry_for
from nnrepl.explain.look import Look
from nnrepl.ops import ELEMENTWISE, worked
from nnrepl.ops.case import Case, Operand, epsilon_of
from nnrepl.ops.evaluated import Line, Worked, worked_out
from nnrepl.ops.expression import Node
from nnrepl.ops.numbers import element
from nnrepl.ops.reader import readable
from nnrepl.session.expressions import aside
from nnrepl.tape import Op, Value

_LONGEST = 12
"""An expression of more numbers than this is not read any more."""
_LINES = 3


class _Inner(Operand):
    """A tensor without a name of its own: it is written as what it is made of."""

    def __init__(self, own: Operand, composed: _Composed, value: Value) -> None:
        super().__init__(own.name, own.shape, own.dtype, lambda: own.array, value.canonical)
        self._composed, self._value = composed, value

    def node(self, place: Index) -> Node:
        found = self._composed.node(self._value, self.own(place))
        return super().node(place) if found is None else found


class _Composed:
    """Expressions of the elements of what some ops make.

    Attributes:
        named: The values that occur in them by their names, as they are come by, each with its element.
    """

    def __init__(self, look: Look, ops: Collection[Op], names: Names) -> None:
        self.look, self.names = look, names
        self.ops = set(ops)
        self.named: dict[Value, Index] = {}

    def node(self, value: Value, place: Index) -> Node | None:
        """Return one element of what an elementwise op makes; None if it has to stand for itself."""
        op = value.op
        entry = elementwise(op)
        if op is None or entry is None:
            return None
        case = case_of(self.look, op, entry, self.names)
        known = {one.canonical: one for one in op.inputs}

        def part(given: object) -> object:
            if not isinstance(given, Operand):
                return given
            taken = next(one for one in known.values() if given.holds(one.canonical))
            if not self._is_inner(taken):
                self.named.setdefault(taken, given.own(place))
                return given
            return _Inner(given, self, taken)

        bound = {symbol: part(given) for symbol, given in case.bound.items()}
        line = worked.forward(Case(entry, bound, [operand(self.look, value, self.names)]), place)
        return None if line is None or line.before else line.node

    def _is_inner(self, value: Value) -> bool:
        return value.op in self.ops and self.names(value).startswith("#") and elementwise(value.op) is not None


def elementwise(op: Op | None) -> Entry | None:
    """Return what is known of an op that computes each number from those at the same place; None for any other."""
    entry = None if op is None else entry_for(op)
    if op is None or entry is None or entry.kind != ELEMENTWISE or entry.row is None or not readable(entry.text):
        return None
    plain = op.error is None and len(op.outputs) == 1 and op.operation.kind == "op" and op not in op.tape.notes.mapped
    return entry if plain and not any(one.refusal for one in (*op.inputs, *op.outputs)) else None


def composed(look: Look, ops: Sequence[Op], value: Value, place: Index, names: Names) -> list[Worked]:
    """Return one element of a value that some ops make, and before it those of the values that it is made of, as far as
    they were made element by element; nothing where that is not MLX's number."""
    found: list[Worked] = []
    wanted: dict[Value, Index] = {value: place}
    own = _Composed(look, ops, names)
    while wanted and len(found) < _LINES:
        last = max(wanted, key=lambda one: one.op.position if one.op is not None else -1)
        index = wanted.pop(last)
        if last.op not in own.ops or elementwise(last.op) is None:
            continue
        own.named = {}
        one = _line(own, last, index)
        if one is not None:
            found.insert(0, one)
            wanted.update(own.named)
        elif last is value:
            return []
    return found


def _line(own: _Composed, value: Value, place: Index) -> Worked | None:
    own.look.see([value])
    with aside():
        node = own.node(value, place)
        if node is None or sum(1 for part in node.walk() if part.kind in ("quantity", "number")) > _LONGEST:
            return None
        line = Line(element(own.names(value), place), node, epsilon=2 * epsilon_of(value.dtype))
        return worked_out(line, operand(own.look, value, own.names), place)
