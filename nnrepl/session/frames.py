"""Frames: what a variable of the program's holds where the cursor stands. One rule for every command (DESIGN 5).

The variables of the call in which the cursor stands come first, as they are at that moment, with its closure; then
those of the functions in whose source that stands, as long as they run; then the global ones of its function; then
those of the program's own calling frames, outwards; those of libraries last. What a returned call left behind is shown
under its own address only.
"""

from __future__ import annotations

import ast
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from types import CodeType, FunctionType, ModuleType
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.installed import is_library
from nnrepl.record import segments as sources
from nnrepl.record.containers import SEQUENCES, blank, fill, fixed
from nnrepl.record.frame_variables import around, variables_of
from nnrepl.record.names import ProgramNames
from nnrepl.record.stack import is_module
from nnrepl.session.errors import NotYet, UserError, not_made
from nnrepl.tape import GRADIENT_PASS, UNBOUND, UPDATE_PASS, Activation, ClosedOp, Holder, Large, Pass, Tape, Value
from nnrepl.tape.bindings import is_module as is_module_code
from nnrepl.tape.kept_array import KeptArray, kept_array
from nnrepl.tape.kept_function import KeptFunction, KeptTransform


@dataclass(frozen=True, slots=True)
class Held:
    """What a name means somewhere.

    Attributes:
        thing: A `Value`, a `Holder`, or an object of the program's.
        address: What to call it where no variable of that name holds it here: `z1@4`; "" where one does.
        whose: Of which step or call it is, where that is not this one: "step 2's".
    """

    thing: Any
    address: str = ""
    whose: str = ""


class Frames:
    """The variables of the calls on one tape."""

    def __init__(self, tape: Tape, names: ProgramNames) -> None:
        self.tape = tape
        self.names = names

    def scope_at(self, position: int) -> Activation | None:
        """Return the call in which the op at a position is made; after the last op, the program's own outermost call:
        the others have returned."""
        ops = self.tape.ops
        if position < len(ops):
            return ops[position].scope
        scope = ops[-1].scope if ops else None
        path = [] if scope is None else scope.path()
        return next((step for step in path if not is_library(step.code.co_filename)), scope)

    # -- the frames that are there -------------------------------------------------------------------------

    def in_frames(self, name: str, position: int, scope: Activation | None, library: bool = False) -> Held | None:
        """Return what a variable of the calls that are running here holds; None if they do not know it.

        Args:
            library: Whether to ask the frames of libraries that called or were called, and those only.

        Raises:
            NotYet: If it is not set yet where the cursor stands.
        """
        if scope is None:
            return None
        unset: NotYet | None = None
        for step, lasti in self._outwards(scope, position, library):
            found = self._in_call(name, step, lasti, position, library and step is not scope)
            if found is None and not _has(step, name):
                found = self._around(name, step, position) or self._global(name, step, position)
            if isinstance(found, Held) and unset is None:
                return found
            if isinstance(found, NotYet):
                if step.code.co_flags & _OPTIMIZED and _has(step, name):
                    raise found
                unset = unset or found
        if unset is not None:
            raise unset
        return None

    def in_module(self, name: str, step: Activation, position: int) -> Held | None:
        """Return what a variable of a module held; None if its code has none of that name, so that it is what it is.

        Args:
            step: The call of the module's code.

        Raises:
            NotYet: If it was not set yet.
        """
        found = self._in_call(name, step, -1, position, False)
        if isinstance(found, NotYet):
            raise found
        return found

    def _in_call(self, name: str, step: Activation, lasti: int, position: int, quiet: bool) -> Held | NotYet | None:
        """Return what a variable of one call holds; what is to be said if it is not set yet (nothing, if `quiet`)."""
        thing = self.tape.bindings.held(step, name, position)
        if name in step.code.co_varnames and not variables_of(step.code) and not quiet:
            return NotYet(f"{name} is not known: {step.code.co_name} reads its own locals(), so it is not looked at")
        if thing is not UNBOUND:
            return self._stale(name, step, lasti, thing, position) or Held(self.taken(thing))
        if quiet or name not in variables_of(step.code) or not self.tape.bindings.known(step):
            return None
        return self._coming(name, step, lasti, position)

    def _around(self, name: str, step: Activation, position: int) -> Held | NotYet | None:
        """Return what a variable of the functions holds that stand around a call's in the source and still run: a line
        there would see it, though Python makes a cell only of what the source reads."""
        path = step.path()
        for at in around([call.code for call in path], len(path) - 1):
            if _has(path[at], name):
                return self._in_call(name, path[at], path[at + 1].lasti, position, False)
        return None

    def _outwards(self, scope: Activation, position: int, library: bool) -> Iterator[tuple[Activation, int]]:
        """Yield the call in which the cursor stands, and those that led to it, each with where it stands itself (-1 in
        the innermost). Those of libraries come apart, except the one in which the cursor stands while it runs."""
        ops = self.tape.ops
        runs = position >= len(ops) or ops[position].of is None
        step: Activation | None = scope
        lasti = -1
        while step is not None:
            own = not is_library(step.code.co_filename) or (step is scope and runs)
            if own is not library:
                yield step, lasti
            lasti = step.lasti
            step = step.parent

    def _global(self, name: str, step: Activation, position: int) -> Held | NotYet | None:
        """Return a global variable that a call sees: as it was where the code of its module is on the stack."""
        if is_library(step.code.co_filename) and name not in step.code.co_names:
            return None
        outer, lasti = step.parent, step.lasti
        while outer is not None:
            if not outer.code.co_flags & _OPTIMIZED and outer.variables is step.variables:
                if name in variables_of(outer.code):
                    return self._in_call(name, outer, lasti, position, False)
                break
            lasti = outer.lasti
            outer = outer.parent
        found = self._of_cell(name, step, position)
        if found is not None:
            return found
        thing = step.variables.get(name, UNBOUND)
        if thing is UNBOUND:
            return None
        if isinstance(thing, mx.array):
            thing = self.names.leaf_of(thing) or thing
        elif not isinstance(thing, (type, FunctionType, ModuleType)):
            thing = self.names.homes.holder_of(thing) or thing
        return Held(thing)

    def _of_cell(self, name: str, step: Activation, position: int) -> Held | NotYet | None:
        """Return a global variable that the code of a module has set which is not on the stack any more, or not yet:
        another cell of a notebook."""
        cells = [
            (at, scope) for at, scope, _ in self.tape.bindings.noted(name, is_module_code)
            if scope.variables is step.variables
        ]  # fmt: skip
        if not cells:
            return None
        before = [scope for at, scope in cells if at <= position]
        return self._in_call(name, before[-1] if before else cells[0][1], -1, position, False)

    def taken(self, thing: Any) -> Any:
        """Return what was kept; the leaf instead of an array that no op had taken at that time."""
        array = thing() if isinstance(thing, weakref.ref) else None
        return (self.names.leaf_of(array) or thing) if isinstance(array, mx.array) else thing

    def _coming(self, name: str, step: Activation, lasti: int, position: int) -> Held | NotYet:
        """Return a variable that is not set yet: where it will be made, and what was the last one. While the
        statement that sets it is under way, in a calling frame, the tensor that it is about to be given if that is
        made already."""
        where = " in this call" if step.code.co_flags & _OPTIMIZED else ""
        thing = self._next(name, step, position)
        if self._is_pending(name, step, lasti):
            pass_ = self.tape.pass_at(position)
            if thing is None and self._is_loss(name, step, lasti, pass_):
                thing = None if pass_ is None else pass_.loss
            if isinstance(thing, Value) and is_made(thing, position):
                return Held(thing)
        address, last, whose = self._last(name, position, step)
        maker = thing.op if isinstance(thing, Value) else None
        if maker is not None and maker.position >= position:
            return not_made(name, where, maker, position, address, last, whose)
        said = f"{name} is not bound yet{where}"
        before = self.tape.bindings.was_set(step, name, position)
        if before is not UNBOUND:
            said = f"{name} was deleted{where}"
            if isinstance(before, Value):
                address, last, whose = self.address(name, before), before, ""
        if last is not None:
            said += f"; the last one is {whose}{': ' if whose else ''}{address}"
        return NotYet(said, address, last)

    def _next(self, name: str, step: Activation, position: int) -> Any:
        """Return what a variable is given next; None if that is not known: it may be given another value wherever the
        program runs natively, which nobody sees."""
        coming = self.tape.bindings.comes(step, name, position)
        if coming is None or any(isinstance(op, ClosedOp) for op in islice(self.tape.ops, position, coming[0])):
            return None
        return coming[1]

    def _stale(self, name: str, step: Activation, lasti: int, thing: Any, position: int) -> Held | NotYet | None:
        """Return a variable of a calling frame that still holds what the step before gave it, while the statement that
        gives it another is under way."""
        pass_ = self.tape.pass_at(position)
        if lasti < 0 or pass_ is None or not isinstance(thing, (Value, Holder)):
            return self._earlier(thing, position)
        if not self._is_pending(name, step, lasti) or _is_read(name, step.code, lasti):
            return self._earlier(thing, position)
        new = self._next(name, step, position)
        if self._is_loss(name, step, lasti, pass_):
            new = pass_.loss
        if isinstance(thing, Value):
            if thing.op is not None and thing.op.pass_ is pass_:
                return None
            if isinstance(new, Value) and new.op is not None and new.op.position < position:
                return Held(new)
            if thing.op is None:
                return None
            whose = self.whose(thing, position)
            maker = new.op if isinstance(new, Value) else None
            return not_made(name, " in this step", maker, position, self.address(name, thing), thing, whose)
        if pass_.kind == GRADIENT_PASS:
            return NotYet(f"{name} is not made yet in this step; until then it holds what the step before gave it")
        return None

    def _earlier(self, thing: Any, position: int) -> Held | None:
        """Say of a tensor that an earlier step has made that it is that."""
        if position >= len(self.tape):
            return None
        if isinstance(thing, Value) and thing.op is not None and thing.op.pass_.kind == GRADIENT_PASS:
            whose = self.whose(thing, position)
            return Held(thing, "", whose) if whose else None
        return None

    def _is_pending(self, name: str, step: Activation, lasti: int) -> bool:
        """Whether the statement that a calling frame is in the middle of gives a variable another value."""
        if lasti < 0:
            return False
        uses = sources.uses_of(step.code, sources.span_of(step.code, lasti))
        return any(name in (*use.names, *use.nested) for use in uses)

    def _is_loss(self, name: str, step: Activation, lasti: int, pass_: Pass | None) -> bool:
        """Whether the statement that a calling frame is in the middle of gives a variable the loss of a pass: it makes
        the gradient call itself, or calls what returns the result of that as it is."""
        if lasti < 0 or pass_ is None or pass_.loss is None or not pass_.gives_loss or not _gives(pass_, step):
            return False
        uses = sources.uses_of(step.code, sources.span_of(step.code, lasti))
        if pass_.gives_loss == "first":
            return any(use.nested[:1] == (name,) for use in uses)
        return any(use.names[:1] == (name,) and len(use.names) > 1 for use in uses)

    # -- what returned calls left --------------------------------------------------------------------------

    def left_behind(self, name: str, position: int) -> Held | None:
        """Return what calls that have returned held under a name: of this pass, else of this step, if it is one tensor;
        an older one is not given, only named."""
        here, ahead = self.tape.bindings.newest(name, position, _is_own)
        if not (here or ahead) or not self.tape.passes:
            return None
        pass_, steps = self.tape.pass_at(position), self.tape.steps
        number = steps.number_at(min(position, max(len(self.tape) - 1, 0)))
        now = [one for one in here if steps.number_at(self._held_at(one)) == number]
        now = [one for one in now if self._pass_of(one[2], one[0]) is pass_] or now
        last = {step: value for _, step, value in now}
        found = list(dict.fromkeys(last.values()))
        if len(found) == 1:
            return Held(found[0], self.address(name, found[0]))
        if found:
            raise UserError(f"{name} is a variable of {len(last)} calls that have returned: {self._whose(name, last)}")
        maker = None
        if ahead is not None and steps.number_at(self._made_at(ahead)) == number:
            maker = ahead[2].op
        if not here:
            if maker is None:
                return None
            raise not_made(name, "", maker, position)
        _, step, value = here[-1]
        whose = self.whose(value, position) or self.caller(step).rstrip()
        raise not_made(name, " in this step", maker, position, self.address(name, value), value, whose)

    def _whose(self, name: str, last: Mapping[Activation, Value]) -> str:
        """Return what calls held under a name, each once, the first six by name."""
        each = list(dict.fromkeys(f"{self.caller(step)}{self.address(name, value)}" for step, value in last.items()))
        return ", ".join(each[:6]) + (f" and {len(each) - 6} more" if len(each) > 6 else "")

    def _made_at(self, one: tuple[int, Activation, Value]) -> int:
        """Where a tensor that a variable held was made; where it came in, if no op made it."""
        value = one[2]
        return self._held_at(one) if value.op is None else value.op.position

    def _held_at(self, one: tuple[int, Activation, Value]) -> int:
        """Where a variable began to hold a tensor, which may be an older one. What was noted as a call returned came in
        before the next op, which may be another step's."""
        at, step, _ = one
        scope = self.tape.ops[at].scope if at < len(self.tape) else None
        return at if scope is not None and step in scope.path() else max(at - 1, 0)

    def _last(self, name: str, position: int, step: Activation) -> tuple[str, Value | None, str]:
        """Return the last tensor that a variable of this name held in another call of the same function, with its
        address and whose it is."""
        found, _ = self.tape.bindings.newest(name, position, lambda code: code is step.code)
        if not found:
            return "", None, ""
        _, other, value = found[-1]
        whose = self.whose(value, position) or self.caller(other).rstrip()
        return self.address(name, value), value, whose

    def _pass_of(self, value: Value, at: int) -> Pass | None:
        return value.op.pass_ if value.op is not None else self.tape.pass_at(at)

    def address(self, name: str, value: Value) -> str:
        """`z1@4`: a name with the op that made its value."""
        return name if value.op is None else f"{name}@{value.op.label.removeprefix('#')}"

    def caller(self, step: Activation) -> str:
        """`layers.0's `, or "" where no module tells calls apart."""
        outer: Activation | None = step
        while outer is not None:
            if is_module(outer.owner):
                path = self.names.path_of(step, outer.owner)
                return f"{path}'s " if path else ""
            outer = outer.parent
        return ""

    def whose(self, value: Value, position: int) -> str:
        """ "step 2's", where a value is of another step than the cursor; else ""."""
        if value.op is None or value.op.pass_.kind not in (GRADIENT_PASS, UPDATE_PASS):
            return ""
        return self.whose_step(value.op.position, position)

    def whose_step(self, at: int, position: int) -> str:
        """ "step 2's", where a position lies in another step than the cursor; else ""."""
        steps = self.tape.steps
        number = steps.number_at(at)
        if number == steps.number_at(min(position, max(len(self.tape) - 1, 0))):
            return ""
        return f"step {number}'s" if number else "the setup's"


def _has(step: Activation, name: str) -> bool:
    """Whether a name is a variable of a function's own."""
    code = step.code
    return bool(code.co_flags & _OPTIMIZED) and (name in variables_of(code) or name in code.co_varnames)


def _is_own(code: CodeType) -> bool:
    return not is_library(code.co_filename)


def _gives(pass_: Pass, step: Activation) -> bool:
    """Whether what a gradient call returns is what the call returns in the middle of which a calling frame is."""
    scope, lasti = pass_.scope, pass_.lasti
    while scope is not None and scope is not step:
        if not is_library(scope.code.co_filename):
            uses = sources.uses_of(scope.code, sources.span_of(scope.code, lasti))
            if not any(use.returned and use.slot < 0 for use in uses):
                return False
        lasti, scope = scope.lasti, scope.parent
    return scope is step


def is_made(value: Value, position: int) -> bool:
    """Whether a value exists when the cursor stands at `position`."""
    return value.op is None or value.op.position < position


_OPTIMIZED = 0x1


def _again(kind: type, name: str) -> Any:
    """Return an object that no longer exists, made again without its attributes."""
    try:
        return blank(kind)
    except (TypeError, AttributeError):
        raise UserError(f"{name} was a {kind.__name__} that no longer exists") from None


def _is_read(name: str, code: CodeType, lasti: int) -> bool:
    """Whether the assignment that a frame is in the middle of takes a variable as well: `w = step(w)` works on what the
    step before gave it."""
    way = sources.way_to(code, sources.span_of(code, lasti))
    value = getattr(way[0], "value", None) if way else None
    names = [node for node in ast.walk(value) if isinstance(node, ast.Name)] if isinstance(value, ast.AST) else []
    return any(node.id == name for node in names)


def real(
    frames: Frames,
    thing: Any,
    position: int,
    name: str,
    array: Any,
    live: bool,
    known: dict[Any, Any] | None = None,
) -> Any:
    """Return the object that a kept thing stands for, as Python can work on it.

    Args:
        array: Makes an array for a Value.
        live: Whether a container is to be the program's own object; else one with what it held then.
        known: What has been made so far: containers may hold each other.
    """
    if isinstance(thing, Value):
        return array(thing)
    if isinstance(thing, weakref.ref):
        found = thing()
        if found is None and isinstance(thing, (KeptFunction, KeptTransform)):
            from nnrepl.session.function_again import function_again  # needed where one is gone

            done: dict[Any, Any] = {} if known is None else known
            again = lambda part: real(frames, part, position, name, array, live, done)  # noqa: E731
            return function_again(frames, thing, position, name, again, done)
        if found is None:
            raise UserError(f"{name} was an object that no longer exists")
        return found
    if isinstance(thing, Large):
        raise UserError(f"{name} was a {thing.kind.__name__} of {thing.size} entries: too many to be kept")
    if not isinstance(thing, Holder):
        return thing
    found = thing.refer()
    kept = frames.tape.bindings.contents(thing, position)
    if isinstance(kept, KeptArray):
        return found if found is not None and (live or kept_array(found) is kept) else kept.made()
    if found is not None and (live or not isinstance(found, (dict, *SEQUENCES)) or is_module(found)):
        return found
    known = {} if known is None else known
    if thing not in known:
        _make_again(frames, thing, position, name, array, live, known)
    return known[thing]


def _make_again(
    frames: Frames, thing: Holder, position: int, name: str, array: Any, live: bool, known: dict[Any, Any]
) -> None:
    """Make a container again with what it held at a position."""
    found, entries = thing.refer(), frames.tape.bindings.contents(thing, position)
    if isinstance(entries, Large):
        raise UserError(f"{name} was a {thing.kind.__name__} of {entries.size} entries: too many to be kept")
    if entries is None:
        raise UserError(f"{name} was a {thing.kind.__name__} that no longer exists")

    def part(item: Any, called: str) -> Any:
        try:
            return real(frames, item, position, called, array, live, known)
        except NotYet:
            raise
        except UserError as gone:
            from nnrepl.session.gone import Gone

            return Gone(str(gone))

    if isinstance(entries, dict):
        if thing.kind is not dict:
            known[thing] = found if found is not None else _again(thing.kind, name)
            if found is not None:
                return
        made = known.setdefault(thing, {})
        form = "{}[{!r}]" if thing.kind is dict else "{}.{}"
        fill(made, {key: part(item, form.format(name, key)) for key, item in entries.items()})
        return
    items: list[Any] = []
    changes = issubclass(thing.kind, (list, deque, set))
    if changes:
        known[thing] = deque(maxlen=thing.maxlen) if thing.kind is deque else blank(thing.kind)
    else:
        known[thing] = items
    items += [part(item, f"{name}[{at}]") for at, item in enumerate(entries)]
    if changes:
        fill(known[thing], items)
    elif issubclass(thing.kind, (tuple, frozenset)):  # of a tuple that holds itself, the inner one is a list
        known[thing] = fixed(thing.kind, items)
