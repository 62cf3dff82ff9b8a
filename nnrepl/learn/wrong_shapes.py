"""Shapes: the wrong shapes that people give, made from the op that gives the right one."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Sequence

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.known import bind, entry_for
from nnrepl.learn.asking import evaluate
from nnrepl.learn.mistakes import Mistake
from nnrepl.ops.traits import Trait
from nnrepl.session.parsed import parse
from nnrepl.session.session import TapeSession
from nnrepl.tape import Op, Value

Shape = tuple[int, ...]

_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth")


def shape_mistakes(session: TapeSession, text: str, shape: Shape) -> list[Mistake]:
    """Return the wrong shapes for an expression such as `scores.shape`, the likelier first; none is the right one."""
    value = _value(session, text)
    kept: dict[Shape, Mistake] = {}
    for found in (*_of_value(value), *_of_shape(value, shape)):
        if found.value != shape and found.value not in kept:
            kept[found.value] = found
    return list(kept.values())


def reply_to_shape(given: Shape, shape: Shape) -> str:
    """Return what is wrong with any other shape: how many axes it has, how many numbers, or which axis is another."""
    if len(given) != len(shape):
        return f"It has {_count(len(shape), 'axis', 'axes')}, not {len(given)}."
    wrong = [at for at, (a, b) in enumerate(zip(given, shape)) if a != b]
    if len(wrong) == len(shape):
        return "None of its axes is so long." if len(shape) > 1 else "It is another length."
    places = " and ".join(_PLACES[at] if at < len(_PLACES) else f"{at + 1}th" for at in wrong)
    return f"Look at the {places} axis; the rest is right."


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _value(session: TapeSession, text: str) -> Value | None:
    """Return the tensor whose shape is asked for; None where it is none of the tape."""
    parsed = parse(text)
    node = parsed.expression
    if isinstance(node, ast.Call) and len(node.args) == 1:  # tuple(z.shape)
        node = node.args[0]
    if not isinstance(node, ast.Attribute) or node.attr != "shape":
        return None
    result = evaluate(session, parsed.cut(node.value))
    return session.expressions.value_of(result) if isinstance(result, mx.array) else None


# -- by the op that makes it -----------------------------------------------------------------------------------------


def _of_value(value: Value | None) -> Iterator[Mistake]:
    if value is None or value.op is None:
        return
    of, op = value.gradient_of, value.op
    if of is not None:
        yield from _of_gradient(op, of)
        return
    entry = entry_for(op)
    traits: frozenset[Trait] = frozenset() if entry is None else entry.traits
    if op.name in ("matmul", "addmm"):
        yield from _of_product(op)
    elif entry is not None and (Trait.REDUCES in traits or (entry.row is not None and entry.row.reduces)):
        yield from _of_reduction(op)
    elif len(op.inputs) > 1 and Trait.BROADCASTS in traits:
        yield from _of_broadcast(op, value)
    for taken in dict.fromkeys(op.inputs):
        does = "that changes" if math.prod(taken.shape) != value.size else "the axes are others"
        yield Mistake(tuple(taken.shape), f"That is the shape of {words.name(taken)}, which goes in; {does}.")


def _of_gradient(op: Op, of: Value) -> Iterator[Mistake]:
    said = f"A gradient has the shape of what it belongs to, {words.name(of)}"
    parts = [part.op for part in op.inputs] if op.operation.kind == "accumulate" else [op]
    for taken in (taken for part in parts if part is not None for taken in part.inputs):
        if taken.gradient_of is not None and taken.gradient_of is not of:
            yield Mistake(tuple(taken.shape), f"{said}; that is the shape of {words.name(taken)}, what comes in.")
    yield Mistake(tuple(of.shape[::-1]), f"{said}; that is its transpose.")
    yield Mistake((), f"{said}, one number for each of its own; the loss alone is a single number.")


def _of_product(op: Op) -> Iterator[Mistake]:
    a, b = op.inputs[-2:]
    if min(len(a.shape), len(b.shape)) < 2:
        return
    batch = tuple(mx.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    (n, k), (_, m) = a.shape[-2:], b.shape[-2:]
    left, right = words.name(a), words.name(b)
    gone = f"The axis of {k} that {left} and {right} share is added up, and is gone"
    yield Mistake((*batch, m, n), f"The rows come from {left}, there are {n}; the columns from {right}, {m}.")
    yield Mistake((*batch, n, k), f"{gone}; the columns come from {right}.")
    yield Mistake((*batch, k, m), f"{gone}; the rows come from {left}.")
    yield Mistake((*batch, n, k, m), f"{gone}.")
    if batch:
        yield Mistake((n, m), f"The {_axes(batch)} in front stays: there is a product for each.")
    elif n == 1:
        yield Mistake((m,), f"The axis of the batch stays, though it is only {n} long.")
    else:
        yield Mistake((m,), f"The axis of the batch stays: a row for each of the {n}.")


def _axes(batch: Shape) -> str:
    return f"axis of {batch[0]}" if len(batch) == 1 else f"axes {batch}"


def _of_reduction(op: Op) -> Iterator[Mistake]:
    taken = op.inputs[0]
    shape = tuple(taken.shape)
    entry = entry_for(op)
    assert entry is not None
    bound = bind(entry, op)
    if entry.row is None or not shape:
        return
    axes, keeps = entry.row.axes(bound, len(shape)), bool(bound.get("keepdims"))
    which = f"axis {axes[0]}" if len(axes) == 1 else "all axes" if len(axes) == len(shape) else f"axes {tuple(axes)}"
    became = f"{op.name} makes one number of {which}"
    yield Mistake(shape, f"That is the shape of {words.name(taken)}, before; {became}.")
    if keeps:
        yield Mistake(_reduced(shape, axes, False), f"{became}, and keepdims=True keeps it, 1 long.")
    else:
        yield Mistake(_reduced(shape, axes, True), f"{became}; it goes, it is not kept with 1.")
    for other in range(len(shape)):
        if [other] != axes:
            said = f"That is what is left when axis {other} goes; here {which} {'go' if len(axes) > 1 else 'goes'}."
            yield Mistake(_reduced(shape, [other], keeps), said)
    if len(axes) < len(shape):
        yield Mistake((), f"{became} only; a single number is left when no axis is named.")
    elif len(shape) > 1:
        yield Mistake((1,), "A single number has no axis: ().")


def _reduced(shape: Shape, axes: Sequence[int], keeps: bool) -> Shape:
    return tuple(1 if at in axes else extent for at, extent in enumerate(shape) if keeps or at not in axes)


def _of_broadcast(op: Op, value: Value) -> Iterator[Mistake]:
    shapes = [tuple(taken.shape) for taken in dict.fromkeys(op.inputs)]
    for taken in dict.fromkeys(op.inputs):
        if taken.size < value.size:
            said = f"That is the shape of {words.name(taken)}; it is stretched to that of the other"
            both = all(math.prod(shape) < value.size for shape in shapes)
            yield Mistake(tuple(taken.shape), f"{said}, and the other to its." if both else f"{said}.")
    if len(shapes) == 2 and len(shapes[0]) != len(shapes[1]):
        short, long = sorted(shapes, key=len)
        turned = _stretched((*short, *(1,) * (len(long) - len(short))), long)
        if turned is not None:
            yield Mistake(turned, "Shapes are laid together at their last axis, not at their first.")
        yield Mistake((*short, *long), "The axes are not put one after the other: shapes meet at their last axis.")


def _stretched(a: Shape, b: Shape) -> Shape | None:
    fits = all(x == y or 1 in (x, y) for x, y in zip(a, b))
    return tuple(max(x, y) for x, y in zip(a, b)) if fits else None


# -- by the shape alone ----------------------------------------------------------------------------------------------


def _of_shape(value: Value | None, shape: Shape) -> Iterator[Mistake]:
    yield Mistake(shape[::-1], "The axes are the wrong way round.")
    for at in range(len(shape) - 1):
        turned = (*shape[:at], shape[at + 1], shape[at], *shape[at + 2 :])
        yield Mistake(turned, f"Two axes are the wrong way round: those of {shape[at + 1]} and {shape[at]}.")
    for at, extent in enumerate(shape):
        which = ", that of the batch," if at == 0 and len(shape) > 1 and _is_batch(value, extent) else ""
        yield Mistake(shape[:at] + shape[at + 1 :], f"One axis is missing, that of {extent}." if not which else
                      f"The first axis{which} is missing: there are {extent} of them.")  # fmt: skip
    for at in range(len(shape) + 1):
        yield Mistake((*shape[:at], 1, *shape[at:]), "There is no such axis of 1 in it.")
    if len(shape) > 1:
        size = math.prod(shape)
        yield Mistake((size,), f"It has {size} numbers, and they stand along {len(shape)} axes.")


def _is_batch(value: Value | None, extent: int) -> bool:
    """Whether the first axis of a tensor is that of an input of the pass: the examples."""
    op = None if value is None else value.op
    return op is not None and any(tuple(taken.shape[:1]) == (extent,) for taken in op.inputs)
