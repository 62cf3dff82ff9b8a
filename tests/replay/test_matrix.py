"""The matrix: features of programs, alone and together, by places of an edit, against twins in which it is written.

A program is a training loop (by hand, of a model, compiled, accumulated ...) around one to three features, which
stand in `features/*.txt`: each is a function `f(h, w)` of a (4, 3) tensor and a (3, 3) parameter, written as in a
program. A line with `#@` is a place: there a change is typed, of `h` or of the names after it, in one of the steps
(`#@@`: the block runs twice, and both runs have the line). The twin is plain Python with that line in it, once.
Loss, every gradient and all parameters are compared to the last bit, before and after anything was evaluated.

`python -m tests.replay.test_matrix FROM TO [FEATURE,...]` runs more of them, and prints what disagrees.
"""

from __future__ import annotations

import contextlib
import functools
import io
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.replay.loops import HEAD, LOOPS, OPTIMIZERS
from tests.support import nnrepl_cli
from tests.thorough import share

HERE = Path(__file__).parent
CHANGES = [
    "{n} = {n} * 1", "{n} = {n} * 2", "{n} = mx.stop_gradient({n})", "{n} = mx.where({n} > 0, {n}, 0 * {n})",
    "{n}[0] = 1", "{n} *= 3", "{n}[..., 0] *= 2",
]  # fmt: skip
DATA = re.compile(r"^(?:\(nnrepl[ \d]*\) )*((?:LOSS|GRAD|PARAMS|EMA|U) .*)$", re.MULTILINE)
UNCOMPILED = (
    "while branch walrus tolist early numpy print moe random counter iterator cycle dataclass_state try_finally keys "
    "global_kv class_ closure deque default dropout compiled send"
).split()
"""Features that a compiled loop freezes, or that it does not allow."""


def _features() -> dict[str, str]:
    texts = [path.read_text() for path in sorted((HERE / "features").glob("*.txt"))]
    parts = re.split(r"^== (\w+)\n", "".join(texts), flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], parts[1::2]))
    if sys.version_info >= (3, 14):
        del found["itertools_cycle"]  # Python copies it no more, so a change after it is refused
    return found


FEATURES = _features()


@dataclass(frozen=True)
class Change:
    """A line that is typed before line `line` of the program in step `step`, in each of its runs if it is `twice`."""

    line: int
    text: str
    step: int
    twice: bool


class Program:
    """A program of the matrix: `text`, and changes that can be made in it."""

    def __init__(self, seed: int, names: list[str] | None = None) -> None:
        chance = random.Random(seed)
        self.names = names or chance.sample(sorted(FEATURES), chance.choice([1, 2, 2, 3]))
        loops = [loop for loop in LOOPS if loop != "compiled" or not self._is_uncompiled()]
        self.loop = chance.choice(sorted(loops))
        features, calls = "", []
        for number, name in enumerate(self.names):
            features += re.sub(r"\b(\w+_)?f\b", rf"\1f{number}", FEATURES[name])
            calls += ["h = h + 0  #@", f"h = f{number}(h, {{w}})", "h = mx.clip(h, -4, 4)  #@"]
        loop = LOOPS[self.loop].replace("<optimizer>", chance.choice(OPTIMIZERS))
        body = re.sub(r"( *)<calls (.*)>", lambda found: _indented(calls, found[1], found[2]), loop)
        self.text = HEAD.replace("<seed>", str(seed)).replace("<features>", features) + body
        self.changes = list(dict.fromkeys(self._change(chance) for _ in range(5)))

    def _is_uncompiled(self) -> bool:
        return any(word in name for name in self.names for word in UNCOMPILED)

    def _change(self, chance: random.Random) -> Change:
        lines = self.text.split("\n")
        line = chance.choice([at for at, text in enumerate(lines) if "#@" in text])
        marks, _, names = lines[line].partition("#@")[2].partition(" ")
        name = chance.choice(names.split() or ["h"])
        return Change(line + 1, chance.choice(CHANGES).format(n=name), chance.randrange(3), marks == "@")

    def plain(self, change: Change | None = None) -> list[str]:
        """What it prints under plain Python, uncompiled, with the change written in."""
        lines = self.text.split("\n")
        if change is not None:
            old = lines[change.line - 1]
            margin = old[: len(old) - len(old.lstrip())]
            lines.insert(change.line - 1, f"{margin}if at({change.step}, {change.twice}): {change.text}")
        printed = io.StringIO()
        with _uncompiled(), contextlib.redirect_stdout(printed):
            exec(compile("\n".join(lines), "<twin>", "exec"), {"__name__": "__main__"})
        return DATA.findall(printed.getvalue())

    def disagreements(self, folder: Path, evaluated: bool) -> Iterator[str]:
        """What nnrepl prints otherwise than the twins, with each change made and then left behind."""
        path = folder / "matrix.py"
        path.write_text(self.text)
        lines = ["config peek 4096" if evaluated else "config peek 0", "c"]
        for number, change in enumerate(self.changes):
            there = [f"goto step {change.step + 1}", "back", f"until matrix.py:{change.line}"]
            lines += [f'"AT {number}"', "timeline 1", *there, change.text, f'"THEN {number}"', "c", f'"END {number}"']
        shown = nnrepl_cli("--plain", str(path), stdin="\n".join([*lines, "q\n"])).stdout
        plain = self.plain()
        if DATA.findall(shown.split("'AT 0'")[0]) != plain:
            yield f"without a change: {shown[:2000]}"
        for number, change in enumerate(self.changes):
            said = shown.split(f"'AT {number}'")[1].split(f"'END {number}'")[0]
            found, expected = DATA.findall(said), self.plain(change)
            if "no op is at" in said or "is not made yet in this call" in said:
                continue  # this line makes no op in that step, or not with this name
            if re.search(r" · in \w+ of ", said):
                continue  # inside of a nested transform nothing can be changed
            new = set(expected) - set(plain)
            if "timeline" not in said.split("until", 1)[-1].split("'THEN")[0]:
                yield f"{change}: refused: {said}"
            elif found != expected[len(expected) - len(found) :] or new - set(found):
                yield f"{change}: {said}\nexpected {expected}"


def _indented(calls: list[str], margin: str, w: str) -> str:
    return "\n".join(margin + call.replace("{w}", w) for call in calls)


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    before: Any = mx.compile

    def as_it_is(function: Any = None, **_: Any) -> Any:
        return functools.partial(as_it_is) if function is None else function

    mx.compile = as_it_is
    try:
        yield
    finally:
        mx.compile = before


@pytest.mark.parametrize("seed", range(share(4, 2)))
def test_a_sample(seed: int, tmp_path: Path) -> None:
    program = Program(seed)
    assert not list(program.disagreements(tmp_path, evaluated=seed % 2 == 0)), program.names


KINDS = [
    "copied_alias", "noop_alias,scatter", "branch_scalar,numpy_inside", "checkpoint_args,aliasing", "tied,vmap_closure",
    "vmap_closure", "integers",
]  # fmt: skip


@pytest.mark.parametrize("names", KINDS)
def test_kinds_that_were_wrong(names: str, tmp_path: Path) -> None:
    program = Program(len(names), names.split(","))
    assert not list(program.disagreements(tmp_path, evaluated=False)), program.text


def main(first: str, last: str, names: str = "") -> None:
    """Run many."""
    for seed in range(int(first), int(last)):
        program = Program(seed, names.split(",") if names else None)
        with tempfile.TemporaryDirectory() as folder:
            for said in program.disagreements(Path(folder), evaluated=seed % 2 == 0):
                print(f"--- {seed} {program.loop} {program.names}: {said}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
