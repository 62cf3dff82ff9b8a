"""Divergence: what counts as the same op in a run again, and what is said of one that is not."""

from __future__ import annotations

import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import nnrepl
from nnrepl.record.data import Data
from nnrepl.replay.divergence import (
    Diverged,
    OpDifference,
    compare,
    said_of,
    same_constant,
    same_operation,
    same_place,
)
from nnrepl.tape import DrawnKey, Op


def calls(x: mx.array, axis: int, shape: Any, seed: int, which: bool, parts: int) -> mx.array:
    mx.random.seed(seed)
    total = mx.sum(x, axis=axis)
    moved = mx.reshape(x, shape)
    noise = mx.random.normal((2,))
    chosen = mx.sin(x) if which else mx.cos(x)
    joined = mx.concatenate([x] * parts)
    return total.sum() + moved.sum() + noise.sum() + chosen.sum() + joined.sum()


USUAL: dict[str, Any] = {"axis": 0, "shape": (4,), "seed": 1, "which": True, "parts": 2}


@cache
def usual() -> dict[str, Op]:
    return ops_of()


def ops_of(**given: Any) -> dict[str, Op]:
    ops = nnrepl.trace(calls, mx.ones((2, 2)), **{**USUAL, **given}).ops
    return {op.name: op for op in reversed(ops)}


def said(difference: OpDifference | None) -> str | None:
    return None if difference is None else str(difference)


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("sum", {"axis": 1}, "#1 sum, it called sum with argument axis = 1 instead of 0"),
        ("reshape", {"shape": (4, 1)}, "#2 reshape, it called reshape with argument 2 = (4, 1) instead of (4,)"),
        ("reshape", {"shape": [4]}, "#2 reshape, it called reshape with argument 2 = [4] instead of (4,)"),
        ("random.normal", {"seed": 2}, "with another random key: seed 2 instead of seed 1"),
        ("concatenate", {"parts": 3}, "it called concatenate with 3 tensors instead of 2"),
    ],
)  # fmt: skip
def test_in_what_an_op_differs(name: str, given: dict[str, Any], told: str) -> None:
    found = ops_of(**given)
    assert str(compare(usual()[name], found[name])).endswith(told)
    assert [one for one in usual() if compare(usual()[one], found[one]) is not None] == [name]


def test_another_op_and_another_place() -> None:
    one, other = usual(), ops_of(which=False)
    assert said(compare(one["sin"], other["cos"])) == "where the tape has #4 sin, it called cos"
    assert not same_operation(one["sin"], other["cos"])
    assert same_operation(one["sum"], other["sum"])
    assert same_place(one["sum"], other["sum"])
    assert not same_place(one["sin"], other["cos"])
    both = nnrepl.trace(lambda x: mx.exp(x) + mx.exp(x), mx.ones(2)).ops
    apart = nnrepl.trace(lambda x: mx.exp(x), mx.ones(2)).ops
    assert both[0].source.line != apart[0].source.line
    assert not same_place(both[0], both[1])
    assert not same_place(both[0], apart[0])
    line = f"line {apart[0].source.line} instead of {both[0].source.line}"
    assert said(compare(both[0], apart[0])) == f"where the tape has #1 exp, it called exp with {line}"


def test_an_op_with_other_arguments() -> None:
    def made(*more: Any, **options: Any) -> Op:
        return nnrepl.trace(called, mx.ones((2, 2)), more, options).ops[0]

    def told(one: Op, other: Op) -> str | None:
        return said(compare(one, other))

    assert told(made(), made(0)) == "where the tape has #1 sum, it called sum with other arguments"
    assert told(made(axis=0), made(keepdims=True)) == "where the tape has #1 sum, it called sum with other arguments"
    assert told(made(), made()) is None
    long, short = tuple([0] * 14), (*[0] * 12, 10)
    assert text_of_axes(long) == f"argument axis = {str(long)[:37]}... instead of 0"
    assert len(str(short)) == 40
    assert text_of_axes(short) == f"argument axis = {short} instead of 0"
    few, many = data(mx.array([1, 2, 3, 4])), data(mx.array([1, 2, 3, 4, 5]))
    assert text_of_axes(few) == "argument axis = [1, 2, 3, 4] instead of 0"
    assert text_of_axes(many) == "argument axis = other data of shape (5,) instead of 0"
    assert text_of_axes(made().inputs[0]) == "argument axis = x instead of 0"
    assert text_of_axes(DrawnKey(mx.array(0), (None, 1))) == "argument axis = a random key instead of 0"


def called(x: mx.array, more: Any, options: Any) -> mx.array:
    return mx.sum(x, *more, **options)


def text_of_axes(axis: Any) -> str:
    """What is said where an op was called with something else than 0."""
    op, other = (nnrepl.trace(called, mx.ones((2, 2)), (), {"axis": 0}).ops[0] for _ in range(2))
    other.kwargs["axis"] = axis
    found = compare(op, other)
    assert found is not None
    return found.what


def test_a_backward_op_is_compared_by_what_it_differentiates() -> None:
    one, other = (nnrepl.trace(lambda x, by=by: mx.sum(x * by), mx.ones(2), wrt=0).ops for by in (2, 3))
    forward, backward = ([ops[at] for ops in (one, other)] for at in (0, -1))
    assert (
        said(compare(*forward)) == "where the tape has #1 multiply, it called multiply with argument 2 = 3 instead of 2"
    )
    assert compare(*backward) is None


def test_the_same_place_is_where_the_same_text_stands() -> None:
    code = calls.__code__
    here = SimpleNamespace(code=code)
    renamed = SimpleNamespace(code=code.replace(co_name="reloaded"))
    others: list[Any] = [
        SimpleNamespace(code=usual.__wrapped__.__code__),
        SimpleNamespace(code=code.replace(co_name="reloaded", co_filename="elsewhere")),
        SimpleNamespace(code=code.replace(co_firstlineno=3, co_linetable=code.co_linetable + b"\x80\x00")),
    ]  # fmt: skip

    def op(scope: Any, lasti: int = 10) -> Any:
        return SimpleNamespace(scope=scope, lasti=lasti)

    assert same_place(op(None), op(here))
    assert same_place(op(here), op(None))
    assert same_place(op(here), op(renamed))
    assert not any(same_place(op(here), op(other)) for other in others)
    positions = list(code.co_positions())
    assert all(
        same_place(op(here, 2 * at), op(here)) is (positions[at] == positions[5]) for at in range(len(positions))
    )


def test_the_same_operation_is_of_one_name_and_kind() -> None:
    def op(name: str, kind: str) -> Any:
        return SimpleNamespace(operation=SimpleNamespace(name=name, kind=kind))

    one = op("sin", "op")
    assert same_operation(one, one)
    assert same_operation(one, op("sin", "op"))
    assert not same_operation(one, op("sin", "closed"))
    assert not same_operation(one, op("cos", "op"))
    assert same_constant(usual()["sin"].inputs[0], usual()["sum"].outputs[0])  # tensors are compared elsewhere
    assert not same_constant(usual()["sin"].inputs[0], 3)
    assert not same_constant(3, usual()["sin"].inputs[0])


def test_what_is_said_where_there_is_no_op_on_a_side() -> None:
    op = usual()["sin"]
    assert str(OpDifference(None, op)) == "where the tape has nothing more, it called sin"
    assert str(OpDifference(op, None)) == "where the tape has #4 sin, it called nothing"
    assert str(OpDifference(op, None, "OSError: gone")) == "where the tape has #4 sin, it raised OSError: gone"
    assert "the program does not do the same when it runs again: where" in str(Diverged(OpDifference(None, op)))
    assert said_of(ValueError("one\ntwo")) == "ValueError: one"
    assert said_of(ValueError("x" * 200)) == f"ValueError: {'x' * 100}"
    assert said_of(KeyError()) == "KeyError"


def kind(name: str) -> Any:
    return type(name, (), {"__module__": "program", "guide": 1})()


def data(array: mx.array, stamp: object = None, read: bool = True) -> Data:
    made = Data(array, stamp)
    if read:
        mx.eval(made.array)
    return made


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1, True), (1, 2, False), (1, True, False), ("a", "b", False), (None, None, True), (b"a", b"b", False),
        (math.nan, -math.nan * 0 + math.nan, True), (0.0, -0.0, False), (1j, 2j, False), (..., ..., True),
        ([1, 2], [1, 2], True), ([1, 2], [1], False), ((1,), [1], False), ([1, 2], [1, 3], False),
        ({"a": 1}, {"a": 1}, True), ({"a": 1}, {"b": 1}, False), ({"a": 1}, {"a": 2}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True), (slice(1, 2), slice(1, 2), True), (range(3), range(4), False),
        (slice(1, 2, 3), slice(0, 2, 3), False), (slice(1, 2, 3), slice(1, 4, 3), False),
        (slice(1, 2, 3), slice(1, 2, 4), False), (mx.float32, mx.float16, False), (mx.float32, mx.float32, True),
        (frozenset([1]), frozenset([2]), False), (np.ones(2), np.ones(2), True), (np.ones(2), np.zeros(2), False),
        (np.ones(2), np.ones((2, 1)), False), (np.zeros(2, np.int32), np.zeros(2, np.float32), False),
        (kind("A"), kind("A"), True), (kind("A"), kind("B"), False), (object(), object(), True),
        (SimpleNamespace(a=1), SimpleNamespace(a=2), True),
    ],
)  # fmt: skip
def test_which_constants_are_the_same(one: Any, other: Any, same: bool) -> None:
    assert same_constant(one, other) is same
    assert same_constant(other, one) is same
    assert same_constant({"k": [one]}, {"k": [other]}) is same


def test_data_from_outside_is_the_same_if_its_file_is_or_its_numbers_are() -> None:
    one, same, another = mx.array([1, 2]), mx.array([1, 2]), mx.array([1, 3])
    assert same_constant(data(one), data(same))
    assert not same_constant(data(one), data(another))
    assert same_constant(data(one + 0, read=False), data(another))  # nobody has read it: it is not read for that
    assert same_constant(data(one), data(another + 0, read=False))
    assert same_constant(data(one, "file"), data(another, "file"))
    assert not same_constant(data(one + 0, "file", read=False), data(another, "another"))
    assert same_constant(data(one, "file"), data(same, "another"))
    assert not same_constant(data(one, "file"), data(mx.array([[1], [2]]), "file"))
    assert not same_constant(data(one, "file"), data(mx.array([1.0, 2.0]), "file"))
