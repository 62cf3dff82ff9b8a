"""Student: plays a lesson to its end by itself, answers as it wants to be answered, and tells what does not hold."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import field

from rich.console import Console

from nnrepl.classes import dataclass
from nnrepl.commands import load_all
from nnrepl.commands.learning import play
from nnrepl.learn.answers import NUMBER
from nnrepl.learn.asking import holds
from nnrepl.learn.lesson import Commands, Lesson, LessonQuestion, Task
from nnrepl.learn.player import Player
from nnrepl.learn.posing import Posed
from nnrepl.ops.numbers import number
from nnrepl.programs.debuggee import Debuggee
from nnrepl.record.names import ProgramNames
from nnrepl.session.errors import Quit, UserError
from nnrepl.session.session import TapeSession
from nnrepl.shell.prompts import PROMPT
from nnrepl.shell.shell import Shell
from nnrepl.view.theme import THEMES


@dataclass
class LessonReport:
    """What playing a lesson to its end has found.

    Attributes:
        problems: What does not hold, with its file and line.
        remarks: What holds, and could be better.
        commands, questions, mistakes, tasks: How many were played.
    """

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    commands: int = 0
    questions: int = 0
    mistakes: int = 0
    tasks: int = 0


def check(lesson: Lesson) -> LessonReport:
    """Play a lesson to its end: each command must work, each question have its answer and know its wrong ones, each
    task be undone before its solution and done after it."""
    found = LessonReport()
    student = Student(lesson, found)
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        perform(student, Console(file=screen, width=100, theme=THEMES["dark"]))
    if not student.finished and not found.problems:
        last = screen.getvalue().strip().splitlines() or ["it stopped"]
        found.problems.append(f"{lesson.path.name}: {last[-1]}")
    return found


def perform(student: Student, console: Console, present: bool = False) -> None:
    """Let a student play a lesson from its start, on a console; `present`: as a teacher shows it."""
    load_all()
    lesson = student.lesson
    player = Player(lesson, present=present, keeps=False)
    try:
        script = player.script()
    except UserError as error:
        student.found.problems.append(f"{lesson.path.name}: {error}")
        return
    names = ProgramNames()
    session = TapeSession(names.tape, names)
    shell = Shell(session, console, lambda interpreter: student)
    play(shell.interpreter, player)
    student.attend(shell, player)
    before = sys.argv, sys.path[:]
    try:
        Debuggee(script, session).run()
    except Quit:
        pass
    finally:
        sys.argv, sys.path[:] = before


class Student:
    """Answers a lesson as it wants to be answered, and notes what is wrong with it.

    Attributes:
        finished: Whether the lesson has come to its end.
    """

    echoes = True
    pages = False
    screen = None

    def __init__(self, lesson: Lesson, found: LessonReport | None = None) -> None:
        self.lesson = lesson
        self.found = LessonReport() if found is None else found
        self.finished = False
        self._lines: Iterator[str] = iter(())
        self._waited: object = None

    def attend(self, shell: Shell, player: Player) -> None:
        """Sit down before a shell."""
        self.shell, self.player = shell, player

    def read(self, prompt: str = PROMPT) -> str | None:
        """Return what the student types next; None when the lesson is over, or something in it does not hold."""
        shell, player = self.shell, self.player
        if player.failure or shell.failed:
            self._problem(player.failure or f"{self._where(1)}: {shell.interpreter.log.last()}")
            return None
        if shell.interpreter.player is None:
            self.finished = True
            return None
        waits = player.waits
        line = next(self._lines, None) if isinstance(waits, Task) else None
        if line is not None:
            return line
        if waits is self._waited:
            assert waits is not None
            said = self._undone(waits) if isinstance(waits, Task) else "the lesson does not go on from here"
            self._problem(f"{self._where(waits.line)}: {said}")
            return None
        self._waited = waits
        if isinstance(waits, LessonQuestion) and player.posed is not None:
            self.found.questions += 1
            self._try_wrong_ones(player.posed)
            return player.posed.typed
        if isinstance(waits, Task):
            self.found.tasks += 1
            self._lines = iter(waits.solution[1:])
            return waits.solution[0]
        if isinstance(waits, Commands):
            self.found.commands += len(waits.lines)
        return ""

    def _undone(self, task: Task) -> str:
        """Return what a task lacks after its solution."""
        said = f"its solution does not bring about {task.until}"
        try:
            holds(self.shell.session, task.until, ahead=False)
        except UserError as error:
            return f"{said}: {error}"
        return said

    def _try_wrong_ones(self, posed: Posed) -> None:
        """No wrong answer passes, and each is told what it is."""
        where = self._where(posed.question.line)
        if posed.seen:
            said = f"{posed.question.answer} is computed before it is asked for, and may stand on the screen"
            self.found.remarks.append(f"{where}: {said}; ask before the step that computes it")
        if not posed.is_right(posed.read(posed.typed)):
            self._problem(f"{where}: the right answer, typed as {posed.typed}, is not taken")
        if posed.kind != NUMBER:
            return
        for mistake in posed.mistakes:
            self.found.mistakes += 1
            typed = posed.read(number(float(mistake.value)))
            if posed.is_right(typed):
                self._problem(f"{where}: {typed.text} is taken, though: {mistake.said}")

    def _problem(self, text: str) -> None:
        """Something does not hold; it is noted once."""
        if text not in self.found.problems:
            self.found.problems.append(text)

    def _where(self, line: int) -> str:
        return f"{self.lesson.path.name}:{line}"
