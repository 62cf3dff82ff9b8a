"""What formulas are made of, at its edges: the same with numbers as with tensors, infinities and NaN included; and what
is taken for MLX's number, and what is not."""

from __future__ import annotations

import cmath
import math
from typing import Any

import mlx.core as mx
import pytest

from nnrepl.ops import ENTRIES, execute, scalars
from nnrepl.ops.case import EPSILON, Case, Operand
from nnrepl.ops.evaluated import agrees, shortened
from nnrepl.ops.expression import Node, literal
from nnrepl.ops.pointwise import described
from nnrepl.ops.reader import parse
from nnrepl.ops.scalars import Bounded
from nnrepl.ops.worked import forward

GRID = [-math.inf, -200.0, -2.5, -1.0, -0.5, -0.0, 0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 200.0, math.inf, math.nan]
COMPLEX = [0j, 1 + 2j, -0.5 + 0.25j, 2j, -3 + 0j]
RUNS = {**execute._FUNCTIONS, **execute._KINDS}  # the tensors' side of what a formula may call
PLANE = {"abs", "negative", "root", "exp", "ln", "sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos",
         "arctan", "sign", "Re", "Im", "conj"}  # fmt: skip


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, complex) or isinstance(found, complex):
        ordinary = cmath.isfinite(found) and cmath.isfinite(wanted)
        return abs(found - wanted) < 1e-5 if ordinary else same(complex(found).real, complex(wanted).real)
    if math.isnan(wanted) or math.isinf(wanted) or math.isinf(found):
        largest = 3.4e38  # of float32
        found = math.copysign(math.inf, found) if abs(found) > largest else found
        return bool(math.isnan(found) == math.isnan(wanted)) and (math.isnan(wanted) or found == wanted)
    return math.isclose(found, wanted, rel_tol=1e-4, abs_tol=1e-6)


def numbers_of(name: str) -> list[tuple[Any, ...]]:
    if name in ("max", "min", "angle", "power"):
        return [(a, b) for a in GRID for b in GRID]
    periodic = name in ("sin", "cos", "tan")  # float32 of a large number is another angle
    plane = [(a,) for a in COMPLEX] if name in PLANE else []
    return [(a,) for a in GRID if not periodic or abs(a) < 100 or not math.isfinite(a)] + plane


@pytest.mark.parametrize("name", sorted(set(scalars.FUNCTIONS)))
def test_a_function_is_the_same_of_numbers_and_of_tensors(name: str) -> None:
    for given in numbers_of(name):
        tensors = [mx.array(one, mx.complex64 if isinstance(one, complex) else mx.float32) for one in given]
        wanted = RUNS[name](*tensors).item()
        found = scalars.FUNCTIONS[name](*given)
        assert same(found, wanted), f"{name}{given}: {found} is not {wanted}"


@pytest.mark.parametrize("sign", ["+", "−", "·", "/"])
def test_arithmetic_is_the_same_of_numbers_and_of_tensors(sign: str) -> None:
    pairs = [(a, b) for a in GRID for b in GRID] + [(a, b) for a in COMPLEX for b in COMPLEX[1:]]
    for a, b in pairs:
        kind = mx.complex64 if isinstance(a, complex) else mx.float32
        wanted = execute._SIGNS[sign](mx.array(a, kind), mx.array(b, kind)).item()
        assert same(scalars.SIGNS[sign](a, b), wanted), (a, sign, b)


@pytest.mark.parametrize("text", ["0 < a < 1", "0 ≤ a ≤ 1", "not a > 0.5", "a > 0 and a < 1", "a < 0 or a > 1"])
def test_what_is_so_is_the_same_of_numbers_and_of_tensors(text: str) -> None:
    def nothing(sign: str, array: mx.array) -> mx.array:
        raise AssertionError

    main = parse(text).main
    for a in GRID[1:-2]:
        plugged = main.mapped(lambda part, a=a: literal(a) if part.kind == "symbol" else None)
        assert bool(plugged.at(0.0).value) == bool(execute.run(parse(text), {"a": mx.array(a)}, nothing).item()), a


AGREE = [
    (1.0, 1.0, True), (1.0, 1.01, False), (1.0, -1.0, False), (0.0, 1e-3, False), (1e30, math.inf, False),
    (math.nan, math.nan, True), (math.nan, 1.0, False), (1.0, math.nan, False), (math.nan, math.inf, False),
    (math.inf, math.inf, True), (-math.inf, math.inf, False), (math.inf, 1.0, False), (1.0, math.inf, False),
    (4e38, math.inf, True), (-4e38, math.inf, False), (-4e38, -math.inf, True), (4e38, -math.inf, False),
    (True, True, True), (True, False, False), (False, True, False), (1 + 2j, 1 + 2j, True), (1 + 2j, 1 - 2j, False),
]  # fmt: skip


@pytest.mark.parametrize(("found", "wanted", "so"), AGREE)
def test_what_is_taken_for_mlx_s_number(found: Any, wanted: Any, so: bool) -> None:
    assert agrees(Bounded(found, 0.0), wanted, EPSILON[mx.float32], mx.float32) == so


@pytest.mark.parametrize("dtype", list(EPSILON))
def test_rounding_is_room_and_twice_as_much_is_not(dtype: mx.Dtype) -> None:
    epsilon = EPSILON[dtype]
    for scale in (1.0, 1000.0):
        assert agrees(Bounded(scale, 0.0), scale * (1 + 0.9 * epsilon), epsilon, dtype)
        assert not agrees(Bounded(scale, 0.0), scale * (1 + 2.2 * epsilon), epsilon, dtype)
        assert agrees(Bounded(scale, 0.1), scale + 0.09, epsilon, dtype)
        assert not agrees(Bounded(scale, 0.1), scale + 0.11 + 2.2 * epsilon * scale, epsilon, dtype)


def test_how_far_rounding_can_move_a_number() -> None:
    exact, off = Bounded(3.0, 0.0), Bounded(2.0, 0.1)
    assert scalars.combine(lambda a, b: a * b, (exact, off), 0.0) == Bounded(6.0, pytest.approx(0.3))
    assert scalars.combine(lambda a, b: a * b, (off, exact), 0.0) == Bounded(6.0, pytest.approx(0.3))
    assert scalars.combine(lambda a, b: a + b, (off, off), 0.0) == Bounded(4.0, pytest.approx(0.2))
    assert scalars.combine(lambda a, b: a * b, (exact, exact), 0.01) == Bounded(9.0, pytest.approx(0.09))
    assert scalars.combine(abs, (Bounded(0.0, 0.2),), 0.0).error == pytest.approx(0.2)


def test_definitions_of_definitions_are_told_and_others_are_not() -> None:
    entry = described("made up", "a · s,  q = a + 1,  r = a + 2,  s = q · 3", {}, "")
    case = Case(entry, {"a": Operand("x", (2,), mx.float32, lambda: mx.array([1.0, 2.0]))},
                [Operand("y", (2,), mx.float32, lambda: mx.array([6.0, 18.0]))])  # fmt: skip
    line = forward(case, (1,))
    assert line is not None
    assert [text for one in line.before for text in one.lines()] == [
        "q = x[1] + 1 = 2 + 1 = 3", "s = q · 3 = 3 · 3 = 9"]  # fmt: skip
    assert line.node.at(0.0).value == 18


def test_a_negative_whole_number_of_an_unsigned_kind() -> None:
    assert execute._KINDS["negative"](mx.array(3)).item() == -3
    assert Node("negative", (literal(3),)).at(0.0).value == -3


def test_of_a_long_sum_the_largest_terms_are_left() -> None:
    long = Node("series", tuple(map(literal, (1, -40, 2, 30, 3))), "Σ")
    short = Node("series", tuple(map(literal, (1, 2, 3))), "Σ")
    assert shortened(long, 2).plugged() == "−40 + 30 + (3 more: 6)"
    assert shortened(short, 2).plugged() == "1 + 2 + 3", "one more is not left out"
    assert shortened(Node("product", (long, literal(2)), "··"), 2).at(0.0).value == -8


@pytest.mark.parametrize("given", [[], [None], [None, None], [None, 0.0], [0.0, None], [0.0]])
def test_no_pole_is_told_of_numbers_that_are_not_known(given: list[float | None]) -> None:
    """An op may have more operands than numbers that could be read, or fewer."""
    told = {name: [pole.rule for pole in (*entry.poles, *entry.steep) if pole.where(given)]
            for name, entry in ENTRIES.items() if entry.poles or entry.steep}  # fmt: skip
    assert len(told) > 20
    first, second = {"log", "log2", "log10", "reciprocal", "rsqrt"}, {"divide", "floor_divide", "remainder"}
    some = {name for name, rules in told.items() if rules}
    if given == [None, 0.0]:
        assert second <= some
        assert not first & some
    elif 0.0 in given:
        assert first <= some
        assert not {name for name in second if any("divi" in rule for rule in told[name])}
    else:
        assert not some
