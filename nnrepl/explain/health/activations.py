"""Activations: dead and saturated units, numbers cut to whole ones."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.report import NOTE, WARNING, Check, Checkup, Finding, findings
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim


def dead(case: Checkup) -> Iterator[Finding]:
    """ReLU units that are 0 for every row of the batch."""
    found = [
        (op, op.outputs[0])
        for op in case.forward
        if op.name == "maximum" and _is_relu(op) and op.outputs[0].size and _learns(case, op)
    ]
    if case.broken or not found:
        return
    found = [(op, value) for op, value in found if not is_term(case, op)]
    case.look.stats(value for _, value in found)
    alive = [mx.sum(mx.any(_by_row(value.array) != 0, axis=0)) for _, value in found]
    always = [mx.sum(mx.all(_by_row(value.array) != 0, axis=0)) for _, value in found]
    lived = case.look.numbers([*alive, *always])
    for (op, value), living, on in zip(found, lived, lived[len(found) :]):
        units = value.shape[-1] if value.shape else 1
        rows = value.size // units
        gone = units - living
        whole = gone == units and (units > 1 or rows > 1)
        # Of rows that are alike, a unit sees one side only: as many as are always on are always off by chance.
        many = rows >= case.limits["dead-rows"] and gone - on > case.limits["dead"] * units
        if whole or many:
            command = f"why {words.reference(value)} == 0" if whole else f"explain {op.label}"
            level = NOTE if whole and was_alive(case, op) else WARNING
            yield from findings(_never_alive(case, op, gone, units, rows), "dead units", command, op, level)


def _never_alive(case: Checkup, op: Op, gone: int, units: int, rows: int) -> Claim[str]:
    """Claim that so many units are 0: counted by the largest number of each, and not by what is 0."""
    value = op.outputs[0]

    def holds() -> bool:
        flat = mx.abs(case.look.array(value)).reshape(rows, units)
        return bool(case.look.numbers([mx.sum(mx.max(flat, axis=0) == 0)])[0] == gone)

    return Claim("finding: dead units", holds, lambda: (
        f"{gone} of {units} units of {words.name(value)} = {words.call(op)} ({words.spot(op)}) are 0 for every row "
        f"({rows})"))  # fmt: skip


def is_term(case: Checkup, op: Op) -> bool:
    """Whether a ReLU stands in the loss itself, after all weights, and what it takes learns in other ways: a hinge
    that is satisfied passes nothing on, as it should."""
    return _is_behind_all(case, op) and _learns_anyway(case, op.inputs[0])


def _is_behind_all(case: Checkup, op: Op) -> bool:
    """Whether no weight has to do with what is made of the result of an op."""
    behind = {value.canonical for value in op.outputs}
    weights = {leaf.canonical for leaf in case.pass_.wrt}
    for later in case.forward:
        if later.position > op.position and any(taken.canonical in behind for taken in later.inputs):
            if any(taken.canonical in weights for taken in later.inputs):
                return False
            behind.update(value.canonical for value in later.outputs)
    return True


def was_alive(case: Checkup, op: Op) -> bool:
    """Whether a hinge in the loss itself was not satisfied in an earlier step, and is now: it has been learned."""
    if not _is_behind_all(case, op) or not _is_done(case):
        return False
    earlier = case.series[: case.series.index(case.pass_)]
    same = [
        old
        for pass_ in earlier
        for old in pass_.forward
        if old.name == op.name and old.source == op.source and old.error is None and not old.outputs[0].refusal
    ]
    case.look.see([old.outputs[0] for old in same])
    return any(case.look.numbers([mx.any(old.outputs[0].array != 0) for old in same]))


def _is_done(case: Checkup) -> bool:
    """Whether the loss is 0, or something still learns: a loss that is left, and no gradient, has not been learned."""
    pass_ = case.pass_
    if pass_.loss is None or pass_.loss.refusal:
        return True
    grads = [pass_.grads[leaf][-1] for leaf in pass_.wrt if pass_.grads.get(leaf)]
    return case.look.stat(pass_.loss).is_zero or not all(stat.is_zero for stat in case.look.stats(grads).values())


def _learns_anyway(case: Checkup, value: Value) -> bool:
    """Whether all from which a tensor was made gets a gradient that is not 0 before one comes to the weights."""
    weights = {leaf.canonical for leaf in case.pass_.wrt}
    stack, seen = [value], {value}
    while stack:
        one = stack.pop()
        grads = case.pass_.grads.get(one.canonical)
        if not grads or one.canonical in weights or one.op is None:
            return False
        if case.look.stat(grads[-1]).is_zero:
            taken = [given for given in one.op.inputs if case.pass_.grads.get(given.canonical)]
            if not taken:
                return False
            stack.extend(given for given in taken if given not in seen)
            seen.update(taken)
    return True


def _is_relu(op: Op) -> bool:
    return any(isinstance(arg, (int, float)) and arg == 0 for arg in op.args)


def _by_row(array: mx.array) -> mx.array:
    """Return an activation as rows of units (the last axis)."""
    return array.reshape(-1, array.shape[-1] if array.ndim > 1 else max(array.size, 1))


def saturated(case: Checkup) -> Iterator[Finding]:
    """tanh and sigmoid at their flat ends."""
    found = [(op, op.outputs[0]) for op in case.forward if op.name in ("tanh", "sigmoid") and op.outputs[0].size > 1]
    if case.broken or not found:
        return
    case.look.stats(value for _, value in found)
    shares = [mx.mean(_flat(op.name, value.array).astype(mx.float32)) for op, value in found]
    lines: dict[str, tuple[float, Op, int]] = {}
    for (op, _), share in zip(found, case.look.numbers(shares)):
        if share > case.limits["saturated"] and _learns(case, op):
            key = f"{words.spot(op)} {op.module}"
            worst, first, count = lines.get(key, (share, op, 0))
            lines[key] = (max(worst, share), first, count + 1)
    for share, op, count in lines.values():
        yield from findings(_at_the_ends(case, op, share, count), "saturated units",
                            f"explain grad({words.reference(op.inputs[0])})", op)  # fmt: skip


def _at_the_ends(case: Checkup, op: Op, share: float, count: int) -> Claim[str]:
    """Claim that most of a tanh or sigmoid has next to no slope: by the slope itself, 1 − y² or y·(1 − y)."""
    y = op.outputs[0]

    def holds() -> bool:
        array = case.look.array(y).astype(mx.float32)
        slope, most = (1 - array * array, 1.0) if op.name == "tanh" else (array * (1 - array), 0.25)
        return bool(
            case.look.numbers([mx.mean((slope < 0.06 * most).astype(mx.float32))])[0] > case.limits["saturated"]
        )

    more = f" (at {count} places of the tape; most at one of them)" if count > 1 else ""
    return Claim("finding: saturated units", holds, lambda: (
        f"{100 * share:.0f} % of {words.call(op)} ({words.spot(op)}) lie at the flat ends of {op.name}, where almost "
        f"no gradient passes{more}"))  # fmt: skip


def _flat(name: str, array: mx.array) -> mx.array:
    if name == "tanh":
        return mx.abs(array) > 0.97
    return (array < 0.01) | (array > 0.99)


def _learns(case: Checkup, op: Op) -> bool:
    """Whether a gradient is meant to pass: one was taken through the op."""
    return bool(case.pass_.grads.get(op.inputs[0].canonical))


def rounded(case: Checkup) -> Iterator[Finding]:
    """Find a gradient that is cut to whole numbers because its tensor was."""
    for op in case.forward:
        if op.name != "astype" or not op.outputs or mx.issubdtype(op.outputs[0].dtype, mx.inexact):
            continue
        if mx.issubdtype(op.inputs[0].dtype, mx.inexact) and _learns(case, op):
            yield from findings(_cut(case, op), "whole numbers", f"explain grad({words.reference(op.inputs[0])})", op)


def _cut(case: Checkup, op: Op) -> Claim[str]:
    """Claim that the gradient behind a conversion holds whole numbers and nothing else."""
    of = op.inputs[0]

    def holds() -> bool:
        backward = [user.outputs for user in case.pass_.ops if user.of is op]
        grads = [one for made in backward for one in made if one.gradient_of is of.canonical]
        case.look.see(grads)
        whole = [mx.all(one.array == mx.round(one.array)) for one in grads]
        return bool(grads) and all(case.look.numbers(whole))

    return Claim("finding: whole numbers", holds, lambda: (
        f"{op.label} {words.call(op)} ({words.spot(op)}) makes {words.dtype(op.outputs[0].dtype)} out of a tensor that "
        "is learned: the gradient that comes back through it is cut to whole numbers as well"))  # fmt: skip


CHECKS: list[Check] = [dead, saturated, rounded]
