"""Lesson: what a Markdown file says, part by part. Nothing is computed here.

A lesson begins with front matter, and has four kinds of fenced blocks beside its prose:

    ---
    title: Forward: a neuron, a layer, ReLU
    program: ../living_nn.py
    minutes: 6
    ---
    Prose. {{loss}} is a number of the tape where the lesson stands.

    ```nnrepl
    step
    ```

    ```question
    What is `z1[0, 1]`?
    answer: z1[0, 1]
    wrong: z1[0, 0] + 1 :: That is ...
    hint: ...
    after: ...
    see: 3
    ```

    ```question
    What becomes of a negative number?
    option: 0 :: a1[0, 1] == 0
    option: its absolute value :: a1[0, 1] == -z1[0, 1]
    ```

    ```task
    Make the loss smaller than 1.
    until: loss < 1
    solution: bias2[0] = 2.0
    ```

    ```formula
    z = x₁·w₁ + x₂·w₂ + b
    ```

    ```notes
    What only a teacher reads.
    ```

`---` on a line of its own waits for Enter. The right answer is an expression, never a number: it is computed where the
question is asked, or where its names are made next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import field
from difflib import get_close_matches
from pathlib import Path

from nnrepl.classes import dataclass
from nnrepl.session.errors import UserError


@dataclass(slots=True)
class Prose:
    """Something to read, as Markdown."""

    text: str
    line: int


@dataclass(slots=True)
class FormulaBlock:
    """A formula that stands alone."""

    text: str
    line: int


@dataclass(slots=True)
class Commands:
    """Lines that are run as if typed."""

    lines: list[str]
    line: int


@dataclass(slots=True)
class Pause:
    """A place to take breath."""

    line: int


@dataclass(slots=True)
class TeacherNotes:
    """What only a teacher reads."""

    text: str
    line: int


@dataclass(slots=True)
class LessonQuestion:
    """Something to predict.

    Attributes:
        text: What is asked, as Markdown.
        answer: The expression that gives the right answer; "" where options are given.
        options: What there is to choose from, each with the condition under which it is right.
        wrong: Expressions that give an answer to be expected, each with what to say to it.
        hints: What is said to who asks, one after another.
        after: What is said when the answer is known.
        see: The lesson that teaches it; "" for none.
    """

    text: str
    line: int
    answer: str = ""
    options: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    after: str = ""
    see: str = ""


@dataclass(slots=True)
class Task:
    """Something to bring about, by whatever lines.

    Attributes:
        until: The condition that is then true.
        solution: Lines that bring it about.
    """

    text: str
    line: int
    until: str = ""
    solution: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    after: str = ""


Part = Prose | FormulaBlock | Commands | Pause | TeacherNotes | LessonQuestion | Task


@dataclass(slots=True)
class Lesson:
    """A lesson.

    Attributes:
        path: Its file.
        title: What it is about.
        program: What it is played on, as the shell would be given it.
        arguments: The program's own arguments.
        minutes: How long it takes, about.
        parts: What it consists of.
        key: What progress is kept under.
        number: Its number among those that come with nnrepl; 0 for others.
    """

    path: Path
    title: str
    program: Path
    arguments: list[str]
    minutes: int
    parts: list[Part]
    key: str
    number: int = 0

    @property
    def name(self) -> str:
        """How one asks for it: `learn 3`, `learn my_lesson.md`."""
        return str(self.number) if self.number else self.path.name

    @property
    def notes(self) -> list[TeacherNotes]:
        """What only a teacher reads."""
        return [part for part in self.parts if isinstance(part, TeacherNotes)]


class LessonError(UserError):
    """A lesson that cannot be played, with the file and the line."""


_FENCE = re.compile(r"(`{3,}|~{3,})\s*([\w-]*)[^`]*$")
_KEYS = {
    "question": ("answer", "option", "wrong", "hint", "after", "see"),
    "task": ("until", "solution", "hint", "after"),
}
_HEAD = ("title", "program", "arguments", "minutes", "author")


def read(path: Path, number: int = 0) -> Lesson:
    """Read a lesson.

    Raises:
        LessonError: If the file cannot be read, or is no lesson.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise LessonError(f"cannot read {path}: {reason}") from None
    return parse(text, path, number)


def parse(text: str, path: Path, number: int = 0) -> Lesson:
    """Make a lesson of a text. Raises LessonError."""
    lines = text.splitlines()
    head, start = _front_matter(lines, path)
    if "program" not in head:
        raise LessonError(f"{path}: the front matter names no program; add a line such as program: train.py")
    minutes = head.get("minutes", "5")
    if not minutes.isdigit():
        raise LessonError(f"{path}: minutes is a whole number, not {minutes}")
    parts = list(_parts(lines, start, path))
    if not any(isinstance(part, (Prose, Commands, LessonQuestion, Task)) for part in parts):
        raise LessonError(f"{path}: there is nothing after the front matter")
    program = (path.parent / head["program"]).expanduser()
    key = f"lesson {number}" if number else str(path.resolve())
    arguments = head.get("arguments", "").split()
    return Lesson(path, head.get("title", path.stem), program, arguments, int(minutes), parts, key, number)


def _front_matter(lines: list[str], path: Path) -> tuple[dict[str, str], int]:
    """Return what stands between two lines `---`, and where the lesson begins after it."""
    if not lines or lines[0].strip() != "---":
        raise LessonError(f"{path}:1: a lesson begins with front matter: a line ---, title: and program:, a line ---")
    head: dict[str, str] = {}
    for number, line in enumerate(lines[1:], 2):
        if line.strip() == "---":
            return head, number
        name, colon, value = line.partition(":")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not colon or name.strip() not in _HEAD:
            raise LessonError(f"{path}:{number}: {line.strip()!r} is no line of front matter; known are "
                              f"{', '.join(f'{name}:' for name in _HEAD)}")  # fmt: skip
        head[name.strip()] = value.strip().strip("\"'")
    raise LessonError(f"{path}: the front matter has no end; a line --- ends it")


def _parts(lines: list[str], start: int, path: Path) -> Iterator[Part]:
    said: list[str] = []
    begun = at = start
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        is_pause = re.fullmatch(r"-{3,}\s*", lines[at]) is not None and not (said and said[-1].strip())
        if fence is None and not is_pause:
            said.append(lines[at])
            at += 1
            continue
        end = at if fence is None else _closing(lines, at, fence[1], path)
        kind = "" if fence is None else fence[2]
        if fence is not None and kind not in ("nnrepl", "question", "task", "formula", "notes"):
            said += lines[at : end + 1]
            at = end + 1
            continue
        yield from _said(said, begun)
        inside = lines[at + 1 : end]
        yield Pause(at + 1) if fence is None else _block(kind, inside, at + 1, path)
        said, begun, at = [], end + 1, end + 1
    yield from _said(said, begun)


def _said(lines: list[str], begun: int) -> Iterator[Prose]:
    text = "\n".join(lines).strip()
    if text:
        yield Prose(text, begun + 1)


def _closing(lines: list[str], at: int, fence: str, path: Path) -> int:
    for place in range(at + 1, len(lines)):
        if lines[place].strip() == fence:
            return place
    raise LessonError(f"{path}:{at + 1}: this block has no end; a line {fence} ends it")


def _block(kind: str, inside: list[str], line: int, path: Path) -> Part:
    text = "\n".join(inside).strip("\n")
    if kind == "formula":
        return FormulaBlock(text, line)
    if kind == "notes":
        return TeacherNotes(text.strip(), line)
    if kind == "nnrepl":
        typed = [row.strip() for row in inside if row.strip()]
        if not typed:
            raise LessonError(f"{path}:{line}: this block has no command in it")
        return Commands(typed, line)
    _check_keys(kind, inside, line, path)
    asked, given = _keys(kind, inside)
    if not asked:
        raise LessonError(f"{path}:{line}: this {kind} asks nothing; its first line is what is asked")
    if kind == "task":
        return _task(asked, given, line, path)
    return _question(asked, given, line, path)


def _check_keys(kind: str, inside: list[str], line: int, path: Path) -> None:
    """Raise LessonError for a key with a slip of the pen, which would be read as part of what is asked."""
    for at, row in enumerate(inside, line + 1):
        key, colon, _ = row.partition(":")
        close = get_close_matches(key, _KEYS[kind], 1, 0.7) if colon and key.isidentifier() else []
        if close and key not in _KEYS[kind]:
            raise LessonError(f"{path}:{at}: {key}: is no line of a {kind}; did you mean {close[0]}:?")


def _keys(kind: str, inside: list[str]) -> tuple[str, dict[str, list[str]]]:
    """Return the text of a block, and what stands after its keys; a line that is indented goes on with the one
    above."""
    asked: list[str] = []
    given: dict[str, list[str]] = {}
    last: list[str] | None = None
    for row in inside:
        key, colon, value = row.partition(":")
        if colon and key in _KEYS[kind]:
            last = given.setdefault(key, [])
            last.append(value.strip())
        elif last is not None:
            last[-1] = f"{last[-1]} {row.strip()}".strip()
        else:
            asked.append(row)
    return "\n".join(asked).strip(), given


def _pair(text: str, line: int, path: Path) -> tuple[str, str]:
    left, sign, right = text.rpartition("::")
    if not sign or not left.strip() or not right.strip():
        raise LessonError(f"{path}:{line}: {text!r} has two sides with :: between them")
    return left.strip(), right.strip()


def _question(asked: str, given: dict[str, list[str]], line: int, path: Path) -> LessonQuestion:
    answer = " ".join(given.get("answer", ()))
    options = [_pair(text, line, path) for text in given.get("option", ())]
    if bool(answer) == bool(options):
        raise LessonError(f"{path}:{line}: a question has an answer: or several option: lines")
    if len(options) == 1:
        raise LessonError(f"{path}:{line}: one option is no choice")
    wrong = [_pair(text, line, path) for text in given.get("wrong", ())]
    after = " ".join(given.get("after", ()))
    see = " ".join(given.get("see", ()))
    return LessonQuestion(asked, line, answer, options, wrong, given.get("hint", []), after, see)


def _task(asked: str, given: dict[str, list[str]], line: int, path: Path) -> Task:
    if len(given.get("until", ())) != 1 or "solution" not in given:
        raise LessonError(f"{path}:{line}: a task has one until: CONDITION, and solution: lines that bring it about")
    after = " ".join(given.get("after", ()))
    return Task(asked, line, given["until"][0], given["solution"], given.get("hint", []), after)
