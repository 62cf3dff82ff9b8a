"""Broken off: where a command is interrupted, the user stands where they stood before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nnrepl.session.standing import Standing


@contextmanager
def standing_still(session: Standing) -> Iterator[None]:
    """Inside, Ctrl-C takes back a move that a command has made before it was through: to another place, or to another
    timeline. A timeline that has been made stays. Raises what is raised inside."""
    timelines, stop = session.timelines, session.stop
    tape, names, cursor = session.tape, session.names, session.cursor
    back = timelines.bookmark()
    try:
        yield
    except KeyboardInterrupt:
        same = session.waits and session.timelines is timelines
        if same and (session.tape, session.cursor) != (tape, cursor) and back(tape):
            session.look_at(tape, names, cursor)
            session.course.rest(stop)
        raise
