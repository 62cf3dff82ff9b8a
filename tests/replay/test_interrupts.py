"""Ctrl-C at any moment of a change: the prompt, with the tape, the timelines and the edits as they were before.

The interrupts are sent from within, at the n-th call that Python makes, so that each moment is met and met again."""

from __future__ import annotations

import contextlib
import gc
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.programs.debuggee import Debuggee
from nnrepl.programs.script import load_script
from nnrepl.record.changing import changes_in_place
from nnrepl.record.names import ProgramNames
from nnrepl.record.native_reads import IN_PLACE
from nnrepl.record.recorder import MUTED, NATIVE, RECORD, Recorder
from nnrepl.record.watch import BindingWatch
from nnrepl.replay.interrupts import is_swallowed, put_off
from nnrepl.replay.keepers import keep_ndarray
from nnrepl.session import statements
from nnrepl.session.broken_off import standing_still
from nnrepl.session.errors import UserError
from nnrepl.session.hooks import Hooks
from nnrepl.session.parsed import parse
from nnrepl.session.session import TapeSession
from nnrepl.shell.breaking import Breaking
from nnrepl.shell.shell import Shell
from tests.support import OpenSession, assert_same_bits

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="only the main thread gets signals"
)


@contextmanager
def interrupted_at(call: int) -> Iterator[None]:
    """Press Ctrl-C when Python makes its n-th call inside."""
    left = [call]

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            left[0] -= 1
            if left[0] <= 0 and not is_swallowed(frame):
                sys.setprofile(None)
                handler: Any = signal.getsignal(signal.SIGINT)
                handler(signal.SIGINT, frame)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGINT, before)


def state_of(session: Any) -> tuple[Any, ...]:
    """What must be the same after an interrupt."""
    timelines = session.changes.timelines
    return (
        session.tape, list(session.tape.ops), len(timelines), timelines.current, session.cursor,
        session.changes.coming, [pass_.end for pass_ in session.tape.passes],
    )  # fmt: skip


def interrupt_everywhere(session: Any, edit: Callable[[], Any], stride: int) -> int:
    """Interrupt a change at one moment after the other, until it comes through. Returns how often it did not."""
    missed = 0
    before = state_of(session)
    for call in range(1, 1_000_000, stride):
        try:
            with interrupted_at(call):
                edit()
        except KeyboardInterrupt:
            missed += 1
        if state_of(session)[3] is not before[3]:
            return missed
        assert state_of(session) == before
    raise AssertionError("it never came through")


def test_a_call() -> None:
    def loss_fn(w: mx.array) -> mx.array:
        seen.append(1)
        a = w * 2
        return (mx.exp(a) * len(seen)).sum()

    seen: list[int] = []
    w = mx.array([1.0, 2.0])
    trace = nnrepl.trace(loss_fn, w, wrt=0)
    expected = trace.set("a", lambda a: a * 3)
    session = OpenSession(trace)
    session.run("goto exp")
    assert interrupt_everywhere(session, lambda: session.run("a = a * 3"), 211) > 5
    assert len(seen) == 1
    session.run("goto end")
    assert_same_bits(expected.grads, session.expressions.evaluate(parse("grad(w)"), session.where()))


PROGRAM = """
import mlx.core as mx
w = mx.array([1.0, 2.0])
calls = 0
def loss_fn(w):
    global calls
    calls += 1
    a = w * 2
    b = mx.exp(a) * calls
    return b.sum()
for i in range(3):
    loss, g = mx.value_and_grad(loss_fn)(w)
    w = w - 0.01 * g
"""


def test_a_pass_of_a_program(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    names = ProgramNames()
    tape = names.tape
    session = TapeSession(tape, names)
    session.settings["native"] = "off"  # its losses are read, which the program does not evaluate
    missed: list[int] = []
    losses: list[float] = []

    class User(Hooks):
        def interact(self) -> None:
            if not missed:
                session.goto("exp")
                assignment = parse("a = a * 3").assignment
                assert assignment is not None
                missed.append(
                    interrupt_everywhere(session, lambda: session.changes.assign(assignment, "a = a * 3"), 211)
                )
                session.resume()
            else:
                losses.extend(pass_.loss.array.item() for pass_ in session.tape.passes if pass_.loss is not None)

    session.hooks = User()
    Debuggee(load_script(str(path), []), session).run()
    assert missed[0] > 5
    assert losses == pytest.approx(_plain())


def _plain() -> list[float]:
    w, losses = mx.array([1.0, 2.0]), []
    for i in range(3):

        def loss_fn(w: mx.array, i: int = i) -> mx.array:
            a = w * 2
            a = a * 3 if i == 0 else a
            return (mx.exp(a) * (i + 1)).sum()

        loss, g = mx.value_and_grad(loss_fn)(w)
        w = w - 0.01 * g
        losses.append(loss.item())
    return losses


def broken_off(session: OpenSession, line: str) -> tuple[Any, ...]:
    """Press Ctrl-C when a line has done what it does. Returns what it had come to."""
    found: list[tuple[Any, ...]] = []
    with contextlib.suppress(KeyboardInterrupt), standing_still(session):
        session.run(line)
        found.append(state_of(session))
        raise KeyboardInterrupt
    return found[0]


def test_a_move_that_is_broken_off() -> None:
    """Ctrl-C while the place is shown to which a command has led: the user stands where they stood."""
    trace = nnrepl.trace(lambda w: ((w * 2) ** 2).sum(), mx.array([1.0]), wrt=0)
    session = OpenSession(trace)
    session.run("w = w * 2")
    before, stop = state_of(session), session.stop
    for line in ("undo", "timeline 1", "goto end"):
        assert broken_off(session, line) != before
        assert state_of(session) == before
        assert session.stop is stop
        with pytest.raises(UserError):
            session.changes.redo()


def test_user_error_leaves_nothing(tmp_path: Path) -> None:
    trace = nnrepl.trace(lambda w: (w * 2).sum(), mx.array([1.0]), wrt=0)
    session = OpenSession(trace)
    before = state_of(session)
    with pytest.raises(UserError):
        session.run("w = 'x'")
    assert state_of(session) == before


def test_where_an_array_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python swallows what is raised there, and shows its traceback: Ctrl-C strikes again a moment later."""
    again: list[int] = []
    monkeypatch.setattr("nnrepl.replay.interrupts.os.kill", lambda pid, number: again.append(number))
    for function in (Recorder.link, BindingWatch._watch, keep_ndarray):
        callbacks = [part for part in function.__code__.co_consts if getattr(part, "co_name", "") == "<lambda>"]
        assert callbacks
        for code in callbacks:
            assert put_off(cast(FrameType, SimpleNamespace(f_code=code, f_back=None)))
    assert not put_off(sys._getframe())
    dying: list[bool] = []

    class Dies:
        def __del__(self) -> None:
            dying.append(is_swallowed(sys._getframe()))

    def told(phase: str, info: dict[str, int]) -> None:
        dying.append(is_swallowed(sys._getframe()))

    Dies()
    gc.callbacks.append(told)
    gc.collect()
    gc.callbacks.remove(told)
    assert dying == [True] * 3
    end = time.monotonic() + 60
    while len(again) < 3 and time.monotonic() < end:
        time.sleep(0.01)
    assert again == [signal.SIGINT] * 3


def test_what_nnrepl_imports_is_imported_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a class is made Python makes a RuntimeError of Ctrl-C. What the program imports is broken off."""
    body = "import sys\nclass A:\n    found = sys.modules['asked'].put_off(sys._getframe())\n"
    (tmp_path / "looks.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    again: list[int] = []
    monkeypatch.setattr("nnrepl.replay.interrupts.os.kill", lambda pid, number: again.append(number))
    for owner, waits in (("nnrepl.made_up", True), ("made_up", False)):
        monkeypatch.delitem(sys.modules, "looks", raising=False)
        monkeypatch.setitem(sys.modules, "asked", cast(Any, SimpleNamespace(put_off=put_off)))
        names: dict[str, Any] = {"__name__": owner}
        exec("def late():\n    import looks", names)
        names["late"]()
        assert sys.modules["looks"].A.found is waits
    end = time.monotonic() + 60
    while not again and time.monotonic() < end:
        time.sleep(0.01)
    assert again == [signal.SIGINT]


def test_when_ctrl_c_does_nothing() -> None:
    """Between two lines there is nothing to break off, and a program that runs again stops at its next op already."""
    shell: Any = Breaking()
    going = SimpleNamespace(interrupted=True)
    shell.session = SimpleNamespace(recorder=None, waits=True, replaying=False, course=SimpleNamespace(now=going))
    shell.at_prompt = True
    shell._interrupted(signal.SIGINT, None)
    with shell._breaking(), pytest.raises(KeyboardInterrupt):
        shell._interrupted(signal.SIGINT, None)
    for pages, broken in ((True, 0), (False, 1)):  # where it is a key, a prompt that is being set up is left alone
        shell.reader = SimpleNamespace(pages=pages, screen=None, read=lambda _: shell._interrupted(signal.SIGINT, None))
        found = pytest.raises(KeyboardInterrupt) if broken else contextlib.nullcontext()
        with found:
            Shell.read(shell, "")
    shell.at_prompt = shell.session.waits = False
    shell._pressed = math.inf
    shell._interrupted(signal.SIGINT, None)  # at once behind the one before, however slow the machine is
    shell._pressed = 0.0
    with pytest.raises(KeyboardInterrupt):
        shell._interrupted(signal.SIGINT, None)
    shell._pressed, shell.session.replaying = 0.0, True
    shell._interrupted(signal.SIGINT, None)


@pytest.mark.parametrize(
    ("differs", "does"),
    [
        ({}, "stops"),
        ({"mode": NATIVE}, "stops"),
        ({"recorder": None, "at_work": True}, "raises"),
        ({"mode": MUTED}, "raises"),
        ({"mode": MUTED, "replaying": True}, "stops"),
        ({"mode": MUTED, "at_work": True}, "stops"),
        ({"course": False}, "raises"),  # nothing there that could stop
        ({"waits": True}, "stops"),
        ({"waits": True, "at_work": True}, "nothing"),
        ({"cells": [7]}, "stops"),
        ({"at_prompt": True}, "raises"),
        ({"at_prompt": True, "waits": True, "at_work": True}, "raises"),
    ],
)
def test_what_ctrl_c_does(differs: dict[str, Any], does: str) -> None:
    """A program that is recorded stops at its next op, and one in which nnrepl is at work; else it is raised."""
    given = {"at_prompt": False, "waits": False, "replaying": False, "course": True, "mode": RECORD} | differs
    cells = differs.get("cells", [])
    shell: Any = Breaking()
    shell.strikes = []
    shell._strike_soon = shell.strikes.append
    shell.shown, shell.at_prompt, shell._breaks = [], given["at_prompt"], True
    shell.show = shell.shown.append
    recorder = differs.get("recorder", SimpleNamespace(mode=given["mode"]))
    course = SimpleNamespace(now=None, interrupt=lambda: given["course"])
    session = {"recorder": recorder, "waits": given["waits"], "replaying": given["replaying"], "course": course}
    changes = SimpleNamespace(timelines=SimpleNamespace(live=SimpleNamespace(starts=cells)))
    shell.session = SimpleNamespace(changes=changes, **session)
    module = "nnrepl.made_up" if given.get("at_work") else "made_up"
    frame: Any = SimpleNamespace(f_globals={"__name__": module}, f_code=test_what_ctrl_c_does.__code__, f_back=None)
    with pytest.raises(KeyboardInterrupt) if does == "raises" else contextlib.nullcontext():
        shell._interrupted(signal.SIGINT, frame)
    said = f"{_STOPPING.split(';')[0]}, or in a moment" if cells else _STOPPING
    assert [str(text).strip() for text in shell.shown] == [said] * (does == "stops")
    waits = [0.6] if cells else [2.0] if given["replaying"] and does == "stops" else []
    assert shell.strikes == waits


def test_a_cell_that_comes_to_no_op_is_broken_off() -> None:
    """It is not where it has stopped meanwhile, and where nnrepl is at work an op is at hand: a moment later, then."""
    shell: Any = Breaking()
    shell.at_prompt, again = False, []
    shell._strike_soon = lambda: again.append(1)
    recorder, going = SimpleNamespace(mode=RECORD), SimpleNamespace(interrupted=True)
    course = SimpleNamespace(now=going, interrupt=lambda: False)
    shell.session = SimpleNamespace(recorder=recorder, waits=False, replaying=False, course=course)
    code = test_a_cell_that_comes_to_no_op_is_broken_off.__code__
    frames: Any = {
        name: SimpleNamespace(f_globals={"__name__": name}, f_code=code, f_back=None) for name in ("nnrepl.a", "cell")
    }
    shell._late = True
    shell._interrupted(signal.SIGINT, frames["nnrepl.a"])
    assert again == [1]
    shell._late = True
    with pytest.raises(KeyboardInterrupt):
        shell._interrupted(signal.SIGINT, frames["cell"])
    shell._late, going.interrupted = True, False
    shell._interrupted(signal.SIGINT, frames["cell"])
    assert again == [1]


_STOPPING = "stopping at the next op; Ctrl-C again interrupts the program itself"


def test_a_look_that_is_interrupted_as_it_begins_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: vars(mx.array)[name] for name in IN_PLACE}
    begun = False
    for call in range(1, 1000):
        with contextlib.suppress(KeyboardInterrupt), interrupted_at(call), changes_in_place():
            sys.setprofile(None)
            begun = True
        assert {name: vars(mx.array)[name] for name in IN_PLACE} == before
        if begun:
            break
    assert call > len(IN_PLACE)
    session = OpenSession(nnrepl.trace(lambda w: (w * 2).sum(), mx.array([1.0, 2.0]), wrt=0))

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(statements, "changes_in_place", interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.run("p [].append(w)")
