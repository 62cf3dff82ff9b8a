"""Frozen parts: what goes wrong where no gradient passes: numbers that become all the same, or whole ones between two
layers."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.kept_out import in_the_loss
from nnrepl.explain.health.report import NOTE, Check, Checkup, Finding, findings
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim


def collapsed(case: Checkup) -> Iterator[Finding]:
    """Find an op without a gradient that makes one and the same number of numbers that differ."""
    found = [(op, taken) for op in case.forward if (taken := _flattened(case, op)) is not None]
    if case.broken or not found:
        return
    counting = in_the_loss(case)
    found = [(op, taken) for op, taken in found if op in counting]
    case.look.see([value for op, taken in found for value in (taken, op.outputs[0])])
    same = case.look.numbers([_is_one(op.outputs[0]) & ~_is_one(taken) for op, taken in found])
    told: set[str] = set()
    for (op, taken), flat in zip(found, same):
        if flat and words.spot(op) not in told:
            told.add(words.spot(op))
            yield from findings(_is_flat(case, op, taken), "all the same", f"explain {op.label}", op, NOTE)


def _flattened(case: Checkup, op: Op) -> Value | None:
    """Return what a flat piece of a curve, a limit or a choice takes, where no gradient passes; None of other ops."""
    if not has(op.name, Trait.CHOOSES, Trait.SATURATES, Trait.STEPS) or has(op.name, Trait.REDUCES):
        return None
    if len(op.outputs) != 1 or op.outputs[0].size < 2 or op.outputs[0].refusal:
        return None
    shape = op.outputs[0].shape
    given = [one for one in op.inputs if is_inexact(one) and one.shape == shape and not one.refusal]
    learned = any(case.pass_.grads.get(one.canonical) for one in op.inputs)
    return None if learned or len(given) != 1 else given[0]


def _is_one(value: Value) -> mx.array:
    return mx.all(value.array == value.array.flatten()[:1])


def _is_flat(case: Checkup, op: Op, taken: Value) -> Claim[str]:
    """Claim that the smallest number of a result is its largest, and that this is not so of what went in."""
    result = op.outputs[0]

    def holds() -> bool:
        ends = [end(case.look.array(one)) for one in (result, taken) for end in (mx.min, mx.max)]
        low, high, least, most = case.look.numbers(ends)
        return bool(low == high and least < most)

    return Claim("finding: all the same", holds, lambda: (
        f"{words.made(result, op)} is {words.number(case.look.numbers([result.array.flatten()[0]])[0])} everywhere, "
        f"though the numbers of {words.name(taken)} differ"))  # fmt: skip


def cut_between(case: Checkup) -> Iterator[Finding]:
    """Find numbers of a layer without gradients that are cut to whole ones before they go into another layer, or into a
    softmax."""
    made: dict[Value, Op | None] = {}  # what comes from a frozen layer; the op that cut it, None where nothing did
    told: set[str] = set()
    for op in case.forward:
        cuts = {made[one.canonical] for one in op.inputs if one.canonical in made}
        for cut in cuts if _is_layer(op) or has(op.name, Trait.SHARES) else ():
            if cut is not None and words.spot(cut) not in told:
                told.add(words.spot(cut))
                yield from findings(_is_whole(case, cut, op), "whole numbers", f"explain {cut.label}", cut, NOTE)
        if _is_layer(op):
            cuts = {None}
        if cuts and not any(case.pass_.grads.get(one.canonical) for one in op.outputs):
            before = next((one for one in cuts if one is not None), None)
            made.update((value.canonical, _cut_at(op, before)) for value in op.outputs)


def _cut_at(op: Op, before: Op | None) -> Op | None:
    """Return the op that cut numbers to whole ones: this one, or the one before."""
    to_int = op.name == "astype" and not is_inexact(op.outputs[0]) and is_inexact(op.inputs[0])
    answers = has(op.name, Trait.ANSWERS) and not has(op.name, Trait.PLACES) and any(map(is_inexact, op.inputs))
    return op if to_int or answers or has(op.name, Trait.STEPS) else before


def _is_layer(op: Op) -> bool:
    """Whether an op multiplies activations with a weight: with what the pass has not made itself."""
    return has(op.name, Trait.PRODUCT) and any(_is_from_outside(taken, op) for taken in op.inputs)


def _is_from_outside(value: Value, user: Op) -> bool:
    while value.op is not None and value.op.inputs and has(value.op.name, Trait.ARRANGES, Trait.CONVERTS):
        value = value.op.inputs[0]
    return value.op is None or value.op.pass_ is not user.pass_


def _is_whole(case: Checkup, cut: Op, layer: Op) -> Claim[str]:
    """Claim that an op makes whole numbers of others."""

    def holds() -> bool:
        taken = next(one for one in cut.inputs if is_inexact(one))
        array, before = case.look.array(cut.outputs[0]), case.look.array(taken)
        whole, was = case.look.numbers([mx.all(array == mx.round(array.astype(mx.float32))),
                                        mx.all(before == mx.round(before.astype(mx.float32)))])  # fmt: skip
        return bool(whole) and not was

    return Claim("finding: cut between", holds, lambda: (
        f"{cut.label} {words.call(cut)} ({words.spot(cut)}) makes whole numbers of what a layer without a gradient "
        f"gives, and {layer.label} {words.call(layer)} ({words.spot(layer)}) takes them: is that meant?"))  # fmt: skip


CHECKS: list[Check] = [collapsed, cut_between]
