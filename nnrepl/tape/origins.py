"""Places: the call of a function in which an op was made, and the piece of source it came from."""

from __future__ import annotations

from types import CodeType
from typing import Any

from nnrepl.classes import dataclass


class Activation:
    """One call of a Python function that was running when ops were recorded.

    Attributes:
        parent: The call that called it, None at the bottom of the program.
        code: The function's code object.
        lasti: The bytecode offset of the call in `parent`.
        owner: The `self` of a method where that is a Module or an Optimizer, else None.
        depth: How deep it lies.
        updating: Whether this is (inside) an optimizer's update.
        variables: The global variables that the function sees.
    """

    __slots__ = ("code", "depth", "lasti", "owner", "parent", "updating", "variables")

    def __init__(
        self,
        parent: Activation | None,
        code: CodeType,
        lasti: int,
        owner: Any,
        updating: bool = False,
        variables: dict[str, Any] | None = None,
    ) -> None:
        self.parent = parent
        self.code = code
        self.lasti = lasti
        self.owner = owner
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.updating = updating
        self.variables = variables if variables is not None else {}

    def within(self, other: Activation) -> bool:
        """Whether this call is `other` or was made, directly or not, from it."""
        scope: Activation | None = self
        while scope is not None and scope.depth > other.depth:
            scope = scope.parent
        return scope is other

    def path(self) -> list[Activation]:
        """Return the calls from the bottom of the program down to this one."""
        path: list[Activation] = []
        scope: Activation | None = self
        while scope is not None:
            path.append(scope)
            scope = scope.parent
        return path[::-1]


Entry = tuple[int, Activation, str, Any]
"""From which position on, in which call, which variable, what it holds."""


Bound = Entry | tuple["Bound", Entry]
"""Which variables were given a tensor: an entry, or what there was before and one more."""


@dataclass(frozen=True, slots=True)
class Source:
    """A piece of source: where an op stands in somebody's file.

    Attributes:
        file: The path of the file (or `<stdin>` and the like), "" where nothing is known.
        line: The first line of the segment, counted from 1; 0 where nothing is known.
        end_line: Its last line.
        column, end_column: Where it begins and ends, in characters; -1 where Python does not tell.
        text: The segment itself, "" where the source cannot be read.
        function: The qualified name of the function it stands in.
        cell: The number of the notebook cell, 0 elsewhere.
    """

    file: str
    line: int
    end_line: int
    column: int
    end_column: int
    text: str
    function: str
    cell: int = 0
