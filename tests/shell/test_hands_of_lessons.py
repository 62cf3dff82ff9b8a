"""A lesson on the full screen: a ? beside a word of the trade where it is said first, and room for what is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nnrepl.commands.learning import play
from nnrepl.learn.lesson import parse
from nnrepl.learn.player import Player
from tests.shell.hands import Desk, desk
from tests.shell.screened import made

F1 = "\x1bOP"
TEXT = """---
title: On the screen
program: x.py
---
A **layer** has **biases**; the layer and `layer`, a step. What is a layer?

```nnrepl
step
```

After it, **ReLU**.

```question
What?
answer: 1 + 1
```
"""


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    with desk(made()) as it:
        play(it.interpreter, Player(parse(TEXT, Path("lesson.md")), keeps=False))
        yield it


def test_a_click_on_a_question_mark_and_f1_open_the_glossary(at: Desk) -> None:
    seen = at.press()
    assert "A layer? has biases?; the layer and layer, a step. What is a layer?" in seen
    assert "help layer" not in seen, "it is linked, not named"
    at.mouse("A layer?")
    assert not at.ran, "there is nothing behind what is no ? and no word with one"
    seen = at.mouse("? has")
    assert at.ran == ["help layer"]
    at.press(F1)
    assert at.ran[1:] == ["help bias"]
    seen = at.mouse("biases?")
    assert at.ran[2:] == ["help bias"]
    at.press("p softmax", F1)
    assert at.ran[3:] == ["help softmax"]
    assert "p softmax" in at.press(), "what one was typing comes back"


def test_f1_without_a_lesson_tells_where_one_stands(at: Desk) -> None:
    at.line("learn stop")
    at.press(F1)
    assert at.ran[-1] == "help forward"
    seen = at.line("goto backward")
    seen = at.press(F1)
    assert at.ran[-1] == "help backward"
    assert "From the loss back to the weights" in seen


def test_a_lesson_has_the_room_of_the_tensors_on_a_small_screen(at: Desk) -> None:
    assert "── tensors" in at.press()
    assert "→ hidden" not in at.press()
    small = at.resize(80, 24)
    assert "── tensors" not in small
    assert "── ops" in small
    at.line("learn stop")
    assert "── tensors" in at.press()
