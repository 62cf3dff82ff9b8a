"""A step is opened from a restart point: what lies before it runs again without computing anything."""

from __future__ import annotations

import gc
import re
import sys
import weakref
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from nnrepl.record.handing_back import duplicate
from nnrepl.record.recorder import Recorder
from nnrepl.replay import keeping, uncomputed
from nnrepl.replay.keeping import Keeping, Point, thin
from nnrepl.replay.reach import CannotReach, Reach
from nnrepl.replay.uncomputed import Forward, stand_in
from nnrepl.session import reclosing
from nnrepl.session.session import TapeSession
from nnrepl.session.state import RunAgain
from nnrepl.tape import Tape, arrays_of
from nnrepl.tape.native_run import UNKEPT, NativeRun
from nnrepl.timeline.history import OPS, default_budget
from tests.closed.programs import HEAD, PROGRAMS
from tests.closed.test_closed import BITS, QUIET, TOLD, _main, plainly, play
from tests.closed.walks import KINDS, walk

__all__ = ["_main"]

FROM_START = "running every step again from the start"
READS = PROGRAMS["adam"].replace(
    "    opt.update",
    "    if float(loss) < 0.5 and grads['last']['bias'].tolist()[0] > 0: loss = loss + 1\n"
    "    if f'{loss:.1f}'[0] == '0': X = X * mx.abs(model.last.weight).max()\n"
    "    opt.update",
)
IN_A_FUNCTION = "def train():\n" + "".join(f"    {line}\n" for line in PROGRAMS["two"].splitlines()) + "train()\n"
IN_NUMPY = "import numpy as np\n" + PROGRAMS["adam"].replace(
    "    opt.update",
    "    much = np.array(model.first.weight); many = mx.tile(loss, 100).tolist(); many[3] += 1\n"
    "    both = np.asarray([loss, loss * 2])\n"
    "    if both.sum() + many[3] > 2 and much.max() > 0: X = X * float(1 - 0.01 * abs(much[0, 0])) + 0 * both[1]\n"
    "    much *= 0; many.clear()\n"
    "    opt.update",
)
BY_BUFFERS = PROGRAMS["adam"].replace(
    "    opt.update", "    if memoryview(loss)[()] > 0.5: X = X * 0.9\n    opt.update"
)
SUMMED = (
    PROGRAMS["adam"]
    .replace("    opt.update", "    total = total + loss\n    opt.update")
    .replace("for i in", "total = mx.array(0.0)\nfor i in")
    + "print('total', total.item())\n"
)
SAVED = PROGRAMS["adam"].replace("    opt.update", "    mx.save(FILE, loss)\n    opt.update")


@pytest.fixture
def led(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let there be a point at each call; gives how many calls have computed nothing where a point was reached."""
    reached: list[int] = []
    monkeypatch.setattr(keeping, "_SHARE", float("inf"))
    monkeypatch.setattr(keeping, "_MOST", 1000)
    monkeypatch.setattr(keeping, "_PATIENCE", 2)
    arrive: Callable[..., None] = Forward._arrive

    def noted(self: Forward, recorder: Recorder, point: Point) -> None:
        arrive(self, recorder, point)
        reached.append(self.skipped)

    monkeypatch.setattr(Forward, "_arrive", noted)
    monkeypatch.setitem(noted.__globals__, "__name__", "nnrepl.led")  # its frame is none of the program's
    return reached


@pytest.mark.parametrize(
    ("program", "reaches"),
    [
        *[(PROGRAMS[name], True) for name in ("adam", "counted", "iterators", "accumulated", "two", "in_place")],
        (READS, True),
        (IN_A_FUNCTION, True),
        (PROGRAMS["lazy"], True),
        (IN_NUMPY, True),
        (BY_BUFFERS, False),
        (SUMMED, True),
    ],
    ids=["adam", "counted", "iterators", "accumulated", "two", "in place", "reads", "in a function", "lazy",
         "numpy", "buffers", "summed"],
)  # fmt: skip
def test_bits_behind_what_was_not_computed(program: str, reaches: bool, led: list[int], tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + program)
    printed, told = plainly(HEAD + TOLD + program)
    steps = 10 if len(told) % 10 == 0 else 12
    each, order = len(told) // steps, [steps, 4, 8]
    shown = play(file, "continue", *[line for n in order for line in (f"goto step {n}", "until backward", f"p {BITS}")])
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[(step - 1) * each] for step in order]
    assert led or not reaches
    assert (FROM_START not in shown) is reaches
    assert re.sub(r"^(native on|opening .*)\n", "", shown, flags=re.MULTILINE).startswith(printed)


READS_INSIDE = PROGRAMS["adam"].replace("2).mean()", "2).mean() * mx.grad(lambda w: w * max(w.item(), 0.9))(y.mean())")


@pytest.mark.parametrize(
    ("program", "reaches"),
    [(IN_NUMPY, True), (READS_INSIDE, False)],
    ids=["numpy", "reads inside"],
)
def test_bits_behind_what_was_recorded_and_closed(
    program: str, reaches: bool, led: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What a program reads while ops are recorded it is told again, where a run is led through the closed steps."""
    monkeypatch.setattr(reclosing, "OP_BYTES", default_budget() // OPS // 60)
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + program)
    _, told = plainly(HEAD + TOLD + program)
    lines = ("goto step 7", "until backward", f"p {BITS}")
    shown = play(file, "config native off", "continue", "info steps all", *lines)
    assert len(re.findall(r"^ +\d+ +[1-4] ", shown, re.MULTILINE)) >= 3, shown
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[6]]
    assert led or not reaches
    assert (FROM_START not in shown) is reaches, shown


@pytest.mark.parametrize(("kind", "seed"), [("whole", 0), ("batches", 4), ("nested", 1)])
def test_walks_behind_what_was_not_computed(kind: str, seed: int, led: list[int], tmp_path: Path) -> None:
    file, made = tmp_path / "train.py", walk(kind, seed)
    file.write_text(HEAD + KINDS[kind])
    shown = play(file, *made.commands)
    assert [int(found) for found in re.findall(r"\.item\(\) =\s+(\d+)", shown)] == made.numbers
    assert led


def test_an_edit_behind_what_was_not_computed(led: list[int], tmp_path: Path) -> None:
    program, edit = PROGRAMS["adam"], "z = z * 2 if len(told) == 7 else z; seen"
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + program)
    _, told = plainly(HEAD + TOLD + program.replace("seen", edit))
    shown = play(file, "continue", "goto step 8", "until tanh", "step", "z = z * 2",
                 "continue", "goto step 10", "until backward", f"p {BITS}")  # fmt: skip
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[9]]
    assert led
    assert FROM_START not in shown


def test_nothing_is_computed_on_the_way(led: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + PROGRAMS["counted"])
    left: Callable[..., None] = Forward.left
    computed: dict[bool, list[bool]] = {False: [], True: []}

    def looked(self: Forward, result: Any) -> None:
        left(self, result)
        with recorders[0].muted():
            computed[self.skipping] += [keeping.computes(array) for array in arrays_of(result)]

    recorders: list[Recorder] = []
    begins = Forward.begins
    monkeypatch.setattr(Forward, "begins", lambda self, at, n: (recorders.insert(0, at), begins(self, at, n))[1])
    monkeypatch.setattr(Forward, "left", looked)
    cut, cuts = Forward._cut, []
    monkeypatch.setattr(Forward, "_cut", lambda self, at: (cuts.append(self), cut(self, at))[1])
    monkeypatch.setitem(looked.__globals__, "__name__", "nnrepl.looked")
    play(file, "continue", "goto step 12")
    assert len(computed[True]) > 7
    assert not any(computed[True])
    assert computed[False]
    assert all(computed[False])
    assert cuts[0]._needed == [-1, 0, 10, 11, 12]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("if i == 0: again = [[]] if os.path.exists(FILE) else []; open(FILE, 'a').close()", "holds other tensors"),
        ("if i == 4: early.put(loss)", "needs numbers"),
    ],
    ids=["another way", "where nobody looks"],
)
def test_what_does_not_lead_there_is_computed(line: str, said: str, led: list[int], tmp_path: Path) -> None:
    program = "import os\n" + PROGRAMS["adam"].replace("    mx.eval(", f"    {line}\n    mx.eval(")
    program = program.replace("i % 5", "i % 50").replace("2).mean()", "2).mean() * (early.queue[-1] if i == 8 else 1)")
    program = program.replace("for i in", "import queue; early = queue.Queue(); early.put(mx.array(1.0))\nfor i in")
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + program.replace("FILE", repr(str(tmp_path / "mark"))))
    shown = play(file, "continue", "goto step 9", "until backward", f"p {BITS}", "goto step 10")
    _, told = plainly(HEAD + TOLD + program.replace("FILE", repr(str(tmp_path / "other"))))
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[8]]
    assert shown.count(FROM_START) == 1
    assert said in shown


@pytest.mark.parametrize("early", [True, False])
def test_an_interrupt_where_nothing_is_computed(
    early: bool, led: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before the program has set a single variable again, or in the middle of its steps."""
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + PROGRAMS["adam"] + "print('last', loss.item())\n")

    def strike(self: Forward, result: Any) -> None:
        left(self, result)
        if self.skipped == 3 and not struck:
            struck.append(self)
            sessions[0].course.interrupt()

    def begin(self: TapeSession, wish: RunAgain) -> None:
        sessions.append(self)
        begins(self, wish)
        if early and not struck:
            struck.append(self)
            self.course.interrupt()

    sessions: list[TapeSession] = []
    struck: list[object] = []
    left, begins = Forward.left, TapeSession.begin_again
    monkeypatch.setattr(TapeSession, "begin_again", begin)
    monkeypatch.setattr(Forward, "left", strike)
    shown = play(file, "continue", "goto step 9", "p i", "p loss.item()", "goto step 5", "until backward", f"p {BITS}")
    last = re.findall(r"last (\S+)", shown)[0]
    assert struck
    assert "interrupted; everything is as it was" in shown
    assert re.findall(r"loss\.item\(\) =\s+(\S+)", shown)[0] == last
    _, told = plainly(HEAD + TOLD + PROGRAMS["adam"])
    assert re.findall(r"sum\(\)\.item\(\) =\s+(\d+)", shown) == [told[4]]
    assert re.findall(r"\bi = (\d+)$", shown, re.MULTILINE) == [str(len(told) - 1)]


def test_the_op_ahead_keeps_its_name_when_an_opening_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The program was stopped where it makes it: no variable has got it yet, and none ever will."""
    file, begins = tmp_path / "train.py", TapeSession.begin_again
    drawn = "    noise = mx.random.normal((4, 8))\n    loss, "
    file.write_text(HEAD + QUIET + PROGRAMS["adam"].replace("    loss, ", drawn))

    def begin(self: TapeSession, wish: RunAgain) -> None:
        begins(self, wish)
        self.course.interrupt()

    monkeypatch.setattr(TapeSession, "begin_again", begin)
    shown = play(file, "goto step 4", "goto step 2", "ops").partition("interrupted; everything is as it was")[2]
    assert re.search(r"▶ #1 .*→  noise \(4, 8\)", shown), shown


def test_a_file_that_is_there_is_not_written_again(led: list[int], tmp_path: Path) -> None:
    file, out = tmp_path / "train.py", tmp_path / "loss.npy"
    file.write_text(HEAD + QUIET + SAVED.replace("FILE", repr(str(out))) + "print('last', loss.item())\n")
    shown = play(file, "continue", "goto step 12", "goto step 6", f"p mx.load({str(out)!r}).item()")
    assert FROM_START not in shown
    assert "writes its files again" not in shown
    assert led
    last = re.findall(r"last (\S+)", shown)[0]
    assert mx.load(str(out)).item() == float(last)
    assert shown.endswith(f"{last}\n")


def test_a_file_in_a_folder_of_a_random_name_is_as_the_last_step_left_it(tmp_path: Path) -> None:
    """Each run has a folder of its own: what an earlier step has left there is not what the run before has left."""
    file = tmp_path / "train.py"
    program = f"import os, tempfile\nout = os.path.join(tempfile.mkdtemp(dir={str(tmp_path)!r}), 'loss.npy')\n"
    file.write_text(HEAD + QUIET + program + SAVED.replace("FILE", "out") + "print('last', loss.item())\n")
    shown = play(file, "continue", "goto step 12", "goto step 6", "goto end", "p loss.item()")
    last = float(re.findall(r"last (\S+)", shown)[0])
    written = list(tmp_path.glob("*/loss.npy"))
    assert len(written) > 1
    assert [mx.load(str(out)).item() for out in written] == [last] * len(written)


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ("mx.save(FILE, loss); os.remove(FILE)", "writes a file"),
        ("with open(FILE, 'wb') as out: mx.save(out, loss)", "writes a file"),
        ("mx.save(FILE, loss); X = X + 0 * mx.load(FILE)", "writes a file"),
    ],
    ids=["gone", "open", "read back"],
)
def test_a_file_is_not_written_without_numbers(instead: str, said: str, led: list[int], tmp_path: Path) -> None:
    program = "import os\n" + SAVED.replace("mx.save(FILE, loss)", instead)
    file, out = tmp_path / "train.py", tmp_path / "loss.npy"
    file.write_text(HEAD + QUIET + program.replace("FILE", repr(str(out))))
    shown = play(file, "continue", "goto step 6", "until backward", f"p {BITS}")
    _, told = plainly(HEAD + TOLD + program.replace("FILE", repr(str(tmp_path / "other.npy"))))
    assert f"{FROM_START}: the program {said}" in shown
    assert re.findall(r"sum\(\)\.item\(\) =\s+(\d+)", shown) == [told[5]]


def test_what_is_new_is_written(led: list[int], tmp_path: Path) -> None:
    file, out = tmp_path / "train.py", tmp_path / "loss.npy"
    file.write_text(HEAD + QUIET + SAVED.replace("FILE", repr(str(out))) + "print('last', loss.item())\n")
    shown = play(file, "goto step 8", "goto step 4", "continue")
    assert float(re.findall(r"last (\S+)", shown)[0]) == mx.load(str(out)).item()


def test_a_stand_in_gives_no_number() -> None:
    array = mx.ones((2, 3))
    stand_in(array)
    assert array.shape == (2, 3)
    for look in (mx.eval, mx.async_eval, str, memoryview, lambda a: (a + 1).tolist(), lambda a: bool(a.sum())):
        with pytest.raises(RuntimeError, match=uncomputed._WITHOUT_NUMBERS):
            look(array)


@pytest.mark.parametrize(
    "array",
    [
        mx.arange(6, dtype=mx.float32).reshape(2, 3).T, mx.array([1.0, -0.0, float("nan")]), mx.array([True, False]),
        mx.arange(4).astype(mx.bfloat16), mx.array(3, dtype=mx.uint8), mx.array([1 + 2j]), mx.zeros((0, 2)),
        mx.broadcast_to(mx.array([1.0, 2.0]), (3, 2)),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)  # fmt: skip
def test_a_copy_has_the_same_bits_and_layout(array: mx.array) -> None:
    mx.eval(array)
    twin = duplicate(array)
    mx.eval(twin)
    assert twin.dtype == array.dtype
    assert memoryview(twin).strides == memoryview(array).strides
    assert memoryview(twin).tobytes() == memoryview(array).tobytes()


def test_what_changes_is_copied_and_what_stays_is_held() -> None:
    stays, changes = mx.ones((500_000,)), mx.ones((250_000,))
    mx.eval(stays, changes)
    keeping_, reach = Keeping(), Reach.__new__(Reach)
    reach.arrays, reach.kinds = [stays, changes], 0
    keeping_._known = {id(stays): weakref.ref(stays)}
    gc.collect()  # what others have left does not go meanwhile
    before = mx.get_active_memory()
    point = keeping_._keep(3, reach)
    assert point.nbytes == changes.nbytes
    assert changes.nbytes <= mx.get_active_memory() - before < stays.nbytes
    assert point.fits(reach)


def test_points_are_thinned_in_bulk() -> None:
    kept: Any = NativeRun()
    for number in range(1, 200):
        point: Any = Point.__new__(Point)
        point.number, point.nbytes = number, 10
        kept.points.append(point)
        thin(kept, 150)
        numbers = [point.number for point in kept.points]
        assert sum(point.nbytes for point in kept.points) <= 150
        assert numbers[-2:] == [number - 1, number] or number == 1
    assert numbers[0] < 60
    assert max(b - a for a, b in pairwise(numbers)) < 80


def test_what_is_reached_has_one_order() -> None:
    recorder = Recorder(Tape(None), strict=False)  # type: ignore[arg-type]
    recorder.stack.base = sys._getframe()
    program: dict[str, Any] = {"__name__": "program", "mx": mx, "Reach": partial(Reach, recorder)}
    source = 'box = {"b": [mx.zeros(2), (mx.zeros(3), {"c": mx.zeros(4)})], "turn": iter([mx.zeros(5)])}\n'
    exec(source + "def walk():\n    here = mx.zeros(6)\n    return Reach()", program)
    first, second = program["walk"](), program["walk"]()
    assert first.kinds == second.kinds
    assert [array.size for array in first.arrays[1:]] == [6, 2, 3, 5, 4]
    program["box"]["more"] = [object()]
    assert program["walk"]().kinds != first.kinds
    program["box"]["more"] = {mx.zeros(1)}
    with pytest.raises(CannotReach):
        program["walk"]()


def test_answers_are_kept_where_they_are_small() -> None:
    kept = NativeRun()
    kept.tell("array.item", 1.0)
    kept.begins(4)
    kept.room, given = 9000, [1, [2, 3]]
    for answer in (1.5, given, list(range(1000)), "x" * 9000, object()):
        kept.tell("read", answer)
    given.clear()
    read = [1.5, [1, [2, 3]], list(range(1000)), UNKEPT, UNKEPT]
    assert kept.told(4) == [("read", answer) for answer in read]
    assert kept.before(4).told(4) == ()
    made: Any = kept
    made.points = [SimpleNamespace(number=number) for number in (2, 3, 4)]
    assert [point.number for point in kept.before(4).points] == [2, 3]
    assert kept.before(5).told(4) == kept.told(4)
