"""Edits of training scripts that run natively are plain programs with those lines written in."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from nnrepl.record.recorder import Recorder
from nnrepl.replay.libraries import LIBRARIES
from nnrepl.replay.replay import Replay
from nnrepl.tape import ClosedOp, Value
from tests.closed import edits
from tests.closed.test_closed import _main, play  # noqa: F401
from tests.support import script_python


@pytest.mark.parametrize("seed", [2, 21, 60, 65, 87, 120, 206, 424])
def test_lines_and_their_twins(seed: int, tmp_path: Path) -> None:
    """Every shape: after updates, before and in calls, one edit on another, and taken back."""
    case = edits.case(seed)
    (tmp_path / "train.py").write_text(edits.script(case.script, case.marks))
    shown = play(tmp_path / "train.py", *case.commands)
    found = [int(number) for number in re.findall(r"^hash\(tuple\(log\)\)\s*=\s*(-?\d+)", shown, re.MULTILINE)]
    assert found == [hash(tuple(edits.plainly(case, written))) for written in case.expected], shown


TRAIN = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(3)
X = mx.random.normal((24, 4)); model = nn.Linear(4, 1); opt = optim.Adam(1e-2); mark = mx.array(1.0); log = []
learn = nn.value_and_grad(model, lambda model, x: (model(x) ** 2).mean())
for i in range(6):
    loss, grads = learn(model, X); opt.update(model, grads)
    shown = mark * i; log.append(loss.item())
"""


def test_a_cell_behind_native_steps_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    shown = play(tmp_path / "train.py", "continue", "X[4] = 1.0", "p X[4, 0].item()", "undo", "p X[4, 0].item() == 1",
                 "X[4] = 2.0", "goto step 6", "p i", "goto end", "p X[4, 0].item()")  # fmt: skip
    assert re.findall(r"^(?:X.*|i) = +(\S+)", shown, re.MULTILINE) == ["1.0", "False", "5", "2.0"], shown
    assert "cannot" not in shown


def test_what_stands_behind_an_update_is_opened_with_its_step(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    shown = play(tmp_path / "train.py", "continue", "goto step 3", "goto step 3 train.py:8", "p i", "p shown.item()")
    assert re.search(r"^i = 2$", shown, re.MULTILINE), shown
    assert shown.count("opening step") == 1


def test_what_a_change_did_natively_is_not_called_the_same(tmp_path: Path) -> None:
    train = TRAIN.replace("; log.append(loss.item())", "") + "print((X * 2).sum().item())\n"
    (tmp_path / "train.py").write_text(train)
    shown = play(tmp_path / "train.py", "continue", "goto step 6", "goto step 3 forward",
                 "model.weight = model.weight * 0.5", "continue", "diff 1 2")  # fmt: skip
    shown = " ".join(shown.split())
    assert "first difference: 3#" in shown
    assert "steps 4 to 6 are closed: not compared; goto step 4, then diff, opens it" in shown
    assert "there timeline 2 has its last op on the tape, and timeline 1 goes on to step 7" in shown  # both have ended
    (tmp_path / "train.py").write_text(TRAIN.replace("; log.append(loss.item())", ""))
    shown = play(tmp_path / "train.py", "continue", "goto step 3 forward", "X = X * 1", "continue", "diff 1 2")
    assert "no value differs" not in shown
    assert "that were compared; not all could be" in shown


def test_a_look_at_the_end_is_one_at_the_timeline_looked_at(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    for native in ("on", "off"):
        shown = play(tmp_path / "train.py", f"config native {native}", "continue", "p log[-1]", "goto step 3",
                     "opt.learning_rate = 0.3", "goto end", "continue", "p log[-1]", "undo", "p log[-1]",
                     "redo", "p log[-1]", "goto step 4", "undo", "redo")  # fmt: skip
        assert "nothing to redo" not in shown  # also where `undo` has opened a step
        first, second, *others = re.findall(r"^log\[-1\] = (.*)", shown, re.MULTILINE)
        assert first != second, shown
        assert others == [first, second], shown


@pytest.mark.parametrize("broken", ["maker", "unify"])
def test_what_cannot_be_shown_to_hold_natively_is_recorded(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is not known of steps that ran natively: an edit after them is never lost, and never refused for it."""
    if broken == "maker":  # nobody opens the steps in which the tensor that is changed came to be held
        monkeypatch.setattr("nnrepl.session.closed.open_maker", lambda *_: None)
        text, lines = TRAIN, ("continue", "goto step 5", "model.weight = model.weight * 2")
        edited = TRAIN.replace("    loss, grads", "    if i == 4: model.weight = model.weight * 2\n    loss, grads")
    else:  # a run along the tape goes another way
        whole = Replay._unify

        def lost(self: Replay, recorder: Recorder, a: Value, b: Value) -> bool:
            closed = any(isinstance(op, ClosedOp) for op in recorder.tape.ops)
            return a is b or (not closed and whole(self, recorder, a, b))

        monkeypatch.setattr(Replay, "_unify", lost)
        case = edits.case(87)
        text, lines = edits.script(case.script, case.marks), tuple(case.commands[:-3])
        edited = edits.script(case.script, case.marks, case.expected[0])
    (tmp_path / "train.py").write_text(text)
    shown = play(tmp_path / "train.py", *lines, "goto end", "continue", "p hash(tuple(log))")
    assert re.search("opening all of .*: the program runs again", shown), shown
    assert "cannot" not in shown, shown
    (tmp_path / "plain.py").write_text(edited + "print('hash', hash(tuple(log)))\n")
    printed = script_python(tmp_path / "plain.py")
    assert re.findall(r"^hash\S* (?:= )?(-?\d+)", shown, re.M) == re.findall(r"^hash (-?\d+)", printed, re.M)


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_property_does_with_what_is_assigned_what_it_will(native: str, tmp_path: Path) -> None:
    """The learning rate of several optimizers is that of each."""
    both = "optim.MultiOptimizer([optim.SGD(0.1), optim.Adam(0.1)], [lambda name, weight: weight.ndim > 1])"
    text = TRAIN.replace("optim.Adam(1e-2)", both)
    (tmp_path / "train.py").write_text(text)
    line = "opt.learning_rate = 0.5"
    shown = play(tmp_path / "train.py", f"config native {native}", "continue", "goto step 3", line, "goto end",
                 "continue", "p [round(number, 4) for number in log]")  # fmt: skip
    plain = text.replace("    loss, grads", f"    if i == 2: {line}\n    loss, grads")
    (tmp_path / "plain.py").write_text(plain + "print(len(log), [round(number, 4) for number in log])\n")
    printed = script_python(tmp_path / "plain.py")
    assert re.sub(r"\s", "", printed.partition(" ")[2]) in re.sub(r"\s", "", shown), shown


@pytest.mark.parametrize("native", ["on", "off"])
def test_an_edit_behind_an_evaluation_is_none_of_the_ops_of_the_step_that_begins(native: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN.replace("shown = mark * i;", "held = model(X).mean();"))
    shown = play(tmp_path / "train.py", f"config native {native}", "continue", "goto step 4",
                 "opt.learning_rate = 0.5", "what #1", "p i")  # fmt: skip
    assert re.search(r"made by +#1 +transpose", shown), shown
    assert re.search(r"^i = 3$", shown, re.MULTILINE), shown


def test_an_edit_behind_one_that_was_put_in_again(tmp_path: Path) -> None:
    """Opening a step before an edit makes that anew: the program's object is known as what it holds then."""
    text = TRAIN.replace("loss, grads = learn(model, X)", "x = X * 1; y = mark + 1\n    loss, grads = learn(model, x)")
    text = text.replace("(model(x) ** 2)", "(mx.tanh(model(x)) ** 2)")
    (tmp_path / "train.py").write_text(text)
    first, second = "x = x * 2", "x[0] = 0.5"
    shown = play(tmp_path / "train.py", "continue", "goto step 3 add", first, "health", "goto step 3 addmm", second,
                 "goto end", "continue", "p [round(number, 4) for number in log]")  # fmt: skip
    assert "cannot" not in shown, shown
    plain = text.replace("    loss, grads", f"    if i == 2: {first}; {second}\n    loss, grads")
    (tmp_path / "plain.py").write_text(plain + "print(len(log), [round(number, 4) for number in log])\n")
    printed = script_python(tmp_path / "plain.py")
    assert re.sub(r"\s", "", printed.partition(" ")[2]) in re.sub(r"\s", "", shown), shown


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_line_typed_at_an_update_is_done_before_it_and_not_where_the_gradients_are_taken(
    native: str, tmp_path: Path
) -> None:
    """There `grads` holds the ones of the step before still; and the optimizer's own method has a `self`."""
    text = TRAIN.replace("mark = ", "from mlx.utils import tree_map; mark = ").replace(
        "; opt.update", "\n    opt.update"
    )
    (tmp_path / "train.py").write_text(text)
    lines = {"grads = tree_map(lambda g: g * 5, grads)": "", "self.betas = [0.5, 0.9]": "opt.betas = [0.5, 0.9]"}
    typed = [
        part
        for line in lines
        for part in ("timeline 1", "goto step 3 update", line, "goto end", "continue", "p log[-1]")
    ]
    shown = play(tmp_path / "train.py", f"config native {native}", *typed)
    plain = []
    for line, written in lines.items():
        (tmp_path / "plain.py").write_text(
            text.replace("    opt.update", f"    if i == 2: {written or line}\n    opt.update") + "print(log[-1])\n"
        )
        plain.append(script_python(tmp_path / "plain.py").strip())
    assert re.findall(r"^log\[-1\] = (.*)", shown, re.MULTILINE) == plain, shown


PATCHED = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(3)
linear, tanh = nn.Linear.__call__, mx.tanh
nn.Linear.__call__ = lambda self, x: linear(self, x) * 2
nn.Linear.halved = lambda self, x: self(x) / 2
mx.tanh = lambda x: tanh(x) * 3
import sys; sys.path.insert(0, sys.argv[0].replace("train.py", "site-packages").replace("plain.py", "site-packages"))
import mlx_more; more = mlx_more.more
mlx_more.more = lambda x: more(x) + 0.5
X = mx.random.normal((24, 4)); model = nn.Linear(4, 1); opt = optim.Adam(1e-2); log = []
learn = nn.value_and_grad(model, lambda model, x: (mlx_more.more(mx.tanh(model.halved(x))) ** 2).mean())
for i in range(6):
    x = X * 1
    loss, grads = learn(model, x)
    opt.update(model, grads); log.append(loss.item())
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_what_a_program_puts_in_the_place_of_a_librarys_own(native: str, tmp_path: Path) -> None:
    """It stays there where steps run natively, and is put in once where the program runs again from its start."""
    (tmp_path / "train.py").write_text(PATCHED)
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages/mlx_more.py").write_text("def more(x): return x * 2\n")  # imported by the program first
    own = nn.Linear.__call__, mx.tanh
    try:
        shown = play(tmp_path / "train.py", f"config native {native}", "continue", "p str(log)",
                     "goto step 3 train.py:15", "x = x * 2", "goto end", "continue", "p str(log)")  # fmt: skip
    finally:
        LIBRARIES.begin()
        sys.path[:] = [folder for folder in sys.path if not folder.startswith(str(tmp_path))]
        sys.modules.pop("mlx_more", None)
    assert (nn.Linear.__call__, mx.tanh) == own
    assert not hasattr(nn.Linear, "halved")
    plain = []
    for line in ("", "    if i == 2: x = x * 2\n"):
        text = PATCHED.replace("    loss, grads", f"{line}    loss, grads") + "print(str(log))\n"
        (tmp_path / "plain.py").write_text(text)
        plain.append(script_python(tmp_path / "plain.py").strip())
    found = re.findall(r"^str\(log\) = '(.*?)'", re.sub(r"\n +", " ", shown), re.MULTILINE | re.DOTALL)
    assert [re.sub(r"\s+", " ", one) for one in found] == plain, shown


NESTED = """
import mlx.core as mx, mlx.nn as nn
mx.random.seed(3)
x = mx.random.normal((4, 3)); w = mx.random.normal((3, 3)); norm = nn.BatchNorm(3); log = []
def inner(s, h): return (mx.tanh(norm(h * s)) ** 2).mean()
def loss_fn(w, x):
    h = x @ w
    v, g = mx.value_and_grad(inner)(mx.array([1.0, 0.5, 2.0]), h)
    s = g * 0.3
    return (h * s + v).sum()
learn = mx.value_and_grad(loss_fn)
for i in range(3):
    loss, grad = learn(w, x)
    w = w - 0.05 * grad; mx.eval(loss, w); log.append(loss.item())
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_what_a_nested_gradient_leaves_in_a_module_is_no_new_result_of_a_step_that_is_over(
    native: str, tmp_path: Path
) -> None:
    """The running mean, which the next step takes: the gradients of the call had been taken without it."""
    (tmp_path / "train.py").write_text(NESTED)
    shown = play(tmp_path / "train.py", f"config native {native}", "continue", "goto step 2 train.py:9", "g = g + 0.25",
                 "goto end", "continue", "p str(log)")  # fmt: skip
    (tmp_path / "plain.py").write_text(
        NESTED.replace("    s = g", "    if i == 1: g = g + 0.25\n    s = g") + "print(log)\n"
    )
    found = re.findall(r"^str\(log\) = '(.*?)'", re.sub(r"\n +", " ", shown), re.MULTILINE | re.DOTALL)
    assert [re.sub(r"\s+", " ", one) for one in found] == [script_python(tmp_path / "plain.py").strip()], shown


HIDDEN = """\
import threading
import mlx.core as mx
class Store:
    __slots__ = ("kept",)
store = Store()
def make(): store.kept = [[{"k": mx.array([1.0, 2.0])}]]
thread = threading.Thread(target=make)
thread.start()
thread.join()
def get(): return store.kept[0][0]["k"]
w, n = mx.array([3.0, 4.0]), 0
def f(w):
    b = w * 2 + 1
    k = get()
    d = b * 3  # here
    return (d * k * k).sum()
for n in range(3):
    loss, g = mx.value_and_grad(f)(w)
    w = w - 0.1 * g
    print("step", n, loss.item(), g.tolist())
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_what_came_from_outside_changes_where_no_op_has_taken_it_yet(native: str, tmp_path: Path) -> None:
    """The program runs again from its start: what it holds there then is another object, which nothing has named."""
    (tmp_path / "program.py").write_text(HIDDEN)
    number = next(at for at, text in enumerate(HIDDEN.splitlines(), 1) if text.endswith("# here"))
    said = play(tmp_path / "program.py", f"config native {native}", "continue", f"goto step 1 program.py:{number}",
                "k = k * 10", "goto end", "continue").partition("k edited")[2]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(HIDDEN.replace("    d =", "    if n == 0: k = k * 10\n    d ="), {})
    assert re.findall(r"^step.*", said, re.MULTILINE) == printed.getvalue().splitlines()


PLAIN = {name: values[0] for name, values in edits.CHOICES.items()}


def test_a_timeline_with_closed_compiled_steps_runs_on_when_native_is_off(tmp_path: Path) -> None:
    case = edits.Case("compiled", edits.HEAD + edits.SHAPES["compiled"].format(**PLAIN) + edits.END, "A")
    text = edits.script(case.script, case.marks)
    (tmp_path / "train.py").write_text(text)
    where = edits.where(case, edits.Change(1, "A", ""))
    shown = play(tmp_path / "train.py", "goto step 5", "config native off", *where, "scale = 3.0", "timeline 1",
                 "continue", "goto end", "p hash(tuple(log))")  # fmt: skip
    assert f"= {hash(tuple(edits.plainly(case, ())))}" in shown, shown
