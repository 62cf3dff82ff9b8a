"""Bindings: what the program's variables held, op by op. Facts, noted by identity while ops are recorded.

What a variable held is kept as a `Value` where it was a recorded tensor, as a `Holder` where it was a list, a dict, a
module or an object with attributes, as a weak reference where the tape must not keep it alive, else as it is.
"""

from __future__ import annotations

from bisect import bisect_right
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


class Bindings:
    """What each variable of each call held, from which position on."""

    __slots__ = ("_by_name", "_by_scope", "_by_value", "_contents", "_indexed", "holds", "log", "seen")

    def __init__(self) -> None:
        self.log: list[tuple[int, Activation, str, Any]] = []
        """All that was noted, in order: from which position on, in which call, which variable, what it holds."""
        self._indexed = 0
        self._contents: dict[Holder, list[tuple[int, Any, int]]] = {}
        self.holds: list[tuple[int, Holder, Any, int]] = []
        """All that containers held, in order."""
        self._by_scope: dict[Activation, dict[str, list[tuple[int, Any]]]] = {}
        self._by_value: dict[Value, list[tuple[int, Activation, str]]] = {}
        self._by_name: dict[str, list[tuple[int, Activation, Value]]] = {}
        self.seen: dict[Activation, int] = {}
        """Up to which position the variables of a call have been looked at."""

    def __len__(self) -> int:
        return len(self.log)

    def note(self, position: int, scope: Activation, name: str, thing: Any) -> None:
        """A variable of a call holds `thing` when the cursor stands at `position`, and from there on."""
        self.log.append((position, scope, name, thing))

    def fork(self, position: int) -> Bindings:
        """What holds up to a position, on a tape that goes another way from there."""
        twin = Bindings()
        twin.log = [entry for entry in self.log if entry[0] <= position]
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

    def contents(self, holder: Holder, position: int) -> Any:
        """What a container held when the cursor stands at `position`: a dict or a list; None if that is not known."""
        versions = self._contents.get(holder, [])
        found = bisect_right(versions, position, key=_first)
        if not found:
            return None
        _, entries, count = versions[found - 1]
        return entries if isinstance(entries, dict) or count == len(entries) else entries[:count]

    def entry(self, holder: Holder, key: Any, position: int) -> Any:
        """One entry of a container by key, index or attribute; UNBOUND if there is none."""
        entries = self.contents(holder, position)
        if isinstance(entries, dict):
            return entries.get(key, UNBOUND)
        if entries is not None and isinstance(key, int) and -len(entries) <= key < len(entries):
            return entries[key]
        return UNBOUND

    def holders(self) -> list[Holder]:
        """Every container that is known."""
        return list(self._contents)

    # -- variables -----------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        log = self.log
        for at in range(self._indexed, len(log)):
            position, scope, name, thing = log[at]
            names = self._by_scope.get(scope)
            if names is None:
                names = self._by_scope[scope] = {}
            names.setdefault(name, []).append((position, thing))
            if hasattr(thing, "held"):
                self._by_value.setdefault(thing, []).append((position, scope, name))
                self._by_name.setdefault(name, []).append((position, scope, thing))
        self._indexed = len(log)

    def known(self, scope: Activation) -> bool:
        """Whether the variables of a call were looked at."""
        return scope in self.seen

    def held(self, scope: Activation, name: str, position: int) -> Any:
        """What a variable of a call holds when the cursor stands at `position`; UNBOUND if nothing."""
        self._catch_up()
        versions = self._by_scope.get(scope, {}).get(name)
        if not versions:
            return UNBOUND
        found = bisect_right(versions, position, key=_first)
        return versions[found - 1][1] if found else UNBOUND

    def comes(self, scope: Activation, name: str, position: int) -> tuple[int, Any] | None:
        """What a variable of a call holds next, and from where on; None if that is not known."""
        self._catch_up()
        versions = self._by_scope.get(scope, {}).get(name, [])
        found = bisect_right(versions, position, key=_first)
        return versions[found] if found < len(versions) else None

    def variables(self, scope: Activation, position: int) -> dict[str, Any]:
        """What every variable of a call holds that is set when the cursor stands at `position`."""
        self._catch_up()
        found: dict[str, Any] = {}
        for name in self._by_scope.get(scope, ()):
            thing = self.held(scope, name, position)
            if thing is not UNBOUND:
                found[name] = thing
        return found

    def names_of(self, value: Value) -> list[tuple[int, Activation, str]]:
        """The variables that ever held a value, each with its call and the position from which it did."""
        self._catch_up()
        return self._by_value.get(value, [])

    def called(self, name: str) -> list[tuple[int, Activation, Value]]:
        """Every tensor that a variable of this name held in any call, with that call and from which position on."""
        self._catch_up()
        return self._by_name.get(name, [])


def _first(version: tuple[int, Any] | tuple[int, Any, int]) -> int:
    return version[0]
