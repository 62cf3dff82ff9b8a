"""Random walks through time: step, back, goto, set, undo, redo, timeline, until. After each, everything that can
be seen is what plain MLX computes in a program into which the changes are written."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import pytest

from tests.support import nnrepl_cli
from tests.thorough import share

STEPS: list[tuple[str, Callable[[mx.array, mx.array], mx.array]]] = [
    ("mx.tanh({a} + {b})", lambda a, b: mx.tanh(a + b)),
    ("mx.sin({a}) * {b}", lambda a, b: mx.sin(a) * b),
    ("mx.maximum({a}, 0) - {b}", lambda a, b: mx.maximum(a, 0) - b),
    ("({a} @ {b}.T) @ {a} * 0.1", lambda a, b: (a @ b.T) @ a * 0.1),
    ("{a} - {b}.mean(axis=0)", lambda a, b: a - b.mean(axis=0)),
]
PASSES = 3


@dataclass(frozen=True)
class Change:
    """`name` times `factor`, before step `step` of pass `number` runs."""

    number: int
    step: int
    name: str
    factor: float

    @property
    def place(self) -> tuple[int, int]:
        """Where it takes effect: w enters with its pass."""
        return self.number, 0 if self.name == "w" else self.step


@dataclass
class Program:
    """A straight line of steps in a training loop, as text and as a function of the changes."""

    seed: int
    plan: list[tuple[int, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        chance = random.Random(self.seed)
        names = ["w", "x"]
        for number in range(chance.randint(3, 6)):
            kind, a, b = chance.randrange(len(STEPS)), chance.choice(names), chance.choice(names)
            self.plan.append((kind, a, b))
            names.append(f"v{number}")

    @property
    def text(self) -> str:
        body = [f"    v{k} = {STEPS[kind][0].format(a=a, b=b)}" for k, (kind, a, b) in enumerate(self.plan)]
        last = len(self.plan) - 1
        return "\n".join(
            [
                "import mlx.core as mx",
                "mx.random.seed(5)",
                "w = mx.random.normal((3, 3))",
                "x = mx.random.normal((3, 3))",
                "def f(w, x):",
                *body,
                f"    loss = (v{last} * w).mean()",
                "    return loss",
                f"for i in range({PASSES}):",
                "    loss, g = mx.value_and_grad(f)(w, x)",
                "    w = w - 0.5 * g",
                "    print('pass', i, loss.item())",
            ]
        )

    def run(self, changes: list[Change]) -> list[dict[str, mx.array]]:
        """What each pass holds at its end: every name, the loss, and the gradient of w."""
        mx.random.seed(5)
        w, x = mx.random.normal((3, 3)), mx.random.normal((3, 3))
        seen: list[dict[str, mx.array]] = []
        for number in range(PASSES):
            here = [change for change in changes if change.number == number]
            for change in here:
                if change.name == "w":
                    w = w * change.factor
            held: dict[str, mx.array] = {}

            def f(w: mx.array, x: mx.array, here: list[Change] = here, held: dict[str, mx.array] = held) -> mx.array:
                values = {"w": w, "x": x}
                for k in range(len(self.plan) + 1):
                    for change in here:
                        if change.step == k and change.name != "w":
                            values[change.name] = values[change.name] * change.factor
                    if k < len(self.plan):
                        kind, a, b = self.plan[k]
                        values[f"v{k}"] = STEPS[kind][1](values[a], values[b])
                held.update(values)
                return (values[f"v{len(self.plan) - 1}"] * w).mean()

            loss, g = mx.value_and_grad(f)(w, x)
            plain: dict[str, mx.array] = {}
            f(w, x, here, plain)
            seen.append({**plain, "x": x, "loss": loss, "grad(w)": g})  # x is a variable of the call's own
            w = w - 0.5 * g
        return seen


def walk(program: Program, chance: random.Random, length: int) -> tuple[list[str], list[str]]:
    """Commands, and what they must print."""
    timelines: list[list[Change]] = [[]]
    parents = [0]
    now, undone = 0, []
    commands, expected = [], []
    for _ in range(length):
        number = chance.randrange(PASSES)
        kind = chance.choice(["set", "set", "set", "undo", "redo", "timeline", "look", "wander"])
        if kind == "set":
            step = chance.randint(0, len(program.plan) - 1)
            name = chance.choice(["w", "x", *(f"v{k}" for k in range(step))])
            factor = chance.choice([0.5, 2.0, -1.0, 3.0])
            commands.append(f"goto pass {2 * number + 1}")  # an update is a pass too
            if step:
                commands.append(f"until program.py:{6 + step}")
            commands.append(f"{name} = {name} * {factor}")
            change = Change(number, step, name, factor)
            timelines.append([*(c for c in timelines[now] if c.place <= change.place), change])
            parents.append(now)
            now, undone = len(timelines) - 1, []
        elif kind == "undo" and now:
            undone.append(now)
            now = parents[now]
            commands.append("undo")
        elif kind == "redo" and undone:
            now = undone.pop()
            commands.append("redo")
        elif kind == "timeline":
            now, undone = chance.randrange(len(timelines)), []
            commands.append(f"timeline {now + 1}")
        elif kind == "wander":
            commands.append(chance.choice(["back 3", "rewind", "rn", "goto start"]))
        if chance.random() < 0.4:
            continue  # the next change comes at once
        commands += [f"goto pass {2 * number + 1}", "until update"]
        found = program.run(timelines[now])[number]
        for name in (f"v{len(program.plan) - 1}", "loss", "grad(w)", "w", "x"):
            commands.append(f"{name}.tolist()")
            expected.append(str(found[name].tolist()))
    return commands, expected


@pytest.mark.parametrize("seed", range(share(6, 3)))
def test_random_walk(seed: int, tmp_path: Path) -> None:
    program = Program(seed)
    path = tmp_path / "program.py"
    path.write_text(program.text)
    commands, expected = walk(program, random.Random(seed), 14)
    script = tmp_path / "walk.txt"
    script.write_text("\n".join(["config peek 0", *commands, "quit"]))
    result = nnrepl_cli("--plain", "-x", str(script), str(path), env={"COLUMNS": "10000"})
    lines = result.stdout.splitlines()
    found = [lines[at + 1] for at, line in enumerate(lines) if line.endswith(".tolist()")]
    assert found == expected, result.stdout
