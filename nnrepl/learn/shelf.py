"""Shelf: the lessons that come with nnrepl, and those that are files of the user's."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from nnrepl.learn.lesson import Lesson, LessonError, read
from nnrepl.programs.examples import folder


def shipped() -> list[Path]:
    """Return the files of the lessons that come with nnrepl, in their order."""
    return sorted((folder() / "lessons").glob("[0-9][0-9]_*.md"))


def lessons() -> list[Lesson]:
    """Return the lessons that come with nnrepl. Raises LessonError if one is broken."""
    return [read(path, number) for number, path in enumerate(shipped(), 1)]


def find(word: str) -> Lesson:
    """Return a lesson by its number, by a word of its file's name, or by its path.

    Raises:
        LessonError: If there is none.
    """
    files = shipped()
    if re.fullmatch(r"\d{1,4}", word):
        number = int(word)
        if not 1 <= number <= len(files):
            raise LessonError(f"there is no lesson {word}; there are 1 to {len(files)}, and learn lists them")
        return read(files[number - 1], number)
    names = [path.stem.partition("_")[2] for path in files]
    if word in names:
        return read(files[names.index(word)], names.index(word) + 1)
    path = Path(word).expanduser()
    if path.suffix == ".md" or path.is_file():
        for number, file in enumerate(files, 1):
            if path.exists() and path.resolve() == file.resolve():
                return read(file, number)
        return read(path)
    close = get_close_matches(word, names, 1)
    instead = f"did you mean {close[0]}?" if close else "learn lists them, and learn FILE.md plays one of your own"
    raise LessonError(f"there is no lesson {word}; {instead}")
