"""Publishing: a lesson with what it shows, as a page, as a notebook, as a recording of the terminal."""

from __future__ import annotations

from pathlib import Path

from nnrepl.learn.lesson import Lesson
from nnrepl.session.errors import UserError


def publish(lesson: Lesson, form: str, target: Path, force: bool) -> str:
    """Write a lesson. Returns what to say. Raises UserError."""
    raise UserError(f"not yet: {lesson.name} {form} {target} {force}")
