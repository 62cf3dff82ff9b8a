"""Explanation: one op as a teacher would write it: its rule, what the symbols are here, one element with numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import mlx.core as mx

from nnrepl.explain import in_numbers as worked
from nnrepl.explain import surprise, unlisted, words
from nnrepl.explain.cases import Names, names_for
from nnrepl.explain.elements import Index, named, parse, telling, telling_of
from nnrepl.explain.in_numbers import result_at
from nnrepl.explain.known import COMPOSITE, ELEMENTWISE, MOVE, Entry, bind, entry_for
from nnrepl.explain.local import names_of, symbol_of, template, written
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.explain.patterns import known_by_name
from nnrepl.explain.update_rules import update_lines, update_of
from nnrepl.ops import Trait, has
from nnrepl.ops.numbers import element
from nnrepl.record.gradient_names import start_of
from nnrepl.session.expressions import aside
from nnrepl.tape import UPDATE_PASS, Leaf, Op, Value, samples_of


@dataclass(slots=True)
class Symbol:
    """A tensor that takes part, and where it comes from."""

    name: str
    kind: str
    origin: str


@dataclass(slots=True)
class Explanation:
    """What `explain` shows.

    Attributes:
        op: The op, None for a value that came in from outside.
        title: What is explained, where there is no op.
        rule: In the names of this program: `a1 = max(z1, 0)`, and how the gradient passes.
        words: The same in a sentence.
        symbols: The tensors that take part.
        element: Which element the arithmetic is of.
        lines: Its arithmetic.
        notes: Broadcasting, reductions, indexing in words; what else is to be known.
        steps: For a function or a module: its parts.
        whole: For a gradient that several ops of a loss function make: how it comes about as a whole.
        chain: For the loss: how it comes from what the op at the cursor makes.
        update: For a parameter that an optimizer has changed: its whole step.
        ops: How many ops were evaluated.
    """

    op: Op | None
    title: str = ""
    rule: list[str] = field(default_factory=list)
    words: str = ""
    symbols: list[Symbol] = field(default_factory=list)
    element: str = ""
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    chain: list[str] = field(default_factory=list)
    update: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    ops: int = 0


def of_value(look: Look, value: Value, index: str | None = None) -> Explanation:
    """Explain how a value was made."""
    op = value.op
    if op is None:
        return _leaf(look, value, index)
    place = parse(index, value) if index is not None else most_telling(look, value)
    found = Explanation(op, symbols=_symbols(op, names_for(op)))
    entry = entry_for(op)
    backward = op.phase == "backward" and (op.of is not None or op.operation.kind == "accumulate")
    if backward:
        _backward(look, found, op, entry, value, place)
    else:
        _forward(look, found, op, entry, value, place)
    if index is None and value.size > 1:
        found.notes.append(f"{_which(look, value, place)}; explain {_ask(op, value)} at [...] takes another.")
    return found


def _which(look: Look, value: Value, place: Index) -> str:
    """Which element was chosen, in words that hold."""
    stat, number = look.stat(value), result_at(look, value, place)
    if stat.is_zero:
        return f"All {value.size} elements are 0"
    if number != number:
        return f"{stat.nans} of {value.size} elements {'is' if stat.nans == 1 else 'are'} NaN, this one is the first"
    if abs(number) == math.inf:
        return f"{stat.infs} of {value.size} elements {'is' if stat.infs == 1 else 'are'} infinite, this is one"
    if value.dtype == mx.bool_:
        return f"This is one of {value.size} elements"
    if value.op is not None and value.op.of is None and has(value.op.name, Trait.ATTENDS):
        return "This is in size the largest of the last position"
    if not stat.is_finite or abs(number) < 0.999 * stat.peak:
        return f"The largest in size of {value.size} elements, those apart that stand for nothing (a mask)"
    return f"None of the {value.size} is larger in size"


def most_telling(look: Look, value: Value) -> Index:
    """Return the element to be shown; where all of a gradient is 0, the one at which the most comes in."""
    if not value.size:
        return ()
    op = value.op
    if op is not None and op.of is None and has(op.name, Trait.ATTENDS) and len(value.shape) == 4:
        # The last position is the one that may look at all others.
        look.see([value])
        with aside():
            batch, head, _, at = telling_of(look, value.array[:, :, -1:])
        return batch, head, value.shape[2] - 1, at
    before = upstream(op) if op is not None and op.phase == "backward" else ()
    if before and before[0].shape == value.shape and look.stat(value).is_zero:
        return telling(look, before[0])
    return telling(look, value)


def _ask(op: Op, value: Value) -> str:
    return f"{op.label}" if value.gradient_of is not None or value.name.startswith("#") else value.name


def _leaf(look: Look, value: Value, index: str | None) -> Explanation:
    kinds = {"parameter": "a parameter of the model", "input": "an input", "constant": "a constant",
             "seed": "where the backward pass begins: ∂L/∂L = 1"}  # fmt: skip
    kind = kinds.get(value.kind, "from outside of the recording")
    found = Explanation(
        None, title=f"{value.name} {tuple(value.shape)} {words.dtype(value.dtype)}: {kind}; no op made it."
    )
    users = [op for op in look.session.tape.consumers(value) if op.of is None]
    if users:
        found.notes.append(f"It is used by {', '.join(f'{op.label} {op.name}' for op in users[:4])}.")
    if index is not None:
        place = parse(index, value)
        found.lines = [f"{named(value, place)} = {words.number(result_at(look, value, place))}"]
        found.element = named(value, place)
    return found


def _symbols(op: Op, names: Names) -> list[Symbol]:
    taken = [*upstream(op), *(op.of.inputs if op.of is not None else ())] if op.phase == "backward" else list(op.inputs)
    return [
        Symbol(names(one), f"{tuple(one.shape)} {words.dtype(one.dtype)}", origin_of(one))
        for one in dict.fromkeys(taken)
    ]


def origin_of(value: Value) -> str:
    """Where a tensor comes from, in a few words."""
    if value.op is not None:
        return f"made by {value.op.label} {value.op.name}"
    if isinstance(value, Leaf):
        return {"parameter": "a parameter", "input": "an input", "constant": "a constant", "seed": "1, by "
            "definition"}.get(
            value.kind, "from outside")  # fmt: skip
    return ""


# -- forward -------------------------------------------------------------------------------------------------------


def _forward(look: Look, found: Explanation, op: Op, entry: Entry | None, value: Value, place: Index) -> None:
    names = names_for(op)
    left = element(names(value), place)
    found.element = left if value.size else ""
    if entry is None:
        said = unlisted.forward(look, op, value, place)
        found.rule, found.words, found.lines = said.rule, said.words, said.lines
        found.notes.extend(said.notes)
        return
    several = len(op.outputs) > 1
    made = ", ".join(names(one) for one in op.outputs[:3]) + (", …" if len(op.outputs) > 3 else "")
    found.rule = [f"{made if several else names(value)}{':' if several else ' ='} "
                  f"{written(entry, op, entry.text, names)}"]  # fmt: skip
    if entry.valid:
        found.rule[0] += f"     ({words.substitute(entry.valid, names_of(entry, op, names))})"
    # Of an update no gradient is taken: how one would pass does not belong here.
    found.words = template(entry.forth, names_of(entry, op, names)) if op.pass_.kind != UPDATE_PASS else ""
    if not value.size:
        return
    arithmetic = worked.forward(look, op, entry, value, place, names)
    found.lines = [] if arithmetic is None else arithmetic.lines()
    if not found.lines:
        found.lines = [f"{left} = {words.number(result_at(look, value, place))}"]
        if entry.kind == "composite" and op not in op.tape.notes.mapped:
            found.notes.append(f"into {op.label} takes it apart into textbook ops, with their numbers.")
    found.rule = _without_defined(found.rule, found.lines)
    found.notes.extend(_shape_notes(op, entry, value))
    found.notes.extend(known_by_name(op))
    if entry.source:
        found.notes.append(f"Source: {entry.source}.")
    step = update_of(value)
    if step is not None:
        found.update = update_lines(look, step, place)
        if found.update:
            found.notes.append(f"{step.recipe.name}: {step.recipe.words}")


def _without_defined(rules: list[str], lines: list[str]) -> list[str]:
    """Return rules without the definitions that stand, with their numbers, in the arithmetic below, each but once."""
    given = {line.partition(" = ")[0] for line in lines}

    def kept(rule: str) -> str:
        main, *where = rule.split(",  ")
        new = [one for one in where if one.partition(" = ")[0] not in given]
        given.update(one.partition(" = ")[0] for one in where)
        return ",  ".join([main, *new])

    return [kept(rule) for rule in rules]


def _shape_notes(op: Op, entry: Entry, value: Value) -> list[str]:
    """Broadcasting, reductions and moves in words."""
    notes: list[str] = []
    bound = {symbol: given for symbol, given in bind(entry, op).items() if isinstance(given, Value)}
    if entry.kind == ELEMENTWISE:
        notes.extend(
            f"{words.name(given)} {tuple(given.shape)} is broadcast: {_repeated(given.shape, value.shape)}."
            for given in dict.fromkeys(bound.values())
            if given.shape != value.shape and given.shape and given.size < value.size
        )
    elif entry.name in (
        "sum",
        "mean",
        "max",
        "min",
        "var",
        "std",
        "prod",
        "logsumexp",
        "argmax",
        "argmin",
        "linalg.norm",
    ):
        taken = op.inputs[0]
        if value.size and taken.size > value.size:
            axis = bind(entry, op).get("axis")
            along = "all elements" if axis is None else f"the elements along axis {axis}"
            notes.append(f"Reduces {along}: {taken.size // value.size} numbers become one, {value.size} time"
                         f"{'s' if value.size != 1 else ''}.")  # fmt: skip
    elif entry.name == "softmax":
        axis = bind(entry, op).get("axis")
        of = "" if samples_of(value) else f" of {tuple(value.shape)}"
        notes.append(f"The shares add up to 1 along {'all axes' if axis is None else f'axis {axis}'}{of}.")
    for size, lie in samples_of(value):
        notes.append(
            f"That is done for each of {size} samples, which lie along axis {lie} here; the op's own axes count "
            "within one."
        )
    return notes


def _repeated(own: tuple[int, ...], whole: tuple[int, ...]) -> str:
    extra = len(whole) - len(own)
    axes = [axis for axis in range(len(whole)) if axis < extra or (own[axis - extra] == 1 and whole[axis] != 1)]
    times = 1
    for axis in axes:
        times *= whole[axis]
    names = ", ".join(map(str, axes))
    return (
        f"the same {'number is' if not own else 'numbers are'} used {times} times, along axis {names} of {tuple(whole)}"
    )


# -- backward ------------------------------------------------------------------------------------------------------


def _backward(look: Look, found: Explanation, op: Op, entry: Entry | None, value: Value, place: Index) -> None:
    names = names_for(op)
    found.element = element(names(value), place) if value.size else ""
    if op.operation.kind == "accumulate":
        of = value.gradient_of
        found.rule = [f"{names(value)} = the sum of what arrives on each way"]
        it = words.name(of, op) if of is not None else "It"
        found.words = (
            f"{it} was used more than once, so {start_of(value)} depends on it on several ways; the gradients of all "
            "ways are added up."
        )
    elif op.of is not None and value.gradient_of is not None:
        _backward_rule(found, op, entry, value, names)
    if value.size:
        arithmetic = worked.backward(look, op, value, place, names)
        found.lines = [] if arithmetic is None else arithmetic.lines()
        if not found.lines:
            found.lines = [f"{found.element} = {words.number(result_at(look, value, place))}"]
    found.rule = _without_defined(found.rule, found.lines)
    found.notes.extend(_backward_notes(op, entry, value, found.lines))
    found.whole = _as_a_whole(look, op, value, place, names)


def _as_a_whole(look: Look, op: Op, value: Value, place: Index, names: Names) -> list[str]:
    """Return what the gradient of logits is, where a cross-entropy made it in several ops and this is the last of
    them."""
    of, pass_ = value.gradient_of, op.pass_
    if of is None or not value.size or value not in pass_.grads.get(of.canonical, ())[-1:]:
        return []
    whole = surprise.around(pass_, of)
    arrived = pass_.grads.get(whole.loss.canonical) if whole is not None else None
    if whole is None or not arrived:
        return []
    lines = surprise.backward(look, whole, value, arrived[-1], place, names)
    title = "Cross-entropy as a whole: shares, less the shares that are wanted, times what arrives."
    return [title, *lines] if lines else []


def _backward_rule(found: Explanation, op: Op, entry: Entry | None, value: Value, names: Names) -> None:
    forward, of = op.of, value.gradient_of
    assert forward is not None
    assert of is not None
    if entry is None:
        found.words = (
            f"nnrepl's table has no entry for {forward.name}; shown is the chain rule with its numerical Jacobian."
        )
        return
    symbol = symbol_of(entry, forward, of)
    made = names(forward.outputs[0]) if len(forward.outputs) == 1 else forward.name
    found.rule = [f"{made} = {written(entry, forward, entry.text, names)}"]
    slope = entry.slopes.get(symbol) if symbol is not None else None
    if slope is not None:
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
        found.rule.append(",  ".join([f"{names(value)} = {'Σ ' if repeated else ''}{main}", *where]))
    said = slope.words if slope is not None and slope.words else entry.back
    found.words = template(said, names_of(entry, forward, names))


def _backward_notes(op: Op, entry: Entry | None, value: Value, lines: list[str]) -> list[str]:
    forward, of = op.of, value.gradient_of
    if forward is None or of is None:
        return []
    notes = []
    whole = op.pass_.adds_to(value)
    if whole is not None and whole.op is not None:
        sign = op.called(whole)
        notes.append(f"It is a part of {sign}: {words.name(of, op)} is used more than once, and {whole.op.label} adds "
                     "the parts up.")  # fmt: skip
    # What is computed in several steps has its own sentence about gradients.
    if len(upstream(op)) == 1 and of is not forward.outputs[0] and (entry is None or entry.kind != COMPOSITE):
        arrives = op.called(upstream(op)[0])
        notes.append(f"The chain rule: what arrives, {arrives}, times what {forward.name} does.")
    if any("[" in line and (" > " in line or " ≤ " in line or " < " in line or " ≥ " in line) for line in lines):
        notes.append("[…] is 1 where it holds, and 0 where it does not.")
    if len(forward.outputs) == 1 and entry is not None:
        result = forward.outputs[0]
        if op not in op.tape.notes.mapped and entry.kind == ELEMENTWISE and of.size < result.size:
            notes.append(f"{words.name(of, op)} {tuple(of.shape)} was broadcast to {tuple(result.shape)}: its "
                         f"gradient is the sum over "
                         f"the {result.size // max(of.size, 1)} places where each number was used.")  # fmt: skip
        elif op in op.tape.notes.mapped:
            pass  # the sums run within each sample
        elif entry.name in ("matmul", "addmm") and len(result.shape) >= 2 and symbol_of(entry, forward, of) == "b":
            called, rows = words.name(of, op), upstream(op)[0]
            met = "the rows of the batch: every row that went through" if len(of.shape) == 2 else (
                f"the {rows.shape[-2]} rows that meet each column of")  # fmt: skip
            notes.append(f"The sum runs over {met} {called}{' has its say' if len(of.shape) == 2 else ''}.")
        elif entry.kind == MOVE:
            notes.append("Numbers that were only moved get their gradients back where they came from.")
    rule = rule_of(op)
    if rule is not None and len(rule.wanted) > 1:
        others = [rule.inputs[slot] for slot in rule.wanted if rule.inputs[slot].canonical is not of.canonical]
        if others:
            names = " and ".join(f"{_partly(op, other)}grad({words.name(other, op)})" for other in others[:3])
            notes.append(f"The same op also gives {names}.")
    return notes


def _partly(op: Op, of: Value) -> str:
    """Say that an op gives only a part of the gradient of a value, "" where it gives all of it."""
    given = [value for value in op.outputs if value.gradient_of is of.canonical]
    return "a part of " if any(op.pass_.adds_to(value) is not None for value in given) else ""


# -- the loss ------------------------------------------------------------------------------------------------------
