"""Errors: what disagrees in a call that failed: the operands, how they came to be so, and what likely was meant."""

from __future__ import annotations

import math
import os
import traceback
from collections.abc import Iterator

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.answer import Cause, Evidence
from nnrepl.ops import Trait, has
from nnrepl.record.titles import message_of
from nnrepl.session.errors import UserError
from nnrepl.session.reading import Reading
from nnrepl.tape import Op, Pass, Value
from nnrepl.tape.claims import Claim, Possibility, first_advised, perhaps, say, stated


def why_error(session: Reading) -> Cause:
    """Explain the op that raised: the last one on the tape.

    Raises:
        UserError: If nothing failed.
    """
    errors = session.tape.notes.errors
    last = session.tape.passes[-1].error if session.tape.passes else None
    if not errors or (last is not None and last not in errors.values()):
        return _of_the_program(session)
    op = list(errors)[-1]
    answer = Cause(stated(_raised(op)), op)
    root = op.of or op
    operands = list(dict.fromkeys(value for value in root.inputs))
    answer.evidence = [
        Evidence(value.name, f"{tuple(value.shape)} {words.operand(value.dtype)}, {history(value)}")
        for value in operands
    ]
    found = first_advised(_disagreement(root, operands))
    if found is not None:
        answer.reasons, answer.advice = [found[0]], found[1]
    return answer


def _raised(op: Op) -> Claim[str]:
    """Claim what an op raised."""
    root, error = op.of or op, op.error
    did = f"the VJP of {words.call(root)}" if op.of is not None else words.call(op)
    return Claim("why: raised", lambda: error is not None, lambda: (
        f"{op.label}, {did} ({words.place(op.source)}), raised {type(error).__name__}: {_first_line(error)}"
    ))  # fmt: skip


def _first_line(error: BaseException | None) -> str:
    return "".join(message_of(error).splitlines()[:1])[:200]


def _of_the_program(session: Reading) -> Cause:
    """Return what the program itself raised in a gradient call, where no op failed."""
    pass_ = next((pass_ for pass_ in reversed(session.tape.passes) if pass_.error is not None), None)
    if pass_ is None or pass_.error is None:
        raise UserError("no op on the tape has failed")
    return Cause(stated(_ended(pass_)), reasons=say(_between_ops(pass_)))


def _ended(pass_: Pass) -> Claim[str]:
    """Claim how a pass ended."""
    error = pass_.error
    lines = traceback.extract_tb(error.__traceback__) if error is not None else []
    where = f" ({os.path.basename(lines[-1].filename)}:{lines[-1].lineno})" if lines else ""
    return Claim("why: pass ended", lambda: error is not None, lambda: (
        f"{pass_.address} ended with {type(error).__name__}{where}: {_first_line(error)}"))  # fmt: skip


def _between_ops(pass_: Pass) -> Claim[str]:
    """Claim that no op raised what a pass ended with."""
    last = f"; the last op before it is {pass_.ops[-1].label} {pass_.ops[-1].name}" if len(pass_) else ""
    return Claim("why: between the ops", lambda: all(op.error is not pass_.error for op in pass_.ops), lambda: (
        f"No op raised it, but what ran between the ops{last}."))  # fmt: skip


def history(value: Value) -> str:
    """How a value came to its shape, through the ops that made or changed it: `x (3, 4) → reshape → (12,)`."""
    steps: list[str] = []
    at = value
    while at.op is not None and len(steps) < 4:
        op = at.op
        steps.append(f"{tuple(at.shape)} from {op.label} {words.call(op)}, {words.place(op.source)}")
        same = [taken for taken in op.inputs if taken.shape != at.shape]
        if not same or not has(op.name, Trait.ARRANGES, Trait.PICKS):
            break
        at = same[0]
    return "; ".join(steps) or words.origin(at)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What does not fit together, and what may be meant ("" where nothing can be said)."""

    text: str
    advice: str = ""


def _disagreement(op: Op, operands: list[Value]) -> Iterator[Claim[Disagreement]]:
    """Yield what may be wrong with the operands of an op."""
    pair = [arg for arg in op.args if isinstance(arg, Value)]
    if op.name == "matmul" and len(pair) == 2:
        yield from _matmul(*(reversed(pair) if op.operation.spelling.startswith("__r") else pair))
    elif op.name == "addmm" and len(pair) == 3:
        yield from _matmul(pair[1], pair[2])
    elif has(op.name, Trait.BROADCASTS) and len(pair) >= 2:
        yield from _broadcast(pair[-2], pair[-1])
    elif op.name == "stack":
        shapes = {tuple(one.shape) for one in operands}
        yield Claim("why: stacked shapes", lambda: len(shapes) > 1, lambda: Disagreement(
            f"What is stacked must have one shape: {_shapes(operands)}."))  # fmt: skip
    elif op.name == "concatenate":
        axis = op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else 0)
        yield Claim("why: joined shapes", lambda: _cannot_join(operands, axis), lambda: Disagreement(
            f"All but the axis along which they are joined ({axis}) must agree: {_shapes(operands)}."))  # fmt: skip
    elif op.name == "reshape" and operands:
        wanted = op.kwargs.get("shape", op.args[1] if len(op.args) > 1 else ())
        size = operands[0].size
        yield Claim("why: other size", lambda: _is_other_size(size, wanted), lambda: Disagreement(
            f"{operands[0].name} has {size} elements, and the new shape must have as many."))  # fmt: skip


def _shapes(operands: list[Value]) -> str:
    more = f" and {len(operands) - 4} more" if len(operands) > 4 else ""
    return ", ".join(str(tuple(value.shape)) for value in operands[:4]) + more


def _cannot_join(operands: list[Value], axis: object) -> bool:
    """Whether shapes differ in another axis than the one along which tensors are joined."""
    ranks = {len(value.shape) for value in operands}
    if len(ranks) > 1 or not isinstance(axis, int):
        return len(ranks) > 1
    (rank,) = ranks or {0}
    if not -rank <= axis < rank:
        return False
    return len({tuple(extent for at, extent in enumerate(value.shape) if at != axis % rank) for value in operands}) > 1


def _is_other_size(size: int, wanted: object) -> bool:
    """Whether a shape has not so many elements, whatever stands for -1."""
    extents = [one for one in (wanted if isinstance(wanted, (tuple, list)) else [wanted]) if isinstance(one, int)]
    known = math.prod(extent for extent in extents if extent != -1)
    return bool(size % known if known else size) if -1 in extents else known != size


def _matmul(a: Value, b: Value) -> Iterator[Claim[Disagreement]]:
    """Yield what may be wrong with the operands of a product."""
    left, right = tuple(a.shape), tuple(b.shape)
    yield Claim("why: no axes", lambda: not left or not right, lambda: Disagreement(
        "A number without axes cannot be multiplied as a matrix.", "Use * for it."))  # fmt: skip
    if not left or not right:
        return
    inner = right[-2] if len(right) > 1 else right[0]
    yield Claim("why: leading axes", lambda: left[-1] == inner and not _meet(left[:-2], right[:-2]), lambda: (
        Disagreement(f"The leading axes disagree: {left[:-2]} and {right[:-2]}.")))  # fmt: skip
    yield Claim("why: inner axes", lambda: left[-1] != inner, lambda: Disagreement(
        f"The last axis of {a.name} ({left[-1]}) must be as long as the "
        f"{'second to last ' if len(right) > 1 else ''}axis of {b.name} ({inner}): each row of the left meets a column "
        "of the right.", perhaps(*_meant(a, b, inner))))  # fmt: skip


def _meant(a: Value, b: Value, inner: int) -> Iterator[Claim[str]]:
    """Yield products of two tensors that would fit."""
    left, right = tuple(a.shape), tuple(b.shape)
    turned, own = _turned(right), _turned(left)
    yield Possibility("why: right transposed", lambda: _fits(left, turned), lambda: (
        f"A transpose is probably missing: {a.name} @ {_transposed(b)} is {left} @ {turned}."))  # fmt: skip
    yield Possibility("why: left transposed", lambda: _fits(own, right), lambda: (
        f"A transpose is probably missing: {_transposed(a)} @ {b.name} is {own} @ {right}."))  # fmt: skip
    yield Possibility("why: wrong order", lambda: _fits(right, left), lambda: (
        f"The operands may be in the wrong order: {b.name} @ {a.name} is {right} @ {left}."))  # fmt: skip
    size = math.prod(left[1:])
    yield Possibility("why: to be flattened", lambda: len(left) > 2 and size == inner, lambda: (
        f"{a.name} probably has to be flattened first: {a.name}.reshape({left[0]}, -1) is ({left[0]}, {size})."
    ))  # fmt: skip
    yield Claim("why: wrong size", lambda: left[-1] != inner, lambda: (
        f"One of them has the wrong size: {b.name} expects {inner} numbers in a row and gets {left[-1]}."))  # fmt: skip


def _meet(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Whether two shapes can be stretched to one."""
    return all(m == n or 1 in (m, n) for m, n in zip(reversed(left), reversed(right)))


def _turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape with its last two axes exchanged."""
    return (*shape[:-2], shape[-1], shape[-2]) if len(shape) > 1 else shape


def _transposed(value: Value) -> str:
    return f"{value.name}.T" if len(value.shape) == 2 else f"{value.name}.swapaxes(-1, -2)"


def _fits(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    """Whether two shapes can be multiplied as matrices."""
    if len(left) < 2 or len(right) < 2 or left[-1] != right[-2]:
        return False
    return _meet(left[:-2], right[:-2])


def _broadcast(a: Value, b: Value) -> Iterator[Claim[Disagreement]]:
    """Yield the first axis, from the right, in which two shapes cannot be stretched to one, and what may be meant."""
    left, right = tuple(a.shape), tuple(b.shape)
    pairs = enumerate(zip(reversed(left), reversed(right)), 1)
    back, m, n = next(((at, m, n) for at, (m, n) in pairs if m != n and 1 not in (m, n)), (0, 0, 0))
    yield Claim("why: axes disagree", lambda: back > 0 and not _meet(left, right), lambda: Disagreement(
        f"Counted from the right, axis {-back} is {m} in {a.name} and {n} in {b.name}; they must agree, or one be 1.",
        perhaps(*_stretched(a, b))))  # fmt: skip


def _stretched(a: Value, b: Value) -> Iterator[Claim[str]]:
    """Yield what two tensors would fit as."""
    left, right = tuple(a.shape), tuple(b.shape)
    yield Claim("why: a number for each row", lambda: len(left) == 2 and right == left[:1], lambda: (
        f"{b.name}[:, None] would give each row its own number: {left} and ({right[0]}, 1)."))  # fmt: skip
    yield Claim("why: a number for each row of the right", lambda: len(right) == 2 and left == right[:1], lambda: (
        f"{a.name}[:, None] would give each row its own number."))  # fmt: skip
    yield Possibility("why: transposed", lambda: left == right[::-1], lambda: (
        f"A transpose is probably missing: {a.name}.T is {right}."))  # fmt: skip
