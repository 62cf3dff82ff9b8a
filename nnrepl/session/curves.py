"""Curves: what an expression is over the training steps, one number a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.record import segments as sources
from nnrepl.record.frame_variables import variables_of
from nnrepl.session import turn_curves
from nnrepl.session.errors import NoGradient, NotYet
from nnrepl.session.own_names import Surroundings
from nnrepl.session.parsed import Parsed
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, UNBOUND, Activation, Pass, Value


def over_steps(session: Reading, parsed: Parsed) -> list[tuple[int, float]]:
    """Return an expression as it stands after the last gradient call of each training step, with the number of the
    step; of a program that updates nothing, after each gradient call, or at the end of each turn of its loops. A
    variable that is given the step's value only later (`loss = loss_fn(w)` after the update) is asked at the step's
    end.

    Steps in which it does not exist are left out, and those in which a tensor in it is still that of an earlier step;
    so is the newest step while it has not come as far as the one before it, which ended with the gradient of another
    function (a GAN's): two losses are not one line.

    Raises:
        UserError: If it is no single number.
        Exception: What Python raises.
    """
    if turn_curves.counts(session.tape):
        return turn_curves.numbers(parsed.text, turn_curves.over_turns(session, parsed))
    found: list[tuple[int, Any]] = []
    closed: list[tuple[int, Any]] = []
    is_loss = True
    unit, turns = _turns(session)
    for number, pass_ in turns.items():
        loss = pass_.loss.array if pass_.loss is not None and _is_given(pass_, parsed) else None
        if _is_closed(pass_) and (loss is not None or parsed.text != "loss"):
            closed += [] if loss is None else [(number, loss)]
            continue  # what other variables held nobody has noted
        where = _moment(session, parsed, pass_, pass_.step.start if unit == "step" else pass_.start)
        if where is None:
            continue
        behind = Surroundings(where.position, session.lookup.frames.scope_at(where.position), None)
        for one in (where, behind) if _is_closed(pass_) else (where,):
            try:  # in the call that asked for gradients; else where it has returned, and the program has what it gave
                found.append((number, session.expressions.evaluate(parsed, one)))
                is_loss = is_loss and loss is not None and _is_same(found[-1][1], loss)
                break
            except (NotYet, NoGradient):
                continue
    if is_loss:  # where it was looked at, the variable was the loss and nothing else
        found = sorted([*found, *closed], key=lambda one: one[0])
    return turn_curves.numbers(parsed.text, found)


def counted_in(session: Reading) -> str:
    """Return what a curve over the steps counts: "step"; "gradient call" where no update has been made yet, "turn"
    where the program takes no gradients by MLX."""
    if turn_curves.counts(session.tape):
        return "turn"
    return _turns(session)[0]


def _turns(session: Reading) -> tuple[str, dict[int, Pass]]:
    """Return what is counted, and the last gradient call of each, by its number."""
    passes = [pass_ for pass_ in session.tape.passes if pass_.kind == GRADIENT_PASS and not pass_.open and len(pass_)]
    last = {pass_.step.number: pass_ for pass_ in passes}
    if len(last) < 2 < len(passes) + 1:  # all of them lie before the first update
        return "gradient call", dict(enumerate(passes, 1))
    if len(last) > 1 and _is_under_way(*list(last.values())[-2:]):
        last.popitem()
    return "step", last


def _is_closed(pass_: Pass) -> bool:
    """Whether a call ran natively, also on a saved tape."""
    return pass_.ops[-1].operation.kind == "closed"


def _is_same(thing: Any, loss: mx.array) -> bool:
    return bool(isinstance(thing, mx.array) and thing.tolist() == loss.tolist())


def _is_given(pass_: Pass, parsed: Parsed) -> bool:
    """Whether an expression is the variable to which the program gives the loss of a gradient call."""
    scope, lasti, depth = pass_.scope, pass_.lasti, 0
    while scope is not None and is_library(scope.code.co_filename):
        lasti, scope = scope.lasti, scope.parent  # nn.value_and_grad hands on what MLX gives
    while parsed.is_name and pass_.gives_loss and scope is not None and depth < _RETURNED:
        uses = sources.uses_of(scope.code, sources.span_of(scope.code, lasti))
        named = [use.nested if pass_.gives_loss == "first" else use.names for use in uses]
        if any(names[:1] == (parsed.text,) for names in named):
            return True
        if not any(use.returned for use in uses):
            return False
        lasti, scope, depth = scope.lasti, scope.parent, depth + 1
    return False


_RETURNED = 8
"""Through so many functions that hand a loss on it is followed to its variable."""


def _asker(pass_: Pass) -> Activation | None:
    """Return the call of the program's in which a gradient call is made."""
    scope = pass_.scope
    while scope is not None and scope.parent is not None and is_library(scope.code.co_filename):
        scope = scope.parent
    return scope or pass_.ops[-1].scope


def _moment(session: Reading, parsed: Parsed, pass_: Pass, start: int) -> Surroundings | None:
    """Where an expression is asked in a step that begins at `start`; None if a variable has another step's value."""
    if _is_closed(pass_):  # nobody has looked at variables there
        return Surroundings(pass_.end, pass_.ops[-1].scope, None)
    asker, bindings = _asker(pass_), session.tape.bindings
    where = Surroundings(pass_.end, asker, None)
    for name in parsed.read:
        scope = next((one for one in _frames(asker) if name in variables_of(one.code)), None)
        if scope is None:
            continue
        since, held = bindings.since(scope, name, pass_.end)
        if since > start and held is not UNBOUND:
            continue  # it has got it already
        coming = bindings.comes(scope, name, pass_.end)
        if coming is not None and coming[0] <= pass_.step.end and coming[1] is not UNBOUND:
            if where.position == pass_.end or where.scope is None or scope.within(where.scope):
                where = Surroundings(pass_.step.end, scope, None)
        elif _is_earlier(held, pass_):
            within = pass_.ops[-1].scope  # `loss, grads = ...` is under way for those who are called in it
            given = _about_to_be(session, name, pass_.end, within)
            if pass_.end < len(session.tape) or given is None or _is_earlier(given, pass_):
                return None
            where = Surroundings(pass_.end, within, None)
    return where


def _is_earlier(thing: Any, pass_: Pass) -> bool:
    """Whether a tensor was made in a training step before that of a gradient call."""
    return isinstance(thing, Value) and thing.op is not None and 0 < thing.op.step.number < pass_.step.number


def _about_to_be(session: Reading, name: str, position: int, scope: Activation | None) -> Any:
    """Return what a variable means where the statement that gives it another value may be under way; None if that is
    not made yet."""
    try:
        found = session.lookup.held(name, position, scope)
    except NotYet:
        return None
    return None if found is None else found.thing


def _frames(scope: Activation | None) -> Iterator[Activation]:
    while scope is not None:
        if not is_library(scope.code.co_filename):
            yield scope
        scope = scope.parent


def _is_under_way(before: Pass, newest: Pass) -> bool:
    """Whether a gradient call is one that another of a later function followed in the step before."""
    earlier = [pass_ for pass_ in before.step.passes if pass_.kind == GRADIENT_PASS]
    return not _one_function(newest, before) and any(_one_function(newest, pass_) for pass_ in earlier)


def _one_function(one: Pass, other: Pass) -> bool:
    """Whether two gradient calls are of one function, as its name and that of its parameters' model tell (of a closed
    one, its name)."""
    models = [tuple(leaf.name for leaf in pass_.wrt) for pass_ in (one, other)]
    return one.title == other.title and (models[0] == models[1] or not all(models))
