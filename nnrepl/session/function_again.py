"""Function again: a function of the program's that is gone, made again as it was at a position."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any, Protocol

from nnrepl.record.frame_variables import stands_in
from nnrepl.session.errors import NotYet, UserError
from nnrepl.tape import Activation
from nnrepl.tape.kept_function import KeptFunction, KeptTransform


class _Held(Protocol):
    """What a variable holds."""

    @property
    def thing(self) -> Any: ...


class _Frames(Protocol):
    """The variables of the calls on one tape."""

    def scope_at(self, position: int) -> Activation | None: ...

    def in_module(self, name: str, step: Activation, position: int) -> _Held | None: ...


def function_again(
    frames: _Frames,
    kept: KeptFunction | KeptTransform,
    position: int,
    name: str,
    again: Callable[[Any], Any],
    known: dict[Any, Any],
) -> Any:
    """Return a function of the same code, or a transform of one, its closure being what it was at a position.

    Args:
        again: Gives the object that stands for a kept thing.
        known: What has been made so far: it may hold itself.

    Raises:
        UserError: If what its closure held is not known: the function around it has returned by then.
    """
    if kept in known:
        return known[kept]
    if isinstance(kept, KeptTransform):
        known[kept] = kept.made(again)
        return known[kept]
    known[kept], cells = kept.made()
    for variable, cell in cells.items():
        around = _around(frames, kept.code, variable, position)
        if around is None and variable not in kept.cells:
            raise UserError(f"{name} was a function that no longer exists, nor does the function in which it was made")
        try:
            held = kept.cells[variable] if around is None else _held(frames, variable, around, position)
        except NotYet:
            continue  # as in Python, it is not set yet
        cell.cell_contents = again(held)
    known[kept].__defaults__ = tuple(map(again, kept.defaults)) or None
    known[kept].__kwdefaults__ = {word: again(part) for word, part in kept.keywords.items()} or None
    return known[kept]


def _around(frames: _Frames, code: CodeType, variable: str, position: int) -> Activation | None:
    """Return the call that leads to a position and around whose variable a function was made; None if it has ended."""
    scope = frames.scope_at(position)
    path = [] if scope is None else scope.path()
    return next((one for one in reversed(path) if variable in one.code.co_cellvars and stands_in(code, one.code)), None)


def _held(frames: _Frames, variable: str, around: Activation, position: int) -> Any:
    """Return what a variable of a call that runs holds. Raises NotYet or UserError where none knows."""
    held = frames.in_module(variable, around, position)
    if held is None:
        raise UserError(f"what {variable} held in {around.code.co_name} is not known")
    return held.thing
