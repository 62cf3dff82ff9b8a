"""Shares: softmax twice or over the wrong axis, sigmoid twice, a mask of zeros before a softmax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.broken import is_log_of_shares
from nnrepl.explain.health.report import NOTE, Check, Checkup, Finding, findings
from nnrepl.explain.health.weighed import summed_over
from nnrepl.explain.known import arguments
from nnrepl.ops import Trait, has
from nnrepl.session.births import is_inexact
from nnrepl.tape import Leaf, Op, Value
from nnrepl.tape.claims import Claim


def maker(value: Value) -> Op | None:
    """Return the op that made a value, past those that only change its shape or dtype."""
    op = value.op
    while op is not None and op.inputs and has(op.name, Trait.ARRANGES, Trait.CONVERTS):
        op = op.inputs[0].op
    return op


def unscaled(value: Value) -> Op | None:
    """Return the same, past a single number that it was multiplied with or divided by."""
    op = maker(value)
    while op is not None and has(op.name, Trait.SCALES):
        tensors = [taken for taken in op.inputs if taken.size > 1]
        if len(tensors) != 1:
            break
        op = maker(tensors[0])
    return op


def twice(case: Checkup) -> Iterator[Finding]:
    """softmax before a loss that takes a softmax itself, sigmoid before one that takes a sigmoid."""
    for op in case.forward:
        if not op.inputs:
            continue
        logits = logits_of(op)
        if logits is None:
            continue
        first = maker(logits)
        while first is not None and has(first.name, Trait.PICKS) and len(first.inputs) == 1:
            first = maker(first.inputs[0])  # a column of the shares: `model(x)[:, 0]`
        if first is not None and has(first.name, Trait.DIFFERENCE) and first.inputs[-1].shape[-1:] == (1,):
            first = maker(first.inputs[0])  # the loss takes the largest logit out first
        if first is None or first.pass_ is not op.pass_ or not has(first.name, Trait.DISTRIBUTES, Trait.PROBABILITY):
            continue
        takes = "softmax" if has(op.name, Trait.SHARES) else "sigmoid"
        kind = f"double {takes}" if takes == first.name else f"{first.name} before a {takes}"
        yield from findings(_again(case, op, logits, first, takes), kind, f"explain {op.label}", first)


def _again(case: Checkup, op: Op, logits: Value, first: Op, takes: str) -> Claim[str]:
    """Claim that what an op takes the softmax or sigmoid of lies between 0 and 1 already, made by another."""

    def holds() -> bool:
        made = case.look.array(first.outputs[0])
        return all(case.look.numbers([mx.all((made >= 0) & (made <= 1))]))

    what = "are shares already" if has(first.name, Trait.DISTRIBUTES) else "are probabilities already"
    meant = "is one of the two meant?" if has(op.name, Trait.DISTRIBUTES) else "give the loss the logits" + (
        "" if has(op.name, Trait.SHARES) else ", or tell it that they are none (with_logits=False)")  # fmt: skip
    return Claim("finding: double", holds, lambda: (
        f"{words.name(logits)} {what} ({first.label} {first.name}, {words.spot(first)}), and {op.label} {op.name} "
        f"({words.spot(op)}) takes the {takes} of them again: {meant}"))  # fmt: skip


def logits_of(op: Op) -> Value | None:
    """Return what an op takes as logits: all that a softmax or a logsumexp takes, x in ln(1 + eˣ) of a loss."""
    if has(op.name, Trait.SHARES) and not has(op.name, Trait.ATTENDS):
        return op.inputs[0]
    if not has(op.name, Trait.LOG_SUM) or len(op.inputs) > 2:
        return None
    args, _ = arguments(op)
    tensors = [arg for arg in args if isinstance(arg, Value)]
    logits = max(tensors, key=lambda value: value.size)
    rest = [arg for arg in args if arg is not logits]
    zero = all(arg == 0 if isinstance(arg, (int, float)) else isinstance(arg, Value) and arg.size == 1 for arg in rest)
    products = [
        user for user in op.tape.consumers(logits) if has(user.name, Trait.MULTIPLIES) and user.scope is op.scope
    ]
    return logits if zero and products else None  # ln(1 + eˣ) − x·t: a loss, and no softplus


def _gives_shares(op: Op) -> bool:
    return has(op.name, Trait.DISTRIBUTES)


def _along_an_axis(op: Op) -> bool:
    """Whether an op takes a softmax, or the logarithm of its sum, of rows."""
    return _gives_shares(op) or (has(op.name, Trait.LOG_SUM) and has(op.name, Trait.REDUCES)) or _is_loss(op)


def _is_loss(op: Op) -> bool:
    """Whether an op is a whole loss of logits, in rows of its last axis."""
    return has(op.name, Trait.SURPRISE) and not op.of


def axis(case: Checkup) -> Iterator[Finding]:
    """softmax and log-softmax over another axis than what follows counts, over the batch, over one of length 1."""
    told: set[tuple[str, str]] = set()
    for op in case.forward:
        if not _along_an_axis(op) or not op.inputs:
            continue
        over = -1 if _is_loss(op) else op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None)
        taken = op.inputs[0]
        shape = taken.shape
        if not shape:
            continue
        if not isinstance(over, int):
            said = _over_several(case, op, over)
            if said and (words.spot(op), said) not in told:
                told.add((words.spot(op), said))
                axes = range(len(shape)) if over is None else [one % len(shape) for one in over]
                claim = _along(case, op, tuple(axes), f"{op.label} {op.name} ({words.spot(op)}) {said}")
                yield from findings(claim, "softmax axis", f"explain {op.label}", op)
            continue
        at = over % len(shape)
        where = f"{op.label} {op.name} ({words.spot(op)}) runs over axis {over} of {tuple(shape)}"
        said = ""
        if shape[at] == 1 and _gives_shares(op) and max(shape) > 1 and (len(shape) == 2 or _by_a_layer(op)):
            said = ", which has length 1: every share is 1"
        elif shape[at] == 1 and (_is_loss(op) or (op.scope is not None and op.scope.code.co_name == "cross_entropy")):
            said = ", which has length 1: there is one class, its share is 1, and so the loss is 0, whatever goes in"
        elif shape[at] > 1:
            said = _used_otherwise(case, op, at) or _over_the_batch(op, at)
        if said:
            yield from findings(_along(case, op, (at,), where + said), "softmax axis", f"explain {op.label}", op)


def _over_several(case: Checkup, op: Op, over: Any) -> str:
    """Say what is wrong with a softmax or log-softmax over several axes at once: over all of them where none is given,
    as in `mx.softmax(x)`, which other libraries take for the last one. "" if nothing is seen."""
    shape = op.inputs[0].shape
    long = [
        at for at in range(len(shape)) if shape[at] > 1 and (over is None or at in [one % len(shape) for one in over])
    ]
    subtracted = (has(user.name, Trait.DIFFERENCE) and user.outputs[0].shape == shape
                  for user in _past_shapes(op.outputs[0]) if user.outputs)  # fmt: skip
    if len(long) < 2 or not (_gives_shares(op) or any(subtracted)):
        return ""
    said = next(filter(None, (_used_otherwise(case, op, at) or _over_the_batch(op, at) for at in long)), "")
    which = "runs over all axes, since none is given," if over is None else f"runs over axes {over}"
    return said and f"{which} of {tuple(shape)}{said}"


def _along(case: Checkup, op: Op, axes: tuple[int, ...], text: str) -> Claim[str]:
    """Claim along which axes shares run: that they add up to 1 along them; of a logsumexp, that these axes are gone."""
    result, taken = op.outputs[0], op.inputs[0]

    def holds() -> bool:
        if not _gives_shares(op):
            gone = tuple(length for at, length in enumerate(taken.shape) if at not in axes)
            return tuple(result.shape) in (gone, tuple(1 if at in axes else n for at, n in enumerate(taken.shape)))
        sums = mx.sum(case.look.array(result).astype(mx.float32), axis=axes)
        return bool(case.look.numbers([mx.all((mx.abs(sums - 1) < 0.05) | (sums != sums))])[0])

    return Claim("finding: softmax axis", holds, lambda: text)


def _used_otherwise(case: Checkup, op: Op, at: int) -> str:
    """Whether what follows shows that the shares are meant to run along another axis."""
    for user, value in _uses(op):
        rank = len(value.shape)
        if has(user.name, Trait.LOOKS_UP) and user.inputs[0] is value:
            index = user.inputs[1]
            along = user.kwargs.get("axis", user.args[2] if len(user.args) > 2 else None)
            picked = user.outputs[0].shape if user.outputs else ()
            if isinstance(along, int) and along % rank != at and index.shape[along] == 1 and picked[at] > 1:
                return (f", but {user.label} take_along_axis ({words.spot(user)}) picks one of axis "
                        f"{along % rank}: the shares of what it picks from do not add up to 1")  # fmt: skip
        elif has(user.name, Trait.ROWS_BY_COLUMNS) and value.op is not None and maker(value) is op and _is_scores(op):
            left = user.inputs[0] is value
            along = rank - 1 if left else rank - 2
            if along != at and rank >= 2 and len(user.inputs) == 2:
                return (f", but {user.label} {words.call(user)} ({words.spot(user)}) sums over axis {along}: "
                        "the weights of that sum do not add up to 1")  # fmt: skip
        elif has(user.name, Trait.MULTIPLIES) and len(user.inputs) == 2:
            other = user.inputs[1] if user.inputs[0] is value else user.inputs[0]
            along = one_hot(case, other) if other.shape == value.shape else None
            if along is not None and along != at and not _at_most_one(case, other, at):
                return (f", but {words.name(other)}, which {user.label} multiplies it with "
                        f"({words.spot(user)}), has its single ones along axis {along}: the shares along "
                        "that axis do not add up to 1")  # fmt: skip
    return ""


def _uses(op: Op) -> Iterator[tuple[Op, Value]]:
    """Yield the ops that take the shares (of a log-softmax: x − logsumexp(x)), past logarithms and signs."""
    stack = list(op.outputs)
    if not _gives_shares(op):
        stack = [out for user in _past_shapes(op.outputs[0]) if has(user.name, Trait.DIFFERENCE) for out in user.outputs
                 if out.shape == op.inputs[0].shape]  # fmt: skip
    seen: set[Value] = set()
    while stack:
        value = stack.pop()
        if value in seen or len(seen) > 64:
            continue
        seen.add(value)
        for user in op.tape.consumers(value):
            if user.pass_ is not op.pass_ or user.phase != op.phase:
                continue
            yield user, value
            if has(user.name, Trait.LOGARITHM, Trait.NEGATES, Trait.EXPONENTIAL, Trait.CONVERTS):
                stack.extend(user.outputs)


def _past_shapes(value: Value) -> Iterator[Op]:
    for user in value.consumers:
        yield user
        if has(user.name, Trait.ARRANGES):
            yield from _past_shapes(user.outputs[0])


def _is_scores(op: Op) -> bool:
    """Whether what goes into a softmax compares two activations with each other: queries with keys, each node with
    each."""
    if _each_with_each(op.inputs[0]):
        return True
    made = unscaled(op.inputs[0])
    while made is not None and has(made.name, Trait.SUM, Trait.SWITCHES):
        made = next((found for taken in made.inputs if (found := unscaled(taken)) is not None
                     and has(found.name, Trait.ROWS_BY_COLUMNS)), None)  # fmt: skip
    if made is None or not has(made.name, Trait.ROWS_BY_COLUMNS):
        return False
    return all(source(taken) is None for taken in made.inputs)


def _each_with_each(value: Value) -> bool:
    """Whether scores are a column of computed numbers and a row of such added up, `a[:, None] + b`, past a mask and
    what is done with each number alone."""
    for _ in range(8):
        op = maker(value)
        if op is None or op.pass_ is not (value.op.pass_ if value.op is not None else None):
            return False
        ends = [tuple(taken.shape[-2:]) for taken in op.inputs]
        size = tuple(value.shape[-2:])
        if has(op.name, Trait.SUM) and len(size) == 2 and set(ends) == {(size[0], 1), (1, size[1])} and min(size) > 1:
            return all(source(taken) is None for taken in op.inputs)
        same = [taken for taken in op.inputs if taken.shape == value.shape and is_inexact(taken)]
        if (
            not has(op.name, Trait.CHOOSES, Trait.SUM, Trait.SCALES, Trait.SATURATES)
            or has(op.name, Trait.SHARES)
            or not same
        ):
            return False
        value = same[-1]
    return False


def source(value: Value) -> Leaf | None:
    """Return the leaf that a value is, past changes of its shape."""
    while value.op is not None and value.op.inputs and has(value.op.name, Trait.ARRANGES, Trait.CONVERTS):
        value = value.op.inputs[0]
    return value if isinstance(value, Leaf) else None


def one_hot(case: Checkup, value: Value) -> int | None:
    """Return the axis along which a tensor of zeros and ones has one 1 in each row; None if it is no such tensor."""
    if not case.look.can_see(value) or len(value.shape) < 2 or case.pass_.grads.get(value.canonical):
        return None
    array = case.look.array(value).astype(mx.float32)
    sums = [mx.all(mx.sum(array, axis=axis) == 1) for axis in range(array.ndim) if value.shape[axis] > 1]
    axes = [axis for axis in range(array.ndim) if value.shape[axis] > 1]
    plain, *found = case.look.numbers([mx.all((array == 0) | (array == 1)), *sums])
    alone = [axis for axis, one in zip(axes, found) if one]
    if not plain or len(alone) != 1:
        return None
    return alone[0]


def _at_most_one(case: Checkup, hot: Value, axis: int) -> bool:
    """Whether no row along an axis has two ones: it may be the one that is meant, and some rows be left empty."""
    rows = mx.sum(case.look.array(hot).astype(mx.float32), axis=axis)
    return bool(case.look.numbers([mx.all(rows <= 1)])[0])


def _over_the_batch(op: Op, at: int) -> str:
    """Whether the axis is that of the rows that a layer (rows @ weight) has computed one by one."""
    shape = op.inputs[0].shape
    if at != 0 or len(shape) < 2 or shape[0] < 2 or not _by_a_layer(op):
        return ""
    summed = summed_over(op.outputs[0])
    if 0 in summed:  # time comes first, and the shares weigh what is added up along it
        return ""
    if shape[-1] > 1:
        meant = "-1"
    elif len(summed) == 1 and shape[summed[0]] > 1:
        meant = str(summed[0])
    else:
        return ""
    return f", the rows of the batch: the shares of a row do not add up to 1; axis={meant} is probably meant"


def _by_a_layer(op: Op) -> bool:
    """Whether what goes into a softmax was computed row by row with a weight, past masks."""
    made = unscaled(op.inputs[0])
    while made is not None and has(made.name, Trait.SUM, Trait.DIFFERENCE, Trait.SCALES, Trait.SWITCHES):
        made = next((found for taken in made.inputs if taken.shape == made.outputs[0].shape and is_inexact(taken)
                     and (found := maker(taken)) is not None), None)  # fmt: skip
    return made is not None and has(made.name, Trait.PRODUCT) and source(made.inputs[-1]) is not None


def masked_by_zeros(case: Checkup) -> Iterator[Finding]:
    """Find a mask of zeros and ones multiplied into the scores: exp(0) is 1, so what is masked gets its share."""
    for op in case.forward:
        if not _gives_shares(op) or not op.inputs:
            continue
        product = _product(op.inputs[0])
        if product is None:
            continue
        shape = op.inputs[0].shape
        for mask in product.inputs:
            share = _share_of_masked(case, op, mask, shape)
            if share:
                said = (
                    f"{product.label} {words.call(product)} ({words.spot(product)}) makes the masked scores "
                    f"0, and {op.label} softmax ({words.spot(op)}) gives a 0 the share exp(0) / Σ: masked "
                    f"places get up to {words.number(share)}. Mask with −∞: mx.where(mask, scores, -mx.inf)"
                )
                claim = _gives_masked(case, op, mask, said)
                yield from findings(claim, "mask of zeros", f"explain {op.label}", product)


def _gives_masked(case: Checkup, op: Op, mask: Value, text: str) -> Claim[str]:
    """Claim that a softmax gives a place at which a mask is 0 a share."""

    def holds() -> bool:
        shares = case.look.array(op.outputs[0])
        open_ = mx.broadcast_to(case.look.array(mask), shares.shape) != 0
        return bool(case.look.numbers([mx.any(~open_ & (shares > 0))])[0])

    return Claim("finding: mask of zeros", holds, lambda: text)


def added_mask(case: Checkup) -> Iterator[Finding]:
    """Find a mask of zeros and ones added to the scores of queries and keys: e to 1 is what it favours, and no
    more."""
    for op in case.forward:
        if not _gives_shares(op) or not op.inputs or not _is_scores(op):
            continue
        added = unscaled(op.inputs[0])
        if added is None or not has(added.name, Trait.SUM) or len(added.inputs) != 2:
            continue
        for mask in added.inputs:
            share = _share_of_masked(case, op, mask, op.inputs[0].shape)
            if share:
                claim = _gives_masked(case, op, mask, (
                    f"{added.label} {words.call(added)} ({words.spot(added)}) adds 0 or 1 to the scores, and "
                    f"{op.label} softmax ({words.spot(op)}) still gives the places with 0 a share of up to "
                    f"{words.number(share)}. Mask with −∞: mx.where(mask, scores, -mx.inf)"))  # fmt: skip
                yield from findings(claim, "mask of zeros", f"explain {op.label}", added)


def _product(value: Value) -> Op | None:
    """Return the product of two tensors that goes into a softmax, past scales by single numbers."""
    op = unscaled(value)
    return op if op is not None and has(op.name, Trait.MULTIPLIES) and len(op.inputs) == 2 else None


def _share_of_masked(case: Checkup, op: Op, mask: Value, shape: tuple[int, ...]) -> float:
    """Return the largest share where a tensor of zeros and ones, some of each in a row, is 0; 0.0 if it is no mask."""
    if len(mask.shape) < 2 or case.pass_.grads.get(mask.canonical) or not case.look.can_see(mask):
        return 0.0
    result = op.outputs[0]
    if result.shape != shape or not case.look.can_see(result):
        return 0.0
    over = op.kwargs.get("axis", op.args[1] if len(op.args) > 1 else None)
    array = mx.broadcast_to(case.look.array(mask).astype(mx.float32), shape)
    shares = case.look.array(result)
    mixed = mx.any((mx.min(array, axis=over) == 0) & (mx.max(array, axis=over) == 1))
    plain = mx.all((array == 0) | (array == 1))
    found = case.look.numbers([plain, mixed, mx.max(mx.where(array == 0, shares, 0))])
    return float(found[2]) if found[0] and found[1] else 0.0


def without_answer(case: Checkup) -> Iterator[Finding]:
    """Rows of a one-hot table without a 1: nothing is asked of them."""
    for op in case.forward:
        if not has(op.name, Trait.MULTIPLIES) or len(op.inputs) != 2 or op.inputs[0].shape != op.inputs[1].shape:
            continue
        for hot, other in (op.inputs, op.inputs[::-1]):
            if hot.op is None or len(hot.shape) < 2 or hot.shape[-1] < 2 or not _is_log_share(other):
                continue
            if case.pass_.grads.get(hot.canonical) or not case.look.can_see(hot) or _emptied(case, hot):
                continue
            array = case.look.array(hot).astype(mx.float32)
            rows = mx.sum(array, axis=-1)
            plain, whole, none = case.look.numbers(
                [mx.all((array == 0) | (array == 1)), mx.sum(rows == 1), mx.sum(rows == 0)]
            )
            if plain and none and whole + none == rows.size and whole:
                claim = _asks_nothing(case, op, hot, int(none), rows.size)
                yield from findings(claim, "no answer", f"explain {op.label}", op, NOTE)


def _asks_nothing(case: Checkup, op: Op, hot: Value, none: int, rows: int) -> Claim[str]:
    """Claim that so many rows of a one-hot table hold no number but 0."""

    def holds() -> bool:
        table = case.look.array(hot).astype(mx.float32)
        return bool(case.look.numbers([mx.sum(mx.max(mx.abs(table), axis=-1) == 0)])[0] == none)

    assert hot.op is not None
    made = words.made(hot, hot.op)
    return Claim("finding: no answer", holds, lambda: (
        f"{none} of {rows} rows of {made} have no 1: {op.label} {words.call(op)} ({words.spot(op)}) asks nothing of "
        f"them. Is a label outside of 0 to {hot.shape[-1] - 1}?"))  # fmt: skip


def _emptied(case: Checkup, hot: Value) -> bool:
    """Whether a table with a 1 in each row was made first, and a mask has taken some away: padding."""
    op = maker(hot)
    for taken in () if op is None else op.inputs:
        if taken.shape == hot.shape and case.look.can_see(taken):
            rows = mx.sum(case.look.array(taken).astype(mx.float32), axis=-1)
            if case.look.numbers([mx.all(rows == 1)])[0]:
                return True
    return False


def _is_log_share(value: Value) -> bool:
    """Whether a tensor is the logarithm of shares, made by a log-softmax."""
    op = maker(value)
    if op is not None and has(op.name, Trait.NEGATES):
        op = maker(op.inputs[0])
    return op is not None and (is_log_of_shares(op) or (has(op.name, Trait.LOGARITHM) and _shares(op.inputs[0])))


def _shares(value: Value) -> bool:
    op = maker(value)
    return op is not None and _gives_shares(op)


def no_logarithms(case: Checkup) -> Iterator[Finding]:
    """nll_loss and kl_div_loss take the logarithms of shares: shares, or logits as they are, give a loss that means
    nothing."""
    for op in case.forward:
        loss = op.scope.code.co_name if op.scope is not None else ""
        if loss == "nll_loss" and has(op.name, Trait.LOOKS_UP):
            along, wanted = op.kwargs.get("axis", op.args[2] if len(op.args) > 2 else None), op.inputs[:1]
        elif loss == "kl_div_loss" and has(op.name, Trait.DIFFERENCE):
            along, wanted = -1, op.inputs
        else:
            continue
        for given in dict.fromkeys(wanted):
            if isinstance(along, int) and given.shape and case.look.can_see(given):
                said = _no_logarithms(case, given, along)
                if said:
                    claim = _taken_as_logarithms(case, op, given, along, loss, said)
                    yield from findings(claim, "no logarithms", f"explain {op.label}", op)


def _taken_as_logarithms(case: Checkup, op: Op, given: Value, along: int, loss: str, said: str) -> Claim[str]:
    """Claim that the exponentials of some numbers do not add up to 1 in some row."""

    def holds() -> bool:
        sums = mx.sum(mx.exp(case.look.array(given).astype(mx.float32)), axis=along)
        return not case.look.numbers([mx.all(mx.abs(sums - 1) < 0.01)])[0]

    more = ", or use nn.losses.cross_entropy" if loss == "nll_loss" else ""
    return Claim("finding: no logarithms", holds, lambda: (
        f"{words.name(given)} {said}, and {op.label} of {loss} ({words.spot(op)}) takes them as logarithms: give it "
        f"nn.log_softmax of the logits{more}"))  # fmt: skip


def _no_logarithms(case: Checkup, given: Value, along: int) -> str:
    """Return what to say about numbers whose exponentials do not add up to 1; "" where they do."""
    array = case.look.array(given).astype(mx.float32)
    sums, plain = mx.logsumexp(array, axis=along), mx.sum(array, axis=along)
    tests = [mx.max(mx.abs(sums)), mx.max(mx.abs(plain - 1)), mx.min(array), mx.exp(mx.flatten(sums)[0])]
    off, off_plain, low, first = case.look.numbers(tests)
    if not off > _OFF:
        return ""
    are = "are shares themselves" if low >= 0 and off_plain < _OFF else "are no logarithms of shares"
    return f"{are} (their exponentials add up to {words.number(first)} in the first row, and not to 1)"


_OFF = 0.05

CHECKS: list[Check] = [twice, no_logarithms, axis, masked_by_zeros, added_mask, without_answer]
