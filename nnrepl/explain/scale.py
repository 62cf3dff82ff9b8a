"""Scale: which ops shrink or grow a gradient most on its way from the loss."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from nnrepl.explain import words
from nnrepl.explain.answer import Answer
from nnrepl.explain.links import describe, links_along
from nnrepl.explain.local import factor_text
from nnrepl.explain.look import Look, Stat
from nnrepl.explain.paths import cone, path, upstream
from nnrepl.session.session import Session
from nnrepl.tape import Op, Value


@dataclass(frozen=True, slots=True)
class Step:
    """One op on the way, and by what it multiplied the root mean square of the gradient."""

    op: Op
    value: Value
    ratio: float


def why_scale(session: Session, gradient: Value, how: str) -> Answer:
    """The links that shrink (`how` "small") or grow ("large") a gradient most.

    Compared is the root mean square of the elements, so that a change of shape alone counts nothing.
    """
    look = Look(session)
    values = [gradient, *(value for op in cone([gradient]) for value in (*upstream(op), *op.outputs))]
    stats = look.stats(values)
    way = path(gradient, lambda before: max(before, key=lambda value: stats[value].norm))
    steps = _steps(way, stats)
    first, last = rms(stats[way[0]]), rms(stats[gradient])
    if not how:
        how = "small" if last < first else "large"
    verb = "shrinks" if how == "small" else "grows"
    answer = Answer(
        f"{gradient.name} has norm {words.number(stats[gradient].norm)}; a typical element is "
        f"{words.number(last)}. On the way "
        f"from the loss a typical element {'shrank' if last < first else 'grew'} {_times(first, last)} over "
        f"{len(way) - 1} ops."
    )
    groups = _groups(steps, how)
    answer.reasons = [group.say(verb) for group in groups[:4]]
    answer.op = groups[0].worst.op if groups else None
    answer.links = links_along(look, way, answer.op, f"{verb} it")
    if first and not 1 / _ORDINARY < last / first < _ORDINARY:
        answer.advice = _advice(groups[:3], how)
    answer.ops = look.ops
    return answer


_ORDINARY = 100.0
"""A change of less than this over the whole way calls for no advice."""


def rms(stat: Stat) -> float:
    """The root mean square of a tensor's elements."""
    return stat.norm / math.sqrt(max(stat.size, 1))


def _steps(way: list[Value], stats: dict[Value, Stat]) -> list[Step]:
    found = []
    for before, after in itertools.pairwise(way):
        low = rms(stats[before])
        if after.op is not None and low > 0:
            found.append(Step(after.op, after, rms(stats[after]) / low))
    return found


def _times(first: float, last: float) -> str:
    if not first or not last:
        return "to 0"
    ratio = last / first
    return f"by a factor of {words.number(1 / ratio if ratio < 1 else ratio)}"


@dataclass(slots=True)
class Group:
    """The steps of one line of the program: a layer of a deep stack, or a recurrent cell, is passed many times."""

    name: str
    where: str
    steps: list[Step]
    effect: float = 1.0

    @property
    def worst(self) -> Step:
        """The step that changes most."""
        return max(self.steps, key=lambda step: abs(math.log(step.ratio)) if step.ratio else math.inf)

    def say(self, verb: str) -> str:
        """What it does, in a sentence."""
        by = words.number(float(f"{self.effect:.3g}"))
        op = self.worst.op
        forward = op.of or op
        of = self.worst.value.gradient_of
        factor = factor_text(op, of) if of is not None else ""
        local = f"; its local factor is {factor}" if factor else ""
        if len(self.steps) == 1:
            module = f" in {op.module}" if op.module else ""
            return (
                f"{op.label}, the VJP of {describe(forward)} ({self.where}{module}), {verb} it by a factor "
                f"of {by}{local}."
            )
        return (
            f"{self.name} at {self.where} is passed {len(self.steps)} times and {verb} it by a factor of {by} "
            f"altogether; "
            f"most at {op.label}, the VJP of {describe(forward)}{local}."
        )


_SPREADING = ("mean", "sum", "broadcast_to", "getitem", "take", "repeat", "accumulate")
"""Ops that only hand a gradient out to more or fewer elements: not what shrinks it."""


def _groups(steps: list[Step], how: str) -> list[Group]:
    """The lines of the program that shrink or grow a gradient, the strongest first."""
    lines: dict[tuple[str, str], Group] = {}
    for step in steps:
        forward = step.op.of
        if forward is None or forward.name in _SPREADING or step.op.operation.kind == "accumulate":
            continue
        where = words.place(forward.source)
        group = lines.setdefault((where, forward.name), Group(forward.name, where, []))
        group.steps.append(step)
        group.effect *= 1 / max(step.ratio, 1e-30) if how == "small" else step.ratio
    found = [group for group in lines.values() if group.effect > 1.05]
    return sorted(found, key=lambda group: -group.effect)


def _advice(groups: list[Group], how: str) -> str:
    names = {group.name for group in groups}
    if how == "small" and names & {"sigmoid", "tanh"}:
        return (
            "Saturating activations shrink gradients: relu or gelu, normalization, or residual connections "
            "keep them alive."
        )
    if how == "small":
        return "Larger initial weights, normalization, or residual connections keep gradients alive."
    return "Smaller initial weights, normalization, or clipped gradients (optim.clip_grad_norm) keep them in range."
