"""`trace.set`: every later value and gradient is what plain MLX computes when the change is written into the
program; everything before is the identical array."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

import nnrepl
from nnrepl.session.errors import UserError
from tests.support import OpenSession, assert_same_bits, loaded, nnrepl_cli
from tests.thorough import share

UNARY: list[Callable[[mx.array], mx.array]] = [
    lambda a: mx.tanh(a), lambda a: mx.exp(-a), lambda a: mx.sin(a), abs, lambda a: mx.square(a),
    lambda a: mx.maximum(a, 0), lambda a: a.T.T, lambda a: a.reshape(4, 3),
    lambda a: mx.softmax(a, axis=-1), lambda a: a + 1, lambda a: mx.cumsum(a, axis=0), lambda a: a.astype(mx.float32),
    lambda a: a - mx.mean(a, axis=0), lambda a: mx.fast.rms_norm(a, mx.ones((3,)), 1e-5), lambda a: mx.stop_gradient(a),
]  # fmt: skip
BINARY: list[Callable[[mx.array, mx.array], mx.array]] = [
    lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a - b[0], lambda a, b: mx.maximum(a, b),
    lambda a, b: mx.where(a > b, a, b * 2), lambda a, b: (a @ b.T) @ b,
]  # fmt: skip

step = st.tuples(st.booleans(), st.integers(0, 14), st.integers(0, 9), st.integers(0, 9))
steps = st.lists(step, min_size=2, max_size=9)


def program(
    plan: list[tuple[bool, int, int, int]], changed: int, change: Callable[[mx.array], Any], made_by: list[mx.array]
) -> Any:
    """A function of two inputs that runs a plan, with step number `changed` changed (-1 for none); `made_by` gets what
    each step makes."""

    def run(x: mx.array, y: mx.array) -> mx.array:
        values = [x, y]
        for number, (binary, which, a, b) in enumerate(plan):
            first, second = values[a % len(values)], values[b % len(values)]
            made = BINARY[which % len(BINARY)](first, second) if binary else UNARY[which](first)
            if number == changed:
                made = change(made)
            values.append(made)
            made_by.append(made)
        return sum((value * value).mean() for value in values[-3:])  # type: ignore[return-value]

    return run


@settings(max_examples=share(60, 20), deadline=None)
@given(steps, st.integers(0, 8), st.sampled_from(["twice", "constant", "element", "cut"]))
def test_a_change_in_a_random_program(plan: list[tuple[bool, int, int, int]], which: int, kind: str) -> None:
    which %= len(plan)
    constant = mx.arange(12).reshape(4, 3) / 7

    def element(a: mx.array) -> mx.array:
        a = a + 0
        a[0, 1] = 0.5
        return a

    change: Callable[[mx.array], Any] = {
        "twice": lambda a: a * 2, "constant": lambda a: constant, "element": element,
        "cut": lambda a: mx.stop_gradient(a),
    }[kind]  # fmt: skip
    x, y = mx.random.normal((4, 3), key=mx.random.key(1)), mx.random.normal((4, 3), key=mx.random.key(2))
    expected = mx.value_and_grad(program(plan, which, change, []), argnums=[0, 1])(x, y)
    made_by: list[mx.array] = []
    trace = nnrepl.trace(program(plan, -1, change, made_by), x, y, wrt=[0, 1])
    target = next(value for op in reversed(trace.ops) for value in op.outputs if value.array is made_by[which])
    mx.eval([value.array for op in trace.ops for value in op.outputs])
    edited = trace.set(target, change)
    assert_same_bits(expected, (edited.value, edited.grads))
    assert target.op is not None
    for before, after in zip(trace.ops[: target.op.position + 1], edited.ops):
        assert [a.array is b.array for a, b in zip(before.outputs, after.outputs)] == [True] * len(before.outputs)


class Net(nn.Module):
    """Layers, dropout, batch norm and a counter: state that a second run must find as the first one did."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.last = nn.Linear(4, 8), nn.BatchNorm(8), nn.Dropout(0.5), nn.Linear(8, 2)
        self.calls = 0
        self._seen: list[mx.array] = []

    def __call__(self, x: mx.array, change: Callable[[mx.array], mx.array] | None = None) -> mx.array:
        self.calls += 1
        h = self.norm(self.first(x))
        if change is not None:
            h = change(h)
        a = nn.relu(h)
        self._seen.append(a)
        return self.last(self.drop(a)) * self.calls


def test_state_is_put_back_and_left_as_found() -> None:
    x = mx.random.normal((6, 4))
    mx.random.seed(3)
    model = Net()
    mx.random.seed(4)
    expected = nn.value_and_grad(model, lambda x: model(x, lambda h: h * 3).square().mean())(x)
    mx.eval(expected)

    mx.random.seed(3)
    model = Net()
    mx.random.seed(4)
    trace = nnrepl.trace(lambda x: model(x).square().mean(), x, wrt=model)
    after = mx.random.state[0].tolist()
    before = [(path, mx.array(array)) for path, array in tree_flatten(model.parameters())]
    edited = trace.set("h", lambda h: h * 3)
    assert_same_bits(expected, (edited.value, edited.grads))
    assert (model.calls, len(model._seen)) == (1, 1)
    assert mx.random.state[0].tolist() == after
    assert_same_bits(before, tree_flatten(model.parameters()))
    again = trace.set("h", lambda h: h * 3)
    assert_same_bits((edited.value, edited.grads), (again.value, again.grads))


@pytest.mark.parametrize("name", ["first.weight", "last.bias", "x"])
def test_a_parameter_or_input_is_changed_where_it_enters(name: str) -> None:
    mx.random.seed(3)
    model = Net().eval()
    x = mx.random.normal((6, 4))

    def loss(x: mx.array) -> mx.array:
        return model(x).square().mean() / model.calls

    trace = nnrepl.trace(loss, x, wrt=model)
    edited = trace.set(name, lambda old: old * 0.5)
    if name == "x":
        x = x * 0.5
    else:
        holder, leaf = name.split(".")
        model[holder][leaf] = model[holder][leaf] * 0.5
    model.calls = 0
    assert_same_bits(nn.value_and_grad(model, loss)(x), (edited.value, edited.grads))


LAYERS = """\
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = [nn.Linear(2, 3)], nn.Linear(3, 2)
    def __call__(self, x):
        return self.last(mx.sin(self.first[0](x))).square().sum()
def run(x):
    model, opt = Net(), optim.SGD(0.1)
    for i in range(2):
        loss, grads = nn.value_and_grad(model, model)(x)
        opt.update(model, grads)
    return model.last.weight + loss
"""


@pytest.mark.parametrize("line", ["self.last.weight = self.last.weight * 2", "model.last.bias[0] = 5"])
def test_a_parameter_is_changed_before_the_call_has_come_by_it(line: str, tmp_path: Path) -> None:
    """The model holds what is differentiated as soon as its function runs: also in layers that are still to come."""
    twin = LAYERS.replace("        loss,", f"        if i: {line.replace('self', 'model')}\n        loss,")
    x = mx.array([[0.5, -1.0]])
    mx.random.seed(3)
    session = OpenSession(nnrepl.trace(loaded(tmp_path / "plain_layers.py", LAYERS).run, x))
    session.run("goto step 2 sin")
    session.run(line)
    mx.random.seed(3)
    assert_same_bits(loaded(tmp_path / "twin_layers.py", twin).run(x), session.tape.ops[-1].outputs[0].array)


def test_a_branch_on_the_edited_value_goes_the_other_way() -> None:
    def f(x: mx.array) -> mx.array:
        h = x * 2
        if h.sum().item() > 0:
            return mx.exp(h).sum()
        return mx.sin(h).sum()

    trace = nnrepl.trace(f, mx.ones(3), wrt=0)
    edited = trace.set("h", lambda h: -h)
    assert [op.name for op in edited.ops if op.phase == "forward"] == ["multiply", "negative", "sum", "sin", "sum"]
    assert_same_bits(mx.sin(-2 * mx.ones(3)).sum(), edited.value)


def test_a_gradient_is_changed_on_its_way() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = mx.random.normal((5, 3))
    trace = nnrepl.trace(lambda x: model(x).square().mean(), x, wrt=model)
    hidden = trace.ops[2].outputs[0]
    gradient = trace.grad(hidden)
    assert gradient is not None
    edited = trace.set(gradient, lambda g: g * 2)
    first, last = edited.grads["layers"][0], edited.grads["layers"][2]
    plain = trace.grads["layers"]
    assert_same_bits(plain[2], last)
    assert mx.allclose(first["weight"], plain[0]["weight"] * 2).item()
    forward = trace.tape.passes[-1].backward
    assert all(a.outputs == b.outputs for a, b in zip(trace.ops[:forward], edited.ops))


def test_nothing_else_is_computed_again() -> None:
    def f(x: mx.array, y: mx.array) -> mx.array:
        a = mx.exp(x)
        b = mx.sin(y)
        c = a * 2
        return (c + b).sum()

    trace = nnrepl.trace(f, mx.ones(3), mx.ones(3), wrt=[0, 1])
    mx.eval(trace.value, trace.grads)
    edited = trace.set("c", lambda c: c + 1)
    assert edited["b"] is trace["b"]
    assert edited["a"] is trace["a"]
    lazy = [op.name for op in edited.ops if not all(value.evaluated for value in op.outputs)]
    # The gradient of c passes through the edit, which adds to it: vjp of add hands on the very same array.
    assert lazy == ["add", "add", "sum", "vjp of multiply", "vjp of exp"], "only the edit and what depends on it"


def test_a_program_that_goes_another_way_before_the_edit_is_told() -> None:
    turns = ContextVar("turns", default=0)  # stands for all that nnrepl cannot put back

    def f(x: mx.array) -> mx.array:
        turns.set(turns.get() + 1)
        a = x * 2 if turns.get() == 1 else x + 2
        b = mx.exp(a)
        return b.sum()

    trace = nnrepl.trace(f, mx.ones(3), wrt=0)
    with pytest.raises(nnrepl.UserError, match="where the tape has #1 multiply, it called add"):
        trace.set("b", 0)


def test_bad_edits() -> None:
    trace = nnrepl.trace(lambda i, x: (x[i] * 2).sum(), mx.array([0, 1]), mx.ones((3,)), wrt=1)
    with pytest.raises(KeyError, match="nothing on the tape is called z"):
        trace.set("z", 0)
    with pytest.raises(nnrepl.UserError, match=r"i is int32; 0.5 is not a whole number"):
        trace.set("i", 0.5)
    with pytest.raises(nnrepl.UserError, match="a str cannot stand there"):
        trace.set("x", "abc")
    with pytest.raises(nnrepl.UserError, match=r"a list cannot stand there; mx.array of it can: x = mx.array\(...\)"):
        trace.set("x", [1, 2, 3])
    with pytest.raises(ZeroDivisionError):
        trace.set("x", lambda _: 1 / 0)


@pytest.mark.parametrize("inner", [
    lambda w: mx.grad(lambda w: mx.tanh(w * w).sum())(w), lambda w: mx.vmap(lambda row: mx.tanh(row * row))(w),
    lambda w: mx.vjp(lambda w: mx.tanh(w * w), [w], [w])[1][0],
])  # fmt: skip
def test_what_lies_inside_of_a_call_says_where_it_can_be_changed(inner: Any) -> None:
    trace = nnrepl.trace(lambda w: (inner(w) * 2).sum(), mx.ones((2, 3)), wrt=0)
    within = [op for op in trace.ops if op.inner]
    assert {op.name for op in within} >= {"multiply", "tanh"}
    for op in within:
        with pytest.raises(nnrepl.UserError, match=r"it lies inside of #\d+ \(.*change what goes in, at #\d+"):
            trace.set(op.outputs[0], 0)


def test_at_a_change_the_names_are_what_they_were_before_it() -> None:
    """In the run that comes by it, in calls that began before it, and in those around them."""

    def inner(a: mx.array) -> mx.array:
        b = a * 3
        return b + a

    def f(w: mx.array) -> mx.array:
        a = w * 2
        return inner(a).sum()

    session = OpenSession(nnrepl.trace(f, mx.ones((2,)), wrt=0))
    for line in ("goto #3", "b = b * 2", "a = a * 5", "goto #3"):
        session.run(line)
    shown = []
    for _ in range(3):
        shown.append([str(session.run(line)).strip() for line in ("p b", "p a")])
        session.run("step")
    assert shown == [["b = [6 6]", "a = [2 2]"], ["b = [12 12]", "a = [2 2]"], ["b = [12 12]", "a = [10 10]"]]


@pytest.mark.parametrize("line", ["w = w * 3", "a = a * 3"])
def test_the_user_stands_where_they_stood_though_changes_are_left_out(line: str) -> None:
    """Those that lie between an earlier change and the cursor are not made again."""

    def f(w: mx.array) -> mx.array:
        a = w * 2
        b = mx.sin(a)
        return (b + 1).sum()

    session = OpenSession(nnrepl.trace(f, mx.ones((2,)), wrt=0))
    for typed in ("goto #3", "b = b * 2", "b = b + 1", line):
        session.run(typed)
    assert session.op is not None
    assert session.op.name == "add"
    assert session.op.outputs[0].consumers[0].name == "sum"


@pytest.mark.parametrize("wrap", ["plain", "checkpoint", "compile"])
def test_the_model_keeps_its_own_arrays(wrap: str) -> None:
    model = Net()
    layer = {"plain": lambda f: f, "checkpoint": nn.utils.checkpoint, "compile": lambda f: mx.compile(f.__call__)}[wrap]
    run = layer(model.first)
    before = dict(tree_flatten(model.trainable_parameters()))
    trace = nnrepl.trace(lambda x: model.last(mx.tanh(run(x))).square().mean(), mx.ones((3, 4)), wrt=model)
    for factor in (1, 2):
        trace.set("first.weight", lambda w, factor=factor: w * factor)
        after = dict(tree_flatten(model.trainable_parameters()))
        assert [path for path, array in after.items() if array is not before[path]] == []


@pytest.mark.parametrize("new", [
    "mx.array([1, 2])", "mx.array([[1], [2]])", "mx.array([1.5, 2.5])", "mx.array([[True, False]])", "mx.array(7)",
    "mx.array([1, 2], mx.float16)", "mx.array([[1 + 2j, 3]])",
])  # fmt: skip
@pytest.mark.parametrize("old", [mx.array([[3, 4]]), mx.array([[0.5, 0.25]]), mx.array([[True, False]])])
def test_a_variable_gets_a_tensor_of_another_shape_or_dtype(old: mx.array, new: str) -> None:
    """The program has read the variable already: the very object becomes another."""

    def f(w: mx.array, x: mx.array) -> mx.array:
        h = w * x
        return mx.abs(h).sum()

    w = mx.array([1.0, 2.0])
    session = OpenSession(nnrepl.trace(f, w, mx.array(old), wrt=0))
    session.goto("#1")
    assert session.cursor == 0
    session.run(f"x = {new}")
    assert session.tape.ops[session.cursor].name == "multiply"
    session.run("goto end")
    loss, gradient = mx.value_and_grad(f)(w, eval(new))
    pass_ = session.tape.passes[-1]
    assert pass_.loss is not None
    assert_same_bits(loss, pass_.loss.array)
    assert_same_bits(gradient, pass_.grads[pass_.wrt[0]][-1].array)


def test_a_vjp_gets_what_its_function_gave() -> None:
    """A change of the result behind the call is another tensor; one in the `vjp` is that line in it."""
    function = mx.custom_function(lambda p, q: mx.sin(p) * q)
    edits: dict[str, Callable[[mx.array], mx.array]] = {}

    def same(array: mx.array) -> mx.array:
        return array

    @function.vjp  # type: ignore[untyped-decorator]
    def _(primals: Any, cotangent: mx.array, output: mx.array) -> Any:
        p = primals[0]
        output = edits.get("output", same)(output)
        return cotangent * p, cotangent * output

    def run() -> Any:
        def loss(x: mx.array, w: mx.array) -> mx.array:
            result = edits.get("result", same)(function(x @ w, x))
            return (result * result).sum()

        return mx.value_and_grad(loss, argnums=(0, 1))(mx.arange(12.0).reshape(4, 3) / 7, mx.ones((3, 3)) / 3)

    trace = nnrepl.trace(run)
    edited = trace.set(next(op for op in trace.ops if op.name.startswith("custom")).outputs[0], lambda a: a * 2)
    session = OpenSession(trace)
    session.run(f"goto test_set.py:{run.__code__.co_firstlineno - 2}")  # a line that runs in the backward pass only
    assert session.cursor >= session.tape.passes[-1].backward
    session.run("output = output * 2")
    edits["result"] = lambda array: array * 2
    assert_same_bits(run(), edited.value)
    edits.clear()
    edits["output"] = lambda array: array * 2
    session.run("goto end")
    pass_ = session.tape.passes[-1]
    assert_same_bits(run()[1], [pass_.grads[leaf][-1].array for leaf in pass_.wrt])


def test_what_an_op_takes_again_is_the_leaf_of_the_run_before_in_its_arguments_too() -> None:
    def loss(x: mx.array) -> mx.array:
        return mx.checkpoint(lambda a: (a * 2, a * 3))(x)[0].sum()

    def twice(x: mx.array) -> mx.array:
        return mx.grad(loss)(x) + mx.grad(loss)(x)

    trace = nnrepl.trace(twice, mx.array([1.0, 2.0]))
    again = trace.set(trace.ops[-1].outputs[0], lambda value: value * 2)
    for op in again.ops:
        given = [part for part in (*op.args, *op.kwargs.values()) if isinstance(part, nnrepl.Value)]
        assert set(given) <= set(op.inputs), op


def test_an_item_of_a_tuple_takes_nothing_as_in_python() -> None:
    def run(x: mx.array) -> mx.array:
        pair = (x * 2, x * 3)
        return pair[0] + pair[1]

    session = OpenSession(nnrepl.trace(run, mx.array([1.0, 2.0])))
    session.run("goto end")
    session.run("back")
    for line in ("pair[0] = pair[0] * 5", "pair[0] += 1"):
        with pytest.raises(UserError, match="'tuple' object does not support item assignment"):
            session.run(line)
    session.run("pair[0][...] = pair[0] * 5")
    session.run("goto end")
    assert session.tape.ops[-1].outputs[0].array.tolist() == [13.0, 26.0]


BEGINNING = """
import mlx.core as mx
@mx.custom_function
def handed_on(loss): return loss * 1
@handed_on.vjp
def changed(loss, cotangent, _): return cotangent * 2
def loss_fn(w, x):
    h = mx.tanh(x @ w)
    loss = (h * h).sum().astype(mx.float16)
    return loss
x, w = mx.ones((2, 3)), mx.ones((3, 4)) * 0.5
for step in range(3):
    loss, g = mx.value_and_grad(loss_fn)(w, x)
    w = w - 0.01 * g
print("END", loss.item(), g.tolist(), w.tolist())
"""


@pytest.mark.parametrize("native", ["on", "off"])
def test_what_a_backward_pass_began_with_is_not_changed_after_it(native: str, tmp_path: Path) -> None:
    """Nothing takes it any more: that is said at once, and not that the program does other things than before."""
    path = tmp_path / "begins.py"
    path.write_text(BEGINNING)
    lines = ["c", "goto step 2 update", "grad(loss) = grad(loss) * 2", "timelines", "goto step 2 backward"]
    lines += ["step 2", "grad(loss) = grad(loss) * 3", "q\n"]
    shown = nnrepl_cli("--plain", str(path), stdin="\n".join(lines), env={"NNREPL_NATIVE": native}).stdout
    refused, made = shown.split("(nnrepl) timelines")
    assert "is what a backward pass began with, and that is over" in refused
    assert "running the program again" not in refused
    assert "timeline 2: grad(loss) edited" in made


@pytest.mark.parametrize("native", ["on", "off"])
def test_what_a_backward_pass_begins_with_is_changed(
    native: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`grad(loss)` is there only once the backward pass has begun."""
    monkeypatch.setenv("NNREPL_NATIVE", native)
    path = tmp_path / "begins.py"
    path.write_text(BEGINNING)
    lines = ["c", "goto step 2 backward", "grad(loss) = grad(loss) * 2", "c", "undo", "c", "print('END', loss.item())"]
    shown = nnrepl_cli("--plain", str(path), stdin="\n".join([*lines, "q\n"])).stdout
    exec(BEGINNING, {})
    exec(BEGINNING.replace("return loss\n", "return handed_on(loss) if step == 1 else loss\n"), {})
    plain, twin = capsys.readouterr().out.splitlines()
    assert [line for line in shown.splitlines() if line.startswith("END")] == [plain, twin, plain.partition(" [")[0]]
