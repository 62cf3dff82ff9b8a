"""Tables: masks, positions, sines, which a model keeps as attributes, so that they are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import mlx.core as mx

from nnrepl.explain.health.report import NOTE, Check, Checkup, Finding, findings
from nnrepl.explain.masks import is_mask
from nnrepl.session.births import is_inexact
from nnrepl.tape import Value
from nnrepl.tape.claims import Claim, Possibility

_EXACT = 1e-5


def trained(case: Checkup) -> Iterator[Finding]:
    """Find parameters that were no weights when training began, by their numbers, and that have a gradient."""
    first, pass_ = case.series[0], case.pass_
    named = {leaf.name: leaf for leaf in first.wrt}
    live = [named[leaf.name] for leaf in pass_.wrt if leaf.name in named and pass_.grads.get(leaf) and is_inexact(leaf)]
    gradients = {leaf.name: pass_.grads[leaf][-1] for leaf in pass_.wrt if pass_.grads.get(leaf)}
    seen = [leaf for leaf in live if leaf.size > 3 and leaf.size <= _LARGE and case.look.can_see(leaf)]
    case.look.finite(seen)
    tables: list[tuple[str, list[Value]]] = [
        ("an additive mask (0 and −∞)", [leaf for leaf in seen if is_mask(case.look, leaf)]),
        ("numbers in steps of one size", _where(case, seen, _in_steps)),
        ("sines and cosines of the same angles", _sines(case, seen)),
    ]
    for what, leaves in tables:
        zero = case.look.stats([gradients[leaf.name] for leaf in leaves])
        moved = [leaf for leaf in leaves if not zero[gradients[leaf.name]].is_zero]
        if moved:
            claim = _is_trained(case, what, moved, [gradients[leaf.name] for leaf in moved])
            yield from findings(claim, "trained table", f"p grad({moved[0].name})", None, NOTE)


_LARGE = 4_194_304


def _is_trained(case: Checkup, what: str, leaves: list[Value], gradients: list[Value]) -> Claim[str]:
    """Claim that some parameters have gradients that are not 0, and ask whether they are weights."""
    one, shown = len(leaves) == 1, [leaf.name for leaf in leaves[: 3 if len(leaves) < 4 else 2]]
    last = f"{len(leaves) - 2} more" if len(leaves) > 3 else shown.pop() if len(shown) > 1 else ""
    names = ", ".join(shown) + (f" and {last}" if last else "")
    began = case.series[0].address
    kept = "It is a parameter because it is an attribute" if one else "They are parameters because they are attributes"
    return Possibility(
        "finding: trained table",
        lambda: not any(stat.is_zero for stat in case.look.stats(gradients).values()),
        lambda: (
            f"{names} {'has a gradient' if one else 'have gradients'}, and began in {began} as {what}: is that meant? "
            f"{kept}; a name that begins with an underscore, or freeze(keys=[...]), keeps "
            f"{'it' if one else 'them'} out"
        ),
    )


def _where(case: Checkup, leaves: list[Value], test: Callable[[mx.array], mx.array | None]) -> list[Value]:
    """Return the tensors whose numbers pass a test."""
    asked = [(leaf, answer) for leaf in leaves if (answer := test(case.look.array(leaf))) is not None]
    answers = case.look.numbers([answer for _, answer in asked])
    return [leaf for (leaf, _), yes in zip(asked, answers) if yes]


def _in_steps(array: mx.array) -> mx.array | None:
    """Return whether numbers are an arange or a linspace; None of what is no row."""
    if array.ndim != 1:
        return None
    steps = array[1:] - array[:-1]
    first = array[1] - array[0]
    return (first != 0) & mx.all(mx.abs(steps - first) <= _EXACT * mx.max(mx.abs(array)))


def _sines(case: Checkup, leaves: list[Value]) -> list[Value]:
    """Return tables of sines beside cosines: two of one shape, or two halves of one, interleaved or not."""
    flat = [leaf for leaf in leaves if len(leaf.shape) > 1 and leaf.size >= _TABLE]
    pairs = [(one, other) for one, other in pairwise(flat) if one.shape == other.shape]
    even = [leaf for leaf in flat if leaf.shape[-1] % 2 == 0]
    asked: list[tuple[list[Value], mx.array]] = []
    for one, other in pairs:
        asked.append(([one, other], _on_circle(case.look.array(one), case.look.array(other))))
    for leaf in even:
        array = case.look.array(leaf)
        half = array.shape[-1] // 2
        halves = _on_circle(array[..., :half], array[..., half:]) | _on_circle(array[..., ::2], array[..., 1::2])
        asked.append(([leaf], halves))
    answers = case.look.numbers([answer for _, answer in asked])
    return list(dict.fromkeys(leaf for (found, _), yes in zip(asked, answers) if yes for leaf in found))


_TABLE = 16


def _on_circle(a: mx.array, b: mx.array) -> mx.array:
    """Whether a² + b² = 1 everywhere, of angles that differ."""
    return mx.all(mx.abs(a * a + b * b - 1) < 1e-3) & (mx.max(a) - mx.min(a) > 0.1)


CHECKS: list[Check] = [trained]
