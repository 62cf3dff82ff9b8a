"""Publishing: a lesson with what it shows, as a page, as a notebook, as a recording of the terminal."""

from __future__ import annotations

import contextlib
import html
import io
import json
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from rich.console import Console
from rich.segment import Segment, Segments
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from nnrepl.classes import dataclass
from nnrepl.learn.lesson import Commands, FormulaBlock, Lesson, LessonQuestion, Prose, Task
from nnrepl.learn.posing import Posed
from nnrepl.ops.numbers import number
from nnrepl.session.errors import UserError
from nnrepl.session.files import write_text
from nnrepl.session.parsed import parse
from nnrepl.shell.prompts import PROMPT
from nnrepl.shell.student import Student, perform
from nnrepl.view.log import Line, Logged
from nnrepl.view.theme import THEMES

WIDTH, HEIGHT = 88, 30
SECONDS_A_WORD = 0.1
"""How fast a recording is read."""


@dataclass(slots=True)
class PlayedPart:
    """A part of a lesson as it was played.

    Attributes:
        kind: "prose", "formula", "commands", "question" or "task".
        text: What it said, as Markdown.
        typed: Its lines, each with what it showed.
        posed: The question.
    """

    kind: str
    text: str = ""
    typed: list[tuple[str, list[Line]]] = field(default_factory=list)
    posed: Posed | None = None


def publish(lesson: Lesson, form: str, target: Path, force: bool) -> str:
    """Write a lesson. Returns what to say.

    Raises:
        UserError: If it cannot be played to its end, or the file cannot be written.
    """
    if target.exists() and not force:
        raise UserError(f"{target} exists; -f writes over it, -o FILE writes another")
    if form == "cast":
        whole = recording(lesson)
    else:
        pieces = played(lesson)
        whole = page(lesson, pieces) if form == "html" else notebook(lesson, pieces)
    try:
        write_text(target, whole)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    return f"{lesson.title}: written to {target}"


def played(lesson: Lesson) -> list[PlayedPart]:
    """Play a lesson, and keep what each of its parts said and showed. Raises UserError."""
    student = Student(lesson)
    screen = io.StringIO()
    console = Console(
        file=screen, width=WIDTH, theme=THEMES["light"], force_terminal=True, color_system="truecolor",
        highlight=False, markup=False, emoji=False, _environ={},
    )  # fmt: skip
    _perform(student, console, screen)
    return list(_pieces(student))


SEEDED = "import random\nimport mlx.core as mx\n\nrandom.seed(0)\nmx.random.seed(0)"
"""What is drawn at random is drawn alike when a lesson is written and when its notebook runs."""


def _perform(student: Student, console: Console, screen: Any) -> None:
    exec(SEEDED, {})
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        perform(student, console)
    if student.found.problems or not student.finished:
        raise UserError("; ".join(student.found.problems) or f"{student.lesson.name} did not come to its end")


def _pieces(student: Student) -> Iterator[PlayedPart]:
    player = student.player
    entries = iter(list(student.shell.interpreter.log.entries))
    for at, part in enumerate(student.lesson.parts):
        if isinstance(part, Prose):
            yield PlayedPart("prose", player.told.get(at, ""))
        elif isinstance(part, FormulaBlock):
            yield PlayedPart("formula", player.told.get(at, ""))
        elif isinstance(part, Commands):
            yield PlayedPart("commands", typed=[(line, _shown(entries, line)) for line in part.lines])
        elif isinstance(part, LessonQuestion):
            yield PlayedPart("question", player.asked[at].text, posed=player.asked[at])
        elif isinstance(part, Task):
            yield PlayedPart("task", player.told.get(at, ""), [(line, []) for line in part.solution])


def _shown(entries: Iterator[Logged], line: str) -> list[Line]:
    """Return what a line showed: the next entry of the log with it."""
    return next((entry.shown for entry in entries if entry.typed == line), [])


def _console(lines: list[Line]) -> Console:
    console = Console(
        record=True, file=io.StringIO(), width=max([WIDTH, *map(Segment.get_line_length, lines)]), highlight=False,
        markup=False, force_terminal=True, color_system="truecolor", _environ={},
    )  # fmt: skip
    for line in lines:
        console.print(Segments([*line, Segment.line()]), end="", soft_wrap=True)
    return console


def _plain(lines: list[Line]) -> str:
    return "\n".join("".join(segment.text for segment in line if not segment.control).rstrip() for line in lines)


# -- a page ----------------------------------------------------------------------------------------------------------

_STYLE = """
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 17px/1.55 Georgia, serif; color: #222; }
h1, h2, h3 { font-family: system-ui, sans-serif; line-height: 1.2; }
pre, code { font: 14px/1.35 ui-monospace, Menlo, Consolas, monospace; }
pre { background: #f6f6f2; padding: .7rem 1rem; overflow-x: auto; border-radius: 4px; }
.formula { text-align: center; font-size: 1.1em; font-weight: bold; margin: 1.2rem 0; }
.ask { border-left: 4px solid #36c; padding: .1rem 1rem; margin: 1.2rem 0; background: #f4f7fd; }
.ask summary { cursor: pointer; color: #36c; }
footer { color: #666; font-size: .85em; margin-top: 3rem; }
"""


def page(lesson: Lesson, pieces: list[PlayedPart]) -> str:
    """Return a lesson as a page that stands alone; answers open when they are asked for."""
    source = html.escape(lesson.program.read_text(encoding="utf-8"))
    body = "\n".join(_html(piece) for piece in pieces)
    title = html.escape(lesson.title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<details><summary>The program: {html.escape(lesson.program.name)}</summary><pre>{source}</pre></details>
{body}
<footer>Played by nnrepl; every number on this page was computed. <code>nnrepl learn {html.escape(lesson.name)}</code>
plays it live.</footer>
</body></html>
"""


def _markdown(text: str) -> str:
    return str(MarkdownIt("commonmark").enable("table").render(text))


def _html(piece: PlayedPart) -> str:
    if piece.kind == "prose":
        return _markdown(piece.text)
    if piece.kind == "formula":
        return f'<div class="formula">{html.escape(piece.text)}</div>'
    if piece.kind == "commands":
        return "".join(
            f"<pre><b>{html.escape(PROMPT + line)}</b>\n{_coloured(shown)}</pre>" for line, shown in piece.typed
        )
    if piece.posed is not None:
        return _asked(piece.text, piece.posed)
    typed = "\n".join(html.escape(PROMPT + line) for line, _ in piece.typed)
    return (
        f'<div class="ask">{_markdown(piece.text)}<details><summary>One way</summary><pre>{typed}</pre></details></div>'
    )


def _coloured(lines: list[Line]) -> str:
    return _console(lines).export_html(theme=DEFAULT_TERMINAL_THEME, inline_styles=True, code_format="{code}").rstrip()


def _asked(text: str, posed: Posed) -> str:
    choices = "".join(f"<li>{_inline(option)}</li>" for option in posed.known) if posed.question.options else ""
    wrong = "".join(f"<li>{_inline(_wrong(it.value))} {_inline(it.said)}</li>" for it in posed.mistakes[:4])
    more = f"<p>Not so:</p><ul>{wrong}</ul>" if wrong else ""
    told = f"<p><b>{_inline(posed.told)}</b></p>{_markdown(posed.question.after)}{more}"
    chosen = f"<ol>{choices}</ol>" if choices else ""
    return f'<div class="ask">{_markdown(text)}{chosen}<details><summary>The answer</summary>{told}</details></div>'


def _wrong(value: Any) -> str:
    return f"{number(value)}:" if isinstance(value, (int, float)) else f"{value}:"


def _inline(text: str) -> str:
    return str(MarkdownIt("commonmark").renderInline(text))


# -- a notebook ------------------------------------------------------------------------------------------------------


_LIVE = (
    "Every cell shows what nnrepl said when the lesson was played. Run them from the first one on to ask anew, or "
    "something else: `%nnrepl explain z1`. A change of the program needs a program that waits: what was typed then, "
    "and what it showed, stands here as text, and `nnrepl learn` plays it in the terminal."
)
_OF_TIMELINES = ("timeline", "timelines", "undo", "redo", "diff")


def notebook(lesson: Lesson, pieces: list[PlayedPart]) -> str:
    """Return a lesson as a notebook: the program runs under nnrepl in its first cell, and each command is a cell, with
    what it showed."""
    program = lesson.program.read_text(encoding="utf-8")
    cells = [_cell(f"# {lesson.title}\n\n{_LIVE}"), _code("%load_ext nnrepl"), _code(SEEDED)]
    cells += [_code(f"%%nnrepl continue\n{program}"), _code("%nnrepl goto start")]
    is_changed = False
    for piece in pieces:
        if piece.kind != "commands":
            cells.append(_cell(as_markdown(piece)))
            continue
        for line, shown in piece.typed:
            is_changed |= parse(line).assignment is not None
            is_live = not is_changed and line.split()[0] not in _OF_TIMELINES
            one = PlayedPart("commands", typed=[(line, shown)])
            cells.append(_code(f"%nnrepl {line}", shown) if is_live else _cell(as_markdown(one)))
            is_changed &= line not in ("timeline 1", "undo")
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}, indent=1) + "\n"


def _cell(text: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def _code(text: str, shown: list[Line] | None = None) -> dict[str, Any]:
    cell = _cell(text) | {"cell_type": "code", "execution_count": None, "outputs": []}
    if shown:
        data = {"text/plain": _plain(shown), "text/html": f"<pre>{_coloured(shown)}</pre>"}
        cell["outputs"] = [{"output_type": "display_data", "data": data, "metadata": {}}]
    return cell


def as_markdown(piece: PlayedPart) -> str:
    """Return a part of a lesson as Markdown; its answer opens at a click."""
    if piece.kind == "prose":
        return piece.text
    if piece.kind == "formula":
        return f"```\n{piece.text}\n```"
    if piece.kind == "commands":
        return "\n".join(f"```\n{PROMPT}{line}\n{_plain(shown)}\n```" for line, shown in piece.typed)
    if piece.posed is None:
        typed = "\n".join(PROMPT + line for line, _ in piece.typed)
        return f"**Try.** {piece.text}\n\n<details><summary>One way</summary>\n\n```\n{typed}\n```\n</details>"
    options = "".join(f"\n{at}. {text}" for at, text in enumerate(piece.posed.known, 1))
    chosen = f"\n{options}\n" if piece.posed.question.options else ""
    told = f"**{piece.posed.told}**\n\n{piece.posed.question.after}"
    return f"**?** {piece.text}\n{chosen}\n<details><summary>The answer</summary>\n\n{told}\n\n</details>"


# -- a recording -----------------------------------------------------------------------------------------------------


class _Cast(io.StringIO):
    """A terminal whose output is kept with the moment at which it came; time passes as a reader needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.5
        self.events: list[list[Any]] = []

    def write(self, text: str) -> int:
        if text:
            self.events.append([round(self.now, 3), "o", text.replace("\n", "\r\n")])
            self.now += min(SECONDS_A_WORD * len(text.split()), 1.5)
        return len(text)


class _Reader(Student):
    """A student who takes a moment before each line."""

    cast: _Cast

    def read(self, prompt: str = PROMPT) -> str | None:
        self.cast.now += 1.2
        line = super().read(prompt)
        self.cast.now += 0.06 * len(line or "")
        return line


def recording(lesson: Lesson) -> str:
    """Return a lesson as a recording for asciinema (version 2). Raises UserError."""
    student, cast = _Reader(lesson), _Cast()
    student.cast = cast
    console = Console(
        file=cast, width=WIDTH, height=HEIGHT, theme=THEMES["dark"], force_terminal=True, color_system="256",
        highlight=False, markup=False, emoji=False, _environ={},
    )  # fmt: skip
    _perform(student, console, cast)
    head = {"version": 2, "width": WIDTH, "height": HEIGHT, "title": lesson.title, "env": {"TERM": "xterm-256color"}}
    return "\n".join(json.dumps(it, ensure_ascii=False) for it in [head, *cast.events]) + "\n"
