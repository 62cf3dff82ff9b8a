"""Stand-ins: what a loaded tape consists of. They look like what was recorded, and refuse to compute."""

from __future__ import annotations

import importlib
from typing import Any, cast

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.programs.savefile import is_harmless
from nnrepl.record import segments as sources
from nnrepl.record.names import ProgramNames
from nnrepl.session.errors import UserError
from nnrepl.tape import BackwardOp, Gradient, Leaf, Op, Tape, Value


class Damaged(Exception):
    """Something in a file does not hold together."""


def demand(holds: bool) -> None:
    """Raise Damaged unless something holds."""
    if not holds:
        raise Damaged


def as_text(said: Any, several_lines: bool = False) -> str:
    """Return a text without control codes."""
    demand(isinstance(said, str) and is_harmless(said, several_lines))
    return cast(str, said)


def as_number(said: Any, limit: int, least: int = 0) -> int:
    """Return a whole number from `least` to below `limit`."""
    demand(type(said) is int and least <= said < limit)
    return cast(int, said)


def as_word(said: Any) -> str:
    """Return the name of a class."""
    name = as_text(said)
    demand(name.isidentifier() and len(name) < 200)
    return name


def class_name(kind: type) -> str:
    """Return the name of a class; one that is made up for a class with an impossible name."""
    return kind.__name__ if kind.__name__.isidentifier() and len(kind.__name__) < 200 else "Unnamed"


class SavedNames(ProgramNames):
    """The names of a loaded tape, as they were when it was saved.

    Args:
        given: What each value is called.
        first: The tape that the new one shares what is noted with.

    Attributes:
        path: The file.
        modules: The path of the module that made an op.
        places: Stand-ins for array objects, by their id, with the leaf as which each came in.
    """

    def __init__(self, path: str, given: dict[Value, list[str]], first: Tape | None = None) -> None:
        super().__init__(first)
        self.path = path
        self.modules: dict[Op, str] = {}
        self.places: dict[int, tuple[mx.array, Value]] = {}
        self._given = given

    def leaf_of(self, array: Any) -> Value | None:
        """Return the leaf that an array object came in as."""
        known = self.places.get(id(array))
        return known[1] if known is not None and known[0] is array else None

    def module(self, op: Op) -> str:
        """Return the path of the module whose code made the op."""
        return self.modules.get(op, "")

    def all_names(self, value: Value) -> Any:
        """Everything that a value is called, its best name first."""
        known = self._given.get(value)
        return iter(known) if known is not None else super().all_names(value)

    def enter(self, name: str, versions: list[tuple[int, Value]]) -> None:
        """Note the values that answer to a name, with the position from which each does."""
        self._index[name] = versions

    def spellings(self) -> list[str]:
        """Return the names on the tape."""
        return self.known()

    def versions(self, name: str) -> list[tuple[int, Value]]:
        """Every value that answers to a name, as it was written down."""
        self._indexed = len(self.tape.ops)
        return super().versions(name)

    def _catch_up(self, end: int | None = None) -> None:
        """Note that the tape does not grow."""


class _Saved(Value):
    """A value whose numbers are in the file, or not."""

    __slots__ = ()

    @property
    def refusal(self) -> str:  # type: ignore[override]
        """Why its numbers cannot be had."""
        if self.held is not None:
            return ""
        return (
            f"this tape was loaded from {_path(self.tape)}: {self.name} was not saved (save FILE all keeps every value)"
        )

    @property
    def array(self) -> mx.array:
        """Its numbers. Raises UserError if they were not saved."""
        if self.held is None:
            raise UserError(self.refusal)
        return self.held

    @property
    def evaluated(self) -> bool:
        """Whether its numbers are in the file."""
        return self.held is not None


class SavedValue(_Saved):
    """The result of an op of a loaded tape."""

    __slots__ = ()


class SavedLeaf(_Saved, Leaf):
    """A leaf of a loaded tape."""

    __slots__ = ()

    def lie_on(self, tape: Tape) -> None:
        """Belong to a tape: the first on which it is met."""
        self._tape = tape


class SavedGradient(_Saved, Gradient):
    """A gradient on a loaded tape."""

    __slots__ = ()


def _no_computing(op: Op) -> str:
    return f"this tape was loaded from {_path(op.tape)}: {op.label} {op.name} cannot be computed again there"


def _refuse(op: Op, lookup: object = None) -> list[mx.array]:
    """Raise UserError: it cannot be computed again."""
    raise UserError(_no_computing(op))


class SavedOp(Op):
    """An op of a loaded tape: it cannot be computed again."""

    __slots__ = ()
    refusal = property(_no_computing)
    compute = _refuse


class SavedBackwardOp(BackwardOp):
    """An op of the backward pass of a loaded tape: it cannot be computed again."""

    __slots__ = ()
    refusal = property(_no_computing)
    compute = _refuse


def _path(tape: Tape) -> str:
    return cast(SavedNames, tape.names).path


def no_run(*args: object, **kwargs: object) -> Any:
    raise UserError("an op of a loaded tape cannot be computed again")


@dataclass(frozen=True, slots=True, eq=False)
class SavedCode:
    """Stands for a code object of the program that was saved: its names, and where the pieces of its source are."""

    co_filename: str
    co_name: str
    co_qualname: str
    co_firstlineno: int
    co_argcount: int
    co_kwonlyargcount: int
    co_varnames: tuple[str, ...]
    co_freevars: tuple[str, ...]
    co_names: tuple[str, ...]
    co_flags: int
    places: list[sources.Span]

    co_cellvars = ()
    co_consts = ()

    def co_positions(self) -> list[sources.Span]:
        """Return the piece of source of each (stand-in for an) instruction."""
        return self.places


class Shown:
    """An argument that is no tensor and no plain constant, as it was shown."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__


class SavedFunction(Shown):
    """A function or a class of the program's, as it was shown: it cannot be called."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.__name__ = name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Refuses. Raises UserError."""
        raise UserError(f"{self.__name__} cannot be called on a loaded tape: the file has no code that could run")


_PARTS, _SHOWN = "<parts>", "<shown>"


def owners(names: list[Any], roots: list[Any], rows: list[dict[str, Any]]) -> list[Any]:
    """Stands for the modules and optimizers of the program: empty ones of the same class names; modules know their
    paths."""
    if not names:
        return []
    module: Any = importlib.import_module("mlx.nn").Module
    base = type("SavedModule", (module,), {"named_modules": _named_modules, "__repr__": _repr})
    made = []
    for number, name in enumerate(names):
        row = rows[number] if rows else {}
        if row.get("optimizer") is True:
            kind: Any = importlib.import_module("mlx.optimizers").Optimizer
            owner: Any = object.__new__(type(as_word(name), (kind,), {}))
        else:
            # In its class: its own attributes are those that the program's module had at the op that is looked at.
            owner = type(as_word(name), (base,), {_PARTS: [], _SHOWN: as_text(row.get("shown", ""), True)})()
        made.append(owner)
    for root, parts in roots:
        owner = made[as_number(root, len(made))]
        vars(type(owner))[_PARTS].extend([(as_text(path), made[as_number(part, len(made))]) for part, path in parts])
    return made


def _named_modules(module: Any) -> Any:
    return list(vars(type(module))[_PARTS])


def _repr(module: Any) -> str:
    return vars(type(module))[_SHOWN] or f"{type(module).__name__}()"
