"""Files of the program that are called as modules of Python's, or of libraries, which nnrepl imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from nnrepl.programs.shadows import LATE
from tests.support import ROOT, nnrepl_cli, plain_python

NEEDED = {"os", "sys", "builtins", "__future__", "io", "stat", "tokenize", "importlib", "warnings", "zlib"}
"""What Python itself imports before a program begins, or whenever it imports."""
OF_MLX = {"array", "collections", "contextlib", "enum", "functools", "keyword", "math", "operator", "re", "reprlib"}
OF_MLX |= {
    "pathlib",
    "types",
    "typing",
    "inspect",
    "textwrap",
    "dataclasses",
    "ast",
    "dis",
    "linecache",
    "weakref",
    "threading",
}
"""What MLX imports, or what that imports: a program with such a file breaks under plain Python."""
PROGRAM = """
import mlx.core as mx
import {imported}
print([one.__dict__.get("MINE") for one in ({imported},)])
x = mx.array([0.5, 0.25])
def loss(x):
    y = mx.erfinv(x)
    return (y * y).sum()
print(mx.grad(loss)(x))
"""
TYPED = [
    "step", "step", "explain y", "list", "until multiply", "back", "explain", "goto end", "health", "why x", "check",
    "help gradient", "save tape.safetensors", "export log.html", "graph", "heatmap x", "hist x", "x = x * 2", "diff",
    "verify", "timelines", "typo", "break 9", "restart", "c", "q",
]  # fmt: skip


def texts() -> list[tuple[str, str]]:
    return [(file.name, file.read_text(encoding="utf-8")) for file in (ROOT / "nnrepl").rglob("*.py")]


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


def test_the_program_has_its_own_and_nnrepl_its_own(tmp_path: Path) -> None:
    wanted = {"fractions", *(name.partition(".")[0] for name in LATE)}.union(
        *(imported(ast.parse(text)) for _, text in texts())
    )
    names = sorted((wanted | {"of_its_own"}) - NEEDED - OF_MLX - {"nnrepl", "mlx", "numpy"})
    assert {"html", "statistics", "cmath", "fractions", "random", "asyncio", "rich", "difflib", "json"} < set(names)
    for name in names:
        (tmp_path / f"{name}.py").write_text("print(__name__)\nMINE = __name__\n", encoding="utf-8")
    (tmp_path / "prog.py").write_text(PROGRAM.format(imported=", ".join(names)), encoding="utf-8")

    plain = plain_python("prog.py", cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    batch = nnrepl_cli("--batch", "-c", "continue", "prog.py", cwd=tmp_path)
    assert batch.stdout == plain.stdout, batch.stderr
    typed = nnrepl_cli("--plain", "prog.py", stdin="\n".join(TYPED) + "\n", cwd=tmp_path)
    assert "itself failed" not in typed.stdout
    assert "Traceback" not in typed.stderr + typed.stdout
    assert "= erf⁻¹(0.5) \n              = 0.4769" in typed.stdout  # it takes the normal distribution of `statistics`
    assert typed.stdout.count("\nhtml\n") == typed.stdout.count("\nof_its_own\n") > 0


def test_nothing_but_nnrepl_is_imported_in_a_function() -> None:
    """An import in a function runs when a program's own files are in sight: `nnrepl.late` is for that."""
    late = {
        (file, name)
        for file, text in texts()
        if re.search(r"^ {4,}(import|from) ", text, re.MULTILINE)
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef)
        for name in imported(function) - {"nnrepl"}
    }
    assert not late
    assert {name for _, text in texts() for name in re.findall(r'\blate\("([\w.]+)"\)', text)} == set(LATE)
