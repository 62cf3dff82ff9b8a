"""A walk through time: what each command says of a variable is what a plain program has in it at that moment."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

import nnrepl
from nnrepl.session.errors import UserError
from tests.support import OpenSession

Probe = Callable[[], Any]


def turns(probe: Probe) -> None:
    """Two models by turns, with an average of the weights: names that come again in every step."""
    mx.random.seed(0)
    one, two = nn.Linear(2, 3), nn.Linear(3, 2)
    first, second = optim.SGD(0.1), optim.Adam(0.05)
    x = mx.array([[1.0, 2.0], [0.5, -1.0]])
    mean = mx.zeros((3, 2))

    def loss_one(model: nn.Module, x: mx.array) -> mx.array:
        h = model(x)
        probe()
        scaled = h * 2
        return (scaled - 1).square().mean()

    def loss_two(model: nn.Module, x: mx.array) -> mx.array:
        h = model(one(x))
        x = h - x
        probe()
        return x.square().mean()

    for _ in range(3):
        loss, grads = nn.value_and_grad(one, loss_one)(one, x)
        probe()
        first.update(one, grads)
        w = one.weight
        mean = mean * 0.9 + w * 0.1
        probe()
        other, grads = nn.value_and_grad(two, loss_two)(two, x)
        second.update(two, grads)
        probe()
        loss = loss + other
        x, mean = x + mean[:2], x[:1] + mean
        probe()


def recursion(probe: Probe) -> None:
    """Calls within calls, each with variables of its own; swaps, changes in place, deleted names."""

    def fold(x: mx.array, depth: int) -> mx.array:
        y = x + depth
        probe()
        if depth:
            inner = fold(y * 2, depth - 1)
            x, y = inner, x
        probe()
        return x - y

    a, b = mx.array([1.0, -2.0]), mx.array([3.0, 4.0])
    c = fold(a, 2)
    a += b
    c[0] = 5
    probe()
    a, b = b, a
    del c
    c = fold(b, 1)
    probe()
    c += a


class Moment:
    """The tensors among the variables of a running function, and among those that it sees of its callers.

    Attributes:
        own: Its own.
        seen: Those of its callers that it does not have itself.
    """

    def __init__(self, frame: FrameType | None) -> None:
        self.own: dict[str, mx.array] = {}
        self.seen: dict[str, mx.array] = {}
        known: set[str] = set()
        held = self.own
        while frame is not None and frame.f_code.co_filename == __file__:
            code = frame.f_code
            for name, thing in frame.f_locals.items():
                if name not in known and isinstance(thing, mx.array):
                    held[name] = mx.array(thing)
            known.update(code.co_varnames, code.co_cellvars)
            frame, held = _caller(frame), self.seen


def _caller(frame: FrameType) -> FrameType | None:
    """The next frame of this file."""
    found = frame.f_back
    while found is not None and found.f_code.co_filename != __file__:
        found = found.f_back
    return found


def moments_of(program: Callable[[Probe], None]) -> list[Moment]:
    """What the variables held at each probe of a plain run."""
    found: list[Moment] = []
    program(lambda: found.append(Moment(sys._getframe(1))))
    return found


def _mark() -> mx.array:
    return mx.zeros(1)


@pytest.mark.parametrize("program", [turns, recursion])
def test_every_answer_at_a_stop_is_of_that_stop(program: Callable[[Probe], None]) -> None:
    moments = moments_of(program)
    trace = nnrepl.trace(program, _mark)
    session = OpenSession(trace)
    marks = [op for op in trace.ops if op.scope is not None and op.scope.code is _mark.__code__]
    assert len(marks) == len(moments)
    names = sorted({name for moment in moments for name in (*moment.own, *moment.seen)})
    dice = random.Random(7)
    order = list(range(len(marks)))
    dice.shuffle(order)
    for at in order:
        moment, mark = moments[at], marks[at]
        session.goto(f"{mark.step.number or 'setup'}#{mark.label.rpartition('#')[2]}")
        session.run("up")
        for name in names:
            said = _printed(session, name)
            if name in moment.own:
                assert said == f"{name} = {_numbers(moment.own[name])}"
            elif said is not None and name in moment.seen:  # if it is not just about to get another value
                assert said.partition(" = ")[2] == _numbers(moment.seen[name])
            elif said is not None:
                assert "@" in said.partition(" = ")[0], "what a call that is over had goes by its address"
        if moment.own:
            name = dice.choice(sorted(moment.own))
            _assert_said(session, name, moment.own[name])


def _printed(session: OpenSession, name: str) -> str | None:
    """`x = [1 2 3]`, in one line; None if the name means nothing here."""
    try:
        said = " ".join(str(session.run(f"p {name}")).split())
    except UserError:
        return None
    if re.match(rf"{name} (is not|was deleted|lies)", said):
        return None
    said = re.sub(r" \(step \d+'s\) =", " =", said)
    return re.sub(r"[\[\]]\s*|\s*[\[\]]", " ", said).replace("  ", " ").strip()


def _number(value: float) -> str:
    """As Python writes it: four decimals, or four digits of what is small; whole numbers short."""
    if value.is_integer():
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.3e}"


def _numbers(array: mx.array) -> str:
    return " ".join(_number(one) for one in array.flatten().tolist())  # type: ignore[union-attr]


def _assert_said(session: OpenSession, name: str, wanted: mx.array) -> None:
    """Each command speaks of this very tensor."""
    shape = f"({', '.join(map(str, wanted.shape))}{',' if wanted.ndim == 1 else ''})"
    displayed = re.sub(r"[\[\]*]|changed$", " ", str(session.run(f"display {name}")), flags=re.MULTILINE)
    session.run("undisplay")
    assert displayed.partition(" = ")[2].split() == _numbers(wanted).split()
    assert str(session.run(f"what {name}")).split("\n")[0].rstrip().endswith(f"{shape} float32")
    row = str(session.run(f"stats {name}")).split("\n")[1].split()
    assert row[row.index("float32") + 1 :][:2] == [_number(mx.min(wanted).item()), _number(mx.max(wanted).item())]
    largest = _number(mx.max(mx.abs(wanted)).item())
    why = " ".join(str(session.run(f"why {name}")).split())
    assert f"the largest {largest}" in why or not largest.strip("0.") or name in why
    at = "" if not wanted.ndim else f" at [{', '.join('0' * wanted.ndim)}]"
    explained = str(session.run(f"explain {name}{at}"))
    told = [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", explained.replace("(-", "-"))]
    first = wanted.flatten()[0].item()
    assert "no op made it" in explained or any(one == pytest.approx(first, rel=1e-3, abs=1e-6) for one in told)
