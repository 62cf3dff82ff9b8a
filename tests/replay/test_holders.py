"""`k = k * 2` gives a variable another tensor; what else holds the old one keeps it, however it holds it: held against
plain Python in which the line is written."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest

from tests.support import nnrepl_cli

HEAD = """
import functools, itertools, sys, types
import mlx.core as mx
t, u = mx.array([0.5, 1.0, 1.5]), mx.array([1.0, -1.0, 2.0])
turn = -1
"""
TAIL = """
def loss_fn(w, x):
    h = f(f(x @ w))
    return h.square().mean()
w, x = mx.ones((4, 3)) * 0.5, mx.arange(12.0).reshape(3, 4) / 10
for step in range(3):
    loss, g = mx.value_and_grad(loss_fn)(w, x)
    w = w - 0.05 * g
print("END", loss.item(), g.tolist(), w.tolist())
"""
HOLDERS = {
    "a default": "def f(h, k=t):\n    h = h + 1\n    return h * k\n",
    "a keyword's default": "def f(h, *, k=t):\n    h = h + 1\n    return h * k\n",
    "a tuple of defaults": "def f(h, ks=(t, u)):\n    k, _ = ks\n    h = h + 1\n    return h * k\n",
    "a lambda": "def f(h, g=lambda h, k=t: h * k):\n    k = g.__defaults__[0]\n    h = h + 1\n    return g(h) * k\n",
    "a class": "class C:\n    s = t\ndef f(h):\n    k = C.s\n    h = h + 1\n    return h * k\n",
    "a base class": "class B: s = t\nclass C(B): pass\ndef f(h):\n    k = C().s\n    h = h + 1\n    return h * k\n",
    "a partial": "p = functools.partial(lambda k, h: (k, h * k), t)\ndef f(h):\n    k, h = p(h)\n    h = h + 1\n"
    "    return h * k\n",
    "a module": "m = types.ModuleType('m'); sys.modules['m'] = m; m.s = t\ndef f(h):\n    k = m.s\n    h = h + 1\n"
    "    return h * k\n",
    "an exception": "e = ValueError(t)\ndef f(h):\n    k = e.args[0]\n    h = h + 1\n    return h * k\n",
    "a set": "c = {t}\ndef f(h):\n    k = next(iter(c))\n    h = h + 1\n    return h * k\n",
    "a list's iterator": "c = iter([t, t, u, t, t, u])\ndef f(h):\n    k = next(c)\n    h = h + 1\n    return h * k\n",
}
COPIED = {
    "a cycle": "c = itertools.cycle([t, u])\ndef f(h):\n    k = next(c)\n    h = h + 1\n    return h * k\n",
    "a repeat": "c = itertools.repeat(t)\ndef f(h):\n    k = next(c)\n    h = h + 1\n    return h * k\n",
    "a zip": "c = zip((t, t, u, t, t, u), range(9))\ndef f(h):\n    k, i = next(c)\n    h = h + 1\n    return h * k\n",
}
"""Iterators that Python 3.14 does not copy."""


def _plain(text: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "<twin>", "exec"), {"__name__": "__main__"})
    return printed.getvalue().strip()


@pytest.mark.parametrize("name", [*HOLDERS, *COPIED])
def test_it_keeps_what_it_held(name: str, tmp_path: Path) -> None:
    """The next calls have it again, and so has the program when the change is undone."""
    if name in COPIED and sys.version_info >= (3, 14):
        pytest.skip("not copied")
    text = HEAD + {**HOLDERS, **COPIED}[name] + TAIL
    line = text.split("\n").index("    h = h + 1") + 1
    path = tmp_path / "held.py"
    path.write_text(text)
    written = "    global turn; turn += 1\n    if turn == 2: k = k * 1.25\n    h = h + 1\n"
    lines = ["c", f"goto step 2 held.py:{line}", "k = k * 1.25", "c", "undo", "c", "print('END', loss.item())", "q\n"]
    shown = nnrepl_cli("--plain", str(path), stdin="\n".join(lines)).stdout
    plain = _plain(text)
    found = re.findall(r"^END .*", shown, re.MULTILINE)
    assert found == [plain, _plain(text.replace("    h = h + 1\n", written)), plain.partition(" [")[0]], shown
