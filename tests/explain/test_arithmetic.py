"""The arithmetic of explanations, computed again by a reader of the tests' own; and the one writing of each formula."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.explain.explained import explain
from nnrepl.explain.explanation import Explanation, of_value
from nnrepl.explain.look import Look
from nnrepl.ops import ENTRIES, every
from nnrepl.ops.bilinear import product_of
from nnrepl.ops.case import Operand
from nnrepl.ops.entry import Entry
from nnrepl.ops.evaluated import Line, Worked
from nnrepl.ops.expression import literal
from nnrepl.ops.pointwise import run_slope, run_text, signature
from nnrepl.ops.reader import parse, readable
from tests.corpus import layers, lm
from tests.corpus.checks import SEED, Call, some
from tests.explain.school import mistakes
from tests.record.samples import SAMPLES
from tests.support import OpenSession

EPSILON = {mx.float16: 2e-3, mx.bfloat16: 2e-2}


def programs() -> Iterator[Call]:
    for name in layers.LAYERS:
        yield layers.layer_call(name)
    for name in layers.LOSSES:
        yield layers.loss_call(name)
    for name in some([name for name in lm.MODELS if name not in lm.UNTRAINABLE], 24):
        model = lm.tiny(name).train()
        yield Call(lm.loss_of(model), [lm.tokens_for(name)], model)


def test_printed_arithmetic_is_right_and_there_is_some_for_every_kind_of_op() -> None:
    wrong: list[str] = []
    bare: set[str] = set()
    seen: set[object] = set()
    read = 0
    for call in programs():
        mx.random.seed(SEED)
        trace = nnrepl.trace(call.fn, *call.args, wrt=call.wrt)
        session = OpenSession(trace)
        for op in trace.ops:
            kind = (op.name, tuple(len(value.shape) for value in op.inputs), op.operation.kind)
            if kind in seen:
                continue
            seen.add(kind)
            for value in op.outputs:
                found = of_value(Look(session), value)
                assert found.lines or not value.size, op
                errors, count = mistakes(found.lines, EPSILON.get(value.dtype, 4e-6))
                wrong += [f"{op}: {error}" for error in errors]
                read += count
                if value.size and len(found.lines) == 1 and found.lines[0].count(" = ") == 1:
                    bare.add(op.name)
    assert wrong == []
    assert read > 700
    # Numbers from outside, another dtype, bits, places in an order, functions as a whole: nothing to compute.
    plain = {"array", "astype", "argpartition", "bitwise_and", "random.bernoulli", "checkpoint", "vjp"}
    assert {name for name in bare if name.split(" ")[0] not in plain} == set()
    assert {name for name in bare if name.startswith("vjp")} <= {
        "vjp of greater", "vjp of greater_equal", "vjp of less", "vjp of sign", "vjp of where",
    }  # fmt: skip


SAMPLED = [key for key, samples in SAMPLES.items() if any(not sample.refused for sample in samples)]


def test_arithmetic_of_sample_calls_is_right() -> None:
    """Every fifth of MLX's functions, forwards and, where it can be differentiated, backwards."""
    wrong: list[str] = []
    read = 0
    for key in SAMPLED[::5]:
        sample = next(one for one in SAMPLES[key] if not one.refused)
        function = sample.function(key)

        def loss(*arrays: mx.array, function: Any = function) -> mx.array:
            result = function(*arrays)
            parts = result if isinstance(result, (list, tuple)) else [result]
            return sum(
                (mx.sum(mx.square(mx.abs(part))) for part in parts if mx.issubdtype(part.dtype, mx.inexact)),
                mx.array(0.0),
            )

        try:
            trace = nnrepl.trace(loss, *sample.inputs(), wrt=tuple(sample.wrt) or None)
        except (ValueError, RuntimeError, TypeError, AttributeError):
            trace = nnrepl.trace(function, *sample.inputs())
        session = OpenSession(trace)
        for op in trace.ops:
            for value in op.outputs:
                if value.size and op.error is None:
                    found = of_value(Look(session), value)
                    errors, count = mistakes(found.lines, EPSILON.get(value.dtype, 4e-6))
                    wrong += [f"{key} {op}: {error}" for error in errors]
                    read += count
    assert wrong == []
    assert read > 240


@pytest.mark.parametrize(("result", "sign"), [(2.0, "="), (2.00001, "="), (2.001, "≈")])
def test_what_the_terms_do_not_come_to_is_not_equal(result: float, sign: str) -> None:
    """A product in TF32, on a GPU, is visibly another than its terms."""
    line = Line("c", product_of(literal(1.25), literal(1.6)), epsilon=2e-3)
    made = Operand("c", (1,), mx.float32, lambda: mx.array([result]))
    assert Worked(line, made, (0,)).lines()[-1].split()[-2] == sign


# -- one writing -------------------------------------------------------------------------------------------------------


def _read(entry: Entry) -> list[tuple[str, str]]:
    """The texts of an entry that are formulas, by what they are of."""
    texts = [("", entry.text), *((symbol, slope.text) for symbol, slope in entry.slopes.items())]
    return [(symbol, text) for symbol, text in texts if entry.row is not None and readable(text)]


WRITTEN = [(entry, symbol, text) for entry in every() for symbol, text in _read(entry)]


def test_every_formula_of_matrices_is_read() -> None:
    """Products of matrices are formulas too: their texts are run here."""
    a, b, c = mx.random.normal((2, 3)), mx.random.normal((3, 4)), mx.random.normal((2, 4))
    g = mx.random.normal((2, 4))
    from nnrepl.ops.execute import run

    known = {"a": a, "b": b, "c": c, "alpha": 0.5, "beta": 2.0, "g": g}

    def over(sign: str, array: mx.array) -> mx.array:
        raise AssertionError

    for name, wanted in (("matmul", a @ b), ("addmm", mx.addmm(c, a, b, 0.5, 2.0))):
        entry = ENTRIES[name]
        assert mx.allclose(run(parse(entry.text), known, over), wanted)
        for symbol, slope in entry.slopes.items():

            def call(part: mx.array, symbol: str = symbol, name: str = name) -> mx.array:
                given = {**known, symbol: part}
                if name == "matmul":
                    return given["a"] @ given["b"]
                return mx.addmm(given["c"], given["a"], given["b"], 0.5, 2.0)

            native = mx.vjp(call, [known[symbol]], [g])[1][0]  # type: ignore[list-item]
            assert mx.allclose(run(parse(slope.text), known, over), native, 1e-5, 1e-5), (name, symbol)
    d = mx.random.normal((5, 3))
    assert mx.allclose(run(parse(ENTRIES["inner"].text), {**known, "b": d}, over), mx.inner(a, d))


def _arguments(entry: Entry) -> dict[str, Any]:
    """Something to call an op with: numbers inside of every domain, whole ones where bits are meant."""
    mx.random.seed(1)
    domain = {"arccosh": (1.1, 2.0), "arccos": (0.1, 0.9), "arcsin": (0.1, 0.9), "arctanh": (0.1, 0.9),
              "erfinv": (0.1, 0.9), "arctan2": (-2.4, 2.4)}  # fmt: skip
    low, high = domain.get(entry.name, (0.3, 2.4))
    given: dict[str, Any] = {}
    for name, parameter in entry_signature(entry).parameters.items():
        if name in ("a", "b", "x", "c", "a_min", "a_max", "logits"):
            given[name] = mx.random.uniform(low, high, (3, 4))
        elif name in ("weight", "bias"):
            given[name] = mx.random.uniform(0.3, 1.4, (4,))
        elif name == "eps":
            given[name] = 0.25  # so large that it counts
        elif name == "ddof":
            given[name] = 1
        elif name == "targets":
            given[name] = mx.array([0, 3, 2])
        elif name == "axis" or name == "decimals":
            given[name] = 1
        else:
            given[name] = parameter.default
    if "b" in given and entry.name not in domain:
        given["a"][0, 0] = given["b"][0, 0]  # a tie
    if entry.name in ("isfinite", "isinf", "isnan"):
        given["a"] = mx.array([1.5, -2.0, mx.inf, -mx.inf, mx.nan])
    if entry.name == "arctan2":
        given = {"a": mx.array([1.5, 1.5, -1.5, -1.5, 2.0, -2.0]), "b": mx.array([0.5, -0.5, 0.5, -0.5, 0.0, 0.0])}
    if entry.name in ("left_shift", "right_shift"):
        given = {"a": mx.array([[5, 9]]), "b": mx.array([[1, 2]])}
    if entry.name in ("where", "logical_and", "logical_or", "logical_not"):
        first = "c" if entry.name == "where" else "a"
        given[first] = mx.random.bernoulli(0.5, (3, 4))
    if entry.name.startswith(("real", "imag", "conj")):
        given["a"] = given["a"] + 1j * mx.random.uniform(0.3, 1.4, (3, 4))
    if entry.name == "linalg.norm":
        given["ord"] = ORDERS[entry.text]
        given["a"] = mx.array([[0.0, -2.0, 0.5, 2.0], [1.5, 0.25, 0.25, -0.5], [-3.0, 0.5, 1.0, -0.375]])
        if entry.text.startswith("min"):
            given["a"] = given["a"] + 0.1  # at 0 MLX's |a| has no slope
    if entry.name == "clip":
        given["a_min"], given["a_max"] = mx.array(0.8), mx.array(1.6)
        given["a"][0, 0], given["a"][0, 1] = 0.8, 1.6
    return given


ORDERS = {"√(Σ |a|²)": None, "Σ |a|": 1, "max |a|": mx.inf, "min |a|": -mx.inf, "Σ [a ≠ 0]": 0,
          "(Σ |a|^ord)^(1 / ord)": 3}  # fmt: skip
"""For which `ord` each norm of vectors is."""


def entry_signature(entry: Entry) -> Any:
    import inspect

    assert entry.forward is not None
    return inspect.signature(entry.forward)


def native(entry: Entry, given: dict[str, Any]) -> mx.array:
    place: Any = mx
    for part in entry.name.split("."):
        place = getattr(place, part)
    positional = {k: v for k, v in given.items() if isinstance(v, mx.array) or k in ("decimals", "eps")}
    options = {k: v for k, v in given.items() if k not in positional}
    if entry.name == "left_shift" or entry.name == "right_shift":
        options = {}
    result: mx.array = place(*positional.values(), **options)
    return result


def holds(entry: Entry, symbol: str, text: str) -> bool:
    """Whether the text of a formula, run as it is written, is what MLX computes."""
    if entry.name in ("stop_gradient", "full"):
        return True
    given = _arguments(entry)
    assert entry.row is not None
    wanted = native(entry, given)
    if not symbol:
        found = run_text(text, entry.row, given)
        return found.shape == wanted.shape and bool(
            mx.allclose(found.astype(mx.complex64), wanted.astype(mx.complex64), 1e-4, 1e-4, equal_nan=True).item()
        )
    g = mx.random.uniform(0.5, 1.5, wanted.shape).astype(wanted.dtype)
    gradient = mx.vjp(lambda part: native(entry, {**given, symbol: part}), [given[symbol]], [g])[1][0]
    slope = run_slope(text, entry.row, g, wanted, given)
    if slope.shape != gradient.shape:
        from nnrepl.ops.entry import unbroadcast

        slope = unbroadcast(slope, gradient.shape)
    kind = mx.complex64
    return bool(mx.allclose(slope.astype(kind), gradient.astype(kind), 1e-4, 1e-4, equal_nan=True).item())


@pytest.mark.parametrize(("entry", "symbol", "text"), WRITTEN, ids=[f"{e.name}-{s}" for e, s, _ in WRITTEN])
def test_the_text_of_a_formula_is_what_mlx_computes_and_no_other_text_is(entry: Entry, symbol: str, text: str) -> None:
    assert holds(entry, symbol, text)
    for other in mutations(text):
        if entry.name not in ("stop_gradient", "full") and other not in SAME.get(entry.name, ()):
            assert not _still_holds(entry, symbol, other), f"{text} could be {other}, and no test would notice"


SAME = {
    "isnan": ["[a = a]"], "isinf": (), "softmax": ("exp(a + m) / Σ exp(a + m),  m = max a",),
}  # fmt: skip
"""Texts that are other formulas with the same value."""


def _still_holds(entry: Entry, symbol: str, text: str) -> bool:
    try:
        return holds(entry, symbol, text)
    except (ValueError, TypeError, KeyError, RuntimeError):
        return False


EXCHANGED = (("sin(", "cos("), ("cos(", "sin("), ("exp(", "cosh("), ("ln(", "sin("), ("tanh(", "sinh("),
             ("max(", "min("),
             ("> ", "< "), ("≥ ", "< "), ("Σ", "mean"), ("2 · ", "3 · "), ("²", "³"))  # fmt: skip


def mutations(text: str) -> list[str]:
    """The same text with one thing in it changed."""
    return [text.replace(old, new, 1) for old, new in EXCHANGED if old in text and f"h{old}" not in text][:3]


# -- faults that were met ----------------------------------------------------------------------------------------------


def asked(function: Any, *arrays: mx.array, ask: str, wrt: Any = None) -> Explanation:
    return explain(OpenSession(nnrepl.trace(function, *arrays, wrt=wrt)), ask)


def test_ties_share_a_gradient_and_0_is_said_only_where_it_is_0() -> None:
    a = mx.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])

    def top(a: mx.array) -> mx.array:
        return (a.max(axis=1) * mx.array([2.0, 3.0])).sum()

    for place, number in (("[1, 1]", "1"), ("[0, 2]", "1"), ("[0, 0]", "0")):
        assert asked(top, a, ask=f"grad(a) at {place}", wrt=0).lines[-1] == f"= {number}"
    for function in (lambda a: a.min(axis=0), lambda a: mx.minmax(a, axis=1)[0], lambda a: mx.cummax(a, axis=1)):
        session = OpenSession(nnrepl.trace(lambda a, f=function: (f(a) * f(a)).sum(), a, wrt=0))
        gradient: Any = mx.grad(lambda a, f=function: (f(a) * f(a)).sum())(a).tolist()
        for i in range(2):
            for j in range(3):
                last = explain(session, f"grad(a) at [{i}, {j}]").lines[-1].rpartition("= ")[2].split("   (")[0]
                assert float(last.replace("−", "-")) == pytest.approx(gradient[i][j], rel=1e-3)


@pytest.mark.parametrize(
    ("function", "ask", "line"),
    [
        (lambda a, b: mx.round(a, 1), "#1 at [0]", "= 6 / 10"),
        (lambda a, b: mx.arctan2(b, a), "#1 at [1]", "= −0.4340 + π · 1 · (1 − 0)"),
        (lambda a, b: mx.nan_to_num(b), "#1 at [2]", "#1[2] = b[2] = −1.5"),
        (lambda a, b: mx.abs(a + 1j * b).sum(), "grad(#2) at [0]", "= 0.8926 + 0.4508i"),
        (lambda a, b: mx.left_shift(mx.array([3, 4, 5]), mx.array([1, 2, 3])), "#3 at [1]", "= 4 · 2^2"),
        (lambda a, b: mx.softmax(a)[0], "grad(a) at [0]", "= 0.5133 · (1 − 0.5133)"),
        (lambda a, b: -a, "#1 at [1]", "= −(−0.863)"),
        (lambda a, b: mx.linalg.det(mx.stack([a[:2], b[:2]])), "#4", "= 0.5873 · 0.4 − (−0.863 · 0.2966)"),
    ],
)
def test_rules_that_were_wrong(function: Any, ask: str, line: str) -> None:
    a, b = mx.array([0.5873, -0.8630, 0.25]), mx.array([0.2966, 0.4, -1.5])
    wrt = 0 if ask.startswith("grad(a") else None
    if ask.startswith("grad(#"):
        trace = nnrepl.trace(function, a, b, wrt=(0, 1))
        lines = explain(OpenSession(trace), ask).lines
        assert lines[-1].startswith("= (0.8926")
        return
    found = asked(function, a, b, ask=ask, wrt=wrt)
    assert line in [text.replace("  ", " ") for text in found.lines], found.lines


def test_a_name_stands_for_one_value() -> None:
    def loss(x: mx.array) -> mx.array:
        x = x * 2
        x = mx.exp(x)
        return x.sum()

    found = asked(loss, mx.array([1.0, 2.0]), ask="#2", wrt=0)
    assert found.rule == ["x@2 = exp(x@1)"]
    assert found.lines[0] == "x@2[1] = exp(x@1[1])"


def test_what_cannot_be_true_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that does not give MLX's number is left out, whatever it is."""
    entry = ENTRIES["exp"]
    wrong = replace(entry, text="exp(a) + 1")
    monkeypatch.setitem(ENTRIES, "exp", wrong)
    assert asked(lambda x: mx.exp(x), mx.array([1.0]), ask="#1").lines == ["#1[0] = 2.7183"]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("x", "w"),
    [
        (mx.full((2, 3), NAN), mx.ones((3, 4))),
        (mx.zeros((2, 3)), mx.zeros((3, 4))),
        (mx.full((2, 3), INF), mx.ones((3, 4))),
        (mx.full((2, 3), 3e38), mx.ones((3, 4))),
        (mx.full((2, 3), 1e-40), mx.ones((3, 4))),
        (mx.full((2, 3), 300, mx.float16), mx.full((3, 4), 300, mx.float16)),
        (mx.ones((1, 1)), mx.ones((1, 1))),
        (mx.zeros((0, 3)), mx.ones((3, 4))),
    ],
    ids=["nan", "zeros", "inf", "huge", "tiny", "half", "one", "empty"],
)
def test_odd_numbers_get_a_true_answer(x: mx.array, w: mx.array) -> None:
    def loss(x: mx.array, w: mx.array) -> mx.array:
        h = x @ w
        total = h.sum() + mx.exp(h).sum() + mx.concatenate([h, h]).sum()
        if not h.size:
            return total
        shares, soft, spread = mx.softmax(h, axis=-1), mx.logsumexp(h, axis=-1), mx.var(h, axis=0)
        normal = mx.fast.layer_norm(h, None, None, 1e-5)
        return (shares * h).sum() + soft.sum() + spread.sum() + normal.sum() + mx.max(h) + total + mx.linalg.norm(h)

    trace = nnrepl.trace(loss, x, w, wrt=(0, 1))
    session = OpenSession(trace)
    for op in trace.ops:
        for value in op.outputs:
            found = of_value(Look(session), value)
            assert found.lines or not value.size
            assert mistakes(found.lines, EPSILON.get(value.dtype, 4e-6))[0] == [], op


def test_compositions_are_explained_as_a_whole() -> None:
    import mlx.nn as nn

    mx.random.seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def loss_fn(x: mx.array) -> mx.array:
        return nn.losses.mse_loss(model(x), mx.zeros((5, 2)))

    trace = nnrepl.trace(loss_fn, mx.random.normal((5, 3)), wrt=model)
    session = OpenSession(trace)
    layer = explain(session, "layers.0")
    assert layer.title.startswith("layers.0, Linear: #")
    assert "@ layers.0.weightᵀ + layers.0.bias" in layer.rule[0]
    whole = explain(session, "loss_fn")
    assert "Sequential" in whole.steps[0]
    assert "∂L/∂layers.0.weight" in " ".join(whole.chain)
    assert "mean squared error" in explain(session, "mse_loss").words
    with pytest.raises(nnrepl.UserError, match="nothing on the tape is called nothing"):
        explain(session, "nothing")


def test_signatures_are_read() -> None:
    assert list(signature("a, axis=None").parameters) == ["a", "axis"]


# -- rules in English --------------------------------------------------------------------------------------------------

RULES = Path(__file__).with_name("rules.txt")


def rules() -> str:
    """The rules that are no formulas which are run, one a line: what nothing else would notice a change in."""
    read = {(entry.name, symbol, text) for entry, symbol, text in WRITTEN}
    lines = []
    for entry in every():
        for symbol, text in [("", entry.text), *((symbol, slope.text) for symbol, slope in entry.slopes.items())]:
            if (entry.name, symbol, text) not in read:
                lines.append(f"{entry.name} {symbol or '='} {text}")
    return "\n".join(sorted(lines)) + "\n"


def test_no_rule_in_english_changes_unseen() -> None:
    """`python -m tests.explain.test_arithmetic` writes them anew; read the difference before you keep it."""
    said = "python -m tests.explain.test_arithmetic writes tests/explain/rules.txt anew; read the difference"
    assert rules() == RULES.read_text(encoding="utf-8"), said


if __name__ == "__main__":
    RULES.write_text(rules(), encoding="utf-8")


@pytest.mark.parametrize("shape", [(2,), (1, 2), (3, 1)])
def test_the_gradient_of_a_bias_is_what_arrives_added_up(shape: tuple[int, ...]) -> None:
    """Not by a Jacobian: on a tape that was loaded there is none, and in school one adds up."""
    arrives = mx.array([[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]])

    def loss(b: mx.array, w: mx.array) -> mx.array:
        return (mx.addmm(b, arrives, w) * arrives).sum()

    session = OpenSession(nnrepl.trace(loss, mx.zeros(shape), mx.eye(2), wrt=0))
    at = [0] * len(shape)
    wanted = {(2,): "1 + 3 + 7", (1, 2): "1 + 3 + 7", (3, 1): "1 + 2"}[shape]
    said = str(session.run(f"explain grad(b) at {at}"))
    assert f"= {wanted}" in said
    assert "]/∂b[" not in said


@pytest.mark.parametrize("how", ["add", "subtract", "multiply", "divide", "maximum", "minimum"])
def test_numbers_that_are_put_together_at_places_are_written_out(how: str) -> None:
    """Each element of `x.at[i].add(v)`, one of which meets two numbers of v, and of its gradients."""
    x, v, at = mx.sin(mx.arange(8.0)).reshape(4, 2), mx.array([[2.0, 3.0], [4.0, 5.0], [0.5, 7.0]]), mx.array([1, 3, 1])

    def loss(x: mx.array, v: mx.array) -> mx.array:
        r = getattr(x.at[at], how)(v)
        return mx.sum(r * mx.cos(mx.arange(8.0)).reshape(4, 2))

    learns = how in ("add", "subtract")  # MLX has no gradient of the others with respect to v
    session = OpenSession(nnrepl.trace(loss, x, v, wrt=(0, 1) if learns else None))
    made = next(op for op in session.tape.ops if op.name == f"at.{how}" and op.of is None)
    texts = {at: of_value(Look(session), made.outputs[0], f"[{at}, 1]").lines for at in range(4)}
    assert [mistakes(lines)[0] for lines in texts.values()] == [[], [], [], []]
    assert "nothing is put there" in texts[0][0]
    assert "v[0,1]" in texts[1][0] and "v[2,1]" in texts[1][0]  # noqa: PT018
    assert "v[1,1]" in texts[3][0]
    if learns:
        back = next(op for op in session.tape.ops if op.of is made)
        given = next(value for value in back.outputs if value.shape == v.shape)
        line = of_value(Look(session), given, "[2, 0]").lines
        assert "∂L/∂r[1,0]" in line[0]
        assert mistakes(line)[0] == []


def test_factors_and_determinants_are_written_out() -> None:
    a = mx.array([[2.0, 1.0, 0.5], [1.0, -3.0, 0.2], [4.0, 0.3, 1.0]])

    def results(a: mx.array) -> list[mx.array]:
        cpu = mx.cpu
        return [*mx.linalg.slogdet(a, stream=cpu), *mx.linalg.lu_factor(a, stream=cpu),
                mx.linalg.norm(a, "nuc", stream=cpu), mx.linalg.norm(a, 2, stream=cpu)]  # fmt: skip

    session = OpenSession(nnrepl.trace(results, a))
    told = {}
    for op in session.tape.ops:
        for slot, value in enumerate(op.outputs):
            places = ["[2, 1]", "[0, 2]", "[1, 1]"] if len(value.shape) == 2 else [None]
            for place in places:
                told[op.label if op.name == "linalg.norm" else op.name, slot, place] = lines = of_value(
                    Look(session), value, place
                ).lines
                assert mistakes(lines, 1e-5)[0] == [], lines
    assert "= sign(a[0,0] · a[1,1]" in told["linalg.slogdet", 0, None][0]
    assert "= ln(|a[0,0] · a[1,1]" in told["linalg.slogdet", 1, None][0]
    for place in ("[2, 1]", "[0, 2]", "[1, 1]"):
        assert "which is a[" in " ".join(told["linalg.lu_factor", 0, place])
    assert any("s1 + s2 + s3" in " ".join(lines) for lines in told.values())


@pytest.mark.parametrize(
    ("order", "terms", "remark"),
    [
        (1, "|a[0,1]| + |a[1,1]|", "column 1 has the largest sum"),
        (-1, "|a[0,0]| + |a[1,0]|", "column 0 has the smallest sum"),
        (float("inf"), "|a[1,0]| + |a[1,1]|", "row 1 has the largest sum"),
        (-float("inf"), "|a[0,0]| + |a[0,1]|", "row 0 has the smallest sum"),
    ],
)
def test_a_norm_of_sums_says_which_row_or_column_it_is(order: float, terms: str, remark: str) -> None:
    trace = nnrepl.trace(lambda a: mx.linalg.norm(a, order, stream=mx.cpu), mx.array([[1.0, -2.0], [3.0, 7.0]]))
    lines = of_value(Look(OpenSession(trace)), trace.ops[0].outputs[0]).lines
    assert terms in lines[0]
    assert remark in lines[-1]


def test_what_lu_factor_exchanged_is_said() -> None:
    a = mx.array([[1.0, 2.0, 0.0], [4.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    trace = nnrepl.trace(lambda a: mx.linalg.lu_factor(a, stream=mx.cpu), a)
    look, exchanged = Look(OpenSession(trace)), trace.ops[0].outputs[1]
    said = [of_value(look, exchanged, f"[{row}]").lines[0] for row in range(3)]
    assert said[0].endswith("= 1   (row 0 was exchanged with row 1)")
    assert said[2].endswith("= 2   (row 2 stayed where it was)")


def test_a_linear_op_backwards_is_a_sum_of_what_came_in() -> None:
    weights = mx.array([[2.0, 3.0], [5.0, 7.0]])
    trace = nnrepl.trace(lambda a: (mx.diff(a) * weights).sum(), mx.array([[1.0, 4.0, 2.0], [0.0, 1.0, 3.0]]), wrt=0)
    back = next(op for op in trace.ops if op.name == "vjp of diff")
    lines = of_value(Look(OpenSession(trace)), back.outputs[0], "[1, 1]").lines
    assert lines[0].endswith("= ∂L/∂#1[1,0] + (−∂L/∂#1[1,1])")
    assert lines[-1] == "= −2"
