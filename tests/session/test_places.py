"""Places: one grammar, held against every command that takes a place.

The program is recorded to its end; each row says which ops a place means, by looking at the ops themselves.
"""

from __future__ import annotations

import itertools
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from rich.console import Console

import nnrepl
from nnrepl.programs.script import load_script
from nnrepl.record.intercept import recording
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder
from nnrepl.session import scouts
from nnrepl.session.entered import InClass, SourceLine
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import parse
from nnrepl.session.place import Place
from nnrepl.session.places import KINDS
from nnrepl.session.points import Within
from nnrepl.tape import Op, Tape
from nnrepl.view.theme import DARK
from tests.support import OpenSession

PROGRAM = """\
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def __call__(self, x):
        scores = self.inner(x)
        weights = mx.softmax(scores, axis=-1)
        return weights * x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [Block(), Block()]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


mx.random.seed(0)
net = Net()
opt = optim.SGD(learning_rate=0.1)


def loss_fn(x, y):
    out = net(x)
    return mx.mean(mx.square(out - y))


step = nn.value_and_grad(net, loss_fn)
for number in range(3):
    loss, grads = step(mx.ones((2, 3)), mx.zeros((2, 3)))
    opt.update(net, grads)
    mx.eval(net.parameters())
"""
LINE = {text: number for number, text in enumerate(PROGRAM.splitlines(), 1)}
SOFTMAX, RETURN = LINE["        weights = mx.softmax(scores, axis=-1)"], LINE["        return weights * x"]
CALL, STEP = LINE["    out = net(x)"], LINE["    loss, grads = step(mx.ones((2, 3)), mx.zeros((2, 3)))"]
UPDATE, MEAN = LINE["    opt.update(net, grads)"], LINE["    return mx.mean(mx.square(out - y))"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tape, ProgramNames, Path]:
    """The program, recorded to its end."""
    file = tmp_path_factory.mktemp("places") / "train.py"
    file.write_text(PROGRAM)
    names = ProgramNames()
    tape = names.tape
    with pytest.MonkeyPatch.context() as patch, recording(Recorder(tape, strict=True, base=sys._getframe())):
        patch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))  # (another test's has a `loss` too)
        load_script(str(file), []).run()
    return tape, names, file


@pytest.fixture
def session(recorded: tuple[Tape, ProgramNames, Path], monkeypatch: pytest.MonkeyPatch) -> OpenSession:
    tape, names, file = recorded
    monkeypatch.chdir(file.parent)
    made = OpenSession(nnrepl.Recorded(tape, names))
    made.run("goto start")
    return made


def screen(session: OpenSession, line: str) -> str:
    """What a line shows."""
    console = Console(width=120, no_color=True, theme=DARK)
    with console.capture() as capture:
        shown = session.run(line)
        if shown is not None:
            console.print(shown)
    return capture.get()


Test = Callable[[Op], bool]


def first_of(*tests: Test) -> Callable[[Tape], list[int]]:
    """In each phase of each pass the first op of each unbroken run of ops for which a test holds, for any test."""

    def find(tape: Tape) -> list[int]:
        found = set()
        for test in tests:
            before: Op | None = None
            for op in tape.ops:
                runs_on = before is not None and before.pass_ is op.pass_ and before.phase == op.phase and test(before)
                if test(op) and not runs_on:
                    found.add(op.position)
                before = op
        return sorted(found)

    return find


def once(test: Test) -> Callable[[Tape], list[int]]:
    """The first op of each unbroken run of ops for which a test holds, through however many passes it goes."""

    def find(tape: Tape) -> list[int]:
        return [op.position for op in tape.ops if test(op) and not (op.position and test(tape.ops[op.position - 1]))]

    return find


def each(test: Test) -> Callable[[Tape], list[int]]:
    """Every op for which a test holds."""
    return lambda tape: [op.position for op in tape.ops if test(op)]


def under(line: int) -> Test:
    """Whether an op, or the one that it differentiates, was made by a line of the program, or by a call in it."""

    def test(op: Op) -> bool:
        scope, lasti = op.root.scope, op.root.lasti
        while scope is not None:
            if scope.code.co_filename.endswith("train.py"):
                lines = {at for _, _, at in scope.code.co_lines() if at}
                start = next((first for begin, end, first in scope.code.co_lines() if begin <= lasti < end), None)
                if start == line and line in lines:
                    return True
            lasti, scope = scope.lasti, scope.parent
        return False

    return test


def called(name: str) -> Test:
    """Whether an op, or the one that it differentiates, was made in a call of a function."""

    def test(op: Op) -> bool:
        return any(step.code.co_qualname == name for step in (op.root.scope.path() if op.root.scope else []))

    return test


def module(path: str) -> Test:
    def test(op: Op) -> bool:
        return op.root.module == path or op.root.module.startswith(path + ".")

    return test


def makes(name: str) -> Test:
    return lambda op: any(value.name == name for value in op.outputs)


PLACES: list[tuple[str, str, Callable[[Tape], list[int]]]] = [
    ("#5", "1#5", lambda tape: [tape.steps[0].start + 4]),
    (f"train.py:{SOFTMAX}", f"train.py:{SOFTMAX}", first_of(
        lambda op: under(SOFTMAX)(op) and op.root.module == "layers.0",
        lambda op: under(SOFTMAX)(op) and op.root.module == "layers.1",
    )),
    (f"./train.py:{MEAN}", f"./train.py:{MEAN}", first_of(under(MEAN))),
    (f"train.py:{CALL}", f"train.py:{CALL}", first_of(under(CALL))),
    (f"train.py:{STEP}", f"train.py:{STEP}", once(under(STEP))),
    (f"{UPDATE}", f"train.py:{UPDATE}", first_of(under(UPDATE))),
    (f":{UPDATE}", f"train.py:{UPDATE}", first_of(under(UPDATE))),
    ("loss_fn", "loss_fn", first_of(called("loss_fn"))),
    ("train.py:loss_fn", "train.py:loss_fn", first_of(called("loss_fn"))),
    ("Net.__call__", "Net.__call__", first_of(called("Net.__call__"))),
    ("Net", "Net", first_of(called("Net.__call__"))),
    ("net", "net", first_of(called("Net.__call__"))),
    ("layers.1", "layers.1", first_of(lambda op: op.pass_.kind != "update" and module("layers.1")(op),
                                      lambda op: op.pass_.kind == "update" and op.module == "layers.1.inner.weight",
                                      lambda op: op.pass_.kind == "update" and op.module == "layers.1.inner.bias")),
    ("net.layers.1", "net.layers.1", first_of(lambda op: op.pass_.kind != "update" and module("layers.1")(op),
                                      lambda op: op.pass_.kind == "update" and op.module == "layers.1.inner.weight",
                                      lambda op: op.pass_.kind == "update" and op.module == "layers.1.inner.bias")),
    ("softmax", "softmax", each(lambda op: op.root.name == "softmax")),
    ("mx.softmax", "softmax", each(lambda op: op.root.name == "softmax")),
    ("backward softmax", "backward softmax", each(lambda op: op.of is not None and op.of.name == "softmax")),
    ("weights", "weights", each(makes("weights"))),
    ("loss", "loss", each(makes("loss"))),
    ("grad(scores)", "grad(scores)", each(makes("∂L/∂scores"))),
    ("forward", "forward", first_of(lambda op: op.phase == "forward")),
    ("backward", "backward", first_of(lambda op: op.phase == "backward")),
    ("update", "update", first_of(lambda op: op.phase == "update")),
    ("step 2", "step 2", lambda tape: [tape.steps[1].start]),
    ("2#5", "2#5", lambda tape: [tape.steps[1].start + 4]),
    ("step 2 #5", "2#5", lambda tape: [tape.steps[1].start + 4]),
    ("step 2 layers.1 softmax", "step 2 layers.1 softmax",
     each(lambda op: op.step.number == 2 and module("layers.1")(op) and op.root.name == "softmax")),
    ("pass 3", "pass 3", lambda tape: [pass_.start for pass_ in tape.passes if pass_.number == 3]),
    ("pass 1 softmax", "pass 1 softmax", each(lambda op: op.pass_.number == 1 and op.root.name == "softmax")),
    ("layers.1 softmax", "layers.1 softmax", each(lambda op: module("layers.1")(op) and op.root.name == "softmax")),
    ("pass 1 layers.1 softmax", "pass 1 layers.1 softmax",
     each(lambda op: op.pass_.number == 1 and module("layers.1")(op) and op.root.name == "softmax")),
    ("layers.1.weights", "layers.1 weights", each(lambda op: makes("weights")(op) and op.module == "layers.1")),
    ("loss_fn backward mean", "loss_fn backward mean", each(lambda op: op.of is not None and op.of.name == "mean")),
]  # fmt: skip
IDS = [text for text, _, _ in PLACES]


@pytest.mark.parametrize(("text", "title", "expected"), PLACES, ids=IDS)
def test_all_commands_mean_the_same_ops(
    session: OpenSession, text: str, title: str, expected: Callable[[Tape], list[int]]
) -> None:
    tape = session.tape
    wanted = [at for at in expected(tape) if tape.ops[at].phase != "setup" or text == "Net"]
    assert wanted, "a row of the table that means nothing"
    place = session.place(text)
    assert place.title == title
    assert session.place(place.title).title == title
    found = [at for at in place.positions(tape, 0, len(tape) + 1) if at >= tape.origin]
    assert found == wanted
    assert list(place.positions(tape, tape.origin, len(tape) + 1, reverse=True)) == wanted[::-1]
    assert _by_break(session, text) == [at for at in wanted if at > tape.origin]
    assert _by_until(session, text) == [at for at in wanted if at > tape.origin]
    session.run("goto start")
    before = [at for at in expected(tape) if at < tape.origin] if wanted[0] >= tape.steps[0].end else []
    nearest = [*before, wanted[0]][0]  # in this step, else the last one before it, else the next one
    session.run(f"goto {text}")
    assert session.cursor == nearest
    session.run("goto start")
    assert re.search(rf"{tape.ops[nearest].label}\b", screen(session, f"graph {text}"))
    if not text.startswith(("#", "backward", "grad")) and " " not in text:
        assert screen(session, f"explain {text}")
    for command in ("break", "tbreak"):
        assert f"  {title} · " in screen(session, f"{command} {text}")
        assert "Deleted breakpoint" in screen(session, f"clear {text}")
    assert session.cursor == tape.origin


def _by_break(session: OpenSession, text: str) -> list[int]:
    session.run("goto start")
    session.run(f"break {text}")
    found: list[int] = []
    session.resume()
    while session.stop.hits:
        found.append(session.stop.position)
        session.resume()
    session.run("clear")
    return found


def _by_until(session: OpenSession, text: str) -> list[int]:
    session.run("goto start")
    found: list[int] = []
    while True:
        try:
            session.run(f"until {text}")
        except UserError as refused:
            said = str(refused)
            break
        found.append(session.cursor)
    assert re.search("from here on|there is no| has no | not ahead of here", said)
    return found


@pytest.mark.parametrize("line", ["explain layers.1 softmax", "into layers.1 softmax", "why backward layers.1 softmax"])
def test_questions_read_places(session: OpenSession, line: str) -> None:
    wanted = session.place(line.partition(" ")[2]).first_after(session.tape, 0)
    assert wanted is not None
    assert session.tape.ops[wanted].label in screen(session, line)


def test_a_place_that_ends_in_0_is_no_question_about_zero(session: OpenSession) -> None:
    with pytest.raises(UserError, match=r"no op is at layers\.1 layers\.0"):
        session.run("why layers.1 layers.0")
    assert "loss is not 0 everywhere" in screen(session, "why loss==0")


CONDITIONS = [
    ("loss < 0.2", "loss"),
    ("loss if loss < 0.2", "loss"),
    ("loss, loss < 0.2", "loss"),
    ("grad(out).max() > 0", "grad(out)"),
    ("softmax if number >= 0", "softmax"),
]


@pytest.mark.parametrize(("text", "name"), CONDITIONS, ids=[text for text, _ in CONDITIONS])
def test_a_condition_is_true_where_one_stands(session: OpenSession, text: str, name: str) -> None:
    by_break = _by_break(session, text)
    assert by_break == _by_until(session, text)
    assert by_break
    if "number" not in text:
        session.run(f"goto {text}")
        value = session.interpreter.value(parse(session.place(text).condition))
        assert bool(value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{} sofmax", "did you mean softmax?"),
        ("{} layers.7", "there is no module layers.7; there are layers.0, layers.1"),
        ("{} net.layers[7]", "there is no module net.layers.7; there are net.layers.0, net.layers.1"),
        ("{} net.layers.7", "there is no module net.layers.7; there are net.layers.0, net.layers.1"),
        ("{} net.layer", "there is no module net.layer; there are net.layers.0, net.layers.1"),
        (
            "{} net.layers.0.inner.x",
            "there is no module net.layers.0.inner.x; net.layers.0.inner holds none. "
            "info parameters lists the weights, ops the ops",
        ),
        ("{} train.py:1", "no op can come from line 1 of train.py"),
        ("{} train.py:6", "no op can come from line 6 of train.py"),  # class Block(nn.Module):
        ("{} train.py:9999", "no op can come from line 9999 of train.py"),
        ("{} tran.py:12", "there is no file tran.py; the program's files are "),
        ("{} train.py:los_fn", "train.py has no function or class los_fn; did you mean loss_fn?"),
        ("{} step 99", "step 99"),
        ("{} pass 99", "pass 99"),
        ("{} 1#999", "1#999"),
        ("{} grad(nothing)", "nothing is called nothing"),
        ("{} lss < 3", "nothing is called lss; did you mean loss?"),
        ("{} layers.1 sofmax", "did you mean softmax?"),
        ("{} forward backward", "no op is in forward and in backward: one of them is enough"),
        ("{} step 1 softmax step 2", "no op is in step 1 and in step 2: one of them is enough"),
        ("{} loss if", "if"),
        ("{} #0", "ops count from #1"),
    ],
)
def test_what_cannot_be_is_refused_at_once_and_nothing_moves(session: OpenSession, line: str, said: str) -> None:
    session.run("goto #7")
    for command in ("goto", "until", "break", "tbreak", "graph", "clear"):
        if command in ("break", "tbreak", "clear", "graph") and "99" in line and "train" not in line:
            continue  # a pass or a step may come with the next run
        with pytest.raises(UserError) as error:
            session.run(line.format(command))
        assert said in str(error.value)
        assert "\n" not in str(error.value)
        assert session.cursor == session.tape.position(7, 1)


def test_a_model_in_a_list_is_written_as_in_python() -> None:
    models = [nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(2)]

    def loss(x: mx.array) -> mx.array:
        for model in models:
            x = model(x)
        return x.sum()

    session = OpenSession(nnrepl.trace(loss, mx.ones((1, 2))))
    first, second = (
        [at for at, op in enumerate(session.tape.ops) if op.module == f"layers.{layer}"] for layer in (0, 1)
    )
    assert len(first) == 4
    place = session.place("models[1].layers[0]")
    assert list(place.positions(session.tape, 0, len(session.tape))) == [first[2]]
    assert session.place("models[0].layers[1]").first_after(session.tape, 0) == second[0]
    with pytest.raises(UserError, match=r"no module models\.1\.layers\.7; there are models\.1\.layers\.0"):
        session.place("models[1].layers[7]")


def kinds(kind: type[Place] = Place) -> set[type[Place]]:
    return {kind}.union(*map(kinds, kind.__subclasses__()))


ELSEWHERE = {
    "Edge": "tests/session/test_moves_end.py",
    "TurnStart": "tests/closed/test_turns.py",
    "InTyped": "tests/programs/test_cells.py",
    "InCell": "tests/programs/test_notebook.py",
    "Condition": "tests/session/test_stops.py",
}
"""Places that the program of this file cannot have, or that no command but `goto` takes, and who tries them."""


def test_every_kind_of_place_has_its_row(session: OpenSession) -> None:
    """Who adds a place is told where its test belongs."""
    read: set[str] = set()
    for text, _, _ in PLACES:
        place = session.place(text)
        while isinstance(place, Within):
            read |= {"Within", type(place.inner).__name__}
            place = place.outer
        read.add(type(place).__name__)
    made = {one.__name__ for one in kinds() if one.kind and one.__module__.startswith("nnrepl.")}
    missing = sorted(made - read - ELSEWHERE.keys())
    assert not missing, f"{', '.join(missing)}: no row of PLACES in tests/session/test_places.py reads it"
    assert not ELSEWHERE.keys() & read


def test_every_kind_of_place_that_is_told_by_its_form_is_read() -> None:
    """Who adds one puts it into the list that stands at the end of its file."""
    told = {one.__name__ for one in kinds() if one.form and one.__module__.startswith("nnrepl.")}
    missing = sorted(told - {one.__name__ for one in KINDS})
    assert not missing, f"{', '.join(missing)}: not in the list WRITTEN at the end of its file"
    assert all(re.fullmatch(one.form, word) for one in KINDS for word in one.fixed)


def test_help_tells_every_kind_of_place_that_is_told_by_its_form(session: OpenSession) -> None:
    words = [word.strip(",;") for word in screen(session, "help places").split()]
    spellings = [*words, *map(" ".join, itertools.pairwise(words))]
    for kind in KINDS:
        shown = [word for word in spellings if re.fullmatch(kind.form, word)]
        assert shown, f"nnrepl/view/topics.py: help places shows no {kind.__name__} ({kind.form})"
        assert set(kind.fixed) <= set(shown), f"nnrepl/view/topics.py: help places leaves out one of {kind.fixed}"


def test_every_kind_of_place_says_what_it_is() -> None:
    """A breakpoint at it is listed by these words."""
    bare = {one.__name__ for one in kinds() if not (one.kind and one.words) and one.__module__.startswith("nnrepl.")}
    assert bare == {"Place", "Entered", "InCall", "InNamed", "Within"}  # bases; one that takes its inner's


def test_what_a_loop_asks_its_generator_for_is_no_line_of_its_body(tmp_path: Path) -> None:
    """To Python 3.11 the whole loop is the place of its next item."""
    (tmp_path / "train.py").write_text(
        "import mlx.core as mx\ndef rows():\n    for k in range(3):\n        yield mx.ones(2) * k\n"
        "for row in map(abs,\n               rows()):\n    total = row.sum()\n    last = total + 1\n"
    )
    names = ProgramNames(None)
    recorder = Recorder(names.tape, strict=True)
    script = load_script(str(tmp_path / "train.py"), [])
    with recording(recorder):
        script.run()
    tape, file = names.tape, str(tmp_path / "train.py")
    entered = {
        line: [tape.ops[at].name for at in SourceLine("", file, line).positions(tape, 0, len(tape))]
        for line in (4, 7, 8)
    }
    assert entered == {4: ["ones"] * 3, 7: ["sum"] * 3, 8: ["add"] * 3}


def test_a_function_that_is_given_a_module_is_no_method_of_its_class() -> None:
    class Base(nn.Module):
        def inherited(self) -> None: ...

    class Mine(Base):
        def __call__(self) -> None: ...

    def loss_fn(model: nn.Module) -> None: ...

    def put_there(self: nn.Module) -> None: ...

    Mine.more = put_there  # type: ignore[attr-defined]
    place, owner = InClass("Mine", "Mine"), Mine()
    methods = Mine.__call__, Base.inherited, put_there, nn.Module.parameters
    assert [place.means(method.__code__, owner) for method in methods] == [True] * 4
    assert not place.means(loss_fn.__code__, owner)
    assert not place.means((lambda model: model).__code__, owner)


def test_in_which_step_or_turn_a_place_lies() -> None:
    """Where it lies in one that is named: only that one has to be recorded for it."""
    w = mx.ones(2)
    with nnrepl.recording() as recorded:
        for _ in range(3):
            w = w - 0.1 * mx.grad(lambda w: (w * w).sum())(w)
    session = OpenSession(recorded)
    places = {text: session.place(text) for text in ("step 2", "step 2 sum", "2#1", "step 2 #1", "sum", "update")}
    steps = {text: scouts._step_of(session.tape, place) for text, place in places.items()}
    assert steps == {"step 2": 2, "step 2 sum": 2, "2#1": 2, "step 2 #1": 2, "sum": None, "update": None}
    assert {scouts._turn_of(place) for place in places.values()} == {None}
