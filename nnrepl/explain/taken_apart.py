"""Inside: a fused op taken apart into textbook ops, on a tape of its own that is stepped like any other.

What is recorded is the op's formula from the table, run on the op's own inputs; for an op of the backward pass, the
formula's gradient. Nothing of the program is run.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.known import COMPOSITE, PRODUCTS, WHOLE, Entry, arguments, entry_for, filled
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.record.intercept import recording
from nnrepl.record.names import ProgramNames
from nnrepl.record.recorder import RECORD, Recorder, current
from nnrepl.record.stack import Stack
from nnrepl.session.errors import UserError
from nnrepl.session.session import TapeSession
from nnrepl.tape import RUN_PASS, Op, Tape, Value

_copy = mx.array.__copy__


class InnerSession(TapeSession):
    """The user's place on a tape beside the program's."""

    outer: TapeSession

    def __init__(self, outer: TapeSession, tape: Tape, names: ProgramNames) -> None:
        super().__init__(tape, names)
        self.outer = outer
        self.settings = outer.settings


class InsideNames(ProgramNames):
    """Names on the tape of an op that is taken apart: what went in is called as the program calls it.

    Args:
        outer: The names of the program.
        opened: The op.
    """

    def __init__(self, outer: ProgramNames, opened: Op) -> None:
        super().__init__()
        self._outer, self._opened = outer, opened

    def elsewhere(self, name: str) -> str:
        """Say of a name of the program that it is not inside of the op."""
        inside = f"{self._opened.label} {self._opened.name}"
        known = name in self._outer.spellings()
        return f": it is the program's, and you are inside of {inside}; out leads back" if known else ""

    def name_at(self, value: Value, op: Op) -> str:
        """Return the name of an operand where an op takes it."""
        return value.label or super().name_at(value, op)


class InsideSession(InnerSession):
    """The user's place inside of one op.

    Attributes:
        opened: The op that was opened.
        results: What the textbook ops give, for each output of the op.
        stands: For each argument of the formula that the program calls otherwise, what the program calls it.
    """

    def __init__(
        self,
        outer: TapeSession,
        opened: Op,
        tape: Tape,
        names: ProgramNames,
        results: list[mx.array],
        stands: dict[str, str],
    ) -> None:
        super().__init__(outer, tape, names)
        self.opened = opened
        self.results = results
        self.stands = stands


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the op and its textbook form agree.

    Attributes:
        ops: How many textbook ops there are.
        largest: The largest absolute difference of an element.
        peak: The largest absolute value of the op's own result.
    """

    ops: int
    largest: float
    peak: float


def open_op(session: TapeSession, op: Op) -> InsideSession:
    """Take an op apart.

    Raises:
        UserError: If it is a textbook op already, or the table does not know it.
    """
    forward = op.of or op
    entry = entry_for(op)
    if op.operation.kind == "accumulate":
        raise UserError(f"{op.label} adds two gradients: there is nothing inside; explain {op.label} shows the numbers")
    if op.error is not None:
        raise UserError(f"{op.label} {op.name} raised {type(op.error).__name__}; why error tells more")
    if op in op.tape.notes.mapped:
        raise UserError(
            f"{op.label} lies in a vmap, and is done for each sample; primitives {op.label} shows what MLX does"
        )
    if entry is None or entry.forward is None:
        raise UserError(f"nnrepl's table has no formula for {forward.name}; primitives {op.label} shows what MLX does")
    if entry.kind == WHOLE:
        raise UserError(
            f"nnrepl has no textbook form of {forward.name}; explain {op.label} shows its numbers, and "
            f"primitives {op.label} what MLX does"
        )
    if entry.kind not in (COMPOSITE, PRODUCTS):
        raise UserError(f"{forward.name} is a textbook op already; explain {op.label} shows its numbers")
    names = InsideNames(session.names, op)
    tape = names.tape
    parameters = _parameters(op, entry)
    labels = _labels(entry, parameters)
    values = list(dict.fromkeys([*(upstream(op) if op.of is not None else ()), *forward.inputs]))
    with lent_recorder(tape, _FormulaStack) as recorder:
        given = {value: _enter(recorder, value, _label(value, labels)) for value in values}
        run = _backward(op, entry, given) if op.of is not None else _forward(op, entry, given)
        if op.of is None:
            recorder.open_pass(RUN_PASS, words.call(op))
        results = run()
        recorder.close_pass()
    if not tape.ops:
        raise UserError(f"{forward.name} is a textbook op already; explain {op.label} shows its numbers")
    rule = rule_of(op)
    for pass_ in tape.passes:
        pass_.title = words.call(forward)
        if rule is not None:
            tape.notes.labels.update(
                {leaf: _label(rule.inputs[slot], labels) for leaf, slot in zip(pass_.wrt, rule.wanted)}
            )
    stands = {own: _told(value) for own, value in parameters.items() if words.name(value) != own}
    return InsideSession(session, op, tape, names, results, stands)


def _parameters(op: Op, entry: Entry) -> dict[str, Value]:
    """Return the tensor that each argument of the formula is."""
    assert entry.forward is not None
    args, kwargs = arguments(op.of or op)
    bound = inspect.signature(entry.forward).bind(*args, **kwargs).arguments
    return {name: given for name, given in bound.items() if isinstance(given, Value)}


def _labels(entry: Entry, parameters: dict[str, Value]) -> dict[Value, str]:
    """Return what each is called inside: as the program calls it; as the formula does where it has no name, or one that
    the formula gives to something else."""
    assert entry.forward is not None
    taken, labels = {*inspect.unwrap(entry.forward).__code__.co_varnames}, dict[Value, str]()
    for own, value in parameters.items():
        called = words.name(value)
        is_free = not called.startswith("#") and (called == own or called not in taken)
        labels.setdefault(value.canonical, called if is_free else own)
        labels.setdefault(value, labels[value.canonical])
        taken.add(labels[value])
    return labels


def _label(value: Value, labels: dict[Value, str]) -> str:
    return labels.get(value) or labels.get(value.canonical) or words.name(value)


def _told(value: Value) -> str:
    """Say what a tensor is in the program: `scores`, `#27 (scores + mask)`."""
    called = words.name(value)
    return f"{called} ({words.call(value.op)})" if called.startswith("#") and value.op is not None else called


def agreement(inside: InsideSession) -> Agreement:
    """Compare the textbook ops' result with the op's own; evaluates both."""
    outer = inside.outer
    outer.evaluate(list(inside.opened.outputs))
    differences, peaks = [], []
    for value, again in zip(inside.opened.outputs, inside.results):
        kind = mx.complex64 if value.dtype == mx.complex64 else mx.float32
        own, found = value.array.astype(kind), again.astype(kind)
        same = (own == found) | (mx.isnan(own) & mx.isnan(found))
        differences.append(mx.max(mx.where(same, 0, mx.abs(own - found))) if value.size else mx.array(0.0))
        peaks.append(mx.max(mx.abs(own)) if value.size else mx.array(0.0))
    mx.eval(differences, peaks)
    numbers: list[Any] = [difference.item() for difference in differences]
    largest: list[Any] = [peak.item() for peak in peaks]
    return Agreement(len(inside.tape), max(map(float, numbers)), max(map(float, largest)))


Run = Callable[[], list[mx.array]]


def _forward(op: Op, entry: Entry, given: dict[Value, mx.array]) -> Run:
    def run() -> list[mx.array]:
        args, kwargs = filled(op, given.__getitem__)
        assert entry.forward is not None
        result = entry.forward(*args, **kwargs)
        return [result] if isinstance(result, mx.array) else list(result)

    return run


def _backward(op: Op, entry: Entry, given: dict[Value, mx.array]) -> Run:
    """Return the gradient of the formula, by the chain rule through its textbook ops."""
    forward, rule = op.of, rule_of(op)
    if forward is None or rule is None:
        raise UserError(f"{op.label} {op.name} cannot be taken apart")
    wanted = [rule.inputs[slot] for slot in rule.wanted]
    cotangents = [given[value] for value in upstream(op)[: len(rule.outputs)]]

    def run() -> list[mx.array]:
        def formula(*arrays: mx.array) -> list[mx.array]:
            now = dict(zip(wanted, arrays))
            args, kwargs = filled(forward, lambda value: now.get(value.canonical, given[value]))
            assert entry.forward is not None
            result = entry.forward(*args, **kwargs)
            results = [result] if isinstance(result, mx.array) else list(result)
            return [results[slot] for slot in rule.outputs]

        gradients: list[mx.array] = mx.vjp(formula, [given[_same(value, given)] for value in wanted], cotangents)[1]
        return gradients

    return run


def _same(value: Value, given: dict[Value, mx.array]) -> Value:
    """Return a value among those that were entered, which may stand there under an alias."""
    return value if value in given else next(other for other in given if other.canonical is value)


def _enter(recorder: Recorder, value: Value, label: str) -> mx.array:
    """Return a tensor of the outer tape as an input of the inner one."""
    array = _copy(value.array)
    recorder.leaf(array, "input", label)
    return array


class _FormulaStack(Stack):
    """A stack on which the formulas of the table are the program."""

    def _is_own(self, frame: FrameType) -> bool:
        name = frame.f_globals.get("__name__")
        return not (isinstance(name, str) and name.startswith("nnrepl.ops"))


@contextmanager
def lent_recorder(tape: Tape, stack: type[Stack]) -> Iterator[Recorder]:
    """Lend a recorder that writes on a tape of its own. Where a program is being recorded its recorder is lent: the
    wrappers around MLX belong to it.

    Args:
        stack: Which frames are the program's.
    """
    installed = current()
    if installed is None:
        recorder = Recorder(tape, strict=False)
        recorder.stack = stack(sys._getframe(), recorder.watch)
        recorder.start()
        with recording(recorder):
            yield recorder
        return
    kept = {name: getattr(installed, name) for name in _LENT}
    fresh = Recorder(tape, strict=False)
    for name in _LENT:
        setattr(installed, name, getattr(fresh, name))
    installed.stack = stack(sys._getframe(), installed.watch)
    installed.mode = RECORD
    installed.start()
    try:
        yield installed
    finally:
        for name, thing in kept.items():
            setattr(installed, name, thing)


_LENT = (
    "tape", "strict", "mode", "live", "guards", "stack", "pass_", "differentiating", "captured", "listener", "started",
    "intake", "sweeps", "overwritten", "stream", "watch",
)  # fmt: skip
