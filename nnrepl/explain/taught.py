"""Taught: what the table of operations says of an op or a call, in the names of the program.

A `RuleText` is a formula that the tests execute, and a `Taught` a sentence that stands beside it: both are made here
alone, from an entry of the table, and no plain string is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nnrepl.explain import words
from nnrepl.explain.cases import Names
from nnrepl.explain.known import Entry, bind
from nnrepl.explain.local import defined_in, names_of, symbol_of, template, written
from nnrepl.explain.paths import upstream
from nnrepl.ops.case import Case, Operand
from nnrepl.ops.evaluated import Evaluated, lines_of
from nnrepl.ops.layers import Whole
from nnrepl.ops.optimizers import UpdateRule
from nnrepl.ops.pointwise import formula_of
from nnrepl.ops.reader import parse, readable
from nnrepl.tape import UPDATE_PASS, Op, Value


class RuleText(str):
    """A rule: `a1 = max(z1, 0)`."""

    __slots__ = ()


class Taught(str):
    """A sentence of the table: what a formula means."""

    __slots__ = ()


def forward_rule(op: Op, entry: Entry, value: Value, names: Names) -> RuleText:
    """Return what an op computes, with where that is allowed."""
    several = len(op.outputs) > 1
    made = ", ".join(names(one) for one in op.outputs[:3]) + (", …" if len(op.outputs) > 3 else "")
    text = f"{made if several else names(value)}{':' if several else ' ='} {written(entry, op, entry.text, names)}"
    restricted = {symbol for symbol, given in bind(entry, op).items() if not isinstance(given, (int, float))}
    of_tensors = not readable(entry.valid) or bool(restricted & set(parse(entry.valid).main.symbols()))
    told = words.substitute(entry.valid, names_of(entry, op, names)) if entry.valid and of_tensors else ""
    valid = f"     ({told})" if told else ""
    return RuleText(text + valid)


def backward_rules(op: Op, entry: Entry, value: Value, names: Names) -> list[RuleText]:
    """Return what a forward op computes, and how a gradient passes it."""
    forward, of = op.of, value.gradient_of
    assert forward is not None
    assert of is not None
    made = names(forward.outputs[0]) if len(forward.outputs) == 1 else forward.name
    found = [RuleText(f"{made} = {written(entry, forward, entry.text, names)}")]
    symbol = symbol_of(entry, forward, of)
    slope = entry.slopes.get(symbol) if symbol is not None else None
    if slope is None:
        return found
    given = upstream(op)
    arrives = names(given[0]) if len(given) == 1 else "the gradients of its results"
    texts = [
        written(entry, forward, entry.slopes[one].text, names, arrives)
        for one, taken in bind(entry, forward).items()
        if isinstance(taken, Value) and taken.canonical is of.canonical and one in entry.slopes
    ]
    apart = [text.split(",  ") for text in texts or [written(entry, forward, slope.text, names, arrives)]]
    main = " + ".join(parts[0] for parts in apart)
    where = dict.fromkeys(one for parts in apart for one in parts[1:])
    repeated = entry.row is not None and of.size < forward.outputs[0].size
    return [*found, RuleText(",  ".join([f"{names(value)} = {'Σ ' if repeated else ''}{main}", *where]))]


def sum_rule(value: Value, names: Names) -> RuleText:
    """Return how the parts of a gradient become one."""
    return RuleText(f"{names(value)} = the sum of what arrives on each way")


def handed_on_rule(value: Value, made: Value, names: Names) -> RuleText:
    """Return that a call gives back what was made inside of it."""
    return RuleText(f"{names(value)} = {names(made)}")


def forward_words(op: Op, entry: Entry, names: Names) -> Taught:
    """Return what an op means. Of an update no gradient is taken: how one would pass does not belong there."""
    called = names_of(entry, op, names)
    called.update(defined_in(entry.text, set(called.values())))
    return Taught(template(entry.forth, called) if op.pass_.kind != UPDATE_PASS else "")


def backward_words(op: Op, entry: Entry, value: Value, names: Names) -> Taught:
    """Return what the gradient of an op means."""
    assert op.of is not None
    symbol = symbol_of(entry, op.of, value.gradient_of) if value.gradient_of is not None else None
    slope = entry.slopes.get(symbol) if symbol is not None else None
    said = slope.words if slope is not None and slope.words else entry.back
    called = names_of(entry, op.of, names)
    called.update(defined_in(entry.text, set(called.values())))
    return Taught(template(said, called))


def signs_of(rules: Sequence[RuleText]) -> list[Taught]:
    """Return what a sign means that some rules have and that is not taught at school."""
    return [Taught("[…] is 1 where what stands in it is so, else 0.")] if any(map(_CHOICE.search, rules)) else []


_CHOICE = re.compile(r"\[[^\[\]]* [<>≤≥=≠] ")


def source_of(entry: Entry) -> list[Taught]:
    """Return where a formula is from."""
    return [Taught(f"Source: {entry.source}.")] if entry.source else []


def of_update(recipe: UpdateRule) -> Taught:
    """Return what an optimizer does."""
    return Taught(f"{recipe.name}: {recipe.words}")


def of_whole(whole: Whole) -> Taught:
    """Return what a function or a layer is called, and what it means."""
    return Taught(f"This is {whole.name}. {whole.words}")


def call_rules(
    whole: Whole, absent: Sequence[str], left: str, weight: str, called: Mapping[str, str]
) -> list[RuleText]:
    """Return what a known function or layer computes, line by line.

    Args:
        absent: Parameters that it has not: a layer without a bias.
        left: What the result is called.
        weight: What the losses are multiplied by; "" if nothing.
        called: What is known of its symbols: `x`, `weight`.
    """
    text = whole.text
    for symbol in absent:
        text = text.replace(f" + {symbol}", "").replace(f" · {symbol}", "")
    text = words.substitute(text, called)
    main, *where = (f"{weight} · loss,  loss = {text}" if weight else text).split(",  ")
    return [RuleText(f"{left} = {main}"), *map(RuleText, where)]


def loss_rules(case: Case, left: str, weight: str) -> list[RuleText]:
    """Return what a loss function computes from what it was called with."""
    names = {
        symbol: given.name if isinstance(given, Operand) else words.number(given)
        for symbol, given in case.bound.items()
    }
    text = formula_of(case.entry.text, case.bound).apart(set(names.values())).write(names)
    main, *where = (f"{weight} · loss,  loss = {text}" if weight else text).split(",  ")
    return [RuleText(f"{left} = {main}"), *map(RuleText, where)]


def reduced_rule(last: Op, of: str, names: Names) -> RuleText:
    """Return what becomes of the losses at the end of a loss function."""
    return RuleText(f"{names(last.outputs[0])} = the {last.name} of {of}")


def without_defined(rules: Sequence[RuleText], evaluated: Sequence[Evaluated]) -> list[RuleText]:
    """Return rules without the definitions that stand, with their numbers, in the arithmetic below, each but once."""
    given = {line.partition(" = ")[0] for line in lines_of(evaluated)}

    def kept(rule: RuleText) -> RuleText:
        main, *where = rule.split(",  ")
        new = [one for one in where if one.partition(" = ")[0] not in given]
        given.update(one.partition(" = ")[0] for one in where)
        return RuleText(",  ".join([main, *new]))

    return [kept(rule) for rule in rules]
