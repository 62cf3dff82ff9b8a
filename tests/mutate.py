"""Mutate: break lines, one at a time, and see whether a test notices.

    python -m tests.mutate                      every room, 20 lines drawn anew each time
    python -m tests.mutate timeline --count 50 --seed 7
    python -m tests.mutate replay/match.py --all

Works in a copy of the tree. What nobody notices is printed with its file, line and change, and the exit status is 1,
unless `tests/unnoticed.txt` gives a reason. mutmut and cosmic-ray were looked at: mutmut gives each function many
bodies behind a switch, but nnrepl's tests read frames, code objects and line numbers; cosmic-ray runs one command for
every mutant, where here each room has its own tests and the whole suite is no choice.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
_REASONS = Path(__file__).parent / "unnoticed.txt"

_SCREENS = "tests/shell/test_transcripts.py"
TESTS = {
    "ops": "tests/explain/test_table.py tests/explain/test_arithmetic.py tests/explain/test_every_kind.py",
    "tape": f"tests/tape tests/session/test_places.py tests/session/test_names.py {_SCREENS}",
    "record": f"tests/record tests/corpus/test_odd.py {_SCREENS}",
    "replay": "tests/replay tests/timeline tests/programs/test_training.py",
    "timeline": f"tests/timeline tests/replay tests/session {_SCREENS}",
    "session": f"tests/session tests/timeline {_SCREENS} tests/shell/test_muscle_memory.py",
    "explain": f"tests/explain {_SCREENS}",
    "programs": f"tests/programs {_SCREENS}",
    "seen": f"tests/view tests/commands {_SCREENS}",
    "view": f"tests/view tests/commands {_SCREENS} tests/session/test_stops.py tests/session/test_reference.py",
    "commands": f"tests/commands tests/session/test_stops.py tests/shell/test_muscle_memory.py {_SCREENS}",
    "learn": "tests/learn tests/commands/test_help.py",
    "shell": f"tests/shell/test_completing.py tests/shell tests/programs/test_starting.py {_SCREENS}",
}
"""The tests of each room, those that notice most first."""
PATIENCE = 400.0
"""Seconds that the tests of one mutant may take; one that never ends is noticed."""

_OTHER: dict[type[ast.AST], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not",
    ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in", ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.And: "or",
    ast.Or: "and",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: the text from `start` to `end` (offsets in the file) becomes `text`."""

    file: str
    line: int
    start: int
    end: int
    was: str
    text: str

    @property
    def title(self) -> str:
        """How `unnoticed.txt` calls it: by what stands there, for lines move."""
        return f"{self.file}: {' '.join(self.was.split())} -> {' '.join(self.text.split())}"


def mutants(path: Path) -> Iterator[Mutant]:
    """Every change that can be made to a file."""
    text = path.read_text(encoding="utf-8")
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    data = text.encode()

    def at(node: ast.AST, end: bool = False) -> int:
        line, column = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)  # type: ignore[attr-defined]
        return starts[line - 1] + column

    def whole(node: ast.AST) -> str:
        return data[at(node) : at(node, True)].decode()

    def made(node: ast.AST, new: str) -> Mutant:
        return Mutant(str(path.relative_to(ROOT)), node.lineno, at(node), at(node, True), whole(node), new)  # type: ignore[attr-defined]

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OTHER:
            yield made(node, f"({whole(node.left)} {_OTHER[type(node.ops[0])]} {whole(node.comparators[0])})")
        elif isinstance(node, ast.BinOp) and type(node.op) in _OTHER and not _is_text(node):
            yield made(node, f"({whole(node.left)} {_OTHER[type(node.op)]} {whole(node.right)})")
        elif isinstance(node, ast.BoolOp):
            yield made(node, f"({f' {_OTHER[type(node.op)]} '.join(whole(one) for one in node.values)})")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield made(node, f"({whole(node.operand)})")
        elif isinstance(node, (ast.If, ast.IfExp)):
            yield made(node.test, f"(not ({whole(node.test)}))")
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and type(node.value.value) is bool:
            yield made(node.value, str(not node.value.value))  # None would only be another way of saying False
        elif isinstance(node, ast.Return) and node.value is not None and whole(node) != "return None":
            yield made(node, "return None")
        elif isinstance(node, ast.Constant) and type(node.value) is int and node.value < 10:
            yield made(node, str(node.value + 1))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield made(node, "pass")


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(one, ast.JoinedStr) or type(getattr(one, "value", None)) is str for one in sides)


class Tree:
    """A copy of the tree, in which one line is broken at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._failing: dict[str, list[str]] = {}
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "build", "dist")
        shutil.copytree(ROOT, folder, ignore=ignored)

    def is_noticed(self, mutant: Mutant) -> bool:
        """Whether a test of its room fails that does not fail without it."""
        room = mutant.file.split("/")[1]
        if room not in self._failing:
            shown = self._tested(room, "--tb=no", "-r", "f").stdout
            self._failing[room] = [line.split()[1] for line in shown.splitlines() if line.startswith("FAILED ")]
        file = self.folder / mutant.file
        before = file.read_bytes()
        file.write_bytes(before[: mutant.start] + mutant.text.encode() + before[mutant.end :])
        try:
            aside = [f"--deselect={one}" for one in self._failing[room]]
            return self._tested(room, "-x", *aside, timeout=PATIENCE).returncode != 0
        except subprocess.TimeoutExpired:
            return True
        finally:
            file.write_bytes(before)

    def _tested(self, room: str, *options: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *options]
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [*command, *TESTS[room].split()],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip


def reasons() -> dict[str, str]:
    """What is known to be noticed by nothing, and why."""
    lines = _REASONS.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("  # ", 1) for line in lines if "  # " in line and not line.startswith("#"))
    return {title.strip(): reason for title, reason in pairs}


def drawn(only: list[str], count: int, seed: int, everything: bool) -> list[Mutant]:
    """The mutants to try: of the rooms or files that were named, or of all rooms."""
    wanted = only or list(TESTS)
    files = [path for path in sorted((ROOT / "nnrepl").rglob("*.py")) if path.name != "__init__.py"]
    files = [path for path in files if any(str(path.relative_to(ROOT / "nnrepl")).startswith(one) for one in wanted)]
    found = [one for path in files for one in mutants(path)]
    return found if everything else random.Random(seed).sample(found, min(count, len(found)))


def main() -> int:
    """Try them. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="*", help=f"rooms ({', '.join(TESTS)}) or files in them")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--all", action="store_true", help="every change that can be made; takes days for all rooms")
    options = parser.parse_args()
    known, unnoticed = reasons(), 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder, "tree"))
        tried = drawn(options.only, options.count, options.seed, options.all)
        for number, mutant in enumerate(tried, 1):
            noticed = tree.is_noticed(mutant)
            said = "noticed" if noticed else f"known: {known[mutant.title]}" if mutant.title in known else "UNNOTICED"
            unnoticed += said == "UNNOTICED"
            print(f"{number}/{len(tried)}  {said}  line {mutant.line}  {mutant.title}", flush=True)
    print(f"{unnoticed} of {len(tried)} unnoticed; seed {options.seed}")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())
