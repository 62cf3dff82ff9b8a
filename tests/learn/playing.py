"""Playing lessons in the tests: in this process, with the lines that a student types."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nnrepl.learn.lesson import Lesson, parse
from nnrepl.shell.prompts import PROMPT
from nnrepl.shell.student import Student, perform
from nnrepl.view.theme import THEMES

PROGRAM = """\
import mlx.core as mx
import mlx.nn as nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = mx.array([[0.5, -1.0], [0.25, 2.0]])
        self.bias = mx.array([0.5, -0.25])

    def __call__(self, x):
        z = x @ self.weight + self.bias
        return mx.maximum(z, 0)

model = Net()
x = mx.array([[1.0, 2.0], [-3.0, 1.0]])
y = mx.array([[1.0, 0.0], [2.0, 1.0]])

def loss_fn(x, y):
    error = model(x) - y
    return mx.mean(mx.square(error))

for _ in range(3):
    loss, grads = nn.value_and_grad(model, loss_fn)(x, y)
    model.update({name: model[name] - 0.1 * grads[name] for name in grads})
"""


class Typist(Student):
    """A student who types given lines."""

    def __init__(self, lesson: Lesson, lines: Sequence[str | BaseException | None]) -> None:
        super().__init__(lesson)
        self.given = iter(lines)

    def read(self, prompt: str = PROMPT) -> str | None:
        line = next(self.given, None)
        if isinstance(line, BaseException):
            raise line
        return line


def lesson_of(folder: Path, text: str, program: str = PROGRAM) -> Lesson:
    """A lesson on a program, from its text after the front matter."""
    (folder / "net.py").write_text(program, encoding="utf-8")
    path = folder / "lesson.md"
    path.write_text(f"---\ntitle: A test\nprogram: net.py\n---\n{text}", encoding="utf-8")
    return parse(path.read_text(encoding="utf-8"), path)


def played(lesson: Lesson, lines: Sequence[str | BaseException | None], present: bool = False) -> str:
    """What the screen shows of a lesson, with lines typed."""
    screen = io.StringIO()
    console = Console(file=screen, width=100, theme=THEMES["dark"], highlight=False, markup=False, emoji=False)
    with contextlib.redirect_stdout(screen):
        perform(Typist(lesson, lines), console, present)
    return "\n".join(line.rstrip() for line in screen.getvalue().splitlines())
