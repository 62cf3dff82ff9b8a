"""What happens inside of a call that MLX runs by itself: each value against a plain program that has it."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.tape import Inside, Op, samples_of
from tests.support import OpenSession, assert_same_bits, nnrepl_cli, plain_and_traced

W = mx.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5], [-0.75, 1.0, 0.125]])
X = mx.array([[0.1, 0.2, 0.3], [-0.4, 0.5, 0.6], [0.7, -0.8, 0.9], [1.0, 1.1, -1.2]])
T = mx.array([0.5, -0.5, 1.5, 2.0])


def loss(w: mx.array, x: mx.array, t: mx.array) -> mx.array:
    h = mx.tanh(x @ w)
    p = h.sum()
    return (p - t) ** 2


def traced(fn: Callable[..., Any], *args: Any, wrt: Any = None) -> nnrepl.Trace:
    trace = nnrepl.trace(fn, *args, wrt=wrt)
    assert trace.verify().complete, trace.verify()
    return trace


def made(trace: nnrepl.Trace, name: str, number: int = 0) -> Op:
    """An op of an operation, counted from 0."""
    return [op for op in trace.ops if op.name == name][number]


def only(trace: nnrepl.Trace) -> Inside:
    (inside,) = trace.tape.notes.calls.values()
    return inside


# -- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [[0, None], {"a": 0, "b": None}, (0, None), (0,)], ids=str)
def test_the_axes_of_a_single_argument_are_those_of_its_parts(axes: Any) -> None:
    """`in_axes` and `out_axes` as MLX reads them: of one argument, counted from the end, and None for one result."""
    b = X[0]
    given: Any = {list: [X, b], dict: {"a": X, "b": b}, tuple: (X, b)[: len(axes)]}[type(axes)]
    given = given[0] if axes == (0,) else given

    def rows(parts: Any) -> Any:
        a, c = (parts, b) if axes == (0,) else parts.values() if isinstance(parts, dict) else parts
        return {"k": [mx.outer(a, c), a * c]}, c * 2

    trace = traced(lambda x: mx.vmap(rows, in_axes=axes, out_axes=({"k": [-1, -2]}, None))(given), X)
    a, c = made(trace, "outer").outputs[0], made(trace, "multiply", 0).outputs[0]
    assert_same_bits(mx.stack([mx.outer(row, b) for row in X]), a.array)
    assert_same_bits(X * b, c.array)


def test_the_values_of_a_vmap_are_those_of_all_samples() -> None:
    trace = traced(lambda x: mx.vmap(loss, in_axes=(None, 0, 0))(W, x, T), X)
    h, p = made(trace, "tanh").outputs[0], made(trace, "sum").outputs[0]
    rows = [mx.tanh(row @ W) for row in X]
    assert_same_bits(mx.stack(rows), h.array)
    assert_same_bits(mx.stack([row.sum() for row in rows]), p.array)
    assert (h.name, h.shape, samples_of(h)) == ("h", (4, 3), [(4, 0)])
    w, x = made(trace, "matmul").inputs[1], made(trace, "matmul").inputs[0]
    assert samples_of(w) == []
    assert samples_of(x) == [(4, 0)]


def test_samples_along_another_axis_and_two_vmaps() -> None:
    def f(a: mx.array, b: mx.array) -> mx.array:
        c = a * b
        return c.sum()

    trace = traced(lambda x: mx.vmap(mx.vmap(f, in_axes=(1, None)), in_axes=(None, 1))(x, x), X)
    c = made(trace, "multiply").outputs[0]
    assert samples_of(c) == [(3, 0), (3, 1)]
    assert_same_bits(mx.stack([mx.stack([X[:, i] * X[:, j] for i in range(3)]) for j in range(3)]), c.array)


@pytest.mark.parametrize("transform", ["grad", "value_and_grad"])
def test_a_gradient_in_a_loss_has_a_backward_pass_of_its_own(transform: str) -> None:
    def u(x: mx.array) -> mx.array:
        h = mx.sin(x @ W)
        return (h * h).sum()

    def fn(x: mx.array) -> mx.array:
        found = getattr(mx, transform)(u)(x)
        return (found[1] if transform == "value_and_grad" else found).sum()

    trace = traced(fn, X, wrt=0)
    inside = only(trace)
    h = made(trace, "sin").outputs[0]
    (of_h,) = [grads[-1] for value, grads in inside.grads.items() if value is h]
    assert_same_bits(mx.grad(lambda value: (value * value).sum())(mx.sin(X @ W)), of_h.array)
    assert [op.phase for op in inside.ops] == ["forward"] * 4 + ["backward"] * 4
    assert {op.outer_phase for op in inside.ops} == {"forward"}
    assert not any(value.op is not None and value.op.inner for value in trace.tape.passes[-1].grads)


def test_a_hessian_vector_product() -> None:
    def energy(w: mx.array) -> mx.array:
        e = mx.tanh(X @ w).sum()
        return e

    trace = traced(lambda w: mx.jvp(mx.grad(energy), [w], [mx.ones_like(w)])[1][0], W)
    tangent = made(trace, "jvp of grad of test_a_hessian_vector_product.energy").outputs[0]
    assert_same_bits(mx.jvp(mx.grad(energy), [W], [mx.ones_like(W)])[1][0], tangent.array)
    assert tangent.name.startswith("the tangent of #")


def test_tangents_are_those_of_a_plain_program() -> None:
    trace = traced(lambda x: mx.jvp(lambda a: mx.sin(a) * a, [x], [x * 2])[1][0], X)
    tangent = made(trace, "jvp of sin").outputs[0]
    assert_same_bits(mx.cos(X) * (X * 2), tangent.array)


def test_per_sample_gradients() -> None:
    trace = traced(lambda w: mx.vmap(mx.grad(loss), in_axes=(None, 0, 0))(w, X, T), W)
    of_w = made(trace, "vjp of matmul").outputs[0]
    assert_same_bits(mx.stack([mx.grad(loss)(W, x, t) for x, t in zip(X, T)]), of_w.array)
    assert of_w.name == f"∂{made(trace, 'power').outputs[0].name}/∂w"


def test_maml_and_a_network_with_a_gradient_in_its_loss() -> None:
    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    xs = mx.linspace(0, 1, 5)

    def u(x: mx.array) -> mx.array:
        return model(x * mx.ones((1,)))[0]

    def residual(x: mx.array) -> mx.array:
        return mx.grad(mx.grad(u))(x) + u(x)

    def fn(x: mx.array) -> mx.array:
        return (mx.vmap(residual)(x) ** 2).mean() + (mx.grad(u)(x[0]) - 1) ** 2

    trace = traced(fn, xs, wrt=model)
    assert len(trace.tape.notes.calls) == 4

    def adapted(w: mx.array) -> mx.array:
        fast = w - 0.1 * mx.grad(lambda v: mx.tanh(X @ v).sum())(w)
        return mx.square(X @ fast).sum()

    assert len(traced(adapted, W, wrt=0).tape.notes.calls) == 1


def test_what_mlx_hands_to_the_inner_of_two_nested_gradients_may_be_kept_and_used_outside() -> None:
    def kept_argument(x: mx.array, w: mx.array) -> mx.array:
        kept: list[mx.array] = []

        def inner(q: mx.array) -> mx.array:
            kept.append(q)
            return (mx.sin(q) * w).sum()

        g = mx.grad(lambda p: (mx.grad(inner)(p * 2) * p).sum())(x)
        return (g * kept[-1]).sum()

    plain_and_traced(kept_argument, [X[:, 0], T], (0, 1))


# -- the outer pass, and second runs ---------------------------------------------------------------------------


def test_the_function_runs_once_and_nothing_is_computed() -> None:
    runs = []

    def f(x: mx.array) -> mx.array:
        runs.append(1)
        return mx.sin(x) * x

    trace = nnrepl.trace(lambda x: mx.vmap(f)(x).sum() + mx.jvp(f, [x], [x])[1][0].sum(), X)
    assert len(runs) == 2
    assert not any(value.held is not None for op in trace.ops if op.inner for value in op.outputs)


def test_a_checkpoint_inside_runs_its_function_twice_and_is_written_down_once() -> None:
    trace = traced(lambda x: mx.grad(lambda a: mx.checkpoint(lambda b: mx.sin(b) * b)(a).sum())(x).sum(), X, wrt=0)
    assert sum(op.name == "sin" for op in trace.ops) == 1


def test_random_numbers_inside_are_those_that_were_drawn() -> None:
    def noisy(x: mx.array) -> mx.array:
        n = mx.random.normal(x.shape)
        return (x * n).sum()

    mx.random.seed(3)
    expected = mx.random.normal(X.shape)
    mx.random.seed(3)
    trace = nnrepl.trace(lambda x: mx.grad(noisy)(x) + mx.random.normal(x.shape) * 0, X)
    assert_same_bits(expected, made(trace, "random.normal").outputs[0].array)
    assert_same_bits(expected, trace.value)


def test_a_compiled_function_repeats_what_happens_inside() -> None:
    @mx.compile
    def f(x: mx.array) -> mx.array:
        return mx.vmap(lambda row: mx.tanh(row) * row.sum())(x)

    trace = traced(lambda x: f(x).sum() + f(x * 2).sum(), X)
    second = made(trace, "tanh", 1).outputs[0]
    assert_same_bits(mx.tanh(X * 2), second.array)
    assert second.op is not None
    assert second.op.inner


def test_a_call_that_fails_says_where() -> None:
    def f(row: mx.array) -> mx.array:
        h = row * 2
        return h @ mx.ones((7, 7))

    def fn(x: mx.array) -> mx.array:
        try:
            return mx.vmap(f)(x)
        except ValueError:
            return x

    trace = nnrepl.trace(fn, X)
    assert made(trace, "matmul").error is not None
    assert "failed" in made(trace, "multiply").outputs[0].refusal


# -- at the prompt -----------------------------------------------------------------------------------------------


def session_of() -> OpenSession:
    def u(x: mx.array) -> mx.array:
        h = mx.sin(x @ W)
        z = (h * h).sum()
        return z

    def fn(x: mx.array) -> mx.array:
        s = x * 3
        g = mx.grad(u)(s)
        r = g * g
        return r.mean()

    return OpenSession(nnrepl.trace(fn, X, wrt=0))


def said(session: OpenSession, line: str) -> str:
    return str(session.run(line))


def test_step_goes_in_and_next_goes_over() -> None:
    session = session_of()
    session.step()
    assert session.op is not None
    assert session.op.inner
    session.finish()
    assert session.op is not None
    assert session.op.name.startswith("grad of")
    session.goto("#1")
    session.next()  # to the line of the call, of which the first op lies in it
    assert session.op is not None
    assert session.op.name == "matmul"
    session.next()
    assert session.op is not None
    assert session.op.name == "multiply"
    assert not session.op.inner
    session.back()
    session.back()
    assert session.op is not None
    assert session.op.inner
    assert session.op.phase == "backward"


def test_names_gradients_and_places_inside() -> None:
    session = session_of()
    session.goto("sin")
    session.step()
    assert "h = " in said(session, "p h")
    assert "u" in said(session, "where")
    assert "is not made yet" in said(session, "grad(h)")
    session.goto("#9")
    assert "∂z/∂h" in said(session, "grad(h)")
    session.goto("end")
    assert "in grad of" in said(session, "goto #3")
    assert "∂z/∂h = " in said(session, "explain #7")


def test_what_cannot_be_had_is_said_so() -> None:
    session = OpenSession(nnrepl.trace(lambda x: mx.vmap(lambda row: mx.tanh(row).sum())(x).sum(), X, wrt=0))
    session.goto("sum")
    assert "lies inside of #3 (vmap of" in said(session, "grad(#1)")
    assert "lies inside of #3 (vmap of" in said(session, "why grad(#1)")
    assert "disconnected" not in said(session, "grad(#1)")
    assert "used by nothing" not in said(session, "health")
    with pytest.raises(nnrepl.UserError, match="lies inside of #3"):
        session.run("#1 = #1 * 2")


LOOP = """
import mlx.core as mx
W = mx.array([[0.5, -1.0], [1.5, 0.25]])
X = mx.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]])
def f(h, w):
    {h_line}
    v = mx.vmap(lambda row: row @ w)(h)
    return v * 2
def loss(w):
    h = mx.tanh(X)
    return (f(h, w) ** 2).sum()
for i in range(2):
    L, G = mx.value_and_grad(loss)(W)
    W = W - 0.01 * G
    print("loss", L.item())
"""


@pytest.mark.parametrize("move", ["step", "next", "until vmap"])
def test_a_change_before_a_call_is_that_line_and_what_happens_inside_keeps_its_names(tmp_path: Path, move: str) -> None:
    """Whether it is typed at the first op inside or at the call's own op, which comes after those inside."""
    path = tmp_path / "loop.py"
    path.write_text(LOOP.format(h_line="pass"))
    lines = [move, "h = h * 3", "goto row", "p row", "where", "c"]
    shown = nnrepl_cli("--plain", str(path), stdin="\n".join([*lines, "q\n"])).stdout
    assert re.search(r"timeline 2: h (edited before #3|= h \* 3; from here on)", shown)
    assert "row = [[" in shown
    assert "in f" in shown
    printed = io.StringIO()
    changed = LOOP.format(h_line="h = h * 3 if i == 0 else h")
    with contextlib.redirect_stdout(printed):
        exec(compile(changed, "<twin>", "exec"), {"__name__": "__main__"})
    for line in printed.getvalue().split("\n"):
        assert line in shown


def test_what_differs_from_sample_to_sample_is_what_a_mapped_axis_reaches() -> None:
    trace = traced(lambda x, w: mx.vmap(lambda row: row * (w * 2) + w)(x), X, T[:3])
    (inside,) = trace.tape.notes.calls.values()
    assert [(op.name, inside.differs(op.outputs[0])) for op in inside.ops] == [
        ("multiply", False), ("multiply", True), ("add", True),
    ]  # fmt: skip
    assert all(map(inside.differs, inside.leaves))
    trace = traced(lambda x: (mx.grad(lambda y: (y * y).sum())(x) * x).sum(), X, wrt=0)
    (inside,) = trace.tape.notes.calls.values()
    assert not any(inside.differs(value) for op in inside.ops for value in op.outputs)
