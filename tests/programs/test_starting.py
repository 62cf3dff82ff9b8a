"""How a program is started under nnrepl: arguments, directories, `__main__`, modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.programs.fidelity import (
    NET,
    assert_same,
    both,
    cases,
    check,
    same_surroundings,
    write,
)

__all__ = ["same_surroundings"]


@cases(
    {
        "empty": "",
        "only comments": "# nothing\n\n# at all\n",
        "silent": "import mlx.core as mx\ny = mx.zeros((2,)) + 1\n",
        "without mlx": "import sys\nprint('out')\nprint('err', file=sys.stderr)\n",
        "no forward pass": "import mlx.core as mx\nc = mx.ones(2) * 3\nprint(c, c.sum().item())\n",
    }
)
def test_programs_without_a_forward_pass(tmp_path: Path, program: str) -> None:
    check(tmp_path, program)


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--epochs", "3", "--help", "--version", "--batch", "--plain=3", "-h"),
        ("-m", "model", "-c", "config", "-x", "file"),
        ("--", "a", "--", "-m", "b", "--"),
        ("a", "-m", "b", "c"),
        ("", "two words", "é", "*", "-"),
    ],
    ids=" ".join,
)
def test_arguments(tmp_path: Path, args: tuple[str, ...]) -> None:
    check(tmp_path, "import net, sys\nprint(sys.argv)\n", *args)


@pytest.mark.parametrize(
    ("args", "status"), [(("-m", "big", "-c", "5", "--batch", "y"), 0), (("--help",), 0), (("--bogus",), 2)]
)
def test_program_with_its_own_options(tmp_path: Path, args: tuple[str, ...], status: int) -> None:
    program = """
import net, argparse
parser = argparse.ArgumentParser(description="Train.")
parser.add_argument("-m", "--model")
parser.add_argument("-c", type=int, default=3)
parser.add_argument("--batch")
print(parser.parse_args())
"""
    check(tmp_path, program, *args, status=status)


@pytest.mark.parametrize("start", ["./prog.py", "../{name}/prog.py", "{path}/prog.py", "link.py"])
def test_where_the_program_finds_itself(tmp_path: Path, start: str) -> None:
    write(tmp_path, prog="import net, os, sys\nprint(sys.argv, __file__, sys.path[0], os.getcwd())\n")
    (tmp_path / "link.py").symlink_to("prog.py")
    path = start.format(name=tmp_path.name, path=tmp_path)
    assert_same(*both(tmp_path, path, "a"))


def test_program_in_another_directory(tmp_path: Path) -> None:
    write(
        tmp_path,
        lib__helper="import os, sys\nprint(__name__, sys.path[0], os.getcwd())\nimport late\n",
        lib__late="from mlx.core import ones, matmul as mm\nprint('late', mm(ones((1, 2)), ones((2, 1))).item())\n",
        lib__prog="import helper, os\nos.chdir('/')\nimport later\nprint(__file__, helper.__file__)\n",
        lib__later="raise ValueError('after chdir')\n",
        lib__net=NET,
    )
    plain, debugged = both(tmp_path, "lib/prog.py")
    assert "after chdir" in plain.stderr
    assert_same(plain, debugged)


def test_what_main_looks_like(tmp_path: Path) -> None:
    program = '''
"""The documentation."""
from __future__ import annotations
import net, sys, types, importlib, __main__
width: Unknown = 3
print(__name__, __doc__, __package__, __spec__ is None, __cached__, type(__loader__).__name__)
print(__annotations__, sorted(globals()))
print(__main__.__dict__ is globals(), sys.modules["__main__"] is __main__, importlib.import_module("__main__").width)
if __name__ == "__main__":
    print(type(__builtins__), __builtins__.len("abc"), type(__main__), __main__)
    import prog
    print(prog is not __main__, prog.width)
'''
    check(tmp_path, program)


PACKAGE = {
    "pkg____init__": "print('init', __name__)\n",
    "pkg____main__": "import sys\nprint(sys.argv, __name__, __package__, __spec__.name, sys.path[0])\n",
    "pkg__train": """
import sys, net
from . import other
from .other import value
print(sys.argv, __name__, __package__, __spec__.name, __file__, sys.path[0], sorted(globals()), value)
if "--fail" in sys.argv:
    raise ValueError("failed")
""",
    "pkg__other": "value = 4\n",
    "single": "import net, sys\nprint(sys.argv, __package__, __spec__.name, __file__)\n",
}


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "pkg.train", "-m", "3", "-c", "x", "--help", "--"),
        ("-m", "pkg.train", "--fail"),
        ("-m", "pkg", "--batch"),
        ("-m", "single"),
    ],
    ids=" ".join,
)
def test_module(tmp_path: Path, command: tuple[str, ...]) -> None:
    write(tmp_path, **PACKAGE)
    plain, debugged = both(tmp_path, *command)
    plain.stderr = re.sub(r'  File "<frozen runpy>".*\n', "", plain.stderr)  # these stand for Python's own start
    assert_same(plain, debugged)
