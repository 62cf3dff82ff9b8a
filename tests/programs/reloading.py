"""What the tests of `reload` share: a script that changes on disk under nnrepl, and its twin in plain Python."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nnrepl.cli import main
from tests.support import nnrepl_cli

HEAD = """\
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

mx.random.seed(3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.b = nn.Linear(4, 1)

    def __call__(self, x):
        return self.b(mx.tanh(self.a(x)))


def loss_fn(model, x, y):
    return mx.mean((model(x) - y) ** 2)


model = Net()
opt = optim.Adam(0.1)
x, y = mx.random.normal((8, 3)), mx.random.normal((8, 1))
"""

_WIDE = "160"
"""So many columns that what is said is not wrapped."""
TAIL = """
from mlx.utils import tree_flatten
for name, value in tree_flatten(model.parameters()):
    print("END", name, value.tolist())
"""


class Program:
    """A script on disk, under nnrepl.

    Args:
        folder: Where it lies.
        monkeypatch: Puts back what a program changes.
        capfd: Reads what is shown.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.path = folder / "train.py"
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        monkeypatch.setenv("COLUMNS", _WIDE)
        monkeypatch.chdir(folder)

    def write(self, text: str, name: str = "train.py") -> None:
        """Put a file on disk, with another time than the one before (Python's own caches look at whole seconds)."""
        path = self.folder / name
        path.write_text(text)
        self._moment = getattr(self, "_moment", 1_700_000_000) + 10
        os.utime(path, (self._moment, self._moment))

    def mend(self, text: str, name: str = "train.py") -> str:
        """The line for the prompt that changes a file."""
        self._mended = getattr(self, "_mended", 0) + 1
        source, target = self.folder / f"{name}.{self._mended}", self.folder / name
        source.write_text(text)
        return f"import shutil; shutil.copy({str(source)!r}, {str(target)!r})"

    def run(self, *lines: str, program: tuple[str, ...] = ("train.py",)) -> str:
        """Run lines under nnrepl, in a process of its own: a reload looks through all that lives, and in this one that
        is what all tests have left. Returns everything that was shown."""
        commands = [part for line in lines for part in ("-c", line)]
        ran = nnrepl_cli("--batch", *commands, *program, stdin="", cwd=self.folder, env={"COLUMNS": _WIDE})
        self.status = ran.returncode
        return ran.stdout + ran.stderr

    def run_here(self, *lines: str, program: tuple[str, ...] = ("train.py",)) -> str:
        """The same in this process, in which a test has put something in the place of a function."""
        before, path, argv, caching = sys.modules["__main__"], list(sys.path), list(sys.argv), sys.dont_write_bytecode
        sys.dont_write_bytecode = True
        commands = [part for line in lines for part in ("-c", line)]
        self._capfd.readouterr()
        try:
            self.status = main(["--batch", *commands, *program])
        finally:
            self._forget_modules()
            sys.modules["__main__"] = before
            sys.path[:], sys.argv[:], sys.dont_write_bytecode = path, argv, caching
        shown = self._capfd.readouterr()
        return shown.out + shown.err

    def _forget_modules(self) -> None:
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(str(self.folder)):
                del sys.modules[name]

    def twin(self, text: str) -> list[str]:
        """What a plain program prints."""
        path = list(sys.path)
        sys.path.insert(0, str(self.folder))
        self._capfd.readouterr()
        try:
            exec(compile(text, str(self.folder / "twin.py"), "exec", dont_inherit=True), {"__name__": "__main__"})
        finally:
            sys.path[:] = path
            self._forget_modules()
        return printed(self._capfd.readouterr().out)


def printed(text: str) -> list[str]:
    """The lines that a program itself printed: losses, weights, and what begins with `said`."""
    return [line for line in text.splitlines() if line.startswith(("loss ", "END ", "said "))]
