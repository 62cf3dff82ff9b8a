"""Edits in a compiled function whose call is still running, and what its trace finds: held against plain programs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from tests.closed.test_closed import play

KEPT = """\
import mlx.core as mx
table = {2: mx.cos(mx.arange(2) * 0.5)}
def kept(n): return table[n]
state = {"w": mx.array([1.0, -2.0])}
def loss(w):
    w = w * 1
    r = kept(2)
    h = w * r  # here
    h = h + KEPT * 0.5
    return (h * h).sum() - h.sum()
def body():
    value, grad = mx.value_and_grad(loss)(state["w"])
    state["w"] = state["w"] - 0.05 * grad
    return value
step = mx.compile(body, inputs=state, outputs=state)
EDITED
for i in range(4):
    value = step()
    mx.eval(value, state)
    print("step", i, value.item(), state["w"].tolist())
"""
FORMS = {"in its expression": "kept(2)", "by another name": "q"}


def _plainly(text: str, line: str, at: int, before: str = "pass") -> list[str]:
    """What a plain program prints that has a line in one call: another compiled function, of the same source, before
    which things are put back."""
    edited = "edits = []\nedited = mx.compile(lambda: body(), inputs=state, outputs=state)"
    text = text.replace("    h = w * r", f"    if edits: {line}\n    h = w * r").replace("EDITED", edited)
    call = (
        f"edits += [1] * (i == {at})\n    if edits: {before}\n    value = edited() if edits else step(); edits.clear()"
    )
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(text.replace("value = step()", call), {})
    return printed.getvalue().splitlines()


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize("form", FORMS)
def test_a_name_of_a_cached_tensor_in_a_call_that_is_still_running(form: str, native: str, tmp_path: Path) -> None:
    """In the first call, of which MLX makes its trace when it has returned, and in one that is repeated."""
    text = KEPT.replace("    h = h + KEPT", f"    q = kept(2)\n    h = h + {FORMS[form]}")
    file = tmp_path / "train.py"
    file.write_text(text.replace("EDITED", ""))
    line = "r = r * 3"
    for at in (0, 2):
        goto = f"goto step {at + 1}"
        shown = play(file, f"config native {native}", goto, "until train.py:8", line, "continue")
        expected = _plainly(text, line, at)
        assert re.findall(r"^step \d+ -?[\d.]+ .*", shown, re.MULTILINE) == expected, shown


FOUND = {
    "a cache": (
        "def turn():\n    if 3 not in table: table[3] = mx.array(0.5) * 3\n    return table[3]",
        "table.pop(3)",
    ),
    "a counter": ("count = [1]\ndef turn():\n    count[0] += 1\n    return count[0]", "count[0] = 1"),
    "an iterator": ("turns = [iter([2.0, 3.0])]\ndef turn(): return next(turns[0])", "turns[0] = iter([2.0, 3.0])"),
}
"""What is called in the compiled function, and what puts back what that has changed in the twin."""


@pytest.mark.parametrize("native", ["on", "off"])
@pytest.mark.parametrize("found", FOUND)
def test_a_repeated_call_finds_what_the_first_one_found(found: str, native: str, tmp_path: Path) -> None:
    """What a compiled function has changed where it was traced is not changed once more where its source runs for an
    edit, and what it had found it finds."""
    definition, as_at_first = FOUND[found]
    text = KEPT.replace("KEPT", "q").replace("    h = h + q", "    q = kept(2)\n    h = h + q")
    text = text.replace("state =", f"{definition}\nstate =").replace("w = w * 1", "w = w * turn()")
    file = tmp_path / "train.py"
    file.write_text(text.replace("EDITED", ""))
    at = text.splitlines().index("    h = w * r  # here") + 1
    line = "r = r * 3"
    shown = play(file, f"config native {native}", "goto step 3", f"until train.py:{at}", line, "continue")
    expected = _plainly(text, line, 2, as_at_first)
    assert re.findall(r"^step \d+ -?[\d.]+ .*", shown, re.MULTILINE) == expected, shown


WRITES = """\
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
buffer, count = mx.zeros((2,)), mx.array([0])
model, opt = nn.Linear(2, 2), optim.SGD(0.1)
def loss(x):
    global buffer
    buffer += 1
    count[0] = count[0] + 1
    return (model(x) * buffer + count).square().mean()
learn = nn.value_and_grad(model, loss)
def step(x):
    value, grads = learn(x)
    opt.update(model, grads)
    return value
step = mx.compile(step, inputs=[model.state, opt.state], outputs=[model.state, opt.state])
x = mx.random.normal((3, 2))
for i in range(4):
    value = step(x)
    mx.eval(value, model.state)
    print("step", i, value.item(), buffer.tolist(), count.tolist())
"""


def test_what_a_compiled_function_changes_in_place_is_changed_once_for_each_trace(tmp_path: Path) -> None:
    """It is recorded, and MLX traces it after that from the numbers that the tensors had before."""
    (tmp_path / "train.py").write_text(WRITES)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(WRITES, {})
    assert play(tmp_path / "train.py", "continue").endswith(printed.getvalue())


GIVEN = """\
import mlx.core as mx
def loss(p):
    return (p["w"] * p["w"]).sum()
def step(p):
    value, grad = mx.value_and_grad(loss)(p)
    return value, {"w": p["w"] - 0.1 * grad["w"]}
compiled, p = mx.compile(step), {"w": mx.array([1.0, -2.0])}
for i in range(4):
    value, p = compiled(p)
    mx.eval(value, p)
    print("step", i, value.item(), p["w"].tolist())
"""


def test_an_entry_of_what_a_repeated_call_takes_gradients_of(tmp_path: Path) -> None:
    """The line stands before the gradient call, which is given the container whole: no name says what reads it."""
    (tmp_path / "train.py").write_text(GIVEN)
    edits = ['p["w"] = p["w"] * 3', 'p["w"] *= 4']
    # The second call comes right after the first, which MLX traces once more when it has been recorded.
    typed = [
        line
        for at, edit in enumerate(edits, 2)
        for line in ("timeline 1", f"goto step {at} train.py:5", edit, "continue")
    ]
    shown = play(tmp_path / "train.py", "continue", *typed)
    for at, edit in enumerate(edits, 1):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            text = GIVEN.replace("= compiled(p)", "= (mx.compile(lambda p: step(p)) if i == AT else compiled)(p)")
            exec(text.replace("    value, grad", f"    if i == AT: {edit}\n    value, grad"), {"AT": at})
        assert "\n".join(printed.getvalue().splitlines()[at:]) in shown, shown


def test_an_entry_that_the_callers_read_as_well(tmp_path: Path) -> None:
    """In what is differentiated, the line gives the dict of all of them another tensor; the call is still running. It
    runs from its source, which draws from the state of then, and leaves the next one."""
    updates, state = "tree_map(lambda a, b: a - 0.1 * b, p, grad)", "mx.random.state, mx.random.state)"
    text = GIVEN.replace('{"w": p["w"] - 0.1 * grad["w"]}', updates).replace("compile(step)", f"compile(step, {state}")
    text = text.replace('* p["w"])', '* p["w"] * mx.random.uniform(shape=(2,)))')
    head, made, loop = text.partition("compiled, ")
    loop = re.sub(r"\bp\b", "q", loop)
    text = f"from mlx.utils import tree_map; {head}mx.random.seed(7); {made}{loop}"
    (tmp_path / "train.py").write_text(text)
    edit = "p['w'] = p['w'] * 3"
    shown = play(tmp_path / "train.py", "goto step 3 train.py:3", edit, "continue")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        text = text.replace("= compiled(q)", f"= (mx.compile(lambda p: step(p), {state} if i == 2 else compiled)(q)")
        exec(text.replace("    return (p", f"    if i == 2: {edit}\n    return (p"), {})
    assert re.findall(r"^step \d+ -?[\d.]+ .*", shown, re.MULTILINE) == printed.getvalue().splitlines(), shown


def test_a_line_after_the_gradient_call_is_where_the_call_makes_its_ops(tmp_path: Path) -> None:
    """And not where MLX comes by it, which traces what has been recorded. What the compiled function is given is what
    it differentiates, in a dict of its own."""
    head, made, loop = GIVEN.partition("compiled, ")
    (tmp_path / "train.py").write_text(head + made + re.sub(r"\bp\b", "q", loop))
    shown = play(tmp_path / "train.py", "goto step 2 train.py:6", 'p grad(p["w"])')
    assert "\n∂L/∂p.w = [ 1.6000 -3.2000]" in shown, shown


TRAINS = """\
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
model, opt = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), optim.SGD(0.1)
learn = nn.value_and_grad(model, lambda model, x: model(x).square().mean())
def step(x):
    value, grads = learn(model, x)
    opt.update(model, grads)
    return value
step = mx.compile(step, inputs=[model.state, opt.state], outputs=[model.state, opt.state])
x = mx.random.normal((3, 2))
for i in range(4):
    value = step(x)
    mx.eval(value, model.state)
    print("step", i, value.item(), model.layers[1].weight.tolist())
"""


def test_a_weight_that_the_forward_has_not_come_by_yet_changes_where_it_enters(tmp_path: Path) -> None:
    """In a repeated call as where all runs: its own name is that of what the gradient call is given."""
    (tmp_path / "train.py").write_text(TRAINS)
    line = "model.layers[1].weight = model.layers[1].weight * 3"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(TRAINS.replace("    value = step", f"    if i == 2: {line}\n    value = step"), {})
    shown = play(tmp_path / "train.py", "goto step 3", "step", line, "continue")
    assert re.findall(r"^step \d+ -?[\d.]+ .*", shown, re.MULTILINE) == printed.getvalue().splitlines(), shown
