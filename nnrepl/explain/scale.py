"""Scale: which ops shrink or grow a gradient most on its way from the loss."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.answer import Cause
from nnrepl.explain.forward import NOTABLE, Growth, made_large, made_small
from nnrepl.explain.limits import is_lost, usual
from nnrepl.explain.links import describe, links_along
from nnrepl.explain.local import factor_text, follows_itself
from nnrepl.explain.look import Look, Stat
from nnrepl.explain.outside import detours
from nnrepl.explain.paths import cone, path, upstream
from nnrepl.explain.sizes import sizes
from nnrepl.installed import is_library
from nnrepl.ops import Trait, has
from nnrepl.record.batches import total
from nnrepl.record.gradient_names import start_of
from nnrepl.session.births import is_inexact
from nnrepl.session.reading import Reading
from nnrepl.tape import Activation, Op, Pass, Value, result_inside
from nnrepl.tape.claims import Claim, Possibility, Said, full_stop, joined, perhaps, say, say_first


@dataclass(frozen=True, slots=True)
class Factor:
    """One op on the way, and by what it multiplied the root mean square of the gradient."""

    op: Op
    before: Value
    value: Value
    ratio: float


def why_scale(session: Reading, gradient: Value, how: str, name: str = "") -> Cause:
    """Return the links that shrink (`how` "small") or grow ("large") a gradient most.

    Compared is the root mean square of the elements, so that a change of shape alone counts nothing.
    """
    look = Look(session)
    way, stats = _way(look, gradient)
    steps = _steps(way, stats)
    first, last = stats[way[0]].typical, stats[gradient].typical
    if not how:
        how = "small" if last < first else "large"
    verb = "shrinks" if how == "small" else "grows"
    ordinary = _is_ordinary(look, gradient, first, last)
    pass_ = _pass_of(gradient)
    through = [] if pass_ is None else [said for detour in detours(look, pass_) for said in say(detour.claim)]
    groups = _groups(look, steps, how)
    worst = groups[0].cancels if groups else None
    rounding = worst is not None and worst.is_rounding
    name = name or gradient.name
    answer = Cause(joined(
        say_first(_heads(look, gradient, name, ordinary and not through, rounding)),
        say(_along(look, way, steps)),
    ))  # fmt: skip
    answer.reasons = [said for group in groups[:_SHOWN] for said in group.said(look, verb)]
    answer.op = groups[0].worst.op if groups else None
    answer.links = links_along(look, way, answer.op, f"{verb} it")
    if not ordinary:
        answer.advice = perhaps(*_advice(look, groups[:3], how))
    answer.also = [full_stop(text) for text in through]
    answer.ops = look.ops
    return answer


def _heads(look: Look, gradient: Value, name: str, ordinary: bool, rounding: bool) -> Iterator[Claim[str]]:
    """Yield what is to be said of the size of a gradient."""
    stat = look.stat(gradient)
    norm, each = f"norm {words.number(stat.norm)}", f"a typical element is {words.number(stat.typical)}"

    def is_finite() -> bool:
        return look.finite([gradient])[gradient]

    yield Claim("why: is rounding", lambda: is_finite() and rounding, lambda: (
        f"{name} has {norm}; what is left of a sum whose terms cancel is rounding; {each}."))  # fmt: skip
    yield Claim("why: ordinary", lambda: is_finite() and not stat.is_zero and ordinary, lambda: (
        f"Nothing is wrong with {name}: it is finite, and not 0, with {norm}; {each}."))  # fmt: skip
    yield Claim("why: has norm", is_finite, lambda: f"{name} has {norm}; {each}.")


def _along(look: Look, way: list[Value], steps: list[Factor]) -> Claim[str]:
    """Claim by how much a gradient has changed on its way: what its steps did, multiplied, comes to that."""
    first, last = look.stat(way[0]).typical, look.stat(way[-1]).typical

    def holds() -> bool:
        if not first or not last or not all(step.ratio for step in steps):
            return not last
        return abs(math.log(last / first) - sum(math.log(step.ratio) for step in steps)) < _SAME

    return Claim("why: on the way", holds, lambda: (
        f"On the way from {start_of(way[-1])} a typical element {'shrank' if last < first else 'grew'} "
        f"{_times(first, last)} over {len(way) - 1} ops."))  # fmt: skip


_SAME = 0.01


def _way(look: Look, gradient: Value) -> tuple[list[Value], dict[Value, Stat]]:
    """Return the way on which most of a gradient came from the loss, and what is on it in a few numbers."""
    values = [gradient, *(value for op in cone([gradient]) for value in (*upstream(op), *op.outputs))]
    stats = look.stats(values)
    return path(gradient, lambda before: max(before, key=lambda value: stats[value].norm)), stats


def shrinks(look: Look, gradient: Value) -> LineSteps | None:
    """Return the line of the program that shrinks a gradient most on its way from the loss; None if none does."""
    way, stats = _way(look, gradient)
    return next(iter(_groups(look, _steps(way, stats), "small")), None)


def grows(look: Look, gradient: Value) -> LineSteps | None:
    """Return the line of the program that grows a gradient most on its way from the loss; None if none does much."""
    way, stats = _way(look, gradient)
    return next((group for group in _groups(look, _steps(way, stats), "large") if group.effect > NOTABLE), None)


_SURELY, _ORDINARY = 100.0, 1e6
"""A change of less than this over the whole way calls for no advice, where nothing is known to hold it against; of less
than the smaller number in any case."""


def _pass_of(gradient: Value) -> Pass | None:
    return None if gradient.op is None else gradient.op.pass_


def _is_ordinary(look: Look, gradient: Value, first: float, last: float) -> bool:
    """Whether a gradient is neither lost nor huge: that of a weight beside the others of its pass, as `health` does;
    any other beside what it began as."""
    if not first or 1 / _SURELY < last / first < _SURELY:
        return True  # the other gradients need not be computed for it
    pass_ = _pass_of(gradient)
    finals = {} if pass_ is None else {leaf: pass_.grads[leaf][-1] for leaf in pass_.wrt if pass_.grads.get(leaf)}
    own = next((leaf for leaf, final in finals.items() if final is gradient and is_inexact(leaf)), None)
    if own is None:
        return 1 / _ORDINARY < last / first < _ORDINARY
    stats = look.stats([*(value for value in finals.values() if not value.refusal), own])
    top = max((stats[final].typical for final in finals.values() if final in stats), default=0.0)
    limits = usual()
    return stats[gradient].norm <= limits["huge"] and not is_lost(stats[own], stats[gradient], top, limits)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A sum whose terms cancel: how large a typical result is, and how large it would be if no term were negative;
    `grain` is the rounding of 1 in its dtype, `because` why they cancel, [] where that is not known."""

    sum: float
    parts: float
    grain: float
    because: list[Said]

    @property
    def is_rounding(self) -> bool:
        """Whether no more is left than rounding the terms makes."""
        return self.sum < 4 * self.grain * self.parts


_CANCELS = 1e-3
_SHOWN = 4


def cancelled(look: Look, op: Op, value: Value) -> Cancelled | None:
    """Whether the terms that a VJP adds up cancel, so that next to nothing is left; None if they do not, or where it
    cannot be told."""
    parts = sizes(look, op, value)
    if parts is None:
        return None
    whole = look.stat(value).typical
    size: float = look.numbers([mx.sqrt(total(mx.square(parts.astype(mx.float32))) / parts.size)])[0]
    if not size or whole >= _CANCELS * size:
        return None
    return Cancelled(whole, size, mx.finfo(value.dtype).eps, _why_cancelled(look, op))


def _why_cancelled(look: Look, op: Op) -> list[Said]:
    """Why what comes back through the shares of an attention cancels, where every position has the same value."""
    forward = op.of
    if forward is None or not has(forward.name, Trait.ATTENDS) or len(forward.args) < 3:
        return []
    values = forward.args[2]
    if not isinstance(values, Value) or not look.can_see(values):
        return []
    array = look.array(values)
    same = mx.allclose(array, array[..., :1, :], rtol=1e-5, atol=0)
    return say(Claim("why: same values", lambda: bool(look.numbers([same])[0]), lambda: (
        f"{words.name(values)} is the same at every position: it makes no difference which one is attended to."
    )))  # fmt: skip


def _steps(way: list[Value], stats: dict[Value, Stat]) -> list[Factor]:
    found = []
    for before, after in itertools.pairwise(way):
        low = stats[before].typical
        if after.op is not None and low > 0:
            found.append(Factor(after.op, before, after, stats[after].typical / low))
    return found


def _times(first: float, last: float) -> str:
    if not first or not last:
        return "to 0"
    ratio = last / first
    return f"by a factor of {words.number(float(f'{1 / ratio if ratio < 1 else ratio:.3g}'))}"


@dataclass(slots=True)
class LineSteps:
    """The steps of one line of the program: a layer of a deep stack, or a recurrent cell, is passed many times."""

    name: str
    where: str
    steps: list[Factor]
    effect: float = 1.0
    cancels: Cancelled | None = None
    sized: Growth | None = None
    inside: LineSteps | None = None

    @property
    def worst(self) -> Factor:
        """The step that changes most."""
        return max(self.steps, key=lambda step: abs(math.log(step.ratio)) if step.ratio else math.inf)

    def said(self, look: Look, verb: str, head: str = "") -> list[Said]:
        """Return what it does, in sentences.

        Args:
            verb: "shrinks" or "grows".
            head: What stands before the first of them.
        """
        found = say_first(self._claims(look, verb, head))
        if not found:
            return []
        because = self.cancels.because if self.cancels is not None else []
        sized = [self.sized.text] if self.sized is not None else []
        inside = [] if self.inside is None else self.inside.said(look, verb, "Inside of that call: ")
        return [joined(found, sized, because, inside)]

    def _claims(self, look: Look, verb: str, head: str) -> Iterator[Claim[str]]:
        """Yield what the steps do, with what the sum of the worst of them comes to, or its local factor."""
        by = words.number(float(f"{self.effect:.3g}"))
        op, value = self.worst.op, self.worst.value
        forward = op.of or op
        of = value.gradient_of
        factor = factor_text(op, of) if of is not None else ""
        module = f" in {op.module}" if op.module else ""
        at = f"{op.label}, the VJP of {describe(forward)}"
        does = f"{verb} it by a factor of {by}"
        done = f"{head}{at} ({self.where}{module}), {does}"
        if len(self.steps) > 1:
            times = f"is passed {len(self.steps)} times and {does} altogether; most at {at}"
            done = f"{head}{self.name} at {self.where} {times}"
        parts = 0.0 if self.cancels is None else self.cancels.parts

        def is_so() -> bool:
            return _is_effect(look, self, verb)

        yield Claim("why: cancels", lambda: is_so() and parts > 0 and bool(cancelled(look, op, value)), lambda: (
            f"{done}: the terms that it adds up cancel; without their signs a typical sum would be "
            f"{words.number(parts)}, and it is {words.number(look.stat(value).typical)}."))  # fmt: skip
        local = f"; its local factor is {factor}" if factor else ""
        yield Claim("why: step", is_so, lambda: f"{done}{local}.")


def _is_effect(look: Look, group: LineSteps, verb: str) -> bool:
    """Whether the steps of a line did what is said of them, in the numbers before and behind each."""
    sizes = look.stats([value for step in group.steps for value in (step.before, step.value)])
    ratios = [sizes[step.value].typical / max(sizes[step.before].typical, 1e-300) for step in group.steps]
    found = math.prod(1 / max(ratio, 1e-30) if verb == "shrinks" else ratio for ratio in ratios)
    return found > 1 and abs(found / group.effect - 1) < _SAME


def _groups(look: Look, steps: list[Factor], how: str) -> list[LineSteps]:
    """Return the lines of the program that shrink or grow a gradient, the strongest first."""
    lines: dict[tuple[str, str], LineSteps] = {}
    undone = _undone(steps)
    for step in steps:
        forward = step.op.of
        if (
            forward is None
            or step.value in undone
            or has(forward.name, Trait.SPREADS)
            or step.op.operation.kind == "accumulate"
        ):
            continue
        where = words.place(forward.source)
        group = lines.setdefault((where, forward.name), LineSteps(forward.name, where, []))
        group.steps.append(step)
        group.effect *= 1 / max(step.ratio, 1e-30) if how == "small" else step.ratio
    found = sorted((group for group in lines.values() if group.effect > 1.05), key=lambda group: -group.effect)
    for group in found[:_SHOWN]:
        group.cancels = cancelled(look, group.worst.op, group.worst.value) if how == "small" else None
        group.sized = _size_behind(look, group, how) if group.cancels is None and group.effect > NOTABLE else None
        group.inside = _inside(look, group, how)
    return found


def _undone(steps: list[Factor]) -> set[Value]:
    """Return what steps have made that the other steps of the same layer of a library's undo for the most part: a batch
    norm divides by what it multiplies with, and neither of the two makes a gradient large."""
    found: set[Value] = set()
    for call, some in itertools.groupby(steps, lambda step: _library_call((step.op.of or step.op).scope)):
        changes = [(step.value, math.log(step.ratio)) for step in some if step.ratio]
        whole = math.fsum(change for _, change in changes)
        if call is not None:
            found |= {value for value, change in changes if whole * math.copysign(1, change) < abs(change) / 2}
    return found


def _library_call(scope: Activation | None) -> Activation | None:
    """Return the call of a library's that the program made in which a scope lies; None where the op is its own."""
    call = None
    while scope is not None and is_library(scope.code.co_filename):
        call = scope
        scope = scope.parent
    return call


def _inside(look: Look, group: LineSteps, how: str) -> LineSteps | None:
    """Return what changes the gradient most that a nested gradient call takes inside, where a line is such a call."""
    forward = group.worst.op.of
    inner = result_inside(forward.outputs[0]) if forward is not None and len(forward.outputs) == 1 else None
    if inner is None or inner.op is None or not look.can_see(inner):
        return None
    return shrinks(look, inner) if how == "small" else grows(look, inner)


_FOLLOWS = 0.2
"""A local factor that goes by less than this power of its own operand is not large because that is."""


def _is_seen(value: Value) -> bool:
    return is_inexact(value) and value.size > 0 and not value.refusal


def _size_behind(look: Look, group: LineSteps, how: str) -> Growth | None:
    """Return what made the operand large or small by which a line of the program changes a gradient most."""
    forward, of = group.worst.op.of, group.worst.value.gradient_of
    if forward is None or of is None:
        return None
    others = [taken for taken in dict.fromkeys(forward.inputs)
              if _is_seen(taken) and taken.canonical is not of.canonical]  # fmt: skip
    own = next((taken for taken in forward.inputs if taken.canonical is of.canonical and not taken.refusal), None)
    found: list[Growth | None] = []
    if own is not None and has(forward.name, Trait.NORMALIZES, Trait.SATURATES):
        found = [(made_large if how == "small" else made_small)(look, own)]
        others = others if has(forward.name, Trait.SHARES) else []
    elif own is not None and abs(power := follows_itself(group.worst.op, own, look)) > _FOLLOWS:
        found = [(made_large if (how == "large") == (power > 0) else made_small)(look, own)]
    turned = has(forward.name, Trait.DIVIDES) and others == list(forward.inputs[-1:])  # its divisor
    found += [(made_small if (how == "small") != turned else made_large)(look, taken) for taken in others]
    sizes = [one for one in found if one is not None]
    return max(sizes, key=lambda one: abs(math.log(one.typical)), default=None)


def _advice(look: Look, groups: list[LineSteps], how: str) -> Iterator[Claim[str]]:
    """Yield what may help, where the ops that were measured give a reason for it."""
    if any(group.cancels is not None for group in groups[:1]):
        return
    flat = [group for group in groups if has(group.name, Trait.SATURATES) and not has(group.name, Trait.SHARES)]
    yield Possibility("why: flat curves", lambda: how == "small" and any(
        _is_effect(look, group, "shrinks") for group in flat), lambda: (
        "The slope of a sigmoid is at most 1/4, that of tanh falls from 1 to 0: relu or gelu, normalization, or "
        "residual connections may keep gradients alive."))  # fmt: skip
    product = next((group for group in groups if has(group.name, Trait.PRODUCT)), None)
    steps = [] if product is None else product.steps
    weight = next((found for step in steps if (found := weight_of(step)) is not None), None)
    if weight is None or not look.can_see(weight) or not weight.size:
        return
    typical = look.stat(weight).typical
    gain = typical * math.sqrt(weight.size / min(weight.shape[0], weight.shape[-1]))
    head = f"A typical element of {words.name(weight)} is {words.number(typical)}"
    yield Possibility("why: small weights", lambda: how == "small" and gain < 1, lambda: (
        f"{head}: larger initial weights, normalization, or residual connections may keep gradients alive."
    ))  # fmt: skip
    yield Possibility("why: large weights", lambda: how == "large" and gain > 1, lambda: (
        f"{head}: smaller initial weights, normalization, or clipped gradients may keep them in range."
    ))  # fmt: skip


def weight_of(step: Factor) -> Value | None:
    """Return the parameter that multiplies the gradient in the backward pass of a product; None if it is another
    tensor."""
    forward, of = step.op.of, step.value.gradient_of
    if forward is None or of is None:
        return None
    others = [taken for taken in forward.inputs if taken.canonical is not of.canonical and len(taken.shape) > 1]
    for taken in others:
        leaf = taken
        while leaf.op is not None and leaf.op.inputs and has(leaf.op.name, Trait.ARRANGES, Trait.CONVERTS):
            leaf = leaf.op.inputs[0]
        if leaf.kind == "parameter" or leaf in step.op.pass_.wrt:
            return leaf
    return None
