"""The table of formulas: every entry against MLX's own op and VJP. (`tests.corpus.checks.check_entries`:
nothing that models call is missing.)"""

from __future__ import annotations

import ast
import contextlib
import inspect
import math
import operator
import re
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import nnrepl
from nnrepl.explain.known import compute, entry_for, gradients
from nnrepl.explain.local import factor_text
from nnrepl.ops import ELEMENTWISE, ENTRIES, Entry
from nnrepl.ops.execute import run
from nnrepl.ops.reader import parse, readable
from nnrepl.tape import Op, Value
from tests.record.samples import SAMPLES

SOURCES = {name for name, entry in ENTRIES.items() if entry.forward is None}
EPSILON = {mx.float32: 2e-6, mx.float16: 2e-3, mx.bfloat16: 2e-2, mx.complex64: 2e-6}


def recorded(fn: Any, *arrays: mx.array) -> list[Op]:
    return list(nnrepl.trace(lambda *inputs: fn(*inputs), *arrays).ops)


def close(found: mx.array, wanted: mx.array, scale: float = 1.0) -> bool:
    if found.shape != wanted.shape:
        return False
    tolerance = EPSILON.get(wanted.dtype, 0.0) * 50 * scale
    kind = mx.complex64 if wanted.dtype == mx.complex64 else mx.float32
    return bool(mx.allclose(found.astype(kind), wanted.astype(kind), tolerance, tolerance, equal_nan=True).item())


def check(op: Op) -> bool:
    """Hold the formula of an op against the op; False if there is no entry with a formula."""
    entry = entry_for(op)
    if entry is None or entry.forward is None or op.error is not None or op.of is not None:
        return False
    again = compute(entry, op, lambda value: value.array)
    assert len(again) == len(op.outputs)
    for value, formula in zip(op.outputs, again):
        assert formula.dtype == value.dtype, f"{entry.name}: {formula.dtype} is not {value.dtype}"
        assert close(formula, value.array), f"{entry.name}: {formula} is not {value.array}"
    check_gradients(op, entry)
    return True


def check_gradients(op: Op, entry: Entry) -> None:
    inexact = [value for value in dict.fromkeys(op.inputs) if mx.issubdtype(value.dtype, mx.floating)]
    if not inexact or not all(mx.issubdtype(value.dtype, mx.floating) for value in op.outputs):
        return
    cotangents = [mx.random.normal(value.shape).astype(value.dtype) for value in op.outputs]
    natives = {value: native_gradient(op, value, cotangents) for value in inexact}
    if all(native is None for native in natives.values()):
        return
    own = gradients(entry, op, cotangents, lambda value: value.array) if entry.slopes else {}
    for value, native in natives.items():
        if native is None or native.shape != value.shape:
            continue  # it refuses, or (a transposed convolution with output_padding) gives another shape
        parts = own.get(value)
        if parts is None:
            # Of the frequencies of a rope MLX has a gradient that the table has not: its Jacobian is shown.
            if entry.kind == "fixed" or (entry.slopes and entry.name != "fast.rope"):
                assert mx.all(native == 0).item() or not op.outputs[0].size, (
                    f"{entry.name}: {value.name} has a gradient"
                )
            continue
        total = sum(parts[1:], parts[0])
        assert close(total, native, 5), f"{entry.name}, {value.name}: {total} is not {native}"


def native_gradient(op: Op, value: Value, cotangents: list[mx.array]) -> mx.array | None:
    """MLX's own, None where it refuses."""

    def call(array: mx.array) -> list[mx.array]:
        return op.compute(lambda taken: array if taken is value else taken.array)

    try:
        gradient: mx.array = mx.vjp(call, [value.array], cotangents)[1][0]
        mx.eval(gradient)
    except (ValueError, RuntimeError):
        return None
    return gradient


SAMPLED = [(key, at) for key, samples in SAMPLES.items() for at, sample in enumerate(samples) if not sample.refused]


def test_every_entry_agrees_with_mlx_on_samples() -> None:
    """All sample calls of MLX's functions: entries without a formula are only sources of numbers."""
    checked: set[str] = set()
    wrong: list[str] = []
    ops = recorded(lambda: [SAMPLES[key][at].function(key)(*SAMPLES[key][at].inputs()) for key, at in SAMPLED])
    for op in ops:
        try:
            if check(op):
                checked.add(op.name)
        except AssertionError as error:
            wrong.append(f"{op}: {error}")
    assert wrong == []
    assert set(ENTRIES) - checked - SOURCES == set()


NUMBERS = [-3.0, -1.0, -0.5, -0.0, 0.0, 0.25, 0.5, 1.0, 2.0, 3.0]
SHAPES = [((2, 3), (3,)), ((3,), (2, 3)), ((2, 1, 3), (4, 1)), ((), (2,)), ((2, 2), (2, 2))]
HALF = (mx.float32, mx.float16, mx.bfloat16)


def elementwise() -> Iterator[str]:
    known = {"clip", "where", "nan_to_num", "astype", "full"}
    yield from (name for name, entry in ENTRIES.items() if entry.kind == ELEMENTWISE and name not in known)


@pytest.mark.parametrize("name", list(elementwise()))
def test_elementwise_ops_at_edges_and_with_broadcasting(name: str) -> None:
    """Ties, zeros, numbers outside of the domain, every float dtype, shapes that are broadcast."""

    def function(*given: Any) -> mx.array:
        result: mx.array = getattr(mx, name)(*given)
        return result

    one = ENTRIES[name].symbols == ("a",)
    calls: list[tuple[Any, ...]] = []
    for dtype in HALF:
        edges = mx.array(NUMBERS, dtype)
        calls.append((edges,) if one else (mx.repeat(edges, len(NUMBERS)), mx.tile(edges, len(NUMBERS))))
    for left, right in SHAPES if len(ENTRIES[name].symbols) == 2 else ():
        a, b = mx.random.uniform(0.5, 2, left), mx.random.uniform(0.5, 2, right)
        calls += [(a, b), (a, 2.0)]
    ops = recorded(lambda: [function(*given) for given in calls])
    assert len(ops) == len(calls)
    assert all(check(op) for op in ops)


NOT_ORDINARY = [-math.inf, -1.0, 0.0, 2.0, math.inf, math.nan]


@pytest.mark.parametrize(
    "name", ["maximum", "minimum", "add", "subtract", "multiply", "greater", "less_equal", "equal"]
)
def test_what_is_no_ordinary_number(name: str) -> None:
    """Each pair of infinities, NaN and numbers."""
    a, b = mx.repeat(mx.array(NOT_ORDINARY), 6), mx.tile(mx.array(NOT_ORDINARY), 6)
    op = recorded(getattr(mx, name), a, b)[-1]
    assert mx.array_equal(compute(ENTRIES[name], op, lambda value: value.array)[0], op.outputs[0].array, equal_nan=True)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ["sum", "mean", "softmax", "logsumexp", "max", "min", "var"])
def test_reductions_in_every_float(name: str, dtype: mx.Dtype) -> None:
    x = mx.random.normal((3, 5)).astype(dtype)
    ops = recorded(lambda a: [getattr(mx, name)(a, axis=axis) for axis in (None, 0, -1, (0, 1))], x)
    assert len(ops) == 4
    for op in ops:
        assert entry_for(op) is not None
        found = compute(ENTRIES[name], op, lambda value: value.array)[0]
        assert close(found, op.outputs[0].array, math.sqrt(x.size))


@pytest.mark.parametrize("name", ["fast.layer_norm", "fast.rms_norm", "fast.rope", "matmul", "addmm"])
def test_fused_ops_in_half_precision(name: str) -> None:
    for dtype in (mx.float16, mx.bfloat16):
        a, b, c = (mx.random.normal(shape).astype(dtype) for shape in ((4, 8), (8, 8), (8,)))
        calls: dict[str, Any] = {
            "fast.layer_norm": lambda a, b, c: mx.fast.layer_norm(a, c, c, 1e-5),
            "fast.rms_norm": lambda a, b, c: mx.fast.rms_norm(a, c, 1e-5),
            "fast.rope": lambda a, b, c: mx.fast.rope(
                a[None, None], 8, traditional=False, base=100.0, scale=1.0, offset=0
            ),
            "matmul": lambda a, b, c: a @ b,
            "addmm": lambda a, b, c: mx.addmm(c, a, b),
        }
        op = recorded(calls[name], a, b, c)[-1]
        assert op.name == name
        assert close(compute(ENTRIES[name], op, lambda value: value.array)[0], op.outputs[0].array, 2)


@pytest.mark.parametrize("name", sorted(name for name, entry in ENTRIES.items() if entry.forward is not None))
def test_a_slope_without_options_that_change_nothing_is_not_zero(name: str) -> None:
    entry = ENTRIES[name]
    idle = {"alpha", "beta", "scale", "ddof"} & set(entry.symbols)
    for slope in entry.slopes.values():
        if readable(slope.text) and slope.text != "0":
            assert parse(slope.text).without(idle).write({}) != "0", slope.text


def test_the_local_factor_of_addmm_is_the_other_side() -> None:
    def loss(c: mx.array, a: mx.array, b: mx.array, alpha: float) -> mx.array:
        return mx.addmm(c, a, b, alpha=alpha).sum()

    arrays = mx.ones((2, 2)), mx.ones((2, 3)), mx.ones((3, 2))
    for alpha, factors in ((1.0, ["1", "bᵀ", "aᵀ"]), (2.0, ["1", "2 · bᵀ", "2 · aᵀ"])):
        trace = nnrepl.trace(loss, *arrays, alpha, wrt=(0, 1, 2))
        forward = next(op for op in trace.ops if op.name == "addmm")
        back = next(op for op in trace.ops if op.of is forward)
        assert [factor_text(back, value) for value in forward.inputs] == factors


def test_where_a_formula_has_a_meaning_is_where_mlx_has_a_finite_number() -> None:
    """`valid` says it, at its very limits too: of ops of one number, and of a divisor."""
    for name, entry in ENTRIES.items():
        if entry.kind == ELEMENTWISE and entry.valid and readable(entry.valid):
            for number in (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0):
                tensors = {symbol: mx.array(number if symbol != "a" or len(entry.symbols) == 1 else 1.5)
                           for symbol in entry.symbols}  # fmt: skip
                given = [one for symbol, one in tensors.items()]
                finite = bool(mx.isfinite(getattr(mx, name)(*given)).item())
                valid = bool(run(parse(entry.valid), tensors, _of_no_row).item())
                angle = name == "arctan2"  # has an angle there: only the formula has none
                assert valid == finite or angle, f"{name} of {number}"
                assert valid == (number != 0) or not angle


def _of_no_row(sign: str, array: mx.array) -> mx.array:
    raise AssertionError


def _documented(function: Any) -> dict[str, Any]:
    """The options of one of MLX's functions, each with what its documentation says that it is where it is not given."""
    with contextlib.suppress(ValueError):
        parameters = inspect.signature(function).parameters.values()
        return {one.name: one.default for one in parameters if one.default is not one.empty}
    first = (function.__doc__ or "").strip().partition("\n")[0].partition(") ->")[0]
    options = re.split(r"(?:\(|, +)(?:[/*] ?, )*(?=\w+: )", first)
    given = [(one.partition(":")[0], one.rpartition(" = ")[2]) for one in options if " = " in one]
    return {name: ast.literal_eval(default) for name, default in given if default != "float32"}


def _of_mlx(name: str) -> Any:
    """One of MLX's functions, by its name on the tape; None for what is none."""
    for place in (mx, nn, nn.losses):
        with contextlib.suppress(AttributeError):
            return operator.attrgetter(name)(place)
    return None


def test_an_option_that_is_not_given_is_what_mlx_takes() -> None:
    """What is said of a call reads every option, those too that were not given."""
    looked, wrong = 0, []
    for name, entry in ENTRIES.items():
        function = _of_mlx(name) if entry.forward is not None else None
        documented = {} if function is None else _documented(function)
        for option, parameter in inspect.signature(entry.forward).parameters.items() if documented else ():
            if option == "dtype" or parameter.default is parameter.empty:
                continue  # (in which dtype, MLX's own result tells)
            if option in documented or parameter.default is not None:
                theirs = documented.get(option, "no option of it")
                looked += 1
                if parameter.default != (tuple(theirs) if isinstance(theirs, list) else theirs):
                    wrong.append(f"{name}: {option} = {parameter.default}, and in MLX {theirs}")
    assert not wrong
    assert looked > 200
