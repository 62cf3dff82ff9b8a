"""Checks: what must hold for every program of the corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import nnrepl
from tests.support import assert_same_bits

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


def compare(make: Callable[[], Call]) -> nnrepl.Trace | None:
    """Make a call twice, in plain MLX and under nnrepl; asserts that value, gradients, random state and everything
    else are identical. Where plain MLX raises, nnrepl must raise the same, and there is no trace."""
    expected, _ = _outcome(make(), _plain)
    found, trace = _outcome(make(), _traced)
    assert [kind for kind, _ in found] == [kind for kind, _ in expected], f"{found} is not {expected}"
    for (kind, wanted), (_, given) in zip(expected, found):
        if kind in ("error", "random state"):
            assert given == wanted, kind
        else:
            assert_same_bits(wanted, given)
    return trace


def check_tape(trace: nnrepl.Trace) -> None:
    """A tape has no holes, and every op on it says what it is and where it comes from."""
    assert trace.tape.holes == []
    for op in trace.ops:
        assert op.name
        assert op.phase in ("setup", "forward", "backward", "update")
        assert op.source.file, f"{op} comes from nowhere"
        assert op.source.line > 0, f"{op} comes from nowhere in {op.source.file}"
        assert op.error is None or op.outputs == ()


def check_walk(trace: nnrepl.Trace) -> None:
    """A session steps over the whole tape, op by op, to its end and back to its start."""
    session = nnrepl.Session(trace)
    length = len(trace.tape)
    seen = []
    while session.cursor < length:
        seen.append(session.cursor)
        session.step()
    assert seen == list(range(length))
    stop = session.step()
    assert stop is not None
    assert (session.cursor, stop.reason) == (length, "end of tape")
    seen = []
    while session.cursor > 0:
        session.back()
        seen.append(session.cursor)
    assert seen == list(reversed(range(length)))
    assert session.back().reason == "start of tape"


def check_receipt(trace: nnrepl.Trace) -> None:
    """MLX itself confirms the recording: results, gradients, and nothing missing from the graph."""
    receipt = trace.verify()
    assert receipt.complete, receipt


def check_receipt_at_once(make: Callable[[], Call]) -> None:
    """The same, asked for before anything else: all of the graph that the program left lazy is there to be seen."""
    mx.random.seed(SEED)
    call = make()
    check_receipt(nnrepl.trace(call.fn, *call.args, wrt=call.wrt))


def _outcome(call: Call, run: Callable[[Call], Any]) -> tuple[list[tuple[str, Any]], nnrepl.Trace | None]:
    """What comes of a call: its value, its gradients and what it left behind, or its error."""
    mx.random.seed(SEED)
    trace = None
    try:
        value, grads, trace = run(call)
        mx.eval(value, grads)
        outcome = [("value", value), ("gradients", grads)]
    except Exception as error:
        outcome = [("error", (type(error), str(error)))]
    assert mx.random.state is not None
    state = mx.random.state[0].tolist()
    return [*outcome, ("random state", state), ("afterwards", call.after())], trace


def _plain(call: Call) -> tuple[Any, Any, None]:
    if call.wrt is None:
        return call.fn(*call.args), None, None
    if isinstance(call.wrt, nn.Module):
        return *nn.value_and_grad(call.wrt, call.fn)(*call.args), None
    return *mx.value_and_grad(call.fn, argnums=call.wrt)(*call.args), None


def _traced(call: Call) -> tuple[Any, Any, nnrepl.Trace]:
    trace = nnrepl.trace(call.fn, *call.args, wrt=call.wrt)
    return trace.value, trace.grads, trace
