"""Nonfinite: where NaN and ∞ come from: the element of the loss or of a gradient, followed back to its birth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.answer import Cause, Evidence
from nnrepl.explain.born import SIGN, amount, born, did, did_of
from nnrepl.explain.broken import Broken, broken, is_of_shares
from nnrepl.explain.forward import made_large
from nnrepl.explain.leapt import leapt
from nnrepl.explain.look import Look
from nnrepl.explain.masks import is_mask, is_of_mask
from nnrepl.explain.paths import gradient_pass_or_none
from nnrepl.explain.scale import grows
from nnrepl.ops import Trait, has
from nnrepl.ops.numbers import unravel
from nnrepl.session.births import INF, NAN, Birth, first_bad, follow, is_born, is_inexact, is_of_slope
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, ClosedOp, Op, Pass, Value
from nnrepl.tape.claims import Claim, Said, joined, say, say_first, stated
from nnrepl.tape.collector import paused


@dataclass(frozen=True, slots=True)
class Trouble:
    """A tensor that matters and holds numbers that are none, and where the first of them was born."""

    end: Value
    pass_: Pass
    birth: Birth

    @property
    def cause(self) -> Birth:
        """What is to blame: the first birth, unless that is an ∞ that the program wrote on purpose."""
        return blamed(self.birth)


def blamed(birth: Birth) -> Birth:
    """Return the birth of the ∞ behind a NaN; the NaN's own where that ∞ is a mask, of which an op should not make
    NaN."""
    if birth.before is None:
        return birth
    root = blamed(birth.before)
    # What masks goes into a softmax; an ∞ that comes back to one is a gradient.
    shares = birth.op is not None and _makes_shares(birth.op, birth.before)
    return birth if (shares and root.negative and _may_mask(root)) or _on_purpose(root) else root


def _makes_shares(op: Op, came: Birth) -> bool:
    """Whether an op makes shares of what may be masked, or differentiates an op that does."""
    if op.of is None:
        return has(op.root.name, Trait.SHARES) or is_of_shares(op)
    return has(op.of.name, Trait.SHARES, Trait.ATTENDS) and came.value.canonical in [
        one.canonical for one in op.of.inputs
    ]


def _may_mask(birth: Birth) -> bool:
    """Whether a −∞ may have been made to mask: it came in, or is the logarithm of a mask."""
    made = birth.op
    return (
        made is None
        or made.operation.kind == "data"
        or has(made.name, Trait.LOGARITHM, Trait.CASTS)
        or _on_purpose(birth)
    )


def _on_purpose(birth: Birth) -> bool:
    """Tell whether an ∞ stands in the program: `where(mask, -mx.inf, x)`, `full(shape, -mx.inf)`."""
    return birth.op is not None and (birth.constant is not None or has(birth.op.name, Trait.FILLS, Trait.SWITCHES))


# -- looking -------------------------------------------------------------------------------------------------


def trouble(look: Look, pass_: Pass) -> Trouble | None:
    """Return what is not finite at the ends of a pass: its loss, its gradients, what an update made."""
    bad = first_not_finite(look, ends(pass_))
    if bad is None:
        return None
    at = first_bad(look, bad)
    return None if at is None else Trouble(bad, pass_, follow(look, bad, at))


def ends(pass_: Pass) -> list[Value]:
    """Return what a pass is run for, the loss first: of an update all that it makes; of what is neither what no op
    goes on with, since an evaluation may mask with −∞ as training does, and a batch with gaps is filled by the model
    that takes it."""
    if pass_.kind == GRADIENT_PASS:
        found = [pass_.loss] if pass_.loss is not None else [root for root, _ in pass_.roots]
        found += [grads[-1] for leaf in pass_.wrt if (grads := pass_.grads.get(leaf))]
    else:
        made = [op for op in pass_.ops if op.error is None]
        found = [value for op in made for value in op.outputs]
        if pass_.kind != UPDATE_PASS:
            found = [value for value in found if not _goes_on(value) and not _is_written(value)]
    return [value for value in found if is_inexact(value) and not value.refusal]


def _goes_on(value: Value) -> bool:
    """Whether an op takes a tensor, or a call may that is closed: what goes into one is not known."""
    made = value.op
    assert made is not None
    closed = (other for other in made.step.passes if isinstance(other.tape.ops[other.start], ClosedOp))
    return bool(value.consumers) or any(other.start > made.position for other in closed)


_MOVES = (Trait.ARRANGES, Trait.CONVERTS, Trait.PICKS, Trait.PUTS, Trait.JOINS, Trait.REPEATS, Trait.CHOOSES,
          Trait.ANSWERS)  # fmt: skip


def _is_written(value: Value) -> bool:
    """Whether the program wrote each number of a tensor itself, an ∞ among them and no NaN, and only moved it since: a
    mask, which is nobody's result before something takes it."""
    stack, seen, infinite = [value], {value}, False
    while stack:
        op = stack.pop().op
        if op is None or not has(op.name, Trait.SOURCE, *_MOVES):
            return False
        constants = [arg for arg in (*op.args, *op.kwargs.values()) if isinstance(arg, float)]
        if any(math.isnan(one) for one in constants) or has(op.name, Trait.RANDOM):
            return False
        infinite |= any(math.isinf(one) for one in constants)
        fresh = [taken for taken in op.inputs if taken not in seen]
        seen.update(fresh)
        stack += fresh
    return infinite


def first_not_finite(look: Look, values: Iterable[Value]) -> Value | None:
    wanted = list(values)
    finite = look.finite(wanted)
    return next((value for value in wanted if not finite[value] and not is_of_mask(look, value)), None)


def vanished(look: Look, pass_: Pass) -> Iterator[tuple[Birth, Op]]:
    """Numbers that are none inside of a pass whose ends are finite: where each was born, and the op that makes a
    finite number of it again. Infinities that only mask (what takes them is a softmax, an exp, a comparison) are
    left out."""
    values = _inside(pass_)
    finite = look.finite(values)
    seen: set[Op | Value] = set()
    for value in values:
        if finite[value]:
            continue
        at = first_bad(look, value)
        if at is None:
            continue
        birth = blamed(follow(look, value, at))
        if (birth.op or birth.value) in seen:
            continue
        seen.add(birth.op or birth.value)
        ending = _ending(look, birth.value if birth.op is not None else value)
        # A weight is never infinite on purpose; a mask that is kept as one is told as that.
        leaf = next((leaf for leaf in pass_.wrt if birth.value in (leaf, leaf.origin)), None)
        trained = leaf is not None and not is_mask(look, leaf)
        if ending is not None and (trained or not _masks(look, birth, ending)):
            yield birth, ending


def _inside(pass_: Pass) -> list[Value]:
    """All tensors of a pass, what comes in included."""
    found: dict[Value, None] = {}
    for op in pass_.ops:
        if op.error is None:
            found.update(dict.fromkeys(value for value in op.inputs if value.op is None))
            found.update(dict.fromkeys(op.outputs))
    return [value for value in found if is_inexact(value) and not value.refusal]


def _ending(look: Look, value: Value) -> Op | None:
    """Return the first op that takes a bad tensor (or what was made of it) and gives finite numbers; None if nothing
    does."""
    stack, seen = [value], {value}
    ended: list[Op] = []
    while stack and len(seen) < 200:
        for user in look.session.tape.consumers(stack.pop()):
            outputs = [out for out in user.outputs if is_inexact(out) and not out.refusal]
            finite = look.finite(outputs)
            bad = [out for out in outputs if not finite[out]]
            if not bad:
                ended.append(user)
            for out in bad:
                if out not in seen:
                    seen.add(out)
                    stack.append(out)
    return min(ended, key=lambda op: op.position, default=None)


def _masks(look: Look, birth: Birth, ending: Op) -> bool:
    """Whether an ∞ is there to mask: a −∞ that a softmax or an exp makes 0 of, or one that is compared or replaced."""
    root = ending.root
    if birth.kind == NAN:
        return birth.op is None and has(root.name, Trait.SWITCHES, Trait.GUARDS)
    if birth.op is None and birth.through is None:
        return True  # a constant whose first user knows what to do with it: the frequency ∞ of a rope
    if _on_purpose(birth) or (birth.op is not None and birth.op.operation.kind == "data"):
        return True
    if not has(root.name, Trait.SWALLOWS):
        return _left_out(look, ending)
    if _may_mask(birth):
        return True
    sign = look.numbers([look.array(birth.value).flatten()[birth.at] < 0])[0]
    return bool(sign)


def _left_out(look: Look, ending: Op) -> bool:
    """Whether what was made of an ∞, a whole number of a bucket, is chosen by no `where` behind."""
    taken = next((one for one in ending.inputs if is_inexact(one) and not look.finite([one])[one]), None)
    if taken is None or len(ending.outputs) != 1 or ending.outputs[0].shape != taken.shape:
        return False
    bad = ~mx.isfinite(look.array(taken))
    stack, seen = [ending.outputs[0]], {ending.outputs[0]}
    while stack and len(seen) < _FOLLOWED:
        value = stack.pop()
        users = look.session.tape.consumers(value)
        if not users:
            return False
        for user in users:
            if has(user.name, Trait.SWITCHES) and _chooses_others(look, user, value, bad):
                continue
            out = user.outputs[0] if len(user.outputs) == 1 else None
            each = has(user.name, Trait.BROADCASTS, Trait.CONVERTS) and not has(user.name, Trait.SWITCHES)
            if not each or out is None or out.shape != value.shape:
                return False
            if out not in seen:
                seen.add(out)
                stack.append(out)
    return not stack


_FOLLOWED = 16


def _chooses_others(look: Look, op: Op, value: Value, bad: mx.array) -> bool:
    """Whether a `where` takes none of the marked elements of a tensor."""
    condition, *sides = op.args
    if not isinstance(condition, Value) or len(sides) != 2 or sum(side is value for side in sides) != 1:
        return False
    chosen = look.array(condition) if sides[0] is value else mx.logical_not(look.array(condition))
    return not look.numbers([mx.any(chosen & bad)])[0]


# -- answers -------------------------------------------------------------------------------------------------


@paused()
def why_nonfinite(session: Reading, kind: str = "") -> Cause:
    """`why nan`, `why inf`: the ends of the pass at the cursor, then those of all passes in order, then what is inside
    of the pass at the cursor."""
    look = Look(session)
    looked: list[Pass] = []
    for pass_ in _passes(session):
        looked.append(pass_)
        found = trouble(look, pass_)
        if found is not None:
            answer = _answer(look, found)
            answer.also.extend(say(_no_infinity(look, found.birth, kind)))
            answer.also.extend(say_first(_since(look, session, found)))
            answer.also.extend(leapt(look, session))
            return answer
    here = session.pass_
    inside = [here] if here is not None and len(here) else []
    for pass_ in [*inside, *(pass_ for pass_ in looked if pass_ is not here)]:
        for birth, ending in vanished(look, pass_):
            return _divided_away(look, birth, ending, [*looked, *inside])
    return Cause(_all_finite(look, looked), ops=look.ops)


def _no_infinity(look: Look, birth: Birth, kind: str) -> Claim[str]:
    """Claim, where it was asked about ∞, that a NaN was born without one."""
    return Claim("why: no ∞", lambda: kind == INF and _is_nan_alone(look, birth), lambda: (
        "It is a NaN; no ∞ was found on its way."))  # fmt: skip


def _is_nan_alone(look: Look, birth: Birth) -> bool:
    """Whether a number is NaN, and none behind it is infinite."""
    if birth.kind != NAN or not is_born(look, birth):
        return False
    return birth.before is None or _is_nan_alone(look, birth.before)


def _all_finite(look: Look, passes: list[Pass]) -> Said:
    """Return what was looked at, where nothing was found."""
    over = "no pass" if not passes else f"{passes[0].address}" if len(passes) == 1 else f"{len(passes)} passes"
    seen = f"{words.counted(look.looked, 'tensor')} of {over}"
    unseen = sum(bool(value.refusal) for pass_ in passes for op in pass_.ops for value in op.outputs)

    def ends_are_finite() -> bool:
        return look.looked > 0 and first_not_finite(look, [end for pass_ in passes for end in ends(pass_)]) is None

    return joined(
        say_first([
            Claim("why: nothing seen", lambda: not look.looked, lambda: (
                f"Nothing was looked at: there is no floating-point tensor with numbers in {over}.")),
            Claim("why: all finite", lambda: look.looked > 0 and look.all_finite, lambda: (
                f"Every number that was looked at is finite: {seen}.")),
            Claim("why: ends finite", ends_are_finite, lambda: (
                f"Every loss and every gradient is finite ({seen}); there are numbers inside that are not, and none of "
                f"them reaches a loss or a gradient. The first: {_first_inside(look.not_finite)}.")),
        ]),
        say(Claim("why: unseen", lambda: unseen > 0, lambda: (
            f"{words.counted(unseen, 'tensor')} could not be looked at: "
            f"{'its' if unseen == 1 else 'their'} numbers are not kept."))),
    )  # fmt: skip


def _first_inside(values: list[Value]) -> str:
    """Return the first of some tensors by what made it: `x@8 of #8, pad(x) (pool.py:31)`; one that came in by name."""
    first = min(values, key=lambda value: -1 if value.op is None else value.op.position, default=None)
    if first is None or first.op is None:
        return "none" if first is None else f"{first.name}, which came in"
    return f"{first.name} of {did(first.op)}" if first.name != first.op.label else did(first.op)


def _passes(session: Reading) -> list[Pass]:
    """Return the gradient pass at the cursor (or before) first, then all in order, but for those that are closed."""
    ops = session.tape.ops
    passes = [pass_ for pass_ in session.tape.passes if len(pass_) and not isinstance(ops[pass_.start], ClosedOp)]
    here = gradient_pass_or_none(session)
    return [here, *(pass_ for pass_ in passes if pass_ is not here)] if here in passes and here is not None else passes


def _since(look: Look, session: Reading, found: Trouble) -> Iterator[Claim[str]]:
    """Yield since which pass the losses have been so."""
    passes = [pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS and pass_.loss is not None]
    losses = {pass_: pass_.loss for pass_ in passes if pass_.loss is not None and not pass_.loss.refusal
              and is_inexact(pass_.loss)}  # fmt: skip
    finite = look.finite(losses.values())
    bad = [pass_ for pass_, loss in losses.items() if not finite[loss]]
    if not bad or found.pass_.kind != GRADIENT_PASS:
        return
    behind = passes[passes.index(bad[0]) :]
    many = f"{len(bad)} of {len(losses)} losses on the tape"
    yield Claim("why: only this loss", lambda: len(bad) == 1 and len(losses) > 1, lambda: (
        f"Of {len(losses)} losses on the tape only that of {bad[0].address} is not finite."))  # fmt: skip
    yield Claim("why: losses since", lambda: len(bad) > 1 and bad == behind, lambda: (
        f"The loss has not been finite since {bad[0].address} ({many})."))  # fmt: skip
    yield Claim("why: some losses", lambda: len(bad) > 1, lambda: (
        f"{many} are not finite, that of {bad[0].address} first."))  # fmt: skip


def why_nonfinite_value(session: Reading, value: Value, kind: str = "") -> Cause:
    """`why z is nan`: only what leads to one value."""
    look = Look(session)
    stat = look.stat(value)
    finite = Claim("why: value finite", lambda: look.finite([value])[value], lambda: (
        f"{value.name} is finite: {words.counted(stat.size, 'ordinary number')}, the largest "
        f"{words.number(stat.peak)} in size."))  # fmt: skip
    at = first_bad(look, value, kind)
    wanted = at if at is not None else first_bad(look, value)
    pass_ = value.op.pass_ if value.op is not None else session.pass_
    if wanted is None or pass_ is None:
        return Cause(stated(finite), ops=look.ops)
    answer = _answer(look, Trouble(value, pass_, follow(look, value, wanted)))
    none = Claim("why: other kind", lambda: bool(kind) and first_bad(look, value, kind) is None and stat.size > 1,
                 lambda: (f"{value.name} holds no {SIGN[kind]}, but "
                          f"{amount(stat.nans, stat.infs, stat.size)}."))  # fmt: skip
    answer.also.extend(say(none))
    return answer


def _grown(look: Look, taken: Value) -> list[Said]:
    """Return what made a tensor large, a sentence if that is known."""
    if taken.gradient_of is not None:
        cause = grows(look, taken)
        largest = f"The largest number of {taken.name} is {words.number(look.stat(taken).peak)} in size: "
        return [] if cause is None else cause.said(look, "grows", largest)
    grew = made_large(look, taken)
    return [grew.text] if grew is not None else []


def _answer(look: Look, found: Trouble) -> Cause:
    """Return the cause first, then what became of it."""
    root = found.cause
    answer = Cause(stated(*_heads(look, found)), root.op)
    _tell(look, answer, root)
    if root.op is not None and root.op.of is None and root.before is None:
        taken = max(_visible(look, root.op.inputs), key=lambda value: look.stat(value).peak, default=None)
        answer.also.extend(_grown(look, taken) if taken is not None else [])
    answer.also.extend(say_first(_behind(look, found)))
    answer.ops = look.ops
    return answer


def _heads(look: Look, found: Trouble) -> Iterator[Claim[str]]:
    """Yield what is not finite, with where it was born, if that holds."""
    end, root = found.end, found.cause
    stat = look.stat(end)
    whose = f"The loss of {found.pass_.address}" if end is found.pass_.loss else end.name
    verb = f"is {_shown(look, end, 0)}" if end.size == 1 else f"has {amount(stat.nans, stat.infs, stat.size)}"

    def is_bad() -> bool:
        return not look.finite([end])[end]

    yield Claim("why: born", lambda: is_bad() and is_born(look, root), lambda: f"{whose} {verb}: {born(root)}.")
    yield Claim("why: not finite", is_bad, lambda: f"{whose} {verb}.")


def _behind(look: Look, found: Trouble) -> Iterator[Claim[str]]:
    """Yield what became of the ∞ that is to blame; of a NaN that is, where the ∞ came from that made it."""
    birth, root = found.birth, found.cause
    before = None if root.before is None else blamed(root.before)
    yield Claim(
        "why: became NaN",
        lambda: birth is not root and birth.kind == NAN and root.kind == INF and is_born(look, birth),
        lambda: f"{_of_what(look, birth, root)} became NaN in {did_of(birth)}.",
    )
    if before is None:
        return
    yield Claim("why: came from", lambda: is_born(look, before), lambda: f"The ∞ came from here: {born(before)}.")


def _of_what(look: Look, birth: Birth, root: Birth) -> str:
    """Return what became NaN: the ∞ itself, or the gradient where it lies: the slope of log(0) is 1 / 0, which nobody
    has made of the −∞."""
    if not is_of_slope(look, birth) or birth.op is None or birth.op.of is None:
        return "Of the ∞ it"
    there = root.at == birth.at and root.value in birth.op.of.outputs
    return "Where it is ∞ the gradient" if there else "The gradient"


def _visible(look: Look, values: Iterable[Value]) -> list[Value]:
    """Those of some tensors that can be followed: with numbers that can be had."""
    return [value for value in dict.fromkeys(values) if value.size and is_inexact(value) and look.can_see(value)]


def _shown(look: Look, value: Value, at: int) -> str:
    return words.number(look.numbers([look.array(value).flatten()[at]])[0])


def _tell(look: Look, answer: Cause, birth: Birth) -> None:
    """Say the element at which it happened, the rule that was broken, and what shows it."""
    value, op = birth.value, birth.op
    stat = look.stat(value)
    element = words.element(value.name, unravel(birth.at, value.shape))
    number = _shown(look, value, birth.at)
    many = f"   ({amount(stat.nans, stat.infs, stat.size)})" if stat.size > 1 else ""
    is_made = op is not None and op.operation.kind != "data" and not has(op.name, Trait.GIVEN)
    rule = broken(look, birth) if is_made else Broken()
    arithmetic = f"{rule.sum} = " if rule.sum else ""

    def is_bad() -> bool:
        return not look.numbers([mx.isfinite(look.array(value).flatten()[birth.at])])[0]

    answer.reasons += say(Claim("why: element", is_bad, lambda: f"{element} = {arithmetic}{number}{many}"))
    answer.reasons += rule.rule
    answer.reasons += say_first([
        Claim("why: taken in", lambda: not is_made and value.op is op is not None, lambda: (
            f"It was made by {did_of(birth)}.")),
        Claim("why: no op made it", lambda: value.op is None, lambda: "No op on the tape made it."),
    ])  # fmt: skip
    answer.evidence = [Evidence(name, text) for name, text in rule.operands]
    answer.advice = rule.advice


def _divided_away(look: Look, birth: Birth, ending: Op, passes: list[Pass]) -> Cause:
    """Return an ∞ or a NaN that no loss and no gradient shows."""

    def holds() -> bool:
        made = [one for one in ending.outputs if is_inexact(one)]
        gone = first_not_finite(look, [*made, *(end for pass_ in passes for end in ends(pass_))]) is None
        return gone and is_born(look, birth)

    answer = Cause(stated(Claim("why: gone again", holds, lambda: (
        f"No loss and no gradient is NaN or ∞, but {born(birth)}, and {did(ending)}, makes finite numbers of it again."
    ))), birth.op)  # fmt: skip
    _tell(look, answer, birth)
    for out in [one for one in ending.outputs if is_inexact(one)][:1]:
        answer.also += say(_zeros_of(look, out))
    answer.ops = look.ops
    return answer


def _zeros_of(look: Look, out: Value) -> Claim[str]:
    """Claim that a result has zeros."""
    zeros = look.stat(out).zeros
    return Claim("why: zeros of it", lambda: zeros > 0, lambda: (
        f"Its result {out.name} is 0 at {words.count_of(zeros, out.size, 'place')}."))  # fmt: skip


__all__ = ["Trouble", "ends", "trouble", "vanished", "why_nonfinite", "why_nonfinite_value"]
