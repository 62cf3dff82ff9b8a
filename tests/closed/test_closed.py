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
from nnrepl.record.by_hand import HandChanges, Weights
from nnrepl.record.closed_losses import ClosedLosses
from nnrepl.session.closed import closed_said
from nnrepl.tape import GRADIENT_PASS, ClosedOp, Pass, Tape
from tests.closed.programs import ARRAYS, BY_HAND, COMPILED, HEAD, PROGRAMS, SUMMED
from tests.closed.walks import KINDS, walk
from tests.support import script_python
from tests.thorough import share

TOLD = """
told = []
def seen(z): told.append(mx.stop_gradient(z))
"""
QUIET = "def seen(z): pass\n"
BITS = "mx.view(z.astype(mx.float32), mx.uint32).astype(mx.uint64).sum().item()"


@pytest.fixture(autouse=True)
def _main(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`__main__`, `sys.argv` and `sys.path` afterwards as they were; nothing to read from standard input."""
    before, argv, path = sys.modules["__main__"], sys.argv, list(sys.path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
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
    order = order[: share(4, 2)]
    lines = [line for step in order for line in (f"goto step {step}", "until backward", f"p {BITS}")]
    shown = play(file, "continue", "p 'and no more'", *lines)
    found = re.findall(r"\.item\(\) =\s+(\d+)", shown)
    assert found == [told[(step - 1) * each] for step in order]
    assert shown.startswith(f"native on\n{printed}'and no more'\n")


TELLING = (
    ("return self.last(z)", "self.z = z; return self.last(z)"),
    (
        "return ((model(x) - y) ** 2).mean()",
        "\n    found = ((model(x) - y) ** 2).mean(); z = model.z; del model.z; return found, z",
    ),
    ("    loss, grads = learn", "    (loss, z), grads = learn"),
    ("    return loss\n", "    return loss, z\n"),
    ("    loss = step(X[:many], Y[:many])\n", "    loss, z = step(X[:many], Y[:many]); mx.eval(z); told.append(z)\n"),
)  # fmt: skip
"""What makes a compiled step tell what z is: plain MLX must return it."""


@pytest.mark.parametrize("frozen", [False, True], ids=["state captured", "mask frozen"])
def test_compiled_steps_are_opened_in_the_state_that_was_traced(frozen: bool, tmp_path: Path) -> None:
    program = HEAD + (COMPILED.replace(", mx.random.state]", "]") if frozen else COMPILED)
    (tmp_path / "train.py").write_text(program)
    telling = "told = []\n" + program
    for old, new in TELLING:
        assert old in telling
        telling = telling.replace(old, new)
    printed, told = plainly(telling)
    order = [7, 12, 3, 4, 9]
    lines = [line for step in order for line in (f"goto step {step}", "until backward", f"p {BITS}")]
    shown = play(tmp_path / "train.py", "continue", "info steps all", *lines)
    assert re.findall(r"\.item\(\) =\s+(\d+)", shown) == [told[step - 1] for step in order]
    assert shown.startswith("native on\n" + printed)
    place = (
        f"train.py:{program[: program.index('loss, grads = learn(')].count(chr(10)) + 1}"  # as if it were not compiled
    )
    ops = [line.split()[1] for line in shown.splitlines() if place in line]
    assert ops.count("2") >= 6  # closed they were, but for those in which MLX traces it


def test_an_update_by_hand_is_never_missed(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + PROGRAMS["many_styles"])
    shown = play(file, "continue", "info steps all")
    steps = re.findall(r"^(?:▶|  )\s+\d+ +(\d+) +1 +(\w+)", shown, re.MULTILINE)
    assert [how for _, how in steps] == ["Adam"] * 4 + ["by"] * 4 + ["Adam"] * 4
    assert [ops == "2" for ops, _ in steps] == [False, True, True, False] + [False] * 8 or steps[3][0] == "2"


@pytest.mark.parametrize("name", BY_HAND)
def test_updates_by_hand_leave_steps_closed(name: str, tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + BY_HAND[name])
    shown = play(file, "continue", "info steps all", "goto step 7", "info steps all")
    steps = re.findall(r"^(?:▶|  )\s+\d+ +(\d+) +(\d) +(\w+)", shown, re.MULTILINE)
    assert len(steps) == 20
    assert len({(calls, how) for _, calls, how in steps}) == 1
    closed = [int(ops) < 14 for ops, *_ in steps]
    assert closed == [False] + [True] * 9 + [False] + [True] * 5 + [False] + [True] * 3


def test_sums_of_gradients_are_no_updates(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + SUMMED)
    shown = play(file, "continue", "info steps all", "goto step 4 update", "p total", "ops step 4")
    assert re.findall(r"^(?:▶|  )\s+\d+ +(\d+) +(\d) +(\w+)", shown, re.MULTILINE)[3:] == [("4", "3", "Adam")] * 2
    summed = re.findall(r"  →  (\S*).* train.py:\d+$", shown, re.MULTILINE)
    assert summed
    assert not [name for name in summed if name.startswith("layers.")]


def test_only_the_weights_of_now_are_watched() -> None:
    changes = HandChanges()
    before, now = mx.array(0.0), mx.array(1.0)
    pass_ = Pass(Tape(None), 1, GRADIENT_PASS, "loss_fn", 0, 1, 1)  # type: ignore[arg-type]
    for array in (before, now):
        weights = Weights(plainly, [array].copy)
        changes.hold(weights, pass_)
    changes.write(before)  # it is none of the weights any more
    assert changes.since(weights) == (pass_, False)


def test_what_holds_weights_is_looked_at_again_when_the_call_is_over() -> None:
    before, now = mx.array(0.0), mx.array(1.0)
    given = [{"w": before}]
    weights = Weights(plainly, lambda: given)
    assert weights.given[0] is before
    given[0]["w"] = now  # by the function itself
    assert weights.left()[0] is now
    answers = iter([[before]])  # arrays alone: what is given is asked for once
    weights = Weights(plainly, lambda: next(answers))
    assert weights.given[0] is weights.left()[0] is before


def test_weights_that_go_another_way_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    loop = """
for i in range(12):
    loss, grads = learn(w, X, Y)
    if i < 3 or i > 8: w = tree_map(lambda p, g: p - 0.05 * g, w, grads)
    mx.eval(w)
"""
    file.write_text(HEAD + QUIET + ARRAYS + loop)
    shown = {way: play(file, f"config native {way}", "continue", "info steps all") for way in ("on", "off")}
    calls = {way: re.findall(r"^(?:▶|  )\s+\d+ +\d+ +(\d) ", said, re.MULTILINE) for way, said in shown.items()}
    assert calls["on"] == calls["off"] == ["1", "1", "1", "7", "1", "1"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("    if n[0] == 9: x = x @ x\n", r"step 9 · forward 1 of 1 .*\n▶ \d+ +if n\[0\] == 9: x = x @ x"),
        ("    if n[0] == 9: int('x')\n", r"invalid literal"),
    ],
    ids=["in an op", "in Python"],
)
def test_what_fails_natively_is_opened_where_it_fails(line: str, found: str, tmp_path: Path) -> None:
    failing = PROGRAMS["adam"].replace(
        "def loss_fn(model, x, y): ", f"n = [0]\ndef loss_fn(model, x, y):\n    n[0] += 1\n{line}    "
    )
    (tmp_path / "train.py").write_text(HEAD + QUIET + failing)
    lines = [
        part for line in ("config native on", "continue", "p i", "goto step 4 backward", "p i") for part in ("-c", line)
    ]
    shown = captured("--plain", *lines, str(tmp_path / "train.py"))
    assert re.search(found, shown), shown
    assert re.findall(r"^i = (\d+)", shown, re.MULTILINE) == ["8", "3"]
    assert shown.count("Traceback (most recent call last)") == 1  # as under Python: the second run says nothing
    batch = play(tmp_path / "train.py", "continue")
    assert "opening" not in batch


@pytest.mark.parametrize("fails", [True, False])
def test_how_a_value_was_made_opens_the_step_that_made_it(fails: bool, tmp_path: Path) -> None:
    """It need not be the last one: a call that failed stands after it."""
    raising = "    x + 0\n    if n[0] == 4: int('x')\n" if fails else ""
    text = PROGRAMS["adam"].replace(
        "def loss_fn(model, x, y): ", f"n = [0]\ndef loss_fn(model, x, y):\n    n[0] += 1\n{raising}    "
    )
    (tmp_path / "train.py").write_text(HEAD + QUIET + text)
    lines = [part for line in ("config native on", "continue", "explain loss") for part in ("-c", line)]
    shown = captured("--plain", *lines, str(tmp_path / "train.py"))
    answer = shown.partition("rule")[2]
    assert re.search(r"^ +loss = 1/\d+ · Σ", answer, re.MULTILINE), shown
    assert ("invalid literal" in shown) == fails


def test_stops_on_the_way_open_what_they_need(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + PROGRAMS["adam"])
    shown = play(
        file, "continue", "goto step 5", "until step 7 backward", "p i", "break Net.__call__", "continue", "continue",
        "p i", "rc", "rc", "rc", "p i", "clear 1", "goto step 5", "next step", "p i", "step 3", "p i", "goto end",
        "info steps all",
    )  # fmt: skip
    assert re.findall(r"^i = (\d+)", shown, re.MULTILINE) == ["6", "7", "5", "5", "5"]
    closed = [int(line.split()[0]) for line in shown.splitlines() if re.match(r" +\d+ +2 +1 +Adam", line)]
    assert closed == [2, 3, 4, 9, 10, 11]


LET_GO = """
state = [model.state, opt.state]

@partial(mx.compile, inputs=state, outputs=state)
def step(x, y):
    (loss, size), grads = nn.value_and_grad(model, lambda m: (((m(x) - y) ** 2).mean(), x.sum()))(model)
    opt.update(model, grads)
    return loss, size

for i in range(5):
    loss, size = step(mx.ones((2, 4)), mx.zeros((2, 3)))
    mx.eval(state)
    loss = {read}
"""


@pytest.mark.parametrize("read", ["loss.item()", "f'{loss}'", "float(loss)", "step(x, y)[0].tolist()"])
def test_a_loss_of_which_the_program_keeps_the_number_only(read: str, tmp_path: Path) -> None:
    """`loss = loss.item()` lets go of the tensor at once: its number is kept all the same."""
    file = tmp_path / "train.py"
    imports = "from functools import partial\nimport mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim\n"
    model = "model, opt = nn.Linear(4, 3), optim.Adam(0.01)\nx, y = mx.ones((2, 4)), mx.zeros((2, 3))\n"
    file.write_text(imports + model + LET_GO.format(read=read))
    shown = play(file, "continue", "info steps")
    rows = re.findall(r"^ +▶? *\d+ +\d+ +[12]  Adam .* (\d\.\d+) *$", shown.replace("▶", " "), re.MULTILINE)
    assert len(rows) == 5, shown


@pytest.mark.parametrize("motion", ["goto", "until"])
def test_a_step_that_has_no_such_op_is_opened_alone(motion: str, tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(HEAD + QUIET + PROGRAMS["adam"])
    shown = play(file, "continue", "goto step 3", f"{motion} step 8 erfinv")
    assert re.findall(r"opening (steps? [\d to]*\d)", shown) == ["step 3", "step 8"]
    assert "step 8 has no erfinv" in shown


def test_an_edit_in_an_opened_step_is_the_program_with_that_line(tmp_path: Path) -> None:
    program = PROGRAMS["adam"]
    (tmp_path / "train.py").write_text(HEAD + QUIET + program)
    edited = program.replace("seen(z)", "z = z * 2 if at[0] == 7 else z", 1)
    edited = edited.replace("\n    loss, grads", "\n    at[0] = i + 1\n    loss, grads")
    printed, _ = plainly(HEAD + "at = [0]; told = []\n" + edited + "print('end', loss.item())\n")
    play_lines = ("continue", "goto step 7", "step 3", "z = z * 2", "continue", "goto end", "print('end', loss.item())")
    shown = play(tmp_path / "train.py", *play_lines)
    assert re.findall(r"^end .*", shown, re.MULTILINE) == re.findall(r"^end .*", printed, re.MULTILINE)


@pytest.mark.parametrize("name", ["adam", "iterators"])
def test_a_condition_on_the_loss_is_asked_without_recording(name: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]
    (tmp_path / "train.py").write_text(HEAD + QUIET + program)
    telling = program.replace("\n    opt.update", "\n    print('at', i, loss.item())\n    opt.update")
    printed, _ = plainly(HEAD + TOLD + telling)
    losses = [(int(step), float(loss)) for step, loss in re.findall(r"^at (\d+) (.*)$", printed, re.MULTILINE)]
    first, second = (next(i for i, loss in losses if loss < losses[at][1] * 1.0001) for at in (5, 10))
    below = [f"until loss < {losses[at][1] * 1.0001}" for at in (5, 10)]
    shown = play(tmp_path / "train.py", below[0], "p i", "continue", "goto start", below[1], "p i", "p loss.item()")
    assert re.findall(r"^i = (\d+)", shown, re.MULTILINE) == [str(first), str(second)]
    assert re.findall(r"loss.item\(\) = (.*)", shown) == [str(losses[second][1])]


@pytest.mark.parametrize(("kind", "seed"), [("lazy", 1), ("lazy", 10), ("whole", 6), ("batches", 3), ("nested", 1)])
def test_walks_show_what_a_plain_program_tells(kind: str, seed: int, tmp_path: Path) -> None:
    """Steps are opened before and after edits, on any timeline; natively and recorded."""
    (tmp_path / "train.py").write_text(HEAD + KINDS[kind])
    made = walk(kind, seed)
    commands = [part for line in made.commands for part in ("-c", line)]
    shown = captured("--batch", *commands, str(tmp_path / "train.py"))
    assert [int(number) for number in re.findall(r"\.item\(\) =\s+(\d+)", shown)] == made.numbers


def test_a_timeline_is_opened_before_its_edit(tmp_path: Path) -> None:
    program = HEAD + KINDS["batches"]
    (tmp_path / "train.py").write_text(program)
    lines = ["continue", "goto step 7", "until tanh", "step", "z = z * 2", "continue", "goto step 3", "p i",
             "opt.learning_rate = 0.5", "undo", "timelines", "goto step 8", "timeline 1", "p i", "undo"]  # fmt: skip
    shown = captured("--batch", *[part for line in lines for part in ("-c", line)], str(tmp_path / "train.py"))
    assert re.findall(r"^i = (\d+)", shown, re.MULTILINE) == ["2", "7"]
    assert re.search(r"z = z \* 2 +before 7#", shown)
    assert "cannot" not in shown


def test_what_cannot_run_again_is_recorded(tmp_path: Path) -> None:
    """Under `set_trace` nobody could open a step."""
    program = (HEAD + KINDS["whole"]).replace("for i in", "import nnrepl; nnrepl.set_trace()\nfor i in")
    (tmp_path / "train.py").write_text(program)
    shown = script_python(tmp_path / "train.py", stdin="until step 5\ngoto step 3\np i\nq\n", own_prompt=True)
    assert re.search(r"^i = 2$", shown, re.MULTILINE), shown


def test_a_saved_tape_knows_what_was_closed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(HEAD + QUIET + PROGRAMS["adam"].replace("if i % 5 == 0: print", "print"))
    play(tmp_path / "train.py", "continue", f"save {tmp_path / 'run'}")
    shown = captured("--batch", "-c", "plot loss", "-c", "health", str(tmp_path / "run.safetensors"))
    assert "(step 12)" in shown, shown
    assert "steps 2 to 12 are closed: not looked at" in shown, shown


@pytest.mark.parametrize(
    ("given", "is_loss"), [(mx.array(2.0), True), (mx.array([2.0]), True), (mx.array([1.0, 2.0]), False), (3.0, False)]
)
def test_a_loss_is_an_array_of_one_number(given: object, is_loss: bool) -> None:
    """What a compiled step returns in the place of a loss may be anything else."""
    losses = ClosedLosses()
    losses.made(ClosedOp.__new__(ClosedOp), given)
    assert (losses.fresh() is not None) == is_loss


def test_the_frame_in_which_the_user_stands_outlives_an_opening(tmp_path: Path) -> None:
    text = """
model, opt = nn.Linear(4, 1), optim.SGD(1e-2)
def inner(own, x): return own(x)
def outer(x, y): own = 3; return ((inner(model, x) - y) ** 2).mean()
step = nn.value_and_grad(model, outer)
for i in range(9):
    loss, grads = step(X, Y)
    opt.update(model, grads)
    mx.eval(model.state, loss)
"""
    (tmp_path / "train.py").write_text(HEAD + text)
    shown = play(tmp_path / "train.py", "continue", "goto step 5 forward", "up 2", "explain model.weight", "p own")
    assert "opening step 4" in shown
    assert re.search("^own = 3$", shown, re.MULTILINE), shown
    assert "not looked at" not in shown  # of one op all is told, whatever else is closed


def test_losses_are_read_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the program makes of one afterwards, in place, is not what it was."""
    read: list[float] = []
    item = mx.array.item

    def counted(array: mx.array) -> object:
        read.append(1)
        return item(array)

    monkeypatch.setattr("nnrepl.record.kept_number._item", counted)
    text = """
model, opt = nn.Linear(4, 1), optim.SGD(1e-3)
step = nn.value_and_grad(model, lambda x, y: ((model(x) - y) ** 2).mean())
for i in range(70):
    loss, grads = step(X, Y)
    opt.update(model, grads)
    mx.eval(model.state, loss)
    seen = loss.item()
    loss += 100
"""
    (tmp_path / "train.py").write_text(HEAD + text)
    shown = play(tmp_path / "train.py", "continue", "plot loss")
    assert len(read) == 64
    assert "opening" not in shown
    assert "last 4.5876 (step 70)" in shown, shown
    assert "highest 7.4077 (step 1)" in shown, shown


def test_a_compiled_function_that_takes_no_gradients_gives_what_it_gives(tmp_path: Path) -> None:
    """To five digits: in the last ones MLX differs here from one plain run in a process of its own to the next."""
    measured = """
measure = mx.compile(lambda x, y: ((x - y) ** 2).mean())
model, opt = nn.Linear(4, 1), optim.SGD(0.1)
step = nn.value_and_grad(model, lambda m, x, y: ((m(x) - y) ** 2).mean())
for i in range(5):
    loss, grads = step(model, X, Y)
    opt.update(model, grads)
    mx.eval(model.state)
    print(i, f'{measure(model(X), Y).item():.5f}')
"""
    file = tmp_path / "train.py"
    file.write_text(HEAD + measured)
    assert play(file, "continue").replace("native on\n", "", 1) == plainly(HEAD + TOLD + measured)[0]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([], ""),
        ([4], "step 4 is closed"),
        ([2, 3], "steps 2 to 3 are closed"),
        ([1, 3, 4, 6], "steps 1, 3 to 4, 6 are closed"),
        ([1, 3, 5, 7, 8], "steps 1, 3, 5 and 1 more stretch are closed"),
        ([1, 3, 5, 7, 9], "steps 1, 3, 5 and 2 more stretches are closed"),
    ],
)
def test_which_steps_are_closed_is_said_in_stretches(numbers: list[int], said: str) -> None:
    assert closed_said(numbers) == said


MICRO_BATCHES = """
import mlx.core as mx, mlx.nn as nn
from mlx.utils import tree_map
mx.random.seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
learn = nn.value_and_grad(model, lambda m, x: mx.square(m(x)).mean())
velocity = tree_map(mx.zeros_like, model.parameters())
def scaled(g): return g / (mx.linalg.norm(g) + 1e-6) if g.ndim == 2 else g
for turn in range(1, 8):
    total = None
    for part in range(2):
        loss, grads = learn(model, mx.random.normal((5, 4)))
        total = grads if total is None else tree_map(lambda a, b: a + b, total, grads)
    grads = tree_map(lambda a: a / 2, total)
    velocity = tree_map(lambda v, g: 0.9 * v + g, velocity, grads)
    model.update(tree_map(lambda p, v: p - 0.05 * scaled(v), model.parameters(), velocity))
    mx.eval(model.parameters(), velocity)
"""


def test_a_step_by_hand_after_a_loop_over_micro_batches_is_one_turn(tmp_path: Path) -> None:
    """The closed call stands in the inner loop, and what updates comes after that, partly in a function."""
    (tmp_path / "train.py").write_text(MICRO_BATCHES)
    order = (3, 5, 4, 7, 2, 6)
    shown = play(
        tmp_path / "train.py", "continue", *(line for k in order for line in (f"goto step {k}", "p turn, part"))
    )
    assert re.findall(r"^turn = (\d+)\npart = (\d+)$", shown, re.MULTILINE) == [(str(k), "0") for k in order], shown


def test_a_weight_is_called_by_its_place_although_another_variable_had_it_first(tmp_path: Path) -> None:
    file = tmp_path / "averaged.py"
    file.write_text(
        "import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim\nfrom mlx.utils import tree_map\n"
        "mx.random.seed(0)\nmodel, opt = nn.Sequential(nn.Linear(2, 2)), optim.SGD(0.1)\n"
        "average = model.parameters()\n"
        "vag = nn.value_and_grad(model, lambda x: model(x).square().mean())\n"
        "for i in range(6):\n    loss, grads = vag(mx.ones((1, 2)))\n    opt.update(model, grads)\n"
        "    average = tree_map(lambda e, p: 0.9 * e + 0.1 * p, average, model.parameters())\n"
        "    mx.eval(loss, model.parameters(), average)\n    score = model(mx.zeros((1, 2)))\n    mx.eval(score)\n"
    )
    shown = play(file, "continue", "goto step 5 layers.0", "ops")
    assert re.search(r"addmm +layers\.0\.bias \(2,\), 4#9 \(1, 2\)", shown), shown


def test_what_ended_is_kept_where_it_cannot_be_run_again(tmp_path: Path) -> None:
    """Each run makes another number of ops: what the program has left in its variables is there all the same, and
    nothing is tried again for it."""
    runs = tmp_path / "runs"
    file = tmp_path / "counts.py"
    file.write_text(f"""
import mlx.core as mx
open({str(runs)!r}, "a").write("x")
times = len(open({str(runs)!r}).read())
def loss_fn(w):
    for _ in range(times): w = mx.tanh(w)
    return (w * w).mean()
w = mx.array([1.0, 2.0])
for _ in range(3):
    loss, g = mx.value_and_grad(loss_fn)(w)
    w = w - g
    mx.eval(w)
answer = times
""")
    said = " ".join(
        play(file, "c", "goto step 2", "p answer", "answer * 10 + 3", "p type(loss_fn)", "p w.shape").split()
    )
    assert "the program does not do the same when it runs again" in said
    told = said.partition("your changes are as they were")[2]
    assert "answer = 1 " in told
    assert " 13 " in told
    assert "function" in told
    assert "(2,)" in told
    assert "runs again" not in told


SEVERAL = """
import mlx.core as mx
mx.random.seed(0)
X = mx.random.normal((32, 3)); y = X @ mx.array([1.0, 2.0, 3.0])
def loss(w): return mx.square(X @ w - y).mean()
learn = mx.value_and_grad(loss)
told, count = [], 0
def several(w):
    for _ in range(3):
        found, g = learn(w)
        w = w - 0.1 * g
    return w, found
w = mx.zeros(3)
for i in range(5):
    w, found = several(w)
    mx.eval(w)
    print(i, found.item())
"""


def test_steps_that_one_compiled_call_makes_are_opened_together(tmp_path: Path) -> None:
    """It runs natively as a whole or not at all: so all of them are recorded where one is looked at, and each can be
    edited by itself."""
    file = tmp_path / "several.py"
    file.write_text(SEVERAL.replace("def several", "@mx.compile\ndef several"))
    plain = SEVERAL.replace("        found, g", "        count += 1; print('w', count, w.tolist())\n        found, g")
    plain = plain.replace("def several(w):", "def several(w):\n    global count")
    told = {line.split()[1]: line.split(maxsplit=2)[2] for line in plainly(plain)[0].splitlines() if line[0] == "w"}
    order = [5, 8, 15, 2, 12]
    shown = play(file, "c", *[line for step in order for line in (f"goto step {step}", "p w.tolist()")])
    found = re.findall(r"^w.tolist\(\) = (.*)$", shown, flags=re.MULTILINE)
    for step, row in zip(order, found, strict=True):
        assert eval(row) == pytest.approx(eval(told[str(step)]), rel=1e-6, abs=1e-7)
    edited = plain.replace("        w = w -", "        if count == 8: g = g * 2\n        w = w -")
    shown = play(file, "c", "goto step 8", "until update", "g = g * 2", "c", "p w.tolist()")
    last = [line.split()[1] for line in plainly(edited)[0].splitlines() if line[0] == "4"]
    assert float(re.findall(r"^4 (\S+)$", shown, flags=re.MULTILINE)[-1]) == pytest.approx(float(last[0]), rel=1e-5)


LEAPS = """
import mlx.core as mx
mx.random.seed(3)
X = mx.random.normal((16, 2)); y = mx.random.normal((16,))
gradient = mx.grad(lambda q: -mx.square(X @ q - y).sum())
@mx.compile
def leap(q, p):
    p = p + 0.005 * gradient(q)
    for _ in range(3):
        q = q + 0.01 * p
        p = p + 0.01 * gradient(q)
    q = q + 0.01 * p
    return q, -(p + 0.005 * gradient(q))
q = mx.zeros(2)
for i in range(4):
    q, p = leap(q, mx.random.normal((2,)))
    print(i, q.tolist())
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_loop_in_a_compiled_function_makes_as_many_steps_natively(native: str, tmp_path: Path) -> None:
    """An update by hand ends after its gradient: from there, not from where it begins, the turn goes on or does not."""
    file = tmp_path / "leaps.py"
    file.write_text(LEAPS)
    shown = captured(
        "--batch", *[part for line in (f"config native {native}", "c", "info steps all", "goto step 3", "where")
                     for part in ("-c", line)], str(file))  # fmt: skip
    rows = re.findall(r"^[ ▶]*(\d+) +\d+ +(\d+) +by hand", shown, flags=re.MULTILINE)
    assert rows == [("1", "5"), ("2", "5"), ("3", "5"), ("4", "5")]
    assert "leap(q, mx.random.normal((2,)))" in shown or "mx.random.normal((2,))" in shown
    assert "does not do the same" not in shown
