"""Loss: what changed the loss from one pass to the next, to first order, and how well that predicts it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.answer import Cause, Evidence
from nnrepl.explain.look import Look
from nnrepl.explain.paths import gradient_pass, leaves_later, same_function
from nnrepl.ops import Trait, has
from nnrepl.record.batches import total
from nnrepl.session.errors import UserError
from nnrepl.session.reading import Reading
from nnrepl.tape import Op, Pass, Value
from nnrepl.tape.claims import Claim, Possibility, joined, say, say_first, stated


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
    parts = [first_order(grad.array, old.array, new.array) for old, new, grad in pairs]
    moved = mx.stack([mx.any(old.array != new.array) for old, new, _ in pairs] or [mx.array(False)]).any()
    first, second, mixed, moves, *changes = look.numbers(
        [old_loss.array, new_loss.array, _on_old_data(before, after), moved, *parts]
    )
    shares = sorted(
        (Share(old.name, change) for (old, _, _), change in zip(pairs, changes)), key=lambda one: -abs(one.change)
    )
    weights = LossChange(
        float(first), float(mixed), float(second), float(sum(changes)), mx.finfo(old_loss.dtype).eps, bool(moves)
    )
    answer = Cause(stated(*_heads(look, before, after, weights)))
    answer.ops = look.ops
    if not weights.is_finite:
        answer.reasons = say(_followed(weights))
        return answer
    if not weights.moved:
        return answer
    slope = foretold("the weights", "Σ ∂L/∂w · Δw", weights)
    answer.reasons = [joined(say(slope), say_first(verdict(weights.predicted, weights.done, weights.grain)))]
    answer.evidence = [
        Evidence(share.name, f"{signed(share.change)}   (Σ ∂L/∂{share.name} · Δ{share.name})") for share in shares[:6]
    ]
    return answer


def first_order(gradient: mx.array, old: mx.array, new: mx.array) -> mx.array:
    """Return what a change does to a loss by its slope; of complex numbers both parts count, as MLX takes gradients."""
    if not mx.issubdtype(old.dtype, mx.complexfloating):
        return total(gradient.astype(mx.float32) * (new - old).astype(mx.float32))
    moved = new - old
    return total(mx.real(gradient) * mx.real(moved) + mx.imag(gradient) * mx.imag(moved))


@dataclass(frozen=True, slots=True)
class LossChange:
    """What became of a loss.

    Attributes:
        first, second: Before and after.
        mixed: With the new weights on the old data.
        predicted: What the weights should change, to first order.
        eps: The rounding of 1 in its dtype.
        moved: Whether any weight has another number.
    """

    first: float
    mixed: float
    second: float
    predicted: float
    eps: float
    moved: bool = True

    @property
    def is_finite(self) -> bool:
        """Whether it can be shared out."""
        return all(map(math.isfinite, (self.first, self.second, self.mixed)))

    @property
    def done(self) -> float:
        """What the weights did."""
        return self.mixed - self.first

    @property
    def rest(self) -> float:
        """What all else did."""
        return self.second - self.mixed

    @property
    def grain(self) -> float:
        """What a change of the loss may be by rounding alone."""
        return _GRAIN * self.eps * max(abs(self.first), abs(self.second), abs(self.mixed))


_GRAIN = 16


def _followed(change: LossChange) -> Claim[str]:
    """Claim that a loss is no number, and what follows it."""
    bad = next((number for number in (change.second, change.first) if not math.isfinite(number)), 0.0)
    return Claim("why: loss is none", lambda: not math.isfinite(bad), lambda: (
        f"why {'nan' if math.isnan(bad) else 'inf'} follows it to where it was born."))  # fmt: skip


def foretold(who: str, terms: str, change: LossChange) -> Claim[str]:
    """Claim what a change should do to the loss by its slope, as far as that is a number."""
    return Claim("why: foretold", lambda: math.isfinite(change.predicted), lambda: (
        f"To first order {who} should change the loss by {terms} = {signed(change.predicted)};"))  # fmt: skip


def _heads(look: Look, before: Pass, after: Pass, change: LossChange) -> Iterator[Claim[str]]:
    """Yield what became of the loss, and by what."""
    first, second = change.first, change.second
    went = f"The loss went from {words.number(first)} ({before.address}) to {words.number(second)} ({after.address})"
    none = ", but that of the new weights on the old data is not finite" if math.isfinite(first + second) else ""
    yield Claim("why: loss is not finite", lambda: not change.is_finite, lambda: (
        f"{went}{none}: such a change cannot be shared out among the weights."))  # fmt: skip
    others = _others(look, before, after) if change.is_finite else []
    names = _listed(others)
    done = f"{went}: {signed(second - first)}. The weights account for {signed(change.done)}"
    alone = f"{went}: {signed(second - first)}. No weight has changed between them"
    yield Claim("why: no weight moved", lambda: not change.moved and bool(others), lambda: (
        f"{alone}; what differs ({names}) accounts for all of it."))  # fmt: skip
    yield Claim(
        "why: nothing moved",
        lambda: not change.moved and not others,
        lambda: f"{alone}, nor anything else that goes in.",
    )
    large = abs(change.rest) > 1e-6 * max(abs(first), 1e-12)
    yield Claim("why: the rest too", lambda: large, lambda: (
        f"{done}, what else differs{f' ({names})' if others else ''} for {signed(change.rest)}."))  # fmt: skip
    yield Claim("why: weights alone", lambda: not others, lambda: f"{done}; nothing else that goes in differs.")
    yield Claim("why: the rest does little", lambda: not large, lambda: (
        f"{done}; {names} differ{'s' if len(others) == 1 else ''} too, which changes next to nothing."))  # fmt: skip


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
    constants, the ops themselves."""
    wrt = {*before.wrt, *after.wrt}
    found: dict[str, None] = {}
    old_ops, new_ops = _forward(before), _forward(after)
    if [op.name for op in old_ops] != [op.name for op in new_ops]:
        return ["other ops were run"]
    for one, other in zip(old_ops, new_ops):
        if _numbers(one) != _numbers(other):
            found[f"the call {other.label} {words.call(other)}"] = None
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


def _numbers(op: Op) -> list[object]:
    """Return what an op was called with that is no tensor, as far as it is written in the call."""
    plain = (int, float, str, tuple, slice)
    return [arg for arg in (*op.args, *op.kwargs.values()) if isinstance(arg, plain) and not _holds_values(arg)]


def _holds_values(arg: object) -> bool:
    return isinstance(arg, tuple) and any(isinstance(one, Value) or _holds_values(one) for one in arg)


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


def verdict(predicted: float, real: float, grain: float) -> Iterator[Claim[str]]:
    """Yield how well the slope predicted a change.

    Args:
        grain: What the change may be by rounding alone.
    """
    finite = math.isfinite(predicted - real)
    yield Claim("why: slope says nothing", lambda: not finite, lambda: (
        "the slope says nothing: not every number that it is made of is finite."))  # fmt: skip
    yield Claim("why: within rounding", lambda: max(abs(predicted), abs(real)) <= grain, lambda: (
        f"it was {signed(real)}: neither is more than the rounding of the loss."))  # fmt: skip
    off = abs(predicted - real)
    yield Claim("why: predicts well", lambda: off <= 0.1 * max(abs(predicted), abs(real)) + grain, lambda: (
        "that predicts it well: the step was small enough for the slope to hold."))  # fmt: skip
    yield Possibility("why: other way", lambda: predicted * real < 0, lambda: (
        "it went the other way: the step may have been so large that the slope says nothing about where it led "
        "(or the gradient is not that of this loss: check pass)."))  # fmt: skip
    yield Possibility("why: curved", lambda: finite and off > grain, lambda: (
        f"it was {signed(real)}: the loss may be curved, and the step large enough to feel it (or the gradient is not "
        "that of this loss: check pass)."))  # fmt: skip
