"""Check: gradients against finite differences.

One op is checked by itself, on its own inputs, so that nothing else of a large model runs; a whole gradient by
computing the forward ops of its pass again. Where it can be, everything is computed in float64, which MLX has on the
CPU. A gradient is called wrong only where it differs by more than both sides can be wrong by: the rounding of the
gradient in its own dtype, and the noise of the differences (`nnrepl.explain.differences`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.explain.check_found import Checked, CheckReport, Element, Near, Rounded
from nnrepl.explain.differences import CentralDifference, Neighbourhood, Scalar, spread, suspects
from nnrepl.explain.elements import unravel
from nnrepl.explain.look import Look
from nnrepl.explain.paths import rule_of, upstream
from nnrepl.explain.projected import Recomputed, coarsest, projected
from nnrepl.ops.numbers import ravel
from nnrepl.record.custom import Composite
from nnrepl.session.births import is_inexact
from nnrepl.session.errors import UserError
from nnrepl.session.expressions import aside
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Op, Pass, Value, own_site

_ELEMENTS = 32
"""So many elements of a tensor are checked one by one: the largest gradients first, the rest evenly spread. All
together are checked as well, along a random direction."""
_REPLAYED = 6


@dataclass(frozen=True, slots=True)
class Room:
    """How far a gradient may be off by rounding.

    Attributes:
        share: Relative to the element.
        floor: Relative to the largest element of the gradient.
        unit: Relative to the largest number that was added up on the way.
    """

    share: float
    floor: float
    unit: float


ROOM = {
    mx.float64: Room(1e-6, 1e-9, 1e-14), mx.float32: Room(1e-3, 2e-5, 2e-6), mx.float16: Room(2e-2, 5e-3, 1e-2),
    mx.bfloat16: Room(1e-1, 4e-2, 6e-2),
}  # fmt: skip
"""By the coarsest dtype that takes part: its own rounding, some hundred times."""


@dataclass(frozen=True, slots=True)
class GradientQuestion:
    """A gradient that is to be checked.

    Attributes:
        name: What the gradient is called.
        of: What it is the gradient of.
        gradient: The numbers to be held against differences.
        make: The function that it is the gradient of, in a dtype.
        coarse: The coarsest dtype that takes part.
        peak: The largest number that is added up on the way.
        count: How many elements are looked at one by one.
        together: Of what is allowed to one element, how much is allowed to each of all together.
        value: What the function gave in the program, None where that is not known.
        smooth: The same function with every choice held as it was made, None where there is none to be held.
        exact: What the rules of the gradient give in float64, None where they cannot be followed there.
    """

    name: str
    of: Value
    gradient: mx.array
    make: Callable[[mx.Dtype], Scalar]
    coarse: mx.Dtype
    peak: float
    count: int
    together: float = 0.02
    value: float | None = None
    smooth: Callable[[mx.Dtype], Scalar] | None = None
    exact: Callable[[], mx.array | None] | None = None


def check_op(session: Reading, op: Op) -> CheckReport:
    """Check every gradient that one backward op gives (or the backward op of a forward op, or a vjp of the program's
    own).

    Raises:
        UserError: If no gradient was taken through it.
    """
    begin = time.perf_counter()
    look = Look(session)
    if op.refusal:
        raise UserError(op.refusal)
    own = op.of if op.of is not None and isinstance(_first(op.of), Composite) else _ruled_by(op) or op
    questions = _of_composite(look, own) if isinstance(_first(own), Composite) else _of_op(look, session, op)
    with aside():
        found = [_compare(question) for question in questions]
    return CheckReport(found, look.ops, 0, time.perf_counter() - begin)


def run_with_gradient(session: Reading, op: Op) -> Op:
    """Return, for a forward op outside of every gradient call, the run of its line that a gradient was taken through:
    the first one after it, else the last one before; itself where there is none."""
    if op.of is not None or op.scope is None or op.pass_.outermost.kind == GRADIENT_PASS:
        return op
    ops, line = session.tape.ops, _line(session, op)
    again = (other for other in [*ops[op.position + 1 :], *reversed(ops[: op.position])]
             if other.operation is op.operation and other.of is None and other.scope is not None
             and other.pass_.outermost.kind == GRADIENT_PASS and _line(session, other) == line)  # fmt: skip
    return next((other for other in again if _ruled_by(other) or _backward_of(session, other)), op)


def _line(session: Reading, op: Op) -> tuple[object, ...]:
    """Return where an op stands in the source, by its own function and by the program's."""
    site = own_site(op, session.skip)
    return (op.lasti, op.scope and op.scope.code, site and site.scope.code, site and site.lasti)


def _first(op: Op) -> object:
    return op.args[0] if op.args else None


def _ruled_by(op: Op) -> Op | None:
    """Return the innermost custom function in which an op lies, whose gradient the program has written itself."""
    inside = [call for call in own_rules(op.pass_) if op in call.args[0].ops]
    return min(inside, key=lambda call: len(call.args[0].ops), default=None)


def own_rules(pass_: Pass) -> list[Op]:
    """Return the custom functions of a pass that gradients reach: those with a vjp of the program's own."""
    reached = pass_.grads
    return [op for op in pass_.forward if op.operation.kind == "custom" and isinstance(_first(op), Composite)
            and any(reached.get(value.canonical) for value in op.outputs)]  # fmt: skip


def _of_op(look: Look, session: Reading, op: Op) -> list[GradientQuestion]:
    backward = op if op.of is not None else _backward_of(session, op)
    if backward is not None and backward.operation.kind == "accumulate":
        parts = ", ".join(dict.fromkeys(value.op.label for value in backward.inputs if value.op is not None))
        raise UserError(f"{backward.label} adds gradients up; check what it adds: {parts}")
    rule = rule_of(backward) if backward is not None else None
    if backward is None or rule is None:
        raise UserError(
            f"{op.label} {op.name} has no VJP on the tape: no gradient passes through it, or none was taken"
        )
    if backward in backward.tape.notes.mapped:
        raise UserError(
            f"{backward.label} lies in a vmap, where each sample has a gradient of its own; call "
            f"{backward.pass_.title} on one sample to check it"
        )
    forward = rule.op
    look.see([*backward.inputs, *backward.outputs, *forward.inputs])
    cotangents = upstream(backward)[: len(rule.outputs)]
    peak = max((look.stat(value).peak for value in cotangents), default=0.0)
    questions = []
    for slot, gradient in zip(rule.wanted, backward.outputs):
        of = rule.inputs[slot]
        if mx.issubdtype(of.dtype, mx.floating) and of.size:
            run = projected(forward, of, rule.outputs, [value.array for value in cotangents])
            coarse = coarsest([*forward.inputs, *forward.outputs, *cotangents], [forward])
            questions.append(GradientQuestion(gradient.name, of, gradient.array, run, coarse, peak, _ELEMENTS))
    if not questions and all(not gradient.size for gradient in backward.outputs):
        raise UserError(
            f"{backward.label} gives no number: what it differentiates is empty, and there is nothing to check"
        )
    return questions


def _of_composite(look: Look, op: Op) -> list[GradientQuestion]:
    """Return a function with a vjp of the program's own: what MLX makes of that vjp, against the function itself."""
    composite = _first(op)
    assert isinstance(composite, Composite)
    outputs = [value for value in op.outputs if mx.issubdtype(value.dtype, mx.floating)]
    grads = {value: op.pass_.grads.get(value.canonical) for value in outputs}
    reached = [value for value in outputs if grads[value]]
    if not reached:
        raise UserError(f"no gradient reaches {op.label} {op.name}, so that there is nothing to check")
    cotangents = [(grads[value] or [value])[-1] for value in reached]
    look.see([*composite.inputs, *cotangents])
    slots = [value.slot for value in reached]
    arrays = [value.array for value in cotangents]
    peak = max((look.stat(value).peak for value in cotangents), default=0.0)
    questions = []
    for of in dict.fromkeys(composite.inputs):
        if mx.issubdtype(of.dtype, mx.floating) and of.size:
            make = projected(op, of, slots, arrays, composite)
            with aside():
                gradient = mx.vjp(make(of.dtype), [of.array], [mx.array(1.0, of.dtype)])[1][0]
                mx.eval(gradient)
            name = f"the part of ∂L/∂{of.name} that comes from {op.label} {op.name}"
            questions.append(
                GradientQuestion(name, of, gradient, make, coarsest([*composite.inputs], [op]), peak, _ELEMENTS, 0.02)
            )
    return questions


def _backward_of(session: Reading, op: Op) -> Op | None:
    """Return the VJP of a forward op."""
    for later in session.tape.ops[op.position + 1 :]:
        if later.of is op and rule_of(later) is not None and later.operation.kind == "vjp":
            return later
        if later.pass_.outermost is not op.pass_.outermost:
            break
    return None


# -- whole passes ------------------------------------------------------------------------------------------------------


def check_pass(session: Reading, pass_: Pass, leaves: Sequence[Value], whole: bool = False) -> CheckReport:
    """Check whole gradients of a pass: the forward ops are computed again for each element, so only few are taken one
    by one. Ctrl-C stops it with what it has.

    Args:
        whole: Whether each function with a vjp of the program's own is checked by itself as well.

    Raises:
        UserError: If it has no gradient of any of these leaves.
    """
    if not leaves:
        raise UserError(_nothing_in(pass_))
    begin = time.perf_counter()
    look = Look(session)
    gradients = {leaf: pass_.grads[leaf][-1] for leaf in leaves}
    look.see([value for pair in gradients.items() for value in pair])
    report = CheckReport(left=len(leaves))
    try:
        _forewarn(session, look, pass_, leaves)
        for op in own_rules(pass_) if whole else ():
            with aside():
                report.checked += [_compare(question) for question in _of_composite(look, op)]
        for leaf, gradient in gradients.items():
            replayed = Recomputed(pass_, leaf)
            look.see(replayed.taken)
            peak = _peak(look, gradient)
            question = GradientQuestion(
                gradient.name, leaf, gradient.array, replayed.at, replayed.coarse, peak, _REPLAYED,
                value=replayed.value(), smooth=replayed.smooth, exact=replayed.gradient,
            )  # fmt: skip
            with aside():
                found = _compare(question)
            found.fixed, found.custom = replayed.fixed, replayed.custom
            report.checked.append(found)
            report.left -= 1
            session.hooks.progress(1 - report.left / len(leaves))
    except KeyboardInterrupt:
        _settle()
    report.ops, report.seconds = look.ops, time.perf_counter() - begin
    return report


def _nothing_in(pass_: Pass) -> str:
    """Why there is no gradient in a pass that could be checked."""
    if pass_.error is not None:
        return f"{pass_.address} ended with {type(pass_.error).__name__} before it had a gradient; why error tells more"
    if pass_.open:
        return f"{pass_.address} has no gradient yet; go on (until update), then check pass"
    return f"no gradient flows to a parameter in {pass_.address}; health says where the way ends"


_EVALUATIONS = 80
"""So often the loss is computed for one gradient, 36 to 130 times in the models of the tests."""
_LONG = 5.0


def _forewarn(session: Reading, look: Look, pass_: Pass, leaves: Sequence[Value]) -> None:
    """Say how long a check will take, if that is long: what one computation of the loss takes, times their number."""
    replayed = Recomputed(pass_, leaves[0])
    look.see([*replayed.taken, leaves[0]])
    with aside(), mx.stream(mx.cpu), contextlib.suppress(ValueError, RuntimeError):
        run, given = replayed.at(mx.float64), leaves[0].array.astype(mx.float64)
        run(given).item()
        begin = time.perf_counter()
        run(given).item()
        seconds = (time.perf_counter() - begin) * _EVALUATIONS * len(leaves)
        if seconds >= _LONG:
            count = f"{len(leaves)} gradients" if len(leaves) > 1 else "the gradient"
            session.hooks.announce(
                f"checking {count} will take about {_about(seconds)}; Ctrl-C stops it with what it has"
            )
    _settle()


def _about(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _peak(look: Look, gradient: Value) -> float:
    """Return the largest number in the last few steps to a gradient: what it was added up from, and rounded at; where
    many numbers are added up to each element, their sum without signs."""
    found = {gradient}
    edge = [gradient]
    for _ in range(_NEAR):
        ahead = {value for one in edge if one.op is not None for value in upstream(one.op) if _is_added(value)} - found
        found |= ahead
        edge = list(ahead)
    stats = look.stats(found).values()
    return max(max(stat.peak, stat.typical * stat.size / max(gradient.size, 1)) for stat in stats)


def _is_added(value: Value) -> bool:
    """Whether a tensor on the way of a gradient is made of gradients: what a vjp of the program's own makes of other
    numbers is not added up to them."""
    if value.gradient_of is not None or value.kind == "seed":
        return is_inexact(value)
    op = value.op
    return op is not None and op.phase == "backward" and is_inexact(value) and any(map(_is_added, op.inputs))


_NEAR = 6
"""Sums that cancel do so within a few ops: a normalization, a softmax."""


# -- comparing ---------------------------------------------------------------------------------------------------------


def _compare(question: GradientQuestion) -> Checked:
    """Hold the gradient of a question against differences, all of it on the CPU: no GPU knows float64."""
    with mx.stream(mx.cpu):
        return _compared(question)


def _compared(question: GradientQuestion) -> Checked:
    found = Checked(question.name, question.of)
    if not question.of.size or not mx.issubdtype(question.of.dtype, mx.floating):
        return found
    function = _function(question, found)
    flat = question.gradient.flatten()
    room = ROOM[question.coarse]
    peak: Any = mx.max(mx.abs(flat)).item()
    top = float(peak)
    floor = room.floor * top + room.unit * question.peak + 1e-30
    for at in spread(flat, question.count):
        number: Any = flat[at].item()
        slope = function.element(at, 0.1 * floor)
        _judge(found, _element(question, at, float(number), slope, room, floor), top, function)
    if flat.size > len(found.elements) and math.isfinite(function.noise) and math.isfinite(top):
        found.whole = True
        aside = found.aside
        seen = {element.index for element in found.elements}
        smooth = function.smooth or function
        for at in suspects(smooth, flat, lambda mask: question.together * _allowed(flat, mask, room, floor)):
            index = unravel(at, question.of.shape)
            if index not in seen:
                number = flat[at].item()
                slope = function.element(at, 0.1 * floor)
                _judge(found, _element(question, at, float(number), slope, room, floor), top, function)
        found.whole = len(found.aside) == len(aside)  # what is off together is more than those
    _set_aside(found, question)
    return found


def _element(
    question: GradientQuestion, at: int, gradient: float, slope: CentralDifference, room: Room, floor: float
) -> Element:
    return Element(unravel(at, question.of.shape), gradient, slope, room.share * abs(slope.value) + floor)


def _set_aside(found: Checked, question: GradientQuestion) -> None:
    """Take out what is no fault of a rule: in float64 the same rules give the slope. A wrong one is wrong there too."""
    exact = question.exact() if found.wrong and question.exact is not None and question.coarse != mx.float64 else None
    if exact is None:
        return
    for element in list(found.wrong):
        number: Any = exact.flatten()[ravel(element.index, found.of.shape)].item()
        if abs(number - element.slope.value) <= abs(number - element.gradient) / 8:
            found.wrong.remove(element)
            found.rounded.append(Rounded(element, float(number)))


def _allowed(gradient: mx.array, mask: mx.array, room: Room, floor: float) -> float:
    """How far the elements of a part may be off together: their errors are as likely up as down."""
    part = mx.where(mask != 0, gradient.astype(mx.float32), 0)
    count: Any = mx.sum(mask != 0).item()
    size: Any = mx.sqrt(mx.sum(mx.square(part))).item()
    return room.share * float(size) + 10 * floor * math.sqrt(float(count))


def _judge(found: Checked, element: Element, top: float, function: Neighbourhood) -> None:
    slope, limit = element.slope, element.limit
    found.elements.append(element)
    if not element.is_finite:
        found.undefined.append(element)
    elif element.is_on_kink:
        found.kinks.append(element)
    elif not element.agrees:
        at = ravel(element.index, found.of.shape)
        again = None if function.smooth is None else function.smooth.element(at)
        if again is not None:
            off = abs(element.gradient - again.value)
            if off <= limit + 3 * again.doubt + again.jump:
                found.near.append(Near(element, again))
            else:
                noisy = function.smooth is not None and function.smooth.fades(at, element.gradient, again, off)
                (found.rough if noisy else found.wrong).append(element)
            return
        stays = function.stays(at, element.gradient, slope, limit)
        if stays or (stays is None and slope.jump <= limit):
            found.wrong.append(element)
        elif stays is None:
            found.rough.append(element)
        else:
            found.near.append(Near(element, None))
    elif slope.doubt > 0.1 * max(abs(element.gradient), 0.01 * top) + limit:
        found.rough.append(element)


def _function(question: GradientQuestion, found: Checked) -> Neighbourhood:
    """Return the function of a question, in float64 where it can be.

    Raises:
        UserError: If it cannot be computed again.
    """
    for dtype in (mx.float64, mx.float32):
        found.dtype = dtype
        function = Neighbourhood(question.make(dtype), question.of.array.astype(dtype).flatten(), question.of.shape)
        try:
            function.measure()
        except (ValueError, RuntimeError) as error:
            _settle()
            if dtype == mx.float32:
                said = str(error).splitlines()[0]
                raise UserError(f"{question.name} cannot be checked: {said}") from None
        else:
            break
    if question.smooth is not None:
        function.smooth = function.beside(question.smooth(found.dtype))
    known, room = question.value, ROOM[question.coarse]
    if known is not None and math.isfinite(known) and abs(function.here - known) > 10 * room.share * abs(known) + 1e-4:
        raise UserError(
            f"{question.name} cannot be checked: computed again, the loss is {function.here:.5g} where the program had "
            f"{known:.5g}, so an op of this pass could not be repeated")  # fmt: skip
    return function


def _settle() -> None:
    """Let the CPU's stream come to rest: an error in it may be raised a second time, at the next evaluation."""
    with contextlib.suppress(ValueError, RuntimeError):
        mx.synchronize(mx.default_stream(mx.Device(mx.DeviceType.cpu)))


def last_with(session: Reading, value: Value) -> tuple[Pass, Value] | None:
    """Return the last gradient pass that has a whole gradient of a value, on either side of the cursor."""
    passes = (
        pass_ for pass_ in reversed(session.tape.passes) if pass_.kind == GRADIENT_PASS and pass_.grads.get(value)
    )
    pass_ = next(passes, None)
    return None if pass_ is None else (pass_, value)
