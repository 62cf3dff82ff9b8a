"""Tracing: what MLX does not allow while it traces a function, nnrepl does not allow either.

While recording, a compiled or differentiated function runs on ordinary arrays, which could be evaluated. MLX runs it
on tracers. What depends on one is told from the tape; the error is MLX's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record import trees
from nnrepl.record.anatomy import made_of
from nnrepl.record.cuts import would_trace
from nnrepl.record.data import construct
from nnrepl.record.strays import native, raw
from nnrepl.tape import GRADIENT_PASS, Pass, Value, arrays_of

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_async_eval, _compile, _eval, _grad, _multiply = map(raw, (mx.async_eval, mx.compile, mx.eval, mx.grad, mx.multiply))


class Tracing:
    """A function that MLX would be tracing now.

    Args:
        start: The position of its first op.
        inputs: The values that MLX would hand to it as tracers.

    Attributes:
        start: The position of its first op.
        typed: Whether a line of the user's has run in it, which is no part of the function.
    """

    def __init__(self, recorder: Recorder, start: int, inputs: Iterable[Value]) -> None:
        self._recorder = recorder
        self.start = start
        self._inputs = set(inputs)
        self.typed = False

    def has_made(self, value: Value) -> bool:
        """Whether an op of the function has made a value."""
        return value.op is not None and value.op.position >= self.start

    def depends(self, values: Iterable[Value]) -> bool:
        """Whether any of some values is or was made of a tracer."""
        return bool(self.depending(values))

    def depending(self, values: Iterable[Value]) -> list[Value]:
        """Return those of some values that are or were made of a tracer."""
        # Walked anew each time it is asked, which is where the program evaluates: kept up op by op it would cost every
        # function that evaluates nothing.
        unified = self._recorder.unified
        made = {unified.get(value, value) for value in self._inputs}

        def is_made(value: Value) -> bool:
            # What is differentiated inside goes in as a leaf of its own, which stands for a tracer.
            origin: Value | None = value
            while origin is not None and origin not in made:
                origin = origin.origin
            return origin is not None

        for op in self._recorder.tape.ops[self.start :]:
            if not any(map(is_made, op.inputs)):
                continue
            # Of `zeros_like(a)` MLX's graph has no `a`: it can be evaluated, by the function and by who finds it later.
            if op.operation.kind == "op":
                made.update([value for value in op.outputs if any(map(is_made, made_of(value)))])
            else:
                made.update(op.outputs)
        return [value for value in values if is_made(value)]

    def check_captured(self, results: Iterable[Value]) -> None:
        """MLX compiles no function that takes something which was made of its arguments before and elsewhere.

        Raises:
            ValueError: MLX's own.
        """
        inside: set[Value] = set()
        outside: list[Value] = list(results)
        seen: set[Value] = set()
        while outside:
            value = outside.pop()
            if value in seen or value.op is None:
                continue
            seen.add(value)
            early = value.op.position < self.start
            if early and value not in self._inputs and not value.evaluated:
                inside.add(value)
            if not early or value in inside:
                taken = value.op.inputs
                if value in inside and not self._inputs.isdisjoint(taken):
                    _refuse_captured()
                outside.extend(taken)
                if value in inside:
                    inside.update(other for other in taken if not other.evaluated)


def check_evaluation(recorder: Recorder, how: str, args: tuple[Any, ...]) -> None:
    """Note that the program evaluates arrays: inside of a compiled function it must not evaluate tracers, inside of a
    gradient not asynchronously.

    Raises:
        ValueError: MLX's own.
    """
    asynchronous = how == "mx.async_eval"
    if not recorder.tracing and not (asynchronous and recorder.differentiating):
        return
    values = [recorder.live[id(array)] for array in arrays_of(args) if id(array) in recorder.live]
    if recorder.tracing:
        if recorder.tracing[-1].depends(values):  # MLX raises, in the words of its own version
            native(_compile(_async_eval if asynchronous else _eval))(construct(0.0))
    elif _is_traced(recorder, recorder.pass_, values, deeply=True):
        native(_grad(_async_eval))(construct(0.0))


def takes_tracers(recorder: Recorder, args: Any) -> bool:
    """Whether MLX, which would be differentiating the pass that is open, has tracers in what a compiled function is
    given. Natively that runs plainly then, and on anything else it is compiled."""
    pass_ = recorder.pass_
    while pass_ is not None and pass_.within is not None:
        pass_ = pass_.within
    values = [recorder.live[id(array)] for array in trees.arrays(args) if id(array) in recorder.live]
    if pass_ is None or not _is_made_of(values, pass_, {*_handed(recorder, pass_), *pass_.wrt}):
        return False
    return recorder.inside is None or _is_traced(recorder, pass_, values, deeply=False)


def _is_made_of(values: Iterable[Value], pass_: Pass, tracers: set[Value]) -> bool:
    """Whether one of some values comes from one of the tracers of a pass."""
    seen: set[Value] = set()
    pending = list(values)
    while pending:
        value = pending.pop()
        if value in tracers:
            return True
        if value in seen:
            continue
        seen.add(value)
        if value.origin is not None:
            pending.append(value.origin)
        if value.op is not None and value.op.position >= pass_.start:
            pending.extend(value.op.inputs)
    return False


def _handed(recorder: Recorder, pass_: Pass) -> list[Value]:
    """Return what MLX hands to the function of a pass as tracers, as its ops have it."""
    unified = recorder.unified
    return [unified.get(leaf, leaf) for leaf in (*pass_.wrt, *pass_.handed)]


def _is_traced(recorder: Recorder, pass_: Pass | None, values: list[Value], deeply: bool) -> bool:
    if pass_ is None or not recorder.differentiating or pass_.kind != GRADIENT_PASS:
        return False
    return would_trace(recorder.tape, pass_, _handed(recorder, pass_), values, deeply)


def _refuse_captured() -> None:
    given = construct(0.0)
    native(_compile(lambda array: _multiply(array, _multiply(given, given))))(given)
