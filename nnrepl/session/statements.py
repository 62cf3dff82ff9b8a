"""Statements: what is typed at the prompt and changes something of the program's that is no tensor of the tape
(`opt.learning_rate = 0.5`, `model.eval()`, a counter) is a change like any other: it stands on the timeline.

Nobody can tell from a line what it does, so it is done, and what the objects that it names hold is compared. If it
changed something it is taken back, and done where it belongs: in the program, which runs again with that line in it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FrameType, ModuleType
from typing import Any

import mlx.core as mx

from nnrepl.record import segments as sources
from nnrepl.replay.awaited import Awaited
from nnrepl.replay.divergence import CannotExchange, said_of
from nnrepl.replay.rebinding import set_variables
from nnrepl.replay.world import RandomStates, World
from nnrepl.session.parsed import Parsed
from nnrepl.session.reading import Reading
from nnrepl.tape import GRADIENT_PASS, Activation, Op, Value
from nnrepl.timeline.code import CodeChange
from nnrepl.timeline.edits import remember_source

_NO_STATE = (mx.array, ModuleType, str, int, float, bool, bytes, type(None))


class Effect:
    """What a line at the prompt did to the program.

    Attributes:
        result: What it gave, if it is an expression.
        changed: Whether it changed something of the program's, and means to: an expression that gives a value is a
            look, whatever it does on the way; a method that gives nothing (or its object) is there for what it does.
        looked: Whether it was a look that changed something; that has been put back.
    """

    def __init__(self) -> None:
        self.result: Any = None
        self.changed = False
        self.looked = False
        self.touched = False
        self.drew = False
        self.named: dict[str, Any] = {}


@contextmanager
def noticing(session: Reading, line: Parsed) -> Iterator[Effect]:
    """Notice whether a line that is run inside changes something of the program's; if so, that is taken back."""
    effect, expressions = Effect(), session.expressions
    if not _does(line):
        yield effect
        return
    bound = _bound(session, line)
    variables = dict(expressions.variables)
    before, expressions.witness = expressions.witness, partial(_witnessed, session, effect)
    try:
        yield effect
    finally:
        expressions.witness = before
    if bound or effect.touched or effect.drew:
        effect.changed = bool(bound) or _means_to(line, effect.named, effect.result)
        effect.looked = effect.touched and not effect.changed
    if effect.changed:
        for name in bound:
            expressions.variables.pop(name, None)
        expressions.variables.update(variables)


@contextmanager
def _witnessed(session: Reading, effect: Effect, namespace: dict[str, Any]) -> Iterator[None]:
    """While a line runs among some variables: note whether what the program's hold becomes another, and put it back."""
    own = session.expressions.variables
    given = {name: thing for name, thing in namespace.items() if name not in own and not name.startswith("__")}
    effect.named.update(given)
    world = World([thing for thing in given.values() if not isinstance(thing, _NO_STATE)], arrays=False)
    before, chance = world.contents(), RandomStates()
    try:
        yield
    finally:
        touched, drew = world.contents() != before, chance.moved
        effect.touched |= touched
        effect.drew |= drew
        if touched or drew:
            world.restore()


def statement(session: Reading, line: Parsed) -> CodeChange:
    """Return a line as a change of the program: done once in each run that comes by, where the cursor stands now:
    before the line of the program's that makes the next op."""
    text = line.text
    code = compile(ast.Module(line.body, []), remember_source(text), "exec", dont_inherit=True)
    scope, known = session.where().scope, dict(session.expressions.variables)
    at, op = session.cursor, session.op
    done: list[bool] = []
    here = None if op is None or op.of is not None else op.scope
    awaited = None
    if op is not None and here is not None:
        held = session.tape.bindings.variables(here, at)
        plain = {name: thing for name, thing in held.items() if type(thing) in (int, str, bool)}
        awaited = Awaited(here.code, _line(op, here), plain)

    def take(alive: bool) -> None:
        if not done and session.recorder is not None and (alive or awaited is None):
            done.append(True)
            forget()
            with session.recorder.muted():
                frames = _frames(scope)
                if not frames:
                    raise CannotExchange(f"the program does not come to the call in which {text} stands")
                _execute(text, code, frames, known)

    def forget() -> None:
        if awaited is not None:
            awaited.disarm()

    def prepare() -> None:
        done.clear()
        forget()

    entering = any(part.start == at and part.kind == GRADIENT_PASS for part in session.tape.passes)
    return CodeChange(
        text=text, said=(), position=at, entering=entering, texts={}, left=(), early=False, prepare=prepare,
        take=take, give_back=lambda alive: None, once=True, wait=None if awaited is None else awaited.arm,
    )  # fmt: skip


def _line(op: Op, scope: Activation) -> int:
    """Return the first line of the statement that makes an op, or leads to it, in the innermost call."""
    line = sources.span_of(scope.code, op.lasti)[0]
    try:
        tree = ast.parse("".join(sources.lines_of(sources.file_of(scope.code))))
    except (SyntaxError, ValueError):
        return line
    around = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    return max(around, default=line)


def _frames(scope: Activation | None) -> list[FrameType]:
    """Return the program's frames that run now and that the line would see, innermost first: that of the innermost
    function around it that has begun, and its callers; of libraries only one in which it would stand."""
    path = [] if scope is None else scope.path()[::-1]
    codes = [step.code for step in path if step is scope or not sources.is_library(step.code.co_filename)]
    frame: FrameType | None = sys._getframe(1)
    running: list[FrameType] = []
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] != "nnrepl":
            running.append(frame)
        frame = frame.f_back
    for code in codes:
        for at, found in enumerate(running):
            if found.f_code == code:
                own = [frame for frame in running[at + 1 :] if not sources.is_library(frame.f_code.co_filename)]
                return [found, *own]
    return []


def _execute(text: str, code: CodeType, frames: list[FrameType], known: dict[str, Any]) -> None:
    """Run a line among the variables of a frame and of its callers; what it assigns to them is theirs."""
    names: dict[str, Any] = {"mx": mx, **known}
    for frame in reversed(frames):
        names.update(frame.f_globals)
        names.update(frame.f_locals)
    before = dict(names)
    try:
        exec(code, names)
    except Exception as error:
        raise CannotExchange(f"{text} fails where the program runs again ({said_of(error)})") from None
    changed = {name: thing for name, thing in names.items() if name not in before or before[name] is not thing}
    changed.pop("__builtins__", None)
    for name, thing in changed.items():
        owner = next((frame for frame in frames if name in frame.f_locals), None)
        if owner is None:
            frames[0].f_globals[name] = thing
        else:
            set_variables(owner, {name: thing})


def _does(line: Parsed) -> bool:
    """Whether a line is plain Python and does something."""
    does = (ast.Call, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete, ast.NamedExpr)
    return line.is_plain and any(isinstance(node, does) for statement in line.body for node in ast.walk(statement))


def _means_to(line: Parsed, named: dict[str, Any], result: Any) -> bool:
    """Whether a line is there for what it does: a statement, or a method that gives nothing or its own object."""
    call = line.expression
    if call is None:
        return True
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return False
    root: ast.expr = call.func
    while isinstance(root, (ast.Attribute, ast.Subscript, ast.Call)):
        root = root.func if isinstance(root, ast.Call) else root.value
    if not isinstance(root, ast.Name) or root.id not in named:
        return False
    return result is None or result is named[root.id] or "Module" in [base.__name__ for base in type(result).__mro__]


def _bound(session: Reading, line: Parsed) -> list[str]:
    """Return the program's own variables that a line assigns to; not the user's."""
    expressions = session.expressions
    known = expressions.known(session.where())
    nodes = [node for statement in line.body for node in ast.walk(statement)]
    stored = [node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)]
    own = [name for name in stored if name in known and name not in expressions.variables]
    return [name for name in own if not isinstance(known[name], (mx.array, Value))]
