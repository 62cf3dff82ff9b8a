"""Repeats: random ops that draw the same numbers in step after step, and one batch that is taken for several."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import NOTE, WARNING, Check, Checkup, Finding, findings
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import GRADIENT_PASS, Op, Pass, Value
from nnrepl.tape.claims import Claim

_ENOUGH = 32
"""So many numbers are the same by chance hardly ever, flips of a coin included."""
_FEW = 6
"""So many are enough of numbers with a fraction."""
_PASSES = 4


def repeated(case: Checkup) -> Iterator[Finding]:
    """Noise and dropout masks that are the same, bit for bit, in two passes of one function that follow each other; so
    also what was drawn before a pass, for it: that may be meant, as a batch is that is used in each step."""
    at = case.series.index(case.pass_)
    start = max(at - 1, 0)
    near = case.series[start : start + _PASSES]
    told: set[str] = set()
    for before, after in itertools.pairwise(near):
        inside = _pairs([[op for op in pass_.forward if _draws(op)] for pass_ in (before, after)])
        ahead = _pairs([_drawn_for(case, before), _drawn_for(case, after)])
        for (first, second), level in [*((pair, WARNING) for pair in inside), *((pair, NOTE) for pair in ahead)]:
            where = words.place(first.source)
            if where not in told and _are_same(case, first, second):
                told.add(where)
                yield from findings(_drew_the_same(case, before, after, first, second), "repeated randomness",
                                    f"p mx.all({first.label} == {second.label})", first, level)  # fmt: skip


def _drawn_for(case: Checkup, pass_: Pass) -> list[Op]:
    """Return what draws numbers between the gradient pass before and this one, for this one."""
    passes = case.session.tape.passes
    ahead = reversed(passes[: passes.index(pass_)])
    before = list(itertools.takewhile(lambda one: one.kind != GRADIENT_PASS, ahead))
    taken = {value for op in pass_.forward for one in op.inputs for value in (one, one.origin) if value is not None}
    for one in before:  # the last first: what is made of what is drawn is made after it
        for op in reversed(one.ops):
            if any(value in taken for value in op.outputs):
                taken.update(op.inputs)
    return [op for one in reversed(before) for op in one.ops if _draws(op) and op.outputs[0] in taken]


def _drew_the_same(case: Checkup, before: Pass, after: Pass, first: Op, second: Op) -> Claim[str]:
    """Claim that two ops drew the same numbers, and say what their kind of call has to do for others."""
    a, b = first.outputs[0], second.outputs[0]

    def holds() -> bool:
        return not case.look.numbers([mx.any(case.look.array(a) != case.look.array(b))])[0]

    compiled = any(start <= second.position < end for start, end in case.session.tape.compiled)
    keyed = any(taken.dtype == mx.uint32 and taken.shape == (2,) for taken in second.inputs)
    remedy = (
        "a key= has to be split for each step (mx.random.split)" if keyed
        else "in a compiled step mx.random.state belongs into inputs= and outputs=" if compiled
        else "does mx.random.seed stand in the loop?"
    )  # fmt: skip
    return Claim("finding: repeated randomness", holds, lambda: (
        f"{first.label} {first.name} ({words.place(first.source)}) of {before.address} and {second.label} of "
        f"{after.address} drew the same {a.size} numbers: the noise is the same in both; {remedy}"))  # fmt: skip


def _pairs(drawn: list[list[Op]]) -> list[tuple[Op, Op]]:
    first, second = drawn
    return list(zip(first, second)) if len(first) == len(second) else []


def _draws(op: Op) -> bool:
    if op.error is not None or not has(op.name, Trait.RANDOM) or not op.outputs:
        return False
    return op.outputs[0].size >= (_FEW if is_inexact(op.outputs[0]) else _ENOUGH)


def _are_same(case: Checkup, first: Op, second: Op) -> bool:
    a, b = first.outputs[0], second.outputs[0]
    if first.name != second.name or a.shape != b.shape or not (case.look.can_see(a) and case.look.can_see(b)):
        return False
    case.look.see([a, b])
    same, low, high = case.look.numbers([mx.all(a.array == b.array), mx.min(a.array), mx.max(a.array)])
    return bool(same) and low != high


def taken_again(case: Checkup) -> Iterator[Finding]:
    """Gradient calls of one step with the very same tensors at the same weights: micro-batches that are one batch."""
    step, taken = case.pass_.step.number, _taken(case.pass_)
    same = [one for one in case.series if one.step.number == step and _taken(one) == taken]
    data = [value for value in taken[1] if value.size > 1]
    if len(same) > 1 and data and all(_is_used(case, one) for one in same):
        yield from findings(_gives_the_same(case, same, data), "same batch again", f"what {words.name(data[0])}",
                            case.forward[0])  # fmt: skip


def _is_used(case: Checkup, pass_: Pass) -> bool:
    """Whether the program does something with the gradients of a call."""
    taken = [op for grads in pass_.grads.values() for op in case.session.tape.consumers(grads[-1])]
    return any(op.position >= pass_.end for op in taken)


def _taken(pass_: Pass) -> tuple[list[Value], dict[Value, None]]:
    """Return at which weights a gradient is taken, and what else goes into the pass; numbers that are written in its
    lines left out."""
    weights = [leaf.oldest for leaf in pass_.wrt]
    entered = [taken for op in pass_.forward for taken in op.inputs if taken.op is None or taken.op.pass_ is not pass_]
    return weights, dict.fromkeys(one.oldest for one in entered if one.kind != "constant" and one.oldest not in weights)


def _gives_the_same(case: Checkup, calls: list[Pass], data: list[Value]) -> Claim[str]:
    """Claim that all these calls gave the same gradients, bit for bit."""
    last, *others = calls
    pairs = [
        (own[-1], of_other[-1])
        for other in others
        for leaf, twin in zip(last.wrt, other.wrt)
        if (own := last.grads.get(leaf.canonical)) and (of_other := other.grads.get(twin.canonical))
    ]

    def holds() -> bool:
        case.look.see([value for pair in pairs for value in pair])
        equal = [mx.array_equal(one.array, other.array) for one, other in pairs]
        return bool(pairs) and all(case.look.numbers(equal))

    names = ", ".join(dict.fromkeys(words.name(value) for value in data[:_FEW]))
    return Claim("finding: same batch again", holds, lambda: (
        f"{last.title} is differentiated {len(calls)} times in {last.step.title} with the same {names} at the same "
        f"weights: all {len(calls)} give the same gradients, bit for bit; what is summed or averaged of them is one "
        "batch"))  # fmt: skip


def stale(case: Checkup) -> Iterator[Finding]:
    """Tensors that a compiled function took when it was traced, and that the program has replaced since."""
    before, tape = case.before, case.session.tape
    inside = any(start <= case.pass_.start < end for start, end in tape.compiled)
    if before is None or case.next is not None or not inside:
        return
    earlier = {taken for op in before.forward for taken in op.inputs}
    told: set[Value] = set(case.pass_.wrt)
    for op in case.forward:
        for taken in op.inputs:
            outside = taken.op is None or taken.op.pass_ is not case.pass_
            if outside and taken in earlier and taken not in told and _is_replaced(case, taken):
                told.add(taken)
                yield from findings(_is_stale(case, op, taken), "stale constant", f"what {words.reference(taken)}", op)


def _is_stale(case: Checkup, op: Op, taken: Value) -> Claim[str]:
    """Claim that the program holds other numbers than what a repeated op takes."""

    def holds() -> bool:
        now = case.session.names.now(taken)
        if now is None or now.shape != taken.shape:
            return False
        return not case.look.numbers([mx.array_equal(taken.array, now, equal_nan=True)])[0]

    return Claim("finding: stale constant", holds, lambda: (
        f"{op.label} {words.call(op)} ({words.place(op.source)}) takes {words.name(taken)} as it was when the compiled "
        "function was traced, and the program holds other numbers there now: what a compiled function captures is a "
        "constant, unless inputs= names it"))  # fmt: skip


def _is_replaced(case: Checkup, value: Value) -> bool:
    """Whether other numbers lie now where a tensor lay."""
    now = case.session.names.now(value)
    if now is None or now is value.held or now.shape != value.shape or not case.look.can_see(value):
        return False
    case.look.see([value])
    try:
        return not case.look.numbers([mx.array_equal(value.array, now, equal_nan=True)])[0]
    except (ValueError, RuntimeError):  # a tensor of a transform that is running
        return False


CHECKS: list[Check] = [repeated, taken_again, stale]
