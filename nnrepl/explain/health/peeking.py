"""Peeking: a model of sequences whose answer for a place depends on the token that comes after it, and that it is asked
for; or that is asked for the very token that it is shown there."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.health.picks import Pick, picked
from nnrepl.explain.health.report import Check, Checkup, Finding, findings
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside
from nnrepl.tape import Leaf, Op, Value
from nnrepl.tape.claims import Claim, Possibility

_NOTABLE = 1e-5
"""What a change of the next token moves the logits by, of the largest, to count: no rounding is so large."""


def peeks(case: Checkup) -> Iterator[Finding]:
    """Find logits that change with the token after theirs, where the targets are the tokens moved by one."""
    if case.broken:
        return
    for pick, table in _tables(case):
        if _compared(case, pick, table) == [True, False]:
            at = _asked(case, pick, table)
            if at is not None:
                yield from _found(case, pick, table, at)
                return


def echoes(case: Checkup) -> Iterator[Finding]:
    """Find targets that are the tokens themselves, each at its place, where the model is shown that and those before
    it: there is nothing to learn. What sees all tokens is an autoencoder, what sees one alone no model of sequences."""
    if case.broken:
        return
    for pick, table in _tables(case):
        if _compared(case, pick, table) == [False, True]:
            at = _asked(case, pick, table, 1)
            if at is not None:
                yield from findings(_copies(case, pick, table, at), "echo", f"explain {pick.op.label}", pick.op)
                return


def _copies(case: Checkup, pick: Pick, table: Op, at: int) -> Claim[str]:
    """Claim that the logits of a place change with the token there and the one before, and not with the next one."""

    def holds() -> bool:
        length = table.inputs[1].shape[-1]
        moved = (_moved(case, pick, table, there) for there in (at - 2, at - 1, at))
        return [_depend(case, pick, one, at, length) for one in moved] == [True, True, False]

    return Possibility("finding: echo", holds, lambda: (
        f"{pick.op.label} {pick.op.name} ({words.spot(pick.op)}) asks {words.name(pick.logits)} of each place for the "
        f"very token that {table.label} {words.call(table)} ({words.spot(table)}) takes there, and the one after it "
        "changes nothing in them: the targets are probably to be moved by one, tokens[:, :-1] and tokens[:, 1:]"
    ))  # fmt: skip


def _tables(case: Checkup) -> Iterator[tuple[Pick, Op]]:
    """Yield what a loss picks from, with each op that looks up tokens."""
    for pick in picked(case):
        for table in case.forward:
            if _looks_up(table):
                yield pick, table


def _looks_up(op: Op) -> bool:
    """Whether an op takes rows of a weight, one for each of a row of tokens."""
    if len(op.inputs) != 2 or len(op.outputs) != 1 or not has(op.name, Trait.PICKS):
        return False
    rows, ids = op.inputs
    made = op.outputs[0].shape
    return (isinstance(rows.canonical, Leaf) and is_inexact(rows) and not is_inexact(ids)
            and made == (*ids.shape, *rows.shape[1:]) and len(rows.shape) == 2 and ids.shape[-1:] > (2,))  # fmt: skip


def _compared(case: Checkup, pick: Pick, table: Op) -> list[bool]:
    """Return whether the targets of a loss are the tokens of a table, each the one after, and whether they are those
    themselves; [] if they cannot be compared."""
    ids, targets, logits = table.inputs[1], pick.op.inputs[1], pick.logits
    last = pick.axis == len(logits.shape) - 1 and logits.size == ids.size * logits.shape[-1]
    if is_inexact(targets) or targets.size != ids.size or not last:
        return []
    if not (case.look.can_see(ids) and case.look.can_see(targets) and case.look.can_see(logits)):
        return []
    tokens, wanted = case.look.array(ids), case.look.array(targets)
    with aside():
        wanted = mx.reshape(wanted, tokens.shape)
        tests = [mx.all(wanted[..., :-1] == tokens[..., 1:]), mx.all(wanted == tokens)]
    found: list[bool] = case.look.numbers(tests)
    return found


def _asked(case: Checkup, pick: Pick, table: Op, first: int = 0) -> int | None:
    """Return the first place from `first` on, but the last, of whose logits some gradient is not 0: what is padded is
    not asked."""
    parts = case.pass_.grads.get(pick.logits.canonical)
    if not parts or not case.look.can_see(parts[-1]):
        return None
    gradient = case.look.array(parts[-1])
    with aside():
        flat = mx.reshape(gradient, (-1, table.inputs[1].shape[-1], pick.logits.shape[-1]))
        asked = mx.any(flat != 0, axis=(0, 2))[:-1]
    return next((at for at, is_so in enumerate(case.look.numbers([asked])[0]) if is_so and at >= first), None)


def _found(case: Checkup, pick: Pick, table: Op, at: int) -> Iterator[Finding]:
    length, logits = table.inputs[1].shape[-1], pick.logits
    moved = _moved(case, pick, table, at)
    taking = dict.fromkeys(value.op for value in moved if value.op is not None)
    op, how = next(((op, how) for op in taking if (how := _how(case, op, moved, at, length))), (None, ""))

    through = "" if op is None else (
        f": {op.label} {op.name} ({words.spot(op)}) {how}. A mask that shows each place itself and what came before "
        "it is mx.tril(mx.ones((n, n))) > 0")  # fmt: skip
    claim = Claim("finding: peeking", lambda: _depend(case, pick, moved, at, length), lambda: (
        f"{words.name(logits)} of place {at} change with the token of place {at + 1}, which is the one that "
        f"{pick.op.label} {pick.op.name} ({words.spot(pick.op)}) asks them for{through}"))  # fmt: skip
    about = op if op is not None else pick.op
    yield from findings(claim, "peeking", f"explain {about.label}", about)


def _depend(case: Checkup, pick: Pick, moved: dict[Value, mx.array], at: int, length: int) -> bool:
    """Whether the logits of a place are others where another token stands."""
    logits = pick.logits
    if logits not in moved:
        return False
    with aside():
        before, after = (one.reshape(-1, length, one.shape[-1])[:, at] for one in (logits.array, moved[logits]))
        tests = [mx.max(mx.abs(before - after)), mx.max(mx.abs(before))]
    change, largest = case.look.numbers(tests)
    return bool(change > _NOTABLE * largest)


def _moved(case: Checkup, pick: Pick, table: Op, at: int) -> dict[Value, mx.array]:
    """Return what the forward part makes of another token at the next place: each tensor that takes it, up to the
    logits, computed again; {} where one cannot be."""
    rows = case.look.array(table.outputs[0])
    with aside():
        there = mx.arange(rows.shape[-2])[:, None] == at + 1
        moved = {table.outputs[0]: mx.where(there, 1 - rows, rows)}
        for op in case.forward[case.forward.index(table) + 1 : case.forward.index(pick.op)]:
            if not any(taken in moved for taken in op.inputs):
                continue
            if not all(taken in moved or case.look.can_see(taken) for taken in op.inputs):
                return {}
            try:
                made = op.compute(lambda taken: moved[taken] if taken in moved else case.look.array(taken))
            except (LookupError, UserError):  # a loaded tape cannot run all of MLX's ops
                return {}
            moved.update(zip(op.outputs, made))
    return moved


def _how(case: Checkup, op: Op, moved: dict[Value, mx.array], at: int, length: int) -> str:
    """Return how an attention takes, for a place, from the one after it; "" if it is none, or does not."""
    made = op.outputs[0]
    if has(op.name, Trait.ATTENDS) and op.inputs[0].shape[-2] == made.shape[-2] == length:
        asking = moved.get(op.inputs[0], op.inputs[0].array)
        pairs = [(op.inputs[0].array, asking), (case.look.array(made), moved[made])]
        with aside():
            same = [mx.all(before[..., at, :] == after[..., at, :]) for before, after in pairs]
        return f"takes place {at + 1} in for place {at}" if case.look.numbers(same) == [True, False] else ""
    if not has(op.name, Trait.DISTRIBUTES) or made.shape[-2:] != (length, length):
        return ""
    shares = case.look.array(made)
    with aside():
        largest = mx.max(shares[..., at, at + 1].astype(mx.float32))
    (share,) = case.look.numbers([largest])
    return f"gives place {at + 1} a share of up to {words.number(share)}" if share else ""


CHECKS: list[Check] = [peeks, echoes]
