"""Moves: where on a tape a motion leads. Each costs no more than it looks at, and evaluates nothing.

A position points at the op that comes next; `len(tape)` is after the last op. A function returns None where
the place has not been recorded (yet). The function in which the user stands is the program's own: the innermost call
whose module is not skipped. `scope` is the call in which they go on by lines, where that is not this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnrepl.record import segments as sources
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, Activation, Inside, Op, Pass, Site, Tape, is_skipped, own_site

Skip = Sequence[str]


def _scope(tape: Tape, position: int, skip: Skip) -> Activation | None:
    if not tape.ops:
        return None
    site = own_site(tape.ops[min(position, len(tape.ops) - 1)], skip)
    return None if site is None else site.scope


def _inside(op: Op, scope: Activation | None) -> bool:
    """Whether an op was made in `scope` or in a call from it."""
    return scope is not None and op.scope is not None and op.scope.within(scope)


def _site_in(op: Op, scope: Activation | None) -> Site | None:
    """Where in `scope` an op, or the call that led to it, stands; None if it was made elsewhere."""
    if scope is None or op.scope is None or not op.scope.within(scope):
        return None
    step, lasti = op.scope, op.lasti
    while step is not scope:
        lasti = step.lasti
        assert step.parent is not None
        step = step.parent
    return Site(scope, lasti)


def _runs_on(tape: Tape, at: int, scope: Activation | None, skip: Skip) -> bool:
    """Whether an op belongs to the same execution of a line of `scope` as the op before: the same line, and further
    on in it; in the backward pass, where things go the other way round, further back."""
    before, op = tape.ops[at - 1], tape.ops[at]
    was, now = _site_in(before, scope), _site_in(op, scope)
    if was is None or now is None:
        return False
    if _phase(before, scope) != _phase(op, scope) and not (_deeper(op, scope, skip) or _deeper(before, scope, skip)):
        return False
    code = was.scope.code
    if sources.span_of(code, was.lasti)[0] != sources.span_of(code, now.lasti)[0]:
        return False
    if _phase(op, scope)[1] == "backward":
        return True
    if was.lasti == now.lasti:  # the same call goes on; a loop in one line calls anew
        same = before.scope is op.scope or _call_in(before, scope) is _call_in(op, scope)
        return same or op in [pass_.call for pass_ in _insides(before)]
    return was.lasti < now.lasti


def _deeper(op: Op, scope: Activation | None, skip: Skip) -> bool:
    """Whether the pass of an op belongs to a function that `scope` has called: to who goes on by the lines of `scope`
    it is a part of one of them (`loss = train(x)`). A pass that `scope` calls for itself is a place of its own."""
    pass_ = op.pass_.outermost
    caller = pass_.scope if pass_.kind in (GRADIENT_PASS, UPDATE_PASS) else op.scope
    while caller is not None and is_skipped(caller, tuple(skip)):
        caller = caller.parent
    return scope is not None and caller is not None and caller is not scope and caller.within(scope)


def _phase(op: Op, scope: Activation | None) -> tuple[Pass, str]:
    """Return the pass of an op and its phase there, as seen from a call: for who stands outside of a call that MLX ran
    by itself, what happens inside belongs to the pass around it."""
    pass_ = op.pass_
    while pass_.within is not None and (
        scope is None or scope is pass_.scope or not _is_called_from(scope, pass_.scope)
    ):
        pass_ = pass_.within
    return pass_, pass_.phase_at(op.position)


def _insides(op: Op) -> Iterator[Inside]:
    """Yield the calls that MLX ran by itself in which an op lies."""
    pass_: Pass | None = op.pass_
    while isinstance(pass_, Inside):
        yield pass_
        pass_ = pass_.within


def _is_called_from(scope: Activation, caller: Activation | None) -> bool:
    return caller is None or scope.within(caller)


def _call_in(op: Op, scope: Activation | None) -> Activation | None:
    """Return the call that `scope` made in which an op was made; None if it was made in `scope` itself."""
    step, call = op.scope, None
    while step is not None and step is not scope:
        step, call = step.parent, step
    return call


def standing(
    tape: Tape, before: int, position: int, skip: Skip = (), scope: Activation | None = None
) -> Activation | None:
    """Return the call in which the user goes on by lines at `position`, where a line led from `before`: that in which
    they stood, or the caller to whose next line it has returned. None, for that of the op, where the caller's line goes
    on with another call, and in another pass."""
    if position >= len(tape) or before >= len(tape):
        return None
    op = tape.ops[position]
    found = stood = scope or _scope(tape, before, skip)
    while found is not None and not (_inside(op, found) and not is_skipped(found, tuple(skip))):
        found = found.parent
    if op.pass_.outermost is not tape.ops[before].pass_.outermost and not _deeper(op, found, skip):
        return None
    return None if found is not stood and _runs_on(tape, max(before, position), found, skip) else found


def over(
    tape: Tape, position: int, start: int | None = None, skip: Skip = (), scope: Activation | None = None
) -> int | None:
    """Return the first op of the next line of the function that stands at `position`, or of its caller.

    Args:
        start: Where to begin looking, if everything before it has been looked at already.
    """
    scope = scope or _scope(tape, position, skip)
    for at in range(position + 1 if start is None else max(start, position + 1), len(tape)):
        if not _runs_on(tape, at, scope, skip):
            return at
    return None


def out(
    tape: Tape, position: int, start: int | None = None, skip: Skip = (), scope: Activation | None = None
) -> int | None:
    """Return the next op outside of the function that stands at `position`."""
    scope = scope or _scope(tape, position, skip)
    for at in range(position + 1 if start is None else max(start, position + 1), len(tape)):
        if not _inside(tape.ops[at], scope):
            return at
    return None


def back_over(tape: Tape, position: int, skip: Skip = (), scope: Activation | None = None) -> int | None:
    """Return the first op of this line, or from there of the line before, in the function that stands at `position`."""
    if position == 0 or not tape.ops:
        return None
    scope = scope or _scope(tape, position, skip)
    while scope is not None and not _inside(tape.ops[position - 1], scope):
        scope = scope.parent
    at = position - 1
    while at > 0 and _runs_on(tape, at, scope, skip):
        at -= 1
    return at


def back_out(tape: Tape, position: int, skip: Skip = (), scope: Activation | None = None) -> int | None:
    """Return the first op of the function that stands at `position`; from there, the last op before it."""
    scope = scope or _scope(tape, position, skip)
    at = position
    while at > 0 and _inside(tape.ops[at - 1], scope):
        at -= 1
    if at < position:
        return at
    return at - 1 if at > 0 else None


def further_down(
    tape: Tape, position: int, start: int | None = None, skip: Skip = (), scope: Activation | None = None
) -> int | None:
    """Return the next op on a greater line of the same function, or outside of it (pdb's `until`)."""
    if position >= len(tape):
        return None
    scope = scope or _scope(tape, position, skip)
    here = _site_in(tape.ops[position], scope)
    line = 0 if here is None else sources.span_of(here.scope.code, here.lasti)[0]
    for at in range(position + 1 if start is None else max(start, position + 1), len(tape)):
        site = _site_in(tape.ops[at], scope)
        if site is None or sources.span_of(site.scope.code, site.lasti)[0] > line:
            return at
    return None


def is_dull(op: Op) -> bool:
    """Whether an op (a VJP: of an op that) only arranges numbers, or converts them to another dtype."""
    from nnrepl.ops import Trait, has

    return has((op.of or op).name, Trait.ARRANGES, Trait.CONVERTS)


def back_telling(tape: Tape, position: int, count: int) -> int:
    """Return the `count`-th op back that does more than to arrange numbers, or the start."""
    for at in range(position - 1, -1, -1):
        count -= not is_dull(tape.ops[at])
        if not count:
            return at
    return 0
