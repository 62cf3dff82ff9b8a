"""Stuck: why one op passes no gradient on. Each reason is a claim, and is said only if its own check holds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.answer import Evidence
from nnrepl.explain.blame import became_zero, blame, cone_stats
from nnrepl.explain.disconnected import why_end
from nnrepl.explain.forward import made_large
from nnrepl.explain.known import FIXED, entry_for
from nnrepl.explain.local import factor_array, factor_text, in_float32
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.explain.regions import Mask, counting, is_zero_on, moves, places, within
from nnrepl.explain.sizes import attended, sizes
from nnrepl.explain.zero_reasons import Because, Reason, reasoned
from nnrepl.explain.zeros import shown, units_of, zero_value
from nnrepl.ops import Trait, has
from nnrepl.session.births import filler, is_inexact
from nnrepl.tape import Op, Value, result_inside
from nnrepl.tape.claims import Claim, Said, say

TINY = {mx.float16: 6.0e-8, mx.bfloat16: 9.2e-41, mx.float32: 1.4e-45}
"""The smallest number above 0 of each dtype (IEEE 754)."""


def reason_for(look: Look, op: Op, gradient: Value, mask: Mask | None = None) -> Reason:
    """Why a backward op made a gradient 0 out of one that was not.

    Args:
        mask: The places of `gradient` that count; None for all.
    """
    forward, of = op.of, gradient.gradient_of
    is_sum = op.operation.kind == "accumulate" and rule_of(op) is None
    if is_sum or forward is None or of is None:
        return reasoned(_of_no_rule(look, op, gradient, mask, is_sum))
    return reasoned(Stuck(look, op, forward, of, gradient, mask).claims())


def _of_no_rule(look: Look, op: Op, gradient: Value, mask: Mask | None, is_sum: bool) -> Iterator[Claim[Because]]:
    """Yield what may be said of a sum of gradients, and of an op of the program's own backward rule."""
    alive = [value for value in op.inputs if is_sum and not look.stat(value).is_zero]
    evidence = shown(look, [*(op.inputs if is_sum else upstream(op)), gradient])

    def is_zero() -> bool:
        alive = look.array(gradient) != 0
        return not look.numbers([mx.any(alive if mask is None else alive & mask)])[0]

    yield Claim("0: parts cancel", lambda: len(alive) > 1 and is_zero(), lambda: Because(
        f"{len(alive)} gradients arrive here, and their sum is 0: they are opposite and cancel.", evidence,
        cancels=True))  # fmt: skip
    own = op.root is not op and op.phase == "backward"
    yield Claim("0: own rule", lambda: own and is_zero(), lambda: Because(
        f"the program's own backward rule ({op.root.name}) gives 0 in {op.label} {words.call(op)} "
        f"({words.spot(op)}).", evidence))  # fmt: skip
    yield Claim("0: this op", is_zero, lambda: Because("this op gives 0.", evidence))


@dataclass
class Stuck:
    """A backward op that gives zeros, and what can be claimed about it."""

    look: Look
    op: Op
    forward: Op
    of: Value
    gradient: Value
    mask: Mask | None

    @cached_property
    def given(self) -> Value:
        """The gradient that came in."""
        return upstream(self.op)[0]

    @cached_property
    def factors(self) -> mx.array | None:
        """The local factors of an op that works place by place."""
        return factor_array(self.op, self.of, self.look)

    def claims(self) -> Iterator[Claim[Because]]:
        """Yield what may be the reason, the most telling first."""
        yield Claim("0: empty", lambda: not self.of.size, self._empty)
        yield Claim("0: whole", lambda: not is_inexact(self.of), self._whole)
        yield Claim("0: meets its opposite", self._meets_its_opposite, self._opposite)
        yield Claim("0: left out", lambda: self.mask is not None and moves(self.forward), self._left_out)
        yield Claim("0: underflow", lambda: self._wide_peak > 0, self._underflow)
        if self.factors is not None:
            yield Claim(
                "0: dead place", lambda: self._closed_share == 1 and self._dead_factor is not None, self._dead_place
            )
            yield Claim("0: closed", lambda: self._closed_share == 1, self._closed)
            yield Claim("0: never meet", lambda: not self._meeting, self._never_meet)
            yield Claim("0: too small", lambda: self._product_peak == 0, self._too_small)
            yield Claim("0: sum cancels", lambda: self.given.shape != self.gradient.shape, self._sum_cancels)
            return
        yield Claim("0: even", lambda: self._length != 1 and self._is_even(), self._even)
        yield Claim("0: dead", lambda: self._dead_operand is not None, self._dead)
        yield Claim("0: alone", lambda: self._length == 1, self._alone)
        yield Claim("0: saturated", lambda: self._smallest_peak > 0.9999, self._saturated)
        entry = entry_for(self.forward)
        yield Claim("0: fixed", lambda: entry is not None and entry.kind == FIXED, self._fixed)
        yield Claim("0: flat", lambda: not self._passes_another, self._flat)
        yield Claim("0: terms cancel", lambda: self._sizes(False) > 0, self._terms_cancel)
        yield Claim("0: product too small", lambda: self._sizes(True) > 0, self._product_too_small)
        yield Claim("0: products are zero", lambda: self._sizes(True) == 0, self._products_are_zero)
        yield Claim("0: nothing left", lambda: self._passes_another, self._nothing_left)

    @cached_property
    def _so_far(self) -> Value | None:
        """The gradient that other ops had given before, where the op adds its own to it."""
        if self.op.operation.kind != "accumulate":
            return None
        return next((one for one in upstream(self.op) if one.gradient_of is self.gradient.gradient_of), None)

    def _meets_its_opposite(self) -> bool:
        if self._so_far is None or self._so_far.shape != self.gradient.shape:
            return False
        counts = mx.ones(self.gradient.shape, mx.bool_) if self.mask is None else self.mask
        arrived, left = (self.look.array(one) != 0 for one in (self._so_far, self.gradient))
        some, rest = self.look.numbers([mx.any(arrived & counts), mx.any(left & counts)])
        return bool(some and not rest)

    def _opposite(self) -> Because:
        text = (f"the gradient that had come to {words.name(self.of)} before, and what {words.call(self.forward)} "
                "passes on to it, are opposite and cancel.")  # fmt: skip
        return Because(text, self._evidence(), cancels=True)

    def _nothing_left(self) -> Because:
        rule = factor_text(self.op, self.of)
        local = f" and {rule}" if rule else ""
        text = (
            f"another gradient would pass through {words.call(self.forward)}, but of this one nothing is left: "
            f"{self.given.name}{local} never meet at the same place, or their products cancel or are too small."
        )
        return Because(text, self._evidence())

    def _sizes(self, wide: bool) -> float:
        """Return the largest of the sums that the op makes, were no term negative; -1 where that cannot be told."""
        try:
            parts = sizes(self.look, self.op, self.gradient, wide)
            if parts is None:
                return -1.0
            with mx.stream(mx.cpu):
                return float(self.look.numbers([mx.max(within(self.mask, parts))])[0])
        except (ValueError, RuntimeError, TypeError):
            return -1.0

    def _products(self) -> str:
        rule = factor_text(self.op, self.of)
        there = "" if self.mask is None else f" that count here ({places(self.look, self.mask)} of {self.of.size} sums)"
        return f"the products of {self.given.name} and {rule or 'the local factor'}{there}"

    def _terms_cancel(self) -> Because:
        text = (f"{self._products()} are not 0, but they are added up, and cancel: without their signs the largest "
                f"sum would be {words.number(self._sizes(False))}.")  # fmt: skip
        return Because(text, self._evidence(), cancels=True)

    def _product_too_small(self) -> Because:
        text = (f"{self._products()} are too small for {words.dtype(self.gradient.dtype)}: in float64 the largest sum, "
                f"without signs, would be {words.number(self._sizes(True))}.")  # fmt: skip
        return Because(text, self._evidence())

    def _products_are_zero(self) -> Because:
        return Because(f"{self._products()} are all 0: wherever the one is not 0, the other is.", self._evidence())

    def _evidence(self) -> list[Evidence]:
        return shown(self.look, [*upstream(self.op), *dict.fromkeys(self.forward.inputs), self.gradient])

    # -- whole numbers, small numbers, parts that are left out ---------------------------------------------

    def _empty(self) -> Because:
        """Say that there is no element that a gradient could belong to, and which op left none."""
        at = self.of
        while at.op is not None and (empty := next((one for one in at.op.inputs if not one.size), None)) is not None:
            at = empty
        made = f": {at.op.label} {words.call(at.op)} ({words.spot(at.op)}) takes nothing" if at.op is not None else ""
        text = f"{words.name(self.of)} is empty, its shape is {tuple(self.of.shape)}{made}."
        return Because(text, shown(self.look, [*upstream(self.op), self.of]), at.op)

    def _whole(self) -> Because:
        """Say that a tensor of whole numbers was differentiated: MLX rounds the gradient to 0."""
        at = self.of
        while at.op is not None and at.op.inputs and not is_inexact(at.op.inputs[0]):
            at = at.op.inputs[0]
        kind = words.dtype(self.of.dtype)
        made = ""
        if at.op is not None:
            made = f" It was made by {at.op.label} {words.call(at.op)} ({words.spot(at.op)}), which has no slope."
        text = (
            f"{words.name(self.of)} holds whole numbers ({kind}): MLX cuts the gradient of whole numbers to whole "
            f"numbers, here to 0.{made}"
        )
        return Because(text, shown(self.look, [*upstream(self.op), self.of, self.gradient]), at.op)

    def _left_out(self) -> Because:
        where = words.spot(self.forward)
        return Because(
            f"{words.call(self.forward)} ({where}) leaves out the part of {self.of.name} that counts here "
            f"({places(self.look, self.mask)} of {self.of.size} elements), and so no gradient comes back to it.",
            shown(self.look, [*upstream(self.op), self.gradient]))  # fmt: skip

    @cached_property
    def _wide_peak(self) -> float:
        """The largest number of a half-precision gradient as it would be in float32; 0 for other dtypes."""
        if self.gradient.dtype not in (mx.float16, mx.bfloat16) or self.mask is not None:
            return 0.0
        slot = self.gradient.slot if self.gradient.slot < len(self.op.outputs) else 0
        wide = in_float32(self.op, self.look)
        return float(self.look.numbers([mx.max(mx.abs(wide[slot].astype(mx.float32)))])[0])

    def _underflow(self) -> Because:
        kind = words.dtype(self.gradient.dtype)
        text = (
            f"the result is too small for {kind}: in float32 the largest element would be "
            f"{words.number(self._wide_peak)}, and the smallest number above 0 in {kind} is "
            f"{words.number(TINY[self.gradient.dtype])}. Scale the loss up, or use bfloat16 or float32 here."
        )
        return Because(text, shown(self.look, [*upstream(self.op), self.gradient]))

    # -- ops that work place by place ----------------------------------------------------------------------

    @cached_property
    def _counts(self) -> tuple[int, int, int]:
        """How many places count; at how many of them the factor is 0, and at how many neither it nor what came in."""
        assert self.factors is not None
        counting = mx.ones(self.factors.shape, mx.bool_)
        if self.mask is not None and self.mask.shape == self.factors.shape:
            counting = self.mask
        zero = mx.sum(counting & (self.factors == 0))
        both = mx.sum(counting & (self.factors != 0) & (self.given.array != 0))
        whole, closed, meeting = self.look.numbers([mx.sum(counting), zero, both])
        return int(whole), int(closed), int(meeting)

    @property
    def _closed_share(self) -> float:
        whole, closed, _ = self._counts
        return closed / whole if whole else 0.0

    @property
    def _meeting(self) -> int:
        return self._counts[2]

    @cached_property
    def _product_peak(self) -> float:
        """The largest product of what came in and its factor, in the precision of the gradient."""
        assert self.factors is not None
        return float(self.look.numbers([mx.max(mx.abs(self.given.array * self.factors)).astype(mx.float32)])[0])

    def _never_meet(self) -> Because:
        whole, closed, _ = self._counts
        count = self.look.numbers([mx.sum(self.given.array != 0)])[0]
        every = "the one place" if count == 1 else f"each of the {count} places"
        return Because(
            f"its local factor {factor_text(self.op, self.of)} is 0 at {every} where {self.given.name} is not 0 "
            f"(it is 0 at {words.count_of(closed, whole, 'place')}).", self._place_by_place()
        )  # fmt: skip

    def _too_small(self) -> Because:
        kind = words.dtype(self.gradient.dtype)
        return Because(f"{self.given.name} times {factor_text(self.op, self.of)} is too small for {kind}.",
                      self._place_by_place())  # fmt: skip

    def _sum_cancels(self) -> Because:
        return Because(
            f"{self.given.name} times {factor_text(self.op, self.of)} is not 0, but the sum over what was broadcast "
            "is: the elements cancel.", self._place_by_place(), cancels=True)  # fmt: skip

    def _place_by_place(self) -> list[Evidence]:
        return shown(self.look, [*dict.fromkeys(self.forward.inputs), self.given, self.gradient])

    @cached_property
    def _dead_factor(self) -> Value | None:
        """An operand that is 0 wherever it counts, and with which not 0 the factor would not be 0."""
        for value in dict.fromkeys(self.forward.inputs):
            if not value.size or not is_inexact(value) or _compares(self.forward):
                continue
            if self.mask is None:
                dead = self.look.stat(value).is_zero
            else:
                dead = value.shape == self.mask.shape and is_zero_on(self.look, value, self.mask)
            if dead and self._would_pass(value):
                return value
        return None

    def _dead_place(self) -> Because:
        dead = self._dead_factor
        assert dead is not None
        zero = made_zero(self.look, dead, None if self.look.stat(dead).is_zero else self.mask)
        what = "the other factor is 0" if dead.canonical is not self.of.canonical else f"{dead.name} is 0"
        there = "" if self.mask is None else f" at {counting(self.look, self.mask)} here"
        text = f"{words.call(self.forward)} passes nothing to {self.of.name}{there}: {what}. {zero.text}"
        return Because(text, self._place_by_place(), zero.op, zero.start, came=zero.came)

    def _closed(self) -> Because:
        return Because(self._closed_text(), self._place_by_place())

    def _closed_text(self) -> str:
        """Return what to say about an op that passes nothing at all: its factor is 0 at every place."""
        forward, of, look = self.forward, self.of, self.look
        did, text = words.call(forward), factor_text(self.op, self.of)
        assert self.factors is not None
        units, rows = units_of(self.factors)
        size = made_large(look, of) if has(forward.name, Trait.SATURATES) else None
        grew = f" {size.text}" if size is not None else ""
        where = f"in {units} of {units} units" if units else ""
        every = f", for every row of the batch ({rows} of {rows})" if rows else ""
        if self.mask is not None:
            return (f"{did} passes nothing at {counting(look, self.mask)} here: its local factor "
                    f"{text} is 0 there.")  # fmt: skip
        if has(forward.name, Trait.LARGER, Trait.SMALLER) and len(forward.args) == 2:
            limit = next((arg for arg in forward.args if not _same(arg, of)), 0)
            sign = "≤" if has(forward.name, Trait.LARGER) else "≥"
            if look.stat(of).is_zero and not isinstance(limit, Value):
                zero = made_zero(look, of)
                return f"{did} passes nothing: {of.name} {sign} {words.operand(limit)} {where}{every}. {zero.text}"
            return f"{did} passes nothing: {of.name} {sign} {words.operand(limit)} {where}{every}."
        if has(forward.name, Trait.SATURATES):
            low, high = look.numbers([mx.min(of.array), mx.max(of.array)])
            return (
                f"{did} is saturated: {of.name} is so far out ({words.number(low)} to {words.number(high)}) that the "
                f"curve is flat there, and its slope {text} is 0 {where}{every}.{grew}"
            )
        if has(forward.name, Trait.CLIPS):
            return f"{did} cuts off every element of {of.name} {where}{every}; where it cuts, it passes nothing."
        if has(forward.name, Trait.SWITCHES):
            return f"{did} takes no element from {of.name}: the condition chooses the other side everywhere."
        return f"{did} passes nothing: its local factor {text} is 0 {where}{every}."

    # -- products, norms, attention ------------------------------------------------------------------------

    @cached_property
    def _dead_operand(self) -> Value | None:
        """An operand that is 0 everywhere, and with which not 0 the gradient would not be 0."""
        ups = set(upstream(self.op))
        inputs = [value for value in dict.fromkeys(self.op.inputs) if value not in ups and is_inexact(value)]
        stats = self.look.stats(inputs)
        dead = [value for value in inputs if value.size and stats[value].is_zero]
        return next((value for value in dead if self._would_pass(value)), None)

    def _would_pass(self, dead: Value) -> bool:
        self.look.see(self.op.inputs)
        again = self.op.compute(lambda value: filler(value) if value is dead else value.array)
        slot = self.gradient.slot if self.gradient.slot < len(again) else 0
        # What is left of a sum that cancels is rounding, and no gradient that passes.
        least = _ROUNDING.get(self.gradient.dtype, 3e-6) * self.look.stat(self.given).peak
        return bool(self.look.numbers([mx.any(within(self.mask, mx.abs(again[slot]) > least))])[0])

    def _dead(self) -> Because:
        dead = self._dead_operand
        assert dead is not None
        zero = made_zero(self.look, dead)
        product = has(self.forward.name, Trait.PRODUCT) and dead.canonical is not self.of.canonical
        name = (factor_text(self.op, self.of) if product else "") or dead.name
        evidence = shown(self.look, [dead, self.given, self.gradient])
        return Because(f"{name} is 0, because {zero.text}", evidence, zero.op, zero.start, came=zero.came)

    @cached_property
    def _shares(self) -> mx.array | None:
        """The shares of a softmax or an attention, along the last axis."""
        forward = self.forward
        if has(forward.name, Trait.DISTRIBUTES):
            axis = forward.kwargs.get("axis", forward.args[1] if len(forward.args) > 1 else None)
            y = self.look.array(forward.outputs[0])
            given = [axis] if isinstance(axis, int) else range(y.ndim) if axis is None else axis
            axes = [at % y.ndim for at in given]
            rest = [at for at in range(y.ndim) if at not in axes]
            return mx.flatten(mx.transpose(y, rest + axes), len(rest)) if axes else y
        if not has(forward.name, Trait.ATTENDS) or not _asks(forward, self.of):
            return None
        return attended(self.look, forward)

    @property
    def _length(self) -> int:
        return 0 if self._shares is None else self._shares.shape[-1]

    @cached_property
    def _smallest_peak(self) -> float:
        """The largest share of the row in which that is smallest."""
        if self._shares is None or not self._shares.size:
            return 0.0
        return float(self.look.numbers([mx.min(mx.max(self._shares.astype(mx.float32), axis=-1))])[0])

    def _alone(self) -> Because:
        if not has(self.forward.name, Trait.DISTRIBUTES):
            return Because(
                "there is one position only to attend to: its share is 1, whatever goes in.", self._evidence()
            )
        taken = self.forward.inputs[0]
        axis = self.forward.kwargs.get("axis", self.forward.args[1] if len(self.forward.args) > 1 else None)
        return Because(
            f"softmax runs over an axis of length 1 (axis {axis} of {tuple(taken.shape)}): every share is 1, whatever "
            "goes in. Another axis is probably meant.", self._share_evidence())  # fmt: skip

    def _saturated(self) -> Because:
        what = self.forward.name if has(self.forward.name, Trait.DISTRIBUTES) else "attention"
        return Because(f"{what} is saturated: in every row one share is 1 and all others are 0, and the curve is flat "
                      f"there.{self._largest()}", self._share_evidence())  # fmt: skip

    def _largest(self) -> str:
        """Return what made the operand large that is so, where one is."""
        asked = self.forward.args[:2] if not has(self.forward.name, Trait.DISTRIBUTES) else self.forward.inputs
        grown = [made_large(self.look, taken) for taken in dict.fromkeys(asked) if isinstance(taken, Value)]
        found = max((one for one in grown if one is not None), key=lambda one: one.typical, default=None)
        return f" {found.text}" if found is not None else ""

    def _is_even(self) -> bool:
        """Whether what comes into a softmax is the same number all along each row."""
        if not has(self.forward.name, Trait.DISTRIBUTES):
            return False
        axis = self.forward.kwargs.get("axis", self.forward.args[1] if len(self.forward.args) > 1 else None)
        g = self.look.array(self.given)
        return bool(self.look.numbers([mx.all(mx.max(g, axis=axis) == mx.min(g, axis=axis))])[0])

    def _even(self) -> Because:
        return Because(
            f"{self.given.name} is the same for all elements of a row, and the shares always add up to 1: no change "
            "of the input can change the loss.", self._share_evidence())  # fmt: skip

    def _share_evidence(self) -> list[Evidence]:
        return shown(self.look, [*upstream(self.op), self.forward.outputs[0], self.gradient])

    # -- the rest ------------------------------------------------------------------------------------------

    def _fixed(self) -> Because:
        text = f"{words.call(self.forward)} passes nothing: {why_end(self.forward)}"
        return Because(text, shown(self.look, [*upstream(self.op), self.gradient]))

    @cached_property
    def _passes_another(self) -> bool:
        """Whether another gradient of the result, all of whose elements are there, would pass."""
        self.look.see(self.op.inputs)
        ups = set(upstream(self.op))
        try:
            again = self.op.compute(lambda value: filler(value) if value in ups else value.array)
        except (ValueError, RuntimeError, TypeError):
            return True
        slot = self.gradient.slot if self.gradient.slot < len(again) else 0
        return bool(self.look.numbers([mx.any(within(self.mask, again[slot] != 0))])[0])

    def _flat(self) -> Because:
        rule = factor_text(self.op, self.of)
        local = f" (its local factor is {rule})" if rule else ""
        grew = self._largest() if has(self.forward.name, Trait.NORMALIZES, Trait.SHARES) else ""
        there = "" if self.mask is None else f" at {counting(self.look, self.mask)} here"
        return Because(f"{words.call(self.forward)} passes nothing on to {self.of.name}{there}, whatever comes "
                      f"in{local}.{grew}", self._evidence())  # fmt: skip


def made_zero(look: Look, value: Value, mask: Mask | None = None) -> Reason:
    """Where the zeros of a forward value began, also where that is inside of a call that MLX runs by itself.

    Args:
        mask: The places that count and are 0; None for all.
    """
    return zero_value(look, value, _inside, mask)


def _inside(look: Look, value: Value) -> list[Said]:
    """Return where, inside of a call that MLX runs by itself, a gradient became 0 that is its result; [] if it is
    none."""
    inner = result_inside(value)
    if inner is None or inner.op is None or not look.can_see(inner):
        return []
    blamed = blame(look, inner, cone_stats(look, inner))
    if not blamed:
        return []
    first = blamed[0]
    where = words.spot(first.op.of or first.op)
    at = f"{words.title(first.op)}{f' ({where})' if where else ''}"
    return say(Claim("0: inside", lambda: became_zero(look, first), lambda: (
        f"Inside of that call it became 0 at {at}: {reason_for(look, first.op, first.value, first.mask).text}"
    )))  # fmt: skip


_ROUNDING = {mx.float16: 4e-3, mx.bfloat16: 3e-2, mx.float64: 1e-14}
"""By how much a sum of few terms may be off, as a share of the largest; for other dtypes it is float32's."""


def _compares(forward: Op) -> bool:
    """Whether an op passes or blocks by comparing: a 0 in it is no factor."""
    return has(forward.name, Trait.CHOOSES)


def _same(arg: object, value: Value) -> bool:
    return isinstance(arg, Value) and arg.canonical is value.canonical


def _asks(forward: Op, of: Value) -> bool:
    """Whether a value is the queries or the keys of an attention, which act through the shares only."""
    return any(_same(arg, of) for arg in forward.args[:2]) and not any(_same(arg, of) for arg in forward.args[2:3])
