"""Remarks: what else is to be known of an op that is explained: which element was taken, what is stretched, reduced or
moved, where a gradient goes. Each is held against the numbers, or the shapes, of which it speaks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.elements import Index, ravel, telling
from nnrepl.explain.in_numbers import result_at
from nnrepl.explain.known import COMPOSITE, ELEMENTWISE, MOVE, Entry, bind, entry_for
from nnrepl.explain.local import symbol_of
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.ops import Trait, has
from nnrepl.record.gradient_names import start_of
from nnrepl.tape import Op, Tape, Value, samples_of
from nnrepl.tape.claims import Claim, Said, say_first


def which(look: Look, value: Value, place: Index, asked: str) -> list[Said]:
    """Return which element was chosen, and how another is asked for."""
    return say_first(_chosen(look, value, place, f"; explain {asked} at [...] takes another."))


def is_attention(value: Value) -> bool:
    """Whether attention made it: its last position is the one that may look at all others. Inside of a `vmap` it has
    an axis more."""
    return value.op is not None and has(value.op.name, Trait.ATTENDS) and len(value.shape) == 4


def _chosen(look: Look, value: Value, place: Index, more: str) -> Iterator[Claim[str]]:
    stat, number = look.stat(value), result_at(look, value, place)
    size, at = abs(number), ravel(place, value.shape)
    is_bool = value.dtype == mx.bool_

    def first_nan() -> bool:
        nan = mx.isnan(look.array(value).flatten())
        return stat.nans > 0 and look.numbers([mx.argmax(nan), mx.any(nan)]) == [at, True]

    def largest(array: mx.array) -> int:
        """Among how many it is the largest in size: 0 where another is larger."""
        kept = array if mx.issubdtype(array.dtype, mx.inexact) else array.astype(mx.float32)  # abs of int8's −128
        sizes = mx.abs(kept).astype(mx.float32)
        most = mx.max(sizes) * (1 - 1e-6)
        least, many = look.numbers([most, mx.sum(sizes >= most)])
        return int(many) if size >= least else 0

    yield Claim("explain: all 0", lambda: stat.is_zero, lambda: f"All {value.size} elements are 0{more}")
    yield Claim("explain: yes or no", lambda: is_bool, lambda: f"This is one of {value.size} elements{more}")
    yield Claim("explain: first NaN", lambda: number != number and first_nan(), lambda: (
        f"{stat.nans} of {value.size} elements {'is' if stat.nans == 1 else 'are'} NaN, this one is the first{more}"
    ))  # fmt: skip
    yield Claim("explain: infinite", lambda: size == math.inf, lambda: (
        f"{stat.infs} of {value.size} elements {'is' if stat.infs == 1 else 'are'} infinite, this is one{more}"
    ))  # fmt: skip

    def last() -> int:
        return largest(look.array(value)[:, :, -1:]) if is_attention(value) else 0

    yield Claim("explain: largest of the last", lambda: last() == 1, lambda: (
        f"This is in size the largest of the last position{more}"))  # fmt: skip
    yield Claim("explain: one of the last", lambda: last() > 1, lambda: (
        f"This is in size one of the largest of the last position{more}"))  # fmt: skip
    yield Claim("explain: largest", lambda: stat.is_finite and largest(look.array(value)) == 1, lambda: (
        f"The largest in size of the {value.size} elements is shown{more}"))  # fmt: skip
    yield Claim("explain: one of the largest", lambda: stat.is_finite and largest(look.array(value)) > 1, lambda: (
        f"One of the largest in size of the {value.size} elements is shown{more}"))  # fmt: skip
    chosen = value.size and telling(look, value) == place
    yield Claim("explain: but for a mask", lambda: bool(chosen) and math.isfinite(size), lambda: (
        f"The largest in size of {value.size} elements, those apart that stand for nothing (a mask){more}"
    ))  # fmt: skip


def used_by(tape: Tape, value: Value) -> Claim[str]:
    """Claim which forward ops take a value."""
    users = [op for op in tape.consumers(value) if op.of is None]
    return Claim("explain: used by", lambda: bool(users) and all(value in op.inputs for op in users), lambda: (
        f"It is used by {', '.join(f'{op.label} {op.name}' for op in users[:4])}."))  # fmt: skip


def is_empty(value: Value) -> Claim[str]:
    """Claim that a result has no elements."""
    return Claim("explain: empty", lambda: 0 in value.shape, lambda: (
        f"It is empty: of shape {tuple(value.shape)} there is no element."))  # fmt: skip


def can_open(op: Op, entry: Entry, is_worked: bool) -> Claim[str]:
    """Claim that `into` shows what could not be worked out here."""
    opens = entry.kind == COMPOSITE and entry.forward is not None and op not in op.tape.notes.mapped
    return Claim("explain: opens", lambda: opens and not is_worked, lambda: (
        f"into {op.label} takes it apart into textbook ops, with their numbers."))  # fmt: skip


def several_ways(op: Op, value: Value) -> Claim[str]:
    """Claim that a gradient is a sum because its tensor was used more than once."""
    of = value.gradient_of
    it = words.name(of, op) if of is not None else "It"
    return Claim("explain: several ways", lambda: len(op.inputs) > 1 and op.operation.kind == "accumulate", lambda: (
        f"{it} was used more than once, so {start_of(value)} depends on it on several ways; the gradients of all "
        "ways are added up."))  # fmt: skip


def not_listed(forward: Op) -> Claim[str]:
    """Claim that the table does not know an op."""
    return Claim("explain: no rule", lambda: entry_for(forward) is None, lambda: (
        f"nnrepl's table has no entry for {forward.name}; shown is the chain rule with its numerical Jacobian."
    ))  # fmt: skip


def of_shapes(look: Look, op: Op, entry: Entry, value: Value) -> Iterator[Claim[str]]:
    """Yield broadcasting, reductions and shares in words."""
    bound = {symbol: given for symbol, given in bind(entry, op).items() if isinstance(given, Value)}
    if entry.kind == ELEMENTWISE:
        for given in dict.fromkeys(bound.values()):
            yield from _stretched(given, value)
    elif has(entry.name, Trait.REDUCES) and op.inputs:
        yield _reduced(op.inputs[0], value, bind(entry, op).get("axis"))
    elif has(entry.name, Trait.DISTRIBUTES):
        yield _shares(look, value, bind(entry, op).get("axis"))
    for size, lie in samples_of(value):
        yield Claim("explain: samples", partial(_has_extent, value, lie, size), partial(str, (
            f"That is done for each of {size} samples, which lie along axis {lie} here; the op's own axes count "
            "within one.")))  # fmt: skip


def _has_extent(value: Value, axis: int, size: int) -> bool:
    return value.shape[axis] == size


def _stretched(given: Value, value: Value) -> Iterator[Claim[str]]:
    """Yield that an operand is broadcast, along which axes."""
    own, whole = given.shape, value.shape
    extra = len(whole) - len(own)
    axes = [axis for axis in range(len(whole)) if axis < extra or (own[axis - extra] == 1 and whole[axis] != 1)]
    times = math.prod(whole[axis] for axis in axes)
    yield Claim("explain: broadcast", lambda: bool(own) and times > 1 and given.size * times == value.size, lambda: (
        f"{words.name(given)} {tuple(own)} is broadcast: the same numbers are used {times} times, along axis "
        f"{', '.join(map(str, axes))} of {tuple(whole)}."))  # fmt: skip


def _reduced(taken: Value, value: Value, axis: object) -> Claim[str]:
    """Claim how many numbers become one."""
    along = "all elements" if axis is None else f"the elements along axis {axis}"
    many = taken.size // max(value.size, 1)
    times = f", {value.size} times" if value.size != 1 else ""
    return Claim("explain: reduces", lambda: many > 1 and many * value.size == taken.size,
                 lambda: f"Reduces {along}: {many} numbers become one{times}.")  # fmt: skip


def _shares(look: Look, value: Value, axis: int | None) -> Claim[str]:
    """Claim that shares add up to 1, which those of a row that is masked as a whole do not."""

    def holds() -> bool:
        sums = mx.sum(look.array(value).astype(mx.float32), axis=axis)
        return bool(look.numbers([mx.all(mx.abs(sums - 1) < 0.02)])[0])

    of = "" if samples_of(value) else f" of {tuple(value.shape)}"
    return Claim("explain: shares", holds, lambda: (
        f"The shares add up to 1 along {'all axes' if axis is None else f'axis {axis}'}{of}."))  # fmt: skip


# -- gradients -----------------------------------------------------------------------------------------------------


def of_gradient(op: Op, entry: Entry | None, value: Value, lines: Sequence[str]) -> Iterator[Claim[str]]:
    """Yield what is to be known of a gradient: of what it is a part, over what its sum runs, what comes with it."""
    forward, of = op.of, value.gradient_of
    if forward is None or of is None:
        return
    called, given = words.name(of, op), upstream(op)
    whole = op.pass_.adds_to(value)
    yield Claim("explain: part", lambda: whole is not None and whole.op is not None and whole is not value, lambda: (
        "" if whole is None or whole.op is None else
        f"It is a part of {op.called(whole)}: {called} is used more than once, and {whole.op.label} adds the parts up."
    ))  # fmt: skip
    if op.operation.kind == "accumulate":
        return
    # What is computed in several steps has its own sentence about gradients.
    in_one = entry is None or entry.kind != COMPOSITE
    yield Claim("explain: chain rule", lambda: len(given) == 1 and of is not forward.outputs[0] and in_one, lambda: (
        f"The chain rule: what arrives, {op.called(given[0])}, times what {forward.name} does."))  # fmt: skip
    signs = (" > ", " ≤ ", " < ", " ≥ ")
    yield Claim("explain: brackets", lambda: any("[" in line and any(sign in line for sign in signs)
                for line in lines), lambda: "[…] is 1 where it holds, and 0 where it does not.")  # fmt: skip
    if len(forward.outputs) == 1 and entry is not None:
        yield from _summed(op, forward, entry, of, called)
    yield _comes_with(op, of)


def _summed(op: Op, forward: Op, entry: Entry, of: Value, called: str) -> Iterator[Claim[str]]:
    """Yield over what the sum of a gradient runs; that it only moves."""
    result = forward.outputs[0]
    mapped = op in op.tape.notes.mapped  # then the sums run within each sample
    times = result.size // max(of.size, 1)
    yield Claim("explain: summed", lambda: not mapped and entry.kind == ELEMENTWISE and times > 1, lambda: (
        f"{called} {tuple(of.shape)} was broadcast to {tuple(result.shape)}: its gradient is the sum over the {times} "
        "places where each number was used."))  # fmt: skip
    product = has(entry.name, Trait.ROWS_BY_COLUMNS) and len(result.shape) >= 2 and symbol_of(entry, forward, of) == "b"
    rows = upstream(op)[0].shape[-2] if product and upstream(op) else 0
    met = "the rows of the batch: every row that went through" if len(of.shape) == 2 else (
        f"the {rows} rows that meet each column of")  # fmt: skip
    yield Claim("explain: rows", lambda: not mapped and product and rows > 0, lambda: (
        f"The sum runs over {met} {called}{' has its say' if len(of.shape) == 2 else ''}."))  # fmt: skip
    yield Claim("explain: moved", lambda: not mapped and entry.kind == MOVE, lambda: (
        "Numbers that were only moved get their gradients back where they came from."))  # fmt: skip


def _comes_with(op: Op, of: Value) -> Claim[str]:
    """Claim of what else an op gives a gradient."""
    rule = rule_of(op)
    wanted = [] if rule is None else [rule.inputs[slot] for slot in rule.wanted]
    others = [one for one in wanted if one.canonical is not of.canonical]
    names = " and ".join(f"{_partly(op, other)}grad({words.name(other, op)})" for other in others[:3])
    made = {value.gradient_of for value in op.outputs}
    return Claim("explain: comes with", lambda: bool(others) and all(one.canonical in made for one in others), lambda: (
        f"The same op also gives {names}."))  # fmt: skip


def _partly(op: Op, of: Value) -> str:
    """Say that an op gives only a part of the gradient of a value, "" where it gives all of it."""
    given = [value for value in op.outputs if value.gradient_of is of.canonical]
    return "a part of " if any(op.pass_.adds_to(value) is not None for value in given) else ""
