"""Verify: the receipt for a recorded pass.

Independent questions: does every op give the same bits again from its recorded inputs; do the ops inside of calls
that MLX ran by itself (a `vmap`, a nested `grad`) make what those returned; are the
gradients those of MLX's own transform; does MLX's own lazy graph contain anything that no op accounts for;
and did arrays enter from nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import field
from functools import partial
from typing import Any, TypeAlias

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.record.account import Account, account
from nnrepl.record.batches import all_same_bits, batches, same_bits
from nnrepl.record.custom import replay
from nnrepl.record.quiet import quietly, set_random_state
from nnrepl.record.recipe import taking_later
from nnrepl.record.strays import raw
from nnrepl.record.vjp import taken_later
from nnrepl.tape import GRADIENT_PASS, Face, Hole, Inside, Op, Pass, Tape, Value
from nnrepl.tape.collector import paused

_moveaxis, _expand_dims, _broadcast_to = map(raw, (mx.moveaxis, mx.expand_dims, mx.broadcast_to))

_eval = mx.eval


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """Two tensors that should be the same, and are not.

    Attributes:
        name: Whose they are.
        largest: The largest absolute difference (NaN where one of them is not a number).
        unsteady: Whether MLX itself gives other bits from one time to the next: on a GPU some ops add with atomics, in
            whatever order they come.
    """

    name: str
    largest: float
    unsteady: bool = False


@dataclass(frozen=True, slots=True)
class Receipt(Face):
    """What `verify` found.

    Attributes:
        ops: How many ops were computed again from their recorded inputs, and their results compared.
        uncompared: How many have no result that could be compared: it was let go of, or they have none.
        different: Those that gave other bits.
        calls: Of how many calls that MLX ran by itself the results were compared with what happened inside.
        calls_different: The results with other bits.
        gradients: How many gradients were compared with MLX's own.
        gradients_different: Those with other bits.
        gradient_error: What MLX raised instead of giving gradients, "" if it did not.
        primitives: How many primitives of MLX's lazy graph were seen.
        unaccounted: Primitives, or dependencies, that no recorded op accounts for.
        already_evaluated: How many ops had been evaluated, so that their primitives are gone.
        holes: Arrays that entered from nowhere.
        unseen: How many passes of the tape were not looked at.
        unasked: The questions that were not asked, or not to their end, because the checks were stopped.
    """

    ops: int
    uncompared: int
    different: tuple[TensorDifference, ...]
    calls: int
    calls_different: tuple[TensorDifference, ...]
    gradients: int
    gradients_different: tuple[TensorDifference, ...]
    gradient_error: str
    primitives: int
    unaccounted: tuple[str, ...]
    already_evaluated: int
    holes: tuple[Hole, ...]
    unseen: int = 0
    unasked: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all was asked, and nothing at all was found wrong. What MLX itself does not repeat is not wrong."""
        differences = (*self.different, *self.calls_different, *self.gradients_different)
        return not (
            any(not one.unsteady for one in differences)
            or self.gradient_error
            or self.unaccounted
            or self.holes
            or self.unasked
        )


def verify(tape: Tape, *passes: Pass, progress: Callable[[float], None] | None = None) -> Receipt:
    """Check some passes. Evaluates them; functions that are opaque to the tape are called again, quietly.

    Args:
        progress: Is told the share of the ops that have been computed again. What it raises as KeyboardInterrupt, and
            Ctrl-C, ends the checks: the receipt holds what had been found by then, and names the rest (`unasked`).
    """
    every = [op for pass_ in passes for op in pass_.ops if op.error is None]
    ops = [op for op in every if not op.inner]
    calls = [op for op in every if op in tape.notes.calls]
    found = _Found()
    questions: tuple[tuple[str, Callable[[], None]], ...] = (
        ("the lazy graph", lambda: found.hold_against_graph(ops)),
        ("ops computed again", lambda: found.recompute(ops, progress)),
        ("calls that MLX ran by itself", lambda: found.compare_calls(calls)),
        ("gradients", lambda: found.compare_gradients(passes)),
    )
    unasked: list[str] = []
    try:
        with quietly(), paused():
            for number, (_, ask) in enumerate(questions):
                unasked = [name for name, _ in questions[number:]]
                ask()
        unasked = []
    except KeyboardInterrupt:
        pass
    first, last = min(pass_.start for pass_ in passes), max(pass_.end for pass_ in passes)
    return Receipt(
        ops=found.ops,
        uncompared=found.uncompared,
        different=tuple(found.different),
        calls=found.calls,
        calls_different=tuple(found.calls_different),
        gradients=found.gradients,
        gradients_different=tuple(found.gradients_different),
        gradient_error="; ".join(found.errors),
        primitives=found.account.primitives,
        unaccounted=found.account.unaccounted,
        already_evaluated=found.account.evaluated,
        holes=tuple(hole for hole in tape.holes if first <= hole.position <= last),
        unseen=sum(bool(len(pass_)) and pass_ not in passes for pass_ in tape.passes),
        unasked=tuple(unasked),
    )


@dataclass(slots=True)
class _Found:
    """What has been found so far; the fields are the receipt's."""

    ops: int = 0
    uncompared: int = 0
    different: list[TensorDifference] = field(default_factory=list)
    calls: int = 0
    calls_different: list[TensorDifference] = field(default_factory=list)
    gradients: int = 0
    gradients_different: list[TensorDifference] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    account: Account = field(default_factory=Account)

    def hold_against_graph(self, ops: list[Op]) -> None:
        self.account = account(ops)

    def recompute(self, ops: list[Op], progress: Callable[[float], None] | None) -> None:
        """Compute the ops again from their recorded inputs, so many at a time that it can be stopped."""
        compared = [op for op in ops if any(value.held is not None for value in op.outputs)]
        self.uncompared = len(ops) - len(compared)
        for start in range(0, len(compared), _SLICE):
            piece = compared[start : start + _SLICE]
            self.different.extend(_recompute(piece))
            self.ops += len(piece)
            if progress is not None and self.ops < len(compared):
                progress(self.ops / len(compared))

    def compare_calls(self, calls: list[Op]) -> None:
        for op in calls:
            self.calls_different.extend(_compare(_results(op, op.tape.notes.calls[op])))
            self.calls += 1

    def compare_gradients(self, passes: Iterable[Pass]) -> None:
        for pass_ in passes:
            count, found, error = _compare_gradients(pass_)
            self.gradients += count
            self.gradients_different.extend(found)
            self.errors.extend([error] if error else [])


_SLICE = 4096
"""Ops that are computed again in one go."""


# -- the same bits again -------------------------------------------------------------------------------------


def largest_difference(a: mx.array, b: mx.array) -> float:
    """Return the largest absolute difference of two arrays: infinite where one of them alone is NaN or infinite, NaN if
    their shapes differ."""
    if a.shape != b.shape:
        return float("nan")
    if not a.size:
        return 0.0
    if not mx.issubdtype(a.dtype, mx.complexfloating):
        a, b = a.astype(mx.float32), b.astype(mx.float32)
    apart = mx.where((a == b) | ((a != a) & (b != b)), 0.0, mx.abs(a - b))
    largest: Any = mx.max(mx.where(mx.isnan(apart), float("inf"), apart)).item()
    return float(largest)


_Pair: TypeAlias = tuple[Callable[[], str], mx.array, mx.array, Callable[[], mx.array] | None]
"""A name, two tensors, and what computes the second one once more; None where that is of ops compared elsewhere."""


def _compare(pairs: Iterable[_Pair]) -> Iterator[TensorDifference]:
    """Compare many pairs, in batches; their names are asked for where they differ."""
    for batch in batches(pairs, lambda pair: pair[1:3]):
        verdicts = all_same_bits([(a, b) for _, a, b, _ in batch])
        for (name, a, b, again), same in zip(batch, verdicts):
            if not same:
                apart = largest_difference(a, b)
                yield TensorDifference(name(), apart, again is not None and apart <= _ROOM * _unsteadiness(b, again))


def _unsteadiness(first: mx.array, again: Callable[[], mx.array]) -> float:
    """Return by how much MLX's own numbers are apart when it computes a tensor some times more; -1 where it gives the
    same each time: then nothing is allowed."""
    return max(largest_difference(first, again()) for _ in range(_ATTEMPTS)) or -1.0


_ATTEMPTS, _ROOM = 8, 4
"""So many attempts; what is recorded may be so many times as far off as they are from each other."""


def _recompute(ops: list[Op]) -> Iterator[TensorDifference]:
    def pairs() -> Iterator[_Pair]:
        for op in ops:
            for at, (value, made) in enumerate(zip(op.outputs, op.compute())):
                if value.held is not None:
                    again = partial(lambda op, at: op.compute()[at], op, at)
                    yield partial("{0.label} {0.name}".format, op), value.held, made, again

    return _compare(pairs())


def _results(call: Op, inside: Inside) -> Iterator[_Pair]:
    """Yield the results of a call that MLX ran by itself, each with what its ops make of what went in."""
    around = call.tape.notes.mapped.get(call, ())
    for value, slot in inside.results:
        found, made = call.outputs[slot].array, value.array
        levels = [(at, level, at) for at, level in enumerate(around)]
        if inside.size:
            levels.append((len(around), inside, len(around) + inside.out_axes.get(slot, 0)))
        for at, level, axis in levels:
            if value in level.axes:
                # The samples of the levels before lie in front by now: the axes of this one are counted behind them.
                made = _moveaxis(made, at + level.axes[value], axis)
            else:  # it is the same for all samples
                made = _expand_dims(made, axis)
        name = f"{call.label} {call.name}, result {slot + 1}"
        yield partial(str, name), found, _broadcast_to(made, found.shape), None


# -- MLX's own gradients ---------------------------------------------------------------------------------------


def _compare_gradients(pass_: Pass) -> tuple[int, tuple[TensorDifference, ...], str]:
    if pass_.kind != GRADIENT_PASS or not pass_.roots or pass_.error is not None:
        return 0, (), ""
    wanted = [leaf for leaf in pass_.wrt if pass_.grads.get(leaf)]
    if not wanted:
        return 0, (), ""
    try:
        native = native_gradients(pass_, wanted)
    except ValueError as error:
        return len(wanted), (), str(error)
    pairs: list[_Pair] = [
        (partial("∂L/∂{0.name}".format, leaf), pass_.grads[leaf][-1].array, array,
         partial(lambda at: native_gradients(pass_, wanted)[at], at))
        for at, (leaf, array) in enumerate(zip(wanted, native))
    ]  # fmt: skip
    return len(wanted), tuple(_compare(pairs)), ""


def native_gradients(pass_: Pass, wanted: list[Value]) -> list[mx.array]:
    """Return the gradients that MLX's own transform gives for the forward ops of a pass, evaluated where the program
    did so: MLX may end a gradient there (`nnrepl.record.cuts`)."""
    forward = pass_.tape.ops[pass_.start : pass_.backward]
    marks = [mark for mark in pass_.tape.marks if pass_.start <= mark.position <= pass_.start + len(forward)]

    def run(*leaves: mx.array) -> list[mx.array]:
        now = dict(zip(wanted, leaves))
        done = pass_.start
        for mark in marks:
            replay(pass_.tape.ops[done : mark.position], now, _held)
            done = mark.position
            _eval([now[value] for value in mark.values if value in now])
        replay(pass_.tape.ops[done : pass_.backward], now, _held)
        _eval([now[value] for value in now if value in pass_.tape.notes.looked])
        return [now.get(root, root.array) for root, _ in pass_.roots]

    taken = [pair for op in pass_.tape.ops[pass_.backward : pass_.end] for pair in zip(*taken_later(op))]
    state = mx.random.state[0]  # type: ignore[index]
    try:
        with taking_later([value for value, _ in taken], [now.array for _, now in taken]):
            gradients: list[mx.array] = mx.vjp(
                run, [leaf.array for leaf in wanted], [seed.array for _, seed in pass_.roots]
            )[1]
    finally:
        if mx.random.state[0] is not state:  # type: ignore[index]
            set_random_state(state)
    return gradients


def _held(value: Value) -> mx.array:
    return value.array


__all__ = ["Receipt", "TensorDifference", "native_gradients", "same_bits", "verify"]
