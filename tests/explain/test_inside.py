"""into, primitives and check: ops taken apart, and gradients held against finite differences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl import UserError
from nnrepl.explain.check import check_op, check_pass
from nnrepl.explain.explanation import of_value
from nnrepl.explain.look import Look
from nnrepl.explain.primitives import primitives
from nnrepl.explain.taken_apart import agreement, open_op
from nnrepl.ops.evaluated import Worked
from nnrepl.record.recorder import current
from tests.corpus import layers
from tests.corpus.checks import SEED, some
from tests.explain.school import mistakes
from tests.support import EXAMPLES, OpenSession, nnrepl_cli
from tests.support import OpenSession as Session


def test_every_fused_op_agrees_with_what_is_inside_and_every_gradient_with_its_differences() -> None:
    """All layers, forward and backward: one op of each kind."""
    seen: set[object] = set()
    opened: Counter[str] = Counter()
    checked = 0
    for name in some(list(layers.LAYERS), 5):
        mx.random.seed(SEED)
        call = layers.layer_call(name)
        trace = nnrepl.trace(call.fn, *call.args, wrt=call.wrt)
        session = OpenSession(trace)
        for op in trace.ops:
            kind = (op.name, tuple(len(value.shape) for value in op.inputs))
            if kind in seen:
                continue
            seen.add(kind)
            if op.of is not None and op.operation.kind == "vjp" and op.of.operation.kind == "op":
                found = check_op(session, op).checked
                checked += len(found)
                assert all(not one.wrong for one in found), (name, op, found)
            try:
                inside = open_op(session, op)
            except UserError:
                continue
            assert inside.tape.holes == []
            same = agreement(inside)
            opened[op.name] += 1
            assert same.largest <= 1e-4 * max(same.peak, 1.0), (name, op, same)
            assert all(inner.source.file.endswith(".py") for inner in inside.tape.ops)
    assert checked > 60
    assert {"addmm", "vjp of addmm", "conv1d", "mean"} <= set(opened), opened


def test_the_inside_is_stepped_and_explained_like_any_tape() -> None:
    trace = nnrepl.trace(lambda x: mx.softmax(x, axis=-1)[0, 0], mx.array([[1.0, 2.0, 3.0]]), wrt=0)
    session = Session(trace)
    session.run("into #1")
    inside = session.interpreter.session
    assert inside is not session
    assert [op.name for op in inside.tape.ops] == ["max", "stop_gradient", "subtract", "exp", "sum", "divide"]
    session.run("until divide")
    assert session.run("explain") is not None
    session.run("out")
    assert session.interpreter.session is session
    session.run("into #4")
    names = [op.name for op in session.interpreter.session.tape.ops]
    assert "vjp of divide" in names
    assert current() is None


def test_into_says_what_it_cannot_open() -> None:
    trace = nnrepl.trace(lambda x: mx.kron(mx.sin(x), x).sum(), mx.ones((2,)), wrt=0)
    session = OpenSession(trace)
    with pytest.raises(UserError, match="sin is a textbook op already"):
        open_op(session, trace.ops[0])
    with pytest.raises(UserError, match="no textbook form of kron"):
        open_op(session, trace.ops[1])


def test_a_running_program_goes_on_untouched() -> None:
    """Inside of a script, whose recorder is lent to the formula, nothing of the program's tape changes."""
    commands = ["-c", "into #8", "-c", "s", "-c", "out", "-c", "verify", "-c", "c"]
    result = nnrepl_cli("--batch", *commands, str(EXAMPLES / "simple_nn.py"))
    assert "inside #8 mean" in result.stdout
    assert "4 gradients: bit for bit MLX's own" in result.stdout
    assert "loss after:  5.760000228881836" in result.stdout
    assert not result.stderr


def test_a_wrong_gradient_is_found_and_a_kink_is_not_one() -> None:
    @mx.custom_function
    def double(x: mx.array) -> mx.array:
        return mx.square(x)

    @double.vjp
    def wrong(primals: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return cotangent * 3 * primals

    x = mx.array([1.0, -2.0, 3.0])
    trace = nnrepl.trace(lambda x: double(x).sum(), x, wrt=0)
    session = OpenSession(trace)
    pass_ = trace.tape.passes[0]
    found = check_pass(session, pass_, list(pass_.wrt)).checked
    assert [element.difference for element in found[0].wrong] == pytest.approx([2.0, -4.0, 6.0], rel=1e-6)

    trace = nnrepl.trace(lambda x: mx.maximum(x, 0).sum(), mx.array([0.0, 1.0, -1.0]), wrt=0)
    found = check_op(OpenSession(trace), trace.ops[0]).checked
    assert not found[0].wrong
    assert [kink.index for kink in found[0].kinks] == [(0,)]
    assert (found[0].kinks[0].slope.left, found[0].kinks[0].slope.right) == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_is_checked_with_its_own_tolerance(dtype: mx.Dtype) -> None:
    x = mx.random.normal((4, 5)).astype(dtype)
    trace = nnrepl.trace(lambda x: mx.sum(mx.softmax(x * 3, axis=-1) * x), x, wrt=0)
    for op in trace.ops:
        if op.of is not None and op.operation.kind == "vjp":
            found = check_op(OpenSession(trace), op).checked
            assert all(not one.wrong for one in found), op


def test_primitives_are_mlx_s_own() -> None:
    trace = nnrepl.trace(lambda x: mx.sum(nnrepl_gelu(x)), mx.ones((2, 3)), wrt=0)
    names = [step.name for step in primitives(trace.ops[0])]
    assert names == ["Erf"]
    backward = next(op for op in trace.ops if op.name == "vjp of erf")
    assert primitives(backward)[-1].makes == ("∂L/∂x",)
    of_a_variance = primitives(nnrepl.trace(lambda b: mx.var(b), mx.ones((2, 3))).ops[0])
    made = [name for step in of_a_variance for name in step.makes]
    assert made[:3] == ["a", "c", "d"], "nothing between is called as what went in"
    assert len(set(made)) == len(made)


def nnrepl_gelu(x: mx.array) -> mx.array:
    return mx.erf(x)


def test_what_went_in_keeps_the_programs_name_but_where_the_formula_means_another_tensor() -> None:
    def loss(scores: mx.array) -> mx.array:
        e = scores * 2
        first = mx.softmax(scores, axis=-1)
        second = mx.softmax(e, axis=-1)
        return (first * second * mx.softmax(e + 1, axis=-1)).sum()

    session = OpenSession(nnrepl.trace(loss, mx.array([[1.0, 2.0, 0.5]])))
    softmax = [op.label for op in session.tape.ops if op.name == "softmax"]
    for label, told, shown in zip(softmax, ("scores", "e", "#5 (e + 1)"), ("scores", "a", "a"), strict=True):
        assert f"In the formula a is {told}. out leads back." in " ".join(str(session.run(f"into {label}")).split())
        subtract = session.interpreter.session.tape.ops[2]
        assert [subtract.called(value) for value in subtract.inputs] == [shown, "m"]
        session.run("out")


@pytest.mark.parametrize("asked", ["p shares", "explain shares", "why shares", "goto shares", "shares"])
def test_a_name_of_the_program_is_not_inside_of_an_op_and_that_is_said(asked: str) -> None:
    def loss(x: mx.array) -> mx.array:
        shares = mx.softmax(x, axis=-1)
        return (shares * x).sum()

    session = OpenSession(nnrepl.trace(loss, mx.array([[1.0, 2.0, 0.5]])))
    session.run("into #1")
    said = "it is the program's, and you are inside of #1 softmax; out leads back"
    with pytest.raises(UserError, match=re.escape(said)):
        session.interpreter.run(asked)
    with pytest.raises(UserError, match="nosuch") as other:
        session.interpreter.run(asked.replace("shares", "nosuch"))
    assert said not in str(other.value)


A, B, V = (mx.random.normal(shape, key=mx.random.key(3)) for shape in ((2, 3, 3), (3, 2, 3), (2, 3)))
Q = mx.random.normal((2, 1, 1, 3, 4), key=mx.random.key(4))
MAPPED: dict[str, tuple[Callable[..., Any], list[mx.array]]] = {
    "a number and a row": (mx.vmap(lambda a, v: a * v[0] + mx.where(a > 0, v[1], a)), [A, V]),
    "along another axis": (mx.vmap(lambda b: mx.exp(b[0]) * mx.sum(b, axis=1), in_axes=1), [B]),
    "of one of the two": (mx.vmap(lambda a, v: a @ v, in_axes=(0, None)), [A, V[0]]),
    "axes of the op": (mx.vmap(lambda a: mx.softmax(a, axis=0) + mx.logsumexp(a, axis=0) + a.mean(axis=1)), [A]),
    "a norm": (mx.vmap(lambda a, v: mx.fast.layer_norm(a, v, v * 2, 1e-5)), [A, V]),
    "places": (mx.vmap(lambda a, v: a.at[mx.array([0, 2, 0])].add(v)), [A, V]),
    "attention": (mx.vmap(lambda q: mx.fast.scaled_dot_product_attention(q, q, q, scale=0.5)), [Q]),
    "one within another": (
        mx.vmap(lambda a, v: mx.vmap(lambda row, v: row * v[0] / (row @ row), in_axes=(1, None))(a, v)), [A, V]),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPPED)
def test_what_happens_inside_of_a_vmap_is_worked_out_for_one_sample(name: str) -> None:
    """In the axes that the op has there; the tensors of the tape have one more."""
    function, given = MAPPED[name]
    session = OpenSession(nnrepl.trace(lambda *arrays: function(*arrays), *given))
    mapped = [op for op in session.tape.notes.mapped if op.operation.kind != "opaque"]
    assert mapped
    for op in mapped:
        for value in op.outputs:
            found = of_value(Look(session), value, None)
            assert found.element
            places = [int(at) for at in found.element.partition("[")[2].rstrip("]").split(",")]
            told = found.worked[-1]
            assert isinstance(told, Worked), (op, found.lines)
            assert told.result == pytest.approx(value.array[tuple(places)].item(), rel=1e-4, abs=1e-6)
            assert mistakes(found.lines)[0] == []
