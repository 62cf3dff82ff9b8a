"""Recording is complete: everything that MLX lists is recorded, or is listed with the reason why not.

The list comes from MLX itself, so a function that a later MLX adds makes a test here fail until it has a sample.
"""

from __future__ import annotations

import contextlib
import enum
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.record import strays
from nnrepl.record.anatomy import is_node
from nnrepl.record.catalog import CALLEES, MODULES, NOT_RECORDED, SPECIAL, TYPES, key_position, operation
from nnrepl.tape import Op, Value, arrays_of
from tests.record.samples import SAMPLES, Sample
from tests.support import assert_same_bits, plain_and_traced

RECORDED = ("op", "property", "augmented", "special", "maker", "transform")
"""The treatments under which a call leaves ops on the tape."""

OUTSIDE = {
    "cuda": "asks whether there is a GPU",
    "metal": "asks whether there is a GPU, and captures its work",
}
"""Modules of MLX in which no tensor goes in or comes out."""

HOLDERS: list[Any] = [*MODULES.values(), mx.array, mx.custom_function, strays.TRANSFORMED, sys.modules["mlx.nn"]]


# -- MLX's own listing -----------------------------------------------------------------------------------------


def listing() -> Iterator[tuple[str, Any]]:
    """Everything that can be called, or read as a property, in MLX: its name and the thing itself."""
    for prefix, holder in (*MODULES.items(), ("array", mx.array)):
        for name in dir(holder):
            thing = getattr(holder, name)
            if callable(thing) or isinstance(thing, property):
                yield f"{prefix}.{name}", thing


def types() -> dict[str, type]:
    """The types among them, without enumerations."""
    return {
        name: thing
        for name, thing in listing()
        if isinstance(thing, type) and not issubclass(thing, enum.Enum) and not name.startswith("array.")
    }


def functions() -> list[str]:
    """Everything else among them."""
    return [name for name, thing in listing() if not isinstance(thing, type) or name.startswith("array.")]


def recorded() -> list[str]:
    """What a call of must leave ops on the tape."""
    return [callee.key for callee in CALLEES if callee.treatment in RECORDED] + sorted(SPECIAL & set(types()))


def samples(differentiable: bool = False) -> list[Any]:
    """Every sample of every callee (that has an input to differentiate by), as parameters of a test."""
    return [
        pytest.param(key, sample, id=key if len(SAMPLES[key]) == 1 else f"{key}-{number}")
        for key in [*recorded(), "mx._gc_func"]
        for number, sample in enumerate(SAMPLES.get(key, ()))
        if sample.wrt or not differentiable
    ]


@pytest.mark.parametrize("key", functions())
def test_every_callable_of_mlx_is_recorded_or_has_a_reason_why_not(key: str) -> None:
    treatments = {callee.key: callee.treatment for callee in CALLEES}
    assert key in treatments, f"MLX has {key}, and nnrepl.record.catalog.CALLEES does not list it"
    if treatments[key] == "skip":
        assert NOT_RECORDED[key], f"say in nnrepl.record.catalog.NOT_RECORDED why {key} is not recorded"


@pytest.mark.parametrize("key", sorted(types()))
def test_every_type_of_mlx_is_caught_or_has_a_reason_why_not(key: str) -> None:
    if types()[key] in (mx.array, strays.TRANSFORMED):
        return
    assert key in SPECIAL or TYPES.get(key), (
        f"MLX has the type {key}: catch what makes arrays of it in nnrepl.record.intercept, "
        "or say in nnrepl.record.catalog.TYPES why there is nothing to catch"
    )


def test_every_module_of_mlx_is_listed() -> None:
    found = {name for name in dir(mx) if isinstance(getattr(mx, name), ModuleType)}
    known = {key.removeprefix("mx.") for key in MODULES} | set(OUTSIDE)
    assert found <= known, "a new module of MLX: add it to nnrepl.record.catalog.MODULES"


@pytest.mark.parametrize("key", recorded())
def test_every_recorded_callable_has_a_sample(key: str) -> None:
    assert SAMPLES.get(key), (
        f'MLX has {key}, and no sample calls it: add calls("{key}", Sample(...)) to tests/record/samples.py, '
        "or say in nnrepl.record.catalog.NOT_RECORDED why it is not recorded"
    )


# -- every sample ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "sample"), samples())
def test_a_call_is_recorded_whole(key: str, sample: Sample) -> None:
    """Its ops lead from its inputs to its results, nothing comes from nowhere, and the numbers are MLX's."""
    call = sample.function(key)
    plain = attempt(lambda: call(*sample.inputs()))
    if isinstance(plain, Exception):
        assert sample.refused is not None, f"MLX refuses the sample: {plain}"
        assert sample.refused.message in str(plain), sample.refused.reason
        assert_same_error(plain, attempt(lambda: nnrepl.trace(call, *sample.inputs()).value))
        return
    mx.random.seed(0)
    inputs = sample.inputs()
    trace = nnrepl.trace(call, *inputs)
    ops = list(trace.ops)
    results = list(arrays_of(trace.value))
    labels = {f"arg{number}" for number in range(len(inputs))}
    assert trace.tape.holes == []
    assert {value.kind for op in ops for value in op.inputs if value.op is None} <= {"input", "constant", "seed"}
    assert results
    assert came_from([value_of(ops, result) for result in results]) == labels
    if treatment(key) in ("op", "property", "augmented"):
        assert any(is_call(op, labels, results) for op in ops)
    assert_same_bits(plain, trace.value)
    for op in ops:
        assert_same_bits([value.array for value in op.outputs], op.compute())


@pytest.mark.parametrize(("key", "sample"), samples(differentiable=True))
def test_gradients_of_a_call_are_those_of_mlx(key: str, sample: Sample) -> None:
    """The inputs are used before and after as well, so gradients are added up, which must be in MLX's order."""
    call = sample.function(key)

    def loss(*inputs: mx.array) -> mx.array:
        return squares(inputs) + squares(call(*inputs)) + squares(inputs)

    mx.random.seed(7)
    plain = attempt(lambda: mx.value_and_grad(loss, argnums=sample.wrt)(*sample.inputs()))
    if isinstance(plain, Exception):
        trace = attempt(lambda: evaluated(nnrepl.trace(loss, *sample.inputs(), wrt=sample.wrt)))
        assert_same_error(plain, trace)
    else:
        plain_and_traced(loss, sample.inputs(), sample.wrt)


WRONG: dict[str, Callable[[mx.array], Any]] = {
    "shapes that do not match": lambda x: mx.matmul(x, x),
    "an operand of another type": lambda x: x @ "x",
    "an argument of another type": lambda x: mx.sin(None),
    "too many indices": lambda x: x[1, 2, 3, 4],
    "an array of unequal rows": lambda x: mx.array([x, x[0]]),
    "an array of nothing": lambda x: mx.array(None),
    "an array without data": lambda x: mx.array(),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_call_raises_what_mlx_raises(call: Callable[..., Any]) -> None:
    x = mx.ones((2, 3))
    assert_same_error(attempt(lambda: call(x)), attempt(lambda: nnrepl.trace(call, x)))


ENDS_THE_PROCESS = {"mx.slice_update", "mx.from_dlpack"}
"""What plain MLX does not survive, or does not come back from, where an argument is another thing."""


def spoiled() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every sample of every operation with one argument changed for what it cannot be, mostly."""
    for key in recorded():
        if treatment(key) == "op" and key not in ENDS_THE_PROCESS:
            yield from ((key, call) for sample in SAMPLES[key] for call in sample.spoiled(key))


def go_through(calls: Iterator[tuple[str, Callable[[], Any]]], tell: Callable[[Any], None]) -> None:
    """Make calls that MLX refuses, mostly, and ask something after each."""
    for key, call in calls:
        try:
            call()  # nothing of it is evaluated: MLX itself ends the process on some
            tell(key)
        except Exception as error:
            tell((key, type(error), str(error)))
        tell(mx.any(mx.array([[False, True], [True, False]])).item())


def test_a_sample_that_is_spoiled_raises_what_mlx_raises_and_what_comes_after_goes_on() -> None:
    plain: list[Any] = []
    found: list[Any] = []
    go_through(spoiled(), plain.append)

    def traced(x: mx.array, tell: Callable[[Any], None]) -> mx.array:
        go_through(spoiled(), tell)
        return x

    nnrepl.trace(traced, mx.array(0), found.append)
    assert len({one[0] for one in plain if isinstance(one, tuple)}) > len(recorded()) // 3
    assert [pair for pair in zip(plain, found, strict=True) if pair[0] != pair[1]] == []


def attempt(run: Callable[[], Any]) -> Any:
    """What a call returns, evaluated, or the exception that it raises."""
    try:
        result = run()
        mx.eval(list(arrays_of(result)))
    except Exception as error:
        return error
    return result


def evaluated(trace: nnrepl.Trace) -> nnrepl.Trace:
    mx.eval(trace.value, trace.grads)
    return trace


def assert_same_error(expected: Any, found: Any) -> None:
    assert isinstance(expected, Exception)
    assert (type(found), str(found)) == (type(expected), str(expected))


def squares(tree: Any) -> mx.array:
    """The sum of the squares of all floating numbers in a tree of arrays."""
    total = mx.array(0.0)
    for array in arrays_of(tree):
        if mx.issubdtype(array.dtype, mx.complexfloating):
            total = total + mx.sum(mx.square(mx.real(array))) + mx.sum(mx.square(mx.imag(array)))
        elif mx.issubdtype(array.dtype, mx.floating):
            total = total + mx.sum(mx.square(array))
    return total


def treatment(key: str) -> str:
    """How the catalog treats a callee, "" for a type."""
    return next((callee.treatment for callee in CALLEES if callee.key == key), "")


def value_of(ops: list[Op], array: mx.array) -> Value:
    """The value on the tape that an array is, or is another handle on."""
    values = [value for op in reversed(ops) for value in (*op.outputs, *op.inputs)]
    found = next((value for value in values if value.array is array), None)
    found = found or next((value for value in values if is_node(value.array, array)), None)
    assert found is not None, "a result that no op on the tape made"
    return found


def came_from(values: list[Value]) -> set[str | None]:
    """The labels of the inputs from which the ops on the tape lead to some values."""
    found, seen, pending = set(), set(), list(values)
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        if value.kind == "input" and value.origin is None:
            found.add(value.label)
        pending.extend(value.op.inputs if value.op is not None else [value.origin] if value.origin is not None else [])
    return found


def is_call(op: Op, labels: set[str], results: list[mx.array]) -> bool:
    """Whether an op takes the inputs with these labels, and no others, and makes these very arrays."""
    outputs = [value.array for value in op.outputs]
    return (
        {value.label for value in op.inputs if value.kind == "input"} == labels
        and len(outputs) == len(results)
        and all(output is result for output, result in zip(outputs, results))
    )


# -- afterwards ------------------------------------------------------------------------------------------------


def attributes() -> dict[tuple[str, str], Any]:
    """Every attribute of MLX's modules and of the types that are patched."""
    return {(holder.__name__, name): thing for holder in HOLDERS for name, thing in vars(holder).items()}


def assert_untouched(before: dict[tuple[str, str], Any]) -> None:
    after = attributes()
    assert after.keys() == before.keys()
    changed = [name for name, thing in before.items() if after[name] is not thing]
    assert changed == []


def fine(x: mx.array) -> mx.array:
    return mx.sum(mx.array([1.0, 2.0]) * x.T)


def failing(x: mx.array) -> mx.array:
    return fine(x) + mx.reshape(x, (7,))


@pytest.mark.parametrize("wrt", [None, 0])
def test_after_recording_mlx_is_what_it_was(wrt: int | None) -> None:
    before = attributes()
    trace = nnrepl.trace(fine, mx.ones((2, 2)), wrt=wrt)
    assert_untouched(before)
    count = len(trace.tape)
    fine(mx.ones((2, 2)))
    assert len(trace.tape) == count, "what runs after a recording is not part of it"


@pytest.mark.parametrize("wrt", [None, 0])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_exception_mlx_is_what_it_was(error: type[BaseException], wrt: int | None) -> None:
    def interrupted(x: mx.array) -> mx.array:
        fine(x)
        raise error

    before = attributes()
    for function, expected in ((interrupted, error), (failing, ValueError)):
        with pytest.raises(expected):
            nnrepl.trace(function, mx.ones((2, 2)), wrt=wrt)
        assert_untouched(before)


def test_inside_of_a_recording_mlx_is_replaced() -> None:
    """The other tests here would pass if nothing were ever replaced."""
    before = attributes()
    inside: dict[tuple[str, str], Any] = {}
    nnrepl.trace(lambda x: inside.update(attributes()) or x, mx.ones(2))
    replaced = {name for name, thing in before.items() if inside[name] is not thing}
    missing = [callee.key for callee in CALLEES if callee.treatment in RECORDED and callee.key not in spelled(replaced)]
    assert missing == []


def spelled(names: set[tuple[str, str]]) -> set[str]:
    """Names of attributes as the catalog writes them."""
    prefixes = {holder.__name__: prefix for prefix, holder in (*MODULES.items(), ("array", mx.array))}
    return {f"{prefixes[holder]}.{name}" for holder, name in names if holder in prefixes}


# -- what is known of a callable besides ---------------------------------------------------------------------------


def test_an_operator_is_spelled_as_python_writes_it() -> None:
    """`a + b` and `a += b` by their sign; `2 + a`, whose operands have changed places, by the method."""
    known = {callee.attribute: operation(callee) for callee in CALLEES if callee.key.startswith("array.__")}
    for name, sign in OPERATORS.items():
        for attribute, spelling in ((f"__{name}__", sign), (f"__i{name}__", sign), (f"__r{name}__", f"__r{name}__")):
            if attribute in known:
                assert (known[attribute].spelling, known[attribute].infix) == (spelling, sign), attribute
        assert known[f"__{name}__"].infix


OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**", "matmul": "@",
    "lshift": "<<", "rshift": ">>", "and": "&", "or": "|", "xor": "^", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "eq": "==", "ne": "!=",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in dir(mx.random) if name[0] != "_" and name != "state"])
def test_the_key_of_a_random_function_is_where_its_signature_has_it(name: str) -> None:
    head = (getattr(mx.random, name).__doc__ or "").strip().split("\n", 1)[0]
    arguments = re.search(r"\((.*)\) ->", head)
    assert arguments is not None
    taken = re.split(r", (?=\w+: )", arguments[1])
    drawn = "key: array | None = None"
    assert key_position(getattr(mx.random, name)) == (taken.index(drawn) if drawn in taken else None), head


def test_an_op_has_the_stream_of_the_block_in_which_it_is_made_and_no_other() -> None:
    def fn(x: mx.array) -> mx.array:
        other = mx.new_stream(mx.cpu)
        first = x * 2
        with mx.stream(mx.cpu):
            second = first * 2
            with contextlib.suppress(ValueError), mx.stream(other):
                third = second * 2
                raise ValueError
            fourth = third * 2
        return fourth * 2

    trace = nnrepl.trace(fn, mx.ones(2))
    streams = [trace.tape.notes.streams.get(op) for op in trace.ops if op.name == "multiply"]
    assert [stream is not None for stream in streams] == [False, True, True, True, False]
    assert streams[1] == streams[3] == mx.cpu
    assert isinstance(streams[2], mx.Stream)
