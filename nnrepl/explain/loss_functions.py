"""Loss functions: one of mlx.nn.losses as a whole, from what it was called with: its rule, and one of its numbers."""

from __future__ import annotations

from typing import Any

from nnrepl.explain.cases import Names, operand
from nnrepl.explain.elements import telling_of
from nnrepl.explain.look import Look
from nnrepl.ops import worked
from nnrepl.ops.case import Case, Operand
from nnrepl.ops.entry import COMPOSITE, Entry
from nnrepl.ops.evaluated import Evaluated, worked_out
from nnrepl.ops.layers import Whole
from nnrepl.ops.reader import parse, readable
from nnrepl.session.expressions import aside
from nnrepl.tape import Activation, Op, Value


def loss_case(look: Look, whole: Whole, scope: Activation, ops: list[Op], end: Value, names: Names) -> Case | None:
    """Return a call of a loss function, as its arithmetic needs it; None where its rule can only be read.

    Args:
        end: The losses, before they are weighted and reduced.
    """
    first = ops[0]
    code = scope.code
    arguments = code.co_varnames[: code.co_argcount]
    given = {name: first.tape.bindings.held(scope, name, first.position) for name in arguments}
    text = whole.text_for(given)
    if whole.row is None or not readable(text) or any(_refused(one) for one in (*given.values(), end)):
        return None
    formula = parse(text)
    used = {symbol for node in (formula.main, *(node for _, node in formula.where)) for symbol in node.symbols()}
    operands = {one.canonical: operand(look, one, names) for one in given.values() if isinstance(one, Value)}
    bound = {
        name: operands[one.canonical] if isinstance(one, Value) else one
        for name, one in given.items()
        if name in used or name == "axis"
    }
    defined = {name for name, _ in formula.where} | {"π", "n", "j"}
    if not used - defined <= bound.keys() or not all(_is_known(one) for one in bound.values()):
        return None
    entry = Entry(whole.name, text, whole.words, None, kind=COMPOSITE, row=whole.row)
    return Case(entry, bound, [operand(look, end, names)])


def _refused(given: Any) -> bool:
    return isinstance(given, Value) and bool(given.refusal)


def _is_known(given: Any) -> bool:
    return isinstance(given, (Operand, bool, int, float))


def largest_loss(look: Look, case: Case) -> list[Evaluated]:
    """Return the largest of the losses, worked out; nothing where that does not come to MLX's number."""
    losses = case.y[0]
    if not losses.size:
        return []
    with aside():
        place = telling_of(look, losses.array)
        line = worked.forward(case, place)
        found = worked_out(line, losses, place)
    return [] if found is None else [found]
