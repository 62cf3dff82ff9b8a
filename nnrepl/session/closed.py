"""Closed: what to open where the user goes or looks, and what to say of what stays closed."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nnrepl.session import goals
from nnrepl.session.errors import NotYet, UserError
from nnrepl.session.leaps import leap
from nnrepl.session.parsed import parse
from nnrepl.session.passing import place_of
from nnrepl.session.scouts import InStepOnly, InTurnOnly, Scout, scouts_of
from nnrepl.session.standing import Standing
from nnrepl.session.stops import Catch, Hit
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, ClosedOp, Tape, Value
from nnrepl.tape.steps import is_turn, unit, unit_at


def closed_between(tape: Tape, start: int, end: int) -> list[int]:
    """Return the numbers of the steps with closed ops between two positions."""
    return list(dict.fromkeys([unit_at(tape, at) for at in _closed_in(tape, start, end)]))


def _closed_in(tape: Tape, start: int, end: int) -> list[int]:
    ops = tape.ops
    alone = [pass_.start for pass_ in tape.passes if start <= pass_.start < end and len(pass_) == 1]
    return [at for at in alone if isinstance(ops[at], ClosedOp)]  # which is the only op of its pass


def units(tape: Tape, number: int) -> list[int]:
    """Return the numbers of what is opened as a whole in a step: that of the step itself, and those of turns."""
    if is_turn(number) or not 0 <= number <= len(tape.steps):
        return [number]
    step = unit(tape, number)
    return closed_between(tape, step.start, step.end)


def said_of_closed(tape: Tape) -> str:
    """Which steps are closed: `steps 2 to 99 are closed`; "" if none is."""
    starts = [pass_.start for pass_ in tape.passes if len(pass_) == 1]
    closed = [at for at in starts if tape.ops[at].operation.kind == "closed"]  # also on a saved tape
    said = closed_said(list(dict.fromkeys([unit_at(tape, at) for at in closed])))
    return f"{said}: not looked at" if said else ""


def closed_said(numbers: list[int]) -> str:
    """Return `steps 2 to 99 are closed`; "" of none."""
    return f"{all_of(numbers)} {'are' if len(numbers) > 1 else 'is'} closed" if numbers else ""


def all_of(numbers: list[int]) -> str:
    """Return `3 stretches of the setup and steps 2, 4 to 6`."""
    steps = [number for number in numbers if not is_turn(number)]
    turns = len(numbers) - len(steps)
    parts = [_turns(turns)] if turns else []
    parts += [f"step{'s' if len(steps) > 1 else ''} {stretches(steps)}"] if steps else []
    return " and ".join(parts)


def title_of(numbers: list[int]) -> str:
    """Return `step 4`, `steps 2 to 99`, `3 stretches of the program`."""
    if is_turn(numbers[0]):
        turns = [number for number in numbers if is_turn(number)]
        first, rest = _turns(len(turns)), numbers[len(turns) :]
        return f"{first} and {title_of(rest)}" if rest else first
    return f"step{'s' if len(numbers) > 1 else ''} {stretches(numbers)}"


def _turns(count: int) -> str:
    return "a stretch of the program" if count == 1 else f"{count:,} stretches of the program"


def stretches(numbers: list[int]) -> str:
    """Numbers in order, those that follow each other taken together: `2, 4 to 6`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = [f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    more = len(said) - 3
    return ", ".join(said[:3]) + (f" and {more} more stretch{'es' if more > 1 else ''}" if more > 0 else "")


def open_steps(session: Standing, steps: list[int], losses: list[int] | None = None, of: str = "") -> None:
    """Open steps: the program runs again, and what it does there is recorded. The command that needed it is then run
    once more.

    Args:
        losses: The steps of which the losses are wanted, if it is only those; `of`: what of them, if that is no loss.

    Raises:
        UserError: If that cannot be done.
        RunAgain: Unwinds the program.
    """
    tape = session.tape
    closed = set(closed_between(tape, 0, len(tape)))
    steps = [part for number in steps for part in units(tape, number)] or steps
    title = title_of(steps)
    if closed.isdisjoint(steps):  # the command would come here again and again
        raise UserError(f"{title} is open already; that it was to be opened once more is a fault of nnrepl's")
    if not session.edits.can_run_again:
        raise UserError(f"{title} is closed; there is no program here that could run again")
    steps = sorted({*steps, *(closed & tape.retraced)})  # what MLX kept of a first run has to be seen there
    of = of or (f"the losses of {title_of(losses)}" if losses else title)
    session.hooks.opening(of)
    session.edits.open(frozenset(steps), session.cursor, losses=bool(losses))


def is_closed_at(tape: Tape, position: int) -> bool:
    """Whether anything is closed in the step of a position: its ops get other numbers when that is opened."""
    if position >= len(tape):
        return False
    if isinstance(tape.ops[position], ClosedOp):
        return True
    passes = [pass_ for pass_ in tape.steps.at(position).passes if len(pass_) and not pass_.turn]
    return any(isinstance(tape.ops[pass_.start], ClosedOp) for pass_ in passes)


def open_at(session: Standing, position: int) -> None:
    """Open the step in which a position lies. Raises as `open_steps` does."""
    open_steps(session, [unit_at(session.tape, position)])


def open_ahead(session: Standing, goal: goals.Goal, found: int | None) -> None:
    """Open steps on the way to a goal, if what lies in them counts there. It is not known in which of them the way
    ends, so each time that the same command comes here, twice as many are opened. Raises as `open_steps` does."""
    start, end = session.cursor + 1, len(session.tape) if found is None else found
    if isinstance(goal, goals.Until) and goal.place.is_bounded(session.tape) and not session.stops.enabled:
        start, end = goal.place.span(session.tape, start, end)
    steps = closed_between(session.tape, start, end)
    _open_some(session, _where_it_may_be(session, goal, steps))


def _where_it_may_be(session: Standing, goal: goals.Goal, steps: list[int]) -> list[int]:
    """Return those of some closed steps in which a goal may lie, or what may stop the user, as far as that is known
    without opening anything."""
    if not steps:
        return []
    scouts = scouts_of(session, goal)
    await_places(session, goal)
    session.scouts = goal, tuple(session.stops.enabled), scouts  # a run that opens steps tells of all of them
    if scouts is None:
        return steps
    wanted = {
        near
        for number in steps
        for scout in scouts
        if _may(session.tape, scout, number)
        for near in range(number - scout.back, number + 1)
    }
    return [number for number in steps if number in wanted]


def _may(tape: Tape, scout: Scout, number: int) -> bool:
    if is_turn(number) and not scout.wires and not isinstance(scout, (InStepOnly, InTurnOnly)):
        return True  # it looks where calls end, and there was none
    return scout.may(tape, number)


def await_places(session: Standing, goal: goals.Goal) -> None:
    """Note the places of a goal, and those at which the user wants to be stopped, as they are known now: in a run that
    opens steps nothing is, as it begins."""
    session.awaited = [*place_of(goal), *session.lookout.places()]


def hit_before(session: Standing, goal: goals.Goal, found: int | None) -> list[Hit]:
    """Return what is hit on the way to a goal before the first closed call on it, if there is one."""
    end = len(session.tape) if found is None else found
    ahead = [] if not session.stops.enabled else _closed_in(session.tape, session.cursor + 1, end)
    return _hit(session, lambda: session.lookout.ahead(ahead[0], goal)) if ahead else []


def hit_behind(session: Standing, target: int) -> list[Hit]:
    """Return what is hit on the way back to a position after the last closed call on it, if there is one."""
    behind = [] if not session.stops.enabled else _closed_in(session.tape, target, session.cursor)
    return _hit(session, lambda: session.lookout.behind(behind[-1] + 1)) if behind else []


def _hit(session: Standing, look: Callable[[], list[Hit]]) -> list[Hit]:
    """Look for what is hit on a part of the way. If nothing is, what it comes by there is counted when the whole way is
    looked at."""
    counts, skip = session.stops.counts(), session.lookout.search.skip
    hits = look()
    if not hits:
        session.stops.recount(counts)
        session.lookout.search.skip = skip
    return hits


def open_behind(session: Standing, target: int, each: bool) -> None:
    """Open steps between the cursor and a position before it, the nearest first, if `each` op counts there, or what may
    stop the user lies there. Raises as `open_steps` does."""
    enabled, between = session.stops.enabled, closed_between(session.tape, target, session.cursor)
    if each:
        _open_some(session, between[::-1])
    elif enabled:
        steps = _where_it_may_be(session, goals.Never(), between)
        if steps and any(isinstance(entry, Catch) for entry in enabled):
            open_steps(session, steps)  # what comes in with NaN was made in the step before
        _open_some(session, steps[::-1])


def _open_some(session: Standing, steps: list[int]) -> None:
    if steps:
        many, session.many = session.many, session.many * 2
        open_steps(session, sorted(steps[:many]))


def open_maker(session: Standing, target: Value, position: int) -> None:
    """Have a change exchange what an op of the run gave to the program. What was made natively is given by no op, and
    each run makes it as another object, as a compiled function does with all that it captures: so the steps before are
    opened, the nearest first, until it is known how it came. Raises as `open_steps` does."""
    tape, op = session.tape, target.op
    is_made = op is not None and not isinstance(op, ClosedOp)
    if is_made and op is not None and _updates_compiled(tape):
        _open_some(session, closed_between(tape, op.position, position)[::-1])
    elif not is_made and not any(target in pass_.wrt for pass_ in tape.passes):
        _open_some(session, closed_between(tape, 0, position)[::-1])


def _updates_compiled(tape: Tape) -> bool:
    """Whether an update of the weights is made in a compiled function: that gives its state back as other objects."""
    return any(op.pass_.kind == UPDATE_PASS for start, end in tape.compiled for op in tape.ops[start:end])


def open_named(session: Standing, text: str, places: bool) -> None:
    """Open the step that a command names: `30#12` anywhere, `step 30`, `turn 30` or `pass 88` where a place is meant.
    Raises as `open_steps` does."""
    named = re.findall(r"\b(\d+)#\d", text) + (re.findall(r"\bstep (\d+)\b", text) if places else [])
    passes = re.findall(r"\bpass (\d+)\b", text) if places else []
    for number in [*map(int, named), *[_step_of_pass(session.tape, int(number)) for number in passes]]:
        start = session.tape.steps.start_of(number) if 0 < number < 10**9 else None
        if start is not None and start < len(session.tape):
            step = session.tape.steps.at(start)
            if closed_between(session.tape, step.start, step.end):
                open_steps(session, [number])
    for turn in re.findall(r"\bturn (\d{1,9})\b", text) if places else []:
        at = session.tape.turns.start_of(int(turn), session.tape.ops)
        if at is not None and closed_between(session.tape, at, at + 1):
            open_at(session, at)


def _step_of_pass(tape: Tape, number: int) -> int:
    """Return the step in which a pass lies, or will be found when that is opened; 0 if the tape does not go as far."""
    pass_ = next((pass_ for pass_ in tape.passes if pass_.number >= number), None)
    return 0 if pass_ is None or not len(pass_) else pass_.step.number


def open_not_finite(session: Standing, asked: bool) -> None:
    """Open the steps from the one before that in which the loss is finite no more, or from that in which it leapt:
    where NaN was born lies there. Of many steps whose losses are not known these are computed first, on one way.
    Raises as `open_steps` does.

    Args:
        asked: Whether NaN or ∞ was asked for: then also where no loss that is known is one.
    """
    tape, first = session.tape, 0
    turns = [number for number in closed_between(tape, 0, tape.steps.setup.end) if is_turn(number)]
    if asked and turns and not tape.steps:
        open_steps(session, turns)  # no loss tells in which of them it was born
    unknown: list[int] = []
    for step in tape.steps:
        loss = step.loss
        if (loss is None or not loss.evaluated) and closed_between(tape, step.start, step.end):
            unknown.append(step.number)
        elif loss is not None and loss.size == 1 and not _is_finite(session, loss):
            first = step.number
            break
        elif not asked:
            unknown.clear()
    if not first and not (asked and unknown):
        return
    if len(unknown) > TELLING and not session.openings:
        open_steps(session, unknown[-1:], losses=unknown)
    first, leaping = min([*unknown, first or len(tape.steps)]), leap(tape)
    first = first if leaping is None else min(first, leaping[1].number + 1)
    steps = closed_between(tape, tape.steps[max(first - 2, 0)].start, len(tape))
    if steps:
        open_steps(session, steps)


def open_plotted(session: Standing, text: str) -> None:
    """Open the steps that a line over the steps goes through. Of the loss its number is enough, where it is not known
    already: then the last of them alone is opened, and those of the others are computed on the way. Raises as
    `open_steps` does."""
    tape = session.tape
    # Turns of the setup are no steps: a line over the steps does not go through them.
    steps = [number for number in closed_between(tape, 0, len(tape)) if not is_turn(number)]
    if re.fullmatch(r"\s*loss(\s+\d+)*\s*", text):
        steps = [number for number in steps if unit(tape, number).loss is None]
        if len(steps) > 1 and not session.openings:
            open_steps(session, steps[-1:], losses=steps)
    if steps:
        open_steps(session, steps)


def _is_finite(session: Standing, loss: Value) -> bool:
    """Whether a loss is finite, as far as that can be known."""
    if not loss.evaluated:
        with suppress(UserError):
            session.evaluate([loss])
    if not loss.evaluated:
        return True
    number: Any = loss.array.item()
    return bool(abs(number) < float("inf"))


def open_next(session: Standing) -> None:
    """Open the step after the one in which the user stands, if it is closed and its loss is not known: whether an
    update did any good shows there. Raises as `open_steps` does."""
    steps, tape = session.tape.steps, session.tape
    number = steps.number_at(session.cursor) + 1
    coming = steps[number - 1] if 1 < number <= len(steps) else None
    if coming is not None and coming.loss is None and closed_between(tape, coming.start, coming.end):
        open_steps(session, [number])


def open_gradients(session: Standing) -> None:
    """Open the step in which gradients were made last before the cursor, if it is closed. Raises as `open_steps`
    does."""
    tape, cursor = session.tape, session.cursor
    for pass_ in reversed(tape.passes):
        if pass_.start >= cursor or not len(pass_) or pass_.turn:
            continue  # in a turn of the setup no gradient has been taken: else it would have ended there
        if isinstance(tape.ops[pass_.start], ClosedOp):
            open_steps(session, [pass_.step.number])
        if pass_.kind == GRADIENT_PASS and pass_.backward < cursor:
            return


def open_compared(session: Standing) -> None:
    """Open what `why loss` compares: the gradient call here and the one before, else the one after, of the same
    function. Raises as `open_steps` does."""
    tape = session.tape
    passes = [pass_ for pass_ in tape.passes if pass_.kind == GRADIENT_PASS and len(pass_)]
    here = next((pass_ for pass_ in reversed(passes) if pass_.start <= session.cursor), None)
    if here is None:
        return
    same = [pass_ for pass_ in passes if (pass_.title, pass_.code) == (here.title, here.code)]
    start = max(same.index(here) - 1, 0)
    steps = [pass_.step.number for pass_ in same[start : start + 2] if isinstance(tape.ops[pass_.start], ClosedOp)]
    if steps:
        open_steps(session, steps)


def open_mentioned(session: Standing, text: str) -> None:
    """Open the step before, where a text asks for what that has made anew: gradients, or a name by which the tape
    knows an older tensor. What a variable holds is no older one. Raises as `open_steps` does."""
    parsed = parse(text)
    if parsed.gradients:
        open_gradients(session)
    older = [_by_tape(session, name) for name in parsed.plain_names]
    older += [_gradient_before(session, name) for name in parsed.gradients]  # another model's may be newer there
    for value in older:
        if value is not None and value.op is not None:
            open_newer(session, value.op.position)


def _gradient_before(session: Standing, name: str) -> Value | None:
    """Return the last gradient with respect to a tensor, where that lies in a step before."""
    try:
        session.lookup.by_words(f"grad({name})", session.cursor)
    except NotYet as answer:
        return answer.last
    except UserError:
        return None
    return None


def _by_tape(session: Standing, name: str) -> Value | None:
    """Return the tensor, or the last one, that a name means which no variable has here."""
    lookup, cursor = session.lookup, session.cursor
    try:
        scope = lookup.frames.scope_at(cursor)
        if lookup.frames.in_frames(name.partition(".")[0], cursor, scope) is not None:
            return None
        found = lookup.held(name, cursor, scope)
    except NotYet as answer:
        return answer.last
    except UserError:
        return None
    return found.thing if found is not None and isinstance(found.thing, Value) else None


def open_newer(session: Standing, found: int) -> None:
    """Open the step before, or the one that has ended here, if it is closed and what was found lies before it: there
    may be a newer one. Of what lies ahead, open what is nearer. Raises as `open_steps` does."""
    steps = closed_between(session.tape, found + 1, session.cursor)
    if steps and (is_turn(steps[-1]) or steps[-1] >= session.tape.here - 1):
        open_steps(session, steps[-1:])
    _open_some(session, closed_between(session.tape, session.cursor + 1, found))


def open_step_before(session: Standing, leaf: Value) -> None:
    """Open the last closed step, or turn, before something came in that no op on the tape has made: what comes from
    there is mostly made there. Raises as `open_steps` does."""
    entered = min((op.position for op in session.tape.consumers(leaf)), default=session.cursor)
    before = closed_between(session.tape, 0, min(entered, session.cursor))
    if before and session.edits.can_run_again:
        open_steps(session, before[-1:])


def unseen_since(session: Standing, value: Value | None) -> list[int]:
    """Return the steps between the op that made a tensor and the cursor that are closed."""
    made = -1 if value is None or value.op is None else value.op.position
    return closed_between(session.tape, made + 1, session.cursor)


def open_last(session: Standing, before: bool = False) -> None:
    """Open the last step, if the user stands after it; where what differs between steps counts, those `before` the
    place with it. Raises as `open_steps` does."""
    tape = session.tape
    at_end = session.cursor >= len(tape) and bool(tape.ops)
    number = tape.steps.number_at(len(tape) - 1) if at_end else tape.here
    if before and number:
        first, last = max(number - TELLING, 1), min(max(number, TELLING + 1), len(tape.steps))
        steps = closed_between(tape, tape.steps[first - 1].start, tape.steps[last - 1].end)
        if steps:
            open_steps(session, steps)
    elif at_end and isinstance(tape.ops[-1], ClosedOp):
        open_steps(session, [unit_at(tape, len(tape) - 1)])


TELLING = 3
"""So many steps, and the one after them, tell what stays from step to step: a graph that grows. The first ones have
too few before them, and are told by those that follow."""
