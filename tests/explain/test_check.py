"""check: it complains about wrong gradients, and about nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from rich.console import Console

import nnrepl
from nnrepl.explain.check import check_op, check_pass
from nnrepl.explain.check_found import Checked
from nnrepl.explain.differences import Neighbourhood
from nnrepl.explain.projected import coarsest
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.tape import GRADIENT_PASS
from tests.corpus import layers, lm
from tests.corpus.checks import SEED
from tests.support import OpenSession


def whole(trace: nnrepl.Trace, most: int = 4) -> list[Checked]:
    pass_ = next(pass_ for pass_ in trace.tape.passes if pass_.wrt)
    leaves = [leaf for leaf in pass_.wrt if pass_.grads.get(leaf) and mx.issubdtype(leaf.dtype, mx.floating)]
    return check_pass(OpenSession(trace), pass_, leaves[:: max(len(leaves) // most, 1)]).checked


# The norms have gradients that are mathematically 0, attention too (a bias of the keys); ReLU has kinks; gpt2's loss
# is rounded to float32 on its way.
SOUND = ["BatchNorm plain", "GroupNorm plain", "InstanceNorm", "LayerNorm", "Linear", "Conv2d", "GRU", "PReLU",
         "MultiHeadAttention"]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in SOUND if name in layers.LAYERS])
def test_sound_layers_get_no_complaint(name: str) -> None:
    mx.random.seed(SEED)
    call = layers.layer_call(name)
    trace = nnrepl.trace(call.fn, *call.args, wrt=call.wrt)
    assert [one.name for one in whole(trace) if one.wrong] == []


def test_what_is_computed_in_float64_is_computed_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU has float64: MLX refuses an op on it there, and a computer with a GPU has that as its default."""
    mx.random.seed(SEED)
    trace = nnrepl.trace(lambda x: mx.sum(mx.tanh(x) * x), mx.random.normal((5,)), wrt=0)
    stream, on_cpu, elsewhere, seen = mx.stream, [0], [], []

    @contextmanager
    def counted(where: mx.Stream | mx.Device) -> Iterator[None]:
        on_cpu[0] += where == mx.cpu
        with stream(where):
            yield
        on_cpu[0] -= where == mx.cpu

    def spied(name: str) -> Callable[..., Any]:
        original = getattr(mx.array, name)

        def spy(array: mx.array, *args: Any, **kwargs: Any) -> Any:
            result = original(array, *args, **kwargs)
            if mx.float64 in (array.dtype, result.dtype):
                (seen if on_cpu[0] else elsewhere).append(name)
            return result

        return spy

    with monkeypatch.context() as patched:
        patched.setattr(mx, "stream", counted)
        for name in ("__add__", "__sub__", "__mul__", "__rmul__", "__getitem__", "astype", "flatten"):
            patched.setattr(mx.array, name, spied(name))
        assert not [one for one in whole(trace) if one.wrong]
    assert not elsewhere
    assert {"__add__", "__sub__", "__getitem__", "astype"} <= {*seen}


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_a_loss_that_is_rounded_to_float32_gets_no_complaint(name: str) -> None:
    model = lm.tiny(name).train()
    trace = nnrepl.trace(lm.loss_of(model), lm.tokens_for(name), wrt=model)
    assert [one.name for one in whole(trace) if one.wrong] == []


def test_a_gradient_that_is_0_in_mathematics_is_right_as_rounding() -> None:
    mx.random.seed(0)
    model = nn.MultiHeadAttention(16, 2, bias=True)
    x = mx.random.normal((2, 5, 16))
    trace = nnrepl.trace(lambda x: (model(x, x, x) ** 2).mean(), x, wrt=model)
    found = {one.name: one for one in whole(trace, 99)}
    assert not [name for name, one in found.items() if one.wrong]
    assert 0 < max(abs(element.gradient) for element in found["∂L/∂key_proj.bias"].elements) < 1e-7


@pytest.mark.parametrize("seed", range(3))
def test_a_long_sum_that_cancels_is_right_as_rounding(seed: int) -> None:
    """A bias before a norm over a batch: 576 numbers of 99 are added up to each element, and come to 0."""
    mx.random.seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm(8))
    x, y = mx.random.normal((4, 12, 12, 3)), mx.random.normal((4, 12, 12, 8)) + 3
    trace = nnrepl.trace(lambda x: (model(x * 0.1) * (y > 0) * 5).sum(), x, wrt=model)
    found = {one.name: one for one in whole(trace, 99)}
    assert not [name for name, one in found.items() if one.wrong]
    rounded = found["∂L/∂layers.0.bias"].rounded
    assert rounded
    assert all(abs(one.exact) < 1e-5 < abs(one.element.gradient) for one in rounded)


def test_a_product_is_allowed_the_rounding_of_tf32_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it has ten bits after the point, as float16; nothing else there has."""
    trace = nnrepl.trace(lambda w, x: mx.sum(mx.exp(x @ w)), mx.ones((2, 2)), mx.ones((2, 2)), wrt=0)
    product, exponential = trace.ops[:2]
    for is_gpu, wanted in ((False, mx.float32), (True, mx.float16)):
        monkeypatch.setattr("nnrepl.explain.projected.may_take_tf32", lambda is_gpu=is_gpu: is_gpu)
        assert coarsest([*product.inputs, *product.outputs], [product]) == wanted
        assert coarsest(exponential.inputs, [exponential]) == mx.float32


@pytest.mark.parametrize("wrong", [True, False])
def test_a_percent_is_found_in_a_pass_whatever_else_a_rule_computes_with(wrong: bool) -> None:
    """The rule of the program's own counts places up to 96, far more than its gradients; a ReLU has kinks behind it."""
    mx.random.seed(0)

    @mx.custom_function
    def linear(x: mx.array, w: mx.array) -> mx.array:
        return x @ w

    @linear.vjp
    def rule(primals: list[mx.array], g: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
        x, w = primals
        gw = (x * 100).T @ (g / 100)
        places = mx.arange(gw.size)
        factor = mx.where(places == mx.argmax(mx.abs(gw)), 1.01, 1.0) if wrong else mx.ones((gw.size,))
        return g @ w.T, gw * factor.reshape(gw.shape)

    x, w, v = mx.random.normal((40, 8)), mx.random.normal((8, 12)), mx.random.normal((12,))
    trace = nnrepl.trace(lambda w: mx.square(mx.maximum(linear(x, w), 0) @ v).mean() / 100, w, wrt=0)
    assert bool(whole(trace)[0].wrong) == wrong


def test_what_stop_gradient_holds_back_is_held_fixed() -> None:
    def quantized(x: mx.array, book: mx.array) -> mx.array:
        near = book[mx.stop_gradient(mx.argmin(mx.square(x[:, None] - book[None]), axis=1))]
        return mx.square(x + mx.stop_gradient(near - x) - 0.3).sum() + mx.square(near - mx.stop_gradient(x)).sum()

    trace = nnrepl.trace(quantized, mx.array([0.1, 0.9, 0.5]), mx.array([0.2, 0.7]), wrt=(0, 1))
    found = whole(trace)
    assert [one.name for one in found if one.wrong] == []
    assert any(one.fixed for one in found)


def with_vjp(change: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    """A function whose vjp is right but for a change."""

    @mx.custom_function
    def function(x: mx.array) -> mx.array:
        return mx.sin(x) * x

    @function.vjp
    def vjp(primals: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return change(cotangent * (mx.cos(primals) * primals + mx.sin(primals)))

    return function  # type: ignore[no-any-return]


def one_element(at: int, size: int) -> Callable[[mx.array], mx.array]:
    return lambda g: g * (1 + 0.01 * (mx.arange(size) == at)).astype(g.dtype)


@pytest.mark.parametrize("at", [3, 250, 511])
def test_one_percent_in_one_element_of_many_is_found(at: int) -> None:
    size = 512
    x = mx.random.uniform(0.5, 2.0, (size,), key=mx.random.key(4))
    w = mx.random.uniform(0.5, 1.5, (size,), key=mx.random.key(5))
    function = with_vjp(one_element(at, size))
    trace = nnrepl.trace(lambda x: (function(x) * w).sum(), x, wrt=0)
    op = next(op for op in trace.ops if op.operation.kind == "custom")
    (found,) = check_op(OpenSession(trace), op).checked
    assert [element.index for element in found.wrong] == [(at,)]
    assert "that comes from" in found.name


def test_a_right_vjp_of_the_program_s_own_is_right() -> None:
    x = mx.random.uniform(0.5, 2.0, (64,), key=mx.random.key(4))
    function = with_vjp(lambda g: g)
    trace = nnrepl.trace(lambda x: mx.square(function(x)).sum(), x, wrt=0)
    op = next(op for op in trace.ops if op.operation.kind == "custom")
    (found,) = check_op(OpenSession(trace), op).checked
    assert not found.wrong
    assert found.whole


def test_a_wrong_vjp_on_the_way_is_named() -> None:
    function = with_vjp(lambda g: g * 1.05)
    trace = nnrepl.trace(lambda w: mx.square(function(w * 1.5)).sum(), mx.array([0.3, 0.7, 1.1]), wrt=0)
    (found,) = whole(trace)
    assert len(found.wrong) == 3
    assert [op.name for op in found.custom] == ["custom of with_vjp.function"]


def test_an_interrupt_keeps_what_there_is() -> None:
    trace = nnrepl.trace(lambda a, b: (a * b).sum(), mx.ones((2,)), mx.ones((2,)), wrt=(0, 1))
    session = OpenSession(trace)
    pass_ = trace.tape.passes[0]

    def interrupt(share: float) -> None:
        raise KeyboardInterrupt

    session.hooks.progress = interrupt  # type: ignore[method-assign]
    report = check_pass(session, pass_, list(pass_.wrt))
    assert len(report.checked) == 1
    assert report.left == 1


def test_noise_is_measured() -> None:
    x = mx.array([0.3, 0.8], mx.float32).astype(mx.float32)

    def smooth(x: mx.array) -> mx.array:
        return mx.sum(x * x * x)

    def rounded(x: mx.array) -> mx.array:
        return smooth(x).astype(mx.float32).astype(x.dtype)

    found: list[Any] = []
    with mx.stream(mx.cpu):
        for function in (smooth, rounded):
            one = Neighbourhood(function, x.astype(mx.float64), (2,))
            one.measure()
            found.append((one.noise, one.element(0)))
    assert found[0][0] < 1e-13
    assert 1e-9 < found[1][0] < 1e-6
    for _, slope in found:
        assert abs(slope.value - 0.27) <= slope.doubt + 1e-6


@mx.custom_function
def turned(w: mx.array) -> mx.array:
    return mx.sin(w)


@turned.vjp
def _a_percent_off(w: mx.array, g: mx.array, out: mx.array) -> mx.array:
    wrong = (mx.arange(w.size) == 2).reshape(w.shape)
    return g * mx.cos(w) * mx.where(wrong, 1.01, 1.0)


@pytest.mark.parametrize("wrong", [True, False])
def test_a_wrong_vjp_among_kinks_is_found_and_the_kinks_alone_are_no_fault(wrong: bool) -> None:
    """Every kind of choice, many of each inside of the step: max, min, |a|, clip, maximum, minimum."""
    offsets = mx.sin(mx.arange(60) * 12.9898).reshape(60, 1) * 0.05

    def loss(w: mx.array) -> mx.array:
        h = (turned(w) if wrong else mx.sin(w)) + offsets
        parts = [mx.maximum(h, 0.1), mx.minimum(h, 0.2), mx.abs(h), mx.clip(h, -0.1, 0.1), h.max(axis=0), h.min()]
        return sum((mx.square(part).mean() for part in parts), mx.array(0.0)) * 3

    (one,) = whole(nnrepl.trace(loss, mx.array([0.1, -0.2, 0.3, 0.05]), wrt=0))
    assert [element.index for element in one.wrong] == ([(2,)] if wrong else [])


@pytest.mark.parametrize("seed", [0, 4])
def test_kinks_inside_of_the_step_are_no_fault(seed: int) -> None:
    """Convolutions have float32 accuracy in float64, so steps are large, and many ReLUs turn on and off inside."""
    mx.random.seed(seed)
    parts = (nn.Conv2d(1, 8, 3), nn.BatchNorm(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    model = nn.Sequential(*parts)
    x, y = mx.random.normal((8, 10, 10, 1)), mx.random.normal((8, 3, 3, 8))
    for one in whole(nnrepl.trace(lambda: (model(x) - y).square().mean(), wrt=model)):
        assert one.wrong == [], one.name


def test_a_nested_gradient_is_checked_with_the_weights_of_its_pass() -> None:
    """mx.grad inside of a loss captures the model, which has been trained since."""
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    x = mx.array([0.1, 0.4, 0.9])

    def loss() -> mx.array:
        slope = mx.grad(lambda t: model(t[:, None]).sum())(x)
        return (slope + model(x[:, None])[:, 0]).square().mean()

    with nnrepl.recording() as recorded:
        for _ in range(2):
            _, grads = nn.value_and_grad(model, loss)()
            optim.SGD(0.1).update(model, grads)
    session = TapeSession(recorded.tape, recorded.names)
    pass_ = next(pass_ for pass_ in session.tape.passes if pass_.wrt)
    for one in check_pass(session, pass_, list(pass_.wrt)).checked:
        assert one.wrong == [], one.name


@pytest.mark.parametrize(("long", "said"), [(0.0, 1), (1e9, 0)])
def test_a_check_that_takes_long_says_so_beforehand(long: float, said: int, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr("nnrepl.explain.check._LONG", long)
    trace = nnrepl.trace(lambda w: (w**2).sum(), mx.ones((2,)), wrt=0)
    session = OpenSession(trace)
    monkeypatch.setattr(session.hooks, "announce", heard.append)
    pass_ = next(pass_ for pass_ in trace.tape.passes if pass_.wrt)
    check_pass(session, pass_, list(pass_.wrt))
    assert len(heard) == said
    assert all(line.startswith("checking the gradient will take about") for line in heard)


@pytest.mark.parametrize("wrong", [True, False])
@pytest.mark.parametrize("name", ["rfft", "exp", "product"])
def test_an_op_with_complex_results_is_checked(name: str, wrong: bool) -> None:
    """MLX gives what both parts of the result, taken as numbers of their own, make of a real input."""
    ops = {
        "rfft": mx.fft.rfft,
        "exp": lambda w: mx.exp(w * mx.array(0.3 + 0.5j)),
        "product": lambda w: w.astype(mx.complex64) * mx.array([1.0 + 2j, 0.5j, 1, -1j]),
    }
    weights = mx.array([1.0, -2.0, 0.5])
    session = OpenSession(
        nnrepl.trace(lambda w: (mx.abs(ops[name](w))[:3] * weights).sum(), mx.array([0.3, -1.2, 0.7, 2.0]), wrt=0)
    )
    forward = next(op for op in session.tape.ops if op.inputs and op.outputs[0].dtype == mx.complex64)
    backward = next(op for op in session.tape.ops if op.of is forward and op.operation.kind == "vjp")
    if wrong:
        session.evaluate(backward.outputs)
        backward.outputs[0].held = backward.outputs[0].array * mx.array([1.0, 1.05, 1.0, 1.0])
    checked = check_op(session, forward).checked
    assert len(checked) == 1
    assert bool(checked[0].wrong) == wrong


def test_the_rule_of_an_op_before_a_vmap_is_found() -> None:
    """What happens inside of the vmap stands between the two on the tape, in a pass of its own."""

    def loss(w: mx.array) -> mx.array:
        h = mx.sin(w)
        return mx.vmap(lambda row: row * 3)(h).sum()

    session = OpenSession(nnrepl.trace(loss, mx.ones((2, 2)), wrt=0))
    first = next(op for op in session.tape.ops if op.name == "sin")
    assert session.tape.ops[first.position + 1].pass_ is not first.pass_
    assert [one.of.name for one in check_op(session, first).checked] == ["w"]


@pytest.mark.parametrize("wrong", [True, False])
def test_a_wrong_vjp_that_the_loss_drowns_is_found_by_itself(wrong: bool) -> None:
    """Its part of the weight's gradient is a hundred-thousandth. So also from an op inside of the function."""
    function = with_vjp(lambda g: g * 1.05 if wrong else g)
    trace = nnrepl.trace(lambda w: (w * w + 1e-5 * function(w)).sum(), mx.array([0.3, 0.7, 1.1]), wrt=0)
    session, pass_ = OpenSession(trace), next(pass_ for pass_ in trace.tape.passes if pass_.wrt)
    of_weight = check_pass(session, pass_, list(pass_.wrt)).checked
    assert not any(one.wrong for one in of_weight)
    found = check_pass(session, pass_, list(pass_.wrt), whole=True).checked
    assert [bool(one.wrong) for one in found] == [wrong, False]
    inside = next(op for op in trace.ops if op.name == "sin")
    assert [bool(one.wrong) for one in check_op(session, inside).checked] == [wrong]


@pytest.mark.parametrize("wrong", [True, False])
def test_of_the_runs_of_a_line_the_one_with_a_gradient_is_checked(wrong: bool) -> None:
    """The first run lies before the gradient call, as where a policy collects what it is trained on; an op's number
    means that op alone."""
    function = with_vjp(lambda g: g * 1.05 if wrong else g)

    def forward(w: mx.array) -> mx.array:
        return function(w * 1.5)

    w = mx.array([0.3, 0.7, 1.1])
    with nnrepl.recording() as recorded:
        mx.eval(forward(w))
        mx.eval(mx.value_and_grad(lambda w: mx.square(forward(w)).sum())(w))
    session = OpenSession(recorded)
    before = next(op for op in session.tape.ops if op.name == "sin")
    assert before.pass_.kind != GRADIENT_PASS
    session.run("goto start")
    shown = str(session.run("check sin"))
    assert ("✗" in shown, "✓" in shown) == (wrong, not wrong), shown
    with pytest.raises(UserError, match="no gradient passes through it"):
        session.run(f"check {before.label}")


@pytest.mark.parametrize(
    ("x", "said"),
    [
        ([1.0, 2.0, 3.0], "all 3 elements checked, 2 differ from finite differences in float64"),
        ([0.0, 2.0, 3.0], "all 3 elements checked, 1 differs from finite differences in float64"),
        ([2.0], "its element checked, 1 differs from finite differences in float64"),
    ],
)
def test_how_many_differ_is_said_of_a_wrong_vjp(x: list[float], said: str) -> None:
    """The third element's is right, and so is that at 0; of the others the worst is told."""

    @mx.custom_function
    def square(x: mx.array) -> mx.array:
        return x * x

    @square.vjp
    def wrong(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return cotangent * x * mx.array([3.0, 3.0, 2.0])[: x.size]

    session = OpenSession(nnrepl.trace(lambda w: square(w).sum(), mx.array(x), wrt=0))
    console = Console(width=150, no_color=True)
    with console.capture() as capture:
        console.print(session.run("check grad(w)"))
    first, worst, *_ = capture.get().splitlines()
    at = max(range(len(x)), key=lambda at: x[at] if at != 2 else 0.0)
    assert first.endswith(said)
    assert f"[{at}] = {3 * x[at]:.0f}, against {2 * x[at]:.0f}: difference {x[at]:.0f}" in worst
