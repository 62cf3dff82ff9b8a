"""Surprise: cross-entropy as a whole with its numbers, forwards and backwards: the share of the right answer, −ln of
it, and shares − 1 at the right answer. Shown only where it comes to the numbers that MLX has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.look import Look
from nnrepl.ops.numbers import unravel
from nnrepl.tape import Op, Pass, Value

_CLOSE = 1e-4
_SHOWN = 6
Called = Callable[[Value], str]


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """A cross-entropy with whole numbers as targets, over the last axis.

    Attributes:
        logits: (..., classes).
        targets: The right answers, (...).
        loss: The loss of each row, (...), before any mean.
    """

    logits: Value
    targets: Value
    loss: Value

    def row(self, place: tuple[int, ...]) -> str:
        """Return a row of the logits, `logits[1,:]`, after the name."""
        return f"[{','.join([*map(str, place), ':'])}]"


def find(ops: Iterable[Op]) -> CrossEntropy | None:
    """Return the cross-entropy that the ops of a call make; None where they make another one (smoothed, weighted)."""
    own = list(ops)
    made = set(own)
    taken = [value for op in own for value in op.inputs if value.op not in made]
    picks = [op for op in own if op.name == "take_along_axis"]
    ends = [op for op in own if op.name == "subtract" and len(op.inputs) == 2 and op.inputs[0].op is not None
            and op.inputs[0].op.name == "logsumexp"]  # fmt: skip
    if len(picks) != 1 or len(ends) != 1:
        return None
    loss = ends[0].outputs[0]
    logits = next((value for value in taken if mx.issubdtype(value.dtype, mx.floating)
                   and value.shape[:-1] == loss.shape and value.shape), None)  # fmt: skip
    targets = next((value for value in taken if mx.issubdtype(value.dtype, mx.integer) and value.shape == loss.shape),
                   None)  # fmt: skip
    if logits is None or targets is None or not loss.size or any(one.refusal for one in (logits, targets, loss)):
        return None
    return CrossEntropy(logits, targets, loss)


def around(pass_: Pass | None, logits: Value) -> CrossEntropy | None:
    """Return the cross-entropy of a pass that takes some logits; None where none does."""
    calls: dict[object, list[Op]] = {}
    for op in () if pass_ is None else pass_.forward:
        for step in op.scope.path() if op.scope is not None else ():
            if step.code.co_name == "cross_entropy" and step.code.co_filename.replace("\\", "/").endswith("losses.py"):
                calls.setdefault(step, []).append(op)
    found = (find(ops) for ops in calls.values())
    return next((one for one in found if one is not None and one.logits.canonical is logits.canonical), None)


def forward(look: Look, whole: CrossEntropy, called: Called = words.name) -> list[str]:
    """Return the row with the largest loss: the shares, and −ln of that of the right answer."""
    look.see([whole.logits, whole.targets, whole.loss])
    at = int(look.numbers([mx.argmax(whole.loss.array)])[0])
    place = unravel(at, whole.loss.shape)
    shares, target, loss = _numbers(look, whole, place)
    right = look.numbers([mx.exp(-loss)])[0]
    if target < 0 or target >= whole.logits.shape[-1] or not _same(shares[target], float(right)):
        return []
    answer = words.element(called(whole.targets), place)
    return [
        f"{_shares(whole, place, called)} = {_listed(shares, target)}",
        f"{words.element(called(whole.loss), place)} = −ln(share of {answer} = {target}) = "
        f"−ln({words.factor(shares[target])}) = {words.number(float(loss))}",
    ]


def backward(
    look: Look,
    whole: CrossEntropy,
    gradient: Value,
    arrives: Value,
    place: tuple[int, ...],
    called: Called = words.name,
) -> list[str]:
    """One element of the gradient of the logits: its share, less 1 at the right answer, times what arrives."""
    look.see([gradient, arrives, whole.logits, whole.targets, whole.loss])
    if arrives.shape != whole.loss.shape or gradient.shape != whole.logits.shape:
        return []
    *row, column = place
    shares, target, _ = _numbers(look, whole, tuple(row))
    came, have = look.numbers([_at(arrives.array, tuple(row)), _at(gradient.array, place)])
    off = 1.0 if column == target else 0.0
    if not _same((shares[column] - off) * came, have, abs(came)):
        return []
    answer = words.element(called(whole.targets), tuple(row))
    left = words.element(called(gradient), place)
    times = words.element(called(arrives), tuple(row))
    is_it = "is the right answer" if off else "is not the right answer"
    less = " − 1" if off else ""
    plugged = f"({words.number(shares[column])} − 1)" if off else words.factor(shares[column])
    return [
        f"{_shares(whole, tuple(row), called)} = {_listed(shares, column)}",
        f"{left} = {'(' if off else ''}share of {column}{less}{')' if off else ''} · {times}, because {answer} = "
        f"{target}: {column} {is_it}",
        f"= {plugged} · {words.factor(came)}",
        f"= {words.number(have)}",
    ]


def _shares(whole: CrossEntropy, place: tuple[int, ...], called: Called) -> str:
    return f"shares = softmax({called(whole.logits)}{whole.row(place)})"


def _numbers(look: Look, whole: CrossEntropy, place: tuple[int, ...]) -> tuple[list[float], int, mx.array]:
    row = _at(whole.logits.array, place).astype(mx.float32)
    shares, target = look.numbers([mx.softmax(row), _at(whole.targets.array, place)])
    return shares, int(target), _at(whole.loss.array, place).astype(mx.float32)


def _at(array: mx.array, place: tuple[int, ...]) -> mx.array:
    return array[place] if place else array


def _listed(shares: list[float], at: int) -> str:
    """Return the shares of a row; of a long one the one that counts."""
    if len(shares) <= _SHOWN:
        return f"[{' '.join(words.number(share) for share in shares)}]"
    return f"[… {words.number(shares[at])} at {at} …], {len(shares)} in all"


def _same(a: float, b: float, size: float = 1.0) -> bool:
    return abs(a - b) <= _CLOSE * max(abs(a), abs(b)) + 1e-6 * size
