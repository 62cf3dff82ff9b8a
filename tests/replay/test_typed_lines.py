"""A line typed at the prompt that is no edit of one tensor runs as a line of the program, where the cursor stands: what
it computes is recorded, and gradients flow through it. Where the program cannot run again it is done at once."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.session.errors import UserError
from tests.support import PROMPT, OpenSession, assert_last_pass_is, assert_same_bits, loaded, script_python
from tests.thorough import by_turns

PROGRAM = """\
from collections import deque
import mlx.core as mx
import mlx.nn as nn
class Slots:
    __slots__ = ("v",)
layer = nn.Linear(2, 2)
layer.update({"weight": mx.array([[1.0, -2.0], [0.5, 3.0]]), "bias": mx.array([0.5, -0.5])})
cfg, queue, slots, count = {"k": 2.0, "j": [1.0, 2.0]}, deque([1.0, 2.0], maxlen=3), Slots(), 1
slots.v = 1.5
def f(w):
    h = w * cfg.get("k", 5.0)
    z = layer(h) * slots.v  # z
    y = z * sum(queue) * count  # y
    return (y * sum(cfg["j"]) * h).square().sum()
"""
LINES = [
    ("z", "h = h * 2; cfg['j'].append(4.0)"), ("z", "h[0] = 1; slots.v = 2.0"), ("z", "h, other = h * 2, 3"),
    ("y", "for n in range(3): z = z * 2"), ("y", "if slots.v > 1: z = z.square()"), ("y", "z = once = z * 2"),
    ("y", "z[0], z[1] = z[1], z[0]"), ("y", "(z := z * 3)"), ("y", "[z := z * n for n in (2, 3)]"),
    ("y", "z: mx.array = z - 1"), ("y", "for n in range(2): z[n] = n"), ("y", "del cfg['k']; z += 1"),
    ("y", "queue.append(5.0)"), ("y", "slots.v, z = 3.0, z * slots.v"), ("y", "count += 2"),
    ("y", "with mx.stream(mx.cpu): z = mx.exp(z)"), ("y", "setattr(slots, 'v', 9.0)"),
    ("y", "for y in (2.0, 3.0): z = z * y"), ("z", "import math as z; h = h * z.pi"),
    ("y", "def twice(a): return a * 2\nz = twice(z)"), ("z", "setattr(layer, 'bias', h * 2)"),
    ("z", "layer.load_weights([('weight', mx.eye(2))], strict=False)"), ("z", "layer.apply(lambda p: p * 0.5)"),
    ("z", "for key in list(layer.parameters()): layer[key] = layer[key] * 2"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "line"), LINES, ids=map(" ".join, LINES))
def test_its_twin(place: str, line: str, tmp_path: Path) -> None:
    """Loss and gradient are those of the function with the line in it; and those of before when it is taken back."""
    program = loaded(tmp_path / f"plain_{abs(hash((place, line)))}.py", PROGRAM)
    number = next(at for at, text in enumerate(PROGRAM.splitlines(), 1) if text.endswith(f"# {place}"))
    text = PROGRAM.splitlines()[number - 1]
    written = "".join(f"    {part}\n" for part in ("global count", *line.splitlines()))
    twin = loaded(tmp_path / "twin.py", PROGRAM.replace(text, written + text))
    w = mx.array([1.0, 2.0])
    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    before = session.tape.passes[-1]
    session.run(f"until {Path(program.__file__ or '').name}:{number}")
    session.run(line)
    assert_last_pass_is(session, mx.value_and_grad(twin.f)(w))
    session.run("undo")
    assert session.tape.passes[-1] is before
    session.run("redo")
    again = loaded(tmp_path / "twin.py", PROGRAM.replace(text, written + text))
    assert_last_pass_is(session, mx.value_and_grad(again.f)(w))
    assert (program.count, program.cfg, list(program.queue)) == (1, {"k": 2.0, "j": [1.0, 2.0]}, [1.0, 2.0])


@pytest.mark.parametrize("line", ["if count: z = z * y", "for n in (1,): y += z"])
def test_what_is_read_before_it_is_made(line: str, tmp_path: Path) -> None:
    """Where the line itself gives a name its meaning too late, the program's variable is the one that is not made."""
    session = OpenSession(nnrepl.trace(loaded(tmp_path / "plain_unmade.py", PROGRAM).f, mx.array([1.0, 2.0]), wrt=0))
    session.run("until plain_unmade.py:13")
    with pytest.raises(UserError, match="y is not made yet in this call"):
        session.run(line)


@pytest.mark.parametrize("line", ["for n in (2, 3): z = z * n", "queue.append(5.0)", "if count: z[0] = 1; count = 3"])
def test_typed_in_the_middle_of_a_line(line: str, tmp_path: Path) -> None:
    """It stands before the program's line, and the user where they stood."""
    program = loaded(tmp_path / f"plain_{abs(hash(line))}.py", PROGRAM)
    twin = loaded(tmp_path / "twin.py", PROGRAM.replace("    y = z *", f"    global count\n    {line}\n    y = z *"))
    w = mx.array([1.0, 2.0])
    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    session.run(f"until {Path(program.__file__ or '').name}:13")
    session.run("step")
    op = session.op
    session.run(line)
    assert op is not None
    assert session.op is not None
    assert (session.op.name, session.op.lasti) == (op.name, op.lasti)
    assert_last_pass_is(session, mx.value_and_grad(twin.f)(w))


def test_diff_pairs_the_programs_own_ops(tmp_path: Path) -> None:
    """What a typed line computes is on one timeline only: it shifts nothing."""
    program = loaded(tmp_path / "plain_diff.py", PROGRAM)
    session = OpenSession(nnrepl.trace(program.f, mx.array([1.0, 2.0]), wrt=0))
    for line in ("until plain_diff.py:13", "for n in range(2): other = mx.random.normal((2,)) + mx.exp(z) * n"):
        session.run(line)
    assert session.tape.notes.typed
    shown = str(session.run("diff 1 2"))
    assert "no value differs" in shown, shown
    assert "another way" not in shown


def test_lines_on_lines(tmp_path: Path) -> None:
    """A change before a line runs it again; one of a tensor behind it stands on what it made."""
    program = loaded(tmp_path / "plain_lines.py", PROGRAM)
    w = mx.array([1.0, 2.0])
    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    lines = ["for n in range(2): z = z * 2", "slots.v = 2.0", "z = z + 1", "cfg['j'] = [float(mx.exp(w).sum())]"]
    lines += ["cfg['j'].append(3.0)"]
    for line in ("until plain_lines.py:13", *lines):
        session.run(line)
    session.run("goto end")
    written = "".join(f"    {line}\n" for line in lines) + "    y = z *"
    twin = loaded(tmp_path / "twin.py", PROGRAM.replace("    y = z *", written))
    assert_last_pass_is(session, mx.value_and_grad(twin.f)(w))


IN_A_LAMBDA = """\
import mlx.core as mx
from mlx.utils import tree_map
def f(w):
    global kept
    kept = {"a": w * 2, "b": w}
    kept = tree_map(lambda a: a * 3, kept)
    return (kept["a"] * kept["b"]).sum()
"""


def test_a_line_stands_before_the_line_that_has_a_lambda(tmp_path: Path) -> None:
    """Not in the lambda, which had been given what the line gives another."""
    program, line = loaded(tmp_path / "plain_lambda.py", IN_A_LAMBDA), "kept = {**kept, 'b': kept['a']}"
    twin = loaded(tmp_path / "twin.py", IN_A_LAMBDA.replace("    kept = tree", f"    {line}\n    kept = tree"))
    w = mx.array([1.0, 2.0])
    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    for typed in ("until plain_lambda.py:6", line, "goto end"):
        session.run(typed)
    assert_last_pass_is(session, mx.value_and_grad(twin.f)(w))


SET_TRACE = """
import mlx.core as mx, mlx.nn as nn, mlx.optimizers as optim, nnrepl
model, opt, counter, kept = nn.Linear(2, 2), optim.SGD(learning_rate=0.01), 0, [1.0]
model.update({"weight": mx.array([[1.0, -2.0], [0.5, 1.0]]), "bias": mx.zeros(2)})
scale = 1.0
def loss_fn(model, x):
    global counter
    counter += 1
    y = model(x) * scale
    return (y * counter * sum(kept)).square().mean()  # inside
step = nn.value_and_grad(model, loss_fn)
nnrepl.set_trace()
for i in range(4):
    x = mx.ones((4, 2)) * (i + 1)
    n = x * 1  # here
    loss, g = step(model, n)
    opt.update(model, g)
    print("LOSS", i, loss.item(), counter, kept)
"""


@pytest.mark.parametrize(
    ("place", "line"),
    [("inside", "counter += 10"), ("inside", "opt.learning_rate = 0.5"), ("inside", "for n in (1, 2): y = y * n"),
     ("here", "opt.learning_rate = 0.5"), ("here", "kept.append(2.0); x = x * 2"),
     ("here", "model.freeze(keys='bias')")],
    ids=str,
)  # fmt: skip
def test_under_set_trace(place: str, line: str, tmp_path: Path) -> None:
    """In the pass in which the program waits it runs again; elsewhere the line is done at once, and the op before which
    it stands is made after it. Both can be undone."""
    path, twin = tmp_path / "traced.py", tmp_path / "twin.py"
    path.write_text(SET_TRACE)
    number = next(at for at, text in enumerate(SET_TRACE.splitlines(), 1) if text.endswith(f"# {place}"))
    plain = SET_TRACE.replace("nnrepl.set_trace()\n", "")
    text = SET_TRACE.splitlines()[number - 1]
    twin.write_text(plain.replace(text, f"    if i == 1:\n        {line}\n{text}"))
    refused = ["if 1: x = None"] if place == "here" else []
    (tmp_path / "plain.py").write_text(plain)
    edited, unedited = script_python(twin), script_python(tmp_path / "plain.py")
    for lines, expected in (([line], edited), ([line, "undo"], unedited), ([line, "undo", "redo"], edited)):
        script = "\n".join(
            ["until step 2", f"until traced.py:{number}", "x = yield 3", "restart", *refused, *lines, "c", "q", ""]
        )
        shown = script_python(path, stdin=script, own_prompt=True)
        assert _losses(shown) == _losses(expected), shown
        assert "this does not parse: 'yield' outside function" in shown, shown
        assert "there is no program here that nnrepl could run again" in shown, shown
        assert ("done at once" in shown) == ("multiply refuses it" in shown) == (place == "here")


def test_what_has_run_on_is_not_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "traced.py"
    path.write_text(SET_TRACE)
    shown = script_python(
        path, stdin="until step 2\nkept.append(2.0)\nuntil step 3\nundo\ntimelines\nc\n", own_prompt=True
    )
    assert "the program has run on since kept.append(2.0) was done, and cannot run again" in " ".join(shown.split())
    assert re.search(r"▶ └ 2 +kept.append", PROMPT.split(shown)[5])
    assert len(_losses(shown)) == 4


def test_where_nothing_runs_any_more(tmp_path: Path) -> None:
    program = loaded(tmp_path / "plain_over.py", PROGRAM)
    session = OpenSession(nnrepl.trace(program.f, mx.array([1.0, 2.0]), wrt=0))
    session.run("goto end")
    assert "done at once" in str(session.run("cfg['k'] = 7.0"))
    assert program.cfg["k"] == 7.0
    session.run("undo")
    assert program.cfg["k"] == 2.0
    session.run("redo")
    assert program.cfg["k"] == 7.0


CHECKPOINTED = """\
import mlx.core as mx
kept = [1.0]
def block(w):
    h = mx.exp(w) * kept[0]
    return h * w * sum(kept)
def f(w):
    z = w * 2
    return (mx.checkpoint(block)(z) + z).sum()
"""
IN_BLOCKS = ["for n in (1, 2): h = h * n", "h = h * 2; kept.append(1.0)", "h, w = w, h", "if w.size: h[0] = 1"]
IN_BLOCKS.append("kept[0] = 2.0")


@pytest.mark.parametrize(("line", "second"), by_turns(IN_BLOCKS, (False, True)))
def test_both_runs_of_a_checkpoint_see_it(line: str, second: bool, tmp_path: Path) -> None:
    """It stands in the function, of which Python comes by each line twice; wherever the user stood when typing it."""
    program = loaded(tmp_path / f"plain_{abs(hash((line, second)))}.py", CHECKPOINTED)
    twin = loaded(tmp_path / "twin.py", CHECKPOINTED.replace("    return h *", f"    {line}\n    return h *"))
    w = mx.array([1.0, 2.0])
    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    at = [op for op in session.tape.ops if session.names.source(op).line == 5]
    op = at[3 if second else 0]
    assert (op in session.tape.notes.belonging) == second
    session.run(f"goto {op.label}")
    session.run(line)
    assert session.op is not None
    assert (session.op.name, session.op.lasti) == (op.name, op.lasti)
    assert_last_pass_is(session, mx.value_and_grad(twin.f)(w))
    session.run("undo")
    session.run("goto end")
    plain = loaded(tmp_path / "again.py", CHECKPOINTED)
    assert_last_pass_is(session, mx.value_and_grad(plain.f)(w))
    assert program.kept == [1.0]


WITHOUT_VJP = """\
import mlx.core as mx
@mx.custom_function
def block(h):
    return mx.sin(h) * 2
block.vmap(lambda inputs, axes: (block(inputs[0]), axes[0]))
def run(w):
    grad = mx.grad(lambda w: block(w * 2).square().sum())(w)
    return mx.exp(grad)
"""


def test_a_second_run_is_followed_from_its_very_start(tmp_path: Path) -> None:
    """What is changed before its first op enters with it, and not before the call."""
    program = loaded(tmp_path / "plain_start.py", WITHOUT_VJP)
    changed = WITHOUT_VJP.replace("    return mx.sin", "    h = mx.tanh(h)\n    return mx.sin")
    twin = loaded(tmp_path / "twin.py", changed.replace("    return mx.exp", "    grad = grad * 3\n    return mx.exp"))
    w = mx.array([0.5, 1.5])
    session = OpenSession(nnrepl.trace(program.run, w))
    for line, change in ((4, "h = mx.tanh(h)"), (8, "grad = grad * 3")):
        session.run(f"until {Path(program.__file__ or '').name}:{line}")
        session.run(change)
    assert_same_bits(twin.run(w), session.tape.ops[-1].outputs[0].array)


COMPILED = """\
import mlx.core as mx
kept, seen = [1.0], []
def body(w, x):
    seen.append(1)
    n = 2
    h = w * x
    z = mx.tanh(h * n) * kept[0]
    return (z * x * n + mx.random.uniform(shape=(2,)) * 0).square().sum()  # inside
def step(w, x):
    return mx.value_and_grad(body)(w, x)
def run(w):
    usual = mx.compile(step)
    for turn in range(4):
        loss, g = usual(w, mx.array([1.0, 2.0]) * turn)
        w = w - 0.1 * g
    return w
"""
IN_COMPILED = ["for k in (1, 2): z = z * k", "n = 5", "z, h = h, z", "if n: z[0] = h[1]; n = 3", "kept[0] = 4.0"]


@pytest.mark.parametrize(("line", "turn"), by_turns(IN_COMPILED, (0, 2)))
def test_one_call_of_a_compiled_function_has_it(line: str, turn: int, tmp_path: Path) -> None:
    """That call is what another compiled function would give that has the line; the others are as they were."""
    program = loaded(tmp_path / f"plain_{abs(hash((line, turn)))}.py", COMPILED)
    other = COMPILED.replace("    return (z", f"    if now == {turn}:\n        {line}\n    return (z")
    loop = "    for turn in range(4):\n"
    other = other.replace(loop, f"    global now\n{loop}        now = turn\n")
    other = other.replace("usual(w,", f"(mx.compile(lambda w, x: step(w, x)) if turn == {turn} else usual)(w,")
    twin = loaded(tmp_path / "twin.py", other)
    w = mx.array([0.5, 1.5])
    session = OpenSession(nnrepl.trace(program.run, w))
    place = f"{Path(program.__file__ or '').name}:8"
    for to in (*["next step"] * turn, f"until {place}"):
        session.run(to)
    session.run(line)
    assert session.tape.notes.typed or line in ("n = 5", "z, h = h, z", "kept[0] = 4.0")
    assert_same_bits(twin.run(w), session.tape.ops[-1].outputs[0].array)
    session.run("undo")
    plain = loaded(tmp_path / "again.py", COMPILED)
    assert_same_bits(plain.run(w), session.tape.ops[-1].outputs[0].array)


OWN_VJP = """\
import mlx.core as mx
turn = 0
def inner(h):
    h = h * 2
    return mx.sin(h)
def run(w):
    global turn
    custom = mx.custom_function(inner)
    custom.vjp(lambda primals, cotangent, output: cotangent * 0.5 + output)
    usual = mx.value_and_grad(lambda w: custom(w * 3).sum())
    for turn in range(2):
        loss, g = usual(w)
        w = w - 0.1 * g
    return w
"""


@pytest.mark.parametrize("compiled", [False, True])
def test_a_change_at_the_start_of_a_custom_function_is_inside_of_it(compiled: bool, tmp_path: Path) -> None:
    """Its own `vjp` gives the gradient of what went in, also in a repeated call of a compiled function."""
    text = OWN_VJP.replace("loss, g = usual", "loss, g = compiled").replace(
        "    for", "    compiled = mx.compile(usual)\n    for"
    )
    program = loaded(tmp_path / f"own_{compiled}.py", text if compiled else OWN_VJP)
    twin = loaded(tmp_path / "twin.py", OWN_VJP.replace("    h = h * 2", "    if turn: h = mx.exp(h)\n    h = h * 2"))
    w = mx.array([0.5, 1.5])
    session = OpenSession(nnrepl.trace(program.run, w))
    for line in ("next step", f"until own_{compiled}.py:4", "h = mx.exp(h)"):
        session.run(line)
    assert_same_bits(twin.run(w), session.tape.ops[-1].outputs[0].array)


def _losses(text: str) -> list[str]:
    return re.findall(r"^LOSS .*", text, re.MULTILINE)


def test_it_is_awaited_also_where_others_trace(tmp_path: Path) -> None:
    """A stop at a line has Python traced there; the typed line stands before that line all the same."""
    program = loaded(tmp_path / "plain_traced.py", PROGRAM)
    twin = loaded(tmp_path / "twin.py", PROGRAM.replace("    y = z *", "    for n in range(3): z = z * n\n    y = z *"))
    w, came = mx.array([1.0, 2.0]), []

    def tracing(frame: FrameType, event: str, _: object) -> Callable[..., object]:
        came.append(frame.f_lineno)
        return tracing

    session = OpenSession(nnrepl.trace(program.f, w, wrt=0))
    session.run("until plain_traced.py:13")
    before = sys.gettrace()
    sys.settrace(tracing)
    try:
        session.run("for n in range(3): z = z * n")
    finally:
        sys.settrace(before)
    assert_last_pass_is(session, mx.value_and_grad(twin.f)(w))
    assert came.count(13) >= 1
