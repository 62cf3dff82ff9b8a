"""Saved tapes: what is loaded is what was saved, op by op and on the screen; and a damaged file gets one line."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from rich.console import Console

import nnrepl
from nnrepl.commands import load_all
from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import TABLE
from nnrepl.programs import savefile
from nnrepl.programs.arrays import read_header
from nnrepl.programs.saved import open_session
from nnrepl.programs.saving import save
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.tape import BackwardOp, Op, Value
from nnrepl.view.theme import THEMES
from tests.corpus import lm
from tests.support import EXAMPLES, PROMPT, OpenSession, assert_same_bits, nnrepl_cli


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm(4)
        self.second = nn.Linear(4, 1)
        self.parts = [nn.Linear(4, 4), {"deep": (nn.Linear(4, 4), [0.5]), "scale": mx.array([0.5])}]

    def __call__(self, x: mx.array) -> mx.array:
        hidden = mx.maximum(self.norm(self.first(x)), 0)
        hidden = self.parts[0](hidden) * self.parts[1]["scale"] + self.parts[1]["deep"][0](hidden)
        return self.second(hidden)


def train(passes: int) -> TapeSession:
    """A session on a recorded training loop."""
    model = Net()
    mx.eval(model.parameters())
    optimizer = optim.Adam(0.1)

    def loss_fn(x: mx.array, y: mx.array) -> mx.array:
        return mx.mean(mx.square(model(x) - y))

    with nnrepl.recording() as recorded:
        step = nn.value_and_grad(model, loss_fn)
        for _ in range(passes):
            x = mx.random.normal((5, 3))
            loss, grads = step(x, x.sum(axis=1, keepdims=True))
            optimizer.update(model, grads)
            mx.eval(model.parameters(), loss)
    return TapeSession(recorded.tape, recorded.names)


def language_model() -> TapeSession:
    model = lm.tiny("llama").train()
    trace = nnrepl.trace(lm.loss_of(model), lm.tokens_for("llama"), wrt=model)
    return OpenSession(trace)


def odd_dtypes() -> TapeSession:
    def function(x: mx.array, z: mx.array) -> Any:
        flags = x > 0
        empty = x[:0]
        whole = x.astype(mx.int8), x.astype(mx.uint64), x.astype(mx.int32)
        half, brain = x.astype(mx.float16), x.astype(mx.bfloat16)
        turned = z * 1j
        double = x.astype(mx.float64, stream=mx.cpu)
        scalar = x.sum()
        rows = [row * 2 for row in mx.split(x, 3)]
        infinite = x / 0
        picked = x[mx.array([2, 0]), None]
        return flags, empty, whole, half, brain, turned, double, scalar, rows, infinite, picked

    return OpenSession(nnrepl.trace(function, mx.array([1.0, -2.0, 0.5]), mx.array([1 + 2j, 3 - 1j])))


def edited() -> TapeSession:
    def loss_fn(model: Any, x: mx.array) -> mx.array:
        z = x * model["w"]
        a = mx.sin(z)
        return (a * a).sum()

    trace = nnrepl.trace(loss_fn, {"w": mx.array([1.0, 2.0])}, mx.array([3.0, 4.0]), wrt=0)
    session = OpenSession(trace)
    session.goto("sin")
    interpreter = Interpreter(session)
    for line in ("z = z * 2", "goto end", "grad(z) = 5", "undo", "x[0] = 7"):
        interpreter.run(line)
    return session


class _Silent:
    def __repr__(self) -> str:
        raise KeyError("it says nothing of itself")


def failing() -> TapeSession:
    """Random numbers, an op that raises, and a hole."""
    elsewhere = mx.ones((2, 2))
    with nnrepl.recording() as recorded:
        noise = mx.random.normal((2, 3))
        given = mx.array(np.ones((2, 2), dtype=np.float32)) + elsewhere
        with contextlib.suppress(ValueError):
            mx.matmul(given, noise.T)
        for odd in (2**64 - 1, 2**64, 2**20_000, _Silent()):  # Python writes no number of more than 4,300 digits
            with contextlib.suppress(ValueError, RuntimeError, TypeError):
                mx.add(given, odd)
        mx.eval(given)
    return TapeSession(recorded.tape, recorded.names)


SESSIONS = {
    "training": lambda: train(3), "llama": language_model, "dtypes": odd_dtypes, "edited": edited, "failing": failing,
}  # fmt: skip


def reload(session: TapeSession, path: Path, everything: bool = True) -> TapeSession:
    save(session, str(path), everything)
    return open_session(str(path))[0]


@pytest.fixture(scope="module", params=SESSIONS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TapeSession, TapeSession]:
    """A live session, and the same one loaded."""
    mx.random.seed(3)
    live = SESSIONS[request.param]()
    return live, reload(live, tmp_path_factory.mktemp("saved") / "tape.safetensors")


def described(op: Op) -> Any:
    source = op.source
    where = source.file, source.line, source.end_line, source.column, source.end_column, source.text, source.function
    values = [(value.name, value.shape, value.dtype, value.kind, value.label) for value in (*op.inputs, *op.outputs)]
    of = op.of.index if isinstance(op, BackwardOp) and op.of is not None else None
    users = [[user.index for user in value.consumers] for value in op.outputs]
    return (
        op.index, op.name, op.phase, op.module, where, source.cell, values, of, users, op.pass_.number, op.pass_.title,
        op.operation.kind, op.operation.spelling, str(op.error), op in op.tape.notes.edits,
        op in op.tape.notes.inserted,
    )  # fmt: skip


def every_value(session: TapeSession) -> list[Value]:
    values = [value for op in session.tape.ops for value in (*op.inputs, *op.outputs)]
    return values + [grad for pass_ in session.tape.passes for grads in pass_.grads.values() for grad in grads]


def test_every_op_is_as_it_was(pair: tuple[TapeSession, TapeSession]) -> None:
    live, loaded = pair
    assert [described(op) for op in loaded.tape.ops] == [described(op) for op in live.tape.ops]


def test_every_value_has_the_same_bits(pair: tuple[TapeSession, TapeSession]) -> None:
    live, loaded = pair
    values, again = every_value(live), every_value(loaded)
    assert len(values) == len(again)
    for before, after in zip(values, again):
        assert after.evaluated
        assert_same_bits(before.array, after.array)


def test_names_mean_the_same(pair: tuple[TapeSession, TapeSession]) -> None:
    live, loaded = pair
    assert set(live.names.known()) == set(loaded.names.known())
    for name in live.names.known():
        before, after = live.names.versions(name), loaded.names.versions(name)
        assert [(at, value.name, value.op and value.op.index) for at, value in before] == [
            (at, value.name, value.op and value.op.index) for at, value in after
        ]


def test_gradients_belong_to_the_same_values(pair: tuple[TapeSession, TapeSession]) -> None:
    live, loaded = pair
    for before, after in zip(live.tape.passes, loaded.tape.passes):
        assert [(of.name, [grad.name for grad in grads]) for of, grads in before.grads.items()] == [
            (of.name, [grad.name for grad in grads]) for of, grads in after.grads.items()
        ]
        assert (before.loss and before.loss.name) == (after.loss and after.loss.name)
        assert [leaf.name for leaf in before.wrt] == [leaf.name for leaf in after.wrt]
    assert [(mark.how, mark.position) for mark in live.tape.marks] == [
        (mark.how, mark.position) for mark in loaded.tape.marks
    ]


def test_timelines_are_kept(pair: tuple[TapeSession, TapeSession]) -> None:
    live, loaded = pair
    before, after = list(live.changes.timelines), list(loaded.changes.timelines)
    assert [line.parent and line.parent.number for line in before] == [
        line.parent and line.parent.number for line in after
    ]
    assert [line.edit and line.edit.text for line in before] == [line.edit and line.edit.text for line in after]
    assert live.changes.timelines.current.number == loaded.changes.timelines.current.number
    for old, new in zip(before, after):
        assert [op.name for op in old.tape.ops] == [op.name for op in new.tape.ops]


def screen(session: TapeSession, lines: list[str]) -> str:
    interpreter = Interpreter(session)
    console = Console(width=100, color_system=None, theme=THEMES["dark"], highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for line in lines:
            try:
                shown = interpreter.run(line)
            except UserError as error:
                shown = str(error)
            if shown is not None:
                console.print(shown)
    return captured.get()


def test_a_loaded_tape_looks_the_same(pair: tuple[TapeSession, TapeSession]) -> None:
    live, loaded = pair
    names = live.names.known()[:6]
    lines = ["goto start", "list", "list source", "where", "s", "s 3", "n", "finish", "back", "rs 2", "goto end", "ll"]
    lines += [
        line for name in names
        for line in (f"what {name}", f"p {name}", f"grad {name}", f"goto {name}", f"last {name}", f"stats {name}",
                     f"explain {name}", "info locals", "up", "info locals", "down")
    ]  # fmt: skip
    lines += [
        "rewind", "goto backward", "where", "p #3", "what setup#1", "timelines", "diff", "undo", "list 5", "goto #9",
        "info parameters", "info steps", "info gradients", "health", "explain", "graph", "args", "ops all",
        "goto update", "info locals", "explain", "up", "info locals", "p loss", "p model",
        "p loss_fn", "p elsewhere",
        "p model.parts[0].weight", "p model.parts[1]['scale']", "p model.parts[1]['deep'][0].bias", "p model.parts",
        "until layers.1", "b loss", "c", "rc",
    ]  # fmt: skip
    asked = screen(live, lines)
    for moved in ("   (it comes from no tensor: a filling)", "   (moved, not changed)"):
        asked = asked.replace(moved, "")  # to say so takes to move the numbers once more
    # What may have been meant is looked for among the names of a program that is there; a function that is gone is made
    # again, and lies where there is room.
    meant = re.compile(r"; did you mean [^?]+\?|(?<= at )0x[0-9a-f]+")
    assert meant.sub("", screen(loaded, lines)) == meant.sub("", asked)


@pytest.mark.parametrize(
    ("program", "there"), [("simple_nn.py", "c"), ("simple_nn.ipynb", "c"), ("transformer.py", "next pass 2")]
)
def test_a_program_looks_the_same_when_loaded(program: str, there: str, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    lines = [
        "goto start", "list source", "s 3", "w", "list", "what loss", "goto backward", "s", "list", "goto #100",
        "p loss", "goto update", "where", "display loss", "rewind", "rc", "goto #5", "p #4", "args", "until #7",
        "finish", "what #12",
    ]  # fmt: skip
    looked = "".join(f"{line}\n" for line in lines)
    live = nnrepl_cli(str(EXAMPLES / program), stdin=f"{there}\nsave {file} all\n{looked}")
    loaded = nnrepl_cli(str(file), stdin=looked)
    assert (live.stderr, loaded.stderr) == ("", "")
    first = "(nnrepl) goto start"
    seen = PROMPT.sub("(nnrepl) ", live.stdout)  # a saved tape takes no cells
    assert loaded.stdout.partition(first)[2] == seen.partition(first)[2]
    assert loaded.stdout.count("(nnrepl)") == len(lines)


@pytest.mark.parametrize("everything", [True, False])
def test_every_command_works_on_a_loaded_tape_or_says_why_not(everything: bool, tmp_path: Path) -> None:
    """No command raises anything but a UserError; what computes anew says that it cannot."""
    load_all()
    session = train(1)
    session.goto("start")
    mx.eval(session.tape.ops[4].outputs[0].array)
    loaded = reload(session, tmp_path / "run.safetensors", everything)
    away = {"quit", "save", "load", "compare", "export", "source", "tui", "edit"}
    names = [command.names[0] for command in TABLE.commands if command.names[0] not in away]
    words = ("", "hidden", "grad(hidden)", "#5", "#20", "pass", "loss == 0", "hidden = 2", "matmul")
    for name in names:
        said = screen(loaded, ["goto #5", *(f"{name} {word}".strip() for word in words)])
        assert "Traceback" not in said
    said = " ".join(screen(loaded, ["goto end", "verify", "args", "hidden = 2"]).split())
    assert "cannot be computed again" in said
    assert "nothing can be changed there" in said


def test_the_sources_are_in_the_file(tmp_path: Path) -> None:
    program = tmp_path / "gone.py"
    program.write_text("import mlx.core as mx\nx = mx.ones((2,))\ny = x * 3  # here\nprint(y)\n")
    saved = tmp_path / "run.safetensors"
    nnrepl_cli(str(program), stdin=f"c\nsave {saved} all\n")
    program.unlink()
    shown = nnrepl_cli(str(saved), stdin="goto #2\nlist source\n").stdout
    assert "y = x * 3  # here" in shown
    assert "gone.py:3" in shown


def test_a_tape_of_an_older_nnrepl_opens() -> None:
    """`tape_0_1_0.safetensors`: two steps of a small network saved by 0.1.0, which noted no variables and no steps, and
    an edit of `h` in the second backward pass."""
    loaded, facts = open_session(str(Path(__file__).with_name("tape_0_1_0.safetensors")))
    assert (facts.nnrepl, facts.kept, len(loaded.changes.timelines)) == ("0.1.0", 51, 2)
    assert [len(line.tape.steps) for line in loaded.changes.timelines] == [2, 2]
    said = screen(loaded, ["timeline 1", "goto step 2", "list", "p h", "until sum", "p h", "goto end", "p loss",
                           "p grad(first.weight)", "why", "diff 1 2", "info locals", "where", "ops"])  # fmt: skip
    assert "12 #1-3         h = mx.maximum(self.first(x), 0)" in said
    assert "h is not made yet in this step: #3 (maximum) makes it, 3 ops on; the last one is step 1's: h@1#3" in said
    assert "h = [[0 0]]" in said
    assert "loss = 0" in said
    assert "∂L/∂first.weight is 0: it became 0 at 1#6, the VJP of maximum" in said
    assert "there timeline 2 ends, and timeline 1 goes on" in said
    assert "runs it on" not in said  # nothing runs


def test_a_tape_of_0_2_opens_with_all_that_it_noted() -> None:
    """`tape_0_2_0.safetensors`: two steps of a small network with a `vmap`, saved by 0.2.0: variables, steps, what
    happened inside of the call, and an edit of `h` before it in the second step. A later format must still read it."""
    loaded, facts = open_session(str(Path(__file__).with_name("tape_0_2_0.safetensors")))
    assert (facts.nnrepl, facts.kept, len(loaded.changes.timelines)) == ("0.2.0", 123, 2)
    said = screen(loaded, ["timelines", "info steps", "goto step 2", "until vmap", "p h", "p row", "p rate", "where",
                           "goto end", "p opt.learning_rate", "timeline 1", "goto end", "p loss", "p i",
                           "p grad(model.first.weight)", "why", "diff 1 2"])  # fmt: skip
    assert "2  h = h * 2  before #5" in said
    assert "38          1  SGD     golden.py:27  0.6570" in said
    assert "h = [[-1.4249 -0.2431 -0.7692]" in said
    assert "row = [[-1.4249 -0.2431 -0.7692]" in said
    assert "2 samples along axis 0" in said
    assert "rate = {'scale': 0.5}" in said
    assert "doubled = mx.vmap(lambda row: row * 2)(h)" in said
    assert "opt.learning_rate = 0.1000" in said
    assert "loss = 0.1044" in said
    assert "i = 1" in said
    assert "∂L/∂first.weight = [[-0.1122 -0.0977]" in said
    assert "there timeline 2 ends, and timeline 1 goes on" in said


def test_what_the_variables_held_is_in_the_file(tmp_path: Path) -> None:
    class Settings:
        def __init__(self) -> None:
            self.rate, self.names, self.me = 0.5, ["a", {"b": 2}], self

    def loss_fn(weight: mx.array, x: mx.array) -> mx.array:
        settings = Settings()
        for count in range(2):
            x = x * weight + count
        return (x * settings.rate).sum()

    trace = nnrepl.trace(loss_fn, mx.ones((2,)), mx.ones((2,)), wrt=0)
    loaded = reload(OpenSession(trace), tmp_path / "x.safetensors")
    lines = ["goto #1", "p settings.rate * 4", "p settings.me.names", "p count", "goto #3", "p count", "info locals"]
    said = screen(loaded, lines)
    live = screen(OpenSession(trace), lines)
    assert said == live
    assert "count = 0" in said
    assert "count = 1" in said
    assert "settings.rate * 4 = 2.0" in said
    assert "['a', {'b': 2}]" in said


# -- what was not saved ---------------------------------------------------------------------------------------


def test_only_what_was_evaluated_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a short name: a long one is broken over lines
    live = OpenSession(nnrepl.trace(lambda x: mx.exp(mx.sin(x)).sum(), mx.array([1.0, 2.0])))
    mx.eval(live.tape.at(1).outputs[0].array)
    file = "run.safetensors"
    saved = save(live, file)
    assert (saved.kept, saved.values) == (2, 4)
    assert [value.evaluated for op in live.tape.ops for value in op.outputs] == [True, False, False]
    loaded, _ = open_session(file)
    said = screen(
        loaded, ["goto end", "p #1", "p #2", "what #2", "x = 3", "#1 = 3", "verify", "restart", "save " + file]
    )
    assert "#1 = [0.8415 0.9093]" in said
    flat = " ".join(said.split())
    refusal = f"this tape was loaded from {file}: #2 was not saved (save FILE all keeps every value)"
    assert flat.count(refusal) == 2
    assert "nothing can be changed there" in flat
    assert "#1 sin cannot be computed again there" in flat
    assert "2 of 4 values" in flat


def test_what_is_shown_unasked_is_left_out_where_it_was_not_saved(tmp_path: Path) -> None:
    live = OpenSession(nnrepl.trace(lambda x: mx.exp(mx.sin(x)).sum(), mx.array([1.0, 2.0]), wrt=0))
    save(live, str(tmp_path / "run.safetensors"))
    loaded, _ = open_session(str(tmp_path / "run.safetensors"))
    said = screen(loaded, ["goto end", "timelines", "help gradient", "help loss"])
    assert "1  as it is  to step 1 · backward  loss not computed yet" in said
    assert "made by #6 vjp of sin" in said
    assert "was not saved" not in " ".join(said.split())


def test_a_loaded_tape_can_be_saved_again(tmp_path: Path) -> None:
    first = reload(train(2), tmp_path / "one.safetensors")
    second = reload(first, tmp_path / "two.safetensors")
    assert [described(op) for op in first.tape.ops] == [described(op) for op in second.tape.ops]
    assert (tmp_path / "one.safetensors").stat().st_size == pytest.approx(
        (tmp_path / "two.safetensors").stat().st_size, abs=200
    )


def test_a_tape_that_is_too_long_for_a_header_is_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(savefile, "_LONG", 100)
    file = tmp_path / "run.safetensors"
    session = train(2)
    loaded = reload(session, file)
    assert "tape.zlib" in read_header(str(file)).metadata
    assert [described(op) for op in loaded.tape.ops] == [described(op) for op in session.tape.ops]
    monkeypatch.setattr(savefile, "_LONGEST", 1000)  # a small file that would become a huge one
    with pytest.raises(UserError, match="damaged"):
        open_session(str(file))


def test_values_that_go_on_are_stored_once(tmp_path: Path) -> None:
    session = train(3)
    reload(session, tmp_path / "run.safetensors")
    leaves = [leaf for pass_ in session.tape.passes for leaf in pass_.wrt]
    tensors = len(read_header(str(tmp_path / "run.safetensors")).entries)
    origins = {leaf.origin for leaf in leaves}
    assert None not in origins
    assert tensors == len({*every_value(session), *leaves, *origins}) - len(leaves)


def test_load_at_the_prompt_and_back(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    lines = ["s 2", f"save {file} all", "s", f"load {file}", "p z1", "c", "c", "load", "p a1", "c", "p loss"]
    result = nnrepl_cli(str(EXAMPLES / "simple_nn.py"), stdin="\n".join(lines) + "\n")
    assert result.stderr == ""
    assert "back at the program" in result.stdout
    assert result.stdout.partition("back at the program")[2].count("a1 = [[0 0 0]]") == 1
    assert "loss after:  5.76" in result.stdout
    assert "loss = 9" in result.stdout


def test_end_of_input_while_looking_at_a_loaded_tape(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    result = nnrepl_cli(stdin=f"s\nsave {file}\nload {file}\np 1\n")
    assert result.stderr == ""
    assert "loss after" not in result.stdout


# -- writing --------------------------------------------------------------------------------------------------


def simple() -> TapeSession:
    return OpenSession(nnrepl.trace(lambda x: (x * x).sum(), mx.ones((300,))))


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    for name, said in (
        ("nowhere/run", "there is no directory"),
        ("folder.safetensors", "is a directory"),
        ("pipe.safetensors", "is not a regular file"),
        ("a" * 300, "cannot write"),
        ("null\0", "no name of a file"),
    ):
        with pytest.raises(UserError, match=said):
            save(simple(), str(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.safetensors", "pipe.safetensors"]
    with pytest.raises(UserError, match="nothing has been recorded"):
        save(OpenSession(nnrepl.trace(lambda: None)), str(tmp_path / "x"))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    file.write_bytes(b"a good one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match="File too large; nothing has changed there"):
            save(simple(), str(file), True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_bytes() == b"a good one"
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target.safetensors"
    target.write_bytes(b"old")
    (tmp_path / "link.safetensors").symlink_to(target)
    save(simple(), str(tmp_path / "link"))
    assert (tmp_path / "link.safetensors").is_symlink()
    assert len(open_session(str(target))[0].tape) == 2


def test_nothing_in_the_file_can_drive_a_terminal(tmp_path: Path) -> None:
    def function(parameters: dict[str, mx.array]) -> mx.array:
        return parameters["\x1b[31mred"] * 2

    loaded = reload(OpenSession(nnrepl.trace(function, {"\x1b[31mred": mx.ones((2,))})), tmp_path / "run.safetensors")
    length_of_header = 8  # bytes, a number: any of them may be 0x1b
    assert b"\x1b" not in (tmp_path / "run.safetensors").read_bytes()[length_of_header:]
    assert "\ufffd[31mred" in screen(loaded, ["ops"])


def test_a_stop_at_an_op_whose_arithmetic_would_have_to_be_computed_again(tmp_path: Path) -> None:
    def loss(a: mx.array) -> mx.array:
        return mx.kron(a, a).square().sum()

    live = OpenSession(nnrepl.trace(loss, mx.array([2.0, 1.0, 0.5, 3.0]), wrt=0))
    live.run("goto start")
    live.run("s 9")
    live.run("p grad(a)")
    loaded = reload(live, tmp_path / "run.safetensors")
    said = " ".join(screen(loaded, ["goto backward", "s", "s", "s", "explain grad(a)"]).split())
    assert "∂L/∂a = ∂L/∂#1, back through kron" in said
    assert "here ∂L/∂a[3] = 171" in said
    assert "loaded from" not in said
