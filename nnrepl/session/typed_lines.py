"""Lines: what is typed at the prompt as a line of the program: it runs among the variables of the call in which the
cursor stands, where the program comes by, and what it computes is recorded like the program's own lines.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from copy import copy
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.record import segments as sources
from nnrepl.record.custom import first_run_of
from nnrepl.record.frame_variables import OPTIMIZED, around, namespace, set_variables
from nnrepl.record.phases import PARTS
from nnrepl.record.recorder import Recorder, current
from nnrepl.record.runs_twice import LineLater, note_line
from nnrepl.replay.awaited import Awaited
from nnrepl.replay.divergence import CannotExchange, said_of
from nnrepl.session.parsed import Parsed
from nnrepl.session.reading import Reading
from nnrepl.session.statements import stored_by
from nnrepl.tape import GRADIENT_PASS, UNBOUND, Activation, Op, Pass, Tape, outermost
from nnrepl.timeline.code import CodeChange
from nnrepl.timeline.edits import remember_source

Variables = list[tuple[FrameType | dict[str, Any], str, Any]]
"""What variables hold, of a call or of a module."""


class PromptLine:
    """A line as one of the program's.

    Args:
        known: The variables of the user's that it may name.
        place: Where it is done, in words.

    Attributes:
        named: The names that it speaks of.
        stored: Those that it sets or deletes.
        made: How many ops it has put on the tape; None before it has run.
    """

    def __init__(self, line: Parsed, known: dict[str, Any], place: str = "where the program runs again") -> None:
        self.text = line.text
        self._place = place
        self.made: int | None = None
        self._body = line.body
        self._known = known
        self._before: Variables = []
        self._after: Variables = []
        self._file = remember_source(self.text)
        plain = compile(ast.Module(line.body, []), self._file, "exec", dont_inherit=True)
        self.stored = stored_by(plain)
        self.named = _names(plain)

    def run(self, recorder: Recorder | None, frames: list[FrameType]) -> None:
        """Run it among the variables of a frame and of its callers; what it assigns to them is theirs.

        Raises:
            CannotExchange: If it fails.
        """
        if not frames:
            raise CannotExchange(
                f"{self.text} cannot be done here: no line of the program's runs; NAME = EXPRESSION changes a tensor"
            )
        before = 0 if recorder is None else len(recorder.tape)
        local, owners = self._given(frames)
        self._run(local, owners, frames[0].f_globals)
        if recorder is not None:
            self.made = len(recorder.tape) - before
            recorder.tape.notes.typed.update(recorder.tape.ops[before:])
            for around in (*recorder.tracing, *(() if recorder.inside is None else (recorder.inside,))):
                around.typed = True

    def run_over(self, held: dict[str, Any], outside: dict[str, Any]) -> None:
        """Run it where nothing runs any more, among global variables and what others had held.

        Raises:
            CannotExchange: If it fails.
        """
        self._run({name: thing for name, thing in held.items() if name not in outside}, {}, outside)

    def _run(self, local: dict[str, Any], owners: dict[str, FrameType], outside: dict[str, Any]) -> None:
        places = {name: owners.get(name, outside) for name in self.stored if name in owners or name not in local}
        self._before = [(where, name, _held(where, name)) for name, where in places.items()]
        found = self._call(local, outside)
        for name, owner in owners.items():
            if name in found and found[name] is not local[name]:
                set_variables(owner, {name: found[name]})
        self._after = [(where, name, found.get(name, UNBOUND) if name in local else _held(where, name))
                       for name, where in places.items()]  # fmt: skip

    def again(self) -> PromptLine:
        """Return the same line, as it runs for another time: what it sets is taken back with the first."""
        return copy(self)

    def things(self, scope: Activation | None) -> list[Any]:
        """Return what its names stand for in the modules of a call and in the calls that run: what it may change."""
        spaces = [step.variables for step in (() if scope is None else scope.path())]
        for frame in running_frames():
            if not is_library(frame.f_code.co_filename):
                spaces += [namespace(frame), frame.f_globals]
        found = [space[name] for name in self.named for space in spaces if name in space]
        return [thing for thing in found if not isinstance(thing, ModuleType)]

    def take_back(self) -> None:
        """Give the variables that it had set what they held before, where they are still there."""
        _put(self._before)

    def take_again(self) -> None:
        """Give them again what it gave them."""
        _put(self._after)

    def _given(self, frames: list[FrameType]) -> tuple[dict[str, Any], dict[str, FrameType]]:
        """Return the variables that it has as its own: the user's, and those of the program's calls, innermost first;
        and whose they are. The others are global ones of the innermost call."""
        local = {name: thing for name, thing in self._known.items() if name in self.named}
        owners: dict[str, FrameType] = {}
        codes, last = [frame.f_code for frame in frames[::-1]], len(frames) - 1
        for name in self.named - local.keys():
            for at, frame in enumerate(frames):
                places = last - at, *around(codes, last - at)
                sees = [frames[last - place] for place in places if name in namespace(frames[last - place])]
                if sees and namespace(sees[0]) is not frame.f_globals:
                    local[name], owners[name] = namespace(sees[0])[name], sees[0]
                elif name in frame.f_globals and frame.f_globals is not frames[0].f_globals:
                    local[name] = frame.f_globals[name]
                elif name not in frame.f_globals:
                    continue
                break
        return local, owners

    def _call(self, local: dict[str, Any], outside: dict[str, Any]) -> dict[str, Any]:
        """Run it as the body of a function that has these variables. Returns what they are afterwards."""
        others = [name for name in self.stored if name not in local]
        body: list[ast.stmt] = [ast.Global(others)] if others else []
        body += [*self._body, ast.parse("return locals()").body[0]]
        given = ast.arguments([], [ast.arg(name) for name in local], None, [], [], None, [])
        tree = ast.Module([ast.FunctionDef("line", given, body, [], None)], [])
        code = compile(ast.fix_missing_locations(tree), self._file, "exec", dont_inherit=True)
        inner = next(part for part in code.co_consts if isinstance(part, CodeType))
        lent = {"mx": mx} if "mx" in self.named and "mx" not in outside and "mx" not in local else {}
        outside.update(lent)
        try:
            return dict(FunctionType(inner.replace(co_name="<module>"), outside)(**local))
        except Exception as error:
            raise CannotExchange(f"{self.text} fails {self._place} ({said_of(error)})") from None
        finally:
            for name in lent:
                outside.pop(name, None)


def _held(where: FrameType | dict[str, Any], name: str) -> Any:
    """Return what a variable holds; UNBOUND if there is none."""
    return (namespace(where) if isinstance(where, FrameType) else where).get(name, UNBOUND)


def _put(variables: Variables) -> None:
    """Let variables hold what they held, those of calls only while they run."""
    running = running_frames()
    for where, name, thing in variables:
        if isinstance(where, FrameType):
            if where in running:
                set_variables(where, {name: thing})
        elif thing is UNBOUND:
            where.pop(name, None)
        else:
            where[name] = thing


def _names(code: CodeType) -> frozenset[str]:
    """Every name that some Python speaks of."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return frozenset(code.co_names).union(*map(_names, inner))


def as_change(
    session: Reading, line: Parsed, passing: bool = False
) -> tuple[CodeChange, PromptLine, Callable[[], int | None]]:
    """Return a line as a change of the program: done once in each run that comes by, where the cursor stands now,
    before the line of the program's that makes the next op; twice where the function there runs twice. Also returns
    what tells after how many ops of its own the user then stands.

    Args:
        passing: Whether it changes a tensor, and nothing that outlives the call.

    Raises:
        UserError: If it cannot stand there.
    """
    tape, where = session.tape, session.where()
    doing = PromptLine(line, dict(session.expressions.variables))
    cursor = first_run_of(tape, session.cursor)
    scope = where.scope if cursor == session.cursor else _in_first_run(tape.ops[cursor], where.scope)
    scope = _home(tape, doing, scope, cursor)
    at = _first_of_line(tape, cursor, scope)
    op = tape.ops[cursor] if cursor < len(tape) else None
    awaited = None if op is None or op.of is not None else _awaited(tape, tape.ops[at], at, scope)
    whole = _whole(tape, at)
    inside = whole is not None and awaited is not None and scope not in _callers(whole)
    runs = _Runs(doing, scope, awaited, cursor != session.cursor, inside)
    at = at if whole is None else whole.start
    entering = any(pass_.start == at and pass_.kind == GRADIENT_PASS for pass_ in tape.passes)
    change = CodeChange(
        text=line.text, said=(), position=at, entering=entering, texts={}, left=(), early=False, prepare=runs.prepare,
        take=runs.take, give_back=lambda alive: doing.take_back(), once=True, wait=runs.wait,
        inside=inside, passing=passing,
    )  # fmt: skip
    return change, doing, runs.made


def _whole(tape: Tape, at: int) -> Pass | None:
    """Return what happened inside of the call that MLX runs by itself in which a position lies; None if in none."""
    return outermost(tape.ops[at].pass_) if at < len(tape) and tape.ops[at].inner else None


def _callers(whole: Pass) -> list[Activation]:
    """Return the calls from which a call is made that MLX runs by itself."""
    return [] if whole.scope is None else whole.scope.path()


class _Runs:
    """The runs of a line: one where the program comes by, one more where it stands in a block that runs twice.

    Args:
        scope: In which call it stands.
        awaited: The line of the program's before which it stands; None where that is an op.
        second: Whether the user stands in a second run.
        inside: Whether it stands inside of a call that MLX runs by itself.
    """

    def __init__(
        self, doing: PromptLine, scope: Activation | None, awaited: Awaited | None, second: bool, inside: bool
    ) -> None:
        self._inside = inside
        self.wait = None if awaited is None else awaited.arm
        self._doing = doing
        self._scope = scope
        self._awaited = awaited
        self._second = second
        self._done = False
        self._more: int | None = None

    def prepare(self) -> None:
        """Forget the runs before."""
        self._done, self._more, self._doing.made = False, None, None
        self._forget()

    def take(self, alive: bool) -> None:
        """Run it, unless it has run."""
        if not self._done and (alive or self._awaited is None):
            self._done = True
            self._run(self._doing)

    def made(self) -> int | None:
        """Return how many ops it has made before the place where the user stands; None while that is not known."""
        if not self._second:
            return self._doing.made
        return None if self._doing.made is None or self._more is None else self._doing.made + self._more

    def _again(self) -> None:
        again = self._doing.again()
        self._run(again)
        self._more = again.made

    def _run(self, doing: PromptLine) -> None:
        self._forget()
        recorder, frames = current(), frames_of(self._scope)
        if recorder is not None:
            # It is waited for where the call begins: the second run, too, is only told of what lies outside of that.
            around = None if recorder.inside is None else outermost(recorder.inside.pass_)
            position = len(recorder.tape) if around is None else around.start
            note_line(recorder.blocks, position, self._again, self.wait, self._inside)
            self._note_later(recorder, frames)
        doing.run(recorder, frames)

    def _note_later(self, recorder: Recorder, frames: list[FrameType]) -> None:
        """Let functions that MLX runs again by itself have it in each of their runs."""
        blocks = [block for block in recorder.blocks if block.by_mlx]
        if not blocks or not frames or self._awaited is None:
            return
        recorder.stand(frames[0])
        for block in blocks:
            begun, here = (block.start, len(recorder.tape)), recorder.stack.scope
            awaited = self._awaited.again(_came_by(recorder.tape, *begun, here, self._awaited))
            block.later.append(LineLater(self._again, awaited.arm, awaited.disarm))

    def _forget(self) -> None:
        if self._awaited is not None:
            self._awaited.disarm()


def _in_first_run(op: Op, scope: Activation | None) -> Activation | None:
    """Return the call in a block's first run that a call in its second run was: of the same function."""
    path = [] if op.scope is None else op.scope.path()[::-1]
    return next((step for step in path if scope is not None and step.code == scope.code), op.scope)


def _home(tape: Tape, line: PromptLine, scope: Activation | None, cursor: int) -> Activation | None:
    """Return the call in which a line stands: the innermost function that has a variable to which it assigns; else the
    innermost of the program's own, or a library's if it speaks of a variable of that."""
    path = [] if scope is None else scope.path()[::-1]
    held = [tape.bindings.variables(step, cursor) for step in path]
    for step, variables in zip(path, held):
        if step.code.co_flags & OPTIMIZED and not variables.keys().isdisjoint(line.stored):
            return step
    for step, variables in zip(path, held):
        own = not (is_library(step.code.co_filename) or step.code.co_name in PARTS)  # no line stands in a lambda
        if own or not variables.keys().isdisjoint(line.named) or _object_of(step) in line.named:
            return step
    return scope


def _object_of(step: Activation) -> str:
    """Return what a call names the module or the optimizer whose method it is: `self`; "" where it is none of one."""
    return step.code.co_varnames[0] if step.owner is not None and step.code.co_argcount else ""


def _first_of_line(tape: Tape, cursor: int, scope: Activation | None) -> int:
    """Where the ops begin of the statement in which the cursor stands, in a function that makes the op or the call in
    which it is made (`up`)."""
    op = tape.ops[cursor] if cursor < len(tape) else None
    if op is None or scope is None:
        return cursor
    site, at = _site(op, scope), cursor
    line = None if site is None else _line(site[1], scope)
    while site is not None and at > op.pass_.start:
        before = _site(tape.ops[at - 1], scope)
        same = before == site and site[0] is not None
        # Within one run of a statement Python goes forward; in a loop on one line it comes back.
        if before is None or not (same or (before[1] < site[1] and _line(before[1], scope) == line)):
            break
        site, at = before, at - 1
    return at


def _site(op: Op, scope: Activation) -> tuple[Activation | None, int] | None:
    """Return the call, and its place in a function, that leads to an op; None where the function does not."""
    step, inner, lasti = op.scope, None, op.lasti
    while step is not None and step is not scope:
        inner, lasti, step = step, step.lasti, step.parent
    return None if step is None else (inner, lasti)


def _awaited(tape: Tape, op: Op, at: int, scope: Activation | None) -> Awaited | None:
    """Wait for the line of the program's that makes an op, or leads to it; None where no line does."""
    here = scope if scope is not None and _site(op, scope) is not None else op.scope
    if here is None:
        return None
    site = _site(op, here)
    assert site is not None
    held = tape.bindings.variables(here, at)
    plain = {name: thing for name, thing in held.items() if type(thing) in (int, str, bool)}
    line = _line(site[1], here)
    awaited, whole = Awaited(here.code, line, plain), _whole(tape, at)
    return awaited if whole is None else awaited.again(_came_by(tape, whole.start, at, here, awaited))


def _came_by(tape: Tape, start: int, end: int, scope: Activation | None, awaited: Awaited) -> int:
    """How many calls of a function but one have come by a line of it, in such a turn, between two positions."""
    found: set[Activation] = set()
    for op in tape.ops[start:end]:
        for step in () if op.scope is None else op.scope.path():
            if step is scope or step.code != awaited.code or step in found:
                continue
            site, held = _site(op, step), tape.bindings.variables(step, op.position)
            if site is not None and _line(site[1], step) == awaited.line and held.items() >= awaited.held.items():
                found.add(step)
    return len(found)


def _line(lasti: int, scope: Activation) -> int:
    """Return the first line of the statement in which a call stands, or an op."""
    line = sources.span_of(scope.code, lasti)[0]
    return max((first for first, last in sources.statements(scope.code) if first <= line <= last), default=line)


def frames_of(scope: Activation | None) -> list[FrameType]:
    """Return the program's frames that run now and that a line would see, innermost first: that of the innermost
    function around it that has begun, and its callers; of libraries only one in which it would stand."""
    path = [] if scope is None else scope.path()[::-1]
    codes = [step.code for step in path if step is scope or not is_library(step.code.co_filename)]
    running = running_frames()
    for code in codes:
        for at, found in enumerate(running):
            if found.f_code == code:
                own = [frame for frame in running[at + 1 :] if not is_library(frame.f_code.co_filename)]
                return [found, *own]
    return []


def running_frames() -> list[FrameType]:
    """Return the frames that run now and are none of nnrepl's own, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    running: list[FrameType] = []
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] != "nnrepl":
            running.append(frame)
        frame = frame.f_back
    return running
