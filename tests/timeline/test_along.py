"""How far the program's output is known where it runs along a timeline as it was."""

from __future__ import annotations

import mlx.core as mx

import nnrepl
from tests.support import OpenSession


def test_what_was_printed_behind_the_last_op_was_seen_where_the_program_has_ended() -> None:
    session = OpenSession(nnrepl.trace(lambda x: (x * 2).sum(), mx.array([1.0, 2.0])))
    timeline, end = session.changes.timelines.current, len(session.tape)
    for ended, seen, known in ((True, end, end + 1), (True, 1, 1), (False, end, end - 1), (False, 1, 1)):
        timeline.ended, timeline.seen = ended, seen
        run = timeline.along()
        assert (run.position, run.seen) == (end, known)
