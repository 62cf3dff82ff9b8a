"""What the documentation shows that is made, not written: the commands, the lessons, the pictures of the terminal.

`python -m tests.test_readme` writes the picture of README anew; `docs/conf.py` makes the rest when the site is built.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nnrepl.commands import load_all
from nnrepl.commands.manuals import groups
from nnrepl.commands.table import TABLE, Command
from nnrepl.learn.lesson import Lesson
from nnrepl.learn.shelf import lessons
from nnrepl.programs.debuggee import Debuggee
from nnrepl.programs.script import load_script
from nnrepl.record.names import ProgramNames
from nnrepl.session.errors import Quit
from nnrepl.session.session import TapeSession
from nnrepl.shell.prompts import PROMPT
from nnrepl.shell.publishing import as_markdown, played
from nnrepl.shell.readers import Queue
from nnrepl.shell.shell import Shell
from nnrepl.shell.student import Student, perform
from nnrepl.view.log import Log
from nnrepl.view.theme import THEMES

ROOT = Path(__file__).parent.parent
MADE = ROOT / "docs" / "_made"
README_PICTURE = ROOT / "docs" / "nnrepl.svg"


@dataclass(frozen=True)
class Picture:
    """A picture of the terminal.

    Attributes:
        program: What runs, or the number of a lesson.
        lines: What is typed.
        last: So many of these lines are seen, with what they showed.
        width: How wide the terminal is.
    """

    program: str
    lines: tuple[str, ...]
    last: int
    width: int = 92


PICTURES = {
    "nnrepl": Picture("examples/living_nn.py", ("s", "explain z1 at [0, 1]", "goto update", "why grad(weights2)"), 3),
    "why": Picture("examples/simple_nn.py", ("why grad(weights1) == 0",), 1),
    "lesson": Picture("1", ("", "", "2.5", "hint", "1", "2", "-2"), 3),
    "nan": Picture("examples/lessons/sick.py", ("continue", "catch nan", "rc", "rc", "why nan"), 2),
    "timelines": Picture(
        "examples/living_nn.py", ("goto update", "learning_rate = 0.2", "continue", "timelines", "plot loss"), 3
    ),
    "attention": Picture("examples/lessons/attention.py", ("goto weights", "step", "heatmap weights"), 2),
}


class Typist(Student):
    """A student who types given lines."""

    lines: tuple[str, ...] = ()

    def read(self, prompt: str = PROMPT) -> str | None:
        line, self.lines = (self.lines[0], self.lines[1:]) if self.lines else (None, ())
        return line


EXCERPTS = {"walk": ("simple_nn", 0, 4), "edit": ("changes", 1, 4), "dead": ("broken_dead_relu", 0, 1)}
"""Pieces of the tested transcripts: which, and which of its commands, counted from 1; 0 is what comes before them."""


def excerpt(name: str) -> str:
    """Return some commands of a transcript with what they showed."""
    transcript, first, last = EXCERPTS[name]
    text = (ROOT / "tests" / "transcripts" / f"{transcript}.txt").read_text(encoding="utf-8")
    pieces = re.split(r"^(?=\(nnrepl)", text, flags=re.MULTILINE)
    return "".join(pieces[first : last + 1])


def log_of(picture: Picture) -> tuple[Log, bool]:
    """Return what a session typed and showed, and whether a command in it failed."""
    load_all()
    screen = io.StringIO()
    console = Console(
        file=screen, width=picture.width, theme=THEMES["dark"], force_terminal=True, color_system="truecolor",
        highlight=False, markup=False, emoji=False, _environ={},
    )  # fmt: skip
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        if picture.program.isdigit():
            student = Typist(lessons()[int(picture.program) - 1])
            student.lines = picture.lines
            perform(student, console)
            return student.shell.interpreter.log, student.shell.failed
        names = ProgramNames()
        session = TapeSession(names.tape, names)
        shell = Shell(session, console, lambda interpreter: Queue(picture.lines))
        before = sys.argv, sys.path[:]
        try:
            Debuggee(load_script(str(ROOT / picture.program), []), session).run()
        except Quit:
            pass
        finally:
            sys.argv, sys.path[:] = before
    return shell.interpreter.log, shell.failed


def seen(picture: Picture) -> Log:
    """Return what is seen of a session."""
    log, _ = log_of(picture)
    entries = list(log.entries)
    begins = [at for at, entry in enumerate(entries) if entry.typed or picture.program.isdigit()]
    entries = entries[begins[-picture.last] :]
    log.entries.clear()
    log.entries.extend(entries)
    return log


def svg(picture: Picture) -> str:
    """Return a session as a picture."""
    return seen(picture).svg(PROMPT, "nnrepl", True)


def text(picture: Picture) -> str:
    """Return the same, line by line."""
    rows: list[str] = []
    for entry in seen(picture).entries:
        rows += [f"{PROMPT}{entry.typed}"] if entry.typed else []
        rows += entry.plain()
    return "\n".join(row.rstrip() for row in rows) + "\n"


def command_pages() -> str:
    """Every command with its manual, by group, straight from the table."""
    load_all()
    parts = ["# Commands", "", "Made from the table that the prompt itself reads: `help NAME` shows the same.", ""]
    for group, commands in groups(TABLE).items():
        parts += [f"## {group.capitalize()}", ""]
        for command in commands:
            parts += [f"### {command.names[0]}", "", _manual(command), ""]
    return "\n".join(parts)


def _manual(command: Command) -> str:
    also = f" · also {', '.join(f'`{name}`' for name in command.names[1:])}" if len(command.names) > 1 else ""
    return f"`{command.usage}`{also}\n\n{command.help}"


def lesson_page(lesson: Lesson) -> str:
    """Return a lesson with what it shows; its answers open at a click."""
    program = lesson.program.read_text(encoding="utf-8")
    head = [
        f"# {lesson.number}. {lesson.title}",
        "",
        f"`nnrepl learn {lesson.number}` plays this in the terminal, where you answer before you see.",
        "",
        f"The program, `{lesson.program.name}`:",
        "",
        f"```python\n{program}```",
        "",
    ]
    return "\n".join([*head, *(f"{as_markdown(piece)}\n" for piece in played(lesson))])


def make() -> None:
    """Write everything that is made into `docs/_made`."""
    MADE.mkdir(exist_ok=True)
    (MADE / "commands.md").write_text(command_pages(), encoding="utf-8")
    for lesson in lessons():
        (MADE / f"lesson{lesson.number:02}.md").write_text(lesson_page(lesson), encoding="utf-8")
    for name in EXCERPTS:
        (MADE / f"{name}.txt").write_text(excerpt(name), encoding="utf-8")
    for name, picture in PICTURES.items():
        (MADE / f"{name}.svg").write_text(svg(picture), encoding="utf-8")
