"""Defines: what a program that has ended gives to whoever types on: its classes and functions, with signatures."""

from __future__ import annotations

import inspect
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from nnrepl.record.stack import is_module

SHOWN = 12
"""So many names are shown."""


def defined(namespace: dict[str, Any]) -> dict[str, Any]:
    """Return the classes and functions that a program defines itself, in its order; those that begin with `_` are its
    own."""
    main = namespace.get("__name__")
    return {
        name: thing
        for name, thing in namespace.items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == main
        and thing.__name__ == name
    }


def models(namespace: dict[str, Any]) -> list[str]:
    """Return the variables of a program that hold a model."""
    return [name for name, thing in namespace.items() if is_module(thing) and not name.startswith("_")]


def signature(name: str, thing: Any) -> str:
    """`Net(d_in=2, d_h=3, d_out=1)`, without annotations."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return f"{name}(...)"
    bare = [part.replace(annotation=inspect.Parameter.empty) for part in found.parameters.values()]
    short = str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return name + (short if len(short) <= 70 else "(...)")


def first_line(namespace: dict[str, Any]) -> str:
    """Return a line to begin with that runs as it stands; "" where none is known."""
    held = models(namespace)
    if held:
        return held[0]
    for name, thing in defined(namespace).items():
        if inspect.isclass(thing) and _is_model(thing) and not _needed(thing):
            return f"model = {name}()"
    return ""


def _is_model(thing: type) -> bool:
    return any(base.__module__ == "mlx.nn.layers.base" and base.__name__ == "Module" for base in thing.__mro__)


def _needed(thing: Any) -> list[str]:
    """Return the parameters without which it cannot be called."""
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return ["..."]
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [part.name for part in parameters if part.default is inspect.Parameter.empty and part.kind not in free]


def defines_view(namespace: dict[str, Any]) -> list[RenderableType]:
    """Return the names, with what each takes and the first line of what it says of itself; and a line to try."""
    found = defined(namespace)
    parts: list[RenderableType] = []
    if found:
        table = Table.grid(padding=(0, 2))
        for name, thing in list(found.items())[:SHOWN]:
            table.add_row(Text("  " + signature(name, thing), style="source"), Text(_about(thing), style="dim"))
        parts.append(table)
        if len(found) > SHOWN:
            parts.append(Text(f"  and {len(found) - SHOWN} more", style="dim"))
    line = first_line(namespace)
    text = Text("Type Python: what you type are the program's next lines", style="hint")
    text.append(f", such as  {line}" if line else "", style="hint")
    text.append("\ndebug LINE stops before the first op of a line; help python tells more", style="hint")
    parts.append(text)
    return parts


def _about(thing: Any) -> str:
    said = (thing.__doc__ or "").strip().splitlines()
    inherited = inspect.isclass(thing) and "__doc__" not in vars(thing)
    dataclass = said[:1] and said[0].startswith(f"{thing.__name__}(")
    return "" if not said or inherited or dataclass else said[0][:60]
