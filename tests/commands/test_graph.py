"""Graphs and tables: what they show is what is on the tape, and looking evaluates nothing.

`python -m tests.commands.test_graph` writes the files in which it is drawn anew; read the difference.
"""

from __future__ import annotations

import itertools
import re
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from rich.console import Console

import nnrepl
from nnrepl.session.errors import UserError
from nnrepl.timeline.evaluation import Work
from nnrepl.view.drawings import drawing_of
from nnrepl.view.html import _LIGHT, _NIGHT
from nnrepl.view.lanes import nodes_of
from nnrepl.view.log_page import _NAMES
from nnrepl.view.page import COLOURS
from nnrepl.view.theme import THEMES
from tests.corpus import lm
from tests.support import OpenSession

DRAWN = Path(__file__).parent / "drawn"


def llama_session() -> OpenSession:
    model = lm.tiny("llama").train()
    return OpenSession(nnrepl.trace(lm.loss_of(model), lm.tokens_for("llama"), wrt=model))


def small_session() -> OpenSession:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))

    def loss_fn(x: mx.array) -> mx.array:
        y = model(x)
        return mx.mean(y * y + y)

    return OpenSession(nnrepl.trace(loss_fn, mx.ones((4, 2)), wrt=model))


def shown(session: OpenSession, line: str, width: int = 200) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(session.run(line))
    return capture.get()


def evaluated(session: OpenSession) -> int:
    return sum(value.evaluated for op in session.tape.ops for value in op.outputs)


def test_every_op_and_every_flow_is_in_the_drawing() -> None:
    session = llama_session()
    ops = session.tape.passes[-1].ops
    drawn = drawing_of(nodes_of(ops))
    assert sum(not box.leaf for box in drawn.boxes) == len(ops)
    arrows = 0
    for op in ops:  # into a backward op only gradients flow: the rest is its forward op's
        gradients = {value for value in op.inputs if value.name.startswith("∂")}
        arrows += len(gradients or set(op.inputs))
    assert len(drawn.edges) == arrows


@pytest.mark.parametrize("width", [40, 80, 300])
def test_lanes_fit_every_width_and_name_every_op(width: int) -> None:
    session = small_session()
    ops = session.tape.passes[-1].ops
    for phase in ("forward", "backward"):
        lines = shown(session, f"graph {phase}", width).splitlines()
        assert len(lines) == sum(op.phase == phase for op in ops)
        assert max(map(len, lines)) <= width
        assert all("●" in line for line in lines)
    assert evaluated(session) == 0


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_a_pass_stands_beside_its_gradients(width: int) -> None:
    mx.random.seed(5)
    session = small_session()
    forward = [op for op in session.tape.passes[-1].ops if op.phase == "forward"]
    lines = shown(session, "graph pass", width).splitlines()
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if "●" in line]
    assert [line.partition("#")[2].partition(" ")[0] for line in lines if line[0] == "▶"] == ["1"]
    assert [re.search(r"#\d+", line)[0] for line in rows] == [op.label for op in forward]  # type: ignore[index]
    if width < 50:
        rows = [f"{row} {lines[lines.index(row) + 1]}" for row in rows]
    loss = session.tape.passes[-1].loss
    assert loss is not None
    assert f"{loss.array.item():.4f}" in rows[-1]
    assert "∂L/∂" in rows[-1]
    if width == 200:
        weight = next(value for value in session.tape.passes[-1].wrt if value.name == "layers.2.weight")
        gradient = session.tape.passes[-1].grads[weight.canonical][-1].array
        row = next(row for row in rows if "  layers.2.weight " in row)
        told = re.findall(r"[-−]?\d+(?:\.\d+)?", row.partition("  layers.2.weight ")[2])
        numbers = [float(one.replace("−", "-")) for one in told[:3]]
        assert numbers == pytest.approx(gradient.flatten().tolist(), rel=1e-3)
        y = forward[-4].outputs[0].array  # used three times: its gradient is the sum of all parts
        whole = re.search(r"∂L/∂y (\S+) everywhere", " ".join(rows))
        assert whole is not None
        assert float(whole[1]) == pytest.approx((2 * y + 1)[0].item() / 4, rel=1e-3)


def test_a_pass_without_gradients_is_drawn_in_lanes(tmp_path: Path) -> None:
    session = OpenSession(nnrepl.trace(lambda x: mx.exp(x).sum(), mx.ones((2,))))
    session.run("goto start")
    assert shown(session, "graph pass") == shown(session, "graph forward")
    for what in ("", "pass ", "pass norms "):
        session.run(f"graph {what}{tmp_path / f'{len(what)}.html'}")
        assert "∂" not in (tmp_path / f"{len(what)}.html").read_text(encoding="utf-8")


def test_sizes_that_are_not_known_are_left_out_and_computed_when_asked_for() -> None:
    session = llama_session()
    session.run("config peek 0")
    plain = shown(session, "graph pass")
    assert "‖" not in plain
    assert "graph pass norms computes them" in plain
    assert evaluated(session) == 0
    weights = [
        value for value in session.tape.passes[-1].wrt if value.name.endswith("layers.0.self_attn.q_proj.weight")
    ]
    found = shown(session, "graph pass norms", 400)
    assert "‖" in found
    assert "computes them" not in found
    gradient = session.tape.passes[-1].grads[weights[0].canonical][-1]
    assert gradient.evaluated


def test_every_result_of_an_op_is_in_its_box() -> None:
    session = small_session()
    op = next(op for op in session.tape.ops if op.name == "vjp of addmm")
    drawn = drawing_of(nodes_of([op]))
    said = " ".join(line for box in drawn.boxes for line in box.lines)
    assert all(value.name in said for value in op.outputs)


def test_a_large_pass_is_folded_by_module_and_a_module_unfolds() -> None:
    session = llama_session()
    folded = shown(session, "graph pass")
    assert "layers.0.self_attn" in folded
    assert len(folded.splitlines()) < len(session.tape.passes[-1])
    unfolded = shown(session, "graph model.layers.0.self_attn")
    assert "fast.scaled_dot_product_attention" in unfolded


def test_at_the_end_of_the_tape_the_drawing_is_around_its_last_op() -> None:
    session = small_session()
    session.goto("end")
    last = session.tape.ops[-1]
    assert session.op is None
    assert shown(session, "graph").startswith(shown(session, f"graph {last.label}"))


def test_files(tmp_path: Path) -> None:
    session = llama_session()
    for suffix in ("dot", "mmd"):
        assert "Wrote" in shown(session, f"graph {tmp_path}/net.{suffix}")
    shown(session, f"graph forward {tmp_path}/net.svg")
    assert evaluated(session) == 0
    _boxes_apart(tmp_path / "net.svg")
    shown(session, f"graph {tmp_path}/net.svg")
    _boxes_apart(tmp_path / "net.svg")
    dot = (tmp_path / "net.dot").read_text()
    assert dot.count("{") == dot.count("}") == 1
    named = set(re.findall(r"^  (\w+) \[", dot, re.MULTILINE))
    assert set(re.findall(r"(\w+) ->", dot)) | set(re.findall(r"-> (\w+)", dot)) <= named
    assert (tmp_path / "net.mmd").read_text().startswith("flowchart TD\n")


def scaled(w: mx.array, b: mx.array) -> mx.array:
    a = w * 2
    c = a + b
    d = mx.maximum(c, 0)
    e = a * d
    return (e + mx.stop_gradient(a)).sum()


def drawings(folder: Path) -> dict[str, str]:
    """Each way of drawing a pass in which tensors go by other ops, and one that has no gradient, by the file's name."""
    session = OpenSession(nnrepl.trace(scaled, mx.array([[3.0, -4.0]]), mx.array([1.0, 2.0]), wrt=(0, 1)))
    drawn = {}
    for name, what in (
        ("pass.svg", ""),
        ("pass.html", ""),
        ("pass.dot", ""),
        ("pass.mmd", ""),
        ("ops.svg", "forward "),
    ):
        session.run(f"graph {what}{folder / name}")
        drawn[name] = re.sub(r"\d{4}-\d\d-\d\d", "TODAY", (folder / name).read_text(encoding="utf-8"))
    views = [f"--- {line}\n{shown(session, line, 100)}" for line in ("graph pass norms", "graph", "graph backward")]
    drawn["graph.txt"] = "\n".join(line.rstrip() for line in "".join(views).splitlines()) + "\n"
    return drawn


def test_drawings_look_as_they_did(tmp_path: Path) -> None:
    for name, text in drawings(tmp_path).items():
        assert text == (DRAWN / name).read_text(encoding="utf-8"), name


def _boxes_apart(path: Path) -> None:
    picture = ET.parse(path).getroot()
    boxes = [rect for rect in picture.iter("{http://www.w3.org/2000/svg}rect") if rect.get("x")]
    rows: dict[str, list[tuple[float, float]]] = {}
    for box in boxes:
        left, width = float(box.get("x", "")), float(box.get("width", ""))
        assert left >= 0
        assert left + width <= float(picture.get("width", ""))
        rows.setdefault(box.get("y", ""), []).append((left, left + width))
    for row in rows.values():
        row.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(row)), "boxes overlap"


def test_a_page_holds_every_op_folded_and_needs_nothing_else(tmp_path: Path) -> None:
    session = llama_session()
    shown(session, f"graph {tmp_path}/net.html")
    text = (tmp_path / "net.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert not re.search(r"(src|href)=|https?:|url\(", text)
    tree = ET.fromstring(re.sub(r"<meta[^>]*>", "", text.split("\n", 1)[1]))
    folds = list(tree.iter("details"))
    assert any("layers.0" in "".join(fold.find("summary").itertext()) for fold in folds)  # type: ignore[union-attr]
    assert not any(fold.get("open") for fold in folds)
    for fold in folds:  # a summary is a block of its own, which every browser folds: the two columns lie in it
        (row,) = fold.find("summary")  # type: ignore[misc]
        assert (row.tag, row.get("class"), [cell.tag for cell in row]) == ("div", "row", ["span", "span"])
    assert all(len(row) == 2 for row in tree.iter("div") if row.get("class") == "row")
    seen = " ".join(tree.itertext())
    for op in session.tape.passes[-1].ops:
        if op.phase == "forward":
            assert op.label in seen
    assert "∂L/∂" in seen


def contrast(one: str, other: str) -> float:
    """The contrast of two colours `#rrggbb`, 1 to 21, by WCAG 2 (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_colours_of_pages_can_be_read() -> None:
    for theme in COLOURS.values():
        for name, colour in theme.items():
            if name not in ("back", "line"):
                assert contrast(colour, theme["back"]) >= 4.5, name


def test_every_colour_of_the_terminal_has_one_on_a_page_that_can_be_read_there() -> None:
    for theme in THEMES.values():
        for name, style in theme.styles.items():
            if "." in name and name.split(".")[0] in ("value", "source", "tensor", "op", "curve") and style.color:
                assert style.color.name in _NAMES, (name, style.color.name)
    for colours, back in ((_LIGHT, "#ffffff"), (_NIGHT, "#111111")):  # the pages of notebooks
        assert all(contrast(colour, back) >= 4.5 for colour in colours)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("graph nowhere", "no op, value, function or module is called nowhere"),
        ("graph update", "no op is at update"),
        ("graph /nonexistent/net.svg", "cannot write /nonexistent/net.svg"),
        ("graph net.png", "graph writes .dot, .mmd, .svg, .html"),
    ],
)
def test_bad_input(line: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        small_session().run(line)


@pytest.mark.parametrize(
    ("took", "said", "longest"),
    [
        ([], "asked for nothing that was lazy.", []),
        ([(3, 1200, 0.00042)], "once for what was lazy, 3 ops with 1,200 numbers: it took 0.4 ms.",
         ["0.4 ms for 3 ops"]),
        ([(3, 12, 0.04), (2, 5, 0.96)], "2 times for what was lazy, 5 ops with 17 numbers: it took 1.0 s.",
         ["960.0 ms for 2 ops"]),
    ],
)  # fmt: skip
def test_info_evaluations_says_what_was_asked_and_what_it_took(
    took: list[tuple[int, int, float]], said: str, longest: list[str]
) -> None:
    session = small_session()
    session.work.extend(Work(*one, 0) for one in took)
    answer = " ".join(shown(session, "info evaluations").split())
    assert said in answer
    assert re.findall(r"The longest took ([^.]+\.\d ms for \d ops)", answer) == longest


def test_info_evaluates_nothing_but_the_gradients_that_were_asked_for() -> None:
    session = small_session()
    for topic in ("passes", "memory", "evaluations", "args", "locals", "breakpoints", "watch", "display", "frame"):
        shown(session, f"info {topic}")
    assert evaluated(session) == 0
    assert "not computed yet" in shown(session, "info passes")
    session.run("goto end")
    table = shown(session, "info parameters")
    for name in ("layers.0.weight", "layers.2.bias"):
        gradient = session.run(f"p mx.linalg.norm(grad({name}))")
        assert gradient is not None
        expected = mx.linalg.norm(
            session.lookup.gradient(session.lookup.by_words(name, session.cursor), session.cursor).array
        )
        assert f"{expected.item():.4f}" in next(line for line in table.splitlines() if line.startswith(name))


def test_stats_of_a_pattern() -> None:
    session = small_session()
    table = shown(session, "stats layers.*.weight, grad(layers.0.bias)" if session.run("goto end") else "")
    assert "layers.0.weight" in table
    assert "layers.2.weight" in table
    weight = session.lookup.by_words("layers.0.weight", session.cursor).array
    assert f"{mx.max(weight).item():.4f}" in table


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for name, text in drawings(Path(folder)).items():
            (DRAWN / name).write_text(text, encoding="utf-8")
