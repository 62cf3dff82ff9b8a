"""What holds a tensor and no variable leads to: a running loop's list, a context, a key. `k = k * 2` leaves it the old
one, or is refused: each against plain Python in which the line is written, all in one program."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import nnrepl_cli

HEAD = """
import asyncio, collections, contextlib, contextvars, functools, itertools, threading, types, weakref
import mlx.core as mx
t, u, done = mx.array([0.5, 1.0, 1.5]), mx.array([1.0, -1.0, 2.0]), []
class Box:
    def __init__(self, s): self.s = s
class Slot:
    __slots__ = ("s",)
    def __init__(self, s): self.s = s
class Twice:
    def __init__(self, v, out): self.v, self.out = v, out
    def __enter__(self): pass
    def __exit__(self, *e): self.out.append(self.v * 2)
@contextlib.contextmanager
def twice(v, out):
    yield
    out.append(v * 2)
Pair = collections.namedtuple("Pair", "a b")
"""
TAIL = """
def loss_fn(w, x):
    return sum((f(x @ w * 0.5).square().mean() for f in kinds), mx.array(0.0))
w, x = mx.arange(12.0).reshape(4, 3) / 16, mx.arange(12.0).reshape(3, 4) / 10
for step in range(3):
    loss, dw = mx.value_and_grad(loss_fn)(w, x)
    w = w - 0.01 * dw
print("END", loss.item(), dw.tolist(), w.tolist())
"""
LOOPS = {
    "a list": "[k, u, k]",
    "pairs": "(a * b for a, b in [(k, u), [u, k], (k, k)])",
    "named tuples": "(p.a * p.b for p in [Pair(k, u), Pair(u, k)])",
    "enumerate": "(a * i for i, a in enumerate([k, u, k]))",
    "zip": "map(mx.add, (k, u, k), [u, k, k])",
    "reversed": "reversed([k, u, k])",
    "objects": "(o.s for o in [Box(k), Slot(k), Box(u), Box(k)])",
    "items": "(s for n, s in {'a': k, 'b': u, 'c': k}.items())",
    "values": "{'a': k, 'b': u, 'c': k}.values()",
    "chain": "itertools.chain([k, u], (k, u), [k])",
    "product": "itertools.starmap(mx.add, itertools.product([k, u], (u, k)))",
    "accumulate": "itertools.accumulate([k, u, k])",
    "islice of a cycle": "itertools.islice(itertools.cycle([k, u, k]), 7)",
    "a map": "map(lambda a: a * 2, [k, u, k])",
    "functions": "(f() for f in [lambda: k * 2, (lambda v: lambda: v * 3)(k), functools.partial(mx.add, k, k)])",
    "lists in lists": "(b * a for a in (k, u) for s in [[k, a], [u]] for b in s)",
}
HELD = {
    "a context variable": ("var = contextvars.ContextVar('var')", "var.set(k)", "var.get()"),
    "a context that waits": (
        "var = contextvars.ContextVar('var')", "var.set(k); other = contextvars.copy_context(); var.set(u)",
        "other.run(var.get)",
    ),
    "a key": (
        "", "seen = {(u, k): 3.0, (k, 1): 4.0, (k,): 2.0}", "sum(n * a[0] * a[-1] for a, n in seen.items())",
    ),
    "a key itself": ("", "seen = {u: 3.0, k: 2.0}", "sum(n * a for a, n in seen.items())"),
    "a metaclass": ("class Meta(type): pass\nclass C(metaclass=Meta): pass", "Meta.s = k", "C.s"),
    "a frozenset": ("", "some = frozenset([k])", "next(iter(some))"),
    "a variable of the thread": ("local = threading.local()", "local.s = k", "local.s"),
    "a method": ("", "total = k.sum", "total()"),
    "a mapping": ("", "d = types.MappingProxyType({'k': k})", "d['k']"),
    "a weak reference": ("", "keep, weak = [k], weakref.ref(k)", "weak()"),
    "a weak dict": ("", "keep, weak = [k], weakref.WeakValueDictionary(k=k)", "weak['k']"),
    "an exit stack": (
        "", "out, stack = [], contextlib.ExitStack(); stack.callback(lambda v: out.append(v * 2), k)",
        "(stack.close(), out[0])[1]",
    ),
    "a frame": (
        "def bad(v): raise ValueError", "try: bad(k)\nexcept ValueError as e: gone = e.__traceback__.tb_next.tb_frame",
        "gone.f_locals['v']",
    ),
}  # fmt: skip
BODIES = {
    "a tuple that has a name": "ts = (k, u, k)\nfor s in ts:\n    h = h + s  # here\ny = h + ts[0]",
    "an iterator that has a name": """
it = iter((k, u, k, k))
for s in it:
    h = h + s  # here
    h = h * next(it)
y = h""",
    "what a loop has bound": "for k in [h, 2 * h, h]:\n    h = h + k  # here\ny = h",
    "a with": "out = []\nwith twice(k, out):\n    h = h + u  # here\ny = h + out[0]",
    "an object's with": "out = []\nwith Twice(k, out):\n    h = h + u  # here\ny = h + out[0]",
    "a list of an op": "s = k\ny = mx.stack([s, k, h])  # here",
    "a list of an op with a star": "keep = [k]\ny = mx.stack([k, *keep, h])  # here",
    "an accumulator": """
def cell(k, s):
    k = mx.tanh(k + s)  # here
    return k
y = functools.reduce(cell, [h, h, k, h])""",
    "a generator's list": """
def cell(k, s):
    k = mx.tanh(k + s)  # here
    return k
y = sum((cell(s, k) for s in [k, u, k]), h)""",
    "a list that is being made": """
def cell(s):
    nonlocal k
    z = k + s
    if s is t:
        z = z + u  # here
    k = mx.tanh(z) * k
    return k
hs = [cell(s) for s in (u, t, u)]
y = hs[0] + hs[1] * hs[2]""",
    "coroutines": """
async def one(k, h):
    await asyncio.sleep(0)
    h = h + u  # here
    return h * k
async def both(s):
    a, b = await asyncio.gather(one(s, h), one(s, h * 2))
    return a * s + b
y = asyncio.run(both(k))""",
    "arguments": """
def g(h, *ks, **more):
    k = ks[0]
    h = h + u  # here
    return h * k + ks[1] * more["a"]
y = g(h, k, k, a=k)""",
}


_GROUPS = 5
"""A program for each: all of it runs for each change."""


def _kinds() -> dict[str, str]:
    """Return the source of a function for each kind."""
    bodies = {name: ("", f"for s in {over}:\n    h = h + s  # here\ny = h") for name, over in LOOPS.items()}
    bodies |= {name: (before, f"{put}\nh = h + u  # here\ny = h * {got}") for name, (before, put, got) in HELD.items()}
    bodies |= {name: ("", body) for name, body in BODIES.items()}
    if sys.version_info >= (3, 14):
        del bodies["accumulate"]  # from then on no iterator of `itertools` can be given another total
    found = {}
    for number, (name, (before, body)) in enumerate(bodies.items()):
        # Each weighs another: what a changed program prints, and another one has printed, is not shown again.
        inner = f"{before}\ndef f(h):\n    k = h * 0.5\n{textwrap.indent(body, '    ')}\n"
        inner += f"    return mx.tanh(y * k) * {1 + number / 10}\n"
        found[name] = f"def make():\n{textwrap.indent(inner, '    ')}\n    return f\nkinds.append(make())\n"
    return found


def _plain(text: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "<twin>", "exec"), {"__name__": "__main__"})
    return printed.getvalue().strip()


def _edited(path: Path, lines: list[int], monkeypatch: pytest.MonkeyPatch, native: str) -> str:
    monkeypatch.setenv("NNREPL_NATIVE", native)
    typed = ["c"]
    for line in lines:
        typed += ["timeline 1", f"goto step 2 {path.name}:{line}", "k = k * 1.25", "c"]
    return nnrepl_cli("--plain", str(path), stdin="\n".join([*typed, "undo", "c", "p loss.item()", "q\n"])).stdout


@pytest.mark.parametrize("group", range(_GROUPS))
@pytest.mark.parametrize("native", ["on", "off"])
def test_what_no_variable_leads_to_keeps_the_old_tensor(
    native: str, group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old numbers stay in it, and the change is undone with all that it had done."""
    kinds = dict(list(_kinds().items())[group::_GROUPS])
    text = f"{HEAD}kinds = []\n{''.join(kinds.values())}{TAIL}"
    path = tmp_path / "many.py"
    path.write_text(text)
    rows = text.split("\n")
    lines = [number for number, row in enumerate(rows, 1) if row.endswith("# here")]
    assert len(lines) == len(kinds)
    shown = _edited(path, lines, monkeypatch, native)
    expected = [_plain(text)]
    for line in lines:
        margin = rows[line - 1][: -len(rows[line - 1].lstrip())]
        written = f"{margin}if step == 1 and not done: done.append(1); k = k * 1.25"
        expected.append(_plain("\n".join([*rows[: line - 1], written, *rows[line - 1 :]])))
    found = re.findall(r"^END .*", shown, re.MULTILINE)
    assert len(found) == len(expected), shown
    assert [name for name, a, b in zip(["", *kinds], expected, found) if a != b] == []
    assert expected[0].split(" ")[1][:6] in shown.rpartition("p loss.item()")[2], shown


REFUSED = {
    "itertools.repeat(k, 3)": "an iterator (repeat)",
    "frozenset([k, k])": "a frozenset",
    "{k}": "a set that a loop goes through",
    "(s for s in [k] if token)": "a context variable",
}


@pytest.mark.parametrize("over", REFUSED)
def test_what_cannot_keep_it_is_named(over: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is changed then: the program goes on as it was."""
    put = "var = contextvars.ContextVar('var'); var.set(k); token = var.set(u)\n    " if "token" in over else ""
    text = (
        f"{HEAD}\ndef f(h):\n    k = h * 0.5\n    {put}for s in {over}:\n        h = h + s  # here\n    return h * k\n"
    )
    text += f"kinds = [f]{TAIL}"
    path = tmp_path / "one.py"
    path.write_text(text)
    line = next(number for number, row in enumerate(text.split("\n"), 1) if row.endswith("# here"))
    shown = _edited(path, [line], monkeypatch, "off")
    said = (
        f"{re.escape(REFUSED[over])}[^;]* holds the old tensor as well, and cannot be left with it; the tape and your"
    )
    assert re.search(said, re.sub(r"\s+", " ", shown)), shown
    assert re.findall(r"^END .*", shown, re.MULTILINE) == [_plain(text)], shown
