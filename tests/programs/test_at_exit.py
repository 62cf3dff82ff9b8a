"""What a program prints on its way out, when Python collects what is left: what plain Python prints."""

from __future__ import annotations

from pathlib import Path

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
