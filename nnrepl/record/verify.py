"""Verify: the receipt for a recorded pass.

Independent questions: does every op give the same bits again from its recorded inputs; do the ops inside of calls
that MLX ran by itself (a `vmap`, a nested `grad`) make what those returned; are the
gradients those of MLX's own transform; does MLX's own lazy graph contain anything that no op accounts for;
and did arrays enter from nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from nnrepl.record.account import account
from nnrepl.record.batches import all_same_bits, batches, same_bits
from nnrepl.record.custom import replay
from nnrepl.record.opaque import quietly, set_random_state
from nnrepl.record.strays import raw
from nnrepl.tape import GRADIENT_PASS, Face, Hole, Inside, Op, Pass, Tape, Value

_moveaxis, _expand_dims, _broadcast_to = map(raw, (mx.moveaxis, mx.expand_dims, mx.broadcast_to))


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """Two tensors that should be the same, and are not.

    Attributes:
        name: Whose they are.
        largest: The largest absolute difference (NaN where one of them is not a number).
    """

    name: str
    largest: float


@dataclass(frozen=True, slots=True)
class Receipt(Face):
    """What `verify` found.

    Attributes:
        ops: How many ops were computed again from their recorded inputs.
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
    """

    ops: int
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

    @property
    def complete(self) -> bool:
        """Whether nothing at all was found wrong."""
        return not (
            self.different
            or self.calls_different
            or self.gradients_different
            or self.gradient_error
            or self.unaccounted
            or self.holes
        )


def verify(tape: Tape, *parts: Pass) -> Receipt:
    """Check some passes. Evaluates them; functions that are opaque to the tape are called again, quietly."""
    every = [op for part in parts for op in part.ops if op.error is None]
    ops = [op for op in every if not op.inner]
    calls = [op for op in every if op in tape.notes.calls]
    wanted = 0
    grads_different: list[TensorDifference] = []
    errors: list[str] = []
    with quietly():
        evaluated = sum(all(value.evaluated for value in op.outputs) for op in ops)
        primitives, unaccounted = account(ops)
        different = tuple(_recompute(ops))
        inside = tuple(_compare(pair for op in calls for pair in _results(op, tape.notes.calls[op])))
        for part in parts:
            count, found, error = _compare_gradients(part)
            wanted += count
            grads_different.extend(found)
            errors.extend([error] if error else [])
    first, last = min(part.start for part in parts), max(part.end for part in parts)
    return Receipt(
        ops=len(ops),
        different=different,
        calls=len(calls),
        calls_different=inside,
        gradients=wanted,
        gradients_different=tuple(grads_different),
        gradient_error="; ".join(errors),
        primitives=primitives,
        unaccounted=unaccounted,
        already_evaluated=evaluated,
        holes=tuple(hole for hole in tape.holes if first <= hole.position <= last),
        unseen=sum(bool(len(part)) and part not in parts for part in tape.passes),
    )


# -- the same bits again -------------------------------------------------------------------------------------


def largest_difference(a: mx.array, b: mx.array) -> float:
    """Return the largest absolute difference of two arrays; NaN if their shapes differ."""
    if a.shape != b.shape:
        return float("nan")
    if not a.size:
        return 0.0
    largest: Any = mx.max(mx.abs(a.astype(mx.float32) - b.astype(mx.float32))).item()
    return float(largest)


def _compare(pairs: Iterable[tuple[Callable[[], str], mx.array, mx.array]]) -> Iterator[TensorDifference]:
    """Compare many pairs, in batches; their names are asked for where they differ."""
    for batch in batches(pairs, lambda pair: pair[1:]):
        verdicts = all_same_bits([(a, b) for _, a, b in batch])
        for (name, a, b), same in zip(batch, verdicts):
            if not same:
                yield TensorDifference(name(), largest_difference(a, b))


def _recompute(ops: list[Op]) -> Iterator[TensorDifference]:
    def pairs() -> Iterator[tuple[Callable[[], str], mx.array, mx.array]]:
        for op in ops:
            for value, again in zip(op.outputs, op.compute()):
                if value.held is not None:
                    yield lambda op=op: f"{op.label} {op.name}", value.held, again  # type: ignore[misc]

    return _compare(pairs())


def _results(call: Op, inside: Inside) -> Iterator[tuple[Callable[[], str], mx.array, mx.array]]:
    """Yield the results of a call that MLX ran by itself, each with what its ops make of what went in."""
    around = call.tape.notes.mapped.get(call, ())
    for value, slot in inside.results:
        found, made = call.outputs[slot].array, value.array
        levels = [(at, level, at) for at, level in enumerate(around)]
        if inside.size:
            levels.append((len(around), inside, len(around) + inside.out_axes.get(slot, 0)))
        for at, level, axis in levels:
            if value in level.axes:
                made = _moveaxis(made, at + level.axes[value], axis)
            else:  # it is the same for all samples
                made = _expand_dims(made, axis)
        name = f"{call.label} {call.name}, result {slot + 1}"
        yield lambda name=name: name, found, _broadcast_to(made, found.shape)  # type: ignore[misc]


# -- MLX's own gradients ---------------------------------------------------------------------------------------


def _compare_gradients(part: Pass) -> tuple[int, tuple[TensorDifference, ...], str]:
    if part.kind != GRADIENT_PASS or not part.roots or part.error is not None:
        return 0, (), ""
    wanted = [leaf for leaf in part.wrt if part.grads.get(leaf)]
    if not wanted:
        return 0, (), ""
    try:
        native = native_gradients(part, wanted)
    except ValueError as error:
        return len(wanted), (), str(error)
    pairs: list[tuple[Callable[[], str], mx.array, mx.array]] = [
        (lambda leaf=leaf: f"∂L/∂{leaf.name}", part.grads[leaf][-1].array, array)  # type: ignore[misc]
        for leaf, array in zip(wanted, native)
    ]
    return len(wanted), tuple(_compare(pairs)), ""


def native_gradients(part: Pass, wanted: list[Value]) -> list[mx.array]:
    """Return the gradients that MLX's own transform gives for the forward ops of a pass."""
    forward = part.tape.ops[part.start : part.backward]

    def run(*leaves: mx.array) -> list[mx.array]:
        now = dict(zip(wanted, leaves))
        replay(forward, now, _held)
        return [now.get(root, root.array) for root, _ in part.roots]

    state = mx.random.state[0]  # type: ignore[index]
    try:
        gradients: list[mx.array] = mx.vjp(
            run, [leaf.array for leaf in wanted], [seed.array for _, seed in part.roots]
        )[1]
    finally:
        if mx.random.state[0] is not state:  # type: ignore[index]
            set_random_state(state)
    return gradients


def _held(value: Value) -> mx.array:
    return value.array


__all__ = ["Receipt", "TensorDifference", "native_gradients", "same_bits", "verify"]
