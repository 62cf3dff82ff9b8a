"""Unlisted: what can be said of an op that the table of operations does not have: a call that MLX runs by itself, a
function with a rule of its own, a kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.cases import names_for, operand
from nnrepl.explain.elements import Index, named, unravel
from nnrepl.explain.in_numbers import linear_in
from nnrepl.explain.known import entry_for
from nnrepl.explain.look import Look
from nnrepl.explain.taught import RuleText, handed_on_rule
from nnrepl.ops.evaluated import Evaluated, Line, ReadNumber, worked_out
from nnrepl.ops.numbers import element
from nnrepl.record.custom import Custom
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Said, perhaps, say_first


@dataclass(slots=True)
class Unlisted:
    """What is said of one result.

    Attributes:
        rule: What it is, where that is known.
        words: The same in a sentence.
        worked: One element with its numbers.
        notes: How the element changes with what goes in.
    """

    words: Said
    rule: list[RuleText] = field(default_factory=list)
    worked: list[Evaluated] = field(default_factory=list)
    notes: list[Said] = field(default_factory=list)


def forward(look: Look, op: Op, value: Value, place: Index) -> Unlisted:
    """Explain a result of an op without an entry.

    Args:
        place: The element, where the result has any.
    """
    names = names_for(op)
    own: list[Evaluated] = [ReadNumber(operand(look, value, names), place)] if value.size else []
    made = _handed_on(op, value)
    if made is not None:
        line = Line(element(names(value), place), operand(look, made, names).node(place)) if value.size else None
        same = worked_out(line, operand(look, value, names), place)
        said = perhaps(*_of_function(op, made))
        return Unlisted(said, [handed_on_rule(value, made, names)], [same] if same is not None else own)
    notes = _jacobian(look, op, value, place) if value.size else []
    return Unlisted(perhaps(*_of_inside(op), _of_nothing(op)), worked=own, notes=notes)


def _of_nothing(op: Op) -> Claim[str]:
    """Claim that the table does not know an op."""
    return Claim("explain: no entry", lambda: entry_for(op) is None, lambda: (
        f"nnrepl's table has no entry for {op.name}. Its inputs and its result are what they are:"))  # fmt: skip


def _handed_on(op: Op, value: Value) -> Value | None:
    """Return what a checkpoint, or a function with a rule of its own, has computed inside and gives back as a
    result."""
    if op.operation.kind not in ("custom", "checkpoint") or len(op.args) < 2 or not isinstance(op.args[1], int):
        return None
    given = op.args[2 + op.args[1] :]
    made = given[value.slot] if len(given) == len(op.outputs) else None
    return made if isinstance(made, Value) and made.shape == value.shape else None


def _of_function(op: Op, made: Value) -> Iterator[Claim[str]]:
    """Yield what a function gives back that runs once more in the backward pass, or has a rule of its own."""
    where = f"made by {made.op.label} {made.op.name}" if made.op is not None else "what went in"
    gives = f"It gives back what its function has computed, {where}."
    yield Claim("explain: checkpoint", lambda: op.operation.kind == "checkpoint" and made in op.args, lambda: (
        f"{gives} In the backward pass it runs once more, so that nothing in there needs to be kept."))  # fmt: skip
    yield Claim("explain: own rule", lambda: isinstance(op.args[0], Custom) and made in op.args, lambda: (
        f"{gives} How a gradient passes is its own rule, which the program has written."))  # fmt: skip
    yield Claim("explain: gives back", lambda: made in op.args, lambda: gives)


def _jacobian(look: Look, op: Op, value: Value, place: Index) -> list[Said]:
    """How much the chosen element changes with what goes in, by MLX's own VJP."""
    return [said for taken in dict.fromkeys(op.inputs)
            if mx.issubdtype(taken.dtype, mx.floating) and mx.issubdtype(value.dtype, mx.floating)
            for said in say_first(_row(look, op, taken, value, place))]  # fmt: skip


def _row(look: Look, op: Op, taken: Value, value: Value, place: Index) -> Iterator[Claim[str]]:
    """Yield how much an element changes with each element of an input, where MLX can tell."""
    try:
        row = linear_in(look, op, taken, value, place).flatten()
        order, slopes = look.numbers([mx.argsort(-mx.abs(row))[:4], row])
    except (ValueError, RuntimeError):  # no VJP
        return

    def holds() -> bool:
        return bool(slopes) and abs(slopes[order[0]]) == look.numbers([mx.max(mx.abs(row))])[0]

    shown = ", ".join(f"{words.number(slopes[at])} with {named(taken, unravel(at, taken.shape))}" for at in order)
    yield Claim("explain: jacobian", holds, lambda: (
        f"{named(value, place)} changes (its Jacobian, the largest entries): {shown}."))  # fmt: skip


def _of_inside(op: Op) -> Iterator[Claim[str]]:
    """Yield what is said of a call that MLX ran by itself, of which is known what happened inside."""
    inside = op.tape.notes.calls.get(op)
    if inside is None:
        return
    first, last = inside.ops[0].label, inside.ops[-1].label
    results = [value.op.label for value, _ in inside.results if value.op is not None]
    made = f", {_and(results[:3])} made what it returns" if 0 < len(results) <= 3 else ""
    where = first if len(inside) == 1 else f"{first} to {last}"
    yield Claim("explain: inside", lambda: all(one.position < op.position for one in inside.ops), lambda: (
        f"One call of MLX's. What happened inside is {where}{made}; goto {first} leads there."))  # fmt: skip


def _and(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
