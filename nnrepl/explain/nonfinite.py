"""Nonfinite: where NaN and ∞ come from: the element of the loss or of a gradient, followed back to its birth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from nnrepl.explain import words
from nnrepl.explain.answer import Cause, Evidence
from nnrepl.explain.broken import broken, is_of_shares
from nnrepl.explain.forward import made_large
from nnrepl.explain.look import Look
from nnrepl.explain.paths import gradient_pass_or_none
from nnrepl.explain.scale import grows
from nnrepl.ops import Trait, has
from nnrepl.session.births import INF, NAN, Birth, first_bad, follow, is_inexact, unravel
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, ClosedOp, Leaf, Op, Pass, Value
from nnrepl.tape.claims import Claim, say, say_first
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
    return made is None or made.operation.kind == "data" or made.name in ("log", "astype") or _on_purpose(birth)


def _on_purpose(birth: Birth) -> bool:
    """Tell whether an ∞ stands in the program: `where(mask, -mx.inf, x)`, `full(shape, -mx.inf)`."""
    return birth.op is not None and (birth.constant is not None or birth.op.name in ("full", "where"))


# -- looking -------------------------------------------------------------------------------------------------


def trouble(look: Look, pass_: Pass) -> Trouble | None:
    """Return what is not finite at the ends of a pass: its loss, its gradients, what an update made."""
    bad = _first_not_finite(look, ends(pass_))
    if bad is None:
        return None
    at = first_bad(look, bad)
    return None if at is None else Trouble(bad, pass_, follow(look, bad, at))


def ends(pass_: Pass) -> list[Value]:
    """Return what a pass is run for, the loss first: of an update all that it makes; of what is neither what nothing
    in it goes on with, since an evaluation may mask with −∞ as training does."""
    if pass_.kind == GRADIENT_PASS:
        found = [pass_.loss] if pass_.loss is not None else [root for root, _ in pass_.roots]
        found += [grads[-1] for leaf in pass_.wrt if (grads := pass_.grads.get(leaf))]
    else:
        made = [op for op in pass_.ops if op.error is None]
        taken = set() if pass_.kind == UPDATE_PASS else {value for op in made for value in op.inputs}
        found = [value for op in made for value in op.outputs if value not in taken]
    return [value for value in found if is_inexact(value) and not value.refusal]


def _first_not_finite(look: Look, values: Iterable[Value]) -> Value | None:
    wanted = list(values)
    finite = look.finite(wanted)
    return next((value for value in wanted if not finite[value]), None)


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
        # A weight is never infinite on purpose.
        trained = any(birth.value in (leaf, leaf.origin) for leaf in pass_.wrt)
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
        return birth.op is None and root.name in ("where", "isnan", "isfinite", "nan_to_num")
    if birth.op is None and birth.through is None:
        return True  # a constant whose first user knows what to do with it: the frequency ∞ of a rope
    if _on_purpose(birth) or (birth.op is not None and birth.op.operation.kind == "data"):
        return True
    if not has(root.name, Trait.SWALLOWS):
        return False
    if _may_mask(birth):
        return True
    sign = look.numbers([look.array(birth.value).flatten()[birth.at] < 0])[0]
    return bool(sign)


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
            if kind == INF and found.cause.kind == NAN:
                answer.also.append("It is a NaN; no ∞ was found on its way.")
            since = _since(look, session, found)
            if since:
                answer.also.append(since)
            return answer
    here = session.pass_
    inside = [here] if here is not None and len(here) else []
    for pass_ in [*inside, *(pass_ for pass_ in looked if pass_ is not here)]:
        for birth, ending in vanished(look, pass_):
            return _divided_away(look, birth, ending)
    return Cause(_all_finite(look, looked), ops=look.ops)


def _all_finite(look: Look, passes: list[Pass]) -> str:
    """Return what was looked at, where nothing was found."""
    over = "no pass" if not passes else f"{passes[0].address}" if len(passes) == 1 else f"{len(passes)} passes"
    seen = f"{words.counted(look.looked, 'tensor')} of {over}"
    unseen = sum(bool(value.refusal) for pass_ in passes for op in pass_.ops for value in op.outputs)

    def ends_are_finite() -> bool:
        return look.looked > 0 and _first_not_finite(look, [end for pass_ in passes for end in ends(pass_)]) is None

    return " ".join([
        *say_first([
            Claim("why: nothing seen", lambda: not look.looked, lambda: (
                f"Nothing was looked at: there is no floating-point tensor with numbers in {over}.")),
            Claim("why: all finite", lambda: look.looked > 0 and look.all_finite, lambda: (
                f"Every number that was looked at is finite: {seen}.")),
            Claim("why: ends finite", ends_are_finite, lambda: (
                f"Every loss and every gradient is finite ({seen}); there are numbers inside that are not, and none of "
                "them reaches a loss or a gradient.")),
        ]),
        *say(Claim("why: unseen", lambda: unseen > 0, lambda: (
            f"{words.counted(unseen, 'tensor')} could not be looked at: "
            f"{'its' if unseen == 1 else 'their'} numbers are not kept."))),
    ])  # fmt: skip


def _passes(session: Reading) -> list[Pass]:
    """Return the gradient pass at the cursor (or before) first, then all in order, but for those that are closed."""
    ops = session.tape.ops
    passes = [pass_ for pass_ in session.tape.passes if len(pass_) and not isinstance(ops[pass_.start], ClosedOp)]
    here = gradient_pass_or_none(session)
    return [here, *(pass_ for pass_ in passes if pass_ is not here)] if here in passes and here is not None else passes


def _since(look: Look, session: Reading, found: Trouble) -> str:
    """Since which pass the loss has been so."""
    passes = [pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS and pass_.loss is not None]
    losses = [
        pass_.loss for pass_ in passes if pass_.loss is not None and not pass_.loss.refusal and is_inexact(pass_.loss)
    ]
    finite = look.finite(losses)
    bad = [pass_ for pass_ in passes if pass_.loss in finite and not finite[pass_.loss]]
    if not bad or found.pass_.kind != GRADIENT_PASS:
        return ""
    if len(bad) == 1:
        return f"Of {len(losses)} losses on the tape only that of {bad[0].address} is not finite." if len(
            losses) > 1 else ""  # fmt: skip
    if bad[-1] is not passes[-1] or len(bad) < len(passes) - passes.index(bad[0]):
        return f"{len(bad)} of {len(losses)} losses on the tape are not finite, that of {bad[0].address} first."
    return f"The loss has not been finite since {bad[0].address} ({len(bad)} of {len(losses)} losses on the tape)."


def why_nonfinite_value(session: Reading, value: Value, kind: str = "") -> Cause:
    """`why z is nan`: only what leads to one value."""
    look = Look(session)
    stat = look.stat(value)
    if stat.is_finite:
        peak = f", the largest {words.number(stat.peak)} in size" if stat.size else ""
        return Cause(f"{value.name} is finite: {words.counted(stat.size, 'ordinary number')}{peak}.", ops=look.ops)
    at = first_bad(look, value, kind)
    wanted = at if at is not None else first_bad(look, value)
    assert wanted is not None
    pass_ = value.op.pass_ if value.op is not None else session.pass_
    assert pass_ is not None
    answer = _answer(look, Trouble(value, pass_, follow(look, value, wanted)))
    if at is None and stat.size > 1:
        answer.also.append(f"{value.name} holds no {_SIGN[kind]}, but {amount(stat.nans, stat.infs, stat.size)}.")
    return answer


_SIGN = {NAN: "NaN", INF: "∞"}


def _number(birth: Birth) -> str:
    return "−∞" if birth.kind == INF and birth.negative else _SIGN[birth.kind]


def amount(nans: int, infs: int, size: int) -> str:
    """`2 NaN among 6 numbers`."""
    parts = [f"{count} {name}" for count, name in ((nans, "NaN"), (infs, "∞")) if count]
    return f"{' and '.join(parts)} among {size} number{'s' if size != 1 else ''}"


def did(op: Op) -> str:
    """`#6, exp(z) (train.py:31)`; a VJP by the op that it differentiates."""
    where = words.spot(op)
    what = f"the VJP of {words.call(op.of)}" if op.of is not None else words.call(op)
    return f"{op.label}, {what}" + (f" ({where})" if where else "")


def born(birth: Birth) -> str:
    """Where a number was born, as the end of a sentence: `#6, exp(z) (train.py:31), makes ∞ out of finite numbers`."""
    if birth.op is None or birth.op.operation.kind == "data" or birth.op.name == "array":
        return came_in(birth)
    if birth.lost:
        return f"{birth.value.name} holds {_number(birth)}; what made it cannot be followed further: {birth.lost}"
    if birth.constant is not None:
        return f"{did(birth.op)}, has {words.number(birth.constant)} in its call"
    empty = birth.op.inputs and not any(taken.size for taken in birth.op.inputs)
    out = "infinite ones" if birth.before is not None else "no numbers" if empty else "finite numbers"
    inner = f"; inside of that call, {born(birth.within)}" if birth.within is not None else ""
    return f"{did(birth.op)}, makes {_number(birth)} out of {out}{inner}"


def came_in(birth: Birth) -> str:
    """Where a number came in that no op made: with which array, at which element, and who takes it first."""
    value = birth.value
    element = words.element(value.name, unravel(birth.at, value.shape))
    what = f"{element} came in as {_number(birth)}"
    if birth.op is not None:
        where = words.place(birth.op.source)
        what = f"{element} is {_number(birth)} in the data that {birth.op.label} {birth.op.name} takes in" + (
            f" ({where})" if where else "")  # fmt: skip
    elif isinstance(value, Leaf) and value.kind in _KINDS:
        what = f"{_KINDS[value.kind]} {what}"
    user = birth.through or next(iter(value.consumers), None)
    first = f"; {did(user)} of {user.pass_.address}, takes it" if user is not None else ""
    return what + first


_KINDS = {"parameter": "the parameter", "input": "the input", "constant": "the constant", "captured": "the captured"}


def _grown(look: Look, taken: Value) -> list[str]:
    """Return what made a tensor large, a sentence if that is known."""
    if taken.gradient_of is not None:
        cause = grows(look, taken)
        return [f"{taken.name} is large: {cause.say('grows')}"] if cause is not None else []
    grew = made_large(look, taken)
    return [grew.text] if grew is not None else []


def _answer(look: Look, found: Trouble) -> Cause:
    """Return the cause first, then what became of it."""
    root = found.cause
    end = found.end
    stat = look.stat(end)
    is_loss = end is found.pass_.loss
    whose = f"The loss of {found.pass_.address}" if is_loss else end.name
    verb = f"is {_shown(look, end, 0)}" if end.size == 1 else f"has {amount(stat.nans, stat.infs, stat.size)}"
    answer = Cause(f"{whose} {verb}: {born(root)}.", root.op)
    _tell(look, answer, root)
    if root.op is not None and root.op.of is None and root.before is None and root.kind == INF:
        taken = max(_visible(look, root.op.inputs), key=lambda value: look.stat(value).peak, default=None)
        answer.also.extend(_grown(look, taken) if taken is not None else [])
    if found.birth is not root:
        answer.also.append(f"Of the ∞ it became NaN in {did_of(found.birth)}.")
    elif root.before is not None:
        before = blamed(root.before)
        meant = "is there on purpose, as it seems" if _on_purpose(before) else "came from here"
        answer.also.append(f"The ∞ {meant}: {born(before)}.")
    answer.ops = look.ops
    return answer


def _visible(look: Look, values: Iterable[Value]) -> list[Value]:
    """Those of some tensors that can be followed: with numbers that can be had."""
    return [value for value in dict.fromkeys(values) if value.size and is_inexact(value) and look.can_see(value)]


def did_of(birth: Birth) -> str:
    """Return the op of a birth, or the leaf."""
    return birth.value.name if birth.op is None else did(birth.op)


def _shown(look: Look, value: Value, at: int) -> str:
    return words.number(look.numbers([look.array(value).flatten()[at]])[0])


def _tell(look: Look, answer: Cause, birth: Birth) -> None:
    """Say the element at which it happened, the rule that was broken, and what shows it."""
    value = birth.value
    stat = look.stat(value)
    element = words.element(value.name, unravel(birth.at, value.shape))
    number = _shown(look, value, birth.at)
    many = f"   ({amount(stat.nans, stat.infs, stat.size)})" if stat.size > 1 else ""
    if birth.op is None or birth.op.operation.kind == "data" or birth.op.name == "array":
        answer.reasons.append(f"{element} = {number}{many}")
        made = f"It was made by {did(birth.op)}." if birth.op is not None else "No op on the tape made it."
        answer.reasons.append(made)
        return
    rule = broken(look, birth)
    arithmetic = f"{rule.sum} = " if rule.sum else ""
    answer.reasons.append(f"{element} = {arithmetic}{number}{many}")
    if rule.rule:
        answer.reasons.append(rule.rule)
    answer.evidence = [Evidence(name, text) for name, text in rule.operands]
    answer.advice = rule.advice


def _divided_away(look: Look, birth: Birth, ending: Op) -> Cause:
    """Return an ∞ or a NaN that no loss and no gradient shows."""
    answer = Cause(f"No loss and no gradient is NaN or ∞, but {born(birth)}, and {did(ending)}, makes finite numbers "
                    "of it again.", birth.op)  # fmt: skip
    _tell(look, answer, birth)
    outputs: Sequence[Value] = [out for out in ending.outputs if mx.issubdtype(out.dtype, mx.inexact)]
    for out in outputs[:1]:
        stat = look.stat(out)
        if stat.zeros:
            answer.also.append(f"Its result {out.name} is 0 at {words.count_of(stat.zeros, stat.size)} places.")
    answer.ops = look.ops
    return answer


__all__ = ["Trouble", "born", "ends", "trouble", "vanished", "why_nonfinite", "why_nonfinite_value"]
