"""Statements: what is typed at the prompt and changes something of the program's (`opt.learning_rate = 0.5`,
`model.eval()`, a counter; tensors too, where a line does more than to change one) stands on the timeline.

Nobody can tell from a line what it does, so it is done, and what the objects that it names hold is compared. If it
changed something it is taken back, and done where it belongs: in the program, which runs again with that line in it.
"""

from __future__ import annotations

import ast
import dis
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, ModuleType
from typing import Any

import mlx.core as mx

from nnrepl.record.batches import all_same_bits
from nnrepl.record.changing import Changed, changes_in_place
from nnrepl.record.objects import refill
from nnrepl.replay.world import RandomStates, World, is_outside
from nnrepl.session.errors import UserError
from nnrepl.session.parsed import Parsed
from nnrepl.session.reading import Reading
from nnrepl.session.taken import Iterators
from nnrepl.tape import UNBOUND, is_evaluated

_NO_STATE = (mx.array, ModuleType, str, int, float, bool, bytes, type(None))


SetPlace = ast.Attribute | ast.Subscript


class Effect:
    """What a line at the prompt did to the program.

    Attributes:
        result: What it gave, if it is an expression.
        changed: Whether it changed something of the program's, and means to: an expression that gives a value is a
            look, whatever it does on the way; a method that gives nothing (or its object) is there for what it does.
        looked: Whether it was a look that changed something; that has been put back.
        named: What the program's variables hold that it names.
        idle: What to say of a line that sets something, and has changed nothing; "" of any other.
        gone_on: What the generators are called that have gone on by it.
    """

    def __init__(self) -> None:
        self.result: Any = None
        self.changed = False
        self.looked = False
        self.touched = False
        self.drew = False
        self.named: dict[str, Any] = {}
        self.idle = ""
        self.places: list[SetPlace] = []
        self.outside = ""
        self.gone_on: list[str] = []

    @property
    def kept(self) -> str:
        """What to say of a look: of what it changed that is put back, or cannot be; "" where that is nothing."""
        if self.gone_on:
            which = " and ".join(dict.fromkeys(self.gone_on))
            return f"{which} has gone on by that, and cannot be put back: a generator"
        return "what that changed in the program is put back: a look" if self.touched else ""


@contextmanager
def noticing(session: Reading, line: Parsed) -> Iterator[Effect]:
    """Notice whether a line that is run inside changes something of the program's; if so, that is taken back.

    Raises:
        UserError: If it sets something of a library's, which no run of the program would put back.
    """
    effect, expressions = Effect(), session.expressions
    if not _does(line):
        yield effect
        return
    bound, where = _bound(session, line), session.where()
    places, stored = _places(line)
    effect.places = [node for node in places if _root(node) not in expressions.variables]
    before, expressions.witness = expressions.witness, partial(_witnessed, session, effect)
    expressions.assigned.clear()
    try:
        yield effect
    finally:
        expressions.witness = before
    if effect.outside:
        raise UserError(
            f"{effect.outside} cannot be set here: it is none of the program's, and nothing would put it back where "
            "the program runs again; nothing has changed"
        )
    if bound or effect.touched or effect.drew:
        effect.changed = bool(bound) or _means_to(line, effect.named, effect.result)
        effect.looked = effect.touched and not effect.changed
    if not effect.changed:
        expressions.write_back(where)
        if stored and not effect.looked and stored.isdisjoint(expressions.variables):
            effect.idle = "that changes nothing of the program's"


@contextmanager
def _witnessed(session: Reading, effect: Effect, namespace: dict[str, Any]) -> Iterator[None]:
    """While a line runs among some variables: note whether what the program's hold becomes another, and put it back."""
    own = session.expressions.variables
    given = {name: thing for name, thing in namespace.items() if name not in own and not name.startswith("__")}
    effect.named.update(given)
    world = World([thing for thing in given.values() if not isinstance(thing, _NO_STATE)], arrays=False)
    theirs = {id(thing) for thing in (*given.values(), *world.holding) if isinstance(thing, mx.array)}
    before, chance, arrays = world.contents(), RandomStates(), world.tensors()
    outside = _outside(effect.places, namespace, world)
    iterators = Iterators(namespace, list(given), world.holding)
    changed: Changed = {}
    try:
        with changes_in_place() as changed:
            yield
    finally:
        effect.outside = effect.outside or next((place.text for place in outside if place.put_back()), "")
        tensors = [pair for key, pair in changed.items() if key in theirs]
        went_on, gone_on = iterators.give_back()
        effect.gone_on += gone_on
        differs = other_tensors(before, world.contents(), {**arrays, **world.tensors()})
        touched, drew = differs or bool(tensors) or went_on, chance.moved
        effect.touched |= touched
        effect.drew |= drew
        for array, held in tensors:
            refill(array, held)
        if touched or drew:
            world.restore()


def other_tensors(before: Any, now: Any, arrays: dict[int, mx.array]) -> bool:
    """Whether what a world holds is anything but the same numbers in other objects: those MLX hands to what it traces,
    and to a model of which `nn.value_and_grad` takes the gradients.

    Args:
        before, now: Its contents, by identity.
        arrays: The tensors in either, by `id`.
    """
    pairs: dict[tuple[int, int], tuple[mx.array, mx.array]] = {}
    pending = [(before, now)]
    while pending:
        one, other = pending.pop()
        if one == other:
            continue
        if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
            pending += zip(one, other)
        elif isinstance(one, int) and isinstance(other, int) and one in arrays and other in arrays:
            pairs[one, other] = arrays[one], arrays[other]
        else:
            return True
    given = list(pairs.values())
    if sum(array.size for array, _ in given) > _COMPARED or not all(is_evaluated(array) for array, _ in given):
        return True
    try:
        return bool(given) and not all(all_same_bits(given))
    except (ValueError, RuntimeError):  # what a function leaves there that MLX has traced has no numbers
        return True


_COMPARED = 2**26
"""So many numbers are compared, for what is said beside a look."""


class _Outside:
    """A place that a line sets, in something that is none of the program's.

    Args:
        holder: What it is in.
        node: As it is written.
        key: The name of the attribute, or what stands between the brackets.
    """

    def __init__(self, holder: Any, node: SetPlace, key: Any) -> None:
        self.text = ast.unparse(node)
        self._holder = holder
        self._key = key
        self._entry = isinstance(node, ast.Subscript)
        self._before = self._held()

    def _held(self) -> Any:
        if not self._entry:
            return vars(self._holder).get(self._key, UNBOUND) if hasattr(self._holder, "__dict__") else UNBOUND
        try:
            return self._holder[self._key]
        except Exception:  # whatever a library's object raises: there is nothing
            return UNBOUND

    def put_back(self) -> bool:
        """Put it back if it is not what it was; returns whether it was not."""
        now, before = self._held(), self._before
        if now is before or (type(now) is type(before) is str and now == before):
            return False
        if self._entry and before is UNBOUND:
            del self._holder[self._key]
        elif self._entry:
            self._holder[self._key] = before
        elif before is UNBOUND:
            delattr(self._holder, self._key)
        else:
            setattr(self._holder, self._key, before)
        return True


def _outside(places: list[SetPlace], namespace: dict[str, Any], world: World) -> list[_Outside]:
    """Return the places that are in none of the program's things: what a world does not know how to put back."""
    found = []
    for node in places:
        holder = _at(node.value, namespace)
        known = any(thing is holder for thing in world.holding) and not isinstance(holder, io.IOBase)
        if holder is UNBOUND or isinstance(holder, mx.array) or (known and not is_outside(holder)):
            continue
        if isinstance(node, ast.Attribute):
            found.append(_Outside(holder, node, node.attr))
        elif isinstance(node.slice, ast.Constant):
            found.append(_Outside(holder, node, node.slice.value))
    return found


def _at(node: ast.expr, namespace: dict[str, Any]) -> Any:
    """Return what lies at a path of names and attributes; UNBOUND where that would have to be computed."""
    if isinstance(node, ast.Name):
        return namespace.get(node.id, UNBOUND)
    if not isinstance(node, ast.Attribute):
        return UNBOUND
    holder = _at(node.value, namespace)
    return UNBOUND if holder is UNBOUND or isinstance(holder, mx.array) else getattr(holder, node.attr, UNBOUND)


def _places(line: Parsed) -> tuple[list[SetPlace], set[str]]:
    """Return the attributes and entries that a line sets or deletes; and the variables at which their paths begin, if
    it does nothing else."""
    targets: list[ast.expr] = []
    for statement in line.body:
        if isinstance(statement, (ast.Assign, ast.Delete)):
            targets += statement.targets
        elif isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
            targets.append(statement.target)
    places = [node for node in targets if isinstance(node, (ast.Attribute, ast.Subscript))]
    whole = len(line.body) == 1 and len(places) == len(targets)
    return places, {root for root in map(_root, places) if root} if whole else set()


def _root(node: ast.expr) -> str:
    """Return the variable at which a path begins; "" if it begins at none."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


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
    try:
        stored = stored_by(compile(ast.Module(line.body, []), "<prompt>", "exec", dont_inherit=True))
    except SyntaxError:  # a `yield` outside of any function: that is said where it is run
        return []
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
