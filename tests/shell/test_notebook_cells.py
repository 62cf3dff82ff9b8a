"""Notebooks: `debug()`, `set_trace()` and `%%nnrepl` ask in the cell, show there, and never end the kernel."""

from __future__ import annotations

import re

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.record.recorder import current
from nnrepl.shell import api
from nnrepl.shell.in_notebook import CANNOT_ASK, CellEnded
from tests.shell.notebook import Notebook

SETUP = """
import mlx.core as mx
import mlx.nn as nn
import nnrepl

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
    def __call__(self, x):
        h = nn.relu(self.layer(x))
        return h

net = Net()
net.layer.weight = mx.arange(8).reshape(2, 4) / 4
net.layer.bias = mx.ones(2)
x = mx.ones((3, 4))

def loss_fn(x):
    return mx.mean(mx.square(net(x)))
"""
LOOP = """
for i in range(2):
    loss, grads = nn.value_and_grad(net, loss_fn)(x)
    net.layer.weight = net.layer.weight - 0.01 * grads["layer"]["weight"]
    print("loss", i, loss.item())
loss"""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(api, "_last", [])
    monkeypatch.setattr(api, "_recorded", [])
    made = Notebook(monkeypatch)
    nnrepl.load_ipython_extension(made)
    assert made.run(SETUP) is None
    return made


def test_debug_asks_in_the_cell(notebook: Notebook) -> None:
    trace = notebook.run("nnrepl.debug(loss_fn, x, wrt=net)", "s", "p #1", "def f(a):", "    return a", "", "f(3)", "q")
    assert isinstance(trace, nnrepl.Trace)
    shown = notebook.shown()
    assert "notebook cell 1:11 in Net.__call__ (layer)" in shown
    assert "▶ 11         h = nn.relu(self.layer(x))" in shown
    assert shown.endswith("(nnrepl) f(3)\n3\n(nnrepl) q\n")
    assert "\x1b" not in shown
    assert notebook.asked[3] == "     ... "


def test_nobody_to_ask(notebook: Notebook) -> None:
    assert isinstance(notebook.run("nnrepl.debug(loss_fn, x, wrt=net)"), nnrepl.Trace)
    assert CANNOT_ASK in notebook.shown()
    assert notebook.run("nnrepl.set_trace()\ny = x + 1\nz = y * 2\nprint('reached')\nz") is not None
    assert notebook.shown().endswith(f"{CANNOT_ASK}\nreached\n")
    assert current() is None
    plain = Notebook.run(notebook, LOOP)
    notebook.run(SETUP)
    assert notebook.run("%%nnrepl" + LOOP).item() == plain.item()


def test_continue_under_set_trace_stops_where_something_is_to_stop_it(notebook: Notebook) -> None:
    cell = "nnrepl.set_trace()\ny = x + 1\nz = y * 2\nprint('reached')"
    assert isinstance(notebook.run(cell, "break multiply", "c", "q"), CellEnded)
    assert notebook.shown().count("breakpoint 1") == 2  # it is set, and hit


def test_set_trace_ends_with_its_cell(notebook: Notebook) -> None:
    assert notebook.run("nnrepl.set_trace()\ny = x + 1\nz = y * 2", "s", "s", "back", "p y[0]", "q") is None
    shown = notebook.shown()
    assert "recording from notebook cell 2:1 on" in shown
    assert "The program has ended. You can still go back" in shown
    assert "y[0] = [2 2 2 2]" in shown
    assert current() is None
    left = notebook.run("nnrepl.set_trace()\ny = x + 1\nz = y * 2\nprint('not reached')", "s", "q")
    assert isinstance(left, CellEnded)
    assert not isinstance(left, Exception)  # no program takes it for its own
    assert left._render_traceback_() == ["nnrepl was left: the cell ends here"]
    assert "not reached" not in notebook.shown()
    assert current() is None
    assert notebook.run("nnrepl.set_trace()\ny = x + 1\nprint('reached')", "c") is None
    assert notebook.shown().endswith("(nnrepl) c\nreached\n")
    raised = notebook.run("nnrepl.set_trace()\ny = x + 1\n1 / 0", "s", "p y[0]", "q")
    assert isinstance(raised, ZeroDivisionError)
    assert "y[0] = [2 2 2 2]" in notebook.shown()
    assert not notebook.events.callbacks["post_run_cell"]


def test_a_cell_runs_as_a_program(notebook: Notebook) -> None:
    notebook.run(LOOP)
    plain = notebook.shown()
    notebook.run(SETUP)
    result = notebook.run("%%nnrepl" + LOOP, "goto h", "s", "h = h * 2", "c", "timeline 1", "c", "q")
    shown = notebook.shown()
    assert "nnrepl · cell 4 · step to begin" in shown
    assert "timeline 2: h edited before" in shown
    assert "cannot put back" not in shown
    losses = re.findall(r"^loss \d [\d.]+$", shown, re.MULTILINE)
    assert losses[-2:] == plain.splitlines()  # the program as it is, again
    assert float(losses[0].split()[2]) == pytest.approx(4 * float(plain.split()[2]))  # twice h
    assert isinstance(result, mx.array)
    assert notebook.user_ns["i"] == 1
    assert not [name for name in notebook.user_ns if name.startswith("__nnrepl")]
    assert notebook.run("%nnrepl info steps").renderable is not None
    assert "this is the start" not in str(notebook.run("%nnrepl goto step 1")).lower()  # the cell is over, and stays
    notebook.run("%nnrepl s 2")
    for line, said in (("p h", "#3 (maximum) makes it"), ("s", "h = [["), ("back", "forward 3 of 5"),
                       ("why grad(layer.bias) == 0", "is not 0"), ("explain h", "max(layer.x, 0)"),
                       ("p layer.x", "layer.x = [[2.5000 6.5000]"), ("timeline 2", "timeline 2"),
                       ("rc", "step 1")):  # fmt: skip
        assert said in str(notebook.run(f"%nnrepl {line}")), line
    for line in ("layer.weight = layer.weight * 2", "net.layer.bias = mx.zeros(2)"):
        assert "%%nnrepl above it runs it again" in str(notebook.run(f"%nnrepl {line}"))
    assert notebook.run("%%nnrepl p x[0];;c\ny = x + 1\ny.sum()").item() == 24
    assert "x[0] = [1 1 1 1]" in notebook.shown()


def test_what_a_cell_prints_is_printed_once_and_when_it_comes_by(notebook: Notebook) -> None:
    notebook.run("def noisy(x):\n    h = mx.tanh(x)\n    print('inside')\n    return mx.sum(h * h)")
    notebook.shown()
    cell = "%%nnrepl\ng = mx.grad(noisy)(x)\nprint('behind')\ng[0, 0].item()"
    result = notebook.run(cell, "goto h", "s", "h = h * 2", "rewind", "c", "q")
    lines = notebook.shown().splitlines()
    assert [line for line in lines if line in ("inside", "behind")] == ["inside", "behind"]
    assert lines.index("inside") > lines.index("(nnrepl) s")
    h = float(mx.tanh(mx.array(1.0)).item())
    assert result == pytest.approx(4 * 2 * h * (1 - h * h))


def test_a_cell_that_cannot_run(notebook: Notebook) -> None:
    assert str(notebook.run("%%nnrepl\ny = x +")) == "this cell does not parse: invalid syntax (line 1)"
    assert "await outside of it" in str(notebook.run("%%nnrepl\nimport asyncio\nawait asyncio.sleep(0)"))
    raised = notebook.run("%%nnrepl\ny = x + 1\n1 / 0", "c", "q")
    assert str(raised) == "the cell ended with ZeroDivisionError: division by zero"
    assert isinstance(notebook.run("%%nnrepl" + LOOP, "s", "q"), CellEnded)
    assert current() is None


def test_the_magic_asks(notebook: Notebook) -> None:
    assert "nothing has been recorded yet" in str(notebook.run("%nnrepl where"))
    notebook.run("trace = nnrepl.debug(loss_fn, x, wrt=net)", "goto h", "s", "q")
    assert "h@3 = [[" in str(notebook.run("%nnrepl p h"))
    assert "needs a command" in str(notebook.run("%nnrepl"))
    assert str(notebook.run("%nnrepl p hh")).startswith("nothing here is called hh")
    assert notebook.run("%nnrepl q") is None
    notebook.run("other = nnrepl.trace(lambda x: x * 2, x)")  # what was recorded last is asked
    notebook.run("%nnrepl goto end")
    assert "#1 = [[2 2 2 2]" in str(notebook.run("%nnrepl p #1"))
    notebook.run("with nnrepl.recording() as tape:\n    doubled = x * 3")
    notebook.run("%nnrepl goto end")
    assert "#1 = [[3 3 3 3]" in str(notebook.run("%nnrepl p #1"))
