"""Process: which process this is. A child that the program forks is not debugged."""

from __future__ import annotations

import os

_here = [os.getpid()]


def _forked() -> None:
    _here[0] = os.getpid()


os.register_at_fork(after_in_child=_forked)


def this_process() -> int:
    """Return the number of this process. It is asked at every op, and the system takes its time to say it."""
    return _here[0]
