"""Turns: where a program takes no gradients by MLX, its evaluations tell the turns of its loops, closed or not."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnrepl.record.stack import Stack
from nnrepl.tape import turns as told_apart
from nnrepl.tape.turns import Places, Turns
from tests.closed.test_closed import BITS, QUIET, TOLD, plainly, play
from tests.closed.test_stretches import BY_HAND, MODEL, TOKENS

LOOPS = """
import mlx.core as mx
x = mx.ones((3,)); mx.eval(x)
def one(w):
    w = w * 0.9 + x
    mx.eval(w); seen(w)
    return w
def fit(epochs):
    w, k = mx.zeros((3,)), 0
    for epoch in range(epochs):
        for batch in range(4):
            w = one(w); k += 1
        if epoch % 2 == 0: print(epoch, w.sum().item())
    while k < 29:
        w = w - 0.1 * w; k += 1
        mx.eval(w); seen(w)
    while k < 33:
        w = w - 0.1 * w; k += 1
        mx.eval(w); seen(w)
    print("end", w)
fit(6)
"""
"""Loops in loops, an evaluation in a function, before loops and after them, loops that follow each other."""


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_turn_is_one_of_the_innermost_loop(native: str, tmp_path: Path) -> None:
    printed, told = plainly(TOLD + LOOPS)
    (tmp_path / "run.py").write_text(QUIET + LOOPS)
    turns = (27, 3, 32)
    lines = [part for turn in turns for part in (f"goto turn {turn + 1}", f"p {BITS.replace('z', 'w')}")]
    more = ("rn turn 4", "where", "next turn", "p k", "goto turn 34", "goto step 3", "next step")
    shown = play(tmp_path / "run.py", f"config native {native}", "restart now", "info steps", *lines, *more)
    assert shown.count(printed) == 2
    assert "no training step has begun yet; the setup is of 33 turns (goto turn 33)" in shown
    ahead = {"on": "tape holds only the setup, of 33 turns", "off": r"setup has #1 to #\d+"}[native]
    assert re.search(f"^nothing ahead is at step 1; the {ahead}", shown, re.MULTILINE), shown
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[turn - 1] for turn in turns], shown
    assert re.findall(r"^(turn \d+) · setup", shown, re.MULTILINE) == [
        "turn 28",
        "turn 4",
        "turn 33",
        "turn 29",
        "turn 30",
    ]
    assert re.search(r"^k = 29$", shown, re.MULTILINE), shown
    assert shown.count("never reached; the tape holds only the setup, of 33 turns") == 2, shown


def test_a_curve_over_turns_is_the_same_natively_and_recorded(tmp_path: Path) -> None:
    """Natively it is noted as the program runs once more; what was opened is read from the tape."""
    text = BY_HAND.replace("e = h @ v - y", "e = h @ v - y; loss = (e * e).mean()") + "print(train(13))\n"
    (tmp_path / "run.py").write_text(QUIET + text)
    drawn = ("plot mx.abs(v).max()", "goto turn 7", "plot loss", "plot wrong", "plot v")
    native = play(tmp_path / "run.py", *drawn)
    recorded = play(tmp_path / "run.py", "config native off", "restart now", *drawn)
    assert native.count("over 13 turns: the program runs again") == 2  # nothing runs for what is no number
    curves = [re.findall(r"(?:^.*[│┤].*\n)+.*turn 1 .*", one, re.MULTILINE) for one in (native, recorded)]
    assert len(curves[0]) == 2
    assert curves[0] == curves[1]
    assert "nothing here is called wrong" in native
    assert "v is no single number" in native


def test_turns_after_a_change_are_opened_to_the_bits_of_the_program_with_that_line(tmp_path: Path) -> None:
    """What is recorded behind the change begins with an evaluation, too, and so do the turns that are closed after it;
    where the program waits, the turn is known that it has not evaluated yet."""
    text = BY_HAND + "print(train(14))\n"
    changed = text.replace("        v = v -", "        if i == 6: z = z * -2.0\n        v = v -")
    _, told = plainly(TOLD + changed)
    (tmp_path / "run.py").write_text(QUIET + text)
    line = 1 + (QUIET + text)[: (QUIET + text).index("        v = v - 0.01")].count("\n")
    looks = [part for turn in (12, 10) for part in (f"goto turn {turn} run.py:{line}", f"p {BITS}")]
    shown = play(tmp_path / "run.py", f"goto turn 7 run.py:{line}", "z = z * -2.0", "next turn", "p i", "c", *looks)
    assert re.search(r"^i = 7$", shown, re.MULTILINE), shown
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[11], told[9]], shown


def test_what_made_a_weight_of_a_closed_turn_is_told_by_opening_that(tmp_path: Path) -> None:
    """It was said to be captured from outside; at the end, what an older turn had made that was open."""
    loop = "for i in range(9):\n    z = w * 2; w = w - 0.01 * z\n    mx.eval(w)\n"
    (tmp_path / "run.py").write_text(f"import mlx.core as mx\nw = mx.array([1.0, 2.0])\n{loop}")
    shown = play(tmp_path / "run.py", "goto turn 5", "what w", "last w", "goto end", "what z", "last z", "p i")
    assert shown.count("made by") == 2
    assert re.findall(r"^turn (\d+) · setup", shown, re.MULTILINE) == ["5", "4", "9"], shown


def test_a_token_of_a_long_stretch_is_opened_alone(tmp_path: Path) -> None:
    printed, told = plainly(MODEL + TOLD + TOKENS)
    (tmp_path / "run.py").write_text(MODEL + QUIET + TOKENS)
    line = 1 + (MODEL + QUIET + TOKENS)[: (MODEL + QUIET + TOKENS).index("seen(z)\n")].count("\n") + 1
    shown = play(tmp_path / "run.py", "continue", f"goto turn 11 run.py:{line}", f"p {BITS}", "p i", "goto step 1")
    assert shown.startswith("native on\n" + printed)
    assert shown.count("opening a stretch of the program:") == 1
    assert re.search(r"^step 1 · turn 11 · forward", shown, re.MULTILINE), shown
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[10]], shown
    assert re.search(r"^i = 10$", shown, re.MULTILINE), shown
    assert "a fault of nnrepl's" not in shown


RESUMED = """
def tokens():
    while True:
        seen(); yield
        seen(); yield
def one():
    next(stream)
def two():
    next(stream); next(stream)
stream = tokens()
one()
for _ in range(20): two()
for _ in range(20): one()
"""
"""A generator that evaluates at two places, resumed by a call that returns each time; and then from elsewhere."""


def test_where_a_generator_evaluates_is_found_without_a_walk_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def skip(*_: Any) -> None:
        """Nothing is noted."""

    watch: Any = SimpleNamespace(notes=False, native=False, enter=skip, belong=skip, leave=skip, release=lambda: None)
    stack, turns, walked, compared = Stack(sys._getframe(), watch), Turns(), 0, 0
    places: list[Places] = []
    walk, split = Stack._places_below, told_apart._split

    def counted(self: Stack, frame: Any) -> Any:
        nonlocal walked
        walked += 1
        return walk(self, frame)

    def parted(*places: Any) -> Any:
        nonlocal compared
        compared += 1
        return split(*places)

    def seen() -> None:
        frame = sys._getframe(1)
        stack.enter(frame)
        watch.native = True  # from the second one on
        found = stack.places(frame)
        assert found == walk(stack, frame)
        places.append(found)
        turns.evaluated(found, 0, 0)

    monkeypatch.setattr(Stack, "_places_below", counted)
    monkeypatch.setattr(told_apart, "_split", parted)
    exec(compile(RESUMED, "resumed.py", "exec"), {"seen": seen})
    assert walked < 10
    assert compared < 30
    anew = Turns()
    for found in places:
        anew.evaluated((*found,), 0, 0)
    assert len(turns) == len(anew) > 0


def test_cells_that_follow_each_other_are_no_turns_of_a_loop() -> None:
    """Only a loop in one of them is: a notebook that is walked from cell to cell goes through nothing twice."""
    counts: list[int] = []
    turns = Turns()

    def seen() -> None:
        frame = sys._getframe(1)
        turns.evaluated(((frame.f_code, frame.f_lasti),), len(counts), len(counts))
        counts.append(len(turns))

    for number, cell in enumerate(("seen(); seen()", "seen()", "for k in range(3): seen()", "seen()", "seen()")):
        exec(compile(cell, f"cell {number}", "exec"), {"seen": seen})
    assert counts == [0, 0, 0, 0, 2, 3, 3, 3]


def test_what_is_about_gradients_opens_nothing_where_none_is_taken(tmp_path: Path) -> None:
    """health opened every turn of a program that generates, and then said to go on, after its end."""
    (tmp_path / "run.py").write_text(QUIET + LOOPS)
    played = play(tmp_path / "run.py", "config native on", "restart now", "c", "health", "why loss")
    shown = " ".join(played.split())
    assert "opening" not in shown
    assert shown.count("the program has taken no gradient; stats NAME and why nan look at tensors without one") == 2
