"""Kept function: a function that a variable held, noted so that it can be made again once nobody holds it any more.

What stands in a program's `main` ends with it: the `accuracy` of a training is gone as soon as a step is opened, for
which the program runs again. Its code is no state, its defaults are noted, and what the variables of its closure held
is known of the functions around it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any
from weakref import ref

from nnrepl.installed import is_library

Keep = Callable[[Any], Any]


class KeptFunction(ref[FunctionType]):
    """A weak reference to a function, and all that it takes to make it again.

    Attributes:
        code: Its code.
        variables: Its global variables.
        name: Its name, with those of the functions around it.
        defaults, keywords: Its defaults, as they are noted.
        cells: What the variables of its closure held when it was noted, by name; only of a library's function, which
            gives them nothing else. Those of the program's change: the functions around it know them.
    """

    __slots__ = ("cells", "code", "defaults", "keywords", "name", "variables")
    __eq__, __hash__ = object.__eq__, object.__hash__  # it is asked for when the function is gone, and that has no hash

    def __init__(self, function: FunctionType, forget: Callable[[Any], None]) -> None:
        super().__init__(function, forget)  # type: ignore[call-arg]
        self.code, self.variables, self.name = function.__code__, function.__globals__, function.__qualname__
        self.defaults: list[Any] = []
        self.keywords: dict[str, Any] = {}
        self.cells: dict[str, Any] = {}

    def note(self, function: FunctionType, keep: Keep) -> None:
        """Note its parts, once it is known itself: they may hold it."""
        self.defaults = [keep(part) for part in function.__defaults__ or ()]
        self.keywords = {name: keep(part) for name, part in (function.__kwdefaults__ or {}).items()}
        if is_library(self.code.co_filename):
            held = zip(self.code.co_freevars, function.__closure__ or ())
            self.cells = {name: keep(cell.cell_contents) for name, cell in held if cell != CellType()}

    @property
    def looks(self) -> FunctionType:
        """The function; once that is gone, one that looks like it, and cannot be called."""
        return self() or self.made()[0]

    def made(self) -> tuple[FunctionType, dict[str, CellType]]:
        """Return a function of the same code, without defaults, and the variables of its closure, to be given what they
        hold."""
        cells = {name: CellType() for name in self.code.co_freevars}
        function = FunctionType(self.code, self.variables, self.code.co_name, None, tuple(cells.values()))
        function.__qualname__ = self.name
        return function, cells


class KeptTransform(ref[Any]):
    """A weak reference to what one of MLX's transforms gave, and all that it takes to make it again.

    Attributes:
        function: What was transformed, as it is noted.
        args, options: What else the transform was given.
    """

    __slots__ = ("_kind", "_original", "args", "function", "options")
    __eq__, __hash__ = object.__eq__, object.__hash__

    def __init__(self, thing: Any, forget: Callable[[Any], None]) -> None:
        super().__init__(thing, forget)  # type: ignore[call-arg]
        self._kind, self._original = type(thing), thing.original
        self.function: Any = None
        self.args: list[Any] = []
        self.options: dict[str, Any] = {}

    def note(self, thing: Any, keep: Keep) -> None:
        """Note its parts, once it is known itself: they may hold it."""
        self.function, self.args = keep(thing.fun), [keep(part) for part in thing.args]
        self.options = {name: keep(part) for name, part in thing.kwargs.items()}

    def made(self, again: Keep) -> Any:
        """Return another that transforms the same.

        Args:
            again: Gives what a kept thing stands for.
        """
        options = {name: again(part) for name, part in self.options.items()}
        return self._kind(self._original, again(self.function), tuple(map(again, self.args)), options)


class KeptFunctions:
    """The functions that were noted and are alive."""

    def __init__(self) -> None:
        self._known: dict[int, KeptFunction | KeptTransform] = {}

    def keep(self, thing: Any, keep: Keep) -> KeptFunction | KeptTransform:
        """Return what is noted of a function, or of a transform of one: of each the same every time."""
        key, known = id(thing), self._known
        kept = known.get(key)
        if kept is None or kept() is not thing:
            kind: Any = KeptFunction if type(thing) is FunctionType else KeptTransform
            kept = known[key] = kind(thing, lambda _: known.pop(key, None))
            kept.note(thing, keep)
        return kept
