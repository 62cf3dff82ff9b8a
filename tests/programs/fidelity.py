"""A program under nnrepl does what it does under plain Python: the same output, the same errors, the same end.

Each program is written to a directory and run twice, with `python prog.py` and with
`nnrepl --batch -c continue prog.py`; standard output, standard error and exit status must be the same. Most
import `net`, a neighbour that makes a forward pass at once, so that `continue` has been given before the rest.
"""

from __future__ import annotations

import os
import re
from difflib import unified_diff
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support import ROOT, nnrepl_cli, plain_python

CONTINUE = ("--batch", "-c", "continue")
EXAMPLES = Path(os.environ.get("MLX_EXAMPLES", "/nowhere"))

NET = '''
"""A small network, and a way to differentiate a loss on it."""
import mlx.core as mx
import mlx.nn as nn

mx.random.seed(0)
model = nn.Linear(2, 1)
x = mx.ones((1, 2))
model(x)


def learn(loss_fn, x=x):
    return nn.value_and_grad(model, loss_fn)(x)
'''


@pytest.fixture(autouse=True)
def same_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What differs between the two runs by accident only, and the neighbour `net`."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    (tmp_path / "net.py").write_text(NET)


def write(directory: Path, **files: str) -> None:
    """Write Python files: `pkg__train="..."` is pkg/train.py."""
    for name, text in files.items():
        file = directory / (re.sub(r"(?<=[a-z])__(?=[a-z_])", "/", name) + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def both(cwd: Path, *command: str, stdin: str | None = None) -> tuple[CompletedProcess[str], CompletedProcess[str]]:
    """The same command line under plain Python and under nnrepl."""
    plain = plain_python(*command, stdin=stdin, cwd=cwd)
    return plain, nnrepl_cli(*CONTINUE, *command, stdin=stdin, cwd=cwd)


def assert_same(plain: CompletedProcess[str], debugged: CompletedProcess[str]) -> None:
    """Both runs ended and printed alike."""
    for stream in ("stdout", "stderr"):
        expected, found = getattr(plain, stream), getattr(debugged, stream)
        lines = unified_diff(expected.splitlines(), found.splitlines(), "python", "nnrepl", lineterm="", n=1)
        assert found == expected, f"{stream} differs:\n" + "\n".join(lines)
    assert debugged.returncode == plain.returncode


def check(
    directory: Path, program: str, *args: str, stdin: str | None = None, status: int = 0
) -> CompletedProcess[str]:
    """Run a program both ways and compare; `status` guards against a program that is itself wrong."""
    write(directory, prog=program)
    plain, debugged = both(directory, "prog.py", *args, stdin=stdin)
    assert plain.returncode == status, plain.stderr
    assert_same(plain, debugged)
    return plain


def cases(programs: dict[str, str]) -> pytest.MarkDecorator:
    """One test for each program, called as it is called in the table."""
    return pytest.mark.parametrize("program", programs.values(), ids=programs.keys())
