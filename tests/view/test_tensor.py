"""Tensors: against NumPy where it can say the same, and looked at where it is about the eye."""

from __future__ import annotations

import io
import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from nnrepl.record.batches import total
from nnrepl.seen.array_sizes import norms
from nnrepl.session.errors import UserError
from nnrepl.view.digits import read_format
from nnrepl.view.heatmap import Heatmap
from nnrepl.view.histogram import Histogram, counts
from nnrepl.view.since import ShownBefore
from nnrepl.view.summary import changed, pieces, summarize
from nnrepl.view.tensor import TensorStyle, tensor
from nnrepl.view.theme import DARK

DTYPES = (
    mx.bool_, mx.uint8, mx.int8, mx.int16, mx.int32, mx.int64, mx.uint32, mx.uint64, mx.float16, mx.bfloat16,
    mx.float32, mx.complex64,
)  # fmt: skip


def screen(thing: object, width: int = 80, colour: bool = False) -> str:
    """What a terminal shows."""
    console = Console(
        width=width, theme=DARK, file=io.StringIO(), highlight=False, force_terminal=colour,
        color_system="truecolor" if colour else None,
    )  # fmt: skip
    console.print(thing)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


shapes = st.lists(st.integers(0, 5), max_size=5).map(tuple)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, dtype=st.sampled_from(DTYPES), width=st.sampled_from([20, 40, 80, 300]), seed=st.integers(0, 9))
def test_every_shape_and_dtype_is_shown(shape: tuple[int, ...], dtype: mx.Dtype, width: int, seed: int) -> None:
    array = (mx.random.normal(shape, key=mx.random.key(seed)) * 100).astype(dtype)
    looks = (
        tensor("x", array),
        tensor("x", array, TensorStyle(within=(0, 1))),
        Heatmap("x", array),
        Histogram("x", array),
    )
    for thing in looks:
        for colour in (False, True):
            shown = screen(thing, width, colour)
            assert "x" in shown
            if not colour:
                assert all(len(line) <= width for line in shown.splitlines())
    if 0 < array.size <= 200 and width == 300:
        shown = screen(tensor("x", array), width)
        words = shown.replace("[", " ").replace("]", " ").split()[2:]
        assert len(words) == array.size  # whole


def test_a_long_column_is_folded() -> None:
    lines = screen(tensor("x", mx.arange(128).reshape(128, 1))).splitlines()
    assert lines[0].startswith("x (128, 1) int32  min 0 · max 127")
    assert [line.strip("[] ") for line in lines[1:]] == ["0", "1", "2", "...", "125", "126", "127"]


@pytest.mark.parametrize("limit", [1, 7, 64, 10**6])
@pytest.mark.parametrize("shape", [(), (1,), (100,), (1, 100), (3, 1, 50), (5, 6, 7), (1, 1, 64, 3)])
def test_pieces_are_the_whole(shape: tuple[int, ...], limit: int) -> None:
    array = mx.arange(math.prod(shape)).reshape(shape)
    found = list(pieces(array, limit))
    assert all(piece.size <= limit for piece in found)
    assert [number for piece in found for number in piece.flatten().tolist()] == list(range(array.size))


@settings(max_examples=40, deadline=None)
@given(
    numbers=st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=40),
    piece=st.sampled_from([3, 1000]),
)
def test_summary_is_numpys(numbers: list[float], piece: int) -> None:
    array = mx.array(numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnrepl.view.summary.PIECE", piece)
        found = summarize(array)
    plain = np.array(array, dtype=np.float32)
    finite = plain[np.isfinite(plain)].astype(np.float64)
    assert found.nans == np.isnan(plain).sum()
    assert found.infinities == np.isinf(plain).sum()
    assert found.zeros == (plain == 0).sum()
    if finite.size:
        assert found.low == finite.min()
        assert found.high == finite.max()
    if finite.size and 1e-15 < np.abs(finite).max() < 1e15:  # squares of others leave float32
        scale = np.abs(finite).max() or 1.0
        assert found.mean == pytest.approx(finite.mean(), abs=1e-5 * scale)
        assert found.deviation == pytest.approx(finite.std(), abs=1e-3 * scale)


def test_a_large_tensor_is_added_up_to_the_digits_shown() -> None:
    """float32 adds one number after the other: sixteen million and one is sixteen million."""
    size = 2**24 + 2**22
    ones = mx.ones((size,))
    assert total(ones).item() == pytest.approx(size, rel=1e-6)
    assert norms([ones])[0] == pytest.approx(math.sqrt(size), rel=1e-6)
    drawn = np.random.default_rng(0).random(3_000_001, dtype=np.float32)
    exact = drawn.astype(np.float64)
    found = summarize(mx.array(drawn))
    assert found.mean == pytest.approx(exact.mean(), rel=1e-6)
    assert found.deviation == pytest.approx(exact.std(), rel=1e-6)
    assert norms([mx.array(drawn)])[0] == pytest.approx(np.linalg.norm(exact), rel=1e-6)
    assert summarize(mx.full((1001,), 0.1353)).deviation == 0


@pytest.mark.parametrize("scale", [3e38, 1e20, 1.0, 1e-25, 1e-37])
def test_mean_and_deviation_of_numbers_whose_squares_are_none_in_float32(scale: float) -> None:
    drawn = (np.random.default_rng(0).random((999,)) * scale).astype(np.float32)
    exact, found = drawn.astype(np.float64), summarize(mx.array([*drawn.tolist(), math.nan, math.inf]))
    assert found.mean == pytest.approx(exact.mean(), rel=1e-6, abs=0)
    assert found.deviation == pytest.approx(exact.std(), rel=1e-6, abs=0)


def test_whole_numbers_keep_their_digits() -> None:
    array = mx.array([2**62 + 1, 5], dtype=mx.int64)
    assert summarize(array).high == 2**62 + 1
    assert str(2**62 + 1) in screen(tensor("x", array))


def test_a_large_tensor_is_never_converted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnrepl.view.summary.PIECE", 1 << 16)
    array = mx.zeros((1000, 1500))
    mx.eval(array)
    converted: list[int] = []
    tolist = mx.array.tolist
    monkeypatch.setattr(mx.array, "tolist", lambda self: converted.append(self.size) or tolist(self))
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for thing in (tensor("x", array), Heatmap("x", array), Histogram("x", array)):
        screen(thing)
    assert max(converted) <= 32 * 200
    assert mx.get_peak_memory() - before < array.nbytes // 2  # a few pieces


def test_batches_are_folded() -> None:
    shown = screen(tensor("x", mx.zeros((8, 4, 32, 32))))
    assert shown.startswith("x (8, 4, 32, 32) float32  min 0 · max 0 · mean 0 · std 0 · 100 % zeros\n[0, 0] [[0 0 0")
    assert "... 30 more\n[7, 3] [[" in shown


def test_formats() -> None:
    array = mx.array([1.5, -2.25, 300.0])
    assert screen(tensor("x", array, TensorStyle(read_format("1f")))) == "x = [  1.5  -2.2 300.0]\n"
    assert screen(tensor("x", array, TensorStyle(read_format("2e")))) == "x = [ 1.50e+00 -2.25e+00  3.00e+02]\n"
    assert screen(tensor("x", array, TensorStyle(read_format("x")))) == "x = [0x3fc00000 0xc0100000 0x43960000]\n"
    assert screen(tensor("x", mx.array([-1], dtype=mx.int8), TensorStyle(read_format("t")))) == "x = [0b11111111]\n"
    assert screen(tensor("x", mx.array([1 - 2j]), TensorStyle(read_format("1f")))) == "x = [1.0-2.0j]\n"
    with pytest.raises(UserError, match="there is no format /q"):
        read_format("q")


def test_what_lies_in_a_range_is_marked() -> None:
    array = mx.array([[0.5, 2.0], [math.nan, 1.0]])
    shown = screen(tensor("x", array, TensorStyle(within=(0.5, 1))))
    assert shown == "x = [[0.5000*      2 ]\n     [   nan       1*]]\n2 of 4 in [0.5000, 1]\n"
    assert "\x1b[1;7m" in screen(tensor("x", array, TensorStyle(within=(0.5, 1))), colour=True)


def test_changes_are_seen_by_element() -> None:
    changes = ShownBefore()
    one, other = mx.array([1.0, math.nan]), mx.array([2.0, math.nan])
    assert changes.note(1, "x", one) == ""
    assert changes.note(1, "x", mx.array([1.0, math.nan])) == ""
    assert changes.note(1, "x", other) == "changed"
    assert screen(tensor("x", other, TensorStyle(before=changes.before))) == "x = [  2* nan ]\n"
    assert changes.note(1, "x", mx.zeros((3,))) == "changed"  # another shape
    assert screen(tensor("x", mx.zeros((3,)), TensorStyle(before=changes.before))) == "x = [0 0 0]\n"
    assert changes.note(2, "y", np.zeros(3)) == ""
    assert changes.note(2, "y", np.zeros(3)) == "changed"  # NumPy gives no single answer
    held = mx.array([1.0])
    assert changes.note(3, "z", held) == ""
    held[0] = 5.0  # in place
    assert changes.note(3, "z", held) == "changed"
    assert changed(mx.array([1]), mx.array([1.0]))  # another dtype


def test_a_histogram_counts_what_numpy_counts() -> None:
    array = mx.random.normal((5000,))
    found, edges, _ = counts(array, summarize(array))
    expected, _ = np.histogram(np.array(array), bins=edges)
    assert sum(found) == 5000
    assert np.abs(np.array(found) - expected).max() <= 2  # at the very edges of ranges
    assert 0.0 in edges
    relu = mx.maximum(mx.random.normal((1000,)) * 0.3, 0)
    found, edges, _ = counts(relu, summarize(relu))
    assert edges[0] == 0
    assert found[0] >= int(mx.sum(relu == 0).item())
    mixed = mx.concatenate([mx.full((7,), -0.3217), mx.zeros((5,)), mx.full((3,), 0.41)])
    found, edges, _ = counts(mixed, summarize(mixed))
    at = min(range(len(edges)), key=lambda place: abs(edges[place]))
    assert abs(edges[at]) < 1e-9
    assert (sum(found[:at]), found[at], sum(found[at + 1 :])) == (7, 5, 3)
    dice = mx.array([1, 1, 2, 6])
    assert counts(dice, summarize(dice))[0] == [2, 1, 0, 0, 0, 1]


def test_a_heatmap_has_a_scale_and_letters_without_colour() -> None:
    array = mx.array([[-1.0, 0.0, 1.0], [math.nan, 0.5, -0.5]])
    legend = "' ' -1 to '@' 1; ? is NaN"
    assert screen(Heatmap("x", array)).splitlines()[1:] == ["0   ==@@", "1 ??##::", "  0 1 2", legend]
    painted = screen(Heatmap("x", array), colour=True)
    assert "48;2;33;102;172" in painted  # blue for -1
    assert "48;2;178;24;43" in painted  # red for 1
    assert "48;2;255;0;255" in painted  # NaN
    assert "10 by 10" not in painted
    big = mx.broadcast_to(mx.arange(1000.0), (500, 1000))
    assert "32 by 7" in screen(Heatmap("x", big))
    assert "cells, each the mean of its part" in screen(Heatmap("x", big))


def test_a_few_numbers_far_out_do_not_darken_a_picture() -> None:
    rows = mx.softmax(mx.random.normal((32, 32)) * 0.1, axis=-1)
    rows[0, 0] = 1.0
    lines = screen(Heatmap("w", rows)).splitlines()
    assert lines[1][3] == "^"
    assert "beyond the scale: 1 above (^)" in lines[-1]
    assert len(set("".join(line[3:] for line in lines[2:33]))) > 5
    assert lines[33].split() == ["0", "4", "8", "12", "16", "20", "24", "28"]
    plain = mx.arange(64.0).reshape(8, 8)
    assert "beyond" not in screen(Heatmap("x", plain))
