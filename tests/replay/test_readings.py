"""What a program reads from outside: its clocks and the system's random numbers are read again as they were."""

from __future__ import annotations

import os
import random
import re
import secrets
import threading
import time
import uuid
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnrepl.replay.readings import Readings, mark, rewind
from tests.support import nnrepl_cli

PROGRAM = """
import random, time, uuid
from time import perf_counter
import numpy as np
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim

mx.random.seed(int(time.time() * 1000) % 1000)
rng, dice, name = np.random.default_rng(), random.Random(), uuid.uuid4().hex
model, opt = nn.Linear(2, 4), optim.SGD(0.1)


def loss_fn(x):
    return (model(x) ** 2).mean() * dice.random()


learn, speeds = nn.value_and_grad(model, loss_fn), []
for i in range(6):
    tic = perf_counter()
    batch = rng.normal(size=(4, 2)) + np.random.rand() * random.random()
    loss, grads = learn(mx.array(batch.astype(np.float32)))
    opt.update(model, grads)
    mx.eval(model.parameters(), loss)
    speeds.append(4 / (perf_counter() - tic))
    print(f"turn {i} {loss.item()} {mx.mean(mx.array(speeds)).item()} {name}")
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_program_with_a_clock_and_without_a_seed_is_edited(native: str, tmp_path: Path) -> None:
    """Nothing in its source tells what it draws: the run again for an edit must read what the first one read."""
    (tmp_path / "train.py").write_text(PROGRAM)
    lines = (
        f"config native {native}", "continue", "goto step 3 update", "model.bias = model.bias * 1", "continue",
        "goto step 4 update", "model.bias = model.bias + 1", "continue", "quit",
    )  # fmt: skip
    shown = nnrepl_cli("train.py", stdin="\n".join(lines), cwd=tmp_path).stdout
    assert "does not do the same" not in shown, shown
    assert "timeline 3" in shown
    printed = [row.split() for row in re.findall(r"^turn \d .*", shown, re.MULTILINE)]
    assert [row[1] for row in printed] == list("012345345"), shown  # what changes nothing prints nothing new
    assert len({row[-1] for row in printed}) == 1
    first, edited = printed[4:6], printed[7:]
    assert [row[3] for row in first] == [row[3] for row in edited], "the clock of an edited run is that of the first"
    assert [row[2] for row in first] != [row[2] for row in edited]


class Dated(datetime):
    """A kind of date of the program's own."""


def read() -> tuple[Any, ...]:
    """All that a program may read."""
    return (
        time.time(), time.time_ns(), time.perf_counter(), time.monotonic(), time.localtime(), time.strftime("%H:%M:%S"),
        os.urandom(8), secrets.randbits(64), uuid.uuid4(), random.Random().random(),
        float(np.random.default_rng().normal()), float(np.random.RandomState().normal()),
        datetime.now(), datetime.now(UTC), datetime.now(tz=UTC), Dated.now(), datetime.today(),
        date.today(), type(Dated.now()) is Dated,
    )  # fmt: skip


def test_what_was_read_is_read_again_and_then_goes_on() -> None:
    readings = Readings()
    with readings.watching(lambda: True):
        first = [read() for _ in range(3)]
        readings.begin(anew=False)
        again = [read() for _ in range(3)]
        later = read()
        readings.begin(anew=True)
        anew = read()
    assert again == first
    assert len({*first, later}) == 4
    for at in range(4):  # the clocks go on from where they were, and never back
        assert first[-1][at] < later[at] < first[-1][at] + 60 * (10**9 if isinstance(later[at], int) else 1)
    assert anew[6:] != first[0][6:]
    assert not hasattr(time.perf_counter, "__wrapped__")


def test_a_clock_is_no_method() -> None:
    """A class that has one as an attribute, as logging's formatters do, calls it with what it gives it and no more."""
    with Readings().watching(lambda: True):
        kept = type("Kept", (), {"now": time.time, "then": time.localtime, "draw": os.urandom})()
        assert kept.now() <= time.time()
        assert kept.then(0)[0] in (1969, 1970)
        assert len(kept.draw(3)) == 3
        assert repr(kept.now) == "<built-in function time>"
    assert kept.now() <= time.time()


def test_a_mark_is_where_a_pass_runs_again_from() -> None:
    readings = Readings()
    with readings.watching(lambda: True):
        before = time.perf_counter()
        here = mark()
        first = time.perf_counter(), os.urandom(4)
        rewind(here)
        assert (time.perf_counter(), os.urandom(4)) != first  # another line draws for itself
        rewind(here)
        assert time.perf_counter() == first[0] > before
    assert mark() == {}
    rewind(here)  # where no program runs nothing is read again


def test_what_nnrepl_a_library_and_another_thread_read_is_their_own() -> None:
    readings, runs = Readings(), True
    drawn: list[bytes] = []

    def draw() -> None:
        drawn.append(os.urandom(8))

    with readings.watching(lambda: runs):
        given = time.localtime(0), time.strftime("%Y", time.gmtime(0)), random.Random(3).random()
        draw()
        for _ in range(2):
            readings.begin(anew=False)
            thread = threading.Thread(target=draw)
            thread.start()
            thread.join()
        runs = False
        draw()
        runs = True
        draw()
        assert given == (time.localtime(0), "1970", random.Random(3).random())
    assert len(set(drawn)) == 4
    assert drawn[0] == drawn[-1]
