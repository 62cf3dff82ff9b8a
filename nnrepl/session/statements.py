"""Statements: what is typed at the prompt and changes something of the program's (`opt.learning_rate = 0.5`,
`model.eval()`, a counter; tensors too, where a line does more than to change one) stands on the timeline.

Nobody can tell from a line what it does, so it is done, and what the objects that it names hold is compared. If it
changed something it is taken back, and done where it belongs: in the program, which runs again with that line in it.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, ModuleType
from typing import Any

import mlx.core as mx

from nnrepl.record.changing import changes_in_place
from nnrepl.record.objects import refill
from nnrepl.replay.world import RandomStates, World
from nnrepl.session.parsed import Parsed
from nnrepl.session.reading import Reading

_NO_STATE = (mx.array, ModuleType, str, int, float, bool, bytes, type(None))


class Effect:
    """What a line at the prompt did to the program.

    Attributes:
        result: What it gave, if it is an expression.
        changed: Whether it changed something of the program's, and means to: an expression that gives a value is a
            look, whatever it does on the way; a method that gives nothing (or its object) is there for what it does.
        looked: Whether it was a look that changed something; that has been put back.
        named: What the program's variables hold that it names.
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
    bound, where = _bound(session, line), session.where()
    before, expressions.witness = expressions.witness, partial(_witnessed, session, effect)
    expressions.assigned.clear()
    try:
        yield effect
    finally:
        expressions.witness = before
    if bound or effect.touched or effect.drew:
        effect.changed = bool(bound) or _means_to(line, effect.named, effect.result)
        effect.looked = effect.touched and not effect.changed
    if not effect.changed:
        expressions.write_back(where)


@contextmanager
def _witnessed(session: Reading, effect: Effect, namespace: dict[str, Any]) -> Iterator[None]:
    """While a line runs among some variables: note whether what the program's hold becomes another, and put it back."""
    own = session.expressions.variables
    given = {name: thing for name, thing in namespace.items() if name not in own and not name.startswith("__")}
    effect.named.update(given)
    world = World([thing for thing in given.values() if not isinstance(thing, _NO_STATE)], arrays=False)
    theirs = {id(thing) for thing in (*given.values(), *world.holding) if isinstance(thing, mx.array)}
    before, chance = world.contents(), RandomStates()
    try:
        with changes_in_place() as changed:
            yield
    finally:
        tensors = [pair for key, pair in changed.items() if key in theirs]
        touched, drew = world.contents() != before or bool(tensors), chance.moved
        effect.touched |= touched
        effect.drew |= drew
        for array, held in tensors:
            refill(array, held)
        if touched or drew:
            world.restore()


def _does(line: Parsed) -> bool:
    """Whether a line is plain Python and does something."""
    does = (ast.Call, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete, ast.NamedExpr)
    return line.is_plain and any(isinstance(node, does) for statement in line.body for node in ast.walk(statement))


def _means_to(line: Parsed, named: dict[str, Any], result: Any) -> bool:
    """Whether a line is there for what it does: a statement, a call that gives nothing (but prints nothing either), or
    a method that gives its own object."""
    call = line.expression
    if call is None:
        return True
    if not isinstance(call, ast.Call):
        return False
    if isinstance(call.func, ast.Name):
        return result is None and call.func.id not in _SHOW
    if not isinstance(call.func, ast.Attribute):
        return False
    root: ast.expr = call.func
    while isinstance(root, (ast.Attribute, ast.Subscript, ast.Call)):
        root = root.func if isinstance(root, ast.Call) else root.value
    if not isinstance(root, ast.Name) or root.id not in named:
        return False
    return result is None or result is named[root.id] or "Module" in [base.__name__ for base in type(result).__mro__]


_SHOW = ("print", "pprint", "display", "help", "breakpoint")


def _bound(session: Reading, line: Parsed) -> list[str]:
    """Return the program's own variables that a line assigns to; not the user's."""
    expressions = session.expressions
    known = expressions.known(session.where())
    stored = stored_by(compile(ast.Module(line.body, []), "<prompt>", "exec", dont_inherit=True))
    return [name for name in stored if name in known and name not in expressions.variables]


def stored_by(code: CodeType) -> list[str]:
    """Return the variables that some Python sets or deletes itself: not those of its functions and comprehensions."""
    found = [str(each.argval) for each in dis.get_instructions(code) if each.opname in _STORES]
    for inner in code.co_consts:
        if isinstance(inner, CodeType):  # `global` in a function, `:=` in a comprehension
            found += [str(each.argval) for each in dis.get_instructions(inner) if each.opname in _GLOBALS]
    return list(dict.fromkeys(found))


_GLOBALS = ("STORE_GLOBAL", "DELETE_GLOBAL")
_STORES = ("STORE_NAME", "DELETE_NAME", *_GLOBALS)
