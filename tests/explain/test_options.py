"""explain: the rule that is shown is the one that belongs to the options of the call; and what inverses and factors of
matrices were made to fulfil."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import nnrepl
from nnrepl.explain.explanation import of_value
from nnrepl.explain.look import Look
from nnrepl.ops import ENTRIES
from tests.explain.school import mistakes
from tests.record.samples import SAMPLES
from tests.support import OpenSession

SQUARE = mx.array([[4.0, 1.0, -0.5], [1.0, 3.0, 0.25], [-0.5, 0.25, 2.0]])
TALL = mx.array([[1.0, 2.0], [-0.5, 1.5], [3.0, 0.25]])
MATRICES: dict[str, Callable[[], Any]] = {
    "inv": lambda: mx.linalg.inv(SQUARE), "tri_inv": lambda: mx.linalg.tri_inv(mx.tril(SQUARE)),
    "tri_inv upper": lambda: mx.linalg.tri_inv(mx.triu(SQUARE), upper=True),
    "pinv": lambda: mx.linalg.pinv(TALL), "solve": lambda: mx.linalg.solve(SQUARE, TALL),
    "solve of one": lambda: mx.linalg.solve(SQUARE, TALL[:, 0]),
    "solve_triangular": lambda: mx.linalg.solve_triangular(mx.triu(SQUARE), TALL, upper=True),
    "cholesky": lambda: mx.linalg.cholesky(SQUARE), "cholesky upper": lambda: mx.linalg.cholesky(SQUARE, upper=True),
    "cholesky_inv": lambda: mx.linalg.cholesky_inv(mx.tril(SQUARE)), "qr": lambda: mx.linalg.qr(TALL),
    "svd": lambda: mx.linalg.svd(TALL), "svd of a wide one": lambda: mx.linalg.svd(TALL.T),
    "svd alone": lambda: mx.linalg.svd(TALL, compute_uv=False), "eigh": lambda: mx.linalg.eigh(SQUARE),
    "eigh upper": lambda: mx.linalg.eigh(mx.triu(SQUARE) * 1.5, UPLO="U"),
    "eigvalsh": lambda: mx.linalg.eigvalsh(SQUARE),
    "eig": lambda: mx.linalg.eig(SQUARE + mx.triu(SQUARE)), "lu": lambda: mx.linalg.lu(mx.flip(SQUARE, 0)),
    "eigvals": lambda: mx.linalg.eigvals(SQUARE + mx.triu(SQUARE)),
    "batch": lambda: mx.linalg.inv(mx.stack([SQUARE] * 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
def test_what_a_matrix_was_made_to_fulfil_is_shown_for_each_element(name: str) -> None:
    """An equation in which the element takes part; it is not shown if another number stands in its place."""
    with mx.stream(mx.cpu):
        session = OpenSession(nnrepl.trace(MATRICES[name]))
        op = next(op for op in session.tape.ops if op.name.startswith("linalg."))
        look = Look(session)
        for value in op.outputs:
            if value.name.endswith(".0") and name == "lu":
                continue  # an order of rows: part of the other two's equations
            for at in range(value.size):
                index = tuple(int(step) for step in np.unravel_index(at, value.shape))
                found = of_value(look, value, str(list(index)))
                assert len(found.lines) > 1 or "0   (" in found.lines[0], (op, index, found.lines)
                assert mistakes(found.lines, 1e-4)[0] == [], found.lines


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_an_equation_that_is_not_so_is_not_shown(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    session = OpenSession(nnrepl.trace(lambda a: mx.linalg.inv(a), SQUARE))
    value = session.tape.ops[0].outputs[0]
    monkeypatch.setattr(type(value), "array", property(lambda self: self.held * (factor if self is value else 1.0)))
    assert (len(of_value(Look(session), value, "[1, 1]").lines) > 1) == (factor == 1.0)


@pytest.mark.parametrize("name", ["fft", "ifft", "rfft", "irfft"])
@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
def test_a_transform_is_scaled_as_its_rule_says(name: str, norm: str) -> None:
    """Of ones, the wave 0 is their number times the scale."""
    n = 4
    found = getattr(mx.fft, name)(mx.ones((3 if name == "irfft" else n,)), norm=norm)[0].item()
    session = OpenSession(nnrepl.trace(lambda a: getattr(mx.fft, name)(a, norm=norm), mx.ones((n,))))
    rule = of_value(Look(session), session.tape.ops[0].outputs[0]).rule[0].partition(" = ")[2]
    scale = {"1/n": 1 / n, "1/√n": n**-0.5}.get(rule.partition(" ·")[0], 1.0)
    assert abs(found) == pytest.approx(n * scale)
    assert ("exp(2πi" in rule) == name.startswith("i")


A = mx.array([[0.5, -1.0, 2.0], [3.0, 0.25, 1.0]])
PAIRS: list[tuple[Callable[[mx.array], Any], Callable[[mx.array], Any], str]] = [
    (lambda a: mx.cumsum(a, axis=1), lambda a: mx.cumsum(a, axis=1, reverse=True), "up to it"),
    (lambda a: mx.cumsum(a, axis=1, inclusive=False), lambda a: mx.cumsum(a, axis=1), "before it"),
    (lambda a: mx.cummax(a, axis=1, reverse=True), lambda a: mx.cummax(a, axis=1), "from it on"),
    (lambda a: mx.cumprod(a, axis=1, reverse=True, inclusive=False), lambda a: mx.cumprod(a, axis=1), "after it"),
    (lambda a: mx.pad(a, 1), lambda a: mx.pad(a, 1, mode="edge"), "with a border of 0"),
    (lambda a: mx.pad(a, 1, mode="edge"), lambda a: mx.pad(a, 1), "repeated around it"),
    (lambda a: mx.linalg.norm(a, 1, axis=1), lambda a: mx.linalg.norm(a, axis=1), "= Σ |"),
    (lambda a: mx.linalg.norm(a, axis=1), lambda a: mx.linalg.norm(a, mx.inf, axis=1), "√(Σ |"),
    (lambda a: mx.linalg.norm(a, 1), lambda a: mx.linalg.norm(a, mx.inf), "of a column"),
    (lambda a: mx.linalg.norm(a, -mx.inf), lambda a: mx.linalg.norm(a, -1), "of a row"),
    (lambda a: mx.linalg.svd(a, compute_uv=False, stream=mx.cpu), lambda a: mx.linalg.svd(a, stream=mx.cpu),
     "= s with"),
    (lambda a: mx.linalg.cholesky(a @ a.T, upper=True, stream=mx.cpu),
     lambda a: mx.linalg.cholesky(a @ a.T, stream=mx.cpu), "Uᵀ @ U"),
    (lambda a: mx.conv_general(a[..., None], mx.ones((1, 2, 1)), flip=True),
     lambda a: mx.conv_general(a[..., None], mx.ones((1, 2, 1))), "turned round"),
    (lambda a: mx.quantized_matmul(mx.ones((1, 32)), *mx.quantize(mx.ones((32, 32)), 32), group_size=32),
     lambda a: mx.quantized_matmul(mx.ones((1, 32)), *mx.quantize(mx.ones((32, 32)), 32), group_size=32,
                                   transpose=False), ")ᵀ"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_the_rule_is_that_of_the_options(number: int) -> None:
    *calls, said = PAIRS[number]
    told = []
    for call in calls:
        session = OpenSession(nnrepl.trace(call, A))
        op = session.tape.ops[-1]
        found = of_value(Look(session), op.outputs[0])
        assert mistakes(found.lines, 1e-5)[0] == []
        told.append(" ".join([*found.rule, found.words]))
    assert said in told[0], told
    assert said not in told[1], told


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("inclusive", [False, True])
def test_the_part_of_a_row_that_is_written_is_the_part_that_is_added(reverse: bool, inclusive: bool) -> None:
    session = OpenSession(nnrepl.trace(lambda a: mx.cumsum(a, axis=1, reverse=reverse, inclusive=inclusive), A))
    value = session.tape.ops[0].outputs[0]
    seen = 0
    for i, j in ((i, j) for i in range(2) for j in range(3)):
        line = of_value(Look(session), value, f"[{i}, {j}]").lines[0]
        if "Σ a[" in line:
            seen += 1
            part = line.partition("Σ a[")[2].partition("]")[0].split(",")
            start, _, end = part[1].partition(":")
            taken = A[i, int(start or 0) : int(end or 3)]
            assert mx.allclose(taken.sum(), value.array[i, j]), line
    assert seen


WITHOUT = {
    "asarray": "gives what it is given", "quantize": "rounds groups of numbers, and has no gradient",
    "qqmm": "quantizes both sides inside", "fast.gated_delta_update": "a recurrence in one kernel, without a gradient",
    "distributed.all_max": "between machines", "distributed.all_min": "between machines",
    "distributed.all_gather": "between machines", "distributed.sum_scatter": "between machines",
}  # fmt: skip
"""Ops of MLX's that have no formula here, and why."""


def test_every_function_that_mlx_lists_has_a_formula_or_a_reason_why_not() -> None:
    """`tests.record.samples` has a sample for all that MLX lists (`test_catalog`)."""
    sampled = {key: next((one for one in samples if not one.refused), None) for key, samples in SAMPLES.items()}
    calls = [(one.function(key), one.inputs()) for key, one in sampled.items() if one is not None]
    with nnrepl.recording() as recorded:
        for function, inputs in calls:
            function(*inputs)
    ops = [op for op in recorded.tape.ops if op.operation.kind in ("op", "data")]
    bare = {op.name for op in ops if op.name not in ENTRIES}
    assert len(calls) > 300
    assert bare == set(WITHOUT)


@mx.custom_function
def _own(x: mx.array) -> mx.array:
    return mx.sin(x) * 3


@_own.vjp
def _own_vjp(x: mx.array, g: mx.array, y: mx.array) -> mx.array:
    return g * 7


AGAIN = "In the backward pass it runs once more, so that nothing in there needs to be kept."
ONE = "One call of MLX's. What happened inside is"
BARE: dict[str, tuple[Callable[[mx.array], Any], str]] = {
    "asarray": (lambda x: mx.asarray(x), "nnrepl's table has no entry for asarray. Its inputs and its result are"),
    "quantize": (lambda x: mx.quantize(x @ mx.ones((1, 64)) / 8 + mx.arange(64.0), group_size=32, bits=4), "no entry"),
    "distributed": (lambda x: mx.distributed.all_max(x), "no entry for distributed.all_max."),
    "vmap": (lambda x: mx.vmap(lambda row: mx.sin(row) * 3)(x),
             f"{ONE} #1 to #2, #2 made what it returns; goto #1 leads there."),
    "vmap of one op": (lambda x: mx.vmap(mx.sin)(x), f"{ONE} #1, #1 made what it returns; goto #1 leads there."),
    "vmap of three": (lambda x: mx.vmap(lambda row: (row + 1, row + 2, row + 3))(x),
                      f"{ONE} #1 to #3, #1, #2 and #3 made what it returns; goto #1"),
    "vmap of four": (lambda x: mx.vmap(lambda row: (row + 1, row + 2, row + 3, row + 4))(x),
                     f"{ONE} #1 to #4; goto #1 leads there."),
    "vmap of what it is given": (lambda x: mx.vmap(lambda row: (row, row + 1))(x),
                                 f"{ONE} #1, #1 made what it returns; goto #1"),
    "checkpoint": (lambda x: mx.checkpoint(lambda x: mx.sin(x) * 3)(x),
                   f"It gives back what its function has computed, made by #2 multiply. {AGAIN}"),
    "two of a checkpoint": (lambda x: mx.checkpoint(lambda x: (x + 1, mx.sin(x) * 3))(x), f"add. {AGAIN}"),
    "a checkpoint of nothing": (lambda x: mx.checkpoint(lambda x: x)(x), f"computed, what went in. {AGAIN}"),
    "own rule": (_own, "made by #2 multiply. How a gradient passes is its own rule, which the program has written."),
}  # fmt: skip


@pytest.mark.parametrize("name", BARE)
def test_what_has_no_formula_is_told_by_its_numbers_and_by_mlx_s_own_slopes(name: str) -> None:
    x = mx.array([[0.5], [-2.0]])
    function, words = BARE[name]
    session = OpenSession(nnrepl.trace(function, x))
    plain = function(x)
    plain = plain if isinstance(plain, (list, tuple)) else [plain]
    for slot, (value, own) in enumerate(zip(session.tape.ops[-1].outputs, plain, strict=True)):
        found = of_value(Look(session), value, None)
        assert slot or words in str(found.words)
        told = re.fullmatch(r".*?\[(\d+),(\d+)\] = .*?(−?[\d.]+)", found.lines[-1])
        assert told is not None, found.lines
        at = int(told[1]), int(told[2])
        assert float(told[3].replace("−", "-")) == pytest.approx(own[at].item(), abs=1e-4)
        sizes = mx.abs(own.astype(mx.float32))
        assert sizes[at].item() == mx.max(sizes).item()
        slopes = [note for note in map(str, found.notes) if "Jacobian" in note]
        assert len(slopes) == (found.rule == [] and mx.issubdtype(own.dtype, mx.floating))
        if slopes and name != "quantize":  # whose input is no leaf
            weights = [mx.zeros_like(one) for one in plain]
            weights[slot][at] = 1
            row = mx.vjp(function, [x], weights)[1][0].flatten()
            entries = re.findall(r"(−?[\d.]+) with x\[(\d),0\]", slopes[0])
            assert [int(where) for _, where in entries] == mx.argsort(-mx.abs(row)).tolist()
            assert [float(slope.replace("−", "-")) for slope, _ in entries] == pytest.approx(
                [row[int(where)].item() for _, where in entries], abs=1e-4)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in BARE if name != "quantize"])
def test_what_has_no_formula_and_no_element_is_told_without_numbers(name: str) -> None:
    session = OpenSession(nnrepl.trace(BARE[name][0], mx.zeros((0, 1))))
    found = of_value(Look(session), session.tape.ops[-1].outputs[0], None)
    assert (found.lines, found.notes) == ([], [])
    assert str(found.words)
