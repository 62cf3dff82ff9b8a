"""Why: reads what was asked, and finds who can answer it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nnrepl.explain import words
from nnrepl.explain.answer import Cause, Link
from nnrepl.explain.disconnected import why_none
from nnrepl.explain.failed_call import why_error
from nnrepl.explain.health.gradient_findings import dead
from nnrepl.explain.health.report import WARNING, Checkup
from nnrepl.explain.limits import usual
from nnrepl.explain.links import links_along
from nnrepl.explain.look import Look, Stat
from nnrepl.explain.nonfinite import why_nonfinite, why_nonfinite_value
from nnrepl.explain.paths import cone, gradient_of, inner_of_gradient, path, target_of, upstream, value_of
from nnrepl.explain.scale import why_scale
from nnrepl.explain.zero import why_zero, why_zero_value
from nnrepl.record.gradient_names import sign_of
from nnrepl.session.errors import NoGradient
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Pass, Value

_ASKED = re.compile(
    r"(?P<what>.+?)(?:\s*==?\s*|\s+(?:(?:is|are|has)\s+)?)(?P<how>zero|0(?:\.0)?|nan|inf|none|None|missing|disconnected|"
    r"tiny|small|vanishing|huge|large|exploding)$"
)
_ZERO, _NONFINITE = ("zero", "0", "0.0"), ("nan", "inf")
_NONE, _SMALL = ("none", "None", "missing", "disconnected"), ("tiny", "small", "vanishing")


def why(session: Reading, text: str) -> Cause:
    """Cause a question: `grad(weights1) == 0`, `z is nan`, `nan`, `error`, `grad(w) is tiny`, `grad(w)`.

    Raises:
        UserError: If it is no such question.
    """
    text = re.sub(r"\s+", " ", text.strip()).rstrip("?").strip()
    if not text:
        return _anything(session)
    match = re.fullmatch(r"(?:is (?:it|this) )?(nan|inf)(?:inite)?", text)
    if match:
        return why_nonfinite(session, match[1])
    if text in ("error", "exception", "it failed"):
        return why_error(session)
    if text == "loss":
        from nnrepl.explain.loss import why_loss
        from nnrepl.explain.loss_of_edit import edited_pass, why_loss_of_edit

        edited = edited_pass(session)
        return why_loss(session) if edited is None else why_loss_of_edit(session, *edited)
    isnan = re.fullmatch(r"(?:mx\.)?is(?:nan|inf)\((.+)\)", text)
    match = None if isnan else _ASKED.fullmatch(text)
    what, how = (isnan[1], "nan") if isnan else (match["what"], match["how"]) if match else (text, "")
    what = what.removesuffix(" is").removesuffix("==").strip()
    inner = inner_of_gradient(what)
    try:
        value = target_of(session, what)
    except NoGradient:
        return why_none(session, value_of(session, inner or what))
    return _about(session, value, how, "" if inner is None else f"{sign_of(value)}{inner}")


def _about(session: Reading, value: Value, how: str, gradient: str) -> Cause:
    """Return what was asked about one tensor.

    Args:
        gradient: What the tensor is called as a gradient, "" if it is none.
    """
    gradient = gradient or (value.name if value.gradient_of is not None else "")
    if how in _NONE:
        if gradient:
            return Cause(f"{gradient} is there: a gradient does flow.", links=_chain(session, value))
        return why_none(session, value) if not _has_gradient(session, value) else Cause(
            f"{value.name} is connected: ∂L/∂{value.name} is there.")  # fmt: skip
    look = Look(session)
    stat = look.stat(value)
    if not stat.size:
        return Cause(f"{gradient or value.name} is empty: its shape is {tuple(value.shape)}.", ops=look.ops)
    if not how:
        how = "zero" if stat.is_zero else "nan" if not stat.is_finite else "scale"
        kind = ""
    else:
        kind = how if how in _NONFINITE else ""
    if gradient and stat.is_zero and how in _SMALL:
        how = "zero"
    if not stat.is_finite and how not in _NONFINITE:
        answer = why_nonfinite_value(session, value)
        answer.also.append(_not_asked(gradient or value.name, stat, how))
    elif how in _ZERO:
        answer = why_zero(session, value, gradient) if gradient else why_zero_value(session, value)
    elif how in _NONFINITE:
        answer = why_nonfinite_value(session, value, kind)
    elif gradient:
        answer = why_scale(session, value, "small" if how in _SMALL else "" if how == "scale" else "large", gradient)
    else:
        answer = _healthy(look, value, how)
    answer.ops += look.ops
    return answer


def _not_asked(name: str, stat: Stat, how: str) -> str:
    """Return what is to be said of the zeros, or of the size, of a tensor with numbers that are none."""
    if how in _ZERO:
        return f"{name} is not 0: {words.count_of(stat.zeros, stat.size)} elements are."
    rest = stat.size - stat.nans - stat.infs
    if not rest:
        return f"{name} holds no number whose size could be asked about."
    return f"Of its {rest} finite elements the largest is {words.number(stat.peak)} in size."


def _healthy(look: Look, value: Value, how: str) -> Cause:
    """Return that nothing is wrong with a tensor of the forward pass, with its numbers."""
    stat = look.stat(value)
    size = f"a typical element is {words.number(stat.typical)} in size, the largest {words.number(stat.peak)}"
    zeros = f"; {words.count_of(stat.zeros, stat.size)} are 0" if stat.zeros else ""
    numbers = f"{stat.size} number{'s' if stat.size != 1 else ''}, all finite; {size}{zeros}"
    head = f"Nothing is wrong with {value.name}" if how == "scale" else f"{value.name} holds"
    joint = ": " if how == "scale" else " "
    return Cause(f"{head}{joint}{numbers}. explain {value.name} shows how it was made, why grad({value.name}) how the "
                  "loss depends on it.")  # fmt: skip


def _has_gradient(session: Reading, value: Value) -> bool:
    try:
        gradient_of(session, value)
    except NoGradient:
        return False
    return True


def _chain(session: Reading, gradient: Value) -> list[Link]:
    look = Look(session)
    stats = look.stats([value for op in cone([gradient]) for value in (*upstream(op), *op.outputs)])
    way = path(gradient, lambda before: max(before, key=lambda value: stats[value].norm))
    return links_along(look, way, None)


def _anything(session: Reading) -> Cause:
    """`why` alone: the first thing that is wrong."""
    if session.tape.notes.errors or any(pass_.error is not None for pass_ in session.tape.passes[-1:]):
        return why_error(session)
    answer = why_nonfinite(session)
    if answer.op is not None or answer.reasons:
        return answer
    if not len(session.tape):
        return Cause("Nothing has been recorded yet: step to the first op, then ask why.")
    look = Look(session)
    passes = [pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS and pass_.error is None]
    for pass_ in passes:
        case = Checkup(session, pass_, look, usual())
        found = next((one for one in dead(case) if one.level == WARNING), None)
        if found is not None:
            said = why_zero(session, pass_.grads[found.leaves[0]][-1])
            said.ops += look.ops + answer.ops
            return said
    answer.ops += look.ops
    answer.headline += f" {_of_gradients(passes)} No op failed; health looks further."
    return answer


def _of_gradients(passes: list[Pass]) -> str:
    """Return that no gradient is 0 that should not be: of how many, and which leaves have none."""
    if not passes:
        return "No gradient was taken, so none was looked at."
    with_one = [leaf for pass_ in passes for leaf in pass_.wrt if pass_.grads.get(leaf)]
    count = sum(leaf.size > 0 for leaf in with_one)
    none = dict.fromkeys(leaf.name for pass_ in passes for leaf in pass_.wrt if not pass_.grads.get(leaf))
    said = f"Of {count} gradient{'s' if count != 1 else ''} none is 0 that should not be." if count else (
        "There is no gradient that could be 0.")  # fmt: skip
    empty = dict.fromkeys(leaf.name for leaf in with_one if not leaf.size)
    said += f" {_listed(empty)} {'is' if len(empty) == 1 else 'are'} empty." if empty else ""
    first = next(iter(none), "")
    return said + (f" None reaches {_listed(none)}: why grad({first}) tells more." if none else "")


def _listed(names: Iterable[str]) -> str:
    """Return `a, b and 3 more`."""
    every = list(names)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")
