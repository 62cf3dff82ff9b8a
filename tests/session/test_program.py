"""What the source of a program has, read without running it, and which of its files and definitions a name means."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.session.program import DefinitionSite, Program, file_of, is_file, lines_with_ops, near

SOURCE = '''\
import os.path, numpy as np
from .beside import helper as helps
from . import other
from package.inner import thing


class Net(Base, metaclass=made()):
    size: int = 3
    plain: float

    def __call__(self, x, *, scale=np.ones(2)):
        self.w = x @ x
        def inner(v):
            return v
        return inner(
            x)

    @decorated()
    def second(self): pass

    class Part:
        async def late(self): pass


def last(given: kind() = None) -> kind():
    """Says nothing."""
    for row in given:
        total = row
    rows = [one for one in given]
    given += 1
    return -given < 3, given[0], given.T, rows


after = 1
'''


def test_what_a_file_has(tmp_path: Path) -> None:
    path = tmp_path / "read.py"
    path.write_text(SOURCE)
    file = file_of(str(path))
    assert file.functions == {
        "Net.__call__": (11, 16), "Net.__call__.<locals>.inner": (13, 14), "Net.second": (19, 19),
        "Net.Part.late": (22, 22), "last": (25, 31),
    }  # fmt: skip
    assert file.classes == {"Net": (7, 22), "Net.Part": (21, 22)}
    assert file.variables == {
        "size", "plain", "self", "x", "scale", "w", "v", "given", "row", "total", "rows", "one", "after",
    }  # fmt: skip
    assert file.bound == {"os", "np", "helps", "other", "thing"}
    assert file.imports == {
        "os.path", "numpy", ".beside", ".beside.helper", ".", ".other", "package.inner", "package.inner.thing",
    }  # fmt: skip
    assert file.lines == [11, 12, 15, 16, 18, 27, 29, 30, 31], "none of bases, annotations, constants"
    assert file.count == 34
    path = tmp_path / "broken.py"
    path.write_text("def broken(:\n")
    assert (file_of(str(path)).functions, file_of(str(path)).count) == ({}, 1)


@pytest.mark.parametrize(
    ("path", "wanted", "is_meant"),
    [
        ("/a/net.py", "", True), ("/a/net.py", "net.py", True), ("/a/net.py", "/a/net.py", True),
        ("/a/net.py", "a/net.py", True), ("/a/net.py", "./a/net.py", True), ("/a/net.py", "/b/../a/net.py", True),
        ("/a/net.py", "t.py", False), ("/a/net.py", "b/net.py", False), ("/a/net.py", "/net.py", False),
        ("/ba/net.py", "a/net.py", False), ("<cell 3>", "<cell 3>", True), (f"{os.pardir}/net.py", "net.py", True),
        (os.path.abspath("../net.py"), "../net.py", True), (os.path.abspath("../../net.py"), "../net.py", False),
        ("net/net.py", "./net/net.py", True),
    ],
)  # fmt: skip
def test_which_file_is_meant(path: str, wanted: str, is_meant: bool) -> None:
    assert is_file(path, wanted) == is_meant


def test_the_lines_around_one() -> None:
    assert [near([3, 5, 9], line) for line in (1, 3, 4, 9, 12)] == [[3], [3], [3, 5], [5, 9], [9]]


def test_the_files_of_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that ops came from, those that they import and that lie beside them or where Python looks first, and of
    those again."""
    texts = {
        "trains.py": "from sub import net\nimport first, os, missing\ndef run(x, net):\n    return call(\n"
        "        net, x)\n"
        "def call(net, x): return net(x) * 2\n",
        "sub/__init__.py": "",
        "sub/net.py": "from . import util\nfrom .. import outside\nfrom .deep.er import thing\nclass Net: pass\n"
        "def run(x):\n    return x + 1\n",
        "sub/util.py": "def used(): pass\n",
        "sub/deep/er.py": "",
        "outside.py": "",
        "path/first.py": "limit = 3\nfrom trains import run\n",
        "unused.py": "",
        "elsewhere/net.py": "def run(x): return x - 1\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "path"), *sys.path])
    main, net, other = (str(tmp_path / name) for name in ("trains.py", "sub/net.py", "elsewhere/net.py"))
    run, module = compiled(texts["trains.py"], main)["run"], compiled(texts["sub/net.py"], net)["run"]
    with nnrepl.recording() as recorded:
        run(mx.ones(2), module)
        run(mx.ones(2), compiled(texts["elsewhere/net.py"], other)["run"])
    program = Program(recorded.tape)
    beside = f"{tmp_path}{os.sep}"
    assert [path for path in program.recorded() if path.startswith(beside)] == [net, main, other]
    found = [path.removeprefix(beside) for path in program.files() if path.startswith(beside)]
    assert found == [
        "sub/net.py", "trains.py", "elsewhere/net.py", "sub/__init__.py", "outside.py", "sub/deep/er.py", "sub/util.py",
        "path/first.py",
    ]  # fmt: skip
    assert (program.named("trains.py"), program.named("net.py")) == ([main], [net, other])
    assert program.named("elsewhere/net.py") == [other]
    assert program.named("er.py") == [str(tmp_path / "sub/deep/er.py")], "not on the tape, but imported"
    assert program.named(str(tmp_path / "unused.py")) == [str(tmp_path / "unused.py")], "on the disk alone"
    assert program.named(str(tmp_path / "sub")) == program.named("nothing.py") == []
    assert {"run", "call", "used"} <= program.functions()
    assert "Net" in program.classes()
    assert {"x", "limit"} <= program.variables()
    assert {"first", "missing", "util", "thing", "os"} <= program.imported()
    assert program.definition("Net") == program.definition("Net", "net.py") == DefinitionSite(net, 4, 4, True)
    assert program.definition("run", "net.py") == DefinitionSite(net, 5, 6, False)
    assert (program.definition("Net", "trains.py"), program.definition("et")) == (None, None)
    assert (program.defined(net), program.defined(main)) == (["run", "Net"], ["run", "call"])
    assert (program.short(main), program.short(net), program.short(other)) == (
        "trains.py", "sub/net.py", "elsewhere/net.py",
    )  # fmt: skip
    assert program.lines(main) == [4, 5, 6]
    assert lines_with_ops(recorded.tape, main) == {4, 5, 6}
    assert (lines_with_ops(recorded.tape, net), lines_with_ops(recorded.tape, other)) == ({6}, {1})
    assert program.lines(str(tmp_path / "path/first.py")) == []


def compiled(text: str, path: str) -> dict[str, Any]:
    """What a file has whose imports are not followed."""
    space: dict[str, Any] = {}
    kept = "".join("\n" if "import" in line else line for line in text.splitlines(keepends=True))
    exec(compile(kept, path, "exec"), space)
    return space
