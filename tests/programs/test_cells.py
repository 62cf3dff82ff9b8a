"""Cells: what is typed at the end of a program is its next lines; held against plain Python that runs the same."""

from __future__ import annotations

import code
import contextlib
import io
import json
import linecache
import re
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import pytest
from rich.console import Console

from nnrepl.commands import load_all
from nnrepl.commands.blocks import in_file, split
from nnrepl.commands.interpreter import Interpreter
from nnrepl.commands.table import TABLE
from nnrepl.programs.debuggee import Debuggee
from nnrepl.programs.script import Script, empty_script, load_script
from nnrepl.record.names import ProgramNames
from nnrepl.session.errors import Quit, UserError
from nnrepl.session.hooks import Hooks
from nnrepl.session.parsed import parse
from nnrepl.session.session import Stop, TapeSession
from nnrepl.session.typed import CELL, EDIT, LOOK, kind_of
from nnrepl.shell.margin import unfinished
from nnrepl.timeline.typed_cells import make_cell
from nnrepl.view.defines import defines_view, signature
from tests.support import assert_same_bits, nnrepl_cli, plain_python

load_all()


class Typist(Hooks):
    """Types lines, and notes what they were and what was wrong with them."""

    def __init__(self, session: TapeSession, lines: list[str]) -> None:
        self.session = session
        self.interpreter = Interpreter(session)
        self.lines = list(lines)
        self.wrong: list[str] = []
        self.kinds: list[str] = []
        self.stops: list[Stop] = []
        session.hooks = self

    def interact(self) -> None:
        self.stops.append(self.session.stop)
        while self.lines and self.session.waits:
            line = self.lines.pop(0)
            self.kinds.append(kind_of(self.session, parse(line)))
            try:
                self.interpreter.run(line)
            except UserError as error:
                self.wrong.append(str(error))


@pytest.fixture(autouse=True)
def _main() -> Iterator[None]:
    """`__main__`, `sys.argv` and `sys.path` afterwards as they were."""
    main, argv, path = sys.modules["__main__"], sys.argv, list(sys.path)
    yield
    sys.modules["__main__"], sys.argv, sys.path[:] = main, argv, path


def typed(*lines: str, script: Script | None = None) -> tuple[Typist, dict[str, Any], str]:
    """A session in which lines are typed; the program's variables afterwards, and what it printed."""
    names = ProgramNames()
    session = TapeSession(names.tape, names)
    debuggee = Debuggee(script or empty_script(), session)
    typist = Typist(session, list(lines))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(Quit):
        debuggee.run()
    return typist, debuggee.namespace, said.getvalue()


def plain(*lines: str) -> tuple[dict[str, Any], str]:
    """The same lines at Python's own prompt."""
    main = ModuleType("__main__")
    main.__dict__.update(mx=mx)
    console = code.InteractiveConsole(main.__dict__)
    sys.modules["__main__"] = main
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        for line in lines:
            for number, part in enumerate([*line.split("\n"), ""]):
                if number == 0 or line.count("\n"):
                    console.push(part)
    return main.__dict__, said.getvalue()


NET = """class Net(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.up = nn.Linear(d, 3)
        self.down = nn.Linear(3, 1)
    def __call__(self, x):
        return self.down(nn.relu(self.up(x)))"""
LOSS = "def loss_fn(model, x, y):\n    return mx.mean(mx.square(model(x) - y))"
TRAINING = (
    "import mlx.nn as nn", "import mlx.optimizers as optim", "key = mx.random.seed(3)", NET, LOSS, "model = Net(2)",
    "x, y = mx.array([[1.0, 2.0]]), mx.array([[3.0]])", "model(x)", "loss_fn(model, x, y)",
    "grad_fn = nn.value_and_grad(model, loss_fn)", "opt = optim.SGD(0.1)", "loss, grads = grad_fn(model, x, y)", "loss",
    "opt.update(model, grads)", "loss, grads = grad_fn(model, x, y)", "grads['up']['weight']",
    "opt.update(model, grads)", "print('after', loss_fn(model, x, y))", "None", "_",
)  # fmt: skip
"""A student who only types: define, call, loss, gradients, update, twice."""


def test_a_student_who_only_types_sees_what_pythons_prompt_shows() -> None:
    expected, wanted = plain(*TRAINING)
    typist, found, said = typed(*TRAINING)
    assert said == wanted
    assert_same_bits(expected["model"].parameters(), found["model"].parameters())
    assert typist.wrong == []
    assert set(typist.kinds) == {CELL}
    phases = {op.phase for op in typist.session.tape.ops}
    assert phases == {"setup", "forward", "backward", "update"}
    assert not typist.session.tape.holes


def test_a_weight_set_in_an_earlier_cell_changes_what_follows() -> None:
    cells = ["x = mx.array([[1.0, 2.0]])", "w = mx.ones((2, 3))", "y = x @ w", "z = (y * y).sum()", "print(z)"]
    expected, wanted = plain(*cells[:2], "w[0, 0] = 5.0", *cells[2:])
    typist, found, said = typed(*cells, "goto prompt 3", "w[0, 0] = 5.0", "c")
    assert typist.wrong == []
    assert typist.kinds[-2] == EDIT
    assert said.endswith(wanted)
    assert_same_bits([expected[name] for name in "wyz"], [found[name] for name in "wyz"])


def test_undo_takes_cells_back_and_what_they_did() -> None:
    typist, found, _ = typed("a = [1]", "b = mx.ones(2)", "a.append(2); b *= 3", "undo", "c = b + len(a)")
    assert typist.wrong == []
    assert found["a"] == [1]
    assert_same_bits(found["c"], mx.full((2,), 2.0))
    assert [op.name for op in typist.session.tape.ops] == ["ones", "add"]


def test_debug_stops_before_the_first_op_of_a_statement() -> None:
    typist, found, _ = typed("x = mx.ones(2)", "debug y = x * 2 + 1", "s", "p x", "c")
    assert (typist.stops[2].reason, typist.stops[-1].reason) == ("first op of prompt 2", "end of cell")
    assert typist.stops[2].position == 1
    assert typist.kinds[2:4] == [LOOK, LOOK]
    assert_same_bits(found["y"], mx.full((2,), 3.0))


def test_breakpoints_and_catches_are_hit_in_cells() -> None:
    typist, _, _ = typed("x = mx.ones(2)", "tbreak exp", "y = mx.exp(x) * 2", "c", "catch nan", "mx.log(x - 2)", "q")
    assert typist.wrong == []
    hit = [typist.session.tape.ops[stop.position].name for stop in typist.stops if stop.hits]
    assert hit == ["exp", "log"]


def test_in_the_past_an_expression_is_a_look() -> None:
    typist, _, said = typed("x = mx.ones(2)", "y = x * 2", "goto prompt 2", "x + 1", "goto end", "x + 1")
    assert typist.kinds == [CELL, CELL, LOOK, LOOK, LOOK, CELL]
    assert said == "array([2, 2], dtype=float32)\n"
    assert [op.name for op in typist.session.tape.ops] == ["ones", "multiply", "add"]


def test_what_only_the_tape_knows_is_looked_at_at_the_end_as_well() -> None:
    typist, _, _ = typed(
        "def f(x):\n    hidden = x * 2\n    return hidden + 1", "y = f(mx.ones(2))", "hidden", "#2", "grad(y)"
    )
    assert typist.kinds[2:] == [LOOK, LOOK, LOOK]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("y = nosuch", "NameError: name 'nosuch' is not defined"),
        ("import nosuch", "ModuleNotFoundError: No module named 'nosuch'"),
        ("mx.ones((2, 3)) @ mx.ones(2)", "ValueError: [matmul]"),
        ("class A:\n    x = 1\n    y = 1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", ""),
        ("print('before'); raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_a_cell_that_fails_loses_nothing(line: str, said: str) -> None:
    """Python's own traceback of the user's lines, and the next line is a cell again."""
    typist, found, shown = typed("x = mx.ones(2)", line, "y = x * 2")
    assert said in shown
    assert "nnrepl/" not in shown
    if line == "y = nosuch":
        assert "\n    y = nosuch\n        ^^^^^^\n" in shown
    assert typist.kinds[-1] == CELL
    assert_same_bits(found["y"], mx.full((2,), 2.0))


@pytest.mark.parametrize("line", ["return 5", "x = = 3", "foo("])
def test_what_is_no_python_is_one_line(line: str) -> None:
    typist, _, _ = typed("x = 1", line)
    assert len(typist.wrong) == 1
    assert "pars" in typist.wrong[0]


def test_await_and_future_features() -> None:
    _, found, _ = typed(
        "from __future__ import annotations", "import asyncio", "a = await asyncio.sleep(0, 7)",
        "def f(x: nosuch): pass", "kept = f.__annotations__",
    )  # fmt: skip
    assert (found["a"], found["kept"]) == (7, {"x": "nosuch"})


def test_a_file_that_only_defines_opens_with_its_names(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    net = NET.replace("\n", '\n    """Two layers."""\n', 1)
    file.write_text(f"import mlx.core as mx\nimport mlx.nn as nn\n{net}\nfirst = Net(2)\n")
    typist, found, _ = typed("out = Net(4)(mx.ones((1, 4)))", script=load_script(str(file), []))
    assert typist.kinds == [CELL]
    assert found["out"].shape == (1, 1)
    assert signature("Net", found["Net"]) == "Net(d)"
    console = Console(width=60, file=io.StringIO(), record=True)
    console.print(*defines_view({**found, "__name__": found["Net"].__module__}))
    assert re.search(r"^  Net\(d\)  +Two layers\.$", console.export_text(), re.MULTILINE)
    assert typist.stops[0].position == 2 * len(found["first"].children())


def test_the_source_of_a_cell_is_known() -> None:
    typist, _, _ = typed("def f(x):\n    return x * 2", "y = f(mx.ones(2))")
    source = typist.session.tape.ops[-1].source
    assert (source.file, source.line, source.text) == ("<prompt 1>", 2, "x * 2")
    assert linecache.getline("<prompt 1>", 1) == "def f(x):\n"


BLOCKS = '''@decorated
class A:
    """Text

not indented."""

    x = 1

    def f(self):
        return (1 +
2)
# a remark
    y = 2
if x:
    a = 1
else:
    a = 2
b break loss
x = [
1]
p x
'''


def test_lines_that_belong_together() -> None:
    lines = BLOCKS.splitlines()
    found = split(lines, TABLE)
    assert [block.splitlines()[0] for block in found] == ["@decorated", "if x:", "b break loss", "x = [", "p x"]
    assert "\n".join(found).replace("\n\n", "\n") == "\n".join(line for line in lines if line)
    python = lines[: lines.index("b break loss")]
    assert split(python, TABLE) == ["\n".join(python)]


def test_a_pipe_types_cells(tmp_path: Path) -> None:
    text = "class A:\n    x = 1\n\n    def f(self):\n        return mx.ones(2)\nA().f()\n"
    text += "for i in range(2):\n    print(i)\n1 / 0\n"
    result = nnrepl_cli("--empty", stdin=text, cwd=tmp_path)
    assert "(nnrepl 2) A().f()\narray([1, 1], dtype=float32)\n" in result.stdout
    assert "0\n1\n(nnrepl 4) 1 / 0\n" in result.stdout
    assert result.stderr.count("Traceback") == 1
    assert result.returncode == 1


LINES = [
    ("class A:\n    x = 1", True), ("class A:\n    x = 1\n    ", True), ("class A:\n    x = 1\n    \n    ", False),
    ("class A:\n    x = 1\n", False), ("class A:\n    def f(self):\n        return 1\n        ", True),
    ("def f(x):\n    return x\n    ", False), ("def f(x):\n    y = x\n    ", True), ("for i in x:\n    i\n    ", False),
    ("for i in x:\n    i", True), ("class A:\n    x = 1\n\ny = 2", False), ("x = (1,\n", True), ("x = 1", False),
    ("@d", True), ("def f():\n    ", False), ("p x", False), ('"""a\n\n', True), ("if x: y", False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), LINES)
def test_an_empty_line_ends_only_where_no_other_could_belong(text: str, wanted: bool) -> None:
    assert unfinished(text, TABLE) is wanted


def test_a_python_file_is_a_cell_and_a_file_of_commands_is_lines(tmp_path: Path) -> None:
    text = "class A:\n    x = 1\n\n    def f(self):\n        return mx.ones(2)\n\nlist = [A()]\ny = list[0].f()\n"
    (tmp_path / "made.py").write_text(text)
    (tmp_path / "lines").write_text(f"#! a remark\n{text}p y\nfor i in range(2):\n    y = y + 1\ny\n")
    (tmp_path / "command.py").write_text("help\n")
    typist, _, _ = typed(f"source {tmp_path}/made.py")
    assert typist.interpreter.given == deque([text])
    assert in_file((tmp_path / "command.py").read_text(), "command.py", TABLE) == ["!help\n"]
    result = nnrepl_cli("--empty", "-x", "made.py", "-x", "lines", stdin="", cwd=tmp_path)
    assert "(nnrepl 1) class A:\n" in result.stdout
    assert "(nnrepl 4) y\n" not in result.stdout
    assert "(nnrepl 6) y\narray([3, 3], dtype=float32)\n" in result.stdout
    assert (result.stderr, result.returncode) == ("", 0)


def test_a_call_is_made_when_the_program_has_run(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        f"import sys\nimport mlx.core as mx\nimport mlx.nn as nn\n{NET}\nargs = sys.argv[1:]\n"
    )
    call = ("--call", "net = Net(2)", "--call", "y = net(mx.ones((1, 2)))\nz = y - y")
    given = (
        "-c",
        "info locals",
        "-c",
        "p args",
        "-c",
        "goto Net.__call__",
        "-c",
        "continue",
        "-c",
        "p z",
        "-c",
        "p args",
    )
    result = nnrepl_cli(*given, "model.py", *call, "a", "--call", "b", stdin="", cwd=tmp_path)
    assert "z = [[0]]\n" in result.stdout
    assert "args = ['a', '--call', 'b']" in result.stdout
    assert "\nfirst op of prompt 1\n" in result.stdout.partition("(nnrepl) info locals")[0]
    assert (result.stderr, result.returncode) == ("", 0)
    theirs = nnrepl_cli("--batch", "-c", "continue", "-c", "p args", "--", "model.py", "--call", "b", cwd=tmp_path)
    assert "args = ['--call', 'b']" in theirs.stdout
    wrong = nnrepl_cli("model.py", "--call", "y = = 3", stdin="", cwd=tmp_path)
    assert (wrong.stderr, wrong.returncode) == ("nnrepl: --call 'y = = 3' does not parse: invalid syntax\n", 2)


def test_a_program_comes_from_standard_input(tmp_path: Path) -> None:
    text = "import sys\nimport mlx.core as mx\nprint(sys.argv, __file__, __name__, sys.path[0])\n"
    text += "x = mx.ones(2) * 3\nprint(x)\nprint(sorted(key for key in globals() if key[0] == '_'))\n"
    result = nnrepl_cli("--batch", "-c", "goto multiply", "-c", "list", "-c", "continue", "-", "a", stdin=text)
    expected = plain_python("-", "a", stdin=text).stdout
    assert set(expected.splitlines()) - set(result.stdout.splitlines()) == set()
    assert "x = mx.ones(2) * 3" in result.stdout
    wrong = nnrepl_cli("-", stdin="x = = 3")
    assert (wrong.stderr, wrong.returncode) == ("nnrepl: standard input, line 1: invalid syntax\n", 1)


SCRIPTED = (
    '"""A model."""\nfrom __future__ import annotations\nimport sys\nimport mlx.core as mx\nimport mlx.nn as nn\n'
)
SCRIPTED += f"import beside\n{NET}\nmx.random.seed(1)\nprint(sys.argv[1:], __name__, beside.y)\nsys.exit(3)\n"
ODD = (
    "from __future__ import division", "'''a\n  b'''", "for i in range(2): i; print('é', i)", "(1 +\n 2)",
    "net = Net(2)", "net(mx.ones((1, 2)))", "def f(x):\n    x\n    return x * 2", "f(3); f(4)", "f(5); a = f(6)",
    "x = '''é\n'''; 1 / 0", "if True:\n    None\n    x, _", "raise SystemExit(2)", "'é' 'é'; # a remark",
    "optim.SGD(0.1).learning_rate", "[i for i in 'ab']",
)  # fmt: skip
"""Cells whose results Python's prompt shows, or does not, in its own way."""


def exported(tmp_path: Path, *lines: str, script: Script | None = None) -> tuple[str, str]:
    """What a session has printed, and what plain Python prints that runs the session as it was written."""
    (tmp_path / "out").mkdir()
    typist, _, said = typed(
        *lines, f"export {tmp_path}/out/session.py", f"export {tmp_path}/out/session.ipynb", script=script
    )
    assert typist.wrong == []
    return said, plain_python("out/session.py", cwd=tmp_path).stdout


def quiet(said: str) -> str:
    """What was printed, without tracebacks."""
    return re.sub(r"Traceback.*\n(?:  .*\n)*\w+.*\n", "", said)


def test_what_was_typed_is_written_as_a_program_that_prints_the_same(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("y = 5\n")
    (tmp_path / "model.py").write_text(SCRIPTED)
    said, found = exported(tmp_path, *ODD, script=load_script(str(tmp_path / "model.py"), ["a b"]))
    assert quiet(said) == found
    assert "['a b'] __main__ 5\n" in found
    document = json.loads((tmp_path / "out" / "session.ipynb").read_text())
    sources = ["".join(cell["source"]) for cell in document["cells"]]
    assert sources[-len(ODD) :] == list(ODD)
    assert [cell["metadata"] for cell in document["cells"]].count({"tags": ["raises-exception"]}) == 3


def test_a_training_is_written(tmp_path: Path) -> None:
    said, found = exported(tmp_path, *TRAINING)
    assert said == found


def test_an_edit_between_two_cells_is_written_and_one_in_a_call_is_named(tmp_path: Path) -> None:
    cells = ["w = mx.ones((2, 3))", "def f(x):\n    y = x * 2\n    return y + 1", "z = f(w).sum()", "print(z)"]
    said, found = exported(tmp_path, *cells, "goto prompt 3", "w[0, 0] = mx.array(5.0)", "goto add", "y = y * 3", "c")
    assert said.splitlines()[-1] == "array(66, dtype=float32)"
    text = (tmp_path / "out" / "session.py").read_text()
    assert "# left out, in the middle of a call: y = y * 3\n" in text
    assert found == "array(26, dtype=float32)\n"


def test_what_no_program_can_hold_is_one_line(tmp_path: Path) -> None:
    line = f"export {tmp_path}/session.py"
    typist, _, _ = typed("import asyncio", "await asyncio.sleep(0)", line, line.replace(".py", ".ipynb"))
    assert typist.wrong == ["prompt 2 has an await at its top level, which no .py file can have: export session.ipynb"]


def test_redo_brings_back_what_undo_took_and_looks_are_skipped() -> None:
    lines = ("a = [1]", "b = mx.ones(2)", "a.append(2); b *= 3", "b", "len(a)", "print(b + 1)")
    moves = ("undo", "redo", "undo", "undo", "redo", "redo", "redo")
    typist, found, said = typed(*lines, *moves, "c = b + len(a)")
    assert typist.wrong == ["there is nothing to redo"]
    assert found["a"] == [1, 2]
    assert_same_bits(found["c"], mx.full((2,), 5.0))
    assert said.count("array([4, 4]") == 3


def test_a_timeline_on_which_cells_come_right_after_the_program_has_ended(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import mlx.core as mx\ny = mx.array(1.0) * 2\nz = (y * 3).item()\n")
    lines = ["c", "k = z", "goto ends.py:3", "y = y * 2", "c", "undo", "goto end", "p z", "redo", "goto end", "p z, k"]
    said = nnrepl_cli("--plain", "ends.py", stdin="\n".join([*lines, "q", "y", ""]), cwd=tmp_path).stdout
    assert re.findall(r"^\w = [\d.]+", said, re.MULTILINE) == ["z = 6.0", "z = 12.0", "k = 12.0"], said


def test_what_is_typed_behind_an_undo_takes_its_place() -> None:
    typist, found, _ = typed("a = [1]", "a.append(2)", "undo", "a.append(3)", "redo", "undo", "undo", "undo")
    assert typist.wrong == ["there is nothing to redo", "there is nothing to undo: this is timeline 1, without edits"]
    assert "a" not in found


@pytest.mark.parametrize(
    ("text", "looks"),
    [
        ("x", True), ("x.shape, len(x)", True), ("print(x + 1)", True), ("loss.item()", True), ("f(x)", False),
        ("x = 1", False), ("(y := 2)", False), ("x.append(1)", False), ("await x", False), ("model.parameters()", True),
        ("f'{x}'", True), ("[y for y in x]", True), ("model.update(x)", False), ("", True), ("print(f())", False),
    ],
)  # fmt: skip
def test_what_only_looks(text: str, looks: bool) -> None:
    assert make_cell(1, f"{text}\nNone").looks is looks


def test_what_was_printed_is_not_printed_again_on_another_timeline(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import mlx.core as mx\nx = mx.ones(2)\nprint('script')\n")
    lines = (
        "w = x * 2\ny = w + 1\nprint('cell', y.sum().item())\ngoto prompt 2\nw = w * 3\nc\nundo\nz = y - 1\nprint(z)\n"
    )
    result = nnrepl_cli("model.py", stdin=f"c\n{lines}", cwd=tmp_path)
    assert [line for line in result.stdout.splitlines() if line.startswith(("script", "cell", "array"))] == [
        "script", "cell 6.0", "cell 14.0", "array([2, 2], dtype=float32)",
    ]  # fmt: skip


def test_leaving_is_quiet(tmp_path: Path) -> None:
    """`exit()` closes standard input, as site's does."""
    result = nnrepl_cli("--empty", stdin="x = mx.ones(2)\nexit()\nx\n", cwd=tmp_path)
    assert (result.stderr, result.returncode) == ("", 0)
    assert result.stdout.endswith("(nnrepl 2) exit()\n")


COUNTING = """\
import mlx.core as mx
import mlx.nn as nn
mx.random.seed(2)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = mx.random.normal((2, 2))
        self.calls = 0
    def __call__(self, x):
        self.calls += 1
        h = x @ self.w
        return (h * mx.random.uniform(shape=(2,))).sum()
net = Net()
x = mx.ones((1, 2))
loss, grads = nn.value_and_grad(net, lambda net: net(x))(net)
print(loss, grads["w"], net.calls, mx.random.uniform())
"""


def test_debug_in_the_middle_is_on_a_tape_of_its_own(tmp_path: Path) -> None:
    """The program prints what it prints under plain Python: its counter and its random state have not moved."""
    (tmp_path / "net.py").write_text(COUNTING)
    wanted = plain_python("net.py", cwd=tmp_path).stdout
    looks = ("debug y = self(h * 2)", "goto matmul", "s", "p h", "out", "p y", "self(h)", "p self.calls")
    more = ("debug h @ h.T", "q", "debug h @ mx.ones(3)", "out", "c", "goto matmul", "debug nn.relu(x)", "q")
    typist, _, said = typed("until uniform", *looks, *more, script=load_script(str(tmp_path / "net.py"), []))
    assert typist.wrong == []
    assert said == wanted
    assert typist.session.tape.ops[0].name == "random.normal"


def test_debug_in_the_middle_gives_what_the_expression_gives(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(COUNTING)
    lines = ("until uniform", "debug y = mx.tanh(h @ self.w)", "p h", "q", "pp (y == mx.tanh(h @ self.w)).all().item()")
    given = [word for line in (*lines, "debug z = print(1)") for word in ("-c", line)]
    result = nnrepl_cli("--batch", *given, "net.py", cwd=tmp_path)
    assert "2 ops on a tape of their own" in result.stdout
    assert "\nTrue\n" in result.stdout
    assert "z = print(1) makes no op" in result.stdout


def test_a_file_is_mended_behind_a_cell_that_failed_and_called_again(tmp_path: Path) -> None:
    wrong = f"import mlx.core as mx\nimport mlx.nn as nn\n{NET}\n".replace("self.down(nn", "self.up(nn")
    (tmp_path / "net.py").write_text(wrong)
    (tmp_path / "mended.py").write_text(wrong.replace("self.up(nn", "self.down(nn"))
    mend = f"import shutil; shutil.copy('{tmp_path}/mended.py', '{tmp_path}/net.py'); None"
    lines = ("net = Net(2)", "net(mx.ones((1, 2)))", mend, "reload", "y = net(mx.ones((1, 2)))", "z = y + 1")
    typist, found, said = typed(*lines, script=load_script(str(tmp_path / "net.py"), []))
    assert typist.wrong == []
    assert typist.lines == []
    assert said.count("Traceback") == 1
    assert found["z"].shape == (1, 1)
    assert typist.kinds[-1] == CELL


HANGING = """\
import mlx.core as mx
w = mx.array([1.0, 2.0])
for i in range(4):
    loss, g = mx.value_and_grad(lambda w: (w * w).sum())(w)
    w = w - 0.1 * g
    mx.eval(w)
"""
PRESSED = """\
if not os.path.exists("pressed"):
    open("pressed", "w").close(); os.kill(os.getpid(), 2)
while True: time.sleep(0.01)
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_a_cell_that_was_broken_off_is_where_it_runs_again(native: str, tmp_path: Path) -> None:
    """It made no op, and would never end: once it was told to, what opens a step or changes one has to end it."""
    (tmp_path / "program.py").write_text(HANGING)
    loop = f"a = 5; exec({PRESSED!r})"
    changed = ["goto step 2", "until backward", "w = w * 2", "timeline 1"]
    lines = ["c", "import os, time", loop, *changed, "goto end", "p a", "p loss.item()", "c", "a = a + 1", "p a"]
    result = nnrepl_cli(
        "--plain", "program.py", stdin="\n".join([*lines, ""]), cwd=tmp_path, env={"NNREPL_NATIVE": native}, timeout=60
    )
    assert "KeyboardInterrupt" in result.stderr
    assert result.stderr.count("Traceback") == 1
    for said in ("timeline 2", "\na = 5\n", "loss.item() = 1.3107", "\na = 6\n"):
        assert said in result.stdout


@pytest.mark.parametrize("native", ["on", "off"])
def test_what_is_typed_below_the_cells_of_an_older_timeline_comes_after_them(native: str, tmp_path: Path) -> None:
    """The program stands on another one: it runs along to the end of this one first, and the line is its next cell."""
    (tmp_path / "program.py").write_text(HANGING)
    changed = ["goto step 2", "until backward", "w = w * 2", "timeline 1", "goto end"]
    lines = ["c", "a = 5", *changed, "a = a + 1", "p a", "p loss.item()", "timelines"]
    result = nnrepl_cli(
        "--plain", "program.py", stdin="\n".join([*lines, ""]), cwd=tmp_path, env={"NNREPL_NATIVE": native}, timeout=60
    )
    assert "\na = 6\n" in result.stdout
    assert "loss.item() = 1.3107" in result.stdout
    assert "  3 " not in result.stdout.split(") timelines")[1]
