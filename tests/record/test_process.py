"""A forked child knows that it is one."""

from __future__ import annotations

import os

from nnrepl.record.process import this_process


def test_a_child_is_another_process() -> None:
    mine = this_process()
    assert mine == os.getpid()
    child = os.fork()
    if not child:
        os._exit(0 if this_process() == os.getpid() != mine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert this_process() == mine
