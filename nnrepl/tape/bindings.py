"""Bindings: what the program's variables held, op by op. Facts, noted by identity while ops are recorded.

What a variable held is kept as a `Value` where it was a recorded tensor, as a `Holder` where it was a list, a dict, a
module or an object with attributes, as a weak reference where the tape must not keep it alive, else as it is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnrepl.tape.places import Activation
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
    """

    __slots__ = ("kind", "refer")

    def __init__(self, kind: type, refer: Callable[[], Any]) -> None:
        self.kind = kind
        self.refer = refer


Entry = tuple[int, "Activation", str, Any]
"""From which position on, in which call, which variable, what it holds."""


class _Call:
    """What the variables of one call held: as noted, and by name and by value as far as somebody has asked."""

    __slots__ = ("by_name", "by_value", "entries", "indexed")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.indexed = 0
        self.by_name: dict[str, list[tuple[int, Any]]] = {}
        self.by_value: dict[Value, list[tuple[int, str]]] = {}

    def index(self) -> _Call:
        """Take in what was noted since the last time."""
        entries = self.entries
        for at in range(self.indexed, len(entries)):
            position, _, name, thing = entries[at]
            self.by_name.setdefault(name, []).append((position, thing))
            if hasattr(thing, "held"):
                self.by_value.setdefault(thing, []).append((position, name))
        self.indexed = len(entries)
        return self


_NOTHING = _Call()


class Bindings:
    """What each variable of each call held, from which position on.

    Attributes:
        log: All that was noted, in order.
        held_containers: What was noted of variables that hold containers, in order.
        holds: All that containers held, in order.
        seen: Up to which position the variables of a call have been looked at.
    """

    __slots__ = ("_by_name", "_by_tensor", "_calls", "_contents", "_indexed", "held_containers", "holds", "log", "seen")

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self.held_containers: list[Entry] = []
        self.holds: list[tuple[int, Holder, Any, int]] = []
        self.seen: dict[Activation, int] = {}
        self._calls: dict[Activation, _Call] = {}
        self._contents: dict[Holder, list[tuple[int, Any, int]]] = {}
        self._by_name: dict[str, list[tuple[int, Activation, Any]]] = {}
        self._by_tensor: dict[str, list[tuple[int, Activation, Value]]] = {}
        self._indexed = 0

    def __len__(self) -> int:
        return len(self.log)

    def call(self, scope: Activation) -> list[Entry]:
        """What is noted of one call; `note` adds to it."""
        known = self._calls.get(scope)
        if known is None:
            known = self._calls[scope] = _Call()
        return known.entries

    def note(self, position: int, scope: Activation, name: str, thing: Any) -> None:
        """A variable of a call holds `thing` when the cursor stands at `position`, and from there on."""
        entry = (position, scope, name, thing)
        self.log.append(entry)
        self.call(scope).append(entry)
        if type(thing) is Holder:
            self.held_containers.append(entry)

    def fork(self, position: int) -> Bindings:
        """What holds up to a position, on a tape that goes another way from there."""
        twin = Bindings()
        for entry in self.log:
            if entry[0] <= position:
                twin.note(*entry)
        for holder, versions in self._contents.items():
            kept = [version for version in versions if version[0] <= position]
            if kept:
                twin._contents[holder] = kept
        twin.holds = [entry for entry in self.holds if entry[0] <= position]
        twin.seen = {scope: min(seen, position) for scope, seen in self.seen.items()}
        return twin

    # -- containers ----------------------------------------------------------------------------------------

    def hold(self, position: int, holder: Holder, entries: Any) -> None:
        """A container holds these (a dict or a list) from `position` on."""
        versions = self._contents.setdefault(holder, [])
        if versions and versions[-1][0] >= position:
            versions.pop()
        versions.append((position, entries, len(entries)))
        self.holds.append((position, holder, entries, len(entries)))

    def grow(self, position: int, holder: Holder, more: list[Any]) -> bool:
        """A list has got more entries at its end. Returns whether what was noted of it can be continued."""
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

    def grown_large(self, position: int, holder: Holder, large: Large) -> None:
        """A container holds more than can be kept from `position` on."""
        versions = self._contents.setdefault(holder, [])
        if versions and versions[-1][0] >= position:
            versions.pop()
        versions.append((position, large, 0))

    def contents(self, holder: Holder, position: int) -> Any:
        """What a container held when the cursor stands at `position`: a dict or a list; `Large` where that was too
        much to be kept, None if it is not known."""
        versions = self._contents.get(holder, [])
        found = bisect_right(versions, position, key=_first)
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
        """What each container held: from which position on, its entries (or `Large`), how many of these."""
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
        return bisect_left(self.holds, position, key=_hold_position)

    def known(self, scope: Activation) -> bool:
        """Whether the variables of a call were looked at."""
        return scope in self.seen

    def held(self, scope: Activation, name: str, position: int) -> Any:
        """What a variable of a call holds when the cursor stands at `position`; UNBOUND if nothing."""
        versions = self._calls.get(scope, _NOTHING).index().by_name.get(name)
        if not versions:
            return UNBOUND
        found = bisect_right(versions, position, key=_first)
        return versions[found - 1][1] if found else UNBOUND

    def was_set(self, scope: Activation, name: str, position: int) -> Any:
        """What a variable that is not set any more held last; UNBOUND if it has not been set before `position`."""
        versions = self._calls.get(scope, _NOTHING).index().by_name.get(name, [])
        before = [thing for at, thing in versions if at <= position and thing is not UNBOUND]
        return before[-1] if before else UNBOUND

    def comes(self, scope: Activation, name: str, position: int) -> tuple[int, Any] | None:
        """What a variable of a call holds next, and from where on; None if that is not known."""
        versions = self._calls.get(scope, _NOTHING).index().by_name.get(name, [])
        found = bisect_right(versions, position, key=_first)
        return versions[found] if found < len(versions) else None

    def variables(self, scope: Activation, position: int) -> dict[str, Any]:
        """What every variable of a call holds that is set when the cursor stands at `position`."""
        found: dict[str, Any] = {}
        for name in self._calls.get(scope, _NOTHING).index().by_name:
            thing = self.held(scope, name, position)
            if thing is not UNBOUND:
                found[name] = thing
        return found

    def names_in(self, scope: Activation, value: Value) -> list[str]:
        """The variables of a call that ever held a value, in order."""
        return [name for _, name in self._calls.get(scope, _NOTHING).index().by_value.get(value, ())]

    def called(self, name: str) -> list[tuple[int, Activation, Value]]:
        """Every tensor that a variable of this name held in any call, with that call and from which position on."""
        self._index()
        return self._by_tensor.get(name, [])

    def noted(self, name: str) -> list[tuple[int, Activation, Any]]:
        """All that a variable of this name held in any call (UNBOUND where it was deleted), with that call and from
        which position on."""
        self._index()
        return self._by_name.get(name, [])

    def names(self) -> list[str]:
        """The names of all variables that are noted."""
        self._index()
        return list(self._by_name)

    def _index(self) -> None:
        for position, scope, variable, thing in self.log[self._indexed :]:
            self._by_name.setdefault(variable, []).append((position, scope, thing))
            if hasattr(thing, "held"):
                self._by_tensor.setdefault(variable, []).append((position, scope, thing))
        self._indexed = len(self.log)


def _position(entry: Entry) -> int:
    return entry[0]


def _hold_position(entry: tuple[int, Holder, Any, int]) -> int:
    return entry[0]


def _first(version: tuple[int, Any] | tuple[int, Any, int]) -> int:
    return version[0]
