"""Gradients: missing, zero, tiny, huge, lost in half precision, and numbers that are none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain import words
from nnrepl.explain.blame import Blame, blame, cone_stats
from nnrepl.explain.born import amount, born, did
from nnrepl.explain.health.activations import was_alive
from nnrepl.explain.health.report import NOTE, WARNING, Check, Checkup, Finding, findings
from nnrepl.explain.limits import is_lost
from nnrepl.explain.nonfinite import Trouble, blamed, ends, first_not_finite, trouble, vanished
from nnrepl.explain.outside import detours
from nnrepl.explain.paths import cone, leaves_later
from nnrepl.explain.scale import LineSteps, grows, shrinks, weight_of
from nnrepl.explain.stuck import reason_for
from nnrepl.explain.zero_reasons import Reason
from nnrepl.explain.zeros import versions
from nnrepl.installed import is_library
from nnrepl.ops import Trait, has
from nnrepl.record.batches import total
from nnrepl.session.births import INF, Birth, is_inexact
from nnrepl.tape import Op, Value
from nnrepl.tape.claims import Claim


def nonfinite(case: Checkup) -> Iterator[Finding]:
    """NaN and ∞ in the loss, in gradients and in what the update makes; and those that vanish again on the way."""
    for pass_ in [case.pass_, *case.after]:
        found = trouble(case.look, pass_)
        if found is None:
            continue
        case.broken = True
        yield from findings(_not_finite(case, found), "non-finite", "why nan", found.cause.op)
        return
    for birth, ending in vanished(case.look, case.pass_):
        kind = "why inf" if birth.kind == INF else "why nan"
        yield from findings(_gone_again(case, birth, ending), "non-finite", kind, birth.op)


def _not_finite(case: Checkup, found: Trouble) -> Claim[str]:
    """Claim that a loss, a gradient or a new weight is not finite, nor what is to blame for it."""
    stat = case.look.stat(found.end)
    end = "the loss" if found.end is found.pass_.loss else found.end.name
    what = f"is {'NaN' if stat.nans else '∞'}" if stat.size == 1 else f"has {amount(stat.nans, stat.infs, stat.size)}"
    behind = found.cause.before
    of = f"; the ∞ came in so: {born(blamed(behind))}" if behind is not None else ""
    return Claim(
        "finding: not finite", lambda: not any(case.look.finite([found.end, found.cause.value]).values()),
        lambda: f"{end} {what}: {born(found.cause)}{of}",
    )  # fmt: skip


def _gone_again(case: Checkup, birth: Birth, ending: Op) -> Claim[str]:
    """Claim that a number is none, that an op gives finite numbers although it takes what came of it, and that neither
    the loss nor a gradient shows it."""

    def holds() -> bool:
        finite = case.look.finite([birth.value, *(one for one in ending.outputs if is_inexact(one))])
        ended = first_not_finite(case.look, ends(case.pass_)) is None
        return not finite.pop(birth.value) and all(finite.values()) and ended

    return Claim(
        "finding: gone again",
        holds,
        lambda: f"{born(birth)}; {did(ending)}, makes finite numbers of it again: no loss and no gradient shows it",
    )


def finals(case: Checkup) -> dict[Value, Value]:
    """Return the whole gradient of each leaf that has one."""
    pass_ = case.pass_
    return {leaf: pass_.grads[leaf][-1] for leaf in pass_.wrt if pass_.grads.get(leaf) and leaf.size}


_LOOKED = 64


@dataclass(frozen=True, slots=True)
class Dead:
    """Parameters whose gradient became 0 at one op for one reason.

    Attributes:
        op: The backward op.
        leaves: The parameters.
        reason: Why.
        level: How bad it is: zeros that the model makes on purpose may be meant.
        ways: Where the gradient of the first of them became 0 on other ways.
        others: Other ops of the same line where that of others of them became 0, for the same reason.
        condition: Whether only conditions (or places) are made of them: masks that are kept as parameters.
    """

    op: Op
    leaves: list[Value]
    reason: Reason
    level: str
    ways: list[Blame]
    others: list[Op]
    condition: bool = False


def dead(case: Checkup) -> Iterator[Dead]:
    """Parameters whose gradient is 0 everywhere, grouped by the op where it became so, or by its line where other ops
    of it did the same for the same reason; those left out that begin to learn by themselves, or belong to how the model
    works."""
    grads = finals(case)
    stats = case.look.stats(grads.values())
    zeros = [leaf for leaf, grad in grads.items() if stats[grad].is_zero and mx.issubdtype(leaf.dtype, mx.inexact)]
    groups: dict[tuple[str, str], list[tuple[Value, Blame, Reason, list[Blame]]]] = {}
    known: dict[Value, Reason] = {}
    for leaf in zeros:
        blamed = blame(case.look, grads[leaf], cone_stats(case.look, grads[leaf]))
        if not blamed:
            continue
        first = blamed[0]
        if _is_divided_away(case, first):
            continue  # told as that
        if first.value not in known:
            known[first.value] = reason_for(case.look, first.op, first.value, first.mask)
        key = line_of(first.op) or first.op.label, known[first.value].kind
        groups.setdefault(key, []).append((leaf, first, known[first.value], blamed[1:]))
    for group in groups.values():
        _, first, reason, ways = group[0]
        leaves, op, some = [leaf for leaf, *_ in group], first.op, len(zeros) < len(grads)
        others = list(dict.fromkeys(other.op for _, other, *_ in group if other.op is not op))
        if some and (will_move(case, reason.start) or is_meant(case, op, leaves)):
            continue
        step = op.of is not None and (
            (has(op.of.name, Trait.STEPS) and 4 * len(leaves) < len(grads)) or has(op.of.name, Trait.PICKS)
        )
        made = reason.start is not None and reason.start.op is not None  # zeros that the program makes in this pass
        learned = op.of is not None and op.of.name == "maximum" and was_alive(case, op.of)
        condition = some and _is_condition(first) and all(_is_mask(case, leaf) for leaf in leaves)
        meant = step or learned or condition or ((made or reason.cancels) and some)
        yield Dead(op, leaves, reason, NOTE if meant else WARNING, ways, others, condition)


def _is_divided_away(case: Checkup, first: Blame) -> bool:
    """Whether the gradient of a number is 0 where an ∞ goes in or out."""
    forward = first.op.of
    if forward is None or _is_condition(first):
        return False
    return not all(case.look.finite([*forward.inputs, *forward.outputs]).values())


def _is_mask(case: Checkup, leaf: Value) -> bool:
    """Whether a parameter holds zeros and one other number, of which weight decay may have taken something."""
    if not case.look.can_see(leaf):
        return False
    array = case.look.array(leaf)
    return bool(case.look.numbers([mx.all((array == 0) | (array == mx.max(array)))])[0])


def _is_condition(first: Blame) -> bool:
    """Whether what gets the 0 is a condition, or a place: no number that could learn."""
    of = first.value.gradient_of
    return of is not None and not is_inexact(of)


def zero(case: Checkup) -> Iterator[Finding]:
    """Gradients that are 0 everywhere."""
    for one in () if case.broken else dead(case):
        yield from findings(_are_zero(case, one), "zero gradient", f"why grad({one.leaves[0].name}) == 0",
                            one.reason.op or one.op, one.level)  # fmt: skip


def _are_zero(case: Checkup, one: Dead) -> Claim[str]:
    """Claim that no element of some gradients is anything but 0."""
    grads = finals(case)

    def holds() -> bool:
        return not any(case.look.numbers([mx.any(case.look.array(grads[leaf]) != 0) for leaf in one.leaves]))

    are, them = ("is", "it") if len(one.leaves) == 1 else ("are", "they")
    at = f"{words.title(one.op)}{_and_at(one)}{line_of(one.op)}"
    return Claim("finding: zero gradient", holds, lambda: (
        f"{listed(one.leaves, '∂L/∂')} {are} 0: {them} became 0 at {at}: {one.reason.text.rstrip('.')}"
        f"{_other_ways(case, one)}{_further_on(case, one)}{_as_a_mask(one)}"))  # fmt: skip


def _and_at(one: Dead) -> str:
    if not one.others:
        return ""
    more = f" and {len(one.others) - 3} more" if len(one.others) > 3 else ""
    return f", and likewise at {', '.join(op.label for op in one.others[:3])}{more}"


def _further_on(case: Checkup, one: Dead) -> str:
    """Which op behind the one that made the gradient 0 would make it 0 as well, whatever came: a step has no slope."""
    told = {way.op for way in one.ways} | {one.op, *one.others}
    if one.op.of is not None and has(one.op.of.name, Trait.STEPS):
        return ""
    ways = cone([finals(case)[one.leaves[0]]])
    steps = [op.of for op in ways if op.of is not None and op not in told and has(op.of.name, Trait.STEPS)]
    steps = [op for op in steps if not is_library(op.source.file)]
    return f". {words.call(steps[0])} ({words.spot(steps[0])}) would pass nothing either" if steps else ""


def _as_a_mask(one: Dead) -> str:
    """Return what to write instead where a mask is kept as a parameter: only weight decay could move it."""
    if not one.condition:
        return ""
    last = one.leaves[0].name.rpartition(".")[2]
    return f'. It is among the trained parameters all the same: freeze(keys=["{last}"]), or call it _{last}'


def _other_ways(case: Checkup, one: Dead) -> str:
    """Where else the gradient became 0, if it did for another reason."""
    told, text = {one.reason.op or one.reason.text}, ""
    for way in one.ways[:3]:
        reason = reason_for(case.look, way.op, way.value, way.mask)
        if (reason.op or reason.text) not in told:
            told.add(reason.op or reason.text)
            text += f"; on another way it became 0 at {words.title(way.op)}{line_of(way.op)}: {reason.text.rstrip('.')}"
    return text


def line_of(op: Op) -> str:
    """Where the op stands that a backward op differentiates, in brackets."""
    where = words.spot(op.of or op)
    return f" ({where})" if where else ""


def will_move(case: Checkup, start: Value | None) -> bool:
    """Whether it is a parameter that is 0 and learns: its zeros are left behind, unless they have stayed for several
    steps."""
    if start is None or start.op is not None:
        return False
    grads = case.pass_.grads.get(start)
    return (not grads or not case.look.stat(grads[-1]).is_zero) and not _has_stayed(case, start)


_SEVERAL = 3  # steps after which a learning rate that warms up from 0 has left it


def _has_stayed(case: Checkup, start: Value) -> bool:
    """Whether a parameter that is 0 was 0 several steps before as well, with a gradient that was not."""
    for old in case.series:
        if old.step.number > case.pass_.step.number - _SEVERAL or start not in case.pass_.wrt:
            return False
        same = next((leaf for leaf, later in leaves_later(old, case.pass_).items() if later is start), None)
        grads = old.grads.get(same) if same is not None else None
        if same is not None and grads and case.look.can_see(same):
            return case.look.stat(same).is_zero and not case.look.stat(grads[-1]).is_zero
    return False


def is_meant(case: Checkup, op: Op, leaves: list[Value]) -> bool:
    """Zeros that belong to how the model works."""
    forward = op.of
    if forward is None:
        return False
    table = forward.inputs[0].op is None if forward.inputs else False
    looked_up = table and has(forward.name, Trait.PICKS) and any(not is_inexact(taken) for taken in forward.inputs)
    if looked_up or (has(forward.name, Trait.PRODUCT) and has(forward.name, Trait.PICKS)):
        return True  # what was not looked up in this batch, an expert that no token chose
    if (
        has(forward.name, Trait.CHOOSES)
        and not has(forward.name, Trait.SELECTS)
        and all(leaf.size == 1 and leaf.op is None for leaf in leaves)
    ):
        return True  # a learned limit that was not reached
    return forward.name == "softmax" and case.look.stat(forward.inputs[0]).infs > 0  # a router that leaves one choice


def listed(leaves: list[Value], sign: str = "") -> str:
    """Name up to three leaves, and say how many more there are."""
    shown = ", ".join(sign + leaf.name for leaf in leaves[:3])
    return shown + (f" and {len(leaves) - 3} more" if len(leaves) > 3 else "")


def scale(case: Checkup) -> Iterator[Finding]:
    """Gradients that are tiny against their weight or the other gradients, or huge altogether."""
    if case.broken:
        return
    grads = finals(case)
    parameters = {leaf: grad for leaf, grad in grads.items() if leaf.kind == "parameter"}
    grads = parameters or grads
    stats = case.look.stats([*grads.values(), *grads])
    alive = {leaf: grad for leaf, grad in grads.items() if not stats[grad].is_zero and stats[leaf].peak < _MASK}
    if not alive:
        return
    whole = math.sqrt(sum(stats[grad].norm ** 2 for grad in alive.values()))
    worst = max(alive, key=lambda leaf: stats[alive[leaf]].norm)
    # A norm grows with the number of elements: those of a sum over many millions are not huge, each is 1.
    if whole > case.limits["huge"] and stats[alive[worst]].typical > _EACH:
        yield from findings(_is_huge(case, alive, whole, worst), "huge gradients", f"why grad({worst.name}) is huge",
                            alive[worst].op)  # fmt: skip
    matrices = {leaf: grad for leaf, grad in alive.items() if len(leaf.shape) > 1}
    typical = {leaf: stats[grad].typical for leaf, grad in matrices.items()}
    top = max(typical.values(), default=0.0)
    lost = [leaf for leaf in matrices if is_lost(stats[leaf], stats[matrices[leaf]], top, case.limits)]
    lost = [leaf for leaf in lost if len(lost) > _LOOKED or not _behind_a_beginner(case, matrices[leaf])]
    if lost:
        worst = min(lost, key=lambda leaf: typical[leaf])
        cause = shrinks(case.look, matrices[worst])
        cancels = cause is not None and cause.cancels is not None
        yield from findings(
            _is_tiny(case, worst, matrices, len(lost), cause), "vanishing gradients", f"why grad({worst.name}) is tiny",
            matrices[worst].op, NOTE if cancels or _was_larger(case, worst, cause) else WARNING)  # fmt: skip


def _is_huge(case: Checkup, alive: dict[Value, Value], whole: float, worst: Value) -> Claim[str]:
    """Claim how large some gradients are altogether: their squares added up anew, the largest of them first."""

    def holds() -> bool:
        squares = [total(mx.square(case.look.array(grad).astype(mx.float32) / whole)) for grad in alive.values()]
        found = sum(case.look.numbers(squares))
        return abs(math.sqrt(found) - 1) < 0.01

    cause = grows(case.look, alive[worst])
    because = _because(case, cause, "grows")
    return Claim("finding: huge gradients", holds, lambda: (
        f"the norm of {'all gradients' if len(alive) > 1 else 'the gradient'} is {words.number(whole)}; "
        f"{'the largest is that' if len(alive) > 1 else 'it is that'} of {worst.name}{because}"))  # fmt: skip


def _is_tiny(
    case: Checkup, worst: Value, matrices: dict[Value, Value], count: int, cause: LineSteps | None
) -> Claim[str]:
    """Claim that a gradient is small beside its weight, or beside that of another weight; and beside which."""
    stats = case.look.stats([worst, *matrices.values()])
    own, weight = stats[matrices[worst]], stats[worst]
    other = max(matrices, key=lambda leaf: stats[matrices[leaf]].typical)
    top = stats[matrices[other]].typical
    beside = own.typical < case.limits["spread"] * top
    against = (
        f"that of ∂L/∂{other.name}, the largest of a weight, {words.number(top)}" if beside else
        f"one of {worst.name} itself {words.number(weight.typical)}"
    )  # fmt: skip
    more = f" ({count} such weights)" if count > 1 else ""
    because = _because(case, cause, "shrinks")
    small = beside or own.norm < case.limits["tiny"] * weight.norm
    return Claim(
        "finding: vanishing gradients",
        lambda: small and not own.is_zero,
        lambda: f"a typical element of ∂L/∂{worst.name} is {words.number(own.typical)}, {against}{more}{because}",
    )


def _because(case: Checkup, cause: LineSteps | None, verb: str) -> str:
    """Return what a line of the program does to a gradient, as what follows a colon."""
    said = [] if cause is None else cause.said(case.look, verb)
    return f": {' '.join(said).rstrip('.')}" if said else ""


_EACH = 4.0
"""What a typical element of a huge gradient is beyond: 1e3 is the norm of a gradient of 62,500 such."""


def _was_larger(case: Checkup, worst: Value, cause: LineSteps | None) -> bool:
    """Whether the same lines gave a gradient of ordinary size in the first step: a policy that is sure, a model that
    fits have little left to learn."""
    first = case.series[0]
    forward = None if cause is None else cause.worst.op.of
    if first is case.pass_ or forward is None or not any(op.source == forward.source for op in first.forward):
        return False
    old = next((leaf for leaf, later in leaves_later(first, case.pass_).items() if later is worst), None)
    grads = first.grads.get(old) if old is not None else None
    if old is None or not grads or not case.look.can_see(old) or not case.look.can_see(grads[-1]):
        return False
    if case.look.stat(worst).norm > 100 * case.look.stat(old).norm:
        return False  # thrown far out by its updates
    return not is_lost(case.look.stat(old), case.look.stat(grads[-1]), 0.0, case.limits)


def _behind_a_beginner(case: Checkup, gradient: Value) -> bool:
    """Whether what shrinks a gradient most is a weight that was 0 a few steps ago, and grows."""
    cause = shrinks(case.look, gradient)
    weight = None if cause is None else next((w for step in cause.steps if (w := weight_of(step)) is not None), None)
    if weight is None:
        return False
    before = [old for _, old in itertools.islice(versions(weight), _FEW) if old is not None]
    return any(case.look.can_see(old) and case.look.stat(old).is_zero for old in before)


_FEW = 10
_MASK = 1e6  # an argument with numbers as large as that is a mask


def underflow(case: Checkup) -> Iterator[Finding]:
    """float16 gradients below the smallest normal number, where digits are lost, and then everything."""
    grads = [grad for grad in finals(case).values() if grad.dtype == mx.float16]
    if case.broken or not grads:
        return
    stats = case.look.stats(grads)
    small = [grad for grad in grads if not stats[grad].is_zero and stats[grad].peak < _SMALLEST]
    if small:
        worst = min(small, key=lambda grad: stats[grad].peak)
        below = mx.max(mx.abs(case.look.array(worst))) < _SMALLEST
        yield from findings(
            Claim("finding: float16 underflow", lambda: bool(case.look.numbers([below])[0]), lambda: (
                f"the largest element of {worst.name} is {words.number(stats[worst].peak)} in size: float16 has its "
                f"full precision only above {words.number(_SMALLEST)} ({len(small)} of {len(grads)} gradients); scale "
                "the loss up")),
            "float16 underflow", f"explain {worst.name}", worst.op)  # fmt: skip


_SMALLEST = 6.104e-5  # the smallest normal number of float16 (IEEE 754)


def outside(case: Checkup) -> Iterator[Finding]:
    """Numbers that leave MLX on their way from a weight to the loss, and come back as data."""
    trained = {leaf.canonical for leaf in case.pass_.wrt}
    found = list(detours(case.look, case.pass_))
    if not found:
        return
    for op in case.forward:  # what is computed from what is differentiated, as far as MLX knows
        if any(taken.canonical in trained for taken in op.inputs):
            trained.update(value.canonical for value in op.outputs)
    for detour in found:
        if detour.value.canonical in trained:
            yield from findings(detour.claim, "cut gradient", f"what {detour.op.label}", detour.op)


CHECKS: list[Check] = [nonfinite, outside, zero, scale, underflow]
