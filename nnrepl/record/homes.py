"""Homes: in which model, dict or list of the program's a tensor lies, and by which variable that is known.

Two models may have the same parameter paths; what tells them apart is the object that holds the tensor.
"""

from __future__ import annotations

import sys
import weakref
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from itertools import islice
from types import CodeType
from typing import Any, NamedTuple

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.record.stack import is_module_type
from nnrepl.tape import Activation, Holder, Tape, Value


class Home(NamedTuple):
    """A place in a container of the program's: `weight` in this very `nn.Linear`."""

    holder: Holder
    key: Any


class Homes:
    """The homes of the values of one tape.

    Args:
        leaf_of: Gives the leaf that an array object came in as, after an op has taken it.
    """

    def __init__(self, tape: Tape, leaf_of: Callable[[Any], Value | None]) -> None:
        self._tape = tape
        self._leaf_of = leaf_of
        self._waiting: list[tuple[int, Home, Any]] = []
        self._waited = -1
        self._seen = 0
        self._seen_variables = 0
        self._last: dict[Holder, dict[Any, Any]] = {}
        self._of: dict[Value, list[tuple[int, Home]]] = {}
        self._in: dict[Home, list[tuple[int, Value]]] = {}
        self._parents: dict[Holder, dict[Home, None]] = {}
        self._variables: dict[Holder, list[tuple[Activation, str]]] = {}
        self._seen_as: dict[Holder, set[tuple[CodeType, str]]] = {}
        self._bound: dict[tuple[CodeType, str], set[Holder]] = {}
        self._scopes: dict[int, Activation] = {}
        self._places = 0
        self._names: dict[tuple[Holder, bool], tuple[int, str] | None] = {}
        self._names_of = -1
        self._moves: list[int] = []
        self._modules: dict[int, tuple[Any, dict[int, str]]] = {}
        self._roots: dict[tuple[Home, int], tuple[Holder, str]] = {}
        self._roots_of = -1
        self._asked: dict[Value, Home] = {}
        self._by_object: dict[int, Holder] = {}
        self._holders_seen = 0
        self._paths: tuple[int, dict[str, list[tuple[Holder, Home]]]] = (-1, {})

    def _catch_up(self) -> None:
        bindings = self._tape.bindings
        for position, holder, entries, count in bindings.holds[self._seen :]:
            if issubclass(holder.kind, (set, frozenset)):
                continue  # what it holds has no place in it
            last = self._last.get(holder, {})
            items = self._last[holder] = dict(entries if isinstance(entries, dict) else enumerate(entries[:count]))
            if any(items.get(key) is not thing and self._has_module(thing) for key, thing in last.items()):
                self._moves.append(position)
                self._places += 1
            for key, thing in items.items():
                # A hold has all that the container holds: what has been there before lies where it lay.
                if last.get(key) is thing:
                    continue
                if isinstance(thing, Value):
                    self._enter(position, Home(holder, key), thing)
                elif isinstance(thing, weakref.ref):
                    self._waiting.append((position, Home(holder, key), thing))
                elif isinstance(thing, Holder):
                    above = self._parents.setdefault(thing, {})
                    home = Home(holder, key)
                    self._places += home not in above
                    above[home] = None
        self._seen = len(bindings.holds)
        if self._waiting and self._waited != len(self._tape):
            self._waited = len(self._tape)
            self._wait()
        for _, scope, name, thing in bindings.held_containers[self._seen_variables :]:
            if isinstance(thing, Holder):
                bound = self._bound.setdefault((scope.code, name), set())
                self._places += thing not in bound
                bound.add(thing)
                self._scopes[id(scope.variables)] = scope
                if name != "self" and not is_library(scope.code.co_filename):
                    known = self._variables.setdefault(thing, [])
                    if (scope.code, name) not in self._seen_as.setdefault(thing, set()):
                        self._seen_as[thing].add((scope.code, name))
                        known.append((scope, name))
        self._seen_variables = len(bindings.held_containers)

    def _enter(self, position: int, home: Home, value: Value) -> None:
        self._of.setdefault(value, []).append((position, home))
        self._places += home not in self._in
        # Not in order: an array that has waited for its first op is entered after what has taken its place.
        insort(self._in.setdefault(home, []), (position, value), key=_position)

    def _wait(self) -> None:
        """Arrays that no op had taken when they were seen in a container may have come in as leaves by now."""
        waiting, self._waiting = self._waiting, []
        for position, home, reference in waiting:
            array = reference()
            leaf = self._leaf_of(array) if isinstance(array, mx.array) else None
            if leaf is not None:
                self._enter(position, home, leaf)
            # No op has taken it: the next one may.
            elif isinstance(array, mx.array):
                self._waiting.append((position, home, reference))

    @property
    def state(self) -> tuple[int, int, int]:
        """What all that is known here was read from: as long as it is the same, so are the answers."""
        bindings = self._tape.bindings
        return len(bindings.holds), len(bindings.held_containers), len(self._tape)

    def of(self, value: Value) -> Home | None:
        """Where a value lies: the first place in a module, else in another container; None if it is in none. Where it
        still lies comes before where another has taken its place: a copy of a model has the model's first weights."""
        found = self.all_of(value)
        if self._asked.get(value) in found:
            return self._asked[value]
        if len(found) > 1 and is_module_type(found[0].holder.kind):
            found = [home for home in found if self._in[home][-1][1] is value] or found
        return found[0] if found else None

    def ask(self, value: Value, holder: Any, key: Any) -> None:
        """Note that the user means a value by this place: where it lies in several models, that is the one that is
        spoken of."""
        if isinstance(holder, Holder) and is_module_type(holder.kind):
            self._asked[value] = Home(holder, key)

    def all_of(self, value: Value) -> list[Home]:
        """Every place where a value lies or lay: those in modules first, then those in other containers."""
        self._catch_up()
        lying = self._of.get(value)
        if lying is None:
            return []
        found = [home for _, home in lying if issubclass(home.holder.kind, (dict, list))]
        modules = [home for home in found if is_module_type(home.holder.kind)]
        others = [home for home in found if home not in modules and self.name(home.holder) is not None]
        return list(dict.fromkeys([*modules, *others]))

    def objects(self, value: Value) -> list[Any]:
        """Return the array objects that lie in modules where a value does: a copied model has objects of its own."""
        homes = [home for home in self.all_of(value) if self._in[home][-1][1] is value]
        modules = [(home.holder.refer(), home.key) for home in homes if is_module_type(home.holder.kind)]
        return [dict.get(module, key) for module, key in modules if module is not None]

    def at(self, value: Value, position: int, owners: Sequence[Any]) -> Home | None:
        """Where a value lay when the cursor stood at `position`: of several places that of the innermost owner."""
        found = self.all_of(value)
        if len(found) < 2:
            return found[0] if found else None
        for owner in owners:
            for home in found:
                if home.holder.refer() is owner:
                    return home
        for home in found:
            before = bisect_right(self._in[home], position, key=_position)
            if before and self._in[home][before - 1][1] is value:
                return home
        return found[0]

    def held(self, home: Home) -> list[tuple[int, Value]]:
        """Every value that lay there, with the position from which it did."""
        self._catch_up()
        return self._in.get(home, [])

    def at_path(self, path: str) -> list[Home]:
        """Return the places that have this path, or had it, in models. A model that was met again, after an edit had
        made the function run once more, is one model: the places where it was met last."""
        return [home for _, home in self._lying_at(path)]

    def is_of_several(self, path: str) -> bool:
        """Whether several models have this path."""
        return len({root for root, _ in self._lying_at(path)}) > 1

    def _lying_at(self, path: str) -> list[tuple[Holder, Home]]:
        """Return the places that have this path at any time, each with the model that it lies in."""
        self._catch_up()
        if self._paths[0] != self._places:
            found: dict[str, dict[tuple[Holder, Home], None]] = {}
            for at in [*self._moves, sys.maxsize]:
                for home in self._in:
                    root, where = self.path(home, at - 1)
                    if is_module_type(root.kind):
                        found.setdefault(where, {})[root, home] = None
            self._paths = (self._places, {where: _of_one_object(list(lying)) for where, lying in found.items()})
        return self._paths[1].get(path, [])

    def model_of(self, homes: Sequence[Home]) -> Holder | None:
        """Return the model in which some places lie, if it is one whose layers have been moved: what its paths mean is
        known only by walking along them."""
        models = {self.path(home)[0] for home in homes} if self._moves else ()
        return next(iter(models)) if len(models) == 1 else None

    def _has_path(self, home: Home, path: str, position: int) -> bool:
        return self.path(home, position)[1] == path and self._is_in_place(home.holder, position)

    def lain_at(self, path: str, homes: Sequence[Home]) -> list[tuple[int, Value]]:
        """Every value that lay at a path of one model, with the position from which it did: in one place after
        another, where the model has got other layers."""
        if not self._moves:
            return self._in[homes[0]]
        found: list[tuple[int, Value]] = []
        for at in sorted({*self._moves, *(at for home in homes for at, _ in self._in[home])}):
            for home in homes:
                lain = bisect_right(self._in[home], at, key=_position)
                if lain and self._has_path(home, path, at):
                    value = self._in[home][lain - 1][1]
                    if not found or found[-1][1] is not value:
                        found.append((at, value))
        return found

    def paths(self) -> list[str]:
        """Return the paths of all places in models, with and without the variable that holds the model."""
        self._catch_up()
        found: dict[str, None] = {}
        for home in self._in:
            root, path = self.path(home)
            if is_module_type(root.kind):
                found[path] = None
                name = self.name(root)
                if name is not None:
                    found[f"{name}.{path}"] = None
        return list(found)

    def path(self, home: Home, position: int = sys.maxsize) -> tuple[Holder, str]:
        """Return the outermost model (or dict) in which a place lies when the cursor stands at `position`, and its path
        in that."""
        self._catch_up()
        if self._roots_of != self._places:
            self._roots, self._roots_of = {}, self._places
        before = bisect_right(self._moves, position)  # until it is moved the next time, a layer is called the same
        if (home, before) not in self._roots:
            until = self._moves[before] - 1 if before < len(self._moves) else sys.maxsize
            holder, path = home.holder, str(home.key)
            seen = {holder}
            while (above := self._above(holder, seen, until)) is not None:
                holder, path = above.holder, f"{above.key}.{path}"
                seen.add(holder)
            self._roots[home, before] = holder, path
        return self._roots[home, before]

    def module_path(self, root: Any, module: Any, position: int) -> str | None:
        """Return the path of a module in an outer one when the cursor stands at `position`: as it is now, unless
        modules have been moved on the way. None if it does not lie in that."""
        self._catch_up()
        moved = self._moved(root, module, position) if self._moves else None
        if moved is not None:
            return moved
        known = self._modules.get(id(root))
        if known is None or known[0] is not root or id(module) not in known[1]:
            known = self._modules[id(root)] = (root, {id(part): path for path, part in root.named_modules()})
        return known[1].get(id(module))

    def root_of(self, module: Any) -> Any:
        """Return the outermost module known that holds one; a module under construction has none yet."""
        for root, paths in self._modules.values():
            if id(module) in paths and root is not module:
                return root
        return module

    def _moved(self, root: Any, module: Any, position: int) -> str | None:
        holder, outermost = self.holder_of(module), self.holder_of(root)
        if holder is None or outermost is None:
            return None
        words: list[str] = []
        seen = {holder}
        while holder is not outermost:
            above = self._above(holder, seen, position)
            if above is None:
                return None
            holder = above.holder
            words.append(str(above.key))
            seen.add(holder)
        return ".".join(reversed(words))

    def moment(self, value: Value, home: Home) -> int:
        """Until where on the tape a value lay in a place."""
        entered = next((at for at, place in self._of.get(value, ()) if place == home), None)
        lain = [] if entered is None else self._in[home]
        after = bisect_right(lain, entered, key=_position) if entered is not None else 0
        return lain[after][0] - 1 if after < len(lain) else sys.maxsize

    @property
    def moved(self) -> bool:
        """Whether a model has got other layers on the way."""
        return bool(self._moves)

    def _around(self, holder: Holder, position: int = sys.maxsize) -> list[Home]:
        """Return where a container lies in others when the cursor stands at `position`: first in those that lie
        somewhere themselves. Where it lies in none, where it lies or lay at another time."""
        above = list(self._parents.get(holder, ()))
        if not self._moves or not above:
            return above
        there = [home for home in above if self._lies(home, holder, position)]
        if not there:
            later = (at for at in [*self._moves, sys.maxsize] if at > position)
            there = next(filter(None, ([one for one in above if self._lies(one, holder, at)] for at in later)), above)
        return sorted(there, key=lambda home: not self._is_in_place(home.holder, position))

    def _lies(self, home: Home, holder: Holder, position: int) -> bool:
        return self._tape.bindings.entry(home.holder, home.key, position) is holder

    def _is_in_place(self, holder: Holder, position: int, seen: frozenset[Holder] = frozenset()) -> bool:
        """Whether a container lies where it has lain, or has never lain in another: no model has lost it."""
        above = [home for home in self._parents.get(holder, ()) if home.holder not in seen]
        return not above or any(
            self._lies(home, holder, position) and self._is_in_place(home.holder, position, seen | {holder})
            for home in above
        )

    def _has_module(self, thing: Any, deep: int = 4) -> bool:
        """Whether something is a module, or a container of some."""
        if not isinstance(thing, Holder):
            return False
        if is_module_type(thing.kind):
            return True
        return deep > 0 and any(self._has_module(one, deep - 1) for one in self._last.get(thing, {}).values())

    def _above(self, holder: Holder, seen: set[Holder], position: int) -> Home | None:
        """Return what holds a container within the same model: a module, or a list or dict that lies in one. A dict in
        no model may lie in another dict; a model that the program keeps in a list of its own is outermost itself."""
        above = [home for home in self._around(holder, position)
                 if home.holder not in seen and issubclass(home.holder.kind, (dict, list))]  # fmt: skip
        within = next((home for home in above if self._is_in_module(home.holder, seen)), None)
        if within is not None or is_module_type(holder.kind):
            return within
        return next(iter(above), None)

    def _is_in_module(self, holder: Holder, seen: set[Holder]) -> bool:
        """Whether a container is a module, or lies in one."""
        if is_module_type(holder.kind):
            return True
        seen = seen | {holder}
        return any(
            self._is_in_module(home.holder, seen)
            for home in self._parents.get(holder, ())
            if home.holder not in seen and issubclass(home.holder.kind, (dict, list))
        )

    def name(self, holder: Holder, position: int = sys.maxsize) -> str | None:
        """How the program calls a container when the cursor stands at `position`: by the outermost variable that holds
        it then, or by its place in another container that has such a name; at the end, by one that has held nothing
        else."""
        self._catch_up()
        found = None if position == sys.maxsize else self._named_then(holder, position)
        found = found or self._named(holder, True)
        if found is not None:
            return found[1]
        state = any(above.key == "_state" for above in self._parents.get(holder, ()))
        if is_module_type(holder.kind) or state:  # by its model or optimizer, which one variable has held in turn
            shared = self._named(holder, False)
        else:
            held = [(scope.depth, name) for scope, name in self._variables.get(holder, ())]
            shared = min(held, key=lambda one: one[0], default=None)
        return self._global(holder) or (None if shared is None else shared[1])

    def _named_then(self, holder: Holder, position: int, deep: int = 8) -> tuple[int, str] | None:
        """Return the same as `_named`, of the variables that hold it when the cursor stands at `position`."""
        held = self._tape.bindings.held
        found = [(scope.depth, name) for scope, name in self._variables.get(holder, ())
                 if held(scope, name, position) is holder]  # fmt: skip
        for home in self._around(holder, position) if deep else ():
            above = self._named_then(home.holder, position, deep - 1)
            if above is not None and self._lies(home, holder, position):
                found.append((above[0], f"{above[1]}.{str(home.key).removeprefix('_')}"))
        return min(found, key=lambda one: (one[0], one[1].count(".")), default=None)

    def _named(self, holder: Holder, alone: bool) -> tuple[int, str] | None:
        """Return the depth of the call whose variable a container is known by, and the name.

        Args:
            alone: Whether the variable must hold nothing else as long as the program runs.
        """
        if self._names_of != self._places:
            self._names, self._names_of = {}, self._places
        key = holder, alone
        if key not in self._names:
            self._names[key] = None  # it may hold itself
            held = self._variables.get(holder, [])
            found = [(scope.depth, name) for scope, name in held
                     if not alone or len(self._bound[scope.code, name]) == 1]  # fmt: skip
            for home in self._around(holder):
                above = self._named(home.holder, alone)
                if above is not None:
                    found.append((above[0], f"{above[1]}.{str(home.key).removeprefix('_')}"))
            if found:
                self._names[key] = min(found, key=lambda one: (one[0], one[1].count(".")))
        return self._names[key]

    def now(self, value: Value) -> mx.array | None:
        """Return what lies now where a value lay: in the same model, under the same name; None if that is no tensor."""
        home = self.of(value)
        holder = None if home is None else home.holder.refer()
        if home is None or holder is None:
            return None
        try:
            thing = holder[home.key]
        except (KeyError, IndexError, TypeError):
            return None
        return thing if type(thing) is mx.array else None

    def name_of(self, thing: Any) -> str | None:
        """How the program calls an object of its own; None if it is in no variable that is known."""
        self._catch_up()
        return next((self.name(holder) for holder in self._variables if holder.refer() is thing), None)

    def holder_of(self, thing: Any) -> Holder | None:
        """Return what is known of a container of the program's; None if it was never looked at."""
        known = self._tape.bindings.versions()
        for holder in islice(known, self._holders_seen, None) if len(known) != self._holders_seen else ():
            there = holder.refer()
            if there is not None:
                self._by_object[id(there)] = holder
        self._holders_seen = len(known)
        found = self._by_object.get(id(thing))
        return found if found is not None and found.refer() is thing else None

    def place_of(self, array: mx.array) -> Home | None:
        """Return in which container of the program's that is known an array object lies now; None if in none."""
        for holder in self._tape.bindings.versions():
            there = holder.refer()
            entries = there.items() if isinstance(there, dict) else enumerate(there) if isinstance(there, list) else ()
            for key, thing in entries:
                if thing is array:
                    return Home(holder, key)
        return None

    def _global(self, holder: Holder) -> str | None:
        """Return the global variable of the program's that holds a container, where no code that was recorded sets
        it."""
        thing = holder.refer()
        if thing is None:
            return None
        for scope in self._scopes.values():
            if not is_library(scope.code.co_filename):
                for name, held in list(scope.variables.items()):
                    if held is thing:
                        return name
        return None

    def qualified(self, value: Value, home: Home | None = None, position: int | None = None) -> str | None:
        """Return a value by the program's variable: `critic.layers.0.weight`; None if no container holds it.

        Args:
            home: Where it lies, if that is known.
            position: At which moment; None for the last one at which it lay there.
        """
        home = home or self.of(value)
        if home is None:
            return None
        return self.spelled(home, self.moment(value, home) if position is None else position)

    def spelled(self, home: Home, position: int = sys.maxsize) -> str | None:
        """Return a place from the program's variable. What lies in an optimizer's state and is a property of its own is
        written so: `opt.learning_rate`."""
        name = self.name(home.holder, position)
        if name is None:
            return None
        for above in self._parents.get(home.holder, ()):
            if above.key == "_state" and isinstance(getattr(above.holder.kind, str(home.key), None), property):
                name = name.removesuffix(".state")
        return f"{name}.{home.key}"

    def called(self, path: str) -> list[tuple[int, Value]]:
        """Every value that lay at a path from one of the program's variables (`critic.layers.0.weight`), with the
        position from which it did; of several models that the variable has held in turn, those of all."""
        self._catch_up()
        key = path.rpartition(".")[2]
        lain = [self._in[home] for home in self._in if str(home.key) == key and self.spelled(home) == path]
        return lain[0] if len(lain) == 1 else sorted((one for held in lain for one in held), key=_position)


def _position(entry: tuple[int, Value]) -> int:
    return entry[0]


def _of_one_object(places: list[tuple[Holder, Home]]) -> list[tuple[Holder, Home]]:
    """Places without those of an object that stands after them once more."""
    last: dict[object, tuple[Holder, Home]] = {}
    for root, home in places:
        thing = home.holder.refer()
        key = home.holder if thing is None else id(thing)
        last.pop(key, None)
        last[key] = root, home
    return list(last.values())
