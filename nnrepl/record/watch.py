"""Watch: looks at the variables of the program's functions as ops are recorded, and notes what has changed.

On the hot path: a frame in which nothing has changed costs the reading of its variables and one comparison by identity.
Nothing noted keeps an array alive: tensors are noted as Values, other objects by weak references.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import is_
from types import BuiltinFunctionType, FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from nnrepl.record.adopt import taken
from nnrepl.record.containers import (
    SEQUENCES,
    Attributes,
    Grip,
    Watched,
    entries_of,
    holds_attributes,
    is_data,
    is_foreign_kind,
    still_holds,
    view_of,
)  # fmt: skip
from nnrepl.record.ended_modules import EndedModules
from nnrepl.record.frame_variables import may_dangle, read, sets_globals, shared_names
from nnrepl.record.holding import HolderIndex, mentioned, within
from nnrepl.record.stack import is_module, was_at
from nnrepl.record.watched_frame import WatchedFrame
from nnrepl.tape import UNBOUND, Activation, Holder, Large, Value
from nnrepl.tape.kept_array import KeptArray, is_small_array
from nnrepl.tape.kept_function import KINDS, KeptFunctions
from nnrepl.tape.lasting import lasting

if TYPE_CHECKING:
    from nnrepl.record.ledger import Ledger

_array = mx.array
_PLAIN = frozenset(
    (type(UNBOUND), int, float, bool, str, complex, type(None), bytes, range, slice, mx.Dtype, type(Ellipsis))
)
_NUMBERS = frozenset((int, float, bool, str, type(None)))
_KEYED = (dict, *SEQUENCES)
_FEW, _MOST, _QUEUE = 16, 4096, 512
_NO_STATE = frozenset((type(None), FunctionType, ModuleType, BuiltinFunctionType, type, int, float, bool, str, _array))


_LOOSE: Any = object()
"""Stands for what a variable holds, after that was let go of."""


class BindingWatch:
    """Looks at variables for one recorder.

    Attributes:
        recorder: On whose tape it notes.
        notes: Whether it is to be told of all that frames do (see `Watching`).
    """

    notes, native = True, False

    def __init__(self, recorder: Ledger) -> None:
        self.recorder = recorder
        self._frames: dict[FrameType, WatchedFrame] = {}
        self._known: dict[int, Watched] = {}
        self._resting: dict[int, Holder] = {}
        self._resuming = self._begins = False
        self._modules: dict[int, FrameType] = {}
        """The module frames whose variables functions set (`global`), by their namespace."""
        self._ended, self._functions = EndedModules(), KeptFunctions()
        self._holders = HolderIndex(self._known)

    # -- frames --------------------------------------------------------------------------------------------

    def enter(self, frame: FrameType) -> Any:
        """Begin to watch a frame; returns its first argument, None if it has none. `belong` comes next."""
        state = self._frames[frame] = WatchedFrame(frame)
        code = frame.f_code
        state.others = not state.library and (state.optimized or self._ended.know(frame.f_globals))
        if not state.optimized:
            self._ended.begins(frame.f_globals)
            if not state.library and sets_globals(code):
                self._modules[id(frame.f_globals)] = frame
        if state.names:
            state.coming = read(frame, state.names, state.optimized)
            if state.optimized and code.co_argcount:
                return state.coming[0]
        return None

    def belong(self, frame: FrameType, scope: Activation) -> None:
        """Say of which call a frame is, and note its variables."""
        state = self._frames[frame]
        state.scope = scope
        tape = self.recorder.tape
        position = tape.bindings.seen[scope] = len(tape.ops)
        if self._begins:  # by now a model has been given what it is differentiated by
            self._begins = False
            self._look_at_all(position)
        if state.others:
            state.shared = self._shared(frame, position)
            for module, values in self._ended.changed(frame.f_globals, self._known, not state.optimized):
                self._note(module, values, position)
        if state.names:
            self._note(state, state.coming, position)
            state.coming = []
        if self._modules:
            self._see_globals(frame, state)

    def see(self, frame: FrameType) -> None:
        """Note what the variables of a frame hold now, where that has changed."""
        state = self._frames.get(frame)
        if state is None:
            return
        tape = self.recorder.tape
        position = tape.bindings.seen[state.scope] = len(tape.ops)
        if state.names:
            values = read(frame, state.names, state.optimized)
            if not all(map(is_, values, state.values)):
                self._note(state, values, position)
        if state.shared is None:
            state.shared = self._shared(frame, position) if state.others else []
        changed = False
        for view, watched in (*state.containers, *state.shared) if state.shared else state.containers:
            last = watched.last
            if last is None or len(view) != len(last) or (len(last) <= _FEW and not all(map(is_, view, last))):
                self._look(watched, position)
                changed = True
        if changed:  # what lies in them may be other containers now
            state.containers, state.shared = self._containers(state), None
        if self._modules:
            self._see_globals(frame, state)

    def _see_globals(self, frame: FrameType, state: WatchedFrame) -> None:
        """Note what the global variables of a function hold now, where functions set some."""
        if state.optimized and not state.library:
            module = self._modules.get(id(frame.f_globals))
            if module is not None and module is not frame:
                self.see(module)

    def leave(self, frame: FrameType) -> None:
        """Note what the variables of a frame held as it returned; of a library, what the containers of them hold, and
        of a generator on a Python that cannot be asked for more."""
        state = self._frames.get(frame)
        if state is None:
            return
        if not state.library and not may_dangle(frame.f_code):
            self.see(frame)
        else:
            for thing in state.values:
                if (watched := self._known.get(id(thing))) and not still_holds(watched.refer(), watched.last):
                    self._look(watched, len(self.recorder.tape.ops))
        self.forget(frame)

    def resume(self, frames: Mapping[FrameType | None, Activation | None]) -> None:
        """Look again, after a stretch in which nobody did: these calls are running now."""
        self._resuming = True  # what is noted of arrays made meanwhile must keep them: no op will make them again
        for gone in [frame for frame in self._frames if frame not in frames]:
            self.forget(gone)
        for watched in list(self._known.values()):
            watched.last = None
        for frame, scope in frames.items():
            if frame in self._frames:
                self.see(frame)
            elif frame is not None and scope is not None and scope.code is frame.f_code:
                self.enter(frame)
                self.belong(frame, scope)
        self._resuming = False

    def over(self) -> None:
        """Note what all variables hold where the program, or a cell, has come to its end."""
        position = len(self.recorder.tape.ops)
        for module, values in self._ended.all_changed(self._known):
            self._note(module, values, position)
        self.settle()

    def release(self, rests: bool = False) -> None:
        """Let go of all frames, and of what their variables hold. Where the program only `rests`, what a container held
        stays known: a cell may change it, which no variable shows."""
        tape = self.recorder.tape
        for frame, state in list(self._frames.items()):
            self.leave(frame)
            if tape.ops and was_at(tape.ops[-1], state.scope, frame):  # no variable there has got its result
                tape.bindings.seen[state.scope] = len(tape.ops) - 1
        if not rests:
            self._known.clear()
        for watched in self._known.values():
            watched.last = None  # nothing but the containers themselves, as their variables do

    def _note(self, state: WatchedFrame, values: list[Any], position: int) -> None:
        bindings, scope, live = self.recorder.tape.bindings, state.scope, self.recorder.live
        noted = state.noted
        if noted is None or state.bindings is not bindings:
            state.bindings, noted = bindings, bindings.call(scope)
            state.noted = noted
        log, own = bindings.log, noted.entries
        before, names, known = state.values, state.names, state.kept
        state.values = values
        contained = False
        for at, thing in enumerate(values):
            if thing is before[at]:
                continue
            kind = type(thing)
            value = None
            if kind is _array:
                value = live.get(id(thing))
                if value is None and self._resuming:
                    value = self.recorder.leaf(thing, "captured", names[at])
                kept: Any = weakref.ref(thing) if value is None else value
            elif kind in _PLAIN:
                kept = thing
            else:
                kept = self.keep(thing, position)
                contained = contained or type(kept) is Holder
            if state.containers and id(before[at]) in self._known:
                contained = True  # one of them is no longer there
            if kept is not known[at]:
                known[at] = kept
                entry = (position, scope, names[at], kept)
                log.append(entry)
                own.append(entry)
                if value is not None:
                    value.bound = entry if value.bound is None else (value.bound, entry)
                elif type(kept) is Holder:
                    bindings.held_containers.append(entry)
        if len(own) >= noted.due:
            noted.index()
        if contained:
            state.containers = self._containers(state)

    def _containers(self, state: WatchedFrame) -> list[tuple[Any, Watched]]:
        """Return the containers among a frame's variables, looked at with every op of it: at all that small ones hold,
        at the size of others. Of a library's only dicts (an optimizer's state) and what its own objects hold."""
        containers, known = list[tuple[Any, Watched]](), self._known
        for thing in state.values:
            watched = known.get(id(thing))
            if watched is None:
                continue
            if state.library and type(thing) is not dict:
                containers += self._inside(thing)
            elif watched.last is not None:
                containers += [(view_of(thing), watched), *within(watched, known)]
                if is_module(thing):
                    containers.append((thing.__dict__.values(), Attributes(watched, thing)))
                    containers += mentioned(thing, state.scope.code, known)
        return containers

    def _inside(self, thing: Any) -> list[tuple[Any, Watched]]:
        """Return the dicts that an object of a library's holds, where the program has the object in a variable."""
        if isinstance(thing, _KEYED) or not hasattr(thing, "__dict__"):
            return []
        inner = [(one, self._known.get(id(one))) for one in vars(thing).values() if type(one) is dict]
        return [(view_of(one), watched) for one, watched in inner if watched is not None and watched.last is not None]

    def _shared(self, frame: FrameType, position: int) -> list[tuple[Any, Watched]]:
        """Return the containers that a function of the program's knows as global variables."""
        found = []
        variables = frame.f_globals
        for name in shared_names(frame):
            thing = variables.get(name)
            if type(thing) in _NO_STATE:
                continue
            watched = self._known.get(id(thing))
            if watched is None or watched.last is None:
                self.keep(thing, position)
                watched = self._known.get(id(thing))
            if watched is not None and watched.last is not None:
                found += [(view_of(thing), watched), *within(watched, self._known)]
        return found

    # -- things --------------------------------------------------------------------------------------------

    def keep(self, thing: Any, position: int) -> Any:
        """Return what is noted of a thing that a variable or a container holds."""
        kind = type(thing)
        if kind in _PLAIN:
            return thing
        if kind is _array:
            value = self.recorder.live.get(id(thing)) or taken(self.recorder, thing)
            if value is None and (self._resuming or 0 < self.recorder.native_until == position):  # a call just gave it
                self.recorder.tape.bindings.alive.append(thing)
            return weakref.ref(thing) if value is None else value
        watched = self._known.get(id(thing))
        if watched is not None and watched.refer() is thing:
            if not still_holds(thing, watched.last):
                self._look(watched, position)
            return watched.holder
        if isinstance(thing, _KEYED) or is_small_array(thing):
            return self._watch(thing, position)
        if kind in KINDS or getattr(kind, "transforms", False):
            return self._functions.keep(thing, lambda part: self.keep(part, position))
        if kind is ModuleType or isinstance(thing, type):
            return weakref.ref(thing)
        if is_data(thing) if is_foreign_kind(kind) else holds_attributes(thing):
            return self._watch(thing, position)
        lasting.keep(thing)
        try:
            return weakref.ref(thing)
        except TypeError:
            return thing

    def _watch(self, thing: Any, position: int) -> Any:
        if isinstance(thing, deque) and len(thing) > _QUEUE:
            return weakref.ref(thing)
        if len(entries_of(thing)) > _MOST:
            return Large(type(thing), len(entries_of(thing)))
        try:
            key, known = id(thing), self._known  # the tapes of later runs hold it, too: it must not hold this one
            refer: Callable[[], Any] = weakref.ref(thing, lambda _: known.pop(key, None))
        except TypeError:  # a list, a dict, a tuple: `settle` lets go of those that nobody else holds
            refer = Grip([thing])
        maxlen = getattr(thing, "maxlen", None) if isinstance(thing, deque) else None
        watched = self._known[id(thing)] = Watched(Holder(type(thing), refer, maxlen), refer)
        resting = self._resting.pop(id(thing), None)
        if resting is not None and self._is_again(watched, resting, position):
            return watched.holder
        self._look(watched, position)
        return watched.holder

    def _is_again(self, watched: Watched, holder: Holder, position: int) -> bool:
        """Whether a container that was let go of is still there: it is the same in what it holds."""
        thing = watched.refer()
        if holder.kind is not type(thing):
            return False
        entries, noted = entries_of(thing), self.recorder.tape.bindings.contents(holder, position)
        if noted is None or len(noted) != len(entries) or (isinstance(entries, dict) and list(entries) != list(noted)):
            return False
        values = list(entries.values()) if isinstance(entries, dict) else list(entries)
        kept = noted.values() if isinstance(noted, dict) else noted
        watched.last = values
        self._holders.note(id(thing), values)
        if not all(map(is_, [self.keep(value, position) for value in values], kept)):
            watched.last = None
            return False
        watched.holder, holder.refer = holder, watched.refer
        return True

    def _look(self, watched: Watched, position: int) -> None:
        """Note what a container holds now, if that has changed."""
        if type(watched) is Attributes:
            self._look_at_all(position)
            return
        if (thing := watched.refer()) is None:
            return
        entries = entries_of(thing)
        values = list(entries.values()) if isinstance(entries, dict) else list(entries)
        before = watched.last
        if before is not None and len(values) == len(before) and all(map(is_, values, before)):
            return
        watched.last = values
        self._holders.note(id(thing), values)
        bindings, holder = self.recorder.tape.bindings, watched.holder
        if len(values) > (_QUEUE if isinstance(thing, deque) else _MOST):
            bindings.hold_whole(position, holder, Large(holder.kind, len(values)))
            return
        if values and type(values[0]) is KeptArray:
            bindings.hold_whole(position, holder, values[0])
            return
        if before and not isinstance(entries, dict) and len(values) > len(before) and all(map(is_, values, before)):
            more = [self.keep(item, position) for item in values[len(before) :]]
            if bindings.grow(position, holder, more):
                return
        items = values if set(map(type, values)) <= _NUMBERS else [self.keep(item, position) for item in values]
        bindings.hold(position, holder, dict(zip(entries, items)) if isinstance(entries, dict) else list(items))

    def _look_at_all(self, position: int) -> None:
        for watched in list(self._known.values()):
            if not still_holds(watched.refer(), watched.last):
                self._look(watched, position)

    def settle(self, begins: bool = False) -> None:
        """Look at every container that is known; let go of those that only the watch holds. Done where a pass
        begins and ends: what changes deep inside of a model or a dict does so between passes. Where a gradient call
        `begins`, also as soon as its function does something: the model that it differentiates holds others then."""
        self._begins = begins
        self._look_at_all(len(self.recorder.tape.ops))
        pending = True
        while pending:
            pending = False
            for key, watched in self._known.copy().items():
                box = watched.refer
                if isinstance(box, Grip) and box.alone():
                    box.let_go()
                    del self._known[key]
                    pending = True

    def forget(self, frame: FrameType) -> None:
        """Let go of a frame that has returned; nothing is noted of it."""
        state = self._frames.pop(frame, None)
        if state is not None and not state.optimized:
            self._ended.ends(state, frame.f_globals)
            if self._modules.get(id(frame.f_globals)) is frame:
                del self._modules[id(frame.f_globals)]

    def forget_all(self) -> None:
        """Let go of all frames; nothing is noted of them."""
        for frame in list(self._frames):
            self.forget(frame)

    def loosen(self) -> None:
        """Hold nothing of the program's any longer until it goes on: it may let go of it now. Lists and dicts that lie
        in a module or an object live as long as that."""
        self._resting.clear()
        reached: set[int] = set()
        pending = [watched for watched in self._known.values() if not isinstance(watched.refer, Grip)]
        while pending:
            for item in pending.pop().last or ():
                inner = self._known.get(id(item))
                if inner is not None and isinstance(inner.refer, Grip) and id(item) not in reached:
                    reached.add(id(item))
                    pending.append(inner)
        for key, watched in self._known.copy().items():
            if isinstance(watched.refer, Grip) and key not in reached:
                watched.refer.let_go()
                del self._known[key]
                self._resting[key] = watched.holder
        for state in self._frames.values():
            state.values = [_LOOSE] * len(state.names)
            state.containers = []
            state.shared = None

    def rest(self) -> None:
        """Hold nothing of the program's until `resume`, not what its modules hold either."""
        self.loosen()
        for watched in self._known.values():
            watched.last = None

    # -- arrays that change --------------------------------------------------------------------------------

    def changed(self, array: mx.array, old: Value) -> None:
        """Note that an array object has been given another value in place: every variable that holds it has."""
        self._restate(lambda thing: thing is array, old, self._holders.holding(array))

    def restated(self, concerns: Callable[[mx.array], bool], old: Value) -> None:
        """Note that the arrays that `concerns` chooses stand for another value than `old`."""
        everything = list(self._known.values())
        holding = (one for one in everything if any(type(item) is _array and concerns(item) for item in one.last or ()))
        self._restate(concerns, old, holding)

    def _restate(self, concerns: Callable[[mx.array], bool], old: Value, holding: Iterable[Watched]) -> None:
        tape, position = self.recorder.tape, len(self.recorder.tape.ops)
        for state in self._frames.values():
            for at, thing in enumerate(state.values):
                if type(thing) is _array and concerns(thing):
                    state.kept[at] = kept = self.keep(thing, position)
                    tape.bindings.note(position, state.scope, state.names[at], kept)
                elif thing is _LOOSE and state.kept[at] is old:
                    self.see_again(state)
                    break
        for watched in holding:
            watched.last = None
            self._look(watched, position)

    def holders(self) -> list[Holder]:
        """Return what stands for every container that is known."""
        return [*(watched.holder for watched in self._known.values()), *self._resting.values()]

    def renewed(self, now: Mapping[Value, Value]) -> None:
        """Note that other values stand for some, and that what is noted lies elsewhere."""
        for state in self._frames.values():
            state.noted, state.kept = None, [now.get(one, one) if isinstance(one, Value) else one for one in state.kept]

    def containers(self) -> Iterator[Any]:
        """Every container that is known and still there."""
        yield from (thing for watched in list(self._known.values()) if (thing := watched.refer()) is not None)

    def look_at(self, thing: Any) -> None:
        """Note what a container holds now."""
        if (watched := self._known.get(id(thing))) is not None:
            watched.last = None
            self._look(watched, len(self.recorder.tape.ops))

    def look_again(self, holders: Iterable[Holder]) -> None:
        """Note what containers hold, of which something else was noted for a while."""
        position = len(self.recorder.tape.ops)
        for holder in holders:
            if (watched := self._known.get(id(holder.refer()))) is not None and watched.holder is holder:
                watched.last = None
                self._look(watched, position)

    def see_again(self, state: WatchedFrame) -> None:
        """Look at the variables of a frame again."""
        for frame in [frame for frame, other in self._frames.items() if other is state]:
            self.see(frame)
