"""Python's garbage collector is kept off the tape, and finds for the program what it finds without us."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable

import mlx.core as mx
import pytest

import nnrepl
from nnrepl.record.as_before import as_before
from nnrepl.record.intercept import recording
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder
from nnrepl.tape import collector
from tests.support import ROOT


def cyclic() -> Callable[[], object]:
    """Return something that only the collector can let go of; no object, into which the recorder would look."""

    def itself() -> object:
        return itself

    return itself


_HELD: list[Callable[[], object]] = []


def recorder() -> Recorder:
    made = Recorder(ProgramNames().tape, strict=False)
    made.start()
    return made


def grown(made: Recorder, ops: int) -> None:
    """Record until the collector has set things aside."""
    x = mx.ones((2,))
    while len(made.tape) < ops:
        x = x + 1


def test_what_was_recorded_is_walked_no_more() -> None:
    with recording(recorder()) as made:
        grown(made, collector._OFTEN + 10)
        assert gc.get_freeze_count() > made.tape.ops[-1].position
        gc.collect()
        assert gc.get_freeze_count() < collector._OF_PYTHON, "the program's own collection walks everything"
        grown(made, 2 * collector._OFTEN + 10)
    assert gc.get_freeze_count() < collector._OF_PYTHON, "afterwards everything is as it was"


def test_garbage_from_before_and_between_is_found() -> None:
    _HELD.append(cyclic())  # no variable of a function's, which would be noted
    gone = weakref.ref(_HELD[0])
    with recording(recorder()) as made:
        grown(made, 10)
        _HELD.clear()
        late = weakref.ref(cyclic())
        grown(made, 2 * collector._OFTEN + 10)
        assert late() is None, "new garbage goes before the rest is set aside"
        gc.collect()
        assert gone() is None, "what was set aside goes when the program collects"


def test_the_program_sees_all_objects() -> None:
    mark = cyclic()
    with recording(recorder()) as made:
        grown(made, collector._OFTEN + 10)
        assert any(thing is mark for thing in gc.get_objects())


def test_collections_that_are_off_stay_off() -> None:
    gc.disable()
    before = gc.get_freeze_count()  # what the tests before it have left is set aside, if one ran in this process
    try:
        with recording(recorder()) as made:
            grown(made, collector._OFTEN + 10)
            assert gc.get_freeze_count() <= before
            assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_set_aside_is_not_counted_at_each_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    monkeypatch.setattr(gc, "get_freeze_count", lambda: counted.append(1) or 100_000)
    monkeypatch.setattr(collector, "_frozen", None)
    for _ in range(3):
        nnrepl.trace(lambda w: (w + 1).sum(), mx.ones((2,)))
    assert counted == [1]
    collector.freeze_imports()  # as `nnrepl.__main__` does
    nnrepl.trace(lambda w: (w + 1).sum(), mx.ones((2,)))
    assert collector.frozen()
    assert counted == [1]


def _in_a_nested_call(w: mx.array) -> mx.array:
    rows = mx.vmap(mx.tanh)(w[None] * mx.ones((2, 1)))
    slope = mx.grad(lambda x: (x**3).sum())(w)
    along = mx.jvp(lambda x: x * mx.sin(x), [w], [slope])[1][0]
    return (rows.sum(0) * along * mx.checkpoint(mx.exp)(w)).sum()


@pytest.mark.parametrize("fn", [lambda w: (w + 1).sum(), _in_a_nested_call])
def test_a_tape_that_nobody_holds_goes(fn: Callable[[mx.array], mx.array]) -> None:
    """What is remembered of kinds of ops keeps no call of one, and so no tape."""
    trace = nnrepl.trace(fn, mx.ones((2,)), wrt=0)
    tape = weakref.ref(trace.ops[-1].tape)
    mx.eval(trace.grads)
    trace.verify()
    del trace
    gc.collect()
    assert tape() is None


def test_arrays_may_die_while_all_that_are_known_are_looked_at() -> None:
    """Up to Python 3.11 a collection may begin at any object that is made: between two entries of what is listed."""
    thresholds = gc.get_threshold()
    with recording(recorder()) as made:
        grown(made, 1)
        gc.disable()
        circles: list[list[object]] = [[made.handle(made.tape.ops[0].outputs[0])] for _ in range(200)]
        for circle in circles:
            circle.append(circle)
        gc.collect(0)  # they are no young objects: the collection that finds them is not the very first
        known = len(made.live)
        del circles, circle
        try:
            gc.set_threshold(25, 0)
            gc.enable()
            with as_before(made, 0):
                pass
        finally:
            gc.set_threshold(*thresholds)
        gc.collect()
        assert len(made.live) < known - 150, "the arrays of the circles are gone"


def test_what_arrays_take_out_of_tables_as_they_die_is_copied_before_it_is_gone_through() -> None:
    within = re.compile(r"\.(live|guards)\.(items|values)\(\)")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sorted((ROOT / "nnrepl").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if within.search(line)
    ]
    assert not found


def test_what_earlier_runs_have_let_go_of_is_not_set_aside_for_good() -> None:
    """A run along a tape is mostly too short for Python to walk everything by itself."""
    left = []
    for _ in range(collector._MANY + 2):
        with recording(recorder()) as made:
            made.tape.grown(made.tape.names, None)
            grown(made, 10)
            thing = cyclic()
            left.append(weakref.ref(thing))
            collector._collect(1)  # it is old when it dies
            collector._collect(1)
            del thing
    assert left[0]() is None
