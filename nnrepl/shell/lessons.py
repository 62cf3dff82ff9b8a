"""Lessons: what `nnrepl learn` does beside playing one: list them, check one, write one with what it shows."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from nnrepl.commands.learning import listed, player_of
from nnrepl.learn.lesson import Lesson
from nnrepl.learn.player import Player
from nnrepl.learn.shelf import find
from nnrepl.session.errors import UserError
from nnrepl.shell.student import check
from nnrepl.view.prose import prose

FORMATS = ("html", "ipynb", "cast")


def lessons_parser() -> argparse.ArgumentParser:
    """Return what `nnrepl learn` accepts."""
    made = argparse.ArgumentParser(
        prog="nnrepl learn", description="Play a lesson: a text that is read and a program that is run, together."
    )
    made.add_argument("lesson", nargs="?", help="the number of a lesson, or a Markdown file; alone: list them")
    made.add_argument("--again", action="store_true", help="begin at the start, wherever you left it")
    made.add_argument("--present", action="store_true", help="for a room: part by part, on an empty screen")
    made.add_argument("--tui", action="store_true", help="use the whole screen")
    made.add_argument("--notes", action="store_true", help="print the teacher's notes, and play nothing")
    made.add_argument("--check", action="store_true", help="play it to its end; fail where something no longer holds")
    made.add_argument("--export", choices=FORMATS, help="write it with what it shows")
    made.add_argument("-o", dest="output", metavar="FILE", help="where --export writes; lesson.html and the like")
    made.add_argument("-f", dest="force", action="store_true", help="replace that file")
    return made


def without_playing(wanted: argparse.Namespace, console: Console) -> Player | int:
    """Do what needs no student. Returns the exit status; for a lesson to be played, its player.

    Raises:
        UserError: If there is no such lesson, or a file cannot be written.
    """
    if wanted.lesson is None:
        if wanted.check or wanted.export or wanted.notes or wanted.present:
            raise UserError("which lesson? nnrepl learn lists them; nnrepl learn --check FILE.md checks one")
        console.print(listed())
        return 0
    lesson = find(wanted.lesson)
    if wanted.notes:
        notes = "\n\n".join(note.text for note in lesson.notes) or "This lesson has no notes for a teacher."
        console.print(prose(f"# {lesson.title}\n\n{notes}"))
        return 0
    if wanted.check:
        return _checked(lesson, console)
    if wanted.export:
        from nnrepl.shell.publishing import publish

        target = Path(wanted.output or f"{lesson.path.stem}.{wanted.export}")
        said = publish(lesson, wanted.export, target, wanted.force)
        console.print(Text(said))
        return 0
    return player_of(lesson, anew=wanted.again, present=wanted.present)


def _checked(lesson: Lesson, console: Console) -> int:
    found = check(lesson)
    for problem in found.problems:
        console.print(Text(problem, style="error"), soft_wrap=True)
    for remark in found.remarks:
        console.print(Text(remark, style="hint"), soft_wrap=True)
    said = f"{lesson.path.name}: {found.commands} commands, {found.questions} questions, {found.mistakes} wrong answers"
    said += f", {found.tasks} tasks" if found.tasks else ""
    console.print(Text(said + ("" if found.problems else " · ✓ all hold")))
    return int(bool(found.problems))
