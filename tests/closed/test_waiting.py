"""Calls of a program that nothing can stop are noted as they run, and lie on the tape when somebody looks."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from nnrepl.record import closing, heap
from nnrepl.record.closed_losses import ClosedLosses
from nnrepl.record.closing import Call, NotedCalls, WaitingCalls
from nnrepl.record.names import ProgramNames
from nnrepl.record.native import Quiet
from nnrepl.record.numbering import Numbering
from nnrepl.record.recorder import Recorder
from nnrepl.record.stack import Stack, Way
from nnrepl.record.watch import BindingWatch
from nnrepl.replay.restart_point import RestartPoint
from nnrepl.session import callees, natively
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Activation, ClosedOp, Op, Operation, Pass, Tape
from nnrepl.tape.native_run import NativeRun
from tests.closed.test_closed import _main, play  # noqa: F401 - a fixture

PROGRAM = """\
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
import weakref
from functools import partial
class Local: pass
mx.random.seed(0)
model, optimizer = nn.Linear(3, 2), optim.Adam(learning_rate=0.1)
x = mx.random.normal((4, 3))
scale = mx.array(1.0)
def loss_fn(x):
    return mx.square(model(x) * scale).mean()
grad = nn.value_and_grad(model, loss_fn)
state = [model.state, optimizer.state]
{decorator}
def step(x):
    here = Local()
    locals_of.append(weakref.ref(here))
    loss, grads = grad(x)
    optimizer.update(model, grads)
    return loss
losses, locals_of, outliving = [], [], 0
for k in range(40):
    try:
        losses.append(step(x if k != {fails} else x[:, :2]))
    except ValueError:
        print("a shape that does not fit")
    # What is recorded keeps what its variables held, and an error its frames.
    outliving += len(locals_of) > 5 and k != {fails} and locals_of[-1]() is not None
    mx.eval(losses[-1], state)
    if k == 15:
        print(losses[-1].item())
"""
BY_HAND = PROGRAM.replace("from functools import partial", "from mlx.utils import tree_map").replace(
    "optimizer.update(model, grads)", "model.update(tree_map(lambda w, g: w - 0.1 * g, model.parameters(), grads))"
)
COMPILED = "@partial(mx.compile, inputs=state, outputs=state)"


LOWEST = """\
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim
mx.random.seed(0)
model, optimizer = nn.Linear(3, 2), optim.Adam(learning_rate=0.01)
grad, best = nn.value_and_grad(model, lambda x: mx.square(model(x) * 2).mean()), 9.0
for k in range(60):
    loss, grads = grad(mx.random.normal((4, 3)))
    optimizer.update(model, grads)
    mx.eval(model.state, optimizer.state)
    if k > 8 and loss.item() < best and k % 3: best = loss.item(); print(k, best)
"""


def test_what_a_program_is_told_is_kept_under_its_call_whichever_calls_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some calls have something to do, so that they are not noted; an update may be noted after one."""
    told: dict[int, list[float]] = {}
    plain = ModuleType("plain")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(LOWEST.replace("loss.item() <", "told.setdefault(k, []).append(loss.item()) or loss.item() <"),
             {**vars(plain), "told": told})  # fmt: skip
    asked, kept = itertools.count(), NativeRun.tell
    noted: dict[int, list[float]] = {}

    def tell(run: NativeRun, how: str, answer: Any) -> None:
        if how == "array.item":
            noted.setdefault(run._begun, []).append(answer)
        kept(run, how, answer)

    monkeypatch.setattr(NativeRun, "tell", tell)
    monkeypatch.setattr(natively, "perf_counter", lambda: math.inf if next(asked) % 7 == 4 else 0.0)
    (tmp_path / "train.py").write_text(LOWEST)
    play(tmp_path / "train.py", "continue")
    assert {k: set(answers) for k, answers in noted.items()} == {k: set(told[k]) for k in sorted(told) if k in noted}
    assert len(noted) > 40


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        (PROGRAM.format(decorator="", fails=25), 25),
        (PROGRAM.format(decorator=COMPILED, fails=-1), -1),
        (BY_HAND.format(decorator="", fails=-1), -1),
    ],
    ids=["eager", "compiled", "by hand"],
)
def test_calls_wait_until_somebody_looks(
    text: str, fails: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    put = WaitingCalls._arrive

    def arrive(waiting: WaitingCalls, tape: Tape) -> None:
        waited.append(len(waiting._noted))
        put(waiting, tape)

    walked: list[type] = []
    inside = callees._inside

    def inside_of(thing: Any) -> list[Any]:
        walked.append(type(thing))
        return inside(thing)

    kept: list[int] = []

    class Point(RestartPoint):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            kept.append(len(given[0].tape.steps))

    filled: list[str] = []
    monkeypatch.setattr(heap, "fill", lambda: filled.append("fill"))
    monkeypatch.setattr(heap, "release", lambda: filled.append("release"))
    monkeypatch.setattr("nnrepl.session.restarts.RestartPoint", Point)
    monkeypatch.setattr(callees, "_inside", inside_of)
    monkeypatch.setattr(WaitingCalls, "_arrive", arrive)
    file = tmp_path / "train.py"
    file.write_text(text)
    module: dict[str, object] = {}
    exec(text.replace("print(", "str("), module)
    losses = module["losses"]
    assert isinstance(losses, list)
    looks = [line for step in (36, 12) for line in (f"goto step {step}", "p len(losses)", "p losses[-1]")]
    shown = play(file, "continue", "p outliving", "info steps all", *looks)
    assert "outliving = 0\n" in shown  # a frame that is held keeps a step's gradients
    assert max(waited) > 10
    assert filled[:2] == ["fill", "release"]  # natively, and where a step is recorded again
    assert filled.count("fill") == 1, "a run along a tape leaves the heap as it is"
    assert kept == [0], "a step that is opened on the way is not one in which the program waits"
    assert len(walked) < 30 * len(looks), "what is written in C, or stands in for MLX's, has nothing of the program's"
    assert re.findall(r"train.py:\d+ +(\S+)$", shown, re.MULTILINE) == [f"{loss.item():.4f}" for loss in losses]
    assert re.findall(r"^len\(losses\) = (\d+)$", shown, re.MULTILINE) == ["35", "11"]
    for before in (35, 11):
        assert f"losses[-1] = {losses[before - 1].item():.4f}" in shown
    assert shown.count("a shape that does not fit") == (fails > 0)


def _tape() -> Tape:
    return ProgramNames().tape


def _noted(k: int) -> NotedCalls:
    return NotedCalls([Call(GRADIENT_PASS), Call(UPDATE_PASS)], None, k, by_hand=False)


def test_what_waits_comes_in_order_and_an_interrupt_loses_none() -> None:
    seen: list[int] = []

    def put(tape: Tape, noted: deque[NotedCalls]) -> None:
        tape.ops.append(Op(Operation("call", mx.add, "call"), (), {}, ()))
        seen.append(noted.popleft().lasti)
        if len(seen) == 3:
            raise KeyboardInterrupt

    tape, waiting = _tape(), WaitingCalls(put)
    for k in range(6):
        waiting.add(tape, _noted(k), 1)
    assert waiting.are_updated(tape)
    assert not seen
    with pytest.raises(KeyboardInterrupt):
        len(tape)
    assert seen == [0, 1, 2]
    assert len(tape) == 6
    assert seen == [0, 1, 2, 3, 4, 5]
    assert type(tape) is Tape


class _Fitted(nn.Module):
    def fit(self, look: Callable[[FrameType], bool]) -> bool:
        return look(sys._getframe())


def _fit(net: _Fitted, look: Callable[[FrameType], bool]) -> bool:
    return net.fit(look)


def _fit_elsewhere(net: _Fitted, look: Callable[[FrameType], bool]) -> bool:
    return net.fit(look)


def test_a_call_is_known_by_the_way_to_it_and_by_whose_method_makes_it() -> None:
    watch = Quiet(BindingWatch(Recorder(_tape(), strict=False)))
    stack, ways = Stack(sys._getframe(), watch), list[Way]()

    def take(frame: FrameType) -> bool:
        way = stack.way(frame, stack.enter(frame))
        assert way is not None
        ways.append(way)
        return True

    one, other = _Fitted(), _Fitted()
    below = Activation(None, _tape.__code__, -1, None)  # where it stands, that is another call to the tape
    comes = [take, *[lambda frame: stack.is_way(ways[0], frame)] * 4]
    comes.append(lambda frame: stack.is_way((*ways[0][:2], below), frame))
    through = [_fit, _fit, _fit, _fit_elsewhere, _fit, _fit]
    found = [make(net, look) for make, net, look in zip(through, [one, one, other, one, one, one], comes)]
    assert found == [True, True, False, False, True, False]


def test_losses_are_kept_as_numbers_where_a_call_waits_long() -> None:
    losses, calls, tape = ClosedLosses(), [_noted(k) for k in range(70)], _tape()
    for k, noted in enumerate(calls):
        loss = mx.array(k + 0.5, mx.bfloat16) if k else mx.array([0.5])
        losses.made(noted, loss)
        losses.settle()
        loss += 1  # the program's own object
    read = [type(noted.loss) for noted in calls]
    assert read[:64] == [mx.array, *[float] * 63]
    assert read[64:] == [mx.array] * 6
    for noted in calls:
        op = ClosedOp(GRADIENT_PASS, "loss", Pass(tape, 1, GRADIENT_PASS, "loss", 0, 1))
        noted.lies(op)
        assert op.pass_.loss is op.outputs[0]
        assert op.outputs[0].op is op
    for noted in calls[64:68]:
        noted.read()
    held = [noted.op.outputs[0].array for noted in calls if noted.op is not None]
    assert [array.item() for array in held] == [k + 0.5 for k in range(70)]
    assert {array.dtype for array in held[1:]} == {mx.bfloat16}
    assert held[0].shape == (1,)


SKIPPING = """\
import mlx.core as mx
mx.random.seed(0)
w, x = mx.random.normal((3, 2)), mx.random.normal((4, 3))
grad = mx.value_and_grad(lambda w: mx.square(x @ w).mean())
for k in range(24):
    loss, dw = grad(w)
    {update}
    mx.eval(loss, w)
"""


@pytest.mark.parametrize("update", ["if k != 18: w = w - 0.1 * dw", "if k != 18: w -= 0.1 * dw"])
def test_weights_that_are_not_updated_by_hand_once_are_found(update: str, tmp_path: Path) -> None:
    """Each call, noted or not, knows what the one before it has left behind."""
    (tmp_path / "train.py").write_text(SKIPPING.format(update=update))
    shown = play(tmp_path / "train.py", "continue", "info steps all")
    gradients = re.findall(r"^▶? +\d+ +\d+ +(\d) +by hand", shown, re.MULTILINE)
    assert gradients == [*["1"] * 18, "2", *["1"] * 4]


def test_another_thread_sees_what_is_there() -> None:
    tape, found = _tape(), deque[int]()

    def put(tape: Tape, noted: deque[NotedCalls]) -> None:
        noted.popleft()
        tape.ops.append(Op(Operation("call", mx.add, "call"), (), {}, ()))

    waiting = WaitingCalls(put)
    waiting.add(tape, _noted(0), 1)
    thread = threading.Thread(target=lambda: found.append(len(tape)))
    thread.start()
    thread.join()
    assert [*found, len(tape)] == [0, 1]


@pytest.mark.parametrize("ways", ["a", "c", "ab", "aab", "abcc", "dd", "dad"])
def test_calls_that_come_as_before_lie_on_the_tape_as_each_by_itself(
    ways: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From several places, two of them of one compiled function, and one that spans steps."""
    top = Activation(None, _tape.__code__, -1, None)
    inner, elsewhere = (Activation(top, _noted.__code__, lasti, None) for lasti in (4, 6))
    gradient = Call(GRADIENT_PASS, "loss", _noted.__code__, inner, 8, top)
    compiled = [gradient, Call(UPDATE_PASS, "Adam", None, inner, 10, top)]
    kinds = {
        "a": [(compiled, top, 2)],
        "b": [(compiled, elsewhere, 2)],
        "c": [([Call(GRADIENT_PASS, "loss", _noted.__code__)], top, 12), ([Call(UPDATE_PASS, "SGD")], top, 14)],
        "d": [([*compiled, *compiled], top, 16)],
    }
    called: list[Call] = []
    put = closing.put_closed

    def put_closed(numbering: Numbering, tape: Tape, call: Call, scope: Activation | None, lasti: int) -> ClosedOp:
        called.append(call)
        return put(numbering, tape, call, scope, lasti)

    monkeypatch.setattr(closing, "put_closed", put_closed)

    def row(pass_: Pass) -> tuple[Any, ...]:
        scope, op = pass_.scope, pass_.ops[0]
        fields = [getattr(pass_, name) for name in Pass.__slots__ if name not in ("tape", "scope")]
        fields += [getattr(op, name) for name in Op.__slots__ if name not in ("operation", "pass_", "scope")]
        return *fields, scope and [(at.code, at.lasti) for at in scope.path()], op.lasti, op.scope is scope, op.name

    def lie(again: bool) -> tuple[Any, ...]:
        tape, arriving = _tape(), closing.Arriving(Numbering())
        if not again:
            monkeypatch.setattr(arriving, "_put_as_before", lambda tape, noted: None)
        called.clear()
        made, waiting = [], deque[NotedCalls]()
        for k, way in enumerate(ways * 12):
            for calls, scope, lasti in kinds[way]:
                made.append(NotedCalls(calls, scope, lasti, by_hand=False))
                made[-1].gives_loss = "first" if k % 3 else ""
                waiting.append(made[-1])
            if k % 7 < 4:  # several come to lie there at once
                arriving.put(tape, waiting)
        arriving.put(tape, waiting)
        last = [None if one.op is None else one.op.position for one in made]
        return [*map(row, tape.passes)], tape.spans, last, len(tape.steps), arriving._numbering.update

    alone, together = lie(False), len(called)
    assert lie(True) == alone
    assert len(called) < together * {"a": 0.5, "c": 0.5, "abcc": 1.0}.get(ways, 2.0)
