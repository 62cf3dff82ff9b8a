"""`python -m tests.bench`: what nnrepl costs, against plain MLX, interleaved in one run.

CPU time of all threads (user and system) with quartiles, wall time beside it: training scripts through the command
line as users run them, eager and compiled, with Adam; memory after 20, 200 and 2,000 steps; recording an op; motions
on tapes of up to a million ops; questions over a whole pass; the start. Where DESIGN.md gives a budget it stands beside
the figure, met or not.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx

from nnrepl._version import VERSION
from tests.bench import asking, figures, running, tapes
from tests.bench.figures import Figure
from tests.bench.timing import yardstick

Section = Callable[[], Iterator[Figure]]


def sections(rounds: int, quick: bool) -> dict[str, Section]:
    """What is measured, by the name that `--only` takes."""
    return {
        "steps": lambda: running.steps(rounds, quick),
        "memory": lambda: running.memory(quick),
        "opening": lambda: running.opening(rounds, quick),
        "ops": lambda: tapes.op_costs(3 * rounds),
        "bindings": lambda: tapes.bindings_cost(3 * rounds),
        "gradients": lambda: tapes.whole_step(3 * rounds),
        "bytes": lambda: tapes.bytes_kept(quick),
        "pauses": lambda: tapes.pauses(quick),
        "motions": lambda: tapes.motions(quick),
        "typing": lambda: tapes.typing(quick),
        "questions": lambda: asking.questions(quick),
        "start": lambda: running.start(2 * rounds),
    }


def parser(names: list[str]) -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    made.add_argument("--quick", action="store_true", help="end in about a minute: fewer rounds, shorter tapes")
    made.add_argument("--only", choices=names, action="append", help="measure only this; can be given again")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    made.add_argument("--against", type=Path, metavar="FILE", help="say what became slower since FILE was written")
    return made


def measure(chosen: dict[str, Section], rounds: int) -> Iterator[Figure]:
    """All figures; each is printed as soon as it is there."""
    for name, section in chosen.items():
        print(f"\n{name}", flush=True)
        for found in section():
            print(f"  {figures.row(found)}", flush=True)
            yield found
    yield figures.figure(figures.YARDSTICK, [1e6 * yardstick() for _ in range(rounds)], "µs", None, "a plain op")


def main() -> None:
    """Measure, print, write, compare."""
    names = list(sections(1, True))
    options = parser(names).parse_args()
    rounds = 1 if options.quick else 5
    earlier = figures.load(options.against) if options.against else None
    everything = sections(rounds, options.quick)
    if options.quick and not options.only:
        options.only = ["steps", "memory", "ops", "bytes", "pauses", "motions", "questions", "start"]
    facts = {"version": VERSION, "python": platform.python_version(), "machine": platform.platform()}
    facts |= {"device": str(mx.default_device()), "quick": str(options.quick)}
    print(" · ".join(f"{name} {value}" for name, value in facts.items()))
    found = list(measure({name: everything[name] for name in options.only or names}, rounds + 2))
    missed = [one for one in found if one.verdict == "NOT met"]
    print(f"\nbudgets: {sum(one.verdict == 'met' for one in found)} met, {len(missed)} not")
    if options.json:
        figures.save(options.json, found, facts)
    if earlier is not None:
        print(f"\nagainst {options.against} ({', '.join(earlier[0].values())})")
        print("\n".join(f"  {line}" for line in figures.compare(earlier[1], found)))


if __name__ == "__main__":
    main()
