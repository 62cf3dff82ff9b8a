"""Learning: lessons at the prompt."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import Grammar, classify, command
from nnrepl.session.errors import Load, UserError

if TYPE_CHECKING:
    from nnrepl.learn.lesson import Lesson
    from nnrepl.learn.player import Player
    from nnrepl.learn.progress import Reached

LEARNING = "understanding"
MOVING = ("forwards", "backwards", "jumps")
LESSON = Grammar("[N | FILE | next | again | stop]", lambda text: True, "words", ("next", "again", "stop"))


@command("learn", takes=LESSON, group=LEARNING)
def learn(it: Interpreter, text: str) -> RenderableType | None:
    """Play a lesson: `learn` lists them, `learn 1` plays the first, `learn my_lesson.md` one of your own.

    A lesson is read and played at the same time: it says something, types commands when you press Enter, and asks
    what a number will be before it shows it. Every command works meanwhile; Enter, or `learn next`, comes back to
    where the lesson was. At a question `hint` helps, `show` tells the answer, `skip` goes on. `learn again` begins at
    the start, `learn stop` gives you the prompt. How far you have come is kept.
    """
    if not text:
        return listed()
    if text in ("next", "again", "stop"):
        return _going_on(it, text)
    from nnrepl.learn.shelf import find

    return begin(it, find(text))


def listed() -> RenderableType:
    """Return the lessons, with how far the user has come."""
    from nnrepl.learn.progress import load_progress
    from nnrepl.learn.shelf import lessons
    from nnrepl.view.lesson_parts import LessonRow, lessons_view

    known = load_progress()
    rows = []
    for lesson in lessons():
        mark = known.get(lesson.key)
        note = "" if mark is None else _done(mark) if mark.done else f"part {mark.part + 1} of {mark.parts}"
        rows.append(LessonRow(lesson.name, lesson.title, lesson.minutes, note))
    return lessons_view(rows)


def _done(mark: Reached) -> str:
    return f"done · {mark.right} of {mark.asked} right" if mark.asked else "done"


def begin(it: Interpreter, lesson: Lesson, anew: bool = False) -> RenderableType | None:
    """Let a lesson's program take the place of the one that waits, and play it. Raises Load, UserError."""
    from nnrepl.view.lesson_parts import hint

    session = it.session
    if session.files is None:
        raise UserError("there is no program here that a lesson's could take the place of; nnrepl learn 1 plays one")
    player = player_of(lesson, anew=anew)
    script = player.script()
    many = len(session.tape)
    question = f"{lesson.program.name} takes the place of this program; its {many} ops are lost. Go on? [y/N] "
    is_lost = many and it.player is None and not _is_example(it)
    if is_lost and not session.hooks.confirm(question, otherwise=True):
        return hint("nothing has changed")
    play(it, player)
    it.go_home()
    raise Load(script)


def _is_example(it: Interpreter) -> bool:
    """Whether the program comes with nnrepl and nothing was changed in it: nobody misses its tape."""
    from nnrepl.programs.examples import folder

    program = it.session.debuggee
    path = None if program is None else program.namespace.get("__file__")
    return path is not None and folder() in Path(path).parents and len(it.session.changes.timelines) == 1


def play(it: Interpreter, player: Player) -> None:
    """Let a lesson have the next word at the prompt."""
    player.same_line = lambda a, b: same_line(it, a, b)
    player.is_line = lambda text: is_line(it, text)
    player.is_motion = lambda text: is_motion(it, text)
    player.spelled_out = lambda text: spelled_out(it, text)
    it.player, it.left = player, None
    # A lesson looks at every step, and its programs are small: it needs no detour over steps that are opened.
    player.native, it.session.settings["native"] = it.session.settings["native"], "off"


def player_of(lesson: Lesson, *, anew: bool = False, present: bool = False) -> Player:
    """Return a lesson from where the user left it."""
    from nnrepl.learn.player import Player  # a session without a lesson need not wait for it
    from nnrepl.learn.progress import load_progress

    mark = None if anew or present else load_progress().get(lesson.key)
    at = 0 if mark is None or mark.done or mark.parts != len(lesson.parts) else mark.part

    player = Player(lesson, at, present=present, mark=mark if at else None)
    player.catch_up()
    return player


def _going_on(it: Interpreter, word: str) -> RenderableType | None:
    from nnrepl.view.lesson_parts import hint

    player = it.player
    if player is None and word == "next" and it.left is not None:
        it.player, it.left = it.left, None
        it.player.strayed = it.player.comes_back = True
        return None
    if player is None:
        if word == "next":
            return begin(it, _following())
        raise UserError("no lesson is being played; learn lists them, learn 1 plays the first")
    if word == "again":
        return begin(it, player.lesson, anew=True)
    if word == "stop":
        it.player, it.left = None, player
        return hint("the lesson waits: learn next goes on from here")
    return hint("Enter goes on with the lesson")


def _following() -> Lesson:
    """Return the lesson that was left last; else the first that is not done yet."""
    from nnrepl.learn.progress import load_progress
    from nnrepl.learn.shelf import lessons

    known = load_progress()
    there = lessons()
    left = [key for key, mark in known.items() if not mark.done]
    open_ = [lesson for key in reversed(left) for lesson in there if lesson.key == key]
    open_ += [lesson for lesson in there if lesson.key not in known]
    return (open_ or there)[0]


def asked_by_key(it: Interpreter, typed: str) -> str:
    """Return the line for which F1 stands: help with the word that one is typing, or with that which a lesson said
    last, or with the phase in which one stands."""
    from nnrepl.learn.glossary import word_of

    last = re.search(r"[\w-]+$", typed.rstrip())
    if last is not None and (last[0] in it.table or word_of(last[0]) is not None):
        return f"help {last[0]}"
    if it.player is not None and it.player.newest:
        return f"help {it.player.newest}"
    op = it.session.op
    return "help" if op is None or word_of(op.phase) is None else f"help {op.phase}"


def same_line(it: Interpreter, a: str, b: str) -> bool:
    """Whether two lines say the same: `s` and `step`, `p z1` and `print z1`."""
    try:
        first, second = classify(a, it.table, it.is_name), classify(b, it.table, it.is_name)
    except UserError:
        return False
    return (first.command, first.text, first.kind) == (second.command, second.text, second.kind)


def is_motion(it: Interpreter, text: str) -> bool:
    """Whether a line leads to another place of the tape."""
    try:
        line = classify(text, it.table, it.is_name)
    except UserError:
        return False
    return line.command is not None and line.command.group in MOVING


def spelled_out(it: Interpreter, text: str) -> str:
    """Return the command for which a single letter stands, unless the program has something of that name."""
    is_short = len(text) == 1 and text in it.table and not it.is_name(text)
    return it.table[text].names[0] if is_short else ""


def is_line(it: Interpreter, text: str) -> bool:
    """Whether a line is a command, or Python that speaks of something that is known."""
    try:
        line = classify(text, it.table, it.is_name)
    except UserError:
        return False
    return line.command is not None or not text.isidentifier() or it.is_name(text)
