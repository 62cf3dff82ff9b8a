"""Homes: in which model, dict or list of the program's a tensor lies, and by which variable that is known.

Two models may have the same parameter paths; what tells them apart is the object that holds the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nnrepl.record import source as sources
from nnrepl.record.stack import is_module_type
from nnrepl.tape import Activation, Holder, Tape, Value


@dataclass(frozen=True, slots=True)
class Home:
    """A place in a container of the program's: `weight` in this very `nn.Linear`."""

    holder: Holder
    key: Any


class Homes:
    """The homes of the values of one tape."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._seen = 0
        self._seen_variables = 0
        self._last: dict[Holder, dict[Any, Any]] = {}
        self._of: dict[Value, list[tuple[int, Home]]] = {}
        self._in: dict[Home, list[tuple[int, Value]]] = {}
        self._parents: dict[Holder, list[Home]] = {}
        self._variables: dict[Holder, list[tuple[Activation, str]]] = {}
        self._bound: dict[tuple[Activation, str], set[Holder]] = {}
        self._places = 0
        self._paths: tuple[int, dict[str, list[Home]]] = (-1, {})

    def _catch_up(self) -> None:
        bindings = self._tape.bindings
        for position, holder, entries, count in bindings.holds[self._seen :]:
            last = self._last.setdefault(holder, {})
            items = entries.items() if isinstance(entries, dict) else enumerate(entries[:count])
            for key, thing in items:
                if last.get(key) is thing:
                    continue
                last[key] = thing
                if isinstance(thing, Value):
                    home = Home(holder, key)
                    self._of.setdefault(thing, []).append((position, home))
                    self._places += home not in self._in
                    self._in.setdefault(home, []).append((position, thing))
                elif isinstance(thing, Holder):
                    self._parents.setdefault(thing, []).append(Home(holder, key))
                    self._places += 1
        self._seen = len(bindings.holds)
        for _, scope, name, thing in bindings.log[self._seen_variables :]:
            if isinstance(thing, Holder):
                self._bound.setdefault((scope, name), set()).add(thing)
                if name != "self" and not sources.is_library(scope.code.co_filename):
                    self._variables.setdefault(thing, []).append((scope, name))
        self._seen_variables = len(bindings.log)

    def of(self, value: Value) -> Home | None:
        """Where a value lies: the first place in a module, else in another container; None if it is in none."""
        self._catch_up()
        found = [home for _, home in self._of.get(value, ()) if issubclass(home.holder.kind, (dict, list))]
        modules = [home for home in found if is_module_type(home.holder.kind)]
        kept = modules or [home for home in found if self.name(home.holder) is not None]
        return kept[0] if kept else None

    def held(self, home: Home) -> list[tuple[int, Value]]:
        """Every value that lay there, with the position from which it did."""
        self._catch_up()
        return self._in.get(home, [])

    def at_path(self, path: str) -> list[Home]:
        """The places in different models that have this path."""
        self._catch_up()
        if self._paths[0] != self._places:
            found: dict[str, list[Home]] = {}
            for home in self._in:
                root, where = self.path(home)
                if is_module_type(root.kind):
                    found.setdefault(where, []).append(home)
            self._paths = (self._places, found)
        return self._paths[1].get(path, [])

    def path(self, home: Home) -> tuple[Holder, str]:
        """The outermost model (or dict) in which a place lies, and its path in that."""
        self._catch_up()
        holder, path = home.holder, str(home.key)
        seen = {holder}
        while True:
            above = self._above(holder, seen)
            if above is None:
                return holder, path
            holder, path = above.holder, f"{above.key}.{path}"
            seen.add(holder)

    def _above(self, holder: Holder, seen: set[Holder]) -> Home | None:
        """What holds a container within the same model: a module, or a list or dict that lies in one."""
        for home in self._parents.get(holder, ()):
            if home.holder in seen or not issubclass(home.holder.kind, (dict, list)):
                continue
            if is_module_type(home.holder.kind) or self._above(home.holder, seen | {home.holder}) is not None:
                return home
            if not is_module_type(holder.kind):  # a dict in a dict
                return home
        return None

    def name(self, holder: Holder, depth: int = 0) -> str | None:
        """How the program calls a container: by the outermost variable that holds it and nothing else, or by its place
        in another one."""
        self._catch_up()
        found = self._variables.get(holder, [])
        alone = [(scope, name) for scope, name in found if len(self._bound[scope, name]) == 1]
        if alone:
            return min(alone, key=lambda one: one[0].depth)[1]
        if depth < _DEEP:
            for home in self._parents.get(holder, ()):
                above = self.name(home.holder, depth + 1)
                if above is not None:
                    return f"{above}.{str(home.key).removeprefix('_')}"
        return self._global(holder) or (min(found, key=lambda one: one[0].depth)[1] if found else None)

    def name_of(self, thing: Any) -> str | None:
        """How the program calls an object of its own; None if it is in no variable that is known."""
        self._catch_up()
        return next((self.name(holder) for holder in self._variables if holder.refer() is thing), None)

    def _global(self, holder: Holder) -> str | None:
        """The global variable of the program's that holds a container, where no code that was recorded sets it."""
        thing = holder.refer()
        if thing is None:
            return None
        for scope in {id(scope.variables): scope for scope, _ in self._bound}.values():
            if not sources.is_library(scope.code.co_filename):
                for name, held in list(scope.variables.items()):
                    if held is thing:
                        return name
        return None

    def qualified(self, value: Value) -> str | None:
        """A value by the program's variable: `critic.layers.0.weight`; None if no container holds it."""
        home = self.of(value)
        if home is None:
            return None
        name = self.name(home.holder)
        return None if name is None else f"{name}.{home.key}"

    def called(self, path: str) -> list[tuple[int, Value]]:
        """Every value that lay at a path from one of the program's variables (`critic.layers.0.weight`), with the
        position from which it did."""
        self._catch_up()
        key = path.rpartition(".")[2]
        for home in self._in:
            if str(home.key) == key:
                name = self.name(home.holder)
                if name is not None and f"{name}.{home.key}" == path:
                    return self._in[home]
        return []


_DEEP = 12
