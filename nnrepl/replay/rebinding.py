"""Rebinding: `k = k * 2` gives one variable another tensor; what else holds the old one holds it still.

An edit exchanges what the program's array objects hold, in place: so it reaches what the program has already put on
Python's stack, and what it has handed to the functions that it is in the middle of calling. Where others hold the same
object (`cache["k"]`, `self.k`, a variable of a caller), they get one of their own with the old numbers.
"""

from __future__ import annotations

import ast
import weakref
from collections import deque
from collections.abc import Iterable
from types import CellType, FrameType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.record.frame_variables import around, namespace, set_variables, variables_of
from nnrepl.record.objects import object_of
from nnrepl.record.repeat import Repetition
from nnrepl.replay import holders
from nnrepl.replay.assigned_paths import changed_in_place, lies_deeper, root_of, target_of, walk
from nnrepl.replay.divergence import CannotExchange, Lost
from nnrepl.replay.keepers import Cache, is_iterator
from nnrepl.replay.operands import Operands, reads, reads_later, shows
from nnrepl.replay.remade import unify
from nnrepl.replay.unseen import RUNNING, Unseen, exchange_in_contexts, frame_of, is_of_context, lies_in, said_of
from nnrepl.replay.world import World, contents_of, is_foreign, slots_of
from nnrepl.tape import Activation, ClosedOp, Leaf, Op, Value

if TYPE_CHECKING:
    from nnrepl.record.recorder import Recorder

_copy = mx.array.__copy__
_HOLDING = (list, deque, *RUNNING, Cache, ModuleType, *holders.HOLDING)
_CELLS = "co_cellvars", "co_freevars"


class Rebinding:
    """One assignment to a variable, an attribute or an entry, about to take effect in a run.

    Args:
        op: The edit.
        old: The value that is held until then.

    Attributes:
        found: Whether it is one, and that holds the value.
        place: The array object that is changed in place instead (`k *= 2`, `k[0] = 1`), if it is known.
        operands: What calls in the middle of an expression had read before.
        parted: Whether something else held the very object that what is assigned to held.
        astray: Whether what is assigned to holds a tensor that is not known to be the value.
    """

    def __init__(self, recorder: Recorder, op: Op, old: Value) -> None:
        self._recorder = recorder
        self._op = op
        self._old = old
        self._natively = bool(recorder.native_until) and any(isinstance(op, ClosedOp) for op in recorder.tape.ops)
        self._arrays = self._alive()
        self._frames = recorder.stack.frames()
        self.operands = Operands(self._other, self._is_called)
        self._kept: dict[int, mx.array] = {}
        self._iterators: dict[int, Any] = {}
        self._target = target_of(op)
        self._own = -1
        self._slot: tuple[int, str] | None = None
        self._shared: set[int] = set()
        self._waiting: list[FrameType] = []
        self._entry: tuple[Any, Any] | None = None
        self.place: mx.array | None = None
        self.astray = False
        self.parted = False
        self._held = 0
        self.found = (self._target is not None and self._find(op)) or self._find_place(op)

    def begin(self) -> None:
        """Note what it is about to change. Where a compiled function is repeated, what is read by another name keeps
        the old tensor. Where steps before an edit ran natively, the program may hold that in objects that nobody knows;
        and so may it hold what came from outside.

        Raises:
            Lost: If it does, as far as that can be told.
        """
        recorder, op = self._recorder, self._op
        target = target_of(op)
        if not self.found and op.scope is not None:
            for one in self._repetitions():
                if target is not None and not op.operation.in_place:
                    scope = _scope_of(op.scope.parent, root_of(target))
                    one.rename(self._old, scope, ast.unparse(target), isinstance(target, ast.Name))
                elif changed_in_place(op) or op.operation.in_place:
                    one.change_in_place(self._old)
        made = self._old.op
        # If no object is alive of what an op has made, nobody holds it.
        known = made is not None and (not self._natively or made.position >= recorder.native_until)
        if (self._natively and self.astray) or not (self._arrays or recorder.sweeps or known):
            raise Lost(f"it is not known what of the program's holds {self._old.name} there")

    def _is_called(self, frame: FrameType, text: str) -> bool:
        """Whether an entry that is assigned to is called so in a call, by whatever variables."""
        if self._entry is None:
            return False
        path: Any = ast.parse(text, mode="eval").body
        root = root_of(path)
        variables = namespace(frame) if root in namespace(frame) else frame.f_globals
        if isinstance(path, ast.Name):
            return self._is_entry(variables, root)
        container, key, _ = walk(variables.get(root), path, frame)
        return container is self._entry[0] and bool(key == self._entry[1])

    def _repetitions(self) -> list[Repetition]:
        return [one for one in self._recorder.sweeps if isinstance(one, Repetition)]

    @property
    def is_inside(self) -> bool:
        """Whether it changes an argument of a compiled function, inside of a call in which none of its Python runs:
        what the program holds is another array, as where MLX traces the function."""
        given = any(self._old in one.arguments for one in self._repetitions())
        return given and lies_deeper(self._recorder, self._op)

    @property
    def is_entry(self) -> bool:
        """Whether what holds the new tensor now is an entry of a container, or an attribute: what a gradient call is
        given stays in there when it ends."""
        return self.found and self._entry is not None

    # -- what is assigned to ---------------------------------------------------------------------------------

    def _find(self, op: Op) -> bool:
        found = self._variables(op, root_of(self._target))
        return found is not None and self._holds(*found)

    def _variables(self, op: Op, root: str) -> tuple[int, str, dict[str, Any]] | None:
        """Return the variable that an edit names: in which call it is, its name, and what else has names there. A call
        that is about to begin has none yet, but sees those of the functions in whose source it stands."""
        path, frames = [] if op.scope is None or op.scope.parent is None else op.scope.parent.path(), self._frames
        if not path or any(step.code is not frame.f_code for step, frame in zip(path, frames)):
            return None
        if len(path) > len(frames) and self._repetitions():  # none of its Python runs
            return None
        self._own = min(len(path), len(frames)) - 1
        calls = range(len(path) - 1, -1, -1)
        own = [at for at in calls if not is_library(path[at].code.co_filename)]
        for at in own:  # as names are looked up: a library's variables last
            for place in (at, *around([step.code for step in path], at)):
                if place > self._own and root in variables_of(path[place].code):
                    return None
                if place <= self._own and root in namespace(frames[place]):
                    return place, root, namespace(frames[place])
            if root in path[at].variables:
                seen = [one for one in range(self._own + 1) if frames[one].f_globals is path[at].variables]
                return (seen[-1], root, path[at].variables) if seen else None
        found = next((at for at in calls if at <= self._own and at not in own and root in namespace(frames[at])), None)
        return None if found is None else (found, root, namespace(frames[found]))

    def _find_place(self, op: Op) -> bool:
        """Find the array object that an edit changes in place."""
        for path in changed_in_place(op):
            found = self._variables(op, root_of(path))
            if found is None:
                continue
            at, name, variables = found
            container, _, thing = (
                (None, "", variables[name]) if isinstance(path, ast.Name) else walk(variables[name], path)
            )
            held = self._is_held(thing)
            self.astray = self._is_other(container, thing)
            if held:
                self._target, self.place, self._entry = path, self._arrays[id(thing)], None
                self._own = at if variables is not self._frames[at].f_globals else self._own
                return True
        return False

    def _holds(self, at: int, name: str, variables: dict[str, Any]) -> bool:
        """Whether what is assigned to holds the value now."""
        target, thing = self._target, variables[name]
        self._held = id(thing)
        if isinstance(target, ast.Name):
            if variables is self._frames[at].f_globals:
                self._entry = variables, name
            else:
                self._own, self._slot = at, (at, name)
            held = self._is_held(thing)
            self.astray = self._is_other(None, thing)
            return held
        container, key, thing = walk(thing, target)
        self._held = id(thing)
        held = self._is_held(thing)
        self.astray = self._is_other(container, thing)
        self._entry = container, key
        return held and (isinstance(target, ast.Subscript) or _is_stored(container, key, thing))

    def _is_held(self, thing: Any) -> bool:
        """Whether something is the value that is changed. What came from outside, and no op of this run has taken yet,
        is that if the program holds it where it held that."""
        recorder, old = self._recorder, self._old
        if not self._arrays and not self._natively and isinstance(thing, mx.array) and isinstance(old, Leaf):
            found = recorder.live.get(id(thing))
            if found is None and (thing.shape, thing.dtype) == (old.shape, old.dtype):
                recorder.link(thing, old)
                self._arrays[id(thing)] = thing
            elif found is not None and unify(recorder, old, found):
                self._arrays = self._alive()
        return id(thing) in self._arrays

    def _alive(self) -> dict[int, mx.array]:
        """Return the array objects of the program's that are known to hold the value, by their `id`."""
        recorder, old = self._recorder, self._old
        return {
            id(array): array
            for key, value in recorder.live.copy().items()
            if value is old and (array := object_of(recorder, key, old)) is not None
        }

    def _is_other(self, container: Any, thing: Any) -> bool:
        """Whether what is held is a tensor, and not known to be the value; an element of a tensor is no holder."""
        return isinstance(thing, mx.array) and not isinstance(container, mx.array) and id(thing) not in self._arrays

    def _sees(self, frame: FrameType) -> bool:
        """Whether what is assigned to is called the same in a call: `self.k` of this very object."""
        assert self._entry is not None
        root, container = root_of(self._target), self._entry[0]
        variables = namespace(frame) if root in namespace(frame) else frame.f_globals
        if isinstance(self._target, ast.Name):
            return variables is container
        return root in variables and walk(variables[root], self._target)[0] is container

    # -- what else holds it ----------------------------------------------------------------------------------

    def keep(self) -> None:
        """Note that the exchange has been made: all else that holds the value gets an object with the old numbers.

        Raises:
            CannotExchange: If something cannot be given one.
        """
        assert self._target is not None
        text = ast.unparse(self._target)
        handed_on = self._keep_reachable(text)
        # What has been looked at is let go of before: what only our own variables hold is no holder.
        self._keep_unseen(handed_on, text)

    def _keep_reachable(self, text: str) -> bool:
        """Let what variables lead to hold the old numbers; returns whether an expression hands the new ones on."""
        recorder, target = self._recorder, self._target
        assert target is not None
        # One for each: what was two objects may be changed in place, the one and not the other.
        for key in self._arrays:
            self._kept[key] = _copy(self._old.array)
            recorder.link(self._kept[key], self._old)
        handed_on = reads(self._frames[self._own], text)
        if self._entry is not None:  # callers may have handed it on
            readers = [at for at in self._callers() if reads(self._frames[at], text) and self._sees(self._frames[at])]
            self._own, handed_on = (readers[0], True) if readers else (self._own, self._hands_on(target))
        elif self.place is not None and not isinstance(target, ast.Name):
            reading = [at for at in self._callers() if reads(self._frames[at], text)]
            self._own, handed_on = (reading[0], True) if reading else (self._own, False)
        for frame in self._frames:
            recorder.watch.see(frame)  # what has been put somewhere since the last op
        reachable = self._reachable()
        self._find_shared(reachable)
        for at, frame in enumerate(self._frames):
            inner = at > self._own
            if inner and handed_on:
                continue  # it was handed on by the name
            others = {
                name: other for name, thing in list(namespace(frame).items())
                if (other := self._other(thing)) is not thing and not self._is_slot(at, frame, name)
                and not self._is_entry(namespace(frame), name)
            }  # fmt: skip
            self._note_parted(namespace(frame)[name] for name in others)
            if others:
                set_variables(frame, others)
                recorder.watch.see(frame)
            new = at == self._own or (id(frame) in self._shared and reads_later(frame, text))
            self.operands.note(frame, text if new else "")
        for space in self._namespaces(reachable):
            self._keep_in_variables(space)
        for thing in reachable:
            self._keep_in(thing)
        return handed_on

    def _keep_unseen(self, handed_on: bool, text: str) -> None:
        """Let what no variable leads to hold the old numbers: what loops go through, contexts.

        Args:
            handed_on: Whether an expression hands on what is assigned to: what calls in it hold is the new one.

        Raises:
            CannotExchange: If something cannot be given them.
        """
        frame = self._frames[self._own]
        if handed_on and frame is not self._frames[-1]:
            return  # what lies on the stack may be what those calls have made of it
        self._note_parted(exchange_in_contexts(self._other, waiting=False))
        arrays = [array for array in self._arrays.values() if array is not self.place]
        left = ""
        for _ in range(2):
            left = self._exchange_unseen(arrays, stacks=not shows(frame, text))
            if not left:
                return
        raise CannotExchange(f"{left} holds the old tensor as well, and cannot be left with it")

    def _exchange_unseen(self, arrays: list[mx.array], *, stacks: bool) -> str:
        """Exchange the tensor in what holds it now; returns what that was, in words."""
        unseen = Unseen(arrays, self._frames, self._waiting)
        found = [thing for thing in unseen.holders(stacks=stacks) if not self._is_target(thing)]
        self._find_shared(found)
        if any([is_of_context(thing) for thing in found]):
            exchange_in_contexts(self._other, waiting=True)
        for thing in found:
            self._keep_in(thing)
        return said_of(found[0]) if found else ""

    def _is_target(self, thing: Any) -> bool:
        """Whether something is what is assigned to, or where that lies."""
        if isinstance(thing, CellType):
            return any([lies_in(frame, thing) for frame in self._frames])
        container = None if self._entry is None else self._entry[0]
        return container is not None and (thing is container or thing is getattr(container, "__dict__", None))

    def _callers(self) -> range:
        """Return which calls may have handed on what is assigned to: those of one gradient call, which has been given
        its own tensors before."""
        recorder = self._recorder
        scope = recorder.pass_.scope if recorder.differentiating and recorder.pass_ is not None else None
        return range(0 if scope is None else len(scope.path()), self._own + 1)

    def _hands_on(self, target: ast.expr) -> bool:
        """Whether the user stands before a call that is given what an entry lies in: all that it has read so far, it
        would have read after the line."""
        recorder, frames = self._recorder, self._frames
        paths = []
        while isinstance(target, (ast.Attribute, ast.Subscript)):
            target = target.value
            paths.append(ast.unparse(target))
        if len(frames) <= self._own + 1 or not any([reads(frames[self._own], path) for path in paths]):
            return False
        called, inserted = recorder.stack.entered(frames[self._own + 1]), recorder.tape.notes.inserted
        last = next((op for op in reversed(recorder.tape.ops) if op not in inserted), None)
        return called is None or last is None or last.scope is None or called not in last.scope.path()

    def _find_shared(self, reachable: Iterable[Any]) -> None:
        """Find what has the very cell of the variable that is assigned to: outer and inner functions, those that have
        been made before and generators that wait. Which they are shows when something else is put there for a moment:
        a name in their source does not tell, since each call of an outer function has cells of its own."""
        if self._slot is None:
            return
        at, name = self._slot
        own, probe = self._frames[at], object()
        if not any(name in getattr(own.f_code, cells) for cells in _CELLS):
            return
        held = namespace(own)[name]
        waiting = [frame for thing in reachable if (frame := frame_of(thing)) is not None]
        self._waiting += waiting
        cells = [
            cell for thing in reachable if isinstance(thing, FunctionType) for cell in thing.__closure__ or ()
        ]  # fmt: skip
        set_variables(own, {name: probe})
        try:
            self._shared |= {id(other) for other in [*self._frames, *waiting] if namespace(other).get(name) is probe}
            self._shared |= {id(cell) for cell in cells if contents_of(cell) is probe}
        finally:
            set_variables(own, {name: held})
        for other in [*self._frames, *waiting]:
            _ = namespace(other)  # before Python 3.13 a copy, which would still show what was there for a moment

    def _is_slot(self, at: int, frame: FrameType, name: str) -> bool:
        """Whether a variable is what is assigned to: also as an outer function's, which has the same cell."""
        if self._slot is None or name != self._slot[1]:
            return False
        return at == self._slot[0] or id(frame) in self._shared

    def _other(self, thing: Any) -> Any:
        """Return what is to be held where `thing` is: the same, or what has the old numbers."""
        if id(thing) in self._arrays:
            return thing if thing is self.place else self._kept[id(thing)]
        if isinstance(thing, tuple):
            parts = [self._other(part) for part in thing]
            if any([part is not before for part, before in zip(parts, thing)]):
                return type(thing)(*parts) if hasattr(thing, "_fields") else tuple(parts)
        elif isinstance(thing, frozenset):
            return thing if all([self._other(part) is part for part in thing]) else frozenset(map(self._other, thing))
        elif isinstance(thing, (MethodType, weakref.ref)):
            return holders.bound_to(thing, self._other)
        elif is_iterator(thing):
            if id(thing) not in self._iterators:  # all that hold one are to hold one and the same
                self._iterators[id(thing)] = holders.iterator_with(thing, self._other)
            return self._iterators[id(thing)]
        return thing

    def _reachable(self) -> list[Any]:
        """All containers, closures, generators and objects with slots that the program's calls can reach."""
        own = [frame for frame in self._frames if not is_library(frame.f_code.co_filename)]
        roots = [thing for frame in self._frames for thing in list(namespace(frame).values())]
        roots += [frame.f_globals[name] for frame in own for name in frame.f_code.co_names if name in frame.f_globals]
        known = list(self._recorder.watch.containers())
        held = World([*roots, *known], arrays=False).holding
        return [part for part in held if isinstance(part, _HOLDING) or slots_of(type(part))]

    def _namespaces(self, reachable: Iterable[Any]) -> list[dict[str, Any]]:
        """Return the global variables that the program's calls see, and the functions that they can reach: those of a
        module that is not running are in no frame's variables."""
        functions = [thing for thing in reachable if isinstance(thing, FunctionType)]
        found = [(frame.f_code, frame.f_globals) for frame in self._frames]
        found += [(function.__code__, function.__globals__) for function in functions]
        return list({id(space): space for code, space in found if not is_library(code.co_filename)}.values())

    def _keep_in_variables(self, space: dict[str, Any]) -> None:
        """Let global variables that hold the value hold the old numbers."""
        for name, other in self._others(space).items():
            if not self._is_entry(space, name):
                self._note_parted([space[name]])
                space[name] = other

    def _keep_in(self, thing: Any) -> None:
        """Let what holds the value hold the old numbers: a container, a closure, a generator that waits, an object."""
        if isinstance(thing, FunctionType):
            for cell in thing.__closure__ or ():
                other = self._other(contents_of(cell))
                if other is not contents_of(cell) and id(cell) not in self._shared:
                    self._note_parted([contents_of(cell)])
                    cell.cell_contents = other
        elif isinstance(thing, CellType):
            thing.cell_contents = self._other(contents_of(thing))
        elif isinstance(thing, tuple):
            self._note_parted(holders.exchange_within(thing, self._other))
        elif (frame := frame_of(thing)) is not None:
            if frame not in self._frames:
                self._waiting.append(frame)
                shared = {self._slot[1]} if self._slot is not None and id(frame) in self._shared else set()
                others = self._others({name: thing for name, thing in namespace(frame).items() if name not in shared})
                set_variables(frame, others)
        elif isinstance(thing, Cache):
            from nnrepl.replay.caches import exchange

            self._note_parted(exchange(thing, self._other))
        elif isinstance(thing, (dict, list, deque)):
            items = dict(dict.items(thing) if isinstance(thing, dict) else enumerate(thing))
            for key, other in self._others(items).items():
                if self._is_entry(thing, key):
                    continue
                self._note_parted([items[key]])
                kind: Any = next(kind for kind in (dict, list, deque) if isinstance(thing, kind))
                kind.__setitem__(thing, key, other)
                self._recorder.watch.look_at(thing)
        elif isinstance(thing, ModuleType) and not is_foreign(thing.__name__, getattr(thing, "__file__", None)):
            self._keep_in_variables(vars(thing))
        elif is_iterator(thing):
            holders.exchange_state(thing, self._other)
        elif isinstance(attributes := getattr(thing, "__dict__", None), dict) and not isinstance(thing, ModuleType):
            # CPython keeps attributes in the object itself until somebody asks for the dict.
            self._keep_in(attributes)
        self._note_parted(holders.exchange(thing, self._other, self._is_entry))
        for slot in slots_of(type(thing)):
            held = getattr(thing, slot, None)
            if self._other(held) is not held and not self._is_entry(thing, slot):
                self._note_parted([held])
                object.__setattr__(thing, slot, self._other(held))

    def _note_parted(self, things: Iterable[Any]) -> None:
        """Note that these are given another object than what is assigned to."""
        self.parted = self.parted or any(id(thing) == self._held for thing in things)

    def _others(self, held: dict[Any, Any]) -> dict[Any, Any]:
        """Return what holds the value, by name or key, with what has the old numbers."""
        return {key: other for key, thing in held.items() if (other := self._other(thing)) is not thing}

    def _is_entry(self, thing: Any, key: Any) -> bool:
        """Whether an entry of a container is what is assigned to."""
        if self._entry is None or key != self._entry[1]:
            return False
        container = self._entry[0]
        return thing is container or thing is getattr(container, "__dict__", None)


def _scope_of(scope: Activation | None, root: str) -> Activation | None:
    """Return the call that has a variable, as names are looked up: a library's variables last."""
    path = [] if scope is None else scope.path()[::-1]
    having = [call for call in path if root in call.code.co_varnames or root in call.code.co_cellvars]
    having = having or [call for call in path if root in call.code.co_freevars]
    own = [call for call in having if not is_library(call.code.co_filename)]
    return next(iter([*own, *having]), scope)


def _is_stored(container: Any, key: str, thing: Any) -> bool:
    """Whether an attribute is held by the object itself (a module is a dict), and is no property."""
    held = getattr(container, "__dict__", {}).get(key)
    return (
        key in slots_of(type(container))
        or held is thing
        or (isinstance(container, dict) and dict.get(container, key) is thing)
    )
