"""What a function keeps between its calls: a second run must meet what the first one met, and leave what it found.

Each program is a function with some state. `trace.set("w", lambda w: w * 1)` changes nothing, so the loss, every
gradient and the state afterwards must be those of the first run, however often it is asked for."""

from __future__ import annotations

import builtins
import collections
import contextlib
import functools
import gc
import itertools
import math
import random
import sys
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
import pytest

import nnrepl
from nnrepl.replay import world
from nnrepl.replay.libraries import Libraries
from tests.support import assert_same_bits

COUNTER = 0
BUILTINS = builtins.__dict__
Program = tuple[Callable[[mx.array], mx.array], Callable[[], Any]]


class Counted:
    """A class that counts in an attribute of its own."""

    calls = 0
    history: ClassVar[list[float]] = []

    @classmethod
    def count(cls) -> int:
        """One more."""
        cls.calls += 1
        cls.history.append(float(cls.calls))
        return cls.calls


class Slotted:
    """State in slots, one of which is set late."""

    __slots__ = ("_late", "count")

    def __init__(self) -> None:
        self.count = 1


@dataclass
class State:
    """State in a dataclass."""

    count: int = 0
    seen: list[Any] = field(default_factory=list)
    by_name: dict[str, Any] = field(default_factory=dict)


def class_attribute() -> Program:
    Counted.calls, Counted.history = 0, []
    return lambda w: w * Counted.count() + len(Counted.history), lambda: (Counted.calls, Counted.history)


def global_variable() -> Program:
    def f(w: mx.array) -> mx.array:
        global COUNTER
        COUNTER += 1
        return w * COUNTER

    return f, lambda: COUNTER


def slots() -> Program:
    state = Slotted()

    def f(w: mx.array) -> mx.array:
        late = getattr(state, "_late", 1)
        state._late = late + 1
        state.count *= 2
        return w * state.count + late

    return f, lambda: (state.count, state._late)


def dataclass_state() -> Program:
    state = State()

    def f(w: mx.array) -> mx.array:
        state.count += 1
        state.seen.append(w * state.count)
        state.by_name[str(state.count)] = state.count
        return sum(state.seen) * len(state.by_name)  # type: ignore[return-value]

    return f, lambda: (state.count, len(state.seen), list(state.by_name))


def numpy_generator() -> Program:
    rng = np.random.default_rng(0)
    return lambda w: w * float(rng.normal()) + float(rng.integers(9)), lambda: str(rng.bit_generator.state)


def numpy_legacy() -> Program:
    rng = np.random.RandomState(3)
    rng.randn()  # half of a pair waits
    return lambda w: w * float(rng.randn()), lambda: str(rng.get_state())


def python_random() -> Program:
    rng = random.Random(4)
    return lambda w: w * rng.random() + rng.gauss(0, 1), lambda: rng.getstate()


def global_randoms() -> Program:
    return (
        lambda w: w * random.random() + float(np.random.rand()) + mx.random.uniform(),
        lambda: (random.getstate(), str(np.random.get_state()), mx.random.state[0].tolist()),
    )


def large_data() -> Program:
    rng = np.random.default_rng(1)

    def f(w: mx.array) -> mx.array:
        noise = mx.array(rng.normal(size=3000).astype(np.float32))
        return w * noise.mean()

    return f, lambda: str(rng.bit_generator.state)


def changed_array() -> Program:
    buffer = np.arange(6.0, dtype=np.float32)

    def f(w: mx.array) -> mx.array:
        buffer[:] = buffer * 2 + 1
        return w * mx.array(buffer).sum()

    return f, lambda: buffer.tolist()


def cache(size: int | None) -> Program:
    calls = []

    @functools.lru_cache(size)
    def scale(n: int) -> float:
        calls.append(n)
        return n * 1.5 + len(calls)

    scale(1)
    return lambda w: w * scale(1) + scale(2) * w, lambda: (len(calls), scale(1))


def small_cache() -> Program:
    """It has counted its calls, and throws out what was asked for longest ago."""
    calls = []

    @functools.lru_cache(2)
    def scale(n: object, by: float = 1.0) -> float:
        calls.append(n)
        return by * len(calls)

    for n in (1, (2,), 1):
        scale(n)
    return lambda w: w * scale(3, by=2.0) + scale(1) * w + scale((2,)) * w, lambda: (calls, scale.cache_info())


def emptied_cache() -> Program:
    """It counts as many calls as before, and holds another one's result."""
    calls = []

    @functools.lru_cache(8)
    def scale(n: int) -> float:
        calls.append(n)
        return n * 1.5 + len(calls)

    def f(w: mx.array) -> mx.array:
        before = scale(1)
        scale.cache_clear()
        return w * before + scale(2)

    scale(1)
    return f, lambda: (calls, scale.cache_info())


def cache_of_tensors() -> Program:
    """What the first run has put into the cache must not be there for the second one, which makes its ops again."""

    @functools.lru_cache(8)
    def table(n: int) -> mx.array:
        return mx.exp(mx.ones((2,)) * n)

    return lambda w: w * table(3), lambda: table.cache_info().currsize


def handmade_cache() -> Program:
    kept: dict[int, mx.array] = {}

    def f(w: mx.array) -> mx.array:
        if 3 not in kept:
            kept[3] = mx.exp(mx.ones((2,)) * 3)
        return w * kept[3]

    return f, lambda: list(kept)


def ordered() -> Program:
    kept = collections.OrderedDict(a=1.0)

    def f(w: mx.array) -> mx.array:
        kept["b"] = kept.pop("a", 0.5) + 1
        kept.move_to_end("b", last=False)
        return w * kept["b"]

    return f, lambda: list(kept.items())


def containers() -> Program:
    queue, numbers, raw = collections.deque([1, 2], maxlen=3), {1}, bytearray(b"ab")

    def f(w: mx.array) -> mx.array:
        queue.append(len(queue) + sum(queue))
        numbers.add(len(numbers) + 5)
        raw[0] += 1
        return w * (sum(queue) + sum(numbers) + raw[0])

    return f, lambda: (list(queue), numbers, bytes(raw))


def iterator(make: Callable[[], Any]) -> Program:
    turns = make()
    return lambda w: w * next(turns), lambda: None


def iterator_in_a_list() -> Program:
    held = [iter([2.0, 3.0, 4.0, 5.0])]
    return lambda w: w * next(held[0]), lambda: held[0].__length_hint__()


def open_file(path: Path) -> Program:
    path.write_text("".join(f"{n}\n" for n in range(2, 9)))
    file = open(path)  # noqa: SIM115
    return lambda w: w * float(file.readline()), lambda: file.tell()


def bound_method() -> Program:
    class Scale:
        def __init__(self) -> None:
            self.count = 0

        def step(self) -> int:
            self.count += 1
            return self.count

        def __call__(self, w: mx.array) -> mx.array:
            return w * self.step()

    scale = Scale()
    return functools.partial(lambda w, inner: inner(w), inner=scale.__call__), lambda: scale.count


def custom_function() -> Program:
    """Only the garbage collector shows which function it holds."""
    calls = []

    def scaled(w: mx.array) -> mx.array:
        calls.append(len(calls) + 2)
        return w * calls[-1]

    scale = mx.custom_function(scaled)
    return lambda w: scale(w), lambda: calls


def namespace() -> Program:
    return lambda w: w * BUILTINS["float"](2), lambda: len(BUILTINS) > 100


PROGRAMS: dict[str, Callable[[], Program]] = {
    "class attribute": class_attribute, "global": global_variable, "slots": slots, "dataclass": dataclass_state,
    "numpy Generator": numpy_generator, "numpy RandomState": numpy_legacy, "random.Random": python_random,
    "global randoms": global_randoms, "large data": large_data, "ndarray": changed_array, "cache": lambda: cache(None),
    "lru_cache": lambda: cache(8), "lru_cache(2)": small_cache, "lru_cache emptied": emptied_cache,
    "lru_cache of tensors": cache_of_tensors,
    "handmade cache": handmade_cache, "OrderedDict": ordered, "containers": containers,
    "bound method": bound_method, "custom function": custom_function, "builtins": namespace,
    "iterator in a list": iterator_in_a_list,
    "list iterator": lambda: iterator(lambda: iter([2.0, 3.0, 4.0, 5.0])),
    "range iterator": lambda: iterator(lambda: iter(range(2, 9))),
    "count": lambda: iterator(lambda: itertools.count(2.0, 0.5)),
    "map": lambda: iterator(lambda: map(float, iter(range(2, 9)))),
}  # fmt: skip


if sys.version_info < (3, 14):  # which copies it no more
    PROGRAMS["chain"] = lambda: iterator(lambda: itertools.chain([2.0], iter([3.0, 4.0])))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_change_that_changes_nothing(name: str) -> None:
    program = PROGRAMS[name]()
    assert goes_at_once(lambda: world.World(program))
    check(program)


def goes_at_once(make: Callable[[], Any]) -> bool:
    """Whether what is made goes without Python's collector when nobody holds it: in a circle, its tensors would stay
    for as long as that is kept from walking what is recorded."""
    gc.disable()
    try:
        return weakref.ref(make())() is None
    finally:
        gc.enable()


def test_an_open_file(tmp_path: Path) -> None:
    check(open_file(tmp_path / "numbers.txt"))


def check(program: Program) -> None:
    """Set w to itself, at the start and after the first op, with and without everything evaluated."""
    f, state = program
    trace = nnrepl.trace(lambda w: f(w).sum(), mx.array([1.0, 2.0]), wrt=0)
    after = state()
    for evaluate in (False, True):
        for target in ("w", trace.ops[0].outputs[0]):
            edited = trace.set(target, lambda value: value * 1)
            assert_same_bits((trace.value, trace.grads), (edited.value, edited.grads))
            assert str(state()) == str(after)
        if evaluate:
            mx.eval([value.array for op in trace.ops for value in op.outputs])


def test_a_generator_is_named() -> None:
    turns = (float(n) for n in range(2, 9))
    trace = nnrepl.trace(lambda w: (w * next(turns)).sum(), mx.array([1.0, 2.0]), wrt=0)
    with pytest.raises(nnrepl.UserError, match=r"turns \(a generator\) cannot be put back"):
        trace.set("w", lambda w: w * 1)
    assert next(turns) == 3.0, "it was not touched"


def test_a_clock_is_told_with_both_numbers() -> None:
    ticks = ContextVar("ticks", default=0.0)  # stands for all that cannot be reached from Python

    def f(w: mx.array) -> mx.array:
        ticks.set(ticks.get() + 1)
        return (w * 2 * ticks.get()).sum()

    trace = nnrepl.trace(f, mx.array([1.0, 2.0]), wrt=0)
    for target in ("w", trace.ops[0].outputs[0]):  # before it, where all that follows depends on the edit
        with pytest.raises(
            nnrepl.UserError, match=r"#2 multiply, it called multiply with argument 2 = \d.0 instead of 1.0"
        ):
            trace.set(target, lambda value: value * 3)


def test_another_way_because_of_the_edit() -> None:
    """The edit decides a branch: that is the program's answer, and no divergence."""

    def f(w: mx.array, factor: float = 1.0) -> mx.array:
        a = w * 2 * factor
        return (a * 3 if a.sum().item() > 10 else mx.exp(a)).sum()

    w = mx.array([1.0, 2.0])
    trace = nnrepl.trace(f, w, wrt=0)
    edited = trace.set("a", lambda a: a * 4.0)
    assert_same_bits(mx.value_and_grad(lambda w: f(w, 4.0))(w), (edited.value, edited.grads))


def test_what_failed_has_failed_again_and_nothing_else() -> None:
    def f(w: mx.array) -> mx.array:
        a = w * 2
        with contextlib.suppress(ValueError):
            a @ mx.ones((3, 3))
        return mx.exp(a).sum()

    trace = nnrepl.trace(f, mx.array([1.0, 2.0]), wrt=0)
    last = trace.ops[-1].outputs[0]  # a gradient: the backward ops before it are done again, and have not failed
    for tape in (trace.tape, trace.set("a", lambda a: a * 3).tape, trace.set(last, lambda g: g * 3).tape):
        assert [(op.name, type(error)) for op, error in tape.notes.errors.items() if op in tape.ops] == [
            ("matmul", ValueError)
        ]


def test_nothing_in_mlx_is_the_programs() -> None:
    """Whose modules below `mlx.core` have no file, and whose functions are of a type of nanobind's."""
    made, package = ModuleType("made"), ModuleType("made.up")
    package.own = made.own = [1]  # type: ignore[attr-defined]
    held = [id(thing) for thing in world.World([mx.fast, mx.linalg, [mx.exp, package]]).holding]
    assert id(mx.fast) in held
    assert id(package.own) in held
    assert not {id(mx.fast.rope), id(mx.linalg.inv), id(vars(type(mx.exp))["__call__"])} & {*held}


def test_what_a_program_has_put_into_a_library_is_gone_before_it_begins_again() -> None:
    """What Python and lazy imports put there by themselves stays: dunders that are no functions, and modules."""
    library: Any = ModuleType("mlx_made_up")
    exec("def tanh(x): pass\nclass Layer:\n    def __call__(self): pass\nGELU = lazy = 1", vars(library))
    library.Foreign, layer = Counted, library.Layer
    before, own = dict(vars(library)), dict(vars(layer))
    libraries = Libraries()
    libraries.keep(library)
    library.tanh, library.twice, library.lazy, library.sub, library.__made__ = len, len, math, math, {}
    layer.__call__ = layer.__getattr__ = layer.extra = lambda self: 3
    layer.units, layer.__unit__, Counted.added, layer.__made__ = 3, staticmethod(len), True, {}
    del library.GELU
    libraries.begin()
    kept = {"lazy": math, "sub": math, "__made__": {}}
    assert (vars(library), dict(vars(layer))) == (before | kept, own | {"__made__": {}})
    assert Counted.added
    del Counted.added


def test_what_is_not_walked_through_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world that ends somewhere is no world to run again in."""
    held = [[number] for number in range(20)]
    assert not world.World([held]).lost
    monkeypatch.setattr(world, "_LIMIT", 10)
    assert world.World([held]).lost == ["what lies beyond 10 objects"]
