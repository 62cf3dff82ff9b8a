"""What containers of every kind held at an earlier op is what a plain program prints there, also when they are gone."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import parse
from tests.support import OpenSession, loaded

HEAD = """\
import argparse, types
import numpy as np
from collections import Counter, OrderedDict, UserDict, UserList, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
import mlx.core as mx, mlx.nn as nn
Point = namedtuple("Point", "x y")
class Slots:
    __slots__ = ("x", "y")
    def __init__(self, x, y): self.x = x; self.y = y
class Both(Slots):
    __slots__ = ("z", "__dict__")
@dataclass
class Data:
    x: object
    y: int = 0
    more: list = field(default_factory=list)
@dataclass(slots=True)
class Slim:
    x: object
    y: int = 0
class Object:
    shared = 1
    def __init__(self, x, y): self.x = x; self.y = y
class Net(nn.Module):
    alive = []
class Listing(list):
    pass
class Keyed(dict):
    pass
class Queue(deque):
    pass
seen = []
"""
OBJECT = (["c.y = 2", "c.x = b; c.y += 1", "del c.x"], ["c.y", "getattr(c, 'x', 'gone')", "type(c).__name__"])
LIST = (["c.append(b)", "c[0] = 5; c.insert(1, 7)", "c.pop()"], ["c", "len(c)", "c[0]", "type(c).__name__"])
DICT = (["c['n'] = b", "c['k'] = 5", "del c['n']"], ["c", "c['k']", "list(c)", "type(c).__name__"])
SET = (["c.add(2)", "c.discard(1)", "c.update((8, 9))"], ["sorted(c)", "len(c)", "1 in c"])
KINDS = {
    "list": ("[x, 1]", *LIST),
    "subclass of list": ("Listing([x, 1])", *LIST),
    "UserList": ("UserList([x, 1])", *LIST),
    "deque": ("deque([x, 1])", *LIST),
    "deque of a length": ("deque([x, 1], maxlen=3)", ["c.append(b)", "c.append(3)", "c.append(4)"],
                          ["list(c)", "c[0]", "c.maxlen"]),
    "subclass of deque": ("Queue([x, 1])", *LIST),
    "dict": ("{'k': x}", *DICT),
    "subclass of dict": ("Keyed(k=x)", *DICT),
    "OrderedDict": ("OrderedDict(k=x)", *DICT),
    "defaultdict": ("defaultdict(list, k=x)", ["c['n'].append(b)", "c['k'] = 5", "c['n'].append(2)"],
                    ["dict(c)", "c['k']"]),
    "Counter": ("Counter('abca')", ["c['a'] += 1", "c.update('bb')", "del c['c']"], ["c['a']", "sorted(c.items())"]),
    "UserDict": ("UserDict(k=x)", *DICT),
    "set": ("{1}", *SET),
    "frozenset": ("frozenset((1,))", ["c |= {2}", "c -= {1}", "c |= {8, 9}"], ["sorted(c)", "1 in c"]),
    "object": ("Object(x, 1)", *OBJECT),
    "module": ("Net()", ["Net.alive.append(c); c.y = 2", "c.z = 'on'; c.y += 1", "del c.z; c.w = b; c.train(False)"],
               ["getattr(c, 'y', 'gone')", "getattr(c, 'z', 'gone')", "hasattr(c, 'w')", "c.training"]),
    "slots": ("Slots(x, 1)", *OBJECT),
    "slots and more": ("Both(x, 1)", ["c.z = 3; c.own = b", "c.x = b; c.y += 1", "del c.z; c.own = 4"],
                       ["c.y", "c.x", "getattr(c, 'z', 'gone')", "getattr(c, 'own', 'gone')"]),
    "dataclass": ("Data(x, 1)", ["c.y = 2; c.more.append(b)", "c.more.append(3)", "c.x = b"], ["c", "c.more", "c.x"]),
    "dataclass with slots": ("Slim(x, 1)", ["c.y = 2", "c.x = b", "c.y += 5"], ["c", "c.y", "c.x"]),
    "namedtuple": ("Point(x, 1)", ["c = c._replace(y=2)", "c = c._replace(x=b)", "c = Point(1, 2)"],
                   ["c", "c.y", "c[0]", "type(c).__name__"]),
    "SimpleNamespace": ("types.SimpleNamespace(y=1)", ["c.y = 2", "c.z = (3, [4])", "c.z[1].append(5)"],
                        ["c", "c.y", "vars(c)"]),
    "Namespace": ("argparse.Namespace(y=1, at=argparse.Namespace(k=2))",
                  ["c.y = 2", "c.at.k = 3", "c.more = [1, 2]"], ["c", "c.y", "c.at.k"]),
    "nested": ("[deque([Slots(x, {1: (2,)})]), {'k': Data(x)}]",
               ["c[0][0].y[1] = b", "c[1]['k'].more.append(deque([2]))", "c[1]['k'].more[0].append(3)"],
               ["c[0][0].y", "c[1]", "len(c[0])"]),
    "array of NumPy's": ("np.zeros(3)", ["c[1] = 4", "c += np.arange(3)", "c.sort()"], ["c", "c[1]", "c.sum()"]),
    "integers of NumPy's": ("np.arange(6).reshape(2, 3)", ["c[0, 1] += 7", "c.T[2] = 5", "c = c.reshape(3, 2)"],
                            ["c", "c.shape", "c[0, 1]"]),
    "arrays of NumPy's": ("Data(x, more=[np.ones(2), {'k': np.array([True, False])}])",
                          ["c.more[0][1] = 5", "c.more[1]['k'] |= True", "c.more.append(c.more[0] * 2)"],
                          ["c.more", "c.more[0].max()", "[one for one in c.more[1]['k']]"]),
    "part of an array": ("np.arange(40.)[4:8]", ["c.base[5] = 0", "c[:] = c[::-1].copy()", "c.base[:] = 3"],
                         ["c", "c.max()"]),
    "empty array": ("np.zeros((0, 3), np.float32)", ["c = np.append(c, [[1, 2, 3]], 0)", "c *= 2", "c = c[0]"],
                    ["c", "c.dtype", "len(c)"]),
}  # fmt: skip
GONE = ["    c = 0\n", "    c = None; kept = c\n", ""]


def _program(make: str, changes: list[str], looks: list[str], gone: str, prints: bool) -> str:
    told = f"    seen.append([repr(one()) for one in ({''.join(f'lambda: {look}, ' for look in looks)})])\n"
    told = told if prints else ""
    body = "".join(f"    {change}\n{told}    b = x * {number}\n" for number, change in enumerate(changes, 2))
    return f"{HEAD}def f(x):\n    c = {make}\n{told}    b = x * 1\n{body}{gone}    return b.sum()\n"


@pytest.mark.parametrize(("kind", "gone"), list(zip(KINDS, itertools.cycle(GONE))), ids=KINDS)
def test_it_is_known_as_it_was(kind: str, gone: str, tmp_path: Path) -> None:
    make, changes, looks = KINDS[kind]
    x = mx.array([1.0, 2.0])
    twin = loaded(tmp_path / "twin.py", _program(make, changes, looks, gone, prints=True))
    twin.f(x)
    program = loaded(tmp_path / f"held_{kind.replace(' ', '_')}.py", _program(make, changes, looks, gone, prints=False))
    session = OpenSession(nnrepl.trace(program.f, x))
    products = [op.position for op in session.tape.ops if op.operation.name == "multiply"]
    assert len(products) == len(twin.seen) == len(changes) + 1
    for number in (3, 0, 2, 1, 3):
        session.cursor = products[number]
        found = [repr(session.expressions.evaluate(parse(look), session.where())) for look in looks]
        assert found == twin.seen[number], number


@pytest.mark.parametrize("changed", ["box.held.append(number)", "note(number)"], ids=["at once", "in a function"])
def test_a_statement_in_the_past_finds_it_as_it_was(
    changed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = loaded(tmp_path / f"counting_{changed[:3]}.py", (
        "class Box:\n    def __init__(self): self.held = []\nbox = Box()\n"
        "def note(number): box.held.append(number)\n"
        f"def f(x):\n    for number in range(3):\n        x = x * 2\n        {changed}\n    return x.sum()\n"
    ))  # fmt: skip
    session = OpenSession(nnrepl.trace(program.f, mx.ones((2,))))
    session.run("goto #3")
    session.run("for one in box.held: print('there', one)")
    assert capsys.readouterr().out.split("\n") == ["there 0", "there 1", ""]
    assert program.box.held == [0, 1, 2]


def test_what_is_left_of_an_object_is_known_although_a_part_is_gone(tmp_path: Path) -> None:
    """A queue of threads is nothing that could be made again."""
    program = loaded(tmp_path / "parts.py", (
        "import queue\nclass Loader:\n    def __init__(self): self.queue, self.size = queue.Queue(), 8\n"
        "def f(x):\n    own = Loader()\n    x = x * 2\n    own.size += 1\n    own = None\n"
        "    return x.sum()\n"
    ))  # fmt: skip
    session = OpenSession(nnrepl.trace(program.f, mx.ones((2,))))
    gc.collect()
    session.run("goto #1")
    assert str(session.run("p own.size")) == "own.size = 8"
    assert "<no longer exists>" in str(session.run("p vars(own)"))
    for line in ("p own.queue.qsize()", "p len(own.queue)", "p own.queue + 1"):
        with pytest.raises(UserError, match=r"own\.queue was an object that no longer exists"):
            session.run(line)
    with pytest.raises(UserError, match="'Loader' object has no attribute 'step'"):
        session.run("p own.step")
