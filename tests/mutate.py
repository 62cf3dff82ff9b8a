"""Mutate: break lines, one at a time, and see whether a test notices.

    python -m tests.mutate                      every room, 20 lines drawn anew each time
    python -m tests.mutate timeline --count 50 --seed 7
    python -m tests.mutate replay/match.py --all

Works in a copy of the tree. The tests of the rooms run once with the lines as they are, and it is written down which
tests come by which line; then each line is broken, and those run, the quick ones first. What nobody notices is printed
with its file, line and change, and the exit status is 1, unless `tests/unnoticed.txt` gives a reason. mutmut and
cosmic-ray were looked at: mutmut gives each function many bodies behind a switch, but nnrepl's tests read frames, code
objects and line numbers; cosmic-ray runs one command for every mutant, where here the whole suite is no choice.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.looking import tests_by_line, took
from tests.mutants import ROOT, Mutant, is_python, mutants, with_looks

_REASONS = Path(__file__).parent / "unnoticed.txt"

_SCREENS = "tests/shell/test_transcripts.py"
_NAMES = "tests/session/test_names.py"
_RUN = "tests/session/test_running_on.py tests/session/test_stops_running.py tests/closed/test_reclosing.py"
_ASKED = "tests/session/test_stops.py tests/session/test_reference.py"
_TYPED = "tests/shell/test_muscle_memory.py tests/programs/test_cells.py tests/session/test_reference.py tests/closed"
TESTS = {
    "ops": f"tests/explain tests/record/test_catalog.py tests/record/test_bounds.py {_SCREENS}",
    "tape": f"tests/tape tests/session/test_places.py {_NAMES} tests/closed tests/timeline {_SCREENS}",
    "record": f"tests/record tests/corpus/test_odd.py tests/closed tests/timeline {_NAMES} {_SCREENS}",
    "replay": f"tests/replay tests/timeline tests/closed tests/programs/test_training.py {_NAMES} {_SCREENS}",
    "timeline": f"tests/timeline tests/replay tests/session {_SCREENS}",
    "session": f"tests/session tests/timeline tests/closed {_SCREENS} tests/shell/test_muscle_memory.py",
    "explain": f"tests/explain tests/programs/test_cells.py {_SCREENS}",
    "programs": f"tests/programs {_SCREENS}",
    "seen": f"tests/view tests/commands {_SCREENS}",
    "view": f"tests/view tests/commands {_SCREENS} {_NAMES} {_RUN} {_ASKED}",
    "commands": f"tests/commands tests/session/test_stops.py tests/session/test_stops_running.py {_TYPED} {_SCREENS}",
    "learn": "tests/learn tests/commands/test_help.py",
    "cli": "tests/programs/test_starting.py tests/programs/test_load.py tests/shell/test_terminals.py",
    "late": "tests/programs/test_shadows.py tests/programs/test_starting.py",
    "shell": f"tests/shell tests/replay/test_interrupts.py tests/programs/test_starting.py {_SCREENS}",
}
"""The tests of each room."""
PATIENCE = 200.0
"""Seconds that the tests of one mutant may take; one that never ends is noticed. Of tests that come by it, those are
run that took half of this in all."""
_FEW, _MOST = 12, 400
"""So many of those run first, and so many at most."""
_FUTURE = b"from __future__ import annotations"


class Tree:
    """A copy of the tree, in which one line is broken at a time."""

    def __init__(self, folder: Path, tried: list[Mutant], processes: str) -> None:
        self._tree, looks = folder / "tree", folder / "looks"
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "build", "dist")
        shutil.copytree(ROOT, self._tree, ignore=ignored)
        looks.mkdir()
        self._look(tried, processes)
        self._took, self._reached = took(looks), tests_by_line(looks)
        assert self._took, "no test passes, even without a change"

    def _look(self, tried: list[Mutant], processes: str) -> None:
        """Run the tests of the rooms once, the lines as they are, and write down who comes by them."""
        before = {name: (self._tree / name).read_bytes() for name in {mutant.file for mutant in tried}}
        for name, data in before.items():
            looked = with_looks(data, {number: one for number, one in enumerate(tried) if one.file == name})
            call = b"; from nnrepl._looking import reached as _came_by_"
            (self._tree / name).write_bytes(looked.replace(_FUTURE, _FUTURE + call, 1))
        shutil.copy(self._tree / "tests/looking.py", self._tree / "nnrepl/_looking.py")
        tests = dict.fromkeys(test for mutant in tried for test in _tests(mutant))
        self._run(["-n", processes, "-p", "tests.looking", *tests], None)
        for name, data in before.items():
            (self._tree / name).write_bytes(data)

    def chosen(self, number: int, mutant: Mutant) -> list[str]:
        """The tests that come by a line, the quick ones first, of each file in turn: at most `PATIENCE` of them."""
        reached = self._reached.get(number, set())
        if "" in reached:
            reached = {name for name in self._took if name.startswith(tuple(_tests(mutant)))}
        taken: list[tuple[int, float, str]] = []
        for file in {test.partition("::")[0] for test in reached}:
            names = self._took if file in reached else reached & self._took.keys()
            mine = sorted((self._took[test], test) for test in names if test.partition("::")[0] == file)
            taken += [(at, seconds, test) for at, (seconds, test) in enumerate(mine)]
        order, total = [], 0.0
        for _, seconds, test in sorted(taken):
            if total + seconds < PATIENCE / 2 and len(order) < _MOST:
                total += seconds
                order.append(test)
        return order

    def is_noticed(self, mutant: Mutant, tests: list[str]) -> bool:
        """Whether one of some tests fails with a change."""
        if not tests:
            return False
        file = self._tree / mutant.file
        before = file.read_bytes()
        file.write_bytes(before[: mutant.start] + mutant.text.encode() + before[mutant.end :])
        try:
            some, more = tests[:_FEW], tests[_FEW:]
            return any(self._run(["-n", "0", "-x", *few], PATIENCE) != 0 for few in (some, more) if few)
        finally:
            file.write_bytes(before)

    def _run(self, options: list[str], timeout: float | None) -> int:
        """Run pytest. Returns its exit status, -1 if it took too long; what it has started ends with it."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", *options]
        environment = {**os.environ, "PYTHONPATH": str(self._tree), "PYTHONDONTWRITEBYTECODE": "1"}
        ran = subprocess.Popen(
            command, cwd=self._tree, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            return ran.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(ran.pid, signal.SIGKILL)
            ran.wait()
            return -1


def _tests(mutant: Mutant) -> list[str]:
    return TESTS[mutant.file.split("/")[1].removesuffix(".py")].split()


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
    if not everything:
        random.Random(seed).shuffle(found)
    tried = (one for one in found if is_python(one))
    return list(tried if everything else itertools.islice(tried, count))


def main() -> int:
    """Try them. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="*", help=f"rooms ({', '.join(TESTS)}) or files in them")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--all", action="store_true", help="every change that can be made; takes days for all rooms")
    parser.add_argument("--processes", "-n", default="auto", help="that the tests run in at first, as of pytest -n")
    options = parser.parse_args()
    known, counts = reasons(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        tried = drawn(options.only, options.count, options.seed, options.all)
        tree = Tree(Path(folder), tried, options.processes)
        for number, mutant in enumerate(tried):
            tests = tree.chosen(number, mutant)
            said = "noticed" if tree.is_noticed(mutant, tests) else "known" if mutant.title in known else "UNNOTICED"
            counts[said] += 1
            why = f": {known[mutant.title]}" if said == "known" else f" by {len(tests)} tests that run it"
            print(f"{number + 1}/{len(tried)}  {said}{why}  line {mutant.line}  {mutant.title}", flush=True)
    print(f"{counts['UNNOTICED']} of {len(tried)} unnoticed; seed {options.seed}")
    return int(counts["UNNOTICED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
