"""A line that is typed before a call stands before all of it: what the call has put aside before its first op, in
containers, generators and functions of its own, is what it has made of the new tensor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.replay.test_rebinding import hold_against_twin

PUT_ASIDE = """\
import mlx.core as mx
def late(p):
    both = [p, p]
    x = mx.zeros(2) + 1
    return both[0] * x
def rest(p):
    it = iter([p])
    x = mx.zeros(2) + 1
    return next(it) * x
def closed(p):
    def inner(): return p * 2
    return (mx.zeros(2) + 1) * inner()
def turns(p):
    yield 1
    yield p
def turn(p):
    every = turns(p)
    return next(every) * (mx.zeros(2) + 1) * next(every)
def split(d):
    left, right = {"a": d["a"]}, {"b": d["b"]}
    return sum(left.values()) * sum(right.values())
def several(d):
    flat = list(d.values())
    return sum([v * 2 for v in flat])
class Kept:
    def __init__(self, p):
        self.p, self.state = None, {"m": p, "n": p * 2}
    def run(self, p):
        self.p = p
        return (mx.zeros(2) + 1) * self.p
    def all(self, z):
        flat = [*self.state.values()]
        return sum(z * v for v in flat)
def f(w):
    def outer():
        p = k
        return (mx.zeros(2) + 1) * p
    k = w * 3
    d, kept = {"a": k + 1, "b": k * k}, Kept(w * 2)
    early = [k, dict(d)]
    a = late(k)  # late
    b = rest(k)  # rest
    c = closed(k)  # closed
    e = turn(k)  # turn
    g = kept.run(k)  # run
    h = outer()  # outer
    i = split(d)  # split
    j = several(d)  # several
    l = kept.all(k)  # all
    return (a * b + c * e + g * h + i + j * l + early[0] * early[1]["b"] + k * kept.p).sum()
"""
PLACES = [*[(place, "k = k * 2") for place in ("late", "rest", "closed", "turn", "run", "outer")],
          *[(place, 'd["b"] = d["b"] * 2') for place in ("split", "several")],
          ("all", 'kept.state["n"] = kept.state["n"] * 2')]  # fmt: skip


@pytest.mark.parametrize(("place", "line"), PLACES, ids=map(" ".join, PLACES))
def test_what_a_call_puts_aside_before_its_first_op_is_what_a_line_before_the_call_has_made(
    place: str, line: str, tmp_path: Path
) -> None:
    hold_against_twin(PUT_ASIDE, place, line, tmp_path)
