"""Containers: what a list, a dict or an object of the program's holds, read without asking it."""

from __future__ import annotations

from typing import Any


def entries_of(thing: Any) -> Any:
    """Return what a container holds: a dict or a sequence. Never asks the object itself."""
    if isinstance(thing, dict):
        return thing if type(thing) is dict else dict(dict.items(thing))
    return thing if isinstance(thing, (list, tuple)) else thing.__dict__


def view_of(thing: Any) -> Any:
    """Return the entries of a container without their keys, as they are at any moment."""
    if isinstance(thing, dict):
        return dict.values(thing)
    return thing if isinstance(thing, (list, tuple)) else thing.__dict__.values()
