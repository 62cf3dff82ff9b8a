"""Natively: when the program may run as MLX runs it, with its calls closed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from nnrepl.record.native import levels_of
from nnrepl.record.process import this_process
from nnrepl.replay.divergence import NotKept
from nnrepl.replay.keeping import Keeping, room
from nnrepl.replay.opening import Opening
from nnrepl.replay.replay import Replay
from nnrepl.replay.run import Run
from nnrepl.replay.world import World
from nnrepl.session import closed, goals
from nnrepl.session.call_ends import is_closed
from nnrepl.session.hooks import OPENED, Stop
from nnrepl.session.outcomes import Ended
from nnrepl.session.passing import without_ops
from nnrepl.session.scouts import InStepOnly, InTurnOnly, Scout, Tripped, asked_of, loss_before, scouts_of, wires_of
from nnrepl.session.standing import Standing
from nnrepl.session.state import Going, Replaying
from nnrepl.session.wires import trips_of
from nnrepl.tape import GRADIENT_PASS, UPDATE_PASS, ClosedOp, Pass, Tape
from nnrepl.tape.steps import unit_at
from nnrepl.timeline.successor import succeed
from nnrepl.timeline.timelines import Timeline

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder


def wanted(session: Standing, step: int) -> bool:
    """Whether a gradient call that is about to be made in a step is to run natively: nothing that is asked for needs
    its ops, no call of the step is recorded, and the step before has updated weights. In a run along a tape, what is
    closed there, and is not to be opened, runs natively."""
    recorder = session.recorder
    if recorder is not None and isinstance(recorder.intake, Replay):
        opening = session.opening
        if opening is None or session.stood is not None or not opening.over(recorder):
            return recorder.intake.natively(recorder)
        session.caught_up(len(recorder.tape))  # this is the call that made the program run again
    tape = session.tape
    fresh = step > len(tape.steps) or not tape.steps.differentiated()
    if step <= session.wary or (_waits_for_place(session) and step <= tape.here + 1):
        return False  # what has just been hit may well be hit again at once
    began = session.edits.timelines.current.began
    if began is not None and tape.steps.number_at(began.position) == step:
        return False  # what was changed may lead to places outside of a tensor, of which MLX tells nothing
    before = tape.steps[step - 2] if 1 < step <= len(tape.steps) + 1 else None
    return fresh and step < _needed_from(session) and before is not None and before.is_over


def _waits_for_place(session: Standing) -> bool:
    """Whether something may stop the program that is no number of a step."""
    now = session.course.now
    return bool(session.stops.enabled) or (isinstance(now, Going) and not goals.needed_from(now.goal))


def rests(session: Standing) -> bool:
    """Whether what the program does after an evaluation is to run natively, as one closed stretch: nothing that is
    asked for needs its ops, it has forced a few evaluations, and no call has shown that it trains. In a run along a
    tape, what is closed there, and is not to be opened."""
    recorder, now = session.recorder, session.course.now
    if recorder is None or this_process() != session.process:
        return False
    if isinstance(recorder.intake, Replay):
        return recorder.intake.stretches(recorder)
    tape = recorder.tape
    few = len(tape.marks) < _EVALUATIONS or len(tape.late) > _WOKEN
    if few or session.stops.enabled or not isinstance(now, Going) or goals.of_loss(now.goal):
        return False
    if isinstance(now.goal, goals.FirstForward):  # which the end of a stretch is before (`nnrepl.record.first_forward`)
        if now.interrupted or recorder.started or not may_run(session):
            return False
    elif _needed_from(session) <= 1:
        return False
    # A stretch begins with an evaluation, mostly behind the update in the same turn of the loop: no step ends in it.
    return all(pass_.kind not in (GRADIENT_PASS, UPDATE_PASS) for pass_ in tape.passes)


_EVALUATIONS = 3
"""So many evaluations of a program that makes no gradient calls are recorded."""
_WOKEN = 3
"""A program whose stretches end so often is recorded: each time costs milliseconds."""
_SURPRISES = 3
"""A program that so often goes about its weights otherwise than it did where it was recorded, is recorded."""


def evaluated(session: Standing, count: int) -> None:
    """In a closed stretch the program has forced an evaluation. If the user wants it to stop, the stretch is opened
    up to there.

    Raises RunAgain through the program.
    """
    now = session.course.now
    recorder = session.recorder
    if type(now) is Going and not now.interrupted and not isinstance(now.goal, goals.Until):
        return  # as mostly
    if isinstance(now, Replaying):
        if session.opening is not None and recorder is not None and session.opening.old.turns.asked:
            from nnrepl.session.turn_curves import note

            levels = levels_of(recorder)
            with recorder.muted():
                note(recorder.tape, session.opening.old, None if levels is None else levels.calling)
        if now.interrupted:
            session.call_left()
    elif isinstance(now, Going) and isinstance(now.goal, goals.Until):
        seen = [scout for scout in scouting(session) or [] if isinstance(scout, InTurnOnly)]
        step = unit_at(session.tape, len(session.tape) - 1)
        if any(scout.may(session.tape, step) for scout in seen) and this_process() == session.process:
            _alarm(session, {step})
    if isinstance(now, Going) and now.interrupted and this_process() == session.process:
        step = unit_at(session.tape, len(session.tape) - 1)
        session.course.rest(Stop("", len(session.tape)))
        session.hooks.opening(closed.title_of([step]))
        session.edits.open(frozenset([step]), -1, goals.AtEvaluation(count, lambda: _forced(session)))


def _forced(session: Standing) -> int:
    levels = None if session.recorder is None else levels_of(session.recorder)
    return 0 if levels is None else levels.evaluations


def call_begins(session: Standing, recorder: Recorder, keeping: Keeping) -> None:
    """Note that a gradient call is about to be made natively: new source holds in it, and what the program holds is
    kept now and then. In a run along a tape, it may be that nothing is to be computed.

    Raises NotKept through the program.
    """
    if session.codes.awaits:
        session.codes.reach(reached(session, recorder), entering=True)
    intake, levels = recorder.intake, levels_of(recorder)
    if isinstance(intake, Replay):
        intake.forward.begins(recorder, recorder.tape.kept.calls(recorder.tape.passes))
        return
    keep(session, recorder, keeping)
    if levels is not None and levels.undisturbed is None and session.edits.can_run_again:
        levels.undisturbed = partial(_undisturbed, session, keeping)


def keep(session: Standing, recorder: Recorder, keeping: Keeping, points: bool = True) -> None:
    """Keep what the program holds now and then, where it is about to make a gradient call, and what it is told.

    Args:
        points: Whether there may be any use of what it holds.
    """
    if this_process() != session.process or not session.edits.can_run_again:
        return
    kept = recorder.tape.kept
    number = kept.calls(recorder.tape.passes)
    kept.begins(number)
    if points and keeping.is_due:
        with recorder.muted():
            keeping.begins(recorder, kept, number, room(int(session.settings["history"]) // 2))


def goes_on(session: Standing, op: ClosedOp) -> bool:
    """Whether the program goes on natively after a call that has run so."""
    recorder = session.recorder
    now = session.course.now
    if isinstance(now, Going) and now.unstopped and not now.interrupted:
        return True
    if this_process() != session.process or recorder is None:
        return True
    levels = levels_of(recorder)
    if isinstance(recorder.intake, Replay):
        recorder.intake.forward.left(None if levels is None else levels.returned)
        session.call_left()
    if op.pass_.turn:
        return True  # as has just been said: `rests`, or `turns` of the intake
    if isinstance(recorder.intake, Replay):
        if recorder.intake.wants_losses and levels is not None:
            with recorder.muted():
                levels.losses.look()
        done, steps = len(recorder.tape.steps), len(recorder.intake.tape.steps)
        session.hooks.progress(done / max(steps, 1), f"running again, step {done} of {steps}")
        return recorder.intake.natively(recorder)
    _look_out(session, op)
    now, needed = session.course.now, _needed_from(session)
    if isinstance(now, Going) and not now.interrupted:
        now.unstopped = needed == sys.maxsize and not scouts_of(session, now.goal)
    if isinstance(now, Going) and now.interrupted:
        needed = len(session.tape.steps) + 1  # the step is done first: its beginning has not been recorded
    ends = op.pass_.kind == UPDATE_PASS or op.pass_.by_hand
    return needed == sys.maxsize or len(session.tape.steps) + ends < needed


def _undisturbed(session: Standing, keeping: Keeping) -> bool:
    """Whether nothing but the user can stop the program at a call, and nothing is to be done where it begins."""
    now = session.course.now
    if type(now) is not Going or not now.unstopped or now.interrupted or perf_counter() >= keeping.next:
        return False
    if now.alone:
        return this_process() == session.process
    now.alone = not session.codes.awaits and session.edits.can_run_again  # from here on, up to the next stop
    return now.alone and this_process() == session.process


def _look_out(session: Standing, op: ClosedOp) -> None:
    """Where something may be hit of what the program runs on for, or may be stopped by, as far as a call tells that has
    just ended, those steps are opened, and the command finds it there.

    Raises:
        RunAgain: Through the program.
    """
    recorder, tape, scouts = session.recorder, session.tape, scouting(session)
    levels = None if recorder is None else levels_of(recorder)
    if recorder is None or levels is None or not scouts:
        return
    fresh = levels.losses.fresh()
    made, loss = fresh if fresh is not None else (op, None)
    ended = Ended(op, loss, loss_before(tape, made), levels.returned, levels.calling, levels.compiled)
    with recorder.muted():
        found = [(scout, step) for scout in scouts for step in scout.sees(tape, ended)]
    levels.losses.settle()  # its number is known from here on
    if found:
        _alarm(session, {step for scout, last in found for step in range(last - scout.back, last + 1)})


def tripped(session: Standing) -> None:
    """Between two calls that run natively the program has come to where it may be stopped: what it did since the last
    call is done again at once, before it prints anything. What it has printed since is not told from what it prints
    next, before another op: then it is done again where the next call ends.

    Raises:
        RunAgain: Through the program.
    """
    tape, recorder, now = session.tape, session.recorder, session.course.now
    if recorder is None or recorder.intake.follows or this_process() != session.process:
        return
    if not (isinstance(now, Going) and may_run(session)) or session.hooks.has_printed(len(tape)):
        return
    number = unit_at(tape, len(tape) - 1)
    seen = [scout for scout in scouting(session) or [] if isinstance(scout, Tripped)]
    if is_closed(tape, number) and any([scout.may(tape, number) for scout in seen]):
        _alarm(session, {number})


def _alarm(session: Standing, steps: set[int]) -> None:
    """Open steps in which something may be hit. Raises RunAgain through the program."""
    tape = session.tape
    session.course.rest(Stop("", len(tape)))
    session.hooks.opening(closed.title_of([max(steps)]))
    session.stops.recount(session.lookout.counted)  # the command comes by all of it once more
    session.alarms += 1
    session.wary = len(tape.steps) + 2 ** min(session.alarms, _WARIEST) // 2
    opened = [part for step in steps if step for part in closed.units(tape, step)]
    session.edits.open(frozenset([*opened, *tape.retraced]), session.cursor)


_WARIEST = 12
"""After so many alarms for nothing, one after the other, no more steps are recorded at once."""


def scouting(session: Standing) -> list[Scout] | None:
    """Return who looks out for what may stop the program as it runs natively; None if that takes recording. What they
    have to be told of is asked for. They stay the same as long as the program runs natively."""
    recorder, now = session.recorder, session.course.now
    if recorder is None or not isinstance(now, Going):
        return None
    triggers = tuple(session.stops.enabled)
    levels = levels_of(recorder)
    known = session.scouts if levels is not None and levels.native else None
    if known is None or known[:2] != (now.goal, triggers):
        watch(session)
        known = session.scouts
    return None if known is None else known[2]


def watch(session: Standing) -> None:
    """Have Python tell where the program comes by, as far as that may stop it."""
    recorder, now = session.recorder, session.course.now
    if recorder is None or not isinstance(now, (Going, Replaying)):
        return
    if isinstance(now, Going) and may_run(session):
        session.scouts = now.goal, tuple(session.stops.enabled), scouts_of(session, now.goal)
    if isinstance(now, Going):
        closed.await_places(session, now.goal)
    tape = recorder.intake.tape if isinstance(recorder.intake, Replay) else session.tape  # there the places are known
    lines = list(without_ops(tape, session.awaited))
    scouts = session.scouts[2] if session.scouts is not None and may_run(session) else None
    session.passing.arm(recorder, lines, wires_of(scouts or []), asked_of(scouts or []))


def may_run(session: Standing) -> bool:
    """Whether calls may run natively: a program that cannot run again could not be opened."""
    return bool(session.settings["native"] == "on") and session.edits.can_run_again


def _needed_from(session: Standing) -> int:
    """Return the first step of which ops are needed."""
    now = session.course.now
    if not isinstance(now, Going) or now.interrupted or session.surprises > _SURPRISES or not may_run(session):
        return 0
    goal = now.goal
    scouts = scouting(session)
    if scouts is None:
        return 0
    first = goals.needed_from(goal) or sys.maxsize
    named = [scout.number for scout in scouts if isinstance(scout, InStepOnly) and scout.is_ahead(session.tape)]
    return min([first, *named])


class Frontier:
    """The last op that a run along a tape is expected to make, wherever that comes to lie.

    Args:
        reached: Tells its position; None while steps are being opened.
    """

    reason = sought = ""

    def __init__(self, reached: Callable[[], int | None]) -> None:
        self._reached = reached

    def find(self, tape: Tape) -> int | None:
        position = self._reached()
        return position if position is not None and position < len(tape) else None


def way_back(session: Standing, run: Run, opening: Opening, then: goals.Goal | None) -> goals.Goal:
    """Note that the program is about to run again to open steps. Returns up to where it does again what it did."""
    session.opening = opening
    session.stood = run.cursor if run.cursor >= 0 else None
    if isinstance(then, goals.AtEvaluation):
        return then
    if session.edits.timelines.current.ended or session.stood is None:
        return goals.Ending()
    return Frontier(lambda: opening.reached)


def settle(session: Standing) -> None:
    """Note that a run that opened steps has come to where the run before was."""
    opening, session.opening = session.opening, None
    if opening is None:
        return
    if session.recorder is not None:
        opening.close(session.recorder)
    parted, recorder = opening.parted(), session.recorder
    if recorder is not None and isinstance(recorder.intake, Replay):
        recorder.intake.forward.settle(recorder)
        if parted and recorder.intake.forward.skipped:
            raise NotKept(parted)
    session.tape.opened = opening.open_now()
    if opening.old.turns.asked:
        from nnrepl.session.turn_curves import settle as answered

        answered(opening.old)
    session.tape.turns.curves = opening.old.turns.curves
    trips_of(session.tape).carry(trips_of(opening.old), opening.length, opening.moved)
    timeline = session.edits.timelines.current
    timeline.seen = opening.moved(timeline.seen)
    _move_changes(session, timeline, opening)
    session.hooks.opened(opening.moved, timeline.seen + (timeline.seen >= len(session.tape)))
    if session.stood is not None:  # after the last call natively nothing is seen: the end is further on now
        at_end = timeline.ended and session.stood >= opening.length
        session.stood = len(session.tape) if at_end else opening.moved(session.stood)
    _succeed(session, opening)
    if parted:
        session.hooks.announce(parted)


def _succeed(session: Standing, opening: Opening) -> None:
    """Let go of the tape whose place another one has taken."""
    recorder, tape = session.recorder, session.tape
    others = [timeline.tape for timeline in session.edits.timelines]
    held = [] if recorder is None else list(recorder.live.copy().values())
    succeed(opening.old, tape, others, held, opening.moved)


def _move_changes(session: Standing, timeline: Timeline, opening: Opening) -> None:
    """Note that the changes that a timeline began with, and those of the source, lie where they lie on its new tape."""
    edit = timeline.edit
    if edit is not None:
        ops = [opening.remade.edits.get(op, op) for op in edit.ops]
        target = opening.remade.now.get(edit.target, edit.target)
        timeline.edit = replace(edit, target=target, position=opening.moved(edit.position), ops=ops)
    codes = {code: replace(code, position=opening.moved(code.position)) for code in timeline.codes}
    timeline.codes = tuple(codes.values())
    timeline.code = None if timeline.code is None else codes.get(timeline.code, timeline.code)
    session.codes.restate(codes)


def reached(session: Standing, recorder: Recorder) -> int:
    """Where the program stands: on the tape along which it runs, where it opens steps of that."""
    position = len(recorder.tape)
    return position if session.opening is None else session.opening.before(position)


def opened(session: Standing) -> bool:
    """If a step has been opened for the user, they stand where they stood. Returns whether that is so."""
    stood, session.stood = session.stood, None
    if stood is None:
        return False
    session.arrive(stood, OPENED)
    return True


def remember(reached: tuple[object, ...]) -> Callable[[], None] | None:
    """Return what puts back all that can be reached from some things, but for numbers in tensors; None if not all can
    be."""
    world = World(reached, arrays=False)
    return None if world.lost else world.restore


def keeps_worlds(recorder: Recorder) -> None:
    """Let a recorder that nobody listens to put back what the program's functions can reach."""
    levels = levels_of(recorder)
    if levels is not None:
        levels.remember = remember


def not_expected(session: Standing, pass_: Pass) -> None:
    """Natively, something else has become of the weights after a gradient call than where that was recorded: the
    program runs again, and is recorded there; where that happens again and again, all of it is.

    Raises RunAgain through the program.
    """
    recorder, now = session.recorder, session.course.now
    if recorder is None or recorder.intake.follows or not isinstance(now, Going):
        return
    session.surprises += 1
    session.hooks.cursor_moved(len(session.tape))  # what it has printed is shown: the run again takes it as seen
    session.course.rest(Stop("", len(session.tape)))
    session.edits.open(frozenset([pass_.step.number]), -1, now.goal)


def look_at_end(session: Standing) -> None:
    """Note that the program, or a cell, has come to its end natively: what has come by since its last call may stop the
    user as well.

    Raises:
        RunAgain: Through the program.
    """
    recorder, tape, now = session.recorder, session.tape, session.course.now
    levels = None if recorder is None else levels_of(recorder)
    native = levels is not None and levels.native
    if not native or not isinstance(now, Going) or now.interrupted or this_process() != session.process:
        return
    last = unit_at(tape, len(tape) - 1)
    if is_closed(tape, last) and any(scout.may(tape, last) for scout in scouting(session) or []):
        _alarm(session, {last})


def look_at_failure(session: Standing, error: BaseException | None) -> None:
    """Note that the program has ended. Where it failed in a step that is closed, that is opened.

    Raises RunAgain through the program.
    """
    recorder, tape = session.recorder, session.tape
    levels = None if recorder is None else levels_of(recorder)
    failed = isinstance(error, Exception) and levels is not None and levels.native and session.stood is None
    if failed and tape.ops and session.hooks.looks() and session.edits.can_run_again:
        session.edits.open(frozenset([unit_at(tape, len(tape) - 1)]), -1)
