"""Bound: what the program's variables and containers held, as rows of a saved tape, and read from them again.

Rows that timelines share stand in the file once: `noted` (what a variable held from where on), `things` that hold
others (`holders`), what those held (`contents`), and the global variables that the functions see (`globals`).
"""

from __future__ import annotations

import importlib
import json
import math
import re
import weakref
from collections import deque
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any, Protocol

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.programs.savefile import harmless
from nnrepl.programs.standins import SavedFunction, Shown, as_number, as_text, as_word, class_name, demand
from nnrepl.record.names import ProgramNames
from nnrepl.record.stack import is_module, is_module_type
from nnrepl.tape import UNBOUND, Activation, Holder, Large, Leaf, Tape, Value
from nnrepl.tape.kept_array import BYTES, KeptArray
from nnrepl.tape.kept_function import KeptFunction

_LONGEST = 10_000  # characters of a text of the program's that are kept; of a longer one its beginning is
_MOST = 2**40
_BASES: dict[str, type] = {
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "deque": deque,
    "set": set,
    "frozenset": frozenset,
    "object": object,
}


class Numbers(Protocol):
    """Who gives numbers to what has rows of its own (`nnrepl.programs.saving.Tables`)."""

    def value(self, value: Value) -> int: ...
    def is_known(self, value: Value) -> bool: ...
    def scope(self, scope: Activation) -> int: ...
    def owner(self, module: Any) -> int: ...
    def argument(self, arg: Any) -> Any: ...


class BoundRows:
    """Writes what variables held.

    Args:
        tables: Gives numbers to values, calls and modules.
    """

    def __init__(self, tables: Numbers) -> None:
        self._tables = tables
        self._noted: dict[str, int] = {}
        self._holders: dict[Holder, int] = {}
        self._contents: dict[int, tuple[int, Any]] = {}
        self._global: dict[int, tuple[int, dict[str, Any], dict[str, None]]] = {}
        self._names: ProgramNames

    def tape(self, tape: Tape, names: ProgramNames) -> dict[str, Any]:
        """Return what one tape says: numbers of rows. To be asked when the ops of all tapes have been entered."""
        self._names = names
        bindings, scope = tape.bindings, self._tables.scope
        log = [
            self._row([position, scope(call), harmless(name), self.thing(thing)])
            for position, call, name, thing in bindings.log
        ]
        contents = [
            [self._holder(holder), [[position, self._content(held), count] for position, held, count in versions]]
            for holder, versions in bindings.versions().items()
        ]
        holds = [
            [position, self._holder(holder), self._content(held), count]
            for position, holder, held, count in bindings.holds
        ]
        seen = [[scope(call), position] for call, position in bindings.seen.items()]
        return {"log": log, "contents": contents, "holds": holds, "seen": seen}

    def globals_of(self, scope: Activation) -> int:
        """Return the number of the global variables that a call sees."""
        variables = scope.variables
        known = self._global.setdefault(id(variables), (len(self._global), variables, {}))
        if not is_library(scope.code.co_filename):
            known[2].update(dict.fromkeys(scope.code.co_names))
        return known[0]

    def document(self, names: ProgramNames) -> dict[str, Any]:
        """Return the tables. To be asked when all tapes have said what they say."""
        self._names = names
        variables = [self._globals(held, wanted) for _, held, wanted in self._global.values()]
        contents = [self._held(held) for _, held in self._contents.values()]
        return {
            "globals": variables,
            "noted": [json.loads(text) for text in self._noted],
            "contents": contents,
            "holders": [self._holder_row(holder) for holder in self._holders],
        }

    def _row(self, row: list[Any]) -> int:
        return self._noted.setdefault(json.dumps(row), len(self._noted))

    def _globals(self, variables: dict[str, Any], wanted: dict[str, None]) -> list[list[Any]]:
        """Those that a function of the program's names, and the name of the module."""
        held = [(name, variables[name]) for name in ("__name__", *wanted) if name in variables]
        return [[harmless(name), self._global_thing(thing)] for name, thing in held]

    def _global_thing(self, thing: Any) -> Any:
        if isinstance(thing, mx.array):
            leaf = self._names.leaf_of(thing)
            return self.thing(UNBOUND) if leaf is None else self.thing(leaf)
        if isinstance(thing, (type, FunctionType, ModuleType)):
            return self.thing(weakref.ref(thing))
        holder = self._names.homes.holder_of(thing)
        if holder is None and is_module(thing):
            holder = Holder(type(thing), weakref.ref(thing))
        return self.thing(thing if holder is None else holder)

    # -- things ----------------------------------------------------------------------------------------------

    def thing(self, thing: Any) -> Any:
        """Return what a variable or a container holds: plain things as they are, others as one table that says what."""
        if isinstance(thing, Value):
            if isinstance(thing, Leaf) and thing.is_gone:
                return {"gone": 0}
            return {"v": self._tables.value(thing)} if self._tables.is_known(thing) else _shown(thing)
        if isinstance(thing, Holder):
            return {"h": self._holder(thing)}
        if isinstance(thing, Large):
            return {"large": [class_name(thing.kind), thing.size]}
        if isinstance(thing, KeptArray):
            return {"array": [thing.dtype, list(thing.shape), thing.data.hex()]}
        if thing is UNBOUND:
            return {"u": 0}
        if isinstance(thing, weakref.ref):
            found = thing.looks if isinstance(thing, KeptFunction) else thing()
            leaf = self._names.leaf_of(found) if isinstance(found, mx.array) else None
            if found is None:
                return {"gone": 0}
            return _shown(found) if leaf is None else {"w": self._tables.value(leaf)}
        if isinstance(thing, str) and len(thing) > _LONGEST:
            return _shown(thing)
        if thing is None or type(thing) in (bool, int, float, str, complex, slice):
            return self._tables.argument(thing)
        if type(thing) is range:
            return {"r": [thing.start, thing.stop, thing.step]}
        return _shown(thing)

    def _key(self, key: Any) -> Any:
        if type(key) is tuple:
            return {"t": [self._key(part) for part in key]}
        return self._tables.argument(key) if key is None or type(key) in (bool, int, float, str) else _shown(key)

    def _holder(self, holder: Holder) -> int:
        return self._holders.setdefault(holder, len(self._holders))

    def _holder_row(self, holder: Holder) -> list[Any]:
        kind, thing = holder.kind, holder.refer()
        base = next(base for base, known in _BASES.items() if issubclass(kind, known))
        owner = self._tables.owner(thing) if is_module(thing) else -1
        where = harmless(str(kind.__module__))
        return ["module" if is_module_type(kind) else base, class_name(kind), owner, where]

    def _content(self, held: Any) -> int:
        """Return the number of what a container held; lists that grow are one."""
        return self._contents.setdefault(id(held), (len(self._contents), held))[0]

    def _held(self, held: Any) -> Any:
        if isinstance(held, dict):
            return {"d": [[self._key(key), self.thing(item)] for key, item in held.items()]}
        if isinstance(held, list):
            return {"l": [self.thing(item) for item in held]}
        return self.thing(held)


def _shown(thing: Any) -> dict[str, Any]:
    """Return a thing of which only is kept how it looks. Nothing of the program's is called for that."""
    kind = class_name(type(thing))
    if isinstance(thing, (FunctionType, type, SavedFunction)):
        return {"f": [harmless(thing.__name__), harmless(repr(thing)[:200])]}
    text = repr(thing) if isinstance(thing, (str, bytes, ModuleType, mx.Dtype, Shown)) else f"<{kind}>"
    return {"x": [kind, harmless(text[:200], True)]}


class Bound:
    """Reads what variables held.

    Attributes:
        places: Stand-ins for array objects that no op had taken yet when a variable held them: the array, by its id,
            with the leaf that it came in as.

    Args:
        owners: Stand-ins for the modules of the program.
        value: Gives the value with a number.
        argument: Reads a plain argument.
    """

    def __init__(
        self, document: dict[str, Any], owners: list[Any], value: Callable[[Any], Value], argument: Callable[[Any], Any]
    ) -> None:
        self._document = document
        self._owners = owners
        self._value = value
        self._argument = argument
        self.places: dict[int, tuple[mx.array, Value]] = {}
        self._references: dict[Value, weakref.ref[mx.array]] = {}
        self._holders = [self._holder(row) for row in document.get("holders", [])]  # (none in tapes of 0.1.0)
        self._contents = [self._content(row) for row in document.get("contents", [])]
        self._noted: list[tuple[int, Activation, str, Any]] = []

    def fill(self, variables: list[dict[str, Any]], scopes: list[Activation]) -> None:
        """Give the functions their global variables, and read what the variables of calls held."""
        for held, row in zip(variables, self._document.get("globals", [])):
            things = {as_text(name): self._thing(thing) for name, thing in row}
            held.update({name: thing for name, thing in things.items() if thing is not UNBOUND})
        for position, scope, name, thing in self._document.get("noted", []):
            call = scopes[as_number(scope, len(scopes))]
            self._noted.append((as_number(position, _MOST), call, as_text(name), self._thing(thing)))

    def tape(self, tape: Tape, row: dict[str, Any], scopes: list[Activation]) -> None:
        """Note on a tape what its variables held."""
        bindings, end = tape.bindings, len(tape) + 1
        for number in row["log"]:
            entry = self._noted[as_number(number, len(self._noted))]
            demand(entry[0] < end)
            bindings.note(*entry)
        versions: dict[Holder, list[tuple[int, Any, int]]] = {}
        for number, rows in row["contents"]:
            holder = self._holders[as_number(number, len(self._holders))]
            versions[holder] = [(as_number(at, end), *self._part(content, count)) for at, content, count in rows]
        holds: list[tuple[int, Holder, Any, int]] = []
        for at, number, content, count in row["holds"]:
            holder = self._holders[as_number(number, len(self._holders))]
            held, size = self._part(content, count)
            demand(isinstance(held, (dict, list)))
            holds.append((as_number(at, end), holder, held, size))
        bindings.recall(versions, holds)
        for scope, position in row["seen"]:
            bindings.seen[scopes[as_number(scope, len(scopes))]] = as_number(position, end)

    def furnish(self, tape: Tape) -> None:
        """Put into the stand-ins of modules and optimizers what they held at the end of a tape."""
        for owner, row in zip(self._owners, self._document.get("owned", [])):
            for name, said in row["plain"]:
                demand(as_text(name).isidentifier() and not hasattr(type(owner), name))
                owner.__dict__[name] = self._argument(said)
        for holder, versions in tape.bindings.versions().items():
            owner = holder.refer()
            if is_module(owner) and isinstance(versions[-1][1], dict):
                held = {key: self._object(tape, thing, 0) for key, thing in versions[-1][1].items()}
                dict.update(owner, {key: thing for key, thing in held.items() if thing is not UNBOUND})

    def _object(self, tape: Tape, thing: Any, depth: int) -> Any:
        """Return what a kept thing was, for a stand-in; UNBOUND where the file does not have it."""
        demand(depth < 40)
        if isinstance(thing, Value):
            return UNBOUND if thing.held is None else thing.held
        if isinstance(thing, weakref.ref):
            known = self.places.get(id(thing()))
            return UNBOUND if known is None else known[0]
        if not isinstance(thing, Holder):
            return thing
        if is_module(thing.refer()):
            return thing.refer()
        entries = tape.bindings.contents(thing, len(tape))
        if isinstance(entries, dict) and thing.kind is dict:
            return {key: self._object(tape, item, depth + 1) for key, item in entries.items()}
        if isinstance(entries, list):
            items = [self._object(tape, item, depth + 1) for item in entries]
            return tuple(items) if issubclass(thing.kind, tuple) else items
        return UNBOUND

    def _part(self, content: Any, count: Any) -> tuple[Any, int]:
        held = self._contents[as_number(content, len(self._contents))]
        return held, as_number(count, len(held) + 1 if isinstance(held, (dict, list)) else 1)

    def _holder(self, row: list[Any]) -> Holder:
        base, name, owner, where = row
        name = as_word(name)
        number = as_number(owner, len(self._owners), -1)
        if number >= 0:
            thing = self._owners[number]
            return Holder(type(thing), lambda: thing)
        if base == "module":
            module = importlib.import_module("mlx.nn").Module
            return Holder(type(name, (module,), {"__module__": as_text(where)}), _gone)
        kind = _BASES[base]
        if base == "object" or name != base:
            return Holder(type(name, (kind,), {"__module__": as_text(where)}), _gone)
        stand_in = kind()
        return Holder(kind, _gone if kind is tuple else lambda: stand_in)

    def _content(self, row: Any) -> Any:
        ((kind, said),) = row.items()
        if kind == "d":
            return {self._key(key): self._thing(thing) for key, thing in said}
        return [self._thing(thing) for thing in said] if kind == "l" else self._thing(row)

    def _key(self, said: Any, depth: int = 0) -> Any:
        demand(depth < 40)
        if isinstance(said, dict) and "t" in said:
            return tuple([self._key(part, depth + 1) for part in said["t"]])
        return self._argument(said)

    def _thing(self, said: Any) -> Any:
        if not isinstance(said, dict):
            return self._argument(said)
        ((kind, content),) = said.items()
        if kind == "h":
            return self._holders[as_number(content, len(self._holders))]
        if kind == "u":
            return UNBOUND
        if kind == "gone":
            return weakref.ref(Shown(""))
        if kind == "f":
            name, text = content
            return SavedFunction(as_text(name), as_text(text))
        if kind == "large":
            name, size = content
            return Large(type(as_word(name), (), {}), as_number(size, _MOST))
        if kind == "array":
            return _array(*content)
        if kind == "r":
            start, stop, step = content
            return range(start, stop, step)
        if kind == "w":
            return self._reference(self._value(content))
        demand(kind in "vxcs")
        return self._argument(said)

    def _reference(self, leaf: Value) -> Any:
        """Stands for an array object that came in as a leaf later on."""
        if leaf.held is None:
            return leaf
        if leaf not in self._references:
            array = leaf.held.__copy__()  # leaves may share one
            self.places[id(array)] = array, leaf
            self._references[leaf] = weakref.ref(array)
        return self._references[leaf]


def _array(dtype: Any, shape: Any, data: Any) -> KeptArray:
    """Return what an array held; its parts must fit before NumPy is given them."""
    kind = re.fullmatch(r"[<>|]([biufc])([1-9]\d?)", as_text(dtype))
    demand(kind is not None and isinstance(shape, list) and len(shape) < 32)
    sizes = tuple([as_number(size, _MOST) for size in shape])
    held = bytes.fromhex(as_text(data))
    demand(kind is not None and len(held) == math.prod(sizes) * int(kind[2]) <= BYTES)
    return KeptArray(dtype, sizes, held)


def _gone() -> None:
    return None
