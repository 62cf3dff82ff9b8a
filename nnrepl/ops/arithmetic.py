"""Arithmetic: one element of any op, forwards and backwards, as lines that were held against MLX's number."""

from __future__ import annotations

from nnrepl.ops import moved as moves
from nnrepl.ops import worked
from nnrepl.ops.case import Case, Index, Operand
from nnrepl.ops.entry import MOVE
from nnrepl.ops.evaluated import Definition, Line, Worked, worked_out
from nnrepl.ops.expression import Node, quantity
from nnrepl.ops.numbers import element


def forward(case: Case, slot: int, index: Index) -> Worked | None:
    """How one element of a result was computed; None where nothing that was checked can be said."""
    return worked_out(_forward(case, slot, index), case.y[slot], index)


def _forward(case: Case, slot: int, index: Index) -> Line | None:
    if case.entry.forwards is not None:
        found: Line | None = case.entry.forwards(case, slot, index)
        if found is not None:
            return found
    if case.entry.kind == MOVE:
        return moves.forward(case, slot, index)
    return worked.forward(case, index)


def backward(case: Case, of: Operand, gradient: Operand, index: Index, so_far: Operand | None) -> Worked | None:
    """How one element of a gradient was computed: a part for each way in which the op used the tensor.

    Args:
        of: The operand that it is the gradient of.
        so_far: What had arrived before, where MLX continues a gradient.
    """
    left = element(gradient.name, index)
    parts = [_backward(case, symbol, of, left, index) for symbol in _symbols(case, of)]
    if not parts or any(part is None for part in parts):
        return None
    lines = [part for part in parts if part is not None]
    nodes = [part.node for part in lines]
    if so_far is not None:
        nodes.insert(0, quantity(element(so_far.name, index), so_far.at(index)))
    if len(nodes) == 1:
        return worked_out(lines[0], gradient, index)
    before = _together(lines)
    whole = Node("series", tuple(nodes), "Σ")
    return worked_out(Line(left, whole, before, max(part.epsilon for part in lines)), gradient, index)


def _together(lines: list[Line]) -> tuple[Definition, ...]:
    """Return what is defined before the parts of a gradient, each once; nothing where they mean two things by one
    name."""
    found: dict[str, tuple[str, Definition]] = {}
    for one in (given for line in lines for given in line.before):
        text = " ".join(one.lines())
        name = text.partition(" = ")[0]
        if found.setdefault(name, (text, one))[0] != text:
            return ()
    return tuple(one for _, one in found.values())


def _symbols(case: Case, of: Operand) -> list[str]:
    """Return the arguments that are one tensor."""
    if case.entry.kind == MOVE:
        return [""] if of in case.operands() else []
    found = []
    for symbol, given in case.bound.items():
        if given is of and (symbol in case.entry.slopes or case.entry.backwards is not None):
            found.append(symbol)
        elif isinstance(given, list) and of in given and case.entry.name == "einsum":
            found.extend(letter for letter, one in zip("ab", given) if one is of)
    return found


def _backward(case: Case, symbol: str, of: Operand, left: str, index: Index) -> Line | None:
    if case.entry.backwards is not None:
        found: Line | None = case.entry.backwards(case, symbol, left, index)
        if found is not None:
            return found
    if case.entry.kind == MOVE:
        return moves.backward(case, of, left, index)
    return worked.backward(case, symbol, left, index)
