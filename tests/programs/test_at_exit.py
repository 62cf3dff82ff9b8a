"""What a program prints on its way out, when Python collects what is left: what plain Python prints."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.closed.test_closed import play
from tests.support import nnrepl_cli, plain_python

PROGRAM = """
import weakref
import mlx.core as mx

class Says:
    def __init__(self, name): self.name, self.itself = name, self   # a circle: only the collector ends it
    def __del__(self): print("gone", self.name)

kept = Says("kept")
Says("left behind")
noted = Says("noted")
weakref.finalize(noted, print, "finalized")
print(mx.grad(lambda x: (x * x).sum())(mx.array([1.0, 2.0])))
"""


def test_finalizers_speak(tmp_path: Path) -> None:
    (tmp_path / "prog.py").write_text(PROGRAM, encoding="utf-8")
    ours = nnrepl_cli("--batch", "-c", "continue", "prog.py", cwd=tmp_path)
    plain = plain_python("prog.py", cwd=tmp_path)
    assert sorted(ours.stdout.splitlines()) == sorted(plain.stdout.splitlines())
    assert plain.stdout.count("gone") == 3


TIMED = """\
import signal
import mlx.core as mx
signal.signal(signal.SIGALRM, lambda number, frame: None)
signal.setitimer(signal.ITIMER_REAL, 60, 60)
w = mx.array([1.0, 2.0])
for i in range(4):
    loss, g = mx.value_and_grad(lambda w: (w * w).sum())(w)
    w = w - 0.1 * g
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_no_timer_goes_on_of_a_program_that_is_broken_off(tmp_path: Path) -> None:
    """Its alarm would strike when nothing handles it any more, and end nnrepl."""
    (tmp_path / "timed.py").write_text(TIMED)
    shown = play(tmp_path / "timed.py", "goto step 2", "w = w * 2", "p i")
    assert "i = 1" in shown
    assert (signal.getitimer(signal.ITIMER_REAL), signal.getsignal(signal.SIGALRM)) == ((0, 0), signal.SIG_DFL)
