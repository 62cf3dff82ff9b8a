"""Faults whose line is not that of the op at which numbers show it: replaced variables, calls inside of calls, sums of
zeros, lines of a library. Each beside a twin that is sound, or whose fault lies elsewhere."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from mlx.nn import losses

import nnrepl
from nnrepl.explain import links
from nnrepl.explain.health import health, parameters
from nnrepl.explain.look import Look
from nnrepl.explain.why import why
from nnrepl.tape import GRADIENT_PASS, claims
from tests.support import OpenSession

X = mx.sin(mx.arange(12.0)).reshape(4, 3) + 0.1


class Net(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[mx.array], mx.array]) -> None:
        super().__init__()
        mx.random.seed(3)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.between = between

    def __call__(self, x: mx.array) -> mx.array:
        return self.second(self.between(self.first(x)))


def opened(between: Callable[[mx.array], mx.array], loss: Callable[[mx.array], mx.array] = mx.mean) -> OpenSession:
    model = Net(between)
    return OpenSession(nnrepl.trace(lambda m: loss(mx.square(m(X) - 1)), model, wrt=model))


def said(session: OpenSession, question: str = "") -> str:
    """What health says, or why."""
    if not question:
        return " | ".join(finding.text for finding in health(session).findings)
    answer = why(session, question)
    return " ".join([answer.headline, *answer.reasons, *answer.also])


def line_of(fault: Callable[..., Any], text: str) -> str:
    """The place of a line of this file that holds `text`, in a function."""
    lines, start = inspect.getsourcelines(fault)
    return f"test_ways.py:{start + next(k for k, line in enumerate(lines) if text in line)}"


# -- no gradient ---------------------------------------------------------------------------------------------


def replaced(h: mx.array) -> mx.array:
    z = mx.tanh(h)
    z = mx.ones(h.shape)
    return z * 2


def kept(h: mx.array) -> mx.array:
    z = mx.tanh(h)
    z = z + mx.ones(h.shape)
    return z * 2


def test_a_result_whose_variable_is_given_something_else_is_told_with_both_lines() -> None:
    made, other = line_of(replaced, "tanh"), line_of(replaced, "ones")
    for text in (said(opened(replaced)), said(opened(replaced), "grad(first.weight)")):
        assert f"nothing takes z, #3 tanh(first.x) ({made}): z is the result of #4 ones(" in text, text
        assert f"({other}) then" in text
    assert said(opened(kept)) == ""


def counted(h: mx.array) -> mx.array:
    print(h.mean().item())
    return h * 2


def test_a_number_that_leaves_mlx_is_where_the_way_ends() -> None:
    def number(h: mx.array) -> mx.array:
        return mx.zeros(h.shape) + h.mean().item()

    text = said(opened(number), "grad(first.weight)")
    assert f"leaves MLX as a number (array.item, {line_of(number, 'item')})" in text, text
    assert "leaves MLX" not in said(opened(counted), "grad(first.weight)")


def measured(h: mx.array) -> mx.array:
    mx.stop_gradient(h).sum()  # looked at by nobody
    (h > 0).sum()
    z = h * 2
    return mx.zeros_like(z)


def test_the_op_behind_which_the_loss_goes_on_ends_the_way_and_no_other() -> None:
    text = said(opened(measured), "grad(first.weight)")
    assert f"zeros_like(z), {line_of(measured, 'zeros_like')}" in text
    assert "stop_gradient" not in text
    assert "bool" not in text


# -- calls inside of calls -----------------------------------------------------------------------------------


def through(inner: Callable[[mx.array], mx.array]) -> OpenSession:
    """The loss is the square of a gradient that is taken inside of it."""
    weight = mx.sin(mx.arange(9.0)).reshape(3, 3)

    def loss(w: mx.array) -> mx.array:
        slope = mx.grad(lambda x: mx.sum(inner(x @ w)))(X)
        return mx.sum(slope * slope)

    return OpenSession(nnrepl.trace(loss, weight, wrt=0))


def rooted(h: mx.array) -> mx.array:
    return mx.where(h > 1e9, mx.sqrt(h - 1e9), h * h)


def overflowing(h: mx.array) -> mx.array:
    return h * h / mx.linalg.norm(h * 1e30)


def flat(h: mx.array) -> mx.array:
    return mx.sign(h) * 3


def cut(h: mx.array) -> mx.array:
    return mx.stop_gradient(h) * h.shape[0]


def sound(h: mx.array) -> mx.array:
    return h * h * h


@pytest.mark.parametrize(("inner", "question", "op"), [
    (rooted, "nan", "sqrt"), (overflowing, "inf", "norm"), (flat, "grad(w) == 0", "sign"), (cut, "grad(w)", "stop_"),
])  # fmt: skip
def test_what_happens_inside_of_a_nested_gradient_is_followed(
    inner: Callable[[mx.array], mx.array], question: str, op: str
) -> None:
    session = through(inner)
    place = line_of(inner, "return")
    for text in (said(session), said(session, question)):
        assert place in text
        assert op in text, text


def test_a_sound_nested_gradient_has_no_finding() -> None:
    session = through(sound)
    assert said(session) == ""
    assert "is finite" in said(session, "nan")


# -- zeros ---------------------------------------------------------------------------------------------------


def scan(h: mx.array) -> mx.array:
    u = h * 0
    state = mx.zeros((4,))
    for _ in range(3):
        state = state * 0.5 + u.sum(axis=0)
    return h * state


def begun(h: mx.array) -> mx.array:
    state = mx.zeros((4,))
    for _ in range(3):
        state = state * 0.5
    return h * state


def test_a_sum_of_zeros_leads_to_what_was_computed_and_not_to_its_first_term() -> None:
    text = said(opened(scan), "grad(first.weight)")
    assert line_of(scan, "h * 0") in text
    assert "made as zeros" not in text, text
    text = said(opened(begun), "grad(first.weight)")
    assert f"was made as zeros (#3, {line_of(begun, 'zeros')})" in text, text


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        mx.random.seed(3)
        self.first, self.norm, self.second = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        h = nn.hard_tanh(self.first(x) + 50)
        return self.second(self.norm(h))


def test_a_norm_of_equal_numbers_is_not_blamed_on_its_bias() -> None:
    model = Normed()
    session = OpenSession(nnrepl.trace(lambda m: mx.mean(mx.square(m(X) - 1)), model, wrt=model))
    text = said(session, "grad(second.weight)")
    assert "norm.bias is a parameter that is 0" not in text
    assert "is the same number all along each row" in text
    assert re.search(rf"activations\.py:\d+, from {line_of(Normed.__call__, 'hard_tanh')}\)", text), text


def full(h: mx.array) -> mx.array:
    share = mx.minimum(mx.abs(h) + 5, 1)
    return h * (1 - share)


def chosen(h: mx.array) -> mx.array:
    return h * mx.where(h > 1e9, h, 0)


def test_what_makes_a_difference_or_a_choice_zero_is_told() -> None:
    text = said(opened(full), "grad(first.weight)")
    assert re.search(rf"share, #\d+ minimum\(.*\) \({line_of(full, 'minimum')}\), is 1 everywhere", text), text
    text = said(opened(chosen), "grad(first.weight)")
    assert re.search(rf"#\d+ first.x > 1e\+09 \({line_of(chosen, 'where')}\), is false everywhere", text), text


def test_no_number_divided_by_none_says_why_the_divisor_is_zero() -> None:
    def shared(h: mx.array) -> mx.array:
        mask = mx.maximum(h - 100, 0)
        return mask / mask.sum()

    text = said(opened(shared), "nan")
    assert "0 divided by 0 is no number" in text
    assert line_of(shared, "maximum") in text, text


# -- health --------------------------------------------------------------------------------------------------


def hinged(dead: bool) -> OpenSession:
    """A margin that is kept beside another term of the loss; or the last ReLU of a model, which is dead."""

    def loss(m: nn.Linear) -> mx.array:
        y = m(X)
        margin = mx.maximum(y - 50.0, 0)
        return mx.mean(margin) if dead else mx.mean(margin) + mx.mean(mx.square(y))

    model = nn.Linear(3, 4)
    return OpenSession(nnrepl.trace(loss, model, wrt=model))


def test_a_hinge_that_is_satisfied_is_no_dead_layer() -> None:
    assert "are 0 for every row" in said(hinged(True))
    assert [finding.level for finding in health(hinged(False)).findings] == ["note"]


def test_a_term_of_the_loss_that_teaches_nothing_is_a_note() -> None:
    def loss(m: nn.Linear, rounded: bool) -> mx.array:
        size = mx.sum(mx.square(m.weight))
        size = mx.round(size) if rounded else size
        return mx.mean(mx.square(m(X))) + size

    model = nn.Linear(3, 4)
    for rounded in (True, False):
        report = health(OpenSession(nnrepl.trace(loss, model, rounded, wrt=model)))
        assert report.warnings == []
        notes = [finding.text for finding in report.findings]
        assert [
            line_of(loss, "round(size)") in text and "that of one number on the way to the loss" in text
            for text in notes
        ] == ([True] if rounded else [])


@pytest.mark.parametrize(("rate", "kind"), [(0.0, "idle update"), (1e-6, "lost update")])
def test_a_step_that_is_zero_is_not_lost_to_rounding(rate: float, kind: str) -> None:
    mx.random.seed(1)
    model = nn.Linear(3, 4)
    model.set_dtype(mx.bfloat16)
    optimizer = optim.SGD(rate)
    step = nn.value_and_grad(model, lambda m: mx.mean(mx.square(m(X.astype(mx.bfloat16)) - 1)))
    with nnrepl.recording() as recorded:
        for _ in range(2):
            _, grads = step(model)
            optimizer.update(model, grads)
            mx.eval(model.parameters())
    session = OpenSession(recorded)
    session.cursor = 0
    assert [finding.kind for finding in health(session).warnings] == [kind]


def trained(rate: float, momentum: float, steps: int = 12) -> list[str]:
    """What kinds of findings there are in the steps of a descent into a narrow valley."""
    model = nn.Linear(1, 2, bias=False)
    model.weight = mx.array([[1.0], [2.0]])
    optimizer = optim.SGD(rate, momentum=momentum)
    step = nn.value_and_grad(model, lambda m: mx.sum(mx.square(m.weight[:, 0]) * mx.array([1.0, 20.0])))
    with nnrepl.recording() as recorded:
        for _ in range(steps):
            _, grads = step(model)
            optimizer.update(model, grads)
            mx.eval(model.parameters())
    session = OpenSession(recorded)
    kinds = []
    for pass_ in (pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS):
        session.cursor = pass_.start
        kinds += [finding.kind for finding in health(session).warnings]
    return kinds


def test_a_momentum_that_carries_uphill_is_no_wrong_sign() -> None:
    assert "uphill" not in trained(0.01, 0.9)
    assert "uphill" in trained(-0.01, 0.9)
    assert "uphill" in trained(-0.001, 0.0)


class Graph(nn.Module):
    """One layer of graph attention: each node's scores for each other one are a sum."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.project, self.source, self.target = nn.Linear(3, 5), nn.Linear(5, 1), nn.Linear(5, 1)

    def __call__(self, x: mx.array) -> mx.array:
        h = self.project(x)
        scores = nn.leaky_relu(self.source(h) + self.target(h).T)
        scores = mx.where(mx.eye(4) + mx.eye(4, k=1) > 0, scores, -1e9)
        return mx.softmax(scores, axis=self.axis) @ h


@pytest.mark.parametrize("axis", [0, 1])
def test_shares_of_nodes_run_along_the_axis_that_is_summed(axis: int) -> None:
    mx.random.seed(1)
    model = Graph(axis)
    report = health(OpenSession(nnrepl.trace(lambda m: mx.mean(mx.square(m(X) - 1)), model, wrt=model)))
    assert [finding.kind for finding in report.warnings] == (["softmax axis"] if axis == 0 else [])


@pytest.mark.parametrize("axis", [1, 2])
def test_a_log_softmax_by_hand_runs_along_the_axis_that_is_picked_from(axis: int) -> None:
    mx.random.seed(1)
    model = nn.Linear(3, 5)
    x, wanted = mx.random.normal((2, 4, 3)), mx.array([[1], [3]])

    def loss(m: nn.Linear) -> mx.array:
        y = m(x)
        logp = y - mx.logsumexp(y, axis=axis, keepdims=True)
        return -mx.mean(mx.take_along_axis(logp, wanted[:, None], axis=-1))

    report = health(OpenSession(nnrepl.trace(loss, model, wrt=model)))
    assert [finding.kind for finding in report.warnings] == (["softmax axis"] if axis == 1 else [])


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_mask_that_was_made_float32_widens_what_follows(dtype: mx.Dtype) -> None:
    mx.random.seed(1)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 5))
    model.set_dtype(mx.bfloat16)
    x = X.astype(mx.bfloat16)

    def loss(m: nn.Sequential) -> mx.array:
        h = m.layers[0](x) * (x[:, :1] > 0.2).astype(dtype)
        return mx.mean(mx.square(m.layers[2](mx.tanh(h))).astype(mx.float32))

    report = health(OpenSession(nnrepl.trace(loss, model, wrt=model)))
    assert [finding.kind for finding in report.warnings] == (["runs in float32"] if dtype == mx.float32 else [])


def test_what_a_checkpoint_gives_back_is_what_was_computed_inside() -> None:
    """No number is said to change by 0 where it changes: the function's own ops are on the tape."""

    def loss(x: mx.array) -> mx.array:
        h = mx.checkpoint(lambda x: mx.tanh(x * 2))(x)

        @mx.custom_function
        def tripled(h: mx.array) -> mx.array:
            return h * 3

        @tripled.vjp
        def _(primals: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
            return cotangent * 7

        return mx.sum(tripled(h))

    session = OpenSession(nnrepl.trace(loss, X, wrt=0))
    for name, own in (("checkpoint", "runs once more"), ("custom", "its own rule")):
        op = next(op for op in session.tape.ops if op.operation.kind == name)
        text = str(session.run(f"explain {op.label}"))
        assert "Jacobian" not in text
        assert own in re.sub(r"\s+", " ", text)


# -- reports that people have written ------------------------------------------------------------------------


class OnGpu:
    """`mlx.core` as `mlx.nn.losses` sees it on a computer with a GPU, where cross-entropy is one fused op."""

    def default_device(self) -> mx.Device:
        return mx.Device(mx.gpu)

    def __getattr__(self, name: str) -> Any:
        return getattr(mx, name)


@pytest.fixture(params=["op by op", "fused"])
def cross_entropy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which mlx.nn computes it."""
    if request.param == "fused":
        monkeypatch.setattr(losses, "mx", OnGpu())


def masked_logits(open_row: bool) -> OpenSession:
    """The logarithm of a mask is added, of which one row is all 0 (allennlp, issue 890)."""
    model, mask = nn.Linear(3, 4), mx.array([[1.0] * 4, [1.0 * open_row, 0, 0, 0], [1.0] * 4, [0, 0, 1, 1]])

    def loss(m: nn.Linear) -> mx.array:
        return nn.losses.cross_entropy(m(X) + mx.log(mask), mx.array([1, 0, 2, 3]), reduction="sum")

    return OpenSession(nnrepl.trace(loss, model, wrt=model))


@pytest.mark.usefixtures("cross_entropy")
def test_a_row_that_is_masked_altogether_is_told_and_not_the_mask() -> None:
    text = said(masked_logits(False), "nan")
    assert "A whole row of −∞ went in" in text
    assert "Keep it above 0" not in text
    assert "NaN" not in said(masked_logits(True), "nan")


def test_a_query_without_keys_is_told_where_its_result_is_thrown_away() -> None:
    """The loss leaves the query out, and its gradient is NaN nevertheless (pytorch, issue 41508)."""

    def traced(hidden: float) -> OpenSession:
        attention = nn.MultiHeadAttention(3, 1)
        mask = mx.array([[0.0, -mx.inf, 0, 0], [hidden, -mx.inf, -mx.inf, -mx.inf], [0] * 4, [0] * 4])
        keep = mx.array([[1], [0], [1], [1]]) > 0
        x = X[None]
        return OpenSession(
            nnrepl.trace(lambda m: mx.sum(mx.square(mx.where(keep, m(x, x, x, mask), 0))), attention, wrt=attention)
        )

    text = said(traced(-float("inf")), "nan")
    assert "The mask leaves no key to the query of row mask[1,:]" in text, text
    assert "is finite" in said(traced(0.0), "nan")


@pytest.mark.usefixtures("cross_entropy")
def test_a_cross_entropy_over_one_class_is_told() -> None:
    for classes in (1, 2):
        model = nn.Linear(3, classes)
        targets = mx.zeros((4,), mx.int32)
        text = said(OpenSession(nnrepl.trace(lambda m, y=targets: nn.losses.cross_entropy(m(X), y).sum(), model,
                                             wrt=model)))  # fmt: skip
        assert ("there is one class, its share is 1" in text) == (classes == 1)


def test_zeros_of_half_precision_are_told_as_such() -> None:
    def squared(size: float) -> OpenSession:
        return opened(lambda h: h * mx.square(mx.abs(h).astype(mx.float16) * size + size).astype(mx.float32))

    assert "too small for float16" in said(squared(1e-5), "grad(first.weight)")
    assert "too small" not in said(squared(1.0), "grad(first.weight)")


def test_a_part_of_a_gradient_is_not_called_by_the_name_of_the_whole() -> None:
    """x is used twice: what one op gives is no ∂L/∂x, and each equation is so of the numbers that the tape has."""
    session = OpenSession(nnrepl.trace(lambda x: mx.sum(mx.exp(x) * mx.sin(x)), X, wrt=0))
    back = {op.of.name: op for op in session.tape.ops if op.of is not None and op.operation.kind == "vjp"}
    told = {name: re.sub(r"\s+", " ", str(session.run(f"explain {back[name].label} at [1, 2]"))) for name in back}
    partial = [name for name in ("exp", "sin") if session.tape.passes[0].adds_to(back[name].outputs[0]) is not None]
    assert partial
    for name in partial:
        label = back[name].label
        assert f"{label}[1,2] = " in told[name]
        assert "∂L/∂x[1,2] =" not in told[name]
        assert "It is a part of ∂L/∂x" in told[name]
    assert "part of" not in told["multiply"]


def swollen(h: mx.array) -> mx.array:
    return h * h * 1e12


def test_what_grows_a_nested_gradient_is_named_inside_of_it() -> None:
    for inner, named in ((swollen, True), (sound, False)):
        text = said(through(inner), "grad(w)")
        assert (f"Inside of that call: multiply at {line_of(inner, 'return')}" in text) == named, text


def test_a_step_function_of_a_library_is_told_with_the_line_that_calls_it() -> None:
    def stepped(h: mx.array) -> mx.array:
        return nn.step(h) * 1.0

    place = line_of(stepped, "step(h)")
    for text in (said(opened(stepped)), said(opened(stepped), "grad(first.weight)")):
        assert re.search(rf"activations\.py:\d+, from {place}", text) is not None, text


def test_of_a_long_way_its_ends_are_shown_and_what_lies_around_a_mark() -> None:
    assert links._kept(links.SHOWN, None) == list(range(links.SHOWN))
    assert links._kept(40, 20) == [0, 1, 2, *range(17, 24), 38, 39]
    assert links._kept(40, 1) == [0, 1, 2, 3, 4, 38, 39]
    assert links._kept(40, None) == links._kept(40, 39) == [0, 1, 2, 36, 37, 38, 39]
    assert (links.LeftOut(3, "ops").text, links.LeftOut(2).text) == ("… 3 more ops …", "… 2 more …")


@pytest.mark.parametrize("equal", [True, False])
def test_only_weights_with_the_same_numbers_were_one(equal: bool) -> None:
    session = OpenSession(nnrepl.trace(lambda a, b: (a * b).sum(), X, X + (not equal), wrt=(0, 1)))
    (pass_,) = session.tape.passes
    case: Any = SimpleNamespace(look=Look(session))
    assert claims.proved(parameters._were_one(case, pass_, list(pass_.wrt))) == equal
