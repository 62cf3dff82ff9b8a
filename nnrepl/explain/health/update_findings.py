"""Updates: what the optimizer does to the weights, against the gradients and the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.health.gradient_findings import finals
from nnrepl.explain.health.report import NOTE, WARNING, Check, Checkup, Finding, findings
from nnrepl.explain.masks import is_mask
from nnrepl.explain.paths import leaves_later
from nnrepl.ops import Trait, has
from nnrepl.record.batches import total
from nnrepl.session.births import is_inexact
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim, Possibility


@dataclass(frozen=True, slots=True)
class ParameterUpdate:
    """A parameter before and after its update, and its gradient."""

    name: str
    before: Value
    after: Value
    gradient: Value


def changes(case: Checkup) -> list[ParameterUpdate]:
    """Return the parameters that the update after a pass has changed."""
    passes = case.after
    if not passes:
        return []
    found = []
    start, end = passes[0].start, passes[-1].end
    later = leaves_later(case.pass_, case.next) if case.next is not None else {}
    by_hand = {} if case.next is not None else _as_before(case)
    for leaf, gradient in finals(case).items():
        after = _newest(case, leaf, start, end) or _goes_on(later.get(leaf), start, end) or by_hand.get(leaf)
        if after is not None and after.shape == leaf.shape:
            found.append(ParameterUpdate(leaf.name, leaf, after, gradient))
    return found


def same_weight(one: Value, other: Value | None) -> bool:
    """Whether two leaves of two passes are one tensor, which no update has changed between them."""
    return other is not None and one.oldest is other.oldest


def _newest(case: Checkup, leaf: Value, start: int, end: int) -> Value | None:
    """Return what an update made of a parameter."""
    names = case.session.names
    home = names.homes.of(leaf)  # by the place itself: other models may be called so
    for versions in ([] if home is None else names.homes.held(home), names.versions(leaf.name)):
        made = [value for _, value in versions if value.op is not None and start <= value.op.position < end]
        if made:
            return made[-1]
    return None


def _goes_on(later: Value | None, start: int, end: int) -> Value | None:
    """Return what an update made of which the next pass takes the numbers, under another name (`p.layers.0` of
    `weights`)."""
    made = later.origin if later is not None else None
    return made if made is not None and made.op is not None and start <= made.op.position < end else None


def _as_before(case: Checkup) -> dict[Value, Value]:
    """Return what the last update made of weights that no later pass takes: what stands where the update before made
    those that this pass took."""
    before = case.before
    turn = [] if before is None else Checkup(case.session, before, case.look, case.limits).after
    places: dict[Value, tuple[object, int]] = {}
    for leaf in case.pass_.wrt:
        made = _goes_on(leaf, turn[0].start, turn[-1].end) if turn else None
        if made is not None and made.op is not None and made.op.scope is not None:
            places[leaf] = made.op.scope.code, made.op.lasti
    whose = {one: leaf for leaf in places for one in (leaf, leaf.origin) if one is not None}
    found: dict[Value, Value] = {}
    for op in (op for pass_ in case.after for op in pass_.ops if op.error is None):
        of = next((whose[taken] for taken in op.inputs if taken in whose), None)
        if of is None or len(op.outputs) != 1 or op.outputs[0].shape != of.shape:
            continue
        if op.scope is not None and (op.scope.code, op.lasti) == places[of]:
            found[of] = op.outputs[0]
        else:
            whose.setdefault(op.outputs[0], of)  # (1 - decay) * w, of which the update is made
    return found


def steps(case: Checkup) -> Iterator[Finding]:
    """Find updates that are too large, go uphill, or are lost to rounding."""
    moved = [change for change in changes(case) if not is_mask(case.look, change.before)]
    if case.broken or not moved:
        return
    numbers = _measured(case, moved)
    if not case.unapplied:
        leaps = list(_leaps(case, moved, numbers))
        yield from leaps or _leapt_first(case)
    yield from _uphill(case, moved, numbers)
    yield from _idle(case, moved, numbers)
    yield from _lost(case, moved, numbers)


def _measured(case: Checkup, moved: list[ParameterUpdate]) -> list[list[float]]:
    """Return of each update the squares of its step, its weight and its gradient, and how they go together."""
    case.look.see([value for change in moved for value in (change.before, change.after, change.gradient)])
    parts = []
    for change in moved:
        before, after, grad = (
            value.array.astype(mx.float32) for value in (change.before, change.after, change.gradient)
        )
        delta = after - before
        parts.append(mx.stack([
            total(mx.square(delta)), total(mx.square(before)), total(delta * grad), total(mx.square(grad)),
            mx.sum((delta == 0) & (grad != 0)).astype(mx.float32), mx.sum(grad != 0).astype(mx.float32),
        ]))  # fmt: skip
    numbers: list[list[float]] = case.look.numbers(parts)
    return numbers


def _leaps(
    case: Checkup, moved: list[ParameterUpdate], numbers: list[list[float]], when: str = ""
) -> Iterator[Finding]:
    """Find updates that are large beside the weights. A weight that began at 0 (or next to it) leaps and is sound: what
    counts is whether all weights together do, or the greater part of the matrices."""
    weights = [(change, part[0], part[1]) for change, part in zip(moved, numbers)]
    matrices = [one for one in weights if len(one[0].before.shape) > 1] or weights
    grown = [(change, delta, weight) for change, delta, weight in matrices
             if not _began_small(case, change, delta) and not case.look.stat(change.after).is_zero]  # fmt: skip
    ratios = {change.name: math.sqrt(delta / weight) for change, delta, weight in grown if weight > 0}
    large = {name: ratio for name, ratio in ratios.items() if ratio > case.limits["update"]}
    together = math.sqrt(sum(delta for _, delta, _ in grown) / (sum(weight for *_, weight in grown) or math.inf))
    if not large or (together <= case.limits["update"] and 2 * len(large) <= len(ratios)):
        return
    worst = max(large, key=large.__getitem__)
    change = next(change for change in moved if change.name == worst)
    yield from findings(_leapt(case, change, large, len(ratios), when), "leaping update",
                        _shown_by(change.after.op), change.after.op)  # fmt: skip


def _shown_by(op: Op | None) -> str:
    return f"explain {op.label}" if op is not None else "explain"


def _step_size(case: Checkup, change: ParameterUpdate) -> float:
    """Return the norm of an update beside that of its weight, from their largest numbers down: nothing overflows."""
    case.look.see([change.before, change.after])
    before, after = (value.array.astype(mx.float32) for value in (change.before, change.after))
    peak = mx.maximum(mx.max(mx.abs(before)), mx.max(mx.abs(after))) + 1e-38
    step, weight = (mx.sqrt(total(mx.square(one / peak))) for one in (after - before, before))
    return float(case.look.numbers([step / weight])[0])


def _leapt(case: Checkup, change: ParameterUpdate, large: dict[str, float], count: int, when: str) -> Claim[str]:
    """Claim how large an update is beside its weight, from the two tensors themselves."""
    name, ratio = change.name, large[change.name]
    return Claim("finding: leaping update", lambda: abs(_step_size(case, change) / ratio - 1) < 0.05, lambda: (
        f"{when or 'the update'} of {name} {'was' if when else 'is'} {words.number(ratio)} times as large as {name} "
        f"{'was then' if when else 'itself'} (usual is about 0.001; "
        f"{len(large)} of {count} weights){_what_came(case)}"))  # fmt: skip


_SMALL = 0.01  # weights of which a typical element is no larger are young, or begin small on purpose


def _began_small(case: Checkup, change: ParameterUpdate, delta: float) -> bool:
    """Whether a weight began at 0, or so small that a few such steps make all of it."""
    first = next((leaf for pass_ in case.session.tape.passes for leaf in pass_.wrt if leaf.name == change.name), None)
    if first is None or first.shape != change.before.shape or not case.look.can_see(first):
        return False
    stat = case.look.stat(first)
    typical = stat.norm / math.sqrt(max(stat.size, 1))
    step = math.sqrt(delta / max(stat.size, 1))
    return stat.is_zero or (typical < _SMALL and step < _SMALL)


def _what_came(case: Checkup) -> str:
    """Return what the loss did after the update, where that is on the tape."""
    before, after = case.pass_.loss, case.next.loss if case.next is not None else None
    if before is None or after is None or before.size != 1 or after.size != 1 or not case.look.can_see(after):
        return ""
    case.look.see([before, after])
    old, new = case.look.numbers([before.array.flatten()[0], after.array.flatten()[0]])
    if not new > old:
        return ""
    return f", and the loss went from {words.number(float(old))} to {words.number(float(new))}: a lower learning rate?"


def _idle(case: Checkup, moved: list[ParameterUpdate], numbers: list[list[float]]) -> Iterator[Finding]:
    """Find an update that leaves the weights as they are, or nearly, although there are gradients."""
    followed = [(change, part) for change, part in zip(moved, numbers) if _follows(case, change)]
    moved, numbers = [change for change, _ in followed], [part for _, part in followed]
    wide = [
        part for change, part in zip(moved, numbers) if change.before.dtype == mx.float32 or _is_no_step(case, change)
    ]
    delta, weight = sum(part[0] for part in wide), sum(part[1] for part in wide)
    gradient = sum(part[5] for part in wide)
    if not wide or not gradient or not weight or math.sqrt(delta / weight) > case.limits["idle"]:
        return
    op = moved[0].after.op
    ratio = math.sqrt(delta / weight)
    one = _one_weight(moved, numbers, weight)
    changed = [change for change in moved if change.before.dtype == mx.float32 or _is_no_step(case, change)]
    zeros = _zeros_of(case, moved[0])[-1:]
    claim = _stood_still(case, changed, zeros) if delta == 0 else _crept(case, changed, ratio, one)
    yield from findings(claim, "idle update", _shown_by(op), op, NOTE if _moves_later(case, moved) else WARNING)


def _follows(case: Checkup, change: ParameterUpdate) -> bool:
    """Whether what a weight has become is computed from its gradient, and is not only chosen by what that led to: a
    proposal of a sampler that is taken or not."""
    stack, seen = [change.after], {change.after}
    while stack:
        value = stack.pop()
        if change.gradient in (value, value.origin):
            return True
        op = value.op
        if op is None or op.pass_ not in case.after:
            continue
        operands = op.inputs[1:] if has(op.name, Trait.SWITCHES) else op.inputs
        stack.extend(taken for taken in operands if taken not in seen)
        seen.update(operands)
    return False


def _stood_still(case: Checkup, moved: list[ParameterUpdate], zeros: list[Value]) -> Claim[str]:
    """Claim that weights are what they were, element by element, that a gradient of theirs is not 0, and that a single
    number of the update is."""

    def holds() -> bool:
        same = [mx.array_equal(one.before.array, one.after.array, equal_nan=True) for one in moved]
        alive = [mx.any(one.gradient.array != 0) for one in moved]
        none = all(case.look.stat(one).is_zero for one in zeros)
        return none and all(case.look.numbers(same)) and any(case.look.numbers(alive))

    rate = "".join(f": {words.name(one)} is 0" for one in zeros)
    them, were = (f"all {len(moved)} weights", "they were") if len(moved) > 1 else ("the weight", "it was")
    return Claim("finding: idle update", holds, lambda: (
        f"the update leaves {them} exactly as {were}, although there are gradients that are not 0{rate}"))  # fmt: skip


def _crept(case: Checkup, moved: list[ParameterUpdate], ratio: float, one: str) -> Claim[str]:
    """Claim that an update is small beside the weights: no weight's own may be larger than all weights' together
    allow."""
    most = case.limits["idle"] * 1.05
    far = [mx.max(mx.abs((one.after.array - one.before.array).astype(mx.float32))) for one in moved]
    wide = [mx.max(mx.abs(one.before.array.astype(mx.float32))) * one.before.size**0.5 for one in moved]

    def holds() -> bool:
        return bool(max(case.look.numbers(far)) <= most * sum(case.look.numbers(wide)))

    them = f"the weights (all {len(moved)} together; " if len(moved) > 1 else "the weight ("
    return Claim("finding: creeping update", holds, lambda: (
        f"the update is {words.number(ratio)} times as large as {them}usual is about 0.001): it changes next to "
        f"nothing{one}"))  # fmt: skip


def _one_weight(moved: list[ParameterUpdate], numbers: list[list[float]], whole: float) -> str:
    """Return that one weight is nearly all that the others are measured by, "" if none is."""
    if len(moved) < 2:
        return ""
    change, size = max(zip((one.name for one in moved), (part[1] for part in numbers)), key=lambda one: one[1])
    return f"; {change} alone has norm {words.number(math.sqrt(size))}" if size > 0.9999 * whole else ""


def _is_no_step(case: Checkup, change: ParameterUpdate) -> bool:
    """Whether what is taken from a weight, or added to it, is 0 everywhere: nothing is lost to rounding there."""
    op = change.after.op
    if op is None or op.name not in ("subtract", "add"):
        return False
    steps = [taken for taken in op.inputs if not same_weight(change.before, taken) and is_inexact(taken)]
    return len(steps) == 1 and case.look.can_see(steps[0]) and case.look.stat(steps[0]).is_zero


def _moves_later(case: Checkup, moved: list[ParameterUpdate]) -> bool:
    """Whether a later update does change the weights, or, where there is none yet, may: a learning rate that is
    warmed up begins at 0."""
    after = case.next
    later = [] if after is None else changes(Checkup(case.session, after, case.look, case.limits))
    for change in later:
        case.look.see([change.before, change.after])
        size = total(mx.square(change.before.array.astype(mx.float32)))
        step = total(mx.square((change.after.array - change.before.array).astype(mx.float32)))
        far, whole = case.look.numbers([step, size])
        if far > case.limits["idle"] ** 2 * whole:
            return True
    return not later and case.before is None and _is_scheduled(case, moved[0])


def _is_scheduled(case: Checkup, change: ParameterUpdate) -> bool:
    """Whether a step is 0 because of a single number that the update computes from others than 0: the learning rate
    of a schedule, which is another one in the next step."""
    zeros = _zeros_of(case, change)
    return bool(zeros) and all(one.op is not None and one.op.pass_ in case.after for one in zeros)


def _zeros_of(case: Checkup, change: ParameterUpdate) -> list[Value]:
    """Return the single numbers that are 0 of which an update of a weight is made, those of which others are made
    last."""
    stack, seen = [change.after], {change.after, change.before, change.gradient}
    zeros: list[Value] = []
    while stack:
        op = stack.pop().op
        if op is None or op.pass_ not in case.after:
            continue
        fresh = [taken for taken in op.inputs if taken not in seen and is_inexact(taken) and not taken.refusal]
        seen.update(fresh)
        stack.extend(fresh)
        zeros += [taken for taken in fresh if taken.size == 1 and case.look.stat(taken).is_zero]
    return zeros


def _uphill(case: Checkup, moved: list[ParameterUpdate], numbers: list[list[float]]) -> Iterator[Finding]:
    along = sum(part[2] for part in numbers)
    size = math.sqrt(sum(part[0] for part in numbers) * sum(part[3] for part in numbers))
    if size > 0 and along > 0.1 * size and _adds_the_gradient(case, moved, along):
        op = moved[0].after.op
        yield from findings(_goes_up(case, moved, along / size), "uphill", _shown_by(op), op)


def _goes_up(case: Checkup, moved: list[ParameterUpdate], cosine: float) -> Claim[str]:
    """Claim that an update goes along the gradients: by the sign of Σ Δw · g, added up anew."""

    def holds() -> bool:
        products = [
            total((one.after.array - one.before.array).astype(mx.float32) * one.gradient.array) for one in moved
        ]
        return bool(sum(case.look.numbers(products)) > 0)

    return Possibility("finding: uphill", holds, lambda: (
        f"the update goes along the gradient instead of against it (their cosine is {words.number(cosine)}), and "
        "turned round the gradients would lead down: a sign is probably wrong"))  # fmt: skip


def _adds_the_gradient(case: Checkup, moved: list[ParameterUpdate], along: float) -> bool:
    """Whether an update with the same gradients turned round goes less far along them: what is left of earlier steps
    (a momentum) may go along a gradient as well, and is no fault."""
    known = {change.gradient: -change.gradient.array for change in moved}
    turned = Turned([op for pass_ in case.after for op in pass_.ops], known)
    try:
        new = [(turned.of(change.after), change) for change in moved]
        case.look.see([change.before for change in moved])
        parts = [total((after - one.before.array).astype(mx.float32) * one.gradient.array.astype(mx.float32))
                 for after, one in new]  # fmt: skip
        return bool(sum(case.look.numbers(parts)) < along)
    except (LookupError, ValueError, RuntimeError, TypeError):
        return False  # an op that cannot be computed again: nothing is known


class Turned:
    """What some ops would give if some tensors were others.

    Args:
        ops: The ops, in order.
        known: What is other, with its numbers.
    """

    def __init__(self, ops: Sequence[Op], known: dict[Value, mx.array]) -> None:
        self._known = known
        for op in ops:
            if op.error is None and any(taken in known for taken in op.inputs):
                known.update(zip(op.outputs, op.compute(self.of)))

    def of(self, value: Value) -> mx.array:
        """Return the numbers of a value then."""
        return self._known.get(value, value.array)


def _lost(case: Checkup, moved: list[ParameterUpdate], numbers: list[list[float]]) -> Iterator[Finding]:
    small = [
        (change, still / count) for change, (*_, still, count) in zip(moved, numbers)
        if change.before.dtype in (mx.float16, mx.bfloat16) and count and still > case.limits["lost"] * count
        and not _is_no_step(case, change)
    ]  # fmt: skip
    small = [(change, share) for change, share in small if _steps_lost(case, change) in (None, True)]
    if small:
        change, share = max(small, key=lambda item: item[1])
        level = WARNING if 2 * len(small) > len(moved) else NOTE
        claim = _is_lost(case, change, share, f"{len(small)} of {len(moved)} parameters")
        yield from findings(claim, "lost update", f"explain {change.name}", change.after.op, level)


def _steps_lost(case: Checkup, change: ParameterUpdate) -> bool | None:
    """Whether most elements of a weight stay what they were although what is taken from them is not 0 there; None
    where it is not known what is."""
    op = change.after.op
    if op is None or op.name not in ("subtract", "add"):
        return None
    steps = [taken for taken in op.inputs if not same_weight(change.before, taken) and is_inexact(taken)]
    if len(steps) != 1 or steps[0].shape != change.before.shape or not case.look.can_see(steps[0]):
        return None
    case.look.see([steps[0], change.before, change.after])
    still = (change.after.array == change.before.array) & (change.gradient.array != 0)
    lost, count = case.look.numbers([mx.sum(still & (steps[0].array != 0)), mx.sum(change.gradient.array != 0)])
    return bool(lost > case.limits["lost"] * count)


def _is_lost(case: Checkup, change: ParameterUpdate, share: float, count: str) -> Claim[str]:
    """Claim that a weight stays what it was where its gradient is not 0; because its steps are too small, where that is
    known, else perhaps."""
    kind = words.dtype(change.before.dtype)
    known = _steps_lost(case, change)
    still = (change.after.array == change.before.array) & (change.gradient.array != 0)

    def holds() -> bool:
        return bool(case.look.numbers([mx.any(still)])[0])

    because = f"the step is smaller than what {kind} can tell apart" if known else (
        f"the step may be smaller than what {kind} can tell apart")  # fmt: skip
    return (Claim if known else Possibility)("finding: lost update", holds, lambda: (
        f"{100 * share:.0f} % of the elements of {change.name} stay what they were although their gradient is not 0: "
        f"{because} ({count}); keep the weights in float32"))  # fmt: skip


def thrown(case: Checkup) -> Iterator[Finding]:
    """Find weights that are a hundred times as large as in the first step, and far from 1."""
    far = [(old, now) for old, now in _grown(case, _THROWN) if case.look.stat(now).typical > _OUT]
    if not far:
        return
    stats = case.look.stats([one for pair in far for one in pair])
    old, now = max(far, key=lambda pair: stats[pair[1]].typical / stats[pair[0]].typical)
    more = f" ({len(far)} such weights)" if len(far) > 1 else ""
    yield from findings(
        Claim("finding: thrown", lambda: _grew(case, old, now), lambda: (
            f"a typical element of {now.name} is {words.number(stats[now].typical)}, and was "
            f"{words.number(stats[old].typical)} in {case.series[0].step.title}{more}: the updates have thrown it far "
            "out")), "leaping update", "info parameters", None)  # fmt: skip


_THROWN, _OUT, _BEGAN, _DOUBLED = 100.0, 10.0, 1e-3, 2.0


def _grown(case: Checkup, times: float) -> list[tuple[Value, Value]]:
    """Return the matrices of which a typical element is so many times as large as in the first step: then, and now."""
    first = case.series[0]
    if case.broken or first is case.pass_:
        return []
    pairs = [(old, now) for old, now in leaves_later(first, case.pass_).items()
             if len(now.shape) > 1 and not old.refusal and not now.refusal]  # fmt: skip
    stats = case.look.stats([one for pair in pairs for one in pair])
    return [(old, now) for old, now in pairs
            if stats[old].typical > _BEGAN and stats[now].typical > times * stats[old].typical]  # fmt: skip


def _grew(case: Checkup, old: Value, now: Value) -> bool:
    """Whether a tensor is far larger than another: by the mean of the absolute values."""
    sizes = [mx.mean(mx.abs(case.look.array(one).astype(mx.float32))) for one in (old, now)]
    before, after = case.look.numbers(sizes)
    return bool(after > 0.1 * _THROWN * before)


def _leapt_first(case: Checkup) -> Iterator[Finding]:
    """Find a leap of the first update that has left weights large: behind a norm the gradients fall as they grow, and
    later updates are small beside them."""
    grown = {old.name for old, _ in _grown(case, _DOUBLED)}
    if not grown or any(case.look.stat(now).typical > _OUT for _, now in _grown(case, _THROWN)):
        return
    first = case.series[0]
    earlier = Checkup(case.session, first, case.look, case.limits)
    moved = [change for change in changes(earlier) if all(
        case.look.can_see(value) for value in (change.before, change.after, change.gradient))]  # fmt: skip
    if any(change.name in grown for change in moved):
        yield from _leaps(earlier, moved, _measured(earlier, moved), f"the update in {first.step.title}")


CHECKS: list[Check] = [steps, thrown]
