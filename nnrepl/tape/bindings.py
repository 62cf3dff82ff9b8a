"""Bindings: what the program's variables held, op by op. Facts, noted by identity while ops are recorded.

What a variable held is kept as a `Value` where it was a recorded tensor, as a `Holder` where it was a list, a dict, a
module or an object with attributes, as a weak reference where the tape must not keep it alive, else as it is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from types import CodeType
from typing import Any
from weakref import ref

from nnrepl.tape.kept_array import KeptArray
from nnrepl.tape.origins import Activation, Bound, Entry
from nnrepl.tape.value import Value


class _Unbound:
    """What a variable holds that is not set, or was deleted."""

    def __repr__(self) -> str:
        return "UNBOUND"

    def __bool__(self) -> bool:
        return False


UNBOUND = _Unbound()


class Large:
    """A list or dict with too many entries to be kept.

    Attributes:
        kind: Its type.
        size: How many entries it had.
    """

    __slots__ = ("kind", "size")

    def __init__(self, kind: type, size: int) -> None:
        self.kind = kind
        self.size = size


class Holder:
    """A list, dict, tuple, module or object of the program's. What it held when stands in `Bindings`.

    Attributes:
        kind: Its type.
        refer: Gives the object itself, None once it is gone (or was let go of).
        maxlen: How many entries it may have at most, of a deque that has been told.
    """

    __slots__ = ("kind", "maxlen", "refer")

    def __init__(self, kind: type, refer: Callable[[], Any], maxlen: int | None = None) -> None:
        self.kind = kind
        self.refer = refer
        self.maxlen = maxlen


_NOTHING: list[Entry] = []
_position = itemgetter(0)
_OPTIMIZED = 0x1  # inspect.CO_OPTIMIZED: the code of a function
_LONG = 256


class Noted:
    """What is noted of one call.

    Attributes:
        entries: All of it, in order.
        due: The number of entries at which they are to be sorted by variable (`index`), so that nobody who asks has
            to wait. Short calls, which are the most, are sorted when somebody asks.
    """

    __slots__ = ("_by_name", "_sorted", "due", "entries")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.due = _LONG
        self._sorted = 0
        self._by_name: dict[str, list[Entry]] | None = None  # a long run has many calls of which nobody asks

    def exchange(self, entry: Entry, new: Entry) -> None:
        """Put another entry in the place of one."""
        self.entries[next(at for at, one in enumerate(self.entries) if one is entry)] = new
        self._by_name, self._sorted = None, 0

    def index(self) -> dict[str, list[Entry]]:
        """Return what each variable held, in order."""
        if self._by_name is None:
            self._by_name = {}
        for entry in self.entries[self._sorted :]:
            self._by_name.setdefault(entry[2], []).append(entry)
        self._sorted = len(self.entries)
        self.due = self._sorted + _LONG
        return self._by_name


class Bindings:
    """What each variable of each call held, from which position on.

    Attributes:
        log: All that was noted, in order.
        held_containers: What was noted of variables that hold containers, in order.
        holds: All that containers held, in order.
        alive: What containers held that was made natively: no op could make it again, so it must not die.
        seen: Up to which position the variables of a call have been looked at.
    """

    __slots__ = ("_calls", "_codes", "_contents", "alive", "held_containers", "holds", "log", "seen")

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.held_containers: list[Entry] = []
        self.holds: list[tuple[int, Holder, Any, int]] = []
        self.alive: list[Any] = []
        self.seen: dict[Activation, int] = {}
        self._calls: dict[Activation, Noted] = {}
        self._codes: dict[CodeType, list[Activation]] = {}
        self._contents: dict[Holder, list[tuple[int, Any, int]]] = {}

    def __len__(self) -> int:
        return len(self.log)

    def call(self, scope: Activation) -> Noted:
        """Return what is noted of one call."""
        known = self._calls.get(scope)
        if known is None:
            known = self._calls[scope] = Noted()
            calls = self._codes.get(scope.code)
            if calls is None:
                calls = self._codes[scope.code] = []
            calls.append(scope)
        return known

    def note(self, position: int, scope: Activation, name: str, thing: Any) -> None:
        """Note that a variable of a call holds `thing` when the cursor stands at `position`, and from there on."""
        entry = (position, scope, name, thing)
        self._enter(entry)
        if type(thing) is Holder:
            self.held_containers.append(entry)
        elif isinstance(thing, Value):
            thing.bound = entry if thing.bound is None else (thing.bound, entry)

    def _enter(self, entry: Entry) -> None:
        self.log.append(entry)
        noted = self.call(entry[1])
        noted.entries.append(entry)
        if len(noted.entries) >= noted.due:
            noted.index()

    def fork(self, position: int) -> Bindings:
        """Return what holds up to a position, on a tape that goes another way from there."""
        twin = Bindings()
        for entry in self.log:
            if entry[0] <= position:
                twin._enter(entry)
        twin.held_containers = [entry for entry in self.held_containers if entry[0] <= position]
        for holder, versions in self._contents.items():
            kept = [version for version in versions if version[0] <= position]
            if kept:
                twin._contents[holder] = kept
        twin.alive = list(self.alive)
        twin.holds = [entry for entry in self.holds if entry[0] <= position]
        twin.seen = {scope: min(seen, position) for scope, seen in self.seen.items()}
        return twin

    def cut(
        self, start: int, end: int, moved: Callable[[int], int], image: Callable[[Value], Value], held: list[Holder]
    ) -> tuple[Callable[[], None], list[Value]]:
        """Return what forgets all that was noted after one position and before another, but for what still holds there;
        until that is called nothing has changed. And which values are noted as variables' then.

        Args:
            moved: Where each position lies then.
            image: Returns what stands for a value then.
            held: The containers that the program may still have.
        """
        before = [entry for entry in self.log if entry[0] <= start]
        known = {entry[1] for entry in before}
        last = {entry[1:3]: entry for entry in self.log if start < entry[0] < end}
        kept = [(end, *entry[1:]) for entry in last.values() if self.seen.get(entry[1], -1) >= end or entry[1] in known]
        after = [*kept, *(entry for entry in self.log if entry[0] >= end)]
        after = [(moved(at), scope, name, image(thing) if isinstance(thing, Value) else thing)
                 for at, scope, name, thing in after]  # fmt: skip
        scopes = {*known, *(entry[1] for entry in after)}
        seen = {scope: moved(at) for scope, at in self.seen.items() if at >= end or at <= start or scope in scopes}
        there = [entry[3] for entry in (*before, *after) if type(entry[3]) is Holder]
        contents, images = self._cut_contents(start, end, moved, image, {*held, *there})

        def forget() -> None:
            for entry in (*self.log, *after):  # an entry and its value hold each other
                if isinstance(entry[3], Value):
                    entry[3].bound = None
            self.log, self.held_containers, self._calls, self._codes, self.seen = [], [], {}, {}, seen
            for entry in (*before, *after):
                self._enter_again(entry)
            for entries, key, value in images:
                entries[key] = value
            self._contents = contents
            holds = [(at, holder, *version) for holder, versions in contents.items() for at, *version in versions
                     if isinstance(version[0], (dict, list))]  # fmt: skip
            self.holds = sorted(holds, key=_position)

        return forget, [entry[3] for entry in (*before, *after) if isinstance(entry[3], Value)]

    def _enter_again(self, entry: Entry) -> None:
        self._enter(entry)
        thing = entry[3]
        if type(thing) is Holder:
            self.held_containers.append(entry)
        elif isinstance(thing, Value):
            thing.bound = entry if thing.bound is None else (thing.bound, entry)

    def _cut_contents(
        self, start: int, end: int, moved: Callable[[int], int], image: Callable[[Value], Value], alive: set[Holder]
    ) -> tuple[dict[Holder, list[tuple[int, Any, int]]], list[tuple[Any, Any, Value]]]:
        """Return what containers held, but for what they held meanwhile and for those that nobody has any more; and
        what is to stand in what they held: where, and which value."""
        images: list[tuple[Any, Any, Value]] = []
        contents: dict[Holder, list[tuple[int, Any, int]]] = {}
        imaged, pending = set[int](), list(alive)
        while pending:
            holder = pending.pop()
            if versions := _without(self._contents.get(holder, []), start, end, moved):
                contents[holder] = versions
            for _, entries, _ in versions:
                if id(entries) in imaged or not isinstance(entries, (dict, list)):
                    continue
                imaged.add(id(entries))
                for key, thing in entries.items() if isinstance(entries, dict) else enumerate(entries):
                    if isinstance(thing, Value) and (value := image(thing)) is not thing:
                        images.append((entries, key, value))
                    elif type(thing) is Holder and thing not in alive:
                        alive.add(thing)
                        pending.append(thing)
        return contents, images

    # -- containers ----------------------------------------------------------------------------------------

    def hold(self, position: int, holder: Holder, entries: Any) -> None:
        """Note that a container holds these (a dict or a list) from `position` on."""
        versions = self._contents.setdefault(holder, [])
        if versions and versions[-1][0] >= position:
            versions.pop()
        versions.append((position, entries, len(entries)))
        self.holds.append((position, holder, entries, len(entries)))

    def grow(self, position: int, holder: Holder, more: list[Any]) -> bool:
        """Note that a list has got more entries at its end. Returns whether what was noted of it can be continued."""
        versions = self._contents.get(holder)
        if not versions or versions[-1][0] >= position:
            return False
        _, entries, count = versions[-1]
        if not isinstance(entries, list) or count != len(entries):
            return False
        entries += more
        versions.append((position, entries, len(entries)))
        self.holds.append((position, holder, entries, len(entries)))
        return True

    def know(self, since: int, values: dict[int, Value]) -> None:
        """Take values for objects that were noted by reference at or after a position, by the `id` of those. What a
        call gives has been noted in the midst of it; as a value it is there after the op that the call is."""

        def known(thing: Any) -> Any:
            return values.get(id(thing()), thing) if type(thing) is ref else thing

        first = self.first_hold_from(since)
        for at, (position, holder, entries, count) in enumerate(self.holds[first:], first):
            there = position
            for key, thing in list(entries.items() if isinstance(entries, dict) else enumerate(entries)):
                if (value := known(thing)) is not thing:
                    entries[key] = value
                    there = max(there, 0 if value.op is None else value.op.position + 1)
            versions = self._contents[holder]
            of = next((of for of, one in enumerate(versions) if one[1] is entries and one[0] == position), None)
            if of is not None and position < there < (versions[of + 1][0] if of + 1 < len(versions) else there + 1):
                versions[of] = (there, entries, count)
                self.holds[at] = (there, holder, entries, count)
        self.holds[first:] = sorted(self.holds[first:], key=_position)
        for at in range(self.first_from(since), len(self.log)):
            position, scope, name, thing = entry = self.log[at]
            if (value := known(thing)) is not thing:
                new = self.log[at] = (position, scope, name, value)
                self.call(scope).exchange(entry, new)
                value.bound = new if value.bound is None else (value.bound, new)

    def hold_whole(self, position: int, holder: Holder, what: Large | KeptArray) -> None:
        """Note what a container holds from `position` on, where that is not taken apart."""
        versions = self._contents.setdefault(holder, [])
        if versions and versions[-1][0] >= position:
            versions.pop()
        versions.append((position, what, 0))

    def contents(self, holder: Holder, position: int) -> Any:
        """Return what a container held when the cursor stands at `position`: a dict or a list; of an array of NumPy's
        a `KeptArray`; `Large` where that was too much to be kept, None if it is not known."""
        versions = self._contents.get(holder, [])
        found = bisect_right(versions, position, key=_position)
        if not found:
            return None
        _, entries, count = versions[found - 1]
        return entries[:count] if isinstance(entries, list) and count < len(entries) else entries

    def entry(self, holder: Holder, key: Any, position: int) -> Any:
        """One entry of a container by key, index or attribute; UNBOUND if there is none."""
        entries = self.contents(holder, position)
        if isinstance(entries, dict):
            return entries.get(key, UNBOUND)
        if isinstance(entries, list) and isinstance(key, int) and -len(entries) <= key < len(entries):
            return entries[key]
        return UNBOUND

    def versions(self) -> dict[Holder, list[tuple[int, Any, int]]]:
        """Return what each container held: from which position on, its entries (or `Large`), how many of these."""
        return self._contents

    def recall(
        self, versions: dict[Holder, list[tuple[int, Any, int]]], holds: list[tuple[int, Holder, Any, int]]
    ) -> None:
        """Take over what containers held from a tape that was saved: `versions()` and `holds` of that."""
        self._contents = versions
        self.holds = holds

    def holders(self) -> list[Holder]:
        """Every container that is known."""
        return list(self._contents)

    # -- variables -----------------------------------------------------------------------------------------

    def first_from(self, position: int) -> int:
        """Where in the log the notes at or after a position begin."""
        return bisect_left(self.log, position, key=_position)

    def first_hold_from(self, position: int) -> int:
        """Where among `holds` the notes at or after a position begin."""
        return bisect_left(self.holds, position, key=_position)

    def known(self, scope: Activation) -> bool:
        """Whether the variables of a call were looked at."""
        return scope in self.seen

    def _of(self, scope: Activation, name: str) -> list[Entry]:
        """Return what one variable of a call held, in order."""
        noted = self._calls.get(scope)
        return _NOTHING if noted is None else noted.index().get(name, _NOTHING)

    def held(self, scope: Activation, name: str, position: int) -> Any:
        """Return what a variable of a call holds when the cursor stands at `position`; UNBOUND if nothing."""
        track = self._of(scope, name)
        found = bisect_right(track, position, key=_position)
        return track[found - 1][3] if found else UNBOUND

    def since(self, scope: Activation, name: str, position: int) -> tuple[int, Any]:
        """From where on a variable of a call holds what it does when the cursor stands at `position`, and what that
        is: (-1, UNBOUND) if it has not been set."""
        track = self._of(scope, name)
        found = bisect_right(track, position, key=_position)
        return (track[found - 1][0], track[found - 1][3]) if found else (-1, UNBOUND)

    def was_set(self, scope: Activation, name: str, position: int) -> Any:
        """Return what a variable that is not set any more held last; UNBOUND if it has not been set before
        `position`."""
        track = self._of(scope, name)
        before = [entry[3] for entry in track if entry[0] <= position and entry[3] is not UNBOUND]
        return before[-1] if before else UNBOUND

    def comes(self, scope: Activation, name: str, position: int) -> tuple[int, Any] | None:
        """Return what a variable of a call holds next, and from where on; None if that is not known."""
        track = self._of(scope, name)
        found = bisect_right(track, position, key=_position)
        return (track[found][0], track[found][3]) if found < len(track) else None

    def variables(self, scope: Activation, position: int) -> dict[str, Any]:
        """Return what every variable of a call holds that is set when the cursor stands at `position`."""
        noted = self._calls.get(scope)
        held = {name: self.held(scope, name, position) for name in ([] if noted is None else noted.index())}
        return {name: thing for name, thing in held.items() if thing is not UNBOUND}

    def names_in(self, scope: Activation, value: Value) -> list[str]:
        """Return the variables of a call that ever held a value, in order."""
        return [name for _, found, name in self.naming(value) if found is scope]

    def first_names(self, scopes: Sequence[Activation], value: Value) -> list[tuple[Activation, str]]:
        """Return the variables of some calls that ever held a value, as they were given it; of those at one moment,
        that of the call that comes first."""
        order = {scope: at for at, scope in enumerate(scopes)}
        found = [(at, scope, name) for at, scope, name in self.naming(value) if scope in order]
        return [(scope, name) for _, scope, name in sorted(found, key=lambda one: (one[0], order[one[1]]))]

    def naming(self, value: Value) -> list[tuple[int, Activation, str]]:
        """Each variable that was given a value, in order: from which position on, and of which call."""
        return [entry[:3] for entry in _entries(value) if self._has(entry)][::-1]

    def _has(self, entry: Entry) -> bool:
        """Whether something is noted here, and not only in another timeline that has the value, too."""
        track = self._of(entry[1], entry[2])
        at = bisect_left(track, entry[0], key=_position)
        while at < len(track) and track[at][0] == entry[0]:
            if track[at] is entry:
                return True
            at += 1
        return False

    def called(self, name: str) -> list[tuple[int, Activation, Value]]:
        """Every tensor that a variable of this name held in any call, with that call and from which position on."""
        found = self.noted(name, lambda code: True)
        return [(at, scope, thing) for at, scope, thing in found if isinstance(thing, Value)]

    def noted(self, name: str, fits: Callable[[CodeType], bool]) -> list[tuple[int, Activation, Any]]:
        """All that a variable of this name held (UNBOUND where it was deleted) in the calls of such code, with the call
        and from which position on."""
        tracks = list(self._tracks(name, fits))
        entries = [(at, scope, thing) for track in tracks for at, scope, _, thing in track]
        return sorted(entries, key=_position) if len(tracks) > 1 else entries

    def newest(
        self, name: str, position: int, fits: Callable[[CodeType], bool]
    ) -> tuple[list[tuple[int, Activation, Value]], tuple[int, Activation, Value] | None]:
        """Of each call of such code the last tensor that a variable held and that is made when the cursor stands at
        `position`, in order; and the first one held after that is not made yet (None if there is none)."""
        last: list[tuple[int, Activation, Value]] = []
        ahead: list[tuple[int, Activation, Value]] = []
        for track in self._tracks(name, fits):
            found = bisect_right(track, position, key=_position)
            at = found - 1
            while at >= 0 and not _is_made(track[at][3], position):
                at -= 1
            if at >= 0:
                last.append((track[at][0], track[at][1], track[at][3]))
            while found < len(track) and not _is_ahead(track[found][3], position):
                found += 1
            if found < len(track):
                ahead.append((track[found][0], track[found][1], track[found][3]))
        return sorted(last, key=_position), min(ahead, key=_position, default=None)

    def _tracks(self, name: str, fits: Callable[[CodeType], bool]) -> Iterator[list[Entry]]:
        """Yield what a variable of this name held, in each call of such code."""
        for code, scopes in self._codes.items():
            if fits(code) and _has_variable(code, name):
                yield from (self._of(scope, name) for scope in scopes)

    def names(self) -> list[str]:
        """Return the names of all variables that are noted."""
        return list(dict.fromkeys(entry[2] for entry in self.log))


def _without(
    versions: list[tuple[int, Any, int]], start: int, end: int, moved: Callable[[int], int]
) -> list[tuple[int, Any, int]]:
    """Return what a container held, but for what came and went between two positions."""
    before = [version for version in versions if version[0] <= start]
    between = [(end, *version[1:]) for version in versions if start < version[0] < end][-1:]
    after = [version for version in versions if version[0] >= end]
    between = [] if after and after[0][0] == end else between
    return [*before, *((moved(at), entries, count) for at, entries, count in (*between, *after))]


def is_module(code: CodeType) -> bool:
    """Whether it is the code of a module or of a cell, which sets global variables."""
    return not code.co_flags & _OPTIMIZED


def _is_made(thing: Any, position: int) -> bool:
    return isinstance(thing, Value) and (thing.op is None or thing.op.position < position)


def _is_ahead(thing: Any, position: int) -> bool:
    return isinstance(thing, Value) and thing.op is not None and thing.op.position >= position


def _has_variable(code: CodeType, name: str) -> bool:
    if not isinstance(code, CodeType):
        return True  # it stands for the code of a tape that was saved
    return name in code.co_varnames or name in code.co_names or name in code.co_cellvars or name in code.co_freevars


def _entries(value: Value) -> Iterator[Entry]:
    """Yield what is noted of the variables that were given a value, on any tape, the last first."""
    bound = value.bound
    while bound is not None:
        older, entry = bound if len(bound) == 2 else (None, bound)
        yield entry
        bound = older


def known_to(some: Sequence[Bindings], value: Value) -> Bound | None:
    """Return which variables were given a value, as far as any of some bindings know of it."""
    kept: Bound | None = None
    for entry in reversed([*_entries(value)]):
        if any(bindings._has(entry) for bindings in some):
            kept = entry if kept is None else (kept, entry)
    return kept
