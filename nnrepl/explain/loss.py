"""Loss: what changed the loss from one pass to the next, to first order, and how well that predicts it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.answer import Cause, Evidence
from nnrepl.explain.look import Look
from nnrepl.explain.paths import gradient_pass, leaves_later, same_function
from nnrepl.ops import Trait, has
from nnrepl.record.batches import total
from nnrepl.session.errors import UserError
from nnrepl.session.reading import Reading
from nnrepl.tape import Op, Pass, Value


@dataclass(frozen=True, slots=True)
class Share:
    """What the change of one parameter does to the loss, to first order."""

    name: str
    change: float


def why_loss(session: Reading) -> Cause:
    """Which parameters account for the change of the loss between a pass and the one before: ΔL ≈ Σ ∂L/∂w · Δw.

    Raises:
        UserError: If there are no two passes of the same function.
    """
    before, after = _pair(session)
    look = Look(session)
    pairs = _pairs(before, after)
    old_loss, new_loss = before.loss, after.loss
    assert old_loss is not None
    assert new_loss is not None
    look.see([old_loss, new_loss, *(value for triple in pairs for value in triple)])
    parts = [
        total(grad.array.astype(mx.float32) * (new.array - old.array).astype(mx.float32)) for old, new, grad in pairs
    ]
    first, second, mixed, *changes = look.numbers([old_loss.array, new_loss.array, _on_old_data(before, after), *parts])
    shares = sorted(
        (Share(old.name, change) for (old, _, _), change in zip(pairs, changes)), key=lambda one: -abs(one.change)
    )
    predicted, weights, rest = sum(changes), mixed - first, second - mixed
    went = (
        f"The loss went from {words.number(float(first))} ({before.address}) to {words.number(float(second))} "
        f"({after.address})"
    )
    if not all(map(math.isfinite, (first, second, mixed))):
        return _not_finite(went, float(first), float(second), look)
    others = _others(look, before, after)
    answer = Cause(
        f"{went}: {signed(second - first)}. The weights account for {signed(weights)}"
        + (
            f", what else differs{f' ({_listed(others)})' if others else ''} for {signed(rest)}."
            if abs(rest) > 1e-6 * max(abs(first), 1e-12)
            else "; nothing else that goes in differs."
            if not others
            else f"; {_listed(others)} differ{'s' if len(others) == 1 else ''} too, which changes next to nothing."
        )
    )
    answer.reasons.append(
        f"To first order the weights should change it by Σ ∂L/∂w · Δw = {signed(predicted)}; "
        f"{verdict(predicted, weights)}"
    )
    answer.evidence = [
        Evidence(share.name, f"{signed(share.change)}   (Σ ∂L/∂{share.name} · Δ{share.name})") for share in shares[:6]
    ]
    answer.ops = look.ops
    return answer


def _not_finite(went: str, first: float, second: float, look: Look) -> Cause:
    """Return what can be said where the loss, or that of the new weights on the old data, is no number."""
    if math.isfinite(first) and math.isfinite(second):
        went += ", but that of the new weights on the old data is not finite"
    answer = Cause(f"{went}: such a change cannot be shared out among the weights.")
    if not (math.isfinite(first) and math.isfinite(second)):
        bad = second if not math.isfinite(second) else first
        answer.reasons.append(f"why {'nan' if math.isnan(bad) else 'inf'} follows it to where it was born.")
    answer.ops = look.ops
    return answer


def _pair(session: Reading) -> tuple[Pass, Pass]:
    """Return the pass at the cursor and the one before it of the same function, else the one after."""
    here = gradient_pass(session)
    same = [pass_ for pass_ in same_function(session, here) if pass_.loss is not None]
    if len(same) < 2 or here not in same:
        raise UserError(
            "why loss compares two passes of the same function; go on until the next one (c, or until forward)"
        )
    at = same.index(here)
    return (same[at - 1], here) if at else (here, same[1])


def _pairs(before: Pass, after: Pass) -> list[tuple[Value, Value, Value]]:
    """Each parameter before and after, with its gradient before."""
    later = leaves_later(before, after)
    return [
        (leaf, later[leaf], before.grads[leaf][-1])
        for leaf in before.wrt
        if before.grads.get(leaf) and leaf in later and later[leaf].shape == leaf.shape
    ]


def _others(look: Look, before: Pass, after: Pass) -> list[str]:
    """Return what goes into two passes beside the weights and is not the same in both: data, drawn numbers,
    constants."""
    wrt = {*before.wrt, *after.wrt}
    found: dict[str, None] = {}
    for one, other in zip(_forward(before), _forward(after)):
        pairs = list(zip(one.inputs, other.inputs))
        if has(one.name, Trait.RANDOM):
            pairs += zip(one.outputs, other.outputs)
        for old, new in pairs:
            made = old.op is not None and old.op.pass_ is before and not has(old.op.name, Trait.RANDOM)
            if made or old is new or old in wrt or new in wrt or not (look.can_see(old) and look.can_see(new)):
                continue
            look.see([old, new])
            if old.shape != new.shape or not look.numbers([mx.array_equal(old.array, new.array, equal_nan=True)])[0]:
                found[words.name(old)] = None
    return list(found)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _on_old_data(before: Pass, after: Pass) -> mx.array:
    """Return the loss of the new weights on the old data: the recorded forward ops on other leaves."""
    now: dict[Value, mx.array] = {leaf: new.array for leaf, new in leaves_later(before, after).items()}
    reached = set(now)
    for op in _forward(before):
        if any(value.canonical in reached for value in op.inputs):
            results = op.compute(lambda value: now.get(value.canonical, value.array))
            for value, result in zip(op.outputs, results):
                now[value.canonical] = result
                reached.add(value.canonical)
    assert before.loss is not None
    return now.get(before.loss.canonical, before.loss.array)


def _forward(pass_: Pass) -> list[Op]:
    return [op for op in pass_.forward if op.error is None]


def signed(number: float) -> str:
    """Return a change with its sign."""
    return ("+" if number >= 0 else "") + words.number(float(number))


def verdict(predicted: float, real: float) -> str:
    """How well the slope predicted a change."""
    if not math.isfinite(predicted - real):
        return "the slope says nothing: not every number that it is made of is finite."
    if abs(predicted - real) <= 0.1 * max(abs(predicted), abs(real)):
        return "that predicts it well: the step was small enough for the slope to hold."
    if predicted * real < 0:
        return "it went the other way: the step was so large that the slope says nothing about where it led."
    return f"it was {signed(real)}: the loss is curved, and the step was large enough to feel it."
