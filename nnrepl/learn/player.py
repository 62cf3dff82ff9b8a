"""Player: where a student stands in a lesson, and what comes next. It shows and runs nothing itself: the shell does.

The shell asks for a `turn`, shows it, and reads a line where the player waits for one; `hear` tells what becomes of the
line. A line that is no answer is the student's own affair: it runs as any other, and Enter comes back to the lesson, to
where it stood and on the timeline on which it stood.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import field

from rich.console import Group, RenderableType
from rich.text import Text

from nnrepl.classes import dataclass
from nnrepl.learn.answers import EXPECTED, NoAnswer
from nnrepl.learn.apart import apart
from nnrepl.learn.asking import filled, holds
from nnrepl.learn.glossary import linked, word_of
from nnrepl.learn.lesson import Commands, FormulaBlock, Lesson, LessonQuestion, Part, Pause, Prose, Task, TeacherNotes
from nnrepl.learn.posing import Posed, pose
from nnrepl.learn.progress import Reached, keep_progress
from nnrepl.learn.shelf import shipped
from nnrepl.programs.script import CannotLoad, Script, load_script
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.timeline.timelines import Timelines
from nnrepl.view.lesson_parts import formula, head, hint, options, task_view
from nnrepl.view.prose import line as one_line
from nnrepl.view.prose import prose

HINT, SHOW, SKIP = ("hint",), ("show", "show me", "answer", "solution"), ("skip",)
ENTER = "Enter goes on"


@dataclass(slots=True)
class Turn:
    """What the shell has to do next, in this order.

    Attributes:
        back: Whether to put the session back to where the lesson stands.
        head: What to show first.
        where: Whether to show then where the session stands.
        show: What to show after that.
        own: A line of the student's own, to be run as any other.
        clear: Whether to begin with an empty screen.
        over: Whether the lesson is over.
    """

    back: bool = False
    head: list[RenderableType] = field(default_factory=list)
    where: bool = False
    show: list[RenderableType] = field(default_factory=list)
    own: str | None = None
    clear: bool = False
    over: bool = False


@dataclass(slots=True)
class Stand:
    """Where a lesson stands on the tape."""

    timelines: Timelines
    timeline: int
    cursor: int
    level: int


@dataclass(slots=True)
class Due:
    """A line of the lesson that is to be run.

    Attributes:
        hushed: Whether nothing is shown: the lesson only catches up with where it was.
    """

    line: str
    hushed: bool = False


class Player:
    """A lesson that is being played.

    Args:
        lesson: Which.
        at: The part to begin with; the commands before it are run without being shown.
        present: Whether a teacher shows it: part by part, on an empty screen.
        keeps: Whether the user's progress is kept.
        mark: How the questions before that part were answered.

    Attributes:
        at: The part that comes next.
        waits: The part that waits for the student; None where the lesson goes on by itself.
        queue: The lines of the lesson that are due.
        posed: The question that waits.
        strayed: Whether the student has typed something of their own since the lesson spoke.
        comes_back: Whether the student wants to be back where the lesson stands.
        same_line: Whether two lines say the same to the shell, as `s` and `step` do.
        is_line: Whether the shell could do anything with a line.
        is_motion: Whether a line leads to another place, where there is another stop to be seen.
        spelled_out: The command for which a single letter stands; "" where it stands for none.
        failure: The line of the lesson that did not work, with its place; "" where all did.
        links: Whether the full screen shows the lesson: then a word of the trade has a ? beside it, to be clicked.
        native: What the setting of that name was before the lesson.
        newest: The word of the trade that was linked last.
        told: What was said by each part, with the numbers of the tape.
        asked: The questions so far, by part.
        right, counted: How many questions were answered right at the first try and without help, of how many.
        missed: The lessons that teach what the others asked.
    """

    def __init__(
        self, lesson: Lesson, at: int = 0, *, present: bool = False, keeps: bool = True, mark: Reached | None = None
    ) -> None:
        self.lesson = lesson
        self.at = min(at, len(lesson.parts))
        self.present = present
        self.keeps = keeps
        self.waits: Part | None = None
        self.queue: deque[Due] = deque()
        self.posed: Posed | None = None
        self.strayed = False
        self.begun = self.comes_back = False
        self.failure = ""
        self.right, self.counted = (0, 0) if mark is None else (mark.right, mark.asked)
        self.missed: list[str] = []
        self.told: dict[int, str] = {}
        self.links = False
        self.newest = self.native = ""
        self._linked: set[str] = set()
        self.asked: dict[int, Posed] = {}
        self.same_line: Callable[[str, str], bool] = lambda a, b: a.strip() == b.strip()
        self.is_line: Callable[[str], bool] = lambda text: False
        self.is_motion: Callable[[str], bool] = lambda text: False
        self.spelled_out: Callable[[str], str] = lambda text: ""
        self._stand: Stand | None = None
        self._hints = self._tries = 0
        self._told_from = self.at
        self._asked_to_leave = self._ran = self._held = False

    # -- for the shell -------------------------------------------------------------------------------------

    def script(self) -> Script:
        """Return the lesson's program. Raises UserError if it cannot be loaded."""
        try:
            script = load_script(str(self.lesson.program), self.lesson.arguments)
        except CannotLoad as error:
            raise UserError(f"the program of {self.lesson.path.name} cannot be run: {error}") from None
        script.title = f"lesson {self.lesson.name} · {self.lesson.program.name}"
        return script

    def catch_up(self) -> None:
        """Note that the program has been started anew: what the lesson has done so far is due again."""
        self.waits, self.posed, self._stand, self.strayed = None, None, None, False
        self.queue.clear()
        for part in self.lesson.parts[: self.at]:
            lines = part.lines if isinstance(part, Commands) else part.solution if isinstance(part, Task) else []
            self.queue.extend(Due(line, True) for line in lines)

    @property
    def prompt(self) -> str:
        """What stands before the line that is waited for."""
        return f"(lesson {self.lesson.name}) "

    def turn(self, session: TapeSession) -> Turn:
        """Return what comes before the next line is read. Raises UserError if the lesson cannot go on."""
        with apart(session):
            return self._turn(session)

    def _turn(self, session: TapeSession) -> Turn:
        if self.comes_back and self.waits is not None:
            self.comes_back = False
            return self._back(again=True)
        if self.waits is not None:
            return self._of_task(session) if isinstance(self.waits, Task) and self.strayed else Turn()
        if self.present and self._ran:
            self._stand = _standing(session)
            return self._hold(Turn())
        turn = Turn(clear=self.present)
        self._told_from = self.at
        if not self.begun:
            self.begun = True
            turn.head = [head(self.lesson.name, self.lesson.title, self.at, len(self.lesson.parts)), Text("")]
            turn.head += [hint("F1, or a click on a ?, tells what a word means"), Text("")] if self.links else []
            turn.where = any(isinstance(part, Commands) for part in self.lesson.parts[: self.at])
        elif self._ran and not self.present:
            turn.show.append(Text(""))
        self._ran = False
        while self.waits is None and self.at < len(self.lesson.parts):
            part = self.lesson.parts[self.at]
            turn.show += self._open(session, part)
            if self.waits is None:
                self.at += 1
                if self.present and isinstance(part, Prose) and not self._asks_next():
                    self._hold(turn)
        if self.waits is None:
            turn.over = True
            turn.show.append(self._finish())
        else:
            self._stand = _standing(session)
        return turn

    def hear(self, session: TapeSession, line: str | None) -> Turn:
        """Return what becomes of a line; None for the end of input."""
        if line is None:
            return self._leaving()
        self._asked_to_leave = False
        text = "" if line.split() == ["learn", "next"] else line.strip()
        waits = self.waits
        if isinstance(waits, LessonQuestion):
            return self._answered(text)
        if isinstance(waits, Task):
            return self._tried(waits, text)
        if isinstance(waits, Commands) and text and self._is_next(text, waits):
            text = ""
        if text.lower() in SKIP:
            text = ""
        elif text.lower() in (*HINT, *SHOW) and not self.is_line(text):
            return Turn(show=[self._reminder()])
        if text:
            return self._own(text)
        if self.strayed:
            return self._back(again=True)
        if isinstance(waits, Commands):
            self.queue.extend(Due(row) for row in waits.lines)
            self._ran = True
        self._go_on()
        return Turn()

    def put_back(self, session: TapeSession) -> bool:
        """Put the session back to where the lesson stands. Returns False if only a new start leads there."""
        stand, self.strayed = self._stand, False
        if stand is None or session.changes.timelines is not stand.timelines:
            return False
        if session.changes.timelines.current.number != stand.timeline:
            session.changes.switch(stand.timeline)
        session.arrive(min(stand.cursor, len(session.tape)))
        session.level = stand.level
        return True

    def stands(self, session: TapeSession) -> bool:
        """Whether the session is where the lesson stands."""
        return self._stand == _standing(session)

    def predicts(self, session: TapeSession) -> bool:
        """Whether what the next op gives is not to be seen: a question comes before the lesson moves on. On the full
        screen, which shows all that is small, it is not seen before its step."""
        if self.strayed and not self.stands(session):
            return False
        if self.links and self.waits is not None:
            return True
        lines = [due.line for due in self.queue]
        for part in self.lesson.parts[self.at :]:
            if isinstance(part, (LessonQuestion, Task)):
                return isinstance(part, LessonQuestion) and not any(map(self.is_motion, lines))
            lines += part.lines if isinstance(part, Commands) else []
        return False

    def kept(self, done: bool = False) -> str:
        """Keep how far the student has come. Returns what is wrong with the file, "" if nothing is."""
        if not self.keeps or self.present:
            return ""
        parts = len(self.lesson.parts)
        mark = Reached(0 if done else self._told_from, parts, done, self.right, self.counted)
        return keep_progress(self.lesson.key, mark)

    # -- parts -----------------------------------------------------------------------------------------------

    def _open(self, session: TapeSession, part: Part) -> list[RenderableType]:
        """Come to a part: what to show. Where it needs the student, the lesson waits."""
        if isinstance(part, TeacherNotes):
            return []
        if isinstance(part, (Prose, FormulaBlock)):
            text = self.told[self.at] = filled(session, part.text)
            if isinstance(part, FormulaBlock):
                return [formula(text, self.present), Text("")]
            if self.links:
                text, new = linked(text, self._linked)
                self.newest = new or self.newest
                return [prose(text), Text("")]
            return [prose(text), *self._words(text), Text("")]
        self.waits, self.strayed = part, False
        self._hints = self._tries = 0
        self.kept()
        if isinstance(part, LessonQuestion):
            self.posed = self.asked[self.at] = pose(session, part)
            return self._asked()
        if isinstance(part, Task):
            if _is_done(session, part):
                raise UserError(f"the task is done before it begins: {part.until}")
            self.told[self.at] = filled(session, part.text)
            return [task_view(self.told[self.at]), hint("type what brings it about; hint helps, show does it")]
        return [self._reminder()]

    def _words(self, text: str) -> list[RenderableType]:
        """Where the words of the trade are told that a text says for the first time in this lesson."""
        found = [word for bold in re.findall(r"\*\*(.+?)\*\*", text) if (word := word_of(bold)) is not None]
        new = [word.name for word in dict.fromkeys(found) if word.name not in self._linked]
        self._linked.update(new)
        self.newest = new[-1] if new else self.newest
        return [hint(" · ".join(f"help {name}" for name in new))] if new and not self.present else []

    def _hold(self, turn: Turn) -> Turn:
        """Wait for Enter between two parts."""
        self.waits, self._held, self._ran = Pause(0), True, False
        turn.show.append(self._reminder())
        return turn

    def _asks_next(self) -> bool:
        """Whether the part that comes next waits by itself, or belongs to what was said."""
        rest = [part for part in self.lesson.parts[self.at :] if not isinstance(part, TeacherNotes)]
        return not rest or not isinstance(rest[0], Prose)

    def _asked(self) -> list[RenderableType]:
        posed = self.posed
        assert posed is not None
        shown: list[RenderableType] = [task_view(posed.text)]
        if posed.question.options:
            shown.append(options(posed.known))
        return [*shown, hint(f"type {EXPECTED[posed.kind]}; hint and show help")]

    def _reminder(self) -> RenderableType:
        """Return what the lesson waits for, in a line."""
        waits = self.waits
        if isinstance(waits, Commands):
            return hint(f"Enter types  {'  ·  '.join(waits.lines)}", arrow=True)
        return hint(ENTER, arrow=True)

    def _go_on(self) -> None:
        self.waits, self.posed, self.strayed = None, None, False
        self.at += not self._held
        self._held = False

    def _is_next(self, text: str, waits: Commands) -> bool:
        return not self.strayed and self.same_line(text, waits.lines[0])

    def _own(self, text: str) -> Turn:
        self.strayed = True
        return Turn(own=text)

    def _back(self, again: bool = False) -> Turn:
        """Back to where the lesson stands; `again`: with what it waits for."""
        shown = self._asked() if isinstance(self.waits, LessonQuestion) else [self._reminder()]
        return Turn(back=True, show=shown if again else [])

    def _leaving(self) -> Turn:
        """Return the end of input: once it may be a slip."""
        if self._asked_to_leave:
            return Turn(over=True, show=[hint(f"learn {self.lesson.name} goes on from here another time")])
        self._asked_to_leave = True
        return Turn(show=[hint("Ctrl-D again leaves; the lesson goes on from here another time")])

    def _finish(self) -> RenderableType:
        note = self.kept(done=True)
        is_last = not 0 < self.lesson.number < len(shipped())
        following = "" if is_last else f"; learn {self.lesson.number + 1} is the next"
        said = [f"This lesson is done{following}. The prompt is yours: every command goes on working."]
        if self.counted and not self.present:
            said.insert(0, f"{self.right} of {self.counted} questions right at the first try.")
            again = list(dict.fromkeys(self.missed))
            said[0] += f" Worth another look: {', '.join(f'learn {name}' for name in again)}." if again else ""
        return Group(*map(hint, [*said, *([note] if note else [])]))

    def _count(self, posed: Posed, is_right: bool) -> None:
        """Note that a question is over."""
        is_first = is_right and not self._tries and not self._hints
        self.counted += 1
        self.right += is_first
        if not is_first and posed.question.see:
            self.missed.append(posed.question.see)

    # -- answers ---------------------------------------------------------------------------------------------

    def _answered(self, text: str) -> Turn:
        posed = self.posed
        assert posed is not None
        if not text:
            if self.strayed:
                return self._back(again=True)
            return Turn(show=[hint(f"type {EXPECTED[posed.kind]}; hint, show, skip")])
        helped = self._helped(text, posed)
        if helped is not None:
            return helped
        try:
            typed = posed.read(text)
        except NoAnswer as error:
            whole = "" if self.strayed else self.spelled_out(text)
            if whole:
                said = (
                    f"{text} is short for the command {whole}; write it out here. An answer is {EXPECTED[posed.kind]}"
                )
                return Turn(show=[hint(said)])
            if not str(error) and self.is_line(text):
                return self._own(text)
            said = str(error) or f"that is no answer that I can read: type {EXPECTED[posed.kind]}"
            return Turn(show=[hint(said)])
        if posed.is_right(typed):
            return self._right(posed, text)
        self._tries += 1
        said = posed.reply(typed) or "Not so."
        more = "" if self._tries < 2 else "  (hint helps, show tells)"
        return Turn(show=[one_line(f"✗ {said}{more}")])

    def _helped(self, text: str, posed: Posed) -> Turn | None:
        """Return what is said to who asks for help; None where nobody did."""
        word = text.lower()
        if word in HINT:
            return Turn(show=[self._next_hint(posed.question.hints, _hint_to(posed))])
        if word in SHOW or word in SKIP:
            if posed.where and word in SHOW:
                self.queue.append(Due(posed.where))
            self._count(posed, False)
            return self._told(posed, Text(f"It is {posed.told}."))
        return None

    def _next_hint(self, hints: list[str], otherwise: str) -> RenderableType:
        self._hints += 1
        return one_line(hints[min(self._hints, len(hints)) - 1] if hints else otherwise)

    def _right(self, posed: Posed, text: str) -> Turn:
        self._count(posed, True)
        exact = text.replace("-", "−") == posed.typed.replace("-", "−")
        said = one_line("✓ Right." if exact else f"✓ Right: {posed.told}.")
        return self._told(posed, Group(said, Text(f"  {posed.worked}", style="hint")) if posed.worked else said)

    def _told(self, posed: Posed, said: RenderableType) -> Turn:
        turn = self._back() if self.strayed else Turn()
        self._ran = self.present
        turn.show = [said, *([prose(posed.question.after)] if posed.question.after else []), Text("")]
        self._go_on()
        return turn

    # -- tasks -----------------------------------------------------------------------------------------------

    def _tried(self, task: Task, text: str) -> Turn:
        word = text.lower()
        if word in HINT:
            return Turn(show=[self._next_hint(task.hints, "show does it for you")])
        if word in SHOW or word in SKIP:
            self.queue.extend(Due(line) for line in task.solution)
            self._ran = True
            turn = Turn(back=self.strayed)
            self._go_on()
            return turn
        if not text:
            return Turn(show=[task_view(task.text), hint("type what brings it about; hint helps, show does it")])
        return self._own(text)

    def _of_task(self, session: TapeSession) -> Turn:
        """Whether what the student did has brought it about."""
        task = self.waits
        assert isinstance(task, Task)
        if not _is_done(session, task):
            return Turn()
        self._ran = self.present
        self._go_on()
        shown: list[RenderableType] = [one_line("✓ Done.")]
        return Turn(show=[*shown, *([prose(filled(session, task.after))] if task.after else []), Text("")])


def _hint_to(posed: Posed) -> str:
    """Return what helps with any question: where the number comes from."""
    if posed.where:
        return f"`{posed.where}` tells how it is computed; `show` does so for you."
    return f"An answer is {EXPECTED[posed.kind]}; `show` tells it."


def _is_done(session: TapeSession, task: Task) -> bool:
    """Whether a task has been brought about; what it speaks of may not be made yet."""
    try:
        return holds(session, task.until, ahead=False)
    except UserError:
        return False


def _standing(session: TapeSession) -> Stand:
    timelines = session.changes.timelines
    return Stand(timelines, timelines.current.number, session.cursor, session.level)
