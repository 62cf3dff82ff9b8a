"""Terminals of every kind: few columns, no Unicode, control codes in what is shown, lines that a program left open."""

from __future__ import annotations

import ast
import io
import re
import sys
import unicodedata
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

import nnrepl
from nnrepl.programs.output import HeldOutput
from nnrepl.record.names import ProgramNames
from nnrepl.shell.consoles import _Tolerant, lines_of, make_console
from nnrepl.view.digits import number
from nnrepl.view.glyphs import ASCII, encodable, harmless
from nnrepl.view.narrow import Grid
from nnrepl.view.theme import DARK
from tests.support import ROOT, OpenSession, nnrepl_cli


def console(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, theme=DARK, highlight=False, markup=False)


def shown(view: object, width: int) -> list[str]:
    return ["".join(segment.text for segment in line).rstrip() for line in lines_of(console(width), view)]  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "no such encoding"])
def test_every_number_keeps_its_sign_in_every_encoding(encoding: str) -> None:
    text = "∂L/∂z1 = −6 · 0.5 ≤ ∞ → x² ✓ ▶ ━━ 权重 ŷ ⣀⢸ ▁▅█ ‖3‖"
    said = encodable(text, encoding)
    assert "?" not in said
    assert "-6" in said
    assert said.startswith(("dL/dz1 = -6", "∂L"))
    if encoding != "no such encoding":
        said.encode(encoding)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    _Tolerant(stream).write(text)
    stream.flush()
    assert b"dL/dz1 = -6" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_every_sign_that_is_written_has_a_stand_in() -> None:
    signs = set()
    for path in sorted((ROOT / "nnrepl").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.isascii() and not re.search(r"\\[uUxN0-7]", text):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                signs |= {sign for sign in node.value if not sign.isascii()}
    lacking = [
        sign for sign in signs
        if sign not in ASCII and unicodedata.category(sign)[0] not in "CZ"
        and not unicodedata.normalize("NFKD", sign).encode("ascii", "ignore")
        and not 0x2400 <= ord(sign) < 0x2900
    ]  # fmt: skip
    assert not lacking, sorted(lacking)


def test_output_without_unicode_is_readable() -> None:
    result = nnrepl_cli("--batch", "-c", "s", "-c", "until backward", "-c", "s", env={"PYTHONIOENCODING": "ascii"})
    assert "?" not in result.stdout.replace("= ?", "")
    assert "dL/d" in result.stdout
    assert "\\u" not in result.stdout


@pytest.mark.parametrize(("plain", "colours"), [(False, "truecolor"), (True, None)])
def test_colours_are_for_a_terminal(plain: bool, colours: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And for none else, whatever the surroundings ask of everyone."""
    for name, value in (("FORCE_COLOR", "1"), ("COLORTERM", "truecolor"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    for there, expected in ((True, colours), (False, None)):
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        monkeypatch.setattr(sys.stdout, "isatty", lambda there=there: there, raising=False)
        console = make_console(plain)
        assert console.color_system == expected
        assert console.is_terminal == (expected is not None)


@pytest.mark.parametrize("width", [40, 80])
def test_longer_stand_ins_break_no_line(width: int) -> None:
    """What is laid out fits when its signs have been written otherwise (`||2||`, `sqrt x`)."""
    model = Deep()
    session = OpenSession(nnrepl.trace(lambda x: mx.sqrt(model(x) * model(x)), mx.ones((1, 2)), wrt=model))
    session.run("goto end")
    out = Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=width, theme=DARK, highlight=False, markup=False
    )
    for line in ("graph pass norms", "info gradients", "explain update first_projection.weight", "why loss", "ops"):
        try:
            view = session.run(line)
        except nnrepl.UserError as error:
            view = Text(str(error))
        for pieces in lines_of(out, view):  # type: ignore[arg-type]
            text = "".join(piece.text for piece in pieces)
            assert text.isascii()
            assert len(text) <= width, text


def test_the_result_of_an_op_is_seen_in_few_columns() -> None:
    model = Deep()
    session = OpenSession(nnrepl.trace(lambda x: model(x), mx.ones((1, 2)), wrt=model))
    session.run("goto hidden")
    for line in ("ops", "graph forward"):
        row = next(row for row in shown(session.run(line), 40) if " maximum " in row)
        assert row.endswith("→  hidden") or "→  hidden (" in row, row
    session.run("goto backward")
    for width, count in ((40, 2), (80, 1)):
        lines = shown(session.stop, width)
        heading = lines[: next(at for at, line in enumerate(lines) if line.startswith("▶"))]
        assert len(heading) == count, heading
        assert "back through" in heading[-1]
        assert "test_terminals.py:" in heading[-1]


def test_control_codes_control_nothing() -> None:
    bad = "a\x1b[2Jb\x07c\x9bd\u202ee\rf"
    assert harmless(bad).isprintable()
    for view in (Text(bad), Text(f"no file {bad}.py")):
        for line in lines_of(console(80), view):
            assert all(segment.text.isprintable() for segment in line if not segment.control)
    kept = [Segment("x\x1b", None), Segment("", None, [(1,)])]  # type: ignore[list-item]
    assert kept[1].control


def test_control_codes_in_a_source_line_and_an_exception(tmp_path: Path) -> None:
    script = tmp_path / "bad\x1b[31m.py"
    script.write_text("import mlx.core as mx\nx = mx.ones((2,)) * 2  # \x1b[2J\nraise ValueError('\x1b]0;t\x07')\n")
    result = nnrepl_cli(str(script), stdin="s\nl\nc\n")
    assert "\x1b" not in result.stdout
    assert "ValueError" in result.stdout


def test_minus_can_be_pasted_into_python_and_minus_zero_is_seen() -> None:
    session = OpenSession(nnrepl.trace(lambda w: (w * -2.5).sum(), mx.array([1.0, -0.0]), wrt=0))
    text = "\n".join(shown(session.run("explain #1"), 80))
    assert "-2.5" in text
    assert "−" not in text
    assert number(-0.0) == "-0"
    assert number(0.0) == "0"
    assert "w = [ 1 -0]" in "\n".join(shown(session.run("p w"), 80))


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first_projection = nn.Linear(2, 3)
        self.second_projection = nn.Linear(3, 1)

    def __call__(self, x: mx.array) -> mx.array:
        hidden = mx.maximum(self.first_projection(x) - 100, 0)
        return self.second_projection(hidden).sum()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("why grad(first_projection.weight) == 0", ["here it becomes 0", "= 0 everywhere", "∂L/∂hidden"]),
        ("info parameters", ["first_projection.weight", "float32", "norm 0"]),
        ("what hidden", ["made by", "(1, 3)"]),
    ],
)
def test_nothing_that_matters_is_cut_at_40_columns(line: str, wanted: list[str]) -> None:
    model = Deep()
    session = OpenSession(nnrepl.trace(lambda x: model(x), mx.ones((1, 2)), wrt=model))
    session.run("goto end")
    lines = shown(session.run(line), 40)
    assert max(map(len, lines)) <= 40
    text = " ".join(" ".join(lines).split())
    for part in wanted:
        assert part in text, text


def test_a_grid_stacks_only_where_it_would_be_cut() -> None:
    grid = Grid()
    for title in ("name", "value"):
        grid.add_column(title)
    grid.add_row("a", "1")
    assert shown(grid, 40) == ["name  value", "a     1"]
    grid.add_row("weights of a layer", "0.123456 and a good deal more than fits")
    stacked = shown(grid, 40)
    assert stacked[:3] == ["a", "  value 1", "weights of a layer"]
    assert " ".join(" ".join(stacked[3:]).split()) == "value 0.123456 and a good deal more than fits"
    assert shown(grid, 80)[0].startswith("name ")


def test_a_line_that_the_program_left_open_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "bar.py"
    script.write_text(
        "import sys\nimport mlx.core as mx\nprint('first')\nsys.stdout.write('30%|###  |')\n\n"
        "def f(x):\n    y = x * 2\n    print('one', end='')\n    return y.sum()\n\nmx.grad(f)(mx.ones((2,)))\n"
    )
    lines = nnrepl_cli(str(script), stdin="s\ns\nq\n").stdout.splitlines()
    assert lines[0].startswith("nnrepl ")  # the banner comes before what the program prints
    bar = lines.index("30%|###  |")
    assert bar == lines.index("first") + 1
    assert lines[bar + 1].startswith("step 1 · forward 1 of ")
    assert lines[lines.index("(nnrepl) s") + 1 :][:2] == ["one", "y = [2 2]"]


def test_where_a_program_has_left_the_cursor() -> None:
    tape = ProgramNames().tape
    held = HeldOutput(lambda: tape)
    for data, open_ in ((b"a\n", False), (b"a", True), (b"a\n\x1b[K", False), (b"\r", False), (b"\r 3%", True)):
        held._keep(held._streams[0], data)
        assert held.midline is open_, data
    held.ended()
    assert not held.midline


def test_a_bar_that_goes_elsewhere_leaves_no_line_open(tmp_path: Path) -> None:
    tape = ProgramNames().tape
    held = HeldOutput(lambda: tape)
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        for stream, file in zip(held._streams, (out, err)):
            stream.real = file
        held._keep(held._streams[1], b" 3%")
        assert not held.midline
        held._streams[1].real = out
        held._keep(held._streams[1], b" 3%")
        assert held.midline


def test_no_answer_is_wider_than_the_terminal() -> None:
    """A line that is breaks in the middle of a word, and pushes the next one down."""

    model = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(3, 3), nn.ReLU())])
    session = OpenSession(nnrepl.trace(lambda x: model(x).sum(), mx.ones((2, 3)), wrt=model))
    lines = (
        "examples", "help all", "help places", "info passes", "info gradients", "ops", "list", "health thresholds",
        "config", "why grad(layers.0.weight)", "what x", "stats layers.*.weight", "graph pass", "apropos gradient",
    )  # fmt: skip
    for line in lines:
        answer = session.run(line)
        for width in (40, 60, 72, 80, 100, 120):
            widest = max(sum(piece.cell_length for piece in row) for row in lines_of(console(width), answer))  # type: ignore[arg-type]
            assert widest <= width, line
