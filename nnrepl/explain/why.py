"""Why: reads what was asked, and finds who can answer it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

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
from nnrepl.session.errors import NoGradient, UserError
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Pass, Tracer, Value
from nnrepl.tape.claims import Claim, Said, joined, say, say_first, stated

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
    if isinstance(value, Tracer):
        raise UserError(value.refusal)
    gradient = gradient or (value.name if value.gradient_of is not None else "")
    if how in _NONE:
        return _not_missing(session, value, gradient)
    look = Look(session)
    stat = look.stat(value)
    empty = say(Claim("why: empty", lambda: not value.size, lambda: (
        f"{gradient or value.name} is empty: its shape is {tuple(value.shape)}.")))  # fmt: skip
    if empty:
        return Cause(empty[0], ops=look.ops)
    if not how:
        how = "zero" if stat.is_zero else "nan" if not stat.is_finite else "scale"
        kind = ""
    else:
        kind = how if how in _NONFINITE else ""
    if gradient and stat.is_zero and how in _SMALL:
        how = "zero"
    if not stat.is_finite and how not in _NONFINITE:
        answer = why_nonfinite_value(session, value)
        answer.also += say_first(_not_asked(gradient or value.name, stat, how))
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


def _not_missing(session: Reading, value: Value, gradient: str) -> Cause:
    """Return, where it was asked why there is no gradient, that there is one; else why there is none."""
    has_one = _has_gradient(session, value)
    there = say_first([
        Claim("why: there", lambda: bool(gradient) and value.gradient_of is not None, lambda: (
            f"{gradient} is there: a gradient does flow.")),
        Claim("why: connected", lambda: has_one, lambda: (
            f"{value.name} is connected: ∂L/∂{value.name} is there.")),
    ])  # fmt: skip
    if not there:
        return why_none(session, value)
    return Cause(there[0], links=_chain(session, value) if gradient else [])


def _not_asked(name: str, stat: Stat, how: str) -> Iterator[Claim[str]]:
    """Yield what is to be said of the zeros, or of the size, of a tensor with numbers that are none."""
    rest = stat.size - stat.nans - stat.infs
    yield Claim("why: zeros beside", lambda: how in _ZERO and stat.zeros < stat.size, lambda: (
        f"{name} is not 0: {words.count_of(stat.zeros, stat.size)} elements are."))  # fmt: skip
    yield Claim("why: finite beside", lambda: rest > 0, lambda: (
        f"Of its {rest} finite element{'s the largest' if rest > 1 else ' the size'} is {words.number(stat.peak)}"
        f"{' in size' if rest > 1 else ''}."))  # fmt: skip
    yield Claim("why: none finite", lambda: not rest, lambda: (
        f"{name} holds no number whose size could be asked about."))  # fmt: skip


def _typed(session: Reading, value: Value) -> str:
    """Return what a command takes for a value: its name, unless that is another one where the cursor stands."""
    try:
        is_here = session.lookup.find(value.name, session.cursor) is value
    except UserError:
        is_here = False
    return value.name if is_here else words.reference(value)


def _healthy(look: Look, value: Value, how: str) -> Cause:
    """Return what is to be said of a tensor of the forward pass whose numbers are all finite."""
    stat = look.stat(value)
    size = f"a typical element is {words.number(stat.typical)} in size, the largest {words.number(stat.peak)}"
    zeros = f"; {words.count_of(stat.zeros, stat.size)} are 0" if stat.zeros else ""
    numbers = f"{stat.size} number{'s' if stat.size != 1 else ''}, all finite; {size}{zeros}"
    typed = _typed(look.session, value)
    more = f"explain {typed} shows how it was made"
    if any(pass_.kind == GRADIENT_PASS for pass_ in look.session.tape.passes):
        more += f", why grad({typed}) how the loss depends on it"

    def is_finite() -> bool:
        return look.finite([value])[value]

    return Cause(stated(
        Claim("why: sound", lambda: how == "scale" and is_finite(), lambda: (
            f"Nothing is wrong with {value.name}: {numbers}. {more}.")),
        Claim("why: holds", is_finite, lambda: f"{value.name} holds {numbers}. {more}."),
    ))  # fmt: skip


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
    nothing = say(Claim("why: nothing recorded", lambda: not len(session.tape), lambda: (
        "Nothing has been recorded yet: step to the first op, then ask why.")))  # fmt: skip
    if nothing:
        return Cause(nothing[0])
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
    answer.headline = joined([answer.headline], _of_gradients(look, passes), say(_none_failed(session)))
    return answer


def _none_failed(session: Reading) -> Claim[str]:
    """Claim that no op raised anything."""
    return Claim("why: none failed", lambda: not session.tape.notes.errors, lambda: (
        "No op failed; health looks further."))  # fmt: skip


def _of_gradients(look: Look, passes: list[Pass]) -> list[Said]:
    """Return how many gradients are 0, of how many, and which leaves have none."""
    with_one = {leaf: pass_.grads[leaf][-1] for pass_ in passes for leaf in pass_.wrt if pass_.grads.get(leaf)}
    finals = [final for final in with_one.values() if final.size and look.can_see(final)]
    none = dict.fromkeys(leaf.name for pass_ in passes for leaf in pass_.wrt if not pass_.grads.get(leaf))
    empty = dict.fromkeys(leaf.name for leaf in with_one if not leaf.size)
    stats = look.stats(finals)
    dead = list(dict.fromkeys(final.name for final in finals if stats[final].is_zero))
    count = f"{len(finals)} gradient{'s' if len(finals) != 1 else ''}"
    first = next(iter(none), "")
    return [
        *say_first([
            Claim("why: no gradient taken", lambda: not passes, lambda: (
                "No gradient was taken, so none was looked at.")),
            Claim("why: no gradient with numbers", lambda: not finals, lambda: "There is no gradient that could be 0."),
        ]),
        *say(
            Claim("why: some are 0", lambda: bool(dead), lambda: (
                f"Of {count} {_listed(dead)} "
                f"{'is' if len(dead) == 1 else 'are'} 0, which health does not take for a fault: why "
                f"{dead[0]} == 0 tells more.")),
            Claim("why: none is 0", lambda: bool(finals) and not dead, lambda: f"Of {count} none is 0."),
            Claim("why: some are empty", lambda: bool(empty), lambda: (
                f"{_listed(empty)} {'is' if len(empty) == 1 else 'are'} empty.")),
            Claim("why: none reaches", lambda: bool(none), lambda: (
                f"None reaches {_listed(none)}: why grad({first}) tells more.")),
        ),
    ]  # fmt: skip


def _listed(names: Iterable[str]) -> str:
    """Return `a, b and 3 more`."""
    every = list(names)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")
