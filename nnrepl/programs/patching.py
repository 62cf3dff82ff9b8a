"""Patching: a living program follows from one version of a file to another, in place.

Functions get their new code, so that everything that holds one (a decorator, a closure, an instance, another module)
follows; classes stay the classes that they are. Nothing at the level of the module is run again but what only adds.
"""

from __future__ import annotations

import ast
import gc
import os
import sys
from collections.abc import Iterable, Iterator
from copy import copy
from functools import cached_property
from itertools import compress
from types import CodeType, FunctionType
from typing import Any

from nnrepl.installed import is_library
from nnrepl.programs.definitions import _HIDDEN, Definition, codes_of, definitions, pairs_of, walk
from nnrepl.record.compiled import Compiled
from nnrepl.record.segments import supersede
from nnrepl.tape.collector import wake

_MISSING = object()


class Version:
    """One version of a file.

    Args:
        filename: As its code objects name it.
        text: Its text.
        flags: With which it is compiled.

    Raises:
        SyntaxError, ValueError: If it is no Python.
    """

    def __init__(self, filename: str, text: str, flags: int = 0) -> None:
        self.filename = filename
        self.text = text
        self.definitions = definitions(text)
        self.codes = codes_of(text, filename, flags)

    @property
    def module(self) -> Definition:
        """What stands at the level of the module."""
        return self.definitions["", 0]

    @cached_property
    def every_code(self) -> list[CodeType]:
        """All its code objects."""
        return list(walk(self.codes["", 0]))


class Patch:
    """Brings a program from one version of a file to another, and back.

    Attributes:
        gone: The functions and classes that the new version no longer has.
        overrides: Those of them that stand in the way of a method of a base class.
        changed: The names of what does something else now, innermost: `__call__` of `Net.__call__`.
    """

    def __init__(self, old: Version, new: Version) -> None:
        self.old, self.new = old, new
        self._made: dict[tuple[int, str, str], Any] = {}
        self.gone = list(_gone(old, new))
        self.overrides = [one for one in self.gone if _is_override(one, new.filename)]
        self.changed = {one.variable for one in (*changed(old, new), *self.overrides)}

    def begin(self) -> None:
        """Note that the program begins anew: nothing that was made for another run of it is used again."""
        self._made.clear()

    def take(self) -> None:
        """To the new version."""
        self._install(self.old, self.new, False)

    def give_back(self) -> None:
        """To the old version."""
        self._install(self.new, self.old, True)

    def show(self, back: bool = False) -> None:
        """Note that what is shown as source from now on is that of the new version (or the old one): nothing lives that
        would have to follow."""
        a, b = (self.new, self.old) if back else (self.old, self.new)
        supersede(b.filename, a.text, b.text, a.every_code, b.every_code)

    def _install(self, before: Version, after: Version, back: bool) -> None:
        self.show(back)
        functions = functions_of(after.filename)
        spaces = list(namespaces(after.filename, functions))
        pairs = pairs_of(before.definitions, after.definitions)
        for space in spaces:
            _add_names(space, before, after)
        _exchange_codes(before, after, pairs, functions)
        known = {new for _, new in pairs}
        for definition in after.definitions.values():
            if definition not in known and not definition.is_lambda:
                self._add(definition, after, spaces)
        for old, new in pairs:
            if new.outer is None or new.in_function or new.is_class or new.is_lambda:
                continue
            if old.frame != new.frame or _free(before, old) != _free(after, new):
                self._make_anew(old, new, after, spaces)
            elif old.defaults != new.defaults:
                _renew_defaults(new, after, spaces, functions)
        known = {old for old, _ in pairs}
        left = {definition.name for definition in after.definitions.values()}  # another one of this name stays
        for definition in before.definitions.values():
            if definition not in known and not definition.is_lambda and definition.name not in left:
                self._remove(definition, spaces, back)
        forget_traces(self.changed)

    # -- what has to be made -------------------------------------------------------------------------------

    def _add(self, definition: Definition, version: Version, spaces: list[dict[str, Any]]) -> None:
        """Take in a function or class that was not there."""
        outer = definition.outer
        if outer is None or definition.in_function or (outer.outer is not None and not outer.is_class):
            return
        name = definition.variable
        for space in spaces:
            holder = space if outer.outer is None else class_in(space, outer.name)
            if holder is not None and name not in _variables(holder):
                made = self._object(definition, version, space, holder)
                self._made[id(holder), name, _content(definition)] = made
                _set(holder, name, made)

    def _make_anew(self, old: Definition, new: Definition, after: Version, spaces: list[dict[str, Any]]) -> None:
        """Exchange a function whose decorators, or whose variables from outside, are others: whatever names it
        follows."""
        name = new.variable
        for space in spaces:
            outer = new.outer
            holder = space if outer is None or outer.outer is None else class_in(space, outer.name)
            if holder is None or name not in _variables(holder):
                continue
            found = _variables(holder)[name]
            if self._made.get((id(holder), name, _content(new))) is found:
                continue
            self._made[id(holder), name, _content(old)] = found
            made = self._object(new, after, space, holder)
            self._made[id(holder), name, _content(new)] = made
            for named in [holder] if isinstance(holder, type) else [holder, *_other_spaces(holder)]:
                for key, value in list(_variables(named).items()):
                    if value is found:
                        _set(named, key, made)

    def _remove(self, definition: Definition, spaces: list[dict[str, Any]], back: bool) -> None:
        """Note that what is gone from the source stays, since something may use it: unless it stood in the way of a
        method of a base class, or a change is taken back."""
        outer = definition.outer
        if outer is None or definition.in_function:
            return
        name = definition.variable
        for space in spaces:
            holder = space if outer.outer is None else class_in(space, outer.name)
            if holder is None or name not in _variables(holder):
                continue
            if back or definition in self.overrides:
                self._made[id(holder), name, _content(definition)] = _variables(holder)[name]
                _delete(holder, name)

    def _object(self, definition: Definition, version: Version, space: dict[str, Any], holder: Any) -> Any:
        """Return what a definition makes: the object of before, if it was there once."""
        name = definition.variable
        kept = self._made.get((id(holder), name, _content(definition)), _MISSING)
        if kept is not _MISSING:
            return kept
        return _made_by(definition.node, definition, version, space)


def changed(old: Version, new: Version) -> list[Definition]:
    """Return the functions that do something else in the new version, new ones included; as the new version has
    them."""
    pairs = pairs_of(old.definitions, new.definitions)
    found = [b for a, b in pairs if b.outer is not None and not b.is_class and _content(a) != _content(b)]
    known = {b for _, b in pairs}
    return found + [one for one in new.definitions.values() if one not in known]


def _gone(old: Version, new: Version) -> Iterator[Definition]:
    known = {a for a, _ in pairs_of(old.definitions, new.definitions)}
    for one in old.definitions.values():
        if one not in known and not one.is_lambda and one.outer in known and not one.in_function:
            yield one


def _is_override(definition: Definition, filename: str) -> bool:
    outer = definition.outer
    if outer is None or not outer.is_class:
        return False
    classes = [cls for cls in (class_in(space, outer.name) for space in namespaces(filename)) if cls is not None]
    return any(definition.variable in vars(base) for cls in classes for base in cls.__mro__[1:])


def _content(definition: Definition) -> str:
    return "\0".join((definition.own, definition.defaults, definition.frame))


def _exchange_codes(
    before: Version, after: Version, pairs: list[tuple[Definition, Definition]], functions: list[FunctionType]
) -> None:
    """Every living function gets the code of the other version."""
    now: dict[CodeType, CodeType] = {}
    for old, new in pairs:
        if old.key in before.codes and new.key in after.codes:  # Python compiles nothing below `if False`
            now[before.codes[old.key]] = after.codes[new.key]
    for function in functions:
        was = function.__code__
        code = now.get(was)
        if code is not None and code.co_freevars == was.co_freevars:
            if function.__doc__ == _docstring(was):  # what `functools.wraps` has given to it stays
                function.__doc__ = _docstring(code)
            function.__code__ = code


def _free(version: Version, definition: Definition) -> tuple[str, ...]:
    code = version.codes.get(definition.key)
    return () if code is None else code.co_freevars


def _docstring(code: CodeType) -> str | None:
    first = code.co_consts[0] if code.co_consts and code.co_name != "<lambda>" else None
    return first if isinstance(first, str) else None


# -- what lives ------------------------------------------------------------------------------------------------


def living(*wanted: type) -> list[Any]:
    """Return every object of some types that Python's collector knows, those that it no longer walks included."""
    wake()
    kinds, pending = set(wanted), list(wanted)
    while pending:
        below: set[type] = set(type.__subclasses__(pending.pop())) - kinds
        kinds |= below
        pending.extend(below)
    heap = gc.get_objects()  # half a million objects, or some millions
    return list(compress(heap, map(kinds.__contains__, map(type, heap))))


def functions_of(filename: str) -> list[FunctionType]:
    """Return the living functions of a file."""
    return [thing for thing in living(FunctionType) if thing.__code__.co_filename == filename]


def namespaces(filename: str, functions: list[FunctionType] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the namespaces of the modules that a file has made: itself and, run as a program, `__main__`.

    Args:
        functions: The living functions of the file, if they are known.
    """
    modules = [module for module in list(sys.modules.values()) if getattr(module, "__dict__", None) is not None]
    left = {id(vars(module)): vars(module) for module in modules}
    own = [space for space in left.values() if _made_from(space.get("__file__"), filename)]
    living_ones = functions_of(filename) if functions is None else functions
    for space in (*own, *(function.__globals__ for function in living_ones)):
        if left.pop(id(space), None) is not None:
            yield space


def _made_from(file: Any, filename: str) -> bool:
    """Whether a module's file is the one that was compiled under a name; a notebook's cells have names of their own."""
    if not isinstance(file, str):
        return False
    return file == filename or ("#" in filename and os.path.realpath(file) == filename.rpartition("#")[0])


def _other_spaces(space: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the namespaces of the program's other modules, which may have imported a name."""
    for module in list(sys.modules.values()):
        other = getattr(module, "__dict__", None)
        if other is not None and other is not space and not is_library(str(other.get("__file__") or os.__file__)):
            yield other


def class_in(space: dict[str, Any], path: str) -> type | None:
    """Return the class of a module under its dotted path, where the class that it names was made there."""
    found: Any = space.get(path.partition(".")[0])
    for name in path.split(".")[1:]:
        found = getattr(found, name, None)
    found = getattr(found, "__wrapped__", found)
    mine = isinstance(found, type) and found.__module__ == space.get("__name__")
    return found if mine and _HIDDEN.sub("", found.__qualname__) == path else None


def _variables(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else vars(holder)


def _set(holder: Any, name: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[name] = value
    else:
        setattr(holder, name, value)


def _delete(holder: Any, name: str) -> None:
    if isinstance(holder, dict):
        del holder[name]
    else:
        delattr(holder, name)


# -- running pieces of source -----------------------------------------------------------------------------------


def _add_names(space: dict[str, Any], before: Version, after: Version) -> None:
    """Take in imports that were not there, and constants that have a new name."""
    known = {said for said, _ in before.module.imports}
    added = [statement for said, statement in after.module.imports if said not in known]
    for statement in (*added, *new_constants(before, after)):
        name = statement.targets[0].id if isinstance(statement, ast.Assign) else None  # type: ignore[attr-defined]
        if name not in space and getattr(statement, "module", None) != "__future__":
            exec(compile(ast.Module([statement], []), after.filename, "exec", dont_inherit=True), space)


def new_constants(before: Version, after: Version) -> list[ast.stmt]:
    """Return the statements that give a constant to a name that the file did not have: they add, and change nothing."""
    taken = {node.id for node in ast.walk(before.module.node) if isinstance(node, ast.Name)}
    found: list[ast.stmt] = []
    for _, statement in after.module.loose:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            continue
        target = statement.targets[0]
        if isinstance(target, ast.Name) and target.id not in taken and _is_constant(statement.value):
            found.append(statement)
    return found


def _is_constant(node: ast.expr) -> bool:
    kinds = (ast.Constant, ast.UnaryOp, ast.BinOp, ast.Tuple, ast.operator, ast.unaryop, ast.expr_context)
    return all(isinstance(part, kinds) for part in ast.walk(node))


def _made_by(node: Any, definition: Definition, version: Version, space: dict[str, Any]) -> Any:
    """Run one definition and return what it makes; a method within its class."""
    outer = definition.outer
    name = definition.variable
    scratch: dict[str, Any] = {}
    if outer is None or outer.outer is None:
        exec(compile(ast.Module([node], []), version.filename, "exec", dont_inherit=True), space, scratch)
        return scratch[name]
    real = class_in(space, outer.name)
    assert real is not None
    caught: dict[str, Any] = {}
    body: Any = copy(outer.node)
    body.body, body.bases, body.decorator_list = [node], [], []
    body.keywords = [ast.keyword("metaclass", ast.Name("__meta__", ast.Load()))]
    module = ast.fix_missing_locations(ast.Module([body], []))
    scratch["__meta__"] = _passing(real, caught)
    exec(compile(module, version.filename, "exec", dont_inherit=True), space, scratch)
    for function in _functions_in(caught[name]):
        _belong(function, real)
    return caught[name]


def _passing(real: type, caught: dict[str, Any]) -> type:
    """Return a metaclass for a class that is there for a moment: its body sees what the real class has, and is
    caught."""

    def prepare(name: str, bases: Any, **kwargs: Any) -> dict[str, Any]:
        return dict(vars(real))

    def make(cls: type, name: str, bases: Any, made: dict[str, Any]) -> type:
        caught.update(made)
        needed = {key: value for key, value in made.items() if key in ("__module__", "__qualname__", "__classcell__")}
        return type.__new__(cls, name, bases, needed)

    return type("Passing", (type,), {"__prepare__": staticmethod(prepare), "__new__": make})


def _belong(function: FunctionType, real: type) -> None:
    """`super()` in a method that was made apart means the real class."""
    for cell, name in zip(function.__closure__ or (), function.__code__.co_freevars):
        if name == "__class__":
            cell.cell_contents = real


def _functions_in(made: Any) -> Iterable[FunctionType]:
    """Return the functions in a method, property, static or class method."""
    parts = [made, getattr(made, "__func__", None), getattr(made, "__wrapped__", None)]
    parts += [getattr(made, name, None) for name in ("fget", "fset", "fdel")]
    return [part for part in parts if isinstance(part, FunctionType)]


def _renew_defaults(
    definition: Definition, version: Version, spaces: list[dict[str, Any]], functions: list[FunctionType]
) -> None:
    """Exchange the default values of a function that has others now."""
    code = version.codes[definition.key]
    node: Any = copy(definition.node)
    node.decorator_list = []
    for space in spaces:
        fresh = _made_by(node, definition, version, space)
        for function in functions:
            if function.__code__ == code and function.__globals__ is space:
                function.__defaults__, function.__kwdefaults__ = fresh.__defaults__, fresh.__kwdefaults__


# -- compiled functions ------------------------------------------------------------------------------------------


def forget_traces(names: set[str]) -> None:
    """Compiled functions that may call a function of one of these names are traced again.

    Who calls whom is told by name alone, so rather one too many than one too few.
    """
    bodies: dict[str, set[CodeType]] = {}
    compiled_ones: list[Compiled] = []
    for thing in living(FunctionType, Compiled):
        if isinstance(thing, Compiled):
            compiled_ones.append(thing)
        elif not is_library(thing.__code__.co_filename):
            bodies.setdefault(thing.__name__, set()).add(thing.__code__)
    clear: set[str] = set()
    # what is called without its name being written: methods such as __call__ and __add__
    anyhow = _reach([name for name in bodies if name.startswith("__")], names, bodies, clear)
    for compiled in compiled_ones:
        code = getattr(getattr(compiled.fun, "__func__", compiled.fun), "__code__", None)
        if anyhow or code is None or _reach([code.co_name], names, bodies, clear):
            compiled.forget()


def _reach(pending: list[str], names: set[str], bodies: dict[str, set[CodeType]], clear: set[str]) -> bool:
    """Whether functions of some names may call one of others. `clear` holds those from which none can be reached."""
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen or name in clear:
            continue
        if name in names:
            return True
        seen.add(name)
        for body in bodies.get(name, ()):
            for inner in walk(body):
                pending += [*inner.co_names, *inner.co_freevars, *(["<lambda>"] if inner is not body else [])]
    clear |= seen
    return False
