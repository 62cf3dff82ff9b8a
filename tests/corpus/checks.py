"""Checks: what must hold for every program of the corpus."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import nnrepl
from nnrepl.explain.known import entry_for
from nnrepl.record.intercept import recording
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import Recorder
from nnrepl.tape import Tape
from tests.support import OpenSession, assert_same_bits_or_wander
from tests.thorough import THOROUGH

SEED = 7


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function, in a world of its own.

    Attributes:
        fn: What is called.
        args: With what.
        wrt: With respect to what gradients are taken, as for `nnrepl.trace`.
        after: What else must agree when it is over: a model's statistics, an optimizer's state, what was printed.
    """

    fn: Callable[..., Any]
    args: Sequence[Any] = ()
    wrt: Any = None
    after: Callable[[], Any] = tuple


def some(programs: Sequence[Any], step: int, first: int = 0) -> list[Any]:
    """Every `step`-th of the programs, where a check says the same about many; or all of them if all are wanted."""
    return list(programs) if THOROUGH else list(programs)[first::step]


Outcome = list[tuple[str, Any]]


def compare(make: Callable[[], Call]) -> nnrepl.Trace | None:
    """Make a call twice, in plain MLX and in `nnrepl.trace`; asserts that value, gradients, random state and
    everything else are identical. Where plain MLX raises, nnrepl must raise the same, and there is no trace."""
    traces: list[nnrepl.Trace] = []

    def traced(call: Call) -> tuple[Any, Any]:
        trace = nnrepl.trace(call.fn, *call.args, wrt=call.wrt)
        traces.append(trace)
        return trace.value, trace.grads

    expected = _outcome(make, plainly)
    _assert_same(expected, _outcome(make, traced), make)
    return traces[0] if expected[0][0] == "value" else None


def compare_as_script(make: Callable[[], Call]) -> Tape:
    """The same, with everything recorded from its start, as `nnrepl program.py` does: the arguments and the
    model are built under the recorder, gradients are the program's own business, and nothing may come from nowhere.
    """
    expected = _outcome(make, plainly)
    names = ProgramNames()
    tape = names.tape
    recorder = Recorder(tape, strict=True, base=sys._getframe())
    with recording(recorder):
        found = _outcome(make, plainly)
    _assert_same(expected, found, make)
    assert tape.holes == []
    return tape


def plainly(call: Call) -> tuple[Any, Any]:
    """Make a call in plain MLX: its value and its gradients."""
    if call.wrt is None:
        return call.fn(*call.args), None
    if isinstance(call.wrt, nn.Module):
        return nn.value_and_grad(call.wrt, call.fn)(*call.args)
    return mx.value_and_grad(call.fn, argnums=call.wrt)(*call.args)


def check_tape(trace: nnrepl.Trace) -> None:
    """A tape has no holes, and every op on it says what it is and where it comes from."""
    assert trace.tape.holes == []
    for op in trace.ops:
        assert op.name
        assert op.phase in ("setup", "forward", "backward", "update")
        assert op.source.file, f"{op} comes from nowhere"
        assert op.source.line > 0, f"{op} comes from nowhere in {op.source.file}"
        assert op.error is None or op.outputs == ()


def check_entries(trace: nnrepl.Trace) -> None:
    """Every op of MLX that is recorded has its entry among the formulas."""
    forward = {op.of or op for op in trace.ops}
    assert not {op.name for op in forward if op.operation.kind in ("op", "data") and entry_for(op) is None}


def check_walk(trace: nnrepl.Trace) -> None:
    """A session steps over the whole tape, op by op, to its end and back to its start."""
    session = OpenSession(trace)
    length = len(trace.tape)
    seen = []
    while session.cursor < length:
        seen.append(session.cursor)
        session.step()
    assert seen == list(range(length))
    session.step()
    assert (session.cursor, session.stop.reason) == (length, "end of tape")
    seen = []
    while session.cursor > 0:
        session.back()
        seen.append(session.cursor)
    assert seen == list(reversed(range(length)))
    session.back()
    assert session.stop.reason == "start of tape"


def check_receipt(trace: nnrepl.Trace) -> None:
    """MLX itself confirms the recording: results, gradients, and nothing missing from the graph."""
    receipt = trace.verify()
    assert receipt.complete, receipt


def check_receipt_at_once(make: Callable[[], Call]) -> None:
    """The same, asked for before anything else: all of the graph that the program left lazy is there to be seen."""
    mx.random.seed(SEED)
    call = make()
    check_receipt(nnrepl.trace(call.fn, *call.args, wrt=call.wrt))


def _outcome(make: Callable[[], Call], run: Callable[[Call], tuple[Any, Any]]) -> Outcome:
    """What comes of a call: its value, its gradients and what it left behind, or its error."""
    call = make()
    mx.random.seed(SEED)
    try:
        value, grads = run(call)
        mx.eval(value, grads)
        outcome = [("value", value), ("gradients", grads)]
    except Exception as error:
        outcome = [("error", f"{type(error).__name__}: {error}")]
    state: Any = mx.random.state
    return [*outcome, ("random state", state[0].tolist()), ("afterwards", call.after())]


def _assert_same(expected: Outcome, found: Outcome, make: Callable[[], Call]) -> None:
    assert [kind for kind, _ in found] == [kind for kind, _ in expected], f"{found} is not {expected}"
    for (kind, wanted), (_, given) in zip(expected, found):
        try:
            assert_same_bits_or_wander(wanted, given, lambda kind=kind: dict(_outcome(make, plainly))[kind])
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from None
