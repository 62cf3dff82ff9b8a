"""Completion: commands, names, places and attributes. Nothing is evaluated, and no property is called.

A long tape is indexed in slices while the user is idle (`TapeIndex.advance`), so that a key costs the same
whatever the tape holds.
"""

from __future__ import annotations

import inspect
import os
import re
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mlx.core as mx
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from nnrepl.commands.interpreter import Interpreter
from nnrepl.record.stack import is_module
from nnrepl.session.errors import NotYet, UserError
from nnrepl.session.places import FIXED
from nnrepl.session.program import Program
from nnrepl.session.session import TapeSession
from nnrepl.tape import Holder, Large, Value
from nnrepl.view.one_op import leaf_text
from nnrepl.view.tensor import dtype_text, shape_text

SLICE = 200
"""How many ops are indexed at a time: a few milliseconds."""
MOST = 100
"""So many completions are offered at most."""
_SEARCHED = 20_000
_WORD = re.compile(r"(?:∂L/∂)?[A-Za-z_][\w.]*$|[#%][\w.]*$")
_COMMAND = re.compile(r"\s*([\w-]+)(?:/\w*)?\s+(.*)$", re.DOTALL)


class TapeIndex:
    """The names, the operations and the modules on the tape, as far as they have been looked through.

    Args:
        session: Whose tape it is; it may grow, and be another one after an edit.
    """

    def __init__(self, session: TapeSession) -> None:
        self._session = session
        self._begin()

    def _begin(self) -> None:
        self._tape = self._session.tape
        self._seen = 0
        self._scopes: set[int] = set()
        self._sorted: list[str] = []
        self.operations: dict[str, int] = {}
        self.modules: dict[str, None] = {}
        self._read: tuple[Program | None, int] = (None, 0)
        self._defined: dict[str, str] = {}

    def advance(self) -> bool:
        """Look through some more ops; whether all have been."""
        if self._tape is not self._session.tape:
            self._begin()
        ops = self._tape.ops
        end = min(self._seen + SLICE, len(ops))
        for op in ops[self._seen : end]:
            self.operations[op.operation.name] = self.operations.get(op.operation.name, 0) + 1
            scope = op.scope
            if scope is not None and id(scope) not in self._scopes:
                self._scopes.add(id(scope))
                path = op.module.split(".") if op.module else []
                for length in range(1, len(path) + 1):
                    self.modules.setdefault(".".join(path[:length]))
        self._seen = end
        return self._session.names.catch_up(SLICE) and end >= len(ops)

    def defined(self) -> dict[str, str]:
        """Return the functions, methods and classes of the program's source, as places are written."""
        program = self._session.program
        known = (program, len(program.recorded()))
        if known != self._read:
            self._read, self._defined = known, {}
            for kind, names in (("function", program.functions()), ("class", program.classes())):
                self._defined.update({name.rpartition("<locals>.")[2]: kind for name in names})
        return self._defined

    def names(self) -> list[str]:
        """Every name found so far, sorted."""
        known = self._session.names.indexed
        if len(known) != len(self._sorted):
            self._sorted = sorted(known)
        return self._sorted

    def value(self, name: str) -> tuple[Value | None, bool]:
        """Return what a name means at the cursor, and whether that is not made yet (or not known here)."""
        session = self._session
        try:
            value = session.lookup.find(name, session.cursor, session.where().scope)
        except NotYet as answer:
            return answer.last, True
        except UserError:
            return None, True
        return value, value is None


def _explained() -> dict[str, str]:
    """Return what help knows beside the commands."""
    from nnrepl.learn.glossary import glossary
    from nnrepl.view.topics import TOPICS

    titles = {name: topic.title for name, topic in TOPICS.items()}
    return titles | {name: word.summary for name, word in glossary().items()}


def matches(word: str, candidates: list[str]) -> list[str]:
    """Return the candidates that begin with a word, then those that hold its letters in order, the tightest first.

    Args:
        candidates: Sorted.
    """
    start = bisect_left(candidates, word)
    prefixed: list[str] = []
    for candidate in candidates[start : start + MOST]:
        if not candidate.startswith(word):
            break
        prefixed.append(candidate)
    if not word or len(prefixed) >= MOST or len(candidates) > _SEARCHED:
        return prefixed
    known = set(prefixed)
    pattern = re.compile(".*?".join(map(re.escape, word)), re.IGNORECASE)
    loose = [
        (found.end() - found.start(), found.start(), candidate)
        for candidate in candidates
        if candidate not in known and (found := pattern.search(candidate))
    ]
    return prefixed + [candidate for _, _, candidate in sorted(loose)][: MOST - len(prefixed)]


class NameCompleter(Completer):
    """Offers what can stand where the cursor is.

    Args:
        interpreter: Whose commands and names are completed.
        index: What is known of its tape.
    """

    def __init__(self, interpreter: Interpreter, index: TapeIndex) -> None:
        self._interpreter = interpreter
        self._index = index

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Completions for what stands before the cursor."""
        self._index.advance()
        text = document.text_before_cursor
        found = _COMMAND.match(text)
        kind, words = "first", tuple[str, ...]()
        if found and found[1] in self._interpreter.table:
            grammar = self._interpreter.table[found[1]].grammar
            kind, words = grammar.completes, grammar.words
        elif text.strip() and (found or not re.fullmatch(r"\s*[\w-]+", text)):
            kind = "names"
        rest = found[2] if found else text
        if kind == "files":
            yield from _files(rest.removeprefix("-f "))
        elif words:
            yield from self._offer(rest.rpartition(" ")[2], dict.fromkeys(words, ""))
        elif kind == "commands":
            yield from self._offer(rest, self._commands())
        elif kind == "first":
            yield from self._first(text.lstrip())
        elif kind == "help":
            yield from self._offer(rest, self._commands() | _explained())
        elif kind in ("names", "places"):
            yield from self._names(text, kind)

    def _offer(self, word: str, candidates: dict[str, str]) -> Iterator[Completion]:
        for name in matches(word, sorted(candidates)):
            yield Completion(name, -len(word), display_meta=candidates[name] or None)

    def _first(self, word: str) -> Iterator[Completion]:
        """Yield the first word of a line: a command, or the beginning of Python."""
        yield from self._offer(word, self._commands())
        if word:
            yield from self._names(word, "names")

    def _commands(self) -> dict[str, str]:
        return {command.names[0]: command.summary for command in self._interpreter.table.commands}

    def _names(self, text: str, kind: str) -> Iterator[Completion]:
        found = _WORD.search(text)
        word = found[0] if found else ""
        sign, bare = ("∂L/∂", word[4:]) if word.startswith("∂L/∂") else ("", word)
        known = self._index.names()
        extra = dict.fromkeys(FIXED, "place") | self._places() if kind == "places" else self._variables()
        shown = matches(bare, known)
        others = [name for name in matches(bare, sorted(extra)) if name not in shown]
        shown = sorted(shown + others, key=lambda name: not name.startswith(bare)) if others else shown
        for name in shown[:MOST]:
            meta = self._meta(name) if name in self._session.names.indexed else extra.get(name, "")
            yield Completion(sign + name, -len(word), display_meta=meta or None)
        if "." in bare and not sign:
            yield from self._attributes(bare, set(shown))

    @property
    def _session(self) -> TapeSession:
        return self._interpreter.session

    def _meta(self, name: str) -> Callable[[], str]:
        """Shape, dtype and op, found when the line is shown."""

        def meta() -> str:
            value, ahead = self._index.value(name)
            if value is None:
                return ""
            made = value.op.name if value.op is not None else leaf_text(value)
            shown = f"{shape_text(value.shape)} {dtype_text(value.dtype)} · {made}"
            return f"not made yet; the last one: {shown}" if ahead else shown

        return meta

    def _places(self) -> dict[str, str]:
        operations = {name: f"{count} ops" for name, count in self._index.operations.items()}
        return self._index.defined() | operations | dict.fromkeys(self._index.modules, "module")

    def _variables(self) -> dict[str, str]:
        """Return the program's variables and the user's, by name and type; nothing is computed."""
        session = self._session
        where = session.where()
        found: dict[str, str] = {"grad": "grad(z1): the gradient", "mx": "module"}
        if where.scope is not None:
            found.update(_kinds(where.scope.variables))
            for step in where.scope.path():
                for name, thing in session.tape.bindings.variables(step, where.position).items():
                    found[name] = _kind(thing)
        found.update(_kinds(session.expressions.variables))
        return found

    # -- attributes ----------------------------------------------------------------------------------------

    def _attributes(self, path: str, known: set[str]) -> Iterator[Completion]:
        holder, _, word = path.rpartition(".")
        value = self._index.value(holder)[0]
        found, thing = (True, mx.array) if value is not None else self._resolve(holder)
        if not found:
            return
        names = sorted(name for name in attributes(thing) if not name.startswith("_") or word.startswith("_"))
        for name in matches(word, names):
            if f"{holder}.{name}" not in known:
                yield Completion(name, -len(word), display_meta=kind_of(thing, name) or None)

    def _resolve(self, path: str) -> tuple[bool, Any]:
        """Return the object at a dotted path, as far as plain look-ups reach it; no property is called."""
        first, *rest = path.split(".")
        thing = mx if first == "mx" else self._session.expressions.variable(first, self._session.where())
        if thing is None:
            return False, None
        for word in rest:
            thing = static(thing, word)
            if thing is None:
                return False, None
        return True, thing


def _kind(thing: Any) -> str:
    """Return of what type a variable's thing is, by what is kept of it."""
    if isinstance(thing, (Holder, Large)):
        return thing.kind.__name__
    return type(thing() if isinstance(thing, weakref.ref) else thing).__name__


def _kinds(variables: dict[str, Any]) -> dict[str, str]:
    return {name: type(thing).__name__ for name, thing in list(variables.items()) if not name.startswith("__")}


def attributes(thing: Any) -> set[str]:
    """Return the names after a dot, without asking the object itself (its `__dir__` may compute)."""
    if is_module(thing):
        return {str(key) for key in dict.keys(thing)} | set(dir(type(thing)))
    if isinstance(thing, (list, tuple)) and thing:
        return {str(at) for at in range(len(thing))} | set(dir(type(thing)))
    if inspect.ismodule(thing) or inspect.isclass(thing):
        return set(dir(thing))
    return set(dir(type(thing))) | set(_own(thing))


def _own(thing: Any) -> dict[str, Any]:
    try:
        own = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        return {}
    return own if isinstance(own, dict) else {}


def static(thing: Any, word: str) -> Any:
    """Return an attribute by plain look-up; None where it would have to be computed."""
    if is_module(thing) and dict.__contains__(thing, word):
        return dict.__getitem__(thing, word)
    if isinstance(thing, (list, tuple)) and word.isdigit() and int(word) < len(thing):
        return thing[int(word)]
    found = inspect.getattr_static(thing, word, None)
    return None if isinstance(found, property) or inspect.isdatadescriptor(found) else found


def kind_of(thing: Any, word: str) -> str:
    """Return what an attribute is, in a word."""
    found = inspect.getattr_static(thing, word, None) if not is_module(thing) else static(thing, word)
    if found is None:
        return ""
    return "method" if callable(found) and not inspect.isclass(found) else type(found).__name__


def _files(text: str) -> Iterator[Completion]:
    """Files and folders that begin so."""
    folder, begin = os.path.split(os.path.expanduser(text))
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries[:5000]:
        if entry.name.startswith(begin) and (begin or not entry.name.startswith(".")):
            yield Completion(entry.name + ("/" if entry.is_dir() else ""), -len(begin))
