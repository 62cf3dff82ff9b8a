"""Verify: the receipt for a recorded pass.

Four independent questions: does every op give the same bits again from its recorded inputs; are the
gradients those of MLX's own transform; does MLX's own lazy graph contain anything that no op accounts for;
and did arrays enter from nowhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from nnrepl.record.anatomy import Primitive, is_node, parse_dot
from nnrepl.record.custom import Composite
from nnrepl.record.opaque import quietly, set_random_state
from nnrepl.tape import GRADIENT_PASS, DrawnKey, Hole, Op, Pass, Tape, Value

_export_to_dot = mx.export_to_dot
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Difference:
    """Two tensors that should be the same, and are not.

    Attributes:
        name: Whose they are.
        largest: The largest absolute difference (NaN where one of them is not a number).
    """

    name: str
    largest: float


@dataclass(frozen=True, slots=True)
class Receipt:
    """What `verify` found.

    Attributes:
        ops: How many ops were computed again from their recorded inputs.
        different: Those that gave other bits.
        gradients: How many gradients were compared with MLX's own.
        gradients_different: Those with other bits.
        gradient_error: What MLX raised instead of giving gradients, "" if it did not.
        primitives: How many primitives of MLX's lazy graph were seen.
        unaccounted: Primitives, or dependencies, that no recorded op accounts for.
        already_evaluated: How many ops had been evaluated, so that their primitives are gone.
        holes: Arrays that entered from nowhere.
    """

    ops: int
    different: tuple[Difference, ...]
    gradients: int
    gradients_different: tuple[Difference, ...]
    gradient_error: str
    primitives: int
    unaccounted: tuple[str, ...]
    already_evaluated: int
    holes: tuple[Hole, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing at all was found wrong."""
        return not (self.different or self.gradients_different or self.gradient_error or self.unaccounted or self.holes)


def verify(tape: Tape, *parts: Pass) -> Receipt:
    """Check some passes. Evaluates them; functions that are opaque to the tape are called again, quietly."""
    ops = [op for part in parts for op in part.ops if op.error is None]
    wanted = 0
    grads_different: list[Difference] = []
    errors: list[str] = []
    with quietly():
        evaluated = sum(all(value.evaluated for value in op.outputs) for op in ops)
        primitives, unaccounted = account(ops)
        different = tuple(_recompute(ops))
        for part in parts:
            count, found, error = _compare_gradients(part)
            wanted += count
            grads_different.extend(found)
            errors.extend([error] if error else [])
    first, last = min(part.start for part in parts), max(part.end for part in parts)
    return Receipt(
        ops=len(ops),
        different=different,
        gradients=wanted,
        gradients_different=tuple(grads_different),
        gradient_error="; ".join(errors),
        primitives=primitives,
        unaccounted=unaccounted,
        already_evaluated=evaluated,
        holes=tuple(hole for hole in tape.holes if first <= hole.position <= last),
    )


# -- the same bits again -------------------------------------------------------------------------------------


def same_bits(a: mx.array, b: mx.array) -> mx.array:
    """Whether two arrays are identical, NaNs and the sign of zero included, as a lazy bool."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return mx.array(False)
    if a.dtype in _AS_BITS and a.ndim:
        a, b = mx.contiguous(a).view(_AS_BITS[a.dtype]), mx.contiguous(b).view(_AS_BITS[b.dtype])
    elif a.dtype in _AS_BITS:
        return same_bits(a.reshape(1), b.reshape(1))
    return mx.all(a == b)


_AS_BITS = {
    mx.float32: mx.uint32,
    mx.float16: mx.uint16,
    mx.bfloat16: mx.uint16,
    mx.float64: mx.uint64,
    mx.complex64: mx.uint64,
}


def largest_difference(a: mx.array, b: mx.array) -> float:
    """The largest absolute difference of two arrays; NaN if their shapes differ."""
    if a.shape != b.shape:
        return float("nan")
    if not a.size:
        return 0.0
    largest: Any = mx.max(mx.abs(a.astype(mx.float32) - b.astype(mx.float32))).item()
    return float(largest)


def _compare(pairs: Iterable[tuple[str, mx.array, mx.array]]) -> Iterator[Difference]:
    """Compare many pairs, in batches."""
    batch: list[tuple[str, mx.array, mx.array]] = []

    def settle() -> Iterator[Difference]:
        verdicts = [same_bits(a, b) for _, a, b in batch]
        mx.eval(verdicts)
        for (name, a, b), verdict in zip(batch, verdicts):
            if not verdict.item():
                yield Difference(name, largest_difference(a, b))
        batch.clear()

    for pair in pairs:
        batch.append(pair)
        if len(batch) >= _BATCH:
            yield from settle()
    yield from settle()


def _recompute(ops: list[Op]) -> Iterator[Difference]:
    def pairs() -> Iterator[tuple[str, mx.array, mx.array]]:
        for op in ops:
            for value, again in zip(op.outputs, op.compute()):
                if value.held is not None:
                    yield f"#{op.index} {op.name}", value.held, again

    return _compare(pairs())


# -- MLX's own gradients ---------------------------------------------------------------------------------------


def _compare_gradients(part: Pass) -> tuple[int, tuple[Difference, ...], str]:
    if part.kind != GRADIENT_PASS or not part.roots or part.error is not None:
        return 0, (), ""
    wanted = [leaf for leaf in part.wrt if part.grads.get(leaf)]
    if not wanted:
        return 0, (), ""
    try:
        native = native_gradients(part, wanted)
    except ValueError as error:
        return len(wanted), (), str(error)
    pairs = ((f"∂L/∂{leaf.name}", part.grads[leaf][-1].array, array) for leaf, array in zip(wanted, native))
    return len(wanted), tuple(_compare(pairs)), ""


def native_gradients(part: Pass, wanted: list[Value]) -> list[mx.array]:
    """The gradients that MLX's own transform gives for the forward ops of a pass."""
    forward = part.tape.ops[part.start : part.backward]
    backward = part.tape.ops[part.backward : part.end]
    drawn = next((key for op in backward for key in _drawn_keys(op)), None)

    def replay(*leaves: mx.array) -> list[mx.array]:
        now = dict(zip(wanted, leaves))

        def lookup(value: Value) -> mx.array:
            array = now.get(value)
            return value.array if array is None else array

        for op in forward:
            if op.error is None:
                composite = op.args[0] if op.args else None
                if isinstance(composite, Composite):
                    arrays = composite.native([lookup(value) for value in composite.inputs])
                else:
                    arrays = op.compute(lookup)
                now.update(zip(op.outputs, arrays))
        if drawn is not None:
            set_random_state(drawn.state)  # what runs again in the backward pass drew from here
        return [lookup(root) for root, _ in part.roots]

    state = mx.random.state[0]  # type: ignore[index]
    try:
        gradients: list[mx.array] = mx.vjp(
            replay, [leaf.array for leaf in wanted], [seed.array for _, seed in part.roots]
        )[1]
    finally:
        if mx.random.state[0] is not state:  # type: ignore[index]
            set_random_state(state)
    return gradients


def _drawn_keys(op: Op) -> Iterator[DrawnKey]:
    for arg in (*op.args, *op.kwargs.values()):
        if isinstance(arg, DrawnKey):
            yield arg


# -- MLX's own graph -------------------------------------------------------------------------------------------


def account(ops: list[Op]) -> tuple[int, tuple[str, ...]]:
    """Hold recorded ops against MLX's own lazy graph.

    Every primitive that leads to a result must lie between the outputs and the recorded inputs of one op.
    Returns how many were seen, and what was not accounted for.
    """
    names: dict[str, Value] = {}
    for op in ops:
        for value in (*op.inputs, *op.outputs):
            if value.held is not None and not value.evaluated:
                names.setdefault(f"v{id(value)}", value)
    if not names:
        return 0, ()
    dot = io.StringIO()
    _export_to_dot(dot, **{name: value.array for name, value in names.items()})
    primitives = parse_dot(dot.getvalue())
    made_by = {name: made for made in primitives for name in made.outputs}
    owned: set[Primitive] = set()
    wrong: list[str] = []
    for op in ops:
        outputs = [f"v{id(value)}" for value in op.outputs if f"v{id(value)}" in made_by]
        wrong.extend(_claim(op, outputs, made_by, names, owned))
    reachable = _reachable([f"v{id(value)}" for op in ops for value in op.outputs], made_by, names, ops)
    wrong.extend(f"a {made.label} that no recorded op accounts for" for made in reachable - owned)
    return len(owned), tuple(dict.fromkeys(wrong))


def _claim(
    op: Op, outputs: list[str], made_by: dict[str, Primitive], names: dict[str, Value], owned: set[Primitive]
) -> Iterator[str]:
    """Take the primitives between an op's outputs and its inputs; anything else it reaches is undeclared."""
    own = {f"v{id(value)}" for value in op.inputs}
    pending = list(outputs)
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or name in own:
            continue
        seen.add(name)
        if name in names and name not in outputs and not _is_one_of(names[name], op):
            yield f"#{op.index} {op.name} also depends on {names[name].name}, which is not among its inputs"
            continue
        made = made_by.get(name)
        if made is not None and (name not in names or name in outputs):
            owned.add(made)
            pending.extend(made.inputs)


def _is_one_of(value: Value, op: Op) -> bool:
    """Whether a value is, in MLX's graph, one of an op's inputs or outputs under another name."""
    return any(
        other.held is not None and value.held is not None and is_node(value.held, other.held)
        for other in (*op.inputs, *op.outputs)
    )


def _reachable(
    outputs: list[str], made_by: dict[str, Primitive], names: dict[str, Value], ops: list[Op]
) -> set[Primitive]:
    """The primitives from which the ops' results come, as far as this pass goes."""
    first = {f"v{id(value)}" for value in names.values()} - set(outputs)
    found: set[Primitive] = set()
    pending = [name for name in outputs if name in made_by]
    while pending:
        made = made_by.get(pending.pop())
        if made is None or made in found:
            continue
        found.add(made)
        pending.extend(name for name in made.inputs if name not in first)
    return found


__all__ = ["Difference", "Receipt", "account", "native_gradients", "same_bits", "verify"]
