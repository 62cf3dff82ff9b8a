"""Steps that ran natively are opened to the bits of plain MLX, wherever and in whatever order somebody looks."""

from __future__ import annotations

import contextlib
import io
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mlx.core as mx
import pytest

from nnrepl.cli import main
from tests.closed.programs import HEAD, PROGRAMS

TOLD = """
told = []
def seen(z): told.append(mx.stop_gradient(z))
"""
QUIET = "def seen(z): pass\n"
BITS = "mx.view(z.astype(mx.float32), mx.uint32).astype(mx.uint64).sum().item()"


@pytest.fixture(autouse=True)
def _main() -> Iterator[None]:
    """`__main__`, `sys.argv` and `sys.path` afterwards as they were."""
    before, argv, path = sys.modules["__main__"], sys.argv, list(sys.path)
    yield
    sys.modules["__main__"], sys.argv, sys.path[:] = before, argv, path


def captured(*arguments: str) -> str:
    """What nnrepl prints, run in this process."""
    raw = io.BytesIO()
    raw.name = "<captured>"  # type: ignore[attr-defined]  # as that of a real stream
    out = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        main(list(arguments))
    out.seek(0)
    return out.read()


def play(file: Path, *lines: str) -> str:
    """What nnrepl prints for some commands on a script that runs natively."""
    commands = [part for line in ("config native on", *lines) for part in ("-c", line)]
    return captured("--batch", *commands, str(file))


def plainly(text: str) -> tuple[str, list[str]]:
    """What a script prints under plain Python, and the bits of what it shows to `seen`, one after another."""
    module = ModuleType("__main__")
    out = io.StringIO()
    mx.random.seed(0)
    with contextlib.redirect_stdout(out):
        exec(compile(text, "plain.py", "exec"), module.__dict__)
    return out.getvalue(), [str(eval(BITS, {"mx": mx, "z": z})) for z in module.__dict__["told"]]


@pytest.mark.parametrize("name", PROGRAMS)
def test_opened_steps_are_plain_ones(name: str, tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + PROGRAMS[name])
    printed, told = plainly(HEAD + TOLD + PROGRAMS[name])
    steps = 12 if len(told) == 12 else 10
    each = len(told) // steps
    order = [*range(1, steps + 1 - 3 * (name == "many_styles"))]  # plain MLX does not repeat its last bits further on
    random.Random(name).shuffle(order)
    lines = [line for step in order[:6] for line in (f"goto step {step}", "until backward", f"p {BITS}")]
    shown = play(file, "continue", *lines)
    found = re.findall(r"\.item\(\) = (\d+)", shown)
    assert found == [told[(step - 1) * each] for step in order[:6]]
    shown = re.sub(r"^(native on|opening .*)\n", "", shown, flags=re.MULTILINE)
    assert shown.startswith(printed)
    assert play(file, "continue").replace("native on\n", "", 1) == printed
