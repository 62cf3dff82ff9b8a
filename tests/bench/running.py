"""Running: training scripts through the command line, under plain Python and under nnrepl, interleaved."""

from __future__ import annotations

import compileall
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from tests.bench.figures import Figure, figure
from tests.bench.scripts import LARGE, LONG, ON_A_GPU, WORKLOADS, Workload

_ROOT = Path(__file__).parent.parent.parent
_PLAIN = (sys.executable,)
_OURS = (sys.executable, "-m", "nnrepl", "--batch")
_CONTINUE = ("-c", "continue")
_COMPILED = tempfile.TemporaryDirectory()
_BOOKKEEPING = 1.0
"""kB that a step may leave behind."""
_PAUSE = 50.0
"""ms that a step may take at the most, where it takes one as a rule."""


def children() -> float:
    """Seconds of CPU time of all processes that have been run so far."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def run(command: Sequence[str]) -> str:
    """What a command prints. It runs in one thread of linear algebra, as noise would be measured otherwise, and with
    compiled modules kept, as in an installation."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": _COMPILED.name}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def spent(command: Sequence[str]) -> float:
    """Seconds of CPU time of a command."""
    before = children()
    run(command)
    return children() - before


def timed(command: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What a script of the benchmark has measured, and what it printed otherwise."""
    lines = run(command).splitlines()
    found = next(line for line in lines if line.startswith("BENCH "))
    printed = [line for line in lines if line.startswith(("step ", "last "))]
    return json.loads(found.removeprefix("BENCH ")), printed


class Scripts:
    """The scripts in a folder of their own."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def path(self, workload: Workload) -> str:
        """Write a script. Returns where."""
        path = self.folder / f"{workload.what}_{workload.name}_{workload.steps}.py".replace(", ", "_").replace(" ", "_")
        path.write_text(workload.source())
        return str(path)


def steps(rounds: int, quick: bool) -> Iterator[Figure]:
    """The CPU time of a step under `continue`, in multiples of plain Python's."""
    with tempfile.TemporaryDirectory() as folder:
        scripts = Scripts(folder)
        for workload in WORKLOADS:
            if quick and workload.model in ("mlp, large", "resnet"):
                continue
            yield from _ratios(workload, scripts.path(workload), rounds)
        if mx.default_device().type == mx.gpu:
            for workload in ON_A_GPU:
                yield from _ratios(workload, scripts.path(workload), rounds)


def _ratios(workload: Workload, path: str, rounds: int) -> Iterator[Figure]:
    ratios: dict[str, list[float]] = {"cpu": [], "wall": []}
    plain_ms, same = [], True
    for _ in range(rounds):
        plain, expected = timed([*_PLAIN, path])
        ours, printed = timed([*_OURS, *_CONTINUE, path])
        same = same and expected == printed
        warm = workload.steps // 4
        for clock, found in ratios.items():
            found.append(statistics.median(ours[clock][warm:]) / statistics.median(plain[clock][warm:]))
        plain_ms.append(1e3 * statistics.median(plain["cpu"][warm:]))
    note = f"plain {statistics.median(plain_ms):.3g} ms" + ("" if same else "; PRINTS OTHER LINES THAN PLAIN PYTHON")
    yield figure(f"{workload.what}, {workload.name}: cpu", ratios["cpu"], "x", workload.budget, note)
    yield figure(f"{workload.what}, {workload.name}: wall", ratios["wall"], "x")


def memory(quick: bool) -> Iterator[Figure]:
    """What a long run holds beyond what plain Python holds, and what a step of it leaves behind."""
    long = replace(LONG, steps=200, marks=(20, 200)) if quick else LONG
    with tempfile.TemporaryDirectory() as folder:
        path = Scripts(folder).path(long)
        plain, _ = timed([*_PLAIN, path])
        ours, _ = timed([*_OURS, "--history", "10M", *_CONTINUE, path])
    beyond = {}
    for mark in long.marks:
        resident, active = (a - b for a, b in zip(ours["memory"][str(mark)], plain["memory"][str(mark)]))
        beyond[mark] = resident
        yield figure(f"memory beyond plain after {mark} steps: resident", [resident / 1e6], "MB")
        yield figure(f"memory beyond plain after {mark} steps: MLX", [active / 1e6], "MB", 10.0, "--history 10M")
    first, last = long.marks[-2:]
    left = (beyond[last] - beyond[first]) / (last - first) / 1e3
    yield figure(f"memory left behind by a step ({first} to {last})", [left], "kB", _BOOKKEEPING)
    late, early = statistics.median(ours["cpu"][-50:]), statistics.median(ours["cpu"][10:60])
    yield figure("the last steps against the first", [late / early], "x", 1.1, f"{long.steps} steps, --history 10M")
    note = f"plain {1e3 * max(plain['cpu'][10:]):.1f} ms"
    yield figure("longest step: cpu", [1e3 * max(ours["cpu"][10:])], "ms", _PAUSE, note)


def opening(rounds: int, quick: bool) -> Iterator[Figure]:
    """What it costs to look at the loss of an early step and of the last one, after the run."""
    count = 40 if quick else 200
    work = replace(LONG, steps=count, marks=())
    with tempfile.TemporaryDirectory() as folder:
        path = Scripts(folder).path(work)
        for step in (1, count // 2, count):
            look = ("-c", f"goto step {step}", "-c", "list", "-c", "next", "-c", f"goto step {step} backward")
            extra = []
            for _ in range(rounds):
                base = spent([*_OURS, *_CONTINUE, path])
                extra.append(1e3 * (spent([*_OURS, *_CONTINUE, *look, path]) - base))
            yield figure(f"going into step {step} of {count}, four commands", extra, "ms")
        yield from _points(Scripts(folder).path(replace(LARGE, steps=count)), count, rounds)


def _points(path: str, count: int, rounds: int) -> Iterator[Figure]:
    """What opening a step of a larger model costs with restart points and without, and what keeping them costs."""
    look = ("-c", f"goto step {count * 9 // 10}")
    runs: dict[str, list[float]] = {"with": [], "without": []}
    opened: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(rounds):
        for which, history in (("without", ("--history", "1K")), ("with", ())):
            base = spent([*_OURS, *history, *_CONTINUE, path])
            runs[which].append(base)
            opened[which].append(spent([*_OURS, *history, *_CONTINUE, *look, path]) - base)
    for which, found in opened.items():
        shares = [extra / base for extra, base in zip(found, runs[which])]
        yield figure(f"goto step {count * 9 // 10} of {count}, {which} restart points", shares, "runs")
    costs = [ours / plain for ours, plain in zip(runs["with"], runs["without"])]
    yield figure("a run with restart points against one without", costs, "x", 1.02)


def start(rounds: int) -> Iterator[Figure]:
    """From start to prompt, against importing MLX, prompt-toolkit and rich, all of them compiled as pip leaves them."""
    compileall.compile_dir(_ROOT / "nnrepl", quiet=2)
    base = [sys.executable, "-c", "import mlx.nn, prompt_toolkit, rich"]
    ours = [*_OURS, "-c", "quit"]
    spent(base), spent(ours)
    pairs = [(spent(base), spent(ours)) for _ in range(rounds)]
    note = f"imports {1e3 * statistics.median(a for a, _ in pairs):.0f} ms"
    yield figure("start to prompt against its imports: cpu", [b / a for a, b in pairs], "x", 1.5, note)
