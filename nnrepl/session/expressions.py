"""Expressions: Python at the prompt, in which the names of the tape mean what they are at the cursor."""

from __future__ import annotations

import ast
import builtins
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import CodeType
from typing import Any, Protocol

import mlx.core as mx

from nnrepl.installed import is_library
from nnrepl.record.checked import checked
from nnrepl.record.containers import as_it_is
from nnrepl.record.frame_variables import namespace, set_variables
from nnrepl.record.quiet import set_random_state
from nnrepl.record.recorder import current
from nnrepl.record.stack import is_module
from nnrepl.session.enclosing import RESULT, enclosed
from nnrepl.session.errors import NotYet, UserError
from nnrepl.session.frames import Held, real
from nnrepl.session.lookup import Lookup
from nnrepl.session.own_names import GRADIENT, OWN_NAMES, Surroundings, own_name, takes, walked
from nnrepl.session.parsed import Mention, Parsed, Word, names_of, replaced
from nnrepl.tape import UNBOUND, Holder, Value
from nnrepl.tape.value import is_evaluated

__all__ = ["Expressions", "Surroundings", "aside", "instead_of"]

_copy = mx.array.__copy__
_RANDOM_STATE: Any = mx.random.state
Put = Callable[[Value], str]
"""Hands a value of the tape out, and tells under which name."""
Meant = tuple[str, tuple[str, ...]]
"""The placeholder for a name that is mentioned, and the attributes that are asked of it."""
NOTHING: Meant = ("", ())
"""What stays Python."""


class Linking(Protocol):
    """Takes an array as a handle on a value: a recorder."""

    def link(self, array: mx.array, value: Value) -> None: ...


class Expressions:
    """Evaluates Python for the prompt. Nothing in it is recorded, and the random state stays as it is.

    Attributes:
        variables: What the user has assigned.
        found: What the names in the last expression meant.
        shown: The last value that was shown (`_`); a tensor of the tape as its Value.
        numbers: Gives the array of a value; None: it is the value's own.
        witness: Who looks on while a line runs, among the variables that it got.
        assigned: What the last statement gave to variables that do not hold it yet.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.variables: dict[str, Any] = {}
        self.found: dict[str, Held] = {}
        self.shown: Any = UNBOUND
        self.numbers: Callable[[Value], mx.array] | None = None
        self.witness: Callable[[dict[str, Any]], AbstractContextManager[None]] = unwatched
        self.assigned: dict[str, Any] = {}
        self._given: list[Any] = []
        self._things: dict[str, Any] = {}
        self._values: dict[int, tuple[mx.array, Value]] = {}
        self._recorder: Linking | None = None

    def value_of(self, array: Any) -> Value | None:
        """Return the value that an array stands for which was handed out in this evaluation."""
        return self._values.get(id(array), (None, None))[1]

    def show(self, result: Any) -> None:
        """Note that a result is shown: `_` means it from now on."""
        self.shown = self.value_of(result) or result

    def used(self) -> list[Value]:
        """Return the values that were handed out in the last evaluation."""
        return [value for _, value in self._values.values()]

    def behind(self, array: mx.array) -> list[Value]:
        """Return the values of the tape that a result was computed from in this evaluation: itself, or all that were
        handed out."""
        if (value := self.value_of(array)) is not None:
            return [value]
        return [] if is_evaluated(array) else [value for _, value in self._values.values()]

    def evaluate(self, parsed: Parsed, where: Surroundings) -> Any:
        """Return the result of a Python expression. Raises what Python raises, or UserError."""
        code, namespace = self._ready(parsed, where)
        with aside(), checked(), self._as_it_was(where, namespace), self.witness(namespace):
            result = eval(code, namespace)
            return result if self._is_now(where) else as_it_is(result)  # what it holds is about to change

    def compute(self, parsed: Parsed, where: Surroundings, recorder: Linking, **names: Any) -> Any:
        """Return the result of a Python expression whose ops are recorded: the new value of an edit. `names` stand for
        what the user did not write."""
        self._recorder = recorder
        try:
            code, namespace = self._ready(parsed, where, names)
            with steady(), self._as_it_was(where, namespace), self.witness(namespace):
                return eval(code, namespace)
        finally:
            self._recorder = None

    def execute(self, parsed: Parsed, where: Surroundings) -> Any:
        """Run Python statements; returns what the last of several gives. What they assign goes to the program's own
        variables where its function still runs, else to the user's."""
        if parsed.error is not None:
            raise parsed.error
        meant, placeholders = self._translate(parsed, where)
        instead = instead_of(parsed, meant)
        tree, kept = enclosed(ast.Module([replaced(line, instead) for line in parsed.body], []))
        code = compile(tree, "<prompt>", "exec", dont_inherit=True)
        unknown: dict[str, UserError] = {}
        namespace = self._namespace(names_of(code), placeholders, where, parsed.bound, unknown)
        for name in kept - namespace.keys():
            namespace[name] = None
        before = dict(namespace)
        then = nullcontext() if self.witness is unwatched else self._as_it_was(where, namespace)
        with aside(), checked(), then, self.witness(namespace):
            try:
                exec(code, namespace)
            except NameError as error:
                raise unknown.get(error.name or "", error) from None
        changed = {
            name: thing
            for name, thing in namespace.items()
            if name not in before or (before[name] is not thing and name not in placeholders)
        }
        changed.pop("__builtins__", None)
        result = changed.pop(RESULT, None)
        self.assigned = changed
        if self.witness is unwatched:
            self.write_back(where)
        return result

    def _ready(
        self, parsed: Parsed, where: Surroundings, names: Mapping[str, Any] | None = None
    ) -> tuple[CodeType, dict[str, Any]]:
        """Return the code of an expression, and the variables that it sees. It is compiled once for all places where
        the same parts of it mean tensors of the tape."""
        body = parsed.only()
        meant, placeholders = self._translate(parsed, where)
        if meant not in parsed.codes:
            tree = ast.Expression(replaced(body, instead_of(parsed, meant)))
            code = compile(tree, "<prompt>", "eval", dont_inherit=True)
            parsed.codes[meant] = (code, names_of(code))
        code, used = parsed.codes[meant]
        return code, self._namespace(used, {**placeholders, **(names or {})}, where)

    def _as_it_was(self, where: Surroundings, seen: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Return what Python, given the variables `seen`, finds of the program as it was where the cursor stands; so it
        is where the program waits."""
        if self._is_now(where):
            return nullcontext()
        from nnrepl.session.callees import exchanges
        from nnrepl.session.then import then

        frames, at, scope = self.lookup.frames, where.position, where.scope if where.ended is None else None
        variables, reached = exchanges(frames, seen.values(), scope, at, partial(self._real, where=where))
        return then(frames, [*self._given, *reached], at, self.array_for, variables)

    def _is_now(self, where: Surroundings) -> bool:
        """Whether the cursor stands where the program waits, in lines of its own."""
        recorder = current()
        if recorder is not None and recorder.repeating:
            return False
        return where.frame is not None and where.position >= len(self.lookup.tape) - 1

    def array_for(self, value: Value) -> mx.array:
        """Return a handle on a value that Python may do with what it likes."""
        if value.held is None and value.refusal:
            raise UserError(value.refusal)
        array = _copy(value.array if self.numbers is None else self.numbers(value))
        self._values[id(array)] = (array, value)
        if self._recorder is not None:
            self._recorder.link(array, value)
        return array

    # -- names -------------------------------------------------------------------------------------------

    def _translate(self, parsed: Parsed, where: Surroundings) -> tuple[tuple[Meant, ...], dict[str, Any]]:
        """Return what stands for each name that is mentioned: placeholders for the words of the tape (`#12`, `z1@12`,
        `∂L/∂z1`) and for paths that begin with a tensor of it (`layers.0.weight`); and what they hold."""
        self._values.clear()
        self._given.clear()
        self._things.clear()
        self.found.clear()
        placeholders: dict[str, Any] = {}

        def put(value: Value) -> str:
            name = f"__value_{len(placeholders)}__"
            placeholders[name] = self.array_for(value)
            return name

        return tuple(self._meant(mention, parsed, where, put) for mention in parsed.mentions), placeholders

    def _meant(self, mention: Mention, parsed: Parsed, where: Surroundings, put: Put) -> Meant:
        """Return the placeholder for what is mentioned, and the attributes that are asked of it; "" for what stays
        Python."""
        word = mention.word
        if word is None:
            if mention.first in parsed.bound:
                return NOTHING
            call = parsed.gradient_calls.get(mention.node)
            if call is not None and self._is_gradient(call, where):
                return GRADIENT, ()
            return self._path(mention.path, where, put)
        if not isinstance(getattr(mention.node, "ctx", None), ast.Load):
            raise UserError(f"{word.text} can be changed alone: {word.text} = ...")
        if word.number:
            return put(self.lookup.by_number(word.number)), ()
        if word.partial:
            return self._gradient(word, where, put)
        if word.version or word.path.startswith("grad("):
            return put(self.lookup.by_words(word.text, where.position, where.scope)), ()
        return self._path(word.path, where, put)

    def _is_gradient(self, call: ast.Call, where: Surroundings) -> bool:
        """Whether `grad(z1)` asks for a gradient though there is a variable of that name: it takes no such call."""
        if "grad" in self.variables:
            return not takes(self.variables["grad"], call)
        try:
            found = self.lookup.frames.in_frames("grad", where.position, where.scope)
        except NotYet:
            return True
        thing = None if found is None else found.thing
        held = thing.refer() if isinstance(thing, Holder) else thing() if isinstance(thing, weakref.ref) else thing
        return not takes(held, call)

    def _gradient(self, word: Word, where: Surroundings, put: Put) -> Meant:
        """`∂L/∂z1`, and what is asked of it: `∂L/∂z1.sum`."""
        words = word.path.split(".")
        count = len(words)
        while count > 1 and not word.version and hasattr(mx.array, words[count - 1]):
            count -= 1
        of = self.lookup.by_words(".".join(words[:count]) + word.version, where.position, where.scope)
        return put(self.lookup.gradient(of, where.position)), tuple(words[count:])

    def _path(self, path: str, where: Surroundings, put: Put) -> Meant:
        """Return a dotted path that begins with a tensor of the tape; anything else stays Python."""
        words = path.split(".")
        if len(words) == 1 or words[0] in self.variables:
            return NOTHING
        digits = any(word.isdigit() for word in words)
        failed: UserError | None = None
        shorter: tuple[Value, int] | None = None
        lengths = range(len(words), 1, -1)
        for count, labels in [*((count, False) for count in lengths), *((count, True) for count in lengths)]:
            try:
                found = self.lookup.held(".".join(words[:count]), where.position, where.scope, labels=labels)
            except UserError as answer:
                failed = failed or answer
                continue
            thing = None if found is None else found.thing
            rest = words[count:]
            if isinstance(thing, Value):
                if not rest or hasattr(mx.array, rest[0]):
                    return put(thing), tuple(rest)
                if labels:
                    shorter = shorter or (thing, count)  # `first.weight` of `first.weight.m`, Adam's state
            elif found is not None and digits:
                return self._thing(self._real(thing, path, where), *rest)
        if shorter is not None:
            return put(shorter[0]), tuple(words[shorter[1] :])
        if failed is not None and where.ended is not None and words[0] in where.ended:
            return self._thing(walked(where.ended, words)) if digits else NOTHING  # set when no op came any more
        if digits or (failed is not None and self._unknown(words, where)):  # no Python either
            raise failed or UserError(f"nothing on the tape is called {path}{self.lookup.suggest(path)}")
        return NOTHING

    def _thing(self, thing: Any, *rest: str) -> Meant:
        name = f"__thing_{len(self._things)}__"
        self._things[name] = thing
        return name, rest

    def _unknown(self, words: list[str], where: Surroundings) -> bool:
        """Whether Python would not know what a path begins with, or a model on it has nothing of the next name."""
        try:
            found = self.lookup.held(words[0], where.position, where.scope)
        except UserError:
            return True
        if found is None:
            return not hasattr(builtins, words[0])
        thing = found.thing.refer() if isinstance(found.thing, Holder) else found.thing
        for word in words[1:]:
            missing = is_module(thing) and not hasattr(thing, word)
            thing = getattr(thing, word, None)
            if thing is None:
                return missing
        return False

    def is_tensor(self, name: str, where: Surroundings) -> bool:
        """Whether a word is the name of a tensor of the program's where the cursor stands."""
        if not name.isidentifier():
            return False
        try:
            found = self.lookup.frames.in_frames(name, where.position, where.scope)
        except NotYet as coming:
            return coming.last is not None or coming.maker is not None  # else it may become anything
        return found is not None and isinstance(found.thing, Value)

    def is_name(self, word: str, where: Surroundings) -> bool:
        """Whether the user, or a call of the program's that runs here, has a variable of that name."""
        if word in self.variables:
            return True
        try:
            return self.lookup.frames.in_frames(word, where.position, where.scope) is not None
        except NotYet:
            return True

    def variable(self, name: str, where: Surroundings) -> Any:
        """Return a variable of the user's or of the program's; None if there is none."""
        if name in self.variables:
            return self.variables[name]
        try:
            found = self.lookup.held(name, where.position, where.scope)
        except UserError:
            return None
        if found is None and name == "self" and where.scope is not None:
            return where.scope.owner
        return None if found is None else self._real(found.thing, name, where)

    def _real(self, thing: Any, name: str, where: Surroundings) -> Any:
        """Return the object that stands for what the tape knows of a variable."""
        self._given.append(thing)
        return real(self.lookup.frames, thing, where.position, name, self.array_for, self._is_now(where))

    def known(self, where: Surroundings) -> dict[str, Any]:
        """All variables that can be seen from a place: the user's, then the program's, from the innermost call
        outwards; tensors as Values."""
        found: dict[str, Any] = dict(self.variables)
        steps = where.scope.path()[::-1] if where.scope is not None else []
        for step in steps:
            for name, thing in self.lookup.tape.bindings.variables(step, where.position).items():
                if name not in found:
                    found[name] = thing() if isinstance(thing, weakref.ref) else thing
                    if isinstance(thing, Holder):
                        there = thing.refer()
                        found[name] = thing if there is None else there
        for step in steps:
            if step is where.scope or not is_library(step.code.co_filename):
                for name, thing in list(step.variables.items()):
                    found.setdefault(name, thing)
        return found

    def held(self, names: Iterable[str], where: Surroundings) -> dict[str, Any]:
        """Return what some names are that Python at the prompt knows."""
        self._things.clear()
        found = self._namespace(names, {}, where)
        return {name: thing for name, thing in found.items() if name != "__builtins__"}

    def _namespace(
        self,
        names: Iterable[str],
        placeholders: dict[str, Any],
        where: Surroundings,
        bound: Collection[str] = (),
        unknown: dict[str, UserError] | None = None,
    ) -> dict[str, Any]:
        """Return what some names are: the user's variables, the program's, MLX, in this order.

        Args:
            bound: Those to which the text gives a meaning itself: why one of them has none before is put in `unknown`.
        """
        namespace: dict[str, Any] = {"__builtins__": builtins, "__name__": "__main__", **self._things, **placeholders}
        for name in names:
            if name in namespace:
                continue
            if name in self.variables:
                namespace[name] = self.variables[name]
                continue
            if where.ended is not None and name in where.ended:
                namespace[name] = self._at_end(where.ended[name])
                continue
            if name == "_" and self.shown is not UNBOUND:
                namespace[name] = self._real(self.shown, name, where)
                continue
            try:
                found = self._held(name, where)
            except UserError as answer:
                if unknown is None or name not in bound:
                    raise
                unknown[name] = answer
                continue
            if found is not None:
                namespace[name] = self._real(found.thing, name, where)
                self.found[name] = found
            elif name == "self" and where.scope is not None and where.scope.owner is not None:
                namespace[name] = where.scope.owner
            else:
                own = own_name(name, where, partial(self.gradient, where=where), partial(self.locals_at, where))
                if own is not None:
                    namespace[name] = own
        return namespace

    def _held(self, name: str, where: Surroundings) -> Held | None:
        if name == GRADIENT:
            return None
        if name in OWN_NAMES or hasattr(builtins, name):  # only a variable of that name can hide it
            return self.lookup.frames.in_frames(name, where.position, where.scope)
        return self.lookup.held(name, where.position, where.scope)

    def _at_end(self, thing: Any) -> Any:
        """Return what a variable holds at the end of the program; a tensor as the value of the tape that it is."""
        recorder = current()
        value = recorder.live.get(id(thing)) if recorder is not None and isinstance(thing, mx.array) else None
        return thing if value is None else self.array_for(value)

    def locals_at(self, where: Surroundings) -> dict[str, Any]:
        """Return the variables of the function in which Python at the prompt stands, as they are there."""
        if where.scope is None:
            return {}
        held = self.lookup.tape.bindings.variables(where.scope, where.position)
        found: dict[str, Any] = {}
        for name, thing in held.items():
            try:
                found[name] = self._real(thing, name, where)
            except UserError:
                continue  # it no longer exists
        return found

    def gradient(self, of: Any, where: Surroundings) -> mx.array:
        """`grad(z1)`: the gradient of the loss with respect to a value of the tape."""
        value = self.value_of(of)
        if value is None and isinstance(of, str):
            value = self.lookup.by_words(of, where.position, where.scope)
        if value is None and isinstance(of, mx.array):
            value = self.lookup.lying(of, where.position, where.scope)
        if value is None:
            raise UserError("grad() takes a value of the tape by its name, such as grad(z1) or grad(#3)")
        return self.array_for(self.lookup.gradient(value, where.position))

    def write_back(self, where: Surroundings) -> None:
        """Give the variables that the last statement set what it gave them: the program's own where its function still
        runs, else the user's."""
        changed, self.assigned = self.assigned, {}
        frame = where.frame
        at_end = where.position >= len(self.lookup.tape) - 1
        if frame is None or not at_end:
            self.variables.update(changed)
            return
        own = {name: thing for name, thing in changed.items() if name in namespace(frame)}
        self.variables.update({name: thing for name, thing in changed.items() if name not in own})
        set_variables(frame, own)


def instead_of(parsed: Parsed, meant: tuple[Meant, ...]) -> dict[ast.AST, ast.expr]:
    """Return what takes the place of the names that are mentioned in a text."""
    instead: dict[ast.AST, ast.expr] = {}
    for mention, (name, rest) in zip(parsed.mentions, meant, strict=True):
        if name:
            made: ast.expr = ast.copy_location(ast.Name(name, ast.Load()), mention.node)
            for word in rest:
                made = ast.copy_location(ast.Attribute(made, word, ast.Load()), mention.node)
            instead[mention.node] = made
    return instead


@contextmanager
def aside() -> Iterator[None]:
    """While the prompt computes: nothing is recorded, and the random state does not move."""
    recorder = current()
    with steady(), nullcontext() if recorder is None else recorder.muted():
        yield


def unwatched(variables: dict[str, Any]) -> AbstractContextManager[None]:
    """Run a line with nobody looking on."""
    return nullcontext()


@contextmanager
def steady() -> Iterator[None]:
    """Put the random state back afterwards."""
    state = _RANDOM_STATE[0]
    try:
        yield
    finally:
        if _RANDOM_STATE[0] is not state:
            set_random_state(state)
