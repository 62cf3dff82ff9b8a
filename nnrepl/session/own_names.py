"""Own names: what the prompt itself knows, where the program has no variable of that name."""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FrameType
from typing import Any

import mlx.core as mx

from nnrepl.classes import dataclass
from nnrepl.session.errors import Quit, UserError
from nnrepl.tape import Activation

OWN_NAMES = frozenset(("grad", "mx", "nn", "optim", "exit", "quit", "locals", "globals", "dir", "vars"))
"""A library's variable of that name does not hide it."""
GRADIENT = "__grad__"
"""What `grad` is called where the program has a variable of that name."""
_SHORT = {"nn": "nn", "optim": "optimizers"}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where Python at the prompt stands.

    Attributes:
        position: The cursor.
        scope: The function that stands there.
        frame: Its live frame, or that of the nearest caller that still runs; None if none does.
        ended: The variables of the program's `__main__`, where the program is over and one stands at its end: there a
            name is first of all what it is in them.
    """

    position: int
    scope: Activation | None
    frame: FrameType | None
    ended: dict[str, Any] | None = None


def own_name(
    name: str, where: Surroundings, gradient: Callable[[Any], mx.array], variables: Callable[[], dict[str, Any]]
) -> Any:
    """Return what a name means to the prompt; None if nothing.

    Args:
        gradient: Gives the gradient of the loss with respect to something.
        variables: Gives those of the function in which one stands.
    """
    if name in ("grad", GRADIENT):
        return GradientOf(gradient)
    if name == "mx":
        return mx
    if name in ("exit", "quit"):
        return _leave
    if name in _SHORT:
        return sys.modules.get(f"mlx.{_SHORT[name]}")
    if name in ("locals", "globals", "dir", "vars"):
        return partial(_of_frame, getattr(builtins, name), where, variables)
    return None


def _leave(*_: object) -> None:
    """`exit()`, as at any Python prompt."""
    raise Quit


class GradientOf:
    """`grad` at the prompt."""

    def __init__(self, gradient: Callable[[Any], mx.array]) -> None:
        self._gradient = gradient

    def __call__(self, of: Any = None, *more: Any, **named: Any) -> mx.array:
        if more or named:
            raise UserError("grad() takes one value of the tape, such as grad(z1) or grad(#3)")
        return self._gradient(of)

    def __repr__(self) -> str:
        return "grad(z1): the gradient of the loss with respect to z1"


def takes(thing: Any, call: ast.Call) -> bool:
    """Whether something can be called with such arguments, as far as its signature tells."""
    if not callable(thing):
        return False
    if any(isinstance(given, ast.Starred) for given in call.args) or any(given.arg is None for given in call.keywords):
        return True
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*call.args, **{str(given.arg): given for given in call.keywords})
    except TypeError:
        return False
    return True


def _of_frame(builtin: Any, where: Surroundings, held: Callable[[], dict[str, Any]], *things: Any) -> Any:
    """`locals()`, `globals()`, `dir()` and `vars()` of the function in which Python at the prompt stands."""
    if things:
        return builtin(*things)
    if builtin is globals:
        return {} if where.scope is None else dict(where.scope.variables)
    variables = held()
    return sorted(variables) if builtin is dir else variables


def walked(variables: Mapping[str, Any], words: Sequence[str]) -> Any:
    """Return what a path leads to that begins with a variable: `best.layers.0.weight`. Raises what Python raises."""
    thing = variables[words[0]]
    for word in words[1:]:
        in_list = isinstance(thing, (list, tuple)) and word.isdigit() and int(word) < len(thing)
        thing = thing[int(word)] if in_list else getattr(thing, word)
    return thing
