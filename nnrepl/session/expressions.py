"""Expressions: Python at the prompt, in which the names of the tape mean what they are at the cursor."""

from __future__ import annotations

import ast
import builtins
import ctypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.record.opaque import set_random_state
from nnrepl.record.recorder import Recorder, current
from nnrepl.record.stack import is_module
from nnrepl.session.errors import Quit, UserError
from nnrepl.session.lookup import Lookup
from nnrepl.tape import Activation, Value
from nnrepl.tape.value import is_evaluated

_copy = mx.array.__copy__
_RANDOM_STATE: Any = mx.random.state

_TOKEN = re.compile(
    r"""(?P<string>[rbfuRBFU]{0,2}(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"))"""
    r"""|(?P<number>(?:(?<![\w.])(?:\d+|setup))?\#\d+(?:\.\d+)?)"""
    r"""|(?P<partial>∂L/∂)?(?<![\w.])(?P<path>[A-Za-z_]\w*(?:\.(?:[A-Za-z_]\w*|\d+))*)"""
    r"""(?P<version>@(?:(?:\d+|setup)?\#)?\d+\b)?""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where Python at the prompt stands.

    Attributes:
        position: The cursor.
        scope: The function that stands there.
        frame: Its live frame, or that of the nearest caller that still runs; None if none does.
    """

    position: int
    scope: Activation | None
    frame: FrameType | None


class Expressions:
    """Evaluates Python for the prompt. Nothing in it is recorded, and the random state stays as it is.

    Attributes:
        variables: What the person has assigned.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.variables: dict[str, Any] = {}
        self._values: dict[int, tuple[mx.array, Value]] = {}
        self._recorder: Recorder | None = None

    def value_of(self, array: Any) -> Value | None:
        """The value that an array stands for which was handed out in this evaluation."""
        found = self._values.get(id(array))
        return found[1] if found is not None else None

    def used(self) -> list[Value]:
        """The values that were handed out in the last evaluation."""
        return [value for _, value in self._values.values()]

    def behind(self, array: mx.array) -> list[Value]:
        """The values of the tape that a result was computed from in this evaluation: itself, or all that were
        handed out."""
        value = self.value_of(array)
        if value is not None:
            return [value]
        return [] if is_evaluated(array) else [value for _, value in self._values.values()]

    def evaluate(self, text: str, where: Surroundings) -> Any:
        """The result of a Python expression. Raises what Python raises, or UserError."""
        source, placeholders = self._translate(text, where)
        code = compile(source, "<prompt>", "eval", dont_inherit=True)
        with aside():
            return eval(code, self._namespace(source, placeholders, where))

    def compute(self, text: str, where: Surroundings, recorder: Recorder, **names: Any) -> Any:
        """The result of a Python expression whose ops are recorded: the new value of an edit. `names` stand for
        what the person did not write."""
        self._recorder = recorder
        try:
            source, placeholders = self._translate(text, where)
            placeholders.update(names)
            code = compile(source, "<prompt>", "eval", dont_inherit=True)
            with steady():
                return eval(code, self._namespace(source, placeholders, where))
        finally:
            self._recorder = None

    def execute(self, text: str, where: Surroundings) -> None:
        """Run Python statements. What they assign goes to the program's own variables where its function
        still runs, else to the person's."""
        source, placeholders = self._translate(text, where)
        code = compile(source, "<prompt>", "exec", dont_inherit=True)
        namespace = self._namespace(source, placeholders, where)
        before = dict(namespace)
        with aside():
            exec(code, namespace)
        changed = {
            name: thing
            for name, thing in namespace.items()
            if name not in before or (before[name] is not thing and name not in placeholders)
        }
        changed.pop("__builtins__", None)
        self._write_back(changed, where)

    def array_for(self, value: Value) -> mx.array:
        """A handle on a value that Python may do with what it likes."""
        array = _copy(value.array)
        self._values[id(array)] = (array, value)
        if self._recorder is not None:
            self._recorder.link(array, value)
        return array

    # -- names -------------------------------------------------------------------------------------------

    def _translate(self, text: str, where: Surroundings) -> tuple[str, dict[str, Any]]:
        """Replace what is not Python (`#12`, `z1@12`, `layers.0.weight`, `∂L/∂z1`) by placeholders."""
        self._values.clear()
        placeholders: dict[str, Any] = {}

        def put(value: Value) -> str:
            name = f"__value_{len(placeholders)}__"
            placeholders[name] = self.array_for(value)
            return name

        def replace(match: re.Match[str]) -> str:
            if match["string"]:
                return match[0]
            if match["number"]:
                return put(self.lookup.by_number(match["number"]))
            path, version = match["path"], match["version"] or ""
            if match["partial"]:
                inner = self.lookup.by_words(path + version, where.position)
                return put(self.lookup.gradient(inner, where.position))
            if version and self.lookup.names.versions(path):
                return put(self.lookup.version(path, version[1:]))
            return self._path(path, where, put) + version

        return _TOKEN.sub(replace, text), placeholders

    def _path(self, path: str, where: Surroundings, put: Any) -> str:
        """A dotted path whose beginning is a name of the tape; anything else stays Python."""
        words = path.split(".")
        if len(words) == 1:
            return path
        for count in range(len(words), 1, -1):
            name = self._tape_name(words[:count], where)
            if name is not None:
                value = self.lookup.find(name, where.position)
                if value is not None:
                    return ".".join([put(value), *words[count:]])
        if any(word.isdigit() for word in words):  # no Python either
            raise UserError(f"nothing on the tape is called {path}{self.lookup.suggest(path)}")
        return path

    def _tape_name(self, words: list[str], where: Surroundings) -> str | None:
        """`layers.0.weight`, `self.weight` or `model.layers.0.weight` as the tape calls it."""
        known = self.lookup.names.versions
        name = ".".join(words)
        if known(name):
            return name
        rest = ".".join(words[1:])
        if known(words[0]) or not rest:
            return None
        holder = self.variable(words[0], where)
        if words[0] == "self" and where.scope is not None and is_module(where.scope.owner):
            roots = [step.owner for step in where.scope.path() if is_module(step.owner)]
            prefix = {id(part): path for path, part in roots[0].named_modules()}.get(id(where.scope.owner), "")
            rest = f"{prefix}.{rest}" if prefix else rest
            return rest if known(rest) else None
        return rest if is_module(holder) and known(rest) else None

    def variable(self, name: str, where: Surroundings) -> Any:
        """A variable of the person's or of the program's; None if there is none."""
        if name in self.variables:
            return self.variables[name]
        if name == "self" and where.scope is not None and where.scope.owner is not None:
            return where.scope.owner
        for scope in self._program_scopes(where):
            if name in scope:
                return scope[name]
        return None

    def known(self, where: Surroundings) -> dict[str, Any]:
        """All variables that can be seen from a place: the user's, then the program's."""
        found: dict[str, Any] = {}
        for scope in (self.variables, *self._program_scopes(where)):
            for name, thing in scope.items():
                found.setdefault(name, thing)
        return found

    def _program_scopes(self, where: Surroundings) -> Iterator[dict[str, Any]]:
        if where.frame is not None:
            yield where.frame.f_locals
        if where.scope is not None:
            yield where.scope.variables
        if where.frame is not None:
            yield where.frame.f_globals

    def _namespace(self, source: str, placeholders: dict[str, Any], where: Surroundings) -> dict[str, Any]:
        """Everything the source names: the person's variables, the tape, the program, MLX, in this order."""
        namespace: dict[str, Any] = {"__builtins__": builtins, **placeholders}
        for name in _names(source):
            if name in namespace:
                continue
            if name in self.variables:
                namespace[name] = self.variables[name]
                continue
            value = None if name == "self" else self.lookup.find(name, where.position)
            if value is not None:
                namespace[name] = self.array_for(value)
            elif name == "grad":
                namespace[name] = _Grad(self, where)
            else:
                self._from_program(name, namespace, where)
        return namespace

    def _from_program(self, name: str, namespace: dict[str, Any], where: Surroundings) -> None:
        if name == "self" and where.scope is not None and where.scope.owner is not None:
            namespace[name] = where.scope.owner
            return
        for scope in self._program_scopes(where):
            if name in scope:
                namespace[name] = scope[name]
                return
        if name == "mx":
            namespace[name] = mx
        elif name in ("exit", "quit"):
            namespace[name] = _leave
        elif name in ("nn", "optim") and (module := sys.modules.get(f"mlx.{_SHORT[name]}")) is not None:
            namespace[name] = module

    def gradient(self, of: Any, where: Surroundings) -> mx.array:
        """`grad(z1)`: the gradient of the loss with respect to a value of the tape."""
        value = self.value_of(of)
        if value is None and isinstance(of, str):
            value = self.lookup.by_words(of, where.position)
        if value is None:
            raise UserError("grad() takes a value of the tape by its name, such as grad(z1) or grad(#3)")
        return self.array_for(self.lookup.gradient(value, where.position))

    def _write_back(self, changed: dict[str, Any], where: Surroundings) -> None:
        frame = where.frame
        at_end = where.position >= len(self.lookup.tape) - 1
        if frame is None or not at_end:
            self.variables.update(changed)
            return
        for name, thing in changed.items():
            if name in frame.f_locals:
                frame.f_locals[name] = thing
            else:
                self.variables[name] = thing
        if frame.f_locals is not frame.f_globals and sys.version_info < (3, 13):
            # Before 3.13 f_locals is a copy: hand it back to the frame, as pdb has it done.
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


def _leave(*_: object) -> None:
    """`exit()`, as at any Python prompt."""
    raise Quit


class _Grad:
    """`grad` at the prompt."""

    def __init__(self, expressions: Expressions, where: Surroundings) -> None:
        self._expressions = expressions
        self._where = where

    def __call__(self, of: Any = None) -> mx.array:
        return self._expressions.gradient(of, self._where)

    def __repr__(self) -> str:
        return "grad(z1): the gradient of the loss with respect to z1"


_SHORT = {"nn": "nn", "optim": "optimizers"}


def _names(source: str) -> set[str]:
    """Every variable that some Python refers to."""
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


@contextmanager
def aside() -> Iterator[None]:
    """While the prompt computes: nothing is recorded, and the random state does not move."""
    recorder = current()
    with steady(), nullcontext() if recorder is None else recorder.muted():
        yield


@contextmanager
def steady() -> Iterator[None]:
    """The random state is afterwards what it was before."""
    state = _RANDOM_STATE[0]
    try:
        yield
    finally:
        if _RANDOM_STATE[0] is not state:
            set_random_state(state)


def is_condition(text: str) -> bool:
    """Whether a text is a comparison, or several with `and`, `or`, `not`: no place on the tape is written so."""
    try:
        body = ast.parse(masked(text), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return isinstance(body, (ast.Compare, ast.BoolOp)) or (
        isinstance(body, ast.UnaryOp) and isinstance(body.op, ast.Not)
    )


def parts(text: str) -> list[str]:
    """The expressions in `a, b[0], f(x, y)`: what `print` shows one by one."""
    try:
        tree = ast.parse(masked(text), mode="eval")
    except SyntaxError:
        return [text]
    if isinstance(tree.body, ast.Tuple) and not text.lstrip().startswith("("):
        flat = masked(text).encode()
        return [cut(text, flat, node) for node in tree.body.elts]
    return [text]


def names_in(text: str) -> list[str]:
    """The names and dotted paths in an expression, those within strings left out."""
    return [match["path"] for match in _TOKEN.finditer(text) if match["path"]]


def masked(text: str) -> str:
    """The text with everything that is not Python replaced by names of the same length."""

    def mask(match: re.Match[str]) -> str:
        return match[0] if match["string"] else re.sub(r"[^\w]|^\d", "_", match[0])

    return _TOKEN.sub(mask, text)


def cut(text: str, flat: bytes, node: ast.expr) -> str:
    """The piece of a text that a node of its syntax tree stands for."""
    start = len(flat[: node.col_offset].decode())
    end = len(flat[: node.end_col_offset].decode()) if node.end_col_offset is not None else len(text)
    return text[start:end]
