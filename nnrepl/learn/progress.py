"""Progress: how far a user has come in each lesson, kept in a file of theirs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnrepl.classes import dataclass
from nnrepl.session.files import write_private
from nnrepl.session.settings import state_directory


@dataclass(frozen=True, slots=True)
class Reached:
    """How far one has come.

    Attributes:
        part: The part of the lesson that comes next.
        parts: How many it had.
        done: Whether it was played to its end once.
        right, asked: How many of its questions were answered right at the first try, of how many so far.
    """

    part: int = 0
    parts: int = 0
    done: bool = False
    right: int = 0
    asked: int = 0


def progress_file() -> Path:
    """Where it is kept."""
    return state_directory() / "lessons.json"


def load_progress(path: Path | None = None) -> dict[str, Reached]:
    """Return what is known of each lesson; nothing where the file is not there or damaged."""
    try:
        found: Any = json.loads((path or progress_file()).read_text(encoding="utf-8"))
        return {str(key): _mark(kept) for key, kept in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _mark(kept: Any) -> Reached:
    part, parts, right, asked = (int(kept.get(name, 0)) for name in ("part", "parts", "right", "asked"))
    return Reached(part, parts, bool(kept.get("done", False)), right, asked)


def keep_progress(key: str, mark: Reached, path: Path | None = None) -> str:
    """Write how far one has come. Returns what is wrong with the file, "" if nothing is."""
    path = path or progress_file()
    known = load_progress(path)
    known.pop(key, None)
    known[key] = mark  # the last one in the file is the one that was played last
    text = json.dumps({name: asdict(it) for name, it in known.items()})
    try:
        write_private(path, text)
    except OSError as error:
        return f"how far you have come is not kept: cannot write {path}: {error.strerror}"
    return ""
