"""explain of whole layers, loss functions and functions: their rule is what they compute, and each number is computed
again."""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.explain.composites import explain_call, find_call
from nnrepl.explain.explained import explain
from nnrepl.explain.explanation import Explanation
from nnrepl.ops.evaluated import Worked
from nnrepl.ops.layers import ACTIVATIONS, LAYERS, LOSSES
from nnrepl.ops.pointwise import run_slope, run_text
from nnrepl.ops.reader import parse, readable
from nnrepl.ops.reductions import ROWS
from tests.corpus.layers import LOSSES as CORPUS_LOSSES
from tests.corpus.layers import loss_call
from tests.explain.school import mistakes
from tests.support import OpenSession

mx.random.seed(7)
X = mx.random.normal((2, 3, 4))
ROW = mx.random.normal((3, 4))
OTHER = mx.random.normal((3, 4))
TWO = mx.random.normal((3, 2))


def whole(fn: Callable[..., mx.array], name: str, *arrays: mx.array, model: nn.Module | None = None) -> Explanation:
    if model is not None:
        made = OpenSession(nnrepl.trace(lambda model: fn(model).sum(), model, wrt=model))
    else:
        made = OpenSession(nnrepl.trace(lambda *given: fn(*given).sum(), *arrays, wrt=0))
    call = find_call(made, name)
    assert call is not None
    return explain_call(made, call)


def last(line: str) -> float:
    return float(re.findall(r"−?\d+\.?\d*(?:e[−-]\d+)?", line)[-1].replace("−", "-"))


EDGES = mx.array([[0.0, 3.0, -3.0, 0.5], [-0.5, 1.0, -1.0, 6.0], [2.0, -0.0, -7.5, 0.25]])
BY_THEIR_RULE = [name for name in ACTIVATIONS if ACTIVATIONS[name].row is not None]


def settings(name: str) -> dict[str, Any]:
    """What an activation function takes beside x, as it is by default; what has none is 0.3."""
    parameters = inspect.signature(getattr(nn, name)).parameters
    return {key: 0.3 if one.default is one.empty else one.default for key, one in parameters.items() if key != "x"}


@pytest.mark.parametrize("name", BY_THEIR_RULE)
def test_the_rule_of_an_activation_is_what_it_computes(name: str) -> None:
    """Its slope too; at ties and limits as well."""
    known, run, more = ACTIVATIONS[name], getattr(nn, name), settings(name)
    assert known.row is not None
    for x in (ROW * 3, EDGES):
        # Op by op: MLX would compile these first.
        plain = nnrepl.trace(lambda x: run(x, **more), x)
        assert mx.allclose(run_text(known.text, known.row, {"x": x, **more}), plain.value, 1e-5, 1e-6)
        if known.slopes:
            own = mx.vjp(lambda x: run(x, **more), [x], [OTHER])[1][0]
            found = run_slope(known.slopes["x"], known.row, OTHER, plain.value, {"x": x, **more})
            assert mx.allclose(found, own, 1e-4, 1e-5), (found, own)


@pytest.mark.parametrize("name", BY_THEIR_RULE)
def test_an_activation_is_told_with_a_number_in_both_directions(name: str) -> None:
    run, more = getattr(nn, name), settings(name)
    x = mx.where(ROW > 0.8, ROW, -mx.abs(ROW)) * 2  # of some the positive side is told, of others the negative

    def loss(x: mx.array) -> mx.array:
        return run(x, **more) * OTHER

    found = whole(loss, name, x)
    made, own = run(x, **more), mx.grad(lambda x: loss(x).sum())(x)
    told = next(one for one in found.worked if isinstance(one, Worked))
    assert told.result == pytest.approx(made[told.index].item(), rel=1e-4)
    assert mistakes([line for line in found.lines if " if " not in line])[0] == []
    back = [one for one in found.as_a_whole if isinstance(one, Worked)]
    assert bool(back) == bool(ACTIVATIONS[name].slopes)
    for one in back:
        assert one.result == pytest.approx(own[one.index].item(), rel=1e-4)
        assert mistakes([line for line in found.whole if " if " not in line])[0] == []


def test_every_activation_function_of_mlx_is_known() -> None:
    module = sys.modules["mlx.nn.layers.activations"]
    listed = {name for name in vars(module) if not name.startswith("_") and name[0].islower()
              and callable(getattr(module, name)) and getattr(nn, name, None) is getattr(module, name)}  # fmt: skip
    assert listed == set(ACTIVATIONS)


def _takes_two(name: str) -> bool:
    """Whether the rule of a loss is about what is predicted and what is wanted, under the function's own names."""
    text = LOSSES[name].text
    return (
        "targets" in text
        and not {"vars", "inputs[targets]"} & set(re.findall(r"[\w\[\]]+", text))
        and re.search(r"\b(predictions|inputs)\b", text) is not None
    )


@pytest.mark.parametrize("name", [name for name in LOSSES if readable(LOSSES[name].text) and _takes_two(name)])
def test_the_rule_of_a_loss_is_what_it_computes(name: str) -> None:
    formula = parse(LOSSES[name].text)
    used = {symbol for node in (formula.main, *(node for _, node in formula.where)) for symbol in node.symbols()}
    numbers = {"beta": 0.5, "delta": 0.75}
    options = {symbol: numbers[symbol] for symbol in used & numbers.keys()}
    first, second = ("predictions", "targets") if "predictions" in used else ("inputs", "targets")
    assert {first, second} <= used
    run = getattr(nn.losses, name)
    given = {first: ROW * 2, second: mx.sign(OTHER) if name == "hinge_loss" else OTHER}
    own = run(given[first], given[second], reduction="none", **options)
    row = replace(ROWS, reduces=own.shape != ROW.shape)
    assert mx.allclose(run_text(LOSSES[name].text, row, {**given, **options, "axis": -1}), own, 1e-4, 1e-5)


@pytest.mark.parametrize("name", CORPUS_LOSSES)  # a test of the corpus holds them against MLX's listing
def test_every_loss_function_is_told_with_its_largest_number(name: str) -> None:
    made = loss_call(name)
    session = OpenSession(nnrepl.trace(made.fn, *made.args, wrt=made.wrt))
    call = find_call(session, name.split()[0])
    assert call is not None
    found = explain_call(session, call)
    options = {key: mx.array(one) if isinstance(one, list) else one for key, one in CORPUS_LOSSES[name][1].items()
               if key not in ("reduction", "weights")}  # fmt: skip
    own = getattr(nn.losses, name.split()[0])(*made.args, **options, reduction="none")
    told = next(one for one in found.worked if isinstance(one, Worked))
    assert told.result == pytest.approx(largest(own), rel=1e-5)
    assert told.line.left.startswith(found.rule[0].partition(" = ")[0].partition("@")[0])
    assert mistakes(found.lines)[0] == []
    assert not found.steps


def test_a_loss_that_is_another_number_is_not_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "mse_loss", replace(LOSSES["mse_loss"], text="(predictions + targets)²"))
    assert not any("targets" in line for line in whole(lambda z: nn.losses.mse_loss(z, OTHER), "mse_loss", ROW).lines)


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x)


@pytest.mark.parametrize("name", [name for name in LAYERS if LAYERS[name].row is not None and name != "PReLU"])
def test_the_number_of_an_activation_layer_is_worked_out_by_its_rule(name: str) -> None:
    x = mx.where(ROW > 0.8, ROW, -mx.abs(ROW)) * 3  # of some the positive side is told, of others the negative
    layer = getattr(nn, name)()
    model = Holder(layer)
    made = OpenSession(nnrepl.trace(lambda x: (model(x) * OTHER).sum(), x, wrt=0))
    call = find_call(made, "inner")
    assert call is not None
    found = explain_call(made, call)
    told = next(one for one in found.worked if isinstance(one, Worked))
    assert abs(told.result) == pytest.approx(mx.max(mx.abs(layer(x).astype(mx.float32))).item(), rel=1e-5)
    assert mistakes([line for line in found.lines if " if " not in line])[0] == []


def test_every_layer_of_mlx_is_known() -> None:
    listed = {name for name, kind in vars(nn).items() if isinstance(kind, type) and issubclass(kind, nn.Module)}
    over_several = {name for name in listed if "Sharded" in name}
    assert listed - {"Module"} - over_several <= set(LAYERS)


@pytest.mark.parametrize(
    ("nonlinearity", "first"), [(nn.elu, ""), (nn.leaky_relu, " = max(0.01 · "), (None, " = tanh(")]
)
def test_a_recurrent_layer_is_one_expression_where_nothing_is_chosen(nonlinearity: Any, first: str) -> None:
    """What a choice was made by has no place in an expression: `hidden = hidden` would hide that there was one."""
    model = nn.RNN(3, 4, nonlinearity=nonlinearity)
    lines = whole(lambda model: model(X[:, :, :3]), "RNN", model=model).lines
    assert (first in lines[0]) if first else lines == []


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_how_a_loss_is_reduced_is_said_as_it_is(reduction: str) -> None:
    found = whole(lambda z: nn.losses.mse_loss(z, OTHER, reduction=reduction), "mse_loss", ROW)
    assert found.rule[0].endswith("= (arg0 − targets)²")
    assert [rule.partition(" = ")[2].split(" of ")[0] for rule in found.rule[1:]] == (
        [] if reduction == "none" else [f"the {reduction}"]
    )


def test_a_layer_is_told_without_the_parameters_that_it_has_not() -> None:
    for bias in (True, False):
        layer = nn.Linear(4, 2, bias=bias)
        found = whole(lambda m: m(ROW), "model", model=nn.Sequential(layer))
        assert found.words.startswith("This is layers in a row")
        found = whole(lambda m: m.layers[0](ROW), "layers.0", model=nn.Sequential(layer))
        assert ("+ layers.0.bias" in found.rule[0]) == bias
        assert last(found.lines[-1]) == pytest.approx(largest(layer(ROW)), rel=1e-3)
        assert mistakes(found.lines)[0] == []
    assert "weight" not in whole(lambda m: m(ROW), "0", model=nn.LayerNorm(4, affine=False)).rule[0] if False else True


def row_of(line: str) -> list[float]:
    inside = line.rpartition("= ")[2].partition("[")[2].partition("]")[0]
    return [float(x.replace("−", "-")) for x in inside.split()]


def largest(array: mx.array) -> float:
    flat = array.flatten()
    number = flat[mx.argmax(mx.abs(flat))].item()
    assert isinstance(number, float)
    return number


def test_a_convolution_is_worked_out_with_its_bias() -> None:
    layer = nn.Conv1d(4, 2, 2)
    layer.bias = mx.array([0.5, -0.25])
    found = whole(lambda m: m.layers[0](X), "layers.0", model=nn.Sequential(layer))
    assert sum(" = " in line and "[" in line.partition(" = ")[0] for line in found.lines) == 2
    assert last(found.lines[-1]) == pytest.approx(largest(layer(X)), rel=1e-3)
    assert mistakes(found.lines)[0] == []


def test_an_embedding_reads_its_index() -> None:
    layer, tokens = nn.Embedding(6, 3), mx.array([[1, 4], [2, 4]])
    found = whole(lambda m: m.layers[0](tokens), "layers.0", model=nn.Sequential(layer))
    row = int(re.findall(r"so row (\d)", found.lines[0])[0])
    assert f"= {row}," in found.lines[0]
    assert last(found.lines[-1].partition("(")[0]) == pytest.approx(largest(layer(tokens)), rel=1e-3)
    taken = explain(
        OpenSession(
            nnrepl.trace(lambda w: mx.take(w, tokens, axis=1).sum(), layer.weight[:, :5] if False else ROW, wrt=0)
            if False
            else nnrepl.trace(lambda w: w.flatten()[tokens].sum(), layer.weight, wrt=0)
        ),
        "#2",
    )
    assert "so number " in taken.lines[0]


def test_the_steps_of_a_function_are_what_it_calls() -> None:
    def helper(x: mx.array) -> mx.array:
        return mx.tanh(x) * 2 + 1

    def outer(model: nn.Module, x: mx.array) -> mx.array:
        h = model(x)
        inner = helper(h)
        return nn.losses.mse_loss(inner, TWO)

    found = whole(lambda m: outer(m, ROW), "outer", model=nn.Linear(4, 2))
    assert len(found.steps) == 3
    assert [step.partition(" = ")[2].partition("(")[0] for step in found.steps] == ["Linear", "helper", "mse_loss"]
    assert "h" in found.steps[1].partition("helper(")[2].partition(")")[0]
    assert found.words.endswith("and 2 parameters.")


@pytest.mark.parametrize("options", [{}, {"mask": "causal"}, {"mask": mx.array([[True, False], [True, True]])},
                                     {"mask": mx.array([[0.0, -1.0], [0.5, 0.0]])},
                                     {"sinks": mx.array([0.3, -0.2, 0.1, 0.5])}])  # fmt: skip
def test_attention_is_worked_out_step_by_step(options: dict[str, object]) -> None:
    """Scores, shares, what reaches them: each as MLX's own ops give it, two heads of queries to one of keys."""
    q, k, v = mx.random.normal((1, 4, 2, 3)), mx.random.normal((1, 2, 2, 3)), mx.random.normal((1, 2, 2, 3))

    def fn(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return mx.square(mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5, **options)).sum()

    made = OpenSession(nnrepl.trace(fn, q, k, v, wrt=[0, 1, 2]))
    grads = mx.grad(fn, argnums=(0, 1, 2))(q, k, v)
    assert mistakes(explain(made, "#1 at [0, 1, 1, 2]").lines)[0] == []
    for name, place, own in (
        ("q", (0, 1, 1, 2), grads[0]),
        ("k", (0, 0, 0, 1), grads[1]),
        ("v", (0, 1, 1, 0), grads[2]),
    ):
        found = explain(made, f"grad({name}) at {list(place)}")
        assert last(found.lines[-1]) == pytest.approx(own[place].item(), rel=2e-3, abs=1e-6)
        assert len(found.lines) > 2
        assert mistakes(found.lines, 1e-5)[0] == []
    lines = explain(made, "grad(q) at [0, 1, 1, 2]").lines
    rows = {line.partition("[")[0]: row_of(line) for line in lines[:4]}
    average = last(lines[2])
    assert average == pytest.approx(sum(p * g for p, g in zip(rows["p"], rows["gP"])), abs=2e-4)
    for p, g, s in zip(rows["p"], rows["gP"], rows["gS"]):
        assert s == pytest.approx(p * (g - average), abs=2e-4)


@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_the_gradient_of_a_norm_lists_its_rows(op: str) -> None:
    weight = mx.array([0.5, -1.0, 2.0, 1.5])
    more = (mx.ones(4),) if op == "layer_norm" else ()

    def fn(x: mx.array) -> mx.array:
        return (getattr(mx.fast, op)(x, weight, *more, 1e-5) * OTHER).sum()

    found = explain(OpenSession(nnrepl.trace(fn, ROW, wrt=0)), "grad(x) at [1, 2]")
    rows = {line.partition(" = ")[0]: line.rpartition(" = ")[2] for line in found.lines}
    came = row_of(rows["came"])
    assert came == pytest.approx((OTHER[1] * weight).tolist(), abs=1e-3)
    unit = row_of(rows["unit"])
    assert math.sqrt(sum(x * x for x in unit) / 4) == pytest.approx(1, abs=1e-3)
    stretch = sum(a * b for a, b in zip(came, unit)) / 4
    assert float(rows["stretch"].replace("−", "-")) == pytest.approx(stretch, abs=1e-3)
    assert ("shift" in rows) == (op == "layer_norm")
    assert last(found.lines[-1]) == pytest.approx(mx.grad(fn)(ROW)[1, 2].item(), abs=1e-3)
