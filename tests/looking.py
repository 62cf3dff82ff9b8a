"""Looking: which tests come by which lines, written down while they run in a copy of the tree (`tests.mutate`).

In the copy it stands twice: as a plugin of pytest, and as `nnrepl/_looking.py`, whose `reached` the lines call that are
looked at, in whatever process they run.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent.parent.parent / "looks"
_known: set[tuple[int, str]] = set()


def reached(number: int) -> None:
    """Note that the test that runs came by a line. Returns None, for `reached(1) or what was there`."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "")
    if (number, test) not in _known:
        _known.add((number, test))
        with open(_FOLDER / f"{os.getpid()}.reached", "a", encoding="utf-8") as file:
            file.write(f"{number}\t{test}\n")


def pytest_runtest_logreport(report: Any) -> None:
    """Note how long each test takes that does not fail."""
    if report.when == "call" and report.passed:
        with open(_FOLDER / f"{os.getpid()}.took", "a", encoding="utf-8") as file:
            file.write(f"{report.duration}\t{report.nodeid}\n")


def took(folder: Path) -> dict[str, float]:
    """Seconds of each test that passed."""
    lines = [line for file in folder.glob("*.took") for line in file.read_text(encoding="utf-8").splitlines()]
    return {test: float(seconds) for seconds, _, test in (line.partition("\t") for line in lines)}


def tests_by_line(folder: Path) -> dict[int, set[str]]:
    """The tests that came by each line. A file's name: all its tests may have, since what they share did when it was
    made. "": it is run when nnrepl is imported."""
    found: dict[int, set[str]] = defaultdict(set)
    for file in folder.glob("*.reached"):
        for line in file.read_text(encoding="utf-8").splitlines():
            number, _, test = line.partition("\t")
            name, _, when = test.rpartition(" ")
            found[int(number)].add(name if when == "(call)" else name.partition("::")[0])
    return found
