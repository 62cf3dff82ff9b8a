"""Explanation: one op as a teacher would write it: its rule, what the symbols are here, one element with numbers."""

from __future__ import annotations

from dataclasses import field

from nnrepl.classes import dataclass
from nnrepl.explain import in_numbers as worked
from nnrepl.explain import surprise, taught, unlisted, words
from nnrepl.explain.cases import Names, names_for, operand
from nnrepl.explain.elements import Index, named, parse, telling, telling_of
from nnrepl.explain.known import Entry, entry_for
from nnrepl.explain.known_calls import back_to
from nnrepl.explain.links import Told, texts_of
from nnrepl.explain.look import Look
from nnrepl.explain.paths import upstream
from nnrepl.explain.patterns import known_by_name
from nnrepl.explain.remarks import (
    can_open,
    is_attention,
    is_empty,
    not_listed,
    of_gradient,
    of_shapes,
    several_ways,
    used_by,
    which,
)
from nnrepl.explain.taught import RuleText, Taught
from nnrepl.explain.update_rules import update_lines, update_of
from nnrepl.ops.evaluated import Evaluated, ReadNumber, lines_of
from nnrepl.ops.layers import LOSSES, Whole
from nnrepl.ops.numbers import element
from nnrepl.session.expressions import aside
from nnrepl.tape import UPDATE_PASS, Op, Value
from nnrepl.tape.claims import Said, perhaps, say


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
        worked: Its arithmetic.
        notes: Broadcasting, reductions, indexing in words; what else is to be known.
        parts: For a function or a module: its steps.
        as_a_whole: For a gradient that several ops of a loss function make: how it comes about as a whole.
        whole_title: What is said above that.
        ways: For the loss: how it comes from what the op at the cursor makes; for a call what the loss does with it.
        updated: For a parameter that an optimizer has changed: its whole step.
        ops: How many ops were evaluated.
    """

    op: Op | None
    title: str = ""
    rule: list[RuleText] = field(default_factory=list)
    words: Taught | Said = field(default_factory=Said)
    symbols: list[Symbol] = field(default_factory=list)
    element: str = ""
    worked: list[Evaluated] = field(default_factory=list)
    notes: list[Said | Taught] = field(default_factory=list)
    parts: list[Told] = field(default_factory=list)
    as_a_whole: list[Evaluated] = field(default_factory=list)
    whole_title: Taught | None = None
    ways: list[Told] = field(default_factory=list)
    updated: list[Evaluated] = field(default_factory=list)
    ops: int = 0

    @property
    def lines(self) -> list[str]:
        """The arithmetic, written out."""
        return lines_of(self.worked)

    @property
    def steps(self) -> list[str]:
        """The steps of a call, written out."""
        return texts_of(self.parts)

    @property
    def chain(self) -> list[str]:
        """The ways to the loss, written out."""
        return texts_of(self.ways)

    @property
    def update(self) -> list[str]:
        """The step of an optimizer, written out."""
        return lines_of(self.updated)

    @property
    def whole(self) -> list[str]:
        """How a gradient comes about as a whole, written out."""
        return [*([self.whole_title] if self.whole_title and self.as_a_whole else []), *lines_of(self.as_a_whole)]


def of_value(look: Look, value: Value, index: str | None = None) -> Explanation:
    """Explain how a value was made."""
    op = value.op
    if op is None:
        return _leaf(look, value, index)
    place = parse(index, value) if index is not None else most_telling(look, value)
    names, entry = names_for(op), entry_for(op)
    found = Explanation(op, symbols=_symbols(op, names))
    if op.of is not None:
        _backward(look, found, op, entry, value, place, names)
    else:
        _forward(look, found, op, entry, value, place, names)
    if index is None and value.size > 1:
        found.notes += which(look, value, place, _ask(op, value))
    return found


def most_telling(look: Look, value: Value) -> Index:
    """Return the element to be shown; where all of a gradient is 0, the one at which the most comes in."""
    if not value.size:
        return ()
    op = value.op
    if is_attention(value):
        look.see([value])
        with aside():
            batch, head, _, at = telling_of(look, value.array[:, :, -1:])
        return batch, head, value.shape[2] - 1, at
    before = upstream(op) if op is not None and op.phase == "backward" else ()
    if before and before[0].shape == value.shape and look.stat(value).is_zero:
        return telling(look, before[0])
    return telling(look, value)


def _ask(op: Op, value: Value) -> str:
    # In an update its name may stand for what it was before.
    numbered = op.pass_.kind == UPDATE_PASS or value.gradient_of is not None or value.name.startswith("#")
    return (f"{op.label}.{value.slot}" if value.slot else op.label) if numbered else value.name


def _leaf(look: Look, value: Value, index: str | None) -> Explanation:
    kinds = {"parameter": "a parameter of the model", "input": "an input", "constant": "a constant",
             "seed": "where the backward pass begins: ∂L/∂L = 1"}  # fmt: skip
    outside = "made in what is closed, or outside of the recording" if value.tape.closed else (
        "from outside of the recording")  # fmt: skip
    kind = kinds.get(value.kind, outside)
    maker = value.oldest.op  # an update of the step before: what is shown here begins with what it made
    made = f"{words.made_before(maker)}; explain {maker.label} shows how" if maker is not None else (
        "no op on the tape made it")  # fmt: skip
    found = Explanation(None, title=f"{value.name} {tuple(value.shape)} {words.dtype(value.dtype)}: {kind}; {made}.")
    found.notes += say(used_by(look.session.tape, value))
    if index is not None:
        place = parse(index, value)
        found.worked = [ReadNumber(operand(look, value, words.name), place)]
        found.element = named(value, place)
    return found


def _symbols(op: Op, names: Names) -> list[Symbol]:
    made = op.of if op.operation.kind != "accumulate" else None
    taken = [*upstream(op), *(made.inputs if made is not None else ())] if op.phase == "backward" else list(op.inputs)
    return [
        Symbol(names(one), f"{tuple(one.shape)} {words.dtype(one.dtype)}", words.origin(one))
        for one in dict.fromkeys(taken)
    ]


# -- forward -------------------------------------------------------------------------------------------------------


def _forward(
    look: Look, found: Explanation, op: Op, entry: Entry | None, value: Value, place: Index, names: Names
) -> None:
    left = element(names(value), place)
    found.element = left if value.size else ""
    if entry is None:
        said = unlisted.forward(look, op, value, place)
        found.rule, found.words, found.worked = said.rule, said.words, said.worked
        found.notes.extend(said.notes)
        return
    found.rule = [taught.forward_rule(op, entry, value, names)]
    found.words = taught.forward_words(op, entry, names)
    found.notes += say(is_empty(value))
    if not value.size:
        return
    arithmetic = worked.forward(look, op, entry, value, place, names)
    found.worked = [arithmetic or ReadNumber(operand(look, value, names), place)]
    found.notes += say(can_open(op, entry, arithmetic is not None))
    found.rule = taught.without_defined(found.rule, found.worked)
    found.notes += taught.signs_of(found.rule)
    found.notes += say(*of_shapes(look, op, entry, value), *known_by_name(look, op))
    found.notes += taught.source_of(entry)
    step = update_of(value)
    if step is not None:
        found.updated = update_lines(look, step, place)
        found.notes += [taught.of_update(step.recipe)] if found.updated else []


# -- backward ------------------------------------------------------------------------------------------------------


def _backward(
    look: Look, found: Explanation, op: Op, entry: Entry | None, value: Value, place: Index, names: Names
) -> None:
    found.element = element(names(value), place) if value.size else ""
    if op.operation.kind == "accumulate":
        found.rule = [taught.sum_rule(value, names)]
        found.words = perhaps(several_ways(op, value))
    elif op.of is not None and value.gradient_of is not None:
        _backward_rule(found, op, entry, value, names)
    if value.size:
        arithmetic = worked.backward(look, op, value, place, names)
        found.worked = [arithmetic or ReadNumber(operand(look, value, names), place)]
    found.rule = taught.without_defined(found.rule, found.worked)
    found.notes += taught.signs_of(found.rule)
    found.notes += say(*of_gradient(op, entry, value, found.lines))
    whole = _as_a_whole(look, op, value, place, names)
    if whole is not None:
        found.whole_title, found.as_a_whole = taught.of_whole(whole[0]), whole[1]


def _as_a_whole(look: Look, op: Op, value: Value, place: Index, names: Names) -> tuple[Whole, list[Evaluated]] | None:
    """Return the loss function that made a gradient in several ops, of which this is the last, and how it comes about
    as a whole."""
    of, pass_ = value.gradient_of, op.pass_
    if of is None or not value.size or value not in pass_.grads.get(of.canonical, ())[-1:]:
        return None
    entropy = surprise.around(pass_, of)
    arrived = pass_.grads.get(entropy.loss.canonical) if entropy is not None else None
    if entropy is None or not arrived:
        return back_to(look, value, place, names)
    found = surprise.backward(look, entropy, value, arrived[-1], place, names)
    return (LOSSES["cross_entropy"], found) if found else None


def _backward_rule(found: Explanation, op: Op, entry: Entry | None, value: Value, names: Names) -> None:
    forward, of = op.of, value.gradient_of
    assert forward is not None
    assert of is not None
    if entry is None:
        found.words = perhaps(not_listed(forward))
        return
    found.rule = taught.backward_rules(op, entry, value, names)
    found.words = taught.backward_words(op, entry, value, names)
