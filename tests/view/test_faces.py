"""Faces: what the things of the public API show by `str()`, on any rich console, and in a notebook."""

from __future__ import annotations

import base64
import inspect
import io
import math
import pydoc
import re
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from rich.console import Console

import nnrepl
from nnrepl.seen.array_sizes import norms
from nnrepl.view import outline
from nnrepl.view.html import STYLE, png
from nnrepl.view.timeline_tree import _taken_before


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 8), nn.Linear(8, 2)]

    def __call__(self, x: mx.array) -> mx.array:
        h = nn.relu(self.layers[0](x))
        return self.layers[1](h)


@pytest.fixture
def trace() -> nnrepl.Trace:
    net = Net()

    def loss_fn(x: mx.array) -> mx.array:
        seen = x > 0  # noqa: F841 -- used by nobody: no gradient is taken there
        err = net(x) - 1
        return mx.mean(mx.square(err))

    return nnrepl.trace(loss_fn, mx.ones((3, 4)), wrt=net)


FACES: dict[str, Callable[[nnrepl.Trace], object]] = {
    "trace": lambda trace: trace,
    "value": lambda trace: trace["err"],
    "parameter": lambda trace: trace["layers.0.weight"],
    "gradient": lambda trace: trace.grad("err"),
    "op": lambda trace: trace.ops[2],
    "vjp": lambda trace: trace.ops[-1],
    "ops": lambda trace: trace.ops,
    "pass": lambda trace: trace.ops[0].pass_,
    "receipt": lambda trace: trace.verify(),
    "stop": lambda trace: nnrepl.Session(trace).step(),
    "answer": lambda trace: nnrepl.Session(trace).run("explain h"),
    "session": lambda trace: nnrepl.Session(trace),
    "empty answer": lambda trace: nnrepl.Session(trace).run(""),
}


class _Tags(HTMLParser):
    """Counts the tags that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        if tag not in ("img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("kind", FACES)
def test_everything_shows_itself(trace: nnrepl.Trace, kind: str) -> None:
    thing = FACES[kind](trace)
    text = str(thing)
    assert " object at 0x" not in text
    assert "\x1b" not in text
    assert all(len(line) <= 100 for line in text.splitlines())
    plain = Console(file=io.StringIO(), width=60, force_terminal=True, color_system="truecolor")
    plain.print(thing)  # a console that knows none of our styles, and reads [markup]
    shown = plain.file.getvalue()  # type: ignore[attr-defined]
    assert bool(text) == bool(re.sub(r"\x1b\[[\d;]*m", "", shown).strip())
    html = thing._repr_html_()  # type: ignore[attr-defined]
    tags = _Tags()
    tags.feed(html)
    tags.close()
    assert not tags.open
    assert bool(html) == bool(text)


def test_only_what_is_public_is_seen() -> None:
    assert dir(nnrepl) == sorted(nnrepl.__all__)
    assert {name for name in dir(nnrepl.Session) if not name.startswith("_")} == {
        "back", "back_finish", "back_next", "back_pass", "back_resume", "back_step", "cursor", "finish", "goto",
        "last_write", "next", "next_pass", "next_step", "op", "resume", "rewind", "run", "step", "stop", "tape",
        "until",
    }  # fmt: skip
    for thing in (getattr(nnrepl, name) for name in nnrepl.__all__):
        assert inspect.getdoc(thing)
        if isinstance(thing, type) and not issubclass(thing, Exception):
            members = {name: member for kind in thing.__mro__ for name, member in vars(kind).items()}
            written = (inspect.isroutine, lambda member: isinstance(member, property))
            shown = {name: member for name, member in members.items() if any(is_it(member) for is_it in written)}
            assert [name for name, member in shown.items() if name[0] != "_" and not inspect.getdoc(member)] == []
    said = pydoc.render_doc(nnrepl.Session, renderer=pydoc.plaintext)
    assert "-> 'None'\n |      Go" not in said  # a motion says where it has led


def test_what_they_say(trace: nnrepl.Trace) -> None:
    assert re.search(r"\n#\d+ subtract +err +\(3, 2\) +[\d.]+ +[\d.]+ +test_faces.py:\d+  net\(x\) - 1", str(trace))
    assert re.search(r"greater +seen +\(3, 4\) +–", str(trace))  # a bool has no norm, and no gradient is taken
    assert "– no gradient is taken there" in str(trace)
    assert re.search(r"layers.0.weight +\(8, 4\) +[\d.]+ +[\d.]+", str(trace))
    sizes = re.findall(r"^layers\.\S+ +\([\d, ]+\) +[\d.]+ +([\d.]+)  (█*)$", str(trace), re.MULTILINE)
    assert [size for size, _ in sorted(sizes, key=lambda one: len(one[1]))][-1] == max(size for size, _ in sizes)
    assert max(len(bar) for _, bar in sizes) == 24
    assert "err = [[" in str(trace["err"])
    assert "err = net(x) - 1" in str(trace["err"])
    session = nnrepl.Session(trace)
    assert str(session.run("p 40 + 2")) == "42"
    assert repr(session.run("p 'a[bold]:smile:'")) == "'a[bold]:smile:'"
    assert str(session.run("c")) == str(session.run("c")) == "This is the end of the tape."
    session.goto("start")
    assert "bit for bit" in str(trace.verify())
    first, second = session.step(), session.step()
    assert "#2  transpose" in str(first)  # it stood there, though the session has moved on
    assert str(second) == str(session.stop)
    assert "forward 1 of" in str(nnrepl.Session(trace))  # before the first motion, too
    with pytest.raises(nnrepl.UserError, match="nothing here is called nothing") as caught:
        session.run("p nothing")
    assert caught.value._render_traceback_() == [f"UserError: {caught.value}"]


def test_brackets_and_colons_are_no_markup(trace: nnrepl.Trace) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(nnrepl.Session(trace).run("p ['[bold]', ':smile:', '[/x]']"))
    assert console.file.getvalue() == "['[bold]', ':smile:', '[/x]']\n"  # type: ignore[attr-defined]


def test_norms_are_those_of_mlx(trace: nnrepl.Trace) -> None:
    made = outline.outline_of(trace.tape.passes)
    values = [value for op in trace.ops for value in op.outputs]
    sizes = {value: made.size(value) for value in values}
    assert {value for value, size in sizes.items() if size is None} == {trace["seen"]}  # it is of bools
    for value, norm in sizes.items():
        assert norm is None or norm == pytest.approx(mx.linalg.norm(value.array).item(), rel=1e-5)
    for rest in (0, 1000):  # small ones are summed up in Python
        zeros = mx.zeros(rest)
        arrays = [mx.array([3e30, 4e30]), mx.array([3e-30, 4e-30]), mx.zeros(3), mx.array([3j, 4])]
        assert norms([mx.concatenate([one, zeros]) for one in arrays]) == pytest.approx([5e30, 5e-30, 0, 5])
        assert math.isnan(norms([mx.concatenate([mx.array([math.nan, math.inf]), zeros])])[0])
        assert norms([mx.concatenate([mx.array([math.inf, 1]), zeros])]) == [math.inf]
        half = mx.concatenate([mx.array([3e4, 4e4], mx.float16), zeros.astype(mx.float16)])
        assert norms([half]) == pytest.approx([5e4], rel=1e-3)  # the square is beyond float16


def test_repr_computes_nothing_and_a_large_trace_neither(trace: nnrepl.Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repr(trace) == f"<Trace of {len(trace.ops)} ops>"
    assert repr(trace["err"]) == "<Value err (3, 2) float32>"
    monkeypatch.setattr(outline, "MOST", 10)
    assert "not computed yet" in str(trace)
    assert "look at one by its name" in trace._repr_html_()
    assert not any(value.evaluated for op in trace.ops for value in op.outputs)
    assert "not computed yet" not in str(trace["err"])  # this is a look


def test_a_session_says_where_it_is_and_of_many_results_four_are_listed() -> None:
    trace = nnrepl.trace(lambda x: sum(mx.split(x, 5)).sum(), mx.ones((5, 2)))
    rows = [line.split()[:4] for line in str(trace).splitlines()[2:8]]
    shapes = [["(1,", "2)", "1.4142"]] * 3
    assert rows == [["#1", "split", "(1,", "2)"], *shapes, *[[f"#{at}", "add", "(1,", "2)"] for at in (2, 3)]]
    session = nnrepl.Session(trace)
    assert repr(session) == "<Session of 7 ops, at #1 split, forward of step 1>"
    session.goto("end")
    assert repr(session) == "<Session of 7 ops, at the end>"
    for line in ("debug x * 2", "restart", "reload", "edit"):
        with pytest.raises(nnrepl.UserError, match="there is no program here"):
            session.run(line)


def test_several_steps_stand_apart() -> None:
    net, x = Net(), mx.ones((3, 4))
    with nnrepl.recording() as tape:
        for _ in range(2):
            _, grads = nn.value_and_grad(net, lambda x: mx.mean(net(x)))(x)
            net.layers[0].weight = net.layers[0].weight - 0.1 * grads["layers"][0]["weight"]
    text = str(tape)
    assert re.search(r"^step 1  \d+ ops$", text, re.MULTILINE)
    assert re.search(r"^step 2  \d+ ops$", text, re.MULTILINE)
    assert "<summary><b>step 2</b>" in tape._repr_html_()


def test_showing_is_not_recorded() -> None:
    with nnrepl.recording() as tape:
        a = mx.ones((20, 20)) * 2
        count = len(tape.ops)
        assert "min 2 · max 2" in str(tape["#2"])
        assert "multiply" in str(tape)
        tape._repr_html_()
        assert len(tape.ops) == count
    assert a.sum().item() == 800


def test_a_picture_has_the_colours_of_the_numbers() -> None:
    trace = nnrepl.trace(lambda: mx.array([[-1.0, 0.0], [0.5, 1.0]]) * 1)
    html = trace["#1"]._repr_html_()
    data = base64.b64decode(re.findall(r"base64,([^\"]+)", html)[0])
    length = int.from_bytes(data[33:37], "big")
    rows = zlib.decompress(data[41 : 41 + length])
    assert data[16:24] == b"\0\0\0\2\0\0\0\2"
    assert rows[1:4] == bytes((33, 102, 172))  # the coldest
    assert rows[4:7] == bytes((247, 247, 247))  # zero
    assert rows[11:14] == bytes((178, 24, 43))  # the warmest
    assert png([[b"abc"]]).endswith(b"IEND\xaeB`\x82")


def test_the_colours_of_a_notebook_can_be_read() -> None:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    day, night = re.findall(r"\{(--nr0[^}]*)\}", STYLE)
    for rules, page in ((day, "#ffffff"), (night, "#111111")):
        for colour in re.findall(r"#\w{6}", rules):
            high, low = max(light(colour), light(page)), min(light(colour), light(page))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (colour, page)


def test_a_module_unfolds() -> None:
    html = nnrepl.trace(Net(), mx.ones((3, 4)))._repr_html_()
    assert html.count("<details") == 2
    assert "<summary><b>layers.0</b> 2 ops" in html
    assert "&lt;" not in html
    many = nnrepl.trace(lambda x: [x + number for number in range(3000)][-1], mx.ones(2))
    assert "… and 2,000 more" in many._repr_html_()
    assert "… and 2,880 more" in str(many)
    assert "… and 2,900 more" in str(many.ops)


def test_what_took_a_tensor_in_the_last_step_is_told_without_what_goes_back_through_it() -> None:
    net, x, opt = nn.Linear(2, 1), mx.ones((3, 2)), optim.SGD(0.1)
    with nnrepl.recording() as recorded:
        for _ in range(2):
            _, grads = nn.value_and_grad(net, lambda: mx.mean(net(x)))()
            opt.update(net, grads)
    first, second = [pass_ for pass_ in recorded.tape.passes if pass_.wrt]
    (taken,) = {one for op in first.forward for one in op.inputs if one.shape == (3, 2)}
    edit: Any = SimpleNamespace(target=taken, position=second.start)
    assert re.fullmatch(r"in step 1 that was the forward, test_faces\.py:\d+", _taken_before(edit, 2))
