"""Steps that have been opened are closed again, and opened again to the same numbers."""

from __future__ import annotations

import os
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from nnrepl.record.dropped import Dropping
from nnrepl.session import reclosing
from nnrepl.tape import Leaf, Notes, Tape
from nnrepl.timeline.history import OPS, default_budget
from tests.closed.programs import HEAD, PLAIN, PROGRAMS
from tests.closed.test_closed import BITS, QUIET, TOLD, _main, captured, plainly, play

__all__ = ["_main"]


@pytest.mark.parametrize("name", ["adam", "iterators", "two", "by_hand"])
def test_steps_are_opened_closed_and_opened_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclosing, "_MOST", 2)
    (tmp_path / "train.py").write_text(HEAD + QUIET + PROGRAMS[name])
    printed, told = plainly(HEAD + TOLD + PROGRAMS[name])
    steps = 12 if len(told) == 12 else 10
    each = len(told) // steps
    order = random.Random(name).choices(range(2, steps), k=9)
    lines = [line for step in order for line in (f"goto step {step}", "until backward", f"p {BITS}")]
    shown = play(tmp_path / "train.py", "continue", *lines, "info steps all")
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[(step - 1) * each] for step in order]
    ops = [int(ops) for ops in re.findall(r"^(?:▶|  )\s+\d+ +(\d+) +\d +\w+", shown, re.MULTILINE)]
    assert sum(count > 8 for count in ops) <= 4, shown  # the first, and those that are kept
    assert re.sub(r"^(native on|opening .*)\n", "", shown, flags=re.MULTILINE).startswith(printed)


def test_a_step_that_was_changed_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reclosing, "_MOST", 1)
    (tmp_path / "train.py").write_text(HEAD + QUIET + PROGRAMS["adam"])
    lines = ("continue", "goto step 3", "step 3", "z = z * 2", "continue", "goto step 6", "goto step 8", "goto step 10",
             "goto step 3 tanh", "p z.sum().item()", "timelines")  # fmt: skip
    shown = play(tmp_path / "train.py", *lines)
    assert "cannot" not in shown
    assert re.search(r"z = z \* 2", shown), shown


def closed_and_whole(monkeypatch: pytest.MonkeyPatch, room: int = 60) -> list[Tape]:
    """Have few ops be too many; each time that steps have been closed everything on the tape lies where it says that it
    does. Gives the tape, once for each time."""
    monkeypatch.setattr(reclosing, "OP_BYTES", default_budget() // OPS // room)
    run, seen = Dropping.run, []

    def checked(self: Dropping) -> None:
        run(self)
        ops, notes, log = self.tape.ops, self.tape.notes, self.tape.bindings.log
        assert [op.position for op in ops] == [*range(len(ops))]
        assert all(ops[pass_.start].pass_ is pass_ for pass_ in self.tape.passes if len(pass_))
        assert [entry[0] for entry in log] == sorted([min(entry[0], len(ops)) for entry in log])
        taken = [(op, value) for op in ops for value in op.inputs]
        assert all(value.op is None or ops[value.op.position] is value.op for _, value in taken)
        assert all(value.entered <= op.position for op, value in taken if isinstance(value, Leaf))
        assert {*notes.updates, *notes.errors, *notes.streams} <= {*ops}
        seen.append(self.tape)

    monkeypatch.setattr(Dropping, "run", checked)
    return seen


@pytest.mark.parametrize(("name", "room"), [("by_hand", 60), ("written_into", 150)])
def test_recorded_steps_beyond_the_budget_are_closed(
    name: str, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are opened to plain MLX's bits, and those that stay open go on from what the closed ones have made."""
    times = closed_and_whole(monkeypatch, room)
    (tmp_path / "train.py").write_text(HEAD + QUIET + PROGRAMS[name])
    printed, told = plainly(HEAD + TOLD + PROGRAMS[name])
    steps = 12 if len(told) == 12 else 10
    order = [4]
    lines = [line for step in order for line in (f"goto step {step}", "until backward", f"p {BITS}")]
    save = f"save {tmp_path / 'tape'} all"
    shown = play(tmp_path / "train.py", "config native off", "continue", save, "info steps all", *lines)
    loaded = captured("--batch", "-c", "info locals", "-c", "timelines", str(tmp_path / "tape.safetensors"))
    assert "as it is" in loaded, (shown, loaded)
    assert len(re.findall(r"^ +\d+ +[1-4] ", shown, re.MULTILINE)) >= 3, shown
    assert len(times) >= 1
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[(step - 1) * (len(told) // steps)] for step in order]
    assert printed in shown


@pytest.mark.parametrize("what", ["an interrupt", "an error"])
def test_a_tape_is_whole_where_steps_are_being_closed(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C waits; an error comes before anything has changed."""
    monkeypatch.setattr(reclosing, "OP_BYTES", default_budget() // OPS // 60)
    (tmp_path / "train.py").write_text(HEAD + QUIET + PROGRAMS["adam"])
    _, told = plainly(HEAD + TOLD + PROGRAMS["adam"])
    kind, name = (Notes, "forget") if what == "an interrupt" else (Dropping, "_left_alone")
    going_on, struck = getattr(kind, name), []

    def strike(*args: Any) -> Any:
        if not struck:
            struck.append(name)
            if what == "an error":
                raise RuntimeError("struck")
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return going_on(*args)

    monkeypatch.setattr(kind, name, strike)
    lines = ("config native off", "continue", "where", "continue", "goto step 2", "until backward", f"p {BITS}")
    before = signal.getsignal(signal.SIGINT)
    try:
        shown = captured("--plain", *[part for line in lines for part in ("-c", line)], str(tmp_path / "train.py"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert ("stopping at the next op" if what == "an interrupt" else "RuntimeError: struck") in shown
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[1]]


def test_the_loss_of_a_closed_call_is_never_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No op makes it again."""
    monkeypatch.setattr(reclosing, "OP_BYTES", 1)
    program = PROGRAMS["adam"].replace("    if i % 5 == 0: print(i, loss.item())\n", "")
    (tmp_path / "train.py").write_text(HEAD + QUIET + program)
    lines = ("config history 60", "continue", "goto step 9", "goto step 7", "p loss", "p i")
    shown = play(tmp_path / "train.py", "config native off", *lines)
    assert "LookupError" not in shown
    assert shown.count("opening step") >= 2, shown
    assert re.findall(r"\bi = (\d+)$", shown, re.MULTILINE) == ["6"], shown


def test_what_only_a_variable_held_is_let_go_of_with_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the program holds it no more: no later op takes it. It is there where its step is opened."""
    monkeypatch.setattr(reclosing, "OP_BYTES", 150)
    program = """
model = nn.Linear(4, 2); opt = optim.SGD(1e-2); learn = nn.value_and_grad(model, lambda m, x: (m(x) ** 2).mean())
for i in range(14):
    if i in (3, 12): kept = mx.ones((64, 64)) * i
    opt.update(model, learn(model, X)[1]); mx.eval(model.parameters(), kept if i > 2 else X)
"""
    (tmp_path / "train.py").write_text(HEAD + QUIET + program)
    look = "p ('kept', kept.sum().item())"
    lines = ("config history 100k", "until step 12", look, "until step 14", "goto step 12", look, "goto step 5", look)
    shown = play(tmp_path / "train.py", "config native off", *lines, "explain kept", "last kept")
    assert re.search(r"^opening step 4:.*\n(4#\d+ multiply .*  →  kept)", shown, re.MULTILINE), shown
    assert re.search(r"^step 4 · .*\n▶ .*kept = mx.ones", shown, re.MULTILINE), shown
    assert re.findall(r"'kept', (\d+)|(made in step 4, which is closed)", shown) == [
        ("12288", ""),
        ("", "made in step 4, which is closed"),
        ("12288", ""),
    ], shown
    shown = play(tmp_path / "train.py", "continue", "explain kept", "last kept")
    assert "made in what is closed, or outside of the recording; no op on the tape" in " ".join(shown.split())
    assert re.search(r"^step 13 · .*\n▶ .*kept = mx.ones", shown, re.MULTILINE), shown


COMPILED = """
opt = optim.SGD(1e-2); state = [model.state, opt.state]
def train(x, y):
    loss, grads = learn(model, x, y)
    opt.update(model, grads)
    return loss
train = mx.compile(train, inputs=state, outputs=state)
for i in range(10):
    mx.eval(train(X, Y), state)
"""


def test_recorded_steps_of_one_call_are_closed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone none could be: what a compiled function does runs natively as a whole."""
    times = closed_and_whole(monkeypatch)
    several = COMPILED.replace("    loss, g", "    for _ in range(2):\n     loss, g").replace("    opt.u", "     opt.u")
    program = HEAD + QUIET + PLAIN + several.replace("mx.eval(train(X, Y), state)", "print('loss', train(X, Y).item())")
    (tmp_path / "train.py").write_text(program)
    look = ("info steps all", "goto step 11", "goto step 12", "until backward", "p ('loss', loss.item())")
    shown = play(tmp_path / "train.py", "config native off", "continue", *look)
    printed, (looked,) = (
        re.findall(r"^loss (\S+)$", shown, re.MULTILINE),
        re.findall(r"\('loss', (\S+)\)$", shown, re.M),
    )
    assert looked == printed[5]
    assert shown.count("opening step") == len(times[:1]) == 1
    assert len(re.findall(r"^ +\d+ +[1-4] ", shown, re.MULTILINE)) >= 6, shown


@pytest.mark.parametrize("program", [PROGRAMS["adam"], PROGRAMS["by_hand"], PLAIN + COMPILED])
def test_what_was_recorded_before_is_let_go(program: str, tmp_path: Path) -> None:
    """Neither what ended a run (its frames), nor what both tapes hold, nor what is noted of ops and values, nor the
    program's objects bring the runs before along: after nine more openings there is no more than after three."""
    (tmp_path / "train.py").write_text(HEAD + QUIET + program)
    alive = "[type(one).__name__ for one in __import__('gc').get_objects()]"
    counted = f"p [{alive}.count(kind) for kind in ('Recorder', 'Tape', 'ClosedOp')]"
    look = ("__import__('gc').unfreeze()", "__import__('gc').collect()", counted)  # other tests' may live here too
    few, many = ([f"goto step {step}" for step in steps] for steps in ((9, 5, 7), (4, 8, 3, 9, 6, 5, 7, 4, 8)))
    shown = play(tmp_path / "train.py", "continue", *few, *look, *many, *look)
    before, after = (
        list(map(int, row.split(", "))) for row in re.findall(r"\[(\d+, \d+, \d+)\]$", shown, re.MULTILINE)
    )
    assert all(now <= then for then, now in zip(before, after)), (before, after)


def test_a_curve_takes_no_loss_of_a_closed_step_from_the_one_before_it(tmp_path: Path) -> None:
    """Of the other timeline nobody had computed them: a flat line was drawn, up to "last 1.0 (step 9)"."""
    (tmp_path / "train.py").write_text(HEAD + QUIET + PROGRAMS["adam"])
    lines = ("continue", "goto step 4", "X = X * 3", "continue", "plot loss 1 2", "timeline 1", "plot loss 1 2")
    shown = play(tmp_path / "train.py", *lines)
    before, after = re.split(r"^timeline 1$", shown, flags=re.MULTILINE)[-2:]
    assert re.search(r"steps from 2 to \d+ of timeline 1 are closed; timeline 1 and then plot loss", before), shown
    assert "are closed" not in after
    first = [re.search(r"1 loss in timeline 1 +(.*)", part) for part in (before, after)]
    assert all(first), shown
    plain = play(tmp_path / "train.py", "config native off", "continue", "plot loss")
    told = re.search(r"^loss +(last .* lowest .*) · highest", plain, re.MULTILINE)
    assert told is not None, plain
    assert first[1] is not None
    assert first[1][1].strip() == told[1]
