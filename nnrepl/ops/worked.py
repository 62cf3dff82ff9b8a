"""Worked: the arithmetic of one element of an op that is computed by its text, element by element or row by row.

The formula's tree is filled with the numbers of the element and its row, so that what is shown is what is computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from nnrepl.ops.case import MOST, Case, Index, Operand, epsilon_of
from nnrepl.ops.entry import Row
from nnrepl.ops.evaluated import Decided, Defined, Definition, Line, NumberRow, OfItsRow
from nnrepl.ops.expression import Node, literal, quantity
from nnrepl.ops.numbers import element, number
from nnrepl.ops.pointwise import conjugated, formula_of
from nnrepl.ops.reader import Formula, readable

# -- ops that are computed by their text -----------------------------------------------------------------------------


class Rows:
    """The numbers of a call around some places, for a formula that is computed element by element or row by row."""

    def __init__(self, case: Case, whole: tuple[int, ...], formula: Formula, backward: bool) -> None:
        self.case, self.whole, self.formula = case, whole, formula
        row = case.entry.row
        assert row is not None
        self.row: Row = row
        self.backward = backward
        shapes = {symbol: given for symbol, given in case.bound.items() if isinstance(given, Operand)}
        self.axes = row.axes(case.bound, len(whole))
        self.tensors: dict[str, Operand] = {
            symbol: given if not row.whole or symbol in row.whole else _squeezed(given, self.axes)
            for symbol, given in shapes.items()
        }
        for symbol, given in (("y", case.y[0]), ("g", case.g[0] if case.g else None)):
            if given is not None and symbol not in self.tensors:
                self.tensors[symbol] = self._spread(given)
        self._known: dict[tuple[str, Index], Node] = {}
        self.shared = self._shared()
        # Definitions that have a number for each place of the row are shown as rows, and so is what they are made of.
        self.listed = backward and len(self.shared) < len(formula.where) and self.has_over()

    def _spread(self, given: Operand) -> Operand:
        """Return a reduced tensor with its axes back."""
        if not self.row.reduces or self.case.bound.get("keepdims", False) or not self.axes:
            return given
        return _squeezed(given, self.axes)

    def _shared(self) -> set[str]:
        """Return the definitions that are the same for a whole row."""
        found: set[str] = set()
        for name, node in self.formula.where:
            free = set(_free(node)) & (set(self.tensors) | {n for n, _ in self.formula.where})
            if free <= found and not self.row.running:
                found.add(name)
        return found

    def places(self, place: Index) -> list[Index]:
        """Return the row of a place."""
        if self.row.running:
            return self._reached(place)
        steps = [range(extent) if at in self.axes else [place[at]] for at, extent in enumerate(self.whole)]
        return list(itertools.product(*steps))

    def _first(self, place: Index) -> Index:
        """Return the first place of the row of a place."""
        return tuple(0 if at in self.axes else step for at, step in enumerate(place))

    def _reached(self, place: Index) -> list[Index]:
        at = self.axes[0]
        bound = self.case.bound
        forwards = bool(bound.get("reverse", False)) == self.backward
        own = place[at]
        inclusive = bool(bound.get("inclusive", True))
        steps = range(own + inclusive) if forwards else range(own + (not inclusive), self.whole[at])
        return [(*place[:at], step, *place[at + 1 :]) for step in steps]

    def want(self, places: Sequence[Index]) -> None:
        """Read all numbers that some places need."""
        needed = [at for place in places for at in self.places(place)] if self.has_over() else []
        used = set(self.formula.main.symbols()) | {s for _, node in self.formula.where for s in node.symbols()}
        for symbol, tensor in self.tensors.items():
            if symbol in used:
                tensor.want([tensor.own(place) for place in {*places, *needed}])

    def has_over(self) -> bool:
        """Whether a whole row takes part."""
        return any(_overs(node) for node in (self.formula.main, *(node for _, node in self.formula.where)))

    def node(self, tree: Node, place: Index) -> Node:
        """Return a tree with its numbers at one place."""
        return tree.mapped(lambda part: self._node(part, place))

    def _node(self, part: Node, place: Index) -> Node | None:
        if part.kind == "symbol":
            return self._symbol(part.text, place)
        if part.kind == "over":
            others = part.text == "Π other"
            places = [at for at in self.places(place) if not others or at != place]
            terms = tuple(self.node(part.parts[0], at) for at in places)
            if len(terms) == 1 and not others:
                return terms[0]
            label = Node("over", (self._general(part.parts[0], place),), part.text)
            return Node("series", terms, "Π" if others else part.text, label)
        if part.kind == "choice":
            chosen = part.parts[0] if self.node(part.parts[1], place).at(0.0).value else part.parts[2]
            return self.node(chosen, place)
        if part.kind == "pick":
            return self._pick(part, place)
        return None

    def _pick(self, part: Node, place: Index) -> Node:
        at = int(self.node(part.parts[1], place).at(0.0).value)
        tensor = self.tensors[part.parts[0].text]
        return tensor.node((*place[:-1], at % tensor.shape[-1]))

    def _symbol(self, name: str, place: Index) -> Node:
        if name in self.tensors:
            return self.tensors[name].node(place)
        definition = next((node for defined, node in self.formula.where if defined == name), None)
        if definition is not None:
            found = self._defined(name, definition, place)
            along = self.listed and name not in self.shared
            return replace(found, text=element(name, [place[at] for at in self.axes])) if along else found
        if name == "n":
            count = math.prod(self.whole[at] for at in self.axes)
            return Node("number", text=str(count), value=count)
        if name == "j":
            return quantity("j", place[self.axes[0]])
        given = self.case.bound[name]
        return Node("number", text=number(given), value=given) if isinstance(given, (bool, int, float, complex)) else (
            quantity(name, given))  # fmt: skip

    def _defined(self, name: str, definition: Node, place: Index) -> Node:
        key = (name, self._first(place) if name in self.shared else place)
        if key not in self._known:
            found = self.node(definition, place).at(self.epsilon)
            self._known[key] = quantity(name, found.value, found.error)
        return self._known[key]

    def _general(self, tree: Node, place: Index) -> Node:
        """Return a tree in the names of the whole row: `exp(x[0,:] − m)`."""

        def change(part: Node) -> Node | None:
            if part.kind == "symbol" and part.text in self.tensors:
                row = self.tensors[part.text].row(place, self.axes, len(self.whole), self._span(place))
                return Node("symbol", text=row)
            if part.kind == "symbol" and part.text in self.case.bound:
                return Node("symbol", text=number(self.case.bound[part.text]))
            return None

        return tree.mapped(change)

    def _span(self, place: Index) -> str:
        """Which part of its row counts at a place, as a slice."""
        if not self.row.running:
            return ":"
        at = self.axes[0]
        steps = [reached[at] for reached in self._reached(place)]
        if not steps:
            return ":0"
        start = str(steps[0]) if steps[0] else ""
        end = str(steps[-1] + 1) if steps[-1] + 1 < self.whole[at] else ""
        return f"{start}:{end}"

    @property
    def epsilon(self) -> float:
        """The precision in which the op computes."""
        return epsilon_of(*(tensor.dtype for tensor in self.tensors.values()))

    def conditions(self, place: Index) -> Iterator[Decided]:
        """Yield what decides where the formula has a choice: `c[0,1] is true`."""
        for tree in _choices(self.formula.main):
            yield Decided(self.node(tree, place))

    def definitions(self, place: Index) -> Iterator[Definition]:
        """Yield one for each definition that the formula needs, at one place."""
        needed = set(self.formula.main.symbols())
        for name, node in reversed(self.formula.where):
            needed |= set(node.symbols()) if name in needed else set()
        wanted = [(name, node) for name, node in self.formula.where if name in needed]
        if self.listed:
            yield from self._rows(wanted, place)
            return
        for name, node in wanted:
            yield Defined(name, self.node(node, place))

    def _rows(self, wanted: Sequence[tuple[str, Node]], place: Index) -> Iterator[Definition]:
        """Yield the row of numbers from which some definitions start, and each of them as one number or one row."""
        row = self.places(place)
        first = next((s for _, node in wanted for s in _below_overs(node) if s in self.tensors), None)
        if first is not None:
            tensor = self.tensors[first]
            yield NumberRow(tensor.row(place, self.axes, len(self.whole)), [tensor.at(tensor.own(at)) for at in row])
        for name, node in wanted:
            if name in self.shared:
                yield Defined(name, replace(self._defined(name, node, place), text=self._general(node, place).write()))
            else:
                values = [self._defined(name, node, at).value for at in row]
                yield NumberRow(name, values, self._general(node, place).write())


class _Squeezed(Operand):
    """A reduced tensor, addressed as if it had kept its axes."""

    def __init__(self, inner: Operand, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
        super().__init__(inner.name, shape, inner.dtype, lambda: inner.array.reshape(shape))
        self.inner, self.axes = inner, axes

    def node(self, place: Index) -> Node:
        own = self.own(place)
        short = tuple(step for at, step in enumerate(own) if at not in self.axes)
        return quantity(element(self.name, short), self.at(own))

    def row(self, place: Index, axes: Sequence[int], rank: int, span: str = ":") -> str:
        own = self.own(place)
        return element(self.name, tuple(step for at, step in enumerate(own) if at not in self.axes))


def _squeezed(given: Operand, axes: Sequence[int]) -> Operand:
    shape = list(given.shape)
    for at in axes:
        shape.insert(at, 1)
    return _Squeezed(given, tuple(shape), tuple(axes))


def _free(node: Node) -> Iterator[str]:
    """Yield the symbols of a tree that are not inside of a sum along the row."""
    if node.kind == "symbol":
        yield node.text
    if node.kind != "over":
        for part in node.parts:
            yield from _free(part)


def _below_overs(node: Node) -> Iterator[str]:
    """Yield the symbols of which whole rows are summed up."""
    if node.kind == "over":
        yield from node.symbols()
    for part in node.parts:
        yield from _below_overs(part)


def _choices(node: Node) -> Iterator[Node]:
    """Yield the conditions of a tree."""
    if node.kind == "choice":
        yield node.parts[1]
    for part in node.parts:
        yield from _choices(part)


def _overs(node: Node) -> bool:
    return node.kind == "over" or any(_overs(part) for part in node.parts)


def whole_of(case: Case) -> tuple[int, ...]:
    """Return the shape over which an op is computed: that of its operands, broadcast."""
    row = case.entry.row
    kept = row.whole if row is not None and row.whole else case.bound
    shapes = [given.shape for symbol, given in case.bound.items() if symbol in kept and isinstance(given, Operand)]
    return mx.broadcast_shapes(*shapes) if shapes else ()


def forward(case: Case, index: Index) -> Line | None:
    """One element of the result."""
    if case.entry.row is None or not readable(case.entry.text) or len(case.y) != 1:
        return None
    formula = formula_of(case.entry.text, case.bound).apart(case.names())
    rows = Rows(case, whole_of(case), formula, backward=False)
    if 0 in rows.whole:
        nothing = rows.formula.main.kind == "over" and rows.formula.main.text == "Σ"
        return Line(element(case.y[0].name, index), literal(0), remark="a sum of nothing") if nothing else None
    place = _widened(index, rows)
    if len(place) != len(rows.whole) or len(rows.places(place)) > MOST:
        return None
    rows.want([place])
    return _line(rows, element(case.y[0].name, index), [place])


def backward(case: Case, symbol: str, left: str, index: Index) -> Line | None:
    """One element of the gradient that reaches one argument.

    Args:
        symbol: The argument.
        left: What is computed, as it is written.
    """
    slope = case.entry.slopes.get(symbol)
    target = case.bound.get(symbol)
    if case.entry.row is None or slope is None or not readable(slope.text) or len(case.y) != 1:
        return None
    if not isinstance(target, Operand) or not case.g or case.g[0] is None:
        return None
    complexes = [name for name, given in {**case.bound, "y": case.y[0]}.items() if _is_complex(given)]
    formula = conjugated(formula_of(slope.text, case.bound), complexes).apart(case.names())
    if complexes and target.dtype != mx.complex64:
        formula = replace(formula, main=Node("call", (formula.main,), "Re"))
    rows = Rows(case, whole_of(case), formula, backward=True)
    places = used_at(index, rows.tensors[symbol].shape, rows.whole)
    if len(places) * (len(rows.places(places[0])) if places and rows.has_over() else 1) > MOST:
        return None
    rows.want(places)
    return _line(rows, left, places)


def _is_complex(given: Any) -> bool:
    return isinstance(given, complex) or (isinstance(given, Operand) and given.dtype == mx.complex64)


def _widened(index: Index, rows: Rows) -> Index:
    """Return an element of a reduced result as a place of what went in."""
    if not rows.row.reduces or rows.case.bound.get("keepdims", False):
        return index
    place = list(index)
    for at in rows.axes:
        place.insert(at, 0)
    return tuple(place)


def _line(rows: Rows, left: str, places: Sequence[Index]) -> Line:
    nodes = [rows.node(rows.formula.main, at) for at in places]
    if len(nodes) != 1:
        names = tuple(name for name, _ in rows.formula.where)
        said = (OfItsRow(names),) if names else ()
        return Line(left, Node("series", tuple(nodes), "Σ"), said, rows.epsilon)
    before = (*rows.definitions(places[0]), *rows.conditions(places[0]))
    return Line(left, nodes[0], before, rows.epsilon)


def used_at(index: Index, own: tuple[int, ...], whole: tuple[int, ...]) -> list[Index]:
    """Return the places at which one element of a broadcast operand was used."""
    extra = len(whole) - len(own)
    steps = []
    for axis, extent in enumerate(whole):
        at = axis - extra
        repeated = at < 0 or (own[at] == 1 and extent != 1)
        steps.append(range(extent) if repeated else [index[at]])
    return list(itertools.product(*steps))
